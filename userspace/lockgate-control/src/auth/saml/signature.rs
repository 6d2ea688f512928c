//! The signature of an assertion (<https://www.w3.org/TR/xmldsig-core1/>), the one form of it that identity providers use: one
//! reference, to the assertion that it stands in, RSA or ECDSA with SHA-256, keys from the configuration alone.
//!
//! The answer is the text that was signed, to be read anew: whatever else the document holds, and however it is arranged, is not
//! looked at again.

use super::canonical::canonical;
use crate::auth::oidc::{LoginRefusal, refuse};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use roxmltree::{Document, Node};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use x509_parser::{certificate::X509Certificate, prelude::FromDer, public_key::PublicKey};

pub(super) const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const SHA256: &str = "http://www.w3.org/2001/04/xmlenc#sha256";
const RSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256";
const ECDSA_SHA256: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256";

/// A key that assertions are signed with.
#[derive(Clone, Debug)]
pub(super) enum Key {
    /// PKCS#1 RSAPublicKey.
    Rsa(Vec<u8>),
    /// A point on P-256.
    P256(Vec<u8>),
}

impl Key {
    /// The key of a certificate. What else the certificate says does not matter: it was handed over as the provider's.
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|error| format!("not a certificate: {error}"))?;
        let key = certificate.public_key();
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= 2_048 => {
                Ok(Self::Rsa(key.subject_public_key.data.to_vec()))
            }
            Ok(PublicKey::RSA(_)) => Err("its RSA key is shorter than 2048 bits".to_owned()),
            Ok(PublicKey::EC(point)) if point.data().len() == 65 => Ok(Self::P256(point.data().to_vec())),
            Ok(_) | Err(_) => Err("expected an RSA or a P-256 key".to_owned()),
        }
    }

    fn verifies(&self, method: &str, text: &[u8], signature: &[u8]) -> bool {
        match (self, method) {
            (Self::Rsa(key), RSA_SHA256) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(text, signature).is_ok()
            }
            (Self::P256(key), ECDSA_SHA256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(text, signature).is_ok()
            }
            (Self::Rsa(_) | Self::P256(_), _) => false,
        }
    }
}

/// The text of an assertion, as one of the keys signed it.
pub(super) fn signed(source: &str, assertion: Node<'_, '_>, keys: &[Key]) -> Result<Vec<u8>, LoginRefusal> {
    let bad = |detail: &str| refuse("bad_signature", detail);
    let signature = only(assertion, DSIG, "Signature").ok_or_else(|| {
        refuse("unsigned", "the assertion is not signed; a signed answer around it is not enough")
    })?;
    let info = only(signature, DSIG, "SignedInfo").ok_or_else(|| bad("expected one SignedInfo"))?;
    let method = only(info, DSIG, "CanonicalizationMethod")
        .ok_or_else(|| bad("expected one CanonicalizationMethod"))?;
    let info = canonical(source, info, None, &prefixes(method))
        .ok_or_else(|| bad("the SignedInfo cannot be read"))?;
    let value = only(signature, DSIG, "SignatureValue")
        .and_then(bytes)
        .ok_or_else(|| bad("expected one SignatureValue"))?;

    // From here on, what the key signed.
    let text = std::str::from_utf8(&info).map_err(|_| bad("the SignedInfo is not text"))?;
    let document = Document::parse(text).map_err(|_| bad("the SignedInfo cannot be read"))?;
    let said = Said::of(document.root_element()).ok_or_else(|| {
        refuse(
            "bad_algorithm",
            "expected rsa-sha256 or ecdsa-sha256 over one reference with sha256, enveloped and exclusive canonicalization",
        )
    })?;
    if !keys.iter().any(|key| key.verifies(said.method, &info, &value)) {
        return Err(bad("the signature is not one of the configured certificates'"));
    }
    let id = assertion.attribute("ID").filter(|id| !id.is_empty()).unwrap_or("?");
    if said.uri.strip_prefix('#') != Some(id) {
        return Err(bad("the signature is about something else than the assertion it stands in"));
    }
    let text = canonical(source, assertion, Some(signature), &said.prefixes)
        .ok_or_else(|| bad("the assertion cannot be read"))?;
    if Sha256::digest(&text).as_slice() != said.digest {
        return Err(bad("the assertion is not what was signed"));
    }
    Ok(text)
}

/// What a SignedInfo says, when it is of the one form.
struct Said<'a> {
    method: &'a str,
    uri: &'a str,
    prefixes: BTreeSet<String>,
    digest: Vec<u8>,
}

impl<'a> Said<'a> {
    fn of(info: Node<'a, '_>) -> Option<Self> {
        let algorithm = |node: Node<'a, '_>| node.attribute("Algorithm");
        if algorithm(only(info, DSIG, "CanonicalizationMethod")?)? != EXCLUSIVE {
            return None;
        }
        let method = algorithm(only(info, DSIG, "SignatureMethod")?)?;
        if !matches!(method, RSA_SHA256 | ECDSA_SHA256) {
            return None;
        }
        let reference = only(info, DSIG, "Reference")?;
        let transforms: Vec<Node<'a, '_>> =
            only(reference, DSIG, "Transforms")?.children().filter(Node::is_element).collect();
        let [enveloped, exclusive] = transforms.as_slice() else { return None };
        if algorithm(*enveloped)? != ENVELOPED || algorithm(*exclusive)? != EXCLUSIVE {
            return None;
        }
        if algorithm(only(reference, DSIG, "DigestMethod")?)? != SHA256 {
            return None;
        }
        Some(Self {
            method,
            uri: reference.attribute("URI")?,
            prefixes: prefixes(*exclusive),
            digest: only(reference, DSIG, "DigestValue").and_then(bytes)?,
        })
    }
}

/// The one child of that name; None when there is none or more.
pub(super) fn only<'a, 'input>(
    node: Node<'a, 'input>,
    namespace: &str,
    name: &str,
) -> Option<Node<'a, 'input>> {
    let mut found = node.children().filter(|child| child.has_tag_name((namespace, name)));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// InclusiveNamespaces of a canonicalization; `#default` is the one without a prefix.
fn prefixes(method: Node<'_, '_>) -> BTreeSet<String> {
    let list = only(method, EXCLUSIVE, "InclusiveNamespaces").and_then(|node| node.attribute("PrefixList"));
    let names = list.unwrap_or_default().split_ascii_whitespace();
    names.map(|name| if name == "#default" { String::new() } else { name.to_owned() }).collect()
}

fn bytes(node: Node<'_, '_>) -> Option<Vec<u8>> {
    let text: String = node.text()?.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(text).ok()
}
