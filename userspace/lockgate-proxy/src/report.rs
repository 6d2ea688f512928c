//! One closing record for every accepted flow, on every exit path.
//!
//! [`FlowReport`] is made at accept and dropped when the connection's task ends, however it ends: returned, failed,
//! panicked, cancelled. Its drop queues the closing record; it cannot wait, so it queues ([`Recorder::submit`]) instead of
//! writing. It records nothing else and decides nothing.

use crate::metrics::{FLOWS_CLOSED, FLOWS_OPEN};
use lockgate_model::{
    SessionId,
    event::{Event, EventKind},
    flow::Flow,
    id::TargetName,
    outcome::{CloseReason, Closing},
    port::{Ambient, Durability, RecordError, Recorder},
    session::Session,
};
use std::sync::Arc;
use tokio::time::Instant;

/// What a connection moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Operations asked for.
    pub(crate) operations: u64,
    /// Bytes from the client.
    pub(crate) bytes_from_client: u64,
    /// Bytes to the client.
    pub(crate) bytes_to_client: u64,
}

/// How a connection ended, for its closing record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The metric label.
    pub(crate) reason: CloseReason,
    /// For people; never statement text or values.
    pub(crate) detail: Option<String>,
}

impl Ending {
    /// An ending that explains itself.
    pub(crate) fn plain(reason: CloseReason) -> Self {
        Self { reason, detail: None }
    }

    /// An ending with its circumstances.
    pub(crate) fn because(reason: CloseReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: Some(detail.into()) }
    }
}

/// What is known of the connection so far: it decides the shape of the closing record.
enum Stage {
    /// Not yet a session: `flow_refused`.
    Flow { flow: Option<Box<Flow>>, target: Option<TargetName> },
    /// `session_started` rests: `session_ended`.
    Session(SessionId),
}

/// The drop guard of one accepted connection.
pub(crate) struct FlowReport {
    recorder: Arc<dyn Recorder>,
    ambient: Arc<dyn Ambient>,
    opened: Instant,
    stage: Stage,
    ending: Option<Ending>,
    /// What it moved.
    pub(crate) counters: Counters,
}

impl FlowReport {
    /// Begins at accept, before anything can fail.
    pub(crate) fn new(recorder: Arc<dyn Recorder>, ambient: Arc<dyn Ambient>) -> Self {
        ::metrics::gauge!(FLOWS_OPEN).increment(1);
        Self {
            recorder,
            ambient,
            opened: Instant::now(),
            stage: Stage::Flow { flow: None, target: None },
            ending: None,
            counters: Counters::default(),
        }
    }

    /// The kernel told where it comes from.
    pub(crate) fn flow_known(&mut self, known: &Flow) {
        if let Stage::Flow { flow, .. } = &mut self.stage {
            *flow = Some(Box::new(known.clone()));
        }
    }

    /// Its destination is a registered target.
    pub(crate) fn target_known(&mut self, name: &TargetName) {
        if let Stage::Flow { target, .. } = &mut self.stage {
            *target = Some(name.clone());
        }
    }

    /// Records the start of the session. Only after this returned may the target be dialled.
    ///
    /// Where columns are masked, the process's arguments are cut to its name: `psql -c "… literal …"` would
    /// otherwise carry into the log what the statement's own record leaves out.
    ///
    /// # Errors
    /// When the record could not be written; the connection is then refused.
    pub(crate) async fn session_started(
        &mut self,
        session: &Session,
        masked: bool,
    ) -> Result<(), RecordError> {
        let mut session = session.clone();
        if masked {
            Arc::make_mut(&mut session.workload).process.argv.truncate(1);
        }
        let (at, id) = (session.opened_at, session.id);
        let event = Event { at, session: Some(id), kind: EventKind::SessionStarted(Box::new(session)) };
        let recorder = self.recorder.clone();
        // From here on the start may rest in the log, even when this future is dropped while it waits: the closing
        // record must then be the session's.
        let before = std::mem::replace(&mut self.stage, Stage::Session(id));
        match recorder.record(vec![event], Durability::Written).await {
            Ok(_receipt) => Ok(()),
            Err(error) => {
                self.stage = before;
                Err(error)
            }
        }
    }

    /// Says how it ended. The first word counts: what follows an ending is its echo.
    pub(crate) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    fn closing(&mut self) -> Closing {
        let unforeseen = || {
            let detail = if std::thread::panicking() {
                "the connection's task panicked"
            } else {
                "the connection's task was dropped"
            };
            Ending::because(CloseReason::Internal, detail)
        };
        let Ending { reason, detail } = self.ending.take().unwrap_or_else(unforeseen);
        Closing {
            reason,
            detail,
            operations: self.counters.operations,
            bytes_from_client: self.counters.bytes_from_client,
            bytes_to_client: self.counters.bytes_to_client,
            elapsed_micros: u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for FlowReport {
    fn drop(&mut self) {
        let closing = self.closing();
        ::metrics::gauge!(FLOWS_OPEN).decrement(1);
        ::metrics::counter!(FLOWS_CLOSED, "reason" => closing.reason.as_str()).increment(1);
        let at = self.ambient.now();
        let nothing = Stage::Flow { flow: None, target: None };
        let event = match std::mem::replace(&mut self.stage, nothing) {
            Stage::Session(id) => {
                tracing::info!(session = %id, reason = closing.reason.as_str(), detail = closing.detail, "session ended");
                Event { at, session: Some(id), kind: EventKind::SessionEnded(closing) }
            }
            Stage::Flow { flow, target } => {
                let detail = closing.detail.clone().unwrap_or_else(|| closing.reason.as_str().to_owned());
                tracing::info!(reason = closing.reason.as_str(), detail, "connection refused");
                let kind = EventKind::FlowRefused { detail, closing, flow, target };
                Event { at, session: None, kind }
            }
        };
        self.recorder.submit(vec![event]);
    }
}
