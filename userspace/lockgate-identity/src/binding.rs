//! Who showed a job's proof first: a token that is seen again from another place was borrowed.
//!
//! Kept on a [`Shelf`], before the job is believed: after a restart of lockgate, who was first is still first. Without one
//! (in tests) they live in memory.

use lockgate_model::{flow::Flow, port::Shelf, workload::Workload};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::task::spawn_blocking;

/// Jobs remembered: a runner that starts one a second for a day stays below.
const REMEMBERED: usize = 100_000;
/// A job's proof stays bound for at least this many seconds, also when its token ends sooner: it may get another.
const AT_LEAST: u64 = 24 * 3600;

/// Where a workload runs, by what it could not have named itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    #[error("that it belongs to this workload cannot be kept: {0}")]
    Unkept(String),
}

/// Who showed what first.
#[derive(Default)]
pub(crate) struct FirstSeen {
    jobs: Mutex<HashMap<String, Bound>>,
    shelf: Option<Arc<dyn Shelf>>,
}

/// One job, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    job: String,
    place: Place,
    /// Seconds since the epoch.
    until: u64,
}

impl Bound {
    /// A name that any shelf takes, whatever an issuer calls its jobs.
    fn name(&self) -> String {
        Sha256::digest(&self.job).iter().fold("job_".to_owned(), |name, byte| format!("{name}{byte:02x}"))
    }
}

impl FirstSeen {
    /// With what an earlier agent bound; reads all of it.
    ///
    /// # Errors
    /// When the shelf cannot be read: then nobody knows who was first.
    pub(crate) fn kept_on(shelf: Arc<dyn Shelf>, now: u64) -> std::io::Result<Self> {
        let mut jobs = HashMap::new();
        for (name, value) in shelf.all()? {
            match serde_json::from_slice::<Bound>(&value) {
                Ok(bound) if bound.until > now => drop(jobs.insert(bound.job.clone(), bound)),
                Ok(_) => shelf.remove(&name)?,
                Err(error) => tracing::error!(name, %error, "whose proof a job's was cannot be read"),
            }
        }
        Ok(Self { jobs: Mutex::new(jobs), shelf: Some(shelf) })
    }

    /// Binds a job to the first place that shows its proof, and refuses every other. Cancel-safe: a job that is bound and
    /// not kept is bound as long as this process lives.
    pub(crate) async fn bind(
        &self,
        job: &str,
        place: &Place,
        expires: u64,
        now: u64,
    ) -> Result<(), Borrowed> {
        let (bound, over) = self.remember(job, place, expires, now)?;
        let (Some(bound), Some(shelf)) = (bound, self.shelf.clone()) else { return Ok(()) };
        let kept = spawn_blocking(move || {
            // Only room is lost with one that stays.
            over.iter().for_each(|old| drop(shelf.remove(&old.name())));
            let value = serde_json::to_vec(&bound).map_err(|error| error.to_string())?;
            shelf.put(&bound.name(), &value).map_err(|error| error.to_string())
        });
        let kept = kept.await.map_err(|_| "the write panicked".to_owned()).flatten();
        kept.map_err(|why| {
            self.jobs().remove(job);
            Borrowed::Unkept(why)
        })
    }

    /// What is to be kept anew, and what no longer.
    fn remember(
        &self,
        job: &str,
        place: &Place,
        expires: u64,
        now: u64,
    ) -> Result<(Option<Bound>, Vec<Bound>), Borrowed> {
        let mut jobs = self.jobs();
        if let Some(bound) = jobs.get_mut(job).filter(|bound| bound.until > now) {
            if bound.place != *place {
                let first = bound.place.to_string();
                return Err(Borrowed::Elsewhere { first, here: place.to_string() });
            }
            let longer = expires > bound.until;
            bound.until = bound.until.max(expires);
            return Ok((longer.then(|| bound.clone()), Vec::new()));
        }
        let mut over = Vec::new();
        if jobs.len() >= REMEMBERED {
            over.extend(jobs.extract_if(|_, bound| bound.until <= now).map(|(_, bound)| bound));
        }
        // Forgetting one that still counts would let its proof be borrowed.
        if jobs.len() >= REMEMBERED {
            return Err(Borrowed::Full);
        }
        let until = expires.max(now.saturating_add(AT_LEAST));
        let bound = Bound { job: job.to_owned(), place: place.clone(), until };
        jobs.insert(job.to_owned(), bound.clone());
        Ok((Some(bound), over))
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<String, Bound>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_place_is_refused_until_the_proof_has_ended() {
        let seen = FirstSeen::default();
        let (a, b) = (Place("pod a".to_owned()), Place("pod b".to_owned()));
        assert_eq!(seen.bind("job 1", &a, 500, 100).await, Ok(()));
        assert_eq!(seen.bind("job 1", &a, 900, 400).await, Ok(()));
        let refused = seen.bind("job 1", &b, 900, 400).await.unwrap_err();
        assert!(refused.to_string().contains("first shown by pod a, now by pod b"), "{refused}");
        assert_eq!(seen.bind("job 2", &b, 900, 400).await, Ok(()), "another job is another matter");
        assert!(seen.bind("job 1", &b, 900, 100 + AT_LEAST - 1).await.is_err());
        assert_eq!(seen.bind("job 1", &b, u64::MAX, 100 + AT_LEAST).await, Ok(()));
    }

    #[tokio::test]
    async fn when_full_the_newcomer_is_refused_and_the_old_stay_bound() {
        let seen = FirstSeen::default();
        let (a, b) = (Place("a".to_owned()), Place("b".to_owned()));
        for job in 0..REMEMBERED {
            seen.bind(&job.to_string(), &a, 10, 0).await.unwrap();
        }
        assert_eq!(seen.bind("new", &b, 10, 1).await, Err(Borrowed::Full));
        assert!(matches!(seen.bind("7", &b, 10, 1).await, Err(Borrowed::Elsewhere { .. })));
        assert_eq!(
            seen.bind("new", &b, 10, AT_LEAST + 1).await,
            Ok(()),
            "room is made by those that have ended"
        );
    }

    /// A shelf in memory; `broken` ones take nothing.
    #[derive(Default)]
    struct Board {
        values: Mutex<HashMap<String, Vec<u8>>>,
        broken: std::sync::atomic::AtomicBool,
    }

    impl Board {
        fn is_broken(&self) -> bool {
            self.broken.load(std::sync::atomic::Ordering::Relaxed)
        }
    }

    impl Shelf for Board {
        fn put(&self, name: &str, value: &[u8]) -> std::io::Result<()> {
            if self.is_broken() {
                return Err(std::io::Error::other("no space left on device"));
            }
            self.values.lock().unwrap().insert(name.to_owned(), value.to_vec());
            Ok(())
        }

        fn remove(&self, name: &str) -> std::io::Result<()> {
            self.values.lock().unwrap().remove(name);
            Ok(())
        }

        fn all(&self) -> std::io::Result<Vec<(String, Vec<u8>)>> {
            if self.is_broken() {
                return Err(std::io::Error::other("input/output error"));
            }
            Ok(self.values.lock().unwrap().clone().into_iter().collect())
        }
    }

    #[tokio::test]
    async fn who_was_first_is_first_after_a_restart() {
        let shelf = Arc::new(Board::default());
        let (a, b) = (Place("pod a".to_owned()), Place("pod b".to_owned()));
        let job = "https://ci.example.com/../../x job 7\n";
        let before = FirstSeen::kept_on(shelf.clone(), 100).unwrap();
        before.bind(job, &a, 500, 100).await.unwrap();
        // Its next token lives longer than what is kept for any.
        let long = 100 + AT_LEAST * 2;
        before.bind(job, &a, long, 200).await.unwrap();
        drop(before);
        let after = FirstSeen::kept_on(shelf.clone(), long - 1).unwrap();
        assert!(matches!(after.bind(job, &b, long, long - 1).await, Err(Borrowed::Elsewhere { .. })));
        assert_eq!(after.bind(job, &a, long, long - 1).await, Ok(()));
        assert_eq!(shelf.all().unwrap().len(), 1);
        // What is over is neither believed nor kept.
        let later = FirstSeen::kept_on(shelf.clone(), long).unwrap();
        assert!(shelf.all().unwrap().is_empty());
        assert_eq!(later.bind(job, &b, long + 1, long).await, Ok(()));
    }

    #[tokio::test]
    async fn what_cannot_be_kept_is_not_believed() {
        let shelf = Arc::new(Board::default());
        let place = Place("pod a".to_owned());
        let seen = FirstSeen::kept_on(shelf.clone(), 0).unwrap();
        shelf.broken.store(true, std::sync::atomic::Ordering::Relaxed);
        let refused = seen.bind("job", &place, 500, 100).await.unwrap_err();
        assert!(refused.to_string().contains("no space left"), "{refused}");
        assert!(FirstSeen::kept_on(shelf.clone(), 0).is_err(), "nobody knows who was first");
        shelf.broken.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(seen.bind("job", &place, 500, 100).await, Ok(()));
        // Something else's file, or half of one, takes nothing down.
        shelf.put("job_x", b"{").unwrap();
        assert!(FirstSeen::kept_on(shelf, 0).is_ok());
    }
}
