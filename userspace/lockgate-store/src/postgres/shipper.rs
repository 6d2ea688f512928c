//! Takes a log's records to the database, in order, each once.
//!
//! Where it goes on is never remembered here: the database's own chain says it, since a batch moves it in the same
//! transaction. So a server that went away in the midst of a batch, or an agent that was killed, repeats nothing and
//! leaves nothing out; and a log that is not the one whose chain the database holds is found at the first step.

use super::{
    connect::{Database, PostgresSettings},
    cursor::Cursor,
    migrate,
    row::Rows,
};
use crate::{
    error::StoreError,
    head, key,
    layout::{At, Layout},
    lines::Lines,
    removed::{self, Hashes},
    search::Marker,
};
use lockgate_audit::{ChainHash, Record, tree};
use lockgate_model::{SessionId, event::EventKind, id::NodeName};
use std::collections::HashSet;

/// Records of one batch at most: a round trip and a commit are little beside them.
const BATCH_RECORDS: usize = 1000;
/// Bytes of one, about: what a large statement costs in memory is counted more than once.
const BATCH_BYTES: usize = 4 << 20;
/// A session's first records, which are read again after a restart, so that what its later ones inherit is known: votes
/// and results come soon after what they are about.
const RECALLED_RECORDS: i64 = 2000;

/// Days are asked for, each once: a day lies in one week.
const DAY_MICROS: i64 = 24 * 3_600_000_000;
/// No log is older.
const MOST_MICROS: i64 = 20 * 366 * 24 * 3_600_000_000;

const INSERT: &str = "
    INSERT INTO lockgate.record (node, seq, at, session, fact, detail, words, line)
    SELECT $1::text, seq, 'epoch'::timestamptz + at * interval '1 microsecond', session, fact, detail::jsonb, words::tsvector, line
    FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::smallint[], $6::text[], $7::text[], $8::bytea[])
        AS added (seq, at, session, fact, detail, words, line)";

/// See the module.
pub(super) struct Shipper {
    layout: Layout,
    node: NodeName,
    pub(super) database: Database,
    cursor: Cursor,
    /// The last record that is committed there.
    pub(super) through: u64,
    /// Where it began: sessions that began before need to be read again.
    began_at: u64,
    marker: Marker,
    /// Sessions whose earlier records the marker knows, until they end.
    known: HashSet<SessionId>,
    /// The size of the newest head there.
    head: u64,
    /// Whether weeks that are over get partitions, and the days that have one.
    own_weeks: bool,
    days: HashSet<i64>,
}

impl Shipper {
    /// Connects, and finds where to go on.
    pub(super) fn open(
        layout: &Layout,
        node: &NodeName,
        settings: &PostgresSettings,
    ) -> Result<Self, StoreError> {
        let database = Database::connect(settings)?;
        migrate::check(&database)?;
        let (seq, hash) = tip(&database, node)?;
        check_same_log(layout, node, seq, &hash)?;
        let mut shipper = Self {
            layout: layout.clone(),
            node: node.clone(),
            database,
            cursor: Cursor::at(layout.clone(), seq + 1),
            through: seq,
            began_at: seq,
            marker: Marker::default(),
            known: HashSet::new(),
            head: 0,
            own_weeks: false,
            days: HashSet::new(),
        };
        shipper.cursor.settle();
        shipper.announce_key()?;
        shipper.make_ready();
        Ok(shipper)
    }

    /// The same for whoever owns the database: records of weeks that are over get partitions, too.
    pub(super) fn ship_to_its_week(&mut self) -> Result<usize, StoreError> {
        self.own_weeks = true;
        self.ship()
    }

    /// Takes the next batch over; how many records. 0: there are none that the head covers.
    pub(super) fn ship(&mut self) -> Result<usize, StoreError> {
        let (signed, note) = Cursor::signed(&self.layout)?;
        let mut rows = Rows::default();
        while rows.len() < BATCH_RECORDS
            && rows.bytes < BATCH_BYTES
            && let Some(line) = self.cursor.line(signed)?
        {
            let record = Record::decode(&line).map_err(|error| StoreError::Damaged {
                dir: self.layout.dir.clone(),
                what: error.to_string(),
            })?;
            self.recall(&record)?;
            rows.push(&line, &record, &mut self.marker);
        }
        if !rows.is_empty() {
            if self.own_weeks {
                self.make_weeks(&rows)?;
            }
            self.insert(&rows)?;
            self.through += rows.len() as u64;
        }
        if self.through == signed && signed > 0 && self.head != signed {
            self.put_head(signed, &note)?;
            self.head = signed;
        }
        Ok(rows.len())
    }

    /// Weeks of clocks that are years off get none: their records lie in the default partition.
    fn make_weeks(&mut self, rows: &Rows) -> Result<(), StoreError> {
        let now = lockgate_model::Timestamp::now().as_microsecond();
        for at in &rows.at {
            let day = at.div_euclid(DAY_MICROS);
            if (now - MOST_MICROS..now + DAY_MICROS).contains(at) && self.days.insert(day) {
                self.database.ask("make a partition in", |client| async move {
                    let make =
                        "SELECT lockgate.make_week('epoch'::timestamptz + $1::bigint * interval '1 microsecond')";
                    client.execute(make, &[at]).await
                })?;
            }
        }
        Ok(())
    }

    fn insert(&self, rows: &Rows) -> Result<(), StoreError> {
        let Err(error) = self.add(rows) else { return Ok(()) };
        // A value that the server has no room for must not keep the chain from going on: the bytes count.
        let of_data = matches!(&error, StoreError::Database { code: Some(code), .. }
            if code.starts_with("22") || code.starts_with("54") || code == "42601");
        if !of_data {
            return Err(error);
        }
        for at in 0..rows.len() {
            if let Err(error) = self.add(&rows.one(at)) {
                tracing::warn!(%error, seq = rows.seq.get(at), "a record is kept in the database and not searchable there");
                self.add(&rows.bare(at))?;
            }
        }
        Ok(())
    }

    fn add(&self, rows: &Rows) -> Result<(), StoreError> {
        let node = self.node.as_str();
        let Rows { seq, at, session, fact, detail, words, line, .. } = rows;
        self.database
            .ask("add records to", |client| async move {
                client.execute(INSERT, &[&node, seq, at, session, fact, detail, words, line]).await
            })
            .map(drop)
    }

    pub(super) fn put_head(&self, size: u64, note: &str) -> Result<(), StoreError> {
        let (node, size) = (self.node.as_str(), i64::try_from(size).unwrap_or(i64::MAX));
        self.database
            .ask("add a signed head to", |client| async move {
                let add =
                    "INSERT INTO lockgate.head (node, size, note) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                client.execute(add, &[&node, &size, &note]).await
            })
            .map(drop)
    }

    /// The first word counts: another key under this node's name is another node.
    fn announce_key(&mut self) -> Result<(), StoreError> {
        let Some(key) = key::public(&self.layout)? else { return Ok(()) };
        let (node, key) = (self.node.as_str(), key.to_string());
        let key = &key;
        let known = self.database.ask("compare the key with", |client| async move {
            let add = "INSERT INTO lockgate.log_key (node, key) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            client.execute(add, &[&node, key]).await?;
            client.query_one("SELECT key FROM lockgate.log_key WHERE node = $1", &[&node]).await
        })?;
        let known: String = known.get(0);
        if known == *key {
            return Ok(());
        }
        let why = format!("it verifies heads with {known}, and this log signs with {key}");
        Err(StoreError::OtherChain { node: node.to_owned(), why })
    }

    /// Partitions for the weeks to come. Without them records lie in the default one, where they are found as well.
    pub(super) fn make_ready(&self) {
        if let Err(error) = self.database.simple("make partitions in", "SELECT lockgate.make_ready()") {
            tracing::warn!(%error, "no partitions were made for the weeks to come");
        }
    }

    /// Reads again what a session's records before the beginning said, from where they went: there they are found at once.
    fn recall(&mut self, record: &Record) -> Result<(), StoreError> {
        let Some(id) = record.event.session.filter(|_| self.began_at > 0) else { return Ok(()) };
        match &record.event.kind {
            EventKind::SessionStarted(_) => {
                self.known.insert(id);
                return Ok(());
            }
            EventKind::SessionEnded(_) if self.known.remove(&id) => return Ok(()),
            _ if !self.known.insert(id) => return Ok(()),
            _ => {}
        }
        let (node, id) = (self.node.as_str(), id.to_string());
        let id = &id;
        let rows = self.database.ask("read a session of", |client| async move {
            let of =
                "SELECT line FROM lockgate.record WHERE session = $1 AND node = $2 ORDER BY seq LIMIT $3";
            client.query(of, &[id, &node, &RECALLED_RECORDS]).await
        })?;
        for row in rows {
            let line: &[u8] = row.get(0);
            if let Ok(earlier) = Record::decode(line) {
                let _ = self.marker.marks(line, &earlier);
            }
        }
        Ok(())
    }

    /// Where in the log the next record begins.
    pub(super) fn place(&self) -> Option<At> {
        self.cursor.place()
    }

    /// What retention removed before this log came here: its hashes, and the chain goes on behind them. For whoever owns
    /// the database alone.
    pub(super) fn pass_removed(&mut self) -> Result<(), StoreError> {
        for hashes in removed::all(&self.layout)? {
            if hashes.first == self.through + 1 && !self.holds(self.through + 1)? {
                self.pass(&hashes)?;
            }
        }
        Ok(())
    }

    fn holds(&self, seq: u64) -> Result<bool, StoreError> {
        let (segments, _) = self.layout.list_segments()?;
        Ok(segments.first().is_some_and(|first| first.first_seq <= seq))
    }

    fn pass(&mut self, hashes: &Hashes) -> Result<(), StoreError> {
        let leaves: Vec<u8> = hashes.leaves()?.flatten().collect();
        // The record after them names the last of them.
        let mut next = Cursor::at(self.layout.clone(), hashes.last + 1);
        let prev = match next.line(u64::MAX) {
            Ok(Some(line)) => Record::decode(&line).map(|record| record.prev.0.to_vec()).ok(),
            Ok(None) | Err(_) => None,
        };
        let node = self.node.as_str();
        let (first, last) = (number(hashes.first), number(hashes.last));
        // Without it there is another removed part behind this one, and its end is what counts.
        let prev = prev.unwrap_or_else(|| vec![0; 32]);
        let (leaves, prev) = (&leaves, &prev);
        self.database.ask("add removed hashes to", |client| async move {
            let pass = "WITH added AS (INSERT INTO lockgate.removed (node, first, last, leaves) VALUES ($1, $2, $3, $4)) \
                        UPDATE lockgate.chain SET seq = $3, hash = $5 WHERE node = $1 AND seq = $2 - 1";
            client.execute(pass, &[&node, &first, &last, leaves, prev]).await
        })?;
        self.through = hashes.last;
        self.began_at = self.through;
        self.cursor = Cursor::at(self.layout.clone(), self.through + 1);
        Ok(())
    }

    /// Signed heads that the log keeps, oldest first; how many.
    pub(super) fn put_history(&self) -> Result<usize, StoreError> {
        let notes = head::read_history(&self.layout)?;
        for note in &notes {
            if let Ok(size) = lockgate_audit::Checkpoint::covers(note) {
                self.put_head(size, note)?;
            }
        }
        Ok(notes.len())
    }
}

fn number(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Where a node's chain ends in the database.
fn tip(database: &Database, node: &NodeName) -> Result<(u64, Vec<u8>), StoreError> {
    let name = node.as_str();
    let row = database.ask("ask where the chain ends in", |client| async move {
        client.query_opt("SELECT seq, hash FROM lockgate.chain WHERE node = $1", &[&name]).await
    })?;
    let row = row.ok_or_else(|| StoreError::Database {
        action: "write to",
        what: "the database".to_owned(),
        code: None,
        why: format!("this role is not enrolled as node {node}: run `lockgate store enrol {node} --role ROLE` as the schema's owner"),
    })?;
    Ok((u64::try_from(row.get::<_, i64>(0)).unwrap_or(0), row.get(1)))
}

/// The last record that the database has must be this log's.
fn check_same_log(layout: &Layout, node: &NodeName, seq: u64, hash: &[u8]) -> Result<(), StoreError> {
    if seq == 0 {
        return Ok(());
    }
    let other = |why: String| StoreError::OtherChain { node: node.to_string(), why };
    let (segments, _) = layout.list_segments()?;
    let at = segments.partition_point(|segment| segment.first_seq <= seq).checked_sub(1);
    let Some(segment) = at.and_then(|at| segments.into_iter().nth(at)) else {
        return check_removed(layout, seq, hash).map_err(other);
    };
    let (first, path) = (segment.first_seq, segment.path.clone());
    let io = |source| StoreError::Io { action: "read", path: path.clone(), source };
    let mut lines = Lines::open(segment).map_err(io)?;
    let mut number = first;
    while let Some(line) = lines.next().map_err(io)?.filter(|line| line.complete) {
        if number == seq {
            return match ChainHash::of_line(line.bytes).0 == hash {
                true => Ok(()),
                false => Err(other(format!("its record {seq} is another one"))),
            };
        }
        number += 1;
    }
    Err(other(format!("it holds {seq} records, this log {}", number.saturating_sub(1))))
}

fn check_removed(layout: &Layout, seq: u64, hash: &[u8]) -> Result<(), String> {
    let missing = || format!("record {seq} is not in this log");
    let hash: [u8; 32] = hash.try_into().map_err(|_| missing())?;
    let all = removed::all(layout).map_err(|error| error.to_string())?;
    let part = all.into_iter().find(|part| part.first <= seq && seq <= part.last).ok_or_else(missing)?;
    let nth = usize::try_from(seq - part.first).map_err(|_| missing())?;
    let leaf = part.leaves().map_err(|error| error.to_string())?.nth(nth).ok_or_else(missing)?;
    match tree::leaf(&ChainHash(hash)) == leaf {
        true => Ok(()),
        false => Err(format!("its record {seq} is another one")),
    }
}
