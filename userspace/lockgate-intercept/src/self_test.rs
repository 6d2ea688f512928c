//! Proof that capture works: a child in a governed cgroup dials an address that is protected for this
//! moment, and its connection has to come in at the listener, attributed to that child.
//!
//! The address is a listener of this process on loopback: should capture fail, the child arrives there
//! and not in the network.

use crate::{
    cgroup::Tree,
    error::{Doing as _, InterceptError},
    interceptor::Interceptor,
    target::TargetNet,
};
use lockgate_model::flow::Flow;
use rustix::{
    fd::{AsFd as _, OwnedFd},
    net::{AddressFamily, SocketType},
};
use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

/// A loopback connection takes microseconds; a loaded machine a little longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a self-test did not see its child come in.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// It could not be set up.
    #[error(transparent)]
    Setup(#[from] InterceptError),
    /// The child's own connect() failed.
    #[error("the probe's connect() failed: {0}")]
    Connect(io::Error),
    /// The child reached its destination: nothing is captured.
    #[error("the probe went direct: connections of governed processes are not captured")]
    Direct,
    /// It came in as somebody else.
    #[error("the probe arrived attributed to process {got}, it was {expected}")]
    Attribution {
        /// The child.
        expected: u32,
        /// What the flow said.
        got: u32,
    },
    /// It did not come in.
    #[error("the probe did not arrive within {} s: nobody accepts on the listener, or the flow was lost", PATIENCE.as_secs())]
    Lost,
}

/// The one probe that may be under way.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    any: AtomicBool,
    probe: Mutex<Option<(SocketAddr, SyncSender<Flow>)>>,
}

impl Expected {
    /// Takes a flow that is the probe; the caller then does not serve it.
    pub(crate) fn take(&self, flow: &Flow) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let probe = self.probe.lock().unwrap_or_else(PoisonError::into_inner);
        match &*probe {
            Some((destination, sender)) if flow.original_dst.addr() == *destination => {
                // A second connection to the probe's address finds the channel full: nobody serves it either.
                let _ = sender.try_send(flow.clone());
                true
            }
            Some(_) | None => false,
        }
    }

    fn set(&self, probe: Option<(SocketAddr, SyncSender<Flow>)>) {
        self.any.store(probe.is_some(), Ordering::Relaxed);
        *self.probe.lock().unwrap_or_else(PoisonError::into_inner) = probe;
    }
}

impl Interceptor {
    /// Runs the proof on this instance. Somebody has to be accepting on its listeners and asking for
    /// each flow, as the proxy does; the probe's own connection is answered with an error there.
    pub fn self_test(&self) -> Result<(), SelfTestError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let core = self.core();
        let direct =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "listen for the probe".to_owned())?;
        direct.set_nonblocking(true).doing(|| "listen for the probe".to_owned())?;
        let destination = direct.local_addr().doing(|| "listen for the probe".to_owned())?;
        let cgroup = ProbeCgroup::new(&core.tree, &core.probe_cgroup())?;
        let (sender, arrived) = sync_channel(1);
        core.expected.set(Some((destination, sender)));
        let _restore = Restore(self);
        core.protect_probe(TargetNet::host(destination.ip(), destination.port()), Some(&cgroup.path))?;
        let child = dial(&cgroup, destination)?;
        let flow = match arrived.recv_timeout(PATIENCE) {
            Ok(flow) => flow,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if direct.accept().is_ok() => {
                return Err(SelfTestError::Direct);
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(SelfTestError::Lost);
            }
        };
        match flow.process.tgid {
            got if got == child => Ok(()),
            got => Err(SelfTestError::Attribution { expected: child, got }),
        }
    }
}

/// Takes back what a self-test changed, however it ends.
struct Restore<'a>(&'a Interceptor);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let core = self.0.core();
        core.expected.set(None);
        if let Err(error) = core.protect_probe(None, None) {
            tracing::warn!(%error, "the self-test's address stays protected until the targets change");
        }
    }
}

/// A cgroup for the child, removed afterwards.
struct ProbeCgroup {
    path: String,
    directory: PathBuf,
    procs: OwnedFd,
}

impl ProbeCgroup {
    fn new(tree: &Tree, parent: &str) -> Result<Self, InterceptError> {
        let path = format!("{}/probe-{}", parent.trim_end_matches('/'), std::process::id());
        tree.create(&path)?;
        let directory = tree.directory(&path)?;
        let procs = fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs"));
        let procs = procs.doing(|| format!("open {}/cgroup.procs", directory.display()))?.into();
        Ok(Self { path, directory, procs })
    }
}

impl Drop for ProbeCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Forks a child that joins the cgroup and connects, and is gone; gives its pid.
fn dial(cgroup: &ProbeCgroup, destination: SocketAddr) -> Result<u32, SelfTestError> {
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe".to_owned())?;
    let procs = cgroup.procs.try_clone().doing(|| "duplicate a descriptor".to_owned())?;
    let mut command = Command::new("/proc/self/exe");
    let child = move || {
        rustix::io::write(&procs, b"0")?;
        rustix::io::write(&writer, &rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes())?;
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::connect(&socket, &destination)?;
        // Nothing is executed: an error here ends the child, and tells the parent so.
        Err(io::Error::from(rustix::io::Errno::CANCELED))
    };
    // SAFETY: between fork and exit the closure makes system calls on descriptors and stack memory only.
    unsafe { command.pre_exec(child) };
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
        Err(error) => return Err(SelfTestError::Connect(error)),
        Ok(mut child) => {
            // Cannot happen: the closure never succeeds.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
    // The closure, and the writing end with it, is gone with the command.
    drop(command);
    let mut pid = [0; 4];
    match rustix::io::read(reader.as_fd(), &mut pid[..]) {
        Ok(4) => Ok(u32::from_ne_bytes(pid)),
        Ok(_) => Err(SelfTestError::Connect(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(SelfTestError::Connect(error.into())),
    }
}
