//! `lockgate api`: the API's description, and single requests to it.

use super::{
    Exit, TEMPLATE,
    client::{Agent, CallError},
    output,
};
use clap::{Args, Subcommand};
use std::path::Path;

/// Describe the API, or ask it something by hand
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    arg_required_else_help = true,
    before_help = "\
Examples:
  lockgate api openapi > openapi.json
  lockgate api get '/v1/approvals?state=pending' | jq -r '.items[].id'
",
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print the description (OpenAPI 3.1); needs no agent
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate api openapi > openapi.json
  lockgate api openapi | jq -r '.paths | keys[]'
")]
    Openapi,
    /// Print what the agent answers to a GET
    #[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate api get /v1/status
  lockgate api get '/v1/sessions?open=true&limit=5'
")]
    Get {
        /// /v1/…
        path: String,
    },
}

pub(super) fn run(config: &Path, arguments: Arguments) -> anyhow::Result<Exit> {
    match arguments.verb {
        Verb::Openapi => output::print_json(&lockgate_control::api::openapi::document())?,
        Verb::Get { path } => {
            anyhow::ensure!(path.starts_with("/v1/"), "expected a path below /v1/, got {path:?}");
            let answer = Agent::reach(config)?.get_slow(&path).map_err(CallError::into_failure)?;
            output::print_json(&answer)?;
        }
    }
    Ok(Exit::Done)
}
