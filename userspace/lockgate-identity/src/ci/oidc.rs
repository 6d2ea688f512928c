//! A job's OIDC token: found in a variable, or asked for where GitHub's environment says, and then checked in full.

use super::{Carried, Found, Vouched, claims, names};
use crate::{
    CiProvider, Issuer, SetUpError, TokenCarrier,
    http::{self, Http, HttpError},
    jwt::{
        self, Expected, TokenError,
        keys::{KeySet, Source},
    },
    kind,
    memo::Memo,
};
use globset::GlobSet;
use lockgate_model::{Secret, workload::Assurance};
use reqwest::Url;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// <https://docs.github.com/en/actions/reference/security/oidc>
pub(super) const REQUEST_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
pub(super) const REQUEST_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";
/// A token that was asked for serves the job's next connections for this long.
const REMEMBER: Duration = Duration::from_secs(60);

/// One issuer.
pub(super) struct Oidc {
    provider: CiProvider,
    issuer: String,
    audience: String,
    skew: u64,
    max_lifetime: u64,
    keys: KeySet,
    carrier: Carrier,
    names: Vec<&'static str>,
}

enum Carrier {
    Variable(&'static str),
    Request { http: Http, hosts: GlobSet, asked: Memo<[u8; 32], Secret<String>> },
}

/// Why a token cannot be had or is refused.
#[derive(Debug, thiserror::Error)]
enum OidcError {
    #[error("the job's token endpoint is at {0}, which is not one of the configured hosts")]
    Host(String),
    #[error("the job's token endpoint: {0}")]
    Endpoint(#[from] HttpError),
    #[error("the job's token is refused: {0}")]
    Token(#[from] TokenError),
}

#[derive(Deserialize)]
struct Answer {
    value: String,
}

impl Oidc {
    pub(super) fn new(settings: &Issuer, skew: Duration) -> Result<Self, SetUpError> {
        let fail = |error| SetUpError::Issuer(settings.issuer.clone(), error);
        http::address(&settings.issuer).map_err(fail)?;
        let http = Http::new(settings.ca_pem.as_deref()).map_err(fail)?;
        let source = match &settings.jwks {
            Some(url) => Source::At(http::address(url).map_err(fail)?),
            None => Source::Discovery(settings.issuer.clone()),
        };
        let names = names(&settings.carrier);
        let carrier = match &settings.carrier {
            TokenCarrier::Variable(_) => Carrier::Variable(names.first().copied().unwrap_or_default()),
            TokenCarrier::Request { hosts } => {
                Carrier::Request { http: http.clone(), hosts: kind::compile(hosts)?, asked: Memo::default() }
            }
        };
        Ok(Self {
            provider: settings.provider,
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            skew: skew.as_secs(),
            max_lifetime: settings.max_lifetime.as_secs(),
            keys: KeySet::new(http, source, None),
            carrier,
            names,
        })
    }

    pub(super) fn provider(&self) -> CiProvider {
        self.provider
    }

    pub(super) fn variables(&self) -> Vec<&'static str> {
        self.names.clone()
    }

    pub(super) async fn ask(&self, carried: &Carried, now: u64) -> Found {
        let found = match &self.carrier {
            Carrier::Variable(name) => match carried.get(*name) {
                Some(token) => self.check(token, now).await,
                None => return Found::Nothing,
            },
            Carrier::Request { http, hosts, asked } => {
                match (carried.get(REQUEST_URL), carried.get(REQUEST_TOKEN)) {
                    (Some(url), Some(bearer)) => self.request(http, hosts, asked, url, bearer, now).await,
                    (Some(_), None) | (None, Some(_)) | (None, None) => return Found::Nothing,
                }
            }
        };
        match found {
            Ok(vouched) => Found::Vouched(Box::new(vouched)),
            Err(error) => Found::Refused(error.to_string()),
        }
    }

    async fn request(
        &self,
        http: &Http,
        hosts: &GlobSet,
        asked: &Memo<[u8; 32], Secret<String>>,
        url: &Secret<String>,
        bearer: &Secret<String>,
        now: u64,
    ) -> Result<Vouched, OidcError> {
        let url = self.endpoint(url, hosts)?;
        let digest = Sha256::new().chain_update(url.as_str()).chain_update([0]).chain_update(bearer.expose());
        let key: [u8; 32] = digest.finalize().into();
        if let Some(token) = asked.known(&key)
            && let Ok(vouched) = self.check(&token, now).await
        {
            return Ok(vouched);
        }
        let bearer = http::bearer(bearer);
        let answer: Answer = http.json(&url, Some(("authorization", &bearer))).await?;
        let token = Secret::new(answer.value);
        let vouched = self.check(&token, now).await?;
        asked.keep(key, token, REMEMBER);
        Ok(vouched)
    }

    /// The address comes from the job: only its path and query are its to choose.
    fn endpoint(&self, url: &Secret<String>, hosts: &GlobSet) -> Result<Url, OidcError> {
        let mut url = http::address(url.expose())?;
        let host = http::host(&url);
        let place = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        };
        if !hosts.is_match(&place) {
            return Err(OidcError::Host(place.chars().take(120).collect()));
        }
        let kept: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(name, _)| name != "audience")
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        url.query_pairs_mut().clear().extend_pairs(kept).append_pair("audience", &self.audience);
        Ok(url)
    }

    async fn check(&self, token: &Secret<String>, now: u64) -> Result<Vouched, OidcError> {
        let token = token.expose();
        let head = jwt::head(token)?;
        let key = self.keys.key(&head.kid).await?;
        let expected = Expected {
            issuer: &self.issuer,
            audience: &self.audience,
            skew: self.skew,
            max_lifetime: self.max_lifetime,
            now,
        };
        let claims = jwt::check(token, &key, expected)?;
        let (key, mut job) = match self.provider {
            CiProvider::GithubActions => claims::github(&claims),
            CiProvider::Gitlab => claims::gitlab(&claims, &self.issuer),
        }?;
        job.established_by = Some(format!("a token signed by {}, first shown by this workload", self.issuer));
        Ok(Vouched {
            key: format!("{} {key}", self.issuer),
            expires: claims.expires(),
            assurance: Assurance::Attested,
            job,
        })
    }
}
