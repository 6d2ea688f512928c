//! Where the agent itself is put: in a container's cgroup namespace, as runtimes make one on hosts with cgroup version 2.

use crate::world::{POLICY, database};
use anyhow::{Context as _, Result, bail, ensure};
use lockgate_tests::{
    agent::{Agent, AgentOptions, cgroup_mount, http_status, remove_cgroup, target},
    job::{self, JOB_UID},
    postgres::{HostAuth, PostgresOptions},
};
use std::{
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_a_container_s_cgroup_namespace_sees_the_host_s_cgroups() -> Result<()> {
    let pg = database(PostgresOptions::new().auth(HostAuth::Scram))?;
    let password = pg.socket_dir().join("app.password");
    std::fs::write(&password, "app-secret\n")?;
    let agent = Agent::prepare(&AgentOptions {
        targets: vec![target("orders-db", pg.port(), "app", &password, "env: production")],
        policy: POLICY.to_owned(),
        run_uids: vec![JOB_UID],
        ..Default::default()
    })?;
    let container = Removed(format!("/container-of{}", agent.governed_cgroup().replace('/', "-")));
    let cgroup = cgroup_mount()?.join(container.0.trim_start_matches('/'));
    std::fs::create_dir_all(&cgroup)?;
    let script = "echo $$ > \"$0/cgroup.procs\" && exec unshare --cgroup \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .arg(&cgroup)
        .arg(agent.binary())
        .args(["agent", "--config"])
        .arg(agent.config());
    let log = std::fs::File::create(agent.scratch().path().join("container.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let mut running = command.spawn()?;
    let said = || std::fs::read_to_string(agent.scratch().path().join("container.log")).unwrap_or_default();
    let api = agent.api().rsplit_once(':').context("a port")?.1.parse()?;
    let until = Instant::now() + Duration::from_secs(60);
    while http_status(api, "/readyz").await != Some(200) {
        if let Some(status) = running.try_wait()? {
            bail!("the agent ended ({status}):\n{}", said());
        }
        ensure!(Instant::now() < until, "the agent is not ready:\n{}", said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let server = pg.port().to_string();
    let command = job::psql("127.0.0.1", &server, "shop", &["select 'governed'"]);
    let done = job::run(job::governed(&agent, JOB_UID, &[], &command)).await?;
    ensure!(done.stdout.contains("governed"), "{done:?}");
    let text = agent.log_text()?;
    ensure!(text.contains(&agent.governed_cgroup()), "the job's cgroup is not the host's name of it: {text}");
    running.kill().await?;
    Ok(())
}

/// A cgroup that is removed at the end.
struct Removed(String);

impl Drop for Removed {
    fn drop(&mut self) {
        remove_cgroup(&self.0);
    }
}
