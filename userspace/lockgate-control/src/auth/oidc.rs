//! OpenID Connect: the authorization code flow with PKCE, by the `openidconnect` crate, which also judges the ID token. Here
//! stands what it leaves open: which algorithms, whose keys and how fresh, clocks, the authorized party, and what of the token
//! becomes a person. Asking anew stands in [`renew`], a provider that ends logins in [`backchannel`].

mod backchannel;
mod http;
mod renew;

pub(crate) use renew::NotRenewed;

use self::http::Http;
use super::{
    person::{GROUPS_MAX, Person, fit_name},
    secret::Hashed,
    settings::OidcSettings,
};
use lockgate_model::{Secret, Timestamp};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AdditionalProviderMetadata, AuthorizationCode,
    ClaimsVerificationError, ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, IdToken,
    IdTokenClaims, IdTokenFields, IdTokenVerifier, IssuerUrl, LogoutProviderMetadata, LogoutRequest, Nonce,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, PostLogoutRedirectUrl, ProviderMetadata,
    RedirectUrl, Scope, SignatureVerificationError, StandardErrorResponse, StandardTokenResponse,
    TokenResponse,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreClaimName, CoreClaimType,
        CoreClientAuthMethod, CoreErrorResponseType, CoreGenderClaim, CoreGrantType, CoreJsonWebKey,
        CoreJweContentEncryptionAlgorithm, CoreJweKeyManagementAlgorithm, CoreJwsSigningAlgorithm,
        CoreResponseMode, CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse,
        CoreSubjectIdentifierType, CoreTokenIntrospectionResponse, CoreTokenType,
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// A provider that does not answer by then keeps a person waiting for nothing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Metadata and keys are asked for again after this long: a key that the provider took away is good no longer than that.
const KEYS_GOOD: Duration = Duration::from_secs(600);

/// A token with an unknown key makes us ask again, but no more often than this.
const KEYS_AGAIN: Duration = Duration::from_secs(10);

/// A login that was asked for anew must have happened within this, besides skew.
const FRESH: i64 = 300;

/// Whose signatures count: by keys that the provider publishes, never by what both sides know, and never none.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 9] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha384,
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha512,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha384,
    CoreJwsSigningAlgorithm::RsaSsaPssSha512,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EcdsaP384Sha384,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// What is said of a token that was issued later than now.
const FROM_THE_FUTURE: &str = "it is from the future; check the clocks";

type Token = IdToken<Rest, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Claims = IdTokenClaims<Rest, CoreGenderClaim>;
type Fields = IdTokenFields<
    Rest,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Client<A, T, U> = openidconnect::Client<
    Rest,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    A,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    T,
    U,
>;
type Ready =
    Client<openidconnect::EndpointSet, openidconnect::EndpointMaybeSet, openidconnect::EndpointMaybeSet>;

type Metadata = ProviderMetadata<
    LogoutProviderMetadata<More>,
    CoreAuthDisplay,
    CoreClientAuthMethod,
    CoreClaimName,
    CoreClaimType,
    CoreGrantType,
    CoreJweContentEncryptionAlgorithm,
    CoreJweKeyManagementAlgorithm,
    CoreJsonWebKey,
    CoreResponseMode,
    CoreResponseType,
    CoreSubjectIdentifierType,
>;
type Answer = StandardTokenResponse<Fields, CoreTokenType>;

/// What else a provider says of itself.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct More {
    /// Every answer of its names it (RFC 9207, 3).
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl AdditionalProviderMetadata for More {}

/// Every other claim.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Rest {
    #[serde(flatten)]
    claims: BTreeMap<String, Value>,
}

impl AdditionalClaims for Rest {}

/// Why nobody is logged in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct LoginRefusal {
    /// Machine-readable; stable.
    pub(crate) code: &'static str,
    /// For people: expected, got, what to do.
    pub(crate) detail: String,
}

pub(crate) fn refuse(code: &'static str, detail: impl Into<String>) -> LoginRefusal {
    LoginRefusal { code, detail: detail.into() }
}

/// What a browser takes to the provider, and what is kept until it comes back.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) url: String,
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) verifier: Secret<String>,
}

/// Whoever came back.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) person: Person,
    /// When they proved who they are, where the provider says.
    pub(crate) proved: Option<Timestamp>,
    pub(crate) id_token: Option<Secret<String>>,
    /// What the provider calls the login.
    pub(crate) sid: Option<String>,
    /// What its later tokens must fit.
    pub(crate) nonce: String,
    /// What the provider is asked anew with.
    pub(crate) refresh: Option<Secret<String>>,
    /// When it ends at the provider, where that says so.
    pub(crate) until: Option<Timestamp>,
}

impl Arrived {
    /// Somebody of whom there is no more to know.
    pub(crate) fn plain(person: Person, proved: Option<Timestamp>) -> Self {
        Self { person, proved, id_token: None, sid: None, nonce: String::new(), refresh: None, until: None }
    }
}

/// What a token must say of the login's nonce.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// The first one: exactly this.
    Exactly(&'a str),
    /// A later one: this, or nothing (core, 12.2).
    NoneOr(&'a str),
}

impl Wanted<'_> {
    fn fits(self, got: Option<&Nonce>) -> Result<(), String> {
        let fits = match (self, got) {
            (Self::Exactly(wanted) | Self::NoneOr(wanted), Some(got)) => got.secret() == wanted,
            (Self::Exactly(_), None) => false,
            (Self::NoneOr(_), None) => true,
        };
        if fits { Ok(()) } else { Err("it is not of this login".to_owned()) }
    }
}

/// One provider.
pub(crate) struct Oidc {
    name: String,
    settings: OidcSettings,
    redirect: RedirectUrl,
    home: String,
    http: Http,
    known: Mutex<Option<(Arc<Metadata>, Instant)>>,
    /// Logout tokens that were used, until they are over.
    ended: Arc<Mutex<HashMap<Hashed, Timestamp>>>,
}

impl Oidc {
    /// Asks nobody yet: a provider that is away does not keep the agent from starting.
    pub(crate) fn new(name: &str, settings: OidcSettings, base: &str) -> Result<Self, String> {
        let issuer =
            openidconnect::url::Url::parse(&settings.issuer).map_err(|error| format!("issuer: {error}"))?;
        if !is_safe(&issuer) {
            return Err("issuer: expected https (http only on a loopback address)".to_owned());
        }
        let redirect = RedirectUrl::new(format!("{base}/login/{name}/callback"))
            .map_err(|error| format!("api.public_url: {error}"))?;
        let tls =
            crate::notify::http::tls(settings.ca_pem.as_deref()).map_err(|error| format!("ca: {error}"))?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_TIMEOUT)
            .no_proxy()
            .build();
        let http = Http(client.map_err(|error| format!("the HTTP client cannot be made: {error}"))?);
        Ok(Self {
            name: name.to_owned(),
            settings,
            redirect,
            home: format!("{base}/login"),
            http,
            known: Mutex::default(),
            ended: Arc::default(),
        })
    }

    /// Goes on from an earlier reading of the configuration.
    pub(crate) fn go_on_from(&mut self, before: &Self) {
        self.ended = before.ended.clone();
    }

    /// Its issuer, which an answer may name (RFC 9207).
    pub(crate) fn issuer(&self) -> &str {
        &self.settings.issuer
    }

    /// Sends a browser there. `fresh`: the person must prove anew who they are.
    pub(crate) async fn begin(&self, fresh: bool) -> Result<Begun, LoginRefusal> {
        let metadata = self.metadata(None).await?;
        let client = self.client(&metadata);
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut request = client.authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        );
        for scope in &self.settings.scopes {
            request = request.add_scope(Scope::new(scope.clone()));
        }
        if fresh {
            request = request.add_prompt(CoreAuthPrompt::Login).set_max_age(Duration::ZERO);
        }
        let (url, state, nonce) = request.set_pkce_challenge(challenge).url();
        Ok(Begun {
            url: url.to_string(),
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: Secret::new(verifier.secret().clone()),
        })
    }

    /// Exchanges the code that a browser brought, and judges what it gives. `issuer` is what the answer names.
    pub(crate) async fn finish(
        &self,
        code: String,
        issuer: Option<&str>,
        nonce: &str,
        verifier: &Secret<String>,
        fresh: bool,
        now: Timestamp,
    ) -> Result<Arrived, LoginRefusal> {
        let metadata = self.metadata(None).await?;
        if metadata.additional_metadata().additional_metadata.authorization_response_iss_parameter_supported
            && issuer.is_none()
        {
            return Err(refuse(
                "bad_issuer",
                "the answer does not name the provider (iss), which always does",
            ));
        }
        let client = self.client(&metadata);
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| refuse("provider_unusable", "the provider's metadata names no token endpoint"))?;
        let answer = request
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().clone()))
            .request_async(&self.http)
            .await
            .map_err(|error| code_refused(&error))?;
        let claims = self.believed(&answer, Wanted::Exactly(nonce), now).await?;
        let proved = claims.auth_time().and_then(|at| Timestamp::from_second(at.timestamp()).ok());
        let proved = proved.map(|proved| proved.min(now));
        if fresh {
            let skew = i64::try_from(self.settings.skew.as_secs()).unwrap_or(0);
            let age = proved.map(|proved| now.duration_since(proved).as_secs());
            if age.is_none_or(|age| age > FRESH + skew) {
                return Err(refuse(
                    "not_fresh",
                    "the provider did not ask the person to prove anew who they are",
                ));
            }
        }
        let groups = self.groups_of(&claims, &answer).await?;
        let person = self.person(&claims, groups)?;
        let text = |claim: Option<&Value>| claim.and_then(Value::as_str).and_then(fit_name);
        Ok(Arrived {
            person,
            proved,
            id_token: answer.id_token().map(|token| Secret::new(token.to_string())),
            sid: text(claims.additional_claims().claims.get("sid")),
            nonce: nonce.to_owned(),
            refresh: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
            until: None,
        })
    }

    /// What an ID token says, once everything about it holds.
    async fn believed(
        &self,
        answer: &Answer,
        nonce: Wanted<'_>,
        now: Timestamp,
    ) -> Result<Claims, LoginRefusal> {
        let metadata = self.metadata(None).await?;
        let token = answer.id_token().ok_or_else(|| {
            refuse("no_id_token", "the provider gave no ID token; is the scope openid allowed?")
        })?;
        let judged = self.judge(&metadata, token, nonce, now);
        let (claims, metadata) = match judged {
            // The provider may have changed its keys since we asked.
            Err(ClaimsVerificationError::SignatureVerification(
                SignatureVerificationError::NoMatchingKey,
            )) => {
                let newer = self.metadata(Some(&metadata)).await?;
                let claims = self.judge(&newer, token, nonce, now).map_err(|error| token_refused(&error))?;
                (claims, newer)
            }
            judged => (judged.map_err(|error| token_refused(&error))?, metadata),
        };
        self.judge_more(claims, now)?;
        if let Some(expected) = claims.access_token_hash() {
            let verifier = self.verifier(&metadata, now);
            let key = token.signing_key(&verifier).ok();
            let hash = key.zip(token.signing_alg().ok()).and_then(|(key, algorithm)| {
                AccessTokenHash::from_token(answer.access_token(), algorithm, key).ok()
            });
            if hash.as_ref() != Some(expected) {
                return Err(refuse(
                    "bad_access_token",
                    "the access token is not the one that the ID token is for",
                ));
            }
        }
        Ok(claims.clone())
    }

    /// The ID token's groups; where it has none, or says that they stand elsewhere, those that the provider tells of. Where a
    /// token says that they stand is nobody we know, so nobody else is ever asked (core, 5.6.2).
    async fn groups_of(&self, claims: &Claims, answer: &Answer) -> Result<Vec<String>, LoginRefusal> {
        let own = &claims.additional_claims().claims;
        let claim = own.get(&self.settings.groups_claim).filter(|claim| !claim.is_null());
        if claim.is_some() && !stand_elsewhere(own, &self.settings.groups_claim) {
            return groups(claim);
        }
        match self.userinfo(answer.access_token(), claims.subject().as_str()).await? {
            Some(told) => {
                if stand_elsewhere(&told, &self.settings.groups_claim) {
                    tracing::warn!(
                        provider = self.name,
                        "somebody's groups are too many for the provider to tell; they have none here"
                    );
                }
                groups(told.get(&self.settings.groups_claim))
            }
            None => groups(claim),
        }
    }

    /// Where a browser ends its login at the provider, too.
    pub(crate) async fn logout(&self, id_token: Option<&Secret<String>>) -> Option<String> {
        let metadata = self.metadata(None).await.ok()?;
        let end = metadata.additional_metadata().end_session_endpoint.clone()?;
        let back = PostLogoutRedirectUrl::new(self.home.clone()).ok()?;
        let request = LogoutRequest::from(end)
            .set_client_id(ClientId::new(self.settings.client_id.clone()))
            .set_post_logout_redirect_uri(back);
        let mut url = request.http_get_url();
        if let Some(token) = id_token {
            url.query_pairs_mut().append_pair("id_token_hint", token.expose());
        }
        is_safe(&url).then(|| url.to_string())
    }

    fn client(&self, metadata: &Metadata) -> Ready {
        let secret = self.settings.client_secret.as_ref();
        Client::from_provider_metadata(
            metadata.clone(),
            ClientId::new(self.settings.client_id.clone()),
            secret.map(|secret| ClientSecret::new(secret.expose().clone())),
        )
        .set_redirect_uri(self.redirect.clone())
    }

    /// What the provider says of itself; newer than `stale`, when that is given.
    async fn metadata(&self, stale: Option<&Metadata>) -> Result<Arc<Metadata>, LoginRefusal> {
        let known = self.known.lock().clone();
        if let Some((metadata, asked)) = known {
            let good = if stale.is_some() { KEYS_AGAIN } else { KEYS_GOOD };
            if asked.elapsed() < good {
                return Ok(metadata);
            }
        }
        let issuer = IssuerUrl::new(self.settings.issuer.clone())
            .map_err(|error| refuse("provider_unusable", format!("its issuer is no address: {error}")))?;
        let metadata = Metadata::discover_async(issuer, &self.http).await.map_err(|error| {
            refuse("provider_unreachable", format!("{} cannot be asked: {}", self.name, chain(&error)))
        })?;
        let endpoints =
            [Some(metadata.authorization_endpoint().url()), metadata.token_endpoint().map(|it| it.url())];
        if !endpoints.into_iter().flatten().all(is_safe) {
            return Err(refuse("provider_unusable", "the provider names an endpoint that is not https"));
        }
        let metadata = Arc::new(metadata);
        *self.known.lock() = Some((metadata.clone(), Instant::now()));
        Ok(metadata)
    }

    fn verifier<'a>(&self, metadata: &Metadata, now: Timestamp) -> IdTokenVerifier<'a, CoreJsonWebKey> {
        let (id, issuer) = (ClientId::new(self.settings.client_id.clone()), metadata.issuer().clone());
        let skew = i64::try_from(self.settings.skew.as_secs()).unwrap_or(0);
        let at = |seconds: i64| chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        let (earliest, latest) = (at(now.as_second() - skew), at(now.as_second() + skew));
        // Without the client's secret, so that no key but the provider's public ones is ever one.
        IdTokenVerifier::new_public_client(id, issuer, metadata.jwks().clone())
            .set_allowed_algs(ALGORITHMS)
            .set_other_audience_verifier_fn(|_| false)
            .set_time_fn(move || earliest)
            .set_issue_time_verifier_fn(move |issued| {
                if issued <= latest { Ok(()) } else { Err(FROM_THE_FUTURE.to_owned()) }
            })
    }

    fn judge<'a>(
        &self,
        metadata: &Metadata,
        token: &'a Token,
        nonce: Wanted<'_>,
        now: Timestamp,
    ) -> Result<&'a Claims, ClaimsVerificationError> {
        token.claims(&self.verifier(metadata, now), |got: Option<&Nonce>| nonce.fits(got))
    }

    /// What the crate leaves open.
    fn judge_more(&self, claims: &Claims, now: Timestamp) -> Result<(), LoginRefusal> {
        if let Some(party) = claims.authorized_party()
            && party.as_str() != self.settings.client_id
        {
            return Err(refuse("bad_audience", "the ID token was made for another client (azp)"));
        }
        let skew = i64::try_from(self.settings.skew.as_secs()).unwrap_or(0);
        match claims.additional_claims().claims.get("nbf") {
            None => Ok(()),
            Some(not_before) if not_before.as_i64().is_some_and(|at| at <= now.as_second() + skew) => Ok(()),
            Some(_) => Err(refuse("not_yet_valid", "the ID token is not valid yet (nbf); check the clocks")),
        }
    }

    fn person(&self, claims: &Claims, groups: Vec<String>) -> Result<Person, LoginRefusal> {
        let subject = fit_name(claims.subject().as_str())
            .filter(|subject| subject == claims.subject().as_str())
            .ok_or_else(|| {
                refuse("bad_subject", "the ID token's subject is empty, too long or not printable")
            })?;
        let one = |text: Option<&str>| text.and_then(fit_name);
        let email = one(claims.email().map(|email| email.as_str()));
        let username = one(claims.preferred_username().map(|name| name.as_str()));
        let called = one(claims.name().and_then(|name| name.get(None)).map(|name| name.as_str()));
        let name =
            called.or_else(|| username.clone()).or_else(|| email.clone()).unwrap_or_else(|| subject.clone());
        // Not vouched for is no name that counts; it may still exclude.
        let vouched = email.clone().filter(|_| claims.email_verified() != Some(false));
        Ok(Person {
            id: format!("oidc:{}:{subject}", self.name),
            provider: self.name.clone(),
            authority: self.settings.issuer.clone(),
            name,
            email: vouched,
            aliases: email.into_iter().chain(username).collect(),
            groups: BTreeMap::from([(self.settings.groups_claim.clone(), groups)]),
        })
    }
}

/// A list of strings, or one; a claim that is not there is no group. What else it may be is nobody's guess.
fn groups(claim: Option<&Value>) -> Result<Vec<String>, LoginRefusal> {
    let odd = || refuse("bad_groups", "the groups claim is not a list of at most 2000 strings");
    match claim {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(group)) => Ok(vec![group.clone()]),
        Some(Value::Array(groups)) if groups.len() <= GROUPS_MAX => {
            groups.iter().map(|group| group.as_str().map(str::to_owned).ok_or_else(odd)).collect()
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => Err(odd()),
    }
}

/// Whether these claims say that the groups stand somewhere else: aggregated or distributed (core, 5.6.2), or as Entra says it of
/// somebody who is in too many.
fn stand_elsewhere(claims: &BTreeMap<String, Value>, groups: &str) -> bool {
    let named = claims.get("_claim_names").and_then(|names| names.get(groups)).is_some();
    named || claims.get("hasgroups") == Some(&Value::Bool(true))
}

/// https, or http to this very host.
fn is_safe(url: &openidconnect::url::Url) -> bool {
    use openidconnect::url::Host;
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

fn token_refused(error: &ClaimsVerificationError) -> LoginRefusal {
    let code = match error {
        // The crate has one error for both ends of a token's time.
        ClaimsVerificationError::Expired(detail) if detail.contains(FROM_THE_FUTURE) => "not_yet_valid",
        ClaimsVerificationError::Expired(_) => "expired",
        ClaimsVerificationError::InvalidAudience(_) => "bad_audience",
        ClaimsVerificationError::InvalidIssuer(_) => "bad_issuer",
        ClaimsVerificationError::InvalidNonce(_) => "bad_nonce",
        ClaimsVerificationError::SignatureVerification(_) => "bad_signature",
        // Non-exhaustive there; each is a refusal.
        _ => "bad_token",
    };
    refuse(code, format!("the ID token is refused: {}", chain(error)))
}

fn code_refused<E: std::error::Error + 'static>(
    error: &openidconnect::RequestTokenError<E, StandardErrorResponse<CoreErrorResponseType>>,
) -> LoginRefusal {
    use openidconnect::RequestTokenError as Error;
    match error {
        Error::ServerResponse(answer) => {
            refuse("code_refused", format!("the provider refuses the code: {}", answer.error()))
        }
        Error::Request(_) | Error::Other(_) => {
            refuse("provider_unreachable", format!("the code cannot be exchanged: {}", chain(error)))
        }
        Error::Parse(error, _) => {
            refuse("bad_token", format!("the provider's answer cannot be read: {error}"))
        }
    }
}

/// An error with what caused it; a stranger's words, so made short and visible.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    crate::text::visible(&crate::text::clip(&text, 400)).into_owned()
}

#[cfg(test)]
mod tests;
