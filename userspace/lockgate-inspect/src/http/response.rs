//! What of a response may be shown under a mask: which filter its body goes through, or why none can.

use super::{
    decode::{Coding, Decoder},
    json::JsonMasker,
};
use crate::mask::{Detectors, MaskKeys, Method};
use bytes::{BufMut, BytesMut};
use lockgate_model::{
    http::JsonPath,
    verdict::{MaskSpec, UnknownLineage},
};
use std::sync::Arc;

/// The longest line of a text that is searched; what is longer is cut at white space, or redacted.
const MAX_LINE: usize = 64 * 1024;

/// A mask for responses, made of what policy asks for.
#[derive(Clone, Debug)]
pub struct ResponseMask {
    json: Arc<[(JsonPath, Method)]>,
    detectors: Option<Arc<Detectors>>,
    unknown: UnknownLineage,
}

/// Why a response cannot be masked. It is then kept back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmaskable {
    /// A coding that cannot be undone.
    #[error("its content coding ({0}) cannot be undone")]
    Coding(String),
    /// Masks are for places in JSON, and it is not JSON.
    #[error("masks name places in JSON, and it is {0}")]
    NotJson(String),
    /// A part of it.
    #[error("it is a part of a resource (status 206), which has no places that masks could name")]
    Partial,
    /// A text in a charset whose characters are not bytes.
    #[error("its charset ({0}) cannot be searched")]
    Charset(String),
    /// Its bytes are not what they are said to be.
    #[error("{0}")]
    Malformed(String),
}

impl ResponseMask {
    /// None where the mask has nothing to say of HTTP.
    pub fn of(spec: &MaskSpec, keys: &MaskKeys) -> Option<Self> {
        if spec.json.is_empty() && spec.detectors.is_empty() {
            return None;
        }
        let json = spec.json.iter().map(|mask| (mask.path.clone(), Method::of(&mask.method, keys))).collect();
        let detectors = (!spec.detectors.is_empty()).then(|| Arc::new(Detectors::new(&spec.detectors)));
        Some(Self { json, detectors, unknown: spec.on_unknown_lineage })
    }

    /// The filter for a response with these headers. `Ok(None)`: nothing in it can be masked, it passes as it is.
    ///
    /// # Errors
    /// When it cannot be masked.
    pub fn filter(
        &self,
        status: u16,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> Result<Option<Filter>, Unmaskable> {
        if status == 206 {
            return Err(Unmaskable::Partial);
        }
        let kind = Kind::of(content_type);
        let lenient = self.unknown == UnknownLineage::Pass;
        let inner = match kind {
            Kind::Json => Inner::Json(Box::new(JsonMasker::new(self.json.clone(), self.detectors.clone()))),
            Kind::Text | Kind::Other if !self.json.is_empty() && !lenient => {
                return Err(Unmaskable::NotJson(content_type.unwrap_or("of no stated type").to_owned()));
            }
            Kind::Text => match &self.detectors {
                Some(detectors) => {
                    if let Some(charset) = odd_charset(content_type) {
                        return Err(Unmaskable::Charset(charset));
                    }
                    Inner::Text(TextMasker {
                        detectors: detectors.clone(),
                        line: Vec::new(),
                        dropping: false,
                        masked: 0,
                    })
                }
                None => return Ok(None),
            },
            Kind::Other => return Ok(None),
        };
        let coding = Coding::of(content_encoding)
            .ok_or_else(|| Unmaskable::Coding(content_encoding.unwrap_or_default().to_owned()))?;
        Ok(Some(Filter { decoder: Some(Decoder::new(coding)), inner }))
    }
}

/// What a body is, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

impl Kind {
    fn of(content_type: Option<&str>) -> Self {
        // Without a type, clients guess: so it is searched as text.
        let Some(content_type) = content_type else { return Self::Text };
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let json = essence.ends_with("/json") || essence.ends_with("+json") || essence.contains("json");
        let text = essence.starts_with("text/")
            || ["xml", "javascript", "x-www-form-urlencoded", "yaml", "csv"]
                .iter()
                .any(|part| essence.contains(part));
        if json {
            Self::Json
        } else if text {
            Self::Text
        } else {
            Self::Other
        }
    }
}

/// A charset that is not made of ASCII's bytes.
fn odd_charset(content_type: Option<&str>) -> Option<String> {
    let charset = content_type?.to_ascii_lowercase();
    let (_, charset) = charset.split_once("charset=")?;
    let charset = charset.trim_matches(['"', ' ']).split([';', '"']).next().unwrap_or_default().to_owned();
    let wide = ["utf-16", "utf-32", "utf-7", "ucs", "ebcdic", "ibm037", "iso-2022"];
    wide.iter().any(|odd| charset.starts_with(odd)).then_some(charset)
}

/// A body on its way to the client.
#[derive(Debug)]
pub struct Filter {
    decoder: Option<Decoder>,
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Json(Box<JsonMasker>),
    Text(TextMasker),
}

impl Filter {
    /// A piece of the body: what may be shown of it.
    ///
    /// # Errors
    /// When it is not what it is said to be: the response ends there.
    pub fn feed(&mut self, mut piece: &[u8], out: &mut BytesMut) -> Result<(), Unmaskable> {
        while !piece.is_empty() {
            let Some(decoder) = &mut self.decoder else { return Ok(()) };
            let plain = decoder.step(&mut piece).map_err(|error| Unmaskable::Malformed(error.to_string()))?;
            self.inner.feed(&plain, out)?;
        }
        Ok(())
    }

    /// The end of the body.
    ///
    /// # Errors
    /// When it ends too early.
    pub fn finish(&mut self, out: &mut BytesMut) -> Result<(), Unmaskable> {
        if let Some(decoder) = self.decoder.take() {
            let rest = decoder.finish().map_err(|error| Unmaskable::Malformed(error.to_string()))?;
            self.inner.feed(&rest, out)?;
        }
        match &mut self.inner {
            Inner::Json(json) => json.finish(out).map_err(|error| Unmaskable::Malformed(error.to_string())),
            Inner::Text(text) => {
                text.finish(out);
                Ok(())
            }
        }
    }

    /// How many values were masked so far.
    pub fn masked(&self) -> u64 {
        match &self.inner {
            Inner::Json(json) => json.masked(),
            Inner::Text(text) => text.masked,
        }
    }
}

impl Inner {
    fn feed(&mut self, plain: &[u8], out: &mut BytesMut) -> Result<(), Unmaskable> {
        match self {
            Self::Json(json) => {
                json.feed(plain, out).map_err(|error| Unmaskable::Malformed(error.to_string()))
            }
            Self::Text(text) => {
                text.feed(plain, out);
                Ok(())
            }
        }
    }
}

/// Searches a text line by line, so that an event stream goes on event by event.
#[derive(Debug)]
struct TextMasker {
    detectors: Arc<Detectors>,
    line: Vec<u8>,
    /// The rest of something too long, which is redacted.
    dropping: bool,
    masked: u64,
}

impl TextMasker {
    fn feed(&mut self, plain: &[u8], out: &mut BytesMut) {
        for byte in plain {
            if self.dropping && !is_gap(*byte) && *byte != b'\n' {
                continue;
            }
            self.dropping = false;
            self.line.push(*byte);
            if *byte == b'\n' {
                self.finish(out);
            } else if self.line.len() >= MAX_LINE {
                self.cut(out);
            }
        }
    }

    /// A line without an end: cut at its last white space, so that no value is cut in two; without one it is redacted.
    fn cut(&mut self, out: &mut BytesMut) {
        match self.line.iter().rposition(|byte| is_gap(*byte)) {
            Some(at) => {
                let rest = self.line.split_off(at + 1);
                self.finish(out);
                self.line = rest;
            }
            None => {
                self.line.clear();
                self.masked += 1;
                self.dropping = true;
                out.put_slice(b"[redacted]");
            }
        }
    }

    fn finish(&mut self, out: &mut BytesMut) {
        if self.detectors.redact(&self.line, out) {
            self.masked += 1;
        } else {
            out.put_slice(&self.line);
        }
        self.line.clear();
    }
}

/// Where a long line may be cut without cutting a value.
fn is_gap(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',' | b';' | b'>')
}
