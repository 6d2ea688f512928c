//! The layer in front of every handler: finds out who asks, refuses what the table of routes refuses, and says to browsers what
//! they may do with the answer.

use super::{
    Auth,
    caller::{Caller, Known, Login, NotKnown, Role, wants_html},
    csrf,
    headers::{self, Cookie},
    live,
    person::Rights,
    renew,
    rules::{self, Rule},
    session::Session,
    token::{Owner, Refused, Token},
};
use crate::{
    api::{peer::PeerCred, problem::Problem, refusal},
    desk::Desk,
};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use lockgate_model::{
    access::{Access, AccessAction},
    id::GroupName,
};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use tokio::time::Instant;

/// The address at the other end of a TCP connection; put there by whoever serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote(pub IpAddr);

/// The address that asks, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Source(pub(crate) Option<IpAddr>);

/// Who was found.
enum Found {
    Nobody,
    /// By the socket, a token, or from inside.
    Caller(Caller),
    /// By a cookie, which a browser sends whoever wrote the page.
    Browser(Caller),
    /// What a browser brought; whose it is has to be looked up.
    Cookie(String),
    /// A token that opens nothing.
    BadToken(Refused),
}

pub(super) async fn resolve(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let secure = desk.auth.secure();
    let mut response = match admit(&desk, request).await {
        Ok(request) => {
            let caller = request.extensions().get::<Caller>().cloned();
            live::watched(&desk, caller, next.run(request).await)
        }
        Err(refused) => *refused,
    };
    headers::put(&mut response, secure);
    response
}

async fn admit(desk: &Arc<Desk>, mut request: Request) -> Result<Request, Box<Response>> {
    let (source, direct) = source(&desk.auth, &request);
    let source = Source(source);
    request.extensions_mut().insert(source);
    // Without a route there is nothing to protect: the answer is that there is nothing.
    let Some(path) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        return Ok(request);
    };
    let rule = rules::rule(request.method(), &path);
    if direct && rule != Some(Rule::Public) {
        // Nobody knows who reads along: what must not pass a network in the clear is not even asked for.
        let detail =
            "this address is for the proxy in front (api.proxies), which ends TLS; use api.public_url";
        let problem = Problem::new(StatusCode::FORBIDDEN, "not_by_proxy", "Not by this way", detail);
        return Err(Box::new(problem.into_response()));
    }
    let mut found = find(desk, &request);
    if let Found::Cookie(cookie) = found {
        // The provider may have to be asked before it counts.
        found = match renew::current(desk, &cookie).await {
            Some(session) => Found::Browser(person(desk, &session)),
            None => Found::Nobody,
        };
    }
    let (caller, browser) = match found {
        Found::Nobody | Found::Cookie(_) => (None, false),
        Found::Caller(caller) => (Some(caller), false),
        Found::Browser(caller) => (Some(caller), true),
        Found::BadToken(_) if rule == Some(Rule::Public) => (None, false),
        Found::BadToken(why) => return Err(Box::new(bad_token(desk, source, why))),
    };
    // What is public has a proof of its own, and a provider's answer comes from another site's page by its nature.
    let asked = rule != Some(Rule::Public);
    if browser && asked && !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        request = from_our_pages(desk, caller.as_ref(), source, request).await?;
    }
    match (rule, &caller) {
        (Some(Rule::Public), _) => {}
        (Some(rule), Some(caller)) if rule.admits(caller) => {}
        (Some(Rule::Known | Rule::Any(_)), None) => {
            let (parts, _) = request.into_parts();
            return Err(Box::new(NotKnown::of(&parts).into_response()));
        }
        // A method that the path does not have is answered as such by the router.
        (None, _) if !rules::RULES.iter().any(|(_, route, _)| *route == path) => {
            let detail = format!("nobody has said who may use {path}; this is a fault of lockgate");
            tracing::error!(path, "a route without a rule");
            let problem = Problem::new(StatusCode::FORBIDDEN, "no_rule", "No rule for this route", detail);
            return Err(Box::new(problem.into_response()));
        }
        (None, _) => {}
        (Some(rule), Some(caller)) => {
            let problem = lacking(rule, caller);
            record_refusal(desk, caller, source, &problem);
            let (parts, _) = request.into_parts();
            return Err(Box::new(told(&parts, problem)));
        }
    }
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    Ok(request)
}

fn lacking(rule: Rule, caller: &Caller) -> Problem {
    let roles = match rule {
        Rule::Any(roles) => roles,
        Rule::Public | Rule::Known => &[],
    };
    caller.require_any(roles).err().unwrap_or_else(|| Problem::forbidden("this caller may not"))
}

async fn from_our_pages(
    desk: &Arc<Desk>,
    caller: Option<&Caller>,
    source: Source,
    request: Request,
) -> Result<Request, Box<Response>> {
    let word = caller.and_then(Caller::csrf).unwrap_or_default().to_owned();
    let html = wants_html(request.headers());
    let checked = match csrf::check_origin(request.headers(), desk.auth.origin.as_deref()) {
        Ok(()) => csrf::check_word(request, &word).await,
        Err(problem) => Err(problem),
    };
    checked.map_err(|problem| {
        if let Some(caller) = caller {
            record_refusal(desk, caller, source, &problem);
        }
        Box::new(if html { page(&problem) } else { problem.into_response() })
    })
}

/// A problem as a page for browsers, as a document for programs.
fn told(parts: &Parts, problem: Problem) -> Response {
    let api = parts.uri.path().starts_with("/v1/");
    if wants_html(&parts.headers) && !api { page(&problem) } else { problem.into_response() }
}

pub(super) fn page(problem: &Problem) -> Response {
    let body = maud::html! {
        h1 { (problem.title) }
        p { (crate::text::visible(&problem.detail)) }
        p { a href="/me" { "Who you are here" } " · " a href="/login" { "Log in" } }
    };
    let mut response = crate::console::page::bare(problem.title, &body);
    *response.status_mut() = problem.status;
    response
}

fn record_refusal(desk: &Arc<Desk>, caller: &Caller, source: Source, problem: &Problem) {
    desk.auth.record(
        desk,
        &refusal::Caller::of(caller),
        Access {
            action: AccessAction::Refused,
            by: Some(caller.id().to_owned()),
            via: caller.via().to_owned(),
            subject: None,
            source: source.0.map(|address| address.to_string()),
            groups: Vec::new(),
            expires: None,
            code: Some(problem.code.to_owned()),
            detail: problem.detail.clone(),
        },
    );
}

fn bad_token(desk: &Arc<Desk>, source: Source, why: Refused) -> Response {
    let (code, detail, id) = match why {
        Refused::Malformed => ("bad_token", "this is no API token: its checksum is wrong", None),
        Refused::Unknown => ("bad_token", "this API token is unknown here, or revoked", None),
        Refused::Expired(id) => ("token_expired", "this API token is over; make another", Some(id)),
    };
    // Whoever tries is slowed down; whoever has a token never comes here.
    if let Err(wait) = desk.auth.limits.try_now(source.0, Instant::now()) {
        return too_many(wait);
    }
    desk.auth.record(
        desk,
        &refusal::Caller::Anybody,
        Access {
            action: AccessAction::TokenRefused,
            by: id.map(|id| format!("token:{id}")),
            via: "token".to_owned(),
            subject: None,
            source: source.0.map(|address| address.to_string()),
            groups: Vec::new(),
            expires: None,
            code: Some(code.to_owned()),
            detail: detail.to_owned(),
        },
    );
    Problem::new(StatusCode::UNAUTHORIZED, code, "This token opens nothing", detail).into_response()
}

/// 429, with how long to wait.
pub(super) fn too_many(wait: std::time::Duration) -> Response {
    let seconds = wait.as_secs().saturating_add(1);
    let detail = format!("too many tries from this address; wait {seconds} s");
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tries", "Too many tries", detail);
    ([(header::RETRY_AFTER, seconds.to_string())], problem).into_response()
}

/// The address that asks, and whether it came past the proxy that it should have come by. A proxy appends the address that it
/// saw, so the first from the end that is no proxy of ours is whom the outermost of them saw; what stands before it is a claim.
fn source(auth: &Auth, request: &Request) -> (Option<IpAddr>, bool) {
    let remote = request.extensions().get::<Remote>().map(|remote| remote.0);
    let ways = auth.ways();
    let proxies = ways.settings.as_ref().map_or(&[][..], |settings| &settings.proxies);
    let ours = |address: IpAddr| proxies.iter().any(|net| net.contains(address));
    // The unix socket has no address and no proxy.
    let Some(from) = remote.filter(|_| !proxies.is_empty()) else { return (remote, false) };
    if !ours(from) {
        return (remote, true);
    }
    let told = request.headers().get_all("x-forwarded-for").iter();
    let told: Vec<&str> =
        told.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    let mut seen = from;
    for address in told.iter().rev() {
        let Ok(address) = address.trim().parse::<IpAddr>() else { break };
        seen = address.to_canonical();
        if !ours(seen) {
            break;
        }
    }
    (Some(seen), false)
}

fn find(desk: &Arc<Desk>, request: &Request) -> Found {
    // From inside: whoever was found when the request came in.
    if let Some(caller) = request.extensions().get::<Caller>() {
        return Found::Caller(caller.clone());
    }
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if let Some(peer) = request.extensions().get::<PeerCred>().copied() {
        // On the socket a token stands for itself: a program may have fewer rights than its uid, or more.
        if token.is_none() {
            return Found::Caller(local(desk, peer));
        }
    }
    if let Some((_, text)) = token {
        return match desk.auth.tokens.find(text.trim(), desk.ambient.now()) {
            Ok((token, keep)) => {
                if keep {
                    desk.auth.keep_use(desk, token.clone());
                }
                Found::Caller(bearer(desk, &token))
            }
            Err(why) => Found::BadToken(why),
        };
    }
    let cookie = Cookie::Session.read(request.headers(), desk.auth.secure());
    cookie.map_or(Found::Nobody, |cookie| Found::Cookie(cookie.to_owned()))
}

/// A user of this host, by the kernel's word.
fn local(desk: &Desk, peer: PeerCred) -> Caller {
    let (roles, groups) = local_rights(desk, peer.uid);
    let id = format!("local:{}", peer.uid);
    let approver = desk.people.approver(id.clone(), groups.clone(), "cli".to_owned());
    Caller::new(Known {
        name: approver.name().to_owned(),
        id,
        via: "cli",
        also: approver.also,
        groups,
        roles,
        peer: Some(peer),
        logins: desk.keep.logins,
        csrf: None,
        login: None,
        bootstrap: false,
    })
}

fn local_rights(desk: &Desk, uid: u32) -> (BTreeSet<Role>, Vec<GroupName>) {
    let mut roles = BTreeSet::new();
    if uid == 0 {
        roles.extend([Role::Viewer, Role::Auditor, Role::Admin]);
    }
    let groups = desk.local_approvers.get(&uid).cloned();
    if groups.is_some() {
        roles.extend([Role::Viewer, Role::Auditor]);
    }
    let groups = groups.unwrap_or_default();
    if !groups.is_empty() {
        roles.insert(Role::Approver);
    }
    (roles, groups)
}

/// A person, by the cookie of their login.
fn person(desk: &Desk, session: &Session) -> Caller {
    let rights = desk.auth.rights(desk, &session.person);
    Caller::new(Known {
        id: session.person.id.clone(),
        name: session.person.name.clone(),
        via: "console",
        also: session.person.also(&desk.people),
        groups: rights.groups,
        roles: rights.roles,
        peer: None,
        logins: None,
        csrf: Some(session.csrf.clone()),
        login: Some(Login {
            proved: session.proved,
            by: session.person.provider.clone(),
            session: session.id.clone(),
        }),
        bootstrap: session.person.provider == super::person::BOOTSTRAP,
    })
}

/// What a token may now.
pub(super) fn token_rights(desk: &Desk, token: &Token) -> Rights {
    let of_owner = match &token.owner {
        Owner::Person(person) => desk.auth.rights(desk, person),
        Owner::Local(uid) => {
            let (roles, groups) = local_rights(desk, *uid);
            Rights { roles, groups }
        }
        Owner::Program => Rights {
            roles: [Role::Viewer, Role::Auditor, Role::Admin].into_iter().collect(),
            groups: Vec::new(),
        },
    };
    token.rights(&of_owner)
}

/// A token: counted as its owner, who it votes as.
fn bearer(desk: &Desk, token: &Token) -> Caller {
    let also = match &token.owner {
        Owner::Person(person) => person.also(&desk.people),
        Owner::Local(uid) => {
            let id = format!("local:{uid}");
            let mut also = desk.people.approver(id.clone(), Vec::new(), String::new()).also;
            if !also.contains(&id) {
                also.push(id);
            }
            also
        }
        Owner::Program => Vec::new(),
    };
    let rights = token_rights(desk, token);
    Caller::new(Known {
        id: format!("token:{}", token.id),
        name: token.name.clone(),
        via: "api",
        also,
        groups: rights.groups,
        roles: rights.roles,
        ..Known::default()
    })
}
