//! What can go wrong on the kernel side, each with what to do about it.

use std::{io, path::PathBuf};

/// Why capture could not be set up, changed or taken down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterceptError {
    /// An instance name that cannot be a directory name.
    #[error("instance name {0:?}: expected at most 32 of a-z, 0-9 and '-'")]
    Instance(String),
    /// There is no cgroup-v2 hierarchy.
    #[error("no cgroup-v2 mount in /proc/self/mountinfo; run `mount -t cgroup2 none /sys/fs/cgroup/unified`")]
    NoCgroup2,
    /// The mount is not the root of the hierarchy.
    #[error(
        "{0} is not the root of the cgroup-v2 hierarchy (a cgroup namespace?); start lockgate in the host's cgroup namespace"
    )]
    NotCgroupRoot(PathBuf),
    /// A governed cgroup that the programs could not see.
    #[error(
        "cgroup {path} lies {level} levels deep; at most {max} can be governed: name one of its ancestors"
    )]
    TooDeep {
        /// As configured.
        path: String,
        /// Its depth.
        level: usize,
        /// The deepest that works.
        max: i32,
    },
    /// A cgroup path that leaves the hierarchy, or is the root.
    #[error("cgroup {0:?}: expected a path below the cgroup-v2 mount, such as /lockgate/run")]
    CgroupPath(String),
    /// A glob that cannot be read.
    #[error("systemd unit {pattern:?} is not a glob: {reason}")]
    Glob {
        /// As configured.
        pattern: String,
        /// Why not.
        reason: String,
    },
    /// The kernel does not say where a task's start time lies.
    #[error("{what}; lockgate needs a kernel with CONFIG_DEBUG_INFO_BTF (see /sys/kernel/btf/vmlinux)")]
    Btf {
        /// What was missing.
        what: String,
    },
    /// The object was refused.
    #[error("the kernel refuses the eBPF object: {reason}; `lockgate doctor` says which part and why")]
    Load {
        /// The loader's or verifier's words.
        reason: String,
    },
    /// The kernel is too old to capture without holes.
    #[error(
        "Linux {release} is too old: its sock_ops programs have no bpf_get_netns_cookie, so connections of two network namespaces \
         cannot be told apart, and a mounted net_cls or net_prio takes sockets out of the hooks. lockgate needs a kernel of at least 5.15"
    )]
    Kernel {
        /// The running one.
        release: String,
    },
    /// Pins of a build that this one must not touch.
    #[error(
        "the maps pinned in {path} have ABI {found}, this build has {expected}: their hooks stay in force and refuse governed \
         connections. Start the build that pinned them, or run `lockgate agent --detach` and then this one"
    )]
    IncompatiblePins {
        /// The pin directory.
        path: PathBuf,
        /// What is pinned.
        found: String,
        /// What this build speaks.
        expected: u32,
    },
    /// Another agent has this instance.
    #[error("an agent of instance {instance:?} is running already (it holds {path}); stop it first")]
    Running {
        /// The instance.
        instance: String,
        /// The locked cgroup.
        path: PathBuf,
    },
    /// Somebody else has the listener's port.
    #[error(
        "port {port} on {address} is taken by another process (or kept by another instance's hooks): governed connections stay refused. \
         Find it with `ss -ltnp sport = :{port}` and stop it, or configure another port"
    )]
    PortTaken {
        /// Address that was to be bound.
        address: std::net::IpAddr,
        /// The port.
        port: u16,
    },
    /// More entries than a map holds.
    #[error("{what}: {got} entries, at most {max} fit")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// How many were given.
        got: usize,
        /// Capacity.
        max: u32,
    },
    /// A process to be placed is not the one that was meant.
    #[error("process {pid} cannot be placed: {reason}")]
    Place {
        /// Its pid.
        pid: u32,
        /// Why not.
        reason: String,
    },
    /// An interface got no packet filter.
    #[error("interface {interface} cannot be guarded: {reason}")]
    Guard {
        /// Its number.
        interface: u32,
        /// Why not.
        reason: String,
    },
    /// A map operation failed.
    #[error("map {map}: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The library's words.
        reason: String,
    },
    /// The process may not do it.
    #[error(
        "cannot {doing}: {source}; run the agent as root, or see `lockgate doctor` for the capabilities it needs"
    )]
    Privilege {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl InterceptError {
    /// A metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Instance(_) => "instance",
            Self::NoCgroup2 => "no_cgroup2",
            Self::NotCgroupRoot(_) => "not_cgroup_root",
            Self::TooDeep { .. } => "too_deep",
            Self::CgroupPath(_) => "cgroup_path",
            Self::Glob { .. } => "glob",
            Self::Btf { .. } => "btf",
            Self::Load { .. } => "load",
            Self::Kernel { .. } => "kernel",
            Self::IncompatiblePins { .. } => "incompatible_pins",
            Self::Running { .. } => "running",
            Self::PortTaken { .. } => "port_taken",
            Self::TooMany { .. } => "too_many",
            Self::Place { .. } => "place",
            Self::Guard { .. } => "guard",
            Self::Map { .. } => "map",
            Self::Privilege { .. } => "privilege",
            Self::Io { .. } => "io",
        }
    }

    pub(crate) fn map(map: &'static str) -> impl Fn(aya::maps::MapError) -> Self {
        move |error| Self::Map { map, reason: chain(&error) }
    }
}

/// Adds to an io error what was being done.
pub(crate) trait Doing<T> {
    /// `doing` completes "cannot …".
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, InterceptError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, InterceptError> {
        self.map_err(|error| {
            let (doing, source) = (doing(), error.into());
            match source.kind() {
                io::ErrorKind::PermissionDenied => InterceptError::Privilege { doing, source },
                _ => InterceptError::Io { doing, source },
            }
        })
    }
}

/// An error with its sources in one line; aya keeps the errno in the source.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
