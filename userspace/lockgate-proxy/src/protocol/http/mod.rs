//! HTTP/1.1 and HTTP/2: from the first byte of a client to the end of its connection.
//!
//! ```text
//! serve ─ TLS or not, which version ─▶ client (strict framing) ─▶ hyper ─▶ exchange, one a request
//!   exchange: read (facts, digest)  judge (may it pass? wait for people)  origin (send the permit)  answer (mask, record)
//! ```
//!
//! Every request is an operation of its own, also on a kept connection and on streams of one HTTP/2 connection side by
//! side. Not a byte of it goes upstream before its permit: the head is sent with it, and the body is not pulled before.
//! CONNECT and TRACE are refused; HTTP/3 is not spoken, so clients fall back.

mod answer;
mod client;
mod exchange;
mod judge;
mod origin;
mod problem;
mod read;
mod trailers;

use super::{Arrival, postgres};
use crate::{
    Shared,
    gate::Gate,
    limits::{FAREWELL_TIME, HTTP_IDLE, HTTP_STREAMS},
    report::{Ending, FlowReport},
    session::{self, Opening},
    settings::TargetSettings,
    tls::Negotiation,
};
use client::{Client, Version, Wire};
use exchange::Conversation;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lockgate_inspect::http::ResponseMask;
use lockgate_model::{flow::Flow, outcome::CloseReason, session::ClientClaims};
use std::{
    convert::Infallible,
    os::fd::AsFd,
    pin::pin,
    sync::{Arc, Mutex, atomic::Ordering},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;

/// A mask that was made of what policy asked for, for as long as it asks for the same.
type MadeMask = Mutex<Option<(lockgate_model::verdict::MaskSpec, Arc<ResponseMask>)>>;

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, stream: TcpStream, arrival: Arrival, mut report: FlowReport) {
    let Arrival { flow, target, stranger: _ } = arrival;
    // The process may exit at any moment: it is looked at while the client is still saying hello.
    let workload = AbortOnDropHandle::new(tokio::spawn(postgres::identify(shared.clone(), flow.clone())));
    let watched = stream.as_fd().try_clone_to_owned();
    let greeted = match timeout(shared.limits.handshake_time, greet(stream, &flow, &target)).await {
        Ok(greeted) => greeted,
        Err(_) => {
            let limit = shared.limits.handshake_time;
            Err(Ending::because(CloseReason::LimitReached, format!("no request began within {limit:?}")))
        }
    };
    let (client, scheme) = match greeted {
        Ok(greeted) => greeted,
        Err(ending) => return report.end(ending),
    };
    let workload = match workload.await {
        Ok(Ok(workload)) => workload,
        Ok(Err(error)) | Err(error) => {
            let ending = Ending::because(CloseReason::Internal, format!("attribution failed: {error}"));
            return report.end(ending);
        }
    };
    let opening = Opening {
        node: shared.node.clone(),
        flow,
        workload,
        caller: None,
        target: target.target.clone(),
        client: ClientClaims::default(),
        upstream_user: target.credential.user().to_owned(),
        client_tls: scheme == "https",
    };
    let session = Arc::new(session::open(opening, &*shared.ports.ambient));
    let masked = shared.ports.policy.load().masks_for(&session).is_some();
    if let Err(error) = report.session_started(&session, masked).await {
        tracing::error!(%error, "a connection is refused, its record failed");
        return report.end(Ending::because(CloseReason::Refused, error.to_string()));
    }
    tracing::info!(session = %session.id, principal = %session.principal.id, target = %session.target.name, "session started");
    let seat = shared.live.seat(session.id, &shared.drain.deadline, || {});
    let traffic = client.traffic();
    let conversation = Arc::new(Conversation {
        gate: Mutex::new(Gate::new(session.clone(), shared.ports.clone())),
        origin: origin::Origin::of(&shared, &target, &session),
        scheme,
        version: client.version(),
        traffic: traffic.clone(),
        mask: MadeMask::default(),
        spent: Mutex::default(),
        tunnels: tokio_util::task::TaskTracker::new(),
        watched: watched.ok(),
        settings: target.http.clone(),
        injected: tokio::sync::OnceCell::new(),
        drain: shared.drain.of(seat.kill()),
        session,
    });
    let ending = converse(client, &conversation).await;
    conversation.tunnels.close();
    tokio::select! {
        () = conversation.tunnels.wait() => {}
        () = conversation.drain.deadline.cancelled() => {}
    }
    report.counters.operations = traffic.operations.load(Ordering::Relaxed);
    report.counters.bytes_from_client = traffic.from_client.load(Ordering::Relaxed);
    report.counters.bytes_to_client = traffic.to_client.load(Ordering::Relaxed);
    report.end(ending);
}

/// Finds out whether the client speaks TLS, and which version of HTTP.
async fn greet(
    stream: TcpStream,
    flow: &Flow,
    target: &TargetSettings,
) -> Result<(Client, &'static str), Ending> {
    let gone = |error: std::io::Error| Ending::because(CloseReason::ClientClosed, error.to_string());
    let mut first = [0];
    if stream.peek(&mut first).await.map_err(gone)? == 0 {
        return Err(Ending::plain(CloseReason::ClientClosed));
    }
    // A TLS record of the type handshake (RFC 8446 §5.1); no HTTP method begins so.
    if first != [0x16] {
        let mut client = Client::new(Wire::Plain(stream));
        client.find_version().await.map_err(gone)?;
        return Ok((client, "http"));
    }
    let Some(tls) = &target.client_tls else {
        let mut stream = stream;
        crate::tls::refuse_direct(&mut stream).await;
        let detail =
            "the client speaks TLS, and the target has no client_tls: what cannot be read is not passed on";
        return Err(Ending::because(CloseReason::Refused, detail));
    };
    let dialled = flow.original_dst.addr().ip();
    let accepted = tls
        .accept(stream, b"", Negotiation::Http { plain: !origin::is_encrypted(target) }, dialled)
        .await
        .map_err(|error| Ending::because(CloseReason::ClientProtocolError, error.to_string()))?;
    let h2 = accepted.stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let mut client = Client::new(Wire::Tls(Box::new(accepted.stream)));
    if h2 {
        client.is_h2();
    } else {
        client.find_version().await.map_err(|error| match accepted.disliked {
            Some(disliked) => Ending::because(CloseReason::ClientClosed, disliked.to_string()),
            None => gone(error),
        })?;
    }
    Ok((client, "https"))
}

/// Answers requests until the client goes, or lockgate drains.
async fn converse(client: Client, conversation: &Arc<Conversation>) -> Ending {
    let answering = conversation.clone();
    let service = service_fn(move |request| {
        let exchange = exchange::answer(answering.clone(), request);
        async move { Ok::<_, Infallible>(exchange.await) }
    });
    let (draining, deadline) = (conversation.drain.draining.clone(), conversation.drain.deadline.clone());
    let violation = client.violation();
    let version = client.version();
    let io = TokioIo::new(client);
    macro_rules! run {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            let mut told = false;
            loop {
                tokio::select! {
                    ended = connection.as_mut() => break Some(ended),
                    () = draining.cancelled(), if !told => {
                        told = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    () = deadline.cancelled() => {
                        let _ = timeout(FAREWELL_TIME, connection.as_mut()).await;
                        break None;
                    }
                }
            }
        }};
    }
    let ended = match version {
        Version::One => run!(
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HTTP_IDLE)
                // A client that has said all it wants may close its side; one that waits for people is watched by itself.
                .half_close(true)
                .max_buf_size(lockgate_wire::http::MAX_HEAD + 8 * 1024)
                .serve_connection(io, service)
                .with_upgrades()
        ),
        Version::Two => run!(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(HTTP_STREAMS)
                .max_header_list_size(u32::try_from(lockgate_wire::http::MAX_HEAD).unwrap_or(u32::MAX))
                .keep_alive_interval(HTTP_IDLE)
                .serve_connection(io, service)
        ),
    };
    if let Some(violation) = violation.seen() {
        return Ending::because(CloseReason::ClientProtocolError, violation.to_string());
    }
    match ended {
        None => conversation.drain.ending().1,
        Some(Ok(())) if draining.is_cancelled() => Ending::plain(CloseReason::Drained),
        Some(Ok(())) => Ending::plain(CloseReason::ClientClosed),
        Some(Err(error)) if error.is_timeout() => {
            Ending::because(CloseReason::LimitReached, error.to_string())
        }
        Some(Err(error)) if error.is_parse() => {
            Ending::because(CloseReason::ClientProtocolError, error.to_string())
        }
        Some(Err(error)) => Ending::because(CloseReason::ClientClosed, error.to_string()),
    }
}
