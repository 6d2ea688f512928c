//! The job has no credential: an agent with a CA for each leg, a role by policy, and a server that takes nothing but the
//! certificates that the agent signs. Everything is configured as `userspace/docs/credentials.md` has it.

use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, built_binary},
    job::{self, JOB_UID},
    postgres::{PostgresOptions, TestPostgres},
    scratch::Scratch,
};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// A closing record is queued, and written with the next one or soon after.
const RECORDED_WITHIN: Duration = Duration::from_secs(10);

/// Reads pass, as a role that can do no more.
const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: credentials }
rules:
- { id: everything, match: { target: { name: orders-db } }, effect: allow }
- { id: reads-only, match: { target: { tags: { env: production } } }, effect: none, login_as: app_readonly }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_credential_works_as_the_role_that_policy_names() -> Result<()> {
    let files = Scratch::new("credentials")?;
    for leg in ["tls", "logins"] {
        let directory = files.path().join(leg);
        let made = Command::new(built_binary("lockgate")?)
            .args(["tls", "ca", "--directory"])
            .arg(&directory)
            .args(["--name", &format!("lockgate e2e {leg}")])
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(directory.join("ca.key"))?.permissions(),
        );
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
    }
    let file = |name: &str| files.path().join(name).display().to_string();
    let options = PostgresOptions::new()
        .tls()
        .setting("ssl_ca_file", &file("logins/ca.crt"))
        .setting("log_connections", "on")
        .setting("log_line_prefix", "%a|")
        .hba("hostssl all app,app_readonly 127.0.0.1/32 cert");
    let pg = TestPostgres::start(options)?;
    pg.psql("CREATE ROLE app LOGIN; CREATE ROLE app_readonly LOGIN; CREATE TABLE t (id int); GRANT SELECT ON t TO app_readonly; GRANT ALL ON t TO app")?;
    let target = format!(
        "- name: orders-db\n  protocol: postgres\n  addresses: [\"127.0.0.1:{port}\"]\n  tags: {{ env: production }}\n  \
         client_tls: {{ ca: {0}, ca_key: {1}, names: [orders-db] }}\n  session_in_application_name: true\n  \
         upstream:\n    ca: {2}\n    server_name: localhost\n    \
         credential: {{ user: app, client_certificate: {{ ca: {3}, ca_key: {4} }} }}\n",
        file("tls/ca.crt"),
        file("tls/ca.key"),
        pg.ca_file()?.display(),
        file("logins/ca.crt"),
        file("logins/ca.key"),
        port = pg.port(),
    );
    let options = AgentOptions {
        run_uids: vec![JOB_UID],
        policy: POLICY.to_owned(),
        targets: vec![target],
        ..Default::default()
    };
    let agent = Agent::start(options).await?;
    let port = pg.port().to_string();
    let trusted = file("tls/ca.crt");
    let environment =
        [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", trusted.as_str()), ("PGHOSTADDR", "127.0.0.1")];
    let statements =
        ["select current_user, count(*) from t", "show application_name", "insert into t values (1)"];
    let command = job::psql("orders-db", &port, "postgres", &statements);
    let done = job::run(job::governed(&agent, JOB_UID, &environment, &command)).await?;
    // lockgate allows it, the role does not: the server's own word.
    ensure!(
        done.stdout.contains("app_readonly|0") && done.stderr.contains("permission denied for table t"),
        "{done:?}"
    );
    let session =
        done.stdout.lines().find_map(|line| line.strip_prefix("lockgate:")).context("no session id")?;
    let session = session.split(' ').next().context("no session id")?.to_owned();

    // One id in three places: the certificate in the server's log, its prefix, and lockgate's record.
    let log = pg.log()?;
    ensure!(
        log.contains(&format!("OU=lockgate {session}")) && log.contains(&format!("lockgate:{session} psql|")),
        "{log}"
    );
    let events = agent.events()?;
    let started = events
        .iter()
        .find(|event| event.to_string().contains(&session) && event["event"] == "session_started");
    let started = started.with_context(|| format!("{session} is not in {events:#?}"))?.to_string();
    ensure!(
        started.contains("\"upstream_user\":\"app_readonly\"") && started.contains("\"client_tls\":true"),
        "{started}"
    );

    // The keys are nowhere but in their files.
    let key = std::fs::read_to_string(files.path().join("logins/ca.key"))?;
    let line = key.lines().nth(1).context("a key")?;
    ensure!(!agent.log().contains(line) && !agent.log_text()?.contains(line));
    // Nothing is signed for a name that is not the target's; the client leaves, and the record tells why.
    let command = job::psql("billing-db", &port, "postgres", &["select 1"]);
    let done = job::run(job::governed(&agent, JOB_UID, &environment, &command)).await?;
    ensure!(done.code == Some(2), "{done:?}");
    let until = Instant::now() + RECORDED_WITHIN;
    while !agent.log_text()?.contains("client_tls.names") {
        ensure!(Instant::now() < until, "the name is not in the record");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The job cannot use what the agent uses: without a certificate the server lets nobody in.
    let direct = Command::new(pg.program("psql"))
        .args([
            "-X",
            "-c",
            "select 1",
            &format!("host=127.0.0.1 port={port} user=app dbname=postgres sslmode=require"),
        ])
        .output()?;
    ensure!(!direct.status.success(), "{direct:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_ca_cannot_sign_does_not_start_and_says_why() -> Result<()> {
    let files = Scratch::new("credentials-bad")?;
    for name in ["one", "two"] {
        let made = Command::new(built_binary("lockgate")?)
            .args(["tls", "ca", "--directory"])
            .arg(files.path().join(name))
            .output()?;
        ensure!(made.status.success(), "{made:?}");
    }
    let again = Command::new(built_binary("lockgate")?)
        .args(["tls", "ca", "--directory"])
        .arg(files.path().join("one"))
        .output()?;
    ensure!(
        again.status.code() == Some(1)
            && String::from_utf8_lossy(&again.stderr).contains("nothing is overwritten"),
        "{again:?}"
    );
    let file = |name: &str| files.path().join(name).display().to_string();
    for (tls, expected) in [
        (
            format!("client_tls: {{ ca: {}, ca_key: {} }}", file("one/ca.crt"), file("two/ca.key")),
            "`ca_key` is not the key of `ca`",
        ),
        (
            format!("client_tls: {{ ca: {}, ca_key: {} }}", file("one/ca.crt"), file("one/nowhere")),
            "/one/nowhere does not exist",
        ),
        (format!("client_tls: {{ ca: {0}, ca_key: {0} }}", file("one/ca.crt")), "holds no PRIVATE KEY"),
        (
            format!("client_auth: [{{ user: x, verifier: {{ file: {} }} }}]", file("one/ca.crt")),
            "does not begin with SCRAM-SHA-256$",
        ),
    ] {
        let target = format!(
            "- name: orders-db\n  protocol: postgres\n  addresses: [\"127.0.0.1:1\"]\n  {tls}\n  \
             upstream: {{ tls: disable, credential: {{ user: app }} }}\n"
        );
        let options = AgentOptions { targets: vec![target], policy: POLICY.to_owned(), ..Default::default() };
        let error = Agent::start(options).await.err().with_context(|| format!("{tls} was taken"))?;
        ensure!(error.to_string().contains(expected), "{tls}: {error}");
        ensure!(!error.to_string().contains("MIG"), "{error}");
    }
    Ok(())
}
