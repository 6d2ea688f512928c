//! The control plane as the data plane sees it: [`Approvals`] and [`PendingApproval`].

use super::case::{CaseTask, State, Withdrawal};
use crate::{Control, desk::Desk};
use lockgate_model::{
    approval::{ApprovalRequest, Progress, Resolution, WithdrawReason},
    port::{ApprovalError, Approvals, BoxFuture, PendingApproval},
};
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

impl Approvals for Control {
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(open(self.desk.clone(), request))
    }
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
                let mut progress = self.progress();
                progress.resolution.get_or_insert(Resolution::Withdrawn { reason: WithdrawReason::Crash });
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
