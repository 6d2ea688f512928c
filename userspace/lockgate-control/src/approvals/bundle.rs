//! Requests that are told in one message and decided together. Each of them still has its own task, votes and end; a
//! decision on the bundle is a vote on each that still waits.

use super::case::{Case, Delivery};
use crate::{desk::Desk, notify::event::EventType};
use lockgate_model::{BundleId, RequestId, Timestamp, approval::Resolution, operation::Digest};
use lockgate_policy::approval::bundle::Bundle;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A bundle that people were told of.
pub(crate) struct BundleCase {
    pub(crate) id: BundleId,
    shown: Mutex<Shown>,
    /// What became of its notification, by channel.
    pub(crate) deliveries: Mutex<BTreeMap<String, Delivery>>,
    /// That all of it is over was told.
    ended: AtomicBool,
}

/// What people were told last.
struct Shown {
    bundle: Bundle,
    digest: Digest,
    cases: Vec<Arc<Case>>,
}

/// A bundle as it rests. Its digest is the one that was told, so that what people have in hand still decides.
#[derive(Serialize, Deserialize)]
pub(crate) struct Resting {
    bundle: BundleId,
    digest: Digest,
    requests: Vec<(RequestId, Digest)>,
    began_at: Timestamp,
}

impl BundleCase {
    /// Of requests that wait.
    pub(crate) fn new(bundle: Bundle, cases: Vec<Arc<Case>>) -> Arc<Self> {
        let digest = bundle.digest();
        Self::told(Shown { bundle, digest, cases })
    }

    fn told(shown: Shown) -> Arc<Self> {
        Arc::new(Self {
            id: shown.bundle.id,
            shown: Mutex::new(shown),
            deliveries: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// One that an earlier process told, with those of its requests that still wait. None when there are none.
    pub(crate) fn restored(
        resting: Resting,
        find: impl Fn(RequestId) -> Option<Arc<Case>>,
    ) -> Option<Arc<Self>> {
        let Resting { bundle: id, digest, requests, began_at } = resting;
        let cases: Vec<Arc<Case>> = requests.iter().filter_map(|(request, _)| find(*request)).collect();
        let told = requests.len();
        let bundle = Bundle { id, requests, began_at, told };
        if cases.is_empty() { None } else { Some(Self::told(Shown { bundle, digest, cases })) }
    }

    /// As it is put on the shelf.
    pub(crate) fn resting(&self) -> Resting {
        let shown = self.shown.lock();
        let Bundle { id, requests, began_at, .. } = shown.bundle.clone();
        Resting { bundle: id, digest: shown.digest, requests, began_at }
    }

    /// Takes more requests, unless all of it is over. The digest is another one from then on.
    pub(crate) fn extend(&self, more: &[Arc<Case>]) -> bool {
        let mut shown = self.shown.lock();
        if shown.cases.iter().all(|case| case.resolution().is_some()) {
            return false;
        }
        shown
            .bundle
            .requests
            .extend(more.iter().map(|case| (case.request.id, case.request.operation.digest)));
        shown.cases.extend(more.iter().cloned());
        shown.digest = shown.bundle.digest();
        true
    }

    /// What a decision on all of it must echo.
    pub(crate) fn digest(&self) -> Digest {
        self.shown.lock().digest
    }

    /// The requests that were told under this digest; None when it is not (any more) the bundle's. A decision is about
    /// these, whatever joins meanwhile.
    pub(crate) fn shown_as(&self, digest: Digest) -> Option<Vec<Arc<Case>>> {
        let shown = self.shown.lock();
        (shown.digest == digest).then(|| shown.cases.clone())
    }

    /// Every request that was told, also those that an earlier process saw the end of.
    pub(crate) fn requests(&self) -> Vec<RequestId> {
        self.shown.lock().bundle.requests.iter().map(|(id, _)| *id).collect()
    }

    /// Its requests, in order.
    pub(crate) fn cases(&self) -> Vec<Arc<Case>> {
        self.shown.lock().cases.clone()
    }

    /// Its requests that still wait.
    pub(crate) fn waiting(&self) -> Vec<Arc<Case>> {
        self.cases().into_iter().filter(|case| case.resolution().is_none()).collect()
    }

    /// Another request goes on with one of them. It is the same command, so what was told is as good as it was.
    pub(crate) fn replace(&self, old: &Arc<Case>, new: &Arc<Case>) {
        let mut shown = self.shown.lock();
        for (id, _) in shown.bundle.requests.iter_mut().filter(|(id, _)| *id == old.request.id) {
            *id = new.request.id;
        }
        for case in shown.cases.iter_mut().filter(|case| Arc::ptr_eq(case, old)) {
            *case = new.clone();
        }
    }

    /// How it ended as a whole, once the last of it has: the least happy of its ends.
    pub(crate) fn outcome(&self) -> Option<EventType> {
        let ends: Option<Vec<EventType>> =
            self.cases().iter().map(|case| case.resolution().map(|it| kind(&it))).collect();
        let ends = ends?;
        let first = [EventType::Denied, EventType::Expired, EventType::Cancelled];
        Some(first.into_iter().find(|kind| ends.contains(kind)).unwrap_or(EventType::Approved))
    }

    /// Tells of it as a whole: that a later stage began when its first waiting request says so, and the end with its last.
    pub(crate) fn notify(self: &Arc<Self>, desk: &Arc<Desk>, kind: EventType, of: &Arc<Case>) {
        if kind.is_waiting() {
            let first = self.waiting().first().is_some_and(|first| Arc::ptr_eq(first, of));
            if first {
                desk.notify_bundle(kind, self);
            }
        } else if let Some(outcome) = self.outcome()
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            desk.notify_bundle(outcome, self);
            desk.keep.settle_bundle(desk, self.id, None);
        }
    }
}

/// The message that tells of an end.
pub(crate) fn kind(resolution: &Resolution) -> EventType {
    match resolution {
        Resolution::Approved { .. } => EventType::Approved,
        Resolution::Denied { .. } => EventType::Denied,
        Resolution::Expired => EventType::Expired,
        Resolution::Withdrawn { .. } => EventType::Cancelled,
    }
}
