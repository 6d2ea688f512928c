//! The service: opens the log, loads the policy, attaches the hooks, serves connections and the API, and ends
//! all of it in order.
//!
//! Fails closed: whatever cannot be started ends the agent with an error, and the hooks that an earlier agent
//! left keep refusing. Two runtimes: the data plane's, whose threads have deep stacks for SQL grammars, and the
//! control plane's, so that a slow page or scrape never slows a session.

mod ambient;
mod api;
mod names;
mod notify;
pub(crate) mod policy;
pub(crate) mod status;
mod targets;
pub(crate) mod telemetry;

use crate::config::{Config, ConfigError, Webhook};
use ambient::System;
use anyhow::{Context as _, bail};
use lockgate_control::{Control, ControlSettings, UnixSocket, WebhookSettings};
use lockgate_intercept::{Interceptor, RunCgroup, Settings};
use lockgate_model::{
    Secret, SecretRef, Timestamp,
    event::{Event, EventKind},
    port::{Ambient, Durability, Recorder},
};
use lockgate_proxy::{Limits, Ports, Proxy, ProxySettings};
use lockgate_store::{Log, LogSettings};
use names::Names;
use policy::Policy;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use targets::Targets;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// From SIGTERM until sessions are ended whatever they do; systemd's default patience is 90 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// What the control plane gets to withdraw requests and to say so.
const CONTROL_STOP_WITHIN: Duration = Duration::from_secs(4);
/// What a runtime's blocking tasks (a log being verified) get at the end.
const RUNTIME_STOP_WITHIN: Duration = Duration::from_secs(1);
/// Threads for API, approvals and timers: they wait more than they work.
const CONTROL_THREADS: usize = 2;
/// Prometheus histograms are folded this often.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// A running agent, as its API sees it.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) log: Arc<Log>,
    policy: Policy,
    control: Arc<Control>,
    interceptor: Arc<Interceptor>,
    proxy: Proxy,
    targets: Targets,
    names: Mutex<Names>,
    /// Where the API really listens (the port chosen, when port 0 was asked for).
    listen: Option<SocketAddr>,
    started_at: Timestamp,
    reload: Notify,
}

/// Runs the agent until it is told to end.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    log_panics();
    raise_descriptor_limit();
    // Fails only when somebody installed one before: then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let control = runtime("control", Some(CONTROL_THREADS))?;
    let data = runtime("data", None)?;
    let result = control.block_on(live(config, data.handle()));
    data.shutdown_timeout(RUNTIME_STOP_WITHIN);
    control.shutdown_timeout(RUNTIME_STOP_WITHIN);
    result
}

fn runtime(name: &str, threads: Option<usize>) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    builder
        .enable_all()
        .thread_name(format!("lockgate-{name}"))
        .thread_stack_size(crate::DEEP_STACK_BYTES)
        .build()
        .with_context(|| format!("starting the {name} runtime"))
}

/// A panic ends a task, not the agent; it is a broken promise all the same. Its text may quote a job's, so it
/// is logged and goes nowhere else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panicked; please report it");
    }));
}

/// Sessions take two descriptors and a bit; the usual soft limit of 1024 would end service at a few hundred.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

async fn live(config: Config, data: &Handle) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let metrics = telemetry::metrics()?;
    let (agent, listeners) = start(config).await?;
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();

    for listener in agent.interceptor.listeners()? {
        tasks.spawn_on(serve_governed(agent.clone(), listener, shutdown.clone()), data);
    }
    let public = agent.control.public_router().merge(api::metrics_route(metrics.clone()));
    let host = agent
        .control
        .router()
        .merge(api::host_routes(agent.clone()))
        .merge(api::metrics_route(metrics.clone()));
    if let Some(listener) = listeners.tcp {
        tasks.spawn(lockgate_control::serve_tcp(
            listener,
            lockgate_control::finish(public),
            shutdown.clone(),
        ));
    }
    tasks.spawn(lockgate_control::serve_unix(
        listeners.unix,
        lockgate_control::finish(host),
        shutdown.clone(),
    ));
    let background = background(&agent, metrics);

    let started = EventKind::AgentStarted {
        node: agent.config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: agent.policy.status().version,
    };
    record(&agent, started)
        .await
        .context("recording the start; nothing is served that cannot be recorded")?;
    agent.control.set_ready(true);
    notify::notify("READY=1");
    print_summary(&agent)?;

    let ended = tokio::select! {
        () = signals.end_or(|| reload(&agent)) => Ok(()),
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a listener ended by itself: {ended:?}")),
    };
    notify::notify("STOPPING=1");
    stop(&agent, shutdown, tasks, &mut signals).await;
    drop(background);
    let closed = record(&agent, EventKind::AgentStopped { node: agent.config.node.clone() }).await;
    let log = agent.log.clone();
    let synced = tokio::task::spawn_blocking(move || log.close()).await;
    ended?;
    closed.context("recording the end")?;
    synced.context("closing the log")?.context("closing the log")
}

/// Where the API is served, bound but not served yet.
struct Listeners {
    tcp: Option<TcpListener>,
    unix: UnixSocket,
}

/// Brings everything up, in the order in which each part may fail closed.
async fn start(config: Config) -> anyhow::Result<(Arc<Agent>, Listeners)> {
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
    let log = open_log(&config, ambient.clone())?;
    let recorder: Arc<dyn Recorder> = log.clone();
    let targets = Targets::prepare(&config).await?;

    let tcp = match config.api.listen {
        Some(listen) => {
            Some(TcpListener::bind(listen).await.with_context(|| format!("api.listen: {listen}"))?)
        }
        None => None,
    };
    let listen = tcp.as_ref().map(TcpListener::local_addr).transpose()?;
    let control =
        Control::start(control_settings(&config, listen).await?, recorder.clone(), ambient.clone())?;
    let unix = UnixSocket::bind(&config.api.socket).context("api.socket")?;

    // From here on this process is in a cgroup of its own, and its connections are never redirected.
    let settings = Settings {
        instance: config.instance.clone(),
        governed: config.governed.clone(),
        targets: targets::nets(&config.targets, &names),
        run_cgroup: Some(config.run_cgroup.clone()),
        ..Settings::default()
    };
    let interceptor = Arc::new(tokio::task::spawn_blocking(move || Interceptor::attach(settings)).await??);
    let ports = Ports {
        recorder,
        approvals: control.clone(),
        attributor: interceptor.clone(),
        ambient,
        policy: policy.in_force.clone(),
        mask_keys: policy.mask_keys.clone(),
    };
    let proxy = Proxy::new(
        ProxySettings {
            node: config.node.clone(),
            targets: targets.settings(&config, &names),
            limits: Limits::default(),
        },
        ports,
    );
    let agent = Arc::new(Agent {
        config,
        log,
        policy,
        control,
        interceptor,
        proxy,
        targets,
        names: Mutex::new(names),
        listen,
        started_at: Timestamp::now(),
        reload: Notify::new(),
    });
    Ok((agent, Listeners { tcp, unix }))
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

fn open_log(config: &Config, ambient: Arc<dyn Ambient>) -> anyhow::Result<Arc<Log>> {
    let mut settings = LogSettings::new(&config.store.dir, config.node.clone());
    settings.head_dir.clone_from(&config.store.head);
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

async fn serve_governed(agent: Arc<Agent>, listener: std::net::TcpListener, shutdown: CancellationToken) {
    if let Err(error) = agent.proxy.serve(listener, shutdown).await {
        tracing::error!(%error, "serving governed connections");
    }
}

/// What goes on beside the serving; ends when dropped.
fn background(agent: &Arc<Agent>, metrics: metrics_exporter_prometheus::PrometheusHandle) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let watched = agent.clone();
    tasks.spawn(async move { watched.policy.watch(watched.log.as_ref(), &watched.reload).await });
    if !agent.names().is_empty() {
        tasks.spawn(follow_names(agent.clone()));
    }
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.run_upkeep();
        }
    });
    tasks
}

/// Keeps the protected addresses what the targets' names mean.
async fn follow_names(agent: Arc<Agent>) {
    let mut names = agent.names();
    loop {
        tokio::time::sleep(names::LOOK_EVERY).await;
        let (changed, failed) = names.look_up().await;
        for (name, why) in failed {
            tracing::warn!(
                name,
                why,
                "a target's name cannot be looked up; its last addresses stay protected"
            );
        }
        if !changed {
            continue;
        }
        // Served before redirected: a connection never arrives at an address that nobody knows.
        agent.proxy.replace_targets(agent.targets.table(&agent.config, &names));
        let nets = targets::nets(&agent.config.targets, &names);
        if let Err(error) = agent.interceptor.set_targets(nets) {
            tracing::error!(%error, "new addresses of a target cannot be protected; the last ones stay");
        }
        *agent.names.lock().unwrap_or_else(PoisonError::into_inner) = names.clone();
        tracing::info!("the addresses of targets have changed");
    }
}

fn reload(agent: &Agent) {
    tracing::info!("SIGHUP: loading policies again");
    agent.reload.notify_one();
    agent.control.enable_webhooks();
}

/// Ends sessions in order; a second signal ends them at once.
async fn stop(
    agent: &Arc<Agent>,
    shutdown: CancellationToken,
    mut tasks: JoinSet<()>,
    signals: &mut Signals,
) {
    tracing::info!(within = ?DRAIN_WITHIN, "ending sessions; the hooks stay in force");
    agent.control.set_ready(false);
    tokio::select! {
        () = agent.proxy.drain(DRAIN_WITHIN) => {}
        () = signals.end_or(|| {}) => tracing::warn!("told again; ending at once"),
    }
    agent.control.stop(CONTROL_STOP_WITHIN).await;
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
}

async fn record(agent: &Agent, kind: EventKind) -> anyhow::Result<()> {
    let event = Event { at: Timestamp::now(), session: None, kind };
    agent.log.record(vec![event], Durability::Synced).await.map(drop).map_err(Into::into)
}

/// What an operator wants to see once it runs.
fn print_summary(agent: &Agent) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(agent.status().summary().as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Agent {
    /// Gives a process a governed cgroup of its own.
    fn place(&self, pid: u32) -> anyhow::Result<RunCgroup> {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the asking process is gone")?;
        let ticks = start_ticks(&stat).context("its /proc stat cannot be read")?;
        Ok(self.interceptor.place(pid, ticks)?)
    }

    fn names(&self) -> Names {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Field 22 of /proc/PID/stat (proc(5)); the name before it may hold anything but ends with the last `)`.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The signals an agent listens to.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the word to end; meanwhile each SIGHUP reloads. Cancel-safe.
    async fn end_or(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields: Vec<String> = (4..=40).map(|number| number.to_string()).collect();
        let rest = fields.join(" ");
        for name in ["psql", "a) b (c", ") ) )"] {
            assert_eq!(start_ticks(&format!("7 ({name}) S {rest}")), Some(22), "{name}");
        }
        assert_eq!(start_ticks("7 (x"), None);
    }
}
