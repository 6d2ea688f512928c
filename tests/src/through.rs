//! A fresh server and, before it, an agent whose policy allows and records everything: what a client gets through
//! lockgate can be held against what it gets directly.
//!
//! For drivers and their own suites, and for whatever should not notice that lockgate is there. Policies that refuse,
//! hold or mask are other tests' business.

use crate::{
    agent::{Agent, AgentOptions, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions, TestPostgres},
};
use anyhow::Result;
use std::ffi::OsString;
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

    /// An unprivileged client program with a clean environment, as CI jobs have it.
    pub fn job(&self, route: Route, environment: &[(&str, &str)], command: &[&str]) -> Command {
        let own = self.environment();
        let mut all: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.extend_from_slice(environment);
        match route {
            Route::Direct => job::ungoverned(JOB_UID, &all, command),
            Route::Lockgate => job::governed(&self.agent, JOB_UID, &all, command),
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
