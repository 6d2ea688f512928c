//! A rehearsal: a request that nobody made and that runs nothing, to see whether a rule's people hear of it and can say
//! no. It goes the way of every request, so its deliveries, votes and end are seen and recorded where those of others
//! are; and it is marked as what it is in everything that is told of it.

use crate::{Control, Problem};
use axum::http::StatusCode;
use lockgate_model::{
    RequestId, Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::ApprovalRequest,
    flow::{Capture, Flow, ProcessFacts},
    id::{DecisionId, OperationId, RuleId, SessionId},
    operation::{Digest, Facts, Operation, SqlContext},
    port::Approvals,
    principal::Principal,
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    sql::{Risk, SqlClass, SqlFacts},
    verdict::{ApprovalSpec, Effect, RuleHit, Verdict},
    workload::{Assurance, IdentityKind, Workload},
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

/// Who asks. No workload's id looks like it: those begin with their kind (`unit:`, `uid:`, `pod:`, …).
const PRINCIPAL: &str = "lockgate:rehearsal";

/// What the summary of a rehearsal begins with.
pub(crate) const MARK: &str = "REHEARSAL, nothing will run: ";

/// A uid that nobody has: whoever rehearses may vote, too.
const NOBODY: u32 = u32::MAX;

/// Whether this session is a rehearsal's.
pub(crate) fn is_one(session: &Session) -> bool {
    session.principal.id == PRINCIPAL
}

impl Control {
    /// Asks a rule's people for a decision on nothing, through every channel. What became of it is what became of any
    /// request: `notifications`, `votes` and `state` of `GET /v1/approvals/{id}`.
    ///
    /// # Errors
    /// No such rule, or no room for a request.
    pub async fn rehearse(&self, rule: &RuleId, by: &str) -> Result<RequestId, Problem> {
        let policy = self.desk.keep.policy.as_ref().map(|policy| policy.load_full());
        let policy = policy.ok_or_else(|| Problem::unavailable("no policy is in force"))?;
        let mut spec = policy.approval_of(rule).ok_or_else(|| {
            let detail = format!("no rule {rule} asks for approval; `lockgate policy check` lists the rules");
            Problem::new(StatusCode::NOT_FOUND, "unknown_rule", "Unknown rule", detail)
        })?;
        for requirement in &mut spec.requirements {
            // Neither bundled with what is real, nor good for anything later.
            requirement.terms = Default::default();
        }
        let request = self.imagined(spec, rule, by, policy.version().clone());
        let id = request.id;
        let mut pending =
            self.open(request).await.map_err(|error| Problem::unavailable(error.to_string()))?;
        // Somebody has to wait for it, or it is withdrawn.
        self.desk.cases.spawn_on(
            async move { while pending.changed().await.resolution.is_none() {} },
            &self.desk.runtime,
        );
        Ok(id)
    }

    fn imagined(
        &self,
        spec: ApprovalSpec,
        rule: &RuleId,
        by: &str,
        policy: lockgate_model::id::PolicyVersion,
    ) -> ApprovalRequest {
        let ambient = &*self.desk.ambient;
        let now = ambient.now();
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let id = RequestId::from_parts(millis, ambient.random());
        let session = SessionId::from_parts(millis, ambient.random());
        let operation = OperationId::from_parts(millis, ambient.random());
        let text = format!("-- A rehearsal of the rule {rule}. Nothing waits and nothing will run: deny it.");
        ApprovalRequest {
            id,
            session: Arc::new(self.stage(session, by, now)),
            operation: Operation {
                id: operation,
                session,
                facts: Arc::new(Facts::Sql(nothing())),
                normalized: text.as_str().into(),
                digest: Digest(Sha256::digest(format!("{id} {text}")).into()),
                text: text.into(),
                parameters: Vec::new().into(),
                context: Arc::new(SqlContext {
                    role: "nobody".into(),
                    database: "none".into(),
                    search_path: None,
                    in_transaction: false,
                }),
                touches_masked: false,
            },
            verdict: Verdict {
                decision: DecisionId::from_parts(millis, ambient.random()),
                effect: Effect::Hold(spec.clone()),
                rules: vec![RuleHit {
                    rule: rule.clone(),
                    effect: "require_approval".into(),
                    shadow: false,
                    error: None,
                }]
                .into(),
                obligations: Arc::default(),
                policy,
                would: None,
            },
            expires_at: now + spec.timeout,
            spec,
            created_at: now,
        }
    }

    fn stage(&self, id: SessionId, by: &str, now: Timestamp) -> Session {
        let facts = ProcessFacts {
            tgid: 0,
            tid: 0,
            start_boottime_ns: 0,
            uid: NOBODY,
            gid: NOBODY,
            cgroup_id: 0,
            comm: "rehearsal".into(),
            creator_tgid: 0,
        };
        let nowhere = std::net::SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Session {
            id,
            node: self.desk.node.clone(),
            workload: Arc::new(Workload::noted(&facts, &format!("a rehearsal that {by} began"))),
            flow: Flow {
                client: ClientAddr(nowhere),
                original_dst: OriginalDst::new(nowhere),
                socket_cookie: 0,
                netns_cookie: 0,
                process: facts,
                capture: Capture::Explicit,
            },
            principal: Principal {
                kind: IdentityKind::Unknown,
                id: PRINCIPAL.into(),
                display: format!("a rehearsal ({by})"),
                assurance: Assurance::Claimed,
            },
            target: Arc::new(Target {
                name: "no-target".into(),
                protocol: Protocol::Postgres,
                tags: BTreeMap::new(),
                mode: Mode::Enforce,
                default: DefaultEffect::Deny,
            }),
            client: ClientClaims { user: "nobody".into(), database: "none".into(), application_name: None },
            upstream_user: "nobody".into(),
            client_tls: false,
            opened_at: now,
        }
    }
}

fn nothing() -> SqlFacts {
    SqlFacts {
        class: SqlClass::Session,
        kind: "rehearsal".into(),
        tables_read: Vec::new(),
        tables_written: Vec::new(),
        columns: Vec::new(),
        functions: Vec::new(),
        bounded: None,
        risk: Risk::Low,
        fingerprint: "0000000000000000".into(),
        effects: Default::default(),
        opaque_reason: None,
        reach: Default::default(),
        second_opinion: None,
    }
}
