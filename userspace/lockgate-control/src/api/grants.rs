//! Grants: who has which, and taking one back. They are given by a vote, never here.
//!
//! Whoever may see requests may see grants. Every approver and admin may take one back: that only makes people be asked.

use super::{PathId, host, page::Page, problem::Problem, vote};
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
    GrantId, RequestId, Timestamp,
    grant::{Ahead, Grant, GrantEnd},
    id::{RuleId, TargetName},
    operation::Digest,
    sql::Risk,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/grants", get(list))
        .route("/v1/grants/{id}/revoke", post(revoke))
        .with_state(desk)
}

/// Why.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Reason)]
pub(crate) struct Word {
    /// In your words; who is concerned reads it.
    #[serde(default)]
    reason: Option<String>,
}

async fn list(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Page<Shown>>, Problem> {
    caller.require(Role::Viewer)?;
    let now = desk.ambient.now();
    let ledger = desk.keep.ledger.lock();
    let items = ledger.grants().filter(|grant| grant.expires_at > now).map(shown).collect();
    Ok(Json(Page { items, next: None }))
}

async fn revoke(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    body: Body,
) -> Result<Json<Shown>, Problem> {
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
    Ok(Json(Shown { state: Some("revoked"), ..shown(&grant) }))
}

/// A permission that an approval left behind.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Grant)]
pub(crate) struct Shown {
    /// `grt_…`
    #[schema(value_type = String)]
    id: GrantId,
    /// The request it was given on.
    #[schema(value_type = String)]
    request_id: RequestId,
    /// Who has it.
    principal: String,
    /// On this target.
    #[schema(value_type = String)]
    target: TargetName,
    /// SHA-256 of what it is for: the parsed shape, role, database and search_path.
    #[schema(value_type = String)]
    pattern: Digest,
    /// The same for people: the statement with its literals replaced.
    shape: String,
    /// `shape`, or `bundle`: what the rules would bundle with it.
    covers: &'static str,
    /// With `bundle`: kinds of statements.
    kinds: Option<Vec<String>>,
    /// With `bundle`: the highest risk.
    #[schema(value_type = Option<String>)]
    risk: Option<Risk>,
    /// The rules whose question it answers.
    #[schema(value_type = Vec<String>)]
    rules: Vec<RuleId>,
    /// Who gave it.
    given_by: Vec<String>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    made_at: Timestamp,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// This often at most; null is as often as it comes.
    uses: Option<u32>,
    /// This often so far.
    used: u32,
    /// This often still.
    left: Option<u32>,
    /// `revoked`, in the answer to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
}

fn shown(grant: &Grant) -> Shown {
    let kinds = |ahead: &Ahead| {
        ahead.terms.kinds.iter().map(|kind| text::visible(kind).into_owned()).collect::<Vec<_>>()
    };
    Shown {
        id: grant.id,
        request_id: grant.from,
        principal: text::visible(&grant.principal).into_owned(),
        target: grant.target.clone(),
        pattern: grant.pattern,
        shape: text::visible(&grant.shape).into_owned(),
        covers: if grant.ahead.is_some() { "bundle" } else { "shape" },
        kinds: grant.ahead.as_ref().map(kinds),
        risk: grant.ahead.as_ref().map(|ahead| ahead.terms.risk),
        rules: grant.rules.clone(),
        given_by: grant.votes.iter().map(|vote| text::visible(vote.by.name()).into_owned()).collect(),
        made_at: grant.made_at,
        expires_at: grant.expires_at,
        uses: grant.uses,
        used: grant.used,
        left: grant.uses.map(|uses| uses.saturating_sub(grant.used)),
        state: None,
    }
}
