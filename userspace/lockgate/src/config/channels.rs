//! `channels:`, checked; secrets are still references. [`crate::agent`] reads them and hands all of it to the control
//! plane, which judges what only it knows (templates, events, addresses).

use super::Webhook;
use lockgate_control::{MailTls, TemplateSource};
use lockgate_model::{SecretRef, id::GroupName};
use lockgate_policy::yaml::Spanned;
use std::{collections::BTreeMap, path::PathBuf};

/// One entry of `channels:`.
#[derive(Clone, Debug)]
pub(crate) enum Channel {
    Slack(Slack),
    Email(Email),
    Webhook(TemplatedWebhook),
}

impl Channel {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Slack(slack) => &slack.name,
            Self::Email(email) => &email.name,
            Self::Webhook(webhook) => &webhook.webhook.name,
        }
    }

    /// The groups that somebody votes for through it.
    pub(crate) fn spoken_for(&self) -> &[Spanned<GroupName>] {
        match self {
            Self::Slack(slack) => &slack.groups,
            Self::Email(_) => &[],
            Self::Webhook(webhook) => &webhook.webhook.speaks_for,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Slack {
    pub(crate) name: String,
    pub(crate) bot_token: SecretRef,
    pub(crate) signing_secret: SecretRef,
    pub(crate) team: String,
    pub(crate) channel: String,
    pub(crate) group_channels: BTreeMap<GroupName, String>,
    pub(crate) approvers: BTreeMap<GroupName, Vec<String>>,
    /// The groups of `approvers`, where they stand.
    pub(crate) groups: Vec<Spanned<GroupName>>,
    pub(crate) events: Option<Vec<String>>,
    pub(crate) api_url: Option<String>,
    pub(crate) allow_private: bool,
    pub(crate) ca: Option<SecretRef>,
}

#[derive(Clone, Debug)]
pub(crate) struct Email {
    pub(crate) name: String,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) tls: MailTls,
    pub(crate) ca: Option<SecretRef>,
    pub(crate) login: Option<(String, SecretRef)>,
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) group_to: BTreeMap<GroupName, Vec<String>>,
    pub(crate) events: Option<Vec<String>>,
}

#[derive(Clone, Debug)]
pub(crate) struct TemplatedWebhook {
    pub(crate) webhook: Webhook,
    pub(crate) template: Option<TemplateOf>,
    pub(crate) vars: BTreeMap<String, SecretRef>,
    pub(crate) headers: BTreeMap<String, SecretRef>,
}

/// Where a template's text is.
#[derive(Clone, Debug)]
pub(crate) enum TemplateOf {
    Named(String),
    File(PathBuf),
}

impl TemplateOf {
    /// Its text, or its name.
    pub(crate) fn read(&self) -> std::io::Result<TemplateSource> {
        Ok(match self {
            Self::Named(name) => TemplateSource::Named(name.clone()),
            Self::File(path) => TemplateSource::Text(std::fs::read_to_string(path)?),
        })
    }
}
