//! One writer per directory: an advisory lock on `lock`, which also remembers whether the last one ended in
//! order. The kernel lets the lock go when its holder dies, however it dies.

use crate::error::{During, StoreError};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// The lock, held as long as this lives.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: File,
    /// Whether the holder before this one ended without [`DirLock::release_clean`].
    pub(crate) left_open: bool,
}

impl DirLock {
    /// Takes the lock or names who has it.
    pub(crate) fn take(dir: &Path, path: &Path) -> Result<Self, StoreError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .during("open", path)?;
        let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
        let mut holder = String::new();
        file.read_to_string(&mut holder).during("read", path)?;
        match locked {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let pid =
                    if holder.trim().is_empty() { "(unknown)".into() } else { holder.trim().to_owned() };
                return Err(StoreError::InUse { dir: dir.to_owned(), pid });
            }
            Err(errno) => return Err(std::io::Error::from(errno)).during("lock", path),
        }
        let mut lock = Self { file, left_open: !holder.is_empty() };
        lock.write(&format!("{}\n", std::process::id())).during("write", path)?;
        Ok(lock)
    }

    /// Notes that the log was closed in order; the lock itself goes with the value.
    pub(crate) fn release_clean(mut self) -> std::io::Result<()> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()
    }
}
