//! Stand-ins for tests: an HTTP server that answers what it is told, a process that carries what it is told, a clock.

use crate::{Identity, IdentitySettings, ci::Carried};
use axum::{Router, body::Body, extract::State, http::Request, response::Response};
use lockgate_model::{
    Secret, Timestamp,
    addr::{ClientAddr, OriginalDst},
    flow::{Capture, Flow, ProcessFacts},
    port::{Ambient, Confirmer as _, Witness},
    workload::{Assurance, CiJob, IdentityKind, Pod, Process, Unit, Workload},
};
use reqwest::Url;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// An answer, possibly never.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Json(Value),
    Status(u16),
    Redirect(String),
    Never,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HashMap<String, String>,
}

#[derive(Debug, Default)]
struct Script {
    answers: HashMap<String, Answer>,
    asked: Vec<Asked>,
}

/// A server on loopback.
pub(crate) struct StandIn {
    base: String,
    script: Arc<Mutex<Script>>,
    task: tokio::task::AbortHandle,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) trait StandInUrl {
    fn url(&self, path: &str) -> Url;
}

impl StandInUrl for StandIn {
    fn url(&self, path: &str) -> Url {
        Url::parse(&format!("{}{path}", self.base)).unwrap()
    }
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).with_state(script.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }).abort_handle();
        Self { base, script, task }
    }

    pub(crate) fn base(&self) -> String {
        self.base.clone()
    }

    pub(crate) fn serve(&self, path: &str, body: Value) {
        self.answer(path, Answer::Json(body));
    }

    pub(crate) fn fail(&self, path: &str, status: u16) {
        self.answer(path, Answer::Status(status));
    }

    pub(crate) fn answer(&self, path: &str, answer: Answer) {
        self.script.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    pub(crate) fn hits(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path == path).count()
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request<Body>) -> Response {
    let uri = request.uri();
    let headers = request.headers().iter();
    let asked = Asked {
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect(),
    };
    let answer = {
        let mut script = script.lock().unwrap();
        let answer = script.answers.get(&asked.path).cloned().unwrap_or(Answer::Status(404));
        script.asked.push(asked);
        answer
    };
    let status = |status: u16| Response::builder().status(status);
    match answer {
        Answer::Json(body) => status(200).body(Body::from(body.to_string())).unwrap(),
        Answer::Status(code) => status(code).body(Body::empty()).unwrap(),
        Answer::Redirect(to) => status(302).header("location", to).body(Body::empty()).unwrap(),
        Answer::Never => std::future::pending().await,
    }
}

/// A process that carries what it is told.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    pub(crate) variables: Mutex<HashMap<String, String>>,
    pub(crate) token: Mutex<Option<String>>,
    pub(crate) age: Mutex<Duration>,
}

impl Carrier {
    pub(crate) fn carry(&self, name: &str, value: impl Into<String>) {
        self.variables.lock().unwrap().insert(name.to_owned(), value.into());
    }
}

impl Witness for Carrier {
    fn variables(&self, _: &Flow, names: &[&str]) -> Carried {
        let variables = self.variables.lock().unwrap();
        let wanted = variables.iter().filter(|(name, _)| names.contains(&name.as_str()));
        wanted.map(|(name, value)| (name.clone(), Secret::new(value.clone()))).collect()
    }

    fn service_account_token(&self, _: &Flow) -> Option<Secret<String>> {
        self.token.lock().unwrap().clone().map(Secret::new)
    }

    fn age(&self, _: &Flow) -> Option<Duration> {
        Some(*self.age.lock().unwrap())
    }
}

/// A clock that is set by hand.
#[derive(Debug)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    pub(crate) const START: u64 = 1_800_000_000;

    pub(crate) fn set(&self, seconds: u64) {
        self.0.store(seconds.try_into().unwrap(), Ordering::SeqCst);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self(AtomicI64::new(Self::START.try_into().unwrap()))
    }
}

impl Ambient for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn random(&self) -> u128 {
        4
    }
}

/// A confirmer with its surroundings.
pub(crate) struct World {
    pub(crate) identity: Identity,
    pub(crate) carrier: Arc<Carrier>,
    pub(crate) clock: Arc<Clock>,
}

impl World {
    pub(crate) fn new(mut settings: IdentitySettings) -> Self {
        if settings.wait.is_zero() {
            settings.wait = Duration::from_secs(5);
        }
        settings.skew = Duration::from_secs(30);
        let (carrier, clock) = (Arc::new(Carrier::default()), Arc::new(Clock::default()));
        let identity = Identity::start(settings, carrier.clone(), clock.clone(), None).unwrap();
        Self { identity, carrier, clock }
    }

    /// What comes of a workload.
    pub(crate) async fn confirm(&self, workload: Workload) -> Workload {
        self.identity.confirm(&flow(workload.process.pid.into()), workload).await
    }
}

/// From a cgroup.
pub(crate) fn flow(cgroup_id: u64) -> Flow {
    let address = "127.0.0.1:5432".parse().unwrap();
    Flow {
        client: ClientAddr(address),
        original_dst: OriginalDst::new(address),
        socket_cookie: 1,
        netns_cookie: 1,
        process: ProcessFacts {
            tgid: 1,
            tid: 1,
            start_boottime_ns: 1,
            uid: 1001,
            gid: 1001,
            cgroup_id,
            comm: "psql".to_owned(),
            creator_tgid: 0,
        },
        capture: Capture::Transparent,
    }
}

/// A process that nothing is known of but its uid; `pid` stands for its cgroup, too.
pub(crate) fn plain(pid: u32) -> Workload {
    Workload {
        kind: IdentityKind::Unknown,
        assurance: Assurance::Kernel,
        established_by: "a test".to_owned(),
        process: Process {
            pid,
            start_boottime_ns: 1,
            uid: 1001,
            gid: 1001,
            user: None,
            exe: None,
            exe_sha256: None,
            argv: Vec::new(),
            cwd: None,
            ancestry: Vec::new(),
            exited: false,
        },
        cgroup: Some(format!("/test/{pid}")),
        unit: None,
        container: None,
        pod: None,
        ci: None,
        tickets: Vec::new(),
    }
}

pub(crate) fn in_unit(name: &str, claims: Option<CiJob>) -> Workload {
    let unit = Unit { name: name.to_owned(), invocation_id: None, user_unit: false };
    Workload { unit: Some(unit), ci: claims, ..plain(1) }
}

pub(crate) fn in_pod(uid: &str) -> Workload {
    Workload { pod: Some(Pod { uid: uid.to_owned(), ..Pod::default() }), ..plain(1) }
}
