//! Statements that do more than read, on a real server with a schema full of code: none of them is called a read, with the
//! catalogue at hand.

use anyhow::{Result, ensure};
use lockgate_inspect::sql::{Inspector, SessionState, catalogue::CatalogueSnapshot};
use lockgate_model::{addr::UpstreamAddr, sql::SqlClass};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_tests::{
    builtins,
    postgres::{PostgresOptions, TestPostgres},
};
use lockgate_wire::postgres::PgString;
use std::sync::Arc;

const LIST: &str = include_str!("../../../userspace/lockgate-inspect/src/sql/builtins.txt");

/// Code that writes, behind everything that can run code.
const SCHEMA: &str = r#"
    CREATE TABLE log (what text); CREATE SEQUENCE s; CREATE TABLE t (id int, note text); INSERT INTO t VALUES (1, 'a'), (2, 'b');
    CREATE FUNCTION w() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN 1; END $$;
    CREATE FUNCTION w(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN $1; END $$;
    CREATE FUNCTION w(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN $1; END $$;
    CREATE FUNCTION w(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN $1; END $$;
    CREATE FUNCTION w_immutable(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM w(); RETURN $1; END $$;
    CREATE FUNCTION w_bool(int, int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM w(); RETURN $1 < $2; END $$;
    CREATE FUNCTION w_cmp(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM w(); RETURN $1 - $2; END $$;
    CREATE FUNCTION w_hash(int, int8) RETURNS int8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM w(); RETURN $1; END $$;
    CREATE FUNCTION w_rows() RETURNS SETOF int LANGUAGE plpgsql AS $$ BEGIN PERFORM w(); RETURN NEXT 1; END $$;
    CREATE FUNCTION w_sql() RETURNS int LANGUAGE sql AS 'INSERT INTO log VALUES (1); SELECT 1';
    CREATE FUNCTION w_atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC INSERT INTO log VALUES (1); SELECT 1; END;
    CREATE FUNCTION w_sequence() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('s') $$;
    CREATE FUNCTION w_default(a int DEFAULT w()) RETURNS int LANGUAGE sql AS 'SELECT $1';
    CREATE FUNCTION w_exception() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN INSERT INTO log VALUES ('e'); RETURN 1; END $$;
    CREATE FUNCTION w_cursor() RETURNS int LANGUAGE plpgsql AS
        $$ DECLARE c CURSOR FOR SELECT w(); r int; BEGIN OPEN c; FETCH c INTO r; RETURN r; END $$;
    CREATE FUNCTION w_loop() RETURNS int LANGUAGE plpgsql AS
        $$ DECLARE r record; BEGIN FOR r IN INSERT INTO log VALUES ('l') RETURNING what LOOP END LOOP; RETURN 1; END $$;
    CREATE FUNCTION w_notify() RETURNS int LANGUAGE plpgsql AS $$ BEGIN NOTIFY a; RETURN 1; END $$;
    CREATE FUNCTION w_lock() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN 1; END $$;
    CREATE FUNCTION w_set() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET LOCAL search_path = evil; RETURN 1; END $$;
    CREATE FUNCTION w_text() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO log VALUES (1)'; RETURN 1; END $$;
    CREATE FUNCTION w_hidden() RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE chr(73) || 'NSERT INTO log VALUES (1)'; RETURN 1; END $$;
    CREATE FUNCTION w_of(t) RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE FUNCTION w_long_name_that_goes_up_to_the_very_limit_of_names_of_the_serv() RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE FUNCTION w_cuts() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RETURN w_long_name_that_goes_up_to_the_very_limit_of_names_of_the_server_and_on(); END $$;
    CREATE FUNCTION w_cuts_view() RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RETURN (SELECT max(id) FROM v_long_name_that_goes_up_to_the_very_limit_of_names_of_the_server_and_on); END $$;
    CREATE FUNCTION json(int) RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE FUNCTION w_keyword() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN json(1); END $$;
    CREATE FUNCTION json_scalar(int) RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE FUNCTION merge_action() RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE OPERATOR +# (LEFTARG = int, RIGHTARG = int, FUNCTION = w);
    CREATE OPERATOR !# (RIGHTARG = int, FUNCTION = w);
    CREATE OPERATOR <# (LEFTARG = int, RIGHTARG = int, FUNCTION = w_bool);
    CREATE OPERATOR CLASS odd_ops FOR TYPE int USING btree AS OPERATOR 1 <#, OPERATOR 3 =, FUNCTION 1 w_cmp(int, int);
    CREATE OPERATOR CLASS odd_hash FOR TYPE int USING hash AS OPERATOR 1 =, FUNCTION 2 w_hash(int, int8);
    CREATE SCHEMA evil;
    CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS 'SELECT w($1)';
"#;

/// What is built on that code.
const BUILT: &str = r#"
    CREATE AGGREGATE w_agg(int) (SFUNC = w, STYPE = int, INITCOND = '0');
    CREATE AGGREGATE w_final(int) (SFUNC = int4pl, STYPE = int, FINALFUNC = w_immutable, INITCOND = '0');
    CREATE AGGREGATE w_combine(int) (SFUNC = int4pl, STYPE = int, COMBINEFUNC = w, INITCOND = '0', PARALLEL = SAFE);
    CREATE AGGREGATE w_moving(int) (SFUNC = int4pl, STYPE = int, MSFUNC = w, MINVFUNC = w, MSTYPE = int, INITCOND = '0', MINITCOND = '0');
    CREATE DOMAIN d_checked AS int CHECK (w_immutable(VALUE) > 0);
    CREATE DOMAIN d_of_domain AS d_checked;
    CREATE TYPE pair AS (a d_checked, b int);
    CREATE TYPE nested AS (p pair, q int);
    CREATE TYPE odd_range AS RANGE (subtype = int, subtype_opclass = odd_ops);
    CREATE TYPE mood AS ENUM ('sad', 'glad');
    CREATE FUNCTION w_mood(mood) RETURNS int LANGUAGE sql AS 'SELECT w()';
    CREATE CAST (mood AS int) WITH FUNCTION w_mood(mood) AS IMPLICIT;
    CREATE VIEW v_calls AS SELECT id, w(id) AS x FROM t;
    CREATE VIEW v_of_view AS SELECT * FROM v_calls;
    CREATE VIEW v_operator AS SELECT id +# 1 AS x FROM t;
    CREATE VIEW v_cast AS SELECT id::d_checked AS x FROM t;
    CREATE VIEW v_long_name_that_goes_up_to_the_very_limit_of_names_of_the_serv AS SELECT w() AS id;
    CREATE TABLE checked (id int, d d_checked);
    CREATE TABLE guarded (id int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (w_immutable(id) > 0);
    CREATE TABLE guarded_by_query (id int); ALTER TABLE guarded_by_query ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded_by_query USING (EXISTS (SELECT FROM v_calls));
    CREATE TABLE indexed (id int); CREATE INDEX ON indexed (w_immutable(id));
    CREATE TABLE indexed_where (id int); CREATE INDEX ON indexed_where (id) WHERE w_immutable(id) > 0;
    CREATE TABLE indexed_odd (id int); CREATE INDEX ON indexed_odd (id odd_ops);
    CREATE TABLE parts_odd (id int) PARTITION BY HASH (id odd_hash);
    CREATE TABLE parts_call (id int) PARTITION BY RANGE (w_immutable(id));
    CREATE TABLE stats_odd (id int); CREATE STATISTICS st ON (w_immutable(id)) FROM stats_odd;
    CREATE TABLE parent (id int); CREATE TABLE child (d d_checked) INHERITS (parent);
    CREATE TABLE triggered (id int);
    CREATE FUNCTION tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('t'); RETURN NEW; END $$;
    CREATE TRIGGER tr BEFORE INSERT OR UPDATE OR DELETE ON triggered FOR EACH ROW EXECUTE FUNCTION tr();
    CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('p'); END $$;
    CREATE MATERIALIZED VIEW mv AS SELECT 1 AS a;
"#;

/// None of these is a read.
const MORE_THAN_READS: &[&str] = &[
    "SELECT w()",
    "SELECT public.w()",
    "SELECT \"w\"()",
    "SELECT U&\"\\0077\"()",
    "SELECT w_sql()",
    "SELECT w_atomic()",
    "SELECT w_sequence()",
    "SELECT w_default()",
    "SELECT w_exception()",
    "SELECT w_cursor()",
    "SELECT w_loop()",
    "SELECT w_notify()",
    "SELECT w_lock()",
    "SELECT w_set()",
    "SELECT w_text()",
    "SELECT w_hidden()",
    "SELECT w_cuts()",
    "SELECT w_cuts_view()",
    "SELECT w_keyword()",
    "SELECT w_long_name_that_goes_up_to_the_very_limit_of_names_of_the_server_and_on()",
    "SELECT id FROM v_long_name_that_goes_up_to_the_very_limit_of_names_of_the_server_and_on",
    "SELECT json(1)",
    "SELECT json_scalar(1)",
    "SELECT merge_action()",
    "SELECT * FROM w_rows()",
    "SELECT * FROM ROWS FROM (w_rows(), generate_series(1, 2))",
    "SELECT (t).w_of FROM t",
    "SELECT t.w_of FROM t",
    "SELECT w_of(t) FROM t",
    "SELECT 1 +# 2",
    "SELECT !# 2",
    "SELECT 1 OPERATOR(public.+#) 2",
    "SELECT id FROM t ORDER BY id USING <#",
    "SELECT 1 <# ANY (ARRAY[2])",
    "SELECT 1 WHERE 1 <# ALL (SELECT 2)",
    "SELECT w_agg(id) FROM t",
    "SELECT w_final(id) FROM t",
    "SELECT w_combine(id) FROM t",
    "SELECT w_moving(id) OVER (ROWS 1 PRECEDING) FROM t",
    "SELECT w_agg(id) OVER () FROM t",
    "SELECT sum(w(id)) OVER (PARTITION BY id) FROM t",
    "SELECT sum(id) OVER (ORDER BY w(id)) FROM t",
    "SELECT count(*) FILTER (WHERE w() = 1) FROM t",
    "SELECT 1::d_checked",
    "SELECT CAST('1' AS d_checked)",
    "SELECT d_checked '1'",
    "SELECT '1'::d_of_domain",
    "SELECT '(1,2)'::pair",
    "SELECT ROW(1, 2)::pair",
    "SELECT '((1,2),3)'::nested",
    "SELECT '{1}'::d_checked[]",
    "SELECT '[1,2]'::odd_range",
    "SELECT odd_range(1, 2)",
    "SELECT 'sad'::mood + 1",
    "SELECT * FROM json_to_record('{\"a\":1}') AS x(a d_checked)",
    "SELECT * FROM jsonb_to_recordset('[]') AS x(a pair)",
    "SELECT json_populate_record(NULL::pair, '{\"a\":1}')",
    "SELECT * FROM xmltable('/a' PASSING '<a>1</a>' COLUMNS a d_checked PATH '.')",
    "SELECT * FROM v_calls",
    "SELECT id FROM v_of_view",
    "SELECT * FROM v_operator",
    "SELECT * FROM v_cast",
    "TABLE v_calls",
    "SELECT * FROM ONLY v_calls",
    "SELECT * FROM guarded",
    "SELECT * FROM guarded_by_query",
    "SELECT * FROM indexed WHERE id = 1",
    "SELECT * FROM indexed_where WHERE id = 1",
    "SELECT * FROM indexed_odd WHERE id = 1",
    "SELECT * FROM parts_odd WHERE id = 1",
    "SELECT * FROM parts_call WHERE id = 1",
    "SELECT * FROM stats_odd",
    "SELECT * FROM parent",
    "SELECT d FROM checked",
    "SELECT 1 FROM t TABLESAMPLE bernoulli (w())",
    "SELECT 1 FROM t TABLESAMPLE system (1) REPEATABLE (w())",
    "SELECT 1 FROM t LIMIT w()",
    "SELECT 1 FROM t OFFSET w()",
    "SELECT 1 FROM t FETCH FIRST (w()) ROWS ONLY",
    "SELECT 1 FROM t GROUP BY w(id)",
    "SELECT 1 FROM t GROUP BY GROUPING SETS ((w(id)), ())",
    "SELECT 1 FROM t HAVING w() = 1",
    "SELECT DISTINCT ON (w(id)) 1 FROM t",
    "SELECT CASE w() WHEN 1 THEN 1 END",
    "SELECT COALESCE(NULL, w())",
    "SELECT NULLIF(w(), 1), GREATEST(w(), 1)",
    "SELECT ARRAY[w()], ROW(w()), (ARRAY[1])[w()]",
    "SELECT EXISTS (SELECT w())",
    "SELECT 1 IN (SELECT w())",
    "VALUES (w())",
    "WITH x AS (SELECT w()) SELECT 1",
    "WITH x AS MATERIALIZED (SELECT w()) SELECT * FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT w() FROM x WHERE a < 1) SELECT * FROM x",
    "WITH x AS (DELETE FROM t RETURNING 1) SELECT 1",
    "WITH x AS (INSERT INTO t VALUES (1) RETURNING 1) SELECT 1",
    "WITH x AS (UPDATE t SET id = 1 RETURNING 1) SELECT * FROM x",
    "WITH x AS (SELECT 1), y AS (DELETE FROM t) SELECT * FROM x",
    "SELECT 1 UNION SELECT w()",
    "SELECT 1 INTO made",
    "SELECT 1 INTO TEMP made",
    "SELECT id INTO UNLOGGED TABLE made FROM t",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR NO KEY UPDATE",
    "SELECT * FROM t FOR SHARE",
    "SELECT * FROM t FOR KEY SHARE SKIP LOCKED",
    "SELECT * FROM (SELECT * FROM t FOR UPDATE) s",
    "EXPLAIN ANALYZE SELECT w()",
    "EXPLAIN (ANALYZE) DELETE FROM t",
    "EXPLAIN (ANALYZE true, VERBOSE) INSERT INTO t VALUES (1)",
    "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1",
    "EXPLAIN ANALYZE EXECUTE nobody_knows",
    "EXPLAIN ANALYZE DECLARE c CURSOR FOR SELECT w()",
    "EXPLAIN SELECT w_immutable(1)",
    "EXPLAIN SELECT * FROM t WHERE id = w_immutable(1)",
    "EXECUTE nobody_knows",
    "PREPARE p AS DELETE FROM t",
    "CREATE TABLE made AS EXECUTE nobody_knows",
    "CREATE TEMP TABLE made AS SELECT 1",
    "DECLARE c CURSOR FOR SELECT w()",
    "DECLARE c CURSOR WITH HOLD FOR SELECT w()",
    "COPY (SELECT w()) TO STDOUT",
    "COPY (DELETE FROM t RETURNING *) TO STDOUT",
    "COPY t FROM STDIN",
    "COPY t TO '/tmp/x'",
    "COPY t TO PROGRAM 'true'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY v_calls TO STDOUT",
    "COPY guarded TO STDOUT",
    "DO $$ BEGIN END $$",
    "CALL proc()",
    "MERGE INTO t USING triggered u ON t.id = u.id WHEN MATCHED THEN DELETE",
    "INSERT INTO triggered VALUES (1)",
    "TRUNCATE t",
    "REFRESH MATERIALIZED VIEW mv",
    "LOCK TABLE t",
    "VACUUM t",
    "ANALYZE t",
    "REINDEX TABLE t",
    "CLUSTER",
    "CHECKPOINT",
    "LISTEN a",
    "NOTIFY a",
    "UNLISTEN *",
    "LOAD 'plpgsql'",
    "PREPARE TRANSACTION 'x'",
    "COMMIT PREPARED 'x'",
    "ROLLBACK PREPARED 'x'",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "ALTER TABLE t ADD a int",
    "ALTER ROLE postgres SET search_path = evil",
    "COMMENT ON TABLE t IS 'x'",
    "SECURITY LABEL ON TABLE t IS 'x'",
    "SET ROLE postgres",
    "SET LOCAL ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "RESET ROLE",
    "SET LOCAL search_path = evil",
    "SELECT set_config('role', 'postgres', false)",
    "SELECT pg_catalog.set_config('role', 'postgres', true)",
    "SELECT pg_catalog.\"set_config\"('work_mem', '1MB', false)",
    "UPDATE pg_settings SET setting = 'evil' WHERE name = 'search_path'",
    "SELECT nextval('s')",
    "SELECT setval('s', 1)",
    "SELECT pg_catalog.nextval('s'::regclass)",
    "SELECT lo_create(0), lo_from_bytea(0, '')",
    "SELECT lo_unlink(1)",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
    "SELECT pg_sleep(0)",
    "SELECT pg_sleep_for('1 ms')",
    "SELECT pg_notify('a', 'b')",
    "SELECT pg_terminate_backend(1)",
    "SELECT pg_cancel_backend(1) FROM pg_stat_activity",
    "SELECT pg_export_snapshot()",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT query_to_xml('DELETE FROM t', true, false, '')",
    "SELECT pg_catalog.query_to_xml_and_xmlschema('DELETE FROM t', true, false, '')",
    "SELECT database_to_xml(true, false, '')",
    "SELECT cursor_to_xml('c', 1, true, false, '')",
    "SELECT ts_stat('SELECT w()')",
    "SELECT ts_rewrite('a', 'SELECT w()')",
    "SELECT dblink('', 'DELETE FROM t')",
    "SELECT pg_read_file('x'), pg_ls_dir('.')",
    "SELECT 1; DELETE FROM t",
    "BEGIN READ ONLY; COMMIT; DELETE FROM t",
    "BEGIN READ ONLY; SET TRANSACTION READ WRITE; DELETE FROM t",
    "START TRANSACTION READ ONLY; ROLLBACK; SELECT w()",
    "SELECT 1 /* ; */; /* */ DELETE FROM t -- */",
    "SELECT 1 --\n; DELETE FROM t",
    "SELECT 1 /* /* */ ; DELETE FROM t; */; DELETE FROM t",
    "SELECT $$a$$; DELETE FROM t; --$$",
    "SELECT $a$ $b$ $a$; DELETE FROM t; --$b$",
    "SELECT E'\\''; DELETE FROM t; --'",
    "SELECT 'a'''; DELETE FROM t; --'",
    "SELECT U&'\\0027'; DELETE FROM t; --'",
    "SELECT U&\"w\" FROM t; DELETE FROM t",
    "SELECT 1 ||-- '\n 'a'; DELETE FROM t; --'",
    "SELECT 1 end; DROP TABLE t",
    // Words of newer servers.
    "MERGE INTO t USING t u ON false WHEN MATCHED THEN DELETE RETURNING merge_action()",
    "INSERT INTO t VALUES (1) RETURNING WITH (OLD AS o) 1",
    "SELECT * FROM JSON_TABLE('{}', '$' COLUMNS (a d_checked PATH '$.a'))",
    "SELECT JSON_VALUE('{}', '$' RETURNING d_checked)",
    "SELECT JSON_VALUE(w('{}'), '$')",
    "SELECT JSON_OBJECT('a' VALUE w())",
    "SELECT JSON_ARRAYAGG(w(id)) FROM t",
];

/// And all of these are.
const READS: &[&str] = &[
    "SELECT 1",
    "SELECT id, upper(note) FROM t WHERE id IN (1, 2) ORDER BY id",
    "SELECT count(*), max(id) FROM t GROUP BY note",
    "SELECT * FROM t a JOIN t b USING (id)",
    "EXPLAIN SELECT * FROM t",
    "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM t",
    "SELECT * FROM mv",
    "SHOW work_mem",
    "SELECT current_setting('work_mem'), now(), random(), gen_random_uuid()",
    "WITH x AS (SELECT 1 AS a) SELECT * FROM x",
    "SELECT * FROM pg_stat_activity",
    "SELECT * FROM information_schema.tables",
    "SELECT pg_get_viewdef('v_calls'::regclass)",
    "SELECT id FROM triggered",
];

struct Lab {
    server: TestPostgres,
    catalogue: Arc<CatalogueSnapshot>,
}

impl Lab {
    async fn start() -> Result<Self> {
        let server = TestPostgres::start(PostgresOptions::new())?;
        server.psql(SCHEMA)?;
        server.psql(BUILT)?;
        let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
        let catalogue =
            Catalogue::new(endpoint, Credential::trusted("postgres"), PgString::from_static("postgres"));
        let catalogue = catalogue.load().await?;
        Ok(Self { server, catalogue })
    }

    fn class(&self, sql: &str, standard: Option<bool>) -> SqlClass {
        let mut state = SessionState::default();
        state.parameter_status("server_version", "15.18");
        state.standard_conforming_strings = standard;
        Inspector.script(sql, &state, Some(&self.catalogue)).class()
    }
}

#[tokio::test]
async fn what_does_more_than_read_is_not_a_read() -> Result<()> {
    let lab = Lab::start().await?;
    let mut wrong = Vec::new();
    for sql in MORE_THAN_READS {
        for standard in [Some(true), None] {
            if lab.class(sql, standard) == SqlClass::Read {
                wrong.push(*sql);
            }
        }
    }
    ensure!(wrong.is_empty(), "called reads: {wrong:#?}");
    for sql in READS {
        let class = lab.class(sql, Some(true));
        if class != SqlClass::Read {
            wrong.push(*sql);
        } else {
            lab.server.psql(&format!("BEGIN READ ONLY; {sql}"))?;
        }
    }
    ensure!(wrong.is_empty(), "over-judged: {wrong:#?}");
    Ok(())
}

/// Operator classes of built-in types that have none, and casts between built-in types: superusers' work, with nothing in
/// a statement to show it.
const BENEATH: &str = r#"
    CREATE TABLE log (what text); CREATE TABLE t (id int, j json, p point, note text, n int);
    INSERT INTO t VALUES (1, '1', '(1,1)', '1', 1), (2, '2', '(2,2)', '2', 2);
    CREATE FUNCTION w_json_lt(json, json) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text < $2::text';
    CREATE FUNCTION w_json_eq(json, json) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2::text';
    CREATE OPERATOR <# (LEFTARG = json, RIGHTARG = json, FUNCTION = w_json_lt);
    CREATE OPERATOR =# (LEFTARG = json, RIGHTARG = json, FUNCTION = w_json_eq);
    CREATE FUNCTION w_json_cmp(json, json) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO log VALUES ('w'); RETURN bttextcmp($1::text, $2::text); END $$;
    CREATE OPERATOR CLASS json_sorts DEFAULT FOR TYPE json USING btree AS
        OPERATOR 1 <#, OPERATOR 3 =#, FUNCTION 1 w_json_cmp(json, json);
"#;
const BENEATH_CASTS: &str = r#"
    CREATE TABLE log (what text); CREATE TABLE t (id int, j json, p point, note text, n int);
    INSERT INTO t VALUES (1, '1', '(1,1)', '1', 1), (2, '2', '(2,2)', '2', 2);
    CREATE FUNCTION w_cast(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN int4in(textout($1)); END $$;
    CREATE CAST (text AS int) WITH FUNCTION w_cast(text) AS IMPLICIT;
    CREATE FUNCTION w_point(int) RETURNS point LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES ('w'); RETURN point($1, $1); END $$;
    CREATE CAST (int AS point) WITH FUNCTION w_point(int);
"#;
const HARMLESS_BENEATH: &str = r#"
    CREATE TABLE t (id int, j json, p point, note text, n int);
    INSERT INTO t VALUES (1, '1', '(1,1)', '1', 1);
    CREATE CAST (int AS point) WITH FUNCTION point_of(int);
    CREATE FUNCTION json_lt(json, json) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text < $2::text';
    CREATE FUNCTION json_eq(json, json) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2::text';
    CREATE OPERATOR <# (LEFTARG = json, RIGHTARG = json, FUNCTION = json_lt);
    CREATE OPERATOR =# (LEFTARG = json, RIGHTARG = json, FUNCTION = json_eq);
    CREATE FUNCTION json_cmp(json, json) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT bttextcmp($1::text, $2::text)';
    CREATE OPERATOR CLASS json_sorts DEFAULT FOR TYPE json USING btree AS
        OPERATOR 1 <#, OPERATOR 3 =#, FUNCTION 1 json_cmp(json, json);
"#;

/// What of these the server refuses as a write is not called a read; `reads` says which are to be called one all the same.
async fn beneath(schema: &str, statements: &[&str], reads: bool) -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    server.psql(schema)?;
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
    let catalogue =
        Catalogue::new(endpoint, Credential::trusted("postgres"), PgString::from_static("postgres"));
    let lab = Lab { catalogue: catalogue.load().await?, server };
    let mut wrong = Vec::new();
    for sql in statements {
        let answer = lab.server.psql(&format!("BEGIN READ ONLY; {sql}"));
        let writes =
            answer.as_ref().is_err_and(|error| format!("{error:#}").contains("read-only transaction"));
        ensure!(writes != reads, "{sql}: {answer:?}");
        if (lab.class(sql, Some(true)) == SqlClass::Read) != reads {
            wrong.push(*sql);
        }
    }
    ensure!(wrong.is_empty(), "misjudged: {wrong:#?}");
    Ok(())
}

const SORTING: &[&str] = &[
    "SELECT j FROM t ORDER BY j",
    "SELECT * FROM t ORDER BY 2",
    "SELECT DISTINCT j FROM t",
    "SELECT DISTINCT ON (j) id FROM t",
    "SELECT count(*) FROM t GROUP BY j",
    "SELECT count(*) FROM t GROUP BY ROLLUP (j)",
    "SELECT count(DISTINCT j) FROM t",
    "SELECT json_agg(id ORDER BY j) FROM t",
    "SELECT row_number() OVER (ORDER BY j) FROM t",
    "SELECT count(*) OVER w FROM t WINDOW w AS (PARTITION BY j)",
    "SELECT j FROM t UNION SELECT j FROM t",
    "SELECT j FROM t EXCEPT SELECT j FROM t",
    "SELECT j FROM t INTERSECT ALL SELECT j FROM t",
    "SELECT array_agg(j ORDER BY j) FROM t",
    "SELECT GREATEST(j, '1'::json) FROM t",
    "SELECT ARRAY[j] < ARRAY['2'::json] FROM t",
    "SELECT * FROM t ORDER BY ARRAY[j]",
    "SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY j) FROM t",
    "TABLE t ORDER BY j",
];

#[tokio::test]
async fn sorting_that_runs_code_is_not_a_read() -> Result<()> {
    beneath(BENEATH, SORTING, false).await
}

#[tokio::test]
async fn casts_between_built_in_types_that_run_code_are_not_reads() -> Result<()> {
    let statements = [
        "SELECT note::int FROM t",
        "SELECT CAST(note AS int4) FROM t",
        "SELECT note + 1 FROM t",
        "SELECT * FROM t WHERE note = 1",
        "SELECT id FROM t WHERE note IN (1, 2)",
        "SELECT (ARRAY[1])[note] FROM t",
        "SELECT a.id FROM t a JOIN t b ON a.note = b.n",
        "SELECT n::point FROM t",
        "SELECT 5::point",
        "SELECT CAST(id + 1 AS point) FROM t",
    ];
    beneath(BENEATH_CASTS, &statements, false).await
}

#[tokio::test]
async fn what_is_wired_to_built_in_types_and_only_computes_leaves_reads_alone() -> Result<()> {
    let schema = format!(
        "CREATE FUNCTION point_of(int) RETURNS point LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.point($1, $1)'; {HARMLESS_BENEATH}"
    );
    let statements: Vec<&str> = SORTING
        .iter()
        .copied()
        .chain(["SELECT n::point FROM t", "SELECT id + 1 FROM t", "SELECT 5::point"])
        .collect();
    beneath(&schema, &statements, true).await
}

#[tokio::test]
async fn no_built_in_off_the_list_is_a_read() -> Result<()> {
    let lab = Lab::start().await?;
    let list = builtins::read(LIST)?;
    let calls = lab.server.psql(
        "SELECT p.proname || ' ' || quote_ident(p.proname) || '(' || coalesce((SELECT string_agg('NULL::' || format_type(a, NULL), ', ' ORDER BY n) \
         FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS x(a, n)), '') || ')' \
         FROM pg_proc AS p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a', 'w')",
    )?;
    let mut off = 0;
    for line in calls.lines() {
        let Some((name, call)) = line.split_once(' ') else { continue };
        if list.contains_key(&('f', name.to_owned())) {
            continue;
        }
        off += 1;
        for sql in [
            format!("SELECT pg_catalog.{call}"),
            format!("SELECT {call}"),
            format!("SELECT * FROM pg_catalog.{call}"),
            format!("SELECT 1 FROM t WHERE (SELECT pg_catalog.{call}) IS NULL"),
        ] {
            ensure!(lab.class(&sql, Some(true)) != SqlClass::Read, "{sql}");
        }
    }
    ensure!(off > 500, "only {off} functions are off the list");
    Ok(())
}
