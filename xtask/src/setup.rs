//! Installs what is missing: Debian packages and the eBPF toolchain. Idempotent, and quick when all is there.
//!
//! As root it installs; otherwise it prints the line to type.

use crate::{bpf, drivers, shell};
use anyhow::{Result, bail};
use std::process::Command;

/// What the machine is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Building the daemon and the eBPF object.
    Build,
    /// Tests and the demo: servers and clients too.
    Tests,
    /// The side-by-side run: peers too.
    Bench,
    /// PostgreSQL's regression suite: what unpacks and compiles it too.
    Regress,
}

/// A C compiler for libpg_query and ring, libclang for its bindings.
const BUILD: &[&str] = &["gcc", "make", "libc6-dev", "pkg-config", "libclang-dev", "ca-certificates"];
/// A real PostgreSQL and the clients that talk to it; namespaces, users and mounts for the privileged tests.
const TESTS: &[&str] = &[
    "postgresql",
    "postgresql-client",
    "iproute2",
    "util-linux",
    "passwd",
    "procps",
    "curl",
    "git",
    "python3",
    "openssl",
    "dnsmasq-base",
];
/// The proxies that lockgate is measured beside.
const BENCH: &[&str] = &["haproxy", "pgbouncer", "postgresql-contrib", "valgrind"];
/// The suite is fetched as Debian's source package, its headers as a package that is only unpacked.
const REGRESS: &[&str] = &["postgresql-15", "libpq-dev", "bzip2", "diffutils"];

pub(crate) fn setup(what: For) -> Result<()> {
    let mut wanted = BUILD.to_vec();
    if what != For::Build {
        wanted.extend(TESTS);
    }
    if what == For::Bench {
        wanted.extend(BENCH);
    }
    if what == For::Regress {
        wanted.extend(REGRESS);
    }
    install(&wanted)?;
    if what == For::Tests {
        drivers::install()?;
    }
    bpf::ensure_toolchain()
}

/// Installs the Debian packages of the list that are missing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let line = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !is_root() {
        bail!("these packages are missing; type:\n  sudo apt-get update && sudo {line}");
    }
    shell::step(&line);
    shell::run(Command::new("apt-get").args(["update", "--quiet"]).env("DEBIAN_FRONTEND", "noninteractive"))?;
    shell::run(
        Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|uids| uids.split_whitespace().nth(1).map(|effective| effective == "0"))
            .unwrap_or(false)
    })
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}
