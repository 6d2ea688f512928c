//! Several hundred attempts to get a masked value out, under a policy that allows everything: masks must hold by
//! themselves. The same attempts are made directly too, to show that they are attempts; and everyday statements come
//! back byte for byte as they do without lockgate.
//!
//! Attempts are lines of `fixtures/leaks/attempts.sql`; the ways that the database's owner left open, views and functions
//! and triggers, are made by `fixtures/leaks/setup.sql`.

use crate::world::{CARD, SSN, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{self, Done, JOB_UID},
    postgres::TestPostgres,
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const SETUP: &str = include_str!("../../fixtures/leaks/setup.sql");
const ATTEMPTS: &str = include_str!("../../fixtures/leaks/attempts.sql");
const SETUP_DEEP: &str = include_str!("../../fixtures/leaks/setup_deep.sql");
const ATTEMPTS_DEEP: &str = include_str!("../../fixtures/leaks/attempts_deep.sql");
const SETUP_MORE: &str = include_str!("../../fixtures/leaks/setup_more.sql");
const ATTEMPTS_MORE: &str = include_str!("../../fixtures/leaks/attempts_more.sql");
const SETUP_DOCS: &str = include_str!("../../fixtures/leaks/setup_docs.sql");
const ATTEMPTS_DOCS: &str = include_str!("../../fixtures/leaks/attempts_docs.sql");
const EVERYDAY: &str = include_str!("../../fixtures/leaks/everyday.sql");
const EVERYDAY_DEEP: &str = include_str!("../../fixtures/leaks/everyday_deep.sql");

/// Everything passes, what is not understood too; only masks stand in the way.
const ALLOW_ALL: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: allow-all }
groups: { dba: { oidc: "groups:dba" } }
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
    - { match: "*.*.card_number", method: partial, keep_last: 4 }
"#;

/// A database as applications have one, and what they read from it.
const APPLICATION: &str = include_str!("../../fixtures/everyday/schema.sql");
const APPLICATION_READS: &str = include_str!("../../fixtures/everyday/reads.sql");

/// What shows in an answer that it is another session's, or another moment's, or may be refused.
const CHANGING: [&str; 16] = [
    "now()",
    "random",
    "uuid",
    "explain (analyze",
    "pg_stat_activity",
    "pg_locks",
    "oid",
    "version()",
    "gen_salt",
    "pg_database",
    "current_timestamp",
    "tablesample",
    "pg_total_relation_size",
    "idx_scan",
    // It is handed whole rows.
    "full_name",
    "server_addr",
];

/// What a statement of the last group says when its question about a value was answered.
const ANSWERED: &str = "hit!";

/// Where the everyday statements begin that are refused all the same.
const REFUSED_THOUGH_HARMLESS: &str = "-- # refused though harmless";

/// Fewer attempts than this would get the value directly only if the fixtures are broken.
const LEAK_DIRECTLY: usize = 250;
/// The same for attempts of several steps, of which many need the step before in a transaction of its own.
const LEAK_DIRECTLY_DEEP: usize = 250;
/// The same for copies, extensions and channels.
const LEAK_DIRECTLY_MORE: usize = 100;
/// The same for those along the manual, of which some are of newer servers.
const LEAK_DIRECTLY_DOCS: usize = 200;

async fn world(more: bool) -> Result<World> {
    World::with(ALLOW_ALL, |_, pg| {
        pg.psql_in("shop", SETUP).unwrap();
        pg.psql_in("shop", SETUP_DEEP).unwrap();
        if more {
            pg.psql_in("shop", SETUP_MORE).unwrap();
        }
        pg.psql("create database twin template shop owner app").unwrap();
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_leads_to_a_masked_value() -> Result<()> {
    attempt(ATTEMPTS, LEAK_DIRECTLY, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_of_several_steps_leads_to_a_masked_value() -> Result<()> {
    attempt(ATTEMPTS_DEEP, LEAK_DIRECTLY_DEEP, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_extension_or_channel_leads_to_a_masked_value() -> Result<()> {
    attempt(ATTEMPTS_MORE, LEAK_DIRECTLY_MORE, false).await
}

/// Without the implicit cast of the other worlds, which makes masks stricter about expressions.
#[tokio::test(flavor = "multi_thread")]
async fn no_chapter_of_the_manual_leads_to_a_masked_value() -> Result<()> {
    let world = World::with(ALLOW_ALL, |_, pg| {
        pg.psql_in("shop", SETUP).unwrap();
        pg.psql_in("shop", &SETUP_DOCS.replace("{port}", &pg.port().to_string())).unwrap();
        pg.psql("create database twin template shop owner app").unwrap();
    })
    .await?;
    attempt_in(&world, ATTEMPTS_DOCS, LEAK_DIRECTLY_DOCS).await
}

/// Makes all attempts in a world with everything in it; an implicit cast to a type of the owner's makes masks stricter about
/// every expression, so most go without.
async fn attempt(attempts: &str, leak_directly: usize, casts: bool) -> Result<()> {
    let world = world(true).await?;
    if !casts {
        world.pg.psql_in("shop", "drop cast (text as wrapped)")?;
        world.pg.psql_in("twin", "drop cast (text as wrapped)")?;
    }
    attempt_in(&world, attempts, leak_directly).await
}

/// Makes all attempts, governed and directly; none may leak governed, and so many at least must directly.
async fn attempt_in(world: &World, attempts: &str, leak_directly: usize) -> Result<()> {
    let needles = Needles::new(&world.pg)?;
    let attempts = lines(attempts);

    let file = world.agent.scratch().write("attempts.sql", &script(&attempts, ""))?.display().to_string();
    let port = world.pg.port().to_string();
    let command = ["psql", "-X", "-A", "-h", "127.0.0.1", "-p", &port, "-U", "x", "-d", "shop", "-f", &file];
    let governed = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
    let leaks = found(&needles, &attempts, &governed)?;

    // Directly, each in a transaction that is taken back, so that one does not spoil the next.
    let alone = "\\set AUTOCOMMIT off\n\\set ON_ERROR_ROLLBACK on\n";
    let file = world.agent.scratch().write("direct.sql", &script(&attempts, alone))?.display().to_string();
    let command =
        ["psql", "-X", "-A", "-h", "127.0.0.1", "-p", &port, "-U", "app", "-d", "twin", "-f", &file];
    let direct = job::run(job::ungoverned(JOB_UID, &[("PGPASSWORD", "app-secret")], &command)).await?;
    let real = found(&needles, &attempts, &direct)?;

    ensure!(leaks.is_empty(), "{} attempts leak:\n{}", leaks.len(), leaks.join("\n"));
    println!("{} of {} attempts leak directly, none governed", real.len(), attempts.len());
    ensure!(real.len() >= leak_directly, "only {} of {} leak directly", real.len(), attempts.len());

    nothing_rests(world, &needles)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_binary_result_holds_a_masked_value() -> Result<()> {
    let world = world(false).await?;
    let needles = Needles::new(&world.pg)?;
    let helper = lockgate_tests::agent::built_binary("lockgate-binary-client")?;
    let copied = world.agent.scratch().path().join("binary-client");
    std::fs::copy(&helper, &copied)?;
    let (copied, port) = (copied.display().to_string(), world.pg.port().to_string());
    for statement in [
        "select ssn from customers where id = $1",
        "select id, ssn || '' as x from customers where id = $1",
        "select get_ssn($1)",
        "select (c).ssn from customers c where id = $1",
        "select harmless from v_plain where id = $1",
        "select kept from mv_made where id = $1",
        "with u as (update customers set name = name where id = $1 returning ssn) select ssn || '!' from u",
        "select shout($1)",
        "select fail($1)",
        "select ssn::int from customers where id = $1",
    ] {
        let command = [copied.as_str(), "127.0.0.1", &port, "shop", statement];
        let done = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
        for text in [&done.stdout, &done.stderr] {
            ensure!(needles.first_in(text).is_none(), "{statement} leaks: {done:?}");
        }
    }
    nothing_rests(&world, &needles)
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_statements_are_untouched() -> Result<()> {
    let different = compare(EVERYDAY, &[], false).await?;
    ensure!(different.is_empty(), "{} statements differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_statements_differ_in_masked_fields_alone() -> Result<()> {
    let (whole, refused) =
        EVERYDAY_DEEP.split_once(REFUSED_THOUGH_HARMLESS).context("the part of what is refused")?;
    let (_title, refused) = refused.split_once('\n').context("statements that are refused")?;
    ensure!(lines(whole).len() >= 300, "{} everyday statements", lines(whole).len());
    let different = compare(whole, &["-A"], false).await?;
    ensure!(different.is_empty(), "{} statements differ:\n{}", different.len(), different.join("\n"));
    let (harmless, all) = (lines(refused).len(), lines(EVERYDAY_DEEP).len());
    println!("{harmless} of {all} everyday statements are refused though they are harmless");
    // One in a hundred.
    ensure!(harmless * 100 <= all, "{harmless} of {all} everyday statements are refused");
    // The count is true: whatever is no longer refused moves to the others.
    let passed: Vec<&str> = {
        let different = compare(refused, &["-A"], false).await?;
        lines(refused).into_iter().filter(|line| !different.iter().any(|one| one.starts_with(line))).collect()
    };
    ensure!(passed.is_empty(), "not refused any more: {passed:?}");
    Ok(())
}

/// Extensions bring operators and functions with everyday names into `public`.
#[tokio::test(flavor = "multi_thread")]
async fn everyday_statements_are_untouched_beside_extensions() -> Result<()> {
    let different = compare(EVERYDAY, &[], true).await?;
    ensure!(different.is_empty(), "{} statements differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// The same for the longer list, tools' questions among them.
#[tokio::test(flavor = "multi_thread")]
async fn everyday_statements_differ_in_masked_fields_alone_beside_extensions() -> Result<()> {
    let (whole, _refused) =
        EVERYDAY_DEEP.split_once(REFUSED_THOUGH_HARMLESS).context("the part of what is refused")?;
    let different = compare(whole, &["-A"], true).await?;
    ensure!(different.is_empty(), "{} statements differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// An extension in the database makes no plain read something else.
#[tokio::test(flavor = "multi_thread")]
async fn everyday_statements_are_judged_alike_beside_extensions() -> Result<()> {
    let alone = classes(false).await?;
    ensure!(alone.values().filter(|class| *class == "read").count() >= 150, "too few reads: {alone:?}");
    let beside = classes(true).await?;
    let differ = |(text, class): &(&String, &String)| beside.get(*text).is_some_and(|other| other != *class);
    let different: Vec<_> =
        alone.iter().filter(differ).map(|(text, class)| format!("{class}: {text}")).collect();
    ensure!(different.is_empty(), "{} are judged otherwise:\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// How each everyday statement that only reads its own tables is classed, by its text as recorded.
async fn classes(extensions: bool) -> Result<BTreeMap<String, String>> {
    let world = world(extensions).await?;
    world.pg.psql_in("shop", "drop cast (text as wrapped)")?;
    let (whole, _refused) =
        EVERYDAY_DEEP.split_once(REFUSED_THOUGH_HARMLESS).context("the part of what is refused")?;
    let statements: Vec<&str> = lines(whole).into_iter().chain(lines(EVERYDAY)).collect();
    let file = world.agent.scratch().write("everyday.sql", &script(&statements, ""))?.display().to_string();
    let port = world.pg.port().to_string();
    let command = [
        "psql",
        "-X",
        "-h",
        "127.0.0.1",
        "-p",
        port.as_str(),
        "-U",
        "app",
        "-d",
        "shop",
        "-f",
        file.as_str(),
    ];
    job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
    world.recorded("session_ended", 1).await?;
    let class = |event: &serde_json::Value| {
        let operation = &event["data"]["operation"];
        let text = operation["text"].as_str()?.to_owned();
        Some((text, operation["facts"]["sql"]["class"].as_str()?.to_owned()))
    };
    Ok(world.events("operation_decided")?.iter().filter_map(class).collect())
}

/// What applications read from a database like theirs comes back whole where one column that they leave alone is masked.
#[tokio::test(flavor = "multi_thread")]
async fn what_applications_read_comes_back_whole() -> Result<()> {
    let policy = ALLOW_ALL.replace("*.*.ssn", "*.users.password");
    let world = World::with(&policy, |_, pg| {
        let extension = "CREATE EXTENSION pg_stat_statements;";
        pg.psql_in("shop", &APPLICATION.replace(extension, "")).unwrap();
        let grants = "GRANT USAGE ON SCHEMA app TO app; GRANT SELECT ON ALL TABLES IN SCHEMA app TO app; \
                      ALTER DATABASE shop SET search_path = app, public";
        pg.psql_in("shop", grants).unwrap();
        pg.psql("create database twin template shop owner app").unwrap();
        pg.psql("ALTER DATABASE twin SET search_path = app, public").unwrap();
    })
    .await?;
    let told = |line: &&str| !CHANGING.iter().any(|word| line.to_lowercase().contains(word));
    let statements: Vec<String> =
        lines(APPLICATION_READS).into_iter().filter(told).map(|line| format!("{line};")).collect();
    ensure!(statements.len() >= 70, "{} statements", statements.len());
    let different = differing(&world, &statements.join("\n"), &["-A"]).await?;
    ensure!(different.is_empty(), "{} statements differ:\n{}", different.len(), different.join("\n"));
    Ok(())
}

/// Runs statements governed and directly; answers those whose output differs in anything but masked fields.
async fn compare(text: &str, flags: &[&str], extensions: bool) -> Result<Vec<String>> {
    let world = world(extensions).await?;
    prepare(&world, extensions)?;
    differing(&world, text, flags).await
}

/// Takes from both databases what makes an everyday statement one in doubt.
fn prepare(world: &World, extensions: bool) -> Result<()> {
    // Where an implicit cast runs the owner's code, any expression over several types may.
    world.pg.psql_in("shop", "drop cast (text as wrapped)")?;
    world.pg.psql_in("twin", "drop cast (text as wrapped)")?;
    if extensions {
        // It puts a masked value into a setting, after which nothing about settings is everyday.
        world.pg.psql_in("shop", "drop function keep_setting()")?;
        world.pg.psql_in("twin", "drop function keep_setting()")?;
    }
    Ok(())
}

/// Runs statements governed in the shop and directly in its twin; answers those whose output differs in anything but masked
/// fields.
async fn differing(world: &World, text: &str, flags: &[&str]) -> Result<Vec<String>> {
    let statements = lines(text);
    let text = script(&statements, "");
    let file = world.agent.scratch().write("everyday.sql", &text)?.display().to_string();
    let port = world.pg.port().to_string();
    let mut command =
        vec!["psql", "-X", "-h", "127.0.0.1", "-p", port.as_str(), "-U", "app", "-d", "shop", "-f"];
    command.push(&file);
    command.extend(flags);
    let governed = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
    // The twin takes the name, since some answers quote it.
    for (from, to) in [("shop", "spent"), ("twin", "shop"), ("spent", "twin")] {
        rename_database(&world.pg, from, to).await?;
    }
    let secret = [("PGPASSWORD", "app-secret")];
    let direct = job::run(job::ungoverned(JOB_UID, &secret, &command)).await?;
    let mut different = Vec::new();
    let pairs = answers(&governed, statements.len())?.into_iter().zip(answers(&direct, statements.len())?);
    for (statement, (governed, direct)) in statements.iter().zip(pairs) {
        let masked = (unnumbered(&masked(&direct.0)), unnumbered(&masked(&direct.1)));
        let governed = (unnumbered(&governed.0), unnumbered(&governed.1));
        if governed != masked {
            different.push(format!("{statement}\n  direct:   {direct:?}\n  governed: {governed:?}"));
        }
    }
    Ok(different)
}

/// What the policy makes of the shop's masked values.
fn masked(text: &str) -> String {
    [
        (SSN, "[redacted]"),
        ("987-65-4321", "[redacted]"),
        (CARD, "************1111"),
        ("5500000000000004", "************0004"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (raw, masked)| text.replace(raw, masked))
}

/// Without the numbers of temporary schemas, since PostgreSQL 17 a session has whichever is free (`pg_temp_27`), and then
/// without the width that they give to a table's column.
fn unnumbered(text: &str) -> String {
    const NUMBERED: &str = "pg_temp_";
    if !text.contains(NUMBERED) {
        return text.to_owned();
    }
    let mut parts = text.split(NUMBERED);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(NUMBERED);
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    let mut last = None;
    out.retain(|c| {
        let again = matches!(c, ' ' | '-') && last == Some(c);
        last = Some(c);
        !again
    });
    out
}

/// Waits for lockgate's own connections to end: they keep a database from being renamed.
async fn rename_database(pg: &TestPostgres, from: &str, to: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match pg.psql(&format!("alter database {from} rename to {to}")) {
            Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
            done => return done.map(drop),
        }
    }
}

/// The statements of a fixture: one a line.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with("--")).collect()
}

/// A psql script that marks where each statement's output begins, on both channels.
fn script(statements: &[&str], before: &str) -> String {
    let mut script = before.to_owned();
    for (number, statement) in statements.iter().enumerate() {
        script.push_str(&format!("\\echo @@{number}@\n\\warn @@{number}@\n{statement}\n"));
        if !before.is_empty() {
            script.push_str("rollback;\n");
        }
    }
    script.push_str("\\echo @@end@\n\\warn @@end@\n");
    script
}

/// What each statement printed, on standard output and standard error.
fn answers(done: &Done, count: usize) -> Result<Vec<(String, String)>> {
    let split = |text: &str| -> Result<Vec<String>> {
        let parts: Vec<String> = (0..count)
            .map(|number| {
                let next = if number + 1 == count { "end".to_owned() } else { (number + 1).to_string() };
                let (_, rest) = text.split_once(&format!("@@{number}@\n"))?;
                Some(rest.split_once(&format!("@@{next}@\n"))?.0.to_owned())
            })
            .map_while(|part| part)
            .collect();
        ensure!(parts.len() == count, "psql stopped after {} of {count}: {done:?}", parts.len());
        Ok(parts)
    };
    // psql numbers the lines of its script in messages; they are the same in both runs.
    Ok(split(&done.stdout)?.into_iter().zip(split(&done.stderr)?).collect())
}

/// The attempts that got something, with what and where.
fn found(needles: &Needles, attempts: &[&str], done: &Done) -> Result<Vec<String>> {
    let mut leaks = Vec::new();
    for (attempt, (out, err)) in attempts.iter().zip(answers(done, attempts.len())?) {
        let both = [("rows", &out), ("messages", &err)].into_iter();
        let leak = both.filter_map(|(channel, text)| {
            let answered = text.contains(ANSWERED).then_some(ANSWERED);
            Some((channel, needles.first_in(text).or(answered)?, text))
        });
        if let Some((channel, needle, text)) = leak.min_by_key(|(channel, ..)| *channel != "rows") {
            leaks.push(format!("{attempt}\n  by {channel}, {needle:?}: {text:.300}"));
        }
    }
    Ok(leaks)
}

/// Neither the log, nor what the agent said, nor a notification holds a value.
fn nothing_rests(world: &World, needles: &Needles) -> Result<()> {
    for mut event in world.agent.events()? {
        forget_lockgate_s_own(&mut event);
        let text = event.to_string();
        ensure!(needles.raw_in(&text).is_none(), "{:?} is in the record: {text}", needles.raw_in(&text));
    }
    let log = world.agent.log();
    ensure!(needles.raw_in(&log).is_none(), "{:?} is in the agent's log", needles.raw_in(&log));
    for delivery in world.receiver.deliveries() {
        let mut event = delivery.event.clone();
        forget_lockgate_s_own(&mut event);
        let text = event.to_string();
        ensure!(needles.raw_in(&text).is_none(), "a raw value is in a notification: {text}");
    }
    Ok(())
}

/// Takes times, hashes and the kernel's numbers out of a record: among thousands one holds six of any digits sooner or
/// later.
fn forget_lockgate_s_own(value: &mut serde_json::Value) {
    const NUMBERS: [&str; 5] = ["seq", "start_boottime_ns", "socket_cookie", "netns_cookie", "cgroup_id"];
    let made = |text: &str| {
        let hash = text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        // A hash of nothing but decimal digits does not come up; a number of a card is nothing else.
        let hash = hash && text.bytes().any(|byte| byte.is_ascii_lowercase());
        hash || text.parse::<lockgate_model::Timestamp>().is_ok()
    };
    match value {
        serde_json::Value::String(text) if made(text) => text.clear(),
        serde_json::Value::Array(values) => values.iter_mut().for_each(forget_lockgate_s_own),
        serde_json::Value::Object(members) => {
            members.retain(|name, _| !NUMBERS.contains(&name.as_str()));
            members.values_mut().for_each(forget_lockgate_s_own);
        }
        _ => {}
    }
}

/// The values in the forms that attempts bring them out in.
struct Needles {
    /// As they are, reversed, in hexadecimal, in base64, hashed; pieces of six characters.
    texts: Vec<String>,
    /// Letters and digits alone: found in output without its punctuation and line ends.
    squeezed: Vec<String>,
    /// Character codes, with commas between.
    codes: Vec<String>,
}

impl Needles {
    fn new(pg: &TestPostgres) -> Result<Self> {
        let (mut texts, mut squeezed, mut codes) = (Vec::new(), Vec::new(), Vec::new());
        for value in [SSN, CARD] {
            let reversed: String = value.chars().rev().collect();
            for text in [value, reversed.as_str()] {
                let bytes = text.as_bytes();
                for piece in bytes.windows(6) {
                    let piece = std::str::from_utf8(piece).context("an ASCII value")?;
                    texts.extend([piece.to_owned(), hex::encode(piece)]);
                    codes.push(piece.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(","));
                }
                squeezed.push(text.replace('-', ""));
            }
            let query = format!(
                "select md5(v) || ' ' || encode(sha256(v::bytea), 'hex') || ' ' || encode(v::bytea, 'base64') from (select '{value}'::text as v) x"
            );
            texts.extend(pg.psql(&query)?.split(' ').map(|form| form.trim_end_matches('=').to_owned()));
        }
        texts.retain(|text| text.len() >= 6);
        Ok(Self { texts, squeezed, codes })
    }

    /// The value itself or a piece of it.
    fn raw_in(&self, text: &str) -> Option<&str> {
        self.texts.iter().map(String::as_str).find(|needle| {
            text.match_indices(needle).any(|(at, _)| !(is_monotone(needle) && in_fraction(text, at)))
        })
    }

    /// The same in any form.
    fn first_in(&self, text: &str) -> Option<&str> {
        let bare: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
        let listed = text
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(",");
        let within =
            |needles: &'_ Vec<String>, text: &str| needles.iter().position(|needle| text.contains(needle));
        self.raw_in(text)
            .or_else(|| {
                within(&self.squeezed, &bare).and_then(|at| self.squeezed.get(at)).map(String::as_str)
            })
            .or_else(|| within(&self.codes, &listed).and_then(|at| self.codes.get(at)).map(String::as_str))
    }
}

/// One digit, again and again: the end of the card is.
fn is_monotone(needle: &str) -> bool {
    needle.bytes().all(|byte| byte.is_ascii_digit() && Some(byte) == needle.bytes().next())
}

/// Whether this is within the digits of a number between 0 and 1: a ninth, as a frequency, is 0.11111111.
fn in_fraction(text: &str, at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit());
    before.strip_suffix("0.").is_some_and(|whole| !whole.ends_with(|c: char| c.is_ascii_digit()))
}
