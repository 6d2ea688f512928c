//! The client's leg: lockgate is the server, and shows a certificate that was configured for the target or one that it
//! signs itself for the name that the client asked for.
//!
//! It signs for no name that is not the target's, and takes no handshake that says it is for another protocol. It asks for a
//! client certificate only where a target's explicit address takes one: who a captured job is, the kernel says.

use super::issue::{Authority, Issued, Names, private_key};
use super::upstream::ALPN;
use super::{TlsError, certificates, provider, server_end_point};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    AlertDescription, RootCertStore, ServerConfig,
    crypto::ring::sign::any_supported_type,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use zeroize::Zeroize;

/// How long an issued server certificate is good for, unless configuration says otherwise.
pub const SERVER_VALIDITY: Duration = Duration::from_secs(24 * 3600);
/// What is spoken over HTTPS, the better one first (RFC 9113 §3.2).
const HTTP_ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Certificates that one target keeps: its names, and the addresses of a network that clients dial without a name.
const MAX_ISSUED: usize = 256;

/// What clients are offered.
#[derive(Clone)]
pub struct ClientTls(Arc<Source>, Asks);

/// Whether clients are asked for a certificate, and by whose CA.
type Asks = Option<Arc<dyn ClientCertVerifier>>;

enum Source {
    Fixed(Shown, CertifiedKey),
    Issuing(Box<Issuing>),
}

/// A certificate, ready to be shown.
#[derive(Clone)]
struct Shown {
    config: Arc<ServerConfig>,
    binding: Option<Vec<u8>>,
}

struct Issuing {
    authority: Arc<Authority>,
    title: String,
    names: Vec<String>,
    validity: Duration,
    issued: Mutex<HashMap<Names, (Shown, Instant)>>,
}

/// How a client begins TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiation {
    /// It asked for it, and was answered 'S'.
    Asked,
    /// It began with it (`sslnegotiation=direct`), and has to name the protocol.
    Direct,
    /// It began with it, and speaks HTTP.
    Http {
        /// The target speaks HTTP/2 only to who speaks nothing else: it is asked in the clear, where nothing is negotiated.
        plain: bool,
    },
}

/// A client inside TLS.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The stream.
    pub stream: TlsStream<S>,
    /// What SCRAM is bound to: a hash of the certificate that the client was shown.
    pub binding: Option<Vec<u8>>,
    /// What it means if the client leaves now: it asked for a name that is not the target's. In TLS 1.3 a client says only
    /// behind the handshake that it does not like the certificate.
    pub disliked: Option<TlsError>,
}

impl ClientTls {
    /// From a certificate chain and its private key, both PEM.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates("client_tls.certificate", certificate)?;
        let mut key = private_key("client_tls.key", key)?;
        let refused = |source| TlsError::Rustls { what: "use client_tls", source };
        let signing = any_supported_type(&key).map_err(refused);
        key.zeroize();
        let certified = CertifiedKey::new(chain, signing?);
        certified.keys_match().map_err(refused)?;
        Ok(Self(Arc::new(Source::Fixed(Shown::new(certified.clone(), None)?, certified)), None))
    }

    /// Certificates are signed by `authority` for `names` of the target, as clients ask for them.
    pub fn issuing(authority: Authority, target: &str, names: Vec<String>, validity: Duration) -> Self {
        let names = names.iter().map(|name| canonical(name)).collect();
        let issued = Mutex::default();
        Self(
            Arc::new(Source::Issuing(Box::new(Issuing {
                authority: Arc::new(authority),
                title: target.to_owned(),
                names,
                validity,
                issued,
            }))),
            None,
        )
    }

    /// The same, asking clients for a certificate of this CA (PEM). One that has none may go on without; one that shows
    /// another is refused.
    ///
    /// # Errors
    /// When the CA cannot be read.
    pub fn asking(&self, ca: &[u8]) -> Result<Self, TlsError> {
        const WHAT: &str = "callers.client_ca";
        let mut roots = RootCertStore::empty();
        for certificate in certificates(WHAT, ca)? {
            roots.add(certificate).map_err(|source| TlsError::Rustls { what: WHAT, source })?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| TlsError::Authority { what: WHAT, detail: error.to_string() })?;
        let asks: Asks = Some(verifier);
        let source = match &*self.0 {
            Source::Fixed(_, certified) => {
                Source::Fixed(Shown::new(certified.clone(), asks.clone())?, certified.clone())
            }
            Source::Issuing(issuing) => Source::Issuing(Box::new(Issuing {
                authority: issuing.authority.clone(),
                title: issuing.title.clone(),
                names: issuing.names.clone(),
                validity: issuing.validity,
                issued: Mutex::default(),
            })),
        };
        Ok(Self(Arc::new(source), asks))
    }

    /// Takes the client's handshake. `unread` is what the session had read behind the SSLRequest: it must be nothing.
    /// `dialled` is where the client meant to go.
    ///
    /// Waits as long as the client does; the session bounds it with its handshake time.
    pub async fn accept<S>(
        &self,
        stream: S,
        unread: &[u8],
        negotiation: Negotiation,
        dialled: IpAddr,
    ) -> Result<Accepted<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !unread.is_empty() {
            return Err(TlsError::PlaintextBehindRequest { extra: unread.len() });
        }
        let what = "take the client's TLS handshake";
        let failed = |error| TlsError::from_handshake(what, error);
        let mut start =
            LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.map_err(failed)?;
        let (name, speaks) = {
            let hello = start.client_hello();
            let speaks = match hello.alpn() {
                Some(mut protocols) => match negotiation {
                    Negotiation::Asked | Negotiation::Direct => protocols.any(|protocol| protocol == ALPN),
                    Negotiation::Http { .. } => protocols.any(|protocol| HTTP_ALPN.contains(&protocol)),
                },
                None => negotiation != Negotiation::Direct,
            };
            (hello.server_name().map(canonical), speaks)
        };
        if !speaks {
            alert(&mut start.io, AlertDescription::NoApplicationProtocol).await;
            return Err(TlsError::OtherProtocol);
        }
        let shown = match self.shown(name.as_deref(), dialled) {
            Ok(shown) => shown,
            Err(error) => {
                // A CA that cannot sign: nothing that the client did.
                alert(&mut start.io, AlertDescription::InternalError).await;
                return Err(error);
            }
        };
        let disliked = name.and_then(|name| self.foreign(name));
        let config = match negotiation {
            Negotiation::Asked | Negotiation::Direct => shown.config,
            Negotiation::Http { plain } => {
                let mut config = ServerConfig::clone(&shown.config);
                config.alpn_protocols = HTTP_ALPN.iter().map(|protocol| protocol.to_vec()).collect();
                if plain {
                    config.alpn_protocols.reverse();
                }
                Arc::new(config)
            }
        };
        match start.into_stream(config).await {
            Ok(stream) => Ok(Accepted { stream, binding: shown.binding, disliked }),
            Err(error) => Err(disliked.unwrap_or_else(|| failed(error))),
        }
    }

    /// The error that a name is, if the client minds.
    fn foreign(&self, name: String) -> Option<TlsError> {
        match &*self.0 {
            Source::Issuing(issuing) if !issuing.names.contains(&name) => {
                Some(TlsError::ForeignName { name, target: issuing.title.clone() })
            }
            Source::Issuing(_) | Source::Fixed(..) => None,
        }
    }

    fn shown(&self, name: Option<&str>, dialled: IpAddr) -> Result<Shown, TlsError> {
        match &*self.0 {
            Source::Fixed(shown, _) => Ok(shown.clone()),
            Source::Issuing(issuing) => issuing.shown(name, dialled, &self.1),
        }
    }
}

impl Issuing {
    /// All names of the target, and the address that the client dialled.
    fn all(&self, dialled: IpAddr) -> Names {
        Names::All {
            title: self.title.clone(),
            names: self.names.clone(),
            address: Some(dialled.to_canonical()),
        }
    }

    fn shown(&self, name: Option<&str>, dialled: IpAddr, asks: &Asks) -> Result<Shown, TlsError> {
        let names = match name {
            Some(name) if self.names.iter().any(|known| known == name) => Names::One(name.to_owned()),
            // A server does not refuse a client for the name that it uses, and a client that does not look at names (or
            // has another one for this target) is served. One that looks finds that the certificate is for others.
            // Nothing is signed for the other name: a client that believes to be elsewhere has to notice.
            Some(_) | None => self.all(dialled),
        };
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some((shown, until)) = issued.get(&names)
            && *until > now
        {
            return Ok(shown.clone());
        }
        // Signing takes a tenth of a millisecond; whoever waits for the lock would sign the same.
        let (certified, good_for) = self.authority.server(&names, self.validity)?;
        let shown = Shown::new(certified, asks.clone())?;
        if issued.len() >= MAX_ISSUED {
            let oldest = issued.iter().min_by_key(|(_, (_, until))| *until).map(|(names, _)| names.clone());
            oldest.map(|names| issued.remove(&names));
        }
        issued.insert(names, (shown.clone(), now + good_for / 2));
        Ok(shown)
    }
}

impl Shown {
    fn new(certified: CertifiedKey, asks: Asks) -> Result<Self, TlsError> {
        let binding = certified.cert.first().and_then(|leaf| server_end_point(leaf));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Rustls { what: "use client_tls", source })?;
        let builder = match asks {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Issued::new(certified))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { config: Arc::new(config), binding })
    }
}

/// DNS names are compared in lower case and without the root's dot.
fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// A fatal alert in the clear (RFC 8446 §6), before there is anything to encrypt it with: the client's library has a word
/// for each. It is a courtesy; a client that does not take it is gone.
async fn alert<S: AsyncWrite + Unpin>(stream: &mut S, description: AlertDescription) {
    let record = [0x15, 3, 3, 0, 2, 2, u8::from(description)];
    let _ = stream.write_all(&record).await;
    let _ = stream.flush().await;
}

/// The alert for a client that begins with TLS where there is none.
pub(crate) async fn refuse_direct<S: AsyncWrite + Unpin>(stream: &mut S) {
    alert(stream, AlertDescription::HandshakeFailure).await;
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls(…)")
    }
}
