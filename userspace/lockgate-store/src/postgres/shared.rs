//! Reading the shared store: sessions, records and heads of all nodes, or of one.
//!
//! Blocks on the network, so asynchronous callers ask from a blocking thread, as they do of [`crate::Reader`]. One
//! connection, made when it is needed and made anew when it broke.

use super::{
    connect::{Database, PostgresSettings},
    migrate,
};
use crate::{
    error::StoreError,
    session::{SessionFilter, SessionSummary},
};
use lockgate_audit::Record;
use lockgate_model::{SessionId, Timestamp, id::NodeName, outcome::CloseReason};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// Sessions that are read at once; those that a filter in words leaves out are replaced by the next.
const SESSIONS_AT_ONCE: i64 = 2000;
/// Records that are read at once.
const RECORDS_AT_ONCE: i64 = 500;

/// The shared store, for reading.
#[derive(Clone)]
pub struct Shared {
    settings: PostgresSettings,
    /// None: all that the role may see.
    node: Option<NodeName>,
    database: Arc<Mutex<Option<Database>>>,
}

/// How far a node's chain is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The node.
    pub node: NodeName,
    /// Its last record here.
    pub records: u64,
    /// Records that its newest signed head here covers.
    pub signed: u64,
    /// When its chain went on last.
    pub moved_at: Timestamp,
}

/// The end of a session, as the schema keeps it.
#[derive(Deserialize)]
struct Closing {
    reason: CloseReason,
    from: u64,
    to: u64,
    at: Timestamp,
}

#[derive(Deserialize)]
struct Opening {
    summary: SessionSummary,
}

/// Makes a login role a node's.
///
/// # Errors
/// When the role is more than an agent may be, either of the two is taken, or the caller is not the schema's owner.
pub fn enrol(settings: &PostgresSettings, node: &NodeName, role: &str) -> Result<(), StoreError> {
    let database = Database::connect(settings)?;
    migrate::check(&database)?;
    let node = node.as_str();
    database
        .ask("enrol a node in", |client| async move {
            client.execute("SELECT lockgate.enrol($1, $2::text::name)", &[&node, &role]).await
        })
        .map(drop)
}

impl Shared {
    /// The store at an address; nothing is asked yet.
    pub fn new(settings: PostgresSettings) -> Self {
        Self { settings, node: None, database: Arc::default() }
    }

    /// One node's part of it.
    #[must_use]
    pub fn of_node(mut self, node: NodeName) -> Self {
        self.node = Some(node);
        self
    }

    pub(super) fn node(&self) -> Option<&str> {
        self.node.as_ref().map(NodeName::as_str)
    }

    /// Works with the connection. One that broke since the last time is made anew, once.
    pub(super) fn with<T>(&self, work: impl Fn(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut guard = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let known = guard.take().filter(|database| !database.is_closed());
        let was_known = known.is_some();
        let database = match known {
            Some(database) => database,
            None => self.connect()?,
        };
        let mut result = work(&database);
        let mut kept = database;
        if result.is_err() && was_known && kept.is_closed() {
            kept = self.connect()?;
            result = work(&kept);
        }
        *guard = Some(kept);
        result
    }

    fn connect(&self) -> Result<Database, StoreError> {
        let database = Database::connect_to_read(&self.settings)?;
        migrate::check(&database)?;
        Ok(database)
    }

    /// How far each chain is, by name.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn chains(&self) -> Result<Vec<Chain>, StoreError> {
        let node = self.node();
        let rows = self.with(|database| {
            database.ask("list the chains of", |client| async move {
                let chains = "SELECT node, seq, coalesce((SELECT max(size) FROM lockgate.head WHERE head.node = chain.node), 0), \
                              (extract(epoch FROM moved_at) * 1000000)::bigint \
                              FROM lockgate.chain WHERE $1::text IS NULL OR node = $1 ORDER BY node";
                client.query(chains, &[&node]).await
            })
        })?;
        let chain = |row: tokio_postgres::Row| {
            let (node, records, signed, moved): (String, i64, i64, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            Chain {
                node: node.as_str().into(),
                records: unsigned(records),
                signed: unsigned(signed),
                moved_at: Timestamp::from_microsecond(moved).unwrap_or_default(),
            }
        };
        Ok(rows.into_iter().map(chain).collect())
    }

    /// Sessions, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionSummary>, StoreError> {
        let mut found: Vec<SessionSummary> = Vec::new();
        let mut before: Option<(i64, String)> = None;
        loop {
            let page = self.page_of_sessions(filter, before.as_ref())?;
            let last = page.len() < usize::try_from(SESSIONS_AT_ONCE).unwrap_or(usize::MAX);
            for (place, session) in page {
                before = Some(place);
                // The database narrows down; what a filter means is said in one place.
                if let Some(session) =
                    session.filter(|session| filter.admits_start(session) && filter.admits_state(session))
                {
                    found.push(session);
                    if found.len() >= filter.limit() {
                        return Ok(found);
                    }
                }
            }
            if last {
                return Ok(found);
            }
        }
    }

    #[allow(clippy::type_complexity, reason = "where a page goes on, and a session that may be unreadable")]
    fn page_of_sessions(
        &self,
        filter: &SessionFilter,
        before: Option<&(i64, String)>,
    ) -> Result<Vec<((i64, String), Option<SessionSummary>)>, StoreError> {
        const PAGE: &str = "
            SELECT (extract(epoch FROM started) * 1000000)::bigint, id, opening::text, closing::text, operations, denied, held, last_seq
            FROM lockgate.session
            WHERE ($1::text IS NULL OR node = $1)
                AND ($2::bigint IS NULL OR started >= 'epoch'::timestamptz + ($2 - 1) * interval '1 microsecond')
                AND ($3::bigint IS NULL OR started <= 'epoch'::timestamptz + ($3 + 1) * interval '1 microsecond')
                AND ($4::text IS NULL OR opening ->> 'target' = $4)
                AND ($5::text IS NULL OR position($5 IN opening ->> 'who') > 0)
                AND ($6::boolean IS NULL OR (ended IS NULL) = $6)
                AND ($7::bigint IS NULL OR (started, id) < ('epoch'::timestamptz + $7 * interval '1 microsecond', $8::text))
            ORDER BY started DESC, id DESC LIMIT $9";
        let node = self.node();
        let since = filter.since.map(Timestamp::as_microsecond);
        let until = filter.until.map(Timestamp::as_microsecond);
        let target = filter.target.as_ref().map(|target| target.as_str().replace('\0', "\u{fffd}"));
        let who = filter.principal.as_ref().map(|who| who.to_lowercase().replace('\0', "\u{fffd}"));
        let (at, id) = (before.map(|(at, _)| *at), before.map(|(_, id)| id.as_str()));
        let (target, who) = (&target, &who);
        let rows = self.with(|database| {
            database.ask("list sessions of", |client| async move {
                client
                    .query(
                        PAGE,
                        &[&node, &since, &until, target, who, &filter.open, &at, &id, &SESSIONS_AT_ONCE],
                    )
                    .await
            })
        })?;
        Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), summary(row))).collect())
    }

    /// Every record of a session, oldest first; empty when there is none.
    ///
    /// # Errors
    /// When the database cannot be asked, or a record cannot be read.
    pub fn session(&self, id: SessionId) -> Result<Vec<Record>, StoreError> {
        let (node, id) = (self.node(), id.to_string());
        let id = &id;
        let rows = self.with(|database| {
            database.ask("read a session of", |client| async move {
                let of = "SELECT line FROM lockgate.record WHERE session = $1 AND ($2::text IS NULL OR node = $2) ORDER BY node, seq";
                client.query(of, &[id, &node]).await
            })
        })?;
        rows.iter().map(|row| decode(row.get(0))).collect()
    }

    /// A node's lines after a number, oldest first, with their numbers: so many at most. What retention removed is left out.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn lines(&self, node: &NodeName, after: u64) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let (node, after) = (node.as_str(), i64::try_from(after).unwrap_or(i64::MAX));
        let rows = self.with(|database| {
            database.ask("read records of", |client| async move {
                let lines = "SELECT seq, line FROM lockgate.record WHERE node = $1 AND seq > $2 ORDER BY seq LIMIT $3";
                client.query(lines, &[&node, &after, &RECORDS_AT_ONCE]).await
            })
        })?;
        Ok(rows.iter().map(|row| (unsigned(row.get(0)), row.get(1))).collect())
    }

    /// All of a node's records, oldest first.
    ///
    /// # Errors
    /// When the database cannot be asked, or a record cannot be read.
    pub fn records(&self, node: &NodeName) -> Result<Vec<Record>, StoreError> {
        let mut records: Vec<Record> = Vec::new();
        loop {
            let after = records.last().map_or(0, |record| record.seq);
            let lines = self.lines(node, after)?;
            if lines.is_empty() {
                return Ok(records);
            }
            for (_, line) in lines {
                records.push(decode(&line)?);
            }
        }
    }
}

fn summary(row: &tokio_postgres::Row) -> Option<SessionSummary> {
    let opening: Opening = serde_json::from_str(row.get(2)).ok()?;
    let closing: Option<Closing> =
        row.get::<_, Option<&str>>(3).and_then(|text| serde_json::from_str(text).ok());
    let mut session = opening.summary;
    session.operations = unsigned(row.get(4));
    session.denied = unsigned(row.get(5));
    session.held = unsigned(row.get(6));
    session.last_seq = unsigned(row.get(7));
    if let Some(closing) = closing {
        session.ended = Some(closing.at);
        session.closing = Some(closing.reason);
        (session.bytes_from_client, session.bytes_to_client) = (closing.from, closing.to);
    }
    Some(session)
}

pub(super) fn decode(line: &[u8]) -> Result<Record, StoreError> {
    Record::decode(line).map_err(|error| StoreError::Database {
        action: "read a record of",
        what: "the database".to_owned(),
        code: None,
        why: error.to_string(),
    })
}

pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
