//! Builds `ebpf/lockgate-ebpf` for `bpfel-unknown-none` and hands the object to the crate.
//!
//! The toolchain is the pinned nightly of rustup, or Debian's 1.96 with `RUSTC_BOOTSTRAP`; the crate
//! is built with `-Z build-std=core` into a target directory of its own under `OUT_DIR`. Nothing is
//! installed here: what is missing is named together with the one command that installs it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The toolchain that the programs are tested with; `xtask/src/bpf.rs` installs it.
const NIGHTLY: &str = "nightly-2026-05-20";
const TARGET: &str = "bpfel-unknown-none";
const REMEDY: &str = "run `cargo xtask setup`, which installs it";

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let ebpf = manifest.join("../../ebpf");
    // An ABI change must rebuild the object together with this crate.
    for part in [
        "lockgate-ebpf/src",
        "lockgate-ebpf/Cargo.toml",
        "lockgate-ebpf/Cargo.lock",
        "lockgate-ebpf-common/src",
        "lockgate-ebpf-common/Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={}", ebpf.join(part).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    if let Err(problem) = build(&ebpf.join("lockgate-ebpf"), &out) {
        println!("cargo:error={problem}");
        std::process::exit(1);
    }
}

fn build(package: &Path, out: &Path) -> Result<(), String> {
    let target_dir = out.join("ebpf");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let rustflags =
        [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
    let mut cargo = toolchain()?.cargo();
    cargo
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", TARGET])
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("PATH", path_with_linker()?);
    let output = cargo
        .output()
        .map_err(|error| format!("cargo for the eBPF object does not start ({error}): {REMEDY}"))?;
    if !output.status.success() {
        return Err(format!(
            "the eBPF object does not build ({}). If a tool is missing, {REMEDY}.\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).replace('\n', "\ncargo:warning=")
        ));
    }
    let object = target_dir.join(TARGET).join("release/lockgate");
    fs::copy(&object, out.join("lockgate.bpf.o"))
        .map_err(|error| format!("the eBPF object {} cannot be copied: {error}", object.display()))?;
    Ok(())
}

/// Which Rust builds the object.
enum Toolchain {
    /// The pinned nightly.
    Rustup,
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`.
    Debian,
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

fn toolchain() -> Result<Toolchain, String> {
    let pinned = command("rustup").args(["run", NIGHTLY, "rustc", "--version"]).output();
    if pinned.is_ok_and(|output| output.status.success()) {
        return Ok(Toolchain::Rustup);
    }
    let debian = command(DEBIAN_RUSTC).arg("--version").output();
    if debian.is_ok_and(|output| output.status.success() && has_std_source(DEBIAN_RUSTC))
        && Path::new(DEBIAN_CARGO).exists()
    {
        return Ok(Toolchain::Debian);
    }
    Err(format!(
        "no toolchain for the eBPF object: {NIGHTLY} of rustup is missing, and so are Debian's rustc-web, cargo-web and rust-web-src: {REMEDY}"
    ))
}

fn has_std_source(rustc: &str) -> bool {
    command(rustc).args(["--print", "sysroot"]).output().is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists()
    })
}

impl Toolchain {
    fn cargo(&self) -> Command {
        match self {
            Self::Rustup => {
                let mut cargo = command("rustup");
                cargo.args(["run", NIGHTLY, "cargo"]);
                cargo
            }
            Self::Debian => {
                let mut cargo = command(DEBIAN_CARGO);
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        }
    }
}

/// A command without what the outer cargo put into the environment for its own rustc.
fn command(program: &str) -> Command {
    const KEPT: [&str; 2] = ["CARGO_HOME", "CARGO_NET_OFFLINE"];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTDOC", "RUSTFLAGS", "MAKEFLAGS", "MFLAGS"];
        let registry = text.starts_with("CARGO_REGISTRIES_")
            || text.starts_with("CARGO_REGISTRY_")
            || text.starts_with("CARGO_HTTP_");
        if ours.iter().any(|prefix| text.starts_with(prefix)) && !KEPT.contains(&text.as_ref()) && !registry {
            command.env_remove(&name);
        }
    }
    command
}

/// PATH with cargo's own bin directory, where `cargo install bpf-linker` puts it.
fn path_with_linker() -> Result<std::ffi::OsString, String> {
    let mut directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    directories.extend(home.map(|home| home.join("bin")));
    if !directories.iter().any(|directory| directory.join("bpf-linker").exists()) {
        return Err(format!("bpf-linker is missing: {REMEDY}"));
    }
    env::join_paths(directories).map_err(|error| format!("PATH cannot be used: {error}"))
}
