//! Sessions on a real server: by each way to authenticate, with and without TLS, rightly and wrongly.

use bytes::{Bytes, BytesMut};
use lockgate_model::SecretRef;
use lockgate_model::addr::UpstreamAddr;
use lockgate_proxy::tls::{TlsMode, UpstreamTls};
use lockgate_proxy::upstream::{
    Connected, Credential, Endpoint, Housekeeping, SessionRequest, UpstreamError, cancel, connect,
};
use lockgate_tests::certificate::TestCa;
use lockgate_tests::postgres::{HostAuth, PostgresOptions, TestPostgres};
use lockgate_tests::scratch::Scratch;
use lockgate_wire::postgres::backend::{Backend, BackendKeyData};
use lockgate_wire::postgres::frame::{FrameDecoder, Limits};
use lockgate_wire::postgres::frontend::Frontend;
use lockgate_wire::postgres::startup::{ProtocolVersion, StartupMessage};
use lockgate_wire::postgres::{PgString, TransactionStatus};
use std::time::Duration;

const PASSWORD: &str = "the injected päss'word";
/// Longer than any answer of a local server takes, so that a hang fails the test instead of blocking it.
const ANSWER_TIME: Duration = Duration::from_secs(20);

struct Lab {
    server: TestPostgres,
    secrets: Scratch,
}

impl Lab {
    fn start(options: PostgresOptions) -> Self {
        let server = TestPostgres::start(options).expect("start PostgreSQL");
        let literal = PASSWORD.replace('\'', "''");
        server.psql(&format!("CREATE ROLE app LOGIN PASSWORD '{literal}'")).expect("role");
        Lab { server, secrets: Scratch::new("upstream").expect("scratch") }
    }

    fn endpoint(&self, host: &str, tls: UpstreamTls) -> Endpoint {
        Endpoint::new(UpstreamAddr(self.server.addr()), host, tls)
    }

    fn verified(&self, mode: TlsMode) -> UpstreamTls {
        let ca = self.server.ca_pem().expect("a TLS server");
        UpstreamTls::new(mode, Some(ca.as_bytes())).expect("settings")
    }

    fn credential(&self, password: &str) -> Credential {
        let path = self.secrets.write_secret("password", &format!("{password}\n")).expect("write");
        Credential::password("app", SecretRef::File(path.display().to_string()))
    }

    async fn open(&self, endpoint: &Endpoint, password: &str) -> Result<Connected, UpstreamError> {
        log_in(endpoint, &self.credential(password), &request(&[])).await
    }
}

pub(crate) async fn log_in(
    endpoint: &Endpoint,
    credential: &Credential,
    request: &SessionRequest,
) -> Result<Connected, UpstreamError> {
    connect(endpoint, &credential.account().await?, request).await
}

pub(crate) fn request(parameters: &[(&str, &str)]) -> SessionRequest {
    let pair = |(name, value): &(&str, &str)| (PgString::lossy(name), PgString::lossy(value));
    let parameters = parameters.iter().map(pair).collect();
    SessionRequest {
        database: PgString::from_static("postgres"),
        parameters,
        session: None,
        replication: None,
    }
}

/// Says `housekeeping`, reads up to ReadyForQuery; answers the SQLSTATE of the error, if one came, and the status.
pub(crate) async fn exchange(
    session: &mut Connected,
    housekeeping: &[Housekeeping],
) -> (Option<String>, TransactionStatus) {
    for what in housekeeping {
        session.upstream.housekeeping(what.clone()).expect("encodable");
    }
    session.upstream.flush().await.expect("write");
    let decoder = FrameDecoder::new(Limits::SERVER);
    let mut sqlstate = None;
    loop {
        while let Some(frame) = decoder.next(session.reader.buffer()).expect("valid") {
            match Backend::decode(&frame).expect("valid") {
                Backend::ErrorResponse(report) => {
                    sqlstate = Some(String::from_utf8_lossy(report.sqlstate()).into_owned());
                }
                Backend::ReadyForQuery(status) => return (sqlstate, status),
                _ => {}
            }
        }
        let read = tokio::time::timeout(ANSWER_TIME, session.reader.fill(4096)).await.expect("in time");
        assert_ne!(read.expect("read"), 0, "the server closed");
    }
}

#[tokio::test]
async fn every_way_to_authenticate_works_over_tls() {
    for auth in [HostAuth::Trust, HostAuth::Password, HostAuth::Md5, HostAuth::Scram] {
        let lab = Lab::start(PostgresOptions::new().tls().auth(auth));
        let endpoint = lab.endpoint("localhost", lab.verified(TlsMode::VerifyFull));
        let mut session = lab.open(&endpoint, PASSWORD).await.unwrap_or_else(|e| panic!("{auth:?}: {e}"));
        assert!(session.encrypted);
        assert_eq!(session.status, TransactionStatus::Idle);
        assert!(session.key.is_some());
        let reported = |wanted: &str| session.parameters.iter().find(|(name, _)| *name == wanted);
        assert!(reported("server_version").is_some());
        assert!(reported("session_authorization").is_some_and(|(_, user)| *user == "app"));
        assert_eq!(exchange(&mut session, &[Housekeeping::Sync]).await, (None, TransactionStatus::Idle));

        let wrong = lab.open(&endpoint, "wrong").await.map(drop);
        match (auth, wrong) {
            (HostAuth::Trust, Ok(())) => {}
            (_, Err(UpstreamError::Refused(report))) => {
                assert_eq!(report.sqlstate(), b"28P01", "{auth:?}");
                let (sqlstate, text) = UpstreamError::Refused(report).client_text();
                assert_eq!(sqlstate, "08004");
                assert_eq!(text, "lockgate: the target refused the session (SQLSTATE 28P01)");
            }
            (_, other) => panic!("{auth:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn scram_never_shows_the_password_on_the_wire() {
    let lab = Lab::start(PostgresOptions::new().auth(HostAuth::Scram));
    let wiretap = Wiretap::start(&lab).await;
    let endpoint = Endpoint::new(UpstreamAddr(wiretap.addr), "localhost", UpstreamTls::disable());
    lab.open(&endpoint, PASSWORD).await.expect("login");
    assert!(wiretap.heard(b"n,,n=,r="), "without TLS there is nothing to bind to");
    assert!(!wiretap.heard(PASSWORD.as_bytes()));
}

#[tokio::test]
async fn passwords_without_tls_are_hashed_or_not_sent() {
    for (auth, expected) in [
        (HostAuth::Trust, Ok(())),
        (HostAuth::Password, Err("cleartext_without_tls")),
        (HostAuth::Md5, Ok(())),
        (HostAuth::Scram, Ok(())),
    ] {
        let lab = Lab::start(PostgresOptions::new().auth(auth));
        let endpoint = lab.endpoint("localhost", UpstreamTls::disable());
        let got = lab.open(&endpoint, PASSWORD).await.map(|session| assert!(!session.encrypted));
        assert_eq!(got.map_err(|e| e.kind()), expected, "{auth:?}");
    }
}

#[tokio::test]
async fn the_server_is_verified_before_anything_is_said_to_it() {
    let lab = Lab::start(PostgresOptions::new().tls_for(&["db.internal"]).auth(HostAuth::Scram));
    let other = TestCa::new("somebody else's CA").expect("CA").pem();
    let by_other = |mode| UpstreamTls::new(mode, Some(other.as_bytes())).expect("settings");
    for (host, tls, expected) in [
        ("db.internal", lab.verified(TlsMode::VerifyFull), Ok(())),
        ("localhost", lab.verified(TlsMode::VerifyFull), Err("tls_wrong_name")),
        ("127.0.0.1", lab.verified(TlsMode::VerifyFull), Err("tls_wrong_name")),
        ("localhost", lab.verified(TlsMode::VerifyCa), Ok(())),
        ("127.0.0.1", lab.verified(TlsMode::VerifyCa), Ok(())),
        ("db.internal", by_other(TlsMode::VerifyFull), Err("tls_unknown_issuer")),
        ("db.internal", by_other(TlsMode::VerifyCa), Err("tls_unknown_issuer")),
        (
            "db.internal",
            UpstreamTls::new(TlsMode::VerifyFull, None).expect("settings"),
            Err("tls_unknown_issuer"),
        ),
    ] {
        let endpoint = lab.endpoint(host, tls);
        let got = lab.open(&endpoint, PASSWORD).await.map(drop).map_err(|e| e.kind());
        assert_eq!(got, expected, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_when_tls_is_demanded() {
    let lab = Lab::start(PostgresOptions::new());
    let ca = TestCa::new("any").expect("CA").pem();
    let tls = UpstreamTls::new(TlsMode::VerifyFull, Some(ca.as_bytes())).expect("settings");
    let error = lab.open(&lab.endpoint("localhost", tls), PASSWORD).await.expect_err("no TLS");
    assert_eq!(error.kind(), "tls_refused");
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let lab = Lab::start(PostgresOptions::new().auth(HostAuth::Scram));
    let endpoint = lab.endpoint("localhost", UpstreamTls::disable());
    let none = Credential::trusted("app");
    let lost = Credential::password("app", SecretRef::File("/nonexistent".into()));
    for (credential, request, expected) in [
        (&none, request(&[]), "no_password"),
        (&lost, request(&[]), "secret_file"),
        (&none, request(&[("user", "postgres")]), "parameter"),
        (&none, request(&[("replication", "database")]), "parameter"),
    ] {
        let error = log_in(&endpoint, credential, &request).await.expect_err("refused");
        assert_eq!(error.kind(), expected, "{error}");
        let (_, text) = error.client_text();
        assert!(!text.contains("app") && !text.contains("nonexistent"), "{text}");
    }
}

#[tokio::test]
async fn parameters_of_the_client_go_on_and_poison_aborts() {
    let lab = Lab::start(PostgresOptions::new());
    let endpoint = lab.endpoint("localhost", UpstreamTls::disable());
    let request = request(&[
        ("application_name", "the job"),
        ("options", "-c default_transaction_isolation=serializable"),
    ]);
    let mut session = log_in(&endpoint, &lab.credential(PASSWORD), &request).await.expect("login");
    let seen = lab
        .server
        .psql("SELECT application_name FROM pg_stat_activity WHERE usename = 'app'")
        .expect("query");
    assert_eq!(seen, "the job");
    let syntax_error = || Some("42601".to_owned());
    for poison in [
        &[Housekeeping::PoisonQuery][..],
        &[Housekeeping::PoisonBatch { unnamed: false }, Housekeeping::Sync],
    ] {
        assert_eq!(exchange(&mut session, poison).await, (syntax_error(), TransactionStatus::Idle));
    }
}

#[tokio::test]
async fn a_cancellation_ends_what_runs() {
    let lab = Lab::start(PostgresOptions::new().tls());
    for tls in [UpstreamTls::disable(), lab.verified(TlsMode::VerifyFull)] {
        let mut sleeper = Sleeper::start(&lab).await;
        let endpoint = lab.endpoint("localhost", tls);
        let mut stranger = sleeper.key.clone();
        stranger.key = Bytes::from_static(b"????");
        cancel(&endpoint, &stranger).await.expect("a wrong key is ignored");
        cancel(&endpoint, &sleeper.key).await.expect("delivered");
        assert_eq!(sleeper.sqlstate().await, "57014");
    }
}

/// A session that sleeps for an hour in one statement.
struct Sleeper {
    stream: tokio::net::TcpStream,
    buffer: BytesMut,
    key: BackendKeyData,
}

impl Sleeper {
    async fn start(lab: &Lab) -> Self {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(lab.server.addr()).await.expect("dial");
        let mut bytes = BytesMut::new();
        let user = (PgString::from_static("user"), PgString::from_static("postgres"));
        let startup = StartupMessage { version: ProtocolVersion::V3_0, parameters: vec![user] };
        startup.encode(&mut bytes).expect("encodable");
        Frontend::Query(PgString::from_static("SELECT pg_sleep(3600)"))
            .encode(&mut bytes)
            .expect("encodable");
        stream.write_all(&bytes).await.expect("write");
        let mut buffer = BytesMut::new();
        let mut key = None;
        loop {
            match next(&mut stream, &mut buffer).await {
                Backend::BackendKeyData(data) => key = Some(data),
                Backend::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        // A cancellation that comes before the statement has begun is lost.
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while lab.server.psql(asleep).expect("query") != "1" {}
        Sleeper { stream, buffer, key: key.expect("a cancellation key") }
    }

    async fn sqlstate(&mut self) -> String {
        loop {
            if let Backend::ErrorResponse(report) = next(&mut self.stream, &mut self.buffer).await {
                return String::from_utf8_lossy(report.sqlstate()).into_owned();
            }
        }
    }
}

async fn next(stream: &mut tokio::net::TcpStream, buffer: &mut BytesMut) -> Backend {
    use tokio::io::AsyncReadExt;
    loop {
        if let Some(frame) = FrameDecoder::new(Limits::SERVER).next(buffer).expect("valid") {
            return Backend::decode(&frame).expect("valid");
        }
        let read = tokio::time::timeout(ANSWER_TIME, stream.read_buf(buffer)).await.expect("in time");
        assert_ne!(read.expect("read"), 0, "the server closed");
    }
}

/// A relay that keeps what the client said.
struct Wiretap {
    addr: std::net::SocketAddr,
    heard: std::sync::Arc<std::sync::Mutex<Vec<u8>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Wiretap {
    async fn start(lab: &Lab) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let addr = listener.local_addr().expect("address");
        let heard = std::sync::Arc::<std::sync::Mutex<Vec<u8>>>::default();
        let (target, ears) = (lab.server.addr(), std::sync::Arc::clone(&heard));
        let task = tokio::spawn(async move {
            let (client, _) = listener.accept().await.expect("accept");
            let server = tokio::net::TcpStream::connect(target).await.expect("dial");
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                ears.lock().expect("unpoisoned").extend_from_slice(&buffer[..read]);
                to_server.write_all(&buffer[..read]).await.expect("relay");
            }
            back.abort();
        });
        Wiretap { addr, heard, task }
    }

    fn heard(&self, words: &[u8]) -> bool {
        self.heard.lock().expect("unpoisoned").windows(words.len()).any(|window| window == words)
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        self.task.abort();
    }
}
