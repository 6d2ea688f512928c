//! The binary format of COPY: a header, rows of counted fields with their lengths, a trailer.

use super::{CopyError, Row, Scratch, Shown, show};
use crate::mask::row::Field;
use bytes::{BufMut, BytesMut};

/// What a binary copy begins with (COPY, "File Header").
const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags and the length of the header's extension.
const BINARY_HEADER: usize = SIGNATURE.len() + 4 + 4;

/// The binary format: a header, rows of counted fields with their lengths, a count of -1.
#[derive(Debug, Default)]
pub(super) struct Binary {
    pub(super) at: Part,
    /// A header or a number that is not whole yet.
    pending: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Part {
    #[default]
    Header,
    /// So many bytes of the header's extension are left.
    Extension(usize),
    /// A row's number of fields.
    Count,
    /// A field's length.
    Length,
    /// So many bytes of a field are left.
    Body(usize),
    /// Behind the trailer.
    Over,
}

impl Binary {
    pub(super) fn feed(
        &mut self,
        row: &mut Row<'_>,
        piece: &[u8],
        out: &mut BytesMut,
    ) -> Result<(), CopyError> {
        let mut rest = piece;
        loop {
            match self.at {
                Part::Header => {
                    let Some(header) = self.take::<BINARY_HEADER>(&mut rest) else { return Ok(()) };
                    // Neither OIDs nor any other critical flag.
                    let plain =
                        header.strip_prefix(SIGNATURE).and_then(|header| header.split_first_chunk::<4>());
                    let Some((&[0, 0, _, _], length)) = plain else {
                        return Err(CopyError::Malformed("the header of a binary copy"));
                    };
                    let length = length.first_chunk().copied().map_or(-1, i32::from_be_bytes);
                    let length =
                        length_of(length)?.ok_or(CopyError::Malformed("a length of a header's extension"))?;
                    out.put_slice(&header);
                    self.at = Part::Extension(length);
                }
                Part::Extension(left) => {
                    let extension = split(&mut rest, left);
                    out.put_slice(extension);
                    self.at = Part::Extension(left - extension.len());
                    if left > extension.len() {
                        return Ok(());
                    }
                    self.at = Part::Count;
                }
                Part::Count => {
                    let Some(count) = self.take::<2>(&mut rest) else { return Ok(()) };
                    let number = i16::from_be_bytes(count);
                    out.put_slice(&count);
                    self.at = match usize::try_from(number) {
                        Err(_) if number == -1 => Part::Over,
                        Ok(fields) if fields == row.fields.len() && fields > 0 => Part::Length,
                        Ok(_) | Err(_) => return Err(CopyError::FieldCount { expected: row.fields.len() }),
                    };
                }
                Part::Length => {
                    let Some(length) = self.take::<4>(&mut rest) else { return Ok(()) };
                    let (field, _) = row.field()?;
                    match length_of(i32::from_be_bytes(length))? {
                        None => {
                            out.put_slice(&length);
                            self.next(row)?;
                        }
                        Some(bytes) => {
                            if matches!(field, Field::Pass) {
                                out.put_slice(&length);
                            }
                            self.at = Part::Body(bytes);
                        }
                    }
                }
                Part::Body(left) => {
                    let body = split(&mut rest, left);
                    let (field, _) = row.field()?;
                    let left = left - body.len();
                    self.at = Part::Body(left);
                    if matches!(field, Field::Pass) {
                        out.put_slice(body);
                    } else if left > 0 {
                        row.held.hold(body);
                    }
                    if left > 0 {
                        return Ok(());
                    }
                    if !matches!(field, Field::Pass) {
                        let (scratch, other) = (&mut *row.scratch, row.other_encoding);
                        let changed =
                            row.held.whole(body, |raw, cut| binary(field, raw, cut, other, scratch, out))?;
                        row.copied.masked += u64::from(changed);
                    }
                    self.next(row)?;
                }
                Part::Over if rest.is_empty() => return Ok(()),
                Part::Over => return Err(CopyError::Malformed("nothing behind the trailer")),
            }
        }
    }

    fn next(&mut self, row: &mut Row<'_>) -> Result<(), CopyError> {
        if *row.column + 1 == row.fields.len() {
            row.end()?;
            row.copied.rows += 1;
            self.at = Part::Count;
        } else {
            *row.column += 1;
            self.at = Part::Length;
        }
        Ok(())
    }

    /// The next so many bytes, once they are all there.
    fn take<const N: usize>(&mut self, rest: &mut &[u8]) -> Option<[u8; N]> {
        if self.pending.is_empty()
            && let Some((whole, after)) = rest.split_first_chunk::<N>()
        {
            *rest = after;
            return Some(*whole);
        }
        let missing = N.saturating_sub(self.pending.len());
        self.pending.extend_from_slice(split(rest, missing));
        let whole = self.pending.first_chunk::<N>().copied()?;
        self.pending.clear();
        Some(whole)
    }
}

fn binary(
    field: &Field,
    raw: &[u8],
    cut: bool,
    other_encoding: bool,
    scratch: &mut Scratch,
    out: &mut BytesMut,
) -> Result<bool, CopyError> {
    scratch.value.clear();
    scratch.value.put_slice(raw);
    let (shown, changed) = match show(field, scratch, cut, other_encoding) {
        Shown::AsIs => (&scratch.value, false),
        Shown::Other => (&scratch.shown, true),
        Shown::Null => {
            out.put_i32(-1);
            return Ok(true);
        }
    };
    let length = i32::try_from(shown.len()).map_err(|_| CopyError::Malformed("a value below 2 GiB"))?;
    out.put_i32(length);
    out.put_slice(shown);
    Ok(changed)
}

/// A length; None is NULL.
fn length_of(number: i32) -> Result<Option<usize>, CopyError> {
    match usize::try_from(number) {
        Ok(length) => Ok(Some(length)),
        Err(_) if number == -1 => Ok(None),
        Err(_) => Err(CopyError::Malformed("a length")),
    }
}

/// As much of the first `count` bytes as there is.
fn split<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (first, after) = rest.split_at(count.min(rest.len()));
    *rest = after;
    first
}
