//! Reading a little at a time without keeping room for it: sessions are many and mostly idle, and what one of them is sent
//! is short. Bulk is read where it is kept, by whoever knows that it is bulk.

use crate::limits::SMALL_READ;
use bytes::BytesMut;
use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Reads once, at most [`SMALL_READ`] bytes, behind what `buffer` holds; 0 is the end. It grows by what was read.
pub(crate) fn poll_read_small<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut room = [const { MaybeUninit::<u8>::uninit() }; SMALL_READ];
    let mut read = ReadBuf::uninit(&mut room);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn what_is_read_stands_behind_what_was_there_and_takes_no_more_room() {
        let mut stream = &[b'x'; SMALL_READ + 3][..];
        let mut buffer = BytesMut::from(&b"ab"[..]);
        let mut sizes = Vec::new();
        for _ in 0..3 {
            sizes.push(poll_fn(|cx| poll_read_small(&mut stream, cx, &mut buffer)).await.unwrap());
        }
        assert_eq!((sizes, buffer.len()), (vec![SMALL_READ, 3, 0], SMALL_READ + 5));
        let mut short = &b"Q"[..];
        let mut buffer = BytesMut::new();
        poll_fn(|cx| poll_read_small(&mut short, cx, &mut buffer)).await.unwrap();
        assert!(buffer.capacity() < 64, "{}", buffer.capacity());
    }
}
