//! What policies mean: tables of policies and statements, and the laws that hold for all of them.

use crate::{
    CompiledPolicy, Diagnostic, Loaded, SourceFile,
    fixture::{decision, facts, inspect, operation, session, with_target, with_workload},
};
use lockgate_model::{
    Timestamp,
    operation::Operation,
    session::{DefaultEffect, Mode, Session},
    verdict::{DenialCause, Effect, MaskMethod, RecordResults, RecordStatements, Verdict},
    workload::{Assurance, CiAssurance, Unit},
};
use std::sync::Arc;

mod identity;
mod law;
mod load;
mod login;
mod permission;
mod unmask;

const HEADER: &str =
    "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: t }\ngroups: { dba: {}, oncall: {} }\n";
const APPROVAL: &str = "approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 15m }";

fn now() -> Timestamp {
    "2026-11-19T12:00:00Z".parse().unwrap()
}

fn load(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    CompiledPolicy::load(vec![SourceFile { path: "p.yaml".into(), text: text.into() }])
}

fn policy(rules: &str) -> Arc<CompiledPolicy> {
    let text = format!("{HEADER}rules:\n{rules}\n");
    match load(&text) {
        Ok(loaded) => Arc::new(loaded.policy),
        Err(errors) => panic!("{errors:#?}\n{text}"),
    }
}

fn verdict_for(policy: &Arc<CompiledPolicy>, session: &Session, operation: &Operation) -> Verdict {
    let whole = policy.evaluate(session, operation, now(), decision());
    let cut = Verdict::from(policy.for_session(session).evaluate(session, operation, now(), decision()));
    assert_eq!(whole, cut, "a session's cut of the policy says what the policy says");
    whole
}

fn verdict(rules: &str, statement: &str) -> Verdict {
    verdict_for(&policy(rules), &session(), &operation(statement))
}

fn effect(rules: &str, statement: &str) -> &'static str {
    verdict(rules, statement).effect.as_str()
}

fn denial(verdict: &Verdict) -> &lockgate_model::verdict::Denial {
    match &verdict.effect {
        Effect::Deny(denial) => denial,
        other => panic!("expected a denial, got {other:?}"),
    }
}

#[test]
fn deny_beats_approval_beats_allow_beats_none() {
    let allow = "- { id: a, match: {}, effect: allow }\n";
    let hold = format!("- {{ id: h, match: {{}}, effect: require_approval, {APPROVAL} }}\n");
    let deny = "- { id: d, match: {}, effect: deny }\n";
    let none = "- { id: n, match: {}, effect: none, record: { sync: true } }\n";
    for (rules, expected) in [
        (format!("{allow}{hold}{deny}{none}"), "deny"),
        (format!("{none}{allow}{hold}"), "require_approval"),
        (format!("{none}{allow}"), "allow"),
        (none.to_owned(), "deny"),
    ] {
        let verdict = verdict(&rules, "SELECT 1");
        assert_eq!(verdict.effect.as_str(), expected, "{rules}");
        assert_eq!(verdict.obligations.record.sync, rules.contains("id: n"));
        assert_eq!(verdict.rules.len(), rules.lines().count());
    }
}

#[test]
fn without_a_matching_rule_the_target_decides() {
    let policy = policy("- { id: a, match: { sql: { class: ddl } }, effect: allow }");
    let denied = verdict_for(&policy, &session(), &operation("SELECT 1"));
    assert_eq!(denial(&denied).cause, DenialCause::NoRuleMatched);
    assert!(denial(&denied).remedy.is_some());
    let open = with_target(&session(), |target| target.default = DefaultEffect::Allow);
    assert_eq!(verdict_for(&policy, &open, &operation("SELECT 1")).effect, Effect::Allow);
    // Not even that lets pass what nobody understood.
    let opaque = verdict_for(&policy, &open, &operation("SELEC 1"));
    assert_eq!(denial(&opaque).cause, DenialCause::Opaque);
}

#[test]
fn the_opaque_needs_a_rule_that_names_it() {
    let hold = format!("effect: require_approval, {APPROVAL}");
    for (rules, expected) in [
        ("- { id: r, match: {}, effect: allow }".to_owned(), "deny"),
        ("- { id: r, match: { sql: {} }, effect: allow }".to_owned(), "deny"),
        ("- { id: r, match: { sql: { risk: low } }, effect: allow }".to_owned(), "deny"),
        ("- { id: r, match: { sql: { opaque: true } }, effect: allow }".to_owned(), "allow"),
        ("- { id: r, match: { sql: { opaque: true, risk: critical } }, effect: allow }".to_owned(), "allow"),
        ("- { id: r, match: { sql: { opaque: true, kinds: [drop] } }, effect: allow }".to_owned(), "deny"),
        ("- { id: r, match: { sql: { opaque: true, only_tables: [] } }, effect: allow }".to_owned(), "deny"),
        (format!("- {{ id: r, match: {{}}, {hold} }}"), "require_approval"),
        (format!("- {{ id: r, match: {{ sql: {{ opaque: true }} }}, {hold} }}"), "require_approval"),
        (format!("- {{ id: r, match: {{ sql: {{ class: ddl }} }}, {hold} }}"), "deny"),
        ("- { id: r, match: {}, when: \"sql.class == 'opaque'\", effect: allow }".to_owned(), "deny"),
    ] {
        assert_eq!(effect(&rules, "SELEC 1"), expected, "{rules}");
    }
    // And a rule for the opaque is for nothing else.
    assert_eq!(effect("- { id: r, match: { sql: { opaque: true } }, effect: allow }", "SELECT 1"), "deny");
}

#[test]
fn statements_match_by_what_they_do() {
    for (sql, statement, matched) in [
        ("class: read", "SELECT 1", true),
        ("class: [write, ddl]", "DROP TABLE t", true),
        ("class: write", "SELECT 1", false),
        ("kinds: drop", "DROP TABLE t", true),
        ("kinds: [drop_table]", "DROP TABLE t", true),
        ("kinds: [drop_table]", "DROP INDEX t", false),
        ("kinds: [alter]", "DROP TABLE t", false),
        ("any_table: orders", "SELECT * FROM a JOIN orders ON true", true),
        ("any_table: 'public.*'", "SELECT * FROM public.orders", true),
        ("any_table: 'private.*'", "SELECT * FROM public.orders", false),
        ("only_tables: [orders]", "SELECT * FROM orders", true),
        ("only_tables: [orders]", "SELECT * FROM orders JOIN customers ON true", false),
        ("only_tables: [orders]", "SELECT 1", false),
        ("only_tables: ['*']", "SELECT 1", false),
        ("only_tables: []", "SELECT 1", true),
        ("only_tables: []", "SELECT * FROM orders", false),
        ("only_tables: [public.orders]", "SELECT * FROM orders", false),
        ("only_tables: ['*.orders']", "SELECT * FROM orders", true),
        ("bounded: false", "DELETE FROM orders", true),
        ("bounded: false", "DELETE FROM orders WHERE id = 1", false),
        ("bounded: true", "DELETE FROM orders WHERE id = 1", true),
        ("bounded: false", "DROP TABLE orders", false),
        ("bounded: true", "DROP TABLE orders", false),
        ("risk: high", "SELECT 1", false),
        ("risk: high", "DROP TABLE t", true),
        ("risk: high", "TRUNCATE t", true),
        ("risk: medium", "DELETE FROM t WHERE a = 1", true),
        ("fingerprint: ab12", "SELECT 1", true),
        ("fingerprint: ab", "SELECT 1", false),
        ("opaque: false", "SELECT 1", true),
    ] {
        let rule = format!("- {{ id: r, match: {{ sql: {{ {sql} }} }}, effect: allow }}");
        assert_eq!(effect(&rule, statement) == "allow", matched, "{sql}: {statement}");
    }
    // A restricting rule takes a name without its schema for any schema's.
    let deny = "- { id: r, match: { sql: { any_table: [private.orders] } }, effect: deny }\n- { id: a, match: {}, effect: allow }";
    assert_eq!(effect(deny, "SELECT * FROM orders"), "deny");
    assert_eq!(effect(deny, "SELECT * FROM Private.Orders"), "deny");
    assert_eq!(effect(deny, "SELECT * FROM public.orders"), "allow");
}

#[test]
fn a_star_restricts_and_never_permits() {
    let mut facts = facts("SELECT * FROM customers").remove(0);
    for (columns, allowed, denied) in [
        (vec!["*"], false, true),
        (vec!["customers.*"], false, true),
        (vec!["customers.ssn"], true, true),
        (vec!["ssn"], true, true),
        (vec!["id", "name"], false, false),
    ] {
        facts.columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let operation = crate::fixture::operation_of(facts.clone(), "SELECT");
        for (rule_effect, expected) in [("allow", allowed), ("deny", denied)] {
            let rule = policy(&format!(
                "- {{ id: r, match: {{ sql: {{ columns: ssn }} }}, effect: {rule_effect} }}"
            ));
            let matched = !verdict_for(&rule, &session(), &operation).rules.is_empty();
            assert_eq!(matched, expected, "{columns:?} {rule_effect}");
        }
    }
}

#[test]
fn claims_restrict_and_never_permit() {
    let claims = "provider: github_actions, repository: 'acme/*'";
    for (identity, rule_effect, claimed, proven) in [
        (claims.to_owned(), "allow", false, true),
        (format!("{claims}, assurance: claimed"), "allow", true, true),
        (format!("{claims}, assurance: platform"), "allow", false, true),
        (format!("{claims}, assurance: attested"), "allow", false, false),
        (claims.to_owned(), "deny", true, true),
        (format!("{claims}, assurance: platform"), "deny", false, true),
        // The unit of a runner says so, or who vouches for the job; never the job.
        ("kind: ci_job".to_owned(), "allow", true, true),
        ("kind: ci_job".to_owned(), "deny", true, true),
        ("uid: 1001, user: runner, exe: '/usr/bin/*', cgroup: '/lockgate/*'".to_owned(), "allow", true, true),
        ("id: 'github_actions:acme/billing'".to_owned(), "allow", false, true),
    ] {
        let rule = format!("- {{ id: r, match: {{ identity: {{ {identity} }} }}, effect: {rule_effect} }}");
        let policy = policy(&rule);
        for (session, expected) in [
            (session(), claimed),
            (
                with_workload(&session(), |workload| {
                    if let Some(ci) = &mut workload.ci {
                        ci.assurance = CiAssurance(Assurance::Platform);
                    }
                }),
                proven,
            ),
        ] {
            let verdict = verdict_for(&policy, &session, &operation("SELECT 1"));
            assert_eq!(!verdict.rules.is_empty(), expected, "{rule}: {}", session.principal.id);
        }
    }
}

#[test]
fn a_users_own_unit_is_a_claim() {
    let with_unit = |user_unit| {
        with_workload(&session(), |workload| {
            workload.unit = Some(Unit { name: "backup.service".into(), invocation_id: None, user_unit });
        })
    };
    let rule = |effect| {
        policy(&format!("- {{ id: r, match: {{ identity: {{ unit: backup.service }} }}, effect: {effect} }}"))
    };
    let matched = |policy: &Arc<CompiledPolicy>, session: &Session| {
        !verdict_for(policy, session, &operation("SELECT 1")).rules.is_empty()
    };
    assert!(matched(&rule("allow"), &with_unit(false)));
    assert!(!matched(&rule("allow"), &with_unit(true)));
    assert!(matched(&rule("deny"), &with_unit(true)));
}

#[test]
fn a_failing_expression_restricts_and_never_permits() {
    for (rule_effect, extra, expected) in
        [("deny", "", "deny"), ("require_approval", APPROVAL, "require_approval"), ("allow", "", "deny")]
    {
        let comma = if extra.is_empty() { "" } else { ", " };
        let rule = format!(
            "- {{ id: r, match: {{}}, when: \"identity.job == 'x'\", effect: {rule_effect}{comma}{extra} }}"
        );
        let verdict = verdict(&rule, "SELECT 1");
        assert_eq!(verdict.effect.as_str(), expected, "{rule_effect}");
        let error = verdict.rules[0].error.as_deref().unwrap_or_default();
        assert!(error.contains("job"), "the failure is recorded: {verdict:?}");
    }
    let mask = "- { id: m, match: {}, when: \"identity.job == 'x'\", effect: none, mask: { columns: [{ match: ssn, method: redact }] } }";
    assert!(verdict(mask, "SELECT 1").obligations.mask.is_some());
}

#[test]
fn an_allow_rule_sees_no_claims_in_when() {
    let claims = "identity.repository == 'acme/billing'";
    assert_eq!(
        effect(&format!("- {{ id: r, match: {{}}, when: \"{claims}\", effect: allow }}"), "SELECT 1"),
        "deny"
    );
    let said = format!(
        "- {{ id: r, match: {{ identity: {{ assurance: claimed }} }}, when: \"{claims}\", effect: allow }}"
    );
    assert_eq!(effect(&said, "SELECT 1"), "allow");
}

#[test]
fn approvals_of_several_rules_are_all_needed() {
    let rules = "\
- { id: a, match: {}, effect: require_approval, description: first, approval: { stages: [{ at: 0m, from: { group: dba }, need: 2 }], timeout: 20m, max_wait_in_transaction: 2m } }
- { id: b, match: {}, effect: require_approval, approval: { stages: [{ at: 0m, from: { any_of: [dba, oncall] }, need: 1 }], timeout: 10m } }";
    let verdict = verdict(rules, "DROP TABLE t");
    let Effect::Hold(spec) = &verdict.effect else { panic!("{verdict:?}") };
    let rules: Vec<_> = spec.requirements.iter().map(|requirement| requirement.rule.as_str()).collect();
    assert_eq!(rules, ["a", "b"]);
    assert_eq!(spec.timeout.as_secs(), 600);
    assert_eq!(spec.max_wait_in_transaction.map(|cap| cap.as_secs()), Some(120));
    assert_eq!(spec.requirements[0].description.as_deref(), Some("first"));
}

#[test]
fn an_identity_less_sure_than_asked_is_denied() {
    let rule = "- { id: r, match: {}, effect: require_approval, approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 10m, min_assurance: platform } }";
    let denied = verdict(rule, "DROP TABLE t");
    assert!(denial(&denied).reason.contains("platform"), "{denied:?}");
    let sure = with_workload(&session(), |workload| {
        if let Some(ci) = &mut workload.ci {
            ci.assurance = CiAssurance(Assurance::Attested);
        }
    });
    assert_eq!(
        verdict_for(&policy(rule), &sure, &operation("DROP TABLE t")).effect.as_str(),
        "require_approval"
    );
}

#[test]
fn a_denial_carries_the_rules_words() {
    let verdict = verdict(
        "- { id: z, match: {}, effect: deny, message: soft }\n- { id: y, match: {}, effect: deny, final: true, message: stop, remedy_url: 'https://x' }\n- { id: a, match: {}, effect: deny }",
        "SELECT 1",
    );
    let denial = denial(&verdict);
    assert_eq!(denial.rule.as_ref().map(|rule| rule.as_str()), Some("y"), "a final one speaks");
    assert_eq!((denial.reason.as_str(), denial.remedy.as_deref()), ("stop", Some("see https://x")));
    assert_eq!(verdict.rules.len(), 3, "all are told");
}

#[test]
fn shadow_notes_and_never_blocks() {
    let rules = "- { id: d, match: {}, effect: deny }";
    let shadow = with_target(&session(), |target| target.mode = Mode::Shadow);
    let verdict = verdict_for(&policy(rules), &shadow, &operation("SELECT 1"));
    assert_eq!(verdict.effect, Effect::Allow);
    assert_eq!(verdict.would.as_deref().map(Effect::as_str), Some("deny"));
    let nothing = verdict_for(&Arc::new(CompiledPolicy::empty()), &shadow, &operation("SELECT 1"));
    assert_eq!(nothing.effect, Effect::Allow);
    let Some(Effect::Deny(denial)) = nothing.would.as_deref() else { panic!("{nothing:?}") };
    assert_eq!(denial.cause, DenialCause::NoRuleMatched, "shadow also notes that no rule allows it");
}

#[test]
fn a_rule_in_shadow_does_not_act() {
    let allow = "- { id: a, match: {}, effect: allow }\n";
    let noted =
        verdict(&format!("{allow}- {{ id: d, match: {{}}, effect: deny, mode: shadow }}"), "SELECT 1");
    assert_eq!(noted.effect, Effect::Allow);
    assert_eq!(noted.would.as_deref().map(Effect::as_str), Some("deny"));
    assert!(noted.rules[1].shadow);
    let off = verdict(&format!("{allow}- {{ id: d, match: {{}}, effect: deny, mode: off }}"), "SELECT 1");
    assert_eq!((off.effect.as_str(), off.would, off.rules.len()), ("allow", None, 1));
    let masks = "- { id: m, match: {}, mode: shadow, effect: allow, mask: { columns: [{ match: a, method: redact }] } }";
    let masked = verdict(masks, "SELECT 1");
    assert_eq!(masked.effect.as_str(), "deny", "an allow rule in shadow does not allow");
    assert_eq!(masked.obligations.mask, None);
    assert_eq!(policy(masks).masks_for(&session()), None);
}

#[test]
fn obligations_survive_and_the_strongest_wins() {
    let rules = "\
- id: a
  match: {}
  effect: none
  mask: { columns: [{ match: ssn, method: partial }, { match: email, method: hash, key: { env: K } }], in_predicate: allow, on_unknown_lineage: pass }
  record: { statements: normalized, retain: 10d }
- id: b
  match: {}
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 15m }
  mask: { columns: [{ match: ssn, method: redact }, { match: email, method: partial }], detectors: [phone] }
  record: { results: masked, sync: true, retain: 5d }
- id: c
  match: { sql: { class: ddl } }
  effect: none
  mask: { columns: [{ match: never, method: redact }] }";
    let verdict = verdict(rules, "SELECT 1");
    let mask = verdict.obligations.mask.as_ref().expect("a mask");
    let method = |column: &str| {
        let of = |mask: &&lockgate_model::verdict::ColumnMask| mask.pattern.column == column;
        mask.columns.iter().find(of).map(|mask| mask.method.clone())
    };
    assert_eq!(method("ssn"), Some(MaskMethod::Redact));
    assert!(matches!(method("email"), Some(MaskMethod::Hash { .. })));
    assert_eq!(mask.columns.len(), 2);
    assert_eq!(mask.rules.iter().map(|rule| rule.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(serde_json::to_value(mask.in_predicate).unwrap(), "deny");
    assert_eq!(serde_json::to_value(mask.on_unknown_lineage).unwrap(), "redact");
    let record = &verdict.obligations.record;
    assert_eq!(
        (record.statements, record.results, record.sync),
        (RecordStatements::Normalized, RecordResults::Masked, true)
    );
    assert_eq!(record.retain.map(|retain| retain.as_secs()), Some(864_000));
    let all = policy(rules).masks_for(&session()).expect("masks");
    assert_eq!(all.columns.len(), 3, "for the plan, a rule with a sql part counts as applying");
    assert_eq!(policy(rules).mask_keys().len(), 1);
}

#[test]
fn of_two_masks_on_one_column_the_stronger_wins_in_any_order() {
    for (weaker, stronger) in [
        ("method: partial", "method: redact"),
        ("method: partial", "method: hash, key: { env: K }"),
        ("method: hash, key: { env: K }", "method: redact"),
        ("method: hash, key: { env: K }", "method: \"null\""),
        ("method: \"null\"", "method: redact"),
        ("method: partial, keep_last: 4", "method: partial, keep_last: 2"),
        ("method: hash, key: { env: Z }", "method: hash, key: { env: A }"),
    ] {
        let rule = |id: &str, how: &str| {
            format!(
                "- {{ id: {id}, match: {{}}, effect: none, mask: {{ columns: [{{ match: ssn, {how} }}] }} }}\n"
            )
        };
        let columns =
            |rules: String| verdict(&rules, "SELECT 1").obligations.mask.clone().map(|mask| mask.columns);
        let alone = columns(rule("a", stronger));
        assert_eq!(columns(rule("a", weaker) + &rule("b", stronger)), alone, "{weaker} and {stronger}");
        assert_eq!(columns(rule("a", stronger) + &rule("b", weaker)), alone, "{stronger} and {weaker}");
    }
}

#[test]
fn shadow_shows_the_rows_and_keeps_no_values() {
    let rules = "- { id: a, match: {}, effect: allow, mask: { columns: [{ match: ssn, method: redact }] }, record: { results: masked } }";
    let shadow = with_target(&session(), |target| target.mode = Mode::Shadow);
    let verdict = verdict_for(&policy(rules), &shadow, &operation("SELECT 1"));
    assert_eq!(verdict.obligations.mask, None);
    let record = &verdict.obligations.record;
    assert_eq!((record.statements, record.results), (RecordStatements::Normalized, RecordResults::None));
    assert_eq!(policy(rules).masks_for(&shadow), None);
}

#[test]
fn client_claims_match_where_they_restrict() {
    let rules = "- { id: d, match: { session: { database: sh*, user: app } }, effect: deny }";
    assert_eq!(verdict(rules, "SELECT 1").rules.len(), 1);
    let other = "- { id: d, match: { session: { application_name: psql } }, effect: deny }";
    assert_eq!(verdict(other, "SELECT 1").rules.len(), 0);
}

#[test]
fn times_are_read_in_the_files_zone() {
    let text = format!(
        "{HEADER}timezone: Asia/Kolkata\nrules:\n- {{ id: r, match: {{}}, when: 'time.hour == 17 && time.minute == 30', effect: allow }}\n"
    );
    let policy = Arc::new(load(&text).unwrap().policy);
    assert_eq!(verdict_for(&policy, &session(), &operation("SELECT 1")).effect.as_str(), "allow");
}

#[test]
fn explain_says_which_key_did_not_match() {
    let policy = policy(
        "- { id: r, match: { identity: { repository: acme/billing }, sql: { class: ddl } }, when: 'time.hour == 3', effect: allow }",
    );
    let explanation = policy.explain(&session(), &operation("SELECT 1"), now(), decision());
    let rule = &explanation.rules[0];
    assert!(!rule.matched);
    let told: Vec<_> = rule
        .conditions
        .iter()
        .map(|c| (c.key.as_str(), c.wanted.as_str(), c.got.as_str(), c.holds))
        .collect();
    assert_eq!(
        told,
        [
            ("match.identity.repository", "acme/billing", "acme/billing (claimed)", false),
            ("match.sql.class", "ddl", "read", false),
            ("match.sql.effects", "the same role, since sets_role is not named", "the same role", true),
            ("when", "time.hour == 3", "false", false),
        ]
    );
    assert_eq!((rule.file.as_str(), rule.line), ("p.yaml", 6));
}

#[test]
fn what_a_test_is_given_can_be_explained() {
    let policy = policy("- { id: r, match: { sql: { class: read } }, effect: allow }");
    let given = |text: &str| crate::yaml::parse::<crate::document::Given>("g.yaml", text).unwrap();
    let explained = policy.explain_given(&given("statement: SELECT 1; DROP TABLE t"), &inspect).unwrap();
    let effects: Vec<_> = explained.iter().map(|explanation| explanation.verdict.effect.as_str()).collect();
    assert_eq!(effects, ["allow", "deny"]);
    assert!(policy.explain_given(&given("{ statement: SELECT 1, protocol: mysql }"), &inspect).is_err());
    assert!(policy.explain_given(&given("{ statement: SELECT 1, time: noon }"), &inspect).is_err());
}

#[test]
fn a_file_tests_itself() {
    let text = format!(
        "{HEADER}rules:\n- {{ id: r, match: {{ sql: {{ class: read }} }}, effect: allow }}\ntests:\n\
- {{ name: good, given: {{ statement: SELECT 1 }}, expect: {{ effect: allow, rules: [r] }} }}\n\
- {{ name: bad, given: {{ statement: DROP TABLE t }}, expect: {{ effect: allow, rule: r, need: {{ dba: 1 }} }} }}\n\
- {{ name: strictest, given: {{ statement: 'SELECT 1; DROP TABLE t' }}, expect: {{ effect: deny, rules: [] }} }}\n\
- {{ name: empty, given: {{ statement: '' }}, expect: {{ effect: allow }} }}\n"
    );
    let outcomes = load(&text).unwrap().policy.run_tests(&inspect);
    let failures: Vec<_> =
        outcomes.iter().map(|outcome| (outcome.name.as_str(), outcome.failures.len())).collect();
    assert_eq!(failures, [("good", 0), ("bad", 3), ("strictest", 0), ("empty", 1)], "{outcomes:#?}");
    assert_eq!(outcomes[1].line, 9);
    assert!(outcomes[1].failures[0].contains("no rule allows drop_table"), "{outcomes:#?}");
}
