//! A log's lines from a number on, as bytes, up to what its signed head covers.
//!
//! Nothing past the head is read: what is not synced may be cut off by a crash, and what went elsewhere by then could not
//! be taken back.

use crate::{
    error::{During, StoreError},
    head,
    layout::{At, Layout, Segment},
    lines::Lines,
};
use lockgate_audit::Checkpoint;

/// See the module.
pub(super) struct Cursor {
    layout: Layout,
    /// The number of the line that comes next.
    next: u64,
    current: Option<Lines>,
}

impl Cursor {
    /// Before record `next`.
    pub(super) fn at(layout: Layout, next: u64) -> Self {
        Self { layout, next, current: None }
    }

    /// The newest signed head: how many records it covers, and the note.
    pub(super) fn signed(layout: &Layout) -> Result<(u64, String), StoreError> {
        let Some(note) = head::read(layout)? else { return Ok((0, String::new())) };
        let size = Checkpoint::covers(&note).map_err(|error| StoreError::NotProven(error.to_string()))?;
        Ok((size, note))
    }

    /// The next line, when the head covers it.
    pub(super) fn line(&mut self, signed: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if self.next > signed {
            return Ok(None);
        }
        // Once where it stands, once in a file that has its name by now, once in the next segment.
        for _ in 0..3 {
            if let Some(lines) = &mut self.current {
                let (path, offset) = (lines.segment.path.clone(), lines.offset);
                if let Some(line) = lines.next().during("read", &path)?
                    && line.complete
                {
                    let bytes = line.bytes.to_vec();
                    self.next += 1;
                    return Ok(Some(bytes));
                }
                let segment = self.layout.segment(self.next);
                self.current = Some(match segment.path.exists() && segment.path != path {
                    true => open(segment, 0)?,
                    false => open(lines.segment.clone(), offset)?,
                });
            } else {
                self.current = Some(self.find()?);
            }
        }
        let what = format!("record {} is covered by the signed head and cannot be read", self.next);
        Err(StoreError::Damaged { dir: self.layout.dir.clone(), what })
    }

    fn find(&self) -> Result<Lines, StoreError> {
        let (segments, _) = self.layout.list_segments()?;
        let at = segments.partition_point(|segment| segment.first_seq <= self.next).checked_sub(1);
        let removed = || {
            StoreError::NotProven(format!(
                "record {} is not in the log any more: retention removed it before it reached the database. `lockgate store \
                 copy` takes such a log over",
                self.next
            ))
        };
        let segment = at.and_then(|at| segments.into_iter().nth(at)).ok_or_else(removed)?;
        let (first, path) = (segment.first_seq, segment.path.clone());
        let mut lines = open(segment, 0)?;
        for _ in first..self.next {
            if lines.next().during("read", &path)?.is_none_or(|line| !line.complete) {
                return Err(removed());
            }
        }
        Ok(lines)
    }

    /// Goes to its place, so that it is known; a place that is not there any more shows when it is read.
    pub(super) fn settle(&mut self) {
        self.current = self.find().ok();
    }

    /// Where the next line begins, once it is known.
    pub(super) fn place(&self) -> Option<At> {
        self.current.as_ref().map(|lines| At { segment: lines.segment.first_seq, offset: lines.offset })
    }
}

/// Bytes of a log that come after a place.
pub(super) fn bytes_after(layout: &Layout, place: At) -> u64 {
    let Ok((segments, _)) = layout.list_segments() else { return 0 };
    let length = |segment: &Segment| std::fs::metadata(&segment.path).map_or(0, |metadata| metadata.len());
    let of = |segment: &Segment| match segment.first_seq == place.segment {
        true => length(segment).saturating_sub(place.offset),
        false => length(segment),
    };
    segments.iter().filter(|segment| segment.first_seq >= place.segment).map(of).sum()
}

fn open(segment: Segment, offset: u64) -> Result<Lines, StoreError> {
    let path = segment.path.clone();
    Lines::open_at(segment, offset).during("open", path)
}
