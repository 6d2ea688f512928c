//! Drivers and tools in their default settings, unmodified, in a governed cgroup: each does what a job does with it (see
//! `tests/drivers`), once directly and once through lockgate with everything allowed and recorded. What it saw must be
//! the same to the letter, and every connection must have one closing record.
//!
//! What the clients are and how they get here is `xtask/src/drivers.rs`: a client that is missing fails its test.

mod tools;

use anyhow::{Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    installed::{client_source as source, installed},
    postgres::{HostAuth, PostgresOptions},
    scratch::Scratch,
    through::{Route, Through},
};
use std::path::Path;

/// A server with one database for each route, and an agent before it.
async fn world() -> Result<Through> {
    ensure!(nix::unistd::geteuid().is_root(), "the driver tests need root: sudo -E cargo xtask e2e");
    let server = PostgresOptions::new().auth(HostAuth::Trust).setting("max_prepared_transactions", "5");
    let world = Through::with(server, |_| {}).await?;
    for database in ["straight", "gated"] {
        world.pg.psql(&format!("CREATE DATABASE {database}"))?;
    }
    Ok(world)
}

/// Runs the client both ways and compares.
async fn same_both_ways(client: &[&str]) -> Result<()> {
    let world = world().await?;
    let mut seen = Vec::new();
    for (route, database) in [(Route::Direct, "straight"), (Route::Lockgate, "gated")] {
        let running = world.job(route, &[("PGDATABASE", database)], client);
        let done = lockgate_tests::job::run(running).await?;
        ensure!(done.code == Some(0), "{route:?}: {}\n{}\n{}", done.stdout, done.stderr, world.agent.log());
        seen.push(done.stdout);
    }
    let [straight, gated] = &seen[..] else { anyhow::bail!("two runs") };
    ensure!(straight.lines().count() >= 5, "the client says too little: {straight}");
    for (line, (straight, gated)) in straight.lines().zip(gated.lines()).enumerate() {
        ensure!(straight == gated, "line {}:\ndirectly {straight}\nthrough  {gated}", line + 1);
    }
    ensure!(straight == gated, "directly:\n{straight}\nthrough:\n{gated}");
    world.closings_match().await
}

/// One of our scripts, by the interpreter that has the Python clients.
async fn python(script: &str) -> Result<()> {
    let interpreter = installed("python/bin/python3")?;
    same_both_ways(&[&interpreter.display().to_string(), "-I", &source(&format!("python/{script}"))?]).await
}

#[tokio::test]
async fn psycopg_3() -> Result<()> {
    python("psycopg3.py").await
}

#[tokio::test]
async fn asyncpg() -> Result<()> {
    python("asyncpg_client.py").await
}

#[tokio::test]
async fn node_postgres() -> Result<()> {
    // A module finds its packages beside itself.
    let script = installed("node")?.join("client.mjs");
    std::fs::copy(source("node/client.mjs")?, &script)?;
    same_both_ways(&["node", &script.display().to_string()]).await
}

#[tokio::test]
async fn pgjdbc() -> Result<()> {
    let jar = "/usr/share/java/postgresql.jar";
    ensure!(Path::new(jar).exists(), "{jar} is missing: run `cargo xtask setup`");
    same_both_ways(&["java", "-cp", jar, &source("java/Client.java")?]).await
}

#[tokio::test]
async fn libpq() -> Result<()> {
    let scratch = Scratch::new("driver")?;
    let program = scratch.path().join("client").display().to_string();
    let config = tokio::process::Command::new("pg_config").arg("--includedir").output().await?;
    let include = format!("-I{}", String::from_utf8(config.stdout)?.trim());
    let compiled = tokio::process::Command::new("gcc")
        .args(["-Wall", "-Wextra", "-Werror", &include, "-o"])
        .args([&program, &source("c/client.c")?, "-lpq"])
        .output()
        .await?;
    ensure!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    same_both_ways(&[&program]).await
}

async fn rust(driver: &str) -> Result<()> {
    let program = built_binary("lockgate-rust-driver")?;
    same_both_ways(&[&program.display().to_string(), driver]).await
}

#[tokio::test]
async fn tokio_postgres() -> Result<()> {
    rust("tokio-postgres").await
}

#[tokio::test]
async fn sqlx() -> Result<()> {
    rust("sqlx").await
}
