//! How a channel does: what `lockgate doctor`, the console and metrics say of it.

use lockgate_model::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;

/// One channel, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelHealth {
    /// `webhook:approvals`, `slack:ops`, `email:mail`
    pub name: String,
    /// `webhook`, `slack` or `email`
    pub kind: &'static str,
    /// `ok`, `failing` or `disabled` (its receiver answered 410)
    pub state: &'static str,
    /// Since when nothing got through.
    pub failing_since: Option<Timestamp>,
    /// Why, the last time.
    pub last_error: Option<String>,
    /// The last that got through.
    pub delivered_at: Option<Timestamp>,
    /// Messages that wait to be looked at.
    pub queued: usize,
}

/// What is noted of a channel.
pub(crate) struct Health {
    gauge: metrics::Gauge,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    failing_since: Option<Timestamp>,
    last_error: Option<String>,
    delivered_at: Option<Timestamp>,
}

impl Health {
    /// Of a channel with this label: its name stands in the configuration, so the metric's labels are few.
    pub(crate) fn new(label: &Arc<str>) -> Self {
        let gauge = metrics::gauge!("lockgate_channel_failing_since_seconds", "channel" => label.to_string());
        gauge.set(0.0);
        Self { gauge, inner: Mutex::default() }
    }

    pub(crate) fn delivered(&self, now: Timestamp) {
        let mut inner = self.inner.lock();
        inner.failing_since = None;
        inner.last_error = None;
        inner.delivered_at = Some(now);
        self.gauge.set(0.0);
    }

    pub(crate) fn failed(&self, now: Timestamp, why: &str) {
        let mut inner = self.inner.lock();
        let since = *inner.failing_since.get_or_insert(now);
        inner.last_error = Some(why.to_owned());
        #[allow(clippy::cast_precision_loss, reason = "unix seconds fit for a hundred million years")]
        self.gauge.set(since.as_second() as f64);
    }

    pub(crate) fn read(
        &self,
        label: &str,
        kind: &'static str,
        queued: usize,
        enabled: bool,
    ) -> ChannelHealth {
        let inner = self.inner.lock();
        let state = match (enabled, inner.failing_since) {
            (false, _) => "disabled",
            (true, Some(_)) => "failing",
            (true, None) => "ok",
        };
        ChannelHealth {
            name: label.to_owned(),
            kind,
            state,
            failing_since: inner.failing_since,
            last_error: inner.last_error.clone(),
            delivered_at: inner.delivered_at,
            queued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_counts_from_the_first_of_a_row_of_failures() {
        let health = Health::new(&"email:mail".into());
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let read = |enabled| health.read("email:mail", "email", 0, enabled);
        assert_eq!((read(true).state, read(false).state), ("ok", "disabled"));
        health.failed(at(1), "refused");
        health.failed(at(9), "timed out");
        let failing = read(true);
        assert_eq!((failing.state, failing.failing_since), ("failing", Some(at(1))));
        assert_eq!(failing.last_error.as_deref(), Some("timed out"));
        health.delivered(at(20));
        let well = read(true);
        assert_eq!((well.state, well.failing_since, well.delivered_at), ("ok", None, Some(at(20))));
    }
}
