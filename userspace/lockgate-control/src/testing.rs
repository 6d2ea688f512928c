//! Scripted surroundings: a recorder that remembers and can fail, a clock that follows tokio's (so that paused
//! time works), a transport that answers by script, and requests to wait for.

use crate::{
    Control, ControlSettings, WebhookSettings,
    notify::{Channels, events::Events, retry::Answer, transport::Transport},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use lockgate_model::{
    RequestId, Secret, Timestamp,
    addr::{ClientAddr, OriginalDst},
    approval::ApprovalRequest,
    event::{Event, EventKind},
    flow::{Capture, Flow, ProcessFacts},
    id::{DecisionId, GroupName, OperationId, SessionId},
    operation::{Digest, Facts, Operation, Parameter, SqlContext, ValueFormat},
    port::{Ambient, BoxFuture, Durability, Receipt, RecordError, Recorder},
    principal::Principal,
    session::{ClientClaims, DefaultEffect, Mode, Protocol, Session, Target},
    sql::{RelationName, Risk, SqlClass, SqlEffect, SqlFacts},
    verdict::{ApprovalSpec, Effect, Exclude, Requirement, RuleHit, Stage as StageSpec, Verdict},
    workload::{
        Ancestor, Assurance, CiAssurance, CiJob, IdentityKind, Process, Ticket, TicketSource, Workload,
    },
};
use parking_lot::Mutex;
use sha2::Sha256;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
pub(crate) const DECISION_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub(crate) const CHAT_SECRET: &str = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

/// Remembers what it was given.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) events: Mutex<Vec<(EventKind, Option<Durability>)>>,
    pub(crate) failing: AtomicBool,
    pub(crate) slow: Mutex<Duration>,
}

impl Log {
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// The events that `pick` makes something of.
    pub(crate) fn pick<T>(&self, pick: impl Fn(&EventKind) -> Option<T>) -> Vec<T> {
        self.events.lock().iter().filter_map(|(kind, _)| pick(kind)).collect()
    }

    pub(crate) fn refusals(&self) -> Vec<String> {
        self.pick(|kind| match kind {
            EventKind::DecisionRefused { code, .. } => Some(code.clone()),
            _ => None,
        })
    }

    pub(crate) fn resolutions(&self) -> Vec<&'static str> {
        self.pick(|kind| match kind {
            EventKind::ApprovalResolved { resolution, .. } => Some(resolution.as_str()),
            _ => None,
        })
    }

    pub(crate) fn votes(&self) -> usize {
        self.pick(|kind| matches!(kind, EventKind::VoteCast { .. }).then_some(())).len()
    }

    /// Channel, attempt, status, error.
    pub(crate) fn attempts(&self) -> Vec<(String, u32, Option<u16>, Option<String>)> {
        self.pick(|kind| match kind {
            EventKind::Notified { channel, attempt, status, error, .. } => {
                Some((channel.clone(), *attempt, *status, error.clone()))
            }
            _ => None,
        })
    }
}

impl Recorder for Log {
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>> {
        Box::pin(async move {
            let slow = *self.slow.lock();
            if !slow.is_zero() {
                tokio::time::sleep(slow).await;
            }
            if self.failing.load(Ordering::SeqCst) {
                return Err(RecordError::Io("No space left on device".into()));
            }
            let mut log = self.events.lock();
            log.extend(events.into_iter().map(|event| (event.kind, Some(durability))));
            Ok(Receipt::new(log.len() as u64))
        })
    }

    fn submit(&self, events: Vec<Event>) {
        self.events.lock().extend(events.into_iter().map(|event| (event.kind, None)));
    }
}

/// A clock that follows tokio's, and numbers that are different every time.
pub(crate) struct Clock {
    start: Instant,
    base: Timestamp,
    drawn: AtomicU64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            base: "2026-11-21T10:00:00Z".parse().unwrap(),
            drawn: AtomicU64::new(1),
        }
    }
}

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        self.base + self.start.elapsed()
    }

    fn random(&self) -> u128 {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        u128::from(mixed) << 64 | u128::from(number)
    }
}

/// When, message id, body.
pub(crate) type Sent = (Instant, String, Vec<u8>);

/// A transport's script: what each attempt is answered, and what was sent when.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) answer: Arc<dyn Fn(u32) -> (Duration, Answer) + Send + Sync>,
    pub(crate) sent: Arc<Mutex<Vec<Sent>>>,
}

impl Script {
    /// Every attempt is answered the same, after a while.
    pub(crate) fn always(after: Duration, answer: Answer) -> Self {
        Self::by(move |_| (after, answer.clone()))
    }

    pub(crate) fn by(answer: impl Fn(u32) -> (Duration, Answer) + Send + Sync + 'static) -> Self {
        Self { answer: Arc::new(answer), sent: Arc::default() }
    }

    pub(crate) async fn post(&self, id: &str, body: Vec<u8>) -> Answer {
        let number = {
            let mut sent = self.sent.lock();
            sent.push((Instant::now(), id.to_owned(), body));
            u32::try_from(sent.len()).unwrap()
        };
        let (after, answer) = (self.answer)(number);
        tokio::time::sleep(after).await;
        answer
    }
}

/// A control plane with its log and clock.
pub(crate) struct Stage {
    pub(crate) control: Arc<Control>,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<Clock>,
}

impl Stage {
    pub(crate) fn new(webhooks: Vec<WebhookSettings>) -> Self {
        Self::of(settings(webhooks))
    }

    pub(crate) fn of(settings: ControlSettings) -> Self {
        let (log, clock) = (Arc::new(Log::default()), Arc::new(Clock::new()));
        let control = Control::start(settings, log.clone(), clock.clone()).unwrap();
        Self { control, log, clock }
    }

    /// Channels that answer by script instead of HTTP.
    pub(crate) fn scripted(channels: Vec<(&str, Script)>) -> Self {
        let (log, clock) = (Arc::new(Log::default()), Arc::new(Clock::new()));
        let channels: Vec<_> = channels
            .into_iter()
            .map(|(name, script)| {
                let events = Events::new(None, true).unwrap();
                (name.to_owned(), events, Transport::Scripted(script))
            })
            .collect();
        let over = |_, _, recorder, ambient| Ok(Channels::over(channels, recorder, ambient));
        let lasting = Default::default();
        let control =
            Control::start_over(settings(Vec::new()), log.clone(), clock.clone(), &lasting, over).unwrap();
        Self { control, log, clock }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A request as it would be asked now.
    pub(crate) fn request(&self, ask: Ask) -> ApprovalRequest {
        request(self.clock.as_ref(), ask)
    }
}

/// The control plane's settings: uid 1002 is a DBA, uid 1003 on the security team.
pub(crate) fn settings(webhooks: Vec<WebhookSettings>) -> ControlSettings {
    ControlSettings {
        node: "build-7".into(),
        public_url: None,
        listen: Some("127.0.0.1:8420".parse().unwrap()),
        webhooks,
        channels: Vec::new(),
        local_approvers: BTreeMap::from([
            (1001, vec!["dba".into()]),
            (1002, vec!["dba".into()]),
            (1003, vec!["security".into()]),
        ]),
        people: Vec::new(),
        login: None,
    }
}

/// A webhook that may decide.
pub(crate) fn webhook(name: &str, url: &str, decision_secret: &str, speaks_for: &[&str]) -> WebhookSettings {
    WebhookSettings {
        name: name.into(),
        url: url.into(),
        secret: Some(Secret::new(SECRET.into())),
        decision_secret: Some(Secret::new(decision_secret.into())),
        speaks_for: speaks_for.iter().map(|group| GroupName::from(*group)).collect(),
        ca_pem: None,
        allow_private: false,
        follow_ups: true,
        events: None,
        template: None,
        headers: Vec::new(),
    }
}

/// What a test asks for.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) statement: String,
    pub(crate) values: Vec<String>,
    pub(crate) touches_masked: bool,
    pub(crate) need: u32,
    pub(crate) require_reason: bool,
    pub(crate) timeout: Duration,
    pub(crate) later: Option<(Duration, Vec<GroupName>, u32)>,
    pub(crate) principal: String,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            statement: "ALTER TABLE orders ADD COLUMN note text".into(),
            values: Vec::new(),
            touches_masked: false,
            need: 1,
            require_reason: false,
            timeout: Duration::from_secs(30 * 60),
            later: None,
            principal: "unit:actions.runner.acme.service".into(),
        }
    }
}

pub(crate) fn request(ambient: &dyn Ambient, ask: Ask) -> ApprovalRequest {
    let now = ambient.now();
    let millis = u64::try_from(now.as_millisecond()).unwrap();
    let session = SessionId::from_parts(millis, ambient.random());
    let mut stages = vec![StageSpec { at: Duration::ZERO, any_of: vec!["dba".into()], need: ask.need }];
    if let Some((at, any_of, need)) = ask.later {
        stages.push(StageSpec { at, any_of, need });
    }
    let spec = ApprovalSpec {
        requirements: vec![Requirement {
            rule: "schema-change-dba".into(),
            description: Some("Schema-changing SQL on production needs a DBA".into()),
            stages,
            deny_votes: 1,
            exclude: BTreeSet::from([Exclude::Requester, Exclude::TriggeringActor]),
            min_assurance: None,
            require_reason: ask.require_reason,
            terms: Default::default(),
        }],
        timeout: ask.timeout,
        max_wait_in_transaction: None,
    };
    ApprovalRequest {
        id: RequestId::from_parts(millis, ambient.random()),
        session: Arc::new(a_session(session, &ask.principal, now)),
        operation: Operation {
            id: OperationId::from_parts(millis, ambient.random()),
            session,
            facts: Arc::new(Facts::Sql(alter())),
            text: ask.statement.into(),
            normalized: "ALTER TABLE orders ADD COLUMN note text /* $1 */".into(),
            parameters: ask
                .values
                .into_iter()
                .map(|value| Parameter { type_oid: 23, format: ValueFormat::Text, value: Some(value) })
                .collect(),
            digest: Digest([0xab; 32]),
            context: Arc::new(SqlContext {
                role: "app".into(),
                database: "orders".into(),
                search_path: None,
                in_transaction: true,
            }),
            touches_masked: ask.touches_masked,
        },
        verdict: Verdict {
            decision: DecisionId::from_parts(millis, ambient.random()),
            effect: Effect::Hold(spec.clone()),
            rules: vec![RuleHit {
                rule: "schema-change-dba".into(),
                effect: "require_approval".into(),
                shadow: false,
                error: None,
            }]
            .into(),
            obligations: Arc::default(),
            policy: "0123abcd".into(),
            would: None,
        },
        expires_at: now + spec.timeout,
        spec,
        created_at: now,
    }
}

fn alter() -> SqlFacts {
    SqlFacts {
        class: SqlClass::Ddl,
        kind: "alter_table".into(),
        tables_read: Vec::new(),
        tables_written: vec![RelationName { schema: Some("public".into()), name: "orders".into() }],
        columns: vec!["note".into()],
        functions: Vec::new(),
        bounded: None,
        risk: Risk::High,
        fingerprint: "50fde20626009aba".into(),
        effects: BTreeSet::from([SqlEffect::ChangesSchema]),
        opaque_reason: None,
        reach: Default::default(),
        second_opinion: None,
    }
}

pub(crate) fn ticket() -> Ticket {
    Ticket {
        id: "OPS-42".into(),
        url: Some("https://tickets.example.com/browse/OPS-42".into()),
        source: TicketSource::CommitMessage,
        assurance: Assurance::Claimed,
    }
}

/// uid 1001 (`build`), a CI job that ana triggered.
fn a_session(id: SessionId, principal: &str, now: Timestamp) -> Session {
    let process = Process {
        pid: 4711,
        start_boottime_ns: 1,
        uid: 1001,
        gid: 1001,
        user: Some("build".into()),
        exe: Some("/usr/bin/psql".into()),
        exe_sha256: None,
        argv: vec!["psql".into(), "-c".into(), "ALTER TABLE orders ADD COLUMN note text".into()],
        cwd: Some("/work".into()),
        ancestry: vec![Ancestor { pid: 4710, name: "bash".into() }],
        exited: false,
    };
    let ci = CiJob {
        provider: "github_actions".into(),
        assurance: CiAssurance(Assurance::Platform),
        repository: Some("acme/billing".into()),
        workflow: Some("deploy.yml".into()),
        run_id: Some("4711".into()),
        run_url: Some("https://ci.example.com/acme/billing/runs/4711".into()),
        git_ref: Some("refs/heads/main".into()),
        commit: Some("6d734b7".into()),
        commit_message: Some("OPS-42: note what was agreed".into()),
        source_branch: Some("ops-42-notes".into()),
        merge_request: Some("Notes on orders".into()),
        actor: Some("bert".into()),
        triggering_actor: Some("carla".into()),
        ..CiJob::default()
    };
    Session {
        id,
        node: "build-7".into(),
        flow: Flow {
            client: ClientAddr("127.0.0.1:50000".parse().unwrap()),
            original_dst: OriginalDst::new("127.0.0.1:5432".parse().unwrap()),
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
        },
        workload: Arc::new(Workload {
            kind: IdentityKind::CiJob,
            assurance: Assurance::Kernel,
            established_by: "cgroup of a system unit".into(),
            process,
            cgroup: Some("/system.slice/actions.runner.acme.service".into()),
            unit: None,
            container: None,
            pod: None,
            ci: Some(ci),
            tickets: vec![ticket()],
        }),
        principal: Principal {
            kind: IdentityKind::CiJob,
            id: principal.into(),
            display: "acme/billing › deploy.yml".into(),
            assurance: Assurance::Kernel,
        },
        target: Arc::new(Target {
            name: "orders-db".into(),
            protocol: Protocol::Postgres,
            tags: BTreeMap::from([("env".into(), "production".into())]),
            mode: Mode::Enforce,
            default: DefaultEffect::Deny,
        }),
        client: ClientClaims { user: "app".into(), database: "orders".into(), application_name: None },
        upstream_user: "app".into(),
        client_tls: false,
        opened_at: now,
    }
}

/// Standard Webhooks signature as a receiver or sender of the reference library makes it, independent of ours.
pub(crate) fn reference_signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// A webhook that only notifies.
pub(crate) fn webhook_to(name: &str, url: &str) -> WebhookSettings {
    WebhookSettings { decision_secret: None, ..webhook(name, url, DECISION_SECRET, &[]) }
}

/// What a receiver got.
pub(crate) struct Got {
    headers: axum::http::HeaderMap,
    pub(crate) body: bytes::Bytes,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A webhook receiver on loopback; ends with the test.
pub(crate) struct Receiver {
    address: std::net::SocketAddr,
    scheme: &'static str,
    got: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Got>>,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.served.abort();
    }
}

impl Receiver {
    /// Answers the n-th request with this status.
    pub(crate) async fn new(status: impl Fn(u64) -> u16 + Clone + Send + Sync + 'static) -> Self {
        Self::with(move |number| {
            let code = axum::http::StatusCode::from_u16(status(number)).unwrap();
            axum::response::IntoResponse::into_response(code)
        })
        .await
    }

    pub(crate) async fn redirecting(to: &str) -> Self {
        let to = to.to_owned();
        Self::with(move |_| {
            let location = [(axum::http::header::LOCATION, to.clone())];
            axum::response::IntoResponse::into_response((axum::http::StatusCode::FOUND, location))
        })
        .await
    }

    async fn with(answer: impl Fn(u64) -> axum::response::Response + Clone + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, got) = Self::router(answer);
        let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, scheme: "http", got, served }
    }

    /// With TLS, and the certificate to trust.
    pub(crate) async fn tls() -> (Self, String) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (router, got) =
            Self::router(|_| axum::response::IntoResponse::into_response(axum::http::StatusCode::OK));
        let served = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper_util::service::TowerToHyperService::new(router);
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                });
            }
        });
        (Self { address, scheme: "https", got, served }, made.cert.pem())
    }

    fn router(
        answer: impl Fn(u64) -> axum::response::Response + Clone + Send + Sync + 'static,
    ) -> (axum::Router, tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<Got>>) {
        let (sender, got) = tokio::sync::mpsc::unbounded_channel();
        let count = Arc::new(AtomicU64::new(0));
        let handler = move |headers: axum::http::HeaderMap, body: bytes::Bytes| {
            let _ = sender.send(Got { headers, body });
            let response = answer(count.fetch_add(1, Ordering::SeqCst) + 1);
            async move { response }
        };
        (axum::Router::new().fallback(handler), tokio::sync::Mutex::new(got))
    }

    /// An address where nobody listens.
    pub(crate) fn nobody() -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}/hook", self.scheme, self.address)
    }

    pub(crate) async fn next(&self) -> Got {
        let next = async { self.got.lock().await.recv().await.unwrap() };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("a request")
    }

    pub(crate) fn is_untouched(&self) -> bool {
        self.got.try_lock().is_ok_and(|mut got| got.try_recv().is_err())
    }
}
