//! The target's leg: connect, verify, log in with the injected credential, and from then on send only what was permitted.
//!
//! [`connect`] opens a session and hands it over split in two: [`UpstreamReader`], and [`Upstream`], whose only ways to
//! send are a [`Permit`] by value and the closed list of [`Housekeeping`]. What the job calls itself and which password
//! it has never reach this module.
//!
//! It does not interpret the session's messages; the session does, with `lockgate_wire`'s automata.

mod authentication;
mod connect;
mod error;
mod login;
#[cfg(test)]
mod scripted;
mod writer;

pub use crate::credential::{Account, Credential};
pub(crate) use connect::open;
pub use connect::{Bounds, Endpoint, Origin, cancel, connect};
pub use error::UpstreamError;
pub use login::SessionRequest;
pub use writer::{Housekeeping, Upstream};

#[cfg(doc)]
use lockgate_policy::permit::Permit;

use crate::{limits::SMALL_READ, read::poll_read_small};
use bytes::BytesMut;
use lockgate_wire::postgres::backend::{BackendKeyData, ReportFields};
use lockgate_wire::postgres::{PgString, TransactionStatus};
use std::{future::poll_fn, io, time::Duration};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// TCP to a target on a network that works takes less than a second; SYN is sent again after 1, 3 and 7 s.
pub const DIAL_TIME: Duration = Duration::from_secs(10);
/// From the first byte to ReadyForQuery: TLS, login, and a server that is busy. PostgreSQL's own `authentication_timeout`
/// is 60 s; a client that waits longer than 30 s in connect has mostly given up.
pub const LOGIN_TIME: Duration = Duration::from_secs(30);
/// Bytes of one message before the session is open. libpq takes anything above 30,000 for garbage
/// (`fe-connect.c`, PQconnectPoll).
pub const MAX_LOGIN_MESSAGE: usize = 30_000;
/// Messages before ReadyForQuery: a dozen parameters, a few steps of authentication, a notice or two.
pub const MAX_LOGIN_MESSAGES: usize = 200;

/// A session that the target has opened.
#[derive(Debug)]
pub struct Connected {
    /// Sends.
    pub upstream: Upstream,
    /// Receives.
    pub reader: UpstreamReader,
    /// What the target reported of itself (`server_version`, `client_encoding`, …), in its order.
    pub parameters: Vec<(PgString, PgString)>,
    /// What a cancellation needs. The target may not support cancellation and send none.
    pub key: Option<BackendKeyData>,
    /// Notices of the login, for the client.
    pub notices: Vec<ReportFields>,
    /// The status of the first ReadyForQuery.
    pub status: TransactionStatus,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// The receiving half, with what has been read and not yet taken.
pub struct UpstreamReader {
    stream: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
}

impl UpstreamReader {
    fn new(stream: Box<dyn AsyncRead + Send + Unpin>, buffer: BytesMut) -> Self {
        Self { stream, buffer }
    }

    /// What has arrived; the session takes messages off its front.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Reads once, up to `chunk` bytes, behind what is there; 0 is the end. Cancel-safe. Room is kept for large chunks only.
    pub async fn fill(&mut self, chunk: usize) -> io::Result<usize> {
        if chunk <= SMALL_READ {
            let Self { stream, buffer, .. } = self;
            return poll_fn(|cx| poll_read_small(stream, cx, buffer)).await;
        }
        self.buffer.reserve(chunk);
        let mut limited = bytes::BufMut::limit(&mut self.buffer, chunk);
        self.stream.read_buf(&mut limited).await
    }
}

impl std::fmt::Debug for UpstreamReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamReader").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

/// A connection to the target, TCP or TLS over it.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
