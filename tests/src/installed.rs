//! What `cargo xtask setup` installed for the tests: drivers as their registries publish them.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// A file or directory below `target/drivers`.
pub fn installed(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let path = target.join("drivers").join(name);
    ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// A file below `tests/drivers`: what the clients run.
pub fn client_source(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("drivers").join(name);
    ensure!(path.exists(), "{} is missing", path.display());
    Ok(path.display().to_string())
}

/// Holds events against OCSF's published schema; how many there are of each class, as JSON.
pub fn ocsf_classes(events: &Path) -> Result<String> {
    let output = std::process::Command::new(installed("sinks/bin/python")?)
        .arg(client_source("sinks/ocsf.py")?)
        .arg(events)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
