//! Message ids that have had an effect. Only ids of verified decisions that were counted are kept: what is
//! refused leaves nothing behind, so a flood of it can neither fill this memory nor push anything out, and a
//! sender may send a message again that was refused for a reason that has passed.
//!
//! Forgetting is harmless: a vote that is played again meets its own person in the count, or a request that
//! is over. The memory exists to say `replayed`, and to keep two copies of one message from racing.

use lockgate_model::Timestamp;
use parking_lot::Mutex;
use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

/// A timestamp is accepted 5 minutes both ways (Standard Webhooks' tolerance), so a message can come again for
/// at most twice that.
pub(crate) const WINDOW: Duration = Duration::from_secs(10 * 60);

/// Ids kept at once: more votes than people cast in [`WINDOW`].
const KEPT_MAX: usize = 65_536;

/// Integration and message id.
type Key = (String, String);

/// The ids that had an effect, and those that are being looked at.
#[derive(Default)]
pub(crate) struct Replays {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashSet<Key>,
    counted: VecDeque<(Timestamp, Key)>,
}

/// An id that is being looked at; forgotten when dropped, unless [`Claim::keep`] is called.
pub(crate) struct Claim<'a> {
    replays: &'a Replays,
    key: Option<Key>,
}

impl Replays {
    /// Claims an id; None when it has had its effect or is being looked at.
    pub(crate) fn claim(&self, now: Timestamp, integration: &str, id: &str) -> Option<Claim<'_>> {
        let key = (integration.to_owned(), id.to_owned());
        let mut inner = self.inner.lock();
        inner.forget(now);
        inner.known.insert(key.clone()).then(|| Claim { replays: self, key: Some(key) })
    }
}

impl Claim<'_> {
    /// It had its effect.
    pub(crate) fn keep(mut self, now: Timestamp) {
        if let Some(key) = self.key.take() {
            self.replays.inner.lock().counted.push_back((now, key));
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.replays.inner.lock().known.remove(&key);
        }
    }
}

impl Inner {
    fn forget(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.counted.front() {
            let old = Duration::try_from(now.duration_since(*at)).is_ok_and(|age| age > WINDOW);
            if !old && self.counted.len() < KEPT_MAX {
                return;
            }
            if let Some((_, key)) = self.counted.pop_front() {
                self.known.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_had_an_effect_is_remembered_and_not_for_ever() {
        let replays = Replays::default();
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        drop(replays.claim(at(0), "a", "1").unwrap());
        let claim = replays.claim(at(0), "a", "1").unwrap();
        assert!(replays.claim(at(0), "a", "1").is_none(), "two copies do not race");
        claim.keep(at(0));
        assert!(replays.claim(at(600), "a", "1").is_none());
        assert!(replays.claim(at(0), "b", "1").is_some(), "ids belong to their integration");
        assert!(replays.claim(at(601), "a", "1").is_some());
    }

    #[test]
    fn the_memory_is_bounded() {
        let replays = Replays::default();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for id in 0..KEPT_MAX + 1_000 {
            replays.claim(now, "a", &id.to_string()).unwrap().keep(now);
        }
        let inner = replays.inner.lock();
        assert!(inner.known.len() <= KEPT_MAX && inner.counted.len() <= KEPT_MAX);
    }
}
