//! `login:` as it is meant: who may log in, and what their provider's groups give them.

use lockgate_control::Role;
use lockgate_model::{SecretRef, id::GroupName};
use lockgate_policy::yaml::Spanned;
use std::{collections::BTreeMap, time::Duration};

/// `login:`
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) providers: Vec<Provider>,
    pub(crate) roles: BTreeMap<Role, Vec<String>>,
    pub(crate) groups: Vec<(Spanned<GroupName>, Vec<String>)>,
    pub(crate) idle: Duration,
    pub(crate) lasts: Duration,
    /// After this long the provider is asked anew.
    pub(crate) vouched: Duration,
    /// The groups that the administrator by one-time token votes for.
    pub(crate) bootstrap: Option<Vec<Spanned<GroupName>>>,
}

/// One entry of `login.providers:`.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) name: String,
    pub(crate) label: Option<String>,
    pub(crate) speaks_for: Option<Vec<Spanned<GroupName>>>,
    pub(crate) kind: Kind,
}

/// How it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Oidc(Oidc),
    Saml(Saml),
}

/// `oidc:`
#[derive(Clone, Debug)]
pub(crate) struct Oidc {
    pub(crate) issuer: String,
    pub(crate) client_id: String,
    pub(crate) client_secret: Option<SecretRef>,
    pub(crate) scopes: Vec<String>,
    pub(crate) groups_claim: String,
    pub(crate) ca: Option<SecretRef>,
    pub(crate) skew: Duration,
}

/// `saml:`
#[derive(Clone, Debug)]
pub(crate) struct Saml {
    pub(crate) entity_id: String,
    pub(crate) sso_url: String,
    /// PEM, one or more in each.
    pub(crate) certificates: Vec<SecretRef>,
    pub(crate) audience: String,
    pub(crate) groups_attribute: String,
    pub(crate) email_attribute: Option<String>,
    pub(crate) name_attribute: Option<String>,
    pub(crate) skew: Duration,
}

impl Login {
    /// Every reference that leads to a secret or a certificate.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.providers.iter().flat_map(|provider| match &provider.kind {
            Kind::Oidc(oidc) => oidc.client_secret.iter().chain(&oidc.ca).collect::<Vec<_>>(),
            Kind::Saml(saml) => saml.certificates.iter().collect(),
        })
    }

    /// The policy's groups that this file names.
    pub(crate) fn spoken_for(&self) -> impl Iterator<Item = &Spanned<GroupName>> {
        let limited = self.providers.iter().filter_map(|provider| provider.speaks_for.as_ref()).flatten();
        self.groups.iter().map(|(group, _)| group).chain(limited).chain(self.bootstrap.iter().flatten())
    }
}
