//! Is what PostgreSQL's own regression suite reads called a read, and nothing else? It replays the statements of a run of
//! the suite, as the server logged them, in their sessions and in order, on a fresh cluster, and asks lockgate before each
//! what it is, with the catalogue of that moment at hand.
//!
//! What is a plain read the server says: a statement that begins with SELECT, VALUES, TABLE, WITH, EXPLAIN, SHOW or FETCH,
//! runs in a read-only transaction without an error, and names nothing of [`BESIDES`], which a read-only transaction lets
//! through although it is no mere read. Over-judged is what of those lockgate calls more than a read. Under-judged is what
//! it calls a read and the server refuses as a write; one of those fails the run.
//!
//! All of them count; a table at the end says why.
//!
//! `cargo xtask regress --judged` drives it. By hand, with the jsonlog of a run whose data files are still where they
//! were: `cargo test -p lockgate-tests --test regress_judged -- LOG`.

use anyhow::{Context, Result, bail};
use lockgate_inspect::sql::{Control, Inspector, Script, SessionState};
use lockgate_model::{
    addr::UpstreamAddr,
    sql::{SqlClass, SqlEffect},
};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_tests::{
    postgres::{PostgresOptions, TestPostgres},
    regress::Suite,
    scratch::Scratch,
};
use lockgate_wire::postgres::PgString;
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, NoTls, error::SqlState};

/// The suite's database.
const DATABASE: &str = "regression";

/// No statement of the suite takes long; what waits for another session would wait forever.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// At most this share of the plain reads may be called more than a read.
const PERCENT: f64 = 3.0;

/// What a read-only transaction does not refuse although it is more than a read: row locks of its own temporary tables,
/// settings, signals, advisory locks, sleeping, large objects, statistics, snapshots, logging.
const BESIDES: &[&str] = &[
    "for update",
    "for share",
    "for no key update",
    "for key share",
    "set_config",
    "nextval",
    "setval",
    "advisory",
    "pg_notify",
    "pg_sleep",
    "lo_",
    "loread",
    "lowrite",
    "pg_stat_reset",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_reload_conf",
    "pg_export_snapshot",
    "txid_current()",
    "pg_current_xact_id()",
    "pg_log_backend",
    "setseed",
    "pg_rotate_logfile",
    "pg_create_",
    "pg_drop_",
    "pg_replication_origin",
    "pg_logical",
    "pg_switch_wal",
    "pg_read_",
    "pg_ls_",
    "pg_stat_file",
    "pg_stat_force",
    "_to_xml",
    "pg_stat_clear_snapshot",
    "pg_import",
    "brin_",
    "gin_clean",
    "pg_backup",
    "pg_promote",
    "pg_wal_replay",
    "binary_upgrade",
    "ts_stat",
    "ts_rewrite",
    "dblink",
    "pg_current_logfile",
    "pg_hba_file",
    "pg_ident_file",
    "pg_show_all_file",
    "pg_copy_",
    "insert into",
    "update ",
    "delete from",
    "merge into",
    "create table",
    "create temp",
    "create materialized",
    "into temp",
    "savepoint",
    "begin",
    "currtid",
];

/// One logged statement.
#[derive(serde::Deserialize)]
struct Line {
    message: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    dbname: String,
    session_id: String,
    #[serde(default)]
    application_name: String,
}

struct Session {
    user: String,
    test: String,
    statements: Vec<String>,
}

/// A plain read that is judged more.
struct Over {
    test: String,
    judgement: String,
    reason: &'static str,
    text: String,
}

#[derive(Default)]
struct Tally {
    statements: usize,
    reads: usize,
    over: Vec<Over>,
    under: Vec<(String, String)>,
}

fn main() -> Result<()> {
    let log = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let home = Scratch::new("judged")?;
    let log = match log {
        Some(path) => std::fs::read_to_string(&path).with_context(|| path)?,
        None => {
            let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("pg-regress");
            Suite::fetch(&cache)?.logged(home.path())?
        }
    };
    let sessions = sessions(&log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(16 << 20)
        .enable_all()
        .build()?;
    // The main task runs on this thread: it needs as deep a stack as the workers have.
    let tally = runtime.block_on(async { tokio::spawn(replay(sessions)).await? })?;
    report(&tally)
}

/// The sessions of the suite's database, in the order in which they began.
fn sessions(log: &str) -> Result<Vec<Session>> {
    let mut order: Vec<Session> = Vec::new();
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
        let Some(text) = line.message.strip_prefix("statement: ") else { continue };
        if line.dbname != DATABASE {
            continue;
        }
        let index = *by_id.entry(line.session_id).or_insert_with(|| {
            let test = line.application_name.trim_start_matches("pg_regress/").to_owned();
            order.push(Session { user: line.user, test, statements: Vec::new() });
            order.len() - 1
        });
        order[index].statements.push(text.to_owned());
    }
    if order.is_empty() {
        bail!("the log holds no statement of the database {DATABASE}");
    }
    Ok(order)
}

async fn replay(sessions: Vec<Session>) -> Result<Tally> {
    let server = TestPostgres::start(PostgresOptions::new())?;
    server.psql(&format!("CREATE DATABASE {DATABASE} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"))?;
    for name in ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"] {
        server.psql(&format!("ALTER DATABASE {DATABASE} SET {name} TO 'C'"))?;
    }
    server.psql(&format!("ALTER DATABASE {DATABASE} SET bytea_output TO 'hex'"))?;
    server.psql(&format!("ALTER DATABASE {DATABASE} SET timezone_abbreviations TO 'Default'"))?;
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
    let catalogue =
        Catalogue::new(endpoint, Credential::trusted("postgres"), PgString::from_static(DATABASE));
    let mut tally = Tally::default();
    let began = Instant::now();
    let all = sessions.len();
    for (index, session) in sessions.into_iter().enumerate() {
        let test = session.test.clone();
        if let Err(error) = one_session(&server, &catalogue, session, &mut tally).await {
            println!("{test}: {error:#}");
        }
        // Who waits sees that it goes on, and what it has come to when it is cut off.
        println!(
            "{} of {all} sessions ({test}), {} statements, {} plain reads, {} over-judged, {} under-judged, {:.0} s",
            index + 1,
            tally.statements,
            tally.reads,
            tally.over.len(),
            tally.under.len(),
            began.elapsed().as_secs_f64()
        );
    }
    println!("replayed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(tally)
}

async fn one_session(
    server: &TestPostgres,
    catalogue: &Catalogue,
    session: Session,
    tally: &mut Tally,
) -> Result<()> {
    let settings = format!(
        "host=127.0.0.1 port={} dbname={DATABASE} user={} options='-c timezone=PST8PDT -c datestyle=Postgres,MDY -c lock_timeout=500'",
        server.port(),
        session.user
    );
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
    let connection = tokio::spawn(connection);
    let mut state = SessionState::default();
    state.parameter_status("server_version", "15.18");
    state.parameter_status("standard_conforming_strings", "on");
    let (mut block, mut failed) = (false, false);
    for text in &session.statements {
        let lower = text.to_ascii_lowercase();
        if lower.contains("from stdin") || lower.contains("to stdout") {
            continue;
        }
        tally.statements += 1;
        let reads = is_candidate(&lower) && !BESIDES.iter().any(|word| lower.contains(word));
        let snapshot = if reads { Some(catalogue.load().await?) } else { catalogue.fresh() };
        let script = Inspector.script(text, &state, snapshot.as_deref());
        if reads && !failed {
            let truth = runs_read_only(&client, text, block).await?;
            if truth == Truth::Reads {
                tally.reads += 1;
                if !matches!(script.class(), SqlClass::Read) {
                    let why = script
                        .statements
                        .iter()
                        .map(|one| {
                            let facts = one.sql();
                            format!(
                                "{} {:?} {}",
                                facts.class,
                                facts.effects,
                                facts.opaque_reason.clone().unwrap_or_default()
                            )
                        })
                        .collect::<Vec<_>>()
                        .join("; ");
                    let reason = reason(server, &script, state.makes_doubt())?;
                    tally.over.push(Over {
                        test: session.test.clone(),
                        judgement: why,
                        reason,
                        text: text.clone(),
                    });
                }
            } else if truth == Truth::Writes && script.class() == SqlClass::Read {
                tally.under.push((session.test.clone(), text.clone()));
            }
        }
        let outcome = tokio::time::timeout(STATEMENT_LIMIT, client.simple_query(text)).await;
        let done = matches!(outcome, Ok(Ok(_)));
        if client.is_closed() {
            break;
        }
        if done {
            for statement in &script.statements {
                match statement.control {
                    Control::Begin => (block, failed) = (true, false),
                    Control::Commit { chain } | Control::Rollback { chain } => {
                        (block, failed) = (chain, false)
                    }
                    Control::RollbackTo => failed = false,
                    _ => {}
                }
                state.apply(statement);
                let facts = statement.sql();
                let changes =
                    matches!(
                        facts.class,
                        SqlClass::Ddl | SqlClass::Admin | SqlClass::Call | SqlClass::Opaque
                    ) || [SqlEffect::ChangesSchema, SqlEffect::DynamicSql, SqlEffect::UnknownFunction]
                        .iter()
                        .any(|effect| facts.effects.contains(effect));
                if changes {
                    catalogue.outdated();
                }
            }
        } else {
            failed = block;
        }
        if !block {
            if state.makes_doubt() {
                catalogue.outdated();
            }
            state.made_is_known();
        }
    }
    drop(client);
    let _ = connection.await;
    Ok(())
}

/// Why a plain read is judged more, as far as the database's own functions that it calls tell.
fn reason(server: &TestPostgres, script: &Script, in_doubt: bool) -> Result<&'static str> {
    if in_doubt {
        return Ok("beside something that its own transaction made");
    }
    if script.class() == SqlClass::Opaque {
        return Ok("not understood, or a cursor that is not known");
    }
    let names: Vec<String> = script
        .statements
        .iter()
        .flat_map(|one| &one.sql().functions)
        .map(|name| format!("'{}'", name.rsplit('.').next().unwrap_or_default().replace('\'', "''")))
        .chain(["''".to_owned()])
        .collect();
    let of = |condition: &str| -> Result<bool> {
        let query = format!(
            "SELECT count(*) FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang WHERE p.oid >= 16384 \
             AND p.proname IN ({}) AND {condition}",
            names.join(", ")
        );
        Ok(server.psql_in(DATABASE, &query)? != "0")
    };
    for (condition, reason) in [
        ("l.lanname = 'c'", "calls code in C"),
        ("p.prosrc ~* '\\yexecute\\y'", "calls code that runs text"),
        (
            "p.prosrc ~* '\\y(nextval|setval|set_config|lo_.*|insert|update|delete|create|drop|set)\\y'",
            "calls code that would write, or change a setting",
        ),
        ("p.prosrc ~* '\\y(explain|analyze)\\y'", "calls code that explains"),
        ("p.prosrc ~* '\\y(open|fetch|move|close)\\y'", "calls code with cursors"),
        ("true", "calls other code of the database's own"),
    ] {
        if of(condition)? {
            return Ok(reason);
        }
    }
    Ok(match script.statements.iter().any(|one| one.sql().effects.contains(&SqlEffect::Locks)) {
        true => "locks rows",
        false => "reads a view, a type or an operator of which one of those is true",
    })
}

fn is_candidate(lower: &str) -> bool {
    let mut text = lower.trim_start();
    loop {
        if let Some(rest) = text.strip_prefix("--") {
            text = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
        } else if let Some(rest) = text.strip_prefix("/*") {
            text = rest.split_once("*/").map_or("", |(_, rest)| rest).trim_start();
        } else {
            break;
        }
    }
    let word: String =
        text.trim_start_matches('(').trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
    matches!(word.as_str(), "select" | "values" | "table" | "with" | "explain" | "show" | "fetch")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Reads,
    Writes,
    Fails,
}

/// What the server says when it may only read. Nothing of it remains.
async fn runs_read_only(client: &Client, text: &str, block: bool) -> Result<Truth> {
    let (begin, end) = match block {
        true => (
            "SAVEPOINT lockgate_truth; SET LOCAL transaction_read_only = on",
            "ROLLBACK TO SAVEPOINT lockgate_truth; RELEASE SAVEPOINT lockgate_truth",
        ),
        false => ("BEGIN READ ONLY", "ROLLBACK"),
    };
    if client.batch_execute(begin).await.is_err() {
        return Ok(Truth::Fails);
    }
    let outcome = tokio::time::timeout(STATEMENT_LIMIT, client.simple_query(text)).await;
    let truth = match &outcome {
        Ok(Ok(_)) => Truth::Reads,
        Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Truth::Writes,
        Ok(Err(_)) | Err(_) => Truth::Fails,
    };
    if !client.is_closed() {
        client.batch_execute(end).await.context("end the read-only transaction")?;
    }
    Ok(truth)
}

fn report(tally: &Tally) -> Result<()> {
    let (mut per_test, mut per_reason) = (BTreeMap::<&str, usize>::new(), BTreeMap::<&str, usize>::new());
    let mut out = String::new();
    for Over { test, judgement, reason, text } in &tally.over {
        *per_test.entry(test).or_default() += 1;
        *per_reason.entry(reason).or_default() += 1;
        writeln!(out, "{test}: {judgement} [{reason}]\n    {}", text.replace('\n', " "))?;
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("over-judged.txt");
    std::fs::write(&path, out)?;
    let share = 100.0 * tally.over.len() as f64 / tally.reads.max(1) as f64;
    println!(
        "{} statements, {} plain reads, {} of them judged more than a read ({share:.2} %, {PERCENT} % allowed), {} judged \
         less than they are",
        tally.statements,
        tally.reads,
        tally.over.len(),
        tally.under.len()
    );
    for (reason, count) in per_reason {
        println!("  {count:4} {reason}");
    }
    let mut most: Vec<_> = per_test.into_iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    println!(
        "most over-judged: {:?}\nall of them: {}",
        most.iter().take(12).collect::<Vec<_>>(),
        path.display()
    );
    for (test, text) in &tally.under {
        println!("UNDER-JUDGED in {test}: {text}");
    }
    if !tally.under.is_empty() || share > PERCENT || tally.reads < 1_000 {
        bail!("the suite's plain reads are not judged as they should be");
    }
    Ok(())
}
