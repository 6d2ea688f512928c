//! The extended protocol, as drivers speak it.

use crate::world::{Decision, World};
use anyhow::{Result, ensure};
use futures_util::{SinkExt, TryStreamExt, pin_mut};
use lockgate_model::event::EventKind;
use std::time::Duration;
use tokio_postgres::{Client, NoTls, error::SqlState};

async fn connect(world: &World) -> Result<Client> {
    let text = format!("host=127.0.0.1 port={} user=whoever dbname=orders", world.port);
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[test]
fn prepared_statements_pipelines_portals_and_copies() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    runtime()?.block_on(async {
        let mut client = connect(&world).await?;
        let statement = client.prepare("SELECT note FROM orders WHERE id = $1").await?;
        for id in [1_i32, 7, 50] {
            let row = client.query_one(&statement, &[&id]).await?;
            ensure!(row.get::<_, String>(0) == format!("n{id}"));
        }
        // Several batches on their way at once.
        let one = async |id: i32| client.query_one(&statement, &[&id]).await;
        let fresh = async |id: i32| client.query_one("SELECT id FROM orders WHERE id = $1", &[&id]).await;
        let pipelined = futures_util::try_join!(one(1), one(2), fresh(3))?;
        ensure!(pipelined.1.get::<_, String>(0) == "n2" && pipelined.2.get::<_, i32>(0) == 3);
        // An empty statement, as drivers ping.
        ensure!(client.query("", &[]).await?.is_empty());

        // A row limit: the portal is suspended and goes on.
        let transaction = client.transaction().await?;
        let portal = transaction.bind("SELECT id FROM orders WHERE id <= 50 ORDER BY id", &[]).await?;
        let mut seen = 0;
        loop {
            let rows = transaction.query_portal(&portal, 20).await?;
            if rows.is_empty() {
                break;
            }
            seen += rows.len();
        }
        ensure!(seen == 50, "{seen} rows");
        transaction.commit().await?;

        // Denied when it is parsed; the session goes on.
        let denied = client.execute("DELETE FROM orders", &[]).await.expect_err("denied");
        ensure!(denied.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{denied:?}");
        ensure!(client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0) == 1);
        // In a transaction the denial fails it.
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO orders (id) VALUES ($1)", &[&900_i32]).await?;
        transaction.execute("DELETE FROM orders", &[]).await.expect_err("denied");
        let after = transaction.query("SELECT 1", &[]).await.expect_err("failed transaction");
        ensure!(after.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION), "{after:?}");
        transaction.commit().await?;
        ensure!(client.query("SELECT 1 FROM orders WHERE id = 900", &[]).await?.is_empty());

        // Held when it is parsed, and the approval is good for its first Execute.
        world.decide(Decision::Approve(Duration::from_millis(50)));
        client.execute("ALTER TABLE orders ADD COLUMN y int", &[]).await?;
        ensure!(world.approvals.requests.lock().unwrap().len() == 1, "asked once");
        world.decide(Decision::Deny(Duration::from_millis(50), "no"));
        let denied = client.execute("DROP TABLE orders", &[]).await.expect_err("denied");
        ensure!(
            denied.as_db_error().is_some_and(|e| e.detail().is_some_and(|d| d.contains("no"))),
            "{denied:?}"
        );

        // Copies.
        let sink = client.copy_in::<_, bytes::Bytes>("COPY orders (id) FROM STDIN").await?;
        pin_mut!(sink);
        for id in 300..320 {
            sink.send(format!("{id}\n").into()).await?;
        }
        ensure!(sink.finish().await? == 20);
        let out = client.copy_out("COPY (SELECT id FROM orders WHERE id >= 300) TO STDOUT").await?;
        let data: Vec<bytes::Bytes> = out.try_collect().await?;
        ensure!(data.iter().map(bytes::Bytes::len).sum::<usize>() == 20 * 4);

        // SQL's own PREPARE and cursors.
        client.batch_execute("PREPARE p AS SELECT note FROM orders WHERE id = $1").await?;
        client.batch_execute("EXECUTE p(4)").await?;
        client
            .batch_execute(
                "BEGIN; DECLARE c CURSOR FOR SELECT id FROM orders; FETCH 5 FROM c; CLOSE c; COMMIT",
            )
            .await?;
        anyhow::Ok(())
    })?;
    let (started, ended) = world.finish()?;
    ensure!((started, ended) == (1, 1));
    Ok(())
}

#[test]
fn every_execute_is_recorded_with_its_values_and_answered() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    runtime()?.block_on(async {
        let client = connect(&world).await?;
        client.execute("UPDATE orders SET note = $1 WHERE id = $2", &[&"x", &5_i32]).await?;
        anyhow::Ok(())
    })?;
    // The client hears the answer before the record does.
    let answered = |events: &[EventKind]| {
        events.iter().filter(|event| matches!(event, EventKind::Responded { .. })).count()
    };
    world.wait_for("both answers", |events| answered(events) == 2)?;
    let events = world.recorder.events();
    let values: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            EventKind::OperationDecided { operation, denial: None, .. } => Some(operation.parameters.clone()),
            _ => None,
        })
        .collect();
    ensure!(values.len() == 2, "Parse and Execute: {events:#?}");
    let shown: Vec<_> = values[1].iter().map(|p| p.value.as_deref()).collect();
    ensure!(shown == [Some("x"), Some("5")], "{values:?}");
    ensure!(answered(&events) == 2, "{events:#?}");
    world.finish()?;
    Ok(())
}

#[test]
fn pgbench_runs_in_every_mode() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    let init = std::process::Command::new(world.server.program("pgbench"))
        .args(["-i", "-q", "-h", "127.0.0.1", "-U", "app", "-p", &world.server.port().to_string(), "orders"])
        .output()?;
    ensure!(init.status.success(), "{}", String::from_utf8_lossy(&init.stderr));
    for mode in ["simple", "extended", "prepared"] {
        for extra in [&["-S"][..], &[][..], &["-S", "-C"][..]] {
            let output = world
                .command("pgbench")
                .args(["-n", "-M", mode, "-c", "2", "-t", "50"])
                .args(extra)
                .output()?;
            let err = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{mode} {extra:?}: {err}");
        }
    }
    let (started, ended) = world.finish()?;
    ensure!(started == ended, "{started} {ended}");
    Ok(())
}

#[test]
fn a_prepared_statement_means_what_the_server_reads_now() -> Result<()> {
    let world = World::start(&[("env", "production")])?;
    world.server.psql_in(
        "orders",
        "CREATE SCHEMA evil; \
         CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS \
         'SELECT pg_notify(''evil'', ''''); SELECT ''evil'''; \
         GRANT USAGE ON SCHEMA evil TO app;",
    )?;
    let classes = |world: &World| -> Vec<(String, String)> {
        let decided = world.recorder.events().into_iter().filter_map(|event| match event {
            EventKind::OperationDecided { operation, .. } => {
                Some((operation.text.to_string(), operation.facts.class().to_owned()))
            }
            _ => None,
        });
        decided.collect()
    };
    runtime()?.block_on(async {
        let client = connect(&world).await?;
        let statement = client.prepare("SELECT lower('A'::text)").await?;
        ensure!(client.query_one(&statement, &[]).await?.get::<_, String>(0) == "a");
        client.batch_execute("SET search_path = evil, pg_catalog").await?;
        let _ = client.query(&statement, &[]).await;
        client.batch_execute("SET search_path = DEFAULT; PREPARE p AS SELECT 1; EXECUTE p").await?;
        anyhow::Ok(())
    })?;
    let seen = classes(&world);
    let lower: Vec<&str> =
        seen.iter().filter(|(text, _)| text.contains("lower")).map(|(_, class)| class.as_str()).collect();
    // Where the path is the default, a better match for the argument's type would win too: names decide, not schemas.
    ensure!(lower.len() == 3 && lower[2] != "read", "{seen:?}");
    world.finish()?;
    Ok(())
}
