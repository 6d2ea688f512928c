//! Who asks over HTTP and what they may: people who log in, tokens of programs, users of this host.
//!
//! [`Caller`] is the answer, the same on the unix socket and on TCP; [`Control::authenticated`] is the layer that finds it and
//! that refuses whatever the table of routes ([`rules`]) does not allow. It deliberately does not decide who may vote on what:
//! the approval machine does, with the groups that are found here. Identity providers are asked by [`oidc`] and [`saml`]; what
//! they say is kept as it came, and what it gives is found anew for every request.

pub(crate) mod api;
mod attempt;
pub mod bootstrap;
pub mod caller;
mod csrf;
pub mod gate;
mod headers;
mod limit;
mod login;
mod oidc;
mod person;
pub(crate) mod rules;
mod saml;
mod secret;
mod session;
pub mod settings;
mod token;

pub use caller::{Caller, Role};

use crate::{
    Control,
    api::{idempotency, rate, refusal},
    desk::Desk,
};
use attempt::Attempts;
use axum::{Router, middleware};
use bootstrap::Bootstrap;
use limit::Limits;
use lockgate_model::{
    access::Access,
    event::{Event, EventKind},
    id::GroupName,
    port::{RecordError, Shelf},
};
use person::{Person, Rights};
use session::Sessions;
use settings::{LoginError, LoginSettings, ProviderKind};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use token::{Token, Tokens};

/// Sessions of nobody: without `login:` there are none.
const NO_LOGIN: Duration = Duration::ZERO;

/// Everything that is known of who may ask.
pub(crate) struct Auth {
    pub(crate) settings: Option<LoginSettings>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) sessions: Sessions,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) attempts: Attempts,
    pub(crate) limits: Limits,
    pub(crate) bootstrap: Bootstrap,
    /// The origin of `api.public_url`.
    pub(crate) origin: Option<String>,
}

/// A place where people prove who they are.
pub(crate) struct Provider {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Oidc(Box<oidc::Oidc>),
    Saml(Box<saml::Saml>),
}

impl Auth {
    /// Asks no provider yet.
    pub(crate) fn new(
        mut settings: Option<LoginSettings>,
        base: Option<&str>,
        shelf: Option<Arc<dyn Shelf>>,
    ) -> Result<Self, LoginError> {
        let mut providers = Vec::new();
        if let Some(settings) = &mut settings {
            if settings.providers.is_empty() && settings.bootstrap.is_none() {
                return Err(LoginError::Nobody);
            }
            let mut names = BTreeSet::new();
            for provider in &mut settings.providers {
                if !settings::is_name(&provider.name) || provider.name == person::BOOTSTRAP {
                    return Err(LoginError::Name(provider.name.clone()));
                }
                if !names.insert(provider.name.clone()) {
                    return Err(LoginError::DuplicateName(provider.name.clone()));
                }
                providers.push(prepare(provider, base)?);
            }
        }
        let lasts =
            settings.as_ref().map_or((NO_LOGIN, NO_LOGIN), |settings| (settings.idle, settings.lasts));
        Ok(Self {
            settings,
            providers,
            sessions: Sessions::new(lasts.0, lasts.1),
            tokens: Arc::new(Tokens::restore(shelf)),
            attempts: Attempts::default(),
            limits: Limits::default(),
            bootstrap: Bootstrap::default(),
            origin: base.and_then(|base| {
                let url = reqwest::Url::parse(base).ok()?;
                Some(url.origin().ascii_serialization())
            }),
        })
    }

    /// Whether browsers reach us by TLS.
    pub(crate) fn secure(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.secure)
    }

    /// What a person may under the configuration and the policy in force.
    pub(crate) fn rights(&self, desk: &Desk, person: &Person) -> Rights {
        let Some(settings) = &self.settings else { return Rights::default() };
        let policy = desk.keep.policy.as_ref().map(|policy| policy.load_full());
        let claimed = policy.iter().flat_map(|policy| policy.claimed_groups());
        person.rights(settings, claimed)
    }

    /// Records something of somebody's access; never waits. Refusals are recorded within a rate.
    pub(crate) fn record(&self, desk: &Arc<Desk>, caller: &refusal::Caller, access: Access) {
        metrics::counter!("lockgate_access_total", "action" => access.action.as_str()).increment(1);
        if access.action.is_refusal() && !refusal::admitted(desk, caller) {
            return;
        }
        tracing::info!(
            action = access.action.as_str(),
            by = access.by,
            via = access.via,
            code = access.code,
            "access"
        );
        desk.recorder.submit(vec![Event {
            at: desk.ambient.now(),
            session: None,
            kind: EventKind::Access(Box::new(access)),
        }]);
    }

    /// The same before it has effect: what cannot be recorded does not happen.
    pub(crate) async fn record_first(&self, desk: &Desk, access: Access) -> Result<(), RecordError> {
        metrics::counter!("lockgate_access_total", "action" => access.action.as_str()).increment(1);
        tracing::info!(action = access.action.as_str(), by = access.by, via = access.via, "access");
        desk.record(EventKind::Access(Box::new(access))).await
    }

    /// Writes down that a token was used.
    pub(crate) fn keep_use(&self, desk: &Arc<Desk>, token: Token) {
        let tokens = self.tokens.clone();
        desk.runtime.spawn_blocking(move || {
            if let Err(error) = tokens.keep(&token) {
                tracing::warn!(token = token.id, error, "the last use of an API token cannot be kept");
            }
        });
    }
}

fn prepare(provider: &mut settings::ProviderSettings, base: Option<&str>) -> Result<Provider, LoginError> {
    let base = base.ok_or(LoginError::NoPublicUrl)?;
    let name = provider.name.clone();
    let fail = |detail| LoginError::Provider { name: name.clone(), detail };
    let kind = match &provider.kind {
        ProviderKind::Oidc(settings) => {
            Kind::Oidc(Box::new(oidc::Oidc::new(&name, settings.clone(), base).map_err(fail)?))
        }
        ProviderKind::Saml(settings) => {
            Kind::Saml(Box::new(saml::Saml::new(&name, settings.clone(), base).map_err(fail)?))
        }
    };
    let label = provider.label.clone().unwrap_or_else(|| name.clone());
    Ok(Provider { name, label, kind })
}

impl Control {
    /// Puts the layer around a router that finds out who asks, for handlers to take as [`Caller`]: by the unix socket's
    /// peer, an API token or a login's cookie. Apply it outermost, after every route has been merged.
    pub fn authenticated(&self, router: Router) -> Router {
        let desk = &self.desk;
        router
            .layer(middleware::from_fn_with_state(desk.clone(), idempotency::keep))
            .layer(middleware::from_fn_with_state(desk.clone(), rate::limit))
            .layer(middleware::from_fn_with_state(desk.clone(), gate::resolve))
    }

    /// The pages and addresses by which people log in and out, to be merged into what is served over TCP.
    pub fn login_router(&self) -> Router {
        login::routes(self.desk.clone())
    }

    /// Whether people can log in, so that the API and the console are worth serving over TCP.
    pub fn offers_login(&self) -> bool {
        self.desk.auth.settings.is_some()
    }

    /// Makes a one-time token for the first administrator and writes it to its file; None when `login.bootstrap` is off.
    ///
    /// # Errors
    /// When there is no randomness, or the file cannot be written.
    pub fn bootstrap(&self) -> Result<Option<std::path::PathBuf>, LoginError> {
        let Some(settings) = self.desk.auth.settings.as_ref().and_then(|login| login.bootstrap.as_ref())
        else {
            return Ok(None);
        };
        let fail =
            |error: String| LoginError::Start(format!("the token of the first administrator: {error}"));
        let token = self.desk.auth.bootstrap.make(tokio::time::Instant::now());
        let token = token.map_err(|error| fail(error.to_string()))?;
        bootstrap::write(&settings.file, &token)
            .map_err(|error| fail(format!("{}: {error}", settings.file.display())))?;
        Ok(Some(settings.file.clone()))
    }

    /// The groups of the policy that somebody who logs in may vote for, by configuration alone.
    pub fn login_groups(&self) -> Vec<GroupName> {
        let settings = self.desk.auth.settings.iter();
        settings.flat_map(|settings| settings.groups.keys().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
