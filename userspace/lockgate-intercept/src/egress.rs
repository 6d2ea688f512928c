//! What governed processes may reach besides targets: from configuration to the kernel's list.

use crate::{abi::Raw, error::InterceptError, target::TargetNet};
use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use lockgate_ebpf_common::{EGRESS_FIXED_BITS, EgressKey, capacity, map};
use std::{collections::BTreeSet, net::IpAddr};

/// What happens to connections that no target is registered for. They are counted in any case, and never redirected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    /// They pass.
    #[default]
    Allow,
    /// They are refused, but for these.
    Deny(Vec<EgressNet>),
    /// They pass, and so do those to targets: nothing is redirected, who talks to what is noted.
    Observe,
}

/// Addresses of one prefix, on one port or on any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EgressNet {
    net: TargetNet,
    any_port: bool,
}

impl EgressNet {
    /// `None` when the prefix is longer than the address, or the port is 0.
    pub fn new(address: IpAddr, prefix: u8, port: Option<u16>) -> Option<Self> {
        let net = TargetNet::new(address, prefix, port.unwrap_or(1))?;
        Some(Self { net, any_port: port.is_none() })
    }

    fn key(&self, set: u16) -> ListKey {
        let (bits, key) = self.net.address_key();
        let port = if self.any_port { [0, 0] } else { self.net.port_key() };
        let mut all = [0; 20];
        all[..2].copy_from_slice(&set.to_be_bytes());
        all[2..4].copy_from_slice(&port);
        all[4..].copy_from_slice(&key);
        (EGRESS_FIXED_BITS + bits, all)
    }
}

/// Bits that count, and the bytes of an [`EgressKey`].
type ListKey = (u32, [u8; 20]);

/// The kernel's `EGRESS`.
pub(crate) struct EgressMap(LpmTrie<MapData, Raw<EgressKey>, u32>);

impl EgressMap {
    pub(crate) fn new(map: LpmTrie<MapData, Raw<EgressKey>, u32>) -> Self {
        Self(map)
    }

    /// Makes the map hold exactly the lists of these sets: what is no longer allowed goes first.
    pub(crate) fn set(&mut self, lists: &[(u16, &[EgressNet])]) -> Result<(), InterceptError> {
        let wanted: BTreeSet<ListKey> =
            lists.iter().flat_map(|(set, nets)| nets.iter().map(|net| net.key(*set))).collect();
        if wanted.len() > capacity::EGRESS as usize {
            return Err(InterceptError::TooMany {
                what: "allowed destinations",
                got: wanted.len(),
                max: capacity::EGRESS,
            });
        }
        let present: BTreeSet<ListKey> =
            self.0.keys().flatten().map(|key| (key.prefix_len(), bytes(key.data().0))).collect();
        for (bits, key) in present.difference(&wanted) {
            self.0
                .remove(&Key::new(*bits, Raw(from_bytes(*key))))
                .map_err(InterceptError::map(map::EGRESS))?;
        }
        for (bits, key) in wanted.difference(&present) {
            self.0
                .insert(&Key::new(*bits, Raw(from_bytes(*key))), 1, 0)
                .map_err(InterceptError::map(map::EGRESS))?;
        }
        Ok(())
    }
}

fn bytes(key: EgressKey) -> [u8; 20] {
    let mut all = [0; 20];
    all[..2].copy_from_slice(&key.set);
    all[2..4].copy_from_slice(&key.port);
    all[4..].copy_from_slice(&key.address);
    all
}

fn from_bytes(all: [u8; 20]) -> EgressKey {
    let mut key = EgressKey { set: [all[0], all[1]], port: [all[2], all[3]], address: [0; 16] };
    key.address.copy_from_slice(&all[4..]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_set_then_port_then_address() {
        let one = EgressNet::new("10.20.0.0".parse().unwrap(), 16, Some(443)).unwrap();
        let (bits, key) = one.key(7);
        assert_eq!(bits, 32 + 96 + 16);
        assert_eq!(from_bytes(key).set, [0, 7]);
        assert_eq!(from_bytes(key).port, [0x01, 0xbb]);
        assert_eq!(&key[14..18], &[0xff, 0xff, 10, 20]);
        assert_eq!(bytes(from_bytes(key)), key);
        let any = EgressNet::new("::1".parse().unwrap(), 128, None).unwrap();
        assert_eq!(from_bytes(any.key(1).1).port, [0, 0]);
        assert_eq!(EgressNet::new("10.0.0.1".parse().unwrap(), 33, None), None);
        assert_eq!(EgressNet::new("10.0.0.1".parse().unwrap(), 32, Some(0)), None);
    }
}
