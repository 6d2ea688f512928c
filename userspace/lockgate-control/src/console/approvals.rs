//! The inbox: what waits, the most urgent first, what belongs together as one; and what was decided lately. Filters stand in
//! the address. However many wait, one page of them is rendered.

use super::{
    Console,
    form::Fields,
    page::{Page, Refusal, Section, Visit, csrf, no_default},
    parts::{bytes, command, empty, marked, number, one_line, risk, state, time, time_left, word},
};
use crate::{
    api::host::{may_see, sight},
    approvals::{bundle::BundleCase, case::Case},
    auth::{Caller, Role},
    text::visible,
    view,
};
use axum::{extract::State, response::Response};
use lockgate_model::Timestamp;
use maud::{Markup, html};
use std::{collections::BTreeSet, sync::Arc};

/// Rows of one page: a screenful or two, and a bound on what one look costs.
const PAGE: usize = 50;

/// Bytes of a statement in a row.
const ROW_STATEMENT: usize = 200;

/// Names offered for one filter.
const OFFERED: usize = 50;

/// One row.
enum Row {
    One(Arc<Case>),
    Together(Arc<BundleCase>, Vec<Arc<Case>>),
}

impl Row {
    fn first(&self) -> Option<&Arc<Case>> {
        match self {
            Self::One(case) => Some(case),
            Self::Together(_, cases) => cases.first(),
        }
    }
}

/// What the address asks for.
struct Filter {
    fields: Fields,
    resolved: bool,
    page: usize,
}

impl Filter {
    fn of(query: &str) -> Self {
        let fields = Fields::of_address(query);
        let resolved = fields.text("state") == Some("resolved");
        let page = fields.text("page").and_then(|page| page.parse().ok()).unwrap_or(1).max(1);
        Self { fields, resolved, page }
    }

    fn is_set(&self) -> bool {
        ["q", "target", "class", "risk", "who"].iter().any(|name| self.fields.text(name).is_some())
    }

    /// Words are looked for in what this caller sees, so that nobody finds out by guessing what they do not.
    fn admits(&self, caller: &Caller, case: &Case) -> bool {
        let request = &case.request;
        let facts = &request.operation.facts;
        let is = |name, value: &str| self.fields.text(name).is_none_or(|wanted| wanted == value);
        let has = |name, texts: &[&str]| {
            self.fields.text(name).is_none_or(|wanted| {
                let wanted = wanted.to_lowercase();
                texts.iter().any(|text| text.to_lowercase().contains(&wanted))
            })
        };
        let shown = view::statement(&request.operation, sight(caller, case));
        let id = request.id.to_string();
        let principal = &request.session.principal;
        is("target", request.session.target.name.as_str())
            && is("class", facts.class())
            && is("risk", facts.risk().as_str())
            && has("who", &[&principal.id, &principal.display])
            && has("q", &[shown, &id])
    }
}

pub(super) async fn inbox(State(console): State<Arc<Console>>, visit: Visit) -> Response {
    let page = look(&console, &visit);
    console.answer(&visit, page)
}

fn look(console: &Console, visit: &Visit) -> Result<Page, Refusal> {
    let filter = Filter::of(&visit.query);
    let now = console.desk.ambient.now();
    let seen: Vec<Arc<Case>> = console
        .desk
        .registry
        .newest_first(None)
        .into_iter()
        .filter(|case| may_see(&visit.caller, case))
        .collect();
    let (over, waiting): (Vec<_>, Vec<_>) = seen.into_iter().partition(|case| case.resolution().is_some());
    let counts = (waiting.len(), over.len());
    let cases = if filter.resolved { over } else { waiting };
    let offered = Offered::of(&cases);
    let mut fits: Vec<_> = cases.into_iter().filter(|case| filter.admits(&visit.caller, case)).collect();
    if !filter.resolved {
        fits.sort_by_cached_key(|case| (case.state.borrow().progress.expires_at, case.request.id));
    }
    let found = fits.len();
    let rows = if filter.resolved { fits.into_iter().map(Row::One).collect() } else { together(fits) };
    let pages = rows.len().div_ceil(PAGE).max(1);
    let at = filter.page.min(pages);
    let shown: Vec<Row> = rows.into_iter().skip((at - 1) * PAGE).take(PAGE).collect();
    let body = html! {
        div.head {
            h1 { "Approvals" }
            p { "What jobs want to do and may not without a person. Nothing is decided by looking." }
        }
        (tabs(&filter, counts))
        (filters(&filter, &offered))
        @if shown.is_empty() {
            div #list data-live { (nothing(&filter, counts.0)) }
        } @else if filter.resolved {
            div #list data-live {
                ol.inbox { @for row in &shown { (resolved_row(&visit.caller, row, now)) } }
                (pager(&filter, at, pages, found))
            }
        } @else {
            form method="post" action="/approvals/decide" {
                (csrf(&visit.caller))
                div #list data-live {
                    ol.inbox { @for row in &shown { (waiting_row(&visit.caller, row, now)) } }
                    (pager(&filter, at, pages, found))
                }
                (bulk(&visit.caller))
            }
        }
    };
    let state = format!("{} {}", filter.resolved, shown.is_empty());
    let stream = format!("/approvals/live{}", if filter.resolved { "?state=resolved" } else { "" });
    Ok(Page::new("Approvals", Section::Approvals, body).live(stream, state))
}

/// What was bundled stands in one row, where its most urgent part would.
fn together(cases: Vec<Arc<Case>>) -> Vec<Row> {
    let mut told = BTreeSet::new();
    let mut rows = Vec::with_capacity(cases.len());
    for case in cases {
        let Some(bundle) = case.bundle.get().cloned() else {
            rows.push(Row::One(case));
            continue;
        };
        let waiting = bundle.waiting();
        if waiting.len() < 2 {
            rows.push(Row::One(case));
        } else if told.insert(bundle.id) {
            rows.push(Row::Together(bundle, waiting));
        }
    }
    rows
}

/// Values that the filters offer: those of what is there.
struct Offered {
    targets: BTreeSet<String>,
    classes: BTreeSet<String>,
}

impl Offered {
    fn of(cases: &[Arc<Case>]) -> Self {
        let mut offered = Self { targets: BTreeSet::new(), classes: BTreeSet::new() };
        for case in cases {
            if offered.targets.len() < OFFERED {
                offered.targets.insert(case.request.session.target.name.to_string());
            }
            offered.classes.insert(case.request.operation.facts.class().to_owned());
        }
        offered
    }
}

fn tabs(filter: &Filter, (waiting, over): (usize, usize)) -> Markup {
    let to = |state| filter.fields.with("state", state);
    html! {
        nav.tabs #tabs data-live aria-label="Which requests" {
            a href=(to(None)) aria-current=[(!filter.resolved).then_some("page")] {
                "Waiting" span.count { (number(waiting as u64)) }
            }
            a href=(to(Some("resolved"))) aria-current=[filter.resolved.then_some("page")] {
                "Resolved lately" span.count { (number(over as u64)) }
            }
        }
    }
}

fn filters(filter: &Filter, offered: &Offered) -> Markup {
    let given = |name| filter.fields.text(name).unwrap_or_default();
    let choice = |name: &'static str, label: &'static str, values: &mut dyn Iterator<Item = String>| {
        let chosen = given(name);
        let mut values: Vec<String> = values.collect();
        if !chosen.is_empty() && !values.iter().any(|value| value == chosen) {
            values.push(chosen.to_owned());
        }
        html! {
            div.field {
                label for={ "by-" (name) } { (label) }
                select id={ "by-" (name) } name=(name) {
                    option value="" { "Any" }
                    @for value in &values { option value=(value) selected[value == chosen] { (value) } }
                }
            }
        }
    };
    html! {
        form.filters method="get" action="/approvals" {
            @if filter.resolved { input type="hidden" name="state" value="resolved"; }
            div.field {
                label for="by-q" { "Statement or id" }
                input #by-q name="q" value=(given("q")) autocomplete="off";
            }
            div.field {
                label for="by-who" { "Who asks" }
                input #by-who name="who" value=(given("who")) autocomplete="off";
            }
            (choice("target", "Target", &mut offered.targets.iter().cloned()))
            (choice("class", "Class", &mut offered.classes.iter().cloned()))
            (choice("risk", "Risk", &mut ["low", "medium", "high", "critical"].into_iter().map(str::to_owned)))
            div.row-actions {
                button type="submit" { "Filter" }
                @if filter.is_set() {
                    a.button href=(if filter.resolved { "/approvals?state=resolved" } else { "/approvals" }) { "Clear" }
                }
            }
        }
    }
}

fn nothing(filter: &Filter, waiting: usize) -> Markup {
    if filter.is_set() {
        let text = if filter.resolved { "No request of late fits." } else { "No request that waits fits." };
        return empty("Nothing fits these filters", &format!("{text} {waiting} wait in all."), "");
    }
    if filter.resolved {
        return empty(
            "Nothing was decided lately",
            "Requests stand here once they are approved, denied, expired or taken back, until newer ones take their place. Search has all of them.",
            "lockgate approvals list --state resolved",
        );
    }
    empty(
        "Nothing waits",
        "When a rule with `effect: require_approval` holds a job's operation, it appears here by itself. To see one without touching a target, rehearse a rule:",
        "lockgate approvals rehearse --rule RULE",
    )
}

fn pager(filter: &Filter, at: usize, pages: usize, found: usize) -> Markup {
    let to = |page: usize| filter.fields.with("page", Some(&page.to_string()));
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages" {
                span { @if at > 1 { a href=(to(at - 1)) rel="prev" { "← Earlier page" } } }
                span.muted { "Page " (at) " of " (pages) ", " (number(found as u64)) " requests" }
                span { @if at < pages { a href=(to(at + 1)) rel="next" { "Next page →" } } }
            }
        }
    }
}

fn waiting_row(caller: &Caller, row: &Row, now: Timestamp) -> Markup {
    let Some(first) = row.first() else { return html! {} };
    let progress = first.state.borrow().progress.clone();
    let request = &first.request;
    let (id, pick, href) = match row {
        Row::One(case) => {
            let id = case.request.id.to_string();
            (id.clone(), format!("{id} {}", case.request.operation.digest), format!("/approvals/{id}"))
        }
        Row::Together(bundle, _) => {
            let id = bundle.id.to_string();
            (id.clone(), format!("{id} {}", bundle.digest()), format!("/bundles/{id}"))
        }
    };
    let title = title(first);
    html! {
        li.item id={ "row-" (id) } {
            div.pick {
                @if caller.has(Role::Approver) {
                    input type="checkbox" name="pick" value=(pick) id={ "pick-" (id) } aria-label={ "Select: " (title) };
                }
            }
            div {
                a.title id={ "open-" (id) } href=(href) {
                    (marked(&title))
                    @if let Row::Together(_, cases) = row { " and " (cases.len() - 1) " more, as one" }
                }
            }
            (time_left(request.created_at, progress.expires_at, now))
            code.sql { (shown_line(caller, first)) }
            div.meta {
                (chips(first))
                span { "by " (word(&request.session.principal.display)) }
                span { "asked " (time(request.created_at, now)) }
                span { (need(first)) }
                @if first.state.borrow().left { span.chip.warn { "client gone, waits on" } }
            }
        }
    }
}

fn resolved_row(caller: &Caller, row: &Row, now: Timestamp) -> Markup {
    let Some(case) = row.first() else { return html! {} };
    let request = &case.request;
    let at = case.state.borrow().resolved_at;
    let outcome = case.resolution().map_or("pending", |it| it.as_str());
    html! {
        li.item id={ "row-" (request.id) } {
            div.pick { (state(outcome)) }
            div { a.title id={ "open-" (request.id) } href={ "/approvals/" (request.id) } { (marked(&title(case))) } }
            div.left.muted { @if let Some(at) = at { (time(at, now)) } }
            code.sql { (shown_line(caller, case)) }
            div.meta {
                (chips(case))
                span { "by " (word(&request.session.principal.display)) }
                @for vote in case.state.borrow().votes.iter().take(4) {
                    span { (word(vote.by.name())) @if let Some(reason) = &vote.reason { ": " (one_line(reason, 120)) } }
                }
            }
        }
    }
}

fn shown_line(caller: &Caller, case: &Case) -> Markup {
    one_line(view::statement(&case.request.operation, sight(caller, case)), ROW_STATEMENT)
}

fn chips(case: &Case) -> Markup {
    let request = &case.request;
    let facts = &request.operation.facts;
    html! {
        (risk(facts.risk().as_str()))
        span.chip { (facts.class()) }
        @if facts.sql().is_some_and(|facts| facts.bounded == Some(false)) { span.chip.bad { "unbounded" } }
        @if request.operation.touches_masked { span.chip.warn { "masked columns" } }
        @if request.operation.context.in_transaction { span.chip.warn { "holds a transaction open" } }
        @if request.operation.text.len() > ROW_STATEMENT { span { (bytes(request.operation.text.len())) } }
    }
}

/// `Alter table public.orders on orders-db`
pub(super) fn title(case: &Case) -> String {
    visible(&format!("{} on {}", view::deed(&case.request.operation.facts), case.request.session.target.name))
        .into_owned()
}

/// `0 of 1 from dba`
pub(super) fn need(case: &Case) -> String {
    let requirements = &case.state.borrow().progress.requirements;
    let one = |it: &lockgate_model::approval::RequirementProgress| {
        let groups: Vec<&str> = it.any_of.iter().map(|group| group.as_str()).collect();
        command(&[&it.have.to_string(), "of", &it.need.to_string(), "from", &groups.join(" or ")])
    };
    requirements.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// One reason for several decisions.
fn bulk(caller: &Caller) -> Markup {
    if !caller.has(Role::Approver) {
        return html! { p.note { "You see these requests and do not decide them: that takes the role approver." } };
    }
    html! {
        fieldset.bulk aria-label="Decide the selected ones together" {
            (no_default())
            div {
                label for="pick-all" { input #pick-all type="checkbox"; " All on this page" }
                p.small.muted #chosen role="status" { "Select above, then decide together" }
            }
            div.field {
                label for="bulk-reason" { "One reason for all of them" }
                input #bulk-reason name="reason" maxlength="4000" autocomplete="off";
            }
            div.row-actions {
                button.primary name="decision" value="approve" { "Approve the selected once" }
                button.danger name="decision" value="deny" { "Deny the selected" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_from_the_address_and_pages_are_bounded() {
        let filter = Filter::of("state=resolved&page=0&target=orders-db");
        assert!(filter.resolved && filter.is_set());
        assert_eq!(filter.page, 1);
        assert_eq!(Filter::of("page=99999999999999999999").page, 1);
        assert!(!Filter::of("q=+&page=3").is_set());
    }
}
