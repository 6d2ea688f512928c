//! The agent's own routes, beside the control plane's: run, tokens of callers, the probe; and metrics, on every listener.
//!
//! Whoever may use `lockgate run` may place only its own process, so that route answers on the unix socket alone, where the
//! kernel says which process asks.

use super::{Agent, callers::TokenRequest};
use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    routing::{get, post},
};
use lockgate_control::{Caller, PeerCred, Problem, Role};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::sync::{Arc, atomic::Ordering};

/// What the host's users may ask.
pub(super) fn host_routes(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/run", post(run))
        .route("/v1/tokens", post(token))
        .route("/v1/self-test", post(self_test))
        .with_state(agent)
}

/// What a scraper may ask.
pub(super) fn metrics_route(metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(async move || metrics.render()))
}

/// Moves the asking process into a governed cgroup of its own.
async fn run(State(agent): State<Arc<Agent>>, peer: PeerCred) -> Result<Json<Value>, Problem> {
    if peer.uid != 0 && !agent.config.run_uids.contains(&peer.uid) {
        not_governed(&agent, "not_allowed");
        return Err(Problem::forbidden(format!("uid {} may not use `lockgate run` here", peer.uid)));
    }
    let pid = peer.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    let pid = pid.ok_or_else(|| {
        not_governed(&agent, "unseen");
        Problem::forbidden("the agent does not see the asking process (another pid namespace?)")
    })?;
    let placing = agent.clone();
    let placed = blocking(move || placing.place(pid, peer.uid)).await?;
    let cgroup = placed.map_err(|error| {
        not_governed(&agent, "not_placed");
        Problem::new(StatusCode::CONFLICT, "not_placed", "The process was not placed", format!("{error:#}"))
    })?;
    tracing::info!(pid, uid = peer.uid, cgroup = cgroup.path, "governing a command");
    Ok(Json(json!({ "cgroup": cgroup.path })))
}

/// `lockgate run` does not start what is not governed; that it happened is worth a look.
fn not_governed(agent: &Agent, why: &'static str) {
    agent.not_governed.fetch_add(1, Ordering::Relaxed);
    metrics::counter!(super::telemetry::NOT_GOVERNED, "why" => why).increment(1);
}

/// Gives a token to somebody who will dial lockgate itself. For administrators: whoever may issue tokens may be anybody.
async fn token(
    State(agent): State<Arc<Agent>>,
    caller: Caller,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let Json(request) = request.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let issued = agent.issue_token(request, caller.id().to_owned()).await;
    let (id, token, expires) = issued.map_err(|error| Problem::malformed(format!("{error:#}")))?;
    Ok(Json(json!({ "id": id, "token": token.expose(), "expires": expires })))
}

/// Sends a probe through the capture. For administrators: it makes a cgroup and a connection.
async fn self_test(State(agent): State<Arc<Agent>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let result = blocking(move || agent.interceptor.self_test()).await?;
    let error = result.err().map(|error| error.to_string());
    Ok(Json(json!({ "ok": error.is_none(), "error": error })))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::unavailable("the agent could not finish this"))
}
