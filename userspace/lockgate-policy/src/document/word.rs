//! The words and small shapes of the document: a value or a list of them, durations, the model's enumerations.

use crate::yaml::{Position, Spanned};
use lockgate_model::{
    http::HttpClass,
    secret::SecretRef,
    session::{DefaultEffect, Mode},
    sql::{Export, Risk, SqlClass, SqlEffect},
    verdict::{
        Detector, Exclude, InExpression, InPredicate, LimitScope, RecordResults, RecordStatements,
        UnknownLineage,
    },
    workload::{Assurance, IdentityKind},
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use std::{borrow::Cow, fmt, marker::PhantomData, time::Duration};

/// Globs, one or a list.
pub type Globs = OneOrMany<Spanned<String>>;

/// `x` or `[x, y]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, one: D) -> Result<Self::Value, D::Error> {
                T::deserialize(one).map(|value| OneOrMany(vec![value]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany)
            }
        }
        deserializer.deserialize_newtype_struct(crate::yaml::ONE_OR_MANY, Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

/// `30s`, `10m`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DurationText {
    /// How long.
    pub value: Duration,
    /// Where it stands.
    pub at: Position,
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parsed(Duration);
        impl<'de> Deserialize<'de> for Parsed {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                lockgate_model::time::duration::deserialize(deserializer).map(Parsed)
            }
        }
        Spanned::<Parsed>::deserialize(deserializer)
            .map(|parsed| Self { value: parsed.value.0, at: parsed.at })
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^(0|([0-9]+(ms|s|m|h|d))+)$",
            "description": "30s, 10m, 1h30m, 400d"
        })
    }
}

/// `500`, `64KiB`, `50MB`, `2GB`: a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BytesText(pub u64);

/// What may stand behind a number of bytes.
const BYTE_UNITS: [(&str, u64); 8] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

impl std::str::FromStr for BytesText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            let units: Vec<&str> = BYTE_UNITS.iter().map(|(unit, _)| *unit).collect();
            format!("expected a number of bytes such as 50MB ({}), got `{text}`", units.join(", "))
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "" => 1,
            unit => BYTE_UNITS
                .iter()
                .find(|(known, _)| *known == unit)
                .map(|(_, factor)| *factor)
                .ok_or_else(wrong)?,
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for BytesText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for BytesText {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ ?(B|KB|MB|GB|TB|KiB|MiB|GiB)?$" }
            ],
            "description": "500, 64KiB, 50MB, 2GB"
        })
    }
}

/// A block that is accepted and not looked into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl JsonSchema for Unread {
    fn schema_name() -> Cow<'static, str> {
        "Unread".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "object" })
    }
}

/// Wraps a word of the model, so that it has a JSON schema and a list of its spellings.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident($model:ty) = [$($word:literal),* $(,)?];)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $model);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),*] })
            }
        }

        #[cfg(test)]
        impl Words for $name {
            const WORDS: &'static [&'static str] = &[$($word),*];
        }
    )*};
}

/// For a test that the schema's words are the model's words.
#[cfg(test)]
pub(crate) trait Words: serde::de::DeserializeOwned + Serialize {
    /// All of them.
    const WORDS: &'static [&'static str];
}

words! {
    /// Kind of actor.
    Kind(IdentityKind) = ["person", "service_account", "ci_job", "agent", "unknown"];
    /// How sure an identity is.
    Sureness(Assurance) = ["claimed", "kernel", "platform", "attested"];
    /// Class of a statement.
    Class(SqlClass) = ["read", "transaction", "session", "copy_out", "write", "copy_in", "call", "ddl", "admin", "opaque"];
    /// Class of an HTTP request.
    HttpClassName(HttpClass) = ["read", "write", "upgrade"];
    /// Side effect of a statement.
    SideEffect(SqlEffect) = ["writes_rows", "changes_schema", "locks", "unknown_function", "server_file", "sets_role", "changes_meaning", "exports", "imports", "dynamic_sql", "changes_privileges", "notifies"];
    /// A way of moving data out in bulk.
    ExportWay(Export) = ["copy", "select", "document", "large_object", "dump"];
    /// Risk of a statement.
    RiskLevel(Risk) = ["low", "medium", "high", "critical"];
    /// Mode of a target.
    TargetMode(Mode) = ["observe", "shadow", "enforce"];
    /// Default of a target.
    GivenDefault(DefaultEffect) = ["allow", "deny"];
    /// Who may not approve.
    Excluded(Exclude) = ["requester", "triggering_actor", "commit_author"];
    /// Content detector.
    DetectorName(Detector) = ["card_number", "ssn", "email", "phone", "secret"];
    /// For values of unknown lineage.
    Lineage(UnknownLineage) = ["redact", "deny", "pass"];
    /// For masked columns outside the output.
    Predicate(InPredicate) = ["deny", "require_approval", "allow"];
    /// For outputs made of masked columns.
    Expression(InExpression) = ["redact", "deny", "require_approval"];
    /// Over what a result limit is counted.
    CountedPer(LimitScope) = ["statement", "session"];
    /// What is kept of statements.
    Statements(RecordStatements) = ["normalized", "full"];
    /// What is kept of results.
    Results(RecordResults) = ["none", "masked"];
}

/// Where a key rests: exactly one of `file`, `env`, `command`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct KeyRef(pub SecretRef);

impl JsonSchema for KeyRef {
    fn schema_name() -> Cow<'static, str> {
        "SecretRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": false,
            "properties": {
                "file": { "type": "string", "description": "The content of this file." },
                "env": { "type": "string", "description": "This variable of the agent's environment." },
                "command": {
                    "type": "array",
                    "items": { "type": "string" },
                    "description": "What this program prints; run without a shell."
                }
            }
        })
    }
}
