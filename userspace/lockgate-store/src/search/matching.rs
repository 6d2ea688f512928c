//! Whether an entry is a hit: the one definition of what a query means. The index may only narrow down.

use super::{
    Query,
    entry::Entry,
    words::{holds_phrase, lower, words},
};
use std::borrow::Cow;

/// A query, cut into words once.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) query: Query,
    /// Of the free text: words anywhere, and phrases.
    pub(super) words: Vec<String>,
    pub(super) phrases: Vec<Vec<String>>,
    pub(super) identity: Vec<String>,
    pub(super) approver: Vec<String>,
}

impl Wanted {
    pub(super) fn of(query: &Query) -> Self {
        let (mut loose, mut phrases) = (Vec::new(), Vec::new());
        for (number, part) in query.text.as_deref().unwrap_or_default().split('"').enumerate() {
            let cut = cut(part);
            if number % 2 == 1 && cut.len() > 1 {
                phrases.push(cut);
            } else {
                loose.extend(cut);
            }
        }
        Self {
            words: loose,
            phrases,
            identity: cut(query.identity.as_deref().unwrap_or_default()),
            approver: cut(query.approver.as_deref().unwrap_or_default()),
            query: query.clone(),
        }
    }

    /// Whether it is a hit.
    pub(super) fn admits(&self, entry: &Entry) -> bool {
        let (query, hit) = (&self.query, &entry.hit);
        query.before.is_none_or(|before| hit.seq < before)
            && query.since.is_none_or(|since| hit.at >= since)
            && query.until.is_none_or(|until| hit.at < until)
            && query.session.is_none_or(|session| hit.session == Some(session))
            && query.request.is_none_or(|request| hit.request == Some(request))
            && query.decision.is_none_or(|decision| hit.decision == Some(decision))
            && same(query.event.as_deref(), [&hit.event])
            && same(query.target.as_deref(), &hit.target)
            && same(query.repository.as_deref(), &hit.repository)
            && same(query.class.as_deref(), &hit.class)
            && same(query.digest.as_deref(), &hit.digest)
            && same(query.rule.as_deref(), &hit.rules)
            && query.table.as_deref().is_none_or(|table| is_among(table, &hit.tables))
            && self.names(entry)
            && self.says(entry)
    }

    fn names(&self, entry: &Entry) -> bool {
        let hit = &entry.hit;
        is_named(&self.identity, hit.identity.iter().chain(&hit.display))
            && is_named(&self.approver, &hit.approvers)
            // A filter that holds no word (`--`) is nobody's name.
            && (self.query.identity.is_none() || !self.identity.is_empty())
            && (self.query.approver.is_none() || !self.approver.is_empty())
    }

    fn says(&self, entry: &Entry) -> bool {
        if self.words.is_empty() && self.phrases.is_empty() {
            return true;
        }
        let parts = texts(entry);
        let all: Vec<Vec<Cow<'_, str>>> = parts.map(|text| words(text).collect()).collect();
        self.words.iter().all(|wanted| all.iter().flatten().any(|word| word == wanted))
            && self.phrases.iter().all(|phrase| all.iter().any(|words| holds_phrase(words, phrase)))
    }
}

/// Everything that free text looks at.
pub(super) fn texts(entry: &Entry) -> impl Iterator<Item = &str> {
    let hit = &entry.hit;
    let named = hit.identity.iter().chain(&hit.display).chain(&hit.target).chain(&hit.digest);
    named
        .chain(&hit.tables)
        .chain(&hit.rules)
        .chain(&hit.approvers)
        .map(String::as_str)
        .chain([hit.text.as_str(), entry.more.as_str()])
}

/// The names that a table is found by: with its schema and without.
pub(super) fn table_names(table: &str) -> impl Iterator<Item = &str> {
    std::iter::once(table).chain(table.split_once('.').map(|(_, name)| name))
}

fn is_named<'a>(wanted: &[String], names: impl IntoIterator<Item = &'a String>) -> bool {
    let holds = |name: &String| holds_phrase(&words(name).collect::<Vec<_>>(), wanted);
    wanted.is_empty() || names.into_iter().any(holds)
}

fn cut(text: &str) -> Vec<String> {
    words(text).filter(|word| !word.is_empty()).map(Cow::into_owned).collect()
}

fn is_among(wanted: &str, tables: &[String]) -> bool {
    let wanted = lower(wanted);
    tables.iter().flat_map(|table| table_names(table)).any(|name| lower(name) == wanted)
}

fn same<'a>(wanted: Option<&str>, values: impl IntoIterator<Item = &'a String>) -> bool {
    wanted.is_none_or(|wanted| values.into_iter().any(|value| lower(value) == lower(wanted)))
}
