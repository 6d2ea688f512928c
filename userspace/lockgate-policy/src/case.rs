//! The `tests:` of a policy file: what is given becomes a session and operations, what is expected is compared.
//!
//! A test is given an identity as sure as can be (`attested`) unless it says otherwise, so that it tests rules
//! and not attribution; `assurance: claimed` tests what a job's own claims reach.

use crate::{
    CompiledPolicy, Explanation, HttpAsks,
    document::{Case, Expect, ExpectedEffect, Given, GivenIdentity, ProtocolName},
    yaml::Spanned,
};
use lockgate_model::{
    DecisionId, OperationId, SessionId, Timestamp,
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    operation::{Digest, Facts, Operation, SqlContext},
    principal::Principal,
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    verdict::{Effect, Verdict},
    workload::{
        Assurance, CiAssurance, CiJob, Container, IdentityKind, Pod, PodAssurance, Process, Unit, Workload,
    },
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

/// When a test does not say: a Wednesday at noon, so that office hours and weekdays match.
const DEFAULT_TIME: &str = "2026-01-07T12:00:00Z";
/// A test's job runs under this uid when it does not say.
const DEFAULT_UID: u32 = 1000;

/// Turns what a test gives into facts: one a statement, or one of a request. This crate knows no grammar.
pub type Inspect<'a> = dyn Fn(&Given, &HttpAsks) -> Vec<Facts> + 'a;

/// A test, run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its line there.
    pub line: u64,
    /// What was expected and what came; empty when it passed.
    pub failures: Vec<String>,
}

impl TestOutcome {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

pub(crate) fn run(
    policy: &CompiledPolicy,
    file: &str,
    case: &Spanned<Case>,
    inspect: &Inspect<'_>,
) -> TestOutcome {
    let outcome = |failures| TestOutcome {
        name: case.name.clone(),
        file: file.to_owned(),
        line: case.at.line,
        failures,
    };
    let verdicts: Vec<Verdict> = match operations(policy, &case.given.value, inspect) {
        Ok(Operations { session, operations, now }) => operations
            .iter()
            .map(|operation| policy.evaluate(&session, operation, now, DecisionId::from_parts(0, 0)))
            .collect(),
        Err(why) => return outcome(vec![why]),
    };
    let strictness = |verdict: &Verdict| match judged(verdict) {
        Effect::Allow => 0,
        Effect::Hold(_) => 1,
        Effect::Deny(_) => 2,
    };
    match verdicts.into_iter().max_by_key(strictness) {
        Some(verdict) => outcome(compare(&case.expect, &verdict)),
        None => outcome(vec!["`statement` holds no statement, or `request` no request".to_owned()]),
    }
}

/// Explains what is given, as if it were a test's: one explanation a statement.
pub(crate) fn explain(
    policy: &CompiledPolicy,
    given: &Given,
    inspect: &Inspect<'_>,
) -> Result<Vec<Explanation>, String> {
    let Operations { session, operations, now } = operations(policy, given, inspect)?;
    let explain = |operation| policy.explain(&session, operation, now, DecisionId::from_parts(0, 0));
    Ok(operations.iter().map(explain).collect())
}

/// What is given, as policy sees it.
struct Operations {
    session: Session,
    operations: Vec<Operation>,
    now: Timestamp,
}

fn operations(policy: &CompiledPolicy, given: &Given, inspect: &Inspect<'_>) -> Result<Operations, String> {
    let protocol = protocol(given)?;
    match (protocol, &given.request) {
        (Protocol::Postgres, None) => {}
        (Protocol::Http, Some(_)) if given.statement.is_empty() => {}
        (Protocol::Http, _) => {
            return Err(
                "a test of http has `request: \"GET http://host/path\"` and no `statement`".to_owned()
            );
        }
        (Protocol::Postgres, Some(_)) => return Err("`request` is for `protocol: http`".to_owned()),
    }
    let time = given.time.as_ref().map_or(DEFAULT_TIME, |time| time.value.as_str());
    let now = time.parse::<Timestamp>().map_err(|_| format!("`{time}` is not a time"))?;
    let session = session(given, now);
    let facts = inspect(given, &policy.http_asks());
    let operations = facts.into_iter().map(|facts| operation(given, &session, facts)).collect();
    Ok(Operations { session, operations, now })
}

/// Which protocol a test is of: what it says, else what it has.
fn protocol(given: &Given) -> Result<Protocol, String> {
    match given.protocol.map(|protocol| protocol.value) {
        Some(ProtocolName::Postgres) => Ok(Protocol::Postgres),
        Some(ProtocolName::Http) => Ok(Protocol::Http),
        None => Ok(if given.request.is_some() { Protocol::Http } else { Protocol::Postgres }),
        Some(ProtocolName::Mysql | ProtocolName::Kubernetes | ProtocolName::Ssh) => {
            Err("this version tests `protocol: postgres` and `protocol: http` only".to_owned())
        }
    }
}

/// What enforce says: the effect, or in shadow what it would have been.
fn judged(verdict: &Verdict) -> &Effect {
    verdict.would.as_deref().unwrap_or(&verdict.effect)
}

fn compare(expect: &Expect, verdict: &Verdict) -> Vec<String> {
    let mut failures = Vec::new();
    let got = verdict.effect.as_str();
    if got != expect.effect.as_str() {
        failures.push(format!("expected {}, got {got}{}", expect.effect.as_str(), because(verdict)));
    }
    let judged = judged(verdict);
    let behind: BTreeSet<&str> = behind(verdict, judged);
    if let Some(rule) = &expect.rule
        && !behind.contains(rule.value.as_str())
    {
        failures.push(format!("expected rule {} behind it, got {}", rule.value, listed(&behind)));
    }
    if let Some(rules) = &expect.rules {
        let expected: BTreeSet<&str> = rules.iter().map(|rule| rule.value.as_str()).collect();
        if expected != behind {
            failures.push(format!("expected rules {}, got {}", listed(&expected), listed(&behind)));
        }
    }
    if let Some(need) = &expect.need {
        let got = needed(judged);
        if *need != got {
            failures.push(format!("expected need {need:?}, got {got:?}"));
        }
    }
    if let Some(masked) = &expect.masked {
        let json: BTreeSet<&str> = verdict
            .obligations
            .mask
            .iter()
            .flat_map(|mask| &mask.json)
            .map(|json| json.path.as_str())
            .collect();
        let expected = masked.iter().map(|pattern| match json.contains(pattern.as_str()) {
            true => pattern.clone(),
            false => full_pattern(pattern),
        });
        let expected: BTreeSet<String> = expected.collect();
        let columns = verdict.obligations.mask.iter().flat_map(|mask| &mask.columns);
        let got: BTreeSet<String> = columns
            .map(|column| {
                format!("{}.{}.{}", column.pattern.schema, column.pattern.table, column.pattern.column)
            })
            .chain(json.iter().map(|path| (*path).to_owned()))
            .collect();
        if expected != got {
            failures.push(format!("expected masks {expected:?}, got {got:?}"));
        }
    }
    if let Some(would) = expect.would {
        let got = verdict.would.as_deref().map_or("nothing", Effect::as_str);
        if got != would.as_str() {
            failures.push(format!("expected enforce to say {}, got {got}", would.as_str()));
        }
    }
    if let Some(words) = &expect.message {
        let said = match judged {
            Effect::Deny(denial) => {
                [Some(&denial.reason), denial.remedy.as_ref()].into_iter().flatten().cloned().collect()
            }
            Effect::Allow | Effect::Hold(_) => Vec::new(),
        };
        let said = said.join("; ");
        if !said.contains(words) {
            failures.push(format!("expected the words {words:?}, got {said:?}"));
        }
    }
    failures
}

/// The rules that say what the verdict says.
fn behind<'v>(verdict: &'v Verdict, judged: &Effect) -> BTreeSet<&'v str> {
    let allow_failed = |hit: &lockgate_model::verdict::RuleHit| hit.effect == "allow" && hit.error.is_some();
    let shadow_counts = verdict.would.is_some();
    let word = match judged {
        Effect::Allow => ExpectedEffect::Allow,
        Effect::Hold(_) => ExpectedEffect::RequireApproval,
        Effect::Deny(denial) => match denial.rule.as_ref() {
            // An approval rule denies when its min_assurance is not met.
            Some(rule)
                if verdict.rules.iter().any(|hit| hit.rule == *rule && hit.effect == "require_approval") =>
            {
                ExpectedEffect::RequireApproval
            }
            Some(_) | None => ExpectedEffect::Deny,
        },
    };
    verdict
        .rules
        .iter()
        .filter(|hit| hit.effect == word.as_str() && !allow_failed(hit) && (!hit.shadow || shadow_counts))
        .map(|hit| hit.rule.as_str())
        .collect()
}

fn because(verdict: &Verdict) -> String {
    match &verdict.effect {
        Effect::Deny(denial) => match &denial.rule {
            Some(rule) => format!(" by rule {rule}: {}", denial.reason),
            None => format!(": {}", denial.reason),
        },
        Effect::Allow | Effect::Hold(_) => match listed(&behind(verdict, &verdict.effect)).as_str() {
            "none" => " by the target's default".to_owned(),
            rules => format!(" by {rules}"),
        },
    }
}

fn needed(effect: &Effect) -> BTreeMap<String, u32> {
    let mut need = BTreeMap::new();
    if let Effect::Hold(spec) = effect {
        for stage in spec.requirements.iter().filter_map(|requirement| requirement.stages.first()) {
            for group in &stage.any_of {
                let entry: &mut u32 = need.entry(group.to_string()).or_default();
                *entry = stage.need.max(*entry);
            }
        }
    }
    need
}

fn full_pattern(text: &str) -> String {
    match text.matches('.').count() {
        0 => format!("*.*.{text}"),
        1 => format!("*.{text}"),
        _ => text.to_owned(),
    }
}

fn listed(names: &BTreeSet<&str>) -> String {
    if names.is_empty() { "none".to_owned() } else { names.iter().copied().collect::<Vec<_>>().join(", ") }
}

fn operation(given: &Given, session: &Session, facts: Facts) -> Operation {
    let text: Arc<str> = given.request.as_deref().unwrap_or(&given.statement).into();
    Operation {
        id: OperationId::from_parts(0, 0),
        session: session.id,
        facts: Arc::new(facts),
        text: text.clone(),
        normalized: text,
        parameters: Arc::default(),
        digest: Digest([0; 32]),
        context: Arc::new(SqlContext {
            role: session.upstream_user.clone(),
            database: session.client.database.clone(),
            search_path: None,
            in_transaction: given.in_transaction,
        }),
        touches_masked: false,
    }
}

pub(crate) fn session(given: &Given, now: Timestamp) -> Session {
    let workload = workload(&given.identity);
    let local = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let mut principal = Principal::of(&workload);
    principal.assurance = given.identity.assurance.map_or(Assurance::Attested, |assurance| assurance.0);
    let target = Target {
        name: given.target.name.as_deref().unwrap_or("target").into(),
        protocol: protocol(given).unwrap_or(Protocol::Postgres),
        tags: given.target.tags.clone(),
        mode: given.target.mode.map_or(Mode::Enforce, |mode| mode.0),
        default: given.target.default.map_or(DefaultEffect::Deny, |default| default.0),
    };
    Session {
        id: SessionId::from_parts(0, 0),
        node: "test".into(),
        flow: Flow {
            client: ClientAddr(local),
            original_dst: OriginalDst::new(local),
            socket_cookie: 0,
            netns_cookie: 0,
            process: ProcessFacts {
                tgid: 0,
                tid: 0,
                start_boottime_ns: 0,
                uid: workload.process.uid,
                gid: workload.process.gid,
                cgroup_id: 0,
                comm: String::new(),
                creator_tgid: 0,
            },
            capture: Capture::Transparent,
        },
        workload: Arc::new(workload),
        principal,
        target: Arc::new(target),
        client: ClientClaims {
            user: given.user.clone().unwrap_or_else(|| "app".to_owned()),
            database: given.database.clone().unwrap_or_else(|| "app".to_owned()),
            application_name: given.application_name.clone(),
        },
        upstream_user: "app".to_owned(),
        client_tls: false,
        opened_at: now,
    }
}

fn workload(given: &GivenIdentity) -> Workload {
    let assurance = given.assurance.map_or(Assurance::Attested, |assurance| assurance.0);
    let uid = given.uid.unwrap_or(DEFAULT_UID);
    let ci = given.provider.as_ref().map(|provider| CiJob {
        provider: provider.clone(),
        assurance: CiAssurance(assurance),
        repository: given.repository.clone(),
        workflow: given.workflow.clone(),
        job: given.job.clone(),
        run_id: given.run_id.clone(),
        run_attempt: None,
        run_url: None,
        git_ref: given.git_ref.clone(),
        ref_protected: given.ref_protected,
        commit: None,
        commit_author: given.commit_author.clone(),
        event_name: given.event_name.clone(),
        actor: given.actor.clone(),
        triggering_actor: given.triggering_actor.clone(),
        job_id: given.job_id.clone(),
        runner: given.runner.clone(),
        established_by: None,
        unconfirmed: None,
        // What changes say of themselves decides nothing, so no test has to give it.
        ..CiJob::default()
    });
    let kind = match (given.kind, &ci) {
        (Some(kind), _) => kind.0,
        (None, Some(_)) => IdentityKind::CiJob,
        (None, None) => IdentityKind::ServiceAccount,
    };
    Workload {
        kind,
        // The kernel's facts are facts even where only claims name the job.
        assurance: assurance.max(Assurance::Kernel),
        established_by: "a policy test".to_owned(),
        process: Process {
            pid: 0,
            start_boottime_ns: 0,
            uid,
            gid: uid,
            user: given.user.clone(),
            exe: given.exe.clone(),
            exe_sha256: given.exe_sha256.clone(),
            argv: Vec::new(),
            cwd: None,
            ancestry: Vec::new(),
            exited: false,
        },
        cgroup: given.cgroup.clone(),
        unit: given.unit.clone().map(|name| Unit { name, invocation_id: None, user_unit: false }),
        container: given.container.clone().map(|id| Container {
            id,
            runtime: "unknown".to_owned(),
            pod_uid: None,
            claimed: false,
        }),
        pod: given_pod(given, assurance),
        ci,
        tickets: Vec::new(),
    }
}

/// A pod, when the test says anything about one.
fn given_pod(given: &GivenIdentity, assurance: Assurance) -> Option<Pod> {
    let says = given.pod.is_some()
        || given.namespace.is_some()
        || given.service_account.is_some()
        || given.owner.is_some()
        || !given.labels.is_empty();
    says.then(|| Pod {
        uid: "00000000-0000-0000-0000-000000000000".to_owned(),
        assurance: PodAssurance(assurance.max(Assurance::Kernel)),
        name: given.pod.clone(),
        namespace: given.namespace.clone(),
        service_account: given.service_account.clone(),
        owner: given.owner.clone(),
        labels: given.labels.clone(),
        ..Pod::default()
    })
}
