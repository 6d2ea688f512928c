//! A line of a log as the database takes it: its bytes, and beside them what it is found by and counted as.

use crate::{
    fact::{Fact, FactKind},
    search::Marker,
    session::SessionSummary,
};
use lockgate_audit::Record;
use lockgate_model::{
    custody::{Custody, Removal},
    event::EventKind,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Write as _};

/// PostgreSQL takes text vectors below 1 MiB; what has more words is found by its filters and its first words.
const MAX_MARKS_BYTES: usize = 512 << 10;

/// Rows that are added together, column by column.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) seq: Vec<i64>,
    /// Microseconds since 1970.
    pub(super) at: Vec<i64>,
    pub(super) session: Vec<Option<String>>,
    pub(super) fact: Vec<i16>,
    pub(super) detail: Vec<Option<String>>,
    pub(super) words: Vec<Option<String>>,
    pub(super) line: Vec<Vec<u8>>,
    pub(super) bytes: usize,
}

impl Rows {
    pub(super) fn is_empty(&self) -> bool {
        self.seq.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.seq.len()
    }

    /// Takes a line in.
    pub(super) fn push(&mut self, line: &[u8], record: &Record, marker: &mut Marker) {
        let fact = Fact::of(&record.event);
        let (counted, detail) = meaning(record, &fact);
        let words = marker.marks(line, record).map(|mut marks| {
            // Retention looks for these.
            match &record.event.kind {
                EventKind::OperationDecided { verdict, .. }
                    if verdict.obligations.record.retain.is_some() =>
                {
                    marks.insert("retain:".to_owned());
                }
                EventKind::Custody(custody) => {
                    if let Custody::Removed(removal) = &**custody {
                        marks.insert(removal_mark(removal));
                    }
                }
                _ => {}
            }
            vector(&marks)
        });
        self.bytes += line.len() + words.as_ref().map_or(0, String::len);
        self.seq.push(record.seq.try_into().unwrap_or(i64::MAX));
        self.at.push(record.event.at.as_microsecond());
        self.session.push(fact.session.map(|id| id.to_string()));
        self.fact.push(counted);
        self.detail.push(detail.map(|detail| without_nul(detail).to_string()));
        self.words.push(words);
        self.line.push(line.to_vec());
    }

    /// The same without what is only for finding: for a line that the database does not take with it.
    pub(super) fn bare(&self, at: usize) -> Self {
        let pick = |session: &Vec<Option<String>>| vec![session.get(at).cloned().flatten()];
        Self {
            seq: self.seq.get(at).copied().into_iter().collect(),
            at: self.at.get(at).copied().into_iter().collect(),
            session: pick(&self.session),
            fact: vec![0],
            detail: vec![None],
            words: vec![None],
            line: self.line.get(at).cloned().into_iter().collect(),
            bytes: 0,
        }
    }

    /// One row alone.
    pub(super) fn one(&self, at: usize) -> Self {
        let mut one = self.bare(at);
        one.fact = self.fact.get(at).copied().into_iter().collect();
        one.detail = vec![self.detail.get(at).cloned().flatten()];
        one.words = vec![self.words.get(at).cloned().flatten()];
        one
    }
}

/// What a record that announces a removal is found by.
pub(super) fn removal_mark(removal: &Removal) -> String {
    format!("removed:{}-{}", removal.from, removal.to)
}

/// The numbers are the schema's (`lockgate.record.fact`).
fn meaning(record: &Record, fact: &Fact) -> (i16, Option<Value>) {
    match &fact.kind {
        FactKind::Started(_) => {
            let summary = SessionSummary::begin(record.seq, fact);
            (1, summary.and_then(|summary| serde_json::to_value(Opening::of(&summary)).ok()))
        }
        FactKind::Decided { denied: false } => (2, None),
        FactKind::Decided { denied: true } => (3, None),
        FactKind::Held(_) => (4, None),
        FactKind::Refused => (5, None),
        FactKind::Ended(ending) => {
            let detail = json!({
                "reason": ending.reason,
                "from": ending.bytes_from_client,
                "to": ending.bytes_to_client,
                "at": fact.at,
            });
            (6, Some(detail))
        }
        FactKind::Resolved(_) | FactKind::Shelved(_) | FactKind::Other => (0, None),
    }
}

/// A session's beginning, and how it is filtered.
#[derive(serde::Serialize)]
struct Opening<'a> {
    /// The summary as it was then.
    summary: &'a SessionSummary,
    target: &'a str,
    /// Id and name, lower-cased as the filter does it.
    who: String,
}

impl<'a> Opening<'a> {
    fn of(summary: &'a SessionSummary) -> Self {
        let principal = &summary.principal;
        let who = format!("{}\n{}", principal.id.to_lowercase(), principal.display.to_lowercase());
        Self { summary, target: summary.target.as_str(), who }
    }
}

/// PostgreSQL has no room for U+0000 in JSON.
fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(values) => Value::Array(values.into_iter().map(without_nul).collect()),
        Value::Object(members) => {
            let clean = |(name, value): (String, Value)| (name.replace('\0', "\u{fffd}"), without_nul(value));
            Value::Object(members.into_iter().map(clean).collect())
        }
        other => other,
    }
}

/// Marks as the text of a `tsvector`.
pub(super) fn vector(marks: &BTreeSet<String>) -> String {
    // Filters first, should there be no room for all: they hold a colon.
    let (filters, words): (Vec<_>, Vec<_>) = marks.iter().partition(|mark| mark.contains(':'));
    let mut text = String::new();
    // PostgreSQL knows no empty lexeme.
    for mark in filters.into_iter().chain(words).filter(|mark| !mark.is_empty()) {
        if text.len() + mark.len() > MAX_MARKS_BYTES {
            break;
        }
        quote(&mut text, mark);
        text.push(' ');
    }
    text
}

/// Marks as the text of a `tsquery` that asks for all of them.
pub(super) fn conjunction(marks: &BTreeSet<String>) -> String {
    let mut text = String::new();
    for mark in marks.iter().filter(|mark| !mark.is_empty()) {
        if !text.is_empty() {
            text.push_str(" & ");
        }
        quote(&mut text, mark);
    }
    text
}

/// A lexeme as PostgreSQL reads it: quotes and backslashes doubled.
fn quote(text: &mut String, mark: &str) {
    let _ = write!(text, "'{}'", mark.replace('\\', "\\\\").replace('\'', "''"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lexemes_are_quoted_and_filters_come_first() {
        let marks = BTreeSet::from([String::new(), "drop".to_owned(), "rule:it's \\ &|!".to_owned()]);
        assert_eq!(vector(&marks), "'rule:it''s \\\\ &|!' 'drop' ");
        assert_eq!(conjunction(&marks), "'drop' & 'rule:it''s \\\\ &|!'");
        let many = (0..200_000).map(|n| format!("word{n}")).collect();
        assert!(vector(&many).len() < MAX_MARKS_BYTES + 1000 * 3 + 200_000);
    }

    #[test]
    fn what_postgresql_has_no_room_for_is_replaced() {
        let value = json!({ "a\0": ["x\0y", { "b": "\0" }], "c": "plain \\u0000" });
        let clean = json!({ "a\u{fffd}": ["x\u{fffd}y", { "b": "\u{fffd}" }], "c": "plain \\u0000" });
        assert_eq!(without_nul(value), clean);
    }
}
