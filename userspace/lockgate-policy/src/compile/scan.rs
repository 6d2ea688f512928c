//! The `match:` block: from words to conditions.

use super::{Compiler, default_assurance};
use crate::{
    SourceFile,
    diagnostic::suggest,
    document::{
        ExportWay, Globs, IdentityMatch, OneOrMany, ProtocolName, Rule as RuleBlock, RuleEffect, SqlMatch,
        TargetMatch,
    },
    matcher::{Condition, OperationTest, SessionTest, SizeLimit, Trust, mode_name},
    pattern::{Pattern, Patterns, Strictness, TablePattern},
    yaml::{Position, Spanned},
};
use lockgate_model::{
    sql::{Export, SqlClass, SqlEffect, is_replication},
    workload::{Assurance, CiJob, Pod},
};
use std::collections::BTreeSet;

/// What a `match:` block became.
pub(super) struct Scanned {
    pub(super) session: Vec<Condition<SessionTest>>,
    pub(super) operation: Vec<Condition<OperationTest>>,
    pub(super) trust: Trust,
    pub(super) names_opaque: bool,
    pub(super) names_replication: bool,
}

/// Verbs a `kinds:` entry may begin with; another is probably a slip, and would never match.
const VERBS: &[&str] = &[
    "alter",
    "analyze",
    "begin",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "explain",
    "fetch",
    "function",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "rename",
    "replication",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "select",
    "set",
    "show",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Whether a rule's `kinds` may name this kind of statement.
pub(crate) fn is_kind(kind: &str) -> bool {
    VERBS.contains(&kind.split('_').next().unwrap_or_default())
}

impl Compiler {
    pub(super) fn scan_match(
        &mut self,
        file: &SourceFile,
        block: &Spanned<RuleBlock>,
        strictness: Strictness,
    ) -> Scanned {
        let matches = &block.matches;
        let effect = block.effect.value;
        let stated = matches.identity.as_ref().and_then(|identity| identity.assurance);
        let ci = stated.map_or(default_assurance(strictness), |stated| stated.0);
        // uid, unit and executable are never surer than `kernel`; asking for more is asking for CI facts.
        let trust = Trust { ci, kernel: ci.min(Assurance::Kernel) };
        let mut scan = Scan { compiler: self, file, strictness, session: Vec::new(), operation: Vec::new() };
        if let Some(identity) = &matches.identity {
            scan.identity(identity);
        }
        if let Some(target) = &matches.target {
            scan.target(target, block);
        }
        if let Some(session) = &matches.session {
            if strictness == Strictness::Permits {
                let message = "`match.session` is written by the job, and cannot allow anything";
                let help = Some("match on identity or target".to_owned());
                scan.compiler.report.error(file, session.at, message, help);
            }
            scan.globs("match.session.user", &session.user, SessionTest::ClientUser);
            scan.globs(
                "match.session.application_name",
                &session.application_name,
                SessionTest::ApplicationName,
            );
            if let Some((wanted, patterns)) = scan.patterns(&session.database) {
                scan.push_operation("match.session.database", wanted, OperationTest::Database(patterns));
            }
        }
        for (name, unread) in [("k8s", &matches.k8s), ("ssh", &matches.ssh)] {
            if let Some(unread) = unread {
                scan.never(&format!("match.{name}"), unread.at, &block.id.value);
            }
        }
        let mut names_opaque = false;
        if let Some(sql) = &matches.sql {
            names_opaque = sql.opaque == Some(true);
            scan.sql(sql, effect);
        }
        if let Some(http) = &matches.http {
            names_opaque |= http.opaque == Some(true);
            scan.http(http);
            if matches.sql.is_some() {
                let help = Some("make two rules of it".to_owned());
                scan.error(http.at, "no operation is SQL and HTTP: a rule has one of the two blocks", help);
            }
        }
        let names_replication = matches
            .sql
            .as_ref()
            .and_then(|sql| sql.kinds.as_ref())
            .is_some_and(|kinds| kinds.0.iter().any(|kind| is_replication(&kind.value)));
        let Scan { session, operation, .. } = scan;
        Scanned { session, operation, trust, names_opaque, names_replication }
    }
}

pub(super) struct Scan<'c> {
    compiler: &'c mut Compiler,
    file: &'c SourceFile,
    pub(super) strictness: Strictness,
    session: Vec<Condition<SessionTest>>,
    operation: Vec<Condition<OperationTest>>,
}

impl Scan<'_> {
    fn push(&mut self, key: &str, wanted: impl Into<String>, test: SessionTest) {
        self.session.push(Condition { key: key.to_owned(), wanted: wanted.into(), test });
    }

    pub(super) fn push_operation(&mut self, key: &str, wanted: impl Into<String>, test: OperationTest) {
        self.operation.push(Condition { key: key.to_owned(), wanted: wanted.into(), test });
    }

    pub(super) fn error(&mut self, at: Position, message: impl Into<String>, help: Option<String>) {
        self.compiler.report.error(self.file, at, message, help);
    }

    fn never(&mut self, key: &str, at: Position, rule: &str) {
        let message =
            format!("rule `{rule}`: `{key}` is not spoken by this version, the rule matches nothing");
        self.compiler.report.warn(self.file, at, message);
        self.push(key, "—", SessionTest::Never);
    }

    pub(super) fn patterns(&mut self, globs: &Option<Globs>) -> Option<(String, Patterns)> {
        let globs = globs.as_ref()?;
        let patterns = globs.0.iter().filter_map(|glob| match Pattern::new(&glob.value, self.strictness) {
            Ok(pattern) => Some(pattern),
            Err(message) => {
                self.error(glob.at, message, None);
                None
            }
        });
        let patterns = Patterns(patterns.collect());
        Some((words(globs), patterns))
    }

    fn globs(&mut self, key: &str, globs: &Option<Globs>, test: fn(Patterns) -> SessionTest) {
        if let Some((wanted, patterns)) = self.patterns(globs) {
            self.push(key, wanted, test(patterns));
        }
    }

    fn ci(&mut self, key: &str, globs: &Option<Globs>, field: fn(&CiJob) -> Option<&str>) {
        if let Some((wanted, patterns)) = self.patterns(globs) {
            self.push(key, wanted, SessionTest::Ci(field, patterns));
        }
    }

    fn pod(&mut self, key: &str, globs: &Option<Globs>, field: fn(&Pod) -> Option<&str>) {
        if let Some((wanted, patterns)) = self.patterns(globs) {
            self.push(key, wanted, SessionTest::Pod(field, patterns, self.strictness));
        }
    }

    fn identity(&mut self, identity: &IdentityMatch) {
        if let Some(kinds) = &identity.kind {
            let wanted = kinds.0.iter().map(|kind| kind.0.as_str()).collect::<Vec<_>>().join(", ");
            self.push(
                "match.identity.kind",
                wanted,
                SessionTest::Kind(kinds.0.iter().map(|kind| kind.0).collect()),
            );
        }
        self.globs("match.identity.id", &identity.id, SessionTest::Id);
        if let Some(least) = identity.assurance {
            let wanted = format!("at least {}", least.0.as_str());
            self.push("match.identity.assurance", wanted, SessionTest::Assurance(least.0));
        }
        self.ci("match.identity.provider", &identity.provider, |ci| Some(&ci.provider));
        self.ci("match.identity.repository", &identity.repository, |ci| ci.repository.as_deref());
        self.ci("match.identity.workflow", &identity.workflow, |ci| ci.workflow.as_deref());
        self.ci("match.identity.job", &identity.job, |ci| ci.job.as_deref());
        self.ci("match.identity.git_ref", &identity.git_ref, |ci| ci.git_ref.as_deref());
        self.ci("match.identity.event_name", &identity.event_name, |ci| ci.event_name.as_deref());
        self.ci("match.identity.actor", &identity.actor, |ci| ci.actor.as_deref());
        self.ci("match.identity.triggering_actor", &identity.triggering_actor, |ci| {
            ci.triggering_actor.as_deref()
        });
        self.ci("match.identity.run_id", &identity.run_id, |ci| ci.run_id.as_deref());
        if let Some(wanted) = identity.ref_protected {
            self.push("match.identity.ref_protected", wanted.to_string(), SessionTest::RefProtected(wanted));
        }
        self.ci("match.identity.job_id", &identity.job_id, |ci| ci.job_id.as_deref());
        self.ci("match.identity.runner", &identity.runner, |ci| ci.runner.as_deref());
        if let Some(wanted) = identity.confirmed {
            self.push("match.identity.confirmed", wanted.to_string(), SessionTest::Confirmed(wanted));
        }
        self.pod("match.identity.pod", &identity.pod, |pod| pod.name.as_deref());
        self.pod("match.identity.namespace", &identity.namespace, |pod| pod.namespace.as_deref());
        self.pod("match.identity.service_account", &identity.service_account, |pod| {
            pod.service_account.as_deref()
        });
        self.pod("match.identity.owner", &identity.owner, |pod| pod.owner.as_deref());
        for (label, globs) in &identity.labels {
            if let Some((wanted, patterns)) = self.patterns(&Some(globs.clone())) {
                let test = SessionTest::PodLabel(label.clone(), patterns, self.strictness);
                self.push(&format!("match.identity.labels.{label}"), wanted, test);
            }
        }
        if let Some(uids) = &identity.uid {
            let wanted = uids.0.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            self.push("match.identity.uid", wanted, SessionTest::Uid(uids.0.clone()));
        }
        self.globs("match.identity.user", &identity.user, SessionTest::User);
        self.globs("match.identity.unit", &identity.unit, SessionTest::Unit);
        self.globs("match.identity.exe", &identity.exe, SessionTest::Exe);
        self.globs("match.identity.exe_sha256", &identity.exe_sha256, SessionTest::ExeSha256);
        self.globs("match.identity.cgroup", &identity.cgroup, SessionTest::Cgroup);
        self.globs("match.identity.container", &identity.container, SessionTest::Container);
    }

    fn target(&mut self, target: &TargetMatch, block: &RuleBlock) {
        self.globs("match.target.name", &target.name, SessionTest::TargetName);
        for (tag, globs) in &target.tags {
            if let Some((wanted, patterns)) = self.patterns(&Some(globs.clone())) {
                self.push(
                    &format!("match.target.tags.{tag}"),
                    wanted,
                    SessionTest::Tag(tag.clone(), patterns),
                );
            }
        }
        if let Some(OneOrMany(names)) = &target.protocol {
            let matches = &block.matches;
            let said_by_block = matches.k8s.is_some() || matches.ssh.is_some();
            let spoken = [ProtocolName::Postgres, ProtocolName::Http];
            if !names.iter().any(|name| spoken.contains(name)) && !said_by_block {
                let id = &block.id.value;
                let message = format!(
                    "rule `{id}`: its protocols are not spoken by this version, the rule matches nothing"
                );
                self.compiler.report.warn(self.file, block.id.at, message);
            }
            let wanted = names.iter().map(|name| format!("{name:?}").to_lowercase()).collect::<Vec<_>>();
            self.push("match.target.protocol", wanted.join(", "), SessionTest::Protocol(names.clone()));
        }
        if let Some(OneOrMany(modes)) = &target.mode {
            let modes: Vec<_> = modes.iter().map(|mode| mode.0).collect();
            let wanted = modes.iter().map(|mode| mode_name(*mode)).collect::<Vec<_>>().join(", ");
            self.push("match.target.mode", wanted, SessionTest::Mode(modes));
        }
    }

    fn sql(&mut self, sql: &Spanned<SqlMatch>, effect: RuleEffect) {
        if let Some(OneOrMany(classes)) = &sql.class {
            let classes: Vec<_> = classes.iter().map(|class| class.0).collect();
            if classes.contains(&SqlClass::Opaque) {
                let help = Some("write `opaque: true` in place of the class".to_owned());
                self.error(sql.at, "`opaque` is not matched as a class", help);
            }
            let wanted = classes.iter().map(|class| class.as_str()).collect::<Vec<_>>().join(", ");
            self.push_operation("match.sql.class", wanted, OperationTest::Class(classes));
        }
        if let Some(kinds) = &sql.kinds {
            self.kinds(kinds);
        }
        if let Some(globs) = &sql.any_table {
            let test = OperationTest::AnyTable(self.tables(globs), self.strictness);
            self.push_operation("match.sql.any_table", words(globs), test);
        }
        if let Some(globs) = &sql.only_tables {
            let test = OperationTest::OnlyTables(self.tables(globs), self.strictness);
            let wanted = if globs.0.is_empty() { "no table".to_owned() } else { words(globs) };
            self.push_operation("match.sql.only_tables", wanted, test);
        }
        if let Some((wanted, patterns)) = self.patterns(&sql.columns) {
            let test = OperationTest::Columns(patterns, self.strictness);
            self.push_operation("match.sql.columns", wanted, test);
        }
        if let Some((wanted, patterns)) = self.patterns(&sql.functions) {
            self.push_operation("match.sql.functions", wanted, OperationTest::Functions(patterns));
        }
        if let Some(OneOrMany(effects)) = &sql.effects {
            let wanted =
                effects.iter().map(|effect| format!("{:?}", effect.0)).collect::<Vec<_>>().join(", ");
            let effects = effects.iter().map(|effect| effect.0).collect();
            self.push_operation("match.sql.effects", wanted, OperationTest::Effects(effects));
        }
        if let Some(wanted) = sql.bounded {
            self.push_operation("match.sql.bounded", wanted.to_string(), OperationTest::Bounded(wanted));
        }
        if let Some(OneOrMany(ways)) = &sql.export {
            self.export(sql, ways);
        }
        if let Some(size) = &sql.larger_than {
            if size.rows.is_none() && size.bytes.is_none() {
                let help = Some("write `rows:`, `bytes:` or both".to_owned());
                self.error(size.at, "`larger_than:` names no size", help);
            }
            let limit = SizeLimit { rows: size.rows, bytes: size.bytes.map(|bytes| bytes.0) };
            self.push_operation(
                "match.sql.larger_than",
                limit.to_string(),
                OperationTest::LargerThan(limit, self.strictness),
            );
        }
        if let Some(wanted) = sql.opaque {
            self.push_operation("match.sql.opaque", wanted.to_string(), OperationTest::Opaque(wanted));
        }
        if let Some(least) = sql.risk {
            let wanted = format!("at least {}", least.0.as_str());
            self.push_operation("match.sql.risk", wanted, OperationTest::Risk(least.0));
        }
        if let Some(fingerprints) = &sql.fingerprint {
            self.fingerprints(fingerprints);
        }
        let names_role =
            sql.effects.iter().flat_map(|effects| &effects.0).any(|effect| effect.0 == SqlEffect::SetsRole);
        if effect == RuleEffect::Allow && (sql.class.is_some() || sql.kinds.is_some()) && !names_role {
            // SET ROLE is a SET like any other to the grammar, and another identity to the server.
            self.push_operation(
                "match.sql.effects",
                "the same role, since sets_role is not named",
                OperationTest::KeepsRole,
            );
        }
        let limits_tables = sql.only_tables.is_some() || sql.opaque == Some(true);
        if effect == RuleEffect::Allow && !limits_tables {
            let named = [
                ("any_table", sql.any_table.is_some()),
                ("columns", sql.columns.is_some()),
                ("functions", sql.functions.is_some()),
            ];
            for (key, named) in named {
                if named {
                    let message = format!(
                        "`{key}` in an allow rule says what a statement touches, not what it is limited to; `only_tables` limits it"
                    );
                    self.compiler.report.warn(self.file, sql.at, message);
                }
            }
        }
    }

    fn export(&mut self, sql: &Spanned<SqlMatch>, ways: &[ExportWay]) {
        let ways: BTreeSet<Export> = ways.iter().map(|way| way.0).collect();
        let wanted = ways.iter().map(|way| way.as_str()).collect::<Vec<_>>().join(", ");
        let rows = sql.larger_than.as_ref().and_then(|size| size.rows);
        if ways.contains(&Export::Select) && rows.is_none() {
            self.compiler.report.warn(
                self.file,
                sql.at,
                "`export: select` without `larger_than: { rows: … }` takes every LIMIT for a limit, a billion too",
            );
        }
        self.push_operation("match.sql.export", wanted, OperationTest::Export(ways, rows, self.strictness));
    }

    fn kinds(&mut self, kinds: &OneOrMany<Spanned<String>>) {
        for kind in &kinds.0 {
            let verb = kind.value.split('_').next().unwrap_or_default();
            if !VERBS.contains(&verb) {
                let help = suggest(verb, VERBS.iter().copied());
                self.error(kind.at, format!("`{}` is not a kind of statement", kind.value), help);
            }
        }
        let names = kinds.0.iter().map(|kind| kind.value.clone()).collect();
        self.push_operation("match.sql.kinds", words(kinds), OperationTest::Kinds(names));
    }

    fn tables(&mut self, globs: &OneOrMany<Spanned<String>>) -> Vec<TablePattern> {
        let mut patterns = Vec::with_capacity(globs.0.len());
        for glob in &globs.0 {
            match TablePattern::new(&glob.value, self.strictness) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => {
                    self.error(glob.at, message, Some("write `schema.table` or `table`".to_owned()))
                }
            }
        }
        patterns
    }

    fn fingerprints(&mut self, fingerprints: &OneOrMany<Spanned<String>>) {
        for fingerprint in &fingerprints.0 {
            let text = &fingerprint.value;
            if text.is_empty() || !text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
                let help = Some("copy it from `lockgate inspect sql`".to_owned());
                self.error(
                    fingerprint.at,
                    format!("`{text}` is not a fingerprint (lower-case hexadecimal)"),
                    help,
                );
            }
        }
        let texts = fingerprints.0.iter().map(|fingerprint| fingerprint.value.clone()).collect();
        self.push_operation("match.sql.fingerprint", words(fingerprints), OperationTest::Fingerprint(texts));
    }
}

pub(super) fn words(globs: &OneOrMany<Spanned<String>>) -> String {
    globs.0.iter().map(|glob| glob.value.as_str()).collect::<Vec<_>>().join(", ")
}
