//! What channels are configured with. Files and secrets are already read; what is wrong with them is said by
//! [`crate::Control::start`], with the key to change.

use lockgate_model::{Secret, id::GroupName};
use std::collections::BTreeMap;

/// One entry of `webhooks:`, or of `channels:` with `kind: webhook`.
#[derive(Debug)]
pub struct WebhookSettings {
    /// Its name; becomes part of approver ids, so letters, digits, `.`, `_` and `-` only.
    pub name: String,
    /// Where notifications go: http or https. An address written here counts as configured, private or not.
    pub url: String,
    /// One or more `whsec_…` or `whsk_…` keys separated by white space; every one signs, so that keys can rotate. None only
    /// where a template speaks to somebody who knows no signatures.
    pub secret: Option<Secret<String>>,
    /// The key or keys (`whsec_…`, or `whpk_…` for ed25519) that decisions of this integration are verified with; None: it only
    /// notifies.
    pub decision_secret: Option<Secret<String>>,
    /// The policy groups that it may speak for.
    pub speaks_for: Vec<GroupName>,
    /// PEM certificates trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// Lets `url`'s host *name* resolve to a private address, and `url` name a link-local one.
    pub allow_private: bool,
    /// Also tell it how a request went on (escalated, approved, denied, expired, cancelled).
    pub follow_ups: bool,
    /// Which events it gets; None: requests, and with `follow_ups` how they ended, and emergency overrides.
    pub events: Option<Vec<String>>,
    /// The shape of the body, when it is not the CloudEvent itself.
    pub template: Option<TemplateSettings>,
    /// Headers sent with every notification, such as a key that the receiver asks for.
    pub headers: Vec<(String, Secret<String>)>,
}

/// How a webhook's body is made.
#[derive(Debug)]
pub struct TemplateSettings {
    /// `pagerduty`, `teams`, `mattermost`, or the text of a template.
    pub source: TemplateSource,
    /// What it may name as `vars.NAME`: routing keys, channels.
    pub vars: BTreeMap<String, Secret<String>>,
}

/// Where a template comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateSource {
    /// One that is shipped.
    Named(String),
    /// The operator's own.
    Text(String),
}

/// One entry of `channels:`.
#[derive(Debug)]
pub enum ChannelSettings {
    /// A bot in a Slack workspace.
    Slack(SlackSettings),
    /// Mail.
    Email(EmailSettings),
    /// A webhook whose body is made by a template.
    Webhook(WebhookSettings),
}

impl ChannelSettings {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Slack(slack) => &slack.name,
            Self::Email(email) => &email.name,
            Self::Webhook(webhook) => &webhook.name,
        }
    }

    /// Whether a channel can be made of it: what [`crate::Control::start`] would say, for one channel, before anything runs.
    ///
    /// # Errors
    /// The key to change.
    pub fn check(self) -> Result<(), crate::ControlError> {
        crate::settings::check_names(std::iter::once(self.name()))?;
        if let Self::Webhook(webhook) = &self {
            crate::settings::integrations(std::iter::once(webhook))?;
        }
        super::prepare(self).map(drop)
    }
}

/// `kind: slack`
#[derive(Debug)]
pub struct SlackSettings {
    /// Its name; part of the address that Slack sends clicks to.
    pub name: String,
    /// `xoxb-…`
    pub bot_token: Secret<String>,
    /// The app's signing secret; several are separated by white space.
    pub signing_secret: Secret<String>,
    /// The workspace's id (`T…`): people of another one decide nothing here.
    pub team: String,
    /// The channel's id that hears of everything that no group's channel hears of.
    pub channel: String,
    /// Channels of policy groups.
    pub group_channels: BTreeMap<GroupName, String>,
    /// Who is in which policy group: Slack user ids (`U…`), or e-mail addresses of `people:`.
    pub approvers: BTreeMap<GroupName, Vec<String>>,
    /// Which events it gets; see [`WebhookSettings::events`].
    pub events: Option<Vec<String>>,
    /// Instead of `https://slack.com/api/`: for a receiver that stands in for Slack.
    pub api_url: Option<String>,
    /// Lets `api_url`'s host *name* resolve to a private address.
    pub allow_private: bool,
    /// PEM certificates trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
}

/// `kind: email`
#[derive(Debug)]
pub struct EmailSettings {
    /// Its name.
    pub name: String,
    /// The mail server's host name; its certificate must be this name's.
    pub host: String,
    /// Its port; None: 587, or 465 with implicit TLS.
    pub port: Option<u16>,
    /// How TLS begins. There is no way to do without.
    pub tls: MailTls,
    /// PEM certificates trusted instead of the public roots.
    pub ca_pem: Option<Vec<u8>>,
    /// User and password; None: the server takes mail without.
    pub login: Option<(String, Secret<String>)>,
    /// The sender, as `address` or `Name <address>`.
    pub from: String,
    /// Who hears of everything that no group's recipients hear of.
    pub to: Vec<String>,
    /// Recipients of policy groups.
    pub group_to: BTreeMap<GroupName, Vec<String>>,
    /// Which events it gets; see [`WebhookSettings::events`].
    pub events: Option<Vec<String>>,
}

/// How TLS with a mail server begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailTls {
    /// By STARTTLS, before anything else is said (RFC 3207); a server that has none is not talked to.
    #[default]
    StartTls,
    /// At once (RFC 8314).
    Implicit,
}
