//! Who showed a job's proof first: a token that is seen again from another place was borrowed.
//!
//! In memory only. After a restart the first to come is first again, for as long as the token is valid; issuers of
//! short-lived tokens make that short.

use lockgate_model::{flow::Flow, workload::Workload};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Jobs remembered: a runner that starts one a second for a day stays below.
const REMEMBERED: usize = 100_000;
/// A job's proof stays bound for at least this many seconds, also when its token ends sooner: it may get another.
const AT_LEAST: u64 = 24 * 3600;

/// Where a workload runs, by what it could not have named itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place(String);

impl Place {
    /// The pod, the container, the unit of the system manager with its invocation, or the cgroup itself: processes
    /// of one job may be in several cgroups below that, those of two jobs never share it at one time.
    pub(crate) fn of(flow: &Flow, workload: &Workload) -> Self {
        if let Some(pod) = &workload.pod {
            return Self(format!("pod {}", pod.uid));
        }
        if let Some(container) = workload.container.as_ref().filter(|container| !container.claimed) {
            return Self(format!("container {}", container.id));
        }
        match workload.unit.as_ref().filter(|unit| !unit.user_unit) {
            Some(unit) => {
                let invocation = unit.invocation_id.as_deref().unwrap_or("?");
                Self(format!("unit {} ({invocation})", unit.name))
            }
            None => Self(format!("cgroup {}", flow.process.cgroup_id)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a proof is not taken from here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Borrowed {
    #[error("it belongs to another workload: it was first shown by {first}, now by {here}")]
    Elsewhere { first: String, here: String },
    #[error("{REMEMBERED} jobs are bound already")]
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct FirstSeen(Mutex<HashMap<String, Bound>>);

#[derive(Debug)]
struct Bound {
    place: Place,
    /// Seconds since the epoch.
    until: u64,
}

impl FirstSeen {
    /// Binds a job to the first place that shows its proof, and refuses every other.
    pub(crate) fn bind(&self, job: &str, place: &Place, expires: u64, now: u64) -> Result<(), Borrowed> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = jobs.get_mut(job).filter(|bound| bound.until > now) {
            if bound.place != *place {
                let first = bound.place.to_string();
                return Err(Borrowed::Elsewhere { first, here: place.to_string() });
            }
            bound.until = bound.until.max(expires);
            return Ok(());
        }
        if jobs.len() >= REMEMBERED {
            jobs.retain(|_, bound| bound.until > now);
        }
        // Forgetting one that still counts would let its proof be borrowed.
        if jobs.len() >= REMEMBERED {
            return Err(Borrowed::Full);
        }
        let until = expires.max(now.saturating_add(AT_LEAST));
        jobs.insert(job.to_owned(), Bound { place: place.clone(), until });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_place_is_refused_until_the_proof_has_ended() {
        let seen = FirstSeen::default();
        let (a, b) = (Place("pod a".to_owned()), Place("pod b".to_owned()));
        assert_eq!(seen.bind("job 1", &a, 500, 100), Ok(()));
        assert_eq!(seen.bind("job 1", &a, 900, 400), Ok(()));
        let refused = seen.bind("job 1", &b, 900, 400).unwrap_err();
        assert!(refused.to_string().contains("first shown by pod a, now by pod b"), "{refused}");
        assert_eq!(seen.bind("job 2", &b, 900, 400), Ok(()), "another job is another matter");
        assert!(seen.bind("job 1", &b, 900, 100 + AT_LEAST - 1).is_err());
        assert_eq!(seen.bind("job 1", &b, u64::MAX, 100 + AT_LEAST), Ok(()));
    }

    #[test]
    fn when_full_the_newcomer_is_refused_and_the_old_stay_bound() {
        let seen = FirstSeen::default();
        let (a, b) = (Place("a".to_owned()), Place("b".to_owned()));
        for job in 0..REMEMBERED {
            seen.bind(&job.to_string(), &a, 10, 0).unwrap();
        }
        assert_eq!(seen.bind("new", &b, 10, 1), Err(Borrowed::Full));
        assert!(matches!(seen.bind("7", &b, 10, 1), Err(Borrowed::Elsewhere { .. })));
        assert_eq!(seen.bind("new", &b, 10, AT_LEAST + 1), Ok(()), "room is made by those that have ended");
    }
}
