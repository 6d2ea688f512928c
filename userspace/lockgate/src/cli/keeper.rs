//! `lockgate keeper`: what an agent that ends leaves behind for the next one. Started by the agent, by nobody else.

use super::Exit;
use anyhow::Context as _;
use clap::Args;
use lockgate_intercept::keeper;
use std::{os::fd::AsFd as _, path::PathBuf, time::Duration};

/// Hold an agent's listeners until the next agent takes them
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where the next agent finds it
    #[arg(long, value_name = "PATH")]
    path: PathBuf,
    /// How long it waits for the next agent
    #[arg(long, value_name = "MILLISECONDS")]
    within: u64,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let agent = std::io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
    keeper::keep(&agent, &arguments.path, Duration::from_millis(arguments.within))
        .with_context(|| format!("keeping listeners at {}", arguments.path.display()))?;
    Ok(Exit::Done)
}
