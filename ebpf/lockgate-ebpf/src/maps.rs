//! The maps. Names, types and sizes are part of the ABI: lockgate-intercept pins them by name.

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
};
use lockgate_ebpf_common::{
    Address, Asked, Config, EGRESS_EXACT_BITS, EgressKey, Flow, Handshake, Heard, HeardKey, Name, Seen, Sightings,
    TARGET_EXACT_BITS, TargetKey, capacity, stat,
};

#[map]
pub static CFG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static CAPTURE_CG: HashMap<u64, u32> = HashMap::with_max_entries(capacity::CGROUPS, 0);
#[map]
pub static CAPTURE_UID: HashMap<u32, u32> = HashMap::with_max_entries(capacity::UIDS, 0);
#[map]
pub static TARGETS: LpmTrie<TargetKey, u32> = LpmTrie::with_max_entries(capacity::TARGETS, BPF_F_NO_PREALLOC);
#[map]
pub static EGRESS: LpmTrie<EgressKey, u32> = LpmTrie::with_max_entries(capacity::EGRESS, BPF_F_NO_PREALLOC);
#[map]
pub static NAMES: HashMap<u64, Name> = HashMap::with_max_entries(capacity::NAMES, BPF_F_NO_PREALLOC);
#[map]
pub static HEARD: HashMap<HeardKey, Heard> = HashMap::with_max_entries(capacity::HEARD, BPF_F_NO_PREALLOC);
#[map]
pub static KNOWN: HashMap<u64, u64> = HashMap::with_max_entries(capacity::HEARD, BPF_F_NO_PREALLOC);
#[map]
pub static SEEN: LruHashMap<Seen, Sightings> = LruHashMap::with_max_entries(capacity::SEEN, 0);
#[map]
pub static FLOWS: LruHashMap<Handshake, Flow> = LruHashMap::with_max_entries(capacity::FLOWS, 0);
#[map]
pub static VOUCHED: LruHashMap<Handshake, u32> = LruHashMap::with_max_entries(capacity::VOUCHED, 0);
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENT_BYTES, 0);
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(stat::SLOTS, 0);

#[btf_map]
pub static CONN: SkStorage<Flow> = SkStorage::new();
#[btf_map]
pub static ACC: SkStorage<Flow> = SkStorage::new();
#[btf_map]
pub static ASKED: SkStorage<Asked> = SkStorage::new();
#[btf_map]
pub static LISTENER: SkStorage<u32> = SkStorage::new();

/// The value stored with a socket, if any. aya's wrapper takes a sock_addr context only; sock_ops,
/// sock_create and looked-up sockets need the helper itself.
///
/// # Safety
/// `sk` is a socket pointer that the verifier has seen checked for null.
#[inline(always)]
pub unsafe fn stored<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the map is a static of this object; the socket is the caller's promise.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0) };
    // SAFETY: the helper returns null or a value of the map's type that lives as long as the program runs.
    unsafe { value.cast::<T>().as_mut() }
}

/// Like [`stored`], making a zeroed value when there is none; `None` when memory is short.
///
/// # Safety
/// As [`stored`].
#[inline(always)]
pub unsafe fn stored_or_new<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> Option<&'static mut T> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: as in `stored`; a null initial value means zeroes.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), create) };
    // SAFETY: as in `stored`.
    unsafe { value.cast::<T>().as_mut() }
}

/// Is this destination registered, in whatever network namespace?
#[inline(always)]
pub fn is_protected(address: &Address, port: u32) -> bool {
    registered(address, port) != 0
}

/// Where this destination is protected (`target`); 0 when it is not registered.
#[inline(always)]
pub fn registered(address: &Address, port: u32) -> u32 {
    let key = Key::new(TARGET_EXACT_BITS, TargetKey::new(address, port));
    TARGETS.get(&key).copied().unwrap_or(0)
}

/// Was somebody in this cgroup told that a target is there?
#[inline(always)]
pub fn is_told(cgroup: u64, address: &Address, port: u32) -> bool {
    HEARD.get_ptr(&HeardKey { cgroup, address: *address, port, reserved: 0 }).is_some()
}

/// Does a set's list hold this destination, on its port or on any?
#[inline(always)]
pub fn may_leave(set: u32, address: &Address, port: u32) -> bool {
    let listed =
        |port| EGRESS.get(&Key::new(EGRESS_EXACT_BITS, EgressKey::new(set, address, port))).is_some();
    listed(port) || listed(0)
}

/// Notes what somebody governed or observed reached without being redirected. `first` makes what a new entry begins with.
#[inline(always)]
pub fn saw(seen: &Seen, first: impl FnOnce() -> Sightings) {
    count(stat::UNREGISTERED);
    if let Some(sightings) = SEEN.get_ptr_mut(seen) {
        // SAFETY: a value of the map; a lost increment between two CPUs makes a count a little low.
        unsafe { (*sightings).times += 1 };
    } else {
        // Full of entries that are in use: the sum above still counts it.
        let _ = SEEN.insert(seen, &first(), 0);
    }
}

/// Adds what a connection that was seen has moved until its end.
#[inline(always)]
pub fn moved(seen: &Seen, sent: u64, received: u64, begun: Sightings) {
    if let Some(sightings) = SEEN.get_ptr_mut(seen) {
        // SAFETY: as above.
        unsafe {
            (*sightings).sent += sent;
            (*sightings).received += received;
        }
    } else {
        let _ = SEEN.insert(seen, &Sightings { sent, received, ..begun }, 0);
    }
}

/// Adds one to a statistic.
#[inline(always)]
pub fn count(slot: u32) {
    if let Some(counter) = STATS.get_ptr_mut(slot) {
        // SAFETY: a per-CPU slot; the program is not preempted by another on the same CPU.
        unsafe { *counter += 1 };
    }
}
