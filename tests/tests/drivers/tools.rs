//! PostgreSQL's own programs: psql's commands, pgbench in all modes, dumps that restore to the same dump.

use super::{same_both_ways, world};
use anyhow::{Result, ensure};
use lockgate_tests::{
    job::{self, Done},
    scratch::Scratch,
    through::{Route, Through},
};

/// What a person does at psql's prompt: descriptions, variables, \gexec, \copy, \watch, errors and all.
const SESSION: &str = r#"
\set ON_ERROR_STOP off
\pset null '∅'
CREATE TABLE driver_rows (id int PRIMARY KEY, note text, parent int REFERENCES driver_rows);
CREATE VIEW driver_view AS SELECT id FROM driver_rows;
CREATE FUNCTION driver_twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2';
\d driver_rows
\d+ driver_view
\df driver_*
\dt
\l straight
\copy driver_rows (id, note) from pstdin
1	one
2	two
\.
INSERT INTO driver_rows VALUES (1, 'twice');
\errverbose
SELECT id AS the_id, note AS the_note FROM driver_rows WHERE id = 2 \gset
\echo :the_id :'the_note'
SELECT $1::int + $2 AS sum \bind 1 2 \g
SELECT format('SELECT %L AS made', n) FROM generate_series(1, 3) n \gexec
SELECT n, n % 2, n * 2 FROM generate_series(1, 4) n \crosstabview
SELECT 1 AS a, 'x' AS b \gdesc
\set FETCH_COUNT 3
SELECT g, driver_twice(g) FROM generate_series(1, 10) g;
\unset FETCH_COUNT
BEGIN;
SAVEPOINT s;
SELECT 1/0;
ROLLBACK TO s;
UPDATE driver_rows SET note = 'changed' WHERE id = 1;
\set ON_ERROR_ROLLBACK on
SELECT nothing FROM nowhere;
COMMIT;
DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$;
SELECT 1 \; SELECT 2 \; SELECT 3;
\copy (SELECT * FROM driver_rows ORDER BY id) to stdout (format csv, header)
COPY driver_rows TO STDOUT;
\encoding
\timing off
SELECT count(*) FROM driver_view;
SET search_path = pg_catalog;
SHOW search_path;
PREPARE p(int) AS SELECT $1 + 1;
EXECUTE p(41);
DEALLOCATE p;
"#;

#[tokio::test]
async fn psql() -> Result<()> {
    let scratch = Scratch::new("driver")?;
    let script = scratch.write("session.sql", SESSION)?;
    same_both_ways(&["psql", "-X", "-a", "-f", &script.display().to_string()]).await
}

async fn run(world: &Through, route: Route, database: &str, client: &[&str]) -> Result<Done> {
    let done = job::run(world.job(route, &[("PGDATABASE", database)], client)).await?;
    ensure!(done.code == Some(0), "{client:?} {route:?}: {}\n{}", done.stderr, world.agent.log());
    Ok(done)
}

#[tokio::test]
async fn pgbench_in_every_mode() -> Result<()> {
    let world = world().await?;
    run(&world, Route::Lockgate, "gated", &["pgbench", "-i", "-q", "-s", "1", "-I", "dtgvpf"]).await?;
    for mode in ["simple", "extended", "prepared"] {
        for extra in [&["-S"][..], &[], &["-N", "-C"]] {
            let command = [&["pgbench", "-n", "-M", mode, "-c", "4", "-j", "2", "-t", "40"], extra].concat();
            let done = run(&world, Route::Lockgate, "gated", &command).await?;
            let all = done.stdout.contains("transactions actually processed: 160/160");
            ensure!(all, "{mode} {extra:?}: {}", done.stdout);
        }
    }
    ensure!(world.pg.psql_in("gated", "SELECT count(*) FROM pgbench_history")? == "960", "a write was lost");
    world.closings_match().await
}

/// What dumps have to carry: every kind of object, odd names, odd values, large objects.
const SCHEMA: &str = r#"
CREATE SCHEMA "Odd ""Name""";
CREATE TYPE "Odd ""Name""".mood AS ENUM ('sad', 'glad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SEQUENCE numbers START 7;
CREATE TABLE things (id int PRIMARY KEY DEFAULT nextval('numbers'), m "Odd ""Name""".mood, p positive, j jsonb,
    a text[], b bytea, f float8, n numeric, t timestamptz, g int GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE parts (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE INDEX ON things USING gin (j);
CREATE VIEW seen AS SELECT id, g FROM things WHERE p IS NOT NULL;
CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM things;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := 1; RETURN NEW; END $$;
CREATE TRIGGER touched BEFORE UPDATE ON things FOR EACH ROW EXECUTE FUNCTION touch();
CREATE RULE quiet AS ON DELETE TO parts DO INSTEAD NOTHING;
COMMENT ON TABLE things IS 'it''s \ odd';
INSERT INTO things (m, p, j, a, b, f, n, t)
    SELECT 'glad', i, jsonb_build_object('i', i), ARRAY['a', NULL, E'tab\t\\'], decode(md5(i::text), 'hex'),
           'NaN', 'NaN', 'infinity' FROM generate_series(1, 500) i;
INSERT INTO parts SELECT i, repeat(E'line\nä€𝄞', i) FROM generate_series(0, 99) i;
SELECT lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex'));
GRANT SELECT ON things TO PUBLIC;
ALTER TABLE things ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON things USING (id > 0);
ANALYZE;
"#;

#[tokio::test]
async fn a_dump_through_lockgate_is_the_dump_and_restores_to_it() -> Result<()> {
    let world = world().await?;
    world.pg.psql_in("straight", SCHEMA)?;
    let scratch = Scratch::new("dump")?;
    let file = scratch.path().join("dump").display().to_string();
    for dump in [&["pg_dump", "-b"][..], &["pg_dump", "-b", "--inserts", "--rows-per-insert=7"]] {
        let straight = dumped(&world, Route::Direct, "straight", dump).await?;
        ensure!(straight.contains("CREATE POLICY") && straight.contains("lowrite"), "the dump is not whole");
        same(&straight, &dumped(&world, Route::Lockgate, "straight", dump).await?)?;
    }
    let plain = dumped(&world, Route::Direct, "straight", &["pg_dump", "-b"]).await?;

    // Every way out and back in.
    let restores: [(&[&str], &[&str]); 3] = [
        (&["pg_dump", "-b", "-Fp", "-f", &file], &["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &file]),
        (&["pg_dump", "-b", "-Fc", "-f", &file], &["pg_restore", "-e", "-j", "2", "-d", "gated", &file]),
        (&["pg_dump", "-b", "-Fc", "-f", &file], &["pg_restore", "-e", "-1", "-d", "gated", &file]),
    ];
    for (dump, restore) in restores {
        world.pg.psql("DROP DATABASE gated")?;
        world.pg.psql("CREATE DATABASE gated")?;
        run(&world, Route::Lockgate, "straight", dump).await?;
        run(&world, Route::Lockgate, "gated", restore).await?;
        same(&plain, &dumped(&world, Route::Direct, "gated", &["pg_dump", "-b"]).await?)?;
    }
    world.closings_match().await
}

/// A dump without the words that psql is locked with, which are random.
async fn dumped(world: &Through, route: Route, database: &str, client: &[&str]) -> Result<String> {
    let dump = run(world, route, database, client).await?.stdout;
    let lines =
        dump.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn same(before: &str, after: &str) -> Result<()> {
    let different = before.lines().zip(after.lines()).find(|(before, after)| before != after);
    ensure!(before == after, "the dumps differ: {different:?}, {} and {} bytes", before.len(), after.len());
    Ok(())
}
