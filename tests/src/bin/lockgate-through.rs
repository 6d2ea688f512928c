//! Runs a command on a fresh server, directly or through lockgate with everything allowed and recorded.
//!
//! ```text
//! lockgate-through lockgate -- pytest tests/      PGHOST and its like point to the server
//! lockgate-through direct   -- pytest tests/
//! ```

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use lockgate_tests::{
    postgres::{HostAuth, PostgresOptions},
    through::{Route, Through},
};
use std::{ffi::OsString, path::PathBuf, process::ExitCode};

#[derive(Clone, Copy, ValueEnum)]
enum Way {
    Direct,
    Lockgate,
}

#[derive(Parser)]
struct Arguments {
    way: Way,
    /// `name=value` lines of postgresql.conf
    #[arg(long)]
    setting: Vec<String>,
    /// A statement that the superuser runs first
    #[arg(long)]
    setup: Vec<String>,
    /// The port that the command insists on
    #[arg(long)]
    port: Option<u16>,
    /// Where the agent's log goes at the end
    #[arg(long)]
    log: Option<PathBuf>,
    /// The server's log at the end
    #[arg(long)]
    server_log: Option<PathBuf>,
    /// A copy of what was recorded
    #[arg(long)]
    record: Option<PathBuf>,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the agent loads eBPF programs: run this as root");
    let mut server = PostgresOptions::new().auth(HostAuth::Trust).setting("max_connections", "200");
    for line in &arguments.setting {
        let (name, value) = line.split_once('=').context("a setting is name=value")?;
        server = server.setting(name, value);
    }
    if let Some(port) = arguments.port {
        server = server.port(port);
    }
    let world = Through::with(server, |_| {}).await?;
    for statement in &arguments.setup {
        world.pg.psql(statement)?;
    }
    let route = match arguments.way {
        Way::Direct => Route::Direct,
        Way::Lockgate => Route::Lockgate,
    };
    let status = world.command(route, &arguments.command).status().await.context("the command")?;
    if let Some(path) = &arguments.log {
        std::fs::write(path, world.agent.log())?;
    }
    if let Some(path) = &arguments.server_log {
        std::fs::write(path, world.pg.log()?)?;
    }
    if let Some(path) = &arguments.record {
        std::fs::write(path, world.agent.log_text()?)?;
    }
    match status.code() {
        Some(code) => Ok(ExitCode::from(u8::try_from(code)?)),
        None => bail!("the command ended with {status}"),
    }
}
