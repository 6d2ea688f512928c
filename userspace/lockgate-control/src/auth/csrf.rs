//! Whether a request that changes something comes from our own pages: only asked of browsers that are logged in, since nothing
//! else sends its proof without being told to.
//!
//! Two proofs, both needed: what the browser says of where it comes from (Sec-Fetch-Site, Origin), and the login's secret word,
//! in the header `x-csrf-token` or a form's field `csrf`.

use crate::api::{decision, problem::Problem};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode, header},
};
use subtle::ConstantTimeEq;

/// Bytes of a form.
const FORM_MAX: usize = 1 << 20;

/// The field and the header.
const FIELD: &str = "csrf";
const HEADER: &str = "x-csrf-token";

/// Refuses what the browser says comes from elsewhere. `own` is the origin people know us by, when configuration says so.
pub(super) fn check_origin(headers: &HeaderMap, own: Option<&str>) -> Result<(), Problem> {
    let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or(""));
    if site.is_some_and(|site| site != "same-origin") {
        return Err(foreign("the browser says that it comes from another site"));
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let host = text(header::HOST).unwrap_or_default();
    let same_host = origin
        .split_once("://")
        .is_some_and(|(scheme, of)| matches!(scheme, "http" | "https") && !host.is_empty() && of == host);
    if same_host || own == Some(origin) {
        return Ok(());
    }
    Err(foreign("the browser says that it comes from another origin"))
}

/// Refuses a request without the login's secret word; gives it back with its body as it was.
pub(super) async fn check_word(request: Request, word: &str) -> Result<Request, Problem> {
    let said = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
    if let Some(said) = said {
        return if same(said, word) {
            Ok(request)
        } else {
            Err(foreign("the x-csrf-token is not this login's"))
        };
    }
    let form = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !form.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
        return Err(foreign(
            "expected the header x-csrf-token (see /v1/whoami), or a form with the field csrf",
        ));
    }
    let (parts, body) = request.into_parts();
    let body = decision::read_body(body, FORM_MAX, decision::BODY_TIMEOUT).await?;
    let mut said = form_urlencoded::parse(&body).filter(|(name, _)| name == FIELD).map(|(_, value)| value);
    match (said.next(), said.next()) {
        (Some(said), None) if same(&said, word) => {}
        (_, _) => {
            return Err(foreign("the form's field csrf is missing or not this login's; open the page again"));
        }
    }
    Ok(Request::from_parts(parts, Body::from(body)))
}

fn same(said: &str, word: &str) -> bool {
    said.as_bytes().ct_eq(word.as_bytes()).into()
}

fn foreign(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "foreign_request", "This does not come from our pages", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_what_comes_from_our_own_origin_passes() {
        for (site, origin, passes) in [
            (None, None, true),
            (Some("same-origin"), Some("https://gate.example.com"), true),
            (Some("same-origin"), None, true),
            (None, Some("http://10.0.0.7:8420"), true),
            (Some("cross-site"), None, false),
            (Some("same-site"), Some("https://gate.example.com"), false),
            (Some("none"), None, false),
            (None, Some("null"), false),
            (None, Some(""), false),
            (None, Some("https://evil.example.com"), false),
            (None, Some("https://gate.example.com.evil.com"), false),
            (None, Some("https://gate.example.com:444"), false),
            (None, Some("http://gate.example.com"), false),
            (None, Some("file://10.0.0.7:8420"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("10.0.0.7:8420"));
            if let Some(site) = site {
                headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            }
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            let passed = check_origin(&headers, Some("https://gate.example.com")).is_ok();
            assert_eq!(passed, passes, "{site:?} {origin:?}");
        }
    }

    async fn word(kind: Option<&'static str>, said: Option<&'static str>, body: &'static str) -> bool {
        let mut request = Request::new(Body::from(body));
        if let Some(kind) = kind {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if let Some(said) = said {
            request.headers_mut().insert(HEADER, HeaderValue::from_static(said));
        }
        match check_word(request, "word").await {
            Ok(request) => {
                let kept = decision::read_body(request.into_body(), FORM_MAX, decision::BODY_TIMEOUT).await;
                assert_eq!(kept.unwrap(), body, "the handler reads what was sent");
                true
            }
            Err(problem) => {
                assert_eq!(problem.code, "foreign_request");
                false
            }
        }
    }

    #[tokio::test]
    async fn the_word_stands_in_the_header_or_once_in_the_form() {
        let form = Some("application/x-www-form-urlencoded");
        assert!(word(None, Some("word"), "{}").await);
        assert!(word(form, None, "a=1&csrf=word&b=2").await);
        assert!(!word(form, Some("wrong"), "csrf=word").await);
        assert!(!word(None, None, "csrf=word").await);
        assert!(!word(Some("text/plain"), None, "csrf=word").await);
        for body in ["", "csrf=", "csrf=wor", "csrf=word&csrf=word", "csrf=word&csrf=x", "CSRF=word"] {
            assert!(!word(form, None, body).await, "{body}");
        }
    }
}
