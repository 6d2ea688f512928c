//! The policy reference: every key of the language, with its type, default and meaning, written from the JSON schema, which
//! is made from the code. `lockgate policy reference` prints it; a test compares it with the document.

use serde_json::{Map, Value};
use std::fmt::Write as _;

/// Types that are texts of one form.
const FORMS: [&str; 2] = ["Duration", "Bytes"];

/// Where such a type's name is kept once its schema stands in its place.
const KIND: &str = "x-kind";

/// Said before the tables.
const HEAD: &str = "# Policy reference

Every key of a policy file, written by `lockgate policy reference` from the code that reads it. How rules combine, with
examples, is in [policies/README.md](../../policies/README.md); how approvals are counted, in [approval routing](approvals.md).

A key is absent unless the table says that it is required, or what it is by default. A duration is written `30s`, `10m`, `1h30m` or `400d`;
bytes `500`, `64KiB` or `50MB`.
";

/// The whole document, Markdown.
pub(crate) fn markdown(schema: &Value) -> String {
    let mut out = HEAD.to_owned();
    table(&mut out, "A policy file", schema);
    let kinds = schema.get("$defs").and_then(Value::as_object);
    for (name, kind) in kinds.into_iter().flatten().filter(|(_, kind)| is_block(kind)) {
        table(&mut out, &title(name), kind);
    }
    out
}

fn is_block(kind: &Value) -> bool {
    kind.get("properties").is_some() || alternatives(kind).iter().any(|one| one.get("properties").is_some())
}

fn table(out: &mut String, title: &str, kind: &Value) {
    let _ = write!(out, "\n## {title}\n");
    let said = words(kind);
    if !said.is_empty() {
        let _ = write!(out, "\n{said}\n");
    }
    out.push_str("\n| key | takes | meaning |\n|---|---|---|\n");
    let mut blocks = vec![kind];
    blocks.extend(alternatives(kind));
    for block in blocks {
        let required: Vec<&str> = block
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for (name, property) in block.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut meaning = words(property);
            if meaning.is_empty() {
                meaning = words(block);
            }
            let only = alternatives(kind).is_empty();
            let note = match property.get("default") {
                Some(value) if !value.is_null() && !is_empty(value) => {
                    format!(" Default `{}`.", plain(value))
                }
                _ if required.contains(&name.as_str()) && only => " **Required.**".to_owned(),
                _ => String::new(),
            };
            let _ = writeln!(out, "| `{name}` | {} | {meaning}{note} |", kind_of(property));
        }
    }
}

fn alternatives(kind: &Value) -> Vec<&Value> {
    ["oneOf", "anyOf"]
        .iter()
        .filter_map(|name| kind.get(*name)?.as_array())
        .flatten()
        .filter(|one| one.get("type").and_then(Value::as_str) != Some("null"))
        .collect()
}

/// What a key takes, in a few words.
fn kind_of(value: &Value) -> String {
    if let Some(name) = value.get(KIND).and_then(Value::as_str) {
        return name.to_owned();
    }
    if let Some(name) = value.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()) {
        let title = title(name);
        return format!("[{title}](#{})", anchor(&title));
    }
    if let Some(word) = value.get("const") {
        return format!("`{}`", plain(word));
    }
    if let Some(all) = value.get("enum").and_then(Value::as_array) {
        return all.iter().map(|word| format!("`{}`", plain(word))).collect::<Vec<_>>().join(", ");
    }
    let several = alternatives(value);
    if !several.is_empty() {
        let mut all: Vec<String> = several.into_iter().map(kind_of).collect();
        all.dedup();
        return all.join(" or ");
    }
    let types: Vec<&str> = match value.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect()
        }
        _ => Vec::new(),
    };
    match types.first().copied() {
        Some("array") => match value.get("items") {
            Some(items) => format!("list of {}", kind_of(items)),
            None => "list".to_owned(),
        },
        Some("object") => match value.get("additionalProperties") {
            Some(of @ Value::Object(_)) => format!("map of names to {}", kind_of(of)),
            _ => "block".to_owned(),
        },
        Some("integer") => "number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some(_) => "text".to_owned(),
        None => "anything".to_owned(),
    }
}

/// The words of enums and of small types stand where they are used; blocks get a table of their own.
pub(crate) fn inline(schema: &Value) -> Value {
    let kinds = schema.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    put_in(schema, &kinds)
}

fn put_in(value: &Value, kinds: &Map<String, Value>) -> Value {
    match value {
        Value::Object(fields) => {
            let small = fields
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|path| kinds.get(path.rsplit('/').next()?))
                .filter(|kind| !is_block(kind));
            let Some(kind) = small else {
                return Value::Object(
                    fields.iter().map(|(name, field)| (name.clone(), put_in(field, kinds))).collect(),
                );
            };
            // Its own description is about this place; the type's stands in for a missing one.
            let mut whole = put_in(kind, kinds);
            if let Value::Object(whole) = &mut whole {
                if let Some(name) = named(fields) {
                    whole.insert(KIND.to_owned(), name.to_lowercase().into());
                }
                whole.extend(
                    fields.iter().filter(|(name, _)| *name != "$ref").map(|(k, v)| (k.clone(), v.clone())),
                );
            }
            whole
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| put_in(item, kinds)).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Texts that have a form of their own keep its name.
fn named(fields: &Map<String, Value>) -> Option<&str> {
    let name = fields.get("$ref")?.as_str()?.rsplit('/').next()?;
    FORMS.contains(&name).then_some(name)
}

fn words(value: &Value) -> String {
    let text = value.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// `StageFrom2` → `StageFrom 2`: the generator numbers types of one name.
fn title(name: &str) -> String {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    match name.strip_prefix(letters) {
        Some(number) if !number.is_empty() => format!("{letters} {number}"),
        Some(_) | None => name.to_owned(),
    }
}

fn anchor(title: &str) -> String {
    title.to_lowercase().replace(' ', "-")
}
