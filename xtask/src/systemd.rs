//! `cargo xtask systemd`: the Debian package in a booted systemd, in namespaces of the suite's own.

use crate::{cluster, deb, image, setup, shell};
use anyhow::Result;
use std::process::Command;

/// systemd itself, and what makes its namespaces.
const PACKAGES: &[&str] = &["systemd", "util-linux", "iproute2"];

pub(crate) fn run() -> Result<()> {
    setup::setup(setup::For::Tests)?;
    setup::install(PACKAGES)?;
    let package = deb::make(image::Build::Development)?;
    let suite = cluster::suite("systemd")?;
    shell::step("the package under systemd");
    shell::run(
        Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(suite)
            .env("LOCKGATE_PACKAGE", package),
    )
}
