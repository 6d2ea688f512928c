//! HTTP to a receiver. Redirects are not followed, environment proxies are not used, answers are read only where their
//! content matters and then within a bound, and a host *name* may not lead to a private address unless configuration
//! says so: whoever controls a name server must not be able to point lockgate at the inside of the network. What a
//! name led to is what is dialled; it is not asked again in between.

use super::retry::{Answer, retry_after};
use crate::settings::ControlError;
use bytes::{Bytes, BytesMut};
use lockgate_model::port::Ambient;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{self, HeaderMap},
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

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
        let tls = tls(ca_pem).map_err(|detail| ControlError::Ca { name: name.to_owned(), detail })?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(ATTEMPT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(4)
            .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Guard { allow_private }))
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

/// An address that can be meant: http or https, with a host, without a password.
pub(super) fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "expected http(s)://host[:port]/path")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("expected http(s)://host[:port]/path");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("no user or password in it: requests are signed with `secret`");
    }
    Ok(url)
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

/// Name look-up that refuses inside addresses. Address literals never come here: they stand in the
/// configuration, so they count as meant.
struct Guard {
    allow_private: bool,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let admitted = admit(&host, found, allow_private)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// The addresses that may be dialled for a host name.
fn admit(host: &str, found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let local_name = host == "localhost" || host.ends_with(".localhost");
    let admits =
        |ip: IpAddr| allow_private || !is_private(ip) || (local_name && ip.to_canonical().is_loopback());
    let admitted: Vec<SocketAddr> = found.iter().copied().filter(|address| admits(address.ip())).collect();
    match (admitted.is_empty(), found.first()) {
        (false, _) => Ok(admitted),
        (true, None) => Err(format!("{host} has no address")),
        (true, Some(address)) => Err(format!(
            "{host} leads to {}, a private address; write the address itself in `url`, or set `allow_private: true`",
            address.ip()
        )),
    }
}

/// Addresses that are not on the public internet (IANA special-purpose registries), v4 inside v6 included.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
        || (a == 192 && b == 0 && c == 0)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| {
        let ([w, x], [y, z]) = (high.to_be_bytes(), low.to_be_bytes());
        is_private_v4(Ipv4Addr::new(w, x, y, z))
    };
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        || (a & 0xffc0) == 0xfec0 // site-local, deprecated
        || (a == 0x2001 && b == 0x0db8) // documentation
        || (a == 0x2001 && b == 0) // Teredo: hides an IPv4 address
        || (a == 0x0064 && b == 0xff9b && c == 1) // NAT64 for local use
        || ((a, b, c, d, e, f) == (0x0064, 0xff9b, 0, 0, 0, 0) && embedded(g, h)) // NAT64
        || ((a, b, c, d, e, f) == (0, 0, 0, 0, 0, 0) && embedded(g, h)) // IPv4-compatible, deprecated
        || (a == 0x2002 && embedded(b, c)) // 6to4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_lead_inside_unless_configuration_says_so() {
        for (host, address, allow_private, admitted) in [
            ("hooks.example.com", "93.184.216.34", false, true),
            ("hooks.example.com", "2606:2800:220:1::1", false, true),
            ("hooks.example.com", "10.0.0.1", false, false),
            ("hooks.example.com", "10.0.0.1", true, true),
            ("hooks.example.com", "127.0.0.1", false, false),
            ("hooks.example.com", "169.254.169.254", false, false),
            ("hooks.example.com", "100.64.0.1", false, false),
            ("hooks.example.com", "0.0.0.0", false, false),
            ("hooks.example.com", "::ffff:10.0.0.1", false, false),
            ("hooks.example.com", "::7f00:1", false, false),
            ("hooks.example.com", "64:ff9b::a00:1", false, false),
            ("hooks.example.com", "64:ff9b::808:808", false, true),
            ("hooks.example.com", "2002:a00:1::", false, false),
            ("hooks.example.com", "fd00::1", false, false),
            ("hooks.example.com", "fe80::1", false, false),
            ("localhost", "127.0.0.1", false, true),
            ("LOCALHOST.", "::1", false, true),
            ("localhost", "10.0.0.1", false, false),
            ("localhost.example.com", "127.0.0.1", false, false),
        ] {
            let found = vec![SocketAddr::new(address.parse().unwrap(), 0)];
            assert_eq!(admit(host, found, allow_private).is_ok(), admitted, "{host} {address}");
        }
        let mixed = ["10.0.0.1:0", "8.8.8.8:0"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(admit("x", mixed, false).unwrap().len(), 1);
        assert!(admit("x", Vec::new(), true).is_err());
    }

    #[test]
    fn urls_that_cannot_be_meant_are_refused() {
        for (text, fits) in [
            ("http://127.0.0.1:9000/hook", true),
            ("https://hooks.example.com", true),
            ("http://[::1]:9000/", true),
            ("ftp://x/", false),
            ("hooks.example.com/x", false),
            ("http://ana:pw@x/", false),
            ("", false),
        ] {
            assert_eq!(parse_url(text).is_ok(), fits, "{text}");
        }
    }

    #[test]
    fn trusted_certificates_must_be_some() {
        assert!(tls(None).is_ok());
        assert!(tls(Some(b"")).is_err());
        assert!(tls(Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")).is_err());
    }
}
