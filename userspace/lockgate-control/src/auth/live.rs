//! Answers that go on (server-sent events) end soon after whoever hears them may hear nothing any more: logged out, token revoked,
//! role lost. A client that asks again is judged like any other.

use super::caller::{Caller, Role};
use crate::desk::Desk;
use axum::{body::Body, http::header, response::Response};
use futures_util::StreamExt as _;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How soon.
const LOOK: Duration = Duration::from_secs(2);

/// The same answer; a stream of it ends when its hearer's right does.
pub(super) fn watched(desk: &Arc<Desk>, caller: Option<Caller>, response: Response) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let streams = kind.is_some_and(|kind| kind.starts_with("text/event-stream"));
    let Some(caller) = caller.filter(|_| streams) else { return response };
    let (desk, (parts, body)) = (desk.clone(), response.into_parts());
    let over = async move {
        while stands(&desk, &caller) {
            sleep(LOOK).await;
        }
    };
    let until = body.into_data_stream().take_until(Box::pin(over));
    Response::from_parts(parts, Body::from_stream(until))
}

/// Whether a caller is still who it was, with no role less.
fn stands(desk: &Arc<Desk>, caller: &Caller) -> bool {
    let now = desk.ambient.now();
    let rights = if let Some(login) = caller.session() {
        let Some(session) = desk.auth.sessions.standing(login, Instant::now()) else { return false };
        desk.auth.rights(desk, &session.person)
    } else if let Some(token) = caller.id().strip_prefix("token:") {
        match desk.auth.tokens.standing(token, now) {
            Some(token) => super::gate::token_rights(desk, &token),
            None => return false,
        }
    } else {
        // A user of this host: what they may is said by the configuration of the start.
        return true;
    };
    // Whoever has any role is a viewer, too.
    let has = |role| rights.roles.contains(&role) || (role == Role::Viewer && !rights.roles.is_empty());
    caller.roles().all(has)
}
