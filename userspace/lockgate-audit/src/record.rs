//! One record: an event with its place in the chain. What a line of the log says, once read back.

use crate::chain::ChainHash;
use lockgate_model::{event::Event, id::NodeName};
use serde::{Deserialize, Serialize};

/// The version of the line's shape; a verifier refuses what it does not know.
pub const VERSION: u32 = 1;

/// The largest line, its newline not counted. One statement text with its escapes fits; whatever does not is
/// refused before it is forwarded, because it could not be recorded whole.
pub const MAX_RECORD_BYTES: usize = 8 << 20;

/// An event with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the shape ([`VERSION`]).
    pub v: u32,
    /// The node that wrote it.
    pub node: NodeName,
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// Hash of the record before it; [`ChainHash::GENESIS`] for the first.
    pub prev: ChainHash,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Why a line is not a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of the shape of a record.
    #[error("expected a record (a JSON object with v, node, seq, prev, at, event): {0}")]
    Malformed(String),
    /// A version this build does not know.
    #[error(
        "expected a record of version {VERSION}, got version {0}; verify it with the release that wrote it"
    )]
    Version(u32),
}

impl Record {
    /// Reads one line, without its newline. Does not check that the bytes are canonical: that is
    /// [`crate::Verifier`]'s part.
    pub fn decode(line: &[u8]) -> Result<Self, DecodeError> {
        let record: Self =
            serde_json::from_slice(line).map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if record.v == VERSION { Ok(record) } else { Err(DecodeError::Version(record.v)) }
    }
}
