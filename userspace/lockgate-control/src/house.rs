//! What the control plane shows and does not own: sessions, records, search, targets, policy, the audit log.
//!
//! [`House`] is a port: the binary implements it over its agent and its store, tests script it. Every question and
//! answer is typed and serialisable, since the API, the console and the command line all speak them. It decides nothing
//! about who may ask: [`crate::api`] and the console do, with the [`crate::Caller`] in hand, and say by [`Sight`] how much
//! of a statement that caller may see.

use crate::PeerCred;
use lockgate_model::{
    RequestId, SessionId, Timestamp,
    coverage::Coverage,
    id::{NodeName, PolicyVersion, TargetName},
    port::BoxFuture,
    session::{DefaultEffect, Mode},
};
pub use lockgate_store::{Integrity, Record, SessionFilter, SessionSummary, VerifyReport};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use utoipa::{IntoParams, ToSchema};

/// Records that one answer holds at most; what is longer goes on with `after`.
pub const RECORDS_MAX: usize = 1_000;

/// An answer under way.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, HouseError>>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HouseError {
    /// There is no such thing here.
    #[error("{0}")]
    NotFound(String),
    /// The question makes no sense; what was expected and what came.
    #[error("{0}")]
    Invalid(String),
    /// What is asked for does not fit what is there (a name is taken, somebody changed it meanwhile).
    #[error("{0}")]
    Conflict(String),
    /// It belongs to somebody else: a target of the configuration file is not removed by the API.
    #[error("{0}")]
    NotOurs(String),
    /// The log, the kernel or a file cannot be read or written now.
    #[error("{0}")]
    Unavailable(String),
}

/// How much of recorded statements the asker may see. What policy masks is in no record and is shown to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// As they were recorded.
    Recorded,
    /// Without literals and bound values.
    Shapes,
}

/// Who does something, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// `local:1000`, `oidc:corp:ana`, …
    pub id: String,
    /// To show.
    pub name: String,
}

/// A session by its own id, or by that of a request for approval made in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRef {
    /// `ses_…`
    Session(SessionId),
    /// `req_…`
    Request(RequestId),
}

impl std::str::FromStr for SessionRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let session = text.parse().map(Self::Session);
        let request = |error| text.parse().map(Self::Request).map_err(|_: lockgate_model::id::IdError| error);
        session.or_else(request).map_err(|error: lockgate_model::id::IdError| format!("{error}, or req_…"))
    }
}

impl std::fmt::Display for SessionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session(id) => id.fmt(f),
            Self::Request(id) => id.fmt(f),
        }
    }
}

/// One session with its records.
#[derive(Clone, Debug, Serialize)]
pub struct SessionView {
    /// In short.
    pub session: SessionSummary,
    /// Its records, oldest first.
    pub records: Vec<Record>,
    /// True when more follow: ask again with `after` the last record's number.
    pub more: bool,
}

/// Records as they are written, from some point on.
pub trait Tail: Send {
    /// What was written since the last call, at most `most` records; empty when there is nothing new. Never waits for
    /// something new.
    fn more(&mut self, most: usize) -> Answer<'_, Vec<Record>>;
}

/// What is searched for. Every field that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// Words of the statement, of a reason, of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The principal's id or display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `acme/billing`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The target's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `public.customers`, or its last part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// `read`, `write`, `ddl`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// `allowed`, `denied`, `held`, `approved`, `rejected`, `expired`, `cancelled`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Who voted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// The kind of record: `session_started`, `operation_decided`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `ses_…`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    #[schema(value_type = Option<String>)]
    pub session: Option<SessionId>,
    /// `req_…`
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    #[schema(value_type = Option<String>)]
    pub request: Option<RequestId>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `sha256:…` of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// At this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>, format = DateTime)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
    /// Hits in one answer, at most 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// `next` of the answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// A record that fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hit {
    /// The record's number.
    pub seq: u64,
    /// When.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// The kind of record.
    pub event: String,
    /// The session it is of.
    #[schema(value_type = Option<String>)]
    pub session: Option<SessionId>,
    /// The request for approval it is of.
    #[schema(value_type = Option<String>)]
    pub request: Option<RequestId>,
    /// The principal's id.
    pub identity: Option<String>,
    /// The principal, to show.
    pub display: Option<String>,
    /// `acme/billing`
    pub repository: Option<String>,
    /// The target's name.
    pub target: Option<String>,
    /// `read`, `write`, `ddl`, …
    pub class: Option<String>,
    /// Tables named.
    pub tables: Vec<String>,
    /// What became of it.
    pub decision: Option<String>,
    /// Who voted.
    pub approvers: Vec<String>,
    /// The rules that matched.
    pub rules: Vec<String>,
    /// `sha256:…` of the command.
    pub digest: Option<String>,
    /// The statement or the reason, its beginning.
    pub text: String,
}

/// What was found, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// What fits.
    pub items: Vec<Hit>,
    /// Where the next answer goes on; null at the end.
    pub next: Option<String>,
    /// False when the newest records are not in the index yet and were too many to look through.
    pub complete: bool,
    /// How long it took.
    pub elapsed_micros: u64,
}

/// Where a target's registration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// In the configuration file: changed there.
    Configuration,
    /// In the directory of registered targets: changed by file, command line, console and API alike.
    Registered,
}

/// One target, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetView {
    /// Its name.
    #[schema(value_type = String)]
    pub name: TargetName,
    /// `postgres`
    pub protocol: String,
    /// `observe`, `shadow` or `enforce`
    #[schema(value_type = String)]
    pub mode: Mode,
    /// What happens where no rule decides.
    #[schema(value_type = String)]
    pub default: DefaultEffect,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// As registered.
    pub addresses: Vec<String>,
    /// What host names mean now.
    #[schema(value_type = BTreeMap<String, Vec<String>>)]
    pub resolved: BTreeMap<String, Vec<IpAddr>>,
    /// Where it is served to those who dial lockgate itself.
    pub listen: Option<String>,
    /// Where it is registered.
    pub origin: Origin,
    /// Changes with the registration; for `If-Match`.
    pub etag: String,
    /// The definition as it is written in a file. No secret is in it: credentials are references.
    #[schema(value_type = Option<Object>)]
    pub definition: Option<Value>,
    /// Whether its addresses answer: asked when this was.
    pub health: Option<TargetHealth>,
    /// Sessions that are open on it now.
    pub open_sessions: u64,
}

/// Whether a target's addresses answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetHealth {
    /// True when every address that names one host took a connection.
    pub reachable: bool,
    /// When it was asked.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// What is wrong, when something is.
    pub detail: Option<String>,
}

/// A target, as somebody registers it: the same fields as an entry of `targets:`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Registration {
    /// `name`, `protocol`, `addresses`, `upstream`, … as in the configuration file.
    #[schema(value_type = Object)]
    pub target: Value,
    /// The etag of what it replaces; None: there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// Whose connections are redirected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GovernedView {
    /// `cgroup`, `systemd_unit` or `uid`
    pub by: String,
    /// Its value.
    pub value: String,
    /// `observe` or `enforce`
    pub mode: String,
    /// Whether it may reach what is no target.
    pub unregistered: String,
}

/// Governed sets, and whether everything of theirs passes lockgate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Governed {
    /// The sets.
    pub items: Vec<GovernedView>,
    /// What the kernel side counts.
    #[schema(value_type = Object)]
    pub coverage: Coverage,
    /// True when nothing is missing.
    pub whole: bool,
}

/// One file of policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyFile {
    /// Where it is.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// The policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyView {
    /// Its version: a hash of its files.
    #[schema(value_type = String)]
    pub version: PolicyVersion,
    /// Since when it is in force.
    #[schema(value_type = String, format = DateTime)]
    pub loaded_at: Timestamp,
    /// Its files.
    pub files: Vec<PolicyFile>,
    /// The rules in their order.
    pub rules: Vec<String>,
    /// What is odd about it.
    pub warnings: Vec<String>,
    /// Why a changed one was not taken over, until one is.
    pub rejected: Vec<String>,
}

/// An operation to explain: a policy test's `given:`, or one that was recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExplainQuery {
    /// As under `given:` of a policy test: `statement`, `principal`, `target`, ….
    #[schema(value_type = Object)]
    Given(Value),
    /// Every decided operation of a recorded session, with the policy of now.
    #[schema(value_type = String)]
    Session(String),
}

/// One statement, and what policy makes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explained {
    /// The statement.
    pub statement: String,
    /// `allow`, `deny` or `require_approval`
    pub effect: String,
    /// The verdict, and every rule with why it matched or did not.
    #[schema(value_type = crate::api::openapi::Explanation)]
    pub explanation: Value,
}

/// How a policy test ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub file: String,
    /// Its line there.
    pub line: u64,
    /// True when it passed.
    pub passed: bool,
    /// What was expected and what came.
    pub failures: Vec<String>,
}

/// A signed head of the log, or a proof: text that others check with the public key alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    /// A C2SP checkpoint, or a proof that holds one.
    pub text: String,
    /// What verifies it, as the log itself has it; compare it with a copy kept elsewhere.
    pub public_key: Option<String>,
}

/// What is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProofQuery {
    /// The newest signed head.
    Checkpoint,
    /// That this record is in the log.
    Record(u64),
    /// That the log goes on from this earlier head.
    Growth(String),
}

/// How far a verification of the log is: written by who reads, looked at by who waits, who may stop it.
#[derive(Debug, Default)]
pub struct Watched {
    /// Records read.
    pub records: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Bytes that there were when it began.
    pub bytes_total: AtomicU64,
    stopped: AtomicBool,
}

impl Watched {
    /// Nobody waits for it any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Notes how far it is; false when it should stop.
    pub fn note(&self, records: u64, bytes: u64, bytes_total: u64) -> bool {
        self.records.store(records, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.bytes_total.store(bytes_total, Ordering::Relaxed);
        !self.stopped.load(Ordering::Relaxed)
    }
}

/// A session that was told to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Killed {
    /// Which.
    #[schema(value_type = String)]
    pub session: SessionId,
    /// What the client's error quotes.
    pub decision_id: String,
}

/// What the control plane shows and does not own.
pub trait House: Send + Sync {
    /// The node's name.
    fn node(&self) -> NodeName;
    /// Whether a process that asks on the unix socket is one of those whose connections are redirected: a job, whoever runs it.
    fn governs(&self, peer: &PeerCred) -> bool;
    /// How the node is doing: what `lockgate doctor` and `/v1/status` show.
    fn status(&self) -> Answer<'_, Value>;
    /// Sessions, newest first.
    fn sessions(&self, filter: SessionFilter) -> Answer<'_, Vec<SessionSummary>>;
    /// One session with at most `most` of its records after number `after`.
    fn session(&self, id: SessionRef, after: u64, most: usize, sight: Sight) -> Answer<'_, SessionView>;
    /// The number of the newest record that is signed; those behind it are a second or two old.
    fn newest(&self) -> Answer<'_, u64>;
    /// Follows the log: behind record `after`, or behind what is there now.
    fn tail(&self, after: Option<u64>) -> Answer<'_, Box<dyn Tail>>;
    /// What is left of a record for somebody with this sight.
    fn seen(&self, record: Record, sight: Sight) -> Record;
    /// Ends a live session: its client is told, its record says who and why.
    fn kill(&self, id: SessionId, by: Actor, reason: String) -> Answer<'_, Killed>;
    /// Full-text search over all records.
    fn search(&self, query: SearchQuery, sight: Sight) -> Answer<'_, Found>;
    /// Every target. With `probe`, whether each answers is asked now, within a bound.
    fn targets(&self, probe: bool) -> Answer<'_, Vec<TargetView>>;
    /// Registers a target, or changes a registered one. In force when this returns.
    fn register(&self, registration: Registration, by: Actor) -> Answer<'_, TargetView>;
    /// Takes a registered target away. Its open sessions end by themselves or are killed; nothing new is redirected.
    fn unregister(&self, name: TargetName, etag: Option<String>, by: Actor) -> Answer<'_, ()>;
    /// Whose connections are redirected, and whether all of them are.
    fn governed(&self) -> Answer<'_, Governed>;
    /// The policy in force, with its source.
    fn policy(&self) -> Answer<'_, PolicyView>;
    /// What the policy in force makes of operations.
    fn explain(&self, query: ExplainQuery) -> Answer<'_, Vec<Explained>>;
    /// The outcome of the tests that the policy in force carries.
    fn test(&self) -> Answer<'_, Vec<PolicyTest>>;
    /// Reads the whole log back and checks every link; None when it was stopped.
    fn verify(&self, watched: Arc<Watched>) -> Answer<'_, Option<VerifyReport>>;
    /// A signed head, or a proof.
    fn prove(&self, query: ProofQuery) -> Answer<'_, Proof>;
}
