//! `cargo xtask image`: lockgate's container image, from scratch: the program, the libraries it is linked with, and nothing
//! else. No shell, no package manager, no compiler's libraries.

use crate::{oci, setup, shell};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The version that all packages carry.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What is packaged: users get release builds; tests are content with what is built anyway.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    Release,
    Development,
}

impl Build {
    /// `--dev` on the command line.
    pub(crate) fn of(dev: bool) -> Self {
        if dev { Self::Development } else { Self::Release }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Development => "debug",
        }
    }
}

pub(crate) fn run(build: Build) -> Result<()> {
    setup::setup(setup::For::Build)?;
    let archive = make(build)?;
    println!("{}", archive.display());
    println!(
        "load it with: ctr --namespace k8s.io images import {0}   or: podman load --input {0}",
        archive.display()
    );
    Ok(())
}

/// Builds the program and packs it: the archive.
pub(crate) fn make(build: Build) -> Result<PathBuf> {
    let program = program(build)?;
    shell::step("image lockgate, from scratch");
    let directory = packages()?;
    let root = directory.join("image");
    let _ = fs::remove_dir_all(&root);
    oci::add_programs(&root, &[(&program, "/usr/bin/lockgate")])?;
    oci::add_text(
        &root,
        "/etc/passwd",
        "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n",
    )?;
    oci::add_text(&root, "/etc/group", "root:x:0:\nnogroup:x:65534:\n")?;
    oci::add_text(&root, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let at = format!("/usr/share/doc/lockgate/{licence}");
        oci::add_file(&root, &shell::root().join(licence), &at, 0o644)?;
    }
    // Mounted over in a pod; a read-only root has no place to make them.
    for directory in
        ["proc", "sys/fs/cgroup", "sys/fs/bpf", "run/lockgate", "var/lib/lockgate", "etc/lockgate", "tmp"]
    {
        fs::create_dir_all(root.join(directory))?;
    }
    let name = format!("lockgate:{VERSION}");
    let image =
        oci::Image { name: &name, entrypoint: &["/usr/bin/lockgate"], environment: &["PATH=/usr/bin"] };
    let archive = directory.join(format!("lockgate-{VERSION}-image.tar"));
    oci::write(&image, &root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// lockgate, built and without debug symbols.
pub(crate) fn program(build: Build) -> Result<PathBuf> {
    let mut cargo = shell::cargo(&["build", "--package", "lockgate"]);
    if build == Build::Release {
        cargo.arg("--release");
    }
    shell::run(&mut cargo)?;
    let built = shell::target().join(build.directory()).join("lockgate");
    let stripped = packages()?.join("lockgate");
    strip(&built, &stripped)?;
    Ok(stripped)
}

/// Where packages go.
pub(crate) fn packages() -> Result<PathBuf> {
    let directory = shell::target().join("packages");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    shell::run(Command::new("strip").arg("-o").arg(to).arg(from)).context("strip comes with binutils")
}
