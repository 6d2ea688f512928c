//! Every request that waits, and the latest that no longer do. Bounded in count and in bytes, as a whole and
//! for each principal, so that one job cannot use up what others need.

use super::{
    bundle::BundleCase,
    case::{Case, Earlier},
};
use lockgate_model::{
    BundleId, RequestId, approval::ApprovalRequest, operation::Digest, port::ApprovalError,
};
use lockgate_policy::approval::ledger::run_of;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};
use tokio::sync::watch;

/// Requests that may wait at once: far more than people can decide, far less than memory.
pub(crate) const PENDING_MAX: usize = 8_192;

/// Requests that one principal may have waiting: a quarter, so that a runaway job leaves room for others.
pub(crate) const PENDING_PER_PRINCIPAL_MAX: usize = PENDING_MAX / 4;

/// Bytes of statements and bound values that may wait at once.
pub(crate) const PENDING_BYTES_MAX: usize = 256 << 20;

/// Resolved requests that can still be looked at (the audit log has them all).
pub(crate) const RECENT_MAX: usize = 1_024;

/// Bytes of statements and bound values kept of resolved requests.
pub(crate) const RECENT_BYTES_MAX: usize = 32 << 20;

/// Earlier requests for the same command that an approver is shown.
const EARLIER_MAX: usize = 5;

/// How often a request may be taken up by another before its first link leads nowhere.
const SUCCESSORS_MAX: usize = 64;

/// What one request costs besides its texts.
const REQUEST_OVERHEAD_BYTES: usize = 4 << 10;

/// The requests of this node.
#[derive(Default)]
pub(crate) struct Registry {
    inner: Mutex<Inner>,
    /// Counts what changed, for whoever shows requests while they change.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    cases: BTreeMap<RequestId, Arc<Case>>,
    /// The same requests by what they ask for.
    by_digest: BTreeSet<(Digest, RequestId)>,
    /// Order in which the resolved ones among `cases` were resolved, with their size.
    recent: VecDeque<(RequestId, usize)>,
    recent_bytes: usize,
    seats: usize,
    seat_bytes: usize,
    by_principal: HashMap<Arc<str>, usize>,
    bundles: BTreeMap<BundleId, Arc<BundleCase>>,
}

impl Inner {
    /// Requests for the very same, newest first.
    fn of_digest(&self, digest: &Digest) -> impl Iterator<Item = RequestId> {
        let (first, last) = (RequestId::from_parts(0, 0), RequestId::from_parts(u64::MAX, u128::MAX));
        self.by_digest.range((*digest, first)..=(*digest, last)).rev().map(|(_, id)| *id)
    }
}

impl Registry {
    /// Room for one more request, given back when the seat is dropped.
    pub(crate) fn seat(self: &Arc<Self>, request: &ApprovalRequest) -> Result<Seat, ApprovalError> {
        let bytes = weight(request);
        let principal: Arc<str> = request.session.principal.id.as_str().into();
        let mut inner = self.inner.lock();
        let own = inner.by_principal.get(&principal).copied().unwrap_or(0);
        if inner.seats >= PENDING_MAX || inner.seat_bytes.saturating_add(bytes) > PENDING_BYTES_MAX {
            return Err(ApprovalError::TooManyPending(inner.seats));
        }
        if own >= PENDING_PER_PRINCIPAL_MAX {
            return Err(ApprovalError::TooManyPending(own));
        }
        inner.seats += 1;
        inner.seat_bytes += bytes;
        inner.by_principal.insert(principal.clone(), own + 1);
        metrics::gauge!("lockgate_approvals_pending").set(count(inner.seats));
        Ok(Seat { registry: self.clone(), principal, bytes })
    }

    /// Shows a request from now on.
    pub(crate) fn insert(&self, case: Arc<Case>) {
        let mut inner = self.inner.lock();
        inner.by_digest.insert((case.request.operation.digest, case.request.id));
        inner.cases.insert(case.request.id, case);
        drop(inner);
        self.changed();
    }

    /// Moves a request to the recent ones; the oldest of them make room.
    pub(crate) fn resolved(&self, case: &Case) {
        let bytes = weight(&case.request);
        let mut inner = self.inner.lock();
        inner.recent.push_back((case.request.id, bytes));
        inner.recent_bytes += bytes;
        while inner.recent.len() > RECENT_MAX || inner.recent_bytes > RECENT_BYTES_MAX {
            let Some((oldest, bytes)) = inner.recent.pop_front() else { break };
            inner.recent_bytes -= bytes;
            if let Some(case) = inner.cases.remove(&oldest) {
                inner.by_digest.remove(&(case.request.operation.digest, oldest));
                if let Some(bundle) = case.bundle.get()
                    && bundle.cases().iter().all(|other| !inner.cases.contains_key(&other.request.id))
                {
                    inner.bundles.remove(&bundle.id);
                }
            }
        }
        drop(inner);
        self.changed();
    }

    /// One request; when another took it up, that one.
    pub(crate) fn find(&self, id: RequestId) -> Option<Arc<Case>> {
        let inner = self.inner.lock();
        let mut case = inner.cases.get(&id)?;
        for _ in 0..SUCCESSORS_MAX {
            let Some(next) = case.successor.get().and_then(|next| inner.cases.get(next)) else { break };
            case = next;
        }
        Some(case.clone())
    }

    /// A request for the very same, of the same run, that waits although its client is gone.
    pub(crate) fn left_like(&self, request: &ApprovalRequest) -> Option<Arc<Case>> {
        let run = run_of(request);
        let inner = self.inner.lock();
        let same = inner.of_digest(&request.operation.digest);
        let mut cases = same.filter_map(|id| inner.cases.get(&id));
        let waits = |case: &Arc<Case>| {
            let state = case.state.borrow();
            state.left && state.progress.resolution.is_none()
        };
        cases.find(|case| waits(case) && run_of(&case.request) == run).cloned()
    }

    /// Shows a bundle until the last of its requests is forgotten.
    pub(crate) fn insert_bundle(&self, bundle: Arc<BundleCase>) {
        let mut inner = self.inner.lock();
        while inner.bundles.len() >= PENDING_MAX {
            inner.bundles.pop_first();
        }
        inner.bundles.insert(bundle.id, bundle);
        drop(inner);
        self.changed();
    }

    /// One bundle.
    pub(crate) fn find_bundle(&self, id: BundleId) -> Option<Arc<BundleCase>> {
        self.inner.lock().bundles.get(&id).cloned()
    }

    /// All of them before `before`, newest first.
    pub(crate) fn newest_first(&self, before: Option<RequestId>) -> Vec<Arc<Case>> {
        let inner = self.inner.lock();
        match before {
            Some(before) => inner.cases.range(..before).rev().map(|(_, case)| case.clone()).collect(),
            None => inner.cases.values().rev().cloned().collect(),
        }
    }

    /// The latest requests for this very command, newest first.
    pub(crate) fn earlier(&self, digest: &Digest) -> Vec<Earlier> {
        let inner = self.inner.lock();
        let cases = inner.of_digest(digest).filter_map(|id| inner.cases.get(&id));
        cases.take(EARLIER_MAX).map(|case| Earlier::of(case)).collect()
    }

    /// Something about a request is not what it was.
    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Wakes whoever shows requests when one came, moved or ended.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many wait.
    pub(crate) fn pending(&self) -> usize {
        self.inner.lock().seats
    }
}

/// Room for one request.
pub(crate) struct Seat {
    registry: Arc<Registry>,
    principal: Arc<str>,
    bytes: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.registry.inner.lock();
        inner.seats -= 1;
        inner.seat_bytes -= self.bytes;
        let left = inner.by_principal.get(&self.principal).copied().unwrap_or(0).saturating_sub(1);
        if left == 0 {
            inner.by_principal.remove(&self.principal);
        } else {
            inner.by_principal.insert(self.principal.clone(), left);
        }
        metrics::gauge!("lockgate_approvals_pending").set(count(inner.seats));
    }
}

fn count(seats: usize) -> f64 {
    f64::from(u32::try_from(seats).unwrap_or(u32::MAX))
}

fn weight(request: &ApprovalRequest) -> usize {
    let operation = &request.operation;
    let values = operation
        .parameters
        .iter()
        .map(|parameter| 32 + parameter.value.as_ref().map_or(0, String::len))
        .sum::<usize>();
    // Texts are shared with the approval machine, values are copied.
    REQUEST_OVERHEAD_BYTES + operation.text.len() + operation.normalized.len() + 2 * values
}
