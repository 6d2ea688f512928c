//! Bringing the agent up, in the order in which each part may fail closed.
//!
//! Nothing here serves: when this returns, everything is open, bound and attached, and the hooks redirect to
//! listeners whose backlog waits.

use super::{
    Agent,
    ambient::System,
    login,
    names::Names,
    policy::Policy,
    targets::{self, Targets},
};
use crate::config::{Config, ConfigError, Webhook};
use anyhow::{Context as _, bail};
use lockgate_control::{Control, ControlSettings, Lasting, UnixSocket, WebhookSettings};
use lockgate_intercept::{InterceptError, Interceptor, Settings, keeper};
use lockgate_model::{
    Secret, SecretRef, Timestamp,
    id::TargetName,
    port::{Ambient, Recorder, Shelf as _},
};
use lockgate_proxy::{Lanes, Limits, Ports, Proxy, ProxySettings};
use lockgate_store::{Log, LogSettings, Shelf};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicU64},
};
use tokio::{net::TcpListener, sync::Notify};

/// Where the API is served, bound but not served yet.
pub(super) struct Listeners {
    pub(super) tcp: Option<TcpListener>,
    pub(super) unix: UnixSocket,
    /// Of targets, for those who dial lockgate itself.
    pub(super) explicit: Vec<(TargetName, std::net::TcpListener)>,
}

/// Brings everything up, in the order in which each part may fail closed.
pub(super) async fn start(config: Config, lanes: Lanes) -> anyhow::Result<(Arc<Agent>, Listeners)> {
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let ambient: Arc<dyn Ambient> = Arc::new(System);
    let policy = load_policy(&config).await?;
    let mut names = Names::of(&config.targets);
    let (_, failed) = names.look_up().await;
    if let Some((name, why)) = failed.first() {
        bail!("targets: {name} cannot be looked up ({why}); it cannot be protected without an address");
    }
    let shelf = Shelf::open(&config.store.dir).context("store: the shelf")?;
    let log = open_log(&config, &shelf, ambient.clone())?;
    let recorder: Arc<dyn Recorder> = log.clone();
    let targets = Targets::prepare(&config).await?;

    let tcp = match config.api.listen {
        Some(listen) => {
            Some(TcpListener::bind(listen).await.with_context(|| format!("api.listen: {listen}"))?)
        }
        None => None,
    };
    let explicit = super::callers::listeners(&config)?;
    let listen = tcp.as_ref().map(TcpListener::local_addr).transpose()?;
    let lasting = Lasting {
        shelf: Some(Arc::new(shelf)),
        left_open: log.left_open().clone(),
        policy: Some(policy.in_force.clone()),
        logins: Some(login::fresh),
    };
    let settings = control_settings(&config, listen).await?;
    let control = Control::start_with(settings, recorder.clone(), ambient.clone(), &lasting)?;
    let unix = UnixSocket::bind(&config.api.socket).context("api.socket")?;

    // From here on this process is in a cgroup of its own, and its connections are never redirected.
    let settings = Settings {
        instance: config.instance.clone(),
        governed: targets::governed(&config, &names),
        targets: targets::nets(&config.targets, &names),
        run_cgroup: Some(config.run_cgroup.clone()),
        names: targets::named(&config.targets),
        ..Settings::default()
    };
    let keeper = config.store.keeper();
    let interceptor = tokio::task::spawn_blocking(move || attach(settings, &keeper)).await??;
    super::capture::guard_only(&interceptor, &config.guarded)?;
    interceptor.guard_namespaces(config.guard_pods);
    let interceptor = Arc::new(interceptor);
    // After attaching: this process's own questions must not be redirected.
    let jobs = Shelf::open(&config.store.dir.join("identity")).context("store: the shelf of CI jobs")?;
    let confirmer =
        super::identity::confirmer(config.identity.as_ref(), ambient.clone(), Arc::new(jobs)).await?;
    let ports = Ports {
        recorder,
        approvals: control.clone(),
        attributor: interceptor.clone(),
        confirmer: confirmer.clone(),
        ambient,
        policy: policy.in_force.clone(),
        mask_keys: policy.mask_keys.clone(),
    };
    let proxy = Proxy::on(
        lanes,
        ProxySettings {
            node: config.node.clone(),
            targets: targets.settings(&config, &names),
            limits: Limits::default(),
        },
        ports,
    );
    let before = interceptor.counters();
    let agent = Arc::new(Agent {
        config,
        log,
        policy,
        control,
        interceptor,
        proxy,
        targets,
        names: Mutex::new(names),
        confirmer,
        observed: Mutex::new(super::observe::Tally::new(Timestamp::now())),
        listen,
        started_at: Timestamp::now(),
        reload: Notify::new(),
        before,
        not_governed: AtomicU64::new(0),
    });
    Ok((agent, Listeners { tcp, unix, explicit }))
}

/// With the listeners that the last agent left with its keeper. The keeper goes once the hooks are in force: should
/// this agent fail before, the next one may still take them.
fn attach(settings: Settings, keeper: &std::path::Path) -> Result<Interceptor, InterceptError> {
    let mut kept = keeper::take(keeper);
    let listeners = std::mem::take(&mut kept.listeners);
    if !listeners.is_empty() {
        tracing::info!(listeners = listeners.len(), "the last agent's listeners were kept open");
    }
    let interceptor = Interceptor::take_over(settings, listeners)?;
    kept.done();
    Ok(interceptor)
}

async fn load_policy(config: &Config) -> anyhow::Result<Policy> {
    let base = config.path.parent().map(std::path::Path::to_owned).unwrap_or_default();
    let base = std::path::absolute(&base).unwrap_or(base);
    let invalid = |diagnostics| ConfigError::Invalid { text: None, diagnostics };
    let policy = Policy::load(config.policies.clone(), base).await.map_err(invalid)?;
    let unknown = config.unknown_groups(policy.in_force.load().groups());
    if !unknown.is_empty() {
        return Err(invalid(unknown).into());
    }
    let unreachable = policy.in_force.load().unreachable_groups(&config.spoken_for());
    for warning in policy.status().warnings.into_iter().chain(unreachable.iter().map(ToString::to_string)) {
        tracing::warn!(warning, "policy");
    }
    Ok(policy)
}

fn open_log(config: &Config, shelf: &Shelf, ambient: Arc<dyn Ambient>) -> anyhow::Result<Arc<Log>> {
    let mut settings = LogSettings::new(&config.store.dir, config.node.clone());
    settings.head_dir.clone_from(&config.store.head);
    // What waits on the shelf goes on; everything else that was left open is closed.
    let kept = shelf.all().context("store: the shelf")?;
    settings.kept = kept.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    Ok(Arc::new(Log::open(settings, ambient).context("store")?))
}

async fn control_settings(config: &Config, listen: Option<SocketAddr>) -> anyhow::Result<ControlSettings> {
    let mut webhooks = Vec::new();
    for webhook in &config.webhooks {
        webhooks.push(webhook_settings(webhook).await?);
    }
    let local_approvers = config.api.local_approvers.iter();
    Ok(ControlSettings {
        node: config.node.clone(),
        public_url: config.api.public_url.clone(),
        listen,
        webhooks,
        local_approvers: local_approvers
            .map(|(uid, groups)| (*uid, groups.iter().map(|group| group.value.clone()).collect()))
            .collect(),
        people: config.people.clone(),
    })
}

async fn webhook_settings(webhook: &Webhook) -> anyhow::Result<WebhookSettings> {
    let decision_secret = match &webhook.decision_secret {
        Some(reference) => Some(
            text_secret(reference)
                .await
                .with_context(|| format!("webhooks: {}: decision_secret", webhook.name))?,
        ),
        None => None,
    };
    let ca_pem = match &webhook.ca {
        Some(ca) => {
            Some(targets::material(ca).await.with_context(|| format!("webhooks: {}: ca", webhook.name))?)
        }
        None => None,
    };
    Ok(WebhookSettings {
        name: webhook.name.clone(),
        url: webhook.url.clone(),
        secret: text_secret(&webhook.secret)
            .await
            .with_context(|| format!("webhooks: {}: secret", webhook.name))?,
        decision_secret,
        speaks_for: webhook.speaks_for.iter().map(|group| group.value.clone()).collect(),
        ca_pem: ca_pem.map(|pem| pem.expose().clone()),
        allow_private: webhook.allow_private,
        follow_ups: webhook.follow_ups,
    })
}

async fn text_secret(reference: &SecretRef) -> anyhow::Result<Secret<String>> {
    let bytes = lockgate_proxy::credential::resolve(reference).await?;
    let text = std::str::from_utf8(bytes.expose())
        .map_err(|_| anyhow::anyhow!("expected text (whsec_…), got other bytes"))?;
    Ok(Secret::new(text.to_owned()))
}
