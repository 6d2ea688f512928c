//! Connections: whoever answers is named by the answer.

use crate::{AF_SMC, checked, set, socket};
use anyhow::{Context as _, Result, bail};
use lockgate_tests::matrix::{
    FREE_PORT, POD_INTERFACE, POD_V4, PORT, TARGET_6TO4, TARGET_NAT64, TARGET_V4, TARGET_V6, patience,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// What fast open carries in its SYN.
pub(crate) const EARLY: &[u8] = b"early\n";
const IPPROTO_MPTCP: i32 = 262;

pub(crate) fn attempt(name: &str) -> Result<String> {
    match name {
        "tcp-v4" => plain(at(TARGET_V4), |_| Ok(())),
        "tcp-v6" => plain(at(TARGET_V6), |_| Ok(())),
        "tcp-v4-mapped" => plain(at(TARGET_V4.to_ipv6_mapped()), |_| Ok(())),
        "tcp-nat64" => plain(at(TARGET_NAT64), |_| Ok(())),
        "tcp-6to4" => plain(at(TARGET_6TO4), |_| Ok(())),
        "tcp-non-blocking" => {
            let stream = TcpStream::connect_timeout(&at(TARGET_V4), patience())?;
            answer(stream.into())
        }
        "tcp-fast-open-sendto-v4" => fast_open(stream_of(at(TARGET_V4), None)?, at(TARGET_V4)),
        "tcp-fast-open-sendto-v6" => fast_open(stream_of(at(TARGET_V6), None)?, at(TARGET_V6)),
        "tcp-fast-open-connect" => {
            let socket = stream_of(at(TARGET_V4), None)?;
            set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &1i32)?;
            socket.connect(&at(TARGET_V4).into())?;
            socket.send(EARLY)?;
            answer(socket)
        }
        "tcp-reconnect-after-unspec" => reconnect(),
        "tcp-bound-to-device" => {
            plain(at(TARGET_V4), |socket| socket.bind_device(Some(POD_INTERFACE.as_bytes())))
        }
        "tcp-unicast-if" => plain(at(TARGET_V4), unicast_interface),
        "tcp-bound-source" => {
            plain(at(TARGET_V4), |socket| socket.bind(&SocketAddr::from((POD_V4, 0)).into()))
        }
        "mptcp" => {
            let socket = stream_of(at(TARGET_V4), Some(IPPROTO_MPTCP))?;
            socket.connect(&at(TARGET_V4).into())?;
            answer(socket)
        }
        "mptcp-fast-open" => fast_open(stream_of(at(TARGET_V4), Some(IPPROTO_MPTCP))?, at(TARGET_V4)),
        "sctp" => {
            let socket = stream_of(at(TARGET_V4), Some(libc::IPPROTO_SCTP))?;
            socket.connect(&at(TARGET_V4).into())?;
            answer(socket)
        }
        "smc" => {
            let socket = timed(socket(AF_SMC, libc::SOCK_STREAM, 0)?.into())?;
            socket.connect(&at(TARGET_V4).into())?;
            answer(socket)
        }
        other => bail!("nobody tries {other}"),
    }
}

/// The protected port there.
pub(crate) fn at(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), PORT)
}

fn plain(to: SocketAddr, prepare: impl FnOnce(&Socket) -> std::io::Result<()>) -> Result<String> {
    let socket = stream_of(to, None)?;
    prepare(&socket)?;
    socket.connect(&to.into())?;
    answer(socket)
}

/// A socket whose waits end.
fn stream_of(to: SocketAddr, protocol: Option<i32>) -> std::io::Result<Socket> {
    timed(Socket::new(Domain::for_address(to), Type::STREAM, protocol.map(Protocol::from))?)
}

/// `SO_SNDTIMEO` bounds connect() as well.
fn timed(socket: Socket) -> std::io::Result<Socket> {
    socket.set_write_timeout(Some(patience()))?;
    socket.set_read_timeout(Some(patience()))?;
    Ok(socket)
}

pub(crate) fn answer(socket: Socket) -> Result<String> {
    socket.set_read_timeout(Some(patience()))?;
    let mut stream = TcpStream::from(OwnedFd::from(socket));
    let mut answer = [0; 64];
    // A read with a time limit is not begun again by itself when a ring's work interrupts it.
    let length = loop {
        match stream.read(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).trim().to_owned())
}

fn fast_open(socket: Socket, to: SocketAddr) -> Result<String> {
    socket.send_to_with_flags(EARLY, &to.into(), libc::MSG_FASTOPEN)?;
    answer(socket)
}

/// Connects to what nobody protects, disconnects, and connects again.
fn reconnect() -> Result<String> {
    let socket = stream_of(at(TARGET_V4), None)?;
    socket.connect(&SocketAddr::from((TARGET_V4, FREE_PORT)).into())?;
    disconnect(&socket)?;
    socket.connect(&at(TARGET_V4).into())?;
    answer(socket)
}

/// `connect(AF_UNSPEC)`.
pub(crate) fn disconnect(socket: &Socket) -> Result<()> {
    // SAFETY: all zeroes is a valid sockaddr, and AF_UNSPEC is 0.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    // SAFETY: the address lives through the call, with its size.
    let result =
        unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as u32) };
    checked(result).context("disconnect").map(drop)
}

/// `IP_UNICAST_IF`: the interface by which to leave, in network byte order.
pub(crate) fn unicast_interface(socket: &Socket) -> std::io::Result<()> {
    let index = nix::net::if_::if_nametoindex(POD_INTERFACE)?;
    set(socket, libc::IPPROTO_IP, libc::IP_UNICAST_IF, &index.to_be())
}

/// An address as the kernel takes it.
pub(crate) fn raw(to: SocketAddr) -> SockAddr {
    to.into()
}
