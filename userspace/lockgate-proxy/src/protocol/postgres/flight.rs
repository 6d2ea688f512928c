//! What was sent upstream and is not answered yet: which operation each answer belongs to, how its rows are masked, what
//! is counted and kept of them for the record.

use super::{
    caps::Limited,
    prepared::{Portal, Prepared},
};
use crate::limits::{RECORDED_BYTES, RECORDED_ROWS};
use lockgate_inspect::{
    mask::{RowMask, StatementMask},
    sql::Statement,
};
use lockgate_model::{
    DecisionId, OperationId,
    event::EventKind,
    outcome::{Outcome, OutcomeStatus},
    sql::{SqlClass, SqlEffect},
    verdict::{RecordResults, Verdict},
};
use lockgate_wire::postgres::{
    Format, PgString,
    automaton::Ticket,
    backend::{Column, DataRow, ReportFields},
};
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

/// One request that waits for its answer.
pub(crate) struct Expected {
    /// The automaton's name of it.
    pub(crate) ticket: Ticket,
    /// What the answer is for.
    pub(crate) answer: Answer,
}

/// What an answer is for.
pub(crate) enum Answer {
    /// Query: one flight a statement, in order.
    Query(VecDeque<Flight>),
    /// Parse; the statement is known by its name once the server took it.
    Parse {
        /// Its name.
        name: PgString,
        /// What it prepares.
        prepared: Arc<Prepared>,
        /// Set when the Parse is an operation of its own, not followed by an Execute.
        flight: Option<Box<Flight>>,
    },
    /// Bind; the portal is known by its name once the server made it.
    Bind {
        /// Its name.
        name: PgString,
        /// What it runs.
        portal: Portal,
        /// Set when the Bind is an operation of its own, not followed by an Execute.
        flight: Option<Box<Flight>>,
    },
    /// Describe that the client asked for.
    Describe {
        /// What is described, when it is known: messages about it could carry masked values.
        prepared: Option<Arc<Prepared>>,
    },
    /// Describe that lockgate asked for, to learn where the columns of the next Execute come from; the client sees none
    /// of it.
    Origins,
    /// Execute.
    Execute(Box<Flight>),
    /// Close of a prepared statement or portal.
    Close {
        /// A prepared statement; else a portal.
        statement: bool,
        /// Its name.
        name: PgString,
    },
    /// Execute of a statement without a text.
    Ping,
    /// Sync.
    Sync,
    /// An Execute that must fail, so that the server's transaction fails with lockgate's denial.
    Poison(ReportFields),
}

impl Answer {
    /// The operations that wait for this answer.
    pub(crate) fn into_flights(self) -> Vec<Flight> {
        match self {
            Self::Query(flights) => flights.into(),
            Self::Parse { flight, .. } | Self::Bind { flight, .. } => {
                flight.into_iter().map(|flight| *flight).collect()
            }
            Self::Execute(flight) => vec![*flight],
            Self::Describe { .. }
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => Vec::new(),
        }
    }

    /// Whether the target may ask for copy data before this is answered.
    pub(crate) fn may_copy_in(&self) -> bool {
        match self {
            Self::Query(flights) => flights.iter().any(Flight::may_copy_in),
            Self::Execute(flight) => flight.may_copy_in(),
            Self::Parse { .. }
            | Self::Bind { .. }
            | Self::Describe { .. }
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => false,
        }
    }

    /// Whether a limit is set on what it returns.
    pub(crate) fn is_limited(&self) -> bool {
        match self {
            Self::Query(flights) => flights.iter().any(|flight| flight.limited.is_some()),
            Self::Execute(flight) => flight.limited.is_some(),
            Self::Parse { .. }
            | Self::Bind { .. }
            | Self::Describe { .. }
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => false,
        }
    }

    /// The operation that the target is answering now.
    pub(crate) fn current(&mut self) -> Option<&mut Flight> {
        match self {
            Self::Query(flights) => flights.front_mut(),
            Self::Execute(flight) => Some(flight),
            Self::Parse { .. }
            | Self::Bind { .. }
            | Self::Describe { .. }
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => None,
        }
    }

    /// It is sent now.
    pub(crate) fn begin(&mut self) {
        match self {
            Self::Query(flights) => flights.iter_mut().for_each(Flight::begin),
            Self::Parse { flight, .. } | Self::Bind { flight, .. } => {
                flight.iter_mut().for_each(|flight| flight.begin());
            }
            Self::Execute(flight) => flight.begin(),
            Self::Describe { .. }
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => {}
        }
    }

    /// The decision to quote when a message that belongs to this answer must be withheld.
    pub(crate) fn strip(&self) -> Option<DecisionId> {
        match self {
            // A message with several statements is stripped as a whole: which of them speaks is not always told.
            Self::Query(flights) => flights.iter().find_map(Flight::strip),
            Self::Parse { flight, prepared, .. } => {
                flight.as_ref().and_then(|flight| flight.strip()).or(prepared.strip.get().copied())
            }
            Self::Bind { portal, .. } => portal.prepared.strip.get().copied(),
            Self::Describe { prepared } => prepared.as_ref().and_then(|p| p.strip.get().copied()),
            Self::Execute(flight) => flight.strip(),
            Self::Origins | Self::Close { .. } | Self::Ping | Self::Sync | Self::Poison(_) => None,
        }
    }
}

impl Answer {
    /// Whether the client may see an error that the target found in the text itself, although messages are withheld.
    pub(crate) fn shows_own_mistakes(&self) -> bool {
        match self {
            Self::Query(flights) => flights.iter().all(Flight::shows_own_mistakes),
            Self::Parse { flight, .. } => flight.as_ref().is_some_and(|flight| flight.shows_own_mistakes()),
            Self::Bind { .. }
            | Self::Describe { .. }
            | Self::Execute(_)
            | Self::Origins
            | Self::Close { .. }
            | Self::Ping
            | Self::Sync
            | Self::Poison(_) => false,
        }
    }
}

/// The rows that a record keeps, as the client saw them.
struct Kept {
    columns: Vec<(String, Format)>,
    rows: Vec<Vec<Option<String>>>,
    bytes: usize,
    truncated: bool,
}

/// One operation between forward and answer.
pub(crate) struct Flight {
    /// Its id.
    pub(crate) operation: OperationId,
    /// The decision that lets it pass.
    pub(crate) decision: DecisionId,
    /// What it runs.
    pub(crate) statement: Arc<Statement>,
    mask: Option<Arc<StatementMask>>,
    rows_mask: Option<RowMask>,
    /// The client's own Describe of the portal stands right before it.
    follows_describe: bool,
    /// How much of its result may reach the client.
    pub(crate) limited: Option<Box<Limited>>,
    kept: Option<Kept>,
    began: Option<Instant>,
    outcome: Outcome,
}

impl Flight {
    /// An operation that is about to be forwarded.
    pub(crate) fn new(
        operation: OperationId,
        verdict: &Verdict,
        statement: Arc<Statement>,
        mask: Option<Arc<StatementMask>>,
    ) -> Self {
        let kept = match verdict.obligations.record.results {
            RecordResults::None => None,
            RecordResults::Masked => {
                Some(Kept { columns: Vec::new(), rows: Vec::new(), bytes: 0, truncated: false })
            }
        };
        let outcome = Outcome {
            status: OutcomeStatus::Broken,
            rows: 0,
            bytes_out: 0,
            bytes_in: 0,
            masked_fields: 0,
            elapsed_micros: 0,
        };
        Self {
            operation,
            decision: verdict.decision,
            statement,
            mask,
            rows_mask: None,
            follows_describe: false,
            limited: Limited::new(&verdict.obligations.limits),
            kept,
            began: None,
            outcome,
        }
    }

    /// Its first byte leaves now.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
    }

    /// Whether the target may ask for copy data.
    pub(crate) fn may_copy_in(&self) -> bool {
        let facts = self.statement.sql();
        matches!(facts.class, SqlClass::CopyIn | SqlClass::Opaque)
            || facts.effects.contains(&SqlEffect::Imports)
    }

    /// Whether its rows have to be described before they can be passed on.
    pub(crate) fn is_masked(&self) -> bool {
        self.mask.is_some()
    }

    /// The Describe before it will tell where its columns come from.
    pub(crate) fn follow_describe(&mut self) {
        self.follows_describe = true;
    }

    /// Whether the Describe before it tells where its columns come from.
    pub(crate) fn follows_describe(&self) -> bool {
        self.follows_describe
    }

    /// Set when its messages could carry masked values: the decision to quote instead.
    pub(crate) fn strip(&self) -> Option<DecisionId> {
        self.mask.as_ref().is_some_and(|mask| mask.strip_messages()).then_some(self.decision)
    }

    fn shows_own_mistakes(&self) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask.shows_own_mistakes())
    }

    /// The rows that follow look like this.
    pub(crate) fn described(&mut self, columns: &[Column]) {
        self.rows_mask = self.mask.as_ref().map(|mask| mask.rows(columns));
        if let Some(kept) = &mut self.kept {
            kept.columns =
                columns.iter().map(|c| (c.name.to_string_lossy().into_owned(), c.format)).collect();
        }
    }

    /// How its rows go on.
    pub(crate) fn rows(&mut self) -> Rows<'_> {
        let recorded = self.kept.as_ref().is_some_and(|kept| !kept.truncated);
        match (&self.mask, &mut self.rows_mask) {
            (Some(_), None) => Rows::Undescribed,
            (Some(_), Some(mask)) if !mask.is_passthrough() => Rows::Masked(mask),
            (Some(_), Some(_)) | (None, _) if recorded => Rows::Kept,
            (Some(_), Some(_)) | (None, _) => Rows::Plain,
        }
    }

    /// A row of this many bytes went to the client, with this many fields changed.
    pub(crate) fn count_row(&mut self, bytes: usize, masked: u64) {
        self.outcome.rows += 1;
        self.outcome.bytes_out += bytes as u64;
        self.outcome.masked_fields += masked;
    }

    /// Copy data went to the client.
    pub(crate) fn count_out(&mut self, bytes: usize) {
        self.outcome.bytes_out += bytes as u64;
    }

    /// Copy data went to the client, with this many fields changed.
    pub(crate) fn count_masked_copy(&mut self, bytes: usize, masked: u64) {
        self.outcome.bytes_out += bytes as u64;
        self.outcome.masked_fields += masked;
    }

    /// What its masks are.
    pub(crate) fn mask(&self) -> Option<&Arc<StatementMask>> {
        self.mask.as_ref()
    }

    /// Copy data came from the client.
    pub(crate) fn count_in(&mut self, bytes: usize) {
        self.outcome.bytes_in += bytes as u64;
    }

    /// Keeps a row as the client saw it, within the bounds.
    pub(crate) fn keep(&mut self, row: &DataRow) {
        let Some(kept) = &mut self.kept else { return };
        if kept.rows.len() >= RECORDED_ROWS || kept.bytes + row.wire_len() > RECORDED_BYTES {
            kept.truncated = true;
            return;
        }
        kept.bytes += row.wire_len();
        let formats = kept.columns.iter().map(|(_, format)| *format).chain(std::iter::repeat(Format::Text));
        let values = row.fields().zip(formats).map(|(field, format)| field.map(|f| shown(f, format)));
        kept.rows.push(values.collect());
    }

    /// Whether rows are kept.
    pub(crate) fn keeps(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| !kept.truncated)
    }

    /// It ended; the events that say how.
    pub(crate) fn finish(mut self, status: OutcomeStatus) -> Vec<EventKind> {
        self.outcome.status = status;
        let elapsed = self.began.map_or(0, |began| began.elapsed().as_micros());
        self.outcome.elapsed_micros = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let responded = EventKind::Responded { operation: self.operation, outcome: self.outcome };
        match self.kept {
            Some(kept) if !kept.columns.is_empty() => {
                let rows = EventKind::ResultRows {
                    operation: self.operation,
                    columns: kept.columns.into_iter().map(|(name, _)| name).collect(),
                    rows: kept.rows,
                    truncated: kept.truncated,
                };
                vec![rows, responded]
            }
            Some(_) | None => vec![responded],
        }
    }
}

/// How rows go on.
pub(crate) enum Rows<'a> {
    /// As they are, in bulk.
    Plain,
    /// As they are, but looked at for the record.
    Kept,
    /// Rewritten.
    Masked(&'a mut RowMask),
    /// Not at all: nobody knows where their columns come from.
    Undescribed,
}

fn shown(field: &[u8], format: Format) -> String {
    match format {
        Format::Text => String::from_utf8_lossy(field).into_owned(),
        Format::Binary => hex::encode(field),
    }
}
