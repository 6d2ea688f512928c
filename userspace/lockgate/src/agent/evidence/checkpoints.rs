//! Signed heads, sent off the host on a schedule: whoever takes over this host cannot cut or rewrite then what was signed
//! before. `lockgate audit verify --checkpoints FILE` compares.

use super::{Agent, note, objects, text};
use crate::config::CheckpointSink;
use anyhow::{Context as _, bail};
use lockgate_audit::Checkpoint;
use lockgate_control::notify::signing::{SigningKeys, Use};
use lockgate_model::{Timestamp, custody::Custody};
use lockgate_store::Objects;
use serde::Serialize;
use serde_json::json;
use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// After a place did not take a head, when it is tried again: soon, then less often.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// An alarm is raised when so many heads in a row did not arrive.
const LATE_AFTER: u32 = 3;
/// Notes in an appended file end like this, as in the store's own history.
const NOTE_END: &str = "\n\n";

/// Where a head goes.
pub(super) enum Sink {
    File(PathBuf),
    Url { url: String, client: reqwest::Client, keys: Box<SigningKeys> },
    Objects(Objects),
}

/// How it goes with one place.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Delivered {
    /// As the configuration names it.
    pub(crate) to: String,
    /// How many records the last head covers that arrived.
    pub(crate) size: u64,
    /// When it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Timestamp>,
    /// Since when nothing arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failing_since: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// True when that is so for longer than three times the schedule: an alarm.
    pub(crate) late: bool,
}

impl Sink {
    pub(super) async fn open(config: &CheckpointSink) -> anyhow::Result<Self> {
        Ok(match config {
            CheckpointSink::File(path) => Self::File(path.clone()),
            CheckpointSink::Url { url, secret, ca } => Self::Url {
                url: url.clone(),
                client: super::client(ca.as_ref()).await?,
                keys: Box::new(SigningKeys::parse(&text(secret).await?, Use::Sign)?),
            },
            CheckpointSink::Objects(config) => Self::Objects(objects(config).await?),
        })
    }

    pub(super) fn nothing_yet(&self) -> Delivered {
        Delivered { to: self.to(), ..Delivered::default() }
    }

    fn to(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url { url, .. } => url.clone(),
            Self::Objects(objects) => objects.to().to_owned(),
        }
    }

    async fn send(&self, node: &str, size: u64, note: &str) -> anyhow::Result<()> {
        match self {
            Self::File(path) => {
                let (path, note) = (path.clone(), note.to_owned());
                tokio::task::spawn_blocking(move || append(&path, &note)).await?
            }
            Self::Url { url, client, keys } => post(url, client, keys, node, size, note).await,
            Self::Objects(objects) => {
                let name = objects.name(&["checkpoints", node, &format!("{size:020}")]);
                Ok(objects.put(&name, note.as_bytes().to_vec()).await?)
            }
        }
    }
}

/// One line after another, each note whole and synced. A link in the place of the file is not followed.
fn append(path: &Path, note: &str) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    file.write_all(format!("{note}{NOTE_END}").as_bytes())?;
    Ok(file.sync_data()?)
}

async fn post(
    url: &str,
    client: &reqwest::Client,
    keys: &SigningKeys,
    node: &str,
    size: u64,
    note: &str,
) -> anyhow::Result<()> {
    let now = Timestamp::now();
    // The same head again is the same message: a receiver takes it once.
    let id = format!("checkpoint-{node}-{size}");
    let body = serde_json::to_vec(&json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("lockgate/{node}"),
        "type": "lockgate.audit.checkpoint",
        "time": now,
        "datacontenttype": "application/json",
        "data": { "node": node, "size": size, "checkpoint": note },
    }))?;
    let timestamp = now.as_second().to_string();
    let answer = client
        .post(url)
        .header("content-type", "application/cloudevents+json")
        .header("webhook-id", &id)
        .header("webhook-timestamp", &timestamp)
        .header("webhook-signature", keys.sign(&id, &timestamp, &body))
        .body(body)
        .send()
        .await?;
    // It has this one.
    let taken = answer.status().is_success() || answer.status() == reqwest::StatusCode::CONFLICT;
    if taken { Ok(()) } else { bail!("answered {}", answer.status()) }
}

/// Sends the newest head, again and again, to one place. Ends with the agent.
pub(super) async fn deliver(agent: Arc<Agent>, number: usize, every: Duration) {
    let Some(sink) = agent.evidence.checkpoints.get(number) else { return };
    let (mut sent, mut failures) = (0, 0_u32);
    let mut reported = false;
    loop {
        let failed = match newest(&agent).await {
            Ok((size, note)) if size != sent => {
                let result = sink.send(agent.config.node.as_str(), size, &note).await;
                if result.is_ok() {
                    sent = size;
                }
                Some(result)
            }
            // Nothing was written since: what arrived is the newest.
            Ok(_) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        let error = failed.and_then(Result::err).map(|error| format!("{error:#}"));
        failures = if error.is_some() { failures.saturating_add(1) } else { 0 };
        let late = show(&agent, number, sent, error.as_deref(), every);
        match (late, error) {
            (true, Some(error)) if !reported => {
                reported = true;
                tracing::error!(to = sink.to(), error, "signed heads do not arrive off the host");
                let since = agent.evidence.state().checkpoints.get(number).and_then(|delivered| delivered.at);
                note(&agent, Custody::CheckpointsLate { to: sink.to(), since, error });
            }
            (false, None) if reported => {
                reported = false;
                note(&agent, Custody::CheckpointsResumed { to: sink.to() });
            }
            _ => {}
        }
        let retry = RETRY.0.saturating_mul(1 << failures.min(6)).min(RETRY.1).min(every);
        tokio::time::sleep(if failures == 0 { every } else { retry }).await;
    }
}

async fn newest(agent: &Arc<Agent>) -> anyhow::Result<(u64, String)> {
    let log = agent.log.clone();
    let note = tokio::task::spawn_blocking(move || log.reader().checkpoint()).await??;
    Ok((Checkpoint::covers(&note)?, note))
}

/// Shows how it went; true when it is late.
fn show(agent: &Agent, number: usize, size: u64, error: Option<&str>, every: Duration) -> bool {
    let now = Timestamp::now();
    let mut late = false;
    agent.evidence.change(|state| {
        let Some(delivered) = state.checkpoints.get_mut(number) else { return };
        match error {
            None => {
                *delivered = Delivered {
                    to: std::mem::take(&mut delivered.to),
                    size,
                    at: Some(now),
                    ..Delivered::default()
                };
            }
            Some(error) => {
                let since = *delivered.failing_since.get_or_insert(now);
                delivered.error = Some(error.to_owned());
                delivered.late = since + every * LATE_AFTER <= now;
                late = delivered.late;
            }
        }
        // One that never arrived is as old as its first try.
        let age = delivered.at.or(delivered.failing_since);
        let age = age.map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        metrics::gauge!(super::super::telemetry::CHECKPOINT_AGE, "to" => number.to_string()).set(age);
        metrics::gauge!(super::super::telemetry::CHECKPOINT_LATE, "to" => number.to_string())
            .set(f64::from(u8::from(late)));
    });
    late
}
