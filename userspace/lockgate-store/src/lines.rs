//! The lines of one segment, in bounded memory.

use crate::layout::{At, Layout, Segment};
use lockgate_audit::{Place, record::MAX_RECORD_BYTES};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
};

/// Reads ahead this much.
const BUFFER_BYTES: usize = 256 << 10;

/// The same where one line is wanted: most are shorter.
const LINE_BYTES: usize = 8 << 10;

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
        Self::open_at(segment, 0)
    }

    /// From the line that begins at `offset`.
    pub(crate) fn open_at(segment: Segment, offset: u64) -> io::Result<Self> {
        Self::open_with(segment, BUFFER_BYTES, offset)
    }

    /// Behind the last whole line.
    pub(crate) fn open_at_end(segment: Segment) -> io::Result<Self> {
        let mut file = File::open(&segment.path)?;
        let mut end = file.seek(SeekFrom::End(0))?;
        let mut chunk = vec![0; LINE_BYTES];
        while end > 0 {
            let begin = end.saturating_sub(LINE_BYTES as u64);
            let length = usize::try_from(end - begin).unwrap_or(LINE_BYTES);
            let read = chunk.get_mut(..length).unwrap_or_default();
            file.seek(SeekFrom::Start(begin))?;
            file.read_exact(read)?;
            if let Some(newline) = read.iter().rposition(|byte| *byte == b'\n') {
                return Self::open_at(segment, begin + newline as u64 + 1);
            }
            end = begin;
        }
        Self::open(segment)
    }

    fn open_with(segment: Segment, ahead: usize, offset: u64) -> io::Result<Self> {
        let mut file = File::open(&segment.path)?;
        file.seek(SeekFrom::Start(offset))?;
        let reader = BufReader::with_capacity(ahead, file);
        Ok(Self { segment, reader, buffer: Vec::new(), offset, line: 0 })
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

/// The line that rests at a place; None when no whole line does, or the segment is gone.
pub(crate) fn line_at(layout: &Layout, at: At) -> io::Result<Option<Vec<u8>>> {
    let mut lines = match Lines::open_with(layout.segment(at.segment), LINE_BYTES, at.offset) {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // No file is that long.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        Err(error) => return Err(error),
    };
    let line = lines.next()?.filter(|line| line.complete);
    Ok(line.map(|line| line.bytes.to_vec()))
}
