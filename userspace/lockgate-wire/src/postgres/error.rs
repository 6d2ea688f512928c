//! What can be wrong with bytes or with their order. Every variant names what was expected and what came.

use std::fmt;

/// Which peer sent the bytes, and so who is to blame when they are wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The client (frontend).
    Client,
    /// The server (backend).
    Server,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Client => "client",
            Side::Server => "server",
        })
    }
}

/// A violation of the protocol. An incomplete message is not one: decoders answer `Ok(None)` to that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field runs past the end of its message.
    #[error("{what} needs {expected} bytes, the message has {got} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Bytes that the field needs.
        expected: usize,
        /// Bytes that were left.
        got: usize,
    },
    /// Bytes are left after the last field.
    #[error("{what} ends {extra} bytes before its length says")]
    TrailingBytes {
        /// The message.
        what: &'static str,
        /// How many bytes were left over.
        extra: usize,
    },
    /// A length field is smaller than the smallest legal one.
    #[error("{what} has length {got}, the smallest legal one is {minimum}")]
    LengthTooSmall {
        /// The message or field.
        what: &'static str,
        /// The smallest legal length.
        minimum: usize,
        /// The length as sent (it is signed on the wire).
        got: i64,
    },
    /// A length field exceeds the bound; nothing was allocated for it.
    #[error("{what} announces {got} bytes, the limit is {limit}")]
    LengthTooLarge {
        /// The message or field.
        what: &'static str,
        /// The bound in force.
        limit: usize,
        /// The announced length.
        got: usize,
    },
    /// A type byte that the protocol does not define for this direction.
    #[error("unknown {side} message type {} (0x{tag:02x})", printable(*tag))]
    UnknownTag {
        /// Who sent it.
        side: Side,
        /// The type byte.
        tag: u8,
    },
    /// A string has no terminating zero byte.
    #[error("{what} has no terminating zero byte")]
    MissingNul {
        /// The field.
        what: &'static str,
    },
    /// A string that is to be sent contains a zero byte.
    #[error("{what} contains a zero byte at offset {at}, the protocol cannot carry it")]
    InteriorNul {
        /// The field.
        what: &'static str,
        /// Offset of the zero byte.
        at: usize,
    },
    /// Text that must be UTF-8 is not.
    #[error("{what} is not valid UTF-8 after byte {valid_up_to}")]
    NotUtf8 {
        /// The field.
        what: &'static str,
        /// Length of the valid prefix.
        valid_up_to: usize,
    },
    /// A code outside its set.
    #[error("{what} is {got}, expected {expected}")]
    BadValue {
        /// The field.
        what: &'static str,
        /// The legal values.
        expected: &'static str,
        /// The value as sent.
        got: i64,
    },
    /// A message that is to be sent has more items than its count field can say.
    #[error("{what} has {got} items, the limit is {limit}")]
    TooMany {
        /// The list.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// How many there are.
        got: usize,
    },
    /// A TLS ClientHello where a startup packet belongs (`sslnegotiation=direct`, PostgreSQL 17).
    #[error(
        "the client opened with a TLS handshake; direct TLS is not offered, connect with sslnegotiation=postgres"
    )]
    DirectTls,
    /// The first bytes cannot be a startup packet.
    #[error("the first byte is 0x{first:02x}: this is not the PostgreSQL protocol")]
    NotPostgres {
        /// The first byte; a legal startup length begins with zero.
        first: u8,
    },
    /// A protocol major version other than 3.
    #[error("protocol {major}.{minor} is not supported, expected 3.x")]
    UnsupportedProtocol {
        /// Major version as sent.
        major: u16,
        /// Minor version as sent.
        minor: u16,
    },
    /// A legal message at the wrong moment.
    #[error("{side} sent {got}, expected {expected}")]
    Unexpected {
        /// Who sent it.
        side: Side,
        /// The message's name.
        got: &'static str,
        /// What could have come.
        expected: &'static str,
    },
}

impl WireError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            WireError::Truncated { .. } => "truncated",
            WireError::TrailingBytes { .. } => "trailing_bytes",
            WireError::LengthTooSmall { .. } => "length_too_small",
            WireError::LengthTooLarge { .. } => "length_too_large",
            WireError::UnknownTag { .. } => "unknown_tag",
            WireError::MissingNul { .. } => "missing_nul",
            WireError::InteriorNul { .. } => "interior_nul",
            WireError::NotUtf8 { .. } => "not_utf8",
            WireError::BadValue { .. } => "bad_value",
            WireError::TooMany { .. } => "too_many",
            WireError::DirectTls => "direct_tls",
            WireError::NotPostgres { .. } => "not_postgres",
            WireError::UnsupportedProtocol { .. } => "unsupported_protocol",
            WireError::Unexpected { .. } => "unexpected_message",
        }
    }

    /// The text a client may read. Wire errors carry names, lengths and type bytes, never content, so it is the same text.
    pub fn client_text(&self) -> String {
        self.to_string()
    }
}

fn printable(tag: u8) -> char {
    if tag.is_ascii_graphic() { char::from(tag) } else { '?' }
}
