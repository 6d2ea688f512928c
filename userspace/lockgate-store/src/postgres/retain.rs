//! Retention in the shared store: whole weeks go, and legal holds keep them. The rules are the embedded store's
//! ([`crate::Plan`]): what keeps a session's record keeps the session, sessions that run stay, what no signed head covers
//! stays, and the hashes of what went are kept, so that the rest still verifies. For the schema's owner alone.

use super::{
    connect::Database,
    shared::{Shared, decode},
};
use crate::error::StoreError;
use lockgate_model::{Timestamp, custody::Hold, event::EventKind, time::format_duration};
use serde::Serialize;
use std::time::Duration;

/// Hashing a week of records of a large fleet.
const WEEK_WITHIN: Duration = Duration::from_secs(3600);
/// What a week holds.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Records of a week that a policy wants kept, read at once.
const RETAINED_AT_ONCE: i64 = 1000;

/// What retention did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Expired {
    /// The rule.
    pub policy: String,
    /// Weeks that are over their time, oldest first.
    pub weeks: Vec<Week>,
}

/// One week of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Week {
    /// Its first moment.
    pub from: Timestamp,
    /// Records in it.
    pub records: u64,
    /// Why it stays all the same; None: it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    #[serde(skip)]
    table: String,
}

impl Shared {
    /// The legal holds in force, by name.
    ///
    /// # Errors
    /// When the database cannot be asked, or one cannot be read: retention must not go on without it.
    pub fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let rows = self.with(|database| {
            database.ask("list the holds of", |client| async move {
                client.query("SELECT hold::text FROM lockgate.hold ORDER BY name", &[]).await
            })
        })?;
        let hold = |row: &tokio_postgres::Row| {
            serde_json::from_str(row.get(0)).map_err(|error| StoreError::Database {
                action: "read a hold of",
                what: "the database".to_owned(),
                code: None,
                why: error.to_string(),
            })
        };
        rows.iter().map(hold).collect()
    }

    /// Puts a hold in force.
    ///
    /// # Errors
    /// When it does not rest.
    pub fn place(&self, hold: &Hold) -> Result<(), StoreError> {
        let text = serde_json::to_string(hold).map_err(|error| StoreError::NotProven(error.to_string()))?;
        let (name, text) = (&hold.name, &text);
        self.with(|database| {
            database.ask("place a hold in", |client| async move {
                let place = "INSERT INTO lockgate.hold (name, hold) VALUES ($1, $2::text::jsonb) \
                             ON CONFLICT (name) DO UPDATE SET hold = excluded.hold";
                client.execute(place, &[name, text]).await
            })
        })
        .map(drop)
    }

    /// Takes one out of force; false when there is none of the name.
    ///
    /// # Errors
    /// When it is still there.
    pub fn release(&self, name: &str) -> Result<bool, StoreError> {
        let released = self.with(|database| {
            database.ask("release a hold in", |client| async move {
                client.execute("DELETE FROM lockgate.hold WHERE name = $1", &[&name]).await
            })
        })?;
        Ok(released > 0)
    }

    /// Removes the weeks that ended longer than `keep` ago and that nothing keeps; only tells of them when `dry`.
    ///
    /// # Errors
    /// When the database cannot be asked, or the role may not: what was removed before is removed.
    pub fn expire(&self, keep: Duration, now: Timestamp, dry: bool) -> Result<Expired, StoreError> {
        let holds = self.holds()?;
        let mut expired =
            Expired { policy: format!("retention {}", format_duration(keep)), weeks: Vec::new() };
        for (table, from) in self.weeks()? {
            if from + WEEK + keep >= now {
                continue;
            }
            let week = self.with(|database| {
                let kept = why_kept(database, &table, &holds, now)?;
                let records = count(database, &table)?;
                if kept.is_none() && !dry {
                    remove(database, &table)?;
                }
                Ok(Week { from, records, kept, table: table.clone() })
            })?;
            if week.kept.is_none() && !dry {
                tracing::info!(
                    table = week.table,
                    records = week.records,
                    "a week of records was removed; their hashes stay"
                );
            }
            expired.weeks.push(week);
        }
        Ok(expired)
    }

    /// Partitions of weeks and their first moments, oldest first.
    fn weeks(&self) -> Result<Vec<(String, Timestamp)>, StoreError> {
        let rows = self.with(|database| {
            database.simple(
                "list the partitions of",
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
                 WHERE inhparent = 'lockgate.record'::regclass ORDER BY relname",
            )
        })?;
        let week = |name: &String| {
            let day = name.strip_prefix("record_")?.replace('_', "-");
            Some((name.clone(), format!("{day}T00:00:00Z").parse().ok()?))
        };
        Ok(rows.iter().filter_map(|row| row.first().and_then(week)).collect())
    }
}

fn count(database: &Database, table: &str) -> Result<u64, StoreError> {
    let sql = format!("SELECT count(*) FROM lockgate.{table}");
    let rows = database.simple("count records of", &sql)?;
    Ok(rows.first().and_then(|row| row.first()).and_then(|count| count.parse().ok()).unwrap_or(0))
}

/// What keeps a week, if anything does. The table's name is one that [`Shared::weeks`] read as a day.
fn why_kept(
    database: &Database,
    table: &str,
    holds: &[Hold],
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let unsigned_records = format!(
        "SELECT node FROM lockgate.{table} GROUP BY node \
         HAVING max(seq) > coalesce((SELECT max(size) FROM lockgate.head WHERE head.node = {table}.node), 0) LIMIT 1"
    );
    if let Some(row) = database.simple("look at", &unsigned_records)?.first() {
        return Ok(Some(format!("no signed head covers all records of node {}", row.join(""))));
    }
    let open = format!(
        "SELECT id FROM lockgate.session AS s WHERE ended IS NULL \
         AND EXISTS (SELECT FROM lockgate.{table} AS r WHERE r.session = s.id AND r.node = s.node) LIMIT 1"
    );
    if let Some(row) = database.simple("look at", &open)?.first() {
        return Ok(Some(format!("session {} is open", row.join(""))));
    }
    for hold in holds {
        if is_held(database, table, hold)? {
            return Ok(Some(format!("hold {}", hold.name)));
        }
    }
    retained(database, table, now)
}

fn is_held(database: &Database, table: &str, hold: &Hold) -> Result<bool, StoreError> {
    let since = hold.since.map(Timestamp::as_microsecond);
    let until = hold.until.map(Timestamp::as_microsecond);
    let (session, identity) = (hold.session.map(|id| id.to_string()), &hold.identity);
    let session = &session;
    let in_time = "($1::bigint IS NULL OR q.at >= 'epoch'::timestamptz + $1 * interval '1 microsecond') \
                   AND ($2::bigint IS NULL OR q.at < 'epoch'::timestamptz + $2 * interval '1 microsecond')";
    let rows = if session.is_none() && identity.is_none() {
        let sql = format!("SELECT FROM lockgate.{table} AS q WHERE {in_time} LIMIT 1");
        let sql = &sql;
        database.ask("look for what a hold names in", |client| async move {
            client.query(sql, &[&since, &until]).await
        })?
    } else {
        let sql = format!(
            "SELECT FROM lockgate.session AS s WHERE ($3::text IS NULL OR s.id = $3) \
                AND ($4::text IS NULL OR s.opening #>> '{{summary,principal,id}}' = $4) \
                AND EXISTS (SELECT FROM lockgate.{table} AS r WHERE r.session = s.id AND r.node = s.node) \
                AND EXISTS (SELECT FROM lockgate.record AS q WHERE q.session = s.id AND q.node = s.node AND {in_time}) LIMIT 1"
        );
        let sql = &sql;
        database.ask("look for what a hold names in", |client| async move {
            client.query(sql, &[&since, &until, session, identity]).await
        })?
    };
    Ok(!rows.is_empty())
}

/// Sessions that the policy wants kept for longer are marked so ([`super::row`]).
fn retained(database: &Database, table: &str, now: Timestamp) -> Result<Option<String>, StoreError> {
    let sql = format!(
        "SELECT q.arrival, q.line FROM lockgate.record AS q WHERE q.words @@ '''retain:'''::tsquery AND q.arrival > $1 \
         AND EXISTS (SELECT FROM lockgate.{table} AS r WHERE r.session = q.session AND r.node = q.node) \
         ORDER BY q.arrival LIMIT $2"
    );
    let mut after = -1_i64;
    loop {
        let (sql, from) = (&sql, after);
        let rows = database.ask("look for what a policy retains in", |client| async move {
            client.query(sql, &[&from, &RETAINED_AT_ONCE]).await
        })?;
        let Some(last) = rows.last() else { return Ok(None) };
        after = last.get(0);
        for row in &rows {
            let record = decode(row.get(1))?;
            let EventKind::OperationDecided { verdict, .. } = &record.event.kind else { continue };
            let retain = verdict.obligations.record.retain;
            if let (Some(retain), Some(session)) = (retain, record.event.session)
                && record.event.at + retain >= now
            {
                let until = record.event.at + retain;
                return Ok(Some(format!("the policy retains records of session {session} until {until}")));
            }
        }
    }
}

/// Hashes first, then the week and what is shown of sessions that have no record left, in one transaction.
fn remove(database: &Database, table: &str) -> Result<(), StoreError> {
    let sql = format!(
        "BEGIN;
         LOCK TABLE lockgate.record IN ACCESS EXCLUSIVE MODE;
         INSERT INTO lockgate.removed (node, first, last, leaves)
             SELECT node, min(seq), max(seq), string_agg(sha256('\\x00'::bytea || hash), ''::bytea ORDER BY seq)
             FROM (SELECT node, seq, hash, seq - row_number() OVER (PARTITION BY node ORDER BY seq) AS island
                   FROM lockgate.{table}) AS gone
             GROUP BY node, island;
         CREATE TEMPORARY TABLE lockgate_ended ON COMMIT DROP AS
             SELECT DISTINCT node, session FROM lockgate.{table} WHERE session IS NOT NULL;
         DROP TABLE lockgate.{table};
         DELETE FROM lockgate.session AS s USING pg_temp.lockgate_ended AS e WHERE s.node = e.node AND s.id = e.session
             AND NOT EXISTS (SELECT FROM lockgate.record AS r WHERE r.session = s.id AND r.node = s.node);
         COMMIT"
    );
    let removed = database.ask_for(WEEK_WITHIN, "remove a week of", |client| client.batch_execute(&sql));
    if removed.is_err() {
        // The connection may be gone, and with it the transaction.
        let _ = database.batch("roll back", "ROLLBACK");
    }
    removed
}
