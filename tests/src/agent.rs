//! A running `lockgate agent` with a store, pins, cgroup and ports of its own; all of it goes with its guard.

use crate::{
    receiver::{DECISION_SECRET, Receiver, SECRET},
    scratch::{Scratch, free_port},
};
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long an agent may take until it is ready, on a busy two-core machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a test wants of its agent. Everything else is what the quick start has.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// One YAML list item per target, e.g. made by [`target`].
    pub targets: Vec<String>,
    /// The policy document; the empty one denies everything.
    pub policy: String,
    /// Where requests for approval go, and for which groups decisions from there count.
    pub webhook: Option<(String, Vec<String>)>,
    /// uid → groups, for `lockgate approvals approve`.
    pub local_approvers: Vec<(u32, Vec<String>)>,
    /// Who besides root may use `lockgate run`.
    pub run_uids: Vec<u32>,
    /// More YAML at the top level.
    pub extra: String,
    /// More lines below `api:`, indented by two; `PORT` is its port.
    pub api: String,
    /// Where the store goes; inside the scratch directory when empty.
    pub store: Option<PathBuf>,
    /// The database that takes the records from there.
    pub shared: Option<String>,
    /// More items of `govern:`.
    pub govern: Vec<String>,
    /// `node.restart_grace`, when it is not the default.
    pub restart_grace: Option<String>,
}

impl AgentOptions {
    /// Sends requests to this receiver.
    #[must_use]
    pub fn webhook(mut self, receiver: &Receiver, speaks_for: &[&str]) -> Self {
        self.webhook = Some((receiver.url(), speaks_for.iter().map(|group| (*group).to_owned()).collect()));
        self
    }
}

/// A `targets:` item for a PostgreSQL on loopback with a password.
pub fn target(name: &str, port: u16, user: &str, password_file: &Path, tags: &str) -> String {
    format!(
        "- name: {name}\n  protocol: postgres\n  addresses: [\"127.0.0.1:{port}\", \"[::1]:{port}\"]\n  tags: {{ {tags} }}\n  \
         upstream: {{ tls: disable, credential: {{ user: {user}, password: {{ file: {} }} }} }}\n",
        password_file.display()
    )
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    scratch: Scratch,
    instance: String,
    binary: PathBuf,
    config: PathBuf,
    api_port: u16,
    /// Its listener speaks TLS.
    tls: bool,
    /// How much of its log an earlier process wrote.
    said_before: usize,
}

impl Agent {
    /// Starts one and waits until it is ready.
    pub async fn start(options: AgentOptions) -> Result<Self> {
        let mut agent = Self::prepare(&options)?;
        agent.launch().await?;
        Ok(agent)
    }

    /// Writes its configuration without starting it.
    pub fn prepare(options: &AgentOptions) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let instance = format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scratch = Scratch::new("agent")?;
        let binary = scratch.path().join("lockgate");
        let built = built_binary("lockgate")?;
        // Jobs of other users start it too, and may not be able to reach the build directory.
        std::fs::hard_link(&built, &binary).or_else(|_| std::fs::copy(&built, &binary).map(drop))?;
        let api_port = free_port()?;
        scratch.write("policies/policy.yaml", &options.policy)?;
        let text = configuration(options, &scratch, &instance, api_port)?;
        let config = scratch.write("lockgate.yaml", &text)?;
        let tls = options.api.contains("tls:");
        Ok(Self { child: None, scratch, instance, binary, config, api_port, tls, said_before: 0 })
    }

    /// Starts (again) with the same configuration, store and pins.
    pub async fn launch(&mut self) -> Result<()> {
        self.said_before = self.log().len();
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let child = Command::new(&self.binary)
            .args(["agent", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("lockgate agent")?;
        self.child = Some(child);
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                self.child = None;
                bail!("lockgate agent ended with {status}:\n{}", self.log());
            }
            if self.ready().await {
                return Ok(());
            }
            if started.elapsed() > READY_WITHIN {
                bail!("lockgate agent is not ready after {READY_WITHIN:?}:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The binary under test, where every user can start it.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// `http://127.0.0.1:PORT`, or https where its listener speaks TLS.
    pub fn api(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.tls { "https" } else { "http" }, self.api_port)
    }

    /// Its cgroup for governed jobs, relative to the v2 mount.
    pub fn governed_cgroup(&self) -> String {
        format!("/lockgate-test-{}", self.instance)
    }

    /// Everything it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Runs `lockgate ARGUMENTS --config …` as root and waits for it.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let (verb, rest) =
            arguments.split_at(arguments.iter().take_while(|part| !part.starts_with('-')).count());
        Command::new(&self.binary)
            .args(verb)
            .arg("--config")
            .arg(&self.config)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("lockgate {}", arguments.join(" ")))
    }

    /// Runs a listing verb and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["--output", "json"]);
        let output = self.cli(&all)?;
        serde_json::from_slice(&output.stdout).map_err(|error| {
            anyhow!(
                "lockgate {}: {error}\n{}\n{}",
                all.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Every recorded event, oldest first, read from the segments on disk.
    pub fn events(&self) -> Result<Vec<Value>> {
        let mut events = Vec::new();
        let mut segments: Vec<_> = std::fs::read_dir(self.store().join("segments"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        segments.sort();
        for segment in segments {
            for line in std::fs::read_to_string(segment)?.lines() {
                if let Ok(value) = serde_json::from_str::<Value>(line) {
                    events.push(value);
                }
            }
        }
        Ok(events)
    }

    /// Everything in the log, as text.
    pub fn log_text(&self) -> Result<String> {
        Ok(self.events()?.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// Its store's directory.
    pub fn store(&self) -> PathBuf {
        let text = std::fs::read_to_string(&self.config).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("store: \"sled:"))
            .map(|rest| PathBuf::from(rest.trim_end_matches('"')))
            .unwrap_or_else(|| self.scratch.path().join("store"))
    }

    /// Replaces the policy file.
    pub fn write_policy(&self, text: &str) -> Result<()> {
        self.scratch.write("policies/policy.yaml", text).map(drop)
    }

    /// SIGKILL, and waits until it is gone. Pins stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits.
    pub async fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if child.try_wait()?.is_some() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = child.kill();
        let _ = child.wait();
        bail!("the agent did not end within 20 s of SIGTERM:\n{}", self.log())
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("agent.log")
    }

    async fn ready(&self) -> bool {
        if self.tls {
            let log = self.log();
            return log.get(self.said_before..).is_some_and(|said| said.contains(" is ready\n"));
        }
        http_status(self.api_port, "/readyz").await.is_some_and(|status| status == 200)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        let detached = self.cli(&["agent", "--detach"]);
        if !detached.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("lockgate agent --detach failed: {detached:?}");
        }
        for name in [self.governed_cgroup(), format!("/lockgate/agent-{}", self.instance)] {
            remove_cgroup(&name);
        }
        if std::thread::panicking() {
            eprintln!("── agent {} said:\n{}", self.instance, self.log());
        }
    }
}

/// The status of a GET on loopback.
pub async fn http_status(port: u16, path: &str) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let talk = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.ok()?;
        std::str::from_utf8(&head).ok()?.split(' ').nth(1)?.parse().ok()
    };
    tokio::time::timeout(Duration::from_secs(2), talk).await.ok().flatten()
}

/// A program of this workspace, built in the profile that runs now.
pub fn built_binary(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let candidates = here.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    candidates.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("{name} is not built; run `cargo build --package {name}` (cargo xtask test does)")
    })
}

/// Where cgroup v2 is mounted.
pub fn cgroup_mount() -> Result<PathBuf> {
    std::fs::read_to_string("/proc/self/mountinfo")?
        .lines()
        .find_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            filesystem.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4).map(PathBuf::from))?
        })
        .context("cgroup v2 is not mounted; try `mount -t cgroup2 none /sys/fs/cgroup`")
}

/// Ends what runs in a cgroup and removes it with its children.
pub fn remove_cgroup(relative: &str) {
    let Ok(mount) = cgroup_mount() else { return };
    let path = mount.join(relative.trim_start_matches('/'));
    if !path.is_dir() {
        return;
    }
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    let until = Instant::now() + Duration::from_secs(5);
    while path.is_dir() && Instant::now() < until {
        remove_tree(&path);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn remove_tree(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

fn configuration(options: &AgentOptions, scratch: &Scratch, instance: &str, api_port: u16) -> Result<String> {
    let store = options.store.clone().unwrap_or_else(|| scratch.path().join("store"));
    let mut text = format!(
        "node: {{ name: test-node, instance: {instance}{} }}\ngovern:\n- {{ cgroup: /lockgate-test-{instance} }}\n",
        options.restart_grace.as_ref().map(|grace| format!(", restart_grace: {grace}")).unwrap_or_default(),
    );
    for item in &options.govern {
        text.push_str(&format!("- {item}\n"));
    }
    if options.targets.is_empty() {
        text.push_str("targets: []\n");
    } else {
        text.push_str(&format!("targets:\n{}", options.targets.concat()));
    }
    text.push_str("policies: [\"policies/\"]\n");
    match &options.shared {
        Some(url) => text.push_str(&format!("store: \"{url}\"\nstore_dir: \"{}\"\n", store.display())),
        None => text.push_str(&format!("store: \"sled:{}\"\n", store.display())),
    }
    if let Some((url, speaks_for)) = &options.webhook {
        let secret = scratch.write_secret("webhook.secret", SECRET)?;
        let decision = scratch.write_secret("decision.secret", DECISION_SECRET)?;
        text.push_str(&format!(
            "webhooks:\n- {{ name: approvals, url: \"{url}\", secret: {{ file: {} }}, decision_secret: {{ file: {} }}, speaks_for: [{}] }}\n",
            secret.display(),
            decision.display(),
            speaks_for.join(", ")
        ));
    }
    text.push_str(&format!(
        "api:\n  listen: \"127.0.0.1:{api_port}\"\n{}",
        options.api.replace("PORT", &api_port.to_string())
    ));
    if !options.local_approvers.is_empty() {
        text.push_str("  local_approvers:\n");
        for (uid, groups) in &options.local_approvers {
            text.push_str(&format!("    {uid}: [{}]\n", groups.join(", ")));
        }
    }
    let uids: Vec<String> = options.run_uids.iter().map(u32::to_string).collect();
    text.push_str(&format!("run: {{ allow_uids: [{}] }}\n{}", uids.join(", "), options.extra));
    Ok(text)
}
