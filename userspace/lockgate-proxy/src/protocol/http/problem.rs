//! What a client is told when its request does not pass: RFC 9457, with the decision's id, the rule, why, and what to do.

use super::answer::{Payload, full};
use hyper::{Response, StatusCode, header};
use lockgate_model::{
    DecisionId,
    verdict::{Denial, DenialCause},
};
use serde_json::{Map, Value, json};

/// The media type of RFC 9457 §3.
const PROBLEM: &str = "application/problem+json";
/// Says in every answer of lockgate's own whose it is; an origin's answers lose a field of this name.
pub(super) const DECISION: &str = "lockgate-decision";

/// A refusal.
pub(super) fn denied(decision: DecisionId, denial: &Denial) -> Response<Payload> {
    let (status, title) = match denial.cause {
        DenialCause::Rule
        | DenialCause::NoRuleMatched
        | DenialCause::Opaque
        | DenialCause::Masking
        | DenialCause::Limit => (StatusCode::FORBIDDEN, "Refused by policy"),
        DenialCause::ApprovalDenied => (StatusCode::FORBIDDEN, "Not approved"),
        DenialCause::ApprovalTimeout => (StatusCode::FORBIDDEN, "Not approved in time"),
        DenialCause::Withdrawn => (StatusCode::FORBIDDEN, "The request for approval was withdrawn"),
        DenialCause::RecordFailed | DenialCause::Unavailable => {
            (StatusCode::SERVICE_UNAVAILABLE, "lockgate cannot serve this now")
        }
        DenialCause::Unsupported => (StatusCode::BAD_REQUEST, "Not served by lockgate"),
    };
    let mut extra = Map::new();
    extra.insert("decision_id".to_owned(), json!(decision));
    extra.insert("cause".to_owned(), json!(denial.cause));
    extra.insert("rule".to_owned(), json!(denial.rule));
    extra.insert("reason".to_owned(), json!(denial.reason));
    extra.insert("remedy".to_owned(), json!(denial.remedy));
    let mut answer = problem(status, title, &denial.reason, extra);
    if let Ok(value) = header::HeaderValue::from_str(&decision.to_string()) {
        answer.headers_mut().insert(DECISION, value);
    }
    answer
}

/// The origin cannot be reached, or broke off.
pub(super) fn unavailable(decision: DecisionId, detail: &str) -> Response<Payload> {
    let mut extra = Map::new();
    extra.insert("decision_id".to_owned(), json!(decision));
    problem(StatusCode::BAD_GATEWAY, "The target is not available", detail, extra)
}

/// An answer of lockgate's own.
fn problem(status: StatusCode, title: &str, detail: &str, extra: Map<String, Value>) -> Response<Payload> {
    let mut body = Map::new();
    body.insert("type".to_owned(), json!("about:blank"));
    body.insert("title".to_owned(), json!(title));
    body.insert("status".to_owned(), json!(status.as_u16()));
    body.insert("detail".to_owned(), json!(format!("lockgate: {detail}")));
    body.extend(extra);
    let text = format!("{}\n", Value::Object(body));
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROBLEM));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}
