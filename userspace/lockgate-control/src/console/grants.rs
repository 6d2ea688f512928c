//! Grants in force: who may do what without asking until when, and taking one back.

use super::{
    Console,
    form::Fields,
    inside::plain_id,
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{self, empty, one_line, said, time_of, word},
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use maud::{Markup, html};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    let now = console.desk.ambient.now();
    let answer = console.get(&visit.caller, "/v1/grants").await?;
    let grants = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |grant: &Value| -> Markup {
        let id = said(&grant["id"]);
        html! { li.card id=(id) {
            header {
                h2 { (word(&said(&grant["principal"]))) " on " (word(&said(&grant["target"]))) }
                span.small { "ends " (time_of(&grant["expires_at"], now).unwrap_or_default()) }
            }
            div.body {
                code.sql { (one_line(&said(&grant["shape"]), 600)) }
                p.small.muted {
                    "Given by " (word(&list_of(&grant["given_by"]))) " " (time_of(&grant["made_at"], now).unwrap_or_default())
                    " with " a href={ "/approvals/" (said(&grant["request_id"])) } { (said(&grant["request_id"])) }
                    ", for the rule " (word(&list_of(&grant["rules"]))) ". Used " (said(&grant["used"]))
                    @match grant["uses"].as_u64() { Some(uses) => { " of " (uses) " times." }, None => { " times, without a limit." } }
                }
                form.row-actions method="post" action={ "/grants/" (id) "/revoke" } {
                    (csrf(&visit.caller))
                    label.sr for={ "why-" (id) } { "Reason to revoke" }
                    input id={ "why-" (id) } name="reason" placeholder="Reason" maxlength="4000" autocomplete="off";
                    button.danger { "Revoke this grant now" }
                }
            }
        } }
    };
    let body = html! {
        div.head { h1 { "Grants" } p { "Approvals that reach further than once. Open sessions lose one the moment it is revoked." } }
        @if grants.is_empty() {
            (empty("No grant is in force", "An approver can approve an operation for a time or a number of uses, on the page of a request or with:", "lockgate approvals approve req_… --for 15m --uses 5"))
        } @else { ul { @for grant in grants { (row(grant)) } } }
    };
    Ok(Page::new("Grants", Section::Grants, body))
}

fn list_of(value: &Value) -> String {
    parts::list(value).join(", ")
}

pub(super) async fn revoke(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
    body: Body,
) -> Response {
    let done = take_back(&console, &visit, &id, body).await;
    console.done(&visit, done)
}

async fn take_back(
    console: &Console,
    visit: &Visit,
    id: &str,
    body: Body,
) -> Result<(String, String), Refusal> {
    let id = plain_id(id)?;
    let fields = Fields::read(body).await?;
    let word = json!({ "reason": fields.text("reason") });
    console.post(&visit.caller, &format!("/v1/grants/{id}/revoke"), &word).await?;
    Ok(("/grants".to_owned(), "The grant is revoked; whoever used it is asked again.".to_owned()))
}
