//! A client that knows nothing of lockgate: dials in one of the ways that `tests/capture` asks for, and
//! tells what it met, one JSON line per attempt.
//!
//! `capture_client [--cgroup DIR] [--uid N] [--wait] SCENARIO ARGUMENTS…`
//!
//! It joins the cgroup itself, before it makes its first socket (the `early-socket` scenario after).

use anyhow::{Context as _, Result, bail};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, connect, connect_unspec, recv, sendto,
        socket,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    num::NonZeroU32,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Nothing on loopback takes longer; a hang is a finding.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Options {
    cgroup: Option<String>,
    uid: Option<u32>,
    wait: bool,
    rest: Vec<String>,
}

fn main() -> Result<()> {
    let options = parse(std::env::args().skip(1))?;
    let mut words = options.rest.iter().map(String::as_str);
    let scenario = words.next().context("a scenario")?;
    let arguments: Vec<&str> = words.collect();
    let early = (scenario == "early-socket").then(|| tcp_for(parse_address(&arguments)?)).transpose()?;
    if let Some(cgroup) = &options.cgroup {
        join(cgroup)?;
    }
    if let Some(uid) = options.uid {
        nix::unistd::setuid(nix::unistd::Uid::from_raw(uid))?;
    }
    if options.wait {
        tell(&json!({ "event": "waiting", "pid": std::process::id() }));
        std::io::stdin().read_line(&mut String::new())?;
    }
    match scenario {
        "dial" => dial_often(&arguments),
        "hit-and-run" => hit_and_run(parse_address(&arguments)?),
        "linger" => linger(parse_address(&arguments)?),
        "thread" => in_a_thread(parse_address(&arguments)?),
        "exec" => connect_then_exec(parse_address(&arguments)?),
        "early-socket" => tell_answer(early.context("made above")?.as_fd(), parse_address(&arguments)?),
        "socket-for-child" => socket_for_child(&arguments),
        "connect-stdin" => tell_answer(std::io::stdin().as_fd(), parse_address(&arguments)?),
        "moved-out" => moved_out(&arguments),
        "stale" => stale(&arguments),
        "from-port" => from_port(&arguments),
        "fast-open" => fast_open(parse_address(&arguments)?),
        "sockets" => socket_kinds(),
        "udp" => udp(parse_address(&arguments)?),
        "bind" => bind(&arguments),
        "impersonate" => impersonate(parse_address(&arguments)?),
        "ask" => ask(&arguments),
        "overhear" => overhear(&arguments),
        "serve" => serve(parse_address(&arguments)?),
        "load" => load(&arguments),
        other => bail!("no scenario {other:?}"),
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--cgroup" => options.cgroup = Some(arguments.next().context("--cgroup DIR")?),
            "--uid" => options.uid = Some(arguments.next().context("--uid N")?.parse()?),
            "--wait" => options.wait = true,
            _ => {
                options.rest.push(argument);
                options.rest.extend(arguments.by_ref());
            }
        }
    }
    Ok(options)
}

fn join(cgroup: &str) -> Result<()> {
    std::fs::write(format!("{cgroup}/cgroup.procs"), "0").with_context(|| format!("join {cgroup}"))
}

fn parse_address(arguments: &[&str]) -> Result<SocketAddr> {
    Ok(arguments.first().context("an address")?.parse()?)
}

fn dial_often(arguments: &[&str]) -> Result<()> {
    let address = parse_address(arguments)?;
    let count = arguments.get(1).map_or(Ok(1), |count| count.parse())?;
    for _ in 0..count {
        tell(&dial(address));
    }
    Ok(())
}

/// Connects, asks who the peer is, reads what it says.
fn dial(address: SocketAddr) -> Value {
    let mut connection = match TcpStream::connect_timeout(&address, PATIENCE) {
        Ok(connection) => connection,
        Err(error) => return json!({ "outcome": errno_name(&error) }),
    };
    let peer = connection.peer_addr().map_or_else(|error| errno_name(&error), |peer| peer.to_string());
    let local = connection.local_addr().map(|local| local.to_string()).unwrap_or_default();
    json!({ "outcome": read_answer(&mut connection), "peer": peer, "local": local })
}

fn read_answer(connection: &mut TcpStream) -> String {
    let mut answer = String::new();
    let result =
        connection.set_read_timeout(Some(PATIENCE)).and_then(|()| connection.read_to_string(&mut answer));
    match result {
        // A peer that closes at once, without a word.
        Ok(0) => "eof".to_owned(),
        Ok(_) => answer.trim().to_owned(),
        Err(error) => errno_name(&error),
    }
}

/// Gone before anybody accepts.
fn hit_and_run(address: SocketAddr) -> Result<()> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    tell(
        &json!({ "outcome": "connected", "pid": std::process::id(), "local": connection.local_addr()?.to_string() }),
    );
    Ok(())
}

/// Connected until somebody ends it.
fn linger(address: SocketAddr) -> Result<()> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    tell(&json!({ "outcome": "connected", "pid": std::process::id() }));
    std::io::stdin().read_line(&mut String::new())?;
    drop(connection);
    Ok(())
}

fn in_a_thread(address: SocketAddr) -> Result<()> {
    let thread = std::thread::Builder::new().name("second-thread".to_owned());
    let answer = thread.spawn(move || dial(address))?.join().ok().context("the thread panicked")?;
    tell(&answer);
    Ok(())
}

/// The connection outlives the program that made it.
fn connect_then_exec(address: SocketAddr) -> Result<()> {
    let connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::empty())?;
    tell(&json!({ "outcome": "connected", "pid": std::process::id() }));
    Err(Command::new("/bin/sleep").arg("20").stdout(Stdio::null()).exec().into())
}

fn tcp_for(address: SocketAddr) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket(family, SocketType::STREAM, None)?)
}

fn tell_answer(fd: BorrowedFd<'_>, address: SocketAddr) -> Result<()> {
    tell(&connect_and_read(fd, address));
    Ok(())
}

fn connect_and_read(fd: BorrowedFd<'_>, address: SocketAddr) -> Value {
    match connect(fd, &address) {
        Ok(()) => json!({ "outcome": receive(fd) }),
        Err(error) => json!({ "outcome": errno_name(&error.into()) }),
    }
}

fn receive(fd: BorrowedFd<'_>) -> String {
    let mut buffer = [0; 64];
    match recv(fd, &mut buffer[..], RecvFlags::empty()) {
        Ok((_, 0)) => "eof".to_owned(),
        Ok((_, length)) => String::from_utf8_lossy(&buffer[..length]).trim().to_owned(),
        Err(error) => errno_name(&error.into()),
    }
}

/// `ADDRESS OUTSIDE`: a socket made here is connected by a child that leaves the cgroup first.
fn socket_for_child(arguments: &[&str]) -> Result<()> {
    let address = parse_address(arguments)?;
    let outside = arguments.get(1).context("a cgroup outside")?;
    let made = tcp_for(address)?;
    let status = Command::new(std::env::current_exe()?)
        .args(["--cgroup", outside, "connect-stdin", &address.to_string()])
        .stdin(Stdio::from(made))
        .status()?;
    if status.success() { Ok(()) } else { bail!("the child failed: {status}") }
}

/// `ADDRESS OUTSIDE`: makes a socket, leaves the governed cgroup, connects.
fn moved_out(arguments: &[&str]) -> Result<()> {
    let address = parse_address(arguments)?;
    let made = tcp_for(address)?;
    join(arguments.get(1).context("a cgroup outside")?)?;
    tell_answer(made.as_fd(), address)
}

/// `TARGET PROXY`: a socket that was redirected is disconnected and dials the proxy itself.
fn stale(arguments: &[&str]) -> Result<()> {
    let target = parse_address(arguments)?;
    let proxy: SocketAddr = arguments.get(1).context("the proxy's address")?.parse()?;
    let made = tcp_for(target)?;
    tell(&connect_and_read(made.as_fd(), target));
    connect_unspec(&made)?;
    tell(&connect_and_read(made.as_fd(), proxy));
    Ok(())
}

/// `ADDRESS PORT`: from a chosen source port.
fn from_port(arguments: &[&str]) -> Result<()> {
    let address = parse_address(arguments)?;
    let made = tcp_for(address)?;
    rustix::net::sockopt::set_socket_reuseaddr(&made, true)?;
    let port = arguments.get(1).context("a port")?.parse()?;
    rustix::net::bind(&made, &SocketAddr::new([127, 0, 0, 1].into(), port))?;
    tell_answer(made.as_fd(), address)
}

/// connect() and data in one sendto().
fn fast_open(address: SocketAddr) -> Result<()> {
    const MSG_FASTOPEN: u32 = 0x2000_0000; // linux/socket.h
    let made = tcp_for(address)?;
    let outcome = match sendto(&made, b"hello", SendFlags::from_bits_retain(MSG_FASTOPEN), &address) {
        Ok(_) => receive(made.as_fd()),
        Err(error) => errno_name(&error.into()),
    };
    tell(&json!({ "outcome": outcome }));
    Ok(())
}

/// Which sockets can be made at all.
fn socket_kinds() -> Result<()> {
    let number = |value: u32| NonZeroU32::new(value).map(Protocol::from_raw);
    let kinds = [
        ("tcp", SocketType::STREAM, None),
        ("udp", SocketType::DGRAM, None),
        ("raw-tcp", SocketType::RAW, number(6)),
        ("raw-any", SocketType::RAW, number(255)),
        ("mptcp", SocketType::STREAM, number(262)),
        ("udp-lite", SocketType::DGRAM, number(136)),
    ];
    for (name, kind, protocol) in kinds {
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let outcome = socket(family, kind, protocol)
                .map_or_else(|error| errno_name(&error.into()), |_| "made".to_owned());
            tell(&json!({ "kind": name, "family": family.as_raw(), "outcome": outcome }));
        }
    }
    Ok(())
}

fn udp(address: SocketAddr) -> Result<()> {
    let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let sent = UdpSocket::bind(any)?.send_to(b"hello", address).map(|_| ());
    let connected = UdpSocket::bind(any)?.connect(address);
    for (way, result) in [("sendto", sent), ("connect", connected)] {
        let outcome = result.map_or_else(|error| errno_name(&error), |()| "sent".to_owned());
        tell(&json!({ "way": way, "outcome": outcome }));
    }
    Ok(())
}

/// Tries to take a port, on every address form.
fn bind(arguments: &[&str]) -> Result<()> {
    let port = arguments.first().context("a port")?;
    for ip in ["127.0.0.1", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"] {
        let outcome = std::net::TcpListener::bind(format!("{ip}:{port}"));
        let outcome = outcome.map_or_else(|error| errno_name(&error), |_| "bound".to_owned());
        tell(&json!({ "ip": ip, "outcome": outcome }));
    }
    Ok(())
}

/// Listens in somebody else's place and answers `impostor` until it is killed.
fn impersonate(address: SocketAddr) -> Result<()> {
    let listener = match std::net::TcpListener::bind(address) {
        Ok(listener) => listener,
        Err(error) => {
            tell(&json!({ "outcome": errno_name(&error) }));
            return Ok(());
        }
    };
    tell(&json!({ "outcome": "bound" }));
    for connection in listener.incoming() {
        connection?.write_all(b"impostor\n")?;
    }
    Ok(())
}

/// `SERVER NAME A|AAAA [tcp|udp] [then ADDRESS…]`: asks a name server, over UDP unless told otherwise, and then dials
/// what it likes.
fn ask(arguments: &[&str]) -> Result<()> {
    let name = *arguments.get(1).context("a name")?;
    let kind: u16 = if arguments.get(2) == Some(&"AAAA") { 28 } else { 1 };
    let server = parse_address(arguments)?;
    let by_stream = arguments.get(3) == Some(&"tcp");
    let heard =
        match if by_stream { ask_by_stream(server, name) } else { ask_by_datagram(server, name, kind) } {
            Ok(answer) => {
                let records = answer.get(6..8).map(|count| u16::from_be_bytes([count[0], count[1]]));
                json!({ "outcome": "heard", "bytes": answer.len(), "records": records })
            }
            Err(error) => json!({ "outcome": "silence", "error": error.to_string() }),
        };
    match arguments.iter().position(|word| *word == "then") {
        Some(at) => {
            for address in &arguments[at + 1..] {
                tell(&dial(address.parse()?));
            }
        }
        None => tell(&heard),
    }
    Ok(())
}

/// How long a name server is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// RFC 1035, section 4.1: id, recursion desired, one question.
fn question(name: &str, kind: u16) -> Result<Vec<u8>> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len())?);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    Ok(query)
}

fn ask_by_datagram(server: SocketAddr, name: &str, kind: u16) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    socket.send_to(&question(name, kind)?, server)?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

/// RFC 7766: both kinds of addresses on one connection, as a resolver does it; the answer to the second is given.
fn ask_by_stream(server: SocketAddr, name: &str) -> Result<Vec<u8>> {
    let mut connection = TcpStream::connect_timeout(&server, PATIENCE)?;
    connection.set_read_timeout(Some(ANSWER_WITHIN))?;
    for kind in [28, 1] {
        let query = question(name, kind)?;
        connection.write_all(&[&u16::try_from(query.len())?.to_be_bytes()[..], &query].concat())?;
    }
    let mut answer = Vec::new();
    for _ in 0..2 {
        let mut length = [0; 2];
        connection.read_exact(&mut length)?;
        answer = vec![0; usize::from(u16::from_be_bytes(length))];
        connection.read_exact(&mut answer)?;
    }
    Ok(answer)
}

/// Waits on a socket of its own for a datagram that nobody was asked for, and then dials.
fn overhear(arguments: &[&str]) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    tell(&json!({ "outcome": "bound", "at": socket.local_addr()?.to_string() }));
    socket.recv(&mut [0; 4096])?;
    tell(&dial(parse_address(arguments)?));
    Ok(())
}

/// A service that tells each client which address it came from, until it is killed.
fn serve(address: SocketAddr) -> Result<()> {
    let listener = std::net::TcpListener::bind(address)?;
    tell(&json!({ "outcome": "bound" }));
    for connection in listener.incoming() {
        let mut connection = connection?;
        let peer = connection.peer_addr()?.ip();
        // A client that does not read is none of the service's business.
        let _ = writeln!(connection, "served {peer}");
    }
    Ok(())
}

/// `ADDRESS MILLISECONDS`: dials without a pause and counts what it meets.
fn load(arguments: &[&str]) -> Result<()> {
    let address = parse_address(arguments)?;
    let duration = Duration::from_millis(arguments.get(1).context("milliseconds")?.parse()?);
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let outcome = match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut connection) => read_answer(&mut connection),
            Err(error) => errno_name(&error),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    tell(&json!(outcomes));
    Ok(())
}

/// `refused`, `EPERM`, …: what a test compares.
fn errno_name(error: &std::io::Error) -> String {
    match Errno::from_io_error(error) {
        Some(Errno::CONNREFUSED) => "refused".to_owned(),
        Some(Errno::PERM) => "EPERM".to_owned(),
        Some(Errno::CONNRESET) => "reset".to_owned(),
        Some(Errno::PROTONOSUPPORT) => "EPROTONOSUPPORT".to_owned(),
        Some(Errno::ADDRINUSE) => "EADDRINUSE".to_owned(),
        Some(Errno::ADDRNOTAVAIL) => "EADDRNOTAVAIL".to_owned(),
        Some(other) => format!("{other}"),
        None => error.kind().to_string(),
    }
}

fn tell(value: &Value) {
    // The test that reads this may be gone; there is nobody left to tell.
    let _ = writeln!(std::io::stdout().lock(), "{value}");
}
