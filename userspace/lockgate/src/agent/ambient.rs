//! The outside world's clock and randomness, handed down to crates that may not reach for them.

use lockgate_model::{Timestamp, port::Ambient};
use std::cell::RefCell;

/// Bytes taken from the kernel at once: every operation needs two ids, and a call costs as much as both.
const POOL_BYTES: usize = 1024;

/// Randomness that nobody has used. Ids are unique and no secrets: that some rest in memory gives nothing away.
#[derive(Default)]
struct Pool {
    left: Vec<u128>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// The system's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct System;

impl Ambient for System {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// # Panics
    /// When the kernel gives no randomness (getrandom(2) does not fail on a kernel that runs eBPF): an id
    /// that could be guessed or repeat is worse than a session that ends.
    fn random(&self) -> u128 {
        POOL.with_borrow_mut(|pool| {
            if pool.left.is_empty() {
                let mut bytes = [0; POOL_BYTES];
                #[allow(clippy::expect_used, reason = "see above")]
                getrandom::fill(&mut bytes).expect("randomness from the kernel");
                let (whole, _) = bytes.as_chunks();
                pool.left.extend(whole.iter().map(|bytes| u128::from_ne_bytes(*bytes)));
            }
            pool.left.pop().unwrap_or_default()
        })
    }
}
