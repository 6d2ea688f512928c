//! The Compose quick start on a Docker engine of its own, every command of its README: up, a job's psql reads masked, what it
//! changes waits, somebody logs in by OpenID Connect and approves, it is recorded, down, and nothing is left.
//!
//! The images `postgres` and Dex are stand-ins made of this machine's files (`cargo xtask compose` makes them and runs this):
//! what is shown is lockgate's image, the files of the quick start, and how they fit together. In a network and a mount
//! namespace of its own; cgroups are the machine's, and what was made there is taken away.

use anyhow::{Context as _, Result, ensure};
use lockgate_tests::scratch::Scratch;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// An engine, images of some hundred megabytes, a database that is made: on a machine that is busy.
const WITHIN: Duration = Duration::from_secs(300);

/// Where the quick start's console is.
const CONSOLE: &str = "http://127.0.0.1:8420";

const CGROUPS: &str = "/sys/fs/cgroup";

type Step = fn(&World) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("it comes up, and nothing of it is privileged", comes_up),
    ("a job reads without a password, and personal data is masked", reads_masked),
    ("a change waits; a wrong password decides nothing; who logs in approves; it is done", is_approved),
    ("who decided what is recorded, and the log is whole", is_recorded),
    ("what policy never allows is refused to the job", is_refused),
    ("it goes down and leaves neither containers nor hooks", goes_down),
    ("every command of its README was run", readme_is_run),
];

fn main() -> std::process::ExitCode {
    match run() {
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

fn run() -> Result<(), (usize, anyhow::Error)> {
    let world = World::new().map_err(|error| (0, error))?;
    for (passed, (what, step)) in STEPS.iter().enumerate() {
        let started = Instant::now();
        if let Err(error) = step(&world) {
            println!("test {what} ... FAILED");
            let logs = world.compose(&["logs", "--no-color", "--tail", "60", "agent", "dex"]);
            eprintln!("{}", logs.map_or_else(|error| format!("{error:#}"), |logs| text(&logs)));
            return Err((passed, error));
        }
        println!("test {what} ... ok ({:.1} s)", started.elapsed().as_secs_f32());
    }
    Ok(())
}

/// An engine with the images loaded. Fields drop in order: the engine first, then what it stood on.
struct World {
    engine: Child,
    before: BTreeSet<PathBuf>,
    docker: PathBuf,
    scratch: Scratch,
}

impl World {
    fn new() -> Result<Self> {
        let root = PathBuf::from(std::env::var_os("LOCKGATE_ENGINE").context("run cargo xtask compose")?);
        let images = std::env::var_os("LOCKGATE_IMAGES").context("run cargo xtask compose")?;
        let scratch = Scratch::new("compose")?;
        must(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        // A pure cgroup v2 at the usual place, as on the hosts that the quick start is for.
        let _ = Command::new("umount").args(["--lazy", CGROUPS]).output()?;
        must(Command::new("mount").args(["-t", "cgroup2", "none", CGROUPS]))?;
        // Hooks are pinned in a file system that ends with this namespace.
        must(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))?;
        must(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]))?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
        let plugins = scratch.path().join("cli-plugins");
        fs::create_dir_all(&plugins)?;
        let plugin = root.join("usr/libexec/docker/cli-plugins/docker-compose");
        std::os::unix::fs::symlink(&plugin, plugins.join("docker-compose"))?;
        let before = cgroups();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let own = root.display();
        let log = fs::File::create(scratch.path().join("engine.log"))?;
        let engine = Command::new(root.join("usr/sbin/dockerd"))
            // No copy-on-write file system is asked of the machine.
            .args(["--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--data-root", &at("data"), "--exec-root", "/run/engine", "--pidfile", "/run/engine.pid"])
            .args(["--host", "unix:///run/engine.sock"])
            .env("PATH", format!("{own}/usr/sbin:{own}/usr/bin:{path}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("dockerd")?;
        let world = Self { engine, before, docker: root.join("usr/bin/docker"), scratch };
        let until = Instant::now() + WITHIN;
        while !world.docker(&["info"])?.status.success() {
            let log = fs::read_to_string(world.scratch.path().join("engine.log")).unwrap_or_default();
            ensure!(Instant::now() < until, "the engine does not answer: {log}");
            std::thread::sleep(Duration::from_millis(200));
        }
        for image in std::env::split_paths(&images) {
            let image = image.display().to_string();
            ok(world.docker(&["load", "--input", &image])?).context("docker load")?;
        }
        Ok(world)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.docker);
        command
            .args(arguments)
            .current_dir(quick_start())
            .env("DOCKER_HOST", "unix:///run/engine.sock")
            .env("DOCKER_CONFIG", self.scratch.path())
            .stdin(Stdio::null());
        command
    }

    fn docker(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().context("docker")
    }

    fn compose(&self, arguments: &[&str]) -> Result<Output> {
        self.docker(&[&["compose"], arguments].concat())
    }

    /// One of the README's commands, as it stands there after `docker compose`.
    fn as_written(&self, line: &str) -> Result<Output> {
        ensure!(README.contains(&line), "{line} is not among the commands that the README is compared with");
        self.compose(&words(line).iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.compose(&["run", "--rm", "--no-deps", "agent", "agent", "--detach"]);
        let _ = self.compose(&["--profile", "job", "down", "--volumes", "--timeout", "5"]);
        let _ = Command::new("kill").arg(self.engine.id().to_string()).output();
        let _ = self.engine.wait();
        // Deeper ones first.
        let now = cgroups();
        let made: Vec<&PathBuf> = now.difference(&self.before).collect();
        for cgroup in made.into_iter().rev() {
            if let Err(error) = fs::remove_dir(cgroup) {
                eprintln!("{} is left: {error}", cgroup.display());
            }
        }
    }
}

/// What is typed there after `docker compose`, in order; the two commands before them are `cargo xtask compose`'s.
const README: &[&str] = &[
    "up --detach",
    "run --rm job",
    "run --rm job -c \"update orders set note = 'by hand' where id = 1\"",
    "exec agent lockgate approvals list",
    "exec agent lockgate sessions list",
    "exec agent lockgate audit verify",
    "run --rm --no-deps agent agent --detach",
    "--profile job down --volumes",
];

fn quick_start() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../userspace/deploy/compose")
}

/// A line as a shell would split it: spaces, and double quotes around what has some.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(number, part)| match number % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        })
        .collect()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ok(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{}: {}", output.status, text(&output));
    Ok(text(&output))
}

fn must(command: &mut Command) -> Result<String> {
    ok(command.output().with_context(|| format!("{command:?}"))?).with_context(|| format!("{command:?}"))
}

/// The cgroups that the engine and the agent make, with what is one level below; nobody else's.
fn cgroups() -> BTreeSet<PathBuf> {
    let tops = ["docker", "lockgate-jobs.slice", "lockgate.slice"].map(|name| Path::new(CGROUPS).join(name));
    let mut all = BTreeSet::from([Path::new(CGROUPS).join("lockgate/agent")]);
    for top in tops {
        let below = fs::read_dir(&top).into_iter().flatten().flatten().map(|entry| entry.path());
        all.extend(below.filter(|path| path.is_dir()));
        all.insert(top);
    }
    all.retain(|path| path.is_dir());
    all
}

fn comes_up(world: &World) -> Result<()> {
    ok(world.as_written("up --detach")?)?;
    let until = Instant::now() + WITHIN;
    loop {
        let ready =
            Command::new("curl").args(["--silent", "--fail", &format!("{CONSOLE}/readyz")]).output()?;
        if ready.status.success() {
            break;
        }
        let logs = text(&world.compose(&["logs", "--no-color", "agent"])?);
        ensure!(Instant::now() < until, "the agent does not become ready: {logs}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let agent = ok(world.compose(&["ps", "--quiet", "agent"])?)?;
    let privileged =
        ok(world.docker(&["inspect", "--format", "{{.HostConfig.Privileged}}", agent.trim()])?)?;
    ensure!(privileged.trim() == "false", "the agent is privileged");
    Ok(())
}

fn reads_masked(world: &World) -> Result<()> {
    let shown = ok(world.as_written("run --rm job")?)?;
    ensure!(shown.contains("Ana Ruiz") && shown.contains("************1111"), "{shown}");
    for raw in ["4111111111111111", "ana.ruiz@example.com", "123-45-6789"] {
        ensure!(!shown.contains(raw), "{raw} is not masked: {shown}");
    }
    Ok(())
}

/// Somebody who logs in and approves what waits: what they saw.
fn person(name: &str, password: &str) -> Result<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("compose/ana.mjs");
    let said = must(Command::new("node").arg(script).args([CONSOLE, name, password]))?;
    let line = said.lines().find(|line| line.starts_with('{')).with_context(|| said.clone())?;
    Ok(serde_json::from_str(line)?)
}

fn is_approved(world: &World) -> Result<()> {
    const UPDATE: &str = "run --rm job -c \"update orders set note = 'by hand' where id = 1\"";
    ensure!(README.contains(&UPDATE));
    let line = words(UPDATE);
    let arguments: Vec<&str> = std::iter::once("compose").chain(line.iter().map(String::as_str)).collect();
    let job = world.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let until = Instant::now() + WITHIN;
    loop {
        let listed = ok(world.as_written("exec agent lockgate approvals list")?)?;
        if listed.contains("pending") {
            break;
        }
        ensure!(Instant::now() < until, "nothing waits: {listed}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Not a byte of it came to the database: it logs every statement.
    let target = text(&world.compose(&["logs", "--no-color", "postgres"])?);
    ensure!(!target.contains("by hand"), "the database saw what waits: {target}");
    let refused = person("ana@example.com", "wrong")?;
    ensure!(refused["refused"]["code"] == "login_required", "{refused}");
    let approved = person("ana@example.com", "password")?;
    ensure!(approved["me"]["roles"].as_array().is_some_and(|roles| roles.len() >= 3), "{approved}");
    ensure!(approved["decided"]["state"] == "approved", "{approved}");
    ensure!(approved["after"].to_string().contains("oidc:dex:"), "who decided is not shown: {approved}");
    let done = job.wait_with_output()?;
    let said = text(&done);
    ensure!(done.status.success() && said.contains("UPDATE 1"), "{said}");
    ensure!(said.contains("waiting for approval of UPDATE"), "the job was not told: {said}");
    Ok(())
}

fn is_recorded(world: &World) -> Result<()> {
    let sessions = ok(world.as_written("exec agent lockgate sessions list")?)?;
    ensure!(sessions.contains("orders-db") && sessions.contains("container"), "{sessions}");
    let verified = ok(world.as_written("exec agent lockgate audit verify")?)?;
    ensure!(verified.contains("intact"), "{verified}");
    let session = sessions.split_whitespace().find(|word| word.starts_with("ses_")).context("no session")?;
    let replayed = ok(world.compose(&["exec", "agent", "lockgate", "sessions", "replay", session])?)?;
    ensure!(replayed.contains("ana") && replayed.contains("tried by hand"), "{replayed}");
    Ok(())
}

fn is_refused(world: &World) -> Result<()> {
    let refused = world.compose(&["run", "--rm", "job", "-c", "delete from orders"])?;
    let said = text(&refused);
    ensure!(!refused.status.success() && said.contains("ERROR:  lockgate"), "{said}");
    let target = text(&world.compose(&["logs", "--no-color", "postgres"])?);
    ensure!(!target.contains("delete from orders"), "the database saw what is refused");
    Ok(())
}

fn goes_down(world: &World) -> Result<()> {
    let detached = ok(world.as_written("run --rm --no-deps agent agent --detach")?)?;
    ensure!(detached.contains("hooks removed"), "{detached}");
    ok(world.as_written("--profile job down --volumes")?)?;
    for what in [&["ps", "--all", "--quiet"][..], &["volume", "ls", "--quiet"]] {
        let left = ok(world.docker(what)?)?;
        ensure!(left.trim().is_empty(), "{what:?}: {left}");
    }
    let networks = ok(world.docker(&["network", "ls", "--format", "{{.Name}}"])?)?;
    ensure!(networks.lines().all(|name| matches!(name, "bridge" | "host" | "none")), "{networks}");
    let pinned: Vec<_> = fs::read_dir("/sys/fs/bpf")?.flatten().map(|entry| entry.path()).collect();
    let left = pinned.iter().filter(|path| fs::read_dir(path).is_ok_and(|mut below| below.next().is_some()));
    ensure!(left.count() == 0, "{pinned:?}");
    Ok(())
}

fn readme_is_run(_: &World) -> Result<()> {
    let readme = fs::read_to_string(quick_start().join("README.md"))?;
    let typed: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("$ docker compose ")).collect();
    ensure!(typed == README, "the README says {typed:#?}");
    Ok(())
}
