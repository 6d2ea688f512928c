//! Stopping in order: sessions end when they are idle, and all at the deadline.

use crate::{kill::Kill, report::Ending};
use lockgate_model::{approval::WithdrawReason, outcome::CloseReason};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{runtime::Handle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// After the deadline, what sessions get to withdraw requests and to tell their clients.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// The sessions of a proxy, and the word that they should end. A session has a copy whose deadline can also come for it
/// alone.
#[derive(Clone, Default)]
pub(crate) struct Drain {
    /// No new connections; idle sessions end.
    pub(crate) draining: CancellationToken,
    /// All sessions end.
    pub(crate) deadline: CancellationToken,
    /// Sessions that did not end by themselves are dropped.
    abandoned: CancellationToken,
    tasks: TaskTracker,
    /// Why the deadline came, when it came for this session alone.
    words: Arc<OnceLock<String>>,
}

impl Drain {
    /// Runs a connection's task until it ends, or is abandoned at the end of a drain.
    pub(crate) fn spawn(&self, lane: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let abandoned = self.abandoned.clone();
        let task = async move {
            tokio::select! {
                // Polled first: nothing is asked of the token while the task moves bytes.
                biased;
                () = task => {}
                () = abandoned.cancelled() => {}
            }
        };
        self.tasks.spawn_on(task, lane);
    }

    /// The same for one session, which a [`Kill`] ends alone.
    pub(crate) fn of(&self, kill: &Kill) -> Self {
        Self { deadline: kill.ended.clone(), words: kill.words.clone(), ..self.clone() }
    }

    /// How a session ends whose deadline has come, and what becomes of what it waits for.
    pub(crate) fn ending(&self) -> (WithdrawReason, Ending) {
        match self.words.get() {
            Some(words) => {
                (WithdrawReason::Disconnected, Ending::because(CloseReason::Killed, words.clone()))
            }
            None => (WithdrawReason::Drained, Ending::plain(CloseReason::Drained)),
        }
    }

    /// Live connections.
    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Ends all sessions: idle ones now, others when they become idle, the rest after `limit`. Returns when none is left.
    pub(crate) async fn run(&self, limit: Duration) {
        self.draining.cancel();
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::info!(sessions = self.tasks.len(), "the drain's deadline has come; ending sessions");
        self.deadline.cancel();
        if timeout(LAST_WORDS, self.tasks.wait()).await.is_err() {
            self.abandoned.cancel();
            self.tasks.wait().await;
        }
    }
}
