//! The outside world's clock and randomness, handed down to crates that may not reach for them.

use lockgate_model::{Timestamp, port::Ambient};

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
        let mut bytes = [0; 16];
        #[allow(clippy::expect_used, reason = "see above")]
        getrandom::fill(&mut bytes).expect("randomness from the kernel");
        u128::from_ne_bytes(bytes)
    }
}
