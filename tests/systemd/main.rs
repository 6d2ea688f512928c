//! The Debian package on a machine with systemd: installed, configured, started by its unit, watched, upgraded under load,
//! removed. Jobs are units and commands of that machine; the server and whoever approves are outside, on the same loopback.
//!
//! What this cannot show: the machine is a container with process ids of its own, which the kernel's facts do not know, so
//! programs and arguments of jobs are absent in the records. `cargo xtask systemd` makes the package and runs it.

mod container;

use anyhow::{Context as _, Result, ensure};
use container::Container;
use lockgate_tests::{
    postgres::{HostAuth, PostgresOptions, TestPostgres},
    receiver::{DECISION_SECRET, Decision, Receiver, SECRET},
};
use std::{
    process::{Child, Stdio},
    time::Instant,
};
use tokio::runtime::Runtime;

/// Where the jobs of this machine are.
const JOBS: &str = "ci.slice";
const UNIT: &str = "lockgate.service";

const POLICY: &str = r#"
apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: host }
groups: { dba: { oidc: "groups:dba" } }
rules:
- id: everyday
  match: { sql: { class: [read, session, transaction] } }
  effect: allow
- id: schema-change
  match: { sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 2m }
- id: nobody-deletes
  match: { sql: { kinds: [delete] } }
  effect: deny
  message: "nothing is deleted here"
"#;

/// What the process may still do after its start, as docs/operations.md lists it: DAC_OVERRIDE, DAC_READ_SEARCH, NET_ADMIN,
/// SYS_PTRACE, SYS_ADMIN, PERFMON, BPF.
const CAPABILITIES: u64 = 1 << 1 | 1 << 2 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39;

type Step = fn(&World, &Runtime) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("the package is installed and starts nothing", installed),
    ("the unit is sound", verified),
    ("the capture suite passes against agents with the unit's privileges", captured),
    ("configured and enabled, it is ready when systemd says so", started),
    ("it keeps exactly the privileges that are listed", privileges),
    ("a job that is a unit is held, approved, recorded with its unit", unit_is_held),
    ("`lockgate run` under the unit: held, approved on this host", run_is_held),
    ("what policy denies reaches no target", denied),
    ("a reload takes a changed policy", reloaded),
    ("an agent that hangs is restarted by the watchdog", watchdog),
    ("killed, jobs are refused until it is back", killed),
    ("an upgrade of the package under load refuses nobody", upgraded),
    ("removal takes the hooks away", removed),
];

struct World {
    machine: Container,
    receiver: Receiver,
    pg: TestPostgres,
    package: String,
}

fn main() -> std::process::ExitCode {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    match run(&runtime) {
        Ok(()) => {
            println!("test result: ok. {} passed; 0 failed; 0 ignored", STEPS.len());
            std::process::ExitCode::SUCCESS
        }
        Err((passed, error)) => {
            eprintln!("{error:?}");
            println!("test result: FAILED. {passed} passed; 1 failed; 0 ignored");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(runtime: &Runtime) -> Result<(), (usize, anyhow::Error)> {
    let world = runtime.block_on(World::new()).map_err(|error| (0, error))?;
    for (passed, (what, step)) in STEPS.iter().enumerate() {
        let started = Instant::now();
        if let Err(error) = step(&world, runtime) {
            println!("test {what} ... FAILED");
            let journal =
                world.machine.run("journalctl", &["--no-pager", "--lines=80", "--identifier", "lockgate"]);
            eprintln!("{}", journal.unwrap_or_else(|error| format!("{error:#}")));
            return Err((passed, error));
        }
        println!("test {what} ... ok ({:.1} s)", started.elapsed().as_secs_f32());
    }
    Ok(())
}

impl World {
    async fn new() -> Result<Self> {
        let package =
            std::env::var("LOCKGATE_PACKAGE").context("LOCKGATE_PACKAGE: run cargo xtask systemd")?;
        let machine = tokio::task::block_in_place(Container::boot)?;
        let receiver = Receiver::start().await?;
        let options = PostgresOptions::new().auth(HostAuth::Scram).setting("log_statement", "all");
        let pg = TestPostgres::start(options)?;
        pg.psql("CREATE ROLE app LOGIN PASSWORD 'app-secret'")?;
        pg.psql("CREATE DATABASE shop OWNER app")?;
        pg.psql_in(
            "shop",
            "SET ROLE app; CREATE TABLE orders (id int, note text); INSERT INTO orders VALUES (1, 'first')",
        )?;
        Ok(Self { machine, receiver, pg, package })
    }

    fn configuration(&self) -> String {
        format!(
            "node: {{ name: host-1 }}\n\
             govern:\n- {{ cgroup: {slice}/{JOBS} }}\n- {{ cgroup: /lockgate/run }}\n\
             targets:\n- name: orders-db\n  protocol: postgres\n  addresses: [\"127.0.0.1:{port}\"]\n  tags: {{ env: production }}\n  \
             upstream: {{ tls: disable, credential: {{ user: app, password: {{ file: /run/credentials/{UNIT}/orders-db }} }} }}\n\
             policies: [\"policies/\"]\nstore: \"sled:/var/lib/lockgate\"\n\
             webhooks:\n- {{ name: approvals, url: \"{url}\", secret: {{ file: webhook.secret }}, decision_secret: {{ file: decision.secret }}, speaks_for: [dba] }}\n\
             api:\n  listen: \"127.0.0.1:8420\"\n  local_approvers: {{ 0: [dba] }}\n\
             run: {{ cgroup: /lockgate/run, allow_uids: [1001] }}\n",
            slice = container::SLICE,
            port = self.pg.port(),
            url = self.receiver.url(),
        )
    }

    /// psql as a unit of this machine, begun.
    fn unit(&self, unit: &str, statement: &str) -> Result<Child> {
        let port = self.pg.port().to_string();
        let slice = format!("--slice={JOBS}");
        let unit = format!("--unit={unit}");
        let mut arguments = vec!["--quiet", "--wait", "--pipe", "--collect", "--uid=1001", &slice, &unit];
        arguments.extend([
            "--setenv=PGCONNECT_TIMEOUT=20",
            "--",
            "psql",
            "-X",
            "-A",
            "-t",
            "-h",
            "127.0.0.1",
        ]);
        arguments.extend(["-p", &port, "-U", "job", "-d", "shop", "-w", "-c", statement]);
        let mut command = self.machine.command("systemd-run", &arguments);
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    fn reads(&self, unit: &str) -> Result<()> {
        let done = done(self.unit(unit, "SELECT note FROM orders")?)?;
        ensure!(done.success && done.stdout.trim() == "first", "{done:?}");
        Ok(())
    }

    fn records(&self) -> Result<String> {
        self.machine.run("sh", &["-c", "cat /var/lib/lockgate/segments/*.jsonl"])
    }

    fn recorded(&self, text: &str) -> Result<()> {
        self.machine.wait(&format!("recorded: {text}"), || Ok(self.records()?.contains(text)))
    }

    fn main_pid(&self) -> Result<String> {
        self.machine.property(UNIT, "MainPID")
    }

    fn is_active(&self) -> Result<bool> {
        Ok(self.machine.property(UNIT, "ActiveState")? == "active")
    }
}

#[derive(Debug)]
struct Done {
    success: bool,
    stdout: String,
    stderr: String,
}

fn done(child: Child) -> Result<Done> {
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Done { success: output.status.success(), stdout: text(&output.stdout), stderr: text(&output.stderr) })
}

fn installed(world: &World, _: &Runtime) -> Result<()> {
    let said = world.machine.run("dpkg", &["--install", &world.package])?;
    ensure!(!world.is_active()?, "it runs without a configuration");
    ensure!(world.machine.property(UNIT, "UnitFileState")? == "disabled", "it was enabled");
    let missing = world.machine.run("dpkg", &["--verify", "lockgate"])?;
    ensure!(missing.is_empty(), "{missing}\n{said}");
    // Started all the same, it says what is missing.
    let refused = world.machine.command("lockgate", &["agent"]).output()?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && why.contains("/etc/lockgate/lockgate.yaml"), "{why}");
    Ok(())
}

fn verified(world: &World, _: &Runtime) -> Result<()> {
    let output = world
        .machine
        .command("systemd-analyze", &["verify", "/lib/systemd/system/lockgate.service"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about_us: Vec<&str> = said.lines().filter(|line| line.contains("lockgate")).collect();
    ensure!(output.status.success() && about_us.is_empty(), "{said}");
    let security = world.machine.run("systemd-analyze", &["security", "--no-pager", UNIT])?;
    let overall = security.lines().last().context("no score")?;
    println!("  {}", overall.trim());
    Ok(())
}

/// Tests of the capture suite that compare process ids of the kernel's facts with the machine's own, which are others here
/// (the machine is a container with ids of its own). `cargo xtask test` runs them without the unit; all others have to pass.
const NOT_HERE: &[&str] = &[
    "attribution::a_client_that_execs_after_connect_is_still_itself",
    "attribution::a_connect_in_a_second_thread_belongs_to_the_process",
    "attribution::a_living_client_is_read_through_proc",
    "attribution::a_reused_pid_is_never_taken_for_the_client",
    "attribution::environment_facts_of_a_ci_job_are_claimed_and_change_nothing_else",
    "attribution::hundreds_of_clients_that_have_exited_are_each_attributed",
    "attribution::two_jobs_whose_processes_share_pids_are_never_confused",
    "doctor::a_running_agent_proves_its_own_capture_and_serves_on",
    "doctor::on_a_machine_that_runs_these_tests_every_check_is_fine",
    "doctor::the_proof_works_where_only_a_uid_is_governed",
];

/// Every agent of the suite is a service here, with what the unit leaves of root: capabilities, system calls, families,
/// namespaces.
fn captured(world: &World, _: &Runtime) -> Result<()> {
    let suite = std::env::var("LOCKGATE_CAPTURE").context("LOCKGATE_CAPTURE: run cargo xtask systemd")?;
    // The suite changes settings of its own network namespaces, which are read-only here for systemd's sake.
    let script = "mount -o remount,bind,rw /proc/sys && exec \"$0\" \"$@\"";
    let mut command = world
        .machine
        .command("unshare", &["--mount", "--propagation", "private", "sh", "-c", script, &suite]);
    command.args(["--test-threads=2", "--color=never"]);
    for name in NOT_HERE {
        command.args(["--skip", name]);
    }
    let output = command.env("LOCKGATE_TEST_UNIT", "/lib/systemd/system/lockgate.service").output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let sum = said.lines().find(|line| line.starts_with("test result:")).unwrap_or_default();
    println!("  {sum} {} not here", NOT_HERE.len());
    ensure!(
        output.status.success() && sum.contains(" 0 failed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let passed: usize = sum.split(' ').nth(3).and_then(|count| count.parse().ok()).context("a count")?;
    ensure!(passed + NOT_HERE.len() >= 90, "only {passed} tests ran");
    Ok(())
}

fn started(world: &World, _: &Runtime) -> Result<()> {
    let machine = &world.machine;
    machine.write("/etc/lockgate/lockgate.yaml", &world.configuration(), 0o644)?;
    machine.write("/etc/lockgate/policies/policy.yaml", POLICY, 0o644)?;
    machine.write("/etc/lockgate/webhook.secret", SECRET, 0o600)?;
    machine.write("/etc/lockgate/decision.secret", DECISION_SECRET, 0o600)?;
    machine.write("/etc/credstore/orders-db", "app-secret\n", 0o600)?;
    // The password by systemd's credentials, as operations.md shows it; a watchdog that a test can wait for.
    let drop_in = "[Service]\nLoadCredential=orders-db:/etc/credstore/orders-db\nWatchdogSec=5\n";
    machine.write(&format!("/etc/systemd/system/{UNIT}.d/credentials.conf"), drop_in, 0o644)?;
    machine.run("systemctl", &["daemon-reload"])?;
    // With Type=notify this returns when it is ready.
    machine.run("systemctl", &["enable", "--now", UNIT])?;
    ensure!(world.is_active()?, "not active");
    let fed = || machine.property(UNIT, "WatchdogTimestampMonotonic");
    let before = fed()?;
    machine.wait("the watchdog is fed", || Ok(fed()? != before))?;
    // That a probe is another process than the kernel says is all that it finds: this machine numbers its own processes.
    let doctor = machine.command("lockgate", &["doctor", "--output", "json"]).output()?;
    let found: serde_json::Value = serde_json::from_slice(&doctor.stdout)?;
    let failed: Vec<_> = found["checks"]
        .as_array()
        .context("checks")?
        .iter()
        .filter(|check| check["status"] == "failed")
        .collect();
    ensure!(
        failed
            .iter()
            .all(|check| check["detail"].as_str().is_some_and(|why| why.contains("attributed to process"))),
        "{failed:#?}"
    );
    // What it says is found as operations.md has it.
    machine.wait("its words are in the journal", || {
        Ok(machine
            .run("journalctl", &["--no-pager", "--identifier", "lockgate"])?
            .contains("capture layer in force"))
    })?;
    world.reads("ci-first")
}

fn privileges(world: &World, _: &Runtime) -> Result<()> {
    let status = world.machine.read(&format!("/proc/{}/status", world.main_pid()?))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.trim().to_owned()).with_context(|| format!("no {name} in\n{status}"))
    };
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        let has = u64::from_str_radix(&field(set)?, 16)?;
        ensure!(has == CAPABILITIES, "{set} {has:x} is not {CAPABILITIES:x}");
    }
    ensure!(field("CapInh:")? == "0000000000000000" && field("CapAmb:")? == "0000000000000000", "{status}");
    ensure!(field("NoNewPrivs:")? == "1" && field("Seccomp:")? == "2", "{status}");
    ensure!(field("Umask:")? == "0077", "{status}");
    Ok(())
}

fn unit_is_held(world: &World, runtime: &Runtime) -> Result<()> {
    let job = world.unit("ci-migrate", "ALTER TABLE orders ADD COLUMN by_webhook int")?;
    let request = runtime.block_on(world.receiver.requested("by_webhook"))?;
    ensure!(!world.pg.log()?.contains("by_webhook"), "the target saw what was not approved");
    ensure!(request.data().to_string().contains("ci-migrate.service"), "{}", request.data());
    runtime.block_on(Decision::on(&request, "approve", "ana", &["dba"]).accepted())?;
    let done = done(job)?;
    ensure!(done.success && done.stdout.contains("ALTER TABLE"), "{done:?}");
    ensure!(world.pg.log()?.contains("by_webhook"), "the target has not seen it");
    world.recorded("ci-migrate.service")
}

fn run_is_held(world: &World, _: &Runtime) -> Result<()> {
    let machine = &world.machine;
    let port = world.pg.port().to_string();
    let psql = format!(
        "exec lockgate run -- psql -X -h 127.0.0.1 -p {port} -U job -d shop -w -c 'ALTER TABLE orders ADD COLUMN by_run int'"
    );
    let mut command =
        machine.command("setpriv", &["--reuid=1001", "--regid=1001", "--clear-groups", "sh", "-c", &psql]);
    let job = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut id = None;
    machine.wait("a request waits", || {
        let listed = machine.run("lockgate", &["approvals", "list", "--output", "json"])?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let found = listed["approvals"].as_array().and_then(|all| {
            all.iter().find(|one| one["statement"].as_str().is_some_and(|text| text.contains("by_run")))
        });
        id = found.and_then(|one| one["id"].as_str()).map(str::to_owned);
        Ok(id.is_some())
    })?;
    ensure!(!world.pg.log()?.contains("by_run"), "the target saw what was not approved");
    machine.run("lockgate", &["approvals", "approve", &id.context("id")?, "--reason", "seen"])?;
    let done = done(job)?;
    ensure!(done.success && done.stdout.contains("ALTER TABLE"), "{done:?}");
    Ok(())
}

fn denied(world: &World, _: &Runtime) -> Result<()> {
    let done = done(world.unit("ci-cleanup", "DELETE FROM orders")?)?;
    ensure!(!done.success && done.stderr.contains("nothing is deleted here"), "{done:?}");
    ensure!(!world.pg.log()?.contains("DELETE FROM orders"), "the target saw it");
    Ok(())
}

fn reloaded(world: &World, _: &Runtime) -> Result<()> {
    let changed = POLICY.replace("nothing is deleted here", "ask the archivists");
    world.machine.write("/etc/lockgate/policies/policy.yaml", &changed, 0o644)?;
    world.machine.run("systemctl", &["reload", UNIT])?;
    world.machine.wait("the new policy is in force", || {
        Ok(done(world.unit("ci-again", "DELETE FROM orders")?)?.stderr.contains("ask the archivists"))
    })
}

fn watchdog(world: &World, _: &Runtime) -> Result<()> {
    let before = world.main_pid()?;
    world.machine.run("kill", &["-STOP", &before])?;
    world.machine.wait("the watchdog has bitten, and the next agent is ready", || {
        Ok(world.main_pid()? != before && world.is_active()?)
    })?;
    ensure!(world.machine.property(UNIT, "NRestarts")? == "1", "restarted more than once");
    world.reads("ci-after-watchdog")
}

fn killed(world: &World, _: &Runtime) -> Result<()> {
    let machine = &world.machine;
    // Stopped and not restarted: what a crash that lasts looks like.
    machine.run("systemctl", &["kill", "--signal=KILL", UNIT])?;
    machine.run("systemctl", &["stop", UNIT])?;
    let done = done(world.unit("ci-refused", "SELECT 'direct'")?)?;
    ensure!(!done.success && done.stderr.contains("Connection refused"), "{done:?}");
    ensure!(!world.pg.log()?.contains("'direct'"), "the target saw it");
    machine.run("systemctl", &["start", UNIT])?;
    world.reads("ci-back")
}

fn upgraded(world: &World, _: &Runtime) -> Result<()> {
    let machine = &world.machine;
    let before = world.main_pid()?;
    let port = world.pg.port().to_string();
    // One connection after the other, until told to end; it counts what was not answered.
    let script = format!(
        "good=0; bad=0; while [ ! -e /tmp/enough ]; do \
         if psql -X -A -t -h 127.0.0.1 -p {port} -U job -d shop -w -c 'SELECT 1' >/dev/null 2>>/tmp/why; then good=$((good+1)); else bad=$((bad+1)); fi; \
         echo $good > /tmp/good; done; echo \"$good answered, $bad not\"; cat /tmp/why"
    );
    let slice = format!("--slice={JOBS}");
    let arguments = [
        "--quiet",
        "--wait",
        "--pipe",
        "--collect",
        "--uid=1001",
        &slice,
        "--unit=ci-load",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let load =
        machine.command("systemd-run", &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let answered = || -> Result<u32> {
        let text = machine.run("sh", &["-c", "cat /tmp/good 2>/dev/null || echo 0"])?;
        Ok(text.trim().parse().unwrap_or(0))
    };
    machine.wait("the load runs", || Ok(answered()? > 5))?;
    machine.run("dpkg", &["--install", &world.package])?;
    ensure!(world.is_active()? && world.main_pid()? != before, "the agent was not replaced");
    let at = answered()?;
    machine.wait("the load goes on", || Ok(answered()? > at + 5))?;
    machine.write("/tmp/enough", "", 0o644)?;
    let done = done(load)?;
    println!("  {}", done.stdout.lines().next().unwrap_or_default());
    // One connection at a time: at most one was open and at rest when the old agent ended, and it was told so.
    let told = done.stdout.matches("lockgate: stopping").count();
    let expected = format!(", {told} not");
    ensure!(
        done.success && told <= 1 && done.stdout.contains(&expected) && !done.stdout.contains("refused"),
        "{done:?}"
    );
    Ok(())
}

fn removed(world: &World, _: &Runtime) -> Result<()> {
    world.machine.run("dpkg", &["--remove", "lockgate"])?;
    let done = done(world.unit("ci-open", "SELECT 'open'")?)?;
    ensure!(
        !done.success && !done.stderr.contains("Connection refused"),
        "the hooks are still there: {done:?}"
    );
    let kept = world.machine.run("ls", &["/var/lib/lockgate", "/etc/lockgate"])?;
    ensure!(kept.contains("segments") && kept.contains("lockgate.yaml"), "{kept}");
    Ok(())
}
