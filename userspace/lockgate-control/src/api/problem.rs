//! Errors as RFC 9457 problem documents; the one shape of every error this API answers.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use lockgate_model::{DecisionId, RequestId};
use serde_json::json;

/// An error answer. `code` is stable and for programs, `detail` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// HTTP status.
    pub status: StatusCode,
    /// `bad_signature`, `not_found`, …; also the last part of the problem's `type`.
    pub code: &'static str,
    /// The same for every occurrence of `code`.
    pub title: &'static str,
    /// What is wrong here, and what to do.
    pub detail: String,
    /// The request for approval it is about.
    pub request: Option<RequestId>,
    /// The decision it is about.
    pub decision: Option<DecisionId>,
    /// Seconds after which it may go better.
    pub retry_after: Option<u32>,
}

impl Problem {
    /// A problem that is about no request for approval.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, code, title, detail: detail.into(), request: None, decision: None, retry_after: None }
    }

    /// 400 `malformed`.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail)
    }

    /// 403 `forbidden`.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    /// 404 `not_found`.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    /// 503 `unavailable`.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable now", detail)
    }

    /// 429 `too_many`, to be asked again in a second.
    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", "Too many at a time", detail).after(1)
    }

    /// The same, with how many seconds to wait.
    #[must_use]
    pub fn after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The same, about one decision.
    #[must_use]
    pub fn decided(mut self, decision: DecisionId) -> Self {
        self.decision = Some(decision);
        self
    }

    /// The same, about one request for approval.
    #[must_use]
    pub fn about(mut self, request: RequestId) -> Self {
        self.request = Some(request);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:lockgate:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let (Some(request), Some(fields)) = (self.request, body.as_object_mut()) {
            fields.insert("request_id".to_owned(), json!(request));
            fields.insert("instance".to_owned(), json!(format!("/v1/approvals/{request}")));
        }
        if let (Some(decision), Some(fields)) = (self.decision, body.as_object_mut()) {
            fields.insert("decision_id".to_owned(), json!(decision));
        }
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response();
        let unavailable = (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        if let Some(seconds) = self.retry_after.or(unavailable) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
