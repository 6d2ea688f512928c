//! The console in a real browser, before a real agent with really held clients: what comes is shown without reloading, what is
//! decided by keyboard, by buttons, several at once or without script lets the client go on or not; sessions grow while they
//! are looked at, are found and ended; and every page is fit for narrow screens, dark rooms and readers of other kinds.
//!
//! The browser is driven by `tests/browser/*.mjs`; this side asks for what they need and looks at what became of it. Screenshots
//! are left in `target/console` for people.

use crate::world::{CARD, SSN, World};
use anyhow::{Context, Result, bail, ensure};
use lockgate_tests::{
    installed::installed,
    job::{self, Done, JOB_UID, Running},
    receiver::Delivery,
    scratch::{Scratch, free_port},
};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// One step of a scenario, on a machine that is busy.
const STEP_WITHIN: Duration = Duration::from_secs(180);

/// As the other tests' policy, with time enough for a browser, and rows that are kept.
const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: console }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction, write] } }
  effect: allow
  record: { results: masked }
- id: schema-change-dba
  description: Schema changes on production need a DBA
  match: { target: { tags: { env: production } }, sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 20m
- id: no-unbounded-write
  match: { target: { tags: { env: production } }, sql: { kinds: [delete, update], bounded: false } }
  effect: deny
  final: true
  message: "an unbounded write on production is never right"
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask:
    columns:
    - { match: "*.*.ssn", method: redact }
    - { match: "*.*.card_number", method: partial, keep_last: 4 }
    on_unknown_lineage: redact
    in_predicate: deny
break_glass:
- id: emergency
  who: { group: dba }
  lifts: [require_approval]
  requires: { reason: true }
  max: 30m
tests:
- name: reads pass
  given: { statement: "select 1", target: { name: orders-db, tags: { env: production } } }
  expect: { effect: allow }
"#;

async fn world() -> Result<World> {
    World::with(POLICY, |options, _| {
        options.extra = "login: { bootstrap: { groups: [dba] } }\n".to_owned();
    })
    .await
}

/// A browser that follows a scenario, and asks for things on the way.
struct Browser {
    _node: Child,
    said: Lines<BufReader<ChildStdout>>,
    answers: ChildStdin,
}

impl Browser {
    /// Starts a scenario against an agent, logged in as its first administrator.
    async fn follow(world: &World, scenario: &str, more: Value) -> Result<Self> {
        let token = bootstrap(world).await?;
        Self::follow_as(world, scenario, json!(token), more).await
    }

    /// The same, logged in by this one-time token, or not at all.
    async fn follow_as(world: &World, scenario: &str, token: Value, more: Value) -> Result<Self> {
        let shots = shots()?;
        let mut given = json!({
            "url": world.agent.api(),
            "token": token,
            "shots": shots,
            "modules": installed("browser/node_modules")?,
        });
        if let (Value::Object(given), Value::Object(more)) = (&mut given, more) {
            given.extend(more);
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(scenario);
        let mut node = Command::new("node")
            .arg(script)
            .arg(given.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("node")?;
        let said = BufReader::new(node.stdout.take().context("no standard output")?).lines();
        let answers = node.stdin.take().context("no standard input")?;
        Ok(Self { _node: node, said, answers })
    }

    /// What it asks for next; None when it is done.
    async fn asks(&mut self) -> Result<Option<String>> {
        loop {
            let line = tokio::time::timeout(STEP_WITHIN, self.said.next_line()).await;
            let line = line.context("the browser does not get on")??.context("the browser is gone")?;
            match line.strip_prefix("> ") {
                Some("done") => return Ok(None),
                Some(word) if word.starts_with("failed ") => bail!("in the browser: {}", unfold(word)),
                Some(word) => return Ok(Some(word.to_owned())),
                None => println!("browser: {line}"),
            }
        }
    }

    async fn go_on(&mut self) -> Result<()> {
        Ok(self.answers.write_all(b"ok\n").await?)
    }

    /// For scenarios that ask for nothing.
    async fn until_its_end(mut self) -> Result<()> {
        let asked = self.asks().await?;
        ensure!(asked.is_none(), "{asked:?} was not expected");
        Ok(())
    }
}

fn unfold(failed: &str) -> String {
    let text = failed.strip_prefix("failed ").unwrap_or(failed);
    serde_json::from_str(text).unwrap_or_else(|_| text.to_owned())
}

fn shots() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let shots = target.join("console");
    std::fs::create_dir_all(&shots)?;
    Ok(shots)
}

/// A one-time token of the first administrator, as root gets it on the host.
async fn bootstrap(world: &World) -> Result<String> {
    let mut socket = world.agent.store().into_os_string();
    socket.push(".sock");
    let mut stream = UnixStream::connect(&socket).await.context("the agent's socket")?;
    stream
        .write_all(
            b"POST /v1/bootstrap HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        )
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.find('{').and_then(|at| answer.get(at..=answer.rfind('}')?)).unwrap_or_default();
    let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    Ok(body["token"].as_str().with_context(|| answer.clone())?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_decide_in_a_browser_and_clients_go_on_or_do_not() -> Result<()> {
    let world = world().await?;
    let mut browser = Browser::follow(&world, "decide.mjs", json!({})).await?;
    let mut jobs: Vec<(Running, &str)> = Vec::new();
    const DEFAULT: &str = "alter table orders alter column note set default 'none'";
    while let Some(asked) = browser.asks().await? {
        match asked.as_str() {
            "ask approve" => {
                jobs.push((world.start(&["alter table orders add column approved text"])?, "approve"))
            }
            "ask deny" => jobs.push((world.start(&["alter table orders add column denied text"])?, "deny")),
            "ask grant" => jobs.push((world.start(&[DEFAULT])?, "grant")),
            "ask several" => {
                for name in ["one", "two", "three"] {
                    let statement = format!("alter table orders add column {name} text");
                    jobs.push((world.start(&[&statement])?, "several"));
                }
            }
            "ask plain" => {
                jobs.push((world.start(&["alter table orders add column plain text"])?, "plain"));
                waits(&world, 1).await?;
            }
            "decided approve" | "decided plain" => {
                let done = only(&mut jobs).await?;
                ensure!(done.code == Some(0) && done.stdout.contains("ALTER TABLE"), "{done:?}");
            }
            "decided deny" => {
                let done = only(&mut jobs).await?;
                ensure!(done.code == Some(1) && done.stderr.contains("not on a Friday"), "{done:?}");
                ensure!(!world.target_saw("add column denied")?);
            }
            "decided grant" => {
                let done = only(&mut jobs).await?;
                ensure!(done.code == Some(0), "{done:?}");
                let again = world.psql(&[DEFAULT]).await?;
                ensure!(again.code == Some(0) && !again.stderr.contains("waiting for approval"), "{again:?}");
            }
            "revoked" => {
                let waiting = world.start(&[DEFAULT])?;
                waits(&world, 1).await?;
                waiting.signal(nix::sys::signal::Signal::SIGKILL)?;
                waiting.done().await?;
                waits(&world, 0).await?;
            }
            "decided several" => {
                let mut ends = Vec::new();
                for (job, _) in jobs.drain(..) {
                    ends.push(job.done().await?.code);
                }
                ends.sort_unstable();
                ensure!(ends == [Some(0), Some(0), Some(1)], "{ends:?}");
            }
            other => bail!("the browser asks for {other:?}"),
        }
        browser.go_on().await?;
    }
    let votes = world.recorded("vote_cast", 7).await?;
    let text = serde_json::to_string(&votes)?;
    for reason in ["planned in CHG-1", "not on a Friday", "the migration window", "both are fine", "by hand"]
    {
        ensure!(text.contains(reason), "{reason} is in no record: {text}");
    }
    ensure!(text.contains("bootstrap:admin"), "{text}");
    Ok(())
}

/// The one job there is, at its end.
async fn only(jobs: &mut Vec<(Running, &str)>) -> Result<Done> {
    let (job, _) = jobs.pop().context("no job waits")?;
    ensure!(jobs.is_empty());
    job.done().await
}

/// Waits until so many requests wait.
async fn waits(world: &World, count: usize) -> Result<()> {
    let until = std::time::Instant::now() + STEP_WITHIN;
    loop {
        let listed = world.agent.json(&["approvals", "list"])?;
        let listed = ["approvals", "items"].iter().find_map(|name| listed[*name].as_array());
        let waiting = listed.map(|all| all.iter().filter(|one| one["state"] == "pending").count());
        if waiting == Some(count) {
            return Ok(());
        }
        ensure!(std::time::Instant::now() < until, "{count} should wait, {waiting:?} do");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_grows_on_its_page_and_is_found_and_ended() -> Result<()> {
    let world = world().await?;
    let fifo = world.agent.scratch().path().join("statements.sql");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644))?;
    std::fs::set_permissions(&fifo, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    // Both ways, so that opening it waits for nobody.
    let mut script = std::fs::File::options().read(true).write(true).open(&fifo)?;
    let port = world.pg.port().to_string();
    let path = fifo.display().to_string();
    let command = ["psql", "-X", "-h", "127.0.0.1", "-p", &port, "-U", "whoever", "-d", "shop", "-f", &path];
    let job = job::start(job::governed(&world.agent, JOB_UID, &[], &command))?;
    writeln!(script, "select id, name, ssn, card_number from customers;")?;
    world.recorded("responded", 1).await?;
    let given = json!({
        "expected": ["allowed", "select", "everyday", "masked", "answered", "delete", "denied", "never right", "0004"],
        "secrets": [SSN, CARD],
        "words": "unbounded production",
    });
    let mut browser = Browser::follow(&world, "sessions.mjs", given).await?;
    while let Some(asked) = browser.asks().await? {
        match asked.as_str() {
            "more" => writeln!(script, "delete from orders;")?,
            "killed" => {
                let ended = world.recorded("session_ended", 1).await?;
                ensure!(ended[0].to_string().contains("killed"), "{ended:?}");
            }
            other => bail!("the browser asks for {other:?}"),
        }
        browser.go_on().await?;
    }
    drop(script);
    job.signal(nix::sys::signal::Signal::SIGKILL)?;
    job.done().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_fit_for_every_screen_and_reader() -> Result<()> {
    let world = world().await?;
    world.psql(&["select id, name, ssn from customers where id = 1", "delete from orders"]).await?;
    let long: String = (0..120).map(|n| format!("-- line {n}: \u{202e}txet\n")).collect();
    let statement = format!("alter table orders add column note_{} text;\n{long}", "x".repeat(40));
    let held = world.start(&[&statement])?;
    let other = world.start(&["alter table customers add column loyalty int default 7"])?;
    waits(&world, 2).await?;
    let requests = world.agent.json(&["approvals", "list"])?;
    let items =
        ["approvals", "items"].iter().find_map(|name| requests[*name].as_array()).context("no list")?;
    let id = items.iter().find(|one| one.to_string().contains("note_x")).and_then(|one| one["id"].as_str());
    let id = id.context("no request")?.to_owned();
    let session = items.iter().find_map(|one| one["session_id"].as_str()).context("no session")?.to_owned();
    let explain = "statement=alter+table+orders+add+column+x+int&target=orders-db&tags=env:+production";
    let pages = json!({
        "/approvals": "approvals",
        format!("/approvals/{id}"): "approval",
        "/approvals?state=resolved": "approvals-resolved",
        "/approvals?q=nothing-like-it": "approvals-filtered",
        "/approvals/req_nothing": "error",
        "/grants": "grants-empty",
        "/breakglass": "breakglass",
        "/sessions": "sessions",
        format!("/sessions/{session}"): "session",
        "/search": "search-empty",
        "/search?q=orders": "search-orders",
        "/targets?health=ask": "targets",
        "/governed": "governed",
        format!("/policies?{explain}&tests=run"): "policies",
        "/audit": "audit",
        "/me": "me",
    });
    Browser::follow(&world, "pages.mjs", json!({ "pages": pages })).await?.until_its_end().await?;
    for job in [held, other] {
        job.signal(nix::sys::signal::Signal::SIGKILL)?;
        job.done().await?;
    }
    Ok(())
}

/// As [`POLICY`], with schema changes that are told together.
fn bundled() -> String {
    POLICY.replace("    timeout: 20m\n", "    timeout: 20m\n    coalesce: { by: [rule], window: 60s }\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_together_is_one_page_and_one_decision() -> Result<()> {
    let world = World::with(&bundled(), |options, _| {
        options.extra = "login: { bootstrap: { groups: [dba] } }\n".to_owned();
    })
    .await?;
    let mut browser = Browser::follow(&world, "bundle.mjs", json!({})).await?;
    let mut jobs: Vec<Running> = Vec::new();
    let mut number = 0;
    while let Some(asked) = browser.asks().await? {
        let mut ask = |jobs: &mut Vec<Running>| -> Result<()> {
            number += 1;
            let statement = format!("alter table orders add column bundled_{number} text");
            jobs.push(world.start(&[&statement])?);
            Ok(())
        };
        match asked.as_str() {
            "ask" => {
                ask(&mut jobs)?;
                ask(&mut jobs)?;
                waits(&world, 2).await?;
            }
            "join" => ask(&mut jobs)?,
            "approved" => {
                for job in jobs.drain(..) {
                    let done = job.done().await?;
                    ensure!(done.code == Some(0), "{done:?}");
                }
            }
            "denied" => {
                for job in jobs.drain(..) {
                    let done = job.done().await?;
                    ensure!(done.code == Some(1) && done.stderr.contains("not this week"), "{done:?}");
                }
            }
            other => bail!("the browser asks for {other:?}"),
        }
        browser.go_on().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_checked_policy_asked_and_targets_registered_in_a_browser() -> Result<()> {
    let world = world().await?;
    world.psql(&["select 1", "delete from orders"]).await?;
    let secret = world.pg.socket_dir().join("app.password").display().to_string();
    Browser::follow(&world, "keep.mjs", json!({ "secret": secret })).await?.until_its_end().await?;
    let done = world.recorded("administered", 4).await?;
    let text = serde_json::to_string(&done)?;
    for word in ["billing-db", "shop-api", "bootstrap:admin"] {
        ensure!(text.contains(word), "{word} is in no record: {text}");
    }
    ensure!(!text.contains("app-secret"), "a secret is recorded");
    Ok(())
}

/// Break-glass for who comes from an identity provider.
const GLASS_POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: glass }
groups:
  commander: { oidc: "groups:commander" }
  security:  { oidc: "groups:security" }
  dba:       { oidc: "groups:dba" }
rules:
- id: everyday
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction] } }
  effect: allow
- id: writes-ask
  match: { target: { tags: { env: production } }, sql: { class: write } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: security }, need: 1 }]
    timeout: 20m
- id: never-truncate
  match: { sql: { kinds: [truncate] } }
  effect: deny
  final: true
break_glass:
- id: bg-prod
  who: { group: commander }
  lifts: [require_approval, deny]
  requires: { reason: true, ticket: "INC-[0-9]+" }
  max: 30m
  notify: [security]
  review: { by: security, within: 24h, blocks_next_use: true }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_glass_is_broken_by_a_person_who_has_just_logged_in() -> Result<()> {
    let scratch = Scratch::new("glass")?;
    let secret = scratch.write_secret("oidc.secret", "s3cret-s3cret-s3cret")?;
    let port = free_port()?;
    let login = format!(
        "login:\n  providers:\n  - name: corp\n    oidc: {{ issuer: \"http://127.0.0.1:{port}\", client_id: lockgate, client_secret: {{ \
         file: {} }}, scopes: [profile, groups] }}\n  roles: {{ viewer: [staff] }}\n  \
         groups: {{ commander: [commander], security: [security] }}\n",
        secret.display()
    );
    let world = World::with(GLASS_POLICY, |options, _| {
        options.extra = login;
        options.local_approvers = vec![(JOB_UID, vec!["commander".to_owned()])];
    })
    .await?;
    let update = "update orders set note = 'emergency' where id = 1";
    let given = json!({
        "oidc_port": port, "people": installed("people/node_modules")?, "principal": format!("uid:{JOB_UID}"),
    });
    let mut browser = Browser::follow_as(&world, "glass.mjs", Value::Null, given).await?;
    while let Some(asked) = browser.asks().await? {
        match asked.as_str() {
            "refused" => {
                ensure!(world.events("glass_broken")?.is_empty(), "a login that is too old broke it");
                // A CI job is no person, whatever terminal it makes for itself.
                let config = world.agent.config().display().to_string();
                let binary = world.agent.binary().display().to_string();
                let line =
                    format!("{binary} breakglass use bg-prod --reason x --ticket INC-1 --config {config}");
                let ci = [("GITHUB_ACTIONS", "true"), ("GITHUB_RUN_ID", "4711")];
                let command = ["script", "-qec", &line, "/dev/null"];
                let job = job::run(job::governed(&world.agent, JOB_UID, &ci, &command)).await?;
                ensure!(job.code != Some(0) && job.stdout.contains("logged in"), "{job:?}");
                ensure!(world.events("glass_broken")?.is_empty(), "a CI job broke it");
            }
            "broken" => {
                let used = |delivery: &Delivery| delivery.kind() == "lockgate.breakglass.used";
                let alert = world.receiver.wait_for(STEP_WITHIN, used).await?;
                let data = alert.data();
                ensure!(data["ticket"] == "INC-4711" && data["by"]["id"] == "oidc:corp:ana", "{data:#}");
                ensure!(data["login"].as_str().is_some_and(|login| login.contains("corp")), "{data:#}");
                let passed = world.psql(&[update]).await?;
                ensure!(passed.code == Some(0) && passed.stdout.contains("UPDATE 1"), "{passed:?}");
                let denied = world.psql(&["truncate orders"]).await?;
                ensure!(denied.code == Some(1) && denied.stderr.contains("never-truncate"), "{denied:?}");
            }
            "ended" => {
                let held = world.start(&[update])?;
                waits(&world, 1).await?;
                held.signal(nix::sys::signal::Signal::SIGKILL)?;
                held.done().await?;
            }
            "again" => {
                world.recorded("glass_reviewed", 1).await?;
                world.recorded("glass_broken", 2).await?;
            }
            other => bail!("the browser asks for {other:?}"),
        }
        browser.go_on().await?;
    }
    let refused = serde_json::to_string(&world.recorded("decision_refused", 4).await?)?;
    for code in ["login_required", "ticket_required", "review_pending"] {
        ensure!(refused.contains(code), "{code} is not recorded: {refused}");
    }
    Ok(())
}
