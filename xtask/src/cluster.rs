//! What lockgate asks Kubernetes, against a real API server: built once from Debian's packages, kept under `target/`.

use crate::shell;
use anyhow::Result;
use std::process::Command;

/// What the script leaves behind.
const SERVERS: [&str; 3] = ["etcd", "kube-apiserver", "kubelet"];

pub(crate) fn run() -> Result<()> {
    let home = shell::target().join("kubernetes");
    let bin = home.join("bin");
    if !SERVERS.iter().all(|server| bin.join(server).exists()) {
        shell::step("building the API server (six minutes, once)");
        let script = shell::root().join("xtask/src/cluster.sh");
        shell::run(Command::new("bash").arg(script).arg(&home))?;
    }
    shell::step("identity against a real cluster");
    let mut tests = shell::cargo(&["test", "--package", "lockgate-identity", "--test", "cluster"]);
    shell::run(tests.env("LOCKGATE_KUBERNETES", &bin))
}
