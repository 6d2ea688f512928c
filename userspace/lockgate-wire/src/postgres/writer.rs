//! Appends one message to a buffer and fills in its length at the end.

use super::error::WireError;
use super::value::{Format, PgString};
use bytes::{BufMut, BytesMut};

/// A message under construction. If a field cannot be encoded, `finish` reports it and the buffer is as it was before.
pub(super) struct Writer<'a> {
    out: &'a mut BytesMut,
    /// Where the message begins (its type byte, if it has one).
    start: usize,
    /// Where its length field lies.
    length_at: usize,
    fault: Option<WireError>,
}

impl<'a> Writer<'a> {
    /// Begins a message with a type byte.
    pub(super) fn tagged(out: &'a mut BytesMut, tag: u8) -> Self {
        let start = out.len();
        out.put_u8(tag);
        Self::at(out, start)
    }

    /// Begins a startup-family packet, which has no type byte.
    pub(super) fn untagged(out: &'a mut BytesMut) -> Self {
        let start = out.len();
        Self::at(out, start)
    }

    fn at(out: &'a mut BytesMut, start: usize) -> Self {
        let length_at = out.len();
        out.put_u32(0);
        Writer { out, start, length_at, fault: None }
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.put(|out| out.put_u8(value));
        self
    }

    pub(super) fn u16(mut self, value: u16) -> Self {
        self.put(|out| out.put_u16(value));
        self
    }

    pub(super) fn i16(mut self, value: i16) -> Self {
        self.put(|out| out.put_i16(value));
        self
    }

    pub(super) fn i32(mut self, value: i32) -> Self {
        self.put(|out| out.put_i32(value));
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.put(|out| out.put_u32(value));
        self
    }

    pub(super) fn raw(mut self, bytes: &[u8]) -> Self {
        self.put(|out| out.put_slice(bytes));
        self
    }

    pub(super) fn string(self, text: &PgString) -> Self {
        self.raw(text.as_bytes()).u8(0)
    }

    pub(super) fn count(mut self, what: &'static str, count: usize) -> Self {
        match u16::try_from(count) {
            Ok(count) => self.u16(count),
            Err(_) => {
                self.fault.get_or_insert(WireError::TooMany {
                    what,
                    limit: usize::from(u16::MAX),
                    got: count,
                });
                self
            }
        }
    }

    pub(super) fn formats(self, what: &'static str, formats: &[Format]) -> Self {
        formats.iter().fold(self.count(what, formats.len()), |w, f| w.u16(f.code()))
    }

    pub(super) fn value(mut self, what: &'static str, value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return self.i32(-1) };
        match i32::try_from(value.len()) {
            Ok(len) => self.i32(len).raw(value),
            Err(_) => {
                self.fault.get_or_insert(too_long(what, value.len()));
                self
            }
        }
    }

    pub(super) fn each<T>(self, items: &[T], write: impl Fn(Self, &T) -> Self) -> Self {
        items.iter().fold(self, write)
    }

    pub(super) fn finish(mut self) -> Result<(), WireError> {
        let length = self.out.len() - self.length_at;
        match i32::try_from(length) {
            Ok(length) => {
                if let Some(field) = self.out.get_mut(self.length_at..self.length_at + 4) {
                    field.copy_from_slice(&length.to_be_bytes());
                }
            }
            Err(_) => {
                self.fault.get_or_insert(too_long("message", length));
            }
        }
        match self.fault.take() {
            None => Ok(()),
            Some(fault) => {
                self.out.truncate(self.start);
                Err(fault)
            }
        }
    }

    /// After a fault the message is dropped anyway: stop growing it.
    fn put(&mut self, write: impl FnOnce(&mut BytesMut)) {
        if self.fault.is_none() {
            write(self.out);
        }
    }
}

fn too_long(what: &'static str, got: usize) -> WireError {
    WireError::LengthTooLarge { what, limit: i32::MAX as usize, got }
}
