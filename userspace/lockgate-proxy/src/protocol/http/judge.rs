//! May a request pass? Asks policy, records what does not pass, and waits for people where they are asked.
//!
//! While it waits the client waits: HTTP has no word for it, and an interim response would promise what nobody has
//! decided. When the client goes, hyper drops the exchange and with it the request for approval, which withdraws itself.

use super::exchange::Conversation;
use crate::{
    hold,
    limits::{FAREWELL_TIME, HOLD_ROUNDS},
    metrics::{DENIALS, HELD, HOLD_SECONDS},
};
use lockgate_model::{
    DecisionId,
    approval::{ApprovalRequest, Resolution, WithdrawReason},
    event::Event,
    operation::Operation,
    port::{Durability, PendingApproval},
    verdict::{Denial, DenialCause, Effect},
};
use lockgate_policy::{Judged, permit::Cleared};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, interval, timeout};

/// How often it is looked whether a client that waits is still there, where nothing reads its connection.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Does not pass: the decision to quote, and why.
pub(super) type Refusal = (DecisionId, Denial);

/// Decides one request.
pub(super) async fn judge(
    conversation: &Conversation,
    operation: &Arc<Operation>,
    verdict: Judged,
) -> Result<Cleared, Refusal> {
    let mut verdict = verdict;
    for _ in 0..HOLD_ROUNDS {
        verdict = match verdict.effect.clone() {
            Effect::Allow => {
                let decision = verdict.decision;
                return Cleared::allowed(operation.clone(), verdict)
                    .map_err(|_| (decision, unavailable("the decision is not an allow")));
            }
            Effect::Deny(denial) => return Err(refuse(conversation, operation, verdict, denial).await),
            Effect::Hold(_) => match hold(conversation, operation, verdict).await? {
                Held::Approved(cleared) => return Ok(*cleared),
                Held::Changed(verdict) => *verdict,
            },
        };
    }
    let denial = unavailable("the policy kept changing while approval was asked for");
    Err(refuse(conversation, operation, verdict, denial).await)
}

/// Records a refusal.
pub(super) async fn refuse(
    conversation: &Conversation,
    operation: &Arc<Operation>,
    verdict: Judged,
    denial: Denial,
) -> Refusal {
    let decision = verdict.decision;
    let events = conversation.with_gate(|gate| gate.decided(operation, verdict, Some(denial.clone())));
    record(conversation, events, Durability::Written).await;
    count(conversation, &denial);
    (decision, denial)
}

/// Records a refusal behind a wait, whose decision rests already.
async fn refuse_held(
    conversation: &Conversation,
    operation: &Operation,
    decision: DecisionId,
    denial: Denial,
) -> Refusal {
    let event = conversation.with_gate(|gate| gate.refused(operation.id, decision, denial.clone()));
    record(conversation, vec![event], Durability::Written).await;
    count(conversation, &denial);
    (decision, denial)
}

/// What is refused anyway: a recorder that fails changes nothing for the client, and is said aloud.
async fn record(conversation: &Conversation, events: Vec<Event>, durability: Durability) {
    let recorder = conversation.with_gate(|gate| gate.recorder());
    if let Err(error) = recorder.record(events, durability).await {
        tracing::error!(%error, "a refusal could not be recorded");
    }
}

fn count(conversation: &Conversation, denial: &Denial) {
    let target = conversation.session.target.name.0.to_string();
    ::metrics::counter!(DENIALS, "target" => target, "cause" => denial.cause.as_str()).increment(1);
}

/// How a wait ended, when it did not end in a refusal.
enum Held {
    Approved(Box<Cleared>),
    /// Policy asks for more than before.
    Changed(Box<Judged>),
}

async fn hold(
    conversation: &Conversation,
    operation: &Arc<Operation>,
    verdict: Judged,
) -> Result<Held, Refusal> {
    let request = conversation.with_gate(|gate| gate.request(operation, verdict.clone()));
    let Some(request) = request else {
        return Err(refuse(conversation, operation, verdict, unavailable("the verdict asks nobody")).await);
    };
    let decision = request.decision();
    let (events, recorder) = conversation
        .with_gate(|gate| (gate.decided(operation, request.verdict.clone(), None), gate.recorder()));
    if let Err(error) = recorder.record(events, Durability::Synced).await {
        let denial = Denial {
            rule: None,
            cause: DenialCause::RecordFailed,
            reason: error.to_string(),
            remedy: Some("try again when lockgate's log can be written".to_owned()),
        };
        return Err((decision, denial));
    }
    let approvals = conversation.with_gate(|gate| gate.ports.approvals.clone());
    let pending = match approvals.open(request.clone()).await {
        Ok(pending) => pending,
        Err(error) => {
            let denial = unavailable(&error.to_string());
            return Err(refuse_held(conversation, operation, decision, denial).await);
        }
    };
    let resolution = wait(conversation, &request, pending).await;
    let rule = request.spec.requirements.first().map(|requirement| requirement.rule.clone());
    if let Some(denial) = hold::refusal(&resolution, rule) {
        return Err(refuse_held(conversation, operation, decision, denial).await);
    }
    if let Resolution::Approved { basis: Some(basis), .. } = &resolution {
        let now = conversation.with_gate(|gate| gate.now());
        if !approvals.stands(basis, now) {
            let denial = unavailable("the grant that approved it has been taken back");
            return Err(refuse_held(conversation, operation, decision, denial).await);
        }
    }
    let now = conversation.with_gate(|gate| gate.evaluate(operation));
    match Cleared::approved(operation.clone(), now, &request, &resolution) {
        Ok(cleared) => Ok(Held::Approved(Box::new(cleared))),
        Err(now) => match now.effect.clone() {
            Effect::Deny(denial) => Err(refuse_held(conversation, operation, now.decision, denial).await),
            Effect::Hold(_) => Ok(Held::Changed(now)),
            Effect::Allow => {
                let denial = unavailable("the approval is for another operation");
                Err(refuse_held(conversation, operation, now.decision, denial).await)
            }
        },
    }
}

/// Waits until the request is resolved, the client is gone or lockgate ends.
async fn wait(
    conversation: &Conversation,
    request: &ApprovalRequest,
    mut pending: Box<dyn PendingApproval>,
) -> Resolution {
    tracing::info!(
        session = %conversation.session.id,
        request = %request.id,
        decision = %request.decision(),
        "operation held"
    );
    let began = Instant::now();
    let _held = HeldGauge::new();
    let mut progress = pending.progress();
    let mut look = interval(LOOK_EVERY);
    let ended = loop {
        if let Some(resolution) = progress.resolution.clone() {
            break Ok(resolution);
        }
        tokio::select! {
            biased;
            () = conversation.drain.deadline.cancelled() => break Err(conversation.drain.ending().0),
            changed = pending.changed() => progress = changed,
            _ = look.tick() => {
                if conversation.is_client_gone() {
                    break Err(WithdrawReason::Disconnected);
                }
            }
        }
    };
    ::metrics::histogram!(HOLD_SECONDS).record(began.elapsed());
    match ended {
        Ok(resolution) => resolution,
        Err(reason) => {
            // A recorder that hangs does not keep the client: dropped, the request withdraws itself.
            if timeout(FAREWELL_TIME, pending.withdraw(reason)).await.is_err() {
                tracing::error!("the withdrawal of a request was not recorded in time");
            }
            Resolution::Withdrawn { reason }
        }
    }
}

impl Conversation {
    /// Whether the client has closed its side or the connection is broken. What it has sent stays where it is.
    fn is_client_gone(&self) -> bool {
        let Some(socket) = &self.watched else { return false };
        let mut fds = [PollFd::new(socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut fds, Some(&now)) {
            Ok(_) => fds.iter().any(|fd| {
                fd.revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
            }),
            Err(_) => false,
        }
    }
}

/// Operations that wait, also when the exchange is dropped.
struct HeldGauge;

impl HeldGauge {
    fn new() -> Self {
        ::metrics::gauge!(HELD).increment(1);
        Self
    }
}

impl Drop for HeldGauge {
    fn drop(&mut self) {
        ::metrics::gauge!(HELD).decrement(1);
    }
}

pub(super) fn unavailable(reason: &str) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::Unavailable,
        reason: reason.to_owned(),
        remedy: Some("try again later; lockgate's log says more".to_owned()),
    }
}
