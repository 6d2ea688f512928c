//! Does a session behave as a dump tool's does? By what it does, since a name can be chosen: one transaction that sees the
//! whole database at one moment, locks that keep every table as it is, settings that only a dump wants, a walk through
//! corners of the system catalogue where nobody else goes.
//!
//! Two different signs make a dump. Signs are only ever added: nothing that a session does or says takes one away.

use super::{Control, Script, Setting, Statement};
use lockgate_model::sql::{Export, RelationName, SqlFacts};
use std::collections::BTreeSet;

/// Relations of `pg_catalog` that describe what applications never ask about; pg_dump reads all of them.
const CORNERS: [&str; 16] = [
    "pg_aggregate",
    "pg_authid",
    "pg_cast",
    "pg_conversion",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_init_privs",
    "pg_language",
    "pg_opfamily",
    "pg_seclabels",
    "pg_transform",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
];
/// So many different ones are a sign.
const CORNERS_SEEN: usize = 6;
/// What dump tools call themselves. Whoever calls himself so draws suspicion; whoever does not escapes none.
const NAMES: [&str; 4] = ["pg_dump", "pg_restore", "pg_basebackup", "pg_receivewal"];

/// One way of behaving like a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    /// REPEATABLE READ or SERIALIZABLE.
    Snapshot,
    /// LOCK TABLE … IN ACCESS SHARE MODE.
    Locks,
    /// Settings that matter to nobody but dumps.
    Settings,
    /// pg_export_snapshot, SET TRANSACTION SNAPSHOT: several connections see one moment.
    Shared,
    /// A walk through the corners of the catalogue.
    Sweep,
    /// It says so itself.
    Name,
}

/// The signs that one session has shown.
#[derive(Clone, Debug, Default)]
pub struct DumpWatch {
    signs: BTreeSet<Sign>,
    corners: BTreeSet<&'static str>,
}

impl DumpWatch {
    /// What the session calls itself.
    pub fn named(&mut self, name: &str) {
        if NAMES.iter().any(|known| name.starts_with(known)) {
            self.signs.insert(Sign::Name);
        }
    }

    /// The session is about to run this. Answers whether it looks like a dump, this statement included.
    pub fn observe(&mut self, statement: &Statement) -> bool {
        let facts = statement.sql();
        match facts.kind.as_str() {
            "begin" | "set_transaction" => {
                if mentions(&statement.text, "repeatable read") || mentions(&statement.text, "serializable") {
                    self.signs.insert(Sign::Snapshot);
                }
                if mentions(&statement.text, "snapshot") {
                    self.signs.insert(Sign::Shared);
                }
            }
            "lock" if mentions(&statement.text, "access share") => {
                self.signs.insert(Sign::Locks);
            }
            _ => {}
        }
        if let Control::Set { name, value, .. } = &statement.control {
            self.set(name, value);
        }
        if facts.functions.iter().any(|name| name.ends_with("pg_export_snapshot")) {
            self.signs.insert(Sign::Shared);
        }
        facts.tables_read.iter().for_each(|table| self.read(table));
        self.is_dump()
    }

    /// Whether the session looks like a dump.
    pub fn is_dump(&self) -> bool {
        self.signs.len() > 1
    }

    /// The facts of a script's statements as a session that does nothing else would show them.
    pub fn facts(mut self, script: &Script) -> Vec<SqlFacts> {
        let seen = script.statements.iter().map(|statement| {
            let mut facts = statement.sql().clone();
            if self.observe(statement) {
                facts.reach.exports.insert(Export::Dump);
            }
            facts
        });
        seen.collect()
    }

    fn set(&mut self, name: &str, value: &Setting) {
        let is = |wanted: &[&str]| match value {
            Setting::Values(values) => {
                values.iter().any(|value| wanted.iter().any(|wanted| value.eq_ignore_ascii_case(wanted)))
            }
            Setting::Default => false,
            Setting::Unknown => true,
        };
        match name {
            "synchronize_seqscans" | "quote_all_identifiers" => {
                self.signs.insert(Sign::Settings);
            }
            "default_transaction_isolation" | "transaction_isolation"
                if is(&["repeatable read", "serializable"]) =>
            {
                self.signs.insert(Sign::Snapshot);
            }
            "application_name" => match value {
                Setting::Values(values) => values.iter().for_each(|value| self.named(value)),
                Setting::Default | Setting::Unknown => {}
            },
            _ => {}
        }
    }

    fn read(&mut self, table: &RelationName) {
        if table.schema.as_deref().is_some_and(|schema| schema != "pg_catalog") {
            return;
        }
        if let Some(corner) = CORNERS.iter().find(|corner| **corner == table.name) {
            self.corners.insert(corner);
            if self.corners.len() >= CORNERS_SEEN {
                self.signs.insert(Sign::Sweep);
            }
        }
    }
}

/// Whether the words stand in a text one after the other, whatever is between them but letters.
fn mentions(text: &str, words: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let mut found =
        lower.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    let wanted: Vec<&str> = words.split(' ').collect();
    let all: Vec<&str> = found.by_ref().collect();
    all.windows(wanted.len()).any(|window| window == wanted.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Inspector, SessionState};

    fn is_dump(name: Option<&str>, texts: &[&str]) -> bool {
        let mut watch = DumpWatch::default();
        name.into_iter().for_each(|name| watch.named(name));
        for text in texts {
            for statement in Inspector.script(text, &SessionState::default(), None).statements {
                watch.observe(&statement);
            }
        }
        watch.is_dump()
    }

    #[test]
    fn dumps_are_told_by_what_they_do() {
        let table: &[(Option<&str>, &[&str], bool)] = &[
            (
                None,
                &[
                    "SET synchronize_seqscans TO off",
                    "BEGIN",
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                ],
                true,
            ),
            (
                None,
                &["begin isolation level serializable read only", "lock table t in access share mode"],
                true,
            ),
            (
                None,
                &["BEGIN ISOLATION LEVEL /* x */ REPEATABLE\nREAD", "SELECT pg_catalog.pg_export_snapshot()"],
                true,
            ),
            (
                None,
                &["BEGIN ISOLATION LEVEL REPEATABLE READ", "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'"],
                true,
            ),
            (Some("pg_dump"), &["BEGIN ISOLATION LEVEL REPEATABLE READ"], true),
            (Some("psql"), &["SET synchronize_seqscans = off", "LOCK t IN ACCESS SHARE MODE"], true),
            (
                None,
                &[
                    "SET application_name = 'pg_dumpall - global'",
                    "SET default_transaction_isolation = 'serializable'",
                ],
                true,
            ),
            // One sign is not enough, and ordinary work shows none.
            (Some("pg_dump"), &["SELECT 1"], false),
            (
                Some("psql"),
                &["BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT * FROM orders", "COMMIT"],
                false,
            ),
            (None, &["SET extra_float_digits = 3", "BEGIN", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE"], false),
            (
                None,
                &["SELECT 'repeatable read; lock table t in access share mode; synchronize_seqscans'"],
                false,
            ),
        ];
        for (name, texts, expected) in table {
            assert_eq!(is_dump(*name, texts), *expected, "{name:?} {texts:?}");
        }
    }

    #[test]
    fn signs_are_never_taken_back() {
        let mut watch = DumpWatch::default();
        watch.named("pg_dump");
        watch.named("psql");
        for text in
            ["SET synchronize_seqscans = off", "RESET ALL", "DISCARD ALL", "SET application_name = 'psql'"]
        {
            for statement in Inspector.script(text, &SessionState::default(), None).statements {
                watch.observe(&statement);
            }
        }
        assert!(watch.is_dump());
    }
}
