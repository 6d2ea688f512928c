//! An agent that is itself a container: the host's cgroups, as the host names them.
//!
//! On hosts with cgroup version 2 alone, runtimes give containers a cgroup namespace of their own. In it the hierarchy's root
//! has another name, processes of other containers have none, and with `nsdelegate` nobody moves out. What the agent needs
//! is the host's view; it finds it at the host's first processes when the container shares the host's process ids. It
//! leaves other namespaces as they are.
//!
//! On hosts with version 1, alone or beside, runtimes know what belongs to a container by its cgroups of that version, and
//! end all of it with the container. What has to outlive it leaves those.

use crate::mount;
use rustix::{
    fd::AsFd as _,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The initial cgroup namespace's inode: `PROC_CGROUP_INIT_INO` of include/linux/proc_ns.h, the same on every kernel.
const INITIAL: u64 = 0xEFFF_FFFB;
/// init, and where that may not be looked at, the kernel's own first thread.
const FIRST: [&str; 2] = ["/proc/1/ns/cgroup", "/proc/2/ns/cgroup"];

/// Moves the calling thread, and those it starts from now on, into the host's cgroup namespace. Whether it was in another
/// one, and the host's could be found: nothing changes on a host, nor in a container with process ids of its own.
///
/// # Errors
/// When the kernel refuses: it takes CAP_SYS_ADMIN.
pub fn enter_host_cgroups() -> io::Result<bool> {
    if is_initial(Path::new("/proc/thread-self/ns/cgroup")) {
        return Ok(false);
    }
    let Some(host) = FIRST.iter().map(Path::new).find(|namespace| is_initial(namespace)) else {
        return Ok(false);
    };
    let namespace = fs::File::open(host)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    Ok(true)
}

fn is_initial(namespace: &Path) -> bool {
    fs::metadata(namespace).is_ok_and(|file| file.ino() == INITIAL)
}

/// The controller by whose cgroup runtimes find the processes of a container (runc, `cgroups/fs`: `GetAllPids`).
const OF_THE_RUNTIME: &str = "devices";

/// Takes this process out of its container's cgroups of version 1, to the roots of their hierarchies. On a host, and where
/// there are none of version 1, nothing changes. How many it left.
///
/// # Errors
/// When a hierarchy cannot be read, or does not let it go.
pub(crate) fn leave_legacy_cgroups() -> io::Result<usize> {
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let hierarchies = mount::legacy_hierarchies()?;
    let roots = roots_to_join(&own, &hierarchies);
    for root in &roots {
        fs::write(root.join("cgroup.procs"), "0")?;
    }
    Ok(roots.len())
}

/// The roots of hierarchies in which a process is where the runtime put its container. Somebody else may have put it
/// elsewhere in others, and those are none of the container's.
fn roots_to_join(own: &str, hierarchies: &[(Vec<String>, PathBuf)]) -> Vec<PathBuf> {
    // `5:devices:/kubepods/pod…/…` (cgroups(7)); version 2 has no controllers here.
    let lines = || {
        own.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':').filter(|(controllers, _)| !controllers.is_empty())
        })
    };
    let of_the_runtime =
        lines().find(|(controllers, _)| controllers.split(',').any(|one| one == OF_THE_RUNTIME));
    let Some((_, container)) = of_the_runtime.filter(|(_, path)| *path != "/") else { return Vec::new() };
    let root_of = |controllers: &str| {
        let is_it =
            |options: &[String]| controllers.split(',').all(|one| options.iter().any(|option| option == one));
        hierarchies.iter().find(|(options, _)| is_it(options)).map(|(_, point)| point.clone())
    };
    lines()
        .filter(|(_, path)| *path == container)
        .filter_map(|(controllers, _)| root_of(controllers))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies() -> Vec<(Vec<String>, PathBuf)> {
        [
            ("rw,devices", "devices"),
            ("rw,memory", "memory"),
            ("rw,cpu,cpuacct", "cpu"),
            ("rw,name=systemd", "systemd"),
        ]
        .map(|(options, name)| {
            (options.split(',').map(str::to_owned).collect(), Path::new("/sys/fs/cgroup").join(name))
        })
        .to_vec()
    }

    #[test]
    fn a_container_s_cgroups_are_left_and_nobody_else_s() {
        let check = |own: &str, expected: &[&str]| {
            let expected: Vec<PathBuf> =
                expected.iter().map(|name| Path::new("/sys/fs/cgroup").join(name)).collect();
            assert_eq!(roots_to_join(own, &hierarchies()), expected, "{own}");
        };
        let pod = "/kubepods/besteffort/pod1/c1";
        check(
            &format!(
                "9:name=systemd:{pod}\n5:devices:{pod}\n4:memory:{pod}\n2:cpu,cpuacct:{pod}\n0::/lockgate/agent\n"
            ),
            &["systemd", "devices", "memory", "cpu"],
        );
        // Somebody else's limit stays.
        check(&format!("5:devices:{pod}\n4:memory:/elsewhere\n0::/lockgate/agent\n"), &["devices"]);
        // A host, with version 1 beside or without.
        check("5:devices:/\n4:memory:/session\n0::/lockgate/agent\n", &[]);
        check("0::/lockgate/agent\n", &[]);
        // A hierarchy that is not mounted here cannot be left.
        check(&format!("7:pids:{pod}\n5:devices:{pod}\n"), &["devices"]);
        check("", &[]);
        check("garbage\n:\n", &[]);
    }
}
