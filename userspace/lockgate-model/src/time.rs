//! Time as the domain sees it: a UTC instant that prints as RFC 3339.
//!
//! Durations of policy and configuration are [`std::time::Duration`], written `30s`, `10m`, `1h30m`.

use std::time::Duration;

/// A UTC instant; serialises as RFC 3339.
pub type Timestamp = jiff::Timestamp;

/// Why a duration could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s, 10m or 1h30m, got {0:?}")]
pub struct DurationError(pub String);

/// Reads `90s`, `10m`, `1h30m`, `2d`, `500ms`; a bare `0` is zero. Units: ms s m h d.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let fail = || DurationError(text.to_owned());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| fail())?;
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let unit_millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(fail()),
        };
        let millis = number.checked_mul(unit_millis).ok_or_else(fail)?;
        total = total.checked_add(Duration::from_millis(millis)).ok_or_else(fail)?;
        rest = tail;
    }
    Ok(total)
}

/// The shortest form [`parse_duration`] reads back: `1h30m`, `45s`, `250ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if millis >= size {
            out.push_str(&format!("{}{unit}", millis / size));
            millis %= size;
        }
    }
    out
}

/// Serde form of a duration as text (`with = "lockgate_model::time::duration"`).
pub mod duration {
    use super::{format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    /// Writes the text form.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*value))
    }

    /// Reads the text form.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_duration(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print() {
        for (text, millis) in [
            ("30s", 30_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("0", 0),
            ("250ms", 250),
            ("2d", 172_800_000),
        ] {
            let value = parse_duration(text).unwrap();
            assert_eq!(value, Duration::from_millis(millis), "{text}");
            assert_eq!(parse_duration(&format_duration(value)).unwrap(), value);
        }
        for bad in ["", "10", "m", "10x", "-1s", "99999999999999999999d", "1 h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
