//! Other majors of PostgreSQL as targets: the sessions and the masks, against servers of each. A new major brings new views,
//! functions and columns, and with them new ways for masked values to get out.

use crate::{setup, shell};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What is run: every session test, and the suites that look for masked values.
const SUITES: &[(&str, &[&str])] = &[("session", &[]), ("e2e", &["masking::", "leaks::"])];

/// What does not fit here: dumps want a `pg_dump` of the server's own major or a later one, which the packages lack;
/// psql is the installed one, whose `\l` knows older catalogues only.
const LEFT_OUT: &[&str] =
    &["dump", "replication::backups_and_streams", "operating::psql_s_own_commands_work"];

pub(crate) fn run(wanted: &[String]) -> Result<()> {
    setup::setup(setup::For::Tests)?;
    let home = shell::target().join("drivers/postgres");
    install(&home)?;
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    let mut failed = Vec::new();
    for major in ["16", "17", "18"] {
        if !wanted.is_empty() && !wanted.iter().any(|one| one == major) {
            continue;
        }
        let bin = native(&home, major).join("bin");
        let version = shell::output(Command::new(bin.join("postgres")).arg("--version"))?;
        for (suite, filters) in SUITES {
            shell::step(&format!("{}: {suite} {}", version.trim(), filters.join(" ")));
            let mut tests = shell::cargo(&["test", "--package", "lockgate-tests", "--test", suite, "--"]);
            tests.args(*filters);
            LEFT_OUT.iter().for_each(|test| {
                tests.args(["--skip", test]);
            });
            tests.env("LOCKGATE_PG_BIN", &bin);
            if shell::run(&mut tests).is_err() {
                failed.push(format!("{major}: {suite}"));
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {failed:#?}");
    }
    Ok(())
}

/// The packages of `tests/drivers/postgres`, as their lock file has them.
fn install(home: &Path) -> Result<()> {
    let pins = shell::root().join("tests/drivers/postgres");
    let lock = fs::read(pins.join("package-lock.json"))?;
    if fs::read(home.join("installed-from")).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    shell::step("PostgreSQL 16, 17 and 18 from npm");
    fs::create_dir_all(home)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(pins.join(file), home.join(file))?;
    }
    shell::run(
        Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(home),
    )?;
    for major in ["16", "17", "18"] {
        link(&native(home, major))?;
    }
    Ok(fs::write(home.join("installed-from"), lock)?)
}

fn native(home: &Path, major: &str) -> PathBuf {
    home.join(format!("node_modules/postgres-{major}/native"))
}

/// Packages of npm have no symbolic links: these list theirs.
fn link(native: &Path) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct Link {
        source: PathBuf,
        target: PathBuf,
    }
    let links: Vec<Link> = serde_json::from_slice(&fs::read(native.join("pg-symlinks.json"))?)?;
    let package = native.parent().context("a package")?;
    for Link { source, target } in links {
        let target = package.join(target);
        if fs::symlink_metadata(&target).is_err() {
            std::os::unix::fs::symlink(package.join(source), target)?;
        }
    }
    Ok(())
}
