//! The bounded queue of events that could not be written at once, by whoever records them.
//!
//! `record` is refused at the bound. `submit` may go past it up to twice the bound (closings and what follows a
//! forward must not be lost to a burst of requests) and is counted as lost beyond.

use crate::fact::Fact;
use lockgate_audit::Encoded;
use lockgate_model::port::{Durability, Receipt, RecordError};
use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Events that may wait. A disk that is this far behind a busy agent (some 10,000 events a second) stalls for
/// seconds, and clients are better told so.
pub(crate) const QUEUE_EVENTS: usize = 32_768;

/// Encoded bytes that may wait: bounds memory when statements are large.
pub(crate) const QUEUE_BYTES: usize = 64 << 20;

/// How long submitted events may lie before the writing thread is troubled with them. Nobody waits for them,
/// and most go along with the next record, in the same write.
const LINGER: Duration = Duration::from_millis(5);

/// Whoever waits for events to rest.
pub(crate) enum Answer {
    /// A task.
    Task(oneshot::Sender<Result<Receipt, RecordError>>),
    /// A thread of this crate.
    Thread(mpsc::SyncSender<Result<Receipt, RecordError>>),
}

impl Answer {
    /// Whoever went away does not need it.
    pub(crate) fn give(self, result: Result<Receipt, RecordError>) {
        match self {
            Self::Task(answer) => drop(answer.send(result)),
            Self::Thread(answer) => drop(answer.try_send(result)),
        }
    }
}

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
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    events: usize,
    bytes: usize,
    lost: u64,
    stopping: bool,
    /// Submitted events are linked and not yet written.
    linked: bool,
    /// The writing thread sleeps and must be woken.
    idle: bool,
    /// It sleeps only until [`LINGER`] is over: what nobody waits for need not wake it.
    lingering: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// Somebody waits for what is queued. Changed only under the lock; read without it by whoever lets go of the writer.
    urgent: AtomicBool,
}

impl Queue {
    /// Queues what somebody waits for. Wakes nobody: whoever asks sees to it that it is written
    /// ([`crate::writer::Writer`]).
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

    /// Submitted events were linked: the writing thread writes them when it has lingered, should nobody come before.
    pub(crate) fn linger(&self) {
        let mut state = self.lock();
        let wake = state.idle && !state.linked && !state.lingering;
        state.linked = true;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Counts events that could not even be encoded.
    pub(crate) fn count_lost(&self, events: u64) {
        self.lock().lost += events;
        self.wake.notify_one();
    }

    fn push(&self, mut state: MutexGuard<'_, State>, entry: Entry) {
        let first = state.entries.is_empty();
        let urgent = entry.reply.is_some();
        state.events += entry.events.len();
        state.bytes += entry.bytes();
        state.entries.push_back(entry);
        if urgent {
            self.urgent.store(true, Ordering::SeqCst);
        }
        let wake = state.idle && first && !urgent && !state.lingering;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something that the writing thread should do; with `retry`, no longer than that.
    /// True when the end has come.
    pub(crate) fn wait(&self, retry: Option<Duration>) -> bool {
        let mut state = self.lock();
        loop {
            if state.stopping || self.is_urgent() {
                return state.stopping;
            }
            let quiet = state.entries.is_empty() && state.lost == 0 && !state.linked;
            let pause = if quiet { retry } else { Some(LINGER) };
            state.idle = true;
            state.lingering = !quiet;
            let (woken, timed_out) = match pause {
                None => (self.wake.wait(state).unwrap_or_else(PoisonError::into_inner), false),
                Some(pause) => {
                    let (state, waited) =
                        self.wake.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner);
                    (state, waited.timed_out())
                }
            };
            state = woken;
            state.idle = false;
            state.lingering = false;
            if timed_out {
                return state.stopping;
            }
        }
    }

    /// Has the writing thread look after the log now.
    pub(crate) fn alarm(&self) {
        let state = self.lock();
        self.urgent.store(true, Ordering::SeqCst);
        drop(state);
        self.wake.notify_one();
    }

    /// Whether somebody waits for what is queued.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::SeqCst)
    }

    /// Takes everything that waits.
    pub(crate) fn drain(&self) -> Work {
        self.take(&mut self.lock())
    }

    /// Takes everything that waits if it is no more than `bytes` and nothing is out of the ordinary.
    pub(crate) fn drain_within(&self, bytes: usize) -> Option<Work> {
        let mut state = self.lock();
        let ordinary = !state.stopping && state.lost == 0 && state.bytes <= bytes;
        ordinary.then(|| self.take(&mut state))
    }

    fn take(&self, state: &mut State) -> Work {
        state.linked = false;
        state.events = 0;
        state.bytes = 0;
        self.urgent.store(false, Ordering::SeqCst);
        Work { entries: std::mem::take(&mut state.entries), lost: std::mem::take(&mut state.lost) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::sample;

    fn entry(events: usize, asked: bool) -> Entry {
        let event = sample::mark("queued", 0);
        let event = (Encoded::of(&event).unwrap(), Fact::of(&event));
        let reply = asked.then(|| (Durability::Written, Answer::Task(oneshot::channel().0)));
        Entry { events: vec![event; events], reply }
    }

    #[test]
    fn requests_are_refused_at_the_bound_and_submissions_counted_at_twice_it() {
        let queue = Queue::default();
        queue.request(entry(QUEUE_EVENTS, true)).unwrap();
        assert_eq!(queue.request(entry(1, true)), Err(RecordError::Overloaded(QUEUE_EVENTS)));
        queue.submit(entry(QUEUE_EVENTS, false));
        queue.submit(entry(3, false));
        queue.submit(entry(4, false));
        let work = queue.drain();
        assert_eq!((work.entries.len(), work.lost), (2, 7));
        queue.request(entry(1, true)).unwrap();
        assert_eq!(queue.drain().lost, 0, "what was told once is not told again");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let queue = Queue::default();
        let event = sample::mark(&"x".repeat(1 << 20), 0);
        let large = (Encoded::of(&event).unwrap(), Fact::of(&event));
        for _ in 0..2 * QUEUE_BYTES / (1 << 20) {
            queue.submit(Entry { events: vec![large.clone()], reply: None });
        }
        let work = queue.drain();
        assert!(work.lost > 0 && work.entries.iter().map(Entry::bytes).sum::<usize>() <= 2 * QUEUE_BYTES);
    }

    #[test]
    fn after_the_end_requests_are_refused_and_submissions_counted() {
        let queue = Queue::default();
        queue.stop();
        assert!(queue.wait(None), "the writing thread is told");
        assert_eq!(queue.request(entry(1, true)), Err(RecordError::Stopped));
        queue.submit(entry(2, false));
        assert_eq!(queue.leftover(), 2);
        assert!(queue.drain_within(usize::MAX).is_none());
    }
}
