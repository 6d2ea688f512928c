//! Forms that decide. What was shown is what is decided: every form carries the digest of what it showed, and the API refuses
//! any other.

use super::{
    Console,
    form::Fields,
    inside::plain_id,
    page::{Page, Refusal, Section, Visit},
    parts::word,
};
use crate::{api::problem::Problem, auth::Caller};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use maud::html;
use serde_json::{Value, json};
use std::sync::Arc;

/// Requests and bundles that one form decides: a page of them, and room for a second.
const TOGETHER_MAX: usize = 100;

/// What a button says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Approve,
    Grant,
    Deny,
}

impl Choice {
    fn of(fields: &Fields) -> Result<Self, Refusal> {
        match fields.required("decision")? {
            "approve" => Ok(Self::Approve),
            "grant" => Ok(Self::Grant),
            "deny" => Ok(Self::Deny),
            _ => Err(Problem::malformed("expected decision to be approve, grant or deny").into()),
        }
    }

    fn route(self) -> &'static str {
        match self {
            Self::Approve | Self::Grant => "approve",
            Self::Deny => "deny",
        }
    }
}

/// The body that the API takes, with the digest that the page showed.
fn word_of(fields: &Fields, choice: Choice, digest: &str) -> Result<Value, Refusal> {
    let mut word = json!({ "command_digest": digest, "reason": fields.text("reason") });
    if choice == Choice::Grant {
        let uses = fields.text("uses").map(str::parse::<u32>).transpose();
        let uses = uses
            .map_err(|_| Problem::malformed("expected the number of uses to be a whole number, or empty"))?;
        word["grant"] = json!({ "for": fields.required("for")?, "uses": uses });
        if fields.text("covers") == Some("bundle") {
            word["grant"]["covers"] = json!("bundle");
        }
    }
    Ok(word)
}

/// `POST /approvals/{id}/decide`
pub(super) async fn one(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
    body: Body,
) -> Response {
    let done = decide(&console, &visit.caller, "approvals", &id, body).await;
    console.done(&visit, done)
}

/// `POST /bundles/{id}/decide`
pub(super) async fn bundle(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
    body: Body,
) -> Response {
    let done = decide(&console, &visit.caller, "bundles", &id, body).await;
    console.done(&visit, done)
}

async fn decide(
    console: &Console,
    caller: &Caller,
    what: &str,
    id: &str,
    body: Body,
) -> Result<(String, String), Refusal> {
    let id = plain_id(id)?;
    let fields = Fields::read(body).await?;
    let choice = Choice::of(&fields)?;
    let word = word_of(&fields, choice, fields.required("command_digest")?)?;
    let path = format!("/v1/{what}/{id}/{}", choice.route());
    let answer = console.post(caller, &path, &word).await?;
    Ok((format!("/{what}/{id}"), said(choice, &answer)))
}

fn said(choice: Choice, answer: &Value) -> String {
    let counted = match choice {
        Choice::Approve => "Your approval counted.",
        Choice::Grant => "Your approval counted, with the grant.",
        Choice::Deny => "Your denial counted.",
    };
    let state = match answer["state"].as_str() {
        Some("approved") => "It is approved, and the job goes on.",
        Some("denied") => "It is denied, and the job is told why.",
        Some("pending") => "Others have to decide, too.",
        Some(_) | None => "",
    };
    format!("{counted} {state}").trim_end().to_owned()
}

/// `POST /approvals/decide`: what is selected in the inbox, each by itself, with one reason.
pub(super) async fn several(State(console): State<Arc<Console>>, visit: Visit, body: Body) -> Response {
    match all(&console, &visit.caller, body).await {
        Ok(Outcome { refused, said, .. }) if refused.is_empty() => {
            super::page::see_other("/approvals", Some(&said))
        }
        Ok(outcome) => console.answer(&visit, Ok(partly(&outcome))),
        Err(refusal) => console.refuse(&visit, &refusal),
    }
}

/// What became of each.
struct Outcome {
    counted: usize,
    refused: Vec<(String, Refusal)>,
    said: String,
}

async fn all(console: &Console, caller: &Caller, body: Body) -> Result<Outcome, Refusal> {
    let fields = Fields::read(body).await?;
    let choice = Choice::of(&fields)?;
    if choice == Choice::Grant {
        return Err(Problem::malformed("grants are given one by one, on the page of a request").into());
    }
    let picks: Vec<&str> = fields.all("pick").collect();
    if picks.is_empty() || picks.len() > TOGETHER_MAX {
        let detail = format!("select between 1 and {TOGETHER_MAX} requests; {} are selected", picks.len());
        return Err(Problem::malformed(detail).into());
    }
    let mut outcome = Outcome { counted: 0, refused: Vec::new(), said: String::new() };
    for pick in picks {
        let (id, digest) = pick.split_once(' ').ok_or_else(|| Problem::malformed("expected `id digest`"))?;
        let id = plain_id(id)?;
        let what = if id.starts_with("bnd_") { "bundles" } else { "approvals" };
        let word = word_of(&fields, choice, digest)?;
        match console.post(caller, &format!("/v1/{what}/{id}/{}", choice.route()), &word).await {
            Ok(_) => outcome.counted += 1,
            Err(refusal) => outcome.refused.push((format!("/{what}/{id}"), refusal)),
        }
    }
    let word = match choice {
        Choice::Approve | Choice::Grant => "approval",
        Choice::Deny => "denial",
    };
    outcome.said = format!("Your {word} counted for {} of those selected.", outcome.counted);
    Ok(outcome)
}

fn partly(outcome: &Outcome) -> Page {
    let body = html! {
        div.head { h1 { "Decided in part" } }
        @if outcome.counted > 0 { p.note.good role="status" { (outcome.said) } }
        div.note.bad role="alert" { p { (outcome.refused.len()) " did not count:" } }
        ul.stack { @for (path, refusal) in &outcome.refused { li.card { div.body {
            p { a href=(path) { code { (path.rsplit('/').next().unwrap_or_default()) } } " " span.chip.bad { (refusal.code) } }
            p { strong { (refusal.title) } ": " (word(&refusal.detail)) }
        } } } }
        p { a href="/approvals" data-up { "Back to the inbox" } }
    };
    Page::new("Decided in part", Section::Approvals, body)
}
