//! A disk that fails on demand, as real ones do: short writes, full, EIO, and a page cache that is lost with a
//! failed sync.

use crate::disk::{Disk, RealDisk, SegmentFile};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// What fails now.
#[derive(Default)]
pub(crate) struct Faults {
    /// Writes fail with this errno, after half of the bytes went through.
    pub(crate) write: Mutex<Option<i32>>,
    /// Cutting a file fails.
    pub(crate) truncate: AtomicBool,
    /// Syncs fail with EIO, and what was not synced before becomes zeros.
    pub(crate) sync: AtomicBool,
    /// New files cannot be made.
    pub(crate) create: AtomicBool,
}

/// Real files, with faults.
#[derive(Default)]
pub(crate) struct FailingDisk {
    pub(crate) faults: Arc<Faults>,
}

struct FailingFile {
    /// The file itself: its name may change.
    raw: File,
    inner: Arc<dyn SegmentFile>,
    faults: Arc<Faults>,
    synced: AtomicU64,
}

impl FailingDisk {
    fn wrap(&self, path: &Path, inner: Arc<dyn SegmentFile>) -> io::Result<Arc<dyn SegmentFile>> {
        let raw = OpenOptions::new().write(true).open(path)?;
        let synced = AtomicU64::new(raw.metadata()?.len());
        Ok(Arc::new(FailingFile { raw, inner, faults: self.faults.clone(), synced }))
    }
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        if self.faults.create.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        self.wrap(path, RealDisk.create(path)?)
    }

    fn append(&self, path: &Path) -> io::Result<Arc<dyn SegmentFile>> {
        self.wrap(path, RealDisk.append(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.sync_dir(path)
    }
}

impl SegmentFile for FailingFile {
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match *self.faults.write.lock().unwrap() {
            None => self.inner.write(bytes),
            Some(errno) if bytes.len() < 100 => Err(io::Error::from_raw_os_error(errno)),
            Some(_) => self.inner.write(&bytes[..bytes.len() / 2]),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let len = self.raw.metadata()?.len();
        if self.faults.sync.load(Ordering::SeqCst) {
            let synced = self.synced.load(Ordering::SeqCst);
            let lost = vec![0; usize::try_from(len.saturating_sub(synced)).unwrap()];
            self.raw.write_all_at(&lost, synced)?;
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.inner.sync_data()?;
        self.synced.store(len, Ordering::SeqCst);
        Ok(())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        if self.faults.truncate.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        self.inner.truncate(len)
    }
}
