//! SQL text to facts and lineage.

pub mod catalogue;
mod control;
mod digest;
pub mod jsonl;
mod state;
mod usage;

pub use control::{Control, Setting};
pub use digest::{DigestParts, digest};
pub use state::{SearchPath, SessionState};
pub use usage::ColumnUsage;

use catalogue::CatalogueSnapshot;
use lockgate_model::{
    operation::Facts,
    sql::{Risk, SqlClass, SqlFacts},
};
use std::{collections::BTreeSet, sync::Arc};

/// Turns texts into statements. Holds bounds only.
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
}

impl Statement {
    /// Its facts.
    pub fn sql(&self) -> &SqlFacts {
        match &*self.facts {
            Facts::Sql(facts) => facts,
        }
    }

    /// Its class.
    pub fn class(&self) -> SqlClass {
        self.sql().class
    }
}

impl Inspector {
    /// The statements of a text, as the server would see them in this state.
    pub fn script(
        &self,
        text: &str,
        _state: &SessionState,
        _catalogue: Option<&CatalogueSnapshot>,
    ) -> Script {
        let statement = Statement {
            text: text.into(),
            normalized: "opaque".into(),
            facts: Arc::new(Facts::Sql(SqlFacts {
                class: SqlClass::Opaque,
                kind: "opaque".to_owned(),
                tables_read: Vec::new(),
                tables_written: Vec::new(),
                columns: Vec::new(),
                functions: Vec::new(),
                bounded: None,
                risk: Risk::Critical,
                fingerprint: String::new(),
                effects: BTreeSet::new(),
                opaque_reason: Some("the inspector is not wired yet".to_owned()),
                second_opinion: None,
            })),
            usage: Arc::new(ColumnUsage {
                lineage: usage::Lineage::Unknown,
                relations: Vec::new(),
                unknown_function: true,
                search_path: None,
            }),
            control: Control::Anything,
        };
        Script { statements: vec![Arc::new(statement)] }
    }
}
