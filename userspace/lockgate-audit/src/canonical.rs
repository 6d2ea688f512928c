//! RFC 8785 (JCS) JSON: the one encoding of a record, and the check that stored bytes are it.
//!
//! The two directions are independent of each other: [`write`] encodes, [`check`] walks bytes without building
//! a value. Integers past 2^53 − 1 lose digits in JCS (§3.2.2.3) and are refused; the model writes them as
//! strings (`lockgate_model::wide`).

mod check;
mod encode;

pub use check::{NotCanonical, check};
pub(crate) use encode::write_u64;
pub use encode::{EncodeError, write, write_str};

use std::cmp::Ordering;

/// RFC 8785 §3.2.3: member names (the raw text between their quotes) compare by their UTF-16 code units,
/// escapes resolved.
fn by_utf16(a: &[u8], b: &[u8]) -> Ordering {
    let plain = |name: &[u8]| name.iter().all(|byte| byte.is_ascii() && *byte != b'\\');
    if plain(a) && plain(b) { a.cmp(b) } else { units(a).cmp(&units(b)) }
}

fn units(raw: &[u8]) -> Vec<u16> {
    let mut quoted = Vec::with_capacity(raw.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(raw);
    quoted.push(b'"');
    serde_json::from_slice::<String>(&quoted).map(|name| name.encode_utf16().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
