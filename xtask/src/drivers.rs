//! The clients of the driver tests, as their registries publish them, pinned with hashes: installed once into
//! `target/drivers`, and anew when a pin changes. And a driver's own test suite, run directly and through lockgate.

use crate::{setup, shell};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Headers and a driver that Debian packages.
const PACKAGES: &[&str] = &["libpq-dev", "libpostgresql-jdbc-java"];

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
    setup::install(&packages)?;
    let pins = shell::root().join("tests/drivers");
    python(&pins.join("python/requirements.txt"), &directory().join("python"))?;
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
    shell::step("clients for Node");
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

/// asyncpg's source, which has its suite; its tests want these beside it.
const ASYNCPG: &str = "0.32.0";
const SUITE_PACKAGES: &[&str] = &["pytest==9.2.0", "distro==1.9.0"];

/// Tests of asyncpg's suite that cannot see a proxy as transparent, and why.
const ASYNCPG_KNOWN: &[(&str, &str)] = &[(
    "test_executemany_server_failure_during_writes",
    "a batch is decided whole before its first byte goes on, so its first error comes behind it",
)];

/// The driver tests, and on demand the suites.
pub(crate) fn run(suites: bool) -> Result<()> {
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    shell::run(&mut shell::cargo(&["test", "--package", "lockgate-tests", "--test", "drivers"]))?;
    if suites {
        let (tests, python) = asyncpg()?;
        compare("asyncpg", &tests, &python, ASYNCPG_KNOWN)?;
    }
    Ok(())
}

/// Fetches the suite; answers its directory and the interpreter that runs it.
fn asyncpg() -> Result<(PathBuf, PathBuf)> {
    let into = directory().join("asyncpg-suite");
    let python = into.join("venv/bin/python");
    let source = into.join(format!("asyncpg-{ASYNCPG}"));
    if !source.join("tests").is_dir() {
        shell::step("asyncpg's own suite");
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(into.join("venv")))?;
        let package = format!("asyncpg=={ASYNCPG}");
        shell::run(
            Command::new(into.join("venv/bin/pip"))
                .args(["install", "--quiet", "--disable-pip-version-check", &package])
                .args(SUITE_PACKAGES),
        )?;
        shell::run(
            Command::new(into.join("venv/bin/pip"))
                .args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"])
                .args(["--no-binary", "asyncpg", &package, "--dest"])
                .arg(&into),
        )?;
        shell::run(
            Command::new("tar")
                .arg("xzf")
                .arg(into.join(format!("asyncpg-{ASYNCPG}.tar.gz")))
                .arg("-C")
                .arg(&into),
        )?;
        // The tests are to find the driver that is installed, not its source beside them.
        fs::rename(source.join("asyncpg"), source.join("source"))?;
    }
    Ok((source, python))
}

/// Runs a suite both ways: what fails through lockgate must fail directly too, or be known.
fn compare(name: &str, source: &Path, python: &Path, known: &[(&str, &str)]) -> Result<()> {
    let mut failed = Vec::new();
    for route in ["direct", "lockgate"] {
        shell::step(&format!("{name}'s own suite, {route}"));
        let output = Command::new(shell::target().join("debug/lockgate-through"))
            .args([route, "--"])
            .arg(python)
            // Not about the wire: code style, and clusters of the suite's own making.
            .args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"])
            .args(["--ignore=tests/test__sourcecode.py", "--ignore=tests/test__environment.py"])
            .current_dir(source)
            .output()
            .context("lockgate-through")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary = text.lines().rev().find(|line| line.contains(" passed")).unwrap_or("no summary");
        println!("{name}, {route}: {summary}");
        if !summary.contains(" passed") {
            bail!("{name}'s suite did not run: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        failed.push(failures(&text));
    }
    let [direct, through] = &failed[..] else { bail!("two runs") };
    let new: Vec<&String> = through
        .difference(direct)
        .filter(|test| !known.iter().any(|(known, _)| test.contains(known)))
        .collect();
    for (test, why) in known {
        println!("{name}: known: {test}: {why}");
    }
    if !new.is_empty() {
        bail!("{name}: these pass directly and fail through lockgate: {new:#?}");
    }
    Ok(())
}

/// `FAILED tests/test_pool.py::TestPool::test_it - why`
fn failures(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| {
        line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")).map(str::trim_start)
    });
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
