//! Datagrams: the service tells which came.

use crate::{
    checked, sent,
    tcp::{at, disconnect, raw, unicast_interface},
};
use anyhow::{Result, bail};
use lockgate_tests::matrix::{FREE_PORT, POD_INTERFACE, TARGET_NAT64, TARGET_V4, TARGET_V6};
use socket2::{Domain, Protocol, Socket, Type};
use std::{net::SocketAddr, os::fd::AsRawFd as _};

pub(crate) fn attempt(name: &str, mark: &str) -> Result<String> {
    let (v4, v6) = (at(TARGET_V4), at(TARGET_V6));
    let free = SocketAddr::from((TARGET_V4, FREE_PORT));
    match name {
        "udp-connected" => {
            let socket = datagrams(Domain::IPV4)?;
            socket.connect(&v4.into())?;
            socket.send(mark.as_bytes())?;
        }
        "udp-reconnected" => {
            let socket = datagrams(Domain::IPV4)?;
            socket.connect(&free.into())?;
            disconnect(&socket)?;
            socket.connect(&v4.into())?;
            socket.send(mark.as_bytes())?;
        }
        "udp-connected-elsewhere-sendto" => {
            let socket = datagrams(Domain::IPV4)?;
            socket.connect(&free.into())?;
            socket.send_to(mark.as_bytes(), &v4.into())?;
        }
        "udp-sendto-v4" => send_to(&datagrams(Domain::IPV4)?, v4, mark)?,
        "udp-sendto-v6" => send_to(&datagrams(Domain::IPV6)?, v6, mark)?,
        "udp-sendto-v4-mapped" => send_to(&datagrams(Domain::IPV6)?, at(TARGET_V4.to_ipv6_mapped()), mark)?,
        "udp-sendto-v4-on-v6-socket" => send_to(&datagrams(Domain::IPV6)?, v4, mark)?,
        "udp-nat64" => send_to(&datagrams(Domain::IPV6)?, at(TARGET_NAT64), mark)?,
        "udp-sendmmsg" => send_many(&datagrams(Domain::IPV4)?, v4, mark)?,
        "udp-bound-to-device" => {
            let socket = datagrams(Domain::IPV4)?;
            socket.bind_device(Some(POD_INTERFACE.as_bytes()))?;
            send_to(&socket, v4, mark)?;
        }
        "udp-unicast-if" => {
            let socket = datagrams(Domain::IPV4)?;
            unicast_interface(&socket)?;
            send_to(&socket, v4, mark)?;
        }
        "udp-lite" => {
            let lite = Protocol::from(libc::IPPROTO_UDPLITE);
            send_to(&Socket::new(Domain::IPV4, Type::DGRAM, Some(lite))?, v4, mark)?;
        }
        other => bail!("nobody tries {other}"),
    }
    sent()
}

pub(crate) fn datagrams(domain: Domain) -> std::io::Result<Socket> {
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
}

fn send_to(socket: &Socket, to: SocketAddr, mark: &str) -> std::io::Result<()> {
    socket.send_to(mark.as_bytes(), &to.into()).map(drop)
}

fn send_many(socket: &Socket, to: SocketAddr, mark: &str) -> Result<()> {
    let address = raw(to);
    let mut part = libc::iovec { iov_base: mark.as_ptr().cast_mut().cast(), iov_len: mark.len() };
    // SAFETY: all zeroes is a valid header.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
    header.msg_hdr.msg_namelen = address.len();
    header.msg_hdr.msg_iov = &raw mut part;
    header.msg_hdr.msg_iovlen = 1;
    // SAFETY: one header, whose parts live through the call.
    checked(unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut header, 1, 0) })?;
    Ok(())
}
