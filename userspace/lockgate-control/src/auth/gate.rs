//! The layer in front of every handler: finds out who asks.

use super::caller::{Caller, Known, Role};
use crate::{api::peer::PeerCred, desk::Desk};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use std::{collections::BTreeSet, sync::Arc};

/// Finds out who asks and says so to the handler; nobody is no error here.
pub(super) async fn resolve(State(desk): State<Arc<Desk>>, mut request: Request, next: Next) -> Response {
    if let Some(peer) = request.extensions().get::<PeerCred>().copied() {
        request.extensions_mut().insert(local(&desk, peer));
    }
    next.run(request).await
}

/// A user of this host, by the kernel's word.
fn local(desk: &Desk, peer: PeerCred) -> Caller {
    let mut roles = BTreeSet::new();
    if peer.uid == 0 {
        roles.extend([Role::Viewer, Role::Auditor, Role::Admin]);
    }
    let groups = desk.local_approvers.get(&peer.uid).cloned();
    if groups.is_some() {
        roles.extend([Role::Viewer, Role::Auditor]);
    }
    let groups = groups.unwrap_or_default();
    if !groups.is_empty() {
        roles.insert(Role::Approver);
    }
    let id = format!("local:{}", peer.uid);
    let approver = desk.people.approver(id.clone(), groups.clone(), "cli".to_owned());
    Caller::new(Known {
        name: approver.name().to_owned(),
        id,
        via: "cli",
        also: approver.also,
        groups,
        roles,
        peer: Some(peer),
        logins: desk.keep.logins,
        csrf: None,
        login: None,
    })
}
