//! PostgreSQL's own regression suite, directly and through lockgate.

use crate::{setup, shell};
use anyhow::Result;
use std::process::Command;

/// Which of the suite's plain reads lockgate calls more than a read, with the catalogue at hand: some 20 minutes.
pub(crate) fn judged() -> Result<()> {
    setup::setup(setup::For::Regress)?;
    shell::step("the suite's statements, judged");
    shell::run(&mut shell::cargo(&["test", "--package", "lockgate-tests", "--test", "regress_judged"]))
}

pub(crate) fn run(tests: &[String]) -> Result<()> {
    setup::setup(setup::For::Regress)?;
    shell::step("build");
    shell::run(&mut shell::cargo(&[
        "build",
        "--package",
        "lockgate",
        "--package",
        "lockgate-tests",
        "--bins",
    ]))?;
    shell::step("pg_regress, directly and through lockgate");
    shell::run(
        Command::new(shell::target().join("debug/lockgate-regress"))
            .arg("--cache")
            .arg(shell::target().join("pg-regress"))
            .args(tests)
            .current_dir(shell::root()),
    )
}
