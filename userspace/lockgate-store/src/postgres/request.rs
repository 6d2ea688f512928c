//! Requests that wait for people, shared: a node asks and ends, people decide wherever they are.
//!
//! Nothing is believed of a notification: it wakes whoever waits, and the rows are read. They are read without one, too,
//! by whoever waits no longer than a bound. A decision is taken once, and only while its request waits: the database says
//! so, by its own clock.

use super::{
    connect::{Database, PostgresSettings},
    migrate,
};
use crate::error::StoreError;
use lockgate_model::{RequestId, Timestamp, id::NodeName};
use serde_json::Value;
use std::time::Duration;

/// Requests of one listing at most: an inbox that is longer is read by nobody.
const LISTED: i64 = 1000;

/// A connection that asks, decides, and waits to be woken. Blocks; not for a thread that serves others.
pub struct Requests {
    database: Database,
}

/// A request that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The node that asks.
    pub node: NodeName,
    /// Which.
    pub request: RequestId,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// What people are shown.
    pub card: Value,
}

/// One person's word.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Who: a verified id.
    pub person: String,
    /// For or against.
    pub approves: bool,
    /// The vote as the node records it.
    pub vote: Value,
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no such request.
    #[error("there is no such request")]
    Unknown,
    /// It was ended by its node.
    #[error("the request has ended")]
    Ended,
    /// Its time is over.
    #[error("the request has expired")]
    Expired,
    /// This person has decided on it before.
    #[error("this person has decided on it before")]
    Repeated,
    /// The database failed, or does not let this role decide.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Requests {
    /// Connects, and is woken from now on by what nodes ask and people decide.
    ///
    /// # Errors
    /// When the database cannot be reached or is of another version.
    pub fn connect(settings: &PostgresSettings) -> Result<Self, StoreError> {
        let database = Database::connect(settings)?;
        migrate::check(&database)?;
        database.batch("listen to", "LISTEN lockgate_asked; LISTEN lockgate_decided")?;
        Ok(Self { database })
    }

    /// Waits until something may have changed; false when nothing did by then.
    pub fn wait(&mut self, within: Duration) -> bool {
        self.database.notified(within)
    }

    /// Asks.
    ///
    /// # Errors
    /// When it does not rest.
    pub fn ask(&self, asked: &Asked) -> Result<(), StoreError> {
        let (node, id, card) = (asked.node.as_str(), asked.request.to_string(), asked.card.to_string());
        let (id, card, expires) = (&id, &card, asked.expires_at.as_microsecond());
        self.database
            .ask("ask in", |client| async move {
                let ask = "INSERT INTO lockgate.request (node, id, expires_at, card) \
                           VALUES ($1, $2, 'epoch'::timestamptz + $3::bigint * interval '1 microsecond', $4::text::jsonb)";
                client.execute(ask, &[&node, id, &expires, card]).await
            })
            .map(drop)
    }

    /// Ends a request: nobody decides on it any more. False when it had ended before.
    ///
    /// # Errors
    /// When it does not rest.
    pub fn end(&self, node: &NodeName, request: RequestId, how: &str) -> Result<bool, StoreError> {
        let (node, id) = (node.as_str(), request.to_string());
        let id = &id;
        let ended = self.database.ask("end a request in", |client| async move {
            let end = "INSERT INTO lockgate.ending (node, request, how) VALUES ($1, $2, $3)";
            client.execute(end, &[&node, id, &how]).await
        });
        match ended {
            Ok(_) => Ok(true),
            Err(StoreError::Database { code: Some(code), .. }) if code == UNIQUE_VIOLATION => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Requests that wait and are in time, oldest first; of the nodes that this role may see.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn waiting(&self) -> Result<Vec<Asked>, StoreError> {
        let rows = self.database.ask("list requests of", |client| async move {
            let waiting = "SELECT node, id, (extract(epoch FROM expires_at) * 1000000)::bigint, card::text FROM lockgate.request \
                           WHERE expires_at > clock_timestamp() AND NOT EXISTS (SELECT FROM lockgate.ending \
                               WHERE ending.node = request.node AND ending.request = request.id) \
                           ORDER BY asked_at LIMIT $1";
            client.query(waiting, &[&LISTED]).await
        })?;
        let asked = |row: &tokio_postgres::Row| {
            let (node, id, expires, card): (String, String, i64, String) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            Some(Asked {
                node: node.as_str().into(),
                request: id.parse().ok()?,
                expires_at: Timestamp::from_microsecond(expires).ok()?,
                card: serde_json::from_str(&card).ok()?,
            })
        };
        Ok(rows.iter().filter_map(asked).collect())
    }

    /// Takes one person's decision: once, or not at all.
    ///
    /// # Errors
    /// When it is not taken, and why.
    pub fn decide(&self, node: &NodeName, request: RequestId, decision: &Decision) -> Result<(), Refusal> {
        let (node, id, vote) = (node.as_str(), request.to_string(), decision.vote.to_string());
        let (id, vote, Decision { person, approves, .. }) = (&id, &vote, decision);
        let decided = self.database.ask("decide in", |client| async move {
            let decide = "INSERT INTO lockgate.decision (node, request, person, approves, vote) VALUES ($1, $2, $3, $4, $5::text::jsonb)";
            client.execute(decide, &[&node, id, person, approves, vote]).await
        });
        match decided {
            Ok(_) => Ok(()),
            Err(StoreError::Database { action, what, code: Some(code), why }) => Err(match code.as_str() {
                "LG010" => Refusal::Unknown,
                "LG011" => Refusal::Ended,
                "LG012" => Refusal::Expired,
                UNIQUE_VIOLATION => Refusal::Repeated,
                _ => Refusal::Store(StoreError::Database { action, what, code: Some(code), why }),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// What people said of a request, in the order in which they did.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn decisions(&self, node: &NodeName, request: RequestId) -> Result<Vec<Decision>, StoreError> {
        let (node, id) = (node.as_str(), request.to_string());
        let id = &id;
        let rows = self.database.ask("read decisions of", |client| async move {
            let said = "SELECT person, approves, vote::text FROM lockgate.decision WHERE node = $1 AND request = $2 ORDER BY at, person";
            client.query(said, &[&node, id]).await
        })?;
        let decision = |row: &tokio_postgres::Row| {
            let vote = serde_json::from_str(row.get(2)).ok()?;
            Some(Decision { person: row.get(0), approves: row.get(1), vote })
        };
        Ok(rows.iter().filter_map(decision).collect())
    }
}

/// SQLSTATE (PostgreSQL, appendix A).
const UNIQUE_VIOLATION: &str = "23505";
