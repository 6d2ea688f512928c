//! How a value is masked. What is shown of a masked value is a matter of its characters, never of its meaning.

use bytes::{BufMut, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::{
    secret::{Secret, SecretRef},
    verdict::MaskMethod,
};
use sha2::Sha256;
use std::{collections::HashMap, sync::Arc};

/// What stands for a value that is masked whole.
pub(super) const REDACTED: &[u8] = b"[redacted]";

/// The keys of `hash` masks, by where they rest; loaded by the binary.
#[derive(Clone, Debug, Default)]
pub struct MaskKeys {
    keys: HashMap<SecretRef, Arc<Secret<Vec<u8>>>>,
}

impl MaskKeys {
    /// Nothing loaded: every hash mask redacts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    pub fn insert(&mut self, reference: SecretRef, key: Secret<Vec<u8>>) {
        self.keys.insert(reference, Arc::new(key));
    }

    /// The key that rests there, when it was loaded.
    pub fn key(&self, reference: &SecretRef) -> Option<&Secret<Vec<u8>>> {
        self.keys.get(reference).map(|key| &**key)
    }
}

/// A method with its key at hand.
#[derive(Clone, Debug)]
pub(crate) enum Method {
    Redact,
    Null,
    Partial { keep_last: usize },
    Hash { key: Arc<Secret<Vec<u8>>> },
}

impl Method {
    /// A hash whose key is not loaded, or is empty, redacts: a bare hash of a short value is its value.
    pub(crate) fn of(method: &MaskMethod, keys: &MaskKeys) -> Self {
        match method {
            MaskMethod::Redact => Self::Redact,
            MaskMethod::Null => Self::Null,
            MaskMethod::Partial { keep_last } => {
                Self::Partial { keep_last: usize::try_from(*keep_last).unwrap_or(0) }
            }
            MaskMethod::Hash { key } => match keys.keys.get(key) {
                Some(key) if !key.expose().is_empty() => Self::Hash { key: key.clone() },
                Some(_) | None => Self::Redact,
            },
        }
    }

    /// Redact and null, then hash, then partial.
    pub(super) fn strength(&self) -> u8 {
        match self {
            Self::Redact => 4,
            Self::Null => 3,
            Self::Hash { .. } => 2,
            Self::Partial { .. } => 1,
        }
    }

    /// Of two partial masks, the one that shows less.
    pub(crate) fn stronger(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Partial { keep_last: a }, Self::Partial { keep_last: b }) => {
                if b < a {
                    other
                } else {
                    self
                }
            }
            _ => {
                if other.strength() > self.strength() {
                    other
                } else {
                    self
                }
            }
        }
    }

    /// Writes the mask of a text-like value; false means NULL.
    pub(crate) fn apply(&self, value: &[u8], out: &mut BytesMut) -> bool {
        match self {
            Self::Redact => {
                out.put_slice(REDACTED);
                true
            }
            Self::Null => false,
            Self::Partial { keep_last } => {
                partial(value, *keep_last, out);
                true
            }
            Self::Hash { key } => {
                hash(key.expose(), value, out);
                true
            }
        }
    }
}

/// Stars for everything but the last characters, of which at most half of the value is shown: a short value would
/// otherwise be shown whole.
fn partial(value: &[u8], keep_last: usize, out: &mut BytesMut) {
    let Ok(text) = std::str::from_utf8(value) else {
        out.put_slice(REDACTED);
        return;
    };
    let characters = text.chars().count();
    let shown = keep_last.min(characters / 2);
    let hidden = characters - shown;
    out.put_bytes(b'*', hidden);
    let tail = text.char_indices().nth(hidden).map_or("", |(start, _)| text.get(start..).unwrap_or_default());
    out.put_slice(tail.as_bytes());
}

/// HMAC-SHA-256 of the value's bytes, in lower-case hex: equal values stay equal, for whoever holds no key nothing more.
fn hash(key: &[u8], value: &[u8], out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        out.put_slice(REDACTED);
        return;
    };
    mac.update(value);
    for byte in mac.finalize().into_bytes() {
        out.put_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(method: &Method, value: &str) -> Option<String> {
        let mut out = BytesMut::new();
        method.apply(value.as_bytes(), &mut out).then(|| String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn partial_masks_show_at_most_half() {
        for (keep_last, value, expected) in [
            (4, "4111111111111111", "************1111"),
            (4, "12345678", "****5678"),
            (4, "1234567", "****567"),
            (4, "123", "**3"),
            (4, "1", "*"),
            (4, "", ""),
            (0, "abc", "***"),
            (2, "čřžý", "**žý"),
            (u32::MAX as usize, "abcd", "**cd"),
        ] {
            assert_eq!(
                masked(&Method::Partial { keep_last }, value).as_deref(),
                Some(expected),
                "{value} keep {keep_last}"
            );
        }
        let mut out = BytesMut::new();
        partial(&[0xff, 0xfe, 0x41], 4, &mut out);
        assert_eq!(&out[..], REDACTED, "what is not text is not cut");
    }

    #[test]
    fn hashes_are_keyed_and_match_rfc_4231() {
        let key = |bytes: &[u8]| Method::Hash { key: Arc::new(Secret::new(bytes.to_vec())) };
        // RFC 4231, test case 2.
        assert_eq!(
            masked(&key(b"Jefe"), "what do ya want for nothing?").as_deref(),
            Some("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
        assert_ne!(masked(&key(b"a"), "x"), masked(&key(b"b"), "x"));
    }

    #[test]
    fn a_hash_without_its_key_redacts() {
        let reference = SecretRef::Env("MASK_KEY".to_owned());
        let method = MaskMethod::Hash { key: reference.clone() };
        let mut keys = MaskKeys::new();
        assert_eq!(masked(&Method::of(&method, &keys), "x").as_deref(), Some("[redacted]"));
        keys.insert(reference.clone(), Secret::new(Vec::new()));
        assert_eq!(masked(&Method::of(&method, &keys), "x").as_deref(), Some("[redacted]"));
        keys.insert(reference, Secret::new(b"key".to_vec()));
        assert_ne!(masked(&Method::of(&method, &keys), "x").as_deref(), Some("[redacted]"));
    }

    #[test]
    fn the_stronger_of_two_wins() {
        let partial = |keep_last| Method::Partial { keep_last };
        assert!(matches!(partial(4).stronger(Method::Redact), Method::Redact));
        assert!(matches!(Method::Redact.stronger(partial(4)), Method::Redact));
        assert!(matches!(partial(4).stronger(partial(2)), Method::Partial { keep_last: 2 }));
        assert!(matches!(Method::Null.stronger(partial(2)), Method::Null));
    }
}
