//! What the binary says of logins: `login:` and what of `api:` concerns them, with secrets and files already read.

use super::caller::Role;
use lockgate_model::{Secret, id::GroupName};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

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
    /// After this long the provider is asked anew whether a login stands, and for its groups; where it cannot be asked, the
    /// person logs in again.
    pub vouched: Duration,
    /// An administrator by one-time token.
    pub bootstrap: Option<BootstrapSettings>,
    /// Browsers reach us by TLS: cookies are Secure, and browsers are told to stay with TLS.
    pub secure: bool,
    /// TLS ends in a proxy at one of these, which says in X-Forwarded-For who asks; empty: there is none, and nobody's word
    /// about that counts.
    pub proxies: Vec<Net>,
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Those whose first `bits` are this address's; None when an address of its kind has fewer.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let address = address.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    /// Whether an address is among them; v4-mapped is IPv4.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for Net {
    type Err = String;

    /// `10.0.0.0/8`, `::1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let parsed = || {
            let address: IpAddr = address.parse().ok()?;
            let all = if address.to_canonical().is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Some(all), |bits| bits.parse().ok())?;
            Self::new(address, bits)
        };
        parsed().ok_or_else(|| format!("expected ADDRESS or ADDRESS/BITS, got {text:?}"))
    }
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

impl ProviderKind {
    /// Who it is, whatever it is named here.
    pub(crate) fn authority(&self) -> &str {
        match self {
            Self::Oidc(oidc) => &oidc.issuer,
            Self::Saml(saml) => &saml.entity_id,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_holds_its_addresses_and_no_others() {
        for (net, address, held) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
        ] {
            let net: Net = net.parse().unwrap();
            assert_eq!(net.contains(address.parse().unwrap()), held, "{net:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "proxy.example.com", "10.0.0.0/x", "10.0.0.0/-1"] {
            assert!(bad.parse::<Net>().is_err(), "{bad}");
        }
    }
}
