//! What the tests of this crate share: a log that is a list, approvers that follow a script, a clock that stands still,
//! targets, flows and workloads.

use crate::{ports::Ports, settings::TargetSettings, target::TargetAddr, upstream::Credential};
use arc_swap::ArcSwap;
use lockgate_inspect::mask::MaskKeys;
use lockgate_model::{
    Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::{
        ApprovalRequest, Progress, RequirementProgress, Resolution, Vote, VoteDecision, WithdrawReason,
    },
    event::{Event, EventKind},
    flow::{Capture, Flow, ProcessFacts},
    outcome::Closing,
    port::{
        Ambient, ApprovalError, Approvals, Attributor, BoxFuture, Durability, FlowError, PendingApproval,
        Receipt, RecordError, Recorder,
    },
    principal::Approver,
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    workload::{IdentityKind, Workload},
};
use lockgate_policy::{CompiledPolicy, SourceFile};
use std::{
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A clock at one moment, and numbers that count up instead of randomness.
#[derive(Default)]
pub(crate) struct FixedAmbient(AtomicU64);

impl Ambient for FixedAmbient {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_795_000_000).unwrap()
    }

    fn random(&self) -> u128 {
        let count = u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1);
        count.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

/// The log.
#[derive(Default)]
pub(crate) struct ListRecorder {
    events: Mutex<Vec<EventKind>>,
    /// Writing fails.
    pub(crate) broken: AtomicBool,
    /// How long a write takes.
    pub(crate) delay: Mutex<Duration>,
}

impl ListRecorder {
    /// Everything recorded so far.
    pub(crate) fn events(&self) -> Vec<EventKind> {
        self.events.lock().unwrap().clone()
    }

    /// The closing records: of sessions, and of connections that never became one.
    pub(crate) fn closings(&self) -> Vec<Closing> {
        let closing = |event: EventKind| match event {
            EventKind::SessionEnded(closing) | EventKind::FlowRefused { closing, .. } => Some(closing),
            _ => None,
        };
        self.events().into_iter().filter_map(closing).collect()
    }
}

impl Recorder for ListRecorder {
    fn record(&self, events: Vec<Event>, _: Durability) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(async move {
            let delay = *self.delay.lock().unwrap();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if self.broken.load(Ordering::SeqCst) {
                return Err(RecordError::Io("the disk is full".into()));
            }
            let mut all = self.events.lock().unwrap();
            all.extend(events.into_iter().map(|event| event.kind));
            Ok(Receipt::new(all.len() as u64))
        })
    }

    fn submit(&self, events: Vec<Event>) {
        self.events.lock().unwrap().extend(events.into_iter().map(|event| event.kind));
    }
}

/// What the approvers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Yes, after this long.
    Approve(Duration),
    /// No, after this long.
    Deny(Duration),
    /// Nothing: it expires after this long.
    Expire(Duration),
    /// Nothing at all.
    Never,
    /// No request can be opened.
    Unavailable,
}

/// Approvers that follow a script.
pub(crate) struct ScriptedApprovals {
    /// What they do from now on.
    pub(crate) decision: Mutex<Decision>,
    /// What they were asked.
    pub(crate) requests: Mutex<Vec<ApprovalRequest>>,
    /// What was taken back.
    pub(crate) withdrawn: Arc<Mutex<Vec<WithdrawReason>>>,
}

impl Approvals for ScriptedApprovals {
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(async move {
            let decision = *self.decision.lock().unwrap();
            if decision == Decision::Unavailable {
                return Err(ApprovalError::TooManyPending(1));
            }
            self.requests.lock().unwrap().push(request.clone());
            let withdrawn = self.withdrawn.clone();
            Ok(Box::new(ScriptedPending { request, decision, resolution: None, withdrawn })
                as Box<dyn PendingApproval>)
        })
    }
}

struct ScriptedPending {
    request: ApprovalRequest,
    decision: Decision,
    resolution: Option<Resolution>,
    withdrawn: Arc<Mutex<Vec<WithdrawReason>>>,
}

impl PendingApproval for ScriptedPending {
    fn progress(&self) -> Progress {
        let requirement = |rule: &lockgate_model::verdict::Requirement| RequirementProgress {
            rule: rule.rule.clone(),
            have: 0,
            need: 1,
            any_of: vec!["dba".into()],
        };
        Progress {
            requirements: self.request.spec.requirements.iter().map(requirement).collect(),
            expires_at: self.request.expires_at,
            url: "http://lockgate.test/1".into(),
            resolution: self.resolution.clone(),
        }
    }

    fn changed(&mut self) -> BoxFuture<'_, Progress> {
        Box::pin(async move {
            let vote = |decision| Vote {
                by: Approver {
                    id: "local:1000".into(),
                    groups: vec!["dba".into()],
                    via: "test".into(),
                    also: Vec::new(),
                },
                decision,
                reason: Some("because".into()),
                at: self.request.created_at,
                grant: None,
            };
            if self.resolution.is_none() {
                self.resolution = Some(match self.decision {
                    Decision::Approve(after) => {
                        tokio::time::sleep(after).await;
                        Resolution::Approved { votes: vec![vote(VoteDecision::Approve)], basis: None }
                    }
                    Decision::Deny(after) => {
                        tokio::time::sleep(after).await;
                        Resolution::Denied { vote: vote(VoteDecision::Deny) }
                    }
                    Decision::Expire(after) => {
                        tokio::time::sleep(after).await;
                        Resolution::Expired
                    }
                    Decision::Never | Decision::Unavailable => std::future::pending().await,
                });
            }
            self.progress()
        })
    }

    fn withdraw(self: Box<Self>, reason: WithdrawReason) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.withdrawn.lock().unwrap().push(reason) })
    }
}

/// Every connection comes from one made-up process that wanted to reach one place.
pub(crate) struct OneWorkload;

impl Attributor for OneWorkload {
    fn flow(&self, _: BorrowedFd<'_>, _: ClientAddr) -> Result<Flow, FlowError> {
        Ok(flow())
    }

    fn attribute(&self, flow: &Flow) -> Workload {
        workload(flow)
    }
}

/// A made-up flow to 127.0.0.1:1, where nobody listens.
pub(crate) fn flow() -> Flow {
    Flow {
        client: ClientAddr(([127, 0, 0, 1], 40_000).into()),
        original_dst: OriginalDst::new(([127, 0, 0, 1], 1).into()),
        socket_cookie: 1,
        netns_cookie: 1,
        process: ProcessFacts {
            tgid: 4711,
            tid: 4711,
            start_boottime_ns: 1,
            uid: 1001,
            gid: 1001,
            cgroup_id: 1,
            comm: "psql".into(),
            creator_tgid: 0,
        },
        capture: Capture::Transparent,
    }
}

fn workload(flow: &Flow) -> Workload {
    Workload { kind: IdentityKind::CiJob, ..Workload::noted(&flow.process, "test") }
}

/// A target with these addresses.
pub(crate) fn target(name: &str, addresses: Vec<TargetAddr>) -> TargetSettings {
    let target = Target {
        name: name.into(),
        protocol: Protocol::Postgres,
        tags: [("env".to_owned(), "production".to_owned())].into(),
        mode: Mode::Enforce,
        default: DefaultEffect::Deny,
    };
    TargetSettings::plain(target, addresses, Credential::trusted("app"))
}

/// A session on that target.
pub(crate) fn session(target: &TargetSettings, ambient: &dyn Ambient) -> Session {
    let flow = flow();
    crate::session::open(
        crate::session::Opening {
            node: "test".into(),
            workload: workload(&flow),
            caller: None,
            flow,
            target: target.target.clone(),
            client: ClientClaims { user: "job".into(), database: "orders".into(), application_name: None },
            upstream_user: target.credential.user().to_owned(),
            client_tls: false,
        },
        ambient,
    )
}

/// The outside of a test, and what it can be asked afterwards.
pub(crate) struct Outside {
    pub(crate) recorder: Arc<ListRecorder>,
    pub(crate) approvals: Arc<ScriptedApprovals>,
    pub(crate) ports: Ports,
}

/// An outside with this policy.
pub(crate) fn outside(policy: &str) -> Outside {
    let recorder = Arc::new(ListRecorder::default());
    let approvals = Arc::new(ScriptedApprovals {
        decision: Mutex::new(Decision::Never),
        requests: Mutex::default(),
        withdrawn: Arc::default(),
    });
    let ports = Ports {
        recorder: recorder.clone(),
        approvals: approvals.clone(),
        attributor: Arc::new(OneWorkload),
        confirmer: None,
        ambient: Arc::new(FixedAmbient::default()),
        policy: Arc::new(ArcSwap::from_pointee(self::policy(policy))),
        mask_keys: Arc::new(ArcSwap::from_pointee(MaskKeys::new())),
    };
    Outside { recorder, approvals, ports }
}

/// Loads a policy.
pub(crate) fn policy(text: &str) -> CompiledPolicy {
    CompiledPolicy::load(vec![SourceFile { path: "test.yaml".into(), text: text.into() }])
        .unwrap_or_else(|errors| panic!("{errors:?}"))
        .policy
}
