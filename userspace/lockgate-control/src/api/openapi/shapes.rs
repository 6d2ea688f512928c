//! Shapes of what is answered as documents that are put together by hand: named here for the description alone. Tests hold
//! real answers against them.

#![allow(dead_code, reason = "these types describe, nobody makes them")]

use serde_json::Value;
use utoipa::ToSchema;

/// What is wrong, and what to do (RFC 9457).
#[derive(ToSchema)]
pub(super) struct Problem {
    /// `urn:lockgate:problem:` and the code.
    r#type: String,
    /// The same for every occurrence of the code.
    title: String,
    /// HTTP status.
    status: u16,
    /// What is wrong here, and what to do.
    detail: String,
    /// Stable, for programs.
    code: String,
    /// The request for approval it is about.
    request_id: Option<String>,
    /// The decision it is about.
    decision_id: Option<String>,
    /// The request's own path.
    instance: Option<String>,
}

/// One line of a list of requests.
#[derive(ToSchema)]
pub(super) struct ApprovalLine {
    /// `req_…`
    id: String,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    state: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// What a decision must echo.
    command_digest: String,
    /// Its beginning; literals only where policy allows.
    statement: String,
    /// The target's name.
    target: String,
    /// Who asks.
    principal: String,
    /// Who asks, to show.
    display: String,
    /// The rules that hold it.
    rules: Vec<String>,
    /// `ses_…`
    session_id: String,
    /// `dec_…`
    decision_id: String,
    /// Who is still needed.
    #[schema(value_type = Vec<Object>)]
    need: Vec<Value>,
    /// The bundle it belongs to.
    bundle_id: Option<String>,
}

/// A request with everything an approver needs; the same document as a notification's `data`.
#[derive(ToSchema)]
pub(super) struct Approval {
    /// `req_…`
    id: String,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    state: String,
    /// One sentence, made from the parsed operation.
    summary: String,
    /// What a decision must echo.
    command_digest: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// Statement, values, tables, risk.
    #[schema(value_type = Object)]
    operation: Value,
    /// Who asks, and how sure.
    #[schema(value_type = Object)]
    identity: Value,
    /// Where it would run.
    #[schema(value_type = Object)]
    target: Value,
    /// The rules that hold it, with their stages.
    #[schema(value_type = Vec<Object>)]
    rules: Vec<Value>,
    /// Votes so far.
    #[schema(value_type = Vec<Object>)]
    votes: Vec<Value>,
    /// What became of each notification.
    #[schema(value_type = Object)]
    notifications: Value,
}

/// A decision.
#[derive(ToSchema)]
pub(super) struct Word {
    /// Why; some rules require it.
    reason: Option<String>,
    /// What the decider was shown; refused when the request is about something else.
    command_digest: Option<String>,
    /// With an approval: more than this once.
    grant: Option<GrantTerms>,
}

/// What an approval gives beyond this once.
#[derive(ToSchema)]
pub(super) struct GrantTerms {
    /// `15m`
    r#for: String,
    /// This often at most.
    uses: Option<u32>,
    /// `bundle`: what the rules would bundle with it, not this shape alone.
    covers: Option<String>,
    /// Kinds of statements that may follow.
    kinds: Option<Vec<String>>,
    /// The highest risk that may follow.
    risk: Option<String>,
}

/// A decision that counted.
#[derive(ToSchema)]
pub(super) struct Counted {
    /// `req_…`
    request_id: String,
    /// `counted`
    status: String,
    /// Where the request stands now.
    state: String,
    /// Who is still needed.
    #[schema(value_type = Vec<Object>)]
    need: Vec<Value>,
}

/// A decision of an integration, signed as Standard Webhooks say.
#[derive(ToSchema)]
pub(super) struct SignedDecision {
    /// `lockgate.decision`
    r#type: String,
    /// Who decides on what.
    #[schema(value_type = Object)]
    data: Value,
}

/// Requests that are told and decided together.
#[derive(ToSchema)]
pub(super) struct Bundle {
    /// `bnd_…`
    id: String,
    /// `pending` or `resolved`
    state: String,
    /// What a decision on all of them must echo.
    command_digest: String,
    /// Each as by itself.
    requests: Vec<Approval>,
}

/// A decision on a bundle that counted.
#[derive(ToSchema)]
pub(super) struct CountedBundle {
    /// `bnd_…`
    bundle_id: String,
    /// `counted`
    status: String,
    /// For how many requests.
    counted: u64,
    /// Where the bundle stands now.
    state: String,
    /// Each request's state.
    #[schema(value_type = Vec<Object>)]
    requests: Vec<Value>,
}

/// A permission that an approval left behind.
#[derive(ToSchema)]
pub(super) struct Grant {
    /// `grt_…`
    id: String,
    /// The request it was given on.
    request_id: String,
    /// Who has it.
    principal: String,
    /// On this target.
    target: String,
    /// Statements of this shape.
    shape: String,
    /// Who gave it.
    given_by: Vec<String>,
    #[schema(format = DateTime)]
    expires_at: String,
    /// This often at most.
    uses: Option<u32>,
    /// This often so far.
    used: u32,
}

/// Why.
#[derive(ToSchema)]
pub(super) struct Reason {
    /// In your words; who is concerned reads it.
    reason: Option<String>,
}

/// An emergency override.
#[derive(ToSchema)]
pub(super) struct Glass {
    /// `brk_…`
    id: String,
    /// The `break_glass` block.
    rule: String,
    /// Who.
    #[schema(value_type = Object)]
    by: Value,
    /// Why.
    reason: Option<String>,
    /// The ticket.
    ticket: Option<String>,
    #[schema(format = DateTime)]
    ends_at: String,
}

/// Breaking the glass.
#[derive(ToSchema)]
pub(super) struct BreakGlass {
    /// The `break_glass` block.
    rule: String,
    /// Why.
    reason: Option<String>,
    /// The ticket.
    ticket: Option<String>,
    /// `30m`
    r#for: Option<String>,
    /// Another principal's sessions than those of the asking user.
    principal: Option<String>,
    /// On this target alone.
    target: Option<String>,
}

/// A look at an emergency override.
#[derive(ToSchema)]
pub(super) struct Review {
    /// What was seen.
    note: Option<String>,
}

/// One session, in short.
#[derive(ToSchema)]
pub(super) struct SessionLine {
    /// `ses_…`
    id: String,
    #[schema(format = DateTime)]
    started: String,
    /// None while it runs.
    ended: Option<String>,
    /// Why it ended.
    closing: Option<String>,
    /// Who.
    #[schema(value_type = Object)]
    principal: Value,
    /// Where.
    target: String,
    /// The database.
    database: String,
    /// Operations decided.
    operations: u64,
    /// Operations refused.
    denied: u64,
    /// Operations that waited for people.
    held: u64,
}

/// One session with its records.
#[derive(ToSchema)]
pub(super) struct SessionRecords {
    /// In short.
    session: SessionLine,
    /// Its records, oldest first.
    records: Vec<Record>,
    /// More follow: ask again with `after`.
    more: bool,
}

/// One record of the log.
#[derive(ToSchema)]
pub(super) struct Record {
    /// Its number.
    seq: u64,
    #[schema(format = DateTime)]
    at: String,
    /// What happened: `session_started`, `operation_decided`, …
    event: String,
    /// What is known of it; differs by event.
    #[schema(value_type = Object)]
    data: Value,
}

/// How the node is doing.
#[derive(ToSchema)]
pub(super) struct Status {
    /// lockgate's version.
    version: String,
    /// The node's name.
    node: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// The policy in force.
    #[schema(value_type = Object)]
    policy: Value,
    /// What the kernel side holds.
    #[schema(value_type = Object)]
    hooks: Value,
    /// Requests that wait.
    pending_approvals: u64,
    /// Live connections.
    connections: u64,
}

/// Whether every record is the one that was written.
#[derive(ToSchema)]
pub(super) struct Verification {
    /// `intact` or `broken`
    integrity: String,
    /// Records read.
    records: u64,
    /// Number of the last one.
    last_seq: u64,
    /// What is wrong, and where.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Value>,
}

/// How a channel is.
#[derive(ToSchema)]
pub(super) struct Channel {
    /// As configured.
    name: String,
    /// `webhook`, `slack` or `email`
    kind: String,
    /// `ok`, `failing` or `disabled`
    state: String,
    /// Messages that wait.
    queued: u64,
}

/// The request of a rehearsal.
#[derive(ToSchema)]
pub(super) struct Rehearsed {
    /// `req_…`: a request that nobody made and that runs nothing.
    request_id: String,
}

/// Who asks.
#[derive(ToSchema)]
pub(super) struct Whoami {
    /// `local:1000`, `oidc:corp:…`
    id: String,
    /// To show.
    name: String,
    /// The roles.
    roles: Vec<String>,
    /// The policy groups they vote for.
    groups: Vec<String>,
}

/// Anything: a document that is told in the guide.
#[derive(ToSchema)]
pub(super) struct Document {
    #[schema(value_type = Object)]
    #[serde(flatten)]
    rest: Value,
}

/// Where a command is governed now.
#[derive(ToSchema)]
pub(super) struct Placed {
    /// Its cgroup.
    cgroup: String,
}

/// Asks for a token for somebody who dials lockgate itself.
#[derive(ToSchema)]
pub(super) struct CallerTokenRequest {
    /// The target it is for.
    target: String,
    /// Who carries it.
    caller: String,
    /// `ci_job`, `service`, `person`, …
    kind: String,
    /// Networks it may be shown from.
    from: Vec<String>,
    /// How long it is good for.
    seconds: u64,
}

/// A token for somebody who dials lockgate itself; shown once.
#[derive(ToSchema)]
pub(super) struct CallerToken {
    /// Its name.
    id: String,
    /// The token.
    token: String,
    #[schema(format = DateTime)]
    expires: String,
}

/// Whether a probe came through the capture.
#[derive(ToSchema)]
pub(super) struct SelfTest {
    /// True when it did.
    ok: bool,
    /// What went wrong.
    error: Option<String>,
}
