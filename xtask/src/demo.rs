//! The README's first command: installs, builds, then lets `lockgate-demo` tell the story.

use crate::{setup, shell};
use anyhow::{Result, bail};
use std::process::Command;

pub(crate) fn run(interactive: bool) -> Result<()> {
    setup::setup(setup::For::Tests)?;
    if !setup::is_root() {
        bail!("the demo loads eBPF programs and makes cgroups: run it as root (sudo -E cargo xtask demo)");
    }
    shell::step("build (a few minutes the first time)");
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    let mut demo = Command::new(shell::target().join("debug/lockgate-demo"));
    if interactive {
        demo.arg("--interactive");
    }
    shell::run(demo.current_dir(shell::root()))
}
