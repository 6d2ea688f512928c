//! Explicit mode: callers whose sockets no hook sees. A network namespace whose processes are in no governed cgroup stands
//! in for the sandbox; from the host's side its traffic is that of another machine.

use crate::world::{POLICY, SSN, World};
use anyhow::{Context as _, Result, ensure};
use lockgate_tests::{
    certificate::TestCa,
    job::{self, Done, JOB_UID},
};
use std::{
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// A sandbox: a namespace with an address of its own, and one for the host's side of the wire.
struct Sandbox {
    name: String,
    host: String,
    own: String,
}

impl Sandbox {
    fn new() -> Result<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = format!("lgx{pid}-{number}");
        // 198.18.0.0/15 is for tests (RFC 2544); a /30 for each sandbox of each process.
        let net = (pid.wrapping_mul(16).wrapping_add(u32::from(number))) % (1 << 15);
        let address = |last: u32| {
            let bits = (198u32 << 24 | 18 << 16) + net * 4 + last;
            std::net::Ipv4Addr::from_bits(bits).to_string()
        };
        let sandbox = Self { host: address(1), own: address(2), name };
        let wire = format!("lg{pid}x{number}");
        let (inside, outside) = (&sandbox.own, &sandbox.host);
        sandbox.run(&["netns", "add", &sandbox.name])?;
        sandbox.run(&[
            "link",
            "add",
            &wire,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &sandbox.name,
        ])?;
        sandbox.run(&["address", "add", &format!("{outside}/30"), "dev", &wire])?;
        sandbox.run(&["link", "set", &wire, "up"])?;
        sandbox.run(&["-n", &sandbox.name, "address", "add", &format!("{inside}/30"), "dev", "eth0"])?;
        sandbox.run(&["-n", &sandbox.name, "link", "set", "eth0", "up"])?;
        sandbox.run(&["-n", &sandbox.name, "link", "set", "lo", "up"])?;
        Ok(sandbox)
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("ip").args(arguments).output()?;
        ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Its wire goes with it.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

struct Place {
    // First the agent, which listens on the wire.
    world: World,
    sandbox: Sandbox,
    port: u16,
    callers: TestCa,
    strangers: TestCa,
    ca: PathBuf,
}

impl Place {
    async fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let port = lockgate_tests::scratch::free_port()?;
        let (servers, callers, strangers) =
            (TestCa::new("servers")?, TestCa::new("callers")?, TestCa::new("strangers")?);
        let host = sandbox.host.clone();
        let files = tempfile::tempdir()?.keep();
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = files.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let shown = servers.issue(&[&host])?;
        let (certificate, key) = (write("server.crt", &shown.certificate)?, write("server.key", &shown.key)?);
        let (ca, callers_ca) = (write("ca.crt", &servers.pem())?, write("callers.crt", &callers.pem())?);
        let world = World::with(POLICY, |options, _| {
            options.targets[0] = options.targets[0].replace(
                "  upstream:",
                &format!(
                    "  listen: \"{host}:{port}\"\n  client_tls: {{ certificate: {}, key: {} }}\n  \
                     callers: {{ client_ca: {} }}\n  upstream:",
                    certificate.display(),
                    key.display(),
                    callers_ca.display()
                ),
            );
        })
        .await?;
        std::fs::rename(&ca, world.agent.scratch().path().join("ca.crt"))?;
        let ca = world.agent.scratch().path().join("ca.crt");
        std::fs::remove_dir_all(&files)?;
        Ok(Self { world, sandbox, port, callers, strangers, ca })
    }

    fn token(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["token", "--target", "orders-db", "--caller", "sandbox/17"];
        all.extend(arguments);
        let output = self.world.agent.cli(&all)?;
        ensure!(output.status.success(), "lockgate token: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    fn connection(&self, more: &str) -> String {
        format!(
            "host={} port={} user=whoever dbname=shop sslrootcert={} {more}",
            self.sandbox.host,
            self.port,
            self.ca.display()
        )
    }

    /// psql in the sandbox, in no governed cgroup.
    async fn psql(
        &self,
        connection: &str,
        environment: &[(&str, &str)],
        statements: &[&str],
    ) -> Result<Done> {
        let mut command =
            vec!["ip", "netns", "exec", &self.sandbox.name, "psql", "-X", "-A", "-t", "-w", connection];
        for statement in statements {
            command.extend(["-c", statement]);
        }
        job::run(job::ungoverned(0, environment, &command)).await
    }

    async fn with_token(&self, token: &str, statements: &[&str]) -> Result<Done> {
        self.psql(&self.connection("sslmode=verify-full"), &[("PGPASSWORD", token)], statements).await
    }

    fn sessions(&self) -> Result<Vec<serde_json::Value>> {
        self.world.events("session_started")
    }

    /// Waits for a refusal that says this.
    async fn refused(&self, why: &str) -> Result<()> {
        let until = Instant::now() + RECORDED_WITHIN;
        loop {
            let refused = self.world.events("flow_refused")?;
            if refused.iter().any(|event| event["data"]["detail"].as_str().is_some_and(|it| it.contains(why)))
            {
                return Ok(());
            }
            ensure!(Instant::now() < until, "no refusal says {why:?}: {refused:#?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_token_opens_a_session_that_is_shown_as_not_transparent() -> Result<()> {
    let place = Place::new().await?;
    let token = place.token(&["--from", &place.sandbox.own])?;
    let done = place
        .with_token(
            &token,
            &["select ssn from customers where id = 1", "select amount from orders where id = 1"],
        )
        .await?;
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.stderr.contains("not transparent"), "the client is told: {}", done.stderr);
    assert!(
        !done.stdout.contains(SSN) && done.stdout.contains("10.50"),
        "masked like any other: {}",
        done.stdout
    );
    let started = &place.world.recorded("session_started", 1).await?[0]["data"];
    assert_eq!(started["flow"]["capture"], "explicit", "{started:#}");
    assert_eq!(started["principal"]["id"], "caller:sandbox/17", "{started:#}");
    assert!(started["principal"]["display"].as_str().context("a display")?.contains("not transparent"));
    assert!(started["workload"]["established_by"].as_str().context("how")?.contains("tok_"), "{started:#}");
    // Policy binds it: an unbounded write is refused by the same rule, and what asks people asks them.
    let denied = place.with_token(&token, &["delete from orders"]).await?;
    assert!(denied.stderr.contains("no-unbounded-write"), "{denied:?}");
    let held = place.with_token(&token, &["truncate orders"]);
    let request = place.world.receiver.requested("truncate orders");
    let (held, request) = tokio::join!(held, request);
    let (held, request) = (held?, request?);
    assert_ne!(held.code, Some(0), "nobody decided: {held:?}");
    let told = request.data().to_string();
    assert!(told.contains("\"transparent\":false"), "the webhook says it: {told}");
    let list = place.world.agent.json(&["sessions", "list"])?.to_string();
    assert!(list.contains("not transparent"), "{list}");
    let text = place.world.agent.log_text()?;
    assert!(!text.contains(&token), "the token is not in the record");
    assert!(text.contains("token_issued"), "that it was issued is");
    Ok(())
}

#[tokio::test]
async fn without_a_good_token_nobody_is_let_in() -> Result<()> {
    let place = Place::new().await?;
    let nothing = place.psql(&place.connection("sslmode=verify-full"), &[], &["select 1"]).await?;
    assert_ne!(nothing.code, Some(0));
    assert!(nothing.stderr.contains("no password supplied"), "psql's own words: {}", nothing.stderr);
    let good = place.token(&["--from", &place.sandbox.own])?;
    let borrowed = place.token(&["--from", "203.0.113.7"])?;
    let short = place.token(&["--from", &place.sandbox.own, "--for", "1s"])?;
    let mut changed = good.clone();
    changed.replace_range(40..41, if &good[40..41] == "A" { "B" } else { "A" });
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for (token, native, recorded) in [
        ("app-secret", "expected a token", "no token of lockgate"),
        (changed.as_str(), "expected a token", "signature"),
        (borrowed.as_str(), "expected a token", "issued to another address"),
        (short.as_str(), "the token has expired", "expired"),
    ] {
        let done = place.with_token(token, &["select 1"]).await?;
        assert!(done.code == Some(2) && done.stderr.contains(native), "{recorded}: {done:?}");
        place.refused(recorded).await?;
    }
    let clear =
        place.psql(&place.connection("sslmode=disable"), &[("PGPASSWORD", &good)], &["select 1"]).await?;
    assert!(
        clear.stderr.contains("takes TLS only"),
        "a token is not asked for in the clear: {}",
        clear.stderr
    );
    assert!(place.sessions()?.is_empty(), "{:#?}", place.sessions()?);
    let fine = place.with_token(&good, &["select 1"]).await?;
    assert_eq!(fine.stdout.trim(), "1", "the good one still does: {fine:?}");
    // It is for one target, and nobody but root is given one.
    let other =
        place.world.agent.cli(&["token", "--target", "nowhere", "--caller", "a", "--from", "10.0.0.1"])?;
    assert!(!other.status.success());
    let mut command =
        vec![place.world.agent.binary().display().to_string(), "token".into(), "--config".into()];
    command.push(place.world.agent.config().display().to_string());
    command.extend(["--target", "orders-db", "--caller", "root", "--from", "127.0.0.1"].map(String::from));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let job = job::run(job::ungoverned(JOB_UID, &[], &command)).await?;
    assert!(job.code != Some(0) && !job.stdout.contains("lgt_"), "{job:?}");
    Ok(())
}

#[tokio::test]
async fn a_client_certificate_says_who_it_is_and_a_foreign_one_nothing() -> Result<()> {
    let place = Place::new().await?;
    let scratch = place.world.agent.scratch();
    let show = |name: &str, ca: &TestCa| -> Result<String> {
        let issued = ca.issue_client("spiffe://example.org/sandbox/18")?;
        let certificate = scratch.write(&format!("{name}.crt"), &issued.certificate)?;
        let key = scratch.write_secret(&format!("{name}.key"), &issued.key)?;
        Ok(format!("sslmode=verify-full sslcert={} sslkey={}", certificate.display(), key.display()))
    };
    let known = show("known", &place.callers)?;
    let done = place.psql(&place.connection(&known), &[], &["select 1"]).await?;
    assert_eq!((done.code, done.stdout.trim()), (Some(0), "1"), "{done:?}");
    let started = &place.world.recorded("session_started", 1).await?[0]["data"];
    assert_eq!(started["principal"]["id"], "caller:spiffe://example.org/sandbox/18", "{started:#}");
    assert!(
        started["workload"]["established_by"].as_str().context("how")?.contains("SHA-256"),
        "{started:#}"
    );
    let foreign = show("foreign", &place.strangers)?;
    let done = place.psql(&place.connection(&foreign), &[("PGPASSWORD", "x")], &["select 1"]).await?;
    assert!(done.code == Some(2), "{done:?}");
    assert_eq!(place.sessions()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_governed_job_keeps_its_identity_whatever_it_shows_there() -> Result<()> {
    let place = Place::new().await?;
    // Stolen from a caller on this very host, and good from here: the strongest the job could have.
    let token = place.token(&["--from", &place.sandbox.host, "--from", "127.0.0.0/8"])?;
    for mode in ["sslmode=verify-full", "sslmode=disable"] {
        let connection = place.connection(mode);
        let command = ["psql", "-X", "-A", "-t", "-w", &connection, "-c", "select 1"];
        let done =
            job::run(job::governed(&place.world.agent, JOB_UID, &[("PGPASSWORD", &token)], &command)).await?;
        assert_eq!((done.code, done.stdout.trim()), (Some(0), "1"), "captured like any other: {done:?}");
        assert!(!done.stderr.contains("not transparent"), "{done:?}");
    }
    let until = Instant::now() + RECORDED_WITHIN;
    while place.sessions()?.len() < 2 {
        ensure!(Instant::now() < until, "{}", place.world.agent.log_text()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for started in place.sessions()? {
        let started = &started["data"];
        assert_eq!(started["flow"]["capture"], "transparent", "{started:#}");
        assert_eq!(started["principal"]["id"], format!("uid:{JOB_UID}"), "{started:#}");
    }
    // From a namespace of its own it is refused or captured, and never a caller.
    let script =
        format!("unshare --user --map-root-user --net psql -X -w '{}' -c 'select 1'", place.connection(""));
    let done = job::run(job::governed(
        &place.world.agent,
        JOB_UID,
        &[("PGPASSWORD", &token)],
        &["sh", "-c", &script],
    ))
    .await?;
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(!place.world.agent.log_text()?.contains("caller:sandbox/17\""), "no caller came of it");
    Ok(())
}
