//! Search over sessions and decisions: words and filters, newest first.
//!
//! The index gives candidates, the log gives answers: every hit is made from a record that was read from the log just
//! now, and the same function ([`matching`]) judges it that judges what the index does not hold yet. An index that was
//! tampered with can hide a record; it can show none that the log does not hold.
//!
//! ```text
//! log ──[keep]──▶ entry ──▶ [table] (tantivy)       committed every few seconds, by a thread of the lowest priority
//!                   └─────▶ recent                  what is not committed yet
//! Query ──[answer]──▶ table's candidates, each read again from the log + recent + the log's end
//! ```
//!
//! It is derived state: missing, damaged, of another log or another version, it is made anew from the log while the agent
//! works. Nothing here is on the way of a record. What no record holds (masked values, secrets) cannot be found.

mod answer;
mod elsewhere;
mod entry;
mod files;
mod keep;
mod known;
mod matching;
mod table;
#[cfg(test)]
mod tests;
mod words;

use lockgate_model::{OperationId, RequestId, SessionId, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use answer::scan;
pub(crate) use elsewhere::{Judge, Marker};
pub(crate) use keep::{Keeper, Searcher};

/// Hits of a page unless the query asks for another number.
pub const DEFAULT_LIMIT: usize = 50;

/// Hits of a page at most: each is read from the log again.
pub const MAX_LIMIT: usize = 500;

/// What to look for. Everything that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Words of statements, bound values, reasons, names and ids; all of them, in any order, case ignored. `"in quotes"`
    /// they stand next to each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Who asked: words, in order, of the principal's id or display name (`acme/billing`, `uid 1001`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The repository of a CI job, confirmed by its provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// A table that the statement reads or writes, with its schema or without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The statement's class: `read`, `write`, `ddl`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decided>,
    /// Who decided: words, in order, of an approver's id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// A rule that had a part in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The kind of record: `session_started`, `operation_decided`, `approval_resolved`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// One session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// One request for approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The digest that an approval is bound to, or the statement's fingerprint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// At this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Hits of a page: 50, at most 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Older than this record: [`Found::next`] of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// What became of an operation or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// Let through at once.
    Allowed,
    /// Refused, at once or after it waited, or its result was cut.
    Denied,
    /// Waits, or waited, for people.
    Held,
    /// People approved.
    Approved,
    /// People denied.
    Rejected,
    /// Nobody decided in time.
    Expired,
    /// The client gave up.
    Cancelled,
}

impl Decided {
    /// Its name in queries and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Held => "held",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A record that fits, in short. `audit show SEQ` and the session's records have the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// The node whose record it is, where records of several are searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<lockgate_model::id::NodeName>,
    /// The record's number.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// The kind of record.
    pub event: String,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The request for approval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// Who asked: the principal's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Who asked, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<String>,
    /// The CI job's repository, when its provider confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The statement's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Tables read and written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// What became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decided>,
    /// Who decided: ids, and names where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Rules that had a part in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// What an approval of it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The statement, or what was said: its first 400 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// A page of hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Newest first.
    pub hits: Vec<Hit>,
    /// [`Query::before`] of the next page; None when nothing older fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// The last record that the index holds.
    pub indexed: u64,
    /// The last record of the log.
    pub last: u64,
    /// False when some of what was written lately was not looked at, because the index is far behind.
    pub complete: bool,
    /// How long it took.
    pub elapsed_micros: u64,
}

impl Query {
    /// Hits of its page at most.
    fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT)
    }
}
