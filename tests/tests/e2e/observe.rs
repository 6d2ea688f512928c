//! Observe: nothing is redirected, and who talks to what is in the record.

use crate::world::World;
use anyhow::{Result, ensure};
use lockgate_tests::job::{self, JOB_UID};
use serde_json::Value;
use std::time::{Duration, Instant};

/// A user that is only observed.
const WATCHED_UID: u32 = 65_532;
/// Records of a period of a second come within some; the machine may be busy.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// A psql that logs in as the target's own role: what a job does before lockgate is there.
fn direct<'a>(port: &'a str, statement: &'a str) -> Vec<&'a str> {
    vec!["psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-p", port, "-U", "app", "-d", "shop", "-c", statement]
}

const PASSWORD: &[(&str, &str)] = &[("PGPASSWORD", "app-secret")];

/// The observations of one principal, once they fulfil something.
async fn observed(world: &World, principal: &str, enough: impl Fn(&[Value]) -> bool) -> Result<Vec<Value>> {
    let until = Instant::now() + RECORDED_WITHIN;
    loop {
        let mut seen = world.agent.json(&["sessions", "observed"])?["observed"].take();
        let mut seen: Vec<Value> = seen.as_array_mut().map(std::mem::take).unwrap_or_default();
        seen.retain(|line| line["principal"] == principal);
        if enough(&seen) {
            return Ok(seen);
        }
        ensure!(Instant::now() < until, "not observed: {principal}\n{}", world.agent.log_text()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn sum(lines: &[Value], key: &str) -> u64 {
    lines.iter().filter_map(|line| line[key].as_u64()).sum()
}

#[tokio::test]
async fn an_observed_user_is_not_redirected_and_recorded() -> Result<()> {
    let world = World::with(crate::world::POLICY, |options, _| {
        options.govern.push(format!("{{ uid: [{WATCHED_UID}], mode: observe }}"));
        options.run_uids.push(WATCHED_UID);
        options.extra.push_str("observe: { every: 1s }\n");
    })
    .await?;
    let port = world.pg.port().to_string();
    for statement in ["select 41 + 1", "create table seen_directly()"] {
        let done = job::run(job::ungoverned(WATCHED_UID, PASSWORD, &direct(&port, statement))).await?;
        ensure!(done.code == Some(0), "an observed job goes where it meant to: {done:?}");
    }
    ensure!(world.target_saw("create table seen_directly()")?, "nothing was held");
    let principal = format!("uid:{WATCHED_UID}");
    let lines = observed(&world, &principal, |lines| {
        sum(lines, "connections") >= 2 && sum(lines, "bytes_received") > 0
    })
    .await?;
    let line = &lines[0];
    assert_eq!(line["destination"], format!("127.0.0.1:{port}"), "{line}");
    assert_eq!(line["target"], "orders-db", "{line}");
    assert_eq!((&line["protocol"], &line["assurance"]), (&"tcp".into(), &"kernel".into()), "{line}");
    assert_eq!(sum(&lines, "connections"), 2, "{lines:?}");
    assert!(sum(&lines, "bytes_sent") > 100 && sum(&lines, "bytes_received") > 100, "{lines:?}");
    assert!(world.events("session_started")?.is_empty(), "nothing of it passed lockgate");
    assert!(world.events("gap")?.is_empty(), "{:?}", world.events("gap")?);

    // What governs more goes before: the observed user does not leave a governed cgroup by being observed.
    let governed =
        job::governed(&world.agent, WATCHED_UID, &[], &job::psql("127.0.0.1", &port, "shop", &["select 1"]));
    let done = job::run(governed).await?;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "1"), "{done:?}");
    assert_eq!(world.recorded("session_started", 1).await?.len(), 1, "it was captured");
    let text = world.agent.log_text()?;
    assert!(!text.contains("app-secret"), "no secret is in the record");
    Ok(())
}

#[tokio::test]
async fn a_target_in_observe_is_reached_directly_and_its_callers_are_recorded() -> Result<()> {
    let world = World::with(crate::world::POLICY, |options, _| {
        options.targets[0] = options.targets[0].replace("  upstream:", "  mode: observe\n  upstream:");
        options.extra.push_str("observe: { every: 1s }\n");
    })
    .await?;
    let port = world.pg.port().to_string();
    let done = job::run(job::governed(&world.agent, JOB_UID, PASSWORD, &direct(&port, "select 7"))).await?;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "7"), "{done:?}");
    let principal = format!("uid:{JOB_UID}");
    let lines =
        observed(&world, &principal, |lines| lines.iter().any(|line| line["target"] == "orders-db")).await?;
    assert!(lines.iter().any(|line| line["destination"] == format!("127.0.0.1:{port}")), "{lines:?}");
    assert!(world.events("session_started")?.is_empty());
    assert!(world.agent.log().contains("mode: observe"), "it is said at load");
    Ok(())
}

#[tokio::test]
async fn an_agent_in_observe_redirects_nobody_and_records_at_its_end_what_it_had_not_yet() -> Result<()> {
    let mut world = World::with(crate::world::POLICY, |options, _| {
        options.extra.push_str("mode: observe\nobserve: { every: 1h }\n");
    })
    .await?;
    let port = world.pg.port().to_string();
    let done =
        job::run(job::governed(&world.agent, JOB_UID, PASSWORD, &direct(&port, "drop table orders"))).await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(world.agent.log().contains("mode: observe for everything"), "{}", world.agent.log());
    world.agent.terminate().await?;
    let lines = observed(&world, &format!("uid:{JOB_UID}"), |lines| !lines.is_empty()).await?;
    assert_eq!(lines[0]["destination"], format!("127.0.0.1:{port}"), "{lines:?}");
    Ok(())
}
