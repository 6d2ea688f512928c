//! Proofs that can be handed to somebody who has neither the log nor this program's word: text, checked with the public key
//! alone.
//!
//! ```text
//! c2sp.org/tlog-proof@v1                                that a record is in the log
//! extra eyJhdCI6…                                       base64 of the record itself
//! index 1041                                            its leaf: one less than its number
//! ASAx…=                                                base64 of the nodes beside its way to the root
//!
//! lockgate-audit/build-7                                a checkpoint, see `checkpoint`
//! …
//! ```
//!
//! The shape is that of <https://c2sp.org/tlog-proof>. Its entry is the record's hash in the chain; the record goes with it as
//! the proof's extra data, so that one file is enough. A [`Growth`] says that one checkpoint's log goes on from another's.
//!
//! Pure.

use crate::{
    chain::ChainHash,
    checkpoint::{Checkpoint, NoteError, PublicKey},
    record::{MAX_RECORD_BYTES, Record},
    tree::{self, Hash},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use std::{fmt, str::FromStr};

const INCLUSION: &str = "c2sp.org/tlog-proof@v1";
/// Ours: there is no standard text for a proof of growth.
const GROWTH: &str = "lockgate-audit/growth@v1";
/// A path through a tree of 2^64 leaves has no more.
const MAX_PATH: usize = 64;
/// A proof is a record in base64 and a few lines; whatever is longer is none.
const MAX_PROOF_BYTES: usize = MAX_RECORD_BYTES * 2;

/// Why something is proven by nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a proof of this shape.
    #[error("expected a proof ({INCLUSION} or {GROWTH}): {0}")]
    Malformed(&'static str),
    /// Its checkpoint does not open with the key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The path does not lead from the record to the root.
    #[error("record {seq} is not the one that was in the log when it was signed at {size} records")]
    NotIncluded {
        /// The record's number, as the proof tells it.
        seq: u64,
        /// The checkpoint's size.
        size: u64,
    },
    /// The record says another number than its place in the tree.
    #[error("the record says it is number {says}, and the proof is of number {seq}")]
    OtherRecord {
        /// By its own words.
        says: u64,
        /// By its place.
        seq: u64,
    },
    /// The later log does not go on from the earlier one.
    #[error(
        "the log of {size} records does not go on from the one of {old}: what was signed first was changed or cut since"
    )]
    NotGrown {
        /// Records of the earlier.
        old: u64,
        /// Records of the later.
        size: u64,
    },
}

/// That a record is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The record: its line, without the newline.
    pub record: Vec<u8>,
    /// Its number.
    pub seq: u64,
    /// The nodes beside its way to the root.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub note: String,
}

/// That one checkpoint's log goes on from another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// The nodes that say so.
    pub path: Vec<Hash>,
    /// The earlier signed checkpoint.
    pub old: String,
    /// The later one.
    pub note: String,
}

impl Inclusion {
    /// Checks it: the record, and the checkpoint that it was in the log of.
    ///
    /// # Errors
    /// When it proves nothing, and why.
    pub fn check(&self, key: &PublicKey) -> Result<(Record, Checkpoint), ProofError> {
        let checkpoint = key.open(&self.note)?;
        let (seq, size) = (self.seq, checkpoint.tip.seq);
        let leaf = tree::leaf(&ChainHash::of_line(&self.record));
        let index = seq.checked_sub(1).ok_or(ProofError::Malformed("records count from 1"))?;
        if !tree::includes(&checkpoint.root, size, &leaf, index, &self.path) {
            return Err(ProofError::NotIncluded { seq, size });
        }
        let record = Record::decode(&self.record).map_err(|_| ProofError::Malformed("the record"))?;
        if record.seq != seq {
            return Err(ProofError::OtherRecord { says: record.seq, seq });
        }
        Ok((record, checkpoint))
    }
}

impl Growth {
    /// Checks it: the earlier checkpoint and the later.
    ///
    /// # Errors
    /// When it proves nothing, and why.
    pub fn check(&self, key: &PublicKey) -> Result<(Checkpoint, Checkpoint), ProofError> {
        let (old, new) = (key.open(&self.old)?, key.open(&self.note)?);
        if tree::extends(&old.root, old.tip.seq, &new.root, new.tip.seq, &self.path) {
            Ok((old, new))
        } else {
            Err(ProofError::NotGrown { old: old.tip.seq, size: new.tip.seq })
        }
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, path: &[Hash]) -> fmt::Result {
    path.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))
}

impl fmt::Display for Inclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{INCLUSION}\nextra {}\nindex {}",
            BASE64.encode(&self.record),
            self.seq.saturating_sub(1)
        )?;
        write_path(f, &self.path)?;
        write!(f, "\n{}", self.note)
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{GROWTH}\nold {}", BASE64.encode(&self.old))?;
        write_path(f, &self.path)?;
        write!(f, "\n{}", self.note)
    }
}

/// The lines up to the empty one, the path among them, and the checkpoint behind it.
fn split<'a>(text: &'a str, name: &str) -> Result<(std::str::Lines<'a>, &'a str), ProofError> {
    if text.len() > MAX_PROOF_BYTES {
        return Err(ProofError::Malformed("it is longer than a proof can be"));
    }
    let (proof, note) = text.split_once("\n\n").ok_or(ProofError::Malformed("no blank line"))?;
    let mut lines = proof.lines();
    if lines.next() == Some(name) { Ok((lines, note)) } else { Err(ProofError::Malformed("its first line")) }
}

fn decoded(line: Option<&str>, name: &str, what: &'static str) -> Result<Vec<u8>, ProofError> {
    let text = line.and_then(|line| line.strip_prefix(name)).ok_or(ProofError::Malformed(what))?;
    BASE64.decode(text).map_err(|_| ProofError::Malformed(what))
}

fn path(lines: std::str::Lines<'_>) -> Result<Vec<Hash>, ProofError> {
    let mut path = Vec::new();
    for line in lines {
        let hash = BASE64.decode(line).ok().and_then(|bytes| bytes.try_into().ok());
        path.push(hash.ok_or(ProofError::Malformed("a hash is not 32 bytes of base64"))?);
        if path.len() > MAX_PATH {
            return Err(ProofError::Malformed("its path is longer than any tree's"));
        }
    }
    Ok(path)
}

impl FromStr for Inclusion {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let (mut lines, note) = split(text, INCLUSION)?;
        let record = decoded(lines.next(), "extra ", "the record")?;
        let index: Option<u64> =
            lines.next().and_then(|line| line.strip_prefix("index ")).and_then(|index| index.parse().ok());
        let seq = index.and_then(|index| index.checked_add(1)).ok_or(ProofError::Malformed("the index"))?;
        Ok(Self { record, seq, path: path(lines)?, note: note.to_owned() })
    }
}

impl FromStr for Growth {
    type Err = ProofError;

    fn from_str(text: &str) -> Result<Self, ProofError> {
        let (mut lines, note) = split(text, GROWTH)?;
        let old = decoded(lines.next(), "old ", "the earlier checkpoint")?;
        let old = String::from_utf8(old).map_err(|_| ProofError::Malformed("the earlier checkpoint"))?;
        Ok(Self { path: path(lines)?, old, note: note.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chain, Encoded, SigningKey, Tip, checkpoint::origin, tree::Nodes};
    use lockgate_model::{
        Secret,
        event::{Event, EventKind},
        id::NodeName,
    };
    use std::convert::Infallible;

    const NODE: &str = "build-7";

    struct Log {
        lines: Vec<Vec<u8>>,
        leaves: Vec<Hash>,
        tips: Vec<Tip>,
    }

    impl Nodes for Log {
        type Error = Infallible;

        fn node(&self, level: u32, index: u64) -> Result<Hash, Infallible> {
            let mut row = self.leaves[(index << level) as usize..][..1 << level].to_vec();
            while row.len() > 1 {
                row = row.chunks(2).map(|pair| tree::node(&pair[0], &pair[1])).collect();
            }
            Ok(row[0])
        }
    }

    fn log(count: u64, text: &str) -> Log {
        let mut chain = Chain::resume(&NODE.into(), Tip::EMPTY);
        let mut log = Log { lines: Vec::new(), leaves: Vec::new(), tips: vec![Tip::EMPTY] };
        for n in 0..count {
            let kind = EventKind::Gap { stage: "sample".into(), count: None, detail: format!("{text} {n}") };
            let event = Event { at: "2026-11-21T09:00:00Z".parse().unwrap(), session: None, kind };
            let mut line = Vec::new();
            log.tips.push(chain.append(&Encoded::of(&event).unwrap(), &mut line));
            line.pop();
            log.leaves.push(tree::leaf(&ChainHash::of_line(&line)));
            log.lines.push(line);
        }
        log
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(origin(&NodeName::from(NODE)), &Secret::new([seed; 32]))
    }

    fn note(log: &Log, size: u64) -> String {
        let Ok(root) = tree::root(log, size);
        let signed_at = "2026-11-21T10:00:00Z".parse().unwrap();
        key(1).sign(&Checkpoint {
            origin: origin(&NODE.into()),
            tip: log.tips[size as usize],
            root,
            signed_at,
        })
    }

    fn proof(log: &Log, seq: u64, size: u64) -> Inclusion {
        let Ok(path) = tree::inclusion(log, seq - 1, size);
        Inclusion { record: log.lines[seq as usize - 1].clone(), seq, path, note: note(log, size) }
    }

    #[test]
    fn a_record_is_proven_by_text_and_the_public_key() {
        let log = log(21, "fine");
        for (seq, size) in [(1, 1), (1, 21), (7, 20), (21, 21), (16, 16)] {
            let text = proof(&log, seq, size).to_string();
            let read: Inclusion = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            let (record, checkpoint) = read.check(&key(1).public()).unwrap();
            assert_eq!((record.seq, checkpoint.tip.seq), (seq, size));
        }
    }

    #[test]
    fn nothing_else_is_proven_by_it() {
        let (log, other) = (log(21, "fine"), self::log(21, "evil"));
        let public = key(1).public();
        let good = proof(&log, 7, 20);
        let forged = [
            Inclusion { record: other.lines[6].clone(), ..good.clone() },
            Inclusion { record: log.lines[7].clone(), ..good.clone() },
            Inclusion { seq: 8, ..good.clone() },
            Inclusion { seq: 0, ..good.clone() },
            Inclusion { seq: 21, ..good.clone() },
            Inclusion { path: Vec::new(), ..good.clone() },
            Inclusion { note: note(&log, 21), ..good.clone() },
            Inclusion { note: note(&other, 20), ..good.clone() },
            Inclusion { note: good.note.replacen("\n20\n", "\n7\n", 1), ..good.clone() },
        ];
        for (number, forged) in forged.iter().enumerate() {
            assert!(forged.check(&public).is_err(), "{number}");
        }
        assert!(matches!(good.check(&key(2).public()), Err(ProofError::Note(NoteError::OtherKey { .. }))));
    }

    #[test]
    fn a_log_only_grows() {
        let (log, other) = (log(21, "fine"), self::log(21, "evil"));
        let public = key(1).public();
        for (old, size) in [(0, 21), (1, 21), (16, 17), (20, 21), (21, 21)] {
            let Ok(path) = tree::consistency(&log, old, size);
            let text = Growth { path, old: note(&log, old), note: note(&log, size) }.to_string();
            let growth: Growth = text.parse().unwrap();
            let (before, after) = growth.check(&public).unwrap();
            assert_eq!((before.tip.seq, after.tip.seq), (old, size));
            let rewritten = Growth { note: note(&other, size), ..growth.clone() };
            let shorter = Growth { old: growth.note.clone(), note: growth.old.clone(), ..growth };
            assert!(rewritten.check(&public).is_err() || old == 0, "{old} {size}");
            assert!(shorter.check(&public).is_err() || old == size, "{old} {size}");
        }
    }

    #[test]
    fn garbage_is_no_proof() {
        let text = proof(&log(3, "fine"), 2, 3).to_string();
        let long = text.replacen("\n\n", &format!("\n{}\n", "AAAA\n".repeat(3)), 1);
        let deep =
            text.replacen("\n\n", &format!("\n{}\n", format!("{}\n", BASE64.encode([0; 32])).repeat(80)), 1);
        for bad in [
            "",
            "\n\n",
            "c2sp.org/tlog-proof@v1\n",
            &text.replace("index 1", "index x"),
            &text.replace("extra ", ""),
            &text.replace("index 1", "index 18446744073709551615"),
            &long,
            &deep,
        ] {
            assert!(matches!(bad.parse::<Inclusion>(), Err(ProofError::Malformed(_))), "{bad}");
        }
        assert!(text.parse::<Growth>().is_err());
    }
}
