use crate::testing::{Ask, Stage};
use lockgate_model::{
    approval::{Resolution, Vote, VoteDecision, WithdrawReason},
    event::EventKind,
    port::{ApprovalError, Approvals, Durability, PendingApproval},
    principal::Approver,
};
use std::time::Duration;
use tokio::sync::oneshot;

use super::{
    case::{Ballot, BallotError},
    registry::PENDING_PER_PRINCIPAL_MAX,
};

async fn vote(
    stage: &Stage,
    pending: lockgate_model::RequestId,
    id: &str,
    group: &str,
    decision: VoteDecision,
) -> Result<lockgate_model::approval::Progress, BallotError> {
    let case = stage.control.desk.registry.find(pending).unwrap();
    let (reply, answer) = oneshot::channel();
    let by = Approver { id: id.into(), groups: vec![group.into()], via: "test".into(), also: Vec::new() };
    let vote = Vote { by, decision, reason: None, at: stage.now(), grant: None };
    assert!(case.ballots.send(Ballot { vote, reply }).await.is_ok());
    answer.await.unwrap()
}

async fn open(stage: &Stage, ask: Ask) -> (lockgate_model::RequestId, Box<dyn PendingApproval>) {
    let request = stage.request(ask);
    let id = request.id;
    (id, stage.control.open(request).await.unwrap())
}

/// Waits until the request is over.
async fn end(pending: &mut Box<dyn PendingApproval>) -> Resolution {
    loop {
        if let Some(resolution) = pending.changed().await.resolution {
            return resolution;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_opened_request_is_recorded_synced_and_says_where_to_look() {
    let stage = Stage::new(Vec::new());
    let (id, pending) = open(&stage, Ask::default()).await;
    let recorded = stage.log.events.lock().clone();
    assert!(matches!(
        &recorded[..],
        [(EventKind::ApprovalRequested { request, .. }, Some(Durability::Synced))] if *request == id
    ));
    let progress = pending.progress();
    assert_eq!(progress.url, format!("http://127.0.0.1:8420/v1/approvals/{id}"));
    assert_eq!((progress.requirements[0].have, progress.requirements[0].need), (0, 1));
    assert_eq!(progress.resolution, None);
}

#[tokio::test(start_paused = true)]
async fn votes_are_recorded_before_the_waiter_wakes() {
    let stage = Stage::new(Vec::new());
    let (id, mut pending) = open(&stage, Ask { need: 2, ..Ask::default() }).await;
    *stage.log.slow.lock() = Duration::from_secs(3);
    let log = stage.log.clone();
    let waiter = tokio::spawn(async move {
        let first = pending.changed().await;
        assert_eq!((log.votes(), first.requirements[0].have, first.resolution), (1, 1, None));
        let second = pending.changed().await;
        assert_eq!((log.votes(), log.resolutions()), (2, vec!["approved"]));
        assert!(matches!(second.resolution, Some(Resolution::Approved { votes, .. }) if votes.len() == 2));
        // After a resolution it returns at once.
        assert!(pending.changed().await.resolution.is_some());
    });
    vote(&stage, id, "webhook:a:ana", "dba", VoteDecision::Approve).await.unwrap();
    vote(&stage, id, "webhook:a:bob", "dba", VoteDecision::Approve).await.unwrap();
    waiter.await.unwrap();
    assert!(stage.log.events.lock().iter().all(|(_, durability)| *durability == Some(Durability::Synced)));
}

#[tokio::test(start_paused = true)]
async fn a_vote_that_cannot_be_recorded_never_happened() {
    let stage = Stage::new(Vec::new());
    let (id, pending) = open(&stage, Ask::default()).await;
    stage.log.fail(true);
    for decision in [VoteDecision::Approve, VoteDecision::Deny] {
        let refused = vote(&stage, id, "webhook:a:ana", "dba", decision).await;
        assert!(matches!(refused, Err(BallotError::Record(_))));
        assert_eq!((pending.progress().requirements[0].have, pending.progress().resolution), (0, None));
    }
    stage.log.fail(false);
    vote(&stage, id, "webhook:a:ana", "dba", VoteDecision::Approve).await.unwrap();
    assert!(matches!(pending.progress().resolution, Some(Resolution::Approved { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_recorded_is_not_opened() {
    let stage = Stage::new(Vec::new());
    stage.log.fail(true);
    let refused = stage.control.open(stage.request(Ask::default())).await;
    assert!(matches!(refused, Err(ApprovalError::Unavailable(detail)) if detail.contains("No space left")));
    assert_eq!(stage.control.pending(), 0);
}

#[tokio::test(start_paused = true)]
async fn nobody_deciding_in_time_is_recorded_and_denies() {
    let stage = Stage::new(Vec::new());
    let (_, mut pending) = open(&stage, Ask { timeout: Duration::from_secs(90), ..Ask::default() }).await;
    let began = tokio::time::Instant::now();
    assert_eq!(end(&mut pending).await, Resolution::Expired);
    assert_eq!(began.elapsed().as_secs(), 90);
    assert_eq!(stage.log.resolutions(), ["expired"]);
}

#[tokio::test(start_paused = true)]
async fn an_expiry_that_cannot_be_recorded_denies_all_the_same() {
    let stage = Stage::new(Vec::new());
    let (_, mut pending) = open(&stage, Ask { timeout: Duration::from_secs(90), ..Ask::default() }).await;
    stage.log.fail(true);
    assert_eq!(end(&mut pending).await, Resolution::Expired);
    assert_eq!(stage.log.resolutions(), ["expired"], "queued for the log");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_hangs_keeps_nobody_waiting_for_ever() {
    let stage = Stage::new(Vec::new());
    let (id, mut pending) = open(&stage, Ask { timeout: Duration::from_secs(90), ..Ask::default() }).await;
    *stage.log.slow.lock() = Duration::from_secs(86_400);
    let refused = vote(&stage, id, "webhook:a:ana", "dba", VoteDecision::Approve).await;
    assert!(matches!(refused, Err(BallotError::Record(_))));
    let began = tokio::time::Instant::now();
    assert_eq!(end(&mut pending).await, Resolution::Expired);
    assert!(began.elapsed() <= Duration::from_secs(90));
    let refused = stage.control.open(stage.request(Ask::default())).await;
    assert!(matches!(refused, Err(ApprovalError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn a_later_stage_counts_earlier_votes_once_it_is_recorded() {
    let stage = Stage::new(Vec::new());
    let later = Some((Duration::from_secs(600), vec!["dba".into(), "platform-oncall".into()], 1));
    let (id, mut pending) = open(&stage, Ask { need: 2, later, ..Ask::default() }).await;
    vote(&stage, id, "webhook:a:ana", "dba", VoteDecision::Approve).await.unwrap();
    stage.log.fail(true);
    tokio::time::sleep(Duration::from_secs(605)).await;
    assert_eq!(pending.progress().resolution, None, "an approval waits for its record");
    stage.log.fail(false);
    assert!(matches!(end(&mut pending).await, Resolution::Approved { .. }));
    assert_eq!(stage.log.resolutions(), ["approved"]);
}

#[tokio::test(start_paused = true)]
async fn withdrawing_is_recorded_when_it_returns() {
    for (reason, failing) in [(WithdrawReason::Cancelled, false), (WithdrawReason::UpstreamLost, true)] {
        let stage = Stage::new(Vec::new());
        let (id, pending) = open(&stage, Ask::default()).await;
        stage.log.fail(failing);
        pending.withdraw(reason).await;
        let ended = stage.log.pick(|kind| match kind {
            EventKind::ApprovalResolved { resolution: Resolution::Withdrawn { reason }, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(ended, [reason]);
        let case = stage.control.desk.registry.find(id).unwrap();
        assert_eq!(case.resolution(), Some(Resolution::Withdrawn { reason }));
        settle(|| stage.control.pending() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_never_becomes_an_approval_that_is_not_recorded() {
    let stage = Stage::new(Vec::new());
    let later = Some((Duration::from_secs(600), vec!["dba".into()], 1));
    let (id, pending) = open(&stage, Ask { need: 2, later, ..Ask::default() }).await;
    vote(&stage, id, "webhook:a:ana", "dba", VoteDecision::Approve).await.unwrap();
    stage.log.fail(true);
    // The later stage is met by now; the request's task has not looked yet.
    tokio::time::advance(Duration::from_secs(601)).await;
    pending.withdraw(WithdrawReason::Cancelled).await;
    let case = stage.control.desk.registry.find(id).unwrap();
    assert_eq!(case.resolution(), Some(Resolution::Withdrawn { reason: WithdrawReason::Cancelled }));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_waiter_withdraws_as_disconnected() {
    let stage = Stage::new(Vec::new());
    let (id, pending) = open(&stage, Ask::default()).await;
    drop(pending);
    settle(|| stage.control.pending() == 0).await;
    let case = stage.control.desk.registry.find(id).unwrap();
    let expected = Resolution::Withdrawn { reason: WithdrawReason::Disconnected };
    assert_eq!(case.resolution(), Some(expected));
    assert_eq!(stage.log.resolutions(), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_its_request_is_opened_is_withdrawn_too() {
    let stage = Stage::new(Vec::new());
    *stage.log.slow.lock() = Duration::from_secs(2);
    let request = stage.request(Ask::default());
    let opening = tokio::time::timeout(Duration::from_secs(1), stage.control.open(request)).await;
    assert!(opening.is_err());
    settle(|| stage.control.pending() == 0).await;
    assert_eq!(stage.log.resolutions(), ["cancelled"]);
}

#[tokio::test(start_paused = true)]
async fn stopping_leaves_what_waits_and_opens_nothing_more() {
    let stage = Stage::new(Vec::new());
    let (_, mut pending) = open(&stage, Ask::default()).await;
    stage.control.stop(Duration::from_secs(5)).await;
    assert_eq!(end(&mut pending).await, Resolution::Withdrawn { reason: WithdrawReason::Drained });
    assert!(stage.log.resolutions().is_empty(), "the request waits on");
    let left = |kind: &EventKind| matches!(kind, EventKind::ApprovalLeft { .. }).then_some(());
    assert_eq!(stage.log.pick(left).len(), 1);
    let refused = stage.control.open(stage.request(Ask::default())).await;
    assert!(matches!(refused, Err(ApprovalError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn one_principal_cannot_use_up_what_others_need() {
    let stage = Stage::new(Vec::new());
    let mut waiting = Vec::new();
    for _ in 0..PENDING_PER_PRINCIPAL_MAX {
        waiting.push(open(&stage, Ask::default()).await.1);
    }
    let refused = stage.control.open(stage.request(Ask::default())).await;
    assert!(matches!(refused, Err(ApprovalError::TooManyPending(PENDING_PER_PRINCIPAL_MAX))));
    let other = Ask { principal: "uid:1005".into(), ..Ask::default() };
    assert!(stage.control.open(stage.request(other)).await.is_ok());
    drop(waiting.pop());
    settle(|| stage.control.pending() < PENDING_PER_PRINCIPAL_MAX).await;
    assert!(stage.control.open(stage.request(Ask::default())).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_wait_are_bounded_and_what_is_over_is_forgotten_in_the_end() {
    use super::registry::{PENDING_BYTES_MAX, RECENT_BYTES_MAX};
    let stage = Stage::new(Vec::new());
    let statement = "x".repeat(8 << 20);
    let mut waiting = Vec::new();
    let refused = loop {
        let ask = Ask { statement: statement.clone(), ..Ask::default() };
        match stage.control.open(stage.request(ask)).await {
            Ok(pending) => waiting.push(pending),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ApprovalError::TooManyPending(_)));
    assert!(waiting.len() * statement.len() <= PENDING_BYTES_MAX && waiting.len() >= 24);
    drop(waiting);
    settle(|| stage.control.pending() == 0).await;
    let left = stage.control.desk.registry.newest_first(None);
    let bytes: usize = left.iter().map(|case| case.request.operation.text.len()).sum();
    assert!(bytes <= RECENT_BYTES_MAX, "{bytes}");
}

/// Lets other tasks run until `done`; paused time moves on by itself.
async fn settle(done: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("did not settle");
}
