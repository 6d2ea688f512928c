//! The simple protocol: one Query, any number of statements, decided one by one before the first byte of any goes on.
//! And the requests that are refused by name.

use super::{
    engine::{Engine, client_fault},
    flight::{Answer, Flight},
    judge::{Asked, Judgement, Passed, Unit},
    operation::TransactionWalk,
    replication, words,
};
use crate::{report::Ending, upstream::Housekeeping};
use bytes::Bytes;
use lockgate_inspect::sql::{Control, Inspector, Script, Statement};
use lockgate_model::{
    event::{Event, EventKind},
    operation::{Facts, Operation},
    outcome::CloseReason,
    port::Durability,
    sql::{Risk, SqlClass, SqlFacts},
    verdict::{Denial, DenialCause},
};
use lockgate_policy::permit::{Cleared, Permit, PermitError, permit};
use lockgate_wire::postgres::{
    PgString, TransactionStatus,
    automaton::{ClientPhase, Request},
    backend::{Backend, ReportFields, Severity},
    frame::Frame,
    frontend::Frontend,
};
use std::{collections::VecDeque, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};

/// A text that no grammar takes: what it becomes stands for requests that have no text.
pub(crate) const NOT_SQL: &str = "lockgate: not a statement";
/// character_not_in_repertoire (PostgreSQL Appendix A).
const NOT_IN_REPERTOIRE: &str = "22021";

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Takes a Query.
    pub(crate) async fn simple(&mut self, sql: &PgString, frame: Frame) -> Result<(), Ending> {
        if self.client_leg.phase() == ClientPhase::Batch && !self.end_segment().await? {
            return Ok(());
        }
        // Simple queries do not overlap: each is judged in the state that the one before left.
        self.settle().await?;
        self.strange &= self.batch.is_open();
        let text = match words::statement(sql, &self.settings.state) {
            Ok(text) => text,
            Err(fault) => {
                let words =
                    ReportFields::new(Severity::Error, NOT_IN_REPERTOIRE, &format!("lockgate: {fault}"));
                return self.refuse_query(words);
            }
        };
        self.refresh_masks().await?;
        self.understand_aside(&text).await?;
        let mut script = self.script(&text);
        self.scripts.forget_aside();
        if self.replicates {
            script = replication::read(script);
        }
        if script.statements.is_empty() {
            words::say(self.client.output.tail(), &Backend::EmptyQueryResponse);
            if self.batch.end() {
                // It ends the segment all the same: the server is asked to.
                return self.tend(Housekeeping::Sync, Request::Sync, Answer::Sync);
            }
            words::ready(self.client.output.tail(), self.server_leg.status());
            return Ok(());
        }
        self.cancel.begin();
        let judged = self.judge_query(&script, frame.into_bytes()).await;
        let cancelled = self.cancel.finish();
        match judged? {
            Ok((permit, flights)) if !cancelled => {
                self.send(permit, [(Request::Query, Answer::Query(flights))])
            }
            Ok((_, flights)) => {
                let words = self.cancelled(flights);
                self.refuse_query(words)
            }
            Err(words) => self.refuse_query(words),
        }
    }

    /// A Query in the middle of a segment ends it, as Sync does. False when the segment has failed: the Query is dropped.
    pub(super) async fn end_segment(&mut self) -> Result<bool, Ending> {
        if !self.batch.is_empty() {
            self.close_batch(false).await?;
        }
        self.settle().await?;
        if self.server_leg.is_skipping() || self.client_leg.phase() == ClientPhase::Skipping {
            return Ok(false);
        }
        self.client_leg.handle_frontend(&Frontend::Sync).map_err(client_fault)?;
        Ok(true)
    }

    async fn judge_query(
        &mut self,
        script: &Script,
        payload: Bytes,
    ) -> Result<Result<(Permit, VecDeque<Flight>), ReportFields>, Ending> {
        let mut walk = TransactionWalk::from(self.server_leg.status());
        let mut asked = Vec::with_capacity(script.statements.len());
        // What a statement sets is in doubt for those behind it; the session learns of it from the answers only.
        let mut before = None;
        for statement in &script.statements {
            let operation = self.operation(statement, Arc::default(), walk.is_open());
            walk.pass(statement);
            if !matches!(statement.control, Control::None) && script.statements.len() > 1 {
                before.get_or_insert_with(|| self.settings.state.clone());
                self.settings.state.sent(statement);
            }
            asked.push(Asked { operation, statement: statement.clone(), approval: None });
        }
        if let Some(before) = before {
            self.settings.state = before;
        }
        match self.judge(asked, Unit::Message).await? {
            Judgement::Refused(words) | Judgement::Cut(_, words) => Ok(Err(words)),
            Judgement::Passed(passed) => {
                let mut flights = VecDeque::with_capacity(passed.len());
                let mut batch = Vec::with_capacity(passed.len());
                for Passed { cleared, flight, granted: _ } in passed {
                    batch.push(cleared);
                    flights.push_back(flight);
                }
                Ok(self.permit(batch, payload).await?.map(|permit| (permit, flights)))
            }
        }
    }

    /// Records what passes, and gets the permit for its bytes. A recorder that fails refuses.
    pub(crate) async fn permit(
        &mut self,
        batch: Vec<Cleared>,
        payload: Bytes,
    ) -> Result<Result<Permit, ReportFields>, Ending> {
        let first = batch.first().map(|cleared| (cleared.operation().clone(), cleared.verdict().decision));
        let recorder = self.gate.recorder();
        let now = self.gate.now();
        let work = async move { permit(&*recorder, now, batch, Vec::new(), payload).await };
        let began = tokio::time::Instant::now();
        let recorded = self.relay_while(work).await?;
        self.gate.record_seconds.record(began.elapsed());
        match recorded {
            Ok(permit) => Ok(Ok(permit)),
            Err(error) => {
                tracing::error!(%error, session = %self.gate.session.id, "an operation is refused, its record failed");
                self.settle().await?;
                let Some((operation, decision)) = first else {
                    return Err(Ending::because(CloseReason::Internal, "a permit for nothing was asked"));
                };
                let denial = record_failed(&error);
                let refused = self.gate.refused(operation.id, decision, denial.clone());
                self.gate.submit(vec![refused]);
                Ok(Err(words::denied(&operation, decision, &denial)))
            }
        }
    }

    /// What was permitted is not sent after all: the client cancelled while it was recorded.
    pub(crate) fn cancelled(&mut self, flights: impl IntoIterator<Item = Flight>) -> ReportFields {
        let denial = Denial {
            rule: None,
            cause: DenialCause::Withdrawn,
            reason: "the client cancelled it before it was sent".to_owned(),
            remedy: None,
        };
        let events: Vec<Event> = flights
            .into_iter()
            .map(|flight| self.gate.refused(flight.operation, flight.decision, denial.clone()))
            .collect();
        self.gate.submit(events);
        let text = "lockgate: canceling statement due to user request";
        ReportFields::new(Severity::Error, lockgate_wire::postgres::backend::sqlstate::QUERY_CANCELED, text)
    }

    /// Refuses a Query: nothing of it was sent. An open transaction, or what a segment sent before, is failed at the target
    /// too, or it would be kept.
    pub(crate) fn refuse_query(&mut self, words: ReportFields) -> Result<(), Ending> {
        let segment = self.batch.end();
        match self.server_leg.status() {
            TransactionStatus::Idle if segment => {
                self.tend(Housekeeping::PoisonQuery, Request::Query, Answer::Poison(words))
            }
            TransactionStatus::InTransaction => {
                self.tend(Housekeeping::PoisonQuery, Request::Query, Answer::Poison(words))
            }
            status @ (TransactionStatus::Idle | TransactionStatus::Failed) => {
                // Any Query takes the unnamed statement away.
                self.names.forget_prepared(&PgString::default());
                words::say(self.client.output.tail(), &Backend::ErrorResponse(words));
                words::ready(self.client.output.tail(), status);
                Ok(())
            }
        }
    }

    /// Understands a text that takes long beside this thread, which goes on with other sessions.
    pub(crate) async fn understand_aside(&mut self, text: &str) -> Result<(), Ending> {
        if self.strange {
            return Ok(());
        }
        let Some(work) = self.scripts.aside(text, &self.settings.state, self.masks.catalogue()) else {
            return Ok(());
        };
        let work = tokio::task::spawn_blocking(move || work.understand());
        // What could not be understood there is tried again here.
        if let Ok(understood) = self.relay_while(work).await? {
            self.scripts.put_aside(understood);
        }
        Ok(())
    }

    /// The statements of a text, as the target would read them now.
    pub(crate) fn script(&mut self, text: &str) -> Script {
        let catalogue = self.masks.catalogue();
        let missing = catalogue.is_none() && self.catalogue_missing;
        if self.strange || missing {
            let mut state = self.settings.state.clone();
            state.catalogue_missing = missing;
            if self.strange {
                state.doubt_reading(text);
            }
            return Inspector.script(text, &state, catalogue.map(|catalogue| &**catalogue));
        }
        self.scripts.understand(Inspector, text, &self.settings.state, catalogue)
    }

    /// Gets a fresh catalogue when masks could apply, or when rules ask about it. Without one, what could be masked is
    /// refused later, and what rules ask about counts as the worse of what it could be.
    pub(crate) async fn refresh_masks(&mut self) -> Result<(), Ending> {
        self.catalogue_missing = false;
        if self.gate.masks().is_none() && !self.gate.wants_catalogue() {
            return Ok(());
        }
        if self.masks.refresh() {
            self.tell_of_masks();
            return Ok(());
        }
        let source = self.masks.source();
        let loaded = self.relay_while(async move { source.load().await }).await?;
        self.catalogue_missing = loaded.is_none();
        self.masks.loaded(loaded);
        self.tell_of_masks();
        Ok(())
    }

    /// Records whether the role itself may read what is masked, once it is known.
    fn tell_of_masks(&mut self) {
        if self.masks.is_told() {
            return;
        }
        let keys = self.gate.ports.mask_keys.load_full();
        let event = self.gate.session_masks().and_then(|spec| self.masks.exposed(spec, &keys));
        event.into_iter().for_each(|event| self.note(vec![event]));
    }

    /// A message type that the protocol does not define: the session ends, as PostgreSQL ends it.
    pub(crate) async fn refuse_unknown(&mut self, tag: u8) -> Result<Ending, Ending> {
        let words = self.refuse_by_name(&format!("message type 0x{tag:02x}")).await?;
        words::say(self.client.output.tail(), &Backend::ErrorResponse(words));
        let fault = lockgate_wire::postgres::WireError::UnknownTag {
            side: lockgate_wire::postgres::Side::Client,
            tag,
        };
        Ok(client_fault(fault))
    }

    /// Records an operation that lockgate does not speak as denied; answers the words for the client.
    pub(crate) async fn refuse_by_name(&mut self, name: &str) -> Result<ReportFields, Ending> {
        let Some(opaque) = self.script(NOT_SQL).statements.first().cloned() else {
            return Err(Ending::plain(CloseReason::Internal));
        };
        let statement = Arc::new(unsupported(name, &opaque));
        let in_transaction = TransactionWalk::from(self.server_leg.status()).is_open();
        let operation: Arc<Operation> = self.operation(&statement, Arc::default(), in_transaction);
        let denial = Denial {
            rule: None,
            cause: DenialCause::Unsupported,
            reason: format!("lockgate does not pass {name}: it cannot be understood as a statement"),
            remedy: Some("use a statement instead".to_owned()),
        };
        let verdict = self.gate.evaluate(&operation);
        let verdict = verdict.refused(denial.clone());
        let words = words::denied(&operation, verdict.decision, &denial);
        let events = self.gate.decided(&operation, verdict, Some(denial));
        let recorder = self.gate.recorder();
        let recorded =
            self.relay_while(async move { recorder.record(events, Durability::Written).await }).await?;
        if let Err(error) = recorded {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        Ok(words)
    }

    /// What happened to operations. Recorded when the answer is on its way ([`Engine::turn`]).
    pub(crate) fn note(&mut self, kinds: Vec<EventKind>) {
        kinds.into_iter().for_each(|kind| self.gate.note(kind));
    }
}

fn record_failed(error: &PermitError) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::RecordFailed,
        reason: error.to_string(),
        remedy: Some("nothing was sent; try again when lockgate's log can be written".to_owned()),
    }
}

/// A request without a text, as a statement that nobody understands.
pub(super) fn unsupported(name: &str, opaque: &Statement) -> Statement {
    let facts = SqlFacts {
        class: SqlClass::Opaque,
        kind: name.to_lowercase().replace(' ', "_"),
        tables_read: Vec::new(),
        tables_written: Vec::new(),
        columns: Vec::new(),
        functions: Vec::new(),
        bounded: None,
        risk: Risk::Critical,
        fingerprint: String::new(),
        effects: Default::default(),
        opaque_reason: Some(format!("{name} has no text to understand")),
        reach: Default::default(),
        second_opinion: None,
    };
    Statement {
        text: name.into(),
        normalized: name.into(),
        facts: Arc::new(Facts::Sql(facts)),
        ..opaque.clone()
    }
}
