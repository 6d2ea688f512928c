//! What every part of the control plane shares: ports, requests, channels, keys. Started and stopped by
//! [`Control`]; its tasks run on the runtime that started it, never on the data plane's.

use crate::{
    api::{Bounds, problem::Problem, refusal::RefusalLog, replay::Replays},
    approvals::{bundle::BundleCase, case::Case, registry::Registry},
    auth::Auth,
    feed::Feed,
    house::House,
    keep::{self, Keep, Lasting},
    link::Links,
    notify::{
        Channels,
        alarms::Alarms,
        channel::About,
        event::EventType,
        health::ChannelHealth,
        settings::{ChannelSettings, WebhookSettings},
    },
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
        Arc, OnceLock, Weak,
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
    pub(crate) alarms: Alarms,
    pub(crate) integrations: Vec<Integration>,
    pub(crate) local_approvers: BTreeMap<u32, Vec<GroupName>>,
    pub(crate) people: People,
    pub(crate) auth: Auth,
    pub(crate) keep: Keep,
    /// The task that lets time pass for what is no request was started.
    pub(crate) driven: AtomicBool,
    pub(crate) replays: Replays,
    pub(crate) refusals: RefusalLog,
    pub(crate) ready: AtomicBool,
    pub(crate) runtime: Handle,
    pub(crate) cases: TaskTracker,
    /// The control plane that this is the desk of.
    pub(crate) me: OnceLock<Weak<Control>>,
    /// What it shows and does not own; the binary attaches it.
    pub(crate) house: OnceLock<Arc<dyn House>>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) bounds: Bounds,
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
        Self::start_over(settings, recorder, ambient, lasting, Channels::new)
    }

    /// The same, over channels that `channels` makes.
    pub(crate) fn start_over(
        settings: ControlSettings,
        recorder: Arc<dyn Recorder>,
        ambient: Arc<dyn Ambient>,
        lasting: &Lasting,
        channels: impl FnOnce(
            Vec<WebhookSettings>,
            Vec<ChannelSettings>,
            Arc<dyn Recorder>,
            Arc<dyn Ambient>,
        ) -> Result<Channels, ControlError>,
    ) -> Result<Arc<Self>, ControlError> {
        let people = People::new(settings.people.clone()).map_err(ControlError::TwoPeople)?;
        let (named, also) = (settings.webhooks.iter(), settings.channels.iter());
        let names = named.map(|webhook| webhook.name.as_str()).chain(also.map(ChannelSettings::name));
        settings::check_names(names)?;
        let base = settings::base_url(&settings)?;
        let templated = settings.channels.iter().filter_map(|channel| match channel {
            ChannelSettings::Webhook(webhook) => Some(webhook),
            ChannelSettings::Slack(_) | ChannelSettings::Email(_) => None,
        });
        let integrations = settings::integrations(settings.webhooks.iter().chain(templated))?;
        if let (None, Some(integration)) = (&base, integrations.first()) {
            return Err(ControlError::NoDecisionUrl(integration.name.clone()));
        }
        let auth = Auth::new(settings.login, base.as_deref(), lasting.tokens.clone())?;
        let links = Links::new(base, ambient.as_ref());
        let channels = channels(settings.webhooks, settings.channels, recorder.clone(), ambient.clone())?;
        let keep = Keep::new(lasting, recorder.clone(), ambient.clone());
        let drain = CancellationToken::new();
        let desk = Arc::new(Desk {
            node: settings.node,
            links,
            recorder,
            ambient,
            registry: Arc::default(),
            channels,
            alarms: Alarms::default(),
            integrations,
            local_approvers: settings.local_approvers,
            people,
            auth,
            keep,
            driven: AtomicBool::new(false),
            replays: Replays::default(),
            refusals: RefusalLog::default(),
            ready: AtomicBool::new(false),
            runtime: Handle::current(),
            cases: TaskTracker::new(),
            me: OnceLock::new(),
            house: OnceLock::new(),
            bounds: Bounds::default(),
            feed: Arc::new(Feed::new(Handle::current(), drain.child_token())),
            drain,
        });
        keep::restore(&desk, lasting);
        if lasting.shelf.is_some() {
            desk.wake();
        }
        let control = Arc::new(Self { desk });
        let _ = control.desk.me.set(Arc::downgrade(&control));
        Ok(control)
    }

    /// Hands it what it shows and does not own; to be called once, before it is served.
    pub fn attach_house(&self, house: Arc<dyn House>) {
        self.desk.feed.attach(house.clone());
        let _ = self.desk.house.set(house);
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

    /// How each channel does.
    pub fn channels(&self) -> Vec<ChannelHealth> {
        self.desk.channels.health()
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
    /// The control plane, while it is there.
    pub(crate) fn control(&self) -> Result<Arc<Control>, Problem> {
        let control = self.me.get().and_then(Weak::upgrade);
        control.ok_or_else(|| Problem::unavailable("the agent is stopping"))
    }

    /// What it shows and does not own; None until the binary has attached it.
    pub(crate) fn house(&self) -> Option<&Arc<dyn House>> {
        self.house.get()
    }

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
