//! What people see of a request, in one shape for every channel: the notification's `data`, the page
//! behind its link, and the host's API. Facts come from the parsed operation and the attributed workload.
//!
//! When the operation names a masked table, no literal, no bound value and no command line is in it; nor is there for
//! whoever may see shapes alone ([`Sight::Shapes`]), to whom digests are not told either: a short value is found from them by trying.

pub(crate) mod shape;

use crate::{
    approvals::{bundle::BundleCase, case::Case},
    house::Sight,
    notify::rehearsal,
    text::visible,
};
use lockgate_model::{
    approval::{ApprovalRequest, Progress},
    event::{Event, EventKind},
    flow::Capture,
    grant::{GlassUse, MAX_GRANT},
    http::{HttpClass, HttpFacts, HttpField},
    operation::{Digest, Facts, Operation, Parameter},
    session::{Session, Target},
    sql::{RelationName, SqlClass, SqlFacts},
    workload::{CiJob, Pod, Process, Ticket, Unit, Workload},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shape::{
    AskedFacts, AskedHttp, AskedOperation, AskedSql, AskedTarget, Asker, AskerJob, AskerParent, AskerPod,
    AskerProcess, AskerTicket, AskerUnit, BoundValue, ClaimedText, Demand, Field, Glass, GlassPerson,
    HoldingRule, Literals, Subject, Together, TogetherLine,
};
use std::sync::Arc;

/// Tables named in the summary; more are counted.
const SUMMARY_TABLES: usize = 3;

/// What stands for a value that is withheld.
const WITHHELD: &str = "masked";

/// What a request is about, for a notification.
pub(crate) fn subject(case: &Case) -> Map<String, Value> {
    fields(&subject_for(case, Sight::Recorded))
}

/// Which rules hold it, and who must agree, for a notification.
pub(crate) fn demand(request: &ApprovalRequest, progress: &Progress) -> Map<String, Value> {
    fields(&demand_of(request, progress))
}

/// What is decided together, for a notification.
pub(crate) fn bundle(bundle: &BundleCase) -> Value {
    json!(together(bundle, Sight::Recorded))
}

/// An emergency override, for whoever is told of it.
pub(crate) fn glass(glass: &GlassUse) -> Value {
    json!(glass_of(glass))
}

fn fields(document: &impl Serialize) -> Map<String, Value> {
    match json!(document) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// What a request is about.
pub(crate) fn subject_for(case: &Case, sight: Sight) -> Subject {
    let request = &*case.request;
    let session = &request.session;
    let context = &request.operation.context;
    // Another statement on the same command line may touch what this one does not.
    let masked = request.operation.touches_masked
        || request.verdict.obligations.mask.is_some()
        || sight == Sight::Shapes;
    Subject {
        summary: summary(request),
        operation: operation(&request.operation, sight),
        in_transaction: context.in_transaction,
        database: visible(&context.database).into_owned(),
        role: visible(&context.role).into_owned(),
        search_path: shown(context.search_path.as_deref()),
        target: target(&session.target),
        identity: identity(session, masked),
        rehearsal: rehearsal::is_one(session),
        session_id: session.id,
        decision_id: request.decision(),
        node: session.node.clone(),
        policy: request.verdict.policy.clone(),
        earlier: case.earlier.clone(),
    }
}

/// Which rules hold it, and who must agree.
pub(crate) fn demand_of(request: &ApprovalRequest, progress: &Progress) -> Demand {
    let requirements = &request.spec.requirements;
    let rules = requirements.iter().map(|requirement| HoldingRule {
        id: requirement.rule.clone(),
        description: requirement.description.clone(),
        stages: requirement.stages.clone(),
        deny_votes: requirement.deny_votes,
        exclude: requirement.exclude.clone(),
        require_reason: requirement.require_reason,
        longest_grant_seconds: requirement.terms.max_grant.unwrap_or(MAX_GRANT).as_secs(),
    });
    Demand {
        rule: requirements.first().map(|requirement| requirement.rule.clone()),
        rules: rules.collect(),
        need: progress.requirements.clone(),
    }
}

/// What a decision must echo, for whoever may know it.
pub(crate) fn digest(digest: Digest, sight: Sight) -> Option<Digest> {
    match sight {
        Sight::Recorded => Some(digest),
        Sight::Shapes => None,
    }
}

/// The text that may be shown: the exact one, or its shape.
pub(crate) fn statement(operation: &Operation, sight: Sight) -> &str {
    match sight {
        Sight::Recorded if !operation.touches_masked => &operation.text,
        Sight::Recorded => &operation.normalized,
        Sight::Shapes if matches!(&*operation.facts, Facts::Http(_)) && operation.facts.is_opaque() => {
            WITHHELD
        }
        Sight::Shapes => &operation.normalized,
    }
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

fn operation(operation: &Operation, sight: Sight) -> AskedOperation {
    let masked = operation.touches_masked || sight == Sight::Shapes;
    let statement = statement(operation, sight);
    let values = operation.parameters.iter().enumerate();
    AskedOperation {
        id: operation.id,
        statement: statement.to_owned(),
        statement_display: visible(statement).into_owned(),
        statement_bytes: statement.len(),
        literals: if masked { Literals::Masked } else { Literals::Shown },
        bound_values: values.map(|(index, value)| bound_value(index + 1, value, masked)).collect(),
        bound_value_count: operation.parameters.len(),
        opaque: operation.facts.is_opaque(),
        facts: match &*operation.facts {
            Facts::Sql(facts) => AskedFacts::Sql(sql(facts, masked)),
            Facts::Http(facts) => AskedFacts::Http(Box::new(http(facts, masked, sight))),
        },
    }
}

/// A request over HTTP; `kind` is its method. Values may be masked ones where masks apply.
fn http(facts: &HttpFacts, masked: bool, sight: Sight) -> AskedHttp {
    let fields = |fields: &[HttpField]| -> Vec<Field> {
        let value = |field: &HttpField| match masked {
            true => WITHHELD.to_owned(),
            false => visible(&field.value).into_owned(),
        };
        fields
            .iter()
            .map(|field| Field { name: visible(&field.name).into_owned(), value: value(field) })
            .collect()
    };
    // Of a path that was not understood nobody can say what in it is a value.
    let route = match (facts.class, sight) {
        (HttpClass::Opaque, Sight::Shapes) => WITHHELD.to_owned(),
        (HttpClass::Opaque, Sight::Recorded)
        | (HttpClass::Read | HttpClass::Write | HttpClass::Upgrade, _) => visible(&facts.route).into_owned(),
    };
    AskedHttp {
        class: facts.class,
        kind: facts.method.clone(),
        method: facts.method.clone(),
        scheme: facts.scheme.clone(),
        host: visible(&facts.host).into_owned(),
        path: if masked { route.clone() } else { visible(&facts.path).into_owned() },
        route,
        query: fields(&facts.query),
        headers: fields(&facts.headers),
        upgrade: facts.upgrade.clone(),
        body: facts.body,
        risk: facts.risk,
        opaque_reason: reason(facts.opaque_reason.as_deref(), masked),
    }
}

/// A parser's complaint quotes the text it stumbled over.
fn reason(why: Option<&str>, masked: bool) -> Option<String> {
    why.map(|why| if masked { WITHHELD.to_owned() } else { visible(why).into_owned() })
}

fn sql(facts: &SqlFacts, masked: bool) -> AskedSql {
    // Quoted identifiers are the client's text too.
    let tables = |tables: &[RelationName]| all_shown(tables.iter().map(ToString::to_string));
    AskedSql {
        class: facts.class,
        kind: facts.kind.clone(),
        tables_read: tables(&facts.tables_read),
        tables_written: tables(&facts.tables_written),
        columns: all_shown(facts.columns.iter().cloned()),
        functions: all_shown(facts.functions.iter().cloned()),
        bounded: facts.bounded,
        risk: facts.risk,
        effects: facts.effects.clone(),
        fingerprint: facts.fingerprint.clone(),
        opaque_reason: reason(facts.opaque_reason.as_deref(), masked),
        second_opinion: facts.second_opinion,
    }
}

fn all_shown(names: impl Iterator<Item = String>) -> Vec<String> {
    names.map(|name| visible(&name).into_owned()).collect()
}

fn shown(text: Option<&str>) -> Option<String> {
    text.map(|text| visible(text).into_owned())
}

fn bound_value(position: usize, parameter: &Parameter, masked: bool) -> BoundValue {
    let display = match parameter.value.as_deref().map(visible) {
        Some(std::borrow::Cow::Owned(display)) if !masked => Some(display),
        _ => None,
    };
    BoundValue {
        position,
        r#type: type_name(parameter.type_oid),
        type_oid: parameter.type_oid,
        format: parameter.format,
        masked,
        value: (!masked).then(|| parameter.value.clone()),
        display,
    }
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

fn target(target: &Target) -> AskedTarget {
    AskedTarget {
        name: target.name.clone(),
        protocol: target.protocol,
        tags: target.tags.clone(),
        mode: target.mode,
    }
}

fn identity(session: &Session, masked: bool) -> Asker {
    let workload: &Workload = &session.workload;
    Asker {
        principal: session.principal.id.clone(),
        display: visible(&session.principal.display).into_owned(),
        kind: session.principal.kind,
        assurance: session.principal.assurance,
        established_by: visible(&workload.established_by).into_owned(),
        process: process(&workload.process, masked),
        cgroup: shown(workload.cgroup.as_deref()),
        unit: workload.unit.as_ref().map(unit),
        container: workload.container.clone(),
        pod: workload.pod.as_ref().map(pod),
        ci: workload.ci.as_ref().map(ci),
        tickets: workload.tickets.iter().map(ticket).collect(),
        capture: session.flow.capture,
        transparent: session.flow.capture == Capture::Transparent,
        client_claims: ClaimedText {
            user: visible(&session.client.user).into_owned(),
            database: visible(&session.client.database).into_owned(),
            application_name: shown(session.client.application_name.as_deref()),
        },
    }
}

fn unit(unit: &Unit) -> AskerUnit {
    AskerUnit {
        name: visible(&unit.name).into_owned(),
        invocation_id: unit.invocation_id.clone(),
        user_unit: unit.user_unit,
    }
}

/// `psql -c "…"` has the statement, literals and all, on its command line.
fn process(process: &Process, masked: bool) -> AskerProcess {
    let argv = process.argv.iter().take(if masked { 1 } else { usize::MAX });
    let parents = process.ancestry.iter();
    AskerProcess {
        pid: process.pid,
        uid: process.uid,
        gid: process.gid,
        user: shown(process.user.as_deref()),
        exe: shown(process.exe.as_deref()),
        exe_sha256: process.exe_sha256.clone(),
        argv: argv.map(|argument| visible(argument).into_owned()).collect(),
        argv_count: process.argv.len(),
        cwd: shown(process.cwd.as_deref()),
        ancestry: parents
            .map(|parent| AskerParent { pid: parent.pid, name: visible(&parent.name).into_owned() })
            .collect(),
        exited: process.exited,
    }
}

/// Labels are text of whoever may patch the pod.
fn pod(pod: &Pod) -> AskerPod {
    let labels =
        pod.labels.iter().map(|(key, value)| (visible(key).into_owned(), visible(value).into_owned()));
    AskerPod {
        uid: visible(&pod.uid).into_owned(),
        qos: pod.qos.clone(),
        assurance: pod.assurance,
        name: shown(pod.name.as_deref()),
        namespace: shown(pod.namespace.as_deref()),
        service_account: shown(pod.service_account.as_deref()),
        owner: shown(pod.owner.as_deref()),
        node: shown(pod.node.as_deref()),
        image: shown(pod.image.as_deref()),
        labels: labels.collect(),
        unconfirmed: shown(pod.unconfirmed.as_deref()),
    }
}

fn ticket(ticket: &Ticket) -> AskerTicket {
    AskerTicket {
        id: visible(&ticket.id).into_owned(),
        url: shown(ticket.url.as_deref()),
        source: ticket.source,
        assurance: ticket.assurance,
        standing: format!("{}; {}", ticket.source.words(), ticket.vouched()),
    }
}

fn ci(ci: &CiJob) -> AskerJob {
    AskerJob {
        provider: visible(&ci.provider).into_owned(),
        assurance: ci.assurance,
        repository: shown(ci.repository.as_deref()),
        workflow: shown(ci.workflow.as_deref()),
        job: shown(ci.job.as_deref()),
        run_id: shown(ci.run_id.as_deref()),
        run_attempt: shown(ci.run_attempt.as_deref()),
        run_url: shown(ci.run_url.as_deref()),
        r#ref: shown(ci.git_ref.as_deref()),
        ref_protected: ci.ref_protected,
        commit: shown(ci.commit.as_deref()),
        commit_author: shown(ci.commit_author.as_deref()),
        commit_message: shown(ci.commit_message.as_deref()),
        source_branch: shown(ci.source_branch.as_deref()),
        merge_request: shown(ci.merge_request.as_deref()),
        event_name: shown(ci.event_name.as_deref()),
        actor: shown(ci.actor.as_deref()),
        triggering_actor: shown(ci.triggering_actor.as_deref()),
        job_id: shown(ci.job_id.as_deref()),
        runner: shown(ci.runner.as_deref()),
        established_by: shown(ci.established_by.as_deref()),
        unconfirmed: shown(ci.unconfirmed.as_deref()),
    }
}

/// What is decided together, one line each.
pub(crate) fn together(bundle: &BundleCase, sight: Sight) -> Together {
    let item = |case: &Arc<Case>| {
        let operation = &case.request.operation;
        let statement = statement(operation, sight);
        let facts = &*operation.facts;
        TogetherLine {
            request_id: case.request.id,
            command_digest: digest(operation.digest, sight),
            state: case.resolution().as_ref().map_or("pending", |it| it.as_str()),
            summary: summary(&case.request),
            statement: statement.to_owned(),
            statement_display: visible(statement).into_owned(),
            bound_value_count: operation.parameters.len(),
            class: facts.class().to_owned(),
            kind: facts.kind().to_owned(),
            risk: facts.risk(),
        }
    };
    let cases = bundle.cases();
    Together {
        id: bundle.id,
        command_digest: digest(bundle.digest(), sight),
        size: cases.len(),
        requests: cases.iter().map(item).collect(),
    }
}

/// An emergency override.
pub(crate) fn glass_of(glass: &GlassUse) -> Glass {
    Glass {
        id: glass.id,
        rule: glass.rule.clone(),
        by: GlassPerson {
            id: visible(&glass.by.id).into_owned(),
            name: visible(glass.by.name()).into_owned(),
            via: glass.by.via.clone(),
        },
        login: visible(&glass.login).into_owned(),
        uid: glass.uid,
        principal: shown(glass.principal.as_deref()),
        target: glass.target.clone(),
        reason: shown(glass.reason.as_deref()),
        ticket: shown(glass.ticket.as_deref()),
        began_at: glass.began_at,
        ends_at: glass.ends_at,
        ended_at: glass.ended_at,
        notify: glass.notify.clone(),
        review: glass.review.clone(),
        reviewed: glass.reviewed.clone(),
        state: None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ask, Clock, request};

    #[test]
    fn a_request_over_http_shows_its_values_to_who_may_see_them_alone() {
        let mut operation = request(&Clock::new(), Ask::default()).operation;
        let field = |name: &str| json!({ "name": name, "value": "4711-secret" });
        for (class, why) in
            [("write", Value::Null), ("opaque", json!("a dot segment in /users/4711-secret/.."))]
        {
            let route = if class == "opaque" { "/users/4711-secret/.." } else { "/users/{id}" };
            let facts: HttpFacts = serde_json::from_value(json!({
                "class": class, "method": "POST", "scheme": "https", "host": "shop", "path": "/users/4711-secret",
                "route": route, "query": [field("card")], "headers": [field("x-note")], "body": { "state": "none" },
                "json": { "card.number": ["4711-secret"] }, "risk": "low", "opaque_reason": why,
            }))
            .unwrap();
            operation.text = "POST https://shop/users/4711-secret?card=4711-secret".into();
            operation.normalized = format!("POST https://shop{route}?card").into();
            operation.facts = Arc::new(Facts::Http(facts));
            let shown = json!(super::operation(&operation, Sight::Recorded)).to_string();
            assert!(shown.contains("card=4711-secret"), "{shown}");
            let shown = json!(super::operation(&operation, Sight::Shapes)).to_string();
            assert!(!shown.contains("4711-secret"), "{class}: {shown}");
            assert!(shown.contains("x-note"), "{class}: {shown}");
        }
    }
}
