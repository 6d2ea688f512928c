//! Unit, container and pod from a cgroup path.
//!
//! The *outermost* match counts, as in systemd's own `cg_path_get_unit`: who is given a subtree may
//! name cgroups inside it as they like, and must not become another unit or container by that.

use lockgate_model::workload::{Container, Unit};
use std::path::Path;

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) unit: Option<Unit>,
    /// Path of the unit's own cgroup.
    pub(super) unit_cgroup: Option<String>,
    pub(super) container: Option<Container>,
}

impl Placement {
    pub(super) fn of_path(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let container = container(&parts);
        // A container's own scope is the container, not a unit somebody wrote.
        let unit = unit(&parts).filter(|(_, depth)| scope_container(parts[*depth]).is_none());
        let unit_cgroup = unit.as_ref().map(|(_, depth)| format!("/{}", parts[..=*depth].join("/")));
        Self { unit: unit.map(|(unit, _)| unit), unit_cgroup, container }
    }

    /// Fills what the v2 path does not tell from version-1 paths of the same process.
    pub(super) fn or_from_v1(mut self, paths: &[String]) -> Self {
        for path in paths {
            let other = Self::of_path(path);
            self.container = self.container.or(other.container);
            // The unit's cgroup stays unknown: the path is of another hierarchy.
            self.unit = self.unit.or(other.unit);
        }
        self
    }
}

/// The outermost unit that is not a slice, and its depth; below `user@N.service` it is a user's unit.
fn unit(parts: &[&str]) -> Option<(Unit, usize)> {
    let first =
        (0..parts.len()).find(|depth| !is_slice(parts[*depth])).filter(|depth| is_unit(parts[*depth]))?;
    let named = |depth: usize, user_unit| {
        (Unit { name: parts[depth].to_owned(), invocation_id: None, user_unit }, depth)
    };
    if !parts[first].starts_with("user@") {
        return Some(named(first, false));
    }
    let inner = (first + 1..parts.len())
        .find(|depth| !is_slice(parts[*depth]))
        .filter(|depth| is_unit(parts[*depth]));
    Some(inner.map_or_else(|| named(first, false), |depth| named(depth, true)))
}

fn is_slice(part: &str) -> bool {
    part.ends_with(".slice")
}

fn is_unit(part: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap"].iter().any(|suffix| part.ends_with(suffix))
}

fn container(parts: &[&str]) -> Option<Container> {
    let depth = (0..parts.len()).find(|depth| container_at(parts, *depth).is_some())?;
    let (runtime, id) = container_at(parts, depth)?;
    let pod_uid = parts[..=depth].iter().rev().find_map(|part| pod_uid(part));
    Some(Container { id: id.to_owned(), runtime: runtime.to_owned(), pod_uid })
}

fn container_at<'a>(parts: &[&'a str], depth: usize) -> Option<(&'static str, &'a str)> {
    let part = parts[depth];
    scope_container(part).or_else(|| colon_container(part)).or_else(|| plain_container(parts, depth))
}

/// systemd driver: `docker-<id>.scope`; podman's and CRI-O's names also without `.scope`.
fn scope_container(part: &str) -> Option<(&'static str, &str)> {
    const PREFIXES: [(&str, &str); 5] = [
        ("docker-", "docker"),
        ("cri-containerd-", "containerd"),
        ("crio-", "cri-o"),
        ("libpod-", "podman"),
        ("nerdctl-", "containerd"),
    ];
    let stem = part.strip_suffix(".scope").unwrap_or(part);
    PREFIXES.iter().find_map(|(prefix, runtime)| Some((*runtime, id(stem.strip_prefix(prefix)?)?)))
}

/// containerd without the systemd driver under a systemd unit: `kubepods-…:cri-containerd:<id>`.
fn colon_container(part: &str) -> Option<(&'static str, &str)> {
    let (rest, tail) = part.rsplit_once(':')?;
    let runtime = if rest.ends_with("cri-containerd") { "containerd" } else { "unknown" };
    Some((runtime, id(tail)?))
}

/// cgroupfs driver: `/docker/<id>`, `/kubepods/…/pod<uid>/<id>`, `/k8s.io/<id>`.
fn plain_container<'a>(parts: &[&'a str], depth: usize) -> Option<(&'static str, &'a str)> {
    let id = id(parts[depth])?;
    let parent = depth.checked_sub(1).map(|above| parts[above])?;
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

/// systemd's InvocationID, which it writes to the unit's cgroup (`user.` since v250, `trusted.` before).
pub(super) fn invocation_id(unit_cgroup: &Path) -> Option<String> {
    let mut value = [0; 64];
    ["user.invocation_id", "trusted.invocation_id"].iter().find_map(|name| {
        let length = rustix::fs::getxattr(unit_cgroup, *name, &mut value[..]).ok()?;
        let text = std::str::from_utf8(value.get(..length)?).ok()?;
        (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f2a1b4c5d6e7f80112233445566778899aabbccddeeff00112233445566aabb";
    const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
    const POD: &str = "0f3c1d2e-4b5a-6978-8765-43210fedcba9";

    #[test]
    fn containers_are_found_in_recorded_layouts() {
        let under = POD.replace('-', "_");
        for (path, expected) in [
            (format!("/docker/{ID}"), Some(("docker", false))),
            (format!("/system.slice/docker-{ID}.scope"), Some(("docker", false))),
            (format!("/system.slice/docker-{ID}.scope/init.scope"), Some(("docker", false))),
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), Some(("unknown", true))),
            (format!("/kubepods/pod{POD}/{ID}"), Some(("unknown", true))),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                Some(("containerd", true)),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/crio-{ID}.scope/container"
                ),
                Some(("cri-o", true)),
            ),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-besteffort-pod{under}.slice:cri-containerd:{ID}"
                ),
                Some(("containerd", true)),
            ),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                Some(("containerd", true)),
            ),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some(("podman", false))),
            (format!("/libpod_parent/libpod-{ID}"), Some(("podman", false))),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
                Some(("podman", false)),
            ),
            (format!("/k8s.io/{ID}"), Some(("containerd", false))),
            (format!("/system.slice/docker-{}.scope", &ID[..63]), None),
            (format!("/docker/{}", ID.to_uppercase()), None),
            ("/system.slice/docker.service".to_owned(), None),
            ("/".to_owned(), None),
        ] {
            let found = Placement::of_path(&path).container;
            let shape =
                found.as_ref().map(|container| (container.runtime.as_str(), container.pod_uid.is_some()));
            assert_eq!(shape, expected, "{path}");
            if let Some(container) = found {
                assert_eq!(container.id, ID, "{path}");
                assert!(container.pod_uid.is_none_or(|uid| uid == POD), "{path}");
            }
        }
    }

    #[test]
    fn units_are_found_as_systemd_finds_them() {
        for (path, expected) in [
            (
                "/system.slice/actions.runner.acme.box.service",
                Some(("actions.runner.acme.box.service", false)),
            ),
            ("/system.slice/backup.service/worker", Some(("backup.service", false))),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some(("getty@tty1.service", false))),
            ("/user.slice/user-1000.slice/session-3.scope", Some(("session-3.scope", false))),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/job.service",
                Some(("job.service", true)),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some(("init.scope", true))),
            ("/lockgate/run/run-1-2", None),
            ("/lockgate/run/evil/fake.service", None),
            ("/init.scope", Some(("init.scope", false))),
            ("/", None),
        ] {
            let unit = Placement::of_path(path).unit;
            let shape = unit.as_ref().map(|unit| (unit.name.as_str(), unit.user_unit));
            assert_eq!(shape, expected, "{path}");
        }
    }

    #[test]
    fn names_inside_a_delegated_subtree_do_not_forge() {
        let path = format!("/system.slice/runner.service/docker-{OTHER}.scope/admin.service");
        let unit = Placement::of_path(&path).unit.expect("the delegating unit");
        assert_eq!(unit.name, "runner.service");
        let nested = format!("/docker/{ID}/docker/{OTHER}");
        assert_eq!(Placement::of_path(&nested).container.expect("the outer one").id, ID);
    }

    #[test]
    fn a_container_scope_is_not_a_unit_and_a_unit_knows_its_cgroup() {
        assert_eq!(Placement::of_path(&format!("/system.slice/docker-{ID}.scope")).unit, None);
        let placement = Placement::of_path("/system.slice/backup.service/worker");
        assert_eq!(placement.unit_cgroup.as_deref(), Some("/system.slice/backup.service"));
    }

    #[test]
    fn a_hybrid_host_shows_the_container_in_version_one() {
        let paths = ["/".to_owned(), format!("/docker/{ID}")];
        let placement = Placement::of_path("/").or_from_v1(&paths);
        assert_eq!(placement.container.expect("from v1").id, ID);
    }
}
