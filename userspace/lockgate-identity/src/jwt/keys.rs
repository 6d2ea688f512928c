//! An issuer's public keys: fetched when a token names one that is not known, kept for a while, dropped when the issuer
//! drops them.
//!
//! A token with an unknown key id makes at most one fetch in [`RETRY`], however many come. While the issuer cannot be
//! reached, known keys serve for [`STALE`]; after that tokens are refused.

use super::{Head, TokenError};
use crate::http::{self, Http, HttpError, host};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use lockgate_model::Secret;
use reqwest::Url;
use serde::Deserialize;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{sync::Mutex, time::Instant};

/// A key that was withdrawn is refused after at most this.
const FRESH: Duration = Duration::from_secs(600);
/// How long keys serve while the issuer cannot be reached.
const STALE: Duration = Duration::from_secs(3600);
/// Between two fetches.
const RETRY: Duration = Duration::from_secs(10);
/// An issuer has two to five; the rest of a longer list is not kept.
const MAX_KEYS: usize = 32;

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// `ISSUER/.well-known/openid-configuration` says (OpenID Connect Discovery 1.0, section 4).
    Discovery(String),
    /// Here.
    At(Url),
}

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct KeySet {
    http: Http,
    source: Source,
    /// What a server wants that does not show its keys to everybody, as Kubernetes may.
    token: Option<crate::TokenFile>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<String, Arc<Key>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    failure: Option<String>,
}

/// One public key and what it may verify.
#[derive(Debug)]
pub(crate) struct Key {
    kid: String,
    /// None: any of its family.
    algorithm: Option<String>,
    curve: Option<Algorithm>,
    decoding: DecodingKey,
}

impl Key {
    /// RFC 7517, section 4: `use` and `alg` bind a key; RFC 8725, section 3.2: a key serves one family.
    fn of(jwk: &Jwk) -> Option<Self> {
        let kid = jwk.common.key_id.clone().filter(|kid| !kid.is_empty())?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let curve = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => None,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => Some(Algorithm::ES256),
                EllipticCurve::P384 => Some(Algorithm::ES384),
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(key) => match key.curve {
                EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
                _ => return None,
            },
            // A symmetric key in a public list is nobody's signature.
            _ => return None,
        };
        let algorithm = jwk.common.key_algorithm.as_ref().map(|algorithm| format!("{algorithm:?}"));
        Some(Self { kid, algorithm, curve, decoding: DecodingKey::from_jwk(jwk).ok()? })
    }

    pub(super) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }

    /// Whether this key may have signed a token with that header.
    pub(super) fn fits(&self, head: &Head) -> Result<(), TokenError> {
        let token = format!("{:?}", head.algorithm);
        let mismatch =
            |key: String| TokenError::KeyMismatch { kid: self.kid.clone(), key, token: token.clone() };
        if head.kid != self.kid {
            return Err(TokenError::UnknownKey(head.kid.clone()));
        }
        if let Some(algorithm) = self.algorithm.as_ref().filter(|algorithm| **algorithm != token) {
            return Err(mismatch(algorithm.clone()));
        }
        match self.curve {
            Some(curve) if curve != head.algorithm => Err(mismatch(format!("{curve:?}"))),
            None if self.decoding.family() != AlgorithmFamily::Rsa || !is_rsa(head.algorithm) => {
                Err(mismatch("RSA signatures".to_owned()))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn is_rsa(algorithm: Algorithm) -> bool {
    use Algorithm as A;
    matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512)
}

impl KeySet {
    pub(crate) fn new(http: Http, source: Source, token: Option<crate::TokenFile>) -> Self {
        super::install_verifier();
        Self { http, source, token, state: Mutex::default() }
    }

    /// The key with that id. One caller fetches, the others wait for it.
    pub(crate) async fn key(&self, kid: &str) -> Result<Arc<Key>, TokenError> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let age = state.fetched.map(|at| now - at);
        let known = state.keys.get(kid).cloned();
        if let Some(key) = known.as_ref().filter(|_| age.is_some_and(|age| age < FRESH)) {
            return Ok(key.clone());
        }
        if state.tried.is_none_or(|at| now - at >= RETRY) {
            state.tried = Some(now);
            match self.fetch().await {
                Ok(keys) => {
                    *state = State { keys, fetched: Some(now), tried: Some(now), failure: None };
                }
                Err(error) => {
                    tracing::warn!(%error, "an issuer's keys cannot be fetched");
                    state.failure = Some(error.to_string());
                }
            }
        }
        let usable = state.fetched.is_some_and(|at| now - at < STALE);
        match (state.keys.get(kid).filter(|_| usable), &state.failure) {
            (Some(key), _) => Ok(key.clone()),
            (None, Some(failure)) => Err(TokenError::Keys(failure.clone())),
            (None, None) => Err(TokenError::UnknownKey(kid.chars().take(64).collect())),
        }
    }

    async fn fetch(&self) -> Result<HashMap<String, Arc<Key>>, HttpError> {
        let token = match &self.token {
            Some(file) => Some(http::bearer(&file.read().await.map_err(HttpError::Client)?)),
            None => None,
        };
        let header = token.as_ref().map(|token| ("authorization", token));
        let url = match &self.source {
            Source::At(url) => url.clone(),
            Source::Discovery(issuer) => self.discover(issuer, header).await?,
        };
        let set: RawSet = self.http.json(&url, header).await?;
        // Key types that are not known are skipped, as RFC 7517, section 5 asks.
        let keys = set.keys.into_iter().filter_map(|raw| Key::of(&serde_json::from_value(raw).ok()?));
        Ok(keys.take(MAX_KEYS).map(|key| (key.kid.clone(), Arc::new(key))).collect())
    }

    async fn discover(
        &self,
        issuer: &str,
        header: Option<(&'static str, &Secret<String>)>,
    ) -> Result<Url, HttpError> {
        let url =
            http::address(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')))?;
        let document: Discovery = self.http.json(&url, header).await?;
        let shape = |cause| HttpError::Shape { host: host(&url), cause };
        // Discovery 1.0, section 4.3.
        if document.issuer != issuer {
            return Err(shape(format!("it calls itself {:?}, expected {issuer:?}", document.issuer)));
        }
        let keys = http::address(&document.jwks_uri)?;
        // The keys' host may be another one (as with a CDN); a token for this host must not go there.
        if header.is_some() && keys.origin() != url.origin() {
            return Err(shape(format!("its keys are at {}, where its token may not go", host(&keys))));
        }
        Ok(keys)
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}
