//! Every step that is recorded. An event is made once, hashed by lockgate-audit, and never rewritten.
//!
//! Events carry no secret, and of statements that touch a masked table only the normalized text.

use crate::{
    access::Access,
    administration::Administration,
    approval::{Resolution, Vote, WithdrawReason},
    coverage::Coverage,
    grant::{GlassUse, Grant, GrantEnd, Reviewed},
    id::{
        BundleId, DecisionId, GlassId, GrantId, NodeName, OperationId, PolicyVersion, RequestId, SessionId,
        TargetName,
    },
    observation::Observation,
    operation::{Digest, Facts, Operation, Parameter, SqlContext},
    outcome::{Closing, Outcome},
    principal::Approver,
    session::Session,
    time::Timestamp,
    verdict::{Denial, RecordStatements, Verdict},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One recorded step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub at: Timestamp,
    /// The session it belongs to, when it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event", content = "data")]
pub enum EventKind {
    /// A flow was accepted, attributed and matched to a target.
    SessionStarted(Box<Session>),
    /// Whether the role that lockgate logs in as could read what is masked for this session, were lockgate not there. Written
    /// once the target's catalogue is loaded, and again when the answer changes.
    MaskedColumns {
        /// Columns that are masked for this session.
        masked: u64,
        /// Those of them that the role may read by itself. None is the strongest defence: the target keeps them, too.
        readable: u64,
        /// The first of those, as `schema.table.column`.
        first: Vec<String>,
    },
    /// An operation was decided. Written before anything of it is forwarded.
    OperationDecided {
        /// What was asked.
        operation: RecordedOperation,
        /// What policy said.
        verdict: Box<Verdict>,
        /// Set when the operation is refused now: the words the client got.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        denial: Option<Denial>,
    },
    /// It waits for people.
    ApprovalRequested {
        /// The request.
        request: RequestId,
        /// The operation that waits.
        operation: OperationId,
        /// What a decision must echo.
        command_digest: Digest,
        /// When it is denied by itself.
        expires_at: Timestamp,
        /// The request of a client that is gone, whose outcome this one shares.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        takes_up: Option<RequestId>,
    },
    /// The client of a request is gone, and the request waits on: whoever asks for the same again takes it up.
    ApprovalLeft {
        /// The request.
        request: RequestId,
        /// Why it is gone.
        reason: WithdrawReason,
    },
    /// Requests are told in one message and decided together.
    ApprovalsBundled {
        /// The bundle.
        bundle: BundleId,
        /// What a decision on all of them must echo.
        digest: Digest,
        /// The requests, in order.
        requests: Vec<RequestId>,
    },
    /// Something that outlives a restart (a request, a grant, an override) was put where it rests, or taken away. Whoever
    /// reads it back believes nothing else.
    Shelved {
        /// Its name there: `req_…`, `grt_…`, `req_….reuse`.
        name: String,
        /// SHA-256 of what rests there; None when it was taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<Digest>,
    },
    /// Approvers gave a grant.
    GrantMade(Box<Grant>),
    /// A grant ended.
    GrantEnded {
        /// Which.
        grant: GrantId,
        /// How often it was used.
        used: u32,
        /// How.
        end: GrantEnd,
    },
    /// An emergency override is in force from now on.
    GlassBroken(Box<GlassUse>),
    /// An emergency override is over.
    GlassEnded {
        /// Which.
        glass: GlassId,
        /// Who ended it; None when its time was over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Approver>,
    },
    /// Somebody looked at an emergency override.
    GlassReviewed {
        /// Which.
        glass: GlassId,
        /// Who, and what they say.
        review: Reviewed,
    },
    /// An alert that is not about a request was tried.
    Alerted {
        /// What it is about: `brk_…`.
        about: String,
        /// `webhook:approvals`.
        channel: String,
        /// How often it was tried, this one included.
        attempt: u32,
        /// HTTP status, when there was an answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// What went wrong, when it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// A notification was tried.
    Notified {
        /// The request.
        request: RequestId,
        /// `webhook:approvals`.
        channel: String,
        /// How often it was tried, this one included.
        attempt: u32,
        /// HTTP status, when there was an answer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// What went wrong, when it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Somebody voted.
    VoteCast {
        /// The request.
        request: RequestId,
        /// The vote.
        vote: Vote,
    },
    /// Somebody tried to decide and was refused.
    DecisionRefused {
        /// The request, when one was named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<RequestId>,
        /// `webhook:approvals`, `local:1000`.
        channel: String,
        /// Who it claimed to be, when known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
        /// Machine-readable: `bad_signature`, `stale`, `replayed`, …
        code: String,
        /// For people.
        detail: String,
    },
    /// A request ended.
    ApprovalResolved {
        /// The request.
        request: RequestId,
        /// How.
        resolution: Resolution,
    },
    /// An allowed (or approved) operation is sent on now. Written before its first byte goes upstream.
    Forwarded {
        /// The operation.
        operation: OperationId,
        /// The decision that lets it pass (after a hold: the evaluation made when the hold ended).
        decision: DecisionId,
        /// The approval that lets it pass, after a hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<RequestId>,
    },
    /// A piece of a statement's text, or of a bound value, that its decision's record has no room for. Written together
    /// with that record, in order, until nothing is missing.
    OperationPart {
        /// The operation.
        operation: OperationId,
        /// Which bound value, from 0; absent for the text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parameter: Option<u32>,
        /// Where the piece begins, in bytes.
        offset: u64,
        /// The piece.
        data: String,
    },
    /// An operation that waited is refused after all.
    Refused {
        /// The operation.
        operation: OperationId,
        /// The decision quoted to the client.
        decision: DecisionId,
        /// The words the client got.
        denial: Denial,
    },
    /// A result was cut: more rows or bytes came than policy lets through. What the client got of it is counted in
    /// the operation's outcome.
    ResultCut {
        /// The operation.
        operation: OperationId,
        /// The decision quoted to the client.
        decision: DecisionId,
        /// The words the client got.
        denial: Denial,
        /// Rows that reached the client, counted as the limit counts them.
        rows: u64,
        /// Bytes that reached the client, counted as the limit counts them.
        bytes: u64,
    },
    /// The first rows of a result, as the client saw them (masked).
    ResultRows {
        /// The operation.
        operation: OperationId,
        /// Column names.
        columns: Vec<String>,
        /// Values as text; binary as hex; None is NULL.
        rows: Vec<Vec<Option<String>>>,
        /// True when the result went on.
        truncated: bool,
    },
    /// The target answered.
    Responded {
        /// The operation.
        operation: OperationId,
        /// What it answered.
        outcome: Outcome,
    },
    /// A session ended. Exactly one a session.
    SessionEnded(Closing),
    /// A connection ended before it became a session.
    FlowRefused {
        /// Why, for people.
        detail: String,
        /// How it ended.
        closing: Closing,
        /// What is known of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flow: Option<Box<crate::flow::Flow>>,
        /// The target, when it was matched.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<TargetName>,
    },
    /// Who talked to what without being redirected, added up over a period. One an identity and destination.
    Observed(Box<Observation>),
    /// What of the traffic of governed processes passed lockgate, and what did not.
    Coverage(Box<Coverage>),
    /// Something was done with the evidence itself.
    Custody(Box<crate::custody::Custody>),
    /// A token was given to somebody who will dial lockgate itself.
    TokenIssued {
        /// Its name.
        token: String,
        /// Who carries it.
        caller: String,
        /// The one target it is for.
        target: TargetName,
        /// Networks that it may be shown from.
        from: Vec<String>,
        /// When it ends.
        expires: Timestamp,
        /// Who asked for it: `uid 0`.
        by: String,
    },
    /// Somebody logged in or out, tried to, or got or lost a means of it.
    Access(Box<Access>),
    /// Somebody changed something by hand.
    Administered(Box<Administration>),
    /// The agent started.
    AgentStarted {
        /// Its node.
        node: NodeName,
        /// Its version.
        version: String,
        /// The policy in force.
        policy: PolicyVersion,
    },
    /// The agent stops in order.
    AgentStopped {
        /// Its node.
        node: NodeName,
    },
    /// A changed policy is in force.
    PolicyLoaded {
        /// Its version.
        version: PolicyVersion,
        /// Files it was made of.
        files: Vec<String>,
        /// Warnings of the loader.
        warnings: Vec<String>,
    },
    /// A changed policy is broken; the last good one stays in force.
    PolicyRejected {
        /// The one that stays.
        in_force: PolicyVersion,
        /// file:line:column: what is wrong.
        errors: Vec<String>,
    },
    /// Something could not be recorded or seen; how much is known.
    Gap {
        /// Where (`kernel_events`, `crash`, `bypass`).
        stage: String,
        /// How many, when known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
        /// For people.
        detail: String,
    },
}

/// An operation as it may rest in a record: literals and values only where no mask forbids them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedOperation {
    /// Its id.
    pub id: OperationId,
    /// What it is and does.
    pub facts: Arc<Facts>,
    /// The statement, exact or normalized: its first [`RECORDED_TEXT_BYTES`]; what is longer goes on in parts.
    pub text: Arc<str>,
    /// How long the whole statement is, in bytes, when `text` is only its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_bytes: Option<u64>,
    /// True when `text` has its literals replaced.
    pub normalized: bool,
    /// Bound values; empty when normalized. Long ones only begin here and go on in parts.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub parameters: Arc<[Parameter]>,
    /// How many bound values there were.
    pub parameter_count: u32,
    /// What an approval of it is bound to.
    pub digest: Digest,
    /// Where it would run.
    pub context: Arc<SqlContext>,
}

/// How much of a statement's text stands in its decision's record. A record has room for a multiple of this and of the
/// values, each byte escaped in six (`\u0000`).
pub const RECORDED_TEXT_BYTES: usize = 512 << 10;
/// How much of one bound value stands in its decision's record.
pub const RECORDED_VALUE_BYTES: usize = 64 << 10;
/// How much of all bound values together stands in their decision's record.
pub const RECORDED_VALUES_BYTES: usize = 256 << 10;
/// The longest piece in a record of its own.
pub const RECORDED_PART_BYTES: usize = 1 << 20;

impl RecordedOperation {
    /// Cuts an operation to what may rest, and to what one record has room for.
    pub fn of(operation: &Operation, statements: RecordStatements) -> Self {
        let Exact { text, normalized, parameters } = Exact::of(operation, statements);
        let shown = head(text, RECORDED_TEXT_BYTES);
        let cut = shown.len() < text.len();
        Self {
            id: operation.id,
            facts: operation.facts.clone(),
            text: if cut { shown.into() } else { text.clone() },
            text_bytes: cut.then_some(text.len() as u64),
            normalized,
            parameters: parameters.map_or_else(Arc::default, recorded),
            parameter_count: u32::try_from(operation.parameters.len()).unwrap_or(u32::MAX),
            digest: operation.digest,
            context: operation.context.clone(),
        }
    }

    /// What the record of [`RecordedOperation::of`] has no room for, in order; nothing for an ordinary operation.
    pub fn rest(operation: &Operation, statements: RecordStatements) -> Vec<EventKind> {
        let Exact { text, parameters, .. } = Exact::of(operation, statements);
        let mut rest = Vec::new();
        let mut go_on = |parameter: Option<u32>, whole: &str, shown: usize| {
            let mut offset = shown;
            while let Some(left) = whole.get(offset..).filter(|left| !left.is_empty()) {
                let data = head(left, RECORDED_PART_BYTES).to_owned();
                let begins = offset as u64;
                offset += data.len();
                rest.push(EventKind::OperationPart {
                    operation: operation.id,
                    parameter,
                    offset: begins,
                    data,
                });
            }
        };
        go_on(None, text, head(text, RECORDED_TEXT_BYTES).len());
        let values = parameters.map(|parameters| Beginnings::of(parameters)).into_iter().flatten();
        for (number, (parameter, shown)) in values.enumerate() {
            if let (Some(whole), Some(shown)) = (&parameter.value, shown) {
                go_on(Some(u32::try_from(number).unwrap_or(u32::MAX)), whole, shown.len());
            }
        }
        rest
    }
}

/// Values as their decision's record holds them: shared when there is room for all of them.
fn recorded(parameters: &Arc<[Parameter]>) -> Arc<[Parameter]> {
    let whole = |(parameter, shown): (&Parameter, Option<&str>)| parameter.value.as_deref() == shown;
    if Beginnings::of(parameters).all(whole) {
        return parameters.clone();
    }
    Beginnings::of(parameters)
        .map(|(parameter, shown)| Parameter {
            type_oid: parameter.type_oid,
            format: parameter.format,
            value: shown.map(str::to_owned),
        })
        .collect()
}

/// What of an operation may rest.
struct Exact<'a> {
    text: &'a Arc<str>,
    normalized: bool,
    /// None: no value may.
    parameters: Option<&'a Arc<[Parameter]>>,
}

impl<'a> Exact<'a> {
    fn of(operation: &'a Operation, statements: RecordStatements) -> Self {
        if operation.touches_masked || statements == RecordStatements::Normalized {
            return Self { text: &operation.normalized, normalized: true, parameters: None };
        }
        Self { text: &operation.text, normalized: false, parameters: Some(&operation.parameters) }
    }
}

/// Bound values with what of each stands in the record.
struct Beginnings<'a> {
    parameters: std::slice::Iter<'a, Parameter>,
    left: usize,
}

impl<'a> Beginnings<'a> {
    fn of(parameters: &'a [Parameter]) -> Self {
        Self { parameters: parameters.iter(), left: RECORDED_VALUES_BYTES }
    }
}

impl<'a> Iterator for Beginnings<'a> {
    type Item = (&'a Parameter, Option<&'a str>);

    fn next(&mut self) -> Option<Self::Item> {
        let parameter = self.parameters.next()?;
        let shown = parameter.value.as_deref().map(|value| head(value, self.left.min(RECORDED_VALUE_BYTES)));
        self.left = self.left.saturating_sub(shown.map_or(0, str::len));
        Some((parameter, shown))
    }
}

/// At most `most` bytes from the beginning, whole characters.
fn head(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
