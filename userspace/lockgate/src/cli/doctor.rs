//! `lockgate doctor`: can this host do it, is everything in order, and does capture work?
use super::{Exit, OutputArgument, TEMPLATE};
use clap::Args;
use std::path::Path;

/// Check this host, the configuration and the running agent, and prove that capture works
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, before_help = "\
Examples:
  lockgate doctor
  lockgate doctor --output json | jq '.checks[] | select(.ok == false)'
")]
pub(super) struct Arguments {
    #[command(flatten)]
    output: OutputArgument,
}
pub(super) fn run(_config: &Path, _arguments: Arguments) -> anyhow::Result<Exit> {
    Ok(Exit::Failed)
}
