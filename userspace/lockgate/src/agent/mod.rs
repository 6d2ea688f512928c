//! The service: opens the log, loads the policy, attaches the hooks, serves connections and the API, and ends
//! all of it in order.
//!
//! Fails closed: whatever cannot be started ends the agent with an error, and the hooks that an earlier agent
//! left keep refusing. The data plane has a thread and a runtime a core, with deep stacks for SQL grammars; the
//! control plane has a runtime of its own, so that a slow page or scrape never slows a session.

mod ambient;
pub(crate) mod api;
pub(crate) mod callers;
mod capture;
pub(crate) mod channels;
mod coverage;
pub(crate) mod evidence;
mod handover;
pub(crate) mod house;
mod identity;
mod login;
mod names;
mod notify;
mod observe;
mod owed;
mod people;
pub(crate) mod policy;
mod registry;
pub(crate) mod shared;
mod signals;
mod start;
pub(crate) mod status;
pub(crate) mod targets;
pub(crate) mod telemetry;

use crate::config::Config;
use anyhow::Context as _;
use lockgate_control::Control;
use lockgate_intercept::{Counters, Interceptor, RunCgroup};
use lockgate_model::{
    Timestamp,
    event::{Event, EventKind},
    id::TargetName,
    port::{Confirmer, Durability, Recorder},
};
use lockgate_proxy::{Lanes, Proxy};
use lockgate_store::Log;
use names::Names;
use policy::Policy;
use registry::Registry;
use signals::Signals;
use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};
use targets::Targets;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::Notify,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// From SIGTERM until sessions are ended whatever they do; systemd's default patience is 90 s.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// What a vault made for sessions is taken back within seconds, or ends by itself.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(5);
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
    /// The log for what should not be: channels are told of it.
    alarms: Arc<dyn Recorder>,
    policy: Policy,
    control: Arc<Control>,
    interceptor: Arc<Interceptor>,
    proxy: Proxy,
    targets: Targets,
    /// Where targets are registered while it runs.
    registry: Registry,
    names: Mutex<Names>,
    /// Who asks platforms and issuers about those who are only seen.
    confirmer: Option<Arc<dyn Confirmer>>,
    /// What was seen of connections that are not redirected, in the current period.
    observed: Mutex<observe::Tally>,
    /// Where the API really listens (the port chosen, when port 0 was asked for).
    listen: Option<SocketAddr>,
    /// What of people and certificates is read anew while it runs.
    people: people::Watched,
    started_at: Timestamp,
    reload: Notify,
    /// What becomes of the log besides being written.
    evidence: evidence::Evidence,
    /// What takes it to the store that nodes share.
    drain: Option<shared::Sharing>,
    /// What the hooks had counted when it started.
    before: Counters,
    /// Processes that asked to be governed and could not be.
    not_governed: AtomicU64,
}

/// Runs the agent until it is told to end.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    log_panics();
    raise_descriptor_limit();
    // Fails only when somebody installed one before: then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let control = runtime("control", CONTROL_THREADS)?;
    let cores = std::thread::available_parallelism().ok();
    let lanes = config.data_plane_threads.or(cores).unwrap_or(NonZeroUsize::MIN);
    let (lanes, threads) =
        Lanes::start(lanes, crate::DEEP_STACK_BYTES).context("starting the data plane's threads")?;
    let result = control.block_on(live(config, lanes));
    threads.stop(RUNTIME_STOP_WITHIN);
    control.shutdown_timeout(RUNTIME_STOP_WITHIN);
    result
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .thread_name(format!("lockgate-{name}"))
        .thread_stack_size(crate::DEEP_STACK_BYTES)
        .build()
        .with_context(|| format!("starting the {name} runtime"))
}

/// A panic ends a task, not the agent; it is a broken promise all the same. Its message may quote a statement.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked; please report it");
        tracing::debug!(message = panic.payload_as_str().unwrap_or_default(), "panicked");
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

async fn live(config: Config, lanes: Lanes) -> anyhow::Result<()> {
    let mut signals = Signals::install()?;
    let metrics = telemetry::metrics()?;
    let (agent, listeners) = start::start(config, lanes.clone()).await?;
    let started = EventKind::AgentStarted {
        node: agent.config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        policy: agent.policy.status().version,
    };
    record(&agent, started)
        .await
        .context("recording the start; nothing is served that cannot be recorded")?;

    let shutdown = CancellationToken::new();
    let accepting = shutdown.child_token();
    let mut tasks = JoinSet::new();

    let accepts = lanes.first().context("no thread to accept on")?;
    for listener in agent.interceptor.listeners()? {
        tasks.spawn_on(serve_governed(agent.clone(), listener, accepting.clone()), accepts);
    }
    for (target, listener) in listeners.explicit {
        tasks.spawn_on(serve_callers(agent.clone(), target, listener, accepting.clone()), accepts);
    }
    let elsewhere = TaskTracker::new();
    serve_namespaces(&agent, accepts.clone(), elsewhere.clone(), accepting.clone());
    agent.control.attach_house(house::Rooms::of(&agent));
    let host = agent
        .control
        .router()
        .merge(agent.control.console())
        .merge(api::host_routes(agent.clone()))
        .merge(evidence::api::routes(agent.clone()))
        .merge(api::metrics_route(metrics.clone()));
    if let Some(listener) = listeners.tcp {
        let served = over_tcp(&agent, &host, &metrics);
        tasks.spawn(lockgate_control::serve_tcp(listener, served, listeners.tls, shutdown.clone()));
    }
    tasks.spawn(lockgate_control::serve_unix(
        listeners.unix,
        agent.control.authenticated(lockgate_control::finish(host)),
        shutdown.clone(),
    ));
    let mut background = background(&agent, metrics);
    background.spawn(notify::feed_watchdog(lanes.clone()));

    agent.control.set_ready(true);
    notify::notify("READY=1");
    print_summary(&agent)?;

    let ended = tokio::select! {
        () = signals.end_or(|| reload(&agent)) => Ok(()),
        Some(ended) = tasks.join_next() => Err(anyhow::anyhow!("a listener ended by itself: {ended:?}")),
    };
    notify::notify("STOPPING=1");
    let _kept = handover::hand_over(&agent);
    accepting.cancel();
    stop(&agent, &mut signals).await;
    shutdown.cancel();
    while tasks.join_next().await.is_some() {}
    elsewhere.close();
    elsewhere.wait().await;
    drop(background);
    observe::flush(&agent).await;
    let covered = record(&agent, coverage::event(agent.coverage())).await;
    let closed = record(&agent, EventKind::AgentStopped { node: agent.config.node.clone() }).await;
    let log = agent.log.clone();
    let sharing = agent.clone();
    let synced = tokio::task::spawn_blocking(move || {
        let closed = log.close();
        shared::finish(&sharing);
        closed
    })
    .await;
    ended?;
    covered.and(closed).context("recording the end")?;
    synced.context("closing the log")?.context("closing the log")
}

/// Everything, to whoever proves who they are, once somebody can; else no more than integrations need. Which of them is asked
/// for every request: `login:` may come and go.
fn over_tcp(
    agent: &Arc<Agent>,
    host: &axum::Router,
    metrics: &metrics_exporter_prometheus::PrometheusHandle,
) -> axum::Router {
    let control = agent.control.clone();
    let served = |router| control.authenticated(lockgate_control::finish(router));
    let full = served(host.clone().merge(control.login_router()));
    let public = served(control.public_router().merge(api::metrics_route(metrics.clone())));
    axum::Router::new().fallback(async move |request: axum::extract::Request| {
        let router = if control.offers_login() { full } else { public };
        router.oneshot(request).await
    })
}

async fn serve_governed(agent: Arc<Agent>, listener: std::net::TcpListener, shutdown: CancellationToken) {
    if let Err(error) = agent.proxy.serve(listener, shutdown).await {
        tracing::error!(%error, "serving governed connections");
    }
}

/// Serves those who dial lockgate itself.
async fn serve_callers(
    agent: Arc<Agent>,
    target: TargetName,
    listener: std::net::TcpListener,
    shutdown: CancellationToken,
) {
    if let Err(error) = agent.proxy.serve_explicit(listener, target, shutdown).await {
        tracing::error!(%error, "serving callers");
    }
}

/// Serves pods and containers: listeners that come and go with them.
fn serve_namespaces(agent: &Arc<Agent>, lane: Handle, tasks: TaskTracker, stop: CancellationToken) {
    let serving = Arc::downgrade(agent);
    agent.interceptor.serve_namespaces(move |listener| {
        // The interceptor keeps this, and the agent keeps the interceptor.
        let Some(agent) = serving.upgrade() else { return };
        tasks.spawn_on(serve_governed(agent, listener, stop.clone()), &lane);
    });
}

/// What goes on beside the serving; ends when dropped.
fn background(agent: &Arc<Agent>, metrics: metrics_exporter_prometheus::PrometheusHandle) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let watched = agent.clone();
    tasks.spawn(async move { watched.policy.watch(watched.log.as_ref(), &watched.reload).await });
    let watched = agent.clone();
    tasks.spawn(async move { people::watch(&watched).await });
    tasks.spawn(names::follow(agent.clone()));
    tasks.spawn(registry::follow(agent.clone()));
    tasks.spawn(capture::follow(agent.clone(), agent.interceptor.events()));
    tasks.spawn(coverage::follow(agent.clone()));
    tasks.spawn(observe::follow(agent.clone()));
    evidence::start(agent, &mut tasks);
    tasks.spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            metrics.run_upkeep();
        }
    });
    tasks
}

fn reload(agent: &Agent) {
    tracing::info!("SIGHUP: loading policies, logins and certificates again");
    agent.reload.notify_one();
    agent.people.now_please();
    agent.control.enable_webhooks();
}

/// Ends sessions in order; a second signal ends them at once.
async fn stop(agent: &Agent, signals: &mut Signals) {
    tracing::info!(within = ?DRAIN_WITHIN, "ending sessions; the hooks stay in force");
    agent.control.set_ready(false);
    tokio::select! {
        () = agent.proxy.drain(DRAIN_WITHIN) => {}
        () = signals.end_or(|| {}) => tracing::warn!("told again; ending at once"),
    }
    agent.targets.given_back(GIVEN_BACK_WITHIN).await;
    agent.control.stop(CONTROL_STOP_WITHIN).await;
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
    /// Gives a process a governed cgroup of its own. The kernel named it by pid when it connected; whoever keeps
    /// such a connection until the pid is somebody else's must not move that one, so it has to be of the same user.
    fn place(&self, pid: u32, uid: u32) -> anyhow::Result<RunCgroup> {
        let read = |what: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{what}")).context("the asking process is gone")
        };
        let ticks = start_ticks(&read("stat")?).context("its /proc stat cannot be read")?;
        match effective_uid(&read("status")?).context("its /proc status cannot be read")? {
            now if now == uid => {}
            now => anyhow::bail!(
                "uid {uid} asked as process {pid}, which is one of uid {now}: the pid was reused"
            ),
        }
        // The start time is compared again while it is moved: it is the one whose user was looked at.
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

/// The second number of `Uid:` in /proc/PID/status (proc(5)): real, effective, saved, file system.
fn effective_uid(status: &str) -> Option<u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_uid_is_the_second() {
        assert_eq!(effective_uid("Name:\tUid: 3\nUid:\t1000\t0\t7\t8\nGid:\t1\t2\t3\t4\n"), Some(0));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

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
