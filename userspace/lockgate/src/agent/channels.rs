//! From what the configuration says of webhooks and channels to what the control plane is given: secrets and files read.

use super::targets;
use crate::config::{
    Webhook,
    channels::{Channel, Email, Slack, TemplatedWebhook},
};
use anyhow::Context as _;
use lockgate_control::{ChannelSettings, EmailSettings, SlackSettings, TemplateSettings, WebhookSettings};
use lockgate_model::{Secret, SecretRef};
use std::collections::BTreeMap;

/// Everything under `channels:`.
pub(crate) async fn settings(channels: &[Channel]) -> anyhow::Result<Vec<ChannelSettings>> {
    let mut settings = Vec::with_capacity(channels.len());
    for channel in channels {
        settings.push(match channel {
            Channel::Slack(channel) => ChannelSettings::Slack(slack(channel).await?),
            Channel::Email(channel) => ChannelSettings::Email(email(channel).await?),
            Channel::Webhook(channel) => ChannelSettings::Webhook(templated(channel).await?),
        });
    }
    Ok(settings)
}

/// A webhook without a template. `list` is where it stands.
pub(crate) async fn webhook(webhook: &Webhook, list: &str) -> anyhow::Result<WebhookSettings> {
    let place = format!("{list}: {}", webhook.name);
    Ok(WebhookSettings {
        name: webhook.name.clone(),
        url: webhook.url.clone(),
        secret: optional(webhook.secret.as_ref(), &place, "secret").await?,
        decision_secret: optional(webhook.decision_secret.as_ref(), &place, "decision_secret").await?,
        speaks_for: webhook.speaks_for.iter().map(|group| group.value.clone()).collect(),
        ca_pem: ca(webhook.ca.as_ref(), &place).await?,
        allow_private: webhook.allow_private,
        follow_ups: webhook.follow_ups,
        events: webhook.events.clone(),
        template: None,
        headers: Vec::new(),
    })
}

async fn templated(channel: &TemplatedWebhook) -> anyhow::Result<WebhookSettings> {
    let place = format!("channels: {}", channel.webhook.name);
    let mut settings = webhook(&channel.webhook, "channels").await?;
    if let Some(template) = &channel.template {
        let source = template.read().with_context(|| format!("{place}: template"))?;
        settings.template =
            Some(TemplateSettings { source, vars: texts(&channel.vars, &place, "vars").await? });
    }
    settings.headers = texts(&channel.headers, &place, "headers").await?.into_iter().collect();
    Ok(settings)
}

async fn slack(channel: &Slack) -> anyhow::Result<SlackSettings> {
    let place = format!("channels: {}", channel.name);
    Ok(SlackSettings {
        name: channel.name.clone(),
        bot_token: text(&channel.bot_token, &place, "bot_token").await?,
        signing_secret: text(&channel.signing_secret, &place, "signing_secret").await?,
        team: channel.team.clone(),
        channel: channel.channel.clone(),
        group_channels: channel.group_channels.clone(),
        approvers: channel.approvers.clone(),
        events: channel.events.clone(),
        api_url: channel.api_url.clone(),
        allow_private: channel.allow_private,
        ca_pem: ca(channel.ca.as_ref(), &place).await?,
    })
}

async fn email(channel: &Email) -> anyhow::Result<EmailSettings> {
    let place = format!("channels: {}", channel.name);
    let login = match &channel.login {
        Some((user, password)) => Some((user.clone(), text(password, &place, "password").await?)),
        None => None,
    };
    Ok(EmailSettings {
        name: channel.name.clone(),
        host: channel.host.clone(),
        port: channel.port,
        tls: channel.tls,
        ca_pem: ca(channel.ca.as_ref(), &place).await?,
        login,
        from: channel.from.clone(),
        to: channel.to.clone(),
        group_to: channel.group_to.clone(),
        events: channel.events.clone(),
    })
}

async fn texts(
    references: &BTreeMap<String, SecretRef>,
    place: &str,
    key: &str,
) -> anyhow::Result<BTreeMap<String, Secret<String>>> {
    let mut texts = BTreeMap::new();
    for (name, reference) in references {
        texts.insert(name.clone(), text(reference, place, &format!("{key}.{name}")).await?);
    }
    Ok(texts)
}

async fn optional(
    reference: Option<&SecretRef>,
    place: &str,
    key: &str,
) -> anyhow::Result<Option<Secret<String>>> {
    match reference {
        Some(reference) => text(reference, place, key).await.map(Some),
        None => Ok(None),
    }
}

async fn text(reference: &SecretRef, place: &str, key: &str) -> anyhow::Result<Secret<String>> {
    let read = async {
        let bytes = lockgate_proxy::credential::resolve(reference).await?;
        let text = std::str::from_utf8(bytes.expose())
            .map_err(|_| anyhow::anyhow!("expected text, got other bytes"))?;
        Ok(Secret::new(text.to_owned()))
    };
    read.await.map_err(|error: anyhow::Error| error.context(format!("{place}: {key}")))
}

async fn ca(reference: Option<&SecretRef>, place: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(reference) = reference else { return Ok(None) };
    let pem = targets::material(reference).await.with_context(|| format!("{place}: ca"))?;
    Ok(Some(pem.expose().clone()))
}
