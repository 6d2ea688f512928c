//! What outlives one decision, with real psql: approvals used again, grants, bundles, requests over a restart of the
//! agent, the emergency override.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{self, JOB_UID, Running},
    receiver::{Decision, Delivery},
};
use serde_json::{Value, json};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Everything waits generously: the machine may be busy.
const WITHIN: Duration = Duration::from_secs(60);

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: permission }
groups:
  dba:       { oidc: "groups:dba" }
  commander: { oidc: "groups:commander" }
  security:  { oidc: "groups:security" }
rules:
- id: everyday
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction] } }
  effect: allow
- id: writes-ask
  match: { target: { tags: { env: production } }, sql: { class: write } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 5m
- id: migrations-ask
  match: { target: { tags: { env: production } }, sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 5m
    reuse: { same: [digest, target, identity.run_id], for: 15m, uses: 1 }
    coalesce: { by: [rule], window: 10s }
- id: never-truncate
  match: { sql: { kinds: [truncate] } }
  effect: deny
  final: true
break_glass:
- id: bg-prod
  who: { group: commander }
  lifts: [require_approval]
  requires: { reason: true, ticket: "INC-[0-9]+" }
  max: 30m
  notify: [security]
  review: { by: security, within: 24h, blocks_next_use: true }
"#;

async fn world() -> Result<World> {
    World::with(POLICY, |options, _| {
        options.local_approvers = vec![
            (0, vec!["dba".to_owned(), "security".to_owned()]),
            (JOB_UID, vec!["commander".to_owned(), "security".to_owned()]),
        ];
    })
    .await
}

/// A step of a CI run, as its environment says.
fn step(world: &World, run: &str, statements: &[&str]) -> Result<Running> {
    let environment =
        [("GITHUB_ACTIONS", "true"), ("GITHUB_REPOSITORY", "acme/billing"), ("GITHUB_RUN_ID", run)];
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", statements);
    job::start(job::governed(&world.agent, JOB_UID, &environment, &command))
}

/// Requests that were told so far.
fn told(world: &World) -> Vec<Delivery> {
    let all = world.receiver.deliveries();
    all.into_iter().filter(|delivery| delivery.kind() == "lockgate.approval.requested").collect()
}

/// The next request after those that were told before.
async fn next_told(world: &World, before: usize) -> Result<Delivery> {
    let until = Instant::now() + WITHIN;
    loop {
        let all = told(world);
        if let Some(next) = all.get(before) {
            return Ok(next.clone());
        }
        ensure!(Instant::now() < until, "nobody was told: {}", world.agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn approve(request: &Delivery) -> Decision {
    Decision::on(request, "approve", "ana@example.com", &["dba"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_step_of_the_same_run_finds_its_approval_once() -> Result<()> {
    let world = world().await?;
    let migration = "create table if not exists audit_trail (id int)";
    let first = step(&world, "4711", &[migration])?;
    approve(&next_told(&world, 0).await?).accepted().await?;
    ensure!(first.done().await?.code == Some(0));

    let retried = step(&world, "4711", &[migration])?.done().await?;
    ensure!(retried.code == Some(0) && retried.stderr.contains("used again"), "{retried:?}");
    ensure!(told(&world).len() == 1, "a retried step asked again");

    // Not a byte of difference, not another run, not twice.
    for (run, statement) in [
        ("4711", "create table if not exists audit_trail (id  int)"),
        ("4712", migration),
        ("4711", migration),
    ] {
        let before = told(&world).len();
        let job = step(&world, run, &[statement])?;
        let request = next_told(&world, before).await?;
        Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
        ensure!(job.done().await?.code == Some(1), "{run}: {statement} passed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_lets_the_same_shape_pass_as_often_as_given_then_people_are_asked_again() -> Result<()> {
    let world = world().await?;
    let update = |note: &str, id: u32| format!("update orders set note = '{note}' where id = {id}");
    let first = world.start(&[&update("a", 1)])?;
    let mut decision = approve(&next_told(&world, 0).await?);
    decision.body["data"]["grant"] = json!({ "for": "2h", "uses": 2 });
    let (status, body) = decision.send().await?;
    ensure!(
        status == 422 && body["code"] == "grant_not_allowed",
        "a longer grant than the rules allow: {status} {body}"
    );
    decision.body["data"]["grant"] = json!({ "for": "15m", "uses": 2 });
    decision.accepted().await?;
    ensure!(first.done().await?.code == Some(0));
    world.recorded("grant_made", 1).await?;
    let grants = world.agent.json(&["grants", "list"])?;
    ensure!(grants["grants"][0]["left"] == 2, "{grants}");

    for (round, left) in [(1, 1), (2, 0)] {
        let passed = world.psql(&[&update(&format!("b{round}"), round)]).await?;
        ensure!(passed.code == Some(0), "{passed:?}");
        ensure!(passed.stderr.contains(&format!("{left} uses left")), "{passed:?}");
    }
    ensure!(told(&world).len() == 1, "a granted statement asked people");
    world.recorded("grant_ended", 1).await?;

    for other in [update("c", 1), "update orders set note = 'd' where customer_id = 1".to_owned()] {
        let before = told(&world).len();
        let job = world.start(&[&other])?;
        let request = next_told(&world, before).await?;
        Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
        ensure!(job.done().await?.code == Some(1), "{other} passed");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_loses_a_grant_at_the_moment_it_is_revoked() -> Result<()> {
    let world = world().await?;
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", &[]);
    let mut psql = job::governed(&world.agent, JOB_UID, &[], &command).stdin(Stdio::piped()).spawn()?;
    let mut stdin = psql.stdin.take().context("stdin")?;
    let mut stdout = BufReader::new(psql.stdout.take().context("stdout")?).lines();
    let mut say = async |line: &str| -> Result<()> {
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(stdin.flush().await?)
    };
    say("update orders set note = 'one' where id = 1;").await?;
    let mut decision = approve(&next_told(&world, 0).await?);
    decision.body["data"]["grant"] = json!({ "for": "15m" });
    decision.accepted().await?;
    let answer =
        async |lines: &mut tokio::io::Lines<BufReader<tokio::process::ChildStdout>>| -> Result<String> {
            let line = tokio::time::timeout(WITHIN, lines.next_line()).await.context("psql is silent")??;
            line.context("psql has ended")
        };
    ensure!(answer(&mut stdout).await? == "UPDATE 1");
    say("update orders set note = 'two' where id = 1;").await?;
    ensure!(answer(&mut stdout).await? == "UPDATE 1");
    ensure!(told(&world).len() == 1);

    // Inside a transaction when it is taken back.
    say("begin;").await?;
    ensure!(answer(&mut stdout).await? == "BEGIN");
    say("update orders set note = 'two and a half' where id = 1;").await?;
    ensure!(answer(&mut stdout).await? == "UPDATE 1");

    let grants = world.agent.json(&["grants", "list"])?;
    let grant = grants["grants"][0]["id"].as_str().context("a grant")?.to_owned();
    let revoked = world.agent.cli(&["grants", "revoke", &grant, "--reason", "done"])?;
    ensure!(revoked.status.success(), "{revoked:?}");
    say("update orders set note = 'three' where id = 1;").await?;
    let request = next_told(&world, 1).await?;
    ensure!(!world.target_saw("three")?, "the session kept a revoked grant");
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    say("rollback;").await?;
    ensure!(answer(&mut stdout).await? == "ROLLBACK");
    say("select note from orders where id = 1;").await?;
    ensure!(answer(&mut stdout).await? == "two");
    drop(stdin);
    tokio::time::timeout(WITHIN, psql.wait()).await??;
    let ended = world.recorded("grant_ended", 1).await?;
    ensure!(ended[0].to_string().contains("revoked"), "{ended:?}");
    Ok(())
}

/// psycopg 3 that updates a note a line: by one prepared statement, or by the executions of one pipeline that is never synced.
const DRIVER: &str = r#"
import contextlib, sys, psycopg
mode, port = sys.argv[1], sys.argv[2]
update = "update orders set note = %s where id = 1 returning note"
with psycopg.connect(host="127.0.0.1", port=port, user="whoever", dbname="shop", autocommit=True) as connection:
    try:
        with connection.pipeline() if mode == "pipeline" else contextlib.nullcontext():
            for line in sys.stdin:
                # Fetching flushes; only the pipeline's end syncs.
                row = connection.execute(update, (line.strip(),), prepare=True).fetchone()
                print("did", row[0], flush=True)
    except psycopg.Error as error:
        print("refused", str(error).replace("\n", " "), flush=True)
"#;

/// A governed process that is told what to do line by line.
struct Told {
    child: tokio::process::Child,
    stdin: tokio::process::ChildStdin,
    said: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Told {
    fn start(world: &World, mode: &str) -> Result<Self> {
        let python = lockgate_tests::installed::installed("python/bin/python3")?.display().to_string();
        let port = world.pg.port().to_string();
        let command = [&*python, "-I", "-c", DRIVER, mode, &port];
        // As root: the interpreter may lie where nobody else looks.
        let mut child = job::governed(&world.agent, 0, &[], &command).stdin(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take().context("stdin")?;
        let said = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, stdin, said })
    }

    async fn say(&mut self, line: &str) -> Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.stdin.flush().await?)
    }

    async fn hear(&mut self) -> Result<String> {
        let line = tokio::time::timeout(WITHIN, self.said.next_line()).await.context("it is silent")??;
        line.context("it has ended")
    }

    /// The next request after those that were told before, while the process waits for it.
    async fn held(&mut self, world: &World, before: usize) -> Result<Delivery> {
        tokio::select! {
            request = next_told(world, before) => request,
            said = self.said.next_line() => anyhow::bail!("nothing was held: {said:?}"),
        }
    }

    /// Approves, with a grant, whatever is held before the process says that it did something; how much that was.
    async fn passes(&mut self, world: &World, before: usize, lifetime: &str) -> Result<usize> {
        let mut asked = 0;
        loop {
            tokio::select! {
                request = next_told(world, before + asked) => {
                    let mut decision = approve(&request?);
                    decision.body["data"]["grant"] = json!({ "for": lifetime });
                    decision.accepted().await?;
                    asked += 1;
                }
                said = self.said.next_line() => {
                    let said = said?.context("it has ended")?;
                    ensure!(said.starts_with("did ") && asked > 0, "{said}");
                    return Ok(asked);
                }
            }
        }
    }

    async fn end(self) -> Result<()> {
        let Self { mut child, stdin, said } = self;
        drop((stdin, said));
        tokio::time::timeout(WITHIN, child.wait()).await??;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_lost_between_two_executions_of_one_prepared_statement() -> Result<()> {
    loses_its_grant("prepared").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_lost_inside_an_open_pipeline() -> Result<()> {
    loses_its_grant("pipeline").await
}

/// Grants in force.
fn granted(world: &World) -> Result<Vec<String>> {
    let list = world.agent.json(&["grants", "list"])?;
    let grants = list["grants"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(grants.iter().filter_map(|grant| grant["id"].as_str().map(str::to_owned)).collect())
}

async fn loses_its_grant(mode: &str) -> Result<()> {
    let world = world().await?;
    for (round, lifetime) in ["15m", "3s"].into_iter().enumerate() {
        let note = |step: &str| format!("{mode}-{lifetime}-{step}");
        let before = told(&world).len();
        let ended_before = world.events("grant_ended")?.len();
        let mut job = Told::start(&world, mode)?;
        job.say(&note("first")).await?;
        // Its Parse is asked for by itself where a Sync or Flush comes behind it.
        let asked = job.passes(&world, before, lifetime).await?;
        if lifetime == "15m" {
            // In force: nobody is asked. Then taken back by hand.
            job.say(&note("granted")).await?;
            ensure!(job.hear().await? == format!("did {}", note("granted")), "{mode}");
            ensure!(told(&world).len() == before + asked, "{mode}: a granted execution asked people");
            for grant in granted(&world)? {
                let revoked = world.agent.cli(&["grants", "revoke", &grant, "--reason", "done"])?;
                ensure!(revoked.status.success(), "{revoked:?}");
            }
        }
        let until = Instant::now() + WITHIN;
        while world.events("grant_ended")?.len() == ended_before || !granted(&world)?.is_empty() {
            ensure!(Instant::now() < until, "{mode} {lifetime}: the grant does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        job.say(&note("after")).await?;
        let request = job.held(&world, before + asked).await?;
        ensure!(
            !world.target_saw(&note("after"))?,
            "{mode} {lifetime}: the target saw what was granted no more"
        );
        Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
        let refused = job.hear().await?;
        ensure!(refused.starts_with("refused") && refused.contains("deny by ana"), "{round}: {refused}");
        job.end().await?;
        ensure!(!world.target_saw(&note("after"))?, "{mode} {lifetime}: the target saw it after all");
    }
    let ended = serde_json::to_string(&world.events("grant_ended")?)?;
    ensure!(ended.contains("revoked") && ended.contains("expired"), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_retries_at_once_one_passes_on_the_approval_and_one_asks() -> Result<()> {
    let world = world().await?;
    for round in 0..3 {
        let migration = format!("create table if not exists raced_{round} (id int)");
        let run = format!("47{round}");
        let before = told(&world).len();
        let first = step(&world, &run, &[&migration])?;
        let asked = next_told(&world, before).await?;
        approve(&asked).accepted().await?;
        ensure!(first.done().await?.code == Some(0));

        let (one, other) = (step(&world, &run, &[&migration])?, step(&world, &run, &[&migration])?);
        let request = next_told(&world, before + 1).await?;
        ensure!(request.data()["command_digest"] == asked.data()["command_digest"], "{:#}", request.data());
        ensure!(request.data()["request_id"] != asked.data()["request_id"], "{:#}", request.data());
        Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
        let ends = [one.done().await?, other.done().await?];
        let passed: Vec<_> = ends.iter().filter(|done| done.code == Some(0)).collect();
        ensure!(passed.len() == 1, "round {round}: {ends:?}");
        ensure!(passed[0].stderr.contains("used again"), "round {round}: {ends:?}");
        ensure!(told(&world).len() == before + 2, "round {round}: {} were told", told(&world).len() - before);
    }
    let resolved = serde_json::to_string(&world.recorded("approval_resolved", 9).await?)?;
    ensure!(resolved.matches("\"on\":\"reuse\"").count() == 3, "{resolved}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_migrations_are_one_message_and_one_decision() -> Result<()> {
    let world = world().await?;
    let statements: Vec<String> = (0..40).map(|n| format!("create table bundle_{n} (id int)")).collect();
    let script = statements.join("; ");
    let job = world.start(&[&script])?;
    let request = next_told(&world, 0).await?;
    let data = request.data();
    ensure!(data["bundle"]["size"] == 40, "{data:#}");
    ensure!(data["request_id"].as_str().is_some_and(|id| id.starts_with("bnd_")), "{data:#}");
    ensure!(!world.target_saw("bundle_0")?, "the target saw a held statement");

    // A decision on something else than what was shown does not count.
    let mut crossed = approve(&request);
    crossed.body["data"]["command_digest"] = "ab".repeat(32).into();
    let (status, body) = crossed.send().await?;
    ensure!(status == 409 && body["code"] == "digest_mismatch", "{status} {body}");

    let (status, body) = approve(&request).send().await?;
    ensure!(status == 200 && body["counted"] == 40 && body["state"] == "approved", "{status} {body}");
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(world.target_saw("bundle_39")?);
    ensure!(told(&world).len() == 1, "more than one message: {:?}", told(&world).len());
    world.recorded("approval_resolved", 40).await?;
    let ends = |delivery: &Delivery| delivery.kind() == "lockgate.approval.approved";
    world.receiver.wait_for(WITHIN, ends).await?;
    ensure!(world.receiver.deliveries().iter().filter(|delivery| ends(delivery)).count() == 1);
    Ok(())
}

/// psql sends a file's statements one after the other, each waiting for the last.
#[tokio::test(flavor = "multi_thread")]
async fn forty_migrations_sent_one_by_one_are_one_message_and_one_decision() -> Result<()> {
    let world = world().await?;
    let statements: Vec<String> = (0..40)
        .map(|n| match n % 2 {
            0 => format!("create table seq_{n} (id int)"),
            _ => format!("alter table seq_{} add column note text", n - 1),
        })
        .collect();
    let each: Vec<&str> = statements.iter().map(String::as_str).collect();
    let job = step(&world, "4711", &each)?;
    let request = next_told(&world, 0).await?;
    ensure!(request.data()["bundle"].is_null(), "one statement waits: {:#}", request.data());
    let mut decision = approve(&request);
    // What may follow is spelled out, or is what was shown.
    decision.body["data"]["grant"] = json!({ "for": "15m", "uses": 39, "kinds": ["alter_table"] });
    let (status, body) = decision.send().await?;
    ensure!(status == 400 && body["detail"].to_string().contains("covers"), "{status} {body}");
    decision.body["data"]["grant"] =
        json!({ "for": "15m", "uses": 39, "covers": "bundle", "kinds": ["create_table", "alter_table"] });
    decision.accepted().await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(told(&world).len() == 1, "{} messages", told(&world).len());
    ensure!(world.target_saw("seq_38 add column")?);
    // Each of them has its own record, bound to its own digest.
    let asked = world.recorded("approval_requested", 40).await?;
    let digests: std::collections::BTreeSet<String> =
        asked.iter().map(|event| event["data"]["command_digest"].to_string()).collect();
    ensure!(digests.len() == 40, "{} digests", digests.len());
    let ended = world.recorded("approval_resolved", 40).await?;
    let on_grant = ended.iter().filter(|event| event.to_string().contains("\"on\":\"grant\"")).count();
    ensure!(on_grant == 39, "{on_grant} on the grant");
    world.recorded("grant_ended", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_bundle_is_not_another_kind_or_rule_nor_what_was_denied() -> Result<()> {
    let mut world = world().await?;
    let job = step(&world, "4711", &["create table rest_0 (id int)"])?;
    let request = next_told(&world, 0).await?;
    let mut decision = approve(&request);
    decision.body["data"]["grant"] = json!({ "for": "15m", "covers": "bundle" });
    decision.accepted().await?;
    ensure!(job.done().await?.code == Some(0));
    let grants = world.agent.json(&["grants", "list"])?;
    ensure!(
        grants["grants"][0]["covers"] == "bundle" && grants["grants"][0]["kinds"] == json!(["create_table"]),
        "{grants}"
    );
    for other in ["drop table rest_0", "alter table rest_0 add x int", "insert into orders (id) values (991)"]
    {
        let before = told(&world).len();
        let job = step(&world, "4711", &[other])?;
        let request = next_told(&world, before).await?;
        Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
        ensure!(job.done().await?.code == Some(1), "{other} passed");
    }
    let truncated = step(&world, "4711", &["truncate orders"])?.done().await?;
    ensure!(truncated.code == Some(1) && truncated.stderr.contains("never-truncate"), "{truncated:?}");
    // It outlives the agent, is used again, and is taken back by hand.
    world.agent.kill();
    world.agent.launch().await?;
    let before = told(&world).len();
    let passed = step(&world, "4711", &["create table rest_1 (id int)"])?.done().await?;
    ensure!(passed.code == Some(0) && told(&world).len() == before, "{passed:?}");
    let id = grants["grants"][0]["id"].as_str().context("id")?.to_owned();
    ensure!(world.agent.cli(&["grants", "revoke", &id])?.status.success());
    let job = step(&world, "4711", &["create table rest_2 (id int)"])?;
    let request = next_told(&world, before).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(job.done().await?.code == Some(1));
    Ok(())
}

/// Forty jobs at once, each with a statement of its own.
#[tokio::test(flavor = "multi_thread")]
async fn forty_sessions_of_one_identity_are_one_message_over_a_restart_and_one_decision() -> Result<()> {
    let mut world = world().await?;
    let statements: Vec<String> = (0..40).map(|n| format!("create table wide_{n} (id int)")).collect();
    let start = |world: &World| -> Result<Vec<Running>> {
        statements.iter().map(|text| world.start(&[text.as_str()])).collect()
    };
    let jobs = start(&world)?;
    let bundle = told_whole(&world, 40).await?;
    let ids: std::collections::BTreeSet<String> =
        told(&world).iter().map(|delivery| delivery.data()["request_id"].to_string()).collect();
    ensure!(ids.len() == 1, "more than one message: {ids:?}");

    // Nobody's client lives through this, and the bundle does.
    world.agent.kill();
    for job in jobs {
        ensure!(job.done().await?.code != Some(0));
    }
    world.agent.launch().await?;
    let jobs = start(&world)?;
    let until = Instant::now() + WITHIN;
    loop {
        let list = world.agent.json(&["approvals", "list", "--limit", "100"])?;
        let waiting = list["approvals"].as_array().map(Vec::as_slice).unwrap_or_default();
        let id = &bundle.data()["request_id"];
        if waiting.len() == 40 && waiting.iter().all(|one| one["left"] == false && one["bundle_id"] == *id) {
            break;
        }
        ensure!(Instant::now() < until, "not taken up whole: {list}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What people were told before the restart still decides.
    let (status, body) = approve(&bundle).send().await?;
    ensure!(status == 200 && body["counted"] == 40 && body["state"] == "approved", "{status} {body}");
    for job in jobs {
        let done = job.done().await?;
        ensure!(done.code == Some(0), "{done:?}");
    }
    ensure!(world.target_saw("wide_39")?);
    Ok(())
}

/// The bundle's message once all are in it: those that come late are told again under the same id.
async fn told_whole(world: &World, size: usize) -> Result<Delivery> {
    let whole = |delivery: &Delivery| {
        matches!(delivery.kind(), "lockgate.approval.requested" | "lockgate.approval.updated")
            && delivery.data()["bundle"]["size"] == size
    };
    world.receiver.wait_for(WITHIN, whole).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_joins_the_bundle_and_a_decision_on_what_was_shown_before_is_refused() -> Result<()> {
    let world = world().await?;
    let first: Vec<Running> = (0..2)
        .map(|n| world.start(&[format!("create table late_{n} (id int)").as_str()]))
        .collect::<Result<_>>()?;
    let told_first = told_whole(&world, 2).await?;
    let late = world.start(&["create table late_2 (id int)"])?;
    let all = told_whole(&world, 3).await?;
    ensure!(all.data()["request_id"] == told_first.data()["request_id"], "another message");
    ensure!(all.kind() == "lockgate.approval.updated", "{}", all.kind());
    let (status, body) = approve(&told_first).send().await?;
    ensure!(status == 409 && body["code"] == "digest_mismatch", "{status} {body}");
    ensure!(!world.target_saw("late_0")?);
    let (status, body) = approve(&all).send().await?;
    ensure!(status == 200 && body["counted"] == 3, "{status} {body}");
    for job in first.into_iter().chain([late]) {
        ensure!(job.done().await?.code == Some(0));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_denial_of_a_bundle_refuses_all_of_it() -> Result<()> {
    let world = world().await?;
    let job = world.start(&["create table gone_1 (id int); create table gone_2 (id int)"])?;
    let request = next_told(&world, 0).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    let done = job.done().await?;
    ensure!(done.code == Some(1) && done.stderr.contains("deny by ana@example.com"), "{done:?}");
    ensure!(!world.target_saw("gone_1")? && !world.target_saw("gone_2")?);
    Ok(())
}

/// The one request that waits, as the command line shows it.
async fn pending(world: &World) -> Result<Value> {
    let until = Instant::now() + WITHIN;
    loop {
        let list = world.agent.json(&["approvals", "list"])?;
        match list["approvals"].as_array().map(Vec::as_slice) {
            Some([one]) => return Ok(one.clone()),
            _ => ensure!(Instant::now() < until, "{list}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_outlives_the_agent_and_the_next_try_finds_what_people_decided() -> Result<()> {
    let mut world = world().await?;
    let update = "update orders set note = 'later' where id = 1";
    let job = world.start(&[update])?;
    let request = next_told(&world, 0).await?;
    world.agent.kill();
    ensure!(job.done().await?.code != Some(0));
    world.agent.launch().await?;

    // People still see it, and decide by the message they got before.
    let waiting = pending(&world).await?;
    ensure!(waiting["id"] == request.data()["request_id"] && waiting["left"] == true, "{waiting}");
    approve(&request).accepted().await?;
    ensure!(!world.target_saw("later")?, "an approval ran a statement whose client is gone");
    let told_before = told(&world).len();
    let retried = world.psql(&[update]).await?;
    ensure!(retried.code == Some(0) && retried.stderr.contains("while its client was gone"), "{retried:?}");
    ensure!(told(&world).len() == told_before, "the retry asked again");

    // It was for one use.
    let again = world.start(&[update])?;
    let second = next_told(&world, told_before).await?;
    Decision::on(&second, "deny", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(again.done().await?.code == Some(1));
    let verify = world.agent.cli(&["audit", "verify"])?;
    ensure!(verify.status.success(), "{verify:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_takes_up_a_request_that_still_waits() -> Result<()> {
    let mut world = world().await?;
    let update = "update orders set note = 'taken up' where id = 1";
    let job = world.start(&[update])?;
    let request = next_told(&world, 0).await?;
    world.agent.kill();
    job.done().await?;
    world.agent.launch().await?;
    pending(&world).await?;
    // The same words by the same identity; another statement is another request.
    let job = world.start(&[update])?;
    let until = Instant::now() + WITHIN;
    while pending(&world).await?["left"] == true {
        ensure!(Instant::now() < until, "nobody took it up: {}", world.agent.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The old message decides.
    approve(&request).accepted().await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(world.target_saw("taken up")?);
    Ok(())
}

/// What an approval is used for again, with an older shelf put back meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_what_outlives_a_restart_brings_no_used_approval_back() -> Result<()> {
    let mut world = world().await?;
    let migration = "create table if not exists rolled_back (id int)";
    let first = step(&world, "4711", &[migration])?;
    approve(&next_told(&world, 0).await?).accepted().await?;
    ensure!(first.done().await?.code == Some(0));
    let shelf = world.agent.scratch().path().join("store/shelf");
    let copy = world.agent.scratch().path().join("older");
    let lease = |dir: &std::path::Path| -> Result<usize> {
        let names = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
        Ok(names.iter().filter(|name| name.file_name().to_string_lossy().ends_with(".reuse")).count())
    };
    let until = Instant::now() + WITHIN;
    while lease(&shelf)? == 0 {
        ensure!(Instant::now() < until, "the approval is not kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::create_dir(&copy)?;
    for file in std::fs::read_dir(&shelf)? {
        let file = file?;
        std::fs::copy(file.path(), copy.join(file.file_name()))?;
    }
    let retried = step(&world, "4711", &[migration])?.done().await?;
    ensure!(retried.code == Some(0), "{retried:?}");
    world.agent.kill();
    for file in std::fs::read_dir(&copy)? {
        let file = file?;
        std::fs::copy(file.path(), shelf.join(file.file_name()))?;
    }
    world.agent.launch().await?;
    let before = told(&world).len();
    let again = step(&world, "4711", &[migration])?;
    let request = next_told(&world, before).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(again.done().await?.code == Some(1), "a used approval came back with an older shelf");
    let gaps = world.recorded("gap", 1).await?;
    ensure!(gaps.iter().any(|gap| gap["data"]["stage"] == "shelf"), "{gaps:?}");
    ensure!(world.agent.cli(&["audit", "verify"])?.status.success());
    Ok(())
}

/// `lockgate …` as a user who has just logged in at a terminal.
async fn at_a_terminal(world: &World, uid: u32, command: &str) -> Result<job::Done> {
    let line =
        format!("{} {command} --config {}", world.agent.binary().display(), world.agent.config().display());
    job::run(job::ungoverned(uid, &[], &["script", "-qec", &line, "/dev/null"])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn breaking_the_glass_lifts_the_wait_alerts_and_owes_a_review() -> Result<()> {
    let world = world().await?;
    let update = "update orders set note = 'emergency' where id = 1";
    let ask = "breakglass use bg-prod --reason 'checkout is down' --ticket INC-4711 --for 10m";

    // Not without a login, not for others, not without what the block requires.
    let (binary, config) =
        (world.agent.binary().display().to_string(), world.agent.config().display().to_string());
    let bare =
        [&binary, "breakglass", "use", "bg-prod", "--reason", "x", "--ticket", "INC-1", "--config", &config];
    let bare = job::run(job::ungoverned(JOB_UID, &[], &bare)).await?;
    ensure!(bare.code == Some(3) && bare.stderr.contains("logged in"), "{bare:?}");
    for (uid, command, why) in [
        (JOB_UID - 1, ask, "no groups"),
        (JOB_UID, "breakglass use bg-prod --ticket INC-1", "reason"),
        (JOB_UID, "breakglass use bg-prod --reason x --ticket 'see INC-1'", "ticket"),
        (JOB_UID, "breakglass use bg-prod --reason x --ticket INC-1 --for 2h", "at most 30m"),
        (JOB_UID, "breakglass use other --reason x", "bg-prod"),
    ] {
        let refused = at_a_terminal(&world, uid, command).await?;
        ensure!(refused.code != Some(0) && refused.stdout.contains(why), "{command}: {refused:?}");
    }
    ensure!(world.events("glass_broken")?.is_empty());

    let broken = at_a_terminal(&world, JOB_UID, ask).await?;
    ensure!(broken.code == Some(0), "{broken:?}");
    let alert =
        world.receiver.wait_for(WITHIN, |delivery| delivery.kind() == "lockgate.breakglass.used").await?;
    ensure!(
        alert.data()["ticket"] == "INC-4711" && alert.data()["reason"] == "checkout is down",
        "{alert:?}"
    );
    let passed = world.psql(&[update]).await?;
    ensure!(passed.code == Some(0), "{passed:?}");
    ensure!(told(&world).is_empty());
    // A final deny stays, and every operation says on what it passed.
    let denied = world.psql(&["truncate orders"]).await?;
    ensure!(denied.code == Some(1) && denied.stderr.contains("never-truncate"), "{denied:?}");
    let decided = world.events("operation_decided")?;
    ensure!(decided.iter().any(|event| event.to_string().contains("break_glass")), "{decided:?}");

    let id = alert.data()["id"].as_str().context("id")?.to_owned();
    let ended = world.agent.cli(&["breakglass", "end", &id])?;
    ensure!(ended.status.success(), "{ended:?}");
    let held = world.start(&[update])?;
    let request = next_told(&world, 0).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(held.done().await?.code == Some(1));

    // The next use waits for somebody else's look.
    let again = at_a_terminal(&world, JOB_UID, ask).await?;
    ensure!(again.code != Some(0) && again.stdout.contains("has not reviewed"), "{again:?}");
    let own = at_a_terminal(&world, JOB_UID, &format!("breakglass review {id}")).await?;
    ensure!(own.code != Some(0) && own.stdout.contains("their own"), "{own:?}");
    let reviewed = world.agent.cli(&["breakglass", "review", &id, "--note", "as the runbook says"])?;
    ensure!(reviewed.status.success(), "{reviewed:?}");
    let again = at_a_terminal(&world, JOB_UID, ask).await?;
    ensure!(again.code == Some(0), "{again:?}");
    world.recorded("glass_reviewed", 1).await?;
    Ok(())
}
