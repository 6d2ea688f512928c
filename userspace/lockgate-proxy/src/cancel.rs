//! Which session a CancelRequest means.
//!
//! Clients get keys of lockgate's own; the target's stay here. A cancellation of a held or undecided statement ends in
//! the session itself; anything else is carried to the target over a new connection, as the protocol wants it.

use bytes::Bytes;
use lockgate_model::port::Ambient;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Notify;

/// What a client must know to cancel: process id and key of the protocol's own shape.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct CancelKey {
    /// The target's process id: clients compare it with `pg_backend_pid()` and with the sender of a notification. It is
    /// no secret; of lockgate's making where the target told none.
    pub(crate) process_id: u32,
    /// The secret.
    pub(crate) secret: Bytes,
}

/// How many bytes a session's secret has: protocol 3.0 has room for four, from 3.2 on there are as many as PostgreSQL 18
/// itself uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecretSize {
    /// 4.
    Short,
    /// 32.
    Long,
}

/// One session's end of a cancellation.
#[derive(Debug, Default)]
pub(crate) struct CancelSignal {
    /// A statement is being decided or held: a cancellation belongs to it, not to the target.
    deciding: AtomicBool,
    asked: AtomicBool,
    wake: Notify,
}

/// What becomes of a cancellation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Delivery<T> {
    /// The session withdraws what it waits for.
    Withdrawn,
    /// The target has to be told.
    Upstream(T),
    /// No session has this key.
    Unknown,
}

impl CancelSignal {
    /// A statement is being decided from here on. Older cancellations meant older statements.
    pub(crate) fn begin(&self) {
        self.asked.store(false, Ordering::SeqCst);
        self.deciding.store(true, Ordering::SeqCst);
    }

    /// Nothing is being decided any more; true when somebody cancelled meanwhile.
    #[must_use]
    pub(crate) fn finish(&self) -> bool {
        self.deciding.store(false, Ordering::SeqCst);
        self.asked.swap(false, Ordering::SeqCst)
    }

    /// Waits for a cancellation. Cancel-safe.
    pub(crate) async fn asked(&self) {
        loop {
            let wake = self.wake.notified();
            if self.asked.load(Ordering::SeqCst) {
                return;
            }
            wake.await;
        }
    }

    /// Cancels what is being decided; false when nothing is, so that the target has to be told.
    pub(crate) fn cancel(&self) -> bool {
        if !self.deciding.load(Ordering::SeqCst) {
            return false;
        }
        self.asked.store(true, Ordering::SeqCst);
        self.wake.notify_one();
        // Between the two lines above the decision may have ended without seeing the flag.
        self.deciding.load(Ordering::SeqCst)
    }
}

struct Entry<T> {
    signal: Arc<CancelSignal>,
    upstream: T,
}

/// Keys of all live sessions; `T` is what it takes to reach the target's own cancellation.
pub(crate) struct CancelRegistry<T> {
    entries: Mutex<HashMap<CancelKey, Entry<T>>>,
}

impl<T> Default for CancelRegistry<T> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<T: Clone> CancelRegistry<T> {
    /// Gives a session its key; dropping the registration takes it back. `process_id` is what the target calls itself:
    /// two targets may use the same one, the secret tells them apart.
    pub(crate) fn register(
        self: &Arc<Self>,
        ambient: &dyn Ambient,
        process_id: Option<u32>,
        size: SecretSize,
        upstream: T,
    ) -> Registration<T> {
        let signal = Arc::new(CancelSignal::default());
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = loop {
            let own = u32::from_le_bytes(pick(ambient.random())) >> 1;
            let secret = match size {
                SecretSize::Short => Bytes::copy_from_slice(&pick(ambient.random())),
                SecretSize::Long => {
                    [ambient.random().to_le_bytes(), ambient.random().to_le_bytes()].concat().into()
                }
            };
            let key = CancelKey { process_id: process_id.unwrap_or(own), secret };
            if !entries.contains_key(&key) {
                break key;
            }
        };
        entries.insert(key.clone(), Entry { signal: signal.clone(), upstream });
        Registration { registry: self.clone(), key, signal }
    }

    /// Delivers a CancelRequest as far as lockgate itself can.
    pub(crate) fn cancel(&self, process_id: u32, key: &Bytes) -> Delivery<T> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get(&CancelKey { process_id, secret: key.clone() }) {
            None => Delivery::Unknown,
            Some(entry) if entry.signal.cancel() => Delivery::Withdrawn,
            Some(entry) => Delivery::Upstream(entry.upstream.clone()),
        }
    }
}

/// Four bytes of a random number.
fn pick(random: u128) -> [u8; 4] {
    let [_, _, _, _, e, f, g, h, ..] = random.to_le_bytes();
    [e, f, g, h]
}

/// One session's key, while it lives.
pub(crate) struct Registration<T> {
    registry: Arc<CancelRegistry<T>>,
    /// What the client is told.
    pub(crate) key: CancelKey,
    /// What the session listens to.
    pub(crate) signal: Arc<CancelSignal>,
}

impl<T> Drop for Registration<T> {
    fn drop(&mut self) {
        self.registry.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FixedAmbient;

    #[tokio::test]
    async fn a_cancellation_reaches_what_is_being_decided_and_else_the_target() {
        let registry = Arc::new(CancelRegistry::default());
        let ambient = FixedAmbient::default();
        let session = registry.register(&ambient, None, SecretSize::Short, "target");
        let key = session.key.secret.clone();
        let pid = session.key.process_id;
        assert_eq!(registry.cancel(pid, &key), Delivery::Upstream("target"));
        assert_eq!(registry.cancel(pid ^ 1, &key), Delivery::Unknown);
        assert_eq!(registry.cancel(pid, &Bytes::from_static(b"12345")), Delivery::Unknown);
        session.signal.begin();
        assert_eq!(registry.cancel(pid, &key), Delivery::Withdrawn);
        session.signal.asked().await;
        assert!(session.signal.finish());
        assert!(!session.signal.finish());
        drop(session);
        assert_eq!(registry.cancel(pid, &key), Delivery::Unknown);
    }

    #[test]
    fn sessions_on_two_targets_may_have_the_same_process_id() {
        let registry = Arc::new(CancelRegistry::default());
        let ambient = FixedAmbient::default();
        let [one, other] =
            ["one", "other"].map(|name| registry.register(&ambient, Some(4711), SecretSize::Long, name));
        assert_eq!((one.key.process_id, other.key.process_id), (4711, 4711));
        let cancelled = |key: &CancelKey| registry.cancel(4711, &key.secret);
        assert_eq!(cancelled(&one.key), Delivery::Upstream("one"));
        assert_eq!(cancelled(&other.key), Delivery::Upstream("other"));
        assert_eq!((one.key.secret.len(), one.key.secret == other.key.secret), (32, false));
        assert_eq!(registry.cancel(4711, &one.key.secret.slice(..4)), Delivery::Unknown);
    }
}
