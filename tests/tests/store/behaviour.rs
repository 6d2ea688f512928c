//! The suite that both backends pass, on this one.

use crate::place::{NODE, OWNER, PATIENCE, Place, last, until};
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Custody, Hold},
    event::{Event, EventKind},
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use lockgate_store::{
    Integrity, Log, LogSettings, Reader, Record, SessionFilter, SessionSummary, StoreError,
    contract::{self, Backend, OpenStore, sample},
    postgres::{Drain, Shared, export},
    search::{Found, Query},
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use std::{path::PathBuf, sync::Arc, time::Duration};

struct Node {
    place: Place,
    _temporary: tempfile::TempDir,
    dir: PathBuf,
}

impl Backend for Node {
    fn open(&self) -> Result<Arc<dyn OpenStore>, String> {
        let settings = LogSettings { segment_bytes: 4096, ..LogSettings::new(&self.dir, NODE.into()) };
        let log = Log::open(settings, Arc::new(sample::FixedAmbient::default())).map_err(told)?;
        let drain = self.place.drain(&log, 64 << 20).map_err(|error| error.to_string())?;
        let shared = self.place.shared();
        let own = Shared::new(self.place.address(&crate::place::agent(NODE))).of_node(NODE.into());
        Ok(Arc::new(Drained { drain, log, shared, own }))
    }
}

struct Drained {
    drain: Drain,
    log: Log,
    /// As the owner.
    shared: Shared,
    /// As the agent itself.
    own: Shared,
}

impl Drained {
    /// What was recorded is there.
    fn caught_up(&self) -> Result<&Self, String> {
        let wanted = last(&self.log.reader());
        let there = self.drain.wait_for(wanted, PATIENCE);
        there
            .then_some(self)
            .ok_or_else(|| format!("record {wanted} did not arrive: {:?}", self.drain.status()))
    }
}

impl Drained {
    /// A head that covers a record is there.
    fn signed(&self, seq: u64) -> Result<(), String> {
        let there =
            || self.shared.chains().is_ok_and(|chains| chains.iter().any(|chain| chain.signed >= seq));
        until("the head arrives", there).map_err(|error| error.to_string())
    }
}

impl Recorder for Drained {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        self.log.record(events, durability)
    }

    fn submit(&self, events: Vec<Event>) {
        self.log.submit(events);
    }
}

impl OpenStore for Drained {
    fn close(&self) -> Result<(), String> {
        self.log.close().map_err(told)
    }

    fn records(&self) -> Result<Vec<Record>, String> {
        self.caught_up()?.shared.records(&NODE.into()).map_err(told)
    }

    fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, String> {
        self.caught_up()?.own.sessions(filter).map_err(told)
    }

    fn session(&self, id: SessionId) -> Result<Vec<Record>, String> {
        self.caught_up()?.own.session(id).map_err(told)
    }

    fn search(&self, query: &Query) -> Result<Found, String> {
        self.caught_up()?.own.search(query).map_err(told)
    }

    fn hold(&self, hold: &Hold) -> Result<(), String> {
        self.shared.place(hold).map_err(told)
    }

    /// Planned; recorded by the node and signed; removed. Nothing goes before it was said.
    fn expire(&self, keep: Duration, now: Timestamp) -> Result<u64, String> {
        let (seq, mut removed) = (last(&self.log.reader()), 0);
        self.signed(seq)?;
        let expired = self.shared.retention(keep, now, "schedule").map_err(told)?;
        for week in expired.weeks.iter().filter(|week| week.kept.is_none()) {
            if !week.removals.is_empty() && self.shared.remove(week, now).is_ok() {
                return Err("a week went before its nodes said so".to_owned());
            }
            for (node, removal) in &week.removals {
                assert_eq!(node.as_str(), NODE);
                let kind = EventKind::Custody(Box::new(Custody::Removed(removal.clone())));
                let event = Event { at: now, session: None, kind };
                let seq = contract::record(&self.log, vec![event], Durability::Synced)
                    .map_err(|error| error.to_string())?;
                self.signed(seq)?;
            }
            self.shared.remove(week, now).map_err(told)?;
            removed += week.records;
        }
        Ok(removed)
    }

    /// From an export alone, as an auditor would.
    fn verify(&self) -> Result<(), String> {
        let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
        let dir = temporary.path().join("export");
        export(&self.caught_up()?.shared, &NODE.into(), &dir, &mut |_, _| {}).map_err(told)?;
        let key = self.log.public_key().clone();
        let report = Reader::open(&dir).and_then(|reader| reader.verify(Some(key))).map_err(told)?;
        (report.integrity == Integrity::Intact).then_some(()).ok_or_else(|| report.to_string())
    }
}

fn told(error: StoreError) -> String {
    error.to_string()
}

#[test]
fn the_contract_holds_in_postgresql() {
    let server = TestPostgres::start(PostgresOptions::new()).unwrap();
    server.psql(&format!("CREATE ROLE {OWNER} LOGIN CREATEROLE")).unwrap();
    let server = Arc::new(server);
    contract::check(|| {
        let place = Place::on(server.clone()).unwrap();
        place.make_ready().unwrap();
        // The sample's weeks, whatever week it is now.
        for n in 0..13 {
            let make = format!("SELECT lockgate.make_week('{}')", contract::week(n));
            place.psql_as(OWNER, &make).unwrap();
        }
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("store");
        Node { place, _temporary: temporary, dir }
    });
}
