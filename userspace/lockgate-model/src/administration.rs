//! What somebody changed by hand: ended a session, registered a target. No decision on an operation is in here.

use crate::id::DecisionId;
use serde::{Deserialize, Serialize};

/// One such change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Administration {
    /// The id to quote.
    pub decision: DecisionId,
    /// What was done.
    pub action: Action,
    /// To what: a session's id, a target's name.
    pub subject: String,
    /// Who: `local:1000`, `oidc:corp:ana`.
    pub by: String,
    /// Who, to show.
    pub name: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it was changed to, where that is text: a target's definition, which holds no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// What can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A live session was ended.
    SessionKilled,
    /// A target was registered.
    TargetRegistered,
    /// A registered target was changed.
    TargetChanged,
    /// A registered target was taken away.
    TargetRemoved,
}

impl Action {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionKilled => "session_killed",
            Self::TargetRegistered => "target_registered",
            Self::TargetChanged => "target_changed",
            Self::TargetRemoved => "target_removed",
        }
    }
}
