//! What the index and the listings keep of an event: made from the event while it is written, or from the
//! record when it is read back, by the same function.

use lockgate_model::{
    RequestId, SessionId, Timestamp,
    event::{Event, EventKind},
    id::{NodeName, TargetName},
    operation::Digest,
    outcome::{CloseReason, Closing},
    principal::Principal,
    session::{Protocol, Session},
};

/// An event, cut to what is counted and looked up.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    pub(crate) at: Timestamp,
    pub(crate) session: Option<SessionId>,
    pub(crate) kind: FactKind,
}

/// What happened, as far as listings care.
#[derive(Clone, Debug)]
pub(crate) enum FactKind {
    Started(Box<Opening>),
    Decided {
        denied: bool,
    },
    Held(RequestId),
    Refused,
    Resolved(RequestId),
    Ended(Ending),
    /// What rests on the shelf under a name.
    Shelved(Box<(String, Option<Digest>)>),
    Other,
}

/// How a session began.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) node: NodeName,
    pub(crate) principal: Principal,
    pub(crate) target: TargetName,
    pub(crate) protocol: Protocol,
    pub(crate) database: String,
    pub(crate) upstream_user: String,
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    pub(crate) reason: CloseReason,
    pub(crate) bytes_from_client: u64,
    pub(crate) bytes_to_client: u64,
}

impl Fact {
    pub(crate) fn of(event: &Event) -> Self {
        let kind = match &event.kind {
            EventKind::SessionStarted(session) => FactKind::Started(Box::new(Opening::of(session))),
            EventKind::OperationDecided { denial, .. } => FactKind::Decided { denied: denial.is_some() },
            EventKind::ApprovalRequested { request, .. } => FactKind::Held(*request),
            EventKind::ApprovalResolved { request, .. } => FactKind::Resolved(*request),
            EventKind::Shelved { name, digest } => FactKind::Shelved(Box::new((name.clone(), *digest))),
            EventKind::Refused { .. } => FactKind::Refused,
            EventKind::SessionEnded(closing) => FactKind::Ended(Ending::of(closing)),
            EventKind::MaskedColumns { .. }
            | EventKind::ApprovalLeft { .. }
            | EventKind::ApprovalsBundled { .. }
            | EventKind::GrantMade(_)
            | EventKind::GrantEnded { .. }
            | EventKind::GlassBroken(_)
            | EventKind::GlassEnded { .. }
            | EventKind::GlassReviewed { .. }
            | EventKind::Alerted { .. }
            | EventKind::Notified { .. }
            | EventKind::VoteCast { .. }
            | EventKind::DecisionRefused { .. }
            | EventKind::Forwarded { .. }
            | EventKind::OperationPart { .. }
            | EventKind::ResultCut { .. }
            | EventKind::ResultRows { .. }
            | EventKind::Responded { .. }
            | EventKind::FlowRefused { .. }
            | EventKind::Observed(_)
            | EventKind::Coverage(_)
            | EventKind::Custody(_)
            | EventKind::TokenIssued { .. }
            | EventKind::Access(_)
            | EventKind::Administered(_)
            | EventKind::AgentStarted { .. }
            | EventKind::AgentStopped { .. }
            | EventKind::PolicyLoaded { .. }
            | EventKind::PolicyRejected { .. }
            | EventKind::Gap { .. } => FactKind::Other,
        };
        // A session's first event names it in its data, whether or not the envelope does.
        let session = match &event.kind {
            EventKind::SessionStarted(session) => Some(session.id),
            _ => event.session,
        };
        Self { at: event.at, session, kind }
    }
}

impl Opening {
    fn of(session: &Session) -> Self {
        Self {
            node: session.node.clone(),
            principal: session.principal.clone(),
            target: session.target.name.clone(),
            protocol: session.target.protocol,
            database: session.client.database.clone(),
            upstream_user: session.upstream_user.clone(),
        }
    }
}

impl Ending {
    fn of(closing: &Closing) -> Self {
        Self {
            reason: closing.reason,
            bytes_from_client: closing.bytes_from_client,
            bytes_to_client: closing.bytes_to_client,
        }
    }
}
