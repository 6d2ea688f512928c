//! Events for tests and benches: small, deterministic, of every kind.

use lockgate_model::{
    DecisionId, OperationId, RequestId, SessionId, Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::{Resolution, Vote, VoteDecision},
    coverage::Coverage,
    custody::{Custody, Hold, Removal, RemovedSegment, StoredRecording},
    event::{Event, EventKind, RecordedOperation},
    flow::{Capture, Flow, ProcessFacts},
    operation::{Digest, Facts, Parameter, SqlContext, ValueFormat},
    outcome::{CloseReason, Closing, Outcome, OutcomeStatus},
    port::Ambient,
    principal::{Approver, Principal},
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    sql::{Risk, SqlClass, SqlFacts},
    verdict::{Denial, DenialCause, Effect, RuleHit, Verdict},
    workload::{Assurance, IdentityKind, Process, Unit, Workload},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// 2026-11-21T09:00:00Z, unix seconds.
const EPOCH_SECONDS: i64 = 1_795_251_600;

/// A clock that moves a millisecond at each look, and numbers in place of randomness.
#[derive(Debug, Default)]
pub struct FixedAmbient(AtomicU64);

impl Ambient for FixedAmbient {
    fn now(&self) -> Timestamp {
        let millis = self.0.fetch_add(1, Ordering::Relaxed);
        at(1000) + jiff::SignedDuration::from_millis(millis.cast_signed())
    }

    fn random(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Some seconds into the sample day.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(EPOCH_SECONDS + seconds).expect("a time in this century")
}

/// A session; odd ones on `orders-1`, even ones on `orders-0`.
pub fn session(n: u32) -> Session {
    let uid = 1000 + n;
    let workload = Workload {
        kind: IdentityKind::ServiceAccount,
        assurance: Assurance::Kernel,
        established_by: "uid and cgroup, read from the kernel at connect()".into(),
        process: Process {
            pid: 4242 + n,
            start_boottime_ns: u64::MAX - u64::from(n),
            uid,
            gid: uid,
            user: Some(format!("runner{n}")),
            exe: Some("/usr/bin/psql".into()),
            exe_sha256: None,
            argv: vec!["psql".into(), "-c".into(), "SELECT 1".into()],
            cwd: Some("/home/runner/work".into()),
            ancestry: Vec::new(),
            exited: false,
        },
        cgroup: Some("/system.slice/runner.service".into()),
        unit: Some(Unit { name: "runner.service".into(), invocation_id: None, user_unit: true }),
        container: None,
        pod: None,
        ci: None,
        tickets: Vec::new(),
    };
    Session {
        id: SessionId::from_parts(EPOCH_SECONDS.cast_unsigned() * 1000 + u64::from(n), u128::from(n)),
        node: "build-7".into(),
        flow: Flow {
            client: ClientAddr(([127, 0, 0, 1], 40_000).into()),
            original_dst: OriginalDst::new(([10, 20, 0, 5], 5432).into()),
            socket_cookie: 77,
            netns_cookie: 1,
            process: ProcessFacts {
                tgid: 4242 + n,
                tid: 4242 + n,
                start_boottime_ns: u64::MAX - u64::from(n),
                uid,
                gid: uid,
                cgroup_id: 9001,
                comm: "psql".into(),
                creator_tgid: 0,
            },
            capture: Capture::Transparent,
        },
        principal: Principal::of(&workload),
        workload: Arc::new(workload),
        target: Arc::new(Target {
            name: format!("orders-{}", n % 2).as_str().into(),
            protocol: Protocol::Postgres,
            tags: BTreeMap::from([("env".into(), "production".into())]),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
        }),
        client: ClientClaims {
            user: "nobody".into(),
            database: "orders".into(),
            application_name: Some("psql — \"quoted\"\n\u{1}".into()),
        },
        upstream_user: "app".into(),
        client_tls: false,
        opened_at: at(i64::from(n)),
    }
}

fn of(session: &Session, kind: EventKind) -> Event {
    Event { at: session.opened_at, session: Some(session.id), kind }
}

/// Its first event.
pub fn started(session: &Session) -> Event {
    of(session, EventKind::SessionStarted(Box::new(session.clone())))
}

/// A statement that is let pass.
pub fn decided(session: &Session, text: &str) -> Event {
    decision(session, text, Effect::Allow)
}

/// A statement that is refused.
pub fn denied(session: &Session, text: &str) -> Event {
    decision(session, text, Effect::Deny(denial()))
}

fn denial() -> Denial {
    Denial {
        rule: Some("no-drop".into()),
        cause: DenialCause::Rule,
        reason: "tables are not dropped here".into(),
        remedy: Some("ask the owners".into()),
    }
}

fn decision(session: &Session, text: &str, effect: Effect) -> Event {
    let facts = SqlFacts {
        class: SqlClass::Read,
        kind: "select".into(),
        tables_read: vec!["public.orders".to_owned().into()],
        tables_written: Vec::new(),
        columns: vec!["abalance".into(), "aid".into()],
        functions: Vec::new(),
        bounded: Some(true),
        risk: Risk::Low,
        fingerprint: "02a281c251c3a43d2fe7457dff01f76c5cc523f8c8".into(),
        effects: BTreeSet::new(),
        opaque_reason: None,
        reach: Default::default(),
        second_opinion: None,
    };
    let operation = RecordedOperation {
        id: OperationId::from_parts(1, 1),
        facts: Arc::new(Facts::Sql(facts)),
        text: text.into(),
        text_bytes: None,
        normalized: false,
        parameters: [Parameter { type_oid: 23, format: ValueFormat::Text, value: Some("42".into()) }].into(),
        parameter_count: 1,
        digest: Digest([0xab; 32]),
        context: Arc::new(SqlContext {
            role: "app".into(),
            database: "orders".into(),
            ..SqlContext::default()
        }),
    };
    let denial = match &effect {
        Effect::Deny(denial) => Some(denial.clone()),
        Effect::Allow | Effect::Hold(_) => None,
    };
    let verdict = Verdict {
        decision: DecisionId::from_parts(1, 2),
        effect,
        rules: vec![RuleHit { rule: "reads".into(), effect: "allow".into(), shadow: false, error: None }]
            .into(),
        obligations: Arc::default(),
        policy: "9f2c".into(),
        would: None,
    };
    of(session, EventKind::OperationDecided { operation, verdict: Box::new(verdict), denial })
}

/// A request that waits.
pub fn held(session: &Session, request: u64) -> Event {
    of(
        session,
        EventKind::ApprovalRequested {
            request: RequestId::from_parts(request, u128::from(session.flow.process.uid)),
            operation: OperationId::from_parts(1, 1),
            command_digest: Digest([0xcd; 32]),
            expires_at: at(600),
            takes_up: None,
        },
    )
}

/// An orderly closing.
pub fn ended(session: &Session) -> Event {
    let closing = Closing {
        reason: CloseReason::ClientClosed,
        detail: None,
        operations: 1,
        bytes_from_client: 100,
        bytes_to_client: 2000,
        elapsed_micros: 1500,
    };
    of(session, EventKind::SessionEnded(closing))
}

/// A small event that carries a name and a number.
pub fn mark(name: &str, n: u64) -> Event {
    Event {
        at: at(0),
        session: None,
        kind: EventKind::Gap { stage: MARK.into(), count: Some(n), detail: name.into() },
    }
}

/// What [`mark`] carries.
pub fn marked(event: &Event) -> Option<(String, u64)> {
    match &event.kind {
        EventKind::Gap { stage, count: Some(n), detail } if stage == MARK => Some((detail.clone(), *n)),
        _ => None,
    }
}

const MARK: &str = "mark";

/// One event of every kind.
pub fn every_kind() -> Vec<Event> {
    let session = session(1);
    let request = RequestId::from_parts(5, 5);
    let operation = OperationId::from_parts(1, 1);
    let vote = Vote {
        by: Approver {
            id: "webhook:approvals:ana@example.com".into(),
            groups: vec!["dba".into()],
            via: "webhook:approvals".into(),
            also: Vec::new(),
        },
        decision: VoteDecision::Approve,
        reason: Some("change 1234 — «ok» 😀".into()),
        at: at(5),
        grant: None,
    };
    let outcome = Outcome {
        status: OutcomeStatus::Completed { tag: "SELECT 3".into() },
        rows: 3,
        bytes_out: 300,
        bytes_in: 0,
        masked_fields: 1,
        elapsed_micros: 900,
    };
    let EventKind::SessionEnded(closing) = ended(&session).kind else { unreachable!("it is a closing") };
    let kinds = vec![
        EventKind::Notified {
            request,
            channel: "webhook:approvals".into(),
            attempt: 2,
            status: Some(503),
            error: Some("service unavailable".into()),
        },
        EventKind::VoteCast { request, vote: vote.clone() },
        EventKind::DecisionRefused {
            request: Some(request),
            channel: "local:1000".into(),
            by: None,
            code: "own_request".into(),
            detail: "a requester does not decide on their own request".into(),
        },
        EventKind::ApprovalResolved {
            request,
            resolution: Resolution::Approved { votes: vec![vote], basis: None },
        },
        EventKind::Forwarded { operation, decision: DecisionId::from_parts(1, 2), approval: Some(request) },
        EventKind::Refused { operation, decision: DecisionId::from_parts(1, 2), denial: denial() },
        EventKind::OperationPart { operation, parameter: Some(0), offset: 65_536, data: "…".into() },
        EventKind::MaskedColumns { masked: 3, readable: 1, first: vec!["public.customers.ssn".into()] },
        EventKind::ResultCut {
            operation,
            decision: DecisionId::from_parts(1, 2),
            denial: denial(),
            rows: 10_000,
            bytes: 1 << 20,
        },
        EventKind::ResultRows {
            operation,
            columns: vec!["id".into(), "email".into()],
            rows: vec![vec![Some("1".into()), Some("[redacted]".into())], vec![Some("2".into()), None]],
            truncated: true,
        },
        EventKind::Responded { operation, outcome },
        EventKind::FlowRefused {
            detail: "no target".into(),
            closing,
            flow: Some(Box::new(session.flow.clone())),
            target: None,
        },
        EventKind::AgentStarted { node: "build-7".into(), version: "0.1.0".into(), policy: "9f2c".into() },
        EventKind::PolicyLoaded {
            version: "9f2c".into(),
            files: vec!["a.yaml".into()],
            warnings: Vec::new(),
        },
        EventKind::PolicyRejected { in_force: "9f2c".into(), errors: vec!["a.yaml:3:1: unknown key".into()] },
        EventKind::Gap { stage: "kernel_events".into(), count: None, detail: "unknown".into() },
        EventKind::Coverage(Box::new(Coverage {
            since: at(0),
            redirected: 12,
            bypassed: 1,
            not_governed: 0,
            untold: 0,
            hooks: 10,
            hooks_lost: vec!["lg_connect4".into()],
            layers_missing: Vec::new(),
            deaf: None,
        })),
        EventKind::Custody(Box::new(Custody::HoldPlaced(Hold {
            name: "hold_1".into(),
            session: Some(session.id),
            identity: Some("uid:1001".into()),
            since: Some(at(0)),
            until: None,
            by: "local:0".into(),
            reason: "case 12".into(),
            at: at(1),
        }))),
        EventKind::Custody(Box::new(Custody::Removed(Removal {
            from: 1,
            to: 9,
            segments: vec![RemovedSegment { first: 1, last: 9, bytes: 4096, sha256: "ab".repeat(32) }],
            policy: "retention 90d".into(),
            by: "schedule".into(),
            archive: None,
        }))),
        EventKind::Custody(Box::new(Custody::RecordingStored(StoredRecording {
            session: session.id,
            part: 1,
            last: true,
            name: "recordings/a.jsonl".into(),
            bytes: 4096,
            records: 9,
            sha256: "cd".repeat(32),
        }))),
        EventKind::Access(Box::new(lockgate_model::access::Access {
            action: lockgate_model::access::AccessAction::TokenMade,
            by: Some("oidc:corp:ana".to_owned()),
            via: "oidc:corp".to_owned(),
            subject: Some("tok_1".to_owned()),
            source: Some("127.0.0.1".to_owned()),
            groups: vec!["dba".to_owned()],
            expires: Some(at(600)),
            code: None,
            detail: String::new(),
        })),
        EventKind::Administered(Box::new(lockgate_model::administration::Administration {
            decision: lockgate_model::DecisionId::from_parts(1, 2),
            action: lockgate_model::administration::Action::SessionKilled,
            subject: "ses_1".into(),
            by: "local:0".into(),
            name: "root".into(),
            reason: Some("runaway".into()),
            definition: None,
        })),
        EventKind::AgentStopped { node: "build-7".into() },
    ];
    let mut events = vec![started(&session), decided(&session, "SELECT 1"), denied(&session, "DROP TABLE t")];
    events.push(held(&session, 5));
    events.extend(kinds.into_iter().map(|kind| of(&session, kind)));
    events.push(ended(&session));
    events
}
