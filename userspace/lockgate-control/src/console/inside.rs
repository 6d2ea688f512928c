//! The API, called in process: what a form asks for is done by the route that a program would call, with the same caller, the
//! same checks and the same records.

use super::{Console, page::Refusal};
use crate::{api::problem::Problem, auth::Caller};
use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use http_body_util::{BodyExt, Limited};
use serde_json::Value;
use tower::ServiceExt;

/// Bytes of an answer: a bundle's is the longest.
const ANSWER_MAX: usize = 64 << 20;

impl Console {
    /// Sends something to a route of the API.
    pub(super) async fn post(&self, caller: &Caller, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.call(caller, Method::POST, path, None, body.to_string()).await
    }

    /// Takes away what a page showed, unless it has changed since.
    pub(super) async fn delete(&self, caller: &Caller, path: &str, etag: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::DELETE, path, Some(etag), String::new()).await
    }

    /// Reads from a route of the API.
    pub(super) async fn get(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::GET, path, None, String::new()).await
    }

    async fn call(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        etag: Option<&str>,
        body: String,
    ) -> Result<Value, Refusal> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        let mut request = request
            .body(Body::from(body))
            .map_err(|_| Problem::malformed("there is nothing at this address"))?;
        request.extensions_mut().insert(caller.clone());
        let Ok(response) = self.api.clone().oneshot(request).await;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|_| Problem::unavailable("the answer is too long to show"))?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() { Ok(answer) } else { Err(refused(status, &answer)) }
    }
}

fn refused(status: StatusCode, answer: &Value) -> Refusal {
    let text = |name: &str, otherwise: &str| answer[name].as_str().unwrap_or(otherwise).to_owned();
    Refusal {
        status,
        code: text("code", "refused"),
        title: text("title", "Refused"),
        detail: text("detail", "no reason was given"),
        request: answer["request_id"].as_str().and_then(|id| id.parse().ok()),
        decision: answer["decision_id"].as_str().map(str::to_owned),
    }
}

/// An id of ours, fit to stand in a path; anything else names nothing.
pub(super) fn plain_id(id: &str) -> Result<&str, Refusal> {
    let fits = !id.is_empty()
        && id.len() <= 64
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if fits { Ok(id) } else { Err(Problem::not_found("there is nothing of that id here").into()) }
}
