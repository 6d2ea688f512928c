//! Result limits in flight: counts what of a limited result reaches the client, and cuts it before the row that is too
//! many.
//!
//! A cut has two sides. The client hears one error in the place of what is withheld, and nothing else of that request.
//! The target is told to cancel; where it finished before it heard, its transaction is made to fail by the same poison
//! that a denial uses, so that both sides agree. Until the cancellation is delivered and the request is over, no further
//! message of the client is taken: a late cancellation must not hit the next statement.
//!
//! Counting is by message header, so limited results still move in bulk; an unlimited result never comes here. It decides
//! nothing: which limits hold is in the verdict. `respond` drives it.

use super::CancelTarget;
use crate::{limits::CANCEL_TIME, report::Ending, upstream};
use lockgate_inspect::sql::{Control, Statement};
use lockgate_model::{
    DecisionId, OperationId,
    event::EventKind,
    id::RuleId,
    outcome::CloseReason,
    sql::SqlClass,
    verdict::{Denial, DenialCause, LimitScope, ResultLimit},
};
use lockgate_wire::postgres::backend::ReportFields;
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// Cursors and portals whose rows are counted by name. The server's own bound on open portals is far below; names beyond
/// this share one count, which only cuts earlier.
const COUNTED_CURSORS: usize = 4096;
/// How long a cancelled target may go on sending what is thrown away. It stops at its next check for interrupts,
/// milliseconds as a rule; one that does not is given up with its session.
const CUT_TIME: Duration = Duration::from_secs(30);

/// What was counted so far. Shared by the flights of one session, which run in one task.
#[derive(Debug, Default)]
struct Tally {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn read(&self) -> (u64, u64) {
        (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn add(&self, rows: u64, bytes: u64) {
        let (old_rows, old_bytes) = self.read();
        self.rows.store(old_rows.saturating_add(rows), Ordering::Relaxed);
        self.bytes.store(old_bytes.saturating_add(bytes), Ordering::Relaxed);
    }
}

/// The limits of one flight.
#[derive(Debug)]
pub(crate) struct Limited {
    limits: Vec<ResultLimit>,
    /// The portal that an Execute runs: running on after a row limit continues one result.
    portal: Option<String>,
    /// One count for each limit; found when the first row comes, since a name may be given in the same message.
    tallies: Vec<Arc<Tally>>,
    /// Binary COPY ends with a trailer that is no row.
    binary_copy: bool,
}

impl Limited {
    pub(crate) fn new(limits: &[ResultLimit]) -> Option<Box<Self>> {
        (!limits.is_empty()).then(|| {
            Box::new(Self { limits: limits.to_vec(), portal: None, tallies: Vec::new(), binary_copy: false })
        })
    }

    pub(crate) fn of_portal(&mut self, name: String) {
        self.portal = Some(name);
    }

    pub(crate) fn copies_binary(&mut self) {
        self.binary_copy = true;
    }

    /// Rows in a CopyData of this many bytes, header included: one, but for the trailer of a binary copy (a 16-bit -1;
    /// a row of it has at least a field count and one field's length).
    pub(crate) fn rows_of_copy_data(&self, bytes: usize) -> u64 {
        const TRAILER: usize = 1 + 4 + 2;
        u64::from(!(self.binary_copy && bytes <= TRAILER))
    }
}

/// A limit that the next piece would exceed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    limit: ResultLimit,
    counted: (u64, u64),
    by_rows: bool,
}

impl Exceeded {
    /// The words for the client, by the same structure as every denial.
    pub(crate) fn denial(&self) -> Denial {
        let per = match self.limit.per {
            LimitScope::Statement => "a result",
            LimitScope::Session => "a session",
        };
        let reason = match (self.by_rows, self.limit.rows, self.limit.bytes) {
            (true, Some(rows), _) => format!("{per} may have {rows} rows, and there are more"),
            (_, _, Some(bytes)) => format!("{per} may have {bytes} bytes, and there are more"),
            (_, _, None) => format!("{per} may not have more"),
        };
        Denial {
            rule: Some(self.limit.rule.clone()),
            cause: DenialCause::Limit,
            reason,
            remedy: Some(
                self.limit
                    .remedy
                    .clone()
                    .unwrap_or_else(|| "ask for less, or ask for an exception".to_owned()),
            ),
        }
    }

    /// For the record.
    pub(crate) fn event(&self, operation: OperationId, decision: DecisionId) -> EventKind {
        let (rows, bytes) = self.counted;
        EventKind::ResultCut { operation, decision, denial: self.denial(), rows, bytes }
    }
}

/// A cancellation on its way; why it failed, in words.
type Cancelling = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A result that is being cut.
struct Cut {
    /// What the client hears; None once it has.
    words: Option<ReportFields>,
    /// The cancellation on its way.
    cancel: Option<Cancelling>,
    /// When the target is given up.
    deadline: Pin<Box<Sleep>>,
}

/// The result limits of one session.
pub(crate) struct Caps {
    target: Arc<CancelTarget>,
    /// Some flight of this session was limited.
    in_force: bool,
    /// A statement that does more than read has finished since the target was last ready.
    changed: bool,
    by_rule: HashMap<RuleId, Arc<Tally>>,
    by_cursor: HashMap<(RuleId, String), Arc<Tally>>,
    cut: Option<Cut>,
    /// Bytes at the front of what the target sent that are thrown away.
    pub(crate) dropping: usize,
}

impl Caps {
    pub(crate) fn new(target: Arc<CancelTarget>) -> Self {
        Self {
            target,
            in_force: false,
            changed: false,
            by_rule: HashMap::new(),
            by_cursor: HashMap::new(),
            cut: None,
            dropping: 0,
        }
    }

    /// A limited operation is sent: from now on requests do not overlap, so that a cancellation finds the right one.
    pub(crate) fn enforce(&mut self) {
        self.in_force = true;
    }

    /// Whether requests must not overlap.
    pub(crate) fn is_in_force(&self) -> bool {
        self.in_force
    }

    /// A statement finished; the target keeps what it changed unless its transaction fails.
    pub(crate) fn finished(&mut self, statement: &Statement) {
        self.changed |= self.in_force && statement.class() != SqlClass::Read;
    }

    /// The target is ready; whether something was changed since it last was.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Counts a piece that is about to go to the client, or says why it must not.
    pub(crate) fn admit(
        &mut self,
        limited: &mut Limited,
        statement: &Statement,
        rows: u64,
        bytes: usize,
    ) -> Result<(), Exceeded> {
        if limited.tallies.is_empty() {
            let name = result_name(statement, limited.portal.as_deref());
            limited.tallies = limited.limits.iter().map(|limit| self.tally(limit, name)).collect();
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        for (limit, tally) in limited.limits.iter().zip(&limited.tallies) {
            let counted = tally.read();
            let by_rows = limit.rows.is_some_and(|most| counted.0.saturating_add(rows) > most);
            let by_bytes = limit.bytes.is_some_and(|most| counted.1.saturating_add(bytes) > most);
            if by_rows || by_bytes {
                return Err(Exceeded { limit: limit.clone(), counted, by_rows });
            }
        }
        limited.tallies.iter().for_each(|tally| tally.add(rows, bytes));
        Ok(())
    }

    fn tally(&mut self, limit: &ResultLimit, name: Option<&str>) -> Arc<Tally> {
        match (limit.per, name) {
            (LimitScope::Session, _) => self.by_rule.entry(limit.rule.clone()).or_default().clone(),
            (LimitScope::Statement, None) => Arc::default(),
            (LimitScope::Statement, Some(name)) => {
                let known = self.by_cursor.len() < COUNTED_CURSORS;
                let key = (limit.rule.clone(), name.to_owned());
                let key =
                    if known || self.by_cursor.contains_key(&key) { key } else { (key.0, OTHERS.into()) };
                self.by_cursor.entry(key).or_default().clone()
            }
        }
    }

    /// A cursor or portal of this name was made: its result begins.
    pub(crate) fn opened(&mut self, name: &str) {
        if !self.by_cursor.is_empty() {
            self.by_cursor.retain(|(_, known), _| known != name);
        }
    }

    /// A result is cut here: `words` are for the client. `running` is whether the target still works on it.
    pub(crate) fn begin_cut(&mut self, words: ReportFields, running: bool) {
        let target = self.target.clone();
        let cancel = running.then(|| Box::pin(deliver(target)) as Cancelling);
        self.cut = Some(Cut { words: Some(words), cancel, deadline: Box::pin(sleep(CUT_TIME)) });
    }

    /// Whether the client hears nothing of what the target answers.
    pub(crate) fn is_muted(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| cut.words.is_some())
    }

    /// What the client hears in the place of what was withheld; it is told now.
    pub(crate) fn take_words(&mut self) -> Option<ReportFields> {
        let words = self.cut.as_mut()?.words.take();
        self.tidy();
        words
    }

    /// Whether a cut is not over: the client's next message waits.
    pub(crate) fn is_cutting(&self) -> bool {
        self.cut.is_some()
    }

    /// Drives the cancellation. Ready when it was delivered.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let Some(cut) = &mut self.cut else { return Poll::Pending };
        if cut.deadline.as_mut().poll(cx).is_ready() {
            let detail = "the target went on with a result that was cut, although it was told to cancel";
            return Poll::Ready(Err(Ending::because(CloseReason::LimitReached, detail)));
        }
        let Some(cancel) = &mut cut.cancel else { return Poll::Pending };
        match cancel.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => {
                cut.cancel = None;
                self.tidy();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(why)) => {
                let detail = format!("a result was cut and the target cannot be told to cancel it: {why}");
                Poll::Ready(Err(Ending::because(CloseReason::LimitReached, detail)))
            }
        }
    }

    fn tidy(&mut self) {
        if self.cut.as_ref().is_some_and(|cut| cut.words.is_none() && cut.cancel.is_none()) {
            self.cut = None;
        }
    }
}

/// The count that names beyond [`COUNTED_CURSORS`] share. No name of the server's is this long.
const OTHERS: &str = "lockgate: all cursors and portals beyond those that are counted one by one, together";

/// By what name a result goes on in later statements: a cursor's, or a portal's.
fn result_name<'a>(statement: &'a Statement, portal: Option<&'a str>) -> Option<&'a str> {
    match &statement.control {
        Control::Fetch { name } => Some(name),
        _ => portal,
    }
}

/// A CancelRequest of the target's own. Done when the target has closed the connection, so has passed it on.
async fn deliver(target: Arc<CancelTarget>) -> Result<(), String> {
    let Some(key) = &target.key else { return Err("it gave no key to cancel with".to_owned()) };
    match tokio::time::timeout(CANCEL_TIME, upstream::cancel(&target.endpoint, key)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("not in time".to_owned()),
    }
}
