//! Undoing the content codings that masks can see through: gzip and deflate, as a stream.

use flate2::write::{MultiGzDecoder, ZlibDecoder};
use std::io::Write as _;

/// Input that is inflated at once: deflate packs a thousand to one, so this bounds what one step makes.
const STEP: usize = 1024;

/// A content coding (RFC 9110 §8.4.1) that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// None.
    Identity,
    /// gzip.
    Gzip,
    /// deflate, in the zlib format.
    Deflate,
}

impl Coding {
    /// What is offered to origins of masked resources.
    pub const ACCEPTED: &'static str = "gzip, deflate";

    /// By the value of Content-Encoding. None: a coding, or a chain of them, that cannot be undone.
    pub fn of(value: Option<&str>) -> Option<Self> {
        match value.map(|value| value.trim().to_ascii_lowercase()).as_deref() {
            None | Some("" | "identity") => Some(Self::Identity),
            Some("gzip" | "x-gzip") => Some(Self::Gzip),
            Some("deflate") => Some(Self::Deflate),
            Some(_) => None,
        }
    }
}

/// Undoes a coding piece by piece.
#[derive(Debug)]
pub struct Decoder(Inner);

#[derive(Debug)]
enum Inner {
    Identity,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Deflate(Box<ZlibDecoder<Vec<u8>>>),
}

impl Decoder {
    /// For a coding.
    pub fn new(coding: Coding) -> Self {
        Self(match coding {
            Coding::Identity => Inner::Identity,
            Coding::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Coding::Deflate => Inner::Deflate(Box::new(ZlibDecoder::new(Vec::new()))),
        })
    }

    /// Takes some input off the front of `input`; answers what it meant.
    ///
    /// # Errors
    /// When it is not of that coding.
    pub fn step(&mut self, input: &mut &[u8]) -> Result<Vec<u8>, std::io::Error> {
        let piece = |input: &mut &[u8], most: usize| {
            let (piece, rest) = input.split_at(most.min(input.len()));
            *input = rest;
            piece.to_vec()
        };
        match &mut self.0 {
            Inner::Identity => Ok(piece(input, usize::MAX)),
            Inner::Gzip(decoder) => {
                decoder.write_all(&piece(input, STEP))?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
            Inner::Deflate(decoder) => {
                decoder.write_all(&piece(input, STEP))?;
                decoder.flush()?;
                Ok(std::mem::take(decoder.get_mut()))
            }
        }
    }

    /// The end of the input.
    ///
    /// # Errors
    /// When it ends too early.
    pub fn finish(self) -> Result<Vec<u8>, std::io::Error> {
        match self.0 {
            Inner::Identity => Ok(Vec::new()),
            Inner::Gzip(decoder) => decoder.finish(),
            Inner::Deflate(decoder) => decoder.finish(),
        }
    }
}
