//! Writes to an audit log as fast as it can and says on standard output what was acknowledged, until it is
//! killed. Driven by `tests/tests/store_kill.rs`.
//!
//! `store_writer DIR SEGMENT_BYTES FIRST_SESSION`: one line per acknowledged record, `<seq> <worker> <n>`.
//! Sessions are numbered from FIRST_SESSION, so that runs on one log do not share any.

use lockgate_model::port::{Durability, Recorder};
use lockgate_store::{
    Log, LogSettings,
    contract::{record, sample},
};
use std::{
    io::{Write, stdout},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Recorders at once: enough for batches to form.
const WORKERS: u64 = 3;
/// Every so many records one is synced; the others are only written.
const SYNC_EVERY: u64 = 16;
/// Every so many records a session begins; every second one of them also ends.
const SESSION_EVERY: u64 = 8;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(segment_bytes), Some(first_session)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        anyhow::bail!("usage: store_writer DIR SEGMENT_BYTES FIRST_SESSION");
    };
    let settings =
        LogSettings { segment_bytes: segment_bytes.parse()?, ..LogSettings::new(dir, "build-7".into()) };
    let log = Log::open(settings, Arc::new(sample::FixedAmbient::default()))?;
    let session = AtomicU32::new(first_session.parse()?);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (log, session) = (&log, &session);
            scope.spawn(move || write(log, worker, session));
        }
    });
    anyhow::bail!("expected to be killed, but a record was refused")
}

fn write(log: &Log, worker: u64, next_session: &AtomicU32) {
    for n in 0.. {
        let durability = if n % SYNC_EVERY == 0 { Durability::Synced } else { Durability::Written };
        if n % SESSION_EVERY == 0 {
            let session = sample::session(next_session.fetch_add(1, Ordering::Relaxed));
            log.submit(vec![sample::started(&session)]);
            if n % (2 * SESSION_EVERY) == 0 {
                log.submit(vec![sample::ended(&session)]);
            }
        }
        let Ok(seq) = record(log, vec![sample::mark(&worker.to_string(), n)], durability) else { return };
        // One write(2) a line: the reader sees it whole or not at all.
        if stdout().lock().write_all(format!("{seq} {worker} {n}\n").as_bytes()).is_err() {
            return;
        }
    }
}
