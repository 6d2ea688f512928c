//! Bringing the agent up, in the order in which each part may fail closed.
//!
//! Nothing here serves: when this returns, everything is open, bound and attached, and the hooks redirect to
//! listeners whose backlog waits.

use super::{
    Agent,
    ambient::System,
    channels,
    evidence::{Evidence, gate::Gate},
    login,
    names::Names,
    people,
    policy::Policy,
    registry::{self, Registry},
    targets::{self, Targets},
};
use crate::config::{Config, ConfigError, TargetConfig};
use anyhow::{Context as _, bail};
use lockgate_control::{Control, ControlSettings, Lasting, UnixSocket};
use lockgate_intercept::{InterceptError, Interceptor, Settings, keeper};
use lockgate_model::{
    Timestamp,
    id::TargetName,
    port::{Ambient, Shelf as _},
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
    /// Of the listener over TCP.
    pub(super) tls: Option<lockgate_control::Tls>,
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
    let registered = registry::read(&config)?;
    let all: Vec<TargetConfig> = config.targets.iter().chain(&registered.targets).cloned().collect();
    let mut names = Names::of(&all);
    let (_, failed) = names.look_up().await;
    if let Some((name, why)) = failed.first() {
        bail!("targets: {name} cannot be looked up ({why}); it cannot be protected without an address");
    }
    let shelf = Shelf::open(&config.store.dir).context("store: the shelf")?;
    let log = open_log(&config, &shelf, ambient.clone())?;
    let (drain, recorder) = super::shared::drain(&config, &log).await?;
    let targets = Targets::prepare(&config, registered.targets.clone()).await?;

    let tcp = match config.api.listen {
        Some(listen) => {
            Some(TcpListener::bind(listen).await.with_context(|| format!("api.listen: {listen}"))?)
        }
        None => None,
    };
    let explicit = super::callers::listeners(&config)?;
    let listen = tcp.as_ref().map(TcpListener::local_addr).transpose()?;
    let owed = super::owed::overrides(&log, &shelf).context("store: the shelf")?;
    let tokens = Shelf::open(&config.store.dir.join("people")).context("store: the shelf of API tokens")?;
    let lasting = Lasting {
        shelf: Some(Arc::new(shelf)),
        shelved: Some(log.shelved().clone()),
        owed,
        left_open: log.left_open().clone(),
        policy: Some(policy.in_force.clone()),
        tokens: Some(Arc::new(tokens)),
        logins: Some(login::fresh),
    };
    let settings = control_settings(&config, listen).await?;
    let control = Control::start_with(settings, recorder.clone(), ambient.clone(), &lasting)?;
    people::bootstrap(&control)?;
    let tls = people::tls(&config).await?;
    let people = people::Watched::of(&config, tls.clone());
    let unix = UnixSocket::bind(&config.api.socket).context("api.socket")?;

    // From here on this process is in a cgroup of its own, and its connections are never redirected.
    let settings = Settings {
        instance: config.instance.clone(),
        governed: targets::governed(&config, &all, &names),
        targets: targets::nets(&all, &names),
        run_cgroup: Some(config.run_cgroup.clone()),
        names: targets::named(&all),
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
    let evidence = Evidence::open(&config.evidence).await?;
    let alarms = control.alarms(recorder.clone());
    let ports = Ports {
        // In front of everything: nobody hears of a session that may not begin.
        recorder: match config.evidence.recordings {
            Some(_) => Arc::new(Gate::new(control.heard(recorder), evidence.blocked.clone())),
            None => control.heard(recorder),
        },
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
            targets: targets.settings(&names),
            limits: Limits::default(),
        },
        ports,
    );
    let before = interceptor.counters();
    let agent = Arc::new(Agent {
        evidence,
        drain,
        config,
        log,
        alarms,
        policy,
        control,
        interceptor,
        proxy,
        targets,
        registry: Registry::new(registered),
        names: Mutex::new(names),
        confirmer,
        observed: Mutex::new(super::observe::Tally::new(Timestamp::now())),
        listen,
        people,
        started_at: Timestamp::now(),
        reload: Notify::new(),
        before,
        not_governed: AtomicU64::new(0),
    });
    Ok((agent, Listeners { tcp, tls, unix, explicit }))
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
    let in_force = policy.in_force.load_full();
    let mut spoken_for = config.spoken_for();
    if config.login.as_ref().is_some_and(|login| !login.providers.is_empty()) {
        spoken_for.extend(in_force.claimed_groups().map(|(group, _)| group.clone()));
    }
    let unreachable = in_force.unreachable_groups(&spoken_for);
    for warning in policy.status().warnings.into_iter().chain(unreachable.iter().map(ToString::to_string)) {
        tracing::warn!(warning, "policy");
    }
    Ok(policy)
}

fn open_log(config: &Config, shelf: &Shelf, ambient: Arc<dyn Ambient>) -> anyhow::Result<Arc<Log>> {
    let mut settings = LogSettings::new(&config.store.dir, config.node.clone());
    settings.search = true;
    let segment_bytes = config.evidence.retention.as_ref().and_then(|retention| retention.segment_bytes);
    settings.segment_bytes = segment_bytes.unwrap_or(settings.segment_bytes);
    settings.head_dir.clone_from(&config.store.head);
    // What waits on the shelf goes on; everything else that was left open is closed.
    let kept = shelf.all().context("store: the shelf")?;
    settings.kept = kept.iter().filter_map(|(name, _)| name.parse().ok()).collect();
    Ok(Arc::new(Log::open(settings, ambient).context("store")?))
}

async fn control_settings(config: &Config, listen: Option<SocketAddr>) -> anyhow::Result<ControlSettings> {
    let mut webhooks = Vec::new();
    for webhook in &config.webhooks {
        webhooks.push(channels::webhook(webhook, "webhooks").await?);
    }
    let channels = channels::settings(&config.channels).await?;
    let local_approvers = config.api.local_approvers.iter();
    Ok(ControlSettings {
        node: config.node.clone(),
        public_url: config.api.public_url.clone(),
        listen,
        webhooks,
        channels,
        local_approvers: local_approvers
            .map(|(uid, groups)| (*uid, groups.iter().map(|group| group.value.clone()).collect()))
            .collect(),
        people: config.people.clone(),
        login: people::settings(config, listen).await?,
    })
}
