//! Sessions: the list, one with its records, ending one; and search over everything that was recorded.
//!
//! Viewers see statements without literals and do not search for words in them; approvers, auditors and administrators see
//! what was recorded. What policy masks is in no record.

use super::{
    PathId,
    body::{Asked, JsonBody},
    page::{Cursor, Page, limit},
    problem::Problem,
    vote,
};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{
        Actor, Found, House, HouseError, Killed, RECORDS_MAX, SearchQuery, SessionFilter, SessionRef,
        SessionSummary, SessionView, Sight,
    },
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use lockgate_model::{SessionId, Timestamp, id::TargetName};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// Sessions that began in the very same instant as a cursor's; more than this do not.
const TIES_MAX: usize = 64;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/sessions", get(list))
        .route("/v1/sessions/{id}", get(show))
        .route("/v1/sessions/{id}/kill", post(kill))
        .route("/v1/search", get(search))
        .with_state(desk)
}

/// How much of statements a caller sees.
pub(crate) fn sight(caller: &Caller) -> Sight {
    match [Role::Approver, Role::Auditor, Role::Admin].iter().any(|role| caller.has(*role)) {
        true => Sight::Recorded,
        false => Sight::Shapes,
    }
}

/// What the control plane shows and does not own.
pub(super) fn house(desk: &Desk) -> Result<&Arc<dyn House>, Problem> {
    desk.house().ok_or_else(|| Problem::unavailable("the agent is starting"))
}

/// A caller, for the record.
pub(crate) fn actor(caller: &Caller) -> Actor {
    Actor { id: caller.id().to_owned(), name: crate::text::visible(caller.name()).into_owned() }
}

impl From<HouseError> for Problem {
    fn from(error: HouseError) -> Self {
        let detail = error.to_string();
        match error {
            HouseError::NotFound(_) => Self::not_found(detail),
            HouseError::Invalid(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "This cannot be used", detail)
            }
            HouseError::Conflict(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", "It does not fit what is there", detail)
            }
            HouseError::NotOurs(_) => {
                Self::new(StatusCode::CONFLICT, "not_registered", "It is changed elsewhere", detail)
            }
            HouseError::Unavailable(_) => Self::unavailable(detail),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listing {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    target: Option<TargetName>,
    principal: Option<String>,
    open: Option<bool>,
    limit: Option<usize>,
    before: Option<String>,
}

async fn list(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Page<SessionSummary>>, Problem> {
    caller.require(Role::Viewer)?;
    let most = limit(listing.limit)?;
    let cursor = listing.before.as_deref().map(Cursor::decode).transpose()?;
    // A listing's order is that of (began, id); the filter knows times alone, so equals are left out here.
    let from = cursor.as_ref().and_then(|cursor| cursor.at.checked_add(Duration::from_nanos(1)).ok());
    let until = match (listing.until, from) {
        (Some(until), Some(from)) => Some(until.min(from)),
        (until, from) => until.or(from),
    };
    let filter = SessionFilter {
        since: listing.since,
        until,
        target: listing.target,
        principal: listing.principal,
        open: listing.open,
        limit: Some(most + 1 + if cursor.is_some() { TIES_MAX } else { 0 }),
    };
    let mut sessions = house(&desk)?.sessions(filter).await?;
    if let Some(cursor) = &cursor {
        sessions.retain(|session| (session.started, session.id.to_string()) < (cursor.at, cursor.id.clone()));
    }
    let more = sessions.len() > most;
    sessions.truncate(most);
    let next = sessions
        .last()
        .filter(|_| more)
        .map(|last| Cursor { at: last.started, id: last.id.to_string() }.encode());
    Ok(Json(Page { items: sessions, next }))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Records {
    /// Records after this number.
    after: u64,
    limit: Option<usize>,
}

async fn show(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    Asked(records): Asked<Records>,
) -> Result<Json<SessionView>, Problem> {
    caller.require(Role::Viewer)?;
    let id: SessionRef = id.parse().map_err(|_| unknown(&id))?;
    let most = records.limit.unwrap_or(RECORDS_MAX).clamp(1, RECORDS_MAX);
    let view = house(&desk)?.session(id, records.after, most, sight(&caller)).await?;
    Ok(Json(view))
}

fn unknown(id: &str) -> Problem {
    let id = crate::text::visible(&crate::text::clip(id, 64)).into_owned();
    Problem::not_found(format!("expected ses_… or req_…, got {id:?}"))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Why {
    reason: Option<String>,
}

async fn kill(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    JsonBody(why): JsonBody<Why>,
) -> Result<Json<Killed>, Problem> {
    caller.require(Role::Admin)?;
    let id: SessionId = id.parse().map_err(|_| unknown(&id))?;
    let reason = vote::reason(why.reason.as_deref())?.ok_or_else(|| {
        let detail = "the person whose session it is reads it; send {\"reason\": \"…\"}";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "reason_required", "A reason is required", detail)
    })?;
    let (desk, by) = (desk.clone(), actor(&caller));
    // Whoever hangs up meanwhile has asked for it all the same.
    let killed = tokio::spawn(async move { house(&desk)?.kill(id, by, reason).await.map_err(Problem::from) });
    killed.await.map_err(|_| Problem::unavailable("the agent could not finish this"))?.map(Json)
}

async fn search(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    Asked(query): Asked<SearchQuery>,
) -> Result<Json<Found>, Problem> {
    caller.require(Role::Viewer)?;
    let sight = sight(&caller);
    // Who does not see literals does not find out by guessing them.
    if sight == Sight::Shapes && (query.text.is_some() || query.digest.is_some()) {
        caller.require_any(&[Role::Approver, Role::Auditor, Role::Admin])?;
    }
    let query = SearchQuery { limit: Some(limit(query.limit)?), ..query };
    house(&desk)?.search(query, sight).await.map(Json).map_err(Problem::from)
}
