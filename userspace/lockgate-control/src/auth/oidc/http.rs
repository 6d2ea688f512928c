//! Asking a provider: https or this host alone, without following redirects, within a time, and reading no more than a bound.

use super::{LoginRefusal, Oidc, is_safe, refuse};
use http_body_util::{BodyExt, Limited};
use openidconnect::{AccessToken, AsyncHttpClient, HttpRequest, HttpResponse};
use serde_json::Value;
use std::{collections::BTreeMap, future::Future, pin::Pin};

/// Bytes of an answer: key sets and metadata are some kilobytes.
const ANSWER_MAX: usize = 1 << 20;

/// See above.
pub(super) struct Http(pub(super) reqwest::Client);

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error("{0} is neither https nor this host")]
    Unsafe(String),
    #[error("the answer is longer than {ANSWER_MAX} bytes, or broke off")]
    TooLong,
    #[error(transparent)]
    Build(#[from] openidconnect::http::Error),
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let to = request.uri().to_string();
            if !openidconnect::url::Url::parse(&to).is_ok_and(|url| is_safe(&url)) {
                return Err(HttpError::Unsafe(to));
            }
            let answer = self.0.execute(request.try_into()?).await?;
            let mut response = openidconnect::http::Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                response = response.header(name, value);
            }
            let body = Limited::new(reqwest::Body::from(answer), ANSWER_MAX);
            let body = body.collect().await.map_err(|_| HttpError::TooLong)?.to_bytes();
            Ok(response.body(body.to_vec())?)
        })
    }
}

impl Oidc {
    /// What the provider tells of whom an access token is for (core, 5.3); None when it tells nothing to anybody.
    pub(super) async fn userinfo(
        &self,
        token: &AccessToken,
        subject: &str,
    ) -> Result<Option<BTreeMap<String, Value>>, LoginRefusal> {
        let metadata = self.metadata(None).await?;
        let Some(endpoint) = metadata.userinfo_endpoint() else { return Ok(None) };
        let fail = |detail: String| refuse("provider_unreachable", format!("its userinfo: {detail}"));
        let request = openidconnect::http::Request::builder()
            .uri(endpoint.url().as_str())
            .header("accept", "application/json")
            .header("authorization", format!("Bearer {}", token.secret()))
            .body(Vec::new())
            .map_err(|error| fail(error.to_string()))?;
        let answer = self.http.call(request).await.map_err(|error| fail(super::chain(&error)))?;
        if !answer.status().is_success() {
            return Err(fail(format!("it answers {}", answer.status())));
        }
        let told: BTreeMap<String, Value> = serde_json::from_slice(answer.body())
            .map_err(|_| fail("expected JSON; a signed answer is not read".to_owned()))?;
        // Another person's answer is no answer (core, 5.3.2).
        match told.get("sub").and_then(Value::as_str) {
            Some(of) if of == subject => Ok(Some(told)),
            Some(_) | None => Err(refuse("bad_subject", "the provider's userinfo is of somebody else")),
        }
    }
}
