//! How records rest: append-only segments, the signed head beside them, and an index that can be rebuilt.
//!
//! ```text
//! <dir>/lock                     who has it open; empty after an orderly end
//! <dir>/segments/0000…01.jsonl   the log: one record a line, named by the first record's number
//! <dir>/head/checkpoint          the signed head; `head_dir` puts it elsewhere, best on another disk or host
//! <dir>/head/history             older signed heads, one a minute: they narrow down where a log was rewritten
//! <dir>/keys/log.{key,pub}       what signs the head; keep a copy of log.pub off the host
//! <dir>/repairs/                 what a crash tore off the log's end, kept as it was
//! <dir>/tree/                    hashes of the Merkle tree over the records; rebuilt when they do not fit the head
//! <dir>/removed/                 hashes of the records that retention removed
//! <dir>/holds/                   legal holds in force
//! <dir>/index/                   sled: sessions, requests, positions; deleted and rebuilt at will
//! <dir>/search/                  tantivy: what words and filters find; deleted and rebuilt at will
//! ```
//!
//! [`Log`] writes (one per directory), [`Reader`] reads beside it or without it. The log alone is the truth:
//! no failure of the index fails a record. No type of sled leaves this crate.
//!
//! Where many nodes share one store, [`postgres`] takes each node's log there; what rests here is then the spool.

mod appender;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod crash;
mod disk;
mod error;
mod fact;
mod head;
mod hold;
mod index;
mod key;
mod layout;
mod lines;
mod lock;
mod log;
mod objects;
pub mod postgres;
mod queue;
mod reader;
mod recover;
mod removed;
mod retention;
pub mod search;
mod session;
mod shelf;
mod signer;
mod syncer;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

pub use error::StoreError;
pub use hold::Holds;
pub use lockgate_audit::{
    Checkpoint, Finding, Growth, Inclusion, Integrity, Place, Problem, ProofError, PublicKey, Record,
    Report as VerifyReport,
};
pub use log::{Log, LogSettings};
pub use objects::{ObjectError, ObjectLock, ObjectSettings, Objects};
pub use reader::{Reader, Records, VerifyProgress};
pub use retention::Plan;
pub use session::{SessionFilter, SessionSummary};
pub use shelf::Shelf;
