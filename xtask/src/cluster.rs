//! A real Kubernetes: servers and kubelet built once from Debian's packages into the user's cache, images made from what is
//! on this machine, and the suite `cluster` in a network and mount namespace of its own, so that no bridge, rule or mount is
//! left on the machine.

use crate::{helm, image, oci, setup, shell};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the script leaves behind.
const SERVERS: [&str; 6] =
    ["etcd", "kube-apiserver", "kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy"];
/// What a node needs beside the kubelet, a name server for the cluster, and what the images of jobs are made of.
const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "containernetworking-plugins",
    "conntrack",
    "iptables",
    "iproute2",
    "dnsmasq-base",
    "busybox-static",
    "postgresql-client",
    "openssl",
];
/// As the suite's pods name it.
const JOB_IMAGE: &str = "localhost/lockgate-test/job:1";

/// Everything.
pub(crate) fn run() -> Result<()> {
    setup::setup(setup::For::Tests)?;
    setup::install(PACKAGES)?;
    let servers = servers()?;
    let tools = helm::tools()?;
    helm::run(true)?;
    let images = [image::make(image::Build::Development)?, job_image()?];
    let suite = suite("cluster")?;
    shell::step("real pods");
    let images = images.map(|image| image.display().to_string()).join(":");
    shell::run(
        Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .arg(suite)
            .env("LOCKGATE_KUBERNETES", &servers)
            .env("LOCKGATE_HELM", &tools.helm)
            .env("LOCKGATE_KUBECTL", &tools.kubectl)
            .env("LOCKGATE_IMAGES", images)
            .env("LOCKGATE_DEPLOY", shell::root().join("userspace/deploy")),
    )
}

/// What lockgate asks the API server alone.
pub(crate) fn identity() -> Result<()> {
    let servers = servers()?;
    shell::step("identity against a real API server");
    let mut tests = shell::cargo(&["test", "--package", "lockgate-identity", "--test", "cluster"]);
    shell::run(tests.env("LOCKGATE_KUBERNETES", servers))
}

/// The directory with the servers, built when they are not there.
fn servers() -> Result<PathBuf> {
    let home = helm::cache()?.join("kubernetes");
    let bin = home.join("bin");
    if !SERVERS.iter().all(|server| bin.join(server).exists()) {
        shell::step("building Kubernetes (ten minutes, once)");
        let script = shell::root().join("xtask/src/cluster.sh");
        shell::run(Command::new("bash").arg(script).arg(&home))?;
    }
    Ok(bin)
}

/// psql as Debian packages it, unmodified, and busybox: the sandbox of pods, and their jobs.
fn job_image() -> Result<PathBuf> {
    shell::step("image of the jobs");
    let root = image::packages()?.join("job");
    let _ = fs::remove_dir_all(&root);
    let psql = psql()?;
    oci::add_programs(&root, &[(&psql, "/usr/bin/psql"), (Path::new("/bin/busybox"), "/bin/busybox")])?;
    for applet in ["sh", "sleep", "cat", "id", "nc", "ip", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet))?;
    }
    oci::add_text(&root, "/etc/passwd", "root:x:0:0:root:/:/bin/sh\njob:x:1001:1001:job:/tmp:/bin/sh\n")?;
    oci::add_text(&root, "/etc/nsswitch.conf", "passwd: files\nhosts: files dns\n")?;
    fs::create_dir_all(root.join("tmp"))?;
    let image = oci::Image {
        name: JOB_IMAGE,
        entrypoint: &["/bin/sleep", "1000000"],
        environment: &["PATH=/usr/bin:/bin"],
    };
    let archive = image::packages()?.join("job-image.tar");
    oci::write(&image, &root, &archive)?;
    fs::remove_dir_all(&root)?;
    Ok(archive)
}

/// /usr/bin/psql is a wrapper; the programs are below the major's directory.
fn psql() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").context("no PostgreSQL is installed")?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin/psql")).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().context("/usr/lib/postgresql/*/bin/psql is not there")
}

/// A suite's program, built.
pub(crate) fn suite(name: &str) -> Result<PathBuf> {
    shell::step(&format!("suite {name}"));
    let arguments =
        ["test", "--package", "lockgate-tests", "--no-run", "--message-format", "json", "--test", name];
    let output = shell::cargo(&arguments).stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let named = message["target"]["name"] == name && message["target"]["kind"][0] == "test";
        named.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    match program {
        Some(program) if output.status.success() => Ok(program),
        Some(_) | None => bail!("the suite was not built ({})", output.status),
    }
}
