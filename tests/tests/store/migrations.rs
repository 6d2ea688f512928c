//! Versions of the schema: applied once, in order, from every earlier one; never by a binary that is older.

use crate::place::{NODE, OWNER, PATIENCE, Place, agent, lines, lines_of, marks, open, scratch};
use anyhow::{Result, ensure};
use lockgate_store::postgres::{SCHEMA_VERSION, enrol, migrate, schema};

#[test]
fn every_earlier_version_is_carried_over_with_what_it_holds() -> Result<()> {
    for from in 1..=SCHEMA_VERSION {
        let place = Place::empty()?;
        ensure!(schema(&place.as_owner())?.version == 0);
        let was = migrate(&place.as_owner(), from)?;
        ensure!(
            was.version == from && was.pending.len() == usize::try_from(SCHEMA_VERSION - from)?,
            "{was:?}"
        );
        place.login(&agent(NODE))?;
        place
            .psql_as(OWNER, &format!("SELECT lockgate.enrol('{NODE}', '{}')", agent(NODE)))
            .map_err(anyhow::Error::msg)?;
        // As an agent of that version would.
        let (_temporary, dir) = scratch()?;
        let log = open(&dir)?;
        marks(&log, "old", 3);
        log.close()?;
        let rows: Vec<String> = (1..)
            .zip(lines(&dir))
            .map(|(seq, line)| {
                let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("('{NODE}', {seq}, now(), 0, '\\x{hex}')")
            })
            .collect();
        let add =
            format!("INSERT INTO lockgate.record (node, seq, at, fact, line) VALUES {}", rows.join(", "));
        place.psql_as(&agent(NODE), &add).map_err(anyhow::Error::msg)?;
        let log = open(&dir)?;
        let drain = place.drain(&log, 64 << 20)?;
        if from < SCHEMA_VERSION {
            crate::place::until("it is told", || drain.status().error.is_some())?;
            let error = drain.status().error.unwrap_or_default();
            ensure!(error.contains("lockgate store migrate"), "{error}");
        }
        let is = migrate(&place.as_owner(), SCHEMA_VERSION)?;
        ensure!(is.version == SCHEMA_VERSION && is.pending.is_empty(), "{is:?}");
        ensure!(is.applied.iter().map(|applied| applied.version).eq(1..=SCHEMA_VERSION), "{is:?}");
        ensure!(is.applied.iter().all(|applied| applied.by == OWNER), "{is:?}");
        // Twice is once.
        ensure!(migrate(&place.as_owner(), SCHEMA_VERSION)? == is);
        ensure!(drain.wait_for(marks(&log, "new", 3), PATIENCE), "{:?}", drain.status());
        ensure!(lines_of(&place.shared())? == lines(&dir), "from version {from}");
    }
    Ok(())
}

#[test]
fn a_database_that_is_newer_or_another_is_left_alone() -> Result<()> {
    let place = Place::ready()?;
    place.psql(
        "INSERT INTO lockgate.migration (version, name, sha256, release) VALUES (999, 'future', 'x', '9.9')",
    )?;
    let refused = |what: &str| -> Result<()> {
        for error in [
            migrate(&place.as_owner(), SCHEMA_VERSION).unwrap_err(),
            schema(&place.as_owner()).unwrap_err(),
            place.shared().sessions(&Default::default()).unwrap_err(),
            enrol(&place.as_owner(), &"other".into(), &agent(NODE)).unwrap_err(),
        ] {
            ensure!(error.to_string().contains(what), "{error}");
        }
        Ok(())
    };
    refused("version 999, newer than this binary's")?;
    let (_temporary, dir) = scratch()?;
    let log = open(&dir)?;
    let drain = place.drain(&log, 64 << 20)?;
    marks(&log, "waits", 3);
    crate::place::until("it is told", || {
        drain.status().error.is_some_and(|error| error.contains("newer than this binary's"))
    })?;
    ensure!(place.psql("SELECT count(*) FROM lockgate.record")? == "0");
    place.psql("DELETE FROM lockgate.migration WHERE version = 999")?;
    ensure!(drain.wait_for(3, PATIENCE), "{:?}", drain.status());
    place.psql("UPDATE lockgate.migration SET sha256 = 'other' WHERE version = 1")?;
    refused("is not the one that this binary has")
}

#[test]
fn many_at_once_apply_each_step_once() -> Result<()> {
    let place = Place::empty()?;
    let settings = place.as_owner();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4).map(|_| scope.spawn(|| migrate(&settings, SCHEMA_VERSION))).collect();
        all.into_iter().try_for_each(|run| run.join().unwrap().map(drop))
    })?;
    let applied =
        place.psql("SELECT string_agg(version::text, ',' ORDER BY version) FROM lockgate.migration")?;
    ensure!(
        applied == (1..=SCHEMA_VERSION).map(|version| version.to_string()).collect::<Vec<_>>().join(","),
        "{applied}"
    );
    Ok(())
}

#[test]
fn somebody_else_s_schema_is_not_taken_over_and_a_failed_step_leaves_nothing() -> Result<()> {
    let place = Place::empty()?;
    place.psql("CREATE SCHEMA lockgate; GRANT ALL ON SCHEMA lockgate TO PUBLIC")?;
    let refused = migrate(&place.as_owner(), SCHEMA_VERSION).unwrap_err().to_string();
    ensure!(refused.contains("belongs to the role postgres"), "{refused}");
    place.psql("DROP SCHEMA lockgate CASCADE")?;
    // A role that may make no roles fails in the first step.
    place.psql(&format!("ALTER ROLE {OWNER} NOCREATEROLE"))?;
    let refused = migrate(&place.as_owner(), SCHEMA_VERSION).unwrap_err().to_string();
    ensure!(refused.contains("permission denied"), "{refused}");
    ensure!(schema(&place.as_owner())?.version == 0);
    ensure!(place.psql("SELECT count(*) FROM pg_tables WHERE schemaname = 'lockgate'")? == "1");
    place.psql(&format!("ALTER ROLE {OWNER} CREATEROLE"))?;
    ensure!(migrate(&place.as_owner(), SCHEMA_VERSION)?.version == SCHEMA_VERSION);
    Ok(())
}
