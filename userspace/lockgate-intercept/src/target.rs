//! Protected destinations: from configuration to keys of the kernel's prefix tree.
//!
//! A service on this host can be reached by many addresses: any 127.x.y.z, `::1`, and every address of
//! the host. A destination that names one of them therefore captures all of them on that port, and a
//! connection that came by another one is told as the registered address ([`registered_form`]), as
//! 0.0.0.0 is told as 127.0.0.1: it is the same service, and nobody else needs to know of this.

use crate::{abi::Raw, error::InterceptError};
use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use lockgate_ebpf_common::{TARGET_PORT_BITS, TargetKey, capacity, map, target as scope};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Addresses of one prefix on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetNet {
    address: IpAddr,
    prefix: u8,
    port: u16,
}

impl TargetNet {
    /// `prefix` bits of `address`; `None` when it is longer than the address or the port is 0. A v4-mapped address means its
    /// IPv4 one; the unspecified address with a full prefix means loopback.
    pub fn new(address: IpAddr, prefix: u8, port: u16) -> Option<Self> {
        let (address, prefix) = match (address, address.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(v4)) => (IpAddr::V4(v4), prefix.checked_sub(96)?),
            (_, canonical) => (canonical, prefix),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest || port == 0 {
            return None;
        }
        let address = match address {
            IpAddr::V4(ip) if ip.is_unspecified() && prefix == 32 => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() && prefix == 128 => IpAddr::V6(Ipv6Addr::LOCALHOST),
            other => mask(other, prefix),
        };
        Some(Self { address, prefix, port })
    }

    /// One address.
    pub fn host(address: IpAddr, port: u16) -> Option<Self> {
        Self::new(address, if address.is_ipv4() { 32 } else { 128 }, port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Does it cover this address?
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && mask(address, self.prefix) == self.address
    }

    /// An address of this host that it covers, loopback before others.
    fn local_address(&self, local: &[IpAddr]) -> Option<IpAddr> {
        if matches!(self.address, IpAddr::V4(ip) if ip.is_loopback()) && self.prefix == 32 {
            return Some(self.address);
        }
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let covered = loopback.iter().chain(local).copied().find(|ip| self.contains(*ip));
        // 127.64.0.0/16 covers neither 127.0.0.1 nor an interface, and is this host all the same.
        covered.or_else(|| self.address.is_loopback().then_some(self.address))
    }

    /// The address as the kernel's tables have it, and how many of its bits count.
    pub(crate) fn address_key(&self) -> (u32, [u8; 16]) {
        match self.address {
            IpAddr::V4(ip) => (96 + u32::from(self.prefix), ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => (u32::from(self.prefix), ip.octets()),
        }
    }

    pub(crate) fn port_key(&self) -> [u8; 2] {
        self.port.to_be_bytes()
    }

    pub(crate) fn key(&self) -> (u32, TargetKey) {
        let (bits, octets) = self.address_key();
        let mut key = TargetKey { port: self.port_key(), address: [0; 18] };
        key.address[..16].copy_from_slice(&octets);
        (TARGET_PORT_BITS + bits, key)
    }
}

impl fmt::Display for TargetNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(ip) => write!(f, "{ip}/{}:{}", self.prefix, self.port),
            IpAddr::V6(ip) => write!(f, "[{ip}]/{}:{}", self.prefix, self.port),
        }
    }
}

fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
        }
        IpAddr::V6(ip) => {
            IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
        }
    }
}

/// Adds every other way to reach this host, on each port on which one of its addresses is protected; each with where
/// it is protected ([`scope`]). This host's addresses are its own everywhere; loopback is it at home only, unless a
/// target names loopback, which then means the loopback of every client.
pub(crate) fn with_local_forms(targets: &[TargetNet], local: &[IpAddr]) -> BTreeMap<TargetNet, u32> {
    let own: Vec<(IpAddr, u8)> = local
        .iter()
        .filter(|ip| !ip.is_loopback())
        .map(|ip| (*ip, if ip.is_ipv4() { 32 } else { 128 }))
        .collect();
    let loopback = [(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8), (IpAddr::V6(Ipv6Addr::LOCALHOST), 128)];
    let mut all = BTreeMap::new();
    let mut protect = |forms: &[(IpAddr, u8)], port: u16, flag: u32| {
        for net in forms.iter().filter_map(|(ip, prefix)| TargetNet::new(*ip, *prefix, port)) {
            *all.entry(net).or_default() |= flag;
        }
    };
    for target in targets {
        protect(&[(target.address, target.prefix)], target.port, scope::EVERYWHERE);
        if target.local_address(local).is_some() {
            let every_loopback =
                loopback.iter().any(|(ip, _)| target.contains(*ip)) || target.address.is_loopback();
            let flag = if every_loopback { scope::EVERYWHERE } else { scope::AT_HOME };
            protect(&loopback, target.port, flag);
            protect(&own, target.port, scope::EVERYWHERE);
        }
    }
    // Protected everywhere says it all.
    all.values_mut()
        .filter(|flags| **flags & scope::EVERYWHERE != 0)
        .for_each(|flags| *flags = scope::EVERYWHERE);
    all
}

/// The registered address that a destination on this host stands for. A destination that is registered as it
/// is, or is not on this host, stays.
pub(crate) fn registered_form(
    targets: &[TargetNet],
    local: &[IpAddr],
    destination: SocketAddr,
) -> SocketAddr {
    let ip = destination.ip();
    let on_this_host = ip.is_loopback() || local.contains(&ip);
    let mut same_port = targets.iter().filter(|target| target.port == destination.port());
    if !on_this_host || same_port.clone().any(|target| target.contains(ip)) {
        return destination;
    }
    let registered = same_port.find_map(|target| target.local_address(local));
    registered.map_or(destination, |ip| SocketAddr::new(ip, destination.port()))
}

/// Addresses of this host's interfaces.
pub(crate) fn local_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}

/// The kernel's `TARGETS`.
pub(crate) struct TargetMap(LpmTrie<MapData, Raw<TargetKey>, u32>);

impl TargetMap {
    pub(crate) fn new(map: LpmTrie<MapData, Raw<TargetKey>, u32>) -> Self {
        Self(map)
    }

    /// Makes the map hold exactly `targets`: new ones first, so that nothing is open in between.
    pub(crate) fn set(&mut self, targets: &BTreeMap<TargetNet, u32>) -> Result<(), InterceptError> {
        if targets.len() > capacity::TARGETS as usize {
            return Err(InterceptError::TooMany {
                what: "target addresses",
                got: targets.len(),
                max: capacity::TARGETS,
            });
        }
        let mut stale: BTreeMap<(u32, [u8; 20]), u32> = self
            .0
            .iter()
            .flatten()
            .map(|(key, flags)| ((key.prefix_len(), bytes(key.data().0)), flags))
            .collect();
        for (target, flags) in targets {
            let (bits, key) = target.key();
            if stale.remove(&(bits, bytes(key))) != Some(*flags) {
                self.0
                    .insert(&Key::new(bits, Raw(key)), flags, 0)
                    .map_err(InterceptError::map(map::TARGETS))?;
            }
        }
        for (bits, key) in stale.into_keys() {
            self.0
                .remove(&Key::new(bits, Raw(from_bytes(key))))
                .map_err(InterceptError::map(map::TARGETS))?;
        }
        Ok(())
    }
}

fn bytes(key: TargetKey) -> [u8; 20] {
    let mut all = [0; 20];
    all[..2].copy_from_slice(&key.port);
    all[2..].copy_from_slice(&key.address);
    all
}

fn from_bytes(all: [u8; 20]) -> TargetKey {
    let mut key = TargetKey { port: [all[0], all[1]], address: [0; 18] };
    key.address.copy_from_slice(&all[2..]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> TargetNet {
        let (rest, port) = text.rsplit_once(':').unwrap();
        let (ip, prefix) = rest.split_once('/').unwrap();
        TargetNet::new(ip.parse().unwrap(), prefix.parse().unwrap(), port.parse().unwrap()).unwrap()
    }

    #[test]
    fn prefixes_are_masked_and_v4_mapped_is_ipv4() {
        for (input, expected) in [
            ("10.20.3.4/16:5432", "10.20.0.0/16:5432"),
            ("10.20.3.4/32:1", "10.20.3.4/32:1"),
            ("0.0.0.0/0:1", "0.0.0.0/0:1"),
            ("0.0.0.0/32:1", "127.0.0.1/32:1"),
            ("::/128:1", "[::1]/128:1"),
            ("::ffff:10.0.0.1/128:1", "10.0.0.1/32:1"),
            ("2001:db8:1::9/32:1", "[2001:db8::]/32:1"),
        ] {
            assert_eq!(net(input).to_string(), expected, "{input}");
        }
        assert_eq!(TargetNet::new("10.0.0.1".parse().unwrap(), 33, 1), None);
        assert_eq!(TargetNet::new("10.0.0.1".parse().unwrap(), 32, 0), None);
        assert_eq!(TargetNet::new("::ffff:10.0.0.1".parse().unwrap(), 64, 1), None);
    }

    #[test]
    fn a_local_target_captures_every_way_to_this_host() {
        let local = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        for (input, covers_local) in [
            ("127.0.0.1/32:5432", true),
            ("127.0.0.9/32:5432", true),
            ("192.0.2.7/32:5432", true),
            ("192.0.2.0/24:5432", true),
            ("::1/128:5432", true),
            ("0.0.0.0/0:5432", true),
            ("10.0.0.0/8:5432", false),
            ("2001:db8::/32:5432", false),
        ] {
            let all = with_local_forms(&[net(input)], &local);
            let covered = |ip: &str| all.keys().any(|target| target.contains(ip.parse().unwrap()));
            for way in ["127.0.0.1", "127.9.9.9", "::1", "192.0.2.7", "::ffff:192.0.2.7"] {
                assert_eq!(covered(way), covers_local, "{input} {way}");
            }
        }
    }

    #[test]
    fn loopback_is_another_service_in_another_namespace_unless_a_target_names_it() {
        let local = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        for (input, way, expected) in [
            ("192.0.2.7/32:5432", "192.0.2.7/32:5432", Some(scope::EVERYWHERE)),
            ("192.0.2.7/32:5432", "127.0.0.0/8:5432", Some(scope::AT_HOME)),
            ("192.0.2.7/32:5432", "::1/128:5432", Some(scope::AT_HOME)),
            ("127.0.0.1/32:5432", "127.0.0.0/8:5432", Some(scope::EVERYWHERE)),
            ("127.0.0.1/32:5432", "192.0.2.7/32:5432", Some(scope::EVERYWHERE)),
            ("127.0.0.9/32:5432", "::1/128:5432", Some(scope::EVERYWHERE)),
            ("0.0.0.0/0:5432", "::1/128:5432", Some(scope::EVERYWHERE)),
            ("10.0.0.0/8:5432", "127.0.0.0/8:5432", None),
        ] {
            let all = with_local_forms(&[net(input)], &local);
            assert_eq!(all.get(&net(way)).copied(), expected, "{input} {way}");
        }
        let both = with_local_forms(&[net("192.0.2.7/32:1"), net("127.0.0.1/32:1")], &local);
        assert!(both.values().all(|flags| *flags == scope::EVERYWHERE), "{both:?}");
    }

    #[test]
    fn a_destination_on_this_host_is_told_as_the_registered_address() {
        let local = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
        for (targets, dialled, told) in [
            (&["127.0.0.1/32:5432"][..], "[::1]:5432", "127.0.0.1:5432"),
            (&["127.0.0.1/32:5432"], "127.9.9.9:5432", "127.0.0.1:5432"),
            (&["127.0.0.1/32:5432"], "192.0.2.7:5432", "127.0.0.1:5432"),
            (&["127.0.0.1/32:5432"], "127.0.0.1:5432", "127.0.0.1:5432"),
            (&["127.0.0.9/32:5432"], "127.0.0.1:5432", "127.0.0.9:5432"),
            (&["127.64.0.0/16:5432"], "127.0.0.1:5432", "127.64.0.0:5432"),
            (&["127.0.0.1/32:5432", "::1/128:5432"], "[::1]:5432", "[::1]:5432"),
            (&["192.0.2.0/24:5432"], "127.0.0.1:5432", "192.0.2.7:5432"),
            (&["192.0.2.0/24:5432"], "192.0.2.7:5432", "192.0.2.7:5432"),
            (&["192.0.2.0/24:5432"], "192.0.2.8:5432", "192.0.2.8:5432"),
            (&["127.0.0.1/32:5432"], "[::1]:5433", "[::1]:5433"),
            (&["10.0.0.0/8:5432"], "127.0.0.1:5432", "127.0.0.1:5432"),
        ] {
            let targets: Vec<TargetNet> = targets.iter().map(|text| net(text)).collect();
            let shown = registered_form(&targets, &local, dialled.parse().unwrap());
            assert_eq!(shown.to_string(), told, "{dialled} with {targets:?}");
        }
    }

    #[test]
    fn keys_carry_the_port_and_count_its_bits() {
        let (bits, key) = net("10.20.0.0/16:5432").key();
        assert_eq!(bits, 16 + 96 + 16);
        assert_eq!(from_bytes(bytes(key)), key);
        assert_eq!(&key.address[10..14], &[0xff, 0xff, 10, 20]);
    }
}
