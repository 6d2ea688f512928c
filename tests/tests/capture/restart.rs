//! An agent that dies, comes back, is impersonated, is detached.

use crate::harness::{Agent, Client, Lab, outcomes};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::{fs, path::Path, time::Duration};

#[test]
fn with_the_agent_killed_governed_connects_are_refused_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    agent.kill()?;
    let start = std::time::Instant::now();
    for way in ["127.0.0.1", "127.9.8.7", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at(way)])?),
            ["refused"],
            "{way}"
        );
        assert_eq!(
            outcomes(&lab.client(&lab.outside(), &["dial", &lab.server.at(way)])?),
            ["direct"],
            "{way}"
        );
    }
    assert!(start.elapsed() < Duration::from_secs(5), "refusals take {:?}", start.elapsed());
    Ok(())
}

#[test]
fn an_agent_that_leaves_in_order_stays_closed() -> Result<()> {
    let lab = Lab::new()?;
    lab.agent()?.quit()?;
    assert!(lab.is_pinned());
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["refused"]);
    Ok(())
}

#[test]
fn nobody_else_binds_the_port_dead_or_alive() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let port = agent.port.to_string();
    for alive in [true, false] {
        if !alive {
            agent.kill()?;
        }
        for cgroup in [lab.inside(), lab.outside()] {
            let lines = lab.client(&cgroup, &["bind", &port])?;
            assert!(outcomes(&lines).iter().all(|outcome| *outcome == "EPERM"), "alive {alive}: {lines:?}");
        }
    }
    Ok(())
}

#[test]
fn an_impostor_in_the_agent_s_own_cgroup_gets_no_connection() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    agent.kill()?;
    // Root that moves itself there may bind, but its listener lacks the tag.
    let cgroup = lab.directory(&format!("/lockgate/agent-{}", lab.instance()));
    let address = format!("127.0.0.1:{}", agent.port);
    let impostor = Client::start(&cgroup, None, &["impersonate", &address])?;
    assert_eq!(impostor.line()?["outcome"], "bound");
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["refused"]);
    // And the agent does not share the port with it.
    let error = lab.agent().err().context("the port is taken")?;
    assert!(error.to_string().contains("port_taken"), "{error}");
    drop(impostor);
    let _agent = lab.agent()?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    Ok(())
}

#[test]
fn a_restarted_agent_adopts_the_pins_on_the_same_port() -> Result<()> {
    let lab = Lab::new()?;
    let mut first = lab.agent()?;
    assert_eq!(first.ready["adopted"], false);
    let port = first.port;
    first.kill()?;
    let mut second = lab.agent()?;
    assert_eq!(second.ready["adopted"], true);
    assert_eq!(second.port, port);
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    second.flow()?;
    assert_eq!(second.ask(json!({ "command": "health" }))?["whole"], 10);
    Ok(())
}

#[test]
fn a_second_agent_of_a_running_instance_is_refused_and_harms_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    let error = lab.agent().err().context("it must not start")?;
    assert!(error.to_string().contains("\"running\""), "{error}");
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    Ok(())
}

#[test]
fn kills_and_adoptions_under_load_let_nothing_through() -> Result<()> {
    const RESTARTS: usize = 5;
    const MILLIS: &str = "6000";
    let lab = Lab::new()?;
    let address = lab.server.at("127.0.0.1");
    let quiet = json!({ "quiet": true });
    let mut agent = lab.agent_with(quiet.clone())?;
    let mut loads = Vec::new();
    for _ in 0..3 {
        loads.push(Client::start(&lab.inside(), None, &["load", &address, MILLIS])?);
    }
    let mut control = Client::start(&lab.outside(), None, &["load", &address, MILLIS])?;
    for _ in 0..RESTARTS {
        std::thread::sleep(Duration::from_millis(300));
        agent.kill()?;
        // Long enough for refusals to be seen.
        std::thread::sleep(Duration::from_millis(100));
        agent = lab.agent_with(quiet.clone())?;
    }
    let (mut proxied, mut refused) = (0, 0);
    for load in &mut loads {
        let counts = load.finish()?.pop().context("counts")?;
        assert_eq!(counts.get("direct"), None, "{counts}");
        proxied += counts["proxy"].as_u64().unwrap_or(0);
        refused += counts["refused"].as_u64().unwrap_or(0);
    }
    // An emulated machine manages no more in this time.
    assert!(proxied > 10 && refused > 10, "{proxied} proxied, {refused} refused");
    let counts = control.finish()?.pop().context("counts")?;
    assert_eq!(counts.as_object().map(|counts| counts.len()), Some(1), "ungoverned: {counts}");
    assert!(counts["direct"].as_u64().is_some_and(|count| count > 10), "ungoverned: {counts}");
    Ok(())
}

#[test]
fn a_removed_pin_comes_back_while_the_agent_lives() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let pins = agent.ready["pins"].as_str().context("pins")?.to_owned();
    let link = Path::new(&pins).join("links/lg_connect4");
    fs::remove_file(&link)?;
    // Either this call or the watch thread puts it back.
    assert_eq!(agent.ask(json!({ "command": "health" }))?["whole"], 10);
    assert!(link.exists());
    agent.kill()?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["refused"]);
    Ok(())
}

#[test]
fn an_incompatible_abi_is_refused_and_stays_closed() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    agent.kill()?;
    let cfg = Path::new(agent.ready["pins"].as_str().context("pins")?).join("maps/CFG");
    // An older build's, which an upgrade meets, and a newer one's.
    for abi in [2, 999] {
        set_abi(&cfg, abi)?;
        let error = lab.agent().err().context("it must not start")?.to_string();
        for part in ["incompatible_pins", &format!("ABI {abi}"), "run `lockgate agent --detach`"] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?),
            ["refused"]
        );
    }
    // What the error says to do, does it.
    assert!(lockgate_intercept::detach(&lockgate_intercept::Instance::new(lab.instance())?, None)?);
    let _agent = lab.agent()?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    Ok(())
}

/// Writes the first word of the pinned configuration, as another build would have.
fn set_abi(cfg: &Path, abi: u32) -> Result<()> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_capture_agent"))
        .args(["set-abi", cfg.to_str().context("a path")?, &abi.to_string()])
        .output()?;
    anyhow::ensure!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn detaching_leaves_nothing_and_everything_is_direct_again() -> Result<()> {
    let lab = Lab::new()?;
    for alive in [true, false] {
        let mut agent = lab.agent()?;
        assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
        if !alive {
            agent.kill()?;
        }
        let instance = lockgate_intercept::Instance::new(lab.instance())?;
        assert!(lockgate_intercept::detach(&instance, None)?);
        assert!(!lab.is_pinned());
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?),
            ["direct"],
            "alive {alive}"
        );
        let port = agent.port.to_string();
        if alive {
            let health = agent.ask(json!({ "command": "health" }))?;
            assert_eq!(health["detached"].as_array().map(Vec::len), Some(10), "{health}");
            assert!(!lab.is_pinned(), "a detached link must not be pinned again");
        } else {
            let lines = lab.client(&lab.outside(), &["bind", &port])?;
            assert_eq!(lines[0]["outcome"], "bound", "{lines:?}");
            assert!(!lab.directory(&format!("/lockgate/agent-{}", lab.instance())).exists());
        }
        drop(agent);
        assert!(!lockgate_intercept::detach(&instance, None)?, "twice is nothing to do");
    }
    Ok(())
}

#[test]
fn the_port_of_another_instance_is_not_taken_even_while_its_agent_is_away() -> Result<()> {
    let lab = Lab::new()?;
    let other = Lab::new()?;
    let mut first = lab.agent()?;
    let asked = json!({ "port": first.port });
    for alive in [true, false] {
        if !alive {
            first.kill()?;
        }
        let error = other.agent_with(asked.clone()).err().context("the port is not free")?;
        assert!(error.to_string().contains("port_taken"), "alive {alive}: {error}");
        assert!(!other.is_pinned(), "a failed first attachment leaves no pins");
    }
    Ok(())
}

#[test]
fn two_instances_that_govern_the_same_processes_do_not_disturb_each_other() -> Result<()> {
    let lab = Lab::new()?;
    let other = Lab::new()?;
    let first = lab.agent()?;
    let request = json!({
        "instance": other.instance(),
        "cgroups": [lab.governed()],
        "targets": [lab.target(), other.target()],
    });
    let second = Agent::start(&request)?;
    // The instance that was attached first sees the real destination; the second one sees a connection to the first one's listener.
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    first.flow()?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &other.server.at("127.0.0.1")])?), ["proxy"]);
    let flow = second.flow()?;
    assert_eq!(flow["flow"]["original_dst"], other.server.at("127.0.0.1").as_str());
    Ok(())
}
