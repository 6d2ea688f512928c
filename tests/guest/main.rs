//! What only BPF LSM stops, and the protocols that few kernels have: run in a guest by `cargo xtask e2e --kernel 6.12`.
//!
//! Each technique is tried with its hook and once more without it, so that none passes by accident.

#[path = "../tests/capture/harness.rs"]
#[allow(dead_code, reason = "the capture suite uses what these tests do not")]
mod harness;

use anyhow::{Context as _, Result, ensure};
use harness::{Agent, Echo, Evader, Hook, Lab};
use serde_json::json;

/// Without this layer nothing here shows anything.
fn with_lsm(lab: &Lab, echo: &Echo) -> Result<Agent> {
    let agent = lab.agent_with(json!({ "targets": [echo.target()] }))?;
    ensure!(agent.has("lsm"), "no BPF LSM: {}", agent.ready["layers"]);
    Ok(agent)
}

#[test]
fn every_layer_that_needs_no_configuration_is_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    for layer in ["socket", "packet", "lsm", "sweep"] {
        assert!(agent.has(layer), "{layer}: {}", agent.ready["layers"]);
    }
    let open = agent.ready["layers"].as_array().into_iter().flatten().find(|state| state["active"] == false);
    let open = open.context("no interface is guarded")?;
    assert_eq!(open["layer"], "interface");
    // It is an option, and what it alone stops takes somebody outside, or root on the node.
    let left: Vec<&str> =
        open["open"].as_array().into_iter().flatten().filter_map(|what| what.as_str()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(
        left[0].starts_with("leaving the governed cgroup") && left[1].starts_with("somebody outside"),
        "{left:?}"
    );
    Ok(())
}

#[test]
fn families_that_no_socket_hook_sees_cannot_be_opened() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let mut agent = with_lsm(&lab, &echo)?;
    let mut job = Evader::start(&lab.inside())?;
    let mut outside = Evader::start(&lab.outside())?;
    let mut families = vec![("AF_PACKET", "17 3 0"), ("AF_XDP", "44 3 0"), ("AF_VSOCK", "40 1 0")];
    // Debian builds it up to 6.12.
    if outside.act("socket 43 1 0")? == "done" {
        families.push(("AF_SMC", "43 1 0"));
    }
    println!("families: {families:?}");
    for (name, socket) in &families {
        assert_eq!(job.act(&format!("socket {socket}"))?, "EPROTONOSUPPORT", "{name}");
        assert_eq!(outside.act(&format!("socket {socket}"))?, "done", "{name}, ungoverned");
    }
    assert_eq!(agent.next("refused")?["reason"], "socket_type");
    for (name, socket) in [("AF_UNIX", "1 1 0"), ("AF_NETLINK", "16 3 0"), ("TCP", "2 1 6")] {
        assert_eq!(job.act(&format!("socket {socket}"))?, "done", "{name}");
    }
    // Also when the agent is dead; and only because of LSM.
    lab.take_away(&mut agent, &[])?;
    assert_eq!(job.act("socket 17 3 0")?, "EPROTONOSUPPORT");
    lab.detach(Hook::Lsm)?;
    for (name, socket) in families {
        assert_eq!(job.act(&format!("socket {socket}"))?, "done", "{name}, without its hook");
    }
    Ok(())
}

#[test]
fn stream_protocols_beside_tcp_cannot_be_opened() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let mut job = Evader::start(&lab.inside())?;
    let mut outside = Evader::start(&lab.outside())?;
    let sockets = [
        ("SCTP", "2 1 132"),
        ("SCTP over IPv6", "10 1 132"),
        ("SCTP, many peers", "2 5 132"),
        ("DCCP", "2 6 33"),
        ("DCCP over IPv6", "10 6 33"),
        ("MPTCP", "2 1 262"),
        ("IPPROTO_SMC", "2 1 256"),
    ];
    let mut made = Vec::new();
    for (name, socket) in sockets {
        let refused = job.act(&format!("socket {socket}"))?;
        if outside.act(&format!("socket {socket}"))? == "done" {
            assert_eq!(refused, "EPROTONOSUPPORT", "{name}");
            made.push((name, socket));
        } else {
            // The kernel says no before anybody is asked.
            assert_ne!(refused, "done", "{name}");
        }
    }
    // DCCP left the kernel in 6.16 and IPPROTO_SMC came with 6.11; SCTP and MPTCP are everywhere.
    let has = |wanted: &str| made.iter().any(|(name, _)| *name == wanted);
    assert!(made.len() >= 4 && has("SCTP") && has("MPTCP"), "{made:?}");
    println!("made outside: {made:?}");
    lab.take_away(&mut agent, &[Hook::Socket("lg_sock_create")])?;
    for (name, socket) in made {
        assert_eq!(job.act(&format!("socket {socket}"))?, "done", "{name}, without its hook");
    }
    Ok(())
}

#[test]
fn a_connection_made_elsewhere_is_neither_received_nor_stolen() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let mut agent = with_lsm(&lab, &echo)?;
    let directory = tempfile::tempdir()?;
    let mut accomplice = Evader::start(&lab.outside())?;
    let mut attempt = |name: &str| -> Result<(String, String)> {
        assert_eq!(accomplice.act(&format!("connect {}", echo.address()))?, "done");
        let path = directory.path().join(name);
        accomplice.begin(&format!("pass {}", path.display()))?;
        assert_eq!(accomplice.outcome()?, "waiting");
        let mut job = Evader::start(&lab.inside())?;
        let taken = job.act(&format!("take {}", path.display()))?;
        accomplice.outcome()?;
        let said = if taken == "done" { job.act("say")? } else { String::new() };
        let (pid, descriptor) = (accomplice.act("pid")?, accomplice.act("descriptor")?);
        let mut thief = Evader::start(&lab.inside())?;
        let stolen = thief.act(&format!("steal {pid} {descriptor}"))?;
        Ok((format!("{taken} {said}").trim().to_owned(), stolen))
    };
    assert_eq!(attempt("with")?, ("nothing came".to_owned(), "EPERM".to_owned()));
    assert_eq!(agent.next("refused")?["reason"], "foreign_socket");
    lab.take_away(&mut agent, &[Hook::Lsm])?;
    assert_eq!(attempt("without")?, ("done ping".to_owned(), "done".to_owned()));
    Ok(())
}

#[test]
fn what_was_opened_elsewhere_and_inherited_sends_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let mut agent = with_lsm(&lab, &echo)?;
    let join = format!("join {}", lab.inside().display());
    let frame = format!("packet-send lo 00:00:00:00:00:00 127.0.0.1 {}", echo.address());
    let raw = format!("raw-send {}", echo.address());
    let cases: [(&str, &str, &str); 3] = [
        ("a connection", "", "say"),
        ("AF_PACKET", "socket 17 3 0", &frame),
        ("a raw socket", "socket 2 3 255", &raw),
    ];
    let mut jobs = Vec::new();
    for (name, open, send) in cases {
        let mut job = Evader::start(&lab.outside())?;
        let connect = format!("connect {}", echo.address());
        assert_eq!(job.act(if open.is_empty() { &connect } else { open })?, "done", "{name}");
        assert_eq!(job.act(&join)?, "done");
        assert_eq!(job.act(send)?, "EPERM", "{name}");
        jobs.push((name, open, send));
    }
    lab.take_away(&mut agent, &[Hook::Lsm])?;
    for (name, open, send) in jobs {
        let mut job = Evader::start(&lab.outside())?;
        let connect = format!("connect {}", echo.address());
        assert_eq!(job.act(if open.is_empty() { &connect } else { open })?, "done", "{name}");
        assert_eq!(job.act(&join)?, "done");
        let expected = if open.is_empty() { "ping" } else { "done" };
        assert_eq!(job.act(send)?, expected, "{name}, without its hook");
    }
    Ok(())
}

#[test]
fn no_tunnel_is_made() -> Result<()> {
    let lab = Lab::new()?;
    let echo = Echo::start()?;
    let mut agent = with_lsm(&lab, &echo)?;
    let mut job = Evader::start(&lab.inside())?;
    assert_eq!(job.act("tun")?, "EPERM");
    assert_eq!(agent.next("refused")?["reason"], "tunnel");
    assert_eq!(Evader::start(&lab.outside())?.act("tun")?, "done");
    lab.take_away(&mut agent, &[Hook::Lsm])?;
    assert_eq!(job.act("tun")?, "done");
    Ok(())
}
