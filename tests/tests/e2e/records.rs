//! The log: everything is in it, nothing goes on without it, and nobody can change it unseen.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{self, JOB_UID},
    receiver::Decision,
    scratch::Scratch,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_listed_shown_and_replayed() -> Result<()> {
    let world = World::new().await?;
    let job = world
        .start(&["select note from orders where id = 1", "alter table orders add column replayed text"])?;
    let request = world.receiver.requested("replayed").await?;
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(job.done().await?.code == Some(0));
    world.recorded("session_ended", 1).await?;

    let list = world.agent.json(&["sessions", "list"])?;
    let text = list.to_string();
    let id = text
        .find("ses_")
        .and_then(|at| text.get(at..at + 30))
        .with_context(|| format!("no session is listed: {list}"))?
        .to_owned();
    ensure!(text.contains("orders-db"), "{list}");
    let shown = world.agent.json(&["sessions", "show", &id])?.to_string();
    for part in ["select note from orders where id = 1", "replayed", "ana@example.com", "schema-change-dba"] {
        ensure!(shown.contains(part), "{part:?} is missing: {shown}");
    }
    let replay = world.agent.cli(&["sessions", "replay", &id])?;
    let replay = String::from_utf8_lossy(&replay.stdout).into_owned();
    for part in ["alter table orders", "schema-change-dba", "ana@example.com", "approve by ana"] {
        ensure!(replay.to_lowercase().contains(part), "{part:?} is missing from the replay:\n{replay}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_at_once_are_told_apart() -> Result<()> {
    let world = World::new().await?;
    let port = world.pg.port().to_string();
    let start = |uid: u32, repository: &'static str, marker: &str| {
        let statement = format!("select '{marker}', pg_sleep(0)");
        let statements = [statement.as_str(), "select 1"];
        let environment =
            [("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", repository), ("GITHUB_RUN_ID", "4711")];
        let command = job::psql("127.0.0.1", &port, "shop", &statements);
        job::start(job::governed(&world.agent, uid, &environment, &command))
    };
    let mut running = Vec::new();
    for round in 0..8 {
        running.push(start(JOB_UID, "acme/one", &format!("one-{round}"))?);
        running.push(start(JOB_UID - 1, "acme/two", &format!("two-{round}"))?);
    }
    for job in running {
        ensure!(job.done().await?.code == Some(0));
    }
    let started = world.recorded("session_started", 16).await?;
    let decided = world.events("operation_decided")?;
    ensure!(world.recorded("session_ended", 16).await?.len() == 16);
    for round in 0..8 {
        for (marker, uid, repository) in [("one", JOB_UID, "acme/one"), ("two", JOB_UID - 1, "acme/two")] {
            let marker = format!("{marker}-{round}");
            let operation =
                decided.iter().find(|event| event.to_string().contains(&marker)).context("operation")?;
            let session = session_of(operation)?;
            let session =
                started.iter().find(|event| event.to_string().contains(&session)).context("session")?;
            let text = session.to_string();
            ensure!(
                text.contains(&format!("\"uid\":{uid}")) && text.contains(repository),
                "{marker}: {text}"
            );
            ensure!(text.contains("\"claimed\""), "CI facts from the environment are claims: {text}");
        }
    }
    Ok(())
}

fn session_of(record: &serde_json::Value) -> Result<String> {
    let text = record.to_string();
    let at = text.find("ses_").context("a session id")?;
    Ok(text.get(at..at + 30).context("a session id")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_refuses_operations_and_recovers() -> Result<()> {
    let mount = SmallDisk::new()?;
    let store = mount.path.join("store");
    let world = World::with(POLICY, |options, _| options.store = Some(store)).await?;
    ensure!(world.psql(&["select 'before'"]).await?.code == Some(0));
    let filler = mount.path.join("filler");
    // Fill it to the last byte.
    let mut file = std::fs::File::create(&filler)?;
    let block = vec![0_u8; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    drop(file);

    // The log's last page may still have room for a few records.
    let mut refused = None;
    for number in 0..40 {
        let marker = format!("full-{number}-");
        let insert = format!("insert into orders values ({}, 1, 1, '{marker}')", 600 + number);
        let done = world.psql(&[&insert]).await?;
        let seen = world.target_saw(&marker)?;
        ensure!(seen == (done.code == Some(0)), "an unrecorded operation reached the target: {done:?}");
        if !seen {
            refused = Some(done);
            break;
        }
    }
    let refused = refused.context("forty operations were recorded on a full disk")?;
    ensure!(!refused.stderr.is_empty(), "no clear error: {refused:?}");

    std::fs::remove_file(&filler)?;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(15);
    while world.psql(&["select 'after'"]).await?.code != Some(0) {
        ensure!(std::time::Instant::now() < until, "it did not recover: {}", world.agent.log());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    let verify = world.agent.cli(&["audit", "verify"])?;
    ensure!(verify.status.success(), "{verify:?}");
    drop(world);
    drop(mount);
    Ok(())
}

/// A tmpfs of 1.5 MiB, unmounted on drop.
struct SmallDisk {
    path: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    fn new() -> Result<Self> {
        let scratch = Scratch::new("small")?;
        let path = scratch.path().join("disk");
        std::fs::create_dir(&path)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1536k,mode=755", "none"])
            .arg(&path)
            .status()?;
        ensure!(status.success(), "mount -t tmpfs needs root");
        Ok(Self { path, _scratch: scratch })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_is_found() -> Result<()> {
    let mut world = World::new().await?;
    for number in 0..4 {
        ensure!(
            world.psql(&[&format!("insert into orders values ({}, 1, 1, 'n')", 200 + number)]).await?.code
                == Some(0)
        );
    }
    world.recorded("session_ended", 4).await?;
    world.agent.terminate().await?;
    let good = world.agent.cli(&["audit", "verify"])?;
    ensure!(good.status.success(), "{good:?}");

    let segments = world.agent.store().join("segments");
    let segment = newest(&segments)?;
    let original = std::fs::read_to_string(&segment)?;
    let lines: Vec<&str> = original.lines().collect();
    ensure!(lines.len() > 10, "{} records", lines.len());
    let join = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let mut swapped = lines.clone();
    swapped.swap(4, 5);
    let cases = [
        ("edited", original.replacen("test-node", "best-node", 3)),
        ("deleted", join(&[&lines[..4], &lines[5..]].concat())),
        ("reordered", join(&swapped)),
        ("truncated", join(&lines[..lines.len() - 3])),
        ("emptied", String::new()),
    ];
    for (what, text) in cases {
        ensure!(text != original, "{what}: nothing was changed");
        std::fs::write(&segment, text)?;
        let verify = world.agent.cli(&["audit", "verify"])?;
        ensure!(verify.status.code() == Some(1), "{what} was not found: {verify:?}");
    }
    std::fs::write(&segment, &original)?;
    ensure!(world.agent.cli(&["audit", "verify"])?.status.success());
    Ok(())
}

fn newest(dir: &Path) -> Result<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(dir)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    all.sort();
    all.pop().context("no segment")
}
