//! The client's connection as hyper reads it: HTTP/1.1 passes the guard first, HTTP/2 has a stack that is strict itself.
//!
//! What the guard refuses never reaches hyper. In its place comes one request of lockgate's own, so that the refusal is
//! answered in its turn behind what was asked before.

use crate::{limits::SMALL_READ, read::poll_read_small};
use bytes::{Buf, BytesMut};
use lockgate_wire::http::{Guard, Guarded, Violation};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

/// How a client of HTTP/2 with prior knowledge begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The target of the request that stands for one that was refused; it counts only where the guard has refused.
pub(super) const REFUSED: &str = "/lockgate-refused";
const REFUSED_REQUEST: &[u8] =
    b"GET /lockgate-refused HTTP/1.1\r\nHost: lockgate.invalid\r\nConnection: close\r\n\r\n";

/// TCP, or TLS over it.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Which HTTP the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// 1.1 or 1.0.
    One,
    /// 2.
    Two,
}

/// What a connection moved, for its closing record.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) operations: AtomicU64,
    pub(super) from_client: AtomicU64,
    pub(super) to_client: AtomicU64,
    /// The connection goes on in another protocol.
    pub(super) upgraded: AtomicBool,
    violation: Mutex<Option<Violation>>,
}

impl Traffic {
    /// What the guard has refused.
    pub(super) fn violation(&self) -> Option<Violation> {
        *self.violation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the guard of a connection has seen.
pub(super) struct Seen(Arc<Traffic>);

impl Seen {
    pub(super) fn seen(&self) -> Option<Violation> {
        self.0.violation()
    }
}

/// A client's connection.
pub(super) struct Client {
    wire: Wire,
    /// Read and not yet passed.
    buffer: BytesMut,
    /// None for HTTP/2.
    guard: Option<Guard>,
    /// Of the buffer, what may be read.
    passed: usize,
    /// The last word was given to hyper: nothing more is read.
    over: bool,
    traffic: Arc<Traffic>,
}

impl Client {
    pub(super) fn new(wire: Wire) -> Self {
        Self {
            wire,
            buffer: BytesMut::new(),
            guard: Some(Guard::default()),
            passed: 0,
            over: false,
            traffic: Arc::default(),
        }
    }

    pub(super) fn is_h2(&mut self) {
        self.guard = None;
    }

    pub(super) fn version(&self) -> Version {
        if self.guard.is_some() { Version::One } else { Version::Two }
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    pub(super) fn violation(&self) -> Seen {
        Seen(self.traffic.clone())
    }

    /// Reads until it is plain whether the client begins with the preface of HTTP/2.
    pub(super) async fn find_version(&mut self) -> io::Result<()> {
        loop {
            let known = self.buffer.len().min(PREFACE.len());
            if self.buffer.get(..known) != PREFACE.get(..known) {
                return Ok(());
            }
            if known == PREFACE.len() {
                self.is_h2();
                return Ok(());
            }
            if poll_fn(|cx| self.poll_more(cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = match &mut self.wire {
            Wire::Plain(stream) => ready!(poll_read_small(stream, cx, &mut self.buffer))?,
            Wire::Tls(stream) => ready!(poll_read_small(&mut **stream, cx, &mut self.buffer))?,
        };
        self.traffic.from_client.fetch_add(read as u64, Ordering::Relaxed);
        Poll::Ready(Ok(read))
    }

    /// Gives what has passed.
    fn give(&mut self, out: &mut ReadBuf<'_>) {
        let count = self.passed.min(self.buffer.len()).min(out.remaining());
        out.put_slice(self.buffer.get(..count).unwrap_or_default());
        self.buffer.advance(count);
        self.passed -= count;
    }

    fn refuse(&mut self, violation: Violation) {
        let mut seen = self.traffic.violation.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get_or_insert(violation);
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.passed > 0 && !this.buffer.is_empty() {
                this.give(out);
                return Poll::Ready(Ok(()));
            }
            if this.over {
                // The answer to the refusal ends the connection.
                return Poll::Pending;
            }
            let Some(guard) = &mut this.guard else {
                if this.buffer.is_empty() && ready!(this.poll_more(cx))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.passed = this.buffer.len();
                continue;
            };
            if this.traffic.upgraded.load(Ordering::Relaxed) {
                guard.upgraded();
            }
            match guard.handle(&this.buffer) {
                Guarded::Pass(bytes) => this.passed = bytes,
                Guarded::More => {
                    if ready!(this.poll_more(cx))? == 0 {
                        // What is left is half a head: nobody asked for anything with it.
                        return Poll::Ready(Ok(()));
                    }
                }
                Guarded::Refused(violation, true) => {
                    this.refuse(violation);
                    this.over = true;
                    this.buffer.clear();
                    this.buffer.extend_from_slice(REFUSED_REQUEST);
                    this.passed = this.buffer.len();
                }
                Guarded::Refused(violation, false) => {
                    this.refuse(violation);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
            }
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire {
            Wire::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, bytes))?,
            Wire::Tls(stream) => ready!(Pin::new(stream).poll_write(cx, bytes))?,
        };
        self.traffic.to_client.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.wire {
            Wire::Plain(stream) => ready!(Pin::new(stream).poll_write_vectored(cx, pieces))?,
            Wire::Tls(stream) => ready!(Pin::new(stream).poll_write_vectored(cx, pieces))?,
        };
        self.traffic.to_client.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

const _: () = assert!(SMALL_READ >= REFUSED_REQUEST.len());
