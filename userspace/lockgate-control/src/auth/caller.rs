//! Who asks, with the roles and groups they have at this moment. Made by the layer of [`crate::Control::authenticated`] alone;
//! whoever holds one may believe it.

use crate::api::{
    peer::{FRESH_LOGIN, Logins, PeerCred},
    problem::Problem,
};
use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use lockgate_model::{Timestamp, id::GroupName, principal::Approver};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, convert::Infallible, fmt, sync::Arc};

/// What somebody may do besides what everybody may. Whoever has any of them is a viewer, too; nothing else is implied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees requests, sessions, targets and policies, masked as policy says.
    Viewer,
    /// Votes, for the policy groups they are in.
    Approver,
    /// Reads, verifies and exports the audit log; sees who logged in.
    Auditor,
    /// Registers targets, ends sessions, makes tokens for others.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Approver, Self::Auditor, Self::Admin];

    /// As configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Approver => "approver",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who asks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Known>);

/// What is known of a caller.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) name: String,
    /// How their votes come in: `cli`, `console`, `api`.
    pub(crate) via: &'static str,
    /// The person behind the id, and every other name they are known by; the first is the one that is counted.
    pub(crate) also: Vec<String>,
    pub(crate) groups: Vec<GroupName>,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) peer: Option<PeerCred>,
    pub(crate) logins: Option<Logins>,
    pub(crate) csrf: Option<String>,
    pub(crate) login: Option<Login>,
    pub(crate) bootstrap: bool,
}

/// When and how a person proved who they are.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    /// None when the provider does not say: then it is not fresh.
    pub(crate) proved: Option<Timestamp>,
    /// The provider.
    pub(crate) by: String,
    /// Which session it made; names it for lists and logout, opens nothing.
    pub(crate) session: String,
}

impl Caller {
    pub(crate) fn new(known: Known) -> Self {
        Self(Arc::new(known))
    }

    /// `local:1000`, `oidc:<provider>:<subject>`, `saml:<provider>:<name id>`, `token:<id>` or `bootstrap:admin`.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What people call them; for display alone.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The policy groups they vote for.
    pub fn groups(&self) -> &[GroupName] {
        &self.0.groups
    }

    /// Whether they have a role.
    pub fn has(&self, role: Role) -> bool {
        match role {
            Role::Viewer => !self.0.roles.is_empty(),
            Role::Approver | Role::Auditor | Role::Admin => self.0.roles.contains(&role),
        }
    }

    /// Every role they have.
    pub fn roles(&self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(|role| self.has(*role))
    }

    /// Refuses whoever lacks a role.
    ///
    /// # Errors
    /// 403 `role_required`, with the role and how one gets it.
    pub fn require(&self, role: Role) -> Result<(), Problem> {
        self.require_any(&[role])
    }

    /// Refuses whoever has none of these roles.
    ///
    /// # Errors
    /// 403 `role_required`, with the roles and how one gets them.
    pub fn require_any(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.iter().any(|role| self.has(*role)) {
            return Ok(());
        }
        let wanted = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        let how = if self.0.peer.is_some() {
            "on this host root is admin and auditor, and the uids in api.local_approvers are approvers and auditors"
        } else if self.0.id.starts_with("token:") {
            "the token was made without it, or its owner has it no more"
        } else {
            "the identity provider's groups that give it are listed in login.roles, and the policy's groups in login.groups"
        };
        let detail = format!("this needs the role {wanted}, which {} does not have: {how}", self.0.id);
        Err(Problem::new(StatusCode::FORBIDDEN, "role_required", "A role is missing", detail))
    }

    /// The process at the other end of the unix socket, when it came that way.
    pub fn peer(&self) -> Option<PeerCred> {
        self.0.peer
    }

    /// What a form of this login's pages must carry (hidden field `csrf`, or header `x-csrf-token`). None for the unix socket
    /// and for tokens, which no foreign page can make a browser send.
    pub fn csrf(&self) -> Option<&str> {
        self.0.csrf.as_deref()
    }

    /// How it is known that a person has just logged in; None when nobody has, or too long ago.
    pub fn fresh_login(&self, now: Timestamp) -> Option<String> {
        if let Some(peer) = &self.0.peer {
            return self.0.logins.and_then(|logins| logins(peer));
        }
        let login = self.0.login.as_ref()?;
        let age = u64::try_from(now.duration_since(login.proved?).as_secs()).ok()?;
        (age <= FRESH_LOGIN.as_secs()).then(|| format!("logged in by {} {age} s ago", login.by))
    }

    /// Whether it is the administrator by one-time token, which is for trying lockgate out: every page says so.
    pub fn is_bootstrap(&self) -> bool {
        self.0.bootstrap
    }

    /// How their votes come in.
    pub(crate) fn via(&self) -> &'static str {
        self.0.via
    }

    /// The login's session, when there is one.
    pub(crate) fn session(&self) -> Option<&str> {
        self.0.login.as_ref().map(|login| login.session.as_str())
    }

    /// As somebody who decides.
    ///
    /// # Errors
    /// 403 `not_authorized` for who is in no policy group, or whose token may not vote.
    pub(crate) fn approver(&self) -> Result<Approver, Problem> {
        if self.0.groups.is_empty() || !self.has(Role::Approver) {
            let detail = match self.uid() {
                Some(uid) => format!("uid {uid} has no groups in api.local_approvers"),
                None => format!(
                    "{} is in no group of the policy: see login.groups and the `oidc:` of the policy's groups",
                    self.0.id
                ),
            };
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "not_authorized",
                "This caller decides nothing",
                detail,
            ));
        }
        Ok(self.as_approver())
    }

    /// As whoever did something, in a record.
    pub(crate) fn as_approver(&self) -> Approver {
        Approver {
            id: self.0.id.clone(),
            groups: self.0.groups.clone(),
            via: self.0.via.to_owned(),
            also: self.0.also.clone(),
        }
    }

    /// The uid of the asking process.
    pub(crate) fn uid(&self) -> Option<u32> {
        self.0.peer.map(|peer| peer.uid)
    }

    /// Every uid of this host that is theirs.
    pub(crate) fn uids(&self) -> impl Iterator<Item = u32> {
        let named = std::iter::once(&self.0.id).chain(&self.0.also);
        let named = named.filter_map(|id| id.strip_prefix("local:").and_then(|uid| uid.parse().ok()));
        self.uid().into_iter().chain(named)
    }
}

/// Nobody is known to ask.
#[derive(Debug)]
pub struct NotKnown {
    /// The page to come back to after logging in; None for programs.
    next: Option<String>,
}

impl NotKnown {
    pub(super) fn of(parts: &Parts) -> Self {
        let page = matches!(parts.method, Method::GET | Method::HEAD)
            && !parts.uri.path().starts_with("/v1/")
            && wants_html(&parts.headers);
        Self { next: page.then(|| parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()) }
    }
}

/// Whether a browser asks for a page.
pub(crate) fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html"))
}

impl IntoResponse for NotKnown {
    fn into_response(self) -> Response {
        let to_login = self.next.and_then(|next| {
            let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
            HeaderValue::from_str(&format!("/login?next={next}")).ok()
        });
        match to_login {
            Some(location) => (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response(),
            None => {
                let detail = "send an API token (`Authorization: Bearer lgt_…`), log in, or ask on the agent's unix socket";
                let problem =
                    Problem::new(StatusCode::UNAUTHORIZED, "login_required", "Nobody is logged in", detail);
                let challenge =
                    [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"lockgate\""))];
                (challenge, problem).into_response()
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = NotKnown;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, NotKnown> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| NotKnown::of(parts))
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(roles: &[Role]) -> Caller {
        Caller::new(Known {
            id: "oidc:corp:1".into(),
            roles: roles.iter().copied().collect(),
            ..Known::default()
        })
    }

    #[test]
    fn every_role_sees_and_none_implies_another() {
        assert!(!caller(&[]).has(Role::Viewer));
        for role in Role::ALL {
            let known = caller(&[role]);
            let expected: Vec<Role> =
                Role::ALL.into_iter().filter(|other| *other == Role::Viewer || *other == role).collect();
            assert_eq!(known.roles().collect::<Vec<_>>(), expected);
        }
        let problem = caller(&[Role::Viewer]).require(Role::Admin).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (403, "role_required"));
        assert!(problem.detail.contains("the role admin") && problem.detail.contains("login.roles"));
    }

    #[test]
    fn a_login_is_fresh_for_a_quarter_of_an_hour_and_not_before_it_was() {
        let at: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let login = Login { proved: Some(at), by: "corp".into(), session: String::new() };
        let known = Caller::new(Known { login: Some(login), ..Known::default() });
        for (after, fresh) in [(0, true), (900, true), (901, false), (-60, false)] {
            let now = at + jiff::SignedDuration::from_secs(after);
            assert_eq!(known.fresh_login(now).is_some(), fresh, "{after}");
        }
        assert!(caller(&[]).fresh_login(at).is_none());
    }

    fn caller_with_ids(id: &str, also: &[&str]) -> Vec<u32> {
        let also = also.iter().map(|id| (*id).to_owned()).collect();
        Caller::new(Known { id: id.into(), also, ..Known::default() }).uids().collect()
    }

    #[test]
    fn uids_are_those_of_every_id() {
        assert_eq!(caller_with_ids("local:7", &[]), [7]);
        assert_eq!(caller_with_ids("oidc:corp:1", &["ana", "local:1002"]), [1002]);
        assert_eq!(caller_with_ids("bootstrap:admin", &["local:0"]), [0]);
    }
}
