//! Servers that hang, close, lie or babble: a clear error within the bound, never more.

use lockgate_model::SecretRef;
use lockgate_model::addr::UpstreamAddr;
use lockgate_proxy::tls::{TlsMode, UpstreamTls};
use lockgate_proxy::upstream::{Bounds, Credential, Endpoint, SessionRequest, connect};
use lockgate_tests::certificate::TestCa;
use lockgate_wire::postgres::PgString;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a hanging server is given here instead of the usual half minute.
const PATIENCE: Duration = Duration::from_millis(300);

enum Then {
    Close,
    Hang,
}

/// Reads the client's first packet, answers `says`, and then closes or hangs.
async fn check(says: &[u8], then: Then, tls: bool, expected: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let addr = listener.local_addr().expect("address");
    let says = says.to_vec();
    let server = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.expect("accept");
        let mut first = [0; 1024];
        assert_ne!(client.read(&mut first).await.expect("read"), 0, "no first packet");
        client.write_all(&says).await.expect("answer");
        match then {
            // Reads on, so that the close is an orderly one.
            Then::Close => drop(client.shutdown().await),
            Then::Hang => std::future::pending().await,
        }
        let _ = client.read(&mut first).await;
    });
    let ca = TestCa::new("any").expect("CA").pem();
    let tls = match tls {
        true => UpstreamTls::new(TlsMode::VerifyFull, Some(ca.as_bytes())).expect("settings"),
        false => UpstreamTls::disable(),
    };
    let bounds = Bounds { dial: PATIENCE, login: PATIENCE };
    let endpoint = Endpoint { bounds, ..Endpoint::new(UpstreamAddr(addr), "localhost", tls) };
    // PATH is a secret that every test process has.
    let credential = Credential::password("app", SecretRef::Env("PATH".into()));
    let request = SessionRequest {
        database: PgString::from_static("x"),
        parameters: Vec::new(),
        session: None,
        replication: None,
    };
    let started = Instant::now();
    let error = connect(&endpoint, &credential.account().await.expect("account"), &request)
        .await
        .expect_err("no session");
    assert_eq!(error.kind(), expected, "{error}");
    assert!(started.elapsed() < PATIENCE * 10);
    server.abort();
}

#[tokio::test]
async fn silence_is_bounded() {
    check(b"", Then::Hang, false, "login_slow").await;
    check(b"", Then::Hang, true, "login_slow").await;
    check(b"S", Then::Hang, true, "login_slow").await;
    check(b"R\0\0\0\x08\0\0\0\0", Then::Hang, false, "login_slow").await;
    check(b"R\0\0", Then::Hang, false, "login_slow").await;
}

#[tokio::test]
async fn an_early_close_is_named() {
    check(b"", Then::Close, false, "closed").await;
    check(b"", Then::Close, true, "closed").await;
    check(b"R\0\0\0\x08\0\0\0\0S\0\0", Then::Close, false, "closed").await;
}

#[tokio::test]
async fn garbage_is_named_and_never_waited_for() {
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", Then::Hang, false, "length_too_large").await;
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", Then::Hang, true, "tls_answer").await;
    check(b"R\x3f\xff\xff\xff", Then::Hang, false, "length_too_large").await;
    check(b"R\0\0\0\x03", Then::Hang, false, "length_too_small").await;
    check(b"!\0\0\0\x04", Then::Hang, false, "unknown_tag").await;
    check(b"Snot a handshake", Then::Hang, true, "tls_handshake").await;
}

#[tokio::test]
async fn a_server_may_not_skip_steps_or_choose_weak_ones() {
    let sasl = |mechanisms: &[u8]| message(b'R', &[b"\0\0\0\x0a", mechanisms, b"\0"].concat());
    let ok = message(b'R', b"\0\0\0\0");
    for (says, expected) in [
        // A session without authentication.
        (message(b'Z', b"I"), "unexpected_message"),
        (message(b'S', b"a\0b\0"), "unexpected_message"),
        // The server's own proof left out.
        ([sasl(b"SCRAM-SHA-256\0"), ok.clone()].concat(), "unexpected_message"),
        (sasl(b"SCRAM-SHA-1\0"), "auth_method"),
        // Binding offered where there is no TLS to bind to.
        (sasl(b"SCRAM-SHA-256-PLUS\0"), "auth_method"),
        (message(b'R', b"\0\0\0\x07"), "auth_method"),
        (message(b'R', b"\0\0\0\x03"), "cleartext_without_tls"),
        // A nonce that is not ours, and then a work factor made to hurt.
        ([sasl(b"SCRAM-SHA-256\0"), message(b'R', b"\0\0\0\x0br=x,s=AAAA,i=4096")].concat(), "scram"),
        ([sasl(b"SCRAM-SHA-256\0"), message(b'R', b"\0\0\0\x0b\xff")].concat(), "scram"),
        ([message(b'R', b"\0\0\0\x0c")].concat(), "unexpected_message"),
        ([ok.clone(), message(b'T', b"\0\0")].concat(), "unexpected_message"),
        ([ok.clone(), ok.clone()].concat(), "unexpected_message"),
        ([ok, message(b'S', b"a\0b\0").repeat(300)].concat(), "too_chatty"),
        (message(b'E', b"SFATAL\0C57P03\0Mstarting up\0\0"), "refused"),
    ] {
        check(&says, Then::Hang, false, expected).await;
    }
}

#[tokio::test]
async fn nobody_listening_is_a_dial_error() {
    let addr = TcpListener::bind("127.0.0.1:0").await.expect("listen").local_addr().expect("address");
    let endpoint = Endpoint::new(UpstreamAddr(addr), "localhost", UpstreamTls::disable());
    let credential = Credential::trusted("app");
    let request = SessionRequest {
        database: PgString::from_static("x"),
        parameters: Vec::new(),
        session: None,
        replication: None,
    };
    let error = connect(&endpoint, &credential.account().await.expect("account"), &request)
        .await
        .expect_err("nobody there");
    assert_eq!(error.kind(), "dial");
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("small");
    [&[tag], &length.to_be_bytes()[..], body].concat()
}
