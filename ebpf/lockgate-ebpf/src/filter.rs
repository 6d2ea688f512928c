//! `cgroup_skb` egress and tc: the programs that see packets, whoever made them and by whatever socket.

use crate::{
    decide::{End, Loopback, Packet, World, cross, handshake, leave},
    maps::{CFG, VOUCHED, is_told, registered},
    packet::{self, Bytes},
    report,
};
use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_skb_cgroup_id, bpf_skb_load_bytes},
};
use core::ptr::read_volatile;
use lockgate_ebpf_common::{Address, Config, Refusal, target};

/// A packet and its context.
pub struct Skb(pub *mut __sk_buff);

/// What the kernel does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// On.
    Pass,
    /// Away.
    Drop,
}

/// A packet of a governed cgroup's socket; it begins with the IP header.
#[inline(always)]
pub fn outgoing(skb: &Skb) -> Fate {
    let packet = packet::read(skb, 0);
    decided(skb, &packet, leave(skb, &packet))
}

/// A packet on an interface: into the host's side of a pod's veth, or out of the host.
#[inline(always)]
pub fn crossing(skb: &Skb, ethernet: bool) -> Fate {
    const ETH_P_IP: u32 = 0x0800;
    const ETH_P_IPV6: u32 = 0x86dd;
    const ETH_P_8021Q: u32 = 0x8100;
    const ETH_P_8021AD: u32 = 0x88a8;
    const ETHERNET_HEADER: u32 = 14;
    // SAFETY: readable in every tc program.
    let protocol = u32::from(u16::from_be(unsafe { read_volatile(&raw const (*skb.0).protocol) } as u16));
    let packet = match protocol {
        ETH_P_IP | ETH_P_IPV6 => packet::read(skb, if ethernet { ETHERNET_HEADER } else { 0 }),
        // A second tag: nothing here sends such packets but somebody who writes them by hand.
        ETH_P_8021Q | ETH_P_8021AD => Packet::Unreadable,
        _ => Packet::Portless,
    };
    let proxy = CFG.get(0).is_some_and(|config| skb.in_cgroup(config.proxy_cgroup));
    decided(skb, &packet, cross(skb, &packet, proxy, is_vouched))
}

#[inline(always)]
fn is_vouched(from: End, to: End) -> bool {
    VOUCHED.get_ptr(&handshake(0, from, to)).is_some()
}

#[inline(always)]
fn decided(skb: &Skb, packet: &Packet, result: Result<(), Refusal>) -> Fate {
    match (result, packet) {
        (Ok(()), _) => Fate::Pass,
        (Err(refusal), Packet::Ports { to, .. }) => {
            report::dropped(refusal, skb.cgroup(), &to.address, to.port);
            Fate::Drop
        }
        (Err(refusal), Packet::Portless | Packet::Unreadable) => {
            report::dropped(refusal, skb.cgroup(), &[0; 4], 0);
            Fate::Drop
        }
    }
}

impl Skb {
    /// cgroup-v2 id of the packet's socket; 0 when there is none.
    #[inline(always)]
    pub fn cgroup(&self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_skb_cgroup_id(self.0) }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: N bytes of this frame; the helper checks the packet's bounds.
        let result = unsafe { bpf_skb_load_bytes(self.0.cast(), at, bytes.as_mut_ptr().cast(), N as u32) };
        (result == 0).then_some(bytes)
    }
}

/// A packet has no task: what asks for one says no.
impl World for Skb {
    #[inline(always)]
    fn config(&self) -> Option<Config> {
        CFG.get(0).copied()
    }

    fn forget(&mut self) {}

    #[inline(always)]
    fn in_cgroup(&self, id: u64) -> bool {
        self.cgroup() == id
    }

    fn governed(&self) -> bool {
        false
    }

    fn pending(&self) -> bool {
        false
    }

    #[inline(always)]
    fn protected(&self, address: &Address, port: u32) -> bool {
        registered(address, port) & target::EVERYWHERE != 0 || is_told(self.cgroup(), address, port)
    }

    fn admits(&self, _: &Address, _: u32, _: u32) -> bool {
        true
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
