//! What is told to userspace when something is refused: a counter, a ring-buffer event, an errno.

use crate::{
    maps::{EVENTS, count},
    task,
};
use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_set_retval};
use lockgate_ebpf_common::{Address, Denial, Refusal, stat};

/// 1 when the kernel knows `bpf_set_retval` here (5.18); written before load, so that the verifier
/// prunes the call where it does not. Without it the caller sees EPERM instead of the fitting errno.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: u8 = 1;

/// Reports a refusal and gives the program's return value for "no".
#[inline(always)]
pub fn refuse(refusal: Refusal, address: &Address, port: u32, protocol: u32) -> i32 {
    denied(refusal, address, port, protocol);
    // SAFETY: a read-only static that the loader sets; volatile keeps the compiler from folding it.
    if unsafe { core::ptr::read_volatile(&raw const HAVE_SET_RETVAL) } == 1 {
        // SAFETY: the helper accepts any errno in -MAX_ERRNO..=0.
        unsafe { bpf_set_retval(-refusal.errno()) };
    }
    0
}

/// Reports a refusal to the current task.
#[inline(always)]
pub fn denied(refusal: Refusal, address: &Address, port: u32, protocol: u32) {
    count(refusal as u32);
    emit(Denial {
        cgroup: task::cgroup(),
        daddr: *address,
        dport: port,
        reason: refusal as u32,
        tgid: task::ids().0,
        uid: task::owner().0,
        protocol,
        comm: task::comm(),
        ..NOTHING
    });
}

/// Reports a packet that was dropped: whose task made it is not known there.
#[inline(always)]
pub fn dropped(refusal: Refusal, cgroup: u64, address: &Address, port: u32) {
    count(refusal as u32);
    emit(Denial { cgroup, daddr: *address, dport: port, reason: refusal as u32, ..NOTHING });
}

const NOTHING: Denial = Denial {
    seen_ns: 0,
    cgroup: 0,
    daddr: [0; 4],
    dport: 0,
    reason: 0,
    tgid: 0,
    uid: 0,
    protocol: 0,
    reserved: 0,
    comm: [0; 16],
};

#[inline(always)]
fn emit(denial: Denial) {
    let Some(mut entry) = EVENTS.reserve::<Denial>(0) else {
        count(stat::EVENTS_LOST);
        return;
    };
    // SAFETY: the helper has no precondition.
    entry.write(Denial { seen_ns: unsafe { bpf_ktime_get_boot_ns() }, ..denial });
    entry.submit(0);
}
