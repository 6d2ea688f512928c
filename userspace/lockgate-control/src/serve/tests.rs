use super::*;
use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

fn router() -> Router {
    Router::new()
        .route("/whoami", get(async |peer: PeerCred| format!("{} {}", peer.uid, peer.gid)))
        .route("/ok", get(async || "ok"))
        .route("/echo", post(async |body: String| body))
}

async fn get_over(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: lockgate\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn serve_at(path: &Path) -> (CancellationToken, JoinHandle<()>) {
    let (socket, shutdown) = (UnixSocket::bind(path).unwrap(), CancellationToken::new());
    let served = tokio::spawn(serve_unix(socket, router(), shutdown.clone()));
    (shutdown, served)
}

#[tokio::test]
async fn callers_on_the_socket_are_known_by_the_kernels_word() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/lockgate/api.sock");
    let (shutdown, served) = serve_at(&path);
    let own = std::fs::metadata(dir.path()).unwrap();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let answer = get_over(&mut stream, "/whoami").await;
    assert!(answer.ends_with(&format!("{} {}", own.uid(), own.gid())), "{answer}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o666, 0o755));
    shutdown.cancel();
    served.await.unwrap();
    assert!(!path.exists(), "the socket is removed at the end");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (shutdown, served) = serve_at(&path);
    assert!(matches!(UnixSocket::bind(&path), Err(ServeError::InUse(_))));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(get_over(&mut stream, "/ok").await.ends_with("ok"), "the first one still answers");
    // Somebody else's socket at our path is not ours to remove.
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    shutdown.cancel();
    served.await.unwrap();
    assert!(path.exists());
    drop(other);

    let file = dir.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    assert!(matches!(UnixSocket::bind(&file), Err(ServeError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn one_uid_cannot_take_all_places_and_gets_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (shutdown, served) = serve_at(&path);
    let mut open = Vec::new();
    for _ in 0..UNIX_CONNECTIONS_PER_UID {
        open.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut one_more = UnixStream::connect(&path).await.unwrap();
    let mut nothing = Vec::new();
    one_more.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    drop(open);
    loop {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let head = b"GET /ok HTTP/1.1\r\nhost: lockgate\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        // Refused while the dropped ones are not yet reaped.
        if stream.write_all(head).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.ends_with("ok")
        {
            break;
        }
        tokio::task::yield_now().await;
    }
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn slow_callers_over_tcp_do_not_keep_others_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let served = tokio::spawn(serve_tcp(listener, router(), None, shutdown.clone()));
    let mut slow = Vec::new();
    for number in 0..TCP_CONNECTIONS_MAX + 50 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let half: &[u8] = if number % 2 == 0 { b"GET /ok HT" } else { b"" };
        stream.write_all(half).await.unwrap();
        slow.push(stream);
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(get_over(&mut stream, "/ok").await.ends_with("ok"));
    // The oldest made room.
    let mut nothing = Vec::new();
    let ended = slow[0].read_to_end(&mut nothing).await;
    assert!(ended.is_err() || nothing.is_empty());
    drop(slow);
    shutdown.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn garbage_over_tcp_is_answered_or_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
    let served = tokio::spawn(serve_tcp(listener, router(), None, shutdown.clone()));
    let endless = vec![b'a'; HEADER_MAX + 1_000];
    for garbage in [
        &b"\0\xff\x16\x03\x01"[..],
        b"GET\r\n\r\n",
        b"POST /echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        &endless,
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close while the rest is being written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert!(get_over(&mut stream, "/whoami").await.starts_with("HTTP/1.1 403"), "no uid over TCP");
    shutdown.cancel();
    served.await.unwrap();
}
