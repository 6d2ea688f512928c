//! One request and the task that owns it: votes, stages, expiry, withdrawal, one after the other.
//!
//! What changes a request is recorded (synced) before anybody learns of it: the machine is copied, moved,
//! recorded, and only then put in place. A vote that cannot be recorded never happened; an expiry or a
//! withdrawal that cannot be recorded happens all the same, because it refuses, and its record is queued.

use super::{
    bundle::{self, BundleCase},
    port,
    registry::Seat,
};
use crate::{desk::Desk, keep, notify::event::EventType};
use lockgate_model::{
    RequestId, Timestamp,
    approval::{ApprovalRequest, Progress, Resolution, Vote, WithdrawReason},
    event::{Event, EventKind},
    grant::{Basis, GrantEnd},
    port::{Durability, RecordError},
};
use lockgate_policy::approval::{
    Machine, Step, VoteRefusal,
    bundle::Joined,
    ledger::{Entry, Ledger, Taken},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};

/// Votes that may wait for one request while an earlier one is being recorded.
const BALLOTS_WAITING_MAX: usize = 32;

/// Votes of one request: more people than decide on anything, and a bound on what a broken integration can add.
const VOTES_MAX: usize = 256;

/// A wall clock may be stepped while a task sleeps: it looks again at least this often.
const CLOCK_RECHECK: Duration = Duration::from_secs(15);

/// A stage change that approves but cannot be recorded is tried again after this long.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// A log that does not answer counts as one that fails: nobody waits past an expiry because a disk hangs.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// One request, as the API and the notifier see it.
pub(crate) struct Case {
    pub(crate) request: Arc<ApprovalRequest>,
    pub(crate) state: watch::Receiver<State>,
    pub(crate) ballots: mpsc::Sender<Ballot>,
    /// Requests for the very same command that this node still remembered when this one was asked.
    pub(crate) earlier: Vec<Earlier>,
    /// What became of its notification, by channel; at most one entry a configured channel.
    pub(crate) deliveries: Mutex<BTreeMap<String, Delivery>>,
    /// The bundle that it is told and decided with.
    pub(crate) bundle: OnceLock<Arc<BundleCase>>,
    /// The request of a client that is gone, which this one goes on with.
    pub(crate) takes_up: OnceLock<RequestId>,
    /// The request that goes on with this one.
    pub(crate) successor: OnceLock<RequestId>,
    /// For a request that wants to go on with this one.
    takers: mpsc::Sender<oneshot::Sender<HandedOver>>,
}

/// What a request leaves to the one that goes on with it.
#[derive(Clone)]
pub(crate) struct HandedOver {
    votes: Vec<Vote>,
    created_at: Timestamp,
    expires_at: Timestamp,
    bundle: Option<Arc<BundleCase>>,
}

impl Case {
    /// How it ended, when it has.
    pub(crate) fn resolution(&self) -> Option<Resolution> {
        self.state.borrow().progress.resolution.clone()
    }
}

/// An earlier request for the same command, as it stood when the later one was asked.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Earlier {
    /// `req_…`
    #[schema(value_type = String)]
    request_id: RequestId,
    /// When it was asked.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    state: &'static str,
    /// Who decided, and why: pairs of an id and a reason.
    #[schema(value_type = Vec<Vec<Option<String>>>)]
    votes: Vec<(String, Option<String>)>,
}

impl Earlier {
    pub(crate) fn of(case: &Case) -> Self {
        let state = case.state.borrow();
        let votes = state.votes.iter().map(|vote| (vote.by.id.clone(), vote.reason.clone()));
        Self {
            request_id: case.request.id,
            created_at: case.request.created_at,
            state: state.progress.resolution.as_ref().map_or("pending", Resolution::as_str),
            votes: votes.collect(),
        }
    }
}

/// Where a request stands.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) progress: Progress,
    pub(crate) votes: Vec<Vote>,
    pub(crate) resolved_at: Option<Timestamp>,
    /// Its client is gone, and it waits on.
    pub(crate) left: bool,
}

/// What became of a request's notification on one channel.
#[derive(Clone, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub(crate) struct Delivery {
    /// How often it was tried.
    pub(crate) attempts: u32,
    /// Whether it got through.
    pub(crate) delivered: bool,
    /// HTTP status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_status: Option<u16>,
    /// What went wrong the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

/// A vote on its way to the request's task.
pub(crate) struct Ballot {
    pub(crate) vote: Vote,
    pub(crate) reply: oneshot::Sender<Result<Progress, BallotError>>,
}

/// Why a vote did not count.
#[derive(Debug)]
pub(crate) enum BallotError {
    /// The machine refused it.
    Refused(VoteRefusal),
    /// It could not be recorded.
    Record(RecordError),
    /// So many have voted that no more are taken.
    TooMany(usize),
}

/// The waiting client takes its request back.
pub(crate) struct Withdrawal {
    pub(crate) reason: WithdrawReason,
    pub(crate) done: oneshot::Sender<()>,
}

/// The task's half of a request.
pub(crate) struct CaseTask {
    desk: Arc<Desk>,
    case: Arc<Case>,
    machine: Machine,
    state: watch::Sender<State>,
    ballots: mpsc::Receiver<Ballot>,
    /// Closed when the waiting client is gone. None: it is gone, and the request waits on.
    waiter: Option<oneshot::Receiver<Withdrawal>>,
    takers: mpsc::Receiver<oneshot::Sender<HandedOver>>,
    /// It ended without being told to anybody, so its end is not told either.
    quiet: bool,
    /// Set after a record failed: when to try again at the earliest.
    retry: Option<Duration>,
    _seat: Seat,
}

impl CaseTask {
    /// A request nobody has seen yet.
    pub(crate) fn new(
        desk: Arc<Desk>,
        request: ApprovalRequest,
        seat: Seat,
        waiter: oneshot::Receiver<Withdrawal>,
    ) -> (Self, Arc<Case>) {
        let machine = Machine::new(request.clone());
        Self::around(desk, machine, request, seat, Some(waiter))
    }

    /// A request that an earlier process left; its client is gone. It is shown; whoever restored its bundle, too, lets it
    /// [go on](Self::go_on).
    pub(crate) fn restored(desk: Arc<Desk>, request: ApprovalRequest, votes: Vec<Vote>, seat: Seat) -> Self {
        let machine = Machine::resumed(request.clone(), votes);
        let (task, case) = Self::around(desk, machine, request, seat, None);
        task.publish(task.desk.ambient.now());
        task.desk.registry.insert(case);
        task
    }

    /// Tells of a restored request, unless its bundle does, and drives it. Whether it was told before is not known; a
    /// receiver knows it by its id.
    pub(crate) async fn go_on(self) {
        if self.case.bundle.get().is_none() {
            self.tell();
        }
        self.run().await;
    }

    fn around(
        desk: Arc<Desk>,
        machine: Machine,
        request: ApprovalRequest,
        seat: Seat,
        waiter: Option<oneshot::Receiver<Withdrawal>>,
    ) -> (Self, Arc<Case>) {
        let owners = desk.people.owners(&request.session.principal.id);
        let machine = machine.with_url(desk.links.person(request.id)).with_owners(owners);
        let progress = machine.progress(request.created_at);
        let left = waiter.is_none();
        let (state, seen) = watch::channel(State { progress, votes: Vec::new(), resolved_at: None, left });
        let (sender, ballots) = mpsc::channel(BALLOTS_WAITING_MAX);
        let (takers, taken) = mpsc::channel(1);
        let earlier = desk.registry.earlier(&request.operation.digest);
        let case = Arc::new(Case {
            request: Arc::new(request),
            state: seen,
            ballots: sender,
            earlier,
            deliveries: Mutex::default(),
            bundle: OnceLock::new(),
            takes_up: OnceLock::new(),
            successor: OnceLock::new(),
            takers,
        });
        let task = Self {
            desk,
            case: case.clone(),
            machine,
            state,
            ballots,
            waiter,
            takers: taken,
            quiet: false,
            retry: None,
            _seat: seat,
        };
        (task, case)
    }

    /// Records the request (synced) and shows it; or finds that it is decided already. True when people are to be told.
    pub(crate) async fn open(&mut self) -> Result<bool, RecordError> {
        let now = self.case.request.created_at;
        let taken = self.desk.keep.ledger.lock().take(now, &self.case.request);
        if let Some(taken) = taken
            && self.settle(now, taken).await?
        {
            return Ok(false);
        }
        self.take_up().await;
        let takes_up = self.case.takes_up.get().copied();
        self.record(vec![self.requested(takes_up)]).await?;
        if let Err(error) = self.desk.keep.put_request(&self.case.request, self.machine.votes()).await {
            tracing::error!(request = %self.case.request.id, %error, "this request will not outlive a restart");
        }
        self.desk.registry.insert(self.case.clone());
        let request = &self.case.request;
        tracing::info!(request = %request.id, session = %request.session.id, target_name = %request.session.target.name, "approval requested");
        if takes_up.is_some() {
            // People know the one that it goes on with, and their links lead here.
            self.publish(now);
        }
        Ok(takes_up.is_none())
    }

    fn requested(&self, takes_up: Option<RequestId>) -> Event {
        let request = &self.case.request;
        let kind = EventKind::ApprovalRequested {
            request: request.id,
            operation: request.operation.id,
            command_digest: request.operation.digest,
            expires_at: self.machine.expires_at(),
            takes_up,
        };
        self.event(request.created_at, kind)
    }

    /// Tells people, alone or together with others.
    pub(crate) fn tell(&self) {
        let now = self.desk.ambient.now();
        let joined = self.desk.keep.gather.lock().join(now, &self.case.request, self.desk.bundle_id());
        match joined {
            Joined::Alone => self.notify(EventType::Requested),
            Joined::Gathering => self.desk.wake(),
            Joined::Full(bundle) => port::tell(&self.desk, bundle),
        }
    }

    /// Ends it as an earlier decision says. False when what was found could not be taken off the shelf: then people are
    /// asked, since it could be found again.
    async fn settle(&mut self, now: Timestamp, taken: Taken) -> Result<bool, RecordError> {
        let name = taken.name();
        let kept = match &taken.rest {
            Some(rest) => self.desk.keep.put(name.clone(), rest).await,
            None => self.desk.keep.remove(name.clone()).await,
        };
        if let Err(error) = kept {
            tracing::error!(request = %self.case.request.id, name, %error, "an earlier approval is not used: it could be used again");
            self.desk.keep.ledger.lock().give_back(&taken);
            return Ok(false);
        }
        let takes_up = match &taken.resolution {
            Resolution::Approved { basis: Some(Basis::TakenUp { of }), .. } => Some(*of),
            Resolution::Approved { .. } | Resolution::Denied { .. } => None,
            Resolution::Expired | Resolution::Withdrawn { .. } => None,
        };
        let mut events = vec![self.requested(takes_up), self.resolved(now, taken.resolution.clone())];
        if let Some(grant) = &taken.spent {
            events.push(self.event(now, keep::ended(grant, GrantEnd::Spent)));
        }
        if let Err(error) = self.record(events).await {
            self.desk.keep.ledger.lock().give_back(&taken);
            return Err(error);
        }
        let _ = self.machine.handle_precedent(now, taken.resolution);
        self.quiet = true;
        self.desk.registry.insert(self.case.clone());
        self.publish(now);
        Ok(true)
    }

    /// Goes on with a request for the same whose client is gone: its votes count, and it expires when that would have.
    async fn take_up(&mut self) {
        let Some(left) = self.desk.registry.left_like(&self.case.request) else { return };
        let (hand_over, handed) = oneshot::channel();
        if left.takers.send(hand_over).await.is_err() {
            return;
        }
        let Ok(handed) = handed.await else { return };
        let mut request = (*self.case.request).clone();
        request.created_at = handed.created_at;
        request.expires_at = request.expires_at.min(handed.expires_at);
        let owners = self.desk.people.owners(&request.session.principal.id);
        let url = self.desk.links.person(request.id);
        self.machine = Machine::resumed(request, handed.votes).with_url(url).with_owners(owners);
        // Set once: this request is new.
        let _ = self.case.takes_up.set(left.request.id);
        let _ = left.successor.set(self.case.request.id);
        if let Some(bundle) = handed.bundle {
            bundle.replace(&left, &self.case);
            self.desk.keep.settle_bundle(&self.desk, bundle.id, None);
            let _ = self.case.bundle.set(bundle);
        }
    }

    /// Drives the request to its end, or until the control plane stops.
    pub(crate) async fn run(mut self) {
        let drain = self.desk.drain.clone();
        while self.machine.resolution().is_none() {
            let pause = self.pause();
            tokio::select! {
                ballot = self.ballots.recv() => match ballot {
                    Some(ballot) => self.vote(ballot).await,
                    // The case itself holds a sender, so this is unreachable; ending is the safe answer.
                    None => self.withdraw(WithdrawReason::Drained).await,
                },
                Some(taker) = self.takers.recv(), if self.waiter.is_none() => self.hand_over(taker).await,
                withdrawal = gone(&mut self.waiter) => match withdrawal {
                    Ok(Withdrawal { reason: reason @ WithdrawReason::Drained, done }) => {
                        self.leave(reason).await;
                        let _ = done.send(());
                    }
                    Ok(Withdrawal { reason, done }) => {
                        self.withdraw(reason).await;
                        // Nobody waits for the answer when the client's task was dropped meanwhile.
                        let _ = done.send(());
                    }
                    Err(_) => self.withdraw(WithdrawReason::Disconnected).await,
                },
                () = tokio::time::sleep(pause) => self.pass_time().await,
                () = drain.cancelled() => {
                    self.leave(WithdrawReason::Drained).await;
                    return;
                }
            }
        }
        self.end().await;
    }

    /// The client is gone because lockgate stops: the request waits on, for people and for whoever asks again.
    async fn leave(&mut self, reason: WithdrawReason) {
        if self.waiter.take().is_none() {
            return;
        }
        let now = self.desk.ambient.now();
        let event = self.event(now, EventKind::ApprovalLeft { request: self.case.request.id, reason });
        if let Err(error) = self.record(vec![event.clone()]).await {
            self.queue(event, &error);
        }
        self.publish(now);
    }

    /// Another request goes on with this one.
    async fn hand_over(&mut self, taker: oneshot::Sender<HandedOver>) {
        let handed = HandedOver {
            votes: self.machine.votes().to_vec(),
            created_at: self.case.request.created_at,
            expires_at: self.machine.expires_at(),
            bundle: self.case.bundle.get().cloned(),
        };
        if taker.is_closed() {
            return;
        }
        self.withdraw(WithdrawReason::TakenUp).await;
        self.quiet = true;
        // Its asker may be gone by now: then it is over, as if it had been withdrawn.
        let _ = taker.send(handed);
    }

    /// How long nothing happens by itself.
    fn pause(&mut self) -> Duration {
        if let Some(retry) = self.retry.take() {
            return retry;
        }
        let Some(next) = self.machine.poll_timeout() else { return Duration::ZERO };
        let left = Duration::try_from(next.duration_since(self.desk.ambient.now())).unwrap_or(Duration::ZERO);
        left.min(CLOCK_RECHECK)
    }

    async fn vote(&mut self, ballot: Ballot) {
        let Ballot { vote, reply } = ballot;
        let now = self.desk.ambient.now();
        let answer = self.count(now, vote).await;
        // Nobody waits for the answer when the decider hung up; the vote counts all the same.
        let _ = reply.send(answer);
        // A refusal may be due to time that passed: an expiry takes effect now, not at the next wake-up.
        if self.machine.resolution().is_none() {
            self.pass_time().await;
        }
    }

    /// Moves a copy, records what that did, and only then puts the copy in place.
    async fn count(&mut self, now: Timestamp, vote: Vote) -> Result<Progress, BallotError> {
        if self.machine.votes().len() >= VOTES_MAX {
            return Err(BallotError::TooMany(VOTES_MAX));
        }
        let mut moved = self.machine.clone();
        let step = moved.handle_vote(now, vote).map_err(BallotError::Refused)?;
        let cast = moved.votes().last().cloned();
        let made = self.consequences(now, &step);
        self.record_vote(now, cast, &step, &made).await.map_err(BallotError::Record)?;
        self.machine = moved;
        match &step {
            Step::Resolved(_) => self.keep_made(made).await,
            Step::Progressed | Step::Unchanged => self.keep_votes().await,
        }
        tracing::info!(request = %self.case.request.id, "vote counted");
        Ok(self.publish(now))
    }

    /// What a decision is good for besides this request.
    fn consequences(&self, now: Timestamp, step: &Step) -> Vec<Entry> {
        let Step::Resolved(resolution) = step else { return Vec::new() };
        let request = &self.case.request;
        let mut made = Vec::new();
        if self.waiter.is_none() {
            made.extend(Ledger::left(request, resolution));
        }
        match resolution {
            Resolution::Approved { votes, basis: None } => {
                made.extend(self.desk.keep.ledger.lock().would_make(
                    now,
                    request,
                    votes,
                    self.desk.grant_id(),
                ));
            }
            Resolution::Approved { basis: Some(_), .. }
            | Resolution::Denied { .. }
            | Resolution::Expired
            | Resolution::Withdrawn { .. } => {}
        }
        made
    }

    /// It is recorded, so it is good from now on.
    async fn keep_made(&self, made: Vec<Entry>) {
        if made.is_empty() {
            return;
        }
        self.desk.keep.put_entries(&made).await;
        let mut ledger = self.desk.keep.ledger.lock();
        made.into_iter().for_each(|entry| ledger.put(entry));
        drop(ledger);
        self.desk.wake();
    }

    async fn keep_votes(&self) {
        if let Err(error) = self.desk.keep.put_request(self.machine.request(), self.machine.votes()).await {
            tracing::error!(request = %self.case.request.id, %error, "a vote will not outlive a restart");
        }
    }

    async fn record_vote(
        &self,
        now: Timestamp,
        vote: Option<Vote>,
        step: &Step,
        made: &[Entry],
    ) -> Result<(), RecordError> {
        let request = self.case.request.id;
        let mut events = Vec::with_capacity(2);
        if let Some(vote) = vote {
            events.push(self.event(now, EventKind::VoteCast { request, vote }));
        }
        match step {
            Step::Resolved(resolution) => events.push(self.resolved(now, resolution.clone())),
            Step::Progressed | Step::Unchanged => {}
        }
        events.extend(self.granted(now, made));
        self.record(events).await
    }

    fn granted(&self, now: Timestamp, made: &[Entry]) -> Vec<Event> {
        let grant = |entry: &Entry| match entry {
            Entry::Grant(grant) => Some(self.event(now, EventKind::GrantMade(Box::new(grant.clone())))),
            Entry::Lease(_) | Entry::Outcome(_) => None,
        };
        made.iter().filter_map(grant).collect()
    }

    async fn pass_time(&mut self) {
        let now = self.desk.ambient.now();
        if self.machine.poll_timeout().is_some_and(|next| next > now) {
            return;
        }
        let mut moved = self.machine.clone();
        match moved.handle_timeout(now) {
            Step::Unchanged => {}
            Step::Progressed => {
                self.machine = moved;
                self.publish(now);
                self.notify(EventType::Escalated);
            }
            Step::Resolved(resolution) => {
                let approves = matches!(resolution, Resolution::Approved { .. });
                let made = self.consequences(now, &Step::Resolved(resolution.clone()));
                let event = self.resolved(now, resolution);
                let events = std::iter::once(event.clone()).chain(self.granted(now, &made)).collect();
                match self.record(events).await {
                    Ok(()) => {}
                    Err(error) if approves => {
                        tracing::error!(request = %self.case.request.id, %error, "recording an approval");
                        self.retry = Some(RECORD_RETRY);
                        return;
                    }
                    Err(error) => self.queue(event, &error),
                }
                self.machine = moved;
                self.keep_made(made).await;
                self.publish(now);
            }
        }
    }

    async fn withdraw(&mut self, reason: WithdrawReason) {
        let now = self.desk.ambient.now();
        // Nothing that was due a moment ago happens first: a withdrawal refuses whatever its record comes to,
        // and an approval could not.
        let just_before = |due: Timestamp| due.checked_sub(Duration::from_nanos(1)).unwrap_or(due);
        let at = self.machine.poll_timeout().map_or(now, |due| now.min(just_before(due)));
        match self.machine.withdraw(at, reason) {
            Step::Unchanged | Step::Progressed => {}
            Step::Resolved(resolution) => {
                let event = self.resolved(now, resolution);
                if let Err(error) = self.record(vec![event.clone()]).await {
                    self.queue(event, &error);
                }
            }
        }
        self.publish(now);
    }

    async fn record(&self, events: Vec<Event>) -> Result<(), RecordError> {
        let recorded = self.desk.recorder.record(events, Durability::Synced);
        match tokio::time::timeout(RECORD_TIMEOUT, recorded).await {
            Ok(answer) => answer.map(|_receipt| ()),
            Err(_) => {
                Err(RecordError::Io(format!("the log did not answer within {} s", RECORD_TIMEOUT.as_secs())))
            }
        }
    }

    /// What refuses takes effect without its record; the recorder counts what it cannot even queue.
    fn queue(&self, event: Event, error: &RecordError) {
        tracing::error!(request = %self.case.request.id, %error, "recording the end of a request; queued");
        self.desk.recorder.submit(vec![event]);
    }

    /// Tells everybody who looks. From here on the decision has effect.
    fn publish(&self, now: Timestamp) -> Progress {
        let progress = self.machine.progress(now);
        let resolved_at = progress.resolution.is_some().then_some(now);
        let votes = self.machine.votes().to_vec();
        let told = progress.clone();
        let left = self.waiter.is_none();
        self.state.send_modify(|state| *state = State { progress, votes, resolved_at, left });
        self.desk.registry.changed();
        told
    }

    async fn end(&mut self) {
        let Some(resolution) = self.machine.resolution().cloned() else { return };
        self.ballots.close();
        let request = &self.case.request;
        let waited = self.desk.ambient.now().duration_since(request.created_at).as_secs_f64();
        metrics::histogram!("lockgate_approval_wait_seconds", "outcome" => resolution.as_str())
            .record(waited.max(0.0));
        tracing::info!(request = %request.id, outcome = resolution.as_str(), "approval resolved");
        self.desk.registry.resolved(&self.case);
        let was_told = !self.quiet && !self.desk.keep.gather.lock().leave(request.id);
        if let Err(error) = self.desk.keep.remove(request.id.to_string()).await {
            tracing::warn!(request = %request.id, %error, "a request that is over stays on the shelf; the record closes it");
        }
        if !was_told {
            return;
        }
        self.notify(bundle::kind(&resolution));
    }

    fn notify(&self, kind: EventType) {
        match self.case.bundle.get() {
            Some(bundle) => bundle.notify(&self.desk, kind, &self.case),
            None => self.desk.notify(kind, &self.case),
        }
    }

    fn resolved(&self, at: Timestamp, resolution: Resolution) -> Event {
        self.event(at, EventKind::ApprovalResolved { request: self.case.request.id, resolution })
    }

    fn event(&self, at: Timestamp, kind: EventKind) -> Event {
        Event { at, session: Some(self.case.request.session.id), kind }
    }
}

/// The waiting client's last word; never comes when it is gone already. Cancel-safe.
async fn gone(
    waiter: &mut Option<oneshot::Receiver<Withdrawal>>,
) -> Result<Withdrawal, oneshot::error::RecvError> {
    match waiter {
        Some(waiter) => waiter.await,
        None => std::future::pending().await,
    }
}
