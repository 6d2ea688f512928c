//! What the kernel side refuses and loses goes to the record, and who looks is told.

use crate::world::{POLICY, World};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    agent::{built_binary, http_status},
    job::{self, JOB_UID},
};
use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A second for the alarm, and what a busy machine adds.
const ALARM_WITHIN: Duration = Duration::from_secs(3);

pub(crate) async fn eventually(
    what: &str,
    within: Duration,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !holds().await? {
        ensure!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_kernel_refuses_is_in_the_record() -> Result<()> {
    let world = World::new().await?;
    let client = world.agent.scratch().path().join("capture-client");
    std::fs::copy(built_binary("capture_client")?, &client)?;
    let address = world.pg.addr().to_string();
    let job = job::governed(&world.agent, JOB_UID, &[], &[&client.display().to_string(), "udp", &address]);
    let done = job::run(job).await?;
    ensure!(done.stdout.contains("EPERM"), "{done:?}");
    eventually("a record of the refusal", ALARM_WITHIN, async || {
        let events = world.agent.events()?;
        Ok(events.iter().any(|event| {
            let text = event.to_string();
            text.contains("flow_refused")
                && text.contains("refused in the kernel (not_tcp)")
                && text.contains(&address)
        }))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_root_takes_away_is_recorded_and_ends_readiness() -> Result<()> {
    let world = World::new().await?;
    let port = world.agent.api().rsplit(':').next().context("a port")?.trim_end_matches('/').parse()?;
    ensure!(http_status(port, "/readyz").await == Some(200), "ready before");
    let status = world.agent.cli(&["doctor", "--output", "json"])?;
    let doctor: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    let pins = doctor["agent"]["hooks"]["pins"].as_str().context("pins")?.to_owned();
    for expected in ["socket hooks", "packet filter", "sweep", "coverage"] {
        let check = doctor["checks"].as_array().into_iter().flatten().find(|check| check["name"] == expected);
        ensure!(check.is_some_and(|check| check["status"] == "ok"), "{expected}: {doctor}");
    }
    let link = Path::new(&pins).join("links/lg_connect4");
    let taken = Command::new(built_binary("capture_agent")?).arg("detach-link").arg(link).output()?;
    ensure!(taken.status.success(), "{taken:?}");
    eventually("an alarm in the record", ALARM_WITHIN, async || {
        let events = world.agent.events()?;
        Ok(events.iter().any(|event| {
            let text = event.to_string();
            text.contains("\"gap\"") && text.contains("hook_lost") && text.contains("lg_connect4")
        }))
    })
    .await?;
    eventually("no longer ready", ALARM_WITHIN, async || Ok(http_status(port, "/readyz").await == Some(503)))
        .await?;
    let metrics = world.agent.cli(&["doctor"])?;
    ensure!(metrics.status.code() == Some(1), "doctor says so: {metrics:?}");
    Ok(())
}

/// A neighbour of this host on a link of its own; gone with its holder.
struct Neighbour {
    holder: Child,
    interface: String,
    address: SocketAddr,
}

impl Neighbour {
    /// 198.18.0.0/15 is for tests of network devices (RFC 2544): nobody routes it.
    fn new() -> Result<Self> {
        const PORT: u16 = 5432;
        let number = std::process::id();
        let (interface, peer) = (format!("lge{number}"), format!("lgp{number}"));
        let network = format!("198.18.{}", number % 256);
        let script = format!(
            "ip link set lo up && read ready && ip address add {network}.2/30 dev {peer} && ip link set {peer} up && \
             echo up && exec python3 -c 'import socket\nlistener = socket.create_server((\"{network}.2\", {PORT}))\nprint(\"listening\", flush=True)\n\
             while True:\n    connection, _ = listener.accept()\n    print(\"accepted\", flush=True)\n    connection.close()'"
        );
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut neighbour = Self { holder, interface, address: format!("{network}.2:{PORT}").parse()? };
        let host = format!(
            "ip link add {0} type veth peer name {peer} netns {1} && ip address add {network}.1/30 dev {0} && ip link set {0} up",
            neighbour.interface,
            neighbour.holder.id()
        );
        // unshare(1) may not have got as far yet.
        let start = Instant::now();
        let own = std::fs::read_link("/proc/self/ns/net")?;
        while std::fs::read_link(format!("/proc/{}/ns/net", neighbour.holder.id()))? == own {
            ensure!(start.elapsed() < Duration::from_secs(30), "no namespace for the neighbour");
            std::thread::sleep(Duration::from_millis(5));
        }
        let made = Command::new("sh").args(["-c", &host]).status()?;
        ensure!(made.success(), "{host}: {made}");
        writeln!(neighbour.holder.stdin.as_mut().context("standard input")?, "ready")?;
        Ok(neighbour)
    }

    /// What it says, line by line.
    fn lines(&mut self) -> Result<std::sync::mpsc::Receiver<String>> {
        let output = BufReader::new(self.holder.stdout.take().context("standard output")?);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Ok(told)
    }

    fn dial(&self) -> std::io::Result<()> {
        TcpStream::connect_timeout(&self.address, Duration::from_secs(2)).map(drop)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.interface]).output();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guarded_interfaces_let_only_the_proxy_out_to_targets() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(30);
    let mut neighbour = Neighbour::new()?;
    let lines = neighbour.lines()?;
    while lines.recv_timeout(PATIENCE).context("the neighbour listens")? != "listening" {}
    neighbour.dial().context("before there is an agent")?;
    ensure!(lines.recv_timeout(PATIENCE)? == "accepted");
    let (interface, address) = (neighbour.interface.clone(), neighbour.address.to_string());
    let mut world = World::with(POLICY, |options, pg| {
        let password = pg.socket_dir().join("app.password");
        options.targets.push(format!(
            "- name: neighbour\n  protocol: postgres\n  addresses: [\"{address}\"]\n  \
             upstream: {{ tls: disable, credential: {{ user: app, password: {{ file: {} }} }} }}\n",
            password.display()
        ));
        options.extra.push_str(&format!("guard: {{ interfaces: [{interface}], pods: true }}\n"));
    })
    .await?;
    let refused = neighbour.dial().map_err(|error| error.kind());
    ensure!(refused == Err(ErrorKind::TimedOut), "an accomplice outside the governed set: {refused:?}");
    let (host, port) = (neighbour.address.ip().to_string(), neighbour.address.port().to_string());
    let job = job::governed(&world.agent, JOB_UID, &[], &job::psql(&host, &port, "shop", &["SELECT 1"]));
    // The neighbour is no PostgreSQL; that it was asked at all is what counts.
    let done = job::run(job).await?;
    ensure!(
        lines.recv_timeout(PATIENCE).is_ok_and(|line| line == "accepted"),
        "lockgate's own connection: {done:?}"
    );
    let doctor = world.agent.json(&["doctor"])?;
    let filter =
        doctor["checks"].as_array().into_iter().flatten().find(|check| check["name"] == "interface filter");
    ensure!(filter.is_some_and(|check| check["status"] == "ok"), "{doctor}");
    // Without the agent it stays, until an operator takes it off.
    world.agent.terminate().await?;
    ensure!(neighbour.dial().is_err(), "in force without the agent");
    let detached = world.agent.cli(&["agent", "--detach"])?;
    ensure!(detached.status.success(), "{detached:?}");
    neighbour.dial().context("taken off by an operator")
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_that_the_kernel_could_not_keep_are_a_gap_in_the_record() -> Result<()> {
    // The ring has room for some three thousand.
    const DIALS: usize = 5000;
    let world = World::new().await?;
    let doctor = world.agent.json(&["doctor"])?;
    let listener = doctor["agent"]["listeners"][0].as_str().context("a listener")?.to_owned();
    let cgroup = lockgate_tests::agent::cgroup_mount()?
        .join(world.agent.governed_cgroup().trim_start_matches('/'))
        .display()
        .to_string();
    let agent = world.agent.pid().context("the agent's process")?.to_string();
    let signal = |name: &str| Command::new("kill").args(["-s", name, &agent]).status();
    let mut job =
        Command::new(built_binary("capture_evader")?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // Nobody reads the reports meanwhile; what is refused is refused all the same.
    signal("STOP")?;
    let said = job.stdin.take().context("standard input")?;
    let said = writeln!(&said, "join {cgroup}\ndial {listener} {DIALS}").map(|()| drop(said));
    let outcome = job.wait_with_output();
    signal("CONT")?;
    said?;
    let outcome = String::from_utf8_lossy(&outcome?.stdout).into_owned();
    ensure!(outcome.lines().last().is_some_and(|line| line.contains("EPERM")), "{outcome}");
    eventually("a gap in the record", Duration::from_secs(60), async || {
        let events = world.agent.events()?;
        Ok(events.iter().any(|event| {
            let text = event.to_string();
            text.contains("\"gap\"") && text.contains("kernel_events") && text.contains("were lost")
        }))
    })
    .await
}
