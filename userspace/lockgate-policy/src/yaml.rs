//! Typed YAML with positions.
use crate::Diagnostic;
/// Reads a document.
pub fn parse<T: serde::de::DeserializeOwned>(file: &str, text: &str) -> Result<T, Vec<Diagnostic>> {
    serde_saphyr::from_str(text).map_err(|e| {
        vec![Diagnostic { file: file.into(), line: 0, column: 0, message: e.to_string(), help: None }]
    })
}
