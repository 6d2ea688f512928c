//! One intercepted connection, as the kernel saw it.

use crate::addr::{ClientAddr, OriginalDst};
use serde::{Deserialize, Serialize};

/// What the kernel knew at `connect()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The accepted connection's peer.
    pub client: ClientAddr,
    /// Where the client wanted to go.
    pub original_dst: OriginalDst,
    /// The client socket's `SO_COOKIE`.
    #[serde(with = "crate::wide")]
    pub socket_cookie: u64,
    /// The client's network namespace (`SO_NETNS_COOKIE`); 0 when the kernel does not tell.
    #[serde(with = "crate::wide")]
    pub netns_cookie: u64,
    /// The connecting task.
    pub process: ProcessFacts,
    /// How the connection came to lockgate.
    pub capture: Capture,
}

/// The connecting task, recorded by the kernel at the moment of `connect()`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Thread group id (what users call the pid).
    pub tgid: u32,
    /// The connecting thread.
    pub tid: u32,
    /// Start of the thread-group leader, nanoseconds on CLOCK_BOOTTIME: with `tgid`, the process's identity.
    #[serde(with = "crate::wide")]
    pub start_boottime_ns: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// cgroup-v2 id (inode of its directory).
    #[serde(with = "crate::wide")]
    pub cgroup_id: u64,
    /// The connecting *thread's* name; a label, never an identity.
    pub comm: String,
    /// Who made the socket, when that was another process; 0 otherwise.
    pub creator_tgid: u32,
}

/// How a connection came to lockgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Redirected by the kernel; the job did not choose it.
    Transparent,
    /// The client dialled lockgate itself; said wherever the session is shown.
    Explicit,
}
