//! `connect`, `sendmsg`, `bind` and `getpeername`: the programs with a `bpf_sock_addr` context.
//!
//! Context fields are read and written one by one with volatile accesses: LLVM would otherwise merge
//! neighbouring ones into loads that the verifier refuses.

use crate::{
    decide::{Dial, LOCALHOST_V4, LOCALHOST_V6, Loopback, Socket, Standing, Step, World},
    maps::{ASKED, CFG, CONN, LISTENER, count, is_told, may_leave, registered, saw, stored, stored_or_new},
    netns, task,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_addr, bpf_sock_tuple},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_setsockopt, bpf_sk_lookup_tcp, bpf_sk_release,
    },
    programs::SockAddrContext,
};
use core::ptr::{read_volatile, write_volatile};
use lockgate_ebpf_common::{
    Address, Config, LISTENER_TAG, Seen, Sightings, V4_MAPPED, capture, heard, protocol, stat, state, target,
};

/// The socket and task of one hook invocation.
pub struct Hook<'a>(pub &'a SockAddrContext);

impl Hook<'_> {
    /// The address and port the caller named.
    #[inline(always)]
    pub fn dial(&self, socket: Socket) -> Dial {
        let context = self.0.sock_addr;
        // SAFETY: all fields below are readable in every sock_addr program of the family.
        unsafe {
            let address = match socket {
                Socket::V4 => [0, 0, V4_MAPPED, read_volatile(&raw const (*context).user_ip4)],
                Socket::V6 => [
                    read_volatile(&raw const (*context).user_ip6[0]),
                    read_volatile(&raw const (*context).user_ip6[1]),
                    read_volatile(&raw const (*context).user_ip6[2]),
                    read_volatile(&raw const (*context).user_ip6[3]),
                ],
            };
            let port = host_port(read_volatile(&raw const (*context).user_port));
            Dial { address, port, protocol: read_volatile(&raw const (*context).protocol), socket }
        }
    }

    /// Writes where the kernel shall connect to, or what it shall report.
    #[inline(always)]
    pub fn rewrite(&self, socket: Socket, address: &Address, port: u32) {
        let context: *mut bpf_sock_addr = self.0.sock_addr;
        // SAFETY: address and port are writable in connect and getpeername programs.
        unsafe {
            match socket {
                Socket::V4 => write_volatile(&raw mut (*context).user_ip4, address[3]),
                Socket::V6 => {
                    write_volatile(&raw mut (*context).user_ip6[0], address[0]);
                    write_volatile(&raw mut (*context).user_ip6[1], address[1]);
                    write_volatile(&raw mut (*context).user_ip6[2], address[2]);
                    write_volatile(&raw mut (*context).user_ip6[3], address[3]);
                }
            }
            write_volatile(&raw mut (*context).user_port, u32::from((port as u16).to_be()));
        }
    }

    /// Notes who goes where, and with the socket, so that its bytes can be added when it ends.
    #[inline(always)]
    fn see(&self, address: &Address, port: u32, ip_protocol: u32) {
        let start_ns = CFG.get(0).map_or(0, task::start_ns);
        let (tgid, _) = task::ids();
        let (uid, gid) = task::owner();
        let cgroup = task::cgroup();
        let seen = Seen { cgroup, start_ns, daddr: *address, dport: port, protocol: ip_protocol, tgid, uid };
        // SAFETY: the hook's own context.
        let netns = unsafe { netns::cookie(self.0.as_ptr()) };
        let first = || Sightings { times: 1, netns, gid, comm: task::comm(), ..Sightings::default() };
        saw(&seen, first);
        if ip_protocol != protocol::TCP {
            return;
        }
        // SAFETY: the context's socket.
        let Some(flow) = (unsafe { stored_or_new(&CONN, self.sk()) }) else { return };
        flow.netns = netns;
        flow.cgroup = cgroup;
        flow.start_ns = start_ns;
        flow.tgid = tgid;
        flow.uid = uid;
        flow.gid = gid;
        flow.daddr = *address;
        flow.dport = port;
        flow.comm = task::comm();
        flow.state = state::SEEN;
    }

    /// Notes that this socket asks a name server, so that its answer is known for one.
    #[inline(always)]
    pub fn asks(&self, server: &Address) {
        // SAFETY: the context's socket. Without memory the answer is nobody's, and nothing is learned from it.
        let Some(asked) = (unsafe { stored_or_new(&ASKED, self.sk()) }) else { return };
        let place = asked.next as usize % heard::SERVERS;
        asked.servers[place] = *server;
        asked.next = place as u32 + 1;
    }

    #[inline(always)]
    fn sk(&self) -> *mut bpf_sock {
        // SAFETY: readable in every sock_addr program, never null there.
        unsafe { read_volatile(&raw const (*self.0.sock_addr).__bindgen_anon_1.sk) }
    }
}

/// The port field holds 16 bits in network order.
#[inline(always)]
fn host_port(field: u32) -> u32 {
    u32::from(u16::from_be(field as u16))
}

/// Redirects an accepted decision to the listener.
#[inline(always)]
pub fn redirect(hook: &Hook<'_>, socket: Socket, step: Step) {
    let Step::Redirect(loopback) = step else { return };
    let Some(config) = CFG.get(0) else { return };
    let address = match loopback {
        Loopback::V4 => [0, 0, V4_MAPPED, LOCALHOST_V4],
        Loopback::V6 => LOCALHOST_V6,
    };
    hook.rewrite(socket, &address, config.port);
    count(stat::REDIRECTED);
}

/// `getpeername`: a redirected client sees the peer it asked for.
#[inline(always)]
pub fn show_original(hook: &Hook<'_>, socket: Socket) {
    // SAFETY: the context's socket.
    let Some(flow) = (unsafe { stored(&CONN, hook.sk()) }) else { return };
    if flow.state == state::REDIRECTED {
        hook.rewrite(socket, &flow.daddr, flow.dport);
    }
}

impl World for Hook<'_> {
    #[inline(always)]
    fn config(&self) -> Option<Config> {
        CFG.get(0).copied()
    }

    #[inline(always)]
    fn forget(&mut self) {
        // SAFETY: the context's socket.
        if let Some(flow) = unsafe { stored(&CONN, self.sk()) } {
            flow.state = state::NONE;
        }
    }

    #[inline(always)]
    fn in_cgroup(&self, id: u64) -> bool {
        task::cgroup() == id
    }

    #[inline(always)]
    fn governed(&self) -> bool {
        if task::is_governed() {
            return true;
        }
        // SAFETY: the context's socket.
        unsafe { stored(&CONN, self.sk()) }.is_some_and(|flow| flow.creator_tgid != 0)
    }

    #[inline(always)]
    fn pending(&self) -> bool {
        task::is_pending()
    }

    #[inline(always)]
    fn standing(&self) -> Standing {
        let capture = task::capture();
        // SAFETY: the context's socket.
        let made_governed =
            || unsafe { stored(&CONN, self.sk()) }.is_some_and(|flow| flow.creator_tgid != 0);
        if capture & capture::REGISTERED != 0 || made_governed() {
            Standing::Governed
        } else if capture & capture::OBSERVE != 0 {
            Standing::Observed
        } else {
            Standing::Free
        }
    }

    #[inline(always)]
    fn note(&self, address: &Address, port: u32, ip_protocol: u32) {
        self.see(address, port, ip_protocol);
    }

    #[inline(always)]
    fn protected(&self, address: &Address, port: u32) -> bool {
        let registered = registered(address, port);
        // SAFETY: the hook's own context.
        let at_home = || {
            let here = unsafe { netns::cookie(self.0.as_ptr()) };
            CFG.get(0).is_none_or(|config| config.home_netns == here)
        };
        match registered & target::AT_HOME {
            0 if registered != 0 => true,
            0 => is_told(task::cgroup(), address, port),
            _ => at_home() || is_told(task::cgroup(), address, port),
        }
    }

    #[inline(always)]
    fn admits(&self, address: &Address, port: u32, ip_protocol: u32) -> bool {
        let capture = task::capture();
        if capture & capture::DENY != 0 && !may_leave(capture >> capture::SET_SHIFT, address, port) {
            return false;
        }
        self.see(address, port, ip_protocol);
        true
    }

    #[inline(always)]
    fn listener(&self, at: Loopback, port: u32) -> bool {
        let port = (port as u16).to_be();
        // SAFETY: all-zero is a valid tuple.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let size = match at {
            Loopback::V4 => {
                tuple.__bindgen_anon_1.ipv4.daddr = LOCALHOST_V4;
                tuple.__bindgen_anon_1.ipv4.dport = port;
                12
            }
            Loopback::V6 => {
                tuple.__bindgen_anon_1.ipv6.daddr = LOCALHOST_V6;
                tuple.__bindgen_anon_1.ipv6.dport = port;
                36
            }
        };
        // SAFETY: the tuple is initialised for `size` bytes, the size of its family's form.
        unsafe {
            let sk = bpf_sk_lookup_tcp(
                self.0.as_ptr(),
                &raw mut tuple,
                size,
                BPF_F_CURRENT_NETNS as i64 as u64,
                0,
            );
            if sk.is_null() {
                return false;
            }
            let tagged = stored(&LISTENER, sk).is_some_and(|tag| *tag == LISTENER_TAG);
            bpf_sk_release(sk.cast());
            tagged
        }
    }

    #[inline(always)]
    fn unbind_device(&mut self) {
        const SOL_SOCKET: i32 = 1;
        const SO_BINDTOIFINDEX: i32 = 62;
        let mut any = 0i32;
        // SAFETY: a 4-byte option value of this frame. A failure leaves the binding, and the connect fails: closed.
        unsafe { bpf_setsockopt(self.0.as_ptr(), SOL_SOCKET, SO_BINDTOIFINDEX, (&raw mut any).cast(), 4) };
    }

    #[inline(always)]
    fn vouch(&mut self) {
        // Without memory the proxy's own connection stays behind its packet filters: closed.
        // SAFETY: the context's socket.
        if let Some(flow) = unsafe { stored_or_new(&CONN, self.sk()) } {
            flow.state = state::VOUCHED;
        }
    }

    #[inline(always)]
    fn record(&mut self, config: &Config, address: &Address, port: u32) -> bool {
        // SAFETY: the context's socket.
        let Some(flow) = (unsafe { stored_or_new(&CONN, self.sk()) }) else { return false };
        let (tgid, tid) = task::ids();
        let (uid, gid) = task::owner();
        // SAFETY: the helpers take the hook's own context.
        unsafe {
            flow.cookie = bpf_get_socket_cookie(self.0.as_ptr());
            flow.netns = netns::cookie(self.0.as_ptr());
            flow.seen_ns = bpf_ktime_get_boot_ns();
            flow.family = read_volatile(&raw const (*self.0.sock_addr).family);
        }
        flow.cgroup = task::cgroup();
        flow.start_ns = task::start_ns(config);
        flow.tgid = tgid;
        flow.tid = tid;
        flow.uid = uid;
        flow.gid = gid;
        flow.daddr = *address;
        flow.dport = port;
        flow.comm = task::comm();
        flow.state = state::REDIRECTED;
        true
    }
}
