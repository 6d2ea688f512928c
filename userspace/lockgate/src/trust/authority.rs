//! A CA's certificate, as clients' trust stores want it.

use anyhow::{Context as _, bail, ensure};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _, x509::X509Name};

/// One certificate.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    der: CertificateDer<'static>,
    pem: String,
    subject: String,
    until: jiff::Timestamp,
    hash: String,
}

impl Authority {
    /// Reads a file of certificates.
    pub(crate) fn all_of(text: &str) -> anyhow::Result<Vec<Self>> {
        let ders: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .context("not a certificate in PEM")?;
        ensure!(!ders.is_empty(), "no certificate in it (PEM, BEGIN CERTIFICATE)");
        ders.into_iter().map(Self::of).collect()
    }

    fn of(der: CertificateDer<'static>) -> anyhow::Result<Self> {
        let (_, certificate) = X509Certificate::from_der(&der).context("not an X.509 certificate")?;
        let subject = certificate.subject().to_string();
        if !certificate.is_ca() {
            bail!("{subject:?} is no CA: trusting it would do nothing");
        }
        let until = jiff::Timestamp::from_second(certificate.validity().not_after.timestamp())?;
        let hash = hash_of(certificate.subject());
        let pem = pem_of(&der);
        Ok(Self { pem, subject, until, hash, der })
    }

    /// Its certificate, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// SHA-256 of the certificate, hex.
    pub(crate) fn fingerprint(&self) -> String {
        hex::encode(digest(&SHA256, &self.der))
    }

    /// A name for its files.
    pub(crate) fn file_stem(&self) -> String {
        format!("lockgate-{}", self.fingerprint().get(..12).unwrap_or_default())
    }

    /// What it is called.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// When it ends.
    pub(crate) fn until(&self) -> jiff::Timestamp {
        self.until
    }

    /// By which name OpenSSL finds it in a directory, without the number behind the dot.
    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    /// Whether a bundle has it, whatever its lines.
    pub(crate) fn is_in(&self, bundle: &[u8]) -> bool {
        CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok).any(|known| known == self.der)
    }
}

fn pem_of(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// OpenSSL's `X509_NAME_hash`: SHA-1 over the name in a canonical form, its first four bytes, the lowest first.
fn hash_of(name: &X509Name<'_>) -> String {
    let mut canonical = Vec::new();
    for relative in name.iter_rdn() {
        let mut attributes: Vec<Vec<u8>> = relative
            .iter()
            .map(|attribute| {
                let value = attribute.attr_value();
                let (tag, content) = canonical_value(value.header.tag().0, value.data);
                tlv(0x30, &[tlv(0x06, attribute.attr_type().as_bytes()), tlv(tag, &content)].concat())
            })
            .collect();
        // SET OF is sorted in DER.
        attributes.sort();
        canonical.extend(tlv(0x31, &attributes.concat()));
    }
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &canonical);
    let first: Vec<u8> = sum.as_ref().iter().take(4).rev().copied().collect();
    hex::encode(first)
}

/// Texts become UTF-8 in lower case, without white space around them and with one space for each within (OpenSSL's
/// `asn1_string_canon`).
fn canonical_value(tag: u32, data: &[u8]) -> (u8, Vec<u8>) {
    const UTF8: u8 = 12;
    let wide = |size: usize| -> String {
        let units =
            data.chunks(size).map(|unit| unit.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)));
        units.map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    let text = match tag {
        // UTF8String, PrintableString, IA5String, VisibleString
        12 | 19 | 22 | 26 => String::from_utf8_lossy(data).into_owned(),
        // T61String, which OpenSSL takes for Latin-1
        20 => data.iter().map(|byte| char::from(*byte)).collect(),
        // UniversalString and BMPString
        28 => wide(4),
        30 => wide(2),
        _not_a_text => return (u8::try_from(tag).unwrap_or_default(), data.to_vec()),
    };
    let words: Vec<&str> =
        text.split(|letter: char| letter.is_ascii_whitespace() || letter == '\u{b}').collect();
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    (UTF8, words.join(" ").to_ascii_lowercase().into_bytes())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ ..0x80 => out.push(short as u8),
        long => {
            let bytes: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::Authority;

    /// `/C=CH/O=Example  Inc /CN=lockgate Test CA`
    pub(in crate::trust) const PEM: &str = "\
-----BEGIN CERTIFICATE-----
MIIB2DCCAX2gAwIBAgIUYdE7GrS2exoctB68H3fAKhiqCNAwCgYIKoZIzj0EAwIw
QDELMAkGA1UEBhMCQ0gxFjAUBgNVBAoMDUV4YW1wbGUgIEluYyAxGTAXBgNVBAMM
EGxvY2tnYXRlIFRlc3QgQ0EwIBcNMjYxMTIyMDE0NjMxWhgPMjEyNjEwMjkwMTQ2
MzFaMEAxCzAJBgNVBAYTAkNIMRYwFAYDVQQKDA1FeGFtcGxlICBJbmMgMRkwFwYD
VQQDDBBsb2NrZ2F0ZSBUZXN0IENBMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
ujY8Q2N10uZoBexUSLCjeFrAzbe1Aw6PQywXfBEsjn/+yuUJuvQRIqlu5kICiqrr
LBBD1feNL6ybpnnGXZFgSqNTMFEwHQYDVR0OBBYEFBsQpfjQnUeEF6e6IuDJtj7g
46vLMB8GA1UdIwQYMBaAFBsQpfjQnUeEF6e6IuDJtj7g46vLMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAPAzbAz1IJncWlxoSwuA8wxXyvu9kqBK
OQd7SWZurLZkAiEAq7VyePszMc18L7OzJxwySL4U59yMM6DQPLAWFVkNVTs=
-----END CERTIFICATE-----
";

    #[test]
    fn a_certificate_has_the_names_that_openssl_gives_it() {
        let [authority] = &*Authority::all_of(PEM).unwrap() else { panic!("one") };
        // openssl x509 -noout -subject_hash -fingerprint -sha256
        assert_eq!(authority.hash(), "6458072b");
        assert_eq!(
            authority.fingerprint(),
            "d1617fe40ae435e4ca79c9dc42d5290df7e417bbce6ce43bf65a5ce41fc1c11c"
        );
        assert_eq!(authority.pem(), PEM);
        assert!(authority.subject().contains("lockgate Test CA"));
        assert!(Authority::all_of("nothing").is_err());
    }
}
