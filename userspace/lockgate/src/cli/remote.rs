//! An agent that is reached over the network: where it is, whom it takes us for, and whose word for its name is believed.
//!
//! `LOCKGATE_URL` names it, `LOCKGATE_TOKEN` holds an API token, `--ca` (or `LOCKGATE_CA`) the certificates that are trusted
//! instead of the public roots. The token goes over TLS alone; in the clear only to this host itself.

use super::{
    Exit,
    client::{CallError, Stream},
    failure,
};
use anyhow::{Context as _, ensure};
use hyper::Uri;
use lockgate_model::Secret;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A host that does not answer by then is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// What the command line says of it.
static TRUSTED: OnceLock<Option<PathBuf>> = OnceLock::new();

/// Remembers `--ca` for whoever connects.
pub(super) fn trust(ca: Option<PathBuf>) {
    let _ = TRUSTED.set(ca);
}

/// Where it is, and how it is spoken to.
pub(super) struct Remote {
    pub(super) authority: String,
    /// In front of every path: an agent may be served below one.
    pub(super) base: String,
    pub(super) token: Option<Secret<String>>,
    url: String,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Remote {
    /// The one that the environment names; None when it names none.
    pub(super) fn named() -> anyhow::Result<Option<Self>> {
        let Some(url) = std::env::var("LOCKGATE_URL").ok().filter(|url| !url.is_empty()) else {
            return Ok(None);
        };
        let token = std::env::var("LOCKGATE_TOKEN").ok().filter(|token| !token.is_empty());
        let ca = TRUSTED.get().cloned().flatten();
        let made = Self::new(&url, token.map(Secret::new), ca);
        made.map(Some).map_err(|error| failure(Exit::Usage, format!("LOCKGATE_URL: {error:#}")))
    }

    fn new(url: &str, token: Option<Secret<String>>, ca: Option<PathBuf>) -> anyhow::Result<Self> {
        let expected = || format!("expected https://HOST[:PORT], got {url:?}");
        let uri: Uri = url.parse().with_context(expected)?;
        let authority = uri.authority().with_context(expected)?;
        ensure!(
            !authority.as_str().contains('@'),
            "the token goes into LOCKGATE_TOKEN, not into the address"
        );
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => Some(Arc::new(trusting(ca)?)),
            Some("http") => {
                let own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
                ensure!(
                    own,
                    "http is for this host alone: a token would go over the network in the clear; use https"
                );
                None
            }
            _ => anyhow::bail!(expected()),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self {
            authority: authority.to_string(),
            base: uri.path().trim_end_matches('/').to_owned(),
            token,
            url: url.to_owned(),
            host,
            port,
            tls,
        })
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, CallError> {
        let gone = |cause: String| CallError::NoRemote { url: self.url.clone(), cause };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| gone(format!("no connection within {CONNECT_WITHIN:?}")))?
            .map_err(|error| gone(error.to_string()))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| gone(error.to_string()))?;
        let shaking = TlsConnector::from(tls.clone()).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_WITHIN, shaking)
            .await
            .map_err(|_| gone(format!("no TLS within {CONNECT_WITHIN:?}")))?
            .map_err(|error| gone(format!("{error}; name the certificates to trust with --ca")))?;
        Ok(Box::new(stream))
    }
}

fn trusting(ca: Option<PathBuf>) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => {
            let place = || path.display().to_string();
            let pem = std::fs::read(&path).with_context(place)?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.with_context(place)?).with_context(place)?;
            }
            ensure!(!roots.is_empty(), "{}: there is no certificate in it", path.display());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(url: &str) -> anyhow::Result<Remote> {
        Remote::new(url, None, None)
    }

    #[test]
    fn addresses_are_read_and_tokens_never_go_in_the_clear() {
        let named = remote("https://lockgate.internal:8443/gate/").unwrap();
        assert_eq!(
            (named.host.as_str(), named.port, named.base.as_str()),
            ("lockgate.internal", 8443, "/gate")
        );
        assert!(named.tls.is_some());
        assert_eq!(remote("https://[::1]").unwrap().port, 443);
        for local in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1"] {
            assert!(remote(local).unwrap().tls.is_none(), "{local}");
        }
        for wrong in [
            "http://10.0.0.1",
            "http://lockgate.internal",
            "ftp://x",
            "lockgate",
            "",
            "https://me:secret@host",
        ] {
            assert!(remote(wrong).is_err(), "{wrong}");
        }
    }
}
