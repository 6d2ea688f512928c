//! The clients of the driver tests, as their registries publish them, pinned with hashes: installed once into
//! `target/drivers`, and anew when a pin changes.

use crate::{setup, shell, suites};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Headers and a driver that Debian packages.
const PACKAGES: &[&str] = &["libpq-dev", "libpostgresql-jdbc-java"];

/// What looks at the console's pages.
const BROWSER: &str = "chromium";

/// Whose promtool tries the alert rules.
const ALERTS: &str = "prometheus";

/// Where everything goes.
pub(crate) fn directory() -> PathBuf {
    shell::target().join("drivers")
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let mut packages = PACKAGES.to_vec();
    // Whoever has these from elsewhere keeps them: Debian's own would not go beside them.
    if !runs("python3", &["-c", "import venv, ensurepip"]) {
        packages.push("python3-venv");
    }
    if !runs("npm", &["--version"]) {
        packages.extend(["nodejs", "npm"]);
    }
    if !runs("javac", &["-version"]) {
        packages.push("default-jdk-headless");
    }
    if !runs(BROWSER, &["--version"]) {
        packages.push(BROWSER);
    }
    if !runs("promtool", &["--version"]) {
        packages.push(ALERTS);
    }
    setup::install(&packages)?;
    node(&shell::root().join("tests/browser"), &directory().join("browser"))?;
    node(&shell::root().join("tests/people"), &directory().join("people"))?;
    let pins = shell::root().join("tests/drivers");
    python(&pins.join("python/requirements.txt"), &directory().join("python"))?;
    python(&pins.join("sinks/requirements.txt"), &directory().join("sinks"))?;
    node(&pins.join("node"), &directory().join("node"))
}

fn python(requirements: &Path, into: &Path) -> Result<()> {
    if is_current(into, &[requirements])? {
        return Ok(());
    }
    shell::step("clients for Python");
    shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(into))?;
    shell::run(
        Command::new(into.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", "--require-hashes"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(requirements),
    )?;
    stamp(into, &[requirements])
}

fn node(pins: &Path, into: &Path) -> Result<()> {
    let files = [pins.join("package.json"), pins.join("package-lock.json")];
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    if is_current(into, &files)? {
        return Ok(());
    }
    shell::step(&format!("Node packages of {}", pins.display()));
    fs::create_dir_all(into)?;
    for file in &files {
        fs::copy(file, into.join(file.file_name().context("a file name")?))?;
    }
    shell::run(
        Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(into),
    )?;
    stamp(into, &files)
}

/// Whether what is installed was installed from these files.
fn is_current(into: &Path, files: &[&Path]) -> Result<bool> {
    let installed = fs::read(into.join("installed-from")).unwrap_or_default();
    Ok(installed == contents(files)?)
}

fn stamp(into: &Path, files: &[&Path]) -> Result<()> {
    Ok(fs::write(into.join("installed-from"), contents(files)?)?)
}

fn contents(files: &[&Path]) -> Result<Vec<u8>> {
    let read = |file: &&Path| fs::read(file).with_context(|| file.display().to_string());
    Ok(files.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// The driver tests, and on demand the suites.
pub(crate) fn run(suites: bool, wanted: &[String]) -> Result<()> {
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    if wanted.is_empty() {
        shell::run(&mut shell::cargo(&["test", "--package", "lockgate-tests", "--test", "drivers"]))?;
    }
    if suites {
        suites::run(wanted)?;
    }
    Ok(())
}
