//! The log's end: links what it is given, writes it in one go, answers. Who drives it: [`crate::writer`].
//!
//! Linking and writing are apart ([`Group`]): what several sessions record in the same turn of a thread is linked one by
//! one and written with one call, by the first of them that comes back for its answer.
//!
//! A batch is written whole or not at all: when a write fails, the segment is cut back to where the batch
//! began and the chain goes back with it, so whoever was refused left nothing behind. Refused requests are
//! their askers' business; submitted events wait in a backlog and are tried again.
//!
//! After a failed *sync* the bytes in the page cache are in doubt. The segment is then made anew beside itself
//! from what is known to be safe plus the rest from memory, synced, and put in its place: acknowledged records
//! keep their place and their numbers.

use crate::{
    disk::{Disk, SegmentFile, write_all},
    fact::Fact,
    index::Feed,
    layout::{Layout, Segment},
    queue::{Answer, Entry, QUEUE_BYTES, QUEUE_EVENTS, Queue, Work},
    syncer::{Syncer, Waiter, Written},
};
use lockgate_audit::{Chain, ChainHash, Encoded, Memo, Tip, record::MAX_RECORD_BYTES};
use lockgate_model::{
    SessionId,
    event::{Event, EventKind},
    port::{Ambient, Durability, Receipt, RecordError},
};
use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Bytes written at once: large enough that the system call costs nothing beside them.
const BATCH_BYTES: usize = 4 << 20;

/// Bytes kept in memory until they are synced, to make a poisoned segment anew. At the bound the writer waits
/// for a sync.
const UNSYNCED_BYTES: usize = 16 << 20;

/// How long refused submitted events rest before they are tried again.
pub(crate) const RETRY_EVERY: Duration = Duration::from_millis(500);

/// A segment is not made anew more often than this: each try copies it.
const HEAL_EVERY: Duration = Duration::from_millis(250);

/// A write to the page cache that took this long met a disk that throttles, or lost its core in the midst of it.
const SLOW_WRITE: Duration = Duration::from_millis(2);

/// So many slow writes one after the other are the disk's: on a busy machine one alone is the scheduler's.
const SLOW_RUN: u32 = 2;

/// After a slow write only the writing thread writes, for this long: tasks then wait instead of blocking the
/// thread they share.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// Where a record rests, for the index.
#[derive(Clone, Debug)]
pub(crate) struct Resting {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) fact: Fact,
}

/// Room for one's own events that is kept from one record to the next. What a large statement took is given back.
const KEPT_BYTES: usize = 64 << 10;

/// What became of events that were to be written at once.
pub(crate) enum Now {
    /// They are linked, the last under this number, and written with their group.
    Staged(Arc<Group>, u64),
    /// They are written, and will be synced.
    Later(oneshot::Receiver<Result<Receipt, RecordError>>),
    /// Writing them could take long; here they are, encoded.
    Deferred(Vec<(Encoded, Fact)>),
}

/// What becomes of events that are written together.
#[derive(Debug, Default)]
pub(crate) struct Group {
    ended: OnceLock<Result<(), RecordError>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Group {
    /// What became of them, once it is known.
    pub(crate) fn ended(&self) -> Option<Result<(), RecordError>> {
        self.ended.get().cloned()
    }

    /// Wakes a task when they have ended; at once when they have.
    pub(crate) fn wait(&self, waker: &Waker) {
        self.waiting().push(waker.clone());
        if self.ended.get().is_some() {
            self.wake();
        }
    }

    fn end(&self, result: Result<(), RecordError>) {
        // The first word counts; there is a second only behind a panic.
        let _ = self.ended.set(result);
        self.wake();
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().for_each(Waker::wake);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waker>> {
        // Nothing panics while holding it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Linked, in `buffer`, and not yet written.
struct Staged {
    group: Arc<Group>,
    /// Where the chain goes back to if they cannot be written.
    before: Tip,
    /// What came from the queue, each with the number of its last event.
    entries: Vec<(u64, Entry)>,
    /// Events that nobody waits for and that only rest in `buffer`: which they are of `resting`.
    submitted: Vec<Submitted>,
}

/// A submitted event among those that are linked; enough to get it back if it cannot be written.
struct Submitted {
    /// Its place in `resting`.
    at: usize,
    opening_len: usize,
    session: Option<SessionId>,
}

impl Drop for Staged {
    /// Never written, since something panicked: whoever waits hears of it.
    fn drop(&mut self) {
        if self.group.ended.get().is_none() {
            self.group.end(Err(RecordError::Stopped));
        }
    }
}

/// What it takes to write at the log's end.
pub(crate) struct Appender {
    disk: Arc<dyn Disk>,
    layout: Layout,
    syncer: Arc<Syncer>,
    ambient: Arc<dyn Ambient>,
    feed: Feed,
    segment_bytes: u64,
    chain: Chain,
    segment: Segment,
    file: Arc<dyn SegmentFile>,
    len: u64,
    /// The segment's bytes from `tail_start` on: those that may not be synced yet.
    tail: Vec<u8>,
    tail_start: u64,
    /// The segment holds bytes that could not be cut off.
    overhang: bool,
    healed_at: Option<Instant>,
    slow_at: Option<Instant>,
    /// Slow writes one after the other, up to now.
    slow_run: u32,
    backlog: VecDeque<Entry>,
    backlog_events: usize,
    backlog_bytes: usize,
    /// Submitted events that are gone for good, not yet told.
    lost: u64,
    staged: Option<Staged>,
    /// The lines of `staged`.
    buffer: Vec<u8>,
    memo: Memo,
    /// Events of whoever writes, encoded: the first so many of them, the others are room.
    own: Vec<(Encoded, Fact)>,
    /// On their way to the index.
    resting: Vec<Resting>,
    /// Hashes of what is linked, on their way to the tree.
    hashes: Vec<ChainHash>,
}

/// Where the log goes on.
pub(crate) struct Position {
    pub(crate) chain: Chain,
    pub(crate) segment: Segment,
    pub(crate) file: Arc<dyn SegmentFile>,
    pub(crate) len: u64,
}

/// What a log's writer is made of.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) layout: Layout,
    pub(crate) syncer: Arc<Syncer>,
    pub(crate) ambient: Arc<dyn Ambient>,
    pub(crate) feed: Feed,
    pub(crate) segment_bytes: u64,
}

impl Appender {
    /// Goes on at `position`, where everything is synced.
    pub(crate) fn new(parts: Parts, position: Position) -> Self {
        let Parts { disk, layout, syncer, ambient, feed, segment_bytes } = parts;
        let Position { chain, segment, file, len } = position;
        Self {
            disk,
            layout,
            syncer,
            ambient,
            feed,
            segment_bytes,
            chain,
            segment,
            file,
            len,
            tail: Vec::new(),
            tail_start: len,
            overhang: false,
            healed_at: None,
            slow_at: None,
            slow_run: 0,
            backlog: VecDeque::new(),
            backlog_events: 0,
            backlog_bytes: 0,
            lost: 0,
            staged: None,
            buffer: Vec::new(),
            memo: Memo::default(),
            own: Vec::new(),
            resting: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Writes and syncs the first records, before there are threads.
    pub(crate) fn begin(&mut self, events: Vec<(Encoded, Fact)>) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        // Not in a new segment, however full this one is: nobody is there yet to sync it.
        self.stage([Entry { events, reply: None }], 0);
        self.flush().map_err(io::Error::other)?;
        self.file.sync_data()?;
        self.adopt(self.segment.clone(), self.file.clone(), self.len);
        Ok(())
    }

    /// Links events behind what is queued before them, unless writing them could take long. Those that must be synced
    /// are written there and then.
    pub(crate) fn record_now(
        &mut self,
        queue: &Queue,
        events: &[Event],
        durability: Durability,
    ) -> Result<Now, RecordError> {
        self.encode(events)?;
        let own = events.len();
        let mine = self.own.get(..own).unwrap_or_default();
        let bytes: usize = mine.iter().map(|(encoded, _)| encoded.line_len()).sum();
        let room = self.room().checked_sub(bytes);
        let Some(work) = room.and_then(|room| queue.drain_within(room)) else {
            return Ok(Now::Deferred(mine.to_vec()));
        };
        let (group, seq) = self.stage(work.entries, own);
        if bytes > KEPT_BYTES {
            self.own.clear();
        }
        match durability {
            Durability::Written => Ok(Now::Staged(group, seq)),
            Durability::Synced => {
                let (answer, answered) = oneshot::channel();
                let reply = Some((Durability::Synced, Answer::Task(answer)));
                if let Some(staged) = &mut self.staged {
                    staged.entries.push((seq, Entry { events: Vec::new(), reply }));
                }
                // A failure is told to everybody in the group, whoever asked here too.
                let _ = self.flush();
                Ok(Now::Later(answered))
            }
        }
    }

    /// Links events that nobody waits for; somebody's write takes them along. False when they have to go through the queue.
    pub(crate) fn submit_now(&mut self, queue: &Queue, events: &[Event]) -> bool {
        if self.encode(events).is_err() {
            return false;
        }
        let own = self.own.get(..events.len()).unwrap_or_default();
        let bytes: usize = own.iter().map(|(encoded, _)| encoded.line_len()).sum();
        let room = self.room().checked_sub(bytes);
        let Some(work) = room.filter(|_| bytes <= KEPT_BYTES).and_then(|room| queue.drain_within(room))
        else {
            return false;
        };
        self.stage(work.entries, events.len());
        let first = self.resting.len() - events.len();
        if let Some(staged) = &mut self.staged {
            let own = self.own.iter().take(events.len()).enumerate();
            staged.submitted.extend(own.map(|(number, (encoded, _))| {
                let (opening_len, session) = encoded.shape();
                Submitted { at: first + number, opening_len, session }
            }));
        }
        true
    }

    /// Encodes into what is kept for it.
    fn encode(&mut self, events: &[Event]) -> Result<(), RecordError> {
        let Self { own, memo, .. } = self;
        for (number, event) in events.iter().enumerate() {
            let encoded = match own.get_mut(number) {
                Some((encoded, fact)) => encoded
                    .replace(event, memo)
                    .map(|()| *fact = Fact::of(event))
                    .map(|()| encoded.line_len()),
                None => Encoded::of(event).map(|encoded| {
                    let len = encoded.line_len();
                    own.push((encoded, Fact::of(event)));
                    len
                }),
            };
            let len = encoded.map_err(|error| RecordError::Io(error.to_string()))?;
            if len > MAX_RECORD_BYTES {
                own.clear();
                return Err(RecordError::TooLarge(len));
            }
        }
        Ok(())
    }

    fn io_error(&self, error: &str) -> RecordError {
        RecordError::Io(format!("{}: {error}", self.segment.path.display()))
    }

    /// Events wait that nobody will ask about again.
    pub(crate) fn unfinished(&self) -> bool {
        !self.backlog.is_empty() || self.lost > 0
    }

    /// How many bytes can be written here without anything that takes long; 0 when the writing thread should.
    pub(crate) fn room(&self) -> usize {
        let slow = self.slow_at.is_some_and(|at| at.elapsed() < SLOW_FOR);
        if slow || self.unfinished() || self.overhang || self.syncer.is_poisoned() {
            return 0;
        }
        let in_segment = usize::try_from(self.segment_bytes.saturating_sub(self.len)).unwrap_or(usize::MAX);
        let room = in_segment.min(UNSYNCED_BYTES.saturating_sub(self.tail.len())).min(BATCH_BYTES);
        room.saturating_sub(self.staged_bytes())
    }

    fn staged_bytes(&self) -> usize {
        if self.staged.is_some() { self.buffer.len() } else { 0 }
    }

    /// Writes what waits, in order, in as few writes as the bounds allow.
    pub(crate) fn commit(&mut self, work: Work) {
        // Told to those it concerns.
        let _ = self.flush();
        self.lost += work.lost;
        let mut waiting = std::mem::take(&mut self.backlog);
        (self.backlog_events, self.backlog_bytes) = (0, 0);
        if self.lost > 0 {
            let count = std::mem::take(&mut self.lost);
            let detail =
                format!("{count} events could not be recorded: too large, or the log was too far behind");
            waiting.push_back(self.gap("recorder", Some(count), detail));
        }
        waiting.extend(work.entries);
        while !waiting.is_empty() {
            let mut bytes = 0;
            let fits = waiting
                .iter()
                .take_while(|entry| {
                    bytes += entry.bytes();
                    bytes <= BATCH_BYTES
                })
                .count();
            let batch: Vec<Entry> = waiting.drain(..fits.max(1)).collect();
            if let Err(error) = self.write(batch) {
                waiting.drain(..).for_each(|entry| self.refuse(entry, &error));
            }
        }
    }

    /// Links and writes one batch, or refuses it.
    fn write(&mut self, batch: Vec<Entry>) -> Result<(), RecordError> {
        let estimate: usize = batch.iter().map(Entry::bytes).sum();
        let mut ready = self.heal_if_poisoned();
        if ready.is_ok() && self.len > 0 && self.len + estimate as u64 > self.segment_bytes {
            ready = self.rotate();
        }
        if let Err(error) = ready {
            let error = self.io_error(&error);
            batch.into_iter().for_each(|entry| self.refuse(entry, &error));
            return Err(error);
        }
        self.stage(batch, 0);
        self.flush()
    }

    /// Links a batch, then so many of the writer's own events. Answers their group, and the number of the last event.
    fn stage(&mut self, batch: impl IntoIterator<Item = Entry>, own: usize) -> (Arc<Group>, u64) {
        let Self { staged, buffer, resting, hashes, chain, segment, len, own: room, .. } = self;
        let staged = staged.get_or_insert_with(|| {
            buffer.clear();
            resting.clear();
            hashes.clear();
            Staged { group: Arc::default(), before: chain.tip(), entries: Vec::new(), submitted: Vec::new() }
        });
        let mut link = |events: &[(Encoded, Fact)]| {
            for (encoded, fact) in events {
                let offset = *len + buffer.len() as u64;
                let Tip { seq, hash } = chain.append(encoded, buffer);
                hashes.push(hash);
                resting.push(Resting { seq, segment: segment.first_seq, offset, fact: fact.clone() });
            }
            chain.tip().seq
        };
        for entry in batch {
            let seq = link(&entry.events);
            staged.entries.push((seq, entry));
        }
        let seq = link(room.get(..own).unwrap_or_default());
        (staged.group.clone(), seq)
    }

    /// Writes what is linked at the segment's end, whole or not at all, and answers.
    pub(crate) fn flush(&mut self) -> Result<(), RecordError> {
        let Some(mut staged) = self.staged.take() else { return Ok(()) };
        let mut entries = std::mem::take(&mut staged.entries);
        let begin = self.len;
        let written = self.write_buffer(staged.before).map_err(|error| self.io_error(&error));
        match &written {
            Ok(()) => self.answer(entries),
            Err(error) => {
                for Submitted { at, opening_len, session } in staged.submitted.drain(..) {
                    let Some(resting) = self.resting.get(at) else { continue };
                    let line =
                        usize::try_from(resting.offset - begin).ok().and_then(|at| self.buffer.get(at..));
                    let encoded = Encoded::from_line(line.unwrap_or_default(), opening_len, session);
                    let events = vec![(encoded, resting.fact.clone())];
                    entries.push((resting.seq, Entry { events, reply: None }));
                }
                entries.sort_by_key(|(seq, _)| *seq);
                entries.into_iter().for_each(|(_, entry)| self.refuse(entry, error));
            }
        }
        staged.group.end(written.clone());
        written
    }

    fn write_buffer(&mut self, before: Tip) -> Result<(), String> {
        let begin = Instant::now();
        let written = write_all(&*self.file, &self.buffer);
        self.slow_run = if begin.elapsed() > SLOW_WRITE { self.slow_run + 1 } else { 0 };
        if self.slow_run >= SLOW_RUN {
            self.slow_at = Some(begin);
        }
        if let Err(error) = written {
            self.chain.rewind(before);
            self.overhang = self.file.truncate(self.len).is_err();
            return Err(format!("write: {error}"));
        }
        self.len += self.buffer.len() as u64;
        self.tail.extend_from_slice(&self.buffer);
        Ok(())
    }

    /// Answers those whose events rest now, or hands them to the syncer.
    fn answer(&mut self, entries: Vec<(u64, Entry)>) {
        // Before anybody is answered: what they list next has their events in it.
        self.feed.push(&mut self.resting);
        let mut waiters = Vec::new();
        for (seq, Entry { reply, .. }) in entries {
            match reply {
                Some((Durability::Written, answer)) => answer.give(Ok(Receipt::new(seq))),
                Some((Durability::Synced, answer)) => waiters.push(Waiter { seq, answer }),
                None => {}
            }
        }
        let synced_len = self.syncer.advance(self.chain.tip(), self.len, &mut self.hashes, waiters);
        self.forget_synced(synced_len);
        if self.tail.len() > UNSYNCED_BYTES {
            // A failure shows at the next batch, as a poisoned segment.
            let _ = self.syncer.wait();
            self.forget_synced(self.syncer.synced_len());
        }
    }

    fn forget_synced(&mut self, synced_len: u64) {
        let synced = usize::try_from(synced_len.saturating_sub(self.tail_start)).unwrap_or(usize::MAX);
        if synced >= self.tail.len() {
            self.tail.clear();
            self.tail_start = self.len;
        } else if synced > UNSYNCED_BYTES / 2 {
            self.tail.drain(..synced);
            self.tail_start = synced_len;
        }
    }

    fn refuse(&mut self, entry: Entry, error: &RecordError) {
        let Entry { events, reply } = entry;
        match reply {
            Some((_, answer)) => answer.give(Err(error.clone())),
            None => self.keep(Entry { events, reply: None }),
        }
    }

    /// Keeps submitted events for another try, within the queue's own bound.
    fn keep(&mut self, entry: Entry) {
        let (events, bytes) = (entry.events.len(), entry.bytes());
        if self.backlog_events + events > QUEUE_EVENTS || self.backlog_bytes + bytes > QUEUE_BYTES {
            self.lost += events as u64;
            return;
        }
        self.backlog_events += events;
        self.backlog_bytes += bytes;
        self.backlog.push_back(entry);
    }

    /// Goes on in a new segment once the old one is safe.
    fn rotate(&mut self) -> Result<(), String> {
        self.syncer.wait()?;
        let segment = self.layout.segment(self.chain.tip().seq + 1);
        let create = || -> io::Result<_> {
            let file = self.disk.create(&segment.path)?;
            self.disk.sync_dir(&self.layout.segments())?;
            Ok(file)
        };
        let file = create().map_err(|error| format!("begin segment {}: {error}", segment.name()))?;
        self.adopt(segment, file, 0);
        Ok(())
    }

    fn heal_if_poisoned(&mut self) -> Result<(), String> {
        let failure = self.syncer.failure();
        if failure.is_none() && !self.overhang {
            return Ok(());
        }
        let why = failure.clone().unwrap_or_else(|| "a failed write could not be cut off".into());
        if self.healed_at.is_some_and(|at| at.elapsed() < HEAL_EVERY) {
            return Err(why);
        }
        self.healed_at = Some(Instant::now());
        let file =
            self.remake().map_err(|error| format!("{why}; making the segment anew failed: {error}"))?;
        self.adopt(self.segment.clone(), file, self.len);
        tracing::warn!(segment = self.segment.name(), "the audit log was made anew after: {why}");
        if failure.is_some() {
            let detail = format!(
                "{why}; the segment was made anew. Operations that waited for that sync were refused though their \
                 records rest"
            );
            let gap = self.gap("store", None, detail);
            self.backlog_events += 1;
            self.backlog_bytes += gap.bytes();
            self.backlog.push_back(gap);
        }
        Ok(())
    }

    /// The segment again, in a new file, synced, under its own name.
    fn remake(&self) -> io::Result<Arc<dyn SegmentFile>> {
        let copy = self.segment.path.with_extension("remade");
        match std::fs::remove_file(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.disk.create(&copy)?;
        let mut source = File::open(&self.segment.path)?.take(self.tail_start);
        let mut chunk = vec![0; 1 << 16];
        let mut copied = 0;
        loop {
            let n = source.read(&mut chunk)?;
            if n == 0 {
                break;
            }
            copied += n as u64;
            write_all(&*file, chunk.get(..n).unwrap_or_default())?;
        }
        if copied != self.tail_start {
            return Err(io::Error::other(format!("expected {} synced bytes, got {copied}", self.tail_start)));
        }
        write_all(&*file, &self.tail)?;
        file.sync_data()?;
        self.disk.rename(&copy, &self.segment.path)?;
        self.disk.sync_dir(&self.layout.segments())?;
        Ok(file)
    }

    fn adopt(&mut self, segment: Segment, file: Arc<dyn SegmentFile>, len: u64) {
        self.segment = segment;
        self.file = file.clone();
        self.len = len;
        self.tail.clear();
        self.tail_start = len;
        self.overhang = false;
        self.syncer.replace(Written { file, tip: self.chain.tip(), len });
    }

    /// What nothing can write any more.
    pub(crate) fn left(&self) -> u64 {
        self.lost + self.backlog_events as u64
    }

    /// Whether everything that was written is whole.
    pub(crate) fn is_sound(&self) -> bool {
        !self.syncer.is_poisoned() && !self.overhang
    }

    fn gap(&self, stage: &str, count: Option<u64>, detail: String) -> Entry {
        let kind = EventKind::Gap { stage: stage.into(), count, detail };
        let event = Event { at: self.ambient.now(), session: None, kind };
        let fact = Fact::of(&event);
        match Encoded::of(&event) {
            Ok(encoded) => Entry { events: vec![(encoded, fact)], reply: None },
            Err(error) => {
                tracing::error!(%error, "a gap could not be encoded");
                Entry { events: Vec::new(), reply: None }
            }
        }
    }
}
