//! Held statements: approved, denied, timed out, cancelled, abandoned; and decisions that must not count.

use crate::world::{POLICY, World};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    job::{self, JOB_UID},
    receiver::Decision,
};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const ALTER: &str = "alter table orders add column extra text";

#[tokio::test(flavor = "multi_thread")]
async fn held_until_the_webhook_approves() -> Result<()> {
    let world = World::new().await?;
    let mut job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    // Long enough for a leak to show: the target sees zero bytes of it while it is held.
    tokio::time::sleep(Duration::from_millis(700)).await;
    ensure!(job.waits(), "the client did not wait");
    ensure!(!world.target_saw(ALTER)?, "the target saw a held statement");

    let data = request.data();
    for (path, expected) in [
        ("/operation/class", "ddl"),
        ("/target/name", "orders-db"),
        ("/target/tags/env", "production"),
        ("/identity/process/uid", "65534"),
    ] {
        let value = data.pointer(path).with_context(|| format!("{path} is missing: {data:#}"))?;
        ensure!(value.to_string().trim_matches('"') == expected, "{path}: {value}");
    }
    for path in ["/request_id", "/command_digest", "/decision_url", "/expires_at", "/need", "/in_transaction"]
    {
        ensure!(data.pointer(path).is_some(), "{path} is missing: {data:#}");
    }

    Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let done = job.done().await?;
    ensure!(done.code == Some(0) && done.stdout.contains("ALTER TABLE"), "{done:?}");
    for part in [
        "NOTICE:  lockgate: waiting for approval",
        "0 of 1",
        "schema-change-dba",
        "http://",
        "ana@example.com",
    ] {
        ensure!(done.stderr.contains(part), "{part:?} is missing: {done:?}");
    }
    ensure!(world.target_saw(ALTER)?);
    for kind in ["approval_requested", "notified", "vote_cast", "approval_resolved", "forwarded"] {
        world.recorded(kind, 1).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn held_and_denied_with_the_approvers_reason() -> Result<()> {
    let world = World::new().await?;
    let job = world.start(&[ALTER, "select 'goes on'"])?;
    let request = world.receiver.requested(ALTER).await?;
    Decision::on(&request, "deny", "ana@example.com", &["dba"]).accepted().await?;
    let done = job.done().await?;
    ensure!(done.stderr.contains("deny by ana@example.com"), "the reason is missing: {done:?}");
    ensure!(done.stdout.contains("goes on"), "{done:?}");
    ensure!(!world.target_saw(ALTER)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_denies_and_is_recorded() -> Result<()> {
    let world = World::new().await?;
    let done = world.psql(&["truncate orders"]).await?;
    ensure!(done.code == Some(1) && done.stderr.contains("dec_"), "{done:?}");
    ensure!(done.elapsed > Duration::from_secs(2), "{done:?}");
    let resolved = world.recorded("approval_resolved", 1).await?;
    ensure!(resolved[0].to_string().contains("expired"), "{resolved:?}");
    ensure!(!world.target_saw("truncate orders")?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_withdraws_the_request_and_the_session_goes_on() -> Result<()> {
    let world = World::new().await?;
    // psql cancels its statement on SIGINT and goes on with the next -c … only interactively; a script file goes on.
    let script = world.agent.scratch().write("held.sql", &format!("{ALTER};\nselect 'goes on';\n"))?;
    let port = world.pg.port().to_string();
    let script = script.display().to_string();
    let command = ["psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", &port, "-d", "shop", "-f", &script];
    let job = job::start(job::governed(&world.agent, JOB_UID, &[], &command))?;
    let request = world.receiver.requested(ALTER).await?;
    job.signal(Signal::SIGINT)?;
    let done = job.done().await?;
    ensure!(done.stderr.contains("cancel"), "{done:?}");
    let resolved = world.recorded("approval_resolved", 1).await?;
    ensure!(resolved[0].to_string().contains("withdrawn"), "{resolved:?}");
    let (status, body) = Decision::on(&request, "approve", "ana@example.com", &["dba"]).send().await?;
    ensure!(status == 410 || status == 409, "a withdrawn request was decided: {status} {body}");
    ensure!(!world.target_saw(ALTER)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_client_withdraws_its_request() -> Result<()> {
    let world = World::new().await?;
    let job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    job.signal(Signal::SIGKILL)?;
    job.done().await?;
    let resolved = world.recorded("approval_resolved", 1).await?;
    ensure!(resolved[0].to_string().contains("disconnected"), "{resolved:?}");
    let (status, _) = Decision::on(&request, "approve", "ana@example.com", &["dba"]).send().await?;
    ensure!(status >= 400, "{status}");
    ensure!(!world.target_saw(ALTER)?);
    world.recorded("session_ended", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_proxy_forwards_nothing_and_says_so_after_restart() -> Result<()> {
    let mut world = World::new().await?;
    let job = world.start(&[ALTER])?;
    world.receiver.requested(ALTER).await?;
    world.agent.kill();
    let done = job.done().await?;
    ensure!(done.code != Some(0), "{done:?}");
    ensure!(!world.target_saw(ALTER)?);
    world.agent.launch().await?;
    // The request waits on, for people and for whoever asks again (permission.rs); its session is over.
    ensure!(world.events("approval_resolved")?.is_empty());
    let waiting = world.agent.json(&["approvals", "list"])?;
    ensure!(waiting["approvals"].as_array().is_some_and(|all| all.len() == 1), "{waiting}");
    let ended = world.recorded("session_ended", 1).await?;
    ensure!(ended.len() == 1 && ended[0].to_string().contains("crash"), "{ended:?}");
    ensure!(!world.target_saw(ALTER)?);
    let verify = world.agent.cli(&["audit", "verify"])?;
    ensure!(verify.status.success(), "{verify:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn approving_one_statement_admits_no_other() -> Result<()> {
    let world = World::new().await?;
    let first = world.start(&["alter table orders add column a text"])?;
    let one = world.receiver.requested("add column a").await?;
    let second = world.start(&["alter table orders add column b text"])?;
    let two = world.receiver.requested("add column b").await?;

    // The digest of one with the request of the other.
    let mut crossed = Decision::on(&two, "approve", "ana@example.com", &["dba"]);
    crossed.body["data"]["command_digest"] = one.data()["command_digest"].clone();
    let (status, body) = crossed.send().await?;
    ensure!(body["code"] == "digest_mismatch", "{status} {body}");

    Decision::on(&one, "approve", "ana@example.com", &["dba"]).accepted().await?;
    let done = first.done().await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(!world.target_saw("add column b")?, "approving A admitted B");
    Decision::on(&two, "deny", "ana@example.com", &["dba"]).accepted().await?;
    ensure!(second.done().await?.code == Some(1));
    // The same statement again is another request.
    let again = world.start(&["alter table orders add column a text"])?;
    world
        .receiver
        .wait_for(Duration::from_secs(10), |delivery| {
            delivery.kind() == "lockgate.approval.requested"
                && delivery.data()["request_id"] != one.data()["request_id"]
                && delivery.data()["operation"]["statement"]
                    .as_str()
                    .is_some_and(|text| text.contains("column a"))
        })
        .await?;
    drop(again);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_that_must_not_count() -> Result<()> {
    let world = World::new().await?;
    let mut job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    let good = || Decision::on(&request, "approve", "ana@example.com", &["dba"]);

    let mut forged = good();
    forged.secret = lockgate_tests::receiver::SECRET.to_owned();
    let mut stale = good();
    stale.timestamp -= 3600;
    let mut unknown = good();
    unknown.body["data"]["request_id"] = "req_01ARZ3NDEKTSV4RRFFQ69G5FAV".into();
    unknown.url = request.data()["decision_url"].as_str().context("decision_url")?.replace(
        request.data()["request_id"].as_str().context("request_id")?,
        "req_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    );
    let stranger = Decision::on(&request, "approve", "eve@example.com", &["oncall"]);
    let itself = Decision::on(&request, "approve", &format!("local:{JOB_UID}"), &["dba"]);
    for (bad, code) in [
        (&forged, "bad_signature"),
        (&stale, "stale"),
        (&unknown, "unknown_request"),
        (&stranger, "group_not_spoken_for"),
        (&itself, "requester"),
    ] {
        let (status, body) = bad.send().await?;
        ensure!((400..500).contains(&status) && body["code"] == code, "{code}: {status} {body}");
        ensure!(body["title"].is_string() && body["status"] == status, "not problem+json: {body}");
    }
    // No number of refused decisions locks out a valid one.
    for _ in 0..200 {
        ensure!(forged.send().await?.0 == 401);
    }
    ensure!(job.waits(), "a refused decision counted");
    ensure!(!world.target_saw(ALTER)?);

    let valid = good();
    valid.accepted().await?;
    let (status, body) = valid.send().await?;
    ensure!(status == 409, "a replay was answered with {status} {body}");
    ensure!(job.done().await?.code == Some(0));
    let refused = world.recorded("decision_refused", 205).await?;
    ensure!(refused.iter().any(|event| event.to_string().contains("group_not_spoken_for")), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_decides_for_listed_uids_only() -> Result<()> {
    let world = World::with(POLICY, |options, _| {
        options.local_approvers = vec![(0, vec!["dba".to_owned()]), (JOB_UID, vec!["dba".to_owned()])];
    })
    .await?;
    let mut job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;
    let id = request.data()["request_id"].as_str().context("request_id")?.to_owned();

    let list = world.agent.json(&["approvals", "list"])?;
    ensure!(list.to_string().contains(&id), "{list}");
    let shown = world.agent.cli(&["approvals", "show", &id])?;
    ensure!(String::from_utf8_lossy(&shown.stdout).contains(ALTER), "{shown:?}");

    // The requester's own uid, though it is listed for the group.
    let config = world.agent.config().display().to_string();
    let binary = world.agent.binary().display().to_string();
    let own = [binary.as_str(), "approvals", "approve", &id, "--reason", "let me", "--config", &config];
    let own = job::run(job::ungoverned(JOB_UID, &[], &own)).await?;
    ensure!(own.code != Some(0), "the requester approved its own request: {own:?}");
    let nobody = [binary.as_str(), "approvals", "approve", &id, "--reason", "let me", "--config", &config];
    let nobody = job::run(job::ungoverned(JOB_UID - 1, &[], &nobody)).await?;
    ensure!(nobody.code != Some(0), "a uid without groups approved: {nobody:?}");
    ensure!(job.waits());

    let approved = world.agent.cli(&["approvals", "approve", &id, "--reason", "change 4711"])?;
    ensure!(approved.status.success(), "{approved:?}");
    let done = job.done().await?;
    ensure!(done.code == Some(0) && done.stderr.contains("change 4711"), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_taken_over_without_restart_and_a_broken_one_is_not() -> Result<()> {
    let world = World::new().await?;
    ensure!(world.psql(&["select 1"]).await?.code == Some(0));
    world.agent.write_policy(&POLICY.replace("class: [read, session", "clas: [read, session"))?;
    world.recorded("policy_rejected", 1).await?;
    ensure!(world.psql(&["select 1"]).await?.code == Some(0), "the last good policy is not in force");
    world.agent.write_policy(&POLICY.replace("class: [read, session", "class: [session"))?;
    world.recorded("policy_loaded", 1).await?;
    let until = Instant::now() + Duration::from_secs(10);
    while world.psql(&["select 1"]).await?.code == Some(0) {
        ensure!(Instant::now() < until, "the changed policy was not taken over: {}", world.agent.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
