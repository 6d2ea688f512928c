//! What `lockgate doctor` reports about the kernel side: each check with what was found and, when it is not
//! fine, what to do.
//!
//! What the kernel allows is found out by doing it: programs are loaded, not looked up in a configuration
//! that may say otherwise.

use crate::{
    btf::TaskOffsets,
    cgroup::{Tree, path_of_process},
    govern::Governed,
    interceptor::{Interceptor, Settings, describe, detach},
    layer::{Layer, LayerState},
    mount, object,
    pin::{Instance, Pins},
    sys,
};
use lockgate_model::{addr::ClientAddr, port::Attributor as _};
use rustix::fd::AsFd as _;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    net::{Ipv6Addr, TcpListener},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with a restriction.
    Warning,
    /// Capture does not work, or would not.
    Failed,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do, when something is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status: Status::Ok, detail: detail.into(), remedy: None }
    }

    fn not(status: Status, name: &str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { name: name.to_owned(), status, detail: detail.into(), remedy: Some(remedy.to_owned()) }
    }
}

/// All checks but the proof, which [`prove`] gives.
pub fn probe(instance: &Instance) -> Vec<Check> {
    let release = kernel_release();
    let mut checks =
        vec![kernel(&release), capabilities(), btf(), cgroup2(), bpffs(), legacy(&release), ipv6()];
    checks.extend(programs());
    checks.push(pins(instance));
    checks
}

pub(crate) fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Major and minor version of `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn kernel(release: &str) -> Check {
    const NAME: &str = "kernel";
    const UPGRADE: &str = "use a kernel of at least 5.15";
    match version(release) {
        Some(version) if version >= (5, 18) => Check::ok(NAME, release),
        Some(version) if version >= (5, 15) => Check::not(
            Status::Warning,
            NAME,
            format!("{release}: refusals show EPERM only"),
            "a kernel of 5.18 shows fitting errors",
        ),
        Some(_) => Check::not(Status::Failed, NAME, format!("{release} is too old"), UPGRADE),
        None => Check::not(
            Status::Warning,
            NAME,
            format!("{release:?} is not a version"),
            "see the programs below",
        ),
    }
}

/// Capability numbers (linux/capability.h) and what lockgate does with each.
const CAPABILITIES: [(u32, &str, &str); 7] = [
    (39, "CAP_BPF", "load programs"),
    (38, "CAP_PERFMON", "read the task's start time"),
    (12, "CAP_NET_ADMIN", "attach to cgroups"),
    (21, "CAP_SYS_ADMIN", "pin, and mount bpffs"),
    (19, "CAP_SYS_PTRACE", "read other users' /proc/<pid>/exe and environ"),
    (2, "CAP_DAC_READ_SEARCH", "find a cgroup by its id"),
    (1, "CAP_DAC_OVERRIDE", "make cgroups and move processes"),
];

fn capabilities() -> Check {
    const NAME: &str = "capabilities";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).map(str::trim);
    let Some(set) = effective.and_then(|digits| u64::from_str_radix(digits, 16).ok()) else {
        return Check::not(Status::Warning, NAME, "CapEff cannot be read", "run as root");
    };
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(number, ..)| set & (1 << number) == 0)
        .map(|(_, name, what)| format!("{name} ({what})"))
        .collect();
    if missing.is_empty() {
        Check::ok(NAME, "all that are needed")
    } else {
        Check::not(
            Status::Failed,
            NAME,
            format!("missing: {}", missing.join(", ")),
            "run as root, or grant these capabilities",
        )
    }
}

fn btf() -> Check {
    const NAME: &str = "btf";
    match TaskOffsets::of_running_kernel() {
        Ok(offsets) => Check::ok(
            NAME,
            format!(
                "task_struct: start_boottime at {}, group_leader at {}",
                offsets.start_boottime, offsets.group_leader
            ),
        ),
        Err(error) => {
            Check::not(Status::Failed, NAME, error.to_string(), "use a kernel with CONFIG_DEBUG_INFO_BTF=y")
        }
    }
}

fn cgroup2() -> Check {
    const NAME: &str = "cgroup2";
    match mount::cgroup2_root() {
        Ok(path) => Check::ok(NAME, format!("the whole hierarchy at {}", path.display())),
        Err(error) => Check::not(
            Status::Failed,
            NAME,
            error.to_string(),
            "mount -t cgroup2 none DIR, or start lockgate in the host's cgroup namespace",
        ),
    }
}

fn bpffs() -> Check {
    const NAME: &str = "bpffs";
    match mount::bpffs() {
        Ok(Some(path)) => Check::ok(NAME, path.display().to_string()),
        Ok(None) if Path::new(mount::BPFFS).exists() => {
            Check::ok(NAME, format!("not mounted; the agent mounts it at {}", mount::BPFFS))
        }
        Ok(None) => Check::not(
            Status::Failed,
            NAME,
            format!("{} does not exist", mount::BPFFS),
            "mount sysfs at /sys",
        ),
        Err(error) => Check::not(Status::Failed, NAME, error.to_string(), "make /proc readable"),
    }
}

/// Before 5.15 a version-1 net_cls or net_prio in use takes a socket's cgroup away from the v2 hooks.
fn legacy(release: &str) -> Check {
    const NAME: &str = "net_cls and net_prio";
    match mount::legacy_socket_controllers() {
        Ok(found) if found.is_empty() => Check::ok(NAME, "not mounted"),
        Ok(found) if version(release) >= Some((5, 15)) => {
            Check::ok(NAME, format!("{} mounted, harmless on this kernel", found.join(", ")))
        }
        Ok(found) => Check::not(
            Status::Failed,
            NAME,
            format!("{} mounted: sockets can leave the v2 hooks", found.join(", ")),
            "unmount it, or use a kernel of at least 5.15",
        ),
        Err(error) => Check::not(Status::Failed, NAME, error.to_string(), "make /proc readable"),
    }
}

fn ipv6() -> Check {
    const NAME: &str = "ipv6 loopback";
    match TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Check::ok(NAME, "::1 can be listened on"),
        Err(error) => Check::not(
            Status::Warning,
            NAME,
            format!("::1: {error}; IPv6 clients reach the proxy v4-mapped, IPV6_V6ONLY ones not at all"),
            "switch IPv6 on for lo where jobs need it",
        ),
    }
}

fn programs() -> Vec<Check> {
    object::try_programs()
        .into_iter()
        .map(|(spec, result)| match result {
            Ok(features) => Check::ok(spec.name, format!("loads; {}; {}", spec.job, describe(features))),
            Err(reason) => Check::not(
                Status::Failed,
                spec.name,
                format!("the kernel refuses it ({}): {reason}", spec.job),
                "check the capabilities above and kernel.unprivileged_bpf_disabled, lockdown and seccomp",
            ),
        })
        .collect()
}

fn pins(instance: &Instance) -> Check {
    const NAME: &str = "hooks";
    const DETACH: &str = "start the agent, or run `lockgate agent --detach`";
    let pins = match Pins::find(instance, None) {
        Ok(Some(pins)) => pins,
        Ok(None) => return Check::ok(NAME, "none attached: nothing is captured now"),
        Err(error) => return Check::not(Status::Failed, NAME, error.to_string(), DETACH),
    };
    let config = match pins.config() {
        Ok(Some(config)) => config,
        Ok(None) => return Check::not(Status::Failed, NAME, "pinned, but never configured", DETACH),
        Err(error) => return Check::not(Status::Failed, NAME, error.to_string(), DETACH),
    };
    let missing: Vec<&str> =
        object::PROGRAMS.iter().map(|spec| spec.name).filter(|name| !is_attached(&pins.link(name))).collect();
    if missing.is_empty() {
        let count = object::PROGRAMS.len();
        Check::ok(
            NAME,
            format!(
                "{count} attached and pinned in {}, listener port {}",
                pins.base().display(),
                config.port
            ),
        )
    } else {
        Check::not(Status::Failed, NAME, format!("not attached: {}", missing.join(", ")), DETACH)
    }
}

fn is_attached(link: &Path) -> bool {
    sys::open_pinned(link).and_then(|fd| sys::link_target(fd.as_fd())).is_ok_and(|cgroup| cgroup != 0)
}

/// Proves capture end to end with an instance of its own, which is gone afterwards, and says which layers this kernel
/// allows. The calling process is in another cgroup while it runs, and back in its own when this returns.
pub fn prove() -> Vec<Check> {
    const NAME: &str = "capture";
    match prove_or_say_why() {
        Ok(layers) => {
            let proof = "a probe in a governed cgroup came in at the listener, attributed to its process";
            std::iter::once(Check::ok(NAME, proof)).chain(layers.iter().map(LayerState::check)).collect()
        }
        Err(reason) => vec![Check::not(
            Status::Failed,
            NAME,
            reason,
            "see the checks above; each failed one explains this one",
        )],
    }
}

impl LayerState {
    /// The layer as `doctor` shows it: exactly what is open without it.
    pub fn check(&self) -> Check {
        let name = self.layer.as_str();
        if self.active {
            return Check::ok(name, self.detail.clone());
        }
        if self.open.is_empty() {
            return Check::ok(name, format!("not in force ({}); nothing is open because of it", self.detail));
        }
        let open = self.open.join("; ");
        let status = if self.layer == Layer::Socket { Status::Failed } else { Status::Warning };
        Check::not(
            status,
            name,
            format!("not in force ({}). Not stopped: {open}", self.detail),
            self.layer.remedy(),
        )
    }
}

fn prove_or_say_why() -> Result<Vec<LayerState>, String> {
    let instance =
        Instance::new(&format!("doctor-{}", std::process::id())).map_err(|error| error.to_string())?;
    // Last: the cgroup can be removed only after this process has left it.
    let _cleanup = Cleanup(&instance);
    let _home = Home::remember()?;
    let settings = Settings {
        instance: instance.clone(),
        governed: vec![Governed::Cgroup(format!("/lockgate/{}", instance.as_str())).into()],
        ..Settings::default()
    };
    let interceptor = Arc::new(Interceptor::attach(settings).map_err(|error| error.to_string())?);
    let listeners = interceptor.listeners().map_err(|error| error.to_string())?;
    let done = Arc::new(AtomicBool::new(false));
    let acceptor = thread::spawn({
        let (interceptor, done) = (Arc::clone(&interceptor), Arc::clone(&done));
        move || accept_until(&done, &listeners, &interceptor)
    });
    let result = interceptor.self_test().map_err(|error| error.to_string());
    done.store(true, Ordering::Relaxed);
    let _ = acceptor.join();
    result.map(|()| interceptor.layers())
}

/// The least that a proxy does: accept, and ask whose it is.
fn accept_until(done: &AtomicBool, listeners: &[TcpListener], interceptor: &Interceptor) {
    while !done.load(Ordering::Relaxed) {
        for listener in listeners {
            if let Ok((connection, peer)) = listener.accept() {
                // The self-test takes its flow out of this call.
                let _ = interceptor.flow(connection.as_fd(), ClientAddr(peer));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Removes the proof's instance and cgroup.
struct Cleanup<'a>(&'a Instance);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        if let Ok(tree) = Tree::open()
            && let Ok(directory) = tree.directory(&format!("/lockgate/{}", self.0.as_str()))
        {
            let _ = fs::remove_dir(directory);
        }
        let _ = detach(self.0, None);
    }
}

/// Takes the process back to the cgroup it came from.
struct Home {
    tree: Tree,
    path: String,
}

impl Home {
    fn remember() -> Result<Self, String> {
        let tree = Tree::open().map_err(|error| error.to_string())?;
        let path = path_of_process(std::process::id()).map_err(|error| error.to_string())?;
        Ok(Self { tree, path: path.ok_or("this process is in no v2 cgroup")? })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let directory = self.tree.mount().join(self.path.trim_start_matches('/'));
        if let Err(error) = self.tree.join(&directory, std::process::id()) {
            tracing::warn!(%error, cgroup = self.path, "cannot go back to the cgroup this process came from");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_judged_by_what_the_programs_need() {
        for (release, expected) in [
            ("6.18.44", Status::Ok),
            ("5.18.0", Status::Ok),
            ("5.15.0-1051-aws", Status::Warning),
            ("5.10.0-28-amd64", Status::Failed),
            ("5.4.0", Status::Failed),
            ("4.19.0", Status::Failed),
            ("", Status::Warning),
        ] {
            let check = kernel(release);
            assert_eq!(check.status, expected, "{release}");
            assert_eq!(check.remedy.is_none(), expected == Status::Ok, "{release}");
        }
    }
}
