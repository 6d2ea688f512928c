//! Every policy and every example of the language reference loads, and its tests pass, with the statements
//! understood by the real inspector.
#![expect(
    clippy::disallowed_methods,
    reason = "the crate is pure; its tests read the policies that are shipped"
)]

use lockgate_inspect::{
    http,
    sql::{DumpWatch, Inspector, SessionState},
};
use lockgate_model::operation::Facts;
use lockgate_policy::{CompiledPolicy, Diagnostic, HttpAsks, Loaded, SourceFile, document::Given, yaml};
use serde_json::Value;
use std::{fs, path::PathBuf};

fn policies() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

fn inspect(given: &Given, asks: &HttpAsks) -> Vec<Facts> {
    if let Some(request) = &given.request {
        let given = http::Given { request, headers: &given.headers, body: given.body.as_deref() };
        return vec![Facts::Http(given.facts(&asks.headers, &asks.json))];
    }
    let state = SessionState::from_startup(&[("client_encoding".to_owned(), "UTF8".to_owned())]);
    let facts = DumpWatch::default().facts(&Inspector.script(&given.statement, &state, None));
    facts.into_iter().map(Facts::Sql).collect()
}

fn load(path: &str, text: &str) -> Loaded {
    let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
    CompiledPolicy::load(vec![file]).unwrap_or_else(|errors| panic!("{path}: {errors:#?}"))
}

fn run(path: &str, text: &str) -> Vec<Diagnostic> {
    let loaded = load(path, text);
    for outcome in loaded.policy.run_tests(&inspect) {
        assert!(outcome.passed(), "{path}: {outcome:#?}");
    }
    loaded.warnings
}

#[test]
fn every_policy_loads_and_its_tests_pass() {
    let mut files = vec![policies().join("default.yaml")];
    for entry in fs::read_dir(policies().join("examples")).expect("policies/examples") {
        files.push(entry.expect("an entry").path());
    }
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let path = file.file_name().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a readable file");
        let loaded = load(&path, &text);
        assert!(!loaded.policy.run_tests(&inspect).is_empty(), "{path} has no tests");
        let warnings = run(&path, &text);
        if path != "prod-data.yaml" {
            assert_eq!(warnings, [], "{path}");
        }
    }
}

/// What is not acted on may name groups nobody defined: that is no laxer, and is said.
#[test]
fn groups_of_what_is_not_acted_on_may_be_undefined() {
    let text = fs::read_to_string(policies().join("examples/prod-data.yaml")).expect("a readable file");
    let fewer: String = text
        .lines()
        .filter(|line| !line.starts_with("  fraud-analysts:") && !line.starts_with("  incident-commander:"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(text, fewer);
    let warnings = run("prod-data.yaml", &fewer);
    for group in ["fraud-analysts", "incident-commander"] {
        let said = format!("group `{group}` is not defined and has no members");
        assert!(warnings.iter().any(|warning| warning.message == said), "{group}: {warnings:#?}");
    }
}

#[test]
fn all_examples_together_are_one_policy() {
    let mut files = Vec::new();
    for name in ["migrations.yaml", "reporting.yaml", "pii-masking.yaml", "opaque.yaml"] {
        let text = fs::read_to_string(policies().join("examples").join(name)).expect("a readable file");
        files.push(SourceFile { path: name.to_owned(), text });
    }
    CompiledPolicy::load(files).expect("groups and rules do not collide");
}

/// Fragments of the reference that begin with a rule are put into a document; whole documents stand as they are.
#[test]
fn every_example_of_the_reference_loads() {
    let text = fs::read_to_string(policies().join("README.md")).expect("policies/README.md");
    let blocks: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(blocks.len() >= 8, "the reference has {} examples", blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        let header = "apiVersion: lockgate.dev/v1\nkind: Policy\nmetadata: { name: x }\n";
        let groups = "groups: { dba: {}, oncall: {} }\n";
        let text = if block.starts_with("apiVersion") {
            (*block).to_owned()
        } else if block.starts_with("- id:") {
            format!("{header}{groups}rules:\n{block}")
        } else {
            format!("{header}{block}")
        };
        run(&format!("README.md example {}", index + 1), &text);
    }
}

#[test]
fn the_reference_names_every_path_of_when() {
    let text = fs::read_to_string(policies().join("README.md")).expect("policies/README.md");
    for path in lockgate_policy::paths::PATHS {
        assert!(
            text.contains(&format!("`{}.{}`", path.root, path.field)),
            "policies/README.md lacks {path:?}"
        );
    }
}

/// The generated schema accepts what the reader accepts, and refuses an unknown key.
#[test]
fn the_schema_accepts_every_policy() {
    let schema = CompiledPolicy::schema();
    let mut files = vec![policies().join("default.yaml")];
    files.extend(
        fs::read_dir(policies().join("examples"))
            .expect("examples")
            .map(|entry| entry.expect("an entry").path()),
    );
    for file in files {
        let text = fs::read_to_string(&file).expect("a readable file");
        let value: Value = yaml::parse("x", &text).expect("YAML");
        check(&schema, &schema, &value).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let slip: Value = yaml::parse(
            "x",
            &text.replace("effect: allow", "efect: allow").replace("effect: deny", "efect: deny"),
        )
        .expect("YAML");
        assert!(check(&schema, &schema, &slip).is_err(), "{}", file.display());
    }
}

/// As much of JSON Schema as the generator uses.
fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        check(root, target.ok_or(format!("{reference} is not there"))?, value)?;
    }
    for key in ["anyOf", "oneOf"] {
        let Some(choices) = schema.get(key).and_then(Value::as_array) else { continue };
        let errors: Vec<String> =
            choices.iter().filter_map(|choice| check(root, choice, value).err()).collect();
        if errors.len() == choices.len() {
            return Err(errors.join(" | "));
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = match schema.get("type") {
        None => true,
        Some(Value::Array(kinds)) => kinds.iter().any(|one| one == kind),
        Some(one) => one == kind,
    };
    if !fits {
        return Err(format!("{value} is not of type {}", schema["type"]));
    }
    if schema.get("const").is_some_and(|only| only != value)
        || schema.get("enum").and_then(Value::as_array).is_some_and(|words| !words.contains(value))
    {
        return Err(format!("{value} is not one of the words"));
    }
    if let (Value::Array(items), Some(of)) = (value, schema.get("items")) {
        items.iter().try_for_each(|item| check(root, of, item))?;
    }
    let Value::Object(entries) = value else { return Ok(()) };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    for key in required.filter_map(Value::as_str) {
        entries.contains_key(key).then_some(()).ok_or(format!("{key} is missing in {value}"))?;
    }
    for (key, value) in entries {
        match (schema.pointer(&format!("/properties/{key}")), schema.get("additionalProperties")) {
            (Some(property), _) => check(root, property, value).map_err(|error| format!("{key}: {error}"))?,
            (None, Some(Value::Bool(false))) => return Err(format!("{key} is not known")),
            (None, Some(of @ Value::Object(_))) => {
                check(root, of, value).map_err(|error| format!("{key}: {error}"))?
            }
            (None, _) => {}
        }
    }
    Ok(())
}
