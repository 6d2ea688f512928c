//! `lockgate audit retain|hold|release|holds`: how long records are kept, and what is kept whatever happens.

use super::{
    Exit, Output, TEMPLATE,
    client::Agent,
    output::{self, Table},
    text,
};
use clap::Args;
use lockgate_model::{SessionId, Timestamp};
use serde_json::{Value, json};
use std::path::Path;

/// Remove what is over its time now, or show what would be: `evidence.retention.keep`, policies' `retain` and holds decide.
/// Hashes stay, so that what is left still verifies
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit retain --plan        what would be removed, what is kept, and why
  lockgate audit retain               remove it now, instead of at the next scheduled run
",
)]
pub(super) struct Retain {
    /// Only show what would be removed
    #[arg(long)]
    plan: bool,
}

/// Keep records whatever retention says, until `audit release`. Everything that is named must fit
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate audit hold --session ses_01J9Z3 --reason 'case 12'
  lockgate audit hold --identity github_actions:acme/billing --since 2026-11-01T00:00:00Z --reason 'case 12'
  lockgate audit hold --since 2026-11-20T00:00:00Z --until 2026-11-21T00:00:00Z --reason 'the incident'
",
)]
pub(super) struct Hold {
    /// One session
    #[arg(long, value_name = "ID")]
    session: Option<SessionId>,
    /// All sessions of a principal, by its id
    #[arg(long, value_name = "PRINCIPAL")]
    identity: Option<String>,
    /// Records of this time or later
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Records before this time
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Why; recorded
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// End a hold: retention decides again
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate audit release hold_01J9Z3 --reason 'case 12 is closed'
")]
pub(super) struct Release {
    /// Its name, as `audit holds` shows it
    name: String,
    /// Why; recorded
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) fn retain(config: &Path, wanted: &Retain, format: Output) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let answer = if wanted.plan {
        agent.get_slow("/v1/audit/retention")
    } else {
        agent.post("/v1/audit/retention", &json!({}))
    };
    let answer = answer.map_err(super::client::CallError::into_failure)?;
    match format {
        Output::Json => output::print_json(&answer)?,
        Output::Text => output::print(&told(&answer))?,
    }
    Ok(Exit::Done)
}

fn told(answer: &Value) -> String {
    let mut out = match answer["remove"].as_array() {
        Some(remove) => {
            let policy = answer["policy"].as_str().unwrap_or_default();
            format!("{} segments would be removed by {}\n", remove.len(), text::line(policy))
        }
        None => format!("{} records removed; their hashes stay\n", answer["removed"]),
    };
    for (segment, why) in answer["kept"].as_object().into_iter().flatten() {
        out.push_str(&format!(
            "  segment {segment} is kept: {}\n",
            text::line(why.as_str().unwrap_or_default())
        ));
    }
    out
}

pub(super) fn hold(config: &Path, wanted: &Hold, format: Output) -> anyhow::Result<Exit> {
    let Hold { session, identity, since, until, reason } = wanted;
    let asked =
        json!({ "session": session, "identity": identity, "since": since, "until": until, "reason": reason });
    let placed = Agent::reach(config)?.post("/v1/audit/holds", &asked);
    let placed = placed.map_err(super::client::CallError::into_failure)?;
    match format {
        Output::Json => output::print_json(&placed)?,
        Output::Text => {
            output::print(&format!("{}\n", text::line(placed["name"].as_str().unwrap_or_default())))?
        }
    }
    Ok(Exit::Done)
}

pub(super) fn release(config: &Path, wanted: &Release) -> anyhow::Result<Exit> {
    // The name becomes a part of a path: what is not a plain name is no hold's.
    let plain = wanted.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    anyhow::ensure!(
        plain && !wanted.name.is_empty(),
        "expected the name of a hold (hold_…), got {:?}",
        wanted.name
    );
    let path = format!("/v1/audit/holds/{}/release", wanted.name);
    let released = Agent::reach(config)?.post(&path, &json!({ "reason": wanted.reason }));
    released.map_err(super::client::CallError::into_failure)?;
    Ok(Exit::Done)
}

pub(super) fn holds(config: &Path, format: Output) -> anyhow::Result<Exit> {
    let answer =
        Agent::reach(config)?.get("/v1/audit/holds").map_err(super::client::CallError::into_failure)?;
    if let Output::Json = format {
        output::print_json(&answer)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["HOLD", "KEEPS", "BY", "REASON"]);
    for hold in answer["holds"].as_array().into_iter().flatten() {
        let field = |name: &str| hold[name].as_str().map(text::line);
        let named = |name: &str, word: &str| field(name).map(|value| format!("{word}{value}"));
        let keeps =
            [named("session", ""), named("identity", ""), named("since", "since "), named("until", "until ")];
        let cell = |name: &str| field(name).unwrap_or_default().to_string();
        let keeps = keeps.into_iter().flatten().collect::<Vec<_>>().join(", ");
        table.row(vec![cell("name"), keeps, cell("by"), cell("reason")]);
    }
    output::print(&table.render())?;
    Ok(Exit::Done)
}
