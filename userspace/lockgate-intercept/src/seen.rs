//! Who talks to what without being redirected: taken out of the kernel's `SEEN`.
//!
//! The programs note a process and a destination with each connection of a governed task to an address that is no target's,
//! and with every connection of an observed one. Entries are taken out at each look, so the map holds what happened since.
//! It decides nothing and records nothing: whoever asks adds up.

use crate::{abi::Raw, error::InterceptError, flow::socket_address};
use aya::maps::{HashMap, MapData};
use lockgate_ebpf_common::{Seen, Sightings, map};
use lockgate_model::{
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
};
use std::net::{Ipv4Addr, SocketAddr};

/// What one process did with one destination since the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The process, as the kernel saw it.
    pub process: ProcessFacts,
    /// Its network namespace's cookie; 0 when the kernel does not tell.
    pub netns_cookie: u64,
    /// Where to. For a socket that has no destination (ping) unspecified, port 0.
    pub destination: SocketAddr,
    /// IP protocol.
    pub protocol: u32,
    /// Connections begun, and datagrams sent without one.
    pub times: u64,
    /// Bytes that the peer acknowledged, of TCP connections that ended.
    pub sent: u64,
    /// Bytes received, of TCP connections that ended.
    pub received: u64,
}

impl Sighting {
    fn of(seen: &Seen, sightings: &Sightings) -> Self {
        let end = sightings.comm.iter().position(|byte| *byte == 0).unwrap_or(sightings.comm.len());
        let comm = sightings.comm.get(..end).unwrap_or_default();
        Self {
            process: ProcessFacts {
                tgid: seen.tgid,
                tid: seen.tgid,
                start_boottime_ns: seen.start_ns,
                uid: seen.uid,
                gid: sightings.gid,
                cgroup_id: seen.cgroup,
                comm: String::from_utf8_lossy(comm).into_owned(),
                creator_tgid: 0,
            },
            netns_cookie: sightings.netns,
            destination: socket_address(&seen.daddr, seen.dport),
            protocol: seen.protocol,
            times: sightings.times,
            sent: sightings.sent,
            received: sightings.received,
        }
    }

    /// The flow that it would have been, for attribution: nobody's connection.
    pub fn flow(&self) -> Flow {
        Flow {
            client: ClientAddr((Ipv4Addr::UNSPECIFIED, 0).into()),
            original_dst: OriginalDst::new(self.destination),
            socket_cookie: 0,
            netns_cookie: self.netns_cookie,
            process: self.process.clone(),
            capture: Capture::Transparent,
        }
    }
}

/// The kernel's `SEEN`.
pub(crate) struct SeenMap(HashMap<MapData, Raw<Seen>, Raw<Sightings>>);

impl SeenMap {
    pub(crate) fn new(map: HashMap<MapData, Raw<Seen>, Raw<Sightings>>) -> Self {
        Self(map)
    }

    /// Takes everything out. What happens to an entry between reading and removing it is lost: at most what one process
    /// does within microseconds. An entry that was evicted meanwhile is not there any more, and no error.
    pub(crate) fn take(&mut self) -> Result<Vec<Sighting>, InterceptError> {
        let keys: Vec<Raw<Seen>> = self.0.keys().flatten().collect();
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            match self.0.get(&key, 0) {
                Ok(Raw(sightings)) => taken.push(Sighting::of(&key.0, &sightings)),
                Err(aya::maps::MapError::KeyNotFound) => continue,
                Err(error) => return Err(InterceptError::map(map::SEEN)(error)),
            }
            // Evicted meanwhile: gone, as it should be.
            let _ = self.0.remove(&key);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_ebpf_common::V4_MAPPED;

    #[test]
    fn a_sighting_names_process_and_destination() {
        let daddr = [0, 0, V4_MAPPED, u32::from_ne_bytes([10, 0, 0, 7])];
        let seen = Seen { cgroup: 3, start_ns: 9, daddr, dport: 5432, protocol: 6, tgid: 7, uid: 1000 };
        let comm = *b"sixteen-bytes-ab";
        let sightings = Sightings { times: 2, sent: 10, received: 20, comm, ..Sightings::default() };
        let sighting = Sighting::of(&seen, &sightings);
        assert_eq!(sighting.destination.to_string(), "10.0.0.7:5432");
        assert_eq!((sighting.process.tgid, sighting.process.uid, sighting.process.cgroup_id), (7, 1000, 3));
        assert_eq!(sighting.process.comm, "sixteen-bytes-ab");
        assert_eq!(sighting.flow().process, sighting.process);
    }
}
