//! Domain types and ports of lockgate: the words every other crate speaks.
//!
//! ```text
//! Flow ──attribute──▶ Session ──decode, inspect──▶ Operation ──evaluate──▶ Verdict ──enforce──▶ Permit ──relay, mask──▶ Outcome ──▶ Record
//! ```
//!
//! Nothing here performs IO, reads a clock or draws randomness; ids and times are made by whoever
//! owns the outside world ([`port::Ambient`]) and passed in. No type of a database, protocol grammar
//! or kernel interface appears.

pub mod access;
pub mod addr;
pub mod administration;
pub mod approval;
pub mod coverage;
pub mod custody;
pub mod event;
pub mod flow;
pub mod grant;
pub mod http;
pub mod id;
pub mod observation;
pub mod operation;
pub mod outcome;
pub mod port;
pub mod principal;
pub mod secret;
pub mod session;
pub mod sql;
pub mod time;
pub mod verdict;
pub mod wide;
pub mod workload;

pub use id::{BundleId, DecisionId, GlassId, GrantId, OperationId, RequestId, SessionId};
pub use secret::{Secret, SecretRef};
pub use time::Timestamp;
