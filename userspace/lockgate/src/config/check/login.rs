//! What is wrong with `login:` that needs no secret and no network to see.

use super::{Checker, group, is_http, is_label, raw};
use crate::config::login::{Kind, Login, Oidc, Provider, Saml};
use lockgate_control::Role;
use lockgate_policy::yaml::Spanned;
use raw::login as given;
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

/// Whoever went to lunch logs in again; a login through the night is none.
const IDLE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 3600));
const DEFAULT_IDLE: Duration = Duration::from_secs(30 * 60);
const LASTS: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(7 * 24 * 3600));
const DEFAULT_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Sooner would ask providers with nearly every request.
const VOUCHED: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(7 * 24 * 3600));
const DEFAULT_VOUCHED: Duration = Duration::from_secs(3600);
/// Hosts whose clocks differ by more have other troubles.
const SKEW: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(300));
const DEFAULT_SKEW: Duration = Duration::from_secs(60);

impl Checker {
    pub(super) fn login(
        &mut self,
        raw: Option<&Spanned<given::Login>>,
        api: &raw::Api,
        listen: Option<SocketAddr>,
    ) -> Option<Login> {
        let spanned = raw?;
        let raw = &spanned.value;
        self.way_in(spanned, api, listen);
        let mut names: HashMap<&str, u64> = HashMap::new();
        let mut providers = Vec::new();
        for provider in &raw.providers {
            let name = &provider.value.name;
            if !is_label(&name.value) || matches!(name.value.as_str(), "bootstrap" | "local" | "token") {
                let message = format!("{:?} is not a provider name", name.value);
                let help =
                    "use 1 to 64 letters, digits, `.`, `_` or `-`; bootstrap, local and token are taken";
                self.error(name.at, message, Some(help));
            }
            if let Some(line) = names.insert(&name.value, name.at.line) {
                let message =
                    format!("two providers are named `{}`; the other one is on line {line}", name.value);
                self.error(name.at, message, None);
            }
            providers.extend(self.login_provider(provider, api.public_url.as_ref()));
        }
        if raw.providers.is_empty() && raw.bootstrap.is_none() {
            let help = "name an identity provider under login.providers, or, to try lockgate out, set login.bootstrap: {}";
            self.error(spanned.at, "nobody could log in", Some(help));
        }
        if let Some(bootstrap) = &raw.bootstrap {
            let help = "remove login.bootstrap once people log in with login.providers";
            self.warn(
                bootstrap.at,
                "login.bootstrap: an administrator by one-time token is for trying lockgate out, not for production",
                Some(help),
            );
        }
        let groups: Vec<_> = raw
            .groups
            .iter()
            .map(|(name, members)| {
                (Spanned { value: name.as_str().into(), at: members.at }, members.value.clone())
            })
            .collect();
        let idle =
            self.bounded("login.session.idle", raw.session.idle.as_ref(), IDLE).unwrap_or(DEFAULT_IDLE);
        let lasts =
            self.bounded("login.session.max", raw.session.max.as_ref(), LASTS).unwrap_or(DEFAULT_LASTS);
        let vouched = raw.session.reauthenticate.as_ref();
        let vouched =
            self.bounded("login.session.reauthenticate", vouched, VOUCHED).unwrap_or(DEFAULT_VOUCHED);
        let roles = [
            (Role::Viewer, raw.roles.viewer.clone()),
            (Role::Auditor, raw.roles.auditor.clone()),
            (Role::Admin, raw.roles.admin.clone()),
        ];
        Some(Login {
            providers,
            roles: BTreeMap::from(roles),
            groups,
            idle,
            lasts,
            vouched,
            bootstrap: raw.bootstrap.as_ref().map(|it| it.value.groups.iter().map(group).collect()),
        })
    }

    /// A cookie that passes a network in the clear is anybody's.
    fn way_in(&mut self, spanned: &Spanned<given::Login>, api: &raw::Api, listen: Option<SocketAddr>) {
        match listen {
            None if api.listen.is_none() => {
                self.error(spanned.at, "people would log in nowhere", Some("set api.listen: ADDRESS:PORT"));
            }
            Some(listen) if !listen.ip().is_loopback() && api.tls.is_none() && !api.behind_proxy => {
                let help = "set api.tls: {certificate, key}; or, when TLS ends in a proxy in front, api.behind_proxy: true";
                self.error(spanned.at, format!("people would log in at {listen} without TLS"), Some(help));
            }
            Some(_) | None => {}
        }
        let https = api.public_url.as_ref().is_some_and(|url| url.value.starts_with("https://"));
        if let Some(url) =
            api.public_url.as_ref().filter(|_| (api.tls.is_some() || api.behind_proxy) && !https)
        {
            let help = "people reach it by TLS: write https://…";
            self.error(
                url.at,
                "api.public_url is not https, but api.tls or api.behind_proxy is set",
                Some(help),
            );
        }
        if api.behind_proxy && api.public_url.is_none() {
            let help = "set api.public_url: https://… as browsers see it";
            self.error(spanned.at, "behind a proxy, nobody knows how people reach this host", Some(help));
        }
    }

    fn login_provider(
        &mut self,
        spanned: &Spanned<given::Provider>,
        public_url: Option<&Spanned<String>>,
    ) -> Option<Provider> {
        let raw = &spanned.value;
        let kind = match (&raw.oidc, &raw.saml) {
            (Some(oidc), None) => Kind::Oidc(self.oidc(spanned, oidc)),
            (None, Some(saml)) => Kind::Saml(self.saml(spanned, saml, public_url)),
            (Some(_), Some(_)) | (None, None) => {
                self.error(raw.name.at, "a provider needs exactly one of `oidc` and `saml`", None);
                return None;
            }
        };
        Some(Provider {
            name: raw.name.value.clone(),
            label: raw.label.clone(),
            speaks_for: raw.speaks_for.as_ref().map(|groups| groups.iter().map(group).collect()),
            kind,
        })
    }

    fn oidc(&mut self, spanned: &Spanned<given::Provider>, raw: &given::Oidc) -> Oidc {
        let issuer = &raw.issuer;
        let host = issuer.value.strip_prefix("http://").unwrap_or_default();
        let local = ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| {
            host.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
        });
        if !is_http(&issuer.value) || !(issuer.value.starts_with("https://") || local) {
            let message = format!("issuer: expected https://HOST[/PATH], got {:?}", issuer.value);
            let help =
                "write it exactly as /.well-known/openid-configuration below it says; http only on loopback";
            self.error(issuer.at, message, Some(help));
        }
        if raw.client_id.value.trim().is_empty() {
            self.error(raw.client_id.at, "client_id is empty", None);
        }
        let secret = raw.client_secret.as_ref();
        let client_secret =
            secret.and_then(|secret| self.secret("login.providers.oidc.client_secret", secret));
        let scopes = raw.scopes.clone();
        let skew = self.bounded("login.providers.oidc.skew", raw.skew.as_ref(), SKEW);
        Oidc {
            issuer: issuer.value.clone(),
            client_id: raw.client_id.value.clone(),
            client_secret,
            scopes: scopes.unwrap_or_else(|| ["profile", "email"].map(str::to_owned).into()),
            groups_claim: raw.groups_claim.as_ref().map_or("groups", |claim| &claim.value).to_owned(),
            ca: raw.ca.as_ref().and_then(|ca| self.file_or_secret(spanned.at, "login.providers.oidc.ca", ca)),
            skew: skew.unwrap_or(DEFAULT_SKEW),
        }
    }

    fn saml(
        &mut self,
        spanned: &Spanned<given::Provider>,
        raw: &given::Saml,
        public_url: Option<&Spanned<String>>,
    ) -> Saml {
        if !is_http(&raw.sso_url.value) {
            let message = format!("sso_url: expected https://…, got {:?}", raw.sso_url.value);
            self.error(raw.sso_url.at, message, None);
        }
        if raw.certificates.is_empty() {
            let help = "name the provider's signing certificate (PEM); two while it changes";
            self.error(spanned.at, "certificates is empty: nothing could be verified", Some(help));
        }
        let base = public_url.map_or_else(String::new, |url| url.value.trim_end_matches('/').to_owned());
        let ours = format!("{base}/login/{}/metadata", spanned.value.name.value);
        let skew = self.bounded("login.providers.saml.skew", raw.skew.as_ref(), SKEW);
        let mut certificates = Vec::new();
        for certificate in &raw.certificates {
            certificates.extend(self.file_or_secret(
                spanned.at,
                "login.providers.saml.certificates",
                certificate,
            ));
        }
        Saml {
            entity_id: raw.entity_id.value.clone(),
            sso_url: raw.sso_url.value.clone(),
            certificates,
            audience: raw.audience.clone().unwrap_or(ours),
            groups_attribute: raw.groups_attribute.clone().unwrap_or_else(|| "groups".to_owned()),
            email_attribute: raw.email_attribute.clone(),
            name_attribute: raw.name_attribute.clone(),
            skew: skew.unwrap_or(DEFAULT_SKEW),
        }
    }
}
