//! What the target answers: which request it belongs to, what of it the client may see, and what is learnt from it.
//!
//! Runs after every read, without waiting: it takes whole messages (or the parts of large ones that nobody has to look at)
//! off the read buffer and queues them for the client. Rows and copy data without a mask move by header, in runs.

use super::{
    caps::Exceeded,
    copy_out::Masking,
    engine::{Engine, internal, target_fault},
    flight::{Answer, Flight, Rows},
    words,
};
use crate::{metrics::DENIALS, report::Ending, upstream::Housekeeping};
use lockgate_inspect::sql::{Control, Statement};
use lockgate_model::{
    DecisionId,
    event::EventKind,
    outcome::{CloseReason, OutcomeStatus},
    sql::{SqlClass, SqlEffect, is_replication},
    verdict::UnknownLineage,
};
use lockgate_wire::postgres::{
    TransactionStatus, WireError,
    automaton::{CopyFate, Reply, ReplyKind, ReplyRole, Request as WireRequest},
    backend::{Backend, DataRow, ReportFields, field, tag},
    frame::{Frame, FrameDecoder, FrameHeader, Limits as FrameLimits},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Reported settings whose value is one of a fixed set: no masked value can hide in them.
const CLOSED_PARAMETERS: [&[u8]; 9] = [
    b"client_encoding",
    b"DateStyle",
    b"default_transaction_read_only",
    b"in_hot_standby",
    b"integer_datetimes",
    b"IntervalStyle",
    b"is_superuser",
    b"server_encoding",
    b"standard_conforming_strings",
];

/// What becomes of a message that is not looked at.
enum Unseen {
    /// It is looked at.
    No,
    /// It goes on.
    Passes,
    /// It is thrown away.
    Dropped,
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Takes in everything that has arrived from the target.
    pub(crate) fn respond(&mut self) -> Result<(), Ending> {
        let decoder = FrameDecoder::new(FrameLimits::SERVER);
        // Bytes at the front of the buffer that go to the client as they are.
        let mut run = 0;
        loop {
            if self.copy_out.is_waiting() && !self.go_on_copying()? {
                break;
            }
            if self.caps.dropping > 0 {
                self.client.output.take_from(self.reader.buffer(), std::mem::take(&mut run));
                let step = self.caps.dropping.min(self.reader.buffer().len());
                let _ = self.reader.buffer().split_to(step);
                self.caps.dropping -= step;
                if self.caps.dropping > 0 {
                    break;
                }
            }
            if self.passing > 0 {
                let available = self.reader.buffer().len() - run;
                let step = self.passing.min(available);
                run += step;
                self.passing -= step;
                if self.passing > 0 {
                    break;
                }
            }
            if self.copy_out.is_masking() {
                self.client.output.take_from(self.reader.buffer(), std::mem::take(&mut run));
                match self.mask_copy_data()? {
                    Masking::Took => continue,
                    Masking::Waits => break,
                    Masking::NotCopyData => {}
                }
            }
            let Some(rest) = self.reader.buffer().get(run..) else { break };
            let Some(header) = decoder.peek(rest).map_err(target_fault)? else { break };
            match self.moves_unseen(header)? {
                Unseen::Passes => {
                    self.passing = header.total_len();
                    continue;
                }
                Unseen::Dropped => {
                    self.caps.dropping = header.total_len();
                    continue;
                }
                Unseen::No => {}
            }
            self.client.output.take_from(self.reader.buffer(), std::mem::take(&mut run));
            match decoder.next(self.reader.buffer()).map_err(target_fault)? {
                Some(frame) => self.handle_answer(frame)?,
                None => break,
            }
        }
        self.client.output.take_from(self.reader.buffer(), run);
        if self.reader_ended {
            let detail = if self.reader.buffer().is_empty() && self.passing == 0 {
                None
            } else {
                Some("inside a message".to_owned())
            };
            return Err(Ending { reason: CloseReason::UpstreamClosed, detail });
        }
        Ok(())
    }

    /// Whether the message at the front goes on without being looked at; if so it is counted here.
    fn moves_unseen(&mut self, header: FrameHeader) -> Result<Unseen, Ending> {
        let kind = match header.tag() {
            tag::DATA_ROW => ReplyKind::DataRow,
            tag::COPY_DATA => ReplyKind::CopyData,
            _ => return Ok(Unseen::No),
        };
        let bytes = header.total_len();
        let is_row = kind == ReplyKind::DataRow;
        let Self { expected, caps, .. } = self;
        let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current()) else {
            return Ok(Unseen::No);
        };
        if caps.is_muted() {
            self.server_leg.handle_reply(kind).map_err(target_fault)?;
            return Ok(Unseen::Dropped);
        }
        if is_row && !matches!(flight.rows(), Rows::Plain) {
            return Ok(Unseen::No);
        }
        if let Some(limited) = &mut flight.limited {
            let rows = if is_row { 1 } else { limited.rows_of_copy_data(bytes) };
            if let Err(exceeded) = caps.admit(limited, &flight.statement, rows, bytes) {
                self.cut(&exceeded, true);
                self.server_leg.handle_reply(kind).map_err(target_fault)?;
                return Ok(Unseen::Dropped);
            }
        }
        if is_row {
            flight.count_row(bytes, 0);
        } else {
            flight.count_out(bytes);
        }
        self.server_leg.handle_reply(kind).map_err(target_fault)?;
        Ok(Unseen::Passes)
    }

    /// The result of the current operation goes no further: its limit is reached.
    pub(super) fn cut(&mut self, exceeded: &Exceeded, running: bool) {
        let Some(flight) = self.current_flight() else { return };
        let (operation, decision) = (flight.operation, flight.decision);
        let denial = exceeded.denial();
        let words = words::cut(&flight.statement.sql().kind, decision, &denial);
        let event = exceeded.event(operation, decision);
        let target = self.gate.session.target.name.0.clone();
        ::metrics::counter!(DENIALS, "target" => target, "cause" => denial.cause.as_str()).increment(1);
        tracing::info!(
            session = %self.gate.session.id,
            decision = %decision,
            rule = denial.rule.as_ref().map(|rule| rule.as_str()),
            "result cut at its limit"
        );
        self.caps.begin_cut(words, running);
        self.note(vec![event]);
    }

    /// A request whose result was cut is over, and the target did not fail: it is made to, where something would be kept
    /// otherwise.
    fn fail_late(&mut self) -> Result<(), Ending> {
        if !self.caps.is_muted() || !self.expected.is_empty() {
            return Ok(());
        }
        let Some(words) = self.caps.take_words() else { return Ok(()) };
        self.tend(Housekeeping::PoisonBatch { unnamed: false }, WireRequest::Parse, Answer::Poison(words))
    }

    /// The operation that the target is answering now.
    pub(super) fn current_flight(&mut self) -> Option<&mut Flight> {
        self.expected.front_mut()?.answer.current()
    }

    /// Takes one whole message.
    fn handle_answer(&mut self, frame: Frame) -> Result<(), Ending> {
        let kind = ReplyKind::of(&frame).map_err(target_fault)?;
        self.check_poison(kind)?;
        let reply = self.server_leg.handle_reply(kind).map_err(target_fault)?;
        if let Some(ticket) = reply.ticket
            && self.expected.front().is_none_or(|expected| expected.ticket != ticket)
        {
            return Err(Ending::because(CloseReason::Internal, "answers and requests have come apart"));
        }
        self.take_answer(kind, reply, frame)?;
        self.fail_late()
    }

    fn take_answer(&mut self, kind: ReplyKind, reply: Reply, frame: Frame) -> Result<(), Ending> {
        match kind {
            ReplyKind::DataRow => self.handle_row(&frame),
            ReplyKind::RowDescription => self.handle_description(frame),
            ReplyKind::ParameterDescription => {
                if let Some(Answer::Describe { prepared: Some(prepared) }) =
                    self.expected.front().map(|expected| &expected.answer)
                    && let Backend::ParameterDescription(types) =
                        Backend::decode(&frame).map_err(target_fault)?
                {
                    prepared.described.get_or_init(|| types);
                }
                self.pass(frame);
                Ok(())
            }
            ReplyKind::NoData => {
                self.pass_unless_origins(frame);
                self.complete_if(reply);
                Ok(())
            }
            ReplyKind::CommandComplete => self.handle_complete(frame, reply),
            ReplyKind::PortalSuspended => {
                self.pass(frame);
                self.finish_execute(OutcomeStatus::Suspended);
                Ok(())
            }
            ReplyKind::EmptyQueryResponse => {
                self.pass(frame);
                self.complete_if(reply);
                Ok(())
            }
            ReplyKind::ErrorResponse => self.handle_error(&frame, reply),
            ReplyKind::NoticeResponse => {
                let strip = self.expected.front().and_then(|expected| expected.answer.strip());
                self.pass_report(&frame, strip)
            }
            ReplyKind::ParameterStatus => self.handle_parameter(frame),
            ReplyKind::NotificationResponse => self.handle_notification(frame),
            ReplyKind::ParseComplete | ReplyKind::BindComplete | ReplyKind::CloseComplete => {
                self.pass(frame);
                self.handle_named();
                Ok(())
            }
            ReplyKind::ReadyForQuery(status) => self.handle_ready(frame, status),
            ReplyKind::CopyInResponse => self.handle_copy_in(frame),
            ReplyKind::CopyOutResponse => self.handle_copy_out(frame),
            // Counted and moved by header already, unless nobody expects it.
            ReplyKind::CopyData => Err(target_fault(unasked("CopyData"))),
            ReplyKind::CopyDone => {
                self.end_copy_out();
                self.pass(frame);
                Ok(())
            }
            ReplyKind::CopyBothResponse => self.handle_copy_both(frame),
            ReplyKind::FunctionCallResponse => self.handle_function_result(frame),
            ReplyKind::Authentication | ReplyKind::BackendKeyData | ReplyKind::NegotiateProtocolVersion => {
                Err(target_fault(unasked(kind.name())))
            }
        }
    }

    /// What must fail has failed; anything else would leave a denial without effect.
    fn check_poison(&self, kind: ReplyKind) -> Result<(), Ending> {
        let poisoned = matches!(self.expected.front().map(|e| &e.answer), Some(Answer::Poison(words)) if words.iter().next().is_some());
        let fits = matches!(
            kind,
            ReplyKind::ErrorResponse
                | ReplyKind::NoticeResponse
                | ReplyKind::ParameterStatus
                | ReplyKind::NotificationResponse
        );
        if poisoned && !fits {
            return Err(Ending::because(
                CloseReason::UpstreamProtocolError,
                "the target did not fail where it must",
            ));
        }
        Ok(())
    }

    fn handle_row(&mut self, frame: &Frame) -> Result<(), Ending> {
        let row = match Backend::decode(frame).map_err(target_fault)? {
            Backend::DataRow(row) => row,
            other => return Err(target_fault(unasked(other.name()))),
        };
        let Self { expected, client, caps, .. } = self;
        let flight = match expected.front_mut().map(|expected| &mut expected.answer) {
            Some(Answer::Query(flights)) => flights.front_mut(),
            Some(Answer::Execute(flight)) => Some(&mut **flight),
            _ => None,
        };
        let Some(flight) = flight else { return Err(target_fault(unasked("DataRow"))) };
        let out = client.output.tail();
        let start = out.len();
        let changed = match flight.rows() {
            Rows::Masked(mask) => mask
                .apply(&row, out)
                .map_err(|error| Ending::because(CloseReason::UpstreamProtocolError, error.to_string()))?,
            Rows::Plain | Rows::Kept => {
                out.extend_from_slice(frame.bytes());
                0
            }
            Rows::Undescribed => {
                let detail = "rows came that were not described, so they cannot be masked";
                return Err(Ending::because(CloseReason::UpstreamProtocolError, detail));
            }
        };
        let written = out.len() - start;
        if let Some(limited) = &mut flight.limited
            && let Err(exceeded) = caps.admit(limited, &flight.statement, 1, written)
        {
            out.truncate(start);
            self.cut(&exceeded, true);
            return Ok(());
        }
        if flight.keeps()
            && let Some(shown) = out.get(start + FrameHeader::SIZE..)
            && let Ok(shown) = DataRow::decode(bytes::Bytes::copy_from_slice(shown))
        {
            flight.keep(&shown);
        }
        flight.count_row(written, changed);
        Ok(())
    }

    fn handle_description(&mut self, frame: Frame) -> Result<(), Ending> {
        let columns = match Backend::decode(&frame).map_err(target_fault)? {
            Backend::RowDescription(columns) => columns,
            other => return Err(target_fault(unasked(other.name()))),
        };
        self.masks.meet(&columns);
        match self.expected.front_mut().map(|expected| &mut expected.answer) {
            Some(Answer::Query(flights)) => {
                match flights.front_mut() {
                    Some(flight) => flight.described(&columns),
                    None => return Err(too_many_results()),
                }
                self.pass(frame);
            }
            Some(Answer::Origins) => {
                self.answered();
                if let Some(Answer::Execute(flight)) = self.expected.front_mut().map(|e| &mut e.answer) {
                    flight.described(&columns);
                }
            }
            Some(Answer::Describe { .. }) => {
                self.pass(frame);
                self.answered();
                // The portal's rows may follow at once; described again, they are described the same.
                if let Some(Answer::Execute(flight)) = self.expected.front_mut().map(|e| &mut e.answer)
                    && flight.follows_describe()
                {
                    flight.described(&columns);
                }
            }
            _ => return Err(target_fault(unasked("RowDescription"))),
        }
        Ok(())
    }

    fn handle_complete(&mut self, frame: Frame, reply: Reply) -> Result<(), Ending> {
        let tag = match Backend::decode(&frame).map_err(target_fault)? {
            Backend::CommandComplete(tag) => tag.to_string_lossy().into_owned(),
            other => return Err(target_fault(unasked(other.name()))),
        };
        let Self { expected, caps, .. } = self;
        if caps.is_in_force()
            && let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current())
        {
            caps.finished(&flight.statement);
        }
        self.pass(frame);
        let status = OutcomeStatus::Completed { tag };
        match reply.role {
            ReplyRole::Done => self.finish_execute(status),
            ReplyRole::Part | ReplyRole::Failed | ReplyRole::Asynchronous => {
                // Query: one CommandComplete a statement. A text that was not understood may hold any number.
                let flight = match self.expected.front_mut().map(|expected| &mut expected.answer) {
                    Some(Answer::Query(flights)) => {
                        let last = flights.len() == 1;
                        match flights.front() {
                            None => return Err(too_many_results()),
                            Some(flight) if last && answers_often(&flight.statement) => None,
                            Some(_) => flights.pop_front(),
                        }
                    }
                    _ => None,
                };
                if let Some(flight) = flight {
                    self.settled(flight, status);
                }
            }
        }
        Ok(())
    }

    /// An Execute ended without an error.
    fn finish_execute(&mut self, status: OutcomeStatus) {
        if let Some(Answer::Execute(flight)) = self.answered() {
            self.settled(*flight, status);
        }
    }

    /// An operation succeeded: learn what it changed, and record how it ended.
    fn settled(&mut self, flight: Flight, status: OutcomeStatus) {
        let statement = flight.statement.clone();
        if let OutcomeStatus::Completed { tag } = &status {
            self.settings.succeeded(&statement, tag);
            if let Control::Declare { name, .. } = &statement.control {
                self.caps.opened(name);
            }
            match &statement.control {
                Control::Deallocate { name: None } | Control::DiscardAll => self.names.forget_all_prepared(),
                Control::Deallocate { name: Some(name) } => {
                    self.names.forget_prepared(&lockgate_wire::postgres::PgString::lossy(name));
                }
                _ => {}
            }
        }
        let changes_schema = changes_schema(&statement);
        self.masks.ran(&statement, changes_schema);
        if changes_schema {
            self.schema_changed = true;
            // Inside a transaction block nobody else sees it yet, and its locks would be in the way of a look.
            if self.server_leg.status() == TransactionStatus::Idle {
                self.masks.outdated();
            }
        }
        let kinds = flight.finish(status);
        self.note(kinds);
    }

    fn handle_error(&mut self, frame: &Frame, reply: Reply) -> Result<(), Ending> {
        let report = match Backend::decode(frame).map_err(target_fault)? {
            Backend::ErrorResponse(report) => report,
            other => return Err(target_fault(unasked(other.name()))),
        };
        let sqlstate = String::from_utf8_lossy(report.sqlstate()).into_owned();
        self.last_words |= report.is_fatal();
        let front = self.expected.front_mut().map(|expected| &mut expected.answer);
        let (shown, is_query) = match front {
            Some(Answer::Poison(words)) => (
                std::mem::take(words),
                reply.request == Some(lockgate_wire::postgres::automaton::Request::Query),
            ),
            Some(answer) => {
                let is_query = matches!(answer, Answer::Query(_));
                match answer.strip() {
                    Some(_) if answer.shows_own_mistakes() && names_no_relation(&report) => {
                        (report, is_query)
                    }
                    Some(decision) => (report.redacted(&words::withheld(decision)), is_query),
                    None => (report, is_query),
                }
            }
            None => (self.unasked_report(report), false),
        };
        // An error can carry as much as a row.
        let Self { expected, caps, .. } = self;
        if !caps.is_muted()
            && let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current())
            && let Some(limited) = &mut flight.limited
            && let Err(exceeded) = caps.admit(limited, &flight.statement, 0, frame.bytes().len())
        {
            self.cut(&exceeded, false);
        }
        let shown = self.caps.take_words().unwrap_or(shown);
        words::say(self.client.output.tail(), &Backend::ErrorResponse(shown));
        self.end_copy();
        if reply.role != ReplyRole::Failed {
            return Ok(());
        }
        if is_query {
            if let Some(Answer::Query(flights)) = self.expected.front_mut().map(|e| &mut e.answer) {
                let flights = std::mem::take(flights);
                self.failed(flights, &sqlstate);
            }
        } else {
            let flights = self.answered().map(Answer::into_flights).unwrap_or_default();
            self.failed(flights, &sqlstate);
        }
        while let Some(ticket) = self.server_leg.poll_discarded() {
            if self.expected.front().is_some_and(|expected| expected.ticket == ticket) {
                let flights = self.answered().map(Answer::into_flights).unwrap_or_default();
                let kinds = flights.into_iter().flat_map(|flight| flight.finish(OutcomeStatus::Skipped));
                let kinds: Vec<EventKind> = kinds.collect();
                self.note(kinds);
            }
        }
        if self.server_leg.is_skipping() || self.copying > 0 || self.is_copying_in() {
            self.client_leg.handle_failed();
            self.batch.clear();
        }
        self.end_copy();
        Ok(())
    }

    /// The first of them failed, the others never ran.
    fn failed(&mut self, flights: impl IntoIterator<Item = Flight>, sqlstate: &str) {
        let mut kinds = Vec::new();
        let mut flights = flights.into_iter().peekable();
        self.settings.failed(flights.peek().map(|flight| &*flight.statement));
        for (index, flight) in flights.enumerate() {
            kinds.extend(flight.finish(match index {
                0 => OutcomeStatus::Failed { sqlstate: sqlstate.to_owned() },
                _ => OutcomeStatus::Skipped,
            }));
        }
        if !kinds.is_empty() {
            self.note(kinds);
        }
    }

    /// Parse, Bind or Close succeeded: the name is known from now on.
    fn handle_named(&mut self) {
        match self.answered() {
            Some(Answer::Parse { name, prepared, flight }) => {
                if let Some(statement) = &prepared.statement
                    && !name.is_empty()
                    && let Ok(text) = name.to_str("the statement's name")
                {
                    self.settings.state.prepare(text, statement.clone());
                }
                self.names.enter_prepared(name, prepared);
                if let Some(flight) = flight {
                    let kinds = flight.finish(OutcomeStatus::Completed { tag: "PARSE".to_owned() });
                    self.note(kinds);
                }
            }
            Some(Answer::Bind { name, portal, flight }) => {
                if let Some(statement) = &portal.prepared.statement
                    && !name.is_empty()
                    && let Ok(text) = name.to_str("the portal's name")
                {
                    self.settings.state.open_cursor(text, statement.clone());
                }
                self.caps.opened(&name.to_string_lossy());
                self.names.enter_portal(name, portal);
                if let Some(flight) = flight {
                    let kinds = flight.finish(OutcomeStatus::Completed { tag: "BIND".to_owned() });
                    self.note(kinds);
                }
            }
            Some(Answer::Close { statement, name }) => {
                if statement {
                    if let Ok(text) = name.to_str("the statement's name") {
                        self.settings.state.forget_prepared(text);
                    }
                    self.names.forget_prepared(&name);
                } else {
                    if let Ok(text) = name.to_str("the portal's name") {
                        self.settings.state.close_cursor(text);
                    }
                    self.names.forget_portal(&name);
                }
            }
            Some(
                Answer::Query(_)
                | Answer::Describe { .. }
                | Answer::Origins
                | Answer::Execute(_)
                | Answer::Ping
                | Answer::Sync
                | Answer::Poison(_),
            )
            | None => {}
        }
    }

    fn handle_ready(&mut self, frame: Frame, status: TransactionStatus) -> Result<(), Ending> {
        let mut poison = None;
        let mut frame = Some(frame);
        let changed = self.caps.take_changed();
        if let Some(words) = self.caps.take_words() {
            match status {
                // The target must fail as the client is told it did; its own ReadyForQuery tells the end.
                TransactionStatus::InTransaction => {
                    frame = None;
                    poison = Some(words);
                }
                TransactionStatus::Idle | TransactionStatus::Failed => {
                    // The rows of a RETURNING come last: the target may have nothing left that it could cancel.
                    let kept = changed && status == TransactionStatus::Idle;
                    let words = if kept { words::kept(&words) } else { words };
                    words::say(self.client.output.tail(), &Backend::ErrorResponse(words));
                }
            }
        }
        frame.into_iter().for_each(|frame| self.pass(frame));
        if let Some(answer) = self.answered() {
            // What is left was opaque and has no CommandComplete of its own, or ran without telling.
            for flight in answer.into_flights() {
                self.settled(flight, OutcomeStatus::Completed { tag: String::new() });
            }
        }
        self.settings.ready(status);
        if status == TransactionStatus::Idle {
            self.masks.transaction_ended();
            if std::mem::take(&mut self.schema_changed) {
                self.masks.outdated();
            }
            for name in self.names.forget_portals() {
                if let Ok(text) = name.to_str("the portal's name") {
                    self.settings.state.close_cursor(text);
                }
            }
        }
        self.end_copy();
        match poison {
            Some(words) => self.tend(Housekeeping::PoisonQuery, WireRequest::Query, Answer::Poison(words)),
            None => Ok(()),
        }
    }

    fn handle_copy_in(&mut self, frame: Frame) -> Result<(), Ending> {
        while let Some(ticket) = self.server_leg.poll_discarded() {
            // Syncs behind a COPY FROM STDIN are swallowed by the server: nobody answers them.
            if let Some(at) = self.expected.iter().position(|expected| expected.ticket == ticket) {
                self.expected.remove(at);
            }
        }
        if self.stream.is_some() && !self.caps.is_muted() {
            self.pass(frame);
            self.client_leg.handle_copy_in();
            return Ok(());
        }
        // The statement was not decided as one that takes data.
        self.server_leg
            .handle_copy(lockgate_wire::postgres::automaton::CopyInput::Fail)
            .map_err(internal)
            .and_then(|fate| match fate {
                CopyFate::Forward => self.say_upstream(Housekeeping::AbortCopy),
                CopyFate::Discard => Ok(()),
            })
    }

    /// A stream in both directions, under the permit of the command that asked for it.
    fn handle_copy_both(&mut self, frame: Frame) -> Result<(), Ending> {
        let asked = self.current_flight().is_some_and(|flight| is_replication(&flight.statement.sql().kind));
        if !asked || self.stream.is_none() {
            return Err(target_fault(unasked("CopyBothResponse")));
        }
        self.pass(frame);
        self.client_leg.handle_copy_in();
        Ok(())
    }

    fn handle_copy_out(&mut self, frame: Frame) -> Result<(), Ending> {
        // By the effect: a COPY of a query that writes, or calls what may, is of a stricter class.
        let exports = self.current_flight().is_some_and(|flight| {
            let facts = flight.statement.sql();
            facts.class == SqlClass::Opaque || facts.effects.contains(&SqlEffect::Exports)
        });
        if !exports {
            return Err(target_fault(unasked("CopyOutResponse")));
        }
        // The overall format comes first: 0 is text, 1 is binary.
        if frame.bytes().get(FrameHeader::SIZE) == Some(&1)
            && let Some(limited) = self.current_flight().and_then(|flight| flight.limited.as_mut())
        {
            limited.copies_binary();
        }
        self.begin_copy_out(frame)
    }

    fn handle_parameter(&mut self, frame: Frame) -> Result<(), Ending> {
        let (name, value) = match Backend::decode(&frame).map_err(target_fault)? {
            Backend::ParameterStatus { name, value } => (name, value),
            other => return Err(target_fault(unasked(other.name()))),
        };
        if let (Ok(name), Ok(value)) = (name.to_str("a parameter"), value.to_str("a parameter")) {
            self.settings.state.parameter_status(name, value);
        }
        // A setting made from a masked value would tell it (set_config, SET from a function).
        let strip = self.expected.front().and_then(|expected| expected.answer.strip());
        if strip.is_none() || CLOSED_PARAMETERS.contains(&name.as_bytes()) {
            self.pass_always(frame);
        }
        Ok(())
    }

    /// A payload comes from any session of the database, so nobody knows what it was made of.
    fn handle_notification(&mut self, frame: Frame) -> Result<(), Ending> {
        let lineage = self.gate.masks().map(|spec| spec.on_unknown_lineage);
        match lineage {
            None | Some(UnknownLineage::Pass) => {
                self.pass_always(frame);
                return Ok(());
            }
            Some(UnknownLineage::Redact | UnknownLineage::Deny) => {}
        }
        let mut notification = match Backend::decode(&frame).map_err(target_fault)? {
            Backend::NotificationResponse(notification) => notification,
            other => return Err(target_fault(unasked(other.name()))),
        };
        if !notification.payload.is_empty() {
            notification.payload = lockgate_wire::postgres::PgString::from_static("[redacted]");
        }
        words::say(self.client.output.tail(), &Backend::NotificationResponse(notification));
        Ok(())
    }

    fn pass_report(&mut self, frame: &Frame, strip: Option<DecisionId>) -> Result<(), Ending> {
        let report = match Backend::decode(frame).map_err(target_fault)? {
            Backend::NoticeResponse(report) => report,
            other => return Err(target_fault(unasked(other.name()))),
        };
        let Self { expected, caps, .. } = self;
        if caps.is_muted() {
            return Ok(());
        }
        if let Some(flight) = expected.front_mut().and_then(|expected| expected.answer.current())
            && let Some(limited) = &mut flight.limited
            && let Err(exceeded) = caps.admit(limited, &flight.statement, 0, frame.bytes().len())
        {
            self.cut(&exceeded, true);
            return Ok(());
        }
        let shown = match (strip, self.expected.is_empty()) {
            (Some(decision), _) => report.redacted(&words::withheld(decision)),
            (None, true) => self.unasked_report(report),
            (None, false) => report,
        };
        words::say(self.client.output.tail(), &Backend::NoticeResponse(shown));
        Ok(())
    }

    /// A report that belongs to nothing the client asked (a shutdown, a timeout). The server's own words pass.
    fn unasked_report(&mut self, report: ReportFields) -> ReportFields {
        report
    }

    /// What belongs to a request; nothing of it once its result is cut.
    pub(super) fn pass(&mut self, frame: Frame) {
        if !self.caps.is_muted() {
            self.pass_always(frame);
        }
    }

    fn pass_always(&mut self, frame: Frame) {
        self.client.output.push(frame.into_bytes());
    }

    fn pass_unless_origins(&mut self, frame: Frame) {
        if !matches!(self.expected.front().map(|expected| &expected.answer), Some(Answer::Origins)) {
            self.pass(frame);
        }
    }

    fn complete_if(&mut self, reply: Reply) {
        match reply.role {
            ReplyRole::Done => {
                if let Some(answer) = self.answered() {
                    for flight in answer.into_flights() {
                        self.settled(flight, OutcomeStatus::Completed { tag: String::new() });
                    }
                }
            }
            ReplyRole::Part | ReplyRole::Failed | ReplyRole::Asynchronous => {}
        }
    }
}

/// Whether one statement may have several results: a text that was not understood may hold any number of statements, and
/// a command of replication sends several.
fn answers_often(statement: &Statement) -> bool {
    statement.class() == SqlClass::Opaque || is_replication(&statement.sql().kind)
}

/// Whether it may have changed what a view shows or a name means. What an unknown function does to the schema behind
/// everybody's back is seen when the catalogue ages; what it returns is of unknown lineage at once.
fn changes_schema(statement: &Statement) -> bool {
    let facts = statement.sql();
    let effects = [SqlEffect::ChangesSchema, SqlEffect::DynamicSql];
    match facts.class {
        SqlClass::Ddl | SqlClass::Admin | SqlClass::Call | SqlClass::Opaque => true,
        SqlClass::Read
        | SqlClass::Transaction
        | SqlClass::Session
        | SqlClass::CopyOut
        | SqlClass::Write
        | SqlClass::CopyIn => effects.iter().any(|effect| facts.effects.contains(effect)),
    }
}

/// An error of parse analysis in the client's own text: only that has a position in it, and it comes before anything runs.
/// A relation that a function or a cast names has a context, or no position.
fn names_no_relation(report: &ReportFields) -> bool {
    report.sqlstate() == b"42P01"
        && report.field(field::POSITION).is_some()
        && [field::INTERNAL_QUERY, field::INTERNAL_POSITION, field::WHERE]
            .iter()
            .all(|code| report.field(*code).is_none())
}

pub(super) fn unasked(got: &'static str) -> WireError {
    WireError::Unexpected {
        side: lockgate_wire::postgres::Side::Server,
        got,
        expected: "an answer to what was sent",
    }
}

fn too_many_results() -> Ending {
    Ending::because(CloseReason::UpstreamProtocolError, "more results than statements")
}
