//! Answers that hold for a short while, so that a job that connects again and again does not ask a provider each time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Answers remembered; jobs of one host are few at a time.
const REMEMBERED: usize = 4096;

#[derive(Debug)]
pub(crate) struct Memo<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> Memo<K, V> {
    pub(crate) fn known(&self, key: &K) -> Option<V> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    pub(crate) fn keep(&self, key: K, value: V, time: Duration) {
        let now = Instant::now();
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= REMEMBERED {
            entries.retain(|_, (until, _)| *until > now);
        }
        // Forgetting costs a question, no more.
        if entries.len() >= REMEMBERED {
            entries.clear();
        }
        entries.insert(key, (now + time, value));
    }
}
