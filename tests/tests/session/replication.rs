//! Replication connections with PostgreSQL's own clients: denied unless a rule names them, recorded command by command.

use crate::world::{Options, Said, World};
use anyhow::{Context, Result, ensure};
use lockgate_model::{event::EventKind, operation::Facts, verdict::Effect};
use lockgate_tests::{postgres::PostgresOptions, scratch::Scratch, through::ALLOW_ALL};
use std::{path::Path, process::Stdio};

const REPLICATES: &str = r#"
- id: backups
  match: { sql: { kinds: [replication] } }
  effect: allow
"#;
/// The same, and a mask that would apply to all that is read.
const MASKED: &str = r#"
- id: masked
  match: {}
  effect: none
  mask: { columns: [{ match: "*.*.ssn", method: redact }] }
"#;

fn world(policy: &str) -> Result<World> {
    let server = PostgresOptions::new().setting("wal_level", "logical");
    let world = World::with(
        &[],
        Options { policy: Some(policy.to_owned()), server: Some(server), ..Options::default() },
    )?;
    world.server.psql("ALTER ROLE app REPLICATION")?;
    Ok(world)
}

fn run(world: &World, program: &str, arguments: &[&str]) -> Result<Said> {
    let output = world.command(program).args(arguments).stdin(Stdio::null()).output().context("a client")?;
    Ok(Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}

fn path(dir: &Path) -> String {
    dir.display().to_string()
}

/// Kinds of what was allowed.
fn allowed(world: &World) -> Vec<String> {
    let kinds = world.recorder.events().into_iter().filter_map(|event| match event {
        EventKind::OperationDecided { operation, verdict, .. } if verdict.effect == Effect::Allow => {
            let Facts::Sql(facts) = &*operation.facts else { return None };
            Some(facts.kind.clone())
        }
        _ => None,
    });
    kinds.collect()
}

#[test]
fn replication_is_denied_unless_a_rule_names_it() -> Result<()> {
    for (policy, why) in [
        (ALLOW_ALL.to_owned(), "no rule that names replication allows it"),
        (format!("{ALLOW_ALL}{REPLICATES}{MASKED}"), "cannot be masked"),
    ] {
        let world = world(&policy)?;
        let place = Scratch::new("replication")?;
        let (waldir, backup) = (path(place.path()), path(&place.path().join("backup")));
        for (program, arguments) in [
            ("pg_receivewal", &["-D", waldir.as_str(), "--no-loop"][..]),
            ("pg_basebackup", &["-D", backup.as_str()]),
            ("pg_recvlogical", &["-d", "orders", "-S", "s", "--create-slot", "--no-loop"]),
            ("psql", &["-X", "dbname=orders replication=database", "-c", "SELECT 1"]),
        ] {
            let said = run(&world, program, arguments)?;
            ensure!(said.code != Some(0), "{program}: {said:?}");
            for part in ["lockgate: denied REPLICATION", "(decision dec_", why] {
                ensure!(said.err.contains(part), "{part:?} is missing: {program}: {said:?}");
            }
        }
        ensure!(allowed(&world).is_empty(), "{:?}", allowed(&world));
        // What says that it is none is an ordinary session.
        let said = run(&world, "psql", &["-X", "-At", "dbname=orders replication=off", "-c", "SELECT 1"])?;
        ensure!(said.out == "1\n", "{said:?}");
        let (started, ended) = world.finish()?;
        ensure!(started == ended && started >= 5, "{started} sessions started, {ended} ended");
    }
    Ok(())
}

#[test]
fn backups_and_streams_work_under_a_rule_and_are_recorded() -> Result<()> {
    let world = world(&format!("{ALLOW_ALL}{REPLICATES}"))?;
    let place = Scratch::new("replication")?;
    let backup = place.path().join("backup");
    let said = run(&world, "pg_basebackup", &["-D", &path(&backup), "-X", "stream", "-c", "fast"])?;
    ensure!(said.code == Some(0), "{said:?}");
    ensure!(backup.join("PG_VERSION").is_file() && backup.join("global/pg_control").is_file());

    let slot = ["-d", "orders", "-S", "s", "--no-loop"];
    let with = |more: &[&str]| run(&world, "pg_recvlogical", &[&slot[..], more].concat());
    let said = with(&["--create-slot", "-P", "test_decoding"])?;
    ensure!(said.code == Some(0), "{said:?}");
    world.server.psql_in("orders", "INSERT INTO orders VALUES (7000, 'x', 'y', 'streamed')")?;
    let end = world.server.psql("SELECT pg_current_wal_insert_lsn()")?;
    world.server.psql_in("orders", "INSERT INTO orders VALUES (7001, 'x', 'y', 'behind the end')")?;
    let said = with(&["--start", "-f", "-", "--endpos", &end])?;
    ensure!(said.code == Some(0) && said.out.contains("streamed"), "{said:?}");
    let said = with(&["--drop-slot"])?;
    ensure!(said.code == Some(0), "{said:?}");

    world.server.psql("SELECT pg_switch_wal()")?;
    let wal = place.path().join("wal");
    std::fs::create_dir(&wal)?;
    let end = world.server.psql("SELECT pg_current_wal_lsn()")?;
    let said = run(&world, "pg_receivewal", &["-D", &path(&wal), "--no-loop", "--endpos", &end])?;
    ensure!(said.code == Some(0), "{said:?}");

    // Statements on such a connection are statements.
    let said = run(
        &world,
        "psql",
        &["-X", "-At", "dbname=orders replication=database", "-c", "IDENTIFY_SYSTEM", "-c", "SELECT 41 + 1"],
    )?;
    ensure!(said.code == Some(0) && said.out.ends_with("42\n"), "{said:?}");

    let allowed = allowed(&world);
    for kind in [
        "replication",
        "replication_identify",
        "replication_base_backup",
        "replication_create_slot",
        "replication_start",
        "replication_drop_slot",
        "select",
    ] {
        ensure!(allowed.iter().any(|got| got == kind), "{kind} is missing: {allowed:?}");
    }
    let (started, ended) = world.finish()?;
    ensure!(started == ended, "{started} sessions started, {ended} ended");
    Ok(())
}
