//! Why a rule matched, or did not: every condition with what was wanted and what came.
//!
//! Decides nothing: it asks the same conditions the evaluation asks, and evaluates once for the verdict.

use crate::{
    CompiledPolicy,
    document::RuleMode,
    rule::{Rule, RuleMatch},
};
use lockgate_model::{
    DecisionId, Timestamp, id::RuleId, operation::Operation, session::Session, verdict::Verdict,
};
use serde::Serialize;

/// What policy says of one operation, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What it says.
    pub verdict: Verdict,
    /// Every rule, in the order of the files.
    pub rules: Vec<RuleExplanation>,
}

/// Whether one rule matches, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplanation {
    /// Its id.
    pub rule: RuleId,
    /// Its file.
    pub file: String,
    /// Its line there.
    pub line: u64,
    /// Its effect.
    pub effect: &'static str,
    /// enforce, shadow or off.
    pub mode: &'static str,
    /// Whether it matches (a failed `when` included, where it counts as matched).
    pub matched: bool,
    /// Every key it matches on.
    pub conditions: Vec<ConditionExplanation>,
}

/// One key of a rule's match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConditionExplanation {
    /// `match.sql.class`, `when`, …
    pub key: String,
    /// As the rule says.
    pub wanted: String,
    /// As it is.
    pub got: String,
    /// Whether it holds.
    pub holds: bool,
}

pub(crate) fn explain(
    policy: &CompiledPolicy,
    session: &Session,
    operation: &Operation,
    now: Timestamp,
    decision: DecisionId,
) -> Explanation {
    let verdict = policy.evaluate(session, operation, now, decision);
    let rules = policy.all_rules().iter().map(|rule| explain_rule(rule, session, operation, now)).collect();
    Explanation { verdict, rules }
}

fn explain_rule(rule: &Rule, session: &Session, operation: &Operation, now: Timestamp) -> RuleExplanation {
    let mut conditions: Vec<ConditionExplanation> = Vec::new();
    for condition in &rule.session_tests {
        conditions.push(ConditionExplanation {
            key: condition.key.clone(),
            wanted: condition.wanted.clone(),
            got: condition.test.got(session),
            holds: condition.test.holds(session, rule.trust),
        });
    }
    if operation.facts.is_opaque() && !rule.names_opaque {
        conditions.push(ConditionExplanation {
            key: "match.sql.opaque".to_owned(),
            wanted: "a statement that was understood".to_owned(),
            got: "an opaque one".to_owned(),
            holds: rule.admits_opaqueness(true),
        });
    }
    for condition in &rule.operation_tests {
        conditions.push(ConditionExplanation {
            key: condition.key.clone(),
            wanted: condition.wanted.clone(),
            got: condition.test.got(operation),
            holds: condition.test.holds(operation),
        });
    }
    if let Some(when) = &rule.when {
        let result = when.holds(&rule.asked(session, operation, now));
        conditions.push(ConditionExplanation {
            key: "when".to_owned(),
            wanted: when.text().to_owned(),
            holds: result == Ok(true),
            got: match result {
                Ok(holds) => holds.to_string(),
                Err(error) => format!("failed: {error}"),
            },
        });
    }
    let outcome = match rule.fits_session(session) {
        true => rule.matches(session, operation, now),
        false => RuleMatch::No,
    };
    let (mode, off) = match rule.mode {
        RuleMode::Enforce => ("enforce", false),
        RuleMode::Shadow => ("shadow", false),
        RuleMode::Off => ("off", true),
    };
    let matched = !off
        && match outcome {
            RuleMatch::Yes => true,
            RuleMatch::No => false,
            RuleMatch::Failed(_) => rule.effect != crate::document::RuleEffect::Allow,
        };
    RuleExplanation {
        rule: rule.id.clone(),
        file: rule.place.0.clone(),
        line: rule.place.1.line,
        effect: rule.effect.as_str(),
        mode,
        matched,
        conditions,
    }
}
