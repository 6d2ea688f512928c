//! From somebody's word to a counted vote; the same for every channel.

use super::{openapi::Need, problem::Problem};
use crate::{
    approvals::{
        bundle::BundleCase,
        case::{Ballot, BallotError, Case},
    },
    notify::event::EventType,
};
use axum::http::StatusCode;
use lockgate_model::{
    BundleId, RequestId, Timestamp,
    approval::{Progress, RequirementProgress, Resolution, Vote},
    grant::{AheadTerms, GrantTerms},
    sql::Risk,
    time::parse_duration,
};
use lockgate_policy::approval::{VoteRefusal, VoteRefusalCode};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::oneshot;
use utoipa::ToSchema;

/// Bytes of a reason: a paragraph, not a document.
const REASON_MAX: usize = 4_096;

/// A decision that counted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Counted {
    /// `req_…`
    #[schema(value_type = String)]
    request_id: RequestId,
    /// `counted`
    status: &'static str,
    /// Where the request stands now: `pending`, `approved` or `denied`.
    pub(crate) state: &'static str,
    /// Who is still needed.
    #[schema(value_type = Vec<Need>)]
    need: Vec<RequirementProgress>,
    /// When it is denied by itself.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// A decision on a bundle that counted.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct CountedBundle {
    /// `bnd_…`
    #[schema(value_type = String)]
    bundle_id: BundleId,
    /// `counted`
    status: &'static str,
    /// For how many requests.
    counted: usize,
    /// Where the bundle stands now: `pending`, `approved`, `denied` or `resolved`.
    pub(crate) state: &'static str,
    /// Each request's state.
    requests: Vec<WhereItStands>,
    /// Who is still needed, of the first that waits.
    #[schema(value_type = Vec<Need>)]
    need: Vec<RequirementProgress>,
}

/// Where one request of a bundle stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct WhereItStands {
    /// `req_…`
    #[schema(value_type = String)]
    request_id: RequestId,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    state: &'static str,
}

/// The answer to a decision that counted.
pub(super) fn counted(id: RequestId, progress: &Progress) -> Counted {
    Counted {
        request_id: id,
        status: "counted",
        state: state(progress.resolution.as_ref()),
        need: progress.requirements.clone(),
        expires_at: progress.expires_at,
    }
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

/// The answer to a decision on a bundle.
pub(super) fn counted_bundle(bundle: &BundleCase, counted: usize) -> CountedBundle {
    let cases = bundle.cases();
    let one = |case: &Arc<Case>| WhereItStands {
        request_id: case.request.id,
        state: self::state(case.resolution().as_ref()),
    };
    let waiting = cases.iter().find(|case| case.resolution().is_none());
    CountedBundle {
        bundle_id: bundle.id,
        status: "counted",
        counted,
        state: match bundle.outcome() {
            Some(EventType::Approved) => "approved",
            Some(EventType::Denied) => "denied",
            Some(_) => "resolved",
            None => "pending",
        },
        requests: cases.iter().map(one).collect(),
        need: waiting.map(|case| case.state.borrow().progress.requirements.clone()).unwrap_or_default(),
    }
}

/// A vote on every one of a bundle's requests that still waits; how many it counted for. When it counts for none, why it
/// did not for the first. A grant for the rest of the bundle is given once, with the first.
pub(super) async fn cast_all(cases: Vec<Arc<Case>>, mut vote: Vote) -> Result<usize, Problem> {
    let mut counted = 0;
    let mut refused = None;
    spell_out(&mut vote, &cases);
    for case in cases.iter().filter(|case| case.resolution().is_none()) {
        match cast(case, vote.clone()).await {
            Ok(_) => {
                counted += 1;
                vote.grant = vote.grant.filter(|grant| grant.ahead.is_none());
            }
            Err(problem) => drop(refused.get_or_insert(problem)),
        }
    }
    match (counted, refused) {
        (0, Some(problem)) => Err(problem),
        (0, None) => Err(resolved_problem("every request of the bundle is over".to_owned())),
        (counted, _) => Ok(counted),
    }
}

/// Whoever lets the rest pass and names no kinds means those that were shown. Spelled out, so that the record says what was
/// given.
fn spell_out<C: std::borrow::Borrow<Case>>(vote: &mut Vote, shown: &[C]) {
    let ahead = vote.grant.as_mut().and_then(|grant| grant.ahead.as_mut());
    let Some(ahead) = ahead.filter(|ahead| ahead.kinds.is_empty()) else { return };
    for case in shown {
        let facts = &case.borrow().request.operation.facts;
        ahead.kinds.insert(facts.kind().to_owned());
        ahead.risk = ahead.risk.max(facts.risk());
    }
}

/// What of a decision gives a grant.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GrantWord {
    /// `15m`
    #[serde(rename = "for")]
    duration: String,
    /// This often at most.
    #[serde(default)]
    uses: Option<u32>,
    /// How far it reaches.
    #[serde(default)]
    covers: GrantCovers,
    /// With `covers: bundle`: kinds of statements; those that were shown when there are none here.
    #[serde(default)]
    kinds: BTreeSet<String>,
    /// With `covers: bundle`: the highest risk.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    risk: Option<Risk>,
}

/// How far a grant reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GrantCovers {
    /// Statements of the same parsed shape.
    #[default]
    Shape,
    /// What else would be bundled with this.
    Bundle,
}

/// Kinds that one grant may name, and bytes of each: more than there are.
const KINDS_MAX: usize = 64;

impl GrantWord {
    pub(crate) fn terms(&self) -> Result<GrantTerms, Problem> {
        let duration = parse_duration(&self.duration)
            .map_err(|error| Problem::malformed(format!("grant.for: {error}")))?;
        if self.kinds.len() > KINDS_MAX
            || self.kinds.iter().any(|kind| kind.is_empty() || kind.len() > KINDS_MAX)
        {
            return Err(Problem::malformed(format!(
                "grant.kinds: expected at most {KINDS_MAX} kinds of statements"
            )));
        }
        let ahead = match self.covers {
            GrantCovers::Shape if !self.kinds.is_empty() || self.risk.is_some() => {
                let detail = "grant.kinds and grant.risk are for grants with `covers: bundle`";
                return Err(Problem::malformed(detail.to_owned()));
            }
            GrantCovers::Shape => None,
            // What was shown says; what is spelled out is a schema change at most, unless that is spelled out as well.
            GrantCovers::Bundle => {
                let usual = if self.kinds.is_empty() { Risk::Low } else { Risk::High };
                Some(AheadTerms { kinds: self.kinds.clone(), risk: self.risk.unwrap_or(usual) })
            }
        };
        Ok(GrantTerms { duration, uses: self.uses, ahead })
    }
}

/// Hands a vote to the request's task. Answers when it is recorded and has its effect, or is refused.
/// Dropping this future leaves the vote under way.
pub(super) async fn cast(case: &Case, mut vote: Vote) -> Result<Progress, Problem> {
    let id = case.request.id;
    spell_out(&mut vote, &[case]);
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
        VoteRefusalCode::GrantNotAllowed => {
            (StatusCode::UNPROCESSABLE_ENTITY, "grant_not_allowed", "This grant may not be given")
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
