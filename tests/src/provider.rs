//! A stand-in for a CI system's server, because no real one can be had where these tests run: over HTTPS it publishes an
//! OIDC issuer's discovery document and keys, signs tokens, and answers the API paths it is told, in the shapes that
//! GitLab and GitHub document. The signatures, the TLS and the tokens are real.

use crate::certificate::TestCa;
use anyhow::{Context, Result};
use axum::{Router, body::Body, extract::State, http::Request, response::Response, serve::Listener};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The key id of the tokens.
const KEY: &str = "test-key";
/// A client that does not finish its handshake is forgotten.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A running stand-in; ends with its guard.
pub struct CiServer {
    shared: Arc<Shared>,
    ca: TestCa,
    addr: SocketAddr,
    signer: EcdsaKeyPair,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<HashMap<String, Value>>,
    asked: Mutex<Vec<(String, HashMap<String, String>)>>,
}

impl Drop for CiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl CiServer {
    /// Starts one on a loopback port, named `localhost`.
    pub async fn start() -> Result<Self> {
        let ca = TestCa::new("the CI system's CA")?;
        let issued = ca.issue(&["localhost"])?;
        let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the CI system's port")?;
        let addr = tcp.local_addr()?;
        let listener = Tls { tcp, acceptor: TlsAcceptor::from(Arc::new(tls)) };
        let shared = Arc::new(Shared::default());
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        let random = SystemRandom::new();
        let refused = |_| anyhow::anyhow!("no key can be made");
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(refused)?;
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let server = Self { shared, ca, addr, signer, task };
        let point = server.signer.public_key().as_ref();
        let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
        let jwk =
            json!({ "kty": "EC", "crv": "P-256", "kid": KEY, "use": "sig", "alg": "ES256", "x": x, "y": y });
        let discovery = json!({ "issuer": server.url(), "jwks_uri": format!("{}/jwks", server.url()) });
        server.serve("/.well-known/openid-configuration", discovery);
        server.serve("/jwks", json!({ "keys": [jwk] }));
        Ok(server)
    }

    /// Its address, which is its issuer's name.
    pub fn url(&self) -> String {
        format!("https://{}", self.authority())
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        format!("localhost:{}", self.addr.port())
    }

    /// The CA of its certificate, PEM.
    pub fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// Answers a path with this from now on.
    pub fn serve(&self, path: &str, body: Value) {
        lock(&self.shared.answers).insert(path.to_owned(), body);
    }

    /// Paths that were asked for, with their headers.
    pub fn asked(&self, path: &str) -> Vec<HashMap<String, String>> {
        let asked = lock(&self.shared.asked);
        asked.iter().filter(|(seen, _)| seen == path).map(|(_, headers)| headers.clone()).collect()
    }

    /// A token with these claims, besides issuer and times; claims that are given win.
    pub fn token(&self, claims: &Value) -> String {
        let now = now();
        let mut all = json!({ "iss": self.url(), "iat": now, "nbf": now - 5, "exp": now + 600 });
        if let (Value::Object(all), Value::Object(claims)) = (&mut all, claims) {
            all.extend(claims.clone());
        }
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": KEY });
        let message = format!("{}.{}", encode(header.to_string()), encode(all.to_string()));
        let signed = self.signer.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signed.map(|signature| encode(signature.as_ref())).unwrap_or_default();
        format!("{message}.{signature}")
    }
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()));
    lock(&shared.asked).push((path.clone(), headers.collect()));
    let body = lock(&shared.answers).get(&path).cloned();
    let status = if body.is_some() { 200 } else { 404 };
    let mut response = Response::new(Body::from(body.unwrap_or_default().to_string()));
    *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    response
}

struct Tls {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, addr)) = self.tcp.accept().await else { continue };
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
