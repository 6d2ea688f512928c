//! What stays of segments that retention removed: the hashes of their records, as the leaves of the tree.
//!
//! ```text
//! <dir>/removed/<first record, 20 digits>.hashes    32 bytes a record
//! ```
//!
//! With them the signed root is still met, records that are left are still proven, and the tree can be made anew.

use crate::{
    error::{During, StoreError},
    layout::{Layout, Segment},
    lines::Lines,
    tree::Tree,
};
use lockgate_audit::{
    ChainHash,
    tree::{self, Hash},
};
use lockgate_model::custody::RemovedSegment;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

const HASH_BYTES: u64 = 32;

/// The hashes of one removed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hashes {
    pub(crate) first: u64,
    pub(crate) last: u64,
    path: PathBuf,
}

/// All that rest, oldest first. A file that is empty or torn counts as none.
pub(crate) fn all(layout: &Layout) -> Result<Vec<Hashes>, StoreError> {
    let dir = layout.removed();
    let mut found = Vec::new();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).during("list", dir),
    };
    for entry in entries {
        let entry = entry.during("list", &dir)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let first = name.strip_suffix(".hashes").and_then(|stem| stem.parse::<u64>().ok());
        let bytes = entry.metadata().during("read", entry.path())?.len();
        if let Some(first) = first
            && first > 0
            && bytes > 0
            && bytes.is_multiple_of(HASH_BYTES)
        {
            found.push(Hashes { first, last: first + bytes / HASH_BYTES - 1, path: entry.path() });
        }
    }
    found.sort_by_key(|hashes| hashes.first);
    Ok(found)
}

/// Those that together cover the records from one to another, without a hole; None when they do not.
pub(crate) fn covering(layout: &Layout, from: u64, to: u64) -> Result<Option<Vec<Hashes>>, StoreError> {
    let mut next = from;
    let mut covering = Vec::new();
    for hashes in all(layout)? {
        if hashes.first == next && hashes.last <= to {
            next = hashes.last + 1;
            covering.push(hashes);
        }
    }
    Ok((next == to + 1).then_some(covering))
}

impl Hashes {
    /// The leaves, in order. One that cannot be read ends them.
    pub(crate) fn leaves(&self) -> Result<impl Iterator<Item = Hash> + use<>, StoreError> {
        let mut file = BufReader::new(File::open(&self.path).during("open", &self.path)?);
        Ok(std::iter::from_fn(move || {
            let mut leaf = [0; HASH_BYTES as usize];
            file.read_exact(&mut leaf).ok().map(|()| leaf)
        }))
    }
}

/// Writes a segment's hashes down, durably, and tells what the segment was. The hashes have to be those of the tree: what
/// is damaged stays as it is, it is evidence.
pub(crate) fn keep_hashes(
    layout: &Layout,
    segment: &Segment,
    tree: &Tree,
) -> Result<RemovedSegment, StoreError> {
    let dir = layout.removed();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).during("create", &dir)?;
    let path = dir.join(format!("{:020}.hashes", segment.first_seq));
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .during("create", &temporary)?;
    let (mut seq, mut bytes, mut sha256, mut leaves) = (segment.first_seq, 0, Sha256::new(), Vec::new());
    let mut lines = Lines::open(segment.clone()).during("open", &segment.path)?;
    while let Some(line) = lines.next().during("read", &segment.path)? {
        let leaf = tree::leaf(&ChainHash::of_line(line.bytes));
        if !line.complete || tree.leaf(seq).during("read the tree in", layout.tree())? != leaf {
            let what = format!("record {seq} is not the one that the tree holds; nothing of it is removed");
            return Err(StoreError::Damaged { dir: layout.dir.clone(), what });
        }
        sha256.update(line.bytes);
        sha256.update(b"\n");
        bytes += line.bytes.len() as u64 + 1;
        leaves.extend_from_slice(&leaf);
        seq += 1;
    }
    if seq == segment.first_seq {
        let what = format!("segment {} holds no record", segment.name());
        return Err(StoreError::Damaged { dir: layout.dir.clone(), what });
    }
    let write = || {
        file.write_all(&leaves)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&dir)?.sync_all()
    };
    let mut write = write;
    write().during("write", &path)?;
    let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(RemovedSegment { first: segment.first_seq, last: seq - 1, bytes, sha256 })
}
