//! The schema's versions: SQL files in this binary, applied in order, each in a transaction of its own.
//!
//! Runs do not overlap: each locks the table of what was applied, which nobody but its owner can lock. A database
//! that is newer than the binary, or whose history is another, is left alone.

use super::connect::{Database, PostgresSettings};
use crate::error::StoreError;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// One step.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

/// All of them. One that was released is never changed: what it lacked, the next one brings.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "records", sql: include_str!("migrations/0001_records.sql") },
    Migration {
        version: 2,
        name: "approvals_and_retention",
        sql: include_str!("migrations/0002_approvals_and_retention.sql"),
    },
];

/// The version that this binary works with.
pub const SCHEMA_VERSION: i32 = 2;

/// A step may rewrite a large table.
const STEP_WITHIN: Duration = Duration::from_secs(3600);

/// Two consoles that start at once may both be told to migrate; the second waits so long for the first.
const OTHER_RUN_WITHIN: &str = "60s";

/// What every database has before its first migration. The advisory lock only orders first runs: before there is a table
/// there is nobody but its owner-to-be.
const BEGINNING: &str = "
    BEGIN;
    SELECT pg_catalog.pg_advisory_xact_lock(7810191);
    CREATE SCHEMA IF NOT EXISTS lockgate;
    CREATE TABLE IF NOT EXISTS lockgate.migration (
        version integer PRIMARY KEY,
        name text NOT NULL,
        sha256 text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        by name NOT NULL DEFAULT session_user,
        release text NOT NULL
    );
    COMMIT";

/// Where a database stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Schema {
    /// Its version; 0 when nothing was ever applied.
    pub version: i32,
    /// What this binary works with.
    pub expected: i32,
    /// What was applied, oldest first.
    pub applied: Vec<Applied>,
    /// What is to be applied, oldest first.
    pub pending: Vec<String>,
}

/// A step that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Which.
    pub version: i32,
    /// Its name.
    pub name: String,
    /// When.
    pub at: String,
    /// By which role.
    pub by: String,
    /// By which release.
    pub release: String,
}

/// Where it stands. Changes nothing.
///
/// # Errors
/// When it cannot be asked, is newer than this binary, or has another history.
pub fn schema(settings: &PostgresSettings) -> Result<Schema, StoreError> {
    read(&Database::connect_to_read(settings)?)
}

/// Applies what is pending, up to a version (the newest, as a rule); what it did.
///
/// # Errors
/// When a step fails: what was applied before it stays, nothing of it does.
pub fn migrate(settings: &PostgresSettings, up_to: i32) -> Result<Schema, StoreError> {
    let database = Database::connect(settings)?;
    own_schema(&database)?;
    // Where there are agents, there is the table: none of them can hold this up with a lock of its own.
    if !exists(&database)? {
        database.batch("begin a schema in", BEGINNING)?;
        own_schema(&database)?;
    }
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= up_to) {
        apply(&database, migration)?;
    }
    database.batch("make partitions in", "SELECT lockgate.make_ready()")?;
    read(&database)
}

/// A schema that somebody else made may be anything.
fn own_schema(database: &Database) -> Result<(), StoreError> {
    let owner = "SELECT pg_get_userbyid(nspowner) = current_user, pg_get_userbyid(nspowner) FROM pg_namespace \
                 WHERE nspname = 'lockgate'";
    match database.simple("look at", owner)?.first().map(Vec::as_slice) {
        Some([own, who]) if own != "t" => Err(StoreError::Schema(format!(
            "the schema `lockgate` belongs to the role {who}: migrate as that role, or use another database"
        ))),
        Some(_) | None => Ok(()),
    }
}

fn apply(database: &Database, migration: &Migration) -> Result<(), StoreError> {
    let Migration { version, name, sql } = migration;
    // Whoever only reads takes no lock that stands in the way of this one, and cannot take one that does.
    database.batch(
        "lock the migrations of",
        &format!("BEGIN; SET LOCAL lock_timeout = '{OTHER_RUN_WITHIN}'; LOCK TABLE lockgate.migration IN SHARE ROW EXCLUSIVE MODE"),
    )?;
    let result = (|| {
        if read(database)?.version >= *version {
            return Ok(());
        }
        let noted = format!(
            "INSERT INTO lockgate.migration (version, name, sha256, release) VALUES ({version}, '{name}', '{}', '{}')",
            checksum(sql),
            env!("CARGO_PKG_VERSION")
        );
        database.ask_for(STEP_WITHIN, "migrate", |client| client.batch_execute(sql))?;
        database.batch("note a migration in", &noted)
    })();
    match result {
        Ok(()) => database.batch("commit a migration in", "COMMIT"),
        Err(error) => {
            // The connection may be gone, and with it the transaction.
            let _ = database.batch("roll back", "ROLLBACK");
            Err(error)
        }
    }
}

fn checksum(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn exists(database: &Database) -> Result<bool, StoreError> {
    let rows = database.simple("look at", "SELECT to_regclass('lockgate.migration') IS NOT NULL")?;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|exists| exists == "t"))
}

fn read(database: &Database) -> Result<Schema, StoreError> {
    let mut applied = Vec::new();
    if exists(database)? {
        let rows = database.simple(
            "read the migrations of",
            "SELECT version, name, sha256, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), by, release \
             FROM lockgate.migration ORDER BY version",
        )?;
        for row in rows {
            let [version, name, sha256, at, by, release] = <[String; 6]>::try_from(row)
                .map_err(|_| StoreError::Schema("its table of migrations has another shape".to_owned()))?;
            let version = version.parse().unwrap_or(i32::MAX);
            if let Some(own) = MIGRATIONS.iter().find(|own| own.version == version)
                && checksum(own.sql) != sha256
            {
                return Err(StoreError::Schema(format!(
                    "migration {version} ({name}) was applied by release {release} and is not the one that this binary \
                     has: use the release that belongs to this database"
                )));
            }
            applied.push(Applied { version, name, at, by, release });
        }
    }
    let version = applied.last().map_or(0, |last| last.version);
    if version > SCHEMA_VERSION {
        return Err(StoreError::Schema(format!(
            "it is of version {version}, newer than this binary's {SCHEMA_VERSION}: use a release of lockgate that knows it"
        )));
    }
    let pending = MIGRATIONS.iter().filter(|migration| migration.version > version);
    let pending = pending.map(|migration| format!("{:04} {}", migration.version, migration.name)).collect();
    Ok(Schema { version, expected: SCHEMA_VERSION, applied, pending })
}

/// That a database is of this binary's version.
pub(crate) fn check(database: &Database) -> Result<(), StoreError> {
    let schema = read(database)?;
    if schema.version == SCHEMA_VERSION {
        return Ok(());
    }
    Err(StoreError::Schema(format!(
        "it is of version {}, and this binary works with {SCHEMA_VERSION}: run `lockgate store migrate`",
        schema.version
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_without_a_hole_up_to_this_binary_s() {
        let versions: Vec<i32> = MIGRATIONS.iter().map(|migration| migration.version).collect();
        assert_eq!(versions, (1..=SCHEMA_VERSION).collect::<Vec<_>>());
        for Migration { name, sql, .. } in MIGRATIONS {
            assert!(!name.contains('\'') && !sql.contains("COMMIT"), "{name}");
        }
    }
}
