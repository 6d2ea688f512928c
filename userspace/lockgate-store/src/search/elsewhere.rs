//! Search in an index that is not tantivy's: what a record is found by there, and whether what was found is a hit.
//!
//! A mark is a word of the record's text, or a filter and its value (`target:orders`): words hold no colon, so that the
//! two never meet. Marks only narrow down; [`super::matching`] has the last word, on the record's own bytes.

use super::{
    Hit, Query,
    entry::{Entry, peek},
    known::{Known, Memory},
    matching::{Wanted, table_names, texts},
    words::{lower, words},
};
use crate::layout::At;
use lockgate_audit::Record;
use lockgate_model::{OperationId, RequestId, SessionId};
use std::collections::BTreeSet;

/// Longer values are marked, and looked for, by their beginning. PostgreSQL's lexemes end at 2 KiB.
const MAX_VALUE_BYTES: usize = 512;

/// Makes marks of the records of one log, in order.
#[derive(Default)]
pub(crate) struct Marker {
    memory: Memory,
}

impl Marker {
    /// What a line's record is found by; None when records of its kind are not searched.
    pub(crate) fn marks(&mut self, line: &[u8], record: &Record) -> Option<BTreeSet<String>> {
        let entry = entry(&mut self.memory, line, record)?;
        let mut marks: BTreeSet<String> =
            texts(&entry).flat_map(words).map(std::borrow::Cow::into_owned).collect();
        let hit = &entry.hit;
        marks.insert(mark("event", &hit.event));
        marks.extend(hit.session.map(|id| mark("session", &id.to_string())));
        marks.extend(hit.request.map(|id| mark("request", &id.to_string())));
        marks.extend(hit.operation.map(|id| mark("operation", &id.to_string())));
        marks.extend(hit.decision.map(|decided| mark("decision", decided.as_str())));
        for (name, value) in [
            ("target", &hit.target),
            ("repository", &hit.repository),
            ("class", &hit.class),
            ("digest", &hit.digest),
        ] {
            marks.extend(value.as_ref().map(|value| mark(name, value)));
        }
        marks.extend(hit.rules.iter().map(|rule| mark("rule", rule)));
        marks.extend(hit.tables.iter().flat_map(|table| table_names(table)).map(|name| mark("table", name)));
        Some(marks)
    }
}

/// What of earlier records a record's meaning depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depends {
    pub(crate) session: Option<SessionId>,
    pub(crate) operation: Option<OperationId>,
    pub(crate) request: Option<RequestId>,
}

/// Judges what was found for one query.
pub(crate) struct Judge {
    wanted: Wanted,
    memory: Memory,
}

impl Judge {
    pub(crate) fn of(query: &Query) -> Self {
        Self { wanted: Wanted::of(query), memory: Memory::default() }
    }

    /// Marks that every hit has; none when the query holds for everything.
    pub(crate) fn marks(&self) -> BTreeSet<String> {
        let Wanted { query, words, phrases, identity, approver } = &self.wanted;
        let mut marks: BTreeSet<String> =
            words.iter().chain(phrases.iter().flatten()).chain(identity).chain(approver).cloned().collect();
        marks.extend(query.session.map(|id| mark("session", &id.to_string())));
        marks.extend(query.request.map(|id| mark("request", &id.to_string())));
        marks.extend(query.decision.map(|decided| mark("decision", decided.as_str())));
        for (name, value) in [
            ("event", &query.event),
            ("target", &query.target),
            ("repository", &query.repository),
            ("class", &query.class),
            ("digest", &query.digest),
            ("rule", &query.rule),
            ("table", &query.table),
        ] {
            marks.extend(value.as_ref().map(|value| mark(name, value)));
        }
        marks
    }

    /// Hits of a page at most.
    pub(crate) fn limit(&self) -> usize {
        self.wanted.query.limit()
    }

    /// What a record's meaning depends on.
    pub(crate) fn depends(line: &[u8], record: &Record) -> Depends {
        let Some(entry) = entry(&mut Memory::default(), line, record) else { return Depends::default() };
        let Hit { session, operation, request, .. } = entry.hit;
        Depends { session, operation, request }
    }

    /// Takes in an earlier record that others depend on.
    pub(crate) fn learn(&mut self, line: &[u8], record: &Record) {
        let _ = entry(&mut self.memory, line, record);
    }

    /// What is shown of a record, when it is a hit. What it depends on was learnt.
    pub(crate) fn hit(&mut self, line: &[u8], record: &Record) -> Option<Hit> {
        let entry = entry(&mut self.memory, line, record)?;
        // Pages of an index elsewhere go back in its own order.
        let mut wanted = self.wanted.clone();
        wanted.query.before = None;
        wanted.admits(&entry).then(|| entry.into_hit())
    }
}

fn entry(memory: &mut Memory, line: &[u8], record: &Record) -> Option<Entry> {
    let (_, kind) = peek(line).ok()?;
    Some(Entry::of(record, kind?, At::default(), &mut Known { memory, index: None }))
}

fn mark(name: &str, value: &str) -> String {
    let mut value = lower(value).replace('\0', "");
    let mut end = value.len().min(MAX_VALUE_BYTES);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.truncate(end);
    format!("{name}:{value}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::sample;
    use lockgate_audit::{Chain, Encoded, Tip};

    #[test]
    fn every_mark_that_a_query_asks_for_is_on_the_records_that_fit() {
        let session = sample::session(1);
        let mut chain = Chain::resume(&"n".into(), Tip::EMPTY);
        let mut lines = Vec::new();
        for event in
            [sample::started(&session), sample::denied(&session, "DROP TABLE Public.Orders -- it's \"x\"")]
        {
            let mut line = Vec::new();
            chain.append(&Encoded::of(&event).unwrap(), &mut line);
            line.pop();
            lines.push(line);
        }
        let mut marker = Marker::default();
        let marks: Vec<_> =
            lines.iter().map(|line| marker.marks(line, &Record::decode(line).unwrap()).unwrap()).collect();
        for query in [
            Query { text: Some("\"drop table\" it".into()), ..Query::default() },
            Query {
                table: Some("ORDERS".into()),
                decision: Some(super::super::Decided::Denied),
                ..Query::default()
            },
            Query { identity: Some("UID 1001".into()), target: Some("Orders-1".into()), ..Query::default() },
            Query { rule: Some("no-drop".into()), session: Some(session.id), ..Query::default() },
        ] {
            let mut judge = Judge::of(&query);
            for line in &lines {
                judge.learn(line, &Record::decode(line).unwrap());
            }
            let line = &lines[1];
            assert!(judge.hit(line, &Record::decode(line).unwrap()).is_some(), "{query:?}");
            assert!(judge.marks().is_subset(&marks[1]), "{query:?}: {:?}", marks[1]);
        }
    }
}
