//! Refused decisions, recorded. Those of callers who have proved nothing are recorded within a rate, so that
//! nobody can fill the audit log (and with it, stop everything that must be recorded) by being refused: what
//! goes over is counted, and the count is recorded.

use super::problem::Problem;
use crate::desk::Desk;
use lockgate_model::{
    RequestId, SessionId,
    event::{Event, EventKind},
};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Refusals that are recorded one by one before the rate applies.
const BURST: f64 = 1_000.0;

/// Refusals a second that are recorded one by one after that: an attacker writes about 150 MB a day at most.
const PER_SECOND: f64 = 5.0;

/// The count of what went over is recorded this long after the first of it.
const COUNT_AFTER: Duration = Duration::from_secs(10);

/// How much is known of a caller who was refused.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Nothing: no signature that any key verifies.
    Anybody,
    /// A uid of this host.
    Local(u32),
    /// Somebody who logged in, or a token.
    Login(String),
    /// An integration, proved by its signature.
    Integration(String),
    /// A Slack channel, proved by Slack's signature.
    Slack(String),
}

impl Caller {
    /// What is known of a caller of the API.
    pub(crate) fn of(caller: &crate::auth::Caller) -> Self {
        match caller.uid() {
            Some(uid) => Self::Local(uid),
            None => Self::Login(caller.id().to_owned()),
        }
    }
}

/// Limits how fast refusals are recorded.
#[derive(Default)]
pub(crate) struct RefusalLog {
    anybody: Mutex<Bucket>,
    local: Mutex<Bucket>,
}

#[derive(Default)]
struct Bucket {
    spent: f64,
    since: Option<Instant>,
    over: u64,
}

/// What happened to one refusal.
#[derive(Debug, PartialEq, Eq)]
enum Share {
    /// It is recorded.
    Recorded,
    /// It is counted; the first since the last count.
    FirstOver,
    /// It is counted.
    Over,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Share {
        let passed = self.since.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        self.since = Some(now);
        self.spent = (self.spent - passed * PER_SECOND).max(0.0);
        if self.spent + 1.0 <= BURST {
            self.spent += 1.0;
            return Share::Recorded;
        }
        self.over += 1;
        if self.over == 1 { Share::FirstOver } else { Share::Over }
    }
}

impl RefusalLog {
    fn bucket(&self, caller: &Caller) -> Option<&Mutex<Bucket>> {
        match caller {
            Caller::Anybody => Some(&self.anybody),
            Caller::Local(_) | Caller::Login(_) => Some(&self.local),
            // It holds a key of ours, and is trusted with more than log space.
            Caller::Integration(_) | Caller::Slack(_) => None,
        }
    }
}

/// Records a refusal (or counts it); never waits.
pub(crate) fn record(
    desk: &Arc<Desk>,
    caller: &Caller,
    by: Option<String>,
    session: Option<SessionId>,
    request: Option<RequestId>,
    problem: &Problem,
) {
    metrics::counter!("lockgate_decisions_refused_total", "code" => problem.code).increment(1);
    if !admitted(desk, caller) {
        return;
    }
    let channel = match caller {
        Caller::Anybody => "webhook".to_owned(),
        Caller::Local(uid) => format!("local:{uid}"),
        Caller::Login(id) => id.clone(),
        Caller::Integration(name) => format!("webhook:{name}"),
        Caller::Slack(name) => format!("slack:{name}"),
    };
    tracing::info!(channel, code = problem.code, "decision refused");
    desk.recorder.submit(vec![Event {
        at: desk.ambient.now(),
        session,
        kind: EventKind::DecisionRefused {
            request,
            channel,
            by,
            code: problem.code.to_owned(),
            detail: problem.detail.clone(),
        },
    }]);
}

/// Whether a refusal of this caller is recorded by itself; else it is counted, and the count is recorded.
pub(crate) fn admitted(desk: &Arc<Desk>, caller: &Caller) -> bool {
    let share = match desk.refusals.bucket(caller) {
        Some(bucket) => bucket.lock().take(Instant::now()),
        None => Share::Recorded,
    };
    if share == Share::FirstOver {
        count_later(desk, caller.clone());
    }
    share == Share::Recorded
}

fn count_later(desk: &Arc<Desk>, caller: Caller) {
    let later = desk.clone();
    desk.cases.spawn_on(
        async move {
            tokio::select! {
                () = tokio::time::sleep(COUNT_AFTER) => {}
                () = later.drain.cancelled() => {}
            }
            let over =
                later.refusals.bucket(&caller).map_or(0, |bucket| std::mem::take(&mut bucket.lock().over));
            metrics::counter!("lockgate_events_dropped_total", "stage" => "refused_decisions")
                .increment(over);
            tracing::warn!(over, ?caller, "refused decisions were counted, not recorded one by one");
            later.alarm(Event {
                at: later.ambient.now(),
                session: None,
                kind: EventKind::Gap {
                    stage: "refused_decisions".to_owned(),
                    count: Some(over),
                    detail: "decisions refused faster than they are recorded one by one".to_owned(),
                },
            });
        },
        &desk.runtime,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_after_the_burst_and_the_rate_comes_back() {
        let mut bucket = Bucket::default();
        let start = Instant::now();
        let recorded = (0..5_000).filter(|_| bucket.take(start) == Share::Recorded).count();
        assert_eq!((recorded, bucket.over), (1_000, 4_000));
        let later = start + Duration::from_secs(2);
        let recorded = (0..100).filter(|_| bucket.take(later) == Share::Recorded).count();
        assert_eq!(recorded, 10);
    }
}
