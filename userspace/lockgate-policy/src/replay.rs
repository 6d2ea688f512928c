//! One recorded operation under two policies: what would be decided now, and what after a change.
//!
//! Only what policy decides is compared: effect, who is asked, masks, limits, what is kept. What else bears on an operation
//! (an approval that was given, a masked column in a predicate, which only the target's catalogue tells) is not replayed;
//! [`Doubt`] says where the record holds less than a rule would look at. Reading logs and printing is the caller's.

use crate::CompiledPolicy;
use lockgate_model::{
    DecisionId, Timestamp,
    event::RecordedOperation,
    id::RuleId,
    operation::Operation,
    session::{Mode, Session},
    verdict::{Effect, Verdict},
};
use serde::Serialize;
use std::sync::Arc;

/// A policy for one recorded session.
#[derive(Debug)]
pub struct Replay {
    policy: crate::SessionPolicy,
    wants_catalogue: bool,
    login: Result<Option<String>, String>,
}

/// What a policy says of an operation, in words that can be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// allow, deny, require_approval: in shadow what enforce would do.
    pub effect: &'static str,
    /// Why, for a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rules that contributed, in file order.
    pub rules: Vec<RuleId>,
}

/// How two policies differ on an operation; the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// Another effect.
    Effect,
    /// Other people are asked, or for another time.
    Approval,
    /// Other columns or values are masked, or in another way.
    Masks,
    /// Results are cut elsewhere.
    Limits,
    /// Rules in shadow would do something else.
    Shadow,
    /// More or less is kept of statement or result.
    Record,
    /// The session logs in as another role.
    Login,
}

impl Difference {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Effect => "effect",
            Self::Approval => "approval",
            Self::Masks => "masks",
            Self::Limits => "limits",
            Self::Shadow => "shadow",
            Self::Record => "record",
            Self::Login => "login",
        }
    }
}

/// What a record is too short to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// Bound values, or the rest of a long statement, were not kept, and a rule looks at more than facts.
    Values,
    /// Rules ask what is behind names, or how large tables are, and it was decided without the target's catalogue.
    Catalogue,
}

impl Doubt {
    /// As printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Values => "values",
            Self::Catalogue => "catalogue",
        }
    }
}

impl Replay {
    /// The rules of a policy that could match a recorded session.
    pub fn new(policy: &Arc<CompiledPolicy>, session: &Session) -> Self {
        Self {
            policy: policy.for_session(session),
            wants_catalogue: policy.wants_catalogue(session),
            login: policy
                .login_as(session)
                .map(|role| role.map(str::to_owned))
                .map_err(|conflict| conflict.to_string()),
        }
    }

    /// What it says of one operation of that session.
    pub fn decide(&self, session: &Session, operation: &Operation, at: Timestamp) -> Verdict {
        self.policy.evaluate(session, operation, at, DecisionId::from_parts(0, 0)).into()
    }
}

/// The operation that a record tells of. Policy looks at facts, context and values; what a mask kept out of the record it
/// never looks at.
pub fn reconstructed(session: &Session, recorded: &RecordedOperation) -> Operation {
    Operation {
        id: recorded.id,
        session: session.id,
        facts: recorded.facts.clone(),
        text: recorded.text.clone(),
        normalized: recorded.text.clone(),
        parameters: recorded.parameters.clone(),
        digest: recorded.digest,
        context: recorded.context.clone(),
        touches_masked: recorded.normalized,
    }
}

/// What two policies say of one recorded operation.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The one.
    pub before: Decision,
    /// The other.
    pub after: Decision,
    /// How they differ; empty when they do not.
    pub differences: Vec<Difference>,
    /// Why the comparison may be wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
}

/// Decides a recorded operation twice. `with_catalogue` says that it was judged with the target's catalogue at hand.
pub fn compare(
    before: &Replay,
    after: &Replay,
    session: &Session,
    recorded: &RecordedOperation,
    at: Timestamp,
    with_catalogue: bool,
) -> Compared {
    let operation = reconstructed(session, recorded);
    let old = before.decide(session, &operation, at);
    let new = after.decide(session, &operation, at);
    let mut differences = differences(session, &old, &new);
    if before.login != after.login {
        differences.push(Difference::Login);
    }
    Compared {
        before: decision(session, &old),
        after: decision(session, &new),
        differences,
        doubt: doubt([before, after], recorded, with_catalogue),
    }
}

fn doubt(policies: [&Replay; 2], recorded: &RecordedOperation, with_catalogue: bool) -> Option<Doubt> {
    let given = u32::try_from(recorded.parameters.len()).unwrap_or(u32::MAX);
    let whole = !recorded.normalized && recorded.text_bytes.is_none() && given == recorded.parameter_count;
    if !whole && policies.iter().any(|replay| !replay.policy.judges_facts_alone()) {
        return Some(Doubt::Values);
    }
    let wanted = policies.iter().any(|replay| replay.wants_catalogue);
    (wanted && !with_catalogue && !recorded.facts.is_opaque()).then_some(Doubt::Catalogue)
}

/// What would be done in enforce, whatever the target's mode was.
fn effect<'v>(session: &Session, verdict: &'v Verdict) -> &'v Effect {
    match (session.target.mode, &verdict.would) {
        (Mode::Shadow | Mode::Observe, Some(would)) => would,
        (Mode::Shadow | Mode::Observe, None) | (Mode::Enforce, _) => &verdict.effect,
    }
}

fn decision(session: &Session, verdict: &Verdict) -> Decision {
    let effect = effect(session, verdict);
    Decision {
        effect: effect.as_str(),
        reason: match effect {
            Effect::Deny(denial) => Some(denial.reason.clone()),
            Effect::Allow | Effect::Hold(_) => None,
        },
        rules: verdict.rules.iter().map(|hit| hit.rule.clone()).collect(),
    }
}

fn differences(session: &Session, old: &Verdict, new: &Verdict) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut tell = |differs: bool, difference| differs.then(|| differences.push(difference));
    match (effect(session, old), effect(session, new)) {
        (Effect::Allow, Effect::Allow) | (Effect::Deny(_), Effect::Deny(_)) => {}
        (Effect::Hold(old), Effect::Hold(new)) => {
            tell(old != new, Difference::Approval);
        }
        (Effect::Allow | Effect::Deny(_) | Effect::Hold(_), _) => {
            tell(true, Difference::Effect);
        }
    }
    let (was, is) = (&old.obligations, &new.obligations);
    tell(was.mask != is.mask, Difference::Masks);
    tell(was.limits != is.limits, Difference::Limits);
    if session.target.mode == Mode::Enforce {
        let would = |verdict: &Verdict| verdict.would.as_ref().map(|would| would.as_str());
        tell(would(old) != would(new), Difference::Shadow);
    }
    tell(was.record != is.record, Difference::Record);
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceFile, fixture};
    use lockgate_model::verdict::RecordStatements;

    fn policy(rules: &str) -> Arc<CompiledPolicy> {
        let text = format!(
            "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: {{ name: t }}\ngroups: {{ dba: {{}} }}\nrules:\n{rules}"
        );
        Arc::new(CompiledPolicy::load(vec![SourceFile { path: "t.yaml".to_owned(), text }]).unwrap().policy)
    }

    const ALLOW: &str = "- { id: all, match: {}, effect: allow }\n";
    const NO_DDL: &str = "- { id: no-ddl, match: { sql: { class: ddl } }, effect: deny }\n";
    const ASK: &str = "- { id: ask, match: { sql: { class: ddl } }, effect: require_approval, approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 5m } }\n";
    const MASK: &str =
        "- { id: m, match: {}, effect: none, mask: { columns: [{ match: \"*.*.ssn\", method: redact }] } }\n";
    const VALUE: &str = "- { id: v, match: { sql: { larger_than: { rows: 5 } } }, effect: deny }\n";

    fn compared(old: &str, new: &str, statement: &str, mode: Mode) -> Compared {
        let session = fixture::with_target(&fixture::session(), |target| target.mode = mode);
        let recorded = RecordedOperation::of(&fixture::operation(statement), RecordStatements::Full);
        let replay = |rules: &str| Replay::new(&policy(rules), &session);
        compare(&replay(old), &replay(new), &session, &recorded, Timestamp::UNIX_EPOCH, true)
    }

    #[test]
    fn what_a_change_would_have_decided() {
        use Difference::{Approval, Effect, Masks};
        let both = format!("{ALLOW}{NO_DDL}");
        let asks = format!("{ALLOW}{ASK}");
        let asks_two = asks.replace("timeout: 5m", "timeout: 6m");
        let masks = format!("{ALLOW}{MASK}");
        for (old, new, statement, expected) in [
            (ALLOW, ALLOW, "DROP TABLE t", &[][..]),
            (ALLOW, &both, "DROP TABLE t", &[Effect]),
            (ALLOW, &both, "SELECT 1 FROM t", &[]),
            (&both, ALLOW, "DROP TABLE t", &[Effect]),
            (&both, &asks, "DROP TABLE t", &[Effect]),
            (&asks, &asks_two, "DROP TABLE t", &[Approval]),
            (ALLOW, &masks, "SELECT 1 FROM t", &[Masks]),
            // Denied by another rule is denied all the same.
            (&both, NO_DDL, "DROP TABLE t", &[]),
        ] {
            for mode in [Mode::Enforce, Mode::Shadow] {
                // In shadow masks are never in the verdict, only what they leave out of the record.
                let expected: Vec<Difference> = match (mode, expected) {
                    (Mode::Shadow, [Masks]) => vec![Difference::Record],
                    (_, expected) => expected.to_vec(),
                };
                assert_eq!(
                    compared(old, new, statement, mode).differences,
                    expected,
                    "{statement} {mode:?}\n{old}→\n{new}"
                );
            }
        }
    }

    #[test]
    fn what_the_record_does_not_hold_is_a_doubt() {
        let session = fixture::session();
        let operation = fixture::operation("SELECT 1 FROM t WHERE x");
        let whole = RecordedOperation::of(&operation, RecordStatements::Full);
        let cut = RecordedOperation::of(&operation, RecordStatements::Normalized);
        for (rules, recorded, with_catalogue, expected) in [
            (ALLOW, &whole, false, None),
            (ALLOW, &cut, false, None),
            (NO_DDL, &whole, true, None),
            (NO_DDL, &whole, false, Some(Doubt::Catalogue)),
            (VALUE, &whole, true, None),
            (VALUE, &cut, true, Some(Doubt::Values)),
        ] {
            let replay = Replay::new(&policy(rules), &session);
            let compared =
                compare(&replay, &replay, &session, recorded, Timestamp::UNIX_EPOCH, with_catalogue);
            assert_eq!(compared.doubt, expected, "{rules} {with_catalogue}");
            assert!(compared.differences.is_empty());
        }
    }
}
