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
use tokio::sync::{oneshot, watch};

impl Approvals for Control {
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(open(self.desk.clone(), request))
    }

    fn lifts(&self, session: &Session, now: Timestamp) -> Vec<Lift> {
        self.desk.keep.lifts(session, now)
    }

    fn stands(&self, basis: &Basis, now: Timestamp) -> bool {
        self.desk.keep.ledger.lock().stands(basis, now)
    }
}

/// Tells people of a bundle; of one that a single request is left of, of that request.
pub(crate) fn tell(desk: &Arc<Desk>, bundle: Bundle) {
    let waits = |(id, _): &(RequestId, Digest)| desk.registry.find(*id).filter(|case| case.resolution().is_none());
    let cases: Vec<Arc<Case>> = bundle.requests.iter().filter_map(waits).collect();
    if let [case] = cases.as_slice() {
        return desk.notify(EventType::Requested, case);
    }
    let Some(first) = cases.first().cloned() else { return };
    let requests = cases.iter().map(|case| (case.request.id, case.request.operation.digest)).collect();
    let bundle = Bundle { requests, ..bundle };
    let told = BundleCase::new(&bundle, cases.clone());
    for case in &cases {
        // Set once: it was gathered once.
        let _ = case.bundle.set(told.clone());
    }
    desk.registry.insert_bundle(told.clone());
    let kind = EventKind::ApprovalsBundled {
        bundle: bundle.id,
        digest: told.digest,
        requests: bundle.requests.iter().map(|(id, _)| *id).collect(),
    };
    desk.recorder.submit(vec![Event { at: desk.ambient.now(), session: Some(first.request.session.id), kind }]);
    desk.notify_bundle(EventType::Requested, &told);
}

/// Dropping this future half-way is safe: the request's task notices that nobody waits, and withdraws it.
async fn open(desk: Arc<Desk>, request: ApprovalRequest) -> Result<Box<dyn PendingApproval>, ApprovalError> {
    if desk.drain.is_cancelled() {
        return Err(ApprovalError::Unavailable("the agent stops".into()));
    }
    let seat = desk.registry.seat(&request)?;
    let (withdraw, waiter) = oneshot::channel();
    let (mut task, case) = CaseTask::new(desk.clone(), request, seat, waiter);
    let (opened, answer) = oneshot::channel();
    let work = async move {
        let recorded = task.open().await;
        let failed = recorded.is_err();
        // When the opener is gone, so is `withdraw`: the task sees it closed and withdraws.
        let _ = opened.send(recorded);
        if !failed {
            task.run().await;
        }
    };
    desk.cases.spawn_on(work, &desk.runtime);
    match answer.await {
        Ok(Ok(())) => Ok(Box::new(Waiter { state: case.state.clone(), withdraw: Some(withdraw) })),
        Ok(Err(error)) => Err(ApprovalError::Unavailable(format!("the request cannot be recorded: {error}"))),
        Err(_) => Err(ApprovalError::Unavailable("the control plane has stopped".into())),
    }
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
