//! `docs/store.md`, typed in. Only what belongs to a place is put in for what is written: host, port, paths.

use crate::place::{PATIENCE, until};
use anyhow::{Context, Result, ensure};
use lockgate_store::{
    Log, LogSettings,
    contract::{record, sample},
    postgres::{Drain, DrainSettings, PostgresSettings},
};
use lockgate_tests::{
    agent::built_binary,
    postgres::{HostAuth, PostgresOptions, TestPostgres},
};
use std::{fs, path::Path, process::Command, sync::Arc};

#[test]
fn the_shared_store_s_page_works_as_it_is_written() -> Result<()> {
    let server = TestPostgres::start(PostgresOptions::new().tls().auth(HostAuth::Scram))?;
    let scratch = tempfile::tempdir()?;
    let dir = scratch.path();
    let own = dir.join("own");
    for (name, text) in [
        ("keeper.password", "of-the-keeper"),
        ("web-1.password", "of-web-1"),
        ("db-ca.pem", &server.ca_pem()?),
    ] {
        fs::write(dir.join(name), text)?;
    }
    // A host that has a store already.
    let log = Log::open(LogSettings::new(&own, "web-1".into()), Arc::new(sample::FixedAmbient::default()))?;
    for n in 0..10 {
        record(&log, vec![sample::mark("there before", n)], lockgate_model::port::Durability::Written)?;
    }
    log.close()?;
    fs::copy(own.join("keys/log.pub"), dir.join("log.pub"))?;
    let document =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../userspace/docs/store.md"))?;
    let place = |text: &str| {
        text.replace("db.internal", &format!("localhost:{}", server.port()))
            .replace("/var/lib/lockgate", &own.display().to_string())
    };
    let (mut said, mut commands, mut kind, mut block) = (String::new(), 0, None, String::new());
    for line in document.lines() {
        match (kind, line.strip_prefix("```")) {
            (None, Some(language)) => (kind, block) = (Some(language), String::new()),
            (None, None) => {}
            (Some(_), None) => block += &format!("{}\n", place(line)),
            (Some(language), Some(_)) => {
                match language {
                    // Databases are made outside transactions, one statement at a time.
                    "sql" => block.lines().try_for_each(|sql| server.psql(sql).map(drop))?,
                    "yaml" => fs::write(dir.join("lockgate.yaml"), &block)?,
                    "console" => {
                        for command in block.lines() {
                            let words = command.strip_prefix("# lockgate ").context("a command of root's")?;
                            let output = Command::new(built_binary("lockgate")?)
                                .args(words.split(' '))
                                .env("LOCKGATE_CONFIG", dir.join("lockgate.yaml"))
                                .current_dir(dir)
                                .output()?;
                            ensure!(output.status.success(), "{command}: {output:?}");
                            said += &String::from_utf8(output.stdout)?;
                            commands += 1;
                        }
                    }
                    other => anyhow::bail!("a block of {other:?} is checked by nobody"),
                }
                kind = None;
            }
        }
    }
    ensure!(commands == 7, "{commands} commands");
    for expected in [
        "0001 records",
        "writes as node web-1",
        "10 records of node web-1 went",
        "web-1: 10 records",
        "intact",
    ] {
        ensure!(said.contains(expected), "{expected:?} was not said: {said}");
    }
    // With the address and the password of the page's agent, its log goes on.
    let url = place("postgres://lockgate-web-1@db.internal/lockgate");
    ensure!(fs::read_to_string(dir.join("lockgate.yaml"))?.contains(&url));
    let password = lockgate_model::Secret::new("of-web-1".to_owned());
    let settings = PostgresSettings::parse(&url)?.password(Some(password)).ca(Some(server.ca_pem()?));
    let log = Log::open(LogSettings::new(&own, "web-1".into()), Arc::new(sample::FixedAmbient::default()))?;
    let drain =
        Drain::start(&log, DrainSettings { place: settings, node: "web-1".into(), spool_bytes: 1 << 30 })?;
    let last = record(&log, vec![sample::mark("goes on", 1)], lockgate_model::port::Durability::Synced)?;
    until("it arrives", || drain.status().through >= last)?;
    ensure!(drain.wait_for(last, PATIENCE));
    Ok(())
}
