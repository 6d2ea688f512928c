//! Requests to the vault, each with a token, a bound in time and one in bytes.

use super::{
    super::{MAX_SECRET, reference},
    VaultAuth, VaultError, VaultSettings, parse,
    token::Token,
};
use crate::tls;
use lockgate_model::Secret;
use reqwest::{StatusCode, Url, header, header::HeaderValue, redirect::Policy};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

/// An answer holds one secret, a certificate chain at most, and its metadata.
const MAX_ANSWER: usize = 4 * MAX_SECRET;

/// The requests that lockgate makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
}

/// The server, and the token of now.
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    settings: VaultSettings,
    /// One login at a time; whoever comes meanwhile takes its token.
    token: Mutex<Option<Arc<Token>>>,
    /// Accounts that somebody has, or that are being given back.
    pub(super) leases: TaskTracker,
}

impl Client {
    pub(super) fn new(settings: VaultSettings) -> Result<Self, VaultError> {
        let address = || VaultError::Address(settings.address.clone());
        let base = Url::parse(&settings.address).map_err(|_| address())?;
        let host = base.host_str().ok_or_else(address)?;
        match base.scheme() {
            "https" => {}
            "http" if ["127.0.0.1", "[::1]", "localhost"].contains(&host) => {}
            "http" => return Err(VaultError::Plain(settings.address.clone())),
            _ => return Err(address()),
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(VaultError::Address("(an address with a user, a password or a query)".to_owned()));
        }
        let ca = settings.ca.as_ref().map(|ca| ca.expose().as_slice());
        let tls = tls::https(ca).map_err(|error| VaultError::Client(error.to_string()))?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .no_proxy()
            .timeout(settings.timeout)
            .pool_max_idle_per_host(4)
            .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| VaultError::Client(error.to_string()))?;
        Ok(Self { http, base, settings, token: Mutex::default(), leases: TaskTracker::new() })
    }

    pub(super) fn address(&self) -> &str {
        &self.settings.address
    }

    /// The body of an answer with status 200 or 204.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.ask_by(method, path, body).await.map(|(body, _)| body)
    }

    /// The same, and the token that it was asked with: what the answer names ends with that one. A token that the server
    /// does not know any more is replaced once.
    pub(super) async fn ask_by(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Zeroizing<Vec<u8>>, Arc<Token>), VaultError> {
        let (token, kept) = self.token().await?;
        let first = self.send(method, path, body, Some(&token.value)).await;
        if !kept || !matches!(first, Err(VaultError::Denied { .. })) {
            return first.map(|body| (body, token));
        }
        {
            let mut held = self.token.lock().await;
            // Whoever asks at the same time may have logged in again already.
            if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, &token)) {
                *held = None;
            }
        }
        let (token, _) = self.token().await?;
        let body = self.send(method, path, body, Some(&token.value)).await?;
        Ok((body, token))
    }

    /// Has the server keep a token for longer.
    pub(super) async fn renew(&self, token: &Token) -> Result<(), VaultError> {
        let path = "auth/token/renew-self";
        let answer = self.send(Method::Post, path, Some(&json!({})), Some(&token.value)).await?;
        let Login { auth } = parse(path, &answer)?;
        token.said(auth.lease_duration, auth.renewable);
        Ok(())
    }

    /// A token, and whether it is one of an earlier login.
    async fn token(&self) -> Result<(Arc<Token>, bool), VaultError> {
        let own = |error: super::super::CredentialError| VaultError::Own(error.to_string());
        let text = async |what| {
            let bytes = reference::resolve(what).await.map_err(own)?;
            let text = std::str::from_utf8(bytes.expose()).map(str::trim);
            let text = text.map_err(|_| VaultError::Own("expected text, got other bytes".to_owned()))?;
            Ok::<_, VaultError>(Secret::new(text.to_owned()))
        };
        let (mount, credentials) = match &self.settings.auth {
            VaultAuth::Token(token) => return Ok((Arc::new(Token::foreign(text(token).await?)), false)),
            VaultAuth::AppRole { mount, .. } | VaultAuth::Kubernetes { mount, .. } => {
                (mount, &self.settings.auth)
            }
        };
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.is_fresh()) {
            return Ok((token.clone(), true));
        }
        let body = match credentials {
            VaultAuth::AppRole { role_id, secret_id, .. } => {
                json!({ "role_id": text(role_id).await?.expose(), "secret_id": text(secret_id).await?.expose() })
            }
            VaultAuth::Kubernetes { role, jwt, .. } => {
                json!({ "role": role, "jwt": text(jwt).await?.expose() })
            }
            VaultAuth::Token(_) => Value::Null,
        };
        let body = Wiped(body);
        let path = format!("auth/{mount}/login");
        let answer =
            self.send(Method::Post, &path, Some(&body.0), None).await.map_err(|error| match error {
                VaultError::Denied { .. } | VaultError::Status { status: 400, .. } => {
                    VaultError::Own(format!("{path}: refused; look at the role and its secret"))
                }
                other => other,
            })?;
        let Login { auth } = parse(&path, &answer)?;
        let value = Secret::new(auth.client_token.to_string());
        let token = Arc::new(Token::own(value, auth.lease_duration, auth.renewable));
        *held = token.is_fresh().then(|| token.clone());
        Ok((token, false))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&Secret<String>>,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let url = self.url(path)?;
        let mut request = match method {
            Method::Get => self.http.get(url),
            Method::Post => self.http.post(url),
            Method::Put => self.http.put(url),
        };
        request = request.header("X-Vault-Request", "true");
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|_| VaultError::Own("the token holds what no header may hold".to_owned()))?;
            value.set_sensitive(true);
            request = request.header("X-Vault-Token", value);
        }
        if let Some(namespace) = &self.settings.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.check(path, answer.status())?;
        self.body(path, answer).await
    }

    fn check(&self, path: &str, status: StatusCode) -> Result<(), VaultError> {
        let path = path.to_owned();
        match status.as_u16() {
            200 | 204 => Ok(()),
            300..=399 => Err(VaultError::Redirect { path }),
            403 => Err(VaultError::Denied { path }),
            404 => Err(VaultError::NotFound { path }),
            status @ (429 | 472 | 473 | 501 | 503) => Err(VaultError::NotReady { path, status }),
            status => Err(VaultError::Status { path, status }),
        }
    }

    async fn body(
        &self,
        path: &str,
        mut answer: reqwest::Response,
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        // As large as it may become: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(VaultError::TooLong { path: path.to_owned(), limit: MAX_ANSWER });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn url(&self, path: &str) -> Result<Url, VaultError> {
        let mut url = self.base.clone();
        let refused = || VaultError::Address(self.settings.address.clone());
        let mut segments = url.path_segments_mut().map_err(|()| refused())?;
        segments.pop_if_empty().push("v1").extend(path.split('/'));
        drop(segments);
        Ok(url)
    }

    fn unreachable(&self, error: reqwest::Error) -> VaultError {
        let address = self.settings.address.clone();
        if error.is_timeout() {
            return VaultError::Slow { address, limit: self.settings.timeout };
        }
        let error = error.without_url();
        let mut detail = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            detail = cause.to_string();
            source = cause.source();
        }
        VaultError::Unreachable { address, detail: detail.chars().take(200).collect() }
    }
}

#[derive(Deserialize)]
struct Login {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// A body that holds secrets.
struct Wiped(Value);

impl Drop for Wiped {
    fn drop(&mut self) {
        use zeroize::Zeroize as _;
        if let Value::Object(fields) = &mut self.0 {
            for field in fields.values_mut() {
                if let Value::String(text) = field {
                    text.zeroize();
                }
            }
        }
    }
}
