//! Each attack on a log, and what the verifier says of it.

use super::*;
use crate::{Chain, Encoded, SigningKey, checkpoint::origin};
use lockgate_model::{
    Secret,
    event::{Event, EventKind},
    id::NodeName,
};
use proptest::prelude::*;
use std::sync::LazyLock;

const NODE: &str = "build-7";
/// Records of the sample log.
const RECORDS: usize = 20;
/// How many of them the head covers.
const SIGNED: u64 = 16;

/// A log as it rests: lines without their newlines, the signed heads, and whether the last line has its end.
#[derive(Clone)]
struct Sample {
    lines: Vec<Vec<u8>>,
    heads: Vec<String>,
    last_complete: bool,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(origin(&NodeName::from(NODE)), &Secret::new([seed; 32]))
}

fn event(text: &str) -> Event {
    let kind = EventKind::Gap { stage: "sample".into(), count: None, detail: text.into() };
    Event { at: "2026-11-21T09:00:00Z".parse().unwrap(), session: None, kind }
}

/// Signed after every fourth record, up to [`SIGNED`].
fn write_log(count: usize, text: &str, signer: &SigningKey) -> Sample {
    let mut chain = Chain::resume(&NODE.into(), Tip::EMPTY);
    let mut tree = Frontier::default();
    let mut heads = vec![sign(signer, Tip::EMPTY, &tree)];
    let mut lines = Vec::new();
    for n in 1..=count {
        let mut line = Vec::new();
        let tip = chain.append(&Encoded::of(&event(&format!("{text} {n}"))).unwrap(), &mut line);
        line.pop();
        lines.push(line);
        tree.push(tree::leaf(&tip.hash));
        if tip.seq.is_multiple_of(4) && tip.seq <= SIGNED {
            heads.push(sign(signer, tip, &tree));
        }
    }
    Sample { lines, heads, last_complete: true }
}

fn sign(signer: &SigningKey, tip: Tip, tree: &Frontier) -> String {
    let signed_at = "2026-11-21T10:00:00Z".parse().unwrap();
    signer.sign(&Checkpoint { origin: signer.origin().to_owned(), tip, root: tree.root(), signed_at })
}

fn verify(sample: &Sample) -> Report {
    let mut verifier = Verifier::new(Some(key(1).public()));
    for head in &sample.heads {
        verifier.checkpoint(head);
    }
    let mut offset = 0;
    for (n, line) in sample.lines.iter().enumerate() {
        let place = Place { segment: "1.jsonl".into(), line: n as u64 + 1, offset };
        offset += line.len() as u64 + 1;
        verifier.line(place, line, sample.last_complete || n + 1 < sample.lines.len());
    }
    verifier.finish()
}

fn replace(line: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(line.clone()).unwrap();
    assert!(text.contains(from), "{text} holds {from}");
    *line = text.replacen(from, to, 1).into_bytes();
}

/// What is left of a finding: the record, and the problem's name with its numbers.
fn short(finding: &Finding) -> String {
    let seq = finding.seq.map(|seq| format!("{seq} ")).unwrap_or_default();
    let problem = match &finding.problem {
        Problem::Garbage { .. } => "garbage".into(),
        Problem::NotCanonical { .. } => "not canonical".into(),
        Problem::Edited => "edited".into(),
        Problem::Missing { from, to } => format!("missing {from}-{to}"),
        Problem::Reordered { after } => format!("reordered after {after}"),
        Problem::Duplicated => "duplicated".into(),
        Problem::Truncated { last, head } => format!("truncated {last} of {head}"),
        Problem::Rewritten { after, through } => format!("rewritten {after}-{through}"),
        Problem::RootDiffers => "root differs".into(),
        Problem::HeadUnproven { .. } => "head".into(),
    };
    format!("{seq}{problem}")
}

type Attack = fn(&mut Sample);

#[test]
fn every_attack_is_found_and_named() {
    let attacks: &[(&str, Attack, &[&str])] = &[
        ("nothing", |_| {}, &[]),
        ("a word edited", |log| replace(&mut log.lines[6], "fine 7", "evil 7"), &["7 edited"]),
        ("the first record edited", |log| replace(&mut log.lines[0], "fine", "evil"), &["1 edited"]),
        ("a signed record edited", |log| replace(&mut log.lines[7], "fine", "evil"), &["8 edited"]),
        (
            "the last signed record edited, what follows cut",
            |log| {
                replace(&mut log.lines[15], "fine", "evil");
                log.lines.truncate(16);
            },
            &["13 rewritten 12-16"],
        ),
        (
            "a link edited",
            |log| replace(&mut log.lines[9], "\"prev\":\"", "\"prev\":\"0"),
            &["10 missing 10-10", "garbage"],
        ),
        (
            "a link edited, its length kept",
            |log| {
                let text = String::from_utf8(log.lines[9].clone()).unwrap();
                let at = text.find("\"prev\":\"").unwrap() + 8;
                log.lines[9][at] = if log.lines[9][at] == b'0' { b'1' } else { b'0' };
            },
            &["9 edited", "10 edited"],
        ),
        ("the node edited", |log| replace(&mut log.lines[4], NODE, "build-8"), &["5 edited"]),
        ("a space added", |log| replace(&mut log.lines[2], ":", ": "), &["3 not canonical", "3 edited"]),
        (
            "members swapped",
            |log| {
                let line = String::from_utf8(log.lines[2].clone()).unwrap();
                let (at, rest) = line.strip_prefix('{').unwrap().split_once(",\"data\"").unwrap();
                log.lines[2] = format!("{{\"data\"{},{at}}}", rest.strip_suffix('}').unwrap()).into_bytes();
            },
            &["3 not canonical", "3 edited"],
        ),
        (
            "a member added twice",
            |log| replace(&mut log.lines[2], "\"v\":1", "\"v\":1,\"v\":1"),
            &["3 missing 3-3", "garbage"],
        ),
        ("a record deleted", |log| drop(log.lines.remove(6)), &["7 missing 7-7"]),
        ("the first record deleted", |log| drop(log.lines.remove(0)), &["1 missing 1-1"]),
        ("a whole segment deleted", |log| drop(log.lines.drain(4..9)), &["5 missing 5-9"]),
        ("two neighbours swapped", |log| log.lines.swap(6, 7), &["7 reordered after 8"]),
        (
            "two distant ones swapped",
            |log| log.lines.swap(3, 9),
            &[
                "4 reordered after 10",
                "5 reordered after 10",
                "6 reordered after 10",
                "7 reordered after 10",
                "8 reordered after 10",
                "9 reordered after 10",
            ],
        ),
        (
            "one moved to the end",
            |log| {
                let line = log.lines.remove(4);
                log.lines.push(line);
            },
            &["5 reordered after 20"],
        ),
        (
            "one copied",
            |log| {
                let line = log.lines[4].clone();
                log.lines.insert(9, line);
            },
            &["5 duplicated"],
        ),
        (
            "a made-up record put in",
            |log| {
                let line = String::from_utf8(log.lines[4].clone()).unwrap().replace("fine", "evil");
                log.lines.insert(5, line.into_bytes());
            },
            &["5 duplicated"],
        ),
        ("cut below the head", |log| log.lines.truncate(11), &["12 truncated 11 of 16"]),
        ("cut to nothing", |log| log.lines.clear(), &["1 truncated 0 of 16"]),
        ("cut above the head: not signed yet, no trace", |log| log.lines.truncate(17), &[]),
        (
            "torn above the head: what a crash leaves",
            |log| {
                log.lines[19].truncate(30);
                log.last_complete = false;
            },
            &[],
        ),
        (
            "torn below the head",
            |log| {
                log.lines.truncate(12);
                log.lines[11].truncate(30);
                log.last_complete = false;
            },
            &["12 truncated 11 of 16", "garbage"],
        ),
        (
            "rewritten from the start",
            |log| log.lines = write_log(RECORDS, "evil", &key(1)).lines,
            &["1 rewritten 0-4"],
        ),
        (
            "rewritten from the start, only the newest head kept",
            |log| {
                log.lines = write_log(RECORDS, "evil", &key(1)).lines;
                log.heads = vec![log.heads.pop().unwrap()];
            },
            &["1 rewritten 0-16"],
        ),
        (
            "rewritten from the start and shorter",
            |log| log.lines = write_log(10, "evil", &key(1)).lines,
            &["1 rewritten 0-4", "11 truncated 10 of 16"],
        ),
        (
            "rewritten from the middle",
            |log| {
                let mut chain =
                    Chain::resume(&NODE.into(), Tip { seq: 9, hash: ChainHash::of_line(&log.lines[8]) });
                for n in 9..RECORDS {
                    let mut line = Vec::new();
                    chain.append(&Encoded::of(&event("evil")).unwrap(), &mut line);
                    line.pop();
                    log.lines[n] = line;
                }
            },
            &["9 rewritten 8-12"],
        ),
        (
            "signed by whoever has the key, with the root of another log",
            |log| {
                let tip = Tip { seq: 8, hash: ChainHash::of_line(&log.lines[7]) };
                log.heads = vec![sign(&key(1), tip, &Frontier::default())];
            },
            &["8 root differs"],
        ),
        (
            "rewritten and signed with another key",
            |log| *log = write_log(RECORDS, "evil", &key(2)),
            &["head", "head", "head", "head", "head"],
        ),
        (
            "the head edited",
            |log| {
                let note = log.heads.pop().unwrap();
                log.heads.push(note.replacen("\n16\n", "\n18\n", 1));
            },
            &["head"],
        ),
        ("the head removed", |log| log.heads.clear(), &["head"]),
        ("the head rolled back to an older one: valid, only older", |log| log.heads.truncate(3), &[]),
        ("a line of garbage put in", |log| log.lines.insert(7, b"\0\0\0\0".to_vec()), &["garbage"]),
        (
            "all garbage",
            |log| log.lines = vec![b"\x7fELF".to_vec(), vec![0xff; 100]],
            &["1 truncated 0 of 16", "garbage", "garbage"],
        ),
        (
            "a version from the future",
            |log| replace(&mut log.lines[3], "\"v\":1", "\"v\":2"),
            &["4 missing 4-4", "garbage"],
        ),
    ];
    for (name, attack, expected) in attacks {
        let mut log = write_log(RECORDS, "fine", &key(1));
        attack(&mut log);
        let report = verify(&log);
        let mut found: Vec<String> = report.findings.iter().map(short).collect();
        let mut expected: Vec<String> = expected.iter().map(|text| (*text).to_owned()).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}:\n{report}");
        let integrity = if expected.is_empty() { Integrity::Intact } else { Integrity::Broken };
        assert_eq!(report.integrity, integrity, "{name}");
    }
}

#[test]
fn findings_say_where() {
    let mut log = write_log(RECORDS, "fine", &key(1));
    let offset = log.lines.iter().take(6).map(|line| line.len() as u64 + 1).sum();
    replace(&mut log.lines[6], "fine", "evil");
    let report = verify(&log);
    let place = Place { segment: "1.jsonl".into(), line: 7, offset };
    assert_eq!(report.findings[0].place, Some(place));
    assert_eq!(
        report.findings[0].text,
        "record 7 (1.jsonl:7): the record was edited: the next record names another hash"
    );
}

#[test]
fn the_report_tells_what_is_signed_and_what_is_not() {
    let report = verify(&write_log(RECORDS, "fine", &key(1)));
    let head = report.head.unwrap();
    assert_eq!((report.records, report.last_seq), (20, 20));
    assert_eq!((head.size, head.records_after), (16, 4));
    assert_eq!(report.checkpoints_met, 4);

    let mut torn = write_log(RECORDS, "fine", &key(1));
    torn.lines[19].truncate(30);
    torn.last_complete = false;
    let report = verify(&torn);
    assert_eq!(report.last_seq, 19);
    assert!(report.notes[0].contains("1 torn line(s) at 1.jsonl:20"), "{:?}", report.notes);
}

#[test]
fn an_empty_log_with_its_first_head_is_intact() {
    let log = Sample {
        lines: Vec::new(),
        heads: vec![sign(&key(1), Tip::EMPTY, &Frontier::default())],
        last_complete: true,
    };
    assert_eq!(verify(&log).integrity, Integrity::Intact);
}

#[test]
fn findings_and_memory_are_bounded() {
    let mut verifier = Verifier::new(Some(key(1).public()));
    verifier.checkpoint(&sign(&key(1), Tip::EMPTY, &Frontier::default()));
    let place = || Place { segment: "1.jsonl".into(), line: 1, offset: 0 };
    for n in 1..=12_000u64 {
        // Every other number is missing.
        let line = format!("{{\"prev\":\"{}\",\"seq\":{},\"v\":1}}", ChainHash::GENESIS, 2 * n);
        verifier.line(place(), line.as_bytes(), true);
        verifier.line(place(), b"garbage", true);
    }
    assert!(verifier.missing.len() <= MAX_MISSING_RANGES);
    let report = verifier.finish();
    assert_eq!(report.findings.len(), MAX_FINDINGS);
    assert!(report.findings_total >= 23_000, "{}", report.findings_total);
}

/// With the newest head alone: a signature takes long to check in a debug build.
static FINE: LazyLock<Sample> = LazyLock::new(|| {
    let log = write_log(RECORDS, "fine", &key(1));
    Sample { heads: log.heads.last().cloned().into_iter().collect(), ..log }
});

proptest! {
    /// Whatever one byte of what is signed becomes, it is found.
    #[test]
    fn no_byte_of_a_signed_record_can_change_unseen(
        record in 0..usize::try_from(SIGNED).unwrap(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut log = FINE.clone();
        let at = at.index(log.lines[record].len());
        prop_assume!(log.lines[record][at] != to && to != b'\n');
        log.lines[record][at] = to;
        let report = verify(&log);
        prop_assert_eq!(report.integrity, Integrity::Broken, "{}", report);
        // And it is found where it is: the number of an edited record may itself be what was edited.
        let near = |finding: &Finding| finding.seq.is_none_or(|seq| seq.abs_diff(record as u64 + 1) <= 1);
        prop_assert!(report.findings.iter().any(near), "{}", report);
    }

    /// Any selection of the records in any order other than the written one is found.
    #[test]
    fn no_selection_of_records_passes_for_the_log(
        picked in prop::collection::vec(0..RECORDS, 0..RECORDS + 4),
    ) {
        let whole = FINE.clone();
        let in_order = picked.iter().enumerate().all(|(n, line)| n == *line);
        prop_assume!(!(in_order && picked.len() as u64 >= SIGNED));
        let log = Sample { lines: picked.iter().map(|n| whole.lines[*n].clone()).collect(), ..whole };
        prop_assert_eq!(verify(&log).integrity, Integrity::Broken);
    }

    #[test]
    fn nothing_that_lies_in_a_log_panics_the_verifier(
        lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8),
        note in any::<String>(),
    ) {
        let log = Sample { lines, heads: vec![note], last_complete: false };
        prop_assert_eq!(verify(&log).integrity, Integrity::Broken);
    }
}
