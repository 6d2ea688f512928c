//! Evidence off the host and over time: signed heads that were sent find a log that was rolled back, retention and holds leave a log that verifies, traces arrive without what they must not carry.

use crate::world::{POLICY, World};
use anyhow::{Context as _, Result, bail, ensure};
use lockgate_tests::{
    installed::{installed, ocsf_classes},
    receiver::{Receiver, SECRET},
    scratch::{Scratch, free_port},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Schedules of a second, on a machine that does other things.
const WITHIN: Duration = Duration::from_secs(60);

pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + WITHIN;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "not within {WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) fn status(world: &World) -> Result<Value> {
    let socket = format!("{}.sock", world.agent.store().display());
    let asked =
        Command::new("curl").args(["-s", "--unix-socket", &socket, "http://localhost/v1/status"]).output()?;
    Ok(serde_json::from_str(&done(&asked)?)?)
}

pub(crate) fn custody(world: &World, action: &str) -> Result<Vec<Value>> {
    let events = world.events("custody")?;
    Ok(events
        .into_iter()
        .map(|event| event["data"].clone())
        .filter(|data| data["action"] == action)
        .collect())
}

/// `audit verify` with nothing but files.
fn verify(arguments: &[&str]) -> Result<(Option<i32>, Value)> {
    let output = Command::new(lockgate_tests::agent::built_binary("lockgate")?)
        .args(["--config", "/nonexistent", "audit", "verify", "--output", "json"])
        .args(arguments)
        .output()?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    Ok((output.status.code(), report))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(Command::new("cp").arg("-a").arg(from).arg(to).status()?.success(), "cp -a");
    Ok(())
}

pub(crate) fn done(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_were_sent_find_a_log_that_was_rolled_back() -> Result<()> {
    let scratch = Scratch::new("heads")?;
    let receiver = Receiver::start().await?;
    let (heads, secret) = (scratch.path().join("heads"), scratch.write_secret("sink.secret", SECRET)?);
    let objects = scratch.path().join("objects");
    let world = World::with(POLICY, |options, _| {
        options.extra += &format!(
            "evidence:\n  checkpoints:\n    every: 1s\n    to:\n    - {{ file: {} }}\n    - {{ url: \"{}\", secret: {{ file: {} }} }}\n    - {{ objects: {{ to: {} }} }}\n",
            heads.display(),
            receiver.url(),
            secret.display(),
            objects.display(),
        );
    })
    .await?;
    ensure!(world.psql(&["select 1"]).await?.code == Some(0));
    world.recorded("session_ended", 1).await?;
    // An older state of the log, as somebody keeps who means to put it back.
    let old = scratch.path().join("old");
    copy(&world.agent.store(), &old)?;
    let before = fs::read_to_string(old.join("head/checkpoint"))?;
    ensure!(world.psql(&["select 'to-be-hidden'"]).await?.code == Some(0));
    world.recorded("session_ended", 2).await?;
    let last = world.agent.events()?.len() as u64;
    until("every place has the newest head", || {
        let places = status(&world)?["evidence"]["checkpoints"].as_array().cloned().unwrap_or_default();
        let sizes: Vec<_> = places.iter().filter_map(|place| place["size"].as_u64()).collect();
        Ok((sizes.len() == 3 && sizes.iter().all(|size| *size >= last)).then_some(()))
    })
    .await?;
    // The receiver checked the signature of what it counts as delivered.
    let sent = receiver.wait_for(WITHIN, |delivery| delivery.kind() == "lockgate.audit.checkpoint").await?;
    ensure!(sent.data()["checkpoint"].as_str().is_some_and(|note| note.contains("— ")), "{}", sent.data());
    ensure!(fs::read_dir(objects.join("checkpoints"))?.count() == 1, "one node");

    let key = scratch.path().join("log.pub");
    fs::copy(world.agent.store().join("keys/log.pub"), &key)?;
    let now = scratch.path().join("now");
    until("a copy that is not torn verifies", || {
        let _ = fs::remove_dir_all(&now);
        copy(&world.agent.store(), &now)?;
        let paths = [key.display().to_string(), now.display().to_string(), heads.display().to_string()];
        let (code, _) = verify(&["--key", &paths[0], "--log", &paths[1], "--checkpoints", &paths[2]])?;
        Ok((code == Some(0)).then_some(()))
    })
    .await?;
    // The old state is whole by itself; beside what was sent it is short.
    let (key, old, heads) =
        (key.display().to_string(), old.display().to_string(), heads.display().to_string());
    if before.lines().nth(1) != Some("0") {
        ensure!(verify(&["--key", &key, "--log", &old])?.0 == Some(0));
    }
    let (code, report) = verify(&["--key", &key, "--log", &old, "--checkpoints", &heads])?;
    ensure!(code == Some(1), "{report}");
    let truncated =
        report["findings"].as_array().is_some_and(|all| all.iter().any(|f| f["problem"] == "truncated"));
    ensure!(truncated, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_does_not_take_heads_raises_an_alarm_and_an_export_verifies_by_itself() -> Result<()> {
    let scratch = Scratch::new("late")?;
    let port = free_port()?;
    let secret = scratch.write_secret("sink.secret", SECRET)?;
    let heads = scratch.path().join("heads");
    let world = World::with(POLICY, |options, _| {
        options.extra += &format!(
            "evidence:\n  checkpoints:\n    every: 1s\n    to:\n    - {{ url: \"http://127.0.0.1:{port}/\", secret: {{ file: {} }} }}\n    - {{ file: {} }}\n",
            secret.display(),
            heads.display(),
        );
    })
    .await?;
    until("the alarm is recorded", || Ok(custody(&world, "checkpoints_late")?.into_iter().next())).await?;
    ensure!(status(&world)?["evidence"]["checkpoints"][0]["late"] == true);
    ensure!(world.psql(&["select 'exported'"]).await?.code == Some(0));
    world.recorded("session_ended", 1).await?;
    let last = world.agent.events()?.len() as u64;
    until("the other place has the newest head", || {
        Ok(status(&world)?["evidence"]["checkpoints"][1]["size"].as_u64().filter(|size| *size >= last))
    })
    .await?;
    let export = scratch.path().join("export.jsonl");
    fs::write(&export, done(&world.agent.cli(&["audit", "export", "--format", "jsonl"])?)?)?;
    let key = world.agent.store().join("keys/log.pub").display().to_string();
    let (path, heads) = (export.display().to_string(), heads.display().to_string());
    let (code, report) = verify(&["--key", &key, "--export", &path, "--checkpoints", &heads])?;
    ensure!(code == Some(0), "{report}");
    let text = fs::read_to_string(&export)?;
    fs::write(&export, text.replacen("select 'exported'", "select 'expected'", 1))?;
    ensure!(verify(&["--key", &key, "--export", &path, "--checkpoints", &heads])?.0 == Some(1));
    Ok(())
}

/// A server from PyPI, ended with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn listening(port: u16) -> Result<()> {
    until("it listens", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_and_holds_leave_a_log_that_verifies() -> Result<()> {
    let scratch = Scratch::new("retention")?;
    let archive = scratch.path().join("archive");
    let world = World::with(POLICY, |options, _| {
        options.extra += &format!(
            "evidence:\n  retention: {{ keep: 1s, every: 7d, segment_bytes: 65536, archive: {{ to: {} }} }}\n",
            archive.display()
        );
    })
    .await?;
    let filler = format!("select '{}'", "x".repeat(2_000));
    let statements = vec![filler.as_str(); 60];
    for _ in 0..4 {
        ensure!(world.psql(&statements).await?.code == Some(0));
    }
    let started = world.recorded("session_started", 4).await?;
    world.recorded("session_ended", 4).await?;
    let held =
        started[0]["session"].as_str().or(started[0]["data"]["id"].as_str()).context("an id")?.to_owned();
    let name = done(&world.agent.cli(&["audit", "hold", "--session", &held, "--reason", "case 12"])?)?;
    let name = name.trim();
    ensure!(done(&world.agent.cli(&["audit", "holds"])?)?.contains(name));
    until("something is over its time", || {
        let plan = world.agent.json(&["audit", "retain", "--plan"])?;
        Ok(plan["remove"].as_array().is_some_and(|remove| !remove.is_empty()).then_some(()))
    })
    .await?;
    let run = world.agent.json(&["audit", "retain"])?;
    ensure!(run["removed"].as_u64().is_some_and(|removed| removed > 0), "{run}");
    let why = format!("hold {name}");
    ensure!(run["kept"].as_object().is_some_and(|kept| kept.values().any(|reason| *reason == *why)), "{run}");
    let held_records = world.agent.json(&["sessions", "show", &held])?;
    ensure!(held_records.to_string().contains("session_ended"), "the held session is whole");
    let report = world.agent.json(&["audit", "verify"])?;
    ensure!(report["integrity"] == "intact", "{report}");
    ensure!(report["removed"][0]["policy"] == "retention 1s", "{report}");
    ensure!(fs::read_dir(archive.join("segments"))?.count() == 1, "the archive has them");
    // Nobody but an administrator of the host changes this; and what is let go, goes.
    done(&world.agent.cli(&["audit", "release", name, "--reason", "closed"])?)?;
    ensure!(!done(&world.agent.cli(&["audit", "holds"])?)?.contains(name));
    let run = world.agent.json(&["audit", "retain"])?;
    ensure!(run["removed"].as_u64().is_some_and(|removed| removed > 0), "{run}");
    let report = world.agent.json(&["audit", "verify"])?;
    ensure!(report["integrity"] == "intact", "{report}");
    ensure!(custody(&world, "hold_released")?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_logs_arrive_and_carry_no_statement() -> Result<()> {
    let scratch = Scratch::new("otlp")?;
    let (http, grpc) = (free_port()?, free_port()?);
    let path = scratch.path().join("rotel.log");
    let log = fs::File::create(&path)?;
    let site = installed("sinks/lib")?;
    let agent = fs::read_dir(site)?
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/rotel/rotel-agent"))
        .find(|path| path.exists())
        .context("rotel-agent")?;
    let _rotel = Server(
        Command::new(agent)
            .args([
                "start",
                "--debug-log",
                "traces",
                "--debug-log",
                "logs",
                "--debug-log-verbosity",
                "detailed",
            ])
            .args(["--exporter", "blackhole"])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()?,
    );
    listening(http).await?;
    let world = World::with(POLICY, |options, _| {
        options.extra += &format!("telemetry:\n  otlp: {{ endpoint: \"http://127.0.0.1:{http}\" }}\n");
    })
    .await?;
    let statements = ["select 'a-literal-of-mine', count(*) from orders", "delete from orders"];
    let _ = world.psql(&statements).await?;
    world.recorded("session_ended", 1).await?;
    let wanted =
        ["db.query.summary", "db.system.name", "postgresql", "lockgate.session.id", "operation.denied"];
    let mut missing = Vec::new();
    let arrived = until("spans and logs arrive", || {
        let text = fs::read_to_string(&path)?;
        missing = wanted.iter().filter(|word| !text.contains(**word)).collect();
        Ok(missing.is_empty().then_some(text))
    })
    .await;
    let text = arrived.with_context(|| format!("missing: {missing:?}; {:?}", status(&world)))?;
    if text.contains("a-literal-of-mine") {
        bail!("a statement's text is in a span");
    }
    let exported = &status(&world)?["evidence"]["otlp"];
    ensure!(exported["dropped"] == 0 && exported["sent"].as_u64() > Some(0), "{exported}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_dashboard_and_the_alerts_name_an_agent_shows() -> Result<()> {
    let scratch = Scratch::new("metrics")?;
    let heads = scratch.path().join("heads");
    let world = World::with(POLICY, |options, _| {
        options.extra +=
            &format!("evidence:\n  checkpoints: {{ every: 1s, to: [{{ file: {} }}] }}\n", heads.display());
    })
    .await?;
    // Let pass, refused, and held until nobody answered.
    let _ = world.psql(&["select 1", "delete from orders", "truncate orders"]).await?;
    world.recorded("session_ended", 1).await?;
    let monitoring = Path::new(env!("CARGO_MANIFEST_DIR")).join("../userspace/deploy/monitoring");
    let mut named = std::collections::BTreeSet::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        let text = fs::read_to_string(monitoring.join(file))?;
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        named.extend(words.filter(|word| word.starts_with("lockgate_")).map(str::to_owned));
    }
    ensure!(named.len() > 15, "the files were not read: {named:?}");
    until("every metric is shown", || {
        let shown =
            done(&Command::new("curl").args(["-s", &format!("{}/metrics", world.agent.api())]).output()?)?;
        let missing =
            |name: &&String| !shown.lines().any(|line| line.split(['{', ' ']).next() == Some(name.as_str()));
        let missing: Vec<_> = named.iter().filter(missing).collect();
        Ok(missing.is_empty().then_some(()))
    })
    .await
    .with_context(|| format!("{named:?}"))?;
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        done(
            &Command::new("promtool")
                .args(arguments)
                .current_dir(&monitoring)
                .output()
                .context("promtool")?,
        )?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_exported_as_ocsf_is_of_the_published_schema() -> Result<()> {
    let scratch = Scratch::new("ocsf")?;
    let world = World::new().await?;
    let statements = [
        "select 1",
        "select * from customers",
        "delete from orders",
        "insert into orders (id) values (99)",
        "truncate orders",
    ];
    let _ = world.psql(&statements).await?;
    world.recorded("session_ended", 1).await?;
    let export = scratch.path().join("ocsf.jsonl");
    fs::write(&export, done(&world.agent.cli(&["audit", "export", "--format", "ocsf"])?)?)?;
    let classes: Value = serde_json::from_str(&ocsf_classes(&export)?)?;
    for class in ["6005", "3003"] {
        ensure!(classes[class].as_u64() > Some(0), "no event of class {class}: {classes}");
    }
    Ok(())
}
