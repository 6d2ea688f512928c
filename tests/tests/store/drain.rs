//! What happens to records while the server goes away: nothing is missed, nothing is twice, nobody waits for long.

use crate::place::{
    NODE, PATIENCE, Place, agent, last, lines, lines_of, marks, open, scratch, session, until,
};
use anyhow::{Context as _, Result, ensure};
use lockgate_model::port::{Durability, RecordError, Recorder};
use lockgate_store::{
    Log,
    contract::{record, sample},
    postgres::{Drain, DrainSettings, PostgresSettings},
};
use lockgate_tests::postgres::{HostAuth, PostgresOptions, TestPostgres};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Much more than these tests record.
const ROOMY: u64 = 64 << 20;

#[test]
fn a_server_that_is_killed_again_and_again_misses_nothing_and_has_nothing_twice() -> Result<()> {
    let mut place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = Arc::new(open(&dir)?);
    let drain = place.drain(&log, ROOMY)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (log, stop) = (log.clone(), stop.clone());
            std::thread::spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return n;
                    }
                    record(&*log, session(writer * 1_000_000 + n), Durability::Written).unwrap();
                    std::thread::sleep(Duration::from_millis(10));
                }
                0
            })
        })
        .collect();
    for _ in 0..4 {
        let through = drain.status().through;
        until("records arrive", || drain.status().through > through)?;
        let server = Arc::get_mut(&mut place.server).expect("nobody else has it");
        server.kill()?;
        until("it is noticed", || drain.status().error.is_some())?;
        server.restart()?;
    }
    stop.store(true, Ordering::Relaxed);
    let sessions: u32 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
    ensure!(drain.wait_for(last(&log.reader()), PATIENCE), "{:?}", drain.status());
    let there = lines_of(&place.shared())?;
    ensure!(there == lines(&dir), "{} records there, {} here", there.len(), lines(&dir).len());
    ensure!(there.len() == 4 * sessions as usize);
    let counted = place.psql("SELECT count(*), sum(operations), count(ended) FROM lockgate.session")?;
    ensure!(counted == format!("{sessions}|{}|{sessions}", 2 * sessions), "{counted}");
    Ok(())
}

#[test]
fn drains_that_end_at_any_moment_repeat_nothing() -> Result<()> {
    let place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    for round in 0..12 {
        let mut drain = place.drain(&log, ROOMY)?;
        marks(&log, &format!("round {round}"), 400);
        if round % 3 == 0 {
            drain.stop(Duration::ZERO);
        }
    }
    log.close()?;
    let mut drain = place.drain(&log, ROOMY)?;
    ensure!(drain.wait_for(4800, PATIENCE), "{:?}", drain.status());
    ensure!(drain.stop(PATIENCE), "all is there");
    ensure!(lines_of(&place.shared())? == lines(&dir));
    Ok(())
}

#[test]
fn records_are_refused_when_the_spool_is_full_and_taken_when_it_has_room_again() -> Result<()> {
    let mut place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = Arc::new(open(&dir)?);
    let drain = place.drain(&log, 100 << 10)?;
    let spooled = drain.before(log.clone());
    let first = marks(&spooled, "before", 5);
    ensure!(drain.wait_for(first, PATIENCE), "{:?}", drain.status());
    Arc::get_mut(&mut place.server).expect("nobody else has it").kill()?;
    let mut refused = None;
    until("the spool fills", || {
        let answer = record(&spooled, vec![sample::mark(&"x".repeat(1000), 0)], Durability::Written);
        refused = answer.err();
        refused.is_some()
    })?;
    ensure!(
        matches!(&refused, Some(RecordError::Io(why)) if why.contains("wait for the database, and 102400 may")),
        "{refused:?}"
    );
    ensure!(drain.status().full && drain.status().error.is_some(), "{:?}", drain.status());
    // What follows a forward is never refused.
    spooled.submit(vec![sample::mark("a closing", 1)]);
    Arc::get_mut(&mut place.server).expect("nobody else has it").restart()?;
    until("there is room again", || !drain.status().full).with_context(|| format!("{:?}", drain.status()))?;
    marks(&spooled, "after", 5);
    ensure!(drain.wait_for(last(&log.reader()), PATIENCE), "{:?}", drain.status());
    ensure!(lines_of(&place.shared())? == lines(&dir));
    Ok(())
}

#[test]
fn a_node_that_starts_while_the_database_is_away_knows_what_waits_and_keeps_it() -> Result<()> {
    let mut place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let mut drain = place.drain(&log, 100 << 10)?;
    // More than the spool holds, and all of it is there.
    for n in 0..150 {
        record(&log, session(n), Durability::Written)?;
    }
    until("it arrives", || drain.status().through == 600)?;
    ensure!(drain.stop(PATIENCE), "{:?}", drain.status());
    log.close()?;
    Arc::get_mut(&mut place.server).expect("nobody else has it").kill()?;
    let log = Arc::new(open(&dir)?);
    let drain = place.drain(&log, 100 << 10)?;
    ensure!(drain.status().waiting_bytes == 0 && !drain.status().full, "{:?}", drain.status());
    let spooled = drain.before(log.clone());
    for n in 150..170 {
        record(&spooled, session(n), Durability::Synced)?;
    }
    until("it is measured", || drain.status().waiting_bytes > 0)?;
    ensure!(!drain.status().full, "{:?}", drain.status());
    // What is not there yet is not removed here, however old it is.
    let late = sample::at(0) + Duration::from_secs(400 * 86_400);
    let removable = |log: &Log| log.retention(Duration::from_secs(86_400), late).map(|plan| plan.remove);
    let before = removable(&log)?;
    ensure!(before.iter().all(|first| *first < 600), "{before:?}");
    drop((spooled, drain));
    // Many more, in more segments, as if this had gone on.
    for n in 170..400 {
        record(&*log, session(n), Durability::Written)?;
    }
    log.close()?;
    let log = open(&dir)?;
    let drain = place.drain(&log, 100 << 10)?;
    ensure!(drain.status().full && drain.status().waiting_bytes > 100 << 10, "{:?}", drain.status());
    ensure!(removable(&log)? == before, "{:?}", removable(&log)?);
    Arc::get_mut(&mut place.server).expect("nobody else has it").restart()?;
    ensure!(drain.wait_for(1600, PATIENCE), "{:?}", drain.status());
    until("there is room", || !drain.status().full)?;
    ensure!(removable(&log)?.len() > before.len(), "{:?}", removable(&log)?);
    ensure!(lines_of(&place.shared())? == lines(&dir));
    Ok(())
}

#[test]
fn another_log_under_a_node_s_name_goes_nowhere() -> Result<()> {
    let place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let drain = place.drain(&log, ROOMY)?;
    ensure!(drain.wait_for(marks(&log, "the first", 10), PATIENCE), "{:?}", drain.status());
    drop(drain);
    let (_other_temporary, other) = scratch()?;
    let forged = open(&other)?;
    marks(&forged, "the second", 20);
    let drain = place.drain(&forged, ROOMY)?;
    until("it is told", || drain.status().error.is_some())?;
    let error = drain.status().error.unwrap_or_default();
    ensure!(error.contains("another log of node build-7"), "{error}");
    drop(drain);
    // The same key, set back to an earlier state and gone on from there: the database remembers what was cut off.
    log.close()?;
    let kept = lines(&dir);
    ensure!(lines_of(&place.shared())? == kept);
    Ok(())
}

#[test]
fn what_the_database_has_no_room_for_is_recorded_all_the_same() -> Result<()> {
    let place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let drain = place.drain(&log, ROOMY)?;
    let mut odd = sample::session(1);
    odd.upstream_user = "nul \0 and \u{1} and \\u0000".into();
    odd.client.database = "'; DROP TABLE lockgate.record; --".into();
    let many: String = (0..200_000).map(|n| format!("w{n} ")).collect();
    let events = vec![
        sample::started(&odd),
        sample::decided(&odd, "a\0b"),
        sample::decided(&odd, &many),
        sample::ended(&odd),
    ];
    let last = record(&log, events, Durability::Synced).unwrap();
    ensure!(drain.wait_for(last, PATIENCE), "{:?}", drain.status());
    ensure!(lines_of(&place.shared())? == lines(&dir));
    let sessions = place.shared().sessions(&Default::default())?;
    ensure!(
        sessions.len() == 1 && sessions[0].operations == 2 && sessions[0].ended.is_some(),
        "{sessions:?}"
    );
    Ok(())
}

#[test]
fn the_server_is_verified_and_told_a_password() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new().tls().auth(HostAuth::Scram))?;
    server.psql("CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper-secret'; CREATE ROLE \"agent-build-7\" LOGIN PASSWORD 'agent-secret'")?;
    server.psql("CREATE DATABASE store OWNER keeper")?;
    let url = |role: &str| format!("postgres://{role}@localhost:{}/store", server.port());
    let settings = |role: &str, password: &str| -> Result<PostgresSettings> {
        let password = lockgate_model::Secret::new(password.to_owned());
        Ok(PostgresSettings::parse(&url(role))?.password(Some(password)))
    };
    let keeper = settings("keeper", "keeper-secret")?;
    let unknown = lockgate_store::postgres::schema(&keeper).unwrap_err().to_string();
    ensure!(unknown.contains("certificate"), "an unknown authority: {unknown}");
    let ca = Some(server.ca_pem()?);
    let wrong = settings("keeper", "wrong")?.ca(ca.clone());
    let wrong = lockgate_store::postgres::schema(&wrong).unwrap_err().to_string();
    ensure!(wrong.contains("password authentication failed") && !wrong.contains("wrong"), "{wrong}");
    let elsewhere = PostgresSettings::parse(&format!("postgres://keeper@127.0.0.2:{}/store", server.port()))?;
    ensure!(
        lockgate_store::postgres::schema(&elsewhere.ca(ca.clone())).is_err(),
        "a name that the certificate does not have"
    );
    let keeper = keeper.ca(ca.clone());
    lockgate_store::postgres::migrate(&keeper, lockgate_store::postgres::SCHEMA_VERSION)?;
    lockgate_store::postgres::enrol(&keeper, &NODE.into(), &agent(NODE))?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let place = settings(&agent(NODE), "agent-secret")?.ca(ca);
    let drain = Drain::start(&log, DrainSettings { place, node: NODE.into(), spool_bytes: ROOMY })?;
    ensure!(drain.wait_for(marks(&log, "encrypted", 3), PATIENCE), "{:?}", drain.status());
    let encrypted = server.psql("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'agent-build-7'")?;
    ensure!(encrypted == "t", "{encrypted}");
    Ok(())
}
