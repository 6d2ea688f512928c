//! Everything that is measured, on one server: PostgreSQL with its data, the peers, and an agent that governs the client.
//! All of it ends with its guard.

use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, built_binary, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::Receiver,
    scratch::{Scratch, free_port},
};
use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What the agent enforces: everyday statements pass, schema changes wait for people, two columns are masked.
pub const POLICY: &str = r#"apiVersion: lockgate.dev/v1
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

/// Rows of some 210 bytes; a bulk result reads them several times over. `people` has masked columns, `readings` none.
const ROWS: u32 = 500_000;

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// No proxy.
    Direct,
    /// haproxy, mode tcp, one thread.
    Haproxy,
    /// pgbouncer, session pooling.
    Pgbouncer,
    /// Our own byte copy.
    Relay,
    /// What all of this is about.
    Lockgate,
}

impl Route {
    /// All of them, in the table's order.
    pub const ALL: [Self; 5] = [Self::Direct, Self::Haproxy, Self::Pgbouncer, Self::Relay, Self::Lockgate];

    /// The column's head.
    pub fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy tcp",
            Self::Pgbouncer => "pgbouncer session",
            Self::Relay => "byte relay",
            Self::Lockgate => "lockgate",
        }
    }
}

/// The running whole.
pub struct Ground {
    /// lockgate.
    pub agent: Agent,
    /// Who is asked for approval.
    pub receiver: Receiver,
    /// The server.
    pub pg: TestPostgres,
    client: PathBuf,
    haproxy: (Guard, u16),
    pgbouncer: (Guard, u16),
    relay: (Guard, u16),
    _scratch: Scratch,
}

impl Ground {
    /// Starts all of it and waits until it listens. The tables of the bulk results are made when `bulk`.
    pub async fn start(bulk: bool) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the side-by-side run loads eBPF programs: run it as root");
        let scratch = Scratch::new("bench")?;
        let pg = server(bulk)?;
        let port = pg.port();
        let client = scratch.path().join("lockgate-client");
        std::fs::copy(built_binary("lockgate-client")?, &client)?;
        let ports = [free_port()?, free_port()?, free_port()?];
        let haproxy = (start_haproxy(&scratch, ports[0], port)?, ports[0]);
        let pgbouncer = (start_pgbouncer(&scratch, ports[1], port)?, ports[1]);
        let mut relay = Command::new(built_binary("lockgate-relay")?);
        let relay = (quiet(relay.args([ports[2].to_string(), port.to_string()]))?, ports[2]);
        let password = scratch.write_secret("app.password", "unused")?;
        let receiver = Receiver::start().await?;
        let options = AgentOptions {
            targets: vec![target("bench-db", port, "app", &password, "env: production, pci: \"true\"")],
            policy: POLICY.to_owned(),
            run_uids: vec![JOB_UID],
            ..AgentOptions::default()
        };
        let agent = Agent::start(options.webhook(&receiver, &["dba"])).await?;
        for port in ports {
            reachable(port)?;
        }
        Ok(Self { agent, receiver, pg, client, haproxy, pgbouncer, relay, _scratch: scratch })
    }

    /// The port on 127.0.0.1 that leads this way, for a client that [`Ground::client`] starts.
    pub fn port(&self, route: Route) -> u16 {
        match route {
            // The second is redirected there by the kernel.
            Route::Direct | Route::Lockgate => self.pg.port(),
            Route::Haproxy => self.haproxy.1,
            Route::Pgbouncer => self.pgbouncer.1,
            Route::Relay => self.relay.1,
        }
    }

    /// `command`, on its way.
    pub fn client(&self, route: Route, command: &[&str]) -> tokio::process::Command {
        match route {
            Route::Lockgate => job::governed(&self.agent, JOB_UID, &[], command),
            Route::Direct | Route::Haproxy | Route::Pgbouncer | Route::Relay => {
                job::ungoverned(JOB_UID, &[], command)
            }
        }
    }

    /// `lockgate-client`, on its way.
    pub fn raw_client(&self, route: Route, arguments: &[&str]) -> tokio::process::Command {
        let (client, port) = (self.client.display().to_string(), self.port(route).to_string());
        let command = [&[client.as_str(), "--port", &port], arguments].concat();
        self.client(route, &command)
    }
}

/// PostgreSQL with pgbench's tables at scale 10.
pub(crate) fn server(bulk: bool) -> Result<TestPostgres> {
    let options = PostgresOptions::new().auth(HostAuth::Trust).setting("max_connections", "800");
    let pg = TestPostgres::start(options.setting("shared_buffers", "256MB"))?;
    pg.psql("CREATE ROLE app LOGIN SUPERUSER")?;
    let port = pg.port().to_string();
    let made = Command::new(pg.program("pgbench"))
        .args(["-q", "-i", "-s", "10", "-h", "127.0.0.1", "-p", &port, "-U", "app", "postgres"])
        .output()?;
    ensure!(made.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&made.stderr));
    for (table, first, second) in [("people", "ssn", "card_number"), ("readings", "place", "device")] {
        if bulk {
            pg.psql(&format!(
                "CREATE UNLOGGED TABLE {table} AS SELECT n AS id, 'name ' || n AS name, '123-45-6789'::text AS {first}, \
                 '4111 1111 1111 1111'::text AS {second}, repeat('n', 150) AS note FROM generate_series(1, {ROWS}) n"
            ))?;
            pg.psql(&format!("VACUUM ANALYZE {table}"))?;
        }
    }
    pg.psql("CHECKPOINT")?;
    Ok(pg)
}

/// A child that ends with its guard.
pub(crate) struct Guard(pub(crate) Child);

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

/// Starts it without a terminal.
pub(crate) fn quiet(command: &mut Command) -> Result<Guard> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    Ok(Guard(child.with_context(|| format!("{command:?}"))?))
}

/// Waits until somebody listens; under callgrind a start takes seconds.
pub(crate) fn reachable(port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        ensure!(Instant::now() < until, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// `VmRSS`, `VmHWM`, … of a process, in KiB.
pub(crate) fn status_kib(pid: u32, key: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(Path::new(&path)).with_context(|| path.clone())?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let value = value.with_context(|| format!("no {key} in {path}"))?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
