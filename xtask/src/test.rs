//! Every test, the privileged ones too, and one summary at the end.

use crate::{lint, setup, shell};
use anyhow::{Context, Result, bail};
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

pub(crate) fn all(filter: Option<&str>) -> Result<()> {
    setup::setup(setup::For::Tests)?;
    lint::all()?;
    shell::step("tests");
    counted(&["test", "--workspace", "--no-fail-fast"], filter)
}

/// The suites that need the daemon, the kernel or a server.
pub(crate) fn end_to_end(filter: Option<&str>) -> Result<()> {
    // The whole workspace is built, as `all` does: the same features, and the daemon that the tests start.
    shell::run(&mut shell::cargo(&["test", "--workspace", "--no-run", "--quiet"]))?;
    let mut arguments = vec!["test", "--workspace", "--no-fail-fast"];
    let suites = suites()?;
    arguments.extend(suites.iter().flat_map(|suite| ["--test", suite.as_str()]));
    counted(&arguments, filter)
}

/// The scale tests as large as they are meant. One after the other: each measures.
pub(crate) fn scale() -> Result<()> {
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    shell::run(
        shell::cargo(&["test", "--package", "lockgate-tests", "--test", "scale", "--", "--test-threads=1"])
            .env("LOCKGATE_SCALE", "whole"),
    )
}

/// The test binaries of package lockgate-tests.
fn suites() -> Result<Vec<String>> {
    let mut suites: Vec<String> = std::fs::read_dir(shell::root().join("tests/tests"))?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_suite =
                path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
            is_suite.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
        })
        .collect();
    suites.sort();
    Ok(suites)
}

/// Runs `cargo test`, passing its output on, and sums what every test binary reported. Cargo builds everything before
/// it runs anything, so the daemon that the end-to-end tests start is there.
fn counted(arguments: &[&str], filter: Option<&str>) -> Result<()> {
    let mut command = shell::cargo(arguments);
    command.args(filter).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start cargo test")?;
    let mut sum = Summary::default();
    let stdout = child.stdout.take().context("cargo test has no standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        sum.add(&line);
    }
    let status = child.wait()?;
    println!(
        "BPF LSM, SCTP, DCCP and SMC are not among these: cargo xtask e2e --kernel 6.12 runs them in a guest"
    );
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.ignored);
    if sum.passed == 0 {
        bail!("no test ran");
    }
    if !status.success() || sum.failed > 0 {
        bail!("tests failed ({status})");
    }
    Ok(())
}

#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Summary {
    /// Reads libtest's `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    pub(crate) fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for part in counts.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_what_libtest_prints() {
        let mut sum = Summary::default();
        sum.add(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        sum.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("test something ... ok");
        assert_eq!(sum, Summary { passed: 15, failed: 2, ignored: 1 });
    }
}
