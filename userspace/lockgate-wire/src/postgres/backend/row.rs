//! RowDescription and DataRow. Rows are the bulk of all traffic: one checked walk at decode, no allocation, and a writer
//! that puts replaced fields straight into the output.

use super::tag;
use crate::postgres::error::WireError;
use crate::postgres::reader::Reader;
use crate::postgres::value::{Format, PgString};
use crate::postgres::writer::Writer;
use bytes::{BufMut, Bytes, BytesMut};

/// Fixed bytes of a column's description after its name, and the name's zero byte (§55.7 "RowDescription").
const COLUMN_MIN: usize = 19;

/// One column of a RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The name; an alias when the statement gives one, so it says nothing about the origin.
    pub name: PgString,
    /// OID of the table it comes from, 0 when it is not a plain column.
    pub table_oid: u32,
    /// Attribute number in that table, 0 when it is not a plain column.
    pub attnum: i16,
    /// OID of the data type.
    pub type_oid: u32,
    /// Size of the type; negative for variable width.
    pub type_size: i16,
    /// Type modifier.
    pub type_modifier: i32,
    /// Format; text when a prepared statement is described, for it is not known yet.
    pub format: Format,
}

pub(super) fn decode_description(body: Bytes) -> Result<Vec<Column>, WireError> {
    let mut body = Reader::new("RowDescription", body);
    let count = body.count("columns", COLUMN_MIN)?;
    let columns = (0..count).map(|_| Column::decode(&mut body)).collect::<Result<_, _>>()?;
    body.finish()?;
    Ok(columns)
}

pub(super) fn encode_description(out: &mut BytesMut, columns: &[Column]) -> Result<(), WireError> {
    Writer::tagged(out, tag::ROW_DESCRIPTION)
        .count("columns", columns.len())
        .each(columns, |w, column| {
            w.string(&column.name)
                .u32(column.table_oid)
                .i16(column.attnum)
                .u32(column.type_oid)
                .i16(column.type_size)
                .i32(column.type_modifier)
                .u16(column.format.code())
        })
        .finish()
}

impl Column {
    fn decode(body: &mut Reader) -> Result<Self, WireError> {
        Ok(Column {
            name: body.string("column name")?,
            table_oid: body.u32("column table OID")?,
            attnum: body.i16("column attribute number")?,
            type_oid: body.u32("column type OID")?,
            type_size: body.i16("column type size")?,
            type_modifier: body.i32("column type modifier")?,
            format: Format::from_code("column format", body.u16("column format")?)?,
        })
    }
}

/// One row, checked: its fields fill the message exactly.
#[derive(Clone, PartialEq, Eq)]
pub struct DataRow {
    columns: u16,
    /// The fields, each with its length before it.
    fields: Bytes,
}

impl DataRow {
    /// Checks the body of a DataRow message; shares its buffer.
    pub fn decode(body: Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new("DataRow", body);
        let columns = reader.u16("column count")?;
        let fields = reader.take_rest();
        let mut rest = &fields[..];
        for _ in 0..columns {
            (_, rest) = split_field(rest)?;
        }
        match rest.len() {
            0 => Ok(DataRow { columns, fields }),
            extra => Err(WireError::TrailingBytes { what: "DataRow", extra }),
        }
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether it has no fields (`SELECT FROM t` has none).
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The fields in order; `None` is NULL.
    pub fn fields(&self) -> Fields<'_> {
        Fields { rest: &self.fields }
    }

    /// Bytes of the whole message.
    pub fn wire_len(&self) -> usize {
        7 + self.fields.len()
    }

    pub(super) fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::tagged(out, tag::DATA_ROW).u16(self.columns).raw(&self.fields).finish()
    }
}

/// Rows are data: only their shape is shown.
impl std::fmt::Debug for DataRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DataRow({} fields, {} bytes)", self.columns, self.fields.len())
    }
}

/// Iterator over a row's fields.
#[derive(Clone)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        // The row was walked when it was decoded, so an error here can only be the end.
        let (field, rest) = split_field(self.rest).ok()?;
        self.rest = rest;
        Some(field)
    }
}

/// Splits one field off the front.
fn split_field(bytes: &[u8]) -> Result<(Option<&[u8]>, &[u8]), WireError> {
    let what = "row field";
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(WireError::Truncated { what, expected: 4, got: bytes.len() });
    };
    let length = i32::from_be_bytes(*length);
    if length == -1 {
        return Ok((None, rest));
    }
    let Ok(expected) = usize::try_from(length) else {
        return Err(WireError::LengthTooSmall { what, minimum: 0, got: i64::from(length) });
    };
    match rest.split_at_checked(expected) {
        Some((field, rest)) => Ok((Some(field), rest)),
        None => Err(WireError::Truncated { what, expected, got: rest.len() }),
    }
}

/// Writes a DataRow field by field into an output buffer. If it is dropped before [`DataRowWriter::finish`], or a field
/// could not be written, the buffer is as it was before.
pub struct DataRowWriter<'a> {
    out: &'a mut BytesMut,
    start: usize,
    columns: usize,
    fault: Option<WireError>,
    finished: bool,
}

impl<'a> DataRowWriter<'a> {
    /// Type byte, length, column count.
    const HEADER: usize = 7;

    /// Begins a row at the end of `out`.
    pub fn new(out: &'a mut BytesMut) -> Self {
        let start = out.len();
        out.put_slice(&[tag::DATA_ROW, 0, 0, 0, 0, 0, 0]);
        DataRowWriter { out, start, columns: 0, fault: None, finished: false }
    }

    /// Appends a field; `None` is NULL.
    pub fn field(&mut self, value: Option<&[u8]>) {
        self.columns += 1;
        match value {
            None => self.out.put_i32(-1),
            Some(value) => match i32::try_from(value.len()) {
                Ok(length) => {
                    self.out.put_i32(length);
                    self.out.put_slice(value);
                }
                Err(_) => {
                    let limit = i32::MAX as usize;
                    self.fault.get_or_insert(WireError::LengthTooLarge {
                        what: "row field",
                        limit,
                        got: value.len(),
                    });
                }
            },
        }
    }

    /// Fills in length and count.
    pub fn finish(mut self) -> Result<(), WireError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let columns = u16::try_from(self.columns).map_err(|_| WireError::TooMany {
            what: "row fields",
            limit: usize::from(u16::MAX),
            got: self.columns,
        })?;
        let got = self.out.len() - self.start - 1;
        let length = i32::try_from(got).map_err(|_| WireError::LengthTooLarge {
            what: "DataRow",
            limit: i32::MAX as usize,
            got,
        })?;
        let header = self.out.get_mut(self.start + 1..self.start + Self::HEADER);
        if let Some((length_field, count_field)) = header.and_then(|h| h.split_first_chunk_mut::<4>()) {
            *length_field = length.to_be_bytes();
            count_field.copy_from_slice(&columns.to_be_bytes());
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for DataRowWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.out.truncate(self.start);
        }
    }
}
