//! The command line as scripts see it: help, exit codes, streams. No root, no agent, no network.

use lockgate_model::{
    Timestamp,
    event::{Event, EventKind},
    port::{Ambient, Durability, Recorder},
};
use lockgate_store::{Log, LogSettings};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const POLICY: &str = r#"apiVersion: lockgate.dev/v1
kind: Policy
metadata: { name: test }
groups:
  dba: {}
rules:
- id: reads
  match: { target: { name: orders-db }, sql: { class: read } }
  effect: allow
- id: schema-change
  match: { sql: { class: ddl } }
  effect: require_approval
  approval: { stages: [{ at: 0m, from: { group: dba }, need: 1 }], timeout: 10m }
tests:
- name: reads pass
  given: { target: { name: orders-db }, protocol: postgres, statement: "SELECT 1" }
  expect: { effect: allow, rule: reads }
- name: schema changes wait
  given: { target: { name: orders-db }, protocol: postgres, statement: "ALTER TABLE t ADD c int" }
  expect: { effect: require_approval, rule: schema-change, need: { dba: 1 } }
"#;

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Self { dir };
        world.write("policies/policy.yaml", POLICY);
        world.write("lockgate.yaml", "node: { name: test }\npolicies: [policies/]\nstore: \"sled:store\"\n");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs `lockgate WORDS… --config <ours>`.
    fn lockgate(&self, words: &[&str]) -> Output {
        lockgate(&self.path("lockgate.yaml"), words, "")
    }
}

fn lockgate(config: &Path, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lockgate"))
        .args(words)
        .env("LOCKGATE_CONFIG", config)
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A verb that reads nothing may be gone by now.
    let _ = writer.join().unwrap();
    output
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Every verb, as it is typed.
const VERBS: &[&[&str]] = &[
    &[],
    &["agent"],
    &["run"],
    &["approvals"],
    &["approvals", "list"],
    &["approvals", "show"],
    &["approvals", "approve"],
    &["approvals", "deny"],
    &["sessions"],
    &["sessions", "list"],
    &["sessions", "show"],
    &["sessions", "replay"],
    &["sessions", "observed"],
    &["token"],
    &["audit"],
    &["audit", "verify"],
    &["policy"],
    &["policy", "check"],
    &["policy", "test"],
    &["policy", "explain"],
    &["policy", "draft"],
    &["policy", "diff"],
    &["policy", "grants"],
    &["policy", "schema"],
    &["inspect"],
    &["inspect", "sql"],
    &["doctor"],
    &["tls"],
    &["tls", "ca"],
];

#[test]
fn every_help_begins_with_examples_and_names_config() {
    let reference = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")).unwrap();
    for verb in VERBS {
        let mut words = verb.to_vec();
        words.push("--help");
        let help = lockgate(Path::new("/nonexistent"), &words, "");
        let text = out(&help);
        assert_eq!(code(&help), 0, "{verb:?}");
        let (before, after) = text.split_once("Usage:").unwrap_or_else(|| panic!("{verb:?}: {text}"));
        let examples = before
            .lines()
            .filter(|line| line.starts_with("  lockgate ") || line.contains("| lockgate "))
            .count();
        assert!(before.contains("Examples:") && examples >= 2, "{verb:?} has {examples} examples:\n{text}");
        assert!(after.contains("--config <FILE>"), "{verb:?}: {text}");
        assert!(!text.contains('\u{1b}'), "{verb:?}: colour in a pipe");
        let name = format!("lockgate {}", verb.join(" "));
        assert!(reference.contains(name.trim()), "docs/cli.md does not speak of `{}`", name.trim());
    }
}

#[test]
fn every_example_in_help_works_when_pasted_into_a_shell() {
    let world = World::new();
    // Stands before the real one in PATH: parses and notes what does not.
    let failures = world.path("failures");
    let wrapper = format!(
        "#!/bin/sh\nall=\"$*\"\ncase \"$all\" in *' -- '*) set -- run;; esac\n\
         {} \"$@\" --help > /dev/null 2>> {failures} || echo \"$all\" >> {failures}\n",
        env!("CARGO_BIN_EXE_lockgate"),
        failures = failures.display(),
    );
    let jq = "#!/bin/sh\ncase \"$*\" in *approvals*) echo req_01JD4Z0000000000000000000A;; *) echo ses_01JD4Z0000000000000000000A;; esac\n";
    for (name, text) in [("bin/lockgate", wrapper.as_str()), ("bin/jq", jq)] {
        let path = world.write(name, text);
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    for verb in VERBS {
        let mut words = verb.to_vec();
        words.push("--help");
        let text = out(&lockgate(Path::new("/nonexistent"), &words, ""));
        let before = text.split_once("Usage:").unwrap().0;
        for line in before.lines().filter(|line| line.contains("lockgate ")) {
            // A description stands after several spaces.
            let command = line.trim().split("   ").next().unwrap();
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).env("PATH", &path).current_dir(world.dir.path());
            let output = shell.stdin(Stdio::null()).output().unwrap();
            let failed = fs::read_to_string(&failures).unwrap_or_default();
            assert!(failed.is_empty(), "{command}: {failed} {output:?}");
        }
    }
}

#[test]
fn what_is_typed_wrong_is_a_usage_error() {
    let world = World::new();
    for words in [
        &["frobnicate"][..],
        &["approvals"],
        &["approvals", "approve"],
        &["approvals", "approve", "ses_01JD4Z0000000000000000000A"],
        &["sessions", "replay", "x"],
        &["sessions", "list", "--since", "yesterday"],
        &["run"],
        &["inspect", "sql", "--dialect", "oracle"],
        &["policy", "check", "--output", "xml"],
    ] {
        let output = world.lockgate(words);
        assert_eq!(code(&output), 2, "{words:?}: {output:?}");
        assert!(out(&output).is_empty() || words.len() == 1, "{words:?}");
    }
    assert_eq!(code(&world.lockgate(&["--version"])), 0);
}

#[test]
fn mistakes_in_the_configuration_are_shown_where_they_are() {
    let world = World::new();
    for (text, place, message, help) in [
        ("goven: []\n", "lockgate.yaml:1:1", "unknown key `goven`", "did you mean `govern`?"),
        ("store: \"mysql:x\"\n", "lockgate.yaml:1:8", "expected \"sled:PATH\"", "sled"),
        ("store: \"postgres:x\"\n", "lockgate.yaml:1:8", "expected postgres://ROLE@HOST", "store_password"),
        ("node: { name: x, instance: A }\n", "lockgate.yaml:1:28", "instance name \"A\"", ""),
        ("node: [\n", "lockgate.yaml:", "not YAML", ""),
    ] {
        world.write("lockgate.yaml", text);
        let output = world.lockgate(&["sessions", "list"]);
        let said = err(&output);
        assert_eq!(code(&output), 1, "{text}");
        for part in [place, message, help, "error: "] {
            assert!(said.contains(part), "{text}: {part:?} is missing from:\n{said}");
        }
    }
    let missing = lockgate(Path::new("/nonexistent/lockgate.yaml"), &["approvals", "list"], "");
    assert_eq!(code(&missing), 1);
    assert!(err(&missing).contains("--config FILE or LOCKGATE_CONFIG"), "{missing:?}");
}

#[test]
fn run_without_an_agent_never_starts_the_command() {
    let world = World::new();
    let marker = world.path("ran");
    let started = Instant::now();
    let output = world.lockgate(&["run", "--", "touch", marker.to_str().unwrap()]);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(code(&output), 125, "{output:?}");
    assert!(!marker.exists());
    assert!(err(&output).contains("no agent answers"), "{output:?}");

    // Somebody who is not root listens where the agent should; or nobody answers.
    let _impostor = std::os::unix::net::UnixListener::bind(world.path("store.sock")).unwrap();
    if !running_as_root() {
        let output = world.lockgate(&["run", "--", "touch", marker.to_str().unwrap()]);
        assert_eq!(code(&output), 125, "{output:?}");
        assert!(err(&output).contains("not to root"), "{output:?}");
    }
    assert!(!marker.exists());
    let output = lockgate(Path::new("/nonexistent/lockgate.yaml"), &["run", "--", "true"], "");
    assert_eq!(code(&output), 125, "{output:?}");
}

fn running_as_root() -> bool {
    fs::metadata("/proc/self").map(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0).unwrap()
}

#[test]
fn jsonl_answers_every_line_with_one_object() {
    let world = World::new();
    let input = concat!(
        "\"SELECT 1\"\n",
        "\"\"\n",
        "\n",
        "not json\n",
        "{\"sql\": \"DROP TABLE t; SELECT 1\"}\r\n",
        "{\"sql\": \"SELECT 1\", \"pre\": [\"BEGIN\"], \"startup\": {\"user\": \"app\"}}\n",
        "{\"sql\": 7}\n",
        "\"SELEC 1\"\n",
        "\"DELETE FROM orders\"",
    );
    let output = lockgate(
        &world.path("lockgate.yaml"),
        &["inspect", "sql", "--dialect", "postgres", "--jsonl"],
        input,
    );
    assert_eq!(code(&output), 0, "{output:?}");
    let text = out(&output);
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 9, "{text}");
    for (index, class, statements) in
        [(0, "read", 1), (4, "ddl", 2), (5, "read", 1), (7, "opaque", 1), (8, "write", 1)]
    {
        assert_eq!(answers[index]["class"], class, "{text}");
        assert_eq!(answers[index]["statements"].as_array().unwrap().len(), statements, "{text}");
    }
    for key in ["class", "kind", "tables_read", "tables_written", "columns", "bounded", "risk", "fingerprint"]
    {
        assert!(answers[8]["statements"][0].get(key).is_some(), "{key} is missing: {text}");
    }
    assert_eq!(answers[8]["statements"][0]["bounded"], json!(false));
    assert_eq!(answers[8]["statements"][0]["tables_written"], json!(["orders"]));
}

#[test]
fn inspect_shows_a_block_a_statement() {
    let world = World::new();
    let config = world.path("lockgate.yaml");
    let output = lockgate(&config, &["inspect", "sql"], "DELETE FROM orders; SELECT 1");
    let text = out(&output);
    for part in [
        "write (delete)",
        "writes         orders",
        "bounded        no",
        "read (select)",
        "as one message: write",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let output = lockgate(&config, &["inspect", "sql", "--output", "json"], "DELETE FROM orders; SELECT 1");
    assert_eq!(json_of(&output)["class"], "write");
    assert!(out(&lockgate(&config, &["inspect", "sql"], "")).contains("no statement"));
}

#[test]
fn policies_are_checked_and_tested() {
    let world = World::new();
    let check = world.lockgate(&["policy", "check"]);
    assert_eq!(code(&check), 0, "{check:?}");
    assert!(out(&check).contains("ok: 2 rules"), "{check:?}");
    let test = world.lockgate(&["policy", "test"]);
    assert_eq!(code(&test), 0, "{test:?}");
    assert!(out(&test).contains("2 passed, 0 failed"), "{test:?}");

    let failing =
        world.write("failing.yaml", &POLICY.replace("expect: { effect: allow", "expect: { effect: deny"));
    let test = world.lockgate(&["policy", "test", failing.to_str().unwrap()]);
    assert_eq!(code(&test), 1, "{test:?}");
    assert!(
        out(&test).contains("FAILED  reads pass") && out(&test).contains("expected deny, got allow"),
        "{test:?}"
    );
    let test = world.lockgate(&["policy", "test", "--output", "json", failing.to_str().unwrap()]);
    assert_eq!((code(&test), &json_of(&test)["ok"]), (1, &json!(false)));

    let broken = world.write("broken.yaml", &POLICY.replace("sql: { class: read }", "sql: { clas: read }"));
    let check = world.lockgate(&["policy", "check", broken.to_str().unwrap()]);
    assert_eq!(code(&check), 1);
    for part in ["broken.yaml:8:48", "did you mean `class`?", "^^^^"] {
        assert!(out(&check).contains(part), "{part:?} is missing:\n{}", out(&check));
    }
    let check = world.lockgate(&["policy", "check", "-o", "json", broken.to_str().unwrap()]);
    assert_eq!(json_of(&check)["errors"][0]["line"], 8);
    assert_eq!(code(&world.lockgate(&["policy", "test", broken.to_str().unwrap()])), 1);

    let nothing = world.path("nothing");
    let check = world.lockgate(&["policy", "check", nothing.to_str().unwrap()]);
    assert_eq!(code(&check), 1);
    assert!(err(&check).contains("nothing"), "{check:?}");
    fs::create_dir(&nothing).unwrap();
    assert!(err(&world.lockgate(&["policy", "check", nothing.to_str().unwrap()])).contains("no *.yaml"));

    let schema = world.lockgate(&["policy", "schema"]);
    assert!(json_of(&schema)["properties"]["rules"].is_object(), "{schema:?}");
}

#[test]
fn an_event_is_explained_rule_by_rule() {
    let world = World::new();
    let event =
        world.write("e.json", r#"{"target": {"name": "orders-db"}, "statement": "ALTER TABLE t ADD c int"}"#);
    let explain = |words: &[&str]| {
        let mut all = vec!["policy", "explain", "--event", event.to_str().unwrap()];
        all.extend(words);
        world.lockgate(&all)
    };
    let text = out(&explain(&[]));
    for part in ["require_approval", "match.sql.class: wants read, is ddl", "every condition holds"] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    let explained = json_of(&explain(&["--output", "json"]));
    let rules = &explained["explanations"][0]["explanation"]["rules"];
    assert_eq!((&rules[0]["matched"], &rules[1]["matched"]), (&json!(false), &json!(true)));
    // A recorded session, under another policy than the one it met.
    world.write("e.json", include_str!("fixtures/session.json"));
    let explained = json_of(&explain(&["--output", "json"]));
    let verdicts: Vec<&Value> = explained["explanations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["explanation"]["verdict"]["effect"])
        .collect();
    assert_eq!(verdicts[0], "allow", "{explained}");
    assert!(verdicts[1]["hold"].is_object() && verdicts[2]["deny"].is_object(), "{explained}");
    world.write("e.json", r#"{"target": {"nme": "orders-db"}, "statement": "x"}"#);
    let wrong = explain(&[]);
    assert_eq!(code(&wrong), 1);
    assert!(err(&wrong).contains("e.json:1:13") && err(&wrong).contains("did you mean `name`?"), "{wrong:?}");
}

struct Now;

impl Ambient for Now {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn random(&self) -> u128 {
        7
    }
}

/// A store with a few records, as an agent that has ended leaves it.
fn store(dir: &Path) {
    let log = Log::open(LogSettings::new(dir, "test".into()), Arc::new(Now)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for number in 0..20 {
        let detail = format!("record {number}");
        let kind = EventKind::Gap { stage: "test".into(), count: Some(number), detail };
        let event = Event { at: Timestamp::now(), session: None, kind };
        let receipt = runtime.block_on(log.record(vec![event], Durability::Synced)).unwrap();
        assert!(receipt.last_seq() > number);
    }
    log.close().unwrap();
}

#[test]
fn a_log_that_was_touched_is_found_without_an_agent() {
    let world = World::new();
    store(&world.path("store"));
    let verify = world.lockgate(&["audit", "verify"]);
    assert_eq!(code(&verify), 0, "{verify:?}");
    assert!(out(&verify).contains("intact: "), "{verify:?}");
    let verify = world.lockgate(&["audit", "verify", "--output", "json"]);
    assert_eq!(json_of(&verify)["integrity"], "intact");
    assert!(json_of(&verify)["records"].as_u64().unwrap() >= 20);

    let segment = fs::read_dir(world.path("store/segments")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, whole.replacen("record 7", "record 8", 1)).unwrap();
    let verify = world.lockgate(&["audit", "verify"]);
    assert_eq!(code(&verify), 1, "{verify:?}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(out(&verify).contains("BROKEN") && out(&verify).contains(name), "{verify:?}");
    fs::write(&segment, &whole).unwrap();
    assert_eq!(code(&world.lockgate(&["audit", "verify"])), 0);

    let key = fs::read_to_string(world.path("store/keys/log.pub")).unwrap();
    let other = world.write("other.pub", &key);
    let trusted = world.lockgate(&["audit", "verify", "--key", other.to_str().unwrap()]);
    assert_eq!(code(&trusted), 0, "{trusted:?}");
}

#[test]
fn sessions_are_read_from_the_log_without_an_agent() {
    let world = World::new();
    let none = world.lockgate(&["sessions", "list"]);
    assert_eq!(code(&none), 1);
    assert!(err(&none).contains("the log cannot be read"), "{none:?}");
    store(&world.path("store"));
    let list = world.lockgate(&["sessions", "list", "--output", "json"]);
    assert_eq!(json_of(&list), json!({ "sessions": [] }));
    assert!(out(&world.lockgate(&["sessions", "list"])).contains("lockgate run"));
    let show = world.lockgate(&["sessions", "show", "ses_01JD4Z0000000000000000000A"]);
    assert_eq!(code(&show), 1);
    assert!(err(&show).contains("lockgate sessions list"), "{show:?}");
}

#[test]
fn approvals_need_an_agent_and_say_so() {
    let world = World::new();
    for words in [&["approvals", "list"][..], &["approvals", "show", "req_01JD4Z0000000000000000000A"]] {
        let output = world.lockgate(words);
        assert_eq!(code(&output), 1, "{output:?}");
        assert!(err(&output).contains("lockgate agent"), "{output:?}");
    }
}
