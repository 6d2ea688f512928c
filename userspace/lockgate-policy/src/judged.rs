//! A verdict that policy gave, as distinct from one that somebody wrote down.
//!
//! [`Verdict`] is plain data: records, requests and tests read and make it. What lets bytes pass
//! ([`crate::permit::Cleared`]) takes a [`Judged`] instead, which only evaluating a policy makes, and which belongs to one
//! operation. Outside this crate it can become stricter, never laxer.
//!
//! It cannot be made from a verdict:
//!
//! ```compile_fail,E0423
//! use lockgate_model::{OperationId, verdict::Verdict};
//! fn forge(operation: OperationId, verdict: Verdict) -> lockgate_policy::Judged {
//!     lockgate_policy::Judged { operation, verdict }
//! }
//! ```
//!
//! nor turned into another one:
//!
//! ```compile_fail,E0594
//! fn relax(judged: &mut lockgate_policy::Judged) {
//!     judged.effect = lockgate_model::verdict::Effect::Allow;
//! }
//! ```

use lockgate_model::{
    DecisionId, OperationId,
    operation::Operation,
    verdict::{ApprovalSpec, Denial, Effect, Verdict},
};

/// Policy's verdict on one operation.
#[must_use]
#[derive(Clone, Debug)]
pub struct Judged {
    operation: OperationId,
    verdict: Verdict,
    lifted: bool,
}

impl Judged {
    pub(crate) fn new(operation: OperationId, verdict: Verdict) -> Self {
        Self { operation, verdict, lifted: false }
    }

    /// The same verdict on another operation. Whoever remembers verdicts answers for it that policy would say the same:
    /// the same facts, under a policy that [judges them alone](crate::SessionPolicy::judges_facts_alone).
    pub fn again(mut self, operation: &Operation, decision: DecisionId) -> Self {
        self.operation = operation.id;
        self.verdict.decision = decision;
        self
    }

    /// Refused for a reason that is not a rule's; the rest of what policy said stays, for the record.
    pub fn refused(mut self, denial: Denial) -> Self {
        self.verdict.effect = Effect::Deny(denial);
        self
    }

    /// Waits for these people too. Adding the same twice changes nothing: policy is asked again when a hold ends.
    pub fn also_held(mut self, approval: ApprovalSpec) -> Self {
        match &mut self.verdict.effect {
            Effect::Deny(_) => {}
            Effect::Allow => self.verdict.effect = Effect::Hold(approval),
            Effect::Hold(held) => {
                let new = approval.requirements.into_iter().filter(|new| !held.requirements.contains(new));
                let new: Vec<_> = new.collect();
                held.requirements.extend(new);
                held.timeout = held.timeout.min(approval.timeout);
                held.max_wait_in_transaction =
                    [held.max_wait_in_transaction, approval.max_wait_in_transaction]
                        .into_iter()
                        .flatten()
                        .min();
            }
        }
        self
    }

    /// Marks it as given while the glass was broken.
    pub(crate) fn lifted(mut self) -> Self {
        self.lifted = true;
        self
    }

    /// Whether it stands on an emergency override, which may end at any moment: nobody may remember it.
    pub fn is_lifted(&self) -> bool {
        self.lifted
    }

    /// Whether it was given for this operation.
    pub(crate) fn is_about(&self, operation: &Operation) -> bool {
        self.operation == operation.id
    }
}

/// For records and requests.
impl From<Judged> for Verdict {
    fn from(judged: Judged) -> Self {
        judged.verdict
    }
}

impl std::ops::Deref for Judged {
    type Target = Verdict;

    fn deref(&self) -> &Verdict {
        &self.verdict
    }
}
