//! Touches up the generated JSON schema: what the reader refuses, the schema refuses.

use serde_json::Value;

/// Says `additionalProperties: false` of every object with named properties: unknown keys are errors.
pub(crate) fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            let names_keys = object.get("properties").is_some_and(Value::is_object);
            if names_keys && !object.contains_key("additionalProperties") {
                object.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
