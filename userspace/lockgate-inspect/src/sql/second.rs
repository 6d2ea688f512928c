//! The second opinion: sqlparser reads the same text, and where it reads a stricter class that one holds. It is known to
//! misread what an attacker can choose (operators before comments, `end`, ONLY, COPY followed by more), always towards the
//! laxer, so its laxer answers change nothing; but a disagreement is recorded, since it is what an attack looks like.
//!
//! It is asked within bounds: a long chain of operators makes a tree whose drop runs off the stack and takes the process
//! with it. What it does not parse (one text in ten that the server accepts) or has no clear word for is no disagreement.

use super::{SessionState, Statement, function, parse::Reading};
use lockgate_model::sql::{SqlClass, SqlEffect};
use sqlparser::{
    ast::{
        CopyTarget, Expr, Function, ObjectName, Query, Select, Set, Statement as Ast, TableFactor,
        UtilityOption, Value, Visit, Visitor,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use std::{ops::ControlFlow, panic};

/// The longest text that it is asked about; generated bulk statements are longer, and are no riddles.
const MAX_BYTES: usize = 8 * 1024;

/// The most operators and joining words in a text: each can be one level of the tree.
const MAX_OPERATORS: usize = 400;

/// The deepest nesting of brackets: some of its productions try both readings of a bracket at every level.
const MAX_BRACKETS: usize = 12;

/// Asks for the second opinion on a text and lets every statement hear it.
pub(super) fn compare(text: &str, reading: Reading, state: &SessionState, statements: &mut [Statement]) {
    if reading == Reading::Escapes || !within_bounds(text) {
        return;
    }
    // A panic of a parser that only advises must not end a session.
    let Ok(Some(opinions)) =
        panic::catch_unwind(panic::AssertUnwindSafe(|| opinions(text, state, statements)))
    else {
        return;
    };
    if opinions.len() == statements.len() {
        for (statement, opinion) in statements.iter_mut().zip(opinions) {
            // Operators and types of somebody's own making are read alike, and only one of the two knows what they hide.
            let only_unknown = statement.sql().effects.iter().eq(&[SqlEffect::UnknownFunction]);
            match opinion {
                Some(SqlClass::Read) if only_unknown => {}
                Some(class) => statement.hear(class),
                None => {}
            }
        }
        return;
    }
    // It sees other statements than the server will: only the whole can be compared.
    let Some(theirs) =
        opinions.into_iter().try_fold(SqlClass::Read, |all, one| one.map(|one| all.stricter(one)))
    else {
        return;
    };
    let ours = statements.iter().fold(SqlClass::Read, |all, one| all.stricter(one.class()));
    if theirs != ours {
        statements.iter_mut().for_each(|statement| statement.hear(theirs));
    }
}

/// The class it reads in each statement; None where it has no clear word. None for the whole when it does not parse.
fn opinions(text: &str, state: &SessionState, statements: &[Statement]) -> Option<Vec<Option<SqlClass>>> {
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, text).ok()?;
    Some(parsed.iter().map(|one| opinion(one, state, statements)).collect())
}

fn opinion(one: &Ast, state: &SessionState, statements: &[Statement]) -> Option<SqlClass> {
    let mut walk = Walk { class: own_class(one)?, clear: true, state, statements };
    let is_plan =
        matches!(one, Ast::Explain { analyze: false, options, .. } if !analyzes(options.as_deref()));
    if is_plan {
        return None;
    }
    let _ = one.visit(&mut walk);
    walk.clear.then_some(walk.class)
}

struct Walk<'a> {
    class: SqlClass,
    clear: bool,
    state: &'a SessionState,
    /// What the grammar saw: functions that both see are the grammar's to judge.
    statements: &'a [Statement],
}

impl Walk<'_> {
    fn raise(&mut self, class: SqlClass) {
        self.class = self.class.stricter(class);
    }

    fn called(&mut self, name: &ObjectName) {
        let parts: Vec<String> = name.0.iter().map(|part| folded(&part.to_string())).collect();
        let Some((name, qualifier)) = parts.split_last() else { return };
        let schema = qualifier.last().map(String::as_str);
        let whole = parts.join(".");
        let both = self.statements.iter().any(|statement| statement.sql().functions.contains(&whole));
        if GRAMMAR_FUNCTIONS.contains(&name.as_str()) || name.starts_with("xml") || name.starts_with("json_")
        {
            return;
        }
        if function::harmless(schema, name, 1, self.state, None).is_none() {
            // What both call unknown, the grammar's walk may know better (from the catalogue, or as a cast).
            let class = function::harm(name).class;
            self.raise(if both { self.judged(&whole, class) } else { class });
        }
    }

    /// The class of a function that the grammar saw too: no stricter than what it made of the statement.
    fn judged(&self, name: &String, class: SqlClass) -> SqlClass {
        let ours = self
            .statements
            .iter()
            .filter(|statement| statement.sql().functions.contains(name))
            .fold(SqlClass::Read, |all, one| all.stricter(one.class()));
        if class.strictness() > ours.strictness() { ours } else { class }
    }
}

/// Words that are syntax to PostgreSQL and functions to sqlparser.
const GRAMMAR_FUNCTIONS: [&str; 32] = [
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "grouping",
    "row",
    "array",
    "any",
    "all",
    "some",
    "treat",
    "merge_action",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "system_user",
    "user",
    "values",
    "char_length",
    "character",
    "nchar",
    "national",
    "dec",
    "float",
    "bit",
];

impl Visitor for Walk<'_> {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Ast) -> ControlFlow<()> {
        match own_class(statement) {
            Some(class) => self.raise(class),
            None => self.clear = false,
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if !query.locks.is_empty() {
            self.raise(SqlClass::Write);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if select.into.is_some() {
            self.raise(SqlClass::Ddl);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                self.called(name)
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if let Expr::Function(Function { name, .. }) = expr {
            self.called(name);
        }
        ControlFlow::Continue(())
    }
}

/// What a statement is by its own verb. Only where the answer is plain; None is "no opinion".
fn own_class(statement: &Ast) -> Option<SqlClass> {
    Some(match statement {
        // What it holds is visited.
        Ast::Query(_) | Ast::Explain { .. } | Ast::ShowVariable { .. } => SqlClass::Read,
        Ast::Insert(_) | Ast::Update(_) | Ast::Delete(_) | Ast::Merge(_) | Ast::Truncate(_) => {
            SqlClass::Write
        }
        Ast::Copy { target: CopyTarget::File { .. } | CopyTarget::Program { .. }, .. } => SqlClass::Admin,
        Ast::Copy { to: true, .. } => SqlClass::CopyOut,
        Ast::Copy { .. } => SqlClass::CopyIn,
        Ast::StartTransaction { .. } | Ast::Commit { .. } | Ast::Rollback { .. } | Ast::Savepoint { .. } => {
            SqlClass::Transaction
        }
        Ast::Set(Set::SingleAssignment { .. } | Set::SetRole { .. } | Set::SetTimeZone { .. }) => {
            SqlClass::Session
        }
        Ast::Discard { .. } | Ast::Deallocate { .. } | Ast::LISTEN { .. } | Ast::UNLISTEN { .. } => {
            SqlClass::Session
        }
        Ast::CreateTable(_)
        | Ast::CreateView(_)
        | Ast::CreateIndex(_)
        | Ast::AlterTable(_)
        | Ast::AlterIndex { .. }
        | Ast::CreateSequence { .. }
        | Ast::DropTrigger(_) => SqlClass::Ddl,
        _ => return None,
    })
}

/// `EXPLAIN (ANALYZE)` is an option to sqlparser, and its flag stays false.
fn analyzes(options: Option<&[UtilityOption]>) -> bool {
    options.unwrap_or_default().iter().any(|option| {
        let off = match &option.arg {
            None => false,
            Some(Expr::Value(value)) => match &value.value {
                Value::Boolean(on) => !on,
                Value::Number(number, _) => number == "0",
                _ => false,
            },
            Some(other) => matches!(other.to_string().to_ascii_lowercase().as_str(), "off" | "false"),
        };
        option.name.value.eq_ignore_ascii_case("analyze") && !off
    })
}

fn folded(part: &str) -> String {
    match part.strip_prefix('"').and_then(|part| part.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => part.to_lowercase(),
    }
}

/// Counts what could nest, wherever it stands: it only ever counts too many.
fn within_bounds(text: &str) -> bool {
    const JOINING: [&str; 8] = ["and", "or", "not", "union", "intersect", "except", "collate", "is"];
    if text.len() > MAX_BYTES {
        return false;
    }
    let operators = text.bytes().filter(|byte| b"+-*/<>=~!@#%^&|`?:.[".contains(byte)).count();
    let words = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| JOINING.iter().any(|joining| word.eq_ignore_ascii_case(joining)))
        .count();
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    operators + words <= MAX_OPERATORS && deepest <= MAX_BRACKETS
}
