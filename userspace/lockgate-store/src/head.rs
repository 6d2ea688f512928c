//! The signed head on disk: the newest replaced whole, older ones kept in a history.
//!
//! Only ever called with a tip that is synced, so that after a crash the head never leads the log.

use crate::{
    error::{During, StoreError},
    layout::Layout,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

/// Older heads read at most: a year of minutes is 130 MB; what is past it was checked when it was newer.
const MAX_HISTORY_BYTES: u64 = 256 << 20;

fn newest(layout: &Layout) -> PathBuf {
    layout.head_dir.join("checkpoint")
}

fn history(layout: &Layout) -> PathBuf {
    layout.head_dir.join("history")
}

/// Replaces the newest head.
pub(crate) fn write(layout: &Layout, note: &str) -> io::Result<()> {
    let temporary = layout.head_dir.join("checkpoint.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(note.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, newest(layout))?;
    File::open(&layout.head_dir)?.sync_all()
}

/// Adds a head to the history. Notes are separated by an empty line of their own; what a crash or a full disk
/// left of one after the last separator is cut off first.
pub(crate) fn remember(layout: &Layout, note: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(history(layout))?;
    let len = file.metadata()?.len();
    let tail_start = len.saturating_sub(TAIL_BYTES);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(tail_start))?;
    (&mut file).take(TAIL_BYTES).read_to_end(&mut tail)?;
    let whole = match tail.windows(NOTE_END.len()).rposition(|window| window == NOTE_END.as_bytes()) {
        Some(at) => tail_start + (at + NOTE_END.len()) as u64,
        // Nothing that looks like a note: leave it to the verifier.
        None if tail_start > 0 => len,
        None => 0,
    };
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    file.write_all(format!("{note}{SEPARATOR}").as_bytes())?;
    file.sync_data()
}

/// Longer than two notes: holds the end of the last whole one.
const TAIL_BYTES: u64 = 4096;

/// A note's last newline and the separator. No note holds it inside.
const NOTE_END: &str = "\n\n\n";

/// Between notes of the history.
const SEPARATOR: &str = "\n\n";

/// The newest head, when there is one.
pub(crate) fn read(layout: &Layout) -> Result<Option<String>, StoreError> {
    let path = newest(layout);
    match fs::read_to_string(&path) {
        Ok(note) => Ok(Some(note)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).during("read the signed head", path),
    }
}

/// The history's notes, a torn last one left out.
pub(crate) fn read_history(layout: &Layout) -> Result<Vec<String>, StoreError> {
    let path = history(layout);
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => {
            file.take(MAX_HISTORY_BYTES).read_to_end(&mut text).during("read", &path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).during("read", path),
    }
    let text = String::from_utf8_lossy(&text);
    let mut notes = Vec::new();
    let mut rest = text.as_ref();
    while let Some((note, after)) = rest.split_once(NOTE_END) {
        notes.push(format!("{note}\n"));
        rest = after;
    }
    Ok(notes)
}
