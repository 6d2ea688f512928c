//! The chain: every record carries the hash of the one before it.
//!
//! ```text
//! line(n) = JCS {at, data, event, node, prev: hash(n-1), seq: n, session?, v}     one line, no spaces
//! hash(n) = SHA-256("lockgate/audit/record/v1\0" ‖ line(n))                        without the newline
//! hash(0) = 64 zeros
//! ```
//!
//! An event is encoded apart from the chain ([`Encoded`], the costly part); the chain's owner only adds `node`, `prev`,
//! `seq` and hashes.

use crate::{
    canonical::{self, EncodeError},
    opening::{self, Memo},
    record::VERSION,
};
use lockgate_model::{SessionId, event::Event, id::NodeName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::{fmt, str::FromStr};

/// Keeps a record's hash from being the hash of anything else that lockgate hashes.
const RECORD_DOMAIN: &[u8] = b"lockgate/audit/record/v1\0";

/// SHA-256 of one record, and through `prev` of all records before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// What the first record names as the one before it.
    pub const GENESIS: Self = Self([0; 32]);

    /// The hash of a line (without its newline).
    pub fn of_line(line: &[u8]) -> Self {
        Self(Sha256::new().chain_update(RECORD_DOMAIN).chain_update(line).finalize().into())
    }
}

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        match hex::encode_to_slice(self.0, &mut text) {
            Ok(()) => f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?),
            Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not a chain hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits (SHA-256)")]
pub struct HashError;

impl FromStr for ChainHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(HashError);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| HashError)?;
        Ok(Self(bytes))
    }
}

impl Serialize for ChainHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChainHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The end of a chain: how many records, and the hash of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// Number of the last record; 0 before the first.
    pub seq: u64,
    /// Its hash.
    pub hash: ChainHash,
}

impl Tip {
    /// The end of an empty chain.
    pub const EMPTY: Self = Self { seq: 0, hash: ChainHash::GENESIS };
}

/// An event, encoded up to the members that only the chain knows.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// `{"at":…,"data":…,"event":…`: the members that sort before `node`.
    opening: Vec<u8>,
    /// Sorts after `seq`.
    session: Option<SessionId>,
}

impl Encoded {
    /// Encodes an event.
    pub fn of(event: &Event) -> Result<Self, EncodeError> {
        let mut encoded = Self { opening: Vec::with_capacity(OPENING_CAPACITY), session: None };
        encoded.replace(event, &mut Memo::forgetful())?;
        Ok(encoded)
    }

    /// What [`Chain::append`] wrote at the beginning of a line, taken back from there.
    pub fn from_line(line: &[u8], opening_len: usize, session: Option<SessionId>) -> Self {
        Self { opening: line.get(..opening_len).unwrap_or_default().to_vec(), session }
    }

    /// How much of its line [`Encoded::from_line`] needs to be told, and the session.
    pub fn shape(&self) -> (usize, Option<SessionId>) {
        (self.opening.len(), self.session)
    }

    /// Encodes another event in its place, with what was written before.
    ///
    /// # Errors
    /// When the event has no canonical form; this one must not be used then.
    pub fn replace(&mut self, event: &Event, memo: &mut Memo) -> Result<(), EncodeError> {
        self.opening.clear();
        self.session = event.session;
        opening::write(event, memo, &mut self.opening)
    }

    /// About how long its line will be.
    pub fn line_len(&self) -> usize {
        self.opening.len() + CHAIN_MEMBERS_BYTES
    }
}

/// What follows a forward, and most else that is encoded away from the chain; saves growing.
const OPENING_CAPACITY: usize = 384;

/// `prev`, `seq`, `session` and `v` with their names, and a node name of usual length.
const CHAIN_MEMBERS_BYTES: usize = 220;

/// The writing end of a chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// `,"node":"…","prev":"`
    node_member: Vec<u8>,
    /// `,"v":…}`
    version_member: Vec<u8>,
    tip: Tip,
}

impl Chain {
    /// Goes on after `tip` ([`Tip::EMPTY`] for a new chain).
    pub fn resume(node: &NodeName, tip: Tip) -> Self {
        let mut node_member = b",\"node\":".to_vec();
        canonical::write_str(node.as_str(), &mut node_member);
        node_member.extend_from_slice(b",\"prev\":\"");
        let version_member = format!(",\"v\":{VERSION}}}").into_bytes();
        Self { node_member, version_member, tip }
    }

    /// The last record.
    pub fn tip(&self) -> Tip {
        self.tip
    }

    /// Forgets records that could not be written: back to an earlier tip.
    pub fn rewind(&mut self, tip: Tip) {
        self.tip = tip;
    }

    /// Writes the next line, newline included, to the end of `out`.
    pub fn append(&mut self, event: &Encoded, out: &mut Vec<u8>) -> Tip {
        let start = out.len();
        out.extend_from_slice(&event.opening);
        let seq = self.tip.seq + 1;
        out.extend_from_slice(&self.node_member);
        let mut hash = [0; 64];
        // Twice as many digits as bytes: it fits.
        let _ = hex::encode_to_slice(self.tip.hash.0, &mut hash);
        out.extend_from_slice(&hash);
        out.extend_from_slice(b"\",\"seq\":");
        out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        if let Some(session) = event.session {
            out.extend_from_slice(b",\"session\":\"");
            session.write_to(out);
            out.push(b'"');
        }
        out.extend_from_slice(&self.version_member);
        let hash = ChainHash::of_line(out.get(start..).unwrap_or_default());
        out.push(b'\n');
        self.tip = Tip { seq, hash };
        self.tip
    }
}
