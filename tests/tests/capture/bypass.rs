//! Ways around capture that were measured, each with what it meets now.

use crate::harness::{Agent, Lab, Namespace, PATIENCE, outcomes};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

#[test]
fn a_socket_made_before_joining_is_redirected() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    for way in ["127.0.0.1", "::1"] {
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["early-socket", &lab.server.at(way)])?),
            ["proxy"],
            "{way}"
        );
    }
    Ok(())
}

#[test]
fn a_socket_made_inside_is_redirected_when_connected_from_outside() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    let outside = lab.outside();
    let outside = outside.to_str().context("a path")?;
    for scenario in ["socket-for-child", "moved-out"] {
        let lines = lab.client(&lab.inside(), &[scenario, &lab.server.at("127.0.0.1"), outside])?;
        assert_eq!(outcomes(&lines), ["proxy"], "{scenario}");
        let process = agent.flow()?["flow"]["process"].clone();
        let told = process["creator_tgid"].as_u64().unwrap_or(0);
        // The child that connected is told apart from the governed process that made the socket.
        assert_eq!(
            told != 0 && process["creator_tgid"] != process["tgid"],
            scenario == "socket-for-child",
            "{process}"
        );
    }
    Ok(())
}

#[test]
fn a_disconnected_socket_does_not_carry_its_attribution_to_the_proxy() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    for (target, proxy) in [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")] {
        let proxy = format!("{proxy}:{}", agent.port);
        let lines = lab.client(&lab.inside(), &["stale", &lab.server.at(target), &proxy])?;
        assert_eq!(outcomes(&lines), ["proxy", "EPERM"], "{target}");
    }
    assert_eq!(agent.counter("attributed")?, 2);
    Ok(())
}

#[test]
fn nobody_governed_dials_the_proxy_and_others_are_not_served() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let port = agent.port;
    for address in [
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &address])?), ["EPERM"], "{address}");
    }
    let lines = lab.client(&lab.outside(), &["dial", &format!("127.0.0.1:{port}")])?;
    assert_ne!(outcomes(&lines), ["proxy"]);
    agent.next("unattributed")?;
    assert_eq!(agent.counter("unattributed")?, 1);
    Ok(())
}

#[test]
fn a_dial_by_hand_from_a_governed_source_port_inherits_nothing() -> Result<()> {
    const SOURCE: &str = "9431";
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    assert_eq!(
        outcomes(&lab.client(&lab.inside(), &["from-port", &lab.server.at("127.0.0.1"), SOURCE])?),
        ["proxy"]
    );
    let proxy = format!("127.0.0.1:{}", agent.port);
    let lines = lab.client(&lab.outside(), &["from-port", &proxy, SOURCE])?;
    assert_ne!(outcomes(&lines), ["proxy"]);
    assert_eq!(agent.counter("attributed")?, 1);
    Ok(())
}

#[test]
fn a_dial_by_hand_does_not_inherit_a_handshake_that_never_ended() -> Result<()> {
    const SOURCE: &str = "9432";
    let lab = Lab::new()?;
    let namespace = Namespace::new("true")?;
    let mut request = lab.request();
    request["targets"] = json!(["198.51.100.0/24:5432"]);
    let mut agent = Agent::start_in(&namespace, &request)?;
    // Every packet is too long for this queue: the governed SYN is lost after the kernel side recorded it.
    namespace.run("tc qdisc add dev lo root tbf rate 8bit burst 10b limit 10b")?;
    let mut lost = namespace.start_client(&lab.inside(), &["from-port", "198.51.100.1:5432", SOURCE])?;
    let start = std::time::Instant::now();
    while agent.counter("redirected")? == 0 {
        anyhow::ensure!(start.elapsed() < PATIENCE, "the governed connect() was not redirected");
    }
    // The SYN follows the redirection inside the same system call; its retransmission comes a second later.
    std::thread::sleep(std::time::Duration::from_millis(100));
    lost.kill();
    namespace.run("tc qdisc del dev lo root")?;
    let proxy = format!("127.0.0.1:{}", agent.port);
    let line = namespace.client(&lab.outside(), &["from-port", &proxy, SOURCE])?;
    assert_ne!(line["outcome"], "proxy", "{line}");
    agent.next("unattributed")?;
    assert_eq!(agent.counter("attributed")?, 0);
    Ok(())
}

#[test]
fn data_in_the_syn_is_redirected_and_attributed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    for way in ["127.0.0.1", "::1"] {
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["fast-open", &lab.server.at(way)])?),
            ["proxy"],
            "{way}"
        );
        agent.flow()?;
    }
    Ok(())
}

#[test]
fn governed_processes_make_tcp_and_udp_sockets_only() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    for line in lab.client(&lab.inside(), &["sockets"])? {
        let expected = match line["kind"].as_str() {
            Some("tcp" | "udp") => "made",
            _ => "EPROTONOSUPPORT",
        };
        assert_eq!(line["outcome"], expected, "{line}");
    }
    let outside = lab.client(&lab.outside(), &["sockets"])?;
    let raw: Vec<&Value> = outside.iter().filter(|line| line["kind"] == "raw-tcp").collect();
    assert!(raw.iter().all(|line| line["outcome"] == "made"), "{raw:?}");
    Ok(())
}

#[test]
fn datagrams_to_a_protected_service_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    let other = Lab::new()?;
    let _agent = lab.agent()?;
    for way in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "0.0.0.0"] {
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["udp", &lab.server.at(way)])?),
            ["EPERM", "EPERM"],
            "{way}"
        );
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["udp", &other.server.at(way)])?),
            ["sent", "sent"],
            "{way}"
        );
        assert_eq!(
            outcomes(&lab.client(&lab.outside(), &["udp", &lab.server.at(way)])?),
            ["sent", "sent"],
            "{way}"
        );
    }
    Ok(())
}

#[test]
fn another_network_namespace_is_never_direct() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    let address = lab.server.at("127.0.0.1");
    let elsewhere = Namespace::new("true")?;
    // The first connect can be faster than the listener; then it is refused.
    for _ in 0..3 {
        let line = elsewhere.client(&lab.inside(), &["dial", &address])?;
        assert!(line["outcome"] == "refused" || line["outcome"] == "proxy", "{line}");
    }
    Ok(())
}
