//! sock_diag: which connections there are in a network namespace, and ending one from outside (what `ss -K` does).
//!
//! Formats: linux/netlink.h, linux/inet_diag.h. Acts on the namespace of the calling thread.

use crate::netlink::{self, Answer};
use rustix::net::netlink::SOCK_DIAG;
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// Connections that are read of one answer: a host with more is looked through in part.
const MAX_CONNECTIONS: usize = 65_536;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
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
    let mut id = [0; ID];
    id[2..4].copy_from_slice(&port.to_be_bytes());
    let mut found = Vec::new();
    netlink::ask(Some(SOCK_DIAG), SOCK_DIAG_BY_FAMILY, Answer::Dump, &request(kind, &id), |message| {
        if message.kind == SOCK_DIAG_BY_FAMILY && found.len() < MAX_CONNECTIONS {
            found.extend(entry(kind, message.body));
        }
    })?;
    Ok(found)
}

/// Ends a connection; its owner sees ECONNABORTED.
pub(crate) fn destroy(connection: &Connection) -> io::Result<()> {
    let body = request(connection.kind, &connection.id);
    netlink::ask(Some(SOCK_DIAG), SOCK_DESTROY, Answer::Acknowledgement, &body, |_| {})
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

/// `struct inet_diag_req_v2`.
fn request(what: Kind, id: &[u8; ID]) -> Vec<u8> {
    const ALL_STATES: u32 = u32::MAX;
    let mut bytes = Vec::with_capacity(8 + ID);
    bytes.extend([what.family, what.protocol, 0, 0]);
    bytes.extend(ALL_STATES.to_ne_bytes());
    bytes.extend(id);
    bytes
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
        assert!((0..ENTRY).all(|length| entry(Kind::ALL[0], &vec![7; length]).is_none()));
    }
}
