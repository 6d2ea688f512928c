//! Permission that outlives one decision: what an approval may be used for again, grants that approvers give for a time
//! or a number of uses, and the emergency override. The machines that move them are in lockgate-policy.

use crate::{
    approval::Vote,
    id::{GlassId, GrantId, GroupName, RequestId, RuleId, TargetName},
    operation::Digest,
    principal::Approver,
    sql::Risk,
    time::{Timestamp, duration},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

/// What else an approval of one operation is good for; part of what a rule asks of people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// How far one approval of an operation reaches.
    #[serde(default)]
    pub covers: Covers,
    /// Which later request for the same operation finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReuseTerms>,
    /// Which requests are told in one message and decided together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<CoalesceTerms>,
    /// The longest grant that approvers may give; None is [`MAX_GRANT`], zero is none at all.
    #[serde(default, with = "crate::verdict::optional_duration", skip_serializing_if = "Option::is_none")]
    pub max_grant: Option<Duration>,
}

impl Terms {
    /// Whether it says nothing beyond "once".
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The longest grant where a rule does not say: an hour is a maintenance window, a day is a standing permission.
pub const MAX_GRANT: Duration = Duration::from_secs(3_600);

/// The most uses that one grant may have.
pub const MAX_GRANT_USES: u32 = 10_000;

/// How far one approval of an operation reaches. It is the same operation each time: statement, bound values, role,
/// database, search_path, target and identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Covers {
    /// This one time.
    #[default]
    Statement,
    /// As often as it comes in the same session.
    Session,
    /// As often as it comes in the same run.
    Run,
}

/// What two requests may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Same {
    /// The operation's digest.
    Digest,
    /// The target.
    Target,
    /// The rules that hold it.
    Rule,
    /// The principal.
    Principal,
    /// The CI run, of the same provider and repository.
    RunId,
    /// The repository.
    Repository,
    /// The workflow, of the same repository.
    Workflow,
    /// The job, of the same run.
    Job,
    /// The session.
    Session,
}

impl Same {
    /// Every one, with its name in policy.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Digest, "digest"),
        (Self::Target, "target"),
        (Self::Rule, "rule"),
        (Self::Principal, "identity.principal"),
        (Self::RunId, "identity.run_id"),
        (Self::Repository, "identity.repository"),
        (Self::Workflow, "identity.workflow"),
        (Self::Job, "identity.job"),
        (Self::Session, "session"),
    ];
}

/// Which later request for the same operation finds an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReuseTerms {
    /// What must be the same; the digest always is among it. What is not known is not the same.
    pub same: BTreeSet<Same>,
    /// For this long after the approval.
    #[serde(rename = "for", with = "duration")]
    pub duration: Duration,
    /// How often.
    pub uses: u32,
}

/// Which requests are told in one message and decided together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoalesceTerms {
    /// What must be the same; the principal and the rules always are.
    pub by: BTreeSet<Same>,
    /// How long after the first of them others are waited for.
    #[serde(with = "duration")]
    pub window: Duration,
}

/// What an approver gives beyond this one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// For how long.
    #[serde(rename = "for", with = "duration")]
    pub duration: Duration,
    /// How often; None is as often as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Not for this one shape, but for what else would be bundled with the request and is of these kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<AheadTerms>,
}

/// What an approver lets pass that has not been asked yet: the rest of a migration that is sent statement by statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AheadTerms {
    /// Statements of these kinds (`create_table`), spelled out.
    pub kinds: BTreeSet<String>,
    /// Of this risk at most.
    pub risk: Risk,
}

/// What a grant for the rest of a bundle is bound to, in the place of a shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Which statements.
    pub terms: AheadTerms,
    /// What the rules' `coalesce` names, as the request had it: the run, the target, the rules.
    pub parts: Vec<(Same, String)>,
    /// The role they run as.
    pub role: String,
    /// In this database.
    pub database: String,
}

/// The right of one principal to do operations of one shape on one target without asking again, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The request it was given with.
    pub from: RequestId,
    /// Who may use it.
    pub principal: String,
    /// Where.
    pub target: TargetName,
    /// SHA-256 over the parsed shape: facts, normalized statement, role, database, search_path.
    pub pattern: Digest,
    /// The shape for people: the statement with its literals replaced.
    pub shape: String,
    /// The rules whose question it answers.
    pub rules: Vec<RuleId>,
    /// Who gave it; counted again at each use.
    pub votes: Vec<Vote>,
    /// When.
    pub made_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
    /// How often; None is as often as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// How often it was used.
    #[serde(default)]
    pub used: u32,
    /// Set when it is for the rest of a bundle; `pattern` and `shape` are then of the request it was given with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ahead: Option<Ahead>,
}

/// How a grant ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum GrantEnd {
    /// Its time was over; actor = system.
    Expired,
    /// Its uses were; actor = system.
    Spent,
    /// Somebody took it back.
    Revoked {
        /// Who.
        by: Approver,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl GrantEnd {
    /// The name used in records and listings.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Spent => "spent",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// Why a request was approved although nobody voted on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "on")]
pub enum Basis {
    /// An approval of the same operation is used again.
    Reuse {
        /// The request that was approved.
        of: RequestId,
    },
    /// People decided on an earlier request for the same operation, whose client was gone.
    TakenUp {
        /// That request.
        of: RequestId,
    },
    /// A grant.
    Grant {
        /// Which.
        grant: GrantId,
        /// Uses left after this one; None is unlimited.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left: Option<u32>,
    },
}

/// What an emergency override lifts. Never a final deny, never a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifts {
    /// The wait for people.
    RequireApproval,
    /// A deny that is not final, and the target's default.
    Deny,
}

/// One use of an emergency override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlassUse {
    /// Its id.
    pub id: GlassId,
    /// The `break_glass` block of the policy.
    pub rule: RuleId,
    /// The person who broke it.
    pub by: Approver,
    /// How it is known that a person has just logged in.
    pub login: String,
    /// Whose sessions it lifts for: the processes of this uid ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// ... or this principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// On this target alone; None is every target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// From when.
    pub began_at: Timestamp,
    /// Until when, by itself.
    pub ends_at: Timestamp,
    /// When it was ended by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Groups that are told.
    #[serde(default)]
    pub notify: Vec<GroupName>,
    /// Who must look at it afterwards, when somebody must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewDebt>,
    /// Who did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewed: Option<Reviewed>,
}

/// Who must look at an override afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewDebt {
    /// A member of this group.
    pub by: GroupName,
    /// By when.
    pub due: Timestamp,
    /// Whether the block cannot be used again before.
    pub blocks_next_use: bool,
}

/// Somebody looked at an override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reviewed {
    /// Who.
    pub by: Approver,
    /// What they say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl GlassUse {
    /// Whether it lifts anything at that moment.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now >= self.began_at && now < self.ended_at.unwrap_or(self.ends_at).min(self.ends_at)
    }
}

/// An override in force for one session: which block of the policy it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lift {
    /// The use.
    pub glass: GlassId,
    /// The block; policy says what it lifts.
    pub rule: RuleId,
}
