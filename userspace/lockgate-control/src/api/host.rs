//! What the host's users see and decide on the unix socket. Who they are is the kernel's word; what they may
//! is `api.local_approvers`.
//!
//! Root and listed uids see every request, others those of their own uid. A listed uid votes as `local:<uid>`
//! for its listed groups, and never on a request of its own uid. Root is not listed by itself.

use super::{
    PathId, decision,
    peer::PeerCred,
    problem::Problem,
    refusal::{self, Caller},
    vote,
};
use crate::{approvals::case::Case, desk::Desk, text, view};
use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockgate_model::{
    RequestId,
    approval::{Vote, VoteDecision},
    operation::{Digest, Facts},
    principal::Approver,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Requests in one answer, unless asked otherwise.
const LIMIT_DEFAULT: usize = 100;

/// Requests in one answer at most.
const LIMIT_MAX: usize = 1_000;

/// Bytes of a statement in a list.
const SUMMARY_STATEMENT: usize = 200;

/// Bytes of `{"reason": …}`.
const BODY_MAX: usize = 16 << 10;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/approvals", get(list))
        .route("/v1/approvals/{id}", get(show))
        .route("/v1/approvals/{id}/approve", post(approve))
        .route("/v1/approvals/{id}/deny", post(deny))
        .with_state(desk)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    before: Option<RequestId>,
}

async fn list(
    State(desk): State<Arc<Desk>>,
    peer: PeerCred,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let wanted = query.state.as_deref().unwrap_or("all");
    let known = ["all", "pending", "resolved", "approved", "denied", "expired", "cancelled"];
    if !known.contains(&wanted) {
        let detail = format!("expected state to be one of {}", known.join(", "));
        return Err(Problem::malformed(detail));
    }
    let fits = |case: &Arc<Case>| {
        let state = vote::state(case.resolution().as_ref());
        may_see(&desk, peer, case)
            && (wanted == "all" || wanted == state || (wanted == "resolved" && state != "pending"))
    };
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let mut found = desk.registry.newest_first(query.before).into_iter().filter(fits);
    let items: Vec<Arc<Case>> = found.by_ref().take(limit).collect();
    let next = found.next().and(items.last()).map(|case| case.request.id);
    Ok(Json(json!({
        "items": items.iter().map(|case| summary(case)).collect::<Vec<_>>(),
        "next": next,
    })))
}

async fn show(
    State(desk): State<Arc<Desk>>,
    peer: PeerCred,
    PathId(id): PathId,
) -> Result<Json<Value>, Problem> {
    let case = find(&desk, &id).filter(|case| may_see(&desk, peer, case)).ok_or_else(|| unknown(&id))?;
    Ok(Json(whole(&desk, &case)))
}

async fn approve(State(desk): State<Arc<Desk>>, peer: PeerCred, PathId(id): PathId, body: Body) -> Response {
    post_vote(&desk, peer, &id, VoteDecision::Approve, body).await
}

async fn deny(State(desk): State<Arc<Desk>>, peer: PeerCred, PathId(id): PathId, body: Body) -> Response {
    post_vote(&desk, peer, &id, VoteDecision::Deny, body).await
}

async fn post_vote(
    desk: &Arc<Desk>,
    peer: PeerCred,
    id: &str,
    decision: VoteDecision,
    body: Body,
) -> Response {
    let case = find(desk, id);
    let voted = match &case {
        Some(case) => decide(desk, peer, case, decision, body).await,
        None => Err(unknown(id)),
    };
    match voted {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            let session = case.map(|case| case.request.session.id);
            let by = Some(format!("local:{}", peer.uid));
            refusal::record(desk, &Caller::Local(peer.uid), by, session, id.parse().ok(), &problem);
            problem.into_response()
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    #[serde(default)]
    reason: Option<String>,
    /// What the decider was shown; refused when the request is about something else.
    #[serde(default)]
    command_digest: Option<String>,
}

async fn decide(
    desk: &Arc<Desk>,
    peer: PeerCred,
    case: &Case,
    decision: VoteDecision,
    body: Body,
) -> Result<Value, Problem> {
    let id = case.request.id;
    let body = decision::read_body(body, BODY_MAX, decision::BODY_TIMEOUT).await?;
    let word: Word = if body.is_empty() {
        Word::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::malformed(format!("expected {{\"reason\": …}}: {error}")).about(id))?
    };
    if own(case, peer.uid) {
        return Err(decision::requester(peer.uid).about(id));
    }
    let groups =
        desk.local_approvers.get(&peer.uid).filter(|groups| !groups.is_empty()).ok_or_else(|| {
            let detail = format!("uid {} has no groups in api.local_approvers", peer.uid);
            Problem::new(StatusCode::FORBIDDEN, "not_authorized", "This uid decides nothing", detail)
                .about(id)
        })?;
    let digest = case.request.operation.digest;
    if let Some(text) = &word.command_digest
        && text.parse::<Digest>() != Ok(digest)
    {
        let detail = format!("expected command_digest {digest}; look at the request again");
        return Err(
            Problem::new(StatusCode::CONFLICT, "digest_mismatch", "Another command", detail).about(id)
        );
    }
    let vote = Vote {
        by: Approver {
            id: format!("local:{}", peer.uid),
            groups: groups.clone(),
            via: "cli".to_owned(),
            also: Vec::new(),
        },
        decision,
        reason: vote::reason(word.reason.as_deref())?,
        at: desk.ambient.now(),
        grant: None,
    };
    let progress = vote::cast(case, vote).await?;
    Ok(vote::counted(id, &progress))
}

fn find(desk: &Desk, id: &str) -> Option<Arc<Case>> {
    id.parse().ok().and_then(|id| desk.registry.find(id))
}

fn unknown(id: &str) -> Problem {
    let id = text::visible(&text::clip(id, 64)).into_owned();
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_request",
        "Unknown request",
        format!("no request {id:?} waits here, and none was resolved lately"),
    )
}

/// The uid that asks, by the kernel's word at connect().
fn own(case: &Case, uid: u32) -> bool {
    let session = &case.request.session;
    session.flow.process.uid == uid || session.workload.process.uid == uid
}

fn may_see(desk: &Desk, peer: PeerCred, case: &Case) -> bool {
    peer.uid == 0 || desk.local_approvers.contains_key(&peer.uid) || own(case, peer.uid)
}

/// One line of a list.
fn summary(case: &Case) -> Value {
    let request = &case.request;
    let operation = &request.operation;
    let state = case.state.borrow().clone();
    let statement = if operation.touches_masked { &operation.normalized } else { &operation.text };
    let mut out = json!({
        "id": request.id,
        "state": vote::state(state.progress.resolution.as_ref()),
        "created_at": request.created_at,
        "expires_at": state.progress.expires_at,
        "resolved_at": state.resolved_at,
        "command_digest": operation.digest,
        "statement": text::visible(&text::clip(statement, SUMMARY_STATEMENT)),
        "statement_bytes": statement.len(),
        "target": request.session.target.name,
        "principal": request.session.principal.id,
        "display": text::visible(&request.session.principal.display),
        "assurance": request.session.principal.assurance,
        "uid": request.session.flow.process.uid,
        "in_transaction": operation.context.in_transaction,
        "session_id": request.session.id,
        "decision_id": request.decision(),
        "rules": request.spec.requirements.iter().map(|requirement| &requirement.rule).collect::<Vec<_>>(),
        "need": state.progress.requirements,
    });
    match &*operation.facts {
        Facts::Sql(facts) => {
            view::merge(&mut out, json!({ "class": facts.class, "kind": facts.kind, "risk": facts.risk }));
        }
    }
    out
}

/// Everything an approver needs.
pub(super) fn whole(desk: &Desk, case: &Case) -> Value {
    let request = &case.request;
    let state = case.state.borrow().clone();
    let mut facts = view::subject(case);
    facts.append(&mut view::demand(request, &state.progress));
    let mut out = json!({
        "id": request.id,
        "request_id": request.id,
        "state": vote::state(state.progress.resolution.as_ref()),
        "command_digest": request.operation.digest,
        "decision_url": desk.links.decision(request.id),
        "created_at": request.created_at,
        "expires_at": state.progress.expires_at,
        "resolved_at": state.resolved_at,
        "resolution": state.progress.resolution,
        "votes": state.votes,
        "notifications": *case.deliveries.lock(),
    });
    view::merge(&mut out, Value::Object(facts));
    out
}
