//! Sessions as objects: when one has ended, its records go to an object store as JSON lines, the masked rows among them
//! where policy records rows, and the log keeps the hash.
//!
//! The log is what is recorded first; a recording is made from it, so nothing is lost while the store is away. What waits is
//! found again after a restart. One is written to the spool at a time, in parts of a bounded size.

use super::{Agent, follow, gate, note};
use anyhow::Context as _;
use lockgate_audit::Record;
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Custody, StoredRecording},
    event::EventKind,
};
use lockgate_store::{Objects, Reader};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{HashSet, VecDeque},
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A part of a recording at most, and so the spool: a session of days has several.
const PART_BYTES: u64 = 256 << 20;
/// Sessions that wait at most; the log is read no further while so many do.
const WAITING: usize = 10_000;
/// After the store did not take one.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Sessions that must be recorded, and run: remembered until they end.
const RUNNING: usize = 100_000;

/// How it goes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Progress {
    /// Where they go.
    pub(crate) to: String,
    /// Recordings stored since the start.
    pub(crate) stored: u64,
    /// Sessions whose recording waits.
    pub(crate) waiting: u64,
    /// Since when the oldest of them cannot be stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failing_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// True while sessions that must be recorded are refused.
    pub(crate) blocked: bool,
}

/// What a restart needs: everything up to `through` was looked at, and these wait.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cursor {
    through: u64,
    waiting: VecDeque<SessionId>,
    /// Sessions that must be recorded and had not ended.
    running: HashSet<SessionId>,
}

/// Stores what has ended, and what ends. Ends with the agent.
pub(super) async fn store(agent: Arc<Agent>) {
    if let Err(error) = work(&agent).await {
        // Nothing of it can fail but what a start would find: no thread, no directory.
        tracing::error!(error = format!("{error:#}"), "recordings are not stored");
        agent.evidence.blocked.set(Some(format!("{error:#}")));
    }
}

async fn work(agent: &Arc<Agent>) -> anyhow::Result<()> {
    let (Some(objects), Some(config)) = (&agent.evidence.recordings, &agent.config.evidence.recordings)
    else {
        return Ok(());
    };
    let spool = agent.config.store.dir.join("spool");
    fs::create_dir_all(&spool).with_context(|| format!("create {}", spool.display()))?;
    let place = spool.join("recordings.json");
    let mut cursor = Cursor::read(&place);
    let mut records = follow::records(agent.log.clone(), cursor.through + 1)?;
    agent.evidence.change(|state| {
        state.recordings = Some(Progress { to: objects.to().to_owned(), ..Progress::default() });
    });
    let mut failing: Option<(Timestamp, u32)> = None;
    loop {
        // What is ready is taken in; with nothing to store, the next record is waited for.
        while cursor.waiting.len() < WAITING {
            match records.try_recv() {
                Ok(record) => cursor.take(&record, config.all),
                Err(_) => break,
            }
        }
        let Some(session) = cursor.waiting.front().copied() else {
            match records.recv().await {
                Some(record) => cursor.take(&record, config.all),
                None => return Ok(()),
            }
            continue;
        };
        cursor.write(&place)?;
        let stored = one(agent, objects, session, &spool).await;
        let now = Timestamp::now();
        match &stored {
            Ok(()) => {
                cursor.waiting.pop_front();
                cursor.write(&place)?;
                failing = None;
            }
            Err(_) => {
                failing = Some(failing.map_or((now, 1), |(since, tries)| (since, tries.saturating_add(1))))
            }
        }
        let error = stored.err().map(|error| format!("{error:#}"));
        show(agent, &cursor, failing.map(|(since, _)| since), error, config.refuse_after);
        if let Some((_, tries)) = failing {
            tokio::time::sleep(RETRY.0.saturating_mul(1 << tries.min(10)).min(RETRY.1)).await;
        }
    }
}

fn show(
    agent: &Agent,
    cursor: &Cursor,
    since: Option<Timestamp>,
    error: Option<String>,
    refuse_after: Duration,
) {
    let blocked = since.zip(error.clone()).filter(|(since, _)| *since + refuse_after <= Timestamp::now());
    let changed =
        agent.evidence.blocked.set(blocked.as_ref().map(|(since, error)| format!("since {since}: {error}")));
    let waiting = cursor.waiting.len() as u64;
    match (changed, &blocked) {
        (true, Some((since, error))) => {
            tracing::error!(
                waiting,
                error,
                "recordings cannot be stored: sessions that must be recorded are refused"
            );
            note(agent, Custody::RecordingsBlocked { waiting, since: *since, error: error.clone() });
        }
        (true, None) => note(agent, Custody::RecordingsResumed),
        (false, _) => {}
    }
    metrics::gauge!(super::super::telemetry::RECORDINGS_WAITING).set(waiting as f64);
    metrics::gauge!(super::super::telemetry::RECORDINGS_BLOCKED).set(f64::from(u8::from(blocked.is_some())));
    agent.evidence.change(|state| {
        let progress = state.recordings.get_or_insert_default();
        progress.stored += u64::from(error.is_none());
        progress.waiting = waiting;
        progress.failing_since = since;
        progress.error = error;
        progress.blocked = blocked.is_some();
    });
}

/// Makes a session's recording and stores it, part by part.
async fn one(agent: &Arc<Agent>, objects: &Objects, session: SessionId, spool: &Path) -> anyhow::Result<()> {
    let (log, directory) = (agent.log.clone(), spool.to_owned());
    let parts =
        tokio::task::spawn_blocking(move || Parts::write(&log.reader(), session, &directory)).await??;
    let began = parts.began.unwrap_or_else(Timestamp::now).strftime("%Y-%m-%d").to_string();
    let count = parts.parts.len();
    for (number, part) in parts.parts.iter().enumerate() {
        // The name tells what is in it: the same again is the same object.
        let file = format!("{session}-{:03}-{}.jsonl", number + 1, part.sha256.get(..16).unwrap_or_default());
        let name = objects.name(&["recordings", agent.config.node.as_str(), &began, &file]);
        objects.put_file(&name, &part.path).await?;
        let stored = StoredRecording {
            session,
            part: u32::try_from(number + 1).unwrap_or(u32::MAX),
            last: number + 1 == count,
            name,
            bytes: part.bytes,
            records: part.records,
            sha256: part.sha256.clone(),
        };
        super::record(agent, Custody::RecordingStored(stored)).await?;
        metrics::counter!(super::super::telemetry::RECORDINGS_STORED).increment(1);
    }
    Ok(())
}

/// A part in the spool; gone from there with the value.
struct Part {
    path: PathBuf,
    bytes: u64,
    records: u64,
    sha256: String,
}

impl Drop for Part {
    fn drop(&mut self) {
        // The next start clears the spool.
        let _ = fs::remove_file(&self.path);
    }
}

struct Parts {
    parts: Vec<Part>,
    began: Option<Timestamp>,
}

/// The part that is written.
struct Open {
    path: PathBuf,
    file: BufWriter<File>,
    sha256: Sha256,
    bytes: u64,
    records: u64,
}

impl Open {
    fn new(spool: &Path, session: SessionId, number: usize) -> io::Result<Self> {
        let path = spool.join(format!("{session}.{number}"));
        let file = BufWriter::new(File::create(&path)?);
        Ok(Self { path, file, sha256: Sha256::new(), bytes: 0, records: 0 })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        for bytes in [line, b"\n"] {
            self.file.write_all(bytes)?;
            self.sha256.update(bytes);
            self.bytes += bytes.len() as u64;
        }
        self.records += 1;
        Ok(())
    }

    fn finish(mut self) -> io::Result<Part> {
        self.file.flush()?;
        let sha256 = self.sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Part { path: self.path, bytes: self.bytes, records: self.records, sha256 })
    }
}

impl Parts {
    fn write(reader: &Reader, session: SessionId, spool: &Path) -> anyhow::Result<Self> {
        let mut parts = Self { parts: Vec::new(), began: None };
        let mut open: Option<Open> = None;
        reader.session_lines(session, &mut |line, record| {
            parts.began.get_or_insert(record.event.at);
            if open.as_ref().is_some_and(|open| open.bytes >= PART_BYTES)
                && let Some(full) = open.take()
            {
                parts.parts.push(full.finish()?);
            }
            let part = match &mut open {
                Some(part) => part,
                None => open.insert(Open::new(spool, session, parts.parts.len() + 1)?),
            };
            part.line(line)
        })?;
        if let Some(last) = open {
            parts.parts.push(last.finish()?);
        }
        Ok(parts)
    }
}

impl Cursor {
    /// One that cannot be read begins anew: names tell what is in an object, so what is stored again is the same.
    fn read(place: &Path) -> Self {
        fs::read(place).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    fn write(&self, place: &Path) -> anyhow::Result<()> {
        let temporary = place.with_extension("new");
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        Ok(fs::rename(&temporary, place)?)
    }

    fn take(&mut self, record: &Record, all: bool) {
        self.through = record.seq;
        match (&record.event.kind, record.event.session) {
            (EventKind::SessionStarted(session), _)
                if (all || gate::is_required(session)) && self.running.len() < RUNNING =>
            {
                self.running.insert(session.id);
            }
            (EventKind::SessionEnded(_), Some(id)) if self.running.remove(&id) => self.waiting.push_back(id),
            _ => {}
        }
    }
}
