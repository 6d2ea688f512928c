//! Format, clippy with warnings denied, documentation links, layering.

use crate::{shell, tidy};
use anyhow::Result;

pub(crate) fn all() -> Result<()> {
    shell::step("format");
    shell::run(&mut shell::cargo(&["fmt", "--all", "--check"]))?;
    shell::step("layers");
    tidy::check()?;
    shell::step("clippy");
    shell::run(&mut shell::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]))
}
