//! COPY … TO STDOUT of masked columns: masked in flight, to the byte what the server itself writes of the masks; cut where
//! it is not certain which column stands where.

use crate::world::{Options, Said, World};
use anyhow::{Context, Result, ensure};
use lockgate_model::{event::EventKind, outcome::OutcomeStatus};
use std::{
    io::Write,
    process::{Child, Command, Stdio},
    time::Duration,
};

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: copies }
rules:
- id: everything
  match: { sql: { class: [read, write, ddl, admin, copy_in, copy_out, session, transaction, call] } }
  effect: allow
- id: whatever-it-is
  match: { sql: { opaque: true } }
  effect: allow
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask:
    columns:
    - { match: "*.*.ssn", method: redact }
    - { match: "*.*.card", method: partial, keep_last: 4 }
    - { match: "*.*.phone", method: "null" }
    - { match: "*.*.salary", method: redact }
"#;

/// Everything that could be taken for a delimiter, a quote, an escape, the end of a line or NULL.
const NASTY: &str = r#"
CREATE TABLE nasty (junk int, id int, before text, ssn text, card varchar(9000), phone text, salary int, after text,
                    loud text GENERATED ALWAYS AS (upper(after)) STORED, fixed text GENERATED ALWAYS AS ('x') STORED);
ALTER TABLE nasty DROP COLUMN junk;
INSERT INTO nasty (id, before, ssn, card, phone, salary, after)
SELECT n, v, lead(v, 1, v) OVER w, lead(v, 2, v) OVER w, lead(v, 3, v) OVER w, n, lead(v, 4, v) OVER w
FROM unnest(ARRAY['plain', 'a,b', 'a"b', '"', '""', E'a\nb', E'\n', E'a\r\nb', E'a\tb', E'\t', E'a\\b', E'\\', E'\\\\', '\N', '\.',
  NULL, ';', '|', '''', '''|;', 'N', E'\x01\x1b\x7f', 'č漢字🙂', '123-45-6789', '4111111111111111', repeat('long, "long"' || E'\n', 600),
  ' ', '[redacted]', '*', E'x\\', E'\\n', E'\\\n', 'x"', '"x'])
  WITH ORDINALITY AS u(v, n)
WINDOW w AS (ORDER BY n)
ORDER BY n;
ALTER TABLE nasty OWNER TO app;
"#;

/// What the masks make of it, in the server's own words.
const MASKED: &str = "SELECT id, before, CASE WHEN ssn IS NOT NULL THEN '[redacted]' END AS ssn, \
     (repeat('*', length(card) - least(4, length(card) / 2)) || right(card, least(4, length(card) / 2)))::varchar AS card, \
     NULL::text AS phone, NULL::int AS salary, after FROM nasty ORDER BY id";

fn world() -> Result<World> {
    let options = Options { policy: Some(POLICY.into()), ..Options::default() };
    let world = World::with(&[("pci", "true")], options)?;
    world.server.psql_in("orders", NASTY)?;
    Ok(world)
}

fn direct(world: &World) -> Command {
    let mut command = world.command("psql");
    command.env("PGPORT", world.server.port().to_string()).env("PGUSER", "app");
    command
}

fn output(command: &mut Command, statement: &str) -> Result<(Vec<u8>, String)> {
    let output = command.args(["-X", "-q", "-v", "VERBOSITY=terse", "-c", statement]).output()?;
    Ok((output.stdout, String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_masked_copy_is_to_the_byte_what_the_server_writes_of_the_masks() -> Result<()> {
    let world = world()?;
    for options in [
        "",
        "WITH (FORMAT text)",
        "(DELIMITER '|')",
        "(DELIMITER ',', HEADER)",
        "(DELIMITER '*')",
        "(DELIMITER '[')",
        "(FORMAT csv)",
        "(FORMAT csv, HEADER)",
        "(FORMAT csv, FORCE_QUOTE *)",
        "(FORMAT csv, FORCE_QUOTE (ssn, after), HEADER true)",
        "(FORMAT csv, DELIMITER ';', QUOTE '''', ESCAPE '\\')",
        "(FORMAT csv, QUOTE '|', NULL 'NULL')",
        "(FORMAT csv, NULL 'N', DELIMITER '[')",
        "(FORMAT csv, QUOTE '*', ESCAPE '*')",
        "(FORMAT csv, ESCAPE 'x')",
        "CSV HEADER QUOTE AS '\"' FORCE QUOTE before, card",
        "WITH DELIMITER AS ';' NULL AS '\\N'",
        "(FORMAT binary)",
        "(ENCODING 'UTF8')",
    ] {
        let (expected, err) = output(&mut direct(&world), &format!("COPY ({MASKED}) TO STDOUT {options}"))?;
        ensure!(err.is_empty() && !expected.is_empty(), "{options}: {err}");
        for copied in [
            "nasty",
            "nasty (id, before, ssn, card, phone, salary, after)",
            "(SELECT id, before, ssn, card, phone, salary, after FROM nasty ORDER BY id)",
            "(SELECT n.id, n.before, s.ssn, card, phone, salary, after FROM nasty n JOIN (SELECT id, ssn FROM nasty) s USING (id) ORDER BY id)",
        ] {
            let statement = format!("COPY {copied} TO STDOUT {options}");
            let (got, err) = output(&mut world.command("psql"), &statement)?;
            ensure!(err.is_empty(), "{statement}: {err}");
            ensure!(
                got == expected,
                "{statement}:\n{}\ninstead of\n{}",
                String::from_utf8_lossy(&got),
                String::from_utf8_lossy(&expected)
            );
        }
    }
    // Another order, and columns without masks as they are.
    let (expected, _) = output(
        &mut direct(&world),
        "COPY (SELECT after, CASE WHEN ssn IS NOT NULL THEN '[redacted]' END, before FROM nasty ORDER BY id) TO STDOUT CSV",
    )?;
    let (got, err) = output(&mut world.command("psql"), "COPY nasty (after, ssn, before) TO STDOUT CSV")?;
    ensure!(got == expected, "{err} {}", String::from_utf8_lossy(&got));
    for clean in ["nasty (id, before, after)", "(SELECT loud, fixed, id FROM nasty ORDER BY id)"] {
        let statement = format!("COPY {clean} TO STDOUT");
        let (expected, _) = output(&mut direct(&world), &statement)?;
        let (got, err) = output(&mut world.command("psql"), &statement)?;
        ensure!(got == expected && !got.is_empty(), "{statement}: {err}");
    }
    // The record counts what was masked, and holds none of it.
    world.wait_for("the outcomes", |events| {
        events.iter().any(|event| {
            matches!(event, EventKind::Responded { outcome, .. }
                if outcome.masked_fields > 0 && matches!(&outcome.status, OutcomeStatus::Completed { tag } if tag.starts_with("COPY")))
        })
    })?;
    let record = format!("{:?}", world.recorder.events());
    ensure!(!record.contains("123-45-6789") && !record.contains("4111111111111111"));
    world.finish()?;
    Ok(())
}

/// Pieces of the values that a copy may not show.
fn is_raw(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    ["123-45-", "4111111111111", "3132332d34352d"].iter().any(|raw| text.contains(raw))
}

#[test]
fn what_cannot_be_told_is_refused() -> Result<()> {
    let world = world()?;
    world.server.psql_in(
        "orders",
        "CREATE TYPE two AS (a text, b text); ALTER TYPE two OWNER TO app; \
         CREATE TABLE none (); CREATE TABLE twice (a text, b text); INSERT INTO none DEFAULT VALUES; \
         INSERT INTO twice VALUES ('a', 'b'); ALTER TABLE none OWNER TO app; ALTER TABLE twice OWNER TO app; \
         CREATE FUNCTION f(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN $1; END $$;",
    )?;
    for statement in [
        "COPY (SELECT upper(ssn) FROM orders) TO STDOUT",
        "COPY (SELECT ssn || '' FROM orders) TO STDOUT",
        "COPY (SELECT o FROM orders o) TO STDOUT",
        "COPY (SELECT (o).ssn FROM orders o) TO STDOUT",
        "COPY (SELECT (o).* FROM orders o) TO STDOUT",
        "COPY (SELECT row_to_json(o) FROM orders o) TO STDOUT",
        "COPY (SELECT f(ssn) FROM orders) TO STDOUT",
        "COPY (SELECT ssn FROM orders UNION ALL SELECT note FROM orders) TO STDOUT",
        "COPY (SELECT DISTINCT ssn FROM orders) TO STDOUT",
        "COPY (SELECT id, ssn FROM orders ORDER BY ssn) TO STDOUT",
        "COPY (SELECT id, ssn FROM orders WHERE ssn LIKE '123%') TO STDOUT",
        "COPY (SELECT (n).*, ssn, (t).* FROM none n, orders, twice t) TO STDOUT",
        "COPY (SELECT (n).*, ssn || '', (t).* FROM none n, orders, twice t) TO STDOUT",
        "COPY (SELECT (NULL::two).*, ssn FROM orders) TO STDOUT",
        "COPY (WITH RECURSIVE w(ssn, n) AS (SELECT ssn, 1 FROM orders UNION ALL SELECT ssn, n + 1 FROM w WHERE n < 2) \
         SEARCH DEPTH FIRST BY ssn SET o SELECT o, ssn FROM w) TO STDOUT",
        "COPY (VALUES ((SELECT ssn FROM orders WHERE id = 1))) TO STDOUT",
        "COPY (UPDATE orders SET note = note WHERE id = 1 RETURNING ssn) TO STDOUT",
        "COPY (WITH u AS (UPDATE orders SET note = note WHERE id = 1 RETURNING ssn) SELECT ssn FROM u) TO STDOUT",
        "COPY orders TO STDOUT (ENCODING 'SJIS')",
        "COPY orders TO STDOUT (ENCODING 'GB18030', FORMAT csv)",
        "COPY orders TO STDOUT (FORMAT json)",
        "COPY orders TO '/tmp/lockgate-never'",
        "COPY orders TO PROGRAM 'cat'",
        "COPY (SELECT * FROM f('x'), orders) TO STDOUT",
        "COPY (SELECT x.*, ssn FROM orders, json_to_recordset('[{\"a\":1}]') AS x(a int)) TO STDOUT",
    ] {
        let (got, err) = output(&mut world.command("psql"), statement)?;
        ensure!(
            err.contains("lockgate: denied") && !is_raw(&got),
            "{statement}: {err} {}",
            String::from_utf8_lossy(&got)
        );
    }
    // The same without lockgate: most of them are no mistakes.
    let (got, err) = output(
        &mut direct(&world),
        "COPY (SELECT (n).*, ssn, (t).* FROM none n, orders, twice t) TO STDOUT",
    )?;
    ensure!(is_raw(&got), "{err}");
    // A NULL string that a value equals answers no question about the value.
    let of = |null: &str| format!("COPY (SELECT ssn FROM orders WHERE id = 7) TO STDOUT (NULL '{null}')");
    let (hit, _) = output(&mut world.command("psql"), &of("123-45-0007"))?;
    let (miss, _) = output(&mut world.command("psql"), &of("123-45-9999"))?;
    ensure!(
        hit == miss && hit == b"[redacted]\n",
        "{} {}",
        String::from_utf8_lossy(&hit),
        String::from_utf8_lossy(&miss)
    );
    world.finish()?;
    Ok(())
}

fn script(mut command: Command) -> Result<Child> {
    Ok(command
        .args(["-X", "-q", "-A", "-t"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

fn say(child: &mut Child, text: &str) -> Result<()> {
    let input = child.stdin.as_mut().context("piped")?;
    input.write_all(text.as_bytes())?;
    Ok(input.flush()?)
}

fn ended(child: Child) -> Result<Said> {
    let output = child.wait_with_output()?;
    Ok(Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}

/// Columns change places: one goes, another comes, and as many as before are copied.
const SHIFT: &str = "ALTER TABLE orders ADD COLUMN z text; ALTER TABLE orders DROP COLUMN id";

#[test]
fn columns_that_moved_are_not_shown_under_their_old_places() -> Result<()> {
    let world = world()?;
    // Inside the job's own transaction, where nobody else sees it; and by code that nobody reads.
    world.server.psql_in(
        "orders",
        "CREATE FUNCTION shift() RETURNS int LANGUAGE plpgsql AS $$ BEGIN ALTER TABLE orders ADD COLUMN z text; \
         ALTER TABLE orders DROP COLUMN id; RETURN 1; END $$",
    )?;
    for before in [
        SHIFT,
        "SELECT shift()",
        "DO $$ BEGIN PERFORM shift(); END $$",
        "SAVEPOINT s; SELECT shift(); RELEASE s",
        "CREATE TEMP TABLE orders (a text, ssn text, c text, d text); INSERT INTO orders SELECT ssn, '', '', '' FROM public.orders",
    ] {
        let statement = format!("BEGIN;\n{before};\nCOPY orders TO STDOUT;\nROLLBACK;\n");
        for text in [statement.clone(), statement.replace(";\n", "\\;")] {
            let mut child = script(world.command("psql"))?;
            say(&mut child, &format!("{text};\n"))?;
            let said = ended(child)?;
            ensure!(!is_raw(said.out.as_bytes()), "{text}: {said:?}");
        }
    }
    // Between the judgement and the copy, by somebody else: the copy waits for the lock and finds another table.
    let said = world.psql(&["-c", "COPY orders TO STDOUT"])?;
    ensure!(said.out.lines().count() == 50, "{said:?}");
    let mut other = script(direct(&world))?;
    say(&mut other, &format!("BEGIN; {SHIFT}; SELECT 'locked';\n"))?;
    let mut copy = None;
    for _ in 0..200 {
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock'";
        if world.server.psql_in("orders", locks)? == "1" {
            copy = Some(script({
                let mut command = world.command("psql");
                command.args(["-c", "COPY orders TO STDOUT"]);
                command
            })?);
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let copy = copy.context("the table was not locked")?;
    for _ in 0..200 {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'COPY orders%'";
        if world.server.psql_in("orders", waits)? == "1" {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    say(&mut other, "COMMIT;\n\\q\n")?;
    ended(other)?;
    let said = ended(copy)?;
    ensure!(!is_raw(said.out.as_bytes()), "{said:?}");
    ensure!(said.out.starts_with("[redacted]\t************1101\tn1\t\\N\n"), "{said:?}");
    world.finish()?;
    Ok(())
}

#[test]
fn a_cut_copy_fails_its_transaction_and_the_session_goes_on() -> Result<()> {
    let world = world()?;
    let mut child = script(world.command("psql"))?;
    say(
        &mut child,
        "BEGIN;\nCREATE TABLE made (a int);\nCOPY orders TO STDOUT;\nSELECT 'inside';\nCOMMIT;\nSELECT 'after', to_regclass('made');\nCOPY (SELECT id, ssn FROM orders WHERE id = 3) TO STDOUT;\n",
    )?;
    let said = ended(child)?;
    ensure!(said.err.contains("lockgate: denied COPY by rule mask-pii"), "{said:?}");
    ensure!(said.err.contains("current transaction is aborted") && !said.out.contains("inside"), "{said:?}");
    ensure!(said.out == "after|\n3\t[redacted]\n", "{said:?}");
    world.finish()?;
    Ok(())
}

#[test]
fn row_security_partitions_and_long_values_change_nothing() -> Result<()> {
    let world = world()?;
    world.server.psql_in(
        "orders",
        "SET ROLE app; \
         CREATE TABLE guarded (id int, g text GENERATED ALWAYS AS ('x') STORED, ssn text, note text); \
         INSERT INTO guarded VALUES (1, DEFAULT, '123-45-6789', 'n'); \
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; ALTER TABLE guarded FORCE ROW LEVEL SECURITY; \
         CREATE POLICY p ON guarded USING (true); \
         CREATE TABLE stem (id int, ssn text, note text) PARTITION BY LIST (id); \
         CREATE TABLE leaf (note text, junk int, ssn text, id int); ALTER TABLE leaf DROP COLUMN junk; \
         ALTER TABLE stem ATTACH PARTITION leaf FOR VALUES IN (1); \
         INSERT INTO stem VALUES (1, '123-45-6789', 'n'); \
         CREATE TABLE heavy (id int, before text, ssn text, card text, after text); \
         INSERT INTO heavy SELECT 1, repeat('b', 3000000), repeat('123-45-6789', 300000), repeat('4111111111111111', 200000), repeat('a', 3000000); \
         INSERT INTO heavy VALUES (2, 'b', '123-45-6789', '4111111111111111', 'a');",
    )?;
    // With row security the server copies a query, and that one may have the generated column.
    let (got, err) = output(&mut world.command("psql"), "COPY guarded TO STDOUT")?;
    let got = String::from_utf8_lossy(&got);
    ensure!(got == "1\t[redacted]\tn\n" || got == "1\tx\t[redacted]\tn\n", "{got} {err}");
    let (got, err) = output(&mut world.command("psql"), "COPY leaf TO STDOUT")?;
    ensure!(got == b"n\t[redacted]\t1\n", "{err}");
    let (got, err) = output(&mut world.command("psql"), "COPY (SELECT * FROM stem) TO STDOUT")?;
    ensure!(got == b"1\t[redacted]\tn\n", "{err}");
    for options in ["", "(FORMAT csv)", "(FORMAT binary)"] {
        let (got, err) = output(&mut world.command("psql"), &format!("COPY heavy TO STDOUT {options}"))?;
        ensure!(err.is_empty() && !is_raw(&got), "{options}: {err}");
        let count = |byte: u8| got.iter().filter(|found| **found == byte).count();
        // [redacted] has an a, "redacted" stands for both values that are too long to be held.
        ensure!(count(b'b') == 3_000_001 && count(b'a') >= 3_000_001, "{options}: {} bytes", got.len());
    }
    world.finish()?;
    Ok(())
}

#[test]
fn detectors_search_copies_as_they_search_rows() -> Result<()> {
    const DETECTING: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: detects }
rules:
- id: everything
  match: { sql: { class: [read, copy_out, session, transaction] } }
  effect: allow
- id: found
  match: {}
  effect: none
  mask: { detectors: [card_number, ssn, email] }
"#;
    let options = Options { policy: Some(DETECTING.into()), ..Options::default() };
    let world = World::with(&[], options)?;
    world.server.psql_in(
        "orders",
        "SET ROLE app; CREATE TABLE found (id bigint, note text, doc jsonb, tags text[], name text); \
         INSERT INTO found VALUES (4111111111111111, E'see ana@example.com,\\n\"ssn\" 123-45-6789', \
           '{\"mail\": \"bo@example.com\", \"n\": 1}', '{cy@example.com,x}', 'Ana'), (2, 'nothing', NULL, NULL, 'Bo')",
    )?;
    let shown = "COPY (SELECT id, replace(replace(note, 'ana@example.com', '[redacted:email]'), '123-45-6789', '[redacted:ssn]') AS note, \
         replace(doc::text, 'bo@example.com', '[redacted:email]')::jsonb AS doc, \
         replace(tags::text, 'cy@example.com', '[redacted:email]')::text[] AS tags, name FROM found ORDER BY id DESC) TO STDOUT";
    for options in ["", "(FORMAT csv, HEADER)", "(DELIMITER '@')", "(FORMAT binary)"] {
        let (expected, err) = output(&mut direct(&world), &format!("{shown} {options}"))?;
        ensure!(!expected.is_empty(), "{err}");
        let (got, err) = output(&mut world.command("psql"), &format!("COPY found TO STDOUT {options}"))?;
        ensure!(
            got == expected,
            "{options}: {err}\n{}\ninstead of\n{}",
            String::from_utf8_lossy(&got),
            String::from_utf8_lossy(&expected)
        );
    }
    world.finish()?;
    Ok(())
}

/// What a dump holds of one table: the lines of its COPY.
fn section<'a>(dump: &'a str, table: &str) -> Result<&'a str> {
    let start =
        dump.find(&format!("COPY public.{table} ")).with_context(|| format!("no {table} in {dump:.2000}"))?;
    let end = dump[start..].find("\\.\n").context("no end")?;
    Ok(&dump[start..start + end])
}

#[test]
fn a_dump_is_masked_where_columns_are_and_itself_elsewhere() -> Result<()> {
    let world = world()?;
    world
        .server
        .psql_in("orders", "SET ROLE app; CREATE TABLE clean AS SELECT id, before, after FROM nasty")?;
    for arguments in [&[][..], &["--inserts"], &["--column-inserts", "--rows-per-insert=5"]] {
        let dump = |mut command: Command| -> Result<String> {
            let output = command.args(arguments).output()?;
            ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let governed = dump(world.command("pg_dump"))?;
        let mut direct = world.command("pg_dump");
        direct.env("PGPORT", world.server.port().to_string()).env("PGUSER", "app");
        let direct = dump(direct)?;
        ensure!(is_raw(direct.as_bytes()) && governed.contains("[redacted]"), "{arguments:?}");
        ensure!(governed.contains("************1107"), "{arguments:?}: the last digits");
        if arguments.is_empty() {
            ensure!(governed.lines().count() == direct.lines().count(), "another number of lines");
            ensure!(section(&governed, "clean")? == section(&direct, "clean")?);
            let orders = section(&governed, "orders")?;
            ensure!(
                orders.contains("7\t[redacted]\t************1107\tn7\n") && !is_raw(orders.as_bytes()),
                "{orders}"
            );
        }
    }
    // In an archive, too.
    let dump = world.command("pg_dump").args(["-Fc", "--no-sync", "-f", "/dev/stdout"]).output()?;
    ensure!(
        dump.status.success() && dump.stdout.starts_with(b"PGDMP"),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );
    world.finish()?;
    Ok(())
}

/// psql in another encoding than UTF-8.
fn encoded(world: &World, encoding: &str, statement: &[u8]) -> Result<Said> {
    let mut command = world.command("psql");
    command.env("PGCLIENTENCODING", encoding);
    let mut child = script(command)?;
    child.stdin.as_mut().context("piped")?.write_all(statement)?;
    ended(child)
}

#[test]
fn other_client_encodings_are_opaque_and_masks_hold_in_them() -> Result<()> {
    // Allowed, they are the same as directly.
    let options = Options { policy: Some(POLICY.into()), ..Options::default() };
    let world = World::with(&[], options)?;
    for (encoding, text) in [
        ("LATIN1", &b"SELECT 'M\xfcller', upper('\xe9'), length('M\xfcller');\n"[..]),
        ("SJIS", b"SELECT '\x83\x5c\x83\x5c', length('\x83\x5c'), E'\x83\x5c';\n"),
        ("EUC_JP", b"SELECT '\xa5\xbd', length('\xa5\xbd'); SELECT '\x8e\xb1';\n"),
        ("GBK", b"SELECT '\xd6\xd0', length('\xd6\xd0');\n"),
        ("LATIN1", b"CREATE TABLE t (a text);\nCOPY t FROM STDIN;\n\xe9\n\xfc\n\\.\nSELECT * FROM t;\nCOPY t TO STDOUT;\nDROP TABLE t;\n"),
        ("WIN1252", b"BEGIN;\nSELECT '\x80';\nROLLBACK;\nSET client_encoding TO 'UTF8';\nSELECT '\xe2\x82\xac', 1;\n"),
        ("NO_SUCH", b"SELECT 1;\n"),
    ] {
        let governed = {
            let mut command = world.command("psql");
            command.env("PGCLIENTENCODING", encoding);
            let mut child = script(command)?;
            child.stdin.as_mut().context("piped")?.write_all(text)?;
            child.wait_with_output()?
        };
        let straight = {
            let mut command = direct(&world);
            command.env("PGCLIENTENCODING", encoding);
            let mut child = script(command)?;
            child.stdin.as_mut().context("piped")?.write_all(text)?;
            child.wait_with_output()?
        };
        ensure!(governed.stdout == straight.stdout, "{encoding}: {governed:?} instead of {straight:?}");
        ensure!(governed.status.code() == straight.status.code(), "{encoding}: {governed:?} instead of {straight:?}");
    }
    // What was set inside the session counts as well.
    let said = encoded(
        &world,
        "UTF8",
        b"SET client_encoding = 'LATIN1';\nSELECT '\xe9' = chr(233);\nRESET client_encoding;\nSELECT 1;\n",
    )?;
    ensure!(said.out == "t\n1\n" && said.err.is_empty(), "{said:?}");
    world.finish()?;

    // Masks hold: what cannot be judged is refused.
    let options = Options { policy: Some(POLICY.into()), ..Options::default() };
    let world = World::with(&[("pci", "true")], options)?;
    for encoding in ["LATIN1", "SJIS", "EUC_JP", "GBK", "BIG5", "UHC", "GB18030", "JOHAB"] {
        for text in [
            &b"SELECT ssn FROM orders;\n"[..],
            b"COPY orders TO STDOUT;\n",
            b"SELECT E'\x83\x5c', ssn, 'x' FROM orders;\n",
            b"SELECT E'\x95\x5c' || ssn FROM orders; --';\n",
            b"\\encoding UTF8\nSELECT ssn FROM orders LIMIT 1;\nCOPY orders TO STDOUT;\n",
        ] {
            let said = encoded(&world, encoding, text)?;
            ensure!(!is_raw(said.out.as_bytes()) && !is_raw(said.err.as_bytes()), "{encoding}: {said:?}");
        }
    }
    for text in [
        &b"SET client_encoding = 'SJIS';\nCOPY orders TO STDOUT;\n"[..],
        b"SELECT set_config('client_encoding', 'SJIS', false);\nCOPY orders TO STDOUT;\n",
        b"SET client_encoding = 'SJIS'\\; COPY orders TO STDOUT;\n",
        b"BEGIN;\nSET LOCAL client_encoding = 'GBK';\nCOPY orders TO STDOUT (FORMAT csv);\nCOMMIT;\n",
    ] {
        let said = encoded(&world, "UTF8", text)?;
        ensure!(!is_raw(said.out.as_bytes()), "{said:?}");
    }
    world.finish()?;

    // By default they are denied.
    let world = World::start(&[])?;
    let said = encoded(&world, "LATIN1", b"SELECT 1;\n")?;
    ensure!(said.err.contains("lockgate: denied") && said.out.is_empty(), "{said:?}");
    world.finish()?;
    Ok(())
}
