//! The PostgreSQL frontend/backend protocol, version 3.
//!
//! Driven by the proxy's session: it splits what it reads with [`frame::FrameDecoder`], decodes only the messages it has
//! to understand with [`frontend::Frontend`] and [`backend::Backend`], and lets [`automaton`] say what belongs to what.
//! Large messages that nobody has to look at are moved by [`frame::FrameHeader`] alone.
//!
//! Section numbers in this module are those of the PostgreSQL 15 manual, chapter 55 "Frontend/Backend Protocol" (§55.2
//! "Message Flow", §55.7 "Message Formats", §55.8 "Error and Notice Message Fields"). Other editions number the chapter
//! differently; the section titles stay.
//!
//! Deliberately absent: authentication exchanges (SCRAM needs randomness), SQL, and policy.

pub mod automaton;
pub mod backend;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod startup;

mod reader;
mod value;
mod writer;

pub use error::{Side, WireError};
pub use value::{Format, PgString, Target, TransactionStatus};
