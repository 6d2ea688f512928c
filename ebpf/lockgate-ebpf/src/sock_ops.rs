//! `sock_ops`: carries a flow from the client socket to the accepted one.
//!
//! TCP_CONNECT_CB and not ACTIVE_ESTABLISHED: with TCP Fast Open the accepted socket exists before
//! the client's is established.

use crate::{
    decide::{End, handshake, is_fresh, is_loopback},
    maps::{ACC, CFG, CONN, FLOWS, VOUCHED, count, moved, stored, stored_or_new},
    netns,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_sock_ops_cb_flags_set},
    programs::SockOpsContext,
};
use aya_log_ebpf::{error, warn};
use core::ptr::read_volatile;
use lockgate_ebpf_common::{Flow, Seen, Sightings, V4_MAPPED, protocol, stat, state};

/// One callback; anything but the two handshake callbacks is none of ours.
#[inline(always)]
pub fn handle(context: &SockOpsContext) {
    match context.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(context),
        BPF_SOCK_OPS_STATE_CB => changed(context),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(context),
        _ => {}
    }
}

/// The client's SYN is about to leave: its four-tuple is known now.
#[inline(always)]
fn connecting(context: &SockOpsContext) {
    let (local, remote) = ends(context);
    let Some(config) = CFG.get(0) else { return };
    // SAFETY: `sk` is checked for null.
    let flow = sk(context).and_then(|sk| unsafe { stored(&CONN, sk) });
    if let Some(flow) = &flow
        && flow.state == state::VOUCHED
    {
        return vouched(context, local, remote);
    }
    if let Some(flow) = &flow
        && flow.state == state::SEEN
    {
        // Without the callback at the end its bytes are not counted; nothing else depends on it.
        // SAFETY: the program's own context.
        let _ = unsafe { bpf_sock_ops_cb_flags_set(context.ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
    }
    if remote.port != config.port || !is_loopback(&remote.address) {
        return;
    }
    // SAFETY: the program's own context.
    let key = handshake(unsafe { netns::cookie(context.as_ptr()) }, local, remote);
    match flow {
        Some(flow) if flow.state == state::REDIRECTED => {
            if FLOWS.insert(&key, flow, 0).is_err() {
                count(stat::FLOWS_FULL);
                error!(context, "FLOWS took no entry: the connection will be closed unattributed");
            }
        }
        // A dial of the port by hand, from a source port that a failed handshake may have left in FLOWS:
        // it must not inherit that flow.
        _ => {
            let _ = FLOWS.remove(&key);
        }
    }
}

/// The proxy dials a protected destination: packet filters let this connection pass until it is closed.
#[inline(always)]
fn vouched(context: &SockOpsContext, local: End, remote: End) {
    // Without the callback at the end the four-tuple would stay open to whoever uses it next.
    // SAFETY: the program's own context.
    let told = unsafe { bpf_sock_ops_cb_flags_set(context.ops, BPF_SOCK_OPS_STATE_CB_FLAG as i32) };
    if told == 0 && VOUCHED.insert(&handshake(0, local, remote), 1, 0).is_err() {
        count(stat::FLOWS_FULL);
    }
}

/// A connection that was vouched for or seen is over.
#[inline(always)]
fn changed(context: &SockOpsContext) {
    const TCP_CLOSE: u32 = 7;
    if context.arg(1) != TCP_CLOSE {
        return;
    }
    // SAFETY: `sk` is checked for null.
    if let Some(flow) = sk(context).and_then(|sk| unsafe { stored(&CONN, sk) })
        && flow.state == state::SEEN
    {
        flow.state = state::NONE;
        return ended(context, flow);
    }
    let (local, remote) = ends(context);
    let _ = VOUCHED.remove(&handshake(0, local, remote));
}

/// Adds up what a connection that was seen has moved.
#[inline(always)]
fn ended(context: &SockOpsContext, flow: &Flow) {
    // SAFETY: readable in every sock_ops program.
    let (sent, received) = unsafe {
        (
            read_volatile(&raw const (*context.ops).bytes_acked),
            read_volatile(&raw const (*context.ops).bytes_received),
        )
    };
    let seen = Seen {
        cgroup: flow.cgroup,
        start_ns: flow.start_ns,
        daddr: flow.daddr,
        dport: flow.dport,
        protocol: protocol::TCP,
        tgid: flow.tgid,
        uid: flow.uid,
    };
    let begun = Sightings { netns: flow.netns, gid: flow.gid, comm: flow.comm, ..Sightings::default() };
    moved(&seen, sent, received, begun);
}

/// A connection to the listener is established: its flow moves to the accepted socket.
#[inline(always)]
fn accepted(context: &SockOpsContext) {
    let (local, remote) = ends(context);
    let Some(config) = CFG.get(0) else { return };
    if local.port != config.port || !is_loopback(&local.address) {
        return;
    }
    // SAFETY: the program's own context.
    let key = handshake(unsafe { netns::cookie(context.as_ptr()) }, remote, local);
    // SAFETY: the value is read before anything can remove it: only this program does, below.
    let Some(flow) = (unsafe { FLOWS.get(&key) }) else {
        count(stat::UNATTRIBUTED);
        return;
    };
    // SAFETY: the helper has no precondition.
    if !is_fresh(flow.seen_ns, unsafe { bpf_ktime_get_boot_ns() }) {
        count(stat::STALE);
        let _ = FLOWS.remove(&key);
        return;
    }
    // SAFETY: `sk` is checked for null.
    match sk(context).and_then(|sk| unsafe { stored_or_new(&ACC, sk) }) {
        Some(slot) => {
            *slot = *flow;
            count(stat::ATTRIBUTED);
        }
        None => {
            warn!(context, "no socket storage for an accepted connection: it will be closed unattributed")
        }
    }
    let _ = FLOWS.remove(&key);
}

#[inline(always)]
fn sk(context: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: readable in every sock_ops program.
    let sk = unsafe { read_volatile(&raw const (*context.ops).__bindgen_anon_2.sk) };
    (!sk.is_null()).then_some(sk)
}

/// Local and remote end. All fields are loaded before the family is looked at: a branch between
/// them would give the verifier a modified context pointer.
#[inline(always)]
fn ends(context: &SockOpsContext) -> (End, End) {
    const AF_INET: u32 = 2;
    let ops = context.ops;
    // SAFETY: readable in every sock_ops program.
    unsafe {
        let family = read_volatile(&raw const (*ops).family);
        let local4 = read_volatile(&raw const (*ops).local_ip4);
        let remote4 = read_volatile(&raw const (*ops).remote_ip4);
        let local6 = [
            read_volatile(&raw const (*ops).local_ip6[0]),
            read_volatile(&raw const (*ops).local_ip6[1]),
            read_volatile(&raw const (*ops).local_ip6[2]),
            read_volatile(&raw const (*ops).local_ip6[3]),
        ];
        let remote6 = [
            read_volatile(&raw const (*ops).remote_ip6[0]),
            read_volatile(&raw const (*ops).remote_ip6[1]),
            read_volatile(&raw const (*ops).remote_ip6[2]),
            read_volatile(&raw const (*ops).remote_ip6[3]),
        ];
        // The local port is in host order, the remote one in the upper half in network order (linux/bpf.h).
        let local_port = read_volatile(&raw const (*ops).local_port);
        let remote_port = u32::from_be(read_volatile(&raw const (*ops).remote_port));
        if family == AF_INET {
            (
                End { address: [0, 0, V4_MAPPED, local4], port: local_port },
                End { address: [0, 0, V4_MAPPED, remote4], port: remote_port },
            )
        } else {
            (End { address: local6, port: local_port }, End { address: remote6, port: remote_port })
        }
    }
}
