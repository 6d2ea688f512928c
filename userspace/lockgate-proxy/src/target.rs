//! Which registered target an original destination belongs to.
//!
//! The table is plain data and is replaced as a whole (a name resolved anew, a changed configuration). It does not
//! resolve names: whoever makes it does.

use crate::settings::TargetSettings;
use lockgate_model::addr::OriginalDst;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// One address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetAddr {
    /// `10.0.0.1:5432`, `[::1]:5432`.
    Exact(SocketAddr),
    /// `10.20.0.0/16:5432`.
    Network {
        /// Any address of it.
        base: IpAddr,
        /// Leading bits that count.
        prefix: u8,
        /// The port.
        port: u16,
    },
    /// `orders-db.internal:5432` and what it resolves to now.
    Host {
        /// The name, for TLS verification.
        name: String,
        /// The port.
        port: u16,
        /// What the name means now.
        resolved: Vec<IpAddr>,
        /// What clients were told it means, by name servers that lockgate has no reason to believe.
        told: Vec<Told>,
    },
}

/// What a cgroup was told of a name. It counts for that cgroup alone: who is in it may have made it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// cgroup-v2 id.
    pub cgroup_id: u64,
    /// The address.
    pub address: IpAddr,
}

impl TargetAddr {
    /// How well it fits, when it does: higher is more specific.
    fn fit(&self, destination: SocketAddr, cgroup_id: u64) -> Option<u16> {
        let ip = destination.ip();
        match self {
            Self::Exact(addr) => (canonical(*addr) == destination).then_some(300),
            Self::Host { port, .. } if *port != destination.port() => None,
            Self::Host { resolved, told, .. } => {
                let same = |candidate: &IpAddr| candidate.to_canonical() == ip;
                let known = resolved.iter().any(same).then_some(200);
                let is_told = |told: &Told| told.cgroup_id == cgroup_id && same(&told.address);
                // Behind whatever is configured; and where lockgate knows no address itself, nobody is dialled.
                known.or_else(|| (!resolved.is_empty() && told.iter().any(is_told)).then_some(0))
            }
            Self::Network { base, prefix, port } => (*port == destination.port()
                && contains(*base, *prefix, ip))
            .then_some(1 + u16::from(*prefix)),
        }
    }
}

/// The registered targets.
#[derive(Clone, Debug, Default)]
pub struct TargetTable {
    targets: Vec<Arc<TargetSettings>>,
}

impl TargetTable {
    /// A table of these targets.
    pub fn new(targets: Vec<TargetSettings>) -> Self {
        Self { targets: targets.into_iter().map(Arc::new).collect() }
    }

    /// The target with the most specific address that fits somebody in this cgroup; the first of equals.
    pub fn lookup(&self, destination: OriginalDst, cgroup_id: u64) -> Option<Arc<TargetSettings>> {
        let addr = destination.addr();
        let mut best: Option<(u16, &Arc<TargetSettings>)> = None;
        for target in &self.targets {
            let fit = target.addresses.iter().filter_map(|candidate| candidate.fit(addr, cgroup_id)).max();
            if let Some(fit) = fit
                && best.is_none_or(|(other, _)| fit > other)
            {
                best = Some((fit, target));
            }
        }
        best.map(|(_, target)| target.clone())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TargetSettings>> {
        self.targets.iter()
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

pub(crate) fn contains(base: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (base.to_canonical(), ip) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => {
            let kept = u32::from(prefix.min(32));
            let mask = u32::MAX.checked_shl(32 - kept).unwrap_or(0);
            base.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(ip)) => {
            let kept = u32::from(prefix.min(128));
            let mask = u128::MAX.checked_shl(128 - kept).unwrap_or(0);
            base.to_bits() & mask == ip.to_bits() & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn told(cgroup_id: u64, address: &str) -> Told {
        Told { cgroup_id, address: address.parse().unwrap() }
    }

    #[test]
    fn the_most_specific_address_wins() {
        let network =
            |text: &str, prefix| TargetAddr::Network { base: text.parse().unwrap(), prefix, port: 5432 };
        let table = TargetTable::new(vec![
            testing::target("wide", vec![network("10.0.0.0", 8), network("::", 0)]),
            testing::target("narrow", vec![network("10.20.0.0", 16)]),
            testing::target("one", vec![TargetAddr::Exact("10.20.0.7:5432".parse().unwrap())]),
            testing::target(
                "named",
                vec![TargetAddr::Host {
                    name: "db.internal".into(),
                    port: 5433,
                    resolved: vec!["10.20.0.7".parse().unwrap()],
                    told: ["10.99.0.1", "10.20.0.9"].map(|ip| told(7, ip)).to_vec(),
                }],
            ),
            testing::target(
                "network",
                vec![TargetAddr::Network { base: "10.20.0.0".parse().unwrap(), prefix: 16, port: 5433 }],
            ),
        ]);
        for (destination, expected) in [
            ("10.20.0.7:5432", Some("one")),
            ("[::ffff:10.20.0.7]:5432", Some("one")),
            ("10.20.0.8:5432", Some("narrow")),
            ("10.21.0.8:5432", Some("wide")),
            ("10.20.0.7:5433", Some("named")),
            ("10.99.0.1:5433", Some("named")),
            ("10.20.0.9:5433", Some("network")),
            ("10.99.0.1:5432", Some("wide")),
            ("[2001:db8::1]:5432", Some("wide")),
            ("11.0.0.1:5432", None),
            ("10.20.0.7:80", None),
        ] {
            let found = table.lookup(OriginalDst::new(destination.parse().unwrap()), 7);
            assert_eq!(found.as_ref().map(|t| t.target.name.as_str()), expected, "{destination}");
        }
        // What one job was told means nothing for another.
        let elsewhere = OriginalDst::new("10.99.0.1:5433".parse().unwrap());
        assert!(table.lookup(elsewhere, 8).is_none());
    }
}
