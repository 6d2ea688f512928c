//! Many requests that wait, through the real daemon: who sends them, who decides, and what is asked meanwhile.

use crate::ground::status_kib;
use anyhow::{Context as _, Result, bail, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, built_binary, target},
    job::{self, JOB_UID, Running},
    origin::{Origin, Speaks},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::{DECISION_SECRET, Decision, Receiver, SECRET},
    scratch::{Scratch, free_port},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

const POLICY: &str = r#"apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: approvals }
groups: { dba: {} }
rules:
- id: everyday
  match: { target: { name: bench-db }, sql: { class: [read, session, transaction] } }
  effect: allow
- id: schema
  match: { target: { name: bench-db }, sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 60m }
- id: orders
  match: { target: { name: shop }, http: { methods: POST, paths: "/orders/{id}" } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 60m }
"#;

/// Webhooks that nobody listens for.
const DEAD: usize = 5;
/// Until everything waits, and until everything is answered.
const WITHIN: Duration = Duration::from_secs(600);
/// One answer of the API or the console.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Connections that are opened at the same time: a listener's backlog is not what is measured.
const OPENING: usize = 50;

/// The daemon, what is behind it, and who decides.
pub struct Inbox {
    agent: Agent,
    receiver: Receiver,
    pg: TestPostgres,
    origin: Origin,
    cookie: String,
    client: PathBuf,
    _scratch: Scratch,
}

/// Holds that were asked for, and how long each of those that were forwarded took from its decision on, in milliseconds.
pub struct Held {
    /// How many.
    pub asked: usize,
    /// One value a forward.
    pub forwards: Vec<f64>,
}

/// The client of the many.
pub struct Crowd(Option<Running>);

impl Inbox {
    /// Starts all of it.
    pub async fn start() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this loads eBPF programs: run it as root");
        let scratch = Scratch::new("approvals")?;
        let pg = TestPostgres::start(PostgresOptions::new().auth(HostAuth::Trust))?;
        pg.psql("CREATE ROLE app LOGIN SUPERUSER")?;
        let origin = Origin::start(Speaks::One, None).await?;
        let receiver = Receiver::start().await?;
        let password = scratch.write_secret("app.password", "unused")?;
        let secret = scratch.write_secret("webhook", SECRET)?.display().to_string();
        let decisions = scratch.write_secret("decisions", DECISION_SECRET)?.display().to_string();
        let mut extra = format!(
            "login: {{ bootstrap: {{ groups: [dba] }} }}\nwebhooks:\n- {{ name: approvals, url: \"{}\", secret: {{ file: {secret} }}, decision_secret: {{ file: {decisions} }}, speaks_for: [dba] }}\n",
            receiver.url()
        );
        for number in 0..DEAD {
            let port = free_port()?;
            extra += &format!(
                "- {{ name: dead-{number}, url: \"http://127.0.0.1:{port}/\", secret: {{ file: {secret} }} }}\n"
            );
        }
        let shop = format!(
            "- name: shop\n  protocol: http\n  addresses: [\"127.0.0.1:{}\"]\n  upstream: {{ tls: disable }}\n",
            origin.port()
        );
        let options = AgentOptions {
            targets: vec![target("bench-db", pg.port(), "app", &password, "env: production"), shop],
            policy: POLICY.to_owned(),
            run_uids: vec![JOB_UID],
            local_approvers: vec![(0, vec!["dba".to_owned()])],
            extra,
            ..AgentOptions::default()
        };
        let agent = Agent::start(options).await?;
        let client = scratch.path().join("lockgate-approvals");
        std::fs::copy(built_binary("lockgate-approvals")?, &client)?;
        let mut inbox =
            Self { agent, receiver, pg, origin, cookie: String::new(), client, _scratch: scratch };
        inbox.cookie = inbox.log_in().await?;
        Ok(inbox)
    }

    /// The cookie of the first administrator, who is asked as well.
    async fn log_in(&self) -> Result<String> {
        let made: Value = serde_json::from_str(&self.host("POST", "/v1/bootstrap", "").await?)?;
        let form = format!("token={}", made["token"].as_str().context("no token")?);
        let address = self.address();
        let head = format!(
            "POST /login/bootstrap HTTP/1.1\r\nhost: {address}\r\norigin: http://{address}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        let answer = exchange(TcpStream::connect(&address).await?, &head).await?;
        let cookies = answer.lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let pair = value.split(';').next()?.trim();
            (name.eq_ignore_ascii_case("set-cookie") && !pair.ends_with('=')).then_some(pair)
        });
        let cookies = cookies.collect::<Vec<_>>().join("; ");
        ensure!(!cookies.is_empty(), "no cookie: {answer}");
        Ok(cookies)
    }

    fn address(&self) -> String {
        self.agent.api().trim_start_matches("http://").to_owned()
    }

    /// The agent's resident memory.
    pub fn resident_kib(&self) -> Result<u64> {
        status_kib(self.agent.pid().context("the agent runs")?, "VmRSS")
    }

    /// Sends so many requests; each waits.
    pub fn crowd(&self, count: usize) -> Result<Crowd> {
        let (client, port, count) =
            (self.client.display().to_string(), self.origin.port().to_string(), count.to_string());
        let command = [client.as_str(), "--client", &port, "--waiting", &count];
        Ok(Crowd(Some(job::start(job::governed(&self.agent, JOB_UID, &[], &command))?)))
    }

    /// Waits until all of them do, as the metrics tell; how long it took.
    pub async fn waits_for(&self, count: usize, crowd: &mut Crowd) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let waiting = self.waiting().await?;
            if waiting == count {
                return Ok(began.elapsed());
            }
            if began.elapsed() > WITHIN || !crowd.0.as_mut().is_some_and(Running::waits) {
                bail!("{waiting} of {count} wait:\n{}", self.agent.log());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn waiting(&self) -> Result<usize> {
        Ok(self.pending().await?.len())
    }

    /// Every request that waits.
    async fn pending(&self) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        let mut path = "/v1/approvals?limit=500&state=pending".to_owned();
        loop {
            let page: Value = serde_json::from_str(&self.host("GET", &path, "").await?)?;
            items.extend(page["items"].as_array().context("no items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => path = format!("/v1/approvals?limit=500&state=pending&before={next}"),
                None => return Ok(items),
            }
        }
    }

    /// How long a page takes, from connecting to its last byte, so many times; and its size.
    pub async fn ask(&self, path: &str, times: usize) -> Result<(Vec<f64>, usize)> {
        let address = self.address();
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\ncookie: {}\r\nconnection: close\r\n\r\n",
            self.cookie
        );
        let mut took = Vec::with_capacity(times);
        let mut bytes = 0;
        for _ in 0..times {
            let began = Instant::now();
            let answer = exchange(TcpStream::connect(&address).await?, &head).await?;
            took.push(began.elapsed().as_secs_f64() * 1_000.0);
            ensure!(answer.starts_with("HTTP/1.1 200"), "{}", answer.chars().take(600).collect::<String>());
            bytes = answer.len();
            // A person's pace, as far as a limit of requests is concerned.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok((took, bytes))
    }

    /// As root on the host; the body.
    async fn host(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut socket = self.agent.store().into_os_string();
        socket.push(".sock");
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: agent\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(UnixStream::connect(&socket).await?, &head).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
        ensure!(head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{path}: {answer}");
        Ok(body.to_owned())
    }

    /// Holds of one psql, each decided as soon as it is asked for.
    pub async fn holds_of_one(&self, count: usize) -> Result<Held> {
        let statements: Vec<String> =
            (0..count).map(|number| format!("create table one_{number} ()")).collect();
        let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
        let running = self.psql(&statements)?;
        for number in 0..count {
            self.approve(&format!("one_{number} ")).await?;
        }
        let done = running.done().await?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(Held { asked: count, forwards: self.forwards("one_")? })
    }

    /// A psql of its own for each, so many a minute.
    pub async fn holds_a_minute(&self, per_minute: u32, minutes: u32) -> Result<Held> {
        let every = Duration::from_secs(60) / per_minute;
        let count = (per_minute * minutes) as usize;
        let mut running = JoinSet::new();
        let began = Instant::now();
        for number in 0..count {
            let at = every * u32::try_from(number)?;
            tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
            let job = self.psql(&[&format!("create table steady_{number} ()")])?;
            running.spawn(job.done());
            self.approve(&format!("steady_{number} ")).await?;
        }
        while let Some(done) = running.join_next().await {
            let done = done??;
            ensure!(done.code == Some(0), "{done:?}");
        }
        Ok(Held { asked: count, forwards: self.forwards("steady_")? })
    }

    fn psql(&self, statements: &[&str]) -> Result<Running> {
        let port = self.pg.port().to_string();
        let command = job::psql("127.0.0.1", &port, "postgres", statements);
        job::start(job::governed(&self.agent, JOB_UID, &[], &command))
    }

    async fn approve(&self, text: &str) -> Result<()> {
        let request = self.receiver.requested(text).await?;
        Decision::on(&request, "approve", "ana@example.com", &["dba"]).accepted().await
    }

    /// From the counted vote to the forward, by the log's own times, of statements that hold this.
    fn forwards(&self, text: &str) -> Result<Vec<f64>> {
        let (mut wanted, mut asked, mut voted) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut took = Vec::new();
        for record in self.agent.events()? {
            let at = record["at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
            let (at, data) = (at.context("a record without a time")?, &record["data"]);
            let id = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            match record["event"].as_str() {
                Some("operation_decided") => {
                    let statement = data["operation"]["text"].as_str().unwrap_or_default();
                    wanted.insert(id(&data["operation"]["id"]), statement.contains(text));
                }
                Some("approval_requested") => {
                    asked.insert(id(&data["request"]), id(&data["operation"]));
                }
                Some("vote_cast") => {
                    if let Some(operation) = asked.get(&id(&data["request"])) {
                        voted.insert(operation.clone(), at);
                    }
                }
                Some("forwarded") => {
                    let operation = id(&data["operation"]);
                    if let Some(voted) =
                        voted.get(&operation).filter(|_| wanted.get(&operation) == Some(&true))
                    {
                        took.push((at - *voted).total(jiff::Unit::Millisecond)?);
                    }
                }
                _ => {}
            }
        }
        Ok(took)
    }

    /// What waits for the dead webhooks.
    pub async fn queued(&self) -> Result<u64> {
        let page: Value = serde_json::from_str(&self.host("GET", "/v1/channels", "").await?)?;
        let items = page["items"].as_array().context("no items")?;
        let dead =
            items.iter().filter(|item| item["name"].as_str().is_some_and(|name| name.contains("dead-")));
        Ok(dead
            .map(|item| item["queued"].as_u64().unwrap_or(0) + item["under_way"].as_u64().unwrap_or(0))
            .sum())
    }

    /// Approves everything that waits, as the host's approver; how long that took.
    pub async fn decide_all(&self, count: usize) -> Result<Duration> {
        let waiting = self.pending().await?;
        ensure!(waiting.len() == count, "{} of {count} still wait", waiting.len());
        let began = Instant::now();
        for item in &waiting {
            let id = item["id"].as_str().context("no id")?;
            let digest = item["command_digest"].as_str().context("no digest")?;
            let body = serde_json::json!({ "command_digest": digest, "reason": "bench" }).to_string();
            self.host("POST", &format!("/v1/approvals/{id}/approve"), &body).await?;
        }
        Ok(began.elapsed())
    }
}

impl Crowd {
    /// Waits for all answers; how many were 200.
    pub async fn answers(mut self) -> Result<usize> {
        let done = self.0.take().context("the client runs")?.done().await?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(done.stdout.trim().parse()?)
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, head: &str) -> Result<String> {
    let asked = async {
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(ANSWER_WITHIN, asked).await.context("no answer in time")?
}

/// The client's part: sends so many requests, a connection each, and prints how many were answered with 200.
pub async fn send(port: u16, count: usize) -> Result<()> {
    let opening = std::sync::Arc::new(tokio::sync::Semaphore::new(OPENING));
    let mut running = JoinSet::new();
    for number in 0..count {
        let opening = opening.clone();
        running.spawn(async move {
            let permit = opening.acquire().await?;
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let body = format!("{{\"amount\": {number}}}");
            let head = format!(
                "POST /orders/{number} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(head.as_bytes()).await?;
            drop(permit);
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            anyhow::Ok(answer.starts_with(b"HTTP/1.1 200"))
        });
    }
    let mut answered = 0;
    while let Some(done) = running.join_next().await {
        answered += usize::from(done??);
    }
    println!("{answered}");
    Ok(())
}
