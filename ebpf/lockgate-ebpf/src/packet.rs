//! Addresses and ports of a packet, without the kernel: compiled into the BPF object and, on the host, into the unit
//! tests of lockgate-intercept.
//!
//! Reads no more than it takes to know where the packet goes. What cannot be read says so, and is not guessed.

use crate::decide::{End, Packet};
use lockgate_ebpf_common::{Address, V4_MAPPED, protocol};

/// IPv6 extension headers that are walked (RFC 8200 knows seven, each at most once but one).
const MAX_EXTENSIONS: u32 = 8;

/// The bytes of a packet. Numbers come in network byte order, as they lie there.
pub trait Bytes {
    /// One byte.
    fn byte(&self, at: u32) -> Option<u8>;
    /// Two bytes.
    fn half(&self, at: u32) -> Option<u16>;
    /// Four bytes.
    fn word(&self, at: u32) -> Option<u32>;
}

/// Reads the IP packet that begins at `at`.
#[inline(always)]
pub fn read<B: Bytes>(bytes: &B, at: u32) -> Packet {
    let packet = match bytes.byte(at).map(|first| first >> 4) {
        Some(4) => v4(bytes, at),
        Some(6) => v6(bytes, at),
        Some(_) | None => None,
    };
    packet.unwrap_or(Packet::Unreadable)
}

/// RFC 791, section 3.1.
#[inline(always)]
fn v4<B: Bytes>(bytes: &B, at: u32) -> Option<Packet> {
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let header = u32::from(bytes.byte(at)? & 15) * 4;
    if u16::from_be(bytes.half(at + 6)?) & FRAGMENT_OFFSET != 0 {
        return Some(Packet::Portless);
    }
    let next = u32::from(bytes.byte(at + 9)?);
    let from = [0, 0, V4_MAPPED, bytes.word(at + 12)?];
    let to = [0, 0, V4_MAPPED, bytes.word(at + 16)?];
    ports(bytes, next, at + header, from, to)
}

/// RFC 8200, sections 3 and 4.
#[inline(always)]
fn v6<B: Bytes>(bytes: &B, at: u32) -> Option<Packet> {
    const FIXED: u32 = 40;
    let from = address(bytes, at + 8)?;
    let to = address(bytes, at + 24)?;
    let mut next = u32::from(bytes.byte(at + 6)?);
    let mut here = at + FIXED;
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        match extension(bytes, next, here)? {
            Extension::None => return ports(bytes, next, here, from, to),
            Extension::Rest => return Some(Packet::Portless),
            Extension::Length(length) => {
                next = u32::from(bytes.byte(here)?);
                here += length;
            }
        }
        walked += 1;
    }
    None
}

enum Extension {
    /// Not an extension header.
    None,
    /// A fragment that is not the first.
    Rest,
    /// Its length.
    Length(u32),
}

#[inline(always)]
fn extension<B: Bytes>(bytes: &B, kind: u32, at: u32) -> Option<Extension> {
    const HOP_BY_HOP: u32 = 0;
    const ROUTING: u32 = 43;
    const FRAGMENT: u32 = 44;
    const AUTHENTICATION: u32 = 51;
    const DESTINATION: u32 = 60;
    const MOBILITY: u32 = 135;
    Some(match kind {
        HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => {
            Extension::Length(u32::from(bytes.byte(at + 1)?) * 8 + 8)
        }
        // RFC 4302, section 2.2: in words of four bytes, less two.
        AUTHENTICATION => Extension::Length(u32::from(bytes.byte(at + 1)?) * 4 + 8),
        FRAGMENT if u16::from_be(bytes.half(at + 2)?) >> 3 != 0 => Extension::Rest,
        FRAGMENT => Extension::Length(8),
        _ => Extension::None,
    })
}

#[inline(always)]
fn address<B: Bytes>(bytes: &B, at: u32) -> Option<Address> {
    Some([bytes.word(at)?, bytes.word(at + 4)?, bytes.word(at + 8)?, bytes.word(at + 12)?])
}

#[inline(always)]
fn ports<B: Bytes>(bytes: &B, next: u32, at: u32, from: Address, to: Address) -> Option<Packet> {
    match next {
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP => {
            let port = |at: u32| Some(u32::from(u16::from_be(bytes.half(at)?)));
            Some(Packet::Ports {
                from: End { address: from, port: port(at)? },
                to: End { address: to, port: port(at + 2)? },
            })
        }
        _ => Some(Packet::Portless),
    }
}
