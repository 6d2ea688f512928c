//! A certificate authority that lives as long as one test, and server certificates from it.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate authority.
pub struct TestCa(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
pub struct TestCertificate {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl TestCa {
    /// Makes one; `name` is its common name.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        Ok(TestCa(CertifiedIssuer::self_signed(params, key).context("make a test CA")?))
    }

    /// Its private key, PEM: for a lockgate that issues by this CA.
    pub fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// Signs what a request asks for, as a CA that trusts its clients does.
    pub fn sign(&self, request: &str) -> Result<String> {
        let mut request = CertificateSigningRequestParams::from_pem(request).context("read the request")?;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(request.signed_by(&self.0).context("sign the request")?.pem())
    }

    /// A client certificate whose URI name is this.
    pub fn issue_client(&self, uri: &str) -> Result<TestCertificate> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::URI(uri.try_into().context("a URI")?)];
        params.distinguished_name.push(DnType::CommonName, "lockgate test caller");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0).context("issue a client certificate")?;
        Ok(TestCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Result<TestCertificate> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "lockgate test server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0).context("issue a test certificate")?;
        Ok(TestCertificate { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}
