//! One laboratory per test: an instance of its own, cgroups of its own, a server that answers `direct`, and
//! the agent and client binaries. Everything is gone when the test ends, also when it fails.

use anyhow::{Context as _, Result, bail, ensure};
use lockgate_intercept::{Instance, detach};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::{
    cell::RefCell,
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Nothing that a test waits for takes longer, on an emulated machine neither.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A name that no other test of this or another run uses.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) struct Lab {
    instance: String,
    mount: PathBuf,
    pub(crate) server: Server,
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "capture tests need root: run `cargo xtask test` as root"
        );
        let mount = cgroup2_mount()?;
        let lab = Self { instance: unique(), mount, server: Server::start()? };
        fs::create_dir_all(lab.inside())?;
        fs::create_dir_all(lab.outside())?;
        Ok(lab)
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The governed cgroup as configuration names it.
    pub(crate) fn governed(&self) -> String {
        format!("/lockgate-test/{}/inside", self.instance)
    }

    fn base(&self) -> PathBuf {
        self.mount.join("lockgate-test").join(&self.instance)
    }

    pub(crate) fn inside(&self) -> PathBuf {
        self.base().join("inside")
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.base().join("outside")
    }

    pub(crate) fn directory(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }

    /// The server's port as a protected loopback target.
    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1/32:{}", self.server.port)
    }

    /// What most tests attach; more keys by `with`.
    pub(crate) fn request(&self) -> Value {
        json!({ "instance": self.instance, "cgroups": [self.governed()], "targets": [self.target()] })
    }

    pub(crate) fn agent(&self) -> Result<Agent> {
        Agent::start(&self.request())
    }

    pub(crate) fn agent_with(&self, more: Value) -> Result<Agent> {
        let mut request = self.request();
        let (Some(all), Some(more)) = (request.as_object_mut(), more.as_object()) else {
            bail!("requests are objects")
        };
        all.extend(more.clone());
        Agent::start(&request)
    }

    /// Runs a client to its end and gives its lines.
    pub(crate) fn client(&self, cgroup: &Path, arguments: &[&str]) -> Result<Vec<Value>> {
        self.client_as(cgroup, None, arguments)
    }

    pub(crate) fn client_as(
        &self,
        cgroup: &Path,
        uid: Option<u32>,
        arguments: &[&str],
    ) -> Result<Vec<Value>> {
        let mut client = Client::start(cgroup, uid, arguments)?;
        client.finish()
    }

    pub(crate) fn is_pinned(&self) -> bool {
        Path::new("/sys/fs/bpf/lockgate").join(format!("v1-{}", self.instance)).exists()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(instance) = Instance::new(&self.instance)
            && let Err(error) = detach(&instance, None)
        {
            eprintln!("cleaning up instance {}: {error}", self.instance);
        }
        for cgroup in [self.inside(), self.outside()] {
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
        let start = Instant::now();
        while remove_cgroups(&self.base()).is_err() && start.elapsed() < PATIENCE {
            // Members are dying; there is no event to wait for on an unpopulated subtree that is portable.
            thread::sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_dir(self.mount.join("lockgate-test"));
    }
}

fn remove_cgroups(directory: &Path) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// The mount of the whole cgroup-v2 hierarchy.
fn cgroup2_mount() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let line = text.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup2 mount")?;
    Ok(line.split(' ').nth(4).context("mountinfo")?.into())
}

/// A service on every address of this host that answers `direct` and closes.
pub(crate) struct Server {
    pub(crate) port: u16,
    listener: TcpListener,
}

impl Server {
    fn start() -> Result<Self> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.bind(&"[::]:0".parse::<SocketAddr>()?.into())?;
        socket.listen(1024)?;
        let listener: TcpListener = socket.into();
        let port = listener.local_addr()?.port();
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            for connection in accepting.incoming() {
                let Ok(mut connection) = connection else { return };
                // A client that does not read is none of the server's business.
                let _ = connection.write_all(b"direct\n");
            }
        });
        Ok(Self { port, listener })
    }

    pub(crate) fn at(&self, ip: &str) -> String {
        if ip.contains(':') { format!("[{ip}]:{}", self.port) } else { format!("{ip}:{}", self.port) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the accepting thread, which then ends.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// Lines of a child's standard output as JSON, with a bounded wait for each.
struct Lines(Receiver<Value>);

impl Lines {
    fn of(child: &mut Child) -> Result<Self> {
        let output = BufReader::new(child.stdout.take().context("standard output")?);
        let (send, receive) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "garbage": line }));
                if send.send(value).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receive))
    }

    fn next(&self) -> Result<Value> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(value) => Ok(value),
            Err(RecvTimeoutError::Timeout) => bail!("nothing within {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => bail!("the process ended"),
        }
    }
}

/// A running agent; killed when dropped.
pub(crate) struct Agent {
    /// It, or what waits for the service that it is.
    child: Child,
    /// Its own, once it is ready.
    pid: Option<u32>,
    input: Option<ChildStdin>,
    lines: Lines,
    kept: RefCell<VecDeque<Value>>,
    pub(crate) port: u16,
    pub(crate) ready: Value,
}

impl Agent {
    /// Starts one and waits until it is attached; its own error otherwise.
    pub(crate) fn start(request: &Value) -> Result<Self> {
        Self::spawn(&mut service(&Command::new(env!("CARGO_BIN_EXE_capture_agent")))?, request)
    }

    /// In another network namespace.
    pub(crate) fn start_in(namespace: &Namespace, request: &Value) -> Result<Self> {
        Self::spawn(&mut service(&namespace.command(env!("CARGO_BIN_EXE_capture_agent")))?, request)
    }

    fn spawn(command: &mut Command, request: &Value) -> Result<Self> {
        let mut child =
            command.arg(request.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = Lines::of(&mut child)?;
        let input = child.stdin.take();
        let mut agent =
            Self { child, pid: None, input, lines, kept: RefCell::default(), port: 0, ready: Value::Null };
        // What it tells meanwhile is kept.
        let first = loop {
            let line = agent.lines.next().context("the agent's first lines")?;
            ensure!(
                line["event"] != "failed" && line["garbage"].is_null(),
                "the agent did not attach: {line}"
            );
            if line["event"] == "ready" {
                break line;
            }
            agent.kept.borrow_mut().push_back(line);
        };
        agent.port = u16::try_from(first["port"].as_u64().context("port")?)?;
        agent.pid = Some(u32::try_from(first["pid"].as_u64().context("pid")?)?);
        agent.ready = first;
        Ok(agent)
    }

    /// The next event of a kind; others are kept for whoever asks for them.
    pub(crate) fn next(&self, event: &str) -> Result<Value> {
        let kept = self.kept.borrow().iter().position(|value| value["event"] == event);
        if let Some(value) = kept.and_then(|index| self.kept.borrow_mut().remove(index)) {
            return Ok(value);
        }
        loop {
            let value =
                self.lines.next().with_context(|| format!("waiting for {event:?}, got {:?}", self.kept))?;
            if value["event"] == event {
                return Ok(value);
            }
            self.kept.borrow_mut().push_back(value);
        }
    }

    pub(crate) fn flow(&self) -> Result<Value> {
        self.next("flow")
    }

    pub(crate) fn ask(&mut self, command: Value) -> Result<Value> {
        let input = self.input.as_mut().context("standard input")?;
        writeln!(input, "{command}")?;
        let answer = self.next("answer")?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{error}");
        }
        Ok(answer["answer"].clone())
    }

    pub(crate) fn counter(&mut self, name: &str) -> Result<u64> {
        self.ask(json!({ "command": "counters" }))?[name].as_u64().context("a counter")
    }

    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.send("KILL")?;
        }
        self.child.wait()?;
        Ok(())
    }

    fn send(&self, name: &str) -> Result<()> {
        let pid = self.pid.context("an agent that was ready")?.to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status()?;
        ensure!(status.success(), "kill -s {name}: {status}");
        Ok(())
    }

    /// Stops or continues it.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        self.send(name)?;
        // A thread that runs on another core stops a moment later.
        match name {
            "STOP" => eventually("the agent stands still", || self.stands_still()),
            _ => Ok(()),
        }
    }

    fn stands_still(&self) -> Result<bool> {
        let pid = self.pid.context("an agent that was ready")?;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // The state stands behind the name, which is in parentheses (proc(5)).
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            if !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a layer is in force.
    pub(crate) fn has(&self, layer: &str) -> bool {
        let layers = self.ready["layers"].as_array().into_iter().flatten();
        layers.clone().any(|state| state["layer"] == layer && state["active"] == true)
    }

    /// End of input: leaves in order, pins stay.
    pub(crate) fn quit(mut self) -> Result<()> {
        drop(self.input.take());
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(start.elapsed() < PATIENCE, "the agent does not leave");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.pid.is_none() || self.kill().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Where `LOCKGATE_TEST_UNIT` names the shipped unit, on a machine with systemd: the same command as a service with the
/// privileges that the unit leaves it. Elsewhere the command itself.
fn service(command: &Command) -> Result<Command> {
    /// What is not about privileges: how the program is started and watched, and where its state is.
    const NOT_TAKEN: &[&str] = &[
        "Type",
        "NotifyAccess",
        "ExecStart",
        "ExecReload",
        "Restart",
        "RestartSec",
        "WatchdogSec",
        "TimeoutStopSec",
        "KillMode",
        "StateDirectory",
        "StateDirectoryMode",
        "SyslogIdentifier",
    ];
    let (program, arguments) = (command.get_program(), command.get_args());
    let Some(unit) = std::env::var_os("LOCKGATE_TEST_UNIT") else {
        let mut same = Command::new(program);
        same.args(arguments);
        return Ok(same);
    };
    let text = fs::read_to_string(&unit).with_context(|| unit.display().to_string())?;
    let (_, section) = text.split_once("\n[Service]\n").context("a [Service] section")?;
    let (section, _) = section.split_once("\n[").unwrap_or((section, ""));
    let settings =
        section.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let mut run = Command::new("systemd-run");
    run.args(["--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"]);
    for (key, value) in settings.filter(|(key, _)| !NOT_TAKEN.contains(key)) {
        run.arg(format!("--property={key}={value}"));
    }
    run.arg("--").arg(program).args(arguments);
    Ok(run)
}

/// A running client; killed when dropped.
pub(crate) struct Client {
    child: Child,
    lines: Lines,
}

impl Client {
    pub(crate) fn start(cgroup: &Path, uid: Option<u32>, arguments: &[&str]) -> Result<Self> {
        Self::spawn(&mut Command::new(env!("CARGO_BIN_EXE_capture_client")), cgroup, uid, arguments)
    }

    /// By a command that runs the program it is given.
    pub(crate) fn start_by(mut command: Command, cgroup: &Path, arguments: &[&str]) -> Result<Self> {
        Self::spawn(command.arg(env!("CARGO_BIN_EXE_capture_client")), cgroup, None, arguments)
    }

    fn spawn(command: &mut Command, cgroup: &Path, uid: Option<u32>, arguments: &[&str]) -> Result<Self> {
        command.arg("--cgroup").arg(cgroup);
        if let Some(uid) = uid {
            command.args(["--uid", &uid.to_string()]);
        }
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = Lines::of(&mut child)?;
        Ok(Self { child, lines })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn line(&self) -> Result<Value> {
        self.lines.next()
    }

    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets a client that was started with `--wait` go on.
    pub(crate) fn go(&mut self) -> Result<()> {
        writeln!(self.child.stdin.as_mut().context("standard input")?)?;
        Ok(())
    }

    /// The rest of its lines, and success.
    pub(crate) fn finish(&mut self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.next() {
            lines.push(line);
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the client failed ({status}) after {lines:?}");
        Ok(lines)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A job that does what it is told, line by line (`capture_evader`).
pub(crate) struct Evader(Client);

impl Evader {
    /// In a cgroup.
    pub(crate) fn start(cgroup: &Path) -> Result<Self> {
        Self::spawn(&mut Command::new(env!("CARGO_BIN_EXE_capture_evader")), cgroup)
    }

    /// In another network namespace as well.
    pub(crate) fn start_in(namespace: &Namespace, cgroup: &Path) -> Result<Self> {
        Self::spawn(&mut namespace.command(env!("CARGO_BIN_EXE_capture_evader")), cgroup)
    }

    fn spawn(command: &mut Command, cgroup: &Path) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = Lines::of(&mut child)?;
        let mut evader = Self(Client { child, lines });
        let joined = evader.act(&format!("join {}", cgroup.display()))?;
        ensure!(joined == "done", "the job cannot join its cgroup: {joined}");
        Ok(evader)
    }

    /// Does one thing; gives what came of it.
    pub(crate) fn act(&mut self, line: &str) -> Result<String> {
        self.begin(line)?;
        self.outcome()
    }

    /// Begins something whose first outcome is not its last.
    pub(crate) fn begin(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.0.child.stdin.as_mut().context("standard input")?, "{line}")?)
    }

    pub(crate) fn outcome(&mut self) -> Result<String> {
        Ok(self.0.line()?["outcome"].as_str().context("an outcome")?.to_owned())
    }
}

/// A service on every address of this host that says back what it hears.
pub(crate) struct Echo {
    pub(crate) port: u16,
    listener: TcpListener,
}

impl Echo {
    pub(crate) fn start() -> Result<Self> {
        let listener = TcpListener::bind("[::]:0")?;
        let port = listener.local_addr()?.port();
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            for connection in accepting.incoming() {
                let Ok(connection) = connection else { return };
                thread::spawn(move || {
                    // A client that is cut off is what the test is about.
                    let _ = std::io::copy(&mut &connection, &mut &connection);
                });
            }
        });
        Ok(Self { port, listener })
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As a protected target.
    pub(crate) fn target(&self) -> String {
        format!("127.0.0.1/32:{}", self.port)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
    }
}

/// A hook that a test takes away, as root on the node could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook<'a> {
    /// One of the programs at the root.
    Socket(&'a str),
    /// The packet filters of all governed cgroups.
    Packet,
    /// All LSM programs.
    Lsm,
    /// All programs at the root.
    Sockets,
}

impl Lab {
    /// Kills the agent, which would put it back, and takes hooks away.
    pub(crate) fn take_away(&self, agent: &mut Agent, hooks: &[Hook<'_>]) -> Result<()> {
        agent.kill()?;
        for hook in hooks {
            self.detach(*hook)?;
        }
        Ok(())
    }

    /// Takes everything away, as an operator does, so that the next agent starts afresh.
    pub(crate) fn detach_all(&self) -> Result<()> {
        ensure!(detach(&Instance::new(&self.instance)?, None)?, "nothing was attached");
        Ok(())
    }

    /// Takes a hook away; a living agent may put it back.
    pub(crate) fn detach(&self, hook: Hook<'_>) -> Result<()> {
        let base = Path::new("/sys/fs/bpf/lockgate").join(format!("v1-{}", self.instance));
        match hook {
            Hook::Socket(name) => detach_link(&base.join("links").join(name)),
            Hook::Sockets => {
                let links = fs::read_dir(base.join("links"))?.collect::<Result<Vec<_>, _>>()?;
                ensure!(!links.is_empty(), "there are no socket hooks to take away");
                links.iter().try_for_each(|link| detach_link(&link.path()))
            }
            Hook::Packet => {
                let filters = fs::read_dir(base.join("egress"))?.collect::<Result<Vec<_>, _>>()?;
                ensure!(!filters.is_empty(), "there is no packet filter to take away");
                filters.iter().try_for_each(|filter| detach_link(&filter.path()))
            }
            // These links end with their last holder, which is the pin, and a moment later.
            Hook::Lsm => {
                for pin in fs::read_dir(base.join("lsm")).into_iter().flatten() {
                    fs::remove_file(pin?.path())?;
                }
                let mut job = Evader::start(&self.inside())?;
                eventually("LSM lets go", || Ok(job.act("socket 17 3 0")? == "done"))
            }
        }
    }
}

fn detach_link(path: &Path) -> Result<()> {
    let output = Command::new(env!("CARGO_BIN_EXE_capture_agent")).arg("detach-link").arg(path).output()?;
    ensure!(output.status.success(), "{}: {output:?}", path.display());
    Ok(())
}

/// A program that answers lines with JSON lines; killed when dropped.
pub(crate) struct Speaker {
    child: Child,
    lines: Lines,
}

impl Speaker {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = Lines::of(&mut child)?;
        Ok(Self { child, lines })
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        writeln!(self.child.stdin.as_mut().context("standard input")?, "{line}")?;
        Ok(())
    }

    pub(crate) fn line(&self) -> Result<Value> {
        self.lines.next()
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The `outcome` of every line.
pub(crate) fn outcomes(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["outcome"].as_str().unwrap_or("none")).collect()
}

/// Asks again and again until the answer is yes.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A network namespace with `lo` up; gone with its holder.
pub(crate) struct Namespace(Child);

impl Namespace {
    /// `setup` is a shell command that is run inside.
    pub(crate) fn new(setup: &str) -> Result<Self> {
        let script = format!("ip link set lo up && {setup} && echo ready && exec sleep 600");
        let mut child =
            Command::new("unshare").args(["--net", "sh", "-c", &script]).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("standard output")?;
        let namespace = Self(child);
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the namespace could not be set up with {setup:?}");
        Ok(namespace)
    }

    /// Its holder.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg(program);
        command
    }

    /// The process that keeps it.
    pub(crate) fn holder(&self) -> u32 {
        self.0.id()
    }

    /// Runs a shell command inside.
    pub(crate) fn run(&self, script: &str) -> Result<()> {
        let status = self.command("sh").args(["-c", script]).status()?;
        ensure!(status.success(), "{script:?} failed in the namespace: {status}");
        Ok(())
    }

    /// Starts a client inside.
    pub(crate) fn start_client(&self, cgroup: &Path, arguments: &[&str]) -> Result<Client> {
        Client::spawn(&mut self.command(env!("CARGO_BIN_EXE_capture_client")), cgroup, None, arguments)
    }

    /// Runs a client inside, and gives its one line.
    pub(crate) fn client(&self, cgroup: &Path, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command(env!("CARGO_BIN_EXE_capture_client"));
        let output = command.arg("--cgroup").arg(cgroup).args(arguments).output()?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
