//! A server with a database for the store, its owner, and agents; and a log whose records go there.

use anyhow::{Context, Result, ensure};
use lockgate_model::{
    event::Event,
    port::{Durability, Recorder},
};
use lockgate_store::{
    Log, LogSettings, Reader, StoreError,
    contract::{record, sample},
    postgres::{Drain, DrainSettings, PostgresSettings, SCHEMA_VERSION, Shared, enrol, migrate},
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Owns the schema. No superuser: row-level security and grants are to be seen at work.
pub(crate) const OWNER: &str = "keeper";
/// Of the sample events.
pub(crate) const NODE: &str = "build-7";
/// For whatever takes milliseconds on a machine that has nothing else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A database of a server of one's own.
pub(crate) struct Place {
    pub(crate) server: Arc<TestPostgres>,
    pub(crate) database: String,
}

/// The databases that were made here.
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Place {
    /// An empty database.
    pub(crate) fn empty() -> Result<Self> {
        let server = TestPostgres::start(PostgresOptions::new())?;
        server.psql(&format!("CREATE ROLE {OWNER} LOGIN CREATEROLE"))?;
        Self::on(Arc::new(server))
    }

    /// Another one on the same server.
    pub(crate) fn on(server: Arc<TestPostgres>) -> Result<Self> {
        let database = format!("store_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        server.psql(&format!("CREATE DATABASE {database} OWNER {OWNER}"))?;
        Ok(Self { server, database })
    }

    /// With the schema, and one node.
    pub(crate) fn ready() -> Result<Self> {
        let place = Self::empty()?;
        place.make_ready()?;
        Ok(place)
    }

    pub(crate) fn make_ready(&self) -> Result<()> {
        migrate(&self.as_owner(), SCHEMA_VERSION)?;
        self.enrol(NODE)
    }

    /// A node, and a login role of its own.
    pub(crate) fn enrol(&self, node: &str) -> Result<()> {
        self.login(&agent(node))?;
        enrol(&self.as_owner(), &node.into(), &agent(node))?;
        Ok(())
    }

    /// A login role, unless it is there.
    pub(crate) fn login(&self, role: &str) -> Result<()> {
        let make = format!(
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN CREATE ROLE \"{role}\" LOGIN; END IF; END $$"
        );
        self.server.psql(&make).map(drop)
    }

    pub(crate) fn address(&self, role: &str) -> PostgresSettings {
        let url = format!("postgres://{role}@{}/{}?sslmode=disable", self.server.addr(), self.database);
        PostgresSettings::parse(&url).unwrap()
    }

    pub(crate) fn as_owner(&self) -> PostgresSettings {
        self.address(OWNER)
    }

    /// As the superuser.
    pub(crate) fn psql(&self, sql: &str) -> Result<String> {
        self.server.psql_in(&self.database, sql)
    }

    /// As a role, over TCP, as an agent would come: what it says, or what is said to it.
    pub(crate) fn psql_as(&self, role: &str, sql: &str) -> Result<String, String> {
        let output = Command::new(self.server.program("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.database, "-U", role])
            .args(["-h", "127.0.0.1", "-p", &self.server.port().to_string(), "-c", sql])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// A node's drain on a log.
    pub(crate) fn drain(&self, log: &Log, spool_bytes: u64) -> Result<Drain> {
        let settings = DrainSettings { place: self.address(&agent(NODE)), node: NODE.into(), spool_bytes };
        Ok(Drain::start(log, settings)?)
    }

    /// As somebody who may read everything.
    pub(crate) fn shared(&self) -> Shared {
        Shared::new(self.as_owner())
    }
}

/// The login role of a node.
pub(crate) fn agent(node: &str) -> String {
    format!("agent-{node}")
}

pub(crate) fn open(dir: &Path) -> Result<Log, StoreError> {
    let settings = LogSettings { segment_bytes: 64 << 10, ..LogSettings::new(dir, NODE.into()) };
    Log::open(settings, Arc::new(sample::FixedAmbient::default()))
}

/// Records small events, each waited for; the last number.
pub(crate) fn marks(log: &dyn Recorder, name: &str, count: u64) -> u64 {
    let mark = |n| record(log, vec![sample::mark(name, n)], Durability::Written).unwrap();
    (0..count).map(mark).last().unwrap_or(0)
}

/// A session from its beginning to its end.
pub(crate) fn session(n: u32) -> Vec<Event> {
    let session = sample::session(n);
    vec![
        sample::started(&session),
        sample::decided(&session, &format!("SELECT {n}")),
        sample::denied(&session, "DROP TABLE orders"),
        sample::ended(&session),
    ]
}

/// The last record that rests.
pub(crate) fn last(reader: &Reader) -> u64 {
    reader.records().last().map_or(0, |record| record.unwrap().seq)
}

/// The lines of a log's segments, in order.
pub(crate) fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let text: Vec<u8> = paths.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// The same as the database has them, each number once.
pub(crate) fn lines_of(shared: &Shared) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let page = shared.lines(&NODE.into(), after)?;
        let Some((end, _)) = page.last() else { return Ok(all) };
        ensure!(
            page.iter().map(|(seq, _)| *seq).eq(after + 1..=*end),
            "numbers are missing or twice after {after}"
        );
        after = *end;
        all.extend(page.into_iter().map(|(_, line)| line));
    }
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        ensure!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The log in a directory, and the directory.
pub(crate) fn scratch() -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    let temporary = tempfile::tempdir().context("a directory")?;
    let dir = temporary.path().join("store");
    Ok((temporary, dir))
}
