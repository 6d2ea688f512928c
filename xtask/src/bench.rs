//! Criterion benches, and pgbench side by side with other proxies.

use crate::{setup, shell};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(peers: bool, rounds: u32, seconds: u32) -> Result<()> {
    if !peers {
        setup::setup(setup::For::Build)?;
        return shell::run(&mut shell::cargo(&["bench", "--package", "lockgate-bench"]));
    }
    setup::setup(setup::For::Bench)?;
    shell::step("build (release)");
    shell::run(&mut shell::cargo(&[
        "build",
        "--release",
        "--package",
        "lockgate",
        "--package",
        "lockgate-bench",
        "--bins",
    ]))?;
    shell::run(
        Command::new(shell::target().join("release/lockgate-peers"))
            .args(["--rounds", &rounds.to_string(), "--seconds", &seconds.to_string()])
            .current_dir(shell::root()),
    )
}
