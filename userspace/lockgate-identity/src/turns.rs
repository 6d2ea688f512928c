//! Who may do something at one time: so many in all, and fewer from one cgroup, so that no job takes every turn.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// cgroups remembered before those that nobody waits for are forgotten.
const REMEMBERED: usize = 1024;

pub(crate) struct Turns {
    all: Arc<Semaphore>,
    per_cgroup: usize,
    by_cgroup: Mutex<HashMap<u64, Arc<Semaphore>>>,
}

/// Gives the turn back when dropped.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(in_all: usize, per_cgroup: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(in_all)), per_cgroup, by_cgroup: Mutex::default() }
    }

    /// Waits for a turn; None never comes, since nothing closes the semaphores.
    pub(crate) async fn take(&self, cgroup: u64) -> Option<Turn> {
        // A job's own queue first: what waits here holds no turn of others.
        let own = self.of_cgroup(cgroup).acquire_owned().await.ok()?;
        let all = self.all.clone().acquire_owned().await.ok()?;
        Some(Turn { _own: own, _all: all })
    }

    fn of_cgroup(&self, cgroup: u64) -> Arc<Semaphore> {
        let mut known = self.by_cgroup.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            let per_cgroup = self.per_cgroup;
            known.retain(|_, turns| turns.available_permits() < per_cgroup || Arc::strong_count(turns) > 1);
        }
        known.entry(cgroup).or_insert_with(|| Arc::new(Semaphore::new(self.per_cgroup))).clone()
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.all.available_permits()
    }
}
