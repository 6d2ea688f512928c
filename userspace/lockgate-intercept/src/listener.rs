//! The listeners that governed connections are redirected to: 127.0.0.1 and, where IPv6 is on, `::1`.
//!
//! No SO_REUSEPORT: with it a process of the same uid could join the group.

use crate::{
    error::{Doing as _, InterceptError},
    sys,
};
use rustix::fd::AsFd as _;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::HashMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

/// Connections that may wait for accept; the kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Ports that are tried before giving up on finding a free one.
const PORT_ATTEMPTS: u16 = 64;

/// Both listeners on one port.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) v4: TcpListener,
    /// Absent where IPv6 is switched off.
    pub(crate) v6: Option<TcpListener>,
    pub(crate) port: u16,
}

impl Listeners {
    /// On a given port.
    pub(crate) fn bind(port: u16) -> Result<Self, InterceptError> {
        let v4 = listen(IpAddr::V4(Ipv4Addr::LOCALHOST), port)?;
        let v6 = match listen(IpAddr::V6(Ipv6Addr::LOCALHOST), port) {
            Ok(listener) => Some(listener),
            Err(InterceptError::Io { source, .. }) if is_no_ipv6(&source) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6, port })
    }

    /// On a free port outside the range of ephemeral ports, so that no outgoing connection of
    /// anybody sits on it when the agent starts again.
    pub(crate) fn bind_any() -> Result<Self, InterceptError> {
        let mut last = None;
        for port in candidates(ephemeral_range(), std::process::id()) {
            match Self::bind(port) {
                Err(error @ InterceptError::PortTaken { .. }) => last = Some(error),
                other => return other,
            }
        }
        Err(last.unwrap_or(InterceptError::PortTaken { address: Ipv4Addr::LOCALHOST.into(), port: 0 }))
    }

    /// Those of an earlier agent, by the network namespace (its cookie) that they live in. What is not on `port`, or
    /// not on loopback, is none of them, and is dropped.
    pub(crate) fn adopt(kept: Vec<TcpListener>, port: u16) -> HashMap<u64, Self> {
        let mut v4 = HashMap::new();
        let mut v6 = HashMap::new();
        for listener in kept {
            let Ok(cookie) = sys::netns_cookie(listener.as_fd()) else { continue };
            match listener.local_addr() {
                Ok(address) if address == SocketAddr::from((Ipv4Addr::LOCALHOST, port)) => {
                    v4.insert(cookie, listener);
                }
                Ok(address) if address == SocketAddr::from((Ipv6Addr::LOCALHOST, port)) => {
                    v6.insert(cookie, listener);
                }
                Ok(_) | Err(_) => {}
            }
        }
        v4.into_iter().map(|(cookie, v4)| (cookie, Self { v4, v6: v6.remove(&cookie), port })).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &TcpListener> {
        std::iter::once(&self.v4).chain(&self.v6)
    }
}

fn listen(ip: IpAddr, port: u16) -> Result<TcpListener, InterceptError> {
    let address = SocketAddr::new(ip, port);
    match try_listen(address) {
        Ok(listener) => Ok(listener),
        Err(error) if is_taken(&error) => Err(InterceptError::PortTaken { address: ip, port }),
        Err(error) => Err(error).doing(|| format!("listen on {address}")),
    }
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Accepted connections of a killed agent may still linger on the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// EPERM is the bind guard of another instance, whose agent may be away; a privileged port would be EACCES.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRINUSE | libc::EPERM))
}

fn is_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

fn ephemeral_range() -> (u16, u16) {
    const DEFAULT: (u16, u16) = (32768, 60999);
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or(DEFAULT)
}

/// Ports to try: spread by `seed`, above 10000 and outside `ephemeral` as long as there are any.
fn candidates(ephemeral: (u16, u16), seed: u32) -> impl Iterator<Item = u16> {
    const LOW: u16 = 10_000;
    let free: Vec<u16> =
        (LOW..=u16::MAX).filter(|port| !(ephemeral.0..=ephemeral.1).contains(port)).collect();
    let pool = if free.is_empty() { (LOW..=u16::MAX).collect() } else { free };
    // A stride that is odd and large visits distant ports one after the other.
    const STRIDE: usize = 7919;
    (0..usize::from(PORT_ATTEMPTS)).map(move |step| pool[(seed as usize * 31 + step * STRIDE) % pool.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_tried_outside_the_ephemeral_range() {
        let tried: Vec<u16> = candidates((32768, 60999), 4711).collect();
        assert_eq!(tried.len(), usize::from(PORT_ATTEMPTS));
        assert!(tried.iter().all(|port| *port >= 10_000 && !(32768..=60999).contains(port)));
        let distinct: std::collections::HashSet<_> = tried.iter().collect();
        assert!(distinct.len() > 32);
    }

    #[test]
    fn a_range_that_covers_everything_still_gives_ports() {
        assert_eq!(candidates((1, u16::MAX), 1).count(), usize::from(PORT_ATTEMPTS));
    }
}
