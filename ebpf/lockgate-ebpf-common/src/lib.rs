//! Kernel ABI: what the eBPF programs and lockgate-intercept both know.
//!
//! `repr(C)` types without implicit padding, map names, statistic slots and [`ABI_VERSION`], which is the first word of the pinned
//! `CFG` map and is compared before anything else of a pinned set is believed. No logic beyond
//! address arithmetic lives here, and nobody but `lockgate-ebpf` and `lockgate-intercept` sees it.
#![no_std]

/// Version of every type and map below. Raise it with any change of size, meaning or map type;
/// a pinned set of another version is refused, never reinterpreted.
pub const ABI_VERSION: u32 = 3;

/// IPv4 is kept as `::ffff:a.b.c.d`; four words in network byte order, as the kernel hands them out.
pub type Address = [u32; 4];

/// The third word of a v4-mapped address.
pub const V4_MAPPED: u32 = 0x0000_ffffu32.to_be();

/// `IPPROTO_TCP`, `IPPROTO_UDP`, `IPPROTO_ICMP`, `IPPROTO_ICMPV6` (IANA protocol numbers).
pub mod protocol {
    /// TCP.
    pub const TCP: u32 = 6;
    /// UDP.
    pub const UDP: u32 = 17;
    /// ICMP.
    pub const ICMP: u32 = 1;
    /// ICMPv6.
    pub const ICMPV6: u32 = 58;
    /// Those whose header begins with a source and a destination port.
    pub const UDP_LITE: u32 = 136;
    /// See [`UDP_LITE`].
    pub const SCTP: u32 = 132;
    /// See [`UDP_LITE`].
    pub const DCCP: u32 = 33;
}

/// Address families (linux/socket.h) that a governed task may have sockets of.
pub mod family {
    /// `AF_UNIX`.
    pub const UNIX: u32 = 1;
    /// `AF_INET`.
    pub const INET: u32 = 2;
    /// `AF_INET6`.
    pub const INET6: u32 = 10;
    /// `AF_NETLINK`.
    pub const NETLINK: u32 = 16;
    /// `AF_ALG`: the kernel's ciphers; nothing leaves the host by it.
    pub const ALG: u32 = 38;
}

/// Deepest cgroup level a governed cgroup may have: the programs walk the ancestors 1..=12 of the
/// current task. Kubernetes under nested systemd stays below 10.
pub const MAX_CGROUP_LEVEL: i32 = 12;

/// Capacity of the maps that userspace fills.
pub mod capacity {
    /// Governed cgroups.
    pub const CGROUPS: u32 = 4096;
    /// Governed users.
    pub const UIDS: u32 = 4096;
    /// Protected destinations (prefix and port).
    pub const TARGETS: u32 = 16384;
    /// Handshakes in flight between `connect()` and the accepted socket.
    pub const FLOWS: u32 = 65536;
    /// Destinations that sets with a default of deny may reach (prefix and port).
    pub const EGRESS: u32 = 16384;
    /// Names of targets.
    pub const NAMES: u32 = 4096;
    /// What cgroups were told of them (cgroup, address and port).
    pub const HEARD: u32 = 65536;
    /// Processes and destinations that are told apart between two looks; the least recently seen are forgotten.
    pub const SEEN: u32 = 16384;
    /// Connections of the proxy that a packet filter lets pass.
    pub const VOUCHED: u32 = 65536;
    /// Bytes of the denial ring; a full ring drops events and counts them.
    pub const EVENT_BYTES: u32 = 256 * 1024;
}

/// The only element of `CFG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`]; first, so that any build can read it.
    pub abi: u32,
    /// The listener's port, host byte order; 0 while there is none.
    pub port: u32,
    /// The proxy's own cgroup: its traffic is never touched, and it alone may bind `port`.
    pub proxy_cgroup: u64,
    /// Offset of `start_boottime` in `struct task_struct` of the running kernel.
    pub start_boottime_offset: u32,
    /// Offset of `group_leader` in `struct task_struct`.
    pub group_leader_offset: u32,
    /// Network namespace cookie of the agent; 0 when the kernel does not tell (before 5.15).
    pub home_netns: u64,
}

/// What a value of `TARGETS` says.
pub mod target {
    /// Protected in every network namespace.
    pub const EVERYWHERE: u32 = 1;
    /// Protected in the agent's network namespace: another way to a service of this host.
    pub const AT_HOME: u32 = 2;
}

/// Answers of name servers that governed processes hear.
pub mod heard {
    /// The port that they come from.
    pub const NAME_SERVER: u32 = 53;
    /// A time to live that counts; longer ones are cut.
    pub const MAX_TTL_MINUTES: u32 = 24 * 60;
    /// Addresses and ports that one cgroup may have been told at a time: eight of the largest answers for a name with one
    /// port. Beyond that, answers about targets' names do not reach it.
    pub const MAX_PER_CGROUP: u64 = 512;
    /// Name servers that one socket asks: resolvers know three (resolv.conf(5)).
    pub const SERVERS: usize = 4;
}

/// Key of `HEARD`: protected for the tasks of this cgroup alone, since whoever is in it may have made the answer up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeardKey {
    /// cgroup-v2 id of the socket that was told.
    pub cgroup: u64,
    /// The address.
    pub address: Address,
    /// A port on which the name is a target's, host byte order.
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

/// Value of `HEARD`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Hash of the name; the key of `NAMES`.
    pub name: u64,
    /// The minute (CLOCK_BOOTTIME) in which its time to live ends.
    pub minute: u64,
}

/// Value of `ASKED`: which name servers a governed task sent something to by this socket, the latest ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Their addresses; zeroes where there is none.
    pub servers: [Address; heard::SERVERS],
    /// Where the next one goes.
    pub next: u32,
    /// Zero.
    pub reserved: u32,
}

/// FNV-1a, 64 bits: where it starts, and its prime.
pub const NAME_HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
/// See [`NAME_HASH_START`].
pub const NAME_HASH_PRIME: u64 = 0x100_0000_01b3;

/// Value of `NAMES`: what a name that is a target's leads to. The key is the hash of the name as it is sent, letters
/// in lower case.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// Ports of targets with this name, host byte order; 0 ends them.
    pub ports: [u32; MAX_NAME_PORTS],
}

/// Ports on which one name is a target's.
pub const MAX_NAME_PORTS: usize = 8;

/// What a value of `CAPTURE_CG` and `CAPTURE_UID` says; the set's number is in the upper half.
pub mod capture {
    /// Registered destinations are redirected.
    pub const REGISTERED: u32 = 1;
    /// Others are refused, unless `EGRESS` allows them.
    pub const DENY: u32 = 2;
    /// Nothing is redirected or refused: who talks to what is noted in `SEEN`.
    pub const OBSERVE: u32 = 4;
    /// Not governed, though it is below a cgroup that is [`PENDING`]; its users may be.
    pub const EXEMPT: u32 = 8;
    /// Which of the cgroups below are governed is for userspace to say: one that is not in the map yet reaches no
    /// registered destination at all. Processes in the cgroup itself are not meant. Goes with [`REGISTERED`].
    pub const PENDING: u32 = 16;
    /// Bits of the flags.
    pub const SET_SHIFT: u32 = 16;
}

/// Key of `SEEN`: a process that is governed or observed reached a destination without being redirected.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// cgroup-v2 id of the task.
    pub cgroup: u64,
    /// `start_boottime` of the thread-group leader, ns.
    pub start_ns: u64,
    /// Where to.
    pub daddr: Address,
    /// Port, host byte order.
    pub dport: u32,
    /// IP protocol.
    pub protocol: u32,
    /// Thread group.
    pub tgid: u32,
    /// Real uid, in the initial user namespace.
    pub uid: u32,
}

/// Value of `SEEN`; userspace takes entries out, so it counts since the last look.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sightings {
    /// Connections begun, and datagrams sent without one.
    pub times: u64,
    /// Bytes that the peer acknowledged, of TCP connections that ended.
    pub sent: u64,
    /// Bytes received, of TCP connections that ended.
    pub received: u64,
    /// Network namespace cookie of the socket; 0 when the kernel does not tell.
    pub netns: u64,
    /// Real gid, in the initial user namespace.
    pub gid: u32,
    /// Zero.
    pub reserved: u32,
    /// Name of the thread.
    pub comm: [u8; 16],
}

/// Data part of an `EGRESS` key; a prefix of [`EGRESS_FIXED_BITS`]` + n` bits means "this set, this port, first n bits
/// of the v6 (or v4-mapped) address". Port 0 means any.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EgressKey {
    /// Number of the set, big endian.
    pub set: [u8; 2],
    /// Port, big endian.
    pub port: [u8; 2],
    /// Address bytes.
    pub address: [u8; 16],
}

/// Bits of [`EgressKey::set`] and [`EgressKey::port`].
pub const EGRESS_FIXED_BITS: u32 = 32;
/// Prefix length of a whole address with set and port.
pub const EGRESS_EXACT_BITS: u32 = EGRESS_FIXED_BITS + 128;

impl EgressKey {
    /// The key of one address (words in network byte order).
    #[inline(always)]
    pub fn new(set: u32, address: &Address, port: u32) -> Self {
        let TargetKey { port, address: padded } = TargetKey::new(address, port);
        let mut key = Self { set: (set as u16).to_be_bytes(), port, address: [0; 16] };
        let mut byte = 0;
        while byte < 16 {
            key.address[byte] = padded[byte];
            byte += 1;
        }
        key
    }
}

/// Where a [`Flow`] stands.
pub mod state {
    /// Not redirected (or the last `connect()` was let through).
    pub const NONE: u32 = 0;
    /// `connect()` was rewritten to the listener.
    pub const REDIRECTED: u32 = 1;
    /// A connection of the proxy's own to a protected destination.
    pub const VOUCHED: u32 = 2;
    /// Let through and noted in `SEEN`; its bytes are added there when it ends.
    pub const SEEN: u32 = 3;
}

/// Offsets of members of kernel structures, in bytes, as the running kernel's BTF tells them. Written into the
/// object before it is loaded: rustc emits no CO-RE relocations.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelOffsets {
    /// `struct file`: `f_inode`.
    pub file_inode: u32,
    /// `struct file`: `private_data`.
    pub file_private: u32,
    /// `struct inode`: `i_mode`.
    pub inode_mode: u32,
    /// `struct inode`: `i_rdev`.
    pub inode_device: u32,
    /// `struct socket`: `sk`.
    pub socket_sk: u32,
    /// `struct sock`: `sk_type`.
    pub sk_type: u32,
    /// `struct sock`: `sk_protocol`.
    pub sk_protocol: u32,
    /// `struct sock_common`: `skc_family`.
    pub sk_family: u32,
    /// `struct sock_common`: `skc_dport`.
    pub sk_dport: u32,
    /// `struct sock_common`: `skc_daddr`.
    pub sk_daddr: u32,
    /// `struct sock_common`: `skc_v6_daddr`.
    pub sk_daddr6: u32,
}

/// What is known of a client socket; from `connect()` on it also describes the accepted socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// `SO_COOKIE` of the client socket.
    pub cookie: u64,
    /// `SO_NETNS_COOKIE` of the client socket; 0 when the kernel does not tell (before 5.15).
    pub netns: u64,
    /// cgroup-v2 id of the connecting task.
    pub cgroup: u64,
    /// `start_boottime` of the thread-group leader, ns.
    pub start_ns: u64,
    /// When `connect()` was seen, CLOCK_BOOTTIME ns.
    pub seen_ns: u64,
    /// Thread group of the connecting task.
    pub tgid: u32,
    /// The connecting thread.
    pub tid: u32,
    /// Real uid, in the initial user namespace.
    pub uid: u32,
    /// Real gid, in the initial user namespace.
    pub gid: u32,
    /// Where the client wanted to go.
    pub daddr: Address,
    /// Its port, host byte order.
    pub dport: u32,
    /// Governed thread group that made the socket; 0 when no governed task did.
    pub creator_tgid: u32,
    /// [`state`].
    pub state: u32,
    /// Address family of the client socket.
    pub family: u32,
    /// Name of the connecting thread.
    pub comm: [u8; 16],
}

/// Key of `FLOWS`: one TCP handshake. Ports in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Handshake {
    /// Network namespace cookie: equal 4-tuples exist in two namespaces.
    pub netns: u64,
    /// Client address.
    pub client: Address,
    /// Listener address.
    pub listener: Address,
    /// Client port.
    pub client_port: u32,
    /// Listener port.
    pub listener_port: u32,
}

/// Data part of a `TARGETS` key: the port first, then the address, then zeroes; a prefix of
/// [`TARGET_PORT_BITS`]` + n` bits means "this port, first n bits of the v6 (or v4-mapped) address".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetKey {
    /// Port, big endian.
    pub port: [u8; 2],
    /// Address bytes, then two zero bytes that keep the size a multiple of four.
    pub address: [u8; 18],
}

/// Bits of [`TargetKey::port`].
pub const TARGET_PORT_BITS: u32 = 16;
/// Prefix length of a whole address with its port.
pub const TARGET_EXACT_BITS: u32 = TARGET_PORT_BITS + 128;

impl TargetKey {
    /// The key of one address (words in network byte order) and port (host order).
    #[inline(always)]
    pub fn new(address: &Address, port: u32) -> Self {
        let mut key = Self { port: (port as u16).to_be_bytes(), address: [0; 18] };
        let mut word = 0;
        while word < 4 {
            let bytes = address[word].to_ne_bytes();
            key.address[word * 4] = bytes[0];
            key.address[word * 4 + 1] = bytes[1];
            key.address[word * 4 + 2] = bytes[2];
            key.address[word * 4 + 3] = bytes[3];
            word += 1;
        }
        key
    }
}

/// What `EVENTS` carries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// CLOCK_BOOTTIME ns.
    pub seen_ns: u64,
    /// cgroup-v2 id of the task.
    pub cgroup: u64,
    /// Where it wanted to go.
    pub daddr: Address,
    /// Port, host byte order.
    pub dport: u32,
    /// A [`Refusal`] as its code.
    pub reason: u32,
    /// Thread group.
    pub tgid: u32,
    /// Real uid.
    pub uid: u32,
    /// IP protocol.
    pub protocol: u32,
    /// Zero.
    pub reserved: u32,
    /// Name of the thread.
    pub comm: [u8; 16],
}

/// Why the kernel side refused something.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `CFG` could not be read.
    NoConfig = 1,
    /// A governed task dialled lockgate's own port.
    DialsProxy = 2,
    /// A protected destination by something other than TCP.
    NotTcp = 3,
    /// No listener of lockgate in the client's network namespace (lockgate is down, or another netns).
    NoListener = 4,
    /// Socket storage could not be allocated.
    NoMemory = 5,
    /// Somebody else tried to bind lockgate's port.
    BindsProxyPort = 6,
    /// A governed task asked for a socket type that no hook can follow.
    SocketType = 7,
    /// A packet of a governed socket, or from a governed namespace, to a protected destination.
    Packet = 8,
    /// A socket that is connected to a protected destination, or that no hook can follow, came to a governed task
    /// from elsewhere.
    ForeignSocket = 9,
    /// A governed task asked for a device that sends packets.
    Tunnel = 10,
    /// The destination is not registered, and the set of the task allows no others.
    Unregistered = 12,
    /// An answer about the name of a target could not be read, or not be remembered.
    Answer = 13,
    /// The cgroup is new, and whether it is governed has not been looked up yet.
    Unclassified = 14,
}

impl Refusal {
    /// Every refusal, in code order.
    pub const ALL: [Self; 13] = [
        Self::NoConfig,
        Self::DialsProxy,
        Self::NotTcp,
        Self::NoListener,
        Self::NoMemory,
        Self::BindsProxyPort,
        Self::SocketType,
        Self::Packet,
        Self::ForeignSocket,
        Self::Tunnel,
        Self::Unregistered,
        Self::Answer,
        Self::Unclassified,
    ];

    /// The errno that the caller sees (Linux numbers, the same on every architecture aya supports but MIPS).
    pub const fn errno(self) -> i32 {
        const EPERM: i32 = 1;
        const EPROTONOSUPPORT: i32 = 93;
        const ECONNREFUSED: i32 = 111;
        match self {
            Self::NoListener | Self::NoConfig | Self::NoMemory | Self::Unclassified => ECONNREFUSED,
            Self::SocketType => EPROTONOSUPPORT,
            Self::DialsProxy
            | Self::NotTcp
            | Self::BindsProxyPort
            | Self::Packet
            | Self::ForeignSocket
            | Self::Tunnel
            | Self::Unregistered
            | Self::Answer => EPERM,
        }
    }

    /// The refusal of a code, when there is one.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| *refusal as u32 == code)
    }

    /// A metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoConfig => "no_config",
            Self::DialsProxy => "dials_proxy",
            Self::NotTcp => "not_tcp",
            Self::NoListener => "no_listener",
            Self::NoMemory => "no_memory",
            Self::BindsProxyPort => "binds_proxy_port",
            Self::SocketType => "socket_type",
            Self::Packet => "packet",
            Self::ForeignSocket => "foreign_socket",
            Self::Tunnel => "tunnel",
            Self::Unregistered => "unregistered",
            Self::Answer => "answer",
            Self::Unclassified => "unclassified",
        }
    }
}

/// Slots of `STATS`; a refusal counts in the slot of its code.
pub mod stat {
    /// `connect()` rewritten to the listener.
    pub const REDIRECTED: u32 = 16;
    /// Accepted sockets that received their flow.
    pub const ATTRIBUTED: u32 = 17;
    /// Connections accepted on the port without a flow: somebody dialled it, or `FLOWS` overflowed.
    pub const UNATTRIBUTED: u32 = 18;
    /// A flow found for an accepted socket but too old to be its own.
    pub const STALE: u32 = 19;
    /// `FLOWS` refused an entry.
    pub const FLOWS_FULL: u32 = 20;
    /// `EVENTS` was full.
    pub const EVENTS_LOST: u32 = 21;
    /// Governed connections and datagrams to destinations that are not registered, let through.
    pub const UNREGISTERED: u32 = 24;
    /// Addresses that were learned from answers, or learned anew.
    pub const LEARNED: u32 = 25;
    /// Answers about targets' names by name servers that the socket had not asked: passed on, and not learned from.
    pub const UNASKED: u32 = 26;
    /// Number of slots.
    pub const SLOTS: u32 = 32;
}

/// The agent asks for an `AF_UNIX` socket of this protocol, which no kernel has, to see whether LSM programs are called.
pub const LSM_PROBE_PROTOCOL: u32 = 0x4c4b_4754;
/// `ENOTUNIQ`: what the program answers, and nothing else in `socket(2)` does.
pub const LSM_PROBE_ERRNO: i32 = 76;

/// Value of `LISTENER`: this socket is lockgate's.
pub const LISTENER_TAG: u32 = 0x4c4b_4754;

/// Names of the maps that are pinned.
pub mod map {
    /// [`Config`](super::Config).
    pub const CFG: &str = "CFG";
    /// cgroup id → [`capture`](super::capture).
    pub const CAPTURE_CG: &str = "CAPTURE_CG";
    /// uid → [`capture`](super::capture).
    pub const CAPTURE_UID: &str = "CAPTURE_UID";
    /// [`TargetKey`](super::TargetKey) → [`target`](super::target).
    pub const TARGETS: &str = "TARGETS";
    /// Client socket → [`Flow`](super::Flow).
    pub const CONN: &str = "CONN";
    /// [`Handshake`](super::Handshake) → [`Flow`](super::Flow).
    pub const FLOWS: &str = "FLOWS";
    /// Accepted socket → [`Flow`](super::Flow).
    pub const ACC: &str = "ACC";
    /// Listener → [`LISTENER_TAG`](super::LISTENER_TAG).
    pub const LISTENER: &str = "LISTENER";
    /// [`EgressKey`](super::EgressKey) → 1.
    pub const EGRESS: &str = "EGRESS";
    /// Hash of a name → [`Name`](super::Name).
    pub const NAMES: &str = "NAMES";
    /// [`HeardKey`](super::HeardKey) → [`Heard`](super::Heard).
    pub const HEARD: &str = "HEARD";
    /// cgroup id → how many entries of `HEARD` are its.
    pub const KNOWN: &str = "KNOWN";
    /// Socket → [`Asked`](super::Asked).
    pub const ASKED: &str = "ASKED";
    /// [`Seen`](super::Seen) → [`Sightings`](super::Sightings).
    pub const SEEN: &str = "SEEN";
    /// Address and port pairs of the proxy's own connections ([`Handshake`](super::Handshake), namespace 0) → 1.
    pub const VOUCHED: &str = "VOUCHED";
    /// [`Denial`](super::Denial)s.
    pub const EVENTS: &str = "EVENTS";
    /// [`stat`](super::stat) counters.
    pub const STATS: &str = "STATS";
    /// All of them.
    pub const ALL: [&str; 17] = [
        CFG,
        CAPTURE_CG,
        CAPTURE_UID,
        TARGETS,
        EGRESS,
        SEEN,
        NAMES,
        HEARD,
        KNOWN,
        ASKED,
        CONN,
        FLOWS,
        ACC,
        LISTENER,
        VOUCHED,
        EVENTS,
        STATS,
    ];
}

const _: () = {
    assert!(size_of::<Config>() == 32);
    assert!(size_of::<Seen>() == 48);
    assert!(size_of::<Sightings>() == 56);
    assert!(size_of::<Name>() == 32);
    assert!(size_of::<HeardKey>() == 32);
    assert!(size_of::<Heard>() == 16);
    assert!(size_of::<Asked>() == 72);
    assert!(size_of::<EgressKey>() == 20);
    assert!(size_of::<KernelOffsets>() == 44);
    assert!(size_of::<Flow>() == 104);
    assert!(size_of::<Handshake>() == 48);
    assert!(size_of::<TargetKey>() == 20);
    assert!(size_of::<Denial>() == 72);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_codes_and_stay_clear_of_the_other_statistics() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::from_code(refusal as u32), Some(refusal));
            assert!((refusal as u32) < stat::REDIRECTED);
        }
        assert_eq!(Refusal::from_code(0), None);
        assert_eq!(Refusal::from_code(99), None);
    }

    #[test]
    fn target_keys_are_port_then_address_in_network_order() {
        let address = [0, 0, V4_MAPPED, u32::from_ne_bytes([10, 20, 0, 1])];
        let key = TargetKey::new(&address, 5432);
        assert_eq!(key.port, [0x15, 0x38]);
        assert_eq!(key.address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 20, 0, 1, 0, 0]);
    }
}
