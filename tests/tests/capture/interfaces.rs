//! "Only the proxy may send to protected addresses", on an interface: against whatever sends, by whatever socket.

use crate::harness::{Agent, Evader, Lab, Namespace, eventually};
use anyhow::{Result, ensure};
use serde_json::{Value, json};

const MAC: &str = "02:00:00:00:00:01";

/// A host and a pod, joined by a veth pair; the host's end is `up0`, the pod's `pod0`.
struct Node {
    lab: Lab,
    host: Namespace,
    pod: Namespace,
}

impl Node {
    fn new() -> Result<Self> {
        let (lab, host, pod) = (Lab::new()?, Namespace::new("true")?, Namespace::new("true")?);
        host.run(&format!(
            "ip link add up0 address {MAC} type veth peer name pod0 && ip link set pod0 netns {} && \
             ip address add 10.77.0.1/24 dev up0 && ip link set up0 up",
            pod.holder()
        ))?;
        pod.run("ip address add 10.77.0.2/24 dev pod0 && ip link set pod0 up")?;
        Ok(Self { lab, host, pod })
    }

    fn agent(&self) -> Result<Agent> {
        let mut request = self.lab.request();
        request["targets"] = json!(["10.77.0.0/16:5432"]);
        request["relay"] = json!(true);
        Agent::start_in(&self.host, &request)
    }

    fn ungoverned(&self, namespace: &Namespace) -> Result<Evader> {
        Evader::start_in(namespace, &self.lab.outside())
    }
}

/// TCX came with Linux 6.6; before, the filter is refused, and the error says what is needed.
fn guard(agent: &mut Agent, direction: &str) -> Result<bool> {
    match agent.ask(json!({ "command": "guard", "interface": "up0", "direction": direction })) {
        Ok(_) => Ok(true),
        Err(error) => {
            ensure!(error.to_string().contains("6.6") && before_tcx()?, "{error}");
            Ok(false)
        }
    }
}

fn before_tcx() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    Ok((numbers.next(), numbers.next()) < (Some(6), Some(6)))
}

#[test]
fn from_a_pod_only_the_proxy_s_connections_pass() -> Result<()> {
    let node = Node::new()?;
    let mut agent = node.agent()?;
    let mut server = node.ungoverned(&node.host)?;
    for port in [5432, 5999] {
        assert_eq!(server.act(&format!("listen 10.77.0.1:{port}"))?, "done");
    }
    assert_eq!(server.act("udp-listen 10.77.0.1:5432")?, "done");
    let mut sender = node.ungoverned(&node.pod)?;
    let mut attempts = |arrives: bool, server: &mut Evader| -> Result<()> {
        let tcp = if arrives { "connected" } else { "timed out" };
        assert_eq!(sender.act("dial 10.77.0.1:5432")?, tcp);
        assert_eq!(sender.act("dial 10.77.0.1:5999")?, "connected", "unprotected ports are free");
        let heard = if arrives { "by hand" } else { "timed out" };
        for way in ["", "bypass"] {
            assert_eq!(sender.act("socket 17 3 0")?, "done");
            let frame = format!("packet-send pod0 {MAC} 10.77.0.2 10.77.0.1:5432 {way}");
            assert_eq!(sender.act(&frame)?, "done", "{way}");
            assert_eq!(server.act("hear")?, heard, "a frame of its own making, {way}");
        }
        Ok(())
    };
    attempts(true, &mut server)?;
    if !guard(&mut agent, "in")? {
        return Ok(());
    }
    attempts(false, &mut server)?;
    assert_eq!(agent.next("refused")?["reason"], "packet");
    // Somebody governed lives there from now on, so the agent listens there.
    let _sandbox = Evader::start_in(&node.pod, &node.lab.inside())?;
    eventually("a listener in the pod", || Ok(agent.ask(json!({ "command": "namespaces" }))? == 1))?;
    // A governed job's connection is dialled by the proxy, from the pod's own namespace and through the filter.
    for _ in 0..3 {
        let line: Value = node.pod.client(&node.lab.inside(), &["dial", "10.77.0.1:5432"])?;
        assert_eq!(line["outcome"], "relayed direct", "{line}");
    }
    // In force without the agent as well, and adopted by the next one.
    agent.kill()?;
    attempts(false, &mut server)?;
    let mut agent = node.agent()?;
    attempts(false, &mut server)?;
    agent.ask(json!({ "command": "unguard", "interface": "up0", "direction": "in" }))?;
    attempts(true, &mut server)
}

#[test]
fn out_of_the_host_only_the_proxy_s_connections_pass() -> Result<()> {
    let node = Node::new()?;
    let mut agent = node.agent()?;
    let mut server = node.ungoverned(&node.pod)?;
    assert_eq!(server.act("listen 10.77.0.2:5432")?, "done");
    let mut accomplice = node.ungoverned(&node.host)?;
    assert_eq!(accomplice.act("dial 10.77.0.2:5432")?, "connected");
    if !guard(&mut agent, "out")? {
        return Ok(());
    }
    assert_eq!(accomplice.act("dial 10.77.0.2:5432")?, "timed out");
    let line = node.host.client(&node.lab.inside(), &["dial", "10.77.0.2:5432"])?;
    assert_eq!(line["outcome"], "relayed direct", "{line}");
    // A source port that the proxy has used opens nothing to whoever takes it next.
    let layers = agent.ask(json!({ "command": "layers" }))?;
    let interface = layers.as_array().into_iter().flatten().find(|state| state["layer"] == "interface");
    assert_eq!(interface.map(|state| &state["active"]), Some(&json!(true)), "{layers}");
    node.host.run("ip link del up0")?;
    eventually("the filter leaves with its interface", || {
        let layers = agent.ask(json!({ "command": "layers" }))?;
        let gone = layers
            .as_array()
            .into_iter()
            .flatten()
            .any(|state| state["layer"] == "interface" && state["active"] == false);
        Ok(gone)
    })
}

#[test]
fn pods_are_guarded_as_they_come_and_go_and_the_proxy_s_connections_pass() -> Result<()> {
    let node = Node::new()?;
    let mut agent = node.agent()?;
    let mut server = node.ungoverned(&node.host)?;
    assert_eq!(server.act("listen 10.77.0.1:5432")?, "done");
    if before_tcx()? {
        return Ok(());
    }
    agent.ask(json!({ "command": "guard_namespaces", "wanted": true }))?;
    let mut stranger = node.ungoverned(&node.pod)?;
    assert_eq!(stranger.act("dial 10.77.0.1:5432")?, "connected", "nobody governed lives there yet");
    let sandbox = Evader::start_in(&node.pod, &node.lab.inside())?;
    let guarded = |agent: &mut Agent| agent.ask(json!({ "command": "guarded" }));
    eventually("the pod is guarded", || Ok(guarded(&mut agent)? == 1))?;
    assert_eq!(stranger.act("dial 10.77.0.1:5432")?, "timed out", "whoever left its cgroup as well");
    let line: Value = node.pod.client(&node.lab.inside(), &["dial", "10.77.0.1:5432"])?;
    assert_eq!(line["outcome"], "relayed direct", "{line}");
    // A second interface that the pod is given later.
    node.host.run(&format!(
        "ip link add up1 type veth peer name pod1 && ip link set pod1 netns {} && ip link set up1 up",
        node.pod.holder()
    ))?;
    eventually("its new interface too", || Ok(guarded(&mut agent)? == 2))?;
    // Adopted by the next agent, which is told to guard none.
    agent.kill()?;
    assert_eq!(stranger.act("dial 10.77.0.1:5432")?, "timed out", "without an agent too");
    let mut agent = node.agent()?;
    agent.ask(json!({ "command": "guard_namespaces", "wanted": true }))?;
    assert_eq!(guarded(&mut agent)?, 2);
    drop(sandbox);
    eventually("nobody governed is left in the pod", || Ok(guarded(&mut agent)? == 0))?;
    assert_eq!(stranger.act("dial 10.77.0.1:5432")?, "connected");
    Ok(())
}
