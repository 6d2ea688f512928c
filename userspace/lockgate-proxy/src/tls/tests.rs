//! Handshakes between the two legs over an in-process stream.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LOCALHOST: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn server(&self, name: &str) -> ClientTls {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        ClientTls::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }
}

async fn shake_hands(server: &ClientTls, client: &UpstreamTls, host: &str) -> Result<(), &'static str> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = client.connector(host, None).map_err(|e| e.kind())?.expect("TLS is on");
    let (accepted, connected) = tokio::join!(
        async {
            let accepted = server.accept(far, b"", Negotiation::Asked, LOCALHOST).await.ok()?;
            let mut stream = accepted.stream;
            stream.write_all(b"hello").await.ok()?;
            stream.shutdown().await.ok()
        },
        async {
            let mut stream = connector.connect(near).await.map_err(|e| e.kind())?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("data behind the handshake");
            assert_eq!(text, "hello");
            Ok(())
        }
    );
    assert_eq!(accepted.is_some(), connected.is_ok());
    connected
}

#[tokio::test]
async fn the_target_is_verified_as_configured() {
    let (ca, other, impostor) = (Ca::new("ours"), Ca::new("theirs"), Ca::new("ours"));
    let server = ca.server("db.internal");
    let by = |mode, ca: &Ca| UpstreamTls::new(mode, Some(ca.pem().as_bytes())).unwrap();
    let public = UpstreamTls::new(TlsMode::VerifyFull, None).unwrap();
    for (client, host, expected) in [
        (by(TlsMode::VerifyFull, &ca), "db.internal", Ok(())),
        (by(TlsMode::VerifyFull, &ca), "other.internal", Err("tls_wrong_name")),
        (by(TlsMode::VerifyFull, &ca), "127.0.0.1", Err("tls_wrong_name")),
        (by(TlsMode::VerifyFull, &other), "db.internal", Err("tls_unknown_issuer")),
        (by(TlsMode::VerifyCa, &ca), "other.internal", Ok(())),
        (by(TlsMode::VerifyCa, &ca), "127.0.0.1", Ok(())),
        (by(TlsMode::VerifyCa, &other), "db.internal", Err("tls_unknown_issuer")),
        (by(TlsMode::VerifyFull, &impostor), "db.internal", Err("tls_bad_certificate")),
        (by(TlsMode::VerifyCa, &impostor), "db.internal", Err("tls_bad_certificate")),
        (public, "db.internal", Err("tls_unknown_issuer")),
        (by(TlsMode::VerifyFull, &ca), "not a name", Err("tls_settings")),
    ] {
        assert_eq!(shake_hands(&server, &client, host).await, expected, "{client:?} {host}");
    }
}

#[test]
fn verify_ca_needs_a_ca() {
    assert!(matches!(UpstreamTls::new(TlsMode::VerifyCa, None), Err(TlsError::VerifyCaWithoutCa)));
    assert_eq!(UpstreamTls::new(TlsMode::Disable, None).unwrap().mode(), TlsMode::Disable);
}

#[test]
fn bad_material_is_named() {
    let ca = Ca::new("ours");
    let pem = ca.pem();
    let key = KeyPair::generate().unwrap().serialize_pem();
    let check = |certificate: &str, key: &str, expected: &str| {
        let error = ClientTls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("", &key, "client_tls.certificate holds no CERTIFICATE");
    check(&pem, "", "client_tls.key holds no PRIVATE KEY");
    check(&pem, &key, "use client_tls");
    check(
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        &key,
        "client_tls.certificate is not PEM",
    );
}

#[tokio::test]
async fn clear_text_behind_the_request_is_refused() {
    let server = Ca::new("ours").server("x");
    let (_near, far) = tokio::io::duplex(64);
    let error = server.accept(far, b"Q", Negotiation::Asked, LOCALHOST).await.unwrap_err();
    assert_eq!(error.kind(), "tls_plaintext_injection");
}

#[test]
fn the_channel_binding_follows_the_signature() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["x".to_owned()]).unwrap();
    let p256 = params.self_signed(&key).unwrap();
    assert_eq!(server_end_point(p256.der()).map(|hash| hash.len()), Some(32));
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    assert_eq!(server_end_point(params.self_signed(&ed25519).unwrap().der()), None);
    assert_eq!(server_end_point(b"not a certificate"), None);
}

/// A client that shakes hands with an issuing leg, by SNI or without, and the names of what it was shown.
async fn shown(
    leg: &ClientTls,
    ca: &str,
    host: &str,
    alpn: &[&[u8]],
    negotiation: Negotiation,
) -> (Result<(), &'static str>, Result<Option<Vec<u8>>, &'static str>) {
    let mut config = https(Some(ca.as_bytes())).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // libpq sends no SNI for addresses, and neither does rustls.
    let name = rustls_pki_types::ServerName::try_from(host.to_owned()).unwrap();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let (connected, accepted) = tokio::join!(
        async {
            let mut stream = connector
                .connect(name, near)
                .await
                .map_err(|error| TlsError::from_handshake("shake hands", error).kind())?;
            let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            // A refusal in TLS 1.3 comes behind the client's handshake.
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.map_err(|_| "tls_io")?;
            Ok(server_end_point(&certificate))
        },
        async {
            let accepted =
                leg.accept(far, b"", negotiation, LOCALHOST).await.map_err(|error| error.kind())?;
            let mut stream = accepted.stream;
            stream.shutdown().await.unwrap();
            Ok(accepted.binding)
        }
    );
    match (connected, accepted) {
        (Ok(seen), Ok(bound)) => {
            assert_eq!(seen, bound, "SCRAM is bound to what the client saw");
            (Ok(()), Ok(bound))
        }
        (connected, accepted) => (connected.map(drop), accepted),
    }
}

#[tokio::test]
async fn leaves_are_issued_for_the_target_s_names_and_no_others() {
    let made = new_authority("lockgate test", std::time::Duration::from_secs(3600)).unwrap();
    let authority =
        Authority::from_pem("test", made.certificate.as_bytes(), made.key.expose().as_bytes()).unwrap();
    let names = vec!["orders-db.internal".to_owned(), "orders-db".to_owned()];
    let leg = ClientTls::issuing(authority, "orders", names, SERVER_VALIDITY);
    let pg: &[&[u8]] = &[b"postgresql"];
    for (host, alpn, negotiation, expected) in [
        ("orders-db.internal", pg, Negotiation::Asked, Ok(())),
        ("ORDERS-DB.internal.", pg, Negotiation::Asked, Ok(())),
        ("orders-db", &[], Negotiation::Asked, Ok(())),
        ("127.0.0.1", pg, Negotiation::Asked, Ok(())),
        ("orders-db", pg, Negotiation::Direct, Ok(())),
        ("orders-db", &[b"h2", b"postgresql"], Negotiation::Direct, Ok(())),
        ("127.0.0.2", pg, Negotiation::Asked, Err("client")),
        ("billing-db.internal", pg, Negotiation::Asked, Err("client")),
        ("internal", pg, Negotiation::Asked, Err("client")),
        ("x.orders-db.internal", pg, Negotiation::Asked, Err("client")),
        ("orders-db", &[], Negotiation::Direct, Err("tls_other_protocol")),
        ("orders-db", &[b"h2"], Negotiation::Direct, Err("tls_other_protocol")),
        ("orders-db", &[b"http/1.1"], Negotiation::Asked, Err("tls_other_protocol")),
    ] {
        let (connected, accepted) = shown(&leg, &made.certificate, host, alpn, negotiation).await;
        match expected {
            Ok(()) => assert!(connected.is_ok() && accepted.is_ok(), "{host}: {connected:?} {accepted:?}"),
            // The client does not like what it is shown: it meant another address or name than this target's.
            Err("client") => assert_eq!(connected, Err("tls_wrong_name"), "{host}"),
            Err(kind) => assert_eq!((connected.is_err(), accepted), (true, Err(kind)), "{host}"),
        }
    }
    // The same name is not signed for twice; another client's CA does not do.
    let bindings = [
        shown(&leg, &made.certificate, "orders-db", pg, Negotiation::Asked).await.1,
        shown(&leg, &made.certificate, "orders-db", pg, Negotiation::Asked).await.1,
    ];
    assert!(bindings[0].is_ok() && bindings[0] == bindings[1]);
    let other = Ca::new("other");
    let (connected, _) = shown(&leg, &other.pem(), "orders-db", pg, Negotiation::Asked).await;
    assert!(connected.is_err());
}

#[tokio::test]
async fn a_ca_that_ends_while_the_agent_runs_signs_nothing_more() {
    let made = new_authority("lockgate test", std::time::Duration::from_millis(1500)).unwrap();
    let (certificate, key) = (made.certificate.as_bytes(), made.key.expose().as_bytes());
    let authority = || Authority::from_pem("client_tls", certificate, key);
    let (client, server) = (authority().unwrap(), authority().unwrap());
    let leg = ClientTls::issuing(server, "orders", vec!["orders-db".to_owned()], SERVER_VALIDITY);
    std::thread::sleep(std::time::Duration::from_millis(1600));
    let subject = Subject { role: "app", session: None };
    let refused = client.client(&subject, std::time::Duration::from_secs(60)).map(drop);
    for error in [refused.unwrap_err(), authority().map(drop).unwrap_err()] {
        assert!(error.to_string().contains("client_tls: `ca` has expired"), "{error}");
    }
    let (connected, accepted) = shown(&leg, &made.certificate, "orders-db", &[], Negotiation::Asked).await;
    assert_eq!((connected.is_err(), accepted), (true, Err("tls_issue")));
}

#[test]
fn what_is_issued_is_short_lived_and_says_what_it_is_for() {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let made = new_authority("lockgate test", std::time::Duration::from_secs(600)).unwrap();
    let authority =
        Authority::from_pem("test", made.certificate.as_bytes(), made.key.expose().as_bytes()).unwrap();
    let subject = Subject { role: "app", session: Some("ses_01") };
    let identity = authority.client(&subject, std::time::Duration::from_secs(300)).unwrap();
    let der = identity.0.cert[0].clone();
    let (_, leaf) = X509Certificate::from_der(&der).unwrap();
    let length = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((325..=335).contains(&length), "{length}");
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    assert!(leaf.serial.bits() > 100 && leaf.serial.bits() < 128);
    let names = format!("{:?}", leaf.subject_alternative_name().unwrap().unwrap().value.general_names);
    assert!(names.contains("spiffe://lockgate/session/ses_01"), "{names}");
    // Never longer than the CA itself.
    let long = authority.client(&subject, std::time::Duration::from_secs(86_400)).unwrap();
    let der = long.0.cert[0].clone();
    let (_, long) = X509Certificate::from_der(&der).unwrap();
    let (_, ca) = x509_parser::pem::parse_x509_pem(made.certificate.as_bytes()).unwrap();
    assert!(long.validity().not_after <= ca.parse_x509().unwrap().validity().not_after);
    // Roles that people invent.
    for (role, good) in
        [("app", true), ("O'Neil, \"DBA\"", true), ("zoë", true), ("", false), (&"x".repeat(65), false)]
    {
        let made = authority.client(&Subject { role, session: None }, std::time::Duration::from_secs(300));
        assert_eq!(made.is_ok(), good, "{role}");
        if let Ok(identity) = made {
            let (_, leaf) = X509Certificate::from_der(&identity.0.cert[0]).unwrap();
            let name = leaf.subject().iter_common_name().next().unwrap().as_str().unwrap();
            assert_eq!(name, role);
        }
    }
}
