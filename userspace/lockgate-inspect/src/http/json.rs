//! Masking JSON as it streams: one pass over the bytes, a stack of open containers, and at most one string in memory.
//!
//! What is not JSON ends the stream with an error: whoever relays it has sent the part before, and nothing of the rest.

use super::is_secret;
use crate::mask::{Detectors, Method};
use bytes::{BufMut, BytesMut};
use lockgate_model::http::JsonPath;
use std::sync::Arc;

/// A string or number longer than this is not searched or hashed; where it could be masked, it is redacted whole.
const MAX_SCALAR: usize = 256 * 1024;
/// Deeper documents are not an API's.
const MAX_DEPTH: usize = 256;
/// What stands for a value that is masked whole.
const REDACTED: &[u8] = b"\"[redacted]\"";

/// The bytes are not the JSON they are said to be. Carries nothing of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON at byte {at}: {what}")]
pub struct Malformed {
    /// How far it was.
    pub at: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// Masks JSON piece by piece.
#[derive(Debug)]
pub struct JsonMasker {
    masks: Arc<[(JsonPath, Method)]>,
    detectors: Option<Arc<Detectors>>,
    /// Values of keys that are called like credentials are masked too.
    secrets: bool,
    open: Vec<Container>,
    place: Vec<String>,
    expect: Expect,
    scan: Scan,
    scalar: Vec<u8>,
    /// The scalar is longer than is kept.
    overlong: bool,
    /// Open containers when a masked one began: what stands in it is not written.
    swallowing: Option<usize>,
    at: u64,
    /// Values that were masked.
    masked: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array { index: u64 },
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    /// Behind the document; another one may follow (JSON lines).
    Document,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scan {
    Between,
    String { escaped: bool },
    Word,
}

impl JsonMasker {
    pub(super) fn new(masks: Arc<[(JsonPath, Method)]>, detectors: Option<Arc<Detectors>>) -> Self {
        Self {
            masks,
            detectors,
            secrets: false,
            open: Vec::new(),
            place: Vec::new(),
            expect: Expect::Document,
            scan: Scan::Between,
            scalar: Vec::new(),
            overlong: false,
            swallowing: None,
            at: 0,
            masked: 0,
        }
    }

    /// Masks what goes by the name of a credential, for those who read a request.
    pub(super) fn for_people() -> Self {
        Self { secrets: true, ..Self::new(Arc::from([]), None) }
    }

    /// How many values were masked so far.
    pub fn masked(&self) -> u64 {
        self.masked
    }

    /// Takes a piece of the document and writes what may be shown of it.
    ///
    /// # Errors
    /// When it is not JSON; nothing more may be fed then.
    pub fn feed(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), Malformed> {
        for byte in input {
            self.byte(*byte, out)?;
            self.at += 1;
        }
        Ok(())
    }

    /// The end of the document.
    ///
    /// # Errors
    /// When it ends too early.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Malformed> {
        if self.scan == Scan::Word {
            self.word(out)?;
        }
        if self.scan != Scan::Between || !self.open.is_empty() || self.expect != Expect::Document {
            return Err(self.wrong("it ends early"));
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), Malformed> {
        match self.scan {
            Scan::String { escaped } => {
                self.keep(byte);
                match (escaped, byte) {
                    (false, b'"') => self.string(out)?,
                    (false, b'\\') => self.scan = Scan::String { escaped: true },
                    (false, 0..=0x1f) => return Err(self.wrong("a control character in a string")),
                    (_, _) => self.scan = Scan::String { escaped: false },
                }
                Ok(())
            }
            Scan::Word if is_word(byte) => {
                self.keep(byte);
                Ok(())
            }
            Scan::Word => {
                self.word(out)?;
                self.between(byte, out)
            }
            Scan::Between => self.between(byte, out),
        }
    }

    fn keep(&mut self, byte: u8) {
        if self.scalar.len() < MAX_SCALAR {
            self.scalar.push(byte);
        } else {
            self.overlong = true;
        }
    }

    fn between(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), Malformed> {
        match (byte, self.expect) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => self.put(&[byte], out),
            // A byte-order mark at the very beginning; some origins write one.
            (0xEF | 0xBB | 0xBF, Expect::Document) if self.at < 3 => {}
            (b'"', Expect::Key | Expect::KeyOrEnd)
            | (b'"', Expect::Value | Expect::ValueOrEnd | Expect::Document) => {
                self.scalar.clear();
                self.overlong = false;
                self.scalar.push(byte);
                self.scan = Scan::String { escaped: false };
            }
            (b'{' | b'[', Expect::Value | Expect::ValueOrEnd | Expect::Document) => self.opens(byte, out)?,
            (b'}', Expect::KeyOrEnd) => self.closes(byte, out)?,
            (b'}', Expect::CommaOrEnd) if self.open.last() == Some(&Container::Object) => {
                self.closes(byte, out)?
            }
            (b']', Expect::ValueOrEnd) => self.closes(byte, out)?,
            (b']', Expect::CommaOrEnd) if self.open.last() != Some(&Container::Object) => {
                self.closes(byte, out)?
            }
            (b':', Expect::Colon) => {
                self.put(b":", out);
                self.expect = Expect::Value;
            }
            (b',', Expect::CommaOrEnd) => {
                self.put(b",", out);
                match self.open.last_mut() {
                    Some(Container::Array { index }) => {
                        *index += 1;
                        let next = index.to_string();
                        self.place.pop();
                        self.place.push(next);
                        self.expect = Expect::Value;
                    }
                    Some(Container::Object) => self.expect = Expect::Key,
                    None => return Err(self.wrong("a comma between documents")),
                }
            }
            (byte, Expect::Value | Expect::ValueOrEnd | Expect::Document) if is_word(byte) => {
                self.scalar.clear();
                self.overlong = false;
                self.scalar.push(byte);
                self.scan = Scan::Word;
            }
            _ => return Err(self.wrong("a character that cannot stand there")),
        }
        Ok(())
    }

    fn opens(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), Malformed> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.wrong("it is nested too deeply"));
        }
        if self.swallowing.is_none()
            && let Some(method) = self.method()
        {
            self.put(if matches!(method, Method::Null) { b"null" } else { REDACTED }, out);
            self.masked += 1;
            self.swallowing = Some(self.open.len());
        }
        self.put(&[byte], out);
        if byte == b'{' {
            self.open.push(Container::Object);
            self.expect = Expect::KeyOrEnd;
        } else {
            self.open.push(Container::Array { index: 0 });
            self.place.push("0".to_owned());
            self.expect = Expect::ValueOrEnd;
        }
        Ok(())
    }

    fn closes(&mut self, byte: u8, out: &mut BytesMut) -> Result<(), Malformed> {
        self.put(&[byte], out);
        if let Some(Container::Array { .. }) = self.open.pop() {
            self.place.pop();
        }
        if self.swallowing == Some(self.open.len()) {
            self.swallowing = None;
        }
        self.value_ends();
        Ok(())
    }

    /// A value stands complete where it was expected.
    fn value_ends(&mut self) {
        self.expect = match self.open.last() {
            None => Expect::Document,
            Some(Container::Object) => {
                self.place.pop();
                Expect::CommaOrEnd
            }
            Some(Container::Array { .. }) => Expect::CommaOrEnd,
        };
    }

    fn string(&mut self, out: &mut BytesMut) -> Result<(), Malformed> {
        self.scan = Scan::Between;
        if matches!(self.expect, Expect::Key | Expect::KeyOrEnd) {
            if self.overlong {
                return Err(self.wrong("a key longer than any key is"));
            }
            let key: String =
                serde_json::from_slice(&self.scalar).map_err(|_| self.wrong("a key that is no string"))?;
            self.place.push(key.to_lowercase());
            let scalar = std::mem::take(&mut self.scalar);
            self.put(&scalar, out);
            self.scalar = scalar;
            self.expect = Expect::Colon;
            return Ok(());
        }
        let scalar = std::mem::take(&mut self.scalar);
        let text = serde_json::from_slice::<String>(&scalar).ok();
        self.value(text.as_deref(), &scalar, out);
        self.scalar = scalar;
        self.value_ends();
        Ok(())
    }

    fn word(&mut self, out: &mut BytesMut) -> Result<(), Malformed> {
        self.scan = Scan::Between;
        let scalar = std::mem::take(&mut self.scalar);
        if self.overlong || serde_json::from_slice::<serde_json::Value>(&scalar).is_err() {
            return Err(self.wrong("a word that is no value"));
        }
        let text = String::from_utf8_lossy(&scalar).into_owned();
        self.value(Some(&text), &scalar, out);
        self.scalar = scalar;
        self.value_ends();
        Ok(())
    }

    /// A scalar: `text` is what it means, when it can be told; `raw` how it is written.
    fn value(&mut self, text: Option<&str>, raw: &[u8], out: &mut BytesMut) {
        if self.swallowing.is_some() {
            return;
        }
        if let Some(method) = self.method() {
            self.masked += 1;
            // Null says nothing, and stays what it is.
            if raw == b"null" {
                return self.put(raw, out);
            }
            return match text.filter(|_| !self.overlong) {
                Some(text) => written(&method, text, out),
                None => self.put(if matches!(method, Method::Null) { b"null" } else { REDACTED }, out),
            };
        }
        let Some(detectors) = self.detectors.clone() else {
            if self.overlong {
                // Nothing looks at it, but its tail was not kept.
                self.masked += 1;
                return self.put(REDACTED, out);
            }
            return self.put(raw, out);
        };
        if self.overlong {
            self.masked += 1;
            return self.put(REDACTED, out);
        }
        let mut found = BytesMut::new();
        match text {
            Some(text) if detectors.redact(text.as_bytes(), &mut found) => {
                self.masked += 1;
                encode(&String::from_utf8_lossy(&found), out);
            }
            Some(_) => self.put(raw, out),
            // Not a text that anybody can search.
            None => {
                self.masked += 1;
                self.put(REDACTED, out);
            }
        }
    }

    /// How the value that stands here is masked.
    fn method(&self) -> Option<Method> {
        if self.secrets && self.place.iter().any(|key| is_secret(key)) {
            return Some(Method::Redact);
        }
        let meant = self.masks.iter().filter(|(path, _)| path.matches(&self.place));
        meant.map(|(_, method)| method.clone()).reduce(Method::stronger)
    }

    fn put(&self, bytes: &[u8], out: &mut BytesMut) {
        if self.swallowing.is_none() {
            out.put_slice(bytes);
        }
    }

    fn wrong(&self, what: &'static str) -> Malformed {
        Malformed { at: self.at, what }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

/// A masked value, as JSON.
fn written(method: &Method, text: &str, out: &mut BytesMut) {
    let mut masked = BytesMut::new();
    if method.apply(text.as_bytes(), &mut masked) {
        encode(&String::from_utf8_lossy(&masked), out);
    } else {
        out.put_slice(b"null");
    }
}

fn encode(text: &str, out: &mut BytesMut) {
    out.put_slice(serde_json::Value::from(text).to_string().as_bytes());
}
