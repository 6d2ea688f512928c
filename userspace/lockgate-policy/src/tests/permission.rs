//! What a policy says of permissions that outlive a decision: the keys of `approval:`, and what breaking the glass lifts.

use super::{HEADER, decision, load, now, policy};
use crate::fixture::{operation, session};
use lockgate_model::{
    GlassId,
    grant::{Covers, Lift, Same},
    verdict::Effect,
};
use std::time::Duration;

fn approval(keys: &str) -> String {
    format!(
        "- {{ id: r, match: {{}}, effect: require_approval, approval: {{ stages: [{{ at: 0m, from: {{ group: dba }}, need: 1 }}], timeout: 15m, {keys} }} }}"
    )
}

#[test]
fn the_keys_reach_whoever_asks_people() {
    let policy = policy(&approval(
        "covers: run, reuse: { same: [digest, identity.run_id], for: 15m, uses: 2 }, coalesce: { by: [rule], window: 20s }, max_grant: 30m",
    ));
    let verdict = policy.evaluate(&session(), &operation("DROP TABLE t"), now(), decision());
    let Effect::Hold(spec) = verdict.effect else { panic!("{verdict:?}") };
    let terms = &spec.requirements[0].terms;
    assert_eq!((terms.covers, terms.max_grant), (Covers::Run, Some(Duration::from_secs(1_800))));
    let reuse = terms.reuse.as_ref().unwrap();
    assert_eq!((reuse.same.len(), reuse.duration, reuse.uses), (2, Duration::from_secs(900), 2));
    assert!(terms.coalesce.as_ref().is_some_and(|coalesce| coalesce.by.contains(&Same::Rule)));
}

#[test]
fn keys_that_cannot_be_meant_are_errors() {
    for (keys, words) in [
        ("reuse: { same: [target], for: 15m }", "`reuse` is for the same operation again"),
        (
            "reuse: { same: [digest, identity.run], for: 15m }",
            "`identity.run` is nothing that requests have in common",
        ),
        ("reuse: { same: [digest], for: 15m, uses: 0 }", "`uses` is between 1"),
        ("reuse: { same: [digest], for: 0s }", "`for` must be longer than 0"),
        ("coalesce: { by: [digest], window: 20s }", "would bundle nothing"),
        ("coalesce: { by: [rule], window: 15m }", "the window ends when the request has expired"),
        ("max_grant: 8d", "`max_grant` is at most 7d"),
    ] {
        let errors = load(&format!("{HEADER}rules:\n{}\n", approval(keys))).unwrap_err();
        assert!(errors.iter().any(|error| error.to_string().contains(words)), "{keys}: {errors:#?}");
    }
}

#[test]
fn breaking_the_glass_lifts_what_its_block_says_and_never_a_final_deny() {
    let rules = |lifts: &str| {
        format!(
            "- {{ id: held, match: {{ sql: {{ kinds: [drop] }} }}, effect: require_approval, approval: {{ stages: [{{ at: 0m, from: {{ group: dba }}, need: 1 }}], timeout: 15m }} }}\n\
- {{ id: plain, match: {{ sql: {{ kinds: [truncate] }} }}, effect: deny }}\n\
- {{ id: never, match: {{ sql: {{ kinds: [delete] }} }}, effect: deny, final: true }}\n\
break_glass:\n- {{ id: bg, who: {{ group: oncall }}, lifts: [{lifts}], max: 60m }}"
        )
    };
    let glass = |rule: &str| vec![Lift { glass: GlassId::from_parts(1, 1), rule: rule.into() }];
    for (lifts, used, statement, expected) in [
        ("require_approval", glass("bg"), "DROP TABLE t", "allow"),
        ("require_approval", glass("bg"), "TRUNCATE t", "deny"),
        ("require_approval", glass("bg"), "DELETE FROM t", "deny"),
        ("require_approval", glass("bg"), "SELECT 1", "deny"),
        ("deny", glass("bg"), "DROP TABLE t", "require_approval"),
        ("deny", glass("bg"), "TRUNCATE t", "allow"),
        ("deny", glass("bg"), "SELECT 1", "allow"),
        ("deny, require_approval", glass("bg"), "DELETE FROM t", "deny"),
        // A block that the policy in force does not have lifts nothing.
        ("deny, require_approval", glass("gone"), "DROP TABLE t", "require_approval"),
        ("deny, require_approval", Vec::new(), "TRUNCATE t", "deny"),
    ] {
        let policy = policy(&rules(lifts));
        let judged = policy.for_session(&session()).evaluate_lifted(
            &session(),
            &operation(statement),
            now(),
            decision(),
            &used,
        );
        assert_eq!(judged.effect.as_str(), expected, "{lifts}: {statement}");
        assert!(judged.is_lifted(), "nobody may remember it");
        let named = judged.rules.iter().any(|hit| hit.rule.as_str() == "bg" && hit.effect == "break_glass");
        assert_eq!(named, used.iter().any(|lift| lift.rule.as_str() == "bg"), "{statement}");
    }
}
