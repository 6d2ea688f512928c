//! What a target's database contains, read over a side connection of lockgate's own.
//!
//! The job's connection is never used for it: a query there would take its transaction's snapshot and break
//! `SET TRANSACTION`. One [`Catalogue`] belongs to one database of one target and is shared by its sessions, which ask for
//! it again after DDL, for an OID that it does not know, or when it is old. What a snapshot means for names and masks
//! is `lockgate_inspect`'s business.

mod code;
mod load;
mod query;
mod routine;

pub(crate) use query::CatalogueQuery;
pub(crate) use routine::Routine;

use crate::upstream::{Credential, Endpoint, UpstreamError};
use lockgate_inspect::sql::catalogue::CatalogueSnapshot;
use lockgate_model::addr::UpstreamAddr;
use lockgate_wire::postgres::{PgString, WireError};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// From dialling to the last row. A database of ten thousand relations takes about a second.
pub const LOAD_TIME: Duration = Duration::from_secs(20);
/// Bytes of all rows of one load: some 500,000 columns. Beyond it a database cannot be masked by this agent, and says so.
pub const MAX_CATALOGUE_BYTES: usize = 256 * 1024 * 1024;
/// A change that did not come through lockgate is seen after this long at the latest. Each load costs the target a
/// connection and some milliseconds.
pub const MAX_AGE: Duration = Duration::from_secs(30);
/// While a catalogue is in use, its definitions are compared with the target's so often, by one short query: what somebody
/// changes past lockgate is judged anew from then on.
pub const WATCH_EVERY: Duration = Duration::from_secs(1);
/// A statement that finds the last comparison older than this waits for a new one: what is changed past lockgate is judged
/// as it was for so long at the most.
pub const MAX_UNSEEN: Duration = Duration::from_secs(3);
/// Databases that are remembered. The job names the database, so their number is bounded here.
pub const MAX_CATALOGUES: usize = 64;
/// DDL that comes in while a catalogue is read makes it old at once; after this many rounds the last one must do for the
/// session that asked, and the next one reads again.
const ROUNDS: usize = 3;

/// Why there is no catalogue. What needs one is then refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The side connection cannot be opened.
    #[error("cannot open the catalogue's side connection: {0}")]
    Upstream(#[from] UpstreamError),
    /// The target broke the protocol.
    #[error("the target broke the protocol while its catalogue was read: {0}")]
    Wire(#[from] WireError),
    /// The connection broke.
    #[error("the catalogue's side connection broke while {query} was read: {kind}")]
    Io {
        /// What was read.
        query: &'static str,
        /// What the system says.
        kind: io::ErrorKind,
    },
    /// The target refused a query.
    #[error("the target refused the catalogue query for {query}: {message} ({sqlstate})")]
    Refused {
        /// What was read.
        query: &'static str,
        /// SQLSTATE.
        sqlstate: String,
        /// Its words.
        message: String,
    },
    /// A row is not as the query has it.
    #[error("the catalogue query for {query} returned {got:?} for {column}, expected {expected}")]
    Row {
        /// What was read.
        query: &'static str,
        /// Which field.
        column: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What came.
        got: Option<String>,
    },
    /// It took too long.
    #[error("the target's catalogue was not read within {limit:?}")]
    Slow {
        /// The bound.
        limit: Duration,
    },
    /// There is too much of it.
    #[error("the target's catalogue has more than {limit} bytes")]
    TooLarge {
        /// The bound.
        limit: usize,
    },
    /// The loader is gone, which happens at the end of the process only.
    #[error("the catalogue is closed")]
    Stopped,
}

impl CatalogueError {
    /// A stable label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Upstream(error) => error.kind(),
            Self::Wire(error) => error.kind(),
            Self::Io { .. } => "io",
            Self::Refused { .. } => "refused",
            Self::Row { .. } => "row",
            Self::Slow { .. } => "slow",
            Self::TooLarge { .. } => "too_large",
            Self::Stopped => "stopped",
        }
    }
}

/// The catalogue of one database of one target.
#[derive(Debug)]
pub struct Catalogue {
    endpoint: Endpoint,
    credential: Credential,
    database: PgString,
    held: Mutex<Held>,
    /// Functions by OID, once somebody called one so.
    routines: Mutex<Option<Arc<HashMap<u32, Routine>>>>,
    /// One load at a time; whoever comes meanwhile waits and takes its result.
    loading: Semaphore,
}

#[derive(Debug, Default)]
struct Held {
    /// Raised whenever the schema changes.
    generation: u64,
    snapshot: Option<Loaded>,
    /// Somebody is comparing.
    watching: bool,
}

impl Held {
    /// The snapshot, if it is neither old nor out of date.
    fn fresh(&self, now: Instant) -> Option<Arc<CatalogueSnapshot>> {
        let loaded = self.snapshot.as_ref()?;
        let fresh = loaded.generation == self.generation
            && now.saturating_duration_since(loaded.at) < MAX_AGE
            && now.saturating_duration_since(loaded.seen) < MAX_UNSEEN;
        fresh.then(|| loaded.snapshot.clone())
    }
}

#[derive(Clone, Debug)]
struct Loaded {
    generation: u64,
    at: Instant,
    /// What the definitions looked like, and when that was last so.
    mark: String,
    seen: Instant,
    snapshot: Arc<CatalogueSnapshot>,
}

impl Catalogue {
    /// The catalogue of `database` there, as that role sees it. Nothing is loaded yet.
    pub fn new(endpoint: Endpoint, credential: Credential, database: PgString) -> Self {
        Self {
            endpoint,
            credential,
            database,
            held: Mutex::default(),
            routines: Mutex::default(),
            loading: Semaphore::new(1),
        }
    }

    /// The snapshot, if one is at hand that is neither old nor out of date.
    pub fn fresh(&self) -> Option<Arc<CatalogueSnapshot>> {
        self.held().fresh(Instant::now())
    }

    /// Compares what is at hand with the target, if that is all it needs to be fresh.
    async fn compare(&self) {
        let now = Instant::now();
        let believed = {
            let held = self.held();
            held.snapshot
                .as_ref()
                .is_some_and(|loaded| loaded.generation == held.generation && loaded.at.elapsed() < MAX_AGE)
        };
        if !believed {
            return;
        }
        let read = load::mark(&self.endpoint, &self.credential, &self.database);
        let outcome = tokio::time::timeout(LOAD_TIME, read).await;
        self.compared(outcome, now);
    }

    /// Takes the outcome of a comparison that began then; without one the whole is read again.
    fn compared(
        &self,
        outcome: Result<Result<String, CatalogueError>, tokio::time::error::Elapsed>,
        began: Instant,
    ) {
        let mut held = self.held();
        held.watching = false;
        let Some(loaded) = &mut held.snapshot else { return };
        match outcome {
            Ok(Ok(mark)) if mark == loaded.mark => loaded.seen = loaded.seen.max(began),
            Ok(Ok(_changed)) => held.generation += 1,
            Ok(Err(error)) => tracing::debug!(%error, "the target's definitions cannot be compared"),
            Err(_slow) => tracing::debug!("the target's definitions were not compared in time"),
        }
    }

    /// The snapshot as [`Catalogue::fresh`] has it. Compares it with the target in the background, no oftener than
    /// [`WATCH_EVERY`]; the statement at hand does not wait for that.
    pub(crate) fn watched(self: &Arc<Self>) -> Option<Arc<CatalogueSnapshot>> {
        let now = Instant::now();
        let (fresh, due) = {
            let mut held = self.held();
            let due = !held.watching
                && held.snapshot.as_ref().is_some_and(|loaded| now - loaded.seen >= WATCH_EVERY);
            held.watching |= due;
            (held.fresh(now), due)
        };
        if due {
            self.watch(now);
        }
        fresh
    }

    fn watch(self: &Arc<Self>, now: Instant) {
        let catalogue = self.clone();
        tokio::spawn(async move {
            let read = load::mark(&catalogue.endpoint, &catalogue.credential, &catalogue.database);
            let outcome = tokio::time::timeout(LOAD_TIME, read).await;
            catalogue.compared(outcome, now);
        });
    }

    /// The schema changed: what is at hand is out of date, and so is what is being loaded now.
    pub fn outdated(&self) {
        self.held().generation += 1;
    }

    /// The snapshot, read from the target when none is fresh. Bounded by [`LOAD_TIME`]; cancel-safe.
    pub async fn load(&self) -> Result<Arc<CatalogueSnapshot>, CatalogueError> {
        if let Some(snapshot) = self.fresh() {
            return Ok(snapshot);
        }
        let turn = tokio::time::timeout(LOAD_TIME, self.loading.acquire()).await;
        let _turn = match turn {
            Err(_) => return Err(CatalogueError::Slow { limit: LOAD_TIME }),
            Ok(Err(_closed)) => return Err(CatalogueError::Stopped),
            Ok(Ok(turn)) => turn,
        };
        self.compare().await;
        let mut round = 1;
        loop {
            if let Some(snapshot) = self.fresh() {
                return Ok(snapshot);
            }
            let (generation, at) = (self.held().generation, Instant::now());
            let read = load::load(&self.endpoint, &self.credential, &self.database);
            let (mut snapshot, mark) = match tokio::time::timeout(LOAD_TIME, read).await {
                Err(_) => return Err(CatalogueError::Slow { limit: LOAD_TIME }),
                Ok(outcome) => outcome?,
            };
            let before = self.held().snapshot.as_ref().map(|loaded| loaded.snapshot.clone());
            if let Some(before) = before {
                snapshot.remember(&before);
            }
            let snapshot = Arc::new(snapshot);
            let mut held = self.held();
            held.snapshot = Some(Loaded { generation, at, mark, seen: at, snapshot: snapshot.clone() });
            if held.generation == generation || round >= ROUNDS {
                return Ok(snapshot);
            }
            round += 1;
        }
    }

    /// The snapshot as the target's definitions are at some moment after the call: compared now, however lately they were,
    /// and read anew where they differ.
    pub(crate) async fn confirm(&self) -> Result<Arc<CatalogueSnapshot>, CatalogueError> {
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let read = load::mark(&self.endpoint, &self.credential, &self.database);
            let mark = match tokio::time::timeout(LOAD_TIME, read).await {
                Err(_) => return Err(CatalogueError::Slow { limit: LOAD_TIME }),
                Ok(mark) => mark?,
            };
            {
                let mut held = self.held();
                if let Some(loaded) = &mut held.snapshot {
                    if loaded.mark == mark {
                        loaded.seen = loaded.seen.max(began);
                    } else if loaded.seen < began {
                        held.generation += 1;
                    }
                }
            }
            let snapshot = self.load().await?;
            let held = self.held();
            // Another load that began before may have put its result in the place of the one that was compared.
            if held
                .snapshot
                .as_ref()
                .is_some_and(|loaded| Arc::ptr_eq(&loaded.snapshot, &snapshot) && loaded.seen >= began)
            {
                return Ok(snapshot);
            }
        }
        Err(CatalogueError::Slow { limit: LOAD_TIME })
    }

    /// The function of an OID. The system's own are remembered; any other is read anew, since its name may have changed.
    pub(crate) async fn routine(&self, oid: u32) -> Result<Option<Routine>, CatalogueError> {
        let known = self.routines.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if oid < routine::FIRST_USER_OID
            && let Some(routine) = known.and_then(|known| known.get(&oid).cloned())
        {
            return Ok(Some(routine));
        }
        let read = load::routines(&self.endpoint, &self.credential, &self.database);
        let routines = match tokio::time::timeout(LOAD_TIME, read).await {
            Err(_) => return Err(CatalogueError::Slow { limit: LOAD_TIME }),
            Ok(outcome) => Arc::new(outcome?),
        };
        *self.routines.lock().unwrap_or_else(PoisonError::into_inner) = Some(routines.clone());
        Ok(routines.get(&oid).cloned())
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The catalogues of all targets, by where they are. A changed configuration starts with a new one.
#[derive(Debug, Default)]
pub struct Catalogues {
    entries: Mutex<HashMap<CatalogueKey, Entry>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CatalogueKey {
    /// The same server may be two targets with two roles.
    target: String,
    addr: UpstreamAddr,
    /// The same address can be another server in another network namespace.
    netns: u64,
    /// Policy may name another role than the target's usual one.
    user: String,
    database: PgString,
}

#[derive(Debug)]
struct Entry {
    catalogue: Arc<Catalogue>,
    used: Instant,
}

impl Catalogues {
    /// The catalogue of a database, made when there is none yet; nothing is loaded by this.
    pub fn of(
        &self,
        target: &str,
        endpoint: &Endpoint,
        credential: &Credential,
        database: &PgString,
    ) -> Arc<Catalogue> {
        let key = CatalogueKey {
            target: target.to_owned(),
            addr: endpoint.addr,
            netns: endpoint.origin.cookie(),
            user: credential.user().to_owned(),
            database: database.clone(),
        };
        let used = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&key) {
            entry.used = used;
            return entry.catalogue.clone();
        }
        if entries.len() >= MAX_CATALOGUES {
            // Sessions that still use it keep it alive; it only is no longer shared with new ones.
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            oldest.map(|key| entries.remove(&key));
        }
        let catalogue = Arc::new(Catalogue::new(endpoint.clone(), credential.clone(), database.clone()));
        entries.insert(key, Entry { catalogue: catalogue.clone(), used });
        catalogue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::UpstreamTls;

    /// Sessions run on any worker.
    #[allow(dead_code, reason = "compiling it is the check")]
    fn loads_may_move_between_threads(catalogue: &Catalogue) {
        fn sendable(_: impl Send) {}
        sendable(catalogue.load());
    }

    #[test]
    fn databases_share_a_catalogue_and_their_number_is_bounded() {
        let catalogues = Catalogues::default();
        let addr = UpstreamAddr(([127, 0, 0, 1], 1).into());
        let endpoint = Endpoint::new(addr, "localhost", UpstreamTls::disable());
        let credential = Credential::trusted("app");
        let of = |target: &str, database: &str| {
            catalogues.of(target, &endpoint, &credential, &PgString::lossy(database))
        };
        let first = of("orders", "a");
        assert!(Arc::ptr_eq(&first, &of("orders", "a")));
        assert!(!Arc::ptr_eq(&first, &of("orders", "b")));
        assert!(!Arc::ptr_eq(&first, &of("billing", "a")));
        for n in 0..MAX_CATALOGUES * 2 {
            of("orders", &format!("database {n}"));
        }
        assert_eq!(catalogues.entries.lock().unwrap().len(), MAX_CATALOGUES);
    }
}
