//! Sessions: those that run and those that ended, one of them as a timeline that grows while it runs, and ending one.

use super::{
    Console,
    form::Fields,
    inside::plain_id,
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{assurance, empty, fact, number, rough, said, time, word},
    timeline,
};
use crate::{
    api::{problem::Problem, sessions::sight},
    auth::Role,
    house::{SessionFilter, SessionRef, SessionSummary, SessionView},
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use lockgate_model::{SessionId, Timestamp, id::TargetName};
use maud::{Markup, html};
use serde_json::json;
use std::sync::Arc;

/// Sessions of one page.
const PAGE: usize = 100;

/// Records of one page of a timeline.
const STEPS: usize = 300;

pub(super) async fn list(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let fields = Fields::of_address(&visit.query);
    let filter = SessionFilter {
        since: moment(&fields, "since")?,
        until: moment(&fields, "until")?,
        target: fields.text("target").map(TargetName::from),
        principal: fields.text("who").map(str::to_owned),
        open: match fields.text("state") {
            Some("open") => Some(true),
            Some("ended") => Some(false),
            _ => None,
        },
        limit: Some(PAGE + 1),
    };
    let filtered =
        ["since", "until", "target", "who", "state"].iter().any(|name| fields.text(name).is_some());
    let mut sessions = console.house()?.sessions(filter).await?;
    let more = sessions.len() > PAGE;
    sessions.truncate(PAGE);
    let now = console.desk.ambient.now();
    let body = html! {
        div.head { h1 { "Sessions" } p { "Every connection of a governed job to a target, from its first byte to its last." } }
        (filters(&fields, filtered))
        @if sessions.is_empty() {
            @if filtered { (empty("Nothing fits these filters", "No recorded session fits them.", "")) }
            @else { (empty("No session yet", "When a governed process connects to a registered target, its session is recorded here. To make one:", "lockgate run -- psql -h HOST -c 'select 1'")) }
        } @else {
            (table(&sessions, now))
            @if let (true, Some(last)) = (more, sessions.last()) {
                nav.pager aria-label="Pages" { span {} a href=(fields.with("until", Some(&last.started.to_string()))) rel="next" { "Older sessions →" } }
            }
        }
    };
    Ok(Page::new("Sessions", Section::Sessions, body))
}

/// A time in the address: RFC 3339, or as a browser's field has it, then UTC.
pub(super) fn moment(fields: &Fields, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(text) = fields.text(name) else { return Ok(None) };
    let spelled = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    };
    let read = spelled.parse().map_err(|_| {
        let detail = format!("{name}: expected a time such as 2026-11-21T10:00 (UTC), got {text:?}");
        Refusal::from(Problem::malformed(detail))
    });
    read.map(Some)
}

fn filters(fields: &Fields, filtered: bool) -> Markup {
    let given = |name| fields.text(name).unwrap_or_default();
    html! {
        form.filters method="get" action="/sessions" {
            div.field { label for="by-who" { "Who" } input #by-who name="who" value=(given("who")) autocomplete="off"; }
            div.field { label for="by-target" { "Target" } input #by-target name="target" value=(given("target")) autocomplete="off"; }
            div.field { label for="by-state" { "State" } select #by-state name="state" {
                @for (value, name) in [("", "Any"), ("open", "Running"), ("ended", "Ended")] { option value=(value) selected[value == given("state")] { (name) } }
            } }
            div.field.when { label for="by-since" { "Since " span.hint { "UTC" } } input #by-since name="since" type="datetime-local" value=(local(given("since"))); }
            div.field.when { label for="by-until" { "Until " span.hint { "UTC" } } input #by-until name="until" type="datetime-local" value=(local(given("until"))); }
            div.row-actions { button type="submit" { "Filter" } @if filtered { a.button href="/sessions" { "Clear" } } }
        }
    }
}

/// What a browser's field for times takes.
pub(super) fn local(text: &str) -> &str {
    text.get(..16).unwrap_or(text)
}

fn table(sessions: &[SessionSummary], now: Timestamp) -> Markup {
    html! {
        div.table tabindex="0" role="region" aria-label="Sessions" {
            table {
                thead { tr { @for name in ["Began", "Who", "Target", "State", "Operations", "Lasted"] { th scope="col" { (name) } } } }
                tbody { @for session in sessions { tr {
                    td.nowrap { a.row href={ "/sessions/" (session.id) } { (time(session.started, now)) } }
                    td { (word(&session.principal.display)) " " (assurance(session.principal.assurance.as_str())) }
                    td { (word(session.target.as_str())) span.muted { " " (word(&session.database)) } }
                    td { (state(session)) }
                    td.num { (counts(session)) }
                    td.nowrap.num { (rough(session.ended.unwrap_or(now).duration_since(session.started).as_secs().unsigned_abs())) }
                } } }
            }
        }
    }
}

fn state(session: &SessionSummary) -> Markup {
    match (session.ended, session.closing) {
        (None, _) => html! { span.chip.info { span aria-hidden="true" { "●" } "running" } },
        (Some(_), Some(reason)) => html! { span.chip { (reason.as_str().replace('_', " ")) } },
        (Some(_), None) => html! { span.chip { "ended" } },
    }
}

fn counts(session: &SessionSummary) -> Markup {
    html! {
        (number(session.operations))
        @if session.denied > 0 { " " span.chip.bad { (number(session.denied)) " denied" } }
        @if session.held > 0 { " " span.chip.warn { (number(session.held)) " held" } }
    }
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
) -> Response {
    let page = one(&console, &visit, &id).await;
    console.answer(&visit, page)
}

async fn one(console: &Console, visit: &Visit, id: &str) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let asked: SessionRef =
        id.parse().map_err(|_| Problem::not_found("no session of that id is recorded here"))?;
    let fields = Fields::of_address(&visit.query);
    let after = fields.text("after").and_then(|after| after.parse().ok()).unwrap_or(0);
    let view = console.house()?.session(asked, after, STEPS, sight(&visit.caller)).await?;
    let now = console.desk.ambient.now();
    let SessionView { session, records, more } = &view;
    let body = html! {
        p.crumb { a href="/sessions" data-up { "Sessions" } " / " code { (session.id) } }
        div.split {
            div {
                div.head { h1 { (word(&session.principal.display)) " on " (word(session.target.as_str())) } }
                section aria-label="Timeline" #timeline data-live {
                    @if after > 0 { p { a href={ "/sessions/" (session.id) } { "← From the beginning" } } }
                    @if records.is_empty() { p.muted { "No record after this one yet." } }
                    (timeline::timeline(records, now))
                    @if let (true, Some(last)) = (*more, records.last()) {
                        p.pager { span {} a href={ "/sessions/" (session.id) "?after=" (last.seq) } rel="next" { "Go on →" } }
                    }
                }
            }
            div.rail {
                section.card #about data-live aria-labelledby="about-title" {
                    h2 #about-title { "This session" }
                    div.body {
                        p.chips { (state(session)) (assurance(session.principal.assurance.as_str())) }
                        dl.facts {
                            dt { "Identity" } dd { code { (word(&session.principal.id)) } }
                            (fact("Target", session.target.as_str()))
                            (fact("Database", &format!("{} as {}", session.database, session.upstream_user)))
                            (fact("Protocol", session.protocol.as_str()))
                            (fact("Node", session.node.as_str()))
                            dt { "Began" } dd { (time(session.started, now)) }
                            @if let Some(ended) = session.ended { dt { "Ended" } dd { (time(ended, now)) } }
                            dt { "Operations" } dd { (counts(session)) }
                            (timeline::who(records, now))
                        }
                    }
                }
                @if session.ended.is_none() { (kill_form(visit, session.id)) }
            }
        }
    };
    let title = format!("Session of {}", crate::text::visible(&session.principal.display));
    let page = Page::new(title, Section::Sessions, body);
    let state = if session.ended.is_some() { "ended" } else { "running" };
    Ok(if session.ended.is_some() {
        page
    } else {
        page.live(format!("/sessions/{}/live", session.id), state)
    })
}

fn kill_form(visit: &Visit, id: SessionId) -> Markup {
    if !visit.caller.has(Role::Admin) {
        return html! {};
    }
    html! {
        section.card aria-labelledby="kill-title" {
            h2 #kill-title { "End this session" }
            div.body {
                form method="post" action={ "/sessions/" (id) "/kill" } {
                    (csrf(&visit.caller))
                    div.field {
                        label for="why" { "Reason " span.hint { "(the client is told)" } }
                        input #why name="reason" required maxlength="4000" autocomplete="off";
                    }
                    button.danger { "End this session now" }
                }
            }
        }
    }
}

pub(super) async fn kill(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(id): Path<String>,
    body: Body,
) -> Response {
    let done = end(&console, &visit, &id, body).await;
    console.done(&visit, done)
}

async fn end(console: &Console, visit: &Visit, id: &str, body: Body) -> Result<(String, String), Refusal> {
    let id = plain_id(id)?;
    let fields = Fields::read(body).await?;
    let word = json!({ "reason": fields.required("reason")? });
    let killed = console.post(&visit.caller, &format!("/v1/sessions/{id}/kill"), &word).await?;
    let quoted = said(&killed["decision_id"]);
    Ok((format!("/sessions/{id}"), format!("The session was told to end; its client is quoted {quoted}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_browsers_write_them() {
        for (text, expected) in [
            ("2026-11-21", "2026-11-21T00:00:00Z"),
            ("2026-11-21T10:30", "2026-11-21T10:30:00Z"),
            ("2026-11-21T10:30:05", "2026-11-21T10:30:05Z"),
            ("2026-11-21T10:30:05Z", "2026-11-21T10:30:05Z"),
        ] {
            let fields = Fields::parse(format!("since={text}").as_bytes());
            assert_eq!(moment(&fields, "since").unwrap().unwrap().to_string(), expected);
        }
        assert!(moment(&Fields::parse(b"since=noon"), "since").is_err());
        assert!(moment(&Fields::parse(b""), "since").unwrap().is_none());
    }
}
