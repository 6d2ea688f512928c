//! The node's log on its way to the store that nodes share.

use super::Agent;
use crate::config::{Config, SharedStore};
use anyhow::Context as _;
use lockgate_model::{Secret, SecretRef, port::Recorder};
use lockgate_store::{
    Log,
    postgres::{Drain, DrainSettings, DrainStatus, PostgresSettings},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What is left at the end goes with the next start; a server that answers takes it in less.
const LAST_RECORDS_WITHIN: Duration = Duration::from_secs(3);

/// A running drain.
pub(super) struct Sharing(Mutex<Drain>);

impl Sharing {
    pub(super) fn status(&self) -> DrainStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status()
    }
}

/// Starts it where it is configured, and gives what is to be recorded to: the log, with the spool's bound before it.
pub(super) async fn drain(
    config: &Config,
    log: &Arc<Log>,
) -> anyhow::Result<(Option<Sharing>, Arc<dyn Recorder>)> {
    let Some(shared) = &config.store.shared else { return Ok((None, log.clone())) };
    let place = settings(shared).await.context("store")?;
    let settings = DrainSettings { place, node: config.node.clone(), spool_bytes: shared.spool_bytes };
    let drain = Drain::start(log, settings).context("store")?;
    let spooled: Arc<dyn Recorder> = Arc::new(drain.before(log.clone()));
    Ok((Some(Sharing(Mutex::new(drain))), spooled))
}

/// The last records, behind the closed log. Blocks.
pub(super) fn finish(agent: &Agent) {
    let Some(Sharing(drain)) = &agent.drain else { return };
    let mut drain = drain.lock().unwrap_or_else(PoisonError::into_inner);
    if !drain.stop(LAST_RECORDS_WITHIN) {
        let waiting = drain.status().waiting_bytes;
        tracing::warn!(waiting, "records wait in the spool for the next start");
    }
}

/// The database, with the secrets that the configuration refers to.
pub(crate) async fn settings(shared: &SharedStore) -> anyhow::Result<PostgresSettings> {
    let password = read(shared.password.as_ref()).await.context("store_password")?;
    let ca = read(shared.ca.as_ref()).await.context("store_ca")?;
    let settings = PostgresSettings::parse(&shared.url)?;
    Ok(settings.password(password).ca(ca.map(|ca| ca.expose().clone())))
}

async fn read(reference: Option<&SecretRef>) -> anyhow::Result<Option<Secret<String>>> {
    let Some(reference) = reference else { return Ok(None) };
    let bytes = lockgate_proxy::credential::resolve(reference).await?;
    let text = std::str::from_utf8(bytes.expose()).context("expected text, got other bytes")?;
    Ok(Some(Secret::new(text.to_owned())))
}
