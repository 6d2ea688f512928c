//! SQL text to facts and lineage.
//!
//! PostgreSQL's own grammar (pg_query) decides what a text is. A second parser (sqlparser) is asked too, within bounds:
//! where it reads a stricter class the stricter one holds, since two parsers that disagree are what an attack looks like.
//! What neither text nor grammar can tell (what a function does, what a view hides) counts as the worse of what it could
//! be, unless a [`catalogue::CatalogueSnapshot`] tells. Nothing here decides whether a statement may run.
//!
//! # Kinds
//! A kind is the verb in lower case: `select`, `insert`, `update`, `delete`, `merge`, `truncate`, `copy`, `explain`,
//! `prepare`, `execute`, `deallocate`, `declare`, `fetch`, `move`, `close`, `begin`, `commit`, `rollback`, `savepoint`,
//! `release`, `rollback_to`, `prepare_transaction`, `commit_prepared`, `rollback_prepared`, `set_transaction`,
//! `set_constraints`, `set`, `reset`, `show`, `discard`, `listen`, `unlisten`, `notify`, `lock`, `call`, `do`, `grant`,
//! `revoke`, `comment`, `vacuum`, `analyze`, `reindex`, `cluster`, `checkpoint`, `load`, `import_foreign_schema`,
//! `reassign_owned`, `drop_owned`, `refresh_materialized_view`, `security_label`, `opaque`, and `create_X`, `alter_X`,
//! `drop_X` for each sort of object X (`table`, `view`, `index`, `function`, `role`, `extension`, …). SELECT INTO and
//! CREATE TABLE AS are `create_table`. Where a query carries data-modifying parts (WITH, EXPLAIN ANALYZE, COPY), the kind
//! and `bounded` are those of the part that does most: an unbounded one before a bounded one, then delete, update, merge,
//! insert. EXECUTE of a known statement has that statement's kind, and so has PREPARE of one that changes rows.

pub mod catalogue;
pub mod jsonl;

mod behind;
mod bounded;
mod control;
pub(crate) mod copy;
mod depth;
mod digest;
mod dump;
mod extent;
mod fold;
mod function;
mod normal;
mod parse;
mod risk;
mod routine;
mod second;
mod state;
pub(crate) mod stores;
mod text;
mod tree;
pub(crate) mod usage;
mod walk;
mod words;

pub use control::{Control, Setting};
pub use digest::{DigestParts, digest};
pub use dump::DumpWatch;
pub(crate) use function::{is_builtin_function, is_builtin_operator, reveals, shows_nothing_stored};
pub use normal::{Shape, Template};
pub use parse::{MAX_STATEMENTS, MAX_TEXT_BYTES};
pub use state::{Basis, Makes, SearchPath, SessionState};
pub use usage::ColumnUsage;

#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod tests;

use catalogue::CatalogueSnapshot;
use lockgate_model::{
    operation::Facts,
    sql::{Risk, SqlClass, SqlFacts},
};
use parse::{Opaque, Reading};
use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};
use walk::{Texts, Understood, Walk};

/// Turns texts into statements. It holds nothing but the code's bounds, so one serves all sessions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inspector;

/// The statements of one text.
#[derive(Clone, Debug)]
pub struct Script {
    /// In order. One opaque statement when the text is not understood; none when it is empty.
    pub statements: Vec<Arc<Statement>>,
}

impl Script {
    /// The strictest class of all statements; an empty text is a read.
    pub fn class(&self) -> SqlClass {
        self.statements.iter().fold(SqlClass::Read, |class, statement| class.stricter(statement.class()))
    }
}

/// One statement, understood once.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its exact text.
    pub text: Arc<str>,
    /// Its text without literals and comments.
    pub normalized: Arc<str>,
    /// What it is and does.
    pub facts: Arc<Facts>,
    /// Where its columns stand.
    pub usage: Arc<ColumnUsage>,
    /// What it changes in the session.
    pub control: Control,
    /// What it makes that later names can stand for.
    pub makes: Makes,
    /// It runs code of the database's own that may change settings without saying so.
    pub unsettles: bool,
}

impl Inspector {
    /// The statements of a text, as the server would see them in this state.
    pub fn script(&self, text: &str, state: &SessionState, catalogue: Option<&CatalogueSnapshot>) -> Script {
        if !state.client_encoding_utf8 {
            return opaque(text, "the client's encoding is not UTF-8".to_owned());
        }
        let readings: &[Reading] = match state.standard_conforming_strings {
            _ if !text.contains('\\') => &[Reading::Standard],
            Some(true) => &[Reading::Standard],
            Some(false) => &[Reading::Escapes],
            None => &[Reading::Standard, Reading::Escapes],
        };
        let levels = readings.iter().map(|reading| depth::levels(text, *reading)).max().unwrap_or(0);
        let understood =
            depth::with_room(levels, || self.understand(text, readings, levels, state, catalogue));
        understood.unwrap_or_else(|why| opaque(text, why))
    }

    fn understand(
        &self,
        text: &str,
        readings: &[Reading],
        levels: usize,
        state: &SessionState,
        catalogue: Option<&CatalogueSnapshot>,
    ) -> Script {
        let keep_lineage = levels <= depth::LINEAGE;
        let mut answers = readings.iter().map(|reading| read(text, *reading, keep_lineage, state, catalogue));
        let first = answers.next().unwrap_or_else(|| Err("no reading".to_owned()));
        match (first, answers.next()) {
            (Ok(statements), None) => Script { statements },
            (Ok(statements), Some(Ok(other))) if same_judgement(&statements, &other) => Script { statements },
            (_, Some(_)) => opaque(
                text,
                "its meaning depends on standard_conforming_strings, which is not known for this session"
                    .to_owned(),
            ),
            (Err(why), None) => opaque(text, why),
        }
    }
}

/// The statements of a text under one reading.
fn read(
    text: &str,
    reading: Reading,
    keep_lineage: bool,
    state: &SessionState,
    catalogue: Option<&CatalogueSnapshot>,
) -> Result<Vec<Arc<Statement>>, Opaque> {
    let parsed = parse::parse_with_room(text, reading)?;
    let several = parsed.len() > 1;
    let budget = fold::Budget::of(state);
    let mut state = Cow::Borrowed(state);
    let mut statements = Vec::with_capacity(parsed.len());
    for one in &parsed {
        let normalized = text::normalize(one.text, reading);
        let fingerprint = text::fingerprint(one.text, reading);
        let texts = Texts {
            exact: one.text,
            normalized: normalized.as_deref().unwrap_or_default(),
            fingerprint: &fingerprint,
        };
        let mut understood = Walk::statement(&one.node, texts, &state, catalogue, &budget);
        if !keep_lineage {
            understood.forget_lineage();
        }
        let statement = Statement::of(understood, texts, &state);
        if several {
            // Names are looked up when a statement's turn comes: after what stands before it in the same text.
            state.to_mut().sent_within(&statement);
        }
        statements.push(statement);
    }
    second::compare(text, reading, &state, &mut statements);
    Ok(statements.into_iter().map(Arc::new).collect())
}

/// Whether both readings of a text come to the same.
fn same_judgement(a: &[Arc<Statement>], b: &[Arc<Statement>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            // What it sets is written in strings, and those are what the two readings differ in.
            let same_control = format!("{:?}", a.control) == format!("{:?}", b.control);
            a.text == b.text && a.facts == b.facts && a.usage == b.usage && a.makes == b.makes && same_control
        })
}

/// The whole text as one statement that is not understood.
/// What a statement would be whose facts are of another protocol: nothing that a rule allows.
static NOT_SQL: LazyLock<SqlFacts> = LazyLock::new(|| SqlFacts {
    class: SqlClass::Opaque,
    kind: "opaque".to_owned(),
    tables_read: Vec::new(),
    tables_written: Vec::new(),
    columns: Vec::new(),
    functions: Vec::new(),
    bounded: None,
    risk: Risk::High,
    fingerprint: String::new(),
    effects: BTreeSet::new(),
    opaque_reason: Some("not SQL".to_owned()),
    reach: Default::default(),
    second_opinion: None,
});

fn opaque(text: &str, why: Opaque) -> Script {
    let understood = Understood::opaque("opaque", why);
    let fingerprint = text::hash(text);
    let texts = Texts { exact: text, normalized: "", fingerprint: &fingerprint };
    Script { statements: vec![Arc::new(Statement::of(understood, texts, &SessionState::default()))] }
}

impl Statement {
    fn of(understood: Understood, texts: Texts<'_>, state: &SessionState) -> Self {
        let Understood { kind, bounded, lineage, control, gathered, opaque, reach } = understood;
        let makes = match opaque {
            Some(_) => Makes::Anything,
            None => gathered.makes,
        };
        let unsettles = gathered.unsettles;
        let class = if opaque.is_some() { SqlClass::Opaque } else { gathered.class };
        let facts = SqlFacts {
            class,
            kind: kind.to_owned(),
            tables_read: gathered.read.into_iter().collect(),
            tables_written: gathered.written.into_iter().collect(),
            columns: gathered.columns.into_iter().collect(),
            functions: gathered.functions.into_iter().collect(),
            bounded,
            risk: risk::risk(class, kind, bounded, &gathered.effects, gathered.destroys),
            fingerprint: texts.fingerprint.to_owned(),
            effects: gathered.effects,
            opaque_reason: opaque,
            reach,
            second_opinion: None,
        };
        let usage = ColumnUsage {
            lineage,
            relations: gathered.named.into_iter().collect(),
            unknown_function: gathered.unknown_function,
            calls: gathered.calls.into_iter().collect(),
            defines: gathered.defines.into_iter().collect(),
            lookup: state.lookup(),
        };
        let normalized = match texts.normalized {
            "" => format!("{kind} (text withheld: its literals cannot be told from its words)").into(),
            normalized => normalized.into(),
        };
        Self {
            text: texts.exact.into(),
            normalized,
            facts: Arc::new(Facts::Sql(facts)),
            usage: Arc::new(usage),
            control,
            makes,
            unsettles,
        }
    }

    /// Its facts.
    pub fn sql(&self) -> &SqlFacts {
        match &*self.facts {
            Facts::Sql(facts) => facts,
            // Only `new` makes the facts, of SQL.
            Facts::Http(_) => &NOT_SQL,
        }
    }

    /// Its class.
    pub fn class(&self) -> SqlClass {
        self.sql().class
    }

    /// Whether its names still mean what they meant. The server analyses a prepared statement anew when the search path
    /// has changed since (plancache.c), so one that no longer holds must be inspected anew before it runs.
    pub fn holds_in(&self, state: &SessionState) -> bool {
        self.usage.lookup == state.lookup()
    }

    /// The second parser's answer; the stricter class holds.
    fn hear(&mut self, other: SqlClass) {
        let Facts::Sql(facts) = Arc::make_mut(&mut self.facts) else { return };
        if facts.class == other || facts.class == SqlClass::Opaque {
            return;
        }
        facts.second_opinion = Some(other);
        if other.strictness() > facts.class.strictness() {
            facts.class = other;
            facts.risk = facts
                .risk
                .max(risk::risk(other, &facts.kind, facts.bounded, &BTreeSet::new(), false))
                .max(Risk::High);
        }
    }
}
