//! The host's ends of governed pods' veth pairs, each with the interface filter: what a pod sends passes there, by
//! whatever socket, and only the proxy's own connections go on to protected addresses.
//!
//! Found through rtnetlink, from both sides: an end counts only when the pod's own link and the host's link name each
//! other, and the host's names the pod's very namespace. Decides nothing about who is governed.

use crate::{
    belt::{Belts, Direction},
    netlink::{self, Answer, Message, ROUTE, attributes},
    netns::{Netns, NetnsId},
    sys,
};
use rustix::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    net::TcpListener,
    time::{Duration, Instant},
};

/// A pod can be given another interface later.
const LOOKED_AT_AGAIN: Duration = Duration::from_secs(5);

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

/// The filters on pods, while they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Veths {
    asked_for: bool,
    pods: HashMap<NetnsId, Pod>,
    /// Told once that they cannot be guarded.
    failed: HashSet<NetnsId>,
}

#[derive(Debug)]
struct Pod {
    looked_at: Instant,
    ends: BTreeSet<u32>,
}

impl Veths {
    /// From now on, or no longer: then no filter of a pod stays.
    pub(crate) fn ask_for(&mut self, wanted: bool, belts: &mut Belts) {
        self.asked_for = wanted;
        if !wanted {
            self.pods.clear();
            self.keep_only(&BTreeSet::new(), belts);
        }
    }

    /// Guards exactly the pods that these namespaces are; each with a socket in it.
    pub(crate) fn follow(&mut self, homes: Vec<(NetnsId, TcpListener)>, belts: &mut Belts) {
        if !self.asked_for {
            return;
        }
        let living: HashSet<NetnsId> = homes.iter().map(|(id, _)| *id).collect();
        self.pods.retain(|id, _| living.contains(id));
        self.failed.retain(|id| living.contains(id));
        // What cannot be looked at now keeps what it has.
        let mut complete = true;
        for (id, socket) in homes {
            if self.pods.get(&id).is_some_and(|pod| pod.looked_at.elapsed() < LOOKED_AT_AGAIN) {
                continue;
            }
            match guard(socket.as_fd(), belts) {
                Ok(ends) => {
                    self.failed.remove(&id);
                    self.pods.insert(id, Pod { looked_at: Instant::now(), ends });
                }
                Err(error) => {
                    complete = false;
                    if self.failed.insert(id) {
                        tracing::warn!(%error, netns = id.to_string(), "a pod's interfaces are not guarded; trying on");
                    }
                }
            }
        }
        if complete {
            let wanted = self.pods.values().flat_map(|pod| pod.ends.iter().copied()).collect();
            self.keep_only(&wanted, belts);
        }
    }

    fn keep_only(&self, wanted: &BTreeSet<u32>, belts: &mut Belts) {
        for (interface, direction) in belts.guarded() {
            if direction == Direction::In && !wanted.contains(&interface) {
                belts.unguard(interface, direction);
            }
        }
    }
}

fn guard(socket: BorrowedFd<'_>, belts: &mut Belts) -> io::Result<BTreeSet<u32>> {
    let ends = host_ends(socket)?;
    for end in &ends {
        belts.guard(*end, Direction::In).map_err(io::Error::other)?;
    }
    Ok(ends)
}

/// The interfaces of the caller's namespace that lead into the namespace of this socket.
fn host_ends(socket: BorrowedFd<'_>) -> io::Result<BTreeSet<u32>> {
    let namespace = sys::netns_of_socket(socket)?;
    let theirs = Netns::of_socket(socket)?.run(links)??;
    // Listing them gives each namespace behind one its number here.
    let ours = links()?;
    let Some(number) = number_of(namespace.as_fd())? else { return Ok(BTreeSet::new()) };
    let leads_in = |link: &&Link| {
        link.namespace == Some(number)
            && theirs.iter().any(|their| their.peer == Some(link.index) && link.peer == Some(their.index))
    };
    Ok(ours.iter().filter(leads_in).map(|link| link.index).collect())
}

/// One interface whose other end is an interface too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    peer: Option<u32>,
    /// The number, in the namespace that was asked, of the namespace of the other end; none when it is the same.
    namespace: Option<i32>,
}

fn links() -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    netlink::ask(ROUTE, RTM_GETLINK, Answer::Dump, &[0; 16], |message| found.extend(link(message)))?;
    Ok(found)
}

/// `struct ifinfomsg` and attributes (linux/if_link.h).
fn link(message: &Message<'_>) -> Option<Link> {
    const INFO: usize = 16;
    const IFLA_LINK: u16 = 5;
    const IFLA_LINK_NETNSID: u16 = 37;
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let index = i32::from_ne_bytes(*message.body.get(4..)?.first_chunk()?);
    let mut link = Link { index: u32::try_from(index).ok()?, peer: None, namespace: None };
    for (kind, value) in attributes(message.body.get(INFO..)?) {
        match (kind, value.first_chunk()) {
            (IFLA_LINK, Some(bytes)) => link.peer = Some(u32::from_ne_bytes(*bytes)),
            (IFLA_LINK_NETNSID, Some(bytes)) => link.namespace = Some(i32::from_ne_bytes(*bytes)),
            _ => {}
        }
    }
    Some(link)
}

/// The number that the caller's namespace has for another; none when it has given it none.
fn number_of(namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    const NETNSA_NSID: u16 = 1; // linux/net_namespace.h
    const NETNSA_FD: u16 = 3;
    // `struct rtgenmsg`, padded; then the attribute.
    let mut body = vec![0; 4];
    body.extend(8u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(namespace.as_raw_fd().to_ne_bytes());
    let mut number = None;
    netlink::ask(ROUTE, RTM_GETNSID, Answer::One, &body, |message| {
        if message.kind == RTM_NEWNSID {
            let mut all = attributes(message.body.get(4..).unwrap_or_default());
            let value = all.find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| value.first_chunk());
            number = value.map(|bytes| i32::from_ne_bytes(*bytes));
        }
    })?;
    Ok(number.filter(|number| *number >= 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_leads_nowhere() {
        let found = links().unwrap();
        let loopback = found.iter().find(|link| link.index == 1).unwrap();
        assert_eq!((loopback.peer, loopback.namespace), (None, None));
    }

    #[test]
    fn the_own_namespace_has_no_host_s_end() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!(host_ends(socket.as_fd()).unwrap(), BTreeSet::new());
        }
    }
}
