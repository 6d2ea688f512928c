//! Verifying without the host: heads that were kept elsewhere, and an export.

use anyhow::{Context as _, ensure};
use lockgate_audit::{Place, PublicKey, Report, Verifier, record::MAX_RECORD_BYTES};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

/// Heads of years are no more than this.
const MAX_HEADS_BYTES: u64 = 1 << 30;

/// Signed heads of a file: notes one after the other, as they are appended, or what a receiver of webhooks kept, one JSON
/// message a line, whole or its `data.checkpoint` alone.
pub(super) fn heads(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    file.take(MAX_HEADS_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("read {}", path.display()))?;
    let mut heads = Vec::new();
    if text.trim_start().starts_with('{') {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let message: Value =
                serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))?;
            let head = message["data"]["checkpoint"].as_str().or(message["checkpoint"].as_str());
            heads.push(
                head.with_context(|| format!("{}: no checkpoint in {line}", path.display()))?.to_owned(),
            );
        }
    } else {
        // A note holds one empty line: text, then signatures. The next note begins behind them.
        let mut parts =
            text.split("\n\n").map(|part| part.trim_matches('\n')).filter(|part| !part.is_empty());
        while let (Some(body), Some(signatures)) = (parts.next(), parts.next()) {
            heads.push(format!("{body}\n\n{signatures}\n"));
        }
    }
    ensure!(!heads.is_empty(), "{} holds no signed head", path.display());
    Ok(heads)
}

/// Checks an export: its records are linked, and end in, or hold, what a head signs. It may begin anywhere in the log.
pub(super) fn export(path: &Path, key: PublicKey, heads: &[String]) -> anyhow::Result<Report> {
    let mut verifier = Verifier::new(Some(key));
    heads.iter().for_each(|head| verifier.checkpoint(head));
    let mut lines = BufReader::new(File::open(path).with_context(|| format!("open {}", path.display()))?);
    let segment = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (mut line, mut offset, mut number) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let read = (&mut lines).take(MAX_RECORD_BYTES as u64 + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(verifier.finish());
        }
        number += 1;
        let complete = line.last() == Some(&b'\n');
        let bytes = line.strip_suffix(b"\n").unwrap_or(&line);
        if number == 1
            && let Some(first) =
                serde_json::from_slice::<Value>(bytes).ok().and_then(|record| record["seq"].as_u64())
        {
            verifier.begin_at(first);
        }
        verifier.line(Place { segment: segment.clone(), line: number, offset }, bytes, complete);
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_as_they_are_kept() {
        let note = |size: u32| {
            format!("lockgate-audit/x\n{size}\nroot=\nchain c=\ntime t\n\n— lockgate-audit/x sig{size}\n")
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("heads");
        std::fs::write(&path, format!("{}\n\n{}\n\n", note(1), note(2))).unwrap();
        assert_eq!(heads(&path).unwrap(), [note(1), note(2)]);
        let message = serde_json::json!({ "data": { "checkpoint": note(3) } });
        std::fs::write(&path, format!("{message}\n{}\n", serde_json::json!({ "checkpoint": note(4) })))
            .unwrap();
        assert_eq!(heads(&path).unwrap(), [note(3), note(4)]);
        for nothing in ["", "\n\n", "one line"] {
            std::fs::write(&path, nothing).unwrap();
            assert!(heads(&path).is_err(), "{nothing:?}");
        }
    }
}
