//! Small things that must outlive the process, one file each: requests that wait, grants, overrides.
//!
//! A file is written beside its place, synced and moved there, and the directory is synced, so that after a crash there is
//! the old or the new value and nothing in between. It knows nothing of what the values mean; the audit log, not this, is
//! what is believed about the past.

use lockgate_model::port;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Identities and statements rest here: for the agent's user alone.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A value that is larger is none of ours.
const VALUE_MAX: u64 = 64 << 20;

/// Marks a file that is being written.
const UNFINISHED: &str = ".new";

/// A directory of small files.
#[derive(Clone, Debug)]
pub struct Shelf {
    dir: PathBuf,
}

impl Shelf {
    /// Opens `shelf` in the store's directory; makes it when missing, and clears away what a crash left half written.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(store: &Path) -> io::Result<Self> {
        let dir = store.join("shelf");
        fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.starts_with('.') || name.ends_with(UNFINISHED) || !name.chars().all(plain)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name on a shelf"),
            ));
        }
        Ok(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

impl port::Shelf for Shelf {
    fn put(&self, name: &str, value: &[u8]) -> io::Result<()> {
        let path = self.path(name)?;
        let unfinished = self.dir.join(format!("{name}{UNFINISHED}"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(&unfinished)?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        self.sync()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)?) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn all(&self) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if self.path(&name).is_err() {
                continue;
            }
            let read = entry.metadata().and_then(|metadata| {
                if metadata.len() > VALUE_MAX {
                    return Err(io::Error::other("larger than anything that is put here"));
                }
                fs::read(entry.path())
            });
            match read {
                Ok(value) => all.push((name, value)),
                Err(error) => tracing::error!(path = %entry.path().display(), %error, "reading the shelf"),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use port::Shelf as _;

    #[test]
    fn what_is_put_there_is_there_after_a_restart_and_half_writes_are_not() {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        shelf.put("req_1", b"one").unwrap();
        shelf.put("req_1", b"two").unwrap();
        shelf.put("grt_1.x", b"three").unwrap();
        shelf.remove("grt_1.x").unwrap();
        shelf.remove("never").unwrap();
        fs::write(store.path().join("shelf/req_2.new"), "half").unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        assert_eq!(shelf.all().unwrap(), [("req_1".to_owned(), b"two".to_vec())]);
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(store.path().join("shelf/req_1")).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn names_stay_on_the_shelf() {
        let store = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(store.path()).unwrap();
        for bad in ["", "..", "../x", "a/b", ".hidden", "x.new", "ä"] {
            assert!(shelf.put(bad, b"").is_err(), "{bad}");
        }
    }
}
