//! What retention removes, what holds and policy keep, and that what is left still proves itself.

use super::Directory;
use crate::{
    Integrity, Log, Problem, Reader, VerifyReport,
    contract::{record, sample},
};
use lockgate_audit::Checkpoint;
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Custody, Hold, Removal},
    event::{Event, EventKind},
    port::Durability,
    session::Session,
};
use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

const DAY: Duration = Duration::from_secs(86_400);

fn open(directory: &Directory) -> Log {
    Log::open(directory.settings(), Arc::new(sample::FixedAmbient::default())).unwrap()
}

fn session(n: u32) -> Session {
    Session { id: SessionId::from_parts(u64::from(n) + 1, 3), ..sample::session(n) }
}

/// A session a day from day `from`, each longer than a segment; signed when this returns.
fn days(log: &Log, from: u32, count: u32) {
    let mut last = 0;
    for n in from..from + count {
        let session = session(n);
        let mut events = vec![sample::started(&session)];
        events.extend((0..6).map(|k| sample::decided(&session, &format!("SELECT {n}, {k}"))));
        events.push(sample::ended(&session));
        for mut event in events {
            event.at = day(n);
            last = record(log, vec![event], Durability::Written).unwrap();
        }
    }
    let until = Instant::now() + Duration::from_secs(60);
    while Checkpoint::covers(&log.reader().checkpoint().unwrap()).unwrap() < last {
        assert!(Instant::now() < until, "record {last} was not signed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn day(n: u32) -> Timestamp {
    sample::at(0) + DAY * n
}

/// Plans, announces and removes, as the agent does.
fn retire(log: &Log, keep: Duration, now: Timestamp) -> Vec<Removal> {
    let plan = log.retention(keep, now).unwrap();
    let removals = log.prepare_removal(&plan, "schedule").unwrap();
    for removal in &removals {
        let kind = EventKind::Custody(Box::new(Custody::Removed(removal.clone())));
        let seq = record(log, vec![Event { at: now, session: None, kind }], Durability::Synced).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while log.remove(removal, seq).is_err() {
            assert!(Instant::now() < until, "the record of the removal was not signed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    removals
}

fn verify(directory: &Directory) -> VerifyReport {
    Reader::open(&directory.dir).unwrap().verify(None).unwrap()
}

fn intact(directory: &Directory) -> VerifyReport {
    let report = verify(directory);
    assert_eq!(report.integrity, Integrity::Intact, "{:#?}", report.findings);
    report
}

#[test]
fn what_is_left_verifies_and_is_proven_and_what_was_removed_is_told() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 12);
    let early = log.reader().checkpoint().unwrap();
    let removals = retire(&log, DAY * 5, day(12));
    assert!(!removals.is_empty());
    let gone = removals.last().unwrap().to;
    days(&log, 12, 2);
    // A second time: what went before stays told.
    let again = retire(&log, DAY * 5, day(14));
    assert_eq!(again.first().map(|removal| removal.from), Some(gone + 1));
    log.close().unwrap();
    let report = intact(&directory);
    let told: Vec<_> = report.removed.iter().map(|range| (range.from, range.to)).collect();
    assert_eq!(told.first().map(|(from, _)| *from), Some(1), "{told:?}");
    assert!(report.removed.iter().all(|range| range.policy == "retention 5d"), "{report}");
    let reader = Reader::open(&directory.dir).unwrap();
    let key = reader.public_key().unwrap().unwrap();
    let first = reader.records().next().unwrap().unwrap().seq;
    assert!(first > gone);
    for seq in [first, report.last_seq] {
        reader.prove(seq).unwrap().check(&key).unwrap();
    }
    assert!(reader.prove(1).is_err());
    reader.prove_growth(&early).unwrap().check(&key).unwrap();
    // The tree is made anew from hashes and records, and gives the same roots.
    fs::remove_dir_all(directory.dir.join("tree")).unwrap();
    open(&directory).close().unwrap();
    intact(&directory);
    let reader = Reader::open(&directory.dir).unwrap();
    reader.prove(first).unwrap().check(&key).unwrap();
    // Listings, sessions and the start go on without it.
    assert!(reader.session(session(0).id).unwrap().is_empty());
    assert_eq!(reader.session(session(13).id).unwrap().len(), 8);
    assert!(reader.sessions(&crate::SessionFilter::default()).unwrap().len() >= 5);
}

#[test]
fn removed_by_somebody_else_is_found() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 10);
    let plan = log.retention(DAY * 5, day(10)).unwrap();
    let removals = log.prepare_removal(&plan, "schedule").unwrap();
    // Nothing says so: as an intruder does it, with hashes and all.
    assert!(log.remove(&removals[0], u64::MAX).is_err(), "not before it is announced and signed");
    log.close().unwrap();
    for segment in &removals[0].segments {
        fs::remove_file(log.segment_path(segment.first)).unwrap();
    }
    let report = verify(&directory);
    let missing = Problem::Missing { from: 1, to: removals[0].to };
    assert!(report.findings.iter().any(|finding| finding.problem == missing), "{:#?}", report.findings);
}

#[test]
fn a_removal_announced_behind_the_signed_head_is_no_removal() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 10);
    log.close().unwrap();
    drop(log);
    let head = directory.dir.join("head/checkpoint");
    let signed = fs::read(&head).unwrap();
    // The intruder writes the record behind what is signed, and puts the head back.
    let log = open(&directory);
    let plan = log.retention(DAY * 5, day(10)).unwrap();
    let removal = log.prepare_removal(&plan, "schedule").unwrap().remove(0);
    let kind = EventKind::Custody(Box::new(Custody::Removed(removal.clone())));
    let _ = record(&log, vec![Event { at: day(10), session: None, kind }], Durability::Synced).unwrap();
    log.close().unwrap();
    fs::write(&head, signed).unwrap();
    fs::remove_file(directory.dir.join("head/history")).unwrap();
    for segment in &removal.segments {
        fs::remove_file(log.segment_path(segment.first)).unwrap();
    }
    assert_eq!(verify(&directory).integrity, Integrity::Broken);
}

#[test]
fn hashes_that_were_touched_are_found() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 10);
    retire(&log, DAY * 5, day(10));
    log.close().unwrap();
    let report = intact(&directory);
    assert!(!report.removed.is_empty());
    for entry in fs::read_dir(directory.dir.join("removed")).unwrap() {
        let path = entry.unwrap().path();
        let whole = fs::read(&path).unwrap();
        for at in [0, whole.len() - 1] {
            let mut touched = whole.clone();
            touched[at] ^= 1;
            fs::write(&path, touched).unwrap();
            assert_eq!(verify(&directory).integrity, Integrity::Broken, "{} at {at}", path.display());
        }
        fs::write(&path, &whole[..whole.len() - 32]).unwrap();
        assert_eq!(verify(&directory).integrity, Integrity::Broken, "{} cut", path.display());
        fs::write(&path, whole).unwrap();
    }
    intact(&directory);
}

#[test]
fn a_damaged_segment_is_evidence_and_stays() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 10);
    let plan = log.retention(DAY * 5, day(10)).unwrap();
    let path = log.segment_path(plan.remove[0]);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("SELECT 0", "SELECT 9", 1)).unwrap();
    let error = log.prepare_removal(&plan, "schedule").unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[test]
fn holds_open_sessions_and_the_policy_win_over_retention() {
    let hold = |name: &str| Hold {
        name: name.into(),
        session: None,
        identity: None,
        since: None,
        until: None,
        by: "local:0".into(),
        reason: "case 12".into(),
        at: day(0),
    };
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 12);
    let all = log.retention(DAY, day(12)).unwrap();
    let holds = [
        Hold { session: Some(session(2).id), ..hold("hold_session") },
        Hold { identity: Some(session(3).principal.id), ..hold("hold_identity") },
        Hold { since: Some(day(4)), until: Some(day(5)), ..hold("hold_time") },
    ];
    for held in &holds {
        log.holds().place(held).unwrap();
        let plan = log.retention(DAY, day(12)).unwrap();
        assert!(plan.remove.len() < all.remove.len(), "{}", held.name);
        assert!(plan.kept.values().any(|why| *why == format!("hold {}", held.name)), "{:?}", plan.kept);
        // Gone from force, retention decides again.
        assert!(log.holds().release(&held.name).unwrap());
        assert!(!log.holds().release(&held.name).unwrap());
        assert_eq!(log.retention(DAY, day(12)).unwrap(), all);
    }
    holds.iter().for_each(|held| log.holds().place(held).unwrap());
    retire(&log, DAY, day(12));
    for kept in [2, 3, 4] {
        assert_eq!(log.reader().session(session(kept).id).unwrap().len(), 8, "{kept}");
    }
    assert!(log.reader().session(session(0).id).unwrap().is_empty());
    for bad in ["", "../checkpoint", "a/b", "x\0y", &"x".repeat(65)] {
        assert!(log.holds().release(bad).is_err(), "{bad:?}");
    }
    log.close().unwrap();
    drop(log);
    // The gaps are several now.
    assert!(intact(&directory).removed.len() > 1);
    // Holds rest.
    assert_eq!(open(&directory).holds().all().unwrap().len(), 3);
}

#[test]
fn what_the_policy_retains_stays_for_that_long() {
    let directory = Directory::new(4096);
    let log = open(&directory);
    days(&log, 0, 3);
    let retained = session(50);
    let mut decided = sample::decided(&retained, "SELECT 'kept'");
    let EventKind::OperationDecided { verdict, .. } = &mut decided.kind else { unreachable!("a decision") };
    let obligations = Arc::make_mut(&mut verdict.obligations);
    obligations.record.retain = Some(DAY * 30);
    for mut event in [sample::started(&retained), decided, sample::ended(&retained)] {
        event.at = day(3);
        let _ = record(&log, vec![event], Durability::Written).unwrap();
    }
    days(&log, 4, 8);
    retire(&log, DAY * 2, day(12));
    assert_eq!(log.reader().session(retained.id).unwrap().len(), 3);
    assert!(log.reader().session(session(1).id).unwrap().is_empty());
    retire(&log, DAY * 2, day(40));
    assert!(log.reader().session(retained.id).unwrap().is_empty());
    log.close().unwrap();
    intact(&directory);
}

#[test]
fn heads_that_were_kept_elsewhere_find_a_rolled_back_and_a_forked_log() {
    let (directory, other) = (Directory::new(4096), Directory::new(4096));
    let log = open(&directory);
    days(&log, 0, 2);
    log.close().unwrap();
    drop(log);
    let copy = |from: &Directory, to: &Directory| {
        let _ = fs::remove_dir_all(&to.dir);
        let status = std::process::Command::new("cp").arg("-a").arg(&from.dir).arg(&to.dir).status().unwrap();
        assert!(status.success());
    };
    copy(&directory, &other);
    let log = open(&directory);
    days(&log, 2, 2);
    log.close().unwrap();
    let sent = Reader::open(&directory.dir).unwrap().checkpoint().unwrap();
    let problems = |directory: &Directory, kept: &[String]| {
        let report = Reader::open(&directory.dir).unwrap().verify_with(None, kept).unwrap();
        report.findings.into_iter().map(|finding| finding.problem).collect::<Vec<_>>()
    };
    assert_eq!(problems(&directory, std::slice::from_ref(&sent)), []);
    // An older copy put in its place: whole by itself, shorter than what was sent.
    assert_eq!(problems(&other, &[]), []);
    let size = Checkpoint::covers(&sent).unwrap();
    let rolled_back = problems(&other, std::slice::from_ref(&sent));
    assert!(
        rolled_back.iter().any(|problem| matches!(problem, Problem::Truncated { head, .. } if *head == size))
    );
    // It goes on, in another way, with the same key.
    let log = open(&other);
    days(&log, 7, 6);
    log.close().unwrap();
    assert_eq!(problems(&other, &[]), []);
    let forked = problems(&other, std::slice::from_ref(&sent));
    assert!(forked.iter().any(|problem| matches!(problem, Problem::Rewritten { .. })), "{forked:?}");
    assert!(Reader::open(&other.dir).unwrap().prove_growth(&sent).is_err());
}

#[test]
fn a_proof_of_growth_checks_itself() {
    let directory = Directory::new(32 << 20);
    let log = open(&directory);
    days(&log, 0, 2);
    let old = log.reader().checkpoint().unwrap();
    days(&log, 2, 30);
    log.close().unwrap();
    let reader = Reader::open(&directory.dir).unwrap();
    reader.prove_growth(&old).unwrap();
    let path = directory.dir.join("tree/0");
    let mut leaves = fs::read(&path).unwrap();
    leaves.iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(&path, leaves).unwrap();
    let error = reader.prove_growth(&old).unwrap_err().to_string();
    assert!(error.contains("do not fit the signed head"), "{error}");
}
