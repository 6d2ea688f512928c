//! Random clients against the scripted server: whatever they send in whatever order, nothing undecided reaches the server,
//! nothing denied is kept, and there is one closing record.

use super::{Stage, bind, close, copy_data, describe, execute, parse, query};
use crate::{
    limits::Limits,
    testing::{self, Decision},
};
use bytes::BytesMut;
use lockgate_model::outcome::CloseReason;
use lockgate_wire::postgres::{
    backend::tag,
    frame::{FrameDecoder, Limits as FrameLimits},
    frontend::Frontend,
};
use proptest::{collection::vec, prelude::*};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const STATEMENTS: [&str; 12] = [
    "SELECT 1",
    "SELECT 1/0",
    "INSERT INTO t VALUES (1)",
    "INSERT INTO t VALUES (2)",
    "DELETE FROM t",
    "UPDATE t SET a = 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "DROP TABLE t",
    "FROBNICATE",
    "",
];

const DECISIONS: [Decision; 5] = [
    Decision::Approve(Duration::from_millis(20)),
    Decision::Deny(Duration::from_millis(20)),
    Decision::Expire(Duration::from_millis(20)),
    Decision::Unavailable,
    Decision::Never,
];

fn ready_count(told: Vec<u8>) -> usize {
    let mut rest = BytesMut::from(&told[..]);
    let decoder = FrameDecoder::new(FrameLimits::SERVER);
    let mut count = 0;
    while let Some(frame) = decoder.next(&mut rest).unwrap() {
        count += usize::from(frame.tag() == tag::READY_FOR_QUERY);
    }
    assert!(rest.is_empty(), "the session ended inside a message");
    count
}

fn statement() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&STATEMENTS[..])
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["", "a", "b"][..])
}

fn message() -> impl Strategy<Value = Vec<Frontend>> {
    prop_oneof![
        3 => statement().prop_map(|sql| vec![Frontend::Sync, query(sql)]),
        1 => statement().prop_map(|sql| vec![query(sql)]),
        1 => (statement(), statement()).prop_map(|(a, b)| vec![Frontend::Sync, query(&format!("{a}; {b}"))]),
        3 => (name(), statement()).prop_map(|(name, sql)| vec![parse(name, sql)]),
        3 => (name(), name()).prop_map(|(portal, statement)| vec![bind(portal, statement)]),
        3 => (name(), 0..3_i32).prop_map(|(portal, rows)| vec![execute(portal, rows)]),
        1 => name().prop_map(|portal| vec![describe(portal)]),
        1 => name().prop_map(|statement| vec![close(statement)]),
        3 => Just(vec![Frontend::Sync]),
        1 => Just(vec![Frontend::Flush]),
        1 => (1..200_usize).prop_map(|size| vec![copy_data(size)]),
        1 => (vec(1..3000_usize, 0..4), any::<bool>()).prop_map(|(pieces, done)| {
            let end = if done { Frontend::CopyDone } else { Frontend::CopyFail(Default::default()) };
            let data = pieces.into_iter().map(copy_data);
            [Frontend::Sync, query("COPY t FROM STDIN")].into_iter().chain(data).chain([end]).collect()
        }),
        1 => Just(vec![Frontend::Sync, query("COPY t TO STDOUT")]),
        4 => (name(), statement()).prop_map(|(name, sql)| vec![parse(name, sql), bind(name, name), execute(name, 0)]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_undecided_is_forwarded(
        messages in vec(message(), 1..25),
        approves in any::<bool>(),
        pipe in prop::sample::select(&[64_usize, 1024, 65_536][..]),
        slow_log in any::<bool>(),
        release_messages in prop::sample::select(&[1_usize, 2, 5, 1000][..]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let outside = testing::outside(super::POLICY);
            let decision = match approves {
                true => Decision::Approve(Duration::from_secs(1)),
                false => Decision::Deny(Duration::from_secs(1)),
            };
            *outside.approvals.decision.lock().unwrap() = decision;
            if slow_log {
                *outside.recorder.delay.lock().unwrap() = Duration::from_millis(5);
            }
            let limits = Limits { release_messages, ..Limits::default() };
            let mut stage = Stage::with(outside, limits, pipe).await;
            let mut out = BytesMut::new();
            messages.iter().flatten().for_each(|message| message.encode(&mut out).unwrap());
            Frontend::Sync.encode(&mut out).unwrap();
            Frontend::Terminate.encode(&mut out).unwrap();
            let (mut reader, mut writer) = tokio::io::split(&mut stage.client);
            let read = async {
                let mut all = Vec::new();
                let _ = reader.read_to_end(&mut all).await;
                all
            };
            let write = async {
                let _ = writer.write_all(&out).await;
            };
            let (told, ()) = tokio::join!(read, write);
            let (closing, outside, seen) = stage.finish().await;
            assert_eq!(closing.reason, CloseReason::ClientClosed, "{closing:?}");
            // Each Sync is answered; a Query is too, unless it stands in a segment that has failed.
            let count = |wanted: fn(&Frontend) -> bool| messages.iter().flatten().filter(|m| wanted(m)).count();
            let syncs = count(|message| matches!(message, Frontend::Sync)) + 1;
            let queries = count(|message| matches!(message, Frontend::Query(_)));
            let ready = ready_count(told);
            assert!((syncs..=syncs + queries).contains(&ready), "{ready} ReadyForQuery");
            for kept in &seen.committed {
                let denied = kept == "DELETE FROM t" || kept.starts_with("UPDATE") || kept == "FROBNICATE";
                assert!(!denied, "{kept} was kept");
                assert!(approves || !kept.starts_with("DROP"), "{kept} was kept");
            }
            drop(outside);
        });
    }

    /// The same where everything else goes wrong as well: the log breaks, people say no, nothing or cannot be asked,
    /// somebody cancels, the client's bytes come in pieces with pauses between them, and it leaves in the middle of one.
    #[test]
    fn nothing_undecided_is_forwarded_in_a_bad_world(
        messages in vec(message(), 1..25),
        decision in prop::sample::select(&DECISIONS[..]),
        breaks_after in prop::option::of(0..60_u64),
        cancels_after in prop::option::of(0..60_u64),
        leaves_after in prop::option::of(0..4000_usize),
        pieces in vec((1..300_usize, 0..4_u64), 1..40),
        pipe in prop::sample::select(&[16_usize, 256, 65_536][..]),
        release_messages in prop::sample::select(&[1_usize, 3, 1000][..]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let outside = testing::outside(super::POLICY);
            *outside.approvals.decision.lock().unwrap() = decision;
            let recorder = outside.recorder.clone();
            let limits = Limits { release_messages, ..Limits::default() };
            let mut stage = Stage::with(outside, limits, pipe).await;
            let mut out = BytesMut::new();
            messages.iter().flatten().for_each(|message| message.encode(&mut out).unwrap());
            Frontend::Sync.encode(&mut out).unwrap();
            Frontend::Terminate.encode(&mut out).unwrap();
            out.truncate(leaves_after.unwrap_or(usize::MAX));
            let cancel = stage.cancel.clone();
            let (mut reader, mut writer) = tokio::io::split(&mut stage.client);
            let read = async {
                let mut all = Vec::new();
                // Who waits for people that never answer leaves, too.
                let _ = tokio::time::timeout(Duration::from_secs(3600), reader.read_to_end(&mut all)).await;
            };
            let write = async {
                let mut sizes = pieces.iter().cycle();
                while !out.is_empty() {
                    let (size, pause) = *sizes.next().unwrap();
                    let piece = out.split_to(size.min(out.len()));
                    if writer.write_all(&piece).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                if leaves_after.is_some() {
                    let _ = writer.shutdown().await;
                }
            };
            let trouble = async {
                let after = |millis: Option<u64>| Duration::from_millis(millis.unwrap_or(7_200_000));
                let breaking = async {
                    tokio::time::sleep(after(breaks_after)).await;
                    recorder.broken.store(true, std::sync::atomic::Ordering::SeqCst);
                };
                let cancelling = async {
                    tokio::time::sleep(after(cancels_after)).await;
                    cancel.cancel();
                };
                tokio::join!(breaking, cancelling);
                tokio::time::sleep(Duration::from_secs(7200)).await;
            };
            tokio::select! {
                _ = async { tokio::join!(read, write) } => {}
                () = trouble => panic!("the session outlives its client"),
            }
            // One closing record, and everything that reached the server was decided before: finish() says so.
            let (_, _, seen) = stage.finish().await;
            for kept in &seen.committed {
                let denied = kept == "DELETE FROM t" || kept.starts_with("UPDATE") || kept == "FROBNICATE";
                assert!(!denied, "{kept} was kept");
                let approved = matches!(decision, Decision::Approve(_));
                assert!(approved || !kept.starts_with("DROP"), "{kept} was kept");
            }
        });
    }
}
