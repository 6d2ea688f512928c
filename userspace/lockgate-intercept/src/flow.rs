//! From the kernel's record of an accepted connection to the domain's [`Flow`].

use crate::{abi::Raw, sys};
use aya::maps::{MapData, MapError, SkStorage};
use lockgate_ebpf_common as abi;
use lockgate_model::{
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    port::FlowError,
};
use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::BorrowedFd,
};

/// The kernel's `ACC`: accepted socket → flow.
pub(crate) struct FlowTable(SkStorage<MapData, Raw<abi::Flow>>);

impl FlowTable {
    pub(crate) fn new(map: SkStorage<MapData, Raw<abi::Flow>>) -> Self {
        Self(map)
    }

    /// The flow of an accepted socket.
    pub(crate) fn read(&self, accepted: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError> {
        let Raw(record) = match self.0.get(&accepted, 0) {
            Ok(record) => record,
            Err(MapError::KeyNotFound) => return Err(FlowError::Unattributed),
            Err(error) => return Err(FlowError::Io(crate::error::chain(&error))),
        };
        check_namespace(accepted, &record)?;
        Ok(to_domain(&record, client))
    }
}

/// The accepted socket lives in the client's namespace: both saw the same cookie.
fn check_namespace(accepted: BorrowedFd<'_>, record: &abi::Flow) -> Result<(), FlowError> {
    if record.netns == 0 {
        return Ok(());
    }
    match sys::netns_cookie(accepted) {
        Ok(cookie) if cookie == record.netns => Ok(()),
        Ok(cookie) => Err(FlowError::Mismatch(format!(
            "client in network namespace {}, connection in {cookie}",
            record.netns
        ))),
        Err(error) => Err(FlowError::Io(format!("SO_NETNS_COOKIE: {error}"))),
    }
}

fn to_domain(record: &abi::Flow, client: ClientAddr) -> Flow {
    let end = record.comm.iter().position(|byte| *byte == 0).unwrap_or(record.comm.len());
    // The hook tags the maker; saying so is worth it only when somebody else connected.
    let creator_tgid = if record.creator_tgid == record.tgid { 0 } else { record.creator_tgid };
    Flow {
        client,
        original_dst: OriginalDst::new(destination(record)),
        socket_cookie: record.cookie,
        netns_cookie: record.netns,
        process: ProcessFacts {
            tgid: record.tgid,
            tid: record.tid,
            start_boottime_ns: record.start_ns,
            uid: record.uid,
            gid: record.gid,
            cgroup_id: record.cgroup,
            comm: String::from_utf8_lossy(&record.comm[..end]).into_owned(),
            creator_tgid,
        },
        capture: Capture::Transparent,
    }
}

fn destination(record: &abi::Flow) -> SocketAddr {
    socket_address(&record.daddr, record.dport)
}

/// An address of the ABI (words in network order, IPv4 v4-mapped).
pub(crate) fn socket_address(address: &abi::Address, port: u32) -> SocketAddr {
    let mut octets = [0; 16];
    for (word, bytes) in address.iter().zip(octets.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(), port as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(daddr: &str, dport: u32) -> abi::Flow {
        let ip: Ipv6Addr = daddr.parse().unwrap();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(ip.octets().chunks_exact(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        abi::Flow { daddr: words, dport, tgid: 7, ..Default::default() }
    }

    #[test]
    fn destinations_are_canonical() {
        for (daddr, expected) in [
            ("::ffff:10.0.0.1", "10.0.0.1:5432"),
            ("::ffff:127.0.0.5", "127.0.0.5:5432"),
            ("::1", "[::1]:5432"),
            ("2001:db8::1", "[2001:db8::1]:5432"),
        ] {
            let flow = to_domain(&record(daddr, 5432), ClientAddr("127.0.0.1:1".parse().unwrap()));
            assert_eq!(flow.original_dst.to_string(), expected);
        }
    }

    #[test]
    fn a_creator_is_told_only_when_it_is_another_process() {
        let client = ClientAddr("127.0.0.1:1".parse().unwrap());
        let mut own = record("::1", 1);
        own.creator_tgid = 7;
        assert_eq!(to_domain(&own, client).process.creator_tgid, 0);
        own.creator_tgid = 8;
        assert_eq!(to_domain(&own, client).process.creator_tgid, 8);
    }

    #[test]
    fn a_thread_name_without_its_zero_is_read_whole() {
        let mut named = record("::1", 1);
        named.comm = *b"sixteen-bytes-ab";
        let flow = to_domain(&named, ClientAddr("127.0.0.1:1".parse().unwrap()));
        assert_eq!(flow.process.comm, "sixteen-bytes-ab");
    }
}
