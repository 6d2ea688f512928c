//! The bounded queue between those who record and the thread that writes.
//!
//! `record` is refused at the bound. `submit` may go past it up to twice the bound (closings and what follows a
//! forward must not be lost to a burst of requests) and is counted as lost beyond.

use crate::fact::Fact;
use lockgate_audit::Encoded;
use lockgate_model::port::{Durability, Receipt, RecordError};
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::oneshot;

/// Events that may wait. A disk that is this far behind a busy agent (some 10,000 events a second) stalls for
/// seconds, and clients are better told so.
pub(crate) const QUEUE_EVENTS: usize = 32_768;

/// Encoded bytes that may wait: bounds memory when statements are large.
pub(crate) const QUEUE_BYTES: usize = 64 << 20;

/// What is answered when the events rest.
pub(crate) type Answer = oneshot::Sender<Result<Receipt, RecordError>>;

/// Events that belong together, in order.
pub(crate) struct Entry {
    pub(crate) events: Vec<(Encoded, Fact)>,
    /// Whom to answer; None when nobody waits.
    pub(crate) reply: Option<(Durability, Answer)>,
}

impl Entry {
    pub(crate) fn bytes(&self) -> usize {
        self.events.iter().map(|(encoded, _)| encoded.line_len()).sum()
    }
}

/// What the writer takes at once.
pub(crate) struct Work {
    pub(crate) entries: VecDeque<Entry>,
    /// Submitted events that found no room since the last time.
    pub(crate) lost: u64,
    /// Nothing more will come.
    pub(crate) stopping: bool,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    events: usize,
    bytes: usize,
    lost: u64,
    stopping: bool,
    /// The writer sleeps and must be woken.
    idle: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    /// Queues what somebody waits for.
    pub(crate) fn request(&self, entry: Entry) -> Result<(), RecordError> {
        let state = self.lock();
        if state.stopping {
            return Err(RecordError::Stopped);
        }
        if state.events + entry.events.len() > QUEUE_EVENTS || state.bytes + entry.bytes() > QUEUE_BYTES {
            return Err(RecordError::Overloaded(state.events));
        }
        self.push(state, entry);
        Ok(())
    }

    /// Queues what nobody waits for, or counts it as lost.
    pub(crate) fn submit(&self, entry: Entry) {
        let mut state = self.lock();
        let full = state.events + entry.events.len() > 2 * QUEUE_EVENTS
            || state.bytes + entry.bytes() > 2 * QUEUE_BYTES;
        if full || state.stopping {
            state.lost += entry.events.len() as u64;
            let (lost, stopped) = (state.lost, state.stopping);
            drop(state);
            tracing::error!(lost, stopped, "events could not be queued for the audit log");
        } else {
            self.push(state, entry);
        }
    }

    /// Counts events that could not even be encoded.
    pub(crate) fn count_lost(&self, events: u64) {
        let mut state = self.lock();
        state.lost += events;
        state.idle = false;
        drop(state);
        self.wake.notify_one();
    }

    fn push(&self, mut state: MutexGuard<'_, State>, entry: Entry) {
        state.events += entry.events.len();
        state.bytes += entry.bytes();
        state.entries.push_back(entry);
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        if idle {
            self.wake.notify_one();
        }
    }

    /// Waits for work; with `retry`, no longer than that.
    pub(crate) fn take(&self, retry: Option<Duration>) -> Work {
        let mut state = self.lock();
        while state.entries.is_empty() && !state.stopping && (state.lost == 0 || retry.is_some()) {
            state.idle = true;
            state = match retry {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(pause) => {
                    let (state, _) =
                        self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
                    return Self::drain(state);
                }
            };
        }
        Self::drain(state)
    }

    fn drain(mut state: MutexGuard<'_, State>) -> Work {
        state.idle = false;
        state.events = 0;
        state.bytes = 0;
        Work {
            entries: std::mem::take(&mut state.entries),
            lost: std::mem::take(&mut state.lost),
            stopping: state.stopping,
        }
    }

    /// Lets the writer finish what is queued, and refuses the rest.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_one();
    }

    /// Events that nothing can write any more.
    pub(crate) fn leftover(&self) -> u64 {
        let state = self.lock();
        state.lost + state.events as u64
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it; a poisoned lock holds a state as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
