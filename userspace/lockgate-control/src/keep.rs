//! What outlives the process: requests that wait, approvals that may be used again, grants, overrides. Kept on the
//! [`Shelf`], and driven by one task that lets time pass for what is not a request.
//!
//! What gives permission is on the shelf before anybody learns of it, and off it before it is used up; the record comes
//! first of all.

use crate::{
    api::peer::Logins,
    approvals::{
        bundle::{self, BundleCase},
        case::CaseTask,
        port,
    },
    desk::Desk,
    notify::event::EventType,
};
use arc_swap::ArcSwap;
use lockgate_model::{
    BundleId, GlassId, GrantId, RequestId, Timestamp,
    approval::{ApprovalRequest, Resolution, Vote, WithdrawReason},
    event::{Event, EventKind},
    grant::{GlassUse, Grant, GrantEnd, Lift},
    operation::{Digest, Parameter},
    port::{Ambient, Durability, RecordError, Recorder, Shelf},
    session::Session,
};
use lockgate_policy::{
    CompiledPolicy,
    approval::{
        bundle::Gather,
        glass::{Glass, GlassStep},
        ledger::{self, Entry, Ledger},
    },
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Notify;

/// A wall clock may be stepped while the task sleeps: it looks again at least this often.
const CLOCK_RECHECK: Duration = Duration::from_secs(15);

/// A record that failed is tried again after this long.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// Names of things on the shelf that one record lists.
const NAMED_MAX: usize = 10;

/// What is handed to the control plane to last longer than it does. All of it may be missing, in tests.
#[derive(Clone, Default)]
pub struct Lasting {
    /// Where things rest.
    pub shelf: Option<Arc<dyn Shelf>>,
    /// What the log says of the shelf: names, and SHA-256 of each value. What rests there and is not so is not believed.
    /// None believes everything.
    pub shelved: Option<BTreeMap<String, Digest>>,
    /// Overrides that the log knows and the shelf does not: they owe their review all the same.
    pub owed: Vec<GlassUse>,
    /// Requests that no record has closed: of those on the shelf, these go on.
    pub left_open: BTreeSet<RequestId>,
    /// The policy in force; says which emergency overrides there are.
    pub policy: Option<Arc<ArcSwap<CompiledPolicy>>>,
    /// Where API tokens rest; without it they are good until a restart.
    pub tokens: Option<Arc<dyn Shelf>>,
    /// How a fresh login is known; without it nobody has one, and nobody breaks the glass.
    pub logins: Option<Logins>,
}

/// A request as it rests.
#[derive(Serialize, Deserialize)]
struct Pending {
    request: ApprovalRequest,
    votes: Vec<Vote>,
}

/// Everything that is not a request, and the shelf under all of it.
pub(crate) struct Keep {
    shelf: Option<Arc<dyn Shelf>>,
    recorder: Arc<dyn Recorder>,
    ambient: Arc<dyn Ambient>,
    pub(crate) policy: Option<Arc<ArcSwap<CompiledPolicy>>>,
    pub(crate) logins: Option<Logins>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) glass: Mutex<Glass>,
    pub(crate) gather: Mutex<Gather>,
    /// Whose turn it is to put a bundle on the shelf or take it off.
    bundles: tokio::sync::Mutex<()>,
    /// Something begins or ends sooner than was known.
    pub(crate) changed: Notify,
}

impl Keep {
    pub(crate) fn new(lasting: &Lasting, recorder: Arc<dyn Recorder>, ambient: Arc<dyn Ambient>) -> Self {
        Self {
            shelf: lasting.shelf.clone(),
            recorder,
            ambient,
            policy: lasting.policy.clone(),
            logins: lasting.logins,
            ledger: Mutex::default(),
            glass: Mutex::default(),
            gather: Mutex::default(),
            bundles: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Puts something on the shelf. The log says first what will rest there; whatever else is found there is not believed.
    pub(crate) async fn put<T: Serialize>(&self, name: String, value: &T) -> Result<(), String> {
        let Some(shelf) = self.shelf.clone() else { return Ok(()) };
        let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        self.seal(&name, Some(digest(&value))).await?;
        let put =
            move || shelf.put(&name, &value).map_err(|error| format!("the shelf cannot be written: {error}"));
        tokio::task::spawn_blocking(put).await.map_err(|error| error.to_string())?
    }

    /// Takes something off the shelf.
    pub(crate) async fn remove(&self, name: String) -> Result<(), String> {
        let Some(shelf) = self.shelf.clone() else { return Ok(()) };
        self.seal(&name, None).await?;
        let remove =
            move || shelf.remove(&name).map_err(|error| format!("the shelf cannot be written: {error}"));
        tokio::task::spawn_blocking(remove).await.map_err(|error| error.to_string())?
    }

    async fn seal(&self, name: &str, digest: Option<Digest>) -> Result<(), String> {
        let kind = EventKind::Shelved { name: name.to_owned(), digest };
        let event = Event { at: self.ambient.now(), session: None, kind };
        // Written is enough: what follows from it is synced, and that syncs this.
        let recorded = self.recorder.record(vec![event], Durability::Written).await;
        recorded.map(drop).map_err(|error| format!("the shelf cannot be recorded: {error}"))
    }

    /// Keeps a request that waits. Literals and values of what touches a masked table stay out.
    pub(crate) async fn put_request(&self, request: &ApprovalRequest, votes: &[Vote]) -> Result<(), String> {
        if self.shelf.is_none() {
            return Ok(());
        }
        let mut request = request.clone();
        let operation = &mut request.operation;
        if operation.touches_masked {
            operation.text = operation.normalized.clone();
            let nameless = |parameter: &Parameter| Parameter { value: None, ..parameter.clone() };
            operation.parameters = operation.parameters.iter().map(nameless).collect();
        }
        self.put(request.id.to_string(), &Pending { request, votes: votes.to_vec() }).await
    }

    /// Keeps entries of the ledger; what cannot be kept is good until a restart.
    pub(crate) async fn put_entries(&self, entries: &[Entry]) {
        for entry in entries {
            if let Err(error) = self.put(entry.name(), entry).await {
                tracing::error!(name = entry.name(), %error, "keeping an approval");
            }
        }
    }

    /// Puts a bundle on the shelf as it is by then, whichever of two changes comes first, or takes it off when it is over;
    /// then tells of it, so that what people have in hand decides after a restart, too. One that cannot be kept has its
    /// requests told one by one then: nothing is lost.
    pub(crate) fn settle_bundle(&self, desk: &Arc<Desk>, id: BundleId, then: Option<EventType>) {
        let desk_then = desk.clone();
        let settle = async move {
            let desk = desk_then;
            let turn = desk.keep.bundles.lock().await;
            let known = desk.registry.find_bundle(id);
            let kept = match known.as_ref().filter(|bundle| bundle.outcome().is_none()) {
                Some(bundle) => desk.keep.put(id.to_string(), &bundle.resting()).await,
                None => desk.keep.remove(id.to_string()).await,
            };
            drop(turn);
            if let Err(error) = kept {
                tracing::error!(bundle = %id, %error, "keeping a bundle");
            }
            if let (Some(kind), Some(bundle)) = (then, known) {
                desk.notify_bundle(kind, &bundle);
            }
        };
        desk.cases.spawn_on(settle, &desk.runtime);
    }

    /// The overrides in force for a session.
    pub(crate) fn lifts(&self, session: &Session, now: Timestamp) -> Vec<Lift> {
        self.glass.lock().lifts(session, now)
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        let ledger = self.ledger.lock().poll_timeout();
        let glass = self.glass.lock().poll_timeout();
        let gather = self.gather.lock().poll_timeout();
        ledger.into_iter().chain(glass).chain(gather).min()
    }
}

/// Puts back what an earlier process left: called once, before anything else.
pub(crate) fn restore(desk: &Arc<Desk>, lasting: &Lasting) {
    let left_open = &lasting.left_open;
    for glass in &lasting.owed {
        desk.keep.glass.lock().restore(desk.ambient.now(), glass.clone());
    }
    let Some(shelf) = desk.keep.shelf.clone() else { return };
    let all = match shelf.all() {
        Ok(all) => all,
        Err(error) => return tracing::error!(%error, "reading what an earlier process left"),
    };
    let now = desk.ambient.now();
    let mut waiting = Vec::new();
    let mut bundles = Vec::new();
    for (name, value) in believed(desk, shelf.as_ref(), all, lasting) {
        let keeps = if name.parse::<RequestId>().is_ok() {
            serde_json::from_slice(&value).map(|pending| {
                let task = restore_request(desk, left_open, pending);
                let keeps = task.is_some();
                waiting.extend(task);
                keeps
            })
        } else if name.parse::<BundleId>().is_ok() {
            serde_json::from_slice::<bundle::Resting>(&value).map(|resting| {
                bundles.push((name.clone(), resting));
                true
            })
        } else if name.parse::<GlassId>().is_ok() {
            serde_json::from_slice::<GlassUse>(&value).map(|glass| {
                desk.keep.glass.lock().restore(now, glass);
                true
            })
        } else {
            serde_json::from_slice::<Entry>(&value).map(|entry| restore_entry(desk, now, entry))
        };
        match keeps {
            Ok(true) => {}
            Ok(false) => clear(shelf.as_ref(), &name),
            Err(error) => {
                tracing::error!(name, %error, "something on the shelf cannot be read; it is not good any more")
            }
        }
    }
    for (name, resting) in bundles {
        match BundleCase::restored(resting, |id| desk.registry.find(id)) {
            Some(bundle) => restore_bundle(desk, &bundle),
            None => clear(shelf.as_ref(), &name),
        }
    }
    for task in waiting {
        desk.cases.spawn_on(task.go_on(), &desk.runtime);
    }
    for glass in lasting.owed.clone() {
        // Back where it belongs, with a record of it.
        let desk_then = desk.clone();
        desk.cases.spawn_on(async move { desk_then.settle_glass(&glass).await }, &desk.runtime);
    }
}

/// What is on the shelf as the log says. What is not (edited, or an older copy put back) is taken off it, and told: it
/// gives nobody anything.
fn believed(
    desk: &Arc<Desk>,
    shelf: &dyn Shelf,
    all: Vec<(String, Vec<u8>)>,
    lasting: &Lasting,
) -> Vec<(String, Vec<u8>)> {
    let Some(shelved) = &lasting.shelved else { return all };
    let (mut good, bad): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(name, value)| shelved.get(name) == Some(&digest(value)));
    good.sort();
    let gone: Vec<&String> =
        shelved.keys().filter(|name| good.binary_search_by(|(good, _)| good.cmp(name)).is_err()).collect();
    let missing = gone.len();
    // Said once: from here on they are not there by the log either.
    let forgotten = gone.iter().map(|name| EventKind::Shelved { name: (*name).clone(), digest: None });
    let forgotten = forgotten.map(|kind| Event { at: desk.ambient.now(), session: None, kind });
    desk.recorder.submit(forgotten.collect());
    if !bad.is_empty() || missing > 0 {
        let names: Vec<&str> = bad.iter().map(|(name, _)| name.as_str()).take(NAMED_MAX).collect();
        let detail = format!(
            "what outlives a restart is not as the log says: {} thing(s) on the shelf are not believed [{}], {missing} \
             that should be there are not as they were; people are asked again",
            bad.len(),
            names.join(", "),
        );
        tracing::error!(detail, "the shelf");
        let count = u64::try_from(bad.len() + missing).ok();
        let kind = EventKind::Gap { stage: "shelf".to_owned(), count, detail };
        desk.alarm(Event { at: desk.ambient.now(), session: None, kind });
    }
    for (name, _) in bad {
        if let Some(request) = name.parse().ok().filter(|id| lasting.left_open.contains(id)) {
            let resolution = Resolution::Withdrawn { reason: WithdrawReason::Crash };
            let kind = EventKind::ApprovalResolved { request, resolution };
            desk.recorder.submit(vec![Event { at: desk.ambient.now(), session: None, kind }]);
        }
        clear(shelf, &name);
    }
    good
}

fn digest(value: &[u8]) -> Digest {
    Digest(Sha256::digest(value).into())
}

fn clear(shelf: &dyn Shelf, name: &str) {
    if let Err(error) = shelf.remove(name) {
        tracing::error!(name, %error, "clearing the shelf");
    }
}

/// People know it by its id, and what they were told still decides.
fn restore_bundle(desk: &Arc<Desk>, bundle: &Arc<BundleCase>) {
    for case in bundle.cases() {
        // Set once: nothing else has looked at it yet.
        let _ = case.bundle.set(bundle.clone());
    }
    desk.registry.insert_bundle(bundle.clone());
    desk.notify_bundle(EventType::Requested, bundle);
}

fn restore_entry(desk: &Desk, now: Timestamp, entry: Entry) -> bool {
    let ended = match &entry {
        Entry::Grant(grant) if grant.expires_at <= now => Some((grant.id, grant.used)),
        Entry::Grant(_) | Entry::Lease(_) | Entry::Outcome(_) => None,
    };
    if let Some((grant, used)) = ended {
        let kind = EventKind::GrantEnded { grant, used, end: GrantEnd::Expired };
        desk.recorder.submit(vec![Event { at: now, session: None, kind }]);
    }
    desk.keep.ledger.lock().restore(now, entry)
}

/// A request that waits on without its client. One that the record closes is over, whatever the shelf says.
fn restore_request(desk: &Arc<Desk>, left_open: &BTreeSet<RequestId>, pending: Pending) -> Option<CaseTask> {
    let Pending { request, votes } = pending;
    if !left_open.contains(&request.id) {
        return None;
    }
    let id = request.id;
    match desk.registry.seat(&request) {
        Ok(seat) => Some(CaseTask::restored(desk.clone(), request, votes, seat)),
        Err(error) => {
            tracing::error!(request = %id, %error, "a request of an earlier process has no room");
            let resolution = Resolution::Withdrawn { reason: WithdrawReason::Crash };
            let kind = EventKind::ApprovalResolved { request: id, resolution };
            desk.recorder.submit(vec![Event {
                at: desk.ambient.now(),
                session: Some(request.session.id),
                kind,
            }]);
            None
        }
    }
}

/// Lets time pass for bundles, grants and overrides, until the control plane stops.
pub(crate) async fn drive(desk: Arc<Desk>) {
    loop {
        let now = desk.ambient.now();
        let pause = desk.keep.poll_timeout().map_or(CLOCK_RECHECK, |next| {
            Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO).min(CLOCK_RECHECK)
        });
        // Every arm is cancel-safe.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = desk.keep.changed.notified() => continue,
            () = desk.drain.cancelled() => return,
        }
        if !pass_time(&desk).await {
            tokio::time::sleep(RECORD_RETRY).await;
        }
    }
}

/// False when a record failed: what ended has ended all the same.
async fn pass_time(desk: &Arc<Desk>) -> bool {
    let now = desk.ambient.now();
    let bundles = desk.keep.gather.lock().handle_timeout(now);
    for bundle in bundles {
        port::tell(desk, bundle);
    }
    let mut recorded = true;
    let over = desk.keep.ledger.lock().handle_timeout(now);
    for entry in over {
        if let Entry::Grant(grant) = &entry {
            let end = ledger::natural_end(grant, now);
            recorded &= desk.record_or_queue(now, ended(grant, end)).await;
            tracing::info!(grant = %grant.id, "a grant ended");
        }
        if let Err(error) = desk.keep.remove(entry.name()).await {
            tracing::error!(%error, "clearing the shelf");
        }
    }
    let steps = desk.keep.glass.lock().handle_timeout(now);
    for step in steps {
        match step {
            GlassStep::Ended(glass) => {
                recorded &=
                    desk.record_or_queue(now, EventKind::GlassEnded { glass: glass.id, by: None }).await;
                desk.settle_glass(&glass).await;
                desk.alert(EventType::GlassEnded, &glass);
            }
            GlassStep::Overdue(glass) => desk.alert(EventType::GlassOverdue, &glass),
        }
    }
    recorded
}

/// The record of a grant's end.
pub(crate) fn ended(grant: &Grant, end: GrantEnd) -> EventKind {
    EventKind::GrantEnded { grant: grant.id, used: grant.used, end }
}

impl Desk {
    /// An id for a grant that may come of a decision.
    pub(crate) fn grant_id(&self) -> GrantId {
        let millis = u64::try_from(self.ambient.now().as_millisecond()).unwrap_or(0);
        GrantId::from_parts(millis, self.ambient.random())
    }

    /// An id for a bundle that may begin.
    pub(crate) fn bundle_id(&self) -> BundleId {
        let millis = u64::try_from(self.ambient.now().as_millisecond()).unwrap_or(0);
        BundleId::from_parts(millis, self.ambient.random())
    }

    /// Records what has happened whether or not it can be recorded.
    async fn record_or_queue(&self, at: Timestamp, kind: EventKind) -> bool {
        let event = Event { at, session: None, kind };
        match self.recorder.record(vec![event.clone()], Durability::Synced).await {
            Ok(_receipt) => true,
            Err(error) => {
                tracing::error!(%error, "recording an end; queued");
                self.recorder.submit(vec![event]);
                false
            }
        }
    }

    /// Records, or does nothing.
    pub(crate) async fn record(&self, kind: EventKind) -> Result<(), RecordError> {
        let event = Event { at: self.ambient.now(), session: None, kind };
        self.recorder.record(vec![event], Durability::Synced).await.map(|_receipt| ())
    }

    /// Keeps a use while it is owed a look, and forgets it afterwards.
    pub(crate) async fn settle_glass(&self, glass: &GlassUse) {
        let now_known = self.keep.glass.lock().find(glass.id).cloned();
        let kept = match now_known {
            Some(glass) => self.keep.put(glass.id.to_string(), &glass).await,
            None => self.keep.remove(glass.id.to_string()).await,
        };
        if let Err(error) = kept {
            tracing::error!(glass = %glass.id, %error, "keeping an emergency override");
        }
    }
}
