//! `sock_create`: tags what governed tasks make, refuses what no hook could follow.

use crate::{
    decide::{Birth, Loopback, World},
    maps::{CFG, CONN, is_protected, is_told, stored_or_new},
    task,
};
use aya_ebpf::programs::SockContext;
use core::ptr::read_volatile;
use lockgate_ebpf_common::{Address, Config, Refusal, capture};

/// The current task, where there is no socket's hook: what would change or look up one says no.
pub struct Maker;

/// Type and protocol of the new socket.
#[inline(always)]
pub fn kind(context: &SockContext) -> (u32, u32) {
    // SAFETY: both are readable in sock_create programs.
    unsafe {
        let kind = read_volatile(&raw const (*context.sock).type_);
        (kind, read_volatile(&raw const (*context.sock).protocol))
    }
}

/// Writes the tag; without it the socket could leave governance by being passed on.
#[inline(always)]
pub fn tag(context: &SockContext, birth: Birth) -> Result<(), Refusal> {
    match birth {
        Birth::Untagged => Ok(()),
        Birth::Tag => {
            // SAFETY: the context of a sock_create program is the socket itself.
            let flow = unsafe { stored_or_new(&CONN, context.sock) }.ok_or(Refusal::NoMemory)?;
            flow.creator_tgid = task::ids().0;
            Ok(())
        }
    }
}

impl World for Maker {
    #[inline(always)]
    fn config(&self) -> Option<Config> {
        CFG.get(0).copied()
    }

    fn forget(&mut self) {}

    #[inline(always)]
    fn in_cgroup(&self, id: u64) -> bool {
        task::cgroup() == id
    }

    #[inline(always)]
    fn governed(&self) -> bool {
        task::is_governed()
    }

    #[inline(always)]
    fn pending(&self) -> bool {
        task::is_pending()
    }

    #[inline(always)]
    fn protected(&self, address: &Address, port: u32) -> bool {
        is_protected(address, port) || is_told(task::cgroup(), address, port)
    }

    #[inline(always)]
    fn admits(&self, _: &Address, _: u32, _: u32) -> bool {
        task::capture() & capture::DENY == 0
    }

    fn listener(&self, _: Loopback, _: u32) -> bool {
        false
    }

    fn unbind_device(&mut self) {}

    fn vouch(&mut self) {}

    fn record(&mut self, _: &Config, _: &Address, _: u32) -> bool {
        false
    }
}
