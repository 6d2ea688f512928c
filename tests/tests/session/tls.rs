//! The client's leg: TLS in every mode of libpq, leaves by name, TLS from the first byte, and clients that insist on SCRAM.
//! Real psql and the connector of lockgate's own as a client.

use crate::world::{Options, Said, World};
use anyhow::{Context, Result, ensure};
use lockgate_model::{
    SecretRef,
    addr::UpstreamAddr,
    event::EventKind,
    outcome::{CloseReason, Closing},
};
use lockgate_proxy::{
    TargetSettings,
    tls::{Authority, ClientTls, SERVER_VALIDITY, TlsMode, UpstreamTls},
    upstream::{Credential, Endpoint, SessionRequest, connect},
};
use lockgate_tests::{
    certificate::TestCa,
    installed::{client_source, installed},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    scratch::Scratch,
};
use lockgate_wire::postgres::PgString;
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::Arc,
    time::Duration,
};

const NAME: &str = "orders-db.internal";

/// A world whose target issues certificates, and the files that a client needs.
struct Issuing {
    world: World,
    ca: TestCa,
    files: Scratch,
}

impl Issuing {
    fn start() -> Result<Self> {
        Self::with(Options::default(), |_, _| {})
    }

    fn with(
        options: Options,
        adjust: impl FnOnce(&mut TargetSettings, &TestPostgres) + 'static,
    ) -> Result<Self> {
        let ca = TestCa::new("the job trusts this")?;
        let files = Scratch::new("client-tls")?;
        files.write("ca.crt", &ca.pem())?;
        files.write("other.crt", &TestCa::new("nobody's")?.pem())?;
        let authority = Authority::from_pem("test", ca.pem().as_bytes(), ca.key_pem().as_bytes())?;
        let tls = ClientTls::issuing(authority, "orders-db", vec![NAME.to_owned()], SERVER_VALIDITY);
        let target = move |target: &mut TargetSettings, server: &TestPostgres| {
            target.client_tls = Some(tls);
            adjust(target, server);
        };
        let world = World::with(&[], Options { target: Some(Box::new(target)), ..options })?;
        Ok(Self { world, ca, files })
    }

    /// psql that dials the proxy and believes that it is at `host`.
    fn psql(&self, host: &str, mode: &str, root: &str, more: &[(&str, &str)]) -> Result<Said> {
        let mut command = self.world.command("psql");
        command.env("PGHOST", host).env("PGHOSTADDR", "127.0.0.1").env("PGSSLMODE", mode);
        command.env("PGSSLROOTCERT", self.files.path().join(root));
        more.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        said(&mut command)
    }
}

fn said(command: &mut Command) -> Result<Said> {
    let output = command.args(["-X", "-A", "-t", "-q", "-c", "SELECT 1"]).output()?;
    Ok(Said {
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code(),
    })
}

/// The last connection that ended.
fn last_closing(world: &World) -> Option<Closing> {
    let closing = |event: EventKind| match event {
        EventKind::SessionEnded(closing) | EventKind::FlowRefused { closing, .. } => Some(closing),
        _ => None,
    };
    world.recorder.events().into_iter().filter_map(closing).next_back()
}

fn last_tls(world: &World) -> Option<bool> {
    let started = |event: EventKind| match event {
        EventKind::SessionStarted(session) => Some(session.client_tls),
        _ => None,
    };
    world.recorder.events().into_iter().filter_map(started).next_back()
}

#[test]
fn every_sslmode_works_when_the_job_trusts_the_ca() -> Result<()> {
    let lab = Issuing::start()?;
    for (mode, host, root, encrypted) in [
        ("disable", NAME, "ca.crt", Ok(false)),
        ("allow", NAME, "ca.crt", Ok(false)),
        ("prefer", NAME, "ca.crt", Ok(true)),
        ("require", NAME, "ca.crt", Ok(true)),
        ("verify-ca", NAME, "ca.crt", Ok(true)),
        ("verify-full", NAME, "ca.crt", Ok(true)),
        // No SNI for an address: the leaf has it as an address, and the target's names besides.
        ("verify-full", "127.0.0.1", "ca.crt", Ok(true)),
        ("verify-ca", NAME, "other.crt", Err("certificate verify failed")),
        ("verify-full", NAME, "other.crt", Err("certificate verify failed")),
        // Not the target's name: nothing is signed for it, and who looks at names finds out.
        (
            "verify-full",
            "billing-db.internal",
            "ca.crt",
            Err("does not match host name \"billing-db.internal\""),
        ),
        ("verify-ca", "billing-db.internal", "ca.crt", Ok(true)),
        ("require", "billing-db.internal", "ca.crt", Ok(true)),
        ("prefer", "billing-db.internal", "ca.crt", Ok(true)),
    ] {
        let said = lab.psql(host, mode, root, &[])?;
        match encrypted {
            Ok(encrypted) => {
                ensure!(said.out == "1\n", "{mode} {host} {root}: {said:?}");
                ensure!(last_tls(&lab.world) == Some(encrypted), "{mode} {host} {root}");
            }
            Err(text) => {
                ensure!(said.code == Some(2) && said.err.contains(text), "{mode} {host} {root}: {said:?}");
            }
        }
    }
    let foreign = |event: &EventKind| {
        matches!(event, EventKind::FlowRefused { closing, .. } if closing.detail.as_deref().is_some_and(
            |detail| detail.contains("\"billing-db.internal\"") && detail.contains("client_tls.names")))
    };
    lab.world.wait_for("the record of a foreign name", |events| events.iter().any(foreign))?;
    lab.world.finish()?;
    Ok(())
}

#[test]
fn a_client_may_begin_with_tls() -> Result<()> {
    let lab = Issuing::start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let tls = UpstreamTls::new(TlsMode::VerifyFull, Some(lab.ca.pem().as_bytes()))?;
    let here = UpstreamAddr(([127, 0, 0, 1], lab.world.port).into());
    let request = SessionRequest {
        database: PgString::from_static("orders"),
        parameters: Vec::new(),
        session: None,
        replication: None,
    };
    let opened = runtime.block_on(async {
        let account = Credential::trusted("whoever").account().await.context("account")?;
        let endpoint = Endpoint::new(here, NAME, tls.clone().direct());
        let connected = connect(&endpoint, &account, &request).await.context("direct")?;
        let asked = connect(&Endpoint::new(here, NAME, tls), &account, &request).await.context("asked")?;
        anyhow::Ok(connected.encrypted && asked.encrypted)
    })?;
    ensure!(opened && last_tls(&lab.world) == Some(true));
    lab.world.finish()?;
    // Without TLS for clients it is refused by an alert, and the record says what to set.
    let plain = World::start(&[])?;
    let back = raw(&plain, &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3])?;
    ensure!(back.starts_with(&[0x15, 3, 3, 0, 2, 2]), "{back:?}");
    let told =
        |closing: &Closing| closing.detail.as_deref().is_some_and(|text| text.contains("set its client_tls"));
    plain.wait_for("the record", |_| last_closing(&plain).as_ref().is_some_and(told))?;
    plain.finish()?;
    Ok(())
}

/// The newest libpq: TLS without asking for it, protocol 3.2, and cancellations that go the same way. What it says through
/// lockgate is what it says to a server of its own version, as far as there is one.
#[test]
fn libpq_18_begins_with_tls_speaks_3_2_and_cancels_inside_tls() -> Result<()> {
    let lab = Issuing::start()?;
    let python = installed("python/bin/python3")?;
    let script = client_source("python/libpq18.py")?;
    let output = lab
        .world
        .command("psql")
        .get_envs()
        .fold(&mut Command::new(python), |command, (name, value)| match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        })
        .args(["-I", &script])
        .env("PGHOST", NAME)
        .env("PGHOSTADDR", "127.0.0.1")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", lab.files.path().join("ca.crt"))
        .env("PLAIN_PORT", lab.world.port.to_string())
        .output()?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let session = |label: &str, tls: &str, protocol: &str| {
        format!("{label}: 42 tls={tls} protocol={protocol} cancelled after\n")
    };
    let mut expected = "libpq 18\n".to_owned();
    for negotiation in ["postgres", "direct"] {
        for (asked, got) in [("3.0", "30000"), ("3.2", "30002"), ("latest", "30002")] {
            expected += &session(&format!("{negotiation} {asked}"), "True", got);
        }
    }
    expected += &session("at least 3.2", "True", "30002");
    expected += &session("plain 3.2", "False", "30002");
    ensure!(said == expected, "it said\n{said}\nand not\n{expected}");
    // Every session has its closing record, and every cancellation is a connection of its own.
    let cancellations = |events: &[EventKind]| {
        let reasons = events.iter().filter(|event| {
            matches!(event, EventKind::FlowRefused { closing, .. } if closing.reason == CloseReason::CancelRequest)
        });
        reasons.count() == 8
    };
    lab.world.wait_for("the cancellations' records", cancellations)?;
    let (started, ended) = lab.world.finish()?;
    ensure!((started, ended) == (8, 8), "{started} sessions, {ended} closed");
    Ok(())
}

/// Sends bytes and reads to the end.
fn raw(world: &World, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", world.port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(bytes)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    match stream.read_to_end(&mut back) {
        Ok(_) => Ok(back),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(back),
        Err(error) => Err(error.into()),
    }
}

/// SSLRequest (§55.7).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
/// GSSENCRequest (§55.7).
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

#[test]
fn what_is_not_postgres_inside_tls_is_refused_and_recorded() -> Result<()> {
    let lab = Issuing::start()?;
    let startup = b"\0\0\0\x11\0\x03\0\0user\0who\0\0";
    // A ClientHello of no use to anybody: the record's header and garbage.
    let garbage = [&[0x16, 3, 1, 0, 40][..], &[0xff; 40]].concat();
    for (what, bytes, begins, reason) in [
        (
            "plain text behind the request",
            [&SSL_REQUEST[..], startup].concat(),
            &b""[..],
            CloseReason::ClientProtocolError,
        ),
        ("garbage as the first record", garbage.clone(), b"\x15", CloseReason::ClientProtocolError),
        (
            "a second request",
            [&GSSENC_REQUEST[..], &GSSENC_REQUEST[..]].concat(),
            b"NE",
            CloseReason::ClientProtocolError,
        ),
        ("nothing behind the answer", GSSENC_REQUEST.to_vec(), b"N", CloseReason::ClientClosed),
    ] {
        let before = lab.world.recorder.events().len();
        let back = raw(&lab.world, &bytes)?;
        ensure!(back.starts_with(begins) || begins == b"\x15" && back.is_empty(), "{what}: {back:?}");
        ensure!(!back.starts_with(b"S"), "{what}: {back:?}");
        lab.world.wait_for(what, |events| events.len() > before)?;
        ensure!(
            last_closing(&lab.world).is_some_and(|closing| closing.reason == reason),
            "{what}: {:?}",
            last_closing(&lab.world)
        );
    }
    // Behind the answer 'S', in clear text.
    let mut stream = TcpStream::connect(("127.0.0.1", lab.world.port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&SSL_REQUEST)?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    ensure!(answer == *b"S");
    let before = lab.world.recorder.events().len();
    stream.write_all(startup)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    ensure!(!rest.contains(&b'R') && !rest.windows(4).any(|w| w == b"scri"), "{rest:?}");
    lab.world.wait_for("the refusal", |events| events.len() > before)?;
    let (started, _) = lab.world.finish()?;
    ensure!(started == 0, "{started} sessions");
    Ok(())
}

/// A target with a verifier for `careful`, made by the server itself.
fn with_verifier(target: &mut TargetSettings, server: &TestPostgres) {
    server.psql("CREATE ROLE careful PASSWORD 'its päss,word'").expect("role");
    let text = server.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'careful'").expect("verifier");
    let verifier = text.parse().expect("PostgreSQL's own form");
    target.client_verifiers = Arc::new([("careful".to_owned(), verifier)].into());
}

#[test]
fn a_client_that_insists_gets_mutual_scram() -> Result<()> {
    let lab = Issuing::with(Options::default(), with_verifier)?;
    let as_user =
        |user, password, binding| [("PGUSER", user), ("PGPASSWORD", password), ("PGCHANNELBINDING", binding)];
    let good = "its päss,word";
    for (mode, user, password, binding, expected) in [
        ("verify-full", "careful", good, "require", Ok(())),
        ("require", "careful", good, "prefer", Ok(())),
        ("require", "careful", good, "disable", Ok(())),
        ("disable", "careful", good, "prefer", Ok(())),
        (
            "verify-full",
            "careful",
            "wrong",
            "require",
            Err("password authentication failed for user \"careful\""),
        ),
        (
            "disable",
            "careful",
            "wrong",
            "disable",
            Err("password authentication failed for user \"careful\""),
        ),
        ("disable", "careful", "", "disable", Err("no password supplied")),
        // Nothing to bind to; libpq's own words.
        ("disable", "careful", good, "require", Err("channel binding required, but SSL not in use")),
        // Without a verifier nobody is asked, and libpq says so.
        (
            "verify-full",
            "whoever",
            good,
            "require",
            Err("server authenticated client without channel binding"),
        ),
        ("verify-full", "whoever", good, "prefer", Ok(())),
    ] {
        let said = lab.psql(NAME, mode, "ca.crt", &as_user(user, password, binding))?;
        match expected {
            Ok(()) => ensure!(said.out == "1\n", "{mode} {user} {binding}: {said:?}"),
            Err(text) => {
                ensure!(said.code == Some(2) && said.err.contains(text), "{mode} {user} {binding}: {said:?}")
            }
        }
    }
    // The record says why, and never what the password was.
    let refused = |event: &EventKind| {
        matches!(event, EventKind::SessionEnded(closing) if closing.reason == CloseReason::Refused
            && closing.detail.as_deref().is_some_and(|detail| detail.contains("proof is wrong")))
    };
    lab.world.wait_for("the refusal", |events| events.iter().any(refused))?;
    let left = |event: &EventKind| {
        matches!(event, EventKind::SessionEnded(closing) if closing.detail.as_deref().is_some_and(
            |detail| detail.contains("give its user a verifier in client_auth")))
    };
    lab.world.wait_for("the hint", |events| events.iter().any(left))?;
    let all = format!("{:?}", lab.world.recorder.events());
    ensure!(!all.contains(good) && !all.contains("wrong\"") && !all.contains("SCRAM-SHA-256$"));
    lab.world.finish()?;
    Ok(())
}

#[test]
fn the_server_s_log_can_be_joined_and_holds_no_secret() -> Result<()> {
    let secret = "a p@ssword that shows nowhere";
    let files = Scratch::new("joined")?;
    let password = SecretRef::File(files.write_secret("password", secret)?.display().to_string());
    let server = PostgresOptions::new()
        .auth(HostAuth::Scram)
        .setting("log_statement", "all")
        .setting("log_line_prefix", "%a|");
    let target = move |target: &mut TargetSettings, server: &TestPostgres| {
        server.psql(&format!("ALTER ROLE app PASSWORD '{secret}'")).expect("password");
        target.credential = Credential::password("app", password);
        target.session_in_application_name = true;
    };
    let options = Options { server: Some(server), target: Some(Box::new(target)), ..Options::default() };
    let world = World::with(&[], options)?;
    let said = world.psql(&["-c", "SELECT 1", "-c", "SHOW application_name"])?;
    let session = world.recorder.events().into_iter().find_map(|event| match event {
        EventKind::SessionStarted(session) => Some(session),
        _ => None,
    });
    let session = session.context("a session")?;
    ensure!(said.out == format!("1\nlockgate:{} psql\n", session.id), "{said:?}");
    let log = world.server.log()?;
    ensure!(log.contains(&format!("lockgate:{} psql|LOG:  statement: SELECT 1", session.id)), "{log}");
    // The record keeps the client's own word for itself.
    ensure!(session.client.application_name.as_deref() == Some("psql"));
    let long = world
        .command("psql")
        .env("PGAPPNAME", "é".repeat(60))
        .args(["-X", "-A", "-t", "-c", "SHOW application_name"])
        .output()?;
    let long = String::from_utf8_lossy(&long.stdout).trim().to_owned();
    // PostgreSQL 16 and later spell out what is not ASCII, behind its own limit.
    let cut = long.replace("\\xc3\\xa9", "é");
    ensure!(long.starts_with("lockgate:ses_") && cut.len() <= 63, "{long}");
    let all = format!("{:?}", world.recorder.events());
    ensure!(!all.contains(secret), "{all}");
    world.finish()?;
    Ok(())
}
