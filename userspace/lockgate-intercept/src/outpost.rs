//! Listeners in other network namespaces than the agent's: one pair for each namespace in which somebody governed
//! lives.
//!
//! A listener keeps its namespace alive, so it is closed as soon as nobody governed is left in there; a namespace
//! without one refuses (the kernel's own listener check), it is never open. Namespaces are found by looking through
//! /proc, and at once when the kernel reports that it refused somebody for want of a listener.

use crate::{
    error::{Doing as _, InterceptError},
    listener::Listeners,
    netns::{Netns, NetnsId},
    sys,
};
use aya::maps::{MapData, SkStorage};
use lockgate_ebpf_common::{LISTENER_TAG, map};
use rustix::{
    fd::{AsFd as _, OwnedFd},
    net::{AddressFamily, Shutdown, SocketFlags, SocketType, ipproto, shutdown, socket_with},
};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

/// Namespaces with listeners; a node has at most some hundred pods.
const MAX_OUTPOSTS: usize = 4096;
/// A process that moves between cgroups, or is being replaced, can be missed by one look through /proc.
const MISSED_UNTIL_CLOSED: u8 = 2;
/// Threads of a refused process whose namespaces are looked at.
const MAX_THREADS: usize = 1024;

/// Who is handed each listener that is opened.
pub(crate) type Serve = Box<dyn Fn(TcpListener) + Send>;

/// All of them.
pub(crate) struct Outposts {
    own: NetnsId,
    port: u16,
    tags: SkStorage<MapData, u32>,
    open: HashMap<NetnsId, Outpost>,
    /// Told once that they cannot be opened.
    failed: HashSet<NetnsId>,
    serve: Option<Serve>,
    /// Nothing is opened or closed any more.
    closed: bool,
}

struct Outpost {
    listeners: Listeners,
    cookie: u64,
    missed: u8,
}

impl Outposts {
    /// None yet, beside the namespace of the caller.
    pub(crate) fn new(port: u16, tags: SkStorage<MapData, u32>) -> io::Result<Self> {
        let own = NetnsId::own()?;
        Ok(Self { own, port, tags, open: HashMap::new(), failed: HashSet::new(), serve: None, closed: false })
    }

    /// Takes over listeners of an earlier agent.
    pub(crate) fn adopt(&mut self, cookie: u64, listeners: Listeners) -> Result<(), InterceptError> {
        let id = Netns::of_socket(listeners.v4.as_fd())
            .and_then(|namespace| namespace.id())
            .doing(|| "read the network namespace of a kept listener".to_owned())?;
        for listener in listeners.all() {
            self.tags.insert(listener, LISTENER_TAG, 0).map_err(InterceptError::map(map::LISTENER))?;
        }
        self.open.insert(id, Outpost { listeners, cookie, missed: 0 });
        Ok(())
    }

    /// Duplicates of all listeners.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = io::Result<TcpListener>> {
        self.open.values().flat_map(|outpost| outpost.listeners.all()).map(TcpListener::try_clone)
    }

    /// The namespaces with listeners, each with one of its sockets.
    pub(crate) fn homes(&self) -> Vec<(NetnsId, TcpListener)> {
        let socket =
            |(id, outpost): (&NetnsId, &Outpost)| Some((*id, outpost.listeners.v4.try_clone().ok()?));
        self.open.iter().filter_map(socket).collect()
    }

    /// Opens and closes none from now on; what is open stays so.
    pub(crate) fn freeze(&mut self) {
        self.closed = true;
        self.serve = None;
    }

    /// Hands over the listeners that are open, and from now on each that is opened.
    pub(crate) fn serve_with(&mut self, serve: Serve) {
        for outpost in self.open.values() {
            hand_over(&outpost.listeners, &serve);
        }
        self.serve = Some(serve);
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Looks through all processes: opens where somebody governed lives, closes where nobody does any more.
    pub(crate) fn look(&mut self, governs: impl Fn(u32) -> bool) {
        if self.closed {
            return;
        }
        let mut inhabited: HashMap<NetnsId, PathBuf> = HashMap::new();
        for (pid, directory) in processes() {
            let Ok(id) = NetnsId::of(&directory) else { continue };
            if id != self.own && !inhabited.contains_key(&id) && governs(pid) {
                inhabited.insert(id, directory);
            }
        }
        self.failed.retain(|id| inhabited.contains_key(id));
        self.open.retain(|id, outpost| {
            outpost.missed = if inhabited.contains_key(id) { 0 } else { outpost.missed.saturating_add(1) };
            let kept = outpost.missed < MISSED_UNTIL_CLOSED;
            if !kept {
                tracing::debug!(
                    netns = id.to_string(),
                    "nobody governed lives in this network namespace any more"
                );
                outpost.close();
            }
            kept
        });
        for (id, directory) in inhabited {
            self.ensure(id, &directory);
        }
    }

    /// Opens where this process lives, any thread of it.
    pub(crate) fn admit(&mut self, pid: u32) {
        if self.closed {
            return;
        }
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks.take(MAX_THREADS) {
            if let Ok(id) = NetnsId::of(&task.path())
                && id != self.own
            {
                self.ensure(id, &task.path());
            }
        }
    }

    fn ensure(&mut self, id: NetnsId, directory: &Path) {
        if self.open.contains_key(&id) {
            return;
        }
        match self.establish(id, directory) {
            Ok(Some(outpost)) => {
                tracing::debug!(
                    netns = id.to_string(),
                    cookie = outpost.cookie,
                    "listening in a network namespace"
                );
                self.failed.remove(&id);
                if let Some(serve) = &self.serve {
                    hand_over(&outpost.listeners, serve);
                }
                self.open.insert(id, outpost);
            }
            // Gone meanwhile.
            Ok(None) => {}
            Err(error) => {
                if self.failed.insert(id) {
                    let netns = id.to_string();
                    tracing::warn!(%error, netns, "no listener in a network namespace: governed connections are refused there; trying on");
                }
            }
        }
    }

    fn establish(&mut self, id: NetnsId, directory: &Path) -> Result<Option<Outpost>, InterceptError> {
        if self.open.len() >= MAX_OUTPOSTS {
            let (got, max) = (self.open.len() + 1, MAX_OUTPOSTS as u32);
            return Err(InterceptError::TooMany {
                what: "network namespaces with governed processes",
                got,
                max,
            });
        }
        let namespace = match Netns::open(directory) {
            Ok((now, namespace)) if now == id => namespace,
            Ok(_) | Err(_) => return Ok(None),
        };
        let port = self.port;
        let entering = || format!("listen in the network namespace {id}");
        let listeners = namespace.run(|| Listeners::bind(port)).doing(entering)??;
        let cookie = sys::netns_cookie(listeners.v4.as_fd()).doing(entering)?;
        for listener in listeners.all() {
            self.tags.insert(listener, LISTENER_TAG, 0).map_err(InterceptError::map(map::LISTENER))?;
        }
        Ok(Some(Outpost { listeners, cookie, missed: 0 }))
    }

    /// A TCP socket in the namespace with this cookie.
    pub(crate) fn socket(&self, cookie: u64, destination: SocketAddr) -> io::Result<OwnedFd> {
        let outpost = self.open.values().find(|outpost| outpost.cookie == cookie);
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the client's network namespace is gone");
        let namespace = Netns::of_socket(outpost.ok_or_else(gone)?.listeners.v4.as_fd())?;
        namespace.run(|| tcp_socket(destination))?
    }

    /// Closes all of them, for good.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.open.drain().for_each(|(_, outpost)| outpost.close());
    }
}

impl Outpost {
    /// Whoever accepts on a duplicate is told by an error, and lets go of it.
    fn close(&self) {
        for listener in self.listeners.all() {
            let _ = shutdown(listener, Shutdown::Both);
        }
    }
}

fn tcp_socket(destination: SocketAddr) -> io::Result<OwnedFd> {
    let family = if destination.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

fn hand_over(listeners: &Listeners, serve: &Serve) {
    for listener in listeners.all() {
        match listener.try_clone() {
            Ok(listener) => serve(listener),
            Err(error) => tracing::error!(%error, "a listener cannot be handed over"),
        }
    }
}

/// Processes and their directories.
fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    })
}
