//! What earlier decisions are still good for: approvals that may be used again, decisions on requests whose client was
//! gone, grants.
//!
//! A pure machine over virtual time, with every count in it: [`Ledger::approved`] and [`Ledger::put`] put things in,
//! [`Ledger::take`] uses one up, [`Ledger::revoke`] and [`Ledger::handle_timeout`] take things away. Whoever drives it
//! records what it did before anybody learns of it, and gives back ([`Ledger::give_back`]) what could not be recorded.
//! It does not believe its own entries: the votes behind each are counted again for the request at hand.

use super::{after, counts_for, shape};
use lockgate_model::{
    GrantId, RequestId, Timestamp,
    approval::{ApprovalRequest, Resolution, Vote},
    grant::{AheadTerms, Basis, Covers, Grant, GrantEnd, GrantTerms, MAX_GRANT, Same},
    operation::Digest,
    verdict::{ApprovalSpec, Requirement},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long an approval that covers a session or a run is good for, whatever they do: a run that takes longer asks again.
pub const COVER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Uses of a grant for the rest of a bundle, when whoever gives it says no number.
pub const AHEAD_USES: u32 = 100;

/// Grants in force at once; people give them one by one.
pub const GRANTS_MAX: usize = 4_096;

/// Approvals to be used again, and decisions whose client was gone, each. The oldest make room: whoever misses one asks.
pub const LEASES_MAX: usize = 8_192;

/// One thing that must outlive a restart, as it rests on the shelf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// An approval that may be used again.
    Lease(Lease),
    /// A decision on a request whose client was gone.
    Outcome(Outcome),
    /// A grant.
    Grant(Grant),
}

/// An approval that may be used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The request that was approved.
    pub of: RequestId,
    /// For what.
    pub digest: Digest,
    /// What must be the same besides.
    pub parts: Vec<(Same, String)>,
    /// Why it may be used again.
    pub kind: LeaseKind,
    /// Who approved.
    pub votes: Vec<Vote>,
    /// When.
    pub made_at: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Uses left; None is as often as it comes.
    pub left: Option<u32>,
}

/// Why an approval may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseKind {
    /// The rules say `reuse`.
    Reuse,
    /// The rules say `covers: session`.
    Session,
    /// The rules say `covers: run`.
    Run,
}

/// A decision on a request whose client was gone: for whoever asks for the same again, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The request that was decided.
    pub of: RequestId,
    /// For what.
    pub digest: Digest,
    /// The CI run, when it is known; the same one must come back.
    pub run: Option<Vec<(Same, String)>>,
    /// What was decided.
    pub resolution: Resolution,
    /// Until when.
    pub until: Timestamp,
}

/// What a request found, and used up.
#[must_use = "what was taken is recorded or given back"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How the request ends.
    pub resolution: Resolution,
    /// What is left of the entry: what the shelf must hold now. None: the entry is gone.
    pub rest: Option<Entry>,
    /// A grant that was used for the last time.
    pub spent: Option<Grant>,
    whole: Entry,
}

impl Taken {
    /// The entry's name on the shelf.
    pub fn name(&self) -> String {
        self.whole.name()
    }
}

impl Entry {
    /// A name that no other entry has.
    pub fn name(&self) -> String {
        match self {
            Self::Lease(lease) => match lease.kind {
                LeaseKind::Reuse => format!("{}.reuse", lease.of),
                LeaseKind::Session => format!("{}.session", lease.of),
                LeaseKind::Run => format!("{}.run", lease.of),
            },
            Self::Outcome(outcome) => format!("{}.outcome", outcome.of),
            Self::Grant(grant) => grant.id.to_string(),
        }
    }
}

/// Everything earlier decisions are still good for, on this node.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    leases: BTreeMap<(Digest, RequestId, LeaseKind), Lease>,
    outcomes: BTreeMap<(Digest, RequestId), Outcome>,
    grants: BTreeMap<GrantId, Grant>,
}

impl Ledger {
    /// Puts an entry back after a restart; one whose time is over stays out.
    pub fn restore(&mut self, now: Timestamp, entry: Entry) -> bool {
        let until = match &entry {
            Entry::Lease(lease) => lease.until,
            Entry::Outcome(outcome) => outcome.until,
            Entry::Grant(grant) => grant.expires_at,
        };
        if until > now {
            self.put(entry);
        }
        until > now
    }

    /// People approved a request: what that is good for besides. `grant` is the id of the grant they may have given.
    /// Empty for most.
    pub fn approved(
        &mut self,
        now: Timestamp,
        request: &ApprovalRequest,
        votes: &[Vote],
        grant: GrantId,
    ) -> Vec<Entry> {
        let made = self.would_make(now, request, votes, grant);
        for entry in &made {
            self.put(entry.clone());
        }
        made
    }

    /// The same, said and not done: it must be recorded first.
    pub fn would_make(
        &self,
        now: Timestamp,
        request: &ApprovalRequest,
        votes: &[Vote],
        grant: GrantId,
    ) -> Vec<Entry> {
        let mut made: Vec<Entry> = leases(now, request, votes).into_iter().map(Entry::Lease).collect();
        if self.grants.len() < GRANTS_MAX {
            made.extend(granted(now, request, votes, grant).map(Entry::Grant));
        }
        made
    }

    /// A request whose client was gone was decided: what is to be [put in](Ledger::put) for whoever comes back. What nobody
    /// decided is not.
    pub fn left(request: &ApprovalRequest, resolution: &Resolution) -> Option<Entry> {
        match resolution {
            Resolution::Approved { .. } | Resolution::Denied { .. } => {}
            Resolution::Expired | Resolution::Withdrawn { .. } => return None,
        }
        let entry = Entry::Outcome(Outcome {
            of: request.id,
            digest: request.operation.digest,
            run: run_of(request),
            resolution: resolution.clone(),
            until: request.expires_at,
        });
        Some(entry)
    }

    /// What is there for this request, used up by it. A decision for the very request that was left comes first, then an
    /// approval to be used again, then a grant.
    pub fn take(&mut self, now: Timestamp, request: &ApprovalRequest) -> Option<Taken> {
        self.take_outcome(now, request)
            .or_else(|| self.take_lease(now, request))
            .or_else(|| self.take_grant(now, request))
    }

    /// What was taken could not be recorded, so it was not used.
    pub fn give_back(&mut self, taken: &Taken) {
        let mut whole = taken.whole.clone();
        // Another request may have used it meanwhile; that use stays counted.
        match &mut whole {
            Entry::Lease(lease) => {
                if let Some(now) = self.leases.get(&(lease.digest, lease.of, lease.kind)) {
                    lease.left = now.left.map(|left| left.saturating_add(1));
                } else if lease.left.is_some() {
                    lease.left = Some(1);
                }
            }
            Entry::Grant(grant) => {
                if let Some(now) = self.grants.get(&grant.id) {
                    grant.used = now.used.saturating_sub(1);
                } else if taken.spent.is_none() {
                    // It was taken back meanwhile.
                    return;
                } else if let Some(uses) = grant.uses {
                    grant.used = uses.saturating_sub(1);
                }
            }
            Entry::Outcome(_) => {}
        }
        self.put(whole);
    }

    /// Whether what let an operation pass still holds.
    pub fn stands(&self, basis: &Basis, now: Timestamp) -> bool {
        match basis {
            Basis::Reuse { .. } | Basis::TakenUp { .. } => true,
            Basis::Grant { grant, left } => match self.grants.get(grant) {
                Some(grant) => grant.expires_at > now,
                // Its last use: nothing is left that could be taken back.
                None => *left == Some(0),
            },
        }
    }

    /// Takes a grant back. None when it is not in force (any more).
    pub fn revoke(&mut self, grant: GrantId) -> Option<Grant> {
        self.grants.remove(&grant)
    }

    /// Puts back a grant whose end could not be recorded.
    pub fn unrevoke(&mut self, grant: Grant) {
        self.grants.insert(grant.id, grant);
    }

    /// Every grant in force, oldest first.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.values()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.leases.len() + self.outcomes.len() + self.grants.len()
    }

    /// True when nothing is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// When something ends by itself next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let leases = self.leases.values().map(|lease| lease.until);
        let outcomes = self.outcomes.values().map(|outcome| outcome.until);
        leases.chain(outcomes).chain(self.grants.values().map(|grant| grant.expires_at)).min()
    }

    /// Takes away what has ended by itself: all of it, for the shelf; grants have an end that is recorded.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Vec<Entry> {
        let leases = extract(&mut self.leases, |lease| lease.until <= now).map(Entry::Lease);
        let mut over: Vec<Entry> = leases.collect();
        over.extend(extract(&mut self.outcomes, |outcome| outcome.until <= now).map(Entry::Outcome));
        over.extend(extract(&mut self.grants, |grant| grant.expires_at <= now).map(Entry::Grant));
        over
    }

    /// Puts an entry in.
    pub fn put(&mut self, entry: Entry) {
        match entry {
            Entry::Lease(lease) => {
                if self.leases.len() >= LEASES_MAX {
                    let oldest =
                        self.leases.iter().min_by_key(|(_, lease)| lease.made_at).map(|(key, _)| *key);
                    oldest.map(|key| self.leases.remove(&key));
                }
                self.leases.insert((lease.digest, lease.of, lease.kind), lease);
            }
            Entry::Outcome(outcome) => {
                if self.outcomes.len() >= LEASES_MAX {
                    let oldest = self.outcomes.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| *key);
                    oldest.map(|key| self.outcomes.remove(&key));
                }
                self.outcomes.insert((outcome.digest, outcome.of), outcome);
            }
            Entry::Grant(grant) => drop(self.grants.insert(grant.id, grant)),
        }
    }

    fn take_outcome(&mut self, now: Timestamp, request: &ApprovalRequest) -> Option<Taken> {
        let of_digest = range(request.operation.digest);
        let run = run_of(request);
        let fits = |outcome: &&Outcome| {
            outcome.until > now
                && outcome.run == run
                && match &outcome.resolution {
                    Resolution::Approved { votes, .. } => counts_for(&request.spec, request, votes),
                    Resolution::Denied { .. } => true,
                    Resolution::Expired | Resolution::Withdrawn { .. } => false,
                }
        };
        let (key, found) = self.outcomes.range(of_digest).rev().find(|(_, outcome)| fits(outcome))?;
        let (key, found) = (*key, found.clone());
        self.outcomes.remove(&key);
        let resolution = match found.resolution.clone() {
            Resolution::Approved { votes, .. } => {
                Resolution::Approved { votes, basis: Some(Basis::TakenUp { of: found.of }) }
            }
            other @ (Resolution::Denied { .. } | Resolution::Expired | Resolution::Withdrawn { .. }) => other,
        };
        Some(Taken { resolution, rest: None, spent: None, whole: Entry::Outcome(found) })
    }

    fn take_lease(&mut self, now: Timestamp, request: &ApprovalRequest) -> Option<Taken> {
        let digest = request.operation.digest;
        let all = [LeaseKind::Reuse, LeaseKind::Session, LeaseKind::Run];
        let first = (digest, RequestId::from_parts(0, 0), all[0]);
        let last = (digest, RequestId::from_parts(u64::MAX, u128::MAX), all[2]);
        let fits = |lease: &&Lease| {
            lease.until > now
                && lease.left != Some(0)
                && is_same(lease, request)
                && still_said(lease, now, &request.spec)
                && counts_for(&request.spec, request, &lease.votes)
        };
        // One that is unlimited first: what is counted is for whoever has nothing else.
        let fitting = self.leases.range(first..=last).filter(|(_, lease)| fits(lease));
        let (key, whole) = fitting.max_by_key(|(_, lease)| (lease.left.is_none(), lease.until))?;
        let (key, whole) = (*key, whole.clone());
        let mut rest = whole.clone();
        rest.left = rest.left.map(|left| left.saturating_sub(1));
        let rest = if rest.left == Some(0) {
            self.leases.remove(&key);
            None
        } else {
            self.leases.insert(key, rest.clone());
            Some(Entry::Lease(rest))
        };
        let basis = Some(Basis::Reuse { of: whole.of });
        let resolution = Resolution::Approved { votes: whole.votes.clone(), basis };
        Some(Taken { resolution, rest, spent: None, whole: Entry::Lease(whole) })
    }

    fn take_grant(&mut self, now: Timestamp, request: &ApprovalRequest) -> Option<Taken> {
        if self.grants.is_empty() {
            return None;
        }
        // What was not understood has no shape, and is ahead of nothing.
        let pattern = shape::pattern(&request.operation)?;
        let (principal, target) = (&request.session.principal.id, &request.session.target.name);
        let longest = longest_grant(&request.spec);
        let fits = |grant: &&Grant| {
            (match &grant.ahead {
                Some(ahead) => shape::is_ahead(ahead, request),
                None => grant.pattern == pattern,
            }) && grant.principal == *principal
                && grant.target == *target
                && grant.expires_at > now
                // A rule that allows less than it did counts.
                && after(grant.made_at, longest) > now
                && counts_for(&request.spec, request, &grant.votes)
        };
        let whole = self.grants.values().filter(fits).max_by_key(|grant| {
            // The narrow one first: what is wide is for what has nothing else.
            (grant.ahead.is_none(), grant.uses.is_none(), grant.expires_at)
        })?;
        let whole = whole.clone();
        let mut rest = whole.clone();
        rest.used = rest.used.saturating_add(1);
        let left = rest.uses.map(|uses| uses.saturating_sub(rest.used));
        let resolution = Resolution::Approved {
            votes: whole.votes.clone(),
            basis: Some(Basis::Grant { grant: whole.id, left }),
        };
        let (rest, spent) = if left == Some(0) {
            self.grants.remove(&whole.id);
            (None, Some(rest))
        } else {
            self.grants.insert(whole.id, rest.clone());
            (Some(Entry::Grant(rest)), None)
        };
        Some(Taken { resolution, rest, spent, whole: Entry::Grant(whole) })
    }
}

/// How a grant that timed out or was used up ended.
pub fn natural_end(grant: &Grant, now: Timestamp) -> GrantEnd {
    if grant.expires_at <= now { GrantEnd::Expired } else { GrantEnd::Spent }
}

/// The longest grant that every rule allows.
pub fn longest_grant(spec: &ApprovalSpec) -> Duration {
    let each = spec.requirements.iter().map(|requirement| requirement.terms.max_grant.unwrap_or(MAX_GRANT));
    each.min().unwrap_or(Duration::ZERO)
}

fn leases(now: Timestamp, request: &ApprovalRequest, votes: &[Vote]) -> Vec<Lease> {
    let lease = |kind, same: &BTreeSet<Same>, lasts, left| {
        Some(Lease {
            of: request.id,
            digest: request.operation.digest,
            parts: shape::parts(same, request)?,
            kind,
            votes: votes.to_vec(),
            made_at: now,
            until: after(now, lasts),
            left,
        })
    };
    let covers = match covers(&request.spec.requirements) {
        Covers::Statement => None,
        Covers::Session => lease(LeaseKind::Session, &[Same::Session].into(), COVER_MAX, None),
        Covers::Run => lease(LeaseKind::Run, &[Same::RunId].into(), COVER_MAX, None),
    };
    let reuse = reuse(&request.spec.requirements)
        .and_then(|(same, lasts, uses)| lease(LeaseKind::Reuse, &same, lasts, Some(uses)));
    covers.into_iter().chain(reuse).collect()
}

/// How far an approval reaches when several rules ask: as far as the strictest says.
fn covers(requirements: &[Requirement]) -> Covers {
    requirements.iter().map(|requirement| requirement.terms.covers).min().unwrap_or_default()
}

/// What all rules that ask say of reuse; None when one of them says nothing.
fn reuse(requirements: &[Requirement]) -> Option<(BTreeSet<Same>, Duration, u32)> {
    let all: Option<Vec<_>> =
        requirements.iter().map(|requirement| requirement.terms.reuse.as_ref()).collect();
    let all = all?;
    let same = all.iter().flat_map(|reuse| &reuse.same).copied().chain([Same::Digest]).collect();
    let lasts = all.iter().map(|reuse| reuse.duration).min()?;
    let uses = all.iter().map(|reuse| reuse.uses).min().filter(|uses| *uses > 0)?;
    Some((same, lasts, uses))
}

/// Whether the request is the same in everything that the lease names.
fn is_same(lease: &Lease, request: &ApprovalRequest) -> bool {
    let named: BTreeSet<Same> = lease.parts.iter().map(|(same, _)| *same).collect();
    lease.digest == request.operation.digest
        && shape::parts(&named, request).is_some_and(|parts| parts == lease.parts)
}

/// Whether the rules that ask now still say what the lease stands on.
fn still_said(lease: &Lease, now: Timestamp, spec: &ApprovalSpec) -> bool {
    match lease.kind {
        LeaseKind::Session => covers(&spec.requirements) >= Covers::Session,
        LeaseKind::Run => covers(&spec.requirements) >= Covers::Run,
        LeaseKind::Reuse => {
            let named: BTreeSet<Same> = lease.parts.iter().map(|(same, _)| *same).collect();
            reuse(&spec.requirements)
                .is_some_and(|(same, lasts, _)| same.is_subset(&named) && after(lease.made_at, lasts) > now)
        }
    }
}

/// The grant that all of the votes give: the shortest and fewest of what each offers. None when one of them approves just
/// this once, or where none may be given.
fn granted(now: Timestamp, request: &ApprovalRequest, votes: &[Vote], id: GrantId) -> Option<Grant> {
    let offers: Option<Vec<_>> = votes.iter().map(|vote| vote.grant.as_ref()).collect();
    let offers = offers.filter(|offers| !offers.is_empty())?;
    let lasts = offers.iter().map(|offer| offer.duration).min()?.min(longest_grant(&request.spec));
    let uses = offers.iter().filter_map(|offer| offer.uses).min();
    if lasts.is_zero() || uses == Some(0) {
        return None;
    }
    let ahead = match ahead(&offers) {
        Some(terms) => Some(shape::ahead(&terms, request)?),
        None => None,
    };
    // What is wide has a number.
    let uses = if ahead.is_some() { Some(uses.unwrap_or(AHEAD_USES)) } else { uses };
    Some(Grant {
        id,
        from: request.id,
        principal: request.session.principal.id.clone(),
        target: request.session.target.name.clone(),
        pattern: shape::pattern(&request.operation)?,
        shape: request.operation.normalized.to_string(),
        rules: request.spec.requirements.iter().map(|requirement| requirement.rule.clone()).collect(),
        votes: votes.to_vec(),
        made_at: now,
        expires_at: after(now, lasts),
        uses,
        used: 0,
        ahead,
    })
}

/// What all offers let pass ahead; None when one of them is for the shape alone.
fn ahead(offers: &[&GrantTerms]) -> Option<AheadTerms> {
    let all: Option<Vec<&AheadTerms>> = offers.iter().map(|offer| offer.ahead.as_ref()).collect();
    all?.into_iter().cloned().reduce(|one, other| AheadTerms {
        kinds: one.kinds.intersection(&other.kinds).cloned().collect(),
        risk: one.risk.min(other.risk),
    })
}

/// The run that a request belongs to, when it is known.
pub fn run_of(request: &ApprovalRequest) -> Option<Vec<(Same, String)>> {
    shape::parts(&[Same::RunId].into(), request)
}

fn range(digest: Digest) -> std::ops::RangeInclusive<(Digest, RequestId)> {
    (digest, RequestId::from_parts(0, 0))..=(digest, RequestId::from_parts(u64::MAX, u128::MAX))
}

fn extract<K: Ord + Clone, V: Clone>(
    map: &mut BTreeMap<K, V>,
    over: impl Fn(&V) -> bool,
) -> impl Iterator<Item = V> {
    let keys: Vec<K> = map.iter().filter(|(_, value)| over(value)).map(|(key, _)| key.clone()).collect();
    let taken: Vec<V> = keys.iter().filter_map(|key| map.remove(key)).collect();
    taken.into_iter()
}

#[cfg(test)]
mod tests;
