//! A job that tries to get past capture. Does what each line of its standard input says, and answers with one JSON
//! line: `{"outcome": …}`. Driven by `tests/capture` and `tests/guest`.
//!
//! It keeps what it has opened, so that a test can change the world between two lines: start the agent, take a hook
//! away, pass a socket on.

#![allow(unsafe_code, reason = "raw sockets, descriptors in messages and devices have no safe wrapper")]

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, Error, IoSlice, IoSliceMut, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

/// Nothing on loopback takes longer; what is dropped shows as a timeout.
fn patience() -> Duration {
    lockgate_tests::matrix::patience()
}

/// A datagram arrives at once or not at all.
const HEARD_WITHIN: Duration = Duration::from_millis(700);

fn main() -> Result<()> {
    let mut evader = Evader::default();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let outcome = match evader.act(&words) {
            Ok(outcome) => outcome,
            Err(error) => match error.downcast_ref::<Error>() {
                Some(error) => name(error),
                None => format!("{error:#}"),
            },
        };
        println!("{}", json!({ "outcome": outcome }));
    }
    Ok(())
}

#[derive(Default)]
struct Evader {
    /// The socket that most lines are about.
    kept: Option<OwnedFd>,
    devices: Vec<std::fs::File>,
}

impl Evader {
    fn act(&mut self, words: &[&str]) -> Result<String> {
        let word = |index: usize| words.get(index).copied().context("another word");
        let address = |index: usize| -> Result<SocketAddr> { Ok(word(index)?.parse()?) };
        match word(0)? {
            "pid" => Ok(std::process::id().to_string()),
            "join" => {
                std::fs::write(format!("{}/cgroup.procs", word(1)?), "0")?;
                done()
            }
            "connect" => {
                self.kept = Some(TcpStream::connect_timeout(&address(1)?, patience())?.into());
                done()
            }
            "say" => say(self.kept()?),
            "sendfile" => send_a_file(self.kept()?),
            "udp-connect" => {
                let socket = UdpSocket::bind(any(address(1)?))?;
                socket.connect(address(1)?)?;
                self.kept = Some(socket.into());
                done()
            }
            "udp-say" => {
                rustix::io::write(self.kept()?, b"hello")?;
                done()
            }
            "udp-listen" => {
                let socket = UdpSocket::bind(address(1)?)?;
                socket.set_read_timeout(Some(HEARD_WITHIN * lockgate_tests::matrix::slowness()))?;
                self.kept = Some(socket.into());
                done()
            }
            "hear" => {
                let mut answer = [0; 64];
                let length = rustix::io::read(self.kept()?, &mut answer[..]).map_err(Error::from)?;
                Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).trim().to_owned())
            }
            "listen" => {
                let listener = std::net::TcpListener::bind(address(1)?)?;
                std::thread::spawn(move || {
                    for connection in listener.incoming().flatten() {
                        // A client that is gone wanted no answer.
                        let _ = (&connection).write_all(b"direct\n");
                    }
                });
                done()
            }
            "socket" => {
                self.kept = Some(socket(word(1)?.parse()?, word(2)?.parse()?, word(3)?.parse()?)?);
                done()
            }
            "raw-send" => raw_send(self.kept()?, address(1)?),
            "packet-send" => packet_send(self.kept()?, &words[1..]),
            "dial-kept" => {
                let address = address(1)?;
                rustix::net::connect(self.kept()?, &address).map_err(Error::from)?;
                done()
            }
            "ask" => ask(TcpStream::connect_timeout(&address(1)?, patience())?),
            "ask-kept" => {
                let address = address(1)?;
                rustix::net::connect(self.kept()?, &address).map_err(Error::from)?;
                ask(TcpStream::from(self.kept()?.try_clone()?))
            }
            "disconnect" => {
                rustix::net::connect_unspec(self.kept()?).map_err(Error::from)?;
                done()
            }
            "bind-shared" => {
                self.kept = Some(bind_shared(address(1)?)?);
                done()
            }
            "become" => become_user(word(1)?.parse()?),
            "make" => {
                std::fs::create_dir(word(1)?)?;
                done()
            }
            "born-in" => born_in(word(1)?, address(2)?),
            "race" => race(&words[1..]),
            "fill" => fill_option_memory(self.kept()?),
            "dial" => dial_times(address(1)?, words.get(2).map_or(Ok(1), |count| count.parse())?),
            "tun" => {
                self.devices.push(tunnel()?);
                done()
            }
            "pass" => pass(self.kept()?, word(1)?),
            "take" => {
                self.kept = Some(take(word(1)?)?);
                done()
            }
            "descriptor" => Ok(self.kept()?.as_raw_fd().to_string()),
            "steal" => {
                self.kept = Some(steal(word(1)?.parse()?, word(2)?.parse()?)?);
                done()
            }
            other => bail!("no {other:?}"),
        }
    }

    fn kept(&self) -> Result<&OwnedFd> {
        self.kept.as_ref().context("nothing is kept")
    }
}

fn done() -> Result<String> {
    Ok("done".to_owned())
}

fn any(address: SocketAddr) -> SocketAddr {
    let text = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    text.parse().unwrap_or(address)
}

fn checked(result: i64) -> io::Result<i32> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as i32) }
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three numbers.
    let fd = checked(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into())?;
    // SAFETY: just returned, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Says something on the kept connection; the other side says it back.
fn say(kept: &OwnedFd) -> Result<String> {
    let mut stream = TcpStream::from(kept.try_clone()?);
    stream.set_read_timeout(Some(patience()))?;
    stream.write_all(b"ping\n")?;
    heard(&mut stream)
}

fn heard(stream: &mut TcpStream) -> Result<String> {
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).trim().to_owned())
}

/// The same, without a call that names data.
fn send_a_file(kept: &OwnedFd) -> Result<String> {
    let mut file = tempfile::tempfile()?;
    file.write_all(b"ping\n")?;
    let mut offset = 0;
    // SAFETY: two descriptors of this process and an offset of this frame.
    let sent = unsafe { libc::sendfile(kept.as_raw_fd(), file.as_raw_fd(), &raw mut offset, 5) };
    checked(sent as i64)?;
    let mut stream = TcpStream::from(kept.try_clone()?);
    stream.set_read_timeout(Some(patience()))?;
    heard(&mut stream)
}

fn dial_times(address: SocketAddr, times: usize) -> Result<String> {
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..times {
        let outcome = match TcpStream::connect_timeout(&address, patience()) {
            Ok(_) => "connected".to_owned(),
            Err(error) => name(&error),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    match outcomes.len() {
        1 => outcomes.into_keys().next().context("one outcome"),
        _ => Ok(format!("{outcomes:?}")),
    }
}

/// Who answers on a connection.
fn ask(mut stream: TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(patience()))?;
    heard(&mut stream)
}

/// A listening socket that shares its port with whoever of the same user shares it too.
fn bind_shared(address: SocketAddr) -> Result<OwnedFd> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

fn become_user(uid: u32) -> Result<String> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    done()
}

/// A child that begins its life in another cgroup, and connects as the first thing it does.
fn born_in(cgroup: &str, address: SocketAddr) -> Result<String> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000; // linux/sched.h
    const ANSWERS: [&str; 4] = ["direct", "proxy", "refused", "something else"];
    let directory = std::fs::File::open(cgroup)?;
    // SAFETY: all zeroes is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = directory.as_raw_fd() as u64;
    // SAFETY: like fork(); this process has one thread, so the child may go on as it likes.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if checked(pid)? == 0 {
        let outcome = match TcpStream::connect_timeout(&address, patience()).map_err(anyhow::Error::from) {
            Ok(stream) => ask(stream).unwrap_or_default(),
            Err(error) => error.downcast_ref::<Error>().map(name).unwrap_or_default(),
        };
        let code = ANSWERS.iter().position(|answer| *answer == outcome).unwrap_or(ANSWERS.len() - 1);
        // SAFETY: ends the child without running what the parent has registered.
        unsafe { libc::_exit(code as i32) }
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made.
    checked(i64::from(unsafe { libc::waitpid(pid as i32, &raw mut status, 0) }))?;
    let answer = ANSWERS.get(libc::WEXITSTATUS(status) as usize).context("an exit status")?;
    Ok((*answer).to_owned())
}

/// `PARENT NAME TIMES ADDRESS HOME [CHILD]`: makes a cgroup, enters it, or one below it, and connects at once; again
/// and again, each time a new one. Gives what came of it, and how often.
fn race(words: &[&str]) -> Result<String> {
    let [parent, base, times, address, home, child @ ..] = words else {
        bail!("PARENT NAME TIMES ADDRESS HOME")
    };
    let address: SocketAddr = address.parse()?;
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for turn in 0..times.parse::<usize>()? {
        let unit = std::path::Path::new(parent).join(base.replace('*', &turn.to_string()));
        let lived_in = child.iter().fold(unit.clone(), |path, child| path.join(child));
        std::fs::create_dir_all(&lived_in)?;
        std::fs::write(lived_in.join("cgroup.procs"), "0")?;
        let outcome = match TcpStream::connect_timeout(&address, patience()) {
            Ok(stream) => ask(stream)?,
            Err(error) => name(&error),
        };
        *outcomes.entry(outcome).or_default() += 1;
        std::fs::write(std::path::Path::new(home).join("cgroup.procs"), "0")?;
        if lived_in != unit {
            std::fs::remove_dir(&lived_in)?;
        }
        std::fs::remove_dir(&unit)?;
    }
    Ok(outcomes.into_keys().collect::<Vec<_>>().join(" "))
}

/// An IPv4 packet with a UDP datagram, written by hand.
fn datagram(from: Ipv4Addr, to: SocketAddrV4) -> Vec<u8> {
    const PAYLOAD: &[u8] = b"by hand";
    let length = 20 + 8 + PAYLOAD.len();
    let mut packet = vec![0x45, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.ip().octets());
    let sum = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(40_000u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(((8 + PAYLOAD.len()) as u16).to_be_bytes());
    // No checksum: allowed over IPv4.
    packet.extend([0, 0]);
    packet.extend(PAYLOAD);
    packet
}

/// Through a raw socket with IP_HDRINCL (IPPROTO_RAW).
fn raw_send(kept: &OwnedFd, to: SocketAddr) -> Result<String> {
    let SocketAddr::V4(to) = to else { bail!("an IPv4 address") };
    let packet = datagram(Ipv4Addr::LOCALHOST, to);
    let address = SocketAddr::from((*to.ip(), 0));
    rustix::net::sendto(kept, &packet, rustix::net::SendFlags::empty(), &address).map_err(Error::from)?;
    done()
}

/// `INTERFACE MAC FROM TO [bypass]`: an Ethernet frame through the kept AF_PACKET socket.
fn packet_send(kept: &OwnedFd, words: &[&str]) -> Result<String> {
    let [interface, mac, from, to, rest @ ..] = words else { bail!("INTERFACE MAC FROM TO") };
    let mac = mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<u8>, _>>()?;
    let mut frame = mac.clone();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    frame.extend(datagram(from.parse()?, to.parse()?));
    if rest == ["bypass"] {
        const PACKET_QDISC_BYPASS: i32 = 20; // linux/if_packet.h
        let on = 1i32;
        // SAFETY: an option of four bytes of this frame.
        let set = unsafe {
            libc::setsockopt(
                kept.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_QDISC_BYPASS,
                (&raw const on).cast(),
                4,
            )
        };
        checked(set.into())?;
    }
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = 0x0800u16.to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(*interface)? as i32;
    address.sll_halen = 6;
    address.sll_addr[..6].copy_from_slice(&mac);
    // SAFETY: the frame and the address live through the call, with their lengths.
    let sent = unsafe {
        libc::sendto(
            kept.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    checked(sent as i64)?;
    done()
}

/// Attaches the largest filters that the socket has room for, so that nothing else can be stored with it.
fn fill_option_memory(kept: &OwnedFd) -> Result<String> {
    let (mut low, mut step) = (0u16, 2048u16);
    while step > 0 {
        // While one filter replaces another both count.
        detach_filter(kept);
        if attach_filter(kept, low + step).is_ok() {
            low += step;
        }
        step /= 2;
    }
    detach_filter(kept);
    attach_filter(kept, low)?;
    Ok(format!("{low} instructions"))
}

fn detach_filter(kept: &OwnedFd) {
    let none = 0i32;
    // SAFETY: an option of four bytes of this frame. Where there is no filter there is nothing to do.
    unsafe {
        libc::setsockopt(
            kept.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_DETACH_FILTER,
            (&raw const none).cast(),
            4,
        )
    };
}

fn attach_filter(kept: &OwnedFd, length: u16) -> io::Result<()> {
    // "accept the packet", again and again.
    let mut program = vec![libc::sock_filter { code: 6, jt: 0, jf: 0, k: u32::MAX }; usize::from(length)];
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the option's value points to the program, which lives through the call.
    let set = unsafe {
        libc::setsockopt(
            kept.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    checked(set.into()).map(drop)
}

fn tunnel() -> Result<std::fs::File> {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca; // linux/if_tun.h
    const IFF_TUN: i16 = 1;
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = IFF_TUN;
    // SAFETY: the request reads and writes the ifreq that it is given.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) }.into())?;
    Ok(device)
}

/// Passes the kept socket to whoever asks at a path.
fn pass(kept: &OwnedFd, path: &str) -> Result<String> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let listener = UnixListener::bind(path)?;
    // The test waits for this line before it lets the other side ask.
    println!("{}", json!({ "outcome": "waiting" }));
    let (peer, _) = listener.accept()?;
    let descriptors = [kept.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None)?;
    done()
}

fn take(path: &str) -> Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let peer = UnixStream::connect(path)?;
    peer.set_read_timeout(Some(patience()))?;
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(peer.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    // The kernel says that it has left descriptors out.
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        bail!("nothing came");
    }
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(fd) = descriptors.first()
        {
            // SAFETY: the kernel has just put it into this process.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    bail!("nothing came")
}

fn steal(pid: i32, descriptor: i32) -> Result<OwnedFd> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let pid = Pid::from_raw(pid).context("a process")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::from)?;
    Ok(pidfd_getfd(process, descriptor, PidfdGetfdFlags::empty()).map_err(Error::from)?)
}

/// `EPERM`, `refused`, …: what a test compares.
fn name(error: &Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => "EPERM".to_owned(),
        Some(libc::ECONNREFUSED) => "refused".to_owned(),
        Some(libc::ECONNABORTED) => "aborted".to_owned(),
        Some(libc::ECONNRESET) => "reset".to_owned(),
        Some(libc::EPROTONOSUPPORT) => "EPROTONOSUPPORT".to_owned(),
        Some(libc::EAGAIN) => "timed out".to_owned(),
        _ if error.kind() == io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
