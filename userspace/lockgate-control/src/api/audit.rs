//! The audit log: verification, signed heads, proofs; and how the node is doing. Auditors alone read the log as a whole.

use super::{PathId, body::JsonBody, problem::Problem, sessions::house};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    house::{Proof, ProofQuery, VerifyReport},
};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// Verifications at a time: each reads the whole log.
static VERIFYING: Semaphore = Semaphore::const_new(1);

/// Who reads the log as a whole.
const KEEPERS: [Role; 2] = [Role::Auditor, Role::Admin];

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/audit/verify", get(verify))
        .route("/v1/audit/checkpoint", get(checkpoint))
        .route("/v1/audit/proofs/{seq}", get(proof))
        .route("/v1/audit/growth", post(growth))
        .with_state(desk)
}

async fn status(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Role::Viewer)?;
    house(&desk)?.status().await.map(Json).map_err(Problem::from)
}

async fn verify(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<VerifyReport>, Problem> {
    caller.require_any(&KEEPERS)?;
    let Ok(_turn) = VERIFYING.try_acquire() else {
        return Err(Problem::too_many("somebody verifies the log already; ask again when that is done"));
    };
    house(&desk)?.verify().await.map(Json).map_err(Problem::from)
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
