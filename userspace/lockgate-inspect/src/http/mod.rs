//! HTTP requests → facts, digests and what people are shown; JSON and text responses → masked ones.
//!
//! The head has been read strictly by `lockgate_wire::http` (or by an HTTP/2 stack); here it gets its meaning. Whatever
//! origins are known to read differently from one another (encoded slashes, dot segments, path parameters, headers that
//! replace the method or the path) makes the request opaque, so that no rule on a method or path is walked around.
//! It decides nothing; `lockgate-proxy` drives it for each request.

mod body;
mod decode;
mod digest;
mod json;
mod path;
mod response;
#[cfg(test)]
mod tests;

pub use decode::{Coding, Decoder};
pub use digest::{DigestParts, digest};
pub use json::{JsonMasker, Malformed};
pub use response::{Filter, ResponseMask, Unmaskable};

use lockgate_model::{
    http::{HttpBody, HttpClass, HttpFacts, HttpField, JsonPath, REDACTED},
    sql::Risk,
};
use std::collections::{BTreeMap, BTreeSet};

/// Body bytes that are read to be judged or held, at most. More is opaque where a rule asks for a field of it, and streams
/// otherwise; an API's JSON body has a few KiB.
pub const MAX_BODY: usize = 1 << 20;
/// Of a body, what people and records are shown.
const SHOWN_BODY: usize = 16 * 1024;

/// Headers by which an origin may be told another method or path than the request line's.
const REPLACING: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
];
/// Whether an origin may take a header of this name (in lower case) for another method or path.
#[must_use]
pub fn replaces(name: &str) -> bool {
    REPLACING.contains(&name)
}

/// Headers that are facts whatever rules ask for: what the body is.
const ALWAYS: [&str; 2] = ["content-type", "content-encoding"];

/// A request's head, as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// As sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host header or `:authority`, with the port if it has one.
    pub authority: &'a str,
    /// Path and query (origin form), or `*`.
    pub target: &'a str,
    /// Names in lower case, in order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// What is known of its body.
    pub body: HttpBody,
    /// The protocol that the connection goes on in.
    pub upgrade: Option<&'a str>,
}

impl Head<'_> {
    /// What it asks for, as far as its head says.
    pub fn facts(&self, asked: &BTreeSet<String>) -> HttpFacts {
        let (raw_path, raw_query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.target, None),
        };
        let mut doubts = Doubts::default();
        let path = path::decoded(raw_path).unwrap_or_else(|why| {
            doubts.add(why);
            raw_path.to_owned()
        });
        let query = match raw_query.map(path::query).transpose() {
            Ok(query) => query.unwrap_or_default(),
            Err(why) => {
                doubts.add(why);
                Vec::new()
            }
        };
        if self.method.bytes().any(|b| b.is_ascii_lowercase()) {
            doubts.add("its method is in lower case, which some origins read as another one".to_owned());
        }
        let host = host_of(self.authority);
        if host.is_empty() {
            doubts.add("it names no host".to_owned());
        }
        self.replaced(&query, &host, &mut doubts);
        let has_body = self.body != HttpBody::None;
        let class = match self.method {
            _ if doubts.0.is_some() => HttpClass::Opaque,
            _ if self.upgrade.is_some() => HttpClass::Upgrade,
            "GET" | "HEAD" | "OPTIONS" if !has_body => HttpClass::Read,
            _ => HttpClass::Write,
        };
        let risk = match (class, self.method) {
            (HttpClass::Opaque, _) => Risk::Critical,
            (HttpClass::Read, _) => Risk::Low,
            (HttpClass::Upgrade, _) | (HttpClass::Write, "DELETE") => Risk::High,
            (HttpClass::Write, _) => Risk::Medium,
        };
        HttpFacts {
            class,
            method: self.method.to_owned(),
            scheme: self.scheme.to_owned(),
            host,
            route: path::route(&path),
            path,
            query: query.into_iter().map(unsecret).collect(),
            headers: self.fields(asked),
            upgrade: self.upgrade.map(str::to_ascii_lowercase),
            body: self.body,
            json: BTreeMap::new(),
            risk,
            opaque_reason: doubts.0,
        }
    }

    /// What could make an origin serve something else than the request line says.
    fn replaced(&self, query: &[HttpField], host: &str, doubts: &mut Doubts) {
        for (name, value) in self.headers {
            if REPLACING.contains(name) {
                doubts.add(format!("its header {name} may replace the method or the path"));
            }
            if *name == "x-forwarded-host" && host_of(&String::from_utf8_lossy(value)) != host {
                doubts.add("its header x-forwarded-host names another host".to_owned());
            }
        }
        if query.iter().any(|field| field.name.eq_ignore_ascii_case("_method")) {
            doubts.add("its parameter _method may replace the method".to_owned());
        }
    }

    fn fields(&self, asked: &BTreeSet<String>) -> Vec<HttpField> {
        let wanted = |name: &str| ALWAYS.contains(&name) || asked.contains(name);
        let fields = self.headers.iter().filter(|(name, _)| wanted(name));
        fields
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value).into_owned();
                unsecret(HttpField { name: (*name).to_owned(), value })
            })
            .collect()
    }

    fn header(&self, name: &str) -> Option<String> {
        let values: Vec<_> = self.headers.iter().filter(|(known, _)| *known == name).collect();
        match values.as_slice() {
            [(_, value)] => Some(String::from_utf8_lossy(value).into_owned()),
            [] => None,
            [..] => Some("several".to_owned()),
        }
    }

    /// Adds what rules ask of the body, which has been read whole. Where no rule that could match asks, it may be anything.
    pub fn read_body(&self, facts: &mut HttpFacts, body: &[u8], asked: &BTreeSet<JsonPath>, needed: bool) {
        facts.body =
            if body.is_empty() { HttpBody::None } else { HttpBody::Read { bytes: body.len() as u64 } };
        if asked.is_empty() || body.is_empty() {
            return;
        }
        let coding =
            self.header("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity"));
        let read = match coding {
            Some(coding) => Err(format!("its body is encoded ({coding}), and a rule asks for a field of it")),
            None => body::fields(body, asked)
                .map_err(|why| format!("a rule asks for a field of its body, which is not JSON: {why}")),
        };
        match read {
            Ok(json) => facts.json = json,
            Err(why) if needed => opaque(facts, why),
            Err(_not_json) => {}
        }
    }

    /// What people are shown and records keep: the request without its credentials. The second is its shape.
    pub fn text(&self, facts: &HttpFacts, body: Option<&[u8]>) -> (String, String) {
        let query: Vec<String> =
            facts.query.iter().map(|field| format!("{}={}", field.name, field.value)).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let mut text = format!("{} {}://{}{}{query}", facts.method, facts.scheme, facts.host, facts.path);
        for header in &facts.headers {
            text.push_str(&format!("\n{}: {}", header.name, header.value));
        }
        if let Some(upgrade) = &facts.upgrade {
            text.push_str(&format!("\nupgrade: {upgrade}"));
        }
        match (body, facts.body) {
            (Some(body), HttpBody::Read { bytes }) => {
                text.push_str("\n\n");
                match body::shown(body, SHOWN_BODY) {
                    Some(shown) => text.push_str(&shown),
                    None => text.push_str(&format!("({bytes} bytes that are not JSON)")),
                }
            }
            (_, HttpBody::Streamed { bytes: Some(bytes) }) => {
                text.push_str(&format!("\n\n(a body of {bytes} bytes, which is not read)"));
            }
            (_, HttpBody::Streamed { bytes: None }) => text.push_str("\n\n(a body, which is not read)"),
            (_, HttpBody::None | HttpBody::Read { .. }) => {}
        }
        let names: Vec<&str> = facts.query.iter().map(|field| field.name.as_str()).collect();
        let names = if names.is_empty() { String::new() } else { format!("?{}", names.join("&")) };
        let shape = format!("{} {}://{}{}{names}", facts.method, facts.scheme, facts.host, facts.route);
        (text, shape)
    }
}

/// A request that is not understood after all.
pub fn opaque(facts: &mut HttpFacts, why: String) {
    facts.class = HttpClass::Opaque;
    facts.risk = Risk::Critical;
    facts.opaque_reason.get_or_insert(why);
}

/// Why a request is opaque: the first reason counts.
#[derive(Default)]
struct Doubts(Option<String>);

impl Doubts {
    fn add(&mut self, why: String) {
        self.0.get_or_insert(why);
    }
}

/// The host of an authority: in lower case, without port and without the root's dot.
fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        // Not the last colon of an IPv6 address in brackets.
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !port.contains(']') => host,
        Some(_) | None => authority,
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Whether what goes by this name is a credential.
fn is_secret(name: &str) -> bool {
    const PARTS: [&str; 12] = [
        "token",
        "secret",
        "passw",
        "apikey",
        "api_key",
        "api-key",
        "accesskey",
        "access_key",
        "private_key",
        "credential",
        "authorization",
        "cookie",
    ];
    const WHOLE: [&str; 7] = ["sig", "signature", "auth", "code", "pwd", "session", "jwt"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part)) || WHOLE.contains(&name.as_str())
}

fn unsecret(field: HttpField) -> HttpField {
    if is_secret(&field.name) { HttpField { value: REDACTED.to_owned(), ..field } } else { field }
}

/// A request as a policy's test describes it.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// `DELETE http://shop.internal/v1/orders/7?force=true`
    pub request: &'a str,
    /// Its headers.
    pub headers: &'a BTreeMap<String, String>,
    /// Its body.
    pub body: Option<&'a str>,
}

impl Given<'_> {
    /// What it asks for. What cannot be read as a request is opaque.
    pub fn facts(&self, headers: &BTreeSet<String>, json: &BTreeSet<JsonPath>) -> HttpFacts {
        let (method, url) = self.request.trim().split_once(' ').unwrap_or((self.request, ""));
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", url));
        let (authority, target) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let names: Vec<(String, &str)> =
            self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_str())).collect();
        let fields: Vec<(&str, &[u8])> =
            names.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let upgrade = names.iter().find(|(name, _)| name == "upgrade").map(|(_, value)| *value);
        let body = match self.body {
            Some(body) if !body.is_empty() => HttpBody::Streamed { bytes: Some(body.len() as u64) },
            Some(_) | None => HttpBody::None,
        };
        let head = Head { method, scheme, authority, target, headers: &fields, body, upgrade };
        let mut facts = head.facts(headers);
        if !matches!(scheme, "http" | "https") {
            let why = format!("`{}` is not `METHOD http://host/path`", self.request);
            opaque(&mut facts, why);
        }
        if let Some(body) = self.body {
            head.read_body(&mut facts, body.as_bytes(), json, true);
        }
        facts
    }
}
