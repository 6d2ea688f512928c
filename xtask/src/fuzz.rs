//! The fuzz targets of `tests/fuzz`, each for a bounded time. Needs `cargo-fuzz`, which it installs.

use crate::{bpf, shell};
use anyhow::{Context, Result, bail};
use std::process::Command;

pub(crate) fn run(seconds: u64, only: Option<&str>) -> Result<()> {
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
