//! What the kernel side tells the agent, so that it gets into the record: refusals, lost reports, hooks that went.
//!
//! Bounded twice: equal refusals within a round are one event with a count, and a receiver that does not keep up
//! misses events, which are counted and told.

use crate::{denial::Denial, sweep::Bypass};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Events that wait for the agent.
const WAITING: usize = 1024;
/// Different refusals that are told one by one in a round; the rest is counted.
const TOLD_PER_ROUND: usize = 64;

/// One thing that happened on the kernel side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureEvent {
    /// The kernel refused a governed process something.
    Refused(Refused),
    /// Refusals that are not told one by one: there were too many different ones at a time.
    More {
        /// How many.
        count: u64,
    },
    /// Reports of refusals that were lost: the ring was full, or the agent did not keep up.
    Lost {
        /// How many.
        count: u64,
    },
    /// A hook was taken away by somebody.
    HookLost {
        /// Which.
        what: String,
        /// Whether it is back.
        repaired: bool,
    },
    /// Every hook is attached again.
    HooksWhole,
    /// A governed process held a connection past lockgate.
    Bypass(Bypass),
}

/// A refusal, once for all equal ones of a round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Why: `no_listener`, `not_tcp`, `socket_type`, …
    pub reason: &'static str,
    /// Where it wanted to go; unspecified when there was no destination.
    pub destination: SocketAddr,
    /// IP protocol, 0 when unknown.
    pub protocol: u32,
    /// Thread group; 0 for a packet.
    pub pid: u32,
    /// Real uid.
    pub uid: u32,
    /// cgroup-v2 id.
    pub cgroup_id: u64,
    /// The thread's name; a label.
    pub comm: String,
    /// How often.
    pub count: u64,
}

/// The sending end. What happens before anybody listens waits too.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Mutex<Sender<CaptureEvent>>,
    first: Mutex<Option<Receiver<CaptureEvent>>>,
    missed: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, receiver) = channel(WAITING);
        Self { sender: Mutex::new(sender), first: Mutex::new(Some(receiver)), missed: AtomicU64::new(0) }
    }
}

impl Events {
    /// The receiver: the first one has everything since the start, a later one replaces it.
    pub(crate) fn subscribe(&self) -> Receiver<CaptureEvent> {
        if let Some(first) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return first;
        }
        let (sender, receiver) = channel(WAITING);
        *self.sender.lock().unwrap_or_else(PoisonError::into_inner) = sender;
        receiver
    }

    pub(crate) fn tell(&self, event: CaptureEvent) {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 && sender.try_send(CaptureEvent::Lost { count: missed }).is_err() {
            self.missed.fetch_add(missed, Ordering::Relaxed);
        }
        if sender.try_send(event).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Refusals of one round.
    pub(crate) fn tell_refusals(&self, denials: &[Denial]) {
        let (told, more) = summed(denials);
        told.into_iter().for_each(|refused| self.tell(CaptureEvent::Refused(refused)));
        if more > 0 {
            self.tell(CaptureEvent::More { count: more });
        }
    }
}

fn summed(denials: &[Denial]) -> (Vec<Refused>, u64) {
    let mut seen: HashMap<Refused, usize> = HashMap::new();
    let mut told: Vec<Refused> = Vec::new();
    let mut more = 0;
    for denial in denials {
        let refused = Refused {
            reason: denial.reason,
            destination: denial.destination,
            protocol: denial.protocol,
            pid: denial.tgid,
            uid: denial.uid,
            cgroup_id: denial.cgroup_id,
            comm: denial.comm.clone(),
            count: 1,
        };
        let earlier = seen.get(&refused).copied();
        if let Some(earlier) = earlier.and_then(|index| told.get_mut(index)) {
            earlier.count += 1;
        } else if told.len() < TOLD_PER_ROUND {
            seen.insert(refused.clone(), told.len());
            told.push(refused);
        } else {
            more += 1;
        }
    }
    (told, more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(pid: u32) -> Denial {
        Denial {
            reason: "not_tcp",
            tgid: pid,
            uid: 0,
            cgroup_id: 1,
            destination: SocketAddr::from(([127, 0, 0, 1], 5432)),
            protocol: 17,
            comm: "job".to_owned(),
        }
    }

    #[test]
    fn equal_refusals_are_one_and_different_ones_are_bounded() {
        let (told, more) = summed(&[denial(1), denial(2), denial(1), denial(1)]);
        assert_eq!(
            told.iter().map(|refused| (refused.pid, refused.count)).collect::<Vec<_>>(),
            [(1, 3), (2, 1)]
        );
        assert_eq!(more, 0);
        let many: Vec<Denial> = (0..1000).map(denial).collect();
        let (told, more) = summed(&many);
        assert_eq!((told.len(), more), (TOLD_PER_ROUND, 1000 - TOLD_PER_ROUND as u64));
    }

    #[test]
    fn a_receiver_that_sleeps_is_told_how_much_it_missed() {
        let events = Events::default();
        events.tell(CaptureEvent::HooksWhole);
        let mut receiver = events.subscribe();
        assert_eq!(receiver.try_recv(), Ok(CaptureEvent::HooksWhole), "from before it was asked for");
        for _ in 0..WAITING + 5 {
            events.tell(CaptureEvent::HooksWhole);
        }
        while let Ok(event) = receiver.try_recv() {
            assert_eq!(event, CaptureEvent::HooksWhole);
        }
        events.tell(CaptureEvent::HooksWhole);
        assert_eq!(receiver.try_recv(), Ok(CaptureEvent::Lost { count: 5 }));
        assert_eq!(receiver.try_recv(), Ok(CaptureEvent::HooksWhole));
    }
}
