//! The emergency override: breaking the glass with reason and ticket, ending it, and the look that somebody takes at it.

use super::{
    Console,
    form::Fields,
    inside::plain_id,
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{empty, exact, fact, rough, said, time_of, word},
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use lockgate_model::Timestamp;
use maud::{Markup, html};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    let now = console.desk.ambient.now();
    let answer = console.get(&visit.caller, "/v1/breakglass").await?;
    let uses = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let body = html! {
        div.head { h1 { "Break-glass" } p { "For emergencies: a person lifts what policy lets them, for a short time. Everybody is told, everything is recorded, somebody has to look at it afterwards. What is denied for good stays denied, what is masked stays masked." } }
        @if uses.is_empty() {
            (empty("The glass is whole", "No emergency override is in force, and none waits for its review.", ""))
        } @else {
            ul { @for one in uses { (item(visit, one, now)) } }
        }
        (ask_form(console, visit, now))
    };
    Ok(Page::new("Break-glass", Section::Breakglass, body))
}

fn item(visit: &Visit, glass: &Value, now: Timestamp) -> Markup {
    let id = said(&glass["id"]);
    let live = glass["state"] == "in_force";
    html! { li.card id=(id) {
        header {
            h2 { (word(&said(&glass["by"]["name"]))) " broke " (word(&said(&glass["rule"]))) }
            @if live { span.chip.bad { "▲ in force" } } @else { span.chip.warn { "? waits for review" } }
        }
        div.body {
            dl.facts {
                (fact("Reason", &said(&glass["reason"])))
                (fact("Ticket", &said(&glass["ticket"])))
                (fact("Login", &said(&glass["login"])))
                @if glass["principal"].is_string() { (fact("For", &said(&glass["principal"]))) } @else { (fact("For", &format!("processes of uid {}", said(&glass["uid"])))) }
                (fact("Target", glass["target"].as_str().unwrap_or("every target")))
                dt { "Began" } dd { (time_of(&glass["began_at"], now).unwrap_or_default()) }
                @if let Some(ended) = time_of(&glass["ended_at"], now) { dt { "Ended by hand" } dd { (ended) } }
                @else { dt { @if live { "Ends" } @else { "Ended" } } dd { (time_of(&glass["ends_at"], now).unwrap_or_default()) } }
                @if glass["review"].is_object() {
                    dt { "Review" } dd { "by " (word(&said(&glass["review"]["by"]))) ", due " (time_of(&glass["review"]["due"], now).unwrap_or_default())
                        @if glass["review"]["blocks_next_use"] == true { "; it cannot be used again before" } }
                }
            }
            @if live {
                form method="post" action={ "/breakglass/" (id) "/end" } { (csrf(&visit.caller)) button.danger { "End this override now" } }
            } @else {
                form.stack method="post" action={ "/breakglass/" (id) "/review" } {
                    (csrf(&visit.caller))
                    div.field { label for={ "note-" (id) } { "What you found" } textarea id={ "note-" (id) } name="note" maxlength="4000" {} }
                    div { button.primary { "I looked at it" } }
                }
            }
        }
    } }
}

fn ask_form(console: &Console, visit: &Visit, now: Timestamp) -> Markup {
    let policy = console.desk.keep.policy.as_ref().map(|policy| policy.load_full());
    // A browser is no user of this host: it says whose sessions it means.
    let own = visit.caller.uid().is_some();
    let blocks: Vec<_> = policy.iter().flat_map(|policy| policy.glass()).collect();
    html! {
        section.card aria-labelledby="ask" {
            h2 #ask { "Break the glass" }
            div.body {
                @if blocks.is_empty() {
                    p.muted { "The policy in force has no " code { "break_glass" } " block, so there is nothing to break." }
                } @else {
                    @match visit.caller.fresh_login(now) {
                        Some(how) => p.note.good { "A person has just logged in: " (word(&how)) "." },
                        None => p.note.warn { "This takes a login of the last " (rough(crate::FRESH_LOGIN.as_secs())) "." @if visit.caller.csrf().is_some() { " " a href="/login?next=%2Fbreakglass&fresh=1" { "Log in again" } " first." } },
                    }
                    form.stack method="post" action="/breakglass" {
                        (csrf(&visit.caller))
                        div.cols {
                            div.field { label for="rule" { "Override" } select #rule name="rule" { @for block in &blocks { option value=(block.id) { (block.id) } } } }
                            div.field { label for="ticket" { "Ticket" } input #ticket name="ticket" maxlength="256" autocomplete="off"; }
                            div.field { label for="for" { "For " span.hint { "(15m; empty: as long as it may)" } } input #for name="for" autocomplete="off"; }
                            div.field { label for="principal" { "Whose sessions " span.hint { @if own { "(a principal; empty: your own)" } @else { "(a principal, such as uid:1000)" } } } input #principal name="principal" required[!own] autocomplete="off"; }
                            div.field { label for="target" { "Target " span.hint { "(empty: every target)" } } input #target name="target" autocomplete="off"; }
                        }
                        div.field { label for="reason" { "Reason" } textarea #reason name="reason" required maxlength="4000" {} }
                        div { button.danger { "Break the glass and alert everybody" } }
                    }
                }
            }
        }
    }
}

pub(super) async fn ask(State(console): State<Arc<Console>>, visit: Visit, body: Body) -> Response {
    let done = break_it(&console, &visit, body).await;
    console.done(&visit, done)
}

async fn break_it(console: &Console, visit: &Visit, body: Body) -> Result<(String, String), Refusal> {
    let fields = Fields::read(body).await?;
    let mut word = json!({ "rule": fields.required("rule")? });
    for name in ["reason", "ticket", "for", "principal", "target"] {
        if let Some(text) = fields.text(name) {
            word[name] = json!(text);
        }
    }
    let answer = console.post(&visit.caller, "/v1/breakglass", &word).await?;
    let until = answer["ends_at"].as_str().and_then(|at| at.parse().ok()).map(exact).unwrap_or_default();
    Ok(("/breakglass".to_owned(), format!("The glass is broken until {until}. Everybody is being told.")))
}

pub(super) async fn end(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let done = async {
        let id = plain_id(&id)?;
        console.post(&visit.caller, &format!("/v1/breakglass/{id}/end"), &Value::Null).await?;
        Ok(("/breakglass".to_owned(), "The override is over.".to_owned()))
    };
    let done = done.await;
    console.done(&visit, done)
}

pub(super) async fn review(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
    body: Body,
) -> Response {
    let done = async {
        let id = plain_id(&id)?;
        let fields = Fields::read(body).await?;
        let word = json!({ "note": fields.text("note") });
        console.post(&visit.caller, &format!("/v1/breakglass/{id}/review"), &word).await?;
        Ok(("/breakglass".to_owned(), "Your review is recorded.".to_owned()))
    };
    let done = done.await;
    console.done(&visit, done)
}
