//! The server's side: lockgate towards a client that insists on SCRAM. The verifier is PostgreSQL's own text
//! (`pg_authid.rolpassword`), so that what the target has can be used here.

use super::{
    BASE64, END_POINT, MAX_ITERATIONS, MAX_SALT, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, attribute,
    is_nonce,
    keys::{KEY_BYTES, hmac},
    nonce, text,
};
use base64::Engine as _;
use lockgate_model::Secret;
use sha2::{Digest, Sha256};
use std::{str::FromStr, sync::Arc};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What a server keeps of a password: enough to check a proof and to prove itself, not enough to log in elsewhere.
#[derive(Clone)]
pub struct Verifier(Arc<Parts>);

struct Parts {
    iterations: u32,
    salt: Vec<u8>,
    stored: Secret<Vec<u8>>,
    server: Secret<Vec<u8>>,
}

/// A text that is no verifier. The text itself is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY, as `SELECT rolpassword FROM pg_authid` shows it; {0}"
)]
pub struct VerifierError(&'static str);

impl FromStr for Verifier {
    type Err = VerifierError;

    fn from_str(verifier: &str) -> Result<Self, VerifierError> {
        let form = VerifierError("the parts are not these");
        let mut parts = verifier.trim_end().splitn(3, '$');
        if parts.next() != Some(SCRAM_SHA_256) {
            return Err(VerifierError("it does not begin with SCRAM-SHA-256$"));
        }
        let (iterations, salt) = parts.next().and_then(|part| part.split_once(':')).ok_or(form)?;
        let (stored, server) = parts.next().and_then(|part| part.split_once(':')).ok_or(form)?;
        let iterations = iterations
            .parse()
            .ok()
            .filter(|rounds| (1..=MAX_ITERATIONS).contains(rounds))
            .ok_or(VerifierError("the number of iterations is none that can be used"))?;
        let salt = BASE64.decode(salt).ok().filter(|salt| (1..=MAX_SALT).contains(&salt.len()));
        let key = |text: &str, what| match BASE64.decode(text) {
            Ok(key) if key.len() == KEY_BYTES => Ok(Secret::new(key)),
            Ok(_) | Err(_) => Err(VerifierError(what)),
        };
        Ok(Self(Arc::new(Parts {
            iterations,
            salt: salt.ok_or(VerifierError("the salt is not base64"))?,
            stored: key(stored, "the stored key is not 32 bytes in base64")?,
            server: key(server, "the server key is not 32 bytes in base64")?,
        })))
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier(…)")
    }
}

/// What a client is offered on this connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offer {
    /// The hash of the certificate that it was shown; without one there is nothing to bind to.
    pub(crate) binding: Option<Vec<u8>>,
}

impl Offer {
    /// In the order of preference.
    pub(crate) fn mechanisms(&self) -> &'static [&'static str] {
        match self.binding {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }
}

/// Takes the client's choice and first message; answers the server's first one.
pub(crate) fn begin(
    verifier: &Verifier,
    offer: &Offer,
    mechanism: &str,
    client_first: &[u8],
) -> Result<(String, ServerChallenge), ScramError> {
    let message = "the client's first message";
    if !offer.mechanisms().contains(&mechanism) {
        return Err(ScramError::Mechanism { mechanism: mechanism.chars().take(40).collect() });
    }
    let whole = text(client_first, message)?;
    let malformed = |expected| ScramError::Malformed { message, expected };
    let (flag, rest) = whole.split_once(',').ok_or(malformed("a channel binding flag"))?;
    // Another identity than the startup message's (RFC 5802 §5.1 "a") is nothing that PostgreSQL knows.
    let bare = rest.strip_prefix(',').ok_or(malformed("no authorization identity"))?;
    let plus = mechanism == SCRAM_SHA_256_PLUS;
    match flag {
        END_POINT if plus => {}
        "n" if !plus => {}
        "y" if !plus && offer.binding.is_none() => {}
        "y" if !plus => return Err(ScramError::Downgrade),
        "n" | "y" | END_POINT => return Err(ScramError::Mechanism { mechanism: mechanism.to_owned() }),
        _ => return Err(malformed("n, y or p=tls-server-end-point")),
    }
    let mut rest = bare;
    // The startup message says who it is; libpq leaves this empty and PostgreSQL ignores it.
    attribute(&mut rest, 'n', message, "n=NAME")?;
    let client_nonce = attribute(&mut rest, 'r', message, "r=NONCE")?;
    if !is_nonce(client_nonce) {
        return Err(malformed("a printable nonce"));
    }
    let nonce = format!("{client_nonce}{}", nonce()?);
    let Parts { iterations, salt, .. } = &*verifier.0;
    let answer = format!("r={nonce},s={},i={iterations}", BASE64.encode(salt));
    let mut channel = format!("{flag},,").into_bytes();
    if plus {
        channel.extend_from_slice(offer.binding.as_deref().unwrap_or_default());
    }
    let challenge = ServerChallenge {
        verifier: verifier.clone(),
        channel: BASE64.encode(channel),
        signed: format!("{bare},{answer}"),
        nonce,
    };
    Ok((answer, challenge))
}

/// The client was asked for its proof.
pub(crate) struct ServerChallenge {
    verifier: Verifier,
    /// What its `c` has to be.
    channel: String,
    nonce: String,
    signed: String,
}

impl ServerChallenge {
    /// Takes the client's proof; answers the server's.
    pub(crate) fn finish(self, client_final: &[u8]) -> Result<String, ScramError> {
        let message = "the client's final message";
        let whole = text(client_final, message)?;
        let malformed = |expected| ScramError::Malformed { message, expected };
        let (without_proof, proof) = whole.rsplit_once(",p=").ok_or(malformed("a proof at its end"))?;
        let mut rest = without_proof;
        let channel = attribute(&mut rest, 'c', message, "c=CHANNEL")?;
        let nonce = attribute(&mut rest, 'r', message, "r=NONCE")?;
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        if channel != self.channel {
            return Err(ScramError::Binding);
        }
        let proof = Zeroizing::new(BASE64.decode(proof).map_err(|_| malformed("a proof in base64"))?);
        let (stored, server) = (self.verifier.0.stored.expose(), self.verifier.0.server.expose());
        let signed: [&[u8]; 3] = [self.signed.as_bytes(), b",", without_proof.as_bytes()];
        let mut key = Zeroizing::new(hmac(stored, &signed));
        if proof.len() != KEY_BYTES {
            return Err(malformed("a proof of 32 bytes"));
        }
        key.iter_mut().zip(proof.iter()).for_each(|(byte, proof)| *byte ^= proof);
        if !bool::from(Sha256::digest(*key).as_slice().ct_eq(stored)) {
            return Err(ScramError::ClientUnproved);
        }
        Ok(format!("v={}", BASE64.encode(hmac(server, &signed))))
    }
}
