//! tantivy, and the only file that knows its fields.
//!
//! It holds terms and places, no texts: what is shown is read from the log. What it says is a hint.

use super::{
    entry::Entry,
    files::Files,
    matching::{Wanted, table_names, texts},
    words::{MAX_WORD_BYTES, lower},
};
use crate::layout::At;
use lockgate_audit::ChainHash;
use lockgate_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::{fs, io, ops::Bound, os::unix::fs::DirBuilderExt, path::Path};
use tantivy::{
    DocAddress, Index, IndexReader, IndexSettings, IndexWriter, Order, ReloadPolicy, TantivyDocument,
    TantivyError, Term,
    collector::TopDocs,
    indexer::IndexWriterOptions,
    query::{AllQuery, BooleanQuery, Occur, PhraseQuery, Query, RangeQuery, TermQuery},
    schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
    tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer},
};

/// The tokenizer that cuts as [`super::words`] does.
const WORDS: &str = "lockgate-words";

/// What is gathered before it goes to disk, in bytes: tantivy's least.
const MEMORY_BYTES: usize = 15_000_000;

/// The shape of what is stored; another one is built anew from the log.
const FORMAT: u32 = 2;

/// Words of a phrase that the index looks at; the record is asked about the rest.
const PHRASE_WORDS: usize = 16;

/// Why the index cannot be used. Never more than a reason to read the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// tantivy's words.
    #[error("the search index failed: {0}")]
    Tantivy(#[from] TantivyError),
    /// Its directory.
    #[error("the search index cannot be kept: {0}")]
    Io(#[from] io::Error),
    /// It is not what this build writes, or not of this log.
    #[error("the search index is of another shape or log: {0}")]
    Other(String),
}

/// How far the index has come; rests with each commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Through {
    format: u32,
    pub(super) seq: u64,
    pub(super) segment: u64,
    /// Where the record's line begins.
    pub(super) offset: u64,
    /// Where it ends.
    pub(super) end: u64,
    pub(super) hash: ChainHash,
}

impl Through {
    pub(super) fn new(seq: u64, at: At, end: u64, hash: ChainHash) -> Self {
        Self { format: FORMAT, seq, segment: at.segment, offset: at.offset, end, hash }
    }
}

#[derive(Clone, Copy)]
struct Fields {
    seq: Field,
    at: Field,
    segment: Field,
    offset: Field,
    event: Field,
    session: Field,
    request: Field,
    operation: Field,
    target: Field,
    repository: Field,
    class: Field,
    table: Field,
    decision: Field,
    rule: Field,
    digest: Field,
    identity: Field,
    approver: Field,
    words: Field,
}

impl Fields {
    fn schema() -> (Schema, Self) {
        let mut schema = Schema::builder();
        let terms = |tokenizer: &str| {
            // Where words stand next to each other counts: without it each that holds them all is read from the log.
            let option = match tokenizer {
                WORDS => IndexRecordOption::WithFreqsAndPositions,
                _ => IndexRecordOption::Basic,
            };
            let indexing = TextFieldIndexing::default()
                .set_tokenizer(tokenizer)
                .set_index_option(option)
                .set_fieldnorms(false);
            TextOptions::default().set_indexing_options(indexing)
        };
        let mut exact = |name: &str| schema.add_text_field(name, terms("raw"));
        let [event, session, request, operation] =
            ["event", "session", "request", "operation"].map(&mut exact);
        let [target, repository, class, table] = ["target", "repository", "class", "table"].map(&mut exact);
        let [decision, rule, digest] = ["decision", "rule", "digest"].map(&mut exact);
        let [identity, approver, words] =
            ["identity", "approver", "words"].map(|name| schema.add_text_field(name, terms(WORDS)));
        let fields = Self {
            seq: schema.add_u64_field("seq", FAST | INDEXED),
            at: schema.add_i64_field("at", FAST),
            segment: schema.add_u64_field("segment", FAST),
            offset: schema.add_u64_field("offset", FAST),
            event,
            session,
            request,
            operation,
            target,
            repository,
            class,
            table,
            decision,
            rule,
            digest,
            identity,
            approver,
            words,
        };
        (schema.build(), fields)
    }
}

/// The index, for searching.
#[derive(Clone)]
pub(crate) struct Table {
    index: Index,
    reader: IndexReader,
    fields: Fields,
}

/// The index, for writing: one at a time.
pub(super) struct TableWriter {
    writer: IndexWriter,
    fields: Fields,
}

impl Table {
    /// Opens what rests and tells how far it goes; None for an empty one.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Through>), TableError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let (schema, fields) = Fields::schema();
        let files = Files::open(dir)?;
        let index =
            Index::builder().schema(schema).settings(IndexSettings::default()).open_or_create(files)?;
        let words = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(LowerCaser)
            .filter(RemoveLongFilter::limit(MAX_WORD_BYTES))
            .build();
        index.tokenizers().register(WORDS, words);
        let damaged = index.validate_checksum().map_err(|error| TableError::Other(error.to_string()))?;
        if let Some(file) = damaged.iter().next() {
            return Err(TableError::Other(format!("{} is damaged", file.display())));
        }
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        let through = match index.load_metas()?.payload {
            None => None,
            Some(payload) => {
                let through: Through =
                    serde_json::from_str(&payload).map_err(|error| TableError::Other(error.to_string()))?;
                if through.format != FORMAT {
                    return Err(TableError::Other(format!("format {}", through.format)));
                }
                Some(through)
            }
        };
        Ok((Self { index, reader, fields }, through))
    }

    /// The writing end. Its threads inherit the priority of the calling one.
    pub(super) fn writer(&self) -> Result<TableWriter, TableError> {
        let options = IndexWriterOptions::builder()
            .num_worker_threads(1)
            .num_merge_threads(1)
            .memory_budget_per_thread(MEMORY_BYTES)
            .build();
        Ok(TableWriter { writer: self.index.writer_with_options(options)?, fields: self.fields })
    }

    /// Shows what was committed.
    pub(super) fn reload(&self) -> Result<(), TableError> {
        Ok(self.reader.reload()?)
    }

    /// Places of records that may fit, newest first: those before number `before` and not before `first`.
    pub(super) fn candidates(
        &self,
        wanted: &Wanted,
        first: u64,
        before: u64,
        limit: usize,
    ) -> Result<Vec<(u64, At)>, TableError> {
        let mut clauses = self.clauses(wanted);
        let seq = |seq: u64| Term::from_field_u64(self.fields.seq, seq);
        if first > 1 || before != u64::MAX {
            let range = RangeQuery::new(Bound::Included(seq(first)), Bound::Excluded(seq(before)));
            clauses.push(Box::new(range));
        }
        let query: Box<dyn Query> = if clauses.is_empty() {
            Box::new(AllQuery)
        } else {
            Box::new(BooleanQuery::intersection(clauses))
        };
        let searcher = self.reader.searcher();
        let newest = TopDocs::with_limit(limit).order_by_fast_field::<u64>("seq", Order::Desc);
        let found = searcher.search(&query, &newest)?;
        let mut places = Vec::with_capacity(found.len());
        for (seq, address) in found {
            if let Some(seq) = seq {
                places.push((seq, self.at(&searcher, address)?));
            }
        }
        Ok(places)
    }

    /// The first record of a kind about something.
    pub(super) fn first(&self, field: &str, value: &str, event: &str) -> Result<Option<At>, TableError> {
        let field = self.index.schema().get_field(field)?;
        let query = BooleanQuery::new(vec![
            (Occur::Must, exact(field, value)),
            (Occur::Must, exact(self.fields.event, event)),
        ]);
        let searcher = self.reader.searcher();
        let oldest = TopDocs::with_limit(1).order_by_fast_field::<u64>("seq", Order::Asc);
        let found = searcher.search(&query, &oldest)?;
        found.first().map(|(_, address)| self.at(&searcher, *address)).transpose()
    }

    fn at(&self, searcher: &tantivy::Searcher, address: DocAddress) -> Result<At, TableError> {
        let columns = searcher.segment_reader(address.segment_ord).fast_fields();
        let number = |name: &str| -> Result<u64, TableError> {
            let value = columns.u64(name)?.first(address.doc_id);
            value.ok_or_else(|| TableError::Other(format!("an entry has no {name}")))
        };
        Ok(At { segment: number("segment")?, offset: number("offset")? })
    }

    fn clauses(&self, wanted: &Wanted) -> Vec<Box<dyn Query>> {
        let (fields, query) = (&self.fields, &wanted.query);
        let session = query.session.map(|id| id.to_string());
        let request = query.request.map(|id| id.to_string());
        let exact_filters = [
            (fields.event, query.event.as_deref()),
            (fields.session, session.as_deref()),
            (fields.request, request.as_deref()),
            (fields.target, query.target.as_deref()),
            (fields.repository, query.repository.as_deref()),
            (fields.class, query.class.as_deref()),
            (fields.table, query.table.as_deref()),
            (fields.decision, query.decision.map(super::Decided::as_str)),
            (fields.rule, query.rule.as_deref()),
            (fields.digest, query.digest.as_deref()),
        ];
        let mut clauses: Vec<Box<dyn Query>> =
            exact_filters.into_iter().filter_map(|(field, value)| Some(exact(field, value?))).collect();
        clauses.extend(wanted.words.iter().map(|word| term(fields.words, word)));
        let phrases = wanted.phrases.iter().map(|phrase| (fields.words, phrase));
        let names = [(fields.identity, &wanted.identity), (fields.approver, &wanted.approver)];
        clauses.extend(phrases.chain(names).filter_map(|(field, words)| phrase(field, words)));
        if query.since.is_some() || query.until.is_some() {
            let at = |at: Timestamp| Term::from_field_i64(fields.at, at.as_microsecond());
            let from = query.since.map_or(Bound::Unbounded, |since| Bound::Included(at(since)));
            // The microsecond that the bound falls into is in: the record itself decides.
            let to = query.until.map_or(Bound::Unbounded, |until| Bound::Included(at(until)));
            clauses.push(Box::new(RangeQuery::new(from, to)));
        }
        clauses
    }
}

/// Words next to each other; None without any.
fn phrase(field: Field, words: &[String]) -> Option<Box<dyn Query>> {
    match words {
        [] => None,
        [word] => Some(term(field, word)),
        words => {
            let words = words.iter().take(PHRASE_WORDS);
            Some(Box::new(PhraseQuery::new(words.map(|word| Term::from_field_text(field, word)).collect())))
        }
    }
}

fn exact(field: Field, value: &str) -> Box<dyn Query> {
    term(field, &lower(value))
}

fn term(field: Field, value: &str) -> Box<dyn Query> {
    Box::new(TermQuery::new(Term::from_field_text(field, value), IndexRecordOption::Basic))
}

impl TableWriter {
    /// Takes an entry; it is found after the next commit.
    pub(super) fn add(&self, entry: &Entry) -> Result<(), TableError> {
        let (fields, hit) = (&self.fields, &entry.hit);
        let mut document = TantivyDocument::default();
        document.add_u64(fields.seq, hit.seq);
        document.add_i64(fields.at, hit.at.as_microsecond());
        document.add_u64(fields.segment, entry.at.segment);
        document.add_u64(fields.offset, entry.at.offset);
        let mut exact = |field: Field, value: &str| document.add_text(field, lower(value));
        exact(fields.event, &hit.event);
        hit.session.iter().for_each(|id| exact(fields.session, &id.to_string()));
        hit.request.iter().for_each(|id| exact(fields.request, &id.to_string()));
        hit.operation.iter().for_each(|id| exact(fields.operation, &id.to_string()));
        hit.target.iter().for_each(|name| exact(fields.target, name));
        hit.repository.iter().for_each(|name| exact(fields.repository, name));
        hit.class.iter().for_each(|class| exact(fields.class, class));
        hit.tables.iter().flat_map(|table| table_names(table)).for_each(|name| exact(fields.table, name));
        hit.decision.iter().for_each(|decision| exact(fields.decision, decision.as_str()));
        hit.rules.iter().for_each(|rule| exact(fields.rule, rule));
        hit.digest.iter().for_each(|digest| exact(fields.digest, digest));
        hit.identity.iter().chain(&hit.display).for_each(|name| document.add_text(fields.identity, name));
        hit.approvers.iter().for_each(|name| document.add_text(fields.approver, name));
        texts(entry).for_each(|text| document.add_text(fields.words, text));
        self.writer.add_document(document)?;
        Ok(())
    }

    /// Lets go of records before number `first`: the log has them no more.
    pub(super) fn forget_before(&self, first: u64) -> Result<(), TableError> {
        let bound = Term::from_field_u64(self.fields.seq, first);
        self.writer.delete_query(Box::new(RangeQuery::new(Bound::Unbounded, Bound::Excluded(bound))))?;
        Ok(())
    }

    /// Makes what was added findable, and durable as one.
    pub(super) fn commit(&mut self, through: Through) -> Result<(), TableError> {
        let payload = serde_json::to_string(&through).map_err(io::Error::from)?;
        let mut commit = self.writer.prepare_commit()?;
        commit.set_payload(&payload);
        commit.commit()?;
        Ok(())
    }
}
