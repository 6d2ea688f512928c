//! Holds, retention, and which records mention an id, over the API: auditors look, administrators change.
#![allow(clippy::result_large_err, reason = "a problem is made where an answer ends, never on a hot path")]

use super::{Agent, record, retention};
use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::StatusCode,
    routing::{get, post},
};
use lockgate_control::{Caller, Problem, Role};
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Custody, Hold},
    port::Ambient as _,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Records that are named at most: a session's id can be in millions.
const MAX_MENTIONS: usize = 1000;
/// The longest id is some 40 characters.
const MAX_ID_BYTES: usize = 100;
/// A reason is a sentence or two.
const MAX_REASON_BYTES: usize = 4096;

/// What is served.
pub(in crate::agent) fn routes(agent: Arc<Agent>) -> Router {
    Router::new()
        .route("/v1/audit/holds", get(holds).post(place))
        .route("/v1/audit/holds/{name}/release", post(release))
        .route("/v1/audit/retention", get(plan).post(run))
        .route("/v1/audit/mentions/{id}", get(mentions))
        .with_state(agent)
}

/// What is to be kept; at least one of the first four.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    session: Option<SessionId>,
    #[serde(default)]
    identity: Option<String>,
    #[serde(default)]
    since: Option<Timestamp>,
    #[serde(default)]
    until: Option<Timestamp>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    reason: String,
}

async fn holds(State(agent): State<Arc<Agent>>, caller: Caller) -> Result<Json<Value>, Problem> {
    looks(&caller)?;
    let holds = blocking(move || agent.log.holds().all()).await?;
    Ok(Json(json!({ "holds": holds })))
}

async fn place(
    State(agent): State<Arc<Agent>>,
    caller: Caller,
    wanted: Result<Json<Wanted>, JsonRejection>,
) -> Result<(StatusCode, Json<Hold>), Problem> {
    caller.require(Role::Admin)?;
    let Json(wanted) = wanted.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let Wanted { session, identity, since, until, reason } = wanted;
    if session.is_none() && identity.is_none() && since.is_none() && until.is_none() {
        return Err(Problem::malformed("a hold names a session, an identity or a time"));
    }
    let reason = told(reason)?;
    let random = super::super::ambient::System.random();
    let unique = SessionId::from_parts(Timestamp::now().as_millisecond().unsigned_abs(), random);
    let name = unique.to_string().replacen(SessionId::PREFIX, "hold", 1);
    let hold = Hold {
        name,
        session,
        identity,
        since,
        until,
        by: caller.id().to_owned(),
        reason,
        at: Timestamp::now(),
    };
    // In force before it is told: a run of retention meanwhile keeps what it names.
    let (log, placed) = (agent.log.clone(), hold.clone());
    blocking(move || log.holds().place(&placed)).await?;
    record(&agent, Custody::HoldPlaced(hold.clone())).await.map_err(failed)?;
    Ok((StatusCode::CREATED, Json(hold)))
}

async fn release(
    State(agent): State<Arc<Agent>>,
    caller: Caller,
    Path(name): Path<String>,
    wanted: Result<Json<Release>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let Json(Release { reason }) = wanted.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let reason = told(reason)?;
    let log = agent.log.clone();
    let held = blocking(move || log.holds().all()).await?;
    let known = held.into_iter().map(|hold| hold.name).find(|known| *known == name);
    let known = known.ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_such_hold",
            "No such hold",
            format!("no hold is named {name:?}"),
        )
    })?;
    // Recorded first: nothing is removed that no record lets go.
    let custody = Custody::HoldReleased { hold: known.clone(), by: caller.id().to_owned(), reason };
    record(&agent, custody).await.map_err(failed)?;
    let log = agent.log.clone();
    blocking(move || log.holds().release(&known)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn plan(State(agent): State<Arc<Agent>>, caller: Caller) -> Result<Json<Value>, Problem> {
    looks(&caller)?;
    let plan = retention::plan(&agent).await.map_err(failed)?;
    Ok(Json(json!(plan)))
}

async fn run(State(agent): State<Arc<Agent>>, caller: Caller) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let last = retention::run(&agent, caller.id()).await.map_err(failed)?;
    Ok(Json(json!(last)))
}

/// Which records mention an id: what each of them proves is asked by its number.
async fn mentions(
    State(agent): State<Arc<Agent>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    looks(&caller)?;
    let is_id = |text: &str| {
        text.len() <= MAX_ID_BYTES && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !is_id(&id) {
        return Err(Problem::malformed("expected an id like dec_01J9Z3…"));
    }
    let records = blocking(move || agent.log.reader().mentions(&id, MAX_MENTIONS)).await?;
    Ok(Json(json!({ "records": records })))
}

fn looks(caller: &Caller) -> Result<(), Problem> {
    if caller.has(Role::Admin) { Ok(()) } else { caller.require(Role::Auditor) }
}

fn told(reason: String) -> Result<String, Problem> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON_BYTES {
        return Err(Problem::malformed(format!("expected a reason of 1 to {MAX_REASON_BYTES} bytes")));
    }
    Ok(reason)
}

fn failed(error: anyhow::Error) -> Problem {
    Problem::new(StatusCode::CONFLICT, "not_done", "It was not done", format!("{error:#}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, lockgate_store::StoreError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| failed(error.into())),
        Err(error) => Err(failed(error.into())),
    }
}
