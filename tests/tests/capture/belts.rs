//! The layers beside the socket hooks, each with what it stops and with what passes once it is taken away.
//!
//! Runs with and without BPF LSM; what only that stops is in `tests/guest`.

use crate::harness::{Echo, Evader, Hook, Lab};
use anyhow::Result;
use serde_json::json;

#[test]
fn a_raw_socket_from_before_the_agent_reaches_no_protected_service() -> Result<()> {
    let lab = Lab::new()?;
    let address = lab.server.at("127.0.0.1");
    let mut receiver = Evader::start(&lab.outside())?;
    assert_eq!(receiver.act(&format!("udp-listen {address}"))?, "done");
    let mut job = Evader::start(&lab.inside())?;
    assert_eq!(job.act("socket 2 3 255")?, "done");
    assert_eq!(job.act(&format!("raw-send {address}"))?, "done");
    assert_eq!(receiver.act("hear")?, "by hand", "without an agent it arrives");
    let mut agent = lab.agent()?;
    job.act(&format!("raw-send {address}"))?;
    assert_eq!(receiver.act("hear")?, "timed out");
    let told = agent.next("refused")?;
    assert_eq!(told["reason"], if agent.has("lsm") { "foreign_socket" } else { "packet" }, "{told}");
    assert_eq!(
        told["destination"].as_str().is_some_and(|to| to.ends_with(&lab.server.port.to_string())),
        !agent.has("lsm")
    );
    // A dead agent changes nothing, and the packet filter stops it without LSM too.
    lab.take_away(&mut agent, &[Hook::Lsm])?;
    job.act(&format!("raw-send {address}"))?;
    assert_eq!(receiver.act("hear")?, "timed out");
    lab.detach(Hook::Packet)?;
    assert_eq!(job.act(&format!("raw-send {address}"))?, "done");
    assert_eq!(receiver.act("hear")?, "by hand", "nothing but these hooks stops it");
    Ok(())
}

#[test]
fn a_packet_filter_that_is_taken_away_comes_back_and_leaves_with_its_cgroup() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    lab.detach(Hook::Packet)?;
    let told = agent.next("hook_lost")?;
    assert!(told["what"].as_str().is_some_and(|what| what.contains("packet filter")), "{told}");
    assert_eq!(told["repaired"], true);
    lab.detach(Hook::Packet)?;
    agent.next("hook_lost")?;
    drop(agent);
    // Governed by a user only: nothing is filtered, and that is said.
    let agent = lab.agent_with(json!({ "cgroups": [], "uids": [61_311] }))?;
    assert!(!agent.has("packet"), "{}", agent.ready["layers"]);
    assert!(lab.detach(Hook::Packet).is_err(), "the filter of a cgroup that is no longer governed is gone");
    Ok(())
}

#[test]
fn connections_from_before_the_agent_are_cut_and_counted() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let (mut job, mut other) = (Evader::start(&lab.inside())?, Evader::start(&lab.outside())?);
    for evader in [&mut job, &mut other] {
        assert_eq!(evader.act(&format!("connect {}", echo.address()))?, "done");
        assert_eq!(evader.act("say")?, "ping");
    }
    let mut agent = lab.agent_with(json!({ "targets": [echo.target()] }))?;
    let told = agent.next("bypass")?;
    assert_eq!(told["pid"].to_string(), job.act("pid")?);
    assert_eq!((&told["cut"], &told["protocol"]), (&json!(true), &json!("tcp")));
    assert_ne!(job.act("say")?, "ping");
    assert_eq!(other.act("say")?, "ping", "nobody else is cut off");
    assert_eq!(agent.ask(json!({ "command": "bypassed" }))?, 1);
    Ok(())
}

#[test]
fn a_connection_that_is_brought_in_is_cut_while_the_agent_lives() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let mut agent = lab.agent_with(json!({ "targets": [echo.target()] }))?;
    let connected = || -> Result<Evader> {
        let mut evader = Evader::start(&lab.outside())?;
        assert_eq!(evader.act(&format!("connect {}", echo.address()))?, "done");
        assert_eq!(evader.act("say")?, "ping");
        Ok(evader)
    };
    let join = format!("join {}", lab.inside().display());
    let mut job = connected()?;
    assert_eq!(job.act(&join)?, "done");
    if agent.has("lsm") {
        assert_eq!(job.act("say")?, "EPERM");
    }
    agent.next("bypass")?;
    assert_ne!(job.act("say")?, "ping");
    // UDP: connected elsewhere.
    let mut job = Evader::start(&lab.outside())?;
    assert_eq!(job.act(&format!("udp-connect {}", echo.address()))?, "done");
    assert_eq!(job.act(&join)?, "done");
    assert_eq!(agent.next("bypass")?["protocol"], "udp");
    assert_ne!(job.act("udp-say")?, "done");
    // With neither a living agent nor LSM nothing stops it: the degraded mode says so.
    let mut job = connected()?;
    lab.take_away(&mut agent, &[Hook::Lsm])?;
    assert_eq!(job.act(&join)?, "done");
    assert_eq!(job.act("say")?, "ping");
    Ok(())
}

#[test]
fn each_socket_hook_is_what_stops_its_technique() -> Result<()> {
    let address = |lab: &Lab| lab.server.at("127.0.0.1");
    type Attempt = fn(&mut Evader, &str) -> Result<String>;
    let cases: [(&str, &[Hook<'_>], Attempt, &str, &str); 4] = [
        (
            "connect",
            &[Hook::Socket("lg_connect4"), Hook::Packet, Hook::Lsm],
            |job, to| job.act(&format!("dial {to}")),
            "refused",
            "connected",
        ),
        (
            "UDP sendto",
            &[Hook::Socket("lg_sendmsg4"), Hook::Socket("lg_connect4"), Hook::Packet, Hook::Lsm],
            |job, to| {
                job.act(&format!("udp-connect {to}"))
                    .and_then(|made| if made == "done" { job.act("udp-say") } else { Ok(made) })
            },
            "EPERM",
            "done",
        ),
        (
            "raw socket",
            &[Hook::Socket("lg_sock_create")],
            |job, _| job.act("socket 2 3 255"),
            "EPROTONOSUPPORT",
            "done",
        ),
        (
            "UDP-Lite",
            &[Hook::Socket("lg_sock_create")],
            |job, _| job.act("socket 2 2 136"),
            "EPROTONOSUPPORT",
            "done",
        ),
    ];
    for (name, hooks, attempt, stopped, passes) in cases {
        let lab = Lab::new()?;
        let mut agent = lab.agent()?;
        let mut job = Evader::start(&lab.inside())?;
        agent.kill()?;
        assert_eq!(attempt(&mut job, &address(&lab))?, stopped, "{name}");
        hooks.iter().try_for_each(|hook| lab.detach(*hook))?;
        assert_eq!(attempt(&mut job, &address(&lab))?, passes, "{name}, without its hook");
    }
    Ok(())
}
