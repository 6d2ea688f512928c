//! The emergency override: breaking the glass, ending it, the look that somebody takes at it. That a person has just logged
//! in is known by the login itself, or on the unix socket read from the asking process.
//!
//! Every attempt is recorded, the refused ones too; every channel is told of each use.

use super::{PathId, host, page::Page, problem::Problem, refusal, vote};
use crate::{
    auth::{Caller, Role},
    desk::Desk,
    notify::event::EventType,
    text,
    view::{self, shape::Glass},
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use lockgate_model::{
    GlassId,
    event::EventKind,
    id::{RuleId, TargetName},
    time::parse_duration,
};
use lockgate_policy::approval::glass::{Ask, GlassRefusal};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/breakglass", get(list).post(ask))
        .route("/v1/breakglass/{id}/end", post(end))
        .route("/v1/breakglass/{id}/review", post(review))
        .with_state(desk)
}

/// Breaking the glass.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BreakGlass)]
pub(crate) struct Word {
    /// The `break_glass` block.
    #[serde(default)]
    rule: String,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
    /// The incident.
    #[serde(default)]
    ticket: Option<String>,
    /// `30m`; as long as the block lets when it is missing.
    #[serde(default, rename = "for")]
    duration: Option<String>,
    /// Another principal's sessions than those of the asking uid.
    #[serde(default)]
    principal: Option<String>,
    /// On this target alone.
    #[serde(default)]
    target: Option<String>,
}

/// A look at an emergency override.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Review)]
pub(crate) struct Note {
    /// What was seen.
    #[serde(default)]
    note: Option<String>,
}

async fn list(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Page<Glass>>, Problem> {
    caller.require(Role::Viewer)?;
    let now = desk.ambient.now();
    let glass = desk.keep.glass.lock();
    let item = |glass: &lockgate_model::grant::GlassUse| {
        let state = if glass.is_live(now) { "in_force" } else { "review_pending" };
        Glass { state: Some(state), ..view::glass_of(glass) }
    };
    Ok(Json(Page { items: glass.uses().map(item).collect(), next: None }))
}

async fn ask(State(desk): State<Arc<Desk>>, caller: Caller, body: Body) -> Result<Json<Glass>, Problem> {
    let asked = break_it(&desk, &caller, body).await;
    asked.map(Json).inspect_err(|problem| refused(&desk, &caller, problem))
}

async fn break_it(desk: &Arc<Desk>, caller: &Caller, body: Body) -> Result<Glass, Problem> {
    let word: Word = host::read(body).await?;
    let policy = desk.keep.policy.as_ref().map(|policy| policy.load_full());
    let block = policy.as_ref().and_then(|policy| {
        let named = RuleId::from(word.rule.as_str());
        policy.glass().iter().find(|block| block.id == named).cloned()
    });
    let block = block.ok_or_else(|| {
        let known: Vec<String> =
            policy.iter().flat_map(|policy| policy.glass()).map(|block| block.id.to_string()).collect();
        let detail = match known.as_slice() {
            [] => "the policy in force has no break_glass block".to_owned(),
            known => format!("the policy in force has the break_glass blocks {}", known.join(", ")),
        };
        Problem::new(StatusCode::NOT_FOUND, "unknown_override", "Unknown override", detail)
    })?;
    let by = caller.approver()?;
    let duration = word.duration.as_deref().map(parse_duration).transpose();
    let duration = duration.map_err(|error| Problem::malformed(format!("for: {error}")))?;
    let uid = caller.uid().filter(|_| word.principal.is_none());
    if uid.is_none() && word.principal.is_none() {
        return Err(Problem::malformed(
            "expected principal: whose sessions it is for; only on the unix socket it is the asking uid by itself",
        ));
    }
    let now = desk.ambient.now();
    let id = GlassId::from_parts(u64::try_from(now.as_millisecond()).unwrap_or(0), desk.ambient.random());
    // A job that makes a terminal for itself is no person who logged in.
    let job = caller.peer().zip(desk.house()).is_some_and(|(peer, house)| house.governs(&peer));
    let ask = Ask {
        by,
        login: caller.fresh_login(now).filter(|_| !job),
        uid,
        principal: word.principal,
        target: word.target.as_deref().map(TargetName::from),
        reason: vote::reason(word.reason.as_deref())?,
        ticket: word.ticket.map(|ticket| text::visible(text::clip(&ticket, 256).as_ref()).into_owned()),
        duration,
    };
    let not_yet = |detail: String| Problem::unavailable(format!("{detail}; the glass is not broken"));
    // Found and recorded under a name that nobody lifts by until both the log and the shelf have it.
    let mut trial = desk.keep.glass.lock().clone();
    let glass = trial.ask(now, id, &block, ask.clone()).map_err(problem)?;
    desk.record(EventKind::GlassBroken(Box::new(glass.clone())))
        .await
        .map_err(|error| not_yet(error.to_string()))?;
    desk.keep.put(id.to_string(), &glass).await.map_err(not_yet)?;
    let glass = desk.keep.glass.lock().ask(now, id, &block, ask).map_err(problem)?;
    tracing::warn!(glass = %id, rule = %glass.rule, by = glass.by.name(), until = %glass.ends_at, "the glass is broken");
    metrics::counter!("lockgate_breakglass_total").increment(1);
    desk.alert(EventType::GlassUsed, &glass);
    desk.wake();
    Ok(view::glass_of(&glass))
}

async fn end(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<Glass>, Problem> {
    caller.require_any(&[Role::Approver, Role::Admin])?;
    let known: GlassId = id.parse().map_err(|_| unknown(&id))?;
    let now = desk.ambient.now();
    let glass = desk.keep.glass.lock().end(now, known).ok_or_else(|| unknown(&id))?;
    let by = caller.as_approver();
    desk.settle_glass(&glass).await;
    let recorded = desk.record(EventKind::GlassEnded { glass: glass.id, by: Some(by) }).await;
    desk.alert(EventType::GlassEnded, &glass);
    desk.wake();
    recorded.map_err(|error| {
        Problem::unavailable(format!("it is over, but that could not be recorded: {error}"))
    })?;
    Ok(Json(view::glass_of(&glass)))
}

async fn review(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
    body: Body,
) -> Result<Json<Glass>, Problem> {
    let reviewed = look(&desk, &caller, &id, body).await;
    reviewed.map(Json).inspect_err(|problem| refused(&desk, &caller, problem))
}

async fn look(desk: &Arc<Desk>, caller: &Caller, id: &str, body: Body) -> Result<Glass, Problem> {
    let known: GlassId = id.parse().map_err(|_| unknown(id))?;
    let word: Note = host::read(body).await?;
    let by = caller.approver()?;
    let note = vote::reason(word.note.as_deref())?;
    let before = desk.keep.glass.lock().find(known).cloned().ok_or_else(|| unknown(id))?;
    let review = desk.keep.glass.lock().review(desk.ambient.now(), known, by, note).map_err(problem)?;
    if let Err(error) = desk.record(EventKind::GlassReviewed { glass: known, review: review.clone() }).await {
        desk.keep.glass.lock().unreview(before);
        return Err(Problem::unavailable(format!("{error}; the review does not count, send it again")));
    }
    desk.settle_glass(&before).await;
    Ok(Glass { reviewed: Some(review), state: Some("reviewed"), ..view::glass_of(&before) })
}

fn refused(desk: &Arc<Desk>, caller: &Caller, problem: &Problem) {
    refusal::record(desk, &refusal::Caller::of(caller), Some(caller.id().to_owned()), None, None, problem);
}

fn unknown(id: &str) -> Problem {
    let id = text::visible(&text::clip(id, 64)).into_owned();
    let detail = format!("no use {id:?} of an emergency override is in force or waits for its review");
    Problem::new(StatusCode::NOT_FOUND, "unknown_override", "Unknown override", detail)
}

fn problem(refusal: GlassRefusal) -> Problem {
    let any = |codes: &[&str]| codes.contains(&refusal.code);
    let status = if any(&["not_authorized", "login_required", "requester"]) {
        StatusCode::FORBIDDEN
    } else if any(&["review_pending", "still_open"]) {
        StatusCode::CONFLICT
    } else if any(&["unknown_override"]) {
        StatusCode::NOT_FOUND
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    Problem::new(status, refusal.code, "The emergency override is refused", refusal.detail)
}
