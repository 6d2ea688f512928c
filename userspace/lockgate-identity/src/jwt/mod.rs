//! A signed token, checked in full: algorithm, key, signature, issuer, audience, times, lifetime.
//!
//! Nothing of a token is believed before its signature holds; which key may have made it is the
//! [issuer's](keys) word, never the token's (`jwk`, `jku` and `x5c` headers are not read). Time is an
//! argument. RFC 8725 is the list this follows; sections are cited at the checks.

pub(crate) mod keys;
mod verify;

use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
pub(crate) use verify::install as install_verifier;

/// A token of a CI system is 1 to 3 KiB, one with many groups a few more.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// What a token must say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) audience: &'a str,
    /// How far apart two clocks may be, in seconds.
    pub(crate) skew: u64,
    /// From `iat` to `exp`; a longer-lived one is no caller token.
    pub(crate) max_lifetime: u64,
    /// Seconds since the epoch.
    pub(crate) now: u64,
}

/// Why a token is refused. Texts hold no part of the token but public names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    /// Not three base64url parts with JSON in them.
    #[error("it is no signed token: {0}")]
    Malformed(String),
    /// `none`, an HMAC, or an algorithm that is not listed.
    #[error("its algorithm is {0}; only RS, PS, ES and EdDSA signatures are taken")]
    Algorithm(String),
    /// A header that must be understood, and is not.
    #[error("its header marks {0} as critical, which lockgate does not know")]
    Critical(String),
    /// No key id.
    #[error("it names no key (kid)")]
    NoKeyId,
    /// The issuer has no such key.
    #[error("the issuer publishes no key {0:?}")]
    UnknownKey(String),
    /// The key is for something else.
    #[error("key {kid:?} is for {key}, the token says {token}")]
    KeyMismatch {
        /// Which key.
        kid: String,
        /// What the key is for.
        key: String,
        /// What the token says.
        token: String,
    },
    /// The signature does not hold.
    #[error("its signature is not the issuer's")]
    Signature,
    /// Another issuer.
    #[error("its issuer is {got:?}, expected {expected:?}")]
    Issuer {
        /// Configured.
        expected: String,
        /// In the token.
        got: String,
    },
    /// Another audience.
    #[error("it is for {got:?}, expected {expected:?}")]
    Audience {
        /// Configured.
        expected: String,
        /// In the token.
        got: String,
    },
    /// Expired.
    #[error("it expired {0} s ago")]
    Expired(u64),
    /// Not valid yet.
    #[error("it is not valid for another {0} s")]
    NotYet(u64),
    /// Issued in the future.
    #[error("it was issued {0} s in the future")]
    FromTheFuture(u64),
    /// Valid for longer than allowed.
    #[error("it is valid for {got} s, expected at most {expected} s")]
    TooLong {
        /// Allowed.
        expected: u64,
        /// In the token.
        got: u64,
    },
    /// A claim that is needed is absent, or of another type.
    #[error("its claim {0} is missing or not what it should be")]
    Claim(String),
    /// The issuer's keys cannot be had.
    #[error("the issuer's keys cannot be had: {0}")]
    Keys(String),
}

/// A token's verified claims.
#[derive(Clone, Debug)]
pub(crate) struct Claims(Map<String, Value>);

impl Claims {
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A text or a number, as text: issuers write ids as either.
    pub(crate) fn id(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// `true`, or the text "true", as GitHub and GitLab write it.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => match text.as_str() {
                "true" => Some(true),
                "false" => Some(false),
                _ => None,
            },
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(crate) fn at(&self, pointer: &[&str]) -> Option<&Value> {
        let (first, rest) = pointer.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, name| value.get(name))
    }

    /// When it ends, seconds since the epoch.
    pub(crate) fn expires(&self) -> u64 {
        self.seconds("exp").ok().flatten().unwrap_or(0)
    }

    /// NumericDate (RFC 7519, section 2) may have a fraction.
    fn seconds(&self, name: &str) -> Result<Option<u64>, TokenError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            let number = value.as_f64().filter(|number| (0.0..1e15).contains(number))?;
            // In range, so nothing but the fraction is lost.
            Some(number as u64)
        });
        whole.map(Some).ok_or_else(|| TokenError::Claim(name.to_owned()))
    }
}

/// What a header says, before anything is verified: enough to look for the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
}

/// Reads the header and refuses what no key could make good.
pub(crate) fn head(token: &str) -> Result<Head, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed(format!("it is longer than {MAX_TOKEN} bytes")));
    }
    // The algorithm is read as text first: the library's own message would not say which one it was.
    let raw = raw_header(token)?;
    let name = raw.get("alg").and_then(Value::as_str).unwrap_or("missing");
    let algorithm: Algorithm = name.parse().map_err(|_| TokenError::Algorithm(shown(name)))?;
    if !is_allowed(algorithm) {
        return Err(TokenError::Algorithm(shown(name)));
    }
    // RFC 7515, section 4.1.11: what is critical and not understood makes the token invalid.
    if let Some(critical) = raw.get("crit") {
        return Err(TokenError::Critical(shown(&critical.to_string())));
    }
    let kid = raw.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty());
    let kid = kid.ok_or(TokenError::NoKeyId)?.to_owned();
    Ok(Head { kid, algorithm })
}

fn raw_header(token: &str) -> Result<Map<String, Value>, TokenError> {
    let malformed = |why: &str| TokenError::Malformed(why.to_owned());
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("expected three parts"));
    };
    let decoded = base64url(header).ok_or_else(|| malformed("its header is not base64url"))?;
    match serde_json::from_slice(&decoded) {
        Ok(Value::Object(header)) => Ok(header),
        Ok(_) | Err(_) => Err(malformed("its header is no JSON object")),
    }
}

/// base64url without padding (RFC 7515, section 2).
fn base64url(text: &str) -> Option<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// RFC 8725, section 3.1: an algorithm is taken because it is listed, never because a token asks for it.
fn is_allowed(algorithm: Algorithm) -> bool {
    use Algorithm as A;
    matches!(
        algorithm,
        A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 | A::ES256 | A::ES384 | A::EdDSA
    )
}

/// The claims of a token whose signature and claims all hold.
pub(crate) fn check(token: &str, key: &keys::Key, expected: Expected<'_>) -> Result<Claims, TokenError> {
    let head = head(token)?;
    key.fits(&head)?;
    let mut validation = jsonwebtoken::Validation::new(head.algorithm);
    // Times, issuer and audience are checked below, against the caller's clock and with both sides named.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let data = jsonwebtoken::decode::<Map<String, Value>>(token, key.decoding(), &validation);
    let claims = Claims(data.map_err(|error| refused(&error))?.claims);
    check_claims(&claims, expected)?;
    Ok(claims)
}

fn refused(error: &jsonwebtoken::errors::Error) -> TokenError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        other => TokenError::Malformed(format!("{other:?}")),
    }
}

fn check_claims(claims: &Claims, expected: Expected<'_>) -> Result<(), TokenError> {
    let Expected { now, skew, .. } = expected;
    let got = claims.text("iss").unwrap_or_default();
    if got != expected.issuer {
        return Err(TokenError::Issuer { expected: expected.issuer.to_owned(), got: shown(got) });
    }
    if !audiences(claims).contains(&expected.audience) {
        let got = shown(&audiences(claims).join(", "));
        return Err(TokenError::Audience { expected: expected.audience.to_owned(), got });
    }
    let needed = |name: &str| claims.seconds(name)?.ok_or_else(|| TokenError::Claim(name.to_owned()));
    let (expires, issued) = (needed("exp")?, needed("iat")?);
    if expires.saturating_add(skew) <= now {
        return Err(TokenError::Expired(now - expires));
    }
    if let Some(from) = claims.seconds("nbf")?.filter(|from| *from > now.saturating_add(skew)) {
        return Err(TokenError::NotYet(from - now));
    }
    if issued > now.saturating_add(skew) {
        return Err(TokenError::FromTheFuture(issued - now));
    }
    let lifetime = expires.saturating_sub(issued);
    if lifetime > expected.max_lifetime {
        return Err(TokenError::TooLong { expected: expected.max_lifetime, got: lifetime });
    }
    Ok(())
}

/// `aud` is a text or a list of texts (RFC 7519, section 4.1.3).
fn audiences(claims: &Claims) -> Vec<&str> {
    match claims.0.get("aud") {
        Some(Value::String(audience)) => vec![audience],
        Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
    }
}

/// What a stranger wrote, for a log: short, and without control characters.
fn shown(text: &str) -> String {
    const CHARS: usize = 120;
    text.chars().take(CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
