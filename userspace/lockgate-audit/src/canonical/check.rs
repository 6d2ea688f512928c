//! Whether bytes are canonical JSON, without building a value: no space, members sorted and distinct, strings
//! with the fewest escapes, numbers in their one form.

use super::by_utf16;
use std::cmp::Ordering;

/// How deep arrays and objects may nest. Records nest about eight deep; the bound keeps a crafted line from
/// using up the stack.
const MAX_DEPTH: usize = 64;

/// An integer of this many digits is below 2^53, whatever they are.
const EXACT_DIGITS: usize = 15;

/// Why bytes are not canonical.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct NotCanonical {
    /// Offset in the line.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Checks one whole JSON text.
pub fn check(text: &[u8]) -> Result<(), NotCanonical> {
    if let Err(error) = str::from_utf8(text) {
        return Err(NotCanonical { at: error.valid_up_to(), what: "not UTF-8" });
    }
    let mut walk = Walk { text, at: 0 };
    walk.value(0)?;
    if walk.at == text.len() { Ok(()) } else { walk.fail("bytes after the value") }
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn fail<T>(&self, what: &'static str) -> Result<T, NotCanonical> {
        Err(NotCanonical { at: self.at, what })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, what: &'static str) -> Result<(), NotCanonical> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.fail(what)
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), NotCanonical> {
        if depth > MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b' ' | b'\t' | b'\r' | b'\n') => self.fail("white space"),
            _ => self.fail("expected a value"),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotCanonical> {
        if self.text.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            Ok(())
        } else {
            self.fail("expected a value")
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(depth + 1)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail("expected , or ]"),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let mut before: Option<&'a [u8]> = None;
        loop {
            let start = self.at;
            let name = self.string()?;
            if before.is_some_and(|before| by_utf16(before, name) != Ordering::Less) {
                self.at = start;
                return self.fail("members not sorted or not distinct");
            }
            before = Some(name);
            self.take(b':', "expected :")?;
            self.value(depth + 1)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fail("expected , or }"),
            }
        }
    }

    /// The raw text between the quotes.
    fn string(&mut self) -> Result<&'a [u8], NotCanonical> {
        self.take(b'"', "expected a string")?;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let raw = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(raw);
                }
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => return self.fail("a control character that is not escaped"),
                Some(_) => self.at += 1,
                None => return self.fail("a string without an end"),
            }
        }
    }

    /// RFC 8785 §3.2.2.2: the short forms where there is one, `\u00xx` in lower case for other controls.
    fn escape(&mut self) -> Result<(), NotCanonical> {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let length = match rest {
            [b'"' | b'\\' | b'b' | b't' | b'n' | b'f' | b'r', ..] => 2,
            [b'u', b'0', b'0', b'0', b'0'..=b'7' | b'b' | b'e' | b'f', ..] => 6,
            [b'u', b'0', b'0', b'1', b'0'..=b'9' | b'a'..=b'f', ..] => 6,
            _ => return self.fail("an escape that is not the canonical one"),
        };
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), NotCanonical> {
        let start = self.at;
        while let Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if let [b'1'..=b'9', rest @ ..] = digits
            && rest.len() < EXACT_DIGITS
            && rest.iter().all(u8::is_ascii_digit)
        {
            return Ok(());
        }
        let canonical = str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
            .and_then(|number| serde_json_canonicalizer::to_vec(&number).ok());
        if canonical.as_deref() == Some(digits) {
            Ok(())
        } else {
            self.at = start;
            self.fail("a number that is not in its canonical form")
        }
    }
}
