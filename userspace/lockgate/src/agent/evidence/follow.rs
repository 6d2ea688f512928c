//! The log, followed from behind by a thread of the lowest priority: record after record, to whoever wants them.

use lockgate_audit::Record;
use lockgate_store::{Log, Records};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How often the log's end is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Above what is ordinary: whatever else runs on the machine goes first.
const NICE: i32 = 19;
/// Records that are read and not taken yet.
const AHEAD: usize = 1024;

/// Records from a number on; the log is read no faster than they are taken. It ends when the receiver is dropped.
pub(super) fn records(log: Arc<Log>, from: u64) -> std::io::Result<mpsc::Receiver<Record>> {
    let (ahead, taken) = mpsc::channel(AHEAD);
    std::thread::Builder::new().name("evidence".into()).spawn(move || {
        // Not to be allowed to costs nothing but manners.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut records: Records = log.reader().records_from(from);
        while !ahead.is_closed() {
            match records.next() {
                Some(Ok(record)) => {
                    if ahead.blocking_send(record).is_err() {
                        return;
                    }
                }
                Some(Err(error)) => tracing::warn!(%error, "a record cannot be read; it is left out"),
                None => std::thread::sleep(LOOK_EVERY),
            }
        }
    })?;
    Ok(taken)
}
