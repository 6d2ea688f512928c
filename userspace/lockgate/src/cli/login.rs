//! `lockgate login`: the first administrator's way into the console, before there is an identity provider.

use super::{Exit, Output, OutputArgument, TEMPLATE, client::Agent, output};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::Path;

/// Get into the console before there is an identity provider (for trying lockgate out)
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE)]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print a one-time token for the first administrator: good once, for an hour; the one before is good no more
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate login bootstrap
")]
    Bootstrap,
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    let agent = Agent::reach(config)?;
    match arguments.verb {
        Verb::Bootstrap => {
            let answer = agent.post("/v1/bootstrap", &json!({})).map_err(|error| error.into_failure())?;
            match arguments.output.output {
                Output::Json => output::print_json(&answer)?,
                Output::Text => {
                    eprintln!("{}", answer["warning"].as_str().unwrap_or_default());
                    output::print(&format!("{}\n", answer["token"].as_str().unwrap_or_default()))?;
                }
            }
        }
    }
    Ok(Exit::Done)
}
