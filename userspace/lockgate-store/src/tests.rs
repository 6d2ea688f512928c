//! The contract on this crate's own store, and what only it can show: its files.

mod failing;
mod faults;
mod open;
mod proofs;
mod retention;

use crate::{
    Checkpoint, Integrity, Log, LogSettings, Record, SessionFilter, SessionSummary,
    contract::{self, Backend, OpenStore, sample},
    layout::Layout,
    search::{Found, Query},
};
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Custody, Hold},
    event::{Event, EventKind},
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

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

    fn search(&self, query: &Query) -> Result<Found, String> {
        self.0.reader().search(query).map_err(|error| error.to_string())
    }

    fn hold(&self, hold: &Hold) -> Result<(), String> {
        self.0.holds().place(hold).map_err(|error| error.to_string())
    }

    /// As the agent does it: planned, recorded, signed, removed.
    fn expire(&self, keep: Duration, now: Timestamp) -> Result<u64, String> {
        let told = |error: crate::StoreError| error.to_string();
        self.signed(self.0.reader().records().count() as u64)?;
        let plan = self.0.retention(keep, now).map_err(told)?;
        let mut removed = 0;
        for removal in self.0.prepare_removal(&plan, "schedule").map_err(told)? {
            let kind = EventKind::Custody(Box::new(Custody::Removed(removal.clone())));
            let announced = Event { at: now, session: None, kind };
            let seq = contract::record(&self.0, vec![announced], Durability::Synced)
                .map_err(|error| error.to_string())?;
            self.signed(seq)?;
            self.0.remove(&removal, seq).map_err(told)?;
            removed += removal.to - removal.from + 1;
        }
        Ok(removed)
    }

    fn verify(&self) -> Result<(), String> {
        let report = self.0.reader().verify(None).map_err(|error| error.to_string())?;
        (report.integrity == Integrity::Intact).then_some(()).ok_or_else(|| report.to_string())
    }
}

impl Segments {
    /// Waits until a head covers a record.
    fn signed(&self, seq: u64) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let note = self.0.reader().checkpoint().map_err(|error| error.to_string())?;
            if Checkpoint::covers(&note).is_ok_and(|size| size >= seq) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("record {seq} was not signed"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
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
