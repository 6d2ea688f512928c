//! A whole agent behind a shared store: what a job does is recorded there, and goes on when the database is away.

use crate::place::{Place, agent, lines, until};
use anyhow::{Context, Result, ensure};
use lockgate_store::search::Query;
use lockgate_tests::{
    agent::{Agent, AgentOptions, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
};
use serde_json::Value;
use std::sync::Arc;

/// The harness's agents are all called so.
const NODE: &str = "test-node";

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: store }
rules:
- id: reads
  match: { target: { name: shop }, sql: { class: [read, session, transaction] } }
  effect: allow
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_s_statements_are_recorded_whether_the_database_is_there_or_not() -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "agents need root: sudo -E cargo xtask e2e");
    // The store blocks, as files do.
    let mut place = tokio::task::block_in_place(|| -> Result<Place> {
        let place = Place::ready()?;
        place.enrol(NODE)?;
        Ok(place)
    })?;
    let shop = TestPostgres::start(PostgresOptions::new().auth(HostAuth::Scram))?;
    shop.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
    let password = shop.socket_dir().join("app.password");
    std::fs::write(&password, "app-secret\n")?;
    let mut node = Agent::start(AgentOptions {
        run_uids: vec![JOB_UID],
        policy: POLICY.to_owned(),
        targets: vec![target("shop", shop.port(), "app", &password, "env: test")],
        shared: Some(format!(
            "postgres://{}@{}/{}?sslmode=disable",
            agent(NODE),
            place.server.addr(),
            place.database
        )),
        ..AgentOptions::default()
    })
    .await?;
    let port = shop.port().to_string();
    let ask = |statement: &'static str| {
        let words = ["127.0.0.1", port.as_str(), "postgres", statement];
        let [host, port, database, statement] = words;
        job::governed(&node, JOB_UID, &[], &job::psql(host, port, database, &[statement]))
    };
    let (there, away) = (ask("SELECT 'recorded-there'"), ask("SELECT 'recorded-meanwhile'"));
    let done = job::run(there).await?;
    ensure!(done.code == Some(0), "{done:?}");
    arrives(&place, "recorded-there")?;
    let status = |node: &Agent| -> Result<Value> {
        let output = node.cli(&["api", "get", "/v1/status"])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(serde_json::from_slice::<Value>(&output.stdout)?["shared"].clone())
    };
    let told = status(&node)?;
    ensure!(told["error"].is_null() && told["through"].as_u64() > Some(0), "{told}");

    Arc::get_mut(&mut place.server).context("nobody else has it")?.kill()?;
    until("it is told", || status(&node).is_ok_and(|told| told["error"].is_string()))?;
    let done = job::run(away).await?;
    ensure!(done.code == Some(0), "reads go on: {done:?}");
    // What is spooled outlives the agent, too.
    node.terminate().await?;
    node.launch().await?;
    ensure!(status(&node)?["waiting_bytes"].as_u64() > Some(0), "{}", status(&node)?);
    Arc::get_mut(&mut place.server).context("nobody else has it")?.restart()?;
    arrives(&place, "recorded-meanwhile")?;
    node.terminate().await?;
    // An orderly end leaves nothing behind.
    let here = lines(&node.store());
    let count =
        place.psql(&format!("SELECT count(*), max(seq) FROM lockgate.record WHERE node = '{NODE}'"))?;
    ensure!(count == format!("{0}|{0}", here.len()), "{count} there, {} here", here.len());
    Ok(())
}

/// Waits until a word of this node's records is found.
fn arrives(place: &Place, word: &str) -> Result<()> {
    let query = Query { text: Some(word.to_owned()), target: Some("shop".to_owned()), ..Query::default() };
    let shared = place.shared();
    let found = || {
        let found = shared.search(&query).map(|found| found.hits).unwrap_or_default();
        found.iter().any(|hit| hit.node.as_ref().is_some_and(|node| node.as_str() == NODE))
    };
    tokio::task::block_in_place(|| until(&format!("{word} is found"), found))
}
