//! Addresses that cannot be mistaken for one another.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The client's side of the accepted connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientAddr(pub SocketAddr);

/// Where the client wanted to go, canonical: v4-mapped is IPv4, unspecified is loopback.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OriginalDst(SocketAddr);

impl OriginalDst {
    /// Canonicalises: `::ffff:a.b.c.d` → `a.b.c.d`, `0.0.0.0`/`::` → loopback (the kernel does the same on connect).
    pub fn new(addr: SocketAddr) -> Self {
        let ip = match addr.ip().to_canonical() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        Self(SocketAddr::new(ip, addr.port()))
    }

    /// The canonical address.
    pub fn addr(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for OriginalDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address the proxy dials.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpstreamAddr(pub SocketAddr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn original_destinations_are_canonical() {
        for (input, expected) in [
            ("10.0.0.1:5432", "10.0.0.1:5432"),
            ("[::ffff:10.0.0.1]:5432", "10.0.0.1:5432"),
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("[::ffff:0.0.0.0]:1", "127.0.0.1:1"),
        ] {
            assert_eq!(OriginalDst::new(input.parse().unwrap()).to_string(), expected);
        }
    }
}
