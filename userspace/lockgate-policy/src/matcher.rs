//! The compiled `match:` block: a list of conditions, each on one key, all of which must hold.
//!
//! Conditions on identity, target and client are constant for a session and are checked once
//! ([`SessionTest`]); conditions on the statement are checked for each operation ([`OperationTest`]). The same
//! conditions say for `explain` what was wanted and what came. Nothing here knows effects beyond whether a
//! rule permits or restricts, which decides how much doubt a match may carry.

mod http;

pub(crate) use http::{HttpTest, PathTemplate};

use crate::{
    document::ProtocolName,
    pattern::{Patterns, Strictness, TablePattern},
};
use lockgate_model::{
    operation::{Facts, Operation, ValueFormat},
    session::{Mode, Protocol, Session},
    sql::{Export, Extent, RelationName, Risk, RowBound, SqlClass, SqlEffect, SqlFacts},
    workload::{Assurance, CiJob, IdentityKind, Pod},
};
use std::collections::BTreeSet;

/// One key of a `match:` block.
#[derive(Debug)]
pub(crate) struct Condition<T> {
    /// `match.identity.repository`
    pub(crate) key: String,
    /// As written.
    pub(crate) wanted: String,
    pub(crate) test: T,
}

/// How sure a fact must be before a rule believes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trust {
    /// For CI facts, and for the principal they name.
    pub(crate) ci: Assurance,
    /// For uid, unit, cgroup, container and executable.
    pub(crate) kernel: Assurance,
}

/// A condition that is constant for a session.
#[derive(Debug)]
pub(crate) enum SessionTest {
    Kind(Vec<IdentityKind>),
    Id(Patterns),
    Assurance(Assurance),
    Ci(fn(&CiJob) -> Option<&str>, Patterns),
    RefProtected(bool),
    Confirmed(bool),
    /// A pod that the API server has not named yet could be any: a rule that restricts takes it as meant.
    Pod(fn(&Pod) -> Option<&str>, Patterns, Strictness),
    PodLabel(String, Patterns, Strictness),
    Uid(Vec<u32>),
    User(Patterns),
    Unit(Patterns),
    Exe(Patterns),
    ExeSha256(Patterns),
    Cgroup(Patterns),
    Container(Patterns),
    TargetName(Patterns),
    Tag(String, Patterns),
    Protocol(Vec<ProtocolName>),
    Mode(Vec<Mode>),
    ClientUser(Patterns),
    ApplicationName(Patterns),
    /// A block for a protocol this version does not speak.
    Never,
}

/// A condition on the statement.
#[derive(Debug)]
pub(crate) enum OperationTest {
    Database(Patterns),
    Class(Vec<SqlClass>),
    Kinds(Vec<String>),
    AnyTable(Vec<TablePattern>, Strictness),
    OnlyTables(Vec<TablePattern>, Strictness),
    Columns(Patterns, Strictness),
    Functions(Patterns),
    Effects(BTreeSet<SqlEffect>),
    Bounded(bool),
    /// Ways, and how many rows a limit may let through to count as one.
    Export(BTreeSet<Export>, Option<u64>, Strictness),
    LargerThan(SizeLimit, Strictness),
    /// What runs afterwards runs with the same rights.
    KeepsRole,
    Opaque(bool),
    Risk(Risk),
    Fingerprint(Vec<String>),
    /// On an HTTP request; the others but the database are on a SQL statement.
    Http(HttpTest),
}

impl SessionTest {
    pub(crate) fn holds(&self, session: &Session, trust: Trust) -> bool {
        let workload = &session.workload;
        let process = &workload.process;
        let kernel = workload.assurance >= trust.kernel;
        let text = |patterns: &Patterns, got: Option<&str>| got.is_some_and(|got| patterns.matches(got));
        match self {
            Self::Kind(kinds) => {
                kinds.contains(&session.principal.kind) && kind_assurance(session) >= trust.ci
            }
            Self::Id(patterns) => {
                session.principal.assurance >= trust.ci && patterns.matches(&session.principal.id)
            }
            Self::Assurance(least) => session.principal.assurance >= *least,
            Self::Ci(field, patterns) => text(patterns, believed_ci(session, trust).and_then(field)),
            Self::RefProtected(wanted) => {
                believed_ci(session, trust).and_then(|ci| ci.ref_protected) == Some(*wanted)
            }
            Self::Confirmed(wanted) => is_confirmed(session) == *wanted,
            Self::Pod(field, patterns, strictness) => {
                pod_holds(session, trust, *strictness, |pod| text(patterns, field(pod)))
            }
            Self::PodLabel(label, patterns, strictness) => pod_holds(session, trust, *strictness, |pod| {
                text(patterns, pod.labels.get(label).map(String::as_str))
            }),
            Self::Uid(uids) => kernel && uids.contains(&process.uid),
            Self::User(patterns) => kernel && text(patterns, process.user.as_deref()),
            Self::Unit(patterns) => {
                // The user makes the units of a user manager; such a name is a claim.
                let unit = workload.unit.as_ref();
                let unit = unit.filter(|unit| !unit.user_unit || trust.kernel == Assurance::Claimed);
                kernel && text(patterns, unit.map(|unit| unit.name.as_str()))
            }
            Self::Exe(patterns) => kernel && text(patterns, process.exe.as_deref()),
            Self::ExeSha256(patterns) => kernel && text(patterns, process.exe_sha256.as_deref()),
            Self::Cgroup(patterns) => kernel && text(patterns, workload.cgroup.as_deref()),
            Self::Container(patterns) => {
                // Below a cgroup of its own the workload may make one with any container's name.
                let container = workload.container.as_ref();
                let container =
                    container.filter(|container| !container.claimed || trust.kernel == Assurance::Claimed);
                kernel && text(patterns, container.map(|container| container.id.as_str()))
            }
            Self::TargetName(patterns) => patterns.matches(session.target.name.as_str()),
            Self::Tag(tag, patterns) => text(patterns, session.target.tags.get(tag).map(String::as_str)),
            Self::Protocol(names) => names.contains(&name_of(session.target.protocol)),
            Self::Mode(modes) => modes.contains(&session.target.mode),
            Self::ClientUser(patterns) => patterns.matches(&session.client.user),
            Self::ApplicationName(patterns) => text(patterns, session.client.application_name.as_deref()),
            Self::Never => false,
        }
    }

    /// What came, for people.
    pub(crate) fn got(&self, session: &Session) -> String {
        let workload = &session.workload;
        let process = &workload.process;
        let sure = |got: Option<&str>, assurance: Assurance| match got {
            Some(got) => format!("{got} ({})", assurance.as_str()),
            None => "not known".to_owned(),
        };
        let kernel = |got: Option<&str>| sure(got, workload.assurance);
        let ci = workload.ci.as_ref();
        match self {
            Self::Kind(_) => sure(Some(session.principal.kind.as_str()), kind_assurance(session)),
            Self::Id(_) => sure(Some(&session.principal.id), session.principal.assurance),
            Self::Assurance(_) => session.principal.assurance.as_str().to_owned(),
            Self::Ci(field, _) => {
                sure(ci.and_then(field), ci.map_or(Assurance::Claimed, |ci| ci.assurance.0))
            }
            Self::RefProtected(_) => ci
                .and_then(|ci| ci.ref_protected)
                .map_or_else(|| "not known".to_owned(), |got| got.to_string()),
            Self::Confirmed(_) => is_confirmed(session).to_string(),
            Self::Pod(field, ..) => sure(workload.pod.as_ref().and_then(field), pod_assurance(session)),
            Self::PodLabel(label, ..) => {
                let pod = workload.pod.as_ref();
                sure(pod.and_then(|pod| pod.labels.get(label)).map(String::as_str), pod_assurance(session))
            }
            Self::Uid(_) => kernel(Some(&process.uid.to_string())),
            Self::User(_) => kernel(process.user.as_deref()),
            Self::Unit(_) => match &workload.unit {
                Some(unit) if unit.user_unit => format!("{} (a user's own unit: claimed)", unit.name),
                unit => kernel(unit.as_ref().map(|unit| unit.name.as_str())),
            },
            Self::Exe(_) => kernel(process.exe.as_deref()),
            Self::ExeSha256(_) => kernel(process.exe_sha256.as_deref()),
            Self::Cgroup(_) => kernel(workload.cgroup.as_deref()),
            Self::Container(_) => match &workload.container {
                Some(container) if container.claimed => {
                    format!("{} (a name inside the workload's own cgroup: claimed)", container.id)
                }
                container => kernel(container.as_ref().map(|container| container.id.as_str())),
            },
            Self::TargetName(_) => session.target.name.to_string(),
            Self::Tag(tag, _) => {
                session.target.tags.get(tag).cloned().unwrap_or_else(|| "no such tag".to_owned())
            }
            Self::Protocol(_) => session.target.protocol.to_string(),
            Self::Mode(_) => mode_name(session.target.mode).to_owned(),
            Self::ClientUser(_) => session.client.user.clone(),
            Self::ApplicationName(_) => {
                session.client.application_name.clone().unwrap_or_else(|| "not known".to_owned())
            }
            Self::Never => "not spoken by this version".to_owned(),
        }
    }
}

impl OperationTest {
    /// Whether the operation's facts answer it, and the database, which is a session's. Bound values can be a limit.
    pub(crate) fn asks_facts_alone(&self) -> bool {
        match self {
            Self::Export(..) | Self::LargerThan(..) => false,
            Self::Database(_)
            | Self::Class(_)
            | Self::Kinds(_)
            | Self::AnyTable(..)
            | Self::OnlyTables(..)
            | Self::Columns(..)
            | Self::Functions(_)
            | Self::Effects(_)
            | Self::Bounded(_)
            | Self::KeepsRole
            | Self::Opaque(_)
            | Self::Risk(_)
            | Self::Fingerprint(_)
            | Self::Http(_) => true,
        }
    }

    /// What a statement that was not understood cannot be asked: then the condition does not hold.
    fn needs_understanding(&self) -> bool {
        match self {
            Self::Database(_)
            | Self::KeepsRole
            | Self::Opaque(_)
            | Self::Risk(_)
            | Self::Fingerprint(_)
            | Self::Http(_) => false,
            Self::Class(_)
            | Self::Kinds(_)
            | Self::AnyTable(..)
            | Self::OnlyTables(..)
            | Self::Columns(..)
            | Self::Functions(_)
            | Self::Effects(_)
            | Self::Bounded(_)
            | Self::Export(..)
            | Self::LargerThan(..) => true,
        }
    }

    /// Whether the answer is better when the target's catalogue is at hand.
    pub(crate) fn wants_catalogue(&self) -> bool {
        match self {
            // What a view, a function or a type does only the catalogue tells.
            Self::AnyTable(..)
            | Self::OnlyTables(..)
            | Self::LargerThan(..)
            | Self::Class(_)
            | Self::Functions(_)
            | Self::Effects(_)
            | Self::Risk(_) => true,
            Self::Database(_)
            | Self::Kinds(_)
            | Self::Columns(..)
            | Self::Bounded(_)
            | Self::Export(..)
            | Self::KeepsRole
            | Self::Opaque(_)
            | Self::Fingerprint(_)
            | Self::Http(_) => false,
        }
    }

    pub(crate) fn holds(&self, operation: &Operation) -> bool {
        let facts = match operation.facts.as_ref() {
            Facts::Sql(facts) => facts,
            Facts::Http(facts) => {
                return match self {
                    Self::Http(test) => test.holds(facts),
                    Self::Database(patterns) => patterns.matches(&operation.context.database),
                    _of_sql => false,
                };
            }
        };
        let opaque = operation.facts.is_opaque();
        if opaque && self.needs_understanding() {
            return false;
        }
        match self {
            Self::Database(patterns) => patterns.matches(&operation.context.database),
            Self::Class(classes) => classes.contains(&facts.class),
            Self::Kinds(kinds) => {
                let verb = facts.kind.split('_').next().unwrap_or_default();
                kinds.iter().any(|kind| *kind == facts.kind || kind == verb)
            }
            Self::AnyTable(patterns, strictness) => touches(facts, patterns, *strictness),
            // An empty set of tables would match vacuously: that lets `SELECT pg_sleep(1e9)` pass as "only
            // reporting tables". Whoever means "no table" writes `[]`.
            // What may touch other tables than those it names is not limited to them, whatever it names.
            Self::OnlyTables(patterns, strictness) => {
                let none = tables(facts).next().is_none();
                none == patterns.is_empty()
                    && tables(facts).all(|table| patterns.iter().any(|pattern| pattern.matches(table)))
                    && (*strictness == Strictness::Restricts || !facts.reach.unseen)
            }
            // A star may stand for any column: reason enough to restrict, none to permit.
            Self::Columns(patterns, strictness) => facts.columns.iter().any(|column| {
                let star = column == "*" || column.ends_with(".*");
                (star && *strictness == Strictness::Restricts) || patterns.matches_last_part(column)
            }),
            Self::Functions(patterns) => facts.functions.iter().any(|name| patterns.matches_last_part(name)),
            Self::Effects(effects) => !effects.is_disjoint(&facts.effects),
            Self::Bounded(wanted) => facts.bounded == Some(*wanted),
            Self::Export(ways, rows, strictness) => exports(operation, facts, ways, *rows, *strictness),
            Self::LargerThan(size, strictness) => match facts.reach.extent {
                None => false,
                Some(extent) => size
                    .is_exceeded(&extent, at_most(operation, &extent))
                    .unwrap_or(*strictness == Strictness::Restricts),
            },
            Self::KeepsRole => !facts.effects.contains(&SqlEffect::SetsRole),
            Self::Opaque(wanted) => opaque == *wanted,
            Self::Risk(least) => facts.risk >= *least,
            Self::Fingerprint(fingerprints) => fingerprints.contains(&facts.fingerprint),
            Self::Http(_) => false,
        }
    }

    /// What came, for people.
    pub(crate) fn got(&self, operation: &Operation) -> String {
        let facts = match operation.facts.as_ref() {
            Facts::Sql(facts) => facts,
            Facts::Http(facts) => {
                return match self {
                    Self::Http(test) => test.got(facts),
                    Self::Database(_) => operation.context.database.clone(),
                    _of_sql => "an HTTP request".to_owned(),
                };
            }
        };
        if operation.facts.is_opaque() && self.needs_understanding() {
            return "not known: the statement is opaque".to_owned();
        }
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        match self {
            Self::Database(_) => operation.context.database.clone(),
            Self::Class(_) => facts.class.to_string(),
            Self::Kinds(_) => facts.kind.clone(),
            Self::AnyTable(..) | Self::OnlyTables(..) => {
                let mut named: Vec<String> = tables(facts).map(ToString::to_string).collect();
                named.extend(facts.reach.behind.iter().map(|behind| format!("{behind} (behind them)")));
                if facts.reach.unseen {
                    named.push("and what nobody can tell".to_owned());
                }
                list(named)
            }
            Self::Columns(..) => list(facts.columns.clone()),
            Self::Functions(_) => list(facts.functions.clone()),
            Self::Effects(_) => list(facts.effects.iter().map(|effect| format!("{effect:?}")).collect()),
            Self::Bounded(_) => match facts.bounded {
                Some(bounded) => bounded.to_string(),
                None => "does not apply".to_owned(),
            },
            Self::Export(..) => {
                let ways = facts.reach.exports.iter().map(|way| way.as_str().to_owned()).collect();
                let limit = match facts.reach.extent.map(|extent| at_most(operation, &extent)) {
                    Some(Most::Rows(rows)) => format!(" (at most {rows} rows)"),
                    Some(Most::Unlimited) => " (without a limit)".to_owned(),
                    Some(Most::NotRun) | None => String::new(),
                };
                format!("{}{limit}", list(ways))
            }
            Self::LargerThan(..) => match facts.reach.extent {
                None => "nothing that is stored".to_owned(),
                Some(extent) => {
                    let known = |number: Option<u64>, unit| match number {
                        Some(number) => format!("{number} {unit}"),
                        None => format!("an unknown number of {unit}"),
                    };
                    format!("{}, {}", known(extent.rows, "rows"), known(extent.bytes, "bytes"))
                }
            },
            Self::KeepsRole => match facts.effects.contains(&SqlEffect::SetsRole) {
                true => "another role".to_owned(),
                false => "the same role".to_owned(),
            },
            Self::Opaque(_) => operation.facts.is_opaque().to_string(),
            Self::Risk(_) => facts.risk.as_str().to_owned(),
            Self::Fingerprint(_) => facts.fingerprint.clone(),
            Self::Http(_) => "a SQL statement".to_owned(),
        }
    }
}

/// Whether it touches one of these tables: by name, or (for rules that restrict) behind a name, or where nobody can tell.
fn touches(facts: &SqlFacts, patterns: &[TablePattern], strictness: Strictness) -> bool {
    let is_meant = |table: &RelationName| patterns.iter().any(|pattern| pattern.matches(table));
    tables(facts).any(is_meant)
        || strictness == Strictness::Restricts
            && (facts.reach.unseen || facts.reach.behind.iter().any(is_meant))
}

/// How many rows the text of a statement lets through, with the values that are bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Most {
    /// This many.
    Rows(u64),
    /// No limit that could be seen.
    Unlimited,
    /// Its values are not bound yet, so nothing comes out now; it is asked about again when they are.
    NotRun,
}

fn at_most(operation: &Operation, extent: &Extent) -> Most {
    match extent.at_most {
        None => Most::Unlimited,
        Some(RowBound::Rows(rows)) => Most::Rows(rows),
        Some(RowBound::Parameter(number)) => {
            let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
            let Some(parameter) = operation.parameters.get(index) else { return Most::NotRun };
            // NULL is no limit, and neither is what cannot be read as a number.
            let rows = match (parameter.format, &parameter.value) {
                (ValueFormat::Text, Some(value)) => value.trim().parse().ok(),
                (ValueFormat::Text | ValueFormat::Binary, _) => None,
            };
            rows.map_or(Most::Unlimited, Most::Rows)
        }
    }
}

fn exports(
    operation: &Operation,
    facts: &SqlFacts,
    ways: &BTreeSet<Export>,
    rows: Option<u64>,
    strictness: Strictness,
) -> bool {
    facts.reach.exports.intersection(ways).any(|way| match way {
        Export::Copy | Export::Document | Export::LargeObject | Export::Dump => true,
        Export::Select => match facts.reach.extent.map(|extent| at_most(operation, &extent)) {
            Some(Most::Rows(most)) => rows.is_some_and(|rows| most > rows),
            Some(Most::Unlimited) => true,
            Some(Most::NotRun) => strictness == Strictness::Permits,
            None => false,
        },
    })
}

/// More than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeLimit {
    pub(crate) rows: Option<u64>,
    pub(crate) bytes: Option<u64>,
}

impl SizeLimit {
    /// Whether a statement may carry away more; None when that is not known.
    fn is_exceeded(self, extent: &Extent, most: Most) -> Option<bool> {
        let limited = match most {
            Most::NotRun => return Some(false),
            Most::Rows(rows) => Some(rows),
            Most::Unlimited => None,
        };
        let rows = match (limited, extent.rows) {
            (Some(most), Some(rows)) => Some(most.min(rows)),
            (most, rows) => most.or(rows),
        };
        // A part of a table is taken for as large as its rows are on average.
        let bytes = match (limited, extent.rows, extent.bytes) {
            (Some(most), Some(rows), Some(bytes)) if rows > most => {
                let part = u128::from(bytes) * u128::from(most) / u128::from(rows.max(1));
                u64::try_from(part).ok()
            }
            (_, _, bytes) => bytes,
        };
        let more = |limit: Option<u64>, got: Option<u64>| limit.map(|limit| got.map(|got| got > limit));
        match (more(self.rows, rows), more(self.bytes, bytes)) {
            (Some(Some(true)), _) | (_, Some(Some(true))) => Some(true),
            // One of the two is known, and it is not more.
            (Some(Some(false)), _) | (_, Some(Some(false))) => Some(false),
            (None | Some(None), None | Some(None)) => None,
        }
    }
}

impl std::fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.rows, "rows"), (self.bytes, "bytes")];
        let parts =
            parts.into_iter().filter_map(|(number, unit)| number.map(|number| format!("{number} {unit}")));
        write!(f, "more than {}", parts.collect::<Vec<_>>().join(" or "))
    }
}

fn tables(facts: &SqlFacts) -> impl Iterator<Item = &RelationName> {
    facts.tables_read.iter().chain(&facts.tables_written)
}

fn believed_ci(session: &Session, trust: Trust) -> Option<&CiJob> {
    session.workload.ci.as_ref().filter(|ci| ci.assurance.0 >= trust.ci)
}

/// Whether somebody besides the kernel vouches for the most exact name there is: the job's provider, or the
/// API server for a pod that claims no job.
pub(crate) fn is_confirmed(session: &Session) -> bool {
    match (&session.workload.ci, &session.workload.pod) {
        (Some(ci), _) => ci.is_confirmed(),
        (None, Some(pod)) => pod.is_named(),
        (None, None) => false,
    }
}

fn pod_assurance(session: &Session) -> Assurance {
    session.workload.pod.as_ref().map_or(Assurance::Kernel, |pod| pod.assurance.0)
}

fn pod_holds(session: &Session, trust: Trust, strictness: Strictness, test: impl Fn(&Pod) -> bool) -> bool {
    let Some(pod) = &session.workload.pod else { return false };
    match strictness {
        Strictness::Restricts if !pod.is_named() => true,
        Strictness::Restricts | Strictness::Permits => pod.assurance.0 >= trust.ci && test(pod),
    }
}

/// That something is a CI job is as sure as the facts that say so: the job's, or the unit's of its runner.
pub(crate) fn kind_assurance(session: &Session) -> Assurance {
    let workload = &session.workload;
    match (session.principal.kind, &workload.ci) {
        (IdentityKind::CiJob, Some(ci)) if workload.kind == IdentityKind::CiJob => {
            ci.assurance.0.max(workload.assurance)
        }
        (IdentityKind::CiJob, Some(ci)) => ci.assurance.0,
        (
            IdentityKind::CiJob
            | IdentityKind::Person
            | IdentityKind::ServiceAccount
            | IdentityKind::Agent
            | IdentityKind::Unknown,
            _,
        ) => workload.assurance.max(pod_assurance(session)),
    }
}

fn name_of(protocol: Protocol) -> ProtocolName {
    match protocol {
        Protocol::Postgres => ProtocolName::Postgres,
        Protocol::Http => ProtocolName::Http,
    }
}

pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Shadow => "shadow",
        Mode::Enforce => "enforce",
    }
}
