//! `cargo xtask regress`: PostgreSQL's regression suite, directly and then through lockgate with everything allowed and
//! recorded, compared test for test.

use anyhow::{Result, ensure};
use clap::Parser;
use lockgate_tests::{regress::Suite, through::Route};
use std::{path::PathBuf, process::ExitCode};

#[derive(Parser)]
struct Arguments {
    /// Where the suite is kept between runs
    #[arg(long)]
    cache: PathBuf,
    /// Lines shown of each difference
    #[arg(long, default_value_t = 40)]
    lines: usize,
    /// A copy of the agent's log
    #[arg(long)]
    log: Option<PathBuf>,
    /// A copy of how the direct run differs from what the suite expects
    #[arg(long)]
    diffs: Option<PathBuf>,
    /// Only these tests, in one group
    tests: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the agent loads eBPF programs: run this as root");
    let suite = Suite::fetch(&arguments.cache)?;
    let mut only = arguments.tests.clone();
    if !only.is_empty() && only.first().is_none_or(|first| first != "test_setup") {
        // Every other test needs its tables.
        only.insert(0, "test_setup".to_owned());
    }
    let direct = suite.run(Route::Direct, &only).await?;
    println!(
        "directly: {} of {} in {:.1} s",
        direct.passed(),
        direct.tests.len(),
        direct.elapsed.as_secs_f64()
    );
    if !direct.failed().is_empty() {
        println!("not as the suite expects, directly: {}", direct.failed().join(" "));
    }
    if let Some(path) = &arguments.diffs {
        std::fs::write(path, &direct.diffs)?;
    }
    let through = suite.run(Route::Lockgate, &only).await?;
    println!(
        "through lockgate: {} of {} in {:.1} s",
        through.passed(),
        through.tests.len(),
        through.elapsed.as_secs_f64()
    );
    if let Some(path) = &arguments.log {
        std::fs::write(path, &through.agent_log)?;
    }
    let differing = through.differs_from(&direct)?;
    for (name, difference) in &differing {
        println!("── {name} differs");
        for line in difference.lines().take(arguments.lines) {
            println!("{line}");
        }
    }
    if differing.is_empty() {
        println!("the same, test for test");
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<&str> = differing.iter().map(|(name, _)| name.as_str()).collect();
    println!("{} tests differ: {}", names.len(), names.join(" "));
    Ok(ExitCode::FAILURE)
}
