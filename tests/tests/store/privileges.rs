//! What a stolen credential of an agent can do: add to the log of its own node. Everything else is tried here, with psql.

use crate::place::{NODE, OWNER, PATIENCE, Place, agent, lines, lines_of, marks, open, scratch, session};
use anyhow::{Result, ensure};
use lockgate_model::port::Durability;
use lockgate_store::{
    contract::record,
    postgres::{SCHEMA_VERSION, enrol, migrate},
};
use std::process::{Child, Command, Stdio};

/// Another node, with a log of its own.
const OTHER: &str = "web-1";

/// A line as PostgreSQL takes bytes.
fn hex(line: &[u8]) -> String {
    line.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

/// One node with a log of some records, another with a forged one, a console, and a request that waits.
fn fleet() -> Result<(Place, tempfile::TempDir, Vec<Vec<u8>>)> {
    let place = Place::ready()?;
    place.enrol(OTHER)?;
    place.psql("CREATE ROLE console LOGIN IN ROLE lockgate_console; CREATE ROLE auditor LOGIN IN ROLE lockgate_auditor")?;
    let (temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let drain = place.drain(&log, 64 << 20)?;
    let last = record(&log, session(1), Durability::Synced)?.max(marks(&log, "secret-of-build-7", 5));
    ensure!(drain.wait_for(last, PATIENCE), "{:?}", drain.status());
    log.close()?;
    let ask = |node: &str, id: &str| {
        let sql = format!(
            "INSERT INTO lockgate.request (node, id, expires_at, card) VALUES ('{node}', '{id}', now() + interval '1 hour', '{{}}')"
        );
        place.psql_as(&agent(node), &sql).map_err(anyhow::Error::msg)
    };
    ask(NODE, "req_build")?;
    ask(OTHER, "req_web")?;
    let lines = lines(&dir);
    Ok((place, temporary, lines))
}

#[test]
fn a_stolen_agent_s_credential_changes_decides_and_sees_nothing_else() -> Result<()> {
    let (place, _temporary, before) = fleet()?;
    let thief = agent(OTHER);
    let record = |node: &str, seq: u64, line: &[u8]| {
        format!(
            "INSERT INTO lockgate.record (node, seq, at, fact, line) VALUES ('{node}', {seq}, now(), 0, '{}')",
            hex(line)
        )
    };
    let line = |node: &str, seq: u64, prev: &str| {
        format!("{{\"at\":\"x\",\"node\":\"{node}\",\"prev\":\"{prev}\",\"seq\":{seq},\"v\":1}}").into_bytes()
    };
    let none = "0".repeat(64);
    let denied = "permission denied";
    let secured = "row-level security";
    let attacks: Vec<(String, &str)> = vec![
        // Records.
        ("UPDATE lockgate.record SET line = ''".into(), denied),
        ("UPDATE lockgate.record SET node = 'web-1' WHERE node = 'build-7'".into(), denied),
        ("DELETE FROM lockgate.record".into(), denied),
        ("EXPLAIN ANALYZE DELETE FROM lockgate.record".into(), denied),
        ("TRUNCATE lockgate.record".into(), denied),
        ("TRUNCATE lockgate.record_rest".into(), denied),
        ("DELETE FROM lockgate.record_rest".into(), denied),
        ("SELECT * FROM lockgate.record_rest".into(), denied),
        ("DROP TABLE lockgate.record".into(), "must be owner"),
        ("ALTER TABLE lockgate.record DISABLE ROW LEVEL SECURITY".into(), "must be owner"),
        ("ALTER TABLE lockgate.record DISABLE TRIGGER go_on".into(), "must be owner"),
        ("ALTER TABLE lockgate.record DETACH PARTITION lockgate.record_rest".into(), "must be owner"),
        ("DROP POLICY own ON lockgate.record".into(), "must be owner"),
        ("CREATE RULE r AS ON INSERT TO lockgate.record DO INSTEAD NOTHING".into(), "must be owner"),
        ("MERGE INTO lockgate.record r USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE".into(), denied),
        ("SELECT * FROM lockgate.record FOR UPDATE".into(), denied),
        ("BEGIN; LOCK TABLE lockgate.record IN ACCESS EXCLUSIVE MODE".into(), denied),
        ("COPY lockgate.record (node, seq, at, fact, line) FROM PROGRAM 'echo'".into(), "must be superuser"),
        ("COPY lockgate.record TO PROGRAM 'cat'".into(), "must be superuser"),
        ("COPY lockgate.record TO '/tmp/lockgate-stolen'".into(), "must be superuser"),
        (record(NODE, before.len() as u64 + 1, &line(NODE, before.len() as u64 + 1, &none)), secured),
        (record(NODE, 1, &line(NODE, 1, &none)), secured),
        (record(OTHER, 1, &line(NODE, 1, &none)), "does not go on from the one before it"),
        (record(OTHER, 2, &line(OTHER, 2, &none)), "expected record 1 of node web-1, got 2"),
        (record(OTHER, 0, &line(OTHER, 0, &none)), "expected record 1 of node web-1, got 0"),
        (record(OTHER, 1, &line(OTHER, 1, &"1".repeat(64))), "does not go on from the one before it"),
        (record(OTHER, 1, b"{}"), "does not go on from the one before it"),
        ("INSERT INTO lockgate.record (node, seq, at, fact, line, hash) VALUES ('web-1', 1, now(), 0, '', '')".into(), "is a generated column"),
        ("INSERT INTO lockgate.record (node, seq, at, fact, line, arrival) VALUES ('web-1', 1, now(), 0, '', 1)".into(), denied),
        (format!("{} ON CONFLICT (node, seq, at) DO UPDATE SET line = ''", record(OTHER, 1, &line(OTHER, 1, &none))), denied),
        // What is made of them, and of their numbers.
        ("UPDATE lockgate.chain SET seq = 0".into(), denied),
        ("INSERT INTO lockgate.chain (node) VALUES ('mine')".into(), denied),
        ("UPDATE lockgate.session SET denied = 0".into(), denied),
        ("DELETE FROM lockgate.session".into(), denied),
        ("SELECT setval('lockgate.arrival', 1)".into(), denied),
        ("ALTER SEQUENCE lockgate.arrival RESTART".into(), "must be owner"),
        ("INSERT INTO lockgate.removed (node, first, last, leaves) VALUES ('web-1', 1, 1, '')".into(), denied),
        ("DELETE FROM lockgate.head".into(), denied),
        ("INSERT INTO lockgate.head (node, size, note) VALUES ('build-7', 1, 'x')".into(), secured),
        ("UPDATE lockgate.log_key SET key = 'x'".into(), denied),
        ("INSERT INTO lockgate.log_key (node, key) VALUES ('build-7', 'x')".into(), secured),
        ("INSERT INTO lockgate.log_key (node, key) VALUES ('build-7', 'x') ON CONFLICT DO NOTHING".into(), secured),
        // Approvals.
        ("INSERT INTO lockgate.decision (node, request, person, approves, vote) VALUES ('web-1', 'req_web', 'me', true, '{}')".into(), denied),
        ("INSERT INTO lockgate.decision (node, request, person, approves, vote) VALUES ('build-7', 'req_build', 'me', true, '{}')".into(), denied),
        ("UPDATE lockgate.decision SET approves = true".into(), denied),
        ("UPDATE lockgate.request SET expires_at = 'infinity'".into(), denied),
        ("DELETE FROM lockgate.request".into(), denied),
        ("INSERT INTO lockgate.ending (node, request, how) VALUES ('build-7', 'req_build', 'withdrawn')".into(), secured),
        ("INSERT INTO lockgate.request (node, id, expires_at, card) VALUES ('build-7', 'req_2', now(), '{}')".into(), secured),
        ("INSERT INTO lockgate.hold (name, hold) VALUES ('x', '{}')".into(), denied),
        ("DELETE FROM lockgate.hold".into(), denied),
        ("SELECT * FROM lockgate.hold".into(), denied),
        // Who one is.
        (format!("SET ROLE {OWNER}"), denied),
        ("SET ROLE lockgate_console".into(), denied),
        (format!("SET ROLE \"{}\"", agent(NODE)), denied),
        (format!("SET SESSION AUTHORIZATION \"{}\"", agent(NODE)), denied),
        ("GRANT lockgate_console TO \"agent-web-1\"".into(), "must have admin option"),
        ("ALTER ROLE \"agent-web-1\" BYPASSRLS".into(), "must be superuser"),
        ("UPDATE lockgate.node SET role = 'agent-web-1' WHERE node = 'build-7'".into(), denied),
        ("SELECT * FROM lockgate.node".into(), denied),
        ("SELECT lockgate.enrol('mine', 'agent-web-1')".into(), denied),
        ("CREATE OR REPLACE FUNCTION lockgate.own_node() RETURNS text LANGUAGE sql AS $$ SELECT 'build-7' $$".into(), denied),
        ("ALTER FUNCTION lockgate.own_node() OWNER TO \"agent-web-1\"".into(), "must be owner"),
        ("ALTER FUNCTION lockgate.own_node() RESET search_path".into(), "must be owner"),
        ("CREATE TABLE lockgate.mine (x int)".into(), denied),
        ("CREATE TABLE public.mine PARTITION OF lockgate.record FOR VALUES FROM ('1999-01-01') TO ('1999-01-08')"
                .into(),
            denied),
        ("SELECT lockgate.make_week('1999-01-01')".into(), denied),
        ("SELECT lockgate.go_on()".into(), denied),
        ("SET row_security = off; SELECT * FROM lockgate.record".into(), "would be affected by row-level security"),
        ("SET session_replication_role = replica".into(), denied),
        ("SET lockgate.x = 1; SELECT pg_read_file('/etc/passwd')".into(), denied),
        // Migrations.
        ("INSERT INTO lockgate.migration (version, name, sha256, release) VALUES (999, 'x', 'x', 'x')".into(), denied),
        ("DELETE FROM lockgate.migration".into(), denied),
        ("BEGIN; LOCK TABLE lockgate.migration IN SHARE ROW EXCLUSIVE MODE".into(), denied),
    ];
    let mut wrong = Vec::new();
    for (sql, expected) in &attacks {
        match place.psql_as(&thief, sql) {
            Ok(said) => wrong.push(format!("{sql}: was done, and said {said:?}")),
            Err(said) if said.contains(expected) => {}
            Err(said) => wrong.push(format!("{sql}: expected {expected:?}, got {said}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is allowed shows nothing of others, and nothing that one says of oneself is believed.
    for (sql, expected) in [
        ("SELECT count(*) FROM lockgate.record", "0"),
        ("SELECT count(*) FROM lockgate.session", "0"),
        ("SELECT count(*) FROM lockgate.head", "0"),
        ("SELECT string_agg(id, ',') FROM lockgate.request", "req_web"),
        ("SELECT count(*) FROM lockgate.decision", "0"),
        ("SELECT string_agg(node, ',') FROM lockgate.chain", "web-1"),
        ("SELECT lockgate.own_node()", "web-1"),
        (
            "SET search_path = pg_temp, lockgate, public; CREATE TEMP TABLE node (node text, role name); INSERT INTO node SELECT 'build-7', session_user; SELECT lockgate.own_node()",
            "web-1",
        ),
        (
            "CREATE FUNCTION pg_temp.own_node() RETURNS text LANGUAGE sql AS $$ SELECT 'build-7'::text $$; SET search_path = pg_temp, lockgate; SELECT count(*) FROM lockgate.record",
            "0",
        ),
        (
            "CREATE FUNCTION pg_temp.leak(bytea) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE EXCEPTION 'leaked %', $1; END $$; SELECT count(*) FROM lockgate.record WHERE pg_temp.leak(line)",
            "0",
        ),
        ("SELECT count(*) FROM pg_stats WHERE schemaname = 'lockgate' AND tablename LIKE 'record%'", "0"),
        ("SELECT lockgate.make_ready()", "0"),
        ("COPY lockgate.record (line) TO STDOUT", ""),
    ] {
        match place.psql_as(&thief, sql) {
            Ok(said) if said == expected => {}
            said => wrong.push(format!("{sql}: expected {expected:?}, got {said:?}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(lines_of(&place.shared())? == before);
    // It can add to its own node's log, as the node does; and no more than go on.
    let first = line(OTHER, 1, &none);
    place.psql_as(&thief, &record(OTHER, 1, &first)).map_err(anyhow::Error::msg)?;
    ensure!(place.psql_as(&thief, &record(OTHER, 1, &first)).is_err(), "a number is used once");
    Ok(())
}

#[test]
fn consoles_and_auditors_read_everything_and_change_no_record() -> Result<()> {
    let (place, _temporary, before) = fleet()?;
    for role in ["console", "auditor"] {
        let seen = place.psql_as(role, "SELECT count(*) FROM lockgate.record").map_err(anyhow::Error::msg)?;
        ensure!(seen == before.len().to_string(), "{role}: {seen}");
        for sql in [
            "UPDATE lockgate.record SET line = ''",
            "DELETE FROM lockgate.record",
            "TRUNCATE lockgate.record",
            "INSERT INTO lockgate.record (node, seq, at, fact, line) VALUES ('web-1', 1, now(), 0, '')",
            "DELETE FROM lockgate.session",
            "UPDATE lockgate.decision SET approves = true",
            "DELETE FROM lockgate.decision",
            "INSERT INTO lockgate.request (node, id, expires_at, card) VALUES ('web-1', 'x', now(), '{}')",
            "INSERT INTO lockgate.ending (node, request, how) VALUES ('web-1', 'req_web', 'x')",
            "UPDATE lockgate.node SET role = current_user",
            "DELETE FROM lockgate.hold",
            "SELECT lockgate.make_week('1999-01-01')",
            "SELECT setval('lockgate.arrival', 1)",
        ] {
            let said = place.psql_as(role, sql).err();
            ensure!(
                said.as_ref().is_some_and(|said| said.contains("permission denied")),
                "{role}: {sql}: {said:?}"
            );
        }
    }
    let decide = "INSERT INTO lockgate.decision (node, request, person, approves, vote) VALUES ('web-1', 'req_web', 'ana', true, '{}')";
    ensure!(place.psql_as("auditor", decide).is_err(), "an auditor decides nothing");
    place.psql_as("console", decide).map_err(anyhow::Error::msg)?;
    Ok(())
}

#[test]
fn a_role_that_is_more_than_an_agent_is_not_enrolled() -> Result<()> {
    let place = Place::ready()?;
    for (role, attributes) in [
        ("super", "SUPERUSER"),
        ("around", "BYPASSRLS"),
        ("maker", "CREATEROLE"),
        ("copier", "REPLICATION"),
        ("keepers", &format!("IN ROLE {OWNER}")),
        ("reader", "IN ROLE pg_read_all_data"),
        ("decider", "IN ROLE lockgate_console"),
    ] {
        place.psql(&format!("CREATE ROLE {role} LOGIN {attributes}"))?;
        let refused = enrol(&place.as_owner(), &role.into(), role).unwrap_err().to_string();
        ensure!(
            refused.contains("more than an agent may be") || refused.contains("is a member of"),
            "{role}: {refused}"
        );
    }
    let refused = enrol(&place.as_owner(), &"n".into(), "nobody-has-it").unwrap_err().to_string();
    ensure!(refused.contains("there is no role nobody-has-it"), "{refused}");
    place.login("second")?;
    ensure!(enrol(&place.as_owner(), &NODE.into(), "second").is_err(), "a node has one role");
    ensure!(enrol(&place.as_owner(), &"another".into(), &agent(NODE)).is_err(), "a role is one node's");
    ensure!(
        enrol(&place.as_owner(), &"a'b".into(), "second").is_err(),
        "a name is one that records can hold"
    );
    ensure!(place.psql("SELECT count(*) FROM lockgate.node")? == "1");
    Ok(())
}

#[test]
fn an_agent_that_holds_locks_holds_up_nobody_else() -> Result<()> {
    let (place, _temporary, before) = fleet()?;
    // All the locks it can have, for as long as it likes.
    let greedy = "SELECT pg_advisory_lock(7810191); BEGIN; LOCK TABLE lockgate.migration IN ACCESS SHARE MODE; \
                  SELECT count(*) FROM lockgate.record; SELECT pg_sleep(600)";
    let _greedy = Background(
        Command::new(place.server.program("psql"))
            .args(["-X", "-q", "-d", &place.database, "-U", &agent(OTHER), "-h", "127.0.0.1"])
            .args(["-p", &place.server.port().to_string(), "-c", greedy])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let holds = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND usename = 'agent-web-1' AND wait_event = 'PgSleep'";
    crate::place::until("it holds them", || place.psql(holds).is_ok_and(|count| count == "1"))?;
    ensure!(migrate(&place.as_owner(), SCHEMA_VERSION)?.pending.is_empty());
    ensure!(lines_of(&place.shared())? == before);
    Ok(())
}

struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
