//! The kernel side of lockgate: capture and attribution.
//!
//! Attaches the eBPF programs, keeps them attached, hands out the listeners that governed connections
//! arrive at, and says for each accepted descriptor where its client wanted to go and who that client
//! is. The only crate that knows of eBPF, cgroups and namespaces, and the only user of aya and of
//! `unsafe`. It moves no byte of a connection: the proxy accepts on [`Interceptor::listeners`] and asks
//! through [`lockgate_model::port::Attributor`].
//!
//! # From `connect()` to a workload
//!
//! ```text
//! client  connect(10.20.0.9:5432)
//!   lg_connect4/6     governed? protected? listener with our tag?  → record Flow in CONN, rewrite to 127.0.0.1:PORT
//!   lg_sock_ops       SYN leaves: CONN → FLOWS{netns, 4-tuple};   accepted: FLOWS → ACC
//! proxy   accept → Attributor::flow(fd) reads ACC → Attributor::attribute reads /proc, through a pidfd
//! client  getpeername() → lg_getpeername4/6 → 10.20.0.9:5432
//! ```
//!
//! The flow travels with the sockets, so it is right when the client has exited by the time the proxy looks.
//! A process is (thread group, start time), never a pid alone.
//!
//! # Layers
//!
//! The socket hooks below capture; without them nothing starts. Beside them, each found out by loading and attaching: a
//! packet filter on governed cgroups, BPF LSM, packet filters on interfaces (`belt.rs`), and a sweep that finds and cuts
//! connections which went past (`sweep.rs`). What each stops, and so what is open where one is missing, is one table:
//! `layer.rs`, which `doctor`, the agent's log and the threat model show.
//!
//! # Programs (the socket hooks are all at the real cgroup-v2 root)
//!
//! | program | hook | does | needs |
//! |---|---|---|---|
//! | `lg_connect4/6` | `connect()` | redirects governed TCP to protected targets | 5.8 |
//! | `lg_sock_ops` | TCP handshake | carries the flow to the accepted socket | 5.15 |
//! | `lg_getpeername4/6` | `getpeername()` | shows the real peer | 5.8 |
//! | `lg_sendmsg4/6` | unconnected UDP | refuses datagrams to protected targets | 4.18 |
//! | `lg_sock_create` | `socket()` | tags governed sockets; refuses RAW, MPTCP, SCTP, … | 4.10 |
//! | `lg_bind4/6` | `bind()` | keeps the listener's port for the proxy's cgroup | 4.17 |
//! | `lg_egress` | packets of a governed cgroup's sockets | drops those to protected targets | 5.8 |
//! | `lg_interface` | packets on an interface (TCX) | only the proxy's connections pass to protected targets | 6.6 |
//! | `lg_lsm_create` | LSM `socket_create` | refuses families that no socket hook sees: AF_PACKET, AF_XDP, AF_VSOCK, … | 5.17 |
//! | `lg_lsm_receive` | LSM `file_receive` | refuses connected and raw sockets from elsewhere, and tunnels | 5.17 |
//! | `lg_lsm_send` | LSM `socket_sendmsg` | refuses to send by those that were inherited | 5.17 |
//! | `lg_lsm_tun_*` | LSM `tun_dev_create`, `tun_dev_open` | no tunnels | 5.17 |
//!
//! Refusals show their errno from 5.18, EPERM before. Which of this a kernel allows is found out by loading:
//! the object has switches (`HAVE_*`) that are set before load and tried from the newest kernel down. A kernel without
//! the namespace cookie in sock_ops (before 5.15) is refused. `cargo xtask e2e --kernel VERSION` runs the suite in
//! `tests/tests/capture` and the one in `tests/guest` under another kernel.
//!
//! # Maps (pinned in `<bpffs>/lockgate/v1[-instance]/maps`)
//!
//! | map | holds | written by |
//! |---|---|---|
//! | `CFG` | ABI version, port, the proxy's cgroup, BTF offsets | userspace |
//! | `CAPTURE_CG`, `CAPTURE_UID` | who is governed | userspace |
//! | `TARGETS` | protected port and prefix (LPM; IPv4 as v4-mapped) | userspace |
//! | `LISTENER` | tag on the listening sockets (socket storage) | userspace, by descriptor |
//! | `CONN` | flow of a client socket (socket storage) | `connect`, `sock_create` |
//! | `FLOWS` | handshakes in flight (LRU) | `sock_ops` |
//! | `ACC` | flow of an accepted socket (socket storage) | `sock_ops` |
//! | `VOUCHED` | the proxy's own connections to protected targets, until they close (LRU) | `sock_ops` |
//! | `SEEN` | who reached what without being redirected, since userspace last took it out (LRU) | `connect`, `sendmsg`, `sock_ops` |
//! | `EVENTS`, `STATS` | denials, counters | all |
//!
//! # What fails closed, and how
//!
//! - **The agent is dead.** Links stay pinned; the listener died with it, no socket with the tag is found, `connect()`
//!   gives ECONNREFUSED at once.
//! - **Somebody takes its port.** `bind()` is refused to every cgroup but the agent's; root that joins that cgroup
//!   gets a listener without the tag.
//! - **The agent comes back.** It joins its cgroup, binds the pinned port, tags the listener, and only then
//!   replaces each program inside its link ([`BPF_LINK_UPDATE`]): no moment without a program.
//! - **A pin is removed.** A living agent holds the links and pins them again.
//! - **No configuration, no memory, no listener in this network namespace.** Refused.
//! - **A connection without a flow** (dialled by hand, lost in the table): [`FlowError::Unattributed`], the proxy
//!   closes it. A dial by hand also removes what a lost handshake of a governed process may have left under the
//!   same four-tuple, so that it cannot be inherited.
//! - **Attached twice** at two levels: the second run sees a dial of the proxy's own port and refuses.
//! - **Another ABI is pinned.** Attaching fails with what to do; the old hooks stay in force.
//!
//! # What is not covered
//!
//! Task rules see tasks: an accomplice that is not governed, a daemon that connects on a job's behalf, kernel sockets (NFS),
//! and root that moves itself out of its cgroup or removes the hooks stay outside. On a kernel that lacks a layer, what
//! `layer.rs` says is open. A unit that restarts gets a new cgroup, which a glob finds within milliseconds in a slice and
//! 200 ms elsewhere; govern its slice where that matters.
//!
//! [`BPF_LINK_UPDATE`]: https://docs.kernel.org/userspace-api/ebpf/syscall.html
//! [`FlowError::Unattributed`]: lockgate_model::port::FlowError::Unattributed

mod abi;
mod belt;
mod btf;
mod cgroup;
mod container;
mod cover;
mod denial;
mod diag;
mod egress;
mod error;
mod event;
mod flow;
mod govern;
mod hearing;
mod interceptor;
pub mod keeper;
mod layer;
mod listener;
mod mount;
mod netlink;
mod netns;
mod notice;
mod object;
mod outpost;
mod pin;
mod probe;
mod run;
mod seen;
mod self_test;
mod sweep;
mod sys;
mod target;
mod veth;
mod watch;
mod workload;

pub use belt::Direction;
pub use container::enter_host_cgroups;
pub use cover::{Entries, Entry, MountNamespace};
pub use denial::Counters;
pub use egress::{Egress, EgressNet};
pub use error::InterceptError;
pub use event::{CaptureEvent, Refused};
pub use govern::{Governed, GovernedSet};
pub use hearing::Learned;
pub use interceptor::{Health, Interceptor, Settings, detach};
pub use layer::{Layer, LayerState, TECHNIQUES, Technique, table};
pub use mount::cgroup2_root;
pub use object::{Verified, verified};
pub use pin::Instance;
pub use probe::{Check, Status, probe, prove};
pub use run::RunCgroup;
pub use seen::Sighting;
pub use self_test::SelfTestError;
pub use sweep::Bypass;
pub use sys::interface_number;
pub use target::TargetNet;
pub use workload::ProcWitness;
