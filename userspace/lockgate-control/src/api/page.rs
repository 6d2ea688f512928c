//! What every listing has in common: how much one answer holds, and where the next goes on.
//!
//! `limit` and `before` ask, `next` answers. A cursor is opaque: it names a place, never a permission, so a made-up one
//! gives another page of what the caller may see anyway, or 400.

use super::problem::Problem;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lockgate_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Items in one answer, unless asked otherwise.
pub(crate) const LIMIT_DEFAULT: usize = 100;
/// Items in one answer at most.
pub(crate) const LIMIT_MAX: usize = 1_000;
/// Bytes of a cursor: a time and an id.
const CURSOR_MAX: usize = 128;

/// One answer of a listing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The newest first.
    pub(crate) items: Vec<T>,
    /// `before` of the next answer; null at the end.
    pub(crate) next: Option<String>,
}

/// How many items an answer holds.
pub(crate) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(0) => Err(Problem::malformed(format!("expected a limit of 1 to {LIMIT_MAX}, got 0"))),
        Some(asked) => Ok(asked.min(LIMIT_MAX)),
    }
}

/// A place in a listing that is ordered by time, then id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

impl Cursor {
    pub(crate) fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{} {}", self.at, self.id))
    }

    pub(crate) fn decode(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::malformed("before: expected `next` of an answer to the same question");
        if text.len() > CURSOR_MAX {
            return Err(bad());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let (at, id) = text.split_once(' ').ok_or_else(bad)?;
        Ok(Self { at: at.parse().map_err(|_| bad())?, id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back_and_made_up_ones_are_refused() {
        let cursor = Cursor { at: "2026-11-21T10:00:00.123456789Z".parse().unwrap(), id: "ses_1".into() };
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        let long = "A".repeat(4096);
        for bad in ["", "x", "AAAA", "....", "../../etc/passwd", "%00", &long, "MjAyNi0xMS0yMSBzZXNfMQ"] {
            assert_eq!(Cursor::decode(bad).unwrap_err().code, "malformed", "{bad}");
        }
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).unwrap(), LIMIT_DEFAULT);
        assert_eq!(limit(Some(usize::MAX)).unwrap(), LIMIT_MAX);
        assert!(limit(Some(0)).is_err());
    }
}
