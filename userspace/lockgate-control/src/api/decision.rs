//! `POST /v1/approvals/{id}/decision`: an integration decides, by a Standard Webhooks request signed with its
//! decision secret. The body, in JSON:
//!
//! ```json
//! {"type": "lockgate.decision", "timestamp": "2026-11-21T10:00:00Z",
//!  "data": {"request_id": "req_…", "command_digest": "<64 hex>", "decision": "approve",
//!           "reason": "…", "decided_by": {"id": "ana@example.com", "groups": ["dba"]}}}
//! ```
//!
//! The signature is judged first, in constant time and before anything is parsed or remembered; whoever has
//! none leaves nothing behind but a (rate-limited) record.

use super::{
    PathId,
    problem::Problem,
    refusal::{self, Caller},
    replay::Claim,
    vote,
};
use crate::{
    approvals::{bundle::BundleCase, case::Case},
    desk::Desk,
    settings::Integration,
    text,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use lockgate_model::{
    RequestId, Timestamp,
    approval::{Vote, VoteDecision},
    id::GroupName,
    operation::Digest,
};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use utoipa::ToSchema;

/// Bytes of a decision: three times what Standard Webhooks asks senders to keep to.
pub(crate) const BODY_MAX: usize = 64 << 10;

/// A body that takes longer than this to arrive is not waited for.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a `webhook-timestamp` may be off, both ways (Standard Webhooks).
const TOLERANCE_SECONDS: u64 = 5 * 60;

/// Bytes of a `webhook-id` and of a decider's id.
const ID_MAX: usize = 256;

/// Groups that one decider may be said to have.
const GROUPS_MAX: usize = 256;

/// Answers a decision.
pub(super) async fn post(
    State(desk): State<Arc<Desk>>,
    PathId(path): PathId,
    parts: Parts,
    body: Body,
) -> Response {
    let mut about = About { caller: Caller::Anybody, by: None, case: None };
    match decide(&desk, &path, &parts.headers, body, &mut about).await {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => about.refuse(&desk, &path, problem),
    }
}

/// Answers a decision on a bundle: signed and shaped the same, with the bundle's id and digest for a request's.
pub(super) async fn post_bundle(
    State(desk): State<Arc<Desk>>,
    PathId(path): PathId,
    parts: Parts,
    body: Body,
) -> Response {
    let mut about = About { caller: Caller::Anybody, by: None, case: None };
    match decide_bundle(&desk, &path, &parts.headers, body, &mut about).await {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => about.refuse(&desk, &path, problem),
    }
}

/// What is known of a decision so far; what its refusal is recorded with.
struct About {
    caller: Caller,
    by: Option<String>,
    case: Option<Arc<Case>>,
}

impl About {
    fn refuse(self, desk: &Arc<Desk>, path: &str, mut problem: Problem) -> Response {
        let named: Option<RequestId> = path.parse().ok();
        problem.request = problem.request.or(named);
        let session = self.case.map(|case| case.request.session.id);
        refusal::record(desk, &self.caller, self.by, session, named, &problem);
        problem.into_response()
    }
}

/// A decision whose signature, age and id have been judged.
struct Verified<'a> {
    decision: Decision,
    integration: &'a Integration,
    claim: Claim<'a>,
    now: Timestamp,
}

async fn verified<'a>(
    desk: &'a Arc<Desk>,
    headers: &HeaderMap,
    body: Body,
    about: &mut About,
) -> Result<Verified<'a>, Problem> {
    let signed = Signed::of(headers)?;
    let body = read_body(body, BODY_MAX, BODY_TIMEOUT).await?;
    let now = desk.ambient.now();
    let integration = desk
        .integrations
        .iter()
        .find(|integration| integration.keys.verify(signed.id, signed.timestamp, &body, signed.signature))
        .ok_or_else(|| unsigned("the signature is not one of any configured decision_secret"))?;
    about.caller = Caller::Integration(integration.name.clone());
    check_age(signed.timestamp, now)?;
    // Held until the end: two copies of one message cannot race, and a refused one leaves nothing behind.
    let claim = desk.replays.claim(now, &integration.name, signed.id).ok_or_else(|| {
        let detail = format!("the webhook-id {} has had its effect; a repeat has none", show(signed.id));
        Problem::new(StatusCode::CONFLICT, "replayed", "This message was accepted before", detail)
    })?;
    let decision = Decision::read(&body)?;
    about.by = Some(format!("webhook:{}:{}", integration.name, decision.person()?));
    Ok(Verified { decision, integration, claim, now })
}

impl Verified<'_> {
    fn vote(&self, desk: &Desk) -> Result<Vote, Problem> {
        let (decision, integration) = (&self.decision, self.integration);
        let id = format!("webhook:{}:{}", integration.name, decision.person()?);
        let via = format!("webhook:{}", integration.name);
        Ok(Vote {
            by: desk.people.approver(id, decision.groups(integration)?, via),
            decision: decision.data.decision,
            reason: vote::reason(decision.data.reason.as_deref())?,
            at: self.now,
            grant: decision.data.grant.as_ref().map(vote::GrantWord::terms).transpose()?,
        })
    }
}

async fn decide_bundle(
    desk: &Arc<Desk>,
    path: &str,
    headers: &HeaderMap,
    body: Body,
    about: &mut About,
) -> Result<vote::CountedBundle, Problem> {
    let verified = verified(desk, headers, body, about).await?;
    let data = &verified.decision.data;
    let bundle = super::host::find_bundle(desk, path).ok_or_else(|| {
        let detail = format!("no bundle {} waits here, and none was resolved lately", show(path));
        Problem::new(StatusCode::NOT_FOUND, "unknown_request", "Unknown bundle", detail)
    })?;
    let cases = bundle.cases();
    about.case = cases.first().cloned();
    if data.request_id != bundle.id.to_string() {
        let detail = format!("the path names {}, the body {}", bundle.id, show(&data.request_id));
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "request_mismatch",
            "Path and body name different bundles",
            detail,
        ));
    }
    let cases = check_bundle_digest(&bundle, &data.command_digest)?;
    for case in &cases {
        refuse_own_uid(case, verified.decision.person()?)?;
    }
    let counted = vote::cast_all(cases, verified.vote(desk)?).await?;
    verified.claim.keep(verified.now);
    Ok(vote::counted_bundle(&bundle, counted))
}

/// A decision on a bundle is about what was shown, all of it and nothing that joined since.
pub(super) fn check_bundle_digest(bundle: &BundleCase, got: &str) -> Result<Vec<Arc<Case>>, Problem> {
    got.parse::<Digest>().ok().and_then(|digest| bundle.shown_as(digest)).ok_or_else(|| {
        let detail = format!(
            "expected command_digest {}, got {}; decide on what was notified last",
            bundle.digest(),
            show(got)
        );
        Problem::new(StatusCode::CONFLICT, "digest_mismatch", "Other commands", detail)
    })
}

async fn decide(
    desk: &Arc<Desk>,
    path: &str,
    headers: &HeaderMap,
    body: Body,
    about: &mut About,
) -> Result<vote::Counted, Problem> {
    let verified = verified(desk, headers, body, about).await?;
    let decision = &verified.decision;
    let case = find(desk, path, &decision.data.request_id)?;
    about.case = Some(case.clone());
    let digest = case.request.operation.digest;
    if decision.data.command_digest.parse::<Digest>() != Ok(digest) {
        let got = show(&decision.data.command_digest);
        let detail = format!("expected command_digest {digest}, got {got}; decide on what was notified");
        return Err(Problem::new(StatusCode::CONFLICT, "digest_mismatch", "Another command", detail)
            .about(case.request.id));
    }
    refuse_own_uid(&case, decision.person()?)?;
    let progress = vote::cast(&case, verified.vote(desk)?).await?;
    verified.claim.keep(verified.now);
    Ok(vote::counted(case.request.id, &progress))
}

/// An integration may name a decider by the uid that asks; who runs under it is the requester. (Names of
/// people are compared by the approval machine.)
pub(super) fn refuse_own_uid(case: &Case, person: &str) -> Result<(), Problem> {
    let named = person.strip_prefix("local:").or_else(|| person.strip_prefix("uid:"));
    let session = &case.request.session;
    let own = [session.flow.process.uid, session.workload.process.uid];
    match named.and_then(|uid| uid.trim().parse::<u32>().ok()) {
        Some(uid) if own.contains(&uid) => Err(requester(uid).about(case.request.id)),
        Some(_) | None => Ok(()),
    }
}

/// A uid decides on its own request.
pub(super) fn requester(uid: u32) -> Problem {
    let detail = format!("uid {uid} made this request; somebody else must decide");
    Problem::new(StatusCode::FORBIDDEN, "requester", "Nobody decides their own request", detail)
}

/// The request that the path and the body name.
fn find(desk: &Desk, path: &str, body: &str) -> Result<Arc<Case>, Problem> {
    let look_up = |text: &str| {
        text.parse().ok().and_then(|id| desk.registry.find(id)).ok_or_else(|| {
            let detail = format!("no request {} waits here, and none was resolved lately", show(text));
            Problem::new(StatusCode::NOT_FOUND, "unknown_request", "Unknown request", detail)
        })
    };
    let case = look_up(path)?;
    if look_up(body)?.request.id != case.request.id {
        let detail = format!("the path names {}, the body {}", case.request.id, show(body));
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "request_mismatch",
            "Path and body name different requests",
            detail,
        )
        .about(case.request.id));
    }
    Ok(case)
}

/// The three Standard Webhooks headers.
struct Signed<'a> {
    id: &'a str,
    timestamp: &'a str,
    signature: &'a str,
}

impl<'a> Signed<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Self, Problem> {
        let header = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
            match (value, values.next()) {
                (Some(value), None) => Ok(value),
                (_, Some(_)) => Err(unsigned(format!("expected one {name} header, got several"))),
                (None, None) => Err(unsigned(format!("expected a {name} header (Standard Webhooks)"))),
            }
        };
        let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
        if id.len() > ID_MAX {
            return Err(unsigned(format!("expected a webhook-id of at most {ID_MAX} bytes")));
        }
        Ok(Self { id, timestamp, signature: header("webhook-signature")? })
    }
}

fn unsigned(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "bad_signature", "Not signed by a configured integration", detail)
}

fn check_age(timestamp: &str, now: Timestamp) -> Result<(), Problem> {
    let sent: i64 =
        timestamp.parse().map_err(|_| Problem::malformed("expected webhook-timestamp in unix seconds"))?;
    let off = now.as_second().abs_diff(sent);
    if off > TOLERANCE_SECONDS {
        let detail = format!(
            "the webhook-timestamp is {off} s off; at most {TOLERANCE_SECONDS} s are accepted, check the clocks"
        );
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "stale", "Too old or from the future", detail));
    }
    Ok(())
}

/// A decision of an integration, signed as Standard Webhooks say.
#[derive(Deserialize, ToSchema)]
#[schema(as = SignedDecision)]
pub(crate) struct Decision {
    /// `lockgate.decision`
    r#type: String,
    /// Must be there and be a time; staleness is judged by the signed header.
    #[serde(rename = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    _timestamp: Timestamp,
    /// Who decides on what.
    data: Data,
}

/// Who decides on what.
#[derive(Deserialize, ToSchema)]
#[schema(as = SignedDecisionData)]
pub(crate) struct Data {
    /// `req_…` or `bnd_…`, as in the path.
    request_id: String,
    /// As it was notified.
    command_digest: String,
    /// `approve` or `deny`
    #[schema(value_type = String)]
    decision: VoteDecision,
    /// Why; some rules require it.
    #[serde(default)]
    reason: Option<String>,
    /// The person.
    decided_by: DecidedBy,
    /// With an approval: more than this once.
    #[serde(default)]
    grant: Option<vote::GrantWord>,
}

/// The person behind an integration's decision.
#[derive(Deserialize, ToSchema)]
pub(crate) struct DecidedBy {
    /// As the integration knows them.
    id: String,
    /// Their groups; those that the integration may speak for count.
    #[serde(default)]
    groups: Vec<String>,
}

impl Decision {
    fn read(body: &[u8]) -> Result<Self, Problem> {
        let decision: Self = serde_json::from_slice(body)
            .map_err(|error| Problem::malformed(format!("expected a lockgate.decision: {error}")))?;
        if decision.r#type != "lockgate.decision" {
            let got = show(&decision.r#type);
            return Err(Problem::malformed(format!("expected type lockgate.decision, got {got}")));
        }
        Ok(decision)
    }

    /// The decider's id, trimmed. How spellings of one person are folded is the machine's business; what
    /// cannot be seen has no place in a name.
    fn person(&self) -> Result<&str, Problem> {
        let id = self.data.decided_by.id.trim();
        let hidden = |c: char| text::is_deceptive(c) || c.is_control();
        if id.is_empty() || id.len() > ID_MAX || id.chars().any(hidden) {
            return Err(Problem::malformed(format!(
                "expected decided_by.id of 1 to {ID_MAX} bytes without control characters"
            )));
        }
        Ok(id)
    }

    /// The groups that both the decider has and the integration may speak for.
    fn groups(&self, integration: &Integration) -> Result<Vec<GroupName>, Problem> {
        let named = &self.data.decided_by.groups;
        if named.len() > GROUPS_MAX {
            return Err(Problem::malformed(format!(
                "expected at most {GROUPS_MAX} groups, got {}",
                named.len()
            )));
        }
        let spoken: Vec<GroupName> = integration
            .speaks_for
            .iter()
            .filter(|group| named.iter().any(|name| name == group.as_str()))
            .cloned()
            .collect();
        if spoken.is_empty() {
            let may = integration.speaks_for.iter().map(GroupName::as_str).collect::<Vec<_>>().join(", ");
            let detail =
                format!("{} may speak for [{may}]; decided_by.groups names none of these", integration.name);
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "group_not_spoken_for",
                "This integration does not speak for that group",
                detail,
            ));
        }
        Ok(spoken)
    }
}

/// A stranger's text in an error: short, and nothing in it hidden.
fn show(text: &str) -> String {
    format!("{:?}", text::visible(&text::clip(text, 80)))
}

/// Reads a body of at most `max` bytes within `time`.
pub(crate) async fn read_body(body: Body, max: usize, time: Duration) -> Result<Bytes, Problem> {
    match tokio::time::timeout(time, Limited::new(body, max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            "The body is too large",
            format!("expected at most {max} bytes"),
        )),
        Ok(Err(error)) => Err(Problem::malformed(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            "The body came too slowly",
            format!("expected it within {} s", time.as_secs()),
        )),
    }
}
