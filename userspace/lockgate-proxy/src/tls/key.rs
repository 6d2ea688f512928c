//! A private key of lockgate's own making or keeping, wiped when it is dropped, also where a step after it fails.
//!
//! What rcgen can wipe is its encoded copy. ring keeps the scalar in a structure of its own, and makes new keys in a
//! buffer on its stack; neither lets itself be wiped (the threat model says so).

use super::TlsError;
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

/// The key pair.
pub(super) struct OwnKey(KeyPair);

impl OwnKey {
    /// A new one, ECDSA P-256.
    pub(super) fn generate() -> Result<Self, TlsError> {
        KeyPair::generate().map(Self).map_err(|error| TlsError::Issue { detail: error.to_string() })
    }

    /// For whoever keeps it.
    pub(super) fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The form that rustls uses, for one certificate.
    pub(super) fn certified(self, chain: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, TlsError> {
        let mut der = PrivateKeyDer::Pkcs8(self.0.serialize_der().into());
        let signing = rustls::crypto::ring::sign::any_supported_type(&der)
            .map_err(|source| TlsError::Rustls { what: "use an issued certificate's key", source });
        der.zeroize();
        Ok(CertifiedKey::new(chain, signing?))
    }
}

impl From<KeyPair> for OwnKey {
    fn from(pair: KeyPair) -> Self {
        Self(pair)
    }
}

impl Drop for OwnKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for OwnKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for OwnKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
