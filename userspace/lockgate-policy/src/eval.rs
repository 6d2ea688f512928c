//! From matching rules to a verdict. Cannot fail, and does not depend on the order of rules.
//!
//! `deny > require_approval > allow > none`; obligations of all matching rules are merged, the strongest wins.
//! Who matches is the rules' business; this file only weighs.

use crate::{
    document::{RuleEffect, RuleMode},
    rule::{Rule, RuleMatch},
};
use lockgate_model::{
    DecisionId, Timestamp,
    grant::Lifts,
    id::PolicyVersion,
    operation::{Facts, Operation},
    session::{DefaultEffect, Mode, Protocol, Session},
    sql::is_replication,
    verdict::{
        ApprovalSpec, ColumnMask, Denial, DenialCause, Effect, InExpression, InPredicate, MaskMethod,
        MaskSpec, Obligations, RecordResults, RecordSpec, RecordStatements, RuleHit, UnknownLineage, Verdict,
    },
};
use std::{collections::BTreeSet, sync::Arc};

/// One rule that has something to say of an operation.
struct Hit<'r> {
    rule: &'r Rule,
    error: Option<String>,
    /// False for an allow rule whose `when` failed: it is noted, and does not count.
    counts: bool,
}

/// Weighs the rules that fit the session.
pub(crate) fn evaluate<'r>(
    candidates: impl Iterator<Item = &'r Rule>,
    version: &PolicyVersion,
    session: &Session,
    operation: &Operation,
    now: Timestamp,
    decision: DecisionId,
) -> Verdict {
    evaluate_with(candidates, version, session, operation, now, decision, &BTreeSet::new())
}

/// The same while the glass is broken.
pub(crate) fn evaluate_with<'r>(
    candidates: impl Iterator<Item = &'r Rule>,
    version: &PolicyVersion,
    session: &Session,
    operation: &Operation,
    now: Timestamp,
    decision: DecisionId,
    lifted: &BTreeSet<Lifts>,
) -> Verdict {
    let hits: Vec<Hit<'r>> = candidates.filter_map(|rule| hit(rule, session, operation, now)).collect();
    let acting =
        || hits.iter().filter(|hit| hit.counts && hit.rule.mode == RuleMode::Enforce).map(|hit| hit.rule);
    let counting = || hits.iter().filter(|hit| hit.counts).map(|hit| hit.rule);
    let default = match session.target.mode {
        Mode::Enforce => session.target.default,
        // What enforce would say is what is asked here, and shadow's own default is only to let pass.
        Mode::Shadow | Mode::Observe => DefaultEffect::Deny,
    };
    let decided = weigh(acting(), default, session, operation, lifted);
    let passes_unjudged = match session.target.mode {
        Mode::Enforce => false,
        Mode::Shadow | Mode::Observe => true,
    };
    let (effect, would) = if passes_unjudged {
        (Effect::Allow, Some(Box::new(decided)))
    } else {
        // A rule in shadow says what it would have done, when that makes a difference to what passes.
        let shadowed = hits.iter().any(|hit| hit.counts && hit.rule.mode == RuleMode::Shadow);
        let would = match &decided {
            Effect::Allow if shadowed => Some(weigh(counting(), default, session, operation, lifted)),
            Effect::Allow | Effect::Deny(_) | Effect::Hold(_) => None,
        };
        (decided, would.filter(|would| *would != Effect::Allow).map(Box::new))
    };
    let mut obligations = obligations(acting(), session);
    if passes_unjudged {
        obligations.limits.clear();
    }
    if !obligations.unmasked.is_empty() {
        // Who may see raw values is told them, the record and approvers are not.
        obligations.record.statements = RecordStatements::Normalized;
        obligations.record.results = RecordResults::None;
    }
    if passes_unjudged && obligations.mask.take().is_some() {
        // Shadow changes nothing the client sees; so that the record is no leak, it keeps no values.
        obligations.record.statements = RecordStatements::Normalized;
        obligations.record.results = RecordResults::None;
    }
    let rules: Vec<_> = hits
        .into_iter()
        .map(|hit| RuleHit {
            rule: hit.rule.id.clone(),
            effect: hit.rule.effect.as_str().to_owned(),
            shadow: hit.rule.mode == RuleMode::Shadow,
            error: hit.error,
        })
        .collect();
    Verdict {
        decision,
        effect,
        rules: rules.into(),
        obligations: Arc::new(obligations),
        policy: version.clone(),
        would,
    }
}

fn hit<'r>(rule: &'r Rule, session: &Session, operation: &Operation, now: Timestamp) -> Option<Hit<'r>> {
    match rule.matches(session, operation, now) {
        RuleMatch::No => None,
        RuleMatch::Yes => Some(Hit { rule, error: None, counts: true }),
        RuleMatch::Failed(error) => {
            let counts = match rule.effect {
                RuleEffect::Deny | RuleEffect::RequireApproval | RuleEffect::None => true,
                RuleEffect::Allow => false,
            };
            Some(Hit { rule, error: Some(error), counts })
        }
    }
}

/// What the counting rules say together.
fn weigh<'r>(
    rules: impl Iterator<Item = &'r Rule> + Clone,
    default: DefaultEffect,
    session: &Session,
    operation: &Operation,
    lifted: &BTreeSet<Lifts>,
) -> Effect {
    let with = |effect: RuleEffect| rules.clone().filter(move |rule| rule.effect == effect);
    // The same rule speaks for a denial however the rules are ordered: a final one, one with a message.
    let stays = |rule: &&Rule| rule.is_final || !lifted.contains(&Lifts::Deny);
    let spokesman = with(RuleEffect::Deny)
        .filter(stays)
        .min_by_key(|rule| (!rule.is_final, rule.message.is_none(), rule.id.clone()));
    if let Some(rule) = spokesman {
        return Effect::Deny(denial(rule));
    }
    if operation.facts.sql().is_some_and(|facts| is_replication(&facts.kind))
        && !rules.clone().any(lets_replicate)
    {
        return Effect::Deny(replication(session));
    }
    let holds: Vec<&Rule> = with(RuleEffect::RequireApproval).collect();
    if !holds.is_empty() {
        return if lifted.contains(&Lifts::RequireApproval) { Effect::Allow } else { hold(&holds, session) };
    }
    if with(RuleEffect::Allow).next().is_some() {
        return Effect::Allow;
    }
    if operation.facts.is_opaque() {
        return Effect::Deny(opaque(session, operation));
    }
    match default {
        DefaultEffect::Allow => Effect::Allow,
        DefaultEffect::Deny if lifted.contains(&Lifts::Deny) => Effect::Allow,
        DefaultEffect::Deny => Effect::Deny(unmatched(session, operation)),
    }
}

fn hold(rules: &[&Rule], session: &Session) -> Effect {
    let asked = rules.iter().filter_map(|rule| rule.requirement.as_ref());
    let unsure = asked
        .clone()
        .filter_map(|hold| hold.requirement.min_assurance.map(|least| (least, &hold.requirement.rule)))
        .filter(|(least, _)| session.principal.assurance < *least)
        .max_by_key(|(least, rule)| (*least, std::cmp::Reverse((*rule).clone())));
    if let Some((least, rule)) = unsure {
        return Effect::Deny(Denial {
            rule: Some(rule.clone()),
            cause: DenialCause::Rule,
            reason: format!(
                "rule {rule} asks people only for an identity that is at least {}; this one is {}",
                least.as_str(),
                session.principal.assurance.as_str()
            ),
            remedy: Some(
                "run it where lockgate can establish who asks, or change the rule's min_assurance".into(),
            ),
        });
    }
    let requirements: Vec<_> = asked.clone().map(|hold| hold.requirement.clone()).collect();
    let timeout = asked.clone().map(|hold| hold.timeout).min();
    let Some(timeout) = timeout else {
        // A loaded require_approval rule has its block; without one, nobody could agree.
        return Effect::Deny(Denial {
            rule: rules.first().map(|rule| rule.id.clone()),
            cause: DenialCause::Rule,
            reason: "approval is required and nobody is named who could give it".to_owned(),
            remedy: None,
        });
    };
    let max_wait_in_transaction = asked.filter_map(|hold| hold.max_wait_in_transaction).min();
    Effect::Hold(ApprovalSpec { requirements, timeout, max_wait_in_transaction })
}

fn denial(rule: &Rule) -> Denial {
    let reason = rule.message.clone().or_else(|| rule.description.clone());
    Denial {
        rule: Some(rule.id.clone()),
        cause: DenialCause::Rule,
        reason: reason.unwrap_or_else(|| format!("rule {} denies this", rule.id)),
        remedy: rule.remedy_url.as_ref().map(|url| format!("see {url}")),
    }
}

/// Replication carries whole databases past everything that looks at statements: a rule that allows it names it.
fn lets_replicate(rule: &Rule) -> bool {
    match rule.effect {
        RuleEffect::Allow | RuleEffect::RequireApproval => rule.names_replication,
        RuleEffect::Deny | RuleEffect::None => false,
    }
}

fn replication(session: &Session) -> Denial {
    Denial {
        rule: None,
        cause: DenialCause::NoRuleMatched,
        reason: format!("no rule that names replication allows it on {}", session.target.name),
        remedy: Some("add a rule with `sql: { kinds: [replication] }`".to_owned()),
    }
}

fn opaque(session: &Session, operation: &Operation) -> Denial {
    let why = operation.facts.opaque_reason().unwrap_or("it could not be parsed");
    let (what, remedy) = match operation.facts.as_ref() {
        Facts::Sql(_) => ("statement", "rewrite it, or add a rule with `sql: { opaque: true }`"),
        Facts::Http(_) => ("request", "change it, or add a rule with `http: { opaque: true }`"),
    };
    Denial {
        rule: None,
        cause: DenialCause::Opaque,
        reason: format!(
            "the {what} was not understood ({why}), and no rule lets such pass on {}",
            session.target.name
        ),
        remedy: Some(remedy.to_owned()),
    }
}

fn unmatched(session: &Session, operation: &Operation) -> Denial {
    let facts = &operation.facts;
    let what = match facts.as_ref() {
        Facts::Sql(facts) => facts.kind.clone(),
        Facts::Http(facts) => format!("{} {}", facts.method, facts.route),
    };
    Denial {
        rule: None,
        cause: DenialCause::NoRuleMatched,
        reason: format!("no rule allows {what} ({}) on {}", facts.class(), session.target.name),
        remedy: Some(
            "ask for a rule that allows it; `lockgate policy explain` shows why none matched".to_owned(),
        ),
    }
}

fn obligations<'r>(rules: impl Iterator<Item = &'r Rule> + Clone, session: &Session) -> Obligations {
    let unmasking = rules.clone().filter(|rule| rule.unmasks(session));
    Obligations {
        mask: masks(rules.clone(), session),
        unmasked: unmasking.map(|rule| rule.id.clone()).collect(),
        record: merge_records(rules.clone()),
        limits: rules.flat_map(|rule| rule.limits.iter().cloned()).collect(),
    }
}

/// The masks of these rules for a session, with those whom they ask.
pub(crate) fn masks<'r>(
    rules: impl Iterator<Item = &'r Rule> + Clone,
    session: &Session,
) -> Option<MaskSpec> {
    let rules = rules.filter(|rule| !rule.unmasks(session));
    let fits = |mask: &&MaskSpec| match session.target.protocol {
        Protocol::Postgres => !mask.columns.is_empty() || !mask.detectors.is_empty(),
        Protocol::Http => !mask.json.is_empty() || !mask.detectors.is_empty(),
    };
    let mut merged = merge_masks(rules.clone().filter_map(|rule| rule.mask.as_ref()).filter(fits))?;
    let asks = |mask: &MaskSpec| {
        mask.in_predicate == InPredicate::RequireApproval
            || mask.in_expression == InExpression::RequireApproval
    };
    let asking: Vec<&Rule> = rules.filter(|rule| rule.mask.as_ref().is_some_and(asks)).collect();
    if !asking.is_empty() {
        match hold(&asking, session) {
            Effect::Hold(spec) => merged.approval = Some(spec),
            // Nobody can be asked for this identity.
            Effect::Allow | Effect::Deny(_) => {
                if merged.in_predicate == InPredicate::RequireApproval {
                    merged.in_predicate = InPredicate::Deny;
                }
                if merged.in_expression == InExpression::RequireApproval {
                    merged.in_expression = InExpression::Deny;
                }
            }
        }
    }
    Some(merged)
}

/// The strongest of all: every column and detector, the strictest answer to each question. Where several methods
/// meet on one column, whoever applies the mask takes the strongest.
fn merge_masks<'r>(masks: impl Iterator<Item = &'r MaskSpec>) -> Option<MaskSpec> {
    masks.fold(None, |merged: Option<MaskSpec>, mask| {
        let Some(mut merged) = merged else { return Some(mask.clone()) };
        for column in &mask.columns {
            add_column(&mut merged.columns, column);
        }
        for json in &mask.json {
            match merged.json.iter_mut().find(|known| known.path == json.path) {
                Some(known) if stronger(&json.method, &known.method) => known.method = json.method.clone(),
                Some(_) => {}
                None => merged.json.push(json.clone()),
            }
        }
        merged.detectors.extend(&mask.detectors);
        let strictness = |lineage: UnknownLineage| match lineage {
            UnknownLineage::Pass => 0,
            UnknownLineage::Redact => 1,
            UnknownLineage::Deny => 2,
        };
        if strictness(mask.on_unknown_lineage) > strictness(merged.on_unknown_lineage) {
            merged.on_unknown_lineage = mask.on_unknown_lineage;
        }
        merged.in_predicate = match (merged.in_predicate, mask.in_predicate) {
            (InPredicate::Deny, _) | (_, InPredicate::Deny) => InPredicate::Deny,
            (InPredicate::RequireApproval, _) | (_, InPredicate::RequireApproval) => {
                InPredicate::RequireApproval
            }
            (InPredicate::Allow, InPredicate::Allow) => InPredicate::Allow,
        };
        merged.in_expression = match (merged.in_expression, mask.in_expression) {
            (InExpression::Deny, _) | (_, InExpression::Deny) => InExpression::Deny,
            (InExpression::RequireApproval, _) | (_, InExpression::RequireApproval) => {
                InExpression::RequireApproval
            }
            (InExpression::Redact, InExpression::Redact) => InExpression::Redact,
        };
        merged.rules.extend(mask.rules.iter().cloned());
        Some(merged)
    })
}

/// One entry a pattern, with the strongest method.
fn add_column(columns: &mut Vec<ColumnMask>, column: &ColumnMask) {
    match columns.iter_mut().find(|known| known.pattern == column.pattern) {
        Some(known) if stronger(&column.method, &known.method) => known.method = column.method.clone(),
        Some(_) => {}
        None => columns.push(column.clone()),
    }
}

/// Whether `new` replaces `old`. Of equals the one that shows less, or else the same one whatever the order.
fn stronger(new: &MaskMethod, old: &MaskMethod) -> bool {
    match (new, old) {
        (MaskMethod::Partial { keep_last: new }, MaskMethod::Partial { keep_last: old }) => new < old,
        (MaskMethod::Hash { key: new }, MaskMethod::Hash { key: old }) => new < old,
        (MaskMethod::Redact, MaskMethod::Null) => true,
        (new, old) => new.strength() > old.strength(),
    }
}

fn merge_records<'r>(rules: impl Iterator<Item = &'r Rule>) -> RecordSpec {
    let default = RecordSpec::default();
    let (mut statements, mut results, mut sync, mut retain) = (None, None, false, None);
    for record in rules.filter_map(|rule| rule.record.as_ref()) {
        statements = statements.max(record.statements);
        results = results.max(record.results);
        sync |= record.sync;
        retain = retain.max(record.retain);
    }
    RecordSpec {
        statements: statements.unwrap_or(default.statements),
        results: results.unwrap_or(default.results),
        sync,
        retain,
    }
}
