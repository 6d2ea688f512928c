//! Serde form of 64-bit numbers that may exceed what JSON readers hold exactly (`with = "crate::wide"`).
//!
//! JSON numbers are IEEE doubles (RFC 8785 §3.2.2.3): past 2^53 − 1 they lose digits, in `jq`, in browsers and
//! in the canonical encoding of records. Such a number is written as a decimal string, as RFC 8785 appendix D
//! asks; a smaller one stays a number. Both forms are read. Kernel cookies, cgroup ids and boot-time
//! nanoseconds (past 2^53 after 104 days) need it; counters do not.

use serde::{Deserializer, Serializer, de};
use std::fmt;

/// The largest integer that every JSON reader holds exactly.
pub const MAX_EXACT: u64 = (1 << 53) - 1;

/// Writes a number, or a string past [`MAX_EXACT`].
pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    if *value <= MAX_EXACT { serializer.serialize_u64(*value) } else { serializer.collect_str(value) }
}

/// Reads a number or a decimal string.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Wide;

    impl de::Visitor<'_> for Wide {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an unsigned 64-bit number, or one written as a decimal string")
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
            Ok(value)
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
            u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
        }
    }

    deserializer.deserialize_any(Wide)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Cookie {
        #[serde(with = "super")]
        value: u64,
    }

    #[test]
    fn numbers_past_the_exact_range_are_strings() {
        for (value, json) in [
            (7, r#"{"value":7}"#),
            (super::MAX_EXACT, r#"{"value":9007199254740991}"#),
            (super::MAX_EXACT + 1, r#"{"value":"9007199254740992"}"#),
            (u64::MAX, r#"{"value":"18446744073709551615"}"#),
        ] {
            assert_eq!(serde_json::to_string(&Cookie { value }).unwrap(), json);
            assert_eq!(serde_json::from_str::<Cookie>(json).unwrap(), Cookie { value });
        }
        for bad in [r#"{"value":-1}"#, r#"{"value":"x"}"#, r#"{"value":1.5}"#] {
            assert!(serde_json::from_str::<Cookie>(bad).is_err(), "{bad}");
        }
    }
}
