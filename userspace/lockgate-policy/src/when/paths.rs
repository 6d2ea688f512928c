//! The published schema of `when:`: every fact an expression may name, its type, and where it comes from.
//!
//! This table is the one definition: the checker, the evaluator and the reference in the documentation all
//! read it. CI facts below the assurance a rule asks for are absent, as are facts nobody knows.

use crate::matcher::{is_confirmed, kind_assurance};
use jiff::tz::TimeZone;
use lockgate_model::{
    Timestamp,
    http::{HttpFacts, HttpField},
    operation::{Facts, Operation},
    session::Session,
    sql::SqlFacts,
    workload::{Assurance, CiJob, Pod},
};
use std::{borrow::Cow, collections::BTreeMap};

/// What is asked: everything a rule may look at.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// Who asks, where.
    pub session: &'a Session,
    /// For what.
    pub operation: &'a Operation,
    /// When.
    pub now: Timestamp,
    /// The zone the policy file reads times in.
    pub zone: &'a TimeZone,
    /// CI facts less sure than this are absent.
    pub ci_trust: Assurance,
    /// Kernel facts less sure than this are absent.
    pub kernel_trust: Assurance,
}

/// A fact.
pub enum Datum<'a> {
    /// A text.
    Text(Cow<'a, str>),
    /// A whole number.
    Int(i64),
    /// True or false.
    Bool(bool),
    /// A list of texts.
    Texts(Vec<Cow<'a, str>>),
    /// Texts by name.
    Map(&'a BTreeMap<String, String>),
}

/// The type of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathType {
    /// `string`
    Text,
    /// `int`
    Int,
    /// `bool`
    Bool,
    /// `list(string)`
    Texts,
    /// `map(string, string)`
    Map,
}

/// A fact's reader: None when it is not known.
type Read = for<'a> fn(&Asked<'a>) -> Option<Datum<'a>>;

/// One fact that an expression may name as `root.field`.
pub struct Path {
    /// `identity`, `target`, `session`, `sql`, `http` or `time`.
    pub root: &'static str,
    /// Its name there.
    pub field: &'static str,
    /// Its type.
    pub kind: PathType,
    /// True for what the job writes itself: not for allow rules.
    pub job_writes: bool,
    /// For people.
    pub about: &'static str,
    pub(super) read: Read,
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.root, self.field)
    }
}

/// The roots an expression may begin with.
pub const ROOTS: &[&str] = &["identity", "target", "session", "sql", "http", "time"];

/// Finds a path.
pub fn path(root: &str, field: &str) -> Option<&'static Path> {
    PATHS.iter().find(|path| path.root == root && path.field == field)
}

macro_rules! paths {
    ($($root:ident.$field:ident: $kind:ident $(($job:ident))? = $about:literal, $read:expr;)*) => {
        /// Every fact, in the order of the documentation.
        pub static PATHS: &[Path] = &[$(Path {
            root: stringify!($root),
            field: stringify!($field),
            kind: PathType::$kind,
            job_writes: paths!(@job $($job)?),
            about: $about,
            read: $read,
        }),*];
    };
    (@job job) => { true };
    (@job) => { false };
}

paths! {
    identity.id: Text = "the principal's id: `github_actions:acme/billing`, `unit:backup.service`, `uid:1001`", |asked| text(Some(&asked.session.principal.id).filter(|_| asked.session.principal.assurance >= asked.ci_trust));
    identity.kind: Text = "person, service_account, ci_job, agent or unknown", |asked| word(asked.session.principal.kind.as_str()).filter(|_| kind_assurance(asked.session) >= asked.ci_trust);
    identity.assurance: Text = "claimed, kernel, platform or attested", |asked| word(asked.session.principal.assurance.as_str());
    identity.provider: Text = "CI system", |asked| text(ci(asked).map(|ci| &ci.provider));
    identity.repository: Text = "`acme/billing`", |asked| text(ci(asked)?.repository.as_ref());
    identity.workflow: Text = "`deploy.yml`", |asked| text(ci(asked)?.workflow.as_ref());
    identity.job: Text = "job name or id", |asked| text(ci(asked)?.job.as_ref());
    identity.run_id: Text = "run id", |asked| text(ci(asked)?.run_id.as_ref());
    identity.run_attempt: Text = "attempt of the run", |asked| text(ci(asked)?.run_attempt.as_ref());
    identity.git_ref: Text = "full ref", |asked| text(ci(asked)?.git_ref.as_ref());
    identity.ref_protected: Bool = "whether the provider protects that ref", |asked| ci(asked)?.ref_protected.map(Datum::Bool);
    identity.commit: Text = "commit id", |asked| text(ci(asked)?.commit.as_ref());
    identity.commit_author: Text = "who wrote that commit", |asked| text(ci(asked)?.commit_author.as_ref());
    identity.event_name: Text = "push, pull_request, …", |asked| text(ci(asked)?.event_name.as_ref());
    identity.actor: Text = "who owns the run", |asked| text(ci(asked)?.actor.as_ref());
    identity.triggering_actor: Text = "who triggered this attempt", |asked| text(ci(asked)?.triggering_actor.as_ref());
    identity.uid: Int = "real user id", |asked| kernel(asked).map(|workload| Datum::Int(workload.process.uid.into()));
    identity.gid: Int = "real group id", |asked| kernel(asked).map(|workload| Datum::Int(workload.process.gid.into()));
    identity.user: Text = "user name", |asked| text(kernel(asked)?.process.user.as_ref());
    identity.unit: Text = "systemd unit of the system manager", |asked| text(kernel(asked)?.unit.as_ref().filter(|unit| !unit.user_unit).map(|unit| &unit.name));
    identity.exe: Text = "executable path", |asked| text(kernel(asked)?.process.exe.as_ref());
    identity.exe_sha256: Text = "SHA-256 of the executable", |asked| text(kernel(asked)?.process.exe_sha256.as_ref());
    identity.cgroup: Text = "cgroup path", |asked| text(kernel(asked)?.cgroup.as_ref());
    identity.container: Text = "container id", |asked| text(kernel(asked)?.container.as_ref().filter(|container| !container.claimed).map(|container| &container.id));
    identity.job_id: Text = "the provider's id of the job", |asked| text(ci(asked)?.job_id.as_ref());
    identity.runner: Text = "the runner the provider gave the job to", |asked| text(ci(asked)?.runner.as_ref());
    identity.confirmed: Bool = "whether the job's provider, or the API server for a pod, vouches for who asks", |asked| Some(Datum::Bool(is_confirmed(asked.session)));
    identity.pod: Text = "Kubernetes pod", |asked| text(pod(asked)?.name.as_ref());
    identity.namespace: Text = "its namespace", |asked| text(pod(asked)?.namespace.as_ref());
    identity.service_account: Text = "the service account it runs as", |asked| text(pod(asked)?.service_account.as_ref());
    identity.owner: Text = "the controller that owns it: `Job/migrate`", |asked| text(pod(asked)?.owner.as_ref());
    identity.labels: Map = "its labels, which whoever may patch the pod writes", |asked| Some(Datum::Map(&pod(asked)?.labels));
    target.name: Text = "its name in configuration", |asked| word(asked.session.target.name.as_str());
    target.protocol: Text = "postgres or http", |asked| word(asked.session.target.protocol.as_str());
    target.tags: Map = "its tags", |asked| Some(Datum::Map(&asked.session.target.tags));
    session.database: Text (job) = "the database it is connected to", |asked| word(&asked.operation.context.database);
    session.user: Text (job) = "the user the client asked for", |asked| word(&asked.session.client.user);
    session.application_name: Text (job) = "application_name", |asked| text(asked.session.client.application_name.as_ref());
    session.upstream_user: Text = "the role lockgate logs in as", |asked| word(&asked.session.upstream_user);
    session.node: Text = "the node it runs on", |asked| word(asked.session.node.as_str());
    session.client_tls: Bool = "whether the client leg is encrypted", |asked| Some(Datum::Bool(asked.session.client_tls));
    session.in_transaction: Bool = "whether a transaction is open", |asked| Some(Datum::Bool(asked.operation.context.in_transaction));
    sql.class: Text = "read, transaction, session, copy_out, write, copy_in, call, ddl, admin or opaque", |asked| Some(Datum::Text(sql(asked)?.class.as_str().into()));
    sql.kind: Text = "`select`, `drop_table`, …", |asked| understood(asked).and_then(|facts| word(&facts.kind));
    sql.tables: Texts = "tables read or written, as `schema.table` or `table`", |asked| understood(asked).map(|facts| Datum::Texts(facts.tables_read.iter().chain(&facts.tables_written).map(|name| name.to_string().into()).collect()));
    sql.tables_read: Texts = "tables read", |asked| understood(asked).map(|facts| Datum::Texts(facts.tables_read.iter().map(|name| name.to_string().into()).collect()));
    sql.tables_written: Texts = "tables written", |asked| understood(asked).map(|facts| Datum::Texts(facts.tables_written.iter().map(|name| name.to_string().into()).collect()));
    sql.columns: Texts = "columns named", |asked| understood(asked).map(|facts| texts(&facts.columns));
    sql.functions: Texts = "functions called", |asked| understood(asked).map(|facts| texts(&facts.functions));
    sql.bounded: Bool = "for SELECT, UPDATE and DELETE: whether a WHERE or LIMIT bounds it", |asked| understood(asked)?.bounded.map(Datum::Bool);
    sql.risk: Text = "low, medium, high or critical", |asked| Some(Datum::Text(sql(asked)?.risk.as_str().into()));
    sql.fingerprint: Text = "the statement's shape", |asked| word(&sql(asked)?.fingerprint);
    http.class: Text = "read, write, upgrade or opaque", |asked| word(http(asked)?.class.as_str());
    http.method: Text = "`GET`, `POST`, …", |asked| word(&http(asked)?.method);
    http.scheme: Text = "http or https", |asked| word(&http(asked)?.scheme);
    http.host: Text = "in lower case, without the port", |asked| word(&read(asked)?.host);
    http.path: Text = "decoded, without the query", |asked| word(&read(asked)?.path);
    http.route: Text = "the path with ids replaced: `/v1/users/{id}`", |asked| word(&read(asked)?.route);
    http.query_names: Texts = "names of the query's parameters", |asked| read(asked).map(|facts| names(&facts.query));
    http.risk: Text = "low, medium, high or critical", |asked| word(http(asked)?.risk.as_str());
    time.hour: Int = "0 to 23", |asked| time(asked, |at| at.hour().into());
    time.minute: Int = "0 to 59", |asked| time(asked, |at| at.minute().into());
    time.day: Int = "day of the month, 1 to 31", |asked| time(asked, |at| at.day().into());
    time.month: Int = "1 to 12", |asked| time(asked, |at| at.month().into());
    time.year: Int = "2026", |asked| time(asked, |at| at.year().into());
    time.weekday: Int = "1 (Monday) to 7 (Sunday)", |asked| time(asked, |at| at.weekday().to_monday_one_offset().into());
}

fn text<'a>(text: Option<&'a String>) -> Option<Datum<'a>> {
    word(text?)
}

fn word(text: &str) -> Option<Datum<'_>> {
    (!text.is_empty()).then(|| Datum::Text(text.into()))
}

fn texts(texts: &[String]) -> Datum<'_> {
    Datum::Texts(texts.iter().map(|text| text.as_str().into()).collect())
}

fn ci<'a>(asked: &Asked<'a>) -> Option<&'a CiJob> {
    asked.session.workload.ci.as_ref().filter(|ci| ci.assurance.0 >= asked.ci_trust)
}

fn pod<'a>(asked: &Asked<'a>) -> Option<&'a Pod> {
    asked.session.workload.pod.as_ref().filter(|pod| pod.is_named() && pod.assurance.0 >= asked.ci_trust)
}

fn kernel<'a>(asked: &Asked<'a>) -> Option<&'a lockgate_model::workload::Workload> {
    Some(&*asked.session.workload).filter(|workload| workload.assurance >= asked.kernel_trust)
}

fn sql<'a>(asked: &Asked<'a>) -> Option<&'a SqlFacts> {
    match asked.operation.facts.as_ref() {
        Facts::Sql(facts) => Some(facts),
        Facts::Http(_) => None,
    }
}

fn http<'a>(asked: &Asked<'a>) -> Option<&'a HttpFacts> {
    match asked.operation.facts.as_ref() {
        Facts::Http(facts) => Some(facts),
        Facts::Sql(_) => None,
    }
}

/// Of an opaque request nobody can vouch for its path or its fields.
fn read<'a>(asked: &Asked<'a>) -> Option<&'a HttpFacts> {
    http(asked).filter(|_| !asked.operation.facts.is_opaque())
}

fn names<'a>(fields: &'a [HttpField]) -> Datum<'a> {
    Datum::Texts(fields.iter().map(|field| field.name.as_str().into()).collect())
}

/// An opaque statement has no kind, tables, columns or functions that anybody could vouch for.
fn understood<'a>(asked: &Asked<'a>) -> Option<&'a SqlFacts> {
    sql(asked).filter(|_| !asked.operation.facts.is_opaque())
}

fn time<'a>(asked: &Asked<'_>, part: fn(&jiff::Zoned) -> i64) -> Option<Datum<'a>> {
    Some(Datum::Int(part(&asked.now.to_zoned(asked.zone.clone()))))
}
