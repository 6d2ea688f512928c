//! `cargo xtask bench --peers`: pgbench directly, through haproxy (tcp), pgbouncer (session mode) and lockgate, interleaved
//! in rounds; medians and ratios go to `bench/RESULTS.md` with the machine and the command.
//!
//! lockgate runs with policy, a masking rule and recording on. All four talk to the same server over loopback TCP.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lockgate_tests::{
    agent::{Agent, AgentOptions, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::{Decision, Receiver},
    scratch::{Scratch, free_port},
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

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
}

const POLICY: &str = r#"apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: bench }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { target: { name: bench-db }, sql: { class: [read, session, transaction, write, copy_in, copy_out] } }
  effect: allow
- id: schema-change-dba
  match: { target: { tags: { env: production } }, sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 10m }
- id: no-unbounded-write
  match: { target: { tags: { env: production } }, sql: { kinds: [delete, update], bounded: false } }
  effect: deny
  final: true
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask: { columns: [{ match: "*.*.ssn", method: redact }, { match: "*.*.card_number", method: partial, keep_last: 4 }] }
"#;

const ROUTES: [&str; 4] = ["direct", "haproxy", "pgbouncer", "lockgate"];
const MODES: [&str; 3] = ["simple", "extended", "prepared"];
const CLIENTS: [u32; 3] = [1, 8, 32];

/// One line of the table: pgbench mode, clients, and whether every transaction connects anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    mode: &'static str,
    clients: u32,
    reconnect: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the side-by-side run loads eBPF programs: run it as root");
    let bench = Bench::start().await?;
    let mut loads: Vec<Load> = MODES
        .iter()
        .flat_map(|&mode| CLIENTS.map(|clients| Load { mode, clients, reconnect: false }))
        .collect();
    loads.push(Load { mode: "simple", clients: 1, reconnect: true });

    let mut measured: BTreeMap<(Load, &str), Vec<f64>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for load in &loads {
            for route in ROUTES {
                let tps = bench.pgbench(route, *load, arguments.seconds).await?;
                eprintln!(
                    "round {round}: {:<9} c={:<2} C={} {route:<9} {tps:.0}/s",
                    load.mode, load.clients, load.reconnect
                );
                measured.entry((*load, route)).or_default().push(tps);
            }
        }
    }
    let latency = bench.decision_to_forward(arguments.holds).await?;
    let report = report(&arguments, &loads, &measured, &latency)?;
    std::fs::write("bench/RESULTS.md", &report)?;
    println!("{report}");
    Ok(())
}

struct Bench {
    agent: Agent,
    receiver: Receiver,
    _haproxy: Guard,
    _pgbouncer: Guard,
    ports: BTreeMap<&'static str, u16>,
    pg: TestPostgres,
    _scratch: Scratch,
}

impl Bench {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new("bench")?;
        let options = PostgresOptions::new().auth(HostAuth::Trust).setting("max_connections", "200");
        let pg = TestPostgres::start(options.setting("shared_buffers", "128MB"))?;
        pg.psql("CREATE ROLE app LOGIN SUPERUSER")?;
        let port = pg.port();
        let made = Command::new(pg.program("pgbench"))
            .args([
                "-q",
                "-i",
                "-s",
                "10",
                "-h",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "app",
                "postgres",
            ])
            .output()?;
        ensure!(made.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&made.stderr));

        let (haproxy_port, pgbouncer_port) = (free_port()?, free_port()?);
        let haproxy = start_haproxy(&scratch, haproxy_port, port)?;
        let pgbouncer = start_pgbouncer(&scratch, pgbouncer_port, port)?;
        let password = scratch.write_secret("app.password", "unused")?;
        let receiver = Receiver::start().await?;
        let agent = Agent::start(
            AgentOptions {
                targets: vec![target("bench-db", port, "app", &password, "env: production, pci: \"true\"")],
                policy: POLICY.to_owned(),
                run_uids: vec![JOB_UID],
                ..AgentOptions::default()
            }
            .webhook(&receiver, &["dba"]),
        )
        .await?;
        let ports = BTreeMap::from([
            ("direct", port),
            ("haproxy", haproxy_port),
            ("pgbouncer", pgbouncer_port),
            ("lockgate", port),
        ]);
        for port in ports.values() {
            reachable(*port)?;
        }
        Ok(Self { agent, receiver, _haproxy: haproxy, _pgbouncer: pgbouncer, ports, pg, _scratch: scratch })
    }

    /// Transactions per second.
    async fn pgbench(&self, route: &str, load: Load, seconds: u32) -> Result<f64> {
        let pgbench = self.pg.program("pgbench").display().to_string();
        let port = self.ports.get(route).context("route")?.to_string();
        let (clients, seconds) = (load.clients.to_string(), seconds.to_string());
        let mut command = vec![
            pgbench.as_str(),
            "-n",
            "-S",
            "-M",
            load.mode,
            "-c",
            &clients,
            "-j",
            "1",
            "-T",
            &seconds,
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "app",
        ];
        if load.reconnect {
            command.push("-C");
        }
        command.push("postgres");
        let command = match route {
            "lockgate" => job::governed(&self.agent, JOB_UID, &[], &command),
            _ => job::ungoverned(JOB_UID, &[], &command),
        };
        let done = job::run(command).await?;
        let tps = done
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
            .with_context(|| format!("{route}: {done:?}"))?;
        ensure!(done.code == Some(0), "{route}: {done:?}");
        Ok(tps)
    }

    /// Milliseconds from the accepted vote to the forward, from the log's own times.
    async fn decision_to_forward(&self, holds: usize) -> Result<Vec<f64>> {
        let statements: Vec<String> =
            (0..holds).map(|number| format!("create table held_{number} ()")).collect();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let port = self.pg.port().to_string();
        let job = job::start(job::governed(
            &self.agent,
            JOB_UID,
            &[],
            &job::psql("127.0.0.1", &port, "postgres", &statements),
        ))?;
        for number in 0..holds {
            let request = self.receiver.requested(&format!("held_{number} ")).await?;
            Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await?;
        }
        let done = job.done().await?;
        ensure!(done.code == Some(0), "{done:?}");
        let mut voted = None;
        let mut waits = Vec::new();
        for event in self.agent.events()? {
            let (kind, at) = kind_and_time(&event);
            match kind {
                Some("vote_cast") => voted = at,
                Some("forwarded") => {
                    if let (Some(voted), Some(at)) = (voted.take(), at) {
                        waits.push((at - voted).total(jiff::Unit::Millisecond)?);
                    }
                }
                _ => {}
            }
        }
        if waits.len() != holds {
            bail!("{} of {holds} decisions were forwarded", waits.len());
        }
        Ok(waits)
    }
}

/// The event's name and time, wherever the record's envelope keeps them.
fn kind_and_time(record: &serde_json::Value) -> (Option<&str>, Option<jiff::Timestamp>) {
    let inner = ["body", "record", "event"]
        .iter()
        .find_map(|name| record.get(name).filter(|value| value.is_object()));
    if let Some(inner) = inner {
        return kind_and_time(inner);
    }
    let kind = record.get("event").and_then(serde_json::Value::as_str);
    (kind, record.get("at").and_then(|at| at.as_str()?.parse().ok()))
}

/// A child that ends with its guard.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_haproxy(scratch: &Scratch, port: u16, server: u16) -> Result<Guard> {
    let config = scratch.write(
        "haproxy.cfg",
        &format!(
            "global\n  maxconn 1000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 2s\n  timeout client 60s\n  \
             timeout server 60s\nlisten pg\n  bind 127.0.0.1:{port}\n  server s 127.0.0.1:{server}\n"
        ),
    )?;
    quiet(Command::new("haproxy").arg("-f").arg(config).arg("-db"))
}

fn start_pgbouncer(scratch: &Scratch, port: u16, server: u16) -> Result<Guard> {
    let config = scratch.write(
        "pgbouncer.ini",
        &format!(
            "[databases]\npostgres = host=127.0.0.1 port={server} user=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\npool_mode = session\nunix_socket_dir =\nignore_startup_parameters = extra_float_digits\n\
             default_pool_size = 64\nmax_client_conn = 500\n"
        ),
    )?;
    let id = JOB_UID.to_string();
    quiet(
        Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "pgbouncer", "-q"])
            .arg(config),
    )
}

fn quiet(command: &mut Command) -> Result<Guard> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ok(Guard(child.with_context(|| format!("{command:?}"))?))
}

fn reachable(port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < until, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => (sorted[length / 2 - 1] + sorted[length / 2]) / 2.0,
    }
}

fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    sorted.get(((last as f64) * q).ceil() as usize).copied().unwrap_or(f64::NAN)
}

fn report(
    arguments: &Arguments,
    loads: &[Load],
    measured: &BTreeMap<(Load, &str), Vec<f64>>,
    latency: &[f64],
) -> Result<String> {
    let mut out = String::from(
        "# Results\n\nWhat lockgate costs, with policy, a masking rule and recording on, beside a plain connection and two proxies that do none \
         of it. The machine is small and shared: read the ratios, not the rates. Made by `cargo xtask bench --peers`.\n\n",
    );
    writeln!(
        out,
        "Machine: {}. Command: `cargo xtask bench --peers --rounds {} --seconds {}`.",
        machine(),
        arguments.rounds,
        arguments.seconds
    )?;
    writeln!(
        out,
        "`pgbench -S`, scale 10, one pgbench thread, {} interleaved rounds of {} s each; medians of transactions per second. \
         lockgate's column is followed by its ratio to each of the others (above 1: lockgate is faster).\n",
        arguments.rounds, arguments.seconds
    )?;
    out.push_str("| load | direct | haproxy tcp | pgbouncer session | lockgate | ÷ direct | ÷ haproxy | ÷ pgbouncer |\n|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for load in loads {
        let of = |route| measured.get(&(*load, route)).map_or(f64::NAN, |values| median(values));
        let [direct, haproxy, pgbouncer, lockgate] = ROUTES.map(of);
        let name = if load.reconnect {
            format!("{}, {} client, new connection each (-C)", load.mode, load.clients)
        } else {
            format!("{}, {} client{}", load.mode, load.clients, if load.clients == 1 { "" } else { "s" })
        };
        writeln!(
            out,
            "| {name} | {direct:.0} | {haproxy:.0} | {pgbouncer:.0} | {lockgate:.0} | {:.2} | {:.2} | {:.2} |",
            lockgate / direct,
            lockgate / haproxy,
            lockgate / pgbouncer
        )?;
    }
    writeln!(
        out,
        "\nFrom a counted vote to the forward of the held statement (both as recorded in the log, {} holds, one after the other): \
         median {:.1} ms, p99 {:.1} ms, most {:.1} ms. It contains two synced writes of the log.",
        latency.len(),
        median(latency),
        quantile(latency, 0.99),
        quantile(latency, 1.0)
    )?;
    Ok(out)
}

fn machine() -> String {
    let first = |path: &str, key: &str| {
        std::fs::read_to_string(Path::new(path))
            .ok()
            .and_then(|text| {
                Some(text.lines().find(|line| line.starts_with(key))?.split_once(':')?.1.trim().to_owned())
            })
            .unwrap_or_default()
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let release = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores, {}, Linux {release}", first("/proc/cpuinfo", "model name"))
}
