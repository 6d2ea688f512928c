//! What an unmodified client sees: passing, refusal, transactions, encryption.

use crate::world::{POLICY, World, database};
use anyhow::{Result, ensure};
use lockgate_tests::{
    agent::AgentOptions,
    certificate::TestCa,
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_read_passes_with_the_injected_credential() -> Result<()> {
    let world = World::new().await?;
    let port = world.pg.port().to_string();
    // The job's own password is wrong, and it does not matter: it is never asked for.
    let command =
        job::psql("127.0.0.1", &port, "shop", &["select current_user, count(*) from orders group by 1"]);
    let done =
        job::run(job::governed(&world.agent, JOB_UID, &[("PGPASSWORD", "stolen-and-stale")], &command))
            .await?;
    ensure!(done.code == Some(0) && done.stdout.trim() == "app|2", "{done:?}");
    ensure!(!world.agent.log_text()?.contains("app-secret"), "the credential is in the log");
    ensure!(!world.agent.log_text()?.contains("stolen-and-stale"), "the job's password is in the log");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_a_native_error_and_the_session_goes_on() -> Result<()> {
    let world = World::new().await?;
    let done = world.psql(&["\\set VERBOSITY verbose", "delete from orders", "select 'still here'"]).await?;
    ensure!(done.stdout.contains("still here"), "{done:?}");
    for part in
        ["ERROR:  42501", "no-unbounded-write", "dec_", "never right", "https://wiki.example.com/unbounded"]
    {
        ensure!(done.stderr.contains(part), "{part:?} is missing: {done:?}");
    }
    ensure!(!world.target_saw("delete from orders")?, "the target saw a denied statement");
    ensure!(world.pg.psql_in("shop", "select count(*) from orders")? == "2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_refused_whole_before_its_first_byte() -> Result<()> {
    let world = World::new().await?;
    let done = world.psql(&["insert into orders values (7, 1, 1, 'smuggled'); delete from orders"]).await?;
    ensure!(done.code == Some(1) && done.stderr.contains("no-unbounded-write"), "{done:?}");
    ensure!(!world.target_saw("smuggled")?, "the target saw the first half of a refused batch");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_fails_the_open_transaction() -> Result<()> {
    let world = World::new().await?;
    let done = world
        .psql(&[
            "begin",
            "insert into orders values (8, 1, 1, 'must not stay')",
            "delete from orders",
            "select 'in a failed transaction'",
            "commit",
            "select count(*) from orders",
        ])
        .await?;
    ensure!(done.stderr.contains("no-unbounded-write"), "{done:?}");
    ensure!(done.stderr.contains("current transaction is aborted"), "{done:?}");
    ensure!(done.stdout.contains("ROLLBACK"), "COMMIT of a failed transaction rolls back: {done:?}");
    ensure!(done.stdout.trim().ends_with('2'), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_protocol_is_decided_with_its_values() -> Result<()> {
    let world = World::with(POLICY, |_, _| {}).await?;
    let port = world.pg.port().to_string();
    // psql 15 has no \\bind: pgbench speaks the extended protocol, prepared and not.
    let pgbench = world.pg.program("pgbench").display().to_string();
    let bench = async |mode: &str, times: &str, script: &str| {
        let file = world.agent.scratch().write("script.sql", script)?.display().to_string();
        let mut command = vec![pgbench.as_str(), "-n", "-M", mode, "-t", times, "-f", &file];
        command.extend(["-h", "127.0.0.1", "-p", &port, "-U", "x", "shop"]);
        job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await
    };
    for mode in ["extended", "prepared"] {
        let done = bench(mode, "20", "select note from orders where id = 1;\n").await?;
        ensure!(done.code == Some(0) && done.stdout.contains("20/20"), "{mode}: {done:?}");
        let done = bench(mode, "1", "\\set x 1\nupdate orders set note = :x;\n").await?;
        ensure!(done.stderr.contains("no-unbounded-write"), "{mode}: {done:?}");
    }
    ensure!(!world.target_saw("update orders set note")?, "the target saw a denied Parse");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_streams_both_ways() -> Result<()> {
    let world = World::new().await?;
    let rows: String = (100..5100).map(|id| format!("{id}\t1\t1.5\tcopied\n")).collect();
    let file = world.agent.scratch().write("orders.tsv", &rows)?;
    let copy_in = format!("\\copy orders from '{}'", file.display());
    let done = world
        .psql(&[&copy_in, "\\copy (select id, note from orders where note = 'copied' order by id) to stdout"])
        .await?;
    ensure!(done.code == Some(0), "{done:?}");
    ensure!(done.stdout.contains("COPY 5000"), "{:.300}", done.stdout);
    ensure!(
        done.stdout.lines().filter(|line| line.ends_with("\tcopied")).count() == 5000,
        "{:.300}",
        done.stdout
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_tls_is_refused_by_default_and_terminated_when_configured() -> Result<()> {
    let world = World::new().await?;
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", &["select 1"]);
    let refused =
        job::run(job::governed(&world.agent, JOB_UID, &[("PGSSLMODE", "require")], &command)).await?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("SSL"), "{refused:?}");
    drop(world);

    let ca = TestCa::new("lockgate e2e client CA")?;
    let leaf = ca.issue(&["localhost", "127.0.0.1"])?;
    let world = World::with(POLICY, |options, pg| {
        let dir = pg.socket_dir();
        for (name, text) in [("leaf.crt", &leaf.certificate), ("leaf.key", &leaf.key)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        options.targets[0].push_str(&format!(
            "  client_tls: {{ certificate: {0}/leaf.crt, key: {0}/leaf.key }}\n",
            dir.display()
        ));
    })
    .await?;
    let root = world.agent.scratch().write("ca.crt", &ca.pem())?.display().to_string();
    let port = world.pg.port().to_string();
    let command = job::psql("127.0.0.1", &port, "shop", &["\\conninfo", "select 1"]);
    let environment = [("PGSSLMODE", "verify-full"), ("PGSSLROOTCERT", root.as_str())];
    let done = job::run(job::governed(&world.agent, JOB_UID, &environment, &command)).await?;
    ensure!(done.code == Some(0) && done.stdout.contains("TLS"), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_tls_is_verified() -> Result<()> {
    let pg = database(PostgresOptions::new().tls().auth(HostAuth::Scram))?;
    let good = upstream(&pg, pg.ca_file()?.display().to_string()).await?;
    ensure!(good.code == Some(0) && good.stdout.trim() == "t", "{good:?}");
    let stranger = TestCa::new("somebody else")?;
    let file = pg.socket_dir().join("stranger.crt");
    std::fs::write(&file, stranger.pem())?;
    let bad = upstream(&pg, file.display().to_string()).await?;
    ensure!(bad.code == Some(2) && !bad.stderr.is_empty(), "{bad:?}");
    Ok(())
}

async fn upstream(pg: &TestPostgres, ca: String) -> Result<job::Done> {
    let password = pg.socket_dir().join("app.password");
    std::fs::write(&password, "app-secret")?;
    let target = format!(
        "- name: orders-db\n  protocol: postgres\n  addresses: [\"127.0.0.1:{}\"]\n  upstream: {{ tls: verify-full, ca: {ca}, \
         credential: {{ user: app, password: {{ file: {} }} }} }}\n",
        pg.port(),
        password.display()
    );
    let options = AgentOptions {
        run_uids: vec![JOB_UID],
        policy: POLICY.to_owned(),
        targets: vec![target],
        ..Default::default()
    };
    let agent = lockgate_tests::agent::Agent::start(options).await?;
    let port = pg.port().to_string();
    let statement = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    job::run(job::governed(&agent, JOB_UID, &[], &job::psql("127.0.0.1", &port, "shop", &[statement]))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_handled_is_refused_by_name() -> Result<()> {
    let world = World::new().await?;
    let port = world.pg.port().to_string();
    let replication = [
        "psql",
        "-X",
        "-c",
        "IDENTIFY_SYSTEM",
        &format!("host=127.0.0.1 port={port} user=x dbname=shop replication=database"),
    ]
    .map(str::to_owned);
    let command: Vec<&str> = replication.iter().map(String::as_str).collect();
    let done = job::run(job::governed(&world.agent, JOB_UID, &[], &command)).await?;
    ensure!(done.code == Some(2) && done.stderr.contains("replication"), "{done:?}");
    // No rule allows what is not understood.
    let done = world.psql(&["selekt 1"]).await?;
    ensure!(done.code == Some(1) && done.stderr.contains("denied"), "{done:?}");
    ensure!(!world.target_saw("selekt")?);
    Ok(())
}
