//! The thread that takes a node's log to the database, and what stands before the log while it cannot.

use super::{
    connect::PostgresSettings,
    cursor::{Cursor, bytes_after},
    shipper::Shipper,
};
use crate::{
    error::{During, StoreError},
    layout::{At, Layout},
    log::Log,
};
use lockgate_model::{
    Timestamp,
    event::Event,
    id::NodeName,
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
};
use serde::Serialize;
use std::{
    fs,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How often the log is looked at for more. A head is signed once a second; looking reads one small file.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A server that is away is tried again after this, then after twice as long, up to [`RETRY_AT_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_AT_MOST: Duration = Duration::from_secs(5);
/// How often partitions are made for the weeks to come.
const READY_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How often it is written down how much is there.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);
/// How often what waits is measured while there is nothing else to do.
const MEASURE_EVERY: Duration = Duration::from_millis(250);

/// How a log goes to the database.
#[derive(Clone, Debug)]
pub struct DrainSettings {
    /// Where to.
    pub place: PostgresSettings,
    /// Whose log it is.
    pub node: NodeName,
    /// Bytes that may wait here; past them records are refused.
    pub spool_bytes: u64,
}

/// How it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrainStatus {
    /// Where to: role, host, database.
    pub to: String,
    /// The last record that is committed there.
    pub through: u64,
    /// Bytes of records that are not there yet.
    pub waiting_bytes: u64,
    /// Whether so much waits that records are refused.
    pub full: bool,
    /// When a batch was committed last, or it was seen that there is none to commit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached_at: Option<Timestamp>,
    /// Why it does not go on now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

struct State {
    /// Whose log it is, and where what is there ends, for measuring alone: where it goes on, the database says.
    layout: Layout,
    place: Mutex<At>,
    /// The last record that is there, for retention: what is not there yet stays here.
    removable: Arc<AtomicU64>,
    status: Mutex<DrainStatus>,
    moved: Condvar,
    full: AtomicBool,
    stopping: AtomicBool,
    spool_bytes: u64,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, DrainStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn measure(&self) {
        let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes_after(&self.layout, place);
        let full = bytes > self.spool_bytes;
        let mut status = self.lock();
        (status.waiting_bytes, status.full) = (bytes, full);
        drop(status);
        if self.full.swap(full, Ordering::AcqRel) != full {
            match full {
                true => {
                    tracing::error!(bytes, bound = self.spool_bytes, "the spool is full: records are refused")
                }
                false => tracing::info!(bytes, "the spool has room again: records are taken"),
            }
        }
    }

    fn reached(&self, through: u64, place: Option<At>) {
        if let Some(place) = place {
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }
        self.removable.store(through, Ordering::Release);
        let mut status = self.lock();
        if status.error.take().is_some() {
            tracing::info!(through, "the database takes records again");
        }
        status.through = through;
        status.reached_at = Some(Timestamp::now());
        drop(status);
        self.moved.notify_all();
    }

    fn failed(&self, error: &StoreError) {
        let text = error.to_string();
        let mut status = self.lock();
        if status.error.as_ref() != Some(&text) {
            tracing::warn!(%error, "records wait in the spool");
            status.error = Some(text);
        }
        drop(status);
        self.moved.notify_all();
    }

    /// Waits, unless it is to end.
    fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while !self.stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
    }
}

/// A running drain. Dropping it ends it; what is not there by then goes with the next one.
pub struct Drain {
    state: Arc<State>,
    layout: Layout,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts it. Whether the database can be reached is seen later: a node starts without it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(log: &Log, settings: DrainSettings) -> Result<Self, StoreError> {
        let layout = log.layout().clone();
        let (through, place) = remembered(&layout);
        log.removable().store(through, Ordering::Release);
        let status = DrainStatus { to: settings.place.describe(), through, ..DrainStatus::default() };
        let state = Arc::new(State {
            layout: layout.clone(),
            place: Mutex::new(place),
            removable: log.removable().clone(),
            status: Mutex::new(status),
            moved: Condvar::new(),
            full: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            spool_bytes: settings.spool_bytes,
        });
        // Before anybody records: a spool that was full is still.
        state.measure();
        let (own, followed) = (state.clone(), layout.clone());
        let thread = thread::Builder::new()
            .name("audit-drain".into())
            .spawn(move || run(&own, &followed, &settings))
            .during("start a thread for", &layout.dir)?;
        Ok(Self { state, layout, thread: Some(thread) })
    }

    /// How it goes.
    pub fn status(&self) -> DrainStatus {
        self.state.lock().clone()
    }

    /// The log as a recorder that refuses while more waits here than may.
    pub fn before(&self, log: Arc<dyn Recorder>) -> Spooled {
        Spooled { log, state: self.state.clone() }
    }

    /// Waits until a record is committed there; false when it was not by then.
    pub fn wait_for(&self, seq: u64, within: Duration) -> bool {
        let status = self.state.lock();
        let waited = self.state.moved.wait_timeout_while(status, within, |status| status.through < seq);
        waited.unwrap_or_else(PoisonError::into_inner).0.through >= seq
    }

    /// Ends it, once what the log's head covers is there or the time is over. True when all is there.
    pub fn stop(&mut self, within: Duration) -> bool {
        let last = Cursor::signed(&self.layout).map_or(u64::MAX, |(size, _)| size);
        let status = self.state.lock();
        // A database that is away is not waited for.
        let going = |status: &mut DrainStatus| status.through < last && status.error.is_none();
        let waited = self.state.moved.wait_timeout_while(status, within, going);
        let all = waited.unwrap_or_else(PoisonError::into_inner).0.through >= last;
        self.end();
        all
    }

    fn end(&mut self) {
        self.state.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there was told by the hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(state: &State, layout: &Layout, settings: &DrainSettings) {
    let mut retry = RETRY_FIRST;
    while !state.stopping() {
        match Shipper::open(layout, &settings.node, &settings.place) {
            Ok(shipper) => match follow(state, shipper) {
                Ok(()) => return,
                Err(error) => {
                    state.failed(&error);
                    retry = RETRY_FIRST;
                }
            },
            Err(error) => state.failed(&error),
        }
        let until = Instant::now() + retry;
        while !state.stopping() && Instant::now() < until {
            state.measure();
            state.pause(MEASURE_EVERY.min(retry));
        }
        retry = (retry * 2).min(RETRY_AT_MOST);
    }
}

/// Until it is to end, or something fails.
fn follow(state: &State, mut shipper: Shipper) -> Result<(), StoreError> {
    let (mut ready_at, mut measured_at, mut remembered_at) =
        (Instant::now(), None::<Instant>, None::<Instant>);
    loop {
        let shipped = shipper.ship()?;
        state.reached(shipper.through, shipper.place());
        if shipped > 0 || measured_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            state.measure();
            measured_at = Some(Instant::now());
        }
        let ending = shipped == 0 && state.stopping();
        if ending || remembered_at.is_none_or(|at| at.elapsed() >= REMEMBER_EVERY) {
            remember(&state.layout, shipper.through, shipper.place());
            remembered_at = Some(Instant::now());
        }
        if ending {
            return Ok(());
        }
        if shipped > 0 {
            continue;
        }
        if ready_at.elapsed() >= READY_EVERY {
            shipper.make_ready();
            ready_at = Instant::now();
        }
        // A connection that broke while nothing was sent shows here, not at the next record.
        if shipper.database.is_closed() {
            return Err(StoreError::Database {
                action: "keep the connection to",
                what: "the database".to_owned(),
                code: None,
                why: "the server closed it".to_owned(),
            });
        }
        shipper.database.idle(LOOK_EVERY);
    }
}

/// A small file that says how much was there: a node that starts while the database is away knows what waits. It may be
/// old; then more seems to wait than does.
fn remember(layout: &Layout, through: u64, place: Option<At>) {
    let Some(place) = place else { return };
    let (path, temporary) = (layout.dir.join("drained"), layout.dir.join("drained.new"));
    let text = format!("{through} {} {}\n", place.segment, place.offset);
    if let Err(error) = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &path)) {
        tracing::warn!(%error, path = %path.display(), "how much is in the database is not remembered");
    }
}

fn remembered(layout: &Layout) -> (u64, At) {
    let text = fs::read_to_string(layout.dir.join("drained")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|number| number.parse::<u64>().ok());
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(through), Some(segment), Some(offset)) => (through, At { segment, offset }),
        _ => (0, At::default()),
    }
}

/// The log, with the spool's bound before it.
pub struct Spooled {
    log: Arc<dyn Recorder>,
    state: Arc<State>,
}

impl Recorder for Spooled {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        if !self.state.full.load(Ordering::Acquire) {
            return self.log.record(events, durability);
        }
        let status = self.state.lock();
        let why = status.error.clone().unwrap_or_else(|| "it is slow".to_owned());
        let full = format!(
            "{} bytes wait for the database, and {} may ({why}): nothing is forwarded that cannot be recorded there",
            status.waiting_bytes, self.state.spool_bytes
        );
        drop(status);
        Box::pin(std::future::ready(Err(RecordError::Io(full))))
    }

    /// What follows a forward, and closings, are never refused: they go past the bound.
    fn submit(&self, events: Vec<Event>) {
        self.log.submit(events);
    }
}
