//! The steps, in their order. Each stands on those before it.

use crate::{
    node::{CLUSTER_IP, DATABASE, output},
    shop::{Done, LOCKGATE, POLICY, SHOP, Shop, find, on_the_node},
};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::receiver::Decision;
use serde_json::{Value, json};
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What the process may still do after its start, as the documents list it.
const CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

pub(crate) fn a_pod_before(shop: &mut Shop, _: &Runtime) -> Result<()> {
    shop.pod("early")?;
    shop.runs("early")?;
    // It reaches the database, which wants a password that jobs do not have.
    let done = shop.psql("early", DATABASE[0], "SELECT 1")?.done()?;
    ensure!(!done.success && done.stderr.contains("password authentication failed"), "{done:?}");
    Ok(())
}

pub(crate) fn plain_manifests(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let shipped = shop.cluster.place.deploy.join("kubernetes");
    shop.cluster.apply_file(&shipped.join("namespace.yaml"))?;
    shop.cluster.apply(&[
        shop.secret(),
        // A JSON text is YAML.
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "lockgate-config", "namespace": LOCKGATE },
                "data": { "lockgate.yaml": shop.config().to_string() } }),
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "lockgate-policies", "namespace": LOCKGATE },
                "data": { "policy.yaml": POLICY } }),
    ])?;
    shop.cluster.apply_file(&shipped.join("lockgate.yaml"))?;
    shop.agent_is_ready()
}

pub(crate) fn privileges(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", shop.agent_pid()?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).with_context(|| format!("no {name} in\n{status}"))
    };
    let listed = CAPABILITIES.iter().fold(0_u64, |all, (_, number)| all | 1 << number);
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        ensure!(u64::from_str_radix(&field(set)?, 16)? == listed, "{set} {} is not {listed:x}", field(set)?);
    }
    for set in ["CapInh:", "CapAmb:"] {
        ensure!(u64::from_str_radix(&field(set)?, 16)? & !listed == 0, "{set} {}", field(set)?);
    }
    ensure!(field("NoNewPrivs:")? == "1" && field("Seccomp:")? == "2", "{status}");
    Ok(())
}

pub(crate) fn rights(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let account = "system:serviceaccount:lockgate:lockgate";
    for (verb, resource, may) in [
        ("list", "pods", true),
        ("watch", "pods", true),
        ("get", "nodes/proxy", false),
        ("create", "pods/exec", false),
        ("get", "secrets", false),
        ("patch", "pods", false),
        ("get", "nodes", false),
    ] {
        let asked = shop
            .cluster
            .kubectl_command()
            .args(["auth", "can-i", verb, resource, "-A", "--as", account])
            .output()?;
        let answer = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        ensure!(answer == if may { "yes" } else { "no" }, "{verb} {resource}: {answer}");
    }
    Ok(())
}

pub(crate) fn found_at_start(shop: &mut Shop, runtime: &Runtime) -> Result<()> {
    reads(shop, "early", DATABASE[0])?;
    let running = shop.psql("early", DATABASE[0], "ALTER TABLE orders ADD COLUMN by_webhook int")?;
    let request = runtime.block_on(shop.receiver.requested("by_webhook"))?;
    ensure!(!shop.pg.log()?.contains("by_webhook"), "the target saw what was not approved");
    let told = request.data().to_string();
    ensure!(told.contains("kubernetes:shop/billing"), "who asks is not told: {told}");
    runtime.block_on(Decision::on(&request, "approve", "ana", &["dba"]).accepted())?;
    let done = running.done()?;
    ensure!(done.success && done.stdout.contains("ALTER TABLE"), "{done:?}");
    ensure!(shop.pg.log()?.contains("by_webhook"), "the target has not seen it");
    named(shop, "early")
}

/// The session's record says which pod it was, with what the API server and the cluster's signature say.
fn named(shop: &mut Shop, name: &str) -> Result<()> {
    let wanted = name.to_owned();
    let of_the_pod = move |event: &Value| {
        find(event, "event").is_some_and(|kind| kind == "session_started")
            && find(event, "workload")
                .and_then(|workload| workload.pointer("/pod/name"))
                .is_some_and(|pod| *pod == *wanted)
    };
    let event = shop.recorded(&format!("a session of pod {name}"), of_the_pod)?;
    let pod = find(&event, "workload").and_then(|workload| workload.get("pod")).context("pod")?.clone();
    for (key, expected) in [
        ("/namespace", json!(SHOP)),
        ("/service_account", json!("billing")),
        ("/node", json!("node-1")),
        ("/labels/app", json!("billing")),
        ("/labels/tier", json!(name)),
    ] {
        ensure!(pod.pointer(key) == Some(&expected), "{key}: expected {expected}, recorded {pod}");
    }
    ensure!(pod["assurance"] == "attested", "the bound token was not taken as proof: {pod}");
    Ok(())
}

pub(crate) fn comes_and_is_approved(shop: &mut Shop, _: &Runtime) -> Result<()> {
    shop.pod("late")?;
    shop.runs("late")?;
    reads(shop, "late", DATABASE[0])?;
    let running = shop.psql("late", DATABASE[0], "ALTER TABLE orders ADD COLUMN by_exec int")?;
    let until = Instant::now() + Duration::from_secs(60);
    let request = loop {
        let pending = shop.lockgate_json(&["approvals", "list"])?;
        let found = pending["approvals"].as_array().and_then(|all| {
            all.iter()
                .find(|one| one["statement"].as_str().is_some_and(|text| text.contains("by_exec")))
                .cloned()
        });
        match found {
            Some(request) => break request,
            None => ensure!(Instant::now() < until, "no request waits: {pending}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(!shop.pg.log()?.contains("by_exec"), "the target saw what was not approved");
    let id = request["id"].as_str().context("id")?;
    shop.lockgate(&["approvals", "approve", id, "--reason", "seen"])?;
    let done = running.done()?;
    ensure!(done.success && done.stdout.contains("ALTER TABLE"), "{done:?}");
    named(shop, "late")
}

/// psql as the first thing that a container does. Governed from the start; until lockgate listens in its namespace it is
/// refused. What must never be is the server's own answer.
pub(crate) fn first_connection(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let connection = format!("host={} port=5432 user=job dbname=shop sslmode=prefer", DATABASE[0]);
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do psql -X -A -t -d '{connection}' -c \"SELECT 'through' || ' lockgate'\" 2>&1 && exit 0; sleep 0.2; done; exit 1"
    );
    for round in 0..3 {
        let pod = format!("at-once-{round}");
        shop.pod_running(&pod, &["/bin/sh", "-c", &script])?;
        shop.phase(&pod, "Succeeded")?;
        let said = shop.cluster.try_kubectl(&["--namespace", SHOP, "logs", &pod])?;
        ensure!(said.contains("through lockgate"), "{said}");
        let refused = said.matches("Connection refused").count();
        let others = said
            .lines()
            .filter(|line| line.contains("error") && !line.contains("Connection refused"))
            .count();
        ensure!(others == 0, "neither captured nor refused:\n{said}");
        println!("  pod {pod}: refused {refused} times before it was served");
        shop.cluster.try_kubectl(&["--namespace", SHOP, "delete", "pod", &pod, "--wait=true"])?;
    }
    Ok(())
}

pub(crate) fn denied(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let done = shop.psql("late", DATABASE[0], "DELETE FROM orders")?.done()?;
    ensure!(!done.success && done.stderr.contains("nothing is deleted here"), "{done:?}");
    ensure!(!shop.pg.log()?.contains("DELETE FROM orders"), "the target saw it");
    Ok(())
}

pub(crate) fn services(shop: &mut Shop, runtime: &Runtime) -> Result<()> {
    for (host, column) in
        [("orders-headless", "by_headless"), ("orders", "by_service"), (CLUSTER_IP, "by_address")]
    {
        reads(shop, "late", host)?;
        let running = shop.psql("late", host, &format!("ALTER TABLE orders ADD COLUMN {column} int"))?;
        let request = runtime.block_on(shop.receiver.requested(column))?;
        runtime.block_on(Decision::on(&request, "approve", "ana", &["dba"]).accepted())?;
        let done = running.done()?;
        ensure!(done.success, "{host}: {done:?}");
    }
    for target in ["orders-headless", "orders-service"] {
        shop.recorded(&format!("a session on {target}"), move |event| {
            find(event, "event").is_some_and(|kind| kind == "session_started")
                && event.to_string().contains(target)
        })?;
    }
    Ok(())
}

pub(crate) fn from_the_pod(shop: &mut Shop, _: &Runtime) -> Result<()> {
    for pod in ["early", "late"] {
        let address = shop.address(pod)?;
        let from = format!("{address} app");
        let seen = shop.pg.log()?;
        ensure!(seen.contains(&from), "the target saw nobody from {address}, which is pod {pod}:\n{seen}");
    }
    // Nobody came as lockgate's role from the node's own address.
    let seen = shop.pg.log()?;
    let others: Vec<&str> = seen
        .lines()
        .filter(|line| {
            line.contains(" app ") && !line.starts_with("10.231.9.") && !line.starts_with("[local]")
        })
        .collect();
    ensure!(others.is_empty(), "{others:#?}");
    Ok(())
}

/// This cluster's CNI (bridge) enforces no NetworkPolicy, so the test stands in for one that does: what the object says, as
/// packet filter rules on the node's side of the pod's interface, by the pod's address, which is how plugins do it.
pub(crate) fn network_policy(shop: &mut Shop, _: &Runtime) -> Result<()> {
    shop.pod("fenced")?;
    shop.runs("fenced")?;
    reads(shop, "fenced", DATABASE[0])?;
    shop.cluster.apply(&[json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "fenced", "namespace": SHOP },
        "spec": { "podSelector": { "matchLabels": { "tier": "fenced" } }, "policyTypes": ["Egress"],
                  "egress": [{ "to": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": [format!("{}/32", DATABASE[0])] } }] }] },
    })])?;
    let address = shop.address("fenced")?;
    let seen =
        |shop: &Shop| Ok::<_, anyhow::Error>(shop.pg.log()?.matches(&format!("{address} app")).count());
    let before = seen(shop)?;
    ensure!(before > 0, "the target saw nobody from {address} before the policy");
    let enforced = Fence::around(shop, "fenced")?;
    let done = shop.psql("fenced", DATABASE[0], "SELECT 'over the fence'")?.done()?;
    ensure!(!done.success && !done.stdout.contains("over the fence"), "{done:?}");
    // lockgate answers, and what it says is that the target is out of reach.
    ensure!(done.stderr.contains("lockgate"), "not through lockgate: {done:?}");
    ensure!(!shop.pg.log()?.contains("over the fence") && seen(shop)? == before, "the target saw {address}");
    ensure!(enforced.dropped()? > 0, "the rule met no packet from {address}: the connection left elsewhere");
    // What it does not deny goes on: the same target for others, other addresses for it.
    reads(shop, "late", DATABASE[0])?;
    reads(shop, "fenced", DATABASE[1])?;
    drop(enforced);
    shop.cluster.try_kubectl(&["--namespace", SHOP, "delete", "networkpolicy", "fenced"])?;
    reads(shop, "fenced", DATABASE[0])?;
    shop.cluster.try_kubectl(&["--namespace", SHOP, "delete", "pod", "fenced", "--wait=true"]).map(drop)
}

/// Rules of a NetworkPolicy's exceptions, in force while it lives.
struct Fence(Vec<Vec<String>>);

impl Fence {
    fn around(shop: &Shop, policy: &str) -> Result<Self> {
        let object = shop.cluster.json(&["--namespace", SHOP, "get", "networkpolicy", policy])?;
        let tier = object["spec"]["podSelector"]["matchLabels"]["tier"].as_str().context("a selector")?;
        let pods = shop.cluster.json(&[
            "--namespace",
            SHOP,
            "get",
            "pods",
            "--selector",
            &format!("tier={tier}"),
        ])?;
        let denied = object
            .pointer("/spec/egress/0/to/0/ipBlock/except")
            .and_then(Value::as_array)
            .context("exceptions")?;
        let mut fence = Self(Vec::new());
        for pod in pods["items"].as_array().context("pods")? {
            let from = pod["status"]["podIP"].as_str().context("an address")?;
            for to in denied {
                let to = to.as_str().context("a net")?;
                let rule: Vec<String> = ["INPUT", "--source", from, "--destination", to, "--jump", "REJECT"]
                    .map(str::to_owned)
                    .to_vec();
                on_the_node("iptables", &[&["--wait", "--insert"], strs(&rule).as_slice()].concat())?;
                fence.0.push(rule);
            }
        }
        ensure!(!fence.0.is_empty(), "the policy selects nobody");
        Ok(fence)
    }

    /// Packets that it stopped.
    fn dropped(&self) -> Result<u64> {
        let listed = on_the_node("iptables", &["--wait", "--list-rules", "INPUT", "--verbose"])?;
        let of_a_rule = |line: &str| line.split("-c ").nth(1)?.split(' ').next()?.parse::<u64>().ok();
        let rules = listed.lines().filter(|line| line.contains("REJECT"));
        Ok(rules.filter_map(of_a_rule).sum())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        for rule in &self.0 {
            if let Err(error) =
                on_the_node("iptables", &[&["--wait", "--delete"], strs(rule).as_slice()].concat())
            {
                eprintln!("a rule stays: {error:#}");
            }
        }
    }
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

pub(crate) fn left_alone(shop: &mut Shop, _: &Runtime) -> Result<()> {
    // Another server of the same machine, on a port that no target has: direct, and the job has no password for it.
    let other = Shop::server(5433)?;
    let connection = format!("host={} port=5433 user=job dbname=shop", DATABASE[0]);
    let done = shop.psql_to("late", &connection, "SELECT 1")?.done()?;
    ensure!(!done.success && done.stderr.contains("password authentication failed"), "{done:?}");
    ensure!(other.log()?.contains(&shop.address("late")?), "it was not the pod that came");
    Ok(())
}

pub(crate) fn goes(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let inside = pid_in(shop, "early")?;
    let namespace = fs::read_link(format!("/proc/{inside}/ns/net"))?.display().to_string();
    let held = sockets_of(shop.agent_pid()?)?;
    shop.cluster.try_kubectl(&["--namespace", SHOP, "delete", "pod", "early", "--wait=true"])?;
    let agent = shop.agent_pid()?;
    shop.cluster.wait("the agent lets go of the pod's namespace", |_| Ok(sockets_of(agent)? < held))?;
    shop.cluster.wait("the namespace is gone", |_| {
        Ok(!on_the_node("lsns", &["--type", "net", "--noheadings", "--output", "NS"])?
            .contains(namespace.trim_matches(|c: char| !c.is_ascii_digit())))
    })?;
    reads(shop, "late", DATABASE[0])
}

fn pid_in(shop: &Shop, pod: &str) -> Result<u32> {
    let pod = shop.cluster.json(&["--namespace", SHOP, "get", "pod", pod])?;
    let uid = pod["metadata"]["uid"].as_str().context("uid")?.to_owned();
    let mount = lockgate_tests::agent::cgroup_mount()?;
    let found = output(
        Command::new("find").arg(mount.join("kubepods")).args(["-path", &format!("*{uid}*/cgroup.procs")]),
    )?;
    for file in found.lines() {
        if let Some(pid) = fs::read_to_string(file)?.lines().next() {
            return Ok(pid.parse()?);
        }
    }
    anyhow::bail!("nobody runs in pod {uid}: {found}")
}

/// How many sockets a process holds.
fn sockets_of(pid: u32) -> Result<usize> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let is_socket = |path: &std::path::Path| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    Ok(descriptors.flatten().filter(|entry| is_socket(&entry.path())).count())
}

pub(crate) fn agent_restarts(shop: &mut Shop, _: &Runtime) -> Result<()> {
    // Nobody makes a new one while the selector fits no node.
    let patch = |value: &str| {
        json!({ "spec": { "template": { "spec": { "nodeSelector": { "lockgate.dev/test": value } } } } })
            .to_string()
    };
    shop.cluster.try_kubectl(&[
        "--namespace",
        LOCKGATE,
        "patch",
        "daemonset",
        "lockgate",
        "-p",
        &patch("nowhere"),
    ])?;
    shop.cluster.wait("the agent is gone", |cluster| {
        let pods = cluster.json(&["--namespace", LOCKGATE, "get", "pods"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    let done = shop.psql("late", DATABASE[0], "SELECT 'direct'")?.done()?;
    ensure!(!done.success && done.stderr.contains("Connection refused"), "{done:?}");
    shop.pod("meanwhile")?;
    shop.runs("meanwhile")?;
    let done = shop.psql("meanwhile", DATABASE[0], "SELECT 'direct'")?.done()?;
    ensure!(!done.success && done.stderr.contains("Connection refused"), "{done:?}");
    ensure!(!shop.pg.log()?.contains("'direct'"), "the target saw it");
    shop.cluster.try_kubectl(&["label", "node", "node-1", "lockgate.dev/test=nowhere"])?;
    shop.agent_is_ready()?;
    reads(shop, "late", DATABASE[0])?;
    reads(shop, "meanwhile", DATABASE[0])?;
    named(shop, "meanwhile")
}

pub(crate) fn coverage(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let metrics = on_the_node("busybox", &["wget", "-q", "-O", "-", "http://127.0.0.1:8420/metrics"])?;
    let bypassed = metrics.lines().find_map(|line| line.strip_prefix("lockgate_bypassed_connections_total "));
    ensure!(bypassed == Some("0"), "connections past lockgate: {bypassed:?}\n{metrics}");
    ensure!(
        !shop.events()?.iter().any(|event| event.to_string().contains("\"bypass\"")),
        "a connection went past"
    );
    Ok(())
}

/// A read passes by policy, which asks for the pod's namespace and account.
pub(crate) fn reads(shop: &Shop, pod: &str, host: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let done: Done = shop.psql(pod, host, "SELECT note FROM orders")?.done()?;
        if done.success {
            ensure!(done.stdout.trim() == "first", "{done:?}");
            return Ok(());
        }
        // Until lockgate listens in the pod's namespace.
        ensure!(
            done.stderr.contains("Connection refused") && Instant::now() < until,
            "{pod} to {host}: {done:?}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
