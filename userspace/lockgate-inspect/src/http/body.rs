//! A request's JSON body: the fields that rules ask for, and what people are shown of it.

use super::json::JsonMasker;
use bytes::BytesMut;
use lockgate_model::http::{JsonPath, REDACTED};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Values of all asked fields together; a body that has more at such places is not understood.
const MAX_VALUES: usize = 10_000;

/// Every value that stands at an asked path, a key that comes twice included.
///
/// # Errors
/// Why it is not JSON, without any of its text.
pub(super) fn fields(
    body: &[u8],
    asked: &BTreeSet<JsonPath>,
) -> Result<BTreeMap<String, Vec<String>>, String> {
    let mut walk = Walk { asked, place: Vec::new(), found: BTreeMap::new(), count: 0 };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let place = |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    Here(&mut walk).deserialize(&mut reader).map_err(|error| place(&error))?;
    reader.end().map_err(|error| place(&error))?;
    Ok(walk.found)
}

struct Walk<'a> {
    asked: &'a BTreeSet<JsonPath>,
    place: Vec<String>,
    found: BTreeMap<String, Vec<String>>,
    count: usize,
}

impl Walk<'_> {
    fn note<E: serde::de::Error>(&mut self, value: &str) -> Result<(), E> {
        for path in self.asked.iter().filter(|path| path.matches(&self.place)) {
            self.count += 1;
            if self.count > MAX_VALUES {
                return Err(E::custom("too many values"));
            }
            let value = if self.place.iter().any(|key| super::is_secret(key)) { REDACTED } else { value };
            self.found.entry(path.as_str().to_owned()).or_default().push(value.to_owned());
        }
        Ok(())
    }
}

/// Reads the value that stands where the walk is.
struct Here<'w, 'a>(&'w mut Walk<'a>);

impl<'de> DeserializeSeed<'de> for Here<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Here<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.0.note(if value { "true" } else { "false" })
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.note(&value.to_string())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.0.note(&value.to_string())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.0.note(&value.to_string())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        self.0.note(value)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.0.note("null")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.note("[array]")?;
        let mut index = 0u64;
        loop {
            self.0.place.push(index.to_string());
            let more = list.next_element_seed(Here(self.0))?;
            self.0.place.pop();
            if more.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.note("[object]")?;
        while let Some(key) = map.next_key::<String>()? {
            self.0.place.push(key.to_lowercase());
            map.next_value_seed(Here(self.0))?;
            self.0.place.pop();
        }
        Ok(())
    }
}

/// A JSON body without what goes by the name of a credential, cut. None when it is not JSON.
pub(super) fn shown(body: &[u8], most: usize) -> Option<String> {
    let mut out = BytesMut::new();
    let mut masker = JsonMasker::for_people();
    masker.feed(body, &mut out).ok()?;
    masker.finish(&mut out).ok()?;
    let text = String::from_utf8_lossy(&out);
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = if end < text.len() { "…" } else { "" };
    Some(format!("{}{cut}", text.get(..end).unwrap_or_default()))
}
