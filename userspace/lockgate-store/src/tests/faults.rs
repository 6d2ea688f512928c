//! What a failing disk does to records: refused, clearly, and over when the disk is well again; what was
//! acknowledged stays.

use super::{
    Directory,
    failing::{FailingDisk, Faults},
};
use crate::{
    Integrity, Log, Reader,
    contract::{record, sample},
};
use lockgate_model::{
    event::EventKind,
    port::{Durability, Recorder},
};
use rustix::io::Errno;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// A poisoned segment is made anew a quarter of a second after the last try; a loaded machine takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn open(directory: &Directory) -> (Log, Arc<Faults>) {
    let disk = FailingDisk::default();
    let faults = disk.faults.clone();
    let log = Log::open_on(Arc::new(disk), directory.settings(), Arc::new(sample::FixedAmbient::default()));
    (log.unwrap(), faults)
}

fn write(log: &Log, n: u64, durability: Durability) -> Result<u64, String> {
    record(log, vec![sample::mark("record", n)], durability).map_err(|error| error.to_string())
}

fn write_until_it_works(log: &Log, n: u64, durability: Durability) -> u64 {
    let begin = Instant::now();
    loop {
        match write(log, n, durability) {
            Ok(seq) => return seq,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "still refused: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The marks that rest, in order, in a log that verifies.
fn resting(directory: &Directory) -> Vec<u64> {
    let reader = Reader::open(&directory.dir).unwrap();
    let report = reader.verify(None).unwrap();
    assert_eq!(report.integrity, Integrity::Intact, "{report}");
    reader.records().filter_map(|record| Some(sample::marked(&record.unwrap().event)?.1)).collect()
}

type Break = fn(&Faults);

#[test]
fn a_failed_write_is_refused_and_leaves_nothing_behind() {
    let table: &[(&str, Break, &str)] = &[
        ("full", |f| *f.write.lock().unwrap() = Some(Errno::NOSPC.raw_os_error()), "No space left on device"),
        ("EIO", |f| *f.write.lock().unwrap() = Some(Errno::IO.raw_os_error()), "Input/output error"),
        (
            "full, and what was half written cannot be cut off",
            |f| {
                *f.write.lock().unwrap() = Some(Errno::NOSPC.raw_os_error());
                f.truncate.store(true, Ordering::SeqCst);
            },
            "No space left on device",
        ),
    ];
    for (name, fail, expected) in table {
        for durability in [Durability::Written, Durability::Synced] {
            let directory = Directory::new(1 << 20);
            let (log, faults) = open(&directory);
            assert_eq!(write(&log, 1, Durability::Written), Ok(1));
            fail(&faults);
            let refusal = write(&log, 2, durability).unwrap_err();
            assert!(refusal.contains(expected), "{name}: {refusal}");
            write(&log, 3, durability).unwrap_err();
            *faults.write.lock().unwrap() = None;
            faults.truncate.store(false, Ordering::SeqCst);
            assert_eq!(write_until_it_works(&log, 4, durability), 2, "{name}: numbers have no gap");
            log.close().unwrap();
            assert_eq!(resting(&directory), [1, 4], "{name}");
        }
    }
}

#[test]
fn a_failed_sync_loses_no_acknowledged_record() {
    let directory = Directory::new(1 << 20);
    let (log, faults) = open(&directory);
    assert_eq!(write(&log, 1, Durability::Synced), Ok(1));
    assert_eq!(write(&log, 2, Durability::Written), Ok(2));
    faults.sync.store(true, Ordering::SeqCst);
    let refusal = write(&log, 3, Durability::Synced).unwrap_err();
    assert!(refusal.contains("sync to disk: Input/output error"), "{refusal}");
    // As long as the disk cannot sync, nothing is acknowledged: not even what only needs writing.
    write(&log, 4, Durability::Written).unwrap_err();
    write(&log, 5, Durability::Synced).unwrap_err();
    faults.sync.store(false, Ordering::SeqCst);
    write_until_it_works(&log, 6, Durability::Synced);
    log.close().unwrap();
    // 3 rests, though its asker was refused: it was written, and the gap record says so.
    assert_eq!(resting(&directory), [1, 2, 3, 6]);
    let told = Reader::open(&directory.dir).unwrap().records().any(|record| {
        matches!(record.unwrap().event.kind, EventKind::Gap { stage, detail, .. }
            if stage == "store" && detail.contains("made anew"))
    });
    assert!(told);
}

#[test]
fn the_head_does_not_go_past_what_is_synced() {
    let directory = Directory::new(1 << 20);
    let (log, faults) = open(&directory);
    assert_eq!(write(&log, 1, Durability::Synced), Ok(1));
    faults.sync.store(true, Ordering::SeqCst);
    write(&log, 2, Durability::Synced).unwrap_err();
    log.close().unwrap_err();
    let head = crate::head::read(&directory.layout()).unwrap().unwrap();
    let size: u64 = head.lines().nth(1).unwrap().parse().unwrap();
    assert!(size <= 1, "the head covers {size} records, one is synced");
}

#[test]
fn a_segment_that_cannot_be_begun_refuses_records_until_it_can() {
    let directory = Directory::new(2048);
    let (log, faults) = open(&directory);
    let mut n = 0;
    faults.create.store(true, Ordering::SeqCst);
    let refusal = loop {
        match write(&log, n, Durability::Written) {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
    };
    assert!(refusal.contains("begin segment") && refusal.contains("No space"), "{refusal}");
    faults.create.store(false, Ordering::SeqCst);
    assert_eq!(write(&log, n, Durability::Synced), Ok(n + 1));
    log.close().unwrap();
    assert_eq!(resting(&directory), (0..=n).collect::<Vec<_>>());
}

#[test]
fn submitted_events_outlast_a_full_disk() {
    let directory = Directory::new(1 << 20);
    let (log, faults) = open(&directory);
    *faults.write.lock().unwrap() = Some(Errno::NOSPC.raw_os_error());
    for n in 0..10 {
        log.submit(vec![sample::mark("submitted", n)]);
    }
    write(&log, 99, Durability::Written).unwrap_err();
    *faults.write.lock().unwrap() = None;
    // Nobody asks for anything: they are tried again by themselves.
    let begin = Instant::now();
    while resting(&directory).len() < 10 {
        assert!(begin.elapsed() < PATIENCE, "the submitted events never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    log.close().unwrap();
    assert_eq!(resting(&directory), (0..10).collect::<Vec<_>>());
}

#[test]
fn what_is_recorded_and_given_up_rests_all_the_same() {
    let directory = Directory::new(1 << 20);
    let (log, _faults) = open(&directory);
    drop(log.record(vec![sample::mark("given up", 1)], Durability::Written));
    assert_eq!(resting(&directory), [1], "at once: nobody else has to come");
    write(&log, 2, Durability::Written).unwrap();
    log.close().unwrap();
    assert_eq!(resting(&directory), [1, 2]);
}
