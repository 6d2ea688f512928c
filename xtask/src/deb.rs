//! `cargo xtask deb`: the Debian package, made with dpkg's own tools from the files in `userspace/deploy/debian`.
//!
//! It installs the program, its unit, its manual pages and completions, an example configuration and the documents. It starts
//! nothing: without a configuration there is nothing to govern. lintian, Debian's own checker, has to find nothing.

use crate::{
    image::{self, Build, VERSION},
    oci, setup, shell,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// dpkg-shlibdeps comes with dpkg-dev.
const PACKAGES: &[&str] = &["dpkg-dev", "binutils"];

pub(crate) fn run(build: Build) -> Result<()> {
    setup::setup(setup::For::Build)?;
    let package = make(build)?;
    setup::install(&["lintian"])?;
    shell::step("lintian");
    shell::run(
        Command::new("lintian")
            .args(["--allow-root", "--tag-display-limit", "0", "--fail-on", "error,warning"])
            .arg(&package),
    )?;
    println!("{}", package.display());
    Ok(())
}

/// Builds the program and packs it: the package.
pub(crate) fn make(build: Build) -> Result<PathBuf> {
    setup::install(PACKAGES)?;
    let program = image::program(build)?;
    shell::step("Debian package lockgate");
    let root = image::packages()?.join("deb");
    let _ = fs::remove_dir_all(&root);
    let source = shell::root().join("userspace/deploy");
    oci::add_file(&root, &program, "/usr/bin/lockgate", 0o755)?;
    oci::add_file(
        &root,
        &source.join("systemd/lockgate.service"),
        "/lib/systemd/system/lockgate.service",
        0o644,
    )?;
    oci::add_file(
        &root,
        &source.join("debian/lockgate.example.yaml"),
        "/usr/share/doc/lockgate/examples/lockgate.yaml",
        0o644,
    )?;
    oci::add_file(
        &root,
        &shell::root().join("policies/default.yaml"),
        "/usr/share/doc/lockgate/examples/policy.yaml",
        0o644,
    )?;
    documents(&root)?;
    of_the_program(&root, &program)?;
    // Where the configuration goes; secrets lie beside it.
    fs::create_dir_all(root.join("etc/lockgate/policies"))?;
    control(&root, &source.join("debian"), &program)?;
    let package = image::packages()?.join(format!("lockgate_{VERSION}_{}.deb", architecture()?));
    shell::run(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&root).arg(&package))?;
    fs::remove_dir_all(&root)?;
    Ok(package)
}

fn documents(root: &Path) -> Result<()> {
    for entry in fs::read_dir(shell::root().join("userspace/docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            oci::add_file(root, &path, &format!("/usr/share/doc/lockgate/{name}"), 0o644)?;
        }
    }
    let source = shell::root().join("userspace/deploy/debian");
    oci::add_file(root, &source.join("copyright"), "/usr/share/doc/lockgate/copyright", 0o644)?;
    oci::add_file(root, &source.join("lintian-overrides"), "/usr/share/lintian/overrides/lockgate", 0o644)?;
    let changelog = fs::read_to_string(source.join("changelog"))?;
    if !changelog.starts_with(&format!("lockgate ({VERSION}) ")) {
        bail!("userspace/deploy/debian/changelog does not begin with version {VERSION}");
    }
    oci::add_text(root, "/usr/share/doc/lockgate/changelog", &changelog)?;
    compress(&root.join("usr/share/doc/lockgate/changelog"))?;
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        oci::add_file(
            root,
            &shell::root().join(licence),
            &format!("/usr/share/doc/lockgate/{licence}"),
            0o644,
        )?;
    }
    Ok(())
}

/// What the program says of itself: its manual, and what shells complete.
fn of_the_program(root: &Path, program: &Path) -> Result<()> {
    let pages = root.join("usr/share/man/man1");
    fs::create_dir_all(&pages)?;
    shell::run(Command::new(program).arg("man").arg(&pages))?;
    for entry in fs::read_dir(&pages)? {
        compress(&entry?.path())?;
    }
    for (shell_name, path) in [
        ("bash", "/usr/share/bash-completion/completions/lockgate"),
        ("zsh", "/usr/share/zsh/vendor-completions/_lockgate"),
        ("fish", "/usr/share/fish/vendor_completions.d/lockgate.fish"),
    ] {
        let script = shell::output(Command::new(program).args(["completions", shell_name]))?;
        oci::add_text(root, path, &script)?;
    }
    Ok(())
}

/// As Debian wants texts: the same input gives the same bytes.
fn compress(path: &Path) -> Result<()> {
    shell::run(Command::new("gzip").args(["-9", "--no-name"]).arg(path))
}

/// `DEBIAN/`: what dpkg reads.
fn control(root: &Path, source: &Path, program: &Path) -> Result<()> {
    let template = fs::read_to_string(source.join("control"))?;
    let text = template
        .replace("@VERSION@", VERSION)
        .replace("@ARCHITECTURE@", &architecture()?)
        .replace("@LIBRARIES@", &libraries(program)?);
    oci::add_text(root, "/DEBIAN/control", &text)?;
    for script in ["postinst", "prerm", "postrm"] {
        oci::add_file(root, &source.join(script), &format!("/DEBIAN/{script}"), 0o755)?;
    }
    Ok(())
}

/// The packages whose libraries the program is linked with, as dpkg-shlibdeps knows them.
fn libraries(program: &Path) -> Result<String> {
    let directory = image::packages()?.join("shlibdeps");
    fs::create_dir_all(directory.join("debian"))?;
    fs::write(
        directory.join("debian/control"),
        "Source: lockgate\n\nPackage: lockgate\nArchitecture: any\n",
    )?;
    let line = shell::output(Command::new("dpkg-shlibdeps").arg("-O").arg(program).current_dir(&directory))?;
    fs::remove_dir_all(&directory)?;
    let list = line.trim().strip_prefix("shlibs:Depends=").context("dpkg-shlibdeps names no libraries")?;
    Ok(list.to_owned())
}

fn architecture() -> Result<String> {
    Ok(shell::output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}
