//! Records into spans: a session, its operations, how long one was held, how long the target took. Pure: it sees records
//! in order and keeps what has not ended, within bounds.
//!
//! No statement, no value, no secret: what a statement does is told by its kind, its tables and its fingerprint.

use super::otlp::{AnyValue, KeyValue, LogRecord, Span, Status, Value, nanos, number, text};
use lockgate_audit::Record;
use lockgate_model::{
    DecisionId, OperationId, RequestId, SessionId, Timestamp,
    event::{EventKind, RecordedOperation},
    operation::Facts,
    outcome::OutcomeStatus,
    session::Session,
};
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};

/// Operations that have not ended, at most: the oldest is given up.
const OPEN_OPERATIONS: usize = 20_000;
/// Sessions that have not ended, at most.
const OPEN_SESSIONS: usize = 50_000;

/// Span kinds (trace.proto).
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// Status codes (trace.proto).
const OK: i32 = 1;
const ERROR: i32 = 2;
/// Severities (logs.proto).
const INFO: (i32, &str) = (9, "INFO");
const WARN: (i32, &str) = (13, "WARN");

/// See the module.
pub(super) struct Tracer {
    sample: f64,
    pub(super) spans: Vec<Span>,
    pub(super) logs: Vec<LogRecord>,
    /// Spans that were given up.
    pub(super) lost: u64,
    sessions: HashMap<SessionId, OpenSession>,
    operations: HashMap<OperationId, OpenOperation>,
    /// In the order they began.
    order: VecDeque<OperationId>,
    holds: HashMap<RequestId, (OperationId, Timestamp)>,
}

struct OpenSession {
    began: Timestamp,
    attributes: Vec<KeyValue>,
}

struct OpenOperation {
    session: SessionId,
    began: Timestamp,
    forwarded: Option<Timestamp>,
    name: String,
    attributes: Vec<KeyValue>,
}

impl Tracer {
    pub(super) fn new(sample: f64) -> Self {
        Self {
            sample,
            spans: Vec::new(),
            logs: Vec::new(),
            lost: 0,
            sessions: HashMap::new(),
            operations: HashMap::new(),
            order: VecDeque::new(),
            holds: HashMap::new(),
        }
    }

    /// Takes the next record.
    pub(super) fn record(&mut self, record: &Record) {
        let at = record.event.at;
        match (&record.event.kind, record.event.session) {
            (EventKind::SessionStarted(session), _) => self.begin(session, at),
            (EventKind::OperationDecided { operation, verdict, denial }, Some(session)) => {
                let mut attributes = described(operation);
                attributes.push(text("lockgate.decision.id", &verdict.decision.to_string()));
                attributes.push(text("lockgate.effect", verdict.effect.as_str()));
                attributes.extend(verdict.rules.first().map(|hit| text("lockgate.rule", hit.rule.as_str())));
                let name = summary(operation);
                let open = OpenOperation { session, began: at, forwarded: None, name, attributes };
                match denial {
                    Some(denial) => {
                        self.log(
                            session,
                            WARN,
                            at,
                            "operation.denied",
                            format!("{} is denied", open.name),
                            verdict.decision,
                        );
                        self.end(operation.id, open, at, Some(denial.cause.as_str()));
                    }
                    None => self.open(operation.id, open),
                }
            }
            (EventKind::ApprovalRequested { request, operation, .. }, Some(session)) => {
                if self.holds.len() < OPEN_OPERATIONS {
                    self.holds.insert(*request, (*operation, at));
                }
                self.plain_log(
                    session,
                    INFO,
                    at,
                    "approval.requested",
                    format!("{request} waits for people"),
                );
            }
            (EventKind::ApprovalResolved { request, resolution }, session) => {
                if let Some((operation, began)) = self.holds.remove(request)
                    && let Some(open) = self.operations.get(&operation)
                {
                    let (session, parent) = (open.session, id(&operation.to_string()));
                    let attributes = vec![
                        text("lockgate.request.id", &request.to_string()),
                        text("lockgate.approval.outcome", resolution.as_str()),
                    ];
                    self.span(
                        session,
                        &request.to_string(),
                        Some(parent),
                        "hold",
                        INTERNAL,
                        (began, at),
                        attributes,
                        OK,
                    );
                }
                if let Some(session) = session {
                    let told = format!("{request} is {}", resolution.as_str());
                    self.plain_log(session, INFO, at, "approval.resolved", told);
                }
            }
            (EventKind::Forwarded { operation, .. }, _) => {
                if let Some(open) = self.operations.get_mut(operation) {
                    open.forwarded = Some(at);
                }
            }
            (EventKind::Responded { operation, outcome }, _) => {
                if let Some(mut open) = self.operations.remove(operation) {
                    open.attributes.push(number("db.response.returned_rows", outcome.rows));
                    open.attributes.push(number("lockgate.masked_fields", outcome.masked_fields));
                    let failed = failure(&outcome.status);
                    if let Some(code) = &failed {
                        open.attributes.push(text("db.response.status_code", code));
                    }
                    self.end(*operation, open, at, failed.as_deref());
                }
            }
            (EventKind::Refused { operation, decision, denial }, Some(session)) => {
                if let Some(open) = self.operations.remove(operation) {
                    let told = format!("{} is denied", open.name);
                    self.log(session, WARN, at, "operation.denied", told, *decision);
                    self.end(*operation, open, at, Some(denial.cause.as_str()));
                }
            }
            (EventKind::SessionEnded(closing), Some(session)) => {
                let Some(OpenSession { began, mut attributes }) = self.sessions.remove(&session) else {
                    return;
                };
                attributes.push(text("lockgate.session.end", closing.reason.as_str()));
                attributes.push(number("lockgate.session.operations", closing.operations));
                self.span(
                    session,
                    &session.to_string(),
                    None,
                    "session",
                    SERVER,
                    (began, at),
                    attributes,
                    OK,
                );
            }
            _ => {}
        }
    }

    fn begin(&mut self, session: &Session, at: Timestamp) {
        // By the id's own bits: all records of a session share its fate, on every node and after every restart.
        let draw = u64::from_be_bytes(id(&session.id.to_string())) as f64 / u64::MAX as f64;
        if draw >= self.sample || self.sessions.len() >= OPEN_SESSIONS {
            return;
        }
        let workload = &session.workload;
        let mut attributes = vec![
            text("lockgate.session.id", &session.id.to_string()),
            text("lockgate.target", session.target.name.as_str()),
            text("lockgate.principal", &session.principal.id),
            text("lockgate.principal.assurance", session.principal.assurance.as_str()),
            text("db.system.name", system(session)),
            text("db.namespace", &session.client.database),
            number("process.pid", u64::from(workload.process.pid)),
        ];
        let named = |key: &str, value: &Option<String>| value.as_deref().map(|value| text(key, value));
        attributes.extend(named("process.executable.path", &workload.process.exe));
        attributes.extend(workload.pod.as_ref().map(|pod| text("k8s.pod.uid", &pod.uid)));
        if let Some(ci) = workload.ci.as_ref().filter(|ci| ci.is_confirmed()) {
            attributes.extend(named("cicd.pipeline.name", &ci.workflow));
            attributes.extend(named("cicd.pipeline.run.id", &ci.run_id));
            attributes.extend(named("vcs.repository.name", &ci.repository));
            attributes.extend(named("vcs.ref.head.name", &ci.git_ref));
            attributes.extend(named("vcs.ref.head.revision", &ci.commit));
        }
        self.sessions.insert(session.id, OpenSession { began: at, attributes });
    }

    fn open(&mut self, id: OperationId, open: OpenOperation) {
        if !self.sessions.contains_key(&open.session) {
            return;
        }
        self.operations.insert(id, open);
        self.order.push_back(id);
        while self.operations.len() > OPEN_OPERATIONS || self.order.len() > 2 * OPEN_OPERATIONS {
            let Some(oldest) = self.order.pop_front() else { return };
            self.lost += u64::from(self.operations.remove(&oldest).is_some());
        }
    }

    fn end(&mut self, operation: OperationId, open: OpenOperation, at: Timestamp, failed: Option<&str>) {
        let OpenOperation { session, began, forwarded, name, mut attributes } = open;
        let key = operation.to_string();
        if let Some(error) = failed {
            attributes.push(text("error.type", error));
        }
        if let Some(forwarded) = forwarded {
            let forward = format!("{key} forward");
            self.span(session, &forward, Some(id(&key)), "forward", CLIENT, (forwarded, at), Vec::new(), OK);
        }
        let parent = id(&session.to_string());
        let code = if failed.is_some() { ERROR } else { OK };
        self.span(session, &key, Some(parent), &name, INTERNAL, (began, at), attributes, code);
    }

    #[allow(clippy::too_many_arguments, reason = "a span has that many parts, and is made here alone")]
    fn span(
        &mut self,
        session: SessionId,
        key: &str,
        parent: Option<[u8; 8]>,
        name: &str,
        kind: i32,
        (began, ended): (Timestamp, Timestamp),
        attributes: Vec<KeyValue>,
        code: i32,
    ) {
        let sampled = self.sessions.contains_key(&session) || parent.is_none();
        if !sampled {
            return;
        }
        self.spans.push(Span {
            trace_id: trace(session).to_vec(),
            span_id: id(key).to_vec(),
            parent_span_id: parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            name: name.to_owned(),
            kind,
            start_time_unix_nano: nanos(began),
            end_time_unix_nano: nanos(ended.max(began)),
            attributes,
            status: Some(Status { message: String::new(), code }),
        });
    }

    fn log(
        &mut self,
        session: SessionId,
        severity: (i32, &str),
        at: Timestamp,
        name: &str,
        told: String,
        decision: DecisionId,
    ) {
        self.plain_log(session, severity, at, name, told);
        if let Some(log) = self.logs.last_mut() {
            log.attributes.push(text("lockgate.decision.id", &decision.to_string()));
        }
    }

    /// Decisions are few and worth more than spans: they are not sampled.
    fn plain_log(
        &mut self,
        session: SessionId,
        (severity, word): (i32, &str),
        at: Timestamp,
        name: &str,
        told: String,
    ) {
        self.logs.push(LogRecord {
            time_unix_nano: nanos(at),
            severity_number: severity,
            severity_text: word.to_owned(),
            body: Some(AnyValue { value: Some(Value::String(told)) }),
            attributes: vec![text("lockgate.session.id", &session.to_string())],
            trace_id: trace(session).to_vec(),
            span_id: id(&session.to_string()).to_vec(),
            event_name: format!("lockgate.{name}"),
        });
    }
}

fn system(session: &Session) -> &'static str {
    match session.target.protocol.as_str() {
        "postgres" => "postgresql",
        other => other,
    }
}

/// `select public.orders`: the operation and its tables, nothing of its text.
fn summary(operation: &RecordedOperation) -> String {
    let mut summary = operation.facts.kind().to_owned();
    if let Facts::Sql(facts) = &*operation.facts {
        for table in facts.tables_written.iter().chain(&facts.tables_read).take(5) {
            summary.push(' ');
            summary.push_str(&table.to_string());
        }
    }
    summary
}

fn described(operation: &RecordedOperation) -> Vec<KeyValue> {
    let mut attributes = vec![
        text("lockgate.operation.id", &operation.id.to_string()),
        text("lockgate.operation.class", operation.facts.class()),
        text("db.operation.name", operation.facts.kind()),
        text("db.query.summary", &summary(operation)),
    ];
    if let Facts::Sql(facts) = &*operation.facts {
        attributes.push(text("db.namespace", &operation.context.database));
        attributes.push(text("lockgate.fingerprint", &facts.fingerprint));
    }
    attributes
}

fn trace(session: SessionId) -> [u8; 16] {
    let hash: [u8; 32] = Sha256::digest(session.to_string().as_bytes()).into();
    let mut trace = [0; 16];
    trace.copy_from_slice(hash.get(..16).unwrap_or_default());
    trace
}

fn id(key: &str) -> [u8; 8] {
    let hash: [u8; 32] = Sha256::digest(format!("span {key}").as_bytes()).into();
    let mut id = [0; 8];
    id.copy_from_slice(hash.get(..8).unwrap_or_default());
    id
}

fn failure(status: &OutcomeStatus) -> Option<String> {
    match status {
        OutcomeStatus::Failed { sqlstate } => Some(sqlstate.clone()),
        OutcomeStatus::Skipped => Some("skipped".to_owned()),
        OutcomeStatus::Broken => Some("broken".to_owned()),
        OutcomeStatus::Responded { status } if *status >= 400 => Some(status.to_string()),
        OutcomeStatus::Completed { .. } | OutcomeStatus::Suspended | OutcomeStatus::Responded { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockgate_audit::ChainHash;
    use lockgate_store::contract::sample;
    use prost::Message as _;

    fn feed(tracer: &mut Tracer, events: Vec<lockgate_model::event::Event>) {
        for (seq, event) in (1..).zip(events) {
            let record = Record { v: 1, node: "build-7".into(), seq, prev: ChainHash::GENESIS, event };
            tracer.record(&record);
        }
    }

    #[test]
    fn a_session_is_a_trace_of_operations_and_says_nothing_of_their_text() {
        let session = sample::session(1);
        let mut tracer = Tracer::new(1.0);
        let events = vec![
            sample::started(&session),
            sample::denied(&session, "drop table t where password = 'hunter2'"),
            sample::ended(&session),
        ];
        feed(&mut tracer, events);
        let names: Vec<_> = tracer.spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["select public.orders", "session"]);
        let [operation, whole] = &tracer.spans[..] else { panic!("two spans") };
        assert_eq!(operation.parent_span_id, whole.span_id);
        assert_eq!((operation.trace_id.len(), operation.span_id.len()), (16, 8));
        assert_eq!(operation.trace_id, whole.trace_id);
        assert_eq!(tracer.logs.len(), 1);
        for span in &tracer.spans {
            let bytes = span.encode_to_vec();
            assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"));
            assert_eq!(Span::decode(&*bytes).unwrap(), *span);
        }
    }

    #[test]
    fn what_is_not_sampled_costs_no_span_and_what_never_ends_is_bounded() {
        let session = sample::session(1);
        let mut tracer = Tracer::new(0.0);
        feed(
            &mut tracer,
            vec![sample::started(&session), sample::decided(&session, "select 1"), sample::ended(&session)],
        );
        assert_eq!((tracer.spans.len(), tracer.operations.len()), (0, 0));
        let mut tracer = Tracer::new(1.0);
        feed(&mut tracer, vec![sample::started(&session)]);
        for n in 0..OPEN_OPERATIONS as u64 + 10 {
            let mut event = sample::decided(&session, "select 1");
            if let EventKind::OperationDecided { operation, .. } = &mut event.kind {
                operation.id = OperationId::from_parts(n, 1);
            }
            feed(&mut tracer, vec![event]);
        }
        assert_eq!((tracer.operations.len(), tracer.lost), (OPEN_OPERATIONS, 10));
    }
}
