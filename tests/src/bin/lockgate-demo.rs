//! The story `cargo xtask demo` tells: an unmodified psql script runs through lockgate; on the terminal stands what the
//! job saw, what the approver saw and what was recorded. Everything is real but the approver, who clicks by program
//! (or is you, with `--interactive`).

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use lockgate_tests::{
    agent::{Agent, AgentOptions, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::{Decision, Delivery, Receiver},
};
use std::{io::IsTerminal, process::Stdio, time::Duration};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Shows lockgate at work on a throw-away PostgreSQL.
#[derive(Parser)]
struct Arguments {
    /// You approve, from another terminal
    #[arg(long)]
    interactive: bool,
}

const POLICY: &str = r#"apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: demo }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { target: { name: orders-db }, sql: { class: [read, session, transaction, write] } }
  effect: allow
- id: schema-change-dba
  description: Schema changes on production need a DBA
  match: { target: { tags: { env: production } }, sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 15m
- id: no-unbounded-write
  match: { target: { tags: { env: production } }, sql: { kinds: [delete, update], bounded: false } }
  effect: deny
  final: true
  message: "a DELETE or UPDATE without WHERE is refused on production"
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask:
    columns:
    - { match: "*.*.ssn", method: redact }
    - { match: "*.*.card_number", method: partial, keep_last: 4 }
"#;

/// What the pipeline runs; it knows nothing of lockgate.
const SCRIPT: &str = "\
select id, name, ssn, card_number from customers order by id;
alter table orders add column note text;
update orders set note = 'checked' where id = 1;
delete from orders;
select id, note from orders order by id;
";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(nix::unistd::geteuid().is_root(), "the demo loads eBPF programs: run it as root");
    tell("1", "a throw-away PostgreSQL, a webhook receiver, and lockgate with its hooks in the kernel");
    let pg = shop()?;
    let receiver = Receiver::start().await?;
    let agent = Agent::start(options(&pg, &receiver)?).await?;
    note(&format!("PostgreSQL on {}, role app with a password that only lockgate has", pg.addr()));
    note(&format!("agent {} with its API on {}", agent.pid().unwrap_or_default(), agent.api()));

    tell("2", &format!("the job: an ordinary psql as uid {JOB_UID}, no password, nothing repointed"));
    for line in SCRIPT.lines() {
        say("script  ", line);
    }
    let mut job = start_job(&agent, &pg)?;
    let out = tokio::spawn(echo(job.stdout.take().context("stdout")?));
    let errors = tokio::spawn(echo(job.stderr.take().context("stderr")?));

    let request = receiver.requested("alter table").await?;
    show_request(&request);
    if arguments.interactive {
        wait_for_you(&agent, &receiver, &request).await?;
    } else {
        tokio::time::sleep(Duration::from_secs(2)).await;
        ensure!(!pg.log()?.contains("alter table orders"), "the target saw a held statement");
        say("target  ", "(its own log, with every statement in it, has not one byte of the ALTER TABLE)");
        say("approver", "ana@example.com of group dba approves: \"change 4711 is reviewed\"");
        let mut decision = Decision::on(&request, "approve", "ana@example.com", &["dba"]);
        decision.body["data"]["reason"] = "change 4711 is reviewed".into();
        decision.accepted().await?;
    }
    let status =
        tokio::time::timeout(Duration::from_secs(60), job.wait()).await.context("the job did not end")??;
    let (out, errors) = (out.await??, errors.await??);
    say("job     ", &format!("ended with exit code {}", status.code().unwrap_or(-1)));
    check(&out, &errors, arguments.interactive)?;

    tell("3", "what was recorded");
    record(&agent)?;
    tell("4", "is the log whole?");
    let verify = agent.cli(&["audit", "verify"])?;
    print_block("lockgate audit verify", &verify.stdout);
    ensure!(verify.status.success(), "the log does not verify: {verify:?}");
    tell("5", "cleaning up: hooks detached, server stopped, files removed");
    drop((agent, receiver, pg));
    println!("\ndone. Next: README.md, policies/README.md, userspace/docs/configuration.md");
    Ok(())
}

fn shop() -> Result<TestPostgres> {
    let pg =
        TestPostgres::start(PostgresOptions::new().auth(HostAuth::Scram).setting("log_statement", "all"))?;
    pg.psql("CREATE ROLE app LOGIN PASSWORD 'only-lockgate-knows'")?;
    pg.psql("CREATE DATABASE shop OWNER app")?;
    pg.psql_in(
        "shop",
        "SET ROLE app; \
         CREATE TABLE customers (id int PRIMARY KEY, name text, ssn text, card_number text); \
         CREATE TABLE orders (id int PRIMARY KEY, customer_id int, amount numeric); \
         INSERT INTO customers VALUES (1, 'Ana', '123-45-6789', '4111111111111111'), (2, 'Bo', '987-65-4320', '5500000000000004'); \
         INSERT INTO orders VALUES (1, 1, 10.50), (2, 2, 20)",
    )?;
    Ok(pg)
}

fn options(pg: &TestPostgres, receiver: &Receiver) -> Result<AgentOptions> {
    let password = pg.socket_dir().join("app.password");
    std::fs::write(&password, "only-lockgate-knows\n")?;
    Ok(AgentOptions {
        targets: vec![target("orders-db", pg.port(), "app", &password, "env: production, pci: \"true\"")],
        policy: POLICY.to_owned(),
        local_approvers: vec![(0, vec!["dba".to_owned()])],
        run_uids: vec![JOB_UID],
        ..AgentOptions::default()
    }
    .webhook(receiver, &["dba"]))
}

fn start_job(agent: &Agent, pg: &TestPostgres) -> Result<tokio::process::Child> {
    let script = agent.scratch().write("migrate.sql", SCRIPT)?.display().to_string();
    let port = pg.port().to_string();
    let command = ["psql", "-X", "-h", "127.0.0.1", "-p", &port, "-U", "ci", "-d", "shop", "-f", &script];
    say("job     ", &format!("$ {}", command.join(" ")));
    let mut job = job::governed(agent, JOB_UID, &[], &command);
    Ok(job.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Shows the job's output as it comes, and keeps it.
async fn echo(stream: impl AsyncRead + Unpin) -> Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let mut all = String::new();
    while let Some(line) = lines.next_line().await? {
        say("job     ", &line);
        all.push_str(&line);
        all.push('\n');
    }
    Ok(all)
}

fn show_request(request: &Delivery) {
    let data = request.data();
    let text = |path: &str| {
        data.pointer(path).map(|value| value.to_string().trim_matches('"').to_owned()).unwrap_or_default()
    };
    say("approver", "a signed webhook came in:");
    for (what, value) in [
        ("asks", text("/operation/statement")),
        ("class", format!("{}, risk {}", text("/operation/class"), text("/operation/risk"))),
        ("target", format!("{} {}", text("/target/name"), text("/target/tags"))),
        ("who", format!("{} ({})", text("/identity/display"), text("/identity/assurance"))),
        ("process", text("/identity/process/exe")),
        ("need", text("/need")),
        ("digest", text("/command_digest")),
        ("until", text("/expires_at")),
    ] {
        say("approver", &format!("  {what:<8}{value}"));
    }
}

async fn wait_for_you(agent: &Agent, receiver: &Receiver, request: &Delivery) -> Result<()> {
    let id = request.data()["request_id"].as_str().context("request_id")?.to_owned();
    let command = format!(
        "{} approvals approve {id} --reason 'looks right' --config {}",
        agent.binary().display(),
        agent.config().display()
    );
    tell("!", "the job waits for you. As root, in another terminal (or `deny` instead of `approve`):");
    println!("\n    {command}\n");
    let ended = |delivery: &Delivery| {
        delivery.data()["request_id"] == id.as_str() && delivery.kind() != "lockgate.approval.requested"
    };
    let how = receiver.wait_for(Duration::from_secs(15 * 60), ended).await?;
    say("approver", how.kind());
    Ok(())
}

/// The demo must not tell a story that did not happen.
fn check(out: &str, errors: &str, interactive: bool) -> Result<()> {
    let mut promises = vec![
        ("the SSN is masked", !out.contains("123-45-6789") && out.contains("[redacted]")),
        ("the card number keeps four digits", !out.contains("4111111111111111") && out.contains("1111")),
        ("the job was told that it waits", errors.contains("waiting for approval")),
        ("the unbounded DELETE was refused", errors.contains("no-unbounded-write")),
    ];
    if !interactive {
        promises.push(("the approved statement ran", out.contains("ALTER TABLE") && out.contains("checked")));
    }
    for (promise, kept) in promises {
        if !kept {
            bail!("not kept: {promise}\n{out}\n{errors}");
        }
        note(&format!("✓ {promise}"));
    }
    Ok(())
}

fn record(agent: &Agent) -> Result<()> {
    let list = agent.cli(&["sessions", "list"])?;
    print_block("lockgate sessions list", &list.stdout);
    let sessions = agent.json(&["sessions", "list"])?.to_string();
    let id =
        sessions.find("ses_").and_then(|at| sessions.get(at..at + 30)).context("no session was recorded")?;
    let replay = agent.cli(&["sessions", "replay", id])?;
    print_block(&format!("lockgate sessions replay {id}"), &replay.stdout);
    let raw = agent.log_text()?;
    ensure!(!raw.contains("123-45-6789") && !raw.contains("only-lockgate-knows"), "a secret is in the log");
    note("✓ neither a masked value nor the credential is in the log");
    Ok(())
}

fn bold(text: &str) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    if colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

fn tell(number: &str, what: &str) {
    println!("\n{}", bold(&format!("{number}. {what}")));
}

fn say(who: &str, what: &str) {
    println!("   {} │ {what}", bold(who));
}

fn note(what: &str) {
    println!("   {what}");
}

fn print_block(command: &str, output: &[u8]) {
    println!("   $ {command}");
    for line in String::from_utf8_lossy(output).lines() {
        println!("   {line}");
    }
}
