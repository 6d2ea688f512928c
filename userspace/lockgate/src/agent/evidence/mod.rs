//! What becomes of the log besides being written: signed heads go off the host, sessions become recordings, what is over
//! its time is removed, traces and logs go to an OTLP receiver.
//!
//! Everything reads what rests, from behind; no record waits for it, but for one rule: while recordings cannot be stored,
//! sessions that must be recorded do not begin ([`gate::Gate`]).

pub(super) mod api;
mod checkpoints;
mod follow;
pub(super) mod gate;
mod otlp;
mod recordings;
mod retention;
mod spans;

use super::Agent;
use crate::config::{EvidenceConfig, ObjectsConfig};
use anyhow::Context as _;
use gate::Blocked;
use lockgate_model::{
    Secret, SecretRef, Timestamp,
    custody::Custody,
    event::{Event, EventKind},
    port::{Durability, Recorder as _},
};
use lockgate_store::{ObjectSettings, Objects};
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;

/// A receiver's answer: what takes longer is tried again.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Everything that goes on, opened.
pub(super) struct Evidence {
    checkpoints: Vec<checkpoints::Sink>,
    recordings: Option<Objects>,
    archive: Option<Objects>,
    otlp: Option<otlp::Receiver>,
    /// Whether sessions that must be recorded may begin.
    pub(super) blocked: Arc<Blocked>,
    state: Mutex<State>,
}

/// How it goes, as `status` shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct State {
    /// Signed heads, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) checkpoints: Vec<checkpoints::Delivered>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recordings: Option<recordings::Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<retention::LastRun>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp: Option<otlp::Exported>,
}

impl Evidence {
    /// Reads secrets and opens stores; what cannot be opened ends the start.
    pub(super) async fn open(config: &EvidenceConfig) -> anyhow::Result<Self> {
        let mut sinks = Vec::new();
        for sink in config.checkpoints.iter().flat_map(|checkpoints| &checkpoints.to) {
            sinks.push(checkpoints::Sink::open(sink).await.context("evidence.checkpoints")?);
        }
        let recordings = match &config.recordings {
            Some(recordings) => Some(objects(&recordings.objects).await.context("evidence.recordings")?),
            None => None,
        };
        let archive = match config.retention.as_ref().and_then(|retention| retention.archive.as_ref()) {
            Some(archive) => Some(objects(archive).await.context("evidence.retention.archive")?),
            None => None,
        };
        let otlp = match &config.otlp {
            Some(otlp) => Some(otlp::Receiver::open(otlp).await.context("telemetry.otlp")?),
            None => None,
        };
        let state = State {
            checkpoints: sinks.iter().map(checkpoints::Sink::nothing_yet).collect(),
            ..State::default()
        };
        let blocked = Arc::default();
        Ok(Self { checkpoints: sinks, recordings, archive, otlp, blocked, state: Mutex::new(state) })
    }

    /// How it goes.
    pub(super) fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Starts what is configured; nothing of the rest.
pub(super) fn start(agent: &Arc<Agent>, tasks: &mut JoinSet<()>) {
    let config = &agent.config.evidence;
    if let Some(checkpoints) = &config.checkpoints {
        for (number, _) in agent.evidence.checkpoints.iter().enumerate() {
            tasks.spawn(checkpoints::deliver(agent.clone(), number, checkpoints.every));
        }
    }
    if agent.evidence.recordings.is_some() {
        tasks.spawn(recordings::store(agent.clone()));
    }
    if let Some(retention) = &config.retention {
        tasks.spawn(retention::follow(agent.clone(), retention.every));
    }
    if agent.evidence.otlp.is_some() {
        tasks.spawn(otlp::export(agent.clone()));
    }
}

/// Opens an object store; nothing is asked of it yet.
pub(crate) async fn objects(config: &ObjectsConfig) -> anyhow::Result<Objects> {
    let settings = ObjectSettings {
        to: config.to.clone(),
        endpoint: config.endpoint.clone(),
        region: config.region.clone(),
        access_key: config.access_key.clone(),
        secret_key: optional(config.secret_key.as_ref()).await?,
        lock_required: config.lock_required,
    };
    Ok(tokio::task::spawn_blocking(move || Objects::open(&settings)).await??)
}

async fn optional(reference: Option<&SecretRef>) -> anyhow::Result<Option<Secret<String>>> {
    match reference {
        Some(reference) => text(reference).await.map(Some),
        None => Ok(None),
    }
}

async fn text(reference: &SecretRef) -> anyhow::Result<Secret<String>> {
    let bytes = lockgate_proxy::credential::resolve(reference).await?;
    let text = std::str::from_utf8(bytes.expose()).context("expected text, got other bytes")?;
    Ok(Secret::new(text.trim().to_owned()))
}

/// Asks receivers over HTTP.
async fn client(ca: Option<&SecretRef>) -> anyhow::Result<reqwest::Client> {
    let mut builder =
        reqwest::Client::builder().timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none());
    if let Some(ca) = ca {
        let pem = super::targets::material(ca).await.context("ca")?;
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.expose())?);
    }
    Ok(builder.build()?)
}

/// Records a step; its number.
async fn record(agent: &Agent, custody: Custody) -> anyhow::Result<u64> {
    let kind = EventKind::Custody(Box::new(custody));
    let event = Event { at: Timestamp::now(), session: None, kind };
    Ok(agent.log.record(vec![event], Durability::Synced).await?.last_seq())
}

/// Records a step that no answer depends on.
fn note(agent: &Agent, custody: Custody) {
    let kind = EventKind::Custody(Box::new(custody));
    agent.log.submit(vec![Event { at: Timestamp::now(), session: None, kind }]);
}
