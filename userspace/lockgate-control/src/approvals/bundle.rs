//! Requests that are told in one message and decided together. Each of them still has its own task, votes and end; a
//! decision on the bundle is a vote on each that still waits.

use super::case::{Case, Delivery};
use crate::{desk::Desk, notify::event::EventType};
use lockgate_model::{BundleId, approval::Resolution, operation::Digest};
use lockgate_policy::approval::bundle::Bundle;
use parking_lot::Mutex;
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
    /// What a decision on all of it must echo.
    pub(crate) digest: Digest,
    cases: Mutex<Vec<Arc<Case>>>,
    /// What became of its notification, by channel.
    pub(crate) deliveries: Mutex<BTreeMap<String, Delivery>>,
    /// That all of it is over was told.
    ended: AtomicBool,
}

impl BundleCase {
    /// Of requests that wait.
    pub(crate) fn new(bundle: &Bundle, cases: Vec<Arc<Case>>) -> Arc<Self> {
        Arc::new(Self {
            id: bundle.id,
            digest: bundle.digest(),
            cases: Mutex::new(cases),
            deliveries: Mutex::default(),
            ended: AtomicBool::new(false),
        })
    }

    /// Its requests, in order.
    pub(crate) fn cases(&self) -> Vec<Arc<Case>> {
        self.cases.lock().clone()
    }

    /// Its requests that still wait.
    pub(crate) fn waiting(&self) -> Vec<Arc<Case>> {
        self.cases().into_iter().filter(|case| case.resolution().is_none()).collect()
    }

    /// Another request goes on with one of them.
    pub(crate) fn replace(&self, old: &Arc<Case>, new: &Arc<Case>) {
        for case in self.cases.lock().iter_mut() {
            if Arc::ptr_eq(case, old) {
                *case = new.clone();
            }
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
