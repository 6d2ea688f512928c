//! What TCP answers besides decisions: the page behind a notification's link, and health. A GET never decides:
//! mail scanners and chat previews open links.

use super::{PathId, decision, host, problem::Problem, slack};
use crate::{desk::Desk, house::Sight};
use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockgate_model::{BundleId, RequestId};
use serde::Deserialize;
use serde_json::json;
use std::sync::{Arc, atomic::Ordering};

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/approvals/{id}", get(view_case))
        .route("/v1/bundles/{id}", get(view_cases))
        .with_state(desk.clone())
        .merge(decisions(desk))
}

/// Decisions that integrations sign.
pub(super) fn decisions(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/approvals/{id}/decision", post(decision::post))
        .route("/v1/bundles/{id}/decision", post(decision::post_bundle))
        .with_state(desk.clone())
        .merge(slack::routes(desk))
}

pub(super) fn health(desk: Arc<Desk>) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready)).with_state(desk)
}

async fn ready(State(desk): State<Arc<Desk>>) -> Response {
    if desk.ready.load(Ordering::Relaxed) && !desk.drain.is_cancelled() {
        "ready\n".into_response()
    } else {
        Problem::unavailable("the agent is starting or stopping").into_response()
    }
}

/// The token of a notification's link.
#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    token: String,
}

type SentLink = Result<Query<Link>, QueryRejection>;

async fn view_case(State(desk): State<Arc<Desk>>, PathId(id): PathId, link: SentLink) -> Response {
    view(&desk, &id, link)
}

async fn view_cases(State(desk): State<Arc<Desk>>, PathId(id): PathId, link: SentLink) -> Response {
    view_bundle(&desk, &id, link)
}

pub(super) fn view(desk: &Desk, id: &str, link: SentLink) -> Response {
    page(show(desk, id, link.as_ref().map_or("", |Query(link)| &link.token)))
}

pub(super) fn view_bundle(desk: &Desk, id: &str, link: SentLink) -> Response {
    page(show_bundle(desk, id, link.as_ref().map_or("", |Query(link)| &link.token)))
}

fn page(shown: Result<String, Problem>) -> Response {
    match shown {
        Ok(body) => (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
                (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            ],
            body,
        )
            .into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// The token is judged before anything is looked up: without it nobody learns which requests exist.
fn show(desk: &Desk, id: &str, token: &str) -> Result<String, Problem> {
    let id =
        id.parse::<RequestId>().ok().filter(|id| desk.links.admits(*id, token)).ok_or_else(link_required)?;
    let waits = desk.registry.find(id).filter(|case| case.resolution().is_none());
    let case = waits.ok_or_else(|| {
        Problem::new(
            StatusCode::GONE,
            "link_expired",
            "The request is over",
            "the link lived as long as the request; `lockgate sessions show` on the host has its record",
        )
        .about(id)
    })?;
    Ok(format!("{:#}\n", json!(host::whole(desk, &case, Sight::Recorded))))
}

fn show_bundle(desk: &Desk, id: &str, token: &str) -> Result<String, Problem> {
    let id =
        id.parse::<BundleId>().ok().filter(|id| desk.links.admits(*id, token)).ok_or_else(link_required)?;
    let waits = desk.registry.find_bundle(id).filter(|bundle| bundle.outcome().is_none());
    let bundle = waits.ok_or_else(|| {
        let detail =
            "the link lived as long as the requests; `lockgate sessions show` on the host has their record";
        Problem::new(StatusCode::GONE, "link_expired", "The requests are over", detail)
    })?;
    Ok(format!("{:#}\n", json!(host::whole_bundle(desk, &bundle, Sight::Recorded))))
}

fn link_required() -> Problem {
    Problem::new(
        StatusCode::UNAUTHORIZED,
        "link_required",
        "This page opens by its full link",
        "open the whole link of the notification, or run `lockgate approvals show <id>` on the host",
    )
}
