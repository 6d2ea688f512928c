//! Receivers with shapes of their own: PagerDuty's Events API v2, a Teams workflow, a Mattermost incoming webhook. Each takes
//! only the fields that its documentation names, holds them to their limits, and answers as the real one does. They are not
//! those services: what they do not check, only an account can show.

use anyhow::{Context, Result, anyhow, ensure};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// An integration key of PagerDuty: 32 characters.
pub const ROUTING_KEY: &str = "0123456789abcdef0123456789abcdef";

/// What came, and what was refused.
#[derive(Clone, Debug, Default)]
pub struct Got {
    /// Which receiver, and the body.
    pub taken: Vec<(String, Value)>,
    /// Why something was not taken: a test that finds any here has failed.
    pub refused: Vec<String>,
}

/// All three, on one port. Ends with its guard.
#[derive(Debug)]
pub struct Hooks {
    addr: SocketAddr,
    got: watch::Receiver<Got>,
    task: JoinHandle<()>,
}

impl Hooks {
    /// Listens on a free loopback port.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, got) = watch::channel(Got::default());
        let app = Router::new().route("/{service}", post(take)).with_state(Arc::new(sender));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { addr, got, task })
    }

    /// For `url` of a channel whose template is this one.
    pub fn url(&self, service: &str) -> String {
        format!("http://{}/{service}", self.addr)
    }

    /// What came up to now.
    pub fn got(&self) -> Got {
        self.got.borrow().clone()
    }

    /// Waits for a body of one of them that fits.
    pub async fn wait_for(&self, service: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let find = |got: &Got| {
            got.taken.iter().find(|(from, body)| from == service && fits(body)).map(|(_, body)| body.clone())
        };
        let mut got = self.got.clone();
        let found = timeout(Duration::from_secs(60), got.wait_for(|got| find(got).is_some())).await;
        let state = found.map_err(|_| anyhow!("{service} did not get it: {:#?}", self.got()))??;
        find(&state).context("it went away")
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(sender): State<Arc<watch::Sender<Got>>>,
    Path(service): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    match check(&service, kind, &body) {
        Ok(value) => {
            let key = value["dedup_key"].clone();
            sender.send_modify(|got| got.taken.push((service.clone(), value)));
            match service.as_str() {
                "pagerduty" => {
                    let answer =
                        json!({ "status": "success", "message": "Event processed", "dedup_key": key });
                    (StatusCode::ACCEPTED, Json(answer)).into_response()
                }
                "teams" => StatusCode::ACCEPTED.into_response(),
                _ => "ok".into_response(),
            }
        }
        Err(error) => {
            sender.send_modify(|got| got.refused.push(format!("{service}: {error:#}")));
            (StatusCode::BAD_REQUEST, format!("{error:#}")).into_response()
        }
    }
}

fn check(service: &str, kind: &str, body: &[u8]) -> Result<Value> {
    ensure!(kind == "application/json", "content-type {kind:?}");
    let value: Value = serde_json::from_slice(body).context("no JSON")?;
    match service {
        "pagerduty" => pagerduty(&value, body.len()),
        "teams" => teams(&value, body.len()),
        "mattermost" => mattermost(&value),
        other => Err(anyhow!("no such service: {other}")),
    }?;
    Ok(value)
}

/// <https://developer.pagerduty.com/docs/send-alert-event>
fn pagerduty(event: &Value, bytes: usize) -> Result<()> {
    ensure!(bytes <= 512 << 10, "{bytes} bytes");
    let known =
        ["routing_key", "event_action", "dedup_key", "payload", "images", "links", "client", "client_url"];
    only(event, &known)?;
    ensure!(event["routing_key"] == ROUTING_KEY, "invalid routing key");
    let key = event["dedup_key"].as_str().context("dedup_key")?;
    ensure!((1..=255).contains(&key.len()), "dedup_key of {} characters", key.len());
    match event["event_action"].as_str() {
        Some("acknowledge" | "resolve") => return Ok(()),
        Some("trigger") => {}
        other => return Err(anyhow!("event_action {other:?}")),
    }
    let payload = &event["payload"];
    let known =
        ["summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"];
    only(payload, &known)?;
    let summary = payload["summary"].as_str().context("summary")?;
    ensure!(!summary.is_empty() && summary.chars().count() <= 1_024, "summary");
    ensure!(payload["source"].as_str().is_some_and(|source| !source.is_empty()), "source");
    let severity = payload["severity"].as_str();
    ensure!(matches!(severity, Some("critical" | "error" | "warning" | "info")), "severity {severity:?}");
    let moment = payload["timestamp"].as_str().context("timestamp")?;
    moment.parse::<jiff::Timestamp>().context("timestamp is not ISO 8601")?;
    ensure!(payload["custom_details"].is_object(), "custom_details");
    for link in event["links"].as_array().into_iter().flatten() {
        only(link, &["href", "text"])?;
        ensure!(link["href"].as_str().is_some_and(|href| href.starts_with("http")), "href");
    }
    Ok(())
}

/// An Adaptive Card in a message, as the workflow "Post to a channel when a webhook request is received" takes it; 28 KB.
fn teams(message: &Value, bytes: usize) -> Result<()> {
    ensure!(bytes <= 28 << 10, "{bytes} bytes");
    only(message, &["type", "attachments"])?;
    ensure!(message["type"] == "message", "type");
    let attachments = message["attachments"].as_array().context("attachments")?;
    ensure!(attachments.len() == 1, "{} attachments", attachments.len());
    let attachment = &attachments[0];
    only(attachment, &["contentType", "contentUrl", "content"])?;
    ensure!(attachment["contentType"] == "application/vnd.microsoft.card.adaptive", "contentType");
    let card = &attachment["content"];
    only(card, &["$schema", "type", "version", "body", "actions", "msteams"])?;
    ensure!(card["type"] == "AdaptiveCard" && card["version"].is_string(), "card");
    for element in card["body"].as_array().context("body")? {
        match element["type"].as_str() {
            Some("TextBlock") => {
                only(element, &["type", "text", "size", "weight", "wrap", "spacing", "color"])?
            }
            Some("RichTextBlock") => {
                only(element, &["type", "inlines", "spacing"])?;
                for run in element["inlines"].as_array().context("inlines")? {
                    only(run, &["type", "text", "weight", "fontType", "color"])?;
                    ensure!(run["type"] == "TextRun" && run["text"].is_string(), "inline {run}");
                }
            }
            other => return Err(anyhow!("element {other:?}")),
        }
    }
    for action in card["actions"].as_array().into_iter().flatten() {
        only(action, &["type", "title", "url"])?;
        // An action that submits would decide where nobody is known.
        ensure!(action["type"] == "Action.OpenUrl", "action {action}");
    }
    Ok(())
}

/// <https://developers.mattermost.com/integrate/webhooks/incoming/>
fn mattermost(message: &Value) -> Result<()> {
    let known =
        ["text", "channel", "username", "icon_url", "icon_emoji", "attachments", "type", "props", "priority"];
    only(message, &known)?;
    ensure!(message["text"].is_string() || message["attachments"].is_array(), "neither text nor attachments");
    for attachment in message["attachments"].as_array().into_iter().flatten() {
        let known = [
            "fallback",
            "color",
            "pretext",
            "text",
            "author_name",
            "title",
            "title_link",
            "fields",
            "footer",
        ];
        only(attachment, &known)?;
        // A post holds 16,383 characters.
        let text = attachment["text"].as_str().unwrap_or_default();
        ensure!(text.chars().count() <= 16_383, "text");
        for field in attachment["fields"].as_array().into_iter().flatten() {
            only(field, &["short", "title", "value"])?;
            ensure!(field["short"].is_boolean(), "short {field}");
        }
    }
    Ok(())
}

fn only(value: &Value, known: &[&str]) -> Result<()> {
    let fields = value.as_object().context("not an object")?;
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(anyhow!("unknown field {key} in {value}")),
        None => Ok(()),
    }
}
