//! Looking into a process's files without being held up by them.
//!
//! A job may put a file system of its own making (FUSE in its mount namespace) under what is read of it, and never answer.
//! Then a thread hangs for as long as the job lives. So threads are few in all and fewer for one cgroup, whoever asks
//! stops waiting, and other jobs are looked at all the same.

use crate::turns::Turns;
use lockgate_model::{flow::Flow, port::Witness};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, time::timeout};

/// One look; files of /proc take microseconds.
const LOOKING: Duration = Duration::from_secs(1);
/// Threads that look, or hang, at one time.
const IN_ALL: usize = 64;
/// Those of them for one cgroup: sixteen such jobs are needed to blind lockgate.
const PER_CGROUP: usize = 4;
pub(crate) struct Looks {
    witness: Arc<dyn Witness>,
    turns: Turns,
    /// Whose threads may hang: not those of whoever asks.
    runtime: Handle,
}

impl Looks {
    /// On the runtime of now.
    pub(crate) fn new(witness: Arc<dyn Witness>) -> Self {
        Self { witness, turns: Turns::new(IN_ALL, PER_CGROUP), runtime: Handle::current() }
    }

    /// What `read` finds, unless it does not come back in time.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        flow: &Flow,
        read: impl FnOnce(&dyn Witness, &Flow) -> T + Send + 'static,
    ) -> Option<T> {
        let turn = timeout(LOOKING, self.turns.take(flow.process.cgroup_id)).await.ok()??;
        let (witness, flow) = (self.witness.clone(), flow.clone());
        let looking = self.runtime.spawn_blocking(move || {
            let found = read(&*witness, &flow);
            drop(turn);
            found
        });
        timeout(LOOKING, looking).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Carrier, flow};
    use std::sync::{Mutex, mpsc};

    #[tokio::test]
    async fn a_job_whose_files_never_answer_blinds_nobody_but_itself() {
        let looks = Looks::new(Arc::new(Carrier::default()));
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(Mutex::new(hang));
        let stuck = |cgroup| {
            let hang = hang.clone();
            let looks = &looks;
            async move { looks.look(&flow(cgroup), move |_, _| hang.lock().unwrap().recv().is_ok()).await }
        };
        let jobs: Vec<u64> = (1..=5).flat_map(|cgroup| [cgroup; 10]).collect();
        let found = futures_util::future::join_all(jobs.into_iter().map(stuck)).await;
        assert!(found.iter().all(Option::is_none));
        assert_eq!(looks.turns.left(), IN_ALL - 5 * PER_CGROUP, "that many threads hang");
        assert_eq!(looks.look(&flow(99), |_, _| 7).await, Some(7));
        assert_eq!(looks.look(&flow(1), |_, _| 7).await, None);
        drop(release);
    }
}
