//! The host's trust store, changed by the distribution's own tool.

use super::Authority;
use anyhow::{Context as _, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Where a distribution wants certificates that its administrator adds, with which ending, and what gathers them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    directory: &'static str,
    ending: &'static str,
    tool: &'static str,
}

/// Fedora and its like, SUSE, Debian and Alpine; what is there says which.
const STORES: [Store; 3] = [
    Store { directory: "/etc/pki/ca-trust/source/anchors", ending: "pem", tool: "update-ca-trust" },
    Store { directory: "/etc/pki/trust/anchors", ending: "pem", tool: "update-ca-certificates" },
    Store { directory: "/usr/local/share/ca-certificates", ending: "crt", tool: "update-ca-certificates" },
];

impl Store {
    /// This host's.
    pub(crate) fn of_host() -> anyhow::Result<Self> {
        let found = STORES
            .into_iter()
            .find(|store| Path::new(store.directory).is_dir() && program(store.tool).is_some());
        found.context(
            "this host has no trust store that is known here: install the package ca-certificates, or give jobs the \
             variables that `lockgate trust env` prints",
        )
    }

    /// Adds certificates; gives the files.
    pub(crate) fn add(&self, authorities: &[Authority]) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for authority in authorities {
            let path = Path::new(self.directory).join(format!("{}.{}", authority.file_stem(), self.ending));
            fs::write(&path, authority.pem()).with_context(|| path.display().to_string())?;
            files.push(path);
        }
        self.gather()?;
        Ok(files)
    }

    /// Takes away what was added, also for CAs that the configuration no longer has; gives the files.
    pub(crate) fn remove(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.directory).context(self.directory)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if is_own(stem) && path.extension().is_some_and(|ending| ending == self.ending) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
                files.push(path);
            }
        }
        if !files.is_empty() {
            self.gather()?;
        }
        Ok(files)
    }

    fn gather(&self) -> anyhow::Result<()> {
        let Some(tool) = program(self.tool) else { bail!("{} is not installed", self.tool) };
        let done = Command::new(&tool).output().with_context(|| tool.display().to_string())?;
        ensure!(
            done.status.success(),
            "{} failed: {}",
            self.tool,
            String::from_utf8_lossy(&done.stderr).trim()
        );
        Ok(())
    }
}

/// [`Authority::file_stem`]'s form: nobody else's file is taken away.
fn is_own(stem: &str) -> bool {
    stem.strip_prefix("lockgate-")
        .is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A program of that name; administrators' tools are not always in PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(usual)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::is_own;

    #[test]
    fn other_peoples_certificates_are_not_ours() {
        assert!(is_own("lockgate-d1617fe40ae4"));
        for other in
            ["lockgate", "lockgate-ca", "lockgate-of-the-bay", "d1617fe40ae4", "lockgate-d1617fe40ae4x"]
        {
            assert!(!is_own(other), "{other}");
        }
    }
}
