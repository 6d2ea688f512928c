//! Unit, container and pod from a cgroup path: pure, no file is read here.
//!
//! The *outermost* name counts, as in systemd's own `cg_path_get_unit`: who is given a subtree may name
//! cgroups inside it as they like, and must not become another unit, container or pod by that. Two things
//! say where such a subtree begins: the path itself (a unit that is no container runtime, a user manager,
//! lockgate's own cgroups, a system container), and the number of outer levels whose directories only root
//! can write to, which [`super`] reads off the tree. What lies deeper is shown as `claimed` and identifies
//! nobody. Root on the node makes any cgroup it likes; see the threat model.

use lockgate_model::workload::{Container, Pod, Unit};

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) unit: Option<Unit>,
    pub(super) container: Option<Container>,
    pub(super) pod: Option<Pod>,
    /// The levels whose names the workload itself could have chosen were entered.
    delegated: bool,
}

/// Whose names are being read, from outside in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Realm {
    /// Only root, systemd and runtimes make cgroups here.
    Host,
    /// Below a container runtime's own unit.
    Runtime,
    /// Below something that may be delegated to the workload.
    Workload,
    /// Below `user@N.service`, before a unit of its manager was met.
    UserManager,
}

impl Placement {
    /// `root_owned` is how many of the outermost names were given by somebody who is root: the directories
    /// above each of them can be written to by root alone.
    pub(super) fn of_path(path: &str, root_owned: usize) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        // Outside this cgroup namespace: nothing is known about whose names these are.
        if parts.contains(&"..") {
            return Self { delegated: true, ..Self::default() };
        }
        let mut placement = Self::default();
        let mut realm = Realm::Host;
        for (depth, part) in parts.iter().enumerate() {
            if depth >= root_owned && matches!(realm, Realm::Host | Realm::Runtime) {
                realm = Realm::Workload;
            }
            placement.see_pod(part, &parts[..depth], realm);
            if let Some((runtime, id)) = container_at(&parts, depth) {
                placement.see_container(runtime, id, realm);
                return placement;
            }
            realm = placement.enter(part, parts.get(..depth).unwrap_or_default(), realm);
        }
        placement.delegated = !matches!(realm, Realm::Host | Realm::Runtime);
        placement
    }

    fn see_pod(&mut self, part: &str, above: &[&str], realm: Realm) {
        if self.pod.is_none()
            && matches!(realm, Realm::Host | Realm::Runtime)
            && let Some(uid) = pod_uid(part)
            && above.iter().chain([&part]).any(|name| name.contains("kubepods"))
        {
            let qos = Some(qos(part, above).to_owned());
            self.pod = Some(Pod { uid, qos, ..Pod::default() });
        }
    }

    fn see_container(&mut self, runtime: &str, id: &str, realm: Realm) {
        let claimed = match realm {
            Realm::Host | Realm::Runtime => false,
            Realm::Workload | Realm::UserManager => true,
        };
        if !claimed {
            // The runtime's own unit is where the runtime runs, not what the container is.
            self.unit = None;
        }
        self.delegated = claimed;
        let pod_uid = self.pod.as_ref().map(|pod| pod.uid.clone());
        self.container = Some(Container { id: id.to_owned(), runtime: runtime.to_owned(), pod_uid, claimed });
    }

    /// Notes a unit, and says whose names follow below.
    fn enter(&mut self, part: &str, above: &[&str], realm: Realm) -> Realm {
        if is_slice(part) {
            return realm;
        }
        let named = |user_unit| Some(Unit { name: part.to_owned(), invocation_id: None, user_unit });
        match realm {
            // Units are made by systemd in slices; elsewhere this is only a directory with such a name.
            Realm::Host if is_unit(part) && above.iter().all(|name| is_slice(name)) => {
                self.unit = named(false);
                match part {
                    _ if part.starts_with("user@") => Realm::UserManager,
                    _ if is_runtime(part) => Realm::Runtime,
                    _ => Realm::Workload,
                }
            }
            Realm::Host if gives_away(part, above) => Realm::Workload,
            Realm::UserManager => {
                if is_unit(part) {
                    self.unit = named(true);
                }
                Realm::Workload
            }
            Realm::Host | Realm::Runtime | Realm::Workload => realm,
        }
    }

    /// Whether version-1 hierarchies may say more: the v2 path names no container, and nothing in it
    /// belongs to a workload. Runtimes on hybrid hosts often leave containers where the runtime is.
    pub(super) fn leaves_open(&self) -> bool {
        self.container.is_none() && self.pod.is_none() && !self.delegated
    }

    /// Fills what the v2 path leaves open from the lines of `/proc/<pid>/cgroup` (controllers, path). Paths
    /// that disagree about the container name none: some hierarchy is not the runtime's alone.
    pub(super) fn or_from_v1(self, lines: &[(String, String)]) -> Self {
        if !self.leaves_open() {
            return self;
        }
        let place = |path: &String| Self::of_path(path, usize::MAX);
        // systemd gives `name=systemd` to user managers; controllers it gives to nobody but root.
        let systemd = lines.iter().find(|(controllers, _)| controllers == "name=systemd");
        let found: Vec<Self> = lines
            .iter()
            .filter(|(controllers, _)| !controllers.is_empty() && !controllers.starts_with("name="))
            .map(|(_, path)| place(path))
            .filter(|place| place.container.is_some() || place.pod.is_some())
            .collect();
        let agreed = found
            .first()
            .filter(|first| {
                found.iter().all(|place| {
                    place.container.as_ref().map(|c| &c.id) == first.container.as_ref().map(|c| &c.id)
                        && place.pod.as_ref().map(|pod| &pod.uid) == first.pod.as_ref().map(|pod| &pod.uid)
                })
            })
            .filter(|first| first.container.as_ref().is_none_or(|container| !container.claimed));
        match (agreed, found.is_empty()) {
            (Some(agreed), _) => agreed.clone(),
            (None, false) => self,
            // No container anywhere: the unit, where only version 1 knows it.
            (None, true) if self.unit.is_none() => {
                let unit = systemd.and_then(|(_, path)| place(path).unit);
                Self { unit, ..self }
            }
            (None, true) => self,
        }
    }
}

fn is_slice(part: &str) -> bool {
    part.ends_with(".slice")
}

fn is_unit(part: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap"].iter().any(|suffix| part.ends_with(suffix))
}

/// Units below which container runtimes and kubelets put cgroups of others.
fn is_runtime(unit: &str) -> bool {
    const RUNTIMES: [&str; 14] = [
        "containerd.service",
        "docker.service",
        "crio.service",
        "cri-o.service",
        "podman.service",
        "kubelet.service",
        "k3s.service",
        "k3s-agent.service",
        "rke2-server.service",
        "rke2-agent.service",
        "k0scontroller.service",
        "k0sworker.service",
        "snap.docker.dockerd.service",
        "snap.microk8s.daemon-containerd.service",
    ];
    RUNTIMES.contains(&unit)
}

/// Names outside systemd below which a workload, as root of its own system, makes cgroups: lockgate's own, and
/// system containers (lxc, incus).
fn gives_away(part: &str, above: &[&str]) -> bool {
    (above.is_empty() && part == "lockgate")
        || part.starts_with("lxc.payload")
        || part.starts_with("lxc.monitor")
        || (above.len() == 1 && above.first() == Some(&"lxc"))
}

fn container_at<'a>(parts: &[&'a str], depth: usize) -> Option<(&'static str, &'a str)> {
    let part = *parts.get(depth)?;
    scope_container(part)
        .or_else(|| colon_container(part))
        .or_else(|| plain_container(part, parts.get(depth.checked_sub(1)?)?))
}

/// systemd driver: `docker-<id>.scope`; podman's and CRI-O's names also without `.scope`.
fn scope_container(part: &str) -> Option<(&'static str, &str)> {
    const PREFIXES: [(&str, &str); 6] = [
        ("docker-", "docker"),
        ("cri-containerd-", "containerd"),
        ("crio-", "cri-o"),
        ("libpod-payload-", "podman"),
        ("libpod-", "podman"),
        ("nerdctl-", "containerd"),
    ];
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    PREFIXES.iter().find_map(|(prefix, runtime)| Some((*runtime, id(stem.strip_prefix(prefix)?)?)))
}

/// containerd without the systemd driver under a systemd kubelet: `kubepods-…:cri-containerd:<id>`.
fn colon_container(part: &str) -> Option<(&'static str, &str)> {
    let (rest, tail) = part.rsplit_once(':')?;
    let runtime = if rest.ends_with("cri-containerd") { "containerd" } else { "unknown" };
    Some((runtime, id(tail)?))
}

/// cgroupfs driver: `/docker/<id>`, `/kubepods/…/pod<uid>/<id>`, `/k8s.io/<id>`.
fn plain_container<'a>(part: &'a str, parent: &str) -> Option<(&'static str, &'a str)> {
    let id = id(part)?;
    let runtime = match parent {
        "docker" => "docker",
        "k8s.io" | "moby" | "default" => "containerd",
        _ => "unknown",
    };
    Some((runtime, id))
}

/// 64 lower-case hexadecimal digits.
fn id(text: &str) -> Option<&str> {
    (text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))).then_some(text)
}

/// `pod<uid>`, or `kubepods-burstable-pod<uid with underscores>.slice`, possibly with `:…` behind.
fn pod_uid(part: &str) -> Option<String> {
    let stem = part.split(':').next().unwrap_or(part);
    let stem = stem.strip_suffix(".slice").unwrap_or(stem);
    let (before, uid) = stem.rsplit_once("pod")?;
    let fits = before.is_empty() || before.ends_with('-');
    let uid = uid.replace('_', "-");
    // A mirror pod's uid is 32 digits without dashes.
    let is_uid =
        matches!(uid.len(), 32 | 36) && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (fits && is_uid).then_some(uid)
}

/// The kubelet puts guaranteed pods directly below its root (kubelet's pkg/kubelet/cm).
fn qos(part: &str, above: &[&str]) -> &'static str {
    let says = |word: &str| part.contains(word) || above.iter().any(|name| name.contains(word));
    if says("besteffort") {
        "best_effort"
    } else if says("burstable") {
        "burstable"
    } else {
        "guaranteed"
    }
}

#[cfg(test)]
mod tests;
