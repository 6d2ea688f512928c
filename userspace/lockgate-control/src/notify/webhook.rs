//! A webhook: the event, or what a template makes of it, signed as Standard Webhooks 1.0 has it.

use super::{
    channel::Message,
    event,
    guard::parse_url,
    http::Http,
    retry::Answer,
    settings::WebhookSettings,
    signing::{SigningKeys, Use},
    template::Template,
};
use crate::{desk::Desk, settings::ControlError};
use lockgate_model::{Secret, port::Ambient};
use reqwest::{
    Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

/// Headers that say what a message is, and may not be configured.
const OWN_HEADERS: [&str; 6] =
    ["content-length", "host", "transfer-encoding", "webhook-id", "webhook-timestamp", "webhook-signature"];

/// One receiver.
pub(crate) struct Webhook {
    http: Http,
    url: Url,
    keys: Option<SigningKeys>,
    template: Option<Template>,
    headers: Vec<(HeaderName, Secret<String>)>,
}

impl Webhook {
    pub(crate) fn new(settings: WebhookSettings) -> Result<Self, ControlError> {
        let name = settings.name;
        let bad =
            |key: &'static str, detail: String| ControlError::Channel { name: name.clone(), key, detail };
        let keys = settings.secret.as_ref().map(|secret| SigningKeys::parse(secret, Use::Sign)).transpose();
        let keys = keys.map_err(|source| ControlError::Key { name: name.clone(), key: "secret", source })?;
        if keys.is_none() && settings.template.is_none() {
            return Err(bad(
                "secret",
                "expected a key to sign with; only a template may do without".to_owned(),
            ));
        }
        let url = parse_url(&settings.url, settings.allow_private)
            .map_err(|detail| ControlError::Url { name: name.clone(), detail })?;
        let template = settings.template.as_ref().map(Template::new).transpose();
        let template = template.map_err(|detail| bad("template", detail))?;
        let mut headers = Vec::new();
        for (header, value) in settings.headers {
            let parsed = HeaderName::from_bytes(header.as_bytes())
                .ok()
                .filter(|parsed| !OWN_HEADERS.contains(&parsed.as_str()))
                .ok_or_else(|| bad("headers", format!("{header:?} is no header that may be set")))?;
            header_value(&value).map_err(|detail| bad("headers", format!("{header}: {detail}")))?;
            headers.push((parsed, value));
        }
        let http = Http::new(&name, settings.ca_pem.as_deref(), settings.allow_private)?;
        Ok(Self { http, url, keys, template, headers })
    }

    pub(super) fn body(&self, desk: &Desk, message: &Message) -> Result<Vec<u8>, String> {
        match &self.template {
            None => Ok(event::body(desk, message)),
            Some(template) => template.render(&event::value(desk, message)),
        }
    }

    pub(super) async fn post(&self, id: &str, ambient: &dyn Ambient, body: Vec<u8>) -> Answer {
        match self.headers(id, ambient, &body) {
            Ok(headers) => self.http.post(&self.url, headers, body, ambient).await,
            Err(why) => Answer::Hopeless(why),
        }
    }

    fn headers(&self, id: &str, ambient: &dyn Ambient, body: &[u8]) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::new();
        let kind = if self.template.is_some() { "application/json" } else { "application/cloudevents+json" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        for (name, value) in &self.headers {
            headers.insert(name, header_value(value)?);
        }
        let timestamp = ambient.now().as_second().to_string();
        let mut put = |name: &'static str, value: &str| {
            let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
            headers.insert(name, value);
            Ok::<_, String>(())
        };
        put("webhook-id", id)?;
        put("webhook-timestamp", &timestamp)?;
        if let Some(keys) = &self.keys {
            put("webhook-signature", &keys.sign(id, &timestamp, body))?;
        }
        Ok(headers)
    }
}

/// Marked sensitive, so that no debug output of a header map shows it.
pub(super) fn header_value(secret: &Secret<String>) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(secret.expose().trim())
        .map_err(|_| "expected visible characters, got a secret with others in it".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}
