//! A thousand sessions of which two hundred wait for people: the others work, the held ones go on when they may, and
//! the record has all of it.

use super::{World, size, well};
use anyhow::{Result, ensure};
use lockgate_tests::receiver::Decision;

/// What one open session may cost the daemon here, which is a debug build and has a statement under way in each.
const BYTES_A_SESSION: u64 = 256 * 1024;
/// What the first sessions bring with them: the target's catalogue, threads, the allocator's arenas.
const BYTES_ONCE: u64 = 48 * 1024 * 1024;

#[tokio::test]
async fn everybody_gets_an_answer_while_some_are_held() -> Result<()> {
    let (sessions, held) = (size(1000, 120), size(200, 24));
    let world = World::start(sessions + 60).await?;
    let before = world.resident()?;
    let load = world.load(&["many", &sessions.to_string(), &held.to_string()])?;

    let requested = |world: &World| {
        world
            .receiver
            .deliveries()
            .into_iter()
            .filter(|one| one.kind() == "lockgate.approval.requested")
            .collect()
    };
    world
        .until("all requests for approval", || {
            let requests: Vec<_> = requested(&world);
            Ok(requests.len() >= held)
        })
        .await?;
    let requests: Vec<lockgate_tests::receiver::Delivery> = requested(&world);
    ensure!(requests.len() == held, "{} requests", requests.len());
    let made = "SELECT count(*) FROM pg_class WHERE relname LIKE 'held_%'";
    ensure!(world.through.pg.psql(made)? == "0", "a held statement ran");
    world.until("all sessions", || Ok(world.backends()? >= sessions)).await?;

    let grown = world.resident()?.saturating_sub(before);
    let bound = BYTES_ONCE + sessions as u64 * BYTES_A_SESSION;
    ensure!(grown < bound, "{sessions} sessions cost {grown} bytes, {bound} are allowed");
    eprintln!("{sessions} sessions, {held} held: {} KiB a session", grown / 1024 / sessions as u64);

    for request in &requests {
        Decision::on(request, "approve", "ann", &["dba"]).accepted().await?;
    }
    let done = load.done().await?;
    well(&done, &world)?;
    for line in [format!("connected {sessions}"), format!("done {sessions}"), "all answered again".into()] {
        ensure!(done.stdout.contains(&line), "{line} is missing:\n{}", done.stdout);
    }
    ensure!(world.through.pg.psql(made)? == held.to_string());

    world.through.closings_match().await?;
    let events = world.through.agent.events()?;
    let of = |kind: &str| events.iter().filter(|event| lockgate_tests::through::is_of(event, kind)).count();
    ensure!(of("session_ended") == sessions, "{} closing records", of("session_ended"));
    // Each session asked once at the end, the held ones created a table, the others asked ten times more; a prepared
    // statement is decided when it is parsed, too.
    let executed = sessions + held + (sessions - held) * 10;
    ensure!(of("operation_decided") >= executed, "{} of {executed} decisions", of("operation_decided"));
    ensure!(of("forwarded") == held, "{} held operations went on", of("forwarded"));
    Ok(())
}
