//! The thread that syncs: answers those who wait for the device, and has the head signed behind them.
//!
//! Apart from the writer, so that a plain read's record never waits behind another session's sync. Everything
//! that was written when a sync begins shares it. A failed sync poisons the segment: the kernel may have
//! dropped what it could not write, and a second sync would call that a success. From then on every waiter is
//! refused until the writer has made the segment anew ([`crate::appender`]).

use crate::{disk::SegmentFile, queue::Answer};
use lockgate_audit::{ChainHash, Tip};
use lockgate_model::port::{Receipt, RecordError};
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, SyncSender, TrySendError},
    },
    time::{Duration, Instant},
};

/// How far the signed head may lag: what is cut off the log's end within it leaves no trace.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// Hashes of records that wait for the signer at most. It reads from the log what came past them.
const MAX_ENTRIES: usize = 1 << 18;

/// What rests in the segment that is written now.
#[derive(Clone)]
pub(crate) struct Written {
    pub(crate) file: Arc<dyn SegmentFile>,
    pub(crate) tip: Tip,
    pub(crate) len: u64,
}

/// Somebody who waits for the device.
pub(crate) struct Waiter {
    pub(crate) seq: u64,
    pub(crate) answer: Answer,
}

struct State {
    written: Written,
    /// Hashes of records, for the tree: the last ones up to `written`.
    entries: Vec<ChainHash>,
    waiters: Vec<Waiter>,
    /// Counts the files: what is learnt of an earlier one says nothing about this one.
    generation: u64,
    /// Of `written.file`, how much is safe.
    synced_len: u64,
    failed: Option<String>,
    /// The last tip that was handed to the signer.
    signed_seq: u64,
    stopping: bool,
}

/// What the writer and the syncing thread share.
pub(crate) struct Syncer {
    state: Mutex<State>,
    wake: Condvar,
}

impl Syncer {
    /// Begins with a segment that is wholly synced.
    pub(crate) fn new(written: Written) -> Self {
        let synced_len = written.len;
        Self {
            state: Mutex::new(State {
                written,
                entries: Vec::new(),
                waiters: Vec::new(),
                generation: 0,
                synced_len,
                failed: None,
                signed_seq: 0,
                stopping: false,
            }),
            wake: Condvar::new(),
        }
    }

    /// The writer wrote, records with these hashes. Answers how much of the segment is safe by now.
    pub(crate) fn advance(
        &self,
        tip: Tip,
        len: u64,
        entries: &mut Vec<ChainHash>,
        waiters: Vec<Waiter>,
    ) -> u64 {
        let mut state = self.lock();
        if state.entries.len() + entries.len() > MAX_ENTRIES {
            state.entries.clear();
        }
        state.entries.append(entries);
        let was_signed = state.written.tip.seq == state.signed_seq;
        state.written.tip = tip;
        state.written.len = len;
        let wake = was_signed || (state.waiters.is_empty() && !waiters.is_empty());
        state.waiters.extend(waiters);
        let synced_len = state.synced_len;
        drop(state);
        if wake {
            self.wake.notify_one();
        }
        synced_len
    }

    /// The writer goes on in another file, of which everything is synced.
    pub(crate) fn replace(&self, written: Written) {
        let mut state = self.lock();
        state.synced_len = written.len;
        state.written = written;
        state.generation += 1;
        state.failed = None;
        drop(state);
        self.wake.notify_one();
    }

    /// Why the segment is poisoned, if it is.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().failed.clone()
    }

    /// Whether it is.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// How much of the segment is safe.
    pub(crate) fn synced_len(&self) -> u64 {
        self.lock().synced_len
    }

    /// Waits until everything that is written now is safe. For the writer's own thread.
    pub(crate) fn wait(&self) -> Result<(), String> {
        let (answer, answered) = mpsc::sync_channel(1);
        let (tip, len) = {
            let state = self.lock();
            (state.written.tip, state.written.len)
        };
        let waiter = Waiter { seq: tip.seq, answer: Answer::Thread(answer) };
        self.advance(tip, len, &mut Vec::new(), vec![waiter]);
        match answered.recv() {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the syncing thread has stopped".into()),
        }
    }

    /// Takes the hashes of the records before `through` that nobody has taken, that one's included. They end with it; what
    /// is missing before them is in the log.
    pub(crate) fn entries(&self, through: u64) -> Vec<ChainHash> {
        let mut state = self.lock();
        let behind = usize::try_from(state.written.tip.seq.saturating_sub(through)).unwrap_or(usize::MAX);
        let count = state.entries.len().saturating_sub(behind);
        state.entries.drain(..count).collect()
    }

    /// Ends the thread, after a last sync and a last head.
    pub(crate) fn stop(&self) {
        self.lock().stopping = true;
        self.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the syncing thread does next.
struct Job {
    written: Written,
    generation: u64,
    waiters: Vec<Waiter>,
    stopping: bool,
}

/// What the syncing thread owns.
pub(crate) struct SyncThread {
    syncer: Arc<Syncer>,
    /// To the thread that signs heads ([`crate::signer`]): nobody waits behind its own syncs.
    heads: SyncSender<Tip>,
    /// When the last tip was handed to it.
    handed_at: Option<Instant>,
}

impl SyncThread {
    pub(crate) fn new(syncer: Arc<Syncer>, heads: SyncSender<Tip>) -> Self {
        Self { syncer, heads, handed_at: None }
    }

    /// The thread. Ends when told to; true when everything is synced and handed to the signer.
    pub(crate) fn run(mut self) -> bool {
        loop {
            let job = self.next();
            let stopping = job.stopping;
            let synced = self.sync(job);
            match synced {
                Some(tip) if stopping => return self.heads.send(tip).is_ok(),
                None if stopping => return false,
                Some(tip) => self.hand_over(tip),
                None => {}
            }
        }
    }

    /// Waits for somebody who waits, for a head that is due, or for the end.
    fn next(&self) -> Job {
        let mut state = self.syncer.lock();
        loop {
            if state.stopping || !state.waiters.is_empty() {
                break;
            }
            let unsigned = state.failed.is_none() && state.written.tip.seq > state.signed_seq;
            state = match (unsigned, self.until_due()) {
                (true, Duration::ZERO) => break,
                (true, wait) => {
                    self.syncer.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                (false, _) => self.syncer.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        Job {
            written: state.written.clone(),
            generation: state.generation,
            waiters: std::mem::take(&mut state.waiters),
            stopping: state.stopping,
        }
    }

    fn until_due(&self) -> Duration {
        self.handed_at.map_or(Duration::ZERO, |at| CHECKPOINT_EVERY.saturating_sub(at.elapsed()))
    }

    /// Syncs what was written and answers; the tip that is safe now, or None when it is not.
    fn sync(&self, job: Job) -> Option<Tip> {
        let Job { written, generation, waiters, .. } = job;
        let result = match self.syncer.failure() {
            Some(error) => Err(error),
            None => written.file.sync_data().map_err(|error| format!("sync to disk: {error}")),
        };
        let mut state = self.syncer.lock();
        match &result {
            // The writer has gone on in another file meanwhile, after a sync of its own.
            _ if state.generation != generation => {}
            Ok(()) => state.synced_len = state.synced_len.max(written.len),
            Err(error) if state.failed.is_none() => {
                tracing::error!(error, "the audit log cannot be synced; records are refused until it can");
                state.failed = Some(error.clone());
            }
            Err(_) => {}
        }
        drop(state);
        for Waiter { seq, answer } in waiters {
            answer.give(match &result {
                Ok(()) => Ok(Receipt::new(seq)),
                Err(error) => Err(RecordError::Io(error.clone())),
            });
        }
        result.is_ok().then_some(written.tip)
    }

    /// Has a synced tip signed, when it is time.
    fn hand_over(&mut self, tip: Tip) {
        if !self.until_due().is_zero() {
            return;
        }
        self.handed_at = Some(Instant::now());
        match self.heads.try_send(tip) {
            Ok(()) => self.syncer.lock().signed_seq = tip.seq,
            // Still at the one before: a second later again.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}
