//! Clients of many kinds at the front door: older TLS, other keys, certificates of their own, cancellations inside TLS,
//! everything said in one breath. psql and OpenSSL's own client.

use crate::world::{Options, World};
use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use lockgate_model::{event::EventKind, outcome::Closing};
use lockgate_proxy::{
    TargetSettings,
    tls::{Authority, ClientTls, SERVER_VALIDITY},
};
use lockgate_tests::{certificate::TestCa, postgres::TestPostgres, scratch::Scratch, through::ALLOW_ALL};
use lockgate_wire::postgres::{
    PgString,
    backend::{Backend, BackendKeyData},
    frame::{FrameDecoder, Limits},
    frontend::Frontend,
    startup::{CancelRequest, ProtocolVersion, StartupMessage},
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const NAME: &str = "orders-db.internal";

struct Lab {
    world: World,
    files: Scratch,
}

impl Lab {
    fn start(tls: impl FnOnce(&TestCa, &Scratch) -> Result<ClientTls>) -> Result<Self> {
        let (ca, files) = (TestCa::new("the job trusts this")?, Scratch::new("handshakes")?);
        files.write("ca.crt", &ca.pem())?;
        let own = TestCa::new("the job's own")?.issue(&["job"])?;
        files.write("job.crt", &own.certificate)?;
        files.write_secret("job.key", &own.key)?;
        let tls = tls(&ca, &files)?;
        let target = move |target: &mut TargetSettings, _: &TestPostgres| target.client_tls = Some(tls);
        let world = World::with(
            &[],
            Options {
                policy: Some(ALLOW_ALL.to_owned()),
                target: Some(Box::new(target)),
                ..Options::default()
            },
        )?;
        Ok(Self { world, files })
    }

    fn issuing() -> Result<Self> {
        Self::start(|ca, _| {
            let authority = Authority::from_pem("test", ca.pem().as_bytes(), ca.key_pem().as_bytes())?;
            Ok(ClientTls::issuing(authority, "orders-db", vec![NAME.to_owned()], SERVER_VALIDITY))
        })
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    /// OpenSSL's client, as a pipe into TLS.
    fn openssl(&self, more: &[&str]) -> Result<Pipe> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-servername", NAME, "-verify_return_error"]);
        command.args([
            "-CAfile",
            &self.file("ca.crt"),
            "-connect",
            &format!("127.0.0.1:{}", self.world.port),
        ]);
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(Pipe { child: command.spawn().context("openssl s_client")?, input: BytesMut::new() })
    }

    fn last_closing(&self) -> Option<Closing> {
        let closing = |event: EventKind| match event {
            EventKind::SessionEnded(closing) | EventKind::FlowRefused { closing, .. } => Some(closing),
            _ => None,
        };
        self.world.recorder.events().into_iter().filter_map(closing).next_back()
    }
}

/// A child that carries bytes; killed with its guard.
struct Pipe {
    child: Child,
    input: BytesMut,
}

impl Pipe {
    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Until ReadyForQuery or the end.
    fn listen(&mut self) -> Result<Vec<Backend>> {
        let mut heard = Vec::new();
        loop {
            while let Some(frame) = FrameDecoder::new(Limits::SERVER).next(&mut self.input)? {
                heard.push(Backend::decode(&frame)?);
                if matches!(heard.last(), Some(Backend::ReadyForQuery(_))) {
                    return Ok(heard);
                }
            }
            let mut chunk = [0; 8192];
            match self.child.stdout.as_mut().context("no stdout")?.read(&mut chunk)? {
                0 => return Ok(heard),
                count => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn startup() -> Result<BytesMut> {
    let parameters = [("user", "app"), ("database", "orders")];
    let message = StartupMessage {
        version: ProtocolVersion::V3_0,
        parameters: parameters.map(|(n, v)| (PgString::lossy(n), PgString::lossy(v))).to_vec(),
    };
    let mut out = BytesMut::new();
    message.encode(&mut out)?;
    Ok(out)
}

fn query(text: &'static str) -> Result<Vec<u8>> {
    Ok(Frontend::Query(PgString::from_static(text)).to_bytes()?.to_vec())
}

fn key(heard: &[Backend]) -> Option<BackendKeyData> {
    heard.iter().find_map(|message| match message {
        Backend::BackendKeyData(key) => Some(key.clone()),
        _ => None,
    })
}

#[test]
fn older_and_stranger_clients_shake_hands() -> Result<()> {
    let lab = Lab::issuing()?;
    let (own, own_key) = (lab.file("job.crt"), lab.file("job.key"));
    for (what, more) in [
        ("TLS 1.2 at most", &[("PGSSLMAXPROTOCOLVERSION", "TLSv1.2")][..]),
        ("TLS 1.3 at least", &[("PGSSLMINPROTOCOLVERSION", "TLSv1.3")]),
        ("no SNI", &[("PGSSLSNI", "0")]),
        ("a certificate nobody asks for", &[("PGSSLCERT", &own), ("PGSSLKEY", &own_key)]),
        ("GSSAPI first, as far as it can", &[("PGGSSENCMODE", "prefer")]),
    ] {
        let mut command = lab.world.command("psql");
        command.env("PGHOST", NAME).env("PGHOSTADDR", "127.0.0.1").env("PGSSLMODE", "verify-full");
        command.env("PGSSLROOTCERT", lab.file("ca.crt"));
        more.iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        let output = command.args(["-X", "-A", "-t", "-q", "-c", "SELECT 'well'"]).output()?;
        ensure!(output.stdout == b"well\n", "{what}: {output:?}");
    }
    // TLS from the first byte, by another library than lockgate's own.
    let mut direct = lab.openssl(&["-alpn", "postgresql"])?;
    direct.say(&startup()?)?;
    ensure!(key(&direct.listen()?).is_some(), "direct TLS");
    drop(direct);
    lab.world.finish()?;
    Ok(())
}

#[test]
fn a_client_that_knows_rsa_alone_needs_a_certificate_of_that_kind() -> Result<()> {
    let rsa_alone = [
        "-starttls",
        "postgres",
        "-tls1_2",
        "-sigalgs",
        "RSA+SHA256",
        "-cipher",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ];
    let lab = Lab::issuing()?;
    let mut client = lab.openssl(&rsa_alone)?;
    ensure!(client.listen()?.is_empty());
    let told =
        |closing: &Closing| closing.detail.as_deref().is_some_and(|text| text.contains("TLS handshake"));
    lab.world.wait_for("the record", |_| lab.last_closing().as_ref().is_some_and(told))?;
    lab.world.finish()?;

    let lab = Lab::start(|_, files| {
        let file = |name: &str| files.path().join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=orders-db"])
            .args(["-addext", &format!("subjectAltName=DNS:{NAME}")])
            .args(["-keyout", &file("rsa.key"), "-out", &file("ca.crt")])
            .output()?;
        ensure!(made.status.success(), "{made:?}");
        Ok(ClientTls::from_pem(
            &std::fs::read(files.path().join("ca.crt"))?,
            &std::fs::read(files.path().join("rsa.key"))?,
        )?)
    })?;
    let mut client = lab.openssl(&rsa_alone)?;
    client.say(&startup()?)?;
    ensure!(key(&client.listen()?).is_some(), "{:?}", lab.last_closing());
    drop(client);
    lab.world.finish()?;
    Ok(())
}

#[test]
fn a_cancellation_may_come_inside_tls() -> Result<()> {
    let lab = Lab::issuing()?;
    let mut client = lab.openssl(&["-starttls", "postgres"])?;
    client.say(&startup()?)?;
    let key = key(&client.listen()?).context("no key")?;
    for how in [&["-starttls", "postgres"][..], &["-alpn", "postgresql"]] {
        let began = Instant::now();
        client.say(&query("SELECT pg_sleep(20)")?)?;
        std::thread::sleep(Duration::from_millis(300));
        let mut out = BytesMut::new();
        CancelRequest { process_id: key.process_id, key: key.key.clone() }.encode(&mut out)?;
        let mut cancelling = lab.openssl(how)?;
        cancelling.say(&out)?;
        ensure!(cancelling.listen()?.is_empty(), "a cancellation has no answer");
        let heard = client.listen()?;
        let cancelled =
            |message: &Backend| matches!(message, Backend::ErrorResponse(e) if e.sqlstate() == b"57014");
        ensure!(heard.iter().any(cancelled), "{how:?}: {heard:?}");
        ensure!(began.elapsed() < Duration::from_secs(15), "{how:?}");
    }
    drop(client);
    lab.world.finish()?;
    Ok(())
}

#[test]
fn everything_may_be_said_in_one_breath() -> Result<()> {
    let policy = Some(ALLOW_ALL.to_owned());
    let world = World::with(&[], Options { policy, ..Options::default() })?;
    let gss = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
    let ssl = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let terminate = Frontend::Terminate.to_bytes()?;
    let rest = [&startup()?[..], &query("SELECT 40 + 2")?, &terminate].concat();
    // No TLS and no GSSAPI for clients: both are answered no, and the client goes on at once.
    for (before, answers) in [
        (Vec::new(), &b""[..]),
        (ssl.to_vec(), b"N"),
        ([gss, ssl].concat(), b"NN"),
        ([ssl, gss].concat(), b"NN"),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", world.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(&[before, rest.clone()].concat())?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        let session = heard.strip_prefix(answers).with_context(|| format!("{heard:?}"))?;
        let (mut input, mut values) = (BytesMut::from(session), Vec::new());
        while let Some(frame) = FrameDecoder::new(Limits::SERVER).next(&mut input)? {
            if let Backend::DataRow(row) = Backend::decode(&frame)? {
                values.extend(row.fields().flatten().map(<[u8]>::to_vec));
            }
        }
        ensure!(values == [b"42".to_vec()], "{answers:?}: {values:?}");
    }
    world.finish()?;
    Ok(())
}
