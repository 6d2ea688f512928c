//! The smallest agent: attaches one instance, answers every redirected connection with `proxy`, and
//! tells on standard output whose it was. Driven by `tests/capture.rs`; speaks JSON lines.
//!
//! It is a process of its own because an agent moves itself into its own cgroup, and because it has to be
//! killed. Standard input takes one command a line; its end means quit.

use anyhow::{Context as _, Result};
use lockgate_intercept::{
    CaptureEvent, Direction, Egress, EgressNet, Governed, GovernedSet, Instance, Interceptor, Settings,
    TargetNet,
};
use lockgate_model::{addr::ClientAddr, port::Attributor as _};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, ErrorKind, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// What to attach, as the first argument.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    instance: String,
    #[serde(default)]
    cgroups: Vec<String>,
    #[serde(default)]
    uids: Vec<u32>,
    #[serde(default)]
    units: Vec<String>,
    /// Parents, and globs over the names of what is made directly below them.
    #[serde(default)]
    within: Vec<(String, String)>,
    #[serde(default)]
    targets: Vec<String>,
    /// Names of targets, with their ports.
    #[serde(default)]
    names: BTreeMap<String, BTreeSet<u16>>,
    /// Refuse what is not registered, but for these.
    #[serde(default)]
    deny_but: Option<Vec<String>>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    run_cgroup: Option<String>,
    /// Attribute each flow as well (reads /proc).
    #[serde(default)]
    attribute: bool,
    /// Count flows instead of telling each.
    #[serde(default)]
    quiet: bool,
    /// Dial this address all the time: traffic of the proxy itself.
    #[serde(default)]
    dial: Option<SocketAddr>,
    /// Dial where the client wanted to go, from the client's network namespace, and pass the answer on.
    #[serde(default)]
    relay: bool,
    /// Accept nothing before the command `accept`: clients can be gone by then.
    #[serde(default)]
    hold: bool,
}

#[derive(Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    Targets {
        targets: Vec<String>,
    },
    Counters,
    Health,
    Accept,
    /// In how many other namespaces it listens.
    Namespaces,
    /// Addresses that jobs were told of names.
    Learned,
    /// Puts the packet filter on an interface: `in` or `out`.
    Guard {
        interface: String,
        direction: String,
    },
    /// The same on the host's ends of governed namespaces' veth pairs.
    GuardNamespaces {
        wanted: bool,
    },
    /// Interfaces with the filter.
    Guarded,
    Unguard {
        interface: String,
        direction: String,
    },
    Layers,
    Bypassed,
    SelfTest,
    Place {
        pid: u32,
        start_ticks: u64,
    },
}

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).context("one argument: the request as JSON, or detach")?;
    if argument == "detach" {
        let instance = Instance::new(&std::env::args().nth(2).context("detach INSTANCE")?)?;
        tell(&json!({ "event": "detached", "found": lockgate_intercept::detach(&instance, None)? }));
        return Ok(());
    }
    if argument == "doctor" {
        let instance = Instance::new(&std::env::args().nth(2).context("doctor INSTANCE")?)?;
        let mut checks = lockgate_intercept::probe(&instance);
        checks.extend(lockgate_intercept::prove());
        tell(
            &json!({ "event": "checks", "checks": checks, "pid": std::process::id(), "cgroup": std::fs::read_to_string("/proc/self/cgroup")? }),
        );
        return Ok(());
    }
    if argument == "set-abi" {
        let path = std::env::args().nth(2).context("set-abi PATH VERSION")?;
        return set_abi(&path, std::env::args().nth(3).context("set-abi PATH VERSION")?.parse()?);
    }
    if argument == "detach-link" {
        return detach_link(&std::env::args().nth(2).context("detach-link PATH")?);
    }
    let request: Request = serde_json::from_str(&argument)?;
    match Interceptor::attach(settings(&request)?) {
        Ok(interceptor) => serve(&request, interceptor),
        Err(error) => {
            tell(&json!({ "event": "failed", "kind": error.kind(), "error": error.to_string() }));
            std::process::exit(1)
        }
    }
}

fn settings(request: &Request) -> Result<Settings> {
    let governed = request.cgroups.iter().cloned().map(Governed::Cgroup);
    let governed = governed.chain(request.uids.iter().copied().map(Governed::Uid));
    let governed = governed.chain(request.units.iter().cloned().map(Governed::Unit));
    let within = request.within.iter().cloned();
    let governed = governed.chain(within.map(|(parent, pattern)| Governed::UnitWithin { parent, pattern }));
    let egress = egress(request.deny_but.as_deref())?;
    let governed = governed.map(|who| GovernedSet { who, egress: egress.clone() }).collect();
    Ok(Settings {
        instance: Instance::new(&request.instance)?,
        governed,
        targets: targets(&request.targets)?,
        port: request.port,
        bpffs: None,
        run_cgroup: request.run_cgroup.clone(),
        names: request.names.clone(),
    })
}

/// `10.0.0.0/8:443`, or without a port.
fn egress(deny_but: Option<&[String]>) -> Result<Egress> {
    let Some(texts) = deny_but else { return Ok(Egress::Allow) };
    let net = |text: &String| {
        let (address, rest) = text.split_once('/')?;
        let (prefix, port) = rest.split_once(':').map_or((rest, None), |(prefix, port)| (prefix, Some(port)));
        let port = port.map(str::parse).transpose().ok()?;
        EgressNet::new(address.parse().ok()?, prefix.parse().ok()?, port)
    };
    let nets = texts.iter().map(|text| net(text).with_context(|| format!("destination {text:?}")));
    Ok(Egress::Deny(nets.collect::<Result<_>>()?))
}

/// `10.0.0.0/8:5432`
fn targets(texts: &[String]) -> Result<Vec<TargetNet>> {
    texts.iter().map(|text| target(text).with_context(|| format!("target {text:?}"))).collect()
}

fn target(text: &str) -> Option<TargetNet> {
    let (net, port) = text.rsplit_once(':')?;
    let (address, prefix) = net.split_once('/')?;
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    TargetNet::new(address, prefix.parse().ok()?, port.parse().ok()?)
}

fn serve(request: &Request, interceptor: Interceptor) -> Result<()> {
    let interceptor = Arc::new(interceptor);
    if let Some(address) = request.dial {
        let (report, results) = mpsc::sync_channel::<Value>(1024);
        thread::spawn(move || dial_for_ever(address, &report));
        thread::spawn(move || results.iter().for_each(|result| tell(&result)));
    }
    let gate = Arc::new(Gate::default());
    if !request.hold {
        gate.open();
    }
    let style = Style { attribute: request.attribute, quiet: request.quiet, relay: request.relay };
    let accepting = {
        let (interceptor, gate) = (Arc::clone(&interceptor), Arc::clone(&gate));
        move |listener: TcpListener| {
            let (interceptor, gate) = (Arc::clone(&interceptor), Arc::clone(&gate));
            thread::spawn(move || {
                gate.wait();
                accept(&listener, &interceptor, style);
            });
        }
    };
    for listener in interceptor.listeners()? {
        listener.set_nonblocking(false)?;
        accepting(listener);
    }
    interceptor.serve_namespaces(move |listener| match listener.set_nonblocking(false) {
        Ok(()) => accepting(listener),
        Err(error) => tell(&json!({ "event": "accept_failed", "error": error.to_string() })),
    });
    let mut events = interceptor.events();
    thread::spawn(move || {
        while let Some(event) = events.blocking_recv() {
            tell(&capture_event(&event));
        }
    });
    tell(&json!({
        "event": "ready",
        "pid": std::process::id(),
        "port": interceptor.port(),
        "adopted": interceptor.adopted(),
        "pins": interceptor.pin_directory(),
        "listeners": interceptor.listeners()?.len(),
        "abilities": interceptor.abilities(),
        "layers": interceptor.layers(),
    }));
    for line in std::io::stdin().lock().lines() {
        tell(&answer(&interceptor, &gate, &line?));
    }
    Ok(())
}

/// Closed until somebody opens it.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_while(open, |open| !*open));
    }
}

fn answer(interceptor: &Interceptor, gate: &Gate, line: &str) -> Value {
    let result = serde_json::from_str(line).map_err(anyhow::Error::from).and_then(|command| match command {
        Command::Targets { targets: texts } => {
            interceptor.set_targets(targets(&texts)?)?;
            Ok(json!({}))
        }
        Command::Counters => {
            let counters = interceptor.counters();
            Ok(json!({
                "redirected": counters.redirected,
                "attributed": counters.attributed,
                "unattributed": counters.unattributed,
                "refused": counters.refused,
                "unregistered": counters.unregistered,
                "unasked": counters.unasked,
            }))
        }
        Command::Health => {
            let health = interceptor.health();
            Ok(json!({ "whole": health.whole, "repinned": health.repinned, "detached": health.detached }))
        }
        Command::Accept => {
            gate.open();
            Ok(json!({}))
        }
        Command::Guard { interface, direction } => {
            interceptor.guard(number_of(&interface)?, direction_of(&direction)?)?;
            Ok(json!({}))
        }
        Command::GuardNamespaces { wanted } => {
            interceptor.guard_namespaces(wanted);
            Ok(json!({}))
        }
        Command::Guarded => Ok(json!(interceptor.guarded().len())),
        Command::Unguard { interface, direction } => {
            interceptor.unguard(number_of(&interface)?, direction_of(&direction)?);
            Ok(json!({}))
        }
        Command::Layers => Ok(json!(interceptor.layers())),
        Command::Bypassed => Ok(json!(interceptor.bypassed())),
        Command::Learned => {
            let all = interceptor.learned().into_iter();
            Ok(json!(all.map(|learned| format!("{} {}", learned.name, learned.address)).collect::<Vec<_>>()))
        }
        Command::Namespaces => Ok(json!(interceptor.namespaces())),
        Command::SelfTest => {
            interceptor.self_test()?;
            Ok(json!({}))
        }
        Command::Place { pid, start_ticks } => {
            let run = interceptor.place(pid, start_ticks)?;
            Ok(json!({ "path": run.path, "id": run.id }))
        }
    });
    match result {
        Ok(answer) => json!({ "event": "answer", "answer": answer }),
        Err(error) => json!({ "event": "answer", "error": format!("{error:#}") }),
    }
}

/// In the network namespace of the agent; /sys may show another one.
fn number_of(interface: &str) -> Result<u32> {
    Ok(nix::net::if_::if_nametoindex(interface)?)
}

fn direction_of(text: &str) -> Result<Direction> {
    match text {
        "in" => Ok(Direction::In),
        "out" => Ok(Direction::Out),
        other => anyhow::bail!("no direction {other:?}"),
    }
}

fn capture_event(event: &CaptureEvent) -> Value {
    match event {
        CaptureEvent::Refused(refused) => json!({
            "event": "refused", "reason": refused.reason, "pid": refused.pid, "count": refused.count,
            "destination": refused.destination,
        }),
        CaptureEvent::More { count } => json!({ "event": "more", "count": count }),
        CaptureEvent::Lost { count } => json!({ "event": "lost", "count": count }),
        CaptureEvent::HookLost { what, repaired } => {
            json!({ "event": "hook_lost", "what": what, "repaired": repaired })
        }
        CaptureEvent::HooksWhole => json!({ "event": "hooks_whole" }),
        CaptureEvent::Bypass(bypass) => json!({
            "event": "bypass", "pid": bypass.pid, "destination": bypass.destination,
            "protocol": bypass.protocol, "cut": bypass.cut,
        }),
    }
}

/// How connections are answered.
#[derive(Clone, Copy)]
struct Style {
    attribute: bool,
    quiet: bool,
    relay: bool,
}

fn accept(listener: &TcpListener, interceptor: &Interceptor, style: Style) {
    loop {
        match listener.accept() {
            // The address that accept gives is there even when the client is gone; getpeername's is not.
            Ok((connection, peer)) => answer_one(connection, peer, interceptor, style),
            // A client that was gone before accept.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            // Closed: nobody governed is left in its namespace.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return,
            Err(error) => tell(&json!({ "event": "accept_failed", "error": error.to_string() })),
        }
    }
}

fn answer_one(mut connection: TcpStream, peer: SocketAddr, interceptor: &Interceptor, style: Style) {
    match interceptor.flow(connection.as_fd(), ClientAddr(peer)) {
        Ok(flow) => {
            let answer = match style.relay {
                true => relay(interceptor, flow.netns_cookie, flow.original_dst.addr())
                    .unwrap_or_else(|error| format!("{error:#}")),
                false => "proxy".to_owned(),
            };
            // Data that came in the SYN and is not read would reset the connection, and the answer with it.
            let _ = nix::sys::socket::recv(
                connection.as_raw_fd(),
                &mut [0; 256],
                nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            );
            // A client that did not wait is no error here.
            let _ = writeln!(connection, "{answer}");
            if !style.quiet {
                let workload = style.attribute.then(|| interceptor.attribute(&flow));
                tell(&json!({ "event": "flow", "flow": flow, "workload": workload }));
            }
        }
        Err(error) => tell(&json!({ "event": "unattributed", "error": error.to_string() })),
    }
}

/// What the client's destination answers, when it is dialled from where the client is.
fn relay(interceptor: &Interceptor, netns: u64, destination: SocketAddr) -> Result<String> {
    use std::io::Read as _;
    let mut upstream = match interceptor.socket(netns, destination)? {
        Some(socket) => {
            let socket = socket2::Socket::from(socket);
            socket.set_nonblocking(false)?;
            socket.connect_timeout(&destination.into(), Duration::from_secs(5))?;
            TcpStream::from(socket)
        }
        None => TcpStream::connect(destination)?,
    };
    let mut answer = String::new();
    upstream.read_to_string(&mut answer)?;
    Ok(format!("relayed {}", answer.trim()))
}

/// The proxy's own connections; told each time, so that the test sees that they go on.
fn dial_for_ever(address: SocketAddr, report: &mpsc::SyncSender<Value>) {
    use std::io::Read as _;
    loop {
        let mut answer = String::new();
        let result =
            TcpStream::connect(address).and_then(|mut connection| connection.read_to_string(&mut answer));
        let outcome = result.map_or_else(|error| error.to_string(), |_| answer.trim().to_owned());
        if report.send(json!({ "event": "dialled", "outcome": outcome })).is_err() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Overwrites the first word of a pinned configuration, as a build with another ABI would have written it.
#[allow(
    unsafe_code,
    reason = "bpf(2) has no safe wrapper, and lockgate-intercept rightly offers no way to break its own pins"
)]
fn set_abi(path: &str, abi: u32) -> Result<()> {
    const CONFIG_BYTES: usize = 24;
    let bpf = |command: i64, attr: &mut [u64; 4]| {
        // SAFETY: 32 zero-padded bytes of union bpf_attr; the pointers in them outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    };
    let path = std::ffi::CString::new(path)?;
    let map = u64::try_from(bpf(7, &mut [path.as_ptr() as u64, 0, 0, 0])?)?;
    let (key, mut value) = (0u32, [0u8; CONFIG_BYTES]);
    let (key, pointer) = (&raw const key as u64, value.as_mut_ptr() as u64);
    bpf(1, &mut [map, key, pointer, 0])?;
    value[..4].copy_from_slice(&abi.to_ne_bytes());
    bpf(2, &mut [map, key, value.as_ptr() as u64, 0])?;
    Ok(())
}

/// Takes a pinned link off what it is attached to, as root on the node can, and leaves the pin.
#[allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]
fn detach_link(path: &str) -> Result<()> {
    let bpf = |command: i64, attr: &mut [u64; 4]| {
        // SAFETY: 32 zero-padded bytes of union bpf_attr; the path outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
    };
    const OBJ_GET: i64 = 7;
    const LINK_DETACH: i64 = 34;
    let path = std::ffi::CString::new(path)?;
    let link = u64::try_from(bpf(OBJ_GET, &mut [path.as_ptr() as u64, 0, 0, 0])?)?;
    bpf(LINK_DETACH, &mut [link, 0, 0, 0])?;
    Ok(())
}

/// One line; a reader that is gone ends the agent.
fn tell(value: &Value) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{value}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
