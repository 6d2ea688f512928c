//! Rewrites rows.

use bytes::BytesMut;
use lockgate_wire::postgres::{
    WireError,
    backend::{DataRow, DataRowWriter},
};

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

/// Masks for the rows of one result.
#[derive(Clone, Debug)]
pub struct RowMask {
    fields: usize,
}

impl RowMask {
    pub(super) fn redact_all(fields: usize) -> Self {
        Self { fields }
    }

    /// True when rows can be moved as they are.
    pub fn is_passthrough(&self) -> bool {
        false
    }

    /// Names of the result's fields that are masked whole or by method, in order.
    pub fn masked_columns(&self) -> &[String] {
        &[]
    }

    /// Writes the masked row, a whole DataRow message, to the end of `out`; answers how many fields were changed. On an
    /// error nothing is written.
    pub fn apply(&mut self, row: &DataRow, out: &mut BytesMut) -> Result<u64, RowError> {
        if row.len() != self.fields {
            return Err(RowError::FieldCount { expected: self.fields, got: row.len() });
        }
        let mut writer = DataRowWriter::new(out);
        for _ in row.fields() {
            writer.field(None);
        }
        writer.finish()?;
        Ok(self.fields as u64)
    }
}
