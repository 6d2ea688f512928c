//! The target's leg: lockgate is the client and verifies whom it talks to.

use super::{ClientIdentity, TlsError, certificates, provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How the target is verified; the words are libpq's (`sslmode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS: the connection is plain.
    Disable,
    /// The certificate must come from the CA; it may be for any name.
    VerifyCa,
    /// The certificate must come from the CA and be for the target's name.
    VerifyFull,
}

/// The protocol's name in ALPN (PostgreSQL 17 documentation, §53.2.10).
pub(super) const ALPN: &[u8] = b"postgresql";

/// A target's TLS settings, ready for handshakes.
#[derive(Clone)]
pub struct UpstreamTls {
    mode: TlsMode,
    direct: bool,
    config: Option<Arc<ClientConfig>>,
}

impl UpstreamTls {
    /// No TLS.
    pub fn disable() -> Self {
        Self { mode: TlsMode::Disable, direct: false, config: None }
    }

    /// By mode and CA (PEM, any number of certificates). Without a CA the public roots count, for `verify-full` only.
    pub fn new(mode: TlsMode, ca: Option<&[u8]>) -> Result<Self, TlsError> {
        let roots = match (mode, ca) {
            (TlsMode::Disable, _) => return Ok(Self::disable()),
            (TlsMode::VerifyCa, None) => return Err(TlsError::VerifyCaWithoutCa),
            (TlsMode::VerifyFull, None) => trusted("upstream.ca", None)?,
            (TlsMode::VerifyCa | TlsMode::VerifyFull, Some(pem)) => trusted("upstream.ca", Some(pem))?,
        };
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| TlsError::Pem { what: "upstream.ca", detail: error.to_string() })?;
        let verifier: Arc<dyn ServerCertVerifier> = match mode {
            TlsMode::VerifyCa => Arc::new(AnyName(chain)),
            TlsMode::Disable | TlsMode::VerifyFull => chain,
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Rustls { what: "use upstream.tls", source })?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        // As libpq 17 and later says it; older servers do not look.
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { mode, direct: false, config: Some(Arc::new(config)) })
    }

    /// Begins with TLS instead of asking for it, as PostgreSQL 17 and later allows (`sslnegotiation=direct`).
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// The same for another protocol than PostgreSQL's.
    #[must_use]
    pub(crate) fn speaking(&self, protocols: &[&[u8]]) -> Self {
        let config = self.config.as_ref().map(|config| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(config)
        });
        Self { mode: self.mode, direct: true, config }
    }

    /// Whether it begins with TLS.
    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The mode.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// Shakes hands as a client of `host`, a DNS name or an address. `None` when TLS is disabled.
    ///
    /// With an identity nothing of the connection serves another one: it would be that identity's there.
    pub(crate) fn connector(
        &self,
        host: &str,
        identity: Option<ClientIdentity>,
    ) -> Result<Option<Connector>, TlsError> {
        let Some(config) = &self.config else { return Ok(None) };
        let config = match identity {
            None => config.clone(),
            Some(ClientIdentity(certified)) => {
                let mut own = ClientConfig::clone(config);
                own.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
                own.resumption = Resumption::disabled();
                Arc::new(own)
            }
        };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| TlsError::BadName { name: host.to_owned() })?;
        Ok(Some(Connector { connector: TlsConnector::from(config), name }))
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// One handshake to come.
pub(crate) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    pub(crate) async fn connect<S>(self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.connector
            .connect(self.name, stream)
            .await
            .map_err(|error| TlsError::from_handshake("verify the target by TLS", error))
    }
}

/// The certificates of `pem`, or the public roots.
pub(super) fn trusted(what: &'static str, pem: Option<&[u8]>) -> Result<RootCertStore, TlsError> {
    let Some(pem) = pem else { return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }) };
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        store
            .add(certificate)
            .map_err(|source| TlsError::Rustls { what: "use the CA's certificates", source })?;
    }
    Ok(store)
}

/// Everything but the name. webpki looks at the name last, so its complaint means that all else is right.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
