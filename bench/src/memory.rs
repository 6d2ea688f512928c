//! What a session that does nothing costs the agent, and whether a large result costs it anything.

use crate::{
    ground::{Ground, Route, status_kib},
    transfer::{Bulk, Drained, drain},
};
use anyhow::{Context, Result, ensure};
use std::{process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};

/// Sessions before the first reading, so that pools, caches and arenas are there already.
const WARM: usize = 100;

/// Sessions between the two readings.
pub const IDLE: usize = 500;

/// How long opening them may take.
const WITHIN: Duration = Duration::from_secs(120);

/// The agent's resident KiB for each idle session: of the process, so without the kernel's socket buffers.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
pub async fn kib_per_idle_session(ground: &Ground) -> Result<f64> {
    let steps = format!("{WARM},{IDLE}");
    let statement = "SELECT abalance FROM pgbench_accounts WHERE aid = 42";
    let mut client = ground
        .raw_client(Route::Lockgate, &["idle", "--steps", &steps, statement])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut input = client.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(client.stdout.take().context("stdout")?).lines();
    ready(&mut lines).await?;
    let before = settled_rss(ground).await?;
    input.write_all(b"\n").await?;
    ready(&mut lines).await?;
    let after = settled_rss(ground).await?;
    input.write_all(b"\n").await?;
    ensure!(client.wait().await?.success(), "the idle client failed");
    Ok(after.saturating_sub(before) as f64 / IDLE as f64)
}

async fn ready(lines: &mut Lines<BufReader<tokio::process::ChildStdout>>) -> Result<()> {
    let line =
        tokio::time::timeout(WITHIN, lines.next_line()).await.context("sessions were not opened")??;
    ensure!(line.as_deref() == Some("ready"), "expected ready, got {line:?}");
    Ok(())
}

/// Read when the agent's own threads (log, index) have done with what just happened.
async fn settled_rss(ground: &Ground) -> Result<u64> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    status_kib(ground.agent.pid().context("the agent runs")?, "VmRSS")
}

/// One large result, and the agent's memory around it.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// The result.
    pub drained: Drained,
    /// Resident KiB before it.
    pub before_kib: u64,
    /// The most KiB that were resident while it passed.
    pub peak_kib: u64,
}

/// Passes about `bytes` through the agent.
pub async fn large_result(ground: &Ground, bulk: Bulk, bytes: u64) -> Result<Large> {
    let pid = ground.agent.pid().context("the agent runs")?;
    // Its first result of this kind brings in code and buffers; those are not what grows with size.
    drain(ground, Route::Lockgate, &bulk.statement(1)).await?;
    let before_kib = settled_rss(ground).await?;
    // proc(5): resets the high-water mark.
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
    let drained = drain(ground, Route::Lockgate, &bulk.statement(bytes)).await?;
    Ok(Large { drained, before_kib, peak_kib: status_kib(pid, "VmHWM")? })
}
