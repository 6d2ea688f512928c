//! Serde values to canonical bytes, in one pass and without building a value.
//!
//! `serde_json_canonicalizer` does the same job and is the judge in the tests. It is not used here because it
//! rounds integers past 2^53 without a word, which a record must never do, and because this is on the path of
//! every statement: members are written where they belong and only moved when they came out of order.

use super::by_utf16;
use serde::{
    Serialize, Serializer,
    ser::{
        SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};
use std::{
    cmp::Ordering,
    fmt::{self, Display, Write as _},
    io::Write as _,
    ops::Range,
};

/// The largest integer that JSON numbers hold exactly.
const MAX_EXACT: u128 = lockgate_model::wide::MAX_EXACT as u128;

/// Why a value has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Would lose digits.
    #[error(
        "expected an integer up to 2^53 - 1 (write larger ones as strings, `lockgate_model::wide`), got {0}"
    )]
    NumberTooLarge(String),
    /// NaN or infinite.
    #[error("expected a finite number")]
    NotFinite,
    /// A member name that is no string, or stands twice.
    #[error("expected distinct strings as member names, got {0}")]
    Member(String),
    /// serde's own refusal.
    #[error("a record cannot be encoded: {0}")]
    Custom(String),
}

impl serde::ser::Error for EncodeError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

/// Writes the canonical form of `value` to the end of `out`. After an error `out` holds a beginning of it.
pub fn write<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    value.serialize(&mut Encoder { out, members: Vec::new(), moved: Vec::new() })
}

/// Writes a JSON string (RFC 8785 §3.2.2.2).
pub fn write_str(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape(text, out);
    out.push(b'"');
}

/// Writes an integer that may be too large for a JSON number.
pub(crate) fn write_u64(number: u64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if u128::from(number) > MAX_EXACT {
        return Err(EncodeError::NumberTooLarge(number.to_string()));
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    Ok(())
}

/// Which bytes of a string are not written as they are.
const ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped
};

fn escape(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| ESCAPED[usize::from(*byte)]) {
        out.extend_from_slice(bytes);
        return;
    }
    let mut plain = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            0..=0x1f => 0,
            _ => continue,
        };
        out.extend_from_slice(bytes.get(plain..at).unwrap_or_default());
        plain = at + 1;
        match short {
            // Writing to a Vec cannot fail.
            0 => drop(write!(out, "\\u{byte:04x}")),
            short => out.extend_from_slice(&[b'\\', short]),
        }
    }
    out.extend_from_slice(bytes.get(plain..).unwrap_or_default());
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// Members of the objects that are being written, innermost last.
    members: Vec<Member>,
    /// Room to put members in order.
    moved: Vec<u8>,
}

/// Where a member is in `out`: `"name":value,`.
struct Member {
    name: Range<usize>,
    whole: Range<usize>,
}

impl Encoder<'_> {
    fn begin(&mut self, bracket: u8) {
        self.out.push(bracket);
    }

    /// Ends an array or object whose elements each left a comma behind.
    fn end(&mut self, bracket: u8) {
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(bracket);
    }

    fn integer(&mut self, negative: bool, magnitude: u128) -> Result<(), EncodeError> {
        let sign = if negative { "-" } else { "" };
        if magnitude > MAX_EXACT {
            return Err(EncodeError::NumberTooLarge(format!("{sign}{magnitude}")));
        }
        self.out.extend_from_slice(sign.as_bytes());
        self.out.extend_from_slice(itoa::Buffer::new().format(magnitude).as_bytes());
        Ok(())
    }

    /// Sorts the members from `first` on, which begin at `start` in `out`.
    fn sort(&mut self, first: usize, start: usize) -> Result<(), EncodeError> {
        let Self { out, members, moved } = self;
        let own = members.get_mut(first..).unwrap_or_default();
        let name = |member: &Member| out.get(member.name.clone()).unwrap_or_default();
        if own.is_sorted_by(|a, b| by_utf16(name(a), name(b)) == Ordering::Less) {
            members.truncate(first);
            return Ok(());
        }
        own.sort_by(|a, b| by_utf16(name(a), name(b)));
        let twice = own.windows(2).find(|pair| match pair {
            [a, b] => name(a) == name(b),
            _ => false,
        });
        if let Some([member, ..]) = twice {
            return Err(EncodeError::Member(format!("{:?} twice", String::from_utf8_lossy(name(member)))));
        }
        moved.clear();
        for member in &*own {
            moved.extend_from_slice(out.get(member.whole.clone()).unwrap_or_default());
        }
        out.truncate(start);
        out.extend_from_slice(moved);
        members.truncate(first);
        Ok(())
    }
}

impl<'a, 'b> Serializer for &'a mut Encoder<'b> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Array<'a, 'b>;
    type SerializeTuple = Array<'a, 'b>;
    type SerializeTupleStruct = Array<'a, 'b>;
    type SerializeTupleVariant = Array<'a, 'b>;
    type SerializeMap = Object<'a, 'b>;
    type SerializeStruct = Object<'a, 'b>;
    type SerializeStructVariant = Object<'a, 'b>;

    fn serialize_bool(self, value: bool) -> Result<(), EncodeError> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), EncodeError> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), EncodeError> {
        self.integer(value < 0, value.unsigned_abs().into())
    }

    fn serialize_i128(self, value: i128) -> Result<(), EncodeError> {
        self.integer(value < 0, value.unsigned_abs())
    }

    fn serialize_u8(self, value: u8) -> Result<(), EncodeError> {
        self.integer(false, value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), EncodeError> {
        self.integer(false, value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), EncodeError> {
        self.integer(false, value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), EncodeError> {
        self.integer(false, value.into())
    }

    fn serialize_u128(self, value: u128) -> Result<(), EncodeError> {
        self.integer(false, value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), EncodeError> {
        self.serialize_f64(value.into())
    }

    /// The shortest form that reads back (RFC 8785 §3.2.2.3), by the canonicalizer's ECMAScript printer.
    fn serialize_f64(self, value: f64) -> Result<(), EncodeError> {
        serde_json_canonicalizer::to_writer(&value, self.out).map_err(|_| EncodeError::NotFinite)
    }

    fn serialize_char(self, value: char) -> Result<(), EncodeError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), EncodeError> {
        write_str(value, self.out);
        Ok(())
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        struct Escaped<'a>(&'a mut Vec<u8>);

        impl fmt::Write for Escaped<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                escape(text, self.0);
                Ok(())
            }
        }

        self.out.push(b'"');
        write!(Escaped(self.out), "{value}").map_err(|error| EncodeError::Custom(error.to_string()))?;
        self.out.push(b'"');
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), EncodeError> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<(), EncodeError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), EncodeError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), EncodeError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.begin(b'{');
        write_str(variant, self.out);
        self.out.push(b':');
        value.serialize(&mut *self)?;
        self.end(b'}');
        Ok(())
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Array<'a, 'b>, EncodeError> {
        self.begin(b'[');
        Ok(Array { encoder: self, wrapped: false })
    }

    fn serialize_tuple(self, len: usize) -> Result<Array<'a, 'b>, EncodeError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Array<'a, 'b>, EncodeError> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Array<'a, 'b>, EncodeError> {
        self.begin(b'{');
        write_str(variant, self.out);
        self.out.extend_from_slice(b":[");
        Ok(Array { encoder: self, wrapped: true })
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Object<'a, 'b>, EncodeError> {
        self.begin(b'{');
        Ok(Object::new(self, false))
    }

    fn serialize_struct(self, _name: &'static str, len: usize) -> Result<Object<'a, 'b>, EncodeError> {
        self.serialize_map(Some(len))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _len: usize,
    ) -> Result<Object<'a, 'b>, EncodeError> {
        self.begin(b'{');
        write_str(variant, self.out);
        self.out.extend_from_slice(b":{");
        Ok(Object::new(self, true))
    }
}

struct Array<'a, 'b> {
    encoder: &'a mut Encoder<'b>,
    /// Inside `{"variant":…}`.
    wrapped: bool,
}

impl Array<'_, '_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(&mut *self.encoder)?;
        self.encoder.out.push(b',');
        Ok(())
    }

    fn finish(self) {
        self.encoder.end(b']');
        if self.wrapped {
            self.encoder.end(b'}');
        }
    }
}

macro_rules! array {
    ($port:ident, $method:ident) => {
        impl $port for Array<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.element(value)
            }

            fn end(self) -> Result<(), EncodeError> {
                self.finish();
                Ok(())
            }
        }
    };
}

array!(SerializeSeq, serialize_element);
array!(SerializeTuple, serialize_element);
array!(SerializeTupleStruct, serialize_field);
array!(SerializeTupleVariant, serialize_field);

struct Object<'a, 'b> {
    encoder: &'a mut Encoder<'b>,
    /// Inside `{"variant":…}`.
    wrapped: bool,
    /// Its first member among the encoder's.
    first: usize,
    /// Where its members begin in `out`.
    start: usize,
    /// The name that waits for its value.
    name: Range<usize>,
}

impl<'a, 'b> Object<'a, 'b> {
    /// Its bracket is written.
    fn new(encoder: &'a mut Encoder<'b>, wrapped: bool) -> Self {
        let (first, start) = (encoder.members.len(), encoder.out.len());
        Self { encoder, wrapped, first, start, name: start..start }
    }

    fn name(
        &mut self,
        write: impl FnOnce(&mut Encoder<'b>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let begin = self.encoder.out.len();
        write(self.encoder)?;
        let end = self.encoder.out.len();
        if self.encoder.out.get(begin) != Some(&b'"') {
            let got = String::from_utf8_lossy(self.encoder.out.get(begin..).unwrap_or_default()).into_owned();
            return Err(EncodeError::Member(got));
        }
        // Without its quotes.
        self.name = begin + 1..end - 1;
        self.encoder.out.push(b':');
        Ok(())
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(&mut *self.encoder)?;
        self.encoder.out.push(b',');
        let whole = self.name.start - 1..self.encoder.out.len();
        self.encoder.members.push(Member { name: self.name.clone(), whole });
        Ok(())
    }

    fn finish(self) -> Result<(), EncodeError> {
        self.encoder.sort(self.first, self.start)?;
        self.encoder.end(b'}');
        if self.wrapped {
            self.encoder.end(b'}');
        }
        Ok(())
    }
}

impl SerializeMap for Object<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        self.name(|encoder| key.serialize(encoder))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        self.value(value)
    }

    fn end(self) -> Result<(), EncodeError> {
        self.finish()
    }
}

macro_rules! object {
    ($port:ident) => {
        impl $port for Object<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                self.name(|encoder| {
                    write_str(name, encoder.out);
                    Ok(())
                })?;
                self.value(value)
            }

            fn end(self) -> Result<(), EncodeError> {
                self.finish()
            }
        }
    };
}

object!(SerializeStruct);
object!(SerializeStructVariant);
