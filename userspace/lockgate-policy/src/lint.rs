//! What is not wrong, and probably not meant. Compares rules only by what can be told from their text.

use crate::{
    Diagnostic,
    compile::Compiled,
    document::{RuleEffect, RuleMode},
    matcher::OperationTest,
    rule::Rule,
    yaml::Position,
};
use lockgate_model::id::GroupName;
use serde_json::Value;
use std::collections::BTreeSet;

/// Comparing each rule with each final deny is quadratic; past this many pairs nobody waits for it.
const MAX_PAIRS: usize = 1_000_000;

pub(crate) fn lint(compiled: &Compiled) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    shadowed_by_final(&compiled.rules, &mut out);
    for rule in &compiled.rules {
        never_matches(rule, &mut out);
        mask_that_opaque_evades(rule, &mut out);
    }
    for (name, entry) in compiled.groups.iter().filter(|(_, entry)| !entry.used) {
        out.push(entry.at.diagnostic(&entry.file, format!("group `{name}` is used by no rule"), None));
    }
    for file in compiled.files.iter().filter(|file| file.has_rules && !file.has_tests) {
        let message = "this file has rules and no tests";
        let help = Some("add `tests:`, and run `lockgate policy test`".to_owned());
        out.push(Position::default().diagnostic(&file.path, message, help));
    }
    out
}

/// Groups a rule needs and nobody votes for.
pub(crate) fn unreachable_groups(rules: &[Rule], spoken_for: &BTreeSet<GroupName>) -> Vec<Diagnostic> {
    let mut out = Vec::new();
    for rule in rules.iter().filter(|rule| rule.mode != RuleMode::Off) {
        let Some(hold) = &rule.requirement else { continue };
        let reachable =
            hold.requirement.stages.iter().any(|stage| stage.any_of.iter().any(|g| spoken_for.contains(g)));
        if !reachable {
            let names: BTreeSet<&str> = hold
                .requirement
                .stages
                .iter()
                .flat_map(|stage| &stage.any_of)
                .map(GroupName::as_str)
                .collect();
            let names = names.into_iter().collect::<Vec<_>>().join(", ");
            let message = format!(
                "rule `{}` waits for {names}, and no integration (`speaks_for`) or local approver \
                 (`api.local_approvers`) votes for them: every request will expire",
                rule.id
            );
            out.push(rule.place.1.diagnostic(&rule.place.0, message, None));
        }
    }
    out
}

/// A rule all of whose matches a final deny takes away.
fn shadowed_by_final(rules: &[Rule], out: &mut Vec<Diagnostic>) {
    let finals: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.is_final && rule.mode == RuleMode::Enforce && rule.when.is_none())
        .collect();
    if finals.len().saturating_mul(rules.len()) > MAX_PAIRS {
        return;
    }
    for rule in rules {
        match rule.effect {
            RuleEffect::Allow | RuleEffect::RequireApproval => {}
            RuleEffect::Deny | RuleEffect::None => continue,
        }
        if let Some(by) = finals.iter().find(|deny| covers(&deny.written, &rule.written)) {
            let message = format!(
                "rule `{}` never has a say: the final deny `{}` covers all it matches",
                rule.id, by.id
            );
            out.push(rule.place.1.diagnostic(&rule.place.0, message, None));
        }
    }
}

/// True when every condition of `wide` stands in `narrow` too, at least as narrow: the same key with a subset of
/// the same words. Says false when in doubt.
fn covers(wide: &Value, narrow: &Value) -> bool {
    match (wide, narrow) {
        (Value::Object(wide), Value::Object(narrow)) => {
            wide.iter().all(|(key, wide)| narrow.get(key).is_some_and(|narrow| covers(wide, narrow)))
        }
        (Value::Array(wide), Value::Array(narrow)) => {
            !narrow.is_empty()
                && narrow.iter().all(|word| wide.contains(word) || wide.contains(&Value::from("*")))
        }
        (wide, narrow) => wide == narrow,
    }
}

fn never_matches(rule: &Rule, out: &mut Vec<Diagnostic>) {
    let needs = rule.operation_tests.iter().find(|condition| {
        matches!(
            condition.test,
            OperationTest::Class(_)
                | OperationTest::Kinds(_)
                | OperationTest::AnyTable(..)
                | OperationTest::OnlyTables(..)
                | OperationTest::Columns(..)
                | OperationTest::Functions(_)
                | OperationTest::Effects(_)
                | OperationTest::Bounded(_)
                | OperationTest::Export(..)
                | OperationTest::LargerThan(..)
        ) || matches!(&condition.test, OperationTest::Http(test) if test.needs_understanding())
    });
    if let Some(condition) = needs.filter(|_| rule.names_opaque) {
        let message = format!(
            "rule `{}` never matches: an opaque statement has no `{}`; make two rules of it",
            rule.id, condition.key
        );
        out.push(rule.place.1.diagnostic(&rule.place.0, message, None));
    }
}

/// An opaque statement that is let pass may read a masked column; a mask bound to understood statements is no use.
fn mask_that_opaque_evades(rule: &Rule, out: &mut Vec<Diagnostic>) {
    if rule.mask.is_some() && rule.has_sql && !rule.names_opaque {
        let message = format!(
            "rule `{}` masks only statements that are understood; without its `sql:` block it masks all",
            rule.id
        );
        out.push(rule.place.1.diagnostic(&rule.place.0, message, None));
    }
}
