//! SHA-256 of executables, remembered by what identifies the file's content.

use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

/// Larger executables are named but not hashed: a connection waits for the first hash.
const MAX_BYTES: u64 = 64 << 20;
/// Executables remembered; a host that runs more different ones hashes again.
const REMEMBERED: usize = 1024;

/// An open executable. Any change of its content changes its ctime.
#[derive(Debug)]
pub(super) struct Identity {
    file: File,
    key: Key,
}

/// Device, inode, size and ctime (seconds, nanoseconds).
pub(super) type Key = (u64, u64, u64, i64, i64);

impl Identity {
    pub(super) fn of(file: File) -> io::Result<Self> {
        let key = key(&file.metadata()?);
        Ok(Self { file, key })
    }
}

/// Of the file behind a path, links followed.
pub(super) fn key_of(path: &str) -> io::Result<Key> {
    Ok(key(&std::fs::metadata(path)?))
}

fn key(data: &std::fs::Metadata) -> Key {
    (data.dev(), data.ino(), data.len(), data.ctime(), data.ctime_nsec())
}

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<HashMap<Key, String>>);

impl Hashes {
    /// Lower-case hex; `None` when the file is too large or cannot be read.
    pub(super) fn hash(&self, identity: Identity) -> Option<String> {
        let key = identity.key;
        if let Some(known) = self.known().get(&key) {
            return Some(known.clone());
        }
        if key.2 > MAX_BYTES {
            return None;
        }
        let hash = sha256(identity.file).ok()?;
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key, hash.clone());
        Some(hash)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Key, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sha256(file: File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    // One byte more than allowed: a file that grows meanwhile is not hashed in part.
    let mut left = file.take(MAX_BYTES + 1);
    let mut total = 0u64;
    loop {
        let count = left.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        total += count as u64;
        hasher.update(&buffer[..count]);
    }
    if total > MAX_BYTES {
        Err(io::Error::from(io::ErrorKind::FileTooLarge))
    } else {
        Ok(hex::encode(hasher.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn hash(hashes: &Hashes, path: &std::path::Path) -> Option<String> {
        hashes.hash(Identity::of(File::open(path).unwrap()).unwrap())
    }

    #[test]
    fn a_changed_file_has_another_hash() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let hashes = Hashes::default();
        let first = hash(&hashes, file.path());
        assert_eq!(
            first.as_deref(),
            Some("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        );
        assert_eq!(hash(&hashes, file.path()), first);
        file.write_all(b"d").unwrap();
        assert_ne!(hash(&hashes, file.path()), first);
    }

    #[test]
    fn a_large_file_is_not_hashed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(hash(&Hashes::default(), file.path()), None);
    }
}
