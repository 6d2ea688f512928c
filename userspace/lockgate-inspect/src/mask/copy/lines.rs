//! The formats of lines: text and csv. Where a field ends, which value its bytes stand for, and how another value is written
//! in its place. What becomes of a value is the caller's.

use super::{CopyError, Row, Scratch, Shown, show};
use crate::{mask::row::Field, sql::copy::CopyForm};
use bytes::{BufMut, BytesMut};
use memchr::{memchr, memchr2, memchr3};

/// NULL strings that people use. In the text format a value that is spelled like the NULL string looks the same, so any
/// other string would tell which values it is equal to.
const USUAL_NULLS: [&[u8]; 9] = [b"\\N", b"", b"NULL", b"null", b"Null", b"N/A", b"NA", b"None", b"nil"];

/// A format of lines: where its fields end and how a value is written in it.
pub(super) trait Format {
    /// Where the field that is being read ends, relative to `rest`; None when not in it.
    fn end(&mut self, rest: &[u8]) -> Result<Option<usize>, CopyError>;
    /// The value that raw bytes stand for, written to `value`; false for NULL.
    fn decode(&self, raw: &[u8], cut: bool, value: &mut BytesMut) -> bool;
    fn encode(&self, value: &[u8], forced: bool, out: &mut BytesMut);
    fn null(&self) -> &[u8];
    /// A new field begins.
    fn begin(&mut self);
}

/// Rows that are lines, in either format.
#[derive(Debug)]
pub(super) struct Lines<F> {
    format: F,
    /// The line at hand holds names.
    header: bool,
    /// Nothing of the field that comes next has come.
    pub(super) between: bool,
}

impl<F: Format> Lines<F> {
    pub(super) fn new(form: &CopyForm, format: F) -> Self {
        Self { format, header: form.header, between: true }
    }

    pub(super) fn feed(
        &mut self,
        row: &mut Row<'_>,
        piece: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), CopyError> {
        // What stands between these two goes on as it is; the field at hand begins at the second.
        let (mut run, mut at) = (0, 0);
        while let Some(rest) = piece.get(at..).filter(|rest| !rest.is_empty()) {
            let (field, forced) = row.field()?;
            self.between = false;
            let end = self.format.end(rest)?;
            let passes = self.header || matches!(field, Field::Pass);
            let Some((raw, terminator)) = end.and_then(|end| Some((rest.get(..end)?, *rest.get(end)?)))
            else {
                if !passes {
                    out.put_slice(piece.get(run..at).unwrap_or_default());
                    row.held.hold(rest);
                    run = piece.len();
                }
                break;
            };
            if !passes {
                out.put_slice(piece.get(run..at).unwrap_or_default());
                let (format, scratch, other) = (&self.format, &mut *row.scratch, row.other_encoding);
                let changed = row
                    .held
                    .whole(raw, |raw, cut| rewrite(format, field, *forced, raw, cut, other, scratch, out));
                row.copied.masked += u64::from(changed);
                run = at + raw.len();
            }
            at += raw.len() + 1;
            self.format.begin();
            self.between = true;
            if terminator == b'\n' {
                row.end()?;
                row.copied.rows += u64::from(!self.header);
                self.header = false;
            } else {
                *row.column += 1;
                // The line goes on: a field follows, be it an empty one.
                self.between = false;
            }
        }
        out.put_slice(piece.get(run..).unwrap_or_default());
        Ok(())
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one row, borrowed apart")]
fn rewrite<F: Format>(
    format: &F,
    field: &Field,
    forced: bool,
    raw: &[u8],
    cut: bool,
    other_encoding: bool,
    scratch: &mut Scratch,
    out: &mut BytesMut,
) -> bool {
    scratch.value.clear();
    if !format.decode(raw, cut, &mut scratch.value) {
        out.put_slice(format.null());
        return false;
    }
    match show(field, scratch, cut, other_encoding) {
        Shown::AsIs => {
            out.put_slice(raw);
            return false;
        }
        Shown::Other => format.encode(&scratch.shown, forced, out),
        Shown::Null => out.put_slice(format.null()),
    }
    true
}

/// The text format: a backslash keeps what follows from being a delimiter or the end of a line.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) delimiter: u8,
    pub(super) null: Vec<u8>,
    /// The last byte was such a backslash.
    pub(super) escaped: bool,
}

impl Text {
    /// The letter that stands for a byte behind a backslash (CopyAttributeOutText in copyto.c).
    const LETTERS: [(u8, u8); 6] =
        [(b'\x08', b'b'), (b'\x0c', b'f'), (b'\n', b'n'), (b'\r', b'r'), (b'\t', b't'), (b'\x0b', b'v')];
}

impl Format for Text {
    fn end(&mut self, rest: &[u8]) -> Result<Option<usize>, CopyError> {
        let mut at = 0;
        loop {
            if self.escaped {
                match rest.get(at) {
                    None => return Ok(None),
                    Some(b'\n') => return Err(CopyError::Malformed("no line break behind a backslash")),
                    Some(_) => at += 1,
                }
                self.escaped = false;
            }
            let tail = rest.get(at..).unwrap_or_default();
            let Some(found) = memchr3(self.delimiter, b'\n', b'\\', tail) else { return Ok(None) };
            if tail.get(found) != Some(&b'\\') {
                return Ok(Some(at + found));
            }
            self.escaped = true;
            at += found + 1;
        }
    }

    fn decode(&self, raw: &[u8], cut: bool, value: &mut BytesMut) -> bool {
        if raw == self.null && !cut && USUAL_NULLS.contains(&self.null.as_slice()) {
            return false;
        }
        let mut rest = raw;
        while let Some(at) = memchr(b'\\', rest) {
            let (plain, escape) = rest.split_at(at);
            value.put_slice(plain);
            let Some((&byte, after)) = escape.get(1..).and_then(<[u8]>::split_first) else { return true };
            let letter = Self::LETTERS.iter().find(|(_, letter)| *letter == byte);
            value.put_u8(letter.map_or(byte, |(meant, _)| *meant));
            rest = after;
        }
        value.put_slice(rest);
        true
    }

    fn encode(&self, value: &[u8], _forced: bool, out: &mut BytesMut) {
        let special = |byte: &u8| *byte < b' ' || *byte == b'\\' || *byte == self.delimiter;
        if !value.iter().any(special) {
            out.put_slice(value);
            return;
        }
        for &byte in value {
            if let Some((_, letter)) = Self::LETTERS.iter().find(|(meant, _)| *meant == byte) {
                out.put_slice(&[b'\\', *letter]);
            } else if byte == b'\\' || byte == self.delimiter {
                out.put_slice(&[b'\\', byte]);
            } else {
                out.put_u8(byte);
            }
        }
    }

    fn null(&self) -> &[u8] {
        &self.null
    }

    fn begin(&mut self) {
        self.escaped = false;
    }
}

/// The csv format: between quotes everything is the value's.
#[derive(Debug)]
pub(super) struct Csv {
    pub(super) delimiter: u8,
    pub(super) null: Vec<u8>,
    pub(super) quote: u8,
    pub(super) escape: u8,
    pub(super) at: Quoting,
    /// The only column: a value `\.` is quoted.
    pub(super) alone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Before the first byte of a field.
    Start,
    /// In a field without quotes.
    Plain,
    /// Between quotes.
    Inside,
    /// Behind a quote that may be the first of two (where the quote escapes itself).
    MaybeClosed,
    /// Behind the escape character.
    Escaped,
    /// Behind the closing quote.
    Closed,
}

impl Format for Csv {
    fn end(&mut self, rest: &[u8]) -> Result<Option<usize>, CopyError> {
        let mut at = 0;
        while let Some(&byte) = rest.get(at) {
            let tail = rest.get(at..).unwrap_or_default();
            match self.at {
                Quoting::Start if byte == self.quote => {
                    self.at = Quoting::Inside;
                    at += 1;
                }
                Quoting::Start => self.at = Quoting::Plain,
                Quoting::Plain => {
                    let Some(found) = memchr3(self.delimiter, b'\n', self.quote, tail) else {
                        return Ok(None);
                    };
                    if tail.get(found) == Some(&self.quote) {
                        return Err(CopyError::Malformed("no quote inside an unquoted field"));
                    }
                    return Ok(Some(at + found));
                }
                Quoting::Inside => {
                    let Some(found) = memchr2(self.quote, self.escape, tail) else { return Ok(None) };
                    self.at = match (tail.get(found) == Some(&self.quote), self.quote == self.escape) {
                        (true, true) => Quoting::MaybeClosed,
                        (true, false) => Quoting::Closed,
                        (false, _) => Quoting::Escaped,
                    };
                    at += found + 1;
                }
                Quoting::MaybeClosed if byte == self.quote => {
                    self.at = Quoting::Inside;
                    at += 1;
                }
                Quoting::Escaped if byte == self.quote || byte == self.escape => {
                    self.at = Quoting::Inside;
                    at += 1;
                }
                Quoting::Escaped => {
                    return Err(CopyError::Malformed("a quote or an escape behind an escape"));
                }
                Quoting::MaybeClosed | Quoting::Closed if byte == self.delimiter || byte == b'\n' => {
                    return Ok(Some(at));
                }
                Quoting::MaybeClosed | Quoting::Closed => {
                    return Err(CopyError::Malformed("the end of a field behind a closing quote"));
                }
            }
        }
        Ok(None)
    }

    fn decode(&self, raw: &[u8], cut: bool, value: &mut BytesMut) -> bool {
        let Some(inner) = raw.strip_prefix(&[self.quote]) else {
            value.put_slice(raw);
            // The server quotes a value that is spelled like its NULL string.
            return cut || raw != self.null;
        };
        let inner = if cut { inner } else { inner.strip_suffix(&[self.quote]).unwrap_or(inner) };
        let mut rest = inner;
        while let Some(at) = memchr(self.escape, rest) {
            let (plain, escape) = rest.split_at(at);
            value.put_slice(plain);
            let Some((&byte, after)) = escape.get(1..).and_then(<[u8]>::split_first) else { return true };
            value.put_u8(byte);
            rest = after;
        }
        value.put_slice(rest);
        true
    }

    fn encode(&self, value: &[u8], forced: bool, out: &mut BytesMut) {
        let special =
            |byte: &u8| *byte == self.delimiter || *byte == self.quote || matches!(byte, b'\n' | b'\r');
        let quoted =
            forced || value == self.null || value.iter().any(special) || self.alone && value == b"\\.";
        if !quoted {
            out.put_slice(value);
            return;
        }
        out.put_u8(self.quote);
        for &byte in value {
            if byte == self.quote || byte == self.escape {
                out.put_u8(self.escape);
            }
            out.put_u8(byte);
        }
        out.put_u8(self.quote);
    }

    fn null(&self) -> &[u8] {
        &self.null
    }

    fn begin(&mut self) {
        self.at = Quoting::Start;
    }
}
