//! What was done with the evidence itself: legal holds, removals by retention, recordings that were stored.

use crate::{id::SessionId, time::Timestamp};
use serde::{Deserialize, Serialize};

/// One such step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Custody {
    /// Records are kept whatever retention says.
    HoldPlaced(Hold),
    /// Retention decides on them again.
    HoldReleased {
        /// Which: its name.
        hold: String,
        /// Who: `local:1000`.
        by: String,
        /// Why, in their words.
        reason: String,
    },
    /// Records are over the time that they are kept for, and are removed after this record. Their hashes stay.
    Removed(Removal),
    /// A session's recording, or a part of it, rests where recordings are stored.
    RecordingStored(StoredRecording),
    /// Recordings cannot be stored; sessions that must be recorded are refused from now on.
    RecordingsBlocked {
        /// Recordings that wait.
        waiting: u64,
        /// Since when the oldest of them does.
        since: Timestamp,
        /// Why, as the store said it.
        error: String,
    },
    /// Recordings are stored again.
    RecordingsResumed,
    /// Signed heads do not reach a place off the host.
    CheckpointsLate {
        /// Where to, as the configuration names it.
        to: String,
        /// When the last one did, when one has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Timestamp>,
        /// What it answers.
        error: String,
    },
    /// Signed heads reach it again.
    CheckpointsResumed {
        /// Where to.
        to: String,
    },
}

impl Custody {
    /// The label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::HoldPlaced(_) => "hold_placed",
            Self::HoldReleased { .. } => "hold_released",
            Self::Removed(_) => "removed",
            Self::RecordingStored(_) => "recording_stored",
            Self::RecordingsBlocked { .. } => "recordings_blocked",
            Self::RecordingsResumed => "recordings_resumed",
            Self::CheckpointsLate { .. } => "checkpoints_late",
            Self::CheckpointsResumed { .. } => "checkpoints_resumed",
        }
    }

    /// In one sentence, for people.
    pub fn sentence(&self) -> String {
        match self {
            Self::HoldPlaced(hold) => format!("{} placed the hold {}: {}", hold.by, hold.name, hold.reason),
            Self::HoldReleased { hold, by, reason } => format!("{by} released the hold {hold}: {reason}"),
            Self::Removed(Removal { from, to, policy, .. }) => {
                format!("records {from} to {to} are removed by {policy}; their hashes stay")
            }
            Self::RecordingStored(stored) => format!("{} is stored, {} bytes", stored.name, stored.bytes),
            Self::RecordingsBlocked { waiting, since, error } => {
                format!("{waiting} recordings wait since {since} and cannot be stored: {error}")
            }
            Self::RecordingsResumed => "recordings are stored again".to_owned(),
            Self::CheckpointsLate { to, error, .. } => format!("signed heads do not reach {to}: {error}"),
            Self::CheckpointsResumed { to } => format!("signed heads reach {to} again"),
        }
    }
}

/// A legal hold: what it names is kept until it is released. Everything that is set must fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Names it: `hold_…`.
    pub name: String,
    /// One session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Sessions of a principal, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Records of this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Records before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who placed it.
    pub by: String,
    /// Why, in their words.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// Segments that were removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The first record.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// What they were in, oldest first.
    pub segments: Vec<RemovedSegment>,
    /// By which rule: `retention 90d`.
    pub policy: String,
    /// Who had it done: `schedule`, `local:0`.
    pub by: String,
    /// Where the segments were copied to before, when they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

/// One segment that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedSegment {
    /// Its first record.
    pub first: u64,
    /// Its last record.
    pub last: u64,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}

/// A recording, or a part of a long one, as it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRecording {
    /// Whose.
    pub session: SessionId,
    /// Which part, from 1.
    pub part: u32,
    /// True for the last one.
    pub last: bool,
    /// The object's name in the store.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// SHA-256 of its bytes, in hexadecimal.
    pub sha256: String,
}
