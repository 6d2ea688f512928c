//! HTTP targets: which credential goes on, and which fields of the client do not.

use super::{Checker, raw};
use hyper::header::{AUTHORIZATION, HeaderName};
use lockgate_model::session::Protocol;
use lockgate_policy::yaml::{Position, Spanned};
use lockgate_proxy::{HttpSettings, Injection, credential::CredentialSettings};

/// Fields that frame or route a request: nobody replaces or removes them.
const FRAMING: [&str; 7] =
    ["connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"];

impl Checker {
    /// The credential and the fields of an HTTP target; for others, only that they have nothing of it.
    pub(super) fn http(&mut self, raw: &raw::Target) -> HttpSettings {
        let upstream = &raw.upstream;
        let credential = &upstream.credential;
        match raw.protocol {
            Protocol::Postgres => {
                let bearer = credential.bearer.as_ref().map(|bearer| (bearer.at, "credential.bearer"));
                let header = credential.header.as_ref().map(|header| (header.at, "credential.header"));
                let remove = upstream.remove_headers.first().map(|name| (name.at, "remove_headers"));
                for (at, key) in [bearer, header, remove].into_iter().flatten() {
                    self.error(at, format!("upstream.{key} is for `protocol: http`"), None);
                }
                HttpSettings::default()
            }
            Protocol::Http => {
                self.foreign(raw);
                HttpSettings {
                    injections: self.injections(raw.name.at, credential),
                    remove: upstream.remove_headers.iter().filter_map(|name| self.field(name)).collect(),
                    ..HttpSettings::default()
                }
            }
        }
    }

    /// What an HTTP target has no use for.
    fn foreign(&mut self, raw: &raw::Target) {
        let at = raw.name.at;
        let upstream = &raw.upstream;
        let keys = [
            (raw.client_auth.first().map(|auth| auth.at), "client_auth"),
            (raw.session_in_application_name.then_some(at), "session_in_application_name"),
            (raw.listen.as_ref().map(|listen| listen.at), "listen"),
            (raw.callers.as_ref().map(|callers| callers.at), "callers"),
            (upstream.tls_negotiation.as_ref().map(|negotiation| negotiation.at), "upstream.tls_negotiation"),
            (upstream.credential.vault.as_ref().map(|vault| vault.at), "upstream.credential.vault"),
            (upstream.credential.cache.as_ref().map(|cache| cache.at), "upstream.credential.cache"),
        ];
        for (at, key) in keys {
            if let Some(at) = at {
                self.error(at, format!("`{key}` is not for `protocol: http`"), None);
            }
        }
    }

    fn injections(&mut self, at: Position, credential: &raw::Credential) -> Vec<Injection> {
        let mut injections = Vec::new();
        match (&credential.user, &credential.password) {
            (Some(user), Some(password)) => {
                if user.value.is_empty() || user.value.contains(':') {
                    let help = Some("RFC 7617 has no place for a colon in it");
                    self.error(user.at, "the user of basic authentication is empty or has a colon", help);
                }
                if let Some(password) = self.secret("upstream.credential.password", password) {
                    injections.push(Injection::Basic { user: user.value.clone(), password });
                }
            }
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                let help = Some("write both for basic authentication, or `bearer`, or `header`");
                self.error(at, "upstream.credential has one of `user` and `password`", help);
            }
        }
        if let Some(bearer) = &credential.bearer {
            if credential.user.is_some() {
                self.error(bearer.at, "`bearer` and `user` are two values of one field", None);
            }
            injections.extend(self.secret("upstream.credential.bearer", bearer).map(Injection::Bearer));
        }
        if let Some(header) = &credential.header {
            let name = self.field(&header.value.name);
            if name == Some(AUTHORIZATION) && !injections.is_empty() {
                self.error(header.at, "`header` and the others are two values of one field", None);
            }
            let value = self.secret("upstream.credential.header.value", &header.value.value);
            if let (Some(name), Some(value)) = (name, value) {
                injections.push(Injection::Header { name, value });
            }
        }
        injections
    }

    fn field(&mut self, name: &Spanned<String>) -> Option<HeaderName> {
        match name.value.parse::<HeaderName>() {
            Ok(field) if FRAMING.contains(&field.as_str()) => {
                let message = format!("`{field}` says how a request is framed or routed, and stays as it is");
                self.error(name.at, message, None);
                None
            }
            Ok(field) => Some(field),
            Err(_) => {
                self.error(name.at, format!("{:?} is not the name of a header", name.value), None);
                None
            }
        }
    }

    /// What of the login is left for an HTTP target: a client certificate, and whom records name.
    pub(super) fn http_login(&mut self, raw: &raw::Target) -> CredentialSettings {
        let credential = &raw.upstream.credential;
        let certificate =
            credential.client_certificate.as_ref().and_then(|given| self.client_certificate(given));
        if let Some(given) =
            credential.client_certificate.as_ref().filter(|_| raw.upstream.tls == super::UpstreamTls::Disable)
        {
            let help = Some("client certificates belong to TLS: use tls: verify-full");
            self.error(
                given.at,
                "upstream.credential.client_certificate means nothing with tls: disable",
                help,
            );
        }
        let user = match (&credential.user, &credential.bearer, &credential.header) {
            (Some(user), ..) => user.value.clone(),
            (None, Some(_), _) => "bearer".to_owned(),
            (None, None, Some(header)) => header.value.name.value.to_ascii_lowercase(),
            (None, None, None) if certificate.is_some() => "lockgate".to_owned(),
            (None, None, None) => "-".to_owned(),
        };
        CredentialSettings { user, certificate, ..CredentialSettings::default() }
    }
}
