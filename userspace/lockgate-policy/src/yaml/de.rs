//! A serde deserializer over positioned nodes: it knows where everything stands, and what was probably meant.

use super::{
    LENIENT, ONE_OR_MANY, Problem, SPANNED,
    tree::{Key, Kind, Node},
};
use crate::diagnostic::suggest;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor, value::StrDeserializer,
};
use std::{cell::RefCell, fmt, rc::Rc};

/// What went wrong without ending the reading.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(problem);
    }

    pub(super) fn into_inner(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(None, message.to_string(), None)
    }

    fn invalid_type(got: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(None, format!("expected {expected}, got {}", describe(got)), None)
    }

    fn invalid_value(got: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(got, expected)
    }

    fn unknown_variant(got: &str, expected: &'static [&'static str]) -> Self {
        let help = suggest(got, expected.iter().copied());
        Self::new(None, format!("`{got}` is not a word that is known here"), help)
    }

    fn unknown_field(got: &str, expected: &'static [&'static str]) -> Self {
        let help = suggest(got, expected.iter().copied());
        Self::new(None, format!("unknown key `{got}`"), help)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(None, format!("the key `{field}` is missing here"), None)
    }
}

fn describe(got: Unexpected<'_>) -> String {
    match got {
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a mapping".to_owned(),
        Unexpected::Seq | Unexpected::TupleVariant => "a list".to_owned(),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Str(text) => format!("`{}`", text.chars().take(80).collect::<String>()),
        Unexpected::Unsigned(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("`{value}`"),
        other => other.to_string(),
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'n> {
    node: &'n Node,
    problems: &'n Problems,
    /// Inside a [`super::Lenient`]: keep an error before it is swallowed.
    keep: bool,
}

impl<'n> NodeDeserializer<'n> {
    pub(super) fn new(node: &'n Node, problems: &'n Problems) -> Self {
        Self { node, problems, keep: false }
    }

    fn child(&self, node: &'n Node) -> Self {
        Self::new(node, self.problems)
    }

    /// Places an error that has no place yet, and keeps it when it would be swallowed.
    fn place<T>(&self, result: Result<T, Problem>) -> Result<T, Problem> {
        result.map_err(|problem| {
            let problem = problem.or_at(self.node.at);
            if self.keep {
                self.problems.push(problem.clone());
            }
            problem
        })
    }

    fn unexpected(&self) -> Unexpected<'n> {
        match &self.node.kind {
            Kind::Scalar { .. } if self.node.is_null() => Unexpected::Unit,
            Kind::Scalar { text, .. } => Unexpected::Str(text),
            Kind::Sequence(_) => Unexpected::Seq,
            Kind::Mapping(_) => Unexpected::Map,
        }
    }

    fn mismatch<T>(&self, expected: &dyn de::Expected) -> Result<T, Problem> {
        self.place(Err(de::Error::invalid_type(self.unexpected(), expected)))
    }

    /// The text of a plain scalar.
    fn plain(&self) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Scalar { text, plain: true } => Some(text),
            Kind::Scalar { .. } | Kind::Sequence(_) | Kind::Mapping(_) => None,
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let Some(text) = self.plain() else { return self.mismatch(&visitor) };
        match (text.parse::<u64>(), text.parse::<i64>()) {
            (Ok(value), _) => self.place(visitor.visit_u64(value)),
            (Err(_), Ok(value)) => self.place(visitor.visit_i64(value)),
            (Err(_), Err(_)) => self.mismatch(&"a whole number"),
        }
    }

    fn mapping<'de, V: Visitor<'de>>(
        self,
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.kind {
            Kind::Mapping(entries) => {
                let access = Entries { parent: self, entries: entries.iter(), known, value: None };
                self.place(visitor.visit_map(access))
            }
            // `match:` with nothing after it is an empty mapping to whoever writes it.
            Kind::Scalar { .. } if self.node.is_null() => {
                let access = Entries { parent: self, entries: [].iter(), known, value: None };
                self.place(visitor.visit_map(access))
            }
            Kind::Scalar { .. } | Kind::Sequence(_) => self.mismatch(&"a mapping (`key: value`)"),
        }
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            self.integer(visitor)
        }
    )*};
}

impl<'de, 'n> Deserializer<'de> for NodeDeserializer<'n> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.kind {
            Kind::Sequence(_) => self.deserialize_seq(visitor),
            Kind::Mapping(_) => self.mapping(None, visitor),
            Kind::Scalar { .. } if self.node.is_null() => self.place(visitor.visit_unit()),
            Kind::Scalar { text, plain: false } => self.place(visitor.visit_str(text)),
            Kind::Scalar { text, plain: true } => {
                let result = if let Ok(value) = text.parse::<bool>() {
                    visitor.visit_bool(value)
                } else if let Ok(value) = text.parse::<u64>() {
                    visitor.visit_u64(value)
                } else if let Ok(value) = text.parse::<i64>() {
                    visitor.visit_i64(value)
                } else if let Some(value) = decimal(text) {
                    visitor.visit_f64(value)
                } else {
                    visitor.visit_str(text)
                };
                self.place(result)
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.plain().map(str::parse) {
            Some(Ok(value)) => self.place(visitor.visit_bool(value)),
            Some(Err(_)) | None => self.mismatch(&"`true` or `false`"),
        }
    }

    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.plain().and_then(|text| text.parse::<f64>().ok()).filter(|value| value.is_finite()) {
            Some(value) => self.place(visitor.visit_f64(value)),
            None => self.mismatch(&"a number"),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.kind {
            Kind::Scalar { text, .. } if !self.node.is_null() => self.place(visitor.visit_str(text)),
            Kind::Scalar { .. } | Kind::Sequence(_) | Kind::Mapping(_) => self.mismatch(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.node.is_null() {
            self.place(visitor.visit_none())
        } else {
            self.place(visitor.visit_some(self))
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        if self.node.is_null() { self.place(visitor.visit_unit()) } else { self.mismatch(&"nothing") }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if name == ONE_OR_MANY && matches!(self.node.kind, Kind::Sequence(_)) {
            return self.deserialize_seq(visitor);
        }
        self.keep |= name == LENIENT;
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.kind {
            Kind::Sequence(items) => {
                self.place(visitor.visit_seq(Items { parent: self, items: items.iter() }))
            }
            Kind::Scalar { .. } if self.node.is_null() => {
                self.place(visitor.visit_seq(Items { parent: self, items: [].iter() }))
            }
            Kind::Scalar { .. } | Kind::Mapping(_) => self.mismatch(&"a list (`[a, b]` or lines with `- `)"),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.mapping(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        if name == SPANNED {
            return self.place(visitor.visit_map(SpannedParts { node: self, next: 0 }));
        }
        self.mapping(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        let (at, word, value) = match &self.node.kind {
            // `null` is a word where it is one of the words.
            Kind::Scalar { text, .. } if !self.node.is_null() || variants.contains(&text.as_str()) => {
                (self.node.at, text.as_str(), None)
            }
            Kind::Mapping(entries) => match entries.as_slice() {
                [(key, value)] => (key.at, key.text.as_str(), Some(self.child(value))),
                _ => {
                    let expected = format!("one key, one of: {}", variants.join(", "));
                    let message = format!("expected {expected}; got {} keys", entries.len());
                    return self.place(Err(Problem::new(None, message, None)));
                }
            },
            Kind::Scalar { .. } | Kind::Sequence(_) => {
                return self.mismatch(&format!("one of: {}", variants.join(", ")).as_str());
            }
        };
        if !variants.contains(&word) {
            let problem: Problem = de::Error::unknown_variant(word, variants);
            return self.place(Err(problem.or_at(at)));
        }
        self.place(visitor.visit_enum(Variant { word, value }))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }
}

/// A number with a point or exponent; `nan`, `inf` and the like stay words.
fn decimal(text: &str) -> Option<f64> {
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
    text.parse().ok().filter(|value: &f64| numeric && value.is_finite())
}

struct Items<'n> {
    parent: NodeDeserializer<'n>,
    items: std::slice::Iter<'n, Rc<Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        self.items.next().map(|node| seed.deserialize(self.parent.child(node))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Entries<'n> {
    parent: NodeDeserializer<'n>,
    entries: std::slice::Iter<'n, (Key, Rc<Node>)>,
    /// The keys that are known, for a struct; anything goes in a map.
    known: Option<&'static [&'static str]>,
    value: Option<&'n Node>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        for (key, value) in self.entries.by_ref() {
            if let Some(known) = self.known.filter(|known| !known.contains(&key.text.as_str())) {
                let problem: Problem = de::Error::unknown_field(&key.text, known);
                self.parent.problems.push(problem.or_at(key.at));
                continue;
            }
            self.value = Some(value);
            let text: StrDeserializer<'_, Problem> = key.text.as_str().into_deserializer();
            return seed
                .deserialize(KeyDeserializer(text))
                .map(Some)
                .map_err(|problem| problem.or_at(key.at));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        match self.value.take() {
            Some(node) => seed.deserialize(self.parent.child(node)),
            None => Err(de::Error::custom("a value was asked for before its key")),
        }
    }
}

/// Keys are words; a newtype or an enum of words reads them too.
struct KeyDeserializer<'n>(StrDeserializer<'n, Problem>);

impl<'de> Deserializer<'de> for KeyDeserializer<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Plays the struct that [`super::Spanned`] asks for: line, column, value.
struct SpannedParts<'n> {
    node: NodeDeserializer<'n>,
    next: u8,
}

impl<'de> MapAccess<'de> for SpannedParts<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let key = match self.next {
            0 => "line",
            1 => "column",
            2 => "value",
            _ => return Ok(None),
        };
        let key: StrDeserializer<'_, Problem> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        self.next += 1;
        match self.next {
            1 => seed.deserialize(self.node.node.at.line.into_deserializer()),
            2 => seed.deserialize(self.node.node.at.column.into_deserializer()),
            _ => seed.deserialize(self.node),
        }
    }
}

struct Variant<'n> {
    word: &'n str,
    value: Option<NodeDeserializer<'n>>,
}

impl<'de, 'n> EnumAccess<'de> for Variant<'n> {
    type Error = Problem;
    type Variant = VariantValue<'n>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self::Variant), Problem> {
        let word: StrDeserializer<'_, Problem> = self.word.into_deserializer();
        Ok((seed.deserialize(word)?, VariantValue { word: self.word, value: self.value }))
    }
}

struct VariantValue<'n> {
    word: &'n str,
    value: Option<NodeDeserializer<'n>>,
}

impl<'n> VariantValue<'n> {
    fn value(self) -> Result<NodeDeserializer<'n>, Problem> {
        let word = self.word;
        self.value.ok_or_else(|| Problem::new(None, format!("`{word}` needs a value (`{word}: …`)"), None))
    }
}

impl<'de> VariantAccess<'de> for VariantValue<'_> {
    type Error = Problem;

    fn unit_variant(self) -> Result<(), Problem> {
        match self.value {
            None => Ok(()),
            Some(value) => {
                value.place(Err(Problem::new(None, format!("`{}` takes no value", self.word), None)))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Problem> {
        seed.deserialize(self.value()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Problem> {
        self.value()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.value()?.mapping(Some(fields), visitor)
    }
}
