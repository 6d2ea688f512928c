//! Coverage in the audit: a record at the start, at the end, each hour, and when something is missing that was not, or is
//! back.
//!
//! The same numbers are in `/v1/status`, `lockgate doctor` and the metrics. A change is told at once; a hole that opens and
//! closes all the time makes one record a minute. It repairs nothing.

use super::Agent;
use lockgate_model::{
    Timestamp,
    coverage::Coverage,
    event::{Event, EventKind},
    port::Recorder as _,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// How often it is looked; a few system calls for each hook.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A record is written after this long when nothing changes.
const TOLD_AT_LEAST_EVERY: Duration = Duration::from_secs(3600);
/// Between two changes that are told.
const TOLD_AT_MOST_EVERY: Duration = Duration::from_secs(60);

/// Tells it for ever.
pub(super) async fn follow(agent: Arc<Agent>) {
    let mut told = Told::default();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let looking = agent.clone();
        // A look that panicked is made again.
        let Ok(now) = tokio::task::spawn_blocking(move || looking.coverage()).await else { continue };
        if told.is_due(&now, Instant::now()) {
            if now.has_holes() {
                tracing::warn!(coverage = ?now, "not everything passes lockgate");
            }
            agent.log.submit(vec![Event { at: Timestamp::now(), session: None, kind: event(now) }]);
        }
    }
}

pub(super) fn event(coverage: Coverage) -> EventKind {
    EventKind::Coverage(Box::new(coverage))
}

impl Agent {
    /// How it stands now.
    pub(crate) fn coverage(&self) -> Coverage {
        let health = self.interceptor.health();
        let counters = self.interceptor.counters();
        let unknown = health.unknown.iter().map(|(name, why)| format!("{name} ({why})"));
        let detached = health.detached.iter().map(|name| (*name).to_owned());
        let lost = health.lost.iter().filter(|(_, repaired)| !repaired).map(|(name, _)| name.clone());
        let layers = self.interceptor.layers();
        let missing = layers.iter().filter(|state| !state.active && !state.open.is_empty());
        Coverage {
            since: self.started_at,
            redirected: counters.redirected.saturating_sub(self.before.redirected),
            bypassed: self.interceptor.bypassed(),
            not_governed: self.not_governed.load(Ordering::Relaxed),
            untold: counters.events_lost.saturating_sub(self.before.events_lost),
            hooks: health.whole.saturating_add(health.belts) as u64,
            hooks_lost: detached.chain(unknown).chain(lost).collect(),
            layers_missing: missing
                .map(|state| format!("{}: {}", state.layer.as_str(), state.detail))
                .collect(),
            deaf: self.interceptor.deaf().filter(|_| !self.names().is_empty()),
        }
    }
}

/// What the last record said, and when; and when a change was last told.
#[derive(Debug, Default)]
struct Told {
    last: Option<(Coverage, Instant)>,
    changed: Option<Instant>,
}

impl Told {
    fn is_due(&mut self, now: &Coverage, at: Instant) -> bool {
        let since = |when: Instant| at.saturating_duration_since(when);
        let changed = self.last.as_ref().is_some_and(|(last, _)| !now.same_holes(last))
            && self.changed.is_none_or(|when| since(when) >= TOLD_AT_MOST_EVERY);
        let old = self.last.as_ref().is_none_or(|(_, when)| since(*when) >= TOLD_AT_LEAST_EVERY);
        if changed {
            self.changed = Some(at);
        }
        if changed || old {
            self.last = Some((now.clone(), at));
        }
        changed || old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_due_at_first_each_hour_and_on_a_change_once_a_minute() {
        let whole = Coverage {
            since: Timestamp::UNIX_EPOCH,
            redirected: 0,
            bypassed: 0,
            not_governed: 0,
            untold: 0,
            hooks: 10,
            hooks_lost: Vec::new(),
            layers_missing: vec!["lsm: not active".to_owned()],
            deaf: None,
        };
        let more = Coverage { redirected: 900, hooks: 12, ..whole.clone() };
        let bypassed = Coverage { bypassed: 1, ..more.clone() };
        let lost = Coverage { hooks_lost: vec!["lg_connect4".to_owned()], ..bypassed.clone() };
        let (mut told, start) = (Told::default(), Instant::now());
        for (second, now, due) in [
            (0, &whole, true),
            (1, &whole, false),
            (2, &more, false),
            // The first change at once.
            (71, &bypassed, true),
            (72, &bypassed, false),
            // What changes within the minute is told when it is over, in its last state.
            (80, &lost, false),
            (130, &lost, false),
            (131, &lost, true),
            (200, &bypassed, true),
            (3799, &bypassed, false),
            (3800, &bypassed, true),
        ] {
            assert_eq!(told.is_due(now, start + Duration::from_secs(second)), due, "{second}");
        }
        assert!(!more.has_holes() && bypassed.has_holes() && lost.has_holes());
    }
}
