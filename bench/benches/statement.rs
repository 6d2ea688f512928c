//! Understanding and judging one statement: parse and walk, and evaluate against a policy of fifty rules.

use criterion::{Criterion, criterion_group, criterion_main};
use lockgate_inspect::sql::{Inspector, SessionState};
use lockgate_model::{
    DecisionId, OperationId, SessionId,
    operation::{Digest, Operation},
    session::Session,
};
use lockgate_policy::{CompiledPolicy, SourceFile};
use serde_json::json;
use std::{fmt::Write as _, hint::black_box, sync::Arc};

const STATEMENTS: [(&str, &str); 4] = [
    ("point select", "SELECT abalance FROM pgbench_accounts WHERE aid = 12345"),
    (
        "join",
        "SELECT c.name, sum(o.amount) FROM orders o JOIN customers c ON c.id = o.customer_id \
         WHERE o.created_at > now() - interval '1 day' GROUP BY c.name ORDER BY 2 DESC LIMIT 10",
    ),
    ("update", "UPDATE orders SET note = 'checked', updated_at = now() WHERE id = 1 AND note IS NULL"),
    ("ddl", "ALTER TABLE orders ADD COLUMN note text NOT NULL DEFAULT ''"),
];

fn session() -> Session {
    let process =
        json!({ "pid": 42, "start_boottime_ns": 1, "uid": 1001, "gid": 1001, "exe": "/usr/bin/psql" });
    serde_json::from_value(json!({
        "id": SessionId::from_parts(1, 1), "node": "bench", "opened_at": "2026-11-21T09:00:00Z",
        "flow": {
            "client": "127.0.0.1:40000", "original_dst": "127.0.0.1:5432", "socket_cookie": 1, "netns_cookie": 1, "capture": "transparent",
            "process": { "tgid": 42, "tid": 42, "start_boottime_ns": 1, "uid": 1001, "gid": 1001, "cgroup_id": 1, "comm": "psql", "creator_tgid": 0 }
        },
        "workload": { "kind": "unknown", "assurance": "kernel", "established_by": "bench", "process": process },
        "principal": { "kind": "unknown", "id": "uid:1001", "display": "uid 1001", "assurance": "kernel" },
        "target": {
            "name": "orders-db", "protocol": "postgres", "tags": { "env": "production", "pci": "true" }, "mode": "enforce", "default": "deny"
        },
        "client": { "user": "ci", "database": "shop" }, "upstream_user": "app", "client_tls": false
    }))
    .expect("the session's own serde form")
}

/// Fifty rules: most name other tables, a few match.
fn policy() -> Arc<CompiledPolicy> {
    let mut text = String::from(
        "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: bench }\ngroups: { dba: { oidc: \"groups:dba\" } }\nrules:\n\
         - { id: everyday, match: { target: { name: orders-db }, sql: { class: [read, write] } }, effect: allow }\n\
         - { id: hours, match: { target: { tags: { env: production } }, sql: { class: [write, ddl] } }, when: \"time.hour < 0\", effect: deny }\n\
         - { id: ddl, match: { sql: { class: ddl } }, effect: require_approval, approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 10m } }\n\
         - { id: mask, match: { target: { tags: { pci: \"true\" } } }, effect: none, mask: { columns: [{ match: \"*.*.ssn\", method: redact }] } }\n",
    );
    for number in 0..46 {
        let _ = writeln!(
            text,
            "- {{ id: other-{number}, match: {{ target: {{ tags: {{ env: production }} }}, sql: {{ kinds: [drop], any_table: [\"app{number}.*\"] }} }}, effect: deny }}"
        );
    }
    let loaded = CompiledPolicy::load(vec![SourceFile { path: "bench.yaml".into(), text }])
        .expect("the bench's policy loads");
    Arc::new(loaded.policy)
}

fn operation(session: &Session, text: &str) -> Operation {
    let script = Inspector.script(text, &SessionState::default(), None);
    let statement = script.statements.first().expect("one statement");
    Operation {
        id: OperationId::from_parts(1, 1),
        session: session.id,
        facts: statement.facts.clone(),
        text: statement.text.clone(),
        normalized: statement.normalized.clone(),
        parameters: Arc::default(),
        digest: Digest([0; 32]),
        context: Arc::default(),
        touches_masked: false,
    }
}

fn inspect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inspect");
    let state = SessionState::default();
    for (name, text) in STATEMENTS {
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(Inspector.script(black_box(text), &state, None)))
        });
    }
    group.finish();
}

fn evaluate(criterion: &mut Criterion) {
    let (policy, session) = (policy(), session());
    let prepared = policy.for_session(&session);
    let now = "2026-11-21T09:00:00Z".parse().expect("a timestamp");
    let mut group = criterion.benchmark_group("evaluate, 50 rules");
    for (name, text) in STATEMENTS {
        let operation = operation(&session, text);
        let decision = DecisionId::from_parts(1, 1);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(prepared.evaluate(&session, black_box(&operation), now, decision)));
        });
    }
    group.finish();
}

criterion_group!(benches, inspect, evaluate);
criterion_main!(benches);
