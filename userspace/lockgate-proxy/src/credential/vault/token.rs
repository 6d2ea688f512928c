//! A token of the vault, and how long it lives. What a token made (accounts, above all) ends with it, so whoever has
//! something of it keeps it alive.

use lockgate_model::Secret;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A token that expires sooner is not worth keeping for others.
const MIN_LIFE: Duration = Duration::from_secs(10);
/// The vault is not asked more often than this, about whatever it gave.
pub(super) const MIN_RENEWAL: Duration = Duration::from_secs(1);
/// A token without an end (a root token) is fetched anew this often all the same.
const ENDLESS: Duration = Duration::from_secs(3600);

/// One token.
pub(super) struct Token {
    pub(super) value: Secret<String>,
    life: Mutex<Option<Life>>,
}

/// What the vault said last of a token that lockgate logged in for.
#[derive(Clone, Copy)]
struct Life {
    since: Instant,
    /// Zero: it has no end.
    length: Duration,
    /// When to renew it; None when it cannot be.
    due: Option<Instant>,
}

impl Token {
    /// Somebody else's: they keep it fresh.
    pub(super) fn foreign(value: Secret<String>) -> Self {
        Self { value, life: Mutex::new(None) }
    }

    /// lockgate's own, good for so many seconds.
    pub(super) fn own(value: Secret<String>, seconds: u64, renewable: bool) -> Self {
        let token = Self::foreign(value);
        token.said(seconds, renewable);
        token
    }

    /// What the vault says of it now. It is renewed at half of its life.
    pub(super) fn said(&self, seconds: u64, renewable: bool) {
        let (since, length) = (Instant::now(), Duration::from_secs(seconds));
        let due = (renewable && seconds > 0).then(|| since + (length / 2).max(MIN_RENEWAL));
        *self.lock() = Some(Life { since, length, due });
    }

    /// It could not be renewed now: at half of what is left, or, when nothing is or `final_word`, never.
    pub(super) fn not_renewed(&self, final_word: bool) {
        let left = self.left().filter(|left| !final_word && !left.is_zero());
        if let Some(life) = &mut *self.lock() {
            life.due = left.map(|left| Instant::now() + (left / 2).max(MIN_RENEWAL));
        }
    }

    /// Whether it may serve another request; only lockgate's own are kept.
    pub(super) fn is_fresh(&self) -> bool {
        self.lock().is_some_and(|life| {
            let length = if life.length.is_zero() { ENDLESS } else { life.length };
            length >= MIN_LIFE && life.since.elapsed() < length * 2 / 3
        })
    }

    /// When it has to be renewed, if it can be.
    pub(super) fn renewal(&self) -> Option<Instant> {
        self.lock().and_then(|life| life.due)
    }

    /// What is left of it; None when it has no end, or one that is not lockgate's business.
    pub(super) fn left(&self) -> Option<Duration> {
        let life = self.lock().filter(|life| !life.length.is_zero())?;
        Some(life.length.saturating_sub(life.since.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
