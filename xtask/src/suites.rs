//! Drivers' own test suites, directly and through lockgate: what passes directly and fails through lockgate is a defect,
//! or is listed here with the reason. The suites come with the drivers' source packages, into `target/drivers`.

use crate::{drivers::directory, shell};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A driver's suite.
struct Suite {
    /// The driver.
    name: &'static str,
    version: &'static str,
    kind: Kind,
    /// Statements that the superuser runs first.
    setup: &'static [&'static str],
    /// Settings of the server.
    settings: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
    /// Arguments of the runner.
    arguments: &'static [&'static str],
    /// Tests that cannot see a proxy as transparent, and why.
    known: &'static [(&'static str, &'static str)],
}

enum Kind {
    /// A source package of PyPI, its tests run by pytest on the driver as this package installs it.
    Python { installs: &'static str, beside: &'static [&'static str] },
    /// A source package of crates.io, whose tests dial this port.
    Rust { port: &'static str },
}

const SUITES: &[Suite] = &[
    Suite {
        name: "asyncpg",
        version: "0.32.0",
        kind: Kind::Python { installs: "asyncpg", beside: &["distro==1.9.0"] },
        setup: &[],
        settings: &[],
        environment: &[],
        // Not about the wire: code style, and clusters of the suite's own making.
        arguments: &["--ignore=tests/test__sourcecode.py", "--ignore=tests/test__environment.py"],
        known: &[(
            "test_executemany_server_failure_during_writes",
            "its 4 MB fit into the sockets while the first part of the batch is recorded, in a debug build at least",
        )],
    },
    Suite {
        name: "psycopg2",
        version: "2.9.13",
        kind: Kind::Python { installs: "psycopg2-binary", beside: &["setuptools==80.9.0"] },
        setup: &["CREATE DATABASE psycopg2_test", "CREATE EXTENSION IF NOT EXISTS hstore"],
        settings: &["max_prepared_transactions=10"],
        environment: &[],
        arguments: &[],
        known: &[(
            "test_flush_on_write",
            "a message of a client has 16 MiB at most, and the test sends one of 50",
        )],
    },
    Suite {
        name: "tokio-postgres",
        version: "0.7.18",
        kind: Kind::Rust { port: "5433" },
        setup: &[
            "CREATE ROLE pass_user PASSWORD 'password' LOGIN",
            "CREATE ROLE md5_user PASSWORD 'password' LOGIN",
            "CREATE ROLE scram_user PASSWORD 'password' LOGIN",
            "CREATE EXTENSION hstore",
            "CREATE EXTENSION citext",
            "CREATE EXTENSION ltree",
        ],
        settings: &[],
        environment: &[],
        arguments: &[
            "--features",
            "array-impls,with-bit-vec-0_9,with-chrono-0_4,with-serde_json-1,with-uuid-1",
        ],
        known: &[],
    },
];

/// What runs the tests of Python's suites.
const PYTEST: &str = "pytest==9.2.0";

/// All of them; a name in `wanted` limits it.
pub(crate) fn run(wanted: &[String]) -> Result<()> {
    let chosen =
        SUITES.iter().filter(|suite| wanted.is_empty() || wanted.iter().any(|name| name == suite.name));
    let mut failed = Vec::new();
    for suite in chosen {
        if let Err(error) = suite.compare() {
            failed.push(format!("{}: {error:#}", suite.name));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

impl Suite {
    fn home(&self) -> PathBuf {
        directory().join(format!("{}-suite", self.name))
    }

    fn source(&self) -> PathBuf {
        self.home().join(format!("{}-{}", self.name, self.version))
    }

    /// Runs it both ways.
    fn compare(&self) -> Result<()> {
        self.fetch()?;
        let mut failed = Vec::new();
        for route in ["direct", "lockgate"] {
            shell::step(&format!("{}'s own suite, {route}", self.name));
            let text = self.run(route)?;
            println!("{}, {route}: {}", self.name, summary(&text));
            failed.push(failures(&text));
        }
        let [direct, through] = &failed[..] else { bail!("two runs") };
        let is_known = |test: &str| self.known.iter().any(|(known, _)| test.contains(known));
        let new: Vec<&String> = through.difference(direct).filter(|test| !is_known(test)).collect();
        for (test, why) in self.known {
            println!("{}: known: {test}: {why}", self.name);
        }
        if !new.is_empty() {
            bail!("these pass directly and fail through lockgate: {new:#?}");
        }
        Ok(())
    }

    fn run(&self, route: &str) -> Result<String> {
        let mut command = Command::new(shell::target().join("debug/lockgate-through"));
        command.arg(route);
        self.setup.iter().for_each(|statement| {
            command.args(["--setup", statement]);
        });
        self.settings.iter().for_each(|setting| {
            command.args(["--setting", setting]);
        });
        match self.kind {
            Kind::Python { .. } => {
                command.arg("--").arg(self.home().join("venv/bin/python"));
                command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]);
            }
            Kind::Rust { port } => {
                command.args(["--port", port, "--"]);
                command.arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.args(["test", "--test", "test"]);
            }
        }
        let output = command
            .args(self.arguments)
            .envs(self.environment.iter().copied())
            .current_dir(self.source())
            .output()
            .context("lockgate-through")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let log = self.home().join(format!("{route}.log"));
        fs::write(&log, &text)?;
        if !summary(&text).contains(" passed") {
            bail!("the suite did not run: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(text)
    }

    fn fetch(&self) -> Result<()> {
        if self.home().join("fetched").exists() {
            return Ok(());
        }
        shell::step(&format!("{}'s own suite", self.name));
        fs::create_dir_all(self.home())?;
        match self.kind {
            Kind::Python { installs, beside } => self.fetch_python(installs, beside)?,
            Kind::Rust { .. } => self.fetch_rust()?,
        }
        Ok(fs::write(self.home().join("fetched"), self.version)?)
    }

    fn fetch_python(&self, installs: &str, beside: &[&str]) -> Result<()> {
        let home = self.home();
        shell::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(home.join("venv")))?;
        let pip = |verb: &str| {
            let mut pip = Command::new(home.join("venv/bin/pip"));
            pip.args([verb, "--quiet", "--disable-pip-version-check"]);
            pip
        };
        let package = format!("{installs}=={}", self.version);
        shell::run(pip("install").args(["--only-binary", ":all:", &package, PYTEST]).args(beside))?;
        let source = format!("{}=={}", self.name, self.version);
        shell::run(
            pip("download").args(["--no-deps", "--no-binary", self.name, &source, "--dest"]).arg(&home),
        )?;
        let archive = home.join(format!("{}-{}.tar.gz", self.name, self.version));
        shell::run(Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&home))?;
        // The tests are to find the driver that is installed, not its source beside them.
        let beside = self.source().join(self.name);
        if beside.is_dir() {
            fs::rename(beside, self.source().join("source"))?;
        }
        Ok(())
    }

    /// The package as cargo keeps it, with its own lock file; the driver tests have had it fetched.
    fn fetch_rust(&self) -> Result<()> {
        let found = shell::output(
            shell::cargo(&["metadata", "--format-version", "1"])
                .arg("--filter-platform")
                .arg("x86_64-unknown-linux-gnu"),
        )?;
        let metadata: serde_json::Value = serde_json::from_str(&found)?;
        let packages = metadata["packages"].as_array().context("packages")?;
        let manifest = packages
            .iter()
            .find(|package| package["name"] == self.name && package["version"] == self.version)
            .and_then(|package| package["manifest_path"].as_str())
            .with_context(|| {
                format!("{} {} is not among the workspace's packages", self.name, self.version)
            })?;
        let source = Path::new(manifest).parent().context("a directory")?;
        shell::run(Command::new("cp").arg("-r").arg(source).arg(self.source()))?;
        // A workspace of its own, below this one's target directory.
        let manifest = self.source().join("Cargo.toml");
        let text = fs::read_to_string(&manifest)?;
        Ok(fs::write(manifest, format!("{text}\n[workspace]\n"))?)
    }
}

/// The last line that counts tests.
fn summary(text: &str) -> &str {
    text.lines().rev().find(|line| line.contains(" passed")).unwrap_or("no summary")
}

/// `FAILED tests/test_pool.py::TestPool::test_it - why`, or `test it ... FAILED`.
fn failures(text: &str) -> BTreeSet<String> {
    let failed = |line: &str| {
        // What the tests themselves log begins with ERROR as well.
        let python = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "));
        let python = python.filter(|test| test.starts_with("tests/"));
        let rust = || line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
        python.or_else(rust).and_then(|test| test.split_whitespace().next()).map(str::to_owned)
    };
    text.lines().filter_map(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_found_in_what_both_runners_say() {
        let text = "..F.\nFAILED tests/test_a.py::A::test_b - AssertionError\nERROR tests/test_c.py\n\
                    test binary_copy::write ... FAILED\ntest parse::ok ... ok\n2 failed, 10 passed in 1.2s";
        let expected = ["binary_copy::write", "tests/test_a.py::A::test_b", "tests/test_c.py"];
        assert_eq!(failures(text).into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(summary(text), "2 failed, 10 passed in 1.2s");
    }
}
