//! The data plane without the kernel side: proxy, policy, masks and the audit log in one process, for callgrind, which
//! cannot follow the agent's eBPF. `cargo xtask bench --instructions` runs it.
//!
//! Every connection counts as one made-up job on its way to the given server. Never for anything but counting.

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use lockgate_bench::ground::POLICY;
use lockgate_inspect::mask::MaskKeys;
use lockgate_model::{
    Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::ApprovalRequest,
    flow::{Capture, Flow, ProcessFacts},
    port::{Ambient, ApprovalError, Approvals, Attributor, BoxFuture, FlowError, PendingApproval},
    session::{DefaultEffect, Mode, Protocol, Target},
    workload::{IdentityKind, Workload},
};
use lockgate_policy::{CompiledPolicy, SourceFile};
use lockgate_proxy::{
    Limits, Ports, Proxy, ProxySettings, TargetAddr, TargetSettings, credential::Credential,
};
use lockgate_store::{Log, LogSettings};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// `lockgate-engine LISTEN_PORT SERVER_PORT STORE_DIRECTORY`, until SIGTERM.
fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, server, store] = arguments.as_slice() else {
        return Err(anyhow!("expected LISTEN_PORT SERVER_PORT STORE_DIRECTORY, got {arguments:?}"));
    };
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server.parse().context("the server's port")?));
    let listen = (Ipv4Addr::LOCALHOST, listen.parse::<u16>().context("the port to listen on")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(TcpListener::bind(listen)?, server, store.into()))
}

async fn serve(listener: TcpListener, server: SocketAddr, store: PathBuf) -> Result<()> {
    listener.set_nonblocking(true)?;
    let ambient: Arc<dyn Ambient> = Arc::new(Clock::default());
    let log = Arc::new(Log::open(LogSettings::new(store, "bench".into()), ambient.clone())?);
    let source = SourceFile { path: "bench.yaml".into(), text: POLICY.into() };
    let policy = CompiledPolicy::load(vec![source]).map_err(|errors| anyhow!("{errors:?}"))?.policy;
    let ports = Ports {
        recorder: log.clone(),
        approvals: Arc::new(Nobody),
        attributor: Arc::new(OneJob(server)),
        confirmer: None,
        ambient,
        policy: Arc::new(ArcSwap::from_pointee(policy)),
        mask_keys: Arc::new(ArcSwap::from_pointee(MaskKeys::new())),
    };
    let settings =
        ProxySettings { node: "bench".into(), targets: vec![target(server)], limits: Limits::default() };
    let proxy = Proxy::new(settings, ports);
    let stop = CancellationToken::new();
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        served = proxy.serve(listener, stop.clone()) => served?,
        _ = end.recv() => {}
    }
    drop(proxy);
    log.close()?;
    Ok(())
}

fn target(server: SocketAddr) -> TargetSettings {
    let target = Target {
        name: "bench-db".into(),
        protocol: Protocol::Postgres,
        tags: [("env".to_owned(), "production".to_owned()), ("pci".to_owned(), "true".to_owned())].into(),
        mode: Mode::Enforce,
        default: DefaultEffect::Deny,
    };
    TargetSettings::plain(target, vec![TargetAddr::Exact(server)], Credential::trusted("app"))
}

/// The wall clock, and numbers that need not be random.
#[derive(Default)]
struct Clock(AtomicU64);

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u128 {
        let count = u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1);
        count.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

/// Nobody approves anything.
struct Nobody;

impl Approvals for Nobody {
    fn open(&self, _: ApprovalRequest) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(async { Err(ApprovalError::Unavailable("nobody is there".into())) })
    }
}

/// Every connection comes from one made-up process that wanted to reach the server.
struct OneJob(SocketAddr);

impl Attributor for OneJob {
    fn flow(&self, _: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError> {
        Ok(Flow {
            client,
            original_dst: OriginalDst::new(self.0),
            socket_cookie: 1,
            netns_cookie: 1,
            process: ProcessFacts {
                tgid: 4711,
                tid: 4711,
                start_boottime_ns: 1,
                uid: 1001,
                gid: 1001,
                cgroup_id: 1,
                comm: "pgbench".into(),
                creator_tgid: 0,
            },
            capture: Capture::Transparent,
        })
    }

    fn attribute(&self, flow: &Flow) -> Workload {
        Workload { kind: IdentityKind::CiJob, ..Workload::noted(&flow.process, "bench") }
    }
}
