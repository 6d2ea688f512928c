//! What capture is made of, and which way around it each part closes.
//!
//! One table for `lockgate doctor`, the agent's log at start and the threat model: on a kernel that refuses a layer,
//! exactly the techniques that no other active layer closes are open.

use serde::Serialize;

/// One kind of hook. A kernel may lack any but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Programs on `socket()`, `connect()`, `sendmsg()`, `bind()` at the root of the cgroup tree. Without them nothing
    /// is captured, and the agent does not start.
    Socket,
    /// A packet filter on each governed cgroup.
    Packet,
    /// BPF LSM.
    Lsm,
    /// Connections that governed processes hold past lockgate are looked for and cut, every second.
    Sweep,
    /// A packet filter on a network interface: the host's side of a pod's veth, or the host's own.
    Interface,
}

impl Layer {
    /// All, in the order of defence.
    pub const ALL: [Self; 5] = [Self::Socket, Self::Packet, Self::Lsm, Self::Sweep, Self::Interface];

    /// A name for output and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket hooks",
            Self::Packet => "packet filter",
            Self::Lsm => "BPF LSM",
            Self::Sweep => "sweep",
            Self::Interface => "interface filter",
        }
    }

    /// What to do where it is missing.
    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::Socket => "use a kernel of at least 5.15",
            Self::Packet => "govern cgroups or units, not only users, on a kernel of at least 5.15",
            Self::Lsm => {
                "boot with `bpf` in the list of `lsm=` on a kernel with CONFIG_BPF_LSM, or take CAP_NET_RAW and \
                 CAP_NET_ADMIN away from jobs"
            }
            Self::Sweep => "use a kernel with CONFIG_INET_DIAG_DESTROY",
            Self::Interface => "name the host's interfaces in `guard.interfaces`",
        }
    }
}

/// One way around capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Technique {
    /// What the job does.
    pub what: &'static str,
    /// The privilege it takes.
    pub needs: &'static str,
    /// The layers that stop it, each by itself; the first one is met first.
    pub stopped_by: &'static [Layer],
}

const fn technique(what: &'static str, needs: &'static str, stopped_by: &'static [Layer]) -> Technique {
    Technique { what, needs, stopped_by }
}

const NOTHING: &str = "nothing";
const RAW: &str = "CAP_NET_RAW";

/// The ways that were tried. Each is tried again by a test in `tests/tests/capture`, with the layer and without it.
pub const TECHNIQUES: [Technique; 23] = {
    use Layer::{Interface, Lsm, Packet, Socket, Sweep};
    [
        technique(
            "connect() by IPv4, IPv6, v4-mapped, loopback aliases, 0.0.0.0, TCP Fast Open, io_uring",
            NOTHING,
            &[Socket, Packet, Interface],
        ),
        technique(
            "IPv6 addresses that stand for an IPv4 one: NAT64's well-known prefix, 6to4",
            NOTHING,
            &[Socket, Packet, Interface],
        ),
        technique("UDP: connected, sendto(), QUIC", NOTHING, &[Socket, Packet, Interface]),
        technique("UDP-Lite, MPTCP, SCTP, DCCP, SMC sockets", NOTHING, &[Socket, Packet, Interface]),
        technique("raw IPv4 and IPv6 sockets", RAW, &[Socket, Packet, Interface]),
        technique(
            "raw or other sockets made in the governed cgroup before the agent started",
            RAW,
            &[Packet, Lsm, Interface],
        ),
        technique(
            "a socket made elsewhere, connected here; made here, connected elsewhere",
            NOTHING,
            &[Socket, Interface],
        ),
        technique("reuse of a redirected socket for another dial", NOTHING, &[Socket]),
        technique("dialling the listener by hand; listening in its place", NOTHING, &[Socket]),
        technique(
            "SO_BINDTODEVICE, IP_UNICAST_IF, a bound source address",
            NOTHING,
            &[Socket, Packet, Interface],
        ),
        technique("another network namespace", NOTHING, &[Socket, Packet, Interface]),
        technique(
            "a connection made in the governed cgroup before the agent started",
            NOTHING,
            &[Packet, Lsm, Sweep, Interface],
        ),
        technique("a connection made elsewhere and inherited", NOTHING, &[Lsm, Sweep, Interface]),
        technique(
            "a connection made elsewhere and received (SCM_RIGHTS, pidfd_getfd)",
            NOTHING,
            &[Lsm, Sweep, Interface],
        ),
        technique(
            "a raw or packet socket made elsewhere, inherited or received",
            "somebody privileged outside",
            &[Lsm, Interface],
        ),
        technique("AF_PACKET", RAW, &[Lsm, Interface]),
        technique("AF_PACKET past the queueing discipline, from a pod", RAW, &[Lsm, Interface]),
        technique("AF_XDP, from a pod", RAW, &[Lsm, Interface]),
        technique(
            "AF_PACKET past the queueing discipline or AF_XDP on the host's own interface",
            RAW,
            &[Lsm],
        ),
        technique(
            "leaving the governed cgroup (cgroup.procs, CLONE_INTO_CGROUP)",
            "root, and the host's cgroup tree writable",
            &[Interface],
        ),
        technique(
            "somebody outside the governed set who connects for the job (a forwarder, a container engine, cron, a traced process)",
            "an accomplice",
            &[Interface],
        ),
        technique("TUN and TAP devices", "CAP_NET_ADMIN", &[Lsm, Interface]),
        technique("AF_VSOCK and other families that leave the machine", NOTHING, &[Lsm]),
    ]
};

/// Whether a layer is in force, and what is open because it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerState {
    /// Which.
    pub layer: Layer,
    /// In force.
    pub active: bool,
    /// Why not, or what it consists of.
    pub detail: String,
    /// Techniques that it would stop and that nothing else that is active stops.
    pub open: Vec<&'static str>,
}

/// Completes what is known of each layer by what is open without it.
pub(crate) fn states(known: impl IntoIterator<Item = (Layer, Result<String, String>)>) -> Vec<LayerState> {
    let known: Vec<(Layer, Result<String, String>)> = known.into_iter().collect();
    let active: Vec<Layer> =
        known.iter().filter(|(_, state)| state.is_ok()).map(|(layer, _)| *layer).collect();
    let state = |(layer, state): (Layer, Result<String, String>)| LayerState {
        layer,
        active: state.is_ok(),
        detail: state.unwrap_or_else(|why| why),
        open: if active.contains(&layer) { Vec::new() } else { open_without(layer, &active) },
    };
    known.into_iter().map(state).collect()
}

fn open_without(layer: Layer, active: &[Layer]) -> Vec<&'static str> {
    let is_open = |technique: &&Technique| {
        technique.stopped_by.contains(&layer)
            && !technique.stopped_by.iter().any(|other| active.contains(other))
    };
    TECHNIQUES.iter().filter(is_open).map(|technique| technique.what).collect()
}

/// The table of the threat model, in Markdown.
pub fn table() -> String {
    let mut out = String::from("| way around | needs |");
    for layer in Layer::ALL {
        out.push_str(&format!(" {} |", layer.as_str()));
    }
    out.push_str("\n|---|---|");
    out.push_str(&":-:|".repeat(Layer::ALL.len()));
    out.push('\n');
    for technique in TECHNIQUES {
        out.push_str(&format!("| {} | {} |", technique.what, technique.needs));
        for layer in Layer::ALL {
            let stops = technique.stopped_by.contains(&layer);
            out.push_str(if stops { " ✓ |" } else { "  |" });
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(active: &[Layer], layer: Layer) -> LayerState {
        let known = Layer::ALL.map(|each| {
            (each, if active.contains(&each) { Ok(String::new()) } else { Err("missing".to_owned()) })
        });
        states(known).into_iter().find(|state| state.layer == layer).unwrap()
    }

    #[test]
    fn only_what_nothing_else_stops_is_open() {
        let everything = Layer::ALL;
        assert!(everything.iter().all(|layer| state_of(&everything, *layer).open.is_empty()));
        let degraded = state_of(&[Layer::Socket, Layer::Packet, Layer::Sweep], Layer::Lsm);
        assert!(
            degraded.open.contains(&"AF_PACKET") && degraded.open.iter().any(|what| what.contains("TUN"))
        );
        assert!(
            !degraded.open.iter().any(|what| what.contains("inherited") && !what.contains("raw")),
            "{degraded:?}"
        );
        let filtered = state_of(&[Layer::Socket, Layer::Packet, Layer::Sweep, Layer::Interface], Layer::Lsm);
        assert!(!filtered.open.contains(&"AF_PACKET"), "{filtered:?}");
        assert!(filtered.open.iter().any(|what| what.contains("VSOCK")));
    }

    #[test]
    fn every_technique_is_stopped_by_something_and_told_once() {
        let names: std::collections::BTreeSet<_> =
            TECHNIQUES.iter().map(|technique| technique.what).collect();
        assert_eq!(names.len(), TECHNIQUES.len());
        assert!(TECHNIQUES.iter().all(|technique| !technique.stopped_by.is_empty()));
    }

    #[test]
    fn the_threat_model_carries_this_table() {
        let text = include_str!("../../docs/threat-model.md");
        assert!(text.contains(&table()), "put this into docs/threat-model.md:\n{}", table());
    }
}
