//! Recordings in a bucket that keeps them: nobody takes them away there, a bucket that keeps nothing gets nothing, and what
//! is fetched from it is held against the log.

use crate::{
    evidence::{custody, done, status, until},
    world::{POLICY, SSN, World},
};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    bucket::{ACCESS_KEY, BucketServer, SECRET_KEY},
    scratch::{Scratch, free_port},
};
use serde_json::Value;
use std::{fs, process::Command};

/// A policy under which rows are recorded.
fn recording() -> String {
    POLICY.replacen("  effect: allow\n", "  effect: allow\n  record: { results: masked }\n", 1)
}

fn recordings(scratch: &Scratch, port: u16) -> Result<String> {
    let secret = scratch.write_secret("s3.secret", SECRET_KEY)?;
    Ok(format!(
        "evidence:\n  recordings:\n    refuse_after: 1s\n    objects:\n      to: \"s3://evidence/lockgate\"\n      \
         endpoint: \"http://127.0.0.1:{port}\"\n      region: us-east-1\n      access_key: {ACCESS_KEY}\n      \
         secret_key: {{ file: {} }}\n      lock: required\n",
        secret.display()
    ))
}

/// What `doctor` says of buckets: status and detail.
fn doctor(world: &World) -> Result<(String, String)> {
    let output = world.agent.cli(&["doctor", "--output", "json"])?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    let checks = report["checks"].as_array().context("no checks")?;
    let bucket = checks.iter().find(|check| check["name"] == "bucket").context("no bucket is checked")?;
    let text = |name: &str| bucket[name].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("detail")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_recorded_stays_in_a_bucket_with_object_lock_and_sessions_wait_for_it() -> Result<()> {
    let scratch = Scratch::new("recordings")?;
    let port = free_port()?;
    let extra = recordings(&scratch, port)?;
    let world = World::with(&recording(), |options, _| {
        for target in &mut options.targets {
            *target = target.replacen("tags: { ", "tags: { record: required, ", 1);
        }
        options.extra += &extra;
    })
    .await?;
    // The store is away. What runs is recorded in the log, and its recording waits.
    ensure!(world.psql(&["select id, ssn from customers order by id limit 1"]).await?.code == Some(0));
    until("sessions are refused", || Ok(custody(&world, "recordings_blocked")?.into_iter().next())).await?;
    let refused = world.psql(&["select 'not-recorded'"]).await?;
    ensure!(refused.code != Some(0), "{refused:?}");
    ensure!(!world.target_saw("not-recorded")?);
    ensure!(status(&world)?["evidence"]["recordings"]["blocked"] == true);
    ensure!(doctor(&world)?.0 == "failed", "{:?}", doctor(&world)?);

    // It is there, and keeps nothing: it gets nothing.
    let server = BucketServer::start(port).await?;
    server.make_without_lock()?;
    until("a bucket without lock is no place", || {
        let error = &status(&world)?["evidence"]["recordings"]["error"];
        Ok(error.as_str().is_some_and(|error| error.contains("no object lock")).then_some(()))
    })
    .await?;
    let (found, detail) = doctor(&world)?;
    ensure!(found == "failed" && detail.contains("no object lock"), "{found}: {detail}");
    // An empty bucket can be removed.
    server.remove()?;

    server.make_with_lock()?;
    let stored =
        until("it is stored", || Ok(custody(&world, "recording_stored")?.into_iter().next())).await?;
    until("sessions begin again", || Ok(custody(&world, "recordings_resumed")?.into_iter().next())).await?;
    let (found, detail) = doctor(&world)?;
    ensure!(found == "ok" && detail.contains("COMPLIANCE for 400 days"), "{found}: {detail}");
    // One that goes in pieces: of each result 64 KiB are recorded, and pieces have 8 MiB.
    let large = "select repeat('recorded-again ', 500) from generate_series(1, 10)";
    ensure!(world.psql(&[large; 170]).await?.code == Some(0));
    until("both are stored", || Ok((custody(&world, "recording_stored")?.len() == 2).then_some(()))).await?;

    let versions = server.versions()?;
    ensure!(versions.len() == 2, "{versions:?}");
    let in_pieces = |version: &&Value| version["etag"].as_str().is_some_and(|etag| etag.contains('-'));
    ensure!(versions.iter().filter(in_pieces).count() == 1, "{versions:?}");
    for version in &versions {
        ensure!(version["mode"] == "COMPLIANCE" && version["days"].as_u64() >= Some(399), "{version}");
        let (name, id) =
            (version["name"].as_str().context("a name")?, version["version"].as_str().context("a version")?);
        let refused = server.attack(name, id)?;
        ensure!(refused.len() == 4 && refused.iter().all(Option::is_some), "{name}: {refused:?}");
    }
    // What came whole came with its hash.
    let whole = versions.iter().find(|version| !in_pieces(version)).context("one came whole")?;
    ensure!(whole["sha256"] == stored["sha256"], "{whole}");
    ensure!(whole["checksum"] == whole["sha256"], "the service was given another checksum: {whole}");

    // Both are still there, and are what the log keeps the hashes of; anything else is not.
    for (number, version) in versions.iter().enumerate() {
        let file = scratch.path().join(format!("recording-{number}.jsonl"));
        let path = file.display().to_string();
        let text = |name: &str| version[name].as_str().unwrap_or_default().to_owned();
        server.fetch(&text("name"), &text("version"), &file)?;
        let verified = until("the log's word of it is signed", || {
            let output = world.agent.cli(&["audit", "verify", "--recording", &path, "--output", "json"])?;
            Ok((output.status.code() == Some(0)).then_some(output))
        })
        .await?;
        let report: Value = serde_json::from_slice(&verified.stdout)?;
        ensure!(report["recordings"][0]["stored"]["name"] == version["name"], "{report}");
        // Replayed from the file alone, on another machine.
        let replayed = Command::new(built_binary("lockgate")?)
            .args(["--config", "/nonexistent", "sessions", "replay", "--recording", &path])
            .output()?;
        let timeline = done(&replayed)?;
        let expected = if version == whole { "select id, ssn from customers" } else { "recorded-again" };
        ensure!(timeline.contains(expected), "{}", timeline.chars().take(2_000).collect::<String>());
        let text = fs::read_to_string(&file)?;
        ensure!(text.contains("result_rows") && text.contains("session_ended"));
        ensure!(!text.contains(SSN), "masked in the recording as on the wire");
        fs::write(&file, text.replacen("session_ended", "session_ender", 1))?;
        let output = world.agent.cli(&["audit", "verify", "--recording", &path])?;
        ensure!(output.status.code() == Some(1), "{output:?}");
    }
    Ok(())
}
