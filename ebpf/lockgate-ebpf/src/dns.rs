//! Answers of name servers, without the kernel: compiled into the BPF object and, on the host, into the unit tests of
//! lockgate-intercept.
//!
//! Reads what a governed process is about to learn of a name that is a target's: the addresses become protected for its
//! cgroup before the process has them. An answer can only add protection, never take any away, so nothing in it has to be
//! believed. What cannot be read of an answer about such a name is not let through: over TCP, one that does not lie in one
//! segment.

use crate::packet::Bytes;
use lockgate_ebpf_common::{Address, NAME_HASH_PRIME, NAME_HASH_START, V4_MAPPED, heard};

/// Longest name in a message (RFC 1035, section 2.3.4).
const MAX_NAME: u32 = 255;
/// Labels of an owner name that is not compressed; servers compress, and 127 is what fits.
const MAX_LABELS: u32 = 32;
/// Records of one answer; more do not fit into 512 bytes, and few more are ever sent.
pub const MAX_RECORDS: u32 = 48;

/// A question: whose answer it is, and where the records begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Of the name, in lower case.
    pub hash: u64,
    /// Records in the answer section.
    pub records: u32,
    /// Where the first one begins.
    pub at: u32,
}

/// One record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The address, if it is one.
    pub address: Option<Address>,
    /// How long it may be used, seconds.
    pub ttl: u32,
    /// Where the next one begins.
    pub next: u32,
}

/// What a packet from a name server's port carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Where it says it comes from.
    pub source: Address,
    /// Where its payload begins.
    pub at: u32,
    /// Its payload is part of a stream (RFC 7766): each message has its length before it.
    pub stream: bool,
}

/// Of a packet from a name server; `None` for other packets.
#[inline(always)]
pub fn envelope<B: Bytes>(bytes: &B) -> Option<Envelope> {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const UDP_HEADER: u32 = 8;
    const TCP_DATA_OFFSET: u32 = 12;
    let first = bytes.byte(0)?;
    let v4 = match first >> 4 {
        4 => true,
        6 => false,
        _ => return None,
    };
    // RFC 791, section 3.1; RFC 8200, section 3: no name server adds extension headers.
    let (transport, at) = if v4 { (bytes.byte(9)?, u32::from(first & 15) * 4) } else { (bytes.byte(6)?, 40) };
    if transport != TCP && transport != UDP || u32::from(u16::from_be(bytes.half(at)?)) != heard::NAME_SERVER
    {
        return None;
    }
    let source = if v4 {
        [0, 0, V4_MAPPED, bytes.word(12)?]
    } else {
        [bytes.word(8)?, bytes.word(12)?, bytes.word(16)?, bytes.word(20)?]
    };
    let header = match transport {
        // RFC 9293, section 3.1: words of four bytes, in the upper half.
        TCP => u32::from(bytes.byte(at + TCP_DATA_OFFSET)? >> 4) * 4,
        _ => UDP_HEADER,
    };
    Some(Envelope { source, at: at + header, stream: transport == TCP })
}

/// Where the messages of a segment begin: behind their lengths, or, when the length went in a segment of its own, at once.
/// A resolver asks for both kinds of addresses on one connection, so there may be two.
#[inline(always)]
pub fn messages<B: Bytes>(bytes: &B, envelope: &Envelope) -> [Option<u32>; MAX_MESSAGES] {
    const LENGTH: u32 = 2;
    let at = envelope.at;
    if !envelope.stream {
        return [Some(at), None, None];
    }
    let next = bytes.half(at).map(|length| at + LENGTH + u32::from(u16::from_be(length)));
    [Some(at + LENGTH), next.map(|next| next + LENGTH), Some(at)]
}

/// See [`messages`].
pub const MAX_MESSAGES: usize = 3;

/// The question of a response with one question (RFC 1035, section 4.1); `None` for everything else.
#[inline(always)]
pub fn question<B: Bytes>(bytes: &B, at: u32) -> Option<Question> {
    const RESPONSE: u8 = 0x80;
    const HEADER: u32 = 12;
    // Type and class.
    const FIXED: u32 = 4;
    if bytes.byte(at + 2)? & RESPONSE == 0 || u16::from_be(bytes.half(at + 4)?) != 1 {
        return None;
    }
    let records = u32::from(u16::from_be(bytes.half(at + 6)?));
    let (hash, end) = name(bytes, at + HEADER)?;
    Some(Question { hash, records, at: end + FIXED })
}

/// FNV-1a over the name as it is sent, letters in lower case (lengths are below 64, so no length is a letter).
#[inline(always)]
fn name<B: Bytes>(bytes: &B, at: u32) -> Option<(u64, u32)> {
    let mut hash = NAME_HASH_START;
    let mut left = 0u8;
    let mut length = 0;
    while length < MAX_NAME {
        let byte = bytes.byte(at + length)?;
        length += 1;
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(NAME_HASH_PRIME);
        if left > 0 {
            left -= 1;
            continue;
        }
        match byte {
            0 => return Some((hash, at + length)),
            1..=63 => left = byte,
            // A question's name is not compressed.
            _ => return None,
        }
    }
    None
}

/// The record at `at` (RFC 1035, section 4.1.3); `None` when it cannot be read.
#[inline(always)]
pub fn record<B: Bytes>(bytes: &B, at: u32) -> Option<Record> {
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let at = skip_name(bytes, at)?;
    let kind = u16::from_be(bytes.half(at)?);
    let ttl = u32::from_be(bytes.word(at + 4)?);
    let length = u16::from_be(bytes.half(at + 8)?);
    let data = at + 10;
    let address = match (kind, length) {
        (A, 4) => Some([0, 0, V4_MAPPED, bytes.word(data)?]),
        (AAAA, 16) => {
            Some([bytes.word(data)?, bytes.word(data + 4)?, bytes.word(data + 8)?, bytes.word(data + 12)?])
        }
        _ => None,
    };
    Some(Record { address, ttl, next: data + u32::from(length) })
}

#[inline(always)]
fn skip_name<B: Bytes>(bytes: &B, mut at: u32) -> Option<u32> {
    const POINTER: u8 = 0xc0;
    let mut labels = 0;
    while labels < MAX_LABELS {
        let byte = bytes.byte(at)?;
        if byte & POINTER == POINTER {
            return Some(at + 2);
        }
        at += u32::from(byte) + 1;
        if byte == 0 {
            return Some(at);
        }
        labels += 1;
    }
    None
}
