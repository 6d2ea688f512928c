//! Removes what is over its time, on a schedule or when told: hashes are kept, the removal is recorded and signed, then the
//! segments go, to the archive first where one is configured.

use super::{Agent, record};
use anyhow::{Context as _, bail};
use lockgate_model::{Timestamp, custody::Custody};
use lockgate_store::Plan;
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// A head follows a record within a second or two.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the last run did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LastRun {
    pub(crate) at: Timestamp,
    /// Records that were removed.
    pub(crate) removed: u64,
    /// Segments that were over their time and stay, and why.
    pub(crate) kept: std::collections::BTreeMap<u64, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Runs on a schedule. Ends with the agent.
pub(super) async fn follow(agent: Arc<Agent>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if let Err(error) = run(&agent, "schedule").await {
            tracing::error!(error = format!("{error:#}"), "retention: nothing more is removed in this run");
        }
    }
}

/// What would be removed now.
pub(super) async fn plan(agent: &Arc<Agent>) -> anyhow::Result<Plan> {
    let retention = agent.config.evidence.retention.as_ref();
    let keep = retention.context("nothing is removed: set evidence.retention.keep")?.keep;
    let log = agent.log.clone();
    Ok(tokio::task::spawn_blocking(move || log.retention(keep, Timestamp::now())).await??)
}

/// Removes what is over its time; the numbers of records removed.
pub(super) async fn run(agent: &Arc<Agent>, by: &str) -> anyhow::Result<LastRun> {
    let result = remove(agent, by).await;
    let last = match &result {
        Ok(last) => last.clone(),
        Err(error) => LastRun {
            at: Timestamp::now(),
            removed: 0,
            kept: std::collections::BTreeMap::new(),
            error: Some(format!("{error:#}")),
        },
    };
    metrics::gauge!(super::super::telemetry::RETENTION_FAILED).set(f64::from(u8::from(last.error.is_some())));
    agent.evidence.change(|state| state.retention = Some(last));
    result
}

async fn remove(agent: &Arc<Agent>, by: &str) -> anyhow::Result<LastRun> {
    let plan = plan(agent).await?;
    let (log, who) = (agent.log.clone(), by.to_owned());
    let prepared = plan.clone();
    let removals = tokio::task::spawn_blocking(move || log.prepare_removal(&prepared, &who)).await??;
    let mut removed = 0;
    for mut removal in removals {
        if let Some(archive) = &agent.evidence.archive {
            for segment in &removal.segments {
                let name =
                    format!("{:020}-{}.jsonl", segment.first, segment.sha256.get(..16).unwrap_or_default());
                let name = archive.name(&["segments", agent.config.node.as_str(), &name]);
                archive
                    .put_file(&name, &agent.log.segment_path(segment.first))
                    .await
                    .context("evidence.retention.archive")?;
            }
            removal.archive = Some(archive.to().to_owned());
        }
        let announced = record(agent, Custody::Removed(removal.clone())).await?;
        let began = std::time::Instant::now();
        loop {
            let (log, removal) = (agent.log.clone(), removal.clone());
            match tokio::task::spawn_blocking(move || log.remove(&removal, announced)).await? {
                Ok(()) => break,
                Err(error) if began.elapsed() > SIGNED_WITHIN => bail!(error),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        tracing::info!(
            from = removal.from,
            to = removal.to,
            policy = removal.policy,
            "records were removed; their hashes stay"
        );
        removed += removal.to - removal.from + 1;
    }
    Ok(LastRun { at: Timestamp::now(), removed, kept: plan.kept, error: None })
}
