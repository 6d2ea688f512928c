//! One session on an open target: one task that moves bytes in both directions, decides what the client asks for, and
//! waits for nothing without going on to relay what is already on its way.
//!
//! Everything a session knows is in [`Engine`], owned by its task: no lock, no channel. [`Engine::turn`] is the only place
//! that reads or writes a socket; whatever else has to be waited for (a record, a catalogue, people) is waited for beside
//! it ([`Engine::relay_while`]). The messages of the client are taken one at a time; what they mean is in `simple`,
//! `extended` and `copy`, what the target answers in `respond`.

use super::{
    CancelTarget,
    batch::Batch,
    caps::Caps,
    flight::{Answer, Expected},
    follow::Followed,
    leg::Leg,
    masks::Masks,
    prepared::Names,
    scripts::Scripts,
    words,
};
use crate::{
    cancel::CancelSignal,
    drain::Drain,
    gate::Gate,
    limits::{Limits, READ_CHUNK, SMALL_READ, UPSTREAM_WRITE_HIGH},
    report::{Ending, FlowReport},
    upstream::{Housekeeping, Upstream, UpstreamReader},
};
use lockgate_inspect::sql::{DumpWatch, SessionState};
use lockgate_model::{
    operation::SqlContext,
    outcome::{CloseReason, OutcomeStatus},
};
use lockgate_policy::permit::{Permit, StreamPermit};
use lockgate_wire::postgres::{
    Side, TransactionStatus, WireError,
    automaton::{ClientLeg, ClientPhase, ClientStep, Request, RequestFate, ServerLeg},
    frame::{Frame, FrameDecoder, Limits as FrameLimits},
    frontend::Frontend,
};
use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

/// What the engine is made of.
pub(crate) struct Parts<C> {
    /// The client, greeted.
    pub(crate) client: Leg<C>,
    /// Its automaton, past the first ReadyForQuery.
    pub(crate) client_leg: ClientLeg,
    /// The open target.
    pub(crate) upstream: Upstream,
    /// Its receiving half.
    pub(crate) reader: UpstreamReader,
    /// The status of its first ReadyForQuery.
    pub(crate) status: TransactionStatus,
    /// Policy.
    pub(crate) gate: Gate,
    /// It takes commands of replication.
    pub(crate) replicates: bool,
    /// Texts that were understood before.
    pub(crate) scripts: Scripts,
    /// What is known of the session's settings.
    pub(crate) state: SessionState,
    /// The database, for the context of operations.
    pub(crate) database: String,
    /// Masks.
    pub(crate) masks: Masks,
    /// Cancellation.
    pub(crate) cancel: Arc<CancelSignal>,
    /// How lockgate itself cancels at the target.
    pub(crate) cancel_target: Arc<CancelTarget>,
    /// Stopping.
    pub(crate) drain: Drain,
    /// Bounds.
    pub(crate) limits: Limits,
    /// The closing record.
    pub(crate) report: FlowReport,
}

/// One session.
pub(crate) struct Engine<C> {
    pub(crate) client: Leg<C>,
    pub(crate) client_leg: ClientLeg,
    pub(crate) upstream: Upstream,
    pub(crate) reader: UpstreamReader,
    /// Bytes the next read of the target takes at most: little while answers are small, since sessions are many.
    read_chunk: usize,
    /// The target closed its side.
    pub(crate) reader_ended: bool,
    /// The target has told the client itself that the session ends.
    pub(crate) last_words: bool,
    /// Bytes were queued for the target and may not all have left, those inside TLS included.
    upstream_dirty: bool,
    /// Armed while bytes wait for the target and none leaves.
    upstream_stalled: Option<(usize, Pin<Box<Sleep>>)>,
    pub(crate) server_leg: ServerLeg,
    pub(crate) expected: VecDeque<Expected>,
    /// Bytes of the current server message that go to the client without being looked at.
    pub(crate) passing: usize,
    /// The copy that goes to the client under masks.
    pub(crate) copy_out: super::copy_out::CopyOut,
    /// Bytes of the current CopyData of the client that go to the target without being looked at.
    pub(crate) copying: usize,
    /// The right to send the data of the copy that is running.
    pub(crate) stream: Option<StreamPermit>,
    /// Sent and unanswered operations after which the session's state is known only when they are answered.
    pub(crate) unsettled: usize,
    /// A function that lockgate does not know ran, or will, since the server last told its settings (it does so before
    /// ReadyForQuery): how it reads a text is in doubt until then.
    pub(crate) strange: bool,
    pub(crate) batch: Batch,
    pub(crate) names: Names,
    pub(crate) scripts: Scripts,
    pub(crate) gate: Gate,
    /// It takes commands of replication, which are judged before anything is read as SQL.
    pub(crate) replicates: bool,
    pub(crate) settings: Followed,
    pub(crate) database: String,
    /// Where the last statement ran.
    pub(crate) context: Arc<SqlContext>,
    pub(crate) masks: Masks,
    /// Rules ask about the catalogue, and it could not be had.
    pub(crate) catalogue_missing: bool,
    /// Whether the session behaves as a dump tool's does.
    pub(crate) dumps: DumpWatch,
    /// A schema change that others see when the open transaction commits.
    pub(crate) schema_changed: bool,
    pub(crate) cancel: Arc<CancelSignal>,
    pub(crate) caps: Caps,
    pub(crate) drain: Drain,
    pub(crate) limits: Limits,
    /// Last field: the closing record follows what the engine's drop has to say.
    pub(crate) report: FlowReport,
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    pub(crate) fn new(parts: Parts<C>) -> Self {
        let mut dumps = DumpWatch::default();
        parts.gate.session.client.application_name.iter().for_each(|name| dumps.named(name));
        Self {
            client: parts.client,
            client_leg: parts.client_leg,
            upstream: parts.upstream,
            reader: parts.reader,
            read_chunk: SMALL_READ,
            reader_ended: false,
            last_words: false,
            upstream_dirty: false,
            upstream_stalled: None,
            server_leg: ServerLeg::new(parts.status),
            expected: VecDeque::new(),
            passing: 0,
            copy_out: super::copy_out::CopyOut::default(),
            copying: 0,
            stream: None,
            unsettled: 0,
            strange: false,
            batch: Batch::default(),
            names: Names::default(),
            scripts: parts.scripts,
            gate: parts.gate,
            replicates: parts.replicates,
            settings: Followed::new(parts.state),
            context: Arc::new(SqlContext { database: parts.database.clone(), ..SqlContext::default() }),
            database: parts.database,
            masks: parts.masks,
            catalogue_missing: false,
            dumps,
            schema_changed: false,
            cancel: parts.cancel,
            caps: Caps::new(parts.cancel_target),
            drain: parts.drain,
            limits: parts.limits,
            report: parts.report,
        }
    }

    /// Runs the session to its end, says goodbye on both legs, and reports.
    pub(crate) async fn run(mut self: Box<Self>) {
        let ending = match self.serve().await {
            Ok(ending) | Err(ending) => ending,
        };
        let limit = crate::limits::FAREWELL_TIME;
        self.farewell(&ending);
        let Self { client, upstream, .. } = &mut *self;
        let leave = async {
            // The target is told in the protocol's words, as far as it still listens.
            if upstream.housekeeping(Housekeeping::Terminate).is_ok() {
                let _ = upstream.shutdown().await;
            }
        };
        let _ = tokio::join!(client.farewell(limit), tokio::time::timeout(limit, leave));
        self.report.end(ending);
    }

    /// Takes the client's messages until the session ends.
    async fn serve(&mut self) -> Result<Ending, Ending> {
        let decoder = FrameDecoder::new(FrameLimits::CLIENT);
        let draining = self.drain.draining.clone();
        let deadline = self.drain.deadline.clone();
        let mut draining = pin!(draining.cancelled());
        let mut deadline = pin!(deadline.cancelled());
        let mut is_draining = false;
        let said_at_opening = (self.client.read, self.client.input.is_empty());
        loop {
            if self.upstream.pending() < UPSTREAM_WRITE_HIGH && !self.awaits_copy() && !self.caps.is_cutting()
            {
                if self.is_copying_in() {
                    if self.copy_in()? {
                        continue;
                    }
                } else if self.copies_early() {
                    // Copy data right behind its Execute: the target is asked for the copy first.
                    self.close_batch(false).await?;
                    continue;
                } else if let Some(frame) = decoder.next(&mut self.client.input).map_err(client_fault)? {
                    if let Some(ending) = self.take(frame).await? {
                        return Ok(ending);
                    }
                    continue;
                }
                if self.client.ended {
                    return Ok(if said_at_opening == (self.client.read, true) {
                        Ending::because(CloseReason::ClientClosed, super::startup::LEFT_AT_ONCE)
                    } else if self.client.input.is_empty() {
                        Ending::because(CloseReason::ClientClosed, "without Terminate")
                    } else {
                        Ending::because(
                            CloseReason::ClientProtocolError,
                            "the connection ended inside a message",
                        )
                    });
                }
            }
            if is_draining && self.is_idle() {
                return Err(Ending::plain(CloseReason::Drained));
            }
            tokio::select! {
                biased;
                turned = self.turn(true) => turned?,
                () = &mut draining, if !is_draining => is_draining = true,
                () = &mut deadline => return Err(self.drain.ending().1),
            }
        }
    }

    /// Takes one message of the client.
    async fn take(&mut self, frame: Frame) -> Result<Option<Ending>, Ending> {
        let message = match Frontend::decode(&frame) {
            Ok(message) => message,
            Err(WireError::UnknownTag { tag, .. }) => {
                return Box::pin(self.refuse_unknown(tag)).await.map(Some);
            }
            Err(fault) => return Err(client_fault(fault)),
        };
        match self.client_leg.handle_frontend(&message).map_err(client_fault)? {
            ClientStep::Request(Request::Query) => match message {
                Frontend::Query(sql) => self.simple(&sql, frame).await?,
                _ => return Err(Ending::plain(CloseReason::Internal)),
            },
            ClientStep::Request(Request::FunctionCall) => match message {
                Frontend::FunctionCall(call) => Box::pin(self.function_call(&call, frame)).await?,
                _ => return Err(Ending::plain(CloseReason::Internal)),
            },
            ClientStep::Request(_) | ClientStep::Flush => self.extended(message, frame).await?,
            ClientStep::Copy(_) | ClientStep::StrayCopy(_) | ClientStep::Skip => {}
            ClientStep::Password => {
                return Err(Ending::because(CloseReason::ClientProtocolError, "a password nobody asked for"));
            }
            ClientStep::Terminate => {
                // What was asked before is answered first, for a client that still listens.
                while self.server_leg.outstanding() > 0 && !self.client.ended {
                    self.turn(true).await?;
                }
                return Ok(Some(Ending::plain(CloseReason::ClientClosed)));
            }
        }
        Ok(None)
    }

    /// Moves bytes until something moved, then takes in what the target answered. `read_client` also takes bytes from the
    /// client, within the read-ahead bound. Cancel-safe: all that moved is in the engine's buffers.
    pub(crate) async fn turn(&mut self, read_client: bool) -> Result<(), Ending> {
        poll_fn(|cx| self.poll_io(cx, read_client)).await?;
        self.respond()
    }

    /// Waits for `work` while the answers to what was sent before are relayed. `work` must not need the engine.
    pub(crate) async fn relay_while<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ending> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                turned = self.turn(true) => turned?,
            }
        }
    }

    /// Waits until everything that was sent is answered.
    pub(crate) async fn settle(&mut self) -> Result<(), Ending> {
        while self.server_leg.outstanding() > 0 || self.caps.is_cutting() {
            if self.is_copying_in() {
                let detail = "a request behind a COPY FROM STDIN came before its data";
                return Err(Ending::because(CloseReason::ClientProtocolError, detail));
            }
            self.turn(true).await?;
        }
        Ok(())
    }

    /// Queues a permitted payload and expects its answers, in order.
    pub(crate) fn send(
        &mut self,
        permit: Permit,
        requests: impl IntoIterator<Item = (Request, Answer)>,
    ) -> Result<(), Ending> {
        self.stream = permit.stream();
        self.upstream.send(permit);
        self.upstream_dirty = true;
        for (request, mut answer) in requests {
            answer.begin();
            if answer.is_limited() {
                self.caps.enforce();
            }
            self.expect(request, answer)?;
        }
        Ok(())
    }

    /// Queues a message of lockgate's own and expects its answer.
    pub(crate) fn tend(
        &mut self,
        what: Housekeeping,
        request: Request,
        answer: Answer,
    ) -> Result<(), Ending> {
        self.say_upstream(what)?;
        self.expect(request, answer)
    }

    /// Queues a message of lockgate's own that has no answer.
    pub(crate) fn say_upstream(&mut self, what: Housekeeping) -> Result<(), Ending> {
        self.upstream_dirty = true;
        self.upstream.housekeeping(what).map_err(internal)
    }

    /// Queues the next piece of a permitted copy.
    pub(crate) fn send_chunk(&mut self, permit: Permit) {
        self.upstream_dirty = true;
        self.upstream.send(permit);
    }

    fn expect(&mut self, request: Request, answer: Answer) -> Result<(), Ending> {
        match self.server_leg.handle_request(request).map_err(internal)? {
            RequestFate::Answered(ticket) => {
                self.unsettled += usize::from(unsettles(&answer));
                self.expected.push_back(Expected { ticket, answer });
                Ok(())
            }
            RequestFate::Ignored => {
                Err(Ending::because(CloseReason::Internal, "a request was sent that the target would ignore"))
            }
        }
    }

    /// Nothing is under way and nothing of the client waits: the session can end without harm.
    fn is_idle(&self) -> bool {
        self.server_leg.is_idle()
            && self.server_leg.status() == TransactionStatus::Idle
            && self.client.input.is_empty()
            && !self.batch.is_open()
            && self.client_leg.phase() == ClientPhase::Ready
    }

    /// A notice for the client, now.
    pub(crate) fn tell(&mut self, text: &str) {
        words::say(self.client.output.tail(), &words::notice(text));
    }

    fn farewell(&mut self, ending: &Ending) {
        use lockgate_wire::postgres::backend::sqlstate;
        if self.passing > 0 || self.last_words {
            // Inside a message nothing can be said, and the target's own last words need no echo.
            return;
        }
        let detail = ending.detail.as_deref().unwrap_or_default();
        let (code, text) = match ending.reason {
            CloseReason::ClientClosed | CloseReason::CancelRequest | CloseReason::Crash => return,
            CloseReason::UpstreamClosed => {
                (sqlstate::CONNECTION_FAILURE, format!("lockgate: the target closed the connection {detail}"))
            }
            CloseReason::ClientProtocolError => (sqlstate::PROTOCOL_VIOLATION, format!("lockgate: {detail}")),
            CloseReason::UpstreamProtocolError => {
                (sqlstate::CONNECTION_FAILURE, "lockgate: the target broke the protocol".to_owned())
            }
            CloseReason::UpstreamUnavailable | CloseReason::Refused => {
                (sqlstate::CONNECTION_REJECTED, format!("lockgate: {detail}"))
            }
            CloseReason::LimitReached => (sqlstate::LIMIT_EXCEEDED, format!("lockgate: {detail}")),
            CloseReason::Killed => (sqlstate::ADMIN_SHUTDOWN, format!("lockgate: {detail}")),
            CloseReason::Drained => (sqlstate::ADMIN_SHUTDOWN, "lockgate: stopping".to_owned()),
            CloseReason::Internal => {
                (sqlstate::CONNECTION_FAILURE, "lockgate: the session cannot go on".to_owned())
            }
        };
        words::say(self.client.output.tail(), &words::fatal(code, text.trim_end()));
    }

    fn poll_io(&mut self, cx: &mut Context<'_>, read_client: bool) -> Poll<Result<(), Ending>> {
        if let Poll::Ready(Err(error)) = self.client.poll_drain(cx) {
            return Poll::Ready(Err(client_gone(&error)));
        }
        let mut moved = match self.caps.poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(ending)) => return Poll::Ready(Err(ending)),
            Poll::Pending => false,
        };
        moved |= self.copy_out.poll(cx);
        if self.upstream_dirty {
            let was_high = self.upstream.pending() >= UPSTREAM_WRITE_HIGH;
            if let Err(ending) = self.poll_upstream(cx) {
                return Poll::Ready(Err(ending));
            }
            // Whoever stopped taking messages from the client goes on.
            moved |= was_high && self.upstream.pending() < UPSTREAM_WRITE_HIGH;
        }
        let reads = !self.reader_ended && !self.copy_out.is_waiting();
        if reads && self.client.output.len() < self.limits.client_write_high {
            match pin!(self.reader.fill(self.read_chunk)).poll(cx) {
                Poll::Ready(Ok(0)) => (self.reader_ended, moved) = (true, true),
                Poll::Ready(Ok(count)) => {
                    moved = true;
                    if count == self.read_chunk {
                        self.read_chunk = READ_CHUNK.min(2 * count);
                    } else if count < SMALL_READ / 4 {
                        self.read_chunk = SMALL_READ;
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(upstream_gone(&error))),
                Poll::Pending => {}
            }
        }
        if read_client && self.wants_client() {
            match self.client.poll_fill(cx) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(client_gone(&error))),
                Poll::Pending => {}
            }
        }
        // The answers are on their way.
        self.gate.submit_notes();
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Whether more bytes of the client may be read: below the bound, or as many as its current message still needs.
    fn wants_client(&self) -> bool {
        if self.client.ended {
            return false;
        }
        if self.client.input.len() < self.limits.client_read_ahead {
            return true;
        }
        !self.is_copying_in()
            && FrameDecoder::new(FrameLimits::CLIENT)
                .missing(&self.client.input)
                .is_ok_and(|missing| missing > 0)
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Result<(), Ending> {
        let before = self.upstream.pending();
        match pin!(self.upstream.flush()).poll(cx) {
            Poll::Ready(Ok(())) => {
                self.upstream_stalled = None;
                self.upstream_dirty = false;
                return Ok(());
            }
            Poll::Ready(Err(error)) => return Err(upstream_gone(&error)),
            Poll::Pending => {}
        }
        let left = self.upstream.pending();
        let stall = self.limits.upstream_write_stall;
        let (seen, timer) = self.upstream_stalled.get_or_insert_with(|| (left, Box::pin(sleep(stall))));
        if left < before || left < *seen {
            timer.as_mut().reset(Instant::now() + stall);
        }
        *seen = left;
        match timer.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(Ending::because(
                CloseReason::LimitReached,
                format!("the target took no byte for {} s", stall.as_secs()),
            )),
        }
    }
}

impl<C> Drop for Engine<C> {
    /// What was forwarded and not answered is recorded as broken, on every exit path.
    fn drop(&mut self) {
        self.report.counters.bytes_from_client = self.client.read;
        self.report.counters.bytes_to_client = self.client.written;
        let flights = self.expected.drain(..).flat_map(|expected| expected.answer.into_flights());
        let events = flights
            .flat_map(|flight| flight.finish(OutcomeStatus::Broken))
            .map(|kind| self.gate.event(kind))
            .collect::<Vec<_>>();
        self.gate.submit(events);
    }
}

/// Whether the session's state is in doubt until this is answered.
fn unsettles(answer: &Answer) -> bool {
    use lockgate_inspect::sql::Control;
    use lockgate_model::sql::{SqlClass, SqlEffect};
    let changes = |flight: &super::flight::Flight| {
        !matches!(flight.statement.control, Control::None)
            || matches!(
                flight.statement.class(),
                SqlClass::CopyIn | SqlClass::Opaque | SqlClass::Call | SqlClass::Ddl
            )
            || flight.statement.sql().effects.contains(&SqlEffect::Imports)
    };
    match answer {
        Answer::Query(_) | Answer::Poison(_) => true,
        Answer::Execute(flight) => changes(flight),
        // The names of statements outlive a batch; the unnamed one is prepared anew by whoever uses it.
        Answer::Parse { name, .. } => !name.is_empty(),
        Answer::Close { statement, .. } => *statement,
        Answer::Bind { name, .. } => !name.is_empty(),
        Answer::Describe { .. } | Answer::Origins | Answer::Ping | Answer::Sync => false,
    }
}

impl<C> Engine<C> {
    /// The next expected answer is complete (or will never come).
    pub(crate) fn answered(&mut self) -> Option<Answer> {
        let expected = self.expected.pop_front()?;
        self.unsettled = self.unsettled.saturating_sub(usize::from(unsettles(&expected.answer)));
        Some(expected.answer)
    }
}

pub(crate) fn client_fault(fault: WireError) -> Ending {
    let reason = match fault {
        WireError::LengthTooLarge { .. } | WireError::TooMany { .. } => CloseReason::LimitReached,
        _ => CloseReason::ClientProtocolError,
    };
    Ending::because(reason, fault.client_text())
}

pub(crate) fn target_fault(fault: WireError) -> Ending {
    // An answer can show that the client was the one: a request behind a COPY that nobody knew of yet.
    if let WireError::Unexpected { side: Side::Client, .. } = fault {
        return client_fault(fault);
    }
    Ending::because(CloseReason::UpstreamProtocolError, fault.to_string())
}

pub(crate) fn internal(fault: WireError) -> Ending {
    Ending::because(CloseReason::Internal, fault.to_string())
}

fn client_gone(error: &io::Error) -> Ending {
    match error.kind() {
        io::ErrorKind::TimedOut => Ending::because(CloseReason::LimitReached, error.to_string()),
        _ => Ending::because(CloseReason::ClientClosed, error.to_string()),
    }
}

fn upstream_gone(error: &io::Error) -> Ending {
    Ending::because(CloseReason::UpstreamClosed, error.to_string())
}
