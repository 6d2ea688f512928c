//! An agent that is itself a container: the host's cgroups, as the host names them.
//!
//! On hosts with cgroup version 2 alone, runtimes give containers a cgroup namespace of their own. In it the hierarchy's root
//! has another name, processes of other containers have none, and with `nsdelegate` nobody moves out. What the agent needs
//! is the host's view; it finds it at the host's first processes when the container shares the host's process ids. It
//! leaves other namespaces as they are.

use rustix::{
    fd::AsFd as _,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

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
