//! The policy in force: its rules and files, what it makes of an operation and why, and its own tests.

use super::{
    Console,
    form::{Fields, escaped},
    page::{Page, Refusal, Section, Visit},
    parts::{empty, plural, said, time, word},
};
use crate::{
    auth::Role,
    house::{ExplainQuery, Explained, PolicyTest, PolicyView},
    text::visible,
};
use axum::{extract::State, response::Response};
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use std::sync::Arc;

pub(super) async fn show(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit).await;
    console.answer(&visit, page)
}

async fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    visit.caller.require(Role::Viewer)?;
    let fields = Fields::of_address(&visit.query);
    let policy = console.house()?.policy().await?;
    // What is wrong with a question is said beside the form, which keeps what was typed.
    let explained = match given(&fields) {
        Some(given) => Some(console.house()?.explain(ExplainQuery::Given(given)).await),
        None => None,
    };
    let tests = match fields.text("tests") {
        Some("run") => Some(console.house()?.test().await?),
        _ => None,
    };
    let now = console.desk.ambient.now();
    let body = html! {
        div.head { h1 { "Policies" } p { "Version " code { (policy.version) } ", in force since " (time(policy.loaded_at, now)) "." } }
        (state(&policy))
        section.card aria-labelledby="explain" {
            h2 #explain { "What would it say?" }
            div.body {
                (form(&fields))
                @match &explained {
                    None => {},
                    Some(Ok(explained)) => { @for one in explained { (explanation(one)) } },
                    Some(Err(error)) => p.note.bad role="alert" { (word(&error.to_string())) },
                }
            }
        }
        section.card aria-labelledby="tests" {
            header { h2 #tests { "Its own tests" } a.button href="/policies?tests=run#tests" { "Run them" } }
            div.body { @match &tests { None => p.muted { "Policies carry tests; they run without touching anything." }, Some(tests) => (outcome(tests)) } }
        }
        (rules(&policy))
        (files(&policy))
    };
    Ok(Page::new("Policies", Section::Policies, body))
}

fn state(policy: &PolicyView) -> Markup {
    html! {
        @if !policy.rejected.is_empty() {
            div.note.bad role="alert" { div { p { strong { "A changed policy was not taken over; this one stays in force." } } ul { @for error in &policy.rejected { li { code { (word(error)) } } } } } }
        }
        @if !policy.warnings.is_empty() {
            div.note.warn { ul { @for warning in &policy.warnings { li { (word(warning)) } } } }
        }
    }
}

/// A policy test's `given:`, of the form's fields.
fn given(fields: &Fields) -> Option<Value> {
    let statement = fields.text("statement")?;
    let mut given = json!({ "statement": statement });
    let mut identity = Map::new();
    for name in ["repository", "workflow", "ref", "assurance", "user"] {
        if let Some(text) = fields.text(name) {
            identity.insert(name.to_owned(), json!(text));
        }
    }
    if !identity.is_empty() {
        given["identity"] = Value::Object(identity);
    }
    let mut target = Map::new();
    if let Some(name) = fields.text("target") {
        target.insert("name".to_owned(), json!(name));
    }
    let tags: Map<String, Value> = fields
        .text("tags")
        .into_iter()
        .flat_map(|tags| tags.split([',', '\n']))
        .filter_map(|tag| tag.split_once([':', '=']))
        .map(|(key, value)| (key.trim().to_owned(), json!(value.trim())))
        .collect();
    if !tags.is_empty() {
        target.insert("tags".to_owned(), Value::Object(tags));
    }
    if !target.is_empty() {
        given["target"] = Value::Object(target);
    }
    if fields.text("in_transaction").is_some() {
        given["in_transaction"] = json!(true);
    }
    Some(given)
}

fn form(fields: &Fields) -> Markup {
    let value = |name| fields.text(name).unwrap_or_default();
    html! {
        form.stack method="get" action="/policies#explain" {
            div.field { label for="statement" { "Statement" } textarea.mono #statement name="statement" required { (value("statement")) } }
            div.cols {
                div.field { label for="target" { "Target" } input #target name="target" value=(value("target")) autocomplete="off"; }
                div.field { label for="tags" { "Its tags " span.hint { "(env: production, pci: true)" } } input #tags name="tags" value=(value("tags")) autocomplete="off"; }
                div.field { label for="repository" { "Repository" } input #repository name="repository" value=(value("repository")) autocomplete="off"; }
                div.field { label for="workflow" { "Workflow" } input #workflow name="workflow" value=(value("workflow")) autocomplete="off"; }
                div.field { label for="ref" { "Ref" } input #ref name="ref" value=(value("ref")) autocomplete="off"; }
                div.field { label for="assurance" { "Assurance" } select #assurance name="assurance" {
                    option value="" { "attested" }
                    @for name in ["platform", "kernel", "claimed"] { option value=(name) selected[name == value("assurance")] { (name) } }
                } }
            }
            label { input type="checkbox" name="in_transaction" value="yes" checked[fields.text("in_transaction").is_some()]; " Inside a transaction" }
            div { button.primary { "Explain" } }
        }
    }
}

fn effect(effect: &str) -> Markup {
    match effect {
        "allow" => html! { span.chip.good { "✓ allow" } },
        "deny" => html! { span.chip.bad { "✕ deny" } },
        "require_approval" | "hold" => html! { span.chip.warn { "◷ require approval" } },
        other => html! { span.chip { (word(&other.replace('_', " "))) } },
    }
}

fn explanation(one: &Explained) -> Markup {
    let rules = one.explanation["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (matched, others): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule["matched"] == true);
    html! {
        div.stack role="status" {
            p { (effect(&one.effect)) " " code.sql { (super::parts::one_line(&one.statement, 400)) } }
            @if matched.is_empty() { p { "No rule matches; the target's default decides." } }
            @for rule in &matched { (trace(rule, true)) }
            @if !others.is_empty() {
                details { summary { (others.len()) " " (plural(others.len(), "rule does", "rules do")) " not match, and why" }
                    div.stack { @for rule in &others { (trace(rule, false)) } } }
            }
        }
    }
}

fn trace(rule: &Value, open: bool) -> Markup {
    html! {
        details open[open] {
            summary {
                code { (word(&said(&rule["rule"]))) } " " (effect(&said(&rule["effect"])))
                @if rule["mode"] != "enforce" { " " span.chip { (word(&said(&rule["mode"]))) } }
                span.muted.small { " " (word(&said(&rule["file"]))) ":" (said(&rule["line"])) }
            }
            div.table tabindex="0" role="region" aria-label={ "Conditions of " (visible(&said(&rule["rule"]))) } { table {
                thead { tr { @for name in ["Holds", "Condition", "Wanted", "Came"] { th scope="col" { (name) } } } }
                tbody { @for condition in rule["conditions"].as_array().into_iter().flatten() { tr {
                    td { @if condition["holds"] == true { "✓ yes" } @else { "✕ no" } }
                    td { code { (word(&said(&condition["key"]))) } }
                    td { (word(&said(&condition["wanted"]))) }
                    td { (word(&said(&condition["got"]))) }
                } } }
            } }
        }
    }
}

fn outcome(tests: &[PolicyTest]) -> Markup {
    let failed = tests.iter().filter(|test| !test.passed).count();
    html! {
        @if tests.is_empty() { p { "The policy in force carries no tests." } }
        @else if failed == 0 { p.note.good role="status" { "✓ " (tests.len()) " of " (tests.len()) " " (plural(tests.len(), "test passes", "tests pass")) "." } }
        @else { p.note.bad role="alert" { "✕ " (failed) " of " (tests.len()) " " (plural(failed, "test fails", "tests fail")) "." } }
        ul.stack { @for test in tests { li {
            @if test.passed { span.chip.good { "✓ passed" } } @else { span.chip.bad { "✕ failed" } }
            " " (word(&test.name)) span.muted.small { " " (word(&test.file)) ":" (test.line) }
            @if !test.failures.is_empty() { ul { @for failure in &test.failures { li { (word(failure)) } } } }
        } } }
    }
}

fn rules(policy: &PolicyView) -> Markup {
    html! {
        section.card aria-labelledby="rules" {
            h2 #rules { "Rules, in their order" }
            div.body {
                @if policy.rules.is_empty() { (empty("No rule", "Every target's default decides.", "")) }
                ol.chips { @for rule in &policy.rules { li id={ "rule-" (escaped(rule)) } { a.chip href={ "/search?rule=" (escaped(rule)) } title="What it decided" { (word(rule)) } } } }
            }
        }
    }
}

fn files(policy: &PolicyView) -> Markup {
    html! {
        @for (at, file) in policy.files.iter().enumerate() {
            section.card aria-label=(visible(&file.path)) {
                header { h2 { code { (word(&file.path)) } } span.small.muted { (file.text.lines().count()) " lines" } }
                div.body { details id={ "file-" (at) } { summary { "Show its text" } pre.sql tabindex="0" aria-label="Text of the file" { (super::parts::marked(&file.text)) } } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_asks_what_a_policy_test_would() {
        assert_eq!(given(&Fields::parse(b"target=orders-db")), None);
        let fields = Fields::parse(b"statement=drop+table+t&target=orders-db&tags=env:+production,+pci%3Dtrue&repository=acme/billing&in_transaction=yes");
        assert_eq!(
            given(&fields).unwrap(),
            json!({
                "statement": "drop table t",
                "identity": { "repository": "acme/billing" },
                "target": { "name": "orders-db", "tags": { "env": "production", "pci": "true" } },
                "in_transaction": true,
            })
        );
    }
}
