//! The few file operations that the log's writer does, behind a trait: the operating system's, and in tests
//! one that fails on demand.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

/// A directory's operations.
pub(crate) trait Disk: Send + Sync {
    /// A new file; an error if it exists.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
    /// An existing file, to go on writing at its end.
    fn append(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>>;
    /// Replaces `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes names that were made or changed in a directory survive power loss.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// A segment that is being written; every write goes to its end.
pub(crate) trait SegmentFile: Send + Sync {
    /// Writes some of `bytes`.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Returns when what was written survives power loss. After an error nothing is known about what was
    /// written since the last success, also when a later call succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts it.
    fn truncate(&self, len: u64) -> io::Result<()>;
}

/// Writes all of `bytes`.
pub(crate) fn write_all(file: &dyn SegmentFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The operating system's files.
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(file))
    }

    fn append(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        Ok(Arc::new(OpenOptions::new().append(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl SegmentFile for File {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}
