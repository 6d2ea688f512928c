//! HTTP: what integrations and people send. Two routers, because they have two kinds of callers: the public
//! one (TCP; integrations prove themselves by signature, readers by their link's token) and the host's (unix
//! socket; callers are known by their uid).

mod audit;
pub(crate) mod body;
mod channels;
pub(crate) mod decision;
pub(crate) mod events;
mod glass;
mod grants;
pub(crate) mod host;
pub(crate) mod idempotency;
pub mod openapi;
pub(crate) mod page;
pub mod peer;
mod policy;
pub mod problem;
mod public;
pub(crate) mod rate;
pub(crate) mod refusal;
pub(crate) mod replay;
pub(crate) mod sessions;
mod slack;
pub(crate) mod targets;
pub(crate) mod verification;
pub(crate) mod vote;

pub(crate) use decision::read_body;

use crate::Control;
use axum::{
    Router,
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use problem::Problem;
use std::convert::Infallible;

/// What the API counts and keeps of its callers, each within bounds of its own.
#[derive(Default)]
pub(crate) struct Bounds {
    pub(crate) rates: rate::Rates,
    pub(crate) kept: std::sync::Arc<idempotency::Kept>,
    pub(crate) streams: std::sync::Arc<events::Streams>,
    pub(crate) verifications: verification::Verifications,
}

impl Control {
    /// The host's API, to be served on the unix socket; the binary merges routes of its own into it, then
    /// calls [`finish`].
    ///
    /// - `GET /v1/approvals?state=pending|resolved|approved|denied|expired|cancelled|all&limit=N&before=ID`
    /// - `GET /v1/approvals/{id}`
    /// - `POST /v1/approvals/{id}/approve|deny` with `{"reason": …, "command_digest": …, "grant": …}`
    /// - `GET /v1/bundles/{id}`, `POST /v1/bundles/{id}/approve|deny`
    /// - `GET /v1/grants`, `POST /v1/grants/{id}/revoke`
    /// - `GET|POST /v1/breakglass`, `POST /v1/breakglass/{id}/end|review`
    /// - `GET /healthz`, `GET /readyz`
    pub fn router(&self) -> Router {
        host::routes(self.desk.clone())
            .merge(grants::routes(self.desk.clone()))
            .merge(glass::routes(self.desk.clone()))
            .merge(public::decisions(self.desk.clone()))
            .merge(crate::auth::api::routes(self.desk.clone()))
            .merge(public::health(self.desk.clone()))
            .merge(sessions::routes(self.desk.clone()))
            .merge(targets::routes(self.desk.clone()))
            .merge(policy::routes(self.desk.clone()))
            .merge(audit::routes(self.desk.clone()))
            .merge(channels::routes(self.desk.clone()))
            .merge(events::routes(self.desk.clone()))
            .merge(openapi::routes())
    }

    /// What may be reached over TCP: decisions of integrations, the page behind a notification's link, health.
    /// The binary merges its metrics into it, then calls [`finish`].
    ///
    /// - `POST /v1/approvals/{id}/decision`, `POST /v1/bundles/{id}/decision`
    /// - `GET /v1/approvals/{id}?token=…`, `GET /v1/bundles/{id}?token=…`
    /// - `GET /healthz`, `GET /readyz`
    pub fn public_router(&self) -> Router {
        public::routes(self.desk.clone()).merge(public::health(self.desk.clone()))
    }
}

/// The `{id}` of a path, as sent: what cannot be read names nothing, and is answered like any unknown id.
pub(crate) struct PathId(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.map_or_else(|_| String::new(), |Path(id)| id)))
    }
}

/// Gives a router the answers for paths and methods it does not have, as problem documents.
pub fn finish(router: Router) -> Router {
    let router = router
        .fallback(async || Problem::not_found("there is nothing at this path; see the API reference"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                axum::http::StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "this path does not take this method; see the API reference",
            )
        });
    #[cfg(test)]
    let router = router.layer(axum::middleware::from_fn(openapi::tests::checked));
    router
}

#[cfg(test)]
mod tests;
