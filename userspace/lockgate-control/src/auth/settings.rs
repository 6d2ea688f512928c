//! What the binary says of logins: `login:` and what of `api:` concerns them, with secrets and files already read.

use super::caller::Role;
use lockgate_model::{Secret, id::GroupName};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// `login:`
#[derive(Debug)]
pub struct LoginSettings {
    /// Where people prove who they are; empty with a bootstrap administrator alone.
    pub providers: Vec<ProviderSettings>,
    /// Which of the providers' groups give a role: `group` of any provider, `provider:group` of one, `*` for everybody who logs
    /// in. Who is in a policy's group is an approver by that.
    pub roles: BTreeMap<Role, Vec<String>>,
    /// Which of the providers' groups are a policy's group, besides what its `oidc:` says. Written like those of roles.
    pub groups: BTreeMap<GroupName, Vec<String>>,
    /// A login that nobody uses ends after this long.
    pub idle: Duration,
    /// A login ends after this long however it is used.
    pub lasts: Duration,
    /// An administrator by one-time token.
    pub bootstrap: Option<BootstrapSettings>,
    /// Browsers reach us by TLS: cookies are Secure, and browsers are told to stay with TLS.
    pub secure: bool,
    /// TLS ends in a proxy in front, which says in the last entry of X-Forwarded-For who asks.
    pub behind_proxy: bool,
}

/// One place where people prove who they are.
#[derive(Debug)]
pub struct ProviderSettings {
    /// Part of ids and of addresses: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// On the button; the name when there is none.
    pub label: Option<String>,
    /// The policy's groups that its word counts for; None: all.
    pub speaks_for: Option<Vec<GroupName>>,
    /// How.
    pub kind: ProviderKind,
}

/// How a provider is asked.
#[derive(Debug)]
pub enum ProviderKind {
    /// OpenID Connect.
    Oidc(OidcSettings),
    /// SAML 2.0.
    Saml(SamlSettings),
}

/// An OpenID provider.
#[derive(Clone, Debug)]
pub struct OidcSettings {
    /// Its issuer, exactly as in its tokens; `/.well-known/openid-configuration` is below it.
    pub issuer: String,
    /// What it calls us.
    pub client_id: String,
    /// What we prove that with; None for a public client.
    pub client_secret: Option<Secret<String>>,
    /// Asked for besides `openid`.
    pub scopes: Vec<String>,
    /// The claim that holds groups: a list of strings, or one.
    pub groups_claim: String,
    /// PEM certificates trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// By how much clocks may differ.
    pub skew: Duration,
}

/// A SAML identity provider.
#[derive(Clone, Debug)]
pub struct SamlSettings {
    /// Its entity id, the Issuer of its assertions.
    pub entity_id: String,
    /// Where browsers are sent (HTTP-Redirect binding).
    pub sso_url: String,
    /// DER certificates whose keys sign assertions; several while they rotate.
    pub certificates: Vec<Vec<u8>>,
    /// What we are called: the audience of assertions for us.
    pub audience: String,
    /// The attribute that holds groups.
    pub groups_attribute: String,
    /// The attribute that holds an address for e-mail, by which integrations know the person, too.
    pub email_attribute: Option<String>,
    /// The attribute that holds a name to show.
    pub name_attribute: Option<String>,
    /// By how much clocks may differ.
    pub skew: Duration,
}

/// The first administrator, before there is an identity provider.
#[derive(Debug)]
pub struct BootstrapSettings {
    /// The policy's groups it votes for.
    pub groups: Vec<GroupName>,
    /// Where its one-time token is written at start, for root alone.
    pub file: PathBuf,
}

/// Why logins cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// A provider's name cannot be used.
    #[error("login.providers: the name {0:?} must be 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name(String),
    /// Two share a name.
    #[error("login.providers: two are named {0:?}; ids of people need distinct names")]
    DuplicateName(String),
    /// Nobody could come back from a provider.
    #[error("login.providers: api.public_url is not set; providers send people back there")]
    NoPublicUrl,
    /// A provider's settings cannot be used.
    #[error("login.providers: {name}: {detail}")]
    Provider {
        /// Which.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// Nobody could log in.
    #[error("login: neither a provider nor bootstrap is set; nobody could log in")]
    Nobody,
    /// What is needed at start failed.
    #[error("login: {0}")]
    Start(String),
}

/// Whether a name can stand in ids and paths.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name.len() <= 64 && name.chars().all(fits) && !name.starts_with('.')
}
