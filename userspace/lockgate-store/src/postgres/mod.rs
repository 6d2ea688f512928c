//! The shared store: records of many nodes in one PostgreSQL, and requests that wait for people.
//!
//! A node's own log stays what it is ([`crate::Log`]): records are acknowledged when they rest there, and it signs its
//! heads. Behind it a [`Drain`] takes them to the database, in order and each once. So the segment files are the spool: a
//! database that is away keeps nobody waiting until the spool is full, and then operations are refused, not forwarded
//! unrecorded.
//!
//! ```text
//! events ──▶ Log (segments, head) ──[drain: cursor ▶ shipper]──▶ lockgate.record ──▶ [Shared] sessions, search, export
//!   └── [Spooled] refuses while more waits than may
//! ```
//!
//! What a role may is said in the migrations, once, by PostgreSQL's own means: an agent's adds records of its own node
//! and reads its own; nobody's changes or deletes one. No type of tokio-postgres leaves this module.

mod connect;
mod copy;
mod cursor;
mod drain;
mod migrate;
mod page;
mod request;
mod retain;
mod row;
mod shared;
mod shipper;

pub use connect::{AddressError, PostgresSettings};
pub use copy::{Copied, copy, export};
pub use drain::{Drain, DrainSettings, DrainStatus, Spooled};
pub use migrate::{Applied, SCHEMA_VERSION, Schema, migrate, schema};
pub use request::{Asked, Decision, Refusal, Requests};
pub use retain::{Expired, Week};
pub use shared::{Chain, Shared, enrol};
