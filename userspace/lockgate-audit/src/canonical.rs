//! RFC 8785 (JCS) JSON: the one encoding of a record, and the check that stored bytes are it.
//!
//! The two directions are independent of each other: [`write`] encodes, [`check`] walks bytes without building
//! a value. Numbers: integers up to 2^53 − 1 only; larger ones lose digits in JCS (§3.2.2.3) and are refused
//! (the model writes them as strings, `lockgate_model::wide`).

mod check;
mod encode;

pub use check::{NotCanonical, check};
pub use encode::{EncodeError, write, write_str};

#[cfg(test)]
mod tests;
