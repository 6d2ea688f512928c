//! A governed job: an unmodified client, started by `lockgate run` as some user.

use crate::agent::Agent;
use anyhow::{Context, Result};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// The user id of jobs in tests: nobody.
pub const JOB_UID: u32 = 65534;

/// How long a client may take at most: the longest scripts hold some five hundred statements, many of them definitions.
pub const JOB_WITHIN: Duration = Duration::from_secs(180);

/// What a client printed and how it ended.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub elapsed: Duration,
}

/// A client that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
}

/// A command line as `uid`, governed by `agent`; environment variables as a job would have them.
pub fn governed(agent: &Agent, uid: u32, environment: &[(&str, &str)], command: &[&str]) -> Command {
    let mut job = Command::new("setpriv");
    job.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"])
        .arg(agent.binary())
        .args(["run", "--config"])
        .arg(agent.config())
        .arg("--")
        .args(command);
    settle(&mut job, environment);
    job
}

/// The same command outside any governed cgroup.
pub fn ungoverned(uid: u32, environment: &[(&str, &str)], command: &[&str]) -> Command {
    let mut job = Command::new("setpriv");
    job.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--"]).args(command);
    settle(&mut job, environment);
    job
}

/// psql with its usual flags: no start-up file, unaligned, given address and statements.
pub fn psql<'a>(host: &'a str, port: &'a str, database: &'a str, statements: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec!["psql", "-X", "-A", "-t", "-h", host, "-p", port, "-U", "whoever", "-d", database];
    for statement in statements {
        command.extend(["-c", statement]);
    }
    command
}

/// Starts it.
pub fn start(mut command: Command) -> Result<Running> {
    let started = Instant::now();
    let child = command.spawn().context("job")?;
    Ok(Running { child, started })
}

/// Starts it and waits for its end.
pub async fn run(command: Command) -> Result<Done> {
    start(command)?.done().await
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// True while it has not ended.
    pub fn waits(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = self.child.id().context("the job has ended")?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Waits for its end.
    pub async fn done(self) -> Result<Done> {
        let started = self.started;
        let output = tokio::time::timeout(JOB_WITHIN, self.child.wait_with_output())
            .await
            .with_context(|| format!("the job did not end within {JOB_WITHIN:?}"))??;
        Ok(Done {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: started.elapsed(),
        })
    }
}

fn settle(command: &mut Command, environment: &[(&str, &str)]) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LC_ALL", "C.UTF-8")
        .env("PGCONNECT_TIMEOUT", "20")
        .envs(environment.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}
