//! What every page has: the frame with its navigation, the strict headers, one sentence about what was just done, and the way
//! in which a refusal is told.

use super::{
    Console,
    assets::{SCRIPT, STYLE},
    flash,
};
use crate::{
    api::problem::Problem,
    auth::{
        Caller,
        caller::{NotKnown, Role},
    },
    house::HouseError,
    text::visible,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use lockgate_model::{RequestId, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::time::Duration;

/// Nothing but this site's own style sheet and script; no frames, no plugins, forms go nowhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Which entry of the navigation is the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Approvals,
    Sessions,
    Search,
    Targets,
    Governed,
    Policies,
    Audit,
    Grants,
    Breakglass,
    Me,
}

impl Section {
    const NAV: [(Self, &'static str, &'static str); 9] = [
        (Self::Approvals, "/approvals", "Approvals"),
        (Self::Sessions, "/sessions", "Sessions"),
        (Self::Search, "/search", "Search"),
        (Self::Grants, "/grants", "Grants"),
        (Self::Breakglass, "/breakglass", "Break-glass"),
        (Self::Targets, "/targets", "Targets"),
        (Self::Governed, "/governed", "Governed sets"),
        (Self::Policies, "/policies", "Policies"),
        (Self::Audit, "/audit", "Audit log"),
    ];

    /// Begins a group of the navigation.
    fn begins_group(self) -> bool {
        match self {
            Self::Grants | Self::Targets => true,
            Self::Approvals
            | Self::Sessions
            | Self::Search
            | Self::Governed
            | Self::Policies
            | Self::Audit
            | Self::Breakglass
            | Self::Me => false,
        }
    }
}

/// Somebody looks at a page.
pub(super) struct Visit {
    pub(super) caller: Caller,
    said: Option<String>,
    pub(super) path: String,
    pub(super) query: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = NotKnown;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, NotKnown> {
        let caller = <Caller as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        Ok(Self {
            caller,
            said: flash::read(&parts.headers),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
        })
    }
}

/// One page's content and what its frame must know.
pub(super) struct Page {
    pub(super) title: String,
    pub(super) section: Section,
    pub(super) body: Markup,
    /// Where the server says that something changed.
    pub(super) stream: Option<String>,
    /// When this changes, the whole page is shown anew, not only its live parts.
    pub(super) state: String,
    /// Without script it comes anew after this long.
    reload: Option<Duration>,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, section: Section, body: Markup) -> Self {
        Self { title: title.into(), section, body, stream: None, state: String::new(), reload: None }
    }

    pub(super) fn live(mut self, stream: impl Into<String>, state: impl Into<String>) -> Self {
        self.stream = Some(stream.into());
        self.state = state.into();
        self
    }

    /// For browsers that run no script.
    pub(super) fn reloading(mut self, every: Duration) -> Self {
        self.reload = Some(every);
        self
    }
}

/// Why a page cannot be shown or a form had no effect.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: String,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) request: Option<RequestId>,
    pub(super) decision: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            status: problem.status,
            code: problem.code.to_owned(),
            title: problem.title.to_owned(),
            detail: problem.detail,
            request: problem.request,
            decision: problem.decision.map(|decision| decision.to_string()),
        }
    }
}

impl From<HouseError> for Refusal {
    fn from(error: HouseError) -> Self {
        Problem::from(error).into()
    }
}

impl Console {
    /// A page, or what is in its way.
    pub(super) fn answer(&self, visit: &Visit, page: Result<Page, Refusal>) -> Response {
        match page {
            Ok(page) => self.page(visit, StatusCode::OK, page),
            Err(refusal) => self.refuse(visit, &refusal),
        }
    }

    /// After a form: back to a page, with a sentence; or what is in its way.
    pub(super) fn done(&self, visit: &Visit, done: Result<(String, String), Refusal>) -> Response {
        match done {
            Ok((to, said)) => see_other(&to, Some(&said)),
            Err(refusal) => self.refuse(visit, &refusal),
        }
    }

    pub(super) fn refuse(&self, visit: &Visit, refusal: &Refusal) -> Response {
        let held = refusal.request.and_then(|id| self.desk.registry.find(id));
        let decision = refusal.decision.clone().or(held.map(|case| case.request.decision().to_string()));
        let body = html! {
            div.narrow {
                h1 { (refusal.title) }
                div.note.bad role="alert" { p { (visible(&refusal.detail)) } }
                dl.facts {
                    dt { "Code" } dd { code { (refusal.code) } " (HTTP " (refusal.status.as_u16()) ")" }
                    @if let Some(decision) = &decision { dt { "Decision" } dd { code { (decision) } } }
                    @if let Some(id) = refusal.request {
                        dt { "Request" } dd { a href={ "/approvals/" (id) } { (id) } }
                    }
                }
                p { a href={ (up(&visit.path)) } data-up { "Go back" } }
            }
        };
        self.page(visit, refusal.status, Page::new(refusal.title.clone(), section_of(&visit.path), body))
    }

    fn page(&self, visit: &Visit, status: StatusCode, page: Page) -> Response {
        let now = self.desk.ambient.now();
        let document = self.document(visit, &page, now);
        let mut response = (status, headers(), document.into_string()).into_response();
        if visit.said.is_some() {
            response.headers_mut().append(header::SET_COOKIE, flash::clear());
        }
        response
    }

    fn document(&self, visit: &Visit, page: &Page, now: Timestamp) -> Markup {
        let waiting = if visit.caller.has(Role::Viewer) { self.desk.registry.pending() } else { 0 };
        let title = match (page.section, waiting) {
            (_, 0) => format!("{} · lockgate", page.title),
            (_, waiting) => format!("({waiting}) {} · lockgate", page.title),
        };
        html! {
            (DOCTYPE)
            html lang="en" {
                (head(&title, page.reload))
                body.framed data-now=(now) {
                    a.skip href="#main" { "Skip to content" }
                    header.top {
                        (brand())
                        span.node.muted.small { (self.desk.node) }
                        form role="search" action="/search" {
                            label.sr for="q" { "Search sessions and decisions" }
                            input #q name="q" type="search" placeholder="Search sessions and decisions" autocomplete="off";
                        }
                        a.who href="/me" title="Who you are and what you may" { (visible(visit.caller.name())) }
                    }
                    nav.side aria-label="Main" { ul {
                        @for (section, href, name) in Section::NAV {
                            li.group[section.begins_group()] {
                                a href=(href) aria-current=[(section == page.section).then_some("page")] {
                                    (name)
                                    @if section == Section::Approvals {
                                        span.badge #badge hidden[waiting == 0] {
                                            (waiting) span.sr { " waiting" }
                                        }
                                    }
                                }
                            }
                        }
                    } }
                    main #main tabindex="-1" data-stream=[page.stream.as_deref()] data-state=(page.state) {
                        @if visit.caller.is_bootstrap() {
                            p.note.warn { strong { "Bootstrap administrator." } " For a first look, not for production: set up an identity provider under " code { "login:" } "." }
                        }
                        @if let Some(said) = &visit.said {
                            div.flash.good role="status" { span aria-hidden="true" { "✓" } p { (said) } }
                        }
                        (page.body)
                    }
                    footer.foot {
                        @if page.stream.is_some() { span #live.live { "Reload for news" } }
                        a #help-open href="/me#keys" { "Keyboard shortcuts" }
                        span { "lockgate on " (self.desk.node) }
                    }
                    div #said.sr role="status" aria-live="polite" {}
                    dialog #help aria-labelledby="help-title" {
                        h2 #help-title { "Keyboard shortcuts" }
                        (super::me::keys())
                        button #help-close type="button" { "Close" }
                    }
                }
            }
        }
    }
}

fn head(title: &str, reload: Option<Duration>) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            meta name="robots" content="noindex, nofollow";
            title { (title) }
            @if let Some(every) = reload { noscript { meta http-equiv="refresh" content=(every.as_secs()); } }
            link rel="icon" href="data:,";
            link rel="stylesheet" href=(STYLE.path);
            script src=(SCRIPT.path) defer {}
        }
    }
}

fn brand() -> Markup {
    html! {
        a.brand href="/approvals" {
            svg viewBox="0 0 20 20" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" {
                path d="M3 17V8a7 7 0 0 1 14 0v9" {}
                path d="M3 12h14M8 12v5M12 12v5" {}
            }
            "lockgate"
        }
    }
}

/// A page outside of the frame, for who is not logged in.
pub(crate) fn bare(title: &str, body: &Markup) -> Response {
    let document = html! {
        (DOCTYPE)
        html lang="en" {
            (head(&format!("{title} · lockgate"), None))
            body { main #main.narrow { p { (brand()) } (body) } }
        }
    };
    (headers(), document.into_string()).into_response()
}

/// Back to a page of ours, never to another site.
pub(super) fn see_other(to: &str, said: Option<&str>) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/approvals"));
    let mut response = (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response();
    if let Some(said) = said {
        response.headers_mut().append(header::SET_COOKIE, flash::leave(said));
    }
    response
}

fn headers() -> [(HeaderName, HeaderValue); 8] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Not no-referrer: browsers then send `Origin: null` with our own forms, which the layer in front refuses.
        (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        (
            HeaderName::from_static("permissions-policy"),
            HeaderValue::from_static("camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        ),
    ]
}

/// The hidden field that a form of a logged-in browser must carry.
pub(super) fn csrf(caller: &Caller) -> Markup {
    match caller.csrf() {
        Some(token) => html! { input type="hidden" name="csrf" value=(token); },
        None => PreEscaped(String::new()),
    }
}

/// Enter in a field decides nothing: the first button of the form, which Enter would press, cannot be pressed.
pub(super) fn no_default() -> Markup {
    html! { button type="submit" disabled hidden {} }
}

/// The page above: what `u` and "Go back" lead to.
fn up(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(list), Some(id), Some(_)) if plain(list) && plain(id) => format!("/{list}/{id}"),
        (Some(list), Some(_), _) if plain(list) => format!("/{list}"),
        _ => "/approvals".to_owned(),
    }
}

fn plain(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

fn section_of(path: &str) -> Section {
    let first = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    let found = Section::NAV.iter().find(|(_, href, _)| href.strip_prefix('/') == Some(first));
    found.map_or(Section::Me, |(section, _, _)| *section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_stays_on_this_site() {
        for (path, expected) in [
            ("/approvals/req_1/decide", "/approvals/req_1"),
            ("/approvals/req_1", "/approvals"),
            ("/", "/approvals"),
            ("//evil.example/x", "/evil.example"),
            ("/\"><script>/x/y", "/approvals"),
        ] {
            assert_eq!(up(path), expected, "{path}");
        }
    }
}
