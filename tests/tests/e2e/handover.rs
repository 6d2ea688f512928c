//! From one agent to the next: nobody is refused, nobody is direct, and nobody waits for an agent that does not come.

use crate::world::{POLICY, World};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    job::{self, JOB_UID},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Logs in again and again, and says who it was logged in as, or why not. The target itself would refuse this password.
const LOAD: &str = r#"
end=$(($(date +%s) + $SECONDS_OF_LOAD))
while [ "$(date +%s)" -lt "$end" ]; do
  psql -X -At -h 127.0.0.1 -p "$PORT" -U postgres -d shop -c 'select current_user' 2>&1 | tr '\n' ' '
  echo
done
"#;

const RESTARTS: usize = 3;
const CLIENTS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_binary_takes_over_under_load_and_nobody_is_refused_or_direct() -> Result<()> {
    let mut world = World::new().await?;
    let port = world.pg.port().to_string();
    let environment =
        [("PORT", port.as_str()), ("PGPASSWORD", "not the target's"), ("SECONDS_OF_LOAD", "15")];
    let load = (0..CLIENTS)
        .map(|_| job::start(job::governed(&world.agent, JOB_UID, &environment, &["sh", "-c", LOAD])))
        .collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut pids = vec![world.agent.pid()];
    for _ in 0..RESTARTS {
        // As a package manager does it: another file in the old one's place, while that still runs.
        let binary = world.agent.binary().to_owned();
        std::fs::remove_file(&binary)?;
        std::fs::copy(built_binary("lockgate")?, &binary)?;
        world.agent.terminate().await?;
        world.agent.launch().await?;
        pids.push(world.agent.pid());
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    pids.dedup();
    ensure!(pids.len() == RESTARTS + 1, "{pids:?}");
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for client in load {
        for line in client.done().await?.stdout.lines() {
            *outcomes.entry(line.trim().to_owned()).or_default() += 1;
        }
    }
    let is_served = |line: &str| line == "app" || line.ends_with(" app");
    let served: usize = outcomes.iter().filter(|(line, _)| is_served(line)).map(|(_, count)| count).sum();
    // A debug build on a busy machine serves few.
    ensure!(served >= 2 * CLIENTS, "{outcomes:?}");
    // A session that had begun may be told that lockgate stops. Refused, reset, silent or direct is nobody.
    let told = |line: &str| line.contains("lockgate: stopping");
    ensure!(outcomes.keys().all(|line| line == "app" || told(line)), "{outcomes:?}");
    let told: usize = outcomes.iter().filter(|(line, _)| told(line)).map(|(_, count)| count).sum();
    ensure!(told <= RESTARTS * CLIENTS, "{told} were told to go: {outcomes:?}");
    ensure!(world.agent.log().contains("listeners were kept open"), "{}", world.agent.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_flight_is_finished_by_the_agent_that_leaves() -> Result<()> {
    let mut world = World::new().await?;
    let running = world.start(&["select pg_sleep(2), 'finished' as outcome"])?;
    let until = Instant::now() + Duration::from_secs(20);
    while !world.target_saw("pg_sleep(2)")? {
        ensure!(Instant::now() < until, "the statement does not arrive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.agent.terminate().await?;
    let done = running.done().await?;
    ensure!(done.stdout.contains("finished"), "{done:?}");
    world.agent.launch().await?;
    ensure!(world.psql(&["select 1"]).await?.code == Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_agent_comes_back_in_time_connections_are_refused_at_once() -> Result<()> {
    let mut world = World::with(POLICY, |options, _| options.restart_grace = Some("2s".to_owned())).await?;
    let script = r#"
        read go
        for i in 1 2; do psql -X -h 127.0.0.1 -p "$PORT" -U postgres -d shop -c 'select 1' 2>&1; date +%s.%N; done
    "#;
    let port = world.pg.port().to_string();
    let fifo = world.agent.scratch().path().join("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666))?;
    let script = script.replace("read go", &format!("read go < {}", fifo.display()));
    let environment = [("PORT", port.as_str())];
    let running = job::start(job::governed(&world.agent, JOB_UID, &environment, &["sh", "-c", &script]))?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.agent.terminate().await?;
    let left = Instant::now();
    std::fs::write(&fifo, "go\n")?;
    let done = running.done().await?;
    // The first waited for the bound, the second was refused at once.
    let elapsed = left.elapsed();
    ensure!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}: {done:?}");
    ensure!(done.stdout.contains("Connection refused"), "{done:?}");
    ensure!(!done.stdout.contains("1 row"), "{done:?}");
    // Nothing is left of the keeper, and the next agent serves.
    ensure!(!world.agent.store().join("keeper.sock").exists());
    world.agent.launch().await?;
    let served = world.psql(&["select 1"]).await?;
    served.code.filter(|code| *code == 0).context("the next agent serves")?;
    Ok(())
}
