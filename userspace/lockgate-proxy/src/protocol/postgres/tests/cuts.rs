//! A result that is cut while the target finishes first: it never hears the cancellation, and what it did is taken back all
//! the same, wherever that can be.

use super::{CancelTarget, Stage, batch, bind, execute, parse, query, run};
use crate::{limits::Limits, testing};
use lockgate_model::{event::EventKind, session::Mode};
use lockgate_wire::postgres::frontend::Frontend;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{io::AsyncReadExt, net::TcpListener};

/// Two rows of the three that the scripted server gives.
const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: cut }
rules:
- id: everyday
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out] } }
  effect: allow
- id: two-rows
  match: { sql: { kinds: [select, update] } }
  effect: none
  limits: { rows: 2 }
- id: never
  match: { sql: { kinds: [delete] } }
  effect: deny
"#;

/// A server that takes cancellations and does nothing about them: they come too late for it.
async fn deaf() -> (CancelTarget, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let target = CancelTarget::scripted_at(listener.local_addr().unwrap());
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 16];
            if stream.read_exact(&mut request).await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (target, heard)
}

#[tokio::test]
async fn what_a_cut_result_s_statement_did_is_taken_back() {
    let sync = [Frontend::Sync];
    let flush = [Frontend::Flush];
    let begun = [query("BEGIN"), query("INSERT INTO u VALUES (1)")];
    let commit = [query("COMMIT")];
    for (name, send, told, kept, cuts) in [
        (
            "a Query in a transaction",
            batch(&[&begun, &[query("SELECT a FROM t")], &commit]),
            "C:BEGIN Z:T C:INSERT Z:T T D D E:54000 Z:E C:ROLLBACK Z:I",
            &[][..],
            1,
        ),
        (
            "a write that returns rows, in a transaction",
            batch(&[&begun, &[query("UPDATE t SET a = 1 WHERE b = 2 RETURNING a")], &commit]),
            "C:BEGIN Z:T C:INSERT Z:T T D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "one of several statements of a Query, in a transaction",
            batch(&[&begun, &[query("SELECT a FROM t; INSERT INTO u VALUES (2)")], &commit]),
            "C:BEGIN Z:T C:INSERT Z:T T D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "a batch in a transaction",
            batch(&[&begun, &run("SELECT a FROM t"), &sync, &commit]),
            "C:BEGIN Z:T C:INSERT Z:T 1 2 D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "what stands behind it in a batch, in a transaction",
            batch(&[&begun, &run("SELECT a FROM t"), &run("INSERT INTO u VALUES (2)"), &sync, &commit]),
            "C:BEGIN Z:T C:INSERT Z:T 1 2 D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "a batch with a Flush, in a transaction",
            batch(&[
                &begun,
                &run("SELECT a FROM t"),
                &flush,
                &run("INSERT INTO u VALUES (2)"),
                &sync,
                &commit,
            ]),
            "C:BEGIN Z:T C:INSERT Z:T 1 2 D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "a batch with a Flush, outside a transaction",
            batch(&[&run("INSERT INTO u VALUES (1)"), &run("SELECT a FROM t"), &flush, &sync]),
            "1 2 C:INSERT 1 2 D D E:54000 Z:I",
            &[],
            1,
        ),
        (
            "a write that returns rows, in a batch outside a transaction",
            batch(&[
                &run("INSERT INTO u VALUES (1)"),
                &run("UPDATE t SET a = 1 WHERE b = 2 RETURNING a"),
                &sync,
                &run("INSERT INTO u VALUES (2)"),
                &sync,
            ]),
            "1 2 C:INSERT 1 2 D D E:54000 Z:I 1 2 C:INSERT Z:I",
            &["INSERT INTO u VALUES (2)"],
            1,
        ),
        (
            "what stands before a read in a batch outside a transaction",
            batch(&[&run("INSERT INTO u VALUES (1)"), &run("SELECT a FROM t"), &sync]),
            "1 2 C:INSERT 1 2 D D E:54000 Z:I",
            &[],
            1,
        ),
        (
            "a read alone",
            batch(&[&run("SELECT a FROM t"), &sync, &run("INSERT INTO u VALUES (2)"), &sync]),
            "1 2 D D E:54000 Z:I 1 2 C:INSERT Z:I",
            &["INSERT INTO u VALUES (2)"],
            1,
        ),
        (
            "a write that returns few enough rows is kept",
            batch(&[
                &[parse("s", "UPDATE t SET a = 1 WHERE b = 2"), bind("", "s"), execute("", 0)],
                &sync,
                &run("INSERT INTO u VALUES (2)"),
                &sync,
            ]),
            "1 2 C:UPDATE Z:I 1 2 C:INSERT Z:I",
            &["UPDATE t SET a = 1 WHERE b = 2", "INSERT INTO u VALUES (2)"],
            0,
        ),
        (
            "a savepoint does not save it",
            batch(&[
                &[query("BEGIN"), query("INSERT INTO u VALUES (1)"), query("SAVEPOINT s")],
                &[query("SELECT a FROM t"), query("INSERT INTO u VALUES (2)")],
                &commit,
            ]),
            "C:BEGIN Z:T C:INSERT Z:T C:SAVEPOINT Z:T T D D E:54000 Z:E E:25P02 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
        (
            "a denial behind it",
            batch(&[&begun, &run("SELECT a FROM t"), &run("DELETE FROM u WHERE a = 1"), &sync, &commit]),
            "C:BEGIN Z:T C:INSERT Z:T 1 2 D D E:54000 Z:E C:ROLLBACK Z:I",
            &[],
            1,
        ),
    ] {
        let (target, heard) = deaf().await;
        let outside = testing::outside(POLICY);
        let mut stage =
            Stage::cancelled_by(target, Mode::Enforce, outside, Limits::default(), 64 * 1024).await;
        stage.send(&send).await;
        let ready = told.split(' ').filter(|word| word.starts_with('Z')).count();
        assert_eq!(stage.until_ready(ready).await, told, "{name}");
        stage.send(&[Frontend::Terminate]).await;
        let (_, outside, seen) = stage.finish().await;
        assert_eq!(seen.committed, kept, "{name}");
        assert_eq!(heard.load(Ordering::SeqCst), cuts, "{name}: cancellations that the target got");
        let recorded = outside.recorder.events();
        let recorded = recorded.iter().filter(|event| matches!(event, EventKind::ResultCut { .. })).count();
        assert_eq!(recorded, cuts, "{name}: cuts in the record");
    }
}
