//! Serde values to canonical bytes.

use serde::Serialize;

/// Why a value has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// serde's or JSON's own refusal.
    #[error("a record cannot be encoded: {0}")]
    Json(String),
}

/// Writes the canonical form of `value` to the end of `out`.
pub fn write<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    serde_json_canonicalizer::to_writer(value, out).map_err(|error| EncodeError::Json(error.to_string()))
}

/// Writes a JSON string.
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    let _ = serde_json_canonicalizer::to_writer(&text, out);
}
