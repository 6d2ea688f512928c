//! Handshakes between the two legs over an in-process stream.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ED25519};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    let connector = client.connector(host).map_err(|e| e.kind())?.expect("TLS is on");
    let (accepted, connected) = tokio::join!(
        async {
            let mut stream = server.accept(far, b"").await.ok()?;
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
    let error = server.accept(far, b"Q").await.unwrap_err();
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
