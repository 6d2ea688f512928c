//! Names of targets in the kernel: answers of name servers that governed processes are about to hear protect the
//! addresses in them, before they are heard.
//!
//! A program on the ingress of governed cgroups (and of the root, where users are governed) does it, pinned like all
//! others; here it is told the names, and what it has learned is read and, once its time to live is long over, forgotten.
//! Learned addresses only ever add protection, and for the cgroup that was told alone: a name server of a job's own can
//! protect more than there is for that job, nothing for others, and never less. They outlive the agent.

use crate::{
    abi::Raw,
    belt::{is_attached, put_on_cgroup, take_off},
    cgroup::{CgroupId, Tree},
    error::{Doing as _, InterceptError},
    flow::socket_address,
    interceptor::take,
    object::{ANSWERS, Object},
    pin::Pins,
};
use aya::maps::{HashMap, MapData};
use lockgate_ebpf_common::{
    Heard, HeardKey, MAX_NAME_PORTS, NAME_HASH_PRIME, NAME_HASH_START, Name, capacity, map,
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
const KEPT_MINUTES: u64 = 60;
/// Attach type of `cgroup_skb` ingress (linux/bpf.h).
const CGROUP_INET_INGRESS: u32 = 0;

/// An address that somebody governed was told for a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Learned {
    /// Who was told, and for whom it counts: cgroup-v2 id.
    pub cgroup_id: u64,
    /// The name, as it was registered.
    pub name: String,
    /// The address.
    pub address: IpAddr,
}

/// The kernel's `NAMES`, `HEARD` and `KNOWN`.
pub(crate) struct HearingMaps {
    names: HashMap<MapData, u64, Raw<Name>>,
    heard: HashMap<MapData, Raw<HeardKey>, Raw<Heard>>,
    known: HashMap<MapData, u64, u64>,
}

impl HearingMaps {
    pub(crate) fn take(object: &mut Object) -> Result<Self, InterceptError> {
        Ok(Self {
            names: take(object, map::NAMES)?,
            heard: take(object, map::HEARD)?,
            known: take(object, map::KNOWN)?,
        })
    }
}

/// The program and what it knows.
pub(crate) struct Hearing {
    program: Result<OwnedFd, String>,
    links: BTreeMap<CgroupId, OwnedFd>,
    root: CgroupId,
    pins: Pins,
    maps: HearingMaps,
    /// Names by their hashes.
    names: BTreeMap<u64, String>,
}

impl Hearing {
    pub(crate) fn new(
        object: &Object,
        pins: &Pins,
        tree: &Tree,
        maps: HearingMaps,
    ) -> Result<Self, InterceptError> {
        let root = tree.id_of(tree.mount()).doing(|| format!("read cgroup {}", tree.mount().display()))?;
        Ok(Self {
            program: object.belt(ANSWERS),
            links: BTreeMap::new(),
            root,
            pins: pins.clone(),
            maps,
            names: BTreeMap::new(),
        })
    }

    /// Why answers are not heard.
    pub(crate) fn deaf(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// Makes the kernel know exactly these names, each with the ports of its targets.
    pub(crate) fn set(&mut self, names: &BTreeMap<String, BTreeSet<u16>>) -> Result<(), InterceptError> {
        let mut wanted = BTreeMap::new();
        self.names.clear();
        for (name, ports) in names {
            let Some(hash) = hash(name) else { continue };
            let mut entry = Name::default();
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
            self.names.insert(hash, name.clone());
        }
        if wanted.len() > capacity::NAMES as usize {
            return Err(InterceptError::TooMany { what: "names", got: wanted.len(), max: capacity::NAMES });
        }
        let map = &mut self.maps.names;
        for (hash, entry) in &wanted {
            map.insert(hash, Raw(*entry), 0).map_err(InterceptError::map(map::NAMES))?;
        }
        let stale: Vec<u64> = map.keys().flatten().filter(|hash| !wanted.contains_key(hash)).collect();
        for hash in stale {
            map.remove(&hash).map_err(InterceptError::map(map::NAMES))?;
        }
        Ok(())
    }

    /// Hears the answers to exactly these cgroups, and those to governed users wherever they are; to none while there are
    /// no names.
    pub(crate) fn follow(&mut self, tree: &Tree, governed: &BTreeSet<CgroupId>, users: bool) {
        let Ok(program) = &self.program else { return };
        let mut wanted = BTreeSet::new();
        if !self.names.is_empty() {
            wanted.extend(governed.iter().copied());
            wanted.extend(users.then_some(self.root));
        }
        for id in &wanted {
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
        let gone: Vec<CgroupId> = self.links.keys().filter(|id| !wanted.contains(id)).copied().collect();
        for id in gone {
            take_off(&self.pins.answers(id), self.links.remove(&id));
        }
        for entry in fs::read_dir(self.pins.answers_directory()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(CgroupId);
            if id.is_none_or(|id| !wanted.contains(&id)) {
                take_off(&entry.path(), None);
            }
        }
    }

    /// What is learned now. What is over, of a name that is no target's any more, or of a cgroup that is gone is forgotten.
    pub(crate) fn learned(&mut self, tree: &Tree) -> BTreeSet<Learned> {
        let now = minute();
        let mut living: BTreeMap<u64, bool> = BTreeMap::new();
        let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
        let mut learned = BTreeSet::new();
        let entries: Vec<(HeardKey, Heard)> =
            self.maps.heard.iter().flatten().map(|(key, heard)| (key.0, heard.0)).collect();
        for (key, heard) in entries {
            let name = self.names.get(&heard.name);
            let over = now.saturating_sub(heard.minute) > KEPT_MINUTES;
            let lives = *living.entry(key.cgroup).or_insert_with(|| tree.exists(CgroupId(key.cgroup)));
            match name.filter(|_| lives && !over) {
                Some(name) => {
                    let address = socket_address(&key.address, 0).ip();
                    learned.insert(Learned { cgroup_id: key.cgroup, name: name.clone(), address });
                }
                // Still there when it cannot be removed; it is tried again.
                None if self.maps.heard.remove(&Raw(key)).is_ok() => continue,
                None => {}
            }
            *kept.entry(key.cgroup).or_default() += 1;
        }
        self.count(&kept);
        learned
    }

    /// What the program counts by itself is only ever too much by what was forgotten here.
    fn count(&mut self, kept: &BTreeMap<u64, u64>) {
        let counted: Vec<(u64, u64)> = self.maps.known.iter().flatten().collect();
        for (cgroup, count) in counted {
            let now = kept.get(&cgroup).copied().unwrap_or(0);
            let set = match now {
                0 => self.maps.known.remove(&cgroup),
                _ if now < count => self.maps.known.insert(cgroup, now, 0),
                _ => continue,
            };
            if let Err(error) = set {
                tracing::warn!(%error, cgroup, "learned addresses cannot be counted");
            }
        }
    }
}

/// CLOCK_BOOTTIME in minutes, as the program counts them.
fn minute() -> u64 {
    u64::try_from(clock_gettime(ClockId::Boottime).tv_sec).unwrap_or(0) / 60
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
