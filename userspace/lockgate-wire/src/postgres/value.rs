//! Small values that several messages share.

use super::error::WireError;
use bytes::Bytes;
use std::fmt;

/// A string of the protocol without its terminating zero byte.
///
/// Never contains a zero byte. It need not be UTF-8: the encoding is the session's `client_encoding`.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct PgString(Bytes);

impl PgString {
    /// Takes bytes that have no zero byte among them.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, WireError> {
        let bytes = bytes.into();
        match bytes.iter().position(|b| *b == 0) {
            Some(at) => Err(WireError::InteriorNul { what: "string", at }),
            None => Ok(PgString(bytes)),
        }
    }

    /// Takes text for a message of our own; a zero byte, which the protocol cannot carry, becomes U+FFFD.
    pub fn lossy(text: &str) -> Self {
        if text.contains('\0') {
            PgString(Bytes::from(text.replace('\0', "\u{fffd}")))
        } else {
            PgString(Bytes::copy_from_slice(text.as_bytes()))
        }
    }

    /// Takes a literal of this program.
    pub const fn from_static(text: &'static str) -> Self {
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at] != 0, "a protocol string contains a zero byte");
            at += 1;
        }
        PgString(Bytes::from_static(bytes))
    }

    /// For bytes that were split at their zero byte.
    pub(super) fn split_at_nul(bytes: Bytes) -> Self {
        debug_assert!(!bytes.contains(&0));
        PgString(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The shared buffer behind it.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text, when it is UTF-8; `what` names the field in the error.
    pub fn to_str(&self, what: &'static str) -> Result<&str, WireError> {
        std::str::from_utf8(&self.0).map_err(|e| WireError::NotUtf8 { what, valid_up_to: e.valid_up_to() })
    }

    /// The text with undecodable bytes replaced. For display, never for judgement.
    pub fn to_string_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is the empty string (the unnamed statement or portal).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for PgString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string_lossy(), f)
    }
}

impl PartialEq<str> for PgString {
    fn eq(&self, other: &str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl PartialEq<&str> for PgString {
    fn eq(&self, other: &&str) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

/// A format code (§55.7, Bind): how a value is represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// Text, code 0.
    #[default]
    Text,
    /// The type's binary form, code 1.
    Binary,
}

impl Format {
    /// The code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }

    pub(super) fn from_code(what: &'static str, code: u16) -> Result<Self, WireError> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            got => Err(WireError::BadValue { what, expected: "0 (text) or 1 (binary)", got: i64::from(got) }),
        }
    }

    /// The format of item `index` under a list of codes as Bind gives it: none means text, one means all alike.
    pub fn of(codes: &[Format], index: usize) -> Format {
        match codes {
            [] => Format::Text,
            [all] => *all,
            list => list.get(index).copied().unwrap_or_default(),
        }
    }
}

/// What Describe and Close name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A prepared statement, code 'S'; empty is the unnamed one.
    Statement(PgString),
    /// A portal, code 'P'; empty is the unnamed one.
    Portal(PgString),
}

impl Target {
    /// The name without its kind.
    pub fn name(&self) -> &PgString {
        match self {
            Target::Statement(name) | Target::Portal(name) => name,
        }
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Target::Statement(_) => b'S',
            Target::Portal(_) => b'P',
        }
    }
}

/// The transaction status that ReadyForQuery reports (§55.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// 'I': not in a transaction block.
    Idle,
    /// 'T': in a transaction block.
    InTransaction,
    /// 'E': in a failed transaction block; everything but its end is refused.
    Failed,
}

impl TransactionStatus {
    /// The byte on the wire.
    pub const fn code(self) -> u8 {
        match self {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        }
    }

    /// Reads the byte of a ReadyForQuery message.
    pub fn from_code(code: u8) -> Result<Self, WireError> {
        match code {
            b'I' => Ok(TransactionStatus::Idle),
            b'T' => Ok(TransactionStatus::InTransaction),
            b'E' => Ok(TransactionStatus::Failed),
            got => Err(WireError::BadValue {
                what: "transaction status",
                expected: "'I', 'T' or 'E'",
                got: i64::from(got),
            }),
        }
    }
}
