//! The kernel programs of lockgate.
//!
//! Entry points only: each is one match from a decision to what the kernel does. The decisions are
//! in `decide.rs`, which also compiles on the host; what they ask of the kernel is in `sock_addr.rs`
//! and `sock_create.rs`. Loaded, attached and pinned by lockgate-intercept, which alone knows them.
#![no_std]
#![no_main]

mod answer;
mod decide;
mod dns;
mod filter;
mod lsm;
mod maps;
mod netns;
mod packet;
mod report;
mod sock_addr;
mod sock_create;
mod sock_ops;
mod task;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, lsm, sock_ops},
    programs::{LsmContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext, TcContext},
};
use decide::{Dial, Socket, World as _};
use filter::{Fate, Skb, crossing, outgoing};
use lockgate_ebpf_common::{LSM_PROBE_ERRNO, heard};
use lsm::Refused;
use report::{denied, refuse};
use sock_addr::{Hook, redirect, show_original};

/// Return value with which a cgroup program lets the kernel go on.
const GO_ON: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn lg_connect4(context: SockAddrContext) -> i32 {
    connect(&context, Socket::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn lg_connect6(context: SockAddrContext) -> i32 {
    connect(&context, Socket::V6)
}

#[inline(always)]
fn connect(context: &SockAddrContext, socket: Socket) -> i32 {
    let mut hook = Hook(context);
    let dial = hook.dial(socket);
    match decide::connect(&mut hook, &dial) {
        Ok(step) => {
            note_question(&hook, &dial);
            redirect(&hook, socket, step);
            GO_ON
        }
        Err(refusal) => refuse(refusal, &dial.address, dial.port, dial.protocol),
    }
}

#[cgroup_sock_addr(sendmsg4)]
pub fn lg_sendmsg4(context: SockAddrContext) -> i32 {
    send(&context, Socket::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn lg_sendmsg6(context: SockAddrContext) -> i32 {
    send(&context, Socket::V6)
}

#[inline(always)]
fn send(context: &SockAddrContext, socket: Socket) -> i32 {
    let hook = Hook(context);
    let dial = hook.dial(socket);
    match decide::send(&hook, dial.address, dial.port) {
        Ok(()) => {
            note_question(&hook, &dial);
            GO_ON
        }
        Err(refusal) => refuse(refusal, &dial.address, dial.port, dial.protocol),
    }
}

/// Whose answers a governed task's socket then waits for.
#[inline(always)]
fn note_question(hook: &Hook<'_>, dial: &Dial) {
    if dial.port == heard::NAME_SERVER && hook.governed() {
        hook.asks(&decide::normalise(dial.address));
    }
}

#[cgroup_sock_addr(bind4)]
pub fn lg_bind4(context: SockAddrContext) -> i32 {
    bind(&context, Socket::V4)
}

#[cgroup_sock_addr(bind6)]
pub fn lg_bind6(context: SockAddrContext) -> i32 {
    bind(&context, Socket::V6)
}

#[inline(always)]
fn bind(context: &SockAddrContext, socket: Socket) -> i32 {
    let hook = Hook(context);
    let dial = hook.dial(socket);
    match decide::bind(&hook, dial.port, dial.protocol) {
        Ok(()) => GO_ON,
        Err(refusal) => refuse(refusal, &dial.address, dial.port, dial.protocol),
    }
}

#[cgroup_sock_addr(getpeername4)]
pub fn lg_getpeername4(context: SockAddrContext) -> i32 {
    show_original(&Hook(&context), Socket::V4);
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn lg_getpeername6(context: SockAddrContext) -> i32 {
    show_original(&Hook(&context), Socket::V6);
    GO_ON
}

#[cgroup_sock(sock_create)]
pub fn lg_sock_create(context: SockContext) -> i32 {
    let (kind, protocol) = sock_create::kind(&context);
    match decide::create(&sock_create::Maker, kind, protocol)
        .and_then(|birth| sock_create::tag(&context, birth))
    {
        Ok(()) => GO_ON,
        Err(refusal) => refuse(refusal, &[0; 4], 0, protocol),
    }
}

#[sock_ops]
pub fn lg_sock_ops(context: SockOpsContext) -> u32 {
    sock_ops::handle(&context);
    GO_ON as u32
}

#[cgroup_skb(egress)]
pub fn lg_egress(context: SkBuffContext) -> i32 {
    match outgoing(&Skb(context.skb.skb)) {
        Fate::Pass => GO_ON,
        Fate::Drop => 0,
    }
}

/// What a governed cgroup's sockets are about to hear.
#[cgroup_skb(ingress)]
pub fn lg_answers(context: SkBuffContext) -> i32 {
    match answer::heard(&Skb(context.skb.skb)) {
        Fate::Pass => GO_ON,
        Fate::Drop => 0,
    }
}

/// On an Ethernet interface (a NIC, a veth).
#[classifier]
pub fn lg_interface(context: TcContext) -> i32 {
    filtered(crossing(&Skb(context.skb.skb), true))
}

/// On one without link-layer header.
#[classifier]
pub fn lg_interface_l3(context: TcContext) -> i32 {
    filtered(crossing(&Skb(context.skb.skb), false))
}

#[inline(always)]
fn filtered(fate: Fate) -> i32 {
    // linux/pkt_cls.h; unspecified lets the next program, or the kernel, go on.
    const TC_ACT_UNSPEC: i32 = -1;
    const TC_ACT_SHOT: i32 = 2;
    match fate {
        Fate::Pass => TC_ACT_UNSPEC,
        Fate::Drop => TC_ACT_SHOT,
    }
}

#[lsm(hook = "socket_create")]
pub fn lg_lsm_create(context: LsmContext) -> i32 {
    if lsm::is_probe(&context) {
        return -LSM_PROBE_ERRNO;
    }
    secured(&context, 4, lsm::create)
}

#[lsm(hook = "socket_sendmsg")]
pub fn lg_lsm_send(context: LsmContext) -> i32 {
    secured(&context, 3, lsm::send)
}

#[lsm(hook = "file_receive")]
pub fn lg_lsm_receive(context: LsmContext) -> i32 {
    secured(&context, 1, lsm::receive)
}

#[lsm(hook = "tun_dev_create")]
pub fn lg_lsm_tun_create(context: LsmContext) -> i32 {
    secured(&context, 0, |_| lsm::tunnel())
}

#[lsm(hook = "tun_dev_open")]
pub fn lg_lsm_tun_open(context: LsmContext) -> i32 {
    secured(&context, 1, |_| lsm::tunnel())
}

/// `before` is the argument that holds what an earlier program of the hook said; its no stays a no.
#[inline(always)]
fn secured(
    context: &LsmContext,
    before: usize,
    decide: impl FnOnce(&LsmContext) -> Result<(), Refused>,
) -> i32 {
    let said: i32 = context.arg(before);
    if said != 0 {
        return said;
    }
    match decide(context) {
        Ok(()) => 0,
        Err(refused) => {
            denied(refused.refusal, &refused.address, refused.port, refused.protocol);
            -refused.refusal.errno()
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier accepts no program in which this can be reached.
    loop {}
}

/// Lets the kernel grant the helpers that are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
