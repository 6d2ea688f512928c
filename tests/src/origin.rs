//! An HTTP origin that keeps every byte it gets: what a held or refused request sent upstream can be told from it.
//!
//! hyper serves; the answers are fixed by path. It stands in for a company's service; nginx is tested beside it.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpListener,
    task::JoinHandle,
};

/// Which HTTP it speaks without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1
    One,
    /// HTTP/2 with prior knowledge, or by ALPN.
    Two,
}

/// A running origin. Ends with its guard.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Origin {
    /// Listens on a free loopback port; with TLS when it gets a certificate and a key (PEM).
    pub async fn start(speaks: Speaks, tls: Option<(&str, &str)>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let seen: Arc<Mutex<Vec<u8>>> = Arc::default();
        let acceptor = tls.map(|(certificate, key)| acceptor(certificate, key, speaks)).transpose()?;
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, acceptor) = (kept.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(Kept { inner: stream, seen: kept }, speaks).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(Kept { inner: stream, seen: kept }, speaks).await;
                            }
                        }
                    }
                });
            }
        });
        Ok(Self { addr, seen, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Everything that came in so far, whatever the connection.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(certificate: &str, key: &str, speaks: Speaks) -> Result<tokio_rustls::TlsAcceptor> {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = match speaks {
        Speaks::One => vec![b"http/1.1".to_vec()],
        Speaks::Two => vec![b"h2".to_vec()],
    };
    Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, speaks: Speaks) {
    let io = TokioIo::new(stream);
    // A client that goes away is no fault of the test's.
    let _ = match speaks {
        Speaks::One => {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service_fn(answer))
                .with_upgrades()
                .await
        }
        Speaks::Two => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(io, service_fn(answer))
                .await
        }
    };
}

type Body = BoxBody<Bytes, Infallible>;

fn body(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))).boxed()
}

fn text(text: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(text.into()).boxed()
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let typed = |kind: &'static str, body: Body| {
        let mut answer = Response::new(body);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"raw\""));
        answer
    };
    let customer = r#"{"id": 7, "ssn": "123-45-6789", "note": "mail ana@example.com", "items": [{"card": "4111111111111111"}]}"#;
    Ok(match path.as_str() {
        "/customers/7" => typed("application/json", text(customer)),
        "/packed/7" => {
            // gzip, stored without compression by hand: the test needs no encoder.
            let mut answer = typed("application/json", text(gzip(customer.as_bytes())));
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            answer
        }
        "/binary" => typed("application/octet-stream", text(customer)),
        "/events" => {
            let frames = (0..3).map(|n| Frame::data(Bytes::from(format!("data: {n} ana@example.com\n\n"))));
            typed("text/event-stream", body(frames.collect()))
        }
        "/grpc.Echo/Say" => {
            let got = request.body_mut().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let mut trailers = hyper::HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            typed("application/grpc", body(vec![Frame::data(got), Frame::trailers(trailers)]))
        }
        "/socket" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let mut stream = TokioIo::new(upgraded);
                let mut buffer = [0; 1024];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
            let mut answer = Response::new(text(""));
            *answer.status_mut() = hyper::StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
            answer.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            answer
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            typed("text/plain", text("slow\n"))
        }
        _ => {
            let line = format!("{} {}", request.method(), request.uri().path());
            let got = request.body_mut().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            typed("text/plain", text(format!("{line} {} bytes\n", got.len())))
        }
    })
}

/// gzip with stored blocks (RFC 1951 §3.2.4, RFC 1952).
fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = u16::try_from(plain.len()).unwrap_or(u16::MAX);
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend_from_slice(plain);
    let mut crc = u32::MAX;
    for byte in plain {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    out.extend((!crc).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

/// Keeps what is read.
struct Kept<S> {
    inner: S,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Kept<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        let new = out.filled().get(before..).unwrap_or_default();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Kept<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
