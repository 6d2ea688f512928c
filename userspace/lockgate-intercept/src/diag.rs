//! sock_diag: which connections there are in a network namespace, and ending one from outside (what `ss -K` does).
//!
//! Formats: linux/netlink.h, linux/inet_diag.h. Acts on the namespace of the calling thread.

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// The kernel answers at once; a lost answer must not stop the watch.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that are read of one answer: a host with more is looked through in part.
const MAX_CONNECTIONS: usize = 65_536;
/// The kernel writes dumps in pieces of at most this.
const BUFFER: usize = 64 << 10;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER: usize = 16;
/// `struct inet_diag_sockid`.
const ID: usize = 48;
/// `struct inet_diag_msg`.
const ENTRY: usize = 4 + ID + 20;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    family: u8,
    protocol: u8,
}

impl Kind {
    /// TCP and UDP over both.
    pub(crate) const ALL: [Self; 4] = [
        Self { family: 2, protocol: 6 },
        Self { family: 10, protocol: 6 },
        Self { family: 2, protocol: 17 },
        Self { family: 10, protocol: 17 },
    ];

    pub(crate) fn as_str(self) -> &'static str {
        if self.protocol == 6 { "tcp" } else { "udp" }
    }
}

/// A socket with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) kind: Kind,
    pub(crate) remote: SocketAddr,
    pub(crate) inode: u32,
    id: [u8; ID],
}

/// Connections of a kind to a port; to any with port 0.
pub(crate) fn connections(kind: Kind, port: u16) -> io::Result<Vec<Connection>> {
    let socket = open()?;
    let mut id = [0; ID];
    id[2..4].copy_from_slice(&port.to_be_bytes());
    send(&socket, &request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, kind, &id), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        for message in messages(buffer.get(..length).unwrap_or_default()) {
            match message.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return message.error().map(|()| found),
                SOCK_DIAG_BY_FAMILY if found.len() < MAX_CONNECTIONS => {
                    found.extend(entry(kind, message.body))
                }
                _ => {}
            }
        }
    }
}

/// Ends a connection; its owner sees ECONNABORTED.
pub(crate) fn destroy(connection: &Connection) -> io::Result<()> {
    let socket = open()?;
    let bytes = request(SOCK_DESTROY, NLM_F_ACK, connection.kind, &connection.id);
    send(&socket, &bytes, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    let answer =
        messages(buffer.get(..length).unwrap_or_default()).find(|message| message.kind == NLMSG_ERROR);
    answer.map_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()), |message| message.error())
}

/// Whether connections can be ended here: by asking for the end of one that is not there.
pub(crate) fn can_destroy() -> Result<(), String> {
    let remote = SocketAddr::from(([127, 0, 0, 1], 0));
    let nobody = Connection { kind: Kind::ALL[0], remote, inode: 0, id: [0; ID] };
    match destroy(&nobody) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("the kernel ends no sockets on demand: {error}")),
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    Ok(socket)
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, what: Kind, id: &[u8; ID]) -> Vec<u8> {
    const ALL_STATES: u32 = u32::MAX;
    let mut bytes = Vec::with_capacity(HEADER + 8 + ID);
    bytes.extend(((HEADER + 8 + ID) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([what.family, what.protocol, 0, 0]);
    bytes.extend(ALL_STATES.to_ne_bytes());
    bytes.extend(id);
    bytes
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl Message<'_> {
    /// `struct nlmsgerr`: 0 is an acknowledgement.
    fn error(&self) -> io::Result<()> {
        match self.body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)) {
            Some(0) => Ok(()),
            Some(negative) => Err(io::Error::from_raw_os_error(-negative)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

fn entry(kind: Kind, body: &[u8]) -> Option<Connection> {
    let body = body.get(..ENTRY)?;
    let id: [u8; ID] = *body.get(4..)?.first_chunk()?;
    let port = u16::from_be_bytes([id[2], id[3]]);
    let octets: [u8; 16] = *id.get(20..)?.first_chunk()?;
    let [a, b, c, d, ..] = octets;
    let ip =
        if kind.family == 2 { IpAddr::from([a, b, c, d]) } else { Ipv6Addr::from(octets).to_canonical() };
    let inode = u32::from_ne_bytes(*body.get(ENTRY - 4..)?.first_chunk()?);
    (port != 0).then_some(Connection { kind, remote: SocketAddr::new(ip, port), inode, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_found_by_its_peer_s_port() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let at = listener.local_addr().unwrap();
            let _client = TcpStream::connect(at).unwrap();
            let found: Vec<Connection> =
                Kind::ALL.into_iter().flat_map(|kind| connections(kind, at.port()).unwrap()).collect();
            let inodes: Vec<u32> = found.iter().map(|connection| connection.inode).collect();
            assert_eq!(found.iter().map(|connection| connection.remote).collect::<Vec<_>>(), [at]);
            assert_ne!(inodes, [0]);
        }
    }

    #[test]
    fn broken_answers_are_read_without_a_panic() {
        for length in 0..40 {
            let bytes = vec![7; length];
            assert!(messages(&bytes).all(|message| entry(Kind::ALL[0], message.body).is_none()));
        }
        let looping = [0u8; 64];
        assert_eq!(messages(&looping).count(), 0);
    }
}
