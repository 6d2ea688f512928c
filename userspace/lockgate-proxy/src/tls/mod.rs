//! TLS on both legs: what the client is offered, and how the target is verified.
//!
//! rustls with the ring provider, TLS 1.2 and 1.3. It reads no files: whoever reads the configuration hands over PEM.
//! The session drives the client's leg, [`crate::upstream`] the other.

mod binding;
mod client;
mod issue;
mod key;
mod upstream;

pub use binding::server_end_point;
pub(crate) use client::refuse_direct;
pub use client::{Accepted, ClientTls, Negotiation, SERVER_VALIDITY};
pub use issue::{Authority, NewAuthority, new_authority};
pub(crate) use issue::{ClientIdentity, Subject};
pub use upstream::{TlsMode, UpstreamTls};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;

/// What is wrong with TLS material or with a handshake.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// PEM text cannot be read.
    #[error("{what} is not PEM: {detail}")]
    Pem {
        /// Which material.
        what: &'static str,
        /// What the reader says.
        detail: String,
    },
    /// PEM text that holds nothing of the kind.
    #[error("{what} holds no {expected}")]
    Missing {
        /// Which material.
        what: &'static str,
        /// What was expected in it.
        expected: &'static str,
    },
    /// `verify-ca` without a CA would accept anybody's certificate.
    #[error("tls: verify-ca needs `ca`, as any public certificate would pass; name a CA or use verify-full")]
    VerifyCaWithoutCa,
    /// The name to verify is neither a DNS name nor an address.
    #[error("{name:?} is neither a DNS name nor an IP address, so no certificate can be for it")]
    BadName {
        /// The name.
        name: String,
    },
    /// A CA that cannot sign.
    #[error("{what}: {detail}")]
    Authority {
        /// The setting.
        what: &'static str,
        /// Why not, and what to do.
        detail: String,
    },
    /// A role that no certificate can be for.
    #[error("no certificate can be issued for the role {name:?}: its common name has 1 to {limit} bytes")]
    CommonName {
        /// The role.
        name: String,
        /// The bound.
        limit: usize,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be issued: {detail}")]
    Issue {
        /// Why not.
        detail: String,
    },
    /// A name that is not the target's, and a client that looks at names.
    #[error(
        "the client asked for a certificate for {name:?}, which is no name of {target}, and did not take the target's own; add it to client_tls.names if it is"
    )]
    ForeignName {
        /// The name.
        name: String,
        /// The target.
        target: String,
    },
    /// TLS that is for something else, or does not say what it is for where it has to.
    #[error("the client's TLS is not for PostgreSQL: its ALPN does not name postgresql")]
    OtherProtocol,
    /// Bytes came before the handshake that would have counted as if they had been encrypted (CVE-2021-23222).
    #[error("{extra} bytes came in clear text behind the request for TLS")]
    PlaintextBehindRequest {
        /// How many.
        extra: usize,
    },
    /// The material or the handshake is refused.
    #[error("{what}: {source}")]
    Rustls {
        /// In doing what.
        what: &'static str,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The connection broke in the handshake.
    #[error("{what}: {kind}")]
    Io {
        /// In doing what.
        what: &'static str,
        /// What the system says.
        kind: std::io::ErrorKind,
    },
}

impl TlsError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        use rustls::CertificateError as Certificate;
        match self {
            Self::Pem { .. } | Self::Missing { .. } | Self::VerifyCaWithoutCa | Self::BadName { .. } => {
                "tls_settings"
            }
            Self::Authority { .. } | Self::CommonName { .. } | Self::Issue { .. } => "tls_issue",
            Self::ForeignName { .. } => "tls_foreign_name",
            Self::OtherProtocol => "tls_other_protocol",
            Self::PlaintextBehindRequest { .. } => "tls_plaintext_injection",
            Self::Rustls { source: rustls::Error::InvalidCertificate(certificate), .. } => {
                match certificate {
                    Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                        "tls_wrong_name"
                    }
                    Certificate::UnknownIssuer => "tls_unknown_issuer",
                    Certificate::Expired | Certificate::ExpiredContext { .. } => "tls_expired",
                    _ => "tls_bad_certificate",
                }
            }
            Self::Rustls { .. } => "tls_handshake",
            Self::Io { .. } => "tls_io",
        }
    }

    /// An error that an asynchronous handshake ended with: rustls's own, if it is one.
    fn from_handshake(what: &'static str, error: std::io::Error) -> Self {
        let kind = error.kind();
        match error.into_inner().map(|inner| inner.downcast::<rustls::Error>()) {
            Some(Ok(source)) => Self::Rustls { what, source: *source },
            Some(Err(_)) | None => Self::Io { what, kind },
        }
    }
}

/// Settings for HTTPS to a server that lockgate asks, trusting `ca` (PEM) or the public roots.
pub(crate) fn https(ca: Option<&[u8]>) -> Result<rustls::ClientConfig, TlsError> {
    let roots = upstream::trusted("ca", ca)?;
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Rustls { what: "use TLS", source })?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { what, detail: error.to_string() })?;
    if certificates.is_empty() {
        return Err(TlsError::Missing { what, expected: "CERTIFICATE" });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
