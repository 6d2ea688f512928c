//! A temporary directory that other users can enter, and loopback ports that were free a moment ago.

use anyhow::{Context, Result};
use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// A directory of mode 0755, removed on drop.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Makes one under the system's temporary directory.
    pub fn new(name: &str) -> Result<Self> {
        let dir =
            tempfile::Builder::new().prefix(&format!("lockgate-{name}-")).tempdir().context("scratch")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file below it.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Writes a file that only root may read.
    pub fn write_secret(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.write(name, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(path)
    }
}

/// A loopback TCP port that nobody listened on a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
