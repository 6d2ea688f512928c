//! The layers beside the socket hooks: a packet filter on governed cgroups, one on interfaces, BPF LSM.
//!
//! Each is found out by loading and attaching, and may be missing: that is told, with what it leaves open, and never
//! hidden. Links are pinned beside those of the socket hooks and stay in force when the agent dies.

use crate::{
    cgroup::{CgroupId, Tree},
    layer::Layer,
    object::{Belt, INTERFACE, INTERFACE_L3, LSM, Object, PACKET},
    pin::{Pins, remove_tree},
    sys,
};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// Attach type of `cgroup_skb` egress (linux/bpf.h).
const CGROUP_INET_EGRESS: u32 = 1;

/// All of them.
pub(crate) struct Belts {
    pins: Pins,
    packet: Result<OwnedFd, String>,
    governed: BTreeMap<CgroupId, OwnedFd>,
    /// Why the last governed cgroup got no filter.
    unfiltered: Option<String>,
    lsm: Result<Vec<OwnedFd>, String>,
    interface: Result<Filters, String>,
    guarded: BTreeMap<Guarded, OwnedFd>,
}

/// Programs of the interface filter.
struct Filters {
    ethernet: OwnedFd,
    plain: OwnedFd,
}

/// Where a packet filter sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What leaves the host by it.
    Out,
    /// What comes in by it: on the host's side of a pod's veth, what the pod sends.
    In,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Guarded {
    interface: u32,
    direction: Direction,
}

/// What happened to a link that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) what: String,
    pub(crate) repaired: bool,
}

impl Belts {
    /// Attaches what can be: LSM now, the filters when [`Belts::follow`] and [`Belts::guard`] ask for them.
    pub(crate) fn attach(object: &Object, pins: &Pins) -> Self {
        let program = |belt: Belt| object.belt(belt);
        let interface =
            program(INTERFACE).and_then(|ethernet| Ok(Filters { ethernet, plain: program(INTERFACE_L3)? }));
        let mut belts = Self {
            pins: pins.clone(),
            packet: program(PACKET),
            governed: BTreeMap::new(),
            unfiltered: None,
            lsm: attach_lsm(object, pins),
            interface,
            guarded: BTreeMap::new(),
        };
        belts.adopt_interfaces();
        belts
    }

    /// Proves that LSM hooks are called: a kernel that was booted without `bpf` in `lsm=` attaches them all the same.
    pub(crate) fn prove_lsm(&mut self) {
        if self.lsm.is_ok()
            && let Err(why) = sys::ask_lsm()
        {
            let _ = remove_tree(&self.pins.lsm());
            self.lsm = Err(why);
        }
    }

    /// Puts the packet filter on exactly these cgroups.
    pub(crate) fn follow(&mut self, tree: &Tree, governed: &BTreeSet<CgroupId>) {
        let Ok(program) = &self.packet else { return };
        self.unfiltered = None;
        for id in governed {
            // One that somebody took off is put back, and told, by `check`.
            if self.governed.contains_key(id) {
                continue;
            }
            match put_on_cgroup(program.as_fd(), tree, *id, &self.pins.egress(*id), CGROUP_INET_EGRESS) {
                Ok(link) => drop(self.governed.insert(*id, link)),
                // Gone meanwhile: nobody is in there.
                Err(_) if !tree.exists(*id) => {}
                Err(error) => {
                    let why = format!("cgroup {}: {error}", id.0);
                    tracing::warn!(why, "no packet filter on a governed cgroup");
                    self.unfiltered = Some(why);
                }
            }
        }
        let gone: Vec<CgroupId> = self.governed.keys().filter(|id| !governed.contains(id)).copied().collect();
        for id in gone {
            take_off(&self.pins.egress(id), self.governed.remove(&id));
        }
        self.remove_stale(governed);
    }

    /// Pins of cgroups that an earlier agent governed.
    fn remove_stale(&self, governed: &BTreeSet<CgroupId>) {
        for entry in fs::read_dir(self.pins.egress_directory()).into_iter().flatten().flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(CgroupId);
            if id.is_none_or(|id| !governed.contains(&id)) {
                take_off(&entry.path(), None);
            }
        }
    }

    /// Lets only the proxy's connections pass an interface to protected destinations.
    pub(crate) fn guard(&mut self, interface: u32, direction: Direction) -> Result<(), String> {
        let filters = self.interface.as_ref().map_err(Clone::clone)?;
        let guarded = Guarded { interface, direction };
        if self.guarded.get(&guarded).is_some_and(is_attached) {
            return Ok(());
        }
        let program = if sys::has_link_layer(interface) { &filters.ethernet } else { &filters.plain };
        let path = self.pins.interface(&guarded.name());
        let link = put_on_interface(program.as_fd(), guarded, &path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => format!("{error}; such filters need a kernel of at least 6.6"),
            _ => error.to_string(),
        })?;
        self.guarded.insert(guarded, link);
        Ok(())
    }

    pub(crate) fn guarded(&self) -> Vec<(u32, Direction)> {
        self.guarded.keys().map(|guarded| (guarded.interface, guarded.direction)).collect()
    }

    /// Takes the filter off again.
    pub(crate) fn unguard(&mut self, interface: u32, direction: Direction) {
        let guarded = Guarded { interface, direction };
        take_off(&self.pins.interface(&guarded.name()), self.guarded.remove(&guarded));
    }

    /// Filters of an earlier agent stay, with this build's program.
    fn adopt_interfaces(&mut self) {
        for entry in fs::read_dir(self.pins.interfaces()).into_iter().flatten().flatten() {
            let path = entry.path();
            let guarded = entry.file_name().to_str().and_then(Guarded::of_name);
            let attached = sys::open_pinned(&path).is_ok_and(|link| is_attached(&link));
            match guarded.filter(|_| attached).map(|guarded| self.guard(guarded.interface, guarded.direction))
            {
                Some(Ok(())) => {}
                Some(Err(why)) => {
                    // The old program stays in force with its pin.
                    tracing::warn!(
                        why,
                        "a packet filter of an interface keeps the program of an earlier agent"
                    );
                }
                None => take_off(&path, None),
            }
        }
    }

    /// How many links there are, and those that are gone though nobody here took them; they are put back.
    pub(crate) fn check(&mut self, tree: &Tree) -> (usize, Vec<Lost>) {
        let mut lost = Vec::new();
        let gone: Vec<CgroupId> =
            self.governed.iter().filter(|(_, link)| !is_attached(link)).map(|(id, _)| *id).collect();
        for id in gone {
            self.governed.remove(&id);
            // The kernel takes the filter off with its cgroup.
            if !tree.exists(id) {
                let _ = fs::remove_file(self.pins.egress(id));
                continue;
            }
            let again = self.packet.as_ref().ok().and_then(|program| {
                put_on_cgroup(program.as_fd(), tree, id, &self.pins.egress(id), CGROUP_INET_EGRESS).ok()
            });
            lost.push(Lost { what: format!("packet filter of cgroup {}", id.0), repaired: again.is_some() });
            self.governed.extend(again.map(|link| (id, link)));
        }
        let gone: Vec<Guarded> =
            self.guarded.iter().filter(|(_, link)| !is_attached(link)).map(|(guarded, _)| *guarded).collect();
        for guarded in gone {
            take_off(&self.pins.interface(&guarded.name()), self.guarded.remove(&guarded));
            if sys::interface_name(guarded.interface).is_some() {
                let repaired = self.guard(guarded.interface, guarded.direction).is_ok();
                lost.push(Lost { what: format!("filter of interface {}", guarded.interface), repaired });
            }
        }
        for (path, link) in self.pinned() {
            if !path.exists() && link.is_some_and(|link| repin(link, &path).is_ok()) {
                lost.push(Lost { what: format!("pin {}", path.display()), repaired: true });
            }
        }
        (self.governed.len() + self.guarded.len() + self.lsm.as_ref().map_or(0, Vec::len), lost)
    }

    fn pinned(&self) -> Vec<(PathBuf, Option<BorrowedFd<'_>>)> {
        let egress = self.governed.iter().map(|(id, link)| (self.pins.egress(*id), Some(link.as_fd())));
        let guarded = self
            .guarded
            .iter()
            .map(|(guarded, link)| (self.pins.interface(&guarded.name()), Some(link.as_fd())));
        let lsm = self.lsm.iter().flatten().zip(LSM);
        let lsm = lsm.map(|(link, belt)| (self.pins.lsm().join(belt.name), Some(link.as_fd())));
        egress.chain(guarded).chain(lsm).collect()
    }

    /// Lets go of everything, after an operator has detached the hooks: LSM links end with their last holder.
    pub(crate) fn drop_all(&mut self) {
        self.governed.clear();
        self.guarded.clear();
        const DETACHED: &str = "detached by an operator";
        self.packet = Err(DETACHED.to_owned());
        self.lsm = Err(DETACHED.to_owned());
        self.interface = Err(DETACHED.to_owned());
    }

    /// What is in force.
    pub(crate) fn layers(&self) -> [(Layer, Result<String, String>); 3] {
        let packet = match (&self.packet, &self.unfiltered, self.governed.len()) {
            (Err(why), ..) => Err(why.clone()),
            (Ok(_), Some(why), _) => Err(why.clone()),
            (Ok(_), None, 0) => Err("no cgroup is governed".to_owned()),
            (Ok(_), None, count) => Ok(format!("on {count} governed cgroups")),
        };
        let lsm = self.lsm.as_ref().map(|links| format!("{} hooks", links.len())).map_err(Clone::clone);
        let interface = match (&self.interface, self.guarded.len()) {
            (Err(why), _) => Err(why.clone()),
            (Ok(_), 0) => Err("on no interface".to_owned()),
            (Ok(_), count) => Ok(format!("on {count} interfaces")),
        };
        [(Layer::Packet, packet), (Layer::Lsm, lsm), (Layer::Interface, interface)]
    }
}

impl Guarded {
    fn name(self) -> String {
        let direction = match self.direction {
            Direction::Out => "out",
            Direction::In => "in",
        };
        format!("{}-{direction}", self.interface)
    }

    fn of_name(name: &str) -> Option<Self> {
        let (interface, direction) = name.split_once('-')?;
        let direction = match direction {
            "out" => Direction::Out,
            "in" => Direction::In,
            _ => return None,
        };
        Some(Self { interface: interface.parse().ok()?, direction })
    }
}

pub(crate) fn is_attached(link: &OwnedFd) -> bool {
    sys::link_target(link.as_fd()).is_ok_and(|target| target != 0)
}

/// An adopted link gets this build's program without a gap.
pub(crate) fn put_on_cgroup(
    program: BorrowedFd<'_>,
    tree: &Tree,
    id: CgroupId,
    path: &Path,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    if let Some(link) = adopt(program, path)? {
        return Ok(link);
    }
    let cgroup = tree.open_by_id(id)?;
    let link = sys::link_create(program, cgroup.as_fd(), attach_type)?;
    repin(link.as_fd(), path)?;
    Ok(link)
}

fn put_on_interface(program: BorrowedFd<'_>, guarded: Guarded, path: &Path) -> io::Result<OwnedFd> {
    const TCX_INGRESS: u32 = 46; // linux/bpf.h, enum bpf_attach_type
    const TCX_EGRESS: u32 = 47;
    if let Some(link) = adopt(program, path)? {
        return Ok(link);
    }
    let attach_type = match guarded.direction {
        Direction::In => TCX_INGRESS,
        Direction::Out => TCX_EGRESS,
    };
    let link = sys::link_create_on_interface(program, guarded.interface, attach_type)?;
    repin(link.as_fd(), path)?;
    Ok(link)
}

fn adopt(program: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::open_pinned(path) {
        Ok(link) if is_attached(&link) => {
            sys::link_update(link.as_fd(), program)?;
            Ok(Some(link))
        }
        Ok(_) => {
            fs::remove_file(path)?;
            Ok(None)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A tracing link cannot be given another program: the new one is attached before the old one's pin is replaced.
fn attach_lsm(object: &Object, pins: &Pins) -> Result<Vec<OwnedFd>, String> {
    let attach = |belt: Belt| {
        let program = object.belt(belt)?;
        let told = |error: io::Error| format!("{}: {error}", belt.name);
        let link = sys::raw_tracepoint_open(program.as_fd()).map_err(told)?;
        let (path, fresh) = (pins.lsm().join(belt.name), pins.lsm().join(format!("new-{}", belt.name)));
        let _ = fs::remove_file(&fresh);
        repin(link.as_fd(), &fresh).and_then(|()| fs::rename(&fresh, &path)).map_err(told)?;
        Ok(link)
    };
    let links: Result<Vec<OwnedFd>, String> = LSM.into_iter().map(attach).collect();
    if links.is_err() {
        let _ = remove_tree(&pins.lsm());
    }
    links
}

fn repin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    sys::pin(link, path)
}

pub(crate) fn take_off(path: &Path, link: Option<OwnedFd>) {
    if let Some(link) = link.or_else(|| sys::open_pinned(path).ok()) {
        let _ = sys::link_detach(link.as_fd());
    }
    let _ = fs::remove_file(path);
}
