//! Targets with their health, registering and removing one; governed sets with their coverage. A target registered here is the
//! same as one of a file or of the command line.

use super::{
    Console,
    form::{Fields, escaped},
    page::{Page, Refusal, Section, Visit, csrf},
    parts::{empty, fact, marked, number, said, time, word},
};
use crate::{
    api::{problem::Problem, targets::seen},
    auth::Role,
    draft::{Kept, Login, PROTOCOLS, TargetDraft},
    house::{Governed, Origin, TargetView},
};
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use lockgate_model::{
    Timestamp,
    session::{DefaultEffect, Mode, Protocol},
};
use maud::{Markup, html};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn list(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let fields = Fields::of_address(&visit.query);
    let probe = fields.text("health") == Some("ask");
    let targets = console.house()?.targets(probe).await?.into_iter();
    let targets: Vec<TargetView> = targets.map(|target| seen(target, &visit.caller)).collect();
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
                    @if !target.tags.is_empty() { dt { "Tags" } dd.chips { @for (key, value) in &target.tags { span.chip { span { (word(key)) ": " (word(value)) } } } } }
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

/// What lockgate may present, as the form names it.
const CREDENTIALS: [(&str, &str); 5] = [
    ("password", "a user and a password"),
    ("database", "PostgreSQL: a login made by the vault"),
    ("bearer", "HTTP: a bearer token"),
    ("header", "HTTP: another header"),
    ("none", "nothing (HTTP: the client's own)"),
];

fn register_form(visit: &Visit) -> Markup {
    let choice = |name: &str, values: &[(&str, &str)]| {
        html! { select id=(name) name=(name) { @for (value, shown) in values { option value=(value) { (shown) } } } }
    };
    let same = |values: &[&'static str]| values.iter().map(|value| (*value, *value)).collect::<Vec<_>>();
    let text = |name: &str, label: &str, hint: &str| {
        html! { div.field { label for=(name) { (label) @if !hint.is_empty() { " " span.hint { (hint) } } } input id=(name) name=(name) autocomplete="off"; } }
    };
    html! {
        section.card aria-labelledby="register" {
            h2 #register { "Register a target" }
            div.body {
                p.muted { "The credential is a reference to where it rests on this host or in a vault: never type a password here." }
                form.stack method="post" action="/targets" {
                    (csrf(&visit.caller))
                    div.cols {
                        div.field { label for="name" { "Name" } input #name name="name" required autocomplete="off"; }
                        div.field { label for="protocol" { "Protocol" } (choice("protocol", &same(&PROTOCOLS.map(Protocol::as_str)))) }
                        div.field { label for="mode" { "Mode" } (choice("mode", &same(&["enforce", "shadow", "observe"]))) }
                        div.field { label for="default" { "Where no rule decides" } (choice("default", &same(&["deny", "allow"]))) }
                    }
                    div.cols {
                        div.field { label for="addresses" { "Addresses " span.hint { "(host:port, one a line)" } } textarea.mono #addresses name="addresses" required {} }
                        div.field { label for="tags" { "Tags " span.hint { "(env: production, one a line)" } } textarea.mono #tags name="tags" {} }
                    }
                    fieldset {
                        legend { "How lockgate reaches it" }
                        div.cols {
                            div.field { label for="tls" { "TLS to the target" } (choice("tls", &same(&["verify-full", "verify-ca", "disable"]))) }
                            (text("ca", "CA file", "(empty: the system's)"))
                        }
                    }
                    fieldset {
                        legend { "What it presents there" }
                        div.cols {
                            div.field { label for="credential" { "Credential" } (choice("credential", &CREDENTIALS)) }
                            (text("user", "User", "(with a password)"))
                            (text("header", "Header's name", "(HTTP, such as x-api-key)"))
                            div.field { label for="source" { "The secret rests in" } (choice("source", &[("file", "a file of this host"), ("vault", "the vault")])) }
                            (text("reference", "Its path", ""))
                        }
                    }
                    fieldset {
                        legend { "Towards the clients" }
                        div.cols {
                            (text("client_ca", "CA for their TLS", "(a file)"))
                            (text("client_ca_key", "Its key", "(a file)"))
                            div.field { label for="remove_headers" { "Headers that do not go on " span.hint { "(HTTP, one a line)" } } textarea.mono #remove_headers name="remove_headers" {} }
                        }
                    }
                    div { button.primary { "Register this target" } }
                }
            }
        }
    }
}

/// The draft that the form describes.
fn draft(fields: &Fields) -> Result<TargetDraft, Refusal> {
    let lines = |name: &str| -> Vec<String> {
        let text = fields.text(name).unwrap_or_default();
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let tag = |line: String| -> Result<(String, String), Refusal> {
        let (key, value) = line.split_once([':', '=']).ok_or_else(|| {
            Problem::malformed(format!("tags: expected `key: value` on each line, got {line:?}"))
        })?;
        Ok((key.trim().to_owned(), value.trim().to_owned()))
    };
    let own = |name: &str| fields.text(name).map(str::to_owned);
    Ok(TargetDraft {
        name: fields.required("name")?.to_owned(),
        protocol: named(fields, "protocol")?
            .ok_or_else(|| Problem::malformed("the form's field `protocol` is missing"))?,
        addresses: lines("addresses"),
        tags: lines("tags").into_iter().map(tag).collect::<Result<_, _>>()?,
        mode: named(fields, "mode")?,
        default: named(fields, "default")?,
        tls: own("tls"),
        ca: own("ca"),
        credential: login(fields)?,
        remove_headers: lines("remove_headers"),
        client_ca: match (own("client_ca"), own("client_ca_key")) {
            (None, None) => None,
            (Some(ca), Some(key)) => Some((ca, key)),
            _ => {
                return Err(
                    Problem::malformed("towards the clients: expected a CA and its key, or neither").into()
                );
            }
        },
    })
}

/// A field that is one of a few names of the model.
fn named<T: serde::de::DeserializeOwned>(fields: &Fields, name: &str) -> Result<Option<T>, Refusal> {
    let Some(text) = fields.text(name) else { return Ok(None) };
    serde_json::from_value(json!(text))
        .map(Some)
        .map_err(|error| Problem::malformed(format!("{name}: {error}")).into())
}

fn login(fields: &Fields) -> Result<Option<Login>, Refusal> {
    let kept = || {
        fields.text("reference").map(|path| match fields.text("source") {
            Some("vault") => Kept::Vault(path.to_owned()),
            Some(_) | None => Kept::File(path.to_owned()),
        })
    };
    let must = || {
        kept().ok_or_else(|| {
            Problem::malformed("the form's field `reference` is missing: where the secret rests")
        })
    };
    let user = fields.text("user");
    Ok(match fields.text("credential") {
        Some("none") => None,
        Some("database") => Some(Login::Engine(fields.required("reference")?.to_owned())),
        Some("bearer") => Some(Login::Bearer(must()?)),
        Some("header") => Some(Login::Header(fields.required("header")?.to_owned(), must()?)),
        Some("password") => Some(Login::User(fields.required("user")?.to_owned(), kept())),
        Some(other) => return Err(Problem::malformed(format!("credential: {other:?} is none")).into()),
        None => user.map(|user| Login::User(user.to_owned(), kept())),
    })
}

pub(super) async fn register(State(console): State<Arc<Console>>, visit: Visit, body: Body) -> Response {
    let done = add(&console, &visit, body).await;
    console.done(&visit, done)
}

async fn add(console: &Console, visit: &Visit, body: Body) -> Result<(String, String), Refusal> {
    visit.caller.require(Role::Admin)?;
    let entry = draft(&Fields::read(body).await?)?.entry();
    let made = console.post(&visit.caller, "/v1/targets", &entry).await?;
    Ok(("/targets".to_owned(), format!("{} is registered and in force.", said(&made["name"]))))
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
    let fields = Fields::read(body).await?;
    let etag = fields.required("etag")?;
    console.delete(&visit.caller, &format!("/v1/targets/{}", escaped(name)), etag).await?;
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
    use serde_json::Value;

    #[test]
    fn a_form_makes_the_entry_of_a_file() {
        let common = "name=orders-db&addresses=10.0.0.1:5432%0D%0Adb:5432&tags=env:+production%0Apci%3Dtrue&tls=disable";
        let made = |more: &str| {
            Ok::<_, Refusal>(draft(&Fields::parse(format!("{common}&{more}").as_bytes()))?.entry())
        };
        let entry = made("protocol=postgres&mode=enforce&default=deny&credential=password&user=app&source=file&reference=/etc/p").unwrap();
        assert_eq!(
            entry,
            json!({
                "name": "orders-db", "protocol": "postgres", "addresses": ["10.0.0.1:5432", "db:5432"],
                "tags": { "env": "production", "pci": "true" }, "mode": "enforce", "default": "deny",
                "upstream": { "tls": "disable", "credential": { "user": "app", "password": { "file": "/etc/p" } } },
            })
        );
        for (more, credential) in [
            (
                "protocol=postgres&credential=database&reference=database/creds/app",
                json!({ "vault": "database/creds/app" }),
            ),
            (
                "protocol=http&credential=bearer&source=vault&reference=kv/shop",
                json!({ "bearer": { "vault": "kv/shop" } }),
            ),
            (
                "protocol=http&credential=header&header=x-api-key&reference=/etc/key",
                json!({ "header": { "name": "x-api-key", "value": { "file": "/etc/key" } } }),
            ),
            ("protocol=http&credential=none", Value::Null),
        ] {
            assert_eq!(made(more).unwrap()["upstream"]["credential"], credential, "{more}");
        }
        let http = made("protocol=http&credential=none&remove_headers=cookie%0Ax-internal&client_ca=/etc/ca.pem&client_ca_key=/etc/ca.key").unwrap();
        assert_eq!(http["upstream"]["remove_headers"], json!(["cookie", "x-internal"]));
        assert_eq!(http["client_tls"], json!({ "ca": "/etc/ca.pem", "ca_key": "/etc/ca.key" }));
        for bad in [
            "protocol=gopher",
            "protocol=postgres&mode=perhaps",
            "protocol=http&credential=bearer",
            "protocol=http&credential=header&reference=/etc/key",
            "protocol=http&credential=magic",
            "protocol=http&credential=none&client_ca=/etc/ca.pem",
            "",
        ] {
            assert!(made(bad).is_err(), "{bad}");
        }
        for bad in ["protocol=postgres&addresses=x:1", "name=x&protocol=postgres&addresses=x:1&tags=oops"] {
            assert!(draft(&Fields::parse(bad.as_bytes())).is_err(), "{bad}");
        }
    }
}
