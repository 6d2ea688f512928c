//! `lockgate sessions`: who was connected where, what they did, and how it went, step by step.
//!
//! Asks the agent; without one it reads the log itself, which needs root.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError, query},
    history, observed,
    output::{self, Style, Table, styled},
    recording, replay, search, tail, text,
};
use crate::{agent::house, config::Client};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use lockgate_control::house::SessionRef;
use lockgate_model::{SessionId, Timestamp, id::TargetName, time::format_duration};
use lockgate_store::{Reader, Record, SessionFilter, SessionSummary};
use serde::Deserialize;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// List, show and replay recorded sessions
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate sessions list --target orders-db --since 24h
  lockgate sessions list --output json | jq -r '.sessions[].id'
  lockgate sessions replay \"$(lockgate sessions list -o json | jq -r '.sessions[0].id')\"
",
)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List sessions, the newest first
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions list
  lockgate sessions list --open --output json
")]
    List(List),
    /// List who talked to what without being redirected
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions observed --since 24h
  lockgate sessions observed --target orders-db --output json | jq -r '.observed[].principal'
")]
    Observed(history::Period),
    /// Show one session: who, where, and every record of it
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions show \"$(lockgate sessions list -o json | jq -r '.sessions[0].id')\"
  lockgate sessions show --output json ses_01JD4Z0000000000000000000A
")]
    Show {
        /// ses_…, or req_… of a request for approval in it
        session: SessionRef,
    },
    /// Search everything that was recorded, the newest first
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions search customers --decision denied --since 7d
  lockgate sessions search --table public.orders --class write --output json | jq -r '.items[].session'
")]
    Search(search::Arguments),
    /// Follow what happens, in one session or in all of them, until Ctrl-C
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions tail
  lockgate sessions tail ses_01JD4Z0000000000000000000A --output json
")]
    Tail(tail::Arguments),
    /// End a live session; its client is told who and why
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions kill ses_01JD4Z0000000000000000000A --reason 'runaway export'
  lockgate sessions kill ses_01JD4Z0000000000000000000A --reason 'runaway export' --output json
")]
    Kill {
        /// ses_…
        session: SessionId,
        /// Why; the client reads it, and it is kept in the record
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Replay one session as a timeline
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate sessions replay \"$(lockgate sessions list -o json | jq -r '.sessions[0].id')\"
  lockgate sessions replay --speed 10 ses_01JD4Z0000000000000000000A
  lockgate sessions replay --recording ses_01JD4Z-001-5f2b.jsonl
")]
    Replay {
        /// ses_…, or req_… of a request for approval in it
        #[arg(required_unless_present = "recording")]
        session: Option<SessionRef>,
        /// From objects that `evidence.recordings` stored instead, all parts of one session: needs no agent
        #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "session")]
        recording: Vec<PathBuf>,
        /// Wait between steps as long as it took then, divided by this; instant unless given
        #[arg(long, value_name = "FACTOR", value_parser = speed)]
        speed: Option<f64>,
    },
}

#[derive(Debug, Args)]
struct List {
    /// Only on this target
    #[arg(long)]
    target: Option<String>,
    /// Only of principals whose id or name contains this
    #[arg(long, value_name = "TEXT")]
    principal: Option<String>,
    /// Only begun since: a duration ago (90m, 7d) or an RFC 3339 time
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only begun before
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Timestamp>,
    /// Only those that still run
    #[arg(long)]
    open: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

/// Sessions that are asked for at a time.
const PAGE: usize = 1_000;

fn speed(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|factor| (0.01..=100_000.0).contains(factor))
        .ok_or_else(|| "expected a number such as 1 or 10".to_owned())
}

pub(super) fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = lockgate_model::time::parse_duration(text) {
        return Timestamp::now().checked_sub(ago).map_err(|error| error.to_string());
    }
    text.parse().map_err(|_| {
        "expected a duration such as 90m or 7d, or a time such as 2026-11-21T09:00:00Z".to_owned()
    })
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let format = arguments.output.output;
    if let Verb::Observed(period) = &arguments.verb {
        return observed::run(config, period, format);
    }
    if let Verb::Replay { recording: files, speed, .. } = &arguments.verb
        && !files.is_empty()
    {
        let (session, records) = recording::records(files)?;
        play(session, &records, *speed, format)?;
        return Ok(Exit::Done);
    }
    let agent = Agent::reach(config)?;
    let here = Here { agent, config };
    match arguments.verb {
        Verb::Observed(_) => {}
        Verb::Search(wanted) => return search::run(&here.agent, wanted, format),
        Verb::Tail(wanted) => return tail::run(&here.agent, &wanted, format),
        Verb::Kill { session, reason } => {
            let path = format!("/v1/sessions/{session}/kill");
            let killed =
                here.agent.post(&path, &json!({ "reason": reason })).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&killed)?,
                Output::Text => {
                    let decision = killed["decision_id"].as_str().unwrap_or_default();
                    output::print(&format!("{session}: ended ({decision})\n"))?;
                }
            }
        }
        Verb::List(list) => {
            let sessions = list_sessions(&here, list.filter())?;
            match format {
                Output::Json => output::print_json(&json!({ "sessions": sessions }))?,
                Output::Text => output::print(&table(&sessions))?,
            }
        }
        Verb::Show { session } => {
            let (session, records) = records_of(&here, session)?;
            match format {
                Output::Json => output::print_json(&json!({ "session": session, "records": records }))?,
                Output::Text => {
                    output::print(&format!("{}\n{}", replay::heading(&records), replay::timeline(&records)))?
                }
            }
        }
        Verb::Replay { session, recording: _, speed } => {
            let (session, records) = records_of(&here, session.context("which session?")?)?;
            play(session, &records, speed, format)?;
        }
    }
    Ok(Exit::Done)
}

impl List {
    fn filter(self) -> SessionFilter {
        SessionFilter {
            since: self.since,
            until: self.until,
            target: self.target.as_deref().map(TargetName::from),
            principal: self.principal,
            open: self.open.then_some(true),
            limit: Some(self.limit),
        }
    }
}

/// The agent that is asked, and where this host's log is found when none answers.
struct Here<'a> {
    agent: Agent,
    config: &'a Path,
}

impl Here<'_> {
    fn reader(&self) -> anyhow::Result<Reader> {
        reader(&Client::read(self.config)?)
    }
}

fn list_sessions(here: &Here, filter: SessionFilter) -> anyhow::Result<Vec<SessionSummary>> {
    let wanted = filter.limit();
    let mut found: Vec<SessionSummary> = Vec::new();
    let mut before = None;
    loop {
        let page = SessionFilter { limit: Some((wanted - found.len()).min(PAGE)), ..filter.clone() };
        let mut asked = serde_json::to_value(&page)?;
        if let Some(before) = &before {
            asked["before"] = json!(before);
        }
        let mut answer = match here.agent.get_slow(&format!("/v1/sessions?{}", query(&asked))) {
            Ok(answer) => answer,
            Err(error) if error.is_no_agent() => return Ok(here.reader()?.sessions(&filter)?),
            Err(error) => return Err(error.into_failure()),
        };
        let items: Vec<SessionSummary> =
            serde_json::from_value(answer["items"].take()).context("the agent's list of sessions")?;
        found.extend(items);
        before = answer["next"].as_str().map(str::to_owned);
        if before.is_none() || found.len() >= wanted {
            return Ok(found);
        }
    }
}

fn play(session: SessionId, records: &[Record], speed: Option<f64>, format: Output) -> anyhow::Result<()> {
    match format {
        Output::Json => output::print_json(&json!({ "session": session, "steps": replay::steps(records) })),
        Output::Text => replay::play(records, speed),
    }
}

fn records_of(here: &Here, id: SessionRef) -> anyhow::Result<(SessionId, Vec<Record>)> {
    let missing = || format!("{id} is not recorded; `lockgate sessions list` shows the sessions that are");
    let mut found: Option<(SessionId, Vec<Record>)> = None;
    loop {
        let after = found.as_ref().and_then(|(_, records)| records.last()).map_or(0, |record| record.seq);
        let answer = match here.agent.get_slow(&format!("/v1/sessions/{id}?after={after}")) {
            Ok(answer) => answer,
            Err(CallError::Refused { status: 404, .. }) => return found.with_context(missing),
            Err(error) if error.is_no_agent() => {
                return house::records_of(&here.reader()?, id)?.with_context(missing);
            }
            Err(error) => return Err(error.into_failure()),
        };
        let Answer { session, records, more } =
            serde_json::from_value(answer).context("the agent's records")?;
        let going_on = more && !records.is_empty();
        found.get_or_insert_with(|| (session.id, Vec::new())).1.extend(records);
        if !going_on {
            return found.with_context(missing);
        }
    }
}

/// The agent's answer about one session.
#[derive(Deserialize)]
struct Answer {
    session: SessionSummary,
    records: Vec<Record>,
    more: bool,
}

/// The log itself, for when no agent answers.
pub(super) fn reader(client: &Client) -> anyhow::Result<Reader> {
    Reader::open_with_head(&client.store.dir, client.store.head.as_deref()).with_context(|| {
        format!("no agent answers at {}, and the log cannot be read", client.socket.display())
    })
}

fn table(sessions: &[SessionSummary]) -> String {
    if sessions.is_empty() {
        return "No sessions are recorded here. Run something governed:\n  lockgate run -- psql …\n"
            .to_owned();
    }
    let now = Timestamp::now();
    let mut table = Table::new(&[
        "SESSION", "STARTED", "LASTED", "TARGET", "DATABASE", "WHO", "OPS", "HELD", "DENIED", "ENDED",
    ]);
    for session in sessions {
        let length = session.ended.unwrap_or(now).duration_since(session.started);
        table.row(vec![
            session.id.to_string(),
            ago(now, session.started),
            rough(length.unsigned_abs()),
            session.target.to_string(),
            text::short(&session.database, 24),
            text::short(&session.principal.display, 40),
            session.operations.to_string(),
            session.held.to_string(),
            session.denied.to_string(),
            session.closing.map_or("running", |reason| reason.as_str()).to_owned(),
        ]);
    }
    table.render()
}

/// `3m ago`
pub(super) fn ago(now: Timestamp, then: Timestamp) -> String {
    format!("{} ago", rough(now.duration_since(then).unsigned_abs()))
}

/// Whole seconds are enough for people; JSON has the rest.
pub(super) fn to_second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The two largest units; below ten seconds with a decimal.
pub(super) fn rough(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", length.as_secs_f64()),
        10..3600 => format_duration(Duration::from_secs(seconds)),
        3600..86_400 => format_duration(Duration::from_secs(seconds / 60 * 60)),
        _ => format_duration(Duration::from_secs(seconds / 3600 * 3600)),
    }
}

/// `label: value` lines of equal width.
pub(super) fn field(label: &str, value: &str) -> String {
    format!("  {}{}\n", styled(Style::Dim, &format!("{label:<12}")), text::line(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_rough() {
        for (millis, expected) in
            [(0, "0.0s"), (1_250, "1.2s"), (61_000, "1m1s"), (3_700_000, "1h1m"), (90_000_000, "1d1h")]
        {
            assert_eq!(rough(Duration::from_millis(millis)), expected);
        }
    }
}
