//! What the control plane is told at start. Files and secrets are already read by the binary; what is wrong
//! with them is said here, once, with the key to change.

use crate::{
    notify::{
        settings::{ChannelSettings, WebhookSettings},
        signing::{KeyError, SigningKeys, Use},
    },
    people::PersonSettings,
};
use lockgate_model::id::{GroupName, NodeName};
use std::{collections::BTreeMap, net::SocketAddr};

/// Everything [`crate::Control::start`] needs besides its ports.
#[derive(Debug)]
pub struct ControlSettings {
    /// `node.name`; the source of every CloudEvent.
    pub node: NodeName,
    /// `api.public_url`: how people and integrations reach [`crate::Control::public_router`].
    pub public_url: Option<String>,
    /// The address that router is really served on (the port chosen, when `api.listen` asked for port 0).
    pub listen: Option<SocketAddr>,
    /// `webhooks:`
    pub webhooks: Vec<WebhookSettings>,
    /// `channels:`
    pub channels: Vec<ChannelSettings>,
    /// `api.local_approvers`: which policy groups a uid of this host votes for. Root has none unless listed.
    pub local_approvers: BTreeMap<u32, Vec<GroupName>>,
    /// `login:`; None: nobody logs in, and the API is served on the unix socket alone.
    pub login: Option<crate::auth::settings::LoginSettings>,
    /// `people:` which ids are one person, and which bots they own.
    pub people: Vec<PersonSettings>,
}

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A webhook's name cannot be used.
    #[error("webhooks: the name {0:?} must be 1 to 64 letters, digits, `.`, `_` or `-`")]
    Name(String),
    /// Two webhooks share a name.
    #[error("webhooks: two entries are named {0:?}; approver ids need distinct names")]
    DuplicateName(String),
    /// A webhook's url cannot be used.
    #[error("webhooks: {name}: url: {detail}")]
    Url {
        /// Which.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// A key cannot be used.
    #[error("webhooks: {name}: {key}: {source}")]
    Key {
        /// Which webhook.
        name: String,
        /// `secret` or `decision_secret`.
        key: &'static str,
        /// What is wrong.
        source: KeyError,
    },
    /// The trusted certificates cannot be used.
    #[error("webhooks: {name}: ca: {detail}")]
    Ca {
        /// Which webhook.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// The public address cannot be used.
    #[error("api.public_url: expected http(s)://host[:port][/path], got {0:?}")]
    PublicUrl(String),
    /// Logins cannot be offered.
    #[error(transparent)]
    Login(#[from] crate::auth::settings::LoginError),
    /// Two people cannot be told apart.
    #[error("people: the id {0:?} is two people's; an id is one person's")]
    TwoPeople(String),
    /// Integrations would have nowhere to send decisions to.
    #[error("webhooks: {0}: decision_secret is set, but neither api.public_url nor api.listen is; set one")]
    NoDecisionUrl(String),
    /// A channel's setting cannot be used.
    #[error("channels: {name}: {key}: {detail}")]
    Channel {
        /// Which channel.
        name: String,
        /// The key to change.
        key: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The HTTP client could not be made.
    #[error("webhooks: {name}: the HTTP client cannot be made: {detail}")]
    Client {
        /// Which webhook.
        name: String,
        /// What is wrong.
        detail: String,
    },
}

/// An integration that may decide.
#[derive(Debug)]
pub(crate) struct Integration {
    pub(crate) name: String,
    pub(crate) keys: SigningKeys,
    pub(crate) speaks_for: Vec<GroupName>,
}

/// Refuses names that would blur approver ids (`webhook:<name>:<person>`), or the addresses of channels.
pub(crate) fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), ControlError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
            return Err(ControlError::Name(name.to_owned()));
        }
        if !seen.insert(name) {
            return Err(ControlError::DuplicateName(name.to_owned()));
        }
    }
    Ok(())
}

/// The integrations among them that may decide.
pub(crate) fn integrations<'a>(
    webhooks: impl Iterator<Item = &'a WebhookSettings>,
) -> Result<Vec<Integration>, ControlError> {
    let mut integrations: Vec<Integration> = Vec::new();
    for webhook in webhooks {
        let Some(secret) = &webhook.decision_secret else { continue };
        let name = webhook.name.clone();
        let keys = SigningKeys::parse(secret, Use::Verify).map_err(|source| ControlError::Key {
            name: name.clone(),
            key: "decision_secret",
            source,
        })?;
        if let Some(other) = integrations.iter().find(|other| other.keys.shares_a_key_with(&keys)) {
            // Whoever holds the key is both, so nothing is gained by refusing; but it is hardly meant.
            tracing::warn!(
                first = other.name,
                second = name,
                "webhooks share a decision key; decisions signed with it count as the first one's"
            );
        }
        integrations.push(Integration { name, keys, speaks_for: webhook.speaks_for.clone() });
    }
    Ok(integrations)
}

/// Where links and decision URLs point, without a trailing slash; None when nothing is reachable.
pub(crate) fn base_url(settings: &ControlSettings) -> Result<Option<String>, ControlError> {
    if let Some(url) = &settings.public_url {
        let fail = || ControlError::PublicUrl(url.clone());
        let parsed = reqwest::Url::parse(url).map_err(|_| fail())?;
        let plain = parsed.query().is_none() && parsed.fragment().is_none() && parsed.password().is_none();
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() || !plain {
            return Err(fail());
        }
        return Ok(Some(url.trim_end_matches('/').to_owned()));
    }
    Ok(settings.listen.map(|mut listen| {
        // 0.0.0.0 is where to listen, not where to connect to.
        if listen.ip().is_unspecified() {
            tracing::warn!(%listen, "links and decision URLs say localhost; set api.public_url if receivers are elsewhere");
            listen.set_ip(match listen {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let tls = settings.login.as_ref().is_some_and(|login| login.secure);
        format!("http{}://{listen}", if tls { "s" } else { "" })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(public_url: Option<&str>, listen: Option<&str>) -> ControlSettings {
        ControlSettings {
            node: "n".into(),
            public_url: public_url.map(str::to_owned),
            listen: listen.map(|text| text.parse().unwrap()),
            webhooks: Vec::new(),
            channels: Vec::new(),
            local_approvers: BTreeMap::new(),
            people: Vec::new(),
            login: None,
        }
    }

    #[test]
    fn links_are_absolute_from_the_public_url_or_else_the_listener() {
        for (public, listen, expected) in [
            (Some("https://gate.example.com/"), None, Some("https://gate.example.com")),
            (Some("https://gate.example.com/lg"), Some("127.0.0.1:1"), Some("https://gate.example.com/lg")),
            (None, Some("127.0.0.1:8420"), Some("http://127.0.0.1:8420")),
            (None, Some("0.0.0.0:8420"), Some("http://127.0.0.1:8420")),
            (None, Some("[::]:8420"), Some("http://[::1]:8420")),
            (None, None, None),
        ] {
            assert_eq!(base_url(&settings(public, listen)).unwrap().as_deref(), expected);
        }
        for bad in ["gate.example.com", "ftp://x", "http://x?a=b", "", "http://u:p@x"] {
            assert!(base_url(&settings(Some(bad), None)).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_would_blur_approver_ids_are_refused() {
        assert!(check_names(["approvals", "chat-2"].into_iter()).is_ok());
        for bad in ["", "a:b", "a b", "ä", &"x".repeat(65)] {
            assert!(matches!(check_names([bad].into_iter()), Err(ControlError::Name(_))), "{bad}");
        }
        assert!(matches!(check_names(["a", "a"].into_iter()), Err(ControlError::DuplicateName(_))));
    }

    #[test]
    fn decision_keys_are_read_and_told_apart() {
        use crate::testing::{CHAT_SECRET, DECISION_SECRET, webhook};
        let hook = |name, secret: &str| webhook(name, "http://127.0.0.1:9/", secret, &[]);
        let both = format!("{CHAT_SECRET} {DECISION_SECRET}");
        let read = integrations([hook("a", DECISION_SECRET), hook("b", &both)].iter()).unwrap();
        assert!(read[0].keys.shares_a_key_with(&read[1].keys), "said in a warning");
        let read = integrations([hook("a", DECISION_SECRET), hook("b", CHAT_SECRET)].iter()).unwrap();
        assert!(!read[0].keys.shares_a_key_with(&read[1].keys));
        let short = integrations([hook("a", "whsec_c2hvcnQ=")].iter());
        assert!(matches!(short, Err(ControlError::Key { key: "decision_secret", .. })));
    }
}
