//! Serving routers, with every wait and every count bounded: header time, connection life, connections.
//!
//! Over TCP anybody may connect, so when all places are taken the oldest connection makes room: slow callers
//! cannot keep a decision out. On the unix socket every uid has places of its own.

use crate::{api::peer::PeerCred, auth::gate::Remote};
use arc_swap::ArcSwap;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::{AbortHandle, Id, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

/// Open TCP connections; the oldest makes room for the next.
const TCP_CONNECTIONS_MAX: usize = 512;

/// Open unix connections of one uid; the next is closed at once.
const UNIX_CONNECTIONS_PER_UID: usize = 256;

/// A request's head must be here by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head.
const HEADER_MAX: usize = 16 << 10;

/// After the shutdown signal, requests under way have this long.
const DRAIN: Duration = Duration::from_secs(5);

/// A failed accept (no file descriptors left) is tried again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody answers on the socket.
    #[error("{0}: another agent answers there; stop it, or set api.socket to another path")]
    InUse(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{0}: is there and is not a socket; move it away, or set api.socket to another path")]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("{path}: {action}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// How a listener speaks TLS; each handshake goes by what is in it then, so that a certificate is renewed without a restart.
pub type Tls = Arc<ArcSwap<rustls::ServerConfig>>;

/// Serves a router over TCP, by TLS when there is a certificate, until `shutdown`, then drains. Every request carries the
/// address it came from ([`Remote`]).
pub async fn serve_tcp(listener: TcpListener, router: Router, tls: Option<Tls>, shutdown: CancellationToken) {
    let mut connections = Connections::new(shutdown.clone());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    connections.make_room(TCP_CONNECTIONS_MAX);
                    let router = router.clone().layer(Extension(Remote(from.ip())));
                    match &tls {
                        Some(tls) => {
                            let tls = TlsAcceptor::from(tls.load_full());
                            connections.spawn(secured(tls, stream), router, None);
                        }
                        None => connections.spawn(async { Some(stream) }, router, None),
                    }
                }
                Err(error) => pause(&error).await,
            },
            () = connections.reap() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(listener);
    connections.drain().await;
}

/// Serves a router on a unix socket until `shutdown`, then drains and removes the socket. Every request
/// carries the caller's [`PeerCred`].
pub async fn serve_unix(socket: UnixSocket, router: Router, shutdown: CancellationToken) {
    let mut connections = Connections::new(shutdown.clone());
    loop {
        tokio::select! {
            accepted = socket.listener.accept() => match accepted {
                Ok((stream, _)) => match peer_of(&stream) {
                    Ok(peer) if connections.of_uid(peer.uid) < UNIX_CONNECTIONS_PER_UID => {
                        let router = router.clone().layer(Extension(peer));
                        connections.spawn(async { Some(stream) }, router, Some(peer.uid));
                    }
                    Ok(peer) => tracing::warn!(uid = peer.uid, "too many connections of one uid; closed one"),
                    Err(error) => tracing::warn!(%error, "a connection without credentials; closed it"),
                },
                Err(error) => pause(&error).await,
            },
            () = connections.reap() => {}
            () = shutdown.cancelled() => break,
        }
    }
    drop(socket);
    connections.drain().await;
}

fn peer_of(stream: &UnixStream) -> io::Result<PeerCred> {
    let cred = stream.peer_cred()?;
    Ok(PeerCred { pid: cred.pid(), uid: cred.uid(), gid: cred.gid() })
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Connections under way.
struct Connections {
    tasks: JoinSet<()>,
    /// In order of arrival.
    open: BTreeMap<u64, (AbortHandle, Option<u32>)>,
    arrival_of: HashMap<Id, u64>,
    by_uid: HashMap<u32, usize>,
    arrivals: u64,
    shutdown: CancellationToken,
}

impl Connections {
    fn new(shutdown: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            open: BTreeMap::new(),
            arrival_of: HashMap::new(),
            by_uid: HashMap::new(),
            arrivals: 0,
            shutdown,
        }
    }

    fn of_uid(&self, uid: u32) -> usize {
        self.by_uid.get(&uid).copied().unwrap_or(0)
    }

    /// Ends the oldest connections until fewer than `max` are left. What a request has set in motion (a vote
    /// on its way to the log) goes on.
    fn make_room(&mut self, max: usize) {
        while self.open.len() >= max {
            let Some((_, (handle, uid))) = self.open.pop_first() else { return };
            handle.abort();
            self.arrival_of.remove(&handle.id());
            self.release(uid);
        }
    }

    fn spawn<F, S>(&mut self, stream: F, router: Router, uid: Option<u32>)
    where
        F: Future<Output = Option<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shutdown = self.shutdown.clone();
        let handle = self.tasks.spawn(async move {
            if let Some(stream) = stream.await {
                serve_one(stream, router, shutdown).await;
            }
        });
        self.arrivals += 1;
        self.arrival_of.insert(handle.id(), self.arrivals);
        self.open.insert(self.arrivals, (handle, uid));
        if let Some(uid) = uid {
            *self.by_uid.entry(uid).or_default() += 1;
        }
    }

    /// Waits for a connection to end; for ever when there is none. Cancel-safe.
    async fn reap(&mut self) {
        let id = match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        };
        if let Some(arrival) = self.arrival_of.remove(&id)
            && let Some((_, uid)) = self.open.remove(&arrival)
        {
            self.release(uid);
        }
    }

    fn release(&mut self, uid: Option<u32>) {
        let Some(uid) = uid else { return };
        let left = self.of_uid(uid).saturating_sub(1);
        if left == 0 {
            self.by_uid.remove(&uid);
        } else {
            self.by_uid.insert(uid, left);
        }
    }

    async fn drain(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, all).await.is_err() {
            tracing::warn!("requests were still under way at the deadline and are dropped");
        }
    }
}

/// The handshake, which has as long as a request's head.
async fn secured(tls: TlsAcceptor, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HEADER_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake broke off");
            None
        }
        Err(_) => None,
    }
}

async fn serve_one<S>(stream: S, router: Router, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// A bound unix socket; removed from the file system when dropped.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: only our own socket is removed.
    file: (u64, u64),
}

impl UnixSocket {
    /// Binds, for every user of the host to connect to (what they may is decided by their uid). Makes the
    /// parent directory (0755); replaces a socket on which nobody answers.
    ///
    /// # Errors
    /// [`ServeError`] says what is in the way.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let fail = |action| move |source| ServeError::Io { path: path.to_owned(), action, source };
        if let Some(parent) =
            path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
        {
            std::fs::create_dir_all(parent).map_err(fail("making the directory"))?;
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))
                .map_err(fail("opening the directory to all users"))?;
        }
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail("binding the socket"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(fail("looking at the socket"))?;
        let socket = Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
            .map_err(fail("opening the socket to all users"))?;
        Ok(socket)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "removing the socket");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let io = |action, source| ServeError::Io { path: path.to_owned(), action, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io("looking at it", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServeError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(ServeError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|error| io("removing the stale socket", error))
        }
        Err(error) => Err(io("asking whether somebody answers", error)),
    }
}

#[cfg(test)]
mod tests;
