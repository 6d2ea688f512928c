//! The chart's life: installed, upgraded under load, uninstalled.

use crate::{
    node::DATABASE,
    shop::{LOCKGATE, POLICY, SHOP, Shop, on_the_node},
    steps::{privileges, reads},
};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::{built_binary, cgroup_mount},
    receiver::Decision,
};
use serde_json::json;
use std::{path::Path, process::Command};
use tokio::runtime::Runtime;

/// The chart's values, in the scratch directory.
const VALUES: &str = "values.json";
/// How long connections wait for the next agent: the longest that may be configured.
const GRACE_SECONDS: u32 = 60;
/// Jobs that connect all the time while the agent is replaced.
const LOADS: usize = 3;

/// As many people install it: `helm install` with values, in place of what was applied before.
pub(crate) fn chart(shop: &mut Shop, runtime: &Runtime) -> Result<()> {
    shop.cluster.try_kubectl(&["--namespace", LOCKGATE, "delete", "daemonset", "lockgate", "--wait=true"])?;
    for (kind, name) in [
        ("configmap", "lockgate-config"),
        ("configmap", "lockgate-policies"),
        ("serviceaccount", "lockgate"),
        ("clusterrole", "lockgate"),
        ("clusterrolebinding", "lockgate"),
    ] {
        shop.cluster.try_kubectl(&["--namespace", LOCKGATE, "delete", kind, name])?;
    }
    shop.cluster.wait("the agent is gone", |cluster| {
        let pods = cluster.json(&["--namespace", LOCKGATE, "get", "pods"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    let mut config = shop.config();
    // The chart knows these.
    if let Some(config) = config.as_object_mut() {
        config.remove("store");
        config.remove("policies");
    }
    // As the chart has it, and longer: a busy machine takes its time to replace a pod.
    config["node"] = json!({ "restart_grace": format!("{GRACE_SECONDS}s") });
    let values = json!({ "config": config, "policies": { "policy.yaml": POLICY } });
    shop.cluster.scratch.write(VALUES, &values.to_string())?;
    let (chart, values) = chart_and_values(shop);
    // A value that the schema does not know is refused before anything is installed.
    let refused =
        shop.helm(&["install", "lockgate", &chart, "--values", &values, "--set", "privileged=true"]);
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("privileged")),
        "an unknown value is installed"
    );
    shop.helm(&["install", "lockgate", &chart, "--values", &values])?;
    shop.agent_is_ready()?;
    privileges(shop, runtime)?;
    reads(shop, "late", DATABASE[0])?;
    let running = shop.psql("late", DATABASE[0], "ALTER TABLE orders ADD COLUMN by_chart int")?;
    let request = runtime.block_on(shop.receiver.requested("by_chart"))?;
    ensure!(!shop.pg.log()?.contains("by_chart"), "the target saw what was not approved");
    runtime.block_on(Decision::on(&request, "approve", "ana", &["dba"]).accepted())?;
    let done = running.done()?;
    ensure!(done.success, "{done:?}");
    Ok(())
}

fn chart_and_values(shop: &Shop) -> (String, String) {
    let chart = shop.cluster.place.deploy.join("helm/lockgate");
    (chart.display().to_string(), shop.cluster.path(VALUES).display().to_string())
}

/// Another image in place of the running one, as a new version is: the same program under another tag. Meanwhile jobs in a
/// pod connect one time after the other.
pub(crate) fn upgrade(shop: &mut Shop, _: &Runtime) -> Result<()> {
    let before = shop.agent_pid()?;
    let direct = |shop: &Shop| {
        Ok::<_, anyhow::Error>(shop.pg.log()?.lines().filter(|line| line.contains(" job ")).count())
    };
    let direct_before = direct(shop)?;
    let connection = format!("host={} port=5432 user=job dbname=shop sslmode=prefer", DATABASE[0]);
    let wait = GRACE_SECONDS;
    let script = format!(
        "load() {{ good=0; bad=0; while [ ! -e /dev/shm/enough ]; do \
         if PGCONNECT_TIMEOUT={wait} psql -X -A -t -d '{connection}' -c 'SELECT 1' > /dev/null 2>> /dev/shm/why-$1; \
         then good=$((good+1)); else bad=$((bad+1)); fi; echo $good > /dev/shm/good-$1; done; \
         echo \"load $1: $good answered, $bad not\"; cat /dev/shm/why-$1; }}; \
         for i in {all}; do load $i & done; wait",
        all = (1..=LOADS).map(|index| index.to_string()).collect::<Vec<_>>().join(" ")
    );
    shop.pod_running("busy", &["/bin/sh", "-c", &script])?;
    shop.runs("busy")?;
    loads_go_on(shop)?;
    shop.cluster.another_tag("next")?;
    let (chart, values) = chart_and_values(shop);
    shop.helm(&["upgrade", "lockgate", &chart, "--values", &values, "--set", "image.tag=next"])?;
    shop.agent_is_ready()?;
    ensure!(shop.agent_pid()? != before, "the agent was not replaced");
    let running = shop.cluster.json(&["--namespace", LOCKGATE, "get", "pods"])?;
    ensure!(running.to_string().contains("lockgate:next"), "another image runs: {running}");
    loads_go_on(shop)?;
    shop.cluster.try_kubectl(&[
        "--namespace",
        SHOP,
        "exec",
        "busy",
        "--",
        "/bin/sh",
        "-c",
        "echo > /dev/shm/enough",
    ])?;
    shop.phase("busy", "Succeeded")?;
    let said = shop.cluster.try_kubectl(&["--namespace", SHOP, "logs", "busy"])?;
    for line in said.lines().filter(|line| line.starts_with("load ")) {
        println!("  {line}");
    }
    ensure!(said.matches(" answered, ").count() == LOADS, "{said}");
    // One connection of each at a time: at most one was open and at rest when the old agent ended, and it was told so.
    let not: usize = said
        .lines()
        .filter_map(|line| line.split(" answered, ").nth(1)?.split(' ').next()?.parse::<usize>().ok())
        .sum();
    let told = said.matches("lockgate: stopping").count();
    ensure!(told <= LOADS && not == told, "{not} were not answered, and {told} were told why:\n{said}");
    ensure!(!said.contains("refused") && !said.contains("timeout"), "{said}");
    ensure!(direct(shop)? == direct_before, "somebody came to the target directly:\n{}", shop.pg.log()?);
    shop.cluster.try_kubectl(&["--namespace", SHOP, "delete", "pod", "busy", "--wait=true"]).map(drop)
}

/// Each of them has been served again since now.
fn loads_go_on(shop: &mut Shop) -> Result<()> {
    let served = |shop: &crate::node::Cluster| -> Option<Vec<u32>> {
        let show = "for i in 1 2 3; do cat /dev/shm/good-$i || echo 0; done";
        let said =
            shop.try_kubectl(&["--namespace", SHOP, "exec", "busy", "--", "/bin/sh", "-c", show]).ok()?;
        let counts: Vec<u32> = said.lines().filter_map(|line| line.trim().parse().ok()).collect();
        (counts.len() == LOADS).then_some(counts)
    };
    let mut first: Option<Vec<u32>> = None;
    shop.cluster.wait("the loads are served", |cluster| {
        let Some(now) = served(cluster) else { return Ok(false) };
        let first = first.get_or_insert_with(|| now.clone());
        Ok(now.iter().zip(first.iter()).all(|(now, then)| *now > *then + 2))
    })
}

/// What helm made goes with the release; what is in the kernel stays closed until somebody opens it on purpose.
pub(crate) fn uninstall(shop: &mut Shop, _: &Runtime) -> Result<()> {
    shop.helm(&["uninstall", "lockgate", "--wait"])?;
    shop.cluster.wait("the agent is gone", |cluster| {
        let pods = cluster.json(&["--namespace", LOCKGATE, "get", "pods"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty))
    })?;
    for kinds in [
        "daemonsets,deployments,pods,configmaps,serviceaccounts,secrets,services,roles,rolebindings,networkpolicies",
        "clusterroles,clusterrolebindings,priorityclasses",
    ] {
        let found = shop.cluster.try_kubectl(&[
            "get",
            kinds,
            "--all-namespaces",
            "--selector",
            "app.kubernetes.io/instance=lockgate",
            "--output",
            "name",
        ])?;
        ensure!(found.trim().is_empty(), "left behind: {found}");
    }
    let own = shop.cluster.try_kubectl(&[
        "--namespace",
        LOCKGATE,
        "get",
        "configmaps,serviceaccounts,secrets",
        "--output",
        "name",
    ])?;
    let foreign = |name: &&str| {
        // The namespace's own, and what was there before the chart.
        !["kube-root-ca.crt", "serviceaccount/default", "secret/default-token", "lockgate-secrets"]
            .iter()
            .any(|known| name.contains(known))
    };
    let left: Vec<&str> = own.lines().filter(foreign).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    // The keeper waits for an agent that does not come.
    shop.cluster.wait("the keeper has given up", |_| {
        let procs = cgroup_mount()?.join("lockgate/agent/cgroup.procs");
        Ok(std::fs::read_to_string(procs).unwrap_or_default().trim().is_empty())
    })?;
    let done = shop.psql("late", DATABASE[0], "SELECT 'uninstalled'")?.done()?;
    ensure!(!done.success && done.stderr.contains("Connection refused"), "{done:?}");
    let config = shop.cluster.scratch.write("node.yaml", &shop.config().to_string())?;
    let lockgate = built_binary("lockgate")?;
    let said = on_the_node(
        lockgate.to_str().context("a path")?,
        &["--config", config.to_str().context("a path")?, "agent", "--detach"],
    )?;
    ensure!(said.contains("hooks removed"), "{said}");
    let done = shop.psql("late", DATABASE[0], "SELECT 'open'")?.done()?;
    ensure!(
        !done.success && done.stderr.contains("password authentication failed"),
        "the node is not open: {done:?}"
    );
    let pins = Path::new("/sys/fs/bpf/lockgate");
    let left = Command::new("find").arg(pins).args(["-type", "f"]).output()?;
    ensure!(left.stdout.is_empty(), "pins stay: {}", String::from_utf8_lossy(&left.stdout));
    ensure!(Path::new("/var/lib/lockgate/segments").exists(), "the record is gone");
    Ok(())
}
