//! The index: which sessions there are, and where in the log their records rest.
//!
//! A function of the log and of nothing else: fed by the writer while records are written, or read from the
//! log when it is behind, and rebuilt when it is missing, of another log, or broken. No failure of it fails a
//! record; whoever asks a broken index reads the log instead.
//!
//! Counts are kept in memory for sessions that run, and go to sled ([`tables`]) once a second: a record costs
//! the index a hash table look-up, not a database write.

mod tables;

use crate::{
    appender::Resting,
    fact::{Fact, FactKind},
    layout::Layout,
    lines::Lines,
    session::{SessionFilter, SessionSummary},
};
use lockgate_audit::{ChainHash, Record};
use lockgate_model::{RequestId, SessionId, operation::Digest};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tables::Tables;

/// Records that may wait for the index. Past it the index reads from the log what it missed.
const FEED_RECORDS: usize = 32_768;

/// How long records are gathered before the index takes them: nobody waits for it, and waking it for each
/// record would cost more than indexing does.
const GATHER: Duration = Duration::from_millis(100);

/// How often what is counted goes to disk. A crash costs reading a second's records again.
const PERSIST_EVERY: Duration = Duration::from_secs(1);

/// How often a broken index is tried again: the disk may have room by then.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// Why the index cannot answer. Never more than a reason to read the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// sled's words; its types stay in [`tables`].
    #[error("the index failed: {0}")]
    Tables(String),
    /// The log could not be read to catch up.
    #[error("the index cannot read the log: {0}")]
    Io(#[from] io::Error),
    /// The log holds what the index cannot follow.
    #[error("the index cannot follow the log: {0}")]
    Log(String),
    /// It failed before.
    #[error("the index is out of use since it failed")]
    OutOfUse,
}

/// A session that runs, or ended since the last time the index went to disk.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) summary: SessionSummary,
    /// Segment → offsets of the session's first and last record there.
    pub(crate) extents: BTreeMap<u64, (u64, u64)>,
    dirty: bool,
}

/// How far the index has come: the last record in it, and where that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Through {
    pub(crate) seq: u64,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) hash: ChainHash,
}

/// See the module.
pub(crate) struct Index {
    layout: Layout,
    /// The last record that the writer is sure of: what is behind it in the file may be cut off again.
    written: Arc<AtomicU64>,
    tables: Tables,
    /// The last record that was applied; None before the first.
    through: Option<(u64, u64, u64)>,
    live: HashMap<SessionId, Live>,
    /// Requests that wait.
    requests: BTreeMap<RequestId, Option<SessionId>>,
    /// What must rest on the shelf.
    shelved: BTreeMap<String, Digest>,
    /// Requests asked since the last time the index went to disk.
    asked: Vec<(RequestId, Option<SessionId>)>,
    dirty: bool,
}

impl Index {
    /// Opens the index, from nothing when it is not this log's, and reads what it does not know yet.
    pub(crate) fn open(layout: &Layout, written: Arc<AtomicU64>) -> Result<Self, IndexError> {
        match Self::open_existing(layout, written.clone()) {
            Ok(index) => Ok(index),
            Err(error) => {
                tracing::info!(%error, "the index is built anew from the log");
                match std::fs::remove_dir_all(layout.index()) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
                    _ => Self::open_existing(layout, written),
                }
            }
        }
    }

    fn open_existing(layout: &Layout, written: Arc<AtomicU64>) -> Result<Self, IndexError> {
        let tables = Tables::open(&layout.index())?;
        let through = tables.through()?;
        if let Some(through) = through {
            check_same_log(layout, through)?;
        }
        let mut index = Self {
            layout: layout.clone(),
            written,
            through: through.map(|through| (through.seq, through.segment, through.offset)),
            live: HashMap::new(),
            requests: tables.open_requests()?,
            shelved: tables.shelved()?,
            asked: Vec::new(),
            dirty: false,
            tables,
        };
        for live in index.tables.open_sessions()? {
            index.live.insert(live.summary.id, live);
        }
        index.catch_up()?;
        Ok(index)
    }

    /// Reads from the log what the index does not know yet.
    fn catch_up(&mut self) -> Result<(), IndexError> {
        let (segments, _) =
            self.layout.list_segments().map_err(|error| IndexError::Log(error.to_string()))?;
        let (known, begin, offset) = self.through.unwrap_or((0, 0, 0));
        let written = self.written.load(Ordering::Acquire);
        for segment in segments.into_iter().filter(|segment| segment.first_seq >= begin) {
            let offset = if segment.first_seq == begin { offset } else { 0 };
            let mut lines = Lines::open_at(segment.clone(), offset)?;
            while let Some(line) = lines.next()? {
                if !line.complete {
                    break;
                }
                let place = line.place.offset;
                let record = Record::decode(line.bytes)
                    .map_err(|error| IndexError::Log(format!("{}: {error}", line.place)))?;
                if record.seq > written {
                    return Ok(());
                }
                if record.seq > known {
                    let fact = Fact::of(&record.event);
                    self.apply(&Resting {
                        seq: record.seq,
                        segment: segment.first_seq,
                        offset: place,
                        fact,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Takes what the writer wrote; reads from the log first what was missed before it.
    fn feed(&mut self, batch: &[Resting]) -> Result<(), IndexError> {
        for resting in batch {
            let next = self.through.map_or(1, |(seq, ..)| seq + 1);
            if resting.seq > next {
                self.catch_up()?;
            }
            self.apply(resting)?;
        }
        Ok(())
    }

    fn apply(&mut self, resting: &Resting) -> Result<(), IndexError> {
        let Resting { seq, segment, offset, fact } = resting;
        if self.through.is_some_and(|(through, ..)| *seq <= through) {
            return Ok(());
        }
        self.through = Some((*seq, *segment, *offset));
        self.dirty = true;
        match &fact.kind {
            FactKind::Held(request) => {
                self.requests.insert(*request, fact.session);
                self.asked.push((*request, fact.session));
            }
            FactKind::Resolved(request) => drop(self.requests.remove(request)),
            FactKind::Shelved(what) => match what.1 {
                Some(digest) => drop(self.shelved.insert(what.0.clone(), digest)),
                None => drop(self.shelved.remove(&what.0)),
            },
            _ => {}
        }
        let Some(id) = fact.session else { return Ok(()) };
        if !self.live.contains_key(&id) {
            // Known from before (its closing came, and something after it), or begun just now.
            let live = match self.tables.session(id)? {
                Some(live) => Some(live),
                None => SessionSummary::begin(*seq, fact).map(Live::new),
            };
            let Some(live) = live else { return Ok(()) };
            self.live.insert(id, live);
        }
        if let Some(live) = self.live.get_mut(&id) {
            live.summary.apply(*seq, fact);
            let extent = live.extents.entry(*segment).or_insert((*offset, *offset));
            *extent = (extent.0.min(*offset), extent.1.max(*offset));
            live.dirty = true;
        }
        Ok(())
    }

    /// Moves what changed to the tables; sessions that ended leave memory.
    fn store(&mut self) -> Result<(), IndexError> {
        for live in self.live.values_mut().filter(|live| live.dirty) {
            self.tables.put_session(live)?;
            live.dirty = false;
        }
        self.live.retain(|_, live| live.summary.ended.is_none());
        for (request, session) in self.asked.drain(..) {
            self.tables.put_request(request, session)?;
        }
        Ok(())
    }

    /// Moves what changed to disk, how far it goes last: a crash in between repeats some of it, to no effect.
    fn persist(&mut self) -> Result<(), IndexError> {
        if !self.dirty {
            return Ok(());
        }
        self.store()?;
        self.tables.put_open_requests(&self.requests)?;
        self.tables.put_shelved(&self.shelved)?;
        if let Some((seq, segment, offset)) = self.through {
            let hash = hash_at(&self.layout, segment, offset)?;
            self.tables.put_through(Through { seq, segment, offset, hash })?;
        }
        self.tables.flush()?;
        self.dirty = false;
        Ok(())
    }

    /// Sessions that have not ended.
    pub(crate) fn open_sessions(&self) -> Vec<SessionSummary> {
        let open = self.live.values().filter(|live| live.summary.ended.is_none());
        let mut sessions: Vec<_> = open.map(|live| live.summary.clone()).collect();
        sessions.sort_by_key(|session| session.id);
        sessions
    }

    /// What must rest on the shelf, and SHA-256 of it.
    pub(crate) fn shelved(&self) -> &BTreeMap<String, Digest> {
        &self.shelved
    }

    /// Requests that wait.
    pub(crate) fn open_requests(&self) -> Vec<(RequestId, Option<SessionId>)> {
        self.requests.iter().map(|(request, session)| (*request, *session)).collect()
    }
}

impl Live {
    pub(crate) fn new(summary: SessionSummary) -> Self {
        Self { summary, extents: BTreeMap::new(), dirty: false }
    }
}

/// The last record that the index knows must be in the log as the index knew it.
fn check_same_log(layout: &Layout, through: Through) -> Result<(), IndexError> {
    if hash_at(layout, through.segment, through.offset)? == through.hash {
        Ok(())
    } else {
        Err(IndexError::Log(format!("record {} is not the one that was indexed", through.seq)))
    }
}

fn hash_at(layout: &Layout, segment: u64, offset: u64) -> Result<ChainHash, IndexError> {
    let mut lines = Lines::open_at(layout.segment(segment), offset)?;
    let line = lines.next()?.filter(|line| line.complete);
    line.map(|line| ChainHash::of_line(line.bytes))
        .ok_or_else(|| IndexError::Log(format!("no record in segment {segment} at {offset}")))
}

/// The index, shared by the thread that keeps it and those who ask it. None while it is broken.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<Option<Index>>>);

impl Shared {
    pub(crate) fn new(index: Option<Index>) -> Self {
        Self(Arc::new(Mutex::new(index)))
    }

    /// A listing, newest first, of everything that rests now.
    pub(crate) fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, IndexError> {
        self.with(|index| {
            index.catch_up()?;
            index.store()?;
            index.tables.sessions(filter)
        })
    }

    /// Where a session's records rest: segment → offsets of the first and the last.
    pub(crate) fn extents(&self, id: SessionId) -> Result<BTreeMap<u64, (u64, u64)>, IndexError> {
        self.with(|index| {
            index.catch_up()?;
            match index.live.get(&id) {
                Some(live) => Ok(live.extents.clone()),
                None => Ok(index.tables.session(id)?.map(|live| live.extents).unwrap_or_default()),
            }
        })
    }

    /// The session that asked.
    pub(crate) fn session_of(&self, request: RequestId) -> Result<Option<SessionId>, IndexError> {
        self.with(|index| {
            index.catch_up()?;
            index.store()?;
            index.tables.session_of(request)
        })
    }

    /// Works on the index; one that fails is out of use until it is opened again.
    fn with<T>(&self, work: impl FnOnce(&mut Index) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = guard.as_mut().ok_or(IndexError::OutOfUse)?;
        // sled can panic on a damaged or full disk; the index is dropped below, whatever state that left it in.
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| work(index)))
            .unwrap_or_else(|_| Err(IndexError::Tables("sled panicked".into())));
        if let Err(error) = &result {
            tracing::warn!(%error, "the index is out of use; listings read the log");
            *guard = None;
        }
        result
    }

    fn broken(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}

/// Records on their way to the index.
#[derive(Default)]
struct Gathered {
    records: Vec<Resting>,
    ended: bool,
}

/// The writer's end: never waits. Dropping it ends the thread.
pub(crate) struct Feed {
    gathered: Arc<(Mutex<Gathered>, Condvar)>,
    written: Arc<AtomicU64>,
}

impl Feed {
    /// Takes what rests now out of `batch`.
    pub(crate) fn push(&self, batch: &mut Vec<Resting>) {
        if let Some(last) = batch.last() {
            self.written.store(last.seq, Ordering::Release);
        }
        let (gathered, wake) = &*self.gathered;
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let first = gathered.records.is_empty();
        // What finds no room is read from the log later.
        if gathered.records.len() + batch.len() <= FEED_RECORDS {
            gathered.records.append(batch);
        } else {
            batch.clear();
        }
        drop(gathered);
        if first {
            wake.notify_one();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let (gathered, wake) = &*self.gathered;
        gathered.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        wake.notify_one();
    }
}

/// Starts the thread that keeps the index. It ends, and persists, when the feed is dropped.
pub(crate) fn keep(
    shared: Shared,
    layout: Layout,
    written: Arc<AtomicU64>,
) -> io::Result<(Feed, JoinHandle<()>)> {
    let gathered = Arc::new((Mutex::default(), Condvar::new()));
    let feed = Feed { gathered: gathered.clone(), written: written.clone() };
    let work = move || run(&shared, &layout, &written, &gathered);
    let thread = thread::Builder::new().name("audit-index".into()).spawn(work)?;
    Ok((feed, thread))
}

fn run(shared: &Shared, layout: &Layout, written: &Arc<AtomicU64>, feed: &(Mutex<Gathered>, Condvar)) {
    let mut persisted = Instant::now();
    let mut tried = Instant::now();
    let mut unpersisted = false;
    loop {
        let (records, ended) = gather(feed, unpersisted);
        if shared.broken() {
            if !ended && tried.elapsed() < RETRY_EVERY {
                continue;
            }
            tried = Instant::now();
            if let Ok(index) = Index::open(layout, written.clone()) {
                *shared.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
            }
        }
        // A failure is told where it happens, and the index is out of use then.
        let _ = shared.with(|index| index.feed(&records));
        unpersisted |= !records.is_empty();
        if ended || persisted.elapsed() >= PERSIST_EVERY {
            let _ = shared.with(|index| {
                index.catch_up()?;
                index.persist()
            });
            persisted = Instant::now();
            unpersisted = false;
        }
        if ended {
            return;
        }
    }
}

/// Waits for records and gathers those that come soon after; `soon` waits no longer than until it is time to
/// persist.
fn gather(feed: &(Mutex<Gathered>, Condvar), soon: bool) -> (Vec<Resting>, bool) {
    let (gathered, wake) = feed;
    let mut state = gathered.lock().unwrap_or_else(PoisonError::into_inner);
    if state.records.is_empty() && !state.ended {
        state = if soon {
            wake.wait_timeout(state, PERSIST_EVERY).unwrap_or_else(PoisonError::into_inner).0
        } else {
            wake.wait(state).unwrap_or_else(PoisonError::into_inner)
        };
    }
    if !state.ended {
        state = wake.wait_timeout(state, GATHER).unwrap_or_else(PoisonError::into_inner).0;
    }
    (std::mem::take(&mut state.records), state.ended)
}
