//! A page of hits: from what is not in the index yet, then from the index, each candidate read from the log again.

use super::{
    Found, Query,
    entry::{Entry, peek},
    keep::{Read, Searcher},
    known::{Known, Memory},
    matching::Wanted,
    table::{Table, TableError},
};
use crate::{
    error::{During, StoreError},
    layout::{At, Layout},
    lines::{Lines, line_at},
};
use lockgate_audit::Record;
use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How long the log's end is read at most when the index is behind; then the answer says that it is not complete.
const TAIL_FOR: Duration = if cfg!(test) { Duration::from_secs(60) } else { Duration::from_millis(100) };

/// Candidates that are read from the log for one page at most. More than a page's are needed where the index says more than
/// the log holds; the next page goes on behind them.
const MAX_CANDIDATES: usize = 5_000;

/// Candidates taken from the index at once, in multiples of what the page lacks.
const SPARE: usize = 2;

impl Searcher {
    /// A page; None when there is no index to ask.
    pub(crate) fn search(&self, layout: &Layout, query: &Query) -> Option<Result<Found, StoreError>> {
        let began = Instant::now();
        let wanted = Wanted::of(query);
        let (table, committed, recent, read) = {
            let view = self.view();
            let view = view.as_ref()?;
            (view.table.clone(), view.committed, view.recent.clone(), view.read)
        };
        let mut page = Page { wanted, layout, entries: Vec::new(), more: false, stopped: None };
        let written = self.written.load(Ordering::Acquire);
        let tail = match page.tail(&table, read, &recent, written) {
            Ok(tail) => tail,
            Err(error) => return Some(Err(error)),
        };
        page.take_newest(tail.entries.into_iter().rev());
        page.take_newest(recent.into_iter().rev());
        // What tantivy was given to read may be damaged since it was opened.
        let asked = std::panic::catch_unwind(AssertUnwindSafe(|| page.indexed(&table, committed)))
            .unwrap_or_else(|_| Err(TableError::Other("it panicked".into())));
        if let Err(error) = asked {
            self.broken(&error);
            return None;
        }
        Some(Ok(page.found(committed, written, tail.complete, began)))
    }
}

struct Tail {
    entries: Vec<Arc<Entry>>,
    complete: bool,
}

struct Page<'a> {
    wanted: Wanted,
    layout: &'a Layout,
    /// Hits, newest first.
    entries: Vec<Arc<Entry>>,
    /// Something older fits, or may fit.
    more: bool,
    /// The page ended here for other reasons than that it is full.
    stopped: Option<u64>,
}

impl Page<'_> {
    fn lacks(&self) -> usize {
        self.wanted.query.limit().saturating_sub(self.entries.len())
    }

    fn take_newest(&mut self, entries: impl Iterator<Item = Arc<Entry>>) {
        for entry in entries.filter(|entry| self.wanted.admits(entry)).collect::<Vec<_>>() {
            if self.lacks() == 0 {
                self.more = true;
                return;
            }
            self.entries.push(entry);
        }
    }

    /// What the index's thread has not read, oldest first.
    fn tail(
        &self,
        table: &Table,
        read: Read,
        recent: &[Arc<Entry>],
        written: u64,
    ) -> Result<Tail, StoreError> {
        let mut tail = Tail { entries: Vec::new(), complete: true };
        if self.wanted.query.before.is_some_and(|before| before <= read.seq + 1) {
            return Ok(tail);
        }
        let mut memory = Memory::default();
        memory.learn(recent);
        let mut known = Known { memory: &mut memory, index: Some((table, self.layout)) };
        let began = Instant::now();
        let (segments, _) = self.layout.list_segments()?;
        for segment in segments.into_iter().filter(|segment| segment.first_seq >= read.end.segment) {
            let offset = if segment.first_seq == read.end.segment { read.end.offset } else { 0 };
            let path = segment.path.clone();
            let number = segment.first_seq;
            let mut lines = Lines::open_at(segment, offset).during("open", &path)?;
            while let Some(line) = lines.next().during("read", &path)?
                && line.complete
            {
                if began.elapsed() > TAIL_FOR {
                    tail.complete = false;
                    return Ok(tail);
                }
                let Ok((seq, kind)) = peek(line.bytes) else { continue };
                if seq > written {
                    return Ok(tail);
                }
                let at = At { segment: number, offset: line.place.offset };
                let record = kind.filter(|_| seq > read.seq).zip(Record::decode(line.bytes).ok());
                if let Some((kind, record)) = record {
                    tail.entries.push(Arc::new(Entry::of(&record, kind, at, &mut known)));
                }
            }
        }
        Ok(tail)
    }

    /// What is committed: candidates, until the page is full.
    fn indexed(&mut self, table: &Table, committed: u64) -> Result<(), TableError> {
        if self.lacks() == 0 && self.more {
            return Ok(());
        }
        let segments = self.layout.list_segments().map_err(|error| TableError::Other(error.to_string()))?.0;
        let first = segments.first().map_or(1, |segment| segment.first_seq);
        let mut before =
            self.wanted.query.before.map_or(committed.saturating_add(1), |b| b.min(committed + 1));
        let mut memory = Memory::default();
        let mut looked_at = 0;
        while before > first {
            let limit = (self.lacks() + 1) * SPARE;
            let candidates = table.candidates(&self.wanted, first, before, limit)?;
            let last = candidates.len() < limit;
            for (seq, at) in candidates {
                if looked_at >= MAX_CANDIDATES {
                    self.stopped = Some(before);
                    return Ok(());
                }
                (before, looked_at) = (seq, looked_at + 1);
                // A record that an index names twice is one record.
                if self.entries.last().is_some_and(|last| last.hit.seq <= seq) {
                    continue;
                }
                if let Some(entry) = self.confirm(table, &mut memory, seq, at)? {
                    if self.lacks() == 0 {
                        self.more = true;
                        return Ok(());
                    }
                    self.entries.push(entry);
                }
            }
            if last {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a candidate from the log: what is not there, or does not fit, is no hit.
    fn confirm(
        &self,
        table: &Table,
        memory: &mut Memory,
        seq: u64,
        at: At,
    ) -> Result<Option<Arc<Entry>>, TableError> {
        let Some(line) = line_at(self.layout, at)? else { return Ok(None) };
        let Ok((_, Some(kind))) = peek(&line) else { return Ok(None) };
        let Some(record) = Record::decode(&line).ok().filter(|record| record.seq == seq) else {
            return Ok(None);
        };
        let mut known = Known { memory, index: Some((table, self.layout)) };
        let entry = Entry::of(&record, kind, at, &mut known);
        Ok(self.wanted.admits(&entry).then(|| Arc::new(entry)))
    }

    fn found(self, indexed: u64, last: u64, complete: bool, began: Instant) -> Found {
        let next = self.entries.last().filter(|_| self.more).map(|entry| entry.hit.seq);
        let next = self.stopped.or(next);
        let hits = self.entries.into_iter().map(|entry| Entry::clone(&entry).into_hit()).collect();
        let elapsed_micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Found { hits, next, indexed, last, complete, elapsed_micros }
    }
}

/// The same without an index: one pass over the log's last segments, in memory that grows with the page.
pub(crate) fn scan(layout: &Layout, query: &Query, most: usize) -> Result<Found, StoreError> {
    let began = Instant::now();
    let wanted = Wanted::of(query);
    let mut memory = Memory::default();
    let mut known = Known { memory: &mut memory, index: None };
    let limit = query.limit();
    let (mut entries, mut last) = (VecDeque::with_capacity(limit + 1), 0);
    let (segments, _) = layout.list_segments()?;
    let left_out = segments.len().saturating_sub(most);
    for segment in segments.into_iter().skip(left_out) {
        let (path, number) = (segment.path.clone(), segment.first_seq);
        let mut lines = Lines::open(segment).during("open", &path)?;
        while let Some(line) = lines.next().during("read", &path)?
            && line.complete
        {
            let Ok((seq, kind)) = peek(line.bytes) else { continue };
            last = seq;
            let Some((kind, record)) = kind.zip(Record::decode(line.bytes).ok()) else { continue };
            let at = At { segment: number, offset: line.place.offset };
            let entry = Entry::of(&record, kind, at, &mut known);
            if wanted.admits(&entry) {
                entries.push_back(Arc::new(entry));
            }
            if entries.len() > limit + 1 {
                entries.pop_front();
            }
        }
    }
    let more = entries.len() > limit;
    if more {
        entries.pop_front();
    }
    let page = Page { wanted, layout, entries: entries.into_iter().rev().collect(), more, stopped: None };
    let indexed = if left_out == 0 { last } else { 0 };
    Ok(page.found(indexed, last, left_out == 0, began))
}
