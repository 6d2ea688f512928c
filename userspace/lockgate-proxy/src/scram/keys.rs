//! From a password to the keys of SCRAM (RFC 5802 §3), wiped when dropped.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of every key, hash and proof.
pub(super) const KEY_BYTES: usize = 32;

/// What a client needs of a password, a salt and a number of rounds.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Keys {
    pub(super) client: [u8; KEY_BYTES],
    pub(super) server: [u8; KEY_BYTES],
}

impl Keys {
    /// Thousands of hashes: not on a worker that serves sessions.
    pub(crate) fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let salted = salted(&prepared(password), salt, iterations);
        Self { client: hmac(&*salted, &[b"Client Key"]), server: hmac(&*salted, &[b"Server Key"]) }
    }

    /// What the server knows of the client's key.
    pub(super) fn stored(&self) -> [u8; KEY_BYTES] {
        Sha256::digest(self.client).into()
    }
}

/// HMAC-SHA-256 over the parts, one behind the other.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// SASLprep, where it applies: PostgreSQL takes a password that is not UTF-8, or that may not be prepared, as it is
/// (`pg_saslprep` and its callers).
fn prepared(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = std::str::from_utf8(password).ok();
    match text.and_then(|text| stringprep::saslprep(text).ok()) {
        Some(prepared) => Zeroizing::new(prepared.into_owned().into_bytes()),
        None => Zeroizing::new(password.to_vec()),
    }
}

/// `Hi()`: PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<[u8; KEY_BYTES]> {
    let keyed = keyed(password);
    let once = |parts: &[&[u8]]| {
        let mut mac = keyed.clone();
        parts.iter().for_each(|part| mac.update(part));
        let round: [u8; KEY_BYTES] = mac.finalize().into_bytes().into();
        Zeroizing::new(round)
    };
    let mut round = once(&[salt, &1_u32.to_be_bytes()]);
    let mut sum = round.clone();
    for _ in 1..iterations {
        round = once(&[&*round]);
        sum.iter_mut().zip(round.iter()).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of every length: longer ones are hashed first (RFC 2104 §2).
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()))
}
