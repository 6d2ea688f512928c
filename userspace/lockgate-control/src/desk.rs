//! What every part of the control plane shares: ports, requests, channels, keys. Started and stopped by
//! [`Control`]; its tasks run on the runtime that started it, never on the data plane's.

use crate::{
    api::{refusal::RefusalLog, replay::Replays},
    approvals::{case::Case, registry::Registry},
    link::Links,
    notify::{Channels, event::EventType},
    settings::{self, ControlError, ControlSettings, Integration},
};
use lockgate_model::{
    id::{GroupName, NodeName},
    port::{Ambient, Recorder},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The control plane of one node.
pub struct Control {
    pub(crate) desk: Arc<Desk>,
}

/// What its parts share.
pub(crate) struct Desk {
    pub(crate) node: NodeName,
    pub(crate) links: Links,
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) ambient: Arc<dyn Ambient>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) channels: Channels,
    pub(crate) integrations: Vec<Integration>,
    pub(crate) local_approvers: BTreeMap<u32, Vec<GroupName>>,
    pub(crate) replays: Replays,
    pub(crate) refusals: RefusalLog,
    pub(crate) ready: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) cases: TaskTracker,
    /// Cancelled when no request may be opened any more; those that wait are withdrawn.
    pub(crate) drain: CancellationToken,
}

impl Control {
    /// Starts the control plane on the current runtime.
    ///
    /// # Errors
    /// [`ControlError`] names the configuration key to change.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        settings: ControlSettings,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
    ) -> Result<Arc<Self>, ControlError> {
        settings::check_names(&settings.webhooks)?;
        let base = settings::base_url(&settings)?;
        let integrations = settings::integrations(&settings.webhooks)?;
        if let (None, Some(integration)) = (&base, integrations.first()) {
            return Err(ControlError::NoDecisionUrl(integration.name.clone()));
        }
        let links = Links::new(base, ambient.as_ref());
        let channels = Channels::new(settings.webhooks, recorder.clone(), ambient.clone())?;
        let desk = Arc::new(Desk {
            node: settings.node,
            links,
            recorder,
            ambient,
            registry: Arc::default(),
            channels,
            integrations,
            local_approvers: settings.local_approvers,
            replays: Replays::default(),
            refusals: RefusalLog::default(),
            ready: AtomicBool::new(false),
            runtime: Handle::current(),
            cases: TaskTracker::new(),
            drain: CancellationToken::new(),
        });
        Ok(Arc::new(Self { desk }))
    }

    /// Requests that wait now.
    pub fn pending(&self) -> usize {
        self.desk.registry.pending()
    }

    /// What `/readyz` answers: set it once everything around the control plane works.
    pub fn set_ready(&self, ready: bool) {
        self.desk.ready.store(ready, Ordering::Relaxed);
    }

    /// Sends again to webhooks that were disabled by an HTTP 410; call it when configuration is reloaded.
    pub fn enable_webhooks(&self) {
        self.desk.channels.enable();
    }

    /// Opens nothing more, withdraws (and records) what waits as drained, and gives notifications until
    /// `deadline` from now. What is left then is dropped.
    pub async fn stop(&self, deadline: Duration) {
        let end = tokio::time::Instant::now() + deadline;
        self.desk.drain.cancel();
        self.desk.cases.close();
        if tokio::time::timeout_at(end, self.desk.cases.wait()).await.is_err() {
            tracing::error!(left = self.desk.cases.len(), "requests were not withdrawn within the deadline");
        }
        self.desk.channels.stop(end).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.desk.drain.cancel();
        self.desk.channels.halt();
    }
}

impl Desk {
    /// Queues a message for every channel; never waits.
    pub(crate) fn notify(self: &Arc<Self>, kind: EventType, case: &Arc<Case>) {
        self.channels.queue(self, kind, case);
    }
}
