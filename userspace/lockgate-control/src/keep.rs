//! What outlives the process: requests that wait, approvals that may be used again, grants, overrides. Kept on the
//! [`Shelf`], and driven by one task that lets time pass for what is not a request.
//!
//! What gives permission is on the shelf before anybody learns of it, and off it before it is used up; the record comes
//! first of all.

use crate::{
    api::peer::Logins,
    approvals::{case::CaseTask, port},
    desk::Desk,
    notify::event::EventType,
};
use arc_swap::ArcSwap;
use lockgate_model::{
    GlassId, GrantId, RequestId, Timestamp,
    approval::{ApprovalRequest, Resolution, Vote},
    event::{Event, EventKind},
    grant::{GlassUse, Grant, GrantEnd, Lift},
    operation::Parameter,
    port::{Durability, RecordError, Shelf},
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
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::Notify;

/// A wall clock may be stepped while the task sleeps: it looks again at least this often.
const CLOCK_RECHECK: Duration = Duration::from_secs(15);

/// A record that failed is tried again after this long.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// What is handed to the control plane to last longer than it does. All of it may be missing, in tests.
#[derive(Clone, Default)]
pub struct Lasting {
    /// Where things rest.
    pub shelf: Option<Arc<dyn Shelf>>,
    /// Requests that no record has closed: of those on the shelf, these go on.
    pub left_open: BTreeSet<RequestId>,
    /// The policy in force; says which emergency overrides there are.
    pub policy: Option<Arc<ArcSwap<CompiledPolicy>>>,
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
    pub(crate) policy: Option<Arc<ArcSwap<CompiledPolicy>>>,
    pub(crate) logins: Option<Logins>,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) glass: Mutex<Glass>,
    pub(crate) gather: Mutex<Gather>,
    /// Something begins or ends sooner than was known.
    pub(crate) changed: Notify,
}

impl Keep {
    pub(crate) fn new(lasting: &Lasting) -> Self {
        Self {
            shelf: lasting.shelf.clone(),
            policy: lasting.policy.clone(),
            logins: lasting.logins,
            ledger: Mutex::default(),
            glass: Mutex::default(),
            gather: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Puts something on the shelf.
    pub(crate) async fn put<T: Serialize>(&self, name: String, value: &T) -> Result<(), String> {
        let Some(shelf) = self.shelf.clone() else { return Ok(()) };
        let value = serde_json::to_vec(value).map_err(|error| error.to_string())?;
        let put =
            move || shelf.put(&name, &value).map_err(|error| format!("the shelf cannot be written: {error}"));
        tokio::task::spawn_blocking(put).await.map_err(|error| error.to_string())?
    }

    /// Takes something off the shelf.
    pub(crate) async fn remove(&self, name: String) -> Result<(), String> {
        let Some(shelf) = self.shelf.clone() else { return Ok(()) };
        let remove =
            move || shelf.remove(&name).map_err(|error| format!("the shelf cannot be written: {error}"));
        tokio::task::spawn_blocking(remove).await.map_err(|error| error.to_string())?
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
pub(crate) fn restore(desk: &Arc<Desk>, left_open: &BTreeSet<RequestId>) {
    let Some(shelf) = desk.keep.shelf.clone() else { return };
    let all = match shelf.all() {
        Ok(all) => all,
        Err(error) => return tracing::error!(%error, "reading what an earlier process left"),
    };
    let now = desk.ambient.now();
    for (name, value) in all {
        let keeps = if name.parse::<RequestId>().is_ok() {
            serde_json::from_slice(&value).map(|pending| restore_request(desk, left_open, pending))
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
            Ok(false) => {
                if let Err(error) = shelf.remove(&name) {
                    tracing::error!(name, %error, "clearing the shelf");
                }
            }
            Err(error) => {
                tracing::error!(name, %error, "something on the shelf cannot be read; it is not good any more")
            }
        }
    }
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
fn restore_request(desk: &Arc<Desk>, left_open: &BTreeSet<RequestId>, pending: Pending) -> bool {
    let Pending { request, votes } = pending;
    if !left_open.contains(&request.id) {
        return false;
    }
    let id = request.id;
    match desk.registry.seat(&request) {
        Ok(seat) => {
            let task = CaseTask::restored(desk.clone(), request, votes, seat);
            desk.cases.spawn_on(task.run(), &desk.runtime);
            true
        }
        Err(error) => {
            tracing::error!(request = %id, %error, "a request of an earlier process has no room");
            let resolution =
                Resolution::Withdrawn { reason: lockgate_model::approval::WithdrawReason::Crash };
            let kind = EventKind::ApprovalResolved { request: id, resolution };
            desk.recorder.submit(vec![Event {
                at: desk.ambient.now(),
                session: Some(request.session.id),
                kind,
            }]);
            false
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
