//! The control plane as the data plane sees it: [`Approvals`] and [`PendingApproval`].

use super::{
    bundle::BundleCase,
    case::{Case, CaseTask, State, Withdrawal},
};
use crate::{Control, desk::Desk, notify::event::EventType};
use lockgate_model::{
    RequestId, Timestamp,
    approval::{ApprovalRequest, Progress, Resolution, WithdrawReason},
    event::{Event, EventKind},
    grant::{Basis, Lift},
    operation::Digest,
    port::{ApprovalError, Approvals, BoxFuture, PendingApproval},
    session::Session,
};
use lockgate_policy::approval::bundle::Bundle;
use std::sync::Arc;
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};

impl Approvals for Control {
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(open(self.desk.clone(), request))
    }

    fn open_all(
        &self,
        requests: Vec<ApprovalRequest>,
    ) -> BoxFuture<'_, Vec<Result<Box<dyn PendingApproval>, ApprovalError>>> {
        Box::pin(open_all(self.desk.clone(), requests))
    }

    fn lifts(&self, session: &Session, now: Timestamp) -> Vec<Lift> {
        self.desk.keep.lifts(session, now)
    }

    fn stands(&self, basis: &Basis, now: Timestamp) -> bool {
        self.desk.keep.ledger.lock().stands(basis, now)
    }
}

/// Tells people of a bundle, or that more belongs to one they know; of one that a single request is left of, of that
/// request.
pub(crate) fn tell(desk: &Arc<Desk>, bundle: Bundle) {
    let waits =
        |(id, _): &(RequestId, Digest)| desk.registry.find(*id).filter(|case| case.resolution().is_none());
    let cases: Vec<Arc<Case>> = bundle.requests.iter().skip(bundle.told).filter_map(waits).collect();
    if bundle.told > 0 && cases.is_empty() {
        return;
    }
    if bundle.told > 0 {
        if let Some(known) = desk.registry.find_bundle(bundle.id)
            && known.extend(&cases)
        {
            return announce(desk, &known, &cases, EventType::Updated);
        }
        // What was told is over: the rest begins anew, and takes what comes within the window.
        let next = desk.bundle_id();
        desk.keep.gather.lock().renew(bundle.id, bundle.told, next);
        return begin(desk, Bundle { id: next, ..bundle }, cases);
    }
    begin(desk, bundle, cases);
}

fn begin(desk: &Arc<Desk>, bundle: Bundle, cases: Vec<Arc<Case>>) {
    if let [case] = cases.as_slice() {
        return desk.notify(EventType::Requested, case);
    }
    if cases.is_empty() {
        return;
    }
    let requests = cases.iter().map(|case| (case.request.id, case.request.operation.digest)).collect();
    let told = BundleCase::new(Bundle { requests, ..bundle }, cases.clone());
    desk.registry.insert_bundle(told.clone());
    announce(desk, &told, &cases, EventType::Requested);
}

/// `new` belong to it from now on.
fn announce(desk: &Arc<Desk>, told: &Arc<BundleCase>, new: &[Arc<Case>], kind: EventType) {
    let Some(first) = new.first() else { return };
    for case in new {
        // Set once: it was gathered once.
        let _ = case.bundle.set(told.clone());
    }
    // Whoever looked when the requests came saw them alone.
    desk.registry.changed();
    let bundled =
        EventKind::ApprovalsBundled { bundle: told.id, digest: told.digest(), requests: told.requests() };
    let session = Some(first.request.session.id);
    desk.recorder.submit(vec![Event { at: desk.ambient.now(), session, kind: bundled }]);
    desk.keep.settle_bundle(desk, told.id, Some(kind));
}

/// Dropping this future half-way is safe: the request's task notices that nobody waits, and withdraws it.
async fn open(desk: Arc<Desk>, request: ApprovalRequest) -> Result<Box<dyn PendingApproval>, ApprovalError> {
    let opened = open_all(desk, vec![request]).await.pop();
    opened.unwrap_or_else(|| Err(ApprovalError::Unavailable("the control plane has stopped".into())))
}

/// One request on its way to being open.
struct Opening {
    task: CaseTask,
    waiter: Waiter,
}

/// Dropping this future half-way is safe: the requests' tasks notice that nobody waits, and withdraw them.
async fn open_all(
    desk: Arc<Desk>,
    requests: Vec<ApprovalRequest>,
) -> Vec<Result<Box<dyn PendingApproval>, ApprovalError>> {
    let mut answers: Vec<Result<Box<dyn PendingApproval>, ApprovalError>> =
        Vec::with_capacity(requests.len());
    let mut openings = Vec::with_capacity(requests.len());
    for (at, request) in requests.into_iter().enumerate() {
        match prepare(&desk, request) {
            Ok(opening) => openings.push((at, opening)),
            Err(error) => {
                answers.push(Err(error));
                continue;
            }
        }
        answers.push(Err(ApprovalError::Unavailable("the control plane has stopped".into())));
    }
    let (opened, answer) = oneshot::channel();
    // When the opener is gone, so are the waiters: each task sees that and withdraws.
    let work = open_and_tell(desk.clone(), openings, opened);
    desk.cases.spawn_on(work, &desk.runtime);
    for (at, waiter) in answer.await.unwrap_or_default() {
        if let Some(answer) = answers.get_mut(at) {
            *answer = waiter.map(|waiter| Box::new(waiter) as Box<dyn PendingApproval>);
        }
    }
    answers
}

fn prepare(desk: &Arc<Desk>, request: ApprovalRequest) -> Result<Opening, ApprovalError> {
    if desk.drain.is_cancelled() {
        return Err(ApprovalError::Unavailable("the agent stops".into()));
    }
    let seat = desk.registry.seat(&request)?;
    let (withdraw, waiter) = oneshot::channel();
    let (task, case) = CaseTask::new(desk.clone(), request, seat, waiter);
    Ok(Opening { task, waiter: Waiter { state: case.state.clone(), withdraw: Some(withdraw) } })
}

/// Opens them side by side, so that their records are written together; tells people once all of them can be seen.
async fn open_and_tell(
    desk: Arc<Desk>,
    openings: Vec<(usize, Opening)>,
    opened: oneshot::Sender<Vec<(usize, Result<Waiter, ApprovalError>)>>,
) {
    let mut under_way = JoinSet::new();
    for (at, Opening { mut task, waiter }) in openings {
        under_way.spawn(async move {
            let recorded = task.open().await;
            (at, task, waiter, recorded)
        });
    }
    let mut all = Vec::with_capacity(under_way.len());
    while let Some(ended) = under_way.join_next().await {
        match ended {
            Ok(opened) => all.push(opened),
            Err(error) => tracing::error!(%error, "opening a request broke"),
        }
    }
    all.sort_by_key(|(at, ..)| *at);
    let mut waiters = Vec::with_capacity(all.len());
    for (at, task, waiter, recorded) in all {
        match recorded {
            Ok(to_tell) => {
                if to_tell {
                    task.tell();
                }
                desk.cases.spawn_on(task.run(), &desk.runtime);
                waiters.push((at, Ok(waiter)));
            }
            Err(error) => {
                let error = ApprovalError::Unavailable(format!("the request cannot be recorded: {error}"));
                waiters.push((at, Err(error)));
            }
        }
    }
    // Nobody waits for the answer when the opener is gone.
    let _ = opened.send(waiters);
}

/// The waiting client's half. Dropping it closes `withdraw`, which the request's task takes for a disconnect.
struct Waiter {
    state: watch::Receiver<State>,
    withdraw: Option<oneshot::Sender<Withdrawal>>,
}

impl PendingApproval for Waiter {
    fn progress(&self) -> Progress {
        self.state.borrow().progress.clone()
    }

    fn changed(&mut self) -> BoxFuture<'_, Progress> {
        Box::pin(async move {
            if self.state.borrow().progress.resolution.is_none() && self.state.changed().await.is_err() {
                // The task ended without a resolution: it broke. Nobody will decide any more, so this refuses.
                // Or it waits on without this client, since lockgate stops.
                let left = self.state.borrow().left;
                let reason = if left { WithdrawReason::Drained } else { WithdrawReason::Crash };
                let mut progress = self.progress();
                progress.resolution.get_or_insert(Resolution::Withdrawn { reason });
                return progress;
            }
            self.state.borrow_and_update().progress.clone()
        })
    }

    fn withdraw(mut self: Box<Self>, reason: WithdrawReason) -> BoxFuture<'static, ()> {
        let (done, recorded) = oneshot::channel();
        let sent = self.withdraw.take().map(|withdraw| withdraw.send(Withdrawal { reason, done }));
        Box::pin(async move {
            // A closed channel means that the request is over already; its end is recorded.
            if let Some(Ok(())) = sent {
                let _ = recorded.await;
            }
        })
    }
}
