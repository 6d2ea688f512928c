//! What policy says of an operation, and what must happen with it.

use crate::{
    grant::Terms,
    id::{DecisionId, GroupName, PolicyVersion, RuleId},
    secret::SecretRef,
    time::duration,
    workload::Assurance,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Policy's answer to one operation. There is no default: whoever has none must deny. What it says at length is shared: a
/// statement that comes again is answered with a clone.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Quoted in every denial.
    pub decision: DecisionId,
    /// What happens.
    pub effect: Effect,
    /// Every rule that contributed, in file order.
    pub rules: Arc<[RuleHit]>,
    /// What must happen with it, whatever the effect; survives a hold.
    pub obligations: Arc<Obligations>,
    /// The policy in force.
    pub policy: PolicyVersion,
    /// In shadow mode: what enforce would have done. `effect` is then `Allow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<Box<Effect>>,
}

/// What happens with an operation.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Forward it.
    Allow,
    /// Refuse it.
    Deny(Denial),
    /// Wait for people.
    Hold(ApprovalSpec),
}

impl Effect {
    /// The name used in policy, metrics and records.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny(_) => "deny",
            Self::Hold(_) => "require_approval",
        }
    }
}

/// Why an operation is refused, in the same words for every protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The rule that refuses; None when no rule matched or the refusal is not policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleId>,
    /// What kind of refusal.
    pub cause: DenialCause,
    /// One sentence: why. Safe to show the client.
    pub reason: String,
    /// What to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What kind of refusal; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenialCause {
    /// A deny rule.
    Rule,
    /// No rule matched and the target's default is deny.
    NoRuleMatched,
    /// Not understood, and no rule lets the opaque pass.
    Opaque,
    /// An approver said no.
    ApprovalDenied,
    /// Nobody decided in time.
    ApprovalTimeout,
    /// The client went away or cancelled.
    Withdrawn,
    /// The record could not be written.
    RecordFailed,
    /// A masked column used where it may not be.
    Masking,
    /// A result had more rows or bytes than policy lets through.
    Limit,
    /// A message type or state that lockgate does not handle.
    Unsupported,
    /// lockgate could not do its part (approvals unavailable, bounds reached).
    Unavailable,
}

impl DenialCause {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::NoRuleMatched => "no_rule_matched",
            Self::Opaque => "opaque",
            Self::ApprovalDenied => "approval_denied",
            Self::ApprovalTimeout => "approval_timeout",
            Self::Withdrawn => "withdrawn",
            Self::RecordFailed => "record_failed",
            Self::Masking => "masking",
            Self::Limit => "limit",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A rule that matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHit {
    /// Its id.
    pub rule: RuleId,
    /// Its `effect:` as written.
    pub effect: String,
    /// True when the rule is in shadow mode and did not act.
    #[serde(default)]
    pub shadow: bool,
    /// Set when its `when:` failed at run time (it then counts as policy.md says).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What must happen with an operation, whatever the effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obligations {
    /// Masking, when any matching rule asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSpec>,
    /// Rules whose masks are not applied, since who asks may see raw values (`unmask_for`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmasked: Vec<RuleId>,
    /// Recording.
    pub record: RecordSpec,
    /// How much of the results may reach the client: one for each matching `limits:` block; all of them hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<ResultLimit>,
}

/// How much of a result may reach the client, counted while it streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultLimit {
    /// The rule that asks for it.
    pub rule: RuleId,
    /// Over what it is counted.
    pub per: LimitScope,
    /// Rows, lines of a COPY included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes of rows, copy data, notices and errors, as they are on the wire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What the client is told to do instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Over what a result limit is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitScope {
    /// One statement; a cursor or portal is one statement, however often it is fetched from.
    #[default]
    Statement,
    /// All statements of the session that the rule matches.
    Session,
}

impl LimitScope {
    /// As written in policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Statement => "statement",
            Self::Session => "session",
        }
    }
}

/// Strongest merge of all matching `mask:` blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskSpec {
    /// Column masks; where several match one column, the strongest method wins (redact > hash > partial).
    pub columns: Vec<ColumnMask>,
    /// Content detectors for the columns that carry no mask.
    pub detectors: BTreeSet<Detector>,
    /// Masks for places in JSON responses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub json: Vec<crate::http::JsonMask>,
    /// What to do with a value of unknown lineage in a statement that could carry masked data.
    pub on_unknown_lineage: UnknownLineage,
    /// What to do with a masked column in WHERE, GROUP BY, ORDER BY, JOIN, …
    pub in_predicate: InPredicate,
    /// What to do with an output that is made of a masked column and is not the column itself.
    #[serde(default)]
    pub in_expression: InExpression,
    /// Who must agree where one of the two asks people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSpec>,
    /// The rules that asked for it.
    pub rules: Vec<RuleId>,
}

/// A mask for the columns a pattern names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnMask {
    /// `schema.table.column`, each a glob.
    pub pattern: ColumnPattern,
    /// How.
    pub method: MaskMethod,
}

/// `schema.table.column`; each part is a glob of `*` and `?`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ColumnPattern {
    /// Schema glob.
    pub schema: String,
    /// Table glob.
    pub table: String,
    /// Column glob.
    pub column: String,
}

/// How a value is masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskMethod {
    /// `[redacted]` for text-like types, NULL for others.
    Redact,
    /// HMAC-SHA-256 with this key, hex: stable for joins.
    Hash {
        /// Where the key rests.
        key: SecretRef,
    },
    /// Everything but the last characters becomes `*`.
    Partial {
        /// How many characters stay.
        keep_last: u32,
    },
    /// NULL.
    Null,
}

impl MaskMethod {
    /// Strength: redact and null > hash > partial.
    pub fn strength(&self) -> u8 {
        match self {
            Self::Redact => 3,
            Self::Null => 3,
            Self::Hash { .. } => 2,
            Self::Partial { .. } => 1,
        }
    }
}

/// Content detectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Payment card numbers (Luhn).
    CardNumber,
    /// United States social security numbers.
    Ssn,
    /// E-mail addresses.
    Email,
    /// Telephone numbers.
    Phone,
    /// Tokens, keys, private keys.
    Secret,
}

/// What to do with a value of unknown lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownLineage {
    /// Mask it whole.
    Redact,
    /// Refuse the statement.
    Deny,
    /// Let it pass; said in so many words by policy.
    Pass,
}

/// What to do with a masked column outside the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InPredicate {
    /// Refuse the statement.
    Deny,
    /// Ask people; approved, it passes, and its output stays masked.
    RequireApproval,
    /// Let it pass; said in so many words by policy.
    Allow,
}

/// What to do with an output that is made of a masked column: `upper(ssn)`, `ssn || name`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InExpression {
    /// Refuse the statement.
    Deny,
    /// Ask people; approved, it passes, and the output is masked whole.
    RequireApproval,
    /// Mask the output whole.
    #[default]
    Redact,
}

/// What is recorded of an operation; the strongest of all matching rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordSpec {
    /// What is kept of the statement.
    pub statements: RecordStatements,
    /// What is kept of the result.
    pub results: RecordResults,
    /// Sync even plain reads before they are forwarded.
    #[serde(default)]
    pub sync: bool,
    /// How long records are kept; None means the store's default.
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub retain: Option<Duration>,
}

impl Default for RecordSpec {
    fn default() -> Self {
        Self { statements: RecordStatements::Full, results: RecordResults::None, sync: false, retain: None }
    }
}

/// What is kept of a statement; ordered by strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatements {
    /// Only its shape: literals replaced, no bound values.
    Normalized,
    /// Its text and bound values (still normalized when it touches a masked table).
    Full,
}

/// What is kept of results; ordered by strength. Always as masked for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordResults {
    /// Rows and bytes counted, no values.
    None,
    /// The first rows, as the client saw them (masked), within a bound.
    Masked,
}

/// Who must agree, by when. Several rules are AND-ed: every requirement must be met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSpec {
    /// One per rule that asks for approval; never empty.
    pub requirements: Vec<Requirement>,
    /// The shortest timeout of all of them.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// The shortest cap on waiting while a transaction is open.
    #[serde(default, with = "optional_duration", skip_serializing_if = "Option::is_none")]
    pub max_wait_in_transaction: Option<Duration>,
}

/// What one rule asks of people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The rule.
    pub rule: RuleId,
    /// Its description or message, for the approver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Stages in order of `at`; a later one replaces the earlier one, votes are kept.
    pub stages: Vec<Stage>,
    /// How many deny votes refuse.
    pub deny_votes: u32,
    /// Who may not approve.
    pub exclude: BTreeSet<Exclude>,
    /// The requester's identity must be at least this sure, else the operation is denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_assurance: Option<Assurance>,
    /// A vote without a reason does not count.
    pub require_reason: bool,
    /// What else an approval is good for.
    #[serde(default, skip_serializing_if = "Terms::is_default")]
    pub terms: Terms,
}

/// Who decides from some time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// From this long after the request.
    #[serde(with = "duration")]
    pub at: Duration,
    /// Members of any of these groups may vote.
    pub any_of: Vec<GroupName>,
    /// How many distinct people must approve.
    pub need: u32,
}

/// Who may not approve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclude {
    /// The requester; always excluded.
    Requester,
    /// Who triggered the run.
    TriggeringActor,
    /// Who wrote the commit.
    CommitAuthor,
}

/// Serde form of an optional duration as text.
pub mod optional_duration {
    use crate::time::{format_duration, parse_duration};
    use serde::{Deserialize, Deserializer, Serializer, de};
    use std::time::Duration;

    /// Writes the text form or null.
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_str(&format_duration(*value)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the text form or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| parse_duration(&text).map_err(de::Error::custom))
            .transpose()
    }
}
