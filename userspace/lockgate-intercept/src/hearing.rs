//! Names of targets in the kernel: answers of name servers that governed processes are about to hear protect the
//! addresses in them, before they are heard.
//!
//! A program on the ingress of governed cgroups does it, pinned like all others; here it is told the names, and what it
//! has learned is read and, once its time to live is long over, forgotten. Learned addresses only ever add protection:
//! a name server of the job's own can protect more than there is, never less.

use crate::{
    abi::Raw,
    belt::{is_attached, put_on_cgroup, take_off},
    cgroup::{CgroupId, Tree},
    error::InterceptError,
    object::{ANSWERS, Object},
    pin::Pins,
    target::{TargetNet, of_key},
};
use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};
use lockgate_ebpf_common::{
    MAX_NAME_PORTS, NAME_HASH_PRIME, NAME_HASH_START, Name, TargetKey, capacity, learned, map, target,
};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    time::{ClockId, clock_gettime},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

/// How long an address stays protected after the time to live of its answer is over: clients keep connecting to what
/// they have once looked up.
const KEPT_MINUTES: i16 = 60;
/// Attach type of `cgroup_skb` ingress (linux/bpf.h).
const CGROUP_INET_INGRESS: u32 = 0;

/// An address that somebody governed was told for a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Learned {
    /// The name, as it was registered.
    pub name: String,
    /// The address.
    pub address: IpAddr,
}

/// The kernel's `NAMES`, `KNOWN`, and its part of `TARGETS`.
pub(crate) struct Hearing {
    program: Result<OwnedFd, String>,
    links: BTreeMap<CgroupId, OwnedFd>,
    pins: Pins,
    names: HashMap<MapData, u64, Raw<Name>>,
    known: Array<MapData, u64>,
    targets: LpmTrie<MapData, Raw<TargetKey>, u32>,
    /// Names by their numbers, from 1; numbers are never used again, so that an old answer means no other name.
    numbered: Vec<String>,
}

impl Hearing {
    pub(crate) fn new(
        object: &Object,
        pins: &Pins,
        names: HashMap<MapData, u64, Raw<Name>>,
        known: Array<MapData, u64>,
        targets: LpmTrie<MapData, Raw<TargetKey>, u32>,
    ) -> Self {
        let mut hearing = Self {
            program: object.belt(ANSWERS),
            links: BTreeMap::new(),
            pins: pins.clone(),
            names,
            known,
            targets,
            numbered: Vec::new(),
        };
        // Numbers of an earlier agent mean nothing now; what it learned is learned again with the next answers, and its
        // addresses were resolved by it as well.
        hearing.forget(|_, _| true);
        hearing
    }

    /// Why answers are not heard.
    pub(crate) fn deaf(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// Makes the kernel know exactly these names, each with the ports of its targets.
    pub(crate) fn set(&mut self, names: &BTreeMap<String, BTreeSet<u16>>) -> Result<(), InterceptError> {
        let mut wanted = BTreeMap::new();
        for (name, ports) in names {
            let Some(hash) = hash(name) else { continue };
            let mut entry = Name { number: self.number(name)?, ports: [0; MAX_NAME_PORTS] };
            if ports.len() > MAX_NAME_PORTS {
                return Err(InterceptError::TooMany {
                    what: "ports of one name",
                    got: ports.len(),
                    max: MAX_NAME_PORTS as u32,
                });
            }
            for (place, port) in entry.ports.iter_mut().zip(ports) {
                *place = u32::from(*port);
            }
            wanted.insert(hash, entry);
        }
        if wanted.len() > capacity::NAMES as usize {
            return Err(InterceptError::TooMany { what: "names", got: wanted.len(), max: capacity::NAMES });
        }
        for (hash, entry) in &wanted {
            self.names.insert(hash, Raw(*entry), 0).map_err(InterceptError::map(map::NAMES))?;
        }
        let stale: Vec<u64> = self.names.keys().flatten().filter(|hash| !wanted.contains_key(hash)).collect();
        for hash in stale {
            self.names.remove(&hash).map_err(InterceptError::map(map::NAMES))?;
        }
        Ok(())
    }

    fn number(&mut self, name: &str) -> Result<u32, InterceptError> {
        let place = self.numbered.iter().position(|known| known == name).unwrap_or_else(|| {
            self.numbered.push(name.to_owned());
            self.numbered.len() - 1
        });
        match u32::try_from(place + 1) {
            Ok(number) if number <= learned::MAX_NAME => Ok(number),
            Ok(_) | Err(_) => Err(InterceptError::TooMany {
                what: "names since the agent started",
                got: place + 1,
                max: learned::MAX_NAME,
            }),
        }
    }

    /// Hears the answers to exactly these cgroups; to none while there are no names.
    pub(crate) fn follow(&mut self, tree: &Tree, governed: &BTreeSet<CgroupId>) {
        let Ok(program) = &self.program else { return };
        let none = BTreeSet::new();
        let governed = if self.numbered.is_empty() { &none } else { governed };
        for id in governed {
            if self.links.get(id).is_some_and(is_attached) {
                continue;
            }
            match put_on_cgroup(program.as_fd(), tree, *id, &self.pins.answers(*id), CGROUP_INET_INGRESS) {
                Ok(link) => drop(self.links.insert(*id, link)),
                // Gone meanwhile: nobody is in there.
                Err(_) if !tree.exists(*id) => {}
                Err(error) => tracing::warn!(cgroup = id.0, %error, "answers of name servers are not heard"),
            }
        }
        let gone: Vec<CgroupId> = self.links.keys().filter(|id| !governed.contains(id)).copied().collect();
        for id in gone {
            take_off(&self.pins.answers(id), self.links.remove(&id));
        }
        for entry in fs::read_dir(self.pins.answers_directory()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(CgroupId);
            if id.is_none_or(|id| !governed.contains(&id)) {
                take_off(&entry.path(), None);
            }
        }
    }

    /// What is learned now; what is over is forgotten.
    pub(crate) fn learned(&mut self) -> BTreeSet<Learned> {
        self.forget(|value, now| (now.wrapping_sub(learned::minute(value)) as i16) > KEPT_MINUTES);
        self.entries()
            .into_iter()
            .filter_map(|(net, value)| {
                let place = (learned::name(value) as usize).checked_sub(1)?;
                Some(Learned { name: self.numbered.get(place)?.clone(), address: net.address() })
            })
            .collect()
    }

    fn entries(&self) -> Vec<(TargetNet, u32)> {
        let all = self.targets.iter().flatten();
        let learned = all.filter(|(_, value)| value & target::LEARNED != 0);
        learned.filter_map(|(key, value)| Some((of_key(key.prefix_len(), key.data().0)?, value))).collect()
    }

    fn forget(&mut self, over: impl Fn(u32, u16) -> bool) {
        let now = minute();
        let mut left = 0u64;
        for (net, value) in self.entries() {
            let (bits, key) = net.key();
            if !over(value, now) || self.targets.remove(&Key::new(bits, Raw(key))).is_err() {
                left += 1;
            }
        }
        if let Err(error) = self.known.set(0, left, 0) {
            tracing::warn!(%error, "learned addresses cannot be counted");
        }
    }
}

/// CLOCK_BOOTTIME in minutes, as the program counts them.
fn minute() -> u16 {
    (clock_gettime(ClockId::Boottime).tv_sec / 60) as u16
}

/// Of a name as a resolver sends it, in lower case; `None` when it cannot be sent.
fn hash(name: &str) -> Option<u64> {
    let name = name.trim_end_matches('.');
    if name.is_empty() || name.len() > 253 {
        return None;
    }
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        wire.push(u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    Some(
        wire.iter()
            .fold(NAME_HASH_START, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(NAME_HASH_PRIME)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hashed_as_they_are_sent() {
        assert_eq!(hash("DB.internal"), hash("db.Internal."));
        assert_ne!(hash("db.internal"), hash("dbi.nternal"));
        for bad in ["", ".", "a..b", &"x".repeat(64), &"a.".repeat(128)] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
