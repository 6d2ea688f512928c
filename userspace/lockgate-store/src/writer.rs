//! Who writes at the log's end: one at a time, usually whoever records, there and then.
//!
//! A write to the page cache takes less than waking another thread twice. Whoever writes takes along what others have
//! queued. Tasks that only need their records written link them and step back once ([`Turn`]): what the other tasks of
//! the thread have to record in the same turn goes with the same write.
//! Who finds the writer taken, and not let go of within a moment, queues, and the one who holds it writes that
//! too before leaving. So no thread is woken for a record as a rule. The writing thread ([`Writer::run`]) sees to the rest:
//! what nobody waits for and no later record took along, and whatever is likely to block: a full or slow disk, a new
//! segment, a backlog.

use crate::{
    appender::{Appender, Group, Now, RETRY_EVERY},
    fact::Fact,
    queue::{Answer, Entry, Queue},
};
use lockgate_audit::{Encoded, record::MAX_RECORD_BYTES};
use lockgate_model::{
    event::Event,
    port::{Durability, Receipt, RecordError},
};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, TryLockError,
        atomic::{Ordering, fence},
    },
    task::{Context, Poll},
};
use tokio::sync::oneshot;

/// How often a taken writer is looked at before one queues: about as long as a write takes. Being woken costs more.
const LOOKS: u32 = 100;

/// The log's end, and who may write there. None once the log is closed.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    /// Recorders only ever try this lock; the writing thread alone waits for it.
    appender: Mutex<Option<Appender>>,
}

/// Somebody whose events are linked and not yet written. Steps back once, so that others' events go with the same write,
/// then sees to it. Dropped before, it has them written all the same.
pub(crate) struct Turn {
    writer: Arc<Writer>,
    group: Arc<Group>,
    seq: u64,
    stepped_back: bool,
}

impl Future for Turn {
    type Output = Result<Receipt, RecordError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = |group: &Group| group.ended().map(|ended| ended.map(|()| Receipt::new(self.seq)));
        if let Some(ended) = ended(&self.group) {
            return Poll::Ready(ended);
        }
        if !self.stepped_back {
            self.stepped_back = true;
            // Behind the tasks that are ready now.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.writer.flush() {
            return Poll::Ready(Err(RecordError::Stopped));
        }
        if let Some(ended) = ended(&self.group) {
            return Poll::Ready(ended);
        }
        // Another thread holds the writer: it either writes, or has just linked events to this group and comes back.
        self.group.wait(cx.waker());
        Poll::Pending
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.group.ended().is_none() {
            self.writer.flush();
            // Another thread is at it, and might only link.
            if self.group.ended().is_none() {
                self.writer.queue.alarm();
            }
        }
    }
}

/// An answer that is there, or will be.
pub(crate) enum Answered {
    /// It is there with its turn.
    Turn(Turn),
    /// Another thread gives it.
    Later(oneshot::Receiver<Result<Receipt, RecordError>>),
}

impl Writer {
    pub(crate) fn new(queue: Arc<Queue>, appender: Appender) -> Self {
        Self { queue, appender: Mutex::new(Some(appender)) }
    }

    /// Writes events, or sees to it that they are written.
    pub(crate) fn record(
        self: &Arc<Self>,
        events: &[Event],
        durability: Durability,
    ) -> Result<Answered, RecordError> {
        let now = match self.take_soon() {
            Ok(mut guard) => guard.as_mut().map(|appender| {
                let now = appender.record_now(&self.queue, events, durability);
                if appender.unfinished() {
                    // The writing thread tries again later; it sleeps without a limit until it is told.
                    self.queue.alarm();
                }
                now
            }),
            Err(_) => None,
        };
        let events = match now.transpose()? {
            Some(Now::Staged(group, seq)) => {
                self.write_queued();
                return Ok(Answered::Turn(Turn { writer: self.clone(), group, seq, stepped_back: false }));
            }
            Some(Now::Later(answered)) => {
                self.write_queued();
                return Ok(Answered::Later(answered));
            }
            Some(Now::Deferred(events)) => events,
            None => events.iter().map(encode).collect::<Result<_, _>>()?,
        };
        let (answer, answered) = oneshot::channel();
        self.queue.request(Entry { events, reply: Some((durability, Answer::Task(answer))) })?;
        self.write_queued();
        Ok(Answered::Later(answered))
    }

    /// Queues what nobody waits for.
    pub(crate) fn submit(&self, events: &[Event]) {
        if let Ok(mut guard) = self.appender.try_lock()
            && let Some(appender) = guard.as_mut()
            && appender.submit_now(&self.queue, events)
        {
            drop(guard);
            self.queue.linger();
            return self.write_queued();
        }
        let mut encoded = Vec::with_capacity(events.len());
        for event in events {
            match encode(event) {
                Ok(event) => encoded.push(event),
                Err(error) => {
                    tracing::error!(%error, "an event could not be encoded for the audit log");
                    self.queue.count_lost(1);
                }
            }
        }
        self.queue.submit(Entry { events: encoded, reply: None });
    }

    /// The writer, if it is free now or in a moment.
    fn take_soon(
        &self,
    ) -> Result<MutexGuard<'_, Option<Appender>>, TryLockError<MutexGuard<'_, Option<Appender>>>> {
        for _ in 1..LOOKS {
            match self.appender.try_lock() {
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
                taken => return taken,
            }
        }
        self.appender.try_lock()
    }

    /// Writes what is linked, unless somebody else is at it. False when nobody will any more.
    fn flush(&self) -> bool {
        let unfinished = match self.take_soon() {
            Ok(mut guard) => guard.as_mut().is_some_and(|appender| {
                // Told to everybody in the group.
                let _ = appender.flush();
                appender.unfinished()
            }),
            Err(TryLockError::WouldBlock) => return true,
            Err(TryLockError::Poisoned(_)) => {
                // The writing thread says what is to be said.
                self.queue.alarm();
                return false;
            }
        };
        if unfinished {
            self.queue.alarm();
        }
        self.write_queued();
        true
    }

    /// Writes what somebody waits for, unless whoever holds the writer will: they look here after letting go of it, and
    /// whoever queues looks after queuing, so that one of the two sees it.
    fn write_queued(&self) {
        loop {
            fence(Ordering::SeqCst);
            if !self.queue.is_urgent() {
                return;
            }
            let mut guard = match self.appender.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::WouldBlock) => return,
                // The writing thread says what is to be said.
                Err(TryLockError::Poisoned(_)) => return self.queue.alarm(),
            };
            let written = guard.as_mut().and_then(|appender| {
                let work = self.queue.drain_within(appender.room())?;
                appender.commit(work);
                (!appender.unfinished()).then_some(())
            });
            drop(guard);
            if written.is_none() {
                return self.queue.alarm();
            }
        }
    }

    /// The writing thread. Ends when the queue says so; true when nothing was left behind.
    pub(crate) fn run(&self) -> bool {
        let mut retry = None;
        loop {
            let stopping = self.queue.wait(retry);
            let mut guard = match self.appender.lock() {
                Ok(guard) => guard,
                Err(poisoned) => {
                    // Whoever waits for what is linked and was never written hears of it.
                    *poisoned.into_inner() = None;
                    // Somebody panicked in the midst of writing: nobody knows where the chain stands. Whoever waits
                    // is told that the recorder has stopped; the next start reads the chain from the disk.
                    tracing::error!("the audit log's writer panicked; no more records are taken");
                    self.queue.stop();
                    drop(self.queue.drain());
                    return false;
                }
            };
            let Some(appender) = &mut *guard else { return false };
            appender.commit(self.queue.drain());
            retry = appender.unfinished().then_some(RETRY_EVERY);
            if stopping {
                let left = appender.left() + self.queue.leftover();
                if left > 0 {
                    tracing::error!(
                        events = left,
                        "events could not be written to the audit log before the end"
                    );
                }
                let clean = left == 0 && appender.is_sound();
                *guard = None;
                return clean;
            }
        }
    }
}

/// Encodes an event away from the log's end.
pub(crate) fn encode(event: &Event) -> Result<(Encoded, Fact), RecordError> {
    let encoded = Encoded::of(event).map_err(|error| RecordError::Io(error.to_string()))?;
    match encoded.line_len() {
        len if len > MAX_RECORD_BYTES => Err(RecordError::TooLarge(len)),
        _ => Ok((encoded, Fact::of(event))),
    }
}
