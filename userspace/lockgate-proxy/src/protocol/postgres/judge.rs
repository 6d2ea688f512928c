//! Deciding what a client asked for: policy and masks over every operation of a message or batch, waiting for people where
//! policy says so. The statements of a message pass together or not at all; of a batch passes what stands before the first
//! that does not.
//!
//! Nothing is sent from here. While it waits, the engine goes on relaying answers to what was sent before.

use super::{engine::Engine, flight::Flight, words};
use crate::{
    gate::Gate,
    hold::{self, NoticeSchedule},
    limits::{ASKED_AHEAD, FAREWELL_TIME, HOLD_ROUNDS},
    metrics::{DENIALS, HELD, HOLD_SECONDS},
    report::Ending,
};
use lockgate_inspect::{
    mask::StatementMask,
    sql::{Control, Statement},
};
use lockgate_model::{
    Timestamp,
    approval::{ApprovalRequest, Resolution, WithdrawReason},
    event::Event,
    operation::Operation,
    outcome::CloseReason,
    port::{Durability, PendingApproval},
    session::Mode,
    sql::{SqlClass, is_replication},
    verdict::{ApprovalSpec, Denial, DenialCause, Effect},
};
use lockgate_policy::{Judged, permit::Cleared};
use lockgate_wire::postgres::{TransactionStatus, backend::ReportFields};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until, timeout},
};

/// One operation that wants to pass.
pub(crate) struct Asked {
    /// The operation.
    pub(crate) operation: Arc<Operation>,
    /// What the inspector made of it.
    pub(crate) statement: Arc<Statement>,
    /// An approval that it may use again: it was given for the same text when it was prepared.
    pub(crate) approval: Option<Granted>,
}

/// An approval and what it was given for.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// The operation that was approved; reused, so that the approval fits it.
    pub(crate) operation: Arc<Operation>,
    request: Arc<ApprovalRequest>,
    resolution: Arc<Resolution>,
}

impl Granted {
    /// Whether it was given for this very operation and has not run out.
    pub(crate) fn fits(&self, operation: &Operation, now: Timestamp) -> bool {
        self.operation.digest == operation.digest && now <= self.request.expires_at
    }

    /// Whether what it stands on still holds: a grant may have been taken back since.
    fn stands(&self, gate: &Gate) -> bool {
        match &*self.resolution {
            Resolution::Approved { basis: Some(basis), .. } => gate.ports.approvals.stands(basis, gate.now()),
            Resolution::Approved { basis: None, .. } => true,
            Resolution::Denied { .. } | Resolution::Expired | Resolution::Withdrawn { .. } => false,
        }
    }
}

/// One operation that may pass.
pub(crate) struct Passed {
    /// For the permit.
    pub(crate) cleared: Cleared,
    /// For the answer.
    pub(crate) flight: Flight,
    /// How it was approved, when people did.
    pub(crate) granted: Option<Granted>,
}

/// What stands or falls together.
#[derive(Clone, Copy)]
pub(crate) enum Unit<'a> {
    /// One message: all of it or nothing.
    Message,
    /// A batch: a refusal ends it where the server's own would. How many operations still run when only so many pass: fewer
    /// where their messages are entangled.
    Batch(&'a (dyn Fn(usize) -> usize + Sync)),
}

/// What becomes of a message or batch.
pub(crate) enum Judgement {
    /// All of it passes.
    Passed(Vec<Passed>),
    /// Nothing of it passes; the words for the client.
    Refused(ReportFields),
    /// Of a batch: these pass, in order; the next one is refused, with these words, and the others behind it do not run.
    Cut(Vec<Passed>, ReportFields),
}

/// An operation on its way through the judgement.
struct Case {
    asked: Asked,
    verdict: Judged,
    mask: Option<Arc<StatementMask>>,
    /// Its hold was recorded; a refusal is then an event of its own.
    held: bool,
    cleared: Option<(Cleared, Option<Granted>)>,
}

/// A request that was opened before its turn to be waited for.
struct Ahead {
    /// Which operation of the message or batch.
    at: usize,
    request: Arc<ApprovalRequest>,
    pending: Result<Box<dyn PendingApproval>, Denial>,
}

/// How a hold ended.
enum Held {
    Approved(Box<(Cleared, Granted)>),
    Refused(Box<Judged>, Denial),
}

impl Gate {
    fn case(&mut self, asked: Asked, masks: &mut super::masks::Masks) -> Case {
        self.follow();
        let keys = self.ports.mask_keys.load_full();
        // A session can say more of an operation than its statement does (a dump's, for example): then it is judged anew.
        let plain = Arc::ptr_eq(&asked.operation.facts, &asked.statement.facts);
        let known = self.known.of(&asked.statement, masks.catalogue(), &keys).filter(|_| plain);
        let known = known.and_then(|known| known.allowed.clone());
        if let Some((verdict, mask)) = known {
            let verdict = self.again(verdict, &asked.operation);
            return Case { asked, verdict, mask, held: false, cleared: None };
        }
        let verdict = self.evaluate(&asked.operation);
        let (verdict, mask) = self.masked(verdict, &asked.statement, masks);
        if plain
            && self.judges_facts_alone()
            && let Some(known) = self.known.of(&asked.statement, masks.catalogue(), &keys)
        {
            known.keep(&verdict, mask.as_ref());
        }
        Case { asked, verdict, mask, held: false, cleared: None }
    }

    /// What the masks of a verdict mean for the statement; a use that they forbid refuses it.
    fn masked(
        &self,
        verdict: Judged,
        statement: &Statement,
        masks: &mut super::masks::Masks,
    ) -> (Judged, Option<Arc<StatementMask>>) {
        let asked = verdict.obligations.mask.as_ref();
        // Rows of a cursor or a prepared statement are another statement's: a mask that policy puts on SELECT alone must
        // hold for them too, so every mask of the session does.
        let spec = if runs_another(statement) { self.session_masks().or(asked) } else { asked };
        let Some(spec) = spec else { return (verdict, None) };
        match self.session.target.mode {
            Mode::Enforce => {}
            // Decided and recorded, not acted on.
            Mode::Shadow | Mode::Observe => return (verdict, None),
        }
        if matches!(verdict.effect, Effect::Deny(_)) || is_dataless(statement) {
            return (verdict, None);
        }
        if is_replication(&statement.sql().kind) {
            let denial = super::replication::unmaskable(spec);
            return (verdict.refused(denial), None);
        }
        let Some(plan) = masks.plan(spec, &self.ports.mask_keys.load_full()) else {
            let denial = Denial {
                rule: spec.rules.first().cloned(),
                cause: DenialCause::Unavailable,
                reason: "the target's catalogue could not be read, so lockgate cannot mask its columns"
                    .to_owned(),
                remedy: Some("try again; if it stays so, lockgate's log says why".to_owned()),
            };
            return (verdict.refused(denial), None);
        };
        match plan.judge(statement) {
            Ok(mask) => (verdict, Some(Arc::new(mask))),
            Err(violation) if violation.may_be_approved && spec.approval.is_some() => {
                match (plan.judge_approved(statement), spec.approval.clone()) {
                    (Ok(mask), Some(approval)) => {
                        (also_held(verdict, approval, &violation.reason), Some(Arc::new(mask)))
                    }
                    (Err(violation), _) => (verdict.refused(violation.denial()), None),
                    (Ok(_), None) => (verdict.refused(violation.denial()), None),
                }
            }
            Err(violation) => {
                let mut denial = violation.denial();
                denial.rule = denial.rule.or_else(|| spec.rules.first().cloned());
                (verdict.refused(denial), None)
            }
        }
    }
}

/// A verdict that waits for these people too, and tells them why.
fn also_held(verdict: Judged, mut approval: ApprovalSpec, why: &str) -> Judged {
    for requirement in &mut approval.requirements {
        requirement.description = Some(match &requirement.description {
            Some(description) => format!("{description}: {why}"),
            None => why.to_owned(),
        });
    }
    verdict.also_held(approval)
}

/// EXECUTE and FETCH answer what PREPARE and DECLARE said.
fn runs_another(statement: &Statement) -> bool {
    matches!(statement.control, Control::Execute { .. } | Control::Fetch { .. })
}

/// BEGIN, COMMIT and the like carry no data, masked or not.
fn is_dataless(statement: &Statement) -> bool {
    statement.class() == SqlClass::Transaction
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send> Engine<C> {
    /// Decides all of it. Returns when nothing is left to wait for. A denial anywhere asks nobody: what is held before it is
    /// refused with it. While people think nothing of it is sent, not even what stands before.
    pub(crate) async fn judge(&mut self, asked: Vec<Asked>, unit: Unit<'_>) -> Result<Judgement, Ending> {
        self.refresh_masks().await?;
        let mut cases: Vec<Case> = Vec::with_capacity(asked.len());
        for asked in asked {
            cases.push(self.gate.case(asked, &mut self.masks));
        }
        if cases.iter().all(|case| matches!(case.verdict.effect, Effect::Allow)) {
            return Ok(pass(cases));
        }
        // A refusal or a hold is told after the answers to what was sent before, and needs to know how those left the
        // transaction. A cancellation that comes meanwhile is meant for what is running.
        if self.server_leg.outstanding() > 0 {
            let asked = self.cancel.finish();
            self.settle().await?;
            self.cancel.begin();
            if asked {
                self.cancel.cancel();
            }
        }
        if self.server_leg.status() == TransactionStatus::Failed || self.server_leg.is_skipping() {
            // The server will refuse or drop it anyway: people are not asked for nothing.
            for case in &mut cases {
                if matches!(case.verdict.effect, Effect::Hold(_)) {
                    let denial = Denial {
                        rule: None,
                        cause: DenialCause::Unavailable,
                        reason: "the transaction has failed already, so nothing is asked for it".to_owned(),
                        remedy: Some("end it with ROLLBACK and run it again".to_owned()),
                    };
                    case.verdict = case.verdict.clone().refused(denial);
                }
            }
        }
        if let Some(at) = cases.iter().position(|case| matches!(case.verdict.effect, Effect::Deny(_))) {
            return self.refuse(cases, at, unit).await;
        }
        let mut ahead = self.ask_ahead(&mut cases).await?;
        let mut waited = false;
        for at in 0..cases.len() {
            let Some(case) = cases.get_mut(at) else { break };
            if !matches!(case.verdict.effect, Effect::Hold(_)) {
                continue;
            }
            if let Some(cleared) = reuse(case, &self.gate) {
                case.cleared = Some(cleared);
                continue;
            }
            waited = true;
            case.held = true;
            let (operation, statement) = (case.asked.operation.clone(), case.asked.statement.clone());
            let verdict = case.verdict.clone();
            let opened =
                ahead.iter().position(|opened| opened.at == at).map(|index| ahead.swap_remove(index));
            // Rare, and large: what every session would keep room for otherwise.
            let held = match Box::pin(self.hold(&operation, &statement, verdict, opened)).await {
                Ok(held) => held,
                Err(ending) => {
                    withdraw_all(ahead, withdrawal(&ending)).await;
                    return Err(ending);
                }
            };
            match held {
                Held::Approved(approved) => {
                    let (cleared, granted) = *approved;
                    let verdict = cleared.verdict().clone();
                    let (verdict, mask) = self.gate.masked(verdict, &statement, &mut self.masks);
                    let Some(case) = cases.get_mut(at) else { break };
                    (case.verdict, case.mask) = (verdict, mask);
                    if matches!(case.verdict.effect, Effect::Deny(_)) {
                        withdraw_all(ahead, WithdrawReason::Cancelled).await;
                        return self.refuse_waited(cases, at, unit).await;
                    }
                    case.cleared = Some((cleared, Some(granted)));
                }
                Held::Refused(verdict, denial) => {
                    let Some(case) = cases.get_mut(at) else { break };
                    case.verdict = (*verdict).refused(denial);
                    withdraw_all(ahead, WithdrawReason::Cancelled).await;
                    return self.refuse_waited(cases, at, unit).await;
                }
            }
        }
        if waited && let Some(at) = self.ask_again(&mut cases) {
            return self.refuse(cases, at, unit).await;
        }
        Ok(pass(cases))
    }

    /// Asks for everything that is held in the message or batch before waiting for any of it, so that people can see it
    /// together. Nothing when a single one is.
    async fn ask_ahead(&mut self, cases: &mut [Case]) -> Result<Vec<Ahead>, Ending> {
        let asks = |case: &Case, gate: &Gate| {
            matches!(case.verdict.effect, Effect::Hold(_)) && reuse(case, gate).is_none()
        };
        let held: Vec<usize> = (0..cases.len())
            .filter(|at| cases.get(*at).is_some_and(|case| asks(case, &self.gate)))
            .take(ASKED_AHEAD)
            .collect();
        if held.len() < 2 {
            return Ok(Vec::new());
        }
        let mut requests = Vec::with_capacity(held.len());
        let mut events = Vec::new();
        for at in held {
            let Some(case) = cases.get(at) else { break };
            let Some(request) = self.gate.request(&case.asked.operation, case.verdict.clone()) else {
                continue;
            };
            events.extend(self.gate.decided(&case.asked.operation, request.verdict.clone(), None));
            requests.push((at, Arc::new(request)));
        }
        let recorder = self.gate.recorder();
        let recorded = self.relay_while(async move { recorder.record(events, Durability::Synced).await });
        if recorded.await?.is_err() {
            // Each is recorded again when its turn comes, and refused with that.
            return Ok(Vec::new());
        }
        for (at, _) in &requests {
            if let Some(case) = cases.get_mut(*at) {
                case.held = true;
            }
        }
        let approvals = self.gate.ports.approvals.clone();
        let opening = requests.iter().map(|(_, request)| request.as_ref().clone()).collect();
        let opened = self.relay_while(async move { approvals.open_all(opening).await }).await?;
        let ahead = requests.into_iter().zip(opened).map(|((at, request), opened)| Ahead {
            at,
            request,
            pending: opened.map_err(|error| unavailable(&error.to_string())),
        });
        Ok(ahead.collect())
    }

    /// While one operation waited, policy may have changed for its neighbours, those that people had approved included.
    fn ask_again(&mut self, cases: &mut [Case]) -> Option<usize> {
        let mut refused = None;
        for (at, case) in cases.iter_mut().enumerate() {
            let verdict = self.gate.evaluate(&case.asked.operation);
            let (verdict, mask) = self.gate.masked(verdict, &case.asked.statement, &mut self.masks);
            let approved = match case.cleared.take() {
                Some((_, granted)) => {
                    granted.filter(|granted| granted.stands(&self.gate)).and_then(|granted| {
                        let Granted { request, resolution, .. } = &granted;
                        let operation = case.asked.operation.clone();
                        let cleared =
                            Cleared::approved(operation, verdict.clone(), request, resolution).ok()?;
                        Some((cleared, Some(granted)))
                    })
                }
                None => None,
            };
            if approved.is_some() {
                (case.verdict, case.mask, case.cleared) = (verdict, mask, approved);
                continue;
            }
            let verdict = match verdict.effect {
                Effect::Allow | Effect::Deny(_) => verdict,
                Effect::Hold(_) => {
                    let denial = Denial {
                        rule: None,
                        cause: DenialCause::Unavailable,
                        reason: "the policy changed while another statement of the message waited".to_owned(),
                        remedy: Some("run it again".to_owned()),
                    };
                    verdict.refused(denial)
                }
            };
            if matches!(verdict.effect, Effect::Deny(_)) {
                refused.get_or_insert(at);
            }
            (case.verdict, case.mask) = (verdict, mask);
        }
        refused
    }

    /// A wait ended with a refusal: what stands before it passes only if policy still says so.
    async fn refuse_waited(
        &mut self,
        mut cases: Vec<Case>,
        at: usize,
        unit: Unit<'_>,
    ) -> Result<Judgement, Ending> {
        let earlier = match unit {
            Unit::Message => None,
            Unit::Batch(_) => cases.get_mut(..at).and_then(|before| self.ask_again(before)),
        };
        self.refuse(cases, earlier.unwrap_or(at), unit).await
    }

    /// Records what does not pass, and why; answers the words for the client.
    async fn refuse(&mut self, mut cases: Vec<Case>, at: usize, unit: Unit<'_>) -> Result<Judgement, Ending> {
        let many = cases.len() > 1;
        let mut words = None;
        let mut own = None;
        if let Some(case) = cases.get(at)
            && let Effect::Deny(denial) = &case.verdict.effect
        {
            words = Some(words::denied(&case.asked.operation, case.verdict.decision, denial));
            own = Some(denial.clone());
            let target = self.gate.session.target.name.0.clone();
            ::metrics::counter!(DENIALS, "target" => target, "cause" => denial.cause.as_str()).increment(1);
            tracing::info!(
                session = %self.gate.session.id,
                decision = %case.verdict.decision,
                cause = denial.cause.as_str(),
                rule = denial.rule.as_ref().map(|rule| rule.as_str()),
                "operation denied"
            );
        }
        let (Some(words), Some(own)) = (words, own) else {
            return Err(Ending::because(CloseReason::Internal, "a refusal without a denial"));
        };
        let neighbour = Denial {
            rule: own.rule.clone(),
            cause: own.cause,
            reason: format!("refused together with statement {} of the same message or batch", at + 1),
            remedy: None,
        };
        let passing = match unit {
            Unit::Message => 0,
            Unit::Batch(runs) => runs(cases.iter().take(at).take_while(|case| may_pass(case)).count()),
        };
        let refused = cases.split_off(passing.min(cases.len()));
        let events: Vec<Event> = (passing..)
            .zip(refused)
            .flat_map(|(index, case)| {
                let denial = match (&case.verdict.effect, index == at) {
                    (Effect::Deny(denial), _) => denial.clone(),
                    (Effect::Allow | Effect::Hold(_), true) => own.clone(),
                    (Effect::Allow | Effect::Hold(_), false) => neighbour.clone(),
                };
                let operation = &case.asked.operation;
                if case.held {
                    vec![self.gate.refused(operation.id, case.verdict.decision, denial)]
                } else {
                    self.gate.decided(operation, case.verdict, Some(denial))
                }
            })
            .collect();
        self.record(events, Durability::Written).await?;
        let words = if many {
            words.with(
                lockgate_wire::postgres::backend::field::WHERE,
                &format!("statement {} of the message", at + 1),
            )
        } else {
            words
        };
        if cases.is_empty() {
            return Ok(Judgement::Refused(words));
        }
        Ok(match pass(cases) {
            Judgement::Passed(passed) => Judgement::Cut(passed, words),
            Judgement::Refused(words) | Judgement::Cut(_, words) => Judgement::Refused(words),
        })
    }

    /// Records what is refused anyway: a recorder that fails changes nothing for the client, and is said aloud.
    async fn record(&mut self, events: Vec<Event>, durability: Durability) -> Result<(), Ending> {
        let recorder = self.gate.recorder();
        if let Err(error) = self.relay_while(async move { recorder.record(events, durability).await }).await?
        {
            tracing::error!(%error, "a refusal could not be recorded");
        }
        Ok(())
    }

    /// Waits for people, telling the client what it waits for. Policy is asked again when the wait ends.
    async fn hold(
        &mut self,
        operation: &Arc<Operation>,
        statement: &Statement,
        verdict: Judged,
        opened: Option<Ahead>,
    ) -> Result<Held, Ending> {
        let mut verdict = verdict;
        let mut opened = opened;
        for _ in 0..HOLD_ROUNDS {
            let (request, asked) = match opened.take() {
                Some(Ahead { request, pending, .. }) => {
                    let asked = match pending {
                        Ok(pending) => Ok(self.await_decision(operation, &request, pending).await?),
                        Err(denial) => Err(denial),
                    };
                    (request, asked)
                }
                None => {
                    let Some(request) = self.gate.request(operation, verdict.clone()) else {
                        return Ok(Held::Refused(Box::new(verdict), unavailable("the verdict asks nobody")));
                    };
                    let request = Arc::new(request);
                    let asked = self.ask(operation, &request).await?;
                    (request, asked)
                }
            };
            let resolution = match asked {
                Ok(resolution) => Arc::new(resolution),
                Err(denial) => return Ok(Held::Refused(Box::new(verdict), denial)),
            };
            let rule = request.spec.requirements.first().map(|requirement| requirement.rule.clone());
            if let Some(denial) = hold::refusal(&resolution, rule) {
                return Ok(Held::Refused(Box::new(verdict), denial));
            }
            let now = self.gate.evaluate(operation);
            let (now, _) = self.gate.masked(now, statement, &mut self.masks);
            match Cleared::approved(operation.clone(), now, &request, &resolution) {
                Ok(cleared) => {
                    if let Resolution::Approved { votes, basis } = &*resolution {
                        self.tell(&hold::approved(operation, votes, basis.as_ref()));
                    }
                    let granted = Granted { operation: operation.clone(), request, resolution };
                    return Ok(Held::Approved(Box::new((cleared, granted))));
                }
                Err(now) => match now.effect.clone() {
                    Effect::Deny(denial) => return Ok(Held::Refused(now, denial)),
                    // The policy asks for more than before: ask for that.
                    Effect::Hold(_) => verdict = *now,
                    Effect::Allow => {
                        return Ok(Held::Refused(now, unavailable("the approval is for another operation")));
                    }
                },
            }
        }
        Ok(Held::Refused(
            Box::new(verdict),
            unavailable("the policy kept changing while approval was asked for"),
        ))
    }

    /// One request, from its record to its resolution.
    async fn ask(
        &mut self,
        operation: &Arc<Operation>,
        request: &Arc<ApprovalRequest>,
    ) -> Result<Result<Resolution, Denial>, Ending> {
        let events = self.gate.decided(operation, request.verdict.clone(), None);
        let recorder = self.gate.recorder();
        let recorded = self.relay_while(async move { recorder.record(events, Durability::Synced).await });
        if let Err(error) = recorded.await? {
            return Ok(Err(Denial {
                rule: None,
                cause: DenialCause::RecordFailed,
                reason: error.to_string(),
                remedy: Some("try again when lockgate's log can be written".to_owned()),
            }));
        }
        let approvals = self.gate.ports.approvals.clone();
        let opening = request.as_ref().clone();
        match self.relay_while(async move { approvals.open(opening).await }).await? {
            Ok(pending) => Ok(Ok(self.await_decision(operation, request, pending).await?)),
            Err(error) => Ok(Err(unavailable(&error.to_string()))),
        }
    }

    /// Waits for people on a request that is open.
    async fn await_decision(
        &mut self,
        operation: &Arc<Operation>,
        request: &Arc<ApprovalRequest>,
        mut pending: Box<dyn PendingApproval>,
    ) -> Result<Resolution, Ending> {
        tracing::info!(
            session = %self.gate.session.id,
            request = %request.id,
            decision = %request.decision(),
            "operation held"
        );
        let began = Instant::now();
        ::metrics::gauge!(HELD).increment(1);
        let waited = self.wait(operation, &mut pending).await;
        ::metrics::gauge!(HELD).decrement(1);
        ::metrics::histogram!(HOLD_SECONDS).record(began.elapsed());
        match waited {
            Ok(resolution) => Ok(resolution),
            Err(Interruption::Cancelled) => {
                withdraw(pending, WithdrawReason::Cancelled).await;
                Ok(Resolution::Withdrawn { reason: WithdrawReason::Cancelled })
            }
            Err(Interruption::Ended(reason, ending)) => {
                withdraw(pending, reason).await;
                let denial = hold::refusal(&Resolution::Withdrawn { reason }, None);
                if let Some(denial) = denial {
                    let refused = self.gate.refused(operation.id, request.decision(), denial);
                    self.gate.submit(vec![refused]);
                }
                Err(ending)
            }
        }
    }

    /// Waits until the request is resolved or the wait is interrupted.
    async fn wait(
        &mut self,
        operation: &Operation,
        pending: &mut Box<dyn PendingApproval>,
    ) -> Result<Resolution, Interruption> {
        let cancel = self.cancel.clone();
        let deadline = self.drain.deadline.clone();
        let mut progress = pending.progress();
        let mut schedule = NoticeSchedule::default();
        let mut next = Instant::now();
        loop {
            if let Some(resolution) = progress.resolution.clone() {
                return Ok(resolution);
            }
            if self.client.ended {
                let ending = Ending::because(CloseReason::ClientClosed, "while a statement was held");
                return Err(Interruption::Ended(WithdrawReason::Disconnected, ending));
            }
            tokio::select! {
                biased;
                () = cancel.asked() => return Err(Interruption::Cancelled),
                () = deadline.cancelled() => {
                    let (reason, ending) = self.drain.ending();
                    return Err(Interruption::Ended(reason, ending));
                }
                changed = pending.changed() => {
                    // A vote is news: tell at once.
                    if changed.requirements != progress.requirements {
                        next = Instant::now();
                    }
                    progress = changed;
                }
                turned = self.turn(true) => {
                    if let Err(ending) = turned {
                        let reason = match ending.reason {
                            CloseReason::UpstreamClosed | CloseReason::UpstreamProtocolError => {
                                WithdrawReason::UpstreamLost
                            }
                            _ => WithdrawReason::Disconnected,
                        };
                        return Err(Interruption::Ended(reason, ending));
                    }
                }
                () = sleep_until(next) => {
                    self.tell(&hold::waiting(&self.gate.session, operation, &progress));
                    next = Instant::now() + schedule.next();
                }
            }
        }
    }
}

/// Why a wait ended without a resolution.
enum Interruption {
    /// Ctrl-C; the session goes on.
    Cancelled,
    /// The session ends.
    Ended(WithdrawReason, Ending),
}

/// Takes a request back. A recorder that hangs does not keep the client: dropped, the request withdraws itself.
async fn withdraw(pending: Box<dyn PendingApproval>, reason: WithdrawReason) {
    if timeout(FAREWELL_TIME, pending.withdraw(reason)).await.is_err() {
        tracing::error!("the withdrawal of a request was not recorded in time");
    }
}

/// Takes back what was asked ahead and is not needed any more.
async fn withdraw_all(ahead: Vec<Ahead>, reason: WithdrawReason) {
    let all = async {
        for opened in ahead {
            if let Ok(pending) = opened.pending {
                pending.withdraw(reason).await;
            }
        }
    };
    if timeout(FAREWELL_TIME, all).await.is_err() {
        tracing::error!("the withdrawal of requests was not recorded in time");
    }
}

/// Why requests are taken back when a session ends.
fn withdrawal(ending: &Ending) -> WithdrawReason {
    match ending.reason {
        CloseReason::Drained => WithdrawReason::Drained,
        CloseReason::UpstreamClosed | CloseReason::UpstreamProtocolError => WithdrawReason::UpstreamLost,
        _ => WithdrawReason::Disconnected,
    }
}

/// Nothing is left to ask for it.
fn may_pass(case: &Case) -> bool {
    match case.verdict.effect {
        Effect::Allow => true,
        Effect::Hold(_) => case.cleared.is_some(),
        Effect::Deny(_) => false,
    }
}

fn pass(cases: Vec<Case>) -> Judgement {
    let mut passed = Vec::with_capacity(cases.len());
    for case in cases {
        let Case { asked, verdict, mask, cleared, .. } = case;
        let flight = Flight::new(asked.operation.id, &verdict, asked.statement, mask);
        let (cleared, granted) = match cleared {
            Some(cleared) => cleared,
            None => match Cleared::allowed(asked.operation.clone(), verdict) {
                Ok(cleared) => (cleared, None),
                Err(verdict) => {
                    let denial = unavailable("the decision is not an allow");
                    return Judgement::Refused(words::denied(&asked.operation, verdict.decision, &denial));
                }
            },
        };
        passed.push(Passed { cleared, flight, granted });
    }
    Judgement::Passed(passed)
}

/// An approval given when the statement was prepared, if it still covers what policy asks now.
fn reuse(case: &Case, gate: &Gate) -> Option<(Cleared, Option<Granted>)> {
    let granted = case.asked.approval.clone().filter(|granted| granted.stands(gate))?;
    let operation = case.asked.operation.clone();
    let cleared =
        Cleared::approved(operation, case.verdict.clone(), &granted.request, &granted.resolution).ok()?;
    Some((cleared, Some(granted)))
}

fn unavailable(reason: &str) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::Unavailable,
        reason: reason.to_owned(),
        remedy: Some("run it again later; lockgate's log says more".to_owned()),
    }
}
