//! What the tree on disk proves, whatever became of it between two starts.

use super::Directory;
use crate::{
    Integrity, Log, Reader,
    contract::{record, sample},
};
use lockgate_audit::PublicKey;
use lockgate_model::port::Durability;
use std::{fs, path::Path, sync::Arc};

fn open(directory: &Directory) -> Log {
    Log::open(directory.settings(), Arc::new(sample::FixedAmbient::default())).unwrap()
}

/// Adds so many records, and closes.
fn write(directory: &Directory, count: u64) {
    let log = open(directory);
    for n in 0..count {
        let _ = record(&log, vec![sample::mark("record", n)], Durability::Written).unwrap();
    }
    log.close().unwrap();
}

fn reader(directory: &Directory) -> (Reader, PublicKey) {
    let reader = Reader::open(&directory.dir).unwrap();
    let key = reader.public_key().unwrap().unwrap();
    (reader, key)
}

/// Every record is proven, and no other number; the whole log verifies, its root among it.
fn all_proven(directory: &Directory) -> u64 {
    let (reader, key) = reader(directory);
    let report = reader.verify(Some(key.clone())).unwrap();
    assert_eq!(report.integrity, Integrity::Intact, "{:?}", report.findings);
    let mut last = 0;
    for expected in reader.records() {
        let expected = expected.unwrap();
        let proof = reader.prove(expected.seq).unwrap().to_string();
        let (record, checkpoint) = proof.parse::<crate::Inclusion>().unwrap().check(&key).unwrap();
        assert_eq!((&record, checkpoint.tip.seq), (&expected, report.last_seq));
        last = expected.seq;
    }
    for missing in [0, last + 1] {
        assert!(reader.prove(missing).is_err(), "{missing}");
    }
    last
}

#[test]
fn every_record_is_proven_to_whoever_has_the_public_key() {
    // One segment, and many; past a tile of 256.
    for segment_bytes in [32 << 20, 4096] {
        let directory = Directory::new(segment_bytes);
        write(&directory, 0);
        assert_eq!(all_proven(&directory), 0);
        write(&directory, 3);
        assert_eq!(all_proven(&directory), 3);
        write(&directory, 300);
        assert_eq!(all_proven(&directory), 303);
    }
}

#[test]
fn a_log_that_went_on_is_told_from_one_that_was_cut_or_written_anew() {
    let directory = Directory::new(4096);
    let mut heads = Vec::new();
    for count in [0, 1, 40, 300] {
        write(&directory, count);
        heads.push(reader(&directory).0.checkpoint().unwrap());
    }
    let (reader, key) = reader(&directory);
    for old in &heads {
        let growth: crate::Growth = reader.prove_growth(old).unwrap().to_string().parse().unwrap();
        let (before, now) = growth.check(&key).unwrap();
        assert!(before.tip.seq <= now.tip.seq);
    }
    // Another log under the same key, as long: whoever kept a head sees it.
    let other = Directory::new(4096);
    fs::create_dir_all(other.dir.join("keys")).unwrap();
    for name in ["log.key", "log.pub"] {
        fs::copy(directory.dir.join("keys").join(name), other.dir.join("keys").join(name)).unwrap();
    }
    let log = open(&other);
    for n in 0..341 {
        let _ = record(&log, vec![sample::mark("another", n)], Durability::Written).unwrap();
    }
    log.close().unwrap();
    let (other, _) = self::reader(&other);
    for old in heads.iter().skip(1) {
        // It does not answer with a proof that would not hold.
        match other.prove_growth(old) {
            Err(error) => assert!(matches!(error, crate::StoreError::NotProven(_)), "{error}"),
            Ok(growth) => panic!("{growth}"),
        }
    }
}

type Damage = fn(&Path);

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_tree_that_is_gone_broken_or_another_logs_is_made_anew() {
    let damages: &[(&str, Damage)] = &[
        ("gone", |tree| fs::remove_dir_all(tree).unwrap()),
        ("the upper row gone", |tree| fs::remove_file(tree.join("1")).unwrap()),
        ("cut", |tree| fs::write(tree.join("0"), &fs::read(tree.join("0")).unwrap()[..1000]).unwrap()),
        ("empty", |tree| fs::write(tree.join("0"), []).unwrap()),
        ("a leaf of the last tile changed", |tree| flip(&tree.join("0"), 32 * 290)),
        ("an upper hash changed", |tree| flip(&tree.join("1"), 3)),
        ("longer than the head", |tree| {
            let mut leaves = fs::read(tree.join("0")).unwrap();
            leaves.extend_from_slice(&[7; 640]);
            fs::write(tree.join("0"), leaves).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let directory = Directory::new(4096);
        write(&directory, 300);
        damage(&directory.layout().tree());
        write(&directory, 5);
        assert_eq!(all_proven(&directory), 305, "{name}");
    }
}

#[test]
fn records_are_proven_while_the_log_is_written() {
    let directory = Directory::new(32 << 20);
    let log = open(&directory);
    for n in 0..600 {
        let _ = record(&log, vec![sample::mark("record", n)], Durability::Written).unwrap();
    }
    let (reader, key) = (log.reader(), log.public_key().clone());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let proof = loop {
        match reader.prove(600) {
            Ok(proof) => break proof,
            Err(error) => assert!(std::time::Instant::now() < until, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    assert_eq!(proof.check(&key).unwrap().0.seq, 600);
    log.close().unwrap();
}

#[test]
fn a_proof_that_would_not_hold_is_not_given_and_says_what_to_do() {
    let directory = Directory::new(4096);
    write(&directory, 300);
    // Under a whole tile a start does not look.
    let tree = directory.layout().tree();
    flip(&tree.join("0"), 100);
    write(&directory, 5);
    let error = reader(&directory).0.prove(1).unwrap_err().to_string();
    assert!(error.contains("lockgate audit verify") && error.contains("remove that directory"), "{error}");
    fs::remove_dir_all(tree).unwrap();
    write(&directory, 1);
    assert_eq!(all_proven(&directory), 306);
}
