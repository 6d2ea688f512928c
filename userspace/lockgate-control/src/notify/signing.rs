//! Standard Webhooks 1.0 signatures, both ways: `v1,` + base64(HMAC-SHA-256 over `{id}.{timestamp}.{body}`).
//!
//! Source: the Standard Webhooks specification, "Signature scheme". `v1a` (ed25519) is not spoken; signatures
//! of other versions are passed over, as the specification asks. Time and replay are judged by the caller.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::Secret;
use sha2::Sha256;

/// Bytes of key material the specification allows.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// More keys than a rotation ever needs; each costs an HMAC per unauthenticated request.
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
    /// An asymmetric key.
    #[error("expected a symmetric key (whsec_…), got an ed25519 one, which is not supported")]
    Asymmetric,
    /// More keys than a rotation needs.
    #[error("expected at most {MAX_KEYS} keys, got {0}")]
    TooMany(usize),
}

/// The keys of one integration in one direction; the first is the current one.
#[derive(Debug)]
pub struct SigningKeys(Vec<Secret<Vec<u8>>>);

impl SigningKeys {
    /// Reads one or more keys separated by white space. `whsec_` may be missing, as in the reference libraries.
    ///
    /// # Errors
    /// [`KeyError`] for the first one that cannot be used.
    pub fn parse(text: &Secret<String>) -> Result<Self, KeyError> {
        let keys = text.expose().split_whitespace().map(parse_key).collect::<Result<Vec<_>, _>>()?;
        match keys.len() {
            0 => Err(KeyError::Empty),
            1..=MAX_KEYS => Ok(Self(keys)),
            more => Err(KeyError::TooMany(more)),
        }
    }

    /// The `webhook-signature` header: one signature a key.
    pub fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        self.macs(id, timestamp, body)
            .map(|mac| format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Whether any signature in the header was made by any of the keys. Constant time per comparison.
    pub fn verify(&self, id: &str, timestamp: &str, body: &[u8], header: &str) -> bool {
        let signatures: Vec<Vec<u8>> = header
            .split_ascii_whitespace()
            .take(MAX_SIGNATURES)
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|encoded| STANDARD.decode(encoded).ok())
            .collect();
        if signatures.is_empty() {
            return false;
        }
        self.macs(id, timestamp, body)
            .any(|mac| signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok()))
    }

    /// Whether both hold the same key. For configuration, not for strangers: it takes as long as it takes.
    pub fn shares_a_key_with(&self, other: &Self) -> bool {
        self.0.iter().any(|key| other.0.iter().any(|their| key.expose() == their.expose()))
    }

    fn macs<'a>(
        &'a self,
        id: &'a str,
        timestamp: &'a str,
        body: &'a [u8],
    ) -> impl Iterator<Item = Hmac<Sha256>> + 'a {
        self.0.iter().filter_map(move |key| {
            // HMAC takes keys of any length; the error type exists for other MACs.
            let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).ok()?;
            mac.update(id.as_bytes());
            mac.update(b".");
            mac.update(timestamp.as_bytes());
            mac.update(b".");
            mac.update(body);
            Some(mac)
        })
    }
}

fn parse_key(text: &str) -> Result<Secret<Vec<u8>>, KeyError> {
    if text.starts_with("whsk_") || text.starts_with("whpk_") {
        return Err(KeyError::Asymmetric);
    }
    let encoded = text.strip_prefix("whsec_").unwrap_or(text);
    let key = Secret::new(STANDARD.decode(encoded).map_err(|_| KeyError::NotBase64)?);
    let length = key.expose().len();
    if KEY_BYTES.contains(&length) { Ok(key) } else { Err(KeyError::Length(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> SigningKeys {
        SigningKeys::parse(&Secret::new(text.to_owned())).unwrap()
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
            ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", KeyError::Asymmetric),
            (&format!("whsec_{}", STANDARD.encode([7; 65])), KeyError::Length(65)),
            (&format!("{KEY} ").repeat(5), KeyError::TooMany(5)),
        ] {
            let error = SigningKeys::parse(&Secret::new(text.to_owned())).unwrap_err();
            assert_eq!(error, expected);
            assert!(text.len() < 6 || !error.to_string().contains(text.trim()));
        }
    }
}
