//! Who may use which route: one table for the API and the console. A route without a line is refused to everybody, so that
//! nothing is open by being forgotten.
//!
//! What is finer than a role (whose request, which group, a uid of this host) is judged by the handler, which knows the thing.

use super::caller::{Caller, Role};
use axum::http::Method;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Anybody: what it gives it gives by other proof (a signature, a link's token), or to everybody.
    Public,
    /// Whoever is known: the handler judges the rest.
    Known,
    /// Whoever has one of these roles.
    Any(&'static [Role]),
}

const VIEWER: Rule = Rule::Any(&[Role::Viewer]);
const ADMIN: Rule = Rule::Any(&[Role::Admin]);
const KEEPER: Rule = Rule::Any(&[Role::Auditor, Role::Admin]);
const TAKER: Rule = Rule::Any(&[Role::Approver, Role::Admin]);

/// Method, path as it is registered, who may.
#[rustfmt::skip]
pub(crate) const RULES: &[(&str, &str, Rule)] = &[
    // Whoever asks, before anybody is known.
    ("GET", "/healthz", Rule::Public),
    ("GET", "/readyz", Rule::Public),
    ("GET", "/metrics", Rule::Public),
    ("GET", "/login", Rule::Public),
    ("GET", "/login/{provider}", Rule::Public),
    ("GET", "/login/{provider}/callback", Rule::Public),
    ("POST", "/login/{provider}/acs", Rule::Public),
    ("GET", "/login/{provider}/finish", Rule::Public),
    ("GET", "/login/{provider}/metadata", Rule::Public),
    ("POST", "/login/{provider}/backchannel", Rule::Public),
    ("POST", "/login/bootstrap", Rule::Public),
    ("POST", "/logout", Rule::Known),

    // Decisions by signature, views by a link's token.
    ("POST", "/v1/approvals/{id}/decision", Rule::Public),
    ("POST", "/v1/bundles/{id}/decision", Rule::Public),
    ("POST", "/v1/channels/{name}/slack", Rule::Public),
    ("GET", "/v1/approvals/{id}", Rule::Public),
    ("GET", "/v1/bundles/{id}", Rule::Public),

    // Requests: users of this host see their own.
    ("GET", "/v1/approvals", Rule::Known),
    ("POST", "/v1/approvals/{id}/approve", Rule::Known),
    ("POST", "/v1/approvals/{id}/deny", Rule::Known),
    ("POST", "/v1/bundles/{id}/approve", Rule::Known),
    ("POST", "/v1/bundles/{id}/deny", Rule::Known),
    ("GET", "/v1/grants", VIEWER),
    ("POST", "/v1/grants/{id}/revoke", TAKER),
    ("GET", "/v1/breakglass", VIEWER),
    ("POST", "/v1/breakglass", Rule::Known),
    ("POST", "/v1/breakglass/{id}/end", TAKER),
    ("POST", "/v1/breakglass/{id}/review", Rule::Known),

    // People.
    ("GET", "/v1/whoami", Rule::Known),
    ("GET", "/v1/logins", Rule::Known),
    ("POST", "/v1/logins/{id}/end", Rule::Known),
    ("POST", "/v1/people/end", ADMIN),
    ("GET", "/v1/api-tokens", Rule::Known),
    ("POST", "/v1/api-tokens", Rule::Known),
    ("POST", "/v1/api-tokens/{id}/revoke", Rule::Known),
    ("POST", "/v1/bootstrap", ADMIN),

    // This host.
    ("POST", "/v1/run", Rule::Known),
    ("POST", "/v1/tokens", Rule::Known),
    ("POST", "/v1/self-test", Rule::Known),
    ("GET", "/v1/status", VIEWER),
    ("GET", "/v1/sessions", VIEWER),
    ("GET", "/v1/sessions/{id}", VIEWER),
    ("POST", "/v1/sessions/{id}/kill", ADMIN),
    ("GET", "/v1/search", VIEWER),
    ("GET", "/v1/events", VIEWER),
    ("GET", "/v1/targets", VIEWER),
    ("POST", "/v1/targets", ADMIN),
    ("GET", "/v1/targets/{name}", VIEWER),
    ("PUT", "/v1/targets/{name}", ADMIN),
    ("DELETE", "/v1/targets/{name}", ADMIN),
    ("GET", "/v1/governed", VIEWER),
    ("GET", "/v1/policy", VIEWER),
    ("POST", "/v1/policy/explain", VIEWER),
    ("POST", "/v1/policy/test", VIEWER),
    ("GET", "/v1/channels", VIEWER),
    ("POST", "/v1/rehearsals", ADMIN),
    ("GET", "/v1/audit/verify", KEEPER),
    ("GET", "/v1/audit/verification", KEEPER),
    ("POST", "/v1/audit/verification", KEEPER),
    ("POST", "/v1/audit/verification/stop", KEEPER),
    ("GET", "/v1/audit/checkpoint", KEEPER),
    ("GET", "/v1/audit/holds", KEEPER),
    ("POST", "/v1/audit/holds", ADMIN),
    ("POST", "/v1/audit/holds/{name}/release", ADMIN),
    ("GET", "/v1/audit/retention", KEEPER),
    ("POST", "/v1/audit/retention", ADMIN),
    ("GET", "/v1/audit/mentions/{id}", KEEPER),
    ("GET", "/v1/audit/proofs/{seq}", KEEPER),
    ("POST", "/v1/audit/growth", KEEPER),
    ("GET", "/v1/openapi.json", Rule::Public),

    // The console; what its forms do is done by the routes above, as the same caller.
    ("GET", "/", Rule::Known),
    ("GET", "/me", Rule::Known),
    ("GET", "/approvals", VIEWER),
    ("GET", "/approvals/live", VIEWER),
    ("POST", "/approvals/decide", VIEWER),
    ("GET", "/approvals/{id}", VIEWER),
    ("GET", "/approvals/{id}/live", VIEWER),
    ("POST", "/approvals/{id}/decide", VIEWER),
    ("GET", "/bundles/{id}", VIEWER),
    ("POST", "/bundles/{id}/decide", VIEWER),
    ("GET", "/grants", VIEWER),
    ("POST", "/grants/{id}/revoke", TAKER),
    ("GET", "/breakglass", VIEWER),
    ("POST", "/breakglass", VIEWER),
    ("POST", "/breakglass/{id}/end", TAKER),
    ("POST", "/breakglass/{id}/review", VIEWER),
    ("GET", "/sessions", VIEWER),
    ("GET", "/sessions/{id}", VIEWER),
    ("GET", "/sessions/{id}/live", VIEWER),
    ("POST", "/sessions/{id}/kill", ADMIN),
    ("GET", "/search", VIEWER),
    ("GET", "/targets", VIEWER),
    ("POST", "/targets", ADMIN),
    ("POST", "/targets/{name}/remove", ADMIN),
    ("GET", "/governed", VIEWER),
    ("GET", "/policies", VIEWER),
    ("GET", "/audit", KEEPER),
    ("GET", "/audit/live", KEEPER),
    ("POST", "/audit/verify", KEEPER),
    ("POST", "/audit/verify/stop", KEEPER),
    ("GET", "/audit/proof", KEEPER),
];

/// What lies below these needs no line: files that are the same for everybody.
const PUBLIC_BELOW: &[&str] = &["/assets/"];

/// The rule of a route; None when nobody made one.
pub(crate) fn rule(method: &Method, path: &str) -> Option<Rule> {
    if PUBLIC_BELOW.iter().any(|below| path.starts_with(below)) {
        return Some(Rule::Public);
    }
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    RULES.iter().find(|(of, route, _)| *of == method && *route == path).map(|(_, _, rule)| *rule)
}

impl Rule {
    /// Whether somebody who is known may.
    pub(crate) fn admits(self, caller: &Caller) -> bool {
        match self {
            Self::Public | Self::Known => true,
            Self::Any(roles) => roles.iter().any(|role| caller.has(*role)),
        }
    }
}
