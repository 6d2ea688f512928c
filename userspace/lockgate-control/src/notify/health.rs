//! How a channel does: what `lockgate doctor`, the console and metrics say of it, and what to do about it.

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
    /// Attempts that failed since anything got through.
    pub failures: u64,
    /// Why, the last time.
    pub last_error: Option<String>,
    /// The last attempt that ended, however it did.
    pub attempted_at: Option<Timestamp>,
    /// The last that got through.
    pub delivered_at: Option<Timestamp>,
    /// Messages that got through since the agent started.
    pub delivered: u64,
    /// Messages that never will, since the agent started.
    pub given_up: u64,
    /// Messages that wait, for a first attempt or another one.
    pub queued: usize,
    /// Attempts under way.
    pub under_way: usize,
    /// When the next attempt begins.
    pub next_attempt_at: Option<Timestamp>,
    /// What to do, unless it is well.
    pub remedy: Option<&'static str>,
}

/// What is noted of a channel.
pub(crate) struct Health {
    gauge: metrics::Gauge,
    inner: Mutex<Inner>,
}

/// What waits with the channel's task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) scheduled: usize,
    pub(crate) under_way: usize,
    pub(crate) next_attempt_at: Option<Timestamp>,
}

#[derive(Default)]
struct Inner {
    failing_since: Option<Timestamp>,
    failures: u64,
    last_error: Option<String>,
    attempted_at: Option<Timestamp>,
    delivered_at: Option<Timestamp>,
    delivered: u64,
    given_up: u64,
    standing: Standing,
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
        inner.failures = 0;
        inner.last_error = None;
        inner.attempted_at = Some(now);
        inner.delivered_at = Some(now);
        inner.delivered += 1;
        self.gauge.set(0.0);
    }

    pub(crate) fn failed(&self, now: Timestamp, why: &str) {
        let mut inner = self.inner.lock();
        let since = *inner.failing_since.get_or_insert(now);
        inner.failures += 1;
        inner.last_error = Some(why.to_owned());
        inner.attempted_at = Some(now);
        #[allow(clippy::cast_precision_loss, reason = "unix seconds fit for a hundred million years")]
        self.gauge.set(since.as_second() as f64);
    }

    /// A message will not be tried again.
    pub(crate) fn given_up(&self) {
        self.inner.lock().given_up += 1;
    }

    pub(crate) fn stands(&self, standing: Standing) {
        self.inner.lock().standing = standing;
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
        let remedy = match (enabled, &inner.last_error) {
            (false, _) => Some(DISABLED),
            (true, Some(error)) => Some(remedy(error)),
            (true, None) => None,
        };
        ChannelHealth {
            name: label.to_owned(),
            kind,
            state,
            failing_since: inner.failing_since,
            failures: inner.failures,
            last_error: inner.last_error.clone(),
            attempted_at: inner.attempted_at,
            delivered_at: inner.delivered_at,
            delivered: inner.delivered,
            given_up: inner.given_up,
            queued: queued.saturating_add(inner.standing.scheduled),
            under_way: inner.standing.under_way,
            next_attempt_at: inner.standing.next_attempt_at,
            remedy,
        }
    }
}

const DISABLED: &str = "its receiver answered 410 Gone: look whether the integration was removed there, put its new address \
                        in, or send the agent SIGHUP to try again";

/// What to do about an error, by what it says; the first that fits.
const REMEDIES: [(&[&str], &str); 12] = [
    (
        &["private address", "no name may lead there"],
        "write the address itself, or set `allow_private: true`",
    ),
    (
        &["certificate", "UnknownIssuer", "invalid peer"],
        "put the authority that signed the receiver's certificate under `ca`, and use the name it is made out to",
    ),
    (
        &["STARTTLS", "starttls"],
        "the mail server must offer STARTTLS, or take TLS at once: tls: implicit with its port",
    ),
    (
        &["dns error", "no address", "lookup address", "Name or service"],
        "the host's name cannot be looked up from here: check its spelling and this host's resolver",
    ),
    (
        &["Connection refused", "connection refused"],
        "nothing listens at that address and port: is the receiver running?",
    ),
    (
        &["timed out", "deadline", "unreachable", "Unreachable", "No route"],
        "no answer came: is it reachable from this host, through its firewall?",
    ),
    (
        &["HTTP 401", "HTTP 403"],
        "the receiver does not take the signature or the key: compare `secret` (and `headers`, `vars`) with what it has",
    ),
    (&["HTTP 404", "HTTP 405"], "the receiver has nothing at that path: compare `url` with what it gave you"),
    (
        &["HTTP 413", "HTTP 400", "HTTP 422"],
        "the receiver does not understand the body: is it the right `template`?",
    ),
    (
        &["HTTP 429", "takes no more"],
        "the receiver limits how much it takes; it is left alone for as long as it asks",
    ),
    (
        &["HTTP 3"],
        "the receiver points elsewhere, which is not followed: put the address it names into `url`",
    ),
    (
        &["queue is full"],
        "the receiver is slower than requests come: it gets what fits, and requests wait all the same",
    ),
];

const OTHER: &str =
    "other channels and the console work meanwhile; `lockgate approvals rehearse --rule RULE` tries it again";

fn remedy(error: &str) -> &'static str {
    let found = REMEDIES.into_iter().find(|(signs, _)| signs.iter().any(|sign| error.contains(sign)));
    found.map_or(OTHER, |(_, remedy)| remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_counts_from_the_first_of_a_row_of_failures() {
        let health = Health::new(&"email:mail".into());
        let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let read = |enabled| health.read("email:mail", "email", 2, enabled);
        assert_eq!((read(true).state, read(false).state), ("ok", "disabled"));
        assert!(read(true).remedy.is_none() && read(false).remedy.unwrap().contains("SIGHUP"));
        health.failed(at(1), "refused");
        health.failed(at(9), "timed out");
        let failing = read(true);
        assert_eq!((failing.state, failing.failing_since, failing.failures), ("failing", Some(at(1)), 2));
        assert_eq!((failing.last_error.as_deref(), failing.attempted_at), (Some("timed out"), Some(at(9))));
        health.stands(Standing { scheduled: 3, under_way: 1, next_attempt_at: Some(at(30)) });
        let standing = read(true);
        assert_eq!((standing.queued, standing.under_way, standing.next_attempt_at), (5, 1, Some(at(30))));
        health.delivered(at(20));
        let well = read(true);
        assert_eq!((well.state, well.failing_since, well.delivered_at), ("ok", None, Some(at(20))));
        assert_eq!((well.failures, well.delivered, well.remedy), (0, 1, None));
        health.given_up();
        assert_eq!(read(true).given_up, 1);
    }

    #[test]
    fn what_is_to_be_done_depends_on_what_went_wrong() {
        for (error, expected) in [
            ("error sending request: tcp connect error: Connection refused (os error 111)", "listens"),
            ("invalid peer certificate: UnknownIssuer", "`ca`"),
            ("hooks.x leads to 10.0.0.1, a private address; write …", "allow_private"),
            ("dns error: failed to lookup address information", "resolver"),
            ("operation timed out", "firewall"),
            ("HTTP 401; tried again", "secret"),
            ("HTTP 404; given up", "url"),
            ("HTTP 302; tried again", "not followed"),
            ("the channel's queue is full", "slower"),
            ("something nobody has seen", "rehearse"),
        ] {
            assert!(remedy(error).contains(expected), "{error}: {}", remedy(error));
        }
    }
}
