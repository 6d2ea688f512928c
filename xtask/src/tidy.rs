//! The layering, checked on what cargo resolved rather than on what people meant.
//!
//! Three rules, from `userspace/ARCHITECTURE.md`: dependencies of workspace crates point down only;
//! a pure crate reaches no IO, through however many crates; a crate with `wrappers` in `.deny.toml` is
//! a direct dependency of its wrappers alone. Development and build dependencies are free.

use crate::shell;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Which workspace crates a workspace crate may depend on. The table is the drawing of the layers.
const LAYERS: &[(&str, &[&str])] = &[
    ("lockgate-ebpf-common", &[]),
    ("lockgate-model", &[]),
    ("lockgate-wire", &["lockgate-model"]),
    ("lockgate-inspect", &["lockgate-model", "lockgate-wire"]),
    ("lockgate-policy", &["lockgate-model"]),
    ("lockgate-audit", &["lockgate-model"]),
    ("lockgate-store", &["lockgate-model", "lockgate-audit"]),
    ("lockgate-intercept", &["lockgate-model", "lockgate-ebpf-common"]),
    ("lockgate-identity", &["lockgate-model"]),
    (
        "lockgate-proxy",
        &[
            "lockgate-model",
            "lockgate-wire",
            "lockgate-inspect",
            "lockgate-policy",
            "lockgate-audit",
            "lockgate-store",
            "lockgate-intercept",
        ],
    ),
    (
        "lockgate-control",
        &[
            "lockgate-model",
            "lockgate-wire",
            "lockgate-inspect",
            "lockgate-policy",
            "lockgate-audit",
            "lockgate-store",
            "lockgate-intercept",
        ],
    ),
    ("lockgate", &["*"]),
    ("lockgate-tests", &["*"]),
    ("lockgate-bench", &["*"]),
    ("xtask", &[]),
];

/// Crates that perform no IO and read no clock, environment or randomness.
const PURE: &[&str] =
    &["lockgate-model", "lockgate-wire", "lockgate-inspect", "lockgate-policy", "lockgate-audit"];

/// What a pure crate may not reach.
const IO: &[&str] = &[
    "tokio",
    "mio",
    "async-std",
    "smol",
    "socket2",
    "nix",
    "rustix",
    "hyper",
    "reqwest",
    "axum",
    "sled",
    "aya",
    "tokio-postgres",
    "tokio-rustls",
    "rustls",
    "getrandom",
    "notify",
    "tempfile",
];

/// Reached through a crate that a pure crate needs, and switched off there or harmless: why.
const EXCUSED: &[(&str, &str, &str)] = &[
    ("lockgate-inspect", "getrandom", SHA2_BESIDE_OPENIDCONNECT),
    ("lockgate-policy", "getrandom", SHA2_BESIDE_OPENIDCONNECT),
    ("lockgate-audit", "getrandom", SHA2_BESIDE_OPENIDCONNECT),
];
const SHA2_BESIDE_OPENIDCONNECT: &str = "features are one for the whole workspace: openidconnect's elliptic curves switch crypto-common's on, \
     which sha2 has below it and does not call";

pub(crate) fn check() -> Result<()> {
    let output = shell::cargo(&["metadata", "--format-version", "1", "--locked"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let deny = std::fs::read_to_string(shell::root().join(".deny.toml")).context(".deny.toml")?;
    let findings = findings(&Graph::new(&metadata), &wrappers(&deny)?);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("the layering does not hold:\n  {}", findings.join("\n  "))
}

fn findings(graph: &Graph, wrappers: &[(String, Vec<String>)]) -> Vec<String> {
    let mut found = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == member) else {
            found.push(format!("{member} has no layer; give it one in xtask/src/tidy.rs"));
            continue;
        };
        for dependency in graph.dependencies(member).filter(|name| graph.members.contains(*name)) {
            if !allowed.contains(&"*") && !allowed.contains(&dependency) {
                found.push(format!("{member} → {dependency} points up or sideways"));
            }
        }
    }
    for pure in PURE {
        for (io, path) in graph.reaches(pure, IO) {
            // A dependency of its own is no accident.
            let of_its_own = path.matches('→').count() < 2;
            let excused = EXCUSED.iter().any(|(crate_name, reached, _)| crate_name == pure && *reached == io);
            if of_its_own || !excused {
                found.push(format!("{pure} is pure but reaches {io}: {path}"));
            }
        }
    }
    for (banned, allowed) in wrappers {
        for member in &graph.members {
            if graph.dependencies(member).any(|name| bare(name) == banned) && !allowed.contains(member) {
                found.push(format!("{member} → {banned}: only {} may (.deny.toml)", allowed.join(", ")));
            }
        }
    }
    found
}

/// `[bans] deny = [{ crate, wrappers }]`
fn wrappers(deny: &str) -> Result<Vec<(String, Vec<String>)>> {
    #[derive(Deserialize)]
    struct File {
        bans: Bans,
    }
    #[derive(Deserialize)]
    struct Bans {
        deny: Vec<Ban>,
    }
    #[derive(Deserialize)]
    struct Ban {
        #[serde(rename = "crate")]
        name: String,
        wrappers: Vec<String>,
    }
    let file: File = toml::from_str(deny).context(".deny.toml")?;
    Ok(file.bans.deny.into_iter().map(|ban| (ban.name, ban.wrappers)).collect())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
    target: Option<String>,
}

/// Crates and their normal dependencies on Linux: by name, and by `name@version` where there are several of one name.
struct Graph {
    members: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn new(metadata: &Metadata) -> Self {
        let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
        for package in &metadata.packages {
            *versions.entry(&package.name).or_default() += 1;
        }
        let label = |package: &Package| match versions.get(package.name.as_str()) {
            Some(2..) => format!("{}@{}", package.name, package.version),
            _ => package.name.clone(),
        };
        let labels: BTreeMap<&str, String> =
            metadata.packages.iter().map(|package| (package.id.as_str(), label(package))).collect();
        let name = |id: &str| labels.get(id).cloned().unwrap_or_else(|| id.to_owned());
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &metadata.resolve.nodes {
            let normal = node.deps.iter().filter(|dependency| dependency.dep_kinds.iter().any(is_normal));
            edges.entry(name(&node.id)).or_default().extend(normal.map(|dependency| name(&dependency.pkg)));
        }
        Self { members: metadata.workspace_members.iter().map(|id| name(id)).collect(), edges }
    }

    fn dependencies(&self, of: &str) -> impl Iterator<Item = &str> {
        self.edges.get(of).into_iter().flatten().map(String::as_str)
    }

    /// Which of `targets` are reached from `from`, each with one path.
    fn reaches(&self, from: &str, targets: &[&str]) -> Vec<(String, String)> {
        let mut seen = BTreeSet::from([from.to_owned()]);
        let mut queue = vec![(from.to_owned(), from.to_owned())];
        let mut found = Vec::new();
        while let Some((at, path)) = queue.pop() {
            for next in self.dependencies(&at) {
                if !seen.insert(next.to_owned()) {
                    continue;
                }
                let path = format!("{path} → {next}");
                if targets.contains(&bare(next)) {
                    found.push((bare(next).to_owned(), path));
                } else {
                    queue.push((next.to_owned(), path));
                }
            }
        }
        found
    }
}

/// The name without the version.
fn bare(label: &str) -> &str {
    label.split_once('@').map_or(label, |(name, _)| name)
}

/// A dependency of the built crate itself, on the platform lockgate runs on.
fn is_normal(kind: &DependencyKind) -> bool {
    kind.kind.is_none()
        && kind.target.as_deref().is_none_or(|target| {
            !["windows", "wasm", "macos", "redox", "hermit", "wasi"]
                .iter()
                .any(|other| target.contains(other))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real() -> Metadata {
        let output =
            shell::cargo(&["metadata", "--format-version", "1", "--locked", "--offline"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn real_wrappers() -> Vec<(String, Vec<String>)> {
        wrappers(&std::fs::read_to_string(shell::root().join(".deny.toml")).unwrap()).unwrap()
    }

    #[test]
    fn the_workspace_is_tidy() {
        assert_eq!(findings(&Graph::new(&real()), &real_wrappers()), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_edge_is_found() {
        for (from, to, expected) in [
            ("lockgate-proxy", "lockgate-control", "lockgate-proxy → lockgate-control points up or sideways"),
            ("lockgate-model", "lockgate-policy", "lockgate-model → lockgate-policy points up or sideways"),
            (
                "lockgate-policy",
                "tokio",
                "lockgate-policy is pure but reaches tokio: lockgate-policy → tokio",
            ),
            (
                "lockgate-proxy",
                "sqlparser",
                "lockgate-proxy → sqlparser: only lockgate-inspect may (.deny.toml)",
            ),
            (
                "lockgate-control",
                "aya",
                "lockgate-control → aya: only lockgate-intercept, aya-log may (.deny.toml)",
            ),
        ] {
            let mut graph = Graph::new(&real());
            graph.edges.entry(from.to_owned()).or_default().insert(to.to_owned());
            let found = findings(&graph, &real_wrappers());
            assert!(found.iter().any(|finding| finding == expected), "{from} → {to}: {found:#?}");
        }
    }

    #[test]
    fn io_is_found_through_other_crates() {
        let mut graph = Graph::new(&real());
        graph.edges.entry("lockgate-wire".to_owned()).or_default().insert("harmless".to_owned());
        graph.edges.entry("harmless".to_owned()).or_default().insert("mio".to_owned());
        let found = findings(&graph, &[]);
        assert!(
            found.iter().any(|finding| finding.ends_with("lockgate-wire → harmless → mio")),
            "{found:#?}"
        );
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        let mut graph = Graph::new(&real());
        graph.members.insert("lockgate-surprise".to_owned());
        assert_eq!(findings(&graph, &[]).len(), 1);
    }
}
