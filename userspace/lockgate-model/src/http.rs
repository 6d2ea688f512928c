//! What one HTTP request asks for, as the inspector understood it. Plain data: no parsing of messages here.
//!
//! Values that look like credentials (by the name of their header, query parameter or body field) never get here: the
//! inspector puts [`REDACTED`] in their place, so that facts may rest in records.

use crate::{sql::Risk, verdict::MaskMethod};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What stands for a value that may not rest.
pub const REDACTED: &str = "[redacted]";

/// Class of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpClass {
    /// GET, HEAD and OPTIONS without a body.
    Read,
    /// Every other method.
    Write,
    /// The connection goes on in another protocol (WebSocket).
    Upgrade,
    /// The origin might read it differently than lockgate.
    Opaque,
}

impl HttpClass {
    /// The name used in policy and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Upgrade => "upgrade",
            Self::Opaque => "opaque",
        }
    }
}

impl fmt::Display for HttpClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name with a value: a query parameter, a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpField {
    /// Its name; headers in lower case.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What one request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpFacts {
    /// Class.
    pub class: HttpClass,
    /// As sent; methods are case-sensitive (RFC 9110 §9.1).
    pub method: String,
    /// `http` or `https`: how the client came.
    pub scheme: String,
    /// In lower case, without the port.
    pub host: String,
    /// Percent-decoded, without the query. As sent when it is opaque.
    pub path: String,
    /// The path with what looks like an id replaced: `/v1/users/{id}`.
    pub route: String,
    /// Parameters of the query, in order, percent-decoded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<HttpField>,
    /// The headers that rules ask for, and those that say what the body is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HttpField>,
    /// The protocol it goes on in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// What is known of its body.
    pub body: HttpBody,
    /// The fields of a JSON body that rules ask for: every value that stands at such a path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub json: BTreeMap<String, Vec<String>>,
    /// How much harm it could do.
    pub risk: Risk,
    /// Why it is opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque_reason: Option<String>,
}

impl HttpFacts {
    /// All values of a header.
    pub fn header(&self, name: &str) -> impl Iterator<Item = &str> {
        let fields = self.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        fields.map(|field| field.value.as_str())
    }
}

/// What is known of a request's body when it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum HttpBody {
    /// It has none.
    None,
    /// It was read whole, and is part of the digest.
    Read {
        /// Its length.
        bytes: u64,
    },
    /// No rule asked for it: it streams once the request is permitted.
    Streamed {
        /// Its length, when the client says it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
}

/// Where something stands in a JSON document: `spec.replicas`, `items.*.ssn`, `**.password`.
///
/// Segments are separated by dots; `[*]` and `[0]` are `*` and `0`; a leading `$` is nothing. `*` is any one key or index,
/// `**` any number of them. Keys are compared without regard to case: an origin that folds them must not be a way around.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JsonPath {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Segment {
    Key(String),
    Any,
    Deep,
}

/// More segments than this are a mistake, and would make matching slow.
const MAX_SEGMENTS: usize = 32;

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn new(text: &str) -> Result<Self, String> {
        let dotted = text.replace('[', ".").replace(']', "");
        let dotted = dotted.strip_prefix('$').unwrap_or(&dotted);
        let dotted = dotted.strip_prefix('.').unwrap_or(dotted);
        if dotted.is_empty() {
            return Err(format!(
                "`{text}` names no field; write `spec.replicas`, `items.*.ssn` or `**.password`"
            ));
        }
        let mut segments = Vec::new();
        for part in dotted.split('.') {
            segments.push(match part {
                "" => return Err(format!("`{text}` has an empty segment")),
                "*" => Segment::Any,
                "**" => Segment::Deep,
                key if key.contains('*') => {
                    return Err(format!("`{text}`: `*` stands for a whole key, not for a part of one"));
                }
                key => Segment::Key(key.to_lowercase()),
            });
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(format!("`{text}` has {} segments, at most {MAX_SEGMENTS} are read", segments.len()));
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a value stands there. Keys in lower case, indices as decimal numbers.
    pub fn matches(&self, place: &[String]) -> bool {
        // The set of segments that may come next, as in any small automaton: linear in both lengths.
        let count = self.segments.len();
        let mut states = vec![false; count + 1];
        if let Some(first) = states.first_mut() {
            *first = true;
        }
        self.skip_deep(&mut states);
        for key in place {
            let mut next = vec![false; count + 1];
            for (at, segment) in self.segments.iter().enumerate() {
                if !states.get(at).copied().unwrap_or(false) {
                    continue;
                }
                let to = match segment {
                    Segment::Key(wanted) if wanted == key => at + 1,
                    Segment::Key(_) => continue,
                    Segment::Any => at + 1,
                    Segment::Deep => at,
                };
                if let Some(state) = next.get_mut(to) {
                    *state = true;
                }
            }
            self.skip_deep(&mut next);
            states = next;
        }
        states.last().copied().unwrap_or(false)
    }

    /// `**` may stand for nothing.
    fn skip_deep(&self, states: &mut [bool]) {
        for (at, segment) in self.segments.iter().enumerate() {
            if *segment == Segment::Deep
                && states.get(at).copied().unwrap_or(false)
                && let Some(state) = states.get_mut(at + 1)
            {
                *state = true;
            }
        }
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for JsonPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<JsonPath> for String {
    fn from(path: JsonPath) -> Self {
        path.text
    }
}

/// A mask for what stands at a path of a JSON response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonMask {
    /// Where.
    pub path: JsonPath,
    /// How.
    pub method: MaskMethod,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_places_in_documents() {
        for (path, place, expected) in [
            ("spec.replicas", "spec.replicas", true),
            ("$.spec.replicas", "spec.replicas", true),
            ("spec.replicas", "spec.replicas.x", false),
            ("spec.replicas", "spec", false),
            ("Spec.Replicas", "spec.replicas", true),
            ("items[*].ssn", "items.0.ssn", true),
            ("items[0].ssn", "items.1.ssn", false),
            ("items.*.ssn", "items.ssn", false),
            ("**.password", "password", true),
            ("**.password", "a.b.c.password", true),
            ("**.password", "a.password.b", false),
            ("a.**", "a", true),
            ("a.**", "a.b.c", true),
            ("a.**.z", "a.b.z.z", true),
            ("*", "a", true),
            ("*", "a.b", false),
        ] {
            let place: Vec<String> = place.split('.').map(str::to_owned).collect();
            assert_eq!(JsonPath::new(path).unwrap().matches(&place), expected, "{path} {place:?}");
        }
        for bad in ["", "$", "a..b", "a.b*", "."] {
            assert!(JsonPath::new(bad).is_err(), "{bad}");
        }
    }
}
