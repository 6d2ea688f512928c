//! Requests and bundles, and decisions of people on them. Who they are is found by [`crate::auth`].
//!
//! Whoever has a role sees every request, other users of this host those of their own uid. Viewers see shapes: neither literals
//! nor what they could be guessed by. Approvers vote for their groups, and never on a request of a uid of theirs. Root is no
//! approver by itself.

use super::{PathId, decision, page::Page, problem::Problem, public, refusal, sessions, vote};
use crate::{
    approvals::{bundle::BundleCase, case::Case},
    auth::{Caller, Role},
    desk::Desk,
    house::Sight,
    text,
    view::{
        self,
        shape::{Approval, ApprovalLine, Bundle},
    },
};
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
    operation::Digest,
    principal::Approver,
};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

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
        .route("/v1/bundles/{id}", get(show_bundle))
        .route("/v1/bundles/{id}/approve", post(approve_bundle))
        .route("/v1/bundles/{id}/deny", post(deny_bundle))
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
    caller: Caller,
    query: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<Page<ApprovalLine>>, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let wanted = query.state.as_deref().unwrap_or("all");
    let known = ["all", "pending", "resolved", "approved", "denied", "expired", "cancelled"];
    if !known.contains(&wanted) {
        let detail = format!("expected state to be one of {}", known.join(", "));
        return Err(Problem::malformed(detail));
    }
    let fits = |case: &Arc<Case>| {
        let state = vote::state(case.resolution().as_ref());
        may_see(&caller, case)
            && (wanted == "all" || wanted == state || (wanted == "resolved" && state != "pending"))
    };
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX);
    let mut found = desk.registry.newest_first(query.before).into_iter().filter(fits);
    let items: Vec<Arc<Case>> = found.by_ref().take(limit).collect();
    let next = found.next().and(items.last()).map(|case| case.request.id);
    let items = items.iter().map(|case| line(case, sight(&caller, case)));
    Ok(Json(Page { items: items.collect(), next: next.map(|next| next.to_string()) }))
}

/// Also answers whoever has no more than the link of a notification.
async fn show(
    State(desk): State<Arc<Desk>>,
    caller: Option<Caller>,
    PathId(id): PathId,
    link: Result<Query<public::Link>, QueryRejection>,
) -> Response {
    let Some(caller) = caller else { return public::view(&desk, &id, link) };
    let seen = find(&desk, &id).filter(|case| may_see(&caller, case)).ok_or_else(|| unknown(&id));
    seen.map(|case| Json(whole(&desk, &case, sight(&caller, &case)))).into_response()
}

async fn approve(State(desk): State<Arc<Desk>>, caller: Caller, PathId(id): PathId, body: Body) -> Response {
    post_vote(&desk, &caller, &id, VoteDecision::Approve, body).await
}

async fn deny(State(desk): State<Arc<Desk>>, caller: Caller, PathId(id): PathId, body: Body) -> Response {
    post_vote(&desk, &caller, &id, VoteDecision::Deny, body).await
}

async fn post_vote(
    desk: &Arc<Desk>,
    caller: &Caller,
    id: &str,
    decision: VoteDecision,
    body: Body,
) -> Response {
    let case = find(desk, id);
    let voted = match &case {
        Some(case) => decide(desk, caller, case, decision, body).await,
        None => Err(unknown(id)),
    };
    match voted {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            let session = case.map(|case| case.request.session.id);
            let by = Some(caller.id().to_owned());
            refusal::record(desk, &refusal::Caller::of(caller), by, session, id.parse().ok(), &problem);
            problem.into_response()
        }
    }
}

/// A decision.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Word {
    /// Why; some rules require it.
    #[serde(default)]
    reason: Option<String>,
    /// What the decider was shown; refused when the request is about something else.
    #[serde(default)]
    command_digest: Option<String>,
    /// What an approval gives beyond this once.
    #[serde(default)]
    grant: Option<vote::GrantWord>,
}

async fn decide(
    desk: &Arc<Desk>,
    caller: &Caller,
    case: &Case,
    decision: VoteDecision,
    body: Body,
) -> Result<vote::Counted, Problem> {
    let id = case.request.id;
    let word: Word = read(body).await.map_err(|problem| problem.about(id))?;
    if let Some(uid) = caller.uids().find(|uid| own(case, *uid)) {
        return Err(decision::requester(uid).about(id));
    }
    let by = caller.approver().map_err(|problem| problem.about(id))?;
    let digest = case.request.operation.digest;
    if let Some(text) = &word.command_digest
        && text.parse::<Digest>() != Ok(digest)
    {
        let detail = format!("expected command_digest {digest}; look at the request again");
        return Err(
            Problem::new(StatusCode::CONFLICT, "digest_mismatch", "Another command", detail).about(id)
        );
    }
    let progress = vote::cast(case, word.vote(desk, by, decision)?).await?;
    Ok(vote::counted(id, &progress))
}

impl Word {
    fn vote(&self, desk: &Desk, by: Approver, decision: VoteDecision) -> Result<Vote, Problem> {
        Ok(Vote {
            by,
            decision,
            reason: vote::reason(self.reason.as_deref())?,
            at: desk.ambient.now(),
            grant: self.grant.as_ref().map(vote::GrantWord::terms).transpose()?,
        })
    }
}

/// A small JSON body; an empty one says nothing.
pub(crate) async fn read<T: Default + serde::de::DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let body = decision::read_body(body, BODY_MAX, decision::BODY_TIMEOUT).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body)
        .map_err(|error| Problem::malformed(format!("the body cannot be read: {error}")))
}

async fn show_bundle(
    State(desk): State<Arc<Desk>>,
    caller: Option<Caller>,
    PathId(id): PathId,
    link: Result<Query<public::Link>, QueryRejection>,
) -> Response {
    let Some(caller) = caller else { return public::view_bundle(&desk, &id, link) };
    let seen = find_bundle(&desk, &id)
        .filter(|bundle| bundle.cases().iter().all(|case| may_see(&caller, case)))
        .ok_or_else(|| unknown(&id));
    seen.map(|bundle| Json(whole_bundle(&desk, &bundle, sight_of_all(&caller, &bundle)))).into_response()
}

async fn approve_bundle(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    body: Body,
) -> Response {
    post_bundle(&desk, &caller, &id, VoteDecision::Approve, body).await
}

async fn deny_bundle(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    body: Body,
) -> Response {
    post_bundle(&desk, &caller, &id, VoteDecision::Deny, body).await
}

async fn post_bundle(
    desk: &Arc<Desk>,
    caller: &Caller,
    id: &str,
    decision: VoteDecision,
    body: Body,
) -> Response {
    match decide_bundle(desk, caller, id, decision, body).await {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => {
            let by = Some(caller.id().to_owned());
            refusal::record(desk, &refusal::Caller::of(caller), by, None, problem.request, &problem);
            problem.into_response()
        }
    }
}

async fn decide_bundle(
    desk: &Arc<Desk>,
    caller: &Caller,
    id: &str,
    decision: VoteDecision,
    body: Body,
) -> Result<vote::CountedBundle, Problem> {
    let bundle = find_bundle(desk, id).ok_or_else(|| unknown(id))?;
    let word: Word = read(body).await?;
    for case in bundle.cases() {
        if let Some(uid) = caller.uids().find(|uid| own(&case, *uid)) {
            return Err(decision::requester(uid).about(case.request.id));
        }
    }
    let by = caller.approver()?;
    let cases = decision::check_bundle_digest(
        &bundle,
        word.command_digest.as_deref().unwrap_or(&bundle.digest().to_string()),
    )?;
    let counted = vote::cast_all(cases, word.vote(desk, by, decision)?).await?;
    Ok(vote::counted_bundle(&bundle, counted))
}

pub(crate) fn find_bundle(desk: &Desk, id: &str) -> Option<Arc<BundleCase>> {
    id.parse().ok().and_then(|id| desk.registry.find_bundle(id))
}

/// Everything an approver needs to decide on all of it.
pub(crate) fn whole_bundle(desk: &Desk, bundle: &BundleCase, sight: Sight) -> Bundle {
    let cases = bundle.cases();
    Bundle {
        id: bundle.id,
        state: if bundle.outcome().is_some() { "resolved" } else { "pending" },
        command_digest: view::digest(bundle.digest(), sight),
        decision_url: desk.links.bundle_decision(bundle.id),
        notifications: bundle.deliveries.lock().clone(),
        bundle: view::together(bundle, sight),
        requests: cases.iter().map(|case| whole(desk, case, sight)).collect(),
    }
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
pub(crate) fn own(case: &Case, uid: u32) -> bool {
    let session = &case.request.session;
    session.flow.process.uid == uid || session.workload.process.uid == uid
}

pub(crate) fn may_see(caller: &Caller, case: &Case) -> bool {
    caller.has(Role::Viewer) || caller.uid().is_some_and(|uid| own(case, uid))
}

/// How much of a request somebody sees who may see it: all of it when it is their own.
pub(crate) fn sight(caller: &Caller, case: &Case) -> Sight {
    if caller.uids().any(|uid| own(case, uid)) { Sight::Recorded } else { sessions::sight(caller) }
}

/// What is shown together is shown alike.
fn sight_of_all(caller: &Caller, bundle: &BundleCase) -> Sight {
    let shapes = bundle.cases().iter().any(|case| sight(caller, case) == Sight::Shapes);
    if shapes { Sight::Shapes } else { Sight::Recorded }
}

/// One line of a list.
fn line(case: &Case, sight: Sight) -> ApprovalLine {
    let request = &case.request;
    let operation = &request.operation;
    let facts = &*operation.facts;
    let state = case.state.borrow().clone();
    let statement = view::statement(operation, sight);
    ApprovalLine {
        id: request.id,
        state: vote::state(state.progress.resolution.as_ref()),
        created_at: request.created_at,
        expires_at: state.progress.expires_at,
        resolved_at: state.resolved_at,
        command_digest: view::digest(operation.digest, sight),
        statement: text::visible(&text::clip(statement, SUMMARY_STATEMENT)).into_owned(),
        statement_bytes: statement.len(),
        class: facts.class().to_owned(),
        kind: facts.kind().to_owned(),
        risk: facts.risk(),
        target: request.session.target.name.clone(),
        principal: request.session.principal.id.clone(),
        display: text::visible(&request.session.principal.display).into_owned(),
        assurance: request.session.principal.assurance,
        uid: request.session.flow.process.uid,
        in_transaction: operation.context.in_transaction,
        session_id: request.session.id,
        decision_id: request.decision(),
        rules: request.spec.requirements.iter().map(|requirement| requirement.rule.clone()).collect(),
        need: state.progress.requirements,
        left: state.left,
        bundle_id: case.bundle.get().map(|bundle| bundle.id),
    }
}

/// Everything an approver needs.
pub(crate) fn whole(desk: &Desk, case: &Case, sight: Sight) -> Approval {
    let request = &case.request;
    let state = case.state.borrow().clone();
    Approval {
        id: request.id,
        request_id: request.id,
        state: vote::state(state.progress.resolution.as_ref()),
        command_digest: view::digest(request.operation.digest, sight),
        decision_url: desk.links.decision(request.id),
        created_at: request.created_at,
        expires_at: state.progress.expires_at,
        resolved_at: state.resolved_at,
        subject: view::subject_for(case, sight),
        demand: view::demand_of(request, &state.progress),
        resolution: state.progress.resolution,
        votes: state.votes,
        notifications: case.deliveries.lock().clone(),
        left: state.left,
        takes_up: case.takes_up.get().copied(),
        bundle_id: case.bundle.get().map(|bundle| bundle.id),
    }
}
