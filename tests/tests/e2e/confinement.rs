//! The job against the machine it runs on: the agent's process, cgroups, pins, ports and files, as the job's own user.
//! All of it fails, and the job's next connection still ends in the proxy.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use lockgate_tests::{
    agent::{built_binary, cgroup_mount},
    job::{self, JOB_UID},
    postgres::SUPERUSER_PASSWORD,
};
use std::{path::Path, time::Duration};

/// Runs as the job. Whatever works although it must not is printed as `DONE what`.
const ATTEMPTS: &str = r#"
try() { what=$1; shift; if "$@" >/dev/null 2>&1; then echo "DONE $what"; else echo "failed $what"; fi; }
for signal in 0 TERM KILL STOP HUP SEGV; do try "signal $signal" kill -s $signal "$AGENT"; done
for file in mem environ maps syscall stack fd/0 root/etc cwd/x; do try "proc $file" head -c 1 "/proc/$AGENT/$file"; done
try "proc fds" ls "/proc/$AGENT/fd"
try "oom" sh -c "echo 1000 > /proc/$AGENT/oom_score_adj"
for group in / "$RUN" "$RUN/.." /lockgate; do try "cgroup $group" sh -c "echo \$\$ > $MOUNT$group/cgroup.procs"; done
try "cgroup of its own" mkdir "$MOUNT/escape"
try "kill the run cgroup" sh -c "echo 1 > $MOUNT$RUN/cgroup.kill"
try "freeze the run cgroup" sh -c "echo 1 > $MOUNT$RUN/cgroup.freeze"
try "list pins" ls -R "$PINS/links"
try "remove pins" rm -rf "$PINS"
try "move pins" mv "$PINS" "$PINS.gone"
try "mount over pins" mount -t tmpfs none /sys/fs/bpf
for file in "$STORE" "$STORE"/segments "$STORE"/keys "$STORE"/head "$STORE"/lock "$STORE"/index; do
  try "read $file" ls "$file"
  try "remove $file" rm -rf "$file"
done
for file in $(ls "$STORE"/*/* 2>/dev/null); do try "read $file" head -c 1 "$file"; done
for file in "$SCRATCH"/webhook.secret "$SCRATCH"/decision.secret "$SCRATCH"/app.password; do try "read $file" head -c 1 "$file"; done
try "policy" sh -c "echo >> $SCRATCH/policies/policy.yaml"
try "configuration" sh -c "echo >> $SCRATCH/lockgate.yaml"
try "the agent's program" sh -c "echo >> $SCRATCH/lockgate"
try "unlink the socket" rm -f "$STORE.sock"
try "replace the socket" mv "$STORE.sock" "$STORE.gone"
try "another network namespace" unshare --net true
try "another network namespace of a user's" unshare --user --map-root-user --net psql -X -h 127.0.0.1 -p "$PORT" -U postgres -d shop -c 'select 1'
echo end
"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_job_cannot_touch_what_governs_it() -> Result<()> {
    let world = World::new().await?;
    let agent = &world.agent;
    // The password of the target is root's, as in production.
    let password = agent.scratch().path().join("app.password");
    std::fs::write(&password, "app-secret")?;
    lock_down(&password)?;
    let status = agent.json(&["doctor"])?;
    let status = status.get("agent").context("what the agent says of itself")?;
    let pins = status.pointer("/hooks/pins").and_then(|pins| pins.as_str()).context("pins")?;
    let pid = agent.pid().context("pid")?.to_string();
    let mount = cgroup_mount()?.display().to_string();
    let store = agent.store().display().to_string();
    let scratch = agent.scratch().path().display().to_string();
    let (run, port) = (agent.governed_cgroup(), world.pg.port().to_string());
    let environment = [
        ("AGENT", pid.as_str()),
        ("MOUNT", &mount),
        ("RUN", &run),
        ("PINS", pins),
        ("STORE", &store),
        ("SCRATCH", &scratch),
        ("PORT", &port),
        ("PGPASSWORD", SUPERUSER_PASSWORD),
    ];
    let done = job::run(job::governed(agent, JOB_UID, &environment, &["sh", "-c", ATTEMPTS])).await?;
    ensure!(done.stdout.trim().ends_with("end"), "{done:?}");
    ensure!(done.stdout.matches("failed").count() > 40, "{done:?}");
    let worked: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with("DONE")).collect();
    ensure!(worked.is_empty(), "the job did what it must not: {worked:#?}");

    let after = world.psql(&["select 'still governed'", "delete from orders"]).await?;
    ensure!(
        after.stdout.contains("still governed") && after.stderr.contains("no-unbounded-write"),
        "{after:?}"
    );
    ensure!(agent.pid().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()));
    Ok(())
}

fn lock_down(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_is_nobodys_to_dial_or_take() -> Result<()> {
    // Nobody waits for a next agent here: what is stopped refuses at once.
    let mut world =
        World::with(crate::world::POLICY, |options, _| options.restart_grace = Some("0s".to_owned())).await?;
    let status = world.agent.json(&["doctor"])?;
    let listener = status.pointer("/agent/listeners/0").and_then(|at| at.as_str()).context("listeners")?;
    let listener = listener.to_owned();
    let port = listener.rsplit(':').next().context("port")?.to_owned();
    let client = world.agent.scratch().path().join("capture-client");
    std::fs::copy(built_binary("capture_client")?, &client)?;
    let client = client.display().to_string();
    let raw = world.agent.scratch().path().join("raw-client");
    std::fs::copy(built_binary("lockgate-raw-client")?, &raw)?;
    let raw = raw.display().to_string();
    for address in [listener.clone(), format!("0.0.0.0:{port}"), format!("[::ffff:127.0.0.1]:{port}")] {
        let dial = job::run(job::governed(&world.agent, JOB_UID, &[], &[&raw, &address, "00"])).await?;
        ensure!(dial.code == Some(1) && dial.stderr.contains("connect"), "{address}: {dial:?}");
    }
    let take = job::run(job::governed(&world.agent, JOB_UID, &[], &[&client, "bind", &port])).await?;
    ensure!(!take.stdout.contains("bound"), "{take:?}");
    let outside = job::run(job::ungoverned(JOB_UID, &[], &[&client, "bind", &port])).await?;
    ensure!(!outside.stdout.contains("bound"), "{outside:?}");

    // The same with the agent stopped in order, and with it killed: refused, never direct, never an impostor.
    let script = format!(
        "sleep 1.5; psql -X -h 127.0.0.1 -p {0} -U postgres -d shop -c 'select 1'; {client} bind {port}",
        world.pg.port()
    );
    let environment = [("PGPASSWORD", SUPERUSER_PASSWORD)];
    let running = job::start(job::governed(&world.agent, JOB_UID, &environment, &["sh", "-c", &script]))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.agent.terminate().await?;
    let done = running.done().await?;
    ensure!(done.stderr.contains("Connection refused"), "after SIGTERM: {done:?}");
    ensure!(!done.stdout.contains("bound"), "after SIGTERM: {done:?}");

    // --detach is what opens it.
    world.agent.launch().await?;
    let running = job::start(job::governed(&world.agent, JOB_UID, &environment, &["sh", "-c", &script]))?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.agent.terminate().await?;
    let detach = world.agent.cli(&["agent", "--detach"])?;
    ensure!(detach.status.success(), "{detach:?}");
    let done = running.done().await?;
    ensure!(!done.stderr.contains("refused"), "detached, and still refused: {done:?}");
    Ok(())
}
