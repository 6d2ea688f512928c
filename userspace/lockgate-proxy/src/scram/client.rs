//! The client's side: lockgate on a target. Each step is a type, so that none can be left out.

use super::{
    BASE64, END_POINT, MAX_ITERATIONS, MAX_SALT, ScramError, attribute, is_nonce,
    keys::{KEY_BYTES, Keys, hmac},
    nonce, text,
};
use base64::Engine as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// What is said about the channel (RFC 5802 §6).
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// The connection has nothing to bind to.
    Unsupported,
    /// It has, and the server did not offer it: a server that did offer sees that somebody took the offer away.
    NotOffered,
    /// Bound to the server's certificate.
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn attribute(&self) -> String {
        let mut input = self.header().as_bytes().to_vec();
        if let Self::EndPoint(data) = self {
            debug_assert!(self.header().starts_with(END_POINT));
            input.extend_from_slice(data);
        }
        BASE64.encode(input)
    }
}

/// The first message was made.
pub(crate) struct ClientFirst {
    binding: Binding,
    nonce: String,
}

impl ClientFirst {
    pub(crate) fn new(binding: Binding) -> Result<Self, ScramError> {
        Ok(Self { binding, nonce: nonce()? })
    }

    #[cfg(test)]
    pub(super) fn with_nonce(binding: Binding, nonce: &str) -> Self {
        Self { binding, nonce: nonce.to_owned() }
    }

    /// PostgreSQL takes the user from the startup message, so the name is empty here, as libpq's is.
    pub(crate) fn message(&self) -> String {
        format!("{}{}", self.binding.header(), self.bare())
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Takes the server's first message.
    pub(crate) fn challenged(self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let message = "the server's first message";
        let whole = text(server_first, message)?;
        let mut rest = whole;
        let nonce = attribute(&mut rest, 'r', message, "r=NONCE")?;
        let salt = attribute(&mut rest, 's', message, "s=SALT")?;
        let iterations = attribute(&mut rest, 'i', message, "i=ROUNDS")?;
        if !is_nonce(nonce) || nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Nonce);
        }
        let malformed = |expected| ScramError::Malformed { message, expected };
        let salt = BASE64.decode(salt).map_err(|_| malformed("a salt in base64"))?;
        if salt.is_empty() || salt.len() > MAX_SALT {
            return Err(malformed("a salt of some bytes"));
        }
        let got: u64 = iterations.parse().map_err(|_| malformed("a number of rounds"))?;
        let iterations = u32::try_from(got)
            .ok()
            .filter(|rounds| (1..=MAX_ITERATIONS).contains(rounds))
            .ok_or(ScramError::Iterations { got })?;
        let without_proof = format!("c={},r={nonce}", self.binding.attribute());
        let signed = format!("{},{whole},{without_proof}", self.bare());
        Ok(Challenge { salt, iterations, without_proof, signed })
    }
}

/// The server asked for a proof.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
    without_proof: String,
    signed: String,
}

impl Challenge {
    /// The last message, and what the server has to answer to it.
    pub(crate) fn prove(self, keys: &Keys) -> (Zeroizing<String>, ClientFinal) {
        let mut proof = Zeroizing::new(hmac(&keys.stored(), &[self.signed.as_bytes()]));
        proof.iter_mut().zip(keys.client).for_each(|(byte, key)| *byte ^= key);
        let message = format!("{},p={}", self.without_proof, *Zeroizing::new(BASE64.encode(*proof)));
        let signature = hmac(&keys.server, &[self.signed.as_bytes()]);
        (Zeroizing::new(message), ClientFinal { signature })
    }
}

/// The proof was sent.
pub(crate) struct ClientFinal {
    signature: [u8; KEY_BYTES],
}

impl ClientFinal {
    /// Takes the server's proof.
    pub(crate) fn verify(self, server_final: &[u8]) -> Result<(), ScramError> {
        let message = "the server's final message";
        let mut rest = text(server_final, message)?;
        if rest.starts_with("e=") {
            let reason = attribute(&mut rest, 'e', message, "e=ERROR")?;
            return Err(ScramError::Refused(reason.chars().take(100).filter(|c| !c.is_control()).collect()));
        }
        let claimed = attribute(&mut rest, 'v', message, "v=SIGNATURE")?;
        let claimed = BASE64
            .decode(claimed)
            .map_err(|_| ScramError::Malformed { message, expected: "a signature in base64" })?;
        if bool::from(claimed.as_slice().ct_eq(&self.signature)) {
            Ok(())
        } else {
            Err(ScramError::ServerUnproved)
        }
    }
}
