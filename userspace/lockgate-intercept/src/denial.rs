//! What the kernel refused: the ring of denials, the counters, and the programs' own log.

use crate::{error::InterceptError, flow::socket_address, object::Object};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use lockgate_ebpf_common::{self as abi, Refusal, map, stat};
use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

/// Events taken in one go; the rest waits in the ring for the next second.
const EVENTS_PER_READ: usize = 4096;

/// One refusal by the kernel side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    /// Why: `no_listener`, `dials_proxy`, `not_tcp`, `binds_proxy_port`, `socket_type`, …
    pub reason: &'static str,
    /// Thread group.
    pub tgid: u32,
    /// Real uid.
    pub uid: u32,
    /// cgroup-v2 id.
    pub cgroup_id: u64,
    /// Where it wanted to go; unspecified when there was no destination.
    pub destination: SocketAddr,
    /// IP protocol.
    pub protocol: u32,
    /// The thread's name; a label.
    pub comm: String,
}

impl Denial {
    /// Refused because there was no listener in its network namespace.
    pub(crate) fn is_homeless(&self) -> bool {
        self.reason == Refusal::NoListener.as_str()
    }

    /// Refused because its cgroup is new.
    pub(crate) fn is_unclassified(&self) -> bool {
        self.reason == Refusal::Unclassified.as_str()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<abi::Denial>() {
            return None;
        }
        // SAFETY: at least as long as the type, which holds integers only; the ring does not promise its alignment.
        let raw: abi::Denial = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
        let end = raw.comm.iter().position(|byte| *byte == 0).unwrap_or(raw.comm.len());
        Some(Self {
            reason: Refusal::from_code(raw.reason).map_or("unknown", Refusal::as_str),
            tgid: raw.tgid,
            uid: raw.uid,
            cgroup_id: raw.cgroup,
            destination: socket_address(&raw.daddr, raw.dport),
            protocol: raw.protocol,
            comm: String::from_utf8_lossy(&raw.comm[..end]).into_owned(),
        })
    }
}

/// Counters of the programs since they were first attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `connect()` calls sent to the listener.
    pub redirected: u64,
    /// Accepted connections that received their flow.
    pub attributed: u64,
    /// Connections to the port without a flow.
    pub unattributed: u64,
    /// Flows too old to be believed.
    pub stale: u64,
    /// Flows that did not fit into the table.
    pub flows_full: u64,
    /// Denial events that did not fit into the ring.
    pub events_lost: u64,
    /// Refusals of every kind together.
    pub refused: u64,
    /// Governed connections and datagrams to destinations that are not registered, let through.
    pub unregistered: u64,
    /// Addresses that were learned from answers of name servers, or learned anew.
    pub learned: u64,
    /// Answers about targets' names by name servers that the socket had not asked.
    pub unasked: u64,
}

/// The reading ends.
pub(crate) struct Reports {
    events: RingBuf<MapData>,
    stats: PerCpuArray<MapData, u64>,
    /// Events known to be lost.
    lost: u64,
    log: Option<EbpfLogger<ToTracing>>,
}

impl Reports {
    pub(crate) fn take(object: &mut Object) -> Result<Self, InterceptError> {
        let events = crate::interceptor::take(object, map::EVENTS)?;
        let stats = crate::interceptor::take(object, map::STATS)?;
        // The log is a convenience: an object without log statements has no such map.
        let log = EbpfLogger::init_with_logger(&mut object.ebpf, ToTracing).ok();
        let mut reports = Self { events, stats, lost: 0, log };
        // An earlier agent's losses were its own to tell.
        reports.newly_lost();
        Ok(reports)
    }

    /// A descriptor that becomes readable with the ring.
    pub(crate) fn readiness(&self) -> io::Result<OwnedFd> {
        self.events.as_fd().try_clone_to_owned()
    }

    /// New denials; the programs' log lines go to tracing.
    pub(crate) fn read(&mut self) -> Vec<Denial> {
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut denials = Vec::new();
        while denials.len() < EVENTS_PER_READ
            && let Some(item) = self.events.next()
        {
            denials.extend(Denial::read(&item));
        }
        denials
    }

    /// Events that did not fit into the ring since the last call.
    pub(crate) fn newly_lost(&mut self) -> u64 {
        let now = self.counters().events_lost;
        let new = now.saturating_sub(self.lost);
        self.lost = now;
        new
    }

    pub(crate) fn counters(&self) -> Counters {
        let sum = |slot: u32| self.stats.get(&slot, 0).map_or(0, |values| values.iter().sum());
        Counters {
            redirected: sum(stat::REDIRECTED),
            attributed: sum(stat::ATTRIBUTED),
            unattributed: sum(stat::UNATTRIBUTED),
            stale: sum(stat::STALE),
            flows_full: sum(stat::FLOWS_FULL),
            events_lost: sum(stat::EVENTS_LOST),
            unregistered: sum(stat::UNREGISTERED),
            learned: sum(stat::LEARNED),
            unasked: sum(stat::UNASKED),
            refused: Refusal::ALL.into_iter().map(|refusal| sum(refusal as u32)).sum(),
        }
    }
}

/// aya-log speaks `log`; lockgate speaks `tracing`.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        match record.level() {
            log::Level::Error => tracing::error!(target: "lockgate_ebpf", "{}", record.args()),
            log::Level::Warn => tracing::warn!(target: "lockgate_ebpf", "{}", record.args()),
            log::Level::Info => tracing::info!(target: "lockgate_ebpf", "{}", record.args()),
            log::Level::Debug => tracing::debug!(target: "lockgate_ebpf", "{}", record.args()),
            log::Level::Trace => tracing::trace!(target: "lockgate_ebpf", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_unknown_events_are_read_without_a_panic() {
        assert_eq!(Denial::read(&[0; 71]), None);
        let denial = Denial::read(&[0xff; 80]).unwrap();
        assert_eq!(denial.reason, "unknown");
        assert_eq!(Denial::read(&[0; 72]).unwrap().destination.port(), 0);
    }
}
