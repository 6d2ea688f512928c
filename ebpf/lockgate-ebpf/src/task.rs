//! Facts about the current task, and whether it is governed.

use crate::maps::{CAPTURE_CG, CAPTURE_UID};
use aya_ebpf::helpers::{
    bpf_get_current_comm,
    generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        bpf_get_current_task, bpf_get_current_uid_gid, bpf_probe_read_kernel,
    },
};
use lockgate_ebpf_common::{Config, MAX_CGROUP_LEVEL};

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
    let current = cgroup();
    governs(current) || governed_ancestor(current) || governs_uid(owner().0)
}

#[inline(always)]
fn governed_ancestor(current: u64) -> bool {
    // Level 0 is the root, which is never governed.
    let mut level = 1;
    while level <= MAX_CGROUP_LEVEL {
        // SAFETY: any level is allowed; below the current one the helper returns 0.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 || id == current {
            return false;
        }
        if governs(id) {
            return true;
        }
        level += 1;
    }
    false
}

#[inline(always)]
fn governs(cgroup: u64) -> bool {
    CAPTURE_CG.get_ptr(&cgroup).is_some()
}

#[inline(always)]
fn governs_uid(uid: u32) -> bool {
    CAPTURE_UID.get_ptr(&uid).is_some()
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
