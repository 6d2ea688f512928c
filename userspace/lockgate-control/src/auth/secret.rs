//! Random text that opens something: a login's cookie, an API token. Kept as a hash alone by whoever checks it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lockgate_model::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

/// Bits that nobody guesses.
const BYTES: usize = 32;

/// Bytes of the checksum behind them: enough for a scanner of leaked secrets to tell a token from noise.
const CHECKSUM: usize = 4;

/// What an API token begins with; made for scanners of leaked secrets.
pub(crate) const API_TOKEN: &str = "lgt_";

/// What the one-time token of the first administrator begins with.
pub(crate) const BOOTSTRAP_TOKEN: &str = "lgb_";

/// Digest of a secret; what is looked up, so that time tells nothing of the secret itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Hashed(pub(crate) [u8; 32]);

impl Hashed {
    pub(crate) fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    pub(crate) fn hex(&self) -> String {
        hex::encode(self.0)
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

/// The operating system gives no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no randomness")]
pub(crate) struct NoRandomness;

/// 256 random bits as text of cookies, states and nonces.
pub(crate) fn random() -> Result<String, NoRandomness> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// 64 random bits in hexadecimal, for ids that open nothing.
pub(crate) fn id(prefix: &str) -> Result<String, NoRandomness> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(format!("{prefix}{}", hex::encode(bytes)))
}

/// A token: its prefix, 256 random bits and their checksum.
pub(crate) fn token(prefix: &str) -> Result<Secret<String>, NoRandomness> {
    let mut bytes = [0; BYTES + CHECKSUM];
    let (bits, sum) = bytes.split_at_mut(BYTES);
    SystemRandom::new().fill(bits).map_err(|_| NoRandomness)?;
    sum.copy_from_slice(&checksum(prefix, bits));
    Ok(Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes))))
}

/// Whether a text is a token of ours, by its checksum: a typing error is told from a token that is over.
pub(crate) fn is_token(prefix: &str, text: &str) -> bool {
    let Some(encoded) = text.strip_prefix(prefix) else { return false };
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else { return false };
    match bytes.split_at_checked(BYTES) {
        Some((bits, sum)) => sum == checksum(prefix, bits),
        None => false,
    }
}

fn checksum(prefix: &str, bits: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(prefix).chain_update(bits).finalize();
    let mut sum = [0; CHECKSUM];
    sum.iter_mut().zip(digest).for_each(|(sum, byte)| *sum = byte);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_a_typing_error_and_from_one_of_another_kind() {
        let token = token(API_TOKEN).unwrap();
        let token = token.expose();
        assert!(token.starts_with("lgt_") && token.len() == 4 + 48, "{token}");
        assert!(is_token(API_TOKEN, token));
        let mut last = token.clone();
        let end = if last.pop() == Some('A') { 'B' } else { 'A' };
        last.push(end);
        let other = token.replacen("lgt_", "lgb_", 1);
        for wrong in ["", "lgt_", "lgt_AAAA", &token[..token.len() - 1], &last, &other] {
            assert!(!is_token(API_TOKEN, wrong) && !is_token(BOOTSTRAP_TOKEN, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_hash_reads_back() {
        let hashed = Hashed::of("x");
        assert_eq!(Hashed::from_hex(&hashed.hex()), Some(hashed));
        assert_eq!(Hashed::from_hex("00"), None);
    }
}
