//! What an approval of a request is bound to: SHA-256 over every part, each preceded by its length, in one fixed order.

use lockgate_model::{OperationId, operation::Digest};
use sha2::{Digest as _, Sha256};

/// Separates this hash from every other use of SHA-256 in the product; the version changes with the encoding.
const DOMAIN: &[u8] = b"lockgate.dev/http-operation-digest/v1";

/// Headers that differ between two requests for the same: they are not part of it. Every other one is.
const PASSING: [&str; 11] = [
    "accept-encoding",
    "connection",
    "content-length",
    "date",
    "expect",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "x-request-id",
];

/// Everything that an approval is bound to.
#[derive(Clone, Copy, Debug)]
pub struct DigestParts<'a> {
    /// As sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// As sent.
    pub authority: &'a str,
    /// Path and query, as sent.
    pub target: &'a str,
    /// Names in lower case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body, or the id of an operation whose body streams: nothing else has its digest.
    pub body: Result<&'a [u8], OperationId>,
    /// Whom lockgate is to the origin.
    pub role: &'a str,
    /// The registered target's name.
    pub registered: &'a str,
    /// The principal's id.
    pub principal: &'a str,
}

/// The digest of one request.
pub fn digest(parts: &DigestParts<'_>) -> Digest {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(DOMAIN);
    for text in [parts.method, parts.scheme, parts.authority, parts.target] {
        part(text.as_bytes());
    }
    let mut headers: Vec<_> = parts.headers.iter().filter(|(name, _)| !PASSING.contains(name)).collect();
    headers.sort_by_key(|(name, _)| *name);
    part(&(headers.len() as u64).to_be_bytes());
    for (name, value) in headers {
        part(name.as_bytes());
        part(value);
    }
    match parts.body {
        Ok(body) => {
            part(b"body");
            part(&Sha256::digest(body));
        }
        Err(operation) => {
            part(b"stream");
            part(operation.to_string().as_bytes());
        }
    }
    for text in [parts.role, parts.registered, parts.principal] {
        part(text.as_bytes());
    }
    Digest(hash.finalize().into())
}
