//! `lockgate audit export`: a period of the log in the words of other tools.
//!
//! Reads the log once, from its beginning: who a record is about stands in the session's first record, and what an answer is
//! about in its decision's. Only what is open is kept in memory. JSON lines are the records as they rest, so that whoever
//! gets them can check their links; CSV and OCSF are views. OCSF's words are in [`ocsf`].

mod ocsf;

use super::{Exit, TEMPLATE, history::Period};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use lockgate_model::{
    OperationId, SessionId,
    event::{EventKind, RecordedOperation},
    session::Session,
    sql::SqlFacts,
    verdict::{Denial, Verdict},
};
use lockgate_store::Record;
use std::{
    collections::HashMap,
    fs,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Export a period of the log as JSON lines, CSV or OCSF
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit export --since 24h > yesterday.jsonl
  lockgate audit export --format csv --since 7d --target orders-db --out week.csv
  lockgate audit export --format ocsf --since 1h | jq -c 'select(.class_uid == 6005)'
",
)]
pub(super) struct Export {
    /// As what
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    #[command(flatten)]
    period: Period,
    /// Write here instead of to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The records as they rest, one a line
    Jsonl,
    /// A row a record: who, where, what, how it was decided, how it ended
    Csv,
    /// OCSF 1.5.0 events, one a line
    Ocsf,
}

/// What a record is about, besides what it says itself.
#[derive(Default)]
struct Open {
    sessions: HashMap<SessionId, Session>,
    operations: HashMap<OperationId, (SessionId, RecordedOperation)>,
}

impl Open {
    /// Takes in what a record begins.
    fn begin(&mut self, record: &Record) {
        match (&record.event.kind, record.event.session) {
            (EventKind::SessionStarted(session), _) => {
                drop(self.sessions.insert(session.id, (**session).clone()))
            }
            (EventKind::OperationDecided { operation, .. }, Some(session)) => {
                self.operations.insert(operation.id, (session, operation.clone()));
            }
            _ => {}
        }
    }

    /// Lets go of what a record ends.
    fn end(&mut self, record: &Record) {
        match (&record.event.kind, record.event.session) {
            (EventKind::Responded { operation, .. }, _) => drop(self.operations.remove(operation)),
            (EventKind::SessionEnded(_), Some(ended)) => {
                self.sessions.remove(&ended);
                self.operations.retain(|_, (session, _)| *session != ended);
            }
            _ => {}
        }
    }

    fn of<'a>(&'a self, record: &'a Record) -> About<'a> {
        let session = record.event.session.and_then(|session| self.sessions.get(&session));
        let known = |id: &OperationId| self.operations.get(id).map(|(_, operation)| operation);
        let operation = match &record.event.kind {
            EventKind::OperationDecided { operation, .. } => Some(operation),
            EventKind::ApprovalRequested { operation, .. }
            | EventKind::Forwarded { operation, .. }
            | EventKind::Refused { operation, .. }
            | EventKind::ResultCut { operation, .. }
            | EventKind::Responded { operation, .. } => known(operation),
            _ => None,
        };
        About { session, operation }
    }
}

/// Of one record.
struct About<'a> {
    session: Option<&'a Session>,
    operation: Option<&'a RecordedOperation>,
}

impl About<'_> {
    fn sql(&self) -> Option<&SqlFacts> {
        self.operation.and_then(|operation| operation.facts.sql())
    }

    fn tables(&self) -> Vec<String> {
        let facts = self.sql().into_iter();
        let mut tables: Vec<String> = facts
            .flat_map(|facts| facts.tables_read.iter().chain(&facts.tables_written))
            .map(ToString::to_string)
            .collect();
        tables.sort();
        tables.dedup();
        tables
    }
}

pub(super) fn run(config: &Path, Export { format, period, out }: &Export) -> anyhow::Result<Exit> {
    let reader = period.reader(config)?;
    let out: Box<dyn Write> = match out {
        Some(path) => Box::new(fs::File::create(path).with_context(|| path.display().to_string())?),
        None => Box::new(io::stdout().lock()),
    };
    let mut sink = Sink::new(*format, BufWriter::new(out));
    let mut open = Open::default();
    for record in reader.records() {
        let record = record?;
        open.begin(&record);
        let about = open.of(&record);
        let target = about.session.map(|session| session.target.name.as_str());
        if period.holds(record.event.at) && period.is_about(target) {
            match sink.write(&record, &about) {
                // Whoever reads has read enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Done),
                written => written.context("writing what is exported")?,
            }
        }
        open.end(&record);
    }
    match sink.finish() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

enum Sink<W: Write> {
    Lines(W),
    Ocsf(W),
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> Sink<W> {
    fn new(format: Format, out: W) -> Self {
        match format {
            Format::Jsonl => Self::Lines(out),
            Format::Ocsf => Self::Ocsf(out),
            Format::Csv => Self::Csv(Box::new(csv::Writer::from_writer(out))),
        }
    }

    fn write(&mut self, record: &Record, about: &About<'_>) -> io::Result<()> {
        match self {
            Self::Lines(out) => {
                let line = serde_json_canonicalizer::to_vec(record).map_err(io::Error::other)?;
                out.write_all(&line)?;
                out.write_all(b"\n")
            }
            Self::Ocsf(out) => match ocsf::event(record, about) {
                Some(event) => {
                    serde_json::to_writer(&mut *out, &event)?;
                    out.write_all(b"\n")
                }
                None => Ok(()),
            },
            Self::Csv(out) => out.serialize(Row::of(record, about)).map_err(io::Error::other),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Lines(mut out) | Self::Ocsf(mut out) => out.flush(),
            Self::Csv(mut out) => out.flush(),
        }
    }
}

/// A row of CSV. Empty where a record says nothing of it.
#[derive(Debug, Default, serde::Serialize)]
struct Row {
    seq: u64,
    at: String,
    event: String,
    node: String,
    session: String,
    principal: String,
    kind: String,
    assurance: String,
    target: String,
    database: String,
    upstream_user: String,
    capture: String,
    operation: String,
    decision: String,
    request: String,
    class: String,
    verb: String,
    tables: String,
    effect: String,
    rules: String,
    by: String,
    reason: String,
    result: String,
    rows: Option<u64>,
    bytes_out: Option<u64>,
    masked_fields: Option<u64>,
    elapsed_micros: Option<u64>,
    text: String,
}

impl Row {
    fn of(record: &Record, about: &About<'_>) -> Self {
        let data = serde_json::to_value(&record.event).unwrap_or_default();
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => cell(text),
            serde_json::Value::Null | serde_json::Value::Object(_) => String::new(),
            other => cell(&other.to_string()),
        };
        let mut row = Self {
            seq: record.seq,
            at: record.event.at.to_string(),
            event: word(&data["event"]),
            node: cell(record.node.as_str()),
            session: record.event.session.map(|session| session.to_string()).unwrap_or_default(),
            operation: about.operation.map(|operation| operation.id.to_string()).unwrap_or_default(),
            decision: word(&data["data"]["decision"]),
            request: word(&data["data"]["request"]),
            tables: cell(&about.tables().join(" ")),
            ..Self::default()
        };
        if let Some(session) = about.session {
            row.principal = cell(&session.principal.id);
            row.kind = word(&serde_json::to_value(session.principal.kind).unwrap_or_default());
            row.assurance = word(&serde_json::to_value(session.principal.assurance).unwrap_or_default());
            row.target = cell(session.target.name.as_str());
            row.database = cell(&session.client.database);
            row.upstream_user = cell(&session.upstream_user);
            row.capture = word(&serde_json::to_value(session.flow.capture).unwrap_or_default());
        }
        if let Some(facts) = about.sql() {
            (row.class, row.verb) = (facts.class.to_string(), cell(&facts.kind));
        }
        row.tell(&record.event.kind);
        row
    }

    /// What only some kinds of record say.
    fn tell(&mut self, kind: &EventKind) {
        match kind {
            EventKind::OperationDecided { operation, verdict, denial } => {
                self.decision = verdict.decision.to_string();
                self.effect = effect(verdict).to_owned();
                self.rules =
                    cell(&verdict.rules.iter().map(|hit| hit.rule.to_string()).collect::<Vec<_>>().join(" "));
                self.text = cell(&operation.text);
                denial.iter().for_each(|denial| self.refused(denial));
            }
            EventKind::Refused { denial, .. } | EventKind::ResultCut { denial, .. } => self.refused(denial),
            EventKind::Responded { outcome, .. } => {
                let status = serde_json::to_value(&outcome.status).unwrap_or_default();
                let said = ["tag", "sqlstate"].iter().find_map(|name| status[name].as_str());
                self.result = cell(said.or(status["result"].as_str()).unwrap_or_default());
                self.rows = Some(outcome.rows);
                self.bytes_out = Some(outcome.bytes_out);
                self.masked_fields = Some(outcome.masked_fields);
                self.elapsed_micros = Some(outcome.elapsed_micros);
            }
            EventKind::VoteCast { vote, .. } => {
                self.by = cell(&vote.by.id);
                self.effect = serde_json::to_value(vote.decision)
                    .ok()
                    .and_then(|said| said.as_str().map(cell))
                    .unwrap_or_default();
                self.reason = cell(vote.reason.as_deref().unwrap_or_default());
            }
            EventKind::ApprovalResolved { resolution, .. } => self.effect = resolution.as_str().to_owned(),
            EventKind::DecisionRefused { by, detail, .. } => {
                self.by = cell(by.as_deref().unwrap_or_default());
                self.reason = cell(detail);
            }
            EventKind::Gap { detail, .. } | EventKind::FlowRefused { detail, .. } => {
                self.reason = cell(detail)
            }
            _ => {}
        }
    }

    fn refused(&mut self, denial: &Denial) {
        self.reason = cell(&denial.reason);
        if let Some(rule) = &denial.rule {
            self.rules = cell(&rule.to_string());
        }
    }
}

/// The name that policy has for it.
fn effect(verdict: &Verdict) -> &'static str {
    verdict.effect.as_str()
}

/// A cell that no spreadsheet takes for a formula: much of it is text of jobs.
fn cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

#[cfg(test)]
mod tests;
