//! Keeping listening sockets open while one agent leaves and the next one comes, so that a restart refuses nobody.
//!
//! An agent that ends in order starts a keeper: a process that does nothing but hold the listeners ([`keep`]). The
//! kernel queues connections meanwhile. The next agent takes them over ([`take`]). Nobody comes within the bound: the
//! keeper shuts the sockets down, and governed connections are refused at once, as they are after a crash.
//!
//! The agent hands the sockets over through a socket pair that is the keeper's standard input, and whose end says that
//! the agent is gone. The next agent meets the keeper at a path that only root may reach. What a socket is for is read
//! off the socket itself, so no word is said about it; nothing is believed of one that is not a listener.

use crate::container::leave_legacy_cgroups;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg,
        sendmsg, shutdown, socketpair, sockopt,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::TcpListener,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Descriptors in one message; the kernel takes 253 (`SCM_MAX_FD`).
const PER_MESSAGE: usize = 200;
/// Listeners that are kept at most: two for each namespace. Beyond that, pods are refused until the next agent listens.
const MAX_KEPT: usize = 8192;
/// Neither side is busy with anything else.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a keeper looks whether its agent has gone.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest that an agent may take from being told to end until it is gone; systemd kills it before.
const LEAVES_WITHIN: Duration = Duration::from_secs(90);
/// The next agent has what it needs.
const TAKEN: u8 = b't';

/// The agent's hold on its keeper. While it lives, the keeper waits without counting the time.
#[derive(Debug)]
pub struct Kept {
    _alive: OwnedFd,
}

/// Starts `command` as the keeper of these listeners. It has to call [`keep`].
///
/// # Errors
/// When it cannot be started, or the sockets not be handed over.
pub fn hand_over(mut command: Command, listeners: &[TcpListener]) -> io::Result<Kept> {
    let (own, its) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    command.stdin(Stdio::from(its)).stdout(Stdio::null());
    // It outlives its parent and is nobody's to wait for; init reaps it.
    command.spawn()?;
    // What it holds is a stream socket; whose end it hears. Read and write would both do.
    drop(command);
    send_all(own.as_fd(), listeners)?;
    shutdown(&own, Shutdown::Write).or_else(|error| match error {
        // It has died already: then there is nobody to keep anything.
        Errno::NOTCONN => Ok(()),
        other => Err(other),
    })?;
    Ok(Kept { _alive: own })
}

/// The keeper's whole life: takes the listeners from its standard input, holds them until the agent is gone and for
/// `bound` after that, and gives them to whoever comes to `path`. Shuts them down when nobody came.
///
/// # Errors
/// When there is nothing to keep, or nowhere to be met.
pub fn keep(agent: &OwnedFd, path: &Path, bound: Duration) -> io::Result<()> {
    // A container's runtime would end it with the agent. Then connections are refused, and nothing worse.
    if let Err(error) = leave_legacy_cgroups() {
        tracing::warn!(%error, "the keeper ends with its container: its cgroups of version 1 cannot be left");
    }
    let listeners = receive_all(agent.as_fd())?;
    let kept = Holding(&listeners);
    // Left by a keeper that was killed; a living one holds the same sockets, and whoever comes first is served.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let door = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    door.set_nonblocking(true)?;
    let _gone = RemoveFile(path);
    let mut until = Instant::now() + LEAVES_WITHIN;
    let mut left = false;
    while Instant::now() < until {
        if !left && has_left(agent.as_fd()) {
            left = true;
            until = Instant::now() + bound;
        }
        match door.accept() {
            Ok((next, _)) if give(&next, &listeners).is_ok() => {
                std::mem::forget(kept);
                return Ok(());
            }
            // One that died half-way: the next one gets them.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a keeper holds at `path`; nothing when there is none. The keeper ends when [`Taken::done`] is called; before
/// that, it would give the same sockets to another agent.
pub fn take(path: &Path) -> Taken {
    let ask = || -> io::Result<Taken> {
        let keeper = UnixStream::connect(path)?;
        keeper.set_read_timeout(Some(ANSWER_WITHIN))?;
        let listeners = receive_all(keeper.as_fd())?;
        Ok(Taken { listeners, keeper: Some(keeper) })
    };
    ask().unwrap_or_else(|error| {
        if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
            tracing::warn!(%error, "the listeners of the last agent cannot be taken over");
        }
        Taken::default()
    })
}

/// Listeners of the last agent.
#[derive(Debug, Default)]
pub struct Taken {
    /// All of them, in whatever namespace.
    pub listeners: Vec<TcpListener>,
    keeper: Option<UnixStream>,
}

impl Taken {
    /// Lets the keeper go.
    pub fn done(mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            // It may have reached its bound meanwhile.
            let _ = keeper.write_all(&[TAKEN]);
        }
    }
}

/// Shuts the sockets down when dropped: nobody has taken them.
struct Holding<'a>(&'a [TcpListener]);

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        for listener in self.0 {
            let _ = shutdown(listener, Shutdown::Both);
        }
    }
}

struct RemoveFile<'a>(&'a Path);

impl Drop for RemoveFile<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

fn give(next: &UnixStream, listeners: &[TcpListener]) -> io::Result<()> {
    next.set_nonblocking(false)?;
    next.set_read_timeout(Some(LEAVES_WITHIN))?;
    next.set_write_timeout(Some(ANSWER_WITHIN))?;
    if sockopt::socket_peercred(next)?.uid != rustix::process::geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    send_all(next.as_fd(), listeners)?;
    shutdown(next, Shutdown::Write)?;
    let mut answer = [0];
    let mut next = next;
    match next.read(&mut answer)? {
        1 if answer == [TAKEN] => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn send_all(to: BorrowedFd<'_>, listeners: &[TcpListener]) -> io::Result<()> {
    for batch in listeners.chunks(PER_MESSAGE) {
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(to, &[IoSlice::new(b"l")], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Until the other side has said everything.
fn receive_all(from: BorrowedFd<'_>) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    loop {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PER_MESSAGE))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let message =
            recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                listeners.extend(descriptors.filter(|fd| is_listener(fd.as_fd())).map(TcpListener::from));
            }
        }
        if message.bytes == 0 {
            return Ok(listeners);
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || listeners.len() > MAX_KEPT {
            return Err(io::Error::other("more descriptors than a keeper gives"));
        }
    }
}

fn is_listener(fd: BorrowedFd<'_>) -> bool {
    let stream = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
    stream && sockopt::socket_acceptconn(fd).unwrap_or(false)
}

/// The agent closed its end, or was closed.
fn has_left(agent: BorrowedFd<'_>) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(agent, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpStream, thread};

    /// A keeper in a thread of this process, as [`hand_over`] would have started one.
    fn keeper(
        listeners: Vec<TcpListener>,
        path: &Path,
        bound: Duration,
    ) -> (OwnedFd, thread::JoinHandle<io::Result<()>>) {
        let (own, its) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        send_all(own.as_fd(), &listeners).unwrap();
        shutdown(&own, Shutdown::Write).unwrap();
        drop(listeners);
        let path = path.to_owned();
        (own, thread::spawn(move || keep(&its, &path, bound)))
    }

    fn wait_for(path: &Path) {
        while !path.exists() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn connections_wait_with_the_keeper_and_reach_the_next_agent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (agent, keeping) = keeper(vec![listener], &path, Duration::from_secs(20));
        wait_for(&path);
        drop(agent);
        let mut client = TcpStream::connect(address).unwrap();
        // One that comes and dies does not take them away.
        drop(take(&path));
        let mut taken = take(&path);
        let listeners = std::mem::take(&mut taken.listeners);
        assert_eq!(listeners.len(), 1);
        taken.done();
        keeping.join().unwrap().unwrap();
        let (mut accepted, _) = listeners[0].accept().unwrap();
        accepted.write_all(b"served").unwrap();
        drop(accepted);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served");
        assert!(!path.exists() && take(&path).listeners.is_empty());
    }

    #[test]
    fn past_the_bound_connections_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keeper");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (agent, keeping) = keeper(vec![listener], &path, Duration::from_millis(50));
        wait_for(&path);
        // The bound begins when the agent is gone, not before.
        thread::sleep(Duration::from_millis(200));
        assert!(TcpStream::connect(address).is_ok());
        drop(agent);
        keeping.join().unwrap().unwrap();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_is_no_listener_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(directory.path().join("file")).unwrap();
        assert!(!is_listener(file.as_fd()));
        assert!(!is_listener(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()));
        assert!(is_listener(TcpListener::bind("127.0.0.1:0").unwrap().as_fd()));
    }
}
