//! One sentence that the next page shows: what the form did. It travels in a cookie that only this site can set, is shown once,
//! and is plain text.

use axum::http::{HeaderMap, HeaderValue, header};

const NAME: &str = "lockgate-said";

/// Bytes of it: more is cut, so that it always fits a header.
const MAX: usize = 600;

/// The header that leaves a sentence for the next page.
pub(super) fn leave(text: &str) -> HeaderValue {
    let text = crate::text::clip(text, MAX);
    let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let cookie = format!("{NAME}={encoded}; Path=/; Max-Age=60; HttpOnly; SameSite=Strict");
    HeaderValue::from_str(&cookie).unwrap_or_else(|_| clear())
}

/// The header that takes it away again.
pub(super) fn clear() -> HeaderValue {
    HeaderValue::from_static("lockgate-said=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")
}

/// What an earlier answer left.
pub(super) fn read(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, value)| *name == NAME && !value.is_empty())?;
    let (text, _) = form_urlencoded::parse(value.as_bytes()).next()?;
    Some(crate::text::visible(crate::text::clip(&text, MAX).as_ref()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_survives_the_cookie_whatever_is_in_it() {
        for text in ["Approved.", "a=b; c&d \"<script>\" größe %41 + \r\nset-cookie: x=y"] {
            let set = leave(text);
            let set = set.to_str().unwrap();
            let value = set.split(';').next().unwrap();
            assert!(!value.contains(' ') && !value.contains('"'), "{value}");
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, format!("other=1; {value}").parse().unwrap());
            assert_eq!(read(&headers).unwrap(), crate::text::visible(text));
        }
        assert_eq!(read(&HeaderMap::new()), None);
    }
}
