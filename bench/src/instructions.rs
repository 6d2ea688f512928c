//! Instructions that a query costs in user space, counted by callgrind: what a busy machine cannot blur.
//!
//! The data plane runs alone (`lockgate-engine`: proxy, policy, masks, log and index, everything but the kernel side) under
//! callgrind, before a real server; pgbench runs N queries through it, then 2N in another process. The difference is what
//! N queries cost; starting, loading and logging in cancel out. The byte relay is counted the same way.
//!
//! valgrind's processor has no SHA instructions, so the hash chain falls back to arithmetic there that no machine of the
//! last years would run: thousands of instructions a block instead of some forty. That function is left out and said apart.

use crate::ground::{Guard, quiet, reachable, server};
use anyhow::{Context, Result, bail, ensure};
use lockgate_tests::{
    agent::built_binary,
    postgres::TestPostgres,
    scratch::{Scratch, free_port},
};
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
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

/// What stands in for the processor's SHA instructions under valgrind.
const EMULATED: &str = "sha2::sha256::soft";

/// Instructions, those that stand in for the processor's own hashing apart.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    plain: u64,
    emulated: u64,
}

/// Counts, and writes the table. `engine` replaces the built `lockgate-engine`, to count an older one.
pub fn measure(engine: Option<PathBuf>) -> Result<String> {
    let pg = server(false)?;
    let engine = engine.map_or_else(|| built_binary("lockgate-engine"), Ok)?;
    let relay = built_binary("lockgate-relay")?;
    let mut out = String::from(
        "| `pgbench -S` | byte relay | lockgate | and SHA-256 without the processor's help |\n|---|---:|---:|---:|\n",
    );
    for mode in MODES {
        let lockgate = per_query(&pg, Counted::Engine, &engine, mode)?;
        let relay = per_query(&pg, Counted::Relay, &relay, mode)?;
        eprintln!("{mode}: relay {relay:?}, lockgate {lockgate:?} instructions a query");
        writeln!(out, "| {mode} | {} | {} | {} |", relay.plain, lockgate.plain, lockgate.emulated)?;
    }
    Ok(out)
}

fn per_query(pg: &TestPostgres, counted: Counted, program: &Path, mode: &str) -> Result<Count> {
    let few = count(pg, counted, program, mode, QUERIES)?;
    let many = count(pg, counted, program, mode, 2 * QUERIES)?;
    let each = |many: u64, few: u64| many.saturating_sub(few) / u64::from(QUERIES);
    Ok(Count { plain: each(many.plain, few.plain), emulated: each(many.emulated, few.emulated) })
}

/// Instructions of one run.
fn count(pg: &TestPostgres, counted: Counted, program: &Path, mode: &str, queries: u32) -> Result<Count> {
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
    read(&text).with_context(|| format!("{} says nothing", out.display()))
}

/// Reads callgrind's profile (valgrind manual, "Callgrind Format Specification"): the functions' own costs. None when
/// there is no function in it.
fn read(profile: &str) -> Option<Count> {
    let (mut emulated, mut count) = (BTreeSet::new(), Count::default());
    let (mut here, mut called, mut any) = (false, false, false);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            // `(number) name` the first time, `(number)` from then on.
            let number = function.split(' ').next().unwrap_or_default();
            if function.contains(EMULATED) {
                emulated.insert(number);
            }
            here = emulated.contains(number);
            any = true;
        } else if let Some(callee) = line.strip_prefix("cfn=") {
            if callee.contains(EMULATED) {
                emulated.insert(callee.split(' ').next().unwrap_or_default());
            }
        } else if line.starts_with("calls=") {
            // The line behind it is what the callee cost.
            called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '+' | '-' | '*')) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or_default();
            match (std::mem::take(&mut called), here) {
                (true, _) => {}
                (false, true) => count.emulated += cost,
                (false, false) => count.plain += cost,
            }
        }
    }
    any.then_some(count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_by_own_costs() {
        let profile = "events: Ir\n\nfn=(1) main\n12 100\ncfn=(2) sha2::sha256::soft::compress\ncalls=3 0\n13 4000\n+1 7\n\n\
                       fn=(2)\n1 3900\n* 100\nfn=(1)\n14 3\ntotals: 4110\n";
        let Some(Count { plain, emulated }) = read(profile) else { panic!("nothing was read") };
        assert_eq!((plain, emulated), (110, 4000));
        assert!(read("events: Ir\n").is_none());
    }
}
