//! A provider that ends logins by itself: OpenID Connect Back-Channel Logout 1.0. Its token is judged in full (2.6); an ID token
//! is none, and it is good once.

use super::{ALGORITHMS, LoginRefusal, Metadata, Oidc, refuse};
use crate::auth::{person::fit_name, secret::Hashed, session::Session};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use lockgate_model::Timestamp;
use openidconnect::{
    JsonWebKey, JsonWebKeyUse,
    core::{CoreJsonWebKey, CoreJwsSigningAlgorithm},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes of a logout token; an ID token without claims of the person has hundreds.
const TOKEN_MAX: usize = 16 << 10;

/// Tokens that are remembered until they are over; beyond, none is accepted until some are.
const SEEN_MAX: usize = 10_000;

/// A token that says longer is over by then all the same; two minutes are recommended (2.4).
const LIFE_MAX: i64 = 3_600;

/// The event that makes it one (2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// Whose logins end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Of whom; all of theirs when no login is named.
    pub(crate) subject: Option<String>,
    /// The one login, as the provider calls it.
    pub(crate) sid: Option<String>,
}

impl Ended {
    /// Whether a login at this provider is meant. One that the provider gave no name ends with all of its person's.
    pub(crate) fn is(&self, provider: &str, session: &Session) -> bool {
        let of = format!("oidc:{provider}:");
        let whose = session.person.id.strip_prefix(&of);
        let theirs = self.subject.as_deref().is_none_or(|subject| whose == Some(subject));
        let this = match (&self.sid, &session.sid) {
            (None, _) => true,
            (Some(named), Some(own)) => named == own,
            (Some(_), None) => self.subject.is_some(),
        };
        session.person.provider == provider && whose.is_some() && theirs && this
    }
}

#[derive(Deserialize)]
struct Header {
    alg: CoreJwsSigningAlgorithm,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    iat: f64,
    exp: f64,
    jti: String,
    events: Map<String, Value>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    sid: Option<String>,
    #[serde(default)]
    nonce: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// For this client and for nobody else.
    fn is(&self, client: &str) -> bool {
        match self {
            Self::One(one) => one == client,
            Self::Several(all) => !all.is_empty() && all.iter().all(|one| one == client),
        }
    }
}

impl Oidc {
    /// Whose logins a logout token ends.
    pub(crate) async fn ended(&self, token: &str, now: Timestamp) -> Result<Ended, LoginRefusal> {
        let malformed = || refuse("malformed", "expected logout_token: a signed JWT");
        if token.len() > TOKEN_MAX {
            return Err(malformed());
        }
        let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) =
            signed.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or_else(malformed)?;
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed());
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| malformed())?;
        let (payload, signature) = (decoded(payload)?, decoded(signature)?);
        let typed =
            header.typ.as_deref().map(|typ| typ.trim_start_matches("application/").to_ascii_lowercase());
        if header.crit.is_some() || !matches!(typed.as_deref(), None | Some("logout+jwt" | "jwt")) {
            return Err(refuse("bad_token", "this JWT is for something else (typ, crit)"));
        }
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refuse("bad_signature", "expected a signature by a published key"));
        }
        let metadata = self.metadata(None).await?;
        let signed_by = |metadata: &Metadata| is_signed(metadata, &header, signed.as_bytes(), &signature);
        if !signed_by(&metadata) {
            // The provider may have changed its keys since we asked.
            let newer = self.metadata(Some(&metadata)).await?;
            if !signed_by(&newer) {
                return Err(refuse("bad_signature", "no key of the provider's made this signature"));
            }
        }
        let claims: Claims = serde_json::from_slice(&payload).map_err(|error| {
            refuse("bad_token", format!("expected the claims of a logout token: {error}"))
        })?;
        self.judge_logout(claims, now)
    }

    fn judge_logout(&self, claims: Claims, now: Timestamp) -> Result<Ended, LoginRefusal> {
        if claims.iss != self.settings.issuer {
            return Err(refuse("bad_issuer", "the logout token is another provider's"));
        }
        if !claims.aud.is(&self.settings.client_id) {
            return Err(refuse("bad_audience", "the logout token was made for another client"));
        }
        // The event makes it a logout token, the nonce an ID token.
        if !claims.events.get(EVENT).is_some_and(Value::is_object) || claims.nonce.is_some() {
            return Err(refuse("bad_token", "this is no logout token (events, nonce)"));
        }
        let skew = i64::try_from(self.settings.skew.as_secs()).unwrap_or(0);
        let (issued, over) = (whole(claims.iat), whole(claims.exp));
        let over = over.min(issued.saturating_add(LIFE_MAX));
        if issued > now.as_second() + skew {
            return Err(refuse("not_yet_valid", "the logout token is from the future; check the clocks"));
        }
        if over <= now.as_second() - skew {
            return Err(refuse("expired", "the logout token is over"));
        }
        let named = |name: Option<String>| match name {
            None => Ok(None),
            Some(name) => match fit_name(&name).filter(|fit| *fit == name) {
                Some(fit) => Ok(Some(fit)),
                None => Err(refuse("bad_subject", "the logout token names nobody that can be")),
            },
        };
        let ended = Ended { subject: named(claims.sub)?, sid: named(claims.sid)? };
        if ended == (Ended { subject: None, sid: None }) {
            return Err(refuse(
                "bad_token",
                "the logout token names neither a person nor a login (sub, sid)",
            ));
        }
        self.once(&claims.jti, over.saturating_add(skew), now)?;
        Ok(ended)
    }

    /// A token is good once (2.6, step 9).
    fn once(&self, id: &str, over: i64, now: Timestamp) -> Result<(), LoginRefusal> {
        let mut seen = self.ended.lock();
        seen.retain(|_, over| *over > now);
        if seen.len() >= SEEN_MAX {
            return Err(refuse("too_many", "too many logouts at this moment; send it again"));
        }
        let over = Timestamp::from_second(over).unwrap_or(now);
        match seen.insert(Hashed::of(id), over) {
            None => Ok(()),
            Some(_) => Err(refuse("replayed", "this logout token was used before")),
        }
    }
}

/// Seconds as JSON has them; what is no date is long ago.
#[allow(clippy::cast_possible_truncation, reason = "casts of floats saturate, and what is beyond is no date")]
fn whole(seconds: f64) -> i64 {
    if seconds.is_finite() { seconds as i64 } else { 0 }
}

/// Whether a key that the provider publishes for signing, of the name that the token says if it says one, made this signature.
fn is_signed(metadata: &Metadata, header: &Header, signed: &[u8], signature: &[u8]) -> bool {
    let named = |key: &&CoreJsonWebKey| match (&header.kid, key.key_id()) {
        (None, _) => true,
        (Some(kid), own) => own.is_some_and(|own| own.as_str() == kid),
    };
    let signs = |key: &&CoreJsonWebKey| key.key_use().is_none_or(JsonWebKeyUse::allows_signature);
    let mut keys = metadata.jwks().keys().iter().filter(named).filter(signs);
    keys.any(|key: &CoreJsonWebKey| key.verify_signature(&header.alg, signed, signature).is_ok())
}
