//! Every example in the documents is one that lockgate takes: a configuration, whole or a part of one, is read; a command is one
//! that the program has. What they do is tried end to end (`tests/tests/e2e/docs.rs`, and the suite of each feature).
//!
//! A new block of a kind that nothing here knows fails, so that no example goes unread.

use lockgate_policy::yaml;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut paths: Vec<PathBuf> =
        ["README.md", "userspace/deploy/compose/README.md"].map(|path| root.join(path)).into();
    let docs = fs::read_dir(root.join("userspace/docs")).unwrap().map(|entry| entry.unwrap().path());
    paths.extend(docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.file_name().unwrap().display().to_string(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Fenced blocks with their language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => all.extend(open.take()),
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    all
}

/// What stands in the block in place of a part: the whole that it is a part of.
fn whole(document: &str, part: &Value) -> Option<Value> {
    let base = json!({
        "node": { "name": "n" }, "govern": [{ "cgroup": "/lockgate/run" }], "targets": [], "policies": ["policies/"],
        "store": "sled:/etc/lockgate/store", "api": { "listen": "127.0.0.1:8420", "public_url": "http://127.0.0.1:8420" },
    });
    let target = json!({
        "name": "t", "protocol": "postgres", "addresses": ["127.0.0.1:5432"],
        "upstream": { "tls": "disable", "credential": { "user": "app", "password": { "file": "/etc/lockgate/p.secret" } } },
    });
    let top: Vec<&str> = part.as_object()?.keys().map(String::as_str).collect();
    let mut whole = base;
    match (document, &top[..]) {
        // Parts of a target.
        (_, ["credential"]) => {
            let mut target = target;
            target["upstream"]["credential"] = part["credential"].clone();
            whole["targets"] = json!([target]);
        }
        (_, ["client_auth"]) => {
            let mut target = target;
            target["client_auth"] = part["client_auth"].clone();
            whole["targets"] = json!([target]);
        }
        (_, _) => {
            for (key, value) in part.as_object()? {
                whole[key] = value.clone();
            }
        }
    }
    Some(whole)
}

/// Which blocks of YAML are no configuration, and who reads them.
fn read_elsewhere(document: &str, block: &str) -> bool {
    // Their own tests are run by tests/docs.rs; the emergency override's by e2e `permission::`.
    block.contains("kind: Policy") || block.starts_with("break_glass:")
        // The chart's values: tests/docs.rs.
        || (document == "kubernetes.md" && block.starts_with("# values.yaml"))
        // What Slack is told of the application.
        || (document == "channels.md" && block.starts_with("display_information:"))
}

#[test]
fn every_configuration_in_the_documents_is_read() {
    let (mut read, mut failed) = (0, Vec::new());
    for (document, text) in documents() {
        for (language, block) in blocks(&text) {
            if language != "yaml" || read_elsewhere(&document, &block) {
                continue;
            }
            let parsed = yaml::parse(&document, &block)
                .unwrap_or_else(|error| panic!("{document}: {error:?}\n{block}"));
            let whole =
                whole(&document, &parsed).unwrap_or_else(|| panic!("{document}: nothing reads\n{block}"));
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().display().to_string();
            fs::create_dir(dir.path().join("policies")).unwrap();
            let mut written = whole.to_string();
            for place in ["/etc/lockgate/", "/run/credentials/", "/mnt/"] {
                written = written.replace(place, &format!("{at}/"));
            }
            // Whatever file is named is there.
            let named: Value = serde_json::from_str(&written).unwrap();
            for name in files(&named, false) {
                let path = dir.path().join(name);
                assert!(path.starts_with(dir.path()), "{document}: {name}");
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "x").unwrap();
            }
            let config = dir.path().join("lockgate.yaml");
            fs::write(&config, &written).unwrap();
            // It reads the whole configuration, then looks for CAs, which are no certificates here.
            let output = Command::new(env!("CARGO_BIN_EXE_lockgate"))
                .args(["trust", "show"])
                .env("LOCKGATE_CONFIG", &config)
                .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let behind = [
                "there is nothing to trust",
                "not a certificate in PEM",
                "no certificate in it",
                "is not in a file",
            ];
            if !behind.iter().any(|known| said.contains(known)) {
                failed.push(format!("{document}:\n{block}\n{said}"));
            }
            read += 1;
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(read >= 20, "{read}");
}

/// Every file that a configuration names.
fn files(value: &Value, is_file: bool) -> Vec<&str> {
    const KEYS: &[&str] = &[
        "file",
        "ca",
        "store_ca",
        "ca_key",
        "certificate",
        "certificates",
        "key",
        "client_ca",
        "tls_ca",
        "jwks_file",
    ];
    match value {
        Value::String(name) => Vec::from_iter(is_file.then_some(name.as_str())),
        Value::Array(all) => all.iter().flat_map(|one| files(one, is_file)).collect(),
        Value::Object(fields) => {
            fields.iter().flat_map(|(key, value)| files(value, KEYS.contains(&key.as_str()))).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

#[test]
fn every_command_in_the_documents_is_one_that_there_is() {
    let program = env!("CARGO_BIN_EXE_lockgate");
    let mut tried = 0;
    for (document, text) in documents() {
        let shown =
            blocks(&text).into_iter().filter(|(language, _)| language == "console" || language.is_empty());
        for line in shown.flat_map(|(_, block)| block.lines().map(str::to_owned).collect::<Vec<_>>()) {
            let Some(command) = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) else { continue };
            // From the program's name on, without what is said of it, and what a shell does with its answer.
            let Some(start) = command
                .find("lockgate ")
                .filter(|start| command[..*start].ends_with([' ', '(']) || *start == 0)
            else {
                continue;
            };
            let command = command[start..].split("  #").next().unwrap();
            let command = [" -- ", " | ", " > ", " >> "]
                .iter()
                .fold(command, |text, end| text.split(end).next().unwrap());
            let command = command.trim_end_matches(")\"");
            if command.starts_with("lockgate target/") || !is_verb(command) {
                continue;
            }
            let mut words = command
                .trim_start_matches("lockgate ")
                .replace("req_…", "req_01M80ES5Q1D0BY4HX01EQW7AVN")
                .replace("ses_…", "ses_01M80ES5F67ETQJT0CAEG3S7EE")
                .replace('…', "x");
            // Told to help, it reads what stands before that and does nothing.
            words.push_str(" --help");
            let output = Command::new("sh").args(["-c", &format!("{program} {words}")]).output().unwrap();
            assert!(output.status.success(), "{document}: {command}: {output:?}");
            tried += 1;
        }
    }
    assert!(tried >= 30, "{tried}");
}

/// `systemctl enable lockgate`, a package's name and the like are none.
fn is_verb(command: &str) -> bool {
    let help = Command::new(env!("CARGO_BIN_EXE_lockgate")).arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let verb = command.split_whitespace().nth(1).unwrap_or_default();
    let known = help.lines().any(|line| line.split_whitespace().next() == Some(verb));
    known || verb == "completions" || verb == "man"
}
