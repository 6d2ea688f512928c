//! The emergency override: who may break the glass, for how long, what it lifts, and the look that somebody takes at it
//! afterwards.
//!
//! A pure machine over virtual time: [`Glass::ask`], [`Glass::end`], [`Glass::review`], [`Glass::handle_timeout`]. Whether
//! somebody is a person who has just logged in is told to it ([`Ask::login`]); what is lifted is evaluated by
//! [`crate::SessionPolicy::evaluate_lifted`], against the policy in force, so that a block that is gone lifts nothing.

use super::{after, fold, person, speaks_for_any};
use lockgate_model::{
    GlassId, Timestamp,
    grant::{GlassUse, Lift, Lifts, ReviewDebt, Reviewed},
    id::{GroupName, RuleId, TargetName},
    principal::Approver,
    session::Session,
};
use regex::Regex;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Uses that are remembered: those in force and those that wait for a look. More than anybody has people for.
pub const GLASS_MAX: usize = 256;

/// A `break_glass:` block of the policy.
#[derive(Clone, Debug)]
pub struct GlassBlock {
    /// Its id.
    pub id: RuleId,
    /// Members of any of these groups may use it.
    pub who: Vec<GroupName>,
    /// What it lifts.
    pub lifts: BTreeSet<Lifts>,
    /// Whether a reason must be given.
    pub reason: bool,
    /// What the ticket must look like, whole; None when none is asked for.
    pub ticket: Option<Regex>,
    /// For how long at most.
    pub max: Duration,
    /// Groups that are told.
    pub notify: Vec<GroupName>,
    /// Who must look at it, and by when.
    pub review: Option<ReviewTerms>,
}

/// Who looks at a use afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewTerms {
    /// A member of this group.
    pub by: GroupName,
    /// This long after it began.
    pub within: Duration,
    /// Whether it cannot be used again before.
    pub blocks_next_use: bool,
}

/// What somebody asks for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Who.
    pub by: Approver,
    /// How it is known that a person has just logged in; None when it is not.
    pub login: Option<String>,
    /// Whose sessions: of this uid ...
    pub uid: Option<u32>,
    /// ... or this principal.
    pub principal: Option<String>,
    /// On this target alone.
    pub target: Option<TargetName>,
    /// Why.
    pub reason: Option<String>,
    /// The incident.
    pub ticket: Option<String>,
    /// For how long; None is as long as the block allows.
    pub duration: Option<Duration>,
}

/// Why the glass was not broken, or a use not reviewed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct GlassRefusal {
    /// Machine-readable; stable.
    pub code: &'static str,
    /// For people: expected, got, what to do.
    pub detail: String,
}

/// What time did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GlassStep {
    /// A use is over.
    Ended(GlassUse),
    /// Nobody looked at a use in time.
    Overdue(GlassUse),
}

/// Every use that is in force or waits for a look.
#[derive(Clone, Debug, Default)]
pub struct Glass {
    uses: BTreeMap<GlassId, Tracked>,
}

#[derive(Clone, Debug)]
struct Tracked {
    glass: GlassUse,
    /// Its end was told.
    ended: bool,
    /// That nobody looked in time was told.
    overdue: bool,
}

impl Glass {
    /// Puts a use back after a restart.
    pub fn restore(&mut self, now: Timestamp, glass: GlassUse) {
        let ended = glass.ended_at.is_some();
        let overdue = glass.review.as_ref().is_some_and(|review| review.due <= now);
        self.uses.insert(glass.id, Tracked { glass, ended, overdue });
    }

    /// Breaks the glass.
    ///
    /// # Errors
    /// [`GlassRefusal`]: it is not broken, and why.
    pub fn ask(
        &mut self,
        now: Timestamp,
        id: GlassId,
        block: &GlassBlock,
        ask: Ask,
    ) -> Result<GlassUse, GlassRefusal> {
        if !speaks_for_any(&ask.by, &block.who) {
            let who: Vec<&str> = block.who.iter().map(GroupName::as_str).collect();
            return Err(refusal(
                "not_authorized",
                format!("{} is for {}; {} is in none of these", block.id, who.join(", "), ask.by.name()),
            ));
        }
        let login = ask.login.ok_or_else(|| {
            refusal(
                "login_required",
                "the emergency override is for people who have just logged in; log in again, at a terminal",
            )
        })?;
        let reason = ask.reason.filter(|reason| !reason.trim().is_empty());
        if block.reason && reason.is_none() {
            return Err(refusal("reason_required", format!("{} requires a reason", block.id)));
        }
        if let Some(form) = &block.ticket
            && !ask.ticket.as_deref().is_some_and(|ticket| form.is_match(ticket))
        {
            return Err(refusal(
                "ticket_required",
                format!("{} requires a ticket of the form {form}", block.id),
            ));
        }
        let duration = ask.duration.unwrap_or(block.max);
        if duration.is_zero() || duration > block.max {
            let most = lockgate_model::time::format_duration(block.max);
            return Err(refusal("too_long", format!("{} is for more than 0 and at most {most}", block.id)));
        }
        if let Some(owed) = self.blocking(&block.id, now) {
            let by = owed.review.as_ref().map_or("somebody", |review| review.by.as_str());
            return Err(refusal(
                "review_pending",
                format!(
                    "{} was used before ({}, by {}) and {by} has not reviewed that; `lockgate breakglass review {}`",
                    block.id,
                    owed.id,
                    owed.by.name(),
                    owed.id
                ),
            ));
        }
        if self.uses.len() >= GLASS_MAX {
            return Err(refusal(
                "review_pending",
                format!("{GLASS_MAX} uses wait for their review; review some of them"),
            ));
        }
        let review = block.review.as_ref().map(|terms| ReviewDebt {
            by: terms.by.clone(),
            due: after(now, terms.within),
            blocks_next_use: terms.blocks_next_use,
        });
        let glass = GlassUse {
            id,
            rule: block.id.clone(),
            by: ask.by,
            login,
            uid: ask.uid,
            principal: ask.principal,
            target: ask.target,
            reason,
            ticket: ask.ticket,
            began_at: now,
            ends_at: after(now, duration),
            ended_at: None,
            notify: block.notify.clone(),
            review,
            reviewed: None,
        };
        self.uses.insert(id, Tracked { glass: glass.clone(), ended: false, overdue: false });
        Ok(glass)
    }

    /// Forgets a use that could not be recorded: it never was.
    pub fn forget(&mut self, id: GlassId) {
        self.uses.remove(&id);
    }

    /// The overrides in force for a session.
    pub fn lifts(&self, session: &Session, now: Timestamp) -> Vec<Lift> {
        let own = |glass: &&GlassUse| {
            glass.is_live(now)
                && glass.target.as_ref().is_none_or(|target| *target == session.target.name)
                && match (&glass.principal, glass.uid) {
                    (Some(principal), _) => *principal == session.principal.id,
                    (None, Some(uid)) => {
                        uid == session.workload.process.uid && uid == session.flow.process.uid
                    }
                    (None, None) => false,
                }
        };
        let live = self.uses.values().map(|tracked| &tracked.glass).filter(own);
        live.map(|glass| Lift { glass: glass.id, rule: glass.rule.clone() }).collect()
    }

    /// Ends a use by hand. None when it is over, or was never there.
    pub fn end(&mut self, now: Timestamp, id: GlassId) -> Option<GlassUse> {
        let tracked = self.uses.get_mut(&id).filter(|tracked| tracked.glass.is_live(now))?;
        tracked.glass.ended_at = Some(now);
        tracked.ended = true;
        let glass = tracked.glass.clone();
        self.settle(id, now);
        Some(glass)
    }

    /// Somebody looked at a use that is over.
    ///
    /// # Errors
    /// [`GlassRefusal`]: it does not count, and why.
    pub fn review(
        &mut self,
        now: Timestamp,
        id: GlassId,
        by: Approver,
        note: Option<String>,
    ) -> Result<Reviewed, GlassRefusal> {
        let unknown = || {
            refusal("unknown_override", format!("no use {id} of an emergency override waits for a review"))
        };
        let tracked = self.uses.get_mut(&id).ok_or_else(unknown)?;
        let glass = &mut tracked.glass;
        let owed = glass.review.as_ref().ok_or_else(unknown)?;
        if glass.is_live(now) {
            return Err(refusal(
                "still_open",
                format!("{id} is in force until {}; end it first", glass.ends_at),
            ));
        }
        if person(&glass.by) == person(&by) || same_uid(glass, &by) {
            return Err(refusal("requester", "nobody reviews their own use"));
        }
        if !by.groups.contains(&owed.by) {
            return Err(refusal(
                "not_authorized",
                format!("this is reviewed by {}; {} is not in it", owed.by, by.name()),
            ));
        }
        let reviewed = Reviewed { by, note, at: now };
        glass.reviewed = Some(reviewed.clone());
        self.settle(id, now);
        Ok(reviewed)
    }

    /// A review that could not be recorded did not happen.
    pub fn unreview(&mut self, mut glass: GlassUse) {
        glass.reviewed = None;
        self.uses.insert(glass.id, Tracked { glass, ended: true, overdue: false });
    }

    /// One use.
    pub fn find(&self, id: GlassId) -> Option<&GlassUse> {
        self.uses.get(&id).map(|tracked| &tracked.glass)
    }

    /// Every use that is in force or waits for a look, oldest first.
    pub fn uses(&self) -> impl Iterator<Item = &GlassUse> {
        self.uses.values().map(|tracked| &tracked.glass)
    }

    /// When something happens by itself next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let next = |tracked: &Tracked| {
            let end = (!tracked.ended).then_some(tracked.glass.ends_at);
            let due = tracked.glass.review.as_ref().filter(|_| !tracked.overdue).map(|review| review.due);
            end.into_iter().chain(due).min()
        };
        self.uses.values().filter_map(next).min()
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Vec<GlassStep> {
        let mut steps = Vec::new();
        for tracked in self.uses.values_mut() {
            if !tracked.ended && tracked.glass.ends_at <= now {
                tracked.ended = true;
                tracked.glass.ended_at = Some(tracked.glass.ends_at);
                steps.push(GlassStep::Ended(tracked.glass.clone()));
            }
            if !tracked.overdue && tracked.glass.review.as_ref().is_some_and(|review| review.due <= now) {
                tracked.overdue = true;
                steps.push(GlassStep::Overdue(tracked.glass.clone()));
            }
        }
        let ids: Vec<GlassId> = self.uses.keys().copied().collect();
        ids.into_iter().for_each(|id| self.settle(id, now));
        steps
    }

    /// A use that is over and owes nothing is forgotten; the record has it.
    fn settle(&mut self, id: GlassId, now: Timestamp) {
        let done = |tracked: &Tracked| {
            let glass = &tracked.glass;
            !glass.is_live(now) && tracked.ended && (glass.review.is_none() || glass.reviewed.is_some())
        };
        if self.uses.get(&id).is_some_and(done) {
            self.uses.remove(&id);
        }
    }

    /// A use of this block that must be reviewed before the next one.
    fn blocking(&self, rule: &RuleId, now: Timestamp) -> Option<&GlassUse> {
        let blocks = |glass: &&GlassUse| {
            glass.rule == *rule
                && !glass.is_live(now)
                && glass.reviewed.is_none()
                && glass.review.as_ref().is_some_and(|review| review.blocks_next_use)
        };
        self.uses().find(blocks)
    }
}

/// An integration may name a person by the uid that used it.
fn same_uid(glass: &GlassUse, by: &Approver) -> bool {
    let uid = fold(&by.id);
    let named = uid.rsplit("local:").next().and_then(|uid| uid.parse::<u32>().ok());
    named.is_some() && glass.by.id.strip_prefix("local:").and_then(|uid| uid.parse().ok()) == named
}

fn refusal(code: &'static str, detail: impl Into<String>) -> GlassRefusal {
    GlassRefusal { code, detail: detail.into() }
}

#[cfg(test)]
mod tests;
