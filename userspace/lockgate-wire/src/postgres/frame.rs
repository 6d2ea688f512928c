//! Splits a read buffer into messages by their headers, with bounded lengths and without copying.
//!
//! It does not interpret bodies. The session calls [`FrameDecoder::next`] for messages it must see whole, and
//! [`FrameDecoder::peek`] for those it may relay in bulk.

use super::error::{Side, WireError};
use bytes::{Buf, Bytes, BytesMut};

/// A statement of this size is far beyond what people and ORMs send, and 64 sessions of it still fit a small host.
pub const MAX_CLIENT_MESSAGE: usize = 16 * 1024 * 1024;
/// The largest server message that is held whole (a row to be masked, a row description). Others are relayed by header.
pub const MAX_SERVER_MESSAGE: usize = 64 * 1024 * 1024;
/// The largest message the server itself sends or takes: PQ_LARGE_MESSAGE_LIMIT = MaxAllocSize - 1 (libpq/libpq.h).
pub const MAX_RELAYED_MESSAGE: usize = 0x3fff_fffe;
/// MAX_STARTUP_PACKET_LENGTH (libpq/pqcomm.h).
pub const MAX_STARTUP_PACKET: usize = 10_000;

/// Bounds on what a peer may announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one message that is buffered whole, type byte included.
    pub max_message: usize,
    /// Bytes of one message that is only passed through, type byte included.
    pub max_relayed: usize,
    /// Bytes of one startup-family packet.
    pub max_startup: usize,
}

impl Limits {
    /// The bounds for what a client sends.
    pub const CLIENT: Limits = Limits {
        max_message: MAX_CLIENT_MESSAGE,
        max_relayed: MAX_RELAYED_MESSAGE,
        max_startup: MAX_STARTUP_PACKET,
    };
    /// The bounds for what a server sends.
    pub const SERVER: Limits = Limits {
        max_message: MAX_SERVER_MESSAGE,
        max_relayed: MAX_RELAYED_MESSAGE,
        max_startup: MAX_STARTUP_PACKET,
    };

    /// The bounds for `side`.
    pub const fn for_side(side: Side) -> Limits {
        match side {
            Side::Client => Limits::CLIENT,
            Side::Server => Limits::SERVER,
        }
    }
}

/// Type byte and length of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    tag: u8,
    body_len: usize,
}

impl FrameHeader {
    /// Bytes of a header: type byte and Int32 length (§55.7: the length counts itself, not the type byte).
    pub const SIZE: usize = 5;

    /// Reads a header; `Ok(None)` while fewer than five bytes are there.
    pub fn decode(bytes: &[u8]) -> Result<Option<FrameHeader>, WireError> {
        let [tag, a, b, c, d, ..] = *bytes else { return Ok(None) };
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length) {
            Ok(length) if length >= 4 => Ok(Some(FrameHeader { tag, body_len: length - 4 })),
            _ => Err(WireError::LengthTooSmall { what: "message", minimum: 4, got: i64::from(length) }),
        }
    }

    /// The type byte.
    pub const fn tag(self) -> u8 {
        self.tag
    }

    /// Bytes after the header.
    pub const fn body_len(self) -> usize {
        self.body_len
    }

    /// Bytes of the whole message, header included.
    pub const fn total_len(self) -> usize {
        Self::SIZE + self.body_len
    }
}

/// One whole message as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    tag: u8,
    /// Header and body; a slice of the read buffer.
    bytes: Bytes,
}

impl Frame {
    /// Takes exactly one whole message.
    pub fn from_bytes(bytes: Bytes) -> Result<Frame, WireError> {
        match FrameHeader::decode(&bytes)? {
            None => {
                Err(WireError::Truncated { what: "message", expected: FrameHeader::SIZE, got: bytes.len() })
            }
            Some(header) if bytes.len() < header.total_len() => {
                Err(WireError::Truncated { what: "message", expected: header.total_len(), got: bytes.len() })
            }
            Some(header) if bytes.len() > header.total_len() => {
                Err(WireError::TrailingBytes { what: "message", extra: bytes.len() - header.total_len() })
            }
            Some(header) => Ok(Frame { tag: header.tag, bytes }),
        }
    }

    /// The type byte.
    pub const fn tag(&self) -> u8 {
        self.tag
    }

    /// The whole message, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole message, header included.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// What follows the header; shares the buffer.
    pub fn body(&self) -> Bytes {
        let mut body = self.bytes.clone();
        // A Frame always holds a whole header; `min` keeps this total without saying so twice.
        body.advance(FrameHeader::SIZE.min(body.len()));
        body
    }
}

/// Takes whole messages off the front of a read buffer.
#[derive(Debug, Clone, Copy)]
pub struct FrameDecoder {
    limits: Limits,
}

impl FrameDecoder {
    /// A decoder with the given bounds.
    pub const fn new(limits: Limits) -> Self {
        FrameDecoder { limits }
    }

    /// The bounds in force.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes the next message off `buffer` without copying it; `Ok(None)` while it is incomplete.
    ///
    /// A length beyond `max_message` is an error as soon as the header is there, before the body is waited for.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(header) = FrameHeader::decode(buffer)? else { return Ok(None) };
        check(header.total_len(), self.limits.max_message)?;
        if buffer.len() < header.total_len() {
            return Ok(None);
        }
        let bytes = buffer.split_to(header.total_len()).freeze();
        Ok(Some(Frame { tag: header.tag, bytes }))
    }

    /// Reads the next header and leaves `buffer` alone: for messages that are relayed without being held whole.
    pub fn peek(&self, buffer: &[u8]) -> Result<Option<FrameHeader>, WireError> {
        let Some(header) = FrameHeader::decode(buffer)? else { return Ok(None) };
        check(header.total_len(), self.limits.max_relayed)?;
        Ok(Some(header))
    }

    /// How many more bytes [`FrameDecoder::next`] needs at least (never more than `max_message`); 0 when it is ready.
    pub fn missing(&self, buffer: &[u8]) -> Result<usize, WireError> {
        match FrameHeader::decode(buffer)? {
            None => Ok(FrameHeader::SIZE - buffer.len()),
            Some(header) => {
                check(header.total_len(), self.limits.max_message)?;
                Ok(header.total_len().saturating_sub(buffer.len()))
            }
        }
    }
}

fn check(got: usize, limit: usize) -> Result<(), WireError> {
    if got > limit {
        return Err(WireError::LengthTooLarge { what: "message", limit, got });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: FrameDecoder =
        FrameDecoder::new(Limits { max_message: 16, max_relayed: 64, max_startup: 32 });

    #[test]
    fn splits_by_length_and_reports_bad_lengths_before_the_body_comes() {
        #[track_caller]
        fn check(input: &[u8], expected: Result<Option<&[u8]>, WireError>) {
            let mut buffer = BytesMut::from(input);
            let got = TINY.next(&mut buffer).map(|f| f.map(Frame::into_bytes));
            assert_eq!(got, expected.map(|f| f.map(Bytes::copy_from_slice)));
        }
        check(b"", Ok(None));
        check(b"Q\0\0\0", Ok(None));
        check(b"Q\0\0\0\x06a", Ok(None));
        check(b"Q\0\0\0\x06a\0", Ok(Some(b"Q\0\0\0\x06a\0")));
        check(b"S\0\0\0\x04S\0\0\0\x04", Ok(Some(b"S\0\0\0\x04")));
        check(b"Q\0\0\0\x03", Err(WireError::LengthTooSmall { what: "message", minimum: 4, got: 3 }));
        check(b"Q\xff\xff\xff\xff", Err(WireError::LengthTooSmall { what: "message", minimum: 4, got: -1 }));
        check(
            b"Q\x40\0\0\0",
            Err(WireError::LengthTooLarge { what: "message", limit: 16, got: (1 << 30) + 1 }),
        );
        check(b"Q\0\0\0\x10", Err(WireError::LengthTooLarge { what: "message", limit: 16, got: 17 }));
        check(b"Q\0\0\0\x0f", Ok(None));
    }

    #[test]
    fn a_header_may_announce_more_than_is_buffered_whole() {
        let header = TINY.peek(b"d\0\0\0\x20").expect("within max_relayed").expect("complete header");
        assert_eq!((header.tag(), header.body_len(), header.total_len()), (b'd', 28, 33));
        assert_eq!(
            TINY.peek(b"d\0\0\0\x40"),
            Err(WireError::LengthTooLarge { what: "message", limit: 64, got: 65 })
        );
    }

    #[test]
    fn a_frame_shares_the_read_buffer() {
        let mut buffer = BytesMut::from(&b"Q\0\0\0\x06a\0"[..]);
        let at = buffer.as_ptr();
        let frame = TINY.next(&mut buffer).expect("valid").expect("complete");
        assert_eq!(frame.bytes().as_ptr(), at);
        assert_eq!(&frame.body()[..], b"a\0");
    }

    #[test]
    fn missing_never_asks_for_more_than_the_bound() {
        assert_eq!(TINY.missing(b"Q\0"), Ok(3));
        assert_eq!(TINY.missing(b"Q\0\0\0\x0f"), Ok(11));
        assert_eq!(TINY.missing(b"Q\0\0\0\x04"), Ok(0));
        assert!(TINY.missing(b"Q\x3f\xff\xff\xff").is_err());
    }
}
