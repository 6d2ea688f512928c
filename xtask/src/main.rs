//! `cargo xtask VERB`: everything CI does, and nothing CI does is written elsewhere.
//!
//! `setup` installs what is missing; `test` is what `.ci/run` calls; `demo` is the README's first
//! command. xtask itself stays small: it must compile before anything else is installed.

mod bench;
mod bpf;
mod builtins;
mod cluster;
mod compose;
mod deb;
mod demo;
mod drivers;
mod fuzz;
mod guest;
mod helm;
mod image;
mod lint;
mod majors;
mod oci;
mod regress;
mod setup;
mod shell;
mod suites;
mod systemd;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, checks and shows lockgate.
#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    after_help = "Examples:\n  cargo xtask demo                 see a psql held, approved, masked and recorded\n  cargo xtask demo --interactive   the same, and you approve\n  cargo xtask test                 all tests, the privileged ones too\n  cargo xtask bench --peers        pgbench beside haproxy and pgbouncer"
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what is missing (apt packages, the eBPF toolchain)
    Setup,
    /// Run an unmodified psql through lockgate and say what everybody saw
    Demo {
        /// Wait for you to approve, from another terminal
        #[arg(long)]
        interactive: bool,
    },
    /// Install what is missing, check format, lints and layers, run every test
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Format, clippy with warnings denied, tidy
    Lint,
    /// Fail on a dependency that points up, or on a pure crate that reaches IO
    Tidy,
    /// Build the eBPF object alone
    BuildEbpf,
    /// The end-to-end suite alone (root, cgroups, BPF)
    E2e {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Instead: the capture suite in a guest with this Linux from Debian (5.10, 6.1, 6.12, 6.16 to 6.19, 7.2), where BPF
        /// LSM, SCTP, DCCP and SMC are tested too (15 minutes without KVM)
        #[arg(long, value_name = "VERSION")]
        kernel: Option<String>,
        /// The same with a kernel that is at hand, for versions that Debian does not have (5.15): its bzImage
        #[arg(long, value_name = "FILE", conflicts_with = "kernel")]
        kernel_image: Option<std::path::PathBuf>,
        /// Its modules (lib/modules/RELEASE), unless 9p over virtio, overlay and what is to be tested are built in
        #[arg(long, value_name = "DIRECTORY", requires = "kernel_image")]
        kernel_modules: Option<std::path::PathBuf>,
    },
    /// Run the fuzz targets
    Fuzz {
        /// Seconds per target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Only this target
        target: Option<String>,
    },
    /// PostgreSQL's regression suite through lockgate and directly, compared test for test
    Regress {
        /// Only these tests, in one parallel group
        tests: Vec<String>,
        /// Instead: which of its plain reads are judged more than a read (20 minutes)
        #[arg(long)]
        judged: bool,
    },
    /// Write the list of built-in functions that change nothing, from PostgreSQL 15 to 18
    Builtins,
    /// A real Kubernetes with real pods: captured, held, approved, recorded; the manifests and the chart installed (builds
    /// the servers once, into the user's cache: 10 minutes)
    Cluster {
        /// Only what lockgate asks the API server
        #[arg(long)]
        identity: bool,
    },
    /// The Debian package, into target/packages
    Deb {
        /// Package the development build
        #[arg(long)]
        dev: bool,
    },
    /// The container image, from scratch, into target/packages
    Image {
        /// Package the development build
        #[arg(long)]
        dev: bool,
    },
    /// The Compose quick start on a Docker engine: up, held, approved by somebody who logs in, masked, recorded, down (asks no
    /// registry: PostgreSQL and the identity provider are stand-ins made of this machine's own)
    Compose,
    /// Render the chart with real helm into the plain manifests
    Helm {
        /// Only compare
        #[arg(long)]
        check: bool,
    },
    /// The Debian package and its unit in a booted systemd: installed, started, sessions held and approved under it
    Systemd,
    /// Sessions and masks on PostgreSQL 16, 17 and 18 (15 minutes)
    Majors {
        /// Only these majors
        majors: Vec<String>,
    },
    /// The driver tests; with --suites the drivers' own suites too, directly and through lockgate, compared
    Drivers {
        /// Drivers' own suites: asyncpg, psycopg2, tokio-postgres (10 minutes)
        #[arg(long)]
        suites: bool,
        /// Only these suites, without the driver tests
        #[arg(requires = "suites")]
        wanted: Vec<String>,
    },
    /// The scale tests in full: 1,000 sessions of which 200 wait, a result of a gigabyte to a slow reader
    Scale,
    /// Criterion benches, and the side-by-side run
    Bench(bench::Wanted),
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Setup => setup::setup(setup::For::Tests),
        Verb::Demo { interactive } => demo::run(interactive),
        Verb::Test { filter } => test::all(filter.as_deref()),
        Verb::Lint => lint::all(),
        Verb::Tidy => tidy::check(),
        Verb::BuildEbpf => {
            setup::setup(setup::For::Build)?;
            bpf::build_ebpf()
        }
        Verb::E2e { filter, kernel: Some(version), .. } => {
            guest::run(&guest::Wanted::Debian(version), filter.as_deref())
        }
        Verb::E2e { filter, kernel_image: Some(image), kernel_modules: modules, .. } => {
            guest::run(&guest::Wanted::Image { image, modules }, filter.as_deref())
        }
        Verb::E2e { filter, .. } => {
            setup::setup(setup::For::Tests)?;
            test::end_to_end(filter.as_deref())
        }
        Verb::Fuzz { seconds, target } => fuzz::run(seconds, target.as_deref()),
        Verb::Regress { judged: true, .. } => regress::judged(),
        Verb::Regress { tests, judged: false } => regress::run(&tests),
        Verb::Builtins => builtins::run(),
        Verb::Cluster { identity: true } => cluster::identity(),
        Verb::Cluster { identity: false } => cluster::run(),
        Verb::Deb { dev } => deb::run(image::Build::of(dev)),
        Verb::Image { dev } => image::run(image::Build::of(dev)),
        Verb::Compose => compose::run(),
        Verb::Helm { check } => helm::run(check),
        Verb::Systemd => systemd::run(),
        Verb::Majors { majors } => majors::run(&majors),
        Verb::Drivers { suites, wanted } => {
            setup::setup(setup::For::Tests)?;
            drivers::run(suites, &wanted)
        }
        Verb::Scale => {
            setup::setup(setup::For::Tests)?;
            test::scale()
        }
        Verb::Bench(wanted) => bench::run(&wanted),
    }
}
