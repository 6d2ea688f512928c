//! What doctor says of channels: whether their secrets can be fetched and their settings make a channel, and, of a running
//! agent, what gets through, what waits, when it is tried next, and what to do. Sends nothing: a rehearsal does.

use super::Findings;
use crate::{
    agent::channels,
    cli::client::{Agent, CallError},
    config::{Config, Webhook, channels::Channel},
};
use lockgate_control::ChannelSettings;
use lockgate_intercept::Status;
use serde_json::Value;

const SECTION: &str = "channels";

/// Each channel by itself: one that cannot be made hides no other.
pub(super) fn configured(config: &Config, findings: &mut Findings) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    if config.webhooks.is_empty() && config.channels.is_empty() {
        let remedy = "requests wait for the console and the command line alone; see docs/channels.md";
        return findings.add(SECTION, Status::Warning, "channels", "none is configured", Some(remedy));
    }
    for webhook in &config.webhooks {
        let made = runtime.block_on(webhook_settings(webhook));
        judge(&format!("webhook:{}", webhook.name), made, findings);
    }
    for channel in &config.channels {
        let kind = match channel {
            Channel::Slack(_) => "slack",
            Channel::Email(_) => "email",
            Channel::Webhook(_) => "webhook",
        };
        let made = runtime.block_on(channels::settings(std::slice::from_ref(channel)));
        judge(&format!("{kind}:{}", channel.name()), made, findings);
    }
}

async fn webhook_settings(webhook: &Webhook) -> anyhow::Result<Vec<ChannelSettings>> {
    Ok(vec![ChannelSettings::Webhook(channels::webhook(webhook, "webhooks").await?)])
}

fn judge(name: &str, made: anyhow::Result<Vec<ChannelSettings>>, findings: &mut Findings) {
    let settings = match made {
        Ok(settings) => settings,
        Err(error) => {
            let remedy = "the agent fetches it by this reference when it starts, and does not start without";
            return findings.add(SECTION, Status::Failed, name, format!("{error:#}"), Some(remedy));
        }
    };
    for settings in settings {
        match settings.check() {
            Ok(()) => {
                findings.add(SECTION, Status::Ok, name, "its secrets are there and its settings fit", None);
            }
            Err(error) => {
                let remedy =
                    "the agent does not start with it; docs/channels.md and docs/webhooks.md have the keys";
                findings.add(SECTION, Status::Failed, name, error.to_string(), Some(remedy));
            }
        }
    }
}

/// How each does in the running agent.
pub(super) fn running(agent: &Agent, findings: &mut Findings) {
    let answer = match agent.get("/v1/channels") {
        Ok(answer) => answer,
        Err(CallError::Refused { status: 403, detail, .. }) => {
            return findings.add(SECTION, Status::Warning, "deliveries", detail, Some("run doctor as root"));
        }
        Err(error) => return findings.add(SECTION, Status::Failed, "deliveries", error.to_string(), None),
    };
    for channel in answer["items"].as_array().into_iter().flatten() {
        let (status, detail, remedy) = health(channel);
        let name = format!("{} delivers", channel["name"].as_str().unwrap_or_default());
        findings.add(SECTION, status, &name, detail, remedy.as_deref());
    }
}

fn health(channel: &Value) -> (Status, String, Option<String>) {
    let text = |key: &str| channel[key].as_str().map(str::to_owned);
    let number = |key: &str| channel[key].as_u64().unwrap_or(0);
    let last = match text("delivered_at") {
        Some(at) => format!("last delivery {at}, {} since the agent started", number("delivered")),
        None => "nothing has got through since the agent started".to_owned(),
    };
    let mut parts = Vec::new();
    let status = match channel["state"].as_str() {
        Some("ok") if text("attempted_at").is_none() => {
            parts.push("nothing has been sent since the agent started".to_owned());
            Status::Ok
        }
        Some("ok") => {
            parts.push(last);
            Status::Ok
        }
        state => {
            let since = text("failing_since").unwrap_or_default();
            let word = if state == Some("disabled") { "disabled" } else { "failing" };
            let error = text("last_error").unwrap_or_default();
            parts.push(format!("{word} since {since}, {} attempts failed: {error}", number("failures")));
            parts.push(last);
            Status::Failed
        }
    };
    let waiting = number("queued").saturating_add(number("under_way"));
    if waiting > 0 {
        let next = text("next_attempt_at").map(|at| format!(", the next is tried at {at}"));
        parts.push(format!("{waiting} wait{}", next.unwrap_or_default()));
    }
    if number("given_up") > 0 {
        parts.push(format!("{} were given up", number("given_up")));
    }
    (status, parts.join("; "), text("remedy"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_channel_does_is_said_in_one_line() {
        for (channel, status, parts) in [
            (
                json!({ "state": "ok", "queued": 0 }),
                Status::Ok,
                &["nothing has been sent since the agent started"][..],
            ),
            (
                json!({ "state": "ok", "attempted_at": "T1", "delivered_at": "T1", "delivered": 7, "queued": 2,
                        "under_way": 1, "next_attempt_at": "T2", "given_up": 3 }),
                Status::Ok,
                &["last delivery T1, 7 since", "3 wait, the next is tried at T2", "3 were given up"],
            ),
            (
                json!({ "state": "failing", "failing_since": "T0", "failures": 4, "last_error": "refused",
                        "attempted_at": "T1", "queued": 1, "next_attempt_at": "T2", "remedy": "start it" }),
                Status::Failed,
                &["failing since T0, 4 attempts failed: refused", "nothing has got through", "1 wait"],
            ),
            (json!({ "state": "disabled", "failing_since": "T0" }), Status::Failed, &["disabled since T0"]),
        ] {
            let (got, detail, remedy) = health(&channel);
            assert_eq!(got, status, "{channel}");
            assert_eq!(remedy.as_deref(), channel["remedy"].as_str());
            for part in parts {
                assert!(detail.contains(part), "{part:?} is missing: {detail}");
            }
        }
    }
}
