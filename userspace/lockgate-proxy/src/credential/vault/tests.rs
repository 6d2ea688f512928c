//! HTTPS to a server whose certificate is checked. What it says is tested with a stand-in, in `tests/tests/upstream`.

use super::*;
use lockgate_model::SecretRef;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Answers every request with one secret. Gives its port.
async fn serve(ca: &Ca, name: &str) -> u16 {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..length]).to_lowercase();
            assert!(
                asked.starts_with("get /v1/kv/x http/1.1") && asked.contains("x-vault-token: t"),
                "{asked}"
            );
            let body = r#"{"data":{"password":"p\u00e4ss"}}"#;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_vault_is_verified_before_it_is_told_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "t\n").unwrap();
    let (ours, theirs) = (ca(), ca());
    let (right, wrong) = (serve(&ours, "localhost").await, serve(&ours, "elsewhere").await);
    for (port, trusted, expected) in [
        (right, Some(&ours), None),
        (right, Some(&theirs), Some("vault_unreachable")),
        (right, None, Some("vault_unreachable")),
        (wrong, Some(&ours), Some("vault_unreachable")),
    ] {
        let settings = VaultSettings {
            address: format!("https://localhost:{port}"),
            ca: trusted.map(|ca| Secret::new(ca.pem().into_bytes())),
            namespace: None,
            auth: VaultAuth::Token(SecretRef::File(token.display().to_string())),
            timeout: Duration::from_secs(10),
        };
        let got = Vault::new(settings).unwrap().read("kv/x#password").await;
        let got = got.map(|secret| assert_eq!(&*secret, "päss".as_bytes()));
        assert_eq!(got.as_ref().err().map(VaultError::kind), expected, "{got:?}");
    }
}
