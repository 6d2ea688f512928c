//! The job's side tries to get around: other addresses, other processes, a dead proxy, broken bytes.

use crate::world::{POLICY, World, database};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, SUPERUSER_PASSWORD},
};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_dial_ends_in_the_proxy() -> Result<()> {
    let mut world = World::new().await?;
    let six = database(
        PostgresOptions::new()
            .auth(HostAuth::Scram)
            .setting("listen_addresses", "127.0.0.1,::1")
            .hba("host all all ::1/128 scram-sha-256"),
    )?;
    world = replace_server(world, six).await?;
    let port = world.pg.port().to_string();
    for host in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "0.0.0.0", "::ffff:0.0.0.0", "0"] {
        let done = job::run(job::governed(
            &world.agent,
            JOB_UID,
            &[("PGPASSWORD", "old-and-wrong")],
            &job::psql(host, &port, "shop", &["select 'passed'", "delete from orders"]),
        ))
        .await?;
        // Directly, the wrong password would be refused; through lockgate it is not even asked for.
        ensure!(done.stdout.trim() == "passed", "{host}: {done:?}");
        ensure!(done.stderr.contains("no-unbounded-write"), "{host} went around policy: {done:?}");
    }
    Ok(())
}

async fn replace_server(world: World, pg: lockgate_tests::postgres::TestPostgres) -> Result<World> {
    drop(world);
    let password = pg.socket_dir().join("app.password");
    std::fs::write(&password, "app-secret")?;
    let replaced = World::with(POLICY, |options, _| {
        options.targets = vec![lockgate_tests::agent::target(
            "orders-db",
            pg.port(),
            "app",
            &password,
            "env: production, pci: \"true\"",
        )];
    })
    .await?;
    Ok(World { pg, ..replaced })
}

#[tokio::test(flavor = "multi_thread")]
async fn other_processes_are_untouched() -> Result<()> {
    let world = World::new().await?;
    let port = world.pg.port().to_string();
    let statements = ["delete from orders where id = 2", "select count(*), max(ssn) from customers"];
    let command = [
        "psql",
        "-X",
        "-A",
        "-t",
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        "postgres",
        "-d",
        "shop",
        "-c",
        statements[0],
        "-c",
        statements[1],
    ];
    for uid in [0, JOB_UID - 1] {
        let done = job::run(job::ungoverned(uid, &[("PGPASSWORD", SUPERUSER_PASSWORD)], &command)).await?;
        ensure!(done.code == Some(0) && done.stdout.contains("2|123-45-6789"), "uid {uid}: {done:?}");
    }
    ensure!(world.events("session_started")?.is_empty(), "an ungoverned process was captured");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_proxy_refuses_at_once() -> Result<()> {
    let mut world = World::new().await?;
    // The job is governed before the proxy dies; it dials after.
    let port = world.pg.port().to_string();
    let script = format!(
        "sleep 1.5; psql -X -h 127.0.0.1 -p {port} -U postgres -d shop -c 'select 1'; PGPASSWORD={SUPERUSER_PASSWORD} psql -X -h ::ffff:127.0.0.1 -p {port} -U postgres -d shop -c 'select 2'"
    );
    let running = job::start(job::governed(&world.agent, JOB_UID, &[], &["sh", "-c", &script]))?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.agent.kill();
    let done = running.done().await?;
    ensure!(done.code == Some(2), "{done:?}");
    ensure!(done.stderr.matches("Connection refused").count() == 2, "{done:?}");
    ensure!(done.elapsed < Duration::from_secs(6), "the refusal was slow: {done:?}");
    // Nobody else noticed.
    let command =
        ["psql", "-X", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "shop", "-c", "select 3"];
    let done = job::run(job::ungoverned(0, &[("PGPASSWORD", SUPERUSER_PASSWORD)], &command)).await?;
    ensure!(done.code == Some(0), "{done:?}");
    // `run` without an agent never runs its command.
    let started = Instant::now();
    let done = job::run(job::governed(&world.agent, JOB_UID, &[], &["touch", "/tmp/lockgate-never"])).await?;
    ensure!(done.code == Some(125), "{done:?}");
    ensure!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    ensure!(!std::path::Path::new("/tmp/lockgate-never").exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn run_gives_the_exit_code_and_refuses_strangers() -> Result<()> {
    let world = World::new().await?;
    for (command, code) in [
        (vec!["sh", "-c", "exit 7"], Some(7)),
        (vec!["true"], Some(0)),
        (vec!["/nonexistent/command"], Some(127)),
        (vec!["sh", "-c", "kill -TERM $$"], None),
    ] {
        let done = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
        ensure!(done.code == code, "{command:?}: {done:?}");
    }
    let stranger = job::run(job::governed(&world.agent, 12345, &[], &["true"])).await?;
    ensure!(stranger.code == Some(125), "{stranger:?}");
    let inside = job::run(job::governed(&world.agent, JOB_UID, &[], &["cat", "/proc/self/cgroup"])).await?;
    ensure!(inside.stdout.contains(&world.agent.governed_cgroup()), "{inside:?}");
    Ok(())
}

/// Bytes a hostile job sends first, in hexadecimal, and how long the answer may take.
const GARBAGE: &[(&str, &str)] = &[
    ("random bytes", "deadbeefcafebabe0011223344556677"),
    ("HTTP", "474554202f20485454502f312e310d0a0d0a"),
    ("half a startup packet", "0000004000030000757365"),
    ("a 1 GB startup length", "3fffffff00030000"),
    ("a negative length", "ffffffff00030000"),
    ("a TLS ClientHello", "16030100c8010000c40303"),
    ("protocol 2", "0000000900020000"),
    ("an unknown protocol", "00000009ffff0000"),
    ("a startup without a user", "0000000900030000 00"),
    ("a 1 GB query", "00000020000300007573657200780064617461626173650073686f700000 00 51 3fffffff"),
    ("nothing at all", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn broken_bytes_end_with_an_error_and_one_closing_record_each() -> Result<()> {
    let world = World::new().await?;
    let client = world.agent.scratch().path().join("raw-client");
    std::fs::copy(built_binary("lockgate-raw-client")?, &client)?;
    let client = client.display().to_string();
    let addr = world.pg.addr().to_string();
    for (what, hex) in GARBAGE {
        let hex = hex.replace(' ', "");
        // The client half-closes after its bytes: a peer that promises more and sends nothing must not hang the proxy.
        let command = [client.as_str(), &addr, &hex];
        let done = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
        ensure!(done.code == Some(0), "{what}: {done:?}");
    }
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        let closings = world.events("session_ended")?.len() + world.events("flow_refused")?.len();
        if closings == GARBAGE.len() {
            break;
        }
        ensure!(closings <= GARBAGE.len(), "{closings} closing records for {} flows", GARBAGE.len());
        ensure!(Instant::now() < until, "{closings} closing records for {} flows", GARBAGE.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And it still serves.
    ensure!(world.psql(&["select 1"]).await?.code == Some(0));
    ensure!(!world.agent.log().contains("panicked"), "{}", world.agent.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_costs_bounded_memory() -> Result<()> {
    let world = World::new().await?;
    let client = world.agent.scratch().path().join("raw-client");
    std::fs::copy(built_binary("lockgate-raw-client")?, &client)?;
    let client = client.display().to_string();
    let addr = world.pg.addr().to_string();
    // Protocol 3.0.
    let startup = frame(None, b"\0\x03\0\0user\0x\0database\0shop\0\0");
    let query = frame(Some(b'Q'), b"select repeat('x', 1000) from generate_series(1, 300000)\0");
    let bytes = hex::encode([startup, query].concat());
    let before = resident_kib(world.agent.pid().context("pid")?)?;
    let job = job::start(job::governed(
        &world.agent,
        JOB_UID,
        &[],
        &[&client, &addr, &bytes, "--never-read", "4000"],
    ))?;
    tokio::time::sleep(Duration::from_millis(3000)).await;
    let after = resident_kib(world.agent.pid().context("pid")?)?;
    ensure!(after < before + 64 * 1024, "300 MB for a client that never reads: {before} KiB → {after} KiB");
    job.done().await?;
    world.recorded("session_ended", 1).await?;
    Ok(())
}

fn frame(tag: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = tag.into_iter().collect();
    out.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(body);
    out
}

fn resident_kib(pid: u32) -> Result<u64> {
    std::fs::read_to_string(format!("/proc/{pid}/status"))?
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("VmRSS")
}
