//! The fuzz targets of `tests/fuzz`, each for a bounded time. Needs `cargo-fuzz`, which it installs.

use crate::{bpf, shell};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// Mutated statements against a real server, in a read-only session: no fuzz target but a test, run for longer.
const DIFFERENTIAL: &str = "differential";

/// The worst texts at the full length that is inspected: a test too, with optimisation.
const STALL: &str = "stall";
const STALL_BYTES: usize = 8 << 20;

/// A run of this many seconds must have executed [`EXECUTED`] mutants.
const LONG_SECONDS: u64 = 600;
const EXECUTED: u64 = 100_000;

/// LOCKGATE_DIFFERENTIAL_SEED repeats a run; without it each is another.
fn differential(seconds: u64) -> Result<()> {
    shell::step(&format!("mutated statements against a server for {seconds} s"));
    let seed = std::env::var("LOCKGATE_DIFFERENTIAL_SEED").unwrap_or_else(|_| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        now.as_secs().to_string()
    });
    let executed = if seconds >= LONG_SECONDS { EXECUTED } else { 1 };
    shell::run(
        shell::cargo(&["test", "-p", "lockgate-tests", "--test", "e2e", DIFFERENTIAL, "--", "--nocapture"])
            .env("LOCKGATE_DIFFERENTIAL_SECONDS", seconds.to_string())
            .env("LOCKGATE_DIFFERENTIAL_EXECUTED", executed.to_string())
            .env("LOCKGATE_DIFFERENTIAL_SEED", seed),
    )
}

fn stall() -> Result<()> {
    shell::step("how long the worst texts take");
    shell::run(
        shell::cargo(&["test", "--release", "-p", "lockgate-inspect", "--lib", STALL, "--", "--nocapture"])
            .env("LOCKGATE_STALL_BYTES", STALL_BYTES.to_string()),
    )
}

pub(crate) fn run(seconds: u64, only: Option<&str>) -> Result<()> {
    if only.is_none_or(|only| only == STALL) {
        stall()?;
    }
    if only == Some(STALL) {
        return Ok(());
    }
    if only.is_none_or(|only| only == DIFFERENTIAL) {
        differential(seconds)?;
    }
    if only == Some(DIFFERENTIAL) {
        return Ok(());
    }
    let fuzz = shell::root().join("tests/fuzz");
    bpf::ensure_toolchain()?;
    if Command::new("cargo-fuzz").arg("--version").output().is_err() {
        shell::run(&mut shell::cargo(&["install", "--locked", "cargo-fuzz"]))?;
    }
    let targets: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .context("tests/fuzz/fuzz_targets")?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    if targets.is_empty() {
        bail!("no fuzz target is called {:?}", only.unwrap_or_default());
    }
    for target in targets {
        shell::step(&format!("fuzz {target} for {seconds} s"));
        shell::run(
            Command::new("cargo")
                .args([
                    "fuzz",
                    "run",
                    &target,
                    "--",
                    &format!("-max_total_time={seconds}"),
                    "-rss_limit_mb=2048",
                    // No input may take long, whatever is in it.
                    "-timeout=20",
                ])
                .env("RUSTUP_TOOLCHAIN", bpf::NIGHTLY)
                .env_remove("CARGO")
                .current_dir(&fuzz),
        )?;
    }
    Ok(())
}
