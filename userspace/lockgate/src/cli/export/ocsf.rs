//! The Open Cybersecurity Schema Framework, version 1.5.0: which class an event is, and its members.
//!
//! | record | class |
//! |---|---|
//! | a statement decided, forwarded, refused, cut, answered | 6005 Datastore Activity |
//! | a request over HTTP, the same | 6003 API Activity, with `http_request`, and `http_response` once it is answered |
//! | a session begun or ended | 6005, activity Connect; over HTTP 4001 Network Activity, Open and Close |
//! | a connection that became no session | 4001, Refuse |
//! | a request, a vote, its end | 3003 Authorize Session |
//! | a grant, an emergency override, a token | 3005 User Access Management |
//! | what passed lockgate by, a refused decision, what could not be recorded | 2004 Detection Finding |
//!
//! Everything else says something of lockgate itself, and has no class. What OCSF has no word for is in `unmapped`, as it rests.
//! `metadata.correlation_uid` is the operation's or request's id: what belongs together has the same.

use super::About;
use lockgate_model::{
    access::{Access, AccessAction},
    approval::{Resolution, VoteDecision},
    event::{EventKind, RecordedOperation},
    http::{HttpBody, HttpClass, HttpFacts},
    operation::Facts,
    outcome::OutcomeStatus,
    principal::Approver,
    session::{Protocol, Session},
    sql::{Risk, SqlClass, SqlFacts},
    verdict::{Effect, Verdict},
};
use lockgate_store::Record;
use serde_json::{Map, Value, json};

const VERSION: &str = "1.5.0";

/// What is said besides the members that every event has.
struct Said {
    class: u64,
    activity: u64,
    /// The time-ordered thing it is about.
    about: Option<String>,
    /// Of the profile `security_control`: action and disposition.
    control: Option<(u64, u64)>,
    /// 1 success, 2 failure.
    status: Option<u64>,
    severity: u64,
    message: String,
    members: Map<String, Value>,
}

impl Said {
    fn new(class: u64, activity: u64, message: impl Into<String>) -> Self {
        Self {
            class,
            activity,
            about: None,
            control: None,
            status: None,
            severity: INFORMATIONAL,
            message: message.into(),
            members: Map::new(),
        }
    }

    fn about(mut self, id: &impl ToString) -> Self {
        self.about = Some(id.to_string());
        self
    }

    fn control(mut self, action: u64, disposition: u64) -> Self {
        self.control = Some((action, disposition));
        self
    }

    fn status(mut self, success: bool) -> Self {
        self.status = Some(if success { 1 } else { 2 });
        self
    }

    fn severity(mut self, severity: u64) -> Self {
        self.severity = severity;
        self
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }
}

const DATASTORE: u64 = 6005;
const API: u64 = 6003;
const NETWORK: u64 = 4001;
const AUTHORIZE: u64 = 3003;
const ACCESS: u64 = 3005;
const FINDING: u64 = 2004;
const AUTHENTICATION: u64 = 3002;

const OTHER: u64 = 99;
const CONNECT: u64 = 3;
const OPEN: u64 = 1;
const CLOSE: u64 = 2;
const QUERY: u64 = 4;

const INFORMATIONAL: u64 = 1;

/// `action_id`: allowed, denied, observed.
const ALLOW: u64 = 1;
const DENY: u64 = 2;
const SEEN: u64 = 3;
/// `disposition_id`.
const ALLOWED: u64 = 1;
const BLOCKED: u64 = 2;
const APPROVED: u64 = 8;
const DELAYED: u64 = 14;
const REJECTED: u64 = 25;

/// The event; None for records that OCSF has no class for.
pub(super) fn event(record: &Record, about: &About<'_>) -> Option<Value> {
    let said = said(&record.event.kind, about)?;
    let mut event = Map::new();
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": "lockgate", "vendor_name": "lockgate", "version": env!("CARGO_PKG_VERSION") },
        "profiles": ["security_control", "host"],
        "sequence": record.seq,
        "uid": format!("{}:{}", record.node, record.seq),
        "log_name": "audit",
    });
    if let Some(id) = said.about {
        metadata["correlation_uid"] = json!(id);
    }
    event.insert("metadata".into(), metadata);
    event.insert("time".into(), json!(record.event.at.as_millisecond()));
    event.insert("category_uid".into(), json!(said.class / 1000));
    event.insert("class_uid".into(), json!(said.class));
    event.insert("activity_id".into(), json!(said.activity));
    event.insert("type_uid".into(), json!(said.class * 100 + said.activity));
    event.insert("severity_id".into(), json!(said.severity));
    event.insert("message".into(), json!(said.message));
    event.insert("device".into(), json!({ "hostname": record.node.as_str(), "type_id": 1 }));
    if let Some((action, disposition)) = said.control {
        event.insert("action_id".into(), json!(action));
        event.insert("disposition_id".into(), json!(disposition));
    }
    if let Some(status) = said.status {
        event.insert("status_id".into(), json!(status));
    }
    if let Some(session) = about.session {
        who(session, &mut event);
        if said.class == DATASTORE {
            event.insert("database".into(), json!({ "name": session.client.database, "type_id": 1 }));
        }
    }
    if matches!(said.class, AUTHORIZE | ACCESS) {
        // Whose access it is about, and to what: whoever asks, and what they asked for, unless the event knows better.
        let user = event.get("actor").map(|actor| actor["user"].clone());
        event.insert("user".into(), user.unwrap_or_else(|| json!({ "name": "unknown" })));
        let what = about.operation.map_or("access", |operation| operation.facts.kind());
        let privilege = match about.session {
            Some(session) => format!("{what} on {}", session.target.name),
            None => what.to_owned(),
        };
        event.insert("privileges".into(), json!([privilege]));
    }
    event.extend(said.members);
    let data = serde_json::to_value(&record.event).unwrap_or_default();
    event.insert("unmapped".into(), json!({ "event": data["event"], "data": data["data"] }));
    Some(Value::Object(event))
}

/// Who did it and where.
fn who(session: &Session, event: &mut Map<String, Value>) {
    let process = &session.workload.process;
    event.insert(
        "actor".into(),
        json!({
            "user": { "uid": session.principal.id, "name": session.principal.display, "type_id": user_type(session) },
            "session": { "uid": session.id.to_string() },
            "process": { "pid": process.pid, "file": process.exe.as_ref().map(|exe| json!({ "path": exe, "type_id": 1,
                "name": exe.rsplit('/').next() })) },
        }),
    );
    let endpoint = |address: &str| match address.rsplit_once(':') {
        Some((ip, port)) => {
            json!({ "ip": ip.trim_matches(['[', ']']), "port": port.parse::<u16>().ok() })
        }
        None => json!({ "hostname": address }),
    };
    let words = |value: Value| value.as_str().map(str::to_owned);
    let client = serde_json::to_value(session.flow.client).ok().and_then(words);
    let target = serde_json::to_value(session.flow.original_dst).ok().and_then(words);
    event.insert("src_endpoint".into(), endpoint(client.as_deref().unwrap_or("unknown")));
    let mut dst = endpoint(target.as_deref().unwrap_or("unknown"));
    dst["name"] = json!(session.target.name.as_str());
    dst["svc_name"] = json!(session.target.protocol.as_str());
    event.insert("dst_endpoint".into(), dst);
}

/// 1 a person, 3 the system's own, 4 a service account; CI jobs and agents are services.
fn user_type(session: &Session) -> u64 {
    use lockgate_model::workload::IdentityKind;
    match session.principal.kind {
        IdentityKind::Person => 1,
        IdentityKind::ServiceAccount | IdentityKind::CiJob | IdentityKind::Agent => 4,
        IdentityKind::Unknown => 0,
    }
}

fn said(kind: &EventKind, about: &About<'_>) -> Option<Said> {
    match kind {
        EventKind::SessionStarted(session) => {
            let (class, activity) = match session.target.protocol {
                Protocol::Postgres => (DATASTORE, CONNECT),
                Protocol::Http => (NETWORK, OPEN),
            };
            let said = Said::new(class, activity, format!("session on {} begun", session.target.name));
            Some(said.about(&session.id).status(true))
        }
        EventKind::SessionEnded(closing) => {
            let (class, activity) = match about.session.map(|session| session.target.protocol) {
                Some(Protocol::Http) => (NETWORK, CLOSE),
                Some(Protocol::Postgres) | None => (DATASTORE, OTHER),
            };
            let said = Said::new(class, activity, format!("session ended: {}", word(&closing.reason)));
            Some(match about.session {
                Some(session) => said.about(&session.id),
                None => said,
            })
        }
        EventKind::FlowRefused { detail, target, .. } => {
            let said = Said::new(NETWORK, 5, detail).control(DENY, BLOCKED).status(false).severity(3);
            // The class wants one of the two endpoints, whatever is known of the flow.
            let name = target.as_ref().map_or("unknown", |target| target.as_str());
            Some(said.with("dst_endpoint", json!({ "name": name })))
        }
        EventKind::OperationDecided { operation, verdict, denial } => {
            let (control, word) = decided(verdict);
            let reason = denial.as_ref().map(|denial| format!(": {}", denial.reason)).unwrap_or_default();
            let said = operation_of(about, format!("{word}{reason}"))?
                .about(&operation.id)
                .control(control.0, control.1);
            let mut rule = json!({ "uid": verdict.decision.to_string() });
            // Refused because no rule allows it: there is none to name.
            if let Some(hit) = verdict.rules.first() {
                rule["name"] = json!(hit.rule.to_string());
            }
            let said = said.with("firewall_rule", rule);
            Some(if denial.is_some() { said.status(false) } else { said })
        }
        EventKind::Forwarded { operation, approval, .. } => {
            let disposition = if approval.is_some() { APPROVED } else { ALLOWED };
            Some(operation_of(about, "forwarded")?.about(operation).control(ALLOW, disposition))
        }
        EventKind::Refused { operation, denial, .. } => {
            let said = operation_of(about, format!("refused: {}", denial.reason))?.about(operation);
            Some(said.control(DENY, REJECTED).status(false))
        }
        EventKind::ResultCut { operation, denial, rows, .. } => {
            let said =
                operation_of(about, format!("cut after {rows} rows: {}", denial.reason))?.about(operation);
            Some(said.control(DENY, BLOCKED).status(false))
        }
        EventKind::Responded { operation, outcome } => {
            let success =
                matches!(outcome.status, OutcomeStatus::Completed { .. } | OutcomeStatus::Suspended)
                    || matches!(outcome.status, OutcomeStatus::Responded { status } if status < 400);
            let (message, status) = match outcome.status {
                OutcomeStatus::Responded { status } => (format!("answered with {status}"), Some(status)),
                OutcomeStatus::Completed { .. }
                | OutcomeStatus::Failed { .. }
                | OutcomeStatus::Suspended
                | OutcomeStatus::Skipped
                | OutcomeStatus::Broken => (format!("answered, {} rows", outcome.rows), None),
            };
            let said = operation_of(about, message)?.about(operation);
            let said = said.status(success).with("duration", json!(outcome.elapsed_micros / 1000));
            Some(match status {
                Some(code) => {
                    said.with("http_response", json!({ "code": code, "length": outcome.bytes_out }))
                }
                None => said,
            })
        }
        EventKind::ApprovalRequested { request, .. } => {
            Some(Said::new(AUTHORIZE, OTHER, "approval asked for").about(request).control(SEEN, DELAYED))
        }
        EventKind::VoteCast { request, vote } => {
            let approves = matches!(vote.decision, VoteDecision::Approve);
            let message =
                format!("{} voted to {}", vote.by.name(), if approves { "approve" } else { "deny" });
            Some(Said::new(AUTHORIZE, OTHER, message).about(request).with("user", approver(&vote.by)))
        }
        EventKind::ApprovalResolved { request, resolution } => {
            let said =
                Said::new(AUTHORIZE, OTHER, format!("approval {}", resolution.as_str())).about(request);
            Some(match resolution {
                Resolution::Approved { .. } => said.control(ALLOW, APPROVED).status(true),
                Resolution::Denied { .. } | Resolution::Expired | Resolution::Withdrawn { .. } => {
                    said.control(DENY, REJECTED).status(false)
                }
            })
        }
        EventKind::GrantMade(grant) => Some(
            Said::new(ACCESS, 1, format!("grant for {} on {}", grant.principal, grant.target))
                .about(&grant.from)
                .with("user", json!({ "uid": grant.principal }))
                .with("privileges", json!([grant.shape])),
        ),
        EventKind::GrantEnded { grant, used, end } => {
            Some(Said::new(ACCESS, 2, format!("grant {}, used {used} times", end.as_str())).about(grant))
        }
        EventKind::GlassBroken(glass) => Some(
            Said::new(ACCESS, 1, "emergency override in force")
                .about(&glass.id)
                .severity(4)
                .with("user", approver(&glass.by)),
        ),
        EventKind::GlassEnded { glass, .. } => {
            Some(Said::new(ACCESS, 2, "emergency override over").about(glass))
        }
        EventKind::TokenIssued { token, caller, .. } => {
            let user = json!({ "uid": caller });
            Some(Said::new(ACCESS, 1, format!("token for {caller}")).about(token).with("user", user))
        }
        EventKind::Access(access) => Some(signed_in(access)),
        EventKind::Administered(done) => {
            let user = json!({ "uid": done.by, "name": done.name });
            let what = format!("{} {}", done.action.as_str(), done.subject);
            Some(
                finding(&what, done.reason.as_deref().unwrap_or_default(), 2)
                    .about(&done.decision)
                    .with("user", user),
            )
        }
        EventKind::DecisionRefused { request, code, detail, .. } => {
            let said = finding(&format!("a decision was refused: {code}"), detail, 3).control(DENY, REJECTED);
            Some(request.iter().fold(said, |said, request| said.about(request)))
        }
        EventKind::Gap { stage, detail, .. } => {
            Some(finding(&format!("not seen or not recorded: {stage}"), detail, 4))
        }
        EventKind::MaskedColumns { .. }
        | EventKind::ApprovalLeft { .. }
        | EventKind::ApprovalsBundled { .. }
        | EventKind::Shelved { .. }
        | EventKind::GlassReviewed { .. }
        | EventKind::Alerted { .. }
        | EventKind::Notified { .. }
        | EventKind::OperationPart { .. }
        | EventKind::ResultRows { .. }
        | EventKind::Observed(_)
        | EventKind::Coverage(_)
        | EventKind::Custody(_)
        | EventKind::AgentStarted { .. }
        | EventKind::AgentStopped { .. }
        | EventKind::PolicyLoaded { .. }
        | EventKind::PolicyRejected { .. } => None,
    }
}

fn decided(verdict: &Verdict) -> ((u64, u64), &'static str) {
    match &verdict.effect {
        Effect::Allow if verdict.would.is_some() => ((SEEN, ALLOWED), "allowed, in shadow mode"),
        Effect::Allow => ((ALLOW, ALLOWED), "allowed"),
        Effect::Deny(_) => ((DENY, BLOCKED), "denied"),
        Effect::Hold(_) => ((SEEN, DELAYED), "held for approval"),
    }
}

/// Of one operation, in its protocol's class.
fn operation_of(about: &About<'_>, message: impl Into<String>) -> Option<Said> {
    let operation = about.operation?;
    Some(match &*operation.facts {
        Facts::Sql(facts) => statement(about, operation, facts, message),
        Facts::Http(facts) => request(operation, facts, message),
    })
}

fn severity(risk: Risk) -> u64 {
    match risk {
        Risk::Low => INFORMATIONAL,
        Risk::Medium => 2,
        Risk::High => 3,
        Risk::Critical => 4,
    }
}

/// OCSF knows these methods; another one stands in `api.operation` alone.
const METHODS: [&str; 8] = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];

fn request(operation: &RecordedOperation, facts: &HttpFacts, message: impl Into<String>) -> Said {
    const CREATE: u64 = 1;
    const READ: u64 = 2;
    const UPDATE: u64 = 3;
    const DELETE: u64 = 4;
    let activity = match (facts.class, facts.method.as_str()) {
        (HttpClass::Upgrade | HttpClass::Opaque, _) => OTHER,
        (HttpClass::Read, _) => READ,
        (HttpClass::Write, "POST") => CREATE,
        (HttpClass::Write, "PUT" | "PATCH") => UPDATE,
        (HttpClass::Write, "DELETE") => DELETE,
        (HttpClass::Write, _) => OTHER,
    };
    let url = json!({ "scheme": facts.scheme, "hostname": facts.host, "path": facts.path });
    let mut http = json!({ "url": url, "uid": operation.id.to_string() });
    if METHODS.contains(&facts.method.as_str()) {
        http["http_method"] = json!(facts.method);
    }
    if let Some(agent) = facts.header("user-agent").next() {
        http["user_agent"] = json!(agent);
    }
    let length = match facts.body {
        HttpBody::None => Some(0),
        HttpBody::Read { bytes } => Some(bytes),
        HttpBody::Streamed { bytes } => bytes,
    };
    if let Some(length) = length {
        http["body_length"] = json!(length);
    }
    let api = json!({
        "operation": format!("{} {}", facts.method, facts.route),
        "service": { "name": facts.host },
        "request": { "uid": operation.digest.to_string() },
    });
    Said::new(API, activity, message)
        .severity(severity(facts.risk))
        .with("api", api)
        .with("http_request", http)
}

fn statement(
    about: &About<'_>,
    operation: &RecordedOperation,
    facts: &SqlFacts,
    message: impl Into<String>,
) -> Said {
    let activity = match facts.class {
        SqlClass::Read | SqlClass::CopyOut => 1,
        SqlClass::Write | SqlClass::CopyIn if facts.kind.starts_with("delete") => 7,
        SqlClass::Write | SqlClass::CopyIn if facts.kind.starts_with("update") => 2,
        SqlClass::Write | SqlClass::CopyIn => 5,
        SqlClass::Ddl if facts.kind.starts_with("create") => 6,
        SqlClass::Ddl if facts.kind.starts_with("drop") => 7,
        SqlClass::Ddl => 2,
        SqlClass::Transaction | SqlClass::Session | SqlClass::Call | SqlClass::Admin | SqlClass::Opaque => {
            QUERY
        }
    };
    let tables: Vec<Value> = about.tables().into_iter().map(|name| json!({ "name": name })).collect();
    let said = Said::new(DATASTORE, activity, message)
        .severity(severity(facts.risk))
        .with("query_info", json!({ "query_string": &*operation.text, "uid": operation.digest.to_string() }));
    match tables.first() {
        Some(first) => said.with("table", first.clone()),
        None => said,
    }
}

/// Authentication: logon (1), logoff (2); what changes means of access is access of a user (assign 1, revoke 2).
fn signed_in(access: &Access) -> Said {
    let message = format!("{} by {}: {}", access.action.as_str(), access.via, access.detail);
    let said = match access.action {
        AccessAction::Login => Said::new(AUTHENTICATION, 1, message),
        AccessAction::LoginRefused | AccessAction::TokenRefused => {
            Said::new(AUTHENTICATION, 1, message).severity(3).control(DENY, REJECTED)
        }
        AccessAction::Logout | AccessAction::LoginEnded => Said::new(AUTHENTICATION, 2, message),
        AccessAction::TokenMade | AccessAction::BootstrapMade | AccessAction::Renewed => {
            Said::new(ACCESS, 1, message)
        }
        AccessAction::TokenRevoked => Said::new(ACCESS, 2, message),
        AccessAction::Refused => finding("a request was refused", &message, 3).control(DENY, REJECTED),
    };
    let said = said.with("user", json!({ "uid": access.by.as_deref().unwrap_or("nobody") }));
    match &access.source {
        Some(source) => said.with("src_endpoint", json!({ "ip": source })),
        None => said,
    }
}

fn finding(title: &str, detail: &str, severity: u64) -> Said {
    Said::new(FINDING, 1, detail)
        .severity(severity)
        .with("finding_info", json!({ "title": title, "uid": title }))
}

fn approver(by: &Approver) -> Value {
    json!({ "uid": by.id, "name": by.name(), "groups": by.groups.iter().map(|group| json!({ "name": group.to_string() }))
        .collect::<Vec<_>>() })
}

fn word(value: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
