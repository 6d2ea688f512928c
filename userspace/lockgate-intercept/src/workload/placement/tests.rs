//! Recorded layouts, and what a workload may try to be taken for another one.

use super::*;

const ID: &str = "3f2a1b4c5d6e7f80112233445566778899aabbccddeeff00112233445566aabb";
const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";
const POD: &str = "0f3c1d2e-4b5a-6978-8765-43210fedcba9";
const OTHER_POD: &str = "eeeeeeee-4b5a-6978-8765-43210fedcba9";

fn whole(path: &str) -> Placement {
    Placement::of_path(path, usize::MAX)
}

/// The runtime, and for a pod's container the class of service.
type Container = (&'static str, Option<&'static str>);

/// Paths as runtimes make them; ids and uids replaced. The source of each layout is named beside it.
const CONTAINERS: &[(&str, &str, Option<Container>)] = &[
    // docker, cgroupfs and systemd drivers (docs.docker.com/engine/containers/runmetrics, opencontainers/runc docs/systemd.md)
    ("docker, cgroupfs", "/docker/ID", Some(("docker", None))),
    ("docker, systemd", "/system.slice/docker-ID.scope", Some(("docker", None))),
    ("systemd in docker", "/system.slice/docker-ID.scope/init.scope", Some(("docker", None))),
    ("docker, --cgroup-parent", "/ci/jobs/ID", Some(("unknown", None))),
    ("docker in docker, nested", "/docker/ID/docker/OTHER", Some(("docker", None))),
    // Kubernetes (kubelet's pkg/kubelet/cm/cgroup_manager_linux.go)
    (
        "kubelet, cgroupfs, best effort",
        "/kubepods/besteffort/podUID/ID",
        Some(("unknown", Some("best_effort"))),
    ),
    ("kubelet, cgroupfs, guaranteed", "/kubepods/podUID/ID", Some(("unknown", Some("guaranteed")))),
    (
        "kubelet and containerd, systemd",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_ID.slice/cri-containerd-ID.scope",
        Some(("containerd", Some("burstable"))),
    ),
    (
        "kubelet and docker shim, systemd (opentelemetry-java#4733)",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_ID.slice/docker-ID.scope",
        Some(("docker", Some("best_effort"))),
    ),
    (
        "kubelet systemd, containerd not (opentelemetry-java#4733)",
        "/system.slice/containerd.service/kubepods-podU_ID.slice:cri-containerd:ID",
        Some(("containerd", Some("guaranteed"))),
    ),
    (
        "the same, burstable (elastic/apm-agent-nodejs#3550)",
        "/system.slice/containerd.service/kubepods-burstable-podU_ID.slice:cri-containerd:ID",
        Some(("containerd", Some("burstable"))),
    ),
    // CRI-O (cri-o/cri-o#811, #812), with crun's sub-cgroup (containers/crun#305, cilium/tetragon#2776)
    ("CRI-O 1.0, cgroupfs", "/kubepods/burstable/podUID/ID", Some(("unknown", Some("burstable")))),
    ("CRI-O, cgroupfs", "/kubepods/burstable/podUID/crio-ID", Some(("cri-o", Some("burstable")))),
    (
        "CRI-O, systemd, crun",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_ID.slice/crio-ID.scope/container",
        Some(("cri-o", Some("best_effort"))),
    ),
    // kind: the node is a container of the host; inside its namespace the path begins below it (cilium#14951)
    (
        "kind, seen from the host",
        "/system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podU_ID.slice/cri-containerd-OTHER.scope",
        Some(("docker", None)),
    ),
    (
        "kind, seen from the node",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_ID.slice/cri-containerd-ID.scope",
        Some(("containerd", Some("burstable"))),
    ),
    ("kind, cgroupfs", "/kubelet/kubepods/besteffort/podUID/ID", Some(("unknown", Some("best_effort")))),
    ("k3s", "/system.slice/k3s.service/kubepods/burstable/podUID/ID", Some(("unknown", Some("burstable")))),
    // podman (containers/crun#703, podman-run(1) --cgroups)
    ("podman, systemd", "/machine.slice/libpod-ID.scope/container", Some(("podman", None))),
    ("podman, cgroupfs", "/libpod_parent/libpod-ID", Some(("podman", None))),
    ("podman pod", "/machine.slice/machine-libpod_pod_OTHER.slice/libpod-ID.scope", Some(("podman", None))),
    // containerd alone (ctr, nerdctl)
    ("ctr", "/k8s.io/ID", Some(("containerd", None))),
    ("nerdctl", "/system.slice/nerdctl-ID.scope", Some(("containerd", None))),
    // The monitors of containers are no containers (sustainable-computing-io/kepler#153).
    ("conmon of podman", "/machine.slice/libpod-conmon-ID.scope", None),
    ("conmon of CRI-O", "/kubepods.slice/kubepods-podU_ID.slice/crio-conmon-ID.scope", None),
    ("the daemon", "/system.slice/docker.service", None),
    ("the root", "/", None),
];

fn fill(path: &str) -> String {
    path.replace("OTHER", OTHER)
        .replace("podU_ID", &format!("pod{}", POD.replace('-', "_")))
        .replace("podUID", &format!("pod{POD}"))
        .replace("ID", ID)
}

#[test]
fn containers_and_pods_are_found_in_recorded_layouts() {
    for (name, path, expected) in CONTAINERS {
        let placement = whole(&fill(path));
        let container = placement.container.as_ref();
        let qos = placement.pod.as_ref().and_then(|pod| pod.qos.as_deref());
        let shape = container.map(|container| (container.runtime.as_str(), qos));
        assert_eq!(shape, *expected, "{name}");
        if let Some(container) = container {
            assert_eq!((container.id.as_str(), container.claimed), (ID, false), "{name}");
            assert_eq!(container.pod_uid.as_deref(), qos.map(|_| POD), "{name}");
            assert_eq!(placement.unit, None, "{name}: where the runtime runs is not what the container is");
        }
    }
}

#[test]
fn what_looks_nearly_like_an_id_is_none() {
    for path in [
        format!("/system.slice/docker-{}.scope", &ID[..63]),
        format!("/docker/{}", ID.to_uppercase()),
        format!("/{ID}"),
        format!("/kubepods/pod{}/x", &POD[..35]),
    ] {
        assert_eq!(whole(&path).container, None, "{path}");
        assert_eq!(whole(&path).pod, None, "{path}");
    }
}

#[test]
fn units_are_found_as_systemd_finds_them() {
    for (path, expected) in [
        ("/system.slice/actions.runner.acme.box.service", Some(("actions.runner.acme.box.service", false))),
        ("/system.slice/backup.service/worker", Some(("backup.service", false))),
        ("/system.slice/system-getty.slice/getty@tty1.service", Some(("getty@tty1.service", false))),
        ("/user.slice/user-1000.slice/session-3.scope", Some(("session-3.scope", false))),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/job.service", Some(("job.service", true))),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some(("init.scope", true))),
        ("/user.slice/user-1000.slice/user@1000.service/x/job.service", Some(("user@1000.service", false))),
        ("/system.slice/docker.service", Some(("docker.service", false))),
        ("/lockgate/run/run-1-2", None),
        ("/lockgate/run/evil/fake.service", None),
        ("/ci/fake.service", None),
        ("/init.scope", Some(("init.scope", false))),
        ("/", None),
    ] {
        let unit = whole(path).unit;
        let shape = unit.as_ref().map(|unit| (unit.name.as_str(), unit.user_unit));
        assert_eq!(shape, expected, "{path}");
    }
}

/// Every place a workload may be given, by what identifies it.
fn given() -> Vec<String> {
    let mut places: Vec<String> =
        CONTAINERS.iter().filter(|(_, _, found)| found.is_some()).map(|(_, path, _)| fill(path)).collect();
    places.extend(
        [
            "/system.slice/runner.service",
            "/system.slice/runner.service/payload",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/job.service",
            "/lockgate/run/run-1-2",
            "/lxc.payload.box",
            "/lxc/box",
            "/machine.slice/systemd-nspawn@box.service/payload",
        ]
        .map(str::to_owned),
    );
    places
}

/// What the principal is made of: believed container, pod, system unit.
fn identity(placement: &Placement) -> (Option<String>, Option<String>, Option<String>) {
    (
        placement.container.as_ref().filter(|container| !container.claimed).map(|c| c.id.clone()),
        placement.pod.as_ref().map(|pod| pod.uid.clone()),
        placement.unit.as_ref().filter(|unit| !unit.user_unit).map(|unit| unit.name.clone()),
    )
}

/// Names with which somebody would like to be somebody else.
fn forgeries() -> Vec<String> {
    let under = OTHER_POD.replace('-', "_");
    let plain = [
        format!("docker-{OTHER}.scope"),
        format!("docker/{OTHER}"),
        format!("crio-{OTHER}"),
        format!("libpod-{OTHER}.scope/container"),
        format!("cri-containerd-{OTHER}.scope"),
        format!("kubepods/pod{OTHER_POD}/{OTHER}"),
        format!("kubepods-pod{under}.slice:cri-containerd:{OTHER}"),
        format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/crio-{OTHER}.scope"
        ),
        "system.slice/payments.service".to_owned(),
        "payments.service".to_owned(),
        "system.slice/docker.service".to_owned(),
        "user@0.service/app.slice/admin.service".to_owned(),
        "init.scope".to_owned(),
        "../../payments.service".to_owned(),
    ];
    let mut all: Vec<String> = plain.to_vec();
    // Two deep: a forged runtime with a forged container in it.
    for outer in &plain {
        all.extend(plain.iter().map(|inner| format!("{outer}/{inner}")));
    }
    all
}

#[test]
fn no_cgroup_below_its_own_makes_a_workload_somebody_else() {
    let mut tried = 0;
    for place in given() {
        let own = identity(&whole(&place));
        for forgery in forgeries().iter().filter(|forgery| !forgery.contains("..")) {
            let forged = identity(&whole(&format!("{place}/{forgery}")));
            // Units of a user's own manager name nobody; the uid does.
            let nobody = place.ends_with("user@1000.service") && forged == (None, None, None);
            assert!(forged == own || nobody, "{place} became {forged:?} by {forgery}");
            tried += 1;
        }
    }
    assert!(tried > 5_000, "{tried}");
}

#[test]
fn below_a_directory_that_others_can_write_to_nothing_is_believed() {
    // A governed cgroup of any name that was handed to a user (chown), as CI daemons do.
    for place in ["/ci/job-7", "/kubepods", "/docker", "/system.slice", "/a/b/c"] {
        let levels = place.matches('/').count();
        let own = identity(&Placement::of_path(place, levels));
        for forgery in forgeries().iter().filter(|forgery| !forgery.contains("..")) {
            let path = format!("{place}/{forgery}");
            assert_eq!(identity(&Placement::of_path(&path, levels)), own, "{path}");
        }
    }
}

#[test]
fn any_text_is_read_and_dots_say_nothing() {
    for path in
        ["", "//", "/..", "/../../docker/x", "docker", "/a/../b", "/\u{fffd}\u{0}", &"/x".repeat(10_000)]
    {
        let placement = whole(path);
        assert_eq!((placement.container, placement.unit), (None, None), "{path:.40}");
    }
    let outside = format!("/../docker/{ID}");
    assert_eq!(identity(&whole(&outside)), (None, None, None));
}

#[test]
fn a_rootless_container_is_a_claim_of_its_user() {
    let path = format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope");
    let container = whole(&path).container.expect("shown");
    assert!(container.claimed);
    // podman with --cgroups=split, as quadlets do: the unit is what root wrote.
    let quadlet = whole(&format!("/system.slice/web.service/libpod-payload-{ID}"));
    assert_eq!(quadlet.unit.map(|unit| unit.name).as_deref(), Some("web.service"));
    assert!(quadlet.container.is_some_and(|container| container.claimed));
}

fn v1(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(controllers, path)| ((*controllers).to_owned(), fill(path))).collect()
}

#[test]
fn version_one_fills_what_version_two_leaves_open() {
    let pod = "/kubepods/burstable/podUID/ID";
    for (name, v2, lines, expected) in [
        ("legacy", "/", v1(&[("memory", "/docker/ID"), ("pids", "/docker/ID")]), Some(ID)),
        ("hybrid, pod", "/", v1(&[("cpu,cpuacct", pod), ("name=systemd", pod)]), Some(ID)),
        (
            "hybrid, container left beside its runtime (sustainable-computing-io/kepler#153)",
            "/system.slice/containerd.service",
            v1(&[("memory", pod), ("pids", pod)]),
            Some(ID),
        ),
        ("hierarchies disagree", "/", v1(&[("memory", "/docker/ID"), ("pids", "/docker/OTHER")]), None),
        ("one hierarchy elsewhere", "/", v1(&[("memory", "/docker/ID"), ("pids", "/")]), Some(ID)),
        ("only the hierarchy that users are given", "/", v1(&[("name=systemd", "/docker/ID")]), None),
        ("a named hierarchy of somebody", "/", v1(&[("name=evil", "/docker/ID")]), None),
        ("v2 knows a unit", "/system.slice/runner.service", v1(&[("memory", "/docker/OTHER")]), None),
        (
            "v2 knows a user",
            "/user.slice/user-1000.slice/user@1000.service",
            v1(&[("memory", "/docker/ID")]),
            None,
        ),
        ("v2 is lockgate's", "/lockgate/run/run-1", v1(&[("memory", "/docker/ID")]), None),
        ("v1 below a unit", "/", v1(&[("memory", "/system.slice/runner.service/docker-OTHER.scope")]), None),
    ] {
        let placement = whole(v2).or_from_v1(&lines);
        assert_eq!(identity(&placement).0.as_deref(), expected, "{name}");
    }
    let unit = whole("/").or_from_v1(&v1(&[("name=systemd", "/system.slice/backup.service")]));
    assert_eq!(unit.unit.map(|unit| unit.name).as_deref(), Some("backup.service"));
}
