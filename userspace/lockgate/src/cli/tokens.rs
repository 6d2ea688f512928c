//! `lockgate tokens`: API tokens, for programs and for the command line on other machines; and whoever is logged in.

use super::{
    Exit, Output, OutputArgument, TEMPLATE,
    client::{Agent, CallError},
    output::{self, Table},
    sessions::ago,
    text,
};
use clap::{Args, Subcommand};
use lockgate_model::{
    Timestamp,
    time::{format_duration, parse_duration},
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Make, list and revoke API tokens
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate tokens make 'nightly report' --role viewer --for 30d
  LOCKGATE_URL=https://lockgate.internal LOCKGATE_TOKEN=$(cat token) lockgate tokens whoami
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
    /// Make one; it is printed once
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate tokens make 'nightly report' --role viewer --for 30d
  lockgate tokens make laptop --role viewer --role approver --group dba --for 12h --output json
")]
    Make {
        /// What it is for
        name: String,
        /// A role it has: viewer, approver, auditor or admin; by default all of yours
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A policy group it votes for; by default all of yours
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// How long it is good for
        #[arg(long = "for", value_name = "DURATION", value_parser = |text: &str| parse_duration(text).map_err(|error| error.to_string()))]
        lasts: Option<Duration>,
        /// For a program, not for yourself: it outlives your login and never votes
        #[arg(long)]
        program: bool,
    },
    /// List tokens
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate tokens list
  lockgate tokens list --output json
")]
    List,
    /// Take one back, at once
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate tokens revoke \"$(lockgate tokens list -o json | jq -r '.tokens[0].id')\"
  lockgate tokens revoke lgt_1 --output json
")]
    Revoke {
        /// Its id
        id: String,
    },
    /// Say whom the agent takes you for, and what you may
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate tokens whoami
  lockgate tokens whoami --output json | jq -r '.roles[]'
")]
    Whoami,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    let format = arguments.output.output;
    match arguments.verb {
        Verb::Make { name, roles, groups, lasts, program } => {
            let mut wish = json!({ "name": name });
            if !roles.is_empty() {
                wish["roles"] = json!(roles);
            }
            if !groups.is_empty() {
                wish["groups"] = json!(groups);
            }
            if let Some(lasts) = lasts {
                wish["for"] = json!(format_duration(lasts));
            }
            if program {
                wish["program"] = json!(true);
            }
            let made = agent.post("/v1/api-tokens", &wish).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&made)?,
                Output::Text => output::print(&format!("{}\n", made["token"].as_str().unwrap_or_default()))?,
            }
        }
        Verb::List => {
            let answer = agent.get("/v1/api-tokens").map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&json!({ "tokens": answer["items"] }))?,
                Output::Text => output::print(&table(answer["items"].as_array()))?,
            }
        }
        Verb::Revoke { id } => {
            let path = format!("/v1/api-tokens/{id}/revoke");
            let revoked = agent.post(&path, &json!({})).map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&revoked)?,
                Output::Text => output::print(&format!("{}: revoked\n", text::line(&id)))?,
            }
        }
        Verb::Whoami => {
            let who = agent.get("/v1/whoami").map_err(CallError::into_failure)?;
            match format {
                Output::Json => output::print_json(&who)?,
                Output::Text => output::print(&format!(
                    "{} ({}): {}\n",
                    text::line(who["name"].as_str().unwrap_or_default()),
                    text::line(who["id"].as_str().unwrap_or_default()),
                    words(&who["roles"])
                ))?,
            }
        }
    }
    Ok(Exit::Done)
}

fn words(list: &Value) -> String {
    let words: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if words.is_empty() { "no role".to_owned() } else { words.join(", ") }
}

fn table(items: Option<&Vec<Value>>) -> String {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return "There is no API token. Make one with `lockgate tokens make NAME --role viewer`.\n"
            .to_owned();
    };
    let now = Timestamp::now();
    let mut table = Table::new(&["ID", "NAME", "OWNER", "ROLES", "MADE", "USED", "ENDS"]);
    for item in items {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let past = |name: &str| {
            let at = item[name].as_str().and_then(|at| at.parse::<Timestamp>().ok());
            at.map_or("never".to_owned(), |at| ago(now, at))
        };
        table.row(vec![
            field("id"),
            text::short(&field("name"), 32),
            text::short(&field("owner"), 32),
            words(&item["roles"]),
            past("made_at"),
            past("used_at"),
            field("expires_at"),
        ]);
    }
    table.render()
}
