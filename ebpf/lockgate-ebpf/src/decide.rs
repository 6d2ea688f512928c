//! The decisions, without the kernel: the same file is compiled into the BPF object and, on the
//! host, into the unit tests of lockgate-intercept.
//!
//! What has to be asked of the kernel goes through [`World`], so that the *order* of the rules is
//! tested as well as their outcome. Every rule comes from a way around capture that was measured;
//! its comment names it.

use lockgate_ebpf_common::{Address, Config, Handshake, Refusal, V4_MAPPED, family, protocol};

/// One `connect()` as its caller wrote it.
#[derive(Clone, Copy)]
pub struct Dial {
    /// Where to; IPv4 already v4-mapped.
    pub address: Address,
    /// Port, host byte order.
    pub port: u32,
    /// IP protocol of the socket.
    pub protocol: u32,
    /// The address family the rewritten address must be written in.
    pub socket: Socket,
}

/// What addresses a socket takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// Where a redirected connection goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loopback {
    /// 127.0.0.1, written as such or v4-mapped, as the socket asks.
    V4,
    /// `::1`.
    V6,
}

/// What happens to a `connect()`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Not ours: unchanged.
    Pass,
    /// To the listener.
    Redirect(Loopback),
}

/// How the current task stands to lockgate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is none of ours.
    Free,
    /// Where it goes is noted, and nothing else.
    Observed,
    /// It, or the socket's creator, is governed.
    Governed,
}

/// What the decisions ask of the kernel, about the current task and socket.
pub trait World {
    /// The configuration that userspace wrote.
    fn config(&self) -> Option<Config>;
    /// Forgets an earlier redirection of this socket.
    fn forget(&mut self);
    /// Is the current task in this very cgroup?
    fn in_cgroup(&self, id: u64) -> bool;
    /// Is the task (cgroup, ancestors, uid) or the socket's creator governed?
    fn governed(&self) -> bool;
    /// The same, with those that are only observed; where nothing is noted there are none.
    #[inline(always)]
    fn standing(&self) -> Standing {
        if self.governed() { Standing::Governed } else { Standing::Free }
    }
    /// Notes that somebody observed goes there.
    #[inline(always)]
    fn note(&self, _address: &Address, _port: u32, _ip_protocol: u32) {}
    /// Is the task in a new cgroup, of which it is not known yet whether it is governed?
    fn pending(&self) -> bool;
    /// Is this destination registered?
    fn protected(&self, address: &Address, port: u32) -> bool;
    /// The destination is not registered: may whoever connects reach it all the same?
    fn admits(&self, address: &Address, port: u32, ip_protocol: u32) -> bool;
    /// Is there a listener with lockgate's tag at this address in the socket's namespace?
    fn listener(&self, at: Loopback, port: u32) -> bool;
    /// Removes a device binding, with which the loopback listener could not be reached.
    fn unbind_device(&mut self);
    /// Remembers with the socket that the proxy itself dials a protected destination.
    fn vouch(&mut self);
    /// Stores the flow with the socket; false when there is no memory for it.
    fn record(&mut self, config: &Config, address: &Address, port: u32) -> bool;
}

/// `connect4` and `connect6`, rule by rule.
#[inline(always)]
pub fn connect<W: World>(world: &mut W, dial: &Dial) -> Result<Step, Refusal> {
    let config = world.config().ok_or(Refusal::NoConfig)?;
    // AF_UNSPEC and a second connect() would otherwise reuse the first one's attribution.
    world.forget();
    if world.in_cgroup(config.proxy_cgroup) {
        if world.protected(&normalise(dial.address), dial.port) {
            world.vouch();
        }
        return Ok(Step::Pass);
    }
    match world.standing() {
        Standing::Free => return Ok(Step::Pass),
        Standing::Observed => {
            world.note(&normalise(dial.address), dial.port, dial.protocol);
            return Ok(Step::Pass);
        }
        Standing::Governed => {}
    }
    let address = meant(world, dial.address, dial.port);
    // Nobody governed talks to the proxy without being attributed.
    if dial.port == config.port && is_loopback(&address) {
        return Err(Refusal::DialsProxy);
    }
    if !world.protected(&address, dial.port) {
        return match world.admits(&address, dial.port, dial.protocol) {
            true => Ok(Step::Pass),
            false => Err(Refusal::Unregistered),
        };
    }
    // Neither redirected, which it may have no right to, nor direct.
    if world.pending() {
        return Err(Refusal::Unclassified);
    }
    if dial.protocol != protocol::TCP {
        return Err(Refusal::NotTcp);
    }
    let loopback = choose_listener(world, &config, dial.socket, &address)?;
    // SO_BINDTODEVICE would make the loopback address unreachable.
    world.unbind_device();
    if world.record(&config, &address, dial.port) {
        Ok(Step::Redirect(loopback))
    } else {
        Err(Refusal::NoMemory)
    }
}

/// A v6 destination prefers `::1`; without such a listener 127.0.0.1 is reached v4-mapped (a socket
/// with IPV6_V6ONLY then gets ENETUNREACH). A destination that is IPv4 stays IPv4.
#[inline(always)]
fn choose_listener<W: World>(
    world: &W,
    config: &Config,
    socket: Socket,
    address: &Address,
) -> Result<Loopback, Refusal> {
    if config.port == 0 {
        return Err(Refusal::NoListener);
    }
    if socket == Socket::V6 && !is_v4(address) && world.listener(Loopback::V6, config.port) {
        return Ok(Loopback::V6);
    }
    if world.listener(Loopback::V4, config.port) { Ok(Loopback::V4) } else { Err(Refusal::NoListener) }
}

/// `sendmsg4` and `sendmsg6`: a governed task sends no datagram to a protected destination (QUIC).
#[inline(always)]
pub fn send<W: World>(world: &W, address: Address, port: u32) -> Result<(), Refusal> {
    let config = world.config().ok_or(Refusal::NoConfig)?;
    if world.in_cgroup(config.proxy_cgroup) {
        return Ok(());
    }
    match world.standing() {
        Standing::Free => return Ok(()),
        Standing::Observed => {
            world.note(&normalise(address), port, protocol::UDP);
            return Ok(());
        }
        Standing::Governed => {}
    }
    let address = meant(world, address, port);
    match world.protected(&address, port) {
        true => Err(Refusal::NotTcp),
        false if world.admits(&address, port, protocol::UDP) => Ok(()),
        false => Err(Refusal::Unregistered),
    }
}

/// `bind4` and `bind6`: the listener's port belongs to the proxy's cgroup, also while nobody listens.
#[inline(always)]
pub fn bind<W: World>(world: &W, port: u32, ip_protocol: u32) -> Result<(), Refusal> {
    // Before the first configuration there is no port to guard; binding is not egress.
    let Some(config) = world.config() else { return Ok(()) };
    if port == 0 || port != config.port || ip_protocol == protocol::UDP {
        return Ok(());
    }
    if world.in_cgroup(config.proxy_cgroup) { Ok(()) } else { Err(Refusal::BindsProxyPort) }
}

/// What `sock_create` does with a new inet socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Birth {
    /// Nobody governed made it.
    Untagged,
    /// Remember who made it: it may be connected by somebody else.
    Tag,
}

/// `sock_create`: RAW, MPTCP, SCTP, DCCP, SMC and UDP-Lite have ways to send that no connect hook sees.
#[inline(always)]
pub fn create<W: World>(world: &W, kind: u32, ip_protocol: u32) -> Result<Birth, Refusal> {
    let Some(config) = world.config() else { return Ok(Birth::Untagged) };
    if world.in_cgroup(config.proxy_cgroup) || !world.governed() {
        return Ok(Birth::Untagged);
    }
    // A ping carries what its sender likes to anybody who answers.
    let ping = matches!(ip_protocol, protocol::ICMP | protocol::ICMPV6);
    if !is_followed(kind, ip_protocol) || (ping && !world.admits(&[0; 4], 0, ip_protocol)) {
        return Err(Refusal::SocketType);
    }
    // A tag would govern the socket for ever, also when its maker turns out not to be.
    Ok(if world.pending() { Birth::Untagged } else { Birth::Tag })
}

/// Whether the socket hooks see all that such an inet socket can send.
#[inline(always)]
fn is_followed(kind: u32, ip_protocol: u32) -> bool {
    match ip_protocol {
        _ if kind == SOCK_RAW => false,
        protocol::TCP | protocol::UDP => true,
        // An unprivileged ping: carries nothing to a protected service.
        protocol::ICMP | protocol::ICMPV6 => true,
        _ => false,
    }
}

const SOCK_RAW: u32 = 3;

/// LSM `socket_create`: families that leave the host without any inet hook (AF_PACKET, AF_XDP, AF_VSOCK, AF_SMC, …).
/// Which inet sockets may be made is `sock_create`'s to say.
#[inline(always)]
pub fn open<W: World>(world: &W, family: u32) -> Result<(), Refusal> {
    if may_open(family) || !concerns(world) { Ok(()) } else { Err(Refusal::SocketType) }
}

#[inline(always)]
fn may_open(family: u32) -> bool {
    matches!(family, family::UNIX | family::INET | family::INET6 | family::NETLINK | family::ALG)
}

/// A socket as LSM hooks find it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Address family.
    pub family: u32,
    /// `SOCK_*`.
    pub kind: u32,
    /// IP protocol.
    pub protocol: u32,
    /// Its peer; port 0 when it is not connected.
    pub address: Address,
    /// The peer's port, host byte order.
    pub port: u32,
}

/// LSM `file_receive` and `socket_sendmsg`: a socket that was connected, or made, before governance or elsewhere.
/// What it would take the socket hooks to refuse is refused here.
#[inline(always)]
pub fn carry<W: World>(world: &W, found: &Found) -> Result<(), Refusal> {
    let inet = matches!(found.family, family::INET | family::INET6);
    let suspect = match inet {
        true => {
            !is_followed(found.kind, found.protocol)
                || (found.port != 0 && world.protected(&meant(world, found.address, found.port), found.port))
        }
        false => !may_open(found.family),
    };
    if suspect && concerns(world) { Err(Refusal::ForeignSocket) } else { Ok(()) }
}

/// LSM `tun_dev_create`, `tun_dev_open` and a received /dev/net/tun: a device whose packets no socket hook sees.
#[inline(always)]
pub fn tunnel<W: World>(world: &W) -> Result<(), Refusal> {
    if concerns(world) { Err(Refusal::Tunnel) } else { Ok(()) }
}

/// Whether the current task is governed and not the proxy's. Without a configuration nobody is governed yet.
#[inline(always)]
fn concerns<W: World>(world: &W) -> bool {
    world.config().is_some_and(|config| !world.in_cgroup(config.proxy_cgroup) && world.governed())
}

/// What a packet filter sees of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// It has ports.
    Ports {
        /// Where from.
        from: End,
        /// Where to.
        to: End,
    },
    /// Nothing that a protected service would take: another protocol, or the rest of a fragmented packet whose
    /// beginning has to pass by as well.
    Portless,
    /// Its ports cannot be found.
    Unreadable,
}

/// `cgroup_skb` egress of a governed cgroup: none of its sockets sends to a protected destination itself.
#[inline(always)]
pub fn leave<W: World>(world: &W, packet: &Packet) -> Result<(), Refusal> {
    match packet {
        Packet::Ports { to, .. } if is_meant(world, to) => Err(Refusal::Packet),
        Packet::Ports { .. } | Packet::Portless => Ok(()),
        Packet::Unreadable => Err(Refusal::Packet),
    }
}

/// A network interface: only connections of the proxy pass to protected destinations. `proxy` says that the packet's
/// socket is in the proxy's cgroup, `vouched` that a connection is the proxy's where the socket is no longer known.
#[inline(always)]
pub fn cross<W: World>(
    world: &W,
    packet: &Packet,
    proxy: bool,
    vouched: impl FnOnce(End, End) -> bool,
) -> Result<(), Refusal> {
    match packet {
        Packet::Ports { from, to } if is_meant(world, to) => {
            if proxy || vouched(*from, *to) {
                Ok(())
            } else {
                Err(Refusal::Packet)
            }
        }
        Packet::Ports { .. } | Packet::Portless => Ok(()),
        Packet::Unreadable => Err(Refusal::Packet),
    }
}

#[inline(always)]
fn is_meant<W: World>(world: &W, to: &End) -> bool {
    world.protected(&meant(world, to.address, to.port), to.port)
}

/// The destination that an address leads to: 0.0.0.0, :: and ::ffff:0.0.0.0 all reach services on loopback, and a
/// gateway takes a translated IPv6 address to the IPv4 one inside it.
#[inline(always)]
pub fn meant<W: World>(world: &W, address: Address, port: u32) -> Address {
    let address = normalise(address);
    match embedded(&address) {
        Some(inside) if !world.protected(&address, port) && world.protected(&inside, port) => inside,
        _ => address,
    }
}

/// The IPv4 address inside an IPv6 one: NAT64's well-known prefix 64:ff9b::/96 (RFC 6052), 6to4's 2002::/16 (RFC 3056)
/// and the IPv4-compatible ::/96 (RFC 4291).
#[inline(always)]
pub fn embedded(address: &Address) -> Option<Address> {
    const NAT64: u32 = 0x0064_ff9bu32.to_be();
    let [first, second, third, last] = *address;
    let v4 = match (u32::from_be(first) >> 16, second, third) {
        _ if first == NAT64 && second == 0 && third == 0 => last,
        (0x2002, _, _) => (u32::from_be(first) << 16 | u32::from_be(second) >> 16).to_be(),
        // Below 256 are :: and ::1, no addresses of anybody.
        (0, 0, 0) if first == 0 && u32::from_be(last) > 0xff => last,
        _ => return None,
    };
    Some(normalise([0, 0, V4_MAPPED, v4]))
}

/// Unspecified means loopback, as the kernel itself reads it in `connect()`.
#[inline(always)]
pub fn normalise(address: Address) -> Address {
    if is_v4(&address) && address[3] == 0 {
        return [0, 0, V4_MAPPED, LOCALHOST_V4];
    }
    if address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == 0 {
        return LOCALHOST_V6;
    }
    address
}

/// 127.0.0.1 in network byte order.
pub const LOCALHOST_V4: u32 = 0x7f00_0001u32.to_be();
/// `::1`.
pub const LOCALHOST_V6: Address = [0, 0, 0, 1u32.to_be()];

/// Is this an IPv4 address in its v4-mapped form?
#[inline(always)]
pub fn is_v4(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == V4_MAPPED
}

/// 127.0.0.0/8 (also v4-mapped) or `::1`.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    let v4 = is_v4(address) && u32::from_be(address[3]) >> 24 == 127;
    let v6 = address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == 1u32.to_be();
    v4 || v6
}

/// How long a handshake may take before its flow is no longer believed: SYN retransmission gives up
/// after about 127 s with the kernel's default of six retries.
pub const HANDSHAKE_MAX_NS: u64 = 150_000_000_000;

/// Is a flow seen at `seen_ns` young enough to belong to a connection established at `now_ns`?
#[inline(always)]
pub fn is_fresh(seen_ns: u64, now_ns: u64) -> bool {
    now_ns.wrapping_sub(seen_ns) <= HANDSHAKE_MAX_NS
}

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// Address; IPv4 v4-mapped.
    pub address: Address,
    /// Port, host byte order.
    pub port: u32,
}

/// The key under which both ends of one handshake meet.
#[inline(always)]
pub fn handshake(netns: u64, client: End, listener: End) -> Handshake {
    Handshake {
        netns,
        client: client.address,
        listener: listener.address,
        client_port: client.port,
        listener_port: listener.port,
    }
}
