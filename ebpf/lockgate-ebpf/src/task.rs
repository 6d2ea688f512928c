//! Facts about the current task, and whether it is governed.

use crate::maps::{CAPTURE_CG, CAPTURE_UID};
use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel,
    },
};
use lockgate_ebpf_common::{
    Config, MAX_CGROUP_LEVEL,
    capture::{self, EXEMPT, PENDING},
};

/// Thread group and thread.
#[inline(always)]
pub fn ids() -> (u32, u32) {
    // SAFETY: the helper has no precondition.
    let both = unsafe { bpf_get_current_pid_tgid() };
    ((both >> 32) as u32, both as u32)
}

/// Real uid and gid, in the initial user namespace.
#[inline(always)]
pub fn owner() -> (u32, u32) {
    // SAFETY: the helper has no precondition.
    let both = unsafe { bpf_get_current_uid_gid() };
    (both as u32, (both >> 32) as u32)
}

/// cgroup-v2 id.
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_current_cgroup_id() }
}

/// Name of the thread.
#[inline(always)]
pub fn comm() -> [u8; 16] {
    bpf_get_current_comm().unwrap_or_default()
}

/// By cgroup, one of its ancestors, or uid.
#[inline(always)]
pub fn is_governed() -> bool {
    capture() & capture::REGISTERED != 0
}

/// In a new cgroup below one whose children wait to be classified.
#[inline(always)]
pub fn is_pending() -> bool {
    capture() & PENDING != 0
}

/// How the task is captured (`capture`), by the nearest cgroup that says so, or by its uid; 0 when it is not.
#[inline(always)]
pub fn capture() -> u32 {
    let current = cgroup();
    let nearest = match of_cgroup(current) {
        0 => of_ancestor(current),
        // Its children wait, not what has always lived in it.
        itself if itself & PENDING != 0 => 0,
        itself => itself,
    };
    if nearest == 0 || nearest & EXEMPT != 0 { of_uid(owner().0) } else { nearest }
}

#[inline(always)]
fn of_ancestor(current: u64) -> u32 {
    let mut nearest = 0;
    // Level 0 is the root, which is never governed.
    let mut level = 1;
    while level <= MAX_CGROUP_LEVEL {
        // SAFETY: any level is allowed; below the current one the helper returns 0.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 || id == current {
            return nearest;
        }
        let capture = of_cgroup(id);
        if capture != 0 {
            nearest = capture;
        }
        level += 1;
    }
    nearest
}

#[inline(always)]
fn of_cgroup(cgroup: u64) -> u32 {
    // SAFETY: a value of the map, one word: what it held before or after an update.
    CAPTURE_CG.get_ptr(&cgroup).map_or(0, |value| unsafe { *value })
}

#[inline(always)]
fn of_uid(uid: u32) -> u32 {
    // SAFETY: as above.
    CAPTURE_UID.get_ptr(&uid).map_or(0, |value| unsafe { *value })
}

/// Start of the thread-group leader, CLOCK_BOOTTIME ns; 0 when it cannot be read. The offsets come
/// from the running kernel's BTF, because rustc emits no CO-RE relocations.
#[inline(always)]
pub fn start_ns(config: &Config) -> u64 {
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let leader = read_u64(task + u64::from(config.group_leader_offset));
    if leader == 0 { 0 } else { read_u64(leader + u64::from(config.start_boottime_offset)) }
}

#[inline(always)]
fn read_u64(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the destination is 8 bytes of this frame; the helper checks the source.
    let result = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
    if result == 0 { value } else { 0 }
}
