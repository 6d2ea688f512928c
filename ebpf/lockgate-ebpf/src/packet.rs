//! Addresses and ports of a packet, without the kernel: compiled into the BPF object and, on the host, into the unit
//! tests of lockgate-intercept.
//!
//! Reads no more than it takes to know where the packet goes. What cannot be read says so, and is not guessed.

use crate::decide::{End, Packet};
use lockgate_ebpf_common::{Address, V4_MAPPED, protocol};

/// IPv6 extension headers that are walked (RFC 8200 knows seven, each at most once but one).
const MAX_EXTENSIONS: u32 = 8;

/// The bytes of a packet.
pub trait Bytes {
    /// So many of them. In the kernel each call is a helper's, so headers are taken whole.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;

    /// One byte.
    #[inline(always)]
    fn byte(&self, at: u32) -> Option<u8> {
        self.load::<1>(at).map(|[byte]| byte)
    }

    /// Two bytes as they lie there.
    #[inline(always)]
    fn half(&self, at: u32) -> Option<u16> {
        self.load(at).map(u16::from_ne_bytes)
    }

    /// Four bytes as they lie there.
    #[inline(always)]
    fn word(&self, at: u32) -> Option<u32> {
        self.load(at).map(u32::from_ne_bytes)
    }
}

/// Reads the IP packet that begins at `at`.
#[inline(always)]
pub fn read<B: Bytes>(bytes: &B, at: u32) -> Packet {
    // The shortest header there is.
    let Some(start) = bytes.load::<20>(at) else { return Packet::Unreadable };
    let packet = match start[0] >> 4 {
        4 => v4(bytes, at, &start),
        6 => v6(bytes, at),
        _ => None,
    };
    packet.unwrap_or(Packet::Unreadable)
}

/// RFC 791, section 3.1.
#[inline(always)]
fn v4<B: Bytes>(bytes: &B, at: u32, header: &[u8; 20]) -> Option<Packet> {
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0 {
        return Some(Packet::Portless);
    }
    let length = u32::from(header[0] & 15) * 4;
    let from = [0, 0, V4_MAPPED, word(header, 12)];
    let to = [0, 0, V4_MAPPED, word(header, 16)];
    ports(bytes, header[9], at + length, from, to)
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn v6<B: Bytes>(bytes: &B, at: u32) -> Option<Packet> {
    const FIXED: u32 = 40;
    let header = bytes.load::<40>(at)?;
    let address = |at: usize| -> Address {
        [word(&header, at), word(&header, at + 4), word(&header, at + 8), word(&header, at + 12)]
    };
    let (from, to) = (address(8), address(24));
    let mut next = header[6];
    let mut here = at + FIXED;
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        match extension(bytes, next, here)? {
            Extension::None => return ports(bytes, next, here, from, to),
            Extension::Rest => return Some(Packet::Portless),
            Extension::Length { next: after, bytes: length } => {
                next = after;
                here += length;
            }
        }
        walked += 1;
    }
    None
}

/// Four bytes as they lie there; `at` is a constant below the end.
#[inline(always)]
fn word(header: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

enum Extension {
    /// Not an extension header.
    None,
    /// A fragment that is not the first.
    Rest,
    /// What comes behind it, and its length.
    Length { next: u8, bytes: u32 },
}

#[inline(always)]
fn extension<B: Bytes>(bytes: &B, kind: u8, at: u32) -> Option<Extension> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    Some(match kind {
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => {
            let [next, words] = bytes.load(at)?;
            Extension::Length { next, bytes: u32::from(words) * 8 + 8 }
        }
        // RFC 4302, section 2.2: in words of four bytes, less two.
        AUTHENTICATION => {
            let [next, words] = bytes.load(at)?;
            Extension::Length { next, bytes: u32::from(words) * 4 + 8 }
        }
        FRAGMENT => {
            let [next, _, high, low] = bytes.load(at)?;
            match u16::from_be_bytes([high, low]) >> 3 {
                0 => Extension::Length { next, bytes: 8 },
                _ => Extension::Rest,
            }
        }
        _ => Extension::None,
    })
}

#[inline(always)]
fn ports<B: Bytes>(bytes: &B, next: u8, at: u32, from: Address, to: Address) -> Option<Packet> {
    match u32::from(next) {
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP => {
            let [a, b, c, d] = bytes.load(at)?;
            let port = |bytes| u32::from(u16::from_be_bytes(bytes));
            Some(Packet::Ports {
                from: End { address: from, port: port([a, b]) },
                to: End { address: to, port: port([c, d]) },
            })
        }
        _ => Some(Packet::Portless),
    }
}
