//! Batches that are longer than what is kept back: what can go on does, and a denial behind it takes all of it back.

use super::{Stage, batch, bind, describe, execute, parse, query, run};
use crate::{
    limits::Limits,
    testing::{self, Decision},
};
use lockgate_model::event::EventKind;
use lockgate_wire::postgres::frontend::Frontend;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn again(times: usize, messages: &[Frontend]) -> Vec<Frontend> {
    (0..times).flat_map(|_| messages.iter().cloned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_end_goes_on_within_its_bounds() {
    let limits = Limits { batch_messages: 100, release_messages: 30, ..Limits::default() };
    // A batch that never ends, and what is answered while it goes on.
    for (messages, answered, whole) in [
        (vec![parse("", "SELECT 1"); 250], 200, "1 ".repeat(250)),
        (again(100, &[bind("", "s"), execute("", 0)]), 90, "2 C:INSERT ".repeat(100)),
        (again(100, &[describe(""), bind("", "s"), bind("", "s")]), 200, "n 2 2 ".repeat(100)),
    ] {
        let mut stage = Stage::with(testing::outside(super::POLICY), limits, 1 << 20).await;
        stage.send(&[parse("s", "INSERT INTO t VALUES (1)"), bind("", "s"), Frontend::Sync]).await;
        assert_eq!(stage.until_ready(1).await, "1 2 Z:I");
        stage.send(&messages).await;
        for _ in 0..answered {
            stage.next().await.unwrap();
        }
        assert_eq!(stage.seen.lock().unwrap().committed, Vec::<String>::new());
        stage.send(&[Frontend::Sync]).await;
        let rest = stage.until_ready(1).await;
        let words = whole.split(' ').skip(answered).collect::<Vec<_>>().join(" ");
        assert_eq!(rest, format!("{words}Z:I"));
        stage.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_behind_what_went_on_takes_it_back() {
    let limits = Limits { release_messages: 30, ..Limits::default() };
    for (send, told, kept) in [
        // A denial long after its segment's first part ran.
        (
            batch(&[&again(100, &run("INSERT INTO t VALUES (1)")), &run("DELETE FROM t"), &[Frontend::Sync]]),
            format!("{}E:42501 Z:I", "1 2 C:INSERT ".repeat(100)),
            vec![],
        ),
        // A denial in the middle: the rest is skipped, however long it is.
        (
            batch(&[
                &again(17, &run("INSERT INTO t VALUES (1)")),
                &run("DELETE FROM t"),
                &again(200, &run("INSERT INTO t VALUES (2)")),
                &[Frontend::Sync],
                &run("INSERT INTO t VALUES (3)"),
                &[Frontend::Sync],
            ]),
            format!("{}E:42501 Z:I 1 2 C:INSERT Z:I", "1 2 C:INSERT ".repeat(17)),
            vec!["INSERT INTO t VALUES (3)"],
        ),
        // By a Query that ends the segment.
        (
            batch(&[&again(50, &run("INSERT INTO t VALUES (1)")), &[query("DELETE FROM t")]]),
            format!("{}E:42501 Z:I", "1 2 C:INSERT ".repeat(50)),
            vec![],
        ),
        // The target's own error does the same, and the client hears it once.
        (
            batch(&[
                &again(20, &run("INSERT INTO t VALUES (1)")),
                &run("SELECT 1/0"),
                &again(200, &run("INSERT INTO t VALUES (1)")),
                &[Frontend::Sync],
            ]),
            format!("{}1 2 E:22012 Z:I", "1 2 C:INSERT ".repeat(20)),
            vec![],
        ),
        // And without any, all is kept.
        (
            batch(&[&again(100, &run("INSERT INTO t VALUES (1)")), &[Frontend::Sync]]),
            format!("{}Z:I", "1 2 C:INSERT ".repeat(100)),
            vec!["INSERT INTO t VALUES (1)"; 100],
        ),
    ] {
        let mut stage = Stage::with(testing::outside(super::POLICY), limits, 1 << 20).await;
        stage.send(&send).await;
        let ready = told.matches('Z').count();
        assert_eq!(stage.until_ready(ready).await, told);
        let (_, _, seen) = stage.finish().await;
        assert_eq!(seen.committed, kept);
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_held_behind_what_went_on_is_held_in_a_transaction() {
    for (released, in_transaction) in [(false, false), (true, true)] {
        let limits = Limits { release_messages: 30, ..Limits::default() };
        let mut stage = Stage::with(testing::outside(super::POLICY), limits, 1 << 20).await;
        *stage.outside.approvals.decision.lock().unwrap() = Decision::Deny(SECOND);
        let before = again(if released { 20 } else { 2 }, &run("INSERT INTO t VALUES (1)"));
        stage.send(&batch(&[&before, &run("DROP TABLE t"), &[Frontend::Sync]])).await;
        let told = stage.until_ready(1).await;
        assert!(told.ends_with("E:42501 Z:I"), "{told}");
        let (_, outside, seen) = stage.finish().await;
        assert_eq!(seen.committed, Vec::<String>::new());
        let held: Vec<bool> = outside
            .recorder
            .events()
            .into_iter()
            .filter_map(|event| match event {
                EventKind::OperationDecided { operation, .. } if operation.text.starts_with("DROP") => {
                    Some(operation.context.in_transaction)
                }
                _ => None,
            })
            .collect();
        assert_eq!(held, [in_transaction]);
    }
}
