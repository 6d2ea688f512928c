//! What the kernel side refuses and loses goes to the record, and who looks is told.

use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::{built_binary, http_status},
    job::{self, JOB_UID},
};
use std::time::Instant;
use std::{path::Path, process::Command, time::Duration};

/// A second for the alarm, and what a busy machine adds.
const ALARM_WITHIN: Duration = Duration::from_secs(3);

async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !holds().await? {
        ensure!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_refuses_is_in_the_record() -> Result<()> {
    let world = World::new().await?;
    let client = world.agent.scratch().path().join("capture-client");
    std::fs::copy(built_binary("capture_client")?, &client)?;
    let address = world.pg.addr().to_string();
    let job = job::governed(&world.agent, JOB_UID, &[], &[&client.display().to_string(), "udp", &address]);
    let done = job::run(job).await?;
    ensure!(done.stdout.contains("EPERM"), "{done:?}");
    eventually("a record of the refusal", ALARM_WITHIN, async || {
        let events = world.agent.events()?;
        Ok(events.iter().any(|event| {
            let text = event.to_string();
            text.contains("flow_refused")
                && text.contains("refused in the kernel (not_tcp)")
                && text.contains(&address)
        }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_root_takes_away_is_recorded_and_ends_readiness() -> Result<()> {
    let world = World::new().await?;
    let port = world.agent.api().rsplit(':').next().context("a port")?.trim_end_matches('/').parse()?;
    ensure!(http_status(port, "/readyz").await == Some(200), "ready before");
    let status = world.agent.cli(&["doctor", "--output", "json"])?;
    let doctor: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let pins = doctor["agent"]["hooks"]["pins"].as_str().context("pins")?.to_owned();
    for expected in ["socket hooks", "packet filter", "sweep", "coverage"] {
        let check = doctor["checks"].as_array().into_iter().flatten().find(|check| check["name"] == expected);
        ensure!(check.is_some_and(|check| check["status"] == "ok"), "{expected}: {doctor}");
    }
    let link = Path::new(&pins).join("links/lg_connect4");
    let taken = Command::new(built_binary("capture_agent")?).arg("detach-link").arg(link).output()?;
    ensure!(taken.status.success(), "{taken:?}");
    eventually("an alarm in the record", ALARM_WITHIN, async || {
        let events = world.agent.events()?;
        Ok(events.iter().any(|event| {
            let text = event.to_string();
            text.contains("\"gap\"") && text.contains("hook_lost") && text.contains("lg_connect4")
        }))
    })
    .await?;
    eventually("no longer ready", ALARM_WITHIN, async || Ok(http_status(port, "/readyz").await == Some(503)))
        .await?;
    let metrics = world.agent.cli(&["doctor"])?;
    ensure!(metrics.status.code() == Some(1), "doctor says so: {metrics:?}");
    Ok(())
}
