//! How often a source may try: a leaky bucket for each address, in a table of fixed size, and one for all together.
//!
//! What nobody can guess (256 random bits) is not protected by this; it keeps guessing cheap to answer and small in the log, and
//! keeps anybody from making us ask identity providers without end.

use parking_lot::Mutex;
use std::{collections::HashMap, net::IpAddr, time::Duration};
use tokio::time::Instant;

/// Tries of one source before it has to wait: an office behind one address in the morning, two a login.
const BURST: f64 = 120.0;

/// Tries of one source a second after that.
const PER_SECOND: f64 = 1.0;

/// Tries of all sources together before everybody has to wait, and a second after that: more than a company's morning.
const ALL_BURST: f64 = 3_000.0;
const ALL_PER_SECOND: f64 = 50.0;

/// Sources that are remembered (100 bytes each). Those beyond share one bucket.
const SOURCES_MAX: usize = 10_000;

/// Who tries, as far as the network tells: an IPv6 source is its /64, which one host has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
    /// The unix socket, or a source beyond those remembered.
    Others,
}

impl Source {
    fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
            None => Self::Others,
        }
    }
}

/// Tries so far.
#[derive(Default)]
pub(crate) struct Limits {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_source: HashMap<Source, Bucket>,
    all: Bucket,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    spent: f64,
    since: Option<Instant>,
}

impl Bucket {
    fn leak(&mut self, now: Instant, per_second: f64) {
        let passed = self.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        self.since = Some(now);
        self.spent = (self.spent - passed * per_second).max(0.0);
    }
}

impl Limits {
    /// Counts a try. When there were too many: how long to wait.
    pub(crate) fn try_now(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock();
        // All together first: a flood from everywhere is answered without touching the table.
        table.all.leak(now, ALL_PER_SECOND);
        if table.all.spent + 1.0 > ALL_BURST {
            return Err(Duration::from_secs_f64((table.all.spent + 1.0 - ALL_BURST) / ALL_PER_SECOND));
        }
        let mut source = Source::of(address);
        if !table.by_source.contains_key(&source) && table.by_source.len() >= SOURCES_MAX {
            table.by_source.retain(|_, bucket| {
                bucket.leak(now, PER_SECOND);
                bucket.spent > 0.0
            });
            if table.by_source.len() >= SOURCES_MAX {
                source = Source::Others;
            }
        }
        let bucket = table.by_source.entry(source).or_default();
        bucket.leak(now, PER_SECOND);
        if bucket.spent + 1.0 > BURST {
            return Err(Duration::from_secs_f64((bucket.spent + 1.0 - BURST) / PER_SECOND));
        }
        bucket.spent += 1.0;
        table.all.spent += 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limits: &Limits, address: &str, tries: usize, now: Instant) -> usize {
        let address = address.parse().ok();
        (0..tries).filter(|_| limits.try_now(address, now).is_ok()).count()
    }

    #[test]
    fn a_source_waits_alone_and_a_64_is_one_source() {
        let (limits, now) = (Limits::default(), Instant::now());
        assert_eq!(allowed(&limits, "10.0.0.1", 200, now), 120);
        assert_eq!(allowed(&limits, "10.0.0.2", 5, now), 5);
        assert_eq!(allowed(&limits, "::ffff:10.0.0.1", 5, now), 0);
        assert_eq!(allowed(&limits, "2001:db8::1", 80, now), 80);
        assert_eq!(allowed(&limits, "2001:db8::ffff:1", 80, now), 40);
        assert_eq!(allowed(&limits, "10.0.0.1", 100, now + Duration::from_secs(10)), 10);
    }

    #[test]
    fn a_million_sources_take_a_table_s_room_and_no_more_than_all_may() {
        let (limits, now) = (Limits::default(), Instant::now());
        let allowed: usize = (0..1_000_000_u32)
            .filter(|number| {
                let address = IpAddr::from(number.to_be_bytes());
                limits.try_now(Some(address), now).is_ok()
            })
            .count();
        assert_eq!(allowed, 3_000);
        assert!(limits.table.lock().by_source.len() <= SOURCES_MAX + 1);
        // An hour later all of it is forgotten.
        assert!(limits.try_now(None, now + Duration::from_secs(3_600)).is_ok());
    }
}
