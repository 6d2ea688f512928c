//! SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677), both sides: lockgate proves the injected password to a target, and
//! proves to a client that insists that it knows the verifier of the client's password.
//!
//! Messages and keys only, no streams: [`crate::upstream`] drives the client's side, the session's opening the
//! server's. Everything that is as good as a password is wiped when it is dropped, which is why this is not a library's.

mod cache;
mod client;
mod keys;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use cache::KeyCache;
pub(crate) use client::{Binding, ClientFinal, ClientFirst};
#[cfg(test)]
use keys::Keys;
pub(crate) use server::{Offer, begin};
pub use server::{Verifier, VerifierError};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// Without channel binding.
pub(crate) const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// With channel binding.
pub(crate) const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The one channel binding that PostgreSQL knows; its GS2 flag (RFC 5802 §7).
const END_POINT: &str = "p=tls-server-end-point";
/// Random bytes of a nonce, as many as libpq takes (`SCRAM_RAW_NONCE_LEN`).
const NONCE_BYTES: usize = 18;
/// Rounds of hashing that a peer may ask for. PostgreSQL's default is 4,096; this many take a second or two.
pub(crate) const MAX_ITERATIONS: u32 = 2_000_000;
/// A salt has 16 bytes in PostgreSQL; more than this is no salt.
const MAX_SALT: usize = 1024;
/// A message has some 200 bytes; longer than this is none.
const MAX_MESSAGE: usize = 8 * 1024;

/// What is wrong with an exchange. Never carries a key, a proof or a nonce.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    /// A message that is not of the form.
    #[error("{message} is malformed, expected {expected}")]
    Malformed {
        /// Which message.
        message: &'static str,
        /// What should have stood there.
        expected: &'static str,
    },
    /// The nonce is not the one that was agreed on: a replay, or another exchange.
    #[error("the nonce is not this exchange's: the message is replayed, or somebody is in the middle")]
    Nonce,
    /// More rounds than anybody uses.
    #[error("the peer asks for {got} rounds of hashing, expected 1 to {MAX_ITERATIONS}")]
    Iterations {
        /// How many.
        got: u64,
    },
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// The server does not know the password.
    #[error(
        "the server could not prove that it knows the password: it is not the target, or it is not asked for this role's"
    )]
    ServerUnproved,
    /// The client does not know the password.
    #[error("the client's proof is wrong: it does not know the password of the verifier")]
    ClientUnproved,
    /// The client saw another certificate than the one that was shown, or none.
    #[error(
        "the client's channel is bound to another certificate than lockgate's: somebody is in the middle"
    )]
    Binding,
    /// Channel binding was offered, and the client was made to believe that it was not.
    #[error(
        "the client could bind the channel and believes that it was not offered: somebody removed the offer"
    )]
    Downgrade,
    /// The mechanism and the message do not go together.
    #[error("the client chose {mechanism} and sent the channel binding flag of another mechanism")]
    Mechanism {
        /// What it chose.
        mechanism: String,
    },
    /// No randomness.
    #[error("the system has no randomness to give")]
    Random,
}

/// A fresh nonce: printable, without commas.
fn nonce() -> Result<String, ScramError> {
    let mut bytes = [0; NONCE_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| ScramError::Random)?;
    Ok(BASE64.encode(bytes))
}

/// `x=value` at the front of `rest`, up to a comma or the end; what follows stays in `rest`.
fn attribute<'m>(
    rest: &mut &'m str,
    name: char,
    message: &'static str,
    expected: &'static str,
) -> Result<&'m str, ScramError> {
    let malformed = ScramError::Malformed { message, expected };
    let mut letters = rest.chars();
    if letters.next() != Some(name) || letters.next() != Some('=') {
        return Err(malformed);
    }
    let (value, behind) = match letters.as_str().split_once(',') {
        Some((value, behind)) => (value, behind),
        None => (letters.as_str(), ""),
    };
    *rest = behind;
    Ok(value)
}

fn text<'m>(bytes: &'m [u8], message: &'static str) -> Result<&'m str, ScramError> {
    let expected = "UTF-8 text of a few hundred bytes";
    if bytes.len() > MAX_MESSAGE {
        return Err(ScramError::Malformed { message, expected });
    }
    std::str::from_utf8(bytes).map_err(|_| ScramError::Malformed { message, expected })
}

/// RFC 5802 §7: printable ASCII without commas.
fn is_nonce(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b',')
}
