//! What the tests of this crate share: a clock that stands still, targets, and flows.

use crate::{settings::TargetSettings, target::TargetAddr, tls::UpstreamTls, upstream::Credential};
use lockgate_model::{
    Timestamp,
    port::Ambient,
    session::{DefaultEffect, Mode, Protocol, Target},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A clock at one moment, and numbers that count up instead of randomness.
#[derive(Default)]
pub(crate) struct FixedAmbient(AtomicU64);

impl Ambient for FixedAmbient {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_795_000_000).unwrap_or_default()
    }

    fn random(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed)) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835
    }
}

/// A target with these addresses.
pub(crate) fn target(name: &str, addresses: Vec<TargetAddr>) -> TargetSettings {
    TargetSettings {
        target: Arc::new(Target {
            name: name.into(),
            protocol: Protocol::Postgres,
            tags: [("env".to_owned(), "production".to_owned())].into(),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
        }),
        addresses,
        client_tls: None,
        upstream_tls: UpstreamTls::disable(),
        upstream_host: None,
        credential: Credential { user: "app".into(), password: None },
    }
}
