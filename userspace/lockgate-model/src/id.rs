//! Identifiers: a short prefix that says what they name, then a ULID (time-ordered, 26 characters).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};

/// Why a text is not an id of the asked kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id of the form {prefix}_<26 characters>, got {got:?}")]
pub struct IdError {
    prefix: &'static str,
    got: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(ulid::Ulid);

        impl $name {
            /// The text before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// An id from unix milliseconds and 80 bits of randomness (higher bits are ignored).
            pub const fn from_parts(unix_millis: u64, random: u128) -> Self {
                Self(ulid::Ulid::from_parts(unix_millis, random))
            }

            /// When it was made, as it was told then.
            pub const fn unix_millis(&self) -> u64 {
                self.0.timestamp_ms()
            }

            /// Writes what [`fmt::Display`] shows to the end of `out`; every statement's record has several.
            pub fn write_to(&self, out: &mut Vec<u8>) {
                let mut buffer = [0; ulid::ULID_LEN];
                out.extend_from_slice(concat!($prefix, "_").as_bytes());
                out.extend_from_slice(self.0.array_to_str(&mut buffer).as_bytes());
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut buffer = [0; ulid::ULID_LEN];
                write!(f, "{}_{}", $prefix, self.0.array_to_str(&mut buffer))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| ulid::Ulid::from_string(rest).ok())
                    .map(Self)
                    .ok_or_else(|| IdError { prefix: $prefix, got: text.chars().take(64).collect() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// One intercepted connection on one target.
    SessionId, "ses"
);
id!(
    /// One thing a client asked for.
    OperationId, "op"
);
id!(
    /// One evaluation of policy; quoted in every denial.
    DecisionId, "dec"
);
id!(
    /// One request for approval.
    RequestId, "req"
);
id!(
    /// Requests that are told and decided together.
    BundleId, "bnd"
);
id!(
    /// A permission that approvers gave for a while.
    GrantId, "grt"
);
id!(
    /// One use of an emergency override.
    GlassId, "brk"
);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub std::sync::Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A rule's `id:` in policy.
    RuleId
);
name!(
    /// A target's `name:` in configuration.
    TargetName
);
name!(
    /// A policy group's name.
    GroupName
);
name!(
    /// This node's `node.name`.
    NodeName
);
name!(
    /// Hash of the loaded policy documents: which policy was in force.
    PolicyVersion
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_refuse_other_kinds() {
        let id = SessionId::from_parts(1_700_000_000_000, 42);
        let text = id.to_string();
        assert_eq!(text.len(), 4 + 26);
        assert_eq!(text.parse(), Ok(id));
        let mut written = Vec::new();
        id.write_to(&mut written);
        assert_eq!(written, text.as_bytes());
        assert!(text.parse::<RequestId>().is_err());
        assert!("ses_".parse::<SessionId>().is_err());
        assert!("ses_💥".parse::<SessionId>().is_err());
    }
}
