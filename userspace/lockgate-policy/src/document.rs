//! The policy document as it is written: one struct a block, read by [`crate::yaml`].
//!
//! Shape only. What the words mean together, and what is wrong beyond their shape, is `compile`'s business.
//! The JSON schema for editors is generated from these types, so their doc comments are user documentation.

mod case;
mod word;

pub use case::*;
#[cfg(test)]
pub(crate) use word::Words;
pub use word::*;

use crate::yaml::{Lenient, Spanned};
use lockgate_model::verdict::{InExpression, InPredicate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A policy file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// `lockgate.dev/v1`
    #[serde(rename = "apiVersion")]
    pub api_version: Spanned<String>,
    /// `Policy`
    pub kind: Spanned<String>,
    /// Its name.
    pub metadata: Metadata,
    /// IANA name of the zone in which `time` is read; UTC when absent.
    #[serde(default)]
    pub timezone: Option<Spanned<String>>,
    /// The most that rules of this file do (enforce): with `shadow` each only says what it would have done.
    #[serde(default)]
    pub mode: Option<Spanned<RuleMode>>,
    /// People who may approve, by name.
    #[serde(default)]
    pub groups: BTreeMap<String, Spanned<Option<Group>>>,
    /// Order does not matter.
    #[serde(default)]
    pub rules: Vec<Lenient<Spanned<Rule>>>,
    /// Emergency overrides.
    #[serde(default, rename = "break_glass")]
    pub break_glass: Vec<Lenient<Spanned<BreakGlass>>>,
    /// What the rules are expected to say.
    #[serde(default)]
    pub tests: Vec<Lenient<Spanned<Case>>>,
}

/// The name of a policy.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Metadata {
    /// Its name.
    pub name: Spanned<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// Where a group's members come from. Integrations that speak for the group and `api.local_approvers` name it
/// in the agent's configuration; that needs nothing here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
pub struct Group {
    /// `claim:value` in tokens of the identity provider.
    #[serde(default)]
    pub oidc: Option<String>,
    /// Principals that sessions of its members have, spelled out: `github_actions:acme/fraud`, `kubernetes:prod/fraud`,
    /// `caller:fraud-desk`, `uid:1001`. What a mask's `unmask_for` goes by.
    #[serde(default)]
    pub members: Vec<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// One rule.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Rule {
    /// Unique among all files; quoted in denials and records.
    pub id: Spanned<String>,
    /// For people: approvers see it.
    #[serde(default)]
    pub description: Option<String>,
    /// What it is about. An empty block matches everything.
    #[serde(rename = "match")]
    pub matches: Match,
    /// A CEL expression that must hold too.
    #[serde(default)]
    pub when: Option<Spanned<String>>,
    /// What it says.
    pub effect: Spanned<RuleEffect>,
    /// `shadow` only notes what it would have done.
    #[serde(default)]
    pub mode: RuleMode,
    /// A final deny is lifted by nothing.
    #[serde(default, rename = "final")]
    pub is_final: Option<Spanned<bool>>,
    /// Told to the client when the rule denies.
    #[serde(default)]
    pub message: Option<String>,
    /// Told to the client when the rule denies: where to go instead.
    #[serde(default)]
    pub remedy_url: Option<String>,
    /// For `require_approval`.
    #[serde(default)]
    pub approval: Option<Spanned<Approval>>,
    /// Masks for what the rule matches, whatever its effect.
    #[serde(default)]
    pub mask: Option<Spanned<Mask>>,
    /// What is recorded of what the rule matches, whatever its effect.
    #[serde(default)]
    pub record: Option<Record>,
    /// The role that lockgate logs in as on the target, for sessions that the rule matches. Only for targets whose client
    /// certificates lockgate or a vault issues.
    #[serde(default)]
    pub login_as: Option<Spanned<String>>,
    /// How much of a result reaches the client, whatever the effect; one block, or a list of them.
    #[serde(default)]
    pub limits: Option<OneOrMany<Spanned<LimitBlock>>>,
}

/// What a rule says: `deny > require_approval > allow > none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleEffect {
    /// Only adds obligations.
    None,
    /// Lets it pass.
    Allow,
    /// Holds it for people.
    RequireApproval,
    /// Refuses it.
    Deny,
}

impl RuleEffect {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Allow => "allow",
            Self::RequireApproval => "require_approval",
            Self::Deny => "deny",
        }
    }
}

/// Whether a rule acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    /// It acts.
    #[default]
    Enforce,
    /// It is noted and does not act.
    Shadow,
    /// It does nothing.
    Off,
}

impl RuleMode {
    /// The one of two that does less.
    pub(crate) fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Off, _) | (_, Self::Off) => Self::Off,
            (Self::Shadow, _) | (_, Self::Shadow) => Self::Shadow,
            (Self::Enforce, Self::Enforce) => Self::Enforce,
        }
    }
}

/// What a rule is about. Every block and every key in it must match.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Match {
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityMatch>,
    /// Where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetMatch>,
    /// What the client says of itself. Not for allow rules: the job writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Spanned<SessionMatch>>,
    /// What a SQL statement does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<Spanned<SqlMatch>>,
    /// For the Kubernetes API. Read; matches nothing in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Spanned<Unread>>,
    /// For SSH. Read; matches nothing in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Spanned<Unread>>,
    /// What an HTTP request asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Spanned<HttpMatch>>,
}

/// Who asks. Texts are globs (`*`, `?`, `[a-z]`, `{a,b}`; `*` crosses `/`), one or a list.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct IdentityMatch {
    /// person, service_account, ci_job, agent, unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<OneOrMany<Kind>>,
    /// The principal's id: `github_actions:acme/billing`, `unit:backup.service`, `uid:1001`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Globs>,
    /// The least sure identity the rule accepts. An allow rule takes CI facts only from `platform` up, unless
    /// it says `claimed` here; other rules take any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Sureness>,
    /// CI system: github_actions, gitlab, buildkite, circleci, jenkins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Globs>,
    /// `acme/billing`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Globs>,
    /// `deploy.yml`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Globs>,
    /// Job name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<Globs>,
    /// Full ref: `refs/heads/main`.
    #[serde(default, alias = "ref", skip_serializing_if = "Option::is_none")]
    pub git_ref: Option<Globs>,
    /// Whether the provider protects that ref.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_protected: Option<bool>,
    /// `push`, `pull_request`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_name: Option<Globs>,
    /// Who owns the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Globs>,
    /// Who triggered this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triggering_actor: Option<Globs>,
    /// Run id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Globs>,
    /// Real user id of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<OneOrMany<u32>>,
    /// Its user name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Globs>,
    /// systemd unit. An allow rule takes only units of the system manager.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Globs>,
    /// Executable path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Globs>,
    /// SHA-256 of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe_sha256: Option<Globs>,
    /// cgroup path, relative to the v2 mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Globs>,
    /// Container id. An allow rule takes only cgroups that the workload could not have made itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Globs>,
    /// The provider's id of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<Globs>,
    /// Name of the runner the provider gave the job to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<Globs>,
    /// Whether the job's provider (or, where no job is claimed, the Kubernetes API) vouches for who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<bool>,
    /// Kubernetes pod. While the API server has not named a pod, rules that deny, hold or mask by this or one of
    /// the next four match it, and allow rules do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Globs>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Globs>,
    /// The service account it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<Globs>,
    /// The controller that owns it: `ReplicaSet/api-6f7`, `Job/migrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Globs>,
    /// Every label named here must be there and match. Whoever may patch the pod writes them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Globs>,
}

/// Where it goes.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TargetMatch {
    /// Its name in configuration; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Globs>,
    /// Every tag named here must be there and match; globs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Globs>,
    /// postgres, http; mysql, kubernetes and ssh are read and match nothing in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<OneOrMany<ProtocolName>>,
    /// observe, shadow, enforce.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<OneOrMany<TargetMode>>,
}

/// What the client says of itself.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SessionMatch {
    /// The database it is connected to; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Globs>,
    /// The user it asked for (not the one lockgate logs in as); globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Globs>,
    /// `application_name`; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_name: Option<Globs>,
}

/// What a SQL statement does.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SqlMatch {
    /// read, transaction, session, copy_out, write, copy_in, call, ddl, admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<OneOrMany<Class>>,
    /// `drop_table`, `alter_table`, `delete`, …: itself, or the word before the first underscore (`drop`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<OneOrMany<Spanned<String>>>,
    /// Some table it reads or writes matches; globs `schema.table`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any_table: Option<OneOrMany<Spanned<String>>>,
    /// It names tables and all of them match; globs `schema.table`. `[]`: it names no table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_tables: Option<OneOrMany<Spanned<String>>>,
    /// Some column it names matches; globs `column` or `table.column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Globs>,
    /// Some function it calls matches; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub functions: Option<Globs>,
    /// It has some of these side effects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects: Option<OneOrMany<SideEffect>>,
    /// `false`: no WHERE, or one that is always true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded: Option<bool>,
    /// It moves data out in bulk, in one of these ways: copy, select (without a limit), document, large_object, dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<OneOrMany<ExportWay>>,
    /// What it takes from a table may be more than this. A size that is not known is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<Spanned<SizeBlock>>,
    /// `true`: what was not understood, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<bool>,
    /// At least this risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskLevel>,
    /// The statement's shape, as `lockgate inspect sql` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<OneOrMany<Spanned<String>>>,
}

/// What an HTTP request asks for. A name that comes twice: an allow rule needs every value to match, others one.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct HttpMatch {
    /// read (GET, HEAD, OPTIONS without a body), write (every other), upgrade (WebSocket).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<OneOrMany<HttpClassName>>,
    /// `GET`, `POST`, …; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Globs>,
    /// Host names, without port; globs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Globs>,
    /// Templates of the decoded path: `/v1/users/{id}` (`{id}` and `*` are one segment, `**` any number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<OneOrMany<Spanned<String>>>,
    /// Parameters of the query, by name; globs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, Globs>,
    /// Headers, by name; globs. Credentials cannot be matched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Globs>,
    /// Fields of a JSON body, by path (`spec.replicas`, `items.*.name`, `**.owner`); globs. The body is read for it, and a
    /// request whose body cannot be read is opaque.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Globs>,
    /// `true`: what the origin might read differently than lockgate, and nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<bool>,
    /// At least this risk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<RiskLevel>,
}

/// A size: more rows than this, or more bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SizeBlock {
    /// Rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes: `500`, `64KiB`, `50MB`, `2GB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<BytesText>,
}

/// Who must agree, by when.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Approval {
    /// In order of `at`; a later stage replaces the earlier one, votes are kept.
    pub stages: Vec<Spanned<StageBlock>>,
    /// Then it is denied.
    pub timeout: DurationText,
    /// Only `deny`.
    #[serde(default)]
    pub on_timeout: Option<OnTimeout>,
    /// How many deny votes refuse (1).
    #[serde(default)]
    pub deny_votes: Option<Spanned<u32>>,
    /// Who may not decide besides the requester (default: triggering_actor).
    #[serde(default)]
    pub exclude: Option<OneOrMany<Excluded>>,
    /// An identity less sure than this is denied at once.
    #[serde(default)]
    pub min_assurance: Option<Sureness>,
    /// How far one approval of an operation reaches: this once, the session, the run. The operation is the same each time.
    #[serde(default)]
    pub covers: Option<Spanned<Covers>>,
    /// Which later request for the same operation finds the approval: the retried step of a run.
    #[serde(default)]
    pub reuse: Option<Spanned<Reuse>>,
    /// Which requests are told in one message and decided together.
    #[serde(default)]
    pub coalesce: Option<Spanned<Coalesce>>,
    /// The longest grant ("for 15 minutes") that approvers may give; `0` is none (60m).
    #[serde(default)]
    pub max_grant: Option<DurationText>,
    /// Caps the wait while a transaction is open and its locks are held.
    #[serde(default)]
    pub max_wait_in_transaction: Option<DurationText>,
    /// A vote without a reason does not count.
    #[serde(default)]
    pub require_reason: bool,
}

/// Who decides from some time on.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct StageBlock {
    /// This long after the request.
    pub at: DurationText,
    /// Members of which groups may vote.
    pub from: StageFrom,
    /// How many distinct people must approve.
    pub need: Spanned<u32>,
}

/// Members of which groups may vote: one of the two.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageFrom {
    /// Of this one.
    Group(Spanned<String>),
    /// Of any of these.
    AnyOf(Vec<Spanned<String>>),
}

/// What happens at the timeout.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnTimeout {
    /// It is denied.
    Deny,
}

/// What one approval covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Covers {
    /// The statement.
    Statement,
    /// The session.
    Session,
    /// The run.
    Run,
}

/// Which later requests find an approval.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Reuse {
    /// What must be the same, `digest` among it: digest, target, rule, session, identity.principal, identity.run_id,
    /// identity.repository, identity.workflow, identity.job.
    pub same: Vec<String>,
    /// For how long.
    #[serde(rename = "for")]
    pub duration: DurationText,
    /// How often (1).
    #[serde(default)]
    pub uses: Option<u32>,
}

/// Which requests are told in one message.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Coalesce {
    /// What must be the same besides principal, target and rules.
    pub by: Vec<String>,
    /// Within what time.
    pub window: DurationText,
}

/// What is masked.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Mask {
    /// By column.
    #[serde(default)]
    pub columns: Vec<Spanned<MaskColumn>>,
    /// By content, in columns that carry no mask, and in text and JSON responses.
    #[serde(default)]
    pub detectors: Vec<DetectorName>,
    /// By place, in JSON responses.
    #[serde(default)]
    pub json: Vec<Spanned<MaskJson>>,
    /// A value of unknown lineage in a statement that could carry masked data (redact).
    #[serde(default)]
    pub on_unknown_lineage: Option<Lineage>,
    /// A masked column in WHERE, GROUP BY, ORDER BY, JOIN or an aggregate (deny). `require_approval` asks those whom the
    /// rule's `approval:` names.
    #[serde(default)]
    pub in_predicate: Option<Predicate>,
    /// An output that is made of a masked column and is not the column itself (redact).
    #[serde(default)]
    pub in_expression: Option<Expression>,
    /// Sessions whose principal is a member (`groups: { NAME: { members: […] } }`) see what this rule would mask. An approval
    /// never unmasks.
    #[serde(default)]
    pub unmask_for: Option<Spanned<StageFrom>>,
    /// How sure that principal must be: `kernel`, `platform` or `attested` (platform).
    #[serde(default)]
    pub unmask_min_assurance: Option<Spanned<Sureness>>,
}

impl Mask {
    /// Whether it holds statements for people.
    pub(crate) fn asks_people(&self) -> bool {
        self.in_predicate.is_some_and(|predicate| predicate.0 == InPredicate::RequireApproval)
            || self.in_expression.is_some_and(|expression| expression.0 == InExpression::RequireApproval)
    }
}

/// A mask for the columns a pattern names.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct MaskColumn {
    /// `schema.table.column`, each a glob of `*` and `?`; `column` and `table.column` for any schema.
    #[serde(rename = "match")]
    pub pattern: Spanned<String>,
    /// How.
    pub method: Method,
    /// For `partial`: how many characters stay (4).
    #[serde(default)]
    pub keep_last: Option<Spanned<u32>>,
    /// For `hash`: where the key rests.
    #[serde(default)]
    pub key: Option<Spanned<KeyRef>>,
}

/// A mask for what stands at a path of JSON responses.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct MaskJson {
    /// `customer.ssn`, `items.*.ssn`, `**.password`.
    pub path: Spanned<String>,
    /// How.
    pub method: Method,
    /// For `partial`: how many characters stay (4).
    #[serde(default)]
    pub keep_last: Option<Spanned<u32>>,
    /// For `hash`: where the key rests.
    #[serde(default)]
    pub key: Option<Spanned<KeyRef>>,
}

/// How a value is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `[redacted]`; NULL for types that cannot say so.
    Redact,
    /// All but the last characters.
    Partial,
    /// HMAC-SHA-256 with a key.
    Hash,
    /// NULL.
    Null,
}

/// What is recorded.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct Record {
    /// Of the statement: its text with values (full), or its shape (normalized).
    #[serde(default)]
    pub statements: Option<Statements>,
    /// Of results: nothing, or the first rows as the client saw them.
    #[serde(default)]
    pub results: Option<Results>,
    /// Sync plain reads to disk too before they are forwarded.
    #[serde(default)]
    pub sync: bool,
    /// How long records are kept.
    #[serde(default)]
    pub retain: Option<DurationText>,
}

/// How much of a result reaches the client. What goes beyond it is cut with an error, while it streams.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct LimitBlock {
    /// Rows at most, lines of a COPY included.
    #[serde(default)]
    pub rows: Option<u64>,
    /// Bytes at most: `500`, `64KiB`, `50MB`, `2GB`.
    #[serde(default)]
    pub bytes: Option<BytesText>,
    /// Over what they are counted: `statement` (a cursor is one), or all that the rule matches in the `session`.
    #[serde(default)]
    pub per: Option<CountedPer>,
}

/// An emergency override.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct BreakGlass {
    /// Its id.
    pub id: Spanned<String>,
    /// Who may use it.
    pub who: StageFrom,
    /// What it lifts; never a final deny.
    pub lifts: Vec<Lifted>,
    /// What its user must give.
    #[serde(default)]
    pub requires: Option<Requires>,
    /// For how long at most.
    pub max: DurationText,
    /// Groups that are told.
    #[serde(default)]
    pub notify: Vec<Spanned<String>>,
    /// Who looks at it afterwards.
    #[serde(default)]
    pub review: Option<Review>,
}

/// What an override lifts.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lifted {
    /// The wait for people.
    RequireApproval,
    /// A deny that is not final.
    Deny,
}

/// What the user of an override must give.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Requires {
    /// A reason.
    #[serde(default)]
    pub reason: bool,
    /// A ticket that matches this regular expression.
    #[serde(default)]
    pub ticket: Option<Spanned<String>>,
}

/// Who looks at an override afterwards.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Review {
    /// Which group.
    pub by: Spanned<String>,
    /// By when.
    pub within: DurationText,
    /// Whether it cannot be used again before.
    #[serde(default)]
    pub blocks_next_use: bool,
}

/// Protocols a rule may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is its own name")]
pub enum ProtocolName {
    Postgres,
    Mysql,
    Kubernetes,
    Ssh,
    Http,
}
