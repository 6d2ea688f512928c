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
//! # Programs (all at the real cgroup-v2 root)
//!
//! | program | hook | does | needs |
//! |---|---|---|---|
//! | `lg_connect4/6` | `connect()` | redirects governed TCP to protected targets | 5.10 |
//! | `lg_sock_ops` | TCP handshake | carries the flow to the accepted socket | 5.10; namespaces told apart from 5.15 |
//! | `lg_getpeername4/6` | `getpeername()` | shows the real peer | 5.8 |
//! | `lg_sendmsg4/6` | unconnected UDP | refuses datagrams to protected targets | 4.18 |
//! | `lg_sock_create` | `socket()` | tags governed sockets; refuses RAW, MPTCP, SCTP, … | 4.10 |
//! | `lg_bind4/6` | `bind()` | keeps the listener's port for the proxy's cgroup | 4.17 |
//!
//! Refusals show their errno from 5.18, EPERM before. Which of this a kernel allows is found out by loading:
//! the object has switches (`HAVE_*`) that are set before load and tried from the newest kernel down. The suite in
//! `tests/tests/capture` passes on 6.18 and 6.1, and on 5.10 but for the errno.
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
//! Task rules see tasks: a colluding process that is not governed, a daemon that connects on a job's behalf, sockets
//! that were connected before governance began, kernel sockets, AF_PACKET and AF_VSOCK for those who may open them, and root that
//! moves itself out of its cgroup or removes the hooks, all stay outside. A unit that restarts gets a new cgroup, which a
//! glob finds within milliseconds in a slice and 200 ms elsewhere; govern its slice where that matters.
//!
//! [`BPF_LINK_UPDATE`]: https://docs.kernel.org/userspace-api/ebpf/syscall.html
//! [`FlowError::Unattributed`]: lockgate_model::port::FlowError::Unattributed

mod abi;
mod belt;
mod btf;
mod cgroup;
mod denial;
mod diag;
mod egress;
mod error;
mod event;
mod flow;
mod govern;
mod interceptor;
pub mod keeper;
mod layer;
mod listener;
mod mount;
mod netns;
mod notice;
mod object;
mod outpost;
mod pin;
mod probe;
mod run;
mod self_test;
mod sweep;
mod sys;
mod target;
mod watch;
mod workload;

pub use belt::Direction;
pub use denial::Counters;
pub use error::InterceptError;
pub use event::{CaptureEvent, Refused};
pub use egress::{Egress, EgressNet};
pub use govern::{Governed, GovernedSet};
pub use layer::{Layer, LayerState, TECHNIQUES, Technique, table};
pub use interceptor::{Health, Interceptor, Settings, detach};
pub use pin::Instance;
pub use probe::{Check, Status, probe, prove};
pub use run::RunCgroup;
pub use self_test::SelfTestError;
pub use sweep::Bypass;
pub use target::TargetNet;
pub use workload::ProcWitness;
