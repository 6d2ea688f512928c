//! Limits on results: by whatever way the job asks, the row that is too many does not reach it, and the session goes on.

use crate::world::{Options, World};
use anyhow::{Result, ensure};
use futures_util::TryStreamExt as _;
use lockgate_model::event::EventKind;
use std::pin::pin;
use tokio_postgres::{NoTls, SimpleQueryMessage};

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: caps }
rules:
- id: everything
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out, ddl, call] } }
  effect: allow
- id: unknown-too
  match: { sql: { opaque: true } }
  effect: allow
- id: ten-rows
  match: { sql: { any_table: [orders] } }
  effect: none
  limits: { rows: 10 }
  message: "ask data-platform for an export"
- id: few-bytes
  match: { sql: { any_table: [wide] } }
  effect: none
  limits: { bytes: 1000 }
- id: twenty-a-session
  match: { sql: { any_table: [counted] } }
  effect: none
  limits: { rows: 20, per: session }
"#;

fn world() -> Result<World> {
    let world =
        World::with(&[("env", "test")], Options { policy: Some(POLICY.into()), ..Options::default() })?;
    world.server.psql_in(
        "orders",
        "CREATE TABLE wide AS SELECT g AS id, repeat('x', 300) AS text FROM generate_series(1, 20) g; \
         CREATE TABLE counted AS SELECT g AS id FROM generate_series(1, 50) g; \
         CREATE TABLE big AS SELECT g AS id FROM generate_series(1, 200000) g; \
         CREATE TABLE written (id int); \
         ALTER TABLE wide OWNER TO app; ALTER TABLE counted OWNER TO app; ALTER TABLE big OWNER TO app; \
         ALTER TABLE written OWNER TO app;",
    )?;
    Ok(world)
}

/// The rows that psql printed: its output has no headings and no footers.
fn rows(out: &str) -> usize {
    out.lines().filter(|line| !line.is_empty() && *line != "after").count()
}

/// Outside a transaction a RETURNING that is cut may have committed: what the client is told is what happened.
#[test]
fn a_change_whose_result_is_cut_is_told_as_it_is() -> Result<()> {
    let world = world()?;
    for (command, changed) in [
        (
            "UPDATE orders SET note = 'cut' WHERE id < 40 RETURNING id",
            "SELECT count(*) > 0 FROM orders WHERE note = 'cut'",
        ),
        (
            "INSERT INTO orders (id, note) SELECT 100000 + i, 'new' FROM generate_series(1, 30) i RETURNING id",
            "SELECT count(*) > 0 FROM orders WHERE note = 'new'",
        ),
        (
            "BEGIN; UPDATE orders SET note = 'undone' WHERE id < 40 RETURNING id; COMMIT",
            "SELECT count(*) > 0 FROM orders WHERE note = 'undone'",
        ),
    ] {
        let said = world.psql(&["-c", command])?;
        ensure!(said.err.contains("lockgate: cut the result of"), "{command}: {said:?}");
        let made = world.psql(&["-At", "-c", changed])?.out.trim() == "t";
        ensure!(said.err.contains("is in force") == made, "{command}: made {made}: {said:?}");
    }
    Ok(())
}

#[test]
fn no_way_of_asking_gets_the_row_beyond_the_limit() -> Result<()> {
    let world = world()?;
    // The commands, and how many rows may come at most.
    for (commands, most) in [
        (vec!["SELECT id FROM orders"], 10),
        (vec!["SELECT id FROM orders ORDER BY id DESC"], 10),
        (vec!["SELECT id FROM orders LIMIT 10"], 10),
        (vec!["SELECT id FROM orders LIMIT 11"], 10),
        (vec!["COPY orders (id) TO STDOUT"], 10),
        (vec!["COPY (SELECT id FROM orders) TO STDOUT (FORMAT csv)"], 10),
        (vec!["\\copy orders (id) TO STDOUT"], 10),
        (vec!["TABLE orders"], 10),
        (vec!["WITH x AS (SELECT id FROM orders) SELECT * FROM x"], 10),
        (vec!["SELECT id FROM orders UNION ALL SELECT id FROM orders"], 10),
        (vec!["UPDATE orders SET note = 'y' WHERE id < 40 RETURNING id"], 10),
        (vec!["PREPARE p AS SELECT id FROM orders", "EXECUTE p"], 10),
        (vec!["\\set FETCH_COUNT 3", "SELECT id FROM orders"], 10),
        (
            vec!["BEGIN; DECLARE c CURSOR FOR SELECT id FROM orders; FETCH 8 FROM c; FETCH 8 FROM c; COMMIT"],
            10,
        ),
        (
            vec![
                "BEGIN",
                "DECLARE c CURSOR FOR SELECT id FROM orders",
                "FETCH 6 FROM c",
                "FETCH 3 FROM c",
                "FETCH 1 FROM c",
                "FETCH 1 FROM c",
                "ROLLBACK",
            ],
            10,
        ),
        (
            vec![
                "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM orders",
                "FETCH 6 FROM c",
                "FETCH 6 FROM c",
                "FETCH 6 FROM c",
                "CLOSE c",
            ],
            6,
        ),
        (
            vec![
                "BEGIN; SAVEPOINT s; DECLARE c SCROLL CURSOR FOR SELECT id FROM orders",
                "SAVEPOINT t",
                "FETCH 10 FROM c",
                "DECLARE c CURSOR FOR SELECT 1",
                "ROLLBACK TO t",
                "FETCH 5 FROM c",
                "ROLLBACK",
            ],
            10,
        ),
        (vec!["EXPLAIN ANALYZE SELECT id FROM orders"], 10),
    ] {
        let mut arguments: Vec<String> = Vec::new();
        for command in &commands {
            arguments.extend(["-c".to_owned(), (*command).to_owned()]);
        }
        arguments.extend(["-c".to_owned(), "SELECT 'after'".to_owned()]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = world.psql(&arguments)?;
        let got = said.out.lines().filter(|line| line.parse::<u32>().is_ok() || line.contains('|')).count();
        ensure!(got <= most, "{commands:?}: {got} rows\n{said:?}");
        let whole = commands.iter().any(|c| c.ends_with("LIMIT 10") || c.starts_with("EXPLAIN"));
        ensure!(whole || said.err.contains("lockgate: cut the result of"), "{commands:?}: {said:?}");
        ensure!(said.out.contains("after"), "the session goes on: {commands:?}: {said:?}");
    }
    // The client hears of it before the record does.
    world.wait_for("the cut", |events| events.iter().any(|e| matches!(e, EventKind::ResultCut { .. })))?;
    let cut = world.recorder.events().into_iter().find_map(|event| match event {
        EventKind::ResultCut { denial, rows, .. } => Some((denial, rows)),
        _ => None,
    });
    let (denial, counted) = cut.ok_or_else(|| anyhow::anyhow!("no cut was recorded"))?;
    ensure!(
        counted == 10 && denial.rule.as_ref().is_some_and(|rule| rule.as_str() == "ten-rows"),
        "{denial:?}"
    );
    ensure!(denial.remedy.as_deref() == Some("ask data-platform for an export"), "{denial:?}");
    world.finish()?;
    Ok(())
}

#[test]
fn bytes_are_counted_in_rows_copies_notices_and_errors() -> Result<()> {
    let world = world()?;
    for (sql, most) in [
        ("SELECT text FROM wide", 3),
        ("COPY wide (text) TO STDOUT", 3),
        ("SELECT string_agg(text, ',') FROM wide", 0),
        ("SELECT string_agg(text, ',')::int FROM wide", 0),
        ("SELECT array_agg(text) FROM wide", 0),
    ] {
        let said = world.psql(&["-c", sql, "-c", "SELECT 'after'"])?;
        let letters = said.out.matches('x').count() + said.err.matches('x').count();
        ensure!(letters <= 1000, "{sql}: {letters} bytes came");
        ensure!(rows(&said.out) <= most, "{sql}: {said:?}");
        ensure!(said.err.contains("cut the result of") && said.out.contains("after"), "{sql}: {said:?}");
    }
    world.finish()?;
    Ok(())
}

#[test]
fn a_cut_leaves_the_transaction_as_an_error_would() -> Result<()> {
    let world = world()?;
    // The target is still sending, or has long finished: both ways the transaction has failed.
    for select in ["SELECT id FROM orders", "SELECT o.id FROM orders o, big"] {
        let said = world.psql(&[
            "-c",
            "BEGIN",
            "-c",
            "INSERT INTO written VALUES (1)",
            "-c",
            select,
            "-c",
            "SELECT 2",
            "-c",
            "COMMIT",
            "-c",
            "SELECT count(*) FROM written",
        ])?;
        ensure!(said.err.contains("cut the result of SELECT by rule ten-rows"), "{said:?}");
        ensure!(said.err.contains("current transaction is aborted"), "{said:?}");
        ensure!(said.out.ends_with("0\n"), "{said:?}");
    }
    // Nothing of the target's own words about the cancellation comes through.
    let said = world.psql(&["-c", "SELECT o.id FROM orders o, big", "-c", "SELECT 7"])?;
    ensure!(!said.err.contains("canceling statement") && said.out.ends_with("7\n"), "{said:?}");
    world.finish()?;
    Ok(())
}

#[test]
fn a_session_limit_counts_all_its_statements() -> Result<()> {
    let world = world()?;
    let said = world.psql(&[
        "-c",
        "SELECT id FROM counted LIMIT 15",
        "-c",
        "SELECT id FROM counted LIMIT 6",
        "-c",
        "SELECT id FROM counted LIMIT 1",
        "-c",
        "SELECT count(*) FROM pg_class WHERE false",
    ])?;
    // psql throws away what came of a result that ends in an error: 15 rows, and the count.
    ensure!(said.out.lines().count() == 16, "{said:?}");
    ensure!(said.err.matches("a session may have 20 rows").count() == 2, "{said:?}");
    // Another session begins anew.
    let said = world.psql(&["-c", "SELECT id FROM counted LIMIT 20"])?;
    ensure!(said.out.lines().count() == 20 && said.err.is_empty(), "{said:?}");
    world.finish()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_and_pipelines_are_cut_and_the_connection_goes_on() -> Result<()> {
    let world = tokio::task::spawn_blocking(world).await??;
    let config = format!("host=127.0.0.1 port={} user=job dbname=orders sslmode=disable", world.port);
    let (mut client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    let connection = tokio::spawn(connection);
    // Extended protocol, at once: with more rows than the target can have sent when it is cancelled, and with few.
    for sql in ["SELECT id FROM orders", "SELECT o.id FROM orders o, big"] {
        let error = client.query(sql, &[]).await.err().ok_or_else(|| anyhow::anyhow!("{sql} passed"))?;
        ensure!(error.code().is_some_and(|code| code.code() == "54000"), "{error:?}");
        ensure!(client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0) == 1);
    }
    // Exactly the rows up to the limit come, then the error.
    for sql in ["SELECT id FROM orders", "SELECT o.id FROM orders o, big"] {
        let mut rows = pin!(client.query_raw(sql, Vec::<String>::new()).await?);
        let mut got = 0;
        let error = loop {
            match rows.try_next().await {
                Ok(Some(_)) => got += 1,
                Ok(None) => anyhow::bail!("{sql} passed"),
                Err(error) => break error,
            }
        };
        ensure!(
            got == 10 && error.code().is_some_and(|code| code.code() == "54000"),
            "{sql}: {got} {error:?}"
        );
    }
    // A binary copy ends with a trailer, which is no row.
    for (sql, passes) in [
        ("COPY (SELECT id FROM orders LIMIT 10) TO STDOUT (FORMAT binary)", true),
        ("COPY (SELECT id FROM orders LIMIT 11) TO STDOUT (FORMAT binary)", false),
    ] {
        let copied: Result<Vec<_>, _> = client.copy_out(sql).await?.try_collect().await;
        ensure!(copied.is_ok() == passes, "{sql}: {copied:?}");
    }
    // A portal is one result, however often it is run on.
    let transaction = client.transaction().await?;
    let statement = transaction.prepare("SELECT id FROM orders").await?;
    let portal = transaction.bind(&statement, &[]).await?;
    ensure!(transaction.query_portal(&portal, 4).await?.len() == 4);
    ensure!(transaction.query_portal(&portal, 4).await?.len() == 4);
    ensure!(transaction.query_portal(&portal, 4).await.is_err());
    ensure!(transaction.query_portal(&portal, 1).await.is_err());
    transaction.rollback().await?;
    // Many at once: each is judged by itself, and a late cancellation hits no neighbour.
    for _ in 0..20 {
        let (a, b, c) = tokio::join!(
            client.query("SELECT id FROM orders LIMIT 10", &[]),
            client.query("SELECT id FROM orders", &[]),
            client.query("SELECT 5", &[]),
        );
        ensure!(a?.len() == 10);
        ensure!(b.is_err());
        ensure!(c?.len() == 1);
    }
    // Several statements in one text: what comes after the cut does not come.
    let said = client.simple_query("SELECT 1; SELECT id FROM orders; SELECT 3").await;
    ensure!(said.is_err());
    let said = client.simple_query("SELECT id FROM orders LIMIT 10").await?;
    ensure!(said.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count() == 10);
    drop(client);
    connection.await??;
    tokio::task::spawn_blocking(move || world.finish()).await??;
    Ok(())
}
