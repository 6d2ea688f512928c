//! The contract on this crate's own store, and what only it can show: its files.

mod failing;
mod faults;
mod open;
mod proofs;
mod retention;

use crate::{
    Log, LogSettings, Record, SessionFilter, SessionSummary,
    contract::{self, Backend, OpenStore, sample},
    layout::Layout,
};
use lockgate_model::{
    SessionId,
    event::Event,
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use std::{path::PathBuf, sync::Arc};

/// A directory that goes with the value.
struct Directory {
    _temporary: tempfile::TempDir,
    dir: PathBuf,
    segment_bytes: u64,
}

impl Directory {
    fn new(segment_bytes: u64) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("store");
        Self { _temporary: temporary, dir, segment_bytes }
    }

    fn settings(&self) -> LogSettings {
        LogSettings { segment_bytes: self.segment_bytes, ..LogSettings::new(&self.dir, "build-7".into()) }
    }

    fn layout(&self) -> Layout {
        Layout::new(&self.dir, None)
    }
}

impl Backend for Directory {
    fn open(&self) -> Result<Arc<dyn OpenStore>, String> {
        match Log::open(self.settings(), Arc::new(sample::FixedAmbient::default())) {
            Ok(log) => Ok(Arc::new(Segments(log))),
            Err(error) => Err(error.to_string()),
        }
    }
}

struct Segments(Log);

impl Recorder for Segments {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        self.0.record(events, durability)
    }

    fn submit(&self, events: Vec<Event>) {
        self.0.submit(events);
    }
}

impl OpenStore for Segments {
    fn close(&self) -> Result<(), String> {
        self.0.close().map_err(|error| error.to_string())
    }

    fn records(&self) -> Result<Vec<Record>, String> {
        self.0.reader().records().collect::<Result<_, _>>().map_err(|error| error.to_string())
    }

    fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, String> {
        self.0.reader().sessions(filter).map_err(|error| error.to_string())
    }

    fn session(&self, id: SessionId) -> Result<Vec<Record>, String> {
        self.0.reader().session(id).map_err(|error| error.to_string())
    }
}

#[test]
fn the_contract_holds() {
    contract::check(|| Directory::new(32 << 20));
}

#[test]
fn the_contract_holds_over_many_small_segments() {
    contract::check(|| Directory::new(4096));
}
