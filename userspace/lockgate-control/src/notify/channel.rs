//! One channel's owner task: what is due, what is under way, what comes back. Every attempt is recorded.

use super::{
    event::EventType,
    health::{Health, Standing},
    retry::{self, Answer, Next, Urgency},
    transport::{Parcel, Transport},
};
use super::{events::Events, health::ChannelHealth};
use crate::{
    approvals::{
        bundle::BundleCase,
        case::{Case, Delivery},
    },
    desk::Desk,
};
use lockgate_model::{
    Timestamp,
    approval::Progress,
    event::{Event, EventKind},
    grant::GlassUse,
    port::{Ambient, Recorder},
};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Messages that may wait to be looked at; a burst of every request that may wait at once fits.
const QUEUE_MAX: usize = crate::approvals::registry::PENDING_MAX;

/// Messages that may wait for their next attempt; the queue holds what comes after.
const SCHEDULED_MAX: usize = 2 * QUEUE_MAX;

/// Attempts under way at once: enough that hanging ones do not hold up fresh ones, few enough for a receiver.
const IN_FLIGHT_MAX: usize = 64;

/// The clock and the log.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) recorder: Arc<dyn Recorder>,
    pub(super) ambient: Arc<dyn Ambient>,
}

/// The sending half.
pub(super) struct Channel {
    /// `webhook:<name>`, `slack:<name>`, `email:<name>`
    label: Arc<str>,
    events: Events,
    transport: Arc<Transport>,
    health: Arc<Health>,
    queue: mpsc::Sender<Message>,
    enabled: Arc<AtomicBool>,
    around: Surroundings,
}

/// One message to one channel. Its id and its moment stay the same however often it is tried.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) id: Arc<str>,
    pub(super) kind: EventType,
    pub(super) at: Timestamp,
    pub(super) about: About,
    /// Where a request, or the first of a bundle, stood when it was told.
    pub(super) progress: Option<Arc<Progress>>,
    desk: Weak<Desk>,
    attempt: u32,
}

/// What a message is about.
#[derive(Clone)]
pub(crate) enum About {
    /// A request.
    Case(Arc<Case>),
    /// Requests that are decided together.
    Bundle(Arc<BundleCase>),
    /// An emergency override.
    Glass(Arc<GlassUse>),
    /// Something of a session, or of the capture as a whole.
    Happening(Arc<Event>),
}

impl About {
    pub(super) fn first(&self) -> Option<Arc<Case>> {
        match self {
            Self::Case(case) => Some(case.clone()),
            Self::Bundle(bundle) => bundle.cases().first().cloned(),
            Self::Glass(_) | Self::Happening(_) => None,
        }
    }

    /// Whether nobody has anything left to decide.
    fn is_over(&self, now: Timestamp) -> bool {
        let over =
            |case: &Case| case.resolution().is_some() || now >= case.state.borrow().progress.expires_at;
        match self {
            Self::Case(case) => over(case),
            Self::Bundle(bundle) => bundle.cases().iter().all(|case| over(case)),
            Self::Glass(_) | Self::Happening(_) => true,
        }
    }

    fn deliveries(&self) -> Option<&Mutex<BTreeMap<String, Delivery>>> {
        match self {
            Self::Case(case) => Some(&case.deliveries),
            Self::Bundle(bundle) => Some(&bundle.deliveries),
            Self::Glass(_) | Self::Happening(_) => None,
        }
    }
}

impl Message {
    pub(super) fn new(desk: &Arc<Desk>, kind: EventType, about: About) -> Self {
        Self {
            id: format!("msg_{}", hex::encode(desk.ambient.random().to_be_bytes())).into(),
            kind,
            at: desk.ambient.now(),
            progress: about.first().map(|case| Arc::new(case.state.borrow().progress.clone())),
            about,
            desk: Arc::downgrade(desk),
            attempt: 0,
        }
    }

    fn urgency(&self) -> Urgency {
        if self.kind.is_waiting() { Urgency::Waiting } else { Urgency::FollowUp }
    }

    /// A call for a decision is pointless once the request is over; what follows up says so instead.
    fn is_pointless(&self, now: Timestamp) -> bool {
        self.kind.is_waiting() && self.about.is_over(now)
    }
}

impl Channel {
    pub(super) fn wants(&self, kind: EventType) -> bool {
        self.events.wants(kind)
    }

    pub(super) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// How it does.
    pub(super) fn health(&self) -> ChannelHealth {
        let queued = self.queue.max_capacity() - self.queue.capacity();
        self.health.read(&self.label, self.transport.kind(), queued, self.enabled.load(Ordering::Relaxed))
    }

    pub(super) fn enable(&self) {
        if !self.enabled.swap(true, Ordering::Relaxed) {
            tracing::info!(channel = &*self.label, "channel enabled again");
        }
    }

    /// Queues a message; what cannot be queued is recorded, and the request waits all the same.
    pub(super) fn queue(&self, message: Message) {
        if let Err(error) = self.queue.try_send(message) {
            let (message, why) = match error {
                mpsc::error::TrySendError::Full(message) => (message, "the channel's queue is full"),
                mpsc::error::TrySendError::Closed(message) => (message, "the channel has stopped"),
            };
            metrics::counter!("lockgate_events_dropped_total", "stage" => "notify").increment(1);
            note(&self.around, &self.label, &message, None, Some(why.to_owned()));
            self.health.failed(self.around.ambient.now(), why);
            self.health.given_up();
        }
    }
}

/// A channel and the task that serves it.
pub(super) fn channel(
    name: &str,
    events: Events,
    transport: Transport,
    around: Surroundings,
    closing: CancellationToken,
) -> (Channel, impl Future<Output = ()> + Send + 'static) {
    let label: Arc<str> = format!("{}:{name}", transport.kind()).into();
    let (transport, health) = (Arc::new(transport), Arc::new(Health::new(&label)));
    let enabled = Arc::new(AtomicBool::new(true));
    let (queue, inbox) = mpsc::channel(QUEUE_MAX);
    let task = Task {
        label: label.clone(),
        inbox,
        enabled: enabled.clone(),
        around: around.clone(),
        transport: transport.clone(),
        health: health.clone(),
        resumes: None,
        scheduled: BTreeMap::new(),
        arrivals: 0,
        under_way: JoinSet::new(),
        closing,
    };
    (Channel { label, events, transport, health, queue, enabled, around }, task.run())
}

struct Task {
    label: Arc<str>,
    inbox: mpsc::Receiver<Message>,
    enabled: Arc<AtomicBool>,
    around: Surroundings,
    transport: Arc<Transport>,
    health: Arc<Health>,
    /// Nothing is sent before; the receiver asked for it.
    resumes: Option<Instant>,
    /// By the moment of the next attempt, then by arrival.
    scheduled: BTreeMap<(Instant, u64), Message>,
    arrivals: u64,
    under_way: JoinSet<(Message, Instant, Answer)>,
    closing: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let closing = self.closing.clone();
        let mut closed = false;
        loop {
            if closed && self.scheduled.is_empty() && self.under_way.is_empty() && self.inbox.is_empty() {
                return;
            }
            let due = self.scheduled.first_key_value().map(|((due, _), _)| *due);
            let due = due.map(|due| self.resumes.map_or(due, |resumes| due.max(resumes)));
            let may_start = self.under_way.len() < IN_FLIGHT_MAX;
            self.tell_standing(due);
            // Every arm is cancel-safe: receive, join, sleep, cancelled.
            tokio::select! {
                Some(message) = self.inbox.recv(), if self.scheduled.len() < SCHEDULED_MAX => {
                    self.schedule(Instant::now(), message);
                }
                Some(ended) = self.under_way.join_next(), if !self.under_way.is_empty() => match ended {
                    Ok((message, began, answer)) => self.ended(message, began, answer, closed),
                    Err(error) => tracing::error!(channel = &*self.label, %error, "an attempt to notify broke"),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() && may_start => {
                    self.start_due();
                    tokio::task::yield_now().await;
                }
                () = closing.cancelled(), if !closed => {
                    closed = true;
                    let now = Instant::now();
                    self.scheduled.retain(|(due, _), _| *due <= now);
                }
                else => return,
            }
        }
    }

    /// What people see of what waits here.
    fn tell_standing(&self, due: Option<Instant>) {
        let next_attempt_at =
            due.map(|due| self.around.ambient.now() + due.saturating_duration_since(Instant::now()));
        self.health.stands(Standing {
            scheduled: self.scheduled.len(),
            under_way: self.under_way.len(),
            next_attempt_at,
        });
    }

    fn schedule(&mut self, due: Instant, message: Message) {
        self.arrivals += 1;
        self.scheduled.insert((due, self.arrivals), message);
    }

    fn start_due(&mut self) {
        let Some((_, mut message)) = self.scheduled.pop_first() else { return };
        let now = self.around.ambient.now();
        if message.is_pointless(now) {
            return;
        }
        if !self.enabled.load(Ordering::Relaxed) {
            let why = "the channel is disabled: its receiver answered 410 Gone; reload to enable it";
            note(&self.around, &self.label, &message, None, Some(why.to_owned()));
            return;
        }
        let Some(desk) = message.desk.upgrade() else { return };
        message.attempt += 1;
        let transport = self.transport.clone();
        let ambient = self.around.ambient.clone();
        // Made here, one after the other, and not by 64 tasks at once: a decision waits behind one at most.
        let parcel: Parcel = transport.wrap(&desk, &message);
        self.under_way.spawn(async move {
            let began = Instant::now();
            let answer = transport.send(&message, parcel, ambient.as_ref()).await;
            (message, began, answer)
        });
    }

    fn ended(&mut self, message: Message, began: Instant, answer: Answer, closed: bool) {
        let random = u64::try_from(self.around.ambient.random() >> 64).unwrap_or(u64::MAX);
        let next = retry::next(message.urgency(), message.attempt, &answer, random);
        let (status, error) = match answer {
            Answer::Status { code, .. } => (Some(code), wording(next, code)),
            Answer::Failed(error) | Answer::Hopeless(error) => (None, Some(error)),
            Answer::Limited { detail, .. } => (Some(429), Some(detail)),
        };
        let now = self.around.ambient.now();
        match &error {
            None => self.health.delivered(now),
            Some(error) => self.health.failed(now, error),
        }
        if next == Next::GiveUp {
            self.health.given_up();
        }
        note(&self.around, &self.label, &message, status, error);
        match next {
            Next::Delivered | Next::GiveUp => {}
            Next::Pause(pause) => {
                let resumes = Instant::now() + pause;
                self.resumes = Some(self.resumes.map_or(resumes, |earlier| earlier.max(resumes)));
                if !closed {
                    self.schedule(resumes, message);
                }
            }
            Next::Disabled => {
                self.enabled.store(false, Ordering::Relaxed);
                tracing::warn!(
                    channel = &*self.label,
                    "the receiver answered 410 Gone; nothing more is sent there until configuration is reloaded"
                );
            }
            Next::Retry(delay) if !closed => self.schedule((began + delay).max(Instant::now()), message),
            Next::Retry(_) => {}
        }
    }
}

fn wording(next: Next, code: u16) -> Option<String> {
    match next {
        Next::Delivered => None,
        Next::Disabled => {
            Some("410 Gone: the channel is disabled until configuration is reloaded".to_owned())
        }
        Next::Retry(_) | Next::Pause(_) => Some(format!("HTTP {code}; tried again")),
        Next::GiveUp => Some(format!("HTTP {code}; given up")),
    }
}

/// Records an attempt and shows it with the request.
fn note(around: &Surroundings, label: &str, message: &Message, status: Option<u16>, error: Option<String>) {
    let outcome = if error.is_none() { "delivered" } else { "failed" };
    metrics::counter!("lockgate_notifications_total", "outcome" => outcome).increment(1);
    if let Some(deliveries) = message.about.deliveries().filter(|_| message.kind.is_waiting()) {
        let mut deliveries = deliveries.lock();
        let delivery = deliveries.entry(label.to_owned()).or_default();
        delivery.attempts = delivery.attempts.saturating_add(1);
        delivery.delivered |= error.is_none();
        delivery.last_status = status;
        delivery.last_error.clone_from(&error);
    }
    let (channel, attempt) = (label.to_owned(), message.attempt);
    tracing::debug!(channel = label, attempt, ?status, ?error, "notified");
    let (session, kind) = match &message.about {
        About::Glass(glass) => {
            (None, EventKind::Alerted { about: glass.id.to_string(), channel, attempt, status, error })
        }
        About::Happening(event) => match &event.kind {
            EventKind::Gap { stage, .. } => (
                None,
                EventKind::Alerted { about: format!("alarm:{stage}"), channel, attempt, status, error },
            ),
            // What is told of a session is no step of a request, and would tell of itself without end.
            _ => return,
        },
        About::Case(_) | About::Bundle(_) => {
            // Of a bundle the first request's record says it; which belong to it is recorded.
            let Some(case) = message.about.first() else { return };
            let request = case.request.id;
            (Some(case.request.session.id), EventKind::Notified { request, channel, attempt, status, error })
        }
    };
    around.recorder.submit(vec![Event { at: around.ambient.now(), session, kind }]);
}
