//! Named cases: what the client sends, what it is told, what the server keeps.

use super::{Stage, batch, bind, close, copy_data, describe, execute, parse, query, run};
use crate::{
    limits::Limits,
    testing::{self, Decision},
};
use lockgate_model::{
    approval::WithdrawReason,
    event::EventKind,
    outcome::{CloseReason, OutcomeStatus},
    session::Mode,
    verdict::DenialCause,
};
use lockgate_wire::postgres::frontend::Frontend;
use std::{sync::atomic::Ordering, time::Duration};
use tokio::io::AsyncWriteExt;

const SECOND: Duration = Duration::from_secs(1);

/// One conversation: messages in, messages out, statements that the server kept.
struct Case {
    name: &'static str,
    decision: Decision,
    send: Vec<Frontend>,
    told: &'static str,
    kept: &'static [&'static str],
}

fn case(
    name: &'static str,
    send: impl IntoIterator<Item = Frontend>,
    told: &'static str,
    kept: &'static [&'static str],
) -> Case {
    Case { name, decision: Decision::Never, send: send.into_iter().collect(), told, kept }
}

fn held(decision: Decision, case: Case) -> Case {
    Case { decision, ..case }
}

#[tokio::test(start_paused = true)]
async fn conversations() {
    let sync = [Frontend::Sync];
    let flush = [Frontend::Flush];
    let cases = [
        case("a read passes", [query("SELECT 1")], "T D D D C:SELECT_3 Z:I", &[]),
        case("an empty text is answered here", [query(" ; ")], "I Z:I", &[]),
        case(
            "a denial leaves the session usable",
            [query("DELETE FROM t"), query("INSERT INTO t VALUES (1)")],
            "E:42501 Z:I C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        case(
            "all statements of a text or none",
            [query("INSERT INTO t VALUES (1); DELETE FROM t")],
            "E:42501 Z:I",
            &[],
        ),
        case("what is not understood is denied", [query("FROBNICATE t")], "E:42501 Z:I", &[]),
        case(
            "a denial fails the open transaction",
            [query("BEGIN"), query("INSERT INTO t VALUES (1)"), query("DELETE FROM t"), query("COMMIT")],
            "C:BEGIN Z:T C:INSERT Z:T E:42501 Z:E C:ROLLBACK Z:I",
            &[],
        ),
        case(
            "a failed transaction can be left",
            [query("BEGIN"), query("SELECT 1/0"), query("DELETE FROM t"), query("ROLLBACK")],
            "C:BEGIN Z:T E:22012 Z:E E:42501 Z:E C:ROLLBACK Z:I",
            &[],
        ),
        case(
            "an error of the server is the server's",
            [query("SELECT 1/0"), query("SELECT 1")],
            "E:22012 Z:I T D D D C:SELECT_3 Z:I",
            &[],
        ),
        // The extended protocol.
        case(
            "a batch passes",
            batch(&[&run("INSERT INTO t VALUES (1)"), &sync]),
            "1 2 C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        case(
            "of a denied batch runs what stands before the denial, and none of it is kept",
            batch(&[
                &run("INSERT INTO t VALUES (1)"),
                &run("DELETE FROM t"),
                &run("INSERT INTO t VALUES (2)"),
                &sync,
                &run("SELECT 1"),
                &sync,
            ]),
            "1 2 C:INSERT E:42501 Z:I 1 2 D D D C:SELECT_3 Z:I",
            &[],
        ),
        case(
            "what a denied batch committed before is kept, as an error would leave it",
            batch(&[
                &[query("BEGIN")],
                &run("INSERT INTO t VALUES (1)"),
                &run("COMMIT"),
                &run("DELETE FROM t"),
                &sync,
            ]),
            "C:BEGIN Z:T 1 2 C:INSERT 1 2 C:COMMIT E:42501 Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        case(
            "names made before a denial stay",
            batch(&[
                &[parse("s", "INSERT INTO t VALUES (1)"), bind("", "s"), execute("", 0)],
                &run("DELETE FROM t"),
                &sync,
                &[bind("", "s"), execute("", 0)],
                &sync,
            ]),
            "1 2 C:INSERT E:42501 Z:I 2 C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        case(
            "a denied statement is not prepared, whatever stands between its Parse and its Execute",
            batch(&[
                &[parse("a", "SELECT 1"), parse("b", "DELETE FROM t"), bind("", "a"), execute("", 0)],
                &[bind("", "b"), execute("", 0)],
                &sync,
                &[bind("", "a"), execute("", 0)],
                &sync,
                &[bind("", "b"), execute("", 0)],
                &sync,
            ]),
            "E:42501 Z:I E:26000 Z:I E:26000 Z:I",
            &[],
        ),
        case(
            "what belongs to the statements before a denial goes on, what belongs to those behind does not",
            batch(&[
                &[parse("", "SELECT 1"), bind("", ""), describe(""), execute("", 0), parse("a", "SELECT 2")],
                &[parse("b", "DELETE FROM t"), bind("", "b"), execute("", 0), bind("", "a"), execute("", 0)],
                &sync,
            ]),
            "1 2 T D D D C:SELECT_3 E:42501 Z:I",
            &[],
        ),
        case(
            "pings before a denial are answered",
            batch(&[&run(""), &[close("s")], &run("DELETE FROM t"), &sync]),
            "1 2 I 3 E:42501 Z:I",
            &[],
        ),
        case(
            "a denial before a Flush lets pass what stands before it, and nothing behind",
            batch(&[
                &run("INSERT INTO t VALUES (1)"),
                &run("DELETE FROM t"),
                &flush,
                &run("INSERT INTO t VALUES (2)"),
                &flush,
                &[query("INSERT INTO t VALUES (3)")],
                &sync,
            ]),
            "1 2 C:INSERT E:42501 Z:I",
            &[],
        ),
        case(
            "each batch of a pipeline is decided by itself",
            batch(&[
                &run("INSERT INTO t VALUES (1)"),
                &sync,
                &run("DELETE FROM t"),
                &sync,
                &run("INSERT INTO t VALUES (2)"),
                &sync,
            ]),
            "1 2 C:INSERT Z:I E:42501 Z:I 1 2 C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"],
        ),
        case(
            "what was flushed before a denial is not kept",
            batch(&[&run("INSERT INTO t VALUES (1)"), &flush, &run("DELETE FROM t"), &sync]),
            "1 2 C:INSERT E:42501 Z:I",
            &[],
        ),
        case(
            "a denial before a Flush skips to Sync",
            batch(&[&run("DELETE FROM t"), &flush, &run("INSERT INTO t VALUES (1)"), &sync]),
            "E:42501 Z:I",
            &[],
        ),
        case(
            "a denied batch fails the open transaction",
            batch(&[
                &[query("BEGIN")],
                &run("INSERT INTO t VALUES (1)"),
                &sync,
                &run("DELETE FROM t"),
                &sync,
                &[query("COMMIT")],
            ]),
            "C:BEGIN Z:T 1 2 C:INSERT Z:T E:42501 Z:E C:ROLLBACK Z:I",
            &[],
        ),
        case("a Parse alone is decided", [parse("s", "DELETE FROM t"), Frontend::Sync], "E:42501 Z:I", &[]),
        case(
            "a prepared statement runs again",
            batch(&[
                &[parse("s", "INSERT INTO t VALUES (1)")],
                &sync,
                &[bind("", "s"), execute("", 0)],
                &sync,
                &[bind("", "s"), execute("", 0)],
                &sync,
                &[close("s")],
                &sync,
            ]),
            "1 Z:I 2 C:INSERT Z:I 2 C:INSERT Z:I 3 Z:I",
            &["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (1)"],
        ),
        case(
            "a name that was never prepared is not executed",
            [bind("", "s"), execute("", 0), Frontend::Sync],
            "E:26000 Z:I",
            &[],
        ),
        case(
            "a portal that was never bound is not executed",
            [execute("p", 0), Frontend::Sync],
            "E:34000 Z:I",
            &[],
        ),
        case(
            "a Parse that fails leaves the old statement in its place",
            batch(&[
                &[parse("s", "INSERT INTO t VALUES (1)")],
                &sync,
                &[parse("s", "SELECT 1")],
                &sync,
                &[bind("", "s"), execute("", 0)],
                &sync,
            ]),
            "1 Z:I E:42P05 Z:I 2 C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        case(
            "two statements in one Parse are refused",
            [parse("", "SELECT 1; DELETE FROM t"), Frontend::Sync],
            "E:42601 Z:I",
            &[],
        ),
        case("a ping with an empty statement runs nothing", batch(&[&run(""), &sync]), "1 2 I Z:I", &[]),
        case(
            "a row limit suspends the portal",
            batch(&[
                &[query("BEGIN"), parse("", "SELECT 1"), bind("p", ""), execute("p", 2), execute("p", 0)],
                &sync,
            ]),
            "C:BEGIN Z:T 1 2 D D D s D D D C:SELECT_3 Z:T",
            &[],
        ),
        case(
            "describe travels along",
            [parse("", "SELECT 1"), bind("", ""), describe(""), execute("", 0), Frontend::Sync],
            "1 2 T D D D C:SELECT_3 Z:I",
            &[],
        ),
        case("Sync alone", [Frontend::Sync, Frontend::Sync], "Z:I Z:I", &[]),
        case(
            "a Query ends a segment",
            batch(&[&run("INSERT INTO t VALUES (1)"), &flush, &[query("INSERT INTO t VALUES (2)")]]),
            "1 2 C:INSERT C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"],
        ),
        case(
            "a Query behind a batch without Flush ends it too",
            batch(&[&run("INSERT INTO t VALUES (1)"), &[query("INSERT INTO t VALUES (2)")]]),
            "1 2 C:INSERT C:INSERT Z:I",
            &["INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)"],
        ),
        case(
            "a denied Query takes its segment with it",
            batch(&[&run("INSERT INTO t VALUES (1)"), &flush, &[query("DELETE FROM t"), query("SELECT 1")]]),
            "1 2 C:INSERT E:42501 Z:I T D D D C:SELECT_3 Z:I",
            &[],
        ),
        case(
            "a Query behind a denied batch is skipped like the rest",
            batch(&[
                &run("DELETE FROM t"),
                &[query("INSERT INTO t VALUES (2)")],
                &sync,
                &[query("SELECT 1")],
            ]),
            "E:42501 Z:I T D D D C:SELECT_3 Z:I",
            &[],
        ),
        case(
            "an empty Query ends a segment",
            batch(&[&run("INSERT INTO t VALUES (1)"), &flush, &[query("")]]),
            "1 2 C:INSERT I Z:I",
            &["INSERT INTO t VALUES (1)"],
        ),
        // Copies.
        case(
            "copy in",
            [query("COPY t FROM STDIN"), copy_data(10), copy_data(70_000), Frontend::CopyDone],
            "G C:COPY_1 Z:I",
            &["COPY t FROM STDIN"],
        ),
        case(
            "a copy that the client fails",
            [query("COPY t FROM STDIN"), copy_data(10), Frontend::CopyFail(Default::default())],
            "G E:57014 Z:I",
            &[],
        ),
        case(
            "copy in by the extended protocol",
            batch(&[&run("COPY t FROM STDIN"), &sync, &[copy_data(10), Frontend::CopyDone], &sync]),
            "1 2 G C:COPY_1 Z:I",
            &["COPY t FROM STDIN"],
        ),
        case("copy out", [query("COPY t TO STDOUT")], "H d c C:COPY_1 Z:I", &["COPY t TO STDOUT"]),
        case(
            "copy out of a query that is more than a read",
            [query("COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT")],
            "H d c C:COPY_1 Z:I",
            &["COPY (INSERT INTO t VALUES (1) RETURNING *) TO STDOUT"],
        ),
        case(
            "copy data nobody asked for is ignored",
            [copy_data(10), Frontend::CopyDone, query("SELECT 1")],
            "T D D D C:SELECT_3 Z:I",
            &[],
        ),
        // Holds.
        held(
            Decision::Approve(SECOND),
            case("held and approved", [query("DROP TABLE t")], "N N C:DROP Z:I", &["DROP TABLE t"]),
        ),
        held(Decision::Deny(SECOND), case("held and denied", [query("DROP TABLE t")], "N E:42501 Z:I", &[])),
        held(
            Decision::Expire(45 * SECOND),
            case("held until it runs out, with notices", [query("DROP TABLE t")], "N N N E:42501 Z:I", &[]),
        ),
        held(
            Decision::Unavailable,
            case("no request can be made", [query("DROP TABLE t")], "E:42501 Z:I", &[]),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "each held statement of a text is asked for",
                [query("DROP TABLE t; DROP TABLE u")],
                "N N N N C:DROP C:DROP Z:I",
                &["DROP TABLE t", "DROP TABLE u"],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "a denial beside a hold asks nobody",
                [query("DROP TABLE t; DELETE FROM t")],
                "E:42501 Z:I",
                &[],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "a denial behind a hold in a batch asks nobody, and ends it at the hold",
                batch(&[
                    &run("SELECT 1"),
                    &run("DROP TABLE t"),
                    &run("SELECT 2"),
                    &run("DELETE FROM t"),
                    &sync,
                ]),
                "1 2 D D D C:SELECT_3 E:42501 Z:I",
                &[],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "a batch with a hold waits whole, then runs whole",
                batch(&[&run("INSERT INTO t VALUES (1)"), &run("DROP TABLE t"), &run("SELECT 1"), &sync]),
                "N N 1 2 C:INSERT 1 2 C:DROP 1 2 D D D C:SELECT_3 Z:I",
                &["INSERT INTO t VALUES (1)", "DROP TABLE t"],
            ),
        ),
        held(
            Decision::Deny(SECOND),
            case(
                "a hold that is denied ends its batch there",
                batch(&[&run("INSERT INTO t VALUES (1)"), &run("DROP TABLE t"), &run("SELECT 1"), &sync]),
                "N 1 2 C:INSERT E:42501 Z:I",
                &[],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "nobody is asked for what the server will skip",
                batch(&[&run("SELECT 1/0"), &flush, &run("DROP TABLE t"), &sync]),
                "1 2 E:22012 Z:I",
                &[],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "an approved Parse is good for its first Execute",
                batch(&[&[parse("s", "DROP TABLE t")], &sync, &[bind("", "s"), execute("", 0)], &sync]),
                "N N 1 Z:I 2 C:DROP Z:I",
                &["DROP TABLE t"],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "and its second Execute asks again",
                batch(&[
                    &[parse("s", "DROP TABLE t")],
                    &sync,
                    &[bind("", "s"), execute("", 0)],
                    &sync,
                    &[bind("", "s"), execute("", 0)],
                    &sync,
                ]),
                "N N 1 Z:I 2 C:DROP Z:I N N 2 C:DROP Z:I",
                &["DROP TABLE t", "DROP TABLE t"],
            ),
        ),
        held(
            Decision::Deny(SECOND),
            case(
                "a held batch in a transaction, denied",
                batch(&[
                    &[query("BEGIN")],
                    &run("INSERT INTO t VALUES (1)"),
                    &sync,
                    &run("DROP TABLE t"),
                    &sync,
                    &[query("COMMIT")],
                ]),
                "C:BEGIN Z:T 1 2 C:INSERT Z:T N E:42501 Z:E C:ROLLBACK Z:I",
                &[],
            ),
        ),
        held(
            Decision::Approve(SECOND),
            case(
                "nobody is asked for a failed transaction",
                [query("BEGIN"), query("SELECT 1/0"), query("DROP TABLE t"), query("ROLLBACK")],
                "C:BEGIN Z:T E:22012 Z:E E:42501 Z:E C:ROLLBACK Z:I",
                &[],
            ),
        ),
        // What is refused by name.
        case(
            "FunctionCall",
            [
                Frontend::FunctionCall(lockgate_wire::postgres::frontend::FunctionCall {
                    function: 1,
                    argument_formats: Vec::new(),
                    arguments: Vec::new(),
                    result_format: Default::default(),
                }),
                query("SELECT 1"),
            ],
            "E:42501 Z:I T D D D C:SELECT_3 Z:I",
            &[],
        ),
    ];
    for Case { name, decision, send, told, kept } in cases {
        let mut stage = Stage::open().await;
        *stage.outside.approvals.decision.lock().unwrap() = decision;
        stage.send(&send).await;
        let ready = told.split(' ').filter(|word| word.starts_with('Z')).count();
        assert_eq!(stage.until_ready(ready).await, told, "{name}");
        stage.send(&[Frontend::Terminate]).await;
        let (closing, outside, seen) = stage.finish().await;
        assert_eq!(seen.committed, kept, "{name}");
        assert_eq!(closing.reason, CloseReason::ClientClosed, "{name}: {closing:?}");
        // Whatever was forwarded was answered.
        let broken = |event: &EventKind| matches!(event, EventKind::Responded { outcome, .. } if outcome.status == OutcomeStatus::Broken);
        assert!(!outside.recorder.events().iter().any(broken), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_refused_or_held_statement_reaches_the_server() {
    for (sql, decision) in [
        ("DELETE FROM t", Decision::Never),
        ("SELECT 1; DELETE FROM t", Decision::Never),
        ("DROP TABLE t", Decision::Deny(SECOND)),
        ("FROBNICATE", Decision::Never),
    ] {
        for extended in [false, true] {
            if extended && sql.contains(';') {
                continue;
            }
            let mut stage = Stage::open().await;
            *stage.outside.approvals.decision.lock().unwrap() = decision;
            match extended {
                false => stage.send(&[query(sql)]).await,
                true => stage.send(&batch(&[&run(sql), &[Frontend::Sync]])).await,
            }
            stage.until_ready(1).await;
            assert_eq!(stage.seen.lock().unwrap().bytes, 0, "{sql}");
            stage.finish().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_recorder_that_fails_refuses_and_nothing_is_sent() {
    for messages in
        [vec![query("SELECT 1")], batch(&[&run("SELECT 1"), &[Frontend::Sync]]), vec![query("DROP TABLE t")]]
    {
        let mut stage = Stage::open().await;
        stage.outside.recorder.broken.store(true, Ordering::SeqCst);
        stage.send(&messages).await;
        assert_eq!(stage.until_ready(1).await, "E:58030 Z:I");
        assert_eq!(stage.seen.lock().unwrap().bytes, 0);
        // The session goes on when the log does.
        stage.outside.recorder.broken.store(false, Ordering::SeqCst);
        stage.send(&[query("SELECT 1")]).await;
        assert_eq!(stage.until_ready(1).await, "T D D D C:SELECT_3 Z:I");
        stage.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_ctrl_c() {
    let mut stage = Stage::open().await;
    stage.send(&[query("DROP TABLE t")]).await;
    assert_eq!(stage.next().await.as_deref(), Some("N"));
    assert!(stage.cancel.cancel());
    assert_eq!(stage.until_ready(1).await, "E:57014 Z:I");
    assert_eq!(*stage.outside.approvals.withdrawn.lock().unwrap(), [WithdrawReason::Cancelled]);
    stage.send(&[query("SELECT 1")]).await;
    assert_eq!(stage.until_ready(1).await, "T D D D C:SELECT_3 Z:I");
    let (_, _, seen) = stage.finish().await;
    assert_eq!(seen.committed, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn ctrl_c_while_a_read_is_recorded_stops_it() {
    for messages in [vec![query("SELECT 1")], batch(&[&run("SELECT 1"), &[Frontend::Sync]])] {
        let mut stage = Stage::open().await;
        *stage.outside.recorder.delay.lock().unwrap() = SECOND;
        stage.send(&messages).await;
        tokio::time::sleep(SECOND / 2).await;
        assert!(stage.cancel.cancel());
        assert_eq!(stage.until_ready(1).await, "E:57014 Z:I");
        assert_eq!(stage.seen.lock().unwrap().bytes, 0);
        stage.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_client() {
    let mut stage = Stage::open().await;
    stage.send(&[query("DROP TABLE t")]).await;
    assert_eq!(stage.next().await.as_deref(), Some("N"));
    let withdrawn = stage.outside.approvals.withdrawn.clone();
    let (closing, _, seen) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::ClientClosed);
    assert_eq!(*withdrawn.lock().unwrap(), [WithdrawReason::Disconnected]);
    assert_eq!(seen.committed, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_its_server() {
    let mut stage = Stage::open().await;
    stage.send(&[query("DROP TABLE t")]).await;
    assert_eq!(stage.next().await.as_deref(), Some("N"));
    stage.server.abort();
    assert_eq!(stage.until_ready(1).await, "E:08006 end");
    stage.server = tokio::spawn(async {});
    let withdrawn = stage.outside.approvals.withdrawn.clone();
    let (closing, _, _) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::UpstreamClosed);
    assert_eq!(*withdrawn.lock().unwrap(), [WithdrawReason::UpstreamLost]);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_drain() {
    let mut stage = Stage::open().await;
    stage.send(&[query("DROP TABLE t")]).await;
    assert_eq!(stage.next().await.as_deref(), Some("N"));
    stage.drain.draining.cancel();
    tokio::time::sleep(SECOND).await;
    stage.drain.deadline.cancel();
    assert_eq!(stage.until_ready(1).await, "E:57P01 end");
    let withdrawn = stage.outside.approvals.withdrawn.clone();
    let (closing, _, _) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::Drained);
    assert_eq!(*withdrawn.lock().unwrap(), [WithdrawReason::Drained]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_ends_when_draining_and_a_transaction_does_not() {
    let mut idle = Stage::open().await;
    idle.send(&[query("SELECT 1")]).await;
    idle.until_ready(1).await;
    let mut busy = Stage::open().await;
    busy.send(&[query("BEGIN")]).await;
    busy.until_ready(1).await;
    idle.drain.draining.cancel();
    busy.drain.draining.cancel();
    assert_eq!(idle.until_ready(1).await, "E:57P01 end");
    busy.send(&[query("INSERT INTO t VALUES (1)"), query("COMMIT")]).await;
    assert_eq!(busy.until_ready(3).await, "C:INSERT Z:T C:COMMIT Z:I E:57P01 end");
    assert_eq!(idle.finish().await.0.reason, CloseReason::Drained);
    let (closing, _, seen) = busy.finish().await;
    assert_eq!(closing.reason, CloseReason::Drained);
    assert_eq!(seen.committed, ["INSERT INTO t VALUES (1)"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_inside_a_row_ends_the_session() {
    let mut stage = Stage::open().await;
    stage.send(&[query("SELECT vanish")]).await;
    let mut rows = 0;
    // What came whole was passed on; the half row leaves the client inside a message, so nothing more can be said.
    loop {
        use lockgate_wire::postgres::frame::{FrameDecoder, Limits};
        use tokio::io::AsyncReadExt;
        while FrameDecoder::new(Limits::SERVER).next(&mut stage.input).unwrap().is_some() {
            rows += 1;
        }
        if stage.client.read_buf(&mut stage.input).await.unwrap() == 0 {
            break;
        }
    }
    assert_eq!(rows, 4);
    let (closing, outside, _) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::UpstreamClosed);
    let broken = outside.recorder.events().into_iter().any(|event| {
        matches!(event, EventKind::Responded { outcome, .. } if outcome.status == OutcomeStatus::Broken)
    });
    assert!(broken);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_stops_the_server_and_ends_after_the_bound() {
    let limits = Limits { client_write_high: 4096, client_write_stall: 60 * SECOND, ..Limits::default() };
    let mut stage = Stage::with(testing::outside(super::POLICY), limits, 8192).await;
    stage.send(&[query("SELECT bulk")]).await;
    let began = tokio::time::Instant::now();
    while !stage.session.is_finished() {
        tokio::time::sleep(SECOND).await;
    }
    assert!(began.elapsed() >= 60 * SECOND && began.elapsed() < 80 * SECOND, "{:?}", began.elapsed());
    let (closing, _, _) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::LimitReached);
    // Two pipes and the buffers between: what the server could write is bounded.
    assert!(closing.bytes_to_client <= 8192, "{closing:?}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_gets_all_of_a_large_result() {
    let limits = Limits { client_write_high: 4096, ..Limits::default() };
    let mut stage = Stage::with(testing::outside(super::POLICY), limits, 1024).await;
    stage.send(&[query("SELECT bulk")]).await;
    let told = stage.until_ready(1).await;
    assert_eq!(told.matches('D').count(), 20_000);
    let (_, outside, _) = stage.finish().await;
    let rows = outside.recorder.events().into_iter().find_map(|event| match event {
        EventKind::Responded { outcome, .. } => Some(outcome.rows),
        _ => None,
    });
    assert_eq!(rows, Some(20_000));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_the_protocol_end_the_session_with_words() {
    for (bytes, told, reason) in [
        (&b"\0\0\0\0\0"[..], "E:08P01 end", CloseReason::ClientProtocolError),
        (b"Q\x40\0\0\0", "E:54000 end", CloseReason::LimitReached),
        (b"Q\0\0\0\x01", "E:08P01 end", CloseReason::ClientProtocolError),
        (b"?\0\0\0\x04", "E:0A000 E:08P01 end", CloseReason::ClientProtocolError),
        (b"Q\0\0\0\x06ab", "E:08P01 end", CloseReason::ClientProtocolError),
        (b"p\0\0\0\x05\0", "E:08P01 end", CloseReason::ClientProtocolError),
    ] {
        let mut stage = Stage::open().await;
        stage.client.write_all(bytes).await.unwrap();
        assert_eq!(stage.until_ready(1).await, told, "{bytes:?}");
        let (closing, _, seen) = stage.finish().await;
        assert_eq!(closing.reason, reason, "{bytes:?}");
        assert!(seen.bytes <= 5, "at most Terminate: {bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_policy_counts_when_the_wait_ends() {
    let stricter = super::POLICY.replace("effect: require_approval", "effect: deny").replace(
        "  approval:\n    stages: [{ at: 0m, from: { group: dba }, need: 1 }]\n    timeout: 30m\n",
        "",
    );
    let mut stage = Stage::open().await;
    *stage.outside.approvals.decision.lock().unwrap() = Decision::Approve(SECOND);
    stage.send(&[query("DROP TABLE t")]).await;
    assert_eq!(stage.next().await.as_deref(), Some("N"));
    stage.outside.ports.policy.store(std::sync::Arc::new(testing::policy(&stricter)));
    assert_eq!(stage.until_ready(1).await, "E:42501 Z:I");
    let (_, outside, seen) = stage.finish().await;
    assert_eq!(seen.committed, Vec::<String>::new());
    let causes: Vec<DenialCause> = outside
        .recorder
        .events()
        .into_iter()
        .filter_map(|event| match event {
            EventKind::Refused { denial, .. } => Some(denial.cause),
            _ => None,
        })
        .collect();
    assert_eq!(causes, [DenialCause::Rule]);
}

#[tokio::test(start_paused = true)]
async fn masks_without_a_catalogue_refuse_what_could_return_rows() {
    let masked = format!(
        "{}- id: mask\n  match: {{ target: {{ tags: {{ env: production }} }} }}\n  effect: none\n  mask: {{ columns: [{{ match: \"*.*.ssn\", method: redact }}] }}\n",
        super::POLICY
    );
    let mut stage = Stage::with(testing::outside(&masked), Limits::default(), 64 * 1024).await;
    stage.send(&[query("SELECT ssn FROM t"), query("BEGIN"), query("COMMIT")]).await;
    assert_eq!(stage.until_ready(3).await, "E:42501 Z:I C:BEGIN Z:T C:COMMIT Z:I");
    stage.finish().await;
}

#[tokio::test(start_paused = true)]
async fn shadow_records_what_enforce_would_do_and_lets_it_pass() {
    let outside = testing::outside(super::POLICY);
    let mut stage = Stage::on(Mode::Shadow, outside, Limits::default(), 64 * 1024).await;
    stage.send(&[query("DELETE FROM t"), query("DROP TABLE t"), query("FROBNICATE")]).await;
    assert_eq!(stage.until_ready(3).await, "C:DELETE Z:I C:DROP Z:I C:FROBNICATE Z:I");
    let (_, outside, _) = stage.finish().await;
    let would: Vec<&str> = outside
        .recorder
        .events()
        .iter()
        .filter_map(|event| match event {
            EventKind::OperationDecided { verdict, .. } => verdict.would.as_ref().map(|would| would.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(would, ["deny", "require_approval", "deny"]);
}

#[tokio::test(start_paused = true)]
async fn requests_behind_a_copy_before_its_data_end_the_session() {
    let mut stage = Stage::open().await;
    let sends = batch(&[&run("COPY t FROM STDIN"), &[Frontend::Sync], &run("SELECT 1"), &[Frontend::Sync]]);
    stage.send(&sends).await;
    assert_eq!(stage.until_ready(1).await, "1 2 G E:08P01 end");
    let (closing, _, seen) = stage.finish().await;
    assert_eq!(closing.reason, CloseReason::ClientProtocolError);
    assert_eq!(seen.committed, Vec::<String>::new());
}
