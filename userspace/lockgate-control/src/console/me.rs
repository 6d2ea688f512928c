//! Who somebody is here and what they may; and the keys.

use super::{
    Console,
    page::{Page, Section, Visit, csrf},
    parts::{fact, word},
};
use axum::{extract::State, response::Response};
use maud::{Markup, html};
use std::sync::Arc;

pub(super) async fn show(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let now = console.desk.ambient.now();
    let caller = &visit.caller;
    let groups: Vec<&str> = caller.groups().iter().map(|group| group.as_str()).collect();
    let body = html! {
        div.head { h1 { (word(caller.name())) } }
        div.card { div.body {
            dl.facts {
                dt { "Id" } dd { code { (word(caller.id())) } }
                dt { "Roles" } dd.chips { @for role in caller.roles() { span.chip { (role) } } }
                (fact("Decides for", if groups.is_empty() { "no group of the policy".to_owned() } else { groups.join(", ") }.as_str()))
                (fact("Logged in", &caller.fresh_login(now).unwrap_or_else(|| "not lately enough for break-glass".to_owned())))
            }
            @if caller.csrf().is_some() {
                form method="post" action="/logout" { (csrf(caller)) button { "Log out" } }
            }
        } }
        section.card aria-labelledby="keys" { h2 #keys { "Keyboard shortcuts" } div.body { (keys()) } }
    };
    console.answer(&visit, Ok(Page::new("You", Section::Me, body)))
}

/// What the keys do, where the script runs.
pub(super) fn keys() -> Markup {
    html! {
        dl.keys {
            dt { kbd { "j" } " " kbd { "k" } } dd { "next, previous" }
            dt { kbd { "Enter" } } dd { "open it" }
            dt { kbd { "x" } } dd { "select it, for a decision on several" }
            dt { kbd { "a" } } dd { "approve: goes to the reason, Enter then approves" }
            dt { kbd { "d" } } dd { "deny, the same way" }
            dt { kbd { "g" } } dd { "approve for a time" }
            dt { kbd { "u" } } dd { "up, back to the list" }
            dt { kbd { "/" } } dd { "search" }
            dt { kbd { "?" } } dd { "this list" }
        }
    }
}
