//! The life of one request for approval: stages, votes, quorum, expiry, withdrawal.
//!
//! A pure machine over virtual time: [`Machine::handle_vote`], [`Machine::handle_timeout`],
//! [`Machine::poll_timeout`]. It does not notify, store, verify a vote's origin or know what a group's members
//! are: the control plane does, and drives it. It decides who may vote, what counts, and when it is over.
//!
//! Around it, as pure: [`ledger`] (what earlier decisions are still good for), [`bundle`] (what is told and decided
//! together), [`glass`] (the emergency override), [`shape`] (what requests have in common).

pub mod bundle;
pub mod glass;
pub mod ledger;
pub mod shape;

use lockgate_model::{
    RequestId, Timestamp,
    approval::{
        ApprovalRequest, Progress, RequirementProgress, Resolution, Vote, VoteDecision, WithdrawReason,
    },
    grant::MAX_GRANT_USES,
    id::GroupName,
    operation::Operation,
    principal::Approver,
    session::Session,
    verdict::{ApprovalSpec, Effect, Exclude, Requirement, Stage, Verdict},
};
use std::{sync::Arc, time::Duration};
use unicode_normalization::UnicodeNormalization;

/// What a call changed.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time is made and matched at once; a box would be for nothing"
)]
pub enum Step {
    /// Nothing.
    Unchanged,
    /// A vote was counted, or another stage began.
    Progressed,
    /// It is over.
    Resolved(Resolution),
}

/// Why a vote was refused. Nothing changed, except that time may have passed: look at
/// [`Machine::resolution`] after a refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct VoteRefusal {
    /// Machine-readable.
    pub code: VoteRefusalCode,
    /// For people: expected, got, what to do.
    pub detail: String,
}

/// Why a vote was refused; stable names for problem documents and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VoteRefusalCode {
    /// None of the voter's groups may decide now.
    NotAuthorized,
    /// The voter is the requester, or runs under the requester's uid.
    Requester,
    /// The voter triggered the run or wrote the commit, and the rule excludes that.
    Excluded,
    /// The same person has voted.
    Duplicate,
    /// It is already approved, denied or withdrawn.
    Resolved,
    /// It has expired.
    Expired,
    /// The rule requires a reason.
    ReasonRequired,
    /// The vote gives a grant that may not be given.
    GrantNotAllowed,
}

impl VoteRefusalCode {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotAuthorized => "not_authorized",
            Self::Requester => "requester",
            Self::Excluded => "excluded",
            Self::Duplicate => "duplicate",
            Self::Resolved => "resolved",
            Self::Expired => "expired",
            Self::ReasonRequired => "reason_required",
            Self::GrantNotAllowed => "grant_not_allowed",
        }
    }
}

/// When a request made at `created_at` is denied by itself.
pub fn expiry(spec: &ApprovalSpec, in_transaction: bool, created_at: Timestamp) -> Timestamp {
    let wait = match spec.max_wait_in_transaction {
        Some(cap) if in_transaction => spec.timeout.min(cap),
        Some(_) | None => spec.timeout,
    };
    after(created_at, wait)
}

/// The request that a `Hold` verdict asks for; None for any other verdict.
pub fn request(
    id: RequestId,
    session: Arc<Session>,
    operation: Operation,
    verdict: Verdict,
    now: Timestamp,
) -> Option<ApprovalRequest> {
    let spec = match &verdict.effect {
        Effect::Hold(spec) => spec.clone(),
        Effect::Allow | Effect::Deny(_) => return None,
    };
    let expires_at = expiry(&spec, operation.context.in_transaction, now);
    Some(ApprovalRequest { id, session, operation, verdict, spec, created_at: now, expires_at })
}

/// True when the votes that approved a request also meet `spec`: what policy asks now, which may have changed
/// while the request was held. Nothing is believed: every requirement is counted again. One that was asked
/// from the start may have been met by a stage that began after the last vote; a new one must be met by then.
pub fn covers(spec: &ApprovalSpec, request: &ApprovalRequest, votes: &[Vote]) -> bool {
    let ended = votes.iter().map(|vote| vote.at).max().unwrap_or(request.created_at);
    let met = |requirement: &Requirement| {
        let tally = Tally { requirement, request };
        let asked = request.spec.requirements.contains(requirement);
        let mut later = requirement
            .stages
            .iter()
            .map(|stage| after(request.created_at, stage.at))
            .filter(|at| asked && *at > ended && *at < request.expires_at);
        tally.is_met(votes, ended) || later.any(|at| tally.is_met(votes, at))
    };
    !spec.requirements.is_empty() && spec.requirements.iter().all(met)
}

/// Whether votes that were cast for an earlier request would approve this one as well: as [`covers`], and every voter may
/// vote on it.
fn counts_for(spec: &ApprovalSpec, request: &ApprovalRequest, votes: &[Vote]) -> bool {
    votes.iter().all(|vote| refuse_requester(&request.session, &vote.by).is_ok())
        && covers(spec, request, votes)
}

/// One request on its way.
#[derive(Clone, Debug)]
pub struct Machine {
    request: ApprovalRequest,
    /// Who owns the bot that asks.
    owners: Vec<Approver>,
    expires_at: Timestamp,
    url: String,
    votes: Vec<Vote>,
    /// The latest time seen; time never runs backwards here.
    seen: Timestamp,
    resolution: Option<Resolution>,
}

impl Machine {
    /// A request nobody has decided on. It expires when the request says, or earlier when its spec does.
    pub fn new(request: ApprovalRequest) -> Self {
        let by_spec = expiry(&request.spec, request.operation.context.in_transaction, request.created_at);
        let expires_at = request.expires_at.min(by_spec);
        let seen = request.created_at;
        let owners = Vec::new();
        Self { request, owners, expires_at, url: String::new(), votes: Vec::new(), seen, resolution: None }
    }

    /// Says who owns the bot that asks: they are requesters too.
    #[must_use]
    pub fn with_owners(mut self, owners: Vec<Approver>) -> Self {
        self.owners = owners;
        self
    }

    /// A request that goes on where it was: with its votes, until it was to expire anyway.
    pub fn resumed(request: ApprovalRequest, votes: Vec<Vote>) -> Self {
        let seen = votes.iter().map(|vote| vote.at).fold(request.created_at, Timestamp::max);
        let expires_at = request.expires_at;
        Self { request, owners: Vec::new(), expires_at, url: String::new(), votes, seen, resolution: None }
    }

    /// Ends it as an earlier decision says ([`ledger::Ledger::take`]).
    pub fn handle_precedent(&mut self, now: Timestamp, resolution: Resolution) -> Step {
        if self.resolution.is_some() {
            return Step::Unchanged;
        }
        self.seen = self.seen.max(now);
        Step::Resolved(self.resolution.insert(resolution).clone())
    }

    /// Sets the address that [`Machine::progress`] shows.
    #[must_use]
    pub fn with_url(mut self, url: impl Into<String>) -> Self {
        self.url = url.into();
        self
    }

    /// What was asked.
    pub fn request(&self) -> &ApprovalRequest {
        &self.request
    }

    /// When it is denied by itself.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// The votes that count so far, in order.
    pub fn votes(&self) -> &[Vote] {
        &self.votes
    }

    /// How it ended, when it has.
    pub fn resolution(&self) -> Option<&Resolution> {
        self.resolution.as_ref()
    }

    /// Takes one vote (its `at` becomes `now`).
    ///
    /// # Errors
    /// [`VoteRefusal`]: it does not count, and why.
    pub fn handle_vote(&mut self, now: Timestamp, mut vote: Vote) -> Result<Step, VoteRefusal> {
        let now = self.advance(now);
        if let Some(resolution) = &self.resolution {
            return Err(already(resolution));
        }
        vote.at = now;
        self.admit(&vote)?;
        // An approver may still turn an approval into a denial, never the other way round.
        let person = person(&vote.by);
        self.votes.retain(|earlier| self::person(&earlier.by) != person);
        self.votes.push(vote);
        self.settle(now);
        Ok(match &self.resolution {
            Some(resolution) => Step::Resolved(resolution.clone()),
            None => Step::Progressed,
        })
    }

    /// Lets time pass: a later stage may begin (and be met by the votes already cast), or the request expires.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Step {
        if self.resolution.is_some() {
            return Step::Unchanged;
        }
        let stages_before = self.stages_begun(self.seen);
        let now = self.advance(now);
        match &self.resolution {
            Some(resolution) => Step::Resolved(resolution.clone()),
            None if self.stages_begun(now) != stages_before => Step::Progressed,
            None => Step::Unchanged,
        }
    }

    /// When [`Machine::handle_timeout`] next has something to do; None when it is over.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match self.resolution {
            Some(_) => None,
            None => Some(self.next_boundary(self.seen)),
        }
    }

    /// The client no longer waits.
    pub fn withdraw(&mut self, now: Timestamp, reason: WithdrawReason) -> Step {
        if self.resolution.is_some() {
            return Step::Unchanged;
        }
        self.advance(now);
        let resolution = self.resolution.get_or_insert(Resolution::Withdrawn { reason });
        Step::Resolved(resolution.clone())
    }

    /// Where it stands at `now`, for the waiting client and for approvers. Changes nothing.
    pub fn progress(&self, now: Timestamp) -> Progress {
        let now = now.max(self.seen).min(self.expires_at);
        let requirements = self
            .tallies()
            .map(|tally| {
                let stage = tally.stage(now);
                RequirementProgress {
                    rule: tally.requirement.rule.clone(),
                    have: tally.have(&self.votes, now),
                    need: stage.map_or(u32::MAX, |stage| stage.need),
                    any_of: stage.map_or_else(Vec::new, |stage| stage.any_of.clone()),
                }
            })
            .collect();
        Progress {
            requirements,
            expires_at: self.expires_at,
            url: self.url.clone(),
            resolution: self.resolution.clone(),
        }
    }

    /// Runs through every stage boundary up to `now` in order, so that what a stage change decides is decided
    /// at that moment, however late the call comes. Returns the time that now counts.
    fn advance(&mut self, now: Timestamp) -> Timestamp {
        let now = now.max(self.seen);
        while self.resolution.is_none() {
            let boundary = self.next_boundary(self.seen);
            if boundary > now {
                break;
            }
            self.seen = boundary;
            if boundary >= self.expires_at {
                self.resolution = Some(Resolution::Expired);
            } else {
                self.settle(boundary);
            }
        }
        self.seen = now;
        now
    }

    /// The first stage boundary after `seen`, or the expiry.
    fn next_boundary(&self, seen: Timestamp) -> Timestamp {
        self.tallies()
            .flat_map(|tally| tally.requirement.stages.iter())
            .map(|stage| after(self.request.created_at, stage.at))
            .filter(|at| *at > seen)
            .fold(self.expires_at, Timestamp::min)
    }

    fn stages_begun(&self, now: Timestamp) -> usize {
        self.tallies().map(|tally| tally.stages_begun(now)).sum()
    }

    /// Ends the request when the votes say so. A denial beats an approval.
    fn settle(&mut self, now: Timestamp) {
        let denied = self.tallies().any(|tally| tally.is_denied(&self.votes, now));
        let met = !self.request.spec.requirements.is_empty()
            && self.tallies().all(|tally| tally.is_met(&self.votes, now));
        if denied {
            let vote = self.votes.iter().rev().find(|vote| vote.decision == VoteDecision::Deny).cloned();
            self.resolution = vote.map(|vote| Resolution::Denied { vote });
        } else if met {
            let votes =
                self.votes.iter().filter(|vote| vote.decision == VoteDecision::Approve).cloned().collect();
            self.resolution = Some(Resolution::Approved { votes, basis: None });
        }
    }

    /// Whether a vote may be cast now.
    fn admit(&self, vote: &Vote) -> Result<(), VoteRefusal> {
        refuse_requester(&self.request.session, &vote.by)?;
        if self.owners.iter().any(|owner| person(owner) == person(&vote.by)) {
            let (who, what) = (vote.by.name(), &self.request.session.principal.display);
            let detail = format!("{who} owns what asks here ({what}); somebody else must decide");
            return Err(refusal(VoteRefusalCode::Requester, detail));
        }
        let open: Vec<Tally<'_>> = self.tallies().filter(|tally| tally.admits(vote)).collect();
        if open.is_empty() {
            let asked: Vec<&str> = self
                .tallies()
                .filter_map(|tally| tally.stage(vote.at))
                .flat_map(|stage| &stage.any_of)
                .map(GroupName::as_str)
                .collect();
            return Err(refusal(
                VoteRefusalCode::NotAuthorized,
                format!(
                    "this request is decided by {}; {} speaks for {}",
                    names(&asked),
                    vote.by.id,
                    names(&vote.by.groups.iter().map(GroupName::as_str).collect::<Vec<_>>()),
                ),
            ));
        }
        if let Some(reason) = open.iter().find_map(|tally| tally.excluded(&vote.by)) {
            return Err(refusal(VoteRefusalCode::Excluded, reason));
        }
        let blank = vote.reason.as_deref().is_none_or(|reason| reason.trim().is_empty());
        if blank && let Some(tally) = open.iter().find(|tally| tally.requirement.require_reason) {
            return Err(refusal(
                VoteRefusalCode::ReasonRequired,
                format!("rule {} requires a reason; vote again with one", tally.requirement.rule),
            ));
        }
        self.admit_grant(vote)?;
        let person = person(&vote.by);
        match self.votes.iter().find(|earlier| self::person(&earlier.by) == person) {
            Some(earlier)
                if !(earlier.decision == VoteDecision::Approve && vote.decision == VoteDecision::Deny) =>
            {
                Err(refusal(
                    VoteRefusalCode::Duplicate,
                    format!(
                        "{} has already voted (as {}); one person counts once",
                        vote.by.id, earlier.by.id
                    ),
                ))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A grant that may not be given is refused, not cut: who gives it should know what they give.
    fn admit_grant(&self, vote: &Vote) -> Result<(), VoteRefusal> {
        let Some(grant) = &vote.grant else { return Ok(()) };
        let refuse = |detail: String| Err(refusal(VoteRefusalCode::GrantNotAllowed, detail));
        let longest = ledger::longest_grant(&self.request.spec);
        let most = lockgate_model::time::format_duration(longest);
        if vote.decision == VoteDecision::Deny {
            return refuse("a denial gives nothing; leave the grant out".to_owned());
        }
        if longest.is_zero() {
            return refuse("the rules that hold this let nobody give a grant; approve it once".to_owned());
        }
        if grant.duration.is_zero() || grant.duration > longest {
            return refuse(format!("a grant here is for more than 0 and at most {most}"));
        }
        if grant.uses.is_some_and(|uses| uses == 0 || uses > MAX_GRANT_USES) {
            return refuse(format!("a grant has between 1 and {MAX_GRANT_USES} uses"));
        }
        if let Some(terms) = &grant.ahead {
            if bundle::common(&self.request).is_none() {
                return refuse(
                    "the rules that hold this do not coalesce it with others, so there is no rest to approve; \
                     approve it once, or for its shape"
                        .to_owned(),
                );
            }
            if terms.kinds.is_empty() {
                return refuse("name at least one kind of statement that may follow".to_owned());
            }
        }
        if shape::pattern(&self.request.operation).is_none() {
            return refuse(
                "the statement was not understood, so nobody can say what else is like it; approve it once"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn tallies(&self) -> impl Iterator<Item = Tally<'_>> {
        self.request.spec.requirements.iter().map(|requirement| Tally { requirement, request: &self.request })
    }
}

/// Counts votes for one requirement.
struct Tally<'a> {
    requirement: &'a Requirement,
    request: &'a ApprovalRequest,
}

impl<'a> Tally<'a> {
    fn stages_begun(&self, now: Timestamp) -> usize {
        let begun = |stage: &&Stage| after(self.request.created_at, stage.at) <= now;
        self.requirement.stages.iter().filter(begun).count()
    }

    /// The stage in force; None before the first (nobody may vote then).
    fn stage(&self, now: Timestamp) -> Option<&'a Stage> {
        self.stages_begun(now).checked_sub(1).and_then(|index| self.requirement.stages.get(index))
    }

    /// Whether the voter's groups may vote in the stage in force.
    fn admits(&self, vote: &Vote) -> bool {
        self.stage(vote.at).is_some_and(|stage| speaks_for(&vote.by, stage))
    }

    /// A vote counts when its groups may speak in the stage it was cast in or any begun since: a later stage
    /// widens, and earlier votes are kept.
    fn counts(&self, vote: &Vote, now: Timestamp) -> bool {
        let first = self.stages_begun(vote.at).saturating_sub(1);
        let begun = self.stages_begun(now);
        self.requirement.stages.iter().take(begun).skip(first).any(|stage| speaks_for(&vote.by, stage))
            && self.excluded(&vote.by).is_none()
            && (!self.requirement.require_reason
                || vote.reason.as_deref().is_some_and(|reason| !reason.trim().is_empty()))
    }

    fn count(&self, votes: &[Vote], decision: VoteDecision, now: Timestamp) -> u32 {
        let mut people: Vec<String> = votes
            .iter()
            .filter(|vote| vote.decision == decision && self.counts(vote, now))
            .map(|vote| person(&vote.by))
            .collect();
        people.sort_unstable();
        people.dedup();
        u32::try_from(people.len()).unwrap_or(u32::MAX)
    }

    fn have(&self, votes: &[Vote], now: Timestamp) -> u32 {
        self.count(votes, VoteDecision::Approve, now)
    }

    fn is_met(&self, votes: &[Vote], now: Timestamp) -> bool {
        // A need of zero would be an approval by nobody; the loader refuses it, and so does this.
        self.stage(now).is_some_and(|stage| self.have(votes, now) >= stage.need.max(1))
    }

    fn is_denied(&self, votes: &[Vote], now: Timestamp) -> bool {
        self.count(votes, VoteDecision::Deny, now) >= self.requirement.deny_votes.max(1)
    }

    /// Why this voter is excluded from this requirement, when it is so. What a job merely says of itself excludes nobody: it
    /// could name whoever would refuse it.
    fn excluded(&self, by: &Approver) -> Option<String> {
        let ci = self.request.session.workload.ci.as_ref().filter(|ci| ci.is_confirmed())?;
        self.requirement.exclude.iter().find_map(|exclude| {
            let (name, role) = match exclude {
                Exclude::Requester => (ci.actor.as_deref(), "owns the run that asks"),
                Exclude::TriggeringActor => (ci.triggering_actor.as_deref(), "triggered the run that asks"),
                Exclude::CommitAuthor => (ci.commit_author.as_deref(), "wrote the commit that is run"),
            };
            name.filter(|name| same_person(by, name))
                .map(|_| format!("{} {role}, and rule {} excludes that", by.name(), self.requirement.rule))
        })
    }
}

fn speaks_for(by: &Approver, stage: &Stage) -> bool {
    speaks_for_any(by, &stage.any_of)
}

fn speaks_for_any(by: &Approver, groups: &[GroupName]) -> bool {
    groups.iter().any(|group| by.groups.contains(group))
}

/// The requester never decides: neither the uid that runs the process, nor the person the run belongs to, where somebody
/// else than the job says who that is.
fn refuse_requester(session: &Session, by: &Approver) -> Result<(), VoteRefusal> {
    let workload = &session.workload;
    // However it came in: an integration that says `local:1001` means that uid too.
    let own_uid = ids(by).map(bare).any(|id| {
        let number = id.strip_prefix("local:").or_else(|| id.strip_prefix("uid:"));
        number.is_some_and(|uid| uid.trim().parse() == Ok(workload.process.uid))
    });
    let names = [
        Some(session.principal.id.as_str()),
        workload.process.user.as_deref(),
        workload.ci.as_ref().filter(|ci| ci.is_confirmed()).and_then(|ci| ci.actor.as_deref()),
    ];
    if own_uid || names.into_iter().flatten().any(|name| same_person(by, name)) {
        return Err(refusal(
            VoteRefusalCode::Requester,
            format!("{} is the requester ({}); somebody else must decide", by.id, session.principal.display),
        ));
    }
    Ok(())
}

/// Who a vote counts for: the person that configuration knows behind the id, else the id without its channel, in one
/// spelling. `webhook:approvals:Ana@Example.com ` and `webhook:chat:ana@example.com` are one person.
fn person(by: &Approver) -> String {
    bare(by.name())
}

/// Every id of whoever votes.
fn ids(by: &Approver) -> impl Iterator<Item = &str> {
    std::iter::once(by.id.as_str()).chain(by.also.iter().map(String::as_str))
}

/// An id without the integration that it came through, folded.
fn bare(id: &str) -> String {
    let id = fold(id);
    match id.strip_prefix("webhook:").and_then(|rest| rest.split_once(':')) {
        Some((_, person)) => person.trim().to_owned(),
        None => id,
    }
}

/// Whether an approver and a name from elsewhere (an actor's login, a commit's author) may be one person.
/// Deliberately wide: `webhook:approvals:ana@example.com`, `ana` and `Ana <ana@example.com>` are the same.
fn same_person(by: &Approver, name: &str) -> bool {
    let name = fold(name);
    let theirs = spellings(&name);
    ids(by).any(|id| {
        let person = bare(id);
        let last = person.rsplit(':').next().unwrap_or(&person).trim().to_owned();
        person == name || spellings(&last).iter().any(|spelling| theirs.contains(spelling))
    })
}

/// `ana <ana@example.com>` → itself, `ana`, `ana@example.com` and the local parts of addresses.
fn spellings(name: &str) -> Vec<String> {
    let mut out = vec![name.to_owned()];
    if let Some((before, rest)) = name.split_once('<') {
        out.push(before.trim().to_owned());
        out.push(rest.trim_end_matches('>').trim().to_owned());
    }
    let locals: Vec<String> =
        out.iter().filter_map(|name| name.split_once('@')).map(|(local, _)| local.to_owned()).collect();
    out.extend(locals);
    out.retain(|name| !name.is_empty());
    out
}

/// One spelling of an id or name: NFKC, lower case, trimmed.
pub fn fold(text: &str) -> String {
    text.trim().nfkc().flat_map(char::to_lowercase).collect::<String>().trim().to_owned()
}

/// `start + wait`, at the end of time rather than past it.
fn after(start: Timestamp, wait: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(wait)
        .ok()
        .and_then(|wait| start.checked_add(wait).ok())
        .unwrap_or(Timestamp::MAX)
}

fn refusal(code: VoteRefusalCode, detail: String) -> VoteRefusal {
    VoteRefusal { code, detail }
}

fn already(resolution: &Resolution) -> VoteRefusal {
    match resolution {
        Resolution::Expired => refusal(
            VoteRefusalCode::Expired,
            "the request expired before this vote; run the job again".into(),
        ),
        Resolution::Approved { .. } | Resolution::Denied { .. } | Resolution::Withdrawn { .. } => refusal(
            VoteRefusalCode::Resolved,
            format!("the request is already {}; nothing is left to decide", resolution.as_str()),
        ),
    }
}

fn names(groups: &[&str]) -> String {
    match groups {
        [] => "no group".to_owned(),
        groups => {
            let mut groups = groups.to_vec();
            groups.sort_unstable();
            groups.dedup();
            groups.join(", ")
        }
    }
}

#[cfg(test)]
mod tests;
