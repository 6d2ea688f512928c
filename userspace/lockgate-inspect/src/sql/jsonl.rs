//! The answer of `lockgate inspect sql --jsonl` to one input line.

use super::{Inspector, SessionState, Statement, catalogue::CatalogueSnapshot};
use lockgate_model::sql::{RelationName, Risk, SqlClass, SqlEffect};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A line of input: a statement, or a statement and what went before it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object(Object),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    sql: String,
    /// Texts that ran before in the same session.
    #[serde(default)]
    pre: Vec<String>,
    /// Parameters of the StartupMessage.
    #[serde(default)]
    startup: BTreeMap<String, String>,
}

/// A line of output.
#[derive(Serialize)]
struct Answer<'a> {
    class: SqlClass,
    statements: Vec<Told<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Told<'a> {
    class: SqlClass,
    kind: &'a str,
    tables_read: &'a [RelationName],
    tables_written: &'a [RelationName],
    columns: &'a [String],
    bounded: Option<bool>,
    risk: Risk,
    fingerprint: &'a str,
    functions: &'a [String],
    effects: &'a BTreeSet<SqlEffect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    opaque_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    second_opinion: Option<SqlClass>,
}

impl<'a> Told<'a> {
    fn of(statement: &'a Arc<Statement>) -> Self {
        let facts = statement.sql();
        Self {
            class: facts.class,
            kind: &facts.kind,
            tables_read: &facts.tables_read,
            tables_written: &facts.tables_written,
            columns: &facts.columns,
            bounded: facts.bounded,
            risk: facts.risk,
            fingerprint: &facts.fingerprint,
            functions: &facts.functions,
            effects: &facts.effects,
            opaque_reason: facts.opaque_reason.as_deref(),
            second_opinion: facts.second_opinion,
        }
    }
}

/// One JSON object for one input line, without the line's end. It never fails: a line that is not a statement is answered
/// `opaque` with an `error`. With a catalogue its names mean what they mean there. An empty text is a read of no statements, as the server answers it.
pub fn answer(line: &str, catalogue: Option<&CatalogueSnapshot>) -> String {
    match serde_json::from_str(line) {
        Ok(Line::Text(sql)) => inspect(&sql, &[], &BTreeMap::new(), catalogue),
        Ok(Line::Object(object)) => inspect(&object.sql, &object.pre, &object.startup, catalogue),
        Err(error) => write(&Answer {
            class: SqlClass::Opaque,
            statements: Vec::new(),
            error: Some(format!(
                "expected a JSON string, or an object with \"sql\" and optionally \"pre\" and \"startup\": {error}"
            )),
        }),
    }
}

fn inspect(
    sql: &str,
    pre: &[String],
    startup: &BTreeMap<String, String>,
    catalogue: Option<&CatalogueSnapshot>,
) -> String {
    let inspector = Inspector;
    let startup: Vec<(String, String)> =
        startup.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let mut state = SessionState::from_startup(&startup);
    for text in pre {
        for statement in inspector.script(text, &state, catalogue).statements {
            state.apply(&statement);
        }
    }
    let script = inspector.script(sql, &state, catalogue);
    write(&Answer {
        class: script.class(),
        statements: script.statements.iter().map(Told::of).collect(),
        error: None,
    })
}

fn write(answer: &Answer<'_>) -> String {
    serde_json::to_string(answer).unwrap_or_else(|error| {
        // Text and enums always serialize; should that change, the answer is still one line and still strict.
        format!("{{\"class\":\"opaque\",\"statements\":[],\"error\":{:?}}}", error.to_string())
    })
}
