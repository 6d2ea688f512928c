//! The index says what the log says, whatever happens to it.

use super::{
    Decided, Found, Query,
    entry::Entry,
    table::{Table, Through},
};
use crate::{
    Log, LogSettings, Reader,
    contract::{record, sample},
    layout::{At, Layout},
    lines::line_at,
};
use lockgate_audit::ChainHash;
use lockgate_model::{
    OperationId, RequestId, SessionId,
    approval::{Resolution, Vote, VoteDecision},
    event::{Event, EventKind},
    operation::{Digest, Facts},
    port::{Durability, Recorder as _},
    principal::Approver,
    session::Session,
    sql::SqlClass,
    verdict::{Effect, Verdict},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

struct Store {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

impl Store {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { dir: temporary.path().join("store"), _temporary: temporary }
    }

    fn open(&self) -> Log {
        let settings = LogSettings {
            // Several segments, so that places are more than offsets.
            segment_bytes: 64 << 10,
            search: true,
            ..LogSettings::new(&self.dir, "build-7".into())
        };
        Log::open(settings, Arc::new(sample::FixedAmbient::default())).unwrap()
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.dir, None)
    }

    /// Every file of the index.
    fn index_files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.join("search")).unwrap();
        let mut files: Vec<_> =
            files.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
        files.sort();
        files
    }
}

fn session(n: u32) -> Session {
    let mut session = sample::session(n);
    session.id = SessionId::from_parts(1_000 + u64::from(n), 7);
    session
}

fn at(seconds: i64, session: SessionId, kind: EventKind) -> Event {
    Event { at: sample::at(seconds), session: Some(session), kind }
}

/// A statement about a table, decided in one of three ways.
fn operation(session: &Session, n: u64, text: &str, table: &str, class: SqlClass, effect: &str) -> Event {
    let mut event = match effect {
        "deny" => sample::denied(session, text),
        _ => sample::decided(session, text),
    };
    event.at = sample::at(n.cast_signed());
    let EventKind::OperationDecided { operation, verdict, .. } = &mut event.kind else {
        unreachable!("a decision")
    };
    operation.id = OperationId::from_parts(n, 1);
    operation.digest = Digest([u8::try_from(n % 251).unwrap(); 32]);
    let Facts::Sql(facts) = Arc::make_mut(&mut operation.facts) else { unreachable!("a statement") };
    facts.class = class;
    facts.tables_read = vec![table.to_owned().into()];
    if effect == "hold" {
        **verdict = Verdict { effect: Effect::Hold(sample_spec()), ..(**verdict).clone() };
    }
    event
}

fn sample_spec() -> lockgate_model::verdict::ApprovalSpec {
    lockgate_model::verdict::ApprovalSpec {
        requirements: Vec::new(),
        timeout: Duration::from_secs(600),
        max_wait_in_transaction: None,
    }
}

fn asked(session: &Session, n: u64) -> Event {
    let kind = EventKind::ApprovalRequested {
        request: request(n),
        operation: OperationId::from_parts(n, 1),
        command_digest: Digest([u8::try_from(n % 251).unwrap(); 32]),
        expires_at: sample::at(9_000),
        takes_up: None,
    };
    at(n.cast_signed(), session.id, kind)
}

fn request(n: u64) -> RequestId {
    RequestId::from_parts(n, 1)
}

fn resolved(session: &Session, n: u64, by: &str, decision: VoteDecision) -> Event {
    let vote = Vote {
        by: Approver {
            id: by.into(),
            groups: Vec::new(),
            via: "cli".into(),
            also: vec!["Ana Ortega".into()],
        },
        decision,
        reason: Some(format!("change {n} is agreed")),
        at: sample::at(n.cast_signed()),
        grant: None,
    };
    let resolution = match decision {
        VoteDecision::Approve => Resolution::Approved { votes: vec![vote], basis: None },
        VoteDecision::Deny => Resolution::Denied { vote },
    };
    at(n.cast_signed() + 1, session.id, EventKind::ApprovalResolved { request: request(n), resolution })
}

/// A few sessions' worth of everything; `from` numbers the operations.
fn day(from: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for n in 0..6_u32 {
        let session = session(n + u32::try_from(from).unwrap());
        events.push(sample::started(&session));
        for k in 0..20_u64 {
            let number = from * 1_000 + u64::from(n) * 100 + k;
            let (table, class) = match k % 3 {
                0 => ("public.orders", SqlClass::Read),
                1 => ("reporting.daily_sales", SqlClass::Ddl),
                _ => ("Öffentlich.Straße", SqlClass::Write),
            };
            let text = format!("SELECT note FROM {table} WHERE id = {number} AND word = 'w{}'", k % 7);
            let effect = ["allow", "deny", "hold"][(k % 3) as usize];
            events.push(operation(&session, number, &text, table, class, effect));
            if effect == "hold" {
                events.push(asked(&session, number));
                let by = if k % 2 == 0 { "local:1000" } else { "oidc:corp:bob@example.com" };
                let decision = if k % 4 == 0 { VoteDecision::Deny } else { VoteDecision::Approve };
                events.push(resolved(&session, number, by, decision));
            }
        }
        events.push(sample::ended(&session));
    }
    events
}

fn write(log: &Log, events: Vec<Event>) {
    for chunk in events.chunks(16) {
        let _ = record(log, chunk.to_vec(), Durability::Written).unwrap();
    }
}

/// Queries of every kind.
fn queries() -> Vec<Query> {
    let text = |text: &str| Query { text: Some(text.into()), ..Query::default() };
    vec![
        Query::default(),
        text("orders"),
        text("SELECT daily"),
        text("\"daily_sales where\""),
        text("\"where daily\""),
        text("w3 straße"),
        text("change agreed"),
        text("nowhere"),
        text("'; -- \"\" \\"),
        Query { identity: Some("uid:1001".into()), ..Query::default() },
        Query { identity: Some("1001 uid".into()), ..Query::default() },
        Query { identity: Some("--".into()), ..Query::default() },
        Query { target: Some("orders-1".into()), ..Query::default() },
        Query { table: Some("ORDERS".into()), ..Query::default() },
        Query { table: Some("reporting.daily_sales".into()), class: Some("ddl".into()), ..Query::default() },
        Query { table: Some("straße".into()), decision: Some(Decided::Approved), ..Query::default() },
        Query { decision: Some(Decided::Denied), ..Query::default() },
        Query { decision: Some(Decided::Rejected), approver: Some("local:1000".into()), ..Query::default() },
        Query { approver: Some("ana ortega".into()), text: Some("agreed".into()), ..Query::default() },
        Query { approver: Some("bob".into()), ..Query::default() },
        Query { event: Some("session_started".into()), ..Query::default() },
        Query { session: Some(session(2).id), ..Query::default() },
        Query { request: Some(request(102)), ..Query::default() },
        Query { digest: Some(Digest([3; 32]).to_string()), ..Query::default() },
        Query { rule: Some("no-drop".into()), ..Query::default() },
        Query { since: Some(sample::at(100)), until: Some(sample::at(110)), ..Query::default() },
        Query { repository: Some("acme/billing".into()), ..Query::default() },
    ]
}

/// Pages of a query put together.
fn all(reader: &Reader, query: &Query) -> Vec<super::Hit> {
    let (mut hits, mut before) = (Vec::new(), None);
    loop {
        let Found { hits: page, next, complete, .. } =
            reader.search(&Query { limit: Some(7), before, ..query.clone() }).unwrap();
        assert!(complete && page.len() <= 7);
        hits.extend(page);
        match next {
            Some(next) => before = Some(next),
            None => return hits,
        }
    }
}

/// The index, what it does not hold yet, and the log alone give the same hits in the same order.
fn agree(indexed: &Reader, dir: &Path) {
    let alone = Reader::open(dir).unwrap();
    for query in queries() {
        let expected = alone.search(&Query { limit: Some(500), ..query.clone() }).unwrap();
        let found = indexed.search(&Query { limit: Some(500), ..query.clone() }).unwrap();
        let numbers = |found: &Found| found.hits.iter().map(|hit| hit.seq).collect::<Vec<_>>();
        assert_eq!(numbers(&found), numbers(&expected), "{query:?}");
        assert_eq!(found.hits, expected.hits, "{query:?}");
        assert_eq!(found.next, expected.next, "{query:?}");
        if expected.next.is_none() {
            assert_eq!(all(indexed, &query), expected.hits, "in pages: {query:?}");
        }
    }
}

fn caught_up(reader: &Reader) {
    let until = Instant::now() + Duration::from_secs(240);
    loop {
        let found = reader.search(&Query::default()).unwrap();
        if found.indexed == found.last {
            return;
        }
        assert!(Instant::now() < until, "indexed {} of {}", found.indexed, found.last);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_index_and_the_log_alone_give_the_same_hits() {
    let store = Store::new();
    let log = store.open();
    write(&log, day(0));
    // What rests is found at once, whether or not the thread has come to it.
    agree(&log.reader(), &store.dir);
    caught_up(&log.reader());
    write(&log, day(100));
    agree(&log.reader(), &store.dir);
    log.close().unwrap();
    drop(log);
    // Everything is committed now, and nothing is in memory.
    let log = store.open();
    agree(&log.reader(), &store.dir);
}

#[test]
fn queries_mean_what_they_say() {
    let store = Store::new();
    let log = store.open();
    write(&log, day(0));
    let count = |query: Query| {
        let found = log.reader().search(&Query { limit: Some(500), ..query }).unwrap();
        found.hits.len()
    };
    let text = |text: &str| Query { text: Some(text.into()), ..Query::default() };
    // Six sessions with 20 operations each: 7 on orders, 7 on daily_sales, 6 on the third table.
    assert_eq!(count(Query { event: Some("session_started".into()), ..Query::default() }), 6);
    assert_eq!(count(Query { table: Some("public.orders".into()), ..Query::default() }), 42);
    assert_eq!(count(Query { table: Some("orders".into()), ..Query::default() }), 42);
    assert_eq!(count(Query { table: Some("order".into()), ..Query::default() }), 0);
    assert_eq!(
        count(Query { class: Some("ddl".into()), decision: Some(Decided::Denied), ..Query::default() }),
        42
    );
    // Each held operation is decided, asked and resolved.
    assert_eq!(count(Query { table: Some("straße".into()), ..Query::default() }), 3 * 36);
    assert_eq!(count(Query { decision: Some(Decided::Held), ..Query::default() }), 36);
    let resolved = |decision| Query { decision: Some(decision), ..Query::default() };
    assert_eq!(count(resolved(Decided::Approved)) + count(resolved(Decided::Rejected)), 36);
    assert_eq!(count(text("\"daily_sales where id\"")), 42);
    assert_eq!(count(text("\"where daily_sales\"")), 0);
    assert_eq!(count(text("where daily_sales")), 42);
    let one = log.reader().search(&text("id 202")).unwrap().hits;
    assert_eq!(one.len(), 1, "{one:?}");
    let hit = &one[0];
    assert_eq!((hit.identity.as_deref(), hit.target.as_deref()), (Some("uid:1002"), Some("orders-0")));
    assert_eq!((hit.class.as_deref(), hit.decision), (Some("write"), Some(Decided::Held)));
    assert!(hit.text.contains("id = 202"), "{}", hit.text);
}

#[test]
fn a_damaged_index_is_made_anew() {
    let store = Store::new();
    let log = store.open();
    write(&log, day(0));
    log.close().unwrap();
    drop(log);
    let whole: Vec<_> =
        store.index_files().into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert!(whole.len() > 3);
    for (bytes, path) in whole.iter().filter(|(bytes, _)| !bytes.is_empty()) {
        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        for damage in [flipped, bytes[..bytes.len() / 2].to_vec(), Vec::new()] {
            let _ = fs::remove_dir_all(store.dir.join("search"));
            fs::create_dir(store.dir.join("search")).unwrap();
            whole.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
            fs::write(path, damage).unwrap();
            let log = store.open();
            let query = Query { text: Some("straße w2".into()), ..Query::default() };
            caught_up(&log.reader());
            let expected = Reader::open(&store.dir).unwrap().search(&query).unwrap().hits;
            assert_eq!(log.reader().search(&query).unwrap().hits, expected, "{}", path.display());
        }
    }
}

#[test]
fn an_index_that_was_left_behind_goes_on_and_one_of_another_log_does_not() {
    let (store, other) = (Store::new(), Store::new());
    for (store, from) in [(&store, 0), (&other, 50)] {
        let log = store.open();
        write(&log, day(from));
        log.close().unwrap();
    }
    let copy = |from: &Path, to: &Path| {
        let _ = fs::remove_dir_all(to);
        fs::create_dir(to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    };
    let (early, search) = (store.dir.join("early"), store.dir.join("search"));
    copy(&search, &early);
    let log = store.open();
    write(&log, day(100));
    log.close().unwrap();
    drop(log);
    // What a crash before the last commit leaves.
    copy(&early, &search);
    let log = store.open();
    agree(&log.reader(), &store.dir);
    drop(log);
    copy(&other.dir.join("search"), &search);
    let log = store.open();
    caught_up(&log.reader());
    agree(&log.reader(), &store.dir);
}

#[test]
fn a_poisoned_index_shows_nothing_that_the_log_does_not_hold() {
    let store = Store::new();
    let log = store.open();
    write(&log, day(0));
    log.close().unwrap();
    drop(log);
    let layout = store.layout();
    let (table, through) = Table::open(&layout.search()).unwrap();
    let through = through.unwrap();
    let mut writer = table.writer().unwrap();
    let first = layout.list_segments().unwrap().0.remove(0);
    // Entries that lie about records that are there, and about places where none is.
    for (seq, offset) in [(1, 0), (2, 0), (7, 3), (9_999, 0), (3, u64::MAX / 2), (4, 1 << 40)] {
        let mut entry =
            Entry { hit: super::Hit::default(), more: "forged".into(), at: At { segment: 1, offset } };
        entry.hit.seq = seq;
        entry.hit.event = "approval_resolved".into();
        entry.hit.decision = Some(Decided::Approved);
        entry.hit.approvers = vec!["local:0".into()];
        entry.hit.identity = Some("uid:0".into());
        writer.add(&entry).unwrap();
        entry.at.segment = u64::MAX;
        writer.add(&entry).unwrap();
    }
    let last = line_at(&layout, At { segment: through.segment, offset: through.offset }).unwrap().unwrap();
    let at = At { segment: through.segment, offset: through.offset };
    writer.commit(Through::new(through.seq, at, through.end, ChainHash::of_line(&last))).unwrap();
    drop(writer);
    assert_eq!(first.first_seq, 1);
    let log = store.open();
    let approver = Query { approver: Some("local:0".into()), ..Query::default() };
    let identity = Query { identity: Some("uid:0".into()), ..Query::default() };
    let text = Query { text: Some("forged".into()), ..Query::default() };
    for query in [approver, identity, text] {
        assert_eq!(log.reader().search(&query).unwrap().hits, [], "{query:?}");
    }
    // And hides nothing: true entries are still there, each once.
    agree(&log.reader(), &store.dir);
}

#[test]
fn what_is_masked_or_skipped_is_not_found() {
    let store = Store::new();
    let log = store.open();
    let session = session(1);
    let rows = EventKind::ResultRows {
        operation: OperationId::from_parts(1, 1),
        columns: vec!["email".into()],
        rows: vec![vec![Some("needle@example.com".into())]],
        truncated: false,
    };
    write(&log, vec![sample::started(&session), at(1, session.id, rows), sample::ended(&session)]);
    for query in [
        Query { text: Some("needle".into()), ..Query::default() },
        Query { event: Some("result_rows".into()), ..Query::default() },
    ] {
        assert_eq!(log.reader().search(&query).unwrap().hits, [], "{query:?}");
    }
    let found = log.reader().search(&Query::default()).unwrap();
    assert_eq!(found.hits.len(), 2);
    assert_eq!(found.last, 3);
}

#[test]
fn a_phrase_means_the_same_to_the_index_and_to_the_log() {
    let store = Store::new();
    let log = store.open();
    let session = session(1);
    let long = "x".repeat(300);
    let texts = [format!("alpha {long} beta"), "alpha, BETA gamma".into(), "beta alpha".into()];
    let mut events = vec![sample::started(&session)];
    for (n, text) in (0..).zip(&texts) {
        events.push(operation(&session, n, text, "public.orders", SqlClass::Read, "allow"));
    }
    write(&log, events);
    let long_phrase = format!("\"{}\"", "alpha beta ".repeat(40));
    for (text, hits) in [
        ("\"alpha beta\"", 1),
        ("\"beta alpha\"", 1),
        ("\"alpha beta gamma\"", 1),
        ("\"beta beta\"", 0),
        ("alpha beta", 3),
        (long_phrase.as_str(), 0),
    ] {
        let query = Query { text: Some(text.into()), ..Query::default() };
        let before = log.reader().search(&query).unwrap().hits;
        assert_eq!(before.len(), hits, "{text}");
        caught_up(&log.reader());
        assert_eq!(log.reader().search(&query).unwrap().hits, before, "{text}");
    }
}

#[test]
fn odd_queries_are_answered() {
    let store = Store::new();
    let log = store.open();
    write(&log, day(0));
    let long = "x".repeat(100_000);
    for query in [
        Query { text: Some(long.clone()), ..Query::default() },
        Query { text: Some("a ".repeat(2_000)), ..Query::default() },
        Query { target: Some(long), ..Query::default() },
        Query { limit: Some(0), ..Query::default() },
        Query { limit: Some(usize::MAX), ..Query::default() },
        Query { before: Some(0), ..Query::default() },
        Query { before: Some(u64::MAX), ..Query::default() },
        Query { since: Some(sample::at(10)), until: Some(sample::at(5)), ..Query::default() },
        Query {
            since: Some(lockgate_model::Timestamp::MIN),
            until: Some(lockgate_model::Timestamp::MAX),
            ..Query::default()
        },
    ] {
        let found = log.reader().search(&query).unwrap();
        assert!(found.hits.len() <= super::MAX_LIMIT);
        caught_up(&log.reader());
        let again = log.reader().search(&query).unwrap();
        assert_eq!(found.hits, again.hits);
    }
    // The agent's shutdown does not wait for searches.
    log.submit(vec![sample::mark("last", 1)]);
}
