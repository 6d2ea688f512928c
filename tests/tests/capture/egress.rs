//! Destinations that no target is registered for: counted, or refused.

use crate::harness::{Lab, outcomes};
use anyhow::Result;
use serde_json::json;

/// Every way to write the address of a service on this host.
const WAYS: [&str; 7] =
    ["127.0.0.1", "127.9.8.7", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];

#[test]
fn what_is_not_registered_is_counted_and_left_alone() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let mut agent = lab.agent()?;
    for way in WAYS {
        let lines = lab.client(&lab.inside(), &["dial", &other.server.at(way)])?;
        assert_eq!(outcomes(&lines), ["direct"], "{way}");
        // No detour: the client sees the peer it asked for because that is its peer.
        lab.client(&lab.outside(), &["dial", &other.server.at(way)])?;
    }
    assert_eq!(agent.counter("unregistered")?, WAYS.len() as u64, "governed ones, and no others");
    assert_eq!((agent.counter("redirected")?, agent.counter("refused")?), (0, 0));
    Ok(())
}

#[test]
fn a_default_of_deny_refuses_every_form_of_what_is_not_allowed() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let agent = lab.agent_with(json!({ "deny_but": ["198.51.100.0/24"] }))?;
    for way in WAYS {
        let refused = lab.client(&lab.inside(), &["dial", &other.server.at(way)])?;
        assert_eq!(outcomes(&refused), ["EPERM"], "{way}");
        let event = agent.next("refused")?;
        assert_eq!(event["reason"], "unregistered", "{event}");
        let registered = lab.client(&lab.inside(), &["dial", &lab.server.at(way)])?;
        assert_eq!(outcomes(&registered), ["proxy"], "{way}");
        let outside = lab.client(&lab.outside(), &["dial", &other.server.at(way)])?;
        assert_eq!(outcomes(&outside), ["direct"], "{way}");
    }
    // Datagrams, connected or not, are refused as well.
    let lines = lab.client(&lab.inside(), &["udp", &other.server.at("127.0.0.1")])?;
    assert!(!outcomes(&lines).contains(&"sent"), "{lines:?}");
    Ok(())
}

#[test]
fn what_is_allowed_passes_by_prefix_and_by_port() -> Result<()> {
    let (lab, other, third) = (Lab::new()?, Lab::new()?, Lab::new()?);
    let port = other.server.port;
    let mut agent = lab.agent_with(json!({ "deny_but": [format!("127.0.0.0/8:{port}"), "::1/128"] }))?;
    for (address, expected) in [
        (other.server.at("127.0.0.1"), "direct"),
        (other.server.at("127.7.7.7"), "direct"),
        (other.server.at("0.0.0.0"), "direct"),
        (other.server.at("::ffff:127.0.0.1"), "direct"),
        (third.server.at("127.0.0.1"), "EPERM"),
        (third.server.at("::1"), "direct"),
        (third.server.at("::"), "direct"),
        (lab.server.at("::1"), "proxy"),
        ("10.99.99.99:443".to_owned(), "EPERM"),
    ] {
        let lines = lab.client(&lab.inside(), &["dial", &address])?;
        assert_eq!(outcomes(&lines), [expected], "{address}");
    }
    assert_eq!(agent.counter("unregistered")?, 6);
    Ok(())
}

#[test]
fn the_nearest_governed_cgroup_says_what_is_allowed_and_the_agent_s_death_changes_nothing() -> Result<()> {
    let (lab, other) = (Lab::new()?, Lab::new()?);
    let mut agent = lab.agent_with(json!({ "deny_but": [] }))?;
    let deep = lab.inside().join("job");
    std::fs::create_dir_all(&deep)?;
    for alive in [true, false] {
        if !alive {
            agent.kill()?;
        }
        let lines = lab.client(&deep, &["dial", &other.server.at("127.0.0.1")])?;
        assert_eq!(outcomes(&lines), ["EPERM"], "alive {alive}");
    }
    // The next agent has another list; nothing is left of the old one.
    let _agent = lab.agent_with(json!({ "deny_but": ["127.0.0.0/8"] }))?;
    let lines = lab.client(&deep, &["dial", &other.server.at("127.0.0.1")])?;
    assert_eq!(outcomes(&lines), ["direct"]);
    let lines = lab.client(&deep, &["dial", &other.server.at("::1")])?;
    assert_eq!(outcomes(&lines), ["EPERM"]);
    Ok(())
}
