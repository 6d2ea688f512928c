//! Requests that two readers would frame differently: refused with 400, recorded, and not a byte of them upstream. The whole
//! table is lockgate-wire's; here is that it stands before the origin.

use crate::world::World;
use anyhow::Result;
use lockgate_tests::origin::Speaks;

#[tokio::test(flavor = "multi_thread")]
async fn smuggled_requests_are_refused_and_recorded() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    for (bytes, why) in [
        ("GET /1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Host field"),
        (
            "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "beside Transfer-Encoding",
        ),
        (
            "POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
            "Content-Length",
        ),
        ("GET /4 HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", "folded"),
        ("GET /5 HTTP/1.1\r\nHost : a\r\n\r\n", "colon"),
        ("GET /6 HTTP/1.1\nHost: a\n\n", "CR LF"),
        ("GET http://b/7 HTTP/1.1\r\nHost: a\r\n\r\n", "another host"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "CONNECT"),
        ("TRACE /8 HTTP/1.1\r\nHost: a\r\n\r\n", "TRACE"),
        (
            "GET /9 HTTP/1.1\r\nHost: a\r\nX-Env: dev\r\nConnection: keep-alive, X-Env\r\n\r\n",
            "Connection names",
        ),
    ] {
        let answer = world.raw(bytes.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bytes:?}: {answer}");
        assert!(answer.contains("application/problem+json") && answer.contains(why), "{bytes:?}: {answer}");
        world.recorded(why, |event| event.contains("operation_decided") && event.contains(why)).await?;
    }
    assert_eq!(world.origin.seen(), "");

    // Behind an innocent request: that one is answered first.
    let answer = world
        .raw(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\nGET /no HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        .await?;
    let (first, second) = (answer.find("GET /ok 0 bytes"), answer.find("HTTP/1.1 400 "));
    assert!(first.is_some() && first < second, "{answer}");
    // A body that breaks its framing goes no further, and neither does what stands behind it.
    let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\nx\r\n0\r\n\r\nDELETE /evil HTTP/1.1\r\nHost: a\r\n\r\n";
    world.raw(chunked.as_bytes()).await?;
    let seen = world.origin.seen();
    assert!(!seen.contains("evil") && !seen.contains("/no"), "{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_say_nothing_that_a_header_would_have_decided() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    for (trailer, arrives) in [("X-HTTP-Method-Override: DELETE", false), ("X-Checksum: 7", true)] {
        let name = trailer.split(':').next().unwrap_or_default();
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: {name}\r\nConnection: close\r\n\r\n\
             1\r\nx\r\n0\r\n{trailer}\r\n\r\n"
        );
        world.raw(request.as_bytes()).await?;
        let seen = world.origin.seen().to_ascii_lowercase();
        assert_eq!(seen.contains(&trailer.to_ascii_lowercase()), arrives, "{seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_no_way_around_a_rule() -> Result<()> {
    let world = World::new(Speaks::One).await?;
    for path in [
        "/public/../orders/1",
        "/public/%2e%2e/orders/1",
        "//orders/1",
        "/orders%2f1",
        "/orders;x/1",
        "/a\\..\\b",
    ] {
        let request =
            format!("PUT {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let answer = world.raw(request.as_bytes()).await?;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("\"opaque\""), "{path}: {answer}");
    }
    let request = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-HTTP-Method-Override: DELETE\r\n\r\n";
    assert!(world.raw(request.as_bytes()).await?.contains("\"opaque\""));
    assert_eq!(world.origin.seen(), "");
    Ok(())
}
