//! Talking to an agent: that of this host over its unix socket, where the kernel says who asks; or another over TLS, with an
//! API token.
//!
//! One request a connection, on a runtime of its own without threads: `lockgate run` becomes another program
//! afterwards. The other side must be root's; a socket that a job put in the agent's place is refused.

use super::{Exit, failure, remote::Remote};
use crate::config::Client;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::net::UnixStream;

/// Long enough for a busy agent, short enough for a person at a prompt.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Reading a whole log back takes as long as the log is large.
const SLOW_ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// A unix socket accepts at once or never.
const CONNECT_WITHIN: Duration = Duration::from_millis(700);
/// An agent that restarts is back by then.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(60);
/// Events that are read before somebody takes them.
const EVENTS_AHEAD: usize = 256;
/// Between two tries to go on.
const COME_AGAIN: Duration = Duration::from_millis(500);
/// Streams carry a comment every 15 s; one that is silent for longer is gone.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// The largest record, escaped.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;
/// No listing is larger; a bound against a broken peer.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no agent answers at {}: {cause}; start one with `lockgate agent`, or name its configuration with --config", socket.display())]
    NoAgent { socket: PathBuf, cause: io::Error },
    #[error("the socket {} belongs to uid {uid}, not to root: this is no agent of this host", socket.display())]
    NotRoot { socket: PathBuf, uid: u32 },
    #[error("no agent answers at {url}: {cause}")]
    NoRemote { url: String, cause: String },
    #[error("{detail}")]
    Refused { status: u16, code: String, detail: String },
    #[error("the agent did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("the agent's answer cannot be read: {0}")]
    Broken(String),
}

impl CallError {
    /// True when a verb may go on without an agent.
    pub(crate) fn is_no_agent(&self) -> bool {
        matches!(self, Self::NoAgent { .. })
    }

    /// With the exit code that fits.
    pub(crate) fn into_failure(self) -> anyhow::Error {
        let exit = match &self {
            Self::Refused { status: 401 | 403, .. } => Exit::Denied,
            Self::TimedOut(_) => Exit::TimedOut,
            Self::NoRemote { .. }
            | Self::NoAgent { .. }
            | Self::NotRoot { .. }
            | Self::Refused { .. }
            | Self::Broken(_) => Exit::Failed,
        };
        failure(exit, self.to_string())
    }
}

/// An agent: this host's, or one that is reached over the network.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Socket(PathBuf),
    Remote(Arc<Remote>),
}

impl Agent {
    /// The agent of this host.
    pub(crate) fn of(client: &Client) -> Self {
        Self { place: Place::Socket(client.socket.clone()) }
    }

    /// The agent that `LOCKGATE_URL` names, or that of this host, which its configuration names.
    pub(crate) fn reach(config: &Path) -> anyhow::Result<Self> {
        match Remote::named()? {
            Some(remote) => Ok(Self { place: Place::Remote(Arc::new(remote)) }),
            None => Ok(Self::of(&Client::read(config)?)),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None, &[], ANSWER_WITHIN)
    }

    /// A GET that reads the log back.
    pub(crate) fn get_slow(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None, &[], SLOW_ANSWER_WITHIN)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, Some(body), &[], ANSWER_WITHIN)
    }

    /// A PUT of what was read with this etag.
    pub(crate) fn put(&self, path: &str, body: &Value, etag: &str) -> Result<Value, CallError> {
        let etag = format!("\"{etag}\"");
        self.call(Method::PUT, path, Some(body), &[("if-match", &etag)], ANSWER_WITHIN)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::DELETE, path, None, &[], ANSWER_WITHIN)
    }

    /// Follows an event stream until `take` says that it is enough. Goes on behind the last event when the agent ends a
    /// stream or restarts, for as long as it comes back within [`COMES_BACK_WITHIN`]. Each time that it listens, `take` gets
    /// an event named `listening` first.
    ///
    /// The stream is read on a thread of its own: what `take` does may ask the agent.
    pub(crate) fn follow(
        &self,
        path: &str,
        mut take: impl FnMut(&Happened) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<()> {
        let (told, happened) = sync_channel(EVENTS_AHEAD);
        let (agent, path) = (self.clone(), path.to_owned());
        std::thread::spawn(move || {
            if let Err(error) = agent.listen(&path, &told) {
                let _ = told.send(Err(error));
            }
        });
        for happened in happened {
            if take(&happened.map_err(CallError::into_failure)?)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Tells events for as long as somebody takes them.
    fn listen(&self, path: &str, told: &SyncSender<Result<Happened, CallError>>) -> Result<(), CallError> {
        let runtime = runtime()?;
        let mut last: Option<String> = None;
        let mut away = Instant::now();
        loop {
            let headers: Vec<(&str, &str)> = last.iter().map(|id| ("last-event-id", id.as_str())).collect();
            let request = self.request(Method::GET, path, None, &headers)?;
            let streamed = runtime.block_on(async {
                let heard = |happened: Happened| {
                    last = happened.id.clone().or(last.take());
                    away = Instant::now();
                    told.send(Ok(happened)).is_ok()
                };
                stream(self.connect().await?, request, heard).await
            });
            match streamed {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(error @ (CallError::Refused { .. } | CallError::NotRoot { .. })) => return Err(error),
                Err(error) if away.elapsed() >= COMES_BACK_WITHIN || last.is_none() => return Err(error),
                Err(_) => {}
            }
            std::thread::sleep(COME_AGAIN);
        }
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
        within: Duration,
    ) -> Result<Value, CallError> {
        let request = self.request(method, path, body, headers)?;
        runtime()?.block_on(async {
            let stream = self.connect().await?;
            tokio::time::timeout(within, exchange(stream, request))
                .await
                .map_err(|_| CallError::TimedOut(within))?
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let (host, token, base) = match &self.place {
            Place::Socket(_) => ("lockgate", None, ""),
            Place::Remote(remote) => (remote.authority.as_str(), remote.token.as_ref(), remote.base.as_str()),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{base}{path}"))
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|error| CallError::Broken(error.to_string()))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, CallError> {
        match &self.place {
            Place::Socket(socket) => Ok(Box::new(connect(socket).await?)),
            Place::Remote(remote) => remote.connect().await,
        }
    }
}

/// What bytes move over.
pub(super) trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for T {}

/// One event of a stream.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) name: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

fn runtime() -> Result<tokio::runtime::Runtime, CallError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| CallError::Broken(error.to_string()))
}

async fn connect(socket: &Path) -> Result<UnixStream, CallError> {
    let no_agent = |cause| CallError::NoAgent { socket: socket.to_owned(), cause };
    let stream = tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(socket))
        .await
        .map_err(|_| no_agent(io::ErrorKind::TimedOut.into()))?
        .map_err(no_agent)?;
    // The kernel noted who called listen().
    let uid = stream.peer_cred().map_err(no_agent)?.uid();
    if uid == 0 { Ok(stream) } else { Err(CallError::NotRoot { socket: socket.to_owned(), uid }) }
}

fn broken(error: impl std::fmt::Display) -> CallError {
    CallError::Broken(error.to_string())
}

async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> Result<Value, CallError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let connection = async {
        // Ends with an error when the response is dropped half read; the response says what matters.
        let _ = connection.await;
        std::future::pending::<()>().await
    };
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await.map_err(broken)?.to_bytes();
        read(status, &bytes)
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => Err(CallError::Broken("the connection ended".to_owned())),
    }
}

/// Reads a stream of events; false when nobody takes them any more, true when it ended by itself.
async fn stream(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
    mut take: impl FnMut(Happened) -> bool,
) -> Result<bool, CallError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut connection = std::pin::pin!(connection);
    let reading = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let bytes = Limited::new(body, MAX_EVENT_BYTES).collect().await.map_err(broken)?.to_bytes();
            return read(status, &bytes).map(|_| true);
        }
        if !take(Happened { name: "listening".to_owned(), ..Happened::default() }) {
            return Ok(false);
        }
        let mut events = Events::default();
        while let Some(frame) = tokio::time::timeout(SILENT_FOR, body.frame())
            .await
            .map_err(|_| CallError::TimedOut(SILENT_FOR))?
        {
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            for happened in events.take(&data)? {
                if !take(happened) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    tokio::select! {
        // What was read counts even when the connection has ended meanwhile.
        biased;
        told = reading => told,
        _ = &mut connection => Ok(true),
    }
}

/// Takes a stream apart (WHATWG HTML, 9.2.6), as far as lockgate uses it.
#[derive(Default)]
struct Events {
    buffer: Vec<u8>,
    next: Happened,
}

impl Events {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Happened>, CallError> {
        self.buffer.extend_from_slice(bytes);
        let mut happened = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let next = std::mem::take(&mut self.next);
                if !next.data.is_empty() {
                    happened.push(next);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => self.next.name = value.to_owned(),
                "id" => self.next.id = Some(value.to_owned()),
                "data" => {
                    if !self.next.data.is_empty() {
                        self.next.data.push('\n');
                    }
                    self.next.data.push_str(value);
                }
                _ => {}
            }
        }
        if self.buffer.len() + self.next.data.len() > MAX_EVENT_BYTES {
            return Err(CallError::Broken(format!("an event is longer than {MAX_EVENT_BYTES} bytes")));
        }
        Ok(happened)
    }
}

/// JSON, or problem+json (RFC 9457) when the status says so.
fn read(status: StatusCode, bytes: &[u8]) -> Result<Value, CallError> {
    if status.is_success() {
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        return serde_json::from_slice(bytes).map_err(|error| CallError::Broken(error.to_string()));
    }
    let problem: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let field = |name: &str| problem[name].as_str().map(str::to_owned);
    let detail =
        field("detail").or_else(|| field("title")).unwrap_or_else(|| format!("the agent answered {status}"));
    Err(CallError::Refused { status: status.as_u16(), code: field("code").unwrap_or_default(), detail })
}

/// A URL's query from the fields of an object; nested ones have no place in it.
pub(crate) fn query(fields: &Value) -> String {
    let pair = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={}", percent(&text))
    };
    fields.as_object().into_iter().flatten().map(pair).collect::<Vec<_>>().join("&")
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(
            query(&json!({ "limit": 5, "principal": "a&b c/ä", "open": true })),
            "limit=5&open=true&principal=a%26b%20c%2F%C3%A4"
        );
        assert_eq!(query(&json!({})), "");
    }

    #[test]
    fn events_are_read_in_whatever_pieces_they_come() {
        let text = ": listening\nretry: 1000\n\nevent: vote_cast\nid: 7\ndata: {\"a\":\ndata: 1}\n\nid: 8\ndata: x\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                all.extend(events.take(piece).unwrap());
            }
            let seen: Vec<_> =
                all.iter().map(|it| (it.name.as_str(), it.id.as_deref(), it.data.as_str())).collect();
            assert_eq!(seen, [("vote_cast", Some("7"), "{\"a\":\n1}"), ("", Some("8"), "x")], "{size}");
        }
        let mut events = Events::default();
        assert!(events.take(&vec![b'x'; MAX_EVENT_BYTES + 1]).is_err());
    }

    #[test]
    fn refusals_carry_the_problem_s_words() {
        let refused = read(
            StatusCode::FORBIDDEN,
            br#"{"code": "requester", "detail": "nobody decides on their own request"}"#,
        );
        let Err(CallError::Refused { status: 403, code, detail }) = refused else { panic!("{refused:?}") };
        assert_eq!((code.as_str(), detail.as_str()), ("requester", "nobody decides on their own request"));
        assert!(matches!(
            read(StatusCode::BAD_GATEWAY, b"<html>"),
            Err(CallError::Refused { status: 502, .. })
        ));
        assert!(matches!(read(StatusCode::NO_CONTENT, b""), Ok(Value::Null)));
        assert!(matches!(read(StatusCode::OK, b"{"), Err(CallError::Broken(_))));
    }
}
