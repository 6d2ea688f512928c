//! A webhook receiver: the far side of lockgate's approval integration, as a customer would write it.
//!
//! It verifies Standard Webhooks signatures, keeps what it got, and can answer with signed decisions.
//! It stands in for the approval tool alone; everything it talks to is real.

use anyhow::{Context, Result, anyhow, bail};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// What lockgate sends with; `whsec_` and base64 as in Standard Webhooks.
pub const SECRET: &str = "whsec_bG9ja2dhdGUgb3V0Ym91bmQgc2VjcmV0IG9mIHRlc3Rz";
/// What decisions are signed with.
pub const DECISION_SECRET: &str = "whsec_bG9ja2dhdGUgZGVjaXNpb24gc2VjcmV0IG9mIHRlc3Rz";

/// One verified delivery.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// `webhook-id`
    pub id: String,
    /// The CloudEvent.
    pub event: Value,
    /// When it came.
    pub at: SystemTime,
}

impl Delivery {
    /// The CloudEvents type.
    pub fn kind(&self) -> &str {
        self.event["type"].as_str().unwrap_or_default()
    }

    /// The event's `data`.
    pub fn data(&self) -> &Value {
        &self.event["data"]
    }
}

/// A running receiver. Ends with its guard.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    deliveries: watch::Receiver<Vec<Delivery>>,
    status: watch::Sender<u16>,
    task: JoinHandle<()>,
}

struct Inner {
    deliveries: watch::Sender<Vec<Delivery>>,
    status: watch::Receiver<u16>,
}

impl Receiver {
    /// Listens on a free loopback port.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (sender, deliveries) = watch::channel(Vec::new());
        let (status, status_seen) = watch::channel(204);
        let inner = Arc::new(Inner { deliveries: sender, status: status_seen });
        let app = Router::new().route("/hook", post(deliver)).with_state(inner);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { addr, deliveries, status, task })
    }

    /// For `webhooks.url`.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.addr)
    }

    /// What it answers from now on (204 at first).
    pub fn answer_with(&self, status: u16) {
        let _ = self.status.send(status);
    }

    /// All deliveries up to now.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.borrow().clone()
    }

    /// Waits for the first delivery that fits.
    pub async fn wait_for(&self, within: Duration, fits: impl Fn(&Delivery) -> bool) -> Result<Delivery> {
        let mut deliveries = self.deliveries.clone();
        let found = timeout(within, deliveries.wait_for(|all| all.iter().any(&fits)))
            .await
            .map_err(|_| anyhow!("no such delivery within {within:?}; got {:#?}", self.deliveries()))?
            .context("the receiver has ended")?
            .iter()
            .find(|delivery| fits(delivery))
            .cloned();
        found.context("delivery")
    }

    /// Waits for the request for approval of a statement that contains `text`.
    pub async fn requested(&self, text: &str) -> Result<Delivery> {
        self.wait_for(Duration::from_secs(15), |delivery| {
            delivery.kind() == "lockgate.approval.requested"
                && delivery.data()["operation"]["statement"]
                    .as_str()
                    .is_some_and(|statement| statement.contains(text))
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn deliver(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (id, stamp, signature) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    if !verify(SECRET, &id, &stamp, &body, &signature) {
        return StatusCode::UNAUTHORIZED;
    }
    let Ok(event) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    let status = *inner.status.borrow();
    if (200..300).contains(&status) {
        inner.deliveries.send_modify(|all| {
            if !all.iter().any(|seen| seen.id == id) {
                all.push(Delivery { id, event, at: SystemTime::now() });
            }
        });
    }
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A decision on one request, before it is signed; tests bend its fields.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Where it goes.
    pub url: String,
    /// The body.
    pub body: Value,
    /// The key.
    pub secret: String,
    /// `webhook-id`
    pub id: String,
    /// `webhook-timestamp`, unix seconds.
    pub timestamp: u64,
}

impl Decision {
    /// `approve` or `deny` as `person`, a member of `groups`.
    pub fn on(request: &Delivery, decision: &str, person: &str, groups: &[&str]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let data = request.data();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            url: data["decision_url"].as_str().unwrap_or_default().to_owned(),
            body: json!({
                "type": "lockgate.decision",
                "timestamp": jiff::Timestamp::now().to_string(),
                "data": {
                    "request_id": data["request_id"],
                    "command_digest": data["command_digest"],
                    "decision": decision,
                    "reason": format!("{decision} by {person}"),
                    "decided_by": { "id": person, "groups": groups },
                }
            }),
            secret: DECISION_SECRET.to_owned(),
            id: format!("msg_{}_{}", now.as_nanos(), NEXT.fetch_add(1, Ordering::Relaxed)),
            timestamp: now.as_secs(),
        }
    }

    /// Signs and posts it: status and body (problem+json when refused).
    pub async fn send(&self) -> Result<(u16, Value)> {
        let body = serde_json::to_vec(&self.body)?;
        let stamp = self.timestamp.to_string();
        let signature = sign(&self.secret, &self.id, &stamp, &body)?;
        post_raw(
            &self.url,
            &[("webhook-id", &self.id), ("webhook-timestamp", &stamp), ("webhook-signature", &signature)],
            body,
        )
        .await
    }

    /// Sends it and insists on success.
    pub async fn accepted(&self) -> Result<()> {
        match self.send().await? {
            (200..=299, _) => Ok(()),
            (status, body) => bail!("the decision was refused: {status} {body}"),
        }
    }
}

/// Posts a body with headers to an http:// URL of this machine.
pub async fn post_raw(url: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(u16, Value)> {
    use http_body_util::{BodyExt, Full};
    let client =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let mut request = hyper::Request::post(url).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response =
        timeout(Duration::from_secs(10), client.request(request.body(Full::new(Bytes::from(body)))?))
            .await??;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
}

/// `v1,<base64 HMAC-SHA-256 of id.timestamp.body>`
pub fn sign(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> Result<String> {
    let key = BASE64.decode(secret.strip_prefix("whsec_").context("whsec_")?)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

fn verify(secret: &str, id: &str, timestamp: &str, body: &[u8], signatures: &str) -> bool {
    let fresh = timestamp.parse::<u64>().is_ok_and(|stamp| {
        SystemTime::now().duration_since(UNIX_EPOCH).is_ok_and(|now| now.as_secs().abs_diff(stamp) < 300)
    });
    let Ok(expected) = sign(secret, id, timestamp, body) else { return false };
    fresh && !id.is_empty() && signatures.split(' ').any(|signature| signature == expected)
}
