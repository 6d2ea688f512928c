//! Standard Webhooks 1.0 signatures, both ways: `v1,` + base64(HMAC-SHA-256 over `{id}.{timestamp}.{body}`), and `v1a,` +
//! base64(ed25519 over the same).
//!
//! Source: the Standard Webhooks specification, "Signature scheme". Keys: `whsec_` is symmetric, `whsk_` the private and
//! `whpk_` the public half of an ed25519 pair. Signatures of other versions are passed over, as the specification asks.
//! Time and replay are judged by the caller.

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::Secret;
use sha2::Sha256;

/// Bytes of key material the specification allows for a symmetric key.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// More keys than a rotation ever needs; each costs an HMAC or an ed25519 verification per unauthenticated request.
const MAX_KEYS: usize = 4;

/// Signatures looked at in one header: a sender that rotates keys sends two or three.
const MAX_SIGNATURES: usize = 8;

/// Why a text is not a signing key. Never shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("expected whsec_<base64>, got nothing")]
    Empty,
    /// Not base64.
    #[error(
        "expected whsec_<base64>, got something that is not base64 (make one: `echo whsec_$(openssl rand -base64 32)`)"
    )]
    NotBase64,
    /// Too short or too long.
    #[error("expected 24 to 64 bytes of key, got {0} (make one: `echo whsec_$(openssl rand -base64 32)`)")]
    Length(usize),
    /// Not half of an ed25519 pair.
    #[error(
        "expected an ed25519 key (32 bytes, or 64 for a private key with its public half), got {0} bytes or a key that is none"
    )]
    NotEd25519(usize),
    /// A public key where something is signed.
    #[error(
        "expected a key to sign with (whsec_… or whsk_…), got a public one (whpk_…); that is for whoever verifies"
    )]
    CannotSign,
    /// A private key where something is verified.
    #[error(
        "expected a key to verify with (whsec_… or whpk_…), got a private one (whsk_…); keep that with whoever signs"
    )]
    Private,
    /// More keys than a rotation needs.
    #[error("expected at most {MAX_KEYS} keys, got {0}")]
    TooMany(usize),
}

/// What a set of keys is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To sign with: what is sent.
    Sign,
    /// To verify with: what is received.
    Verify,
}

/// One key.
enum Key {
    Symmetric(Secret<Vec<u8>>),
    Private(Box<SigningKey>),
    Public(Box<VerifyingKey>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Symmetric(_) => "Symmetric",
            Self::Private(_) => "Private",
            Self::Public(_) => "Public",
        })
    }
}

/// The keys of one integration in one direction; the first is the current one.
#[derive(Debug)]
pub struct SigningKeys(Vec<Key>);

impl SigningKeys {
    /// Reads one or more keys separated by white space. `whsec_` may be missing, as in the reference libraries.
    ///
    /// # Errors
    /// [`KeyError`] for the first one that cannot be used.
    pub fn parse(text: &Secret<String>, purpose: Use) -> Result<Self, KeyError> {
        let keys = text
            .expose()
            .split_whitespace()
            .map(|key| parse_key(key, purpose))
            .collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            more => Err(KeyError::TooMany(more)),
        }
    }

    /// The `webhook-signature` header: one signature a key.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let sign = |key: &Key| match key {
            Key::Symmetric(key) => {
                let mac = mac(key, id, timestamp, body)?;
                Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
            }
            Key::Private(key) => {
                let signature = key.sign(&signed(id, timestamp, body));
                Some(format!("v1a,{}", STANDARD.encode(signature.to_bytes())))
            }
            // Nothing is signed with a public key; `parse` lets none in here.
            Key::Public(_) => None,
        };
        self.0.iter().filter_map(sign).collect::<Vec<_>>().join(" ")
    }

    /// Whether any signature in the header was made by any of the keys. Constant time per comparison.
    pub fn verify(&self, id: &str, timestamp: &str, body: &[u8], header: &str) -> bool {
        let offered = |version: &str| -> Vec<Vec<u8>> {
            header
                .split_ascii_whitespace()
                .take(MAX_SIGNATURES)
                .filter_map(|signature| signature.split_once(',').filter(|(named, _)| *named == version))
                .filter_map(|(_, encoded)| STANDARD.decode(encoded).ok())
                .collect()
        };
        let (macs, signatures) = (offered("v1"), offered("v1a"));
        let verifies = |key: &Key| match key {
            Key::Symmetric(key) if !macs.is_empty() => mac(key, id, timestamp, body)
                .is_some_and(|mac| macs.iter().any(|given| mac.clone().verify_slice(given).is_ok())),
            Key::Public(key) if !signatures.is_empty() => {
                let message = signed(id, timestamp, body);
                let given = signatures.iter().filter_map(|given| Signature::from_slice(given).ok());
                given.into_iter().any(|given| key.verify_strict(&message, &given).is_ok())
            }
            Key::Symmetric(_) | Key::Public(_) | Key::Private(_) => false,
        };
        self.0.iter().any(verifies)
    }

    /// Whether both hold the same key. For configuration, not for strangers: it takes as long as it takes.
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        let same = |a: &Key, b: &Key| match (a, b) {
            (Key::Symmetric(a), Key::Symmetric(b)) => a.expose() == b.expose(),
            (Key::Public(a), Key::Public(b)) => a == b,
            (Key::Private(a), Key::Private(b)) => a.verifying_key() == b.verifying_key(),
            (Key::Symmetric(_) | Key::Public(_) | Key::Private(_), _) => false,
        };
        self.0.iter().any(|key| other.0.iter().any(|their| same(key, their)))
    }
}

/// What both kinds of signature are over.
fn signed(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

fn mac(key: &Secret<Vec<u8>>, id: &str, timestamp: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length; the error type exists for other MACs.
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).ok()?;
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    Some(mac)
}

fn parse_key(text: &str, purpose: Use) -> Result<Key, KeyError> {
    let decode = |encoded: &str| STANDARD.decode(encoded).map(Secret::new).map_err(|_| KeyError::NotBase64);
    if let Some(encoded) = text.strip_prefix("whsk_") {
        return match purpose {
            Use::Sign => private(&decode(encoded)?),
            Use::Verify => Err(KeyError::Private),
        };
    }
    if let Some(encoded) = text.strip_prefix("whpk_") {
        return match purpose {
            Use::Sign => Err(KeyError::CannotSign),
            Use::Verify => public(decode(encoded)?.expose()),
        };
    }
    let key = decode(text.strip_prefix("whsec_").unwrap_or(text))?;
    let length = key.expose().len();
    if KEY_BYTES.contains(&length) { Ok(Key::Symmetric(key)) } else { Err(KeyError::Length(length)) }
}

/// The seed (RFC 8032, 32 bytes), alone or followed by the public key, as libsodium writes it.
fn private(bytes: &Secret<Vec<u8>>) -> Result<Key, KeyError> {
    let bytes = bytes.expose();
    let none = || KeyError::NotEd25519(bytes.len());
    let (seed, public) = bytes.split_first_chunk::<32>().ok_or_else(none)?;
    let key = SigningKey::from_bytes(seed);
    if !public.is_empty() && public != key.verifying_key().as_bytes() {
        return Err(none());
    }
    Ok(Key::Private(Box::new(key)))
}

fn public(bytes: &[u8]) -> Result<Key, KeyError> {
    let none = |_| KeyError::NotEd25519(bytes.len());
    let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::NotEd25519(bytes.len()))?;
    let key = VerifyingKey::from_bytes(bytes).map_err(none)?;
    // A key of small order verifies what nobody signed.
    if key.is_weak() { Err(KeyError::NotEd25519(32)) } else { Ok(Key::Public(Box::new(key))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SigningKeys {
        SigningKeys::parse(&Secret::new(text.to_owned()), Use::Verify).unwrap()
    }

    fn signing(text: &str) -> SigningKeys {
        SigningKeys::parse(&Secret::new(text.to_owned()), Use::Sign).unwrap()
    }

    /// The pair of RFC 8032, 7.1, TEST 1.
    const PRIVATE: &str = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    const PUBLIC: &str = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn an_ed25519_signature_verifies_with_the_public_key_alone_and_for_this_message_alone() {
        let signature = signing(PRIVATE).sign("id", "1", b"body");
        // As whoever receives it checks it: over `id.timestamp.body`, with the public key.
        let raw = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        let public: [u8; 32] =
            STANDARD.decode(PUBLIC.strip_prefix("whpk_").unwrap()).unwrap().try_into().unwrap();
        let receiver = VerifyingKey::from_bytes(&public).unwrap();
        assert!(receiver.verify_strict(b"id.1.body", &Signature::from_slice(&raw).unwrap()).is_ok());
        let both = signing(&format!("{KEY} {PRIVATE}")).sign("id", "1", b"body");
        assert_eq!(
            both.split(' ').map(|one| one.split_once(',').unwrap().0).collect::<Vec<_>>(),
            ["v1", "v1a"]
        );
        for (id, timestamp, body, header, expected) in [
            ("id", "1", "body", signature.clone(), true),
            ("id", "1", "body", format!("v1,AAAA v1a,AAAA {signature}"), true),
            ("id", "1", "body", both, true),
            ("ie", "1", "body", signature.clone(), false),
            ("id", "2", "body", signature.clone(), false),
            ("id", "1", "bodz", signature.clone(), false),
            ("id", "1", "body", signature.replace("v1a,", "v1,"), false),
            ("id", "1", "body", signature.replace("v1a,", ""), false),
            ("id", "1", "body", "v1a,".to_owned(), false),
            ("id", "1", "body", format!("{}{signature}", "v1a,AAAA ".repeat(MAX_SIGNATURES)), false),
        ] {
            assert_eq!(keys(PUBLIC).verify(id, timestamp, body.as_bytes(), &header), expected, "{header}");
        }
        assert!(!keys(KEY).verify("id", "1", b"body", &signature));
        let rotating = keys(&format!("{KEY} {PUBLIC}"));
        assert!(rotating.verify("id", "1", b"body", &signature));
        assert!(rotating.verify("id", "1", b"body", &signing(KEY).sign("id", "1", b"body")));
        assert!(rotating.shares_a_key_with(&keys(PUBLIC)));
    }

    #[test]
    fn halves_of_a_pair_have_their_places() {
        let parse =
            |text: &str, purpose| SigningKeys::parse(&Secret::new(text.to_owned()), purpose).map(|_| ());
        let long = |tail: [u8; 32]| {
            let seed = STANDARD.decode(PRIVATE.strip_prefix("whsk_").unwrap()).unwrap();
            format!("whsk_{}", STANDARD.encode([seed, tail.to_vec()].concat()))
        };
        let public: [u8; 32] =
            STANDARD.decode(PUBLIC.strip_prefix("whpk_").unwrap()).unwrap().try_into().unwrap();
        for (text, purpose, expected) in [
            (PRIVATE.to_owned(), Use::Sign, Ok(())),
            (long(public), Use::Sign, Ok(())),
            (long([1; 32]), Use::Sign, Err(KeyError::NotEd25519(64))),
            (PUBLIC.to_owned(), Use::Verify, Ok(())),
            (PRIVATE.to_owned(), Use::Verify, Err(KeyError::Private)),
            (PUBLIC.to_owned(), Use::Sign, Err(KeyError::CannotSign)),
            ("whpk_AAAA".to_owned(), Use::Verify, Err(KeyError::NotEd25519(3))),
            // The neutral element: every message would verify.
            (
                format!("whpk_{}", STANDARD.encode([[1_u8; 1].as_slice(), &[0; 31]].concat())),
                Use::Verify,
                Err(KeyError::NotEd25519(32)),
            ),
        ] {
            assert_eq!(parse(&text, purpose), expected, "{purpose:?}");
        }
    }

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The example of the Standard Webhooks specification and its reference libraries' tests.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let body = br#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(keys(KEY).sign(id, "1614265330", body), expected);
        assert!(keys(KEY).verify(id, "1614265330", body, expected));
    }

    #[test]
    fn only_the_exact_message_under_a_known_key_verifies() {
        let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let signature = keys(KEY).sign("id", "1", b"body");
        let both = keys(&format!("{KEY}\n{other}\n"));
        assert_eq!(both.sign("id", "1", b"body").split(' ').count(), 2);
        for (verifier, id, timestamp, body, header, expected) in [
            (KEY, "id", "1", "body", signature.clone(), true),
            (KEY, "id", "1", "body", format!("v1a,AAAA v1,AAAA {signature}"), true),
            (KEY, "id", "1", "body", both.sign("id", "1", b"body"), true),
            (other, "id", "1", "body", both.sign("id", "1", b"body"), true),
            (other, "id", "1", "body", signature.clone(), false),
            (KEY, "ie", "1", "body", signature.clone(), false),
            (KEY, "id", "2", "body", signature.clone(), false),
            (KEY, "id", "1", "bodz", signature.clone(), false),
            (KEY, "id", "1", "body", signature.replace("v1,", "v2,"), false),
            (KEY, "id", "1", "body", signature.replace("v1,", ""), false),
            (KEY, "id", "1", "body", String::new(), false),
            (KEY, "id", "1", "body", "v1,".into(), false),
            (KEY, "id", "1", "body", format!("{}{signature}", "v1,AAAA ".repeat(MAX_SIGNATURES)), false),
        ] {
            assert_eq!(keys(verifier).verify(id, timestamp, body.as_bytes(), &header), expected, "{header}");
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_named_without_being_shown() {
        for (text, expected) in [
            ("", KeyError::Empty),
            (" \n", KeyError::Empty),
            ("whsec_****", KeyError::NotBase64),
            ("whsec_c2hvcnQ=", KeyError::Length(5)),
            (PRIVATE, KeyError::Private),
            (&format!("whsec_{}", STANDARD.encode([7; 65])), KeyError::Length(65)),
            (&format!("{KEY} ").repeat(5), KeyError::TooMany(5)),
        ] {
            let error = SigningKeys::parse(&Secret::new(text.to_owned()), Use::Verify).unwrap_err();
            assert_eq!(error, expected);
            assert!(text.len() < 6 || !error.to_string().contains(text.trim()));
        }
    }
}
