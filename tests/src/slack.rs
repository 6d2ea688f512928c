//! Slack, as far as lockgate speaks to it: a stand-in that is as strict as the Web API is. It wants the bot's token, takes
//! only the arguments that each method documents, and holds messages to Block Kit's fields and limits; it signs what it
//! sends as Slack does, and insists on an answer within three seconds. It is not Slack: what it does not check, only a
//! workspace can show.

use anyhow::{Context, Result, anyhow, bail, ensure};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// The bot's token.
pub const TOKEN: &str = "xoxb-lockgate-test";
/// The app's signing secret.
pub const SIGNING: &str = "8f742231b10e8888abcd99yyyzzz85a5";
/// The workspace.
pub const TEAM: &str = "T0ACME";

/// One message as it stands now.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Where.
    pub channel: String,
    /// Its id there.
    pub ts: String,
    /// Its latest text and blocks.
    pub message: Value,
    /// How often it was edited.
    pub edits: usize,
}

impl Posted {
    /// All texts of it, joined.
    pub fn text(&self) -> String {
        self.message["blocks"].to_string()
    }

    /// The value of a button, while it has one.
    pub fn button(&self, action: &str) -> Option<String> {
        let blocks = self.message["blocks"].as_array()?;
        let elements = blocks.iter().filter(|block| block["type"] == "actions");
        let mut elements = elements.flat_map(|block| block["elements"].as_array().into_iter().flatten());
        let button = elements.find(|element| element["action_id"] == action)?;
        button["value"].as_str().map(str::to_owned)
    }
}

/// What Slack has.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Messages, oldest first.
    pub posted: Vec<Posted>,
    /// Who was whispered to, and what.
    pub whispers: Vec<(String, String)>,
    /// Open modals.
    pub views: Vec<Value>,
    /// What was refused, and why: a test that finds any here has failed.
    pub refused: Vec<String>,
    /// When each call came.
    pub calls: Vec<(String, Instant)>,
}

/// A running stand-in. Ends with its guard.
#[derive(Debug)]
pub struct Slack {
    addr: SocketAddr,
    seen: watch::Receiver<Seen>,
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Inner {
    seen: watch::Sender<Seen>,
    users: Mutex<BTreeMap<String, Value>>,
    /// Answers 429 so many times more, with this `Retry-After`.
    limit: Mutex<(u32, u64)>,
    triggers: Mutex<BTreeMap<String, Instant>>,
}

impl Slack {
    /// Listens on a free loopback port. The channels are those whose ids begin with `C0`.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, seen) = watch::channel(Seen::default());
        let inner = Arc::new(Inner {
            seen: sender,
            users: Mutex::default(),
            limit: Mutex::new((0, 0)),
            triggers: Mutex::default(),
        });
        let app = Router::new().route("/api/{method}", post(call)).with_state(inner.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { addr, seen, inner, task })
    }

    /// For `api_url`.
    pub fn url(&self) -> String {
        format!("http://{}/api/", self.addr)
    }

    /// A member of the workspace; `change` bends what `users.info` says.
    pub fn member(&self, user: &str, email: &str, change: Value) {
        let mut info = json!({ "id": user, "team_id": TEAM, "deleted": false, "is_bot": false, "is_restricted": false,
            "is_ultra_restricted": false, "is_email_confirmed": true, "profile": { "email": email } });
        if let (Some(into), Some(from)) = (info.as_object_mut(), change.as_object()) {
            into.extend(from.clone());
        }
        if let Ok(mut users) = self.inner.users.lock() {
            users.insert(user.to_owned(), info);
        }
    }

    /// Limits the next calls.
    pub fn limit(&self, calls: u32, retry_after: u64) {
        if let Ok(mut limit) = self.inner.limit.lock() {
            *limit = (calls, retry_after);
        }
    }

    /// What it has now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until what it has fits.
    pub async fn wait_for<T>(&self, what: &str, find: impl Fn(&Seen) -> Option<T>) -> Result<T> {
        let mut seen = self.seen.clone();
        let found = timeout(Duration::from_secs(40), seen.wait_for(|seen| find(seen).is_some())).await;
        let state = found.map_err(|_| anyhow!("{what} did not come to Slack: {:#?}", self.seen()))??;
        find(&state).context("it went away")
    }

    /// Waits for the card of a statement.
    pub async fn card(&self, statement: &str) -> Result<Posted> {
        self.wait_for(statement, |seen| {
            seen.posted.iter().find(|posted| posted.text().contains(statement)).cloned()
        })
        .await
    }

    /// Somebody clicks a button, or sends the modal that opened.
    pub fn click(&self, user: &str, posted: &Posted, action: &str) -> Click {
        let trigger = format!("trigger.{}", unique());
        if let Ok(mut triggers) = self.inner.triggers.lock() {
            triggers.insert(trigger.clone(), Instant::now());
        }
        let payload = json!({
            "type": "block_actions",
            "team": { "id": TEAM, "domain": "acme" },
            "user": { "id": user, "username": user, "team_id": TEAM },
            "api_app_id": "A0LOCKGATE",
            "token": "deprecated",
            "trigger_id": trigger,
            "container": { "type": "message", "message_ts": posted.ts, "channel_id": posted.channel, "is_ephemeral": false },
            "channel": { "id": posted.channel, "name": "approvals" },
            "message": posted.message,
            "response_url": "http://127.0.0.1:9/must-not-be-used",
            "actions": [{ "type": "button", "block_id": "lockgate", "action_id": action,
                "value": posted.button(action).unwrap_or_default(), "action_ts": "1.2" }],
        });
        Click::of(payload)
    }

    /// Somebody sends the latest modal with this reason.
    pub fn submit(&self, user: &str, reason: &str) -> Result<Click> {
        let view = self.seen().views.last().cloned().context("no modal is open")?;
        let (block, action) = ("reason", "text");
        let payload = json!({
            "type": "view_submission",
            "team": { "id": TEAM },
            "user": { "id": user, "team_id": TEAM },
            "trigger_id": format!("trigger.{}", unique()),
            "view": {
                "type": "modal",
                "callback_id": view["callback_id"],
                "private_metadata": view["private_metadata"],
                "state": { "values": { block: { action: { "type": "plain_text_input", "value": reason } } } },
            },
        });
        Ok(Click::of(payload))
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What Slack sends; tests bend its fields.
#[derive(Clone, Debug)]
pub struct Click {
    /// The payload.
    pub payload: Value,
    /// The key it is signed with.
    pub secret: String,
    /// `X-Slack-Request-Timestamp`
    pub timestamp: u64,
}

impl Click {
    fn of(payload: Value) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { payload, secret: SIGNING.to_owned(), timestamp: now }
    }

    /// Signs and posts it; status and body. Fails when the answer takes three seconds.
    pub async fn send(&self, url: &str) -> Result<(u16, Value)> {
        let body = format!("payload={}", percent_encoded(&self.payload.to_string()));
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.as_bytes())?;
        mac.update(format!("v0:{}:{body}", self.timestamp).as_bytes());
        let signature = format!("v0={}", hex::encode(mac.finalize().into_bytes()));
        let stamp = self.timestamp.to_string();
        let began = Instant::now();
        let answer = crate::receiver::post_raw(
            url,
            &[("x-slack-request-timestamp", &stamp), ("x-slack-signature", &signature)],
            body.into_bytes(),
        )
        .await?;
        ensure!(began.elapsed() < Duration::from_secs(3), "answered after {:?}", began.elapsed());
        Ok(answer)
    }

    /// Sends it and insists on 200.
    pub async fn accepted(&self, url: &str) -> Result<()> {
        match self.send(url).await? {
            (200, _) => Ok(()),
            (status, body) => bail!("the click was refused: {status} {body}"),
        }
    }
}

fn unique() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

async fn call(
    State(inner): State<Arc<Inner>>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    inner.seen.send_modify(|seen| seen.calls.push((method.clone(), Instant::now())));
    if let Ok(mut limit) = inner.limit.lock()
        && limit.0 > 0
    {
        limit.0 -= 1;
        let header = [("retry-after", limit.1.to_string())];
        return (StatusCode::TOO_MANY_REQUESTS, header, Json(json!({ "ok": false, "error": "ratelimited" })))
            .into_response();
    }
    match answer(&inner, &method, &headers, &body) {
        Ok(mut answer) => {
            answer["ok"] = json!(true);
            Json(answer).into_response()
        }
        Err(error) => {
            inner.seen.send_modify(|seen| seen.refused.push(format!("{method}: {error:#}")));
            // Slack answers 200 whatever happened.
            let word = error.to_string();
            Json(json!({ "ok": false, "error": word.split(' ').next() })).into_response()
        }
    }
}

fn answer(inner: &Inner, method: &str, headers: &HeaderMap, body: &[u8]) -> Result<Value> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    ensure!(header("authorization") == format!("Bearer {TOKEN}"), "invalid_auth");
    if method == "users.info" {
        ensure!(header("content-type") == "application/x-www-form-urlencoded", "invalid_form_data");
        let text = std::str::from_utf8(body)?;
        let user = text.strip_prefix("user=").context("invalid_arguments")?;
        let users = inner.users.lock().map_err(|_| anyhow!("fatal_error"))?;
        return Ok(json!({ "user": users.get(user).context("user_not_found")? }));
    }
    ensure!(header("content-type") == "application/json; charset=utf-8", "missing_charset");
    let body: Value = serde_json::from_slice(body).context("invalid_json")?;
    let known: &[&str] = match method {
        "chat.postMessage" => &[
            "channel",
            "text",
            "blocks",
            "parse",
            "link_names",
            "mrkdwn",
            "unfurl_links",
            "unfurl_media",
            "thread_ts",
            "metadata",
        ],
        "chat.update" => &["channel", "ts", "text", "blocks", "parse", "link_names", "metadata"],
        "chat.postEphemeral" => &["channel", "user", "text", "blocks", "parse", "link_names", "thread_ts"],
        "views.open" => &["trigger_id", "view"],
        _ => bail!("unknown_method"),
    };
    only(&body, known)?;
    if method == "views.open" {
        let trigger = body["trigger_id"].as_str().context("invalid_arguments trigger_id")?;
        let mut triggers = inner.triggers.lock().map_err(|_| anyhow!("fatal_error"))?;
        let made = triggers.remove(trigger).context("exchanged_trigger_id")?;
        ensure!(made.elapsed() < Duration::from_secs(3), "expired_trigger_id");
        check_view(&body["view"])?;
        inner.seen.send_modify(|seen| seen.views.push(body["view"].clone()));
        return Ok(json!({ "view": { "id": "V1" } }));
    }
    let channel = body["channel"].as_str().context("invalid_arguments channel")?;
    ensure!(channel.starts_with("C0"), "channel_not_found");
    let text = body["text"].as_str().context("no_text")?;
    check_parsed(text)?;
    if method == "chat.postEphemeral" {
        let user = body["user"].as_str().context("user_not_in_channel")?.to_owned();
        inner.seen.send_modify(|seen| seen.whispers.push((user, text.to_owned())));
        return Ok(json!({ "message_ts": "1.1" }));
    }
    check_blocks(&body["blocks"])?;
    let mut ts = String::new();
    let mut found = true;
    inner.seen.send_modify(|seen| {
        if method == "chat.postMessage" {
            ts = format!("{}.{:06}", 1_700_000_000, seen.posted.len());
            seen.posted.push(Posted {
                channel: channel.to_owned(),
                ts: ts.clone(),
                message: body.clone(),
                edits: 0,
            });
            return;
        }
        ts = body["ts"].as_str().unwrap_or_default().to_owned();
        match seen.posted.iter_mut().find(|posted| posted.ts == ts && posted.channel == channel) {
            Some(posted) => {
                posted.message = body.clone();
                posted.edits += 1;
            }
            None => found = false,
        }
    });
    ensure!(found, "message_not_found");
    Ok(json!({ "channel": channel, "ts": ts }))
}

fn only(value: &Value, known: &[&str]) -> Result<()> {
    let fields = value.as_object().context("invalid_arguments not an object")?;
    match fields.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => bail!("invalid_arguments unknown field {key} in {value}"),
        None => Ok(()),
    }
}

/// Text that Slack parses: a stranger's `<` here is a mention or a link.
fn check_parsed(text: &str) -> Result<()> {
    ensure!(!text.is_empty() && text.chars().count() <= 3_000, "msg_too_long");
    ensure!(!text.contains(['<', '>']), "spoofed {text}");
    Ok(())
}

fn check_plain(value: &Value, max: usize) -> Result<()> {
    only(value, &["type", "text", "emoji"])?;
    ensure!(value["type"] == "plain_text", "invalid_blocks text {value}");
    let text = value["text"].as_str().context("invalid_blocks text")?;
    ensure!(!text.is_empty() && text.chars().count() <= max, "invalid_blocks length of {text:?}");
    check_parsed(text)
}

fn check_blocks(blocks: &Value) -> Result<()> {
    let all = blocks.as_array().context("invalid_blocks_format")?;
    ensure!(!all.is_empty() && all.len() <= 50, "invalid_blocks {} of them", all.len());
    ensure!(blocks.to_string().chars().count() <= 13_000, "msg_blocks_too_long");
    let mut ids = BTreeSet::new();
    for block in all {
        match block["type"].as_str() {
            Some("header") => {
                only(block, &["type", "text", "block_id"])?;
                check_plain(&block["text"], 150)?;
            }
            Some("rich_text") => {
                only(block, &["type", "elements", "block_id"])?;
                for element in block["elements"].as_array().context("invalid_blocks")? {
                    check_rich(element)?;
                }
            }
            Some("actions") => {
                only(block, &["type", "elements", "block_id"])?;
                let elements = block["elements"].as_array().context("invalid_blocks")?;
                ensure!((1..=25).contains(&elements.len()), "invalid_blocks actions");
                for element in elements {
                    check_button(element)?;
                    let id = element["action_id"].as_str().context("invalid_blocks action_id")?;
                    ensure!(ids.insert(id.to_owned()), "invalid_blocks action_id {id} twice");
                }
            }
            Some("input") => {
                only(block, &["type", "block_id", "label", "element", "optional", "hint"])?;
                check_plain(&block["label"], 2_000)?;
                only(&block["element"], &["type", "action_id", "multiline", "min_length", "max_length"])?;
                ensure!(
                    block["element"]["max_length"].as_u64().is_none_or(|max| max <= 3_000),
                    "invalid_blocks"
                );
            }
            _ => bail!("invalid_blocks type {block}"),
        }
    }
    Ok(())
}

fn check_rich(element: &Value) -> Result<()> {
    let kind = element["type"].as_str();
    ensure!(matches!(kind, Some("rich_text_section" | "rich_text_preformatted")), "invalid_blocks {element}");
    only(element, &["type", "elements", "border"])?;
    for text in element["elements"].as_array().context("invalid_blocks elements")? {
        // Anything else (a user, a link, a broadcast) would be a stranger's doing.
        ensure!(text["type"] == "text", "spoofed {text}");
        only(text, &["type", "text", "style"])?;
        let said = text["text"].as_str().context("invalid_blocks text")?;
        ensure!(!said.is_empty() && said.chars().count() <= 3_000, "invalid_blocks length {}", said.len());
        if let Some(style) = text.get("style") {
            only(style, &["bold", "italic", "strike", "code"])?;
            ensure!(kind != Some("rich_text_preformatted"), "invalid_blocks style in preformatted");
        }
    }
    Ok(())
}

fn check_button(button: &Value) -> Result<()> {
    only(button, &["type", "action_id", "text", "value", "url", "style", "confirm", "accessibility_label"])?;
    ensure!(button["type"] == "button", "invalid_blocks {button}");
    check_plain(&button["text"], 75)?;
    ensure!(button["value"].as_str().is_none_or(|value| value.len() <= 2_000), "invalid_blocks value");
    ensure!(button["url"].as_str().is_none_or(|url| url.len() <= 3_000), "invalid_blocks url");
    let style = button.get("style").and_then(Value::as_str);
    ensure!(style.is_none_or(|style| matches!(style, "primary" | "danger")), "invalid_blocks style");
    Ok(())
}

fn check_view(view: &Value) -> Result<()> {
    only(view, &["type", "callback_id", "private_metadata", "title", "submit", "close", "blocks"])?;
    ensure!(view["type"] == "modal", "invalid_arguments view");
    for key in ["title", "submit", "close"] {
        check_plain(&view[key], 24)?;
    }
    let metadata = view["private_metadata"].as_str().unwrap_or_default();
    ensure!(metadata.len() <= 3_000, "invalid_arguments private_metadata");
    check_blocks(&view["blocks"])
}
