//! The ways around capture that the matrix tries: their names, the row of the threat model that each belongs to, and
//! the small network that they are tried in. Shared by the program that tries them (`capture_matrix`) and the test that
//! says what has to come of it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// The host's end of the veth pair, where the service listens.
pub const TARGET_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The same service over IPv6.
pub const TARGET_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
/// [`TARGET_V4`] as a NAT64 gateway translates it (RFC 6052).
pub const TARGET_NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0a4d, 1);
/// [`TARGET_V4`] in 6to4 (RFC 3056).
pub const TARGET_6TO4: Ipv6Addr = Ipv6Addr::new(0x2002, 0x0a4d, 1, 0, 0, 0, 0, 1);
/// The protected port.
pub const PORT: u16 = 5432;
/// Another port of the same host that nobody protects.
pub const FREE_PORT: u16 = 5999;
/// The pod's own address.
pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The pod's end of the pair.
pub const POD_INTERFACE: &str = "pod0";
/// The host's end.
pub const HOST_INTERFACE: &str = "up0";
/// Its Ethernet address.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Behind a tunnel of the pod's own making.
pub const TUNNEL_V4: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
/// The user of an unprivileged job.
pub const USER: u32 = 61_312;

/// Waits are this many times as long: guests in software emulation set it.
pub fn slowness() -> u32 {
    std::env::var("LOCKGATE_TEST_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How long one attempt may take; what is dropped on the way shows as this.
pub fn patience() -> Duration {
    Duration::from_secs(2) * slowness()
}

/// With which privileges a job tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// All of root's.
    Root,
    /// Root in a container, with the capabilities that container engines give by default.
    Container,
    /// A user without any.
    User,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Container, Self::User];

    /// A word for the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Container => "container",
            Self::User => "user",
        }
    }

    /// The mode of a word.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// How it shows that an attempt has reached the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The service's answer.
    Answer,
    /// The service has heard what was sent.
    Heard,
}

/// One way to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its name.
    pub name: &'static str,
    /// The row of the threat model's table (`lockgate_intercept::TECHNIQUES`).
    pub row: &'static str,
    /// How success shows.
    pub evidence: Evidence,
    /// Who can do it where nothing stops it.
    pub modes: &'static [Mode],
    /// Not every kernel has it: skipped where it does not work ungoverned either.
    pub optional: bool,
}

const fn answer(name: &'static str, row: &'static str) -> Attempt {
    Attempt { name, row, evidence: Evidence::Answer, modes: &Mode::ALL, optional: false }
}

const fn heard(name: &'static str, row: &'static str) -> Attempt {
    Attempt { name, row, evidence: Evidence::Heard, modes: &Mode::ALL, optional: false }
}

const fn privileged(name: &'static str, row: &'static str) -> Attempt {
    Attempt { name, row, evidence: Evidence::Heard, modes: &[Mode::Root, Mode::Container], optional: false }
}

const fn optional(attempt: Attempt) -> Attempt {
    Attempt { optional: true, ..attempt }
}

const CONNECT: &str =
    "connect() by IPv4, IPv6, v4-mapped, loopback aliases, 0.0.0.0, TCP Fast Open, io_uring";
const TRANSLATED: &str = "IPv6 addresses that stand for an IPv4 one: NAT64's well-known prefix, 6to4";
const UDP: &str = "UDP: connected, sendto(), QUIC";
const PROTOCOLS: &str = "UDP-Lite, MPTCP, SCTP, DCCP, SMC sockets";
const BOUND: &str = "SO_BINDTODEVICE, IP_UNICAST_IF, a bound source address";
const RAW: &str = "raw IPv4 and IPv6 sockets";

/// All of them.
pub const ATTEMPTS: &[Attempt] = &[
    answer("tcp-v4", CONNECT),
    answer("tcp-v6", CONNECT),
    answer("tcp-v4-mapped", CONNECT),
    answer("tcp-non-blocking", CONNECT),
    answer("tcp-fast-open-sendto-v4", CONNECT),
    answer("tcp-fast-open-sendto-v6", CONNECT),
    answer("tcp-fast-open-connect", CONNECT),
    answer("tcp-reconnect-after-unspec", CONNECT),
    answer("io-uring-connect", CONNECT),
    answer("io-uring-connect-async", CONNECT),
    answer("io-uring-connect-sqpoll", CONNECT),
    optional(answer("io-uring-socket-and-connect", CONNECT)),
    answer("io-uring-fast-open", CONNECT),
    answer("tcp-nat64", TRANSLATED),
    answer("tcp-6to4", TRANSLATED),
    heard("udp-nat64", TRANSLATED),
    answer("tcp-bound-to-device", BOUND),
    answer("tcp-unicast-if", BOUND),
    answer("tcp-bound-source", BOUND),
    heard("udp-bound-to-device", BOUND),
    heard("udp-unicast-if", BOUND),
    heard("udp-connected", UDP),
    heard("udp-reconnected", UDP),
    heard("udp-connected-elsewhere-sendto", UDP),
    heard("udp-sendto-v4", UDP),
    heard("udp-sendto-v6", UDP),
    heard("udp-sendto-v4-mapped", UDP),
    heard("udp-sendto-v4-on-v6-socket", UDP),
    heard("udp-sendmmsg", UDP),
    heard("io-uring-sendmsg", UDP),
    heard("io-uring-connected-send", UDP),
    heard("udp-lite", PROTOCOLS),
    optional(answer("mptcp", PROTOCOLS)),
    optional(answer("mptcp-fast-open", PROTOCOLS)),
    optional(answer("sctp", PROTOCOLS)),
    optional(answer("smc", PROTOCOLS)),
    privileged("raw-v4-with-header", RAW),
    privileged("raw-v4-udp", RAW),
    privileged("raw-v6-udp", RAW),
    privileged("packet", "AF_PACKET"),
    privileged("packet-past-the-queue", "AF_PACKET past the queueing discipline, from a pod"),
    privileged("xdp", "AF_XDP, from a pod"),
    Attempt {
        name: "tun",
        row: "TUN and TAP devices",
        evidence: Evidence::Heard,
        modes: &[Mode::Root],
        optional: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_has_a_name_of_its_own_and_a_row_in_the_threat_model() {
        let names: std::collections::BTreeSet<_> = ATTEMPTS.iter().map(|attempt| attempt.name).collect();
        assert_eq!(names.len(), ATTEMPTS.len());
        for attempt in ATTEMPTS {
            let row = lockgate_intercept::TECHNIQUES.iter().find(|technique| technique.what == attempt.row);
            assert!(row.is_some(), "{} belongs to no row", attempt.name);
        }
    }
}
