//! The documents that [`super`] makes, field by field: what is served is serialised from these types and the API's description
//! is generated from them, so neither can say what the other does not.
//!
//! No meaning here: what may stand in a field is judged where it is filled.

use crate::{
    api::openapi::{CastVote, DoneReview, Ended, Need, OwedReview, RuleStage},
    approvals::case::{Delivery, Earlier},
};
use lockgate_model::{
    BundleId, DecisionId, GlassId, RequestId, SessionId, Timestamp,
    approval::{RequirementProgress, Resolution, Vote},
    flow::Capture,
    grant::{ReviewDebt, Reviewed},
    http::{HttpBody, HttpClass},
    id::{GroupName, NodeName, OperationId, PolicyVersion, RuleId, TargetName},
    operation::{Digest, ValueFormat},
    session::{Mode, Protocol},
    sql::{Risk, SqlClass, SqlEffect},
    verdict::{Exclude, Stage},
    workload::{Assurance, CiAssurance, Container, IdentityKind},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

/// What a request is about; the same in every channel.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Subject {
    /// One sentence, made from the parsed operation and never from the client's text.
    pub(crate) summary: String,
    /// What would happen.
    pub(crate) operation: AskedOperation,
    /// True inside an open transaction, whose locks are held meanwhile.
    pub(crate) in_transaction: bool,
    /// The database; empty where there is none.
    pub(crate) database: String,
    /// The role it would run as; empty where there is none.
    pub(crate) role: String,
    /// As the session has set it.
    pub(crate) search_path: Option<String>,
    /// Where it would run.
    pub(crate) target: AskedTarget,
    /// Who asks, and how sure that is.
    pub(crate) identity: Asker,
    /// True for a rehearsal, which nobody asked for and which touches no target.
    pub(crate) rehearsal: bool,
    /// `ses_…`
    #[schema(value_type = String)]
    pub(crate) session_id: SessionId,
    /// `dec_…`, what the client's error quotes.
    #[schema(value_type = String)]
    pub(crate) decision_id: DecisionId,
    /// The node that holds it.
    #[schema(value_type = String)]
    pub(crate) node: NodeName,
    /// Version of the policy that holds it.
    #[schema(value_type = String)]
    pub(crate) policy: PolicyVersion,
    /// Requests for the very same command that this node remembered when this one was asked.
    pub(crate) earlier: Vec<Earlier>,
}

/// What would happen.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskedOperation {
    /// `op_…`
    #[schema(value_type = String)]
    pub(crate) id: OperationId,
    /// The exact text; its shape where `literals` is `masked`.
    pub(crate) statement: String,
    /// The same with everything that hides spelled out.
    pub(crate) statement_display: String,
    /// Bytes of `statement`.
    pub(crate) statement_bytes: usize,
    /// `shown`, or `masked`: then no literal, bound value or argument of a command line is anywhere in this document.
    pub(crate) literals: Literals,
    /// Bound values, in order.
    pub(crate) bound_values: Vec<BoundValue>,
    /// How many there are.
    pub(crate) bound_value_count: usize,
    /// True when it was not understood.
    pub(crate) opaque: bool,
    #[serde(flatten)]
    pub(crate) facts: AskedFacts,
}

/// Whether values stand in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Literals {
    /// They do.
    Shown,
    /// They do not: policy masks what it touches, or the reader may see shapes alone.
    Masked,
}

/// What is known of it, by protocol.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum AskedFacts {
    Sql(AskedSql),
    Http(Box<AskedHttp>),
}

/// Of a SQL statement.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskedSql {
    /// `read`, `write`, `ddl`, …
    #[schema(value_type = String)]
    pub(crate) class: SqlClass,
    /// `select`, `alter_table`, …
    pub(crate) kind: String,
    /// Relations read.
    pub(crate) tables_read: Vec<String>,
    /// Relations written.
    pub(crate) tables_written: Vec<String>,
    /// Columns named.
    pub(crate) columns: Vec<String>,
    /// Functions called.
    pub(crate) functions: Vec<String>,
    /// For SELECT, UPDATE, DELETE: whether something limits what it touches.
    pub(crate) bounded: Option<bool>,
    /// `low`, `medium`, `high` or `critical`
    #[schema(value_type = String)]
    pub(crate) risk: Risk,
    /// Side effects: `changes_schema`, `writes_file`, …
    #[schema(value_type = Vec<String>)]
    pub(crate) effects: BTreeSet<SqlEffect>,
    /// The same for statements that differ in literals alone.
    pub(crate) fingerprint: String,
    /// Why it is opaque, when it is.
    pub(crate) opaque_reason: Option<String>,
    /// The class by the second parser, where it disagreed.
    #[schema(value_type = Option<String>)]
    pub(crate) second_opinion: Option<SqlClass>,
}

/// Of a request over HTTP.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskedHttp {
    /// `read`, `write`, `upgrade` or `opaque`
    #[schema(value_type = String)]
    pub(crate) class: HttpClass,
    /// The method.
    pub(crate) kind: String,
    /// The method.
    pub(crate) method: String,
    /// `http` or `https`
    pub(crate) scheme: String,
    /// Without the port.
    pub(crate) host: String,
    /// Decoded; the route where values are masked.
    pub(crate) path: String,
    /// The path with what looks like an id replaced.
    pub(crate) route: String,
    /// Parameters of the query.
    pub(crate) query: Vec<Field>,
    /// Headers that rules ask for.
    pub(crate) headers: Vec<Field>,
    /// The protocol it goes on in.
    pub(crate) upgrade: Option<String>,
    /// What is known of its body.
    #[schema(value_type = Object)]
    pub(crate) body: HttpBody,
    /// `low`, `medium`, `high` or `critical`
    #[schema(value_type = String)]
    pub(crate) risk: Risk,
    /// Why it is opaque, when it is.
    pub(crate) opaque_reason: Option<String>,
}

/// A name with a value.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Field {
    /// The name.
    pub(crate) name: String,
    /// The value, or `masked`.
    pub(crate) value: String,
}

/// A bound value.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BoundValue {
    /// From 1.
    pub(crate) position: usize,
    /// `int4`, `text`, …
    pub(crate) r#type: String,
    /// The type's number in PostgreSQL's catalogue.
    pub(crate) type_oid: u32,
    /// `text` or `binary`
    #[schema(value_type = String)]
    pub(crate) format: ValueFormat,
    /// True when the value is withheld.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub(crate) masked: bool,
    /// The value as text; null is NULL; absent when it is withheld.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) value: Option<Option<String>>,
    /// The same with everything that hides spelled out, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) display: Option<String>,
}

/// Where it would run.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskedTarget {
    /// Its name.
    #[schema(value_type = String)]
    pub(crate) name: TargetName,
    /// `postgres` or `http`
    #[schema(value_type = String)]
    pub(crate) protocol: Protocol,
    /// Its tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// `observe`, `shadow` or `enforce`
    #[schema(value_type = String)]
    pub(crate) mode: Mode,
}

/// Who asks, and how sure that is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Asker {
    /// The principal's id.
    pub(crate) principal: String,
    /// The principal, to show.
    pub(crate) display: String,
    /// `ci_job`, `service`, `person`, …
    #[schema(value_type = String)]
    pub(crate) kind: IdentityKind,
    /// `attested`, `platform`, `kernel` or `claimed`
    #[schema(value_type = String)]
    pub(crate) assurance: Assurance,
    /// What established it.
    pub(crate) established_by: String,
    /// The process that connected.
    pub(crate) process: AskerProcess,
    /// Its control group.
    pub(crate) cgroup: Option<String>,
    /// Its systemd unit.
    pub(crate) unit: Option<AskerUnit>,
    /// Its container.
    #[schema(value_type = Option<Object>)]
    pub(crate) container: Option<Container>,
    /// Its pod.
    pub(crate) pod: Option<AskerPod>,
    /// Its CI job.
    pub(crate) ci: Option<AskerJob>,
    /// Change tickets that its surroundings name: shown, never trusted.
    pub(crate) tickets: Vec<AskerTicket>,
    /// `transparent`: redirected by the kernel; `explicit`: it dialled lockgate itself.
    #[schema(value_type = String)]
    pub(crate) capture: Capture,
    /// True for `transparent`.
    pub(crate) transparent: bool,
    /// Free text of the job: shown, never trusted.
    pub(crate) client_claims: ClaimedText,
}

/// Free text of the client.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ClaimedText {
    /// The user it asked for.
    pub(crate) user: String,
    /// The database it asked for.
    pub(crate) database: String,
    /// What it calls itself.
    pub(crate) application_name: Option<String>,
}

/// The process that connected, by the kernel's word.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerProcess {
    /// Process id.
    pub(crate) pid: u32,
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// The user's name on the node.
    pub(crate) user: Option<String>,
    /// The program.
    pub(crate) exe: Option<String>,
    /// SHA-256 of the program.
    pub(crate) exe_sha256: Option<String>,
    /// Its arguments; only the first where values are masked, since the others may hold the statement.
    pub(crate) argv: Vec<String>,
    /// How many there are.
    pub(crate) argv_count: usize,
    /// Its directory.
    pub(crate) cwd: Option<String>,
    /// Its parents, the nearest first.
    pub(crate) ancestry: Vec<AskerParent>,
    /// True when it was gone before it could be looked at.
    pub(crate) exited: bool,
}

/// A parent process.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerParent {
    /// Process id.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: String,
}

/// A systemd unit.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerUnit {
    /// `actions.runner.acme.service`
    pub(crate) name: String,
    /// This start of it.
    pub(crate) invocation_id: Option<String>,
    /// True for a unit that a user can make.
    pub(crate) user_unit: bool,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerPod {
    /// By the kernel's word; everything else is the API server's.
    pub(crate) uid: String,
    /// Its class of service.
    pub(crate) qos: Option<String>,
    /// How sure its facts are.
    #[schema(value_type = String)]
    pub(crate) assurance: lockgate_model::workload::PodAssurance,
    /// Its name.
    pub(crate) name: Option<String>,
    /// Its namespace.
    pub(crate) namespace: Option<String>,
    /// Its service account.
    pub(crate) service_account: Option<String>,
    /// What made it: `Job/migrate`.
    pub(crate) owner: Option<String>,
    /// Its node.
    pub(crate) node: Option<String>,
    /// Its image, by digest.
    pub(crate) image: Option<String>,
    /// Text of whoever may patch it.
    pub(crate) labels: BTreeMap<String, String>,
    /// Why it is not confirmed, when it is not.
    pub(crate) unconfirmed: Option<String>,
}

/// A change ticket.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerTicket {
    /// `OPS-42`
    pub(crate) id: String,
    /// Where it is shown.
    pub(crate) url: Option<String>,
    /// What names it: `branch`, `commit_message`, `merge_request` or `annotation`.
    #[schema(value_type = String)]
    pub(crate) source: lockgate_model::workload::TicketSource,
    /// How sure it is that this source says so.
    #[schema(value_type = String)]
    pub(crate) assurance: Assurance,
    /// Both in words: `in the commit message; claimed, not confirmed`.
    pub(crate) standing: String,
}

/// A CI job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct AskerJob {
    /// `github_actions`, `gitlab`, …
    pub(crate) provider: String,
    /// How sure its facts are.
    #[schema(value_type = String)]
    pub(crate) assurance: CiAssurance,
    /// `acme/billing`
    pub(crate) repository: Option<String>,
    /// `deploy.yml`
    pub(crate) workflow: Option<String>,
    /// The job in it.
    pub(crate) job: Option<String>,
    /// The run.
    pub(crate) run_id: Option<String>,
    /// Which attempt of the run.
    pub(crate) run_attempt: Option<String>,
    /// Where the run is shown.
    pub(crate) run_url: Option<String>,
    /// Branch or tag.
    pub(crate) r#ref: Option<String>,
    /// Whether it is protected, where that is known.
    pub(crate) ref_protected: Option<bool>,
    /// The commit.
    pub(crate) commit: Option<String>,
    /// Who wrote it.
    pub(crate) commit_author: Option<String>,
    /// What it says it does, in one line.
    pub(crate) commit_message: Option<String>,
    /// The branch that is to be merged, or was pushed.
    pub(crate) source_branch: Option<String>,
    /// The title of its pull or merge request.
    pub(crate) merge_request: Option<String>,
    /// What started the run.
    pub(crate) event_name: Option<String>,
    /// Whose run it is.
    pub(crate) actor: Option<String>,
    /// Who started it.
    pub(crate) triggering_actor: Option<String>,
    /// The job's id at its provider.
    pub(crate) job_id: Option<String>,
    /// The runner.
    pub(crate) runner: Option<String>,
    /// What established these facts.
    pub(crate) established_by: Option<String>,
    /// Why they are not confirmed, when they are not.
    pub(crate) unconfirmed: Option<String>,
}

/// Which rules hold a request, and who must agree.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Demand {
    /// The first of the rules.
    #[schema(value_type = Option<String>)]
    pub(crate) rule: Option<RuleId>,
    /// Every rule that holds it: each must be met.
    pub(crate) rules: Vec<HoldingRule>,
    /// How far each is.
    #[schema(value_type = Vec<Need>)]
    pub(crate) need: Vec<RequirementProgress>,
}

/// A rule that holds a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct HoldingRule {
    /// Its id.
    #[schema(value_type = String)]
    pub(crate) id: RuleId,
    /// In its author's words.
    pub(crate) description: Option<String>,
    /// Who decides, from when on.
    #[schema(value_type = Vec<RuleStage>)]
    pub(crate) stages: Vec<Stage>,
    /// So many denials refuse it.
    pub(crate) deny_votes: u32,
    /// Who may not decide: `requester`, `triggering_actor`, `commit_author`.
    #[schema(value_type = Vec<String>)]
    pub(crate) exclude: BTreeSet<Exclude>,
    /// Whether a decision needs a reason.
    pub(crate) require_reason: bool,
    /// The longest grant that an approval may give.
    pub(crate) longest_grant_seconds: u64,
}

/// One line of a list of requests.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalLine {
    /// `req_…`
    #[schema(value_type = String)]
    pub(crate) id: RequestId,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    pub(crate) state: &'static str,
    /// When it was asked.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When it is denied by itself.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) expires_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) resolved_at: Option<Timestamp>,
    /// What a decision must echo; null for whoever may see shapes alone.
    #[schema(value_type = Option<String>)]
    pub(crate) command_digest: Option<Digest>,
    /// Its beginning; its shape where literals are masked, or the reader may see shapes alone.
    pub(crate) statement: String,
    /// Bytes of the whole.
    pub(crate) statement_bytes: usize,
    /// `read`, `write`, `ddl`, …
    pub(crate) class: String,
    /// `select`, `alter_table`, `GET`, …
    pub(crate) kind: String,
    /// `low`, `medium`, `high` or `critical`
    #[schema(value_type = String)]
    pub(crate) risk: Risk,
    /// The target's name.
    #[schema(value_type = String)]
    pub(crate) target: TargetName,
    /// Who asks.
    pub(crate) principal: String,
    /// Who asks, to show.
    pub(crate) display: String,
    /// How sure that is.
    #[schema(value_type = String)]
    pub(crate) assurance: Assurance,
    /// The user of the process that asks.
    pub(crate) uid: u32,
    /// True inside an open transaction.
    pub(crate) in_transaction: bool,
    /// `ses_…`
    #[schema(value_type = String)]
    pub(crate) session_id: SessionId,
    /// `dec_…`
    #[schema(value_type = String)]
    pub(crate) decision_id: DecisionId,
    /// The rules that hold it.
    #[schema(value_type = Vec<String>)]
    pub(crate) rules: Vec<RuleId>,
    /// Who is still needed.
    #[schema(value_type = Vec<Need>)]
    pub(crate) need: Vec<RequirementProgress>,
    /// True when its client is gone and it waits to be asked again.
    pub(crate) left: bool,
    /// The bundle it belongs to.
    #[schema(value_type = Option<String>)]
    pub(crate) bundle_id: Option<BundleId>,
}

/// A request with everything an approver needs. What it is about is the same as in a notification's `data`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Approval {
    /// `req_…`
    #[schema(value_type = String)]
    pub(crate) id: RequestId,
    /// The same, as notifications call it.
    #[schema(value_type = String)]
    pub(crate) request_id: RequestId,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    pub(crate) state: &'static str,
    /// What a decision must echo; null for whoever may see shapes alone.
    #[schema(value_type = Option<String>)]
    pub(crate) command_digest: Option<Digest>,
    /// Where an integration sends its decision.
    pub(crate) decision_url: String,
    /// When it was asked.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) created_at: Timestamp,
    /// When it is denied by itself.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) expires_at: Timestamp,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) resolved_at: Option<Timestamp>,
    /// How it ended.
    #[schema(value_type = Option<Ended>)]
    pub(crate) resolution: Option<Resolution>,
    /// Votes so far.
    #[schema(value_type = Vec<CastVote>)]
    pub(crate) votes: Vec<Vote>,
    /// What became of each notification, by channel.
    pub(crate) notifications: BTreeMap<String, Delivery>,
    /// True when its client is gone and it waits to be asked again.
    pub(crate) left: bool,
    /// The request of a client that is gone, which this one goes on with.
    #[schema(value_type = Option<String>)]
    pub(crate) takes_up: Option<RequestId>,
    /// The bundle it belongs to.
    #[schema(value_type = Option<String>)]
    pub(crate) bundle_id: Option<BundleId>,
    #[serde(flatten)]
    pub(crate) subject: Subject,
    #[serde(flatten)]
    pub(crate) demand: Demand,
}

/// Requests that are told and decided together.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Bundle {
    /// `bnd_…`
    #[schema(value_type = String)]
    pub(crate) id: BundleId,
    /// `pending` or `resolved`
    pub(crate) state: &'static str,
    /// What a decision on all of them must echo; null for whoever may see shapes alone.
    #[schema(value_type = Option<String>)]
    pub(crate) command_digest: Option<Digest>,
    /// Where an integration sends its decision.
    pub(crate) decision_url: String,
    /// What became of each notification, by channel.
    pub(crate) notifications: BTreeMap<String, Delivery>,
    /// A line of each, as in a notification.
    pub(crate) bundle: Together,
    /// Each as by itself.
    pub(crate) requests: Vec<Approval>,
}

/// What is decided together, one line each.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Together {
    /// `bnd_…`
    #[schema(value_type = String)]
    pub(crate) id: BundleId,
    /// What a decision on all of them must echo; null for whoever may see shapes alone.
    #[schema(value_type = Option<String>)]
    pub(crate) command_digest: Option<Digest>,
    /// How many.
    pub(crate) size: usize,
    /// In the order in which they were asked.
    pub(crate) requests: Vec<TogetherLine>,
}

/// One line of a bundle.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TogetherLine {
    /// `req_…`
    #[schema(value_type = String)]
    pub(crate) request_id: RequestId,
    /// Of this one; null for whoever may see shapes alone.
    #[schema(value_type = Option<String>)]
    pub(crate) command_digest: Option<Digest>,
    /// `pending`, `approved`, `denied`, `expired` or `cancelled`
    pub(crate) state: &'static str,
    /// One sentence.
    pub(crate) summary: String,
    /// The exact text, or its shape.
    pub(crate) statement: String,
    /// The same with everything that hides spelled out.
    pub(crate) statement_display: String,
    /// How many bound values there are.
    pub(crate) bound_value_count: usize,
    /// `read`, `write`, `ddl`, …
    pub(crate) class: String,
    /// `select`, `alter_table`, `GET`, …
    pub(crate) kind: String,
    /// `low`, `medium`, `high` or `critical`
    #[schema(value_type = String)]
    pub(crate) risk: Risk,
}

/// An emergency override.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Glass {
    /// `brk_…`
    #[schema(value_type = String)]
    pub(crate) id: GlassId,
    /// The `break_glass` block of the policy.
    #[schema(value_type = String)]
    pub(crate) rule: RuleId,
    /// Who.
    pub(crate) by: GlassPerson,
    /// How it is known that this person had just logged in.
    pub(crate) login: String,
    /// For processes of this user …
    pub(crate) uid: Option<u32>,
    /// … or of this principal.
    pub(crate) principal: Option<String>,
    /// On this target alone; null is every target.
    #[schema(value_type = Option<String>)]
    pub(crate) target: Option<TargetName>,
    /// Why.
    pub(crate) reason: Option<String>,
    /// The incident.
    pub(crate) ticket: Option<String>,
    /// From when.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) began_at: Timestamp,
    /// Until when, by itself.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) ends_at: Timestamp,
    /// When it was ended by hand.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) ended_at: Option<Timestamp>,
    /// Groups that are told.
    #[schema(value_type = Vec<String>)]
    pub(crate) notify: Vec<GroupName>,
    /// Who must look at it afterwards, by when, and whether that blocks the next use.
    #[schema(value_type = Option<OwedReview>)]
    pub(crate) review: Option<ReviewDebt>,
    /// Who did, and what they say.
    #[schema(value_type = Option<DoneReview>)]
    pub(crate) reviewed: Option<Reviewed>,
    /// `in_force`, `review_pending` or `reviewed`; absent in notifications.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub(crate) state: Option<&'static str>,
}

/// Who broke the glass.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct GlassPerson {
    /// `oidc:corp:ana`
    pub(crate) id: String,
    /// To show.
    pub(crate) name: String,
    /// How they came.
    pub(crate) via: String,
}
