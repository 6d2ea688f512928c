//! The one thing that evidence can refuse: a session that must be recorded does not begin while recordings cannot be
//! stored. It stands before the log as a recorder, so that the data plane knows of it what it knows of a full disk.

use lockgate_model::{
    event::{Event, EventKind},
    port::{BoxFuture, Durability, Receipt, RecordError, Recorder},
    session::Session,
};
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// Whether recordings cannot be stored, for longer than is allowed, and why.
#[derive(Default)]
pub(crate) struct Blocked {
    is: AtomicBool,
    why: Mutex<String>,
}

impl Blocked {
    /// True when that is new.
    pub(super) fn set(&self, why: Option<String>) -> bool {
        let is = why.is_some();
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why.unwrap_or_default();
        self.is.swap(is, Ordering::AcqRel) != is
    }

    pub(super) fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }
}

/// Whether a session's target demands a recording.
pub(super) fn is_required(session: &Session) -> bool {
    session.target.tags.get("record").is_some_and(|demand| demand == "required")
}

/// The log, with the rule before it.
pub(crate) struct Gate {
    log: Arc<dyn Recorder>,
    blocked: Arc<Blocked>,
}

impl Gate {
    pub(crate) fn new(log: Arc<dyn Recorder>, blocked: Arc<Blocked>) -> Self {
        Self { log, blocked }
    }

    fn refuses(&self, events: &[Event]) -> Option<RecordError> {
        if !self.blocked.is() {
            return None;
        }
        let must =
            |event: &Event| matches!(&event.kind, EventKind::SessionStarted(session) if is_required(session));
        events.iter().any(must).then(|| {
            let why = self.blocked.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
            RecordError::Io(format!("recordings cannot be stored, and this target demands one: {why}"))
        })
    }
}

impl Recorder for Gate {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        match self.refuses(&events) {
            Some(error) => Box::pin(std::future::ready(Err(error))),
            None => self.log.record(events, durability),
        }
    }

    fn submit(&self, events: Vec<Event>) {
        self.log.submit(events);
    }
}
