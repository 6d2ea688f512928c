//! Targets and governed sets: what there is, how it is, and registering targets while lockgate runs.
//!
//! A registration is the same document as an entry of `targets:`, checked by the same code and kept as a file; see
//! `docs/configuration.md`. `ETag` and `If-Match` keep two people from overwriting each other.

use super::{
    PathId,
    body::{Asked, JsonBody},
    page::Page,
    problem::Problem,
    sessions::{actor, house},
};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{Governed, HouseError, Registration, TargetView},
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use lockgate_model::id::TargetName;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/targets", get(list).post(register))
        .route("/v1/targets/{name}", get(show).put(change).delete(remove))
        .route("/v1/governed", get(governed))
        .with_state(desk)
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Listing {
    /// Ask every target now whether it answers.
    probe: bool,
}

async fn list(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    Asked(listing): Asked<Listing>,
) -> Result<Json<Page<TargetView>>, Problem> {
    caller.require(Role::Viewer)?;
    let items = house(&desk)?.targets(listing.probe).await?;
    let items = items.into_iter().map(|target| seen(target, &caller)).collect();
    Ok(Json(Page { items, next: None }))
}

/// Where its credential is kept is an administrator's business.
pub(crate) fn seen(mut target: TargetView, caller: &Caller) -> TargetView {
    if !caller.has(Role::Admin) {
        target.definition = None;
    }
    target
}

async fn show(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(name): PathId,
    Asked(listing): Asked<Listing>,
) -> Result<Response, Problem> {
    caller.require(Role::Viewer)?;
    let found = house(&desk)?.targets(listing.probe).await?.into_iter();
    let target =
        found.into_iter().find(|target| target.name.as_str() == name).ok_or_else(|| unknown(&name))?;
    Ok(tagged(StatusCode::OK, seen(target, &caller)))
}

fn unknown(name: &str) -> Problem {
    let name = crate::text::visible(&crate::text::clip(name, 64)).into_owned();
    Problem::not_found(format!("there is no target {name:?}"))
}

fn tagged(status: StatusCode, target: TargetView) -> Response {
    let etag = HeaderValue::from_str(&format!("\"{}\"", target.etag));
    let mut response = (status, Json(target)).into_response();
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}

async fn register(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    JsonBody(target): JsonBody<Value>,
) -> Result<Response, Problem> {
    caller.require(Role::Admin)?;
    let registered = put(&desk, &caller, Registration { target, replaces: None }).await?;
    Ok(tagged(StatusCode::CREATED, registered))
}

async fn change(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(name): PathId,
    headers: HeaderMap,
    JsonBody(target): JsonBody<Value>,
) -> Result<Response, Problem> {
    caller.require(Role::Admin)?;
    if target.get("name").and_then(Value::as_str) != Some(&name) {
        return Err(Problem::malformed(format!("expected the body's `name` to be {name:?}, as in the path")));
    }
    let replaces = required_match(&headers)?;
    let changed = put(&desk, &caller, Registration { target, replaces: Some(replaces) }).await?;
    Ok(tagged(StatusCode::OK, changed))
}

async fn put(desk: &Arc<Desk>, caller: &Caller, registration: Registration) -> Result<TargetView, Problem> {
    let (desk, by) = (desk.clone(), actor(caller));
    // Whoever hangs up meanwhile does not leave half a registration.
    let work = tokio::spawn(async move { house(&desk)?.register(registration, by).await.map_err(stale) });
    work.await.map_err(|_| Problem::unavailable("the agent could not finish this"))?
}

/// What was changed meanwhile is a failed precondition.
fn stale(error: HouseError) -> Problem {
    match error {
        HouseError::Conflict(detail) if detail.contains("changed meanwhile") => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "changed_meanwhile",
            "It was changed meanwhile",
            detail,
        ),
        error => error.into(),
    }
}

async fn remove(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(name): PathId,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let etag = match headers.contains_key(header::IF_MATCH) {
        true => Some(required_match(&headers)?),
        false => None,
    };
    let (desk, by, name) = (desk.clone(), actor(&caller), TargetName::from(name.as_str()));
    let work = tokio::spawn(async move { house(&desk)?.unregister(name, etag, by).await.map_err(stale) });
    work.await.map_err(|_| Problem::unavailable("the agent could not finish this"))??;
    Ok(StatusCode::NO_CONTENT)
}

fn required_match(headers: &HeaderMap) -> Result<String, Problem> {
    let given = headers.get(header::IF_MATCH).and_then(|etag| etag.to_str().ok());
    let given = given.map(|etag| etag.trim().trim_matches('"').to_owned()).filter(|etag| !etag.is_empty());
    given.ok_or_else(|| {
        Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "if_match_required",
            "Say what you change",
            "send If-Match with the ETag of the target as you read it",
        )
    })
}

async fn governed(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Governed>, Problem> {
    caller.require(Role::Viewer)?;
    house(&desk)?.governed().await.map(Json).map_err(Problem::from)
}
