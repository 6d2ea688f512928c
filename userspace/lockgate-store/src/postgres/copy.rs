//! A host's log moves to the shared store, and comes back out of it as files that are verified without it.
//!
//! Moving reads the log as anybody may, beside its agent or without one, and goes on where the database's chain ends: what
//! was interrupted is called again. The bytes that arrive are the log's own.

use super::{
    connect::PostgresSettings,
    cursor::Cursor,
    shared::{Shared, unsigned},
    shipper::Shipper,
};
use crate::{
    Holds,
    error::{During, StoreError},
    head,
    layout::Layout,
    reader::Reader,
};
use lockgate_model::id::NodeName;
use serde::Serialize;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{BufWriter, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Segments of an export: as large as the log's own.
const SEGMENT_BYTES: u64 = 32 << 20;

/// What was moved, or written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Whose.
    pub node: NodeName,
    /// The last record.
    pub through: u64,
    /// Records that went just now.
    pub records: u64,
    /// Signed heads.
    pub heads: usize,
    /// Legal holds.
    pub holds: usize,
}

/// Moves the log of a directory. `progress` is told the last record that is there, and the last that is to come.
///
/// # Errors
/// When the log cannot be read, the node is not enrolled, or the database holds another log of it.
pub fn copy(
    dir: &Path,
    head_dir: Option<&Path>,
    to: &PostgresSettings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, StoreError> {
    let reader = Reader::open_with_head(dir, head_dir)?;
    let layout = Layout::new(dir, head_dir);
    let empty = || StoreError::NotProven(format!("the log in {} holds no record", dir.display()));
    let node = reader.records().next().ok_or_else(empty)??.node;
    let mut shipper = Shipper::open(&layout, &node, to)?;
    shipper.pass_removed()?;
    let before = shipper.through;
    loop {
        let (signed, _) = Cursor::signed(&layout)?;
        progress(shipper.through, signed);
        if shipper.ship_to_its_week()? == 0 {
            break;
        }
    }
    let heads = shipper.put_history()?;
    let shared = Shared::new(to.clone());
    let holds = Holds::of(&layout).all()?;
    for hold in &holds {
        shared.place(hold)?;
    }
    Ok(Copied {
        node,
        through: shipper.through,
        records: shipper.through - before,
        heads,
        holds: holds.len(),
    })
}

/// Writes a node's log as its own store would rest: what `lockgate audit verify --log DIR --key FILE` reads. The
/// directory must not be there yet.
///
/// # Errors
/// When the node has no log here, or the directory cannot be written.
pub fn export(
    from: &Shared,
    node: &NodeName,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, StoreError> {
    DirBuilder::new().mode(0o700).create(dir).during("create the directory", dir)?;
    let layout = Layout::new(dir, None);
    layout.create()?;
    // The heads before the records: what is written meanwhile only makes the log longer than they say.
    let heads = from.heads(node)?;
    let Some(newest) = heads.last() else {
        return Err(StoreError::NotProven(format!("there is no signed head of node {node} here")));
    };
    let signed = lockgate_audit::Checkpoint::covers(newest)
        .map_err(|error| StoreError::NotProven(error.to_string()))?;
    for note in &heads {
        head::remember(&layout, note).during("write the heads in", &layout.head_dir)?;
    }
    head::write(&layout, newest).during("write the signed head in", &layout.head_dir)?;
    if let Some(key) = from.log_key(node)? {
        let path = layout.keys().join("log.pub");
        fs::write(&path, format!("{key}\n")).during("write", path)?;
    }
    from.write_removed(node, &layout)?;
    let (mut through, mut records, mut segment) = (0, 0, None::<(BufWriter<File>, u64)>);
    loop {
        let lines = from.lines(node, through)?;
        if lines.is_empty() {
            break;
        }
        for (seq, line) in lines {
            let path = layout.segment(seq).path;
            // A hole is where retention removed: what comes after it begins a segment.
            let (file, bytes) =
                match segment.take().filter(|(_, bytes)| *bytes < SEGMENT_BYTES && seq == through + 1) {
                    Some(going) => going,
                    None => (BufWriter::new(create(&path).during("create", &path)?), 0),
                };
            let mut file = file;
            file.write_all(&line).and_then(|()| file.write_all(b"\n")).during("write", &path)?;
            segment = Some((file, bytes + line.len() as u64 + 1));
            (through, records) = (seq, records + 1);
        }
        progress(through, signed.max(through));
    }
    if let Some((mut file, _)) = segment {
        file.flush().during("write", layout.segments())?;
    }
    Ok(Copied { node: node.clone(), through, records, heads: heads.len(), holds: 0 })
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

impl Shared {
    /// A node's signed heads, oldest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn heads(&self, node: &NodeName) -> Result<Vec<String>, StoreError> {
        let node = node.as_str();
        let rows = self.with(|database| {
            database.ask("read the heads of", |client| async move {
                client
                    .query("SELECT note FROM lockgate.head WHERE node = $1 ORDER BY size, at", &[&node])
                    .await
            })
        })?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What verifies a node's heads, as the node said it first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn log_key(&self, node: &NodeName) -> Result<Option<String>, StoreError> {
        let node = node.as_str();
        let row = self.with(|database| {
            database.ask("read the key of", |client| async move {
                client.query_opt("SELECT key FROM lockgate.log_key WHERE node = $1", &[&node]).await
            })
        })?;
        Ok(row.map(|row| row.get(0)))
    }

    fn write_removed(&self, node: &NodeName, layout: &Layout) -> Result<(), StoreError> {
        let node = node.as_str();
        let rows = self.with(|database| {
            database.ask("read removed hashes of", |client| async move {
                client
                    .query(
                        "SELECT first, leaves FROM lockgate.removed WHERE node = $1 ORDER BY first",
                        &[&node],
                    )
                    .await
            })
        })?;
        let dir = layout.removed();
        if !rows.is_empty() {
            DirBuilder::new().mode(0o700).create(&dir).during("create the directory", &dir)?;
        }
        for row in rows {
            let path = dir.join(format!("{:020}.hashes", unsigned(row.get(0))));
            create(&path).and_then(|mut file| file.write_all(row.get(1))).during("write", path)?;
        }
        Ok(())
    }
}
