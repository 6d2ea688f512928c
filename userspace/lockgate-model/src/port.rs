//! Where the layers meet: what the data plane asks of its surroundings. Every port has at least a real
//! implementation and a scripted one in tests.

use crate::{
    addr::ClientAddr,
    approval::{ApprovalRequest, Progress, WithdrawReason},
    event::Event,
    flow::Flow,
    grant::{Basis, Lift},
    secret::Secret,
    session::Session,
    time::Timestamp,
    workload::Workload,
};
use std::{
    collections::HashMap,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{BorrowedFd, OwnedFd},
    pin::Pin,
    time::Duration,
};

/// A boxed future; ports are `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Clock and randomness.
pub trait Ambient: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// 128 random bits from the operating system.
    fn random(&self) -> u128;
}

/// How safe a record must be before the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Written to the operating system: survives a SIGKILL of lockgate.
    Written,
    /// Synced to the device: survives power loss.
    Synced,
}

/// Proof that events rest in the log. Made by recorders alone.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    last_seq: u64,
}

impl Receipt {
    /// For recorders: the sequence number of the last event that rests.
    pub fn new(last_seq: u64) -> Self {
        Self { last_seq }
    }

    /// The sequence number of the last event that rests.
    pub fn last_seq(self) -> u64 {
        self.last_seq
    }
}

/// The record could not be written. Whoever gets this refuses the operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The device or file failed.
    #[error("the audit log cannot be written: {0}")]
    Io(String),
    /// More is waiting to be written than may wait.
    #[error("the audit log is behind: {0} events are waiting")]
    Overloaded(usize),
    /// One event is larger than a record may be.
    #[error("an event of {0} bytes is larger than a record may be")]
    TooLarge(usize),
    /// The recorder has stopped.
    #[error("the recorder has stopped")]
    Stopped,
}

/// The audit log, as the data plane and the control plane see it.
pub trait Recorder: Send + Sync {
    /// Appends events in order, and answers when they are as safe as asked.
    fn record(
        &self,
        events: Vec<Event>,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Receipt, RecordError>>;

    /// Queues events for the owner task without waiting: for drop guards and for what follows a forward.
    /// Never loses an event silently: what cannot be queued is counted and becomes a `gap` record.
    fn submit(&self, events: Vec<Event>);
}

/// Why a request could not be opened. The operation is then denied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// Too many requests are pending.
    #[error("{0} requests for approval are already pending")]
    TooManyPending(usize),
    /// The control plane is away.
    #[error("approvals are unavailable: {0}")]
    Unavailable(String),
}

/// The control plane, as the data plane sees it.
pub trait Approvals: Send + Sync {
    /// Opens a request: recorded (synced) and queued for notification when this returns.
    fn open(
        &self,
        request: ApprovalRequest,
    ) -> BoxFuture<'_, Result<Box<dyn PendingApproval>, ApprovalError>>;

    /// Opens several at once, so that people can be told of all of them together; answers in the same order. Dropping it
    /// half-way withdraws them all.
    fn open_all(
        &self,
        requests: Vec<ApprovalRequest>,
    ) -> BoxFuture<'_, Vec<Result<Box<dyn PendingApproval>, ApprovalError>>> {
        Box::pin(async move {
            let mut opened = Vec::with_capacity(requests.len());
            for request in requests {
                opened.push(self.open(request).await);
            }
            opened
        })
    }

    /// The emergency overrides in force for a session now. Asked only where policy does not let pass; never waits.
    fn lifts(&self, session: &Session, now: Timestamp) -> Vec<Lift> {
        let _ = (session, now);
        Vec::new()
    }

    /// Whether what let an operation pass without a vote of its own still holds: a grant may have been taken back.
    fn stands(&self, basis: &Basis, now: Timestamp) -> bool {
        let _ = (basis, now);
        true
    }
}

/// Small things that must outlive the process: requests that wait, grants, overrides. Synced when a call returns; may
/// block, so never called on a thread that serves others.
pub trait Shelf: Send + Sync {
    /// Puts something there, over what had that name.
    ///
    /// # Errors
    /// When it does not rest; what was there before may or may not.
    fn put(&self, name: &str, value: &[u8]) -> io::Result<()>;
    /// Takes it away; nothing there is no error.
    ///
    /// # Errors
    /// When it is still there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Everything there, in no order. What cannot be read is left out and said in the log.
    ///
    /// # Errors
    /// When the shelf cannot be read at all.
    fn all(&self) -> io::Result<Vec<(String, Vec<u8>)>>;
}

/// A request that waits. Dropping it withdraws it as [`WithdrawReason::Disconnected`].
pub trait PendingApproval: Send {
    /// Where it stands now.
    fn progress(&self) -> Progress;
    /// Waits until it changes; cancel-safe. After a resolution it returns at once.
    fn changed(&mut self) -> BoxFuture<'_, Progress>;
    /// Takes it back. Returns when the withdrawal is recorded.
    fn withdraw(self: Box<Self>, reason: WithdrawReason) -> BoxFuture<'static, ()>;
}

/// Why an accepted connection has no flow. It is then closed, never served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// Nobody redirected it here: somebody dialled the proxy itself.
    #[error("the connection was not redirected by lockgate's hooks")]
    Unattributed,
    /// The kernel's answer does not fit the connection.
    #[error("the kernel's facts do not fit the connection: {0}")]
    Mismatch(String),
    /// The kernel could not be asked.
    #[error("the kernel cannot be asked: {0}")]
    Io(String),
}

/// The kernel side, as the data plane sees it.
pub trait Attributor: Send + Sync {
    /// The flow behind an accepted connection, by its file descriptor.
    fn flow(&self, accepted: BorrowedFd<'_>, client: ClientAddr) -> Result<Flow, FlowError>;
    /// The workload behind a flow. Never fails: what cannot be read is absent. May read /proc (bounded).
    fn attribute(&self, flow: &Flow) -> Workload;
    /// Is this another network namespace than the caller's? 0, which no namespace has, is not.
    fn is_elsewhere(&self, netns_cookie: u64) -> bool {
        let _ = netns_cookie;
        false
    }
    /// A TCP socket in another network namespace, to dial that destination with from there; `None` where the caller's
    /// own is meant. Starts a thread: not for a thread that serves others.
    ///
    /// # Errors
    /// When the namespace is gone.
    fn socket(&self, netns_cookie: u64, destination: SocketAddr) -> io::Result<Option<OwnedFd>> {
        let _ = (netns_cookie, destination);
        Ok(None)
    }
}

/// What a process carries that can prove more than the kernel knows, read only while it is still the process that
/// connected. Bounded; may block on /proc, so never called on a thread that serves others.
pub trait Witness: Send + Sync {
    /// The values of these variables in the environment the process was started with. Each is text that the
    /// process could have written; what it proves is for others to find out.
    fn variables(&self, flow: &Flow, names: &[&str]) -> HashMap<String, Secret<String>>;
    /// The token of its Kubernetes service account, as its own mount namespace shows it.
    fn service_account_token(&self, flow: &Flow) -> Option<Secret<String>>;
    /// How long before now the process was started, when it can still be read.
    fn age(&self, flow: &Flow) -> Option<Duration>;
}

/// Who asks platforms and issuers whether a workload is what it seems, as the data plane sees it.
pub trait Confirmer: Send + Sync {
    /// The workload with what could be confirmed, and with why the rest could not. Never fails, and ends within a
    /// bound of its own.
    fn confirm<'a>(&'a self, flow: &'a Flow, workload: Workload) -> BoxFuture<'a, Workload>;
}
