//! The lineage of a statement: which relations its rows come from, and in which places its columns stand. A small tree of
//! our own, made once while the grammar's tree is walked; it names no table OID and knows no mask, so that it can be
//! cached with the statement. [`crate::mask`] resolves it against a catalogue.

use super::{catalogue::Lookup, copy::CopySink};
use lockgate_model::sql::RelationName;

/// Where the columns of one statement stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnUsage {
    /// What comes out of it and what goes into it.
    pub(crate) lineage: Lineage,
    /// Every relation it names, in whatever role.
    pub(crate) relations: Vec<RelationName>,
    /// It runs code that is not known to be harmless and has no name here, so what it returns can come from anywhere.
    pub(crate) unknown_function: bool,
    /// Other functions that it calls and nobody vouches for: the catalogue may tell what they read.
    pub(crate) calls: Vec<String>,
    /// What it defines that others call without naming it.
    pub(crate) defines: Vec<Defined>,
    /// Where its unqualified names are looked up.
    pub(crate) lookup: Lookup,
}

/// A definition through which values reach code that the statement using it does not name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Defined {
    /// A function, procedure or aggregate of this name is made, replaced or gets another name.
    Function(String),
    /// The same of an operator.
    Operator(String),
    /// A cast.
    Cast,
    /// A check on every value of a domain, those that are stored already included.
    DomainCheck,
}

/// What rows come out of a statement and where its values go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lineage {
    /// Nothing of any relation comes out or is copied (SHOW, BEGIN, DROP TABLE, …).
    Nothing,
    /// The rows of a query, or of a RETURNING list.
    Rows(Query),
    /// The plan of a query, as text.
    Plan(Box<Lineage>),
    /// INSERT, UPDATE, DELETE, MERGE.
    Change(Box<Change>),
    /// The rows of a query are kept in a new relation.
    Store(Query),
    /// A view, rule, trigger, policy or function is made over these relations; its text, where it is opaque to the grammar.
    Define {
        /// For the message: `view`, `rule`, …
        what: &'static str,
        /// A function's or block's text.
        body: Option<String>,
        /// What a view shows.
        query: Option<Box<Query>>,
        /// The text is in a language whose words do not tell what it does.
        foreign: bool,
    },
    /// A relation's rows leave in bulk: these columns, or all.
    CopyOut {
        /// Which.
        relation: RelationName,
        /// The column list; empty is all.
        columns: Vec<String>,
        /// Where to, and how they are written.
        sink: CopySink,
    },
    /// The rows of a query leave in bulk.
    CopyQuery {
        /// Which.
        rows: Box<Lineage>,
        /// Where to, and how they are written.
        sink: CopySink,
    },
    /// A relation or column gets another name or place, so that a mask by name could lose it.
    Rename {
        /// For the message: `rename`, `set schema`, `attach partition`, …
        what: &'static str,
        /// The relations whose masks it could shake off.
        relations: Vec<RelationName>,
        /// The column, when one column is renamed.
        column: Option<String>,
    },
    /// Expressions over one relation that are stored or checked by DDL (CHECK, USING, GENERATED, index expressions).
    Attach {
        /// The relation.
        relation: RelationName,
        /// The expressions.
        places: Vec<(Place, Expr)>,
    },
    /// Several of these at once (ALTER TABLE with several subcommands).
    Many(Vec<Lineage>),
    /// Not understood.
    Unknown,
}

/// One SELECT, VALUES, TABLE or set operation, with its WITH list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) ctes: Vec<Cte>,
    pub(crate) body: Body,
    /// ORDER BY, LIMIT, OFFSET of the whole.
    pub(crate) places: Vec<(Place, Expr)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cte {
    pub(crate) name: String,
    pub(crate) columns: Vec<String>,
    pub(crate) recursive: bool,
    /// SEARCH or CYCLE adds columns to those of its query.
    pub(crate) adds: bool,
    pub(crate) body: CteBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CteBody {
    Query(Box<Query>),
    Change(Box<Change>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Select(Select),
    Values(Vec<Vec<Expr>>),
    Set {
        /// Rows are compared: everything but UNION ALL.
        compares: bool,
        left: Box<Query>,
        right: Box<Query>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Select {
    pub(crate) from: Vec<Source>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) places: Vec<(Place, Expr)>,
    /// SELECT DISTINCT without ON: every output is compared.
    pub(crate) distinct: bool,
}

/// One item of a FROM list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Relation {
        name: RelationName,
        alias: Alias,
    },
    Query {
        query: Box<Query>,
        alias: Alias,
    },
    /// A function, XMLTABLE, JSON_TABLE: rows made of its arguments.
    Function {
        arguments: Vec<Expr>,
        alias: Alias,
    },
    /// TABLESAMPLE, with the arguments that decide which rows come out.
    Sample {
        relation: Box<Source>,
        arguments: Expr,
    },
    Join {
        left: Box<Source>,
        right: Box<Source>,
        on: Option<Expr>,
        using: Vec<String>,
        natural: bool,
        alias: Alias,
    },
}

/// The name and column names an item of FROM goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alias {
    pub(crate) name: Option<String>,
    pub(crate) columns: Vec<String>,
}

/// One item of a select list or a RETURNING list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) name: Option<String>,
    pub(crate) value: Expr,
}

/// INSERT, UPDATE, DELETE, MERGE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) ctes: Vec<Cte>,
    pub(crate) target: RelationName,
    pub(crate) alias: Option<String>,
    /// FROM, USING, the source of MERGE.
    pub(crate) from: Vec<Source>,
    /// MERGE: `RETURNING *` shows the source before the target.
    pub(crate) source_first: bool,
    /// INSERT … SELECT or VALUES.
    pub(crate) source: Option<Query>,
    /// INSERT: the column list; empty is all.
    pub(crate) columns: Vec<String>,
    /// Values that are stored.
    pub(crate) assigned: Vec<Expr>,
    /// The columns that they are stored in, wherever it is said; empty is all.
    pub(crate) set: Vec<String>,
    /// WHERE, ON, conditions, conflict targets.
    pub(crate) places: Vec<(Place, Expr)>,
    pub(crate) returning: Vec<Output>,
}

/// Where a column stands when it is not in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Where,
    Join,
    GroupBy,
    Having,
    OrderBy,
    Distinct,
    Window,
    Limit,
    SetOperation,
    Conflict,
    Condition,
    /// An argument of a function that is not known to be harmless.
    UnknownFunction,
    /// An argument that decides how many rows come out.
    RowCount,
    /// A value that DDL stores or checks.
    Definition,
    /// An expression that fails for some values: whether it does is an answer.
    Fallible,
}

impl Place {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Where => "WHERE",
            Self::Join => "JOIN",
            Self::GroupBy => "GROUP BY",
            Self::Having => "HAVING",
            Self::OrderBy => "ORDER BY",
            Self::Distinct => "DISTINCT",
            Self::Window => "a window",
            Self::Limit => "LIMIT",
            Self::SetOperation => "UNION, INTERSECT or EXCEPT",
            Self::Conflict => "ON CONFLICT",
            Self::Condition => "a condition",
            Self::UnknownFunction => "the arguments of a function that is not known to be harmless",
            Self::RowCount => "the arguments of a function that returns rows",
            Self::Definition => "a definition",
            Self::Fallible => "an expression that can fail by its value",
        }
    }
}

/// An expression, reduced to what it is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expr {
    pub(crate) shape: Shape,
    pub(crate) columns: Vec<Use>,
    pub(crate) queries: Vec<SubQuery>,
    /// It runs code that is not known to be harmless and has no name here: an operator, a type's.
    pub(crate) unknown_function: bool,
    /// Functions that are not known to be harmless: the catalogue may tell what they read.
    pub(crate) calls: Vec<Call>,
}

/// One call of a function that is not known to be harmless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// Set when what it returns does more than flow into the value.
    pub(crate) place: Option<Place>,
}

/// What an expression is, as an output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Anything that is not one of the others.
    #[default]
    Computed,
    /// Exactly one column, nothing done to it.
    Column,
    /// `*` or `t.*`.
    Star,
    /// `(row).*`: as many columns as the row's type has, none included.
    Spread,
    /// An integer constant: in GROUP BY and ORDER BY it counts outputs.
    Ordinal(usize),
}

/// One mention of a column, a star or a whole row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) column: ColumnRef,
    /// Set when it does more than flow into the value.
    pub(crate) place: Option<Place>,
}

/// A subquery inside an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SubQuery {
    pub(crate) query: Query,
    /// Its rows flow into the value (not for EXISTS).
    pub(crate) flows: bool,
    pub(crate) place: Option<Place>,
}

/// A column as written: `a`, `t.a`, `s.t.a`, and with a star for the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnRef {
    pub(crate) qualifier: Vec<String>,
    /// None is `*`.
    pub(crate) name: Option<String>,
}
