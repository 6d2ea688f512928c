//! HTTPS to servers that configuration names: bounded in time and size, never redirected, never through a
//! proxy of the environment. What is asked and what is believed of an answer is decided elsewhere.

use lockgate_model::Secret;
use reqwest::{Response, Url, header::HeaderValue, redirect::Policy};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use std::{sync::Arc, time::Duration};

/// An answer of an API or a key set is a few kilobytes; a page of a job list a few hundred.
pub(crate) const MAX_ANSWER: usize = 2 << 20;
/// One question; whoever waits for several has a deadline of its own.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The Kubernetes API server shows its keys (RFC 7517, section 8.5) to nobody who asks for JSON alone.
const ACCEPT: &str = "application/json, application/jwk-set+json";

/// Why a question has no answer. Texts name the host and never a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The address is none that may be asked.
    #[error("{0:?} is no https address without user, password or fragment")]
    Address(String),
    /// The CA cannot be read.
    #[error("the CA is not PEM with certificates: {0}")]
    Ca(String),
    /// No client could be made.
    #[error("no HTTPS client can be made: {0}")]
    Client(String),
    /// The server cannot be reached, or broke off.
    #[error("{host} cannot be asked: {cause}")]
    Unreachable {
        /// Who.
        host: String,
        /// Why.
        cause: String,
    },
    /// Another status than 200.
    #[error("{host}{path} answers {status}, expected 200")]
    Status {
        /// Who.
        host: String,
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
    },
    /// More than is read.
    #[error("the answer of {host} is larger than {MAX_ANSWER} bytes")]
    TooLarge {
        /// Who.
        host: String,
    },
    /// An answer that is not what it should be.
    #[error("the answer of {host} is not understood: {cause}")]
    Shape {
        /// Who.
        host: String,
        /// Why.
        cause: String,
    },
    /// A header cannot carry it.
    #[error("the token for {0} holds what no header may hold")]
    Header(String),
}

/// A client that trusts one CA, or the public roots.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: reqwest::Client,
}

impl Http {
    pub(crate) fn new(ca_pem: Option<&[u8]>) -> Result<Self, HttpError> {
        let broken = |error: String| HttpError::Client(error);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(error.to_string()))?
            .with_root_certificates(roots(ca_pem)?)
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(TIMEOUT)
            .pool_max_idle_per_host(2)
            .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| broken(error.to_string()))?;
        Ok(Self { client })
    }

    /// The body of an answer with status 200.
    pub(crate) async fn get(
        &self,
        url: &Url,
        header: Option<(&'static str, &Secret<String>)>,
    ) -> Result<Vec<u8>, HttpError> {
        let mut answer = self.open(url, header, Some(TIMEOUT)).await?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(url, &error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(HttpError::TooLarge { host: host(url) });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The same, parsed.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &Url,
        header: Option<(&'static str, &Secret<String>)>,
    ) -> Result<T, HttpError> {
        let body = self.get(url, header).await?;
        serde_json::from_slice(&body)
            .map_err(|error| HttpError::Shape { host: host(url), cause: error.to_string() })
    }

    /// An answer with status 200 whose body is still to come; without a timeout for the whole, for a watch.
    pub(crate) async fn open(
        &self,
        url: &Url,
        header: Option<(&'static str, &Secret<String>)>,
        timeout: Option<Duration>,
    ) -> Result<Response, HttpError> {
        let mut request = self.client.get(url.clone()).header("accept", ACCEPT);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some((name, secret)) = header {
            let mut value =
                HeaderValue::from_str(secret.expose()).map_err(|_| HttpError::Header(host(url)))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        let answer = request.send().await.map_err(|error| unreachable(url, &error))?;
        match answer.status().as_u16() {
            200 => Ok(answer),
            status => Err(HttpError::Status { host: host(url), path: url.path().to_owned(), status }),
        }
    }
}

/// `Bearer TOKEN`.
pub(crate) fn bearer(token: &Secret<String>) -> Secret<String> {
    Secret::new(format!("Bearer {}", token.expose()))
}

/// An https address, or http to this host, that carries no credentials of its own.
pub(crate) fn address(text: &str) -> Result<Url, HttpError> {
    let url = Url::parse(text).map_err(|_| HttpError::Address(text.to_owned()))?;
    let local = matches!(url.host_str(), Some("127.0.0.1" | "[::1]" | "localhost"));
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && local);
    let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    if scheme && bare && url.host_str().is_some() {
        Ok(url)
    } else {
        // What is wrong may be a password in it.
        Err(HttpError::Address(if bare { text.to_owned() } else { host(&url) }))
    }
}

pub(crate) fn host(url: &Url) -> String {
    url.host_str().unwrap_or("a server").to_owned()
}

fn unreachable(url: &Url, error: &reqwest::Error) -> HttpError {
    use std::error::Error as _;
    // The innermost cause says most; the outer texts repeat the URL, whose query may be a secret.
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let cause = if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() };
    let cause = if error.source().is_none() { "the connection failed".to_owned() } else { cause };
    HttpError::Unreachable { host: host(url), cause }
}

fn roots(ca_pem: Option<&[u8]>) -> Result<rustls::RootCertStore, HttpError> {
    let mut roots = rustls::RootCertStore::empty();
    let Some(pem) = ca_pem else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| HttpError::Ca(error.to_string()))?;
        roots.add(certificate).map_err(|error| HttpError::Ca(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(HttpError::Ca("it holds none".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_without_credentials_is_asked() {
        for (text, good) in [
            ("https://token.actions.githubusercontent.com", true),
            ("https://gitlab.example.com:8443/base", true),
            ("http://127.0.0.1:8080", true),
            ("http://gitlab.example.com", false),
            ("http://127.0.0.1.example.com", false),
            ("https://user:hunter2@gitlab.example.com", false),
            ("https://gitlab.example.com/#x", false),
            ("file:///etc/shadow", false),
            ("gitlab.example.com", false),
            ("", false),
        ] {
            let found = address(text);
            assert_eq!(found.is_ok(), good, "{text}");
            assert!(!found.is_err_and(|error| error.to_string().contains("hunter2")));
        }
    }
}
