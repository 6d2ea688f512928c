//! `cargo xtask compose`: the Compose quick start on a real engine: Docker's own, from Debian, in namespaces of its own, with
//! lockgate's image as `cargo xtask image` makes it.
//!
//! No registry is asked. What the quick start names besides, `postgres` and Dex, are images made of this machine's own files
//! under the same names: **stand-ins** (`tests/compose`), a real PostgreSQL of another major and npm's oidc-provider.

use crate::{cluster, drivers, guest, image, oci, setup, shell};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// What the engine stands on, and what makes its namespaces. The engine itself would start with the machine as a package.
const PACKAGES: &[&str] =
    &["containerd", "runc", "iptables", "iproute2", "util-linux", "nodejs", "postgresql-15"];

/// Debian's release with an engine that knows CAP_BPF, and a Compose of the second major.
const RELEASE: &str = "trixie";
const ENGINE: &[&str] = &["docker.io", "docker-cli", "docker-compose"];

/// The names that the quick start's file uses.
const POSTGRES: &str = "postgres:16";
const DEX: &str = "ghcr.io/dexidp/dex:v2.41.1";

pub(crate) fn run() -> Result<()> {
    setup::setup(setup::For::Tests)?;
    setup::install(&missing())?;
    let directory = shell::target().join("compose");
    fs::create_dir_all(&directory)?;
    let engine = engine(&directory)?;
    let lockgate = image::make(image::Build::Development)?;
    let postgres = postgres(&directory)?;
    let dex = dex(&directory)?;
    let suite = cluster::suite("compose")?;
    shell::step("the quick start on a Docker engine");
    let ended = shell::run(
        Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(suite)
            .env("LOCKGATE_ENGINE", &engine)
            .env("LOCKGATE_IMAGES", std::env::join_paths([&lockgate, &postgres, &dex])?),
    );
    // Hundreds of megabytes that are made again in seconds.
    for archive in [&postgres, &dex] {
        fs::remove_file(archive)?;
    }
    ended
}

/// Whoever has node from elsewhere keeps it.
fn missing() -> Vec<&'static str> {
    let has_node = Command::new("node").arg("--version").output().is_ok_and(|output| output.status.success());
    PACKAGES.iter().copied().filter(|package| *package != "nodejs" || !has_node).collect()
}

/// The engine, unpacked and not installed: its package would start it with the machine.
fn engine(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("engine");
    if root.join("usr/sbin/dockerd").exists() && root.join("usr/bin/docker").exists() {
        return Ok(root);
    }
    shell::step(&format!("a Docker engine from Debian {RELEASE}"));
    let apt = directory.join("apt");
    let configuration = guest::apt_root(&apt, RELEASE)?;
    let tool = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("APT_CONFIG", &configuration).current_dir(&apt);
        command
    };
    shell::run(&mut tool(&["update", "--quiet"]))?;
    shell::run(tool(&["download", "--quiet"]).args(ENGINE))?;
    for entry in fs::read_dir(&apt)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&root))?;
        }
    }
    fs::remove_dir_all(&apt)?;
    Ok(root)
}

/// A PostgreSQL in place of the image `postgres`.
fn postgres(directory: &Path) -> Result<PathBuf> {
    const AT: &str = "/usr/lib/postgresql/15";
    shell::step(&format!("stand-in for {POSTGRES}: this machine's PostgreSQL 15"));
    let root = fresh(directory, "postgres-root")?;
    let own: Vec<String> = ["postgres", "initdb", "pg_ctl", "psql", "pg_isready"]
        .iter()
        .map(|name| format!("{AT}/bin/{name}"))
        .collect();
    let tools = ["/bin/sh", "/bin/mkdir", "/bin/chown", "/bin/cat", "/usr/bin/setpriv", "/usr/bin/env"];
    let programs: Vec<(&Path, &str)> =
        own.iter().map(String::as_str).chain(tools).map(|name| (Path::new(name), name)).collect();
    oci::add_programs(&root, &programs)?;
    for tree in [
        "/usr/lib/postgresql/15/lib",
        "/usr/share/postgresql/15",
        "/usr/lib/locale/C.utf8",
        "/usr/share/zoneinfo/UTC",
    ] {
        copy(Path::new(tree), &root.join(tree.trim_start_matches('/')))?;
    }
    users(&root, "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n")?;
    let entry = shell::root().join("tests/compose/postgres.sh");
    oci::add_file(&root, &entry, "/usr/local/bin/docker-entrypoint.sh", 0o755)?;
    fs::create_dir_all(root.join("var/lib/postgresql"))?;
    fs::create_dir_all(root.join("run"))?;
    symlink("../run", root.join("var/run"))?;
    let path = format!("PATH=/usr/local/bin:{AT}/bin:/usr/bin:/bin");
    packed(directory, "postgres", &root, POSTGRES, &["docker-entrypoint.sh"], &[&path])
}

/// An identity provider in place of Dex's image.
fn dex(directory: &Path) -> Result<PathBuf> {
    shell::step(&format!("stand-in for {DEX}: npm's oidc-provider, told what Dex's configuration says"));
    let root = fresh(directory, "dex-root")?;
    let node = shell::output(Command::new("node").args(["-p", "process.execPath"]))?;
    oci::add_programs(
        &root,
        &[(Path::new(node.trim()), "/usr/bin/node"), (Path::new("/bin/sh"), "/bin/sh")],
    )?;
    copy(&drivers::directory().join("people/node_modules"), &root.join("srv/dex/node_modules"))?;
    oci::add_file(&root, &shell::root().join("tests/compose/dex.mjs"), "/srv/dex/dex.mjs", 0o644)?;
    oci::add_text(&root, "/usr/bin/dex", "#!/bin/sh\nexec /usr/bin/node /srv/dex/dex.mjs \"$@\"\n")?;
    fs::set_permissions(root.join("usr/bin/dex"), fs::Permissions::from_mode(0o755))?;
    users(&root, "")?;
    packed(directory, "dex", &root, DEX, &[], &["PATH=/usr/bin:/bin"])
}

fn fresh(directory: &Path, name: &str) -> Result<PathBuf> {
    let root = directory.join(name);
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    Ok(root)
}

fn users(root: &Path, more: &str) -> Result<()> {
    oci::add_text(root, "/etc/passwd", &format!("root:x:0:0::/root:/bin/sh\n{more}"))?;
    oci::add_text(root, "/etc/group", "root:x:0:\npostgres:x:999:\n")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a directory above")?)?;
    shell::run(Command::new("cp").args(["--recursive", "--dereference"]).arg(from).arg(to))
}

fn packed(
    directory: &Path,
    file: &str,
    root: &Path,
    name: &str,
    entrypoint: &[&str],
    environment: &[&str],
) -> Result<PathBuf> {
    let archive = directory.join(format!("{file}-stand-in.tar"));
    oci::write(&oci::Image { name, entrypoint, environment }, root, &archive)?;
    fs::remove_dir_all(root)?;
    Ok(archive)
}
