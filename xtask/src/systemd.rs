//! `cargo xtask systemd`: the Debian package in a booted systemd, in namespaces of the suite's own, and the capture suite
//! against agents with the privileges of its unit.

use crate::{cluster, deb, image, setup, shell};
use anyhow::Result;
use std::process::Command;

/// systemd itself, and what makes its namespaces.
const PACKAGES: &[&str] = &["systemd", "util-linux", "iproute2"];

pub(crate) fn run() -> Result<()> {
    setup::setup(setup::For::Tests)?;
    setup::install(PACKAGES)?;
    let package = deb::make(image::Build::Development)?;
    shell::run(&mut shell::cargo(&["build", "--package", "lockgate-tests", "--bins"]))?;
    let capture = cluster::suite("capture")?;
    let suite = cluster::suite("systemd")?;
    shell::step("the package under systemd");
    shell::run(
        Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(suite)
            .env("LOCKGATE_PACKAGE", package)
            .env("LOCKGATE_CAPTURE", capture),
    )
}
