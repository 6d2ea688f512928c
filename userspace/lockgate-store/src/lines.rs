//! The lines of one segment, in bounded memory.

use crate::layout::Segment;
use lockgate_audit::{Place, record::MAX_RECORD_BYTES};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
};

/// Reads ahead this much.
const BUFFER_BYTES: usize = 256 << 10;

/// A segment, read from some line on.
pub(crate) struct Lines {
    pub(crate) segment: Segment,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    /// Where the next line begins.
    pub(crate) offset: u64,
    /// Lines read so far.
    line: u64,
}

/// One line, without its newline.
pub(crate) struct Line<'a> {
    pub(crate) bytes: &'a [u8],
    /// False for one that has no newline (yet).
    pub(crate) complete: bool,
    pub(crate) place: Place,
}

impl Lines {
    /// From the beginning.
    pub(crate) fn open(segment: Segment) -> io::Result<Self> {
        let file = File::open(&segment.path)?;
        let reader = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { segment, reader, buffer: Vec::new(), offset: 0, line: 0 })
    }

    /// From the line that begins at `offset`.
    pub(crate) fn open_at(segment: Segment, offset: u64) -> io::Result<Self> {
        let mut lines = Self::open(segment)?;
        lines.reader.seek(SeekFrom::Start(offset))?;
        lines.offset = offset;
        Ok(lines)
    }

    /// The next line; None at the end. A line that has no newline is shown once; [`Self::again`] goes back to
    /// it. What is longer than a record may be comes in pieces that are not complete.
    pub(crate) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        let bound = MAX_RECORD_BYTES as u64 + 2;
        let read = self.reader.by_ref().take(bound).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let place = Place { segment: self.segment.name(), line: self.line, offset: self.offset };
        self.offset += read as u64;
        let complete = self.buffer.last() == Some(&b'\n');
        let bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        Ok(Some(Line { bytes, complete, place }))
    }

    /// Goes back to the line at `offset`, the last one that was shown. Opens the file anew when another one has
    /// its name by now (the writer makes a segment anew after a failed sync).
    pub(crate) fn again(&mut self, offset: u64) -> io::Result<()> {
        let named = std::fs::metadata(&self.segment.path)?;
        if named.ino() != self.reader.get_ref().metadata()?.ino() {
            self.reader = BufReader::with_capacity(BUFFER_BYTES, File::open(&self.segment.path)?);
        }
        self.reader.seek(SeekFrom::Start(offset))?;
        if self.offset != offset {
            self.line = self.line.saturating_sub(1);
            self.offset = offset;
        }
        Ok(())
    }
}
