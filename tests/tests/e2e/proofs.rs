//! What the log proves to somebody who has a file and the public key, and neither the log nor the host's word.

use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::scratch::Scratch;
use std::{fs, process::Output};

fn text(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_proven_off_the_host_and_a_changed_one_is_not() -> Result<()> {
    let world = World::new().await?;
    let early = text(&world.agent.cli(&["audit", "checkpoint"])?)?;
    ensure!(world.psql(&["select 'proof-of-this'"]).await?.code == Some(0));
    world.recorded("session_ended", 1).await?;
    let decided = world.agent.events()?;
    let decided =
        decided.iter().find(|event| event["event"] == "operation_decided").context("no decision")?;
    let decision = decided["data"]["verdict"]["decision"].as_str().context("no id")?;

    // Off the host: files alone, and a directory without a configuration.
    let scratch = Scratch::new("proofs")?;
    let file = |name: &str| scratch.path().join(name);
    let path = |name: &str| file(name).display().to_string();
    fs::copy(world.agent.store().join("keys/log.pub"), file("log.pub"))?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let proofs = loop {
        // The head follows within a second.
        let proved = world.agent.cli(&["audit", "prove", decision, "--out", &path("evidence")])?;
        if proved.status.success() {
            break text(&proved)?;
        }
        ensure!(std::time::Instant::now() < until, "{proved:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    let proof = proofs.lines().next().context("nothing is proven")?.to_owned();
    let check = |proof: &str| {
        let words = ["audit", "check", proof, "--key", &path("log.pub"), "--output", "json"];
        std::process::Command::new(lockgate_tests::agent::built_binary("lockgate")?)
            .args(["--config", "/nonexistent"])
            .args(words)
            .current_dir(scratch.path())
            .output()
            .context("lockgate")
    };
    let checked: serde_json::Value = serde_json::from_str(&text(&check(&proof)?)?)?;
    ensure!(checked["proven"] == "record", "{checked}");
    ensure!(checked["record"]["data"]["operation"]["text"] == "select 'proof-of-this'", "{checked}");

    // One word of the record, of the path or of the note changed: nothing is proven.
    let good = fs::read_to_string(&proof)?;
    let lines: Vec<&str> = good.lines().collect();
    for number in 1..lines.len() {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let line = changed.get_mut(number).context("a line")?;
        let Some(at) = line.len().checked_sub(5) else { continue };
        let other = if line.get(at..=at) == Some("A") { "B" } else { "A" };
        line.replace_range(at..=at, other);
        fs::write(file("changed"), changed.join("\n") + "\n")?;
        let refused = check(&path("changed"))?;
        ensure!(refused.status.code() == Some(1), "line {number}: {refused:?}");
    }

    // The log went on from what was signed before; what is made of another log's head proves nothing.
    fs::write(file("early"), &early)?;
    let growth = text(&world.agent.cli(&["audit", "grown", &path("early")])?)?;
    fs::write(file("growth"), &growth)?;
    let grown: serde_json::Value = serde_json::from_str(&text(&check(&path("growth"))?)?)?;
    ensure!(grown["proven"] == "growth", "{grown}");
    let other = World::new().await?;
    fs::write(file("other"), text(&other.agent.cli(&["audit", "checkpoint"])?)?)?;
    fs::copy(world.agent.store().join("keys/log.pub"), file("log.pub"))?;
    let foreign = world.agent.cli(&["audit", "grown", &path("other")])?;
    if foreign.status.success() {
        fs::write(file("foreign"), &foreign.stdout)?;
        ensure!(check(&path("foreign"))?.status.code() == Some(1));
    }

    // The same session in other tools' words.
    let ocsf = text(&world.agent.cli(&["audit", "export", "--format", "ocsf", "--since", "1h"])?)?;
    let events = ocsf.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>()?;
    let query = |event: &&serde_json::Value| event["query_info"]["query_string"] == "select 'proof-of-this'";
    let told: Vec<_> = events.iter().filter(query).map(|event| event["disposition_id"].as_u64()).collect();
    ensure!(told == [Some(1), None], "allowed, then answered: {told:?}");
    let csv = text(&world.agent.cli(&["audit", "export", "--format", "csv"])?)?;
    ensure!(csv.lines().any(|row| row.contains("responded") && row.contains("SELECT 1")), "{csv}");

    let missing = world.agent.cli(&["audit", "prove", "dec_00000000000000000000000000"])?;
    ensure!(
        !missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("no record mentions")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_come_from_the_agent_wherever_it_is_and_from_the_files_without_one() -> Result<()> {
    let mut world = World::with(crate::world::POLICY, |options, _| {
        options.extra += "login: { bootstrap: { groups: [dba] } }\n";
    })
    .await?;
    ensure!(world.psql(&["select 'proof-from-afar'"]).await?.code == Some(0));
    world.recorded("session_ended", 1).await?;
    let events = world.agent.events()?;
    let decided = events.iter().find(|event| event["event"] == "operation_decided").context("no decision")?;
    let decision = decided["data"]["verdict"]["decision"].as_str().context("no id")?.to_owned();
    // Nothing of this host but the agent's address: no configuration, no store.
    let remote = |role: &str, words: &[&str]| -> Result<Output> {
        let made = world.agent.cli(&["tokens", "make", role, "--role", role, "--program", "--for", "1h"])?;
        let mut command = std::process::Command::new(lockgate_tests::agent::built_binary("lockgate")?);
        command.args(["--config", "/nonexistent"]).args(words).stdin(std::process::Stdio::null());
        command.env("LOCKGATE_URL", world.agent.api()).env("LOCKGATE_TOKEN", text(&made)?.trim());
        Ok(command.output()?)
    };
    let early = text(&remote("auditor", &["audit", "checkpoint"])?)?;
    let scratch = Scratch::new("afar")?;
    let path = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(path("early"), &early)?;
    fs::copy(world.agent.store().join("keys/log.pub"), path("log.pub"))?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let proofs = loop {
        let proved = remote("auditor", &["audit", "prove", &decision, "--out", &path("evidence")])?;
        if proved.status.success() {
            break text(&proved)?;
        }
        ensure!(std::time::Instant::now() < until, "{proved:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    };
    fs::write(path("growth"), text(&remote("auditor", &["audit", "grown", &path("early")])?)?)?;
    let first = proofs.lines().next().context("nothing is proven")?;
    for proof in [first, &path("growth")] {
        let checked = world.agent.cli(&["audit", "check", proof, "--key", &path("log.pub")])?;
        ensure!(text(&checked)?.contains("proven"), "{proof}");
    }
    // Who looks at approvals does not read the log.
    for words in
        [vec!["audit", "checkpoint"], vec!["audit", "prove", decision.as_str()], vec!["audit", "prove", "1"]]
    {
        let refused = remote("viewer", &words)?;
        ensure!(!refused.status.success() && refused.stdout.is_empty(), "{words:?}: {refused:?}");
    }

    // Nobody answers: the files do, and say the same.
    world.agent.terminate().await?;
    let grown = text(&world.agent.cli(&["audit", "grown", &path("early")])?)?;
    fs::write(path("growth"), grown)?;
    let checked = world.agent.cli(&["audit", "check", &path("growth"), "--key", &path("log.pub")])?;
    ensure!(text(&checked)?.contains("proven"));
    let proved = world.agent.cli(&["audit", "prove", &decision, "--out", &path("offline")])?;
    ensure!(text(&proved)?.lines().count() == proofs.lines().count(), "{proved:?} {proofs}");
    Ok(())
}
