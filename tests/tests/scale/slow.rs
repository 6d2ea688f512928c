//! Peers that are slower than the other side: what waits is bounded, whoever waits for whom.

use super::{World, size, well};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// What the daemon may grow by while 150 MB or a gigabyte waits for its reader. A commit of the search index, which the
/// session's own records cause, brings a new arena of some 15 MiB before the old one is given back, whatever is sent.
const GROWTH: u64 = 64 * 1024 * 1024;
/// A DataRow with one field of 1,000 bytes.
const ROW: u64 = 1 + 4 + 2 + 4 + 1000;

#[tokio::test]
async fn a_slow_reader_gets_a_big_result_whole_and_costs_no_memory() -> Result<()> {
    let world = World::start(20).await?;
    let rows = size(1_000_000, 150_000) as u64;
    let seconds = size(20, 4);
    settled(&world).await?;
    let before = world.resident()?;
    let mut load = world.load(&["slow", &seconds.to_string(), &rows.to_string()])?;
    let mut most = 0;
    while load.waits() {
        most = most.max(world.resident()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let done = load.done().await?;
    well(&done, &world)?;
    let grown = most.saturating_sub(before);
    ensure!(grown < GROWTH, "the daemon grew by {grown} bytes while {} waited", rows * ROW);
    let whole: u64 =
        done.stdout.lines().find_map(|line| line.strip_prefix("whole ")).unwrap_or("0").parse()?;
    ensure!((rows * ROW..rows * ROW + 200).contains(&whole), "{whole} bytes of {}", rows * ROW);
    world.through.closings_match().await
}

#[tokio::test]
async fn a_client_that_only_sends_is_pressed_back() -> Result<()> {
    let world = World::start(20).await?;
    settled(&world).await?;
    let before = world.resident()?;
    let mut load = world.load(&["deaf", "6"])?;
    let mut most = 0;
    while load.waits() {
        most = most.max(world.resident()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let done = load.done().await?;
    well(&done, &world)?;
    ensure!(done.stdout.contains("pressed back after"), "nothing held it back: {}", done.stdout);
    let grown = most.saturating_sub(before);
    ensure!(grown < GROWTH, "the daemon grew by {grown} bytes");
    world.until("the end of its backend", || Ok(world.backends()? == 0)).await?;
    world.through.closings_match().await
}

/// What the first session brings along once, whatever it is sent: the catalogue, and the search index's first commit some
/// seconds later. Over when the daemon has not grown for longer than a commit takes to come.
async fn settled(world: &World) -> Result<()> {
    well(&world.load(&["slow", "0", "100"])?.done().await?, world)?;
    let until = Instant::now() + Duration::from_secs(60);
    let (mut most, mut grew) = (world.resident()?, Instant::now());
    while grew.elapsed() < Duration::from_secs(8) {
        ensure!(Instant::now() < until, "the daemon does not stop growing, it has {most} bytes");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = world.resident()?;
        if now > most + 128 * 1024 {
            (most, grew) = (now, Instant::now());
        }
    }
    Ok(())
}
