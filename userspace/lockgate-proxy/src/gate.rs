//! Policy's side of a session: what it says of an operation, under which ids, and the events that say so.
//!
//! It neither waits nor writes: recording is [`lockgate_policy::permit`]'s, waiting is the protocol's. It knows no
//! protocol.

use crate::{
    metrics::{DECISIONS, OPERATIONS, RECORD_SECONDS},
    ports::Ports,
    protocol::postgres::Known,
};
use lockgate_model::{
    DecisionId, OperationId, RequestId, Timestamp,
    approval::ApprovalRequest,
    event::{Event, EventKind, RecordedOperation},
    operation::Operation,
    port::Recorder,
    session::Session,
    verdict::{Denial, Effect, MaskSpec, Verdict},
};
use lockgate_policy::{HttpAsks, Judged, SessionPolicy, approval};
use metrics::{Counter, Histogram};
use std::sync::Arc;

/// One session's gate.
pub(crate) struct Gate {
    /// The session it stands before.
    pub(crate) session: Arc<Session>,
    /// The surroundings.
    pub(crate) ports: Ports,
    /// What was decided before.
    pub(crate) known: Known,
    /// How long records take.
    pub(crate) record_seconds: Histogram,
    policy: SessionPolicy,
    masks: Option<MaskSpec>,
    wants_catalogue: bool,
    counters: Counters,
    /// Events that follow answers. They go behind the answers, and before whatever is recorded next.
    notes: Vec<Event>,
}

/// Counters of one session's target, looked up once.
struct Counters {
    allowed: [Counter; 2],
    denied: [Counter; 2],
    held: [Counter; 2],
}

impl Counters {
    fn on(target: &str, protocol: &'static str) -> Self {
        let of = |effect: &'static str| {
            [
                ::metrics::counter!(OPERATIONS, "target" => target.to_owned(), "effect" => effect),
                ::metrics::counter!(DECISIONS, "protocol" => protocol, "effect" => effect),
            ]
        };
        Self { allowed: of("allow"), denied: of("deny"), held: of("require_approval") }
    }

    fn count(&self, effect: &Effect) {
        let counters = match effect {
            Effect::Allow => &self.allowed,
            Effect::Deny(_) => &self.denied,
            Effect::Hold(_) => &self.held,
        };
        counters.iter().for_each(|counter| counter.increment(1));
    }
}

impl Gate {
    pub(crate) fn new(session: Arc<Session>, ports: Ports) -> Self {
        let policy = ports.policy.load_full().for_session(&session);
        let masks = policy.policy().masks_for(&session);
        let wants_catalogue = policy.policy().wants_catalogue(&session);
        let counters = Counters::on(&session.target.name.0, session.target.protocol.as_str());
        let record_seconds = ::metrics::histogram!(RECORD_SECONDS);
        Self {
            session,
            ports,
            known: Known::default(),
            record_seconds,
            policy,
            masks,
            wants_catalogue,
            counters,
            notes: Vec::new(),
        }
    }

    /// The clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.ports.ambient.now()
    }

    /// The masks that could apply to this session under the policy in force.
    pub(crate) fn masks(&mut self) -> Option<&MaskSpec> {
        self.follow();
        self.masks.as_ref()
    }

    /// Whether rules under the policy in force ask about tables' sizes, or what is behind their names.
    pub(crate) fn wants_catalogue(&mut self) -> bool {
        self.follow();
        self.wants_catalogue
    }

    /// The masks as of the last evaluation.
    pub(crate) fn session_masks(&self) -> Option<&MaskSpec> {
        self.masks.as_ref()
    }

    /// What the policy in force says of an operation.
    pub(crate) fn evaluate(&mut self, operation: &Operation) -> Judged {
        self.follow();
        let (now, decision) = self.decision();
        let verdict = self.policy.evaluate(&self.session, operation, now, decision);
        let verdict = match verdict.effect {
            Effect::Allow => verdict,
            Effect::Deny(_) | Effect::Hold(_) => self.lifted(verdict, operation, now, decision),
        };
        self.counters.count(&verdict.effect);
        verdict
    }

    /// What the policy in force would say, if it were asked: nothing is counted or decided.
    pub(crate) fn foresee(&mut self, operation: &Operation) -> Judged {
        self.follow();
        let (now, decision) = self.decision();
        self.policy.evaluate(&self.session, operation, now, decision)
    }

    /// What rules ask of requests beyond their line.
    pub(crate) fn http_asks(&mut self) -> HttpAsks {
        self.follow();
        self.policy.http_asks()
    }

    /// Whether a rule that would match otherwise asks what a request's body says.
    pub(crate) fn asks_body(&mut self, operation: &Operation) -> bool {
        self.follow();
        self.policy.asks_body(operation)
    }

    /// What does not pass is judged again where somebody broke the glass for this session.
    fn lifted(&self, verdict: Judged, operation: &Operation, now: Timestamp, decision: DecisionId) -> Judged {
        let lifts = self.ports.approvals.lifts(&self.session, now);
        if lifts.is_empty() {
            return verdict;
        }
        self.policy.evaluate_lifted(&self.session, operation, now, decision, &lifts)
    }

    /// The same verdict once more, for another operation with the same facts.
    pub(crate) fn again(&self, verdict: Judged, operation: &Operation) -> Judged {
        self.counters.count(&verdict.effect);
        let decision = DecisionId::from_parts(operation.id.unix_millis(), self.ports.ambient.random());
        verdict.again(operation, decision)
    }

    /// Whether the policy in force looks at nothing but an operation's facts.
    pub(crate) fn judges_facts_alone(&self) -> bool {
        self.policy.judges_facts_alone()
    }

    fn decision(&self) -> (Timestamp, DecisionId) {
        let now = self.now();
        (now, DecisionId::from_parts(millis(now), self.ports.ambient.random()))
    }

    /// An id for an operation.
    pub(crate) fn operation_id(&self) -> OperationId {
        OperationId::from_parts(millis(self.now()), self.ports.ambient.random())
    }

    /// The request that a held operation makes; None when the verdict does not hold.
    pub(crate) fn request(&self, operation: &Operation, verdict: Judged) -> Option<ApprovalRequest> {
        let now = self.now();
        let id = RequestId::from_parts(millis(now), self.ports.ambient.random());
        approval::request(id, self.session.clone(), operation.clone(), verdict.into(), now)
    }

    /// The records of a decision that does not let pass (yet).
    pub(crate) fn decided(
        &self,
        operation: &Operation,
        verdict: impl Into<Verdict>,
        denial: Option<Denial>,
    ) -> Vec<Event> {
        let verdict = verdict.into();
        let statements = verdict.obligations.record.statements;
        let rest = RecordedOperation::rest(operation, statements);
        let operation = RecordedOperation::of(operation, statements);
        let decided = EventKind::OperationDecided { operation, verdict: Box::new(verdict), denial };
        std::iter::once(decided).chain(rest).map(|kind| self.event(kind)).collect()
    }

    /// The record of a refusal after a wait.
    pub(crate) fn refused(&self, operation: OperationId, decision: DecisionId, denial: Denial) -> Event {
        self.event(EventKind::Refused { operation, decision, denial })
    }

    /// An event of this session, now.
    pub(crate) fn event(&self, kind: EventKind) -> Event {
        Event { at: self.now(), session: Some(self.session.id), kind }
    }

    /// Notes what happened, for the record.
    pub(crate) fn note(&mut self, kind: EventKind) {
        self.notes.push(self.event(kind));
    }

    /// Has the notes recorded.
    pub(crate) fn submit_notes(&mut self) {
        if !self.notes.is_empty() {
            self.ports.recorder.submit(std::mem::take(&mut self.notes));
        }
    }

    /// Has events recorded that nobody waits for, behind the notes.
    pub(crate) fn submit(&mut self, events: Vec<Event>) {
        self.notes.extend(events);
        self.submit_notes();
    }

    /// For records that somebody waits for; the notes are on their way to it.
    pub(crate) fn recorder(&mut self) -> Arc<dyn Recorder> {
        self.submit_notes();
        self.ports.recorder.clone()
    }

    /// Takes over a changed policy.
    pub(crate) fn follow(&mut self) {
        let current = self.ports.policy.load();
        if !Arc::ptr_eq(&current, self.policy.policy()) {
            self.policy = current.for_session(&self.session);
            self.known.forget();
            self.masks = current.masks_for(&self.session);
            self.wants_catalogue = current.wants_catalogue(&self.session);
        }
    }
}

/// Milliseconds since the epoch; ids of the time before it all begin alike.
pub(crate) fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}
