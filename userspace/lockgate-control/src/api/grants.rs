//! Grants: who has which, and taking one back. They are given by a vote, never here.
//!
//! Whoever may see requests may see grants. Every approver and admin may take one back: that only makes people be asked.

use super::{PathId, host, problem::Problem, vote};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    keep, text,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use lockgate_model::{
    GrantId,
    grant::{Grant, GrantEnd},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/grants", get(list))
        .route("/v1/grants/{id}/revoke", post(revoke))
        .with_state(desk)
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    #[serde(default)]
    reason: Option<String>,
}

async fn list(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Role::Viewer)?;
    let now = desk.ambient.now();
    let ledger = desk.keep.ledger.lock();
    let items: Vec<Value> = ledger.grants().filter(|grant| grant.expires_at > now).map(shown).collect();
    Ok(Json(json!({ "items": items })))
}

async fn revoke(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    body: Body,
) -> Result<Json<Value>, Problem> {
    caller.require_any(&[Role::Approver, Role::Admin])?;
    let word: Word = host::read(body).await?;
    let reason = vote::reason(word.reason.as_deref())?;
    let unknown = || {
        let id = text::visible(&text::clip(&id, 64)).into_owned();
        let detail = format!("no grant {id:?} is in force here; `lockgate grants list` shows those that are");
        Problem::new(StatusCode::NOT_FOUND, "unknown_grant", "Unknown grant", detail)
    };
    let known: GrantId = id.parse().map_err(|_| unknown())?;
    // Out of force first: what it gave is over whatever the log does.
    let grant = desk.keep.ledger.lock().revoke(known).ok_or_else(unknown)?;
    let by = caller.as_approver();
    let kept = desk.keep.remove(grant.id.to_string()).await;
    let recorded = desk.record(keep::ended(&grant, GrantEnd::Revoked { by, reason })).await;
    tracing::info!(grant = %grant.id, by = caller.id(), "a grant was revoked");
    if let Err(error) = kept {
        tracing::error!(grant = %grant.id, %error, "a revoked grant is still on the shelf");
        return Err(Problem::unavailable(format!(
            "it is revoked now, but would be back after a restart: {error}"
        )));
    }
    if let Err(error) = recorded {
        tracing::error!(grant = %grant.id, %error, "a revocation could not be recorded");
        return Err(Problem::unavailable(format!("it is revoked, but that could not be recorded: {error}")));
    }
    let mut answer = shown(&grant);
    crate::view::merge(&mut answer, json!({ "state": "revoked" }));
    Ok(Json(answer))
}

fn shown(grant: &Grant) -> Value {
    json!({
        "id": grant.id,
        "request_id": grant.from,
        "principal": text::visible(&grant.principal),
        "target": grant.target,
        "pattern": grant.pattern,
        "shape": text::visible(&grant.shape),
        "covers": if grant.ahead.is_some() { "bundle" } else { "shape" },
        "kinds": grant.ahead.as_ref().map(|ahead| ahead.terms.kinds.iter().map(|kind| text::visible(kind).into_owned()).collect::<Vec<_>>()),
        "risk": grant.ahead.as_ref().map(|ahead| ahead.terms.risk),
        "rules": grant.rules,
        "given_by": grant.votes.iter().map(|vote| text::visible(vote.by.name())).collect::<Vec<_>>(),
        "made_at": grant.made_at,
        "expires_at": grant.expires_at,
        "uses": grant.uses,
        "used": grant.used,
        "left": grant.uses.map(|uses| uses.saturating_sub(grant.used)),
    })
}
