//! What every answer says to browsers, whatever made it: run nothing that is not ours, stand in no frame, guess no types, tell
//! nobody where one came from, stay with TLS. A page may say something stricter; it is left as it is.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

/// Nothing but what this host serves; no inline script or style, no frames, no plugins.
const CONTENT: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// Two years, as browsers' preload lists ask for.
const TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");

/// Puts them where they are missing.
pub(super) fn put(response: &mut Response, secure: bool) {
    let headers = response.headers_mut();
    let mut default = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    default(header::CONTENT_SECURITY_POLICY, CONTENT);
    default(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    default(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    default(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    default(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    default(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    default(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    if secure {
        default(header::STRICT_TRANSPORT_SECURITY, TRANSPORT);
    }
}

/// A cookie of ours. With TLS its name forces browsers to keep it to this host and to TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    /// A login.
    Session,
    /// A browser that is about to log in.
    Attempt,
}

impl Cookie {
    fn name(self, secure: bool) -> &'static str {
        match (self, secure) {
            (Self::Session, true) => "__Host-lockgate",
            (Self::Session, false) => "lockgate",
            (Self::Attempt, true) => "__Host-lockgate-login",
            (Self::Attempt, false) => "lockgate-login",
        }
    }

    /// Its value, when the browser sent exactly one.
    pub(super) fn read(self, headers: &HeaderMap, secure: bool) -> Option<&str> {
        let name = self.name(secure);
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut own = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        match (own.next(), own.next()) {
            (Some(value), None) => Some(value),
            (_, _) => None,
        }
    }

    /// Sets it until the browser is closed.
    pub(super) fn set(self, value: &str, secure: bool) -> Option<HeaderValue> {
        let tls = if secure { "; Secure" } else { "" };
        let name = self.name(secure);
        HeaderValue::from_str(&format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax{tls}")).ok()
    }

    /// Takes it away.
    pub(super) fn clear(self, secure: bool) -> Option<HeaderValue> {
        let tls = if secure { "; Secure" } else { "" };
        let name = self.name(secure);
        HeaderValue::from_str(&format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{tls}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cookie: &'static str, secure: bool) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static(cookie));
        Cookie::Session.read(&headers, secure).map(str::to_owned)
    }

    #[test]
    fn the_one_cookie_of_that_name_is_read_and_two_are_none() {
        for (sent, secure, expected) in [
            ("lockgate=a", false, Some("a")),
            ("x=1; lockgate=a; y=2", false, Some("a")),
            ("__Host-lockgate=a", true, Some("a")),
            ("lockgate=a", true, None),
            ("lockgate=a; lockgate=b", false, None),
            ("Lockgate=a", false, None),
            ("lockgate-login=a", false, None),
            ("lockgate", false, None),
        ] {
            assert_eq!(read(sent, secure).as_deref(), expected, "{sent}");
        }
    }

    #[test]
    fn with_tls_a_cookie_never_leaves_tls_and_this_host() {
        let set = Cookie::Session.set("v", true).unwrap();
        assert_eq!(set, "__Host-lockgate=v; Path=/; HttpOnly; SameSite=Lax; Secure");
        let clear = Cookie::Session.clear(true).unwrap();
        assert!(clear.to_str().unwrap().contains("Max-Age=0; Secure"));
    }
}
