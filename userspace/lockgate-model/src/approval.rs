//! A request for approval, and how it goes on. The machine that moves it is in lockgate-policy.

use crate::{
    grant::{Basis, GrantTerms},
    id::{DecisionId, GroupName, RequestId},
    operation::Operation,
    principal::Approver,
    session::Session,
    time::Timestamp,
    verdict::{ApprovalSpec, Verdict},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is asked of people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// Its id.
    pub id: RequestId,
    /// The session that waits.
    pub session: Arc<Session>,
    /// What it wants to do. Its digest is what a decision must echo.
    pub operation: Operation,
    /// Policy's verdict (its effect is `Hold`).
    pub verdict: Verdict,
    /// Who must agree (the verdict's spec).
    pub spec: ApprovalSpec,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it is denied by itself.
    pub expires_at: Timestamp,
}

impl ApprovalRequest {
    /// The decision that holds it.
    pub fn decision(&self) -> DecisionId {
        self.verdict.decision
    }
}

/// One vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// Who.
    pub by: Approver,
    /// Approve or deny.
    pub decision: VoteDecision,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: Timestamp,
    /// What an approval gives beyond this one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantTerms>,
}

/// Approve or deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoteDecision {
    /// Let it pass, once.
    Approve,
    /// Refuse it.
    Deny,
}

/// Where a request stands; what the waiting client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// One line per requirement.
    pub requirements: Vec<RequirementProgress>,
    /// When it is denied by itself.
    pub expires_at: Timestamp,
    /// Where a person can look and decide.
    pub url: String,
    /// How it ended, when it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
}

/// Where one requirement stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequirementProgress {
    /// The rule.
    pub rule: crate::id::RuleId,
    /// Distinct people who approved.
    pub have: u32,
    /// Distinct people needed.
    pub need: u32,
    /// Who may vote now.
    pub any_of: Vec<GroupName>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Resolution {
    /// Every requirement is met.
    Approved {
        /// The votes that did it.
        votes: Vec<Vote>,
        /// Set when nobody voted on this very request.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        basis: Option<Basis>,
    },
    /// Denied by people.
    Denied {
        /// The vote that did it.
        vote: Vote,
    },
    /// Nobody decided in time; actor = system.
    Expired,
    /// The client cancelled or went away.
    Withdrawn {
        /// Which.
        reason: WithdrawReason,
    },
}

impl Resolution {
    /// The name used in records and CloudEvents types.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
            Self::Withdrawn { .. } => "cancelled",
        }
    }
}

/// Why a request was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithdrawReason {
    /// Ctrl-C: a CancelRequest.
    Cancelled,
    /// The client's connection ended.
    Disconnected,
    /// The target's connection ended.
    UpstreamLost,
    /// lockgate stops.
    Drained,
    /// lockgate was killed while it waited (written at start).
    Crash,
    /// Its client was gone, and another request for the same went on in its place.
    TakenUp,
}
