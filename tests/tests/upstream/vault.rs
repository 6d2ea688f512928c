//! Passwords, accounts and certificates from a vault, on a real PostgreSQL. The vault is a stand-in that speaks its API.

use super::login::{log_in, request};
use lockgate_model::{SecretRef, addr::UpstreamAddr};
use lockgate_proxy::credential::{
    CertificateSource, CredentialSettings, Secrets, Vault, VaultAuth, VaultSettings,
};
use lockgate_proxy::tls::{TlsMode, UpstreamTls};
use lockgate_proxy::upstream::{Credential, Endpoint};
use lockgate_tests::postgres::{HostAuth, PostgresOptions, TestPostgres};
use lockgate_tests::scratch::Scratch;
use lockgate_tests::vault::{self, Mood};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

struct Lab {
    server: Arc<TestPostgres>,
    vault: vault::Vault,
    files: Scratch,
}

impl Lab {
    async fn start(lease_seconds: u64, options: PostgresOptions) -> Self {
        let server = Arc::new(TestPostgres::start(options).expect("start PostgreSQL"));
        server.psql("CREATE ROLE app LOGIN PASSWORD 'from the vault'").expect("role");
        let roles = server.clone();
        let accounts = move |user: &str, password: Option<&str>| {
            let sql = match password {
                Some(password) => format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'"),
                None => format!("DROP ROLE \"{user}\""),
            };
            roles.psql(&sql).expect("the vault's statement");
        };
        let vault = vault::Vault::start(lease_seconds, Box::new(accounts)).await.expect("vault");
        let files = Scratch::new("vault").expect("scratch");
        files.write_secret("token", &format!("{}\n", vault::TOKEN)).expect("write");
        Self { server, vault, files }
    }

    fn file(&self, name: &str, text: &str) -> SecretRef {
        SecretRef::File(self.files.write_secret(name, text).expect("write").display().to_string())
    }

    fn secrets(&self, auth: VaultAuth) -> Secrets {
        let settings = VaultSettings {
            address: self.vault.url(),
            ca: None,
            namespace: Some("team-a".into()),
            auth,
            timeout: Duration::from_millis(1500),
        };
        Secrets::with_vault(Arc::new(Vault::new(settings).expect("settings")))
    }

    fn by_token(&self) -> Secrets {
        self.secrets(VaultAuth::Token(self.file("token", vault::TOKEN)))
    }

    fn by_approle(&self) -> VaultAuth {
        let (role, secret) = vault::APPROLE;
        VaultAuth::AppRole {
            mount: "approle".into(),
            role_id: self.file("role_id", role),
            secret_id: self.file("secret_id", secret),
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(UpstreamAddr(self.server.addr()), "localhost", UpstreamTls::disable())
    }
}

fn reading(reference: &str) -> CredentialSettings {
    CredentialSettings {
        user: "app".into(),
        password: Some(SecretRef::Vault(reference.into())),
        ..CredentialSettings::default()
    }
}

#[tokio::test]
async fn a_password_comes_from_both_key_value_engines_by_every_login() {
    let lab = Lab::start(60, PostgresOptions::new().auth(HostAuth::Scram)).await;
    lab.vault.put("secret/orders", json!({ "password": "from the vault", "port": 5432 }));
    lab.vault.put("kv/orders", json!({ "password": "from the vault" }));
    let (k8s, jwt) = vault::KUBERNETES;
    for auth in [
        VaultAuth::Token(lab.file("token", vault::TOKEN)),
        lab.by_approle(),
        VaultAuth::Kubernetes { mount: "kubernetes".into(), role: k8s.into(), jwt: lab.file("jwt", jwt) },
    ] {
        let secrets = lab.secrets(auth);
        for reference in ["secret/data/orders#password", "kv/orders#password"] {
            let credential = Credential::new(reading(reference), secrets.clone());
            log_in(&lab.endpoint(), &credential, &request(&[])).await.expect(reference);
        }
        // A token that is not known any more is replaced, once and unnoticed.
        lab.vault.forget_tokens();
        let credential = Credential::new(reading("kv/orders#password"), secrets);
        log_in(&lab.endpoint(), &credential, &request(&[])).await.expect("login again");
    }
    let seen = lab.vault.seen();
    assert!(seen.iter().all(|request| request.ends_with(" team-a")), "{seen:?}");
    let logins =
        |mount: &str| seen.iter().filter(|line| line.contains(&format!("auth/{mount}/login"))).count();
    assert_eq!((logins("approle"), logins("kubernetes")), (2, 2), "tokens are kept: {seen:?}");
}

#[tokio::test]
async fn what_goes_wrong_is_named_and_shows_no_secret() {
    let lab = Lab::start(60, PostgresOptions::new().auth(HostAuth::Scram)).await;
    lab.vault.put("secret/orders", json!({ "password": "from the vault", "port": 5432 }));
    let good = lab.by_token();
    let wrong = lab.secrets(VaultAuth::Token(lab.file("wrong", "hvs.wrong")));
    let lost = lab.secrets(VaultAuth::Token(SecretRef::File("/nonexistent".into())));
    let approle = lab.secrets(VaultAuth::AppRole {
        mount: "approle".into(),
        role_id: lab.file("role_id", "x"),
        secret_id: lab.file("secret_id", "y"),
    });
    let elsewhere = VaultSettings {
        address: "http://127.0.0.1:1".into(),
        ca: None,
        namespace: None,
        auth: VaultAuth::Token(lab.file("token", vault::TOKEN)),
        timeout: Duration::from_secs(1),
    };
    let elsewhere = Secrets::with_vault(Arc::new(Vault::new(elsewhere).expect("settings")));
    let path = "secret/data/orders#password";
    for (mood, secrets, reference, kind) in [
        (Mood::Well, &good, "secret/data/orders#user", "vault_field"),
        (Mood::Well, &good, "secret/data/orders#port", "vault_field"),
        (Mood::Well, &good, "secret/data/nothing#password", "vault_not_found"),
        (Mood::Well, &good, "secret/orders#password", "vault_not_found"),
        (Mood::Well, &wrong, path, "vault_denied"),
        (Mood::Well, &lost, path, "vault_login"),
        (Mood::Well, &approle, path, "vault_login"),
        (Mood::Well, &elsewhere, path, "vault_unreachable"),
        (Mood::Well, &Secrets::default(), path, "secret_no_vault"),
        (Mood::Silent, &good, path, "vault_slow"),
        (Mood::Garbage, &good, path, "vault_answer"),
        (Mood::Hollow, &good, path, "vault_answer"),
        (Mood::Endless, &good, path, "vault_too_long"),
        (Mood::Redirecting, &good, path, "vault_redirect"),
        (Mood::Sealed, &good, path, "vault_not_ready"),
    ] {
        lab.vault.set_mood(mood);
        let credential = Credential::new(reading(reference), secrets.clone());
        let error = log_in(&lab.endpoint(), &credential, &request(&[])).await.expect_err(kind);
        assert_eq!(error.kind(), kind, "{mood:?} {reference}: {error}");
        let all = format!("{error} {error:?} {}", error.client_text().1);
        assert!(!all.contains("from the vault") && !all.contains("hvs.") && !all.contains("5432"), "{all}");
        assert!(!error.client_text().1.contains("secret/"), "{all}");
    }
}

#[tokio::test]
async fn an_account_is_made_for_a_session_renewed_and_given_back() {
    let lab = Lab::start(4, PostgresOptions::new().auth(HostAuth::Scram)).await;
    let settings = CredentialSettings {
        database: Some("database/creds/orders".into()),
        ..CredentialSettings::default()
    };
    let credential = Credential::new(settings.clone(), lab.by_token());
    let account = credential.account().await.expect("account");
    let user = account.user().to_owned();
    assert!(user.starts_with("v-token-") && lab.vault.users() == [user.clone()], "{user}");
    let request = request(&[]);
    let session =
        lockgate_proxy::upstream::connect(&lab.endpoint(), &account, &request).await.expect("login");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let renewed = || lab.vault.seen().iter().any(|line| line.starts_with("PUT sys/leases/renew"));
    assert!(renewed(), "{:?}", lab.vault.seen());
    assert_eq!(lab.vault.users(), [user]);
    drop(session);
    drop(account);
    gone(&lab).await;

    // With a cache, sessions share an account for a while; it is given back behind the last one.
    let cached = CredentialSettings { cache: Some(Duration::from_millis(500)), ..settings };
    let secrets = lab.by_token();
    let credential = Credential::new(cached, secrets.clone());
    let (one, two) = (credential.account().await.expect("one"), credential.account().await.expect("two"));
    assert_eq!(one.user(), two.user());
    tokio::time::sleep(Duration::from_millis(700)).await;
    let three = credential.account().await.expect("three");
    assert_ne!(one.user(), three.user());
    assert_eq!(lab.vault.users().len(), 2);
    drop((one, two, three));
    // What the cache still has goes when it is told that nobody logs in any more.
    credential.forget();
    secrets.given_back(Duration::from_secs(20)).await;
    assert_eq!(lab.vault.users(), [""; 0]);
}

/// A session that outlives the login which asked for its account, and a vault that is away for a while.
#[tokio::test]
async fn an_account_outlives_the_token_that_asked_for_it_and_a_vault_that_starts_again() {
    let lab = Lab::start(4, PostgresOptions::new().auth(HostAuth::Scram)).await;
    lab.vault.set_token_life(Duration::from_secs(3));
    let settings = CredentialSettings {
        database: Some("database/creds/orders".into()),
        ..CredentialSettings::default()
    };
    let credential = Credential::new(settings, lab.secrets(lab.by_approle()));
    let account = credential.account().await.expect("account");
    let user = account.user().to_owned();
    // Not there at the first renewals, and well again before anything ended.
    lab.vault.set_mood(Mood::Sealed);
    tokio::time::sleep(Duration::from_millis(2200)).await;
    lab.vault.set_mood(Mood::Well);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(lab.vault.users(), [user], "{:?}", lab.vault.seen());
    drop(account);
    gone(&lab).await;
}

#[tokio::test]
async fn whoever_stops_waiting_for_an_account_leaves_none_behind() {
    let lab = Lab::start(60, PostgresOptions::new().auth(HostAuth::Scram)).await;
    lab.vault.set_slowness(Duration::from_millis(300));
    let settings = CredentialSettings {
        database: Some("database/creds/orders".into()),
        ..CredentialSettings::default()
    };
    let credential = Credential::new(settings, lab.by_token());
    let given_up = tokio::time::timeout(Duration::from_millis(100), credential.account()).await;
    assert!(given_up.is_err());
    let made = || lab.vault.seen().iter().any(|line| line.starts_with("PUT sys/leases/revoke"));
    for _ in 0..500 {
        if made() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(made(), "{:?}", lab.vault.seen());
    gone(&lab).await;
}

/// Every account is given back, in time.
async fn gone(lab: &Lab) {
    for _ in 0..500 {
        if lab.vault.users().is_empty() {
            let roles = lab.server.psql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-token-%'");
            assert_eq!(roles.expect("query"), "0");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not given back: {:?}", lab.vault.users());
}

#[tokio::test]
async fn the_vault_signs_a_client_certificate() {
    let files = Scratch::new("vault-pki").expect("scratch");
    let ca_file = files.path().join("vault-ca.crt");
    // The server needs the CA when it starts, and the vault needs the server: the CA comes first, as an empty file.
    std::fs::write(&ca_file, "").expect("write");
    let first = vault::Vault::start(60, Box::new(|_, _| {})).await.expect("vault");
    std::fs::write(&ca_file, first.ca_pem()).expect("write");
    let options = PostgresOptions::new()
        .tls()
        .setting("ssl_ca_file", &ca_file.display().to_string())
        .hba("hostssl all all 127.0.0.1/32 cert");
    let server = TestPostgres::start(options).expect("start PostgreSQL");
    server.psql("CREATE ROLE app LOGIN").expect("role");
    let token = files.write_secret("token", vault::TOKEN).expect("write");
    let settings = VaultSettings {
        address: first.url(),
        ca: None,
        namespace: None,
        auth: VaultAuth::Token(SecretRef::File(token.display().to_string())),
        timeout: Duration::from_secs(5),
    };
    let credential = Credential::new(
        CredentialSettings {
            user: "app".into(),
            certificate: Some(CertificateSource::Vault {
                path: "pki/sign/app".into(),
                validity: Duration::from_secs(300),
            }),
            ..CredentialSettings::default()
        },
        Secrets::with_vault(Arc::new(Vault::new(settings).expect("settings"))),
    );
    let ca = server.ca_pem().expect("TLS");
    let tls = UpstreamTls::new(TlsMode::VerifyFull, Some(ca.as_bytes())).expect("settings");
    let endpoint = Endpoint::new(UpstreamAddr(server.addr()), "localhost", tls);
    log_in(&endpoint, &credential, &request(&[])).await.expect("login");
    first.set_mood(Mood::Hollow);
    let error = log_in(&endpoint, &credential, &request(&[])).await.expect_err("no certificate");
    assert_eq!(error.kind(), "vault_answer");
}

#[test]
fn addresses_that_would_show_secrets_are_refused() {
    let settings = |address: &str| VaultSettings {
        address: address.into(),
        ca: None,
        namespace: None,
        auth: VaultAuth::Token(SecretRef::Env("X".into())),
        timeout: Duration::from_secs(1),
    };
    for (address, good) in [
        ("https://vault.internal:8200", true),
        ("http://127.0.0.1:8200", true),
        ("http://[::1]:8200", true),
        ("http://vault.internal:8200", false),
        ("ftp://vault.internal", false),
        ("vault.internal:8200", false),
        ("https://user:pw@vault.internal", false),
        ("", false),
    ] {
        let got = Vault::new(settings(address));
        assert_eq!(got.is_ok(), good, "{address}: {got:?}");
        assert!(!format!("{got:?}").contains("pw@"), "{got:?}");
    }
}
