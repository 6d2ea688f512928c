//! One request and its answer.

use super::{
    MadeMask,
    answer::{self, Payload, Relay, full},
    client::{REFUSED, Traffic, Version},
    judge, origin, problem,
    read::{Asked, Depth, unread},
    trailers::{Refused, Trailing},
};
use crate::{drain::Drain, gate::Gate, settings::HttpSettings};
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    http::Uri,
};
use lockgate_inspect::http::ResponseMask;
use lockgate_model::{
    id::RuleId,
    operation::Operation,
    session::{Mode, Session},
    verdict::{Denial, DenialCause, Effect, LimitScope},
};
use lockgate_policy::permit::{Cleared, permit};
use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};
use tokio_util::task::TaskTracker;

/// What all requests of one connection share.
pub(super) struct Conversation {
    pub(super) session: Arc<Session>,
    /// Never locked across a wait.
    pub(super) gate: Mutex<Gate>,
    pub(super) origin: origin::Origin,
    pub(super) settings: Arc<HttpSettings>,
    /// What is injected, read once a connection.
    pub(super) injected: tokio::sync::OnceCell<Vec<(HeaderName, HeaderValue)>>,
    /// `http` or `https`: how the client came.
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    pub(super) traffic: Arc<Traffic>,
    pub(super) mask: MadeMask,
    /// Bytes that limits per session have let through, by rule.
    pub(super) spent: Mutex<HashMap<RuleId, u64>>,
    /// Connections that went on in another protocol.
    pub(super) tunnels: TaskTracker,
    /// The client's socket, to see whether it is still there.
    pub(super) watched: Option<OwnedFd>,
    /// When it must end.
    pub(super) drain: Drain,
}

impl Conversation {
    pub(super) fn with_gate<T>(&self, act: impl FnOnce(&mut Gate) -> T) -> T {
        act(&mut self.gate.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an answer must go through.
    fn response_mask(&self, cleared: &Cleared) -> Option<Arc<ResponseMask>> {
        match self.session.target.mode {
            Mode::Enforce => {}
            // Decided and recorded, not acted on.
            Mode::Shadow | Mode::Observe => return None,
        }
        let spec = cleared.obligations().mask.as_ref()?;
        let mut made = self.mask.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, mask)) = &*made
            && known == spec
        {
            return Some(mask.clone());
        }
        let keys = self.with_gate(|gate| gate.ports.mask_keys.load_full());
        let mask = Arc::new(ResponseMask::of(spec, &keys)?);
        *made = Some((spec.clone(), mask.clone()));
        Some(mask)
    }

    /// The target's credential, as fields.
    async fn credential(&self) -> Result<&[(HeaderName, HeaderValue)], String> {
        let read = || async { self.settings.fields().await.map_err(|error| error.to_string()) };
        self.injected.get_or_try_init(read).await.map(Vec::as_slice)
    }

    /// How many more bytes of this answer limits let through, and the rule that says so.
    fn allowance(&self, cleared: &Cleared) -> Option<(u64, RuleId)> {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = cleared.obligations().limits.iter();
        let left = limits.filter_map(|limit| {
            let bytes = limit.bytes?;
            let used = match limit.per {
                LimitScope::Statement => 0,
                LimitScope::Session => spent.get(&limit.rule).copied().unwrap_or(0),
            };
            Some((bytes.saturating_sub(used), limit.rule.clone()))
        });
        left.min()
    }
}

/// Answers one request.
pub(super) async fn answer(conversation: Arc<Conversation>, request: Request<Incoming>) -> Response<Payload> {
    conversation.traffic.operations.fetch_add(1, Ordering::Relaxed);
    let id = conversation.with_gate(|gate| gate.operation_id());
    if let Some(violation) = conversation.traffic.violation()
        && request.uri().path() == REFUSED
    {
        return refuse_unread(&conversation, id, &violation.to_string()).await;
    }
    let mut asked = match Asked::of(request) {
        Ok(asked) => asked,
        Err((_, why)) => return refuse_unread(&conversation, id, why).await,
    };
    let asks = conversation.with_gate(|gate| gate.http_asks());
    let operation = asked.operation(&conversation, id, &asks, Depth::default());
    let has_body = asked.rest.is_some();
    let (depth, held) = match has_body {
        false => (Depth::default(), false),
        true => conversation.with_gate(|gate| {
            let foreseen = gate.foresee(&operation);
            let masked = foreseen.obligations.mask.is_some();
            let depth = Depth { needed: gate.asks_body(&operation), masked };
            (depth, matches!(foreseen.effect, Effect::Hold(_)))
        }),
    };
    // What people approve is what will be sent. A client that waits for 100 Continue is told to go on only when somebody
    // has decided; unless a rule cannot be judged without its body.
    let operation = if depth.needed || held && !asked.expects_continue() {
        match asked.read_body().await {
            Ok(_whole) => asked.operation(&conversation, id, &asks, depth),
            Err(why) => {
                let why = conversation.traffic.violation().map_or(why, |violation| violation.to_string());
                return refuse_unread(&conversation, id, &why).await;
            }
        }
    } else {
        operation
    };
    let operation = Arc::new(operation);
    let verdict = conversation.with_gate(|gate| gate.evaluate(&operation));
    let cleared = match judge::judge(&conversation, &operation, verdict).await {
        Ok(cleared) => cleared,
        Err((decision, denial)) => return problem::denied(decision, &denial),
    };
    forward(&conversation, asked, operation, cleared).await
}

/// Refuses what cannot be read as a request, with 400, and records it.
async fn refuse_unread(
    conversation: &Conversation,
    id: lockgate_model::OperationId,
    why: &str,
) -> Response<Payload> {
    let operation = Arc::new(unread(conversation, id, why));
    let denial = Denial {
        rule: None,
        cause: DenialCause::Unsupported,
        reason: why.to_owned(),
        remedy: Some("send requests that have one reading only (RFC 9112)".to_owned()),
    };
    let verdict = conversation.with_gate(|gate| gate.evaluate(&operation)).refused(denial.clone());
    let (decision, denial) = judge::refuse(conversation, &operation, verdict, denial).await;
    let mut answer = problem::denied(decision, &denial);
    if conversation.version == Version::One {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// Sends a cleared request on, once it is recorded.
async fn forward(
    conversation: &Arc<Conversation>,
    mut asked: Asked,
    operation: Arc<Operation>,
    cleared: Cleared,
) -> Response<Payload> {
    let decision = cleared.verdict().decision;
    let mask = conversation.response_mask(&cleared);
    if mask.is_some()
        && let Some(reason) = unmaskable(&asked)
    {
        let rule = cleared.obligations().mask.as_ref().and_then(|mask| mask.rules.first().cloned());
        let denial = Denial {
            rule,
            cause: DenialCause::Masking,
            reason: reason.to_owned(),
            remedy: Some("ask for the whole resource, without Range and without another protocol".to_owned()),
        };
        let verdict = cleared.verdict().clone().refused(denial.clone());
        let (decision, denial) = judge::refuse(conversation, &operation, verdict, denial).await;
        return problem::denied(decision, &denial);
    }
    let allowance = conversation.allowance(&cleared);
    let upgrade = asked.upgrade.take();
    let client_upgrade =
        upgrade.is_some().then(|| asked.parts.extensions.remove::<hyper::upgrade::OnUpgrade>());
    let request = match request(conversation, asked, upgrade.as_deref(), mask.is_some()).await {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(%error, target = %conversation.session.target.name, "a request cannot be made for the target");
            let denial = judge::unavailable(&error);
            let verdict = cleared.verdict().clone().refused(denial.clone());
            let (decision, denial) = judge::refuse(conversation, &operation, verdict, denial).await;
            return problem::denied(decision, &denial);
        }
    };
    let (now, recorder) = conversation.with_gate(|gate| (gate.now(), gate.recorder()));
    let permit =
        match permit(&*recorder, now, vec![cleared], Vec::new(), (conversation.version, request)).await {
            Ok(permit) => permit,
            Err(error) => {
                tracing::error!(%error, "a request is refused, its record failed");
                let denial = Denial {
                    rule: None,
                    cause: DenialCause::RecordFailed,
                    reason: error.to_string(),
                    remedy: Some("try again when lockgate's log can be written".to_owned()),
                };
                return problem::denied(decision, &denial);
            }
        };
    let relay = Relay::begin(conversation.clone(), operation.id, decision, allowance);
    match conversation.origin.send(permit).await {
        Ok(answered) => answer::answer(conversation, relay, answered, mask, client_upgrade.flatten()),
        Err(error) => {
            tracing::warn!(%error, target = %conversation.session.target.name, "the target did not answer");
            relay.broken();
            problem::unavailable(decision, &error.to_string())
        }
    }
}

/// What cannot be asked of a masked resource.
fn unmaskable(asked: &Asked) -> Option<&'static str> {
    if asked.upgrade.is_some() {
        return Some("what is masked here cannot be masked in a WebSocket");
    }
    if asked.parts.headers.contains_key(header::RANGE) {
        return Some("parts of a masked resource are not served");
    }
    None
}

/// The request as the origin gets it: without what belongs to the client's connection, with the target's credential.
async fn request(
    conversation: &Conversation,
    asked: Asked,
    upgrade: Option<&str>,
    masked: bool,
) -> Result<Request<Payload>, String> {
    let Asked { mut parts, target, authority, read, rest, .. } = asked;
    let expects_body = rest.is_some() || !read.is_empty();
    if upgrade.is_some() && expects_body {
        return Err("a request for another protocol has a body".to_owned());
    }
    strip(&mut parts.headers);
    for name in &conversation.settings.remove {
        parts.headers.remove(name);
    }
    for (name, value) in conversation.credential().await? {
        parts.headers.insert(name, value.clone());
    }
    if masked {
        // What lockgate would have to undo is not asked for.
        parts.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        parts.headers.remove(header::IF_RANGE);
    }
    if let Some(upgrade) = upgrade {
        let value = HeaderValue::from_str(upgrade).map_err(|error| error.to_string())?;
        parts.headers.insert(header::UPGRADE, value);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    join_cookies(&mut parts.headers);
    // HTTP/1.0 knows no host: then it is the address that was dialled.
    let authority =
        if authority.is_empty() { conversation.session.flow.original_dst.to_string() } else { authority };
    let host = HeaderValue::from_str(&authority).map_err(|error| error.to_string())?;
    parts.headers.insert(header::HOST, host);
    parts.uri = Uri::builder().path_and_query(target).build().map_err(|error| error.to_string())?;
    // hyper frames the body anew, by the length that it has.
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = match rest {
        Some(rest) => {
            let injected = conversation.credential().await?.iter().map(|(name, _)| name);
            let own = conversation.settings.remove.iter().chain(injected).cloned().collect();
            let asks = conversation.with_gate(|gate| gate.http_asks());
            answer::prefixed(read, Trailing::new(rest, Refused { asks, own }))
        }
        None => full(read),
    };
    parts.extensions.clear();
    Ok(Request::from_parts(parts, body))
}

/// Removes what is said to the next hop only (RFC 9110 §7.6.1). `TE: trailers` stays: gRPC asks for it.
pub(super) fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        // Naming a field of the message there would have it taken away behind the decision's back.
        if !matches!(name, header::HOST | header::AUTHORIZATION | header::COOKIE | header::CONTENT_TYPE) {
            headers.remove(name);
        }
    }
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove("http2-settings");
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// HTTP/2 sends cookies in crumbs (RFC 9113 §8.2.3); HTTP/1.1 has one field.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}
