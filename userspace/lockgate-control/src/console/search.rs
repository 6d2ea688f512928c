//! Full-text search over everything recorded, with filters, all of it in the address, so that a finding can be sent to a
//! colleague.

use super::{
    Console,
    form::Fields,
    page::{Page, Refusal, Section, Visit},
    parts::{empty, number, one_line, said, time, word},
    sessions::{local, moment},
};
use crate::{
    api::problem::Problem,
    auth::Role,
    house::{Found, Hit, SearchQuery},
};
use axum::{extract::State, response::Response};
use lockgate_model::Timestamp;
use maud::{Markup, html};
use std::sync::Arc;

/// Hits of one page.
const PAGE: usize = 50;

/// Bytes of a hit's text.
const HIT_TEXT: usize = 240;

/// Filters that take free text: name, label.
const WORDS: [(&str, &str); 5] = [
    ("identity", "Identity"),
    ("repository", "Repository"),
    ("target", "Target"),
    ("table", "Table"),
    ("approver", "Approver"),
];

const CLASSES: [&str; 10] =
    ["read", "transaction", "session", "copy_out", "write", "copy_in", "call", "ddl", "admin", "opaque"];

const DECISIONS: [&str; 7] = ["allowed", "denied", "held", "approved", "rejected", "expired", "cancelled"];

pub(super) async fn show(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

fn query(fields: &Fields) -> Result<SearchQuery, Refusal> {
    let text = |name| fields.text(name).map(str::to_owned);
    Ok(SearchQuery {
        text: text("q"),
        identity: text("identity"),
        repository: text("repository"),
        target: text("target"),
        table: text("table"),
        class: text("class"),
        decision: text("decision"),
        approver: text("approver"),
        event: text("event"),
        rule: text("rule"),
        digest: text("digest"),
        since: moment(fields, "since")?,
        until: moment(fields, "until")?,
        limit: Some(PAGE),
        before: text("before"),
        ..SearchQuery::default()
    })
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let fields = Fields::of_address(&visit.query);
    let asked = query(&fields)?;
    let blank = SearchQuery { limit: asked.limit, ..SearchQuery::default() } == asked;
    // By the API, which knows who may look for words.
    let found = if blank { None } else { Some(find(console, visit, &asked).await?) };
    let now = console.desk.ambient.now();
    let body = html! {
        div.head { h1 { "Search" } p { "Statements, reasons, names and decisions, over everything that is recorded." } }
        (form(&fields))
        @match &found {
            None => (empty("What are you looking for?", "Words of a statement, a reason or a name, an id, or any of the filters. The same from a shell:", "lockgate sessions search --table public.orders --decision denied")),
            Some(found) => (results(&fields, found, now)),
        }
    };
    Ok(Page::new("Search", Section::Search, body))
}

async fn find(console: &Console, visit: &Visit, asked: &SearchQuery) -> Result<Found, Refusal> {
    let answer = console.get(&visit.caller, &format!("/v1/search?{}", as_query(asked))).await?;
    let unreadable = |_| Problem::unavailable("the answer of the search cannot be read").into();
    serde_json::from_value(answer).map_err(unreadable)
}

fn as_query(asked: &SearchQuery) -> String {
    let asked = serde_json::to_value(asked).unwrap_or_default();
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in asked.as_object().into_iter().flatten() {
        query.append_pair(name, &said(value));
    }
    query.finish()
}

fn form(fields: &Fields) -> Markup {
    let given = |name| fields.text(name).unwrap_or_default();
    let choice = |name: &'static str, label: &'static str, values: &[&'static str]| {
        html! {
            div.field { label for={ "by-" (name) } { (label) } select id={ "by-" (name) } name=(name) {
                option value="" { "Any" }
                @for value in values { option value=(value) selected[*value == given(name)] { (value.replace('_', " ")) } }
            } }
        }
    };
    html! {
        form.filters method="get" action="/search" {
            div.field.wide { label for="by-q" { "Words" } input #by-q name="q" type="search" value=(given("q")) autocomplete="off"; }
            @for (name, label) in WORDS {
                div.field { label for={ "by-" (name) } { (label) } input id={ "by-" (name) } name=(name) value=(given(name)) autocomplete="off"; }
            }
            (choice("class", "Class", &CLASSES))
            (choice("decision", "Decision", &DECISIONS))
            div.field.when { label for="by-since" { "Since " span.hint { "UTC" } } input #by-since name="since" type="datetime-local" value=(local(given("since"))); }
            div.field.when { label for="by-until" { "Until " span.hint { "UTC" } } input #by-until name="until" type="datetime-local" value=(local(given("until"))); }
            div.row-actions { button.primary type="submit" { "Search" } a.button href="/search" { "Clear" } }
        }
    }
}

fn results(fields: &Fields, found: &Found, now: Timestamp) -> Markup {
    html! {
        p.muted.small role="status" {
            @if found.items.is_empty() { "Nothing" } @else { (found.items.len()) @if found.next.is_some() { " of more" } " found" }
            " in " (number(found.elapsed_micros.div_ceil(1_000))) " ms"
            @if !found.complete { ". The newest records are still being indexed: look again in a moment." }
        }
        @if found.items.is_empty() {
            (empty("Nothing fits", "Fewer words or a wider time may help. Literals of statements on masked tables are not kept, so they are never found.", ""))
        } @else {
            ol.inbox { @for hit in &found.items { (item(hit, now)) } }
            @if let Some(next) = &found.next {
                nav.pager aria-label="Pages" { span {} a href=(fields.with("before", Some(next))) rel="next" { "Older →" } }
            }
        }
    }
}

fn item(hit: &Hit, now: Timestamp) -> Markup {
    let href = match (hit.session, hit.request) {
        // A few records before it, so that it is seen in its place.
        (Some(session), _) => {
            format!("/sessions/{session}?after={}#r{}", hit.seq.saturating_sub(40), hit.seq)
        }
        (None, Some(request)) => format!("/approvals/{request}"),
        (None, None) => format!("/audit?record={}", hit.seq),
    };
    html! {
        li.item {
            div.pick { (decision(hit)) }
            div { a.title href=(href) { @if hit.text.is_empty() { (hit.event.replace('_', " ")) } @else { (one_line(&hit.text, HIT_TEXT)) } } }
            div.left.muted { @if let Some(at) = hit.at { (time(at, now)) } }
            div.meta {
                @if let Some(class) = &hit.class { span.chip { (word(class)) } }
                @if let Some(who) = hit.display.as_ref().or(hit.identity.as_ref()) { span { (word(who)) } }
                @if let Some(target) = &hit.target { span { "on " (word(target)) } }
                @for table in hit.tables.iter().take(3) { span.mono { (word(table)) } }
                @if let Some(repository) = &hit.repository { span { (word(repository)) } }
                @for approver in hit.approvers.iter().take(3) { span { "decided by " (word(approver)) } }
                @for rule in hit.rules.iter().take(3) { span { "rule " code { (word(rule)) } } }
                span.muted { "record " (number(hit.seq)) }
            }
        }
    }
}

fn decision(hit: &Hit) -> Markup {
    let Some(decision) = &hit.decision else { return html! { span.chip { (hit.event.replace('_', " ")) } } };
    let (class, sign) = match decision.as_str() {
        "allowed" | "approved" => ("chip good", "✓"),
        "denied" | "rejected" => ("chip bad", "✕"),
        "held" => ("chip warn", "◷"),
        _ => ("chip", "–"),
    };
    html! { span class=(class) { span aria-hidden="true" { (sign) } (word(decision)) } }
}
