//! Channels: how each is, and a rehearsal of a denial through all of them.

use super::{body::JsonBody, page::Page, problem::Problem};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockgate_model::id::RuleId;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new().route("/v1/channels", get(list)).route("/v1/rehearsals", post(rehearse)).with_state(desk)
}

async fn list(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Response, Problem> {
    caller.require(Role::Viewer)?;
    let items = desk.control()?.channels();
    Ok(Json(Page { items, next: None }).into_response())
}

/// What is rehearsed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rehearsal {
    /// The rule whose approvers are asked.
    rule: String,
}

async fn rehearse(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    JsonBody(rehearsal): JsonBody<Rehearsal>,
) -> Result<Response, Problem> {
    caller.require(Role::Admin)?;
    let request = desk.control()?.rehearse(&RuleId::from(rehearsal.rule.as_str()), caller.id()).await?;
    Ok((StatusCode::CREATED, Json(json!({ "request_id": request }))).into_response())
}
