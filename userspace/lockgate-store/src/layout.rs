//! Names inside the store's directory.

use crate::error::{During, StoreError};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Statements and identities rest here: for the agent's user alone.
const DIR_MODE: u32 = 0o700;

/// Where things rest.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) head_dir: PathBuf,
}

/// Where a record rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    /// The number of its segment's first record.
    pub(crate) segment: u64,
    /// Where its line begins.
    pub(crate) offset: u64,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    /// The number of its first record.
    pub(crate) first_seq: u64,
    pub(crate) path: PathBuf,
}

impl Segment {
    /// Its file name.
    pub(crate) fn name(&self) -> String {
        segment_name(self.first_seq)
    }
}

fn segment_name(first_seq: u64) -> String {
    format!("{first_seq:020}.jsonl")
}

impl Layout {
    pub(crate) fn new(dir: &Path, head_dir: Option<&Path>) -> Self {
        Self { dir: dir.to_owned(), head_dir: head_dir.map_or_else(|| dir.join("head"), Path::to_owned) }
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    pub(crate) fn segments(&self) -> PathBuf {
        self.dir.join("segments")
    }

    pub(crate) fn segment(&self, first_seq: u64) -> Segment {
        Segment { first_seq, path: self.segments().join(segment_name(first_seq)) }
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    pub(crate) fn repairs(&self) -> PathBuf {
        self.dir.join("repairs")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    pub(crate) fn search(&self) -> PathBuf {
        self.dir.join("search")
    }

    pub(crate) fn removed(&self) -> PathBuf {
        self.dir.join("removed")
    }

    pub(crate) fn holds(&self) -> PathBuf {
        self.dir.join("holds")
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Makes the directories that a log needs.
    pub(crate) fn create(&self) -> Result<(), StoreError> {
        for dir in [&self.dir, &self.segments(), &self.keys(), &self.head_dir] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(DIR_MODE)
                .create(dir)
                .during("create the directory", dir)?;
        }
        Ok(())
    }

    /// The segments in order, and names in their directory that are none.
    pub(crate) fn list_segments(&self) -> Result<(Vec<Segment>, Vec<String>), StoreError> {
        let dir = self.segments();
        let (mut segments, mut strangers) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&dir).during("list", &dir)? {
            let name = entry.during("list", &dir)?.file_name().to_string_lossy().into_owned();
            match name.strip_suffix(".jsonl").and_then(|stem| stem.parse().ok()) {
                Some(first_seq) if segment_name(first_seq) == name => {
                    segments.push(Segment { first_seq, path: dir.join(&name) });
                }
                _ => strangers.push(name),
            }
        }
        segments.sort();
        strangers.sort();
        Ok((segments, strangers))
    }
}
