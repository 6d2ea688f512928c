//! Retention in the shared store: whole weeks go, and legal holds keep them. The rules are the embedded store's
//! ([`crate::Plan`]): what keeps a session's record keeps the session, sessions that run stay, what no signed head covers
//! stays, and the hashes of what went are kept, so that the rest still verifies. For the schema's owner alone.
//!
//! ```text
//! retention ──▶ (each node records its removal; a signed head covers it and is here) ──▶ remove
//! ```

use super::{
    connect::Database,
    row::{conjunction, removal_mark},
    shared::{Shared, decode, unsigned},
};
use crate::error::StoreError;
use lockgate_model::{
    Timestamp,
    custody::{Custody, Hold, Removal, RemovedSegment},
    event::EventKind,
    id::NodeName,
    time::format_duration,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// Hashing a week of records of a large fleet.
const WEEK_WITHIN: Duration = Duration::from_secs(3600);
/// What a week holds.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Records of a week that a policy wants kept, read at once.
const RETAINED_AT_ONCE: i64 = 1000;

/// What retention would remove now.
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
    /// Why it stays all the same; None: it may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// What goes with it. Each is to be recorded by its node, as [`lockgate_model::custody::Custody::Removed`].
    pub removals: Vec<(NodeName, Removal)>,
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

    /// The weeks that ended longer than `keep` ago, and what would be removed of them. Nothing is removed yet: each removal
    /// is recorded by its node first, and a signed head covers that.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn retention(&self, keep: Duration, now: Timestamp, by: &str) -> Result<Expired, StoreError> {
        let holds = self.holds()?;
        let mut expired =
            Expired { policy: format!("retention {}", format_duration(keep)), weeks: Vec::new() };
        for (table, from) in self.weeks()? {
            if from + WEEK + keep >= now {
                continue;
            }
            let (kept, records, islands) = self.with(|database| {
                let kept = why_kept(database, &table, &holds, now)?;
                Ok((kept, count(database, &table)?, islands(database, &table)?))
            })?;
            let mut removals = Vec::new();
            for Island { node, first, last } in islands.into_iter().filter(|_| kept.is_none()) {
                let segment = self.segment(&node, first, last)?;
                let (policy, by) = (expired.policy.clone(), by.to_owned());
                let removal =
                    Removal { from: first, to: last, segments: vec![segment], policy, by, archive: None };
                removals.push((node, removal));
            }
            expired.weeks.push(Week { from, records, kept, removals, table });
        }
        Ok(expired)
    }

    /// Removes a week. Every node has recorded what goes of its log by now, and a signed head covers that record.
    ///
    /// # Errors
    /// When one has not, or the week is not what it was, or something keeps it by now: then it stays whole.
    pub fn remove(&self, week: &Week, now: Timestamp) -> Result<(), StoreError> {
        let stays = |why: String| StoreError::NotProven(format!("the week of {} stays: {why}", week.from));
        if let Some(why) = &week.kept {
            return Err(stays(why.clone()));
        }
        for (node, removal) in &week.removals {
            if !self.is_announced(node, removal)? {
                let (from, to) = (removal.from, removal.to);
                return Err(stays(format!(
                    "no signed record of node {node} says that {from} to {to} are removed"
                )));
            }
        }
        let holds = self.holds()?;
        self.with(|database| {
            database.batch(
                "begin in",
                "BEGIN; LOCK TABLE lockgate.record, lockgate.hold IN ACCESS EXCLUSIVE MODE",
            )?;
            let removed = (|| {
                if let Some(why) = why_kept(database, &week.table, &holds, now)? {
                    return Err(stays(why));
                }
                let are = islands(database, &week.table)?;
                let told = week.removals.iter().map(|(node, removal)| (node, removal.from, removal.to));
                if !are.iter().map(|island| (&island.node, island.first, island.last)).eq(told) {
                    return Err(stays("records have come meanwhile".to_owned()));
                }
                remove(database, &week.table)
            })();
            if removed.is_err() {
                // The connection may be gone, and with it the transaction.
                let _ = database.batch("roll back", "ROLLBACK");
            }
            removed
        })
    }

    /// Whether a node's own log says it, under a signed head.
    fn is_announced(&self, node: &NodeName, removal: &Removal) -> Result<bool, StoreError> {
        let mark = conjunction(&[removal_mark(removal)].into());
        let (mark, node) = (&mark, node.as_str());
        let rows = self.with(|database| {
            database.ask("look for a removal in", |client| async move {
                let said = "SELECT line FROM lockgate.record WHERE words @@ $1::text::tsquery AND node = $2 \
                            AND seq <= (SELECT max(size) FROM lockgate.head WHERE node = $2)";
                client.query(said, &[mark, &node]).await
            })
        })?;
        for row in rows {
            let record = decode(row.get(0))?;
            if let EventKind::Custody(custody) = &record.event.kind
                && let Custody::Removed(said) = &**custody
                && (said.from, said.to) == (removal.from, removal.to)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What lines would be as a segment's file.
    fn segment(&self, node: &NodeName, first: u64, last: u64) -> Result<RemovedSegment, StoreError> {
        let (mut bytes, mut sha256, mut after) = (0, Sha256::new(), first - 1);
        while after < last {
            let lines = self.lines(node, after)?;
            let Some((end, _)) = lines.last() else { break };
            after = *end;
            for (_, line) in lines.iter().filter(|(seq, _)| *seq <= last) {
                sha256.update(line);
                sha256.update(b"\n");
                bytes += line.len() as u64 + 1;
            }
        }
        let sha256 = sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(RemovedSegment { first, last, bytes, sha256 })
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

/// Records of one node that follow each other.
struct Island {
    node: NodeName,
    first: u64,
    last: u64,
}

fn islands(database: &Database, table: &str) -> Result<Vec<Island>, StoreError> {
    let sql = format!(
        "SELECT node, min(seq), max(seq) FROM (SELECT node, seq, seq - row_number() OVER (PARTITION BY node ORDER BY seq) AS island \
             FROM lockgate.{table}) AS gone GROUP BY node, island ORDER BY node, min(seq)"
    );
    let sql = &sql;
    let rows = database
        .ask_for(WEEK_WITHIN, "look at a week of", |client| async move { client.query(sql, &[]).await })?;
    let island = |row: &tokio_postgres::Row| Island {
        node: row.get::<_, &str>(0).into(),
        first: unsigned(row.get(1)),
        last: unsigned(row.get(2)),
    };
    Ok(rows.iter().map(island).collect())
}

/// Hashes first, then the week and what is shown of sessions that have no record left; ends the transaction.
fn remove(database: &Database, table: &str) -> Result<(), StoreError> {
    let sql = format!(
        "INSERT INTO lockgate.removed (node, first, last, leaves)
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
    database.ask_for(WEEK_WITHIN, "remove a week of", |client| client.batch_execute(&sql))
}
