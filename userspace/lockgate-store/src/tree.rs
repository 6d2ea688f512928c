//! The Merkle tree's hashes on disk ([`lockgate_audit::tree`]), so that a root or a proof does not take reading the log.
//!
//! ```text
//! <dir>/tree/0    every leaf, 32 bytes each
//! <dir>/tree/1    every whole subtree of 256 leaves
//! <dir>/tree/2    every whole subtree of 65,536 leaves, and so on
//! ```
//!
//! Rows are those of tiles of height 8 (<https://c2sp.org/tlog-tiles>), one file a row: a tile is 256 hashes of it, a partial
//! tile its beginning. A function of the log and of nothing else: what is missing or does not fit the signed head is made
//! anew from the records. Only the signing thread writes here ([`crate::signer`]); nobody's record waits for it.

use crate::{
    error::{During, StoreError},
    layout::Layout,
    lines::Lines,
    removed,
};
use lockgate_audit::{
    ChainHash, Checkpoint,
    tree::{self, Hash, Nodes},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::PathBuf,
};

const HASH_BYTES: u64 = 32;
/// Levels of the tree in one row of files: 2^8 hashes of a row make one of the next.
const HEIGHT: u32 = 8;
const WIDTH: u64 = 1 << HEIGHT;
/// 2^64 leaves need no more.
const MAX_ROWS: u32 = u64::BITS / HEIGHT;
/// Leaves that are gathered before they are written, while the tree is made from the log.
const GATHERED: usize = 1 << 14;

/// The rows.
pub(crate) struct Tree {
    dir: PathBuf,
    rows: Vec<File>,
    size: u64,
}

impl Tree {
    /// Opens what rests, as far as the signed head vouches for it: what is past it, or does not fit, is made anew from the
    /// log by [`Tree::catch_up`].
    pub(crate) fn open(layout: &Layout, head: &Checkpoint) -> Result<Self, StoreError> {
        let dir = layout.tree();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).during("create", &dir)?;
        let mut tree = Self { dir, rows: Vec::new(), size: 0 };
        let size = tree.row(0).and_then(|row| row.metadata()).map(|meta| meta.len() / HASH_BYTES);
        tree.size = size.during("open", tree.path(0))?;
        for number in 1..MAX_ROWS {
            let path = tree.path(number);
            if !path.exists() {
                break;
            }
            tree.row(number).during("open", path)?;
        }
        let signed = head.tip.seq;
        let fits = tree.size >= signed && tree.root(signed).is_ok_and(|root| root == head.root);
        if !fits && signed > 0 {
            tracing::info!(records = signed, "the tree of the audit log is made anew from its records");
        }
        tree.truncate(if fits { signed } else { 0 }).during("cut", tree.dir.clone())?;
        Ok(tree)
    }

    /// Opens what rests, for reading: it may be ahead of any signed head, or behind while the agent starts.
    pub(crate) fn read(layout: &Layout) -> Result<Self, StoreError> {
        let dir = layout.tree();
        let (mut rows, mut size) = (Vec::new(), 0);
        for number in 0..MAX_ROWS {
            let path = dir.join(number.to_string());
            match File::open(&path) {
                Ok(row) => {
                    if number == 0 {
                        size = row.metadata().during("read", &path)?.len() / HASH_BYTES;
                    }
                    rows.push(row);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error).during("open", path),
            }
        }
        Ok(Self { dir, rows, size })
    }

    /// How many records it covers.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the records that follow, as they were written.
    pub(crate) fn append(&mut self, entries: &[ChainHash]) -> io::Result<()> {
        self.append_leaves(&entries.iter().map(tree::leaf).collect::<Vec<_>>())
    }

    /// The leaf of a record.
    pub(crate) fn leaf(&self, seq: u64) -> io::Result<Hash> {
        self.fold(0, seq.checked_sub(1).ok_or(io::ErrorKind::InvalidInput)?, 1)
    }

    fn append_leaves(&mut self, leaves: &[Hash]) -> io::Result<()> {
        let at = self.size * HASH_BYTES;
        self.row(0)?.write_all_at(leaves.as_flattened(), at)?;
        let size = self.size + leaves.len() as u64;
        let (mut before, mut after) = (self.size, size);
        for number in 1..MAX_ROWS {
            (before, after) = (before >> HEIGHT, after >> HEIGHT);
            if before == after {
                break;
            }
            let whole = (before..after).map(|index| self.fold(number - 1, index * WIDTH, WIDTH));
            let whole = whole.collect::<io::Result<Vec<_>>>()?.concat();
            self.row(number)?.write_all_at(&whole, before * HASH_BYTES)?;
        }
        // What failed before comes again, and is written to the same places.
        self.size = size;
        Ok(())
    }

    /// Reads from the log what is missing up to record `through`: of what retention removed, the hashes.
    pub(crate) fn catch_up(&mut self, layout: &Layout, through: u64) -> Result<(), StoreError> {
        let (segments, _) = layout.list_segments()?;
        let begin = segments.partition_point(|segment| segment.first_seq <= self.size + 1).saturating_sub(1);
        let mut gathered = Vec::with_capacity(GATHERED);
        for segment in segments.into_iter().skip(begin) {
            self.take_removed(layout, segment.first_seq, through, &mut gathered)?;
            let mut seq = segment.first_seq;
            let path = segment.path.clone();
            let mut lines = Lines::open(segment).during("open", &path)?;
            while seq <= through
                && let Some(line) = lines.next().during("read", &path)?
                && line.complete
            {
                if seq > self.size + gathered.len() as u64 {
                    self.gather(tree::leaf(&ChainHash::of_line(line.bytes)), &mut gathered)?;
                }
                seq += 1;
            }
        }
        self.append_leaves(&gathered).during("write", self.dir.clone())
    }

    /// The hashes of removed records before a segment that are not taken in yet.
    fn take_removed(
        &mut self,
        layout: &Layout,
        before: u64,
        through: u64,
        gathered: &mut Vec<Hash>,
    ) -> Result<(), StoreError> {
        let next = self.size + gathered.len() as u64 + 1;
        if before <= next {
            return Ok(());
        }
        for hashes in removed::all(layout)?.into_iter().filter(|hashes| hashes.last >= next) {
            for (seq, leaf) in (hashes.first..).zip(hashes.leaves()?) {
                if seq < before && seq <= through && seq == self.size + gathered.len() as u64 + 1 {
                    self.gather(leaf, gathered)?;
                }
            }
        }
        Ok(())
    }

    fn gather(&mut self, leaf: Hash, gathered: &mut Vec<Hash>) -> Result<(), StoreError> {
        gathered.push(leaf);
        if gathered.len() == GATHERED {
            self.append_leaves(gathered).during("write", self.dir.clone())?;
            gathered.clear();
        }
        Ok(())
    }

    /// The root of the first records.
    pub(crate) fn root(&self, size: u64) -> io::Result<Hash> {
        tree::root(self, size)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.size = size;
        let mut whole = size;
        for number in 0..MAX_ROWS {
            let path = self.path(number);
            match OpenOptions::new().write(true).open(&path) {
                Ok(row) => row.set_len(whole * HASH_BYTES)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
            whole >>= HEIGHT;
        }
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn row(&mut self, number: u32) -> io::Result<&File> {
        while self.rows.len() <= number as usize {
            let path = self.path(self.rows.len() as u32);
            let mut options = OpenOptions::new();
            self.rows
                .push(options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?);
        }
        self.rows.get(number as usize).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The root over `count` hashes of a row, a power of two and at most a tile.
    fn fold(&self, row: u32, begin: u64, count: u64) -> io::Result<Hash> {
        let file = self.rows.get(row as usize).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; (count * HASH_BYTES) as usize];
        file.read_exact_at(&mut bytes, begin * HASH_BYTES)?;
        let (hashes, _) = bytes.as_chunks::<32>();
        let mut hashes = hashes.to_vec();
        while hashes.len() > 1 {
            let (pairs, _) = hashes.as_chunks::<2>();
            hashes = pairs.iter().map(|[left, right]| tree::node(left, right)).collect();
        }
        hashes.first().copied().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

impl Nodes for Tree {
    type Error = io::Error;

    fn node(&self, level: u32, index: u64) -> io::Result<Hash> {
        let (row, within) = (level / HEIGHT, level % HEIGHT);
        self.fold(row, index << within, 1 << within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_audit::{Tip, tree::Frontier};

    fn entry(n: u64) -> ChainHash {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        ChainHash(bytes)
    }

    fn head(size: u64, root: Hash) -> Checkpoint {
        let tip = Tip { seq: size, hash: entry(size) };
        Checkpoint {
            origin: "lockgate-audit/x".into(),
            tip,
            root,
            signed_at: "2026-11-21T09:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn rows_give_the_roots_that_the_leaves_give_however_they_came() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path(), None);
        let mut tree = Tree::open(&layout, &head(0, tree::empty())).unwrap();
        let mut frontier = Frontier::default();
        let mut roots = vec![frontier.root()];
        // Tiles are begun, ended, skipped over; past 65,536 there is a third row.
        let steps = [1, 1, 253, 1, 1, 511, 0, 3_000, 65_536, 300];
        for step in steps {
            let entries: Vec<_> = (tree.size()..tree.size() + step).map(entry).collect();
            tree.append(&entries).unwrap();
            for entry in &entries {
                frontier.push(lockgate_audit::tree::leaf(entry));
                roots.push(frontier.root());
            }
            assert_eq!(tree.root(tree.size()).unwrap(), frontier.root(), "{}", tree.size());
        }
        for size in [0, 1, 255, 256, 257, 700, 65_535, 65_536, 65_537, tree.size()] {
            assert_eq!(tree.root(size).unwrap(), roots[size as usize], "{size}");
        }
        // A head in the midst of it: what is past it is let go, and comes again.
        let size = tree.size();
        let mut again = Tree::open(&layout, &head(700, roots[700])).unwrap();
        assert_eq!(again.size(), 700);
        again.append(&(700..size).map(entry).collect::<Vec<_>>()).unwrap();
        assert_eq!(again.root(size).unwrap(), frontier.root());
        // Of another log, or shorter than signed: made anew.
        for head in [head(700, roots[701]), head(size + 1, roots[3])] {
            assert_eq!(Tree::open(&layout, &head).unwrap().size(), 0);
        }
    }
}
