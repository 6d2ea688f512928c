//! Calls of functions that run texts, on a real server: what lockgate calls a read never writes there, and what it works
//! out for an expression is what the server makes of it.

use anyhow::{Result, ensure};
use lockgate_inspect::sql::{Inspector, SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::{addr::UpstreamAddr, sql::SqlClass};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use lockgate_wire::postgres::PgString;
use std::sync::Arc;

const SCHEMA: &str = r#"
    CREATE TABLE t (id int); INSERT INTO t VALUES (1);
    CREATE TABLE "Odd" (id int);
    CREATE FUNCTION run(text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        DECLARE l text; BEGIN FOR l IN EXECUTE $1 LOOP RETURN NEXT regexp_replace(l, '\d+', 'N'); END LOOP; END $$;
    CREATE FUNCTION plan(query text, loud bool DEFAULT false) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, COSTS off) ' || query; END $$;
    CREATE FUNCTION rows_of(name text, from_id int) RETURNS bigint LANGUAGE plpgsql STRICT AS $$
        DECLARE n bigint; BEGIN EXECUTE format('SELECT count(*) FROM %I WHERE id >= %s', name, from_id) INTO n; RETURN n; END $$;
    CREATE FUNCTION owned(q text) RETURNS SETOF text LANGUAGE plpgsql SECURITY DEFINER SET search_path = evil AS $$
        BEGIN RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION swapped(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN q := 'INSERT INTO t VALUES (2) RETURNING 1::text'; RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION aliased(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        DECLARE a ALIAS FOR $1; BEGIN a := 'INSERT INTO t VALUES (2) RETURNING 1::text'; RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION shadowed(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN DECLARE q text := 'INSERT INTO t VALUES (2) RETURNING 1::text'; BEGIN RETURN QUERY EXECUTE q; END; END $$;
    CREATE FUNCTION twice(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        DECLARE l text; BEGIN FOR l IN EXECUTE q LOOP RETURN QUERY EXECUTE l; END LOOP; END $$;
    CREATE FUNCTION again(q text) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN IF q = 'SELECT 1' THEN PERFORM again('INSERT INTO t VALUES (2)'); END IF; EXECUTE q; RETURN q; END $$;
    CREATE FUNCTION again_op(q text, i int) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN RETURN 1; END $$;
    CREATE OPERATOR #! (LEFTARG = text, RIGHTARG = int, FUNCTION = again_op);
    CREATE OR REPLACE FUNCTION again_op(q text, i int) RETURNS text LANGUAGE plpgsql AS $$
        BEGIN IF i = 1 THEN PERFORM 'INSERT INTO t VALUES (2)' #! 2; END IF; EXECUTE q; RETURN q; END $$;
    CREATE FUNCTION cut(q name) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION many(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION many(q varchar, n int) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN RETURN QUERY EXECUTE 'INSERT INTO t VALUES (2) RETURNING 1::text'; END $$;
    CREATE FUNCTION missing(q text DEFAULT 'INSERT INTO t VALUES (2) RETURNING 1::text') RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN RETURN QUERY EXECUTE q; END $$;
    CREATE FUNCTION last_words(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
        BEGIN RETURN QUERY EXECUTE q; EXCEPTION WHEN OTHERS THEN INSERT INTO t VALUES (2); END $$;
    CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (2); RETURN 1; END $$;
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.t VALUES (2); RETURN 1; END $$;
    CREATE VIEW evil.t AS SELECT f() AS id;
    CREATE VIEW through AS SELECT run('SELECT id::text FROM t') AS id;
    CREATE FUNCTION inside() RETURNS SETOF text LANGUAGE sql AS $$ SELECT run('SELECT id::text FROM t') $$;
"#;

/// A statement, and whether it is a read.
const CALLS: &[(&str, bool)] = &[
    ("SELECT run('SELECT 1')", true),
    ("SELECT * FROM run('SELECT id::text FROM t')", true),
    ("SELECT run('INSERT INTO t VALUES (2) RETURNING 1')", false),
    ("SELECT run('SELECT f()')", false),
    ("SELECT run('SELECT run(''SELECT 1'')')", false),
    ("SELECT run('SELECT plan(''SELECT 1'')')", true),
    ("SELECT run('SELECT plan(''INSERT INTO t VALUES (2)'')')", false),
    ("SELECT run('SELECT * FROM through')", false),
    ("SELECT run(id::text) FROM t", false),
    ("SELECT plan('SELECT * FROM t')", true),
    ("SELECT plan('SELECT * FROM t', true)", true),
    ("SELECT plan(loud => true, query => 'SELECT * FROM t')", true),
    ("SELECT plan(loud => true, query => 'INSERT INTO t VALUES (2)')", false),
    ("SELECT plan('INSERT INTO t VALUES (2)')", false),
    ("SELECT plan('SELECT 1; INSERT INTO t VALUES (2)')", false),
    ("SELECT rows_of('t', 1)", true),
    ("SELECT rows_of('Odd', 1)", true),
    ("SELECT rows_of(null, 1)", true),
    ("SELECT rows_of('t', f()::int)", false),
    ("SELECT owned('SELECT pg_catalog.lower(''A'')')", true),
    ("SELECT owned('SELECT id FROM t')", false),
    ("SELECT swapped('SELECT 1::text')", false),
    ("SELECT aliased('SELECT 1::text')", false),
    ("SELECT shadowed('SELECT 1::text')", false),
    ("SELECT twice('SELECT 1::text')", false),
    ("SELECT twice($$SELECT 'INSERT INTO t VALUES (2) RETURNING 1::text'$$)", false),
    ("SELECT again('SELECT 1')", false),
    ("SELECT again_op('SELECT 1', 1)", false),
    ("SELECT 'SELECT 1' #! 1", false),
    ("SELECT cut('SELECT 1::text')", false),
    ("SELECT many('SELECT 1::text')", false),
    ("SELECT missing('SELECT 1::text')", true),
    ("SELECT missing()", false),
    ("SELECT last_words('SELECT 1/0')", false),
    ("SELECT * FROM through", false),
    ("SELECT inside()", false),
];

async fn catalogue(server: &TestPostgres) -> Result<Arc<CatalogueSnapshot>> {
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
    let catalogue =
        Catalogue::new(endpoint, Credential::trusted("postgres"), PgString::from_static("postgres"));
    Ok(catalogue.load().await?)
}

fn state() -> SessionState {
    let mut state = SessionState::default();
    state.parameter_status("server_version", "15.18");
    state.parameter_status("standard_conforming_strings", "on");
    state
}

#[tokio::test]
async fn a_call_that_is_called_a_read_writes_nothing() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    server.psql(SCHEMA)?;
    let catalogue = catalogue(&server).await?;
    for (sql, reads) in CALLS {
        let class = Inspector.script(sql, &state(), Some(&catalogue)).class();
        ensure!((class == SqlClass::Read) == *reads, "{class}: {sql}");
        if *reads {
            server.psql(&format!("BEGIN READ ONLY; {sql}"))?;
        }
    }
    // Under a path of its own the same text stands for something else.
    let mut state = state();
    for statement in &Inspector.script("SET search_path = evil, public", &state, None).statements {
        state.apply(statement);
    }
    for (sql, reads) in [("SELECT run('SELECT id FROM t')", false), ("SELECT run('SELECT 1')", true)] {
        let class = Inspector.script(sql, &state, Some(&catalogue)).class();
        ensure!((class == SqlClass::Read) == reads, "{class} with another path: {sql}");
    }
    Ok(())
}

/// Each of these makes one text of constants; the server says which.
#[tokio::test]
async fn expressions_come_to_what_the_server_makes_of_them() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    server.psql(SCHEMA)?;
    let catalogue = catalogue(&server).await?;
    let pieces = [
        "'SELECT 1'",
        "' AS a'",
        "NULL",
        "7",
        "'a''b'",
        "'%'",
        "'Odd'",
        "'id'",
        "'%s'",
        "'%I'",
        "'%L'",
        "'1'",
        "'\"x\"'",
        "''",
    ];
    let patterns = [
        "'SELECT %s'",
        "'SELECT %L'",
        "'SELECT 1 AS %I'",
        "'SELECT %s AS %I'",
        "'SELECT %2$s AS %1$I'",
        "'SELECT %1$L, %1$L'",
        "'SELECT 1 %%2'",
        "'SELECT %s%s'",
        "'SELECT %5s'",
        "'SELECT %s, %1$s'",
        "'SELECT 1 AS a%I'",
        "'%s'",
    ];
    let mut expressions = Vec::new();
    for a in pieces {
        for b in pieces {
            expressions.push(format!("'SELECT ' || {a} || {b}"));
            expressions.push(format!("concat('SELECT ', {a}, {b})"));
            expressions.push(format!("'SELECT ' || coalesce({a}, {b})"));
            expressions.extend(patterns.iter().map(|pattern| format!("format({pattern}, {a}, {b})")));
        }
        expressions.push(format!("'SELECT ' || quote_literal({a})"));
        expressions.push(format!("'SELECT ' || quote_nullable({a})"));
        expressions.push(format!("'SELECT 1 AS ' || quote_ident({a})"));
    }
    // What is a read for lockgate has to be one for the server: the text that the server makes is asked about by itself.
    let mut reads = 0;
    for expression in &expressions {
        let call = format!("SELECT run({expression})");
        if Inspector.script(&call, &state(), Some(&catalogue)).class() != SqlClass::Read {
            continue;
        }
        // An expression that is an error is no text.
        let Ok(text) = server.psql(&format!("SELECT {expression}")) else { continue };
        let class = Inspector.script(&text, &state(), Some(&catalogue)).class();
        ensure!(class == SqlClass::Read, "{expression} is {text:?}, a {class}");
        reads += 1;
    }
    ensure!(reads > 150, "only {reads} of {} calls are reads", expressions.len());
    Ok(())
}
