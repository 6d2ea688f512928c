//! Rewrites the stream of a COPY … TO STDOUT: text, csv and binary, masked fields alone; everything else goes on byte for
//! byte.
//!
//! The stream may be cut anywhere: messages hold many rows, one, or a part of one. What is kept of a field that is not whole
//! yet is bounded, so a stream of any length passes in constant memory, and rows cost no allocation.
//!
//! A COPY tells the names of no origins: what stands where is the plan's word alone. So whatever does not fit the plan to
//! the byte (another number of fields, a quote where none can be) is an error, and the session must end.

mod binary;
mod lines;

use self::{
    binary::{Binary, Part},
    lines::{Csv, Lines, Quoting, Text},
};
use super::{
    detector::Found,
    method::{Method, REDACTED},
    row::Field,
};
use crate::sql::copy::{CopyForm, CopyLayout};
use bytes::{BufMut, BytesMut};

/// Bytes that are kept of one masked field that is not whole yet; of a longer one only `[redacted]` is shown, whatever its
/// method. Fields that come whole have no such bound.
const MAX_HELD: usize = 1024 * 1024;

/// A copy stream could not be masked; nothing more of it must be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Nobody here can read the stream.
    #[error("a COPY {0} cannot be masked; use a plain text, csv or binary COPY TO STDOUT, or SELECT")]
    Unseen(&'static str),
    /// The statement was not judged as one whose answer is a copy.
    #[error("a copy began that no plan was made for, expected rows; run the COPY by itself")]
    Unplanned,
    /// The target copies other columns than the plan has.
    #[error("expected a copy of {expected} columns as planned, got {got}; the table changed, run it again")]
    ColumnCount {
        /// Columns planned.
        expected: usize,
        /// Columns that the target announced.
        got: usize,
    },
    /// The target copies in another format than was asked for.
    #[error("expected a copy in the format that was asked for (binary: {expected}), got the other")]
    Format {
        /// Whether binary was asked for.
        expected: bool,
    },
    /// A row has another number of fields than the plan.
    #[error("expected a copied row of {expected} fields, got another number; the session must end")]
    FieldCount {
        /// Fields planned.
        expected: usize,
    },
    /// The stream is not what its format allows.
    #[error("expected {0} in a copy stream, got something else; the session must end")]
    Malformed(&'static str),
    /// The stream ended inside a row.
    #[error("expected the end of a row at the end of a copy stream, got a part of one")]
    Unfinished,
}

/// What one piece of a stream came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rows that ended in it; a header is none.
    pub rows: u64,
    /// Fields that were changed.
    pub masked: u64,
}

/// The masks of one copy stream.
#[derive(Debug)]
pub struct CopyMask {
    /// What becomes of each column, and whether CSV quotes it always.
    fields: Vec<(Field, bool)>,
    other_encoding: bool,
    reader: Reader,
    /// The field that comes next, or is coming.
    column: usize,
    held: Held,
    scratch: Scratch,
}

#[derive(Debug)]
enum Reader {
    Text(Lines<Text>),
    Csv(Lines<Csv>),
    Binary(Binary),
}

/// A masked field that is not whole yet.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    holds: bool,
    /// There was more.
    cut: bool,
}

/// Reused from field to field.
#[derive(Debug, Default)]
struct Scratch {
    value: BytesMut,
    shown: BytesMut,
}

impl CopyMask {
    pub(super) fn new(form: &CopyForm, fields: Vec<(Field, bool)>) -> Self {
        let reader = match &form.layout {
            CopyLayout::Text { delimiter, null } => Reader::Text(Lines::new(
                form,
                Text { delimiter: *delimiter, null: null.clone(), escaped: false },
            )),
            CopyLayout::Csv { delimiter, null, quote, escape, forced: _ } => Reader::Csv(Lines::new(
                form,
                Csv {
                    delimiter: *delimiter,
                    null: null.clone(),
                    quote: *quote,
                    escape: *escape,
                    at: Quoting::Start,
                    alone: fields.len() == 1,
                },
            )),
            CopyLayout::Binary => Reader::Binary(Binary::default()),
        };
        Self {
            fields,
            other_encoding: form.other_encoding,
            reader,
            column: 0,
            held: Held::default(),
            scratch: Scratch::default(),
        }
    }

    /// Takes the next piece of the stream, of any length, and writes what the client may see of it behind `out`. After an
    /// error what was written of this piece must be thrown away and the session must end.
    pub fn feed(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<Copied, CopyError> {
        let Self { fields, other_encoding, reader, column, held, scratch } = self;
        let mut row =
            Row { fields, other_encoding: *other_encoding, column, held, scratch, copied: Copied::default() };
        match reader {
            Reader::Text(lines) => lines.feed(&mut row, piece, out)?,
            Reader::Csv(lines) => lines.feed(&mut row, piece, out)?,
            Reader::Binary(binary) => binary.feed(&mut row, piece, out)?,
        }
        Ok(row.copied)
    }

    /// The stream is over.
    pub fn finish(&self) -> Result<(), CopyError> {
        let whole = match &self.reader {
            Reader::Text(lines) => lines.between,
            Reader::Csv(lines) => lines.between,
            Reader::Binary(binary) => binary.at == Part::Over,
        };
        if whole && self.column == 0 { Ok(()) } else { Err(CopyError::Unfinished) }
    }
}

/// Where in its row the stream is.
struct Row<'a> {
    fields: &'a [(Field, bool)],
    other_encoding: bool,
    column: &'a mut usize,
    held: &'a mut Held,
    scratch: &'a mut Scratch,
    copied: Copied,
}

impl<'a> Row<'a> {
    fn field(&self) -> Result<&'a (Field, bool), CopyError> {
        self.fields.get(*self.column).ok_or(CopyError::FieldCount { expected: self.fields.len() })
    }

    fn end(&mut self) -> Result<(), CopyError> {
        if *self.column + 1 != self.fields.len() {
            return Err(CopyError::FieldCount { expected: self.fields.len() });
        }
        *self.column = 0;
        Ok(())
    }
}

impl Held {
    fn hold(&mut self, piece: &[u8]) {
        let room = MAX_HELD - self.bytes.len().min(MAX_HELD);
        let (kept, dropped) = piece.split_at(piece.len().min(room));
        self.bytes.extend_from_slice(kept);
        self.holds = true;
        self.cut |= !dropped.is_empty();
    }

    /// The field's bytes with its last piece, and whether there was more; then whatever `with` makes of them.
    fn whole<T>(&mut self, last: &[u8], with: impl FnOnce(&[u8], bool) -> T) -> T {
        if !self.holds {
            return with(last, false);
        }
        self.hold(last);
        let made = with(&self.bytes, self.cut);
        self.bytes.clear();
        // A long value is rare: its room is not kept for the next.
        self.bytes.shrink_to(64 * 1024);
        (self.holds, self.cut) = (false, false);
        made
    }
}

/// What is shown of a value.
enum Shown {
    /// The value itself.
    AsIs,
    /// What stands in `scratch.shown`.
    Other,
    /// NULL.
    Null,
}

/// Masks or searches `scratch.value`.
fn show(field: &Field, scratch: &mut Scratch, cut: bool, other_encoding: bool) -> Shown {
    scratch.shown.clear();
    match field {
        Field::Pass => Shown::AsIs,
        Field::Mask(method) => {
            let whole = matches!(method, Method::Redact | Method::Null);
            // In rows the same value is UTF-8: shown in another encoding it would be another mask.
            let strange = other_encoding && !scratch.value.is_ascii();
            if (cut || strange) && !whole {
                scratch.shown.put_slice(REDACTED);
                return Shown::Other;
            }
            if method.apply(&scratch.value, &mut scratch.shown) { Shown::Other } else { Shown::Null }
        }
        Field::Detect(detectors, shape) => {
            found(detectors.redact_as(*shape, &scratch.value, &mut scratch.shown))
        }
    }
}

fn found(found: Found) -> Shown {
    match found {
        Found::Nothing => Shown::AsIs,
        Found::Written => Shown::Other,
        Found::Unwritable => Shown::Null,
    }
}

#[cfg(test)]
mod tests;
