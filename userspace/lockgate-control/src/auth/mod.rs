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
mod live;
mod login;
mod oidc;
mod person;
mod reload;
mod renew;
pub(crate) mod rules;
mod saml;
mod secret;
mod session;
pub mod settings;
mod token;

pub use caller::{Caller, Role};
pub use reload::Reloaded;

use crate::{
    Control,
    api::{idempotency, rate, refusal},
    desk::Desk,
};
use arc_swap::ArcSwap;
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
use session::{Sessions, Terms};
use settings::{LoginError, LoginSettings, ProviderKind};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use token::{Token, Tokens};

/// Sessions of nobody: without `login:` there are none.
const NO_LOGIN: Duration = Duration::ZERO;

/// Everything that is known of who may ask.
pub(crate) struct Auth {
    /// Read anew while it runs.
    ways: ArcSwap<Ways>,
    pub(crate) sessions: Sessions,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) attempts: Attempts,
    pub(crate) limits: Limits,
    pub(crate) bootstrap: Bootstrap,
    /// `api.public_url`, where providers send people back to.
    base: Option<String>,
    /// The origin of it.
    pub(crate) origin: Option<String>,
}

/// How people get in, as configuration says now.
pub(crate) struct Ways {
    pub(crate) settings: Option<LoginSettings>,
    pub(crate) providers: Vec<Arc<Provider>>,
}

/// A place where people prove who they are.
pub(crate) struct Provider {
    pub(crate) name: String,
    pub(crate) label: String,
    /// Who it is, whatever it is named here.
    pub(crate) authority: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Oidc(Box<oidc::Oidc>),
    Saml(Box<saml::Saml>),
}

impl Ways {
    /// Asks no provider yet. What a provider of before must not forget goes over to the one of its name.
    fn new(
        settings: Option<LoginSettings>,
        base: Option<&str>,
        before: Option<&Self>,
    ) -> Result<Self, LoginError> {
        let mut providers = Vec::new();
        if let Some(settings) = &settings {
            if settings.providers.is_empty() && settings.bootstrap.is_none() {
                return Err(LoginError::Nobody);
            }
            let mut names = BTreeSet::new();
            for provider in &settings.providers {
                if !settings::is_name(&provider.name) || provider.name == person::BOOTSTRAP {
                    return Err(LoginError::Name(provider.name.clone()));
                }
                if !names.insert(provider.name.clone()) {
                    return Err(LoginError::DuplicateName(provider.name.clone()));
                }
                let mut provider = prepare(provider, base)?;
                if let Some(before) = before.and_then(|before| before.find(&provider.name)) {
                    provider.kind.go_on_from(&before.kind);
                }
                providers.push(Arc::new(provider));
            }
        }
        Ok(Self { settings, providers })
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Provider>> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// Whether browsers reach us by TLS.
    pub(crate) fn secure(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.secure)
    }

    /// How long logins last; without `login:` there are none.
    fn terms(&self) -> Terms {
        let none = Terms { idle: NO_LOGIN, lasts: NO_LOGIN, vouched: NO_LOGIN };
        self.settings.as_ref().map_or(none, |settings| Terms {
            idle: settings.idle,
            lasts: settings.lasts,
            vouched: settings.vouched,
        })
    }
}

impl Kind {
    /// Takes over what was used once and must not be used again.
    fn go_on_from(&mut self, before: &Self) {
        match (self, before) {
            (Self::Oidc(now), Self::Oidc(before)) => now.go_on_from(before),
            (Self::Saml(now), Self::Saml(before)) => now.go_on_from(before),
            (Self::Oidc(_), Self::Saml(_)) | (Self::Saml(_), Self::Oidc(_)) => {}
        }
    }
}

impl Auth {
    /// Asks no provider yet.
    pub(crate) fn new(
        settings: Option<LoginSettings>,
        base: Option<&str>,
        shelf: Option<Arc<dyn Shelf>>,
    ) -> Result<Self, LoginError> {
        let ways = Ways::new(settings, base, None)?;
        Ok(Self {
            sessions: Sessions::new(ways.terms()),
            ways: ArcSwap::from_pointee(ways),
            tokens: Arc::new(Tokens::restore(shelf)),
            attempts: Attempts::default(),
            limits: Limits::default(),
            bootstrap: Bootstrap::default(),
            base: base.map(str::to_owned),
            origin: base.and_then(|base| {
                let url = reqwest::Url::parse(base).ok()?;
                Some(url.origin().ascii_serialization())
            }),
        })
    }

    /// How people get in now.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        self.ways.load_full()
    }

    /// Whether browsers reach us by TLS.
    pub(crate) fn secure(&self) -> bool {
        self.ways.load().secure()
    }

    /// What a person may under the configuration and the policy in force.
    pub(crate) fn rights(&self, desk: &Desk, person: &Person) -> Rights {
        let ways = self.ways();
        let Some(settings) = &ways.settings else { return Rights::default() };
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

fn prepare(provider: &settings::ProviderSettings, base: Option<&str>) -> Result<Provider, LoginError> {
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
    let authority = provider.kind.authority().to_owned();
    Ok(Provider { name, label, authority, kind })
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
        self.desk.auth.ways.load().settings.is_some()
    }

    /// Whether a one-time token lets the first administrator in.
    pub fn offers_bootstrap(&self) -> bool {
        self.desk.auth.ways.load().settings.as_ref().is_some_and(|settings| settings.bootstrap.is_some())
    }

    /// Makes a one-time token for the first administrator and writes it to its file; None when `login.bootstrap` is off.
    ///
    /// # Errors
    /// When there is no randomness, or the file cannot be written.
    pub fn bootstrap(&self) -> Result<Option<std::path::PathBuf>, LoginError> {
        let ways = self.desk.auth.ways();
        let Some(settings) = ways.settings.as_ref().and_then(|login| login.bootstrap.as_ref()) else {
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
        let ways = self.desk.auth.ways();
        ways.settings.iter().flat_map(|settings| settings.groups.keys().cloned()).collect()
    }
}

#[cfg(test)]
mod tests;
