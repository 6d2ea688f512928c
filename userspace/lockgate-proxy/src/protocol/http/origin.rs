//! The origin's side: connections that belong to one client's connection, and are given nothing but permits.
//!
//! HTTP/1.1 connections serve one request at a time and are kept when it is over; HTTP/2 needs one. Which of the two is
//! spoken follows the client: by ALPN over TLS, with prior knowledge where the client has it. A client over TLS is offered
//! HTTP/1.1 first where the target is reached in the clear, which most such targets speak alone.

use super::{answer::Payload, client::Version};
use crate::{
    Shared,
    limits::{HTTP_ORIGIN_IDLE, HTTP_STREAMS},
    protocol::postgres,
    settings::TargetSettings,
    upstream::{Credential, Endpoint, UpstreamError, open},
};
use hyper::{Request, Response, body::Incoming, client::conn, header, http::Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use lockgate_model::session::Session;
use lockgate_policy::permit::Permit;
use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// A target that was sent a request over a kept connection, and closed it at the same moment, is asked once more.
const TRIES: usize = 2;

/// How long a kept connection may take to be ready for the next request.
const READY_TIME: Duration = Duration::from_millis(200);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum OriginError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the target was not ready within {0:?}")]
    Slow(Duration),
    #[error("the target broke off: {0}")]
    Http(#[from] hyper::Error),
}

/// Whether lockgate speaks TLS to the target.
pub(super) fn is_encrypted(target: &TargetSettings) -> bool {
    target.upstream_tls.mode() != crate::tls::TlsMode::Disable
}

/// Where requests of one client's connection go.
pub(super) struct Origin {
    endpoint: Endpoint,
    credential: Credential,
    session: String,
    open_time: Duration,
    /// HTTP/1.1 connections that wait for a request.
    idle: Mutex<Vec<(One, Instant)>>,
    /// The HTTP/2 connection.
    two: tokio::sync::Mutex<Option<Two>>,
    /// The client speaks HTTP/2.
    wants_two: AtomicBool,
    /// How lockgate reaches it.
    scheme: &'static str,
}

struct One {
    sender: conn::http1::SendRequest<Payload>,
    driver: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Two {
    sender: conn::http2::SendRequest<Payload>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

enum Opened {
    One(One),
    Two(Two),
}

impl Origin {
    pub(super) fn of(shared: &Shared, target: &TargetSettings, session: &Session) -> Self {
        let from = postgres::origin(target, &session.flow, shared);
        let endpoint = postgres::endpoint(target, session.flow.original_dst).from(from);
        Self {
            endpoint,
            credential: target.credential.clone(),
            session: session.id.to_string(),
            open_time: shared.limits.open_time,
            idle: Mutex::default(),
            two: tokio::sync::Mutex::default(),
            wants_two: AtomicBool::new(false),
            scheme: if is_encrypted(target) { "https" } else { "http" },
        }
    }

    /// Sends what is permitted, and answers when the head of the answer is there.
    pub(super) async fn send(
        &self,
        permit: Permit<(Version, Request<Payload>)>,
    ) -> Result<Response<Answered>, OriginError> {
        let (version, mut request) = permit.into_payload();
        self.wants_two.store(version == Version::Two, Ordering::Relaxed);
        for tried in 1.. {
            let (opened, fresh) = self.take().await?;
            match self.send_on(opened, request).await {
                Ok(answered) => return Ok(answered),
                Err((error, Some(unsent))) if !fresh || tried < TRIES => {
                    tracing::debug!(%error, "a kept connection was closed by the target");
                    request = *unsent;
                    if tried > HTTP_STREAMS as usize {
                        return Err(error);
                    }
                }
                Err((error, _)) => return Err(error),
            }
        }
        Err(OriginError::Slow(self.open_time))
    }

    async fn send_on(
        &self,
        opened: Opened,
        mut request: Request<Payload>,
    ) -> Result<Response<Answered>, (OriginError, Option<Box<Request<Payload>>>)> {
        match opened {
            Opened::One(mut one) => {
                *request.version_mut() = hyper::Version::HTTP_11;
                let sent = one.sender.try_send_request(request).await;
                let answer = sent.map_err(|mut error| {
                    let unsent = error.take_message().map(Box::new);
                    (OriginError::Http(error.into_error()), unsent)
                })?;
                Ok(answer.map(|body| Answered { body: Some(body), connection: Some(one) }))
            }
            Opened::Two(mut two) => {
                self.absolute(&mut request).map_err(|error| (error, None))?;
                let sent = two.sender.try_send_request(request).await;
                let answer = sent.map_err(|mut error| {
                    let unsent = error.take_message().map(Box::new);
                    (OriginError::Http(error.into_error()), unsent)
                })?;
                Ok(answer.map(|body| Answered { body: Some(body), connection: None }))
            }
        }
    }

    /// HTTP/2 names scheme and authority in the request itself.
    fn absolute(&self, request: &mut Request<Payload>) -> Result<(), OriginError> {
        *request.version_mut() = hyper::Version::HTTP_2;
        let host = request.headers_mut().remove(header::HOST);
        let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(&self.endpoint.host);
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let uri = Uri::builder().scheme(self.scheme).authority(authority).path_and_query(target).build();
        if let Ok(uri) = uri {
            *request.uri_mut() = uri;
        }
        Ok(())
    }

    /// A connection that can take a request; true when it was opened just now.
    async fn take(&self) -> Result<(Opened, bool), OriginError> {
        if self.wants_two.load(Ordering::Relaxed) {
            let mut known = self.two.lock().await;
            if let Some(two) = known.as_ref().filter(|two| !two.sender.is_closed()) {
                return Ok((Opened::Two(two.clone()), false));
            }
            if let Some(one) = self.kept().await {
                return Ok((Opened::One(one), false));
            }
            let opened = self.dial(true).await?;
            if let Opened::Two(two) = &opened {
                *known = Some(two.clone());
            }
            return Ok((opened, true));
        }
        match self.kept().await {
            Some(one) => Ok((Opened::One(one), false)),
            None => Ok((self.dial(false).await?, true)),
        }
    }

    async fn kept(&self) -> Option<One> {
        loop {
            let (mut one, since) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() >= HTTP_ORIGIN_IDLE {
                continue;
            }
            // The end of the last answer was read; its connection knows a moment later.
            if let Ok(Ok(())) = timeout(READY_TIME, one.sender.ready()).await {
                return Some(one);
            }
        }
    }

    /// Takes a connection back whose answer has been read to its end.
    pub(super) fn keep(&self, one: Kept) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(one, since)| !one.sender.is_closed() && since.elapsed() < HTTP_ORIGIN_IDLE);
        if idle.len() < HTTP_STREAMS as usize {
            idle.push((one.0, Instant::now()));
        }
    }

    async fn dial(&self, two: bool) -> Result<Opened, OriginError> {
        match timeout(self.open_time, self.connect(two)).await {
            Ok(opened) => opened,
            Err(_) => Err(OriginError::Slow(self.open_time)),
        }
    }

    async fn connect(&self, two: bool) -> Result<Opened, OriginError> {
        let account = self.credential.account().await.map_err(UpstreamError::from)?;
        let offered: &[&[u8]] = if two { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let connection = open(&self.endpoint, &account, &self.session, offered).await?;
        // Without TLS nobody can be asked: the client knows beforehand what the target speaks.
        let two = match connection.encrypted {
            true => connection.protocol.as_deref() == Some(b"h2"),
            false => two,
        };
        let io = TokioIo::new(connection.stream);
        if two {
            let (sender, driver) = conn::http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(io)
                .await?;
            let driver = AbortOnDropHandle::new(tokio::spawn(async move {
                let _ = driver.await;
            }));
            return Ok(Opened::Two(Two { sender, _driver: Arc::new(driver) }));
        }
        let (sender, driver) = conn::http1::Builder::new().handshake(io).await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = driver.with_upgrades().await;
        }));
        Ok(Opened::One(One { sender, driver }))
    }
}

/// A connection that has answered, and may be kept.
pub(super) struct Kept(One);

/// An answer's body, with the connection that it comes from.
pub(super) struct Answered {
    body: Option<Incoming>,
    connection: Option<One>,
}

impl Answered {
    pub(super) fn into_parts(self) -> (Option<Incoming>, Option<Kept>) {
        (self.body, self.connection.map(Kept))
    }
}

impl Kept {
    /// For an upgrade: the connection outlives the exchange.
    pub(super) fn into_driver(self) -> AbortOnDropHandle<()> {
        self.0.driver
    }
}
