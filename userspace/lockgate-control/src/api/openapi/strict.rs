//! Holds a real answer against the description of the API, and lets nothing be in it that is not described: what the
//! description leaves open by silence is closed here. For tests alone, of this crate and of the end-to-end suite.

use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Judges answers by a schema of the document.
pub(crate) fn validator(document: &Value, schema: &Value) -> Result<jsonschema::Validator, String> {
    let mut components = document["components"].clone();
    let parts = parts(&components);
    for (name, schema) in components["schemas"].as_object_mut().into_iter().flatten() {
        close(schema, parts.contains(name.as_str()));
    }
    let mut schema = schema.clone();
    close(&mut schema, false);
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": components,
        "allOf": [schema],
    });
    jsonschema::validator_for(&whole).map_err(|error| format!("the schema cannot be used: {error}"))
}

/// What of an answer is not as described; nothing when all of it is.
pub(crate) fn misfits(validator: &jsonschema::Validator, answer: &Value) -> Vec<String> {
    validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The schema of an answer; None where none is described.
pub(crate) fn schema_of<'a>(document: &'a Value, method: &str, path: &str, status: u16) -> Option<&'a Value> {
    let operation = &document["paths"][path][method.to_ascii_lowercase()];
    if status >= 400 {
        return Some(
            &document["components"]["responses"]["Problem"]["content"]["application/problem+json"]["schema"],
        )
        .filter(|schema| schema.is_object());
    }
    Some(&operation["responses"][status.to_string()]["content"]["application/json"]["schema"])
        .filter(|schema| schema.is_object())
}

/// Schemas that are only a part of another, by name: they may not say that there is nothing else.
fn parts(components: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Value> = Vec::new();
    walk(components, &mut |node| open.extend(node["allOf"].as_array().into_iter().flatten()));
    while let Some(part) = open.pop() {
        let name = part["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        if let Some(name) = name.filter(|name| found.insert((*name).to_owned())) {
            open.push(&components["schemas"][name]);
        }
        open.extend(["oneOf", "anyOf", "allOf"].iter().filter_map(|of| part[*of].as_array()).flatten());
    }
    found
}

fn walk<'a>(node: &'a Value, look: &mut impl FnMut(&'a Value)) {
    look(node);
    match node {
        Value::Object(fields) => fields.values().for_each(|child| walk(child, look)),
        Value::Array(items) => items.iter().for_each(|child| walk(child, look)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// An object with fields has no others, unless it is a part.
fn close(schema: &mut Value, part: bool) {
    let Value::Object(fields) = schema else { return };
    let whole = fields.contains_key("properties") || fields.contains_key("allOf");
    if whole && !part && !fields.contains_key("additionalProperties") {
        fields.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    for (name, child) in fields.iter_mut() {
        match (name.as_str(), child) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(|property| close(property, false));
            }
            ("items" | "additionalProperties", child) => close(child, false),
            ("allOf", Value::Array(children)) => children.iter_mut().for_each(|child| close(child, true)),
            ("oneOf" | "anyOf", Value::Array(children)) => {
                children.iter_mut().for_each(|child| close(child, part));
            }
            _ => {}
        }
    }
}
