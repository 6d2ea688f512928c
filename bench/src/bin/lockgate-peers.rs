//! What `cargo xtask bench --peers`, `--large` and `--instructions` run: measures, prints, and replaces its section of
//! `bench/RESULTS.md`.

use anyhow::Result;
use clap::Parser;
use lockgate_bench::{
    ground::Ground,
    hold, instructions,
    memory::{IDLE, Large, kib_per_idle_session, large_result},
    pgbench::{Load, Rates},
    results::{self, Section, machine},
    statistics::{median, quantile},
    transfer::{Bulk, Throughput},
};
use std::{fmt::Write as _, path::PathBuf};

#[derive(Parser)]
struct Arguments {
    /// Interleaved rounds
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds per measurement
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Held statements of the decision-to-forward measurement
    #[arg(long, default_value_t = 60)]
    holds: usize,
    /// Size of a bulk result
    #[arg(long, default_value_t = 1_000_000_000)]
    copy_bytes: u64,
    /// Only pgbench loads whose name contains this, and nothing else; RESULTS.md stays as it is
    #[arg(long)]
    only: Option<String>,
    /// A 10 GB result instead: is it passed in constant memory?
    #[arg(long)]
    large: bool,
    /// Instructions per query instead, under callgrind
    #[arg(long)]
    instructions: bool,
    /// With --instructions: count this `lockgate-engine`, print, and leave RESULTS.md as it is
    #[arg(long)]
    engine: Option<PathBuf>,
}

/// The size of a large result.
const LARGE_BYTES: u64 = 10_000_000_000;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.instructions {
        return count(arguments.engine);
    }
    let ground = Ground::start(arguments.only.is_none()).await?;
    if let Some(filter) = &arguments.only {
        let loads = Load::all(filter);
        let rates = rates(&ground, &loads, &arguments).await?;
        println!("{}", rates.table(&loads)?);
        return Ok(());
    }
    if arguments.large { large(&ground).await } else { peers(&ground, &arguments).await }
}

async fn rates(ground: &Ground, loads: &[Load], arguments: &Arguments) -> Result<Rates> {
    let mut rates = Rates::default();
    for round in 1..=arguments.rounds {
        rates.round(ground, loads, round, arguments.seconds).await?;
    }
    Ok(rates)
}

async fn peers(ground: &Ground, arguments: &Arguments) -> Result<()> {
    let loads = Load::all("");
    let idle_kib = kib_per_idle_session(ground).await?;
    eprintln!("{idle_kib:.1} KiB an idle session");
    let rates = rates(ground, &loads, arguments).await?;
    let mut throughput = Throughput::default();
    for round in 1..=arguments.rounds {
        throughput.round(ground, round, arguments.copy_bytes).await?;
    }
    let waits = hold::decision_to_forward(ground, arguments.holds).await?;

    let mut out = String::new();
    let Arguments { rounds, seconds, .. } = arguments;
    writeln!(
        out,
        "Machine: {}. Command: `cargo xtask bench --peers --rounds {rounds} --seconds {seconds}`.\n\n`pgbench -S`, scale 10, one pgbench \
         thread, {rounds} interleaved rounds of {seconds} s each; medians of transactions per second, then lockgate's ratio to each of the \
         others (above 1: lockgate is faster). The byte relay is `bench/src/bin/lockgate-relay.rs`: it copies and does nothing else.\n",
        machine()
    )?;
    out.push_str(&rates.table(&loads)?);
    writeln!(
        out,
        "\nA result of {:.1} GB (rows of some 210 bytes) to a client that throws it away, {rounds} rounds, medians. \
         Masking is measured on a COPY and on a SELECT:\n",
        arguments.copy_bytes as f64 / 1e9
    )?;
    out.push_str(&throughput.table()?);
    writeln!(
        out,
        "\nAn idle session costs the agent {idle_kib:.1} KiB of resident memory beyond its sockets ({IDLE} sessions that each ran one \
         statement)."
    )?;
    writeln!(
        out,
        "\nFrom a counted vote to the forward of the held statement (both as recorded in the log, {} holds, one after the other): \
         median {:.1} ms, p99 {:.1} ms, most {:.1} ms. It contains two synced writes of the log.",
        waits.len(),
        median(&waits),
        quantile(&waits, 0.99),
        quantile(&waits, 1.0)
    )?;
    println!("{out}");
    results::store(Section::Peers, &out)
}

async fn large(ground: &Ground) -> Result<()> {
    let mut out = format!(
        "Machine: {}. Command: `cargo xtask bench --large`. One result (COPY where nothing else is said) through lockgate; the agent's resident memory.\n\n\
         | result | bytes | MB/s | before | most while it passed |\n|---|---:|---:|---:|---:|\n",
        machine()
    );
    for (name, bulk) in [
        ("unmasked", Bulk::Plain),
        ("COPY, two of five columns masked", Bulk::MaskedCopy),
        ("SELECT, two of five columns masked", Bulk::Masked),
    ] {
        let Large { drained, before_kib, peak_kib } = large_result(ground, bulk, LARGE_BYTES).await?;
        writeln!(
            out,
            "| {name} | {} | {:.0} | {:.1} MiB | {:.1} MiB |",
            drained.bytes,
            drained.rate(),
            before_kib as f64 / 1024.0,
            peak_kib as f64 / 1024.0
        )?;
    }
    println!("{out}");
    results::store(Section::Large, &out)
}

fn count(engine: Option<PathBuf>) -> Result<()> {
    let kept = engine.is_some();
    let table = instructions::measure(engine)?;
    println!("{table}");
    if kept {
        return Ok(());
    }
    let text = format!(
        "Command: `cargo xtask bench --instructions`. Instructions in user space for one query, by callgrind: the data plane alone (proxy, \
         policy, masks, log and index in one process, without the kernel side) with one client; the difference of runs of N and 2N \
         queries. valgrind's processor has no SHA instructions; what stands in for them is in the last column and is not spent on a \
         processor that has them.\n\n{table}"
    );
    results::store(Section::Instructions, &text)
}
