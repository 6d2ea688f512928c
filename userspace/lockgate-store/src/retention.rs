//! Retention: which segments are over their time, and their removal, so that what is left still verifies.
//!
//! A record is kept for what the configuration says, or for what the policy that it was recorded under says (`retain`)
//! where that is longer. What keeps a session's record keeps the session: all its records. A segment goes when nothing in it
//! is kept. Holds win over both; sessions that run, and the last two segments, stay always.
//!
//! ```text
//! plan ──▶ prepare: hashes to <dir>/removed ──▶ (record the removal; wait until a signed head covers it) ──▶ discard
//! ```

use crate::{
    error::{During, StoreError},
    layout::{Layout, Segment},
    lines::Lines,
    removed,
    tree::Tree,
};
use lockgate_model::{
    SessionId, Timestamp,
    custody::{Hold, Removal},
    time::parse_duration,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    fs::{self, File},
    io,
    path::PathBuf,
    time::Duration,
};

/// Segments at the log's end that are never removed: a start reads them.
const ALWAYS_KEPT: usize = 2;

/// What retention would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Segments that are over their time and that nothing keeps: their first records.
    pub remove: Vec<u64>,
    /// Segments that are over their time and are kept all the same, and why.
    pub kept: BTreeMap<u64, String>,
    /// The rule.
    pub policy: String,
}

/// What of a line retention looks at.
#[derive(Deserialize)]
struct Line<'a> {
    at: Timestamp,
    #[serde(default)]
    session: Option<SessionId>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Decided {
    verdict: Verdict,
}

#[derive(Deserialize)]
struct Verdict {
    obligations: Obligations,
}

#[derive(Deserialize)]
struct Obligations {
    record: RecordSpec,
}

#[derive(Deserialize)]
struct RecordSpec {
    #[serde(default)]
    retain: Option<String>,
}

#[derive(Deserialize)]
struct Started<'a> {
    id: SessionId,
    #[serde(borrow)]
    principal: Principal<'a>,
}

#[derive(Deserialize)]
struct Principal<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// What stands in a segment that is over its time.
struct Contents {
    sessions: HashSet<SessionId>,
    newest: Timestamp,
}

/// Goes over the segments that may be over their time.
struct Survey<'a> {
    now: Timestamp,
    holds: &'a [Hold],
    /// Why a session is kept.
    pinned: HashMap<SessionId, String>,
    /// Sessions that a hold names by their principal, until a record of them is in its time.
    named: HashMap<SessionId, Vec<&'a Hold>>,
    pinned_segments: BTreeMap<u64, String>,
}

/// What is over its time at `now`, with sessions in `open` running and so many records signed.
pub(crate) fn plan(
    layout: &Layout,
    keep: Duration,
    holds: &[Hold],
    open: &[SessionId],
    signed: u64,
    now: Timestamp,
) -> Result<Plan, StoreError> {
    let (segments, _) = layout.list_segments()?;
    let covered = segments.iter().skip(1).take_while(|next| next.first_seq <= signed + 1).count();
    let candidates = covered.min(segments.len().saturating_sub(ALWAYS_KEPT));
    let mut survey = Survey {
        now,
        holds,
        pinned: open.iter().map(|id| (*id, format!("session {id} is open"))).collect(),
        named: HashMap::new(),
        pinned_segments: BTreeMap::new(),
    };
    let mut surveyed = Vec::new();
    for segment in segments.iter().take(candidates) {
        let contents = survey.segment(segment)?;
        if contents.newest + keep >= now {
            break;
        }
        surveyed.push((segment.first_seq, contents));
    }
    let mut plan = Plan {
        policy: format!("retention {}", lockgate_model::time::format_duration(keep)),
        ..Plan::default()
    };
    for (first, contents) in surveyed {
        let mut why: Vec<_> = contents.sessions.iter().filter_map(|id| survey.pinned.get(id)).collect();
        why.extend(survey.pinned_segments.get(&first));
        why.sort();
        match why.first() {
            Some(why) => drop(plan.kept.insert(first, (*why).clone())),
            None => plan.remove.push(first),
        }
    }
    Ok(plan)
}

impl<'a> Survey<'a> {
    fn segment(&mut self, segment: &Segment) -> Result<Contents, StoreError> {
        let mut contents = Contents { sessions: HashSet::new(), newest: Timestamp::MIN };
        let mut lines = Lines::open(segment.clone()).during("open", &segment.path)?;
        while let Some(line) = lines.next().during("read", &segment.path)? {
            // What cannot be read is evidence: it stays, and `audit verify` tells.
            let Ok(read) = serde_json::from_slice::<Line<'_>>(line.bytes) else {
                self.pinned_segments.insert(segment.first_seq, "a line of it is no record".to_owned());
                continue;
            };
            contents.newest = contents.newest.max(read.at);
            contents.sessions.extend(self.record(segment.first_seq, &read));
        }
        Ok(contents)
    }

    /// Looks for what keeps it; its session.
    fn record(&mut self, segment: u64, line: &Line<'_>) -> Option<SessionId> {
        let holds = self.holds;
        let mut session = line.session;
        match &*line.event {
            "session_started" => {
                if let Ok(started) = serde_json::from_str::<Started<'_>>(line.data.get()) {
                    session = Some(started.id);
                    let of_identity = |hold: &&Hold| {
                        hold.identity.as_deref().is_some_and(|id| *id == *started.principal.id)
                    };
                    let named: Vec<_> = holds.iter().filter(of_identity).collect();
                    if !named.is_empty() {
                        self.named.insert(started.id, named);
                    }
                }
            }
            "operation_decided" => self.retained(line),
            _ => {}
        }
        for hold in holds {
            let in_time = hold.since.is_none_or(|since| line.at >= since)
                && hold.until.is_none_or(|until| line.at < until);
            let of_session = hold.session.is_none() || hold.session == session;
            let named = hold.identity.is_none()
                || session
                    .and_then(|id| self.named.get(&id))
                    .is_some_and(|by| by.iter().any(|by| by.name == hold.name));
            if in_time && of_session && named {
                let why = format!("hold {}", hold.name);
                match session {
                    Some(id) if hold.session.is_some() || hold.identity.is_some() => {
                        drop(self.pinned.insert(id, why))
                    }
                    _ => drop(self.pinned_segments.insert(segment, why)),
                }
            }
        }
        session
    }

    /// Keeps a session that the policy wants kept for longer.
    fn retained(&mut self, line: &Line<'_>) {
        let Ok(decided) = serde_json::from_str::<Decided>(line.data.get()) else { return };
        let retain = decided.verdict.obligations.record.retain;
        let Some(retain) = retain.and_then(|text| parse_duration(&text).ok()) else { return };
        if let Some(session) = line.session
            && line.at + retain >= self.now
        {
            let why = format!("the policy retains records of session {session} until {}", line.at + retain);
            self.pinned.entry(session).or_insert(why);
        }
    }
}

/// Writes down what stays of the segments. Nothing is removed yet: the removal has to be recorded, and signed, before.
pub(crate) fn prepare(layout: &Layout, plan: &Plan, by: &str) -> Result<Vec<Removal>, StoreError> {
    let tree = Tree::read(layout)?;
    let mut removals: Vec<Removal> = Vec::new();
    for first in &plan.remove {
        let segment = removed::keep_hashes(layout, &layout.segment(*first), &tree)?;
        match removals.last_mut() {
            Some(last) if last.to + 1 == segment.first => {
                last.to = segment.last;
                last.segments.push(segment);
            }
            _ => removals.push(Removal {
                from: segment.first,
                to: segment.last,
                segments: vec![segment],
                policy: plan.policy.clone(),
                by: by.to_owned(),
                archive: None,
            }),
        }
    }
    Ok(removals)
}

/// Removes the segments.
pub(crate) fn discard(layout: &Layout, removal: &Removal) -> Result<(), StoreError> {
    for segment in &removal.segments {
        let path = layout.segment(segment.first).path;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).during("remove", path);
            }
            _ => {}
        }
    }
    let dir = layout.segments();
    File::open(&dir).and_then(|dir| dir.sync_all()).during("sync", dir)
}

/// Where a segment rests, for those who copy it elsewhere before it goes.
pub(crate) fn path(layout: &Layout, first: u64) -> PathBuf {
    layout.segment(first).path
}
