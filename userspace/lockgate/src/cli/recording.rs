//! Recordings as they rest in an object store, from files: replayed without an agent, and held against the log, which keeps
//! their hashes. Fetches nothing: whoever keeps the bucket has the tools for it.

use super::proofs::{self, Place};
use anyhow::{Context as _, bail, ensure};
use lockgate_audit::record::MAX_RECORD_BYTES;
use lockgate_model::{
    SessionId,
    custody::{Custody, StoredRecording},
    event::EventKind,
};
use lockgate_store::{Inclusion, PublicKey, Record};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

/// Records of one replay at most: they are in memory together.
const MAX_RECORDS: usize = 1_000_000;

/// The records of one session, part after part.
pub(super) fn records(files: &[PathBuf]) -> anyhow::Result<(SessionId, Vec<Record>)> {
    let mut records: Vec<Record> = Vec::new();
    for path in files {
        let name = || path.display().to_string();
        let mut lines = BufReader::new(File::open(path).with_context(name)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut lines)
                .take(MAX_RECORD_BYTES as u64 + 1)
                .read_until(b'\n', &mut line)
                .with_context(name)?;
            if read == 0 {
                break;
            }
            let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
            let record = Record::decode(bytes).with_context(name)?;
            ensure!(records.len() < MAX_RECORDS, "{}: more than {MAX_RECORDS} records", name());
            records.push(record);
        }
    }
    records.sort_by_key(|record| record.seq);
    records.dedup_by_key(|record| record.seq);
    let mut sessions: Vec<SessionId> = records.iter().filter_map(|record| record.event.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    match sessions[..] {
        [session] => Ok((session, records)),
        [] => bail!("no session is recorded in there"),
        [_, ..] => bail!("expected parts of one session, got {} sessions", sessions.len()),
    }
}

/// What the log says of a file.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) file: String,
    pub(super) sha256: String,
    /// The record that keeps its hash, proven to be in the log; none: the file is not what was stored.
    pub(super) record: Option<u64>,
    /// What was stored, by that record.
    pub(super) stored: Option<StoredRecording>,
}

/// Looks for the record that keeps a file's hash, and proves that the log holds it.
pub(super) fn held(place: &Place<'_>, key: &PublicKey, file: &Path) -> anyhow::Result<Held> {
    let sha256 = hash(file).with_context(|| file.display().to_string())?;
    let mut held = Held { file: file.display().to_string(), sha256, record: None, stored: None };
    for seq in place.mentions(&held.sha256)? {
        let proof: Inclusion = place.proof(seq)?.parse()?;
        let Ok((record, _)) = proof.check(key) else { continue };
        if let EventKind::Custody(custody) = record.event.kind
            && let Custody::RecordingStored(stored) = *custody
            && stored.sha256 == held.sha256
        {
            (held.record, held.stored) = (Some(record.seq), Some(stored));
            break;
        }
    }
    Ok(held)
}

fn hash(file: &Path) -> anyhow::Result<String> {
    let mut file = BufReader::new(File::open(file)?);
    let mut hash = Sha256::new();
    loop {
        let piece = file.fill_buf()?;
        if piece.is_empty() {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(piece);
        let read = piece.len();
        file.consume(read);
    }
}

/// The key that is to be believed: the one that was brought, or the log's own as its report names it.
pub(super) fn key(brought: Option<&Path>, report: &serde_json::Value) -> anyhow::Result<PublicKey> {
    match brought {
        Some(path) => proofs::public_key(path),
        None => {
            let key = report["public_key"].as_str().context("the report names no public key")?;
            key.parse().context("the report's public key")
        }
    }
}
