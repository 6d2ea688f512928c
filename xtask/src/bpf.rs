//! The eBPF toolchain: a Rust that can build for `bpfel-unknown-none`, and bpf-linker. Installs what is
//! missing and builds the object; `userspace/lockgate-intercept/build.rs` only uses what it finds.
//!
//! The pinned nightly of rustup is preferred; where rustup cannot provide it, Debian's 1.96 does with
//! `RUSTC_BOOTSTRAP`.

use crate::{setup, shell};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The toolchain that the programs are built and tested with; build.rs of lockgate-intercept names the same.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";
/// Debian's Rust with its standard library's source.
const DEBIAN_RUST: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// bpf-linker links with this LLVM; it must be at least as new as the one in rustc.
const LLVM: &str = "llvm-22-dev";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const LINKER: &[&str] = &[
    "install",
    "bpf-linker",
    "--version",
    "^0.13",
    "--locked",
    "--no-default-features",
    "--features",
    "llvm-22",
];

/// Builds the object through the crate that embeds it, so that there is one way to build it.
pub(crate) fn build_ebpf() -> Result<()> {
    ensure_toolchain()?;
    shell::run(&mut shell::cargo(&["build", "--package", "lockgate-intercept"]))
}

/// Installs what is missing. Idempotent, and quick when all is there.
pub(crate) fn ensure_toolchain() -> Result<()> {
    ensure_rust()?;
    ensure_linker()
}

fn ensure_rust() -> Result<()> {
    if has_source(&mut rustup_rustc()) || has_source(&mut debian_rustc()) {
        return Ok(());
    }
    let arguments = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"];
    if runs(clean("rustup").arg("--version")) {
        shell::step(&format!("rustup {}", arguments.join(" ")));
        match shell::run(clean("rustup").args(arguments)) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("{error:#}; taking Debian's Rust instead"),
        }
    }
    setup::install(DEBIAN_RUST).context("no Rust can build the eBPF object")
}

fn ensure_linker() -> Result<()> {
    if runs(clean(linker()).arg("--version")) {
        return Ok(());
    }
    // What the linker is linked with; the programs of the same LLVM come without it.
    if !Path::new(LLVM_PREFIX).join("lib/libLLVM.so").exists() {
        setup::install(&[LLVM])?;
    }
    let line = format!("LLVM_PREFIX={LLVM_PREFIX} cargo {}", LINKER.join(" "));
    shell::step(&line);
    // The workspace's own toolchain: the linker is an ordinary program.
    shell::run(shell::cargo(LINKER).env("LLVM_PREFIX", LLVM_PREFIX))
        .with_context(|| format!("type: {line}"))?;
    if !runs(clean(linker()).arg("--version")) {
        bail!("bpf-linker was installed but does not run: is {} there?", linker().display());
    }
    Ok(())
}

/// Does this rustc exist, with the source of `core` beside it?
fn has_source(rustc: &mut Command) -> bool {
    rustc.args(["--print", "sysroot"]).output().is_ok_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        output.status.success() && sysroot.join("lib/rustlib/src/rust/library/core").exists()
    })
}

fn rustup_rustc() -> Command {
    let mut rustc = clean("rustup");
    rustc.args(["run", NIGHTLY, "rustc"]);
    rustc
}

fn debian_rustc() -> Command {
    clean("/usr/bin/rustc")
}

/// bpf-linker on PATH, or where `cargo install` puts it.
fn linker() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let installed = home.map(|home| home.join("bin/bpf-linker")).filter(|path| path.exists());
    installed.unwrap_or_else(|| "bpf-linker".into())
}

fn runs(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// A command that does not inherit the toolchain of the cargo that runs xtask.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO");
    command
}
