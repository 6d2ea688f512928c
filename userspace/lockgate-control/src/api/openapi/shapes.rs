//! Shapes of what comes from elsewhere: types of the crates below, which know nothing of OpenAPI, and answers of the binary's own
//! routes. Named here for the description alone; tests hold real answers against them and let nothing be in one that is not here.

#![allow(dead_code, reason = "these types describe, nobody makes them")]

use serde_json::Value;
use std::collections::BTreeMap;
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

/// How a channel is.
#[derive(ToSchema)]
pub(super) struct Channel {
    /// As configured.
    name: String,
    /// `webhook`, `slack` or `email`
    kind: String,
    /// `ok`, `failing` or `disabled`
    state: String,
    /// Since when nothing got through.
    failing_since: Option<String>,
    /// Attempts that failed since anything got through.
    failures: u64,
    /// Why, the last time.
    last_error: Option<String>,
    /// The last attempt that ended, however it did.
    attempted_at: Option<String>,
    /// The last that got through.
    delivered_at: Option<String>,
    /// Messages that got through since the agent started.
    delivered: u64,
    /// Messages that never will, since the agent started.
    given_up: u64,
    /// Messages that wait, for a first attempt or another one.
    queued: u64,
    /// Attempts under way.
    under_way: u64,
    /// When the next attempt begins.
    next_attempt_at: Option<String>,
    /// What to do, unless it is well.
    remedy: Option<String>,
}

/// The request of a rehearsal.
#[derive(ToSchema)]
pub(super) struct Rehearsed {
    /// `req_…`: a request that nobody made and that runs nothing.
    request_id: String,
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

/// How far one requirement is.
#[derive(ToSchema)]
pub(crate) struct Need {
    /// The rule.
    rule: String,
    /// Distinct people who approved.
    have: u32,
    /// Distinct people needed.
    need: u32,
    /// Groups that may vote now.
    any_of: Vec<String>,
}

/// Who decides, from when on.
#[derive(ToSchema)]
pub(crate) struct RuleStage {
    /// From this long after the request: `10m`.
    at: String,
    /// Members of any of these groups.
    any_of: Vec<String>,
    /// So many distinct people.
    need: u32,
}

/// A vote.
#[derive(ToSchema)]
pub(crate) struct CastVote {
    /// Who.
    by: Voter,
    /// `approve` or `deny`
    decision: String,
    /// Why.
    reason: Option<String>,
    /// When.
    #[schema(format = DateTime)]
    at: String,
    /// What it gives beyond this once.
    grant: Option<VoteGrant>,
}

/// Somebody who votes.
#[derive(ToSchema)]
pub(crate) struct Voter {
    /// Namespaced by where it comes from: `oidc:corp:ana`.
    id: String,
    /// Policy groups that the vote counts for.
    groups: Vec<String>,
    /// How it came: `console`, `webhook:approvals`.
    via: String,
    /// The person's name and other ids, where they are known.
    also: Option<Vec<String>>,
}

/// What a vote gives beyond this once.
#[derive(ToSchema)]
pub(crate) struct VoteGrant {
    /// `15m`
    r#for: String,
    /// This often at most.
    uses: Option<u32>,
    /// For what else would be bundled with it.
    ahead: Option<VoteGrantAhead>,
}

/// What may follow.
#[derive(ToSchema)]
pub(crate) struct VoteGrantAhead {
    /// Statements of these kinds.
    kinds: Vec<String>,
    /// Of this risk at most.
    risk: String,
}

/// How a request ended.
#[derive(ToSchema)]
pub(crate) struct Ended {
    /// `approved`, `denied`, `expired` or `withdrawn`
    outcome: String,
    /// The votes that approved it.
    votes: Option<Vec<CastVote>>,
    /// Where nobody voted on this very request: what it was approved on.
    basis: Option<EndedOn>,
    /// The vote that denied it.
    vote: Option<CastVote>,
    /// Why it was withdrawn: `cancelled`, `disconnected`, …
    reason: Option<String>,
}

/// What a request was approved on, where nobody voted on it.
#[derive(ToSchema)]
pub(crate) struct EndedOn {
    /// `reuse`, `taken_up` or `grant`
    on: String,
    /// The request that people decided on.
    of: Option<String>,
    /// The grant.
    grant: Option<String>,
    /// Its uses left after this one.
    left: Option<u32>,
}

/// Who must look at an override afterwards.
#[derive(ToSchema)]
pub(crate) struct OwedReview {
    /// A member of this group.
    by: String,
    /// By when.
    #[schema(format = DateTime)]
    due: String,
    /// Whether it cannot be used again before.
    blocks_next_use: bool,
}

/// Somebody looked at an override.
#[derive(ToSchema)]
pub(crate) struct DoneReview {
    /// Who.
    by: Voter,
    /// What they say.
    note: Option<String>,
    /// When.
    #[schema(format = DateTime)]
    at: String,
}

/// One session, in short.
#[derive(ToSchema)]
pub(super) struct SessionLine {
    /// `ses_…`
    id: String,
    /// The node it ran on.
    node: String,
    #[schema(format = DateTime)]
    started: String,
    /// Absent while it runs.
    ended: Option<String>,
    /// Why it ended.
    closing: Option<String>,
    /// Who.
    principal: SessionPrincipal,
    /// Where.
    target: String,
    /// `postgres` or `http`
    protocol: String,
    /// The database; empty where there is none.
    database: String,
    /// The role lockgate logged in as.
    upstream_user: String,
    /// Operations decided.
    operations: u64,
    /// Operations refused.
    denied: u64,
    /// Operations that waited for people.
    held: u64,
    /// Bytes from the client; known when it has ended.
    bytes_from_client: u64,
    /// Bytes to the client; known when it has ended.
    bytes_to_client: u64,
    /// Number of its first record.
    first_seq: u64,
    /// Number of its last record so far.
    last_seq: u64,
}

/// Whose session it is.
#[derive(ToSchema)]
pub(super) struct SessionPrincipal {
    /// `ci_job`, `service`, `person`, …
    kind: String,
    /// Namespaced and stable.
    id: String,
    /// To show.
    display: String,
    /// `attested`, `platform`, `kernel` or `claimed`
    assurance: String,
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
    /// Version of the shape.
    v: u32,
    /// The node that wrote it.
    node: String,
    /// Its number.
    seq: u64,
    /// Hash of the record before it; zeroes for viewers.
    prev: String,
    #[schema(format = DateTime)]
    at: String,
    /// The session it is of.
    session: Option<String>,
    /// What happened: `session_started`, `operation_decided`, …
    event: String,
    /// What is known of it; differs by event, and is absent where nothing is.
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
}

/// How the node is doing.
#[derive(ToSchema)]
pub(super) struct Status {
    /// lockgate's version.
    version: String,
    /// The node's name.
    node: String,
    /// Which of the node's agents.
    instance: String,
    /// Its process.
    pid: u32,
    #[schema(format = DateTime)]
    started_at: String,
    /// Its configuration file.
    config: String,
    /// The most that is done anywhere.
    mode: String,
    /// Where the log is.
    store: String,
    /// The policy in force.
    policy: StatusPolicy,
    /// Whose connections are redirected.
    #[schema(value_type = Vec<Object>)]
    governed: Vec<Value>,
    /// What it stands in front of.
    targets: Vec<StatusTarget>,
    /// Where it accepts connections.
    listeners: Vec<String>,
    /// Where the API is.
    #[schema(value_type = Object)]
    api: Value,
    /// What `lockgate run` uses.
    #[schema(value_type = Object)]
    run: Value,
    /// What the kernel side holds and counts.
    #[schema(value_type = Object)]
    hooks: Value,
    /// Requests that wait.
    pending_approvals: u64,
    /// Live connections.
    connections: u64,
    /// What becomes of the log besides being written.
    #[schema(value_type = Object)]
    evidence: Value,
}

/// The policy in force.
#[derive(ToSchema)]
pub(super) struct StatusPolicy {
    /// Which.
    version: String,
    /// Since when.
    #[schema(format = DateTime)]
    loaded_at: String,
    /// Made of these.
    files: Vec<String>,
    /// What is odd about it.
    warnings: Vec<String>,
    /// The last reading that was not taken over.
    #[schema(value_type = Option<Object>)]
    rejected: Option<Value>,
}

/// One target, as the status shows it.
#[derive(ToSchema)]
pub(super) struct StatusTarget {
    /// Its name.
    name: String,
    /// `postgres` or `http`
    protocol: String,
    /// `observe`, `shadow` or `enforce`
    mode: String,
    /// Where no rule decides: `allow` or `deny`.
    default: String,
    /// Its tags.
    tags: BTreeMap<String, String>,
    /// As registered.
    addresses: Vec<String>,
    /// Where it is served to those who dial lockgate itself.
    listen: Option<String>,
    /// What host names mean now.
    resolved: BTreeMap<String, Vec<String>>,
}

/// Whether every record is the one that was written.
#[derive(ToSchema)]
pub(crate) struct Verified {
    /// `intact` or `broken`
    integrity: String,
    /// Records read.
    records: u64,
    /// Number of the last one.
    last_seq: u64,
    /// Its hash.
    last_hash: String,
    /// The newest signed head, when it opened.
    head: Option<VerifiedHead>,
    /// Signed heads whose hash was met.
    checkpoints_met: u64,
    /// The key that was trusted.
    public_key: Option<String>,
    /// Records that retention removed in order.
    removed: Option<Vec<VerifiedGone>>,
    /// What is wrong, and where: `problem`, `text`, `seq`, `place` and what belongs to the problem; at most 100.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Value>,
    /// How much is wrong, those that were not kept included.
    findings_total: u64,
    /// What is worth knowing and not wrong.
    notes: Vec<String>,
}

/// A signed head.
#[derive(ToSchema)]
pub(crate) struct VerifiedHead {
    /// The log's name.
    origin: String,
    /// How many records it covers.
    size: u64,
    /// When it was signed.
    #[schema(format = DateTime)]
    signed_at: String,
    /// Records after it: linked, not signed yet.
    records_after: u64,
}

/// Records that retention removed.
#[derive(ToSchema)]
pub(crate) struct VerifiedGone {
    /// The first.
    from: u64,
    /// The last.
    to: u64,
    /// By which rule.
    policy: String,
    /// The number of the record that says so.
    announced: u64,
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
    /// How it is known that a person has just logged in; null when it is not.
    fresh_login: Option<String>,
    /// What unsafe requests of this login must carry in `x-csrf-token`.
    csrf: Option<String>,
    /// The login's id.
    login: Option<String>,
    /// What is not for production about it.
    warning: Option<String>,
}

/// A login that is open.
#[derive(ToSchema)]
pub(super) struct OpenLogin {
    /// Its id.
    id: String,
    /// Whose.
    person: String,
    /// To show.
    name: String,
    /// By which provider.
    provider: String,
    #[schema(format = DateTime)]
    began_at: String,
    /// When the person proved who they are, where the provider says.
    proved_at: Option<String>,
    /// How long it was not used.
    idle_seconds: u64,
    /// From which address.
    source: Option<String>,
    /// True for the one that asks.
    current: bool,
}

/// A login that was ended.
#[derive(ToSchema)]
pub(super) struct EndedLogin {
    /// Its id.
    id: String,
    /// `ended`
    state: String,
}

/// Somebody who has left.
#[derive(ToSchema)]
pub(super) struct Leaver {
    /// `oidc:corp:ana`
    person: String,
}

/// What ended with somebody who has left.
#[derive(ToSchema)]
pub(super) struct Left {
    /// Who.
    person: String,
    /// Ids of logins.
    logins_ended: Vec<String>,
    /// Ids of API tokens.
    tokens_revoked: Vec<String>,
}

/// Asks for an API token.
#[derive(ToSchema)]
pub(super) struct ApiTokenWish {
    /// What it is for.
    name: String,
    /// As many of one's own as there are, unless said.
    roles: Option<Vec<String>>,
    /// Policy groups it votes for.
    groups: Option<Vec<String>>,
    /// `30d`
    r#for: Option<String>,
    /// For a program that does not vote, and not for oneself.
    program: Option<bool>,
}

/// An API token.
#[derive(ToSchema)]
pub(super) struct ApiToken {
    /// Its id.
    id: String,
    /// What it is for.
    name: String,
    /// Whose it is; null for a program's.
    owner: Option<String>,
    /// Its roles.
    roles: Vec<String>,
    /// Policy groups it votes for.
    groups: Vec<String>,
    #[schema(format = DateTime)]
    made_at: String,
    /// By whom.
    made_by: String,
    #[schema(format = DateTime)]
    expires_at: String,
    /// When it was used last.
    used_at: Option<String>,
    /// The token itself: in the answer that makes it, and never again.
    token: Option<String>,
    /// `revoked`, in the answer to that.
    state: Option<String>,
}

/// The one-time token of the bootstrap administrator.
#[derive(ToSchema)]
pub(super) struct Bootstrap {
    /// Shown once.
    token: String,
    /// How long it can be used to log in.
    good_for_seconds: u64,
    /// What is not for production about it.
    warning: String,
}

/// Legal holds.
#[derive(ToSchema)]
pub(super) struct Holds {
    /// Those in force.
    holds: Vec<LegalHold>,
}

/// Records that mention an id.
#[derive(ToSchema)]
pub(super) struct Mentions {
    /// Their numbers, oldest first: the first 1,000.
    records: Vec<u64>,
}

/// A legal hold: what it names is kept until it is released. Everything that is set must fit.
#[derive(ToSchema)]
pub(super) struct LegalHold {
    /// `hold_…`
    name: String,
    /// One session.
    session: Option<String>,
    /// Sessions of a principal.
    identity: Option<String>,
    /// Records of this time or later.
    since: Option<String>,
    /// Records before this time.
    until: Option<String>,
    /// Who placed it.
    by: String,
    /// Why.
    reason: String,
    #[schema(format = DateTime)]
    at: String,
}

/// Asks for a legal hold.
#[derive(ToSchema)]
pub(super) struct HoldWish {
    /// One session.
    session: Option<String>,
    /// Sessions of a principal.
    identity: Option<String>,
    /// Records of this time or later.
    since: Option<String>,
    /// Records before this time.
    until: Option<String>,
    /// Why.
    reason: String,
}

/// Releases a legal hold.
#[derive(ToSchema)]
pub(super) struct HoldRelease {
    /// Why.
    reason: String,
}

/// What retention would do now.
#[derive(ToSchema)]
pub(super) struct RetentionPlan {
    /// Segments that would be removed, by their first records.
    remove: Vec<u64>,
    /// Segments that are over their time and stay, and why.
    kept: BTreeMap<String, String>,
    /// The rule.
    policy: String,
}

/// What retention did.
#[derive(ToSchema)]
pub(super) struct RetentionRun {
    #[schema(format = DateTime)]
    at: String,
    /// Records that were removed.
    removed: u64,
    /// Segments that are over their time and stay, and why.
    kept: BTreeMap<String, String>,
    /// Why it failed.
    error: Option<String>,
}

/// A target: an entry of `targets:` as the configuration has it.
#[derive(ToSchema)]
pub(super) struct TargetDefinition {
    /// Its name.
    name: String,
    /// `postgres` or `http`
    protocol: String,
    /// `host:port`, `ip:port` or `network/prefix:port`
    addresses: Vec<String>,
    /// How lockgate reaches it, and what it presents there: references, never secrets.
    #[schema(value_type = Object)]
    upstream: Value,
    /// The rest of its keys, as under `targets:`.
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// The verdict and why, rule by rule.
#[derive(ToSchema)]
pub(crate) struct Explanation {
    /// As it would be recorded.
    #[schema(value_type = Object)]
    verdict: Value,
    /// Every rule, in the order of the files.
    rules: Vec<ExplainedRule>,
}

/// Whether one rule matches, and why.
#[derive(ToSchema)]
pub(crate) struct ExplainedRule {
    /// Its id.
    rule: String,
    /// Its file.
    file: String,
    /// Its line there.
    line: u64,
    /// Its effect.
    effect: String,
    /// `enforce`, `shadow` or `off`
    mode: String,
    /// Whether it matches.
    matched: bool,
    /// Every key it matches on.
    conditions: Vec<ExplainedCondition>,
}

/// One key of a rule's `match:`, or its `when:`.
#[derive(ToSchema)]
pub(crate) struct ExplainedCondition {
    /// `match.sql.class`, `when`, …
    key: String,
    /// What the rule wants.
    wanted: String,
    /// What came.
    got: String,
    /// Whether it holds.
    holds: bool,
}

/// What Slack is answered: nothing, or what is wrong with a form.
#[derive(ToSchema)]
pub(super) struct SlackAnswer {
    /// `errors` or `clear`
    response_action: Option<String>,
    /// By field.
    errors: Option<BTreeMap<String, String>>,
}

/// An OpenAPI document.
#[derive(ToSchema)]
pub(super) struct Description {
    /// `3.1.0`
    openapi: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}
