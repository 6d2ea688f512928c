//! Traces and logs by OTLP, http/protobuf (<https://opentelemetry.io/docs/specs/otlp/>): batched, off the way of everything
//! else. What a receiver does not take for long is dropped and counted; nobody waits.
//!
//! The messages are those of opentelemetry-proto 1.x, the fields that are used: the whole client library would bring its
//! own batching, clock and threads for a dozen structs.

use super::{Agent, follow, optional, spans::Tracer};
use crate::config::OtlpConfig;
use lockgate_model::{Secret, Timestamp};
use prost::Message;
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// Spans, or log records, in one request at most.
const BATCH: usize = 512;
/// How long they are gathered.
const GATHER: Duration = Duration::from_secs(2);
/// How often a batch is tried, and the pause between: the log is read on meanwhile, up to the bound of the reader.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// Where they go.
pub(super) struct Receiver {
    endpoint: String,
    client: reqwest::Client,
    authorization: Option<Secret<String>>,
    sample: f64,
}

/// How it goes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Exported {
    pub(crate) to: String,
    /// Spans and log records that the receiver took.
    pub(crate) sent: u64,
    /// Those that were given up.
    pub(crate) dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Receiver {
    pub(super) async fn open(config: &OtlpConfig) -> anyhow::Result<Self> {
        Ok(Self {
            endpoint: config.endpoint.clone(),
            client: super::client(config.ca.as_ref()).await?,
            authorization: optional(config.authorization.as_ref()).await?,
            sample: config.sample,
        })
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Result<(), String> {
        let mut error = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * attempt).await;
            }
            let mut request = self
                .client
                .post(format!("{}{path}", self.endpoint))
                .header("content-type", "application/x-protobuf")
                .body(body.clone());
            if let Some(authorization) = &self.authorization {
                request = request.header("authorization", authorization.expose());
            }
            match request.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => error = format!("answered {}", answer.status()),
                Err(failed) => error = failed.without_url().to_string(),
            }
        }
        Err(error)
    }
}

/// Follows the log from its end on. Ends with the agent.
pub(super) async fn export(agent: Arc<Agent>) {
    let Some(receiver) = &agent.evidence.otlp else { return };
    let log = agent.log.clone();
    let last = tokio::task::spawn_blocking(move || {
        lockgate_audit::Checkpoint::covers(&log.reader().checkpoint()?)
            .map_err(|error| lockgate_store::StoreError::NotProven(error.to_string()))
    });
    let from = last.await.ok().and_then(Result::ok).map_or(1, |size| size + 1);
    let mut records = match follow::records(agent.log.clone(), from) {
        Ok(records) => records,
        Err(error) => return tracing::error!(%error, "no traces: no thread to read the log with"),
    };
    agent.evidence.change(|state| {
        state.otlp = Some(Exported { to: receiver.endpoint.clone(), ..Exported::default() });
    });
    let resource = Resource {
        attributes: vec![
            text("service.name", "lockgate"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("host.name", agent.config.node.as_str()),
        ],
    };
    let mut tracer = Tracer::new(receiver.sample);
    loop {
        let Some(first) = records.recv().await else { return };
        tracer.record(&first);
        let until = tokio::time::Instant::now() + GATHER;
        while tracer.spans.len() < BATCH && tracer.logs.len() < BATCH {
            match tokio::time::timeout_at(until, records.recv()).await {
                Ok(Some(record)) => tracer.record(&record),
                Ok(None) | Err(_) => break,
            }
        }
        flush(&agent, receiver, &resource, &mut tracer).await;
    }
}

async fn flush(agent: &Agent, receiver: &Receiver, resource: &Resource, tracer: &mut Tracer) {
    let scope = Scope { name: "lockgate".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let (spans, logs) = (std::mem::take(&mut tracer.spans), std::mem::take(&mut tracer.logs));
    let mut lost = std::mem::take(&mut tracer.lost);
    let (mut sent, mut error) = (0, None);
    let mut outcome = |count: usize, result: Result<(), String>| match result {
        Ok(()) => sent += count as u64,
        Err(failed) => {
            lost += count as u64;
            error = Some(failed);
        }
    };
    if !spans.is_empty() {
        let count = spans.len();
        let scope_spans = vec![ScopeSpans { scope: Some(scope.clone()), spans }];
        let traces =
            Traces { resource_spans: vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }] };
        outcome(count, receiver.send("/v1/traces", traces.encode_to_vec()).await);
    }
    if !logs.is_empty() {
        let count = logs.len();
        let scope_logs = vec![ScopeLogs { scope: Some(scope), log_records: logs }];
        let logs =
            Logs { resource_logs: vec![ResourceLogs { resource: Some(resource.clone()), scope_logs }] };
        outcome(count, receiver.send("/v1/logs", logs.encode_to_vec()).await);
    }
    if lost > 0 {
        metrics::counter!("lockgate_events_dropped_total", "stage" => "otlp").increment(lost);
    }
    if let Some(error) = &error {
        tracing::warn!(error, lost, "the OTLP receiver does not take traces or logs; they are given up");
    }
    agent.evidence.change(|state| {
        let exported = state.otlp.get_or_insert_default();
        exported.sent += sent;
        exported.dropped += lost;
        exported.error = error;
    });
}

/// Nanoseconds since 1970, as OTLP counts.
pub(super) fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::String(value.to_owned())) }) }
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::Int(value)) }) }
}

// opentelemetry/proto/{collector/trace,collector/logs,trace,logs,common,resource}/v1: names and numbers of fields.

#[derive(Clone, PartialEq, Message)]
struct Traces {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Logs {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// A span.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
}

/// How a span ended.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

/// A log record.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    pub(super) severity_number: i32,
    #[prost(string, tag = "3")]
    pub(super) severity_text: String,
    #[prost(message, optional, tag = "5")]
    pub(super) body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub(super) span_id: Vec<u8>,
    #[prost(string, tag = "12")]
    pub(super) event_name: String,
}

/// An attribute.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

/// Its value.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    pub(super) value: Option<Value>,
}

/// The kinds that are used.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Value {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(int64, tag = "3")]
    Int(i64),
}
