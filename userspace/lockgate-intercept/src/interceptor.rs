//! Attaching, adopting and detaching one instance, and what its owner may ask of it afterwards.
//!
//! The order of [`Interceptor::attach`] is what makes a restart safe: the agent is in its own cgroup
//! before it binds (the guard lets nobody else), the listener is tagged before any program learns its
//! port, targets and governed sets are in place before a link changes, and a link changes by
//! replacement, never by removal.

use crate::{
    abi::Raw,
    btf::TaskOffsets,
    cgroup::{CgroupId, Tree, path_of_process},
    denial::{Counters, Denial, Reports},
    error::{Doing as _, InterceptError, chain},
    flow::FlowTable,
    govern::{GovernMaps, Governed, Rules},
    listener::Listeners,
    object::{Features, Object},
    pin::{Instance, Link, LinkState, Pins},
    run::Runs,
    self_test::Expected,
    target::{TargetMap, TargetNet, local_addresses, registered_form, with_local_forms},
    watch::Watch,
    workload::Reader,
};
use aya::maps::{Array, Map, MapData, SkStorage};
use lockgate_ebpf_common::{ABI_VERSION, Config, LISTENER_TAG, map};
use lockgate_model::{
    addr::{ClientAddr, OriginalDst},
    flow::Flow,
    port::{Attributor, FlowError},
    workload::Workload,
};
use rustix::fd::{AsFd as _, OwnedFd};
use std::{
    fs,
    net::{IpAddr, TcpListener},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What to attach.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which instance.
    pub instance: Instance,
    /// Whose egress is redirected.
    pub governed: Vec<Governed>,
    /// Which destinations.
    pub targets: Vec<TargetNet>,
    /// The listener's port; by default the one that is pinned, or else a free one.
    pub port: Option<u16>,
    /// Where bpffs is mounted; by default found in mountinfo, or mounted at /sys/fs/bpf.
    pub bpffs: Option<PathBuf>,
    /// The cgroup under which `lockgate run` gives each command one of its own. Always governed.
    pub run_cgroup: Option<String>,
}

/// One attached instance. Dropping it closes the listeners and leaves the pinned hooks in force:
/// governed connections are then refused. [`detach`] takes the hooks away.
#[derive(Debug)]
pub struct Interceptor {
    core: Arc<Core>,
    _watch: Watch,
}

/// What the watch thread shares with the owner.
pub(crate) struct Core {
    instance: Instance,
    pub(crate) tree: Tree,
    pins: Pins,
    listeners: Listeners,
    features: Features,
    adopted: bool,
    flows: FlowTable,
    reader: Reader,
    runs: Option<Runs>,
    links: Vec<Link>,
    pub(crate) expected: Expected,
    reports: Mutex<Reports>,
    targets: Mutex<Targets>,
    governed: Mutex<Governance>,
    /// Held for the life of the agent: the mark of "running".
    _lock: OwnedFd,
}

struct Targets {
    configured: Vec<TargetNet>,
    /// The address of a self-test, while one runs.
    probe: Option<TargetNet>,
    local: Vec<IpAddr>,
    map: TargetMap,
}

struct Governance {
    rules: Rules,
    /// The cgroup of a self-test, while one runs.
    probe: Option<CgroupId>,
    maps: GovernMaps,
}

impl Interceptor {
    /// Attaches, or adopts what an earlier agent of this instance pinned. Moves the calling process
    /// into the instance's own cgroup, whose traffic is never redirected.
    pub fn attach(settings: Settings) -> Result<Self, InterceptError> {
        let rules = Rules::compile(&settings.governed, settings.run_cgroup.as_deref())?;
        let offsets = TaskOffsets::of_running_kernel()?;
        let tree = Tree::open()?;
        let pins = Pins::open(&settings.instance, settings.bpffs.as_deref())?;
        let pinned = pins.config()?;
        let (lock, proxy_cgroup) = enter_own_cgroup(&tree, &settings.instance)?;
        let undo = Undo { pins: &pins, armed: pinned.is_none() };
        pins.create()?;
        let mut object = Object::load(&pins.maps())?;
        let mut config =
            Config { abi: ABI_VERSION, proxy_cgroup: proxy_cgroup.0, ..pinned.unwrap_or_default() };
        offsets.put_into(&mut config);
        let mut config_map: Array<MapData, Raw<Config>> = take(&mut object, map::CFG)?;
        // The bind guard reads the proxy's cgroup from here; the port is still the old one, or none.
        write_config(&mut config_map, config)?;
        let listeners = bind(settings.port, config.port)?;
        tag(&mut object, &listeners)?;
        config.port = u32::from(listeners.port);
        write_config(&mut config_map, config)?;
        let mut targets = Targets {
            configured: settings.targets,
            probe: None,
            local: local_addresses(),
            map: TargetMap::new(take(&mut object, map::TARGETS)?),
        };
        targets.apply()?;
        let maps = GovernMaps {
            cgroups: take(&mut object, map::CAPTURE_CG)?,
            uids: take(&mut object, map::CAPTURE_UID)?,
        };
        let mut governance = Governance { rules, probe: None, maps };
        governance.apply(&tree)?;
        let runs = settings.run_cgroup.as_deref().map(|path| Runs::new(&tree, path)).transpose()?;
        let flows = FlowTable::new(take(&mut object, map::ACC)?);
        let reports = Reports::take(&mut object)?;
        let links = pins.attach(&object, tree.root().as_fd())?;
        undo.disarm();
        let core = Arc::new(Core {
            instance: settings.instance,
            tree,
            pins,
            listeners,
            features: object.features,
            adopted: pinned.is_some(),
            flows,
            reader: Reader::default(),
            runs,
            links,
            expected: Expected::default(),
            reports: Mutex::new(reports),
            targets: Mutex::new(targets),
            governed: Mutex::new(governance),
            _lock: lock,
        });
        let watch = Watch::start(Arc::clone(&core)).doing(|| "start the watch thread".to_owned())?;
        Ok(Self { core, _watch: watch })
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Which instance this is.
    pub fn instance(&self) -> &Instance {
        &self.core.instance
    }

    /// Whether hooks of an earlier agent were taken over.
    pub fn adopted(&self) -> bool {
        self.core.adopted
    }

    /// Whether bpffs had to be mounted for the pins; it stays mounted.
    pub fn mounted_bpffs(&self) -> bool {
        self.core.pins.mounted_bpffs
    }

    /// Where the hooks are pinned.
    pub fn pin_directory(&self) -> &std::path::Path {
        self.core.pins.base()
    }

    /// The port of all listeners.
    pub fn port(&self) -> u16 {
        self.core.listeners.port
    }

    /// The tagged listeners (non-blocking; 127.0.0.1, and `::1` where there is IPv6), as duplicates of
    /// the descriptors that this value keeps open.
    pub fn listeners(&self) -> Result<Vec<TcpListener>, InterceptError> {
        self.core
            .listeners
            .all()
            .map(|listener| listener.try_clone().doing(|| "duplicate a listener".to_owned()))
            .collect()
    }

    /// Replaces the protected destinations: new ones are in force before old ones go.
    pub fn set_targets(&self, targets: Vec<TargetNet>) -> Result<(), InterceptError> {
        let mut current = self.core.targets();
        current.configured = targets;
        current.apply()
    }

    /// Replaces who is governed: new ones are in force before old ones go.
    pub fn set_governed(&self, governed: &[Governed]) -> Result<(), InterceptError> {
        let run = self.core.runs.as_ref().map(Runs::path);
        let rules = Rules::compile(governed, run)?;
        let mut current = self.core.governance();
        current.rules = rules;
        current.apply(&self.core.tree)
    }

    /// Gives a process a governed cgroup of its own, as `lockgate run` asks. The caller has made sure
    /// (SO_PEERCRED) that the asking process is this one; `start_ticks` is field 22 of its /proc stat.
    ///
    /// One whose cgroup is governed already stays where it is: moved, it would leave its unit and with it
    /// the name that policy knows it by.
    pub fn place(&self, pid: u32, start_ticks: u64) -> Result<crate::RunCgroup, InterceptError> {
        let runs = self.core.runs.as_ref().ok_or_else(|| InterceptError::Place {
            pid,
            reason: "this agent has no cgroup for `lockgate run`".to_owned(),
        })?;
        let tree = &self.core.tree;
        if let Ok(Some(path)) = path_of_process(pid)
            && self.core.governance().rules.covers(&path)
        {
            let id = tree.directory(&path).and_then(|directory| {
                tree.id_of(&directory).doing(|| format!("read cgroup {}", directory.display()))
            })?;
            return Ok(crate::RunCgroup { path, id: id.0 });
        }
        runs.place(tree, pid, start_ticks)
    }

    /// Counters of the programs.
    pub fn counters(&self) -> Counters {
        self.core.reports().counters()
    }

    /// How the hooks are doing, checked now (a few system calls).
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// What the kernel lets the programs do, in words for `doctor` and the log.
    pub fn abilities(&self) -> String {
        describe(self.core.features)
    }
}

/// How an instance's hooks are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Programs that are attached and pinned.
    pub whole: usize,
    /// Programs whose pin had been removed; they are pinned again.
    pub repinned: Vec<&'static str>,
    /// Programs that are no longer attached: their part of the capture is gone.
    pub detached: Vec<&'static str>,
    /// Programs whose state could not be read or repaired.
    pub unknown: Vec<(&'static str, String)>,
}

impl Health {
    /// Everything attached and pinned.
    pub fn is_whole(&self) -> bool {
        self.detached.is_empty() && self.unknown.is_empty()
    }
}

impl Attributor for Interceptor {
    fn flow(&self, accepted: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError> {
        let mut flow = self.core.flows.read(accepted, client)?;
        flow.original_dst = self.core.registered_form(flow.original_dst);
        if self.core.expected.take(&flow) {
            return Err(FlowError::Mismatch("this is a self-test, there is nothing to serve".to_owned()));
        }
        Ok(flow)
    }

    fn attribute(&self, flow: &Flow) -> Workload {
        self.core.reader.read(&self.core.tree, flow)
    }
}

impl Core {
    /// What the watch thread does each time it wakes.
    pub(crate) fn tick(&self) -> Vec<Denial> {
        if let Err(error) = self.governance().refresh(&self.tree) {
            tracing::warn!(%error, "governed units could not be looked up; the last ones stay governed");
        }
        if let Err(error) = self.targets().refresh() {
            tracing::warn!(%error, "targets could not be widened to this host's new addresses");
        }
        if let Some(runs) = &self.runs {
            runs.sweep();
        }
        self.reports().read()
    }

    fn registered_form(&self, destination: OriginalDst) -> OriginalDst {
        let targets = self.targets();
        OriginalDst::new(registered_form(&targets.configured, &targets.local, destination.addr()))
    }

    /// The slices in which units can appear; none while nothing is governed by unit.
    pub(crate) fn slices(&self) -> Vec<PathBuf> {
        if self.has_globs() { self.tree.slices() } else { Vec::new() }
    }

    /// Where a self-test puts its child: inside what is governed, if that is a cgroup.
    pub(crate) fn probe_cgroup(&self) -> String {
        self.governance().rules.first_cgroup().unwrap_or("/lockgate").to_owned()
    }

    /// Protects the address of a self-test (or no longer), and governs its cgroup where nothing else does.
    pub(crate) fn protect_probe(
        &self,
        target: Option<TargetNet>,
        cgroup: Option<&str>,
    ) -> Result<(), InterceptError> {
        let mut governed = self.governance();
        let needed = cgroup.filter(|_| governed.rules.first_cgroup().is_none());
        governed.probe = needed.map(|path| self.tree.create(path)).transpose()?;
        governed.apply(&self.tree)?;
        drop(governed);
        let mut targets = self.targets();
        targets.probe = target;
        targets.apply()
    }

    pub(crate) fn has_globs(&self) -> bool {
        self.governance().rules.has_globs()
    }

    pub(crate) fn health(&self) -> Health {
        let mut health = Health::default();
        for link in &self.links {
            match link.check(&self.pins) {
                Ok(LinkState::Whole) => health.whole += 1,
                Ok(LinkState::Repinned) => {
                    health.whole += 1;
                    health.repinned.push(link.spec.name);
                }
                Ok(LinkState::Detached) => health.detached.push(link.spec.name),
                Err(error) => health.unknown.push((link.spec.name, error.to_string())),
            }
        }
        health
    }

    fn targets(&self) -> MutexGuard<'_, Targets> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn governance(&self) -> MutexGuard<'_, Governance> {
        self.governed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("instance", &self.instance)
            .field("port", &self.listeners.port)
            .finish_non_exhaustive()
    }
}

impl Targets {
    fn apply(&mut self) -> Result<(), InterceptError> {
        let mut all = with_local_forms(&self.configured, &self.local);
        all.extend(self.probe);
        self.map.set(&all)
    }

    /// Follows addresses that come to and go from this host.
    fn refresh(&mut self) -> Result<(), InterceptError> {
        let local = local_addresses();
        if local == self.local {
            return Ok(());
        }
        self.local = local;
        self.apply()
    }
}

impl Governance {
    fn apply(&mut self, tree: &Tree) -> Result<(), InterceptError> {
        let mut resolved = self.rules.resolve(tree)?;
        resolved.cgroups.extend(self.probe);
        self.maps.set(&resolved)
    }

    fn refresh(&mut self, tree: &Tree) -> Result<(), InterceptError> {
        if self.rules.has_globs() { self.apply(tree) } else { Ok(()) }
    }
}

/// Removes the pins of a first attachment that did not succeed; adopted ones stay in force.
struct Undo<'a> {
    pins: &'a Pins,
    armed: bool,
}

impl Undo<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = self.pins.remove();
        }
    }
}

/// Joins the instance's own cgroup and takes its lock.
fn enter_own_cgroup(tree: &Tree, instance: &Instance) -> Result<(OwnedFd, CgroupId), InterceptError> {
    use rustix::fs::{FlockOperation, flock};
    let id = tree.create(&instance.agent_cgroup())?;
    let directory = tree.directory(&instance.agent_cgroup())?;
    let lock: OwnedFd = fs::File::open(&directory).doing(|| format!("open {}", directory.display()))?.into();
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(InterceptError::Running { instance: instance.as_str().to_owned(), path: directory });
        }
        Err(error) => return Err(error).doing(|| format!("lock {}", directory.display())),
    }
    tree.join(&directory, std::process::id()).doing(|| format!("join {}", directory.display()))?;
    Ok((lock, id))
}

fn bind(asked: Option<u16>, pinned: u32) -> Result<Listeners, InterceptError> {
    match asked.or(u16::try_from(pinned).ok().filter(|port| *port != 0)) {
        Some(port) => Listeners::bind(port),
        None => Listeners::bind_any(),
    }
}

fn tag(object: &mut Object, listeners: &Listeners) -> Result<(), InterceptError> {
    let mut tags: SkStorage<MapData, u32> = take(object, map::LISTENER)?;
    for listener in listeners.all() {
        tags.insert(listener, LISTENER_TAG, 0).map_err(InterceptError::map(map::LISTENER))?;
    }
    Ok(())
}

fn write_config(map: &mut Array<MapData, Raw<Config>>, config: Config) -> Result<(), InterceptError> {
    map.set(0, Raw(config), 0).map_err(InterceptError::map(map::CFG))
}

/// Takes a map out of the object in its typed form.
pub(crate) fn take<T: TryFrom<Map, Error = aya::maps::MapError>>(
    object: &mut Object,
    name: &'static str,
) -> Result<T, InterceptError> {
    let missing = || InterceptError::Map { map: name, reason: "not in the object".to_owned() };
    let map = object.ebpf.take_map(name).ok_or_else(missing)?;
    T::try_from(map).map_err(|error| InterceptError::Map { map: name, reason: chain(&error) })
}

pub(crate) fn describe(features: Features) -> String {
    let errno = if features.set_retval { "fitting errno" } else { "EPERM only (kernel before 5.18)" };
    let netns = if features.netns_cookie {
        "namespaces told apart"
    } else {
        "one namespace only (kernel before 5.15)"
    };
    format!("refusals: {errno}; {netns}")
}

/// Takes an instance's hooks off the host, running agent or not, and removes its pins and its own
/// cgroup. Returns false when there was nothing to remove.
pub fn detach(instance: &Instance, bpffs: Option<&std::path::Path>) -> Result<bool, InterceptError> {
    let pins = Pins::find(instance, bpffs)?;
    if let Some(pins) = &pins {
        pins.remove()?;
    }
    let tree = Tree::open()?;
    let directory = tree.directory(&instance.agent_cgroup())?;
    // Busy while the agent lives; it leaves the empty directory behind, which harms nobody.
    if fs::remove_dir(&directory).is_ok()
        && let Some(parent) = directory.parent()
    {
        // Stays when it holds governed cgroups or other instances.
        let _ = fs::remove_dir(parent);
    }
    Ok(pins.is_some())
}
