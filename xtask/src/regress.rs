//! PostgreSQL's own regression suite, directly and through lockgate.

use crate::{setup, shell};
use anyhow::Result;
use std::process::Command;

pub(crate) fn run(tests: &[String]) -> Result<()> {
    setup::setup(setup::For::Regress)?;
    shell::step("build");
    shell::run(&mut shell::cargo(&["build", "--package", "lockgate", "--package", "lockgate-tests", "--bins"]))?;
    shell::step("pg_regress, directly and through lockgate");
    shell::run(
        Command::new(shell::target().join("debug/lockgate-regress"))
            .arg("--cache")
            .arg(shell::target().join("pg-regress"))
            .args(tests)
            .current_dir(shell::root()),
    )
}
