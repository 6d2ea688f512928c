//! A proxy before a real PostgreSQL, with a scripted outside: the log is a list, approvers are lines of a script, and
//! every connection comes from one made-up workload. No kernel hooks: psql dials the proxy.

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use lockgate_inspect::mask::MaskKeys;
use lockgate_model::{
    Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::{
        ApprovalRequest, Progress, RequirementProgress, Resolution, Vote, VoteDecision, WithdrawReason,
    },
    event::{Event, EventKind},
    flow::{Capture, Flow, ProcessFacts},
    id::{GroupName, NodeName},
    port::{
        Ambient, ApprovalError, Approvals, Attributor, BoxFuture, Durability, FlowError, PendingApproval,
        Receipt, RecordError, Recorder,
    },
    principal::Approver,
    session::{DefaultEffect, Mode, Protocol, Target},
    workload::{IdentityKind, Workload},
};
use lockgate_policy::{CompiledPolicy, SourceFile};
use lockgate_proxy::{
    Limits, Ports, Proxy, ProxySettings, TargetAddr, TargetSettings, tls::ClientTls, upstream::Credential,
};
use lockgate_tests::postgres::{PostgresOptions, TestPostgres};
use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::BorrowedFd,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What the job may do; the rules the tests quote by name.
pub(crate) const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: test }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out] } }
  effect: allow
- id: no-unbounded-write
  match: { sql: { kinds: [delete, update], bounded: false } }
  effect: deny
  message: "a DELETE or UPDATE needs a WHERE"
- id: schema-change
  match: { sql: { class: ddl } }
  effect: require_approval
  approval:
    stages: [{ at: 0m, from: { group: dba }, need: 1 }]
    timeout: 5m
- id: mask-pii
  match: { target: { tags: { pci: "true" } } }
  effect: none
  mask:
    columns:
    - { match: "*.*.ssn", method: redact }
    - { match: "*.*.card", method: partial, keep_last: 4 }
"#;

/// The log.
#[derive(Default)]
pub(crate) struct ListRecorder {
    events: Mutex<Vec<Event>>,
    pub(crate) broken: AtomicBool,
}

impl ListRecorder {
    /// Everything recorded so far.
    pub(crate) fn events(&self) -> Vec<EventKind> {
        self.events.lock().unwrap().iter().map(|event| event.kind.clone()).collect()
    }
}

impl Recorder for ListRecorder {
    fn record(&self, events: Vec<Event>, _: Durability) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(async move {
            if self.broken.load(Ordering::SeqCst) {
                return Err(RecordError::Io("the disk is full".into()));
            }
            let mut all = self.events.lock().unwrap();
            all.extend(events);
            Ok(Receipt::new(all.len() as u64))
        })
    }

    fn submit(&self, events: Vec<Event>) {
        self.events.lock().unwrap().extend(events);
    }
}

/// The system's clock and numbers that count up.
#[derive(Default)]
pub(crate) struct CountingAmbient(AtomicU64);

impl Ambient for CountingAmbient {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u128 {
        let count = u128::from(self.0.fetch_add(1, Ordering::Relaxed) + 1);
        count.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }
}

/// What the approver does.
#[derive(Clone, Debug)]
pub(crate) enum Decision {
    Approve(Duration),
    Deny(Duration, &'static str),
    Never,
}

/// Approvers that follow a script.
pub(crate) struct ScriptedApprovals {
    pub(crate) decision: Mutex<Decision>,
    pub(crate) requests: Mutex<Vec<ApprovalRequest>>,
    pub(crate) withdrawn: Arc<Mutex<Vec<WithdrawReason>>>,
}

impl Approvals for ScriptedApprovals {
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>> {
        Box::pin(async move {
            self.requests.lock().unwrap().push(request.clone());
            let decision = self.decision.lock().unwrap().clone();
            let pending =
                ScriptedPending { request, decision, resolution: None, withdrawn: self.withdrawn.clone() };
            Ok(Box::new(pending) as Box<dyn PendingApproval>)
        })
    }
}

struct ScriptedPending {
    request: ApprovalRequest,
    decision: Decision,
    resolution: Option<Resolution>,
    withdrawn: Arc<Mutex<Vec<WithdrawReason>>>,
}

impl PendingApproval for ScriptedPending {
    fn progress(&self) -> Progress {
        let requirements = self.request.spec.requirements.iter().map(|requirement| RequirementProgress {
            rule: requirement.rule.clone(),
            have: u32::from(self.resolution.is_some()),
            need: 1,
            any_of: vec![GroupName::from("dba")],
        });
        Progress {
            requirements: requirements.collect(),
            expires_at: self.request.expires_at,
            url: format!("http://127.0.0.1:8420/v1/approvals/{}", self.request.id),
            resolution: self.resolution.clone(),
        }
    }

    fn changed(&mut self) -> BoxFuture<'_, Progress> {
        Box::pin(async move {
            let vote = |decision, reason: Option<&str>| Vote {
                by: Approver {
                    id: "local:1000".into(),
                    groups: vec![GroupName::from("dba")],
                    via: "test".into(),
                    also: Vec::new(),
                },
                decision,
                reason: reason.map(str::to_owned),
                at: Timestamp::now(),
                grant: None,
            };
            if self.resolution.is_none() {
                match self.decision {
                    Decision::Never => std::future::pending::<()>().await,
                    Decision::Approve(after) => {
                        tokio::time::sleep(after).await;
                        let votes = vec![vote(VoteDecision::Approve, Some("looks right"))];
                        self.resolution = Some(Resolution::Approved { votes, basis: None });
                    }
                    Decision::Deny(after, reason) => {
                        tokio::time::sleep(after).await;
                        let vote = vote(VoteDecision::Deny, Some(reason));
                        self.resolution = Some(Resolution::Denied { vote });
                    }
                }
            }
            self.progress()
        })
    }

    fn withdraw(self: Box<Self>, reason: WithdrawReason) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.withdrawn.lock().unwrap().push(reason) })
    }
}

struct OneWorkload {
    destination: SocketAddr,
}

impl Attributor for OneWorkload {
    fn flow(&self, _: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError> {
        Ok(Flow {
            client,
            original_dst: OriginalDst::new(self.destination),
            socket_cookie: 1,
            netns_cookie: 1,
            process: ProcessFacts {
                tgid: 4711,
                tid: 4711,
                start_boottime_ns: 1,
                uid: 1001,
                gid: 1001,
                cgroup_id: 1,
                comm: "psql".into(),
                creator_tgid: 0,
            },
            capture: Capture::Transparent,
        })
    }

    fn attribute(&self, flow: &Flow) -> Workload {
        Workload { kind: IdentityKind::CiJob, ..Workload::noted(&flow.process, "test") }
    }
}

/// Server, proxy, and what they tell.
pub(crate) struct World {
    pub(crate) server: TestPostgres,
    pub(crate) recorder: Arc<ListRecorder>,
    pub(crate) approvals: Arc<ScriptedApprovals>,
    pub(crate) proxy: Proxy,
    pub(crate) port: u16,
    runtime: Option<tokio::runtime::Runtime>,
}

/// What psql said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

/// What differs from the usual world.
#[derive(Default)]
pub(crate) struct Options {
    /// Another policy than [`POLICY`].
    pub(crate) policy: Option<String>,
    /// Clients may use TLS.
    pub(crate) client_tls: bool,
    /// Another server than the usual one.
    pub(crate) server: Option<PostgresOptions>,
    /// More about the target, once its server is there.
    pub(crate) target: Option<Adjust>,
    /// Other bounds than the usual ones.
    pub(crate) limits: Limits,
}

/// What a test changes about its target.
pub(crate) type Adjust = Box<dyn FnOnce(&mut TargetSettings, &TestPostgres)>;

impl World {
    pub(crate) fn start(tags: &[(&str, &str)]) -> Result<Self> {
        Self::with(tags, Options::default())
    }

    pub(crate) fn with(tags: &[(&str, &str)], options: Options) -> Result<Self> {
        let server = TestPostgres::start(options.server.unwrap_or_default())?;
        server.psql("CREATE ROLE app LOGIN; CREATE DATABASE orders OWNER app;").or_else(|_| {
            server.psql("CREATE ROLE app LOGIN")?;
            server.psql("CREATE DATABASE orders OWNER app")
        })?;
        server.psql_in(
            "orders",
            "CREATE TABLE orders (id int PRIMARY KEY, ssn text, card text, note text); \
             INSERT INTO orders SELECT g, '123-45-' || lpad(g::text, 4, '0'), '41111111111111' || lpad(g::text, 2, '0'), 'n' || g FROM generate_series(1, 50) g; \
             ALTER TABLE orders OWNER TO app;",
        )?;
        let loaded = CompiledPolicy::load(vec![SourceFile {
            path: "test.yaml".into(),
            text: options.policy.unwrap_or_else(|| POLICY.into()),
        }])
        .map_err(|diagnostics| anyhow::anyhow!("{diagnostics:?}"))?;
        let recorder = Arc::new(ListRecorder::default());
        let approvals = Arc::new(ScriptedApprovals {
            decision: Mutex::new(Decision::Never),
            requests: Mutex::default(),
            withdrawn: Arc::default(),
        });
        let target = Target {
            name: "orders-db".into(),
            protocol: Protocol::Postgres,
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
        };
        let addresses = vec![TargetAddr::Exact(server.addr())];
        let mut settings = TargetSettings::plain(target, addresses, Credential::trusted("app"));
        if options.client_tls {
            settings.client_tls = Some(client_tls()?);
        }
        if let Some(adjust) = options.target {
            adjust(&mut settings, &server);
        }
        let settings =
            ProxySettings { node: NodeName::from("test"), targets: vec![settings], limits: options.limits };
        let ports = Ports {
            recorder: recorder.clone(),
            approvals: approvals.clone(),
            attributor: Arc::new(OneWorkload { destination: server.addr() }),
            confirmer: None,
            ambient: Arc::new(CountingAmbient::default()),
            policy: Arc::new(ArcSwap::from_pointee(loaded.policy)),
            mask_keys: Arc::new(ArcSwap::from_pointee(MaskKeys::new())),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_stack_size(16 * 1024 * 1024)
            .enable_all()
            .build()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let proxy = {
            let _here = runtime.enter();
            Proxy::new(settings, ports)
        };
        let serving = proxy.clone();
        runtime.spawn(async move { serving.serve(listener, CancellationToken::new()).await });
        Ok(Self { server, recorder, approvals, proxy, port, runtime: Some(runtime) })
    }

    pub(crate) fn decide(&self, decision: Decision) {
        *self.approvals.decision.lock().unwrap() = decision;
    }

    /// Runs psql through the proxy.
    pub(crate) fn psql(&self, arguments: &[&str]) -> Result<Said> {
        let output = self.command("psql").args(["-X", "-A", "-t", "-q"]).args(arguments).output()?;
        Ok(Said {
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code(),
        })
    }

    /// A client program that dials the proxy.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.server.program(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "whoever")
            .env("PGPASSWORD", "anything")
            .env("PGDATABASE", "orders")
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null());
        command
    }

    /// Waits until the log says so.
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut(&[EventKind]) -> bool) -> Result<()> {
        for _ in 0..500 {
            if holds(&self.recorder.events()) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{what} did not come; recorded: {:#?}", self.recorder.events())
    }

    /// Ends the proxy, and answers how many sessions were opened and closed.
    pub(crate) fn finish(self) -> Result<(usize, usize)> {
        self.finish_within(Duration::from_secs(1))
    }

    /// The same, with patience for sessions that are busy.
    pub(crate) fn finish_within(mut self, limit: Duration) -> Result<(usize, usize)> {
        let runtime = self.runtime.take().context("runtime")?;
        runtime.block_on(self.proxy.drain(limit));
        drop(runtime);
        let events = self.recorder.events();
        let started = events.iter().filter(|e| matches!(e, EventKind::SessionStarted(_))).count();
        let ended = events.iter().filter(|e| matches!(e, EventKind::SessionEnded(_))).count();
        Ok((started, ended))
    }
}

/// A certificate for the client's leg.
fn client_tls() -> Result<ClientTls> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    Ok(ClientTls::from_pem(issued.cert.pem().as_bytes(), issued.signing_key.serialize_pem().as_bytes())?)
}
