//! The origin's answer on its way to the client: masked where policy says so, counted, recorded once.
//!
//! Bodies stream: one piece at a time is in memory. What cannot be masked does not pass.

use super::{
    exchange::{Conversation, strip},
    origin::{Answered, Kept},
    problem,
    trailers::Trailing,
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use lockgate_inspect::http::{Filter, ResponseMask, Unmaskable};
use lockgate_model::{
    DecisionId, OperationId,
    event::EventKind,
    id::RuleId,
    outcome::{Outcome, OutcomeStatus},
    verdict::{Denial, DenialCause},
};
use std::{
    convert::Infallible,
    error::Error,
    pin::Pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// Why a body ends before its end.
pub(super) type Broken = Box<dyn Error + Send + Sync>;

/// A body, as it is sent to either side.
pub(super) type Payload = UnsyncBoxBody<Bytes, Broken>;

/// A body that is all there.
pub(super) fn full(bytes: impl Into<Bytes>) -> Payload {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What was read of a body, and then the rest of it.
pub(super) fn prefixed(read: Bytes, rest: Trailing<Incoming>) -> Payload {
    Prefixed { read: Some(read).filter(|read| !read.is_empty()), rest }.boxed_unsync()
}

struct Prefixed {
    read: Option<Bytes>,
    rest: Trailing<Incoming>,
}

impl Body for Prefixed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(read) = self.read.take() {
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, Bytes::len) as u64;
        let rest = self.rest.size_hint();
        let mut both = SizeHint::new();
        both.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            both.set_upper(upper.saturating_add(read));
        }
        both
    }
}

/// What becomes of one permitted request. Its outcome is recorded once, however it ends.
pub(super) struct Relay {
    conversation: Arc<Conversation>,
    operation: OperationId,
    decision: DecisionId,
    began: Instant,
    /// How many more bytes may pass, and the rule that says so.
    allowance: Option<(u64, RuleId)>,
    status: OutcomeStatus,
    bytes: u64,
    masked: u64,
}

impl Relay {
    pub(super) fn begin(
        conversation: Arc<Conversation>,
        operation: OperationId,
        decision: DecisionId,
        allowance: Option<(u64, RuleId)>,
    ) -> Self {
        let (status, began) = (OutcomeStatus::Broken, Instant::now());
        Self { conversation, operation, decision, began, allowance, status, bytes: 0, masked: 0 }
    }

    /// There is no answer.
    pub(super) fn broken(self) {}

    /// Counts what passes; false when a limit cuts it.
    fn passes(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if let Some((left, rule)) = &mut self.allowance {
            if bytes > *left {
                let denial = Denial {
                    rule: Some(rule.clone()),
                    cause: DenialCause::Limit,
                    reason: "the answer is longer than policy lets through".to_owned(),
                    remedy: Some("ask for less".to_owned()),
                };
                let (operation, decision) = (self.operation, self.decision);
                let cut = EventKind::ResultCut { operation, decision, denial, rows: 0, bytes: self.bytes };
                self.conversation.with_gate(|gate| gate.note(cut));
                return false;
            }
            *left -= bytes;
        }
        self.bytes += bytes;
        true
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some((_, rule)) = &self.allowance {
            let mut spent = self.conversation.spent.lock().unwrap_or_else(PoisonError::into_inner);
            *spent.entry(rule.clone()).or_default() += self.bytes;
        }
        let outcome = Outcome {
            status: self.status.clone(),
            rows: 0,
            bytes_out: self.bytes,
            bytes_in: 0,
            masked_fields: self.masked,
            elapsed_micros: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        let responded = EventKind::Responded { operation: self.operation, outcome };
        self.conversation.with_gate(|gate| {
            gate.note(responded);
            gate.submit_notes();
        });
    }
}

/// Turns the origin's answer into the client's.
pub(super) fn answer(
    conversation: &Arc<Conversation>,
    mut relay: Relay,
    answered: Response<Answered>,
    mask: Option<Arc<ResponseMask>>,
    client_upgrade: Option<OnUpgrade>,
) -> Response<Payload> {
    let (mut parts, answered) = answered.into_parts();
    let (body, kept) = answered.into_parts();
    let status = parts.status.as_u16();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return match (client_upgrade, parts.extensions.remove::<OnUpgrade>()) {
            (Some(client), Some(origin)) => {
                relay.status = OutcomeStatus::Responded { status };
                tunnel(conversation, relay, client, origin, kept);
                // hyper reads on with what the client sends behind its handshake: nothing of it is a request any more.
                conversation.traffic.upgraded.store(true, Ordering::Relaxed);
                parts.extensions.clear();
                Response::from_parts(parts, full(Bytes::new()))
            }
            (_, _) => problem::unavailable(relay.decision, "the target switched to another protocol unasked"),
        };
    }
    strip(&mut parts.headers);
    parts.headers.remove(problem::DECISION);
    parts.extensions.clear();
    let filter = match (&mask, is_empty(&parts, body.as_ref())) {
        (None, _) | (_, true) => None,
        (Some(mask), false) => {
            let text = |name| {
                parts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            let (kind, coding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
            match mask.filter(status, kind.as_deref(), coding.as_deref()) {
                Ok(filter) => filter,
                Err(why) => return withheld(conversation, relay, &why),
            }
        }
    };
    if mask.is_some() {
        // What is said of the raw body is not said of the masked one.
        for name in [header::ETAG, header::ACCEPT_RANGES, header::CONTENT_RANGE] {
            parts.headers.remove(name);
        }
        for name in ["content-md5", "digest", "repr-digest", "content-digest"] {
            parts.headers.remove(name);
        }
    }
    if filter.is_some() {
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::CONTENT_ENCODING);
    } else if mask.is_some() && is_empty(&parts, body.as_ref()) {
        // Of an answer to HEAD: how long the raw body is.
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    relay.status = OutcomeStatus::Responded { status };
    let Some(body) = body else { return Response::from_parts(parts, full(Bytes::new())) };
    let mut body = Relayed { body, filter, kept, relay, finished: false };
    if body.is_end_stream() {
        body.finish();
    }
    parts.version = hyper::Version::HTTP_11;
    Response::from_parts(parts, body.boxed_unsync())
}

/// Whether the answer has no body that could show anything.
fn is_empty(parts: &hyper::http::response::Parts, body: Option<&Incoming>) -> bool {
    matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || body.is_none_or(|body| body.is_end_stream())
}

/// An answer that cannot be masked.
fn withheld(conversation: &Conversation, mut relay: Relay, why: &Unmaskable) -> Response<Payload> {
    let denial = Denial {
        rule: None,
        cause: DenialCause::Masking,
        reason: format!("the target's answer is withheld, it could carry masked values: {why}"),
        remedy: Some("ask for JSON, or have the rule's mask say `on_unknown_lineage: pass`".to_owned()),
    };
    tracing::info!(session = %conversation.session.id, %why, "an answer is withheld");
    let (operation, decision) = (relay.operation, relay.decision);
    let cut = EventKind::ResultCut { operation, decision, denial: denial.clone(), rows: 0, bytes: 0 };
    conversation.with_gate(|gate| gate.note(cut));
    relay.status = OutcomeStatus::Broken;
    let mut answer = problem::denied(decision, &denial);
    *answer.status_mut() = StatusCode::BAD_GATEWAY;
    answer
}

/// Both sides go on in another protocol; bytes are moved and counted until one of them ends.
fn tunnel(
    conversation: &Arc<Conversation>,
    relay: Relay,
    client: OnUpgrade,
    origin: OnUpgrade,
    kept: Option<Kept>,
) {
    let deadline = conversation.drain.deadline.clone();
    conversation.tunnels.spawn(async move {
        let mut relay = relay;
        let _driver = kept.map(Kept::into_driver);
        let (Ok(client), Ok(origin)) = (client.await, origin.await) else { return };
        let (mut client, mut origin) = (TokioIo::new(client), TokioIo::new(origin));
        tokio::select! {
            moved = tokio::io::copy_bidirectional(&mut client, &mut origin) => {
                if let Ok((_, out)) = moved {
                    relay.bytes = out;
                }
            }
            () = deadline.cancelled() => {}
        }
    });
}

/// A body on its way.
struct Relayed {
    body: Incoming,
    filter: Option<Filter>,
    kept: Option<Kept>,
    relay: Relay,
    finished: bool,
}

impl Relayed {
    fn masked(&mut self, data: Option<&[u8]>) -> Result<Bytes, Unmaskable> {
        let mut out = BytesMut::new();
        if let Some(filter) = &mut self.filter {
            match data {
                Some(data) => filter.feed(data, &mut out)?,
                None => filter.finish(&mut out)?,
            }
            self.relay.masked = filter.masked();
        }
        Ok(out.freeze())
    }

    /// The body has been read to its end.
    fn finish(&mut self) {
        self.finished = true;
        if let Some(kept) = self.kept.take() {
            self.relay.conversation.origin.keep(kept);
        }
    }

    /// The answer breaks off: its head has been sent, so no status can say why.
    fn cut(&mut self, why: impl Into<Broken>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.finished = true;
        self.kept = None;
        self.relay.status = OutcomeStatus::Broken;
        Poll::Ready(Some(Err(why.into())))
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if this.finished {
                return Poll::Ready(None);
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return this.cut(error),
                None => {
                    let rest = match this.masked(None) {
                        Ok(rest) => rest,
                        Err(error) => return this.cut(error),
                    };
                    this.finish();
                    if rest.is_empty() {
                        return Poll::Ready(None);
                    }
                    if !this.relay.passes(rest.len()) {
                        return this.cut("policy lets no more of this answer through");
                    }
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
            };
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    // Trailers: gRPC's status. Under a mask they could carry anything.
                    if this.filter.is_some() {
                        continue;
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            };
            let data = match this.filter.is_some() {
                false => data,
                true => match this.masked(Some(&data)) {
                    Ok(masked) => masked,
                    Err(error) => {
                        tracing::info!(session = %this.relay.conversation.session.id, %error, "an answer that cannot be masked is cut");
                        return this.cut(error);
                    }
                },
            };
            if data.is_empty() {
                continue;
            }
            if !this.relay.passes(data.len()) {
                return this.cut("policy lets no more of this answer through");
            }
            if this.is_end_stream() {
                this.finish();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.filter.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.filter.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}
