//! What `cargo xtask bench --connect` runs: how long `connect()` takes with the hooks and without them, and how much a
//! connection that is let through carries, in interleaved rounds; replaces its section of `bench/RESULTS.md`.
//!
//! The dialling is done by children in cgroups of their own, one governed and one not; this process is the server, and
//! with the hooks attached the smallest proxy. Hooks are attached and detached anew in every round.

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lockgate_bench::{
    results::{self, Section, machine},
    statistics::median,
};
use lockgate_intercept::{Governed, Instance, Interceptor, Settings, TargetNet, detach};
use lockgate_model::{addr::ClientAddr, port::Attributor as _};
use socket2::{Domain, Socket, Type};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[derive(Parser)]
struct Arguments {
    /// Interleaved rounds
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Connections per measurement
    #[arg(long, default_value_t = 3000)]
    connects: u32,
    /// MiB per transfer
    #[arg(long, default_value_t = 256)]
    mebibytes: u32,
    /// Be a child that dials what standard input says
    #[arg(long, hide = true)]
    client: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.client {
        return client();
    }
    let mut measured: BTreeMap<Case, Vec<f64>> = BTreeMap::new();
    let ground = Ground::new()?;
    for _ in 0..arguments.rounds {
        round(&ground, &arguments, &mut measured)?;
    }
    let text = report(&arguments, &measured)?;
    println!("{text}");
    results::store(Section::Connect, &text)
}

/// What is measured, in the order of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    Bare,
    Ungoverned,
    Unregistered,
    Redirected,
    Direct,
    Through,
    BareDown,
    Down,
    BareUp,
    Up,
}

impl Case {
    const fn what(self) -> &'static str {
        match self {
            Self::Bare => "`connect()`, no hooks",
            Self::Ungoverned => "`connect()`, ungoverned process",
            Self::Unregistered => "`connect()`, governed process, address that is no target",
            Self::Redirected => "`connect()`, governed process, target",
            Self::Direct => "`connect()` until the target's first byte is back, no hooks",
            Self::Through => "the same through the smallest proxy: redirected, attributed, dialled again",
            Self::BareDown => "receiving, no hooks",
            Self::Down => "receiving, governed process, address that is no target",
            Self::BareUp => "sending, no hooks",
            Self::Up => "sending, governed process, address that is no target",
        }
    }

    /// What it is compared with.
    const fn base(self) -> Self {
        match self {
            Self::Direct | Self::Through => Self::Direct,
            Self::Bare | Self::Ungoverned | Self::Unregistered | Self::Redirected => Self::Bare,
            Self::BareDown | Self::Down => Self::BareDown,
            Self::BareUp | Self::Up => Self::BareUp,
        }
    }

    const fn is_bulk(self) -> bool {
        matches!(self, Self::BareDown | Self::Down | Self::BareUp | Self::Up)
    }
}

fn round(ground: &Ground, arguments: &Arguments, measured: &mut BTreeMap<Case, Vec<f64>>) -> Result<()> {
    let Arguments { connects, mebibytes, .. } = *arguments;
    let mut inside = Dialler::start(&ground.inside)?;
    let mut outside = Dialler::start(&ground.outside)?;
    let (target, other) = (&ground.target, &ground.other);
    let mut note = |case: Case, nanos: f64| measured.entry(case).or_default().push(nanos);
    // Warm caches, and the same for everybody.
    inside.dial("connect", other.address, connects / 10)?;
    note(
        Case::Bare,
        f64::midpoint(
            inside.dial("connect", other.address, connects)?,
            outside.dial("connect", other.address, connects)?,
        ),
    );
    note(Case::Direct, inside.dial("byte", target.address, connects / 4)?);
    let bulk = |dialler: &mut Dialler, what: &str| dialler.dial(what, other.address, mebibytes);
    let before = (bulk(&mut inside, "down")?, bulk(&mut inside, "up")?);
    let hooks = Hooks::attach(ground)?;
    note(Case::Down, bulk(&mut inside, "down")?);
    note(Case::Up, bulk(&mut inside, "up")?);
    note(Case::Ungoverned, outside.dial("connect", other.address, connects)?);
    note(Case::Unregistered, inside.dial("connect", other.address, connects)?);
    note(Case::Redirected, inside.dial("connect", target.address, connects)?);
    note(Case::Through, inside.dial("byte", target.address, connects / 4)?);
    drop(hooks);
    // Before and after: a machine that gets busier or idler meanwhile favours nobody.
    note(Case::BareDown, f64::midpoint(before.0, bulk(&mut inside, "down")?));
    note(Case::BareUp, f64::midpoint(before.1, bulk(&mut inside, "up")?));
    Ok(())
}

fn report(arguments: &Arguments, measured: &BTreeMap<Case, Vec<f64>>) -> Result<String> {
    let of = |case: Case| median(measured.get(&case).map_or(&[], Vec::as_slice));
    let mut text = format!(
        "Machine: {}. Command: `cargo xtask bench --connect --rounds {}{}`.\n\n{} interleaved rounds, hooks attached and detached in \
         each, {} connections to loopback per measurement; medians of the rounds' medians, and of the rounds' ratios. Layers in force: \
         socket hooks, packet filter, sweep{}.\n\n| what | µs | ÷ no hooks |\n|---|---:|---:|\n",
        machine(),
        arguments.rounds,
        if cfg!(debug_assertions) { " --profile dev" } else { "" },
        arguments.rounds,
        arguments.connects,
        if lsm_is_in_force() { ", BPF LSM" } else { " (this kernel refuses BPF LSM)" }
    );
    let ratio = |case: Case| {
        let (values, bases) = (measured.get(&case), measured.get(&case.base()));
        let pairs = values.into_iter().flatten().zip(bases.into_iter().flatten());
        median(&pairs.map(|(value, base)| value / base).collect::<Vec<_>>())
    };
    for case in measured.keys().filter(|case| !case.is_bulk()) {
        writeln!(text, "| {} | {:.1} | {:.2} |", case.what(), of(*case) / 1000.0, ratio(*case))?;
    }
    let added = (of(Case::Through) - of(Case::Direct)) / 1000.0;
    writeln!(text, "\nFrom `connect()` to the first byte of the target, capture adds {added:.0} µs.")?;
    writeln!(
        text,
        "\nOne connection to an address that is no target and is let through, {} MiB at a time:\n\n| what | MB/s | ÷ no hooks |\n|---|---:|---:|",
        arguments.mebibytes
    )?;
    for case in measured.keys().filter(|case| case.is_bulk()) {
        let bytes = f64::from(arguments.mebibytes) * f64::from(MIB);
        let rate = bytes / of(*case) * 1000.0;
        writeln!(text, "| {} | {rate:.0} | {:.2} |", case.what(), 1.0 / ratio(*case))?;
    }
    Ok(text)
}

fn lsm_is_in_force() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").is_ok_and(|list| list.split(',').any(|name| name == "bpf"))
}

/// Two servers and two cgroups.
struct Ground {
    instance: Instance,
    /// The cgroup that this process came from.
    home: PathBuf,
    base: PathBuf,
    inside: PathBuf,
    outside: PathBuf,
    target: Server,
    other: Server,
}

impl Ground {
    fn new() -> Result<Self> {
        let name = format!("bench-{}", std::process::id());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup2 mount")?;
        let mount = Path::new(mount.split(' ').nth(4).context("mountinfo")?);
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no v2 cgroup")?;
        let (home, base) = (mount.join(own), mount.join(&name));
        let (inside, outside) = (base.join("inside"), base.join("outside"));
        fs::create_dir_all(&inside).context("this needs root")?;
        fs::create_dir_all(&outside)?;
        let instance = Instance::new(&name)?;
        Ok(Self { instance, home, base, inside, outside, target: Server::start()?, other: Server::start()? })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for directory in [&self.inside, &self.outside, &self.base] {
            // Its children are dead, but may not be gone.
            for _ in 0..100 {
                if fs::remove_dir(directory).is_ok() || !directory.exists() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

const MIB: u32 = 1024 * 1024;
/// Bytes of one read or write of a transfer.
const CHUNK: usize = 128 * 1024;

/// Answers a byte with a byte; `d` and a length with so many bytes, `u` and a length with a byte behind so many.
struct Server {
    address: SocketAddr,
}

impl Server {
    fn start() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        socket.listen(4096)?;
        let listener: TcpListener = socket.into();
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for mut connection in listener.incoming().flatten() {
                // One that is closed at once was a measurement of connect() alone.
                let _ = serve(&mut connection);
            }
        });
        Ok(Self { address })
    }
}

fn serve(connection: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    if byte != *b"d" && byte != *b"u" {
        return Ok(connection.write_all(&byte)?);
    }
    let mut length = [0; 8];
    connection.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    if byte == *b"d" {
        return send(&mut *connection, length);
    }
    receive(&mut *connection, length)?;
    Ok(connection.write_all(&byte)?)
}

fn send(mut to: impl std::io::Write, length: u64) -> Result<()> {
    let chunk = vec![0x55; CHUNK];
    let mut left = length;
    while left > 0 {
        let next = usize::try_from(left)?.min(CHUNK);
        to.write_all(&chunk[..next])?;
        left -= next as u64;
    }
    Ok(())
}

fn receive(mut from: impl std::io::Read, length: u64) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = length;
    while left > 0 {
        let next = usize::try_from(left)?.min(CHUNK);
        from.read_exact(&mut chunk[..next])?;
        left -= next as u64;
    }
    Ok(())
}

/// The hooks, and a proxy behind them; gone when dropped.
struct Hooks {
    instance: Instance,
    home: PathBuf,
    interceptor: Option<Arc<Interceptor>>,
    done: Arc<AtomicBool>,
    accepting: Vec<thread::JoinHandle<()>>,
}

impl Hooks {
    fn attach(ground: &Ground) -> Result<Self> {
        let governed = format!("/{}/inside", ground.instance.as_str());
        let target = ground.target.address;
        let settings = Settings {
            instance: ground.instance.clone(),
            governed: vec![Governed::Cgroup(governed).into()],
            targets: TargetNet::host(target.ip(), target.port()).into_iter().collect(),
            ..Settings::default()
        };
        let interceptor = Arc::new(Interceptor::attach(settings)?);
        let done = Arc::new(AtomicBool::new(false));
        let accept = |listener: TcpListener| {
            let (interceptor, done) = (Arc::clone(&interceptor), Arc::clone(&done));
            thread::spawn(move || proxy(&listener, &interceptor, &done))
        };
        let accepting = interceptor.listeners()?.into_iter().map(accept).collect();
        Ok(Self {
            instance: ground.instance.clone(),
            home: ground.home.clone(),
            interceptor: Some(interceptor),
            done,
            accepting,
        })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(interceptor) = self.interceptor.take() {
            interceptor.refuse();
        }
        for thread in self.accepting.drain(..) {
            let _ = thread.join();
        }
        // The agent's own cgroup goes only when nobody is in it.
        if let Err(error) = fs::write(self.home.join("cgroup.procs"), "0") {
            eprintln!("going back to {}: {error}", self.home.display());
        }
        if let Err(error) = detach(&self.instance, None) {
            eprintln!("detaching: {error}");
        }
    }
}

fn proxy(listener: &TcpListener, interceptor: &Interceptor, done: &AtomicBool) {
    let _ = listener.set_nonblocking(false);
    while let Ok((mut client, peer)) = listener.accept() {
        if done.load(Ordering::Relaxed) {
            return;
        }
        // A client that is gone was a measurement of connect() alone.
        let _ = relay(&mut client, peer, interceptor);
    }
}

fn relay(client: &mut TcpStream, peer: SocketAddr, interceptor: &Interceptor) -> Result<()> {
    let flow = interceptor.flow(client.as_fd(), ClientAddr(peer))?;
    let mut byte = [0];
    if client.read(&mut byte)? == 0 {
        return Ok(());
    }
    let mut upstream = TcpStream::connect(flow.original_dst.addr())?;
    upstream.write_all(&byte)?;
    upstream.read_exact(&mut byte)?;
    Ok(client.write_all(&byte)?)
}

/// A child in a cgroup.
struct Dialler {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Dialler {
    fn start(cgroup: &Path) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--client")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string())?;
        let input = child.stdin.take().context("standard input")?;
        let output = BufReader::new(child.stdout.take().context("standard output")?);
        Ok(Self { child, input, output })
    }

    /// Nanoseconds, the median of so many.
    fn dial(&mut self, what: &str, address: SocketAddr, times: u32) -> Result<f64> {
        writeln!(self.input, "{what} {address} {times}")?;
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "the dialling child ended");
        line.trim().parse().with_context(|| format!("the dialling child: {line}"))
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `connect|byte ADDRESS TIMES` or `down|up ADDRESS MEBIBYTES` per line.
fn client() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let [what, address, times] = words[..] else { anyhow::bail!("WHAT ADDRESS TIMES") };
        let (address, times): (SocketAddr, u32) = (address.parse()?, times.parse()?);
        let took: Result<Vec<f64>> = match what {
            "down" | "up" => transfer(what == "up", address, times).map(|took| vec![took]),
            _ => (0..times).map(|_| once(what == "byte", address)).collect(),
        };
        println!("{}", median(&took?));
    }
    Ok(())
}

fn once(byte: bool, address: SocketAddr) -> Result<f64> {
    let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // No TIME_WAIT: source ports would run out.
    socket.set_linger(Some(Duration::ZERO))?;
    let address = address.into();
    let start = Instant::now();
    socket.connect(&address)?;
    if byte {
        socket.write_all(b"x")?;
        let mut answer = [0];
        socket.read_exact(&mut answer)?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9)
}

/// From the first byte to the last.
fn transfer(up: bool, address: SocketAddr, mebibytes: u32) -> Result<f64> {
    let length = u64::from(mebibytes) * u64::from(MIB);
    let mut connection = TcpStream::connect(address)?;
    let start = Instant::now();
    connection.write_all(if up { b"u" } else { b"d" })?;
    connection.write_all(&length.to_be_bytes())?;
    if up {
        send(&mut connection, length)?;
        connection.read_exact(&mut [0])?;
    } else {
        receive(&mut connection, length)?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e9)
}
