//! The `approval:` and `break_glass:` blocks.

use super::{Compiler, Report};
use crate::{
    SourceFile,
    approval::glass::{GlassBlock, ReviewTerms},
    document::{
        Approval, BreakGlass, Covers as CoversBlock, Lifted, Rule as RuleBlock, RuleEffect, StageFrom,
    },
    rule::Hold,
    yaml::{Position, Spanned},
};
use lockgate_model::{
    grant::{CoalesceTerms, Covers, Lifts, MAX_GRANT_USES, ReuseTerms, Same, Terms},
    id::{GroupName, RuleId},
    verdict::{Exclude, Requirement, Stage},
};
use std::{collections::BTreeSet, time::Duration};

/// A request that waits longer has been forgotten, and its connection with it.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);
/// More people than this never agree before any timeout.
const MAX_NEED: u32 = 50;

impl Compiler {
    pub(super) fn requirement(&mut self, file: &SourceFile, block: &Spanned<RuleBlock>) -> Option<Hold> {
        let effect = &block.effect;
        let mask_asks = block.mask.as_ref().is_some_and(|mask| mask.asks_people());
        let approval = match (effect.value, &block.approval) {
            (RuleEffect::Allow | RuleEffect::Deny | RuleEffect::None, Some(approval)) if mask_asks => {
                approval
            }
            (RuleEffect::Allow | RuleEffect::Deny | RuleEffect::None, None) if mask_asks => {
                let help = Some("say who must agree: `approval: { stages: [...], timeout: 15m }`".to_owned());
                self.report.error(
                    file,
                    effect.at,
                    "a mask that requires approval needs an `approval:` block",
                    help,
                );
                return None;
            }
            (RuleEffect::RequireApproval, Some(approval)) => approval,
            (RuleEffect::RequireApproval, None) => {
                let help = Some("say who must agree: `approval: { stages: [...], timeout: 15m }`".to_owned());
                self.report.error(file, effect.at, "require_approval needs an `approval:` block", help);
                return None;
            }
            (RuleEffect::Allow | RuleEffect::Deny | RuleEffect::None, Some(approval)) => {
                let message =
                    format!("`approval:` is for require_approval, this rule says {}", effect.as_str());
                self.report.error(file, approval.at, message, None);
                return None;
            }
            (RuleEffect::Allow | RuleEffect::Deny | RuleEffect::None, None) => return None,
        };
        let terms = self.terms(file, approval);
        let stages = self.stages(file, approval);
        let deny_votes = approval.deny_votes.unwrap_or(Spanned { value: 1, at: approval.at });
        if deny_votes.value == 0 {
            let message = "`deny_votes: 0` would deny everything; at least 1";
            self.report.error(file, deny_votes.at, message, None);
        }
        bounded(&mut self.report, file, approval.timeout.at, approval.timeout.value, "timeout");
        if let Some(cap) = approval.max_wait_in_transaction {
            bounded(&mut self.report, file, cap.at, cap.value, "max_wait_in_transaction");
        }
        // Whoever triggered the run asked for it; only the commit's author is a matter of taste.
        let mut exclude: BTreeSet<Exclude> = match &approval.exclude {
            Some(named) => named.0.iter().map(|excluded| excluded.0).collect(),
            None => [Exclude::TriggeringActor].into(),
        };
        exclude.insert(Exclude::Requester);
        let requirement = Requirement {
            rule: RuleId::from(block.id.value.as_str()),
            description: block.description.clone().or_else(|| block.message.clone()),
            stages,
            deny_votes: deny_votes.value,
            exclude,
            min_assurance: approval.min_assurance.map(|least| least.0),
            require_reason: approval.require_reason,
            terms,
        };
        let max_wait_in_transaction = approval.max_wait_in_transaction.map(|cap| cap.value);
        Some(Hold { requirement, timeout: approval.timeout.value, max_wait_in_transaction })
    }

    /// What else an approval is good for.
    fn terms(&mut self, file: &SourceFile, approval: &Spanned<Approval>) -> Terms {
        let covers = approval.covers.map_or(Covers::Statement, |covers| match covers.value {
            CoversBlock::Statement => Covers::Statement,
            CoversBlock::Session => Covers::Session,
            CoversBlock::Run => Covers::Run,
        });
        let reuse = approval.reuse.as_ref().map(|reuse| {
            let same = self.same(file, reuse.at, &reuse.value.same);
            if !same.contains(&Same::Digest) {
                let help = Some("name `digest` among `same`; for other operations of the same shape approvers give grants".to_owned());
                let message = "`reuse` is for the same operation again";
                self.report.error(file, reuse.at, message, help);
            }
            bounded(&mut self.report, file, reuse.value.duration.at, reuse.value.duration.value, "for");
            let uses = reuse.value.uses.unwrap_or(1);
            if uses == 0 || uses > MAX_GRANT_USES {
                let message = format!("`uses` is between 1 and {MAX_GRANT_USES}, got {uses}");
                self.report.error(file, reuse.at, message, None);
            }
            ReuseTerms { same, duration: reuse.value.duration.value, uses }
        });
        let coalesce = approval.coalesce.as_ref().map(|coalesce| {
            let by = self.same(file, coalesce.at, &coalesce.value.by);
            if by.contains(&Same::Digest) {
                self.report.error(file, coalesce.at, "`coalesce` by `digest` would bundle nothing", None);
            }
            let window = coalesce.value.window;
            bounded(&mut self.report, file, window.at, window.value, "window");
            if window.value >= approval.timeout.value {
                self.report.error(file, window.at, "the window ends when the request has expired", None);
            }
            CoalesceTerms { by, window: window.value }
        });
        let max_grant = approval.max_grant.map(|most| {
            if most.value > MAX_TIMEOUT {
                let longest = lockgate_model::time::format_duration(MAX_TIMEOUT);
                self.report.error(file, most.at, format!("`max_grant` is at most {longest}"), None);
            }
            most.value
        });
        Terms { covers, reuse, coalesce, max_grant }
    }

    /// Names of what must be the same.
    fn same(&mut self, file: &SourceFile, at: Position, names: &[String]) -> BTreeSet<Same> {
        let mut same = BTreeSet::new();
        for name in names {
            match Same::ALL.iter().find(|(_, known)| known == name) {
                Some((part, _)) => drop(same.insert(*part)),
                None => {
                    let known: Vec<&str> = Same::ALL.iter().map(|(_, known)| *known).collect();
                    let help = Some(format!("one of {}", known.join(", ")));
                    self.report.error(
                        file,
                        at,
                        format!("`{name}` is nothing that requests have in common"),
                        help,
                    );
                }
            }
        }
        same
    }

    fn stages(&mut self, file: &SourceFile, approval: &Spanned<Approval>) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::with_capacity(approval.stages.len());
        let first = approval.stages.first().map(|stage| stage.value.at.value);
        if first != Some(Duration::ZERO) {
            let help = Some("begin with `{ at: 0m, from: { group: … }, need: 1 }`".to_owned());
            self.report.error(file, approval.at, "the first stage must be at 0m", help);
        }
        for stage in &approval.stages {
            let at = stage.value.at;
            if stages.last().is_some_and(|earlier| earlier.at >= at.value) {
                self.report.error(file, at.at, "stages stand in order of `at`", None);
            }
            if at.value >= approval.timeout.value && at.value > Duration::ZERO {
                self.report.error(file, at.at, "this stage begins when the request has expired", None);
            }
            if stage.need.value == 0 || stage.need.value > MAX_NEED {
                let message = format!("`need` is between 1 and {MAX_NEED}, got {}", stage.need.value);
                self.report.error(file, stage.need.at, message, None);
            }
            let any_of = self.voters(file, stage.at, &stage.value.from);
            stages.push(Stage { at: at.value, any_of, need: stage.need.value });
        }
        stages
    }

    /// The groups of a `{ group: … }` or `{ any_of: […] }`.
    pub(super) fn voters(&mut self, file: &SourceFile, at: Position, from: &StageFrom) -> Vec<GroupName> {
        let names: &[Spanned<String>] = match from {
            StageFrom::Group(name) => std::slice::from_ref(name),
            StageFrom::AnyOf(names) => names,
        };
        if names.is_empty() {
            self.report.error(file, at, "`any_of: []` is nobody; name a group", None);
        }
        names.iter().map(|name| self.groups.resolve(&mut self.report, file, name)).collect()
    }

    /// Groups that may be unknown: one nobody defined has no members, which is no laxer.
    pub(super) fn lenient_voters(&mut self, file: &SourceFile, at: Position, from: &StageFrom) {
        let names: &[Spanned<String>] = match from {
            StageFrom::Group(name) => std::slice::from_ref(name),
            StageFrom::AnyOf(names) => names,
        };
        for name in names {
            match self.groups.defined.get_mut(&GroupName::from(name.value.as_str())) {
                Some(entry) => entry.used = true,
                None => {
                    let at = if name.at.line == 0 { at } else { name.at };
                    self.report.warn(
                        file,
                        at,
                        format!("group `{}` is not defined and has no members", name.value),
                    );
                }
            }
        }
    }

    pub(super) fn break_glass(&mut self, file: &SourceFile, block: &Spanned<BreakGlass>) -> GlassBlock {
        if let Some((path, line)) =
            self.ids.insert(block.id.value.clone(), (file.path.clone(), block.id.at.line))
        {
            let message =
                format!("`{}` is defined a second time, the first is at {path}:{line}", block.id.value);
            self.report.error(file, block.id.at, message, None);
        }
        self.lenient_voters(file, block.at, &block.who);
        for group in &block.notify {
            self.groups.resolve(&mut self.report, file, group);
        }
        if let Some(review) = &block.review {
            self.groups.resolve(&mut self.report, file, &review.by);
            bounded(&mut self.report, file, review.within.at, review.within.value, "within");
        }
        if block.lifts.is_empty() {
            self.report.error(file, block.at, "`lifts: []` lifts nothing", None);
        }
        bounded(&mut self.report, file, block.max.at, block.max.value, "max");
        if let Some(ticket) = block.requires.as_ref().and_then(|requires| requires.ticket.as_ref())
            && let Err(error) = regex::Regex::new(&ticket.value)
        {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            self.report.error(file, ticket.at, format!("not a regular expression: {last}"), None);
        }
        let review = block.review.as_ref().map(|review| ReviewTerms {
            by: GroupName::from(review.by.value.as_str()),
            within: review.within.value,
            blocks_next_use: review.blocks_next_use,
        });
        let requires = block.requires.as_ref();
        // Anchored: a ticket that merely contains one is none.
        let whole = |ticket: &Spanned<String>| regex::Regex::new(&format!("^(?:{})$", ticket.value)).ok();
        GlassBlock {
            id: RuleId::from(block.id.value.as_str()),
            who: names(&block.who),
            lifts: block
                .lifts
                .iter()
                .map(|lifted| match lifted {
                    Lifted::RequireApproval => Lifts::RequireApproval,
                    Lifted::Deny => Lifts::Deny,
                })
                .collect(),
            reason: requires.is_some_and(|requires| requires.reason),
            ticket: requires.and_then(|requires| requires.ticket.as_ref()).and_then(whole),
            max: block.max.value,
            notify: block.notify.iter().map(|group| GroupName::from(group.value.as_str())).collect(),
            review,
        }
    }
}

fn names(from: &StageFrom) -> Vec<GroupName> {
    match from {
        StageFrom::Group(name) => vec![GroupName::from(name.value.as_str())],
        StageFrom::AnyOf(names) => names.iter().map(|name| GroupName::from(name.value.as_str())).collect(),
    }
}

fn bounded(report: &mut Report, file: &SourceFile, at: Position, value: Duration, what: &str) {
    if value.is_zero() || value > MAX_TIMEOUT {
        let longest = lockgate_model::time::format_duration(MAX_TIMEOUT);
        report.error(file, at, format!("`{what}` must be longer than 0 and at most {longest}"), None);
    }
}
