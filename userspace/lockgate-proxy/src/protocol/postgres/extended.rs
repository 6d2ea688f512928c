//! The extended protocol: Parse, Bind, Describe, Execute, Close, kept back until Sync or Flush, or until enough have come,
//! then decided as one batch before its first byte goes on.
//!
//! What is decided: every Execute, with its bound values; a Bind that nothing in the batch executes; a Parse that nothing
//! in the batch binds. Describe, Close, Sync and Flush travel with them. Inside a batch each message may count on the ones
//! before it: had one of them failed, the server would skip the rest.
//!
//! A refusal is an error of the server's at the first message that belongs to the refused operation alone. What stands
//! before it goes on; behind it goes a message that must fail ([`Housekeeping::PoisonBatch`]), so that the server aborts
//! the transaction, implicit or not, and skips to Sync by its own rules. That error becomes the denial's words.

use super::{
    batch::Item,
    engine::Engine,
    flight::{Answer, Flight},
    judge::{Asked, Granted, Judgement, Unit},
    operation::{self, TransactionWalk},
    prepared::{Portal, Prepared},
    scripts::names_something,
    words,
};
use crate::{report::Ending, upstream::Housekeeping};
use bytes::{Bytes, BytesMut};
use lockgate_inspect::sql::{Control, SessionState, Statement};
use lockgate_model::{
    operation::{Operation, Parameter},
    outcome::{CloseReason, OutcomeStatus},
    sql::{SqlClass, SqlEffect},
};
use lockgate_wire::postgres::{
    Format, PgString, Target, TransactionStatus,
    automaton::{ClientPhase, MAX_OUTSTANDING, Request},
    backend::{Backend, ReportFields, Severity, sqlstate},
    frame::Frame,
    frontend::{Bind, Frontend, Parse},
};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// invalid_sql_statement_name (PostgreSQL Appendix A).
const NO_STATEMENT: &str = "26000";
/// invalid_cursor_name.
const NO_PORTAL: &str = "34000";
/// syntax_error.
const SYNTAX_ERROR: &str = "42601";
/// character_not_in_repertoire.
const NOT_IN_REPERTOIRE: &str = "22021";

/// A message of the batch, resolved: what it names is known, what it asks has a place in the list of operations.
enum Planned {
    Parse {
        name: PgString,
        prepared: Arc<Prepared>,
        bytes: Bytes,
        bound: bool,
        asked: Option<usize>,
        /// The first operation that needs it.
        first: Option<usize>,
    },
    Bind {
        name: PgString,
        portal: Portal,
        /// Where the Parse stands that it binds, when that is in the batch.
        parse: Option<usize>,
        /// The prepared statement's name, and the formats of the result.
        from: PgString,
        formats: Vec<Format>,
        statement: Option<Arc<Statement>>,
        bytes: Bytes,
        executed: bool,
        asked: Option<usize>,
        /// The first operation that needs it.
        first: Option<usize>,
    },
    Describe {
        target: Target,
        prepared: Option<Arc<Prepared>>,
        bytes: Bytes,
    },
    Execute {
        name: PgString,
        portal: Portal,
        statement: Option<Arc<Statement>>,
        bind: Option<usize>,
        bytes: Bytes,
        asked: Option<usize>,
    },
    Close {
        target: Target,
        bytes: Bytes,
    },
}

/// A batch that cannot even be asked about: the words for the client.
struct Unfit(Box<ReportFields>);

impl Unfit {
    fn new(code: &str, text: &str) -> Self {
        Self::as_the_server(code, &format!("lockgate: {text}"))
    }

    /// The server would say the same.
    fn as_the_server(code: &str, text: &str) -> Self {
        Self(Box::new(ReportFields::new(Severity::Error, code, text)))
    }

    fn no_statement(name: &PgString) -> Self {
        let text = match name.is_empty() {
            true => "unnamed prepared statement does not exist".to_owned(),
            false => format!("prepared statement \"{}\" does not exist", name.to_string_lossy()),
        };
        Self::as_the_server(NO_STATEMENT, &text)
    }

    fn no_portal(name: &PgString) -> Self {
        Self::as_the_server(NO_PORTAL, &format!("portal \"{}\" does not exist", name.to_string_lossy()))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Takes a message of the extended protocol.
    pub(crate) async fn extended(&mut self, message: Frontend, frame: Frame) -> Result<(), Ending> {
        let bytes = frame.into_bytes();
        let item = match message {
            Frontend::Sync => return self.close_batch(true).await,
            Frontend::Flush => return self.close_batch(false).await,
            Frontend::Parse(parse) => Item::Parse(parse, bytes),
            Frontend::Bind(bind) => Item::Bind(bind, bytes),
            Frontend::Describe(target) => Item::Describe(target, bytes),
            Frontend::Execute(execute) => Item::Execute(execute, bytes),
            Frontend::Close(target) => Item::Close(target, bytes),
            Frontend::CopyData(_)
            | Frontend::CopyDone
            | Frontend::CopyFail(_)
            | Frontend::FunctionCall(_)
            | Frontend::Password(_)
            | Frontend::Query(_)
            | Frontend::Terminate => return Err(Ending::plain(CloseReason::Internal)),
        };
        // Only now, since a Sync right behind would have asked for the same with less to say.
        if self.batch.is_due(&self.limits) {
            self.release().await?;
            if self.client_leg.phase() == ClientPhase::Skipping {
                return Ok(());
            }
        }
        self.batch.push(item);
        Ok(())
    }

    /// Decides and sends what waits, although the client has not asked for answers yet.
    async fn release(&mut self) -> Result<(), Ending> {
        let rest = self.batch.split();
        self.close_batch(false).await?;
        if self.client_leg.phase() != ClientPhase::Skipping {
            rest.into_iter().for_each(|item| self.batch.push(item));
        }
        Ok(())
    }

    /// Sync, Flush or enough: what waits is decided and sent.
    pub(crate) async fn close_batch(&mut self, sync: bool) -> Result<(), Ending> {
        let items = self.batch.take();
        self.batch.unnamed = false;
        let crowded = self.server_leg.outstanding() + 2 * items.len() + 1 > MAX_OUTSTANDING;
        if crowded || self.caps.is_in_force() {
            self.settle().await?;
        }
        if self.server_leg.is_skipping() {
            // An earlier part of the segment failed, and the client was told.
            return if sync { self.sync() } else { Ok(()) };
        }
        if items.is_empty() {
            return if sync { self.sync() } else { self.say_upstream(Housekeeping::Flush) };
        }
        if items.iter().all(|item| matches!(item, Item::Describe(..) | Item::Close(..))) {
            return self.keep_house(items, sync);
        }
        if self.unsettled > 0 || self.strange || leans_on_earlier(&items) {
            self.settle().await?;
            // All segments before are answered; of this one, no ReadyForQuery has come.
            self.strange &= self.batch.is_sent();
        }
        self.cancel.begin();
        let judged = self.judge_batch(items, sync).await;
        let cancelled = self.cancel.finish();
        match judged? {
            Fate::Answered => Ok(()),
            Fate::Refused(words) => self.refuse_batch(words, sync).await,
            Fate::Permitted { permit, requests, .. } if cancelled => {
                drop(permit);
                let flights = requests.into_iter().flat_map(|(_, answer)| answer.into_flights());
                let words = self.cancelled(flights);
                self.refuse_batch(words, sync).await
            }
            Fate::Permitted { permit, requests, fails, commits } => {
                if self.server_leg.is_skipping() {
                    // While it was decided, an earlier part of the segment failed: the server would drop this.
                    drop(permit);
                    let flights = requests.into_iter().flat_map(|(_, answer)| answer.into_flights());
                    let kinds = flights.flat_map(|flight| flight.finish(OutcomeStatus::Skipped)).collect();
                    self.note(kinds);
                    return if sync { self.sync() } else { Ok(()) };
                }
                if !sync {
                    self.batch.goes_on();
                }
                self.send(permit, requests)?;
                if commits {
                    self.settle().await?;
                    return self.sync();
                }
                if fails && !sync {
                    // Whatever the client still sends of this segment, the target will skip it.
                    self.client_leg.handle_failed();
                }
                Ok(())
            }
        }
    }

    /// The client's Sync goes on alone.
    fn sync(&mut self) -> Result<(), Ending> {
        self.batch.end();
        self.tend(Housekeeping::Sync, Request::Sync, Answer::Sync)
    }

    /// A batch of nothing but Describe and Close runs no statement.
    fn keep_house(&mut self, items: Vec<Item>, sync: bool) -> Result<(), Ending> {
        for item in items {
            match item {
                Item::Describe(target, _) => {
                    let prepared = match &target {
                        Target::Statement(name) => self.names.prepared(name).cloned(),
                        Target::Portal(name) => self.names.portal(name).map(|portal| portal.prepared.clone()),
                    };
                    let request = describe_request(&target);
                    self.tend(Housekeeping::Describe(target), request, Answer::Describe { prepared })?;
                }
                Item::Close(target, _) => {
                    let answer = close_answer(&target);
                    self.tend(Housekeeping::Close(target), Request::Close, answer)?;
                }
                Item::Parse(..) | Item::Bind(..) | Item::Execute(..) => {
                    return Err(Ending::plain(CloseReason::Internal));
                }
            }
        }
        if sync {
            self.sync()
        } else {
            self.batch.goes_on();
            self.say_upstream(Housekeeping::Flush)
        }
    }

    /// Refuses what waits: nothing of it was sent. Where the server holds a transaction, or an earlier part of the segment, it
    /// is made to fail as well, so that no later Sync or COMMIT keeps what came before.
    async fn refuse_batch(&mut self, words: ReportFields, sync: bool) -> Result<(), Ending> {
        self.settle().await?;
        if self.server_leg.is_skipping() {
            if sync {
                return self.sync();
            }
            self.client_leg.handle_failed();
            return Ok(());
        }
        let status = self.server_leg.status();
        if self.batch.is_sent() || status == TransactionStatus::InTransaction {
            let poison = self.poison();
            self.tend(poison, Request::Parse, Answer::Poison(words))?;
            if sync {
                return self.sync();
            }
        } else {
            if self.batch.unnamed {
                self.names.forget_prepared(&PgString::default());
            }
            words::say(self.client.output.tail(), &Backend::ErrorResponse(words));
            if sync {
                words::ready(self.client.output.tail(), status);
            }
        }
        if !sync {
            self.client_leg.handle_failed();
        }
        Ok(())
    }

    /// Whether a cut of one of these results would have something to take back. A copy's data comes before any answer.
    fn may_be_taken_back<'a>(&self, mut flights: impl Iterator<Item = &'a Flight> + Clone) -> bool {
        flights.clone().any(|flight| flight.limited.is_some())
            && !flights.clone().any(Flight::may_copy_in)
            && (self.batch.is_sent() || flights.any(|flight| flight.statement.class() != SqlClass::Read))
    }

    /// What makes the target fail in the place of the message that is refused.
    fn poison(&self) -> Housekeeping {
        Housekeeping::PoisonBatch { unnamed: self.batch.unnamed }
    }

    async fn judge_batch(&mut self, items: Vec<Item>, sync: bool) -> Result<Fate, Ending> {
        self.refresh_masks().await?;
        for item in &items {
            if let Item::Parse(parse, _) = item
                && let Ok(text) = words::statement(&parse.sql, &self.settings.state)
            {
                self.understand_aside(&text).await?;
            }
        }
        // What a statement of the batch sets is in doubt for those behind it; the session itself learns of it from the
        // answers only.
        let mut before = None;
        let (mut planned, unfit) = self.plan(items, &mut before);
        self.scripts.forget_aside();
        if let Some(before) = before {
            self.settings.state = before;
        }
        let asked = self.list_operations(&mut planned);
        let unfit = match unfit {
            Some(unfit) if planned.is_empty() => return Ok(Fate::Refused(*unfit.0)),
            unfit => unfit.map(|unfit| *unfit.0),
        };
        if asked.is_empty() {
            return self.pass_empty(planned, unfit, sync);
        }
        let runs = |passing| runs_of(&planned, passing);
        let (passed, unfit) = match self.judge(asked, Unit::Batch(&runs)).await? {
            Judgement::Passed(passed) => (passed, unfit),
            Judgement::Refused(words) => (Vec::new(), Some(words)),
            Judgement::Cut(passed, words) => (passed, Some(words)),
        };
        // Denied, or it had not been asked for.
        let end = end_of(&planned, passed.len());
        if let Some(refused) = planned.get(end) {
            self.batch.unnamed = matches!(refused, Planned::Parse { name, .. } if name.is_empty());
        }
        planned.truncate(end);
        if passed.is_empty() {
            return match unfit {
                Some(words) if planned.is_empty() => Ok(Fate::Refused(words)),
                unfit => self.pass_empty(planned, unfit, sync),
            };
        }
        let mut seats: Vec<Option<(Flight, Option<Granted>)>> = Vec::with_capacity(passed.len());
        let mut cleared = Vec::with_capacity(passed.len());
        for passed in passed {
            seats.push(Some((passed.flight, passed.granted.clone())));
            cleared.push(passed.cleared);
        }
        let fails = unfit.is_some();
        // A result that is cut takes back what its statement did. With the Sync behind it, the target would have committed
        // before it heard of the cut.
        let commits =
            sync && !fails && self.may_be_taken_back(seats.iter().flatten().map(|(flight, _)| flight));
        let (payload, requests) =
            self.pack(planned, &mut seats, unfit, sync && !commits).map_err(super::engine::internal)?;
        match self.permit(cleared, payload).await? {
            Ok(permit) => Ok(Fate::Permitted { permit, requests, fails, commits }),
            Err(words) => Ok(Fate::Refused(words)),
        }
    }

    /// Resolves the names of the batch. It ends where the server would fail: what stands before that is still the
    /// client's to have, and what follows would be skipped.
    fn plan(&mut self, items: Vec<Item>, before: &mut Option<SessionState>) -> (Vec<Planned>, Option<Unfit>) {
        let mut planned: Vec<Planned> = Vec::with_capacity(items.len());
        for item in items {
            let unnamed = matches!(&item, Item::Parse(parse, _) if parse.statement.is_empty());
            match self.plan_item(item, &mut planned, before) {
                Ok(next) => planned.push(next),
                Err(unfit) => {
                    self.batch.unnamed = unnamed;
                    return (planned, Some(unfit));
                }
            }
        }
        (planned, None)
    }

    fn plan_item(
        &mut self,
        item: Item,
        planned: &mut [Planned],
        before: &mut Option<SessionState>,
    ) -> Result<Planned, Unfit> {
        Ok(match item {
            Item::Parse(parse, bytes) => self.plan_parse(&parse, bytes)?,
            Item::Bind(bind, bytes) => self.plan_bind(&bind, bytes, planned)?,
            Item::Describe(target, bytes) => {
                let prepared = match &target {
                    Target::Statement(name) => {
                        self.find_prepared(name, planned, false).map(|(prepared, _)| prepared)
                    }
                    Target::Portal(name) => {
                        self.find_portal(name, planned, false).map(|(portal, _)| portal.prepared)
                    }
                };
                Planned::Describe { target, prepared, bytes }
            }
            Item::Execute(execute, bytes) => {
                let name = execute.portal;
                let Some((portal, bind)) = self.find_portal(&name, planned, true) else {
                    return Err(Unfit::no_portal(&name));
                };
                let statement = self.current(&portal.prepared);
                self.strange |= statement.as_deref().is_some_and(runs_unknown_code);
                if let Some(statement) = &statement
                    && !matches!(statement.control, Control::None)
                {
                    before.get_or_insert_with(|| self.settings.state.clone());
                    self.settings.state.sent(statement);
                }
                Planned::Execute { name, portal, statement, bind, bytes, asked: None }
            }
            Item::Close(target, bytes) => Planned::Close { target, bytes },
        })
    }

    fn plan_parse(&mut self, parse: &Parse, bytes: Bytes) -> Result<Planned, Unfit> {
        let text = words::statement(&parse.sql, &self.settings.state)
            .map_err(|fault| Unfit::new(NOT_IN_REPERTOIRE, &fault.to_string()))?;
        self.names
            .admit_prepared(&parse.statement, text.len())
            .map_err(|error| Unfit::new(sqlstate::LIMIT_EXCEEDED, &error.to_string()))?;
        let script = self.script(&text);
        let statement = match script.statements.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            [_, _, ..] => {
                let text = "cannot insert multiple commands into a prepared statement";
                return Err(Unfit::as_the_server(SYNTAX_ERROR, text));
            }
        };
        let generation = self.scripts.generation(&self.settings.state, self.masks.catalogue());
        // What holds no statement goes on as the empty text: no reading of it can find one.
        let bytes = match &statement {
            Some(_) => bytes,
            None => encoded(Housekeeping::PrepareEmpty {
                name: parse.statement.clone(),
                types: parse.parameter_types.clone(),
            })?,
        };
        let prepared = Arc::new(Prepared {
            names_something: names_something(&text),
            statement,
            generation,
            declared: parse.parameter_types.clone(),
            described: Default::default(),
            strip: Default::default(),
            approval: Default::default(),
        });
        let name = parse.statement.clone();
        Ok(Planned::Parse { name, prepared, bytes, bound: false, asked: None, first: None })
    }

    fn plan_bind(&mut self, bind: &Bind, bytes: Bytes, planned: &mut [Planned]) -> Result<Planned, Unfit> {
        self.names
            .admit_portal(&bind.portal)
            .map_err(|error| Unfit::new(sqlstate::LIMIT_EXCEEDED, &error.to_string()))?;
        let Some((prepared, parse)) = self.find_prepared(&bind.statement, planned, true) else {
            return Err(Unfit::no_statement(&bind.statement));
        };
        let bytes = match &prepared.statement {
            Some(_) => bytes,
            None => encoded(Housekeeping::BindEmpty {
                portal: bind.portal.clone(),
                statement: bind.statement.clone(),
                values: bind.parameters.len(),
                formats: bind.result_formats.clone(),
            })?,
        };
        let statement = self.current(&prepared);
        let parameters: Vec<Parameter> = operation::parameters(bind, prepared.types());
        let portal = Portal { prepared, parameters: parameters.into(), approval: None };
        Ok(Planned::Bind {
            name: bind.portal.clone(),
            portal,
            parse,
            from: bind.statement.clone(),
            formats: bind.result_formats.clone(),
            statement,
            bytes,
            executed: false,
            asked: None,
            first: None,
        })
    }

    /// What a prepared statement would run now. The server reads its text anew when the search path or the schema changed,
    /// and EXECUTE and FETCH mean what their name means at that moment; so does this.
    fn current(&mut self, prepared: &Prepared) -> Option<Arc<Statement>> {
        let statement = prepared.statement.as_ref()?;
        let generation = self.scripts.generation(&self.settings.state, self.masks.catalogue());
        if generation == prepared.generation && !prepared.names_something {
            return Some(statement.clone());
        }
        // One statement then is one statement now, or a text that is not understood any more.
        self.script(&statement.text).statements.first().or(Some(statement)).cloned()
    }

    /// The prepared statement of this name as it will be when the batch has come this far, and the Parse that makes it.
    fn find_prepared(
        &self,
        name: &PgString,
        planned: &mut [Planned],
        binds: bool,
    ) -> Option<(Arc<Prepared>, Option<usize>)> {
        for (index, earlier) in planned.iter_mut().enumerate().rev() {
            match earlier {
                Planned::Parse { name: parsed, prepared, bound, .. } if parsed == name => {
                    *bound |= binds;
                    return Some((prepared.clone(), Some(index)));
                }
                Planned::Close { target: Target::Statement(closed), .. } if closed == name => return None,
                _ => {}
            }
        }
        self.names.prepared(name).map(|prepared| (prepared.clone(), None))
    }

    /// The portal of this name as it will be when the batch has come this far, and the Bind that makes it.
    fn find_portal(
        &self,
        name: &PgString,
        planned: &mut [Planned],
        executes: bool,
    ) -> Option<(Portal, Option<usize>)> {
        for (index, earlier) in planned.iter_mut().enumerate().rev() {
            match earlier {
                Planned::Bind { name: bound, portal, executed, .. } if bound == name => {
                    *executed |= executes;
                    return Some((portal.clone(), Some(index)));
                }
                Planned::Close { target: Target::Portal(closed), .. } if closed == name => return None,
                _ => {}
            }
        }
        self.names.portal(name).map(|portal| (portal.clone(), None))
    }

    /// The operations of the batch, in the order they would run.
    fn list_operations(&mut self, planned: &mut [Planned]) -> Vec<Asked> {
        let mut walk = TransactionWalk::from(self.server_leg.status());
        // What went on before keeps its locks until the segment ends.
        let waits_for_sync = self.batch.is_sent();
        let mut asked = Vec::new();
        for item in planned.iter_mut() {
            let (statement, parameters, approval, seat, runs) = match item {
                Planned::Parse { prepared, bound: false, asked, .. } => {
                    (prepared.statement.clone(), Arc::from([]), None, asked, false)
                }
                Planned::Bind { portal, statement, executed: false, asked, .. } => {
                    // It goes with the first portal: a second one would be a second run.
                    let approval = portal.prepared.take_approval();
                    (statement.clone(), portal.parameters.clone(), approval, asked, false)
                }
                Planned::Execute { portal, statement, asked, .. } => {
                    let approval = portal.approval.clone().or_else(|| portal.prepared.take_approval());
                    (statement.clone(), portal.parameters.clone(), approval, asked, true)
                }
                Planned::Parse { .. }
                | Planned::Bind { .. }
                | Planned::Describe { .. }
                | Planned::Close { .. } => continue,
            };
            let Some(statement) = &statement else { continue };
            let fresh = self.operation(statement, parameters, walk.is_open() || waits_for_sync);
            if runs {
                walk.pass(statement);
            }
            *seat = Some(asked.len());
            asked.push(ask(fresh, statement, approval, self.gate.now()));
        }
        note_first(planned);
        asked
    }

    /// The bytes of a decided batch and the answers they will have. Describe is put before an Execute whose rows are
    /// masked: the columns' origins are known only then, and remembered ones go stale when a view is replaced.
    fn pack(
        &mut self,
        planned: Vec<Planned>,
        seats: &mut [Option<(Flight, Option<Granted>)>],
        unfit: Option<ReportFields>,
        sync: bool,
    ) -> Result<(Bytes, Vec<(Request, Answer)>), lockgate_wire::postgres::WireError> {
        let mut payload = BytesMut::with_capacity(planned.iter().map(Planned::len).sum::<usize>() + 64);
        let mut requests: Vec<(Request, Answer)> = Vec::with_capacity(planned.len() + 1);
        // Where each planned message stands among the requests, for approvals found out later.
        let mut binds: Vec<(usize, usize)> = Vec::new();
        let mut take = |seat: Option<usize>| seat.and_then(|seat| seats.get_mut(seat)).and_then(Option::take);
        let mut described: Option<PgString> = None;
        for (index, item) in planned.into_iter().enumerate() {
            let before = described.take();
            match item {
                Planned::Parse { name, prepared, bytes, asked, .. } => {
                    let seat = take(asked);
                    if let Some((flight, granted)) = &seat {
                        prepared.learn(flight.strip());
                        if let Some(granted) = granted {
                            prepared.grant(granted.clone());
                        }
                    }
                    payload.extend_from_slice(&bytes);
                    let flight = seat.map(|(flight, _)| Box::new(flight));
                    requests.push((Request::Parse, Answer::Parse { name, prepared, flight }));
                }
                Planned::Bind { name, mut portal, bytes, asked, .. } => {
                    let seat = take(asked);
                    if let Some((flight, granted)) = &seat {
                        portal.prepared.learn(flight.strip());
                        portal.approval.clone_from(granted);
                    }
                    payload.extend_from_slice(&bytes);
                    binds.push((index, requests.len()));
                    let flight = seat.map(|(flight, _)| Box::new(flight));
                    requests.push((Request::Bind, Answer::Bind { name, portal, flight }));
                }
                Planned::Describe { target, prepared, bytes } => {
                    payload.extend_from_slice(&bytes);
                    requests.push((describe_request(&target), Answer::Describe { prepared }));
                    if let Target::Portal(name) = target {
                        described = Some(name);
                    }
                }
                Planned::Execute { statement: None, bytes, .. } => {
                    payload.extend_from_slice(&bytes);
                    requests.push((Request::Execute, Answer::Ping));
                }
                Planned::Execute { name, portal, statement: Some(_), bind, bytes, asked } => {
                    let Some((mut flight, granted)) = take(asked) else { continue };
                    portal.prepared.learn(flight.strip());
                    if let Some(limited) = &mut flight.limited {
                        limited.of_portal(name.to_string_lossy().into_owned());
                    }
                    if flight.is_masked() {
                        if before.as_ref() == Some(&name) {
                            flight.follow_describe();
                        } else {
                            Frontend::Describe(Target::Portal(name.clone())).encode(&mut payload)?;
                            requests.push((Request::DescribePortal, Answer::Origins));
                        }
                    }
                    payload.extend_from_slice(&bytes);
                    requests.push((Request::Execute, Answer::Execute(Box::new(flight))));
                    if let Some(granted) = granted {
                        let made = bind.and_then(|bind| binds.iter().find(|(index, _)| *index == bind));
                        match made.and_then(|(_, at)| requests.get_mut(*at)) {
                            Some((_, Answer::Bind { portal, .. })) => portal.approval = Some(granted),
                            Some(_) | None => self.names.approve_portal(&name, granted),
                        }
                    }
                }
                Planned::Close { target, bytes } => {
                    payload.extend_from_slice(&bytes);
                    requests.push((Request::Close, close_answer(&target)));
                }
            }
        }
        if let Some(words) = unfit {
            self.poison().into_message().encode(&mut payload)?;
            requests.push((Request::Parse, Answer::Poison(words)));
        }
        if sync {
            Frontend::Sync.encode(&mut payload)?;
            requests.push((Request::Sync, Answer::Sync));
        } else {
            Frontend::Flush.encode(&mut payload)?;
        }
        Ok((payload.freeze(), requests))
    }

    /// A batch of empty statements (drivers ping so) runs nothing: there is nothing to decide. The target still knows
    /// their names, and answers.
    fn pass_empty(
        &mut self,
        planned: Vec<Planned>,
        unfit: Option<ReportFields>,
        sync: bool,
    ) -> Result<Fate, Ending> {
        if self.server_leg.is_skipping() {
            // An earlier part of the segment failed while the catalogue was read.
            if sync {
                self.sync()?;
            }
            return Ok(Fate::Answered);
        }
        for item in planned {
            match item {
                Planned::Parse { name, prepared, .. } => {
                    let empty =
                        Housekeeping::PrepareEmpty { name: name.clone(), types: prepared.declared.clone() };
                    self.tend(empty, Request::Parse, Answer::Parse { name, prepared, flight: None })?;
                }
                Planned::Bind { name, portal, from, formats, .. } => {
                    let empty = Housekeeping::BindEmpty {
                        portal: name.clone(),
                        statement: from,
                        values: portal.parameters.len(),
                        formats,
                    };
                    self.tend(empty, Request::Bind, Answer::Bind { name, portal, flight: None })?;
                }
                Planned::Describe { target, prepared, .. } => {
                    let request = describe_request(&target);
                    self.tend(Housekeeping::Describe(target), request, Answer::Describe { prepared })?;
                }
                Planned::Execute { name, .. } => {
                    self.tend(Housekeeping::RunEmpty(name), Request::Execute, Answer::Ping)?;
                }
                Planned::Close { target, .. } => {
                    let answer = close_answer(&target);
                    self.tend(Housekeeping::Close(target), Request::Close, answer)?;
                }
            }
        }
        let fails = unfit.is_some();
        if let Some(words) = unfit {
            let poison = self.poison();
            self.tend(poison, Request::Parse, Answer::Poison(words))?;
        }
        if sync {
            self.sync()?;
        } else {
            self.batch.goes_on();
            self.say_upstream(Housekeeping::Flush)?;
            if fails {
                self.client_leg.handle_failed();
            }
        }
        Ok(Fate::Answered)
    }
}

/// What becomes of a batch.
enum Fate {
    /// It is answered already.
    Answered,
    /// The words for the client.
    Refused(ReportFields),
    /// It may go on.
    Permitted {
        permit: lockgate_policy::permit::Permit,
        requests: Vec<(Request, Answer)>,
        /// At its end the target is made to fail.
        fails: bool,
        /// Its Sync waits until its results are through.
        commits: bool,
    },
}

impl Planned {
    /// The operation that it is.
    fn asked(&self) -> Option<usize> {
        match self {
            Self::Parse { asked, .. } | Self::Bind { asked, .. } | Self::Execute { asked, .. } => *asked,
            Self::Describe { .. } | Self::Close { .. } => None,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Parse { bytes, .. }
            | Self::Bind { bytes, .. }
            | Self::Describe { bytes, .. }
            | Self::Execute { bytes, .. }
            | Self::Close { bytes, .. } => bytes.len(),
        }
    }
}

/// Says of every Parse and Bind which operation is the first that needs it.
fn note_first(planned: &mut [Planned]) {
    for index in 0..planned.len() {
        let (seat, bind, parse) = match planned.get_mut(index) {
            Some(Planned::Parse { asked: Some(seat), first, .. }) => {
                *first = Some(*seat);
                continue;
            }
            Some(Planned::Bind { asked: Some(seat), parse, first, .. }) => {
                *first = Some(*seat);
                (*seat, None, *parse)
            }
            Some(Planned::Execute { asked: Some(seat), bind, .. }) => (*seat, *bind, None),
            Some(_) | None => continue,
        };
        let parse = match bind.and_then(|bind| planned.get_mut(bind)) {
            Some(Planned::Bind { first, parse, .. }) => {
                first.get_or_insert(seat);
                *parse
            }
            Some(_) | None => parse,
        };
        if let Some(Planned::Parse { first, .. }) = parse.and_then(|parse| planned.get_mut(parse)) {
            first.get_or_insert(seat);
        }
    }
}

/// Where the first message stands that none of so many operations needs: there ends what of the batch goes on when only they
/// pass.
fn end_of(planned: &[Planned], passing: usize) -> usize {
    let refused = |item: &Planned| match item {
        Planned::Parse { first, .. } | Planned::Bind { first, .. } => first.is_some_and(|it| it >= passing),
        Planned::Execute { asked, .. } => asked.is_some_and(|it| it >= passing),
        Planned::Describe { .. } | Planned::Close { .. } => false,
    };
    planned.iter().position(refused).unwrap_or(planned.len())
}

/// How many operations run when only so many pass. Where the Parse of one that does not stands before the Execute of one
/// that would, the error comes first.
fn runs_of(planned: &[Planned], passing: usize) -> usize {
    let mut runs = passing;
    loop {
        let sent = planned.iter().take(end_of(planned, runs));
        let left = sent.filter(|item| item.asked().is_some()).count();
        if left >= runs {
            return runs;
        }
        runs = left;
    }
}

/// Asks for an operation, with an earlier approval of the very same one when there is one that has not run out.
fn ask(
    fresh: Arc<Operation>,
    statement: &Arc<Statement>,
    approval: Option<Granted>,
    now: lockgate_model::Timestamp,
) -> Asked {
    let approval = approval.filter(|granted| granted.fits(&fresh, now));
    let operation = match &approval {
        Some(granted) => granted.operation.clone(),
        None => fresh,
    };
    Asked { operation, statement: statement.clone(), approval }
}

/// Whether it calls what may change a setting without saying so.
fn runs_unknown_code(statement: &Statement) -> bool {
    statement.sql().effects.contains(&SqlEffect::UnknownFunction)
        || matches!(statement.control, Control::Anything)
}

/// Whether the batch uses an unnamed statement or portal that an earlier batch made: the answer to that must be in first.
fn leans_on_earlier(items: &[Item]) -> bool {
    let (mut parsed, mut bound) = (false, false);
    for item in items {
        match item {
            Item::Parse(parse, _) => parsed |= parse.statement.is_empty(),
            Item::Bind(bind, _) => {
                if bind.statement.is_empty() && !parsed {
                    return true;
                }
                bound |= bind.portal.is_empty();
            }
            Item::Execute(execute, _) if execute.portal.is_empty() && !bound => return true,
            Item::Describe(..) | Item::Execute(..) | Item::Close(..) => {}
        }
    }
    false
}

fn encoded(message: Housekeeping) -> Result<Bytes, Unfit> {
    message
        .into_message()
        .to_bytes()
        .map_err(|fault| Unfit::new(sqlstate::LIMIT_EXCEEDED, &fault.to_string()))
}

fn describe_request(target: &Target) -> Request {
    match target {
        Target::Statement(_) => Request::DescribeStatement,
        Target::Portal(_) => Request::DescribePortal,
    }
}

fn close_answer(target: &Target) -> Answer {
    let statement = matches!(target, Target::Statement(_));
    Answer::Close { statement, name: target.name().clone() }
}
