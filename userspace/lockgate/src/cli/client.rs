//! Talking to the agent of this host: HTTP over its unix socket, where the kernel says who asks.
//!
//! One request a connection, on a runtime of its own without threads: `lockgate run` becomes another program
//! afterwards. The other side must be root's; a socket that a job put in the agent's place is refused.

use super::{Exit, failure};
use crate::config::Client;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// Long enough for a busy agent, short enough for a person at a prompt.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Reading a whole log back takes as long as the log is large.
const SLOW_ANSWER_WITHIN: Duration = Duration::from_secs(600);
/// A unix socket accepts at once or never.
const CONNECT_WITHIN: Duration = Duration::from_millis(700);
/// No listing is larger; a bound against a broken peer.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no agent answers at {}: {cause}; start one with `lockgate agent`, or name its configuration with --config", socket.display())]
    NoAgent { socket: PathBuf, cause: io::Error },
    #[error("the socket {} belongs to uid {uid}, not to root: this is no agent of this host", socket.display())]
    NotRoot { socket: PathBuf, uid: u32 },
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
            Self::NoAgent { .. } | Self::NotRoot { .. } | Self::Refused { .. } | Self::Broken(_) => {
                Exit::Failed
            }
        };
        failure(exit, self.to_string())
    }
}

/// The agent behind a socket.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
}

impl Agent {
    pub(crate) fn of(client: &Client) -> Self {
        Self { socket: client.socket.clone() }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None, ANSWER_WITHIN)
    }

    /// A GET that reads the log back.
    pub(crate) fn get_slow(&self, path: &str) -> Result<Value, CallError> {
        self.call(Method::GET, path, None, SLOW_ANSWER_WITHIN)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
        self.call(Method::POST, path, Some(body), ANSWER_WITHIN)
    }

    fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        within: Duration,
    ) -> Result<Value, CallError> {
        let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "lockgate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.map(Value::to_string).unwrap_or_default())))
            .map_err(|error| broken(&error))?;
        runtime.block_on(async {
            let stream = connect(&self.socket).await?;
            tokio::time::timeout(within, exchange(stream, request))
                .await
                .map_err(|_| CallError::TimedOut(within))?
        })
    }
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

async fn exchange(stream: UnixStream, request: Request<Full<Bytes>>) -> Result<Value, CallError> {
    let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let connection = async {
        // Ends with an error when the response is dropped half read; the response says what matters.
        let _ = connection.await;
        std::future::pending::<()>().await
    };
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
        read(status, &bytes)
    };
    tokio::select! {
        answer = answer => answer,
        () = connection => Err(CallError::Broken("the connection ended".to_owned())),
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
