//! The documents, typed in: the newcomer's walk, the README's tour, the integrator's receiver and the unit file do
//! what they say. Only what belongs to a place (paths, ports, addresses, ids) is put in for what is written.
//!
//! What needs neither root nor a server is checked in `userspace/lockgate/tests/docs.rs`.

use crate::world::{CARD, POLICY, SSN, World, database, has_kind};
use anyhow::{Context, Result, bail, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, target},
    job::{self, Done, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::Decision,
    scratch::{Scratch, free_port},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// Who approves and who works in getting-started.md.
const APPROVER: u32 = 1000;
const CI_USER: u32 = 1001;
/// Somebody whom no configuration names.
const STRANGER: u32 = 1999;

#[tokio::test(flavor = "multi_thread")]
async fn getting_started_works_as_it_is_written() -> Result<()> {
    let mut walk = Walk::new()?;
    let document = document("userspace/docs/getting-started.md")?;
    for (name, text) in named_files(&document) {
        let path = PathBuf::from(walk.place(&name));
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(path, walk.place(&text))?;
    }
    let mut job = None;
    for block in blocks(&document, "console") {
        let notices: Vec<String> =
            block.lines().filter(|line| line.starts_with("NOTICE")).map(|line| walk.place(line)).collect();
        walk.notices.extend(notices);
        for line in block.lines() {
            match line.split_once(' ') {
                Some(("#", command)) if command.starts_with("systemctl") => walk.agent.launch().await?,
                Some(("$", command)) if command.starts_with("lockgate run") => {
                    job = Some(job::start(walk.command(CI_USER, command)?)?);
                    walk.waits().await?;
                }
                Some(("$", command)) => walk.done(APPROVER, command).await.map(drop)?,
                Some(("#", command)) => walk.done(0, command).await.map(drop)?,
                Some(_) | None => {}
            }
        }
    }
    let job = job.context("nothing was run")?.done().await?;
    ensure!(job.code == Some(0) && job.stdout.contains("ALTER TABLE"), "{job:?}");
    for notice in &walk.notices {
        ensure!(job.stderr.lines().any(|line| reads_as(line, notice)), "{notice:?} is not in {job:?}");
    }
    ensure!(walk.said.contains("approved") && walk.said.contains("intact:"), "{}", walk.said);
    walk.trouble(&document).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_works_as_it_is_written() -> Result<()> {
    let mut walk = Walk::new()?;
    let document = document("userspace/docs/tutorial.md")?;
    for (name, text) in named_files(&document) {
        let path = PathBuf::from(walk.place(&name));
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(path, walk.place(&text))?;
    }
    let mut waiting = None;
    let mut asks = String::new();
    for block in blocks(&document, "console") {
        let notices: Vec<String> =
            block.lines().filter(|line| line.starts_with("NOTICE")).map(|line| walk.place(line)).collect();
        let waits = !notices.is_empty();
        walk.notices.extend(notices);
        for line in block.lines() {
            match line.split_once(' ') {
                Some(("#", command)) if command.starts_with("systemctl") => walk.agent.launch().await?,
                Some(("$", command)) if command.starts_with("lockgate run") && waits => {
                    command.clone_into(&mut asks);
                    waiting = Some(job::start(walk.command(CI_USER, command)?)?);
                    walk.waits().await?;
                }
                Some(("$", command)) if command.starts_with("lockgate run") => {
                    walk.done(CI_USER, command).await?;
                }
                Some(("$", command)) => walk.done(APPROVER, command).await.map(drop)?,
                Some(("#", command)) => walk.done(0, command).await.map(drop)?,
                Some(_) | None => {}
            }
        }
    }
    let job = waiting.context("nothing waited")?.done().await?;
    ensure!(job.code == Some(0) && job.stdout.contains("[redacted]"), "{job:?}");
    ensure!(!job.stdout.contains(SSN) && !job.stdout.contains(CARD), "a mask was lifted: {job:?}");
    for notice in &walk.notices {
        ensure!(job.stderr.lines().any(|line| reads_as(line, notice)), "{notice:?} is not in {job:?}");
    }
    // What it says of the grant: the same passes by itself, another statement asks.
    let again = walk.done(CI_USER, &asks).await?;
    ensure!(again.stdout.contains("[redacted]"), "{again:?}");
    let other = asks.replace("id, name, ssn, card_number", "id, name");
    let other = job::start(walk.command(CI_USER, &other)?)?;
    walk.waits().await?;
    walk.done(APPROVER, "lockgate approvals deny req_… --reason 'not today'").await?;
    ensure!(other.done().await?.code == Some(1));
    ensure!(walk.said.contains("intact:"), "{}", walk.said);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_s_tour_and_the_json_of_the_reference_are_true() -> Result<()> {
    const ALTER: &str = "alter table orders add column note2 text";
    let world =
        World::with(POLICY, |options, _| options.local_approvers = vec![(0, vec!["dba".to_owned()])]).await?;
    let readme = document("README.md")?;
    // One that is over, and one that waits: together they have every field.
    ensure!(world.psql(&["select 1"]).await?.code == Some(0));
    let job = world.start(&[ALTER])?;
    let request = world.receiver.requested(ALTER).await?;

    let webhooks = document("userspace/docs/webhooks.md")?;
    let always = |row: &Vec<String>| !row.get(1).is_some_and(|meaning| meaning.starts_with("only where"));
    let fields = table_after(&webhooks, "`data` of a request").into_iter().filter(always);
    let fields = fields.flat_map(|row| code(&row[0]));
    for field in fields.collect::<Vec<_>>() {
        ensure!(request.data().get(&field).is_some(), "data has no {field}: {:#}", request.data());
    }
    let cli = document("userspace/docs/cli.md")?;
    for (verb, words) in [
        ("`lockgate approvals`", vec!["approvals", "list"]),
        ("`lockgate sessions`", vec!["sessions", "list"]),
        ("`lockgate audit`", vec!["audit", "verify"]),
        ("`lockgate doctor`", vec!["doctor"]),
    ] {
        let answer = world.agent.json(&words)?;
        let known = keys(&answer);
        let section = section(&cli, verb);
        let shape = code_spans(&section).find(|span| span.starts_with("{\"")).context("no JSON shape")?;
        for key in keys_of_shape(&shape) {
            // Those that only a finding has, a log from which something was removed, or a recording that was asked about.
            let absent = [
                "seq",
                "place",
                "problem",
                "text",
                "remedy",
                "removed",
                "file",
                "sha256",
                "record",
                "stored",
                "from",
                "to",
                "policy",
                "announced",
                "broken",
            ]
            .contains(&key.as_str());
            ensure!(absent || known.contains(&key), "{words:?} has no {key}: {answer:#}");
        }
    }

    let mut decision = Decision::on(&request, "approve", "ana@example.com", &["dba"]);
    decision.body["data"]["reason"] = "change 4711 is reviewed".into();
    decision.accepted().await?;
    let done = job.done().await?;
    let shown =
        blocks(&readme, "console").find(|block| block.contains("psql")).context("no psql in README")?;
    for notice in shown.lines().filter(|line| line.starts_with("NOTICE")) {
        ensure!(done.stderr.lines().any(|line| reads_as(line, notice)), "{notice:?} is not in {done:?}");
    }
    tour(&world, &readme).await?;

    let scraped =
        root_shell(&world.agent, &format!("python3 -c '{SCRAPE}' {}/metrics", world.agent.api())).await?;
    ensure!(scraped.code == Some(0), "{scraped:?}");
    for line in scraped.stdout.lines().filter(|line| line.starts_with("# TYPE lockgate_")) {
        let name = line.split(' ').nth(2).context("a name")?;
        ensure!(cli.contains(name), "cli.md does not speak of {name}");
    }
    Ok(())
}

/// "Using it", line by line, while another statement waits.
async fn tour(world: &World, readme: &str) -> Result<()> {
    const DROP: &str = "alter table orders drop column note2";
    let job = world.start(&[DROP])?;
    let request = world.receiver.requested(DROP).await?;
    let request = request.data()["request_id"].as_str().context("request_id")?.to_owned();
    let sessions = world.agent.json(&["sessions", "list"])?;
    let session = sessions["sessions"][0]["id"].as_str().context("id")?;
    let script = world.agent.scratch().write("deploy.sh", "#!/bin/sh\necho deployed\n")?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let section = section(readme, "Using it");
    let lines = blocks(&section, "console").next().context("no tour in README")?;
    for line in lines.lines() {
        let (_, command) = line.split_once(' ').context("no prompt")?;
        let command = command
            .replace("req_…", &request)
            .replace("ses_…", session)
            .replace("/etc/lockgate/lockgate.yaml", &world.agent.config().display().to_string())
            .replace("policies/", &format!("{}/", root().join("policies").display()));
        let done = root_shell(&world.agent, &command).await?;
        // The world's agent runs already, and one log has one writer.
        let fits = match command.starts_with("lockgate agent") {
            true => done.code == Some(1) && done.stderr.contains("store"),
            false => done.code == Some(0),
        };
        ensure!(fits, "{command}: {done:?}");
    }
    let done = job.done().await?;
    ensure!(done.code == Some(0) && done.stderr.contains("approved by local:0 (change 4711)"), "{done:?}");
    Ok(())
}

/// What a scraper does.
const SCRAPE: &str = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())";

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_receiver_approves_a_held_statement() -> Result<()> {
    const ALTER: &str = "alter table orders add column by_receiver text";
    let guide = document("userspace/docs/webhooks.md")?;
    let pg = shop()?;
    let dir = Scratch::new("receiver")?;
    let port = free_port()?;
    let make =
        code_spans(&guide).find(|span| span.starts_with("printf 'whsec_")).context("no secret is made")?;
    for name in ["approvals.secret", "decisions.secret"] {
        let made = Command::new("bash").args(["-c", &make]).output().await?;
        dir.write_secret(name, std::str::from_utf8(&made.stdout)?)?;
    }
    let program = blocks(&guide, "python").next().context("no receiver")?;
    ensure!(program.contains("9000"), "the receiver's port is not 9000 any more");
    dir.write("receiver.py", &program.replace("9000", &port.to_string()))?;
    let mut python = Command::new("python3");
    python.args(["-u", "receiver.py"]).current_dir(dir.path()).kill_on_drop(true);
    let receiver = python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    listens(port).await?;

    let webhook = blocks(&guide, "yaml").next().context("no configuration")?;
    let webhook = webhook
        .replace("https://approvals.internal/", &format!("http://127.0.0.1:{port}/"))
        .replace("/etc/lockgate/", &format!("{}/", dir.path().display()));
    let password = pg.socket_dir().join("app.password");
    fs::write(&password, "app-secret\n")?;
    let options = AgentOptions {
        targets: vec![target("orders-db", pg.port(), "app", &password, "env: production")],
        policy: POLICY.to_owned(),
        run_uids: vec![JOB_UID],
        extra: webhook,
        ..Default::default()
    };
    let agent = Agent::start(options).await?;
    let server = pg.port().to_string();
    let command = job::psql("127.0.0.1", &server, "shop", &[ALTER]);
    let done = job::run(job::governed(&agent, JOB_UID, &[], &command)).await?;
    let told = ended(receiver).await?;
    ensure!(done.code == Some(0) && done.stdout.contains("ALTER TABLE"), "{done:?}\nreceiver: {told}");
    ensure!(done.stderr.contains("ana@example.com (looked at it)"), "{done:?}");
    ensure!(told.contains(&format!("asks for {ALTER}")), "receiver: {told}");
    ensure!(agent.events()?.iter().any(|event| has_kind(event, "vote_cast")), "no vote is recorded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_capabilities_in_the_unit_file_are_enough() -> Result<()> {
    let unit = document("userspace/deploy/systemd/lockgate.service")?;
    let set = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).context("no set")?;
    let set: String =
        set.split(' ').map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase())).collect();
    ensure!(unit.contains("\nNoNewPrivileges=yes\n"), "start it below as the unit does");

    let pg = shop()?;
    let password = pg.socket_dir().join("app.password");
    fs::write(&password, "app-secret\n")?;
    let agent = Agent::prepare(&AgentOptions {
        targets: vec![target("orders-db", pg.port(), "app", &password, "env: production")],
        policy: POLICY.to_owned(),
        run_uids: vec![JOB_UID],
        ..Default::default()
    })?;
    let mut command = Command::new("setpriv");
    command.args([&format!("--bounding-set=-all{set}"), "--no-new-privs", "--"]);
    command.arg(agent.binary()).args(["agent", "--config"]).arg(agent.config()).kill_on_drop(true);
    let mut running = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let api = agent.api().rsplit_once(':').context("a port")?.1.parse()?;
    let until = Instant::now() + Duration::from_secs(30);
    while lockgate_tests::agent::http_status(api, "/readyz").await != Some(200) {
        if running.try_wait()?.is_some() || Instant::now() > until {
            bail!("the agent did not start: {}", ended(running).await?);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let server = pg.port().to_string();
    let command = job::psql("127.0.0.1", &server, "shop", &["select 'governed'"]);
    let done = job::run(job::governed(&agent, JOB_UID, &[], &command)).await?;
    ensure!(done.stdout.contains("governed"), "{done:?}");
    let proof = agent.json(&["doctor"])?;
    ensure!(proof["ok"] == true, "{proof:#}");
    ended(running).await.map(drop)
}

/// getting-started.md on this machine.
struct Walk {
    // Fields drop in order: first the agent with its hooks, then the server.
    agent: Agent,
    pg: TestPostgres,
    /// Everything that was printed.
    said: String,
    notices: Vec<String>,
}

impl Walk {
    fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the end-to-end suite needs root: sudo -E cargo xtask e2e");
        let agent = Agent::prepare(&AgentOptions::default())?;
        // The document brings its own.
        fs::remove_dir_all(agent.scratch().path().join("policies"))?;
        Ok(Self { agent, pg: shop()?, said: String::new(), notices: Vec::new() })
    }

    /// What is written, for this machine.
    fn place(&self, text: &str) -> String {
        let instance = self.agent.governed_cgroup().replace("/lockgate-test-", "");
        let port = self.pg.port();
        text.replace("/etc/lockgate", &self.agent.scratch().path().display().to_string())
            .replace("/var/lib/lockgate", &self.agent.scratch().path().join("store").display().to_string())
            .replace("name: build-7", &format!("name: build-7, instance: {instance}"))
            .replace("/lockgate/run", &self.agent.governed_cgroup())
            .replace("10.20.0.5:5432", &format!("127.0.0.1:{port}"))
            .replace("-h 10.20.0.5 -p 5432", &format!("-h 127.0.0.1 -p {port}"))
            .replace("http://127.0.0.1:8420", &self.agent.api())
            .replace("127.0.0.1:8420", self.agent.api().trim_start_matches("http://"))
    }

    /// A line of the document, as somebody.
    fn command(&self, uid: u32, line: &str) -> Result<Command> {
        let mut line = self.place(line);
        for (sign, verb, list) in [("req_…", "approvals", "approvals"), ("ses_…", "sessions", "sessions")]
        {
            if line.contains(sign) {
                let listed = self.agent.json(&[verb, "list"])?;
                let id = listed[list][0]["id"].as_str().with_context(|| format!("no {verb}"))?;
                line = line.replace(sign, id);
            }
        }
        let path = format!("{}:{}", self.agent.scratch().path().display(), std::env::var("PATH")?);
        let config = self.agent.config().display().to_string();
        Ok(job::ungoverned(uid, &[("PATH", &path), ("LOCKGATE_CONFIG", &config)], &["bash", "-c", &line]))
    }

    async fn ended(&mut self, uid: u32, line: &str) -> Result<Done> {
        let done = job::run(self.command(uid, line)?).await?;
        self.said += &format!("{}{}", done.stdout, done.stderr);
        Ok(done)
    }

    async fn done(&mut self, uid: u32, line: &str) -> Result<Done> {
        let done = self.ended(uid, line).await?;
        ensure!(done.code == Some(0), "{line}: {done:?}");
        Ok(done)
    }

    /// Until one request waits.
    async fn waits(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while self.agent.json(&["approvals", "list"])?["approvals"].as_array().is_none_or(Vec::is_empty) {
            ensure!(Instant::now() < until, "nothing waits");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Makes every trouble of the table, and finds its text.
    async fn trouble(&mut self, document: &str) -> Result<()> {
        const PSQL: &str = "psql -h 10.20.0.5 -p 5432 -U anything shop -c";
        self.ended(STRANGER, "lockgate run -- true").await?;
        self.ended(CI_USER, &format!("lockgate run -- {PSQL} 'delete from orders'")).await?;
        let flag = self.agent.scratch().write("flag", "")?;
        let wait = format!("while test -e {}; do sleep 0.05; done", flag.display());
        let line = format!("lockgate run -- sh -c \"echo governed; {wait}; exec {PSQL} 'select 1'\"");
        let governed = job::start(self.command(CI_USER, &line)?)?;
        self.in_governed_cgroup().await?;
        // After an orderly end connections wait for the next agent first.
        self.agent.kill();
        fs::remove_file(flag)?;
        let governed = governed.done().await?;
        self.said += &governed.stderr;
        self.ended(CI_USER, "lockgate run -- true").await?;
        let config = fs::read_to_string(self.agent.config())?;
        ensure!(config.contains("tls: disable"), "{config}");
        fs::write(self.agent.config(), config.replace("tls: disable", "tls: verify-full"))?;
        self.agent.launch().await?;
        self.ended(CI_USER, &format!("lockgate run -- {PSQL} 'select 1'")).await?;

        let rows = table_after(document, "The five that are met most often");
        ensure!(rows.len() == 5, "{rows:?}");
        for row in rows {
            let text = code(&row[0]).into_iter().next().context("a text")?;
            let text = self.place(&text);
            ensure!(self.said.contains(&text), "nobody said {text:?}:\n{}", self.said);
        }
        Ok(())
    }

    async fn in_governed_cgroup(&self) -> Result<()> {
        let runs =
            lockgate_tests::agent::cgroup_mount()?.join(self.agent.governed_cgroup().trim_start_matches('/'));
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let mut cgroups = fs::read_dir(&runs)?.flatten().map(|entry| entry.path().join("cgroup.procs"));
            if cgroups.any(|procs| fs::read_to_string(procs).is_ok_and(|text| !text.is_empty())) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "no command is in {}", runs.display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn shop() -> Result<TestPostgres> {
    database(PostgresOptions::new().auth(HostAuth::Scram))
}

/// A command line, typed by root where the agent's binary and scripts are.
async fn root_shell(agent: &Agent, line: &str) -> Result<Done> {
    let directory = agent.scratch().path().display().to_string();
    let path = format!("{directory}:{}", std::env::var("PATH")?);
    let config = agent.config().display().to_string();
    let environment = [("PATH", path.as_str()), ("LOCKGATE_CONFIG", &config)];
    job::run(job::ungoverned(0, &environment, &["bash", "-c", &format!("cd {directory} && {line}")])).await
}

async fn listens(port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(Instant::now() < until, "nobody listens on {port}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Ends a program of ours; what it said.
async fn ended(mut child: Child) -> Result<String> {
    child.start_kill().or_else(|error| match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        Ok(None) | Err(_) => Err(error),
    })?;
    let output = child.wait_with_output().await?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document(path: &str) -> Result<String> {
    fs::read_to_string(root().join(path)).with_context(|| path.to_owned())
}

/// Fenced blocks of one language.
fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = String> + 'a {
    let fence = format!("```{language}\n");
    let mut parts = text.split(&*fence).map(str::to_owned).collect::<Vec<_>>().into_iter();
    parts.next();
    parts.filter_map(|part| Some(part.split_once("```")?.0.to_owned())).collect::<Vec<_>>().into_iter()
}

/// YAML blocks whose paragraph begins with the file's name.
fn named_files(text: &str) -> Vec<(String, String)> {
    let mut named = Vec::new();
    let mut paragraph = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        match line {
            "```yaml" => {
                let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                if let Some(name) = code(&paragraph).into_iter().next().filter(|name| name.starts_with('/')) {
                    named.push((name, body.join("\n") + "\n"));
                }
                paragraph.clear();
            }
            "" => {}
            line if paragraph.is_empty() || !line.starts_with('`') => paragraph.push_str(line),
            line => line.clone_into(&mut paragraph),
        }
    }
    named
}

/// What stands under a heading, up to the next one.
fn section(text: &str, title: &str) -> String {
    let from = text.split_once(&format!("\n## {title}\n")).map_or("", |(_, rest)| rest);
    from.split("\n## ").next().unwrap_or_default().to_owned()
}

/// Rows of the first table after some words, without its head.
fn table_after(text: &str, words: &str) -> Vec<Vec<String>> {
    let rest = text.split_once(words).map_or("", |(_, rest)| rest);
    let rows =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The code spans of a text.
fn code(text: &str) -> Vec<String> {
    code_spans(text).collect()
}

fn code_spans(text: &str) -> impl Iterator<Item = String> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let body = &rest[start + ticks..];
        let Some(end) = body.find(&"`".repeat(ticks)) else { break };
        if ticks < 3 {
            spans.push(body[..end].replace('\n', " "));
        }
        rest = &body[end + ticks..];
    }
    spans.into_iter()
}

/// The keys in a shape such as `{"a": [{"b"}], "c": "x" | "y"}`: quoted, after a brace or a comma.
fn keys_of_shape(shape: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut parts = shape.split('"');
    while let (Some(before), Some(word)) = (parts.next(), parts.next()) {
        if before.trim_end().ends_with(['{', ',']) || before.trim() == "," {
            keys.push(word.to_owned());
        }
    }
    keys
}

fn keys(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            fields.keys().cloned().chain(fields.values().flat_map(keys)).collect::<BTreeSet<_>>()
        }
        Value::Array(items) => items.iter().flat_map(keys).collect(),
        _ => BTreeSet::new(),
    }
}

/// True when a line is what is written, where `…` stands for anything.
fn reads_as(line: &str, written: &str) -> bool {
    let mut rest = line;
    written.split('…').all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}
