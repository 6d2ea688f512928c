//! Ending one session by hand: found by its id, told why, dropped when it does not listen.
//!
//! It uses the way of a drain: the session's deadline comes early, and for it alone. Who may do this, and that it is
//! recorded, is for whoever calls [`crate::Proxy::kill`].

use lockgate_model::SessionId;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What a session that was told to end gets to say goodbye on both legs; then its task is dropped. More than
/// [`crate::limits::FAREWELL_TIME`], which bounds each leg's last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The word that one session ends.
#[derive(Clone)]
pub(crate) struct Kill {
    /// Cancelled with the proxy's own deadline, or alone.
    pub(crate) ended: CancellationToken,
    /// Why, for the client; set before `ended`.
    pub(crate) words: Arc<OnceLock<String>>,
    abandoned: CancellationToken,
    /// Stops what runs on the target.
    stop: Arc<dyn Fn() + Send + Sync>,
}

/// The open sessions of a proxy by their ids.
#[derive(Default)]
pub(crate) struct Live(Mutex<HashMap<SessionId, Kill>>);

impl Live {
    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, Kill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is open until the seat is dropped. `stop` is called when it is killed.
    pub(crate) fn seat(
        self: &Arc<Self>,
        id: SessionId,
        deadline: &CancellationToken,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Seat {
        let kill = Kill {
            ended: deadline.child_token(),
            words: Arc::default(),
            abandoned: CancellationToken::new(),
            stop: Arc::new(stop),
        };
        self.open().insert(id, kill.clone());
        Seat { live: self.clone(), id, kill }
    }

    pub(crate) fn holds(&self, id: SessionId) -> bool {
        self.open().contains_key(&id)
    }

    /// Must be called on a runtime. The first words count.
    pub(crate) fn kill(&self, id: SessionId, words: String) -> bool {
        let Some(kill) = self.open().get(&id).cloned() else { return false };
        let _ = kill.words.set(words);
        kill.ended.cancel();
        (kill.stop)();
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            kill.abandoned.cancel();
        });
        true
    }
}

/// A session's place among the living.
pub(crate) struct Seat {
    live: Arc<Live>,
    id: SessionId,
    kill: Kill,
}

impl Seat {
    pub(crate) fn kill(&self) -> &Kill {
        &self.kill
    }

    /// Runs the session to its end, or until it was told to end and did not.
    pub(crate) async fn until_abandoned(&self, session: impl Future<Output = ()>) {
        tokio::select! {
            // Polled first: nothing is asked of the token while the session moves bytes.
            biased;
            () = session => {}
            () = self.kill.abandoned.cancelled() => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.live.open().remove(&self.id);
    }
}
