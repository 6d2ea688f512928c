//! Attaching, adopting and detaching one instance, and what its owner may ask of it afterwards.
//!
//! The order of [`Interceptor::attach`] is what makes a restart safe: the agent is in its own cgroup
//! before it binds (the guard lets nobody else), the listener is tagged before any program learns its
//! port, targets and governed sets are in place before a link changes, and a link changes by
//! replacement, never by removal.

use crate::{
    abi::Raw,
    belt::{Belts, Direction, Lost},
    btf::TaskOffsets,
    cgroup::{CgroupId, Tree, path_of_process},
    denial::{Counters, Denial, Reports},
    diag,
    egress::EgressMap,
    error::{Doing as _, InterceptError, chain},
    event::{CaptureEvent, Events},
    flow::FlowTable,
    govern::{GovernMaps, GovernedSet, Rules},
    hearing::{Hearing, HearingMaps, Learned},
    layer::{Layer, LayerState, states},
    listener::Listeners,
    object::{Features, Object},
    outpost::Outposts,
    pin::{Instance, Link, LinkState, Pins},
    probe::kernel_release,
    run::Runs,
    seen::{SeenMap, Sighting},
    self_test::Expected,
    sweep::{Bypass, sweep},
    sys,
    target::{TargetMap, TargetNet, local_addresses, registered_form, with_local_forms},
    veth::Veths,
    watch::Watch,
    workload::Reader,
};
use aya::maps::{Array, Map, MapData, SkStorage};
use lockgate_ebpf_common::{ABI_VERSION, Config, LISTENER_TAG, capture, map, target as scope};
use lockgate_model::{
    addr::{ClientAddr, OriginalDst},
    flow::Flow,
    port::{Attributor, FlowError},
    workload::Workload,
};
use rustix::fd::{AsFd as _, OwnedFd};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Governed cgroups that are watched for processes that move in and out; inotify's own limit is of the same order.
const FOLLOWED_CGROUPS: usize = 4096;

/// How often connections past lockgate are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What to attach.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which instance.
    pub instance: Instance,
    /// Whose egress is redirected.
    pub governed: Vec<GovernedSet>,
    /// Which destinations.
    pub targets: Vec<TargetNet>,
    /// The listener's port; by default the one that is pinned, or else a free one.
    pub port: Option<u16>,
    /// Where bpffs is mounted; by default found in mountinfo, or mounted at /sys/fs/bpf.
    pub bpffs: Option<PathBuf>,
    /// The cgroup under which `lockgate run` gives each command one of its own. Always governed.
    pub run_cgroup: Option<String>,
    /// Names of targets and their ports: what governed processes are told of them is protected before they hear it.
    pub names: BTreeMap<String, BTreeSet<u16>>,
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
    belts: Mutex<Belts>,
    pub(crate) events: Events,
    /// Connections of governed processes that went past lockgate, since the start.
    bypassed: AtomicU64,
    can_cut: Result<(), String>,
    swept: Mutex<Option<Instant>>,
    /// Which programs were missing when it was last told.
    missing: Mutex<Vec<&'static str>>,
    hearing: Mutex<Hearing>,
    outposts: Mutex<Outposts>,
    veths: Mutex<Veths>,
    seen: Mutex<SeenMap>,
    /// The network namespace of the agent; 0 when the kernel does not tell.
    own_netns: u64,
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
    /// What the maps hold.
    cgroups: BTreeSet<CgroupId>,
    /// Whether users are governed, too.
    users: bool,
}

impl Interceptor {
    /// Attaches, or adopts what an earlier agent of this instance pinned. Moves the calling process
    /// into the instance's own cgroup, whose traffic is never redirected.
    pub fn attach(settings: Settings) -> Result<Self, InterceptError> {
        Self::take_over(settings, Vec::new())
    }

    /// The same, with listeners that a [`keeper`](crate::keeper) held since the last agent of this instance left.
    pub fn take_over(settings: Settings, kept: Vec<TcpListener>) -> Result<Self, InterceptError> {
        let rules = Rules::compile(&settings.governed, settings.run_cgroup.as_deref())?;
        let offsets = TaskOffsets::of_running_kernel()?;
        let tree = Tree::open()?;
        let pins = Pins::open(&settings.instance, settings.bpffs.as_deref())?;
        let pinned = pins.config()?;
        let (lock, proxy_cgroup) = enter_own_cgroup(&tree, &settings.instance)?;
        let undo = Undo { pins: &pins, armed: pinned.is_none() };
        pins.create()?;
        let mut object = Object::load(&pins.maps())?;
        if !object.features.netns_cookie {
            return Err(InterceptError::Kernel { release: kernel_release() });
        }
        let mut config =
            Config { abi: ABI_VERSION, proxy_cgroup: proxy_cgroup.0, ..pinned.unwrap_or_default() };
        offsets.put_into(&mut config);
        let mut config_map: Array<MapData, Raw<Config>> = take(&mut object, map::CFG)?;
        let own_netns = netns_cookie().doing(|| "read the own network namespace".to_owned())?;
        config.home_netns = own_netns;
        // The bind guard reads the proxy's cgroup from here; the port is still the old one, or none.
        write_config(&mut config_map, config)?;
        let mut kept = match u16::try_from(config.port) {
            Ok(port) if port != 0 => Listeners::adopt(kept, port),
            Ok(_) | Err(_) => HashMap::new(),
        };
        let listeners = match kept.remove(&own_netns) {
            Some(listeners) => listeners,
            None => bind(settings.port, config.port)?,
        };
        let tags = tag(&mut object, &listeners)?;
        let mut outposts =
            Outposts::new(listeners.port, tags).doing(|| "read the own network namespace".to_owned())?;
        for (cookie, listeners) in kept {
            outposts.adopt(cookie, listeners)?;
        }
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
            egress: EgressMap::new(take(&mut object, map::EGRESS)?),
        };
        let mut governance = Governance { rules, probe: None, maps, cgroups: BTreeSet::new(), users: false };
        governance.apply(&tree)?;
        let runs = settings.run_cgroup.as_deref().map(|path| Runs::new(&tree, path)).transpose()?;
        let flows = FlowTable::new(take(&mut object, map::ACC)?);
        let reports = Reports::take(&mut object)?;
        let links = pins.attach(&object, tree.root().as_fd())?;
        let mut belts = Belts::attach(&object, &pins);
        belts.prove_lsm();
        belts.follow(&tree, &governance.cgroups);
        let heard = HearingMaps::take(&mut object)?;
        let mut hearing = Hearing::new(&object, &pins, &tree, heard)?;
        hearing.set(&settings.names)?;
        let seen = SeenMap::new(take(&mut object, map::SEEN)?);
        hearing.follow(&tree, &governance.cgroups, governance.users);
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
            belts: Mutex::new(belts),
            events: Events::default(),
            bypassed: AtomicU64::new(0),
            can_cut: diag::can_destroy(),
            swept: Mutex::default(),
            missing: Mutex::default(),
            hearing: Mutex::new(hearing),
            outposts: Mutex::new(outposts),
            veths: Mutex::default(),
            seen: Mutex::new(seen),
            own_netns,
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

    /// Hands over each listener that is opened in another network namespace: those that are open, and each that is
    /// opened from now on. One whose accept fails with EINVAL has been closed and is to be dropped, since it keeps its
    /// namespace alive. `serve` is called by the thread that opens them and must not wait.
    pub fn serve_namespaces(&self, serve: impl Fn(TcpListener) + Send + 'static) {
        self.core.outposts().serve_with(Box::new(serve));
    }

    /// In how many other network namespaces it listens.
    pub fn namespaces(&self) -> usize {
        self.core.outposts().len()
    }

    /// Duplicates of every listener, for a [`keeper`](crate::keeper). None is opened or closed from now on.
    pub fn hand_over(&self) -> io::Result<Vec<TcpListener>> {
        let mut outposts = self.core.outposts();
        outposts.freeze();
        let own = self.core.listeners.all().map(TcpListener::try_clone);
        own.chain(outposts.listeners()).collect()
    }

    /// Closes the listening sockets themselves, whoever holds duplicates: governed connects are refused from now on,
    /// and do not wait in a backlog that nobody reads. Accepted connections go on.
    pub fn refuse(&self) {
        self.core.outposts().close();
        for listener in self.core.listeners.all() {
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
                tracing::warn!(%error, "closing a listener");
            }
        }
    }

    /// Replaces the protected destinations: new ones are in force before old ones go.
    pub fn set_targets(&self, targets: Vec<TargetNet>) -> Result<(), InterceptError> {
        let mut current = self.core.targets();
        current.configured = targets;
        current.apply()
    }

    /// Replaces the names whose answers are heard, each with the ports of its targets.
    pub fn set_names(&self, names: &BTreeMap<String, BTreeSet<u16>>) -> Result<(), InterceptError> {
        self.core.hearing().set(names)?;
        // Nothing is attached to hear for nobody.
        self.core.follow();
        Ok(())
    }

    /// What governed processes have been told of the names of targets, by name servers of whatever kind: protected, and
    /// not to be believed.
    pub fn learned(&self) -> BTreeSet<Learned> {
        self.core.hearing().learned(&self.core.tree)
    }

    /// Why names are not heard, when they are not: then only what lockgate itself resolves is protected.
    pub fn deaf(&self) -> Option<String> {
        self.core.hearing().deaf().map(str::to_owned)
    }

    /// Replaces who is governed: new ones are in force before old ones go.
    pub fn set_governed(&self, governed: &[GovernedSet]) -> Result<(), InterceptError> {
        let run = self.core.runs.as_ref().map(Runs::path);
        let rules = Rules::compile(governed, run)?;
        let mut current = self.core.governance();
        current.rules = rules;
        current.apply(&self.core.tree)?;
        drop(current);
        self.core.follow();
        Ok(())
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

    /// Who reached what without being redirected, since the last call. Two system calls for each process and destination.
    ///
    /// # Errors
    /// When the kernel's map cannot be read.
    pub fn sightings(&self) -> Result<Vec<Sighting>, InterceptError> {
        self.core.seen.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How the hooks are doing, checked now (a few system calls).
    pub fn health(&self) -> Health {
        self.core.health()
    }

    /// What the kernel side tells, from now on; one receiver at a time.
    pub fn events(&self) -> tokio::sync::mpsc::Receiver<CaptureEvent> {
        self.core.events.subscribe()
    }

    /// Which layers are in force, and what is open because one is not.
    pub fn layers(&self) -> Vec<LayerState> {
        self.core.layers()
    }

    /// Lets only the proxy's connections pass an interface of this network namespace to protected destinations. Packets
    /// of others are dropped, whoever sends them and by whatever socket. In force until [`Interceptor::unguard`], also
    /// without the agent.
    pub fn guard(&self, interface: u32, direction: Direction) -> Result<(), InterceptError> {
        self.core
            .belts()
            .guard(interface, direction)
            .map_err(|reason| InterceptError::Guard { interface, reason })
    }

    /// The interfaces that have the filter, by this agent or an earlier one.
    pub fn guarded(&self) -> Vec<(u32, Direction)> {
        self.core.belts().guarded()
    }

    /// Takes the filter off an interface.
    pub fn unguard(&self, interface: u32, direction: Direction) {
        self.core.belts().unguard(interface, direction);
    }

    /// Whether the host's ends of the veth pairs of namespaces with governed processes get the same filter, as they come
    /// and go; no by default. Then those that an earlier agent put there are taken off.
    pub fn guard_namespaces(&self, wanted: bool) {
        self.core.veths().ask_for(wanted, &mut self.core.belts());
    }

    /// Looks for connections of governed processes that went past lockgate, and cuts them. The watch does so every second.
    pub fn sweep(&self) -> Vec<Bypass> {
        self.core.sweep()
    }

    /// How many such connections were found since the start. It should be zero.
    pub fn bypassed(&self) -> u64 {
        self.core.bypassed.load(Ordering::Relaxed)
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
    /// Links of the other layers that are attached.
    pub belts: usize,
    /// Links of the other layers that were gone since the last look, and whether they are back.
    pub lost: Vec<(String, bool)>,
}

impl Health {
    /// Everything attached and pinned.
    pub fn is_whole(&self) -> bool {
        self.detached.is_empty() && self.unknown.is_empty() && self.lost.iter().all(|(_, repaired)| *repaired)
    }
}

impl Attributor for Interceptor {
    fn flow(&self, accepted: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError> {
        let mut flow = self.core.flows.read(accepted, client)?;
        let elsewhere = self.is_elsewhere(flow.netns_cookie);
        flow.original_dst = self.core.registered_form(flow.original_dst, elsewhere);
        if self.core.expected.take(&flow) {
            return Err(FlowError::Mismatch("this is a self-test, there is nothing to serve".to_owned()));
        }
        Ok(flow)
    }

    fn attribute(&self, flow: &Flow) -> Workload {
        self.core.reader.read(&self.core.tree, flow)
    }

    fn is_elsewhere(&self, netns_cookie: u64) -> bool {
        // Before 5.15 there are no cookies, and no listeners but in the own namespace.
        netns_cookie != 0 && netns_cookie != self.core.own_netns
    }

    fn socket(&self, netns_cookie: u64, destination: SocketAddr) -> io::Result<Option<OwnedFd>> {
        if !self.is_elsewhere(netns_cookie) {
            return Ok(None);
        }
        self.core.outposts().socket(netns_cookie, destination).map(Some)
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
        self.follow();
        self.sweep_when_due();
        let governed = self.governance();
        self.outposts().look(|pid| governed.rules.governs(pid));
        drop(governed);
        let homes = self.outposts().homes();
        self.veths().follow(homes, &mut self.belts());
        self.refused()
    }

    /// What was refused since; whoever was refused for want of a listener in its network namespace gets one there.
    pub(crate) fn refused(&self) -> Vec<Denial> {
        let (denials, lost) = {
            let mut reports = self.reports();
            (reports.read(), reports.newly_lost())
        };
        // Whoever waits for it should not wait for the next round.
        if denials.iter().any(Denial::is_unclassified)
            && let Err(error) = self.governance().refresh(&self.tree)
        {
            tracing::warn!(%error, "new cgroups could not be classified; they are refused until they are");
        }
        self.events.tell_refusals(&denials);
        if lost > 0 {
            self.events.tell(CaptureEvent::Lost { count: lost });
        }
        let homeless: BTreeSet<u32> = denials.iter().filter(|d| d.is_homeless()).map(|d| d.tgid).collect();
        if !homeless.is_empty() {
            let mut outposts = self.outposts();
            homeless.into_iter().for_each(|pid| outposts.admit(pid));
        }
        denials
    }

    /// The packet filters follow what is governed.
    fn follow(&self) {
        if self.is_detached(&self.socket_health()) {
            return self.belts().drop_all();
        }
        let (cgroups, users) = {
            let governed = self.governance();
            (governed.cgroups.clone(), governed.users)
        };
        self.belts().follow(&self.tree, &cgroups);
        self.hearing().follow(&self.tree, &cgroups, users);
    }

    fn layers(&self) -> Vec<LayerState> {
        let health = self.health();
        let socket = match health.detached.is_empty() && health.unknown.is_empty() {
            true => Ok(format!("{} programs", health.whole)),
            false => Err(format!("gone: {:?}, unknown: {:?}", health.detached, health.unknown)),
        };
        let [packet, lsm, interface] = self.belts().layers();
        let cut = self.can_cut.clone().map(|()| "every second".to_owned());
        states([(Layer::Socket, socket), packet, lsm, (Layer::Sweep, cut), interface])
    }

    fn sweep_when_due(&self) {
        let mut last = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= SWEEP_EVERY) {
            self.sweep();
            *last = Some(Instant::now());
        }
    }

    /// Finds and cuts what went past lockgate.
    pub(crate) fn sweep(&self) -> Vec<Bypass> {
        let targets: Vec<TargetNet> = {
            let targets = self.targets();
            with_local_forms(&targets.configured, &targets.local).into_keys().collect()
        };
        let elsewhere = self.outposts().len() > 0;
        let found = sweep(&targets, elsewhere, || self.governed_processes());
        self.bypassed.fetch_add(found.len() as u64, Ordering::Relaxed);
        for bypass in &found {
            self.events.tell(CaptureEvent::Bypass(bypass.clone()));
        }
        found
    }

    fn governed_processes(&self) -> Vec<u32> {
        let governed = self.governance();
        let own = std::process::id();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != own && governed.rules.governs(*pid)).collect()
    }

    /// In another namespace loopback is not this host: only a target that names loopback means it.
    fn registered_form(&self, destination: OriginalDst, elsewhere: bool) -> OriginalDst {
        let targets = self.targets();
        let local = if elsewhere { &[][..] } else { &targets.local };
        OriginalDst::new(registered_form(&targets.configured, local, destination.addr()))
    }

    /// The slices in which units can appear; none while nothing is governed by unit.
    pub(crate) fn slices(&self) -> Vec<PathBuf> {
        if !self.has_globs() {
            return Vec::new();
        }
        let waiting = self.governance().rules.waiting();
        let mut slices = self.tree.slices();
        slices.extend(waiting.keys().filter_map(|path| self.tree.directory(path).ok()));
        slices
    }

    /// Governed cgroups and those below them, at most [`FOLLOWED_CGROUPS`].
    pub(crate) fn governed_directories(&self) -> Vec<PathBuf> {
        let governed = self.governance();
        governed.rules.directories(&self.tree, FOLLOWED_CGROUPS)
    }

    /// Readable when the kernel has refused somebody.
    pub(crate) fn refusals(&self) -> Option<OwnedFd> {
        self.reports()
            .readiness()
            .inspect_err(|error| tracing::warn!(%error, "refusals are read with a delay"))
            .ok()
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
        let mut health = self.socket_health();
        let mut belts = self.belts();
        if self.is_detached(&health) {
            belts.drop_all();
        }
        let (whole, lost) = belts.check(&self.tree);
        drop(belts);
        health.belts = whole;
        health.lost = lost.into_iter().map(|Lost { what, repaired }| (what, repaired)).collect();
        self.tell(&health);
        health
    }

    /// What has changed since the last look goes to the record.
    fn tell(&self, health: &Health) {
        let back = health.repinned.iter().map(|name| (format!("pin of {name}"), true));
        for (what, repaired) in back.chain(health.lost.iter().cloned()) {
            self.events.tell(CaptureEvent::HookLost { what, repaired });
        }
        let missing: Vec<&'static str> =
            health.detached.iter().copied().chain(health.unknown.iter().map(|(name, _)| *name)).collect();
        let mut told = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        for name in missing.iter().filter(|name| !told.contains(name)) {
            self.events.tell(CaptureEvent::HookLost { what: (*name).to_owned(), repaired: false });
        }
        if missing.is_empty() && !told.is_empty() {
            self.events.tell(CaptureEvent::HooksWhole);
        }
        *told = missing;
    }

    /// An operator took everything off: what only this process holds goes too.
    fn is_detached(&self, health: &Health) -> bool {
        health.detached.len() == self.links.len()
    }

    fn socket_health(&self) -> Health {
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

    fn belts(&self) -> MutexGuard<'_, Belts> {
        self.belts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outposts(&self) -> MutexGuard<'_, Outposts> {
        self.outposts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn veths(&self) -> MutexGuard<'_, Veths> {
        self.veths.lock().unwrap_or_else(PoisonError::into_inner)
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
        all.extend(self.probe.map(|probe| (probe, scope::EVERYWHERE)));
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
        resolved.cgroups.extend(self.probe.map(|probe| (probe, capture::REGISTERED)));
        self.maps.set(&resolved, &self.rules.lists())?;
        self.cgroups = resolved.governed();
        self.users = !resolved.uids.is_empty();
        Ok(())
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

/// 0 where the kernel does not tell (before 5.14): then nothing is taken over.
fn netns_cookie() -> io::Result<u64> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)?;
    Ok(sys::netns_cookie(socket.as_fd()).unwrap_or_default())
}

fn tag(object: &mut Object, listeners: &Listeners) -> Result<SkStorage<MapData, u32>, InterceptError> {
    let mut tags: SkStorage<MapData, u32> = take(object, map::LISTENER)?;
    for listener in listeners.all() {
        tags.insert(listener, LISTENER_TAG, 0).map_err(InterceptError::map(map::LISTENER))?;
    }
    Ok(tags)
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
