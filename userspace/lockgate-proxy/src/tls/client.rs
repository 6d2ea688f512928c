//! The client's leg: lockgate is the server and shows a certificate of its own.

use super::{TlsError, certificates, provider};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What clients are offered.
#[derive(Clone)]
pub struct ClientTls(TlsAcceptor);

impl ClientTls {
    /// From a certificate chain and its private key, both PEM.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = certificates("client_tls.certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                TlsError::Missing { what: "client_tls.key", expected: "PRIVATE KEY" }
            }
            other => TlsError::Pem { what: "client_tls.key", detail: other.to_string() },
        })?;
        let refused = |source| TlsError::Rustls { what: "use client_tls", source };
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(refused)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Takes the client's handshake. `unread` is what the session had read behind the SSLRequest: it must be nothing.
    ///
    /// Waits as long as the client does; the session bounds it with its handshake time.
    pub async fn accept<S>(&self, stream: S, unread: &[u8]) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !unread.is_empty() {
            return Err(TlsError::PlaintextBehindRequest { extra: unread.len() });
        }
        self.0
            .accept(stream)
            .await
            .map_err(|error| TlsError::from_handshake("take the client's TLS handshake", error))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls(…)")
    }
}
