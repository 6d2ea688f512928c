//! Network namespaces: told apart, entered for one call, found again from a socket.
//!
//! Entering happens in a thread of its own that ends afterwards, so that no thread of a runtime is ever left in
//! somebody else's namespace. A descriptor of a namespace keeps it alive, as does every socket in it: neither is kept
//! here.

use crate::sys;
use rustix::{
    fd::{AsFd as _, BorrowedFd, OwnedFd},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{fmt, fs, io, os::unix::fs::MetadataExt as _, path::Path, thread};

/// A network namespace as long as it lives: the inode of its nsfs file. Reused afterwards, like a pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// Of a process (its first thread), or of a thread below `/proc/PID/task`.
    pub(crate) fn of(proc_directory: &Path) -> io::Result<Self> {
        let file = fs::metadata(proc_directory.join("ns/net"))?;
        Ok(Self { device: file.dev(), inode: file.ino() })
    }

    /// The caller's own.
    pub(crate) fn own() -> io::Result<Self> {
        Self::of(Path::new("/proc/thread-self"))
    }
}

impl fmt::Display for NetnsId {
    /// As `readlink /proc/PID/ns/net` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// A namespace that is held open.
#[derive(Debug)]
pub(crate) struct Netns(OwnedFd);

impl Netns {
    /// Of a process or thread; its id as well, which a reused pid would change.
    pub(crate) fn open(proc_directory: &Path) -> io::Result<(NetnsId, Self)> {
        let namespace = Self(fs::File::open(proc_directory.join("ns/net"))?.into());
        Ok((namespace.id()?, namespace))
    }

    /// Of a socket.
    pub(crate) fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        sys::netns_of_socket(socket).map(Self)
    }

    pub(crate) fn id(&self) -> io::Result<NetnsId> {
        let file = rustix::fs::fstat(&self.0)?;
        Ok(NetnsId { device: file.st_dev, inode: file.st_ino })
    }

    /// Runs `call` in it.
    pub(crate) fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> io::Result<T> {
        let enter = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(call())
        };
        thread::scope(|scope| {
            let thread =
                thread::Builder::new().name("lockgate-netns".to_owned()).spawn_scoped(scope, enter)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("panicked in a network namespace")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_own_namespace_is_the_one_of_a_socket_made_in_it() {
        let own = NetnsId::own().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let Ok(namespace) = Netns::of_socket(socket.as_fd()) else {
            assert!(!rustix::process::geteuid().is_root(), "root may ask a socket for its namespace");
            return;
        };
        assert_eq!(namespace.run(|| NetnsId::own().unwrap()).unwrap(), own);
        assert_eq!(NetnsId::of(Path::new("/proc/self")).unwrap(), own);
        assert!(NetnsId::of(Path::new("/proc/0")).is_err());
    }
}
