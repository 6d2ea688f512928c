//! The documents against the code: every key, verb, flag, code and metric is described and none is invented; examples
//! that need no agent run; links lead somewhere. No root, no agent, no network.
//!
//! What needs a running agent is in `tests/tests/e2e/docs.rs`; the examples of policies/README.md are tested by
//! lockgate-policy.

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

const DOCUMENTS: &[&str] = &[
    "README.md",
    "policies/README.md",
    "userspace/ARCHITECTURE.md",
    "userspace/deploy/compose/README.md",
    "userspace/docs/README.md",
    "userspace/docs/api.md",
    "userspace/docs/approvals.md",
    "userspace/docs/channels.md",
    "userspace/docs/cli.md",
    "userspace/docs/configuration.md",
    "userspace/docs/console.md",
    "userspace/docs/credentials.md",
    "userspace/docs/getting-started.md",
    "userspace/docs/identity.md",
    "userspace/docs/kubernetes.md",
    "userspace/docs/operations.md",
    "userspace/docs/threat-model.md",
    "userspace/docs/trust.md",
    "userspace/docs/tutorial.md",
    "userspace/docs/webhooks.md",
];

const VERBS: &[&[&str]] = &[
    &[],
    &["agent"],
    &["run"],
    &["approvals", "list"],
    &["approvals", "show"],
    &["approvals", "approve"],
    &["approvals", "deny"],
    &["approvals", "watch"],
    &["approvals", "rehearse"],
    &["grants", "list"],
    &["grants", "revoke"],
    &["breakglass", "use"],
    &["breakglass", "list"],
    &["breakglass", "end"],
    &["breakglass", "review"],
    &["sessions", "list"],
    &["sessions", "show"],
    &["sessions", "search"],
    &["sessions", "tail"],
    &["sessions", "kill"],
    &["sessions", "replay"],
    &["sessions", "observed"],
    &["audit", "verify"],
    &["audit", "checkpoint"],
    &["audit", "prove"],
    &["audit", "grown"],
    &["audit", "check"],
    &["audit", "export"],
    &["audit", "retain"],
    &["audit", "hold"],
    &["audit", "release"],
    &["audit", "holds"],
    &["store", "migrate"],
    &["store", "status"],
    &["store", "enrol"],
    &["store", "copy"],
    &["store", "export"],
    &["login", "bootstrap"],
    &["targets", "list"],
    &["targets", "add"],
    &["targets", "remove"],
    &["policy", "check"],
    &["policy", "test"],
    &["policy", "explain"],
    &["policy", "draft"],
    &["policy", "diff"],
    &["policy", "grants"],
    &["policy", "schema"],
    &["policy", "reference"],
    &["inspect", "sql"],
    &["doctor"],
    &["tls", "ca"],
    &["trust", "show"],
    &["trust", "system"],
    &["trust", "env"],
    &["trust", "mount"],
    &["token"],
    &["tokens", "make"],
    &["tokens", "list"],
    &["tokens", "revoke"],
    &["tokens", "whoami"],
    &["api", "openapi"],
    &["api", "get"],
    &["completions"],
    &["man"],
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn lockgate(config: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(words)
        .env("LOCKGATE_CONFIG", config)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn help(verb: &[&str]) -> String {
    let words: Vec<&str> = verb.iter().copied().chain(["--help"]).collect();
    String::from_utf8(lockgate(Path::new("/nonexistent"), &words).stdout).unwrap()
}

#[test]
fn the_worked_receiver_is_the_same_in_the_guide_and_as_a_file() {
    assert!(
        document("userspace/docs/webhooks.md").contains(&document("userspace/docs/examples/receiver.py"))
    );
}

#[test]
fn every_key_of_the_configuration_is_described_and_none_is_invented() {
    let shapes = document("userspace/lockgate/src/config/raw.rs");
    let shapes = shapes.split("/// A secret as the file may").next().unwrap();
    let shapes = shapes.to_owned() + &document("userspace/lockgate/src/config/raw/identity.rs");
    let shapes = shapes + &document("userspace/lockgate/src/config/raw/channels.rs");
    let shapes = shapes + &document("userspace/lockgate/src/config/raw/login.rs");
    let shapes = shapes + &document("userspace/lockgate/src/config/raw/evidence.rs");
    let shapes = shapes + &document("userspace/lockgate/src/config/raw/http.rs");
    let mut known: BTreeSet<String> = shapes
        .lines()
        .filter_map(|line| {
            line.strip_prefix("    pub(crate) ")?.split_once(": ").map(|(name, _)| name.to_owned())
        })
        .collect();
    known.extend(["cgroup", "systemd_unit", "uid"].map(str::to_owned));
    assert!(known.len() > 35, "the shapes were not read: {known:?}");
    let text = document("userspace/docs/configuration.md");
    let mut spans: Vec<String> = code(&text);
    spans.extend(code(&document("userspace/docs/identity.md")));
    spans.extend(code(&document("userspace/docs/channels.md")));
    for key in &known {
        let described = spans.iter().any(|span| words(span).any(|word| word == key));
        assert!(described, "neither configuration.md nor identity.md describes `{key}`");
    }
    for row in text.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `{")) {
        let key = code(row).remove(0);
        let last = key.rsplit('.').next().unwrap();
        assert!(known.contains(last), "configuration.md describes `{key}`, which no shape has");
    }
}

#[test]
fn limits_are_those_of_the_code() {
    let text = document("userspace/docs/configuration.md");
    let limits = text.split("\n## Limits\n").nth(1).unwrap();
    let rows: Vec<&str> = limits.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let mut described = BTreeSet::new();
    for (row, written, source, definition) in [
        ("this file", "1 MiB", "lockgate/src/config/mod.rs", "MAX_BYTES: u64 = 1024 * 1024;"),
        ("policy", "1000 files", "lockgate/src/agent/policy.rs", "MAX_FILES: usize = 1000;"),
        ("policy", "16 MiB", "lockgate/src/agent/policy.rs", "MAX_TOTAL_BYTES: u64 = 16 * 1024 * 1024;"),
        ("governed", "4096; 4096", "../ebpf/lockgate-ebpf-common/src/lib.rs", "CGROUPS: u32 = 4096;"),
        ("governed", "4096; 4096", "../ebpf/lockgate-ebpf-common/src/lib.rs", "UIDS: u32 = 4096;"),
        ("governed", "16384", "../ebpf/lockgate-ebpf-common/src/lib.rs", "TARGETS: u32 = 16384;"),
        ("sessions", "6000", "lockgate-proxy/src/limits.rs", "MAX_SESSIONS: usize = 6_000;"),
        (
            "from connecting",
            "30 s",
            "lockgate-proxy/src/limits.rs",
            "HANDSHAKE_TIME: Duration = Duration::from_secs(30);",
        ),
        (
            "from connecting",
            "60 s",
            "lockgate-proxy/src/limits.rs",
            "OPEN_TIME: Duration = Duration::from_secs(60);",
        ),
        (
            "one message",
            "16 MiB",
            "lockgate-wire/src/postgres/frame.rs",
            "MAX_CLIENT_MESSAGE: usize = 16 * 1024 * 1024;",
        ),
        ("a text", "8 MiB", "lockgate-inspect/src/sql/parse.rs", "MAX_TEXT_BYTES: usize = 8 << 20;"),
        ("a text", "10000", "lockgate-inspect/src/sql/parse.rs", "MAX_STATEMENTS: usize = 10_000;"),
        ("a batch", "256 messages, 64 KiB", "lockgate-proxy/src/limits.rs", "RELEASE_MESSAGES: usize = 256;"),
        (
            "a batch",
            "256 messages, 64 KiB",
            "lockgate-proxy/src/limits.rs",
            "RELEASE_BYTES: usize = 64 * 1024;",
        ),
        ("a batch", "4096 messages, 1 MiB", "lockgate-proxy/src/limits.rs", "RELEASE_DOUBLINGS: u32 = 4;"),
        ("prepared", "4096", "lockgate-proxy/src/limits.rs", "PREPARED_STATEMENTS: usize = 4_096;"),
        ("requests", "8192", "lockgate-control/src/approvals/registry.rs", "PENDING_MAX: usize = 8_192;"),
        (
            "requests",
            "a quarter",
            "lockgate-control/src/approvals/registry.rs",
            "PENDING_PER_PRINCIPAL_MAX: usize = PENDING_MAX / 4;",
        ),
        (
            "told",
            "10, 30, 60 and 120 s",
            "lockgate-proxy/src/limits.rs",
            "[Duration::from_secs(10), Duration::from_secs(30), Duration::from_secs(60), Duration::from_secs(120)];",
        ),
        ("results", "100 rows", "lockgate-proxy/src/limits.rs", "RECORDED_ROWS: usize = 100;"),
        ("results", "64 KiB", "lockgate-proxy/src/limits.rs", "RECORDED_BYTES: usize = 64 * 1024;"),
    ] {
        let found =
            rows.iter().position(|line| line.starts_with(&format!("| {row}")) && line.contains(written));
        described.insert(found.unwrap_or_else(|| panic!("configuration.md does not say {row}: {written}")));
        let code = document(&format!("userspace/{source}"));
        assert!(code.contains(definition), "{source} has no {definition}");
    }
    assert_eq!(described.len(), rows.len(), "a row that nothing checks: {rows:#?}");
}

#[test]
fn configurations_in_the_documents_are_accepted() {
    for (path, names) in [
        (
            "userspace/docs/configuration.md",
            &["orders-db.crt", "orders-db.key", "db-ca.pem", "orders-db.password"][..],
        ),
        ("userspace/docs/getting-started.md", &["orders-db.password"]),
        ("userspace/docs/identity-providers.md", &["gate.crt", "gate.key", "oidc.secret", "adfs.pem"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for name in names.iter().chain(&["approvals.secret", "decisions.secret"]) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("policies")).unwrap();
        let written = blocks(&document(path), "yaml").remove(0);
        let text = written.replace("/etc/lockgate/", &format!("{}/", dir.path().display()));
        let config = dir.path().join("lockgate.yaml");
        fs::write(&config, text).unwrap();
        let output = lockgate(&config, &["doctor", "--output", "json"]);
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let checks: Vec<&Value> = answer["checks"].as_array().unwrap().iter().collect();
        let read: Vec<&&Value> = checks.iter().filter(|check| check["section"] == "configuration").collect();
        assert!(
            read.iter().any(|check| check["name"] == "file" && check["status"] == "ok"),
            "{path}: {read:?}"
        );
        // Its own warnings would be bad examples; the one about prefixes belongs to the example with everything.
        for check in read.iter().filter(|check| check["name"] == "line") {
            assert!(check["detail"].as_str().unwrap().contains("has a prefix"), "{path}: {check}");
        }
    }
}

/// A file inside a ConfigMap: the lines below `NAME: |`, as far as they are indented.
fn in_config_map(text: &str, name: &str) -> String {
    let head = format!("  {name}: |");
    let lines = text.lines().skip_while(|line| *line != head).skip(1);
    lines.take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", &line[4..])).collect()
}

#[test]
fn examples_that_are_shipped_are_accepted() {
    let manifest = document("userspace/deploy/kubernetes/configuration.yaml");
    let (host, pod) = (
        document("userspace/deploy/debian/lockgate.example.yaml"),
        in_config_map(&manifest, "lockgate.yaml"),
    );
    for (text, policy) in [
        (host, document("policies/default.yaml")),
        (pod, in_config_map(&manifest, "orders.yaml")),
        (
            document("userspace/docs/kubernetes.md")
                .split("config:\n")
                .nth(1)
                .unwrap()
                .split("```")
                .next()
                .unwrap()
                .replace("\n  ", "\n")
                .trim_start()
                .to_owned(),
            blocks(&document("userspace/docs/kubernetes.md"), "yaml").remove(1),
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("policies")).unwrap();
        fs::create_dir_all(dir.path().join("secrets")).unwrap();
        let file = dir.path().join("policies/policy.yaml");
        fs::write(&file, policy).unwrap();
        let tested = lockgate(Path::new("/nonexistent"), &["policy", "test", file.to_str().unwrap()]);
        assert!(tested.status.success(), "{tested:?}");
        for name in ["orders-db.password", "secrets/orders-db"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let config = dir.path().join("lockgate.yaml");
        fs::write(&config, text.replace("/etc/lockgate/", &format!("{}/", dir.path().display()))).unwrap();
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_lockgate"));
        doctor.args(["doctor", "--output", "json"]).env("LOCKGATE_CONFIG", &config);
        // As in a pod.
        doctor.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").stdin(Stdio::null());
        let output = doctor.output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let checks = answer["checks"].as_array().unwrap();
        let file = checks
            .iter()
            .find(|check| check["section"] == "configuration" && check["name"] == "file")
            .unwrap();
        assert_eq!(file["status"], "ok", "{answer:#}");
    }
}

#[test]
fn policies_in_the_documents_pass_their_own_tests() {
    let dir = tempfile::tempdir().unwrap();
    let mut found = 0;
    for path in DOCUMENTS.iter().filter(|path| !path.starts_with("policies/")) {
        for block in blocks(&document(path), "yaml").iter().filter(|block| block.contains("kind: Policy")) {
            let file = dir.path().join("policy.yaml");
            fs::write(&file, block).unwrap();
            for verb in ["check", "test"] {
                let output = lockgate(Path::new("/nonexistent"), &["policy", verb, file.to_str().unwrap()]);
                assert!(output.status.success(), "{path}: {output:?}");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(!text.contains("warning"), "{path}: {text}");
            }
            found += 1;
        }
    }
    assert!(found > 0, "no policy in the documents");
}

#[test]
fn every_verb_and_flag_is_in_the_reference_and_none_is_invented() {
    let reference = document("userspace/docs/cli.md");
    let mut known = BTreeSet::from(["--help".to_owned()]);
    for verb in VERBS {
        let text = help(verb);
        let name = format!("lockgate {}", verb.join(" "));
        assert!(reference.contains(name.trim()), "cli.md does not speak of `{name}`");
        let (_, usage) = text.split_once("Usage:").unwrap();
        for flag in flags(usage) {
            assert!(reference.contains(&flag), "cli.md does not speak of {flag} of `{name}`");
            known.insert(flag);
        }
    }
    for span in code(&reference) {
        for flag in flags(&span) {
            assert!(known.contains(&flag), "cli.md speaks of {flag}, which no verb has");
        }
    }
}

#[test]
fn examples_of_the_reference_run_and_are_in_help() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("policies")).unwrap();
    let policy = document("policies/default.yaml");
    fs::write(dir.path().join("policies/default.yaml"), policy).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_lockgate")).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let helps: String = VERBS.iter().map(|verb| help(verb)).collect();
    let mut run = 0;
    for block in blocks(&document("userspace/docs/cli.md"), "console") {
        for line in block.lines() {
            let (_, command) = line.split_once("$ ").unwrap_or_else(|| panic!("no prompt: {line}"));
            assert!(helps.contains(command), "no --help shows: {command}");
            let mut shell = Command::new("sh");
            shell.args(["-ec", command]).env("PATH", &path).current_dir(dir.path()).stdin(Stdio::null());
            let output = shell.output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{command}: {output:?}");
            run += 1;
        }
    }
    assert!(run >= 5, "{run} examples");
}

#[test]
fn every_refusal_of_the_api_is_in_the_integrator_s_guide() {
    let mut known = BTreeSet::new();
    for (path, source) in sources("userspace/lockgate-control/src/api") {
        if path.ends_with("tests.rs") || path.ends_with("host.rs") {
            continue;
        }
        let dense: String = source.split_whitespace().collect();
        for rest in dense.split("StatusCode::").skip(1) {
            let code = rest.split_once(",\"").map(|(status, rest)| (status, rest.split('"').next().unwrap()));
            if let Some((status, code)) =
                code.filter(|(status, _)| status.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            {
                known.insert((number(status), code.to_owned()));
            }
        }
    }
    assert!(known.len() > 15, "the sources were not read: {known:?}");
    let guide = document("userspace/docs/webhooks.md");
    let described: BTreeSet<(u16, String)> = guide
        .lines()
        .filter(|line| line.starts_with("| 4") || line.starts_with("| 5"))
        .flat_map(|row| {
            let status = row.split('|').nth(1).unwrap().trim().parse().unwrap();
            code(row.split('|').nth(2).unwrap()).into_iter().map(move |code| (status, code))
        })
        .collect();
    // The rest of the API has a table of its own: its codes, then their status.
    let reference = document("userspace/docs/api.md");
    let elsewhere: BTreeSet<(u16, String)> = reference
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|row| {
            let status = row.split('|').nth(2)?.trim().parse().ok()?;
            Some(code(row.split('|').nth(1)?).into_iter().map(move |code| (status, code)))
        })
        .flatten()
        .collect();
    for (status, code) in &known {
        let told = [&described, &elsewhere].iter().any(|table| table.contains(&(*status, code.clone())));
        // A path or method that is not there is about no decision.
        let no_decision = ["not_found", "method_not_allowed", "forbidden", "link_required", "link_expired"]
            .contains(&code.as_str());
        assert!(told || no_decision, "neither webhooks.md nor api.md has {status} {code}");
    }
    for pair in &described {
        assert!(known.contains(pair), "webhooks.md describes {pair:?}, which nothing answers");
    }
}

#[test]
fn every_metric_is_in_the_reference_and_none_is_invented() {
    let mut known = BTreeSet::new();
    for directory in [
        "lockgate",
        "lockgate-control",
        "lockgate-proxy",
        "lockgate-store",
        "lockgate-intercept",
        "lockgate-identity",
    ] {
        for (path, source) in sources(&format!("userspace/{directory}/src")) {
            // Slack's names for buttons begin with ours.
            if path.contains("slack") {
                continue;
            }
            for line in source
                .lines()
                .filter(|line| line.contains("metrics::") || line.contains("&str = \"lockgate_"))
            {
                known.extend(line.split('"').filter(|part| is_metric(part)).map(str::to_owned));
            }
        }
    }
    assert!(known.len() > 10, "the sources were not read: {known:?}");
    let spans = code(&document("userspace/docs/cli.md"));
    let described: BTreeSet<String> = spans
        .iter()
        .filter_map(|span| span.split('{').next())
        .filter(|name| is_metric(name))
        .map(str::to_owned)
        .collect();
    assert_eq!(described, known);
}

#[test]
fn the_unit_has_no_directive_that_would_break_the_hooks() {
    let unit = document("userspace/deploy/systemd/lockgate.service");
    let directives: Vec<(&str, &str)> =
        unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [("Type", "notify"), ("Restart", "always"), ("NoNewPrivileges", "yes")] {
        assert!(directives.contains(&(name, value)), "{name}={value} is missing");
    }
    // It enters network namespaces, no others; a host name of its own touches no file.
    assert!(directives.contains(&("RestrictNamespaces", "net")), "it listens in network namespaces of jobs");
    let harmless = ["RestrictNamespaces", "ProtectClock", "ProtectHostname"];
    // Mount namespaces of its own, or /sys read-only: no cgroups, no pins.
    for (name, _) in directives.into_iter().filter(|(name, _)| !harmless.contains(name)) {
        let breaks = ["Protect", "Private", "ReadOnly", "Inaccessible", "Bind", "Temporary", "Dynamic"];
        assert!(!breaks.iter().any(|prefix| name.starts_with(prefix)), "{name}= breaks the agent");
        assert!(!["User", "RootDirectory"].contains(&name), "{name}= breaks the agent");
    }
    let filter = unit.lines().find_map(|line| line.strip_prefix("SystemCallFilter=")).expect("a filter");
    for needed in ["@system-service", "@mount", "bpf", "open_by_handle_at", "setns", "pidfd_open"] {
        assert!(filter.split(' ').any(|listed| listed == needed), "{needed} is not in the filter");
    }
}

#[test]
fn links_lead_somewhere() {
    for path in DOCUMENTS {
        let text = document(path);
        let base = root().join(path).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { root().join(path) } else { base.join(file) };
            assert!(target.exists(), "{path}: {link} leads nowhere");
            if let Some(anchor) = anchor {
                let there = fs::read_to_string(&target).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#')).map(slug);
                assert!(headings.any(|heading| heading == anchor), "{path}: {link} names no heading");
            }
        }
    }
}

#[test]
fn the_code_map_is_of_this_tree() {
    let text = document("userspace/ARCHITECTURE.md");
    let map = text.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut mapped = BTreeSet::new();
    for row in map.lines().filter(|line| line.starts_with("| `")) {
        let path = code(row).remove(0);
        let here =
            [root().join(&path), root().join("userspace").join(&path)].into_iter().find(|path| path.is_dir());
        assert!(here.is_some(), "the code map names {path}, which is not there");
        mapped.insert(path);
    }
    for entry in fs::read_dir(root().join("userspace")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        let is_crate = entry.path().join("Cargo.toml").exists();
        assert!(!is_crate || mapped.contains(&name), "the code map lacks {name}");
    }
    for name in code(&text).iter().filter(|name| name.starts_with("lg_")) {
        let programs = document("ebpf/lockgate-ebpf/src/main.rs");
        let stem = name.split('/').next().unwrap();
        assert!(programs.contains(&format!("fn {stem}(")), "no program is named {name}");
    }
}

fn is_metric(text: &str) -> bool {
    // Crates are called so, too.
    let crates = ["lockgate_proxy", "lockgate_control", "lockgate_intercept", "lockgate_store"];
    text.starts_with("lockgate_")
        && !crates.contains(&text)
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn number(status: &str) -> u16 {
    match status {
        "BAD_REQUEST" => 400,
        "UNAUTHORIZED" => 401,
        "FORBIDDEN" => 403,
        "NOT_FOUND" => 404,
        "METHOD_NOT_ALLOWED" => 405,
        "REQUEST_TIMEOUT" => 408,
        "CONFLICT" => 409,
        "GONE" => 410,
        "PRECONDITION_FAILED" => 412,
        "PAYLOAD_TOO_LARGE" => 413,
        "UNSUPPORTED_MEDIA_TYPE" => 415,
        "UNPROCESSABLE_ENTITY" => 422,
        "PRECONDITION_REQUIRED" => 428,
        "TOO_MANY_REQUESTS" => 429,
        "SERVICE_UNAVAILABLE" => 503,
        other => panic!("write the number of {other} here"),
    }
}

fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The heading's anchor, as Git hosts make it.
fn slug(heading: &str) -> String {
    let kept =
        heading.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn flags(text: &str) -> Vec<String> {
    let flag = |word: &&str| word.starts_with("--") && word.len() > 2;
    words(text).filter(flag).map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
}

/// Fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&*fence).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// Code spans and the text of fenced blocks.
fn code(text: &str) -> Vec<String> {
    let mut spans = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('`') {
        let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let body = &rest[start + ticks..];
        let Some(end) = body.find(&"`".repeat(ticks)) else { break };
        spans.push(body[..end].to_owned());
        rest = &body[end + ticks..];
    }
    spans
}
