//! What `lockgate doctor` says about the kernel side, and that its proof can fail.

use crate::harness::{Lab, outcomes};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

fn doctor(instance: &str) -> Result<Value> {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_capture_agent"))
        .args(["doctor", instance])
        .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn check<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let checks = answer["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks.iter().find(|check| check["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn on_a_machine_that_runs_these_tests_every_check_is_fine() -> Result<()> {
    let lab = Lab::new()?;
    let before = std::fs::read_to_string("/proc/self/cgroup")?;
    let answer = doctor(lab.instance())?;
    let lsm = check(&answer, "BPF LSM")["status"] == "ok";
    for check in answer["checks"].as_array().context("checks")? {
        // A kernel may lack LSM, and then so much is open that no interface filter is asked for; exactly what is said.
        if matches!(check["name"].as_str(), Some("BPF LSM" | "interface filter"))
            && check["status"] == "warning"
        {
            let detail = check["detail"].as_str().unwrap_or_default();
            // With LSM, only somebody outside the governed set is left for the filter.
            assert_eq!(detail.contains("TUN and TAP"), !lsm, "{check}");
            assert!(detail.contains("Not stopped: "), "{check}");
            continue;
        }
        assert_eq!(check["status"], "ok", "{check}");
    }
    assert!(check(&answer, "capture")["detail"].as_str().is_some_and(|detail| detail.contains("attributed")));
    assert!(
        check(&answer, "hooks")["detail"].as_str().is_some_and(|detail| detail.contains("none attached"))
    );
    assert_eq!(answer["cgroup"], before.as_str(), "the proof brings the process back");
    let instance = format!("doctor-{}", answer["pid"]);
    assert!(!lab.directory(&format!("/lockgate/agent-{instance}")).exists(), "the proof leaves no cgroup");
    assert!(
        !std::path::Path::new(&format!("/sys/fs/bpf/lockgate/v1-{instance}")).exists(),
        "the proof leaves no pins"
    );
    Ok(())
}

#[test]
fn pinned_hooks_are_shown_with_their_port_and_a_missing_one_by_name() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    let hooks = check(&doctor(lab.instance())?, "hooks").clone();
    assert!(
        hooks["detail"].as_str().is_some_and(|detail| detail.contains(&agent.port.to_string())),
        "{hooks}"
    );
    agent.kill()?;
    let pins = agent.ready["pins"].as_str().context("pins")?;
    std::fs::remove_file(format!("{pins}/links/lg_connect6"))?;
    let hooks = check(&doctor(lab.instance())?, "hooks").clone();
    assert_eq!(hooks["status"], "failed");
    assert!(hooks["detail"].as_str().is_some_and(|detail| detail.contains("lg_connect6")), "{hooks}");
    Ok(())
}

#[test]
fn a_running_agent_proves_its_own_capture_and_serves_on() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent()?;
    for _ in 0..3 {
        agent.ask(json!({ "command": "self_test" }))?;
    }
    assert_eq!(outcomes(&lab.client(&lab.inside(), &["dial", &lab.server.at("127.0.0.1")])?), ["proxy"]);
    assert_eq!(outcomes(&lab.client(&lab.outside(), &["dial", &lab.server.at("127.0.0.1")])?), ["direct"]);
    Ok(())
}

#[test]
fn the_proof_works_where_only_a_uid_is_governed() -> Result<()> {
    let lab = Lab::new()?;
    let mut agent = lab.agent_with(json!({ "cgroups": [], "uids": [61_300] }))?;
    agent.ask(json!({ "command": "self_test" }))?;
    Ok(())
}

#[test]
fn the_proof_fails_when_hooks_are_gone_or_nobody_accepts() -> Result<()> {
    let lab = Lab::new()?;
    let mut idle = lab.agent_with(json!({ "hold": true }))?;
    let error = idle.ask(json!({ "command": "self_test" })).err().context("nobody accepts")?;
    assert!(error.to_string().contains("did not arrive"), "{error}");
    drop(idle);
    let mut agent = lab.agent()?;
    lockgate_intercept::detach(&lockgate_intercept::Instance::new(lab.instance())?, None)?;
    let error = agent.ask(json!({ "command": "self_test" })).err().context("the hooks are gone")?;
    assert!(error.to_string().contains("went direct"), "{error}");
    Ok(())
}
