//! Requests that are told in one message and decided together: forty migrations of one job, one message, one decision.
//!
//! A pure machine over virtual time: [`Gather::join`] takes a request, [`Gather::handle_timeout`] gives bundles that are
//! to be told, [`Gather::leave`] takes back a request that ended before. Until its window is over, a bundle that was told
//! takes more requests: it is then told again, whole, under the same id, with another digest. It decides what belongs
//! together and when it is told; each request still has its own votes, quorum and end.

use super::{after, shape};
use lockgate_model::{
    BundleId, RequestId, Timestamp, approval::ApprovalRequest, grant::Same, operation::Digest,
    verdict::Requirement,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Requests in one bundle: what a person can still read in one go. The next one begins another.
pub const BUNDLE_MAX: usize = 100;

/// A bundle that nobody joined for this long is told, whatever its window: what asks together asks within milliseconds,
/// and people should not hear late of what waits alone.
pub const QUIET: Duration = Duration::from_secs(2);

/// Requests that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// Its id.
    pub id: BundleId,
    /// The requests, in the order in which they came, with what each is bound to.
    pub requests: Vec<(RequestId, Digest)>,
    /// When the first came.
    pub began_at: Timestamp,
    /// So many of them, the first ones, were told before.
    pub told: usize,
}

impl Bundle {
    /// What a decision on all of it must echo: SHA-256 over every request and what it is bound to.
    pub fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        hash.update(b"lockgate bundle 1\0");
        hash.update((self.requests.len() as u64).to_be_bytes());
        for (request, digest) in &self.requests {
            hash.update(request.to_string().as_bytes());
            hash.update(digest.0);
        }
        Digest(hash.finalize().into())
    }
}

/// What is being gathered.
#[derive(Clone, Debug, Default)]
pub struct Gather {
    open: BTreeMap<Key, Gathering>,
}

/// What the requests of a bundle have in common.
type Key = (Vec<(Same, String)>, Vec<String>);

#[derive(Clone, Debug)]
struct Gathering {
    bundle: Bundle,
    closes_at: Timestamp,
    window_ends_at: Timestamp,
}

impl Gathering {
    /// Whether somebody waits to be told.
    fn has_news(&self) -> bool {
        self.bundle.requests.len() > self.bundle.told
    }
}

/// What became of a request that asked to be bundled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Its rules do not say `coalesce`, or what they name is not known of it: it is told by itself, at once.
    Alone,
    /// It waits to be told with others.
    Gathering,
    /// It made the bundle full: this is told now.
    Full(Bundle),
}

impl Gather {
    /// Takes a request; `id` is for the bundle that it may begin.
    pub fn join(&mut self, now: Timestamp, request: &ApprovalRequest, id: BundleId) -> Joined {
        let Some((by, window)) = terms(&request.spec.requirements) else { return Joined::Alone };
        let Some(parts) = shape::parts(&by, request) else { return Joined::Alone };
        // People decide once for all of it, so the same people must be asked in the same way.
        let asks = request.spec.requirements.iter().map(|requirement| format!("{requirement:?}")).collect();
        let key: Key = (parts, asks);
        let fresh = || Gathering {
            bundle: Bundle { id, requests: Vec::new(), began_at: now, told: 0 },
            closes_at: now,
            window_ends_at: after(now, window),
        };
        // What was told and has no news may be past its window: nobody had a reason to look.
        if self.open.get(&key).is_some_and(|old| !old.has_news() && old.window_ends_at <= now) {
            self.open.remove(&key);
        }
        let gathering = self.open.entry(key.clone()).or_insert_with(fresh);
        gathering.bundle.requests.push((request.id, request.operation.digest));
        // What expires soon is told soon.
        let half = request.expires_at.duration_since(now) / 2;
        let latest = now.checked_add(half).unwrap_or(now);
        gathering.window_ends_at = gathering.window_ends_at.min(latest);
        gathering.closes_at = after(now, QUIET.min(window)).min(gathering.window_ends_at);
        if gathering.bundle.requests.len() >= BUNDLE_MAX
            && let Some(full) = self.open.remove(&key)
        {
            return Joined::Full(full.bundle);
        }
        Joined::Gathering
    }

    /// A request ended before it was told. False when it was not being gathered (any more).
    pub fn leave(&mut self, request: RequestId) -> bool {
        let mut found = false;
        for Gathering { bundle, .. } in self.open.values_mut() {
            let untold = bundle.requests.iter().skip(bundle.told).position(|(id, _)| *id == request);
            if let Some(at) = untold {
                bundle.requests.remove(bundle.told + at);
                found = true;
            }
        }
        self.open.retain(|_, gathering| !gathering.bundle.requests.is_empty());
        found
    }

    /// The first `over` requests of a bundle that is told again are over: the others are a bundle of their own, `next`,
    /// which goes on taking more.
    pub fn renew(&mut self, id: BundleId, over: usize, next: BundleId) {
        self.open.retain(|_, gathering| {
            let bundle = &mut gathering.bundle;
            if bundle.id == id {
                bundle.requests.drain(..over.min(bundle.requests.len()));
                bundle.told = bundle.told.saturating_sub(over);
                bundle.id = next;
            }
            bundle.requests.len() > 1 || gathering.has_news()
        });
    }

    /// When a bundle is to be told next, or takes no more.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let next = |one: &Gathering| if one.has_news() { one.closes_at } else { one.window_ends_at };
        self.open.values().map(next).min()
    }

    /// The bundles that are to be told now, or told again.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Vec<Bundle> {
        let mut due = Vec::new();
        self.open.retain(|_, gathering| {
            if gathering.has_news() && gathering.closes_at <= now {
                due.push(gathering.bundle.clone());
                gathering.bundle.told = gathering.bundle.requests.len();
                // What is told alone is no bundle that others could join.
                gathering.bundle.told > 1 && gathering.window_ends_at > now
            } else {
                gathering.has_news() || gathering.window_ends_at > now
            }
        });
        due
    }
}

/// What a request has in common with all that may be bundled with it, when its rules coalesce and all of that is known.
pub(super) fn common(request: &ApprovalRequest) -> Option<Vec<(Same, String)>> {
    terms(&request.spec.requirements).and_then(|(by, _)| shape::parts(&by, request))
}

/// What all rules that ask say of coalescing; None when one of them says nothing.
fn terms(requirements: &[Requirement]) -> Option<(BTreeSet<Same>, Duration)> {
    let all: Option<Vec<_>> =
        requirements.iter().map(|requirement| requirement.terms.coalesce.as_ref()).collect();
    let all = all?;
    let always = [Same::Principal, Same::Rule, Same::Target];
    let by = all.iter().flat_map(|coalesce| &coalesce.by).copied().chain(always).collect();
    Some((by, all.iter().map(|coalesce| coalesce.window).min()?))
}

#[cfg(test)]
mod tests;
