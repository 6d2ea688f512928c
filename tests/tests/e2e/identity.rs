//! Who a job is, proven: the real agent reads proof from a real, unchanged process, asks a CI system's server over TLS, and
//! policy lets in the one that is confirmed. The CI system is a stand-in; signatures, processes and hooks are real.

use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    job::{self, Done, JOB_UID},
    provider::{CiServer, now},
};
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: identity }
groups: { dba: { oidc: "groups:dba" } }
rules:
- id: billing-reads
  match:
    identity: { kind: ci_job, repository: acme/billing, confirmed: true, assurance: attested }
    sql: { class: [read, session, transaction] }
  effect: allow
- id: agents-read-nothing
  match: { identity: { kind: agent }, sql: { class: read } }
  effect: deny
"#;

async fn world(ci: &CiServer, identity: &str) -> Result<World> {
    let scratch = lockgate_tests::scratch::Scratch::new("identity")?;
    // Read when the agent starts.
    let ca = scratch.write("ca.pem", &ci.ca_pem())?;
    let identity = identity.replace("URL", &ci.url()).replace("HOST", &ci.authority());
    let identity = identity.replace("CA", &ca.display().to_string());
    World::with(POLICY, |options, _| options.extra = format!("identity:\n{identity}")).await
}

/// A governed psql in a cgroup of its own, with a job's environment.
async fn psql(world: &World, environment: &[(&str, &str)]) -> Result<Done> {
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", &["SELECT 40 + 2"]);
    job::run(job::governed(&world.agent, JOB_UID, environment, &command)).await
}

/// The last session's record.
async fn session(world: &World, count: usize) -> Result<Value> {
    let events = world.recorded("session_started", count).await?;
    find(events.last().context("a session")?, "workload").context("no workload in the record")
}

/// The object that holds this key, at any depth.
fn find(value: &Value, key: &str) -> Option<Value> {
    match value {
        Value::Object(object) if object.contains_key(key) => Some(value.clone()),
        Value::Object(object) => object.values().find_map(|inner| find(inner, key)),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn claims() -> Value {
    json!({
        "aud": "lockgate", "project_path": "acme/billing", "job_id": "302", "pipeline_id": "574",
        "pipeline_source": "push", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
        "ref_protected": "true", "user_login": "carla", "sha": "714a629", "runner_id": 7,
    })
}

fn changed(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

const OIDC: &str = "  issuers:\n  - { provider: gitlab, issuer: \"URL\", audience: lockgate, variable: LOCKGATE_ID_TOKEN, ca: \"CA\" }\n";

#[tokio::test]
async fn a_signed_token_lets_its_job_in_and_no_other() -> Result<()> {
    let ci = CiServer::start().await?;
    let world = world(&ci, OIDC).await?;
    let token = ci.token(&claims());
    let done = psql(&world, &[("LOCKGATE_ID_TOKEN", &token), ("GITLAB_CI", "true")]).await?;
    ensure!(done.stdout.trim() == "42", "{done:?}\n{}", world.agent.log_text()?);
    let record = session(&world, 1).await?;
    ensure!(record["principal"]["id"] == "gitlab:acme/billing", "{record}");
    ensure!(record["principal"]["kind"] == "ci_job" && record["principal"]["assurance"] == "attested");
    ensure!(record["workload"]["ci"]["actor"] == "carla" && record["workload"]["ci"]["job_id"] == "302");
    // The same token in another job's environment.
    let borrowed = psql(&world, &[("LOCKGATE_ID_TOKEN", &token)]).await?;
    ensure!(borrowed.code != Some(0) && borrowed.stdout.is_empty(), "{borrowed:?}");
    let record = session(&world, 2).await?;
    let why = record["workload"]["ci"]["unconfirmed"].as_str().unwrap_or_default();
    ensure!(why.contains("first shown by cgroup"), "{record}");
    ensure!(record["principal"]["id"] == format!("uid:{JOB_UID}"), "{record}");
    // Bad ones, each from a job of its own.
    let mut count = 2;
    let none = format!(
        "{}.{}.",
        "eyJhbGciOiJub25lIiwia2lkIjoidGVzdC1rZXkifQ",
        token.split('.').nth(1).unwrap_or("")
    );
    for (token, why) in [
        (ci.token(&changed("exp", json!(now() - 60))), "it expired"),
        (ci.token(&changed("nbf", json!(now() + 300))), "not valid for another"),
        (ci.token(&changed("aud", json!("somebody-else"))), "it is for \"somebody-else\""),
        (ci.token(&changed("iss", json!("https://evil.example.com"))), "its issuer is"),
        (CiServer::start().await?.token(&changed("iss", json!(ci.url()))), "signature is not the issuer's"),
        (none, "its algorithm is none"),
    ] {
        let claims = [
            ("LOCKGATE_ID_TOKEN", token.as_str()),
            ("GITLAB_CI", "true"),
            ("CI_PROJECT_PATH", "acme/billing"),
        ];
        let done = psql(&world, &claims).await?;
        ensure!(done.code != Some(0) && done.stdout.is_empty(), "{why}: {done:?}");
        count += 1;
        let record = session(&world, count).await?;
        let got = record["workload"]["ci"]["unconfirmed"].as_str().unwrap_or_default();
        ensure!(got.contains(why), "expected {why:?}, got {got:?}");
    }
    // No record, log or notification ever holds a token.
    let secret = token.rsplit('.').next().unwrap_or_default();
    ensure!(!world.agent.log_text()?.contains(secret) && !world.agent.log().contains(secret));
    Ok(())
}

#[tokio::test]
async fn a_gitlab_job_is_confirmed_by_the_configured_server() -> Result<()> {
    let ci = CiServer::start().await?;
    let identity = "  providers:\n  - { provider: gitlab, url: \"URL\", runners: [\"32\"], ca: \"CA\" }\n";
    let world = world(&ci, identity).await?;
    ci.serve(
        "/api/v4/job",
        json!({
            "id": 8, "name": "migrate", "status": "running", "ref": "main", "tag": false, "stage": "deploy",
            "web_url": format!("{}/acme/billing/-/jobs/8", ci.url()), "user": { "username": "carla" },
            "commit": { "id": "0ff3ae1", "author_name": "Cleo", "author_email": "cleo@example.com" },
            "pipeline": { "id": 6, "sha": "0ff3ae1" }, "runner": { "id": 32, "description": "build-7" },
        }),
    );
    let environment =
        [("CI_JOB_TOKEN", "glcbt-secret"), ("GITLAB_CI", "true"), ("CI_PROJECT_PATH", "acme/payroll")];
    let done = psql(&world, &environment).await?;
    ensure!(done.stdout.trim() == "42", "{done:?}\n{}", world.agent.log_text()?);
    let record = session(&world, 1).await?;
    ensure!(record["principal"]["id"] == "gitlab:acme/billing", "{record}");
    ensure!(ci.asked("/api/v4/job").first().is_some_and(|headers| headers["job-token"] == "glcbt-secret"));
    ensure!(!world.agent.log_text()?.contains("glcbt-secret"));
    // One that only says so.
    let done = psql(&world, &[("GITLAB_CI", "true"), ("CI_PROJECT_PATH", "acme/billing")]).await?;
    ensure!(done.code != Some(0), "{done:?}");
    Ok(())
}

#[tokio::test]
async fn githubs_token_is_asked_for_on_configured_hosts_only() -> Result<()> {
    let ci = CiServer::start().await?;
    let identity = "  issuers:\n  - { provider: github_actions, issuer: \"URL\", audience: lockgate, request_hosts: [\"HOST\"], \
                    ca: \"CA\" }\n  kinds:\n  - { kind: agent, actors: [\"*-agent\"] }\n";
    let world = world(&ci, identity).await?;
    let facts = |run: &str, actor: &str| {
        json!({ "aud": "lockgate", "repository": "acme/billing", "run_id": run, "run_attempt": "1", "actor": actor,
                "check_run_id": run, "ref": "refs/heads/main", "event_name": "push" })
    };
    ci.serve("/token/1", json!({ "value": ci.token(&facts("1", "bert")) }));
    ci.serve("/token/2", json!({ "value": ci.token(&facts("2", "coding-agent")) }));
    let url = |path: &str| format!("{}{path}?api-version=2.0", ci.url());
    let own = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url("/token/1")),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t".to_owned()),
    ];
    let done = psql(&world, &own.each_ref().map(|(name, value)| (*name, value.as_str()))).await?;
    ensure!(done.stdout.trim() == "42", "{done:?}\n{}", world.agent.log_text()?);
    // An agent's job is confirmed all the same, and a rule says what agents may.
    let agent = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", url("/token/2")),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t".to_owned()),
    ];
    let done = psql(&world, &agent.each_ref().map(|(name, value)| (*name, value.as_str()))).await?;
    ensure!(done.code != Some(0) && done.stderr.contains("agents-read-nothing"), "{done:?}");
    ensure!(session(&world, 2).await?["principal"]["kind"] == "agent");
    // Somewhere else: the stand-in of somebody, who would answer.
    let evil = CiServer::start().await?;
    evil.serve("/token/1", json!({ "value": ci.token(&facts("3", "bert")) }));
    let elsewhere = format!("{}/token/1", evil.url());
    let done = psql(
        &world,
        &[("ACTIONS_ID_TOKEN_REQUEST_URL", &elsewhere), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t")],
    )
    .await?;
    ensure!(done.code != Some(0), "{done:?}");
    ensure!(evil.asked("/token/1").is_empty(), "an address of the job's choice was asked");
    Ok(())
}
