//! Reading what a request carries, the same way everywhere: bounded in bytes and in time, and every refusal a problem
//! document.

use super::{decision, problem::Problem};
use axum::{
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

/// Bytes of a body: a target's definition and a policy test are the largest.
pub(crate) const BODY_MAX: usize = 64 << 10;

/// A JSON body. An empty one is `{}`, so that what is optional as a whole may be left out as a whole.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = decision::read_body(body, BODY_MAX, decision::BODY_TIMEOUT).await?;
        if !bytes.is_empty() {
            json_type(&parts)?;
        }
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Problem::malformed(format!("the body cannot be read: {error}")))
    }
}

/// What says of itself that it is something else is not read as JSON.
fn json_type(parts: &Parts) -> Result<(), Problem> {
    let Some(given) = parts.headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let given = given.to_str().unwrap_or("other than text").trim().to_ascii_lowercase();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        "Not JSON",
        format!("expected content-type application/json, got {:?}", crate::text::clip(essence, 64)),
    ))
}

/// The fields behind `?`.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let asked = Query::<T>::from_request_parts(parts, state).await;
        asked.map(|Query(asked)| Self(asked)).map_err(|rejection| Problem::malformed(rejection.body_text()))
    }
}
