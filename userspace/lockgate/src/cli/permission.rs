//! `lockgate grants`: permissions that approvers gave for a while, and taking them back.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    output::{self, Table},
    sessions::rough,
    text,
};
use clap::{Args, Subcommand};
use lockgate_model::{GrantId, Timestamp};
use serde_json::{Value, json};
use std::path::Path;

/// List and revoke what approvers let pass for a while
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate grants list
  lockgate grants revoke grt_01JD4Z0000000000000000000A --reason 'backfill is done'
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
    /// List the grants in force
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate grants list
  lockgate grants list --output json
")]
    List,
    /// Take a grant back; open sessions lose it at that moment
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate grants revoke grt_01JD4Z0000000000000000000A
  lockgate grants revoke grt_01JD4Z0000000000000000000A --reason 'backfill is done'
")]
    Revoke {
        /// grt_…
        grant: GrantId,
        /// Why; kept in the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let format = arguments.output.output;
    match arguments.verb {
        Verb::List => {
            let answer = agent.get("/v1/grants").map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&json!({ "grants": answer["items"] }))?,
                Output::Text => output::print(&listed(answer["items"].as_array(), Timestamp::now()))?,
            }
        }
        Verb::Revoke { grant, reason } => {
            let body = json!({ "reason": reason });
            let answer =
                agent.post(&format!("/v1/grants/{grant}/revoke"), &body).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&answer)?,
                Output::Text => {
                    output::print(&format!("{grant}: revoked; it was used {} times\n", answer["used"]))?
                }
            }
        }
    }
    Ok(Exit::Done)
}

fn listed(items: Option<&Vec<Value>>, now: Timestamp) -> String {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return "No grant is in force. Approvers give one with `lockgate approvals approve … --for 15m`.\n"
            .to_owned();
    };
    let mut table = Table::new(&["ID", "PRINCIPAL", "TARGET", "GIVEN BY", "ENDS IN", "USED", "SHAPE"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let ends = item["expires_at"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let left = ends.map(|end| end.duration_since(now)).filter(|left| left.is_positive());
        let given: Vec<&str> =
            item["given_by"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let used = match item["uses"].as_u64() {
            Some(uses) => format!("{} of {uses}", item["used"]),
            None => item["used"].to_string(),
        };
        table.row(vec![
            field("id"),
            text::short(&field("principal"), 32),
            field("target"),
            text::short(&given.join(", "), 32),
            left.map(|left| rough(left.unsigned_abs())).unwrap_or_default(),
            used,
            text::short(&field("shape"), 60),
        ]);
    }
    table.render()
}
