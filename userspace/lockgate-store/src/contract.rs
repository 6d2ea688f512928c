//! How every store behaves, whatever it is made of: one suite, run on each backend.
//!
//! Compiled for tests and with the feature `contract` only. A backend implements [`Backend`] over a place of
//! its own (a directory, a schema) and calls [`check`].

pub mod sample;

use crate::{
    SessionFilter, SessionSummary,
    search::{Decided, Found, Query},
};
use lockgate_audit::Record;
use lockgate_model::{
    RequestId, SessionId, Timestamp,
    approval::{Resolution, WithdrawReason},
    custody::Hold,
    event::{Event, EventKind},
    outcome::CloseReason,
    port::{Durability, Receipt, RecordError, Recorder},
    session::Session,
};
use std::{sync::Arc, time::Duration};

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
    /// A page of hits, newest first.
    fn search(&self, query: &Query) -> Result<Found, String>;
    /// Puts a legal hold in force.
    fn hold(&self, hold: &Hold) -> Result<(), String>;
    /// Removes what is over its time, as much of it as the backend removes at once; how many records.
    fn expire(&self, keep: Duration, now: Timestamp) -> Result<u64, String>;
    /// That everything links, is signed, and nothing is missing but what retention removed.
    fn verify(&self) -> Result<(), String>;
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
    ("a request that expired stays expired over a restart", expired_stays_expired),
    ("words and filters find what fits, newest first, page by page", search_finds),
    ("retention removes nothing that is in its time, open or held, and the rest verifies", retention_keeps),
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

fn expired_stays_expired(backend: &dyn Backend) {
    let session = sample::session(1);
    let store = open(backend);
    let held = sample::held(&session, 7);
    let EventKind::ApprovalRequested { request, .. } = held.kind else { unreachable!("it is a request") };
    let expired = EventKind::ApprovalResolved { request, resolution: Resolution::Expired };
    let resolved = Event { at: sample::at(600), session: Some(session.id), kind: expired };
    record(
        &*store,
        vec![sample::started(&session), held, resolved, sample::ended(&session)],
        Durability::Synced,
    )
    .expect("recorded");
    store.close().expect("an orderly end");
    for _ in 0..2 {
        let store = open(backend);
        let resolved = |event: &Event| match &event.kind {
            EventKind::ApprovalResolved { request, resolution } => Some((*request, resolution.clone())),
            _ => None,
        };
        let all: Vec<(RequestId, Resolution)> = events_of(&*store).iter().filter_map(resolved).collect();
        assert_eq!(all, [(request, Resolution::Expired)]);
        let query = Query { request: Some(request), decision: Some(Decided::Expired), ..Query::default() };
        assert_eq!(store.search(&query).expect("searched").hits.len(), 1);
        store.close().expect("an orderly end");
    }
}

fn search_finds(backend: &dyn Backend) {
    let store = open(backend);
    let (one, two) = (sample::session(1), sample::session(2));
    // Numbers 1 to 8.
    let mut events = vec![
        sample::started(&one),
        sample::started(&two),
        sample::decided(&one, "SELECT note FROM public.orders"),
    ];
    events.push(sample::denied(&two, "DROP TABLE \"Orders\" -- it's \\ odd & !old"));
    events.extend([sample::held(&one, 7), sample::decided(&two, "SELECT Straße, ΣΊΣΥΦΟΣ FROM t")]);
    events.extend([sample::decided(&one, "SELECT 7"), sample::ended(&one)]);
    record(&*store, events, Durability::Synced).expect("recorded");
    let text = |text: &str| Query { text: Some(text.to_owned()), ..Query::default() };
    let EventKind::ApprovalRequested { request, .. } = sample::held(&one, 7).kind else {
        unreachable!("a request")
    };
    let table: Vec<(&str, Query, &[u64])> = vec![
        ("a word in any case", text("straße"), &[6]),
        ("letters beyond ASCII", text("σίσυφοσ"), &[6]),
        ("words in any order", text("orders SELECT note"), &[3]),
        ("a phrase", text("\"drop table orders\""), &[4]),
        ("no such phrase", text("\"drop orders\""), &[]),
        ("marks of punctuation are no words", text("it's \\ & ! old |"), &[4]),
        ("nobody's word", text("zzz"), &[]),
        (
            "a name that stands in the session",
            Query { identity: Some("uid:1002".into()), ..Query::default() },
            &[6, 4, 2],
        ),
        ("the target and a word", Query { target: Some("ORDERS-1".into()), ..text("7") }, &[7]),
        ("what became of it", Query { decision: Some(Decided::Denied), ..Query::default() }, &[4]),
        ("a table with its schema", Query { table: Some("Public.Orders".into()), ..text("straße") }, &[6]),
        ("a rule", Query { rule: Some("no-drop".into()), ..Query::default() }, &[4]),
        ("one request", Query { request: Some(request), ..Query::default() }, &[5]),
        (
            "one session's beginning",
            Query { session: Some(two.id), event: Some("session_started".into()), ..Query::default() },
            &[2],
        ),
        (
            "a time",
            Query { since: Some(two.opened_at), class: Some("read".into()), ..Query::default() },
            &[6, 4],
        ),
        (
            "a time before",
            Query { until: Some(two.opened_at), event: Some("session_started".into()), ..Query::default() },
            &[1],
        ),
        ("a filter without a word", Query { identity: Some("--".into()), ..Query::default() }, &[]),
    ];
    for (name, query, expected) in table {
        let found = store.search(&query).expect("searched");
        let found: Vec<u64> = found.hits.iter().map(|hit| hit.seq).collect();
        assert_eq!(found, expected, "{name}");
    }
    let mut query = Query { class: Some("read".into()), limit: Some(2), ..Query::default() };
    let mut pages = Vec::new();
    loop {
        let found = store.search(&query).expect("searched");
        pages.push(found.hits.iter().map(|hit| hit.seq).collect::<Vec<_>>());
        match found.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(pages.concat(), [7, 6, 5, 4, 3], "{pages:?}");
    assert!(pages.iter().all(|page| page.len() <= 2), "{pages:?}");
}

/// A session a week, by its number.
fn weekly(n: u32) -> Session {
    Session { id: SessionId::from_parts(u64::from(n) + 1, 3), ..sample::session(n) }
}

/// When it was.
pub fn week(n: u32) -> Timestamp {
    sample::at(0) + Duration::from_secs(7 * 86_400) * n
}

fn retention_keeps(backend: &dyn Backend) {
    let store = open(backend);
    let (open_one, held, of_somebody) = (1, 2, 3);
    for n in 0..12 {
        let session = weekly(n);
        let mut events = vec![sample::started(&session)];
        events.extend((0..6).map(|k| sample::decided(&session, &format!("SELECT {n}, {k}"))));
        events.extend((n != open_one).then(|| sample::ended(&session)));
        for event in &mut events {
            event.at = week(n);
        }
        record(&*store, events, Durability::Synced).expect("recorded");
    }
    let hold = |name: &str| Hold {
        name: name.into(),
        session: None,
        identity: None,
        since: None,
        until: None,
        by: "local:0".into(),
        reason: "a case".into(),
        at: week(12),
    };
    store.hold(&Hold { session: Some(weekly(held).id), ..hold("hold_session") }).expect("held");
    let identity = Some(weekly(of_somebody).principal.id);
    store.hold(&Hold { identity, ..hold("hold_identity") }).expect("held");
    let before = store.records().expect("readable").len() as u64;
    let removed = store.expire(Duration::from_secs(5 * 7 * 86_400), week(12)).expect("retention runs");
    let mut left = 0;
    for n in 0..12 {
        let records = store.session(weekly(n).id).expect("readable").len();
        left += records as u64;
        let whole = if n == open_one { 7 } else { 8 };
        let kept = n >= 7 || [open_one, held, of_somebody].contains(&n);
        assert!(records == whole || (records == 0 && !kept), "session {n}: {records} records left");
    }
    assert_eq!(left, before - removed, "what was removed is told");
    assert!(!store.records().expect("readable").is_empty());
    store.verify().expect("what is left verifies");
    store.close().expect("an orderly end");
}
