//! Typed YAML with line and column in every diagnostic, and the nearest right word.
//!
//! [`parse`] reads one document into any `serde` type. Unknown keys are errors (whatever the type says), and
//! all of them are reported at once, together with the first mistake of another kind in each [`Lenient`]
//! element. Plain scalars are read as the type asks (`tags: { pci: true }` into text is `"true"`).
//! Positions reach the caller through [`Spanned`]. Bounded against bombs: bytes, depth, and nodes with aliases
//! counted as often as they are used. No includes, no merge keys, no custom tags, one document a file.

mod de;
mod tree;

use crate::Diagnostic;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _, MapAccess, Visitor},
};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// More than this is no policy or configuration, and would cost a reload noticeable time.
pub const MAX_BYTES: usize = 1024 * 1024;
/// Nesting of sequences and mappings; every level costs stack here and in the reader of the result.
pub const MAX_DEPTH: usize = 64;
/// Scalars, sequences and mappings, an alias counted with everything it stands for.
pub const MAX_NODES: usize = 100_000;

/// Reads one YAML document. `file` is how diagnostics name it.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Vec<Diagnostic>> {
    let root = tree::read(text).map_err(|problem| vec![problem.into_diagnostic(file)])?;
    let problems = de::Problems::default();
    let result = T::deserialize(de::NodeDeserializer::new(&root, &problems));
    let mut problems = problems.into_inner();
    match result {
        Ok(value) if problems.is_empty() => return Ok(value),
        Ok(_) => {}
        Err(problem) => problems.push(problem),
    }
    let mut diagnostics: Vec<_> = problems.into_iter().map(|problem| problem.into_diagnostic(file)).collect();
    diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
    diagnostics.dedup();
    Err(diagnostics)
}

/// Where something stands in its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From 1; 0 when not known.
    pub line: u64,
    /// In characters, from 1; 0 when not known.
    pub column: u64,
}

impl Position {
    /// A diagnostic at this place.
    pub fn diagnostic(self, file: &str, message: impl Into<String>, help: Option<String>) -> Diagnostic {
        Diagnostic {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
            message: message.into(),
            help,
        }
    }
}

/// Something wrong, somewhere or not yet placed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problem {
    at: Option<Position>,
    message: String,
    help: Option<String>,
}

impl Problem {
    fn new(at: Option<Position>, message: impl Into<String>, help: Option<String>) -> Self {
        Self { at, message: message.into(), help }
    }

    fn or_at(mut self, at: Position) -> Self {
        self.at.get_or_insert(at);
        self
    }

    fn into_diagnostic(self, file: &str) -> Diagnostic {
        self.at.unwrap_or_default().diagnostic(file, self.message, self.help)
    }
}

/// A value and where it stands. Compares by value alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its first character.
    pub at: Position,
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The struct name by which the deserializer knows that a position is asked for.
const SPANNED: &str = "lockgate::yaml::Spanned";
const SPANNED_FIELDS: &[&str] = &["line", "column", "value"];

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Spanned<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its position (read it with lockgate_policy::yaml)")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut line, mut column) = (0, 0);
                while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                    match key.as_ref() {
                        "line" => line = map.next_value()?,
                        "column" => column = map.next_value()?,
                        "value" => {
                            let at = Position { line, column };
                            return Ok(Spanned { value: map.next_value()?, at });
                        }
                        other => return Err(A::Error::unknown_field(other, SPANNED_FIELDS)),
                    }
                }
                Err(A::Error::missing_field("value"))
            }
        }
        deserializer.deserialize_struct(SPANNED, SPANNED_FIELDS, Fields(PhantomData))
    }
}

/// An element whose mistakes are reported without hiding those of its neighbours. [`parse`] never returns a
/// document in which one is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lenient<T>(pub Option<T>);

/// The newtype name by which the deserializer knows that errors are to be collected.
const LENIENT: &str = "lockgate::yaml::Lenient";

/// The newtype name by which the deserializer knows that a value may stand for a list of one: a list is
/// visited as a sequence, anything else as a newtype, so that positions are kept.
pub(crate) const ONE_OR_MANY: &str = "lockgate::yaml::OneOrMany";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Element<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Element<T> {
            type Value = Lenient<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an element (read it with lockgate_policy::yaml)")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
                // The deserializer keeps what went wrong.
                Ok(Lenient(T::deserialize(inner).ok()))
            }
        }
        deserializer.deserialize_newtype_struct(LENIENT, Element(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Lenient<T> {
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
mod tests;
