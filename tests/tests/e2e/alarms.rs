//! Alarms: what should not be is told to every channel, whoever it is that took a hook away, brought a connection in from
//! outside, or made the kernel's reports overflow. And what `lockgate doctor` says of the channels themselves.

use crate::{
    channels::{slack_channel, world},
    kernel::eventually,
    world::{POLICY, World},
};
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{built_binary, cgroup_mount},
    mail::MailServer,
    receiver::Delivery,
    slack::Slack,
};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// An alarm waits for nobody; the bound is for a machine that has other things to do.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// A process that no agent knows, which does as it is told.
struct Outsider {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Outsider {
    fn start() -> Result<Self> {
        const SCRIPT: &str = "
import socket, sys
kept = []
for line in sys.stdin:
    verb, host, port, times = line.split()
    for _ in range(int(times)):
        try:
            connection = socket.create_connection((host, int(port)), timeout=20)
            kept.append(connection) if verb == 'keep' else connection.close()
        except OSError:
            pass
    print('done', flush=True)
";
        let mut child = Command::new("python3")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("python3")?;
        let to = child.stdin.take().context("stdin")?;
        let from = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, to, from })
    }

    fn act(&mut self, verb: &str, port: u16, times: usize) -> Result<()> {
        writeln!(self.to, "{verb} 127.0.0.1 {port} {times}")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        ensure!(line.trim() == "done", "{line:?}");
        Ok(())
    }

    /// Moves it into the agent's governed cgroup, as root can.
    fn govern(&self, world: &World) -> Result<()> {
        let cgroup = cgroup_mount()?.join(world.agent.governed_cgroup().trim_start_matches('/'));
        std::fs::create_dir_all(&cgroup)?;
        std::fs::write(cgroup.join("cgroup.procs"), self.child.id().to_string())?;
        Ok(())
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn doctor(world: &World) -> Result<Value> {
    let told = world.agent.cli(&["doctor", "--output", "json"])?;
    serde_json::from_slice(&told.stdout).with_context(|| format!("{told:?}"))
}

fn alarm(delivery: &Delivery, kind: &str, words: &str) -> bool {
    delivery.kind() == kind && delivery.data()["detail"].as_str().is_some_and(|detail| detail.contains(words))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_taken_away_is_told_to_every_channel() -> Result<()> {
    let (slack, mail) = (Slack::start().await?, MailServer::start(&[])?);
    let world = world(POLICY, &(slack_channel(&slack, "U0ANA") + &mail.channel(""))).await?;
    let pins = doctor(&world)?["agent"]["hooks"]["pins"].as_str().context("pins")?.to_owned();
    let link = Path::new(&pins).join("links/lg_connect4");
    let taken = Command::new(built_binary("capture_agent")?).arg("detach-link").arg(link).output()?;
    ensure!(taken.status.success(), "{taken:?}");
    let told = world
        .receiver
        .wait_for(TOLD_WITHIN, |delivery| alarm(delivery, "lockgate.session.gap", "lg_connect4"))
        .await?;
    ensure!(told.data()["stage"] == "hook_lost" && told.data()["node"] == "test-node", "{told:?}");
    let posted = slack
        .wait_for("the alarm", |seen| {
            seen.posted.iter().find(|posted| posted.text().contains("lg_connect4")).cloned()
        })
        .await?;
    ensure!(posted.text().contains("ALARM: a capture hook was taken away"), "{posted:?}");
    ensure!(posted.button("lockgate_approve").is_none() && posted.channel == "C0APPROVALS", "{posted:?}");
    ensure!(slack.seen().refused.is_empty(), "Slack would have refused: {:?}", slack.seen().refused);
    let letter = mail.wait_for(1).await?.remove(0);
    ensure!(letter.contains("lg_connect4") && letter.contains("ALARM"), "{letter}");
    // What became of each is in the record, and tells of itself no more.
    eventually("the deliveries in the record", TOLD_WITHIN, async || {
        let text: Vec<String> = world.events("alerted")?.iter().map(Value::to_string).collect();
        let names = ["webhook:approvals", "slack:ops", "email:mail"];
        Ok(names.iter().all(|name| text.iter().any(|it| it.contains(name) && it.contains("alarm:hook_lost"))))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_past_lockgate_is_told() -> Result<()> {
    let world = World::new().await?;
    let mut outsider = Outsider::start()?;
    outsider.act("keep", world.pg.port(), 1)?;
    outsider.govern(&world)?;
    let told = world
        .receiver
        .wait_for(TOLD_WITHIN, |delivery| alarm(delivery, "lockgate.bypass.detected", "past lockgate"))
        .await?;
    let detail = told.data()["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(&format!("process {}", outsider.child.id())), "{detail}");
    ensure!(detail.contains(&world.pg.addr().to_string()) && detail.contains("it was cut"), "{detail}");
    world.recorded("gap", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_reports_are_told_once_and_not_one_by_one() -> Result<()> {
    // The kernel's ring has room for some three thousand.
    const DIALS: usize = 6_000;
    let world = World::new().await?;
    let before = doctor(&world)?;
    let agent = nix::unistd::Pid::from_raw(i32::try_from(before["agent"]["pid"].as_i64().context("pid")?)?);
    let listener = before["agent"]["listeners"][0].as_str().context("a listener")?.to_owned();
    let port = listener.rsplit(':').next().context("a port")?.parse()?;
    let mut outsider = Outsider::start()?;
    outsider.govern(&world)?;
    // Nobody reads the ring meanwhile: dialling lockgate itself is refused and reported each time.
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGSTOP)?;
    let dialled = outsider.act("dial", port, DIALS);
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT)?;
    dialled?;
    let told = world
        .receiver
        .wait_for(TOLD_WITHIN, |delivery| alarm(delivery, "lockgate.session.gap", "were lost"))
        .await?;
    ensure!(told.data()["stage"] == "kernel_events", "{told:?}");
    ensure!(told.data()["count"].as_u64().is_some_and(|count| count > 0), "{told:?}");
    let alarms =
        world.receiver.deliveries().iter().filter(|it| it.data()["stage"] == "kernel_events").count();
    ensure!(alarms <= 2, "{alarms} messages for one overflow");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_how_each_channel_does_and_what_to_do() -> Result<()> {
    let refusing = lockgate_tests::scratch::free_port()?;
    let channels = format!(
        "- name: chat\n  kind: webhook\n  url: \"http://127.0.0.1:{refusing}/\"\n  template: mattermost\n"
    );
    let world = world(POLICY, &channels).await?;
    let check = |report: &Value, name: &str| {
        report["checks"].as_array().into_iter().flatten().find(|check| check["name"] == name).cloned()
    };
    let report = doctor(&world)?;
    for name in ["webhook:approvals", "webhook:chat", "webhook:approvals delivers", "webhook:chat delivers"] {
        let found = check(&report, name).with_context(|| format!("{name}: {report:#}"))?;
        ensure!(found["status"] == "ok" && found["section"] == "channels", "{found}");
    }
    let _job = world.start(&["alter table orders add column doctored text"])?;
    world.receiver.requested("doctored").await?;
    // Doctor proves capture each time it is asked, which takes its time.
    eventually("doctor's word", 3 * TOLD_WITHIN, async || {
        let report = doctor(&world)?;
        let dead = check(&report, "webhook:chat delivers").context("the dead channel")?;
        let well = check(&report, "webhook:approvals delivers").context("the other")?;
        let text = dead.to_string();
        let says = ["failing since", "refused", " wait, the next is tried at", "is the receiver running?"];
        Ok(dead["status"] == "failed"
            && says.iter().all(|part| text.contains(part))
            && well["status"] == "ok"
            && well["detail"].as_str().is_some_and(|detail| detail.starts_with("last delivery 2")))
    })
    .await?;
    ensure!(world.agent.cli(&["doctor"])?.status.code() == Some(1), "something is broken");
    // A secret that is gone is found before the next start stumbles over it.
    let secret = world.agent.scratch().path().join("webhook.secret");
    std::fs::write(&secret, "whsec_short\n")?;
    let report = doctor(&world)?;
    let found = check(&report, "webhook:approvals").context("the check")?;
    ensure!(found["status"] == "failed" && found["detail"].to_string().contains("secret"), "{found}");
    std::fs::remove_file(&secret)?;
    let report = doctor(&world)?;
    let mut failed = report["checks"].as_array().into_iter().flatten().filter(|it| it["status"] == "failed");
    ensure!(failed.any(|it| it.to_string().contains("webhook.secret")), "{report:#}");
    Ok(())
}
