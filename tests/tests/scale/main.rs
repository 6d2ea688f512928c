//! Many sessions at once, and peers that die, stall or do not read: everybody who lives gets an answer, memory stays
//! bounded, nothing that was recorded is lost and every flow has exactly one closing record.
//!
//! On a real server and the real daemon, with clients of `lockgate-load` in a governed cgroup. CI runs it small; `cargo
//! xtask scale` runs it whole.

mod faults;
mod many;
mod slow;

use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::built_binary,
    job::{Done, Running},
    postgres::{HostAuth, PostgresOptions},
    receiver::Receiver,
    through::{Route, Through},
};
use std::time::{Duration, Instant};

/// Everything passes but schema changes, which wait for a person.
const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: scale }
groups:
  dba: { oidc: "groups:dba" }
rules:
- id: everyday
  match: { sql: { class: [read, write, session, transaction, copy_in, copy_out] } }
  effect: allow
- id: schema-change
  match: { sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 10m }
"#;

/// What `cargo xtask scale` asks for, and what CI runs.
pub(crate) fn size(whole: usize, small: usize) -> usize {
    if std::env::var_os("LOCKGATE_SCALE").is_some() { whole } else { small }
}

/// One test at a time: each loads the machine, and measures.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) struct World {
    pub(crate) through: Through,
    pub(crate) receiver: Receiver,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl World {
    pub(crate) async fn start(connections: usize) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "the scale tests need root: sudo -E cargo xtask e2e");
        let alone = ALONE.lock().await;
        let receiver = Receiver::start().await?;
        let server = PostgresOptions::new()
            .auth(HostAuth::Trust)
            .setting("max_connections", &connections.to_string())
            .setting("max_wal_size", "256MB");
        let through = Through::with(server, |options| {
            options.policy = POLICY.to_owned();
            *options = std::mem::take(options).webhook(&receiver, &["dba"]);
        })
        .await?;
        Ok(Self { through, receiver, _alone: alone })
    }

    /// Starts `lockgate-load` in the governed cgroup.
    pub(crate) fn load(&self, words: &[&str]) -> Result<Running> {
        let program = built_binary("lockgate-load")?.display().to_string();
        let command = [&[program.as_str()], words].concat();
        lockgate_tests::job::start(self.through.job(Route::Lockgate, &[], &command))
    }

    /// The daemon's resident memory.
    pub(crate) fn resident(&self) -> Result<u64> {
        let pid = self.through.agent.pid().context("the agent is not running")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(90);
        while !holds()? {
            ensure!(Instant::now() < until, "{what} did not come:\n{}", self.through.agent.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Open connections of clients on the server, as it counts them.
    pub(crate) fn backends(&self) -> Result<usize> {
        let clients = "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL \
                       AND application_name NOT LIKE 'lockgate%'";
        Ok(self.through.pg.psql(clients)?.parse()?)
    }
}

/// The client ended well.
pub(crate) fn well(done: &Done, world: &World) -> Result<()> {
    ensure!(
        done.code == Some(0),
        "{:?}: {}\n{}\n{}",
        done.code,
        done.stdout,
        done.stderr,
        world.through.agent.log()
    );
    Ok(())
}
