//! What an approver sees of a request, in one shape for every channel: the notification's `data`, the page
//! behind its link, and the host's API. Facts come from the parsed operation and the attributed workload.
//!
//! When the operation names a masked table, no literal, no bound value and no command line is in it.

use crate::{
    approvals::{bundle::BundleCase, case::Case},
    notify::rehearsal,
    text::visible,
};
use lockgate_model::{
    approval::{ApprovalRequest, Progress},
    event::{Event, EventKind},
    flow::Capture,
    grant::{GlassUse, MAX_GRANT},
    http::{HttpClass, HttpFacts, HttpField},
    operation::{Facts, Operation, Parameter},
    session::{Mode, Session, Target},
    sql::{RelationName, SqlClass, SqlFacts},
    workload::{CiJob, Pod, Process, Unit, Workload},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Tables named in the summary; more are counted.
const SUMMARY_TABLES: usize = 3;

/// What a request is about.
pub(crate) fn subject(case: &Case) -> Map<String, Value> {
    let request = &*case.request;
    let session = &request.session;
    let context = &request.operation.context;
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        out.insert(key.to_owned(), value);
    };
    put("summary", json!(summary(request)));
    put("operation", operation(&request.operation));
    put("in_transaction", json!(context.in_transaction));
    put("database", json!(visible(&context.database)));
    put("role", json!(visible(&context.role)));
    put("search_path", json!(context.search_path.as_deref().map(visible)));
    put("target", target(&session.target));
    // Another statement on the same command line may touch what this one does not.
    let masked = request.operation.touches_masked || request.verdict.obligations.mask.is_some();
    put("identity", identity(session, masked));
    put("rehearsal", json!(rehearsal::is_one(session)));
    put("session_id", json!(session.id));
    put("decision_id", json!(request.decision()));
    put("node", json!(session.node));
    put("policy", json!(request.verdict.policy));
    put("earlier", json!(case.earlier));
    out
}

/// Which rules hold it, and who must agree.
pub(crate) fn demand(request: &ApprovalRequest, progress: &Progress) -> Map<String, Value> {
    let requirements = &request.spec.requirements;
    let rules: Vec<Value> = requirements
        .iter()
        .map(|requirement| {
            json!({
                "id": requirement.rule,
                "description": requirement.description,
                "stages": requirement.stages,
                "deny_votes": requirement.deny_votes,
                "exclude": requirement.exclude,
                "require_reason": requirement.require_reason,
                "longest_grant_seconds": requirement.terms.max_grant.unwrap_or(MAX_GRANT).as_secs(),
            })
        })
        .collect();
    let mut out = Map::new();
    out.insert("rule".to_owned(), json!(requirements.first().map(|requirement| &requirement.rule)));
    out.insert("rules".to_owned(), Value::Array(rules));
    out.insert("need".to_owned(), json!(progress.requirements));
    out
}

/// One sentence made from the parsed operation, never from the client's text: `Alter table public.orders on
/// orders-db (env production), asked by acme/billing › deploy.yml`.
fn summary(request: &ApprovalRequest) -> String {
    let (session, target) = (&request.session, &request.session.target);
    let what = deed(&request.operation.facts);
    let place = match target.tags.get("env") {
        Some(env) => format!("{} (env {env})", target.name),
        None => target.name.to_string(),
    };
    let mark = if rehearsal::is_one(session) { rehearsal::MARK } else { "" };
    visible(&format!("{mark}{what} on {place}, asked by {}", session.principal.display)).into_owned()
}

/// What it does, in a few words: `Alter table public.orders`.
pub(crate) fn deed(facts: &Facts) -> String {
    match facts {
        Facts::Sql(facts) => action(facts),
        Facts::Http(facts) => request_line(facts),
    }
}

/// `DELETE shop.internal/v1/users/{id}`
fn request_line(facts: &HttpFacts) -> String {
    match facts.class {
        HttpClass::Opaque => format!("A {} request that was not understood", facts.method),
        HttpClass::Read | HttpClass::Write | HttpClass::Upgrade => {
            format!("{} {}{}", facts.method, facts.host, facts.route)
        }
    }
}

fn action(facts: &SqlFacts) -> String {
    if facts.class == SqlClass::Opaque {
        return "A statement that was not understood".to_owned();
    }
    let mut what = facts.kind.replace('_', " ");
    if let Some(first) = what.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let tables = if facts.tables_written.is_empty() { &facts.tables_read } else { &facts.tables_written };
    let named: Vec<String> = tables.iter().take(SUMMARY_TABLES).map(ToString::to_string).collect();
    if !named.is_empty() {
        what = format!("{what} {}", named.join(", "));
    }
    if tables.len() > SUMMARY_TABLES {
        what = format!("{what} and {} more", tables.len() - SUMMARY_TABLES);
    }
    if facts.bounded == Some(false) {
        what.push_str(", unbounded,");
    }
    what
}

fn operation(operation: &Operation) -> Value {
    let masked = operation.touches_masked;
    let statement = if masked { &operation.normalized } else { &operation.text };
    let values: Vec<Value> = operation
        .parameters
        .iter()
        .enumerate()
        .map(|(index, parameter)| bound_value(index + 1, parameter, masked))
        .collect();
    let mut out = json!({
        "id": operation.id,
        "statement": statement,
        "statement_display": visible(statement),
        "statement_bytes": statement.len(),
        "literals": if masked { "masked" } else { "shown" },
        "bound_values": values,
        "bound_value_count": operation.parameters.len(),
        "opaque": operation.facts.is_opaque(),
    });
    match &*operation.facts {
        Facts::Sql(facts) => merge(&mut out, sql(facts, masked)),
        Facts::Http(facts) => merge(&mut out, http(facts, masked)),
    }
    out
}

/// A request over HTTP; `kind` is its method. Values may be masked ones where masks apply.
fn http(facts: &HttpFacts, masked: bool) -> Value {
    let fields = |fields: &[HttpField]| -> Vec<Value> {
        let value = |field: &HttpField| match masked {
            true => json!("masked"),
            false => json!(visible(&field.value)),
        };
        fields.iter().map(|field| json!({ "name": visible(&field.name), "value": value(field) })).collect()
    };
    json!({
        "class": facts.class,
        "kind": facts.method,
        "method": facts.method,
        "scheme": facts.scheme,
        "host": visible(&facts.host),
        "path": if masked { visible(&facts.route) } else { visible(&facts.path) },
        "route": visible(&facts.route),
        "query": fields(&facts.query),
        "headers": fields(&facts.headers),
        "upgrade": facts.upgrade,
        "body": facts.body,
        "risk": facts.risk,
        "opaque_reason": facts.opaque_reason.as_deref().map(visible),
    })
}

fn sql(facts: &SqlFacts, masked: bool) -> Value {
    // A parser's complaint quotes the text it stumbled over.
    let opaque_reason =
        facts.opaque_reason.as_deref().map(|reason| if masked { "masked".into() } else { visible(reason) });
    // Quoted identifiers are the client's text too.
    let tables = |tables: &[RelationName]| shown(tables.iter().map(ToString::to_string));
    json!({
        "class": facts.class,
        "kind": facts.kind,
        "tables_read": tables(&facts.tables_read),
        "tables_written": tables(&facts.tables_written),
        "columns": shown(facts.columns.iter().cloned()),
        "functions": shown(facts.functions.iter().cloned()),
        "bounded": facts.bounded,
        "risk": facts.risk,
        "effects": facts.effects,
        "fingerprint": facts.fingerprint,
        "opaque_reason": opaque_reason,
        "second_opinion": facts.second_opinion,
    })
}

fn shown(names: impl Iterator<Item = String>) -> Vec<String> {
    names.map(|name| visible(&name).into_owned()).collect()
}

fn bound_value(position: usize, parameter: &Parameter, masked: bool) -> Value {
    let mut out = json!({
        "position": position,
        "type": type_name(parameter.type_oid),
        "type_oid": parameter.type_oid,
        "format": parameter.format,
    });
    if masked {
        merge(&mut out, json!({ "masked": true }));
        return out;
    }
    merge(&mut out, json!({ "value": parameter.value }));
    if let Some(std::borrow::Cow::Owned(display)) = parameter.value.as_deref().map(visible) {
        merge(&mut out, json!({ "display": display }));
    }
    out
}

/// Built-in types by OID (PostgreSQL, src/include/catalog/pg_type.dat).
fn type_name(oid: u32) -> String {
    let name = match oid {
        0 => "unspecified",
        16 => "bool",
        17 => "bytea",
        18 => "char",
        19 => "name",
        20 => "int8",
        21 => "int2",
        23 => "int4",
        25 => "text",
        26 => "oid",
        114 => "json",
        700 => "float4",
        701 => "float8",
        790 => "money",
        869 => "inet",
        1000 => "bool[]",
        1005 => "int2[]",
        1007 => "int4[]",
        1009 => "text[]",
        1015 => "varchar[]",
        1016 => "int8[]",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamptz",
        1186 => "interval",
        1266 => "timetz",
        1700 => "numeric",
        2950 => "uuid",
        3802 => "jsonb",
        other => return format!("oid {other}"),
    };
    name.to_owned()
}

fn target(target: &Target) -> Value {
    let mode = match target.mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    };
    json!({ "name": target.name, "protocol": target.protocol, "tags": target.tags, "mode": mode })
}

fn identity(session: &Session, masked: bool) -> Value {
    let workload: &Workload = &session.workload;
    json!({
        "principal": session.principal.id,
        "display": visible(&session.principal.display),
        "kind": session.principal.kind,
        "assurance": session.principal.assurance,
        "established_by": visible(&workload.established_by),
        "process": process(&workload.process, masked),
        "cgroup": workload.cgroup.as_deref().map(visible),
        "unit": workload.unit.as_ref().map(unit),
        "container": workload.container,
        "pod": workload.pod.as_ref().map(pod),
        "ci": workload.ci.as_ref().map(ci),
        "capture": session.flow.capture,
        "transparent": session.flow.capture == Capture::Transparent,
        // Free text of the job: shown, never trusted.
        "client_claims": {
            "user": visible(&session.client.user),
            "database": visible(&session.client.database),
            "application_name": session.client.application_name.as_deref().map(visible),
        },
    })
}

fn unit(unit: &Unit) -> Value {
    json!({
        "name": visible(&unit.name),
        "invocation_id": unit.invocation_id,
        "user_unit": unit.user_unit,
    })
}

/// `psql -c "…"` has the statement, literals and all, on its command line.
fn process(process: &Process, masked: bool) -> Value {
    let argv: Vec<_> = process.argv.iter().take(if masked { 1 } else { usize::MAX }).collect();
    json!({
        "pid": process.pid,
        "uid": process.uid,
        "gid": process.gid,
        "user": process.user.as_deref().map(visible),
        "exe": process.exe.as_deref().map(visible),
        "exe_sha256": process.exe_sha256,
        "argv": argv.into_iter().map(|argument| visible(argument)).collect::<Vec<_>>(),
        "argv_count": process.argv.len(),
        "cwd": process.cwd.as_deref().map(visible),
        "ancestry": process
            .ancestry
            .iter()
            .map(|ancestor| json!({ "pid": ancestor.pid, "name": visible(&ancestor.name) }))
            .collect::<Vec<_>>(),
        "exited": process.exited,
    })
}

/// Labels are text of whoever may patch the pod.
fn pod(pod: &Pod) -> Value {
    let shown = |text: &Option<String>| text.as_deref().map(|text| visible(text).into_owned());
    let labels = pod.labels.iter().map(|(key, value)| (visible(key).into_owned(), json!(visible(value))));
    json!({
        "uid": visible(&pod.uid),
        "qos": pod.qos,
        "assurance": pod.assurance,
        "name": shown(&pod.name),
        "namespace": shown(&pod.namespace),
        "service_account": shown(&pod.service_account),
        "owner": shown(&pod.owner),
        "node": shown(&pod.node),
        "image": shown(&pod.image),
        "labels": labels.collect::<Map<String, Value>>(),
        "unconfirmed": shown(&pod.unconfirmed),
    })
}

fn ci(ci: &CiJob) -> Value {
    let shown = |text: &Option<String>| text.as_deref().map(|text| visible(text).into_owned());
    json!({
        "provider": visible(&ci.provider),
        "assurance": ci.assurance,
        "repository": shown(&ci.repository),
        "workflow": shown(&ci.workflow),
        "job": shown(&ci.job),
        "run_id": shown(&ci.run_id),
        "run_attempt": shown(&ci.run_attempt),
        "run_url": shown(&ci.run_url),
        "ref": shown(&ci.git_ref),
        "ref_protected": ci.ref_protected,
        "commit": shown(&ci.commit),
        "commit_author": shown(&ci.commit_author),
        "event_name": shown(&ci.event_name),
        "actor": shown(&ci.actor),
        "triggering_actor": shown(&ci.triggering_actor),
        "job_id": shown(&ci.job_id),
        "runner": shown(&ci.runner),
        "established_by": shown(&ci.established_by),
        "unconfirmed": shown(&ci.unconfirmed),
    })
}

/// What is decided together, one line each.
pub(crate) fn bundle(bundle: &BundleCase) -> Value {
    let item = |case: &Arc<Case>| {
        let operation = &case.request.operation;
        let statement = if operation.touches_masked { &operation.normalized } else { &operation.text };
        let facts = &*operation.facts;
        json!({
            "request_id": case.request.id,
            "command_digest": operation.digest,
            "state": case.resolution().as_ref().map_or("pending", |it| it.as_str()),
            "summary": summary(&case.request),
            "statement": statement,
            "statement_display": visible(statement),
            "bound_value_count": operation.parameters.len(),
            "class": facts.class(),
            "kind": facts.kind(),
            "risk": facts.risk(),
        })
    };
    let cases = bundle.cases();
    json!({
        "id": bundle.id,
        "command_digest": bundle.digest(),
        "size": cases.len(),
        "requests": cases.iter().map(item).collect::<Vec<_>>(),
    })
}

/// An emergency override, for whoever is told of it.
pub(crate) fn glass(glass: &GlassUse) -> Value {
    json!({
        "id": glass.id,
        "rule": glass.rule,
        "by": { "id": visible(&glass.by.id), "name": visible(glass.by.name()), "via": glass.by.via },
        "login": visible(&glass.login),
        "uid": glass.uid,
        "principal": glass.principal.as_deref().map(visible),
        "target": glass.target,
        "reason": glass.reason.as_deref().map(visible),
        "ticket": glass.ticket.as_deref().map(visible),
        "began_at": glass.began_at,
        "ends_at": glass.ends_at,
        "ended_at": glass.ended_at,
        "notify": glass.notify,
        "review": glass.review,
        "reviewed": glass.reviewed,
    })
}

/// Something of a session, or of the capture as a whole; no statement is in it.
pub(crate) fn happening(event: &Event) -> Map<String, Value> {
    let shown = match &event.kind {
        EventKind::SessionStarted(session) => json!({
            "summary": visible(&format!("A session on {} began, for {}", session.target.name, session.principal.display)),
            "node": session.node,
            "target": target(&session.target),
            "identity": identity(session, true),
            "started_at": session.opened_at,
        }),
        EventKind::SessionEnded(closing) => json!({
            "summary": "A session ended",
            "closing": closing,
        }),
        EventKind::Gap { stage, count, detail } => json!({
            "summary": visible(detail),
            "stage": stage,
            "count": count,
            "detail": visible(detail),
        }),
        _ => json!({ "summary": "Something happened that has no words here" }),
    };
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// Adds the fields of one object to another; later ones win.
pub(crate) fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
