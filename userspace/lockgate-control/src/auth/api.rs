//! The API of people: who one is, one's logins and tokens, and those of others for who keeps watch.

use super::{
    caller::{Caller, Role},
    session::Session,
    token::{Owner, Token, TokenError, Wish},
};
use crate::{
    api::{PathId, host, problem::Problem, refusal},
    desk::Desk,
    text,
};
use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use lockgate_model::{
    access::{Access, AccessAction},
    id::GroupName,
    time::parse_duration,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a token is good unless said otherwise, and at most.
const TOKEN_GOOD: Duration = Duration::from_secs(30 * 24 * 3_600);
const TOKEN_GOOD_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/whoami", get(whoami))
        .route("/v1/logins", get(logins))
        .route("/v1/logins/{id}/end", post(end_login))
        .route("/v1/people/end", post(end_person))
        .route("/v1/api-tokens", get(tokens).post(make_token))
        .route("/v1/api-tokens/{id}/revoke", post(revoke_token))
        .route("/v1/bootstrap", post(bootstrap))
        .with_state(desk)
}

async fn whoami(State(desk): State<Arc<Desk>>, caller: Caller) -> Json<Value> {
    Json(json!({
        "id": caller.id(),
        "name": text::visible(caller.name()),
        "roles": caller.roles().collect::<Vec<_>>(),
        "groups": caller.groups(),
        "fresh_login": caller.fresh_login(desk.ambient.now()),
        "csrf": caller.csrf(),
        "login": caller.session(),
        "warning": caller.is_bootstrap().then_some(super::bootstrap::WARNING),
    }))
}

/// One's own; everybody's for who keeps watch.
async fn logins(State(desk): State<Arc<Desk>>, caller: Caller) -> Json<Value> {
    let all = caller.has(Role::Auditor) || caller.has(Role::Admin);
    let list = desk.auth.sessions.list(Instant::now());
    let items =
        list.iter().filter(|(session, _)| all || session.person.id == caller.id()).map(|(session, idle)| {
            json!({
                "id": session.id,
                "person": session.person.id,
                "name": text::visible(&session.person.name),
                "provider": session.person.provider,
                "began_at": session.began,
                "proved_at": session.proved,
                "idle_seconds": idle.as_secs(),
                "source": session.source,
                "current": caller.session() == Some(session.id.as_str()),
            })
        });
    Json(json!({ "items": items.collect::<Vec<_>>() }))
}

async fn end_login(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<Value>, Problem> {
    let may = |session: &Session| session.person.id == caller.id() || caller.has(Role::Admin);
    let ended = desk.auth.sessions.end_where(|session| session.id == id && may(session));
    let session = ended.first().ok_or_else(|| {
        let id = text::visible(&text::clip(&id, 64)).into_owned();
        Problem::not_found(format!("no login {id:?} of yours is in force; `GET /v1/logins` lists them"))
    })?;
    desk.auth.note_ended(&desk, session, Some(&caller), "ended by hand");
    Ok(Json(json!({ "id": session.id, "state": "ended" })))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Gone {
    #[serde(default)]
    person: String,
}

/// Somebody has left: every login ends and every token of theirs is revoked, at once.
async fn end_person(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    body: Body,
) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let Gone { person } = host::read(body).await?;
    if person.is_empty() {
        return Err(Problem::malformed("expected person: an id as `GET /v1/logins` shows it"));
    }
    let ended = desk.auth.sessions.end_where(|session| session.person.id == person);
    for session in &ended {
        desk.auth.note_ended(&desk, session, Some(&caller), "ended with every other login of this person");
    }
    let own = desk.auth.tokens.list().into_iter().filter(|token| token.is_of(&person));
    let mut revoked = Vec::new();
    for token in own.collect::<Vec<_>>() {
        take_back(&desk, &caller, token.id.clone()).await?;
        revoked.push(token.id);
    }
    Ok(Json(json!({
        "person": person,
        "logins_ended": ended.iter().map(|session| session.id.as_str()).collect::<Vec<_>>(),
        "tokens_revoked": revoked,
    })))
}

fn shown(token: &Token) -> Value {
    let owner = match &token.owner {
        Owner::Person(person) => json!(person.id),
        Owner::Local(uid) => json!(format!("local:{uid}")),
        Owner::Program => Value::Null,
    };
    json!({
        "id": token.id,
        "name": text::visible(&token.name),
        "owner": owner,
        "roles": token.roles,
        "groups": token.groups,
        "made_at": token.made_at,
        "made_by": token.made_by,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
    })
}

/// One's own; everybody's for who keeps watch.
async fn tokens(State(desk): State<Arc<Desk>>, caller: Caller) -> Json<Value> {
    let all = caller.has(Role::Auditor) || caller.has(Role::Admin);
    let list = desk.auth.tokens.list();
    let items = list.iter().filter(|token| all || token.is_of(caller.id())).map(shown);
    Json(json!({ "items": items.collect::<Vec<_>>() }))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenWish {
    #[serde(default)]
    name: String,
    /// None: as many of one's own as there are.
    #[serde(default)]
    roles: Option<BTreeSet<Role>>,
    #[serde(default)]
    groups: Option<Vec<GroupName>>,
    #[serde(default, rename = "for")]
    duration: Option<String>,
    /// For a program that does not vote, and not for oneself.
    #[serde(default)]
    program: bool,
}

async fn make_token(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let asked: TokenWish = host::read(body).await?;
    let wish = wish(&desk, &caller, asked)?;
    let now = desk.ambient.now();
    let making = desk.auth.tokens.clone();
    let made = tokio::task::spawn_blocking(move || making.make(wish, now)).await;
    let (text, token) = made.map_err(|_| Problem::unavailable("the token could not be made"))?.map_err(
        |error| match &error {
            TokenError::TooMany(_) => {
                Problem::new(StatusCode::CONFLICT, "too_many_tokens", "Too many tokens", error.to_string())
            }
            TokenError::NoRandomness(_) | TokenError::Keep(_) => Problem::unavailable(error.to_string()),
        },
    )?;
    let mut scope: Vec<String> = token.roles.iter().map(|role| role.as_str().to_owned()).collect();
    scope.extend(token.groups.iter().map(ToString::to_string));
    let recorded = desk.auth.record_first(
        &desk,
        Access {
            action: AccessAction::TokenMade,
            by: Some(caller.id().to_owned()),
            via: caller.via().to_owned(),
            subject: Some(token.id.clone()),
            source: None,
            groups: scope,
            expires: Some(token.expires_at),
            code: None,
            detail: token.name.clone(),
        },
    );
    if let Err(error) = recorded.await {
        let tokens = desk.auth.tokens.clone();
        let id = token.id.clone();
        desk.runtime.spawn_blocking(move || tokens.revoke(&id));
        return Err(Problem::unavailable(format!(
            "the token could not be recorded ({error}) and is not good"
        )));
    }
    let mut answer = shown(&token);
    crate::view::merge(&mut answer, json!({ "token": text.expose() }));
    Ok((StatusCode::CREATED, Json(answer)))
}

/// At most what the caller has.
fn wish(desk: &Desk, caller: &Caller, asked: TokenWish) -> Result<Wish, Problem> {
    let name = super::person::fit_name(&asked.name)
        .ok_or_else(|| Problem::malformed("expected name: what the token is for, at most 255 bytes"))?;
    let duration = asked.duration.as_deref().map(parse_duration).transpose();
    let duration =
        duration.map_err(|error| Problem::malformed(format!("for: {error}")))?.unwrap_or(TOKEN_GOOD);
    if duration.is_zero() || duration > TOKEN_GOOD_MAX {
        return Err(Problem::malformed("expected for: at most 366d, and more than nothing"));
    }
    let too_much = |detail: String| {
        Problem::new(StatusCode::FORBIDDEN, "more_than_own", "A token has at most its maker's rights", detail)
    };
    let owner = if asked.program {
        caller.require(Role::Admin)?;
        let votes = asked.roles.as_ref().is_some_and(|roles| roles.contains(&Role::Approver));
        if votes || asked.groups.as_ref().is_some_and(|groups| !groups.is_empty()) {
            return Err(too_much(
                "a program does not vote: only people approve, with tokens of their own".to_owned(),
            ));
        }
        Owner::Program
    } else {
        desk.auth.owner(caller).ok_or_else(|| {
            too_much(
                "a token and the bootstrap administrator make no tokens of their own; log in as a person"
                    .to_owned(),
            )
        })?
    };
    let program = owner == Owner::Program;
    let mine: BTreeSet<Role> = caller.roles().filter(|role| !program || *role != Role::Approver).collect();
    let roles =
        asked.roles.unwrap_or_else(|| if program { BTreeSet::from([Role::Viewer]) } else { mine.clone() });
    if let Some(role) = roles.iter().find(|role| !mine.contains(role)) {
        return Err(too_much(format!("{} does not have the role {role}", caller.id())));
    }
    if roles.is_empty() {
        return Err(Problem::malformed(
            "expected at least one of the roles viewer, approver, auditor, admin",
        ));
    }
    let votes = roles.contains(&Role::Approver);
    let groups = asked.groups.unwrap_or_else(|| if votes { caller.groups().to_vec() } else { Vec::new() });
    if let Some(group) = groups.iter().find(|group| !caller.groups().contains(group)) {
        return Err(too_much(format!("{} is not in the group {group}", caller.id())));
    }
    let lasts = jiff::SignedDuration::try_from(duration).unwrap_or_default();
    Ok(Wish {
        name,
        owner,
        roles,
        groups,
        made_by: caller.id().to_owned(),
        expires_at: desk.ambient.now() + lasts,
    })
}

impl super::Auth {
    /// Whose a token would be that a caller makes; None for a token, and for who is no person.
    fn owner(&self, caller: &Caller) -> Option<Owner> {
        if let Some(uid) = caller.uid() {
            return Some(Owner::Local(uid));
        }
        let session = caller.session().filter(|_| !caller.is_bootstrap())?;
        let list = self.sessions.list(Instant::now());
        let own = list.into_iter().find(|(own, _)| own.id == session)?;
        Some(Owner::Person(own.0.person.clone()))
    }
}

async fn revoke_token(
    State(desk): State<Arc<Desk>>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<Value>, Problem> {
    let own = caller.id() == format!("token:{id}");
    let known = desk.auth.tokens.list().into_iter().find(|token| token.id == id);
    let known = known.filter(|token| own || token.is_of(caller.id()) || caller.has(Role::Admin));
    let token = known.ok_or_else(|| {
        let id = text::visible(&text::clip(&id, 64)).into_owned();
        Problem::not_found(format!("no token {id:?} of yours is in force; `GET /v1/api-tokens` lists them"))
    })?;
    take_back(&desk, &caller, token.id.clone()).await?;
    let mut answer = shown(&token);
    crate::view::merge(&mut answer, json!({ "state": "revoked" }));
    Ok(Json(answer))
}

/// Out of force first: what it gave is over whatever the shelf and the log do.
async fn take_back(desk: &Arc<Desk>, caller: &Caller, id: String) -> Result<(), Problem> {
    let tokens = desk.auth.tokens.clone();
    let named = id.clone();
    let revoked = tokio::task::spawn_blocking(move || tokens.revoke(&named)).await;
    let kept = revoked.map_err(|_| Problem::unavailable("the token could not be revoked"))?;
    desk.auth.record(
        desk,
        &refusal::Caller::of(caller),
        Access {
            action: AccessAction::TokenRevoked,
            by: Some(caller.id().to_owned()),
            via: caller.via().to_owned(),
            subject: Some(id),
            source: None,
            groups: Vec::new(),
            expires: None,
            code: None,
            detail: String::new(),
        },
    );
    match kept {
        Some((_, Err(error))) => Err(Problem::unavailable(format!(
            "it is revoked now, but would be back after a restart: {error}"
        ))),
        Some((_, Ok(()))) | None => Ok(()),
    }
}

/// A new one-time token for the first administrator: told to root on this host alone.
async fn bootstrap(State(desk): State<Arc<Desk>>, caller: Caller) -> Result<Json<Value>, Problem> {
    if caller.uid() != Some(0) {
        return Err(Problem::forbidden("only root on this host may make the first administrator's token"));
    }
    if desk.auth.ways().settings.as_ref().is_none_or(|settings| settings.bootstrap.is_none()) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "bootstrap_off",
            "There is no bootstrap administrator",
            "login.bootstrap is not set; people log in with login.providers",
        ));
    }
    let access = Access {
        action: AccessAction::BootstrapMade,
        by: Some(caller.id().to_owned()),
        via: caller.via().to_owned(),
        subject: None,
        source: None,
        groups: Vec::new(),
        expires: None,
        code: None,
        detail: String::new(),
    };
    let recorded = desk.auth.record_first(&desk, access).await;
    recorded.map_err(|error| Problem::unavailable(format!("it could not be recorded: {error}")))?;
    let token = desk.auth.bootstrap.make(Instant::now());
    let token = token.map_err(|error| Problem::unavailable(error.to_string()))?;
    Ok(Json(json!({
        "token": token.expose(),
        "good_for_seconds": super::bootstrap::GOOD.as_secs(),
        "warning": super::bootstrap::WARNING,
    })))
}
