//! What an unorderly end leaves behind, and how it is put right before the first new record.
//!
//! Only the end of the last segment can be torn by a crash, and only after what the signed head covers.
//! What is torn there was never acknowledged; it is cut off and kept in `repairs/`. Damage anywhere else is not
//! a crash's: the log is then not opened, so that it stays evidence.

use crate::{
    error::{During, StoreError},
    layout::{Layout, Segment},
    lines::Lines,
};
use lockgate_audit::{ChainHash, Checkpoint, Tip};
use serde::Deserialize;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

/// Where the log goes on.
pub(crate) struct Recovered {
    pub(crate) tip: Tip,
    pub(crate) segment: Segment,
    /// None when the segment is to be made.
    pub(crate) len: Option<u64>,
    pub(crate) torn: Option<Torn>,
}

/// What was cut off.
pub(crate) struct Torn {
    pub(crate) bytes: u64,
    pub(crate) kept: PathBuf,
}

#[derive(Deserialize)]
struct Links {
    seq: u64,
    prev: ChainHash,
}

/// Finds the log's end and repairs it.
pub(crate) fn recover(layout: &Layout, head: Option<&Checkpoint>) -> Result<Recovered, StoreError> {
    let (mut segments, strangers) = layout.list_segments()?;
    for name in strangers.iter().filter(|name| name.ends_with(".remade")) {
        // A segment was being made anew; it did not take its place, so the old one stands.
        let path = layout.segments().join(name);
        fs::remove_file(&path).during("remove", path)?;
    }
    let Some(last) = segments.pop() else {
        return match head {
            Some(head) if head.tip.seq > 0 => {
                Err(damaged(layout, format!("no segment is left of {} signed records", head.tip.seq)))
            }
            _ => Ok(Recovered { tip: Tip::EMPTY, segment: layout.segment(1), len: None, torn: None }),
        };
    };
    let before = match segments.last() {
        Some(before) => end_of(layout, before)?,
        None => Tip::EMPTY,
    };
    if before.seq + 1 != last.first_seq {
        let what = format!("segment {} follows record {}", last.name(), before.seq);
        return Err(damaged(layout, what));
    }
    let (tip, valid, signed_hash) = follow(&last, before, head)?;
    if let Some(head) = head {
        let signed_hash = if head.tip.seq == before.seq { Some(before.hash) } else { signed_hash };
        if head.tip.seq > tip.seq {
            let what = format!("the signed head covers {} records, only {} are whole", head.tip.seq, tip.seq);
            return Err(damaged(layout, what));
        }
        if signed_hash.is_some_and(|hash| hash != head.tip.hash) {
            return Err(damaged(layout, format!("record {} is not the one that was signed", head.tip.seq)));
        }
    }
    let torn = cut(layout, &last, valid)?;
    Ok(Recovered { tip, segment: last, len: Some(valid), torn })
}

/// Follows the links through a segment: the last record that holds, where it ends, and the hash of the record
/// that the head covers last, when it is in this segment.
fn follow(
    segment: &Segment,
    mut tip: Tip,
    head: Option<&Checkpoint>,
) -> Result<(Tip, u64, Option<ChainHash>), StoreError> {
    let mut lines = Lines::open(segment.clone()).during("open", &segment.path)?;
    let (mut valid, mut signed_hash) = (0, None);
    while let Some(line) = lines.next().during("read", &segment.path)? {
        let Ok(links) = serde_json::from_slice::<Links>(line.bytes) else { break };
        if !line.complete || links.seq != tip.seq + 1 || links.prev != tip.hash {
            break;
        }
        tip = Tip { seq: links.seq, hash: ChainHash::of_line(line.bytes) };
        if head.is_some_and(|head| head.tip.seq == tip.seq) {
            signed_hash = Some(tip.hash);
        }
        valid = lines.offset;
    }
    Ok((tip, valid, signed_hash))
}

/// The last record of a segment that is whole.
fn end_of(layout: &Layout, segment: &Segment) -> Result<Tip, StoreError> {
    let mut lines = Lines::open(segment.clone()).during("open", &segment.path)?;
    let mut last = None;
    while let Some(line) = lines.next().during("read", &segment.path)? {
        last = line.complete.then(|| line.bytes.to_vec());
    }
    last.and_then(|line| {
        let links = serde_json::from_slice::<Links>(&line).ok()?;
        Some(Tip { seq: links.seq, hash: ChainHash::of_line(&line) })
    })
    .ok_or_else(|| damaged(layout, format!("segment {} does not end in a record", segment.name())))
}

/// Cuts off what is after the last record that holds, keeping it in `repairs/`.
fn cut(layout: &Layout, segment: &Segment, valid: u64) -> Result<Option<Torn>, StoreError> {
    let path = &segment.path;
    let mut file = OpenOptions::new().read(true).write(true).open(path).during("open", path)?;
    let bytes = file.metadata().during("read", path)?.len().saturating_sub(valid);
    if bytes == 0 {
        // The last agent may have died before it synced what it wrote.
        file.sync_data().during("sync", path)?;
        return Ok(None);
    }
    let repairs = layout.repairs();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&repairs).during("create", &repairs)?;
    let kept = repairs.join(format!("{}.{valid}", segment.name()));
    let keep = |file: &mut File| -> io::Result<()> {
        file.seek(SeekFrom::Start(valid))?;
        let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&kept)?;
        io::copy(&mut file.take(bytes), &mut copy)?;
        copy.flush()?;
        copy.sync_all()
    };
    keep(&mut file).during("keep the torn end in", &kept)?;
    file.set_len(valid).during("cut the torn end off", path)?;
    file.sync_all().during("sync", path)?;
    Ok(Some(Torn { bytes, kept }))
}

fn damaged(layout: &Layout, what: String) -> StoreError {
    StoreError::Damaged { dir: layout.dir.clone(), what }
}
