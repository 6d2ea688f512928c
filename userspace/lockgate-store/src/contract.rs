//! How every store behaves, whatever it is made of: one suite, run on each backend.
//!
//! Compiled for tests and with the feature `contract` only. A backend implements [`Backend`] over a place of
//! its own (a directory, a schema) and calls [`check`].

pub mod sample;

use crate::{SessionFilter, SessionSummary};
use lockgate_audit::Record;
use lockgate_model::{
    SessionId,
    approval::{Resolution, WithdrawReason},
    event::{Event, EventKind},
    outcome::CloseReason,
    port::{Durability, Receipt, RecordError, Recorder},
};
use std::sync::Arc;

/// One place where records rest, over several openings.
pub trait Backend {
    /// Opens it for writing, as an agent does at start.
    fn open(&self) -> Result<Arc<dyn OpenStore>, String>;
}

/// An open store.
pub trait OpenStore: Recorder {
    /// Ends in order.
    fn close(&self) -> Result<(), String>;
    /// Everything, oldest first.
    fn records(&self) -> Result<Vec<Record>, String>;
    /// A listing.
    fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, String>;
    /// One session's records.
    fn session(&self, id: SessionId) -> Result<Vec<Record>, String>;
}

/// Runs one case on an empty backend.
type Case = fn(&dyn Backend);

/// The cases, by the behaviour that each shows.
pub const CASES: &[(&str, Case)] = &[
    ("records keep their order, their numbers and every word", records_read_back),
    ("events of one call stand together", batches_stand_together),
    ("each recorder's own order holds among many", recorders_keep_their_order),
    ("submitted events are written before an orderly end", submitted_events_are_written),
    ("after the end records are refused", refused_after_close),
    ("an event larger than a record may be is refused, others go on", too_large_is_refused),
    ("numbers go on after a restart", numbers_go_on),
    ("a second opener is refused", one_writer),
    ("what was left open is closed once", left_open_is_closed_once),
    ("listings filter, newest first", listings_filter),
];

/// Runs the whole suite; `fresh` gives an empty backend each time.
pub fn check<B: Backend>(mut fresh: impl FnMut() -> B) {
    for (behaviour, case) in CASES {
        eprintln!("contract: {behaviour}");
        case(&fresh());
    }
}

/// Records and waits; the last event's number.
pub fn record(store: &dyn Recorder, events: Vec<Event>, durability: Durability) -> Result<u64, RecordError> {
    let answer = store.record(events, durability);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime for one future");
    runtime.block_on(answer).map(Receipt::last_seq)
}

fn open(backend: &dyn Backend) -> Arc<dyn OpenStore> {
    backend.open().expect("the store opens")
}

fn events_of(store: &dyn OpenStore) -> Vec<Event> {
    store.records().expect("the records can be read").into_iter().map(|record| record.event).collect()
}

fn gaps(store: &dyn OpenStore) -> usize {
    let is_gap =
        |event: &&Event| matches!(event.kind, EventKind::Gap { .. }) && sample::marked(event).is_none();
    events_of(store).iter().filter(is_gap).count()
}

fn records_read_back(backend: &dyn Backend) {
    let store = open(backend);
    let events = sample::every_kind();
    for (n, event) in events.iter().enumerate() {
        let durability = if n % 2 == 0 { Durability::Written } else { Durability::Synced };
        let seq = record(&*store, vec![event.clone()], durability).expect("recorded");
        assert_eq!(seq, n as u64 + 1);
    }
    assert_eq!(events_of(&*store), events);
    let seqs: Vec<u64> = store.records().expect("readable").iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=events.len() as u64).collect::<Vec<_>>());
    store.close().expect("an orderly end");
}

fn batches_stand_together(backend: &dyn Backend) {
    let store = open(backend);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..25 {
                    let batch = (0..3).map(|n| sample::mark(&format!("{worker}/{round}"), n)).collect();
                    record(&**store, batch, Durability::Written).expect("recorded");
                }
            });
        }
    });
    let marks: Vec<(String, u64)> = events_of(&*store).iter().filter_map(sample::marked).collect();
    assert_eq!(marks.len(), 300);
    for batch in marks.chunks(3) {
        let [(name, 0), (second, 1), (third, 2)] = batch else { panic!("a batch was torn apart: {batch:?}") };
        assert!(name == second && name == third, "batches were mixed: {batch:?}");
    }
}

fn recorders_keep_their_order(backend: &dyn Backend) {
    let store = open(backend);
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..50 {
                    let durability = if n % 10 == 0 { Durability::Synced } else { Durability::Written };
                    let event = sample::mark(&worker.to_string(), n);
                    if n % 3 == 0 {
                        store.submit(vec![event]);
                    } else {
                        record(&**store, vec![event], durability).expect("recorded");
                    }
                }
            });
        }
    });
    store.close().expect("an orderly end");
    let marks: Vec<(String, u64)> = events_of(&*store).iter().filter_map(sample::marked).collect();
    for worker in 0..4 {
        let name = worker.to_string();
        let own: Vec<u64> = marks.iter().filter(|(by, _)| *by == name).map(|(_, n)| *n).collect();
        assert_eq!(own, (0..50).collect::<Vec<_>>(), "worker {worker}");
    }
}

fn submitted_events_are_written(backend: &dyn Backend) {
    let store = open(backend);
    for n in 0..100 {
        store.submit(vec![sample::mark("submitted", n)]);
    }
    store.close().expect("an orderly end");
    let store = open(backend);
    assert_eq!(events_of(&*store).iter().filter_map(sample::marked).count(), 100);
}

fn refused_after_close(backend: &dyn Backend) {
    let store = open(backend);
    store.close().expect("an orderly end");
    let refused = record(&*store, vec![sample::mark("late", 0)], Durability::Written);
    assert_eq!(refused, Err(RecordError::Stopped));
    store.close().expect("closing twice does nothing");
}

fn too_large_is_refused(backend: &dyn Backend) {
    let store = open(backend);
    let huge = "x".repeat(lockgate_audit::record::MAX_RECORD_BYTES + 1);
    let refused = record(&*store, vec![sample::mark(&huge, 0)], Durability::Written);
    assert!(matches!(refused, Err(RecordError::TooLarge(_))), "{refused:?}");
    let seq = record(&*store, vec![sample::mark("small", 0)], Durability::Written).expect("recorded");
    assert_eq!(seq, 1);
    // Submitted, it is told as a gap.
    store.submit(vec![sample::mark(&huge, 0)]);
    store.close().expect("an orderly end");
    assert_eq!(gaps(&*store), 1);
}

fn numbers_go_on(backend: &dyn Backend) {
    for round in 0..3u64 {
        let store = open(backend);
        let seq = record(&*store, vec![sample::mark("round", round)], Durability::Synced).expect("recorded");
        assert_eq!(seq, round + 1, "an orderly end leaves nothing to add");
        store.close().expect("an orderly end");
    }
}

fn one_writer(backend: &dyn Backend) {
    let store = open(backend);
    let refused = backend.open().err().expect("a second writer is refused");
    assert!(refused.contains(&std::process::id().to_string()), "it names who has it: {refused}");
    drop(store);
    open(backend);
}

fn left_open_is_closed_once(backend: &dyn Backend) {
    let (ended, running, waiting) = (sample::session(1), sample::session(2), sample::session(3));
    let store = open(backend);
    let mut events = vec![sample::started(&ended), sample::started(&running), sample::started(&waiting)];
    events.extend([sample::decided(&running, "SELECT 1"), sample::held(&waiting, 7), sample::ended(&ended)]);
    record(&*store, events, Durability::Written).expect("recorded");
    drop(store);

    for opening in 0..3 {
        let store = open(backend);
        for (session, reason) in [
            (&ended, CloseReason::ClientClosed),
            (&running, CloseReason::Crash),
            (&waiting, CloseReason::Crash),
        ] {
            let records = store.session(session.id).expect("readable");
            let closings: Vec<_> = records
                .iter()
                .filter_map(|record| match &record.event.kind {
                    EventKind::SessionEnded(closing) => Some(closing.reason),
                    _ => None,
                })
                .collect();
            assert_eq!(closings, [reason], "opening {opening}, session {}", session.id);
        }
        let withdrawn = Resolution::Withdrawn { reason: WithdrawReason::Crash };
        let resolved: Vec<_> = events_of(&*store)
            .into_iter()
            .filter_map(|event| match event.kind {
                EventKind::ApprovalResolved { resolution, .. } => Some(resolution),
                _ => None,
            })
            .collect();
        assert_eq!(resolved, [withdrawn], "opening {opening}");
        assert_eq!(gaps(&*store), 1, "opening {opening}");
        store.close().expect("an orderly end");
    }
}

fn listings_filter(backend: &dyn Backend) {
    let store = open(backend);
    let sessions: Vec<_> = (0..5).map(sample::session).collect();
    for session in &sessions {
        let mut events = vec![sample::started(session), sample::decided(session, "SELECT 1")];
        events.extend([sample::denied(session, "DROP TABLE t"), sample::held(session, 9)]);
        record(&*store, events, Durability::Written).expect("recorded");
    }
    record(&*store, vec![sample::ended(&sessions[0])], Durability::Written).expect("recorded");

    let all = SessionFilter::default();
    let table: Vec<(&str, SessionFilter, Vec<usize>)> = vec![
        ("all", all.clone(), vec![4, 3, 2, 1, 0]),
        ("limit", SessionFilter { limit: Some(2), ..all.clone() }, vec![4, 3]),
        ("since", SessionFilter { since: Some(sessions[3].opened_at), ..all.clone() }, vec![4, 3]),
        ("until", SessionFilter { until: Some(sessions[2].opened_at), ..all.clone() }, vec![1, 0]),
        ("target", SessionFilter { target: Some("orders-1".into()), ..all.clone() }, vec![3, 1]),
        ("no such target", SessionFilter { target: Some("none".into()), ..all.clone() }, vec![]),
        ("principal", SessionFilter { principal: Some("UID:1002".into()), ..all.clone() }, vec![2]),
        ("open", SessionFilter { open: Some(true), limit: Some(4), ..all.clone() }, vec![4, 3, 2, 1]),
        ("ended", SessionFilter { open: Some(false), limit: Some(1), ..all.clone() }, vec![0]),
    ];
    for (name, filter, expected) in table {
        let found: Vec<_> = store.sessions(&filter).expect("listed").into_iter().map(|s| s.id).collect();
        let expected: Vec<_> = expected.into_iter().map(|n| sessions[n].id).collect();
        assert_eq!(found, expected, "{name}");
    }
    let first = store.sessions(&all).expect("listed").pop().expect("the oldest");
    assert_eq!((first.operations, first.denied, first.held), (2, 1, 1));
    assert_eq!(first.closing, Some(CloseReason::ClientClosed));
    assert_eq!(first.principal, sessions[0].principal);
    assert_eq!(store.session(sessions[0].id).expect("readable").len(), 5);
    assert_eq!(store.session(sample::session(99).id).expect("readable"), []);
}
