//! Policy's side of a session: what it says of an operation, under which ids, and the events that say so.
//!
//! It neither waits nor writes: recording is [`lockgate_policy::permit`]'s, waiting is the protocol's. It knows no
//! protocol.

use crate::{metrics::OPERATIONS, ports::Ports};
use lockgate_model::{
    DecisionId, OperationId, RequestId, Timestamp,
    approval::ApprovalRequest,
    event::{Event, EventKind, RecordedOperation},
    operation::Operation,
    session::Session,
    verdict::{Denial, Effect, MaskSpec, Verdict},
};
use lockgate_policy::{SessionPolicy, approval};
use std::sync::Arc;

/// One session's gate.
pub(crate) struct Gate {
    /// The session it stands before.
    pub(crate) session: Arc<Session>,
    /// The surroundings.
    pub(crate) ports: Ports,
    policy: SessionPolicy,
    masks: Option<MaskSpec>,
}

impl Gate {
    pub(crate) fn new(session: Arc<Session>, ports: Ports) -> Self {
        let policy = ports.policy.load_full().for_session(&session);
        let masks = policy.policy().masks_for(&session);
        Self { session, ports, policy, masks }
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

    /// The same as of the last evaluation.
    pub(crate) fn session_masks(&self) -> Option<&MaskSpec> {
        self.masks.as_ref()
    }

    /// What the policy in force says of an operation.
    pub(crate) fn evaluate(&mut self, operation: &Operation) -> Verdict {
        self.follow();
        let now = self.now();
        let decision = DecisionId::from_parts(millis(now), self.ports.ambient.random());
        let verdict = self.policy.evaluate(&self.session, operation, now, decision);
        ::metrics::counter!(
            OPERATIONS,
            "target" => self.session.target.name.0.clone(),
            "effect" => verdict.effect.as_str()
        )
        .increment(1);
        verdict
    }

    /// A verdict that refuses for a reason that is not policy's: it quotes the rest of what policy said.
    pub(crate) fn overrule(&self, mut verdict: Verdict, denial: Denial) -> Verdict {
        verdict.effect = Effect::Deny(denial);
        verdict
    }

    /// An id for an operation.
    pub(crate) fn operation_id(&self) -> OperationId {
        OperationId::from_parts(millis(self.now()), self.ports.ambient.random())
    }

    /// The request that a held operation makes; None when the verdict does not hold.
    pub(crate) fn request(&self, operation: &Operation, verdict: Verdict) -> Option<ApprovalRequest> {
        let now = self.now();
        let id = RequestId::from_parts(millis(now), self.ports.ambient.random());
        approval::request(id, self.session.clone(), operation.clone(), verdict, now)
    }

    /// The records of a decision that does not let pass (yet).
    pub(crate) fn decided(
        &self,
        operation: &Operation,
        verdict: Verdict,
        denial: Option<Denial>,
    ) -> Vec<Event> {
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

    /// Takes over a changed policy.
    fn follow(&mut self) {
        let current = self.ports.policy.load();
        if !Arc::ptr_eq(&current, self.policy.policy()) {
            self.policy = current.for_session(&self.session);
            self.masks = current.masks_for(&self.session);
        }
    }
}

/// Milliseconds since the epoch; ids of the time before it all begin alike.
pub(crate) fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}
