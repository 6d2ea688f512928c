//! Instructions that a query costs in user space, counted by callgrind: what a busy machine cannot blur.
//!
//! The data plane runs alone (`lockgate-engine`: proxy, policy, masks, log and index, everything but the kernel side) under
//! callgrind, before a real server; pgbench runs N queries through it, then 2N in another process. The difference is what
//! N queries cost; starting, loading and logging in cancel out. The byte relay is counted the same way.

use crate::ground::{Guard, quiet, reachable, server};
use anyhow::{Context, Result, bail, ensure};
use lockgate_tests::{
    agent::built_binary,
    postgres::TestPostgres,
    scratch::{Scratch, free_port},
};
use std::{
    fmt::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

/// pgbench's modes, and what one query costs in each.
const MODES: [&str; 3] = ["simple", "extended", "prepared"];

/// N.
const QUERIES: u32 = 1000;

/// The programs that are counted.
#[derive(Clone, Copy, Debug)]
enum Counted {
    Engine,
    Relay,
}

/// Counts, and writes the table. `engine` replaces the built `lockgate-engine`, to count an older one.
pub fn measure(engine: Option<PathBuf>) -> Result<String> {
    let pg = server(false)?;
    let engine = engine.map_or_else(|| built_binary("lockgate-engine"), Ok)?;
    let relay = built_binary("lockgate-relay")?;
    let mut out = String::from("| `pgbench -S` | byte relay | lockgate |\n|---|---:|---:|\n");
    for mode in MODES {
        let lockgate = per_query(&pg, Counted::Engine, &engine, mode)?;
        let relay = per_query(&pg, Counted::Relay, &relay, mode)?;
        eprintln!("{mode}: relay {relay}, lockgate {lockgate} instructions a query");
        writeln!(out, "| {mode} | {relay} | {lockgate} |")?;
    }
    Ok(out)
}

fn per_query(pg: &TestPostgres, counted: Counted, program: &PathBuf, mode: &str) -> Result<u64> {
    let few = count(pg, counted, program, mode, QUERIES)?;
    let many = count(pg, counted, program, mode, 2 * QUERIES)?;
    Ok(many.saturating_sub(few) / u64::from(QUERIES))
}

/// Instructions of one run.
fn count(pg: &TestPostgres, counted: Counted, program: &PathBuf, mode: &str, queries: u32) -> Result<u64> {
    let scratch = Scratch::new("callgrind")?;
    let (out, listen) = (scratch.path().join("callgrind.out"), free_port()?);
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet", "--combine-dumps=yes"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([listen.to_string(), pg.port().to_string()]);
    match counted {
        Counted::Engine => drop(command.arg(scratch.path().join("store"))),
        Counted::Relay => {}
    }
    let running = quiet(&mut command)?;
    reachable(listen)?;
    let done = Command::new(pg.program("pgbench"))
        .args(["-n", "-S", "-M", mode, "-c", "1", "-t", &queries.to_string()])
        .args(["-h", "127.0.0.1", "-p", &listen.to_string(), "-U", "app", "postgres"])
        .stdin(Stdio::null())
        .output()?;
    ensure!(done.status.success(), "pgbench: {}", String::from_utf8_lossy(&done.stderr));
    finish(running)?;
    let text = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    let total =
        text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.and_then(|total| total.trim().parse().ok()).context("callgrind wrote no total")
}

/// SIGTERM: callgrind writes what it counted when its program ends.
fn finish(mut running: Guard) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.0.id())?);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
    for _ in 0..3000 {
        if running.0.try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("callgrind did not end")
}
