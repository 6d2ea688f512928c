//! Who is redirected, from which addresses, and who does not notice.

use crate::harness::{Agent, Client, Lab, Namespace, outcomes};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;

/// Every way to write the address of a service on this host.
const WAYS: [&str; 7] =
    ["127.0.0.1", "127.9.8.7", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];

#[test]
fn every_address_form_of_a_protected_service_reaches_the_proxy() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    for way in WAYS {
        let lines = lab.client(&lab.inside(), &["dial", &lab.server.at(way)])?;
        assert_eq!(outcomes(&lines), ["proxy"], "{way}");
        let flow = agent.flow()?;
        // The one address that is registered, whichever way led to it.
        assert_eq!(flow["flow"]["original_dst"], lab.server.at("127.0.0.1").as_str(), "{way}");
        assert_eq!(flow["flow"]["capture"], "transparent");
    }
    Ok(())
}

#[test]
fn addresses_that_are_registered_themselves_stay_as_they_were_dialled() -> Result<()> {
    let lab = Lab::new()?;
    let port = lab.server.port;
    let agent =
        lab.agent_with(json!({ "targets": [format!("127.0.0.0/8:{port}"), format!("[::1]/128:{port}")] }))?;
    for (way, told) in [("127.9.8.7", "127.9.8.7"), ("::1", "::1"), ("::", "::1"), ("0.0.0.0", "127.0.0.1")] {
        lab.client(&lab.inside(), &["dial", &lab.server.at(way)])?;
        assert_eq!(agent.flow()?["flow"]["original_dst"], lab.server.at(told).as_str(), "{way}");
    }
    Ok(())
}

#[test]
fn the_host_s_own_addresses_are_the_same_service() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    let own = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address?.as_sockaddr_in().map(|address| address.ip()))
        .find(|ip| !ip.is_loopback());
    // A machine whose only interface is loopback has no other way in.
    if let Some(ip) = own {
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at(&ip.to_string())])?),
            ["proxy"]
        );
        assert_eq!(
            outcomes(&lab.client(&lab.outside(), &["dial", &lab.server.at(&ip.to_string())])?),
            ["direct"]
        );
    }
    Ok(())
}

#[test]
fn the_client_sees_the_peer_it_dialled() -> Result<()> {
    let lab = Lab::new()?;
    let _agent = lab.agent()?;
    for (way, shown) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.9.8.7", "127.9.8.7"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
    ] {
        let lines = lab.client(&lab.inside(), &["dial", &lab.server.at(way)])?;
        assert_eq!(lines[0]["peer"], lab.server.at(shown).as_str(), "{way}");
    }
    Ok(())
}

#[test]
fn a_remote_prefix_is_redirected_without_a_route_to_it() -> Result<()> {
    let lab = Lab::new()?;
    // TEST-NET-2 and the documentation prefix: nobody answers there.
    let agent = lab.agent_with(json!({ "targets": ["198.51.100.0/24:5432", "[2001:db8:7::]/48:5432"] }))?;
    for (address, original) in
        [("198.51.100.77:5432", "198.51.100.77:5432"), ("[2001:db8:7::9]:5432", "[2001:db8:7::9]:5432")]
    {
        assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", address])?), ["proxy"], "{address}");
        assert_eq!(agent.flow()?["flow"]["original_dst"], original);
    }
    Ok(())
}

#[test]
fn without_ipv6_its_destinations_are_reached_v4_mapped() -> Result<()> {
    let lab = Lab::new()?;
    let namespace = Namespace::new("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")?;
    let mut request = lab.request();
    request["targets"] = json!(["[2001:db8:7::]/48:5432", "198.51.100.0/24:5432"]);
    let agent = Agent::start_in(&namespace, &request)?;
    assert_eq!(agent.ready["listeners"], 1, "no listener on ::1");
    for address in ["[2001:db8:7::9]:5432", "198.51.100.7:5432"] {
        let line = namespace.client(&lab.inside(), &["dial", address])?;
        assert_eq!((&line["outcome"], &line["peer"]), (&json!("proxy"), &json!(address)), "{line}");
        assert_eq!(agent.flow()?["flow"]["original_dst"], address);
    }
    // The same address in the namespace of the test: no listener there.
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", "[2001:db8:7::9]:5432"])?), ["refused"]);
    Ok(())
}

#[test]
fn other_ports_and_ungoverned_processes_go_direct() -> Result<()> {
    let lab = Lab::new()?;
    let other = Lab::new()?;
    let mut agent = lab.agent()?;
    for way in WAYS {
        assert_eq!(
            outcomes(&lab.client(&lab.outside(), &["dial", &lab.server.at(way)])?),
            ["direct"],
            "{way}"
        );
        assert_eq!(
            outcomes(&lab.client(&lab.inside(), &["dial", &other.server.at(way)])?),
            ["direct"],
            "{way}"
        );
    }
    assert_eq!(agent.counter("redirected")?, 0);
    Ok(())
}

#[test]
fn descendants_of_a_governed_cgroup_are_governed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = lab.agent()?;
    let deep = lab.inside().join("a/b/c");
    fs::create_dir_all(&deep)?;
    assert_eq!(outcomes(&lab.client(&deep, &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    let flow = agent.flow()?;
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&deep)?);
    assert_eq!(flow["flow"]["process"]["cgroup_id"].to_string().trim_matches('"'), id.to_string());
    Ok(())
}

#[test]
fn a_governed_uid_is_redirected_wherever_it_runs_and_others_are_not() -> Result<()> {
    const UID: u32 = 61_234;
    let lab = Lab::new()?;
    let agent = lab.agent_with(json!({ "cgroups": [], "uids": [UID] }))?;
    let address = lab.server.at("127.0.0.1");
    assert_eq!(outcomes(&lab.client_as(&lab.outside(), Some(UID), &["dial", &address])?), ["proxy"]);
    assert_eq!(agent.flow()?["flow"]["process"]["uid"], UID);
    assert_eq!(outcomes(&lab.client_as(&lab.outside(), Some(UID + 1), &["dial", &address])?), ["direct"]);
    assert_eq!(outcomes(&lab.client(&lab.outside(), &["dial", &address])?), ["direct"]);
    Ok(())
}

#[test]
fn a_unit_glob_follows_units_that_start_later() -> Result<()> {
    let lab = Lab::new()?;
    let glob = format!("runner.{}.*.service", lab.instance());
    let _agent = lab.agent_with(json!({ "cgroups": [], "units": [glob] }))?;
    // In a slice, as systemd does it, and in an ordinary directory.
    let slice = Slice::new(lab.directory(&format!("/{}.slice", lab.instance())))?;
    for parent in [slice.0.clone(), lab.outside()] {
        for run in 0..3 {
            let unit = parent.join(format!("runner.{}.job{run}.service", lab.instance()));
            fs::create_dir(&unit)?;
            let start = std::time::Instant::now();
            loop {
                let lines = lab.client(&unit, &["dial", &lab.server.at("127.0.0.1")])?;
                if outcomes(&lines) == ["proxy"] {
                    break;
                }
                assert!(start.elapsed() < crate::harness::PATIENCE, "the unit was not found: {lines:?}");
            }
        }
    }
    assert_eq!(outcomes(&lab.client(&lab.outside(), &["dial", &lab.server.at("127.0.0.1")])?), ["direct"]);
    Ok(())
}

/// A slice at the root of the hierarchy, removed with its units.
struct Slice(std::path::PathBuf);

impl Slice {
    fn new(directory: std::path::PathBuf) -> Result<Self> {
        fs::create_dir(&directory)?;
        Ok(Self(directory))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(entry.path());
        }
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn targets_change_while_attached() -> Result<()> {
    let lab = Lab::new()?;
    let other = Lab::new()?;
    let mut agent = lab.agent()?;
    agent.ask(json!({ "command": "targets", "targets": [other.target()] }))?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["direct"]);
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &other.server.at("127.0.0.1")])?), ["proxy"]);
    agent.ask(json!({ "command": "targets", "targets": [lab.target(), other.target()] }))?;
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("::1")])?), ["proxy"]);
    Ok(())
}

#[test]
fn under_load_governed_ungoverned_and_the_proxy_itself_are_kept_apart() -> Result<()> {
    const MILLIS: &str = "3000";
    let lab = Lab::new()?;
    let address = lab.server.at("127.0.0.1");
    // The proxy dials the protected service all the time, from its own cgroup.
    let agent = lab.agent_with(json!({ "quiet": true, "dial": address }))?;
    let start = |cgroup, uid| Client::start(cgroup, uid, &["load", &address, MILLIS]);
    let (inside, outside) = (lab.inside(), lab.outside());
    let mut governed = [start(&inside, None)?, start(&inside, Some(61_235))?];
    let mut others = [start(&outside, None)?, start(&outside, Some(61_236))?];
    for client in &mut governed {
        let counts = client.finish()?.pop().context("counts")?;
        assert!(counts["proxy"].as_u64().is_some_and(|count| count > 50), "{counts}");
        assert_eq!(counts.as_object().map(|counts| counts.len()), Some(1), "only the proxy: {counts}");
    }
    for client in &mut others {
        let counts = client.finish()?.pop().context("counts")?;
        assert!(counts["direct"].as_u64().is_some_and(|count| count > 50), "{counts}");
        assert_eq!(counts.as_object().map(|counts| counts.len()), Some(1), "only direct: {counts}");
    }
    for _ in 0..50 {
        assert_eq!(agent.next("dialled")?["outcome"], "direct");
    }
    Ok(())
}
