//! The kernel programs of lockgate.
//!
//! Entry points only: each is one match from a decision to what the kernel does. The decisions are
//! in `decide.rs`, which also compiles on the host; what they ask of the kernel is in `sock_addr.rs`
//! and `sock_create.rs`. Loaded, attached and pinned by lockgate-intercept, which alone knows them.
#![no_std]
#![no_main]

mod decide;
mod maps;
mod netns;
mod report;
mod sock_addr;
mod sock_create;
mod sock_ops;
mod task;

use aya_ebpf::{
    macros::{cgroup_sock, cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockContext, SockOpsContext},
};
use decide::Socket;
use report::refuse;
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
        Ok(()) => GO_ON,
        Err(refusal) => refuse(refusal, &dial.address, dial.port, dial.protocol),
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

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier accepts no program in which this can be reached.
    loop {}
}

/// Lets the kernel grant the helpers that are reserved for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
