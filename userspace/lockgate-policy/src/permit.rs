//! Proof that bytes may go upstream: decided, and recorded before they move.
//!
//! [`Cleared`] says one operation may pass; [`permit`] records a batch of them and, only after the
//! recorder has answered, wraps the batch's bytes in a [`Permit`]. Whoever sends upstream takes a `Permit`
//! by value, so an undecided or unrecorded byte has no type to travel in. Nothing here decides or performs
//! IO: verdicts come from [`crate::SessionPolicy`] and from nowhere else ([`Judged`]), writing is the [`Recorder`]'s; the data plane drives it.
//!
//! A permit cannot be built by hand:
//!
//! ```compile_fail,E0451
//! use lockgate_policy::permit::Permit;
//! let forged = Permit { payload: bytes::Bytes::new(), operations: Vec::new(), streams: true };
//! ```
//!
//! nor conjured from a cleared operation without a recorder:
//!
//! ```compile_fail,E0308
//! use lockgate_policy::permit::{Cleared, Permit};
//! fn forge(cleared: Cleared) -> Permit { cleared }
//! ```
//!
//! nor used twice:
//!
//! ```compile_fail,E0382
//! use lockgate_policy::permit::Permit;
//! fn twice(permit: Permit) {
//!     let once = permit.into_bytes();
//!     let again = permit.into_bytes();
//! }
//! ```
//!
//! nor copied:
//!
//! ```compile_fail,E0277
//! fn cloneable<T: Clone>() {}
//! cloneable::<lockgate_policy::permit::Permit>();
//! ```

use crate::{Judged, approval};
use bytes::Bytes;
use lockgate_model::{
    OperationId, RequestId, Timestamp,
    approval::{ApprovalRequest, Resolution},
    event::{Event, EventKind, RecordedOperation},
    operation::{Facts, Operation},
    port::{Durability, Receipt, RecordError, Recorder},
    sql::{SqlClass, SqlEffect},
    verdict::{Effect, Obligations},
};
use std::sync::Arc;

/// One operation that policy lets pass; not yet recorded, so not yet a permit.
#[must_use = "a cleared operation is sent only through `permit`"]
#[derive(Debug)]
pub struct Cleared {
    operation: Arc<Operation>,
    verdict: Judged,
    approval: Option<RequestId>,
}

impl Cleared {
    /// Clears an operation whose verdict is `Allow` (in shadow mode: whatever `would` says).
    ///
    /// # Errors
    /// Gives the verdict back when it is anything else (deny it or hold it), or another operation's.
    pub fn allowed(operation: Arc<Operation>, verdict: Judged) -> Result<Self, Box<Judged>> {
        match verdict.effect {
            Effect::Allow if verdict.is_about(&operation) => Ok(Self { operation, verdict, approval: None }),
            Effect::Allow | Effect::Deny(_) | Effect::Hold(_) => Err(Box::new(verdict)),
        }
    }

    /// Clears an operation that was held: `now` is the evaluation made when the hold ended.
    ///
    /// A policy that changed meanwhile counts: a new deny refuses, a new or stricter requirement must be
    /// covered by the votes that were cast. The approval must be of this very operation: same session, same
    /// operation, same digest (statement, bound values, role, database, search_path, target, identity).
    ///
    /// # Errors
    /// Gives `now` back when the approval does not cover it: deny, or hold anew.
    pub fn approved(
        operation: Arc<Operation>,
        now: Judged,
        request: &ApprovalRequest,
        resolution: &Resolution,
    ) -> Result<Self, Box<Judged>> {
        let votes = match resolution {
            Resolution::Approved { votes, .. } => votes,
            Resolution::Denied { .. } | Resolution::Expired | Resolution::Withdrawn { .. } => {
                return Err(Box::new(now));
            }
        };
        let same = now.is_about(&operation)
            && request.session.id == operation.session
            && request.operation.id == operation.id
            && request.operation.digest == operation.digest;
        let covered = match &now.effect {
            Effect::Deny(_) => false,
            Effect::Allow => same,
            Effect::Hold(spec) => same && approval::covers(spec, request, votes),
        };
        if !covered {
            return Err(Box::new(now));
        }
        Ok(Self { operation, verdict: now, approval: Some(request.id) })
    }

    /// The operation.
    pub fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    /// What must happen with it on the way.
    pub fn obligations(&self) -> &Obligations {
        &self.verdict.obligations
    }

    /// The verdict that lets it pass.
    pub fn verdict(&self) -> &Judged {
        &self.verdict
    }

    fn durability(&self) -> Durability {
        let plain = self.operation.facts.is_plain_read() && !self.verdict.obligations.record.sync;
        if plain { Durability::Written } else { Durability::Synced }
    }

    fn streams(&self) -> bool {
        match self.operation.facts.as_ref() {
            // Also by the effect: a COPY FROM STDIN that fires unknown triggers is of a stricter class. What was not
            // understood and is let pass all the same may turn out to be one.
            Facts::Sql(facts) => {
                matches!(facts.class, SqlClass::CopyIn | SqlClass::Opaque)
                    || facts.effects.contains(&SqlEffect::Imports)
            }
            // Its body is part of what is permitted.
            Facts::Http(_) => false,
        }
    }

    /// The records that must rest before the operation's first byte moves. A held operation's decision was
    /// recorded when the hold began; what is new is that it goes on, by which evaluation and approval.
    fn record(self, now: Timestamp, events: &mut Vec<Event>) {
        let session = Some(self.operation.session);
        let event = |kind| Event { at: now, session, kind };
        let Some(approval) = self.approval else {
            let statements = self.verdict.obligations.record.statements;
            let operation = RecordedOperation::of(&self.operation, statements);
            let verdict = Box::new(self.verdict.into());
            events.push(event(EventKind::OperationDecided { operation, verdict, denial: None }));
            events.extend(RecordedOperation::rest(&self.operation, statements).into_iter().map(event));
            return;
        };
        let (operation, decision) = (self.operation.id, self.verdict.decision);
        events.push(event(EventKind::Forwarded { operation, decision, approval: Some(approval) }));
    }
}

/// Why there is no permit. The batch is then refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PermitError {
    /// The record could not be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A permit without an operation would let any bytes pass.
    #[error("a permit needs at least one cleared operation, got none")]
    EmptyBatch,
}

/// What may go upstream, once: bytes, or (HTTP) a whole request with the body that will stream. Made by [`permit`] and [`StreamPermit::chunk`] alone.
#[must_use = "a permit that is not sent was recorded for nothing"]
#[derive(Debug)]
pub struct Permit<P = Bytes> {
    payload: P,
    operations: Vec<OperationId>,
    streams: bool,
}

impl<P> Permit<P> {
    /// What is permitted; the permit is spent.
    pub fn into_payload(self) -> P {
        self.payload
    }
}

impl Permit {
    /// The bytes; the permit is spent.
    pub fn into_bytes(self) -> Bytes {
        self.payload
    }

    /// How many bytes it covers.
    pub fn len(&self) -> usize {
        self.payload.len()
    }

    /// True when it covers no byte.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// The operations it covers, in order; empty for a chunk of a stream.
    pub fn operations(&self) -> &[OperationId] {
        &self.operations
    }

    /// For a batch with a COPY … FROM STDIN: the right to send that copy's data. None otherwise.
    pub fn stream(&self) -> Option<StreamPermit> {
        self.streams.then_some(StreamPermit { _made_here: () })
    }
}

/// The right to send the data of an allowed copy. Ends with the copy: whoever holds it drops it then.
#[derive(Debug)]
pub struct StreamPermit {
    _made_here: (),
}

impl StreamPermit {
    /// Permits the next piece of the copy's data.
    pub fn chunk(&mut self, payload: Bytes) -> Permit {
        Permit { payload, operations: Vec::new(), streams: false }
    }
}

/// Records a batch and permits its bytes.
///
/// `before` is written ahead of the batch's own events in the same append (a session's start, the words of a
/// denied neighbour). The record is synced unless every operation is a plain read and none asks for more.
///
/// Not cancel-safe in one direction only: dropped midway, the record may exist without a forward, never a
/// forward without the record.
///
/// # Errors
/// When the recorder fails or the batch is empty; nothing may then be sent.
pub async fn permit<P>(
    recorder: &dyn Recorder,
    now: Timestamp,
    batch: Vec<Cleared>,
    before: Vec<Event>,
    payload: P,
) -> Result<Permit<P>, PermitError> {
    let durability = batch.iter().map(Cleared::durability).max().ok_or(PermitError::EmptyBatch)?;
    let operations = batch.iter().map(|cleared| cleared.operation.id).collect();
    let streams = batch.iter().any(Cleared::streams);
    let mut events = before;
    for cleared in batch {
        cleared.record(now, &mut events);
    }
    let _rests: Receipt = recorder.record(events, durability).await?;
    Ok(Permit { payload, operations, streams })
}

#[cfg(test)]
mod tests;
