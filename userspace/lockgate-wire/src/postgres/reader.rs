//! The one cursor over a message body. Every take is checked; slices share the read buffer.

use super::error::WireError;
use super::value::{Format, PgString};
use bytes::{Buf, Bytes};

/// Length that stands for SQL NULL in value lists (§55.7, Bind and DataRow).
const NULL_LENGTH: i32 = -1;

pub(super) struct Reader {
    /// The message's name, for errors about the message as a whole.
    message: &'static str,
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(message: &'static str, body: Bytes) -> Self {
        Reader { message, rest: body }
    }

    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn take(&mut self, what: &'static str, len: usize) -> Result<Bytes, WireError> {
        self.require(what, len)?;
        Ok(self.rest.split_to(len))
    }

    /// Everything that is left; the message then has no further fields.
    pub(super) fn take_rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.require(what, 1)?;
        Ok(self.rest.get_u8())
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.require(what, 2)?;
        Ok(self.rest.get_u16())
    }

    pub(super) fn i16(&mut self, what: &'static str) -> Result<i16, WireError> {
        self.require(what, 2)?;
        Ok(self.rest.get_i16())
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, WireError> {
        self.require(what, 4)?;
        Ok(self.rest.get_i32())
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.require(what, 4)?;
        Ok(self.rest.get_u32())
    }

    pub(super) fn string(&mut self, what: &'static str) -> Result<PgString, WireError> {
        let end = self.rest.iter().position(|b| *b == 0).ok_or(WireError::MissingNul { what })?;
        let text = self.rest.split_to(end);
        self.rest.advance(1);
        Ok(PgString::split_at_nul(text))
    }

    /// A count of items, each of at least `item_len` bytes: a count that cannot fit is refused before anything is
    /// allocated for it. Counts are unsigned: the server reads them so, and 65,535 parameters are legal.
    pub(super) fn count(&mut self, what: &'static str, item_len: usize) -> Result<usize, WireError> {
        let count = usize::from(self.u16(what)?);
        self.require(what, count * item_len)?;
        Ok(count)
    }

    pub(super) fn formats(&mut self, what: &'static str) -> Result<Vec<Format>, WireError> {
        let count = self.count(what, 2)?;
        (0..count).map(|_| Format::from_code(what, self.u16(what)?)).collect()
    }

    /// A value with its length before it; -1 is NULL and other negative lengths are errors.
    pub(super) fn value(&mut self, what: &'static str) -> Result<Option<Bytes>, WireError> {
        match self.i32(what)? {
            NULL_LENGTH => Ok(None),
            len => match usize::try_from(len) {
                Ok(len) => self.take(what, len).map(Some),
                Err(_) => Err(WireError::LengthTooSmall { what, minimum: 0, got: i64::from(len) }),
            },
        }
    }

    pub(super) fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::TrailingBytes { what: self.message, extra }),
        }
    }

    fn require(&self, what: &'static str, len: usize) -> Result<(), WireError> {
        if self.rest.len() < len {
            return Err(WireError::Truncated { what, expected: len, got: self.rest.len() });
        }
        Ok(())
    }
}
