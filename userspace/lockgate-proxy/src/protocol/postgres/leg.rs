//! One leg of a session: a stream, what was read from it and not yet understood, what is to be written and has not left.
//!
//! Everything is polled, so that one task moves both legs in both directions at once and nothing is lost when a wait is
//! dropped. It knows no protocol.

use crate::read::poll_read_small;
use bytes::{Buf, Bytes, BytesMut};
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, sleep},
};

/// Slices handed to one vectored write.
const WRITE_SLICES: usize = 16;
/// Runs shorter than this are copied behind one another: a copy is cheaper than one more slice in every write.
const COPY_BELOW: usize = 2048;

/// Bytes that wait to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl OutQueue {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.len + self.tail.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where small messages are encoded.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends a run of bytes: large ones are shared, small ones copied.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPY_BELOW {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        self.seal();
        self.len += bytes.len();
        self.chunks.push_back(bytes);
    }

    /// Moves the first `count` bytes of `buffer` behind what waits.
    pub(crate) fn take_from(&mut self, buffer: &mut BytesMut, count: usize) {
        if count == 0 {
            return;
        }
        let run = buffer.split_to(count.min(buffer.len()));
        if run.len() < COPY_BELOW {
            self.tail.extend_from_slice(&run);
        } else {
            self.push(run.freeze());
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.len += self.tail.len();
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; WRITE_SLICES]) -> usize {
        let waiting = self.chunks.iter().map(|chunk| &chunk[..]).chain(std::iter::once(&self.tail[..]));
        let mut used = 0;
        for (slot, bytes) in slices.iter_mut().zip(waiting.filter(|bytes| !bytes.is_empty())) {
            *slot = IoSlice::new(bytes);
            used += 1;
        }
        used
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(first) = self.chunks.front_mut() else {
                self.tail.advance(count.min(self.tail.len()));
                return;
            };
            let step = count.min(first.len());
            first.advance(step);
            self.len -= step;
            count -= step;
            if first.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

/// A stream with its buffers.
pub(crate) struct Leg<S> {
    stream: S,
    /// Read and not yet understood.
    pub(crate) input: BytesMut,
    /// To be written.
    pub(crate) output: OutQueue,
    /// The peer closed its side.
    pub(crate) ended: bool,
    /// Bytes written so far.
    pub(crate) written: u64,
    /// Bytes read so far.
    pub(crate) read: u64,
    stall: Duration,
    unflushed: bool,
    /// Armed while bytes wait and none leaves.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Leg<S> {
    /// A leg over `stream`, with what was read from it already. A peer that takes no byte for `stall` has failed.
    pub(crate) fn new(stream: S, input: BytesMut, stall: Duration) -> Self {
        let output = OutQueue::default();
        Self {
            stream,
            input,
            output,
            ended: false,
            written: 0,
            read: 0,
            stall,
            unflushed: false,
            stalled: None,
        }
    }

    /// Reads once. Ready when bytes came or the peer closed its side.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Pending;
        }
        let count = ready!(poll_read_small(&mut self.stream, cx, &mut self.input))?;
        self.read += count as u64;
        self.ended = count == 0;
        Poll::Ready(Ok(()))
    }

    /// Writes what waits. Ready when nothing is left to write; an error when the peer took nothing for too long.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut moved = false;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
            let used = self.output.slices(&mut slices);
            let slices = slices.get(..used).unwrap_or_default();
            // One slice is the rule, and a plain write is the cheaper call.
            let stream = Pin::new(&mut self.stream);
            let wrote = match slices {
                [one] => stream.poll_write(cx, one),
                many => stream.poll_write_vectored(cx, many),
            };
            match wrote {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.output.advance(count);
                    self.written += count as u64;
                    moved = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_stall(cx, moved),
            }
        }
        self.stalled = None;
        if moved || self.unflushed {
            // TLS keeps records of its own; for a socket this is nothing.
            self.unflushed = true;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything that waits, at most for `limit`, then closes. For the end of a session.
    pub(crate) async fn farewell(&mut self, limit: Duration) {
        let leave = async {
            if poll_fn(|cx| self.poll_drain(cx)).await.is_ok() {
                let _ = self.stream.shutdown().await;
            }
        };
        let _ = tokio::time::timeout(limit, leave).await;
    }

    /// Writes everything that waits.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Reads once.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The stream and what was read from it.
    pub(crate) fn stream_ref(&self) -> &S {
        &self.stream
    }

    /// The stream, and what was read and not understood.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.input)
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<io::Result<()>> {
        let stall = self.stall;
        let timer = match &mut self.stalled {
            Some(timer) => {
                if moved {
                    timer.as_mut().reset(Instant::now() + stall);
                }
                timer
            }
            none => none.insert(Box::pin(sleep(stall))),
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the peer took no byte for {} s", stall.as_secs()),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_is_queued_leaves_in_order_whatever_its_size() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut leg = Leg::new(near, BytesMut::new(), Duration::from_secs(1));
        let mut expected = Vec::new();
        for (index, size) in [1_usize, 5_000, 10, 0, 2_048, 2_047, 70_000].into_iter().enumerate() {
            let piece = vec![index as u8; size];
            expected.extend_from_slice(&piece);
            leg.output.push(piece.into());
            leg.output.tail().extend_from_slice(b"|");
            expected.push(b'|');
        }
        assert_eq!(leg.output.len(), expected.len());
        let mut got = vec![0; expected.len()];
        let (wrote, read) = tokio::join!(leg.drain(), far.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert!(got == expected);
        assert!(leg.output.is_empty());
        assert_eq!(leg.written, expected.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_fails_after_the_bound() {
        let (near, _far) = tokio::io::duplex(10);
        let mut leg = Leg::new(near, BytesMut::new(), Duration::from_secs(60));
        leg.output.push(vec![0; 100].into());
        let began = Instant::now();
        let error = leg.drain().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
    }
}
