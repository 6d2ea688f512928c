//! From a request that hyper read to an operation: its head strictly, of its body what the decision needs.

use super::exchange::Conversation;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{
    Method, Request, Version,
    body::{Body, Incoming},
    header,
    http::request,
};
use lockgate_inspect::http::{DigestParts, Head, MAX_BODY, digest, opaque};
use lockgate_model::{
    OperationId,
    http::{HttpBody, HttpFacts},
    operation::{Facts, Operation, SqlContext},
};
use lockgate_policy::HttpAsks;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a client may take to send a body that is needed for the decision.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What is known of a request's body from its head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Depth {
    /// A rule asks what it says.
    pub(super) needed: bool,
    /// Masks apply to the resource: what is written there may be what is masked.
    pub(super) masked: bool,
}

/// A request, taken apart.
pub(super) struct Asked {
    pub(super) parts: request::Parts,
    /// Path and query.
    pub(super) target: String,
    /// Host, or `:authority`.
    pub(super) authority: String,
    /// What was read of the body.
    pub(super) read: Bytes,
    /// What was not; None when all of it was.
    pub(super) rest: Option<Incoming>,
    /// WebSocket.
    pub(super) upgrade: Option<String>,
}

impl Asked {
    /// Takes a request apart.
    ///
    /// # Errors
    /// Why it is not served at all, in words.
    pub(super) fn of(request: Request<Incoming>) -> Result<Self, (Box<Self>, &'static str)> {
        let (parts, body) = request.into_parts();
        let upgrade = wanted_upgrade(&parts);
        let target = parts.uri.path_and_query().map_or("*", |target| target.as_str()).to_owned();
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let named = parts.uri.authority().map(|authority| authority.as_str());
        let authority = named.or(host).unwrap_or_default().to_owned();
        let rest = (!body.is_end_stream()).then_some(body);
        let wrong = wrong(&parts, named, host, &target);
        let asked = Self { parts, target, authority, read: Bytes::new(), rest, upgrade };
        match wrong {
            None => Ok(asked),
            Some(why) => Err((Box::new(asked), why)),
        }
    }

    /// Whether the client waits for 100 Continue before it sends its body (RFC 9110 §10.1.1).
    pub(super) fn expects_continue(&self) -> bool {
        let expect = self.parts.headers.get(header::EXPECT);
        expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    }

    /// Reads the body, up to what is read of bodies. True: all of it.
    ///
    /// # Errors
    /// When the client breaks off, or takes too long.
    pub(super) async fn read_body(&mut self) -> Result<bool, String> {
        let Some(mut body) = self.rest.take() else { return Ok(true) };
        if body.size_hint().lower() > MAX_BODY as u64 {
            self.rest = Some(body);
            return Ok(false);
        }
        let mut read = BytesMut::new();
        let pull = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| format!("the request's body broke off: {error}"))?;
                // Trailers of a body that is kept are not sent on: nothing that decides has looked at them.
                let Ok(data) = frame.into_data() else { continue };
                read.extend_from_slice(&data);
                if read.len() > MAX_BODY {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let whole = timeout(BODY_TIME, pull).await;
        let whole =
            whole.unwrap_or_else(|_| Err(format!("the request's body did not come within {BODY_TIME:?}")))?;
        self.read = read.freeze();
        if !whole {
            self.rest = Some(body);
        }
        Ok(whole)
    }

    fn body(&self) -> HttpBody {
        match &self.rest {
            None if self.read.is_empty() => HttpBody::None,
            None => HttpBody::Read { bytes: self.read.len() as u64 },
            Some(rest) => {
                HttpBody::Streamed { bytes: rest.size_hint().exact().filter(|_| self.read.is_empty()) }
            }
        }
    }

    /// The operation that it is.
    pub(super) fn operation(
        &self,
        conversation: &Conversation,
        id: OperationId,
        asks: &HttpAsks,
        Depth { needed, masked }: Depth,
    ) -> Operation {
        let fields: Vec<(&str, &[u8])> =
            self.parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let head = Head {
            method: self.parts.method.as_str(),
            scheme: conversation.scheme,
            authority: &self.authority,
            target: &self.target,
            headers: &fields,
            body: self.body(),
            upgrade: self.upgrade.as_deref(),
        };
        let mut facts = head.facts(&asks.headers);
        let whole = self.rest.is_none();
        if whole && !self.read.is_empty() {
            head.read_body(&mut facts, &self.read, &asks.json, needed);
        } else if !whole && needed {
            opaque(
                &mut facts,
                format!("a rule asks for a field of its body, which is longer than {MAX_BODY} bytes"),
            );
        }
        let session = &conversation.session;
        let digest = digest(&DigestParts {
            method: head.method,
            scheme: head.scheme,
            authority: head.authority,
            target: head.target,
            headers: head.headers,
            body: if whole { Ok(&self.read) } else { Err(id) },
            role: &session.upstream_user,
            registered: session.target.name.as_str(),
            principal: &session.principal.id,
        });
        let (text, normalized) = head.text(&facts, whole.then_some(&*self.read));
        operation(conversation, id, facts, (text, normalized), digest, masked)
    }
}

fn operation(
    conversation: &Conversation,
    id: OperationId,
    facts: HttpFacts,
    (text, normalized): (String, String),
    digest: lockgate_model::operation::Digest,
    masked: bool,
) -> Operation {
    // What is written to a masked resource may be what is masked of it.
    let touches_masked = masked && !matches!(facts.body, HttpBody::None);
    Operation {
        id,
        session: conversation.session.id,
        facts: Arc::new(Facts::Http(facts)),
        text: text.into(),
        normalized: normalized.into(),
        parameters: Arc::default(),
        digest,
        context: Arc::new(SqlContext {
            role: conversation.session.upstream_user.clone(),
            ..SqlContext::default()
        }),
        touches_masked,
    }
}

/// A request that cannot be read, as far as it is known.
pub(super) fn unread(conversation: &Conversation, id: OperationId, why: &str) -> Operation {
    let head = Head {
        method: "-",
        scheme: conversation.scheme,
        authority: "",
        target: "/",
        headers: &[],
        body: HttpBody::None,
        upgrade: None,
    };
    let mut facts = head.facts(&Default::default());
    facts.opaque_reason = None;
    opaque(&mut facts, why.to_owned());
    let digest = digest(&DigestParts {
        method: "-",
        scheme: conversation.scheme,
        authority: "",
        target: why,
        headers: &[],
        body: Err(id),
        role: &conversation.session.upstream_user,
        registered: conversation.session.target.name.as_str(),
        principal: &conversation.session.principal.id,
    });
    let text = format!("a request that was not read: {why}");
    operation(conversation, id, facts, (text.clone(), text), digest, false)
}

/// What Connection may name: fields that never reach the origin, whatever it says. Naming another one has it removed on the way
/// (RFC 9110 §7.6.1), so that a rule would have seen what the origin does not.
const HOPS: [&str; 9] = [
    "close",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "transfer-encoding",
    "http2-settings",
    "proxy-connection",
    "proxy-authorization",
];

fn names_hops_alone(parts: &request::Parts) -> bool {
    let fields = parts.headers.get_all(header::CONNECTION).iter();
    fields.map(|field| field.as_bytes()).all(|field| {
        field
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .all(|name| name.is_empty() || HOPS.iter().any(|hop| name.eq_ignore_ascii_case(hop.as_bytes())))
    })
}

/// Why a request is not served. HTTP/1.1 has passed the guard; what HTTP/2 frames otherwise is looked at here.
fn wrong(
    parts: &request::Parts,
    named: Option<&str>,
    host: Option<&str>,
    target: &str,
) -> Option<&'static str> {
    if parts.method == Method::CONNECT {
        return Some("CONNECT is not served: lockgate is no forward proxy");
    }
    if parts.method == Method::TRACE {
        return Some("TRACE is not served: its answer would show the credential that lockgate sends");
    }
    if named.is_some_and(|named| named.contains('@')) {
        return Some("the authority has a user");
    }
    if parts.headers.get_all(header::HOST).iter().count() > 1 {
        return Some("there is more than one Host field");
    }
    if let (Some(named), Some(host)) = (named, host)
        && !named.eq_ignore_ascii_case(host)
    {
        return Some("the authority and the Host field name different hosts");
    }
    if named.is_none() && host.is_none() && parts.version != Version::HTTP_10 {
        return Some("no host is named");
    }
    if !(target.starts_with('/') || target == "*" && parts.method == Method::OPTIONS) {
        return Some("the path does not begin with `/`");
    }
    if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Some("there is more than one Content-Length");
    }
    if !names_hops_alone(parts) {
        return Some(
            "Connection names a field of the request, which would be taken away after it was judged",
        );
    }
    if parts.version == Version::HTTP_2 {
        // RFC 9113 §8.2.2; some stacks let pass what a downgrade to HTTP/1.1 would make a second framing of.
        let connection = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
        if connection.iter().any(|name| parts.headers.contains_key(*name)) {
            return Some("an HTTP/2 request has a field that belongs to HTTP/1.1's connections");
        }
    }
    None
}

/// The protocol that a request asks to go on in: WebSocket. Others are not offered to origins, which may ignore them.
fn wanted_upgrade(parts: &request::Parts) -> Option<String> {
    if parts.version != Version::HTTP_11 {
        return None;
    }
    let listed = parts.headers.get_all(header::CONNECTION).iter().any(|value| {
        let mut options = value.to_str().unwrap_or_default().split(',');
        options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
    });
    let protocol = parts.headers.get(header::UPGRADE)?.to_str().ok()?;
    (listed && protocol.eq_ignore_ascii_case("websocket")).then(|| protocol.to_ascii_lowercase())
}
