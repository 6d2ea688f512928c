//! `channels:` as it is written. One flat shape for every kind, so that positions survive; which keys belong to which
//! kind is judged by `check::channels`.

use super::{PathOrSecret, SecretText, Spanned};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A way to reach people.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Channel {
    pub(crate) name: Spanned<String>,
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) events: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(crate) ca: Option<PathOrSecret>,
    /// Not of `kind: email`.
    #[serde(default)]
    pub(crate) allow_private: Option<bool>,

    // kind: slack
    #[serde(default)]
    pub(crate) bot_token: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) signing_secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) team: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) channel: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) group_channels: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(crate) approvers: BTreeMap<String, Vec<Spanned<String>>>,
    #[serde(default)]
    pub(crate) api_url: Option<Spanned<String>>,

    // kind: email
    #[serde(default)]
    pub(crate) host: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) tls: Option<MailTls>,
    #[serde(default)]
    pub(crate) username: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) password: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) from: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) to: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) group_to: BTreeMap<String, Vec<Spanned<String>>>,

    // kind: webhook
    #[serde(default)]
    pub(crate) url: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) template: Option<Spanned<Template>>,
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) decision_secret: Option<Spanned<SecretText>>,
    #[serde(default)]
    pub(crate) speaks_for: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) follow_ups: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Slack,
    Email,
    Webhook,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MailTls {
    Starttls,
    Implicit,
}

/// A template that is shipped, by its name, or a file of one's own.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Template {
    Named(String),
    File(TemplateFile),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateFile {
    pub(crate) file: String,
}
