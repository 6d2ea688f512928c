//! From a matched flow to a session: who it is from, on which target, as which client.

use lockgate_model::{
    SessionId,
    flow::Flow,
    id::NodeName,
    port::Ambient,
    principal::Principal,
    session::{ClientClaims, Session, Target},
    workload::Workload,
};
use std::sync::Arc;

/// What a session is made of, besides ids and time.
pub(crate) struct Opening {
    pub(crate) node: NodeName,
    pub(crate) flow: Flow,
    pub(crate) workload: Workload,
    /// Who says so itself; None: who the workload is.
    pub(crate) caller: Option<Principal>,
    pub(crate) target: Arc<Target>,
    pub(crate) client: ClientClaims,
    pub(crate) upstream_user: String,
    pub(crate) client_tls: bool,
}

/// The session, not yet recorded.
pub(crate) fn open(opening: Opening, ambient: &dyn Ambient) -> Session {
    let opened_at = ambient.now();
    Session {
        id: SessionId::from_parts(crate::gate::millis(opened_at), ambient.random()),
        node: opening.node,
        principal: opening.caller.unwrap_or_else(|| Principal::of(&opening.workload)),
        flow: opening.flow,
        workload: Arc::new(opening.workload),
        target: opening.target,
        client: opening.client,
        upstream_user: opening.upstream_user,
        client_tls: opening.client_tls,
        opened_at,
    }
}
