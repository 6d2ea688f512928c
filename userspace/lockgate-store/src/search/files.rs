//! tantivy's files, read by position instead of by mapping: a file that is cut or cannot be read is an error then, and
//! not a signal that ends the agent and every session with it.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tantivy::{
    Directory, HasLen,
    directory::{
        DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes, WatchCallback, WatchHandle, WritePtr,
        error::{DeleteError, LockError, OpenReadError, OpenWriteError},
    },
};

/// A directory of index files. Everything but reading is tantivy's own.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: PathBuf,
    inner: MmapDirectory,
}

impl Files {
    pub(super) fn open(dir: &Path) -> Result<Self, tantivy::TantivyError> {
        Ok(Self { dir: dir.to_owned(), inner: MmapDirectory::open(dir)? })
    }
}

/// One file. It stays readable when it is deleted, as tantivy wants it.
#[derive(Debug)]
struct Opened {
    file: File,
    len: usize,
}

impl HasLen for Opened {
    fn len(&self) -> usize {
        self.len
    }
}

impl FileHandle for Opened {
    fn read_bytes(&self, range: Range<usize>) -> io::Result<OwnedBytes> {
        let len = range.end.checked_sub(range.start).filter(|_| range.end <= self.len);
        let mut bytes = vec![0; len.ok_or(io::ErrorKind::InvalidInput)?];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        Ok(OwnedBytes::new(bytes))
    }
}

impl Directory for Files {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let open = || {
            let file = File::open(self.dir.join(path))?;
            let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
            Ok(Opened { file, len })
        };
        match open() {
            Ok(opened) => Ok(Arc::new(opened)),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => {
                Err(OpenReadError::FileDoesNotExist(path.to_owned()))
            }
            Err(error) => Err(OpenReadError::wrap_io_error(error, path.to_owned())),
        }
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.inner.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.inner.atomic_read(path)
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.inner.atomic_write(path, data)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.inner.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.inner.watch(callback)
    }
}
