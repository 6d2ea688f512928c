//! `unmask_for` with real psql: who sees raw values, and everybody who does not.

use crate::world::{CARD, SSN, World};
use anyhow::{Result, ensure};
use lockgate_tests::{
    job::{self, Done, JOB_UID},
    receiver::Decision,
};

/// Somebody who is a member; jobs of the world are not.
const MEMBER: u32 = 1777;

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: unmask }
groups:
  dba: { oidc: "groups:dba" }
  fraud-analysts: { members: ["uid:1777"] }
rules:
- id: reads
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction] } }
  effect: allow
- id: writes-ask
  match: { target: { name: orders-db }, sql: { class: write } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 5m }
- id: personal
  match: { target: { name: orders-db } }
  effect: none
  mask:
    columns: [{ match: "*.*.ssn", method: redact }, { match: "*.*.card_number", method: redact }]
    unmask_for: { group: fraud-analysts }
    unmask_min_assurance: kernel
  record: { results: masked }
- id: cards-stay
  match: { target: { name: orders-db } }
  effect: none
  mask: { columns: [{ match: "*.*.card_number", method: redact }] }
"#;

async fn psql(world: &World, uid: u32, environment: &[(&str, &str)], statement: &str) -> Result<Done> {
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", &[statement]);
    job::run(job::governed(&world.agent, uid, environment, &command)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_sees_raw_values_the_record_says_so_and_nobody_else_does() -> Result<()> {
    let world = World::with(POLICY, |options, _| options.run_uids.push(MEMBER)).await?;
    let statement = "select ssn, card_number from customers where id = 1";
    let raw = psql(&world, MEMBER, &[], statement).await?;
    ensure!(raw.code == Some(0) && raw.stdout.contains(SSN), "a member is masked: {raw:?}");
    ensure!(!raw.stdout.contains(CARD), "another rule masks it too: {raw:?}");
    let claims: &[(&str, &str)] = &[
        ("USER", "fraud-analysts"),
        ("PGAPPNAME", "uid:1777"),
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_REPOSITORY", "acme/fraud"),
        ("GITHUB_ACTOR", "uid:1777"),
    ];
    for environment in [&[][..], claims] {
        let masked = psql(&world, JOB_UID, environment, statement).await?;
        ensure!(masked.code == Some(0) && !masked.stdout.contains(SSN), "{masked:?}");
    }
    let decided = world.recorded("operation_decided", 3).await?;
    let said = |text: &str| decided.iter().filter(|event| event.to_string().contains(text)).count();
    ensure!(said("\"unmasked\":[\"personal\"]") == 1, "{decided:?}");
    world.recorded("responded", 3).await?;
    // Who may see them is shown them; the log is not.
    let whole = serde_json::to_string(&world.agent.events()?)?;
    ensure!(!whole.contains(SSN), "a raw value rests in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_unmasks_nothing() -> Result<()> {
    let world = World::with(POLICY, |options, _| options.run_uids.push(MEMBER)).await?;
    let job = world.start(&["update customers set name = 'A' where id = 1 returning ssn"])?;
    let request = world.receiver.requested("update customers").await?;
    ensure!(!request.event.to_string().contains(SSN));
    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let done = job.done().await?;
    ensure!(!done.stdout.contains(SSN), "{done:?}");
    Ok(())
}
