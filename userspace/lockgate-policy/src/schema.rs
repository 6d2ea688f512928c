//! Touches up the generated JSON schema: what the reader refuses, the schema refuses; what it accepts under a
//! second name, the schema accepts.

use serde_json::Value;

/// Second names of keys (`serde(alias)`), which the generator does not know.
const ALIASES: &[(&str, &str)] = &[("git_ref", "ref")];

/// Says `additionalProperties: false` of every object with named properties, and adds second names.
pub(crate) fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, alias) in ALIASES {
                    if let Some(property) = properties.get(*name).cloned() {
                        properties.insert((*alias).to_owned(), property);
                    }
                }
                if !object.contains_key("additionalProperties") {
                    object.insert("additionalProperties".to_owned(), Value::Bool(false));
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
