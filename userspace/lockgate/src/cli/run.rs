//! `lockgate run`: has the agent put this very process into a governed cgroup, then becomes the command.
//!
//! No process stays between: exit code, signals and terminal are the command's own. Fails closed: unless the
//! kernel itself shows the governed cgroup, nothing is started.

use super::{
    Exit, TEMPLATE,
    client::{Agent, CallError},
    exit::{RunFailure, failure},
};
use crate::config::Client;
use clap::Args;
use serde_json::json;
use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

/// Run a command governed: what it sends to registered targets passes through lockgate
#[derive(Debug, Args)]
#[command(
    help_template = TEMPLATE,
    before_help = "\
Examples:
  lockgate run -- psql -h db.internal shop -c 'select 1'
  lockgate run -- ./deploy.sh --all
  lockgate run -- env            the environment passes unchanged
",
    after_help = "\
Ends as the command does. 125: not started, because it could not be governed (no agent, not
allowed); 126: cannot be executed; 127: not found.
Root may use it, and the users in the agent's `run.allow_uids`.",
)]
pub(super) struct Arguments {
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(super) fn run(config: &Path, arguments: &Arguments) -> anyhow::Result<Exit> {
    govern(config)
        .map_err(|error| failure(Exit::Run(RunFailure::Ungoverned), format!("{error:#}; not started")))?;
    let Some((program, rest)) = arguments.command.split_first() else { return Ok(Exit::Usage) };
    // Returns only when it fails.
    let error = Command::new(program).args(rest).exec();
    let why = match error.kind() {
        io::ErrorKind::NotFound => RunFailure::NotFound,
        // execvp(3) says so, too, when a directory of PATH cannot be searched.
        io::ErrorKind::PermissionDenied if !is_visible(program) => RunFailure::NotFound,
        _ => RunFailure::NotExecutable,
    };
    Err(failure(Exit::Run(why), format!("{}: {error}", program.to_string_lossy())))
}

/// Is there a file of that name, as far as this user can see?
fn is_visible(program: &OsStr) -> bool {
    if program.as_bytes().contains(&b'/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Moves this process into a governed cgroup, and makes sure of it.
fn govern(config: &Path) -> anyhow::Result<()> {
    let client = Client::read(config)?;
    let answer = Agent::of(&client).post("/v1/run", &json!({})).map_err(|error| match error {
        CallError::Refused { status: 403, detail, .. } => {
            anyhow::anyhow!("{detail}; ask for your uid in `run.allow_uids` of the agent's configuration")
        }
        other => other.into(),
    })?;
    let promised = answer["cgroup"].as_str().unwrap_or_default();
    let actual = own_cgroup()?;
    anyhow::ensure!(
        !promised.is_empty() && actual == promised,
        "the agent promised the cgroup {promised:?}, and the kernel shows {actual:?}"
    );
    Ok(())
}

/// The cgroup-v2 path of this process, as the kernel shows it.
fn own_cgroup() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup")?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
        .ok_or_else(|| anyhow::anyhow!("/proc/self/cgroup shows no cgroup-v2 path"))
}
