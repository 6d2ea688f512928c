//! Rewrites rows, one field at a time, into a buffer of the caller's.

use super::{
    detector::{Detectors, Found, Shape},
    method::Method,
};
use bytes::BytesMut;
use lockgate_wire::postgres::{
    Format, WireError,
    backend::{Column, DataRow, DataRowWriter},
};
use std::sync::Arc;

/// Types whose binary form is their text, and whose values a text may stand for (pg_type.dat): text, name, bpchar, varchar,
/// unknown. Not "char" (one byte), not json and xml (a mask is neither).
const TEXT_LIKE: [u32; 5] = [25, 19, 1042, 1043, 705];

/// A row could not be masked; it must not be passed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The row does not fit its description.
    #[error("expected a row of {expected} fields as described, got {got}; the session must end")]
    FieldCount {
        /// Fields described.
        expected: usize,
        /// Fields in the row.
        got: usize,
    },
    /// The masked row does not fit a message.
    #[error("the masked row cannot be encoded: {0}")]
    Encode(#[from] WireError),
}

/// What happens to one field.
#[derive(Clone, Debug)]
pub(super) enum Field {
    Pass,
    Mask(Method),
    Detect(Arc<Detectors>, Shape),
}

impl Field {
    /// The same for values of this type in this format.
    pub(super) fn typed(self, type_oid: u32, format: Format) -> Self {
        match self {
            // Text and binary format of these types are the same bytes; of others no text may stand for a value.
            Self::Mask(_) if !TEXT_LIKE.contains(&type_oid) => Self::Mask(Method::Null),
            Self::Detect(detectors, _) => match shape_of(type_oid, format) {
                Some(shape) => Self::Detect(detectors, shape),
                None => Self::Pass,
            },
            other => other,
        }
    }
}

/// How values of a type are searched; None where a text in them cannot be told or replaced: numbers, bytea, ranges, and the
/// binary form of types that are not the system's own.
fn shape_of(type_oid: u32, format: Format) -> Option<Shape> {
    match type_oid {
        oid if TEXT_LIKE.contains(&oid) => Some(Shape::Text),
        // xml.
        142 => Some(Shape::Text),
        // json, jsonb.
        114 | 3802 => Some(Shape::Json),
        // text[], varchar[], bpchar[], name[].
        1009 | 1015 | 1014 | 1003 => Some(Shape::Array),
        // Enumerations, citext, composites and hstore in their text form.
        oid if oid >= 16_384 && format == Format::Text => Some(Shape::Text),
        _ => None,
    }
}

/// Masks for the rows of one result. It keeps a scratch buffer, so that rows cost no allocation.
#[derive(Clone, Debug)]
pub struct RowMask {
    fields: Vec<Field>,
    masked: Vec<String>,
    unknown: Vec<u32>,
    passthrough: bool,
    scratch: BytesMut,
}

impl RowMask {
    pub(super) fn new(columns: &[Column], fields: Vec<Field>, unknown: Vec<u32>) -> Self {
        let fields: Vec<Field> = columns
            .iter()
            .zip(fields)
            .map(|(column, field)| field.typed(column.type_oid, column.format))
            .collect();
        let masked = columns
            .iter()
            .zip(&fields)
            .filter(|(_, field)| matches!(field, Field::Mask(_)))
            .map(|(column, _)| String::from_utf8_lossy(column.name.as_bytes()).into_owned())
            .collect();
        let passthrough = fields.iter().all(|field| matches!(field, Field::Pass));
        Self { fields, masked, unknown, passthrough, scratch: BytesMut::new() }
    }

    /// True when rows can be moved as they are, without being decoded.
    pub fn is_passthrough(&self) -> bool {
        self.passthrough
    }

    /// Names of the result's fields that are masked, in order.
    pub fn masked_columns(&self) -> &[String] {
        &self.masked
    }

    /// OIDs of relations that the catalogue does not know; their fields are masked. A catalogue loaded anew may know them.
    pub fn unknown_relations(&self) -> &[u32] {
        &self.unknown
    }

    /// Writes the masked row, a whole DataRow message, to the end of `out`; answers how many fields were changed. On an
    /// error nothing is written.
    pub fn apply(&mut self, row: &DataRow, out: &mut BytesMut) -> Result<u64, RowError> {
        if row.len() != self.fields.len() {
            return Err(RowError::FieldCount { expected: self.fields.len(), got: row.len() });
        }
        let mut changed = 0;
        let mut writer = DataRowWriter::new(out);
        for (field, value) in self.fields.iter().zip(row.fields()) {
            let Some(value) = value else {
                writer.field(None);
                continue;
            };
            self.scratch.clear();
            match field {
                Field::Pass => writer.field(Some(value)),
                Field::Mask(method) => {
                    changed += 1;
                    let kept = method.apply(value, &mut self.scratch);
                    writer.field(kept.then_some(&self.scratch));
                }
                Field::Detect(detectors, shape) => {
                    match detectors.redact_as(*shape, value, &mut self.scratch) {
                        Found::Nothing => writer.field(Some(value)),
                        Found::Written => {
                            changed += 1;
                            writer.field(Some(&self.scratch));
                        }
                        Found::Unwritable => {
                            changed += 1;
                            writer.field(None);
                        }
                    }
                }
            }
        }
        writer.finish()?;
        Ok(changed)
    }
}
