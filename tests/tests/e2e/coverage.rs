//! Coverage as a number, in the audit: whole at the start, and with a hole when somebody takes a hook away.

use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::agent::built_binary;
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Told with the look of the next second; a busy machine takes longer.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn coverage_is_recorded_whole_and_with_a_hole() -> Result<()> {
    let world = World::new().await?;
    let first = told(&world, |_| true).await?;
    for zero in ["bypassed", "not_governed", "untold"] {
        ensure!(first[zero] == 0, "{zero}: {first}");
    }
    ensure!(first["hooks_lost"] == json!([]) && first["hooks"].as_u64() >= Some(10), "{first}");
    let doctor = world.agent.cli(&["doctor", "--output", "json"])?;
    let doctor: Value = serde_json::from_slice(&doctor.stdout)?;
    let pins = doctor["agent"]["hooks"]["pins"].as_str().context("pins")?;
    let link = Path::new(pins).join("links/lg_sendmsg4");
    let taken = Command::new(built_binary("capture_agent")?).arg("detach-link").arg(link).output()?;
    ensure!(taken.status.success(), "{taken:?}");
    let hole = told(&world, |coverage| coverage["hooks_lost"].to_string().contains("lg_sendmsg4")).await?;
    ensure!(hole["hooks"].as_u64() < first["hooks"].as_u64(), "{first} and then {hole}");
    Ok(())
}

/// The first record of the coverage that is meant.
async fn told(world: &World, is_meant: impl Fn(&Value) -> bool) -> Result<Value> {
    let until = Instant::now() + TOLD_WITHIN;
    loop {
        let events = world.events("coverage")?;
        let mut found = events.iter().map(|event| &event["data"]);
        if let Some(coverage) = found.find(|coverage| is_meant(coverage)) {
            return Ok(coverage.clone());
        }
        ensure!(Instant::now() < until, "not within {TOLD_WITHIN:?}; recorded: {events:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
