//! A host's log moves here, whole, and is verified from an export.

use crate::place::{NODE, PATIENCE, Place, last, lines, lines_of, marks, open, scratch, session};
use anyhow::{Result, ensure};
use lockgate_model::{
    custody::{Custody, Hold},
    event::{Event, EventKind},
    port::Durability,
};
use lockgate_store::{
    Checkpoint, Integrity, Log, Problem, Reader, StoreError,
    contract::{record, sample},
    postgres::{copy, export},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_moved_log_is_the_same_to_the_byte_and_verifies_without_its_host() -> Result<()> {
    let place = Place::ready()?;
    let (temporary, dir) = scratch()?;
    let log = open(&dir)?;
    for n in 0..600 {
        record(&log, session(n), Durability::Written)?;
    }
    let hold = Hold {
        name: "hold_1".into(),
        session: Some(sample::session(3).id),
        identity: None,
        since: None,
        until: None,
        by: "local:0".into(),
        reason: "case 7".into(),
        at: sample::at(0),
    };
    log.holds().place(&hold)?;
    log.close()?;
    let mut told = Vec::new();
    let copied = copy(&dir, None, &place.as_owner(), &mut |there, of| told.push((there, of)))?;
    ensure!(copied.records == 2400 && copied.through == 2400 && copied.holds == 1, "{copied:?}");
    ensure!(
        told.first() == Some(&(0, 2400)) && told.last() == Some(&(2400, 2400)) && told.len() > 3,
        "{told:?}"
    );
    ensure!(lines_of(&place.shared())? == lines(&dir));
    ensure!(place.shared().holds()? == [hold]);
    // Again is nothing more.
    ensure!(copy(&dir, None, &place.as_owner(), &mut |_, _| {})?.records == 0);
    // The agent goes on from there, behind its database.
    let log = open(&dir)?;
    let drain = place.drain(&log, 64 << 20)?;
    ensure!(drain.wait_for(marks(&log, "afterwards", 5), PATIENCE), "{:?}", drain.status());
    drop(drain);
    log.close()?;

    let out = temporary.path().join("export");
    let exported = export(&place.shared(), &NODE.into(), &out, &mut |_, _| {})?;
    ensure!(exported.records == 2405, "{exported:?}");
    let key = Reader::open(&dir)?.public_key()?;
    let report = Reader::open(&out)?.verify(key.clone())?;
    ensure!(report.integrity == Integrity::Intact && report.last_seq == 2405, "{report}");
    ensure!(lines(&out) == lines(&dir));
    ensure!(
        export(&place.shared(), &NODE.into(), &out, &mut |_, _| {}).is_err(),
        "an export never writes over another"
    );

    // Whoever rules the database can change it, and cannot hide that.
    place.psql("UPDATE lockgate.record SET line = replace(encode(line, 'escape'), 'SELECT 7\"', 'SELECT 8\"')::bytea WHERE line::text LIKE '%' AND position('SELECT 7\"'::bytea in line) > 0")?;
    let changed = temporary.path().join("changed");
    export(&place.shared(), &NODE.into(), &changed, &mut |_, _| {})?;
    let report = Reader::open(&changed)?.verify(key.clone())?;
    ensure!(report.integrity != Integrity::Intact && !report.findings.is_empty(), "{report}");
    place.psql("DELETE FROM lockgate.record WHERE seq > 2000")?;
    let cut = temporary.path().join("cut");
    export(&place.shared(), &NODE.into(), &cut, &mut |_, _| {})?;
    let report = Reader::open(&cut)?.verify(key)?;
    ensure!(
        report.findings.iter().any(|finding| matches!(finding.problem, Problem::Truncated { .. })),
        "{report}"
    );
    Ok(())
}

#[test]
fn what_was_interrupted_goes_on_where_it_ended() -> Result<()> {
    let mut place = Place::ready()?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    for n in 0..1500 {
        record(&log, session(n), Durability::Written)?;
    }
    log.close()?;
    let owner = place.as_owner();
    let server = Arc::get_mut(&mut place.server).expect("nobody else has it");
    let mut killed = false;
    let interrupted = copy(&dir, None, &owner, &mut |there, _| {
        if there >= 2000 && !killed {
            killed = true;
            server.kill().unwrap();
        }
    });
    ensure!(killed && interrupted.is_err(), "{interrupted:?}");
    server.restart()?;
    let there = lines_of(&place.shared())?.len();
    ensure!((2000..6000).contains(&there), "{there} records were there");
    let copied = copy(&dir, None, &owner, &mut |_, _| {})?;
    ensure!(copied.through == 6000 && copied.records == 6000 - there as u64, "{copied:?}");
    ensure!(lines_of(&place.shared())? == lines(&dir));
    Ok(())
}

#[test]
fn a_log_whose_beginning_was_removed_moves_with_the_hashes_of_it() -> Result<()> {
    let place = Place::ready()?;
    let (temporary, dir) = scratch()?;
    let log = open(&dir)?;
    for n in 0..300 {
        let mut events = session(n);
        for event in &mut events {
            event.at = sample::at(0) + DAY * (n / 30);
        }
        record(&log, events, Durability::Written)?;
    }
    let removed = retire(&log, DAY * 5)?;
    ensure!(removed > 0, "nothing was removed");
    marks(&log, "afterwards", 5);
    log.close()?;
    // The node itself may not say that something was removed.
    let log = open(&dir)?;
    let mut drain = place.drain(&log, 64 << 20)?;
    crate::place::until("it is told", || drain.status().error.is_some())?;
    let error = drain.status().error.unwrap_or_default();
    ensure!(error.contains("lockgate store copy"), "{error}");
    drain.stop(Duration::ZERO);
    let copied = copy(&dir, None, &place.as_owner(), &mut |_, _| {})?;
    ensure!(
        copied.through == last(&log.reader()) && copied.records == copied.through - removed,
        "{copied:?}"
    );
    let out = temporary.path().join("export");
    export(&place.shared(), &NODE.into(), &out, &mut |_, _| {})?;
    let report = Reader::open(&out)?.verify(Some(log.public_key().clone()))?;
    ensure!(
        report.integrity == Integrity::Intact && report.removed.iter().any(|range| range.from == 1),
        "{report}"
    );
    ensure!(lines(&out) == lines(&dir));
    let drain = place.drain(&log, 64 << 20)?;
    ensure!(drain.wait_for(marks(&log, "by its agent", 3), PATIENCE), "{:?}", drain.status());
    Ok(())
}

#[test]
fn what_cannot_be_moved_is_told_and_changes_nothing() -> Result<()> {
    let place = Place::ready()?;
    let (temporary, dir) = scratch()?;
    let refused = |dir: &Path| copy(dir, None, &place.as_owner(), &mut |_, _| {}).unwrap_err();
    ensure!(matches!(refused(temporary.path()), StoreError::NotALog(_)));
    open(&dir)?.close()?;
    ensure!(refused(&dir).to_string().contains("holds no record"));
    let log = open(&dir)?;
    marks(&log, "x", 3);
    log.close()?;
    copy(&dir, None, &place.as_owner(), &mut |_, _| {})?;
    let (_other_temporary, other) = scratch()?;
    let log = open(&other)?;
    marks(&log, "y", 3);
    log.close()?;
    ensure!(matches!(refused(&other), StoreError::OtherChain { .. }));
    place.psql("DELETE FROM lockgate.log_key")?;
    ensure!(matches!(refused(&other), StoreError::OtherChain { .. }), "by its records, whatever its key");
    ensure!(lines_of(&place.shared())? == lines(&dir));
    Ok(())
}

/// As an agent does it: planned, recorded, signed, removed; how many records.
fn retire(log: &Log, keep: Duration) -> Result<u64> {
    let now = sample::at(0) + DAY * 10;
    let signed = |seq: u64| {
        let until = Instant::now() + PATIENCE;
        while Checkpoint::covers(&log.reader().checkpoint().unwrap()).unwrap() < seq {
            assert!(Instant::now() < until, "record {seq} was not signed");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    signed(last(&log.reader()));
    let plan = log.retention(keep, now)?;
    let mut removed = 0;
    for removal in log.prepare_removal(&plan, "schedule")? {
        let kind = EventKind::Custody(Box::new(Custody::Removed(removal.clone())));
        let seq = record(log, vec![Event { at: now, session: None, kind }], Durability::Synced)?;
        signed(seq);
        log.remove(&removal, seq)?;
        removed += removal.to - removal.from + 1;
    }
    Ok(removed)
}
