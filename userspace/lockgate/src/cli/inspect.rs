//! `lockgate inspect sql`: what lockgate makes of statements, without an agent, a target or a configuration.

use super::{Exit, Output, OutputArgument, TEMPLATE, output, text};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use lockgate_inspect::sql::{catalogue::CatalogueSnapshot, jsonl};
use lockgate_model::{addr::UpstreamAddr, secret::SecretRef};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_wire::postgres::PgString;
use serde_json::Value;
use std::{
    io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _},
    net::ToSocketAddrs as _,
    sync::Arc,
};

/// A batch of statements is a message of the protocol; lockgate reads none that is longer.
const MAX_INPUT_BYTES: u64 = 64 * 1024 * 1024;

/// Show what lockgate makes of statements
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  echo 'DELETE FROM orders' | lockgate inspect sql
  echo '\"SELECT pg_sleep(1)\"' | lockgate inspect sql --jsonl
",
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sql(Sql),
}

/// Classify SQL from standard input: class, kind, tables, columns, bounded, risk, fingerprint
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  echo 'DELETE FROM orders' | lockgate inspect sql --dialect postgres
  echo 'SELECT 1; DROP TABLE t' | lockgate inspect sql --output json
  lockgate inspect sql --jsonl --catalogue postgresql://app@db:5432/orders < statements.jsonl
  printf '%s\\n' '\"SELECT 1\"' '{\"sql\": \"SELECT 1\", \"pre\": [\"BEGIN\"]}' | lockgate inspect sql --jsonl
",
    after_help = "\
With --jsonl, one line in is one line out, whatever is in it. A line is a JSON string, or
{\"sql\": text, \"pre\": [statements run before in the session], \"startup\": {parameters}}.
An answer is {\"class\", \"statements\": [{\"class\", \"kind\", \"tables_read\", \"tables_written\",
\"columns\", \"bounded\", \"risk\", \"fingerprint\"}]}; the outer class is the strictest of
read < transaction, session < copy_out < write, copy_in, call < ddl < admin < opaque.",
)]
struct Sql {
    /// The grammar
    #[arg(long, value_enum, default_value_t = Dialect::Postgres)]
    dialect: Dialect,
    /// One JSON string or object a line in, one JSON object a line out
    #[arg(long)]
    jsonl: bool,
    /// Read this database's catalogue first: postgresql://USER@HOST:PORT/DATABASE (password: PGPASSWORD; no TLS)
    #[arg(long, value_name = "URL")]
    catalogue: Option<String>,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Postgres,
}

pub(super) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Verb::Sql(sql) = arguments.verb;
    let Dialect::Postgres = sql.dialect;
    // The grammars recurse; a deep statement must end in an answer and not in a stack overflow.
    on_deep_stack(move || {
        let catalogue = sql.catalogue.as_deref().map(load_catalogue).transpose()?;
        if sql.jsonl { lines(catalogue.as_deref()) } else { whole(sql.output.output, catalogue.as_deref()) }
    })
}

/// Runs on a stack like the data plane's.
pub(super) fn on_deep_stack<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let thread = std::thread::Builder::new().stack_size(crate::DEEP_STACK_BYTES).spawn(work)?;
    thread.join().map_err(|_| anyhow::anyhow!("the inspector panicked; please report the statement"))?
}

/// Answers every line as it comes; the reader may be a program that waits for it.
fn lines(catalogue: Option<&CatalogueSnapshot>) -> anyhow::Result<Exit> {
    let mut input = io::stdin().lock();
    let mut output = io::stdout().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_INPUT_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(Exit::Done);
        }
        if line.last() != Some(&b'\n') {
            // The end of the input, or a line past the bound: its rest belongs to the same answer.
            input.skip_until(b'\n')?;
        }
        while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            line.pop();
        }
        let answer = jsonl::answer(&String::from_utf8_lossy(&line), catalogue);
        match writeln!(output, "{answer}").and_then(|()| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
            result => result?,
        }
    }
}

/// Reads a catalogue as the agent would read it.
fn load_catalogue(url: &str) -> anyhow::Result<Arc<CatalogueSnapshot>> {
    let (user, host, port, database) = parts_of(url)
        .ok_or_else(|| anyhow::anyhow!("expected postgresql://USER@HOST:PORT/DATABASE, got {url:?}"))?;
    let addr = (host, port)
        .to_socket_addrs()
        .with_context(|| format!("look up {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    let credential = match std::env::var_os("PGPASSWORD") {
        Some(_) => Credential::password(user, SecretRef::Env("PGPASSWORD".to_owned())),
        None => Credential::trusted(user),
    };
    let endpoint = Endpoint::new(UpstreamAddr(addr), host, UpstreamTls::disable());
    let catalogue = Catalogue::new(endpoint, credential, PgString::lossy(database));
    // A view's text can be as deep as a statement: it is understood on a stack like the data plane's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(catalogue.load())?)
}

/// User, host, port, database.
fn parts_of(url: &str) -> Option<(&str, &str, u16, &str)> {
    let rest = url.strip_prefix("postgresql://").or_else(|| url.strip_prefix("postgres://"))?;
    let (user, rest) = rest.split_once('@')?;
    let (server, database) = rest.split_once('/')?;
    let (host, port) = server.rsplit_once(':').unwrap_or((server, "5432"));
    Some((user, host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?, database))
}

fn whole(format: Output, catalogue: Option<&CatalogueSnapshot>) -> anyhow::Result<Exit> {
    if io::stdin().is_terminal() {
        eprintln!("statements, then Ctrl-D:");
    }
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_INPUT_BYTES).read_to_end(&mut bytes)?;
    let sql = Value::String(String::from_utf8_lossy(&bytes).into_owned());
    let answer: Value = serde_json::from_str(&jsonl::answer(&sql.to_string(), catalogue))?;
    match format {
        Output::Json => output::print_json(&answer)?,
        Output::Text => output::print(&describe(&answer))?,
    }
    Ok(Exit::Done)
}

/// A block a statement.
fn describe(answer: &Value) -> String {
    let statements = answer["statements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut out = String::new();
    for (index, statement) in statements.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let heading = format!("{} ({})", plain(&statement["class"]), plain(&statement["kind"]));
        out.push_str(&format!("{}\n", output::styled(output::Style::Bold, &heading)));
        for (label, key) in [
            ("risk", "risk"),
            ("reads", "tables_read"),
            ("writes", "tables_written"),
            ("columns", "columns"),
            ("bounded", "bounded"),
            ("functions", "functions"),
            ("effects", "effects"),
            ("opaque because", "opaque_reason"),
            ("second opinion", "second_opinion"),
            ("fingerprint", "fingerprint"),
        ] {
            let value = plain(&statement[key]);
            if !value.is_empty() {
                out.push_str(&format!("  {label:<15}{value}\n"));
            }
        }
    }
    match statements.len() {
        0 => format!("no statement; the whole is {}\n", plain(&answer["class"])),
        1 => out,
        _ => format!("{out}\nas one message: {}\n", plain(&answer["class"])),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text::line(text),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => text::line(&other.to_string()),
    }
}
