//! Servers, clients and daemons that end in the middle of things.

use super::{World, size, well};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{Done, Running},
    through::{Through, is_of},
};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::time::sleep;

/// Clients of the load.
const CLIENTS: usize = 12;

/// What `lockgate-load again` says.
struct Load {
    answers: u64,
    working: usize,
    failures: BTreeMap<String, u64>,
}

impl Load {
    fn of(done: &Done) -> Result<Self> {
        let number = |name: &str| {
            let line =
                done.stdout.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
            Ok::<u64, anyhow::Error>(line.trim().parse()?)
        };
        let failures = done.stdout.lines().filter_map(|line| line.strip_prefix("failed "));
        let failures = failures.filter_map(|line| {
            let (times, error) = line.split_once(' ')?;
            Some((error.to_owned(), times.parse().ok()?))
        });
        Ok(Self {
            answers: number("answers ")?,
            working: number("working at the end ")? as usize,
            failures: failures.collect(),
        })
    }

    /// Every failure says one of these.
    fn failed_with(&self, known: &[&str]) -> Result<()> {
        for error in self.failures.keys() {
            ensure!(known.iter().any(|known| error.contains(known)), "{error}: {:?}", self.failures);
        }
        Ok(())
    }
}

/// Each session that was opened is closed once, by its id.
fn one_closing_each(through: &Through) -> Result<BTreeMap<String, u64>> {
    let mut reasons = BTreeMap::new();
    let (mut open, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for event in through.agent.events()? {
        let Some(session) = session_of(&event) else { continue };
        if is_of(&event, "session_started") {
            ensure!(open.insert(session.clone()), "{session} started twice");
        } else if is_of(&event, "session_ended") {
            ensure!(closed.insert(session.clone()), "{session} was closed twice");
            *reasons.entry(reason_of(&event).unwrap_or_default()).or_default() += 1;
        }
    }
    ensure!(open == closed, "without a closing record: {:?}", open.difference(&closed).collect::<Vec<_>>());
    ensure!(!open.is_empty(), "no session was recorded");
    Ok(reasons)
}

fn session_of(event: &serde_json::Value) -> Option<String> {
    find(event, "session").or_else(|| find(event, "session_id"))
}

fn reason_of(event: &serde_json::Value) -> Option<String> {
    find(event, "reason")
}

/// The first text under this name, however deep.
fn find(value: &serde_json::Value, name: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(fields) => {
            let here = fields.get(name).and_then(|value| value.as_str().map(str::to_owned));
            let session = fields.get(name).and_then(|value| value.get("id")?.as_str().map(str::to_owned));
            here.or(session).or_else(|| fields.values().find_map(|value| find(value, name)))
        }
        _ => None,
    }
}

/// The load, at work.
async fn start(world: &World) -> Result<Running> {
    let load = world.load(&["again", &CLIENTS.to_string()])?;
    sessions(world, CLIENTS).await?;
    // A session is recorded before its first statement: these are to be in the middle of theirs.
    sleep(Duration::from_secs(1)).await;
    Ok(load)
}

/// Waits until so many sessions have been opened in all.
async fn sessions(world: &World, count: usize) -> Result<()> {
    world.until("as many sessions", || Ok(opened(world)? >= count)).await
}

fn opened(world: &World) -> Result<usize> {
    let events = world.through.agent.events()?;
    Ok(events.iter().filter(|event| is_of(event, "session_started")).count())
}

/// Ends the load; every client must have had an answer since its last failure.
async fn stop(load: Running, world: &World) -> Result<Load> {
    load.signal(Signal::SIGTERM)?;
    let done = load.done().await?;
    well(&done, world)?;
    let load = Load::of(&done)?;
    ensure!(load.working == CLIENTS, "{} of {CLIENTS} work again: {:?}", load.working, load.failures);
    ensure!(load.answers > CLIENTS as u64, "{} answers", load.answers);
    ensure!(!load.failures.is_empty(), "nobody noticed");
    Ok(load)
}

#[tokio::test]
async fn a_server_that_crashes_under_load_costs_its_sessions_and_nothing_else() -> Result<()> {
    let mut world = World::start(60).await?;
    let load = start(&world).await?;
    for _ in 0..size(6, 2) {
        let before = opened(&world)?;
        world.through.pg.kill()?;
        sleep(Duration::from_millis(200)).await;
        world.through.pg.restart()?;
        sessions(&world, before + CLIENTS).await?;
        sleep(Duration::from_millis(500)).await;
    }
    let words =
        ["08006 lockgate: the target", "57P01", "57P02", "57P03", "08004 lockgate: the target refused"];
    let load = stop(load, &world).await?;
    load.failed_with(&words).with_context(|| world.through.agent.log())?;
    world.through.closings_match().await?;
    one_closing_each(&world.through)?;
    Ok(())
}

#[tokio::test]
async fn a_daemon_that_is_told_to_stop_under_load_ends_every_session_in_words() -> Result<()> {
    let mut world = World::start(60).await?;
    let load = start(&world).await?;
    world.through.agent.terminate().await?;
    let reasons = one_closing_each(&world.through)?;
    ensure!(reasons.contains_key("drained"), "{reasons:?}");
    world.through.agent.launch().await?;
    let load = stop(load, &world).await?;
    // While nobody listens the kernel refuses: fail closed, and at once.
    load.failed_with(&["57P01 lockgate: stopping", "Connection refused", "connection closed", "reset"])?;
    ensure!(
        load.failures.keys().any(|error| error.contains("57P01")),
        "nobody was told: {:?}",
        load.failures
    );
    world.through.closings_match().await
}

#[tokio::test]
async fn a_daemon_that_crashes_under_load_leaves_no_session_open_in_the_record() -> Result<()> {
    let mut world = World::start(60).await?;
    let load = start(&world).await?;
    for _ in 0..2 {
        let before = opened(&world)?;
        world.through.agent.kill();
        sleep(Duration::from_millis(300)).await;
        world.through.agent.launch().await?;
        sessions(&world, before + CLIENTS).await?;
    }
    stop(load, &world).await?.failed_with(&[
        "Connection refused",
        "connection closed",
        "reset",
        "unexpected",
    ])?;
    world.through.closings_match().await?;
    let reasons = one_closing_each(&world.through)?;
    ensure!(reasons.contains_key("crash"), "{reasons:?}");
    // The server has lost its clients, too.
    world.until("the end of the backends", || Ok(world.backends()? == 0)).await
}

#[tokio::test]
async fn clients_that_vanish_in_the_middle_leave_nothing_behind() -> Result<()> {
    let world = World::start(30).await?;
    world.through.pg.psql("CREATE TABLE gone (a text)")?;
    for what in ["held", "queued", "copying-in", "copying-out"] {
        let done = world.load(&["gone", what])?.done().await?;
        well(&done, &world).with_context(|| what.to_owned())?;
        world.until(what, || Ok(world.backends()? == 0)).await?;
    }
    ensure!(world.through.pg.psql("SELECT count(*) FROM gone")? == "0", "half a COPY was kept");
    ensure!(world.through.pg.psql("SELECT to_regclass('gone_held') IS NULL")? == "t", "nobody approved it");
    world.through.closings_match().await?;
    let events = world.through.agent.events()?;
    let withdrawn =
        events.iter().filter(|event| is_of(event, "approval_withdrawn") || is_of(event, "withdrawn"));
    let resolved = events.iter().filter(|event| event.to_string().contains("disconnected"));
    ensure!(withdrawn.count() + resolved.count() >= 2, "the requests of who is gone still stand");
    one_closing_each(&world.through)?;
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_killed_while_the_server_stalls_is_closed() -> Result<()> {
    let world = World::start(30).await?;
    let mut half_open = world.load(&["gone", "half-open"])?;
    world.until("its session", || Ok(world.backends()? == 1)).await?;
    ensure!(half_open.waits());
    let backend = world.through.pg.psql(
        "SELECT pid FROM pg_stat_activity WHERE client_addr IS NOT NULL AND application_name NOT LIKE 'lockgate%'",
    )?;
    let backend = nix::unistd::Pid::from_raw(backend.parse()?);
    nix::sys::signal::kill(backend, Signal::SIGSTOP)?;
    half_open.signal(Signal::SIGKILL)?;
    half_open.done().await?;
    // The record does not wait for a server that says nothing.
    let closed = world.through.closings_match().await;
    nix::sys::signal::kill(backend, Signal::SIGCONT)?;
    closed?;
    world.until("the end of its backend", || Ok(world.backends()? == 0)).await
}
