//! What a form sent, and what stands in an address: pairs of text, bounded, nothing believed.

use super::page::Refusal;
use crate::{
    api::{problem::Problem, read_body},
    text::is_deceptive,
};
use axum::body::Body;
use std::time::Duration;

/// Bytes of a form: a bulk decision on a page of requests, or a target's definition.
const FORM_MAX: usize = 64 << 10;

/// A form that takes longer than this to arrive is not waited for.
const FORM_TIMEOUT: Duration = Duration::from_secs(10);

/// Fields by name, in the order they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Of a form's body.
    pub(super) async fn read(body: Body) -> Result<Self, Refusal> {
        let body = read_body(body, FORM_MAX, FORM_TIMEOUT).await?;
        Ok(Self::parse(&body))
    }

    /// Of a query or a body.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        Self(form_urlencoded::parse(bytes).into_owned().collect())
    }

    /// Of an address. What cannot be seen is left out: the page shows these fields again.
    pub(super) fn of_address(query: &str) -> Self {
        let visible = |text: &str| text.chars().filter(|c| !is_deceptive(*c)).collect::<String>();
        let pairs = form_urlencoded::parse(query.as_bytes());
        Self(pairs.map(|(key, value)| (visible(&key), visible(&value))).collect())
    }

    /// One field, trimmed; None when it is missing or blank.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.trim());
        values.find(|text| !text.is_empty())
    }

    /// Every value of a field that may come more than once.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// One field that has to be there.
    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.text(name).ok_or_else(|| {
            Problem::malformed(format!("the form's field `{name}` is missing; fill it in and send it again"))
                .into()
        })
    }

    /// The same fields as a query, with one of them set anew or (None) left out.
    pub(super) fn with(&self, name: &str, value: Option<&str>) -> String {
        let mut out = form_urlencoded::Serializer::new(String::new());
        for (key, other) in &self.0 {
            if key != name && !other.is_empty() {
                out.append_pair(key, other);
            }
        }
        if let Some(value) = value {
            out.append_pair(name, value);
        }
        let query = out.finish();
        if query.is_empty() { "?".to_owned() } else { format!("?{query}") }
    }
}

/// Text as part of an address: every byte that could mean something else escaped.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_written_back() {
        let fields = Fields::parse(b"a=1&b=+&a=2&c=%E2%80%AE%22%3E");
        assert_eq!(fields.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(fields.text("b"), None);
        assert_eq!(fields.text("c"), Some("\u{202e}\">"));
        assert!(fields.required("d").is_err());
        assert_eq!(fields.with("a", None), "?b=+&c=%E2%80%AE%22%3E");
        assert_eq!(Fields::default().with("x", Some("a b&c")), "?x=a+b%26c");
    }
}
