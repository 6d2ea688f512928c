//! Governed processes in network namespaces of their own: containers and pods, without a kubelet.

use crate::harness::{Agent, Client, Lab, Namespace, eventually, outcomes};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use std::{fs, path::Path, process::Command};

/// Everything that a pod dials here.
const TARGETS: [&str; 4] =
    ["198.51.100.0/24:5432", "[2001:db8:7::]/48:5432", "127.0.0.1/32:5433", "10.77.0.0/16:5432"];

/// A pod: a namespace and a cgroup below the governed one, with a process that is there before its jobs, as the
/// sandbox of a container runtime is.
struct Pod {
    namespace: Namespace,
    cgroup: std::path::PathBuf,
    _sandbox: Client,
}

impl Pod {
    fn new(lab: &Lab, name: &str, setup: &str) -> Result<Self> {
        let cgroup = lab.inside().join(name);
        fs::create_dir_all(&cgroup)?;
        let namespace = Namespace::new(setup)?;
        let sandbox = namespace.start_client(&cgroup, &["--wait", "sockets"])?;
        ensure!(sandbox.line()?["event"] == "waiting");
        Ok(Self { namespace, cgroup, _sandbox: sandbox })
    }

    fn dial(&self, address: &str) -> Result<serde_json::Value> {
        self.namespace.client(&self.cgroup, &["dial", address])
    }
}

fn agent(lab: &Lab) -> Result<Agent> {
    lab.agent_with(json!({ "targets": TARGETS }))
}

fn listens_in(agent: &mut Agent, count: u64) -> Result<()> {
    eventually(&format!("listeners in {count} namespaces"), || {
        Ok(agent.ask(json!({ "command": "namespaces" }))? == count)
    })
}

#[test]
fn pods_that_are_there_and_pods_that_come_are_captured_each_in_its_own_namespace() -> Result<()> {
    let lab = Lab::new()?;
    let first = Pod::new(&lab, "pod-first", "true")?;
    let mut agent = agent(&lab)?;
    listens_in(&mut agent, 1)?;
    let second = Pod::new(&lab, "pod-second", "true")?;
    listens_in(&mut agent, 2)?;
    let mut cookies = Vec::new();
    for pod in [&first, &second] {
        for address in ["198.51.100.7:5432", "[2001:db8:7::9]:5432", "127.0.0.1:5433"] {
            let line = pod.dial(address)?;
            assert_eq!((&line["outcome"], &line["peer"]), (&json!("proxy"), &json!(address)), "{line}");
            let flow = agent.flow()?;
            assert_eq!(flow["flow"]["original_dst"], address);
            cookies.push(flow["flow"]["netns_cookie"].clone());
        }
    }
    assert!(cookies[..3].iter().all(|cookie| *cookie == cookies[0]), "{cookies:?}");
    assert!(cookies[3..].iter().all(|cookie| *cookie == cookies[3] && *cookie != cookies[0]), "{cookies:?}");
    // What is not registered is not there, and nobody pretends.
    assert_eq!(first.dial("127.0.0.1:5434")?["outcome"], "refused");
    Ok(())
}

#[test]
fn a_pod_without_ipv6_is_captured_v4_mapped() -> Result<()> {
    let lab = Lab::new()?;
    let pod = Pod::new(&lab, "pod", "echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")?;
    let mut agent = agent(&lab)?;
    listens_in(&mut agent, 1)?;
    for address in ["198.51.100.7:5432", "[2001:db8:7::9]:5432"] {
        let line = pod.dial(address)?;
        assert_eq!((&line["outcome"], &line["peer"]), (&json!("proxy"), &json!(address)), "{line}");
        assert_eq!(agent.flow()?["flow"]["original_dst"], address);
    }
    Ok(())
}

#[test]
fn a_namespace_that_nobody_knows_yet_is_refused_and_then_served() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = agent(&lab)?;
    // A job that enters a namespace of its own the moment before it dials.
    let namespace = Namespace::new("true")?;
    let mut job = namespace.start_client(&lab.inside(), &["load", "198.51.100.7:5432", "1500"])?;
    let counts = job.finish()?.pop().context("counts")?;
    assert!(counts["proxy"].as_u64().is_some_and(|count| count > 0), "{counts}");
    let others: Vec<_> = counts.as_object().context("counts")?.keys().filter(|key| *key != "proxy").collect();
    assert!(others.iter().all(|key| *key == "refused"), "{counts}");
    listens_in(&mut agent, 0)?;
    Ok(())
}

#[test]
fn a_pod_that_goes_takes_its_namespace_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = agent(&lab)?;
    let name = format!("lg-{}", lab.instance());
    let netns = NamedNetns::new(&name)?;
    // Seen from the host: gone when the namespace is.
    let peer = format!("lgp{}", std::process::id());
    netns.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", &peer, "netns", "1"])?;
    let cgroup = lab.inside().join("pod");
    fs::create_dir_all(&cgroup)?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{name}"));
    let mut sandbox = Client::start_by(command, &cgroup, &["--wait", "sockets"])?;
    sandbox.line()?;
    listens_in(&mut agent, 1)?;
    assert!(Path::new("/sys/class/net").join(&peer).exists());
    drop(netns);
    assert!(Path::new("/sys/class/net").join(&peer).exists(), "its process still holds it");
    sandbox.kill();
    listens_in(&mut agent, 0)?;
    eventually("the namespace is freed", || Ok(!Path::new("/sys/class/net").join(&peer).exists()))
}

#[test]
fn upstream_connections_leave_from_the_pod() -> Result<()> {
    let lab = Lab::new()?;
    let pod = Pod::new(&lab, "pod", "true")?;
    let service = Namespace::new("true")?;
    let peer = format!("netns /proc/{}/ns/net", service.pid());
    pod.namespace.run(&format!(
        "ip link add eth0 type veth peer name eth0 {peer} && ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up"
    ))?;
    service.run("ip addr add 10.77.0.1/24 dev eth0 && ip link set eth0 up")?;
    let served = service.start_client(&lab.outside(), &["serve", "10.77.0.1:5432"])?;
    assert_eq!(served.line()?["outcome"], "bound");
    let own = pod.namespace.start_client(&lab.outside(), &["serve", "127.0.0.1:5433"])?;
    assert_eq!(own.line()?["outcome"], "bound");
    let mut agent = lab.agent_with(json!({ "targets": TARGETS, "relay": true }))?;
    listens_in(&mut agent, 1)?;
    // The host has no route there: only the pod has, and it is the pod's address that the service sees.
    assert_eq!(pod.dial("10.77.0.1:5432")?["outcome"], "relayed served 10.77.0.2");
    // Loopback is the pod's own.
    assert_eq!(pod.dial("127.0.0.1:5433")?["outcome"], "relayed served 127.0.0.1");
    Ok(())
}

#[test]
fn with_the_agent_gone_pods_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    let pod = Pod::new(&lab, "pod", "true")?;
    let mut first = agent(&lab)?;
    listens_in(&mut first, 1)?;
    assert_eq!(pod.dial("198.51.100.7:5432")?["outcome"], "proxy");
    first.kill()?;
    assert_eq!(pod.dial("198.51.100.7:5432")?["outcome"], "refused");
    let mut second = agent(&lab)?;
    listens_in(&mut second, 1)?;
    assert_eq!(pod.dial("198.51.100.7:5432")?["outcome"], "proxy");
    Ok(())
}

#[test]
fn nobody_in_a_pod_takes_the_port_or_dials_the_listener() -> Result<()> {
    let lab = Lab::new()?;
    let pod = Pod::new(&lab, "pod", "true")?;
    let mut agent = agent(&lab)?;
    let port = agent.port.to_string();
    let mut binds = pod.namespace.start_client(&pod.cgroup, &["bind", &port])?;
    let lines = binds.finish()?;
    assert!(outcomes(&lines).iter().all(|outcome| *outcome == "EPERM"), "{lines:?}");
    listens_in(&mut agent, 1)?;
    assert_eq!(pod.dial(&format!("127.0.0.1:{port}"))?["outcome"], "EPERM");
    // Somebody who is not governed, in the pod's namespace, is not served.
    let line = pod.namespace.client(&lab.outside(), &["dial", &format!("127.0.0.1:{port}")])?;
    assert_ne!(line["outcome"], "proxy", "{line}");
    agent.next("unattributed")?;
    Ok(())
}

#[test]
fn users_are_governed_in_any_namespace() -> Result<()> {
    const UID: u32 = 61_234;
    let lab = Lab::new()?;
    let namespace = Namespace::new("true")?;
    let mut agent = lab.agent_with(json!({ "cgroups": [], "uids": [UID], "targets": TARGETS }))?;
    let uid = UID.to_string();
    let waiting = namespace.start_client(&lab.outside(), &["--uid", &uid, "--wait", "sockets"])?;
    waiting.line()?;
    listens_in(&mut agent, 1)?;
    let line = namespace.client(&lab.outside(), &["--uid", &uid, "dial", "198.51.100.7:5432"])?;
    assert_eq!(line["outcome"], "proxy");
    drop(waiting);
    listens_in(&mut agent, 0)
}

/// `ip netns add`; `ip netns del` when dropped.
struct NamedNetns<'a>(&'a str);

impl<'a> NamedNetns<'a> {
    fn new(name: &'a str) -> Result<Self> {
        let status = Command::new("ip").args(["netns", "add", name]).status()?;
        ensure!(status.success(), "ip netns add {name}: {status}");
        Ok(Self(name))
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let status = Command::new("ip").args(["-n", self.0]).args(arguments).status()?;
        ensure!(status.success(), "ip {arguments:?}: {status}");
        Ok(())
    }
}

impl Drop for NamedNetns<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", self.0]).status();
    }
}
