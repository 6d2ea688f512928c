//! When a notification is tried again. Pure: the channel owns the clock and the randomness.
//!
//! While a client waits: 0 s, 5 s, 10 s, 20 s, then every 30 s at most, until the request is over. What only
//! tells how it ended follows the Standard Webhooks schedule (0 s, 5 s, 5 m, 30 m) and is then given up.

use std::time::Duration;

/// Attempts of a waiting request start at most this far apart.
pub(crate) const WAITING_CAP: Duration = Duration::from_secs(30);

/// A receiver that limits a whole channel is left alone for at most this long: its request may be over by then.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// Jitter shortens a delay by at most this share, so that caps hold.
const JITTER: f64 = 0.2;

/// Delays after the first, second, … attempt while a client waits; the last one repeats.
const WAITING: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20), WAITING_CAP];

/// Delays after the first, second, third attempt of a follow-up.
const FOLLOW_UP: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(5 * 60), Duration::from_secs(30 * 60)];

/// What hangs on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A client waits for what people do with it.
    Waiting,
    /// It only tells how a request ended.
    FollowUp,
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An HTTP answer.
    Status {
        /// Its code.
        code: u16,
        /// Its `retry-after`.
        retry_after: Option<Duration>,
    },
    /// No answer, or one that says no.
    Failed(String),
    /// The receiver takes nothing of this channel for a while, whatever it is.
    Limited {
        /// How long.
        after: Duration,
        /// Its words.
        detail: String,
    },
    /// It cannot be sent, and trying again changes nothing.
    Hopeless(String),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// 2xx.
    Delivered,
    /// 410: nothing more is sent to this channel.
    Disabled,
    /// Try again this long after the attempt *began* (at once when that has passed).
    Retry(Duration),
    /// Nothing is sent to this channel for so long, then this again.
    Pause(Duration),
    /// Enough.
    GiveUp,
}

/// What follows the `attempt`-th attempt (the first is 1). `random` is any number.
pub(crate) fn next(urgency: Urgency, attempt: u32, answer: &Answer, random: u64) -> Next {
    let asked = match answer {
        Answer::Status { code: 200..=299, .. } => return Next::Delivered,
        Answer::Status { code: 410, .. } => return Next::Disabled,
        Answer::Status { retry_after, .. } => *retry_after,
        Answer::Failed(_) => None,
        Answer::Limited { after, .. } => return Next::Pause((*after).min(PAUSE_MAX)),
        Answer::Hopeless(_) => return Next::GiveUp,
    };
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    let (delay, cap) = match urgency {
        Urgency::Waiting => (WAITING.get(index).copied().unwrap_or(WAITING_CAP), WAITING_CAP),
        Urgency::FollowUp => match FOLLOW_UP.get(index) {
            Some(delay) => (*delay, FOLLOW_UP[FOLLOW_UP.len() - 1]),
            None => return Next::GiveUp,
        },
    };
    // 53 random bits are as many as an f64 in [0, 1) has room for.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
    let delay = delay.mul_f64(1.0 - JITTER * share);
    Next::Retry(asked.map_or(delay, |asked| asked.max(delay)).min(cap))
}

/// Reads `retry-after`: seconds, or an HTTP date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(header: &str, now: lockgate_model::Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, retry_after: Option<u64>) -> Answer {
        Answer::Status { code, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn schedules_grow_and_keep_their_caps() {
        let failed = Answer::Failed("connection refused".into());
        for (urgency, attempt, answer, slowest) in [
            (Urgency::Waiting, 1, &failed, Some(5)),
            (Urgency::Waiting, 2, &failed, Some(10)),
            (Urgency::Waiting, 3, &failed, Some(20)),
            (Urgency::Waiting, 4, &failed, Some(30)),
            (Urgency::Waiting, 5_000, &failed, Some(30)),
            (Urgency::Waiting, u32::MAX, &failed, Some(30)),
            (Urgency::Waiting, 1, &status(500, None), Some(5)),
            (Urgency::Waiting, 1, &status(301, None), Some(5)),
            (Urgency::Waiting, 1, &status(429, Some(12)), Some(12)),
            (Urgency::Waiting, 1, &status(503, Some(3_600)), Some(30)),
            (Urgency::Waiting, 1, &status(503, Some(1)), Some(5)),
            (Urgency::FollowUp, 1, &failed, Some(5)),
            (Urgency::FollowUp, 2, &failed, Some(300)),
            (Urgency::FollowUp, 3, &failed, Some(1_800)),
            (Urgency::FollowUp, 4, &failed, None),
        ] {
            for random in [0, u64::MAX / 2, u64::MAX] {
                let next = next(urgency, attempt, answer, random);
                match slowest {
                    None => assert_eq!(next, Next::GiveUp),
                    Some(seconds) => {
                        let Next::Retry(delay) = next else { panic!("{next:?}") };
                        let slowest = Duration::from_secs(seconds);
                        assert!(delay <= slowest && delay >= slowest.mul_f64(0.79), "{attempt} {delay:?}");
                    }
                }
            }
        }
        assert_eq!(next(Urgency::Waiting, 1, &status(204, None), 0), Next::Delivered);
        assert_eq!(next(Urgency::Waiting, 1, &status(410, Some(1)), 0), Next::Disabled);
        let limited =
            |seconds| Answer::Limited { after: Duration::from_secs(seconds), detail: String::new() };
        for (seconds, expected) in [(0, 0), (90, 90), (86_400, 600)] {
            let pause = next(Urgency::Waiting, 1, &limited(seconds), u64::MAX);
            assert_eq!(pause, Next::Pause(Duration::from_secs(expected)), "as long as it asks, not 30 s");
        }
        assert_eq!(next(Urgency::Waiting, 1, &Answer::Hopeless(String::new()), 0), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        for (header, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sat, 21 Nov 2026 10:00:30 GMT", Some(30)),
            ("Sat, 21 Nov 2026 09:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(retry_after(header, now), expected.map(Duration::from_secs), "{header}");
        }
    }
}
