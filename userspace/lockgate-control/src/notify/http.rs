//! HTTP to a receiver. Redirects are not followed, environment proxies are not used, answers are read only where their
//! content matters and then within a bound, and where it may be made to dial is [`super::guard`]'s to judge.

use super::{
    guard::{self, Guard, Lookup},
    retry::{Answer, retry_after},
};
use crate::settings::ControlError;
use bytes::{Bytes, BytesMut};
use lockgate_model::port::Ambient;
use reqwest::{
    Url,
    header::{self, HeaderMap},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{sync::Arc, time::Duration};

/// One attempt, from name look-up to the answer's head (Standard Webhooks: 15 to 30 seconds).
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// Error texts that are recorded are cut to this many bytes.
const ERROR_MAX: usize = 300;

/// Bytes of an answer that is read: what Slack's methods answer is far smaller.
const ANSWER_MAX: usize = 256 << 10;

/// An HTTP client for one receiver.
pub(crate) struct Http {
    client: reqwest::Client,
}

/// An answer whose body was read.
pub(crate) struct Read {
    pub(crate) code: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) fn new(name: &str, ca_pem: Option<&[u8]>, allow_private: bool) -> Result<Self, ControlError> {
        Self::over(name, ca_pem, allow_private, guard::system())
    }

    /// With another way to look names up.
    pub(super) fn over(
        name: &str,
        ca_pem: Option<&[u8]>,
        allow_private: bool,
        lookup: Lookup,
    ) -> Result<Self, ControlError> {
        let tls = tls(ca_pem).map_err(|detail| ControlError::Ca { name: name.to_owned(), detail })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(ATTEMPT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4)
            .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Guard { allow_private, lookup }))
            .build()
            .map_err(|error| ControlError::Client { name: name.to_owned(), detail: error.to_string() })?;
        Ok(Self { client })
    }

    /// One attempt whose answer's body does not matter. Cancel-safe in that nothing is kept; the receiver may have got
    /// it all the same.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
        ambient: &dyn Ambient,
    ) -> Answer {
        match self.client.post(url.clone()).headers(headers).body(body).send().await {
            Ok(response) => Answer::Status {
                code: response.status().as_u16(),
                retry_after: asked_to_wait(response.headers(), ambient),
            },
            Err(error) => Answer::Failed(describe(&error.without_url())),
        }
    }

    /// One attempt, with the answer's body.
    pub(crate) async fn call(
        &self,
        url: Url,
        headers: HeaderMap,
        body: Vec<u8>,
        ambient: &dyn Ambient,
    ) -> Result<Read, String> {
        let sent = self.client.post(url).headers(headers).body(body).send().await;
        let mut response = sent.map_err(|error| describe(&error.without_url()))?;
        let code = response.status().as_u16();
        let retry_after = asked_to_wait(response.headers(), ambient);
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error.without_url()))? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(format!("expected an answer of at most {ANSWER_MAX} bytes, got more"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Read { code, retry_after, body: body.freeze() })
    }
}

fn asked_to_wait(headers: &HeaderMap, ambient: &dyn Ambient) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?;
    retry_after(value.to_str().ok()?, ambient.now())
}

/// The chain of causes in one line: reqwest's own text stops at "error sending request".
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    crate::text::clip(&text, ERROR_MAX).into_owned()
}

pub(crate) fn tls(ca_pem: Option<&[u8]>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca_pem {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| format!("not PEM: {error}"))?;
                roots.add(certificate).map_err(|error| format!("not a usable certificate: {error}"))?;
            }
            if roots.is_empty() {
                return Err("expected at least one PEM certificate, got none".to_owned());
            }
        }
    }
    Ok(ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_certificates_must_be_some() {
        assert!(tls(None).is_ok());
        assert!(tls(Some(b"")).is_err());
        assert!(tls(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err());
    }
}
