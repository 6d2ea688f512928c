//! What rules mean for PostgreSQL statements, with the real inspector: roles, exports, tables behind names.

use lockgate_inspect::sql::{DumpWatch, Inspector, SessionState};
use lockgate_model::operation::Facts;
use lockgate_policy::{CompiledPolicy, HttpAsks, SourceFile, document::Given};

fn inspect(given: &Given, _asks: &HttpAsks) -> Vec<Facts> {
    let mut state = SessionState::from_startup(&[]);
    state.parameter_status("standard_conforming_strings", "on");
    let facts = DumpWatch::default().facts(&Inspector.script(&given.statement, &state, None));
    facts.into_iter().map(Facts::Sql).collect()
}

/// Each statement against the rules, by a test of the policy's own.
fn check(rules: &str, table: &[(&str, &str)]) {
    let mut text = format!(
        "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: {{ name: t }}\nrules:\n{rules}\ntests:\n"
    );
    for (statement, expected) in table {
        let quoted = serde_json::to_string(statement).unwrap();
        text.push_str(&format!(
            "- {{ name: {quoted}, given: {{ statement: {quoted} }}, expect: {{ effect: {expected} }} }}\n"
        ));
    }
    let file = SourceFile { path: "t.yaml".into(), text };
    let loaded = CompiledPolicy::load(vec![file]).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let failed: Vec<_> =
        loaded.policy.run_tests(&inspect).into_iter().filter(|outcome| !outcome.passed()).collect();
    assert!(failed.is_empty(), "{rules}\n{failed:#?}");
}

#[test]
fn an_ordinary_session_rule_does_not_cover_another_role() {
    let forms = [
        "SET ROLE admin",
        "SET role admin",
        "SET \"role\" = admin",
        "SET role TO 'admin'",
        "SET LOCAL ROLE admin",
        "SET SESSION ROLE admin",
        "SET ROLE NONE",
        "RESET ROLE",
        "SET SESSION AUTHORIZATION admin",
        "SET LOCAL SESSION AUTHORIZATION 'admin'",
        "SET session_authorization = admin",
        "SET SESSION SESSION AUTHORIZATION admin",
        "RESET SESSION AUTHORIZATION",
        "SELECT set_config('role', 'admin', false)",
        "SELECT pg_catalog.set_config('ROLE', 'admin', true)",
        "SELECT set_config('session_authorization', 'admin', false)",
        "SELECT set_config('ro' || 'le', 'admin', false)",
        "SELECT set_config(name, 'admin', false) FROM settings",
        "SELECT set_config(name, 'admin', false) FROM pg_settings WHERE name = 'role'",
        "SELECT set_config(name, 'admin', false) FROM pg_settings WHERE name = 'work_mem' OR name = 'role'",
        "SELECT set_config(setting, 'admin', false) FROM pg_settings WHERE name = 'work_mem'",
        "SELECT set_config(name, 'admin', false) FROM pg_settings WHERE name <> 'work_mem'",
        "SELECT set_config(name, 'admin', false) FROM pg_settings s(name) WHERE name = 'work_mem'",
        "SELECT set_config(name, 'admin', false) FROM pg_settings, x WHERE name = 'work_mem'",
        "SELECT (SELECT set_config(name, 'admin', false) FROM x) FROM pg_settings WHERE name = 'work_mem'",
        "UPDATE pg_settings SET setting = 'admin' WHERE name = 'role'",
        "EXPLAIN ANALYZE SELECT set_config('role', 'admin', false)",
        "PREPARE p AS SELECT set_config('role', 'admin', false)",
    ];
    let denied: Vec<(&str, &str)> = forms.iter().map(|form| (*form, "deny")).collect();
    let ordinary =
        "- { id: a, match: { sql: { class: [read, session, transaction, write] } }, effect: allow }";
    check(ordinary, &denied);
    check(
        "- { id: a, match: { sql: { kinds: [set, reset, select, explain, prepare, update] } }, effect: allow }",
        &denied,
    );
    check(
        ordinary,
        &[
            ("SET work_mem = '64MB'", "allow"),
            ("SELECT set_config(name, 'view', false) FROM pg_settings WHERE name = 'x_y'", "allow"),
            ("SET application_name = 'x'", "allow"),
            ("RESET ALL", "allow"),
        ],
    );
    // A rule that names it does; so does one that lets everything pass.
    let named =
        format!("{ordinary}\n- {{ id: b, match: {{ sql: {{ effects: sets_role }} }}, effect: allow }}");
    let allowed: Vec<(&str, &str)> = forms.iter().map(|form| (*form, "allow")).collect();
    check(&named, &allowed);
    check("- { id: a, match: {}, effect: allow }", &allowed);
}

#[test]
fn exports_are_told_by_way_and_by_limit() {
    let rules = "\
- { id: all, match: {}, effect: allow }
- { id: bulk, match: { sql: { export: [copy, select], larger_than: { rows: 100 } } }, effect: deny }";
    check(
        rules,
        &[
            ("SELECT 1", "allow"),
            ("SELECT * FROM t LIMIT 100", "allow"),
            ("SELECT count(*) FROM t", "allow"),
            ("SELECT * FROM t LIMIT 101", "deny"),
            ("SELECT * FROM t", "deny"),
            ("SELECT * FROM t WHERE id = 1", "deny"),
            ("SELECT json_agg(t) FROM t LIMIT 1", "deny"),
            ("COPY t TO STDOUT", "deny"),
            ("COPY (SELECT * FROM t LIMIT 5) TO STDOUT", "allow"),
            ("INSERT INTO t VALUES (1)", "allow"),
            ("DELETE FROM t RETURNING *", "deny"),
            // Its value is not bound yet: it is asked about again when it is.
            ("SELECT * FROM t LIMIT $1", "allow"),
        ],
    );
    // In doubt a rule does not permit.
    check(
        "- { id: big, match: { sql: { class: read, larger_than: { rows: 100 } } }, effect: allow }",
        &[("SELECT * FROM t", "deny"), ("SELECT * FROM t LIMIT 5", "deny"), ("SELECT 1", "deny")],
    );
}

#[test]
fn what_nobody_can_tell_restricts_and_does_not_permit() {
    check(
        "- { id: mine, match: { sql: { only_tables: [reporting.*] } }, effect: allow }",
        &[
            ("SELECT * FROM reporting.sales", "allow"),
            ("SELECT lower(region) FROM reporting.sales", "allow"),
            ("SELECT f(region) FROM reporting.sales", "deny"),
            ("SELECT query_to_xml(q, true, true, '') FROM reporting.sales", "deny"),
            ("SELECT * FROM reporting.sales, crm.people", "deny"),
            ("CALL p()", "deny"),
            ("DO $$ BEGIN END $$", "deny"),
        ],
    );
    check(
        "- { id: all, match: {}, effect: allow }\n- { id: closed, match: { sql: { any_table: [audit.*] } }, effect: deny }",
        &[
            ("SELECT * FROM reporting.sales", "allow"),
            ("SELECT * FROM audit.log", "deny"),
            ("SELECT * FROM reporting.sales WHERE id IN (SELECT id FROM audit.log)", "deny"),
            ("SELECT lower('A')", "allow"),
            ("SELECT f()", "deny"),
            ("DO $$ BEGIN END $$", "deny"),
            ("SELECT table_to_xml('audit.log', true, true, '')", "deny"),
        ],
    );
}

#[test]
fn what_is_wrong_with_the_new_words_is_said() {
    for (rule, expected) in [
        (
            "{ id: r, match: { sql: { export: [copi] } }, effect: deny }",
            "`copi` is not a word that is known here; did you mean `copy`?",
        ),
        (
            "{ id: r, match: { sql: { larger_then: { rows: 1 } } }, effect: deny }",
            "unknown key `larger_then`; did you mean `larger_than`?",
        ),
        (
            "{ id: r, match: { sql: { larger_than: {} } }, effect: deny }",
            "`larger_than:` names no size; write `rows:`, `bytes:` or both",
        ),
        (
            "{ id: r, match: { sql: { larger_than: { bytes: 5MO } } }, effect: deny }",
            "expected a number of bytes such as 50MB",
        ),
        (
            "{ id: r, match: {}, effect: none, limits: {} }",
            "`limits:` limits nothing; write `rows:`, `bytes:` or both",
        ),
        ("{ id: r, match: {}, effect: none, limits: { row: 5 } }", "unknown key `row`; did you mean `rows`?"),
        (
            "{ id: r, match: {}, effect: none, limits: { rows: 5, per: sesion } }",
            "`sesion` is not a word that is known here; did you mean `session`?",
        ),
        (
            "{ id: r, match: {}, effect: none, limits: [{ rows: 5 }, { bytes: 5 }] }",
            "`limits:` has two blocks per statement; make one of them",
        ),
        (
            "{ id: r, match: {}, effect: none, mask: { detectors: [ssn], in_predicate: require_approval } }",
            "a mask that requires approval needs an `approval:` block",
        ),
    ] {
        let text =
            format!("apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: {{ name: t }}\nrules:\n- {rule}\n");
        let errors = CompiledPolicy::load(vec![SourceFile { path: "t.yaml".into(), text }]).expect_err(rule);
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(all.iter().any(|error| error.contains(expected)), "{rule}: {all:#?}");
    }
}
