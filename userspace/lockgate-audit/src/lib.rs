//! Audit records: canonical encoding, hash chain, signed checkpoints, verification.
//!
//! ```text
//! Event ──encode──▶ Encoded ──Chain::append──▶ one line of the log ──Verifier──▶ Report
//!                                 │ Tip{seq, hash}
//!                                 └──SigningKey::checkpoint──▶ signed note (the "head"), kept apart
//! ```
//!
//! Pure: nothing here opens a file or reads a clock. lockgate-store owns files, keys on disk and time; it
//! drives [`Chain`] while writing and [`Verifier`] while reading.

pub mod canonical;
pub mod chain;
pub mod checkpoint;
mod opening;
pub mod proof;
pub mod record;
pub mod tree;
pub mod verify;

pub use canonical::EncodeError;
pub use chain::{Chain, ChainHash, Encoded, Tip};
pub use checkpoint::{Checkpoint, NoteError, PublicKey, SigningKey};
pub use opening::Memo;
pub use proof::{Growth, Inclusion, ProofError};
pub use record::{DecodeError, Record};
pub use verify::{Finding, Integrity, Place, Problem, Report, Verifier};
