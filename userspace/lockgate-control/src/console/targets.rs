//! Targets with their health, registering and removing one; governed sets with their coverage. A target registered here is the
//! same as one of a file or of the command line.

use super::{
    Console,
    form::{Fields, escaped},
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{empty, fact, marked, number, time, word},
};
use crate::{
    api::{problem::Problem, sessions::actor},
    auth::Role,
    house::{Governed, Origin, Registration, TargetView},
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use lockgate_model::{
    Timestamp,
    id::TargetName,
    session::{DefaultEffect, Mode},
};
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) async fn list(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let fields = Fields::of_address(&visit.query);
    let probe = fields.text("health") == Some("ask");
    let targets = console.house()?.targets(probe).await?;
    let now = console.desk.ambient.now();
    let body = html! {
        div.head {
            h1 { "Targets" }
            div.row-actions { a.button href="/targets?health=ask" { "Ask whether they answer" } }
            p { "What governed jobs reach through lockgate, with credentials that they never see." }
        }
        @if targets.is_empty() {
            (empty("No target is registered", "Register one below, in the configuration file under targets:, or with:", "lockgate targets add FILE"))
        } @else {
            ul { @for target in &targets { (item(visit, target, now)) } }
        }
        @if visit.caller.has(Role::Admin) { (register_form(visit)) }
        @else { p.note { "Registering and removing targets takes the role admin." } }
    };
    Ok(Page::new("Targets", Section::Targets, body))
}

fn mode(mode: Mode) -> Markup {
    match mode {
        Mode::Enforce => html! { span.chip.good { "✓ enforce" } },
        Mode::Shadow => html! { span.chip.warn { "shadow: only says what it would do" } },
        Mode::Observe => html! { span.chip.warn { "observe: lets everything pass" } },
    }
}

fn item(visit: &Visit, target: &TargetView, now: Timestamp) -> Markup {
    let removable = target.origin == Origin::Registered && visit.caller.has(Role::Admin);
    html! {
        li.card id={ "target-" (escaped(target.name.as_str())) } {
            header {
                h2 { (word(target.name.as_str())) }
                span.chips {
                    (mode(target.mode))
                    @match &target.health {
                        None => {},
                        Some(health) if health.reachable => span.chip.good { "✓ answers" },
                        Some(_) => span.chip.bad { "✕ does not answer" },
                    }
                }
            }
            div.body {
                @if let Some(health) = target.health.as_ref().filter(|health| !health.reachable) {
                    p.note.bad { (word(health.detail.as_deref().unwrap_or("no reason was given"))) " (asked " (time(health.asked_at, now)) ")" }
                }
                dl.facts {
                    (fact("Protocol", &target.protocol))
                    dt { "Addresses" }
                    dd { @for address in &target.addresses { div { code { (word(address)) }
                        @if let Some(names) = target.resolved.iter().find(|(name, _)| address.starts_with(name.as_str())) {
                            span.muted { " is now " (names.1.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }
                        }
                    } } }
                    (fact("Served to callers at", target.listen.as_deref().unwrap_or_default()))
                    @if !target.tags.is_empty() { dt { "Tags" } dd.chips { @for (key, value) in &target.tags { span.chip { (word(key)) ": " (word(value)) } } } }
                    dt { "Where no rule decides" }
                    dd { @match target.default { DefaultEffect::Allow => "it passes", DefaultEffect::Deny => "it is denied" } }
                    dt { "Registered" }
                    dd { @match target.origin { Origin::Configuration => "in the configuration file", Origin::Registered => "here, by file, command line or API" } }
                    dt { "Open sessions" }
                    dd { a href={ "/sessions?state=open&target=" (escaped(target.name.as_str())) } { (number(target.open_sessions)) } }
                }
                @if let Some(definition) = &target.definition {
                    details id={ "definition-" (escaped(target.name.as_str())) } { summary { "Definition" } pre tabindex="0" aria-label="Definition" { code { (marked(&format!("{definition:#}"))) } } }
                }
                @if removable {
                    form.row-actions method="post" action={ "/targets/" (escaped(target.name.as_str())) "/remove" } {
                        (csrf(&visit.caller))
                        input type="hidden" name="etag" value=(target.etag);
                        button.danger { "Remove " (word(target.name.as_str())) }
                    }
                }
            }
        }
    }
}

fn register_form(visit: &Visit) -> Markup {
    let choice = |name: &str, values: &[&str]| html! { select id=(name) name=(name) { @for value in values { option value=(value) { (value) } } } };
    html! {
        section.card aria-labelledby="register" {
            h2 #register { "Register a target" }
            div.body {
                p.muted { "The credential is a reference to where it rests on this host or in a vault: never type a password here." }
                form.stack method="post" action="/targets" {
                    (csrf(&visit.caller))
                    div.cols {
                        div.field { label for="name" { "Name" } input #name name="name" required autocomplete="off"; }
                        div.field { label for="protocol" { "Protocol" } (choice("protocol", &["postgres"])) }
                        div.field { label for="mode" { "Mode" } (choice("mode", &["enforce", "shadow", "observe"])) }
                        div.field { label for="default" { "Where no rule decides" } (choice("default", &["deny", "allow"])) }
                    }
                    div.cols {
                        div.field { label for="addresses" { "Addresses " span.hint { "(host:port, one a line)" } } textarea.mono #addresses name="addresses" required {} }
                        div.field { label for="tags" { "Tags " span.hint { "(env: production, one a line)" } } textarea.mono #tags name="tags" {} }
                    }
                    div.cols {
                        div.field { label for="tls" { "TLS to the target" } (choice("tls", &["verify-full", "verify-ca", "disable"])) }
                        div.field { label for="ca" { "CA file " span.hint { "(empty: the system's)" } } input #ca name="ca" autocomplete="off"; }
                        div.field { label for="user" { "User" } input #user name="user" autocomplete="off"; }
                        div.field { label for="source" { "Password rests in" } select #source name="source" { option value="file" { "a file" } option value="vault" { "the vault" } option value="database" { "the vault's database engine" } } }
                        div.field { label for="reference" { "Its path" } input #reference name="reference" autocomplete="off"; }
                    }
                    div { button.primary { "Register this target" } }
                }
            }
        }
    }
}

/// The same fields as an entry of `targets:`.
fn definition(fields: &Fields) -> Result<Value, Refusal> {
    let lines = |name: &str| -> Vec<String> {
        let text = fields.text(name).unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let mut tags = Map::new();
    for line in lines("tags") {
        let (key, value) = line.split_once([':', '=']).ok_or_else(|| {
            Problem::malformed(format!("tags: expected `key: value` on each line, got {line:?}"))
        })?;
        tags.insert(key.trim().to_owned(), json!(value.trim()));
    }
    let mut credential = Map::new();
    if let Some(user) = fields.text("user") {
        credential.insert("user".to_owned(), json!(user));
    }
    if let Some(reference) = fields.text("reference") {
        match fields.text("source") {
            Some("database") => credential.insert("vault".to_owned(), json!(reference)),
            Some("vault") => credential.insert("password".to_owned(), json!({ "vault": reference })),
            _ => credential.insert("password".to_owned(), json!({ "file": reference })),
        };
    }
    let mut upstream =
        json!({ "tls": fields.text("tls").unwrap_or("verify-full"), "credential": credential });
    if let Some(ca) = fields.text("ca") {
        upstream["ca"] = json!(ca);
    }
    Ok(json!({
        "name": fields.required("name")?,
        "protocol": fields.required("protocol")?,
        "addresses": lines("addresses"),
        "tags": tags,
        "mode": fields.text("mode").unwrap_or("enforce"),
        "default": fields.text("default").unwrap_or("deny"),
        "upstream": upstream,
    }))
}

pub(super) async fn register(State(console): State<Arc<Console>>, visit: Visit, body: Body) -> Response {
    let done = add(&console, &visit, body).await;
    console.done(&visit, done)
}

async fn add(console: &Console, visit: &Visit, body: Body) -> Result<(String, String), Refusal> {
    visit.caller.require(Role::Admin)?;
    let fields = Fields::read(body).await?;
    let registration = Registration { target: definition(&fields)?, replaces: None };
    let made = console.house()?.register(registration, actor(&visit.caller)).await?;
    Ok(("/targets".to_owned(), format!("{} is registered and in force.", made.name)))
}

pub(super) async fn remove(
    State(console): State<Arc<Console>>,
    visit: Visit,
    Path(name): Path<String>,
    body: Body,
) -> Response {
    let done = take_away(&console, &visit, &name, body).await;
    console.done(&visit, done)
}

async fn take_away(
    console: &Console,
    visit: &Visit,
    name: &str,
    body: Body,
) -> Result<(String, String), Refusal> {
    visit.caller.require(Role::Admin)?;
    let fields = Fields::read(body).await?;
    let etag = fields.required("etag")?.to_owned();
    console.house()?.unregister(TargetName::from(name), Some(etag), actor(&visit.caller)).await?;
    Ok(("/targets".to_owned(), "The target is removed; nothing new is redirected to it.".to_owned()))
}

pub(super) async fn governed(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = sets(&console, &visit).await;
    console.answer(&visit, page)
}

async fn sets(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let governed = console.house()?.governed().await?;
    let now = console.desk.ambient.now();
    let body = html! {
        div.head { h1 { "Governed sets" } p { "Whose connections are redirected, and whether all of them are." } }
        (coverage(&governed, now))
        @if governed.items.is_empty() {
            (empty("Nobody is governed", "Name control groups, units or users under govern: in the configuration, or start a command with:", "lockgate run -- COMMAND"))
        } @else {
            div.table tabindex="0" role="region" aria-label="Governed sets" { table {
                thead { tr { @for name in ["By", "Which", "Mode", "What is no target"] { th scope="col" { (name) } } } }
                tbody { @for set in &governed.items { tr {
                    td { (set.by.replace('_', " ")) }
                    td { code { (word(&set.value)) } }
                    td { (word(&set.mode)) }
                    td { (word(&set.unregistered)) }
                } } }
            } }
        }
    };
    Ok(Page::new("Governed sets", Section::Governed, body))
}

fn coverage(governed: &Governed, now: Timestamp) -> Markup {
    let it = &governed.coverage;
    let tile = |name: &str, count: u64, should_be_zero: bool| {
        html! { div.card { div.body { div {
            div.big { (number(count)) }
            p.muted { (name) }
            @if should_be_zero && count > 0 { span.chip.bad { "✕ should be none" } }
        } } } }
    };
    html! {
        @if governed.whole { p.note.good { "✓ Everything that governed processes do passes lockgate, as far as the kernel says, since " (time(it.since, now)) "." } }
        @else { p.note.bad role="alert" { "✕ Something does not pass lockgate. The numbers below say what." } }
        div.cols {
            (tile("connections redirected", it.redirected, false))
            (tile("went past lockgate", it.bypassed, true))
            (tile("processes not governed", it.not_governed, true))
            (tile("refusals untold", it.untold, true))
            (tile("hooks attached", it.hooks, false))
        }
        @if !it.hooks_lost.is_empty() || !it.layers_missing.is_empty() || it.deaf.is_some() {
            dl.facts {
                (fact("Hooks lost", &it.hooks_lost.join(", ")))
                (fact("Layers missing", &it.layers_missing.join(", ")))
                (fact("Reports", &it.deaf.clone().unwrap_or_default()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_makes_the_entry_of_a_file() {
        let body = "name=orders-db&protocol=postgres&addresses=10.0.0.1:5432%0D%0Adb:5432&tags=env:+production%0Apci%3Dtrue&tls=disable&user=app&source=file&reference=/etc/p";
        let made = definition(&Fields::parse(body.as_bytes())).unwrap();
        assert_eq!(
            made,
            json!({
                "name": "orders-db", "protocol": "postgres", "addresses": ["10.0.0.1:5432", "db:5432"],
                "tags": { "env": "production", "pci": "true" }, "mode": "enforce", "default": "deny",
                "upstream": { "tls": "disable", "credential": { "user": "app", "password": { "file": "/etc/p" } } },
            })
        );
        assert!(definition(&Fields::parse(b"name=x&protocol=postgres&tags=oops")).is_err());
        assert!(definition(&Fields::parse(b"protocol=postgres")).is_err());
    }
}
