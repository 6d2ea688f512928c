//! Client certificates that lockgate signs for one session, on a real server that takes nothing else.

use super::login::{exchange, log_in, request};
use lockgate_model::addr::UpstreamAddr;
use lockgate_model::{SecretRef, SessionId};
use lockgate_proxy::credential::{CertificateSource, CredentialSettings, Secrets};
use lockgate_proxy::tls::{TlsMode, UpstreamTls};
use lockgate_proxy::upstream::{Credential, Endpoint, Housekeeping, UpstreamError};
use lockgate_tests::certificate::TestCa;
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use lockgate_tests::scratch::Scratch;
use lockgate_wire::postgres::TransactionStatus;
use std::time::Duration;

/// A server whose role `app` (and `dual`, with a password besides) log in by certificates of lockgate's CA.
struct Lab {
    server: TestPostgres,
    files: Scratch,
}

impl Lab {
    fn start() -> Self {
        let files = Scratch::new("certificates").expect("scratch");
        let ca = TestCa::new("lockgate's CA").expect("CA");
        let ca_file = files.write("lockgate-ca.crt", &ca.pem()).expect("write");
        files.write_secret("lockgate-ca.key", &ca.key_pem()).expect("write");
        let options = PostgresOptions::new()
            .tls()
            .setting("ssl_ca_file", &ca_file.display().to_string())
            .setting("log_connections", "on")
            .hba("hostssl all dual 127.0.0.1/32 scram-sha-256 clientcert=verify-full")
            .hba("hostssl all all 127.0.0.1/32 cert");
        let server = TestPostgres::start(options).expect("start PostgreSQL");
        server
            .psql("CREATE ROLE app LOGIN; CREATE ROLE reader LOGIN; CREATE ROLE dual LOGIN PASSWORD 'pw'")
            .expect("roles");
        Self { server, files }
    }

    fn endpoint(&self) -> Endpoint {
        let ca = self.server.ca_pem().expect("a TLS server");
        let tls = UpstreamTls::new(TlsMode::VerifyFull, Some(ca.as_bytes())).expect("settings");
        Endpoint::new(UpstreamAddr(self.server.addr()), "localhost", tls)
    }

    fn file(&self, name: &str) -> SecretRef {
        SecretRef::File(self.files.path().join(name).display().to_string())
    }

    fn issued(&self, user: &str, validity: Duration) -> CredentialSettings {
        CredentialSettings {
            user: user.into(),
            certificate: Some(CertificateSource::Issued {
                ca: self.file("lockgate-ca.crt"),
                key: self.file("lockgate-ca.key"),
                validity,
            }),
            ..CredentialSettings::default()
        }
    }
}

fn credential(settings: CredentialSettings) -> Credential {
    Credential::new(settings, Secrets::default())
}

const MINUTES: Duration = Duration::from_secs(300);

#[tokio::test]
async fn a_certificate_is_signed_for_each_session_and_names_it() {
    let lab = Lab::start();
    let endpoint = lab.endpoint();
    let app = credential(lab.issued("app", MINUTES));
    app.check().await.expect("CA and key are good");
    let id = SessionId::from_parts(1_795_000_000_000, 7);
    let mut request = request(&[("application_name", "joined")]);
    request.session = Some(id);
    let mut session = log_in(&endpoint, &app, &request).await.expect("login");
    assert_eq!(exchange(&mut session, &[Housekeeping::Sync]).await, (None, TransactionStatus::Idle));
    let query = "SELECT client_dn || ' ' || usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                 WHERE application_name = 'joined'";
    let dn = lab.server.psql(query).expect("query");
    assert!(
        dn.contains("/CN=app") && dn.contains(&format!("/OU=lockgate {id}")) && dn.ends_with(" app"),
        "{dn}"
    );
    let log = lab.server.log().expect("log");
    assert!(log.contains(&id.to_string()), "the server's log can be joined: {log}");
    // Two sessions, two serial numbers.
    let other = log_in(&endpoint, &app, &request).await.expect("login");
    let serials = lab
        .server
        .psql("SELECT count(DISTINCT client_serial) FROM pg_stat_ssl WHERE client_serial IS NOT NULL");
    assert_eq!(serials.expect("query"), "2");
    drop((session, other));

    // For the role that policy names, and for no role that is not the certificate's.
    let reader = app.for_role("reader").expect("issued for any role");
    log_in(&endpoint, &reader, &super::login::request(&[])).await.expect("login");
    let nobody = app.for_role("nobody").expect("issued for any role");
    let error = log_in(&endpoint, &nobody, &super::login::request(&[])).await.expect_err("no such role");
    assert_eq!(error.kind(), "refused");
}

#[tokio::test]
async fn a_server_refuses_certificates_that_are_over_foreign_or_somebody_elses() {
    let lab = Lab::start();
    let endpoint = lab.endpoint();
    let foreign = TestCa::new("somebody else's CA").expect("CA");
    lab.files.write("foreign.crt", &foreign.pem()).expect("write");
    lab.files.write_secret("foreign.key", &foreign.key_pem()).expect("write");
    let by_foreign = CredentialSettings {
        certificate: Some(CertificateSource::Issued {
            ca: lab.file("foreign.crt"),
            key: lab.file("foreign.key"),
            validity: MINUTES,
        }),
        ..lab.issued("app", MINUTES)
    };
    let none = CredentialSettings { certificate: None, ..lab.issued("app", MINUTES) };
    for (what, settings) in
        [("expired", lab.issued("app", Duration::ZERO)), ("foreign", by_foreign), ("none", none)]
    {
        let error = log_in(&endpoint, &credential(settings), &request(&[])).await.expect_err(what);
        let (_, text) = error.client_text();
        assert!(!text.contains("app"), "{what}: {text}");
        match (what, &error) {
            ("none", UpstreamError::Refused(report)) => assert_eq!(report.sqlstate(), b"28000", "{error}"),
            ("expired" | "foreign", UpstreamError::Tls(_) | UpstreamError::Closed { .. }) => {}
            _ => panic!("{what}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_and_a_password_go_together() {
    let lab = Lab::start();
    let endpoint = lab.endpoint();
    lab.files.write_secret("password", "pw\n").expect("write");
    let with = |settings: CredentialSettings, password: Option<&str>| CredentialSettings {
        password: password.map(|name| lab.file(name)),
        ..settings
    };
    log_in(&endpoint, &credential(with(lab.issued("dual", MINUTES), Some("password"))), &request(&[]))
        .await
        .expect("both");
    let error = log_in(&endpoint, &credential(with(lab.issued("dual", MINUTES), None)), &request(&[])).await;
    assert_eq!(error.expect_err("no password").kind(), "no_password");
    // A credential with a password is one role's own.
    let error = credential(with(lab.issued("dual", MINUTES), Some("password"))).for_role("app");
    assert_eq!(error.expect_err("not for others").kind(), "credential_role");
}

#[tokio::test]
async fn a_given_certificate_is_read_for_each_login() {
    let lab = Lab::start();
    let endpoint = lab.endpoint();
    let signed = rcgen_leaf(&lab, "app");
    lab.files.write("app.crt", &signed.0).expect("write");
    lab.files.write_secret("app.key", &signed.1).expect("write");
    let given = credential(CredentialSettings {
        user: "app".into(),
        certificate: Some(CertificateSource::Given {
            certificate: lab.file("app.crt"),
            key: lab.file("app.key"),
        }),
        ..CredentialSettings::default()
    });
    log_in(&endpoint, &given, &request(&[])).await.expect("login");
    // Rotated to another one's: in force at once, and named for what it is.
    lab.files.write_secret("app.key", &rcgen_leaf(&lab, "app").1).expect("write");
    let error = log_in(&endpoint, &given, &request(&[])).await.expect_err("keys do not match");
    assert!(error.to_string().contains("`key` is not the key of `certificate`"), "{error}");
    let (_, text) = error.client_text();
    assert_eq!(text, "lockgate: the target's credential is not available");
}

/// A client certificate of lockgate's CA, made elsewhere.
fn rcgen_leaf(lab: &Lab, role: &str) -> (String, String) {
    let read = |name: &str| std::fs::read_to_string(lab.files.path().join(name)).expect("read");
    let key = rcgen::KeyPair::from_pem(&read("lockgate-ca.key")).expect("key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("lockgate-ca.crt"), key).expect("CA");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, role);
    let key = rcgen::KeyPair::generate().expect("key");
    let leaf = params.signed_by(&key, &issuer).expect("leaf");
    (leaf.pem(), key.serialize_pem())
}

#[tokio::test]
async fn what_cannot_sign_is_told_at_start() {
    let lab = Lab::start();
    let leaf = rcgen_leaf(&lab, "app");
    lab.files.write("leaf.crt", &leaf.0).expect("write");
    lab.files.write_secret("leaf.key", &leaf.1).expect("write");
    lab.files.write("empty", "").expect("write");
    lab.files
        .write("sec1.key", "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\n")
        .expect("write");
    lab.files
        .write("noise.key", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0Lw==\n-----END PRIVATE KEY-----\n")
        .expect("write");
    for (ca, key, expected) in [
        ("leaf.crt", "leaf.key", "not a CA's certificate"),
        ("lockgate-ca.crt", "leaf.key", "`ca_key` is not the key of `ca`"),
        ("lockgate-ca.crt", "sec1.key", "openssl pkcs8 -topk8"),
        ("lockgate-ca.crt", "noise.key", "is not an ECDSA"),
        ("lockgate-ca.crt", "empty", "is empty"),
        ("nowhere.crt", "leaf.key", "cannot read the secret file"),
    ] {
        let settings = CredentialSettings {
            certificate: Some(CertificateSource::Issued {
                ca: lab.file(ca),
                key: lab.file(key),
                validity: MINUTES,
            }),
            ..lab.issued("app", MINUTES)
        };
        let error = credential(settings).check().await.expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains("c2Vj"), "{ca} {key}: {error}");
    }
    let long = lab.issued(&"x".repeat(65), MINUTES);
    let error = credential(long).check().await.expect_err("too long").to_string();
    assert!(error.contains("1 to 64 bytes"), "{error}");
}
