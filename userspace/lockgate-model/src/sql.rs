//! What one SQL statement is and does, as the inspector understood it. Plain data: no grammar here.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Class of a statement; the outer class of a batch is the strictest by [`SqlClass::strictness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlClass {
    /// Returns data, changes nothing.
    Read,
    /// BEGIN, COMMIT, SAVEPOINT, …
    Transaction,
    /// SET, LISTEN, DEALLOCATE, …
    Session,
    /// COPY … TO STDOUT.
    CopyOut,
    /// Changes rows, or may (unknown functions included).
    Write,
    /// COPY … FROM STDIN.
    CopyIn,
    /// CALL, DO.
    Call,
    /// Changes the schema.
    Ddl,
    /// Roles, grants, server files and programs, ALTER SYSTEM, …
    Admin,
    /// Not understood.
    Opaque,
}

impl SqlClass {
    /// read < transaction, session < copy_out < write, copy_in, call < ddl < admin < opaque.
    pub fn strictness(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Transaction | Self::Session => 1,
            Self::CopyOut => 2,
            Self::Write | Self::CopyIn | Self::Call => 3,
            Self::Ddl => 4,
            Self::Admin => 5,
            Self::Opaque => 6,
        }
    }

    /// The stricter of two; the first wins a tie.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        if other.strictness() > self.strictness() { other } else { self }
    }

    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::CopyOut => "copy_out",
            Self::Write => "write",
            Self::CopyIn => "copy_in",
            Self::Call => "call",
            Self::Ddl => "ddl",
            Self::Admin => "admin",
            Self::Opaque => "opaque",
        }
    }
}

impl fmt::Display for SqlClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much harm a statement could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Reads, session and transaction control.
    Low,
    /// Bounded writes, exports.
    Medium,
    /// Schema changes, unbounded writes, calls.
    High,
    /// Destructive DDL, roles, server files, opaque.
    Critical,
}

impl Risk {
    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// A relation as written: schema when the text has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct RelationName {
    /// Schema, when written (or resolved through the catalogue).
    pub schema: Option<String>,
    /// Relation.
    pub name: String,
}

impl fmt::Display for RelationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl From<RelationName> for String {
    fn from(name: RelationName) -> Self {
        name.to_string()
    }
}

impl From<String> for RelationName {
    /// Splits at the first dot; a display form, not an identifier parser.
    fn from(text: String) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.to_owned()), name: name.to_owned() },
            None => Self { schema: None, name: text },
        }
    }
}

/// A class of side effect that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlEffect {
    /// Changes rows.
    WritesRows,
    /// Changes the schema.
    ChangesSchema,
    /// Takes row or table locks explicitly.
    Locks,
    /// Calls a function that is not on the list of harmless built-ins.
    UnknownFunction,
    /// Reads or writes files or runs programs on the server.
    ServerFile,
    /// Changes the role in force.
    SetsRole,
    /// Changes settings that change meaning (search_path, standard_conforming_strings, client_encoding).
    ChangesMeaning,
    /// Moves bulk data out.
    Exports,
    /// Moves bulk data in.
    Imports,
    /// Runs text it was handed (DO, EXECUTE of dynamic SQL, query_to_xml, …).
    DynamicSql,
    /// Changes roles, grants or ownership.
    ChangesPrivileges,
    /// LISTEN, NOTIFY.
    Notifies,
}

/// A way in which a statement moves data out in bulk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Export {
    /// COPY … TO, wherever to.
    Copy,
    /// Stored rows come out of it: SELECT, RETURNING, FETCH. How many, [`Extent`] tells.
    Select,
    /// A function turns whole tables into one value (`table_to_xml`, `query_to_xml`, …).
    Document,
    /// Large objects are read.
    LargeObject,
    /// The session behaves as a dump tool's does.
    Dump,
}

impl Export {
    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Select => "select",
            Self::Document => "document",
            Self::LargeObject => "large_object",
            Self::Dump => "dump",
        }
    }
}

/// How many rows a statement's own text lets through at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowBound {
    /// This many.
    Rows(u64),
    /// As many as the bound value of this number says (1 is `$1`).
    Parameter(u32),
}

/// How much a statement may carry away, at most. What is not known is None, and counts as too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// What its text lets through: LIMIT with a number, an aggregate, a unique key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<RowBound>,
    /// Rows of the largest table it takes rows from, partitions and inheriting tables included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes of the largest such table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// How far a statement reaches beyond what it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Ways in which it moves data out in bulk.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub exports: BTreeSet<Export>,
    /// How much may come out of it; None when nothing that is stored does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent: Option<Extent>,
    /// Relations it may touch without naming them, sorted: behind views, partitions, parents, in the texts of functions
    /// and triggers. Rather too many than too few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<RelationName>,
    /// It may touch relations that nobody can tell: it runs text, or code that is not known.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}

impl Reach {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The kind of a replication connection and of the commands that only such a one takes (`replication_start`,
/// `replication_base_backup`, …).
pub const REPLICATION: &str = "replication";

/// Whether a statement's kind is one of replication's.
pub fn is_replication(kind: &str) -> bool {
    kind.split('_').next() == Some(REPLICATION)
}

/// What one statement is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlFacts {
    /// Its class.
    pub class: SqlClass,
    /// The verb: `select`, `delete`, `alter_table`, `drop_table`, … A policy kind matches itself or the
    /// word before the first underscore (`alter` matches `alter_table`).
    pub kind: String,
    /// Relations read, sorted, as far as the text tells (plus the catalogue's answer when at hand).
    pub tables_read: Vec<RelationName>,
    /// Relations written, sorted.
    pub tables_written: Vec<RelationName>,
    /// Columns named, sorted: `table.column` where the text says so, else `column`; `*` for a star.
    pub columns: Vec<String>,
    /// Functions called, sorted, as written.
    pub functions: Vec<String>,
    /// For SELECT, UPDATE, DELETE: has a WHERE (or LIMIT for SELECT) that is not trivially true. None elsewhere.
    pub bounded: Option<bool>,
    /// Risk.
    pub risk: Risk,
    /// Identifies the shape: equal for statements that differ only in literals. Lower-case hex.
    pub fingerprint: String,
    /// Side effects.
    pub effects: BTreeSet<SqlEffect>,
    /// Why it is opaque, when `class` is [`SqlClass::Opaque`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque_reason: Option<String>,
    /// How far it reaches beyond what it names.
    #[serde(default, skip_serializing_if = "Reach::is_empty")]
    pub reach: Reach,
    /// The second parser's differing class, when it disagreed (the stricter one is in `class`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_opinion: Option<SqlClass>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strictness_follows_the_published_order() {
        use SqlClass::*;
        let order: [&[SqlClass]; 7] = [
            &[Read],
            &[Transaction, Session],
            &[CopyOut],
            &[Write, CopyIn, Call],
            &[Ddl],
            &[Admin],
            &[Opaque],
        ];
        for (rank, classes) in order.iter().enumerate() {
            for class in *classes {
                assert_eq!(usize::from(class.strictness()), rank, "{class}");
            }
        }
        assert_eq!(Read.stricter(Ddl), Ddl);
        assert_eq!(Write.stricter(Call), Write);
    }
}
