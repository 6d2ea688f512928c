//! Reads a store, beside a running agent or without one. Writes nothing, locks nothing; blocks on files, so
//! asynchronous callers ask from a blocking thread.

use crate::{
    error::{During, StoreError},
    fact::{Fact, FactKind},
    head,
    index::Shared,
    key,
    layout::{Layout, Segment},
    lines::{Line, Lines},
    removed::{self, Hashes},
    search::{self, Searcher},
    session::{SessionFilter, SessionSummary},
    tree::Tree,
};
use lockgate_audit::{
    Checkpoint, Growth, Inclusion, Place, ProofError, PublicKey, Record, Report, Verifier,
    tree::{self, Hash},
};
use lockgate_model::{RequestId, SessionId};
use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
};

/// Segments that a running agent searches when its search index is out of use: some 60 MB, read in a moment.
const SEARCHED_SEGMENTS: usize = if cfg!(test) { usize::MAX } else { 2 };

/// A verification tells how far it is after so many records: some milliseconds.
const TOLD_EVERY: u64 = 1_000;

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes that there were when it began.
    pub bytes_total: u64,
}

/// A store, for reading.
#[derive(Clone)]
pub struct Reader {
    layout: Layout,
    /// The running agent's; nobody else can have it open.
    index: Option<Shared>,
    searcher: Option<Searcher>,
}

impl Reader {
    /// Opens the log in `dir`, its signed head in the default place.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with_head(dir, None)
    }

    /// Opens the log in `dir`, its signed head in `head_dir`.
    pub fn open_with_head(dir: impl AsRef<Path>, head_dir: Option<&Path>) -> Result<Self, StoreError> {
        let layout = Layout::new(dir.as_ref(), head_dir);
        let segments = layout.segments();
        match std::fs::metadata(&segments) {
            Ok(_) => Ok(Self::of(layout)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::NotALog(layout.dir)),
            Err(error) => Err(error).during("open", segments),
        }
    }

    pub(crate) fn of(layout: Layout) -> Self {
        Self { layout, index: None, searcher: None }
    }

    pub(crate) fn indexed(layout: Layout, index: Shared, searcher: Option<Searcher>) -> Self {
        Self { layout, index: Some(index), searcher }
    }

    /// A page of hits, newest first. Without the running agent's index it is one pass over the log; an agent whose index
    /// is out of use looks at the newest records only, and says so.
    pub fn search(&self, query: &search::Query) -> Result<search::Found, StoreError> {
        let Some(searcher) = &self.searcher else { return search::scan(&self.layout, query, usize::MAX) };
        match searcher.search(&self.layout, query) {
            Some(found) => found,
            None => search::scan(&self.layout, query, SEARCHED_SEGMENTS),
        }
    }

    /// All records, oldest first, one at a time.
    pub fn records(&self) -> Records {
        Records::new(self.layout.clone(), 1)
    }

    /// Records from number `seq` on. After the end, `next` may be called again: it goes on when more was
    /// written.
    pub fn records_from(&self, seq: u64) -> Records {
        Records::new(self.layout.clone(), seq)
    }

    /// Records that are written from now on: `next` answers None until there is one.
    pub fn records_to_come(&self) -> Result<Records, StoreError> {
        let mut records = Records::new(self.layout.clone(), 1);
        if let Some(segment) = self.layout.list_segments()?.0.pop() {
            let path = segment.path.clone();
            records.current = Some(Lines::open_at_end(segment).during("open", path)?);
        }
        Ok(records)
    }

    /// Sessions, newest first. Without the running agent's index it is one pass over the log, in memory that
    /// grows with the filter's limit, not with the log.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, StoreError> {
        match self.index.as_ref().map(|index| index.sessions(filter)) {
            Some(Ok(sessions)) => Ok(sessions),
            Some(Err(_)) | None => self.scan_sessions(filter),
        }
    }

    fn scan_sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, StoreError> {
        let limit = filter.limit();
        // Whether a session is open is known at its end: then nothing may be dropped before.
        let keep = if filter.open.is_some() { usize::MAX } else { limit };
        let mut found: HashMap<SessionId, SessionSummary> = HashMap::new();
        let mut order = BTreeSet::new();
        for record in self.records() {
            let record = record?;
            let fact = Fact::of(&record.event);
            let Some(id) = fact.session else { continue };
            if let Some(session) = SessionSummary::begin(record.seq, &fact) {
                if !filter.admits_start(&session) || found.contains_key(&id) {
                    continue;
                }
                order.insert((session.started, id.to_string(), id));
                found.insert(id, session);
                if order.len() > keep
                    && let Some((_, _, oldest)) = order.pop_first()
                {
                    found.remove(&oldest);
                }
            } else if let Some(session) = found.get_mut(&id) {
                session.apply(record.seq, &fact);
            }
        }
        let newest_first = order.into_iter().rev().filter_map(|(_, _, id)| found.remove(&id));
        Ok(newest_first.filter(|session| filter.admits_state(session)).take(limit).collect())
    }

    /// Every record of a session, oldest first; empty when there is none.
    pub fn session(&self, id: SessionId) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        self.session_lines(id, &mut |_, record| {
            records.push(record);
            Ok(())
        })?;
        Ok(records)
    }

    /// The same, one at a time, each with its line as it rests. What retention removed is left out.
    pub fn session_lines(
        &self,
        id: SessionId,
        each: &mut dyn FnMut(&[u8], Record) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let name = id.to_string();
        let mut take = |segment: Segment, first: u64, last: u64| -> Result<(), StoreError> {
            let path = segment.path.clone();
            let mut lines = match Lines::open_at(segment, first) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                lines => lines.during("open", &path)?,
            };
            while lines.offset <= last
                && let Some(line) = lines.next().during("read", &path)?
            {
                // Most lines are other sessions': they need not be decoded.
                let mentions = str::from_utf8(line.bytes).is_ok_and(|text| text.contains(&name));
                if mentions && line.complete {
                    let record = decode(&self.layout, &line)?;
                    if Fact::of(&record.event).session == Some(id) {
                        each(line.bytes, record).during("take a record of", &path)?;
                    }
                }
            }
            Ok(())
        };
        match self.index.as_ref().map(|index| index.extents(id)) {
            Some(Ok(extents)) => {
                for (segment, (first, last)) in extents {
                    take(self.layout.segment(segment), first, last)?;
                }
            }
            Some(Err(_)) | None => {
                for segment in self.layout.list_segments()?.0 {
                    take(segment, 0, u64::MAX)?;
                }
            }
        }
        Ok(())
    }

    /// The session in which a request for approval was made.
    pub fn session_of(&self, request: RequestId) -> Result<Option<SessionId>, StoreError> {
        if let Some(Ok(session)) = self.index.as_ref().map(|index| index.session_of(request)) {
            return Ok(session);
        }
        for record in self.records() {
            let fact = Fact::of(&record?.event);
            if matches!(fact.kind, FactKind::Held(held) if held == request) {
                return Ok(fact.session);
            }
        }
        Ok(None)
    }

    /// Checks every line, every link and every signed head. Without a key the one beside the log is trusted,
    /// which proves nothing against somebody who could write there; the report says so.
    pub fn verify(&self, key: Option<PublicKey>) -> Result<Report, StoreError> {
        self.verify_with(key, &[])
    }

    /// The same with signed heads that were kept elsewhere: what was sent there must be in the log, or the log was cut,
    /// rolled back or forked.
    pub fn verify_with(&self, key: Option<PublicKey>, kept: &[String]) -> Result<Report, StoreError> {
        let whole = self.verify_watched(key, kept, &mut |_| true)?;
        whole.ok_or_else(|| StoreError::NotProven("the verification was stopped".to_owned()))
    }

    /// The same, telling now and then how far it is; None when `go_on` said that it should stop.
    pub fn verify_watched(
        &self,
        key: Option<PublicKey>,
        kept: &[String],
        go_on: &mut dyn FnMut(VerifyProgress) -> bool,
    ) -> Result<Option<Report>, StoreError> {
        let given = key.is_some();
        let key = match key {
            Some(key) => Some(key),
            None => key::public(&self.layout)?,
        };
        let mut verifier = Verifier::new(key);
        if !given {
            verifier.note(
                "the public key was taken from the store itself: compare it with a copy kept off this host"
                    .into(),
            );
        }
        // The heads first: a log that is being written then never looks shorter than its head.
        for note in head::read_history(&self.layout)? {
            verifier.checkpoint(&note);
        }
        match head::read(&self.layout)? {
            Some(note) => verifier.checkpoint(&note),
            None => verifier.head_unproven("the newest signed head is missing".into()),
        }
        kept.iter().for_each(|note| verifier.checkpoint(note));
        let (segments, strangers) = self.layout.list_segments()?;
        for name in strangers {
            let place = Place { segment: name, line: 0, offset: 0 };
            verifier.garbage(place, "a file that is no segment".into());
        }
        // Of segments that are being written, the size at the beginning.
        let sizes =
            segments.iter().map(|segment| std::fs::metadata(&segment.path).map_or(0, |file| file.len()));
        let mut progress = VerifyProgress { bytes_total: sizes.sum(), ..VerifyProgress::default() };
        for segment in segments {
            self.pass_removed(&mut verifier, segment.first_seq)?;
            let mut lines = Lines::open(segment.clone()).during("open", &segment.path)?;
            while let Some(line) = lines.next().during("read", &segment.path)? {
                progress.records += 1;
                progress.bytes += line.bytes.len() as u64 + 1;
                verifier.line(line.place, line.bytes, line.complete);
                if progress.records.is_multiple_of(TOLD_EVERY) && !go_on(progress) {
                    return Ok(None);
                }
            }
        }
        go_on(progress);
        Ok(Some(verifier.finish()))
    }

    /// Hands over the hashes of what retention removed before a segment. What is missing without them is a finding.
    fn pass_removed(&self, verifier: &mut Verifier, before: u64) -> Result<(), StoreError> {
        let last = verifier.last_seq();
        if before <= last + 1 {
            return Ok(());
        }
        let Some(hashes) = removed::covering(&self.layout, last + 1, before - 1)? else { return Ok(()) };
        let leaves = hashes.iter().map(Hashes::leaves).collect::<Result<Vec<_>, _>>()?;
        verifier.removed(before - 1, Some(&mut leaves.into_iter().flatten()));
        Ok(())
    }

    /// The newest signed head: a note.
    pub fn checkpoint(&self) -> Result<String, StoreError> {
        let none = || StoreError::NotProven("there is no signed head".to_owned());
        head::read(&self.layout)?.ok_or_else(none)
    }

    /// What verifies the signed head, as the store itself has it.
    pub fn public_key(&self) -> Result<Option<PublicKey>, StoreError> {
        key::public(&self.layout)
    }

    /// That a record is in the log that the newest head signs. It checks with the public key alone.
    pub fn prove(&self, seq: u64) -> Result<Inclusion, StoreError> {
        let (note, size) = self.signed()?;
        if seq == 0 || seq > size {
            let why = format!(
                "record {seq} is not among the {size} that are signed; the newest are within a second or two"
            );
            return Err(StoreError::NotProven(why));
        }
        let record = self.line(seq)?;
        let path = self.path_in(|tree| tree::inclusion(tree, seq - 1, size))?;
        let proof = Inclusion { record, seq, path, note };
        self.holds(proof.check(&self.own_key()?).is_ok())?;
        Ok(proof)
    }

    /// That the log goes on from an earlier head of it.
    pub fn prove_growth(&self, old: &str) -> Result<Growth, StoreError> {
        let (note, size) = self.signed()?;
        let before = Checkpoint::covers(old).map_err(|error| StoreError::NotProven(error.to_string()))?;
        if before > size {
            let why = format!(
                "the earlier head covers {before} records, the newest {size}: the log was cut, or it is another"
            );
            return Err(StoreError::NotProven(why));
        }
        let path = self.path_in(|tree| tree::consistency(tree, before, size))?;
        let proof = Growth { path, old: old.to_owned(), note };
        match proof.check(&self.own_key()?) {
            Ok(_) => Ok(proof),
            // The note that was handed in is not this log's: no fault of the tree.
            Err(ProofError::Note(error)) => Err(StoreError::NotProven(format!("the earlier head: {error}"))),
            Err(_) => self.holds(false).map(|()| proof),
        }
    }

    fn own_key(&self) -> Result<PublicKey, StoreError> {
        let none = || StoreError::NotProven("the store holds no public key".to_owned());
        self.public_key()?.ok_or_else(none)
    }

    /// What would prove nothing is not handed out. Either the hashes on disk are damaged, which is no harm, or the record is.
    fn holds(&self, proven: bool) -> Result<(), StoreError> {
        let why = || {
            let tree = self.layout.tree();
            format!(
                "the record and the hashes in {} do not fit the signed head: `lockgate audit verify` tells whether the log \
                 was touched; if it is intact, remove that directory and start the agent again, which makes it anew",
                tree.display()
            )
        };
        if proven { Ok(()) } else { Err(StoreError::NotProven(why())) }
    }

    /// Numbers of the records that hold this text, oldest first: so many at most.
    pub fn mentions(&self, text: &str, limit: usize) -> Result<Vec<u64>, StoreError> {
        let (segments, _) = self.layout.list_segments()?;
        let (finder, mut found) = (memchr::memmem::Finder::new(text.as_bytes()), Vec::new());
        for segment in segments {
            let (mut seq, path) = (segment.first_seq, segment.path.clone());
            let mut lines = Lines::open(segment).during("open", &path)?;
            while let Some(line) = lines.next().during("read", &path)?
                && line.complete
                && found.len() < limit
            {
                if finder.find(line.bytes).is_some() {
                    found.push(seq);
                }
                seq += 1;
            }
        }
        Ok(found)
    }

    fn signed(&self) -> Result<(String, u64), StoreError> {
        let note = self.checkpoint()?;
        let size = Checkpoint::covers(&note).map_err(|error| StoreError::NotProven(error.to_string()))?;
        Ok((note, size))
    }

    fn path_in(&self, path: impl FnOnce(&Tree) -> io::Result<Vec<Hash>>) -> Result<Vec<Hash>, StoreError> {
        path(&Tree::read(&self.layout)?).during("read the tree in", self.layout.tree())
    }

    fn line(&self, seq: u64) -> Result<Vec<u8>, StoreError> {
        let (segments, _) = self.layout.list_segments()?;
        let at = segments.partition_point(|segment| segment.first_seq <= seq).checked_sub(1);
        let missing = || StoreError::NotProven(format!("record {seq} is not in the log"));
        let segment = at.and_then(|at| segments.into_iter().nth(at)).ok_or_else(missing)?;
        let (first, path) = (segment.first_seq, segment.path.clone());
        let mut lines = Lines::open(segment).during("open", &path)?;
        for _ in first..seq {
            if lines.next().during("read", &path)?.is_none() {
                return Err(missing());
            }
        }
        let line = lines.next().during("read", &path)?.filter(|line| line.complete);
        line.map(|line| line.bytes.to_vec()).ok_or_else(missing)
    }
}

/// The records of a log, in order. A torn last line is not there yet; a damaged one is an error, and the next
/// call goes on after it. At the end `next` answers None, and may be asked again later.
pub struct Records {
    layout: Layout,
    from: u64,
    current: Option<Lines>,
    /// A later segment exists, so the current one is whole and only its rest is to be read.
    whole: bool,
}

impl Records {
    fn new(layout: Layout, from: u64) -> Self {
        Self { layout, from, current: None, whole: false }
    }

    /// The segment that holds `from`, or the one after the current.
    fn following(&self) -> Result<Option<Segment>, StoreError> {
        let (segments, _) = self.layout.list_segments()?;
        Ok(match &self.current {
            Some(lines) => segments.into_iter().find(|next| next.first_seq > lines.segment.first_seq),
            None => {
                let later = segments.partition_point(|segment| segment.first_seq <= self.from);
                segments.into_iter().nth(later.saturating_sub(1))
            }
        })
    }

    fn step(&mut self) -> Result<Option<Record>, StoreError> {
        loop {
            let Some(lines) = &mut self.current else {
                let Some(segment) = self.following()? else { return Ok(None) };
                self.current = Some(Lines::open(segment.clone()).during("open", segment.path)?);
                continue;
            };
            let path = lines.segment.path.clone();
            let start = lines.offset;
            match lines.next().during("read", &path)? {
                Some(line) if line.complete => {
                    let record = decode(&self.layout, &line)?;
                    if record.seq >= self.from {
                        return Ok(Some(record));
                    }
                }
                unfinished => {
                    let torn = unfinished.map(|line| line.place);
                    match self.following()? {
                        None => {
                            if let Some(lines) = &mut self.current {
                                lines.again(start).during("read", path)?;
                            }
                            return Ok(None);
                        }
                        Some(_) if !self.whole => {
                            self.whole = true;
                            if let Some(lines) = &mut self.current {
                                lines.again(start).during("read", path)?;
                            }
                        }
                        Some(segment) => {
                            self.whole = false;
                            self.current = Some(Lines::open(segment.clone()).during("open", segment.path)?);
                            if let Some(place) = torn {
                                let what =
                                    format!("{place}: a line has no end, and the log goes on after it");
                                return Err(StoreError::Damaged { dir: self.layout.dir.clone(), what });
                            }
                        }
                    }
                }
            }
        }
    }
}

fn decode(layout: &Layout, line: &Line<'_>) -> Result<Record, StoreError> {
    Record::decode(line.bytes).map_err(|error| StoreError::Damaged {
        dir: layout.dir.clone(),
        what: format!("{}: {error}", line.place),
    })
}

impl Iterator for Records {
    type Item = Result<Record, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}
