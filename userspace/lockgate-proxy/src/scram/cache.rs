//! Keys that were derived already, so that a new connection does not cost thousands of hashes again.
//!
//! The password is read anew for every login all the same: a rotated one has another tag and is derived anew. What is
//! kept is as good as the password on this target, so it is few, wiped, and gone a minute after its last use.

use super::keys::{KEY_BYTES, Keys, hmac};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Roles of one agent that log in at the same time; more derive anew.
const MAX_KEYS: usize = 64;
/// Connections that come more rarely than this can afford the milliseconds.
pub(crate) const KEEP: Duration = Duration::from_secs(60);

/// Keys of one process. The salt is the role's own, so keys of two roles never meet.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<State>);

#[derive(Default)]
struct State {
    /// Tags are made with it, so that a stolen tag is not a hash of the password that can be guessed at leisure.
    key: Option<Zeroizing<[u8; KEY_BYTES]>>,
    entries: Vec<Entry>,
    /// Somebody is about to forget what is old.
    swept: bool,
}

struct Entry {
    tag: [u8; KEY_BYTES],
    keys: Keys,
    used: Instant,
}

impl KeyCache {
    /// The keys, derived on a thread of its own when they are not at hand. `None`: no such thread, at the end of the
    /// process.
    pub(crate) async fn keys(
        self: &Arc<Self>,
        password: &[u8],
        salt: &[u8],
        iterations: u32,
    ) -> Option<Keys> {
        let tag = self.tag(password, salt, iterations);
        if let Some(tag) = &tag
            && let Some(keys) = self.take(tag)
        {
            return Some(keys);
        }
        let (password, salt) = (Zeroizing::new(password.to_vec()), salt.to_vec());
        let derive = move || Keys::derive(&password, &salt, iterations);
        let keys = tokio::task::spawn_blocking(derive).await.ok()?;
        if let Some(tag) = tag {
            self.keep(tag, keys.clone());
        }
        Some(keys)
    }

    /// Forgets what was not used for a while, until there is nothing left to forget.
    async fn sweep(cache: std::sync::Weak<Self>) {
        loop {
            tokio::time::sleep(KEEP / 2).await;
            let Some(cache) = cache.upgrade() else { return };
            let mut state = cache.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.entries.retain(|entry| entry.used.elapsed() < KEEP);
            if state.entries.is_empty() {
                state.swept = false;
                return;
            }
        }
    }

    fn tag(&self, password: &[u8], salt: &[u8], iterations: u32) -> Option<[u8; KEY_BYTES]> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = match &state.key {
            Some(key) => key.clone(),
            None => {
                let mut fresh = Zeroizing::new([0; KEY_BYTES]);
                getrandom::fill(&mut *fresh).ok()?;
                state.key = Some(fresh.clone());
                fresh
            }
        };
        drop(state);
        let (length, rounds) = ((salt.len() as u64).to_be_bytes(), iterations.to_be_bytes());
        Some(hmac(&*key, &[&rounds, &length, salt, password]))
    }

    fn take(&self, tag: &[u8; KEY_BYTES]) -> Option<Keys> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.retain(|entry| entry.used.elapsed() < KEEP);
        let entry = state.entries.iter_mut().find(|entry| entry.tag == *tag)?;
        entry.used = Instant::now();
        Some(entry.keys.clone())
    }

    fn keep(self: &Arc<Self>, tag: [u8; KEY_BYTES], keys: Keys) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.entries.iter().any(|entry| entry.tag == tag) {
            return;
        }
        if state.entries.len() >= MAX_KEYS {
            let oldest = state.entries.iter().enumerate().min_by_key(|(_, entry)| entry.used);
            if let Some(at) = oldest.map(|(at, _)| at) {
                state.entries.swap_remove(at);
            }
        }
        state.entries.push(Entry { tag, keys, used: Instant::now() });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(Self::sweep(Arc::downgrade(self)));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.len()
    }
}

impl std::fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyCache(…)")
    }
}
