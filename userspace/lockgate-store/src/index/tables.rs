//! sled, and the only file that knows it.
//!
//! Its flusher thread is off (`flush_every_ms(None)`): it would end or abort on an IO error where nobody hears
//! it. Everything is flushed by the index's own thread, which takes the error. Opening a damaged database can
//! panic inside sled; that counts as an error, and the index is built anew.

use super::{IndexError, Live, Through};
use crate::session::{SessionFilter, SessionSummary};
use lockgate_audit::ChainHash;
use lockgate_model::{RequestId, SessionId, Timestamp, operation::Digest};
use std::{collections::BTreeMap, ops::Bound, path::Path};

/// The shape of what is stored; another one is built anew from the log.
const FORMAT: &[u8] = b"2";

/// sled's page cache: the index is looked at seldom.
const CACHE_BYTES: u64 = 8 << 20;

/// The tables.
pub(super) struct Tables {
    db: sled::Db,
    /// `format`, `through`.
    meta: sled::Tree,
    /// Session id → summary, JSON.
    sessions: sled::Tree,
    /// Begin (microseconds, ordered) ‖ session id → nothing.
    by_start: sled::Tree,
    /// Session id ‖ segment → first offset ‖ last offset.
    extents: sled::Tree,
    /// Ids of sessions that have not ended.
    open: sled::Tree,
    /// Request id → session id, or nothing.
    requests: sled::Tree,
    /// Those of them that wait.
    waiting: sled::Tree,
    /// Name on the shelf → SHA-256 of what rests there.
    shelved: sled::Tree,
}

impl Tables {
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        std::panic::catch_unwind(|| Self::open_tables(path))
            .unwrap_or_else(|_| Err(IndexError::Tables("sled panicked while it was opened".into())))
    }

    fn open_tables(path: &Path) -> Result<Self, IndexError> {
        let db = sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .open()
            .map_err(failed)?;
        let tree = |name: &str| db.open_tree(name).map_err(failed);
        let tables = Self {
            meta: tree("meta")?,
            sessions: tree("sessions")?,
            by_start: tree("by_start")?,
            extents: tree("extents")?,
            open: tree("open")?,
            requests: tree("requests")?,
            waiting: tree("waiting")?,
            shelved: tree("shelved")?,
            db,
        };
        match tables.meta.get("format").map_err(failed)? {
            Some(format) if format == FORMAT => Ok(tables),
            None if tables.sessions.is_empty() => {
                tables.meta.insert("format", FORMAT).map_err(failed)?;
                Ok(tables)
            }
            _ => Err(IndexError::Tables("another format".into())),
        }
    }

    pub(super) fn through(&self) -> Result<Option<Through>, IndexError> {
        let Some(value) = self.meta.get("through").map_err(failed)? else { return Ok(None) };
        let mut fields = value.chunks(8);
        let mut number = || read_u64(fields.next());
        let (seq, segment, offset) = (number()?, number()?, number()?);
        let hash = value.get(24..).and_then(|hash| hash.try_into().ok()).ok_or_else(malformed)?;
        Ok(Some(Through { seq, segment, offset, hash: ChainHash(hash) }))
    }

    pub(super) fn put_through(&self, through: Through) -> Result<(), IndexError> {
        let mut value = Vec::with_capacity(56);
        for number in [through.seq, through.segment, through.offset] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        value.extend_from_slice(&through.hash.0);
        self.meta.insert("through", value).map_err(failed).map(drop)
    }

    pub(super) fn session(&self, id: SessionId) -> Result<Option<Live>, IndexError> {
        let id = id.to_string();
        let Some(summary) = self.sessions.get(&id).map_err(failed)? else { return Ok(None) };
        let mut live = Live::new(serde_json::from_slice(&summary).map_err(|_| malformed())?);
        for extent in self.extents.scan_prefix(&id) {
            let (key, value) = extent.map_err(failed)?;
            let (first, last) = (read_u64(value.get(..8))?, read_u64(value.get(8..))?);
            live.extents.insert(read_u64(key.get(id.len()..))?, (first, last));
        }
        Ok(Some(live))
    }

    pub(super) fn put_session(&self, live: &Live) -> Result<(), IndexError> {
        let id = live.summary.id.to_string();
        for (segment, (first, last)) in &live.extents {
            let key = [id.as_bytes(), &segment.to_be_bytes()].concat();
            let value = [first.to_be_bytes(), last.to_be_bytes()].concat();
            self.extents.insert(key, value).map_err(failed)?;
        }
        let summary =
            serde_json::to_vec(&live.summary).map_err(|error| IndexError::Tables(error.to_string()))?;
        self.sessions.insert(&id, summary).map_err(failed)?;
        self.by_start.insert(start_key(live.summary.started, &id), &[]).map_err(failed)?;
        match live.summary.ended {
            Some(_) => self.open.remove(&id).map_err(failed)?,
            None => self.open.insert(&id, &[]).map_err(failed)?,
        };
        Ok(())
    }

    pub(super) fn open_sessions(&self) -> Result<Vec<Live>, IndexError> {
        let mut sessions = Vec::new();
        for entry in &self.open {
            let (key, _) = entry.map_err(failed)?;
            sessions.push(self.session(read_id(&key)?)?.ok_or_else(malformed)?);
        }
        Ok(sessions)
    }

    pub(super) fn put_request(
        &self,
        request: RequestId,
        session: Option<SessionId>,
    ) -> Result<(), IndexError> {
        let session = session.map(|id| id.to_string()).unwrap_or_default();
        self.requests.insert(request.to_string(), session.as_bytes()).map_err(failed).map(drop)
    }

    pub(super) fn session_of(&self, request: RequestId) -> Result<Option<SessionId>, IndexError> {
        match self.requests.get(request.to_string()).map_err(failed)? {
            Some(session) if !session.is_empty() => read_id(&session).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) fn open_requests(&self) -> Result<BTreeMap<RequestId, Option<SessionId>>, IndexError> {
        let mut requests = BTreeMap::new();
        for entry in &self.waiting {
            let request = read_id(&entry.map_err(failed)?.0)?;
            requests.insert(request, self.session_of(request)?);
        }
        Ok(requests)
    }

    /// Few wait at a time: the table is written whole.
    pub(super) fn put_open_requests(
        &self,
        requests: &BTreeMap<RequestId, Option<SessionId>>,
    ) -> Result<(), IndexError> {
        for key in self.waiting.iter().keys() {
            let key = key.map_err(failed)?;
            if !requests.contains_key(&read_id(&key)?) {
                self.waiting.remove(key).map_err(failed)?;
            }
        }
        for request in requests.keys() {
            self.waiting.insert(request.to_string(), &[]).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn shelved(&self) -> Result<BTreeMap<String, Digest>, IndexError> {
        let read = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (name, digest) = entry.map_err(failed)?;
            let digest = (*digest).try_into().map_err(|_| malformed())?;
            Ok((read_id(&name)?, Digest(digest)))
        };
        self.shelved.iter().map(read).collect()
    }

    /// Few things rest at a time: the table is compared whole.
    pub(super) fn put_shelved(&self, shelved: &BTreeMap<String, Digest>) -> Result<(), IndexError> {
        for key in self.shelved.iter().keys() {
            let key = key.map_err(failed)?;
            if !shelved.contains_key(&read_id::<String>(&key)?) {
                self.shelved.remove(key).map_err(failed)?;
            }
        }
        for (name, digest) in shelved {
            if self.shelved.get(name).map_err(failed)?.as_deref() != Some(&digest.0[..]) {
                self.shelved.insert(name.as_str(), &digest.0[..]).map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(super) fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, IndexError> {
        let bound = |at: Option<Timestamp>| at.map(|at| start_key(at, ""));
        let from = bound(filter.since).map_or(Bound::Unbounded, Bound::Included);
        let to = bound(filter.until).map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for key in self.by_start.range((from, to)).keys().rev() {
            if found.len() >= filter.limit() {
                break;
            }
            let key = key.map_err(failed)?;
            let id = key.get(START_BYTES..).unwrap_or_default();
            let summary = self.sessions.get(id).map_err(failed)?.ok_or_else(malformed)?;
            let summary: SessionSummary = serde_json::from_slice(&summary).map_err(|_| malformed())?;
            if filter.admits_start(&summary) && filter.admits_state(&summary) {
                found.push(summary);
            }
        }
        Ok(found)
    }

    pub(super) fn flush(&self) -> Result<(), IndexError> {
        self.db.flush().map_err(failed).map(drop)
    }
}

/// Bytes of a begin in a key.
const START_BYTES: usize = 16;

/// Nanoseconds as an unsigned number that sorts like the time.
fn start_key(started: Timestamp, id: &str) -> Vec<u8> {
    let ordered = started.as_nanosecond().wrapping_sub(i128::MIN).cast_unsigned();
    [&ordered.to_be_bytes()[..], id.as_bytes()].concat()
}

fn read_u64(bytes: Option<&[u8]>) -> Result<u64, IndexError> {
    bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes).ok_or_else(malformed)
}

fn read_id<T: std::str::FromStr>(bytes: &[u8]) -> Result<T, IndexError> {
    str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed)
}

fn failed(error: sled::Error) -> IndexError {
    IndexError::Tables(error.to_string())
}

fn malformed() -> IndexError {
    IndexError::Tables("an entry is not of the shape it was written in".into())
}
