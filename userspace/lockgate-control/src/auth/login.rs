//! Logging in and out: the page with the buttons, the way to a provider and back, the first administrator's form.
//!
//! A login gets a new cookie, and the browser's old one opens nothing any more. It is recorded before it has effect. Where it
//! leads to is a path of ours, whatever the link said.

use super::{
    Auth, Kind, Provider, Ways,
    attempt::{Attempt, AttemptError, own_path},
    caller::Caller,
    csrf,
    gate::{self, Source},
    headers::Cookie,
    oidc::{Arrived, LoginRefusal, refuse},
    person::{BOOTSTRAP, Person},
    secret::{self, BOOTSTRAP_TOKEN, Hashed, NoRandomness},
    session::Session,
};
use crate::{
    api::{decision, problem::Problem, refusal},
    console::page,
    desk::Desk,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockgate_model::access::{Access, AccessAction};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// Bytes of a form: a SAML answer is the largest.
const FORM_MAX: usize = 512 << 10;

pub(super) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/login", get(choose))
        .route("/login/bootstrap", post(bootstrap))
        .route("/login/{provider}", get(begin))
        .route("/login/{provider}/callback", get(callback))
        .route("/login/{provider}/acs", post(acs))
        .route("/login/{provider}/finish", get(finish))
        .route("/login/{provider}/metadata", get(metadata))
        .route("/login/{provider}/backchannel", post(backchannel))
        .route("/logout", post(logout))
        .with_state(desk)
}

#[derive(Default, Deserialize)]
struct Wish {
    #[serde(default)]
    next: Option<String>,
    /// Prove anew who you are.
    #[serde(default)]
    fresh: Option<String>,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

async fn choose(State(desk): State<Arc<Desk>>, wish: Asked<Wish>) -> Response {
    let wish = wish.map(|Query(wish)| wish).unwrap_or_default();
    page::bare("Log in", &ways_in(&desk.auth.ways(), &wish, None))
}

/// Every way in there is.
fn ways_in(ways: &Ways, wish: &Wish, refused: Option<&str>) -> Markup {
    let next: String = form_urlencoded::byte_serialize(own_path(wish.next.as_deref()).as_bytes()).collect();
    let fresh = if wish.fresh.is_some() { "&fresh=1" } else { "" };
    let bootstrap = ways.settings.as_ref().is_some_and(|settings| settings.bootstrap.is_some());
    html! {
        h1 { "Log in" }
        @if let Some(refused) = refused {
            div.note.bad role="alert" { p { (crate::text::visible(refused)) } }
        }
        @if ways.settings.is_none() {
            p { "Nobody can log in here: " code { "login:" } " is not set in the agent's configuration." }
        }
        @for provider in &ways.providers {
            p { a.button href={ "/login/" (provider.name) "?next=" (next) (fresh) } { "Log in with " (provider.label) } }
        }
        @if bootstrap {
            form method="post" action="/login/bootstrap" {
                input type="hidden" name="next" value=(own_path(wish.next.as_deref()));
                p {
                    label for="token" { "One-time token of the first administrator" } br;
                    input #token name="token" type="password" autocomplete="off" required;
                }
                p { button type="submit" { "Log in with the token" } }
                p.muted { "Get one on the host, as root: " code { "lockgate login bootstrap" } }
                p.muted { (super::bootstrap::WARNING) }
            }
        }
    }
}

async fn begin(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    Path(name): Path<String>,
    wish: Asked<Wish>,
    headers: HeaderMap,
) -> Response {
    let wish = wish.map(|Query(wish)| wish).unwrap_or_default();
    let Some(provider) = find(&desk.auth, &name) else { return unknown_provider() };
    let provider = &*provider;
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return gate::too_many(wait);
    }
    match send_there(&desk, provider, &wish, &headers).await {
        Ok(response) => response,
        Err(refusal) => refused(&desk, source, &provider.name, None, &refusal),
    }
}

async fn send_there(
    desk: &Arc<Desk>,
    provider: &Provider,
    wish: &Wish,
    headers: &HeaderMap,
) -> Result<Response, LoginRefusal> {
    let secure = desk.auth.secure();
    let fresh = wish.fresh.is_some();
    let begun = match &provider.kind {
        Kind::Oidc(oidc) => oidc.begin(fresh).await?,
        Kind::Saml(saml) => saml.begin(fresh, desk.ambient.now()).map_err(no_randomness)?,
    };
    // One browser may log in in two tabs: it keeps its cookie.
    let browser = match Cookie::Attempt.read(headers, secure).filter(|cookie| cookie.len() == 43) {
        Some(cookie) => cookie.to_owned(),
        None => secret::random().map_err(no_randomness)?,
    };
    desk.auth.attempts.begin(
        &begun.state,
        Attempt {
            provider: provider.name.clone(),
            browser: Hashed::of(&browser),
            nonce: begun.nonce,
            verifier: begun.verifier,
            next: own_path(wish.next.as_deref()),
            fresh,
            began: Instant::now(),
        },
    );
    let mut response = see_other(&begun.url);
    set(&mut response, Cookie::Attempt.set(&browser, secure));
    Ok(response)
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

async fn callback(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    Path(name): Path<String>,
    answer: Asked<Answer>,
    headers: HeaderMap,
) -> Response {
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return gate::too_many(wait);
    }
    let Some(provider) = find(&desk.auth, &name) else { return unknown_provider() };
    let provider = &*provider;
    let Ok(Query(answer)) = answer else {
        return refused(
            &desk,
            source,
            &name,
            None,
            &refuse("malformed", "the provider's answer cannot be read"),
        );
    };
    match come_back(&desk, provider, answer, &headers).await {
        Ok((arrived, next)) => welcome(&desk, source, arrived, &next, &headers).await,
        Err(refusal) => refused(&desk, source, &provider.name, None, &refusal),
    }
}

async fn come_back(
    desk: &Arc<Desk>,
    provider: &Provider,
    answer: Answer,
    headers: &HeaderMap,
) -> Result<(Arrived, String), LoginRefusal> {
    let Kind::Oidc(oidc) = &provider.kind else {
        return Err(refuse("malformed", "this provider answers by SAML"));
    };
    let attempt = take(desk, provider, answer.state.as_deref(), headers)?;
    if answer.iss.as_deref().is_some_and(|issuer| issuer != oidc.issuer()) {
        return Err(refuse("bad_issuer", "the answer is another provider's (iss)"));
    }
    if let Some(error) = answer.error {
        let error = crate::text::visible(&crate::text::clip(&error, 80)).into_owned();
        return Err(refuse("provider_refused", format!("the provider says {error}")));
    }
    let code = answer.code.ok_or_else(|| refuse("malformed", "the provider's answer has no code"))?;
    let now = desk.ambient.now();
    let issuer = answer.iss.as_deref();
    let arrived = oidc.finish(code, issuer, &attempt.nonce, &attempt.verifier, attempt.fresh, now).await?;
    Ok((arrived, attempt.next))
}

fn take(
    desk: &Desk,
    provider: &Provider,
    state: Option<&str>,
    headers: &HeaderMap,
) -> Result<Attempt, LoginRefusal> {
    let browser = Cookie::Attempt.read(headers, desk.auth.secure());
    let state = state.unwrap_or_default();
    desk.auth.attempts.take(state, browser, &provider.name, Instant::now()).map_err(|error| match error {
        AttemptError::Unknown => refuse(
            "unknown_attempt",
            "this login was not begun here, took too long or was used before; begin again",
        ),
        AttemptError::OtherBrowser => {
            refuse("other_browser", "another browser began this login; begin again")
        }
        AttemptError::OtherProvider => {
            refuse("other_provider", "this login was begun with another provider; begin again")
        }
    })
}

/// What a provider posts through the browser. The cookie that began it does not come with a foreign site's form, so what was
/// verified waits under a handle for the browser to fetch with it.
async fn acs(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    Path(name): Path<String>,
    body: Body,
) -> Response {
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return gate::too_many(wait);
    }
    let Some(provider) = find(&desk.auth, &name) else { return unknown_provider() };
    let provider = &*provider;
    let Kind::Saml(saml) = &provider.kind else { return unknown_provider() };
    let body = match decision::read_body(body, FORM_MAX, decision::BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(problem) => return gate::page(&problem),
    };
    let form: BTreeMap<_, _> = form_urlencoded::parse(&body).collect();
    let answer = form.get("SAMLResponse").map(AsRef::as_ref).unwrap_or_default();
    match saml.receive(answer, desk.ambient.now()) {
        Ok(handle) => see_other(&format!("/login/{}/finish?handle={handle}", provider.name)),
        Err(refusal) => refused(&desk, source, &provider.name, None, &refusal),
    }
}

#[derive(Default, Deserialize)]
struct Handle {
    #[serde(default)]
    handle: String,
}

async fn finish(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    Path(name): Path<String>,
    handle: Asked<Handle>,
    headers: HeaderMap,
) -> Response {
    let Some(provider) = find(&desk.auth, &name) else { return unknown_provider() };
    let provider = &*provider;
    let Kind::Saml(saml) = &provider.kind else { return unknown_provider() };
    let handle = handle.map(|Query(handle)| handle.handle).unwrap_or_default();
    let arrived = saml
        .collect(&handle)
        .ok_or_else(|| refuse("unknown_attempt", "nothing waits here; begin the login again"));
    let arrived = arrived.and_then(|(arrived, state)| {
        let attempt = take(&desk, provider, Some(&state), &headers)?;
        saml.check_fresh(&arrived, attempt.fresh, desk.ambient.now())?;
        Ok((arrived, attempt.next))
    });
    match arrived {
        Ok((arrived, next)) => welcome(&desk, source, arrived, &next, &headers).await,
        Err(refusal) => refused(&desk, source, &provider.name, None, &refusal),
    }
}

/// A provider says that logins are over (OpenID Connect Back-Channel Logout 1.0, 2.5 to 2.8). It comes without a browser: the
/// token's signature is the proof.
async fn backchannel(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    Path(name): Path<String>,
    body: Body,
) -> Response {
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return gate::too_many(wait);
    }
    let Some(provider) = find(&desk.auth, &name) else { return unknown_provider() };
    let Kind::Oidc(oidc) = &provider.kind else { return unknown_provider() };
    let body = match decision::read_body(body, FORM_MAX, decision::BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let form: BTreeMap<_, _> = form_urlencoded::parse(&body).collect();
    let token = form.get("logout_token").map(AsRef::as_ref).unwrap_or_default();
    match oidc.ended(token, desk.ambient.now()).await {
        Ok(named) => {
            let ended = desk.auth.sessions.end_where(|session| named.is(&provider.name, session));
            for session in &ended {
                desk.auth.note_ended(&desk, session, None, "its provider ended it");
            }
            StatusCode::OK.into_response()
        }
        Err(refusal) => {
            note_refused(&desk, source, &provider.name, &refusal);
            let status = match refusal.code {
                "provider_unreachable" | "provider_unusable" => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::BAD_REQUEST,
            };
            let said = json!({ "error": "invalid_request", "error_description": refusal.to_string() });
            (status, axum::Json(said)).into_response()
        }
    }
}

async fn metadata(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    let provider = find(&desk.auth, &name);
    match provider.as_ref().map(|provider| &provider.kind) {
        Some(Kind::Saml(saml)) => {
            ([(header::CONTENT_TYPE, "application/samlmetadata+xml")], saml.metadata()).into_response()
        }
        Some(Kind::Oidc(_)) | None => unknown_provider(),
    }
}

async fn bootstrap(
    State(desk): State<Arc<Desk>>,
    axum::Extension(source): axum::Extension<Source>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return gate::too_many(wait);
    }
    // Nobody is logged in yet, so there is no secret word; but a foreign page must not log anybody in either.
    if let Err(problem) = csrf::check_origin(&headers, desk.auth.origin.as_deref()) {
        return gate::page(&problem);
    }
    let body = match decision::read_body(body, FORM_MAX, decision::BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(problem) => return gate::page(&problem),
    };
    let form: BTreeMap<_, _> = form_urlencoded::parse(&body).collect();
    let field = |name: &str| form.get(name).map(|value| value.trim());
    let offered = desk.auth.ways().settings.as_ref().is_some_and(|settings| settings.bootstrap.is_some());
    let token = field("token").unwrap_or_default();
    if !offered
        || !secret::is_token(BOOTSTRAP_TOKEN, token)
        || !desk.auth.bootstrap.take(token, Instant::now())
    {
        let refusal = refuse(
            "bad_token",
            "this token is wrong, used or over; `lockgate login bootstrap` makes another",
        );
        return refused(&desk, source, BOOTSTRAP, field("next"), &refusal);
    }
    let person = Person {
        id: format!("{BOOTSTRAP}:admin"),
        provider: BOOTSTRAP.to_owned(),
        authority: BOOTSTRAP.to_owned(),
        name: "bootstrap administrator".to_owned(),
        email: None,
        aliases: Vec::new(),
        groups: BTreeMap::new(),
    };
    // Who it is was never proved, so it is never a fresh login of a person.
    let arrived = Arrived::plain(person, None);
    welcome(&desk, source, arrived, &own_path(field("next")), &headers).await
}

/// Begins the login, once it is recorded.
async fn welcome(
    desk: &Arc<Desk>,
    Source(source): Source,
    arrived: Arrived,
    next: &str,
    headers: &HeaderMap,
) -> Response {
    let secure = desk.auth.secure();
    let Arrived { person, proved, id_token, sid, nonce, refresh, until } = arrived;
    let begun = secret::random().and_then(|csrf| Ok((csrf, secret::id("lgn_")?)));
    let Ok((csrf, id)) = begun else { return gate::page(&Problem::unavailable(NoRandomness.to_string())) };
    let access = Access {
        action: AccessAction::Login,
        by: Some(person.id.clone()),
        via: person.provider.clone(),
        subject: Some(id.clone()),
        source: source.map(|address| address.to_string()),
        groups: person.groups.values().flatten().cloned().collect(),
        expires: None,
        code: None,
        detail: person.name.clone(),
    };
    if let Err(error) = desk.auth.record_first(desk, access).await {
        tracing::error!(%error, "recording a login");
        let detail = format!("the login could not be recorded ({error}), so it does not count; try again");
        return gate::page(&Problem::unavailable(detail));
    }
    // Whatever cookie the browser had before, whoever gave it one.
    if let Some(old) = Cookie::Session.read(headers, secure) {
        desk.auth.sessions.end(old);
    }
    for token in desk.auth.tokens.refresh(&person) {
        desk.auth.keep_use(desk, token);
    }
    let began = desk.ambient.now();
    let session = Session { id, person, csrf, began, proved, source, id_token, sid, nonce, refresh, until };
    let Ok((cookie, ended)) = desk.auth.sessions.begin(session, Instant::now()) else {
        return gate::page(&Problem::unavailable(NoRandomness.to_string()));
    };
    for session in ended {
        desk.auth.note_ended(desk, &session, None, "it had no room any more");
    }
    let mut response = see_other(next);
    set(&mut response, Cookie::Session.set(cookie.expose(), secure));
    set(&mut response, Cookie::Attempt.clear(secure));
    response
}

async fn logout(State(desk): State<Arc<Desk>>, caller: Caller, headers: HeaderMap) -> Response {
    let secure = desk.auth.secure();
    let session = Cookie::Session.read(&headers, secure).and_then(|cookie| desk.auth.sessions.end(cookie));
    let Some(session) = session else {
        return Problem::malformed("only a login has something to log out of").into_response();
    };
    desk.auth.record(
        &desk,
        &refusal::Caller::of(&caller),
        Access {
            action: AccessAction::Logout,
            by: Some(caller.id().to_owned()),
            via: session.person.provider.clone(),
            subject: Some(session.id.clone()),
            source: None,
            groups: Vec::new(),
            expires: None,
            code: None,
            detail: String::new(),
        },
    );
    let provider = find(&desk.auth, &session.person.provider);
    let elsewhere = match provider.as_ref().map(|provider| &provider.kind) {
        Some(Kind::Oidc(oidc)) => oidc.logout(session.id_token.as_ref()).await,
        Some(Kind::Saml(_)) | None => None,
    };
    // A page and not a redirect: a form may lead nowhere but here, the page itself goes on.
    let body = html! {
        h1 { "Logged out" }
        @if let Some(url) = &elsewhere {
            meta http-equiv="refresh" content={ "0;url=" (url) };
            p { "Going on to " a href=(url) { "end the login at " (session.person.provider) } ", too." }
        }
        p { a href="/login" { "Log in" } }
    };
    let mut response = page::bare("Logged out", &body);
    set(&mut response, Cookie::Session.clear(secure));
    response
}

impl Auth {
    /// Records that somebody's login is over without their doing.
    pub(crate) fn note_ended(&self, desk: &Arc<Desk>, session: &Session, by: Option<&Caller>, why: &str) {
        self.record(
            desk,
            &refusal::Caller::Anybody,
            Access {
                action: AccessAction::LoginEnded,
                by: by.map(|caller| caller.id().to_owned()),
                via: session.person.provider.clone(),
                subject: Some(format!("{} of {}", session.id, session.person.id)),
                source: None,
                groups: Vec::new(),
                expires: None,
                code: None,
                detail: why.to_owned(),
            },
        );
    }
}

fn refused(
    desk: &Arc<Desk>,
    source: Source,
    via: &str,
    next: Option<&str>,
    refusal: &LoginRefusal,
) -> Response {
    note_refused(desk, source, via, refusal);
    let wish = Wish { next: next.map(str::to_owned), fresh: None };
    let said = format!("{} ({})", refusal.detail, refusal.code);
    let mut response = page::bare("Log in", &ways_in(&desk.auth.ways(), &wish, Some(&said)));
    *response.status_mut() = match refusal.code {
        "provider_unreachable" | "provider_unusable" | "no_randomness" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::FORBIDDEN,
    };
    set(&mut response, Cookie::Attempt.clear(desk.auth.secure()));
    response
}

fn note_refused(desk: &Arc<Desk>, source: Source, via: &str, refusal: &LoginRefusal) {
    desk.auth.record(
        desk,
        &refusal::Caller::Anybody,
        Access {
            action: AccessAction::LoginRefused,
            by: None,
            via: via.to_owned(),
            subject: None,
            source: source.0.map(|address| address.to_string()),
            groups: Vec::new(),
            expires: None,
            code: Some(refusal.code.to_owned()),
            detail: refusal.detail.clone(),
        },
    );
}

fn no_randomness(error: NoRandomness) -> LoginRefusal {
    refuse("no_randomness", error.to_string())
}

fn find(auth: &Auth, name: &str) -> Option<Arc<Provider>> {
    auth.ways().find(name).cloned()
}

fn unknown_provider() -> Response {
    gate::page(&Problem::not_found("no identity provider of that name is set under login.providers"))
}

fn see_other(to: &str) -> Response {
    match HeaderValue::from_str(to) {
        Ok(to) => (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response(),
        Err(_) => gate::page(&Problem::malformed("this leads nowhere")),
    }
}

fn set(response: &mut Response, cookie: Option<HeaderValue>) {
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
}
