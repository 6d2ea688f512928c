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

pub(crate) fn end_to_end(filter: Option<&str>) -> Result<()> {
    counted(&["test", "--package", "lockgate-tests", "--no-fail-fast"], filter)
}

/// Runs `cargo test`, passing its output on, and sums what every test binary reported.
fn counted(arguments: &[&str], filter: Option<&str>) -> Result<()> {
    // The end-to-end tests start the daemon that this builds.
    shell::run(&mut shell::cargo(&["build", "--package", "lockgate"]))?;
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
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Summary {
    /// Reads libtest's `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
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
        sum.add("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        sum.add("test something ... ok");
        assert_eq!(sum, Summary { passed: 15, failed: 2, ignored: 1 });
    }
}
