//! Search in the shared store: the database names candidates, the newest first; each is judged by its own bytes.

use super::{
    row::conjunction,
    shared::{Shared, decode, unsigned},
};
use crate::{
    error::StoreError,
    search::{Found, Hit, Judge, Query},
};
use lockgate_audit::Record;
use lockgate_model::Timestamp;
use std::{collections::BTreeSet, time::Instant};

/// Candidates that are judged for one page at most: more than a page's where words stand in a record and not beside each
/// other as the query has them.
const MAX_CANDIDATES: usize = 5_000;
/// Candidates that are read at once, in multiples of what the page lacks.
const SPARE: usize = 2;

/// A candidate.
struct Candidate {
    arrival: u64,
    node: String,
    line: Vec<u8>,
    record: Record,
}

impl Shared {
    /// A page of hits, the last to arrive first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn search(&self, query: &Query) -> Result<Found, StoreError> {
        let began = Instant::now();
        let mut judge = Judge::of(query);
        let marks = judge.marks();
        let (mut hits, mut looked_at, mut more) = (Vec::<(u64, Hit)>::new(), 0, false);
        let mut before = query.before;
        'pages: loop {
            let wanted = (judge.limit().saturating_sub(hits.len()) + 1) * SPARE;
            let candidates = self.candidates(query, &marks, before, wanted)?;
            let last = candidates.len() < wanted;
            self.teach(&mut judge, &candidates)?;
            for Candidate { arrival, node, line, record } in candidates {
                if looked_at >= MAX_CANDIDATES {
                    more = true;
                    break 'pages;
                }
                (before, looked_at) = (Some(arrival), looked_at + 1);
                let Some(mut hit) = judge.hit(&line, &record) else { continue };
                if hits.len() >= judge.limit() {
                    more = true;
                    break 'pages;
                }
                hit.node = Some(node.as_str().into());
                hits.push((arrival, hit));
            }
            if last {
                break;
            }
        }
        let newest = self.chains()?.iter().map(|chain| chain.records).max().unwrap_or(0);
        let next = match (more, hits.last()) {
            (true, Some((arrival, _))) => Some(*arrival),
            // Everything that was looked at was no hit: the next page goes on behind it.
            (true, None) => before,
            (false, _) => None,
        };
        Ok(Found {
            hits: hits.into_iter().map(|(_, hit)| hit).collect(),
            next,
            indexed: newest,
            last: newest,
            complete: true,
            elapsed_micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    fn candidates(
        &self,
        query: &Query,
        marks: &BTreeSet<String>,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Candidate>, StoreError> {
        const CANDIDATES: &str = "
            SELECT arrival, node, line FROM lockgate.record
            WHERE words IS NOT NULL
                AND ($1::text IS NULL OR node = $1)
                AND arrival < $2
                AND at >= 'epoch'::timestamptz + $3::bigint * interval '1 microsecond'
                AND at <= 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'";
        let node = self.node();
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        // The ends of what PostgreSQL counts to, about: years 0 and 9999.
        let since = query.since.map_or(-62_167_219_200_000_000, |since| since.as_microsecond() - 1);
        let until =
            query.until.map_or(253_402_300_800_000_000, |until: Timestamp| until.as_microsecond() + 1);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // A condition that is always there would keep the planner from the index that serves the order.
        let words = conjunction(marks);
        let words = &words;
        let rows = self.with(|database| {
            database.ask("search", |client| async move {
                if words.is_empty() {
                    let sql = format!("{CANDIDATES} ORDER BY arrival DESC LIMIT $5");
                    client.query(&sql, &[&node, &before, &since, &until, &limit]).await
                } else {
                    let sql =
                        format!("{CANDIDATES} AND words @@ $6::text::tsquery ORDER BY arrival DESC LIMIT $5");
                    client.query(&sql, &[&node, &before, &since, &until, &limit, words]).await
                }
            })
        })?;
        let candidate = |row: &tokio_postgres::Row| {
            let line: Vec<u8> = row.get(2);
            let record = decode(&line)?;
            Ok(Candidate { arrival: unsigned(row.get(0)), node: row.get(1), line, record })
        };
        rows.iter().map(candidate).collect()
    }

    /// Reads what candidates depend on: how their sessions began, what their operations were decided as.
    fn teach(&self, judge: &mut Judge, candidates: &[Candidate]) -> Result<(), StoreError> {
        let (mut sessions, mut operations, mut requests) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for Candidate { line, record, .. } in candidates {
            let depends = Judge::depends(line, record);
            sessions.extend(depends.session.map(|id| id.to_string()));
            operations.extend(depends.operation.map(|id| id.to_string()));
            requests.extend(depends.request.map(|id| id.to_string()));
        }
        let asked = self.marked("request", "approval_requested", &requests)?;
        for (line, record) in &asked {
            operations.extend(Judge::depends(line, record).operation.map(|id| id.to_string()));
        }
        let decided = self.marked("operation", "operation_decided", &operations)?;
        for (line, record) in &decided {
            sessions.extend(Judge::depends(line, record).session.map(|id| id.to_string()));
        }
        let started = self.marked("session", "session_started", &sessions)?;
        for (line, record) in started.iter().chain(&decided).chain(&asked) {
            judge.learn(line, record);
        }
        Ok(())
    }

    /// The records of a kind that carry one of these ids.
    fn marked(
        &self,
        name: &str,
        event: &str,
        ids: &BTreeSet<String>,
    ) -> Result<Vec<(Vec<u8>, Record)>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let node = self.node();
        let any: Vec<String> = ids.iter().map(|id| format!("'{name}:{}'", id.to_lowercase())).collect();
        let words = format!("'event:{event}' & ( {} )", any.join(" | "));
        let words = &words;
        let rows = self.with(|database| {
            database.ask("search", |client| async move {
                let marked = "SELECT line FROM lockgate.record WHERE words @@ $1::text::tsquery AND ($2::text IS NULL OR node = $2)";
                client.query(marked, &[words, &node]).await
            })
        })?;
        rows.iter().map(|row| decode(row.get(0)).map(|record| (row.get(0), record))).collect()
    }
}
