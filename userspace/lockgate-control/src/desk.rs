//! What every part of the control plane shares: ports, requests, channels, keys. Started and stopped by
//! [`Control`]; its tasks run on the runtime that started it, never on the data plane's.

use crate::{
    api::{refusal::RefusalLog, replay::Replays},
    approvals::{bundle::BundleCase, case::Case, registry::Registry},
    keep::{self, Keep, Lasting},
    link::Links,
    notify::{Channels, channel::About, event::EventType},
    people::People,
    settings::{self, ControlError, ControlSettings, Integration},
};
use lockgate_model::{
    grant::GlassUse,
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
    pub(crate) people: People,
    pub(crate) keep: Keep,
    /// The task that lets time pass for what is no request was started.
    pub(crate) driven: AtomicBool,
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
        Self::start_with(settings, recorder, ambient, &Lasting::default())
    }

    /// The same, going on with what an earlier process left.
    ///
    /// # Errors
    /// [`ControlError`] names the configuration key to change.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_with(
        settings: ControlSettings,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
        lasting: &Lasting,
    ) -> Result<Arc<Self>, ControlError> {
        let people = People::new(settings.people.clone()).map_err(ControlError::TwoPeople)?;
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
            people,
            keep: Keep::new(lasting),
            driven: AtomicBool::new(false),
            replays: Replays::default(),
            refusals: RefusalLog::default(),
            ready: AtomicBool::new(false),
            runtime: Handle::current(),
            cases: TaskTracker::new(),
            drain: CancellationToken::new(),
        });
        keep::restore(&desk, &lasting.left_open);
        if lasting.shelf.is_some() {
            desk.wake();
        }
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
        self.channels.queue(self, kind, About::Case(case.clone()));
    }

    /// Something begins or ends sooner than was known; the first time, somebody starts to look.
    pub(crate) fn wake(self: &Arc<Self>) {
        if !self.driven.swap(true, Ordering::Relaxed) {
            self.cases.spawn_on(keep::drive(self.clone()), &self.runtime);
        }
        self.keep.changed.notify_one();
    }

    /// The same of a bundle.
    pub(crate) fn notify_bundle(self: &Arc<Self>, kind: EventType, bundle: &Arc<BundleCase>) {
        self.channels.queue(self, kind, About::Bundle(bundle.clone()));
    }

    /// Tells every channel that somebody broke the glass, or what became of it.
    pub(crate) fn alert(self: &Arc<Self>, kind: EventType, glass: &GlassUse) {
        self.channels.queue(self, kind, About::Glass(Arc::new(glass.clone())));
    }
}
