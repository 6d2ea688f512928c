//! From somebody's word to a counted vote; the same for every channel.

use super::problem::Problem;
use crate::approvals::case::{Ballot, BallotError, Case};
use axum::http::StatusCode;
use lockgate_model::{
    RequestId,
    approval::{Progress, Resolution, Vote},
};
use lockgate_policy::approval::{VoteRefusal, VoteRefusalCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Bytes of a reason: a paragraph, not a document.
const REASON_MAX: usize = 4_096;

/// The body of an answer to a decision that counted.
pub(super) fn counted(id: RequestId, progress: &Progress) -> Value {
    json!({
        "request_id": id,
        "status": "counted",
        "state": state(progress.resolution.as_ref()),
        "need": progress.requirements,
        "expires_at": progress.expires_at,
    })
}

/// Where a request stands, in one word.
pub(super) fn state(resolution: Option<&Resolution>) -> &'static str {
    resolution.map_or("pending", Resolution::as_str)
}

/// The reason as it is kept: trimmed, made visible (it reaches terminals), None when blank.
pub(super) fn reason(text: Option<&str>) -> Result<Option<String>, Problem> {
    let text = text.map(str::trim).filter(|text| !text.is_empty());
    match text {
        Some(text) if text.len() > REASON_MAX => Err(Problem::malformed(format!(
            "expected a reason of at most {REASON_MAX} bytes, got {}",
            text.len()
        ))),
        Some(text) => Ok(Some(crate::text::visible(text).into_owned())),
        None => Ok(None),
    }
}

/// Hands a vote to the request's task. Answers when it is recorded and has its effect, or is refused.
/// Dropping this future leaves the vote under way.
pub(super) async fn cast(case: &Case, vote: Vote) -> Result<Progress, Problem> {
    let id = case.request.id;
    if let Some(resolution) = case.resolution() {
        return Err(over(&resolution).about(id));
    }
    let (reply, answer) = oneshot::channel();
    let sent = case.ballots.send(Ballot { vote, reply }).await.is_ok();
    let answered = if sent { answer.await.ok() } else { None };
    match answered {
        Some(Ok(progress)) => Ok(progress),
        Some(Err(BallotError::Refused(refusal))) => Err(refused(refusal).about(id)),
        Some(Err(BallotError::Record(error))) => {
            tracing::error!(request = %id, %error, "recording a vote");
            Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "record_failed",
                "The decision could not be recorded",
                format!("{error}; the decision does not count, send it again"),
            )
            .about(id))
        }
        Some(Err(BallotError::TooMany(max))) => Err(Problem::new(
            StatusCode::CONFLICT,
            "too_many_votes",
            "No more votes are taken",
            format!("{max} have voted and it is still not decided; deny it by letting it expire"),
        )
        .about(id)),
        // The task ended between the look above and the vote.
        None => Err(case
            .resolution()
            .map_or_else(|| Problem::unavailable("the request is no longer served"), |it| over(&it))
            .about(id)),
    }
}

fn refused(refusal: VoteRefusal) -> Problem {
    let (status, code, title) = match refusal.code {
        VoteRefusalCode::NotAuthorized => {
            (StatusCode::FORBIDDEN, "not_authorized", "This group does not decide this request")
        }
        VoteRefusalCode::Requester => {
            (StatusCode::FORBIDDEN, "requester", "Nobody decides their own request")
        }
        VoteRefusalCode::Excluded => (StatusCode::FORBIDDEN, "excluded", "Policy excludes this person"),
        VoteRefusalCode::Duplicate => (StatusCode::CONFLICT, "duplicate_vote", "One person counts once"),
        VoteRefusalCode::Resolved => return resolved_problem(refusal.detail),
        VoteRefusalCode::Expired => return expired_problem(refusal.detail),
        VoteRefusalCode::ReasonRequired => {
            (StatusCode::UNPROCESSABLE_ENTITY, "reason_required", "A reason is required")
        }
    };
    Problem::new(status, code, title, refusal.detail)
}

fn over(resolution: &Resolution) -> Problem {
    match resolution {
        Resolution::Expired => expired_problem("the request expired before this decision".to_owned()),
        Resolution::Approved { .. } | Resolution::Denied { .. } | Resolution::Withdrawn { .. } => {
            resolved_problem(format!("the request is already {}", resolution.as_str()))
        }
    }
}

fn expired_problem(detail: String) -> Problem {
    Problem::new(StatusCode::GONE, "expired", "The request has expired", detail)
}

fn resolved_problem(detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, "already_resolved", "The request is over", detail)
}
