//! A stand-in for HashiCorp Vault, because the real one cannot be had where these tests run: it is one binary of a vendor
//! that is not in a package registry of ours. It speaks the part of the HTTP API (version 1) that lockgate uses, written
//! from the API's documentation, with the status codes, fields and error lists of the real one: tokens that expire and take
//! with them what they asked for, AppRole and Kubernetes logins, key-value engines of both versions, the database engine
//! with leases, and pki/sign.
//!
//! It can also misbehave on purpose. It keeps no secret; everything in it is the test's.

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// The token that is always good.
pub const TOKEN: &str = "hvs.the-test-token";
/// AppRole's role id and secret id.
pub const APPROLE: (&str, &str) = ("test-role-id", "test-secret-id");
/// The Kubernetes role, and the service account's token.
pub const KUBERNETES: (&str, &str) = ("lockgate", "eyJ.test-jwt.sig");

/// How it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As documented.
    #[default]
    Well,
    /// Not at all, within the test's patience.
    Silent,
    /// HTML with status 200, as a captive portal or a wrong port does.
    Garbage,
    /// Without an end.
    Endless,
    /// 307, as a standby node without forwarding does.
    Redirecting,
    /// 503, sealed.
    Sealed,
    /// JSON of the right outer form that holds nothing.
    Hollow,
}

/// What a request makes of an account: called with user and password when one is made, with the user alone when it is
/// taken back.
pub type Accounts = Box<dyn Fn(&str, Option<&str>) + Send + Sync>;

struct Inner {
    mood: Mutex<Mood>,
    /// Path (without `data/`) and fields of key-value secrets.
    secrets: Mutex<BTreeMap<String, Value>>,
    /// Tokens of logins, and when each expires.
    tokens: Mutex<BTreeMap<String, Instant>>,
    /// For how long a login is good.
    token_life: Mutex<Duration>,
    /// How long an account takes to be made.
    slowness: Mutex<Duration>,
    /// By lease id.
    leases: Mutex<BTreeMap<String, Held>>,
    /// `METHOD path` of every request, and the namespace.
    seen: Mutex<Vec<String>>,
    lease_seconds: u64,
    accounts: Accounts,
    ca: crate::certificate::TestCa,
}

/// An account that somebody has.
struct Held {
    user: String,
    /// The token that asked for it.
    token: String,
    expires: Instant,
}

/// A running stand-in; ends with its guard.
pub struct Vault {
    inner: Arc<Inner>,
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Vault {
    /// Starts one on a loopback port. Accounts of the database engine live for `lease_seconds` and are what `accounts` makes
    /// of them.
    pub async fn start(lease_seconds: u64, accounts: Accounts) -> Result<Self> {
        let inner = Arc::new(Inner {
            mood: Mutex::default(),
            secrets: Mutex::default(),
            tokens: Mutex::default(),
            token_life: Mutex::new(Duration::from_secs(3600)),
            slowness: Mutex::default(),
            leases: Mutex::default(),
            seen: Mutex::default(),
            lease_seconds,
            accounts,
            ca: crate::certificate::TestCa::new("the vault's CA")?,
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the vault's port")?;
        let addr = listener.local_addr()?;
        let app = Router::new().route("/v1/{*path}", any(answer)).with_state(inner.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { inner, addr, task })
    }

    /// Its address, as configuration has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The CA of its PKI engine, PEM.
    pub fn ca_pem(&self) -> String {
        self.inner.ca.pem()
    }

    /// Puts a key-value secret there: `secret/orders` is found as `secret/data/orders` (version 2), `kv/orders` as it is.
    pub fn put(&self, path: &str, fields: Value) {
        lock(&self.inner.secrets).insert(path.to_owned(), fields);
    }

    /// Answers like this from now on.
    pub fn set_mood(&self, mood: Mood) {
        *lock(&self.inner.mood) = mood;
    }

    /// Forgets all tokens of logins, as a restart of a development server does.
    pub fn forget_tokens(&self) {
        lock(&self.inner.tokens).clear();
    }

    /// Logins are good for so long from now on, unless they are renewed.
    pub fn set_token_life(&self, life: Duration) {
        *lock(&self.inner.token_life) = life;
    }

    /// Accounts take so long to be made from now on.
    pub fn set_slowness(&self, slowness: Duration) {
        *lock(&self.inner.slowness) = slowness;
    }

    /// Every request so far: method, path, namespace.
    pub fn seen(&self) -> Vec<String> {
        lock(&self.inner.seen).clone()
    }

    /// Users of the accounts that exist now.
    pub fn users(&self) -> Vec<String> {
        self.inner.expire();
        lock(&self.inner.leases).values().map(|held| held.user.clone()).collect()
    }
}

impl Inner {
    /// Takes back what is over: leases, and whatever an expired token asked for.
    fn expire(&self) {
        let now = Instant::now();
        let tokens = lock(&self.tokens);
        let dead = |token: &String| tokens.get(token).is_some_and(|expires| *expires <= now);
        lock(&self.leases).retain(|_, held| {
            let lives = held.expires > now && !dead(&held.token);
            if !lives {
                (self.accounts)(&held.user, None);
            }
            lives
        });
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(vault): State<Arc<Inner>>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    lock(&vault.seen).push(format!("{method} {path} {}", header("x-vault-namespace")).trim_end().to_owned());
    vault.expire();
    let mood = *lock(&vault.mood);
    match mood {
        Mood::Well => {}
        Mood::Silent => tokio::time::sleep(Duration::from_secs(60)).await,
        Mood::Garbage => return (StatusCode::OK, "<html>Welcome to nginx!</html>").into_response(),
        Mood::Endless => {
            let chunk = futures_util::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8192]))
            });
            return axum::body::Body::from_stream(chunk).into_response();
        }
        Mood::Redirecting => {
            let elsewhere = [("location", "http://127.0.0.1:1/v1/elsewhere")];
            return (StatusCode::TEMPORARY_REDIRECT, elsewhere).into_response();
        }
        Mood::Sealed => return errors(StatusCode::SERVICE_UNAVAILABLE, &["Vault is sealed"]),
        Mood::Hollow => return axum::Json(json!({ "data": null, "auth": null })).into_response(),
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(mount) = path.strip_prefix("auth/").and_then(|rest| rest.strip_suffix("/login")) {
        return login(&vault, mount, &body);
    }
    let token = header("x-vault-token");
    let known = lock(&vault.tokens).get(token).is_some_and(|expires| *expires > Instant::now());
    if token != TOKEN && !known {
        return errors(StatusCode::FORBIDDEN, &["permission denied", "invalid token"]);
    }
    match (method.as_str(), path.as_str()) {
        ("GET", path) if path.starts_with("database/creds/") => {
            let slowness = *lock(&vault.slowness);
            tokio::time::sleep(slowness).await;
            account(&vault, path, token)
        }
        ("POST", "auth/token/renew-self") => renew_token(&vault, token),
        ("PUT", "sys/leases/renew") => renew(&vault, &body),
        ("PUT", "sys/leases/revoke") => revoke(&vault, &body),
        ("POST", path) if path.starts_with("pki/sign/") => sign(&vault, &body),
        ("GET", path) => read(&vault, path),
        _ => errors(StatusCode::METHOD_NOT_ALLOWED, &["unsupported operation"]),
    }
}

fn errors(status: StatusCode, texts: &[&str]) -> Response {
    (status, axum::Json(json!({ "errors": texts }))).into_response()
}

fn login(vault: &Inner, mount: &str, body: &Value) -> Response {
    let good = match mount {
        "approle" => body == &json!({ "role_id": APPROLE.0, "secret_id": APPROLE.1 }),
        "kubernetes" => body == &json!({ "role": KUBERNETES.0, "jwt": KUBERNETES.1 }),
        _ => return errors(StatusCode::NOT_FOUND, &["no handler for route"]),
    };
    if !good {
        return errors(StatusCode::BAD_REQUEST, &["invalid role or secret ID"]);
    }
    // Never the same again, however many were forgotten.
    let token = format!("hvs.login-{}", lock(&vault.seen).len());
    said_of(vault, &token)
}

fn renew_token(vault: &Inner, token: &str) -> Response {
    match token {
        TOKEN => errors(StatusCode::BAD_REQUEST, &["lease is not renewable"]),
        token => said_of(vault, token),
    }
}

/// A token is good from now on.
fn said_of(vault: &Inner, token: &str) -> Response {
    let life = *lock(&vault.token_life);
    lock(&vault.tokens).insert(token.to_owned(), Instant::now() + life);
    let auth = json!({
        "client_token": token,
        "lease_duration": life.as_secs(),
        "renewable": true,
        "policies": ["lockgate"],
    });
    axum::Json(json!({ "request_id": "x", "data": null, "auth": auth })).into_response()
}

fn read(vault: &Inner, path: &str) -> Response {
    let secrets = lock(&vault.secrets);
    let versioned = path.split_once("/data/").map(|(mount, name)| format!("{mount}/{name}"));
    let answer = match (versioned.and_then(|path| secrets.get(&path)), secrets.get(path)) {
        (Some(fields), _) => json!({ "data": fields, "metadata": { "version": 3, "destroyed": false } }),
        (None, Some(fields)) if path.starts_with("kv/") => fields.clone(),
        (None, _) => return errors(StatusCode::NOT_FOUND, &[]),
    };
    axum::Json(json!({ "request_id": "x", "lease_id": "", "lease_duration": 0, "data": answer }))
        .into_response()
}

fn account(vault: &Inner, path: &str, token: &str) -> Response {
    let mut leases = lock(&vault.leases);
    // Never the same again, however many were taken back.
    let number = lock(&vault.seen).len();
    let (user, password) = (format!("v-token-{number}"), format!("A1a-{number}-secret"));
    (vault.accounts)(&user, Some(&password));
    let lease = format!("{path}/{number}");
    let expires = Instant::now() + Duration::from_secs(vault.lease_seconds);
    leases.insert(lease.clone(), Held { user: user.clone(), token: token.to_owned(), expires });
    let data = json!({ "username": user, "password": password });
    axum::Json(
        json!({ "lease_id": lease, "lease_duration": vault.lease_seconds, "renewable": true, "data": data }),
    )
    .into_response()
}

fn renew(vault: &Inner, body: &Value) -> Response {
    let lease = body["lease_id"].as_str().unwrap_or_default();
    match lock(&vault.leases).get_mut(lease) {
        Some(held) => held.expires = Instant::now() + Duration::from_secs(vault.lease_seconds),
        None => return errors(StatusCode::BAD_REQUEST, &["lease not found"]),
    }
    axum::Json(json!({ "lease_id": lease, "lease_duration": vault.lease_seconds, "renewable": true }))
        .into_response()
}

fn revoke(vault: &Inner, body: &Value) -> Response {
    let lease = body["lease_id"].as_str().unwrap_or_default();
    if let Some(held) = lock(&vault.leases).remove(lease) {
        (vault.accounts)(&held.user, None);
    }
    StatusCode::NO_CONTENT.into_response()
}

fn sign(vault: &Inner, body: &Value) -> Response {
    let request = body["csr"].as_str().unwrap_or_default();
    match vault.ca.sign(request) {
        Ok(certificate) => {
            let data =
                json!({ "certificate": certificate, "ca_chain": [vault.ca.pem()], "serial_number": "01" });
            axum::Json(json!({ "data": data })).into_response()
        }
        Err(error) => errors(StatusCode::BAD_REQUEST, &[&error.to_string()]),
    }
}
