//! Two thousand requests that wait at once, through the real daemon and hooks, while five channels are dead: how long the
//! list and the console's inbox take, and from a decision to its forward. `cargo xtask bench --approvals` drives it.
//!
//! The two thousand come over HTTP, a connection each; what is decided on meanwhile is held by psql.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use lockgate_bench::{
    approvals::{self, Held, Inbox},
    results::{self, Section},
    statistics::quantile,
};
use std::time::Duration;

/// Requests that wait while everything is measured.
const WAITING: usize = 2_000;
/// What is asked for again and again.
const ROUNDS: usize = 100;
/// Holds of one psql, one after the other.
const HOLDS: usize = 100;
/// Holds a minute, each of a client of its own.
const PER_MINUTE: u32 = 60;

/// What is promised.
const INBOX: f64 = 200.0;
const FORWARD: f64 = 100.0;

#[derive(Parser)]
struct Wanted {
    /// So many requests wait at once
    #[arg(long, default_value_t = WAITING)]
    waiting: usize,
    /// Minutes of 60 holds each
    #[arg(long, default_value_t = 3)]
    minutes: u32,
    /// Leave bench/RESULTS.md as it is
    #[arg(long)]
    dry: bool,
    /// The part of a client that sends `waiting` requests to this port
    #[arg(long, hide = true)]
    client: Option<u16>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let wanted = Wanted::parse();
    if let Some(port) = wanted.client {
        return approvals::send(port, wanted.waiting).await;
    }
    let inbox = Inbox::start().await?;
    let quiet_kib = inbox.resident_kib()?;
    eprintln!("{} requests, a connection each", wanted.waiting);
    let mut crowd = inbox.crowd(wanted.waiting)?;
    let took = inbox.waits_for(wanted.waiting, &mut crowd).await?;
    let waiting_kib = inbox.resident_kib()?;

    eprintln!("list and inbox, {ROUNDS} times each");
    let mut pages = Vec::new();
    for (name, path) in [
        ("`GET /v1/approvals`, the first page", "/v1/approvals"),
        ("`GET /v1/approvals?limit=500`", "/v1/approvals?limit=500"),
        ("the console's inbox", "/approvals"),
    ] {
        let (times, bytes) = inbox.ask(path, ROUNDS).await.with_context(|| path.to_owned())?;
        pages.push((name, times, bytes));
    }
    eprintln!("{HOLDS} holds of one psql while they wait");
    let one = inbox.holds_of_one(HOLDS).await?;
    eprintln!("{PER_MINUTE} holds a minute, {} minutes", wanted.minutes);
    let steady = inbox.holds_a_minute(PER_MINUTE, wanted.minutes).await?;
    let queued = inbox.queued().await?;
    let busy_kib = inbox.resident_kib()?;

    eprintln!("all {} are approved", wanted.waiting);
    let decided = inbox.decide_all(wanted.waiting).await?;
    let answers = crowd.answers().await?;
    ensure!(answers == wanted.waiting, "{answers} of {} were answered with 200", wanted.waiting);

    let text = report(&Report {
        waiting: wanted.waiting,
        minutes: wanted.minutes,
        took,
        pages,
        one,
        steady,
        queued,
        decided,
        kib: [quiet_kib, waiting_kib, busy_kib, inbox.resident_kib()?],
    });
    println!("{text}");
    if !wanted.dry {
        results::store(Section::Approvals, &text)?;
    }
    let slow: Vec<&str> = text.lines().filter(|line| line.ends_with("MISSED |")).collect();
    if slow.is_empty() { Ok(()) } else { bail!("not what is promised:\n{}", slow.join("\n")) }
}

struct Report {
    waiting: usize,
    minutes: u32,
    took: Duration,
    pages: Vec<(&'static str, Vec<f64>, usize)>,
    one: Held,
    steady: Held,
    queued: u64,
    decided: Duration,
    kib: [u64; 4],
}

fn report(told: &Report) -> String {
    let Report { waiting, minutes, took, pages, one, steady, queued, decided, kib } = told;
    let mib = kib.map(|kib| kib / 1024);
    let mut text = format!(
        "Machine: {}. Command: `cargo xtask bench --approvals`.\n\n{waiting} requests over HTTP wait at once, a captured \
         connection each (all of them did {:.0} s after the first); five of six webhooks are dead all the while. Every \
         time is measured from outside, by a connection of its own; the forwards by the log's own times, psql the client.\n\n\
         | what | n | p50 ms | p99 ms | most ms | promised |\n|---|---:|---:|---:|---:|---|\n",
        results::machine(),
        took.as_secs_f64(),
    );
    let mut row = |name: &str, times: &[f64], promised: f64| {
        let [p50, p99, most] = [0.5, 0.99, 1.0].map(|q| quantile(times, q));
        let met = if p99 < promised { "met" } else { "MISSED" };
        text.push_str(&format!(
            "| {name} | {} | {p50:.1} | {p99:.1} | {most:.1} | p99 < {promised} ms: {met} |\n",
            times.len()
        ));
    };
    for (name, times, bytes) in pages {
        row(&format!("{name} ({} KiB)", bytes / 1024), times, INBOX);
    }
    row("decision to forward, one psql, one after the other", &one.forwards, FORWARD);
    row(
        &format!("decision to forward, {PER_MINUTE} psql a minute for {minutes} minutes"),
        &steady.forwards,
        FORWARD,
    );
    text.push_str(&format!(
        "\nOf {} holds {} were decided, forwarded and answered; then the {waiting} were approved in {:.0} s, and each \
         client had its answer. {queued} notifications waited for the dead webhooks. Resident: {} MiB quiet, {} MiB with \
         {waiting} waiting, {} MiB after the minutes with the dead channels, {} MiB at the end.\n",
        one.asked + steady.asked,
        one.forwards.len() + steady.forwards.len(),
        decided.as_secs_f64(),
        mib[0],
        mib[1],
        mib[2],
        mib[3],
    ));
    text
}
