//! Checks a log: every line canonical, every link right, every signed head met.
//!
//! What each attack leaves behind:
//!
//! | done to the log                         | what is seen                                                     |
//! |-----------------------------------------|------------------------------------------------------------------|
//! | a record edited                         | the next record's `prev` is not its hash                         |
//! | a record deleted, a segment removed     | its number is missing                                            |
//! | records reordered, copied               | a number comes late, or twice                                    |
//! | the end cut off                         | fewer records than the signed head covers                        |
//! | everything written anew                 | links fit, and the signed head's hash and root do not            |
//! | removed as retention does it            | no signed record says so                                         |
//! | the head removed, edited, signed by another key | the head does not open with the trusted key              |
//!
//! What is after the last signed head is linked but not signed yet: cutting there leaves no trace, and a torn
//! last line there is what a crash leaves. The head follows the log within a second; see lockgate-store.
//!
//! Pure, and bounded in memory whatever the log holds. The caller reads the head *before* the lines, so that a
//! log that is being written never looks shorter than its head.

use crate::{
    canonical,
    chain::{ChainHash, Tip},
    checkpoint::{Checkpoint, PublicKey},
    record::{MAX_RECORD_BYTES, VERSION},
    tree::{self, Frontier, Hash},
};
use lockgate_model::{
    Timestamp,
    custody::{Custody, Removal},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Findings that are kept; further ones are counted only. One is enough to distrust a log.
const MAX_FINDINGS: usize = 100;

/// Stands in every record of a removal.
const REMOVED: &[u8] = b"\"action\":\"removed\"";

/// Ranges of missing numbers that are remembered in case they come late. Past it the oldest is final.
const MAX_MISSING_RANGES: usize = 10_000;

/// What was found, serialisable and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The verdict.
    pub integrity: Integrity,
    /// Lines that are records.
    pub records: u64,
    /// Number of the last record in order.
    pub last_seq: u64,
    /// Hash of that record.
    pub last_hash: ChainHash,
    /// The signed head, when one opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadReport>,
    /// Signed heads (the newest and older ones) whose hash was met.
    pub checkpoints_met: u64,
    /// The key that was trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Records that retention removed: their hashes were there, and a signed record says by which rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<RemovedRange>,
    /// What is wrong, by record number; at most 100.
    pub findings: Vec<Finding>,
    /// How much is wrong, the findings that were not kept included.
    pub findings_total: u64,
    /// What is worth knowing and not wrong.
    pub notes: Vec<String>,
}

/// Records that retention removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RemovedRange {
    /// The first.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// By which rule, as the record about it says.
    pub policy: String,
    /// The number of that record.
    pub announced: u64,
}

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Integrity {
    /// Every record up to the signed head is the one that was written; those after it are linked.
    Intact,
    /// At least one finding.
    Broken,
}

/// The newest signed head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeadReport {
    /// The log's name.
    pub origin: String,
    /// How many records it covers.
    pub size: u64,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// Records after it: linked, not signed yet.
    pub records_after: u64,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The first record concerned, when its number is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Where it was seen, when it is in a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What.
    #[serde(flatten)]
    pub problem: Problem,
    /// For people.
    pub text: String,
}

/// A line of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The segment's file name.
    pub segment: String,
    /// Line, from 1.
    pub line: u64,
    /// Byte offset of the line.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.line)
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "problem")]
pub enum Problem {
    /// A line, or a file, is not a record.
    Garbage {
        /// Why.
        detail: String,
    },
    /// A record's bytes are not the canonical ones.
    NotCanonical {
        /// The first difference.
        detail: String,
    },
    /// A record is not the one that its successor names.
    Edited,
    /// Records are missing.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A record stands after one with a higher number.
    Reordered {
        /// That higher number.
        after: u64,
    },
    /// A record's number was there before.
    Duplicated,
    /// The log ends before its signed head.
    Truncated {
        /// The last record that is there.
        last: u64,
        /// How many the head covers.
        head: u64,
    },
    /// The links fit, and a signed head does not: written anew by somebody without the key.
    Rewritten {
        /// The last record known to be right.
        after: u64,
        /// The record whose signed hash is another.
        through: u64,
    },
    /// The signed hash of the last record fits, and the signed root of the tree is another's: whoever holds the key
    /// signed two logs.
    RootDiffers,
    /// There is no signed head, or none that opens with the trusted key.
    HeadUnproven {
        /// Why.
        detail: String,
    },
}

/// Goes through a log, line by line.
pub struct Verifier {
    key: Option<PublicKey>,
    /// Signed heads by size, hash and root; several for one size can only be a fork.
    checkpoints: BTreeMap<u64, (ChainHash, Hash)>,
    /// The tree of the records so far; None once one was missing, late or twice.
    tree: Option<Frontier>,
    head: Option<Checkpoint>,
    last: Tip,
    last_place: Option<Place>,
    records: u64,
    checkpoints_met: u64,
    /// The largest size whose signed hash was met.
    met_through: u64,
    /// A signed hash was not met at this record; the next record tells whether it was edited or all rewritten.
    unmet: Option<(u64, Option<Place>)>,
    rewritten: bool,
    /// The leaf of the last record, where retention removed it and it is known.
    removed_leaf: Option<Option<Hash>>,
    /// Ranges that are said to be removed by retention.
    gaps: Vec<(u64, u64)>,
    /// What records of removals say, with their numbers.
    announced: Vec<RemovedRange>,
    /// Ranges not seen so far: first → (last, where the gap was noticed).
    missing: BTreeMap<u64, (u64, Option<Place>)>,
    /// Lines that are no records, since the last record: a torn tail when nothing follows.
    tail: Vec<Finding>,
    tail_total: u64,
    findings: Vec<Finding>,
    findings_total: u64,
    notes: Vec<String>,
}

/// The members that the chain is made of.
#[derive(Deserialize)]
struct Links {
    v: u32,
    seq: u64,
    prev: ChainHash,
}

impl Verifier {
    /// Trusts `key`. Without one nothing is proven, and the report says so.
    pub fn new(key: Option<PublicKey>) -> Self {
        Self {
            key,
            checkpoints: BTreeMap::new(),
            tree: Some(Frontier::default()),
            head: None,
            last: Tip::EMPTY,
            last_place: None,
            records: 0,
            checkpoints_met: 0,
            met_through: 0,
            unmet: None,
            rewritten: false,
            removed_leaf: None,
            gaps: Vec::new(),
            announced: Vec::new(),
            missing: BTreeMap::new(),
            tail: Vec::new(),
            tail_total: 0,
            findings: Vec::new(),
            findings_total: 0,
            notes: Vec::new(),
        }
    }

    /// Takes a signed head: the newest and any number of older ones, before the first line.
    pub fn checkpoint(&mut self, note: &str) {
        let Some(key) = &self.key else {
            return self.head_unproven("no public key is at hand to check the signed head with".into());
        };
        match key.open(note) {
            Ok(checkpoint) => {
                let Tip { seq, hash } = checkpoint.tip;
                let signed = (hash, checkpoint.root);
                if self.checkpoints.insert(seq, signed).is_some_and(|other| other != signed) {
                    self.head_unproven(format!("two signed heads cover {seq} records with different hashes"));
                }
                if self.head.as_ref().is_none_or(|head| head.tip.seq <= seq) {
                    self.head = Some(checkpoint);
                }
            }
            Err(error) => self.head_unproven(error.to_string()),
        }
    }

    /// A signed head that should be there is not, or cannot be read.
    pub fn head_unproven(&mut self, detail: String) {
        self.report(None, None, Problem::HeadUnproven { detail });
    }

    /// Something worth knowing that is not wrong.
    pub fn note(&mut self, text: String) {
        if self.notes.len() < MAX_FINDINGS {
            self.notes.push(text);
        }
    }

    /// A file among the segments that is none, or a segment that cannot be read.
    pub fn garbage(&mut self, place: Place, detail: String) {
        self.report(None, Some(place), Problem::Garbage { detail });
    }

    /// The number of the last record so far.
    pub fn last_seq(&self) -> u64 {
        self.last.seq
    }

    /// Says that what comes begins with this record: an export of a period. What is before is not judged.
    pub fn begin_at(&mut self, seq: u64) {
        if seq > 1 && self.records == 0 {
            self.last = Tip { seq: seq - 1, hash: self.last.hash };
            self.removed_leaf = Some(None);
            self.tree = None;
            self.note(format!(
                "it begins with record {seq}: what follows is checked by its links and the signed hashes, what is before is not"
            ));
        }
    }

    /// The records after the last one, through `to`, are not there, and something is there in their place: the leaves of
    /// the tree for them, or nothing. Whether they were removed in order, a record that is still to come must say, and a
    /// signed head must cover it.
    pub fn removed(&mut self, to: u64, leaves: Option<&mut dyn Iterator<Item = Hash>>) {
        self.flush_tail();
        self.settle_unmet(true);
        let from = self.last.seq + 1;
        if to < from {
            return;
        }
        let mut last = None;
        match leaves {
            Some(leaves) => {
                let mut seq = self.last.seq;
                for leaf in leaves.take(usize::try_from(to - seq).unwrap_or(usize::MAX)) {
                    seq += 1;
                    last = Some(leaf);
                    self.tree.iter_mut().for_each(|tree| tree.push(leaf));
                    self.meet_removed(seq);
                }
                if seq != to {
                    (self.tree, last) = (None, None);
                }
            }
            None => self.tree = None,
        }
        if self.tree.is_none() {
            self.note(format!(
                "the hashes of the removed records {from} to {to} are not here: what follows them is checked by its links and the signed hash"
            ));
        }
        self.gaps.push((from, to));
        self.last = Tip { seq: to, hash: self.last.hash };
        self.removed_leaf = Some(last);
        self.last_place = None;
    }

    /// A head that was signed within what is removed: its root is that of the hashes.
    fn meet_removed(&mut self, seq: u64) {
        let (Some((_, root)), Some(tree)) = (self.checkpoints.get(&seq), &self.tree) else { return };
        if tree.root() == *root {
            self.checkpoints_met += 1;
            self.met_through = seq;
        } else {
            self.report(Some(seq), None, Problem::RootDiffers);
        }
    }

    /// The next line, without its newline; `complete` is false for one that has none.
    pub fn line(&mut self, place: Place, line: &[u8], complete: bool) {
        let links = match serde_json::from_slice::<Links>(line) {
            _ if !complete => Err(format!("a line of {} bytes has no end", line.len())),
            _ if line.len() > MAX_RECORD_BYTES => {
                Err(format!("a line of {} bytes is longer than a record may be", line.len()))
            }
            Ok(links) if links.v != VERSION => Err(format!("expected version {VERSION}, got {}", links.v)),
            Ok(links) => Ok(links),
            Err(error) => Err(format!("not a record: {error}")),
        };
        match links {
            Ok(links) => self.record(links, place, line),
            Err(detail) => {
                self.tail_total += 1;
                if self.tail.len() < MAX_FINDINGS {
                    self.tail.push(finding(None, Some(place), Problem::Garbage { detail }));
                }
            }
        }
    }

    fn record(&mut self, links: Links, place: Place, line: &[u8]) {
        self.flush_tail();
        self.records += 1;
        let seq = links.seq;
        if let Err(detail) = canonical::check(line) {
            self.report(Some(seq), Some(place.clone()), Problem::NotCanonical { detail: detail.to_string() });
        }
        let hash = ChainHash::of_line(line);
        if seq <= self.last.seq {
            let after = self.last.seq;
            let problem =
                if self.take_missing(seq) { Problem::Reordered { after } } else { Problem::Duplicated };
            self.report(Some(seq), Some(place), problem);
            self.tree = None;
            return;
        }
        if seq == self.last.seq + 1 {
            self.tree.iter_mut().for_each(|tree| tree.push(tree::leaf(&hash)));
            let fits = match self.removed_leaf.take() {
                None => links.prev == self.last.hash,
                Some(Some(removed)) => tree::leaf(&links.prev) == removed,
                // Nothing is known of the record before; what comes after binds this one.
                Some(None) => true,
            };
            self.settle_unmet(fits);
            if !fits {
                self.tree = None;
                let (seq, place) = match self.last.seq {
                    // The first record names something else than the beginning: it is the one that is wrong.
                    0 => (1, Some(place.clone())),
                    last => (last, self.last_place.clone()),
                };
                self.report(Some(seq), place, Problem::Edited);
            }
        } else {
            self.settle_unmet(true);
            self.lack(self.last.seq + 1, seq - 1, place.clone());
            self.tree = None;
        }
        if !self.gaps.is_empty() {
            self.hear_of_removal(seq, line);
        }
        if let Some((signed, root)) = self.checkpoints.get(&seq) {
            let differs = self.tree.as_ref().is_some_and(|tree| tree.root() != *root);
            if *signed == hash {
                self.checkpoints_met += 1;
                self.met_through = seq;
                if differs {
                    self.report(Some(seq), Some(place.clone()), Problem::RootDiffers);
                }
            } else {
                self.unmet = Some((seq, Some(place.clone())));
            }
        }
        self.last = Tip { seq, hash };
        self.last_place = Some(place);
    }

    /// Notes what a record says was removed.
    fn hear_of_removal(&mut self, seq: u64, line: &[u8]) {
        /// The part of the record that is looked at.
        #[derive(Deserialize)]
        struct Line {
            data: Box<Custody>,
            event: String,
        }
        // Few lines are: most need not be read once more.
        if !line.windows(REMOVED.len()).any(|window| window == REMOVED) {
            return;
        }
        let Ok(Line { data, event }) = serde_json::from_slice(line) else { return };
        if let ("custody", Custody::Removed(Removal { from, to, policy, .. })) = (event.as_str(), *data) {
            self.announced.push(RemovedRange { from, to, policy, announced: seq });
        }
    }

    /// What was removed in order; what was not becomes a finding.
    fn settle_removed(&mut self) -> Vec<RemovedRange> {
        let signed = self.head.as_ref().map_or(0, |head| head.tip.seq);
        let mut announced = std::mem::take(&mut self.announced);
        // Behind the signed head anybody can write a record.
        announced.retain(|range| range.announced <= signed);
        announced.sort_by_key(|range| range.from);
        let mut removed: Vec<RemovedRange> = Vec::new();
        for (mut from, to) in std::mem::take(&mut self.gaps) {
            while from <= to {
                let said = announced.iter().filter(|range| range.from <= from && range.to >= from);
                let Some(range) = said.max_by_key(|range| range.to) else { break };
                let through = range.to.min(to);
                removed.push(RemovedRange { from, to: through, ..range.clone() });
                from = through + 1;
            }
            if from <= to {
                self.report(Some(from), None, Problem::Missing { from, to });
            }
        }
        removed
    }

    /// After a record whose signed hash was not met: `linked` says whether the next record names the hash that
    /// the record has now. If so, it was not edited alone: the chain was made anew.
    fn settle_unmet(&mut self, linked: bool) {
        if let Some((through, place)) = self.unmet.take()
            && linked
            && !self.rewritten
        {
            self.rewritten = true;
            let after = self.met_through;
            self.report(Some(after + 1), place, Problem::Rewritten { after, through });
        }
    }

    fn lack(&mut self, from: u64, to: u64, place: Place) {
        if self.missing.len() >= MAX_MISSING_RANGES
            && let Some((from, (to, place))) = self.missing.pop_first()
        {
            self.report(Some(from), place, Problem::Missing { from, to });
        }
        self.missing.insert(from, (to, Some(place)));
    }

    /// Takes a number out of the missing ones; false when it was not missing.
    fn take_missing(&mut self, seq: u64) -> bool {
        let Some((&from, (to, place))) = self.missing.range(..=seq).next_back() else { return false };
        let (to, place) = (*to, place.clone());
        if seq > to {
            return false;
        }
        self.missing.remove(&from);
        if from < seq {
            self.missing.insert(from, (seq - 1, place.clone()));
        }
        if seq < to {
            self.missing.insert(seq + 1, (to, place));
        }
        true
    }

    /// Ends the log.
    pub fn finish(mut self) -> Report {
        self.settle_unmet(true);
        for (from, (to, place)) in std::mem::take(&mut self.missing) {
            self.report(Some(from), place, Problem::Missing { from, to });
        }
        match &self.head {
            Some(head) if head.tip.seq > self.last.seq => {
                let problem = Problem::Truncated { last: self.last.seq, head: head.tip.seq };
                self.flush_tail();
                self.report(Some(self.last.seq + 1), self.last_place.clone(), problem);
            }
            Some(_) => self.torn_tail_is_normal(),
            None => {
                self.flush_tail();
                if self.findings.iter().all(|f| !matches!(f.problem, Problem::HeadUnproven { .. })) {
                    self.head_unproven("there is no signed head".into());
                }
            }
        }
        let removed = self.settle_removed();
        self.findings.sort_by_key(|finding| finding.seq);
        let last_seq = self.last.seq;
        Report {
            integrity: if self.findings_total == 0 { Integrity::Intact } else { Integrity::Broken },
            records: self.records,
            last_seq,
            last_hash: self.last.hash,
            head: self.head.map(|head| HeadReport {
                origin: head.origin,
                size: head.tip.seq,
                signed_at: head.signed_at,
                records_after: last_seq.saturating_sub(head.tip.seq),
            }),
            checkpoints_met: self.checkpoints_met,
            public_key: self.key.map(|key| key.to_string()),
            removed,
            findings: self.findings,
            findings_total: self.findings_total,
            notes: self.notes,
        }
    }

    /// Lines that are no records, after everything that is signed, with nothing behind them.
    fn torn_tail_is_normal(&mut self) {
        let lines = std::mem::take(&mut self.tail_total);
        if let Some(first) = std::mem::take(&mut self.tail).into_iter().next() {
            let place = first.place.map(|place| place.to_string()).unwrap_or_default();
            self.note(format!(
                "the log ends in {lines} torn line(s) at {place}, after everything that is signed: what a crash \
                 leaves of a record that nobody relied on; the next start repairs it"
            ));
        }
    }

    fn flush_tail(&mut self) {
        let kept = std::mem::take(&mut self.tail);
        let uncounted = std::mem::take(&mut self.tail_total).saturating_sub(kept.len() as u64);
        for finding in kept {
            self.push(finding);
        }
        self.findings_total += uncounted;
    }

    fn report(&mut self, seq: Option<u64>, place: Option<Place>, problem: Problem) {
        self.push(finding(seq, place, problem));
    }

    fn push(&mut self, finding: Finding) {
        self.findings_total += 1;
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        }
    }
}

fn finding(seq: Option<u64>, place: Option<Place>, problem: Problem) -> Finding {
    let what = match &problem {
        Problem::Garbage { detail } => detail.clone(),
        Problem::NotCanonical { detail } => format!("its bytes are not the canonical ones: {detail}"),
        Problem::Edited => "the record was edited: the next record names another hash".into(),
        Problem::Missing { from, to } if from == to => "the record is missing".into(),
        Problem::Missing { from, to } => format!("records {from} to {to} are missing"),
        Problem::Reordered { after } => format!("the record was moved: it stands after record {after}"),
        Problem::Duplicated => "the record's number was there before".into(),
        Problem::Truncated { last, head } => {
            format!("the log was cut off after record {last}: the signed head covers {head}")
        }
        Problem::Rewritten { after: 0, through } => {
            format!("the log was rewritten from the start: the signed hash of record {through} is another")
        }
        Problem::Rewritten { after, through } => {
            format!(
                "the log was rewritten after record {after}: the signed hash of record {through} is another"
            )
        }
        Problem::RootDiffers => "the signed root of the tree is not that of the records up to here".into(),
        Problem::HeadUnproven { detail } => format!("the signed head proves nothing: {detail}"),
    };
    let text = match (seq, &place) {
        (Some(seq), Some(place)) => format!("record {seq} ({place}): {what}"),
        (Some(seq), None) => format!("record {seq}: {what}"),
        (None, Some(place)) => format!("{place}: {what}"),
        (None, None) => what,
    };
    Finding { seq, place, problem, text }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.integrity {
            Integrity::Intact => writeln!(f, "intact: {} records, every link holds", self.records)?,
            Integrity::Broken => writeln!(
                f,
                "BROKEN: {} problem(s) in {} records; do not rely on this log",
                self.findings_total, self.records
            )?,
        }
        if let Some(head) = &self.head {
            writeln!(
                f,
                "signed head: {} records of {}, signed at {}; {} record(s) after it are linked, not signed yet",
                head.size, head.origin, head.signed_at, head.records_after
            )?;
        }
        if let Some(key) = &self.public_key {
            writeln!(f, "public key: {key}")?;
        }
        for finding in &self.findings {
            writeln!(f, "  {}", finding.text)?;
        }
        if self.findings_total > self.findings.len() as u64 {
            writeln!(f, "  … and {} more", self.findings_total - self.findings.len() as u64)?;
        }
        for RemovedRange { from, to, policy, announced } in &self.removed {
            writeln!(
                f,
                "removed: records {from} to {to}, by {policy} (record {announced}); their hashes hold"
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
