//! Criterion benches, and pgbench side by side with other proxies.

use crate::{setup, shell};
use anyhow::Result;
use std::process::Command;

/// Which programs the side-by-side run starts.
const PACKAGES: [&str; 4] = ["--package", "lockgate", "--package", "lockgate-bench"];

/// What is measured.
#[derive(clap::Args)]
pub(crate) struct Wanted {
    /// lockgate beside haproxy, pgbouncer and a bare relay: pgbench, a bulk COPY, idle memory; writes bench/RESULTS.md
    #[arg(long)]
    peers: bool,
    /// A 10 GB result, and the agent's memory while it passes; writes bench/RESULTS.md
    #[arg(long)]
    large: bool,
    /// Instructions per query, by callgrind; writes bench/RESULTS.md
    #[arg(long)]
    instructions: bool,
    /// How long connect() takes with the hooks and without (root); writes bench/RESULTS.md
    #[arg(long)]
    connect: bool,
    /// How long questions about a million events take; writes bench/RESULTS.md
    #[arg(long)]
    search: bool,
    /// 2,000 requests that wait at once, dead channels, 60 holds a minute (root); writes bench/RESULTS.md
    #[arg(long)]
    approvals: bool,
    /// Interleaved rounds of the side-by-side run
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds per measurement
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Only pgbench loads whose name contains this (`extended, 8`); prints, and leaves RESULTS.md as it is
    #[arg(long)]
    only: Option<String>,
    /// Build with another profile than release, for a first look
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(wanted: &Wanted) -> Result<()> {
    let Wanted { peers, large, instructions, connect, search, approvals, rounds, seconds, only, profile } =
        wanted;
    if !(*peers || *large || *instructions || *connect || *search || *approvals || only.is_some()) {
        setup::setup(setup::For::Build)?;
        return shell::run(&mut shell::cargo(&["bench", "--package", "lockgate-bench"]));
    }
    if *connect {
        return alone("lockgate-connect", &["--rounds", &rounds.to_string()], profile);
    }
    if *search {
        return alone("lockgate-search", &[], profile);
    }
    setup::setup(setup::For::Bench)?;
    shell::step(&format!("build ({profile})"));
    shell::run(shell::cargo(&["build", "--bins", "--profile", profile]).args(PACKAGES))?;
    let built = shell::target().join(if profile == "dev" { "debug" } else { profile });
    let run = |arguments: &[&str]| {
        let mut command = Command::new(built.join("lockgate-peers"));
        shell::run(command.args(arguments).current_dir(shell::root()))
    };
    let (rounds, seconds) = (rounds.to_string(), seconds.to_string());
    let timing = ["--rounds", &rounds, "--seconds", &seconds];
    if let Some(only) = only {
        run(&[&timing[..], &["--only", only]].concat())?;
    } else if *peers {
        run(&timing)?;
    }
    if *approvals {
        shell::run(Command::new(built.join("lockgate-approvals")).current_dir(shell::root()))?;
    }
    if *large {
        run(&["--large"])?;
    }
    if *instructions {
        run(&["--instructions"])?;
    }
    Ok(())
}

/// What needs neither the agent nor other proxies.
fn alone(program: &str, arguments: &[&str], profile: &str) -> Result<()> {
    setup::setup(setup::For::Build)?;
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate-bench",
        "--bin",
        program,
        "--profile",
        profile,
    ]))?;
    let built = shell::target().join(if profile == "dev" { "debug" } else { profile });
    shell::run(Command::new(built.join(program)).args(arguments).current_dir(shell::root()))
}
