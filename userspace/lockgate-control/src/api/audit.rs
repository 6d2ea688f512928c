//! The audit log: verification, signed heads, proofs; and how the node is doing. Auditors alone read the log as a whole.

use super::{
    PathId,
    body::JsonBody,
    problem::Problem,
    sessions::house,
    verification::{self, KEEPERS},
};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{Proof, ProofQuery},
};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/audit/verify", get(verification::whole))
        .route("/v1/audit/verification", get(verification::show).post(verification::begin))
        .route("/v1/audit/verification/stop", post(verification::stop))
        .route("/v1/audit/checkpoint", get(checkpoint))
        .route("/v1/audit/proofs/{seq}", get(proof))
        .route("/v1/audit/growth", post(growth))
        .with_state(desk)
}

async fn status(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Role::Viewer)?;
    house(&desk)?.status().await.map(Json).map_err(Problem::from)
}

async fn checkpoint(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Proof>, Problem> {
    caller.require_any(&KEEPERS)?;
    house(&desk)?.prove(ProofQuery::Checkpoint).await.map(Json).map_err(Problem::from)
}

async fn proof(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(seq): PathId,
) -> Result<Json<Proof>, Problem> {
    caller.require_any(&KEEPERS)?;
    let seq = seq.parse().map_err(|_| Problem::not_found("expected a record's number"))?;
    house(&desk)?.prove(ProofQuery::Record(seq)).await.map(Json).map_err(Problem::from)
}

/// An earlier signed head.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Earlier {
    /// As `GET /v1/audit/checkpoint` gave it then.
    checkpoint: String,
}

async fn growth(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    JsonBody(earlier): JsonBody<Earlier>,
) -> Result<Json<Proof>, Problem> {
    caller.require_any(&KEEPERS)?;
    house(&desk)?.prove(ProofQuery::Growth(earlier.checkpoint)).await.map(Json).map_err(Problem::from)
}
