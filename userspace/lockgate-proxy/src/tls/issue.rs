//! Certificates that lockgate signs itself: for clients that connect to it, and for its own logins on targets.
//!
//! Short-lived, with keys that never leave memory. It does not decide for whom; the client's leg knows the target's names,
//! the credential the role.

use super::{TlsError, certificates, key::OwnKey};
use lockgate_model::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls::{crypto::ring::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{net::IpAddr, sync::Arc, time::Duration};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

/// Clocks of hosts differ; a certificate is good from a little before it was made.
const BACKDATED: Duration = Duration::from_secs(30);
/// Random bytes of a serial number: RFC 5280 §4.1.2.2 allows 20, CAs are asked for at least 8.
const SERIAL_BYTES: usize = 16;
/// X.520 ub-common-name. OpenSSL refuses longer ones.
const MAX_COMMON_NAME: usize = 64;

/// A CA that signs.
pub struct Authority {
    what: &'static str,
    issuer: Issuer<'static, OwnKey>,
    certificate: CertificateDer<'static>,
    not_after: OffsetDateTime,
}

impl Authority {
    /// From the CA's certificate and its key, both PEM; `what` is the setting, for errors.
    ///
    /// # Errors
    /// When they are not a CA's, do not belong together, or are over.
    pub fn from_pem(what: &'static str, certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let unfit = |detail: &str| TlsError::Authority { what, detail: detail.to_owned() };
        let certificate = certificates(what, certificate)?
            .into_iter()
            .next()
            .ok_or(TlsError::Missing { what, expected: "CERTIFICATE" })?;
        let key = key_pair(what, key)?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_| unfit("`ca` cannot be read as X.509"))?;
        if !parsed.is_ca() {
            return Err(unfit("`ca` is not a CA's certificate (basic constraints CA:TRUE)"));
        }
        if parsed.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| !usage.value.key_cert_sign())) {
            return Err(unfit("`ca` may not sign certificates (key usage keyCertSign)"));
        }
        if parsed.public_key().subject_public_key.data.as_ref() != PublicKeyData::der_bytes(&key) {
            return Err(unfit("`ca_key` is not the key of `ca`"));
        }
        let not_after = parsed.validity().not_after.to_datetime();
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|error| unfit(&error.to_string()))?;
        let authority = Self { what, issuer, certificate, not_after };
        authority.is_valid()?;
        Ok(authority)
    }

    /// A certificate for a login on a target.
    pub(crate) fn client(
        &self,
        subject: &Subject<'_>,
        validity: Duration,
    ) -> Result<ClientIdentity, TlsError> {
        self.is_valid()?;
        let (mut params, key) = subject.prepared()?;
        self.validity(&mut params, validity);
        params.serial_number = Some(serial()?);
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        Ok(ClientIdentity(key.certified(vec![signed.der().clone()])?))
    }

    /// A certificate for lockgate as a server by these names.
    pub(super) fn server(
        &self,
        names: &Names,
        validity: Duration,
    ) -> Result<(CertifiedKey, Duration), TlsError> {
        self.is_valid()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cut(names.title()));
        params.subject_alt_names = names.alternatives()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let good_for = self.validity(&mut params, validity);
        params.serial_number = Some(serial()?);
        let key = OwnKey::generate()?;
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| failed(&error))?;
        // Whoever trusts an intermediate's root needs the intermediate; whoever trusts this one ignores it.
        let chain = vec![signed.der().clone(), self.certificate.clone()];
        Ok((key.certified(chain)?, good_for))
    }

    /// An agent runs for longer than a CA may last: then the words are about the CA, not about a leaf of it.
    fn is_valid(&self) -> Result<(), TlsError> {
        if self.not_after <= OffsetDateTime::now_utc() {
            let detail = "`ca` has expired; make a new one, have it trusted, and restart lockgate".to_owned();
            return Err(TlsError::Authority { what: self.what, detail });
        }
        Ok(())
    }

    /// Never longer than the CA itself. Answers how long from now.
    fn validity(&self, params: &mut CertificateParams, validity: Duration) -> Duration {
        let now = OffsetDateTime::now_utc();
        params.not_before = now - BACKDATED;
        params.not_after = (now + validity).min(self.not_after);
        (params.not_after - now).try_into().unwrap_or_default()
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority(…)")
    }
}

/// A CA made for somebody who has none: certificate and key, PEM.
pub struct NewAuthority {
    /// What the job, or the server, has to trust.
    pub certificate: String,
    /// To be kept from everybody else.
    pub key: Secret<String>,
}

/// Makes a CA that may sign leaves only.
///
/// # Errors
/// When there is no randomness.
pub fn new_authority(name: &str, validity: Duration) -> Result<NewAuthority, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, cut(name));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - BACKDATED, now + validity);
    params.serial_number = Some(serial()?);
    let key = OwnKey::generate()?;
    let signed = params.self_signed(&key).map_err(|error| failed(&error))?;
    Ok(NewAuthority { certificate: signed.pem(), key: Secret::new(key.to_pem()) })
}

/// Whom a client certificate is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The role: the common name, as PostgreSQL's `cert` method has it.
    pub(crate) role: &'a str,
    /// lockgate's session, so that the server's log can be joined; it shows the distinguished name.
    pub(crate) session: Option<&'a str>,
}

impl Subject<'_> {
    fn prepared(&self) -> Result<(CertificateParams, OwnKey), TlsError> {
        if self.role.is_empty() || self.role.len() > MAX_COMMON_NAME {
            return Err(TlsError::CommonName { name: self.role.to_owned(), limit: MAX_COMMON_NAME });
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.role);
        if let Some(session) = self.session {
            params.distinguished_name.push(DnType::OrganizationalUnitName, format!("lockgate {session}"));
            let uri = Ia5String::try_from(format!("spiffe://lockgate/session/{session}"))
                .map_err(|error| failed(&error))?;
            params.subject_alt_names = vec![SanType::URI(uri)];
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok((params, OwnKey::generate()?))
    }

    /// A request for somebody else's CA.
    pub(crate) fn request(&self) -> Result<Request, TlsError> {
        let (params, key) = self.prepared()?;
        Ok(Request { params, key })
    }
}

/// A key and a request to certify it.
pub(crate) struct Request {
    params: CertificateParams,
    key: OwnKey,
}

impl Request {
    /// PEM.
    pub(crate) fn pem(&self) -> Result<String, TlsError> {
        let request = self.params.serialize_request(&self.key).map_err(|error| failed(&error))?;
        request.pem().map_err(|error| failed(&error))
    }

    /// What the CA answered.
    pub(crate) fn certified(self, chain: &[u8]) -> Result<ClientIdentity, TlsError> {
        let chain = certificates("the issued client certificate", chain)?;
        Ok(ClientIdentity(self.key.certified(chain)?))
    }
}

/// A client certificate with its key, for one connection.
#[derive(Debug)]
pub(crate) struct ClientIdentity(pub(super) CertifiedKey);

impl ClientIdentity {
    /// From a chain and its key, both PEM.
    pub(crate) fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let what = "upstream.credential.client_certificate";
        let chain = certificates(what, chain)?;
        let mut key = private_key(what, key)?;
        let signing = any_supported_type(&key).map_err(|source| TlsError::Rustls {
            what: "use the key of upstream.credential.client_certificate",
            source,
        });
        key.zeroize();
        let certified = CertifiedKey::new(chain, signing?);
        certified.keys_match().map_err(|_| TlsError::Authority {
            what,
            detail: "`key` is not the key of `certificate`".to_owned(),
        })?;
        Ok(Self(certified))
    }
}

/// What a server certificate is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Names {
    /// One name, that the client asked for.
    One(String),
    /// The client named none: all names of the target, and the address that it dialled.
    All { title: String, names: Vec<String>, address: Option<IpAddr> },
}

impl Names {
    fn title(&self) -> &str {
        match self {
            Self::One(name) => name,
            Self::All { title, .. } => title,
        }
    }

    fn alternatives(&self) -> Result<Vec<SanType>, TlsError> {
        let dns = |name: &String| match name.parse::<IpAddr>() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ia5String::try_from(name.as_str())
                .map(SanType::DnsName)
                .map_err(|_| TlsError::BadName { name: name.clone() }),
        };
        match self {
            Self::One(name) => Ok(vec![dns(name)?]),
            Self::All { names, address, .. } => {
                let mut all = names.iter().map(dns).collect::<Result<Vec<_>, _>>()?;
                all.extend(address.map(SanType::IpAddress));
                Ok(all)
            }
        }
    }
}

pub(super) fn private_key(what: &'static str, key: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        rustls_pki_types::pem::Error::NoItemsFound => TlsError::Missing { what, expected: "PRIVATE KEY" },
        // The reader's own words may quote a line of the key.
        _ => TlsError::Pem { what, detail: "the private key cannot be read".to_owned() },
    })
}

fn key_pair(what: &'static str, pem: &[u8]) -> Result<OwnKey, TlsError> {
    let mut key = private_key(what, pem)?;
    let pair = match &key {
        PrivateKeyDer::Pkcs8(der) => {
            KeyPair::try_from(der).map(OwnKey::from).map_err(|_| TlsError::Authority {
                what,
                detail: "`ca_key` is not an ECDSA P-256 or P-384, Ed25519 or RSA key".to_owned(),
            })
        }
        _ => Err(TlsError::Authority {
            what,
            detail: "`ca_key` is not PKCS #8; convert it: openssl pkcs8 -topk8 -nodes -in OLD -out NEW"
                .to_owned(),
        }),
    };
    key.zeroize();
    pair
}

fn serial() -> Result<SerialNumber, TlsError> {
    let mut bytes = Zeroizing::new([0; SERIAL_BYTES]);
    getrandom::fill(&mut *bytes).map_err(|error| failed(&error))?;
    // Positive, and never shorter than it looks (RFC 5280 §4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&*bytes))
}

fn cut(name: &str) -> String {
    let end =
        name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= MAX_COMMON_NAME).last();
    name.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
}

fn failed(error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Issue { detail: error.to_string() }
}

/// Shared with whoever keeps what was issued.
pub(super) type Issued = Arc<CertifiedKey>;
