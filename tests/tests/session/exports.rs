//! Exports as policy sees them: by the way they take and the size of what they take, on a server that knows the sizes.

use crate::world::{Decision, Options, World};
use anyhow::{Result, ensure};
use std::time::Duration;
use tokio_postgres::NoTls;

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: exports }
rules:
- id: everything
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out, ddl] } }
  effect: allow
- id: unlocks
  match: { sql: { kinds: [lock] } }
  effect: allow
- id: bulk
  match: { sql: { export: [copy, select, document, large_object], larger_than: { rows: 1000 } } }
  effect: deny
- id: dumps
  match: { sql: { export: dump } }
  effect: deny
- id: audit-is-closed
  match: { sql: { any_table: [audit.*] } }
  effect: deny
"#;

const TABLES: &str = "
    CREATE TABLE big AS SELECT g AS id, 'r' || g % 7 AS region FROM generate_series(1, 50000) g;
    ALTER TABLE big ADD PRIMARY KEY (id);
    CREATE TABLE few AS SELECT g AS id FROM generate_series(1, 20) g;
    CREATE TABLE never_analysed AS SELECT g AS id FROM generate_series(1, 50000) g;
    CREATE TABLE parted (id int) PARTITION BY RANGE (id);
    CREATE TABLE part_a PARTITION OF parted FOR VALUES FROM (0) TO (600);
    CREATE TABLE part_b PARTITION OF parted FOR VALUES FROM (600) TO (5000);
    INSERT INTO parted SELECT generate_series(0, 1199);
    ANALYZE big; ANALYZE parted;
    CREATE VIEW bigview AS SELECT id FROM big;
    CREATE SCHEMA audit; CREATE TABLE audit.log (id int);
    CREATE VIEW innocent AS SELECT id FROM audit.log;
    CREATE FUNCTION peek() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM audit.log';
    CREATE FUNCTION plain() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
    GRANT USAGE ON SCHEMA audit TO app; GRANT ALL ON ALL TABLES IN SCHEMA public, audit TO app;
    ANALYZE part_a;
";

fn world() -> Result<World> {
    let world =
        World::with(&[("env", "test")], Options { policy: Some(POLICY.into()), ..Options::default() })?;
    world.server.psql_in("orders", TABLES)?;
    Ok(world)
}

#[test]
fn what_leaves_in_bulk_is_told_by_its_size_and_its_way() -> Result<()> {
    let world = world()?;
    for (sql, rule) in [
        ("SELECT * FROM few", None),
        ("SELECT count(*) FROM big", None),
        ("SELECT * FROM big LIMIT 1000", None),
        ("SELECT * FROM big WHERE id = 7", None),
        ("SELECT * FROM big WHERE id IN (1, 2, 3)", None),
        ("COPY few TO STDOUT", None),
        ("COPY (SELECT * FROM big LIMIT 5) TO STDOUT", None),
        ("SELECT id FROM part_a LIMIT 1", None),
        ("SELECT relname FROM pg_class", None),
        ("\\d", None),
        ("SELECT plain()", Some("bulk")),
        ("SELECT * FROM big", Some("bulk")),
        ("SELECT * FROM big LIMIT 1001", Some("bulk")),
        ("SELECT * FROM big LIMIT 1000000000", Some("bulk")),
        ("SELECT * FROM big WHERE region = 'r1'", Some("bulk")),
        ("SELECT region FROM big GROUP BY region", Some("bulk")),
        ("SELECT string_agg(region, '') FROM big", Some("bulk")),
        ("SELECT json_agg(b) FROM big b LIMIT 1", Some("bulk")),
        ("SELECT ARRAY(SELECT id FROM big)", Some("bulk")),
        ("TABLE bigview", Some("bulk")),
        ("SELECT * FROM never_analysed", Some("bulk")),
        ("SELECT id FROM part_a", None),
        ("SELECT * FROM parted", Some("bulk")),
        ("COPY big TO STDOUT", Some("bulk")),
        ("\\copy big TO STDOUT", Some("bulk")),
        ("COPY (SELECT * FROM big) TO STDOUT", Some("bulk")),
        ("WITH x AS (SELECT * FROM big) SELECT * FROM x", Some("bulk")),
        ("SELECT table_to_xml('big', true, true, '')", Some("no")),
        ("UPDATE big SET region = '' RETURNING *", Some("bulk")),
        ("BEGIN; DECLARE c CURSOR FOR SELECT * FROM big; FETCH 1 FROM c", Some("bulk")),
        ("PREPARE p AS SELECT * FROM big; EXECUTE p", Some("bulk")),
        // Tables behind names.
        ("SELECT id FROM innocent LIMIT 1", Some("audit-is-closed")),
        ("SELECT peek() LIMIT 1", Some("audit-is-closed")),
        ("DO $$ BEGIN PERFORM 1; END $$", Some("no")),
    ] {
        let said = world.psql(&["-c", sql])?;
        match rule {
            None => ensure!(said.err.is_empty(), "{sql}: {said:?}"),
            Some("no") => ensure!(said.err.contains("lockgate: denied"), "{sql}: {said:?}"),
            Some(rule) => ensure!(said.err.contains(&format!("by rule {rule} ")), "{sql}: {said:?}"),
        }
    }
    world.finish()?;
    Ok(())
}

#[test]
fn dump_tools_are_known_under_any_name() -> Result<()> {
    let world = world()?;
    let dump = |arguments: &[&str], name: Option<&str>| -> Result<(bool, String)> {
        let mut command = world.command("pg_dump");
        command.args(arguments);
        if let Some(name) = name {
            command.env("PGAPPNAME", name);
        }
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    for (arguments, name) in [
        (&["--data-only"][..], None),
        (&["-t", "few"], Some("psql")),
        (&["-t", "few", "--inserts"], Some("innocent")),
        (&["--schema-only"], Some("")),
        (&["-Fc", "-f", "/dev/null", "-t", "few"], Some("billing")),
    ] {
        let (passed, err) = dump(arguments, name)?;
        ensure!(!passed && err.contains("by rule dumps"), "{arguments:?} as {name:?}: {err}");
    }
    // What others do in a transaction of that kind is no dump.
    let said = world.psql(&[
        "-c",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "-c",
        "SELECT count(*) FROM big",
        "-c",
        "COMMIT",
    ])?;
    ensure!(said.err.is_empty(), "{said:?}");
    world.finish()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_value_is_a_limit_as_far_as_it_goes() -> Result<()> {
    let world = tokio::task::spawn_blocking(world).await??;
    let config = format!("host=127.0.0.1 port={} user=job dbname=orders sslmode=disable", world.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    let connection = tokio::spawn(connection);
    let statement = client.prepare("SELECT id FROM big LIMIT $1").await?;
    for (limit, passes) in
        [(Some(10_i64), true), (Some(1000), true), (Some(1001), false), (None, false), (Some(5), true)]
    {
        let got = client.query(&statement, &[&limit]).await;
        ensure!(got.is_ok() == passes, "{limit:?}: {:?}", got.map(|rows| rows.len()));
    }
    drop((statement, client));
    connection.await??;
    tokio::task::spawn_blocking(move || world.finish()).await??;
    Ok(())
}

/// An approval is for one statement with its bound values, once: the same again is asked about again, and so is another.
#[tokio::test(flavor = "multi_thread")]
async fn an_approval_fits_one_statement_with_its_values_once() -> Result<()> {
    const ASKS: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: asks }
groups: { dba: {} }
rules:
- id: everything
  match: { sql: { class: [read, write, session, transaction] } }
  effect: allow
- id: bulk
  match: { sql: { export: select, larger_than: { rows: 1000 } } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 5m }
"#;
    let world = tokio::task::spawn_blocking(|| -> Result<World> {
        let world =
            World::with(&[("env", "test")], Options { policy: Some(ASKS.into()), ..Options::default() })?;
        world.server.psql_in("orders", TABLES)?;
        Ok(world)
    })
    .await??;
    let config = format!("host=127.0.0.1 port={} user=job dbname=orders sslmode=disable", world.port);
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
    let connection = tokio::spawn(connection);
    let asked = || world.approvals.requests.lock().unwrap().len();
    world.decide(Decision::Approve(Duration::from_millis(20)));
    let statement = client.prepare("SELECT id FROM big WHERE id <> $1 LIMIT $2").await?;
    ensure!(asked() == 0, "nothing comes out of Parse");
    for (values, requests) in
        [((1, 2000_i64), 1), ((1, 2000), 2), ((2, 2000), 3), ((1, 2001), 4), ((1, 10), 4)]
    {
        let rows = client.query(&statement, &[&values.0, &values.1]).await?;
        ensure!(rows.len() as i64 == values.1 && asked() == requests, "{values:?}: {} asked", asked());
    }
    {
        let requests = world.approvals.requests.lock().unwrap();
        let digests: std::collections::BTreeSet<_> =
            requests.iter().map(|request| request.operation.digest).collect();
        ensure!(digests.len() == 3, "equal statements have equal digests, others have others");
    }
    // Approving one does not admit the other: the second is refused although the first was not.
    client.query(&statement, &[&1, &2000_i64]).await?;
    world.decide(Decision::Deny(Duration::from_millis(20), "not these"));
    ensure!(client.query(&statement, &[&3, &2000_i64]).await.is_err());
    ensure!(client.query(&statement, &[&1, &2000_i64]).await.is_err(), "the earlier approval is used up");
    drop((statement, client));
    connection.await??;
    tokio::task::spawn_blocking(move || world.finish()).await??;
    Ok(())
}
