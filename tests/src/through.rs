//! A fresh server and, before it, an agent whose policy allows and records everything: what a client gets through
//! lockgate can be held against what it gets directly.
//!
//! For drivers and their own suites, and for whatever should not notice that lockgate is there. Policies that refuse,
//! hold or mask are other tests' business.

use crate::{
    agent::{Agent, AgentOptions, target},
    job::JOB_UID,
    postgres::{HostAuth, PostgresOptions, TestPostgres},
};
use anyhow::{Result, ensure};
use std::{
    ffi::OsString,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Allows what is understood and what is not.
pub const ALLOW_ALL: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: transparent }
rules:
- id: everything-understood
  match: {}
  effect: allow
- id: everything-else
  match: { sql: { opaque: true } }
  effect: allow
"#;

/// The role that lockgate logs in as, and the one that clients use directly.
pub const ROLE: &str = "postgres";

/// How long the last closing records may take to rest.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// Which way a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Outside any governed cgroup.
    Direct,
    /// In the agent's governed cgroup.
    Lockgate,
}

/// A server and its agent.
pub struct Through {
    // Fields drop in order: first the agent with its hooks, then the server.
    /// The agent.
    pub agent: Agent,
    /// The server.
    pub pg: TestPostgres,
}

impl Through {
    /// A server that trusts everybody on loopback, and an agent before it.
    pub async fn start() -> Result<Self> {
        Self::with(PostgresOptions::new().auth(HostAuth::Trust), |_| {}).await
    }

    /// With other options of the server and of the agent.
    pub async fn with(server: PostgresOptions, change: impl FnOnce(&mut AgentOptions)) -> Result<Self> {
        let pg = TestPostgres::start(server)?;
        let password = pg.socket_dir().join("upstream.password");
        std::fs::write(&password, crate::postgres::SUPERUSER_PASSWORD)?;
        let mut options = AgentOptions {
            targets: vec![target("through", pg.port(), ROLE, &password, "env: test")],
            policy: ALLOW_ALL.to_owned(),
            run_uids: vec![JOB_UID],
            ..AgentOptions::default()
        };
        change(&mut options);
        Ok(Self { agent: Agent::start(options).await?, pg })
    }

    /// A command that finds the server in libpq's variables, as this process's own user.
    pub fn command(&self, route: Route, command: &[OsString]) -> Command {
        let mut job = match route {
            Route::Direct => Command::new(&command[0]),
            Route::Lockgate => {
                let mut job = Command::new(self.agent.binary());
                job.args(["run", "--config"]).arg(self.agent.config()).arg("--").arg(&command[0]);
                job
            }
        };
        job.args(&command[1..]).envs(self.environment()).kill_on_drop(true);
        job
    }

    /// The same with a clean environment, as CI jobs have it, and what it prints kept.
    pub fn job(&self, route: Route, environment: &[(&str, &str)], command: &[&str]) -> Command {
        let words: Vec<OsString> = command.iter().map(OsString::from).collect();
        let mut job = self.command(route, &words);
        job.env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("PGCONNECT_TIMEOUT", "20")
            .envs(self.environment())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        job
    }

    /// Waits until every session that was opened has its closing record, and no more than one.
    pub async fn closings_match(&self) -> Result<()> {
        let until = Instant::now() + CLOSED_WITHIN;
        loop {
            let events = self.agent.events()?;
            let of = |kind| events.iter().filter(|event| is_of(event, kind)).count();
            let (started, ended) = (of("session_started"), of("session_ended"));
            if started == ended && started > 0 {
                return Ok(());
            }
            ensure!(ended <= started && Instant::now() < until, "{started} sessions started, {ended} ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `PGHOST` and its like.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", "127.0.0.1".into()),
            ("PGPORT", self.pg.port().to_string()),
            ("PGUSER", ROLE.into()),
            ("PGDATABASE", "postgres".into()),
        ]
    }
}

/// True when a record, however it wraps its event, is of this kind.
pub fn is_of(record: &serde_json::Value, kind: &str) -> bool {
    let serde_json::Value::Object(fields) = record else { return false };
    let wrapped = ["event", "body", "record"].iter().filter_map(|name| fields.get(*name));
    fields.get("event").is_some_and(|event| event == kind)
        || wrapped.into_iter().any(|inner| is_of(inner, kind))
}
