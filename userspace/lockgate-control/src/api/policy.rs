//! The policy in force: its source and version, what it makes of an operation, and its tests. Nothing here changes it.

use super::{body::JsonBody, page::Page, problem::Problem, sessions::house};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{ExplainQuery, Explained, PolicyTest, PolicyView},
};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/policy", get(show))
        .route("/v1/policy/explain", post(explain))
        .route("/v1/policy/test", post(test))
        .with_state(desk)
}

async fn show(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<PolicyView>, Problem> {
    caller.require(Role::Viewer)?;
    house(&desk)?.policy().await.map(Json).map_err(Problem::from)
}

async fn explain(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    JsonBody(query): JsonBody<ExplainQuery>,
) -> Result<Json<Page<Explained>>, Problem> {
    match &query {
        ExplainQuery::Given(_) => caller.require(Role::Viewer)?,
        // It quotes statements as they were recorded.
        ExplainQuery::Session(_) => caller.require_any(&[Role::Approver, Role::Auditor, Role::Admin])?,
    }
    let items = house(&desk)?.explain(query).await?;
    Ok(Json(Page { items, next: None }))
}

/// The outcome of all tests.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tested {
    /// True when every test passed.
    pub(crate) ok: bool,
    /// The tests, in the order of the files.
    pub(crate) items: Vec<PolicyTest>,
}

async fn test(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Tested>, Problem> {
    caller.require(Role::Viewer)?;
    let items = house(&desk)?.test().await?;
    Ok(Json(Tested { ok: items.iter().all(|test| test.passed), items }))
}
