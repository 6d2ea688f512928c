//! The decisions of the eBPF programs, compiled for the host from the very file that the kernel object is
//! built from.

#[path = "../../../ebpf/lockgate-ebpf/src/decide.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel programs use what these tests do not")]
mod decide;
#[path = "../../../ebpf/lockgate-ebpf/src/dns.rs"]
#[allow(unreachable_pub, reason = "a module of the kernel programs")]
mod dns;
#[path = "../../../ebpf/lockgate-ebpf/src/packet.rs"]
#[allow(dead_code, unreachable_pub, reason = "the kernel programs use what these tests do not")]
mod packet;

use decide::{
    Birth, Dial, End, Found, HANDSHAKE_MAX_NS, LOCALHOST_V4, LOCALHOST_V6, Loopback, Packet, Socket,
    Standing, Step, World, bind, carry, connect, create, cross, handshake, is_fresh, is_loopback, leave,
    normalise, open, send, tunnel,
};
use lockgate_ebpf_common::{ABI_VERSION, Address, Config, Refusal, V4_MAPPED, protocol};
use std::net::{IpAddr, Ipv6Addr};

const PORT: u32 = 27_000;
const PROXY_CGROUP: u64 = 99;

/// A kernel whose answers are written down, and that writes down what it was asked to change.
#[derive(Clone)]
struct Script {
    config: Option<Config>,
    cgroup: u64,
    governed: bool,
    pending: bool,
    observed: bool,
    /// How often somebody observed was noted.
    noted: std::cell::Cell<u32>,
    protected: Vec<(&'static str, u32)>,
    listeners: Vec<Loopback>,
    memory: bool,
    /// What is not registered is refused.
    denies: bool,
    done: Vec<&'static str>,
}

impl Default for Script {
    fn default() -> Self {
        let config = Config { abi: ABI_VERSION, port: PORT, proxy_cgroup: PROXY_CGROUP, ..Config::default() };
        Self {
            config: Some(config),
            cgroup: 7,
            governed: true,
            pending: false,
            observed: false,
            noted: std::cell::Cell::new(0),
            protected: vec![("127.0.0.1", 5432), ("10.0.0.1", 5432), ("::1", 5432), ("2001:db8::1", 5432)],
            listeners: vec![Loopback::V4, Loopback::V6],
            memory: true,
            denies: false,
            done: Vec::new(),
        }
    }
}

impl World for Script {
    fn config(&self) -> Option<Config> {
        self.config
    }

    fn forget(&mut self) {
        self.done.push("forget");
    }

    fn in_cgroup(&self, id: u64) -> bool {
        self.cgroup == id
    }

    fn governed(&self) -> bool {
        self.governed
    }

    fn standing(&self) -> Standing {
        match (self.governed, self.observed) {
            (true, _) => Standing::Governed,
            (false, true) => Standing::Observed,
            (false, false) => Standing::Free,
        }
    }

    fn note(&self, _: &Address, _: u32, _: u32) {
        self.noted.set(self.noted.get() + 1);
    }

    fn pending(&self) -> bool {
        self.pending
    }

    fn protected(&self, destination: &Address, port: u32) -> bool {
        self.protected.iter().any(|(ip, number)| address(ip) == *destination && *number == port)
    }

    fn admits(&self, _: &Address, _: u32, _: u32) -> bool {
        !self.denies
    }

    fn listener(&self, at: Loopback, port: u32) -> bool {
        port == PORT && self.listeners.contains(&at)
    }

    fn unbind_device(&mut self) {
        self.done.push("unbind");
    }

    fn vouch(&mut self) {
        self.done.push("vouch");
    }

    fn record(&mut self, _: &Config, _: &Address, _: u32) -> bool {
        self.done.push("record");
        self.memory
    }
}

fn address(text: &str) -> Address {
    let octets = match text.parse().expect("an address") {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
    .octets();
    std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| octets[word * 4 + byte])))
}

fn show(words: &Address) -> String {
    let mut octets = [0; 16];
    for (word, bytes) in words.iter().zip(octets.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_string()
}

fn dial(text: &str, port: u32) -> Dial {
    let socket = if text.contains(':') { Socket::V6 } else { Socket::V4 };
    Dial { address: address(text), port, protocol: protocol::TCP, socket }
}

fn decide(script: &Script, dial: &Dial) -> (Result<Step, Refusal>, Vec<&'static str>) {
    let mut world = script.clone();
    let result = connect(&mut world, dial);
    (result, world.done)
}

#[test]
fn the_observed_go_where_they_like_and_are_noted() {
    let watched = || Script { governed: false, observed: true, ..Script::default() };
    for (to, port) in [("10.0.0.1", 5432), ("10.0.0.2", 80), ("127.0.0.1", PORT), ("::1", 5432)] {
        let mut world = watched();
        assert_eq!(connect(&mut world, &dial(to, port)), Ok(Step::Pass), "{to}");
        assert_eq!((world.noted.get(), world.done), (1, vec!["forget"]), "{to}");
        let world = watched();
        assert_eq!(send(&world, address(to), port), Ok(()), "{to}");
        assert_eq!(world.noted.get(), 1, "{to}");
    }
    // Who is governed as well is governed, and the proxy's own traffic is nobody's business.
    let mut both = Script { observed: true, ..Script::default() };
    assert_eq!(connect(&mut both, &dial("10.0.0.1", 5432)), Ok(Step::Redirect(Loopback::V4)));
    let mut proxy = Script { cgroup: PROXY_CGROUP, ..watched() };
    assert_eq!(connect(&mut proxy, &dial("10.0.0.1", 5432)), Ok(Step::Pass));
    assert_eq!((both.noted.get(), proxy.noted.get()), (0, 0));
    assert_eq!(create(&watched(), 3, 255), Ok(Birth::Untagged), "nothing is refused");
}

#[test]
fn translated_addresses_mean_what_a_gateway_makes_of_them() {
    for (to, expected) in [
        ("64:ff9b::10.0.0.1", Ok(Step::Redirect(Loopback::V4))),
        ("::10.0.0.1", Ok(Step::Redirect(Loopback::V4))),
        ("2002:a00:1::1", Ok(Step::Redirect(Loopback::V4))),
        ("2002:a00:1:ffff:1:2:3:4", Ok(Step::Redirect(Loopback::V4))),
        ("64:ff9b::10.0.0.2", Ok(Step::Pass)),
        ("64:ff9b:0:0:1::10.0.0.1", Ok(Step::Pass)),
        ("64:ff9b:1::10.0.0.1", Ok(Step::Pass)),
        ("2003:a00:1::1", Ok(Step::Pass)),
        ("::2", Ok(Step::Pass)),
    ] {
        assert_eq!(decide(&Script::default(), &dial(to, 5432)).0, expected, "{to}");
        let refused = expected != Ok(Step::Pass);
        assert_eq!(send(&Script::default(), address(to), 5432).is_err(), refused, "{to}, UDP");
        let end = |to: &str| End { address: address(to), port: 5432 };
        let packet = Packet::Ports { from: end("10.9.9.9"), to: end(to) };
        assert_eq!(leave(&Script::default(), &packet).is_err(), refused, "{to}, a packet");
        assert_eq!(
            cross(&Script::default(), &packet, false, |_, _| false).is_err(),
            refused,
            "{to}, an interface"
        );
    }
    // One that is registered as it stands keeps its form.
    let protected = vec![("64:ff9b::10.0.0.1", 5432), ("10.0.0.1", 5432)];
    let script = Script { protected, ..Script::default() };
    assert_eq!(show(&decide::meant(&script, address("64:ff9b::10.0.0.1"), 5432)), "64:ff9b::a00:1");
    assert_eq!(show(&decide::meant(&script, address("2002:a00:1::"), 5432)), "::ffff:10.0.0.1");
}

#[test]
fn what_is_new_and_not_classified_yet_is_refused_and_leaves_no_tag() {
    let script = Script { pending: true, ..Script::default() };
    assert_eq!(decide(&script, &dial("10.0.0.1", 5432)), (Err(Refusal::Unclassified), vec!["forget"]));
    assert_eq!(decide(&script, &dial("10.0.0.1", 5433)).0, Ok(Step::Pass), "nothing else is its business");
    assert_eq!(send(&script, address("10.0.0.1"), 5432), Err(Refusal::NotTcp));
    assert_eq!(create(&script, 1, protocol::TCP), Ok(Birth::Untagged));
    assert_eq!(create(&script, 3, protocol::TCP), Err(Refusal::SocketType));
    let denies = Script { denies: true, ..script };
    assert_eq!(decide(&denies, &dial("10.0.0.1", 5433)).0, Err(Refusal::Unregistered));
}

#[test]
fn a_governed_dial_of_a_protected_address_goes_to_the_listener_of_its_family() {
    for (to, expected) in [
        ("127.0.0.1", Loopback::V4),
        ("10.0.0.1", Loopback::V4),
        ("0.0.0.0", Loopback::V4),
        ("::ffff:10.0.0.1", Loopback::V4),
        ("::ffff:0.0.0.0", Loopback::V4),
        ("::1", Loopback::V6),
        ("::", Loopback::V6),
        ("2001:db8::1", Loopback::V6),
    ] {
        let (result, done) = decide(&Script::default(), &dial(to, 5432));
        assert_eq!(result, Ok(Step::Redirect(expected)), "{to}");
        assert_eq!(done, ["forget", "unbind", "record"], "{to}");
    }
}

#[test]
fn a_v6_dial_falls_back_to_the_v4_listener() {
    let script = Script { listeners: vec![Loopback::V4], ..Script::default() };
    assert_eq!(decide(&script, &dial("2001:db8::1", 5432)).0, Ok(Step::Redirect(Loopback::V4)));
    // A v4 socket cannot be written to ::1.
    let script = Script { listeners: vec![Loopback::V6], ..Script::default() };
    assert_eq!(decide(&script, &dial("10.0.0.1", 5432)).0, Err(Refusal::NoListener));
}

#[test]
fn what_is_not_ours_passes_and_its_old_attribution_is_forgotten_first() {
    let ungoverned = Script { governed: false, ..Script::default() };
    let proxy = Script { cgroup: PROXY_CGROUP, ..Script::default() };
    for (script, to, port) in [
        (&ungoverned, "10.0.0.1", 5432),
        (&ungoverned, "127.0.0.1", PORT),
        (&proxy, "10.0.0.1", 5432),
        (&proxy, "127.0.0.1", PORT),
        (&Script::default(), "10.0.0.1", 443),
        (&Script::default(), "10.0.0.2", 5432),
        (&Script::default(), "198.51.100.1", PORT),
    ] {
        let (result, done) = decide(script, &dial(to, port));
        assert_eq!(result, Ok(Step::Pass), "{to}:{port}");
        // What the proxy dials at a target is known by the packet filters.
        let vouched = script.cgroup == PROXY_CGROUP && script.governed && port != PORT;
        let expected: &[&str] = if vouched { &["forget", "vouch"] } else { &["forget"] };
        assert_eq!(done, expected, "{to}:{port}");
    }
}

#[test]
fn every_failure_refuses_with_its_own_reason() {
    let default = Script::default();
    let no_config = Script { config: None, ..default.clone() };
    let unset_port =
        Script { config: default.config.map(|config| Config { port: 0, ..config }), ..default.clone() };
    let no_listener = Script { listeners: Vec::new(), ..default.clone() };
    let no_memory = Script { memory: false, ..default.clone() };
    let udp = Dial { protocol: protocol::UDP, ..dial("10.0.0.1", 5432) };
    let mptcp = Dial { protocol: 262, ..dial("10.0.0.1", 5432) };
    for (name, script, dial, expected) in [
        ("no configuration", &no_config, dial("10.0.0.1", 5432), Refusal::NoConfig),
        ("no configuration, unprotected", &no_config, dial("10.0.0.2", 1), Refusal::NoConfig),
        ("port not yet known", &unset_port, dial("10.0.0.1", 5432), Refusal::NoListener),
        ("no listener", &no_listener, dial("10.0.0.1", 5432), Refusal::NoListener),
        ("no memory", &no_memory, dial("10.0.0.1", 5432), Refusal::NoMemory),
        ("UDP", &default, udp, Refusal::NotTcp),
        ("MPTCP", &default, mptcp, Refusal::NotTcp),
        ("the proxy itself", &default, dial("127.0.0.1", PORT), Refusal::DialsProxy),
        ("the proxy, unspecified", &default, dial("0.0.0.0", PORT), Refusal::DialsProxy),
        ("the proxy, v6", &default, dial("::1", PORT), Refusal::DialsProxy),
        ("the proxy, v6 unspecified", &default, dial("::", PORT), Refusal::DialsProxy),
        ("the proxy, mapped", &default, dial("::ffff:127.0.0.1", PORT), Refusal::DialsProxy),
        ("the proxy, alias", &default, dial("127.3.2.1", PORT), Refusal::DialsProxy),
    ] {
        assert_eq!(decide(script, &dial).0, Err(expected), "{name}");
    }
}

#[test]
fn what_is_not_registered_is_refused_where_the_default_is_to_deny() {
    let denies = Script { denies: true, ..Script::default() };
    assert_eq!(decide(&denies, &dial("10.0.0.2", 443)), (Err(Refusal::Unregistered), vec!["forget"]));
    assert_eq!(decide(&denies, &dial("10.0.0.1", 5432)).0, Ok(Step::Redirect(Loopback::V4)));
    assert_eq!(send(&denies, address("10.0.0.2"), 53), Err(Refusal::Unregistered));
    assert_eq!(send(&denies, address("10.0.0.1"), 5432), Err(Refusal::NotTcp));
    assert_eq!(create(&denies, 2, protocol::ICMP), Err(Refusal::SocketType));
    assert_eq!(create(&denies, 1, protocol::TCP), Ok(Birth::Tag));
    for script in [Script { governed: false, ..denies.clone() }, Script { cgroup: PROXY_CGROUP, ..denies }] {
        assert_eq!(decide(&script, &dial("10.0.0.2", 443)).0, Ok(Step::Pass));
        assert_eq!(send(&script, address("10.0.0.2"), 53), Ok(()));
    }
}

#[test]
fn nothing_is_changed_on_a_socket_that_is_refused() {
    let script = Script { listeners: Vec::new(), ..Script::default() };
    assert_eq!(decide(&script, &dial("10.0.0.1", 5432)).1, ["forget"]);
}

#[test]
fn a_second_attachment_at_another_level_refuses_what_the_first_one_redirected() {
    assert_eq!(decide(&Script::default(), &dial("127.0.0.1", PORT)).0, Err(Refusal::DialsProxy));
}

#[test]
fn datagrams_to_protected_addresses_are_refused_to_governed_tasks_only() {
    let default = Script::default();
    let ungoverned = Script { governed: false, ..default.clone() };
    let proxy = Script { cgroup: PROXY_CGROUP, ..default.clone() };
    let no_config = Script { config: None, ..default.clone() };
    for (script, to, port, expected) in [
        (&default, "10.0.0.1", 5432, Err(Refusal::NotTcp)),
        (&default, "0.0.0.0", 5432, Err(Refusal::NotTcp)),
        (&default, "::", 5432, Err(Refusal::NotTcp)),
        (&default, "10.0.0.1", 53, Ok(())),
        (&ungoverned, "10.0.0.1", 5432, Ok(())),
        (&proxy, "10.0.0.1", 5432, Ok(())),
        (&no_config, "10.0.0.1", 53, Err(Refusal::NoConfig)),
    ] {
        assert_eq!(send(script, address(to), port), expected, "{to}:{port}");
    }
}

#[test]
fn the_port_is_bound_by_the_proxy_s_cgroup_alone() {
    let default = Script::default();
    let proxy = Script { cgroup: PROXY_CGROUP, ..default.clone() };
    let unset =
        Script { config: default.config.map(|config| Config { port: 0, ..config }), ..default.clone() };
    let no_config = Script { config: None, ..default.clone() };
    for (script, port, ip_protocol, expected) in [
        (&default, PORT, protocol::TCP, Err(Refusal::BindsProxyPort)),
        (&default, PORT, 262, Err(Refusal::BindsProxyPort)),
        (&default, PORT, protocol::UDP, Ok(())),
        (&default, PORT + 1, protocol::TCP, Ok(())),
        (&default, 0, protocol::TCP, Ok(())),
        (&proxy, PORT, protocol::TCP, Ok(())),
        (&unset, 0, protocol::TCP, Ok(())),
        (&no_config, PORT, protocol::TCP, Ok(())),
    ] {
        assert_eq!(bind(script, port, ip_protocol), expected, "{port} {ip_protocol}");
    }
}

#[test]
fn sockets_that_no_hook_can_follow_are_refused_to_governed_tasks_only() {
    const STREAM: u32 = 1;
    const DGRAM: u32 = 2;
    const RAW: u32 = 3;
    let default = Script::default();
    let ungoverned = Script { governed: false, ..default.clone() };
    let proxy = Script { cgroup: PROXY_CGROUP, ..default.clone() };
    for (script, kind, ip_protocol, expected) in [
        (&default, STREAM, protocol::TCP, Ok(Birth::Tag)),
        (&default, DGRAM, protocol::UDP, Ok(Birth::Tag)),
        (&default, DGRAM, protocol::ICMP, Ok(Birth::Tag)),
        (&default, DGRAM, protocol::ICMPV6, Ok(Birth::Tag)),
        (&default, RAW, protocol::TCP, Err(Refusal::SocketType)),
        (&default, RAW, protocol::ICMP, Err(Refusal::SocketType)),
        (&default, STREAM, 262, Err(Refusal::SocketType)),
        (&default, STREAM, 132, Err(Refusal::SocketType)),
        (&default, DGRAM, 136, Err(Refusal::SocketType)),
        (&ungoverned, RAW, protocol::TCP, Ok(Birth::Untagged)),
        (&proxy, RAW, protocol::TCP, Ok(Birth::Untagged)),
    ] {
        assert_eq!(create(script, kind, ip_protocol), expected, "{kind} {ip_protocol}");
    }
}

#[test]
fn addresses_are_read_as_the_kernel_reads_them() {
    for (input, expected) in [
        ("0.0.0.0", "::ffff:127.0.0.1"),
        ("::", "::1"),
        ("::ffff:0.0.0.0", "::ffff:127.0.0.1"),
        ("10.1.2.3", "::ffff:10.1.2.3"),
        ("::1", "::1"),
        ("::2", "::2"),
    ] {
        assert_eq!(show(&normalise(address(input))), expected, "{input}");
    }
    for (input, expected) in [
        ("127.0.0.1", true),
        ("127.255.0.9", true),
        ("::1", true),
        ("::ffff:127.0.0.1", true),
        ("128.0.0.1", false),
        ("::", false),
        ("::2", false),
    ] {
        assert_eq!(is_loopback(&address(input)), expected, "{input}");
    }
    assert_eq!(address("127.0.0.1"), [0, 0, V4_MAPPED, LOCALHOST_V4]);
    assert_eq!(address("::1"), LOCALHOST_V6);
}

#[test]
fn both_ends_of_a_handshake_make_the_same_key() {
    let client = End { address: address("127.0.0.1"), port: 40_000 };
    let listener = End { address: address("127.0.0.1"), port: PORT };
    assert_eq!(handshake(5, client, listener), handshake(5, client, listener));
    assert_ne!(handshake(5, client, listener), handshake(6, client, listener), "another namespace");
    assert_ne!(handshake(5, client, listener), handshake(5, listener, client), "the other direction");
}

#[test]
fn a_flow_is_believed_for_one_handshake_and_no_longer() {
    assert!(is_fresh(1_000, 1_000) && is_fresh(0, HANDSHAKE_MAX_NS));
    assert!(!is_fresh(0, HANDSHAKE_MAX_NS + 1));
    assert!(!is_fresh(2_000, 1_000), "from the future");
}

#[test]
fn the_proxy_s_own_dial_of_a_protected_address_is_vouched_for() {
    let proxy = Script { cgroup: PROXY_CGROUP, ..Script::default() };
    for (to, port, expected) in [
        ("10.0.0.1", 5432, &["forget", "vouch"][..]),
        ("0.0.0.0", 5432, &["forget", "vouch"]),
        ("10.0.0.1", 443, &["forget"]),
    ] {
        let (result, done) = decide(&proxy, &dial(to, port));
        assert_eq!((result, done.as_slice()), (Ok(Step::Pass), expected), "{to}:{port}");
    }
}

#[test]
fn governed_tasks_open_no_family_that_leaves_unseen() {
    let governed = Script::default();
    for (family, name, made) in [
        (1, "unix", true),
        (2, "inet", true),
        (10, "inet6", true),
        (16, "netlink", true),
        (38, "alg", true),
        (17, "packet", false),
        (40, "vsock", false),
        (43, "smc", false),
        (44, "xdp", false),
        (30, "tipc", false),
        (21, "rds", false),
    ] {
        let expected = if made { Ok(()) } else { Err(Refusal::SocketType) };
        assert_eq!(open(&governed, family), expected, "{name}");
        for script in [
            Script { governed: false, ..Script::default() },
            Script { cgroup: PROXY_CGROUP, ..Script::default() },
            Script { config: None, ..Script::default() },
        ] {
            assert_eq!(open(&script, family), Ok(()), "{name}");
        }
    }
    assert_eq!(tunnel(&governed), Err(Refusal::Tunnel));
    assert_eq!(tunnel(&Script { governed: false, ..Script::default() }), Ok(()));
}

#[test]
fn sockets_that_come_from_elsewhere_carry_nothing_to_protected_addresses() {
    let (stream, raw) = (1, 3);
    for (family, kind, ip_protocol, peer, port, carried) in [
        (2, stream, protocol::TCP, "10.0.0.1", 5432, false),
        (2, stream, protocol::TCP, "10.0.0.1", 443, true),
        (2, stream, protocol::TCP, "0.0.0.0", 0, true),
        (10, stream, protocol::TCP, "2001:db8::1", 5432, false),
        (10, stream, protocol::TCP, "::ffff:10.0.0.1", 5432, false),
        (2, 2, protocol::UDP, "10.0.0.1", 5432, false),
        (2, raw, 255, "0.0.0.0", 0, false),
        (2, 1, protocol::SCTP, "0.0.0.0", 0, false),
        (17, raw, 0, "::", 0, false),
        (40, stream, 0, "::", 0, false),
        (1, stream, 0, "::", 0, true),
        (16, raw, 0, "::", 0, true),
    ] {
        let found = Found { family, kind, protocol: ip_protocol, address: address(peer), port };
        let expected = if carried { Ok(()) } else { Err(Refusal::ForeignSocket) };
        assert_eq!(carry(&Script::default(), &found), expected, "{found:?}");
        assert_eq!(carry(&Script { governed: false, ..Script::default() }, &found), Ok(()), "{found:?}");
    }
}

/// The bytes of a packet, as long as they are.
struct Wire(Vec<u8>);

impl packet::Bytes for Wire {
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.0.get(at as usize..)?.first_chunk().copied()
    }
}

/// 192.0.2.7 to 10.0.0.1, with options of a number of words, at an offset of fragments.
fn v4(options: u8, fragment: u16, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45 + options, 0, 0, 0, 0, 0];
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, next, 0, 0, 192, 0, 2, 7, 10, 0, 0, 1]);
    bytes.extend(vec![0; usize::from(options) * 4]);
    bytes.extend(payload);
    bytes
}

/// 2001:db8::7 to 2001:db8::1.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for last in [7, 1] {
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    bytes.extend(payload);
    bytes
}

const PORTS: [u8; 4] = [0x82, 0x35, 0x15, 0x38];

#[test]
fn a_packet_s_destination_is_found_behind_options_and_extension_headers() {
    let behind = |headers: &[u8]| [headers, &PORTS].concat();
    let hop = [43, 0, 0, 0, 0, 0, 0, 0];
    let routing = [60, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let destination = [6, 0, 0, 0, 0, 0, 0, 0];
    let first_fragment = [17, 0, 0, 1, 0, 0, 0, 0];
    let later_fragment = [17, 0, 0, 9, 0, 0, 0, 0];
    let authentication = [6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, bytes, to) in [
        ("TCP", v4(0, 0, 6, &PORTS), "10.0.0.1"),
        ("UDP with options", v4(10, 0, 17, &PORTS), "10.0.0.1"),
        ("the first fragment", v4(0, 0x2000, 6, &PORTS), "10.0.0.1"),
        ("SCTP", v4(0, 0, 132, &PORTS), "10.0.0.1"),
        ("DCCP", v4(0, 0, 33, &PORTS), "10.0.0.1"),
        ("UDP-Lite", v6(136, &PORTS), "2001:db8::1"),
        ("a chain of headers", v6(0, &behind(&[&hop[..], &routing, &destination].concat())), "2001:db8::1"),
        ("the first fragment, v6", v6(44, &behind(&first_fragment)), "2001:db8::1"),
        ("authenticated", v6(51, &behind(&authentication)), "2001:db8::1"),
        ("a later fragment", v4(0, 0x0001, 6, &PORTS), "none"),
        ("a later fragment, v6", v6(44, &behind(&later_fragment)), "none"),
        ("ICMP", v4(0, 0, 1, &PORTS), "none"),
        ("no ports", v4(0, 0, 6, &[1]), "unreadable"),
        ("half a header", v4(0, 0, 6, &PORTS)[..12].to_vec(), "unreadable"),
        ("an endless chain", v6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(20)), "unreadable"),
        ("another version", vec![0x15; 40], "unreadable"),
        ("nothing", Vec::new(), "unreadable"),
    ] {
        // Behind an Ethernet header as well.
        for at in [0, 14] {
            let wire = Wire([vec![0xff; at], bytes.clone()].concat());
            let packet = packet::read(&wire, at as u32);
            match packet {
                Packet::Ports { from, to: reached } => {
                    let (from_ip, to_ip) = (show(&from.address), show(&reached.address));
                    let expected = if to.contains(':') { to.to_owned() } else { format!("::ffff:{to}") };
                    assert_eq!((to_ip, reached.port, from.port), (expected, 5432, 0x8235), "{name}");
                    assert!(from_ip.ends_with('7'), "{name}: {from_ip}");
                }
                Packet::Portless => assert_eq!(to, "none", "{name}"),
                Packet::Unreadable => assert_eq!(to, "unreadable", "{name}"),
            }
        }
    }
}

#[test]
fn packet_filters_drop_what_goes_to_protected_addresses_and_what_cannot_be_read() {
    let world = Script::default();
    let end = |ip: &str, port| End { address: address(ip), port };
    let to = |ip: &str, port| Packet::Ports { from: end("192.0.2.7", 40_000), to: end(ip, port) };
    for (packet, passes) in [
        (to("10.0.0.1", 5432), false),
        (to("2001:db8::1", 5432), false),
        (to("0.0.0.0", 5432), false),
        (to("10.0.0.1", 443), true),
        (Packet::Portless, true),
        (Packet::Unreadable, false),
    ] {
        let expected = if passes { Ok(()) } else { Err(Refusal::Packet) };
        assert_eq!(leave(&world, &packet), expected, "{packet:?}");
        assert_eq!(cross(&world, &packet, false, |_, _| false), expected, "{packet:?}");
    }
    let packet = to("10.0.0.1", 5432);
    assert_eq!(cross(&world, &packet, true, |_, _| false), Ok(()));
    let known = |from: End, to: End| from.port == 40_000 && to.port == 5432;
    assert_eq!(cross(&world, &packet, false, known), Ok(()));
    assert_eq!(cross(&world, &Packet::Unreadable, true, known), Err(Refusal::Packet));
}

/// A name as it is sent.
fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    labels.chain([0]).collect()
}

/// An IPv4 packet from a name server: one question, these records (owner, type, TTL, data).
fn answer(name: &str, records: &[(Vec<u8>, u16, u32, Vec<u8>)]) -> Wire {
    let mut dns = vec![0, 7, 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    dns.extend(wire_name(name));
    dns.extend([0, 1, 0, 1]);
    for (owner, kind, ttl, data) in records {
        dns.extend(owner);
        dns.extend([&kind.to_be_bytes()[..], &[0, 1], &ttl.to_be_bytes()].concat());
        dns.extend((data.len() as u16).to_be_bytes());
        dns.extend(data);
    }
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 53, 127, 0, 0, 1];
    packet.extend([0, 53, 0x9c, 0x40, 0, 0, 0, 0]);
    packet.extend(dns);
    Wire(packet)
}

/// Where the message of a datagram begins.
fn begin(wire: &Wire) -> Option<u32> {
    let envelope = dns::envelope(wire)?;
    dns::messages(wire, &envelope)[0]
}

#[test]
fn answers_in_a_stream_are_found_behind_their_lengths() {
    const SOURCE: u32 = u32::from_ne_bytes([127, 0, 0, 53]);
    let datagram = |name: &str| answer(name, &[]).0.split_off(28);
    // Header lengths in words: of IPv4 with and without options, of TCP with and without.
    for (ip, tcp) in [(5, 5), (6, 5), (5, 8), (15, 15)] {
        let mut head = vec![0u8; ip * 4 + tcp * 4];
        head[0] = 0x40 | ip as u8;
        head[9] = 6;
        head[12..16].copy_from_slice(&[127, 0, 0, 53]);
        head[ip * 4 + 1] = 53;
        head[ip * 4 + 12] = (tcp as u8) << 4;
        let (one, two) = (datagram("db.example"), datagram("other.example"));
        let lengths = [&one, &two].map(|message| u16::try_from(message.len()).unwrap().to_be_bytes());
        let hash = |wire: &Wire, at: u32| dns::question(wire, at).map(|question| question.hash);
        let (first, second) = (hash(&Wire(one.clone()), 0), hash(&Wire(two.clone()), 0));
        for (payload, expected) in [
            ([&lengths[0][..], &one].concat(), [first, None, None]),
            ([&lengths[0][..], &one, &lengths[1], &two].concat(), [first, second, None]),
            // The length went before, in a segment of its own.
            (one.clone(), [None, None, first]),
            (vec![0xff; 40], [None; 3]),
            (vec![1], [None; 3]),
            (Vec::new(), [None; 3]),
        ] {
            let wire = Wire([&head[..], &payload].concat());
            let envelope = dns::envelope(&wire).expect("from a name server");
            assert!(envelope.stream && envelope.source == [0, 0, V4_MAPPED, SOURCE]);
            let found = dns::messages(&wire, &envelope).map(|at| at.and_then(|at| hash(&wire, at)));
            assert_eq!(found, expected, "{ip} {tcp} {payload:02x?}");
        }
    }
}

#[test]
fn answers_of_name_servers_are_read() {
    let v6 = "2001:db8::7".parse::<Ipv6Addr>().unwrap();
    let pointer = vec![0xc0, 12];
    let records = [
        (pointer.clone(), 5, 60, wire_name("db.internal")),
        (wire_name("db.internal"), 1, 30, vec![10, 0, 0, 7]),
        (pointer.clone(), 28, 0, v6.octets().to_vec()),
        (pointer, 1, 9, vec![1, 2, 3]),
    ];
    let wire = answer("DB.example", &records);
    let begins = begin(&wire).expect("a name server's");
    let question = dns::question(&wire, begins).expect("an answer");
    let same = answer("db.EXAMPLE", &[]);
    assert_eq!(question.hash, dns::question(&same, begins).expect("an answer").hash, "case means nothing");
    let other = answer("db.examplf", &[]);
    assert_ne!(question.hash, dns::question(&other, begins).expect("an answer").hash);
    assert_eq!(question.records, 4);
    let (mut at, mut read) = (question.at, Vec::new());
    for _ in 0..question.records.min(dns::MAX_RECORDS) {
        let record = dns::record(&wire, at).expect("a record");
        read.push((record.address, record.ttl));
        at = record.next;
    }
    let v4 = u32::from_ne_bytes([10, 0, 0, 7]);
    let words = v6.octets();
    let v6: Vec<u32> = words.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    let expected =
        [(None, 60), (Some([0, 0, V4_MAPPED, v4]), 30), (Some([v6[0], v6[1], v6[2], v6[3]]), 0), (None, 9)];
    assert_eq!(read, expected);
    assert_eq!(dns::record(&wire, at), None, "nothing is behind the last");

    // Cut anywhere it is unread, never misread; a query, ICMP and another port are nobody's answer.
    for length in 0..wire.0.len() {
        let cut = Wire(wire.0[..length].to_vec());
        let asked = begin(&cut).and_then(|begins| dns::question(&cut, begins));
        assert!(asked.is_none_or(|asked| asked == question), "{length}");
    }
    for (at, byte) in [(9, 1), (21, 54), (30, 0x01)] {
        let mut changed = wire.0.clone();
        changed[at] = byte;
        let changed = Wire(changed);
        assert!(begin(&changed).and_then(|begins| dns::question(&changed, begins)).is_none(), "{at}");
    }
    // A name that never ends.
    let endless = answer(&["x"; 140].join("."), &[]);
    assert_eq!(dns::question(&endless, begins), None);
}
