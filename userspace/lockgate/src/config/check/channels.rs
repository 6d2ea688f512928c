//! What is wrong with `channels:` that needs no secret and no network to see.

use super::{Checker, group, is_http, is_label, raw};
use crate::config::{
    Webhook,
    channels::{Channel, Email, Slack, TemplateOf, TemplatedWebhook},
};
use lockgate_control::MailTls;
use lockgate_model::{SecretRef, id::GroupName};
use lockgate_policy::yaml::{Position, Spanned};
use raw::channels as given;
use std::collections::{BTreeMap, HashMap};

impl Checker {
    pub(super) fn channels(
        &mut self,
        raw: &[Spanned<given::Channel>],
        webhooks: &[Spanned<raw::Webhook>],
    ) -> Vec<Channel> {
        let mut names: HashMap<&str, Position> =
            webhooks.iter().map(|it| (it.value.name.value.as_str(), it.value.name.at)).collect();
        let mut channels = Vec::new();
        for channel in raw {
            let name = &channel.value.name;
            if !is_label(&name.value) {
                let message = format!("{:?} is not a channel name", name.value);
                self.error(name.at, message, Some("use 1 to 64 letters, digits, `.`, `_` or `-`"));
            }
            if let Some(Position { line, .. }) = names.insert(&name.value, name.at) {
                let message =
                    format!("two channels are named `{}`; the other one is on line {line}", name.value);
                self.error(name.at, message, None);
            }
            self.foreign_keys(&channel.value);
            channels.extend(match channel.value.kind {
                given::Kind::Slack => self.slack(channel).map(Channel::Slack),
                given::Kind::Email => self.email(channel).map(Channel::Email),
                given::Kind::Webhook => self.templated(channel).map(Channel::Webhook),
            });
        }
        channels
    }

    /// Keys of another kind: a typo in `kind`, or a setting that would do nothing.
    fn foreign_keys(&mut self, raw: &given::Channel) {
        let slack = [
            ("bot_token", raw.bot_token.is_some()),
            ("signing_secret", raw.signing_secret.is_some()),
            ("team", raw.team.is_some()),
            ("channel", raw.channel.is_some()),
            ("group_channels", !raw.group_channels.is_empty()),
            ("approvers", !raw.approvers.is_empty()),
            ("api_url", raw.api_url.is_some()),
        ];
        let email = [
            ("host", raw.host.is_some()),
            ("port", raw.port.is_some()),
            ("tls", raw.tls.is_some()),
            ("username", raw.username.is_some()),
            ("password", raw.password.is_some()),
            ("from", raw.from.is_some()),
            ("to", !raw.to.is_empty()),
            ("group_to", !raw.group_to.is_empty()),
        ];
        let webhook = [
            ("url", raw.url.is_some()),
            ("template", raw.template.is_some()),
            ("vars", !raw.vars.is_empty()),
            ("headers", !raw.headers.is_empty()),
            ("secret", raw.secret.is_some()),
            ("decision_secret", raw.decision_secret.is_some()),
            ("speaks_for", !raw.speaks_for.is_empty()),
            ("follow_ups", raw.follow_ups.is_some()),
        ];
        let of = [
            (given::Kind::Slack, "slack", &slack[..]),
            (given::Kind::Email, "email", &email[..]),
            (given::Kind::Webhook, "webhook", &webhook[..]),
        ];
        if raw.kind == given::Kind::Email && raw.allow_private.is_some() {
            self.error(raw.name.at, "`allow_private` belongs to `kind: webhook` and `kind: slack`", None);
        }
        for (kind, word, keys) in of.into_iter().filter(|(kind, ..)| *kind != raw.kind) {
            let _ = kind;
            for (key, _) in keys.iter().filter(|(_, given)| *given) {
                self.error(raw.name.at, format!("`{key}` belongs to `kind: {word}`"), None);
            }
        }
    }

    /// A key that its kind cannot do without.
    fn needed<'a, T>(&mut self, at: Position, key: &str, given: Option<&'a T>) -> Option<&'a T> {
        if given.is_none() {
            self.error(at, format!("`{key}` is missing"), None);
        }
        given
    }

    fn slack(&mut self, channel: &Spanned<given::Channel>) -> Option<Slack> {
        let (at, raw) = (channel.value.name.at, &channel.value);
        let token = self.needed(at, "bot_token", raw.bot_token.as_ref());
        let bot_token = token.and_then(|token| self.secret("bot_token", token));
        let signing = self.needed(at, "signing_secret", raw.signing_secret.as_ref());
        let signing_secret = signing.and_then(|secret| self.secret("signing_secret", secret));
        let team = self.needed(at, "team", raw.team.as_ref());
        let place = self.needed(at, "channel", raw.channel.as_ref());
        for (key, id, first) in [("team", team, 'T'), ("channel", place, 'C')] {
            if let Some(id) = id.filter(|id| !is_slack_id(&id.value)) {
                let help =
                    format!("write the id ({first}…), not the name: names can be given to something else");
                self.error(id.at, format!("{:?} is not a Slack {key}'s id", id.value), Some(&help));
            }
        }
        for id in raw.group_channels.values().filter(|id| !is_slack_id(&id.value)) {
            let help = "write the id (C…), not the name: names can be given to something else";
            self.error(id.at, format!("{:?} is not a Slack channel's id", id.value), Some(help));
        }
        if raw.approvers.is_empty() {
            let help = "say who is in which policy group: approvers: { dba: [U0123456789] }";
            self.warn(
                at,
                format!("nobody decides through `{}`: approvers is empty", raw.name.value),
                Some(help),
            );
        }
        for member in raw.approvers.values().flatten() {
            if !is_slack_id(&member.value) && !member.value.contains('@') {
                let help = "write a Slack user id (U…), or an e-mail address that `people` names";
                self.error(member.at, format!("{:?} is nobody in Slack", member.value), Some(help));
            }
        }
        if let Some(url) = raw.api_url.as_ref().filter(|url| !is_http(&url.value)) {
            self.error(url.at, format!("{:?} is not an http:// or https:// URL", url.value), None);
        }
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(at, "ca", ca));
        let approver_groups = raw.approvers.iter().map(|(group, members)| {
            let at = members.first().map_or(at, |member| member.at);
            Spanned { value: GroupName::from(group.as_str()), at }
        });
        Some(Slack {
            name: raw.name.value.clone(),
            bot_token: bot_token?,
            signing_secret: signing_secret?,
            team: team?.value.clone(),
            channel: place?.value.clone(),
            group_channels: by_group(&raw.group_channels, |id| id.value.clone()),
            approvers: by_group(&raw.approvers, |members| texts(members)),
            groups: approver_groups.collect(),
            events: raw.events.as_deref().map(texts),
            api_url: raw.api_url.as_ref().map(|url| url.value.clone()),
            allow_private: raw.allow_private.unwrap_or(false),
            ca,
        })
    }

    fn email(&mut self, channel: &Spanned<given::Channel>) -> Option<Email> {
        let (at, raw) = (channel.value.name.at, &channel.value);
        let host = self.needed(at, "host", raw.host.as_ref());
        let from = self.needed(at, "from", raw.from.as_ref());
        if raw.to.is_empty() && raw.group_to.is_empty() {
            self.error(at, "nobody would get any mail", Some("name recipients: to: [approvals@example.com]"));
        }
        let addresses = from.into_iter().chain(&raw.to).chain(raw.group_to.values().flatten());
        for address in addresses.filter(|address| !address.value.contains('@')) {
            self.error(address.at, format!("{:?} is not a mail address", address.value), None);
        }
        let login = match (&raw.username, &raw.password) {
            (Some(user), Some(password)) => {
                self.secret("password", password).map(|password| (user.value.clone(), password))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                self.error(at, "`username` and `password` go together", None);
                None
            }
        };
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(at, "ca", ca));
        Some(Email {
            name: raw.name.value.clone(),
            host: host?.value.clone(),
            port: raw.port,
            tls: match raw.tls {
                Some(given::MailTls::Implicit) => MailTls::Implicit,
                Some(given::MailTls::Starttls) | None => MailTls::StartTls,
            },
            ca,
            login,
            from: from?.value.clone(),
            to: texts(&raw.to),
            group_to: by_group(&raw.group_to, |addresses| texts(addresses)),
            events: raw.events.as_deref().map(texts),
        })
    }

    fn templated(&mut self, channel: &Spanned<given::Channel>) -> Option<TemplatedWebhook> {
        let (at, raw) = (channel.value.name.at, &channel.value);
        let url = self.needed(at, "url", raw.url.as_ref());
        if let Some(url) = url.filter(|url| !is_http(&url.value)) {
            self.error(url.at, format!("{:?} is not an http:// or https:// URL", url.value), None);
        }
        if raw.secret.is_none() && raw.template.is_none() {
            let help = "set secret, or the template of a receiver that knows no signatures";
            self.error(at, "`secret` is missing", Some(help));
        }
        if raw.decision_secret.is_some() && raw.speaks_for.is_empty() {
            let help = "name the policy groups whose members decide through it: speaks_for: [dba]";
            let message = format!("no decision of `{}` can count: speaks_for is empty", raw.name.value);
            self.warn(at, message, Some(help));
        }
        let template = raw.template.as_ref().map(|template| match &template.value {
            given::Template::Named(name) => TemplateOf::Named(name.clone()),
            given::Template::File(file) => {
                let path = self.resolve(&file.file);
                if !path.exists() {
                    self.error(template.at, format!("template: {} does not exist", path.display()), None);
                }
                TemplateOf::File(path)
            }
        });
        let secret = raw.secret.as_ref().and_then(|secret| self.secret("secret", secret));
        let decision_secret = raw.decision_secret.as_ref().and_then(|s| self.secret("decision_secret", s));
        let vars = self.secrets("vars", &raw.vars);
        let headers = self.secrets("headers", &raw.headers);
        let ca = raw.ca.as_ref().and_then(|ca| self.file_or_secret(at, "ca", ca));
        Some(TemplatedWebhook {
            webhook: Webhook {
                name: raw.name.value.clone(),
                url: url?.value.clone(),
                secret,
                decision_secret,
                speaks_for: raw.speaks_for.iter().map(group).collect(),
                ca,
                allow_private: raw.allow_private.unwrap_or(false),
                follow_ups: raw.follow_ups.unwrap_or(true),
                events: raw.events.as_deref().map(texts),
            },
            template,
            vars,
            headers,
        })
    }

    fn secrets(
        &mut self,
        key: &str,
        raw: &BTreeMap<String, Spanned<raw::SecretText>>,
    ) -> BTreeMap<String, SecretRef> {
        let mut secrets = BTreeMap::new();
        for (name, secret) in raw {
            if let Some(reference) = self.secret(&format!("{key}.{name}"), secret) {
                secrets.insert(name.clone(), reference);
            }
        }
        secrets
    }
}

fn texts(spanned: &[Spanned<String>]) -> Vec<String> {
    spanned.iter().map(|text| text.value.clone()).collect()
}

fn by_group<T, U>(raw: &BTreeMap<String, T>, made: impl Fn(&T) -> U) -> BTreeMap<GroupName, U> {
    raw.iter().map(|(group, value)| (GroupName::from(group.as_str()), made(value))).collect()
}

/// Ids of teams, channels and users: a letter that says what it is, then letters and digits.
fn is_slack_id(text: &str) -> bool {
    (4..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        && text.starts_with(['T', 'C', 'G', 'D', 'U', 'W', 'E'])
}
