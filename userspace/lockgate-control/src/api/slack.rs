//! `POST /v1/channels/{name}/slack`: clicks on a card's buttons, and the reason that was asked for.
//!
//! Slack waits three seconds for an answer, so it gets one as soon as its signature is judged; the vote is cast after
//! that, like everybody's ([`super::vote`]), and its effect shows on the card. What does not count is whispered to who
//! clicked. Slack's word says which user of which workspace clicked, and no more: who that is and may, configuration says.

use super::{
    decision::{self, BODY_TIMEOUT},
    problem::Problem,
    refusal::{self, Caller},
    vote,
};
use crate::{
    desk::Desk,
    notify::slack::{APPROVE, DENY, Meant, Place, REASON, REASON_BLOCK, REASON_INPUT, Slack},
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse, Response},
    routing::post,
};
use lockgate_model::{
    RequestId,
    approval::{Vote, VoteDecision},
    id::GroupName,
    principal::Approver,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a payload: it repeats the card, percent-encoded.
const BODY_MAX: usize = 256 << 10;

/// How far a timestamp may be off, both ways (Slack's documentation: five minutes).
const TOLERANCE_SECONDS: u64 = 5 * 60;

/// Clicks being acted on at once; each holds at most a few calls to Slack.
const ACTING_MAX: usize = 64;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    let acting = Arc::new(tokio::sync::Semaphore::new(ACTING_MAX));
    Router::new().route("/v1/channels/{name}/slack", post(receive)).with_state((desk, acting))
}

type Shared = (Arc<Desk>, Arc<tokio::sync::Semaphore>);

async fn receive(
    State((desk, acting)): State<Shared>,
    Path(name): Path<String>,
    parts: Parts,
    body: Body,
) -> Response {
    let Some(slack) = desk.channels.slack(&name) else {
        return Problem::not_found("no Slack channel of this name is configured").into_response();
    };
    let payload = match verified(&desk, &slack, &parts.headers, body).await {
        Ok(payload) => payload,
        Err((caller, problem)) => {
            refusal::record(&desk, &caller, None, None, None, &problem);
            return problem.into_response();
        }
    };
    let click = match Click::read(&payload) {
        Ok(Some(click)) => click,
        // A link that was opened, a modal that was closed, or something that is not ours.
        Ok(None) => return StatusCode::OK.into_response(),
        Err(wrong) => return Json(wrong).into_response(),
    };
    let Ok(place) = acting.try_acquire_owned() else {
        return Problem::unavailable("too many clicks at once; click again").into_response();
    };
    let later = desk.clone();
    desk.cases.spawn_on(
        async move {
            act(&later, &slack, click).await;
            drop(place);
        },
        &desk.runtime,
    );
    StatusCode::OK.into_response()
}

/// The payload, once its signature, age and newness are judged.
async fn verified(
    desk: &Arc<Desk>,
    slack: &Slack,
    headers: &HeaderMap,
    body: Body,
) -> Result<Value, (Caller, Problem)> {
    let anybody = |problem| (Caller::Anybody, problem);
    let header = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let value = values.next().and_then(|value| value.to_str().ok()).filter(|_| values.next().is_none());
        value.ok_or_else(|| anybody(unsigned(format!("expected one {name} header"))))
    };
    let (timestamp, signature) = (header("x-slack-request-timestamp")?, header("x-slack-signature")?);
    let body = decision::read_body(body, BODY_MAX, BODY_TIMEOUT).await.map_err(anybody)?;
    if !slack.signed(timestamp, &body, signature) {
        return Err(anybody(unsigned("the signature is not one of this channel's signing_secret")));
    }
    let known = |problem| (Caller::Slack(slack.name().to_owned()), problem);
    let now = desk.ambient.now();
    let sent: i64 = timestamp
        .parse()
        .map_err(|_| known(Problem::malformed("expected X-Slack-Request-Timestamp in unix seconds")))?;
    let off = now.as_second().abs_diff(sent);
    if off > TOLERANCE_SECONDS {
        let detail = format!("the timestamp is {off} s off; at most {TOLERANCE_SECONDS} s are accepted");
        return Err(known(Problem::new(
            StatusCode::UNAUTHORIZED,
            "stale",
            "Too old or from the future",
            detail,
        )));
    }
    let claim = desk.replays.claim(now, &format!("slack:{}", slack.name()), signature).ok_or_else(|| {
        let detail = "this very message was accepted before; a repeat has no effect";
        known(Problem::new(StatusCode::CONFLICT, "replayed", "This message was accepted before", detail))
    })?;
    let mut fields = form_urlencoded::parse(&body);
    let payload = fields.find(|(name, _)| name == "payload").map(|(_, value)| value.into_owned());
    let payload = payload.and_then(|text| serde_json::from_str(&text).ok());
    let payload =
        payload.ok_or_else(|| known(Problem::malformed("expected a form with a JSON `payload`")))?;
    claim.keep(now);
    Ok(payload)
}

fn unsigned(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "bad_signature", "Not signed by Slack for this channel", detail)
}

/// A decision on its way.
struct Click {
    team: String,
    user: String,
    user_team: Option<String>,
    trigger: String,
    word: Word,
    reason: Option<String>,
}

/// What a modal carries while somebody writes a reason.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Word {
    value: String,
    approve: bool,
    channel: String,
    ts: String,
}

impl Click {
    /// None for what asks for nothing; an answer for the modal when it lacks a reason.
    fn read(payload: &Value) -> Result<Option<Self>, Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (word, reason) = match payload["type"].as_str() {
            Some("block_actions") => {
                let action = &payload["actions"][0];
                let approve = match action["action_id"].as_str() {
                    Some(APPROVE) => true,
                    Some(DENY) => false,
                    Some(_) | None => return Ok(None),
                };
                let place = &payload["container"];
                let word = Word {
                    value: text(&action["value"]),
                    approve,
                    channel: text(&place["channel_id"]),
                    ts: text(&place["message_ts"]),
                };
                (word, None)
            }
            Some("view_submission") if payload["view"]["callback_id"] == REASON => {
                let view = &payload["view"];
                let metadata = view["private_metadata"].as_str().unwrap_or_default();
                let Ok(word) = serde_json::from_str(metadata) else { return Ok(None) };
                let reason = text(&view["state"]["values"][REASON_BLOCK][REASON_INPUT]["value"]);
                if reason.trim().is_empty() {
                    let errors = json!({ REASON_BLOCK: "This rule requires a reason." });
                    return Err(json!({ "response_action": "errors", "errors": errors }));
                }
                (word, Some(reason))
            }
            Some(_) | None => return Ok(None),
        };
        Ok(Some(Self {
            // Where an app is installed for a whole organisation, `team` may be null; then nobody of it decides.
            team: text(&payload["team"]["id"]),
            user: text(&payload["user"]["id"]),
            user_team: payload["user"]["team_id"].as_str().map(str::to_owned),
            trigger: text(&payload["trigger_id"]),
            word,
            reason,
        }))
    }

    fn id(&self) -> String {
        format!("slack:{}:{}", self.user_team.as_deref().unwrap_or(&self.team), self.user)
    }

    fn place(&self) -> Place {
        Place { channel: self.word.channel.clone(), ts: self.word.ts.clone() }
    }
}

async fn act(desk: &Arc<Desk>, slack: &Arc<Slack>, click: Click) {
    let meant = slack.meant_by(desk, &click.word.value);
    let acted = match &meant {
        Some(meant) => decide(desk, slack, &click, meant).await,
        None => Err(Problem::not_found(
            "this card is about no request that waits here, or about something else by now; look at its link",
        )),
    };
    if let Some(meant) = &meant {
        slack.refresh(desk, &meant.about(), &click.place()).await;
    }
    if let Err(problem) = acted {
        let first = meant.as_ref().and_then(|meant| meant.cases().into_iter().next());
        let session = first.as_ref().map(|case| case.request.session.id);
        let request: Option<RequestId> = first.map(|case| case.request.id);
        let caller = Caller::Slack(slack.name().to_owned());
        refusal::record(desk, &caller, Some(click.id()), session, request, &problem);
        let text = format!("Your click does not count. {}: {}", problem.title, problem.detail);
        slack.whisper(desk, &click.place(), &click.user, &text).await;
    }
}

async fn decide(desk: &Arc<Desk>, slack: &Arc<Slack>, click: &Click, meant: &Meant) -> Result<(), Problem> {
    let ours =
        click.team == slack.team() && click.user_team.as_deref().is_none_or(|team| team == slack.team());
    if !ours || click.user.is_empty() {
        return Err(not_authorized("only members of the configured workspace decide here"));
    }
    let by = identify(desk, slack, click).await?;
    let cases = meant.cases();
    for case in &cases {
        for id in std::iter::once(&by.id).chain(&by.also) {
            decision::refuse_own_uid(case, id)?;
        }
    }
    let wants_reason = |requirement: &lockgate_model::verdict::Requirement| requirement.require_reason;
    let needs_reason = cases.iter().any(|case| case.request.spec.requirements.iter().any(wants_reason));
    let waits = cases.iter().any(|case| case.resolution().is_none());
    if needs_reason && waits && click.reason.is_none() {
        let word = json!(click.word);
        let asked = slack.ask_reason(desk, &click.trigger, &meant.about(), &word, click.word.approve).await;
        return asked.map_err(|error| {
            Problem::unavailable(format!("this rule requires a reason, and Slack cannot ask for it: {error}"))
        });
    }
    let vote = Vote {
        by,
        decision: if click.word.approve { VoteDecision::Approve } else { VoteDecision::Deny },
        reason: vote::reason(click.reason.as_deref())?,
        at: desk.ambient.now(),
        grant: None,
    };
    match meant {
        Meant::Case(case) => vote::cast(case, vote).await.map(drop),
        Meant::Bundle(_, cases) => vote::cast_all(cases.clone(), vote).await.map(drop),
    }
}

/// Who clicked: a member of the workspace whom configuration puts in a policy group, by user id or by the confirmed
/// address of somebody in `people:`.
async fn identify(desk: &Arc<Desk>, slack: &Arc<Slack>, click: &Click) -> Result<Approver, Problem> {
    let id = format!("slack:{}:{}", slack.team(), click.user);
    let by_email = slack.approvers().values().flatten().any(|entry| entry.contains('@'));
    // Somebody known elsewhere by an address counts once, so Slack is asked unless it cannot matter.
    let ask = by_email || !(desk.people.is_empty() || desk.people.know(&id));
    let email = if ask {
        let member = slack
            .member(&click.user, &*desk.ambient)
            .await
            .map_err(|error| not_authorized(format!("who you are could not be established: {error}")))?;
        member.email.filter(|email| desk.people.know(email))
    } else {
        None
    };
    let is = |entry: &String| {
        let folded = |text: &str| lockgate_policy::approval::fold(text);
        *entry == click.user || email.as_ref().is_some_and(|email| folded(email) == folded(entry))
    };
    let groups: Vec<GroupName> = slack
        .approvers()
        .iter()
        .filter(|(_, members)| members.iter().any(is))
        .map(|(group, _)| group.clone())
        .collect();
    if groups.is_empty() {
        return Err(not_authorized(format!("{id} is in none of this channel's `approvers`")));
    }
    let via = format!("slack:{}", slack.name());
    Ok(desk.people.approver_as(id, email.as_deref(), groups, via))
}

fn not_authorized(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "not_authorized", "You do not decide this", detail)
}

#[cfg(test)]
mod tests;
