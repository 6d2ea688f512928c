//! What is found at a start, and what is made of it.

use super::Directory;
use crate::{
    Integrity, Log, Problem, Reader, SessionFilter, StoreError,
    contract::{record, sample},
};
use lockgate_model::{event::EventKind, port::Durability};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

fn open(directory: &Directory) -> Result<Log, StoreError> {
    Log::open(directory.settings(), Arc::new(sample::FixedAmbient::default()))
}

/// A closed log of `count` marks in several segments.
fn written(count: u64) -> Directory {
    let directory = Directory::new(2048);
    let log = open(&directory).unwrap();
    for n in 0..count {
        let _ = record(&log, vec![sample::mark("record", n)], Durability::Written).unwrap();
    }
    log.close().unwrap();
    directory
}

fn segments(directory: &Directory) -> Vec<PathBuf> {
    directory.layout().list_segments().unwrap().0.into_iter().map(|segment| segment.path).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn is_gap(kind: &EventKind) -> Option<&str> {
    match kind {
        EventKind::Gap { stage, detail, .. } if stage == "crash" => Some(detail),
        _ => None,
    }
}

#[test]
fn a_torn_end_is_cut_off_kept_and_told() {
    let tears: &[(&str, &[u8])] = &[
        ("half a line", br#"{"at":"2026-11-21T09:00:00Z","da"#),
        ("zeros of a page that was never written", &[0; 4096]),
        ("zeros, then a newline", b"\0\0\0\0\n"),
        ("a whole line that links to nothing", b"{\"prev\":\"00\",\"seq\":7,\"v\":1}\n"),
    ];
    for (name, tear) in tears {
        let directory = written(5);
        edit(segments(&directory).last().unwrap(), |bytes| bytes.extend_from_slice(tear));
        let log = open(&directory).unwrap();
        let details: Vec<String> = log
            .reader()
            .records()
            .filter_map(|record| Some(is_gap(&record.unwrap().event.kind)?.to_owned()))
            .collect();
        assert_eq!(details.len(), 1, "{name}");
        assert!(details[0].contains(&format!("{} torn bytes", tear.len())), "{name}: {}", details[0]);
        let kept = fs::read_dir(directory.layout().repairs()).unwrap().next().unwrap().unwrap();
        assert_eq!(fs::read(kept.path()).unwrap(), *tear, "{name}");
        log.close().unwrap();
        let report = Reader::open(&directory.dir).unwrap().verify(None).unwrap();
        assert_eq!(report.integrity, Integrity::Intact, "{name}: {report}");
    }
}

#[test]
fn damage_that_no_crash_can_do_keeps_the_log_shut() {
    type Damage = fn(&Directory);
    let table: &[(&str, Damage, &str)] = &[
        (
            "the last segment cut below the head",
            |d| edit(segments(d).last().unwrap(), |b| b.truncate(10)),
            "covers",
        ),
        ("the last segment removed", |d| fs::remove_file(segments(d).last().unwrap()).unwrap(), "covers"),
        (
            "a middle segment removed",
            |d| {
                let all = segments(d);
                fs::remove_file(&all[all.len() - 2]).unwrap();
            },
            "follows record",
        ),
        (
            "all segments removed",
            |d| segments(d).iter().for_each(|path| fs::remove_file(path).unwrap()),
            "no segment",
        ),
        ("the head removed", |d| fs::remove_file(d.dir.join("head/checkpoint")).unwrap(), "no signed head"),
        (
            "the last record edited",
            |d| {
                edit(segments(d).last().unwrap(), |bytes| {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    let at = text.rfind("record").unwrap();
                    bytes[at] = b'R';
                });
            },
            "not the one that was signed",
        ),
        (
            "the head of another log",
            |d| {
                let other = written(3);
                fs::copy(other.dir.join("head/checkpoint"), d.dir.join("head/checkpoint")).unwrap();
            },
            "signature",
        ),
    ];
    for (name, damage, expected) in table {
        let directory = written(30);
        assert!(segments(&directory).len() > 3);
        damage(&directory);
        let refusal = match open(&directory) {
            Ok(_) => panic!("{name}: it opened"),
            Err(error) => error.to_string(),
        };
        assert!(refusal.contains(expected), "{name}: {refusal}");
        let report = Reader::open(&directory.dir).unwrap().verify(None).unwrap();
        assert_eq!(report.integrity, Integrity::Broken, "{name}: {report}");
    }
}

#[test]
fn verify_goes_over_files_too() {
    type Damage = fn(&Directory);
    type Expected = fn(&Problem) -> bool;
    let table: &[(&str, Damage, Expected)] = &[
        (
            "a segment removed",
            |d| fs::remove_file(&segments(d)[1]).unwrap(),
            |p| matches!(p, Problem::Missing { .. }),
        ),
        (
            "two segments swapped by name",
            |d| {
                let all = segments(d);
                fs::rename(&all[0], d.dir.join("aside")).unwrap();
                fs::rename(&all[1], &all[0]).unwrap();
                fs::rename(d.dir.join("aside"), &all[1]).unwrap();
            },
            |p| matches!(p, Problem::Reordered { .. }),
        ),
        (
            "a stranger among them",
            |d| fs::write(d.dir.join("segments/notes.txt"), "hello").unwrap(),
            |p| matches!(p, Problem::Garbage { .. }),
        ),
        (
            "a segment of garbage",
            |d| fs::write(&segments(d)[1], [0xff; 5000]).unwrap(),
            |p| matches!(p, Problem::Garbage { .. }),
        ),
        (
            "a segment emptied",
            |d| fs::write(&segments(d)[2], "").unwrap(),
            |p| matches!(p, Problem::Missing { .. }),
        ),
    ];
    for (name, damage, expected) in table {
        let directory = written(30);
        damage(&directory);
        let report = Reader::open(&directory.dir).unwrap().verify(None).unwrap();
        assert_eq!(report.integrity, Integrity::Broken, "{name}");
        assert!(report.findings.iter().any(|finding| expected(&finding.problem)), "{name}: {report}");
    }
}

#[test]
fn another_key_proves_nothing() {
    let (directory, other) = (written(5), written(5));
    let key = fs::read_to_string(other.dir.join("keys/log.pub")).unwrap().parse().unwrap();
    let report = Reader::open(&directory.dir).unwrap().verify(Some(key)).unwrap();
    assert!(matches!(report.findings[0].problem, Problem::HeadUnproven { .. }), "{report}");
    // The key in the store is only as good as the store; the report says so.
    let report = Reader::open(&directory.dir).unwrap().verify(None).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("kept off this host")), "{report}");
}

#[test]
fn secrets_and_records_are_for_the_agent_alone() {
    let directory = written(1);
    let mode = |path: &str| fs::metadata(directory.dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("keys/log.key"), 0o600);
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("segments/00000000000000000001.jsonl"), 0o600);
}

#[test]
fn a_kill_without_open_sessions_is_told_too() {
    let directory = written(3);
    fs::write(directory.dir.join("lock"), "12345\n").unwrap();
    let log = open(&directory).unwrap();
    assert!(log.reader().records().any(|record| is_gap(&record.unwrap().event.kind).is_some()));
}

#[test]
fn the_index_is_rebuilt_when_it_is_missing_broken_or_of_another_log() {
    type Damage = fn(&Path);
    let table: &[(&str, Damage)] = &[
        ("kept", |_| {}),
        ("missing", |index| fs::remove_dir_all(index).unwrap()),
        ("garbage", |index| {
            for file in fs::read_dir(index).unwrap() {
                let path = file.unwrap().path();
                if path.is_file() {
                    fs::write(path, [0x5a; 700]).unwrap();
                }
            }
        }),
        ("a file in its place", |index| {
            fs::remove_dir_all(index).unwrap();
            fs::create_dir(index).unwrap();
            fs::write(index.join("db"), "not a database").unwrap();
        }),
    ];
    for (name, damage) in table {
        let directory = Directory::new(4096);
        let log = open(&directory).unwrap();
        for n in 0..10 {
            let session = sample::session(n);
            let events = vec![
                sample::started(&session),
                sample::decided(&session, "SELECT 1"),
                sample::held(&session, 3),
            ];
            let _ = record(&log, events, Durability::Written).unwrap();
            if n % 3 == 0 {
                let _ = record(&log, vec![sample::ended(&session)], Durability::Written).unwrap();
            }
        }
        log.close().unwrap();
        damage(&directory.layout().index());
        let log = open(&directory).unwrap();
        let (indexed, scanned) = (log.reader(), Reader::open(&directory.dir).unwrap());
        for filter in [
            SessionFilter::default(),
            SessionFilter { limit: Some(3), ..SessionFilter::default() },
            SessionFilter {
                since: Some(sample::at(4)),
                until: Some(sample::at(7)),
                ..SessionFilter::default()
            },
        ] {
            let sessions = scanned.sessions(&filter).unwrap();
            assert!(!sessions.is_empty());
            assert_eq!(indexed.sessions(&filter).unwrap(), sessions, "{name}: {filter:?}");
        }
        for n in 0..10 {
            let id = sample::session(n).id;
            let records = scanned.session(id).unwrap();
            assert_eq!(indexed.session(id).unwrap(), records, "{name}");
            let EventKind::ApprovalRequested { request, .. } = records[2].event.kind else {
                panic!("{name}")
            };
            assert_eq!(indexed.session_of(request).unwrap(), Some(id), "{name}");
            assert_eq!(scanned.session_of(request).unwrap(), Some(id), "{name}");
        }
    }
}

#[test]
fn a_reader_at_the_end_goes_on_when_more_is_written() {
    let directory = Directory::new(1024);
    let log = open(&directory).unwrap();
    let mut follow = Reader::open(&directory.dir).unwrap().records_from(3);
    assert!(follow.next().is_none());
    for n in 1..=40 {
        let seq = record(&log, vec![sample::mark("record", n)], Durability::Written).unwrap();
        let read: Vec<u64> = follow.by_ref().map(|record| record.unwrap().seq).collect();
        assert_eq!(read, if seq < 3 { vec![] } else { vec![seq] });
    }
}

#[test]
fn a_directory_without_a_log_is_none() {
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Reader::open(empty.path()), Err(StoreError::NotALog(_))));
}
