//! `lockgate breakglass`: the emergency override. It is for people who have just logged in, at a terminal; every channel is
//! told, and somebody else looks at it afterwards.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    failure,
    output::{self, Table},
    sessions::rough,
    text,
};
use clap::{Args, Subcommand};
use lockgate_model::{
    GlassId, Timestamp,
    time::{format_duration, parse_duration},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Lift the wait for people in an emergency, and review that afterwards
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate breakglass use bg-prod --reason 'checkout is down' --ticket INC-4711 --for 30m
  lockgate breakglass list
  lockgate breakglass review brk_01JD4Z0000000000000000000A --note 'only what the runbook says'
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
    /// Break the glass, for your own sessions or one principal's
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate breakglass use bg-prod --reason 'checkout is down' --ticket INC-4711
  lockgate breakglass use bg-prod --reason 'stuck migration' --ticket INC-4711 --principal github_actions:acme/billing --target orders-db
")]
    Use {
        /// The break_glass block of the policy
        rule: String,
        /// Why; told to everybody who is alerted
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// The incident
        #[arg(long, value_name = "ID")]
        ticket: Option<String>,
        /// For how long; by default as long as the block allows
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        lasts: Option<Duration>,
        /// For this principal's sessions, instead of those of your own uid
        #[arg(long, value_name = "ID")]
        principal: Option<String>,
        /// On this target alone
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
    },
    /// List what is in force, and what waits for its review
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate breakglass list
  lockgate breakglass list --output json
")]
    List,
    /// End a use before its time
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate breakglass end brk_01JD4Z0000000000000000000A
  lockgate breakglass end brk_01JD4Z0000000000000000000A --output json
")]
    End {
        /// brk_…
        id: GlassId,
    },
    /// Say that you have looked at a use; never your own
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate breakglass review brk_01JD4Z0000000000000000000A
  lockgate breakglass review brk_01JD4Z0000000000000000000A --note 'only what the runbook says'
")]
    Review {
        /// brk_…
        id: GlassId,
        /// What you make of it; kept in the record
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let (path, body, said) = match arguments.verb {
        Verb::List => return list(&agent, arguments.output.output),
        Verb::Use { rule, reason, ticket, lasts, principal, target } => {
            let mut body = json!({ "rule": rule });
            let lasts = lasts.map(format_duration);
            for (name, value) in [
                ("reason", reason),
                ("ticket", ticket),
                ("for", lasts),
                ("principal", principal),
                ("target", target),
            ] {
                if let Some(value) = value {
                    body[name] = value.into();
                }
            }
            ("/v1/breakglass".to_owned(), body, "in force; everybody who is to know is told")
        }
        Verb::End { id } => (format!("/v1/breakglass/{id}/end"), json!({}), "ended"),
        Verb::Review { id, note } => {
            (format!("/v1/breakglass/{id}/review"), json!({ "note": note }), "reviewed")
        }
    };
    let answer = agent.post(&path, &body).map_err(|error| match error {
        CallError::Refused { code, detail, .. } if code == "reason_required" => {
            failure(Exit::Usage, format!("{detail}; say why with --reason"))
        }
        CallError::Refused { code, detail, .. } if code == "ticket_required" => {
            failure(Exit::Usage, format!("{detail}; name it with --ticket"))
        }
        other => other.into_failure(),
    })?;
    match arguments.output.output {
        Output::Json => output::print_json(&answer)?,
        Output::Text => {
            let field = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
            output::print(&format!("{}: {said}, until {}\n", field("id"), field("ends_at")))?;
        }
    }
    Ok(Exit::Done)
}

fn list(agent: &Agent, format: Output) -> anyhow::Result<Exit> {
    let answer = agent.get("/v1/breakglass").map_err(CallError::into_failure)?;
    match format {
        Output::Json => output::print_json(&json!({ "breakglass": answer["items"] }))?,
        Output::Text => output::print(&listed(answer["items"].as_array(), Timestamp::now()))?,
    }
    Ok(Exit::Done)
}

fn listed(items: Option<&Vec<Value>>, now: Timestamp) -> String {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return "Nothing is lifted, and nothing waits for a review.\n".to_owned();
    };
    let mut table =
        Table::new(&["ID", "STATE", "RULE", "BY", "FOR", "TICKET", "ENDS IN", "REVIEW BY", "REASON"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let ends = item["ends_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let left = ends.map(|end| end.duration_since(now)).filter(|left| left.is_positive());
        let whose = match item["principal"].as_str() {
            Some(principal) => principal.to_owned(),
            None => format!("uid {}", item["uid"]),
        };
        table.row(vec![
            field("id"),
            field("state").replace('_', " "),
            field("rule"),
            text::short(item["by"]["name"].as_str().unwrap_or_default(), 32),
            text::short(&whose, 32),
            field("ticket"),
            left.filter(|_| item["state"] == "in_force")
                .map(|left| rough(left.unsigned_abs()))
                .unwrap_or_default(),
            item["review"]["by"].as_str().unwrap_or_default().to_owned(),
            text::short(&field("reason"), 40),
        ]);
    }
    table.render()
}
