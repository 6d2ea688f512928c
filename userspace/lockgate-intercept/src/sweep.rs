//! Connections that governed processes hold past lockgate: made before the agent started, inherited, passed in.
//!
//! They are looked for among all sockets that are connected to a protected address, by who holds a descriptor of them,
//! and cut. What is found is the number that says how well capture covers: it should be zero.

use crate::{
    diag::{self, Connection, Kind},
    netns::{Netns, NetnsId},
    target::TargetNet,
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Above this many ports all connections are read at once.
const SINGLE_PORTS: usize = 16;
/// Descriptors that are looked at for one process.
const MAX_DESCRIPTORS: usize = 65_536;

/// One connection that went past lockgate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// Who holds it.
    pub pid: u32,
    /// Where it goes.
    pub destination: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Whether it could be cut.
    pub cut: bool,
}

/// Looks in every network namespace in which somebody governed lives; `elsewhere` says that there are others than the
/// agent's own.
pub(crate) fn sweep(
    targets: &[TargetNet],
    elsewhere: bool,
    governed: impl FnOnce() -> Vec<u32>,
) -> Vec<Bypass> {
    let ports: BTreeSet<u16> = targets.iter().map(TargetNet::port).collect();
    // Asking the kernel costs less than looking through all processes, and mostly settles it.
    if ports.is_empty() || (!elsewhere && suspects(&ports, targets).is_empty()) {
        return Vec::new();
    }
    let Ok(own) = NetnsId::own() else { return Vec::new() };
    let mut found = Vec::new();
    for (id, members) in by_namespace(governed()) {
        let look = || look(&ports, targets, &members);
        let seen = match members.first() {
            Some((_, directory)) if id != own => match Netns::open(directory) {
                Ok((now, namespace)) if now == id => namespace.run(look).unwrap_or_default(),
                // Gone meanwhile, or another process by now.
                Ok(_) | Err(_) => continue,
            },
            _ => look(),
        };
        found.extend(seen);
    }
    found
}

fn by_namespace(pids: Vec<u32>) -> HashMap<NetnsId, Vec<(u32, PathBuf)>> {
    let mut namespaces: HashMap<NetnsId, Vec<(u32, PathBuf)>> = HashMap::new();
    for pid in pids {
        let directory = Path::new("/proc").join(pid.to_string());
        if let Ok(id) = NetnsId::of(&directory) {
            namespaces.entry(id).or_default().push((pid, directory));
        }
    }
    namespaces
}

fn look(ports: &BTreeSet<u16>, targets: &[TargetNet], members: &[(u32, PathBuf)]) -> Vec<Bypass> {
    let suspects = suspects(ports, targets);
    if suspects.is_empty() {
        return Vec::new();
    }
    let inodes: HashSet<u32> = suspects.iter().map(|connection| connection.inode).collect();
    let holders: HashMap<u32, u32> = members
        .iter()
        .flat_map(|(pid, directory)| {
            sockets(directory).filter(|inode| inodes.contains(inode)).map(|inode| (inode, *pid))
        })
        .collect();
    let held = suspects.iter().filter_map(|connection| Some((connection, *holders.get(&connection.inode)?)));
    held.map(|(connection, pid)| Bypass {
        pid,
        destination: connection.remote,
        protocol: connection.kind.as_str(),
        cut: diag::destroy(connection)
            .inspect_err(|error| tracing::error!(%error, pid, destination = %connection.remote, "a connection past lockgate cannot be cut"))
            .is_ok(),
    })
    .collect()
}

/// Connections to protected addresses, whoever holds them.
fn suspects(ports: &BTreeSet<u16>, targets: &[TargetNet]) -> Vec<Connection> {
    let asked: Vec<u16> = if ports.len() > SINGLE_PORTS { vec![0] } else { ports.iter().copied().collect() };
    let ask = |kind| asked.iter().map(move |port| (kind, *port));
    let all = Kind::ALL.into_iter().flat_map(ask).flat_map(|(kind, port)| {
        diag::connections(kind, port).unwrap_or_else(|error| {
            tracing::debug!(%error, "connections cannot be listed");
            Vec::new()
        })
    });
    let protected = |connection: &Connection| {
        targets.iter().any(|target| {
            target.port() == connection.remote.port() && target.contains(connection.remote.ip())
        })
    };
    // Without an inode nobody holds it any more.
    all.filter(|connection| connection.inode != 0 && protected(connection)).collect()
}

/// Inodes of the sockets that a process holds.
fn sockets(directory: &Path) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir(directory.join("fd")).into_iter().flatten().flatten().take(MAX_DESCRIPTORS);
    entries.filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}
