//! `login:` as it is written, and the certificate of the listener that people log in by.

use super::{DurationText, PathOrSecret, SecretText, Spanned};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    #[serde(default)]
    pub(crate) providers: Vec<Spanned<Provider>>,
    #[serde(default)]
    pub(crate) roles: Roles,
    /// Policy group: the provider's groups.
    #[serde(default)]
    pub(crate) groups: BTreeMap<String, Spanned<Vec<String>>>,
    #[serde(default)]
    pub(crate) session: Session,
    #[serde(default)]
    pub(crate) bootstrap: Option<Spanned<Bootstrap>>,
}

/// The provider's groups that give a role.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roles {
    #[serde(default)]
    pub(crate) viewer: Vec<String>,
    #[serde(default)]
    pub(crate) auditor: Vec<String>,
    #[serde(default)]
    pub(crate) admin: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    #[serde(default)]
    pub(crate) idle: Option<DurationText>,
    #[serde(default)]
    pub(crate) max: Option<DurationText>,
    #[serde(default)]
    pub(crate) reauthenticate: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bootstrap {
    #[serde(default)]
    pub(crate) groups: Vec<Spanned<String>>,
}

/// One of `oidc` and `saml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Provider {
    pub(crate) name: Spanned<String>,
    #[serde(default)]
    pub(crate) label: Option<String>,
    #[serde(default)]
    pub(crate) speaks_for: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(crate) oidc: Option<Oidc>,
    #[serde(default)]
    pub(crate) saml: Option<Saml>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Oidc {
    pub(crate) issuer: Spanned<String>,
    pub(crate) client_id: Spanned<String>,
    #[serde(default)]
    pub(crate) client_secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) scopes: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) groups_claim: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    #[serde(default)]
    pub(crate) skew: Option<DurationText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saml {
    pub(crate) entity_id: Spanned<String>,
    pub(crate) sso_url: Spanned<String>,
    pub(crate) certificates: Vec<PathOrSecret>,
    #[serde(default)]
    pub(crate) audience: Option<String>,
    #[serde(default)]
    pub(crate) groups_attribute: Option<String>,
    #[serde(default)]
    pub(crate) email_attribute: Option<String>,
    #[serde(default)]
    pub(crate) name_attribute: Option<String>,
    #[serde(default)]
    pub(crate) skew: Option<DurationText>,
}

/// `api.tls`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    pub(crate) certificate: PathOrSecret,
    pub(crate) key: PathOrSecret,
}
