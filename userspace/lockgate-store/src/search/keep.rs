//! The thread that keeps the index: follows the log from behind, at the lowest priority, and commits every few seconds.
//!
//! It reads what rests, as any reader does, so nobody who records waits for it or hands it anything.

use super::{
    entry::{Entry, peek},
    known::{Known, Memory},
    table::{Table, TableError, TableWriter, Through},
};
use crate::{
    layout::{At, Layout},
    lines::Lines,
};
use lockgate_audit::{ChainHash, Record};
use std::{
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often the log's end is looked at. What is newer than the index is found by reading it, so this is no delay.
const LOOK_EVERY: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(1) };

/// How long entries are gathered before they are committed: a commit syncs a dozen small files.
const COMMIT_EVERY: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };

/// Entries, and bytes of them, that are gathered at most: they are searched one by one.
const COMMIT_ENTRIES: usize = 10_000;
const COMMIT_BYTES: usize = 16 << 20;

/// How often a broken index is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

/// Above what is ordinary: whatever else runs on the machine goes first.
const NICE: i32 = 19;

/// How far the log was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) seq: u64,
    /// The segment that holds it, and where its line ends there.
    pub(super) end: At,
}

/// What a search looks at.
pub(super) struct View {
    pub(super) table: Table,
    /// The last record that is committed.
    pub(super) committed: u64,
    /// Entries after it, oldest first.
    pub(super) recent: Vec<Arc<Entry>>,
    pub(super) read: Read,
}

/// Shared by the thread and those who search. No view while there is no index.
#[derive(Clone)]
pub(crate) struct Searcher {
    view: Arc<Mutex<Option<View>>>,
    /// The last record that the writer is sure of.
    pub(super) written: Arc<AtomicU64>,
}

impl Searcher {
    pub(super) fn view(&self) -> MutexGuard<'_, Option<View>> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the index out of use; the thread makes it anew.
    pub(super) fn broken(&self, error: &TableError) {
        tracing::warn!(%error, "the search index is out of use; searches read the log until it is made anew");
        *self.view() = None;
    }
}

/// The thread's handle. Dropping it ends the thread, after a last commit.
pub(crate) struct Keeper {
    searcher: Searcher,
    ending: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it.
    pub(crate) fn start(layout: Layout, written: Arc<AtomicU64>) -> io::Result<Self> {
        let searcher = Searcher { view: Arc::default(), written };
        let ending = Arc::new((Mutex::new(false), Condvar::new()));
        let keeping = Keeping { layout, searcher: searcher.clone(), ending: ending.clone() };
        let thread = thread::Builder::new().name("audit-search".into()).spawn(move || keeping.run())?;
        Ok(Self { searcher, ending, thread: Some(thread) })
    }

    pub(crate) fn searcher(&self) -> Searcher {
        self.searcher.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ending.1.notify_one();
        // A panic in there was told when it happened, and cost the index only.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Keeping {
    layout: Layout,
    searcher: Searcher,
    ending: Arc<(Mutex<bool>, Condvar)>,
}

impl Keeping {
    fn run(self) {
        // Of this thread alone, and of those that it starts. Not to be allowed to costs nothing but manners.
        let _ = rustix::process::setpriority_process(None, NICE);
        loop {
            // tantivy can panic on what it did not expect; the index is made anew then.
            let ended = std::panic::catch_unwind(AssertUnwindSafe(|| self.keep()))
                .unwrap_or_else(|_| Err(TableError::Other("it panicked".into())));
            match ended {
                Ok(()) => return,
                Err(error) => self.searcher.broken(&error),
            }
            if let Err(error) = remove(&self.layout) {
                tracing::warn!(%error, "the search index cannot be removed");
            }
            if self.wait(RETRY_EVERY) {
                return;
            }
        }
    }

    /// Ends in order when told to.
    fn keep(&self) -> Result<(), TableError> {
        let mut work = Work::open(&self.layout, &self.searcher)?;
        loop {
            let caught_up = work.follow(|| self.is_ending())?;
            let ending = self.is_ending();
            if work.is_due() || ending {
                work.commit()?;
            }
            if ending || caught_up && self.wait(LOOK_EVERY) {
                return work.commit();
            }
            if self.searcher.view().is_none() {
                return Err(TableError::Other("a search failed".into()));
            }
        }
    }

    fn is_ending(&self) -> bool {
        *self.ending.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when the end has come.
    fn wait(&self, at_most: Duration) -> bool {
        let ending = self.ending.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *ending {
            return true;
        }
        *self.ending.1.wait_timeout(ending, at_most).unwrap_or_else(PoisonError::into_inner).0
    }
}

fn remove(layout: &Layout) -> io::Result<()> {
    match std::fs::remove_dir_all(layout.search()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the thread works with.
struct Work<'a> {
    layout: &'a Layout,
    searcher: &'a Searcher,
    table: Table,
    writer: TableWriter,
    memory: Memory,
    lines: Option<Lines>,
    /// How far it was read, with the last line's beginning and hash.
    through: Option<Through>,
    /// The first record that the log still has.
    first: u64,
    /// Records since the last commit, those of them that are searched, and their bytes.
    gathered: usize,
    gathered_entries: usize,
    gathered_bytes: usize,
    committed_at: Instant,
}

impl<'a> Work<'a> {
    fn open(layout: &'a Layout, searcher: &'a Searcher) -> Result<Self, TableError> {
        let opened = Table::open(&layout.search()).and_then(|(table, through)| {
            through.iter().try_for_each(|through| check_same_log(layout, through))?;
            Ok((table, through))
        });
        let (table, through) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::info!(%error, "the search index is built anew from the log");
                remove(layout)?;
                Table::open(&layout.search())?
            }
        };
        let writer = table.writer()?;
        let committed = through.map_or(0, |through| through.seq);
        let end =
            through.map_or(At::default(), |through| At { segment: through.segment, offset: through.end });
        let view =
            View { table: table.clone(), committed, recent: Vec::new(), read: Read { seq: committed, end } };
        *searcher.view() = Some(view);
        Ok(Self {
            layout,
            searcher,
            table,
            writer,
            memory: Memory::default(),
            lines: None,
            through,
            first: 1,
            gathered: 0,
            gathered_entries: 0,
            gathered_bytes: 0,
            committed_at: Instant::now(),
        })
    }

    /// Reads what was written meanwhile, until it is time to commit. True at the log's end.
    fn follow(&mut self, ending: impl Fn() -> bool) -> Result<bool, TableError> {
        let written = self.searcher.written.load(Ordering::Acquire);
        while self.through.map_or(0, |through| through.seq) < written {
            if self.is_due() || ending() {
                return Ok(false);
            }
            if !self.step(written)? {
                return Ok(true);
            }
        }
        Ok(true)
    }

    /// Takes the next record; false when there is none.
    fn step(&mut self, written: u64) -> Result<bool, TableError> {
        let Some(lines) = &mut self.lines else { return self.next_segment() };
        let segment = lines.segment.first_seq;
        let offset = lines.offset;
        let line = lines.next()?.filter(|line| line.complete);
        let Some(line) = line else {
            lines.again(offset)?;
            return self.next_segment();
        };
        let (seq, kind) =
            peek(line.bytes).map_err(|error| TableError::Other(format!("{}: {error}", line.place)))?;
        if seq > written {
            lines.again(offset)?;
            return Ok(false);
        }
        let at = At { segment, offset };
        let end = offset + line.bytes.len() as u64 + 1;
        if self.through.is_none_or(|through| seq > through.seq) {
            let hash = ChainHash::of_line(line.bytes);
            let entry = match kind {
                Some(kind) => {
                    let record =
                        Record::decode(line.bytes).map_err(|error| TableError::Other(error.to_string()))?;
                    let mut known =
                        Known { memory: &mut self.memory, index: Some((&self.table, self.layout)) };
                    Some(Arc::new(Entry::of(&record, kind, at, &mut known)))
                }
                None => None,
            };
            if let Some(entry) = &entry {
                self.writer.add(entry)?;
                self.gathered_entries += 1;
                self.gathered_bytes += entry.weight();
            }
            self.gathered += 1;
            self.through = Some(Through::new(seq, at, end, hash));
            let mut view = self.searcher.view();
            let Some(view) = &mut *view else { return Err(TableError::Other("a search failed".into())) };
            view.read = Read { seq, end: At { segment, offset: end } };
            view.recent.extend(entry);
        }
        Ok(true)
    }

    /// Goes on in the segment after the one that was read, or begins; false when there is none.
    fn next_segment(&mut self) -> Result<bool, TableError> {
        let (segments, _) =
            self.layout.list_segments().map_err(|error| TableError::Other(error.to_string()))?;
        if let Some(first) =
            segments.first().map(|segment| segment.first_seq).filter(|first| *first > self.first)
        {
            self.writer.forget_before(first)?;
            self.first = first;
        }
        let next = match (&self.lines, self.through) {
            (Some(lines), _) => {
                let after = lines.segment.first_seq;
                segments.into_iter().find(|next| next.first_seq > after).map(|segment| (segment, 0))
            }
            (None, Some(through)) if segments.iter().any(|segment| segment.first_seq == through.segment) => {
                Some((self.layout.segment(through.segment), through.end))
            }
            (None, Some(through)) => {
                segments.into_iter().find(|next| next.first_seq > through.segment).map(|segment| (segment, 0))
            }
            (None, None) => segments.into_iter().next().map(|segment| (segment, 0)),
        };
        let Some((segment, offset)) = next else { return Ok(false) };
        self.lines = Some(Lines::open_at(segment, offset)?);
        Ok(true)
    }

    fn is_due(&self) -> bool {
        self.gathered_entries >= COMMIT_ENTRIES
            || self.gathered_bytes >= COMMIT_BYTES
            || self.gathered > 0 && self.committed_at.elapsed() >= COMMIT_EVERY
    }

    fn commit(&mut self) -> Result<(), TableError> {
        self.committed_at = Instant::now();
        let (Some(through), true) = (self.through, self.gathered > 0) else { return Ok(()) };
        self.writer.commit(through)?;
        self.table.reload()?;
        (self.gathered, self.gathered_entries, self.gathered_bytes) = (0, 0, 0);
        if let Some(view) = &mut *self.searcher.view() {
            view.committed = through.seq;
            view.recent.clear();
        }
        Ok(())
    }
}

/// The last record that the index knows must be in the log as the index knew it.
fn check_same_log(layout: &Layout, through: &Through) -> Result<(), TableError> {
    let mut lines = Lines::open_at(layout.segment(through.segment), through.offset)?;
    let line = lines.next()?.filter(|line| line.complete);
    if line.is_some_and(|line| ChainHash::of_line(line.bytes) == through.hash) {
        Ok(())
    } else {
        Err(TableError::Other(format!("record {} is not the one that was indexed", through.seq)))
    }
}
