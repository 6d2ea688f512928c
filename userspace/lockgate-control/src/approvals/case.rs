//! One request and the task that owns it: votes, stages, expiry, withdrawal, one after the other.
//!
//! What changes a request is recorded (synced) before anybody learns of it: the machine is copied, moved,
//! recorded, and only then put in place. A vote that cannot be recorded never happened; an expiry or a
//! withdrawal that cannot be recorded happens all the same, because it refuses, and its record is queued.

use super::registry::Seat;
use crate::{desk::Desk, notify::event::EventType};
use lockgate_model::{
    RequestId, Timestamp,
    approval::{ApprovalRequest, Progress, Resolution, Vote, WithdrawReason},
    event::{Event, EventKind},
    port::{Durability, RecordError},
};
use lockgate_policy::approval::{Machine, Step, VoteRefusal};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
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
}

impl Case {
    /// How it ended, when it has.
    pub(crate) fn resolution(&self) -> Option<Resolution> {
        self.state.borrow().progress.resolution.clone()
    }
}

/// An earlier request for the same command, as it stood when the later one was asked.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Earlier {
    request_id: RequestId,
    created_at: Timestamp,
    state: &'static str,
    /// Who decided, and why.
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
}

/// What became of a request's notification on one channel.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(crate) struct Delivery {
    pub(crate) attempts: u32,
    pub(crate) delivered: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_status: Option<u16>,
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
    /// Closed when the waiting client is gone.
    waiter: oneshot::Receiver<Withdrawal>,
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
        let machine = Machine::new(request.clone()).with_url(desk.links.person(request.id));
        let progress = machine.progress(request.created_at);
        let (state, seen) = watch::channel(State { progress, votes: Vec::new(), resolved_at: None });
        let (sender, ballots) = mpsc::channel(BALLOTS_WAITING_MAX);
        let earlier = desk.registry.earlier(&request.operation.digest);
        let case = Arc::new(Case {
            request: Arc::new(request),
            state: seen,
            ballots: sender,
            earlier,
            deliveries: Mutex::default(),
        });
        let task =
            Self { desk, case: case.clone(), machine, state, ballots, waiter, retry: None, _seat: seat };
        (task, case)
    }

    /// Records the request (synced), shows it and queues its notifications.
    pub(crate) async fn open(&mut self) -> Result<(), RecordError> {
        let request = &self.case.request;
        let requested = self.event(
            request.created_at,
            EventKind::ApprovalRequested {
                request: request.id,
                operation: request.operation.id,
                command_digest: request.operation.digest,
                expires_at: self.machine.expires_at(),
                takes_up: None,
            },
        );
        self.record(vec![requested]).await?;
        self.desk.registry.insert(self.case.clone());
        self.notify(EventType::Requested);
        tracing::info!(request = %request.id, session = %request.session.id, target_name = %request.session.target.name, "approval requested");
        Ok(())
    }

    /// Drives the request to its end.
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
                withdrawal = &mut self.waiter => match withdrawal {
                    Ok(Withdrawal { reason, done }) => {
                        self.withdraw(reason).await;
                        // Nobody waits for the answer when the client's task was dropped meanwhile.
                        let _ = done.send(());
                    }
                    Err(_) => self.withdraw(WithdrawReason::Disconnected).await,
                },
                () = tokio::time::sleep(pause) => self.pass_time().await,
                () = drain.cancelled() => self.withdraw(WithdrawReason::Drained).await,
            }
        }
        self.end();
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
        self.record_vote(now, cast, &step).await.map_err(BallotError::Record)?;
        self.machine = moved;
        tracing::info!(request = %self.case.request.id, "vote counted");
        Ok(self.publish(now))
    }

    async fn record_vote(&self, now: Timestamp, vote: Option<Vote>, step: &Step) -> Result<(), RecordError> {
        let request = self.case.request.id;
        let mut events = Vec::with_capacity(2);
        if let Some(vote) = vote {
            events.push(self.event(now, EventKind::VoteCast { request, vote }));
        }
        match step {
            Step::Resolved(resolution) => events.push(self.resolved(now, resolution.clone())),
            Step::Progressed | Step::Unchanged => {}
        }
        self.record(events).await
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
                let event = self.resolved(now, resolution);
                match self.record(vec![event.clone()]).await {
                    Ok(()) => {}
                    Err(error) if approves => {
                        tracing::error!(request = %self.case.request.id, %error, "recording an approval");
                        self.retry = Some(RECORD_RETRY);
                        return;
                    }
                    Err(error) => self.queue(event, &error),
                }
                self.machine = moved;
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
        self.state.send_modify(|state| *state = State { progress, votes, resolved_at });
        told
    }

    fn end(&mut self) {
        let Some(resolution) = self.machine.resolution().cloned() else { return };
        self.ballots.close();
        let request = &self.case.request;
        let waited = self.desk.ambient.now().duration_since(request.created_at).as_secs_f64();
        metrics::histogram!("lockgate_approval_wait_seconds", "outcome" => resolution.as_str())
            .record(waited.max(0.0));
        tracing::info!(request = %request.id, outcome = resolution.as_str(), "approval resolved");
        self.desk.registry.resolved(&self.case);
        self.notify(match resolution {
            Resolution::Approved { .. } => EventType::Approved,
            Resolution::Denied { .. } => EventType::Denied,
            Resolution::Expired => EventType::Expired,
            Resolution::Withdrawn { .. } => EventType::Cancelled,
        });
    }

    fn notify(&self, kind: EventType) {
        self.desk.notify(kind, &self.case);
    }

    fn resolved(&self, at: Timestamp, resolution: Resolution) -> Event {
        self.event(at, EventKind::ApprovalResolved { request: self.case.request.id, resolution })
    }

    fn event(&self, at: Timestamp, kind: EventKind) -> Event {
        Event { at, session: Some(self.case.request.session.id), kind }
    }
}
