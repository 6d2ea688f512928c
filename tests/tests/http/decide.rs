//! Allowed, refused, held, approved: what the client, the origin and the log see of it.

use crate::world::{POLICY, World, parts, target};
use anyhow::Result;
use lockgate_tests::{
    certificate::TestCa,
    job::JOB_UID,
    origin::{Origin, Speaks},
};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn each_request_of_a_kept_connection_is_decided_by_itself() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let (first, second) = (world.url("/hello"), world.url("/orders/7"));
    let done = world
        .curl(&[&first, "--next", "-sS", "-w", "\n%{http_code} %{num_connects}", "-X", "DELETE", &second])
        .await?;
    assert!(done.stdout.starts_with("GET /hello 0 bytes\n\n200"), "{done:?}");
    let (rest, status) = parts(&done);
    assert_eq!(status, "403 0", "{done:?}");
    let problem: Value = serde_json::from_str(&rest[rest.find('{').unwrap()..])?;
    assert_eq!(problem["status"], 403);
    assert_eq!(problem["rule"], "no-delete");
    assert_eq!(problem["reason"], "nothing is deleted here");
    assert!(problem["decision_id"].as_str().unwrap().starts_with("dec_"), "{problem}");
    assert!(problem["remedy"].as_str().unwrap().contains("https://wiki.example.com/delete"), "{problem}");
    assert!(!world.origin.seen().contains("DELETE"), "{}", world.origin.seen());
    let decision = problem["decision_id"].as_str().unwrap().to_owned();
    world
        .recorded("the refusal", |event| event.contains(&decision) && event.contains("\"no-delete\""))
        .await?;
    world
        .recorded("the outcome", |event| event.contains("\"responded\"") && event.contains("\"status\":200"))
        .await?;
    let nothing = world.curl(&["-X", "PUT", "-d", "x", &world.url("/nowhere")]).await?;
    assert!(nothing.stdout.contains("no rule allows PUT /nowhere (write) on shop"), "{nothing:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_sends_nothing_until_somebody_approves_it() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let url = world.url("/orders/4711?notify=1&access_token=s3cr3t");
    let body = r#"{"amount": 12, "password": "hunter2"}"#;
    // Not on the command line, which is shown as the kernel shows it.
    let settings = format!("url = \"{url}\"\nheader = \"content-type: application/json\"\ndata = {body:?}\n");
    let settings = world.agent.scratch().write("curlrc", &settings)?.display().to_string();
    let mut running = world.start_curl(&["-K", &settings])?;
    let request = world.asked("/orders/4711").await?;
    assert!(running.waits());
    assert_eq!(world.origin.seen(), "", "not a byte before the decision");
    let told = request.data().to_string();
    assert!(told.contains("POST 127.0.0.1/orders/{id}"), "{told}");
    assert!(told.contains("\\\"amount\\\": 12"), "{told}");
    assert!(!told.contains("s3cr3t") && !told.contains("hunter2"), "{told}");
    world.decide(&request, "approve").await?;
    let done = running.done().await?;
    assert_eq!(parts(&done), ("POST /orders/4711 37 bytes\n", "200"), "{done:?}");
    assert!(world.origin.seen().contains("access_token=s3cr3t"), "the origin gets what was sent");
    let log = world.agent.log_text()?;
    assert!(!log.contains("s3cr3t") && !log.contains("hunter2"));

    let denied = world.start_curl(&["-X", "PUT", "-d", "{}", &world.url("/orders/4712")])?;
    let request = world.asked("/orders/4712").await?;
    world.decide(&request, "deny").await?;
    let done = denied.done().await?;
    assert_eq!(parts(&done).1, "403", "{done:?}");
    assert!(done.stdout.contains("approval_denied"), "{done:?}");
    assert!(!world.origin.seen().contains("4712"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_withdraws_its_request() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    for (path, flags) in [("/orders/1", vec![]), ("/orders/2", vec!["--http2-prior-knowledge"])] {
        let url = world.url(path);
        let mut arguments = vec!["-X", "PUT", "-d", "{}"];
        arguments.extend(flags);
        arguments.push(&url);
        let running = world.start_curl(&arguments)?;
        let request = world.asked(path).await?;
        running.signal(nix::sys::signal::Signal::SIGTERM)?;
        running.done().await?;
        let id = request.data()["request_id"].as_str().unwrap_or_default().to_owned();
        world
            .recorded("the withdrawal", |event| {
                event.contains(&id) && (event.contains("withdrawn") || event.contains("approval_left"))
            })
            .await?;
    }
    assert_eq!(world.origin.seen(), "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_to_continue_only_when_somebody_has_decided() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let script = r#"
import socket, sys, threading
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"PUT /orders/9 HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
s.settimeout(2)
try:
    print("early:", s.recv(100))
except TimeoutError:
    print("nothing", flush=True)
s.settimeout(60)
got = s.recv(4096)
print(got.split(b"\r\n")[0].decode(), flush=True)
s.sendall(b"hello")
while b"bytes" not in got:
    got += s.recv(4096)
print(got.split(b"\r\n\r\n")[-1].decode())
"#;
    let running = world.start(&["python3", "-c", script, &world.origin.port().to_string()])?;
    let request = world.asked("/orders/9").await?;
    // Longer than the client listens for an early word.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(world.origin.seen(), "");
    world.decide(&request, "approve").await?;
    let done = running.done().await?;
    let lines: Vec<&str> = done.stdout.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[..2], ["nothing", "HTTP/1.1 100 Continue"], "{done:?}");
    assert!(done.stdout.contains("PUT /orders/9 5 bytes"), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_look_into_json_bodies_and_what_they_cannot_read_is_refused() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let url = world.url("/scale");
    let long = format!("{{\"spec\": {{\"replicas\": 2}}, \"x\": \"{}\"}}", "y".repeat(1 << 20));
    std::fs::write(world.agent.scratch().path().join("long.json"), &long)?;
    let long = format!("@{}", world.agent.scratch().path().join("long.json").display());
    for (body, status) in [
        (r#"{"spec": {"replicas": 2}}"#, "200"),
        (r#"{"spec": {"replicas": 50}}"#, "403"),
        (r#"{"spec": {"replicas": 2}, "spec": {"replicas": 50}}"#, "403"),
        (r#"{"spec": {"Replicas": 50, "replicas": 2}}"#, "403"),
        (r#"{"spec": {}}"#, "403"),
        ("spec.replicas=2", "403"),
        (&long, "403"),
    ] {
        let done = world.curl(&["-X", "PATCH", "--data-binary", body, &url]).await?;
        assert_eq!(parts(&done).1, status, "{body:.60} {done:?}");
    }
    assert_eq!(world.origin.seen().matches("PATCH").count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_upgrades_and_streams_work_as_without_lockgate() -> Result<()> {
    let world = World::new(Speaks::Two).await?;
    // One request a connection: with prior knowledge this curl breaks off at the second, also without lockgate.
    let (one, two) = (world.url("/slow"), world.url("/a"));
    for (method, url, expected, status) in [
        ("GET", &one, "slow", "200"),
        ("DELETE", &two, "no-delete", "403"),
        ("GET", &two, "GET /a 0 bytes", "200"),
    ] {
        let done = world.curl(&["--http2-prior-knowledge", "-X", method, url]).await?;
        assert!(done.stdout.contains(expected) && parts(&done).1 == status, "{done:?}");
    }
    // gRPC's status comes in trailers.
    let url = world.url("/grpc.Echo/Say");
    let done = world
        .curl(&[
            "--http2-prior-knowledge",
            "-v",
            "-H",
            "te: trailers",
            "-H",
            "content-type: application/grpc",
            "-d",
            "ping",
            &url,
        ])
        .await?;
    assert!(done.stdout.contains("ping") && done.stderr.contains("grpc-status: 0"), "{done:?}");

    let world = World::new(Speaks::One).await?;
    let script = r#"
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /socket HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
got = b""
while b"\r\n\r\n" not in got:
    got += s.recv(4096)
print(got.split(b"\r\n")[0].decode())
frame = b"\x81\x85\x00\x00\x00\x00hello"
s.sendall(frame)
back = b""
while len(back) < len(frame):
    back += s.recv(4096)
print(back == frame)
"#;
    let done = world.start(&["python3", "-c", script, &world.origin.port().to_string()])?.done().await?;
    assert_eq!(done.stdout, "HTTP/1.1 101 Switching Protocols\nTrue\n", "{done:?}");
    let done = world.curl(&["--http1.0", &world.url("/old")]).await?;
    assert_eq!(parts(&done), ("GET /old 0 bytes\n", "200"), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_through_in_both_directions() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    let path = world.agent.scratch().path().join("big");
    let size = 64 << 20;
    std::fs::write(&path, vec![b'x'; size])?;
    let data = format!("@{}", path.display());
    for more in [&[][..], &["-H", "Transfer-Encoding: chunked"][..]] {
        let url = world.url("/echo");
        let mut arguments =
            vec!["-X", "POST", "-H", "Content-Type: application/octet-stream", "--data-binary", &data];
        arguments.extend(more);
        arguments.push(&url);
        let done = world.curl(&arguments).await?;
        assert_eq!(parts(&done), (format!("POST /echo {size} bytes\n").as_str(), "200"), "{done:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_ends_at_lockgate_on_both_legs_and_the_credential_is_the_target_s() -> Result<()> {
    let (ours, theirs) = (TestCa::new("lockgate test")?, TestCa::new("shop")?);
    let certificate = theirs.issue(&["shop.internal"])?;
    for speaks in [Speaks::One, Speaks::Two] {
        let origin = Origin::start(speaks, Some((&certificate.certificate, &certificate.key))).await?;
        let tls = "  client_tls: { ca: our.pem, ca_key: our.key, names: [shop.internal] }\n";
        let upstream = "tls: verify-full, ca: their.pem, server_name: shop.internal, \
                        credential: { bearer: { file: token } }, remove_headers: [cookie]";
        let target = target("127.0.0.1", origin.port(), tls, upstream);
        let world = World::on(origin, POLICY, target, |agent| {
            let write = |name: &str, text: &str| agent.scratch().write(name, text).map(drop);
            write("our.pem", &ours.pem())?;
            write("our.key", &ours.key_pem())?;
            write("their.pem", &theirs.pem())?;
            write("token", "the-target-s-token\n")
        })
        .await?;
        let ca = world.agent.scratch().write("ca.pem", &ours.pem())?.display().to_string();
        let port = world.origin.port();
        let resolve = format!("shop.internal:{port}:127.0.0.1");
        let url = format!("https://shop.internal:{port}/hello");
        let version = if speaks == Speaks::Two { "--http2" } else { "--http1.1" };
        let done = world
            .curl(&[
                version,
                "-w",
                "\n%{http_version} %{http_code}",
                "--cacert",
                &ca,
                "--resolve",
                &resolve,
                "-H",
                "Authorization: Bearer stolen",
                "-H",
                "Cookie: session=stolen",
                &url,
            ])
            .await?;
        let expected = if speaks == Speaks::Two { "2 200" } else { "1.1 200" };
        assert_eq!(parts(&done).1, expected, "{done:?}");
        let seen = world.origin.seen();
        assert!(!seen.contains("stolen"), "{seen}");
        if speaks == Speaks::One {
            assert!(seen.contains("authorization: Bearer the-target-s-token"), "{seen}");
        }
        let log = world.agent.log_text()?;
        assert!(!log.contains("the-target-s-token") && !log.contains("stolen"));
        // Without lockgate's CA the client notices; without a certificate for the target TLS is refused.
        let done = world.curl(&["--resolve", &resolve, &url]).await?;
        assert_eq!(done.code, Some(60), "{done:?}");
        assert_eq!(JOB_UID, 65534);
    }
    let world = World::new(Speaks::One).await?;
    let done = world.curl(&["-k", &world.url("/x").replace("http://", "https://")]).await?;
    assert!(done.code == Some(35) || done.code == Some(56), "{done:?}");
    assert_eq!(world.origin.seen(), "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_held_like_any_other_body() -> Result<()> {
    // Another rule asks for a field of JSON; it is about other requests.
    let world = World::new(Speaks::One).await?;
    let running = world.start_curl(&["-X", "POST", "-d", "amount=1", &world.url("/orders/8")])?;
    let request = world.asked("/orders/8").await?;
    world.decide(&request, "approve").await?;
    let done = running.done().await?;
    assert_eq!(parts(&done), ("POST /orders/8 8 bytes\n", "200"), "{done:?}");
    Ok(())
}
