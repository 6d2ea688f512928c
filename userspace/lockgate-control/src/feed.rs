//! What is written to the log, as it happens, for everybody who watches: the API's event stream, the console, the command
//! line.
//!
//! One task reads the log while somebody watches and keeps the latest records in a ring; each watcher has a place in it
//! and takes what comes behind. Nobody waits for a watcher: whoever is so slow that the ring has gone round is told how much
//! they missed. Numbers are the log's own, so a watcher that was away goes on where it was, over a restart, too.

use crate::house::{House, HouseError, Record, Tail};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_util::sync::CancellationToken;

/// Records that are kept for watchers: some seconds of a very busy node.
const RING_RECORDS: usize = 8_192;
/// Bytes of them, about: a record can hold half a megabyte of statement.
const RING_BYTES: usize = 32 << 20;
/// Watchers at a time; each is a connection and a task that mostly sleeps.
pub const WATCHERS_MAX: usize = 256;
/// How often the log is looked at while somebody watches.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Records read at a time.
const CHUNK: usize = 256;
/// The reader stops this long after the last watcher left.
const IDLE: Duration = Duration::from_secs(30);
/// A log that cannot be read is tried again after this long.
const AGAIN: Duration = Duration::from_secs(2);
/// How far back a watcher that was away is caught up, in records; what is older is told as a gap.
pub const BACKFILL_MAX: u64 = 10_000;
/// Records that may have been written since the head was signed, of which a watcher may know.
const UNSIGNED_MAX: u64 = 1_000_000;

/// The latest records, and who watches.
pub struct Feed {
    house: OnceLock<Arc<dyn House>>,
    ring: Mutex<Ring>,
    /// Number of the newest record in the ring; watchers wait for it to change.
    newest: watch::Sender<u64>,
    seats: Arc<Semaphore>,
    reading: Mutex<bool>,
    runtime: Handle,
    stop: CancellationToken,
}

#[derive(Default)]
struct Ring {
    records: VecDeque<(Arc<Record>, usize)>,
    bytes: usize,
}

/// What a watcher sees next.
#[derive(Clone, Debug)]
pub enum Seen {
    /// A record.
    Record(Arc<Record>),
    /// Records that are not in the ring any more: the first and the last of them.
    Gap(u64, u64),
}

impl Feed {
    pub(crate) fn new(runtime: Handle, stop: CancellationToken) -> Self {
        Self {
            house: OnceLock::new(),
            ring: Mutex::default(),
            newest: watch::Sender::new(0),
            seats: Arc::new(Semaphore::new(WATCHERS_MAX)),
            reading: Mutex::new(false),
            runtime,
            stop,
        }
    }

    pub(crate) fn attach(&self, house: Arc<dyn House>) {
        let _ = self.house.set(house);
    }

    /// Watches what comes behind record `after`, or from now on. None when [`WATCHERS_MAX`] watch already.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub async fn watch(self: &Arc<Self>, after: Option<u64>) -> Result<Option<Watcher>, HouseError> {
        let Ok(seat) = self.seats.clone().try_acquire_owned() else { return Ok(None) };
        let news = self.newest.subscribe();
        self.begin().await?;
        let mut watcher = Watcher {
            feed: self.clone(),
            news,
            behind: after.or_else(|| self.last()).map_or(Behind::Now, Behind::At),
            backfill: None,
            missed: None,
            slow: false,
            _seat: seat,
        };
        if let Some(after) = after {
            watcher.catch_up(after).await?;
        }
        Ok(Some(watcher))
    }

    /// Who watches now.
    pub fn watchers(&self) -> usize {
        WATCHERS_MAX.saturating_sub(self.seats.available_permits())
    }

    /// Starts to read, unless that goes on.
    async fn begin(self: &Arc<Self>) -> Result<(), HouseError> {
        let none = || HouseError::Unavailable("the log is not attached".to_owned());
        let house = self.house.get().ok_or_else(none)?;
        if std::mem::replace(&mut *self.reading.lock(), true) {
            return Ok(());
        }
        // What was missed while nobody watched is not in the ring, and is read from the log by whoever asks for it.
        *self.ring.lock() = Ring::default();
        match house.tail(None).await {
            Ok(tail) => {
                self.runtime.spawn(self.clone().read(tail));
                Ok(())
            }
            Err(error) => {
                *self.reading.lock() = false;
                Err(error)
            }
        }
    }

    async fn read(self: Arc<Self>, mut tail: Box<dyn Tail>) {
        let mut idle = Duration::ZERO;
        loop {
            let pause = match tail.more(CHUNK).await {
                Ok(records) if records.is_empty() => LOOK_EVERY,
                Ok(records) => {
                    self.take(records);
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!(%error, "watching the log");
                    AGAIN
                }
            };
            idle = if self.watchers() == 0 { idle + pause } else { Duration::ZERO };
            if idle >= IDLE {
                let mut reading = self.reading.lock();
                if self.watchers() == 0 {
                    *reading = false;
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn take(&self, records: Vec<Record>) {
        let mut ring = self.ring.lock();
        let Some(newest) = records.last().map(|record| record.seq) else { return };
        for record in records {
            let bytes = weight(&record);
            ring.bytes += bytes;
            ring.records.push_back((Arc::new(record), bytes));
            while ring.records.len() > RING_RECORDS || ring.bytes > RING_BYTES {
                let Some((_, bytes)) = ring.records.pop_front() else { break };
                ring.bytes -= bytes;
            }
        }
        drop(ring);
        self.newest.send_replace(newest);
    }

    /// The record behind `after` in the ring; or the first there is, when that one has left it.
    fn behind(&self, after: u64) -> Option<Arc<Record>> {
        let ring = self.ring.lock();
        let at = ring.records.partition_point(|(record, _)| record.seq <= after);
        ring.records.get(at).map(|(record, _)| record.clone())
    }

    fn last(&self) -> Option<u64> {
        self.ring.lock().records.back().map(|(record, _)| record.seq)
    }

    fn first(&self) -> Option<u64> {
        self.ring.lock().records.front().map(|(record, _)| record.seq)
    }
}

/// What a record costs, about: its statement dominates.
fn weight(record: &Record) -> usize {
    use lockgate_model::event::EventKind;
    let text = match &record.event.kind {
        EventKind::OperationDecided { operation, .. } => {
            operation.text.len()
                + operation
                    .parameters
                    .iter()
                    .map(|value| value.value.as_ref().map_or(0, String::len))
                    .sum::<usize>()
        }
        EventKind::OperationPart { data, .. } => data.len(),
        EventKind::ResultRows { rows, .. } => rows.len() * 256,
        _ => 0,
    };
    1024 + text
}

/// Where a watcher is.
enum Behind {
    /// It has seen nothing: what comes first is its first.
    Now,
    /// It has seen this one.
    At(u64),
}

/// Somebody who watches. Holds a place until dropped.
pub struct Watcher {
    feed: Arc<Feed>,
    news: watch::Receiver<u64>,
    behind: Behind,
    /// Catching up from the log itself.
    backfill: Option<(Box<dyn Tail>, VecDeque<Record>)>,
    /// Older than it may be caught up with.
    missed: Option<(u64, u64)>,
    /// It has lost its place: its stream ends behind the gap.
    slow: bool,
    _seat: OwnedSemaphorePermit,
}

impl Watcher {
    /// Waits for what comes next; None when it ends (lockgate stops, or the watcher was too slow and has been told so).
    /// Cancel-safe but for what was read to catch up, which is read again.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            if let Some((first, last)) = self.missed.take() {
                return Some(Seen::Gap(first, last));
            }
            if self.slow {
                return None;
            }
            if let Some(seen) = self.caught_up().await {
                return Some(seen);
            }
            if let Some(seen) = self.take_kept() {
                return Some(seen);
            }
            tokio::select! {
                changed = self.news.changed() => changed.ok()?,
                () = self.feed.stop.cancelled() => return None,
            }
        }
    }

    /// Takes a place behind `after`: in the ring, or, where that does not reach back, in the log.
    async fn catch_up(&mut self, after: u64) -> Result<(), HouseError> {
        if self.feed.first().is_some_and(|first| first <= after.saturating_add(1)) {
            return Ok(());
        }
        let Some(house) = self.feed.house.get() else { return Ok(()) };
        let newest = house.newest().await?.max(self.feed.last().unwrap_or(0));
        if after > newest.saturating_add(UNSIGNED_MAX) {
            return Err(HouseError::Invalid(format!(
                "expected the number of a record that is in the log, which has {newest}; got {after}"
            )));
        }
        let from = after.max(newest.saturating_sub(BACKFILL_MAX));
        if from > after {
            self.missed = Some((after.saturating_add(1), from));
            self.behind = Behind::At(from);
        }
        self.backfill = Some((house.tail(Some(from)).await?, VecDeque::new()));
        Ok(())
    }

    async fn caught_up(&mut self) -> Option<Seen> {
        let (tail, waiting) = self.backfill.as_mut()?;
        if waiting.is_empty() {
            match tail.more(CHUNK).await {
                Ok(records) => waiting.extend(records),
                Err(error) => tracing::warn!(%error, "catching up with the log"),
            }
        }
        let record = waiting.pop_front();
        // Behind the last one it goes on from the ring, whatever that holds: equal numbers are not shown twice.
        let Some(record) = record else {
            self.backfill = None;
            return None;
        };
        self.behind = Behind::At(record.seq);
        Some(Seen::Record(Arc::new(record)))
    }

    fn take_kept(&mut self) -> Option<Seen> {
        self.news.borrow_and_update();
        let record = match self.behind {
            Behind::At(after) => self.feed.behind(after)?,
            // The ring was empty when it came.
            Behind::Now => {
                let first = self.feed.first()?;
                self.behind = Behind::At(first.saturating_sub(1));
                self.feed.behind(first.saturating_sub(1))?
            }
        };
        if let Behind::At(after) = self.behind
            && record.seq > after.saturating_add(1)
        {
            self.slow = true;
            return Some(Seen::Gap(after.saturating_add(1), record.seq.saturating_sub(1)));
        }
        self.behind = Behind::At(record.seq);
        Some(Seen::Record(record))
    }
}

#[cfg(test)]
mod tests;
