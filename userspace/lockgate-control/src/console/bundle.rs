//! Requests that belong together, on one page, decided as one. Each keeps its own end.

use super::{
    Console,
    inside::plain_id,
    page::{Page, Refusal, Section, Visit, csrf, no_default},
    parts::{list, number, one_line, plural, risk, said, state, statement, word},
};
use crate::auth::Role;
use axum::{
    extract::{Path, State},
    response::Response,
};
use maud::{Markup, html};
use serde_json::Value;
use std::sync::Arc;

/// Requests shown with their whole text; of more, a line each.
const SHOWN_WHOLE: usize = 100;

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let page = look(&console, &visit, &id).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit, id: &str) -> Result<Page, Refusal> {
    let id = plain_id(id)?;
    let whole = console.get(&visit.caller, &format!("/v1/bundles/{id}")).await?;
    let requests = whole["requests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = requests.first().unwrap_or(&Value::Null);
    let waiting = requests.iter().filter(|request| request["state"] == "pending").count();
    let title = format!("{} statements as one", requests.len());
    let worst = ["critical", "high", "medium", "low"]
        .into_iter()
        .find(|risk| requests.iter().any(|request| request["operation"]["risk"] == *risk))
        .unwrap_or("low");
    let body = html! {
        p.crumb { a href="/approvals" data-up { "Approvals" } " / " code { (id) } }
        div.split {
            div {
                div.card { div.body {
                    h1.sentence {
                        strong { (number(requests.len() as u64)) " statements" } " on " strong { (word(&said(&first["target"]["name"]))) }
                        ", asked by " strong { (word(&said(&first["identity"]["display"]))) }
                    }
                    div.chips {
                        (state(if waiting > 0 { "pending" } else { "resolved" })) (risk(worst))
                        span.chip { (waiting) " still " (plural(waiting, "waits", "wait")) }
                    }
                    (kinds(requests))
                } }
                section.card aria-labelledby="all" {
                    h2 #all { "All of them, in order" }
                    div.body { ol.stack { @for (at, request) in requests.iter().enumerate() { (item(at, request)) } } }
                }
            }
            div.rail #decision {
                section.card aria-labelledby="decide-title" {
                    h2 #decide-title { "Decision on the bundle" }
                    div.body { (form(visit, id, &whole, waiting)) }
                }
            }
        }
        @if waiting > 0 && visit.caller.has(Role::Approver) { a.jump href="#decision" { "Decide ↓" } }
    };
    let state = format!("{waiting} {}", said(&whole["command_digest"]));
    Ok(Page::new(title, Section::Approvals, body).live("/approvals/live", state))
}

fn kinds(requests: &[Value]) -> Markup {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for request in requests {
        let kind = said(&request["operation"]["kind"]).replace('_', " ");
        match counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    html! { div.chips { @for (kind, count) in &counts { span.chip { (count) " × " (kind) } } } }
}

fn item(at: usize, request: &Value) -> Markup {
    let operation = &request["operation"];
    let text = operation["statement"].as_str().unwrap_or_default();
    html! {
        li.stack {
            p {
                span.muted.num { (at + 1) ". " }
                a href={ "/approvals/" (said(&request["id"])) } { (word(&said(&operation["kind"]).replace('_', " "))) }
                " " (state(&said(&request["state"]))) " " (risk(&said(&operation["risk"])))
                @if operation["bounded"] == false { " " span.chip.bad { "unbounded" } }
                " " span.muted.small { (list(&operation["tables_written"]).join(", ")) }
            }
            @if at < SHOWN_WHOLE { (statement(text)) } @else { code.sql { (one_line(text, 200)) } }
        }
    }
}

fn form(visit: &Visit, id: &str, whole: &Value, waiting: usize) -> Markup {
    if waiting == 0 {
        return html! { p { "Nothing of it waits any more." } };
    }
    if !visit.caller.has(Role::Approver) {
        return html! { p.note { "You see this and do not decide it: that takes the role approver." } };
    }
    html! {
        form #decide method="post" action={ "/bundles/" (id) "/decide" } {
            (csrf(&visit.caller))
            input type="hidden" name="command_digest" value=(said(&whole["command_digest"]));
            (no_default())
            div.field {
                label for="reason" { "Reason " span.hint { "(one for all, recorded with each)" } }
                textarea #reason name="reason" maxlength="4000" rows="2" {}
            }
            button.primary name="decision" value="approve" { "Approve all " (waiting) " once" }
            details #grant {
                summary { "And what else comes with them" }
                div.stack {
                    input type="hidden" name="covers" value="bundle";
                    p.small.muted { "Statements of the kinds shown here, of this run, may then pass without asking, until the time or the uses are over." }
                    div.field {
                        label for="for" { "For" }
                        select #for name="for" {
                            option value="5m" { "5 minutes" } option value="15m" selected { "15 minutes" } option value="1h" { "1 hour" }
                        }
                    }
                    div.field {
                        label for="uses" { "Uses " span.hint { "(empty: as often as they come)" } }
                        input #uses name="uses" type="number" inputmode="numeric" min="1";
                    }
                    button name="decision" value="grant" { "Approve all " (waiting) " and more like them" }
                }
            }
            button.danger name="decision" value="deny" { "Deny all " (waiting) }
        }
        p.small.muted { "Nothing that joins the bundle after you looked is decided with it." }
    }
}
