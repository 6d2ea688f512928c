//! What the client asks for, made once from the wire and never parsed again downstream.

use crate::{
    http::{HttpClass, HttpFacts},
    id::{OperationId, SessionId},
    sql::{Risk, SqlClass, SqlFacts},
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// SHA-256 of everything an approval is bound to: statement, bound values and their types, role,
/// database, search_path, target, identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bytes = text.as_bytes();
        if bytes.len() != 64 || !bytes.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError);
        }
        let nibble = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'a' + 10 };
        let mut out = [0; 32];
        for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *slot = nibble(pair[0]) << 4 | nibble(pair[1]);
        }
        Ok(Self(out))
    }
}

/// Not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 lower-case hexadecimal digits (SHA-256)")]
pub struct DigestError;

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One thing a client asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The session it belongs to.
    pub session: SessionId,
    /// What it is and does. One variant a protocol family.
    pub facts: Arc<Facts>,
    /// The exact statement (one statement, not the whole message).
    pub text: Arc<str>,
    /// The statement with every literal replaced (`$1`, …): what records and notifications show when
    /// the statement touches a masked table.
    pub normalized: Arc<str>,
    /// Bound values, in order.
    pub parameters: Arc<[Parameter]>,
    /// What an approval of this operation is bound to.
    pub digest: Digest,
    /// Where it would run.
    pub context: Arc<SqlContext>,
    /// True when it names a relation that has masked columns for this session: then no literal and no
    /// bound value of it may appear in a record or a notification.
    pub touches_masked: bool,
}

/// What an operation is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Facts {
    /// A SQL statement.
    Sql(SqlFacts),
    /// An HTTP request.
    Http(HttpFacts),
}

impl Facts {
    /// True when the operation was not understood.
    pub fn is_opaque(&self) -> bool {
        match self {
            Self::Sql(facts) => facts.class == SqlClass::Opaque,
            Self::Http(facts) => facts.class == HttpClass::Opaque,
        }
    }

    /// True for what needs only a written (not synced) record before it is forwarded.
    pub fn is_plain_read(&self) -> bool {
        match self {
            Self::Sql(facts) => facts.class == SqlClass::Read,
            Self::Http(facts) => facts.class == HttpClass::Read,
        }
    }

    /// What it does, in the words of its protocol: `drop_table`, `DELETE`.
    pub fn kind(&self) -> &str {
        match self {
            Self::Sql(facts) => &facts.kind,
            Self::Http(facts) => &facts.method,
        }
    }

    /// Its class, as policy names it: `read`, `ddl`, `write`.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Sql(facts) => facts.class.as_str(),
            Self::Http(facts) => facts.class.as_str(),
        }
    }

    /// How much harm it could do.
    pub fn risk(&self) -> Risk {
        match self {
            Self::Sql(facts) => facts.risk,
            Self::Http(facts) => facts.risk,
        }
    }

    /// Why it is opaque, when it is.
    pub fn opaque_reason(&self) -> Option<&str> {
        match self {
            Self::Sql(facts) => facts.opaque_reason.as_deref(),
            Self::Http(facts) => facts.opaque_reason.as_deref(),
        }
    }

    /// A SQL statement's facts.
    pub fn sql(&self) -> Option<&SqlFacts> {
        match self {
            Self::Sql(facts) => Some(facts),
            Self::Http(_) => None,
        }
    }

    /// An HTTP request's facts.
    pub fn http(&self) -> Option<&HttpFacts> {
        match self {
            Self::Http(facts) => Some(facts),
            Self::Sql(_) => None,
        }
    }
}

/// A bound value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Type OID as declared in Parse; 0 when left to the server.
    pub type_oid: u32,
    /// How the value is written.
    pub format: ValueFormat,
    /// The value; None is NULL. Text values as text, binary as lower-case hex.
    pub value: Option<String>,
}

/// How a value is written on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueFormat {
    /// Text.
    Text,
    /// Binary, shown as hexadecimal.
    Binary,
}

/// Where a SQL operation would run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlContext {
    /// Role in force upstream.
    pub role: String,
    /// Database.
    pub database: String,
    /// search_path in force, when known to differ from the role's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search_path: Option<String>,
    /// Whether a transaction is open (its locks are held while the operation waits).
    pub in_transaction: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_lower_case_hex() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("AB".repeat(32).parse::<Digest>().is_err());
        assert!("ab".repeat(31).parse::<Digest>().is_err());
    }
}
