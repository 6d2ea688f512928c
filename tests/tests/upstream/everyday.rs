//! Reads as applications send them, on a database as applications have one: they are judged reads, and the server runs them in
//! a transaction that may only read. Judging too much is a bug as well: it makes people wait for nothing.

use anyhow::{Result, ensure};
use lockgate_inspect::sql::{Inspector, SessionState};
use lockgate_model::{addr::UpstreamAddr, sql::SqlClass};
use lockgate_proxy::{
    catalogue::Catalogue,
    tls::UpstreamTls,
    upstream::{Credential, Endpoint},
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use lockgate_wire::postgres::PgString;

const SCHEMA: &str = include_str!("../../fixtures/everyday/schema.sql");
const READS: &str = include_str!("../../fixtures/everyday/reads.sql");

/// Fewer would mean that the file is not what it was.
const READS_LEAST: usize = 90;

#[tokio::test]
async fn what_applications_read_is_a_read() -> Result<()> {
    let options = PostgresOptions::new().setting("shared_preload_libraries", "pg_stat_statements");
    let server = TestPostgres::start(options)?;
    server.psql(SCHEMA)?;
    server.psql("ALTER DATABASE postgres SET search_path = app, public")?;
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", UpstreamTls::disable());
    let catalogue =
        Catalogue::new(endpoint, Credential::trusted("postgres"), PgString::from_static("postgres"));
    let catalogue = catalogue.load().await?;
    let mut state = SessionState::default();
    state.parameter_status("server_version", "15.18");
    state.parameter_status("standard_conforming_strings", "on");
    let reads: Vec<&str> = READS.lines().filter(|line| !line.starts_with("--")).collect();
    ensure!(reads.len() >= READS_LEAST, "{} reads", reads.len());
    let (mut broken, mut wrong) = (Vec::new(), Vec::new());
    for sql in &reads {
        if let Err(error) = server.psql(&format!("BEGIN READ ONLY; {sql}; ROLLBACK")) {
            broken.push(format!("{sql}\n    {error:#}"));
        }
        let script = Inspector.script(sql, &state, Some(&catalogue));
        if script.class() != SqlClass::Read {
            let facts: Vec<_> = script.statements.iter().map(|one| one.sql()).collect();
            wrong.push(format!("{sql}\n    {facts:?}"));
        }
    }
    ensure!(broken.is_empty(), "the server refuses:\n{}", broken.join("\n"));
    ensure!(wrong.is_empty(), "{} of {} are over-judged:\n{}", wrong.len(), reads.len(), wrong.join("\n"));
    Ok(())
}
