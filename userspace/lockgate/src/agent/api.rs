//! The agent's own routes on the unix socket, beside the control plane's: run, status, sessions, audit; and
//! metrics, on every listener.
//!
//! Whoever may use `lockgate run` may place only its own process; reading the record needs root or a uid
//! listed in `api.local_approvers`.

use super::{Agent, callers::TokenRequest};
use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::StatusCode,
    routing::{get, post},
};
use lockgate_control::{PeerCred, Problem};
use lockgate_model::{RequestId, SessionId};
use lockgate_store::{Reader, Record, SessionFilter, StoreError};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, atomic::Ordering},
};

/// Sessions in one answer at most; the log holds more, and a client asks with `until`.
const MAX_SESSIONS: usize = 10_000;

/// What the host's users may ask.
pub(super) fn host_routes(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/run", post(run))
        .route("/v1/status", get(status))
        .route("/v1/tokens", post(token))
        .route("/v1/self-test", post(self_test))
        .route("/v1/sessions", get(sessions))
        .route("/v1/sessions/{id}", get(session))
        .route("/v1/audit/verify", get(verify))
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

async fn status(State(agent): State<Arc<Agent>>, peer: PeerCred) -> Result<Json<Value>, Problem> {
    reader(&agent, peer)?;
    Ok(Json(json!(agent.status())))
}

/// Gives a token to somebody who will dial lockgate itself. For root: whoever may issue tokens may be anybody.
async fn token(
    State(agent): State<Arc<Agent>>,
    peer: PeerCred,
    request: Result<Json<TokenRequest>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    if peer.uid != 0 {
        return Err(Problem::forbidden("only root may issue tokens"));
    }
    let Json(request) = request.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let issued = agent.issue_token(request, format!("uid {}", peer.uid)).await;
    let (id, token, expires) = issued.map_err(|error| Problem::malformed(format!("{error:#}")))?;
    Ok(Json(json!({ "id": id, "token": token.expose(), "expires": expires })))
}

/// Sends a probe through the capture. For root: it makes a cgroup and a connection.
async fn self_test(State(agent): State<Arc<Agent>>, peer: PeerCred) -> Result<Json<Value>, Problem> {
    if peer.uid != 0 {
        return Err(Problem::forbidden("only root may send a probe"));
    }
    let result = blocking(move || agent.interceptor.self_test()).await?;
    let error = result.err().map(|error| error.to_string());
    Ok(Json(json!({ "ok": error.is_none(), "error": error })))
}

async fn sessions(
    State(agent): State<Arc<Agent>>,
    peer: PeerCred,
    filter: Result<Query<SessionFilter>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    reader(&agent, peer)?;
    let Query(mut filter) = filter.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    filter.limit = filter.limit.map(|limit| limit.min(MAX_SESSIONS));
    let sessions = blocking(move || agent.log.reader().sessions(&filter)).await?.map_err(unreadable)?;
    Ok(Json(json!({ "sessions": sessions })))
}

async fn session(
    State(agent): State<Arc<Agent>>,
    peer: PeerCred,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    reader(&agent, peer)?;
    let id: SessionQuery = id.parse().map_err(Problem::malformed)?;
    let found = blocking(move || id.records(&agent.log.reader())).await?.map_err(unreadable)?;
    let (session, records) = found.ok_or_else(|| Problem::not_found(format!("{id} is not recorded here")))?;
    Ok(Json(json!({ "session": session, "records": records })))
}

async fn verify(State(agent): State<Arc<Agent>>, peer: PeerCred) -> Result<Json<Value>, Problem> {
    reader(&agent, peer)?;
    let report = blocking(move || agent.log.reader().verify(None)).await?.map_err(unreadable)?;
    Ok(Json(json!(report)))
}

/// A session by its own id, or by that of a request for approval made in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionQuery {
    Session(SessionId),
    Request(RequestId),
}

impl SessionQuery {
    /// Its records, oldest first; None when there is no such session.
    pub(crate) fn records(self, reader: &Reader) -> Result<Option<(SessionId, Vec<Record>)>, StoreError> {
        let session = match self {
            Self::Session(session) => Some(session),
            Self::Request(request) => reader.session_of(request)?,
        };
        let Some(session) = session else { return Ok(None) };
        let records = reader.session(session)?;
        Ok((!records.is_empty()).then_some((session, records)))
    }
}

impl FromStr for SessionQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let session = text.parse().map(Self::Session);
        let request = |error| text.parse().map(Self::Request).map_err(|_: lockgate_model::id::IdError| error);
        session.or_else(request).map_err(|error: lockgate_model::id::IdError| format!("{error}, or req_…"))
    }
}

impl fmt::Display for SessionQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session(id) => id.fmt(f),
            Self::Request(id) => id.fmt(f),
        }
    }
}

/// Refuses who may not read the record.
fn reader(agent: &Agent, peer: PeerCred) -> Result<(), Problem> {
    if peer.uid == 0 || agent.config.api.local_approvers.contains_key(&peer.uid) {
        return Ok(());
    }
    let detail = format!("uid {} is neither root nor listed in api.local_approvers", peer.uid);
    Err(Problem::forbidden(detail))
}

fn unreadable(error: StoreError) -> Problem {
    tracing::error!(%error, "reading the log");
    Problem::unavailable(format!("the log cannot be read: {error}"))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Problem::unavailable("the agent could not finish this"))
}
