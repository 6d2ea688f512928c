//! The packets that open a connection. They have no type byte: a length, a code, and fields (§55.7 "StartupMessage",
//! "SSLRequest", "GSSENCRequest", "CancelRequest").
//!
//! It does not answer them; the session does.

use super::error::WireError;
use super::frame::Limits;
use super::reader::Reader;
use super::value::PgString;
use super::writer::Writer;
use bytes::{Bytes, BytesMut};

/// CancelRequest code: 1234 in the high half, 5678 in the low (§55.7).
pub const CANCEL_REQUEST_CODE: u32 = 80_877_102;
/// SSLRequest code: 1234, 5679 (§55.7).
pub const SSL_REQUEST_CODE: u32 = 80_877_103;
/// GSSENCRequest code: 1234, 5680 (§55.7).
pub const GSSENC_REQUEST_CODE: u32 = 80_877_104;
/// Prefix of protocol extensions among the startup parameters (§55.2.1).
pub const EXTENSION_PREFIX: &[u8] = b"_pq_.";
/// Length and code: the smallest packet there is.
const MIN_PACKET: usize = 8;
/// The content type of a TLS handshake record (RFC 8446 §5.1), which opens a direct TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;
/// A cancellation key has 4 bytes in protocol 3.0 and up to 256 in 3.2 (§55.7 "BackendKeyData").
pub const MAX_CANCEL_KEY: usize = 256;
/// The smallest cancellation key.
pub const MIN_CANCEL_KEY: usize = 4;

/// A protocol version of a StartupMessage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtocolVersion {
    /// Major version; only 3 is spoken.
    pub major: u16,
    /// Minor version: 0, or 2 since PostgreSQL 18.
    pub minor: u16,
}

impl ProtocolVersion {
    /// 3.0, spoken since PostgreSQL 7.4.
    pub const V3_0: ProtocolVersion = ProtocolVersion { major: 3, minor: 0 };
    /// 3.2, since PostgreSQL 18: longer cancellation keys.
    pub const V3_2: ProtocolVersion = ProtocolVersion { major: 3, minor: 2 };

    const fn code(self) -> u32 {
        (self.major as u32) << 16 | self.minor as u32
    }
}

/// What a client may send first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// Opens a session.
    Startup(StartupMessage),
    /// Asks for TLS; the answer is one byte, 'S' or 'N'.
    SslRequest,
    /// Asks for GSSAPI encryption; the answer is one byte, 'G' or 'N'.
    GssEncRequest,
    /// Asks to cancel what another connection runs; there is no answer.
    Cancel(CancelRequest),
}

impl StartupPacket {
    /// The protocol's name of the packet.
    pub fn name(&self) -> &'static str {
        match self {
            StartupPacket::Startup(_) => "StartupMessage",
            StartupPacket::SslRequest => "SSLRequest",
            StartupPacket::GssEncRequest => "GSSENCRequest",
            StartupPacket::Cancel(_) => "CancelRequest",
        }
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            StartupPacket::Startup(message) => message.encode(out),
            StartupPacket::SslRequest => Writer::untagged(out).u32(SSL_REQUEST_CODE).finish(),
            StartupPacket::GssEncRequest => Writer::untagged(out).u32(GSSENC_REQUEST_CODE).finish(),
            StartupPacket::Cancel(request) => request.encode(out),
        }
    }
}

/// Opens a session: who, where, and run-time parameters, in the order sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartupMessage {
    /// The version asked for.
    pub version: ProtocolVersion,
    /// Names and values, `user` among them.
    pub parameters: Vec<(PgString, PgString)>,
}

impl StartupMessage {
    /// The value of a parameter; the server takes the last one when a name comes twice, so this does too.
    pub fn parameter(&self, name: &str) -> Option<&PgString> {
        self.parameters.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// The role name that the client asked for.
    pub fn user(&self) -> Option<&PgString> {
        self.parameter("user")
    }

    /// The database asked for; the server takes the role's name when there is none.
    pub fn database(&self) -> Option<&PgString> {
        self.parameter("database").filter(|name| !name.is_empty()).or_else(|| self.user())
    }

    /// The `_pq_.` protocol extensions that the client asked for.
    pub fn extensions(&self) -> impl Iterator<Item = &(PgString, PgString)> {
        self.parameters.iter().filter(|(name, _)| name.as_bytes().starts_with(EXTENSION_PREFIX))
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        Writer::untagged(out)
            .u32(self.version.code())
            .each(&self.parameters, |w, (name, value)| w.string(name).string(value))
            .u8(0)
            .finish()
    }

    fn decode(code: u32, mut body: Reader) -> Result<Self, WireError> {
        let version = ProtocolVersion { major: (code >> 16) as u16, minor: code as u16 };
        if version.major != 3 {
            return Err(WireError::UnsupportedProtocol { major: version.major, minor: version.minor });
        }
        let mut parameters = Vec::new();
        loop {
            let name = body.string("startup parameter name")?;
            if name.is_empty() {
                break;
            }
            parameters.push((name, body.string("startup parameter value")?));
        }
        body.finish()?;
        Ok(StartupMessage { version, parameters })
    }
}

/// Asks the server to cancel what another connection runs.
#[derive(Clone, PartialEq, Eq)]
pub struct CancelRequest {
    /// Process id of that connection's backend.
    pub process_id: u32,
    /// Its secret key, 4 to 256 bytes.
    pub key: Bytes,
}

impl CancelRequest {
    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), WireError> {
        check_cancel_key(self.key.len())?;
        Writer::untagged(out).u32(CANCEL_REQUEST_CODE).u32(self.process_id).raw(&self.key).finish()
    }

    fn decode(mut body: Reader) -> Result<Self, WireError> {
        let process_id = body.u32("CancelRequest process id")?;
        let key = body.take_rest();
        check_cancel_key(key.len())?;
        Ok(CancelRequest { process_id, key })
    }
}

/// The key opens another session's cancellation: it stays out of logs.
impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

pub(super) fn check_cancel_key(len: usize) -> Result<(), WireError> {
    let what = "cancellation key";
    if len < MIN_CANCEL_KEY {
        return Err(WireError::LengthTooSmall { what, minimum: MIN_CANCEL_KEY, got: len as i64 });
    }
    if len > MAX_CANCEL_KEY {
        return Err(WireError::LengthTooLarge { what, limit: MAX_CANCEL_KEY, got: len });
    }
    Ok(())
}

/// Takes startup-family packets off the front of a read buffer.
#[derive(Debug, Clone, Copy)]
pub struct StartupDecoder {
    limits: Limits,
}

impl StartupDecoder {
    /// A decoder with the given bounds.
    pub const fn new(limits: Limits) -> Self {
        StartupDecoder { limits }
    }

    /// Takes the next packet; `Ok(None)` while it is incomplete. What cannot become a packet is told from the first byte.
    pub fn next(&self, buffer: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
        // Legal lengths are at most max_startup, so the first byte of a packet is zero.
        match buffer.first() {
            None => return Ok(None),
            Some(&TLS_HANDSHAKE) => return Err(WireError::DirectTls),
            Some(0) => {}
            Some(&first) => return Err(WireError::NotPostgres { first }),
        }
        let Some(&[a, b, c, d]) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < MIN_PACKET {
            return Err(WireError::LengthTooSmall {
                what: "startup packet",
                minimum: MIN_PACKET,
                got: length as i64,
            });
        }
        if length > self.limits.max_startup {
            return Err(WireError::LengthTooLarge {
                what: "startup packet",
                limit: self.limits.max_startup,
                got: length,
            });
        }
        if buffer.len() < length {
            return Ok(None);
        }
        decode_packet(buffer.split_to(length).freeze()).map(Some)
    }
}

fn decode_packet(packet: Bytes) -> Result<StartupPacket, WireError> {
    let mut body = Reader::new("startup packet", packet);
    body.u32("startup packet length")?;
    match body.u32("startup packet code")? {
        SSL_REQUEST_CODE => body.finish().map(|()| StartupPacket::SslRequest),
        GSSENC_REQUEST_CODE => body.finish().map(|()| StartupPacket::GssEncRequest),
        CANCEL_REQUEST_CODE => CancelRequest::decode(body).map(StartupPacket::Cancel),
        code => StartupMessage::decode(code, body).map(StartupPacket::Startup),
    }
}
